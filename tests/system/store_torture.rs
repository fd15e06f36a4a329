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
#![cfg(all(feature = "postgres", feature = "redis", feature = "grpc"))]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::cast::{Cast, DURABLE_REDIS};
use crate::support::http::{self, get};
use crate::support::ledger::Ledger;
use crate::support::load::{Load, Plan};
use crate::support::server::{Server, own_address, wait_until};
use crate::support::stores::{Receiver, RedisCluster};
use crate::support::{rows, seed};
use telemetryx::random::Random;
use telemetryx::wire::AckLevel::{Delivered, Synced};

/// The log is made and deleted all the time, and is read again by whoever was away.
const SMALL_SEGMENTS: [&str; 3] = ["wal.segment_bytes=64KiB", "wal.max_bytes=4MiB", "wal.keep=0s"];
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

/// All that can be killed, by its number.
const NAMES: [&str; 5] = ["telemetryx", "PostgreSQL", "Redis", "the service that checks", "the service that counts"];

fn start(address: SocketAddr) -> Cast {
    let mut cast = Cast::new(address, &[&[], &["--unchecked"]]);
    cast.set(SMALL_SEGMENTS);
    let urls: Vec<String> = cast.services.iter().map(Receiver::url).collect();
    for (name, url) in ["checking", "counting"].into_iter().zip(urls) {
        cast.set([format!("sinks.{name}.kind=grpc"), format!("sinks.{name}.url={url}")]);
    }
    cast.start_again(0);
    cast
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
    let mut cast = start(address);
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
            cast.start_again(victim);
        }
        // Nobody is killed while nothing is being delivered.
        let well = wait_until(PATIENCE, || all_sinks_are_ok(address));
        assert!(well, "{}\n{}", get(address, "/ready").1, cast.server().log());
    }
    let server = cast.server.take().expect("it runs");
    let ledger = settle(server, load, cast.data_dir());
    println!(
        "seed {seed}: {rounds} rounds in {:?}; kills: {:?}",
        started.elapsed(),
        NAMES.iter().zip(kills).collect::<Vec<_>>()
    );
    let outcomes = [
        ("SQLite", ledger.compare_sqlite(&cast.data_dir().join("events.db"))),
        ("PostgreSQL", ledger.compare(rows::of_postgres(&cast.postgres, "postgres"))),
        ("Redis", ledger.compare(rows::of_redis(&cast.redis, "events:{0}"))),
        ("the service that checks", ledger.compare_sqlite(&cast.services[0].database())),
        ("the service that counts", ledger.compare_sqlite(&cast.services[1].database())),
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
