//! Aggregated counters and gauges: exact in every store while stores and server are killed again and again, few rows, and
//! memory of the series only.
//!
//! ```text
//!  agents ──▶ telemetryx, windows of 2 s ──┬──▶ events.db, whose table refuses some rows when it commits
//!     each of them is killed               ├──▶ PostgreSQL, as well
//!     and started again                    └──▶ Redis, four shards
//! ```
//!
//! A short form is part of `cargo test`; `make torture` goes on for a minute. Both print their seed.
#![cfg(all(feature = "postgres", feature = "redis"))]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::support::cast::Cast;
use crate::support::http::{self, get};
use crate::support::ledger::{self, Ledger};
use crate::support::load::{Load, Plan};
use crate::support::seed;
use crate::support::server::{Server, own_address, resident_bytes, wait_until};
use crate::support::stores::{Postgres, Redis};
use serde_json::Value;
use telemetryx::event::EventKind;
use telemetryx::event::proto::Event;
use telemetryx::random::Random;
use telemetryx::wire::AckLevel::Synced;

const PATIENCE: Duration = Duration::from_secs(120);
const SHARDS: usize = 4;
/// The name of counters that SQLite and PostgreSQL refuse.
const POISON: &str = "poison";

/// `name`, else `usual`.
fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |number| number.parse().expect("a number"))
}

/// Three counters and two gauges of each agent; those of the first one are now and then refused.
fn metric(_: u64, sender: &str, number: u64) -> Event {
    let (kind, name, value) = match number % 5 {
        _ if sender == "agent-0" && number.is_multiple_of(7) => (EventKind::Counter, POISON.to_owned(), number % 10),
        index @ 0..3 => (EventKind::Counter, format!("c{index}"), number % 1_000),
        index => (EventKind::Gauge, format!("g{index}"), number * 7_919 % 10_007),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    Event {
        time_unix_nano: now,
        kind: kind.into(),
        source: sender.to_owned(),
        name,
        value: Some(value as f64),
        ..Event::default()
    }
}

/// Of a series over all intervals.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Totals {
    sum: f64,
    count: u64,
    min: f64,
    max: f64,
}

/// By source and name.
type Series = BTreeMap<(String, String), Totals>;

fn add(series: &mut Series, source: &str, name: &str, other: Totals) {
    let key = (source.to_owned(), name.to_owned());
    let totals = series.entry(key).or_insert(Totals { sum: 0.0, count: 0, min: f64::INFINITY, max: f64::NEG_INFINITY });
    *totals = Totals {
        sum: totals.sum + other.sum,
        count: totals.count + other.count,
        min: totals.min.min(other.min),
        max: totals.max.max(other.max),
    };
}

/// What was sent. The sum of gauges is not kept in rows: it counts as 0.
fn sent(ledger: &Ledger) -> Series {
    let mut series = Series::new();
    for sender in &ledger.senders {
        for number in 1..=sender.events {
            let event = metric(0, &sender.name, number);
            let value = event.value.unwrap();
            let totals = match event.kind() {
                EventKind::Gauge => Totals { sum: 0.0, count: 1, min: value, max: value },
                _ => Totals { sum: value, count: 1, min: 0.0, max: 0.0 },
            };
            add(&mut series, &sender.name, &event.name, totals);
        }
    }
    series
}

/// A row of a store.
fn add_row(series: &mut Series, source: &str, name: &str, value: f64, attributes: &str) {
    let attributes: Value = serde_json::from_str(attributes).unwrap();
    let number = |key: &str| attributes[key].as_f64().unwrap_or_else(|| panic!("no {key}: {attributes}"));
    let count = attributes["count"].as_u64().unwrap();
    let totals = match name.starts_with('g') {
        true => Totals { sum: 0.0, count, min: number("min"), max: number("max") },
        false => Totals { sum: value, count, min: 0.0, max: 0.0 },
    };
    assert_eq!(attributes["interval"], "2s");
    add(series, source, name, totals);
}

