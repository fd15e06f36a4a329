//! Kill -9 of stores and server, again and again, under load: what was acknowledged is in every store, once and in order.
//!
//! ```text
//!  agents, an HTTP client ──▶ telemetryx ──┬──▶ events.db          (dies with the server)
//!                                          ├──▶ PostgreSQL
//!     each of them is killed               ├──▶ Redis, or a Redis Cluster
//!     and started again                    ├──▶ a Python service that looks at positions
//!                                          └──▶ a Python service that does not: at least once
//! ```
//!
//! A short form is part of `cargo test`; `make torture` runs 50 rounds. Both print their seed and the ledgers.
#![cfg(all(feature = "sqlite", feature = "postgres", feature = "redis", feature = "grpc"))]

mod support;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use support::http::{self, get};
use support::ledger::Ledger;
use support::load::{Load, Plan};
use support::server::{Server, own_address, wait_until};
use support::stores::{Postgres, Receiver, Redis, RedisCluster};
use support::{rows, seed};
use telemetryx::random::Random;
use telemetryx::wire::AckLevel::{Delivered, Synced};

/// The log is made and deleted all the time, and is read again by whoever was away.
const SMALL_SEGMENTS: [&str; 3] = ["wal.segment_bytes=64KiB", "wal.max_bytes=4MiB", "wal.keep=0s"];
/// As docs/operations.md says for a PostgreSQL and a Redis that keep what they acknowledged.
const DURABLE_POSTGRES: [&str; 3] = ["fsync=on", "synchronous_commit=on", "full_page_writes=on"];
const DURABLE_REDIS: [&str; 6] = ["--appendonly", "yes", "--appendfsync", "always", "--aof-load-truncated", "no"];
/// For everything to work again, and to be stored at the end: a sink waits up to 30 s before another attempt.
const PATIENCE: Duration = Duration::from_secs(120);

/// `TELEMETRYX_TORTURE_ROUNDS`, else a few.
fn rounds(few: u64) -> u64 {
    std::env::var("TELEMETRYX_TORTURE_ROUNDS").map_or(few, |rounds| rounds.parse().expect("a number of rounds"))
}

/// At most some 2,000 events a second: five stores share a small machine, and what was missed is to be made up for soon.
fn gentle(plan: Plan) -> Plan {
    let pause_max = Duration::from_millis(4 * plan.agents.len() as u64);
    Plan { posters: vec![Synced], frame_events_max: 8, pause_max, ..plan }
}

fn all_sinks_are_ok(address: SocketAddr) -> bool {
    let (status, page) = get(address, "/ready");
    assert!(status == 200 || page.contains("log_full"), "{status} {page}");
    let page: serde_json::Value = serde_json::from_str(&page).unwrap();
    page["sinks"].as_object().unwrap().values().all(|state| state == "ok")
}

/// Everything that was acknowledged is delivered, and the server ends in order. Nothing was refused.
fn settle(mut server: Server, load: Load, data_dir: &Path) -> Ledger {
    let ledger = load.finish(PATIENCE);
    // Answered when every sink has passed it, and so all before it.
    let delivered = wait_until(PATIENCE, || {
        let fresh = r#"{"name":"fresh"}"#;
        matches!(http::post(server.address(), "?ack=delivered", fresh), Ok((200, _)))
    });
    assert!(delivered, "not everything arrives: {}\n{}", get(server.address(), "/ready").1, server.log());
    server.terminate();
    assert!(server.wait(PATIENCE).success(), "{}", server.log());
    let letters: Vec<_> = fs::read_dir(data_dir.join("dead")).into_iter().flatten().collect();
    assert!(letters.is_empty(), "{letters:?}");
    ledger
}

/// All that can be killed. Its numbers are the indices of [`NAMES`].
struct Cast {
    data_dir: tempfile::TempDir,
    settings: Vec<String>,
    server: Option<Server>,
    postgres: Postgres,
    redis: Redis,
    checking: Receiver,
    counting: Receiver,
}

const NAMES: [&str; 5] = ["telemetryx", "PostgreSQL", "Redis", "the service that checks", "the service that counts"];

impl Cast {
    fn start(address: SocketAddr) -> Self {
        let postgres = Postgres::start(&DURABLE_POSTGRES);
        let redis = Redis::start(&DURABLE_REDIS);
        let (checking, counting) = (Receiver::start(&[]), Receiver::start(&["--unchecked"]));
        let mut settings: Vec<String> = SMALL_SEGMENTS.map(str::to_owned).into();
        settings.push(format!("server.address={address}"));
        settings.push("sinks.sqlite.kind=sqlite".to_owned());
        for (name, kind, url) in [
            ("pg", "postgres", postgres.url("postgres")),
            ("redis", "redis", redis.url()),
            ("checking", "grpc", checking.url()),
            ("counting", "grpc", counting.url()),
        ] {
            settings.push(format!("sinks.{name}.kind={kind}"));
            settings.push(format!("sinks.{name}.url={url}"));
        }
        let data_dir = tempfile::tempdir().unwrap();
        let mut cast = Self { data_dir, settings, server: None, postgres, redis, checking, counting };
        cast.go_on(0);
        cast
    }

    fn kill(&mut self, number: usize) {
        match number {
            0 => self.server.take().expect("it runs").kill(),
            1 => self.postgres.kill(),
            2 => self.redis.kill(),
            3 => self.checking.kill(),
            _ => self.counting.kill(),
        }
    }

