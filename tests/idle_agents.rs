//! Ten thousand agents that say nothing: what each costs, and whether a busy one notices them.
#![cfg(feature = "server")]

mod support;

use std::time::{Duration, Instant};

use support::agent::{RawAgent, batch, data, hello, log_line};
use support::http::metric;
use support::server::{Server, resident_bytes};

const IDLE: usize = 10_000;
/// Resident bytes that one idle agent may cost the server.
const BYTES_EACH_MAX: u64 = 4096;
const FRAMES: u64 = 2_000;

/// Sends frames one at a time; the 99th percentile of the time from sending one to its ACK.
fn ack_p99(agent: &mut RawAgent, next_seq: &mut u64) -> Duration {
    let payload = batch((0..10).map(log_line).collect());
    let mut times: Vec<Duration> = (0..FRAMES)
        .map(|_| {
            *next_seq += 1;
            let frame = data(*next_seq, &payload);
            let started = Instant::now();
            agent.send(&frame);
            agent.acknowledged(*next_seq);
            started.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

fn id(index: usize) -> [u8; 16] {
    let mut id = [1; 16];
    id[..8].copy_from_slice(&(index as u64).to_le_bytes());
    id
}

#[test]
fn ten_thousand_idle_agents_cost_little_memory_and_no_latency() {
    let directory = tempfile::tempdir().unwrap();
    let server =
        Server::start(directory.path(), &["sinks.discard.kind=discard", "wal.enabled=false", "server.event_loops=2"]);
    let (mut busy, _) = RawAgent::greeted(server.address(), hello(id(0), 0));
    let mut seq = 0;
    ack_p99(&mut busy, &mut seq);
    // The best of three: other work on the machine shows in single windows.
    let mut best_p99 = || (0..3).map(|_| ack_p99(&mut busy, &mut seq)).min().unwrap();
    let limit = |alone: Duration| (2 * alone).max(alone + Duration::from_millis(1));
    let alone = best_p99();

    let before = resident_bytes(server.pid());
    let started = Instant::now();
    let idle: Vec<RawAgent> =
        (1..=IDLE).map(|index| RawAgent::greeted(server.address(), hello(id(index), 0)).0).collect();
    let connected = started.elapsed();
    let [first, second] = ["0", "1"].map(|event_loop| {
        metric(server.address(), &format!("telemetryx_loop_connections{{loop=\"{event_loop}\"}}")).unwrap_or_default()
    });
    let each = resident_bytes(server.pid()).saturating_sub(before) / IDLE as u64;
    // What the idle agents cost, they cost all the time; other work passes.
    let beside = (0..10).map(|_| best_p99()).find(|beside| *beside <= limit(alone)).unwrap_or_else(&mut best_p99);
    assert_eq!(idle.len(), IDLE);
    drop(idle);
    let alone = alone.max(best_p99());

    println!(
        "{IDLE} idle agents within {connected:?}: {each} bytes each; ack p99 {alone:?} alone, {beside:?} beside them"
    );
    assert!(first.max(second) <= 1.2 * first.min(second), "{first} and {second} connections of the two loops");
    assert!(each <= BYTES_EACH_MAX, "{each} bytes an idle agent");
    assert!(beside <= limit(alone), "{alone:?} became {beside:?}");
}