fn of_sqlite(path: &Path) -> Series {
    let mut series = Series::new();
    let database = ledger::open(path);
    let mut rows =
        database.prepare("SELECT source, name, value, attributes FROM events WHERE name <> 'fresh'").unwrap();
    let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))).unwrap();
    for row in rows {
        let (source, name, value, attributes): (String, String, f64, String) = row.unwrap();
        add_row(&mut series, &source, &name, value, &attributes);
    }
    series
}

fn of_postgres(postgres: &Postgres) -> Series {
    let mut series = Series::new();
    let sql = "SELECT source, name, value, attributes FROM events WHERE name <> 'fresh'";
    for line in postgres.psql("postgres", sql).unwrap().lines() {
        let [source, name, value, attributes] = line.split('|').collect::<Vec<_>>()[..] else { panic!("{line}") };
        add_row(&mut series, source, name, value.parse().unwrap(), attributes);
    }
    series
}

/// Entries of all shards: stream, source, name, time, value and attributes.
fn entries(redis: &Redis) -> Vec<BTreeMap<String, String>> {
    let mut all = Vec::new();
    for shard in 0..SHARDS {
        let text = redis.cli(&["--json", "xrange", &format!("events:{{{shard}}}"), "-", "+"]);
        let Ok(Value::Array(entries)) = serde_json::from_str(&text) else { panic!("{shard}: {text}") };
        let mut before = 0;
        for entry in entries {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let fields = entry[1].as_array().unwrap().chunks(2).map(|pair| (text(&pair[0]), text(&pair[1])));
            let fields: BTreeMap<String, String> = fields.collect();
            let position: u64 = fields["position"].parse().unwrap();
            assert!(position > before, "shard {shard}: position {position} after {before}");
            before = position;
            if fields["name"] != "fresh" {
                all.push(fields);
            }
        }
    }
    all
}

fn of_redis(redis: &Redis) -> Series {
    let mut series = Series::new();
    for entry in entries(redis) {
        add_row(&mut series, &entry["source"], &entry["name"], entry["value"].parse().unwrap(), &entry["attributes"]);
    }
    series
}

/// Names that the tables of events may have: their key is looked at when a transaction commits, which names no row.
const ALLOWED: &str = "CREATE TABLE allowed (name TEXT PRIMARY KEY); \
                       INSERT INTO allowed VALUES ('c0'), ('c1'), ('c2'), ('g3'), ('g4'), ('fresh');";

fn create_refusing_table(database: &Path) {
    let create = "CREATE TABLE events (server_id TEXT NOT NULL, position INTEGER NOT NULL, received_at TEXT NOT NULL, \
                  time TEXT NOT NULL, kind TEXT NOT NULL, severity INTEGER, source TEXT, \
                  name TEXT REFERENCES allowed (name) DEFERRABLE INITIALLY DEFERRED, body TEXT, value REAL, \
                  duration_nano INTEGER, trace_id TEXT, span_id TEXT, parent_span_id TEXT, agent TEXT, attributes TEXT, \
                  PRIMARY KEY (server_id, position)) WITHOUT ROWID;";
    let sqlite = rusqlite::Connection::open(database).unwrap();
    sqlite.execute_batch(&format!("{ALLOWED} {create}")).unwrap();
}

/// Gives the table that the sink has created such a key.
fn make_refuse(postgres: &Postgres) {
    postgres.psql("postgres", ALLOWED).unwrap();
    let key = "ALTER TABLE events ADD FOREIGN KEY (name) REFERENCES allowed (name) DEFERRABLE INITIALLY DEFERRED";
    let created = wait_until(PATIENCE, || postgres.psql("postgres", key).is_ok());
    assert!(created, "{:?}", postgres.psql("postgres", key));
}

fn start(address: SocketAddr) -> Cast {
    let mut cast = Cast::new(address, &[]);
    cast.set(["wal.segment_bytes=64KiB", "wal.max_bytes=64MiB", "wal.keep=0s"]);
    cast.set([format!("sinks.redis.shards={SHARDS}")]);
    for sink in ["sqlite", "pg", "redis"] {
        cast.set([
            format!("sinks.{sink}.aggregate.interval=2s"),
            format!("sinks.{sink}.aggregate.gauges=[\"last\", \"min\", \"max\"]"),
        ]);
    }
    create_refusing_table(&cast.data_dir().join("events.db"));
    cast.start_again(0);
    make_refuse(&cast.postgres);
    cast
}