    fn go_on(&mut self, number: usize) {
        match number {
            0 => {
                let settings: Vec<&str> = self.settings.iter().map(String::as_str).collect();
                self.server = Some(Server::start(self.data_dir.path(), &settings));
            }
            1 => self.postgres.go_on(&DURABLE_POSTGRES),
            2 => self.redis.go_on(),
            3 => self.checking.go_on(),
            _ => self.counting.go_on(),
        }
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("it runs")
    }
}

fn shuffle<T>(items: &mut [T], random: &mut Random) {
    for last in (1..items.len()).rev() {
        items.swap(last, random.next_u64() as usize % (last + 1));
    }
}

#[test]
fn stores_and_server_killed_at_random_under_load_lose_and_double_nothing() {
    let (seed, rounds) = (seed(), rounds(4));
    let mut random = Random::seeded(seed);
    let address = own_address();
    let mut cast = Cast::start(address);
    let agents = vec![Synced, Delivered, Synced, Synced, Delivered, Synced, Synced, Synced];
    let load = Load::start(address, &gentle(Plan { agents, ..Plan::mixed(seed) }));
    let started = Instant::now();
    let mut kills = [0; NAMES.len()];
    for round in 0..rounds {
        load.wait_for_acknowledged(200, PATIENCE);
        std::thread::sleep(random.below(Duration::from_millis(150)));
        // All of them at first; then whom it hits.
        let mut victims: Vec<usize> =
            (0..NAMES.len()).filter(|_| round == 0 || random.next_u64().is_multiple_of(2)).collect();
        shuffle(&mut victims, &mut random);
        for &victim in &victims {
            cast.kill(victim);
            kills[victim] += 1;
            std::thread::sleep(random.below(Duration::from_millis(100)));
        }
        shuffle(&mut victims, &mut random);
        for &victim in &victims {
            cast.go_on(victim);
        }
        // Nobody is killed while nothing is being delivered.
        let well = wait_until(PATIENCE, || all_sinks_are_ok(address));
        assert!(well, "{}\n{}", get(address, "/ready").1, cast.server().log());
    }
    let server = cast.server.take().expect("it runs");
    let ledger = settle(server, load, cast.data_dir.path());
    println!(
        "seed {seed}: {rounds} rounds in {:?}; kills: {:?}",
        started.elapsed(),
        NAMES.iter().zip(kills).collect::<Vec<_>>()
    );
    let outcomes = [
        ("SQLite", ledger.compare_sqlite(&cast.data_dir.path().join("events.db"))),
        ("PostgreSQL", ledger.compare(rows::of_postgres(&cast.postgres, "postgres"))),
        ("Redis", ledger.compare(rows::of_redis(&cast.redis, "events:{0}"))),
        ("the service that checks", ledger.compare_sqlite(&cast.checking.database())),
        ("the service that counts", ledger.compare_sqlite(&cast.counting.database())),
    ];
    outcomes.iter().for_each(|(store, outcome)| println!("{store}: {outcome}"));
    for (store, outcome) in &outcomes {
        match *store {
            "the service that counts" => outcome.assert_at_least_once(),
            _ => outcome.assert_clean(),
        }
    }
    assert!(outcomes[0].1.acknowledged >= 150 * rounds);
}

#[test]
fn masters_of_a_cluster_killed_under_load_lose_and_double_nothing_and_keep_each_shard_in_order() {
    let (seed, rounds) = (seed(), rounds(2));
    let mut random = Random::seeded(seed);
    let address = own_address();
    let mut cluster = RedisCluster::start(&[&DURABLE_REDIS[..], &["--cluster-node-timeout", "2000"]].concat());
    let data_dir = tempfile::tempdir().unwrap();
    let (at, urls) = (format!("server.address={address}"), format!("sinks.redis.urls={}", cluster.urls()));
    let settings = [&SMALL_SEGMENTS[..], &[&at, "sinks.redis.kind=redis", &urls]].concat();
    let mut server = Server::start(data_dir.path(), &settings);
    // So many that each shard is somebody's.
    let agents = (0..32).map(|index| if index % 4 == 3 { Delivered } else { Synced }).collect();
    let load = Load::start(address, &gentle(Plan { agents, ..Plan::mixed(seed) }));
    let started = Instant::now();
    let mut kills = [0; 3];
    for _ in 0..rounds {
        load.wait_for_acknowledged(500, PATIENCE);
        std::thread::sleep(random.below(Duration::from_millis(150)));
        let victim = random.next_u64() as usize % cluster.nodes.len();
        cluster.nodes[victim].kill();
        kills[victim] += 1;
        // Now and then the others notice (cluster-node-timeout, 2 s), and all shards are down.
        std::thread::sleep(random.below(Duration::from_secs(3)));
        if random.next_u64().is_multiple_of(4) {
            server.kill();
            server = Server::start(data_dir.path(), &settings);
        }
        cluster.nodes[victim].go_on();
        let well = wait_until(PATIENCE, || all_sinks_are_ok(address));
        assert!(well, "{}\n{}", get(address, "/ready").1, server.log());
    }
    let ledger = settle(server, load, data_dir.path());
    println!("seed {seed}: {rounds} rounds in {:?}; kills by master: {kills:?}", started.elapsed());
    let of_shard = |shard: usize| {
        let stream = format!("events:{{{shard}}}");
        let rows = rows::of_redis(cluster.node_of(&stream), &stream);
        assert!(!rows.is_empty(), "shard {shard} has no events");
        rows
    };
    let outcome = ledger.compare((0..16).flat_map(of_shard));
    println!("16 shards: {outcome}");
    outcome.assert_clean();
    assert!(outcome.acknowledged >= 400 * rounds);
}