/// Everything that was acknowledged is delivered, and the server ends in order.
fn settle(mut server: Server, load: Load) -> Ledger {
    let ledger = load.finish(PATIENCE);
    let delivered = wait_until(PATIENCE, || {
        matches!(http::post(server.address(), "?ack=delivered", r#"{"name":"fresh"}"#), Ok((200, _)))
    });
    assert!(delivered, "not everything arrives: {}\n{}", get(server.address(), "/ready").1, server.log());
    server.terminate();
    assert!(server.wait(PATIENCE).success(), "{}", server.log());
    ledger
}

/// Sum and events of the rows that a sink refused.
fn dead(data_dir: &Path, sink: &str) -> (f64, u64) {
    let text = std::fs::read_to_string(data_dir.join(format!("dead/{sink}.ndjson"))).unwrap_or_default();
    let letters = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    letters.fold((0.0, 0), |(sum, count), letter| {
        let event = &letter["event"];
        assert_eq!(event["name"], POISON, "{letter}");
        (sum + event["value"].as_f64().unwrap(), count + event["attributes"]["count"].as_u64().unwrap())
    })
}

#[test]
fn sums_are_exact_in_every_store_while_stores_and_server_are_killed() {
    let (seed, time) = (seed(), Duration::from_secs(number("TELEMETRYX_WINDOW_SECONDS", 12)));
    let mut random = Random::seeded(seed);
    let address = own_address();
    let mut cast = start(address);
    let plan = Plan {
        agents: vec![Synced; 6],
        posters: vec![],
        frame_events_max: 40,
        pause_max: Duration::from_millis(20),
        event: metric,
        ..Plan::mixed(seed)
    };
    let load = Load::start(address, &plan);
    let started = Instant::now();
    let mut kills = [0; 3];
    while started.elapsed() < time {
        load.wait_for_acknowledged(100, PATIENCE);
        std::thread::sleep(random.below(Duration::from_millis(2_500)));
        let mut victims: Vec<usize> = (0..3).filter(|_| random.next_u64().is_multiple_of(2)).collect();
        if random.next_u64().is_multiple_of(2) {
            victims.reverse();
        }
        for &victim in &victims {
            cast.kill(victim);
            kills[victim] += 1;
            std::thread::sleep(random.below(Duration::from_millis(200)));
        }
        victims.reverse();
        victims.iter().for_each(|victim| cast.start_again(*victim));
    }
    let ledger = settle(cast.server.take().expect("it runs"), load);
    println!(
        "seed {seed}: {} events in {:?}; kills of server, PostgreSQL, Redis: {kills:?}",
        ledger.events(),
        started.elapsed()
    );
    let expected = sent(&ledger);
    let poison = ("agent-0".to_owned(), POISON.to_owned());
    let without_poison: Series =
        expected.iter().filter(|(key, _)| **key != poison).map(|(key, totals)| (key.clone(), *totals)).collect();
    let data_dir = cast.data_dir();
    assert_eq!(of_redis(&cast.redis), expected, "Redis");
    assert_eq!(of_sqlite(&data_dir.join("events.db")), without_poison, "SQLite");
    assert_eq!(of_postgres(&cast.postgres), without_poison, "PostgreSQL");
    for sink in ["sqlite", "pg"] {
        let (sum, count) = dead(data_dir, sink);
        let Totals { sum: sent, count: events, .. } = expected[&poison];
        // A kill between a dead letter and the commit that follows it repeats the letter.
        assert!(sum >= sent && count >= events, "{sink}: {count} events are dead, {events} were sent");
    }
}

#[test]
fn few_rows_of_each_series_and_interval_reach_redis() {
    let redis = Redis::start(&[]);
    let data_dir = tempfile::tempdir().unwrap();
    let url = format!("sinks.redis.url={}", redis.url());
    let shards = format!("sinks.redis.shards={SHARDS}");
    let interval = format!("sinks.redis.aggregate.interval={}s", number("TELEMETRYX_WINDOW_INTERVAL_SECONDS", 2));
    let settings = ["sinks.redis.kind=redis", &url, &shards, &interval];
    let server = Server::start(data_dir.path(), &settings);
    let plan = Plan {
        agents: vec![Synced; 2],
        posters: vec![],
        frame_events_max: 1_000,
        pause_max: Duration::from_millis(10),
        event: metric,
        ..Plan::mixed(seed())
    };
    let load = Load::start(server.address(), &plan);
    let time = Duration::from_secs(number("TELEMETRYX_WINDOW_SECONDS", 7));
    std::thread::sleep(time);
    let ledger = settle(server, load);
    let mut rows: BTreeMap<(String, String, String), u64> = BTreeMap::new();
    let mut counted = 0;
    for entry in entries(&redis) {
        let attributes: Value = serde_json::from_str(&entry["attributes"]).unwrap();
        counted += attributes["count"].as_u64().unwrap();
        *rows.entry((entry["source"].clone(), entry["name"].clone(), entry["time"].clone())).or_default() += 1;
    }
    let most = rows.values().max().copied().unwrap_or_default();
    println!(
        "{} events in {time:?}, {} rows, at most {most} of a series and interval",
        ledger.events(),
        rows.values().sum::<u64>()
    );
    assert_eq!(counted, ledger.events());
    assert!(most <= 3, "{rows:#?}");
}

#[test]
fn memory_is_that_of_the_series_however_many_are_offered() {
    let data_dir = tempfile::tempdir().unwrap();
    let series = number("TELEMETRYX_SERIES", 100_000);
    let max = format!("sinks.out.aggregate.max_series={}", series / 100);
    let settings = [
        "sinks.out.kind=discard",
        "sinks.out.aggregate.interval=1h",
        &max,
        "wal.segment_bytes=1MiB",
        "wal.max_bytes=64MiB",
        "wal.keep=0s",
    ];
    let server = Server::start(data_dir.path(), &settings);
    let post = |range: std::ops::Range<u64>| {
        let mut body = String::new();
        for index in range {
            let attributes = format!(r#"{{"user":"user-{index:020}"}}"#);
            writeln!(body, r#"{{"kind":"counter","name":"n","value":1,"attributes":{attributes}}}"#).unwrap();
        }
        let head = "POST /v1/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/x-ndjson\r\n";
        let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        let accepted = wait_until(PATIENCE, || matches!(http::request(server.address(), &request), Ok((200, _))));
        assert!(accepted, "{}", server.log());
    };
    let step = 2_000;
    let mut at_first = 0;
    for first in (0..series).step_by(step as usize) {
        post(first..(first + step).min(series));
        if first <= series / 5 {
            at_first = resident_bytes(server.pid());
        }
    }
    let at_last = resident_bytes(server.pid());
    println!("{series} series: {} KiB after a fifth of them, {} KiB in the end", at_first / 1024, at_last / 1024);
    assert!(at_last < at_first + (16 << 20), "{at_first} bytes, then {at_last}");
}

/// How often the threads of a process have waited.
fn waits(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("status")).ok())
        .filter_map(|status| {
            status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?.trim().parse::<u64>().ok()
        })
        .sum()
}

#[test]
fn a_window_in_which_nothing_comes_wakes_no_thread() {
    let data_dir = tempfile::tempdir().unwrap();
    let server = Server::start(data_dir.path(), &["sinks.out.kind=discard", "sinks.out.aggregate.interval=1h"]);
    let counter = r#"{"kind":"counter","name":"n","value":1}"#;
    assert!(matches!(http::post(server.address(), "?ack=synced", counter), Ok((200, _))));
    let mut before = waits(server.pid());
    let time = Duration::from_secs(1);
    let few = wait_until(PATIENCE, || {
        std::thread::sleep(time);
        let now = waits(server.pid());
        // A look each millisecond would be a thousand.
        let few = now - before < 300;
        before = now;
        few
    });
    assert!(few, "{}", server.log());
}
