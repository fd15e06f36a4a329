//! Routers that read from the log what they missed: a real log in a folder, real threads, the sink of [`super::tests`].

use std::time::Duration;

use tempfile::TempDir;

use super::tests::{MemorySink, PATIENCE, counted, settings};
use super::*;
use crate::batch::pool::Pool;
use crate::batch::{Origin, Payload, Run};
use crate::limits::POOL_PAGE_BYTES;
use crate::metrics::Metrics;
use crate::random::Random;
use crate::sink::testing::{batch_of, identity, named};
use crate::sink::{Failure, Unavailable};
use crate::wal::{self, DirStorage, Entry, Kind, Writer};

/// A log with one router behind it.
struct Bench {
    dir: TempDir,
    writer: Writer,
    pool: Pool,
    metrics: Arc<Metrics>,
    drain: Arc<Drain>,
    queue: Option<RouterQueue>,
    router: Router,
    sent: Vec<u64>,
}

/// Room for three small batches, of a page each: nearly everything is missed.
const SHARE_BYTES: usize = 3 * POOL_PAGE_BYTES;

const DROPPED: &str = "telemetryx_events_dropped_total{reason=\"log_full\",sink=\"out\"}";

fn open_log(dir: &TempDir) -> wal::Opened {
    let settings = wal::Settings {
        dir: dir.path().join("wal"),
        segment_bytes: 64 * 1024,
        max_bytes: 1 << 30,
        keep: Duration::ZERO,
        max_agents: 10,
        dedupe_retention: Duration::from_secs(3600),
    };
    let storage = Arc::new(DirStorage::create(&settings.dir).unwrap());
    wal::open(&settings, storage, &mut Random::seeded(1), 1).unwrap()
}

impl Bench {
    fn new(dir: TempDir, sink: &MemorySink) -> Self {
        let opened = open_log(&dir);
        let (metrics, drain) = (Metrics::new().unwrap(), Arc::new(Drain::default()));
        let mut identity = identity(1);
        identity.server_id = opened.server_id;
        let shared = Shared {
            identity: &identity,
            data_dir: dir.path(),
            log: Some(opened.log),
            log_bytes_max: 1 << 30,
            share_bytes: SHARE_BYTES,
            metrics: &metrics,
            drain: drain.clone(),
            notify: Arc::new(|| {}),
        };
        let (queue, router) = Router::start(&settings(), Box::new(sink.clone()), &shared).unwrap();
        let pool = Pool::new(1 << 20, Box::new(|| {}));
        let sent = Vec::new();
        Self { dir, writer: opened.writer, pool, metrics, drain, queue: Some(queue), router, sent }
    }

    /// What the log thread does with one commit.
    fn commit(&mut self, events: u64) {
        let first = self.writer.next_position();
        let made = batch_of(first, vec![(0..events).map(|event| named(format!("e{}", first + event))).collect()]);
        // A request: it has pages of its own.
        let origin = Arc::new(Origin { agent_id: None, ..(*made.runs()[0].origin).clone() });
        let run = &Run { origin, ..made.runs()[0].clone() };
        let deadline = Instant::now() + PATIENCE;
        let mut buffer = loop {
            if let Some(buffer) = self.pool.allocate(run.payload.len()) {
                break buffer;
            }
            assert!(Instant::now() < deadline, "no memory is freed");
            thread::sleep(Duration::from_millis(1));
        };
        assert!(buffer.extend(&run.payload));
        let entry = Entry {
            kind: Kind::Request,
            origin: &run.origin,
            events: run.events,
            received_unix_nano: run.received_unix_nano,
            payload: &run.payload,
            payload_crc: None,
        };
        assert_eq!(self.writer.append(&[entry]).unwrap(), first);
        self.writer.sync().unwrap();
        let payload = Payload::Pooled(buffer.share(0..run.payload.len()));
        let run = Run { payload, ..run.clone() };
        if let Some(queue) = &self.queue {
            queue.offer(&Arc::new(Batch::new(first, vec![run])));
        }
        self.sent.extend(first..first + events);
    }

    fn wait_for(&self, condition: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition(self) {
            let progress = self.router.progress();
            assert!(Instant::now() < deadline, "status {}, position {}", progress.status(), progress.position());
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Stops as a server does, and gives the folder back.
    fn stop(mut self, patience: Duration) -> TempDir {
        self.queue = None;
        self.drain.begin(Instant::now() + patience);
        assert!(self.router.wait(Instant::now() + PATIENCE), "the router does not end");
        self.dir
    }

    fn metric(&self, line: &str) -> String {
        let text = String::from_utf8(self.metrics.text()).unwrap();
        text.lines().find_map(|found| found.strip_prefix(line)).unwrap_or("absent").trim().to_owned()
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A sink whose store keeps its position.
fn transactional() -> MemorySink {
    MemorySink::with(|memory| memory.position = Some(0))
}

#[test]
fn a_router_that_lags_reads_the_log_and_stores_everything_once_in_order() {
    let seed = Random::from_system().next_u64();
    println!("seed {seed}");
    let mut random = Random::seeded(seed);
    let sink = transactional();
    let mut bench = Bench::new(folder(), &sink);
    for commit in 0..600 {
        bench.commit(1 + random.next_u64() % 20);
        match random.next_u64() % 40 {
            // One at a time: a dozen in a row, where commits outrun deliveries, are minutes of backoff.
            0 if sink.memory().failures.is_empty() => {
                sink.memory().failures.push_back(Unavailable::retry("busy").into());
            }
            1 => sink.memory().answers_lost = 1,
            2 => bench.wait_for(|bench| bench.router.progress().position() == bench.writer.next_position() - 1),
            _ => {}
        }
        if commit % 50 == 49 {
            bench.writer.trim(bench.router.progress().position() + 1, u64::MAX).unwrap();
        }
    }
    let sent = bench.sent.clone();
    bench.wait_for(|bench| bench.router.progress().position() == *sent.last().unwrap());
    assert_eq!(bench.router.progress().owed_events(), 0);
    // The router lets go of what it delivered a moment after it has said so.
    bench.wait_for(|bench| bench.pool.bytes_in_use() == 0);
    let metrics = bench.metrics.clone();
    bench.stop(PATIENCE);
    assert_eq!(counted(&metrics, "out"), sent.len() as u64, "seed {seed}: positions passed");
    let mut stored = sink.stored();
    // An answer that was lost is not asked for again where the store says that it has the delivery.
    assert!(stored.is_sorted(), "seed {seed}");
    stored.dedup();
    assert_eq!(stored.len(), sink.stored().len(), "seed {seed}: nothing twice");
    assert_eq!(stored, sent, "seed {seed}");
}

#[test]
fn a_sink_that_stands_still_pins_its_share_and_not_more() {
    let sink = transactional();
    sink.memory().failures.push_back(Unavailable::down("stopped").into());
    let mut bench = Bench::new(folder(), &sink);
    bench.commit(1);
    bench.wait_for(|bench| matches!(bench.router.progress().status(), SinkStatus::Down(_)));
    for _ in 0..200 {
        bench.commit(10);
        // What is offered is held until the offer is refused.
        assert!(bench.pool.bytes_in_use() <= SHARE_BYTES, "{}", bench.pool.bytes_in_use());
    }
    assert!(bench.router.progress().owed_events() >= 2_000);
    let dir = bench.stop(Duration::from_secs(60));
    // The drain does not wait for a sink that is down: the next start goes on.
    let mut bench = Bench::new(dir, &sink);
    bench.commit(1);
    let last = bench.writer.next_position() - 1;
    bench.wait_for(|bench| bench.router.progress().position() == last);
    bench.stop(PATIENCE);
    assert_eq!(sink.stored().len(), 2_002);
    assert!(sink.stored().is_sorted());
}

#[test]
fn while_a_sink_is_unavailable_nothing_of_the_pool_is_held_and_then_everything_is_stored_once() {
    // Refusals in the same deliveries: the positions of what was copied are those of before.
    for unnamed in [false, true] {
        let sink = MemorySink::with(|memory| {
            memory.position = Some(0);
            memory.failures.extend((0..1_000).map(|_| Failure::from(Unavailable::retry("away"))));
            memory.refuse(vec![4, 27, 61], unnamed);
        });
        let mut bench = Bench::new(folder(), &sink);
        bench.commit(30);
        for _ in 0..5 {
            bench.commit(10);
            bench.wait_for(|bench| bench.pool.bytes_in_use() == 0);
        }
        assert_eq!(bench.router.progress().position(), 0, "nothing was stored, and nothing is held");
        sink.memory().failures.clear();
        let last = bench.writer.next_position() - 1;
        bench.wait_for(|bench| bench.router.progress().position() == last);
        bench.stop(PATIENCE);
        let good: Vec<u64> = (1..=last).filter(|position| ![4, 27, 61].contains(position)).collect();
        assert_eq!(sink.stored(), good);
    }
}

#[test]
fn a_restart_goes_on_where_the_store_is_and_a_new_sink_begins_at_the_oldest_event() {
    let sink = transactional();
    let mut bench = Bench::new(folder(), &sink);
    (0..50).for_each(|_| bench.commit(10));
    bench.wait_for(|bench| bench.router.progress().position() == 500);
    let dir = bench.stop(PATIENCE);
    sink.memory().position = Some(480);
    let bench = Bench::new(dir, &sink);
    bench.wait_for(|bench| bench.router.progress().position() == bench.writer.next_position() - 1);
    let dir = bench.stop(PATIENCE);
    assert_eq!(sink.stored()[500..], (481..=500).collect::<Vec<_>>());
    let new = transactional();
    let bench = Bench::new(dir, &new);
    bench.wait_for(|bench| bench.router.progress().position() == bench.writer.next_position() - 1);
    assert_eq!(bench.metric(DROPPED), "0");
    bench.stop(PATIENCE);
    assert_eq!(new.stored(), (1..=500).collect::<Vec<_>>());
}

#[test]
fn events_dropped_under_a_sink_are_counted_and_the_rest_is_delivered() {
    let sink = transactional();
    sink.memory().failures.extend((0..1_000).map(|_| Failure::from(Unavailable::retry("away"))));
    let mut bench = Bench::new(folder(), &sink);
    bench.commit(1);
    while bench.writer.bytes() < 400 * 1024 {
        bench.commit(200);
    }
    let oldest = bench.writer.drop_oldest().unwrap().unwrap();
    assert!(oldest > 2);
    sink.memory().failures.clear();
    let last = bench.writer.next_position() - 1;
    bench.wait_for(|bench| bench.router.progress().position() == last);
    let dropped: u64 = bench.metric(DROPPED).parse().unwrap();
    let stored = sink.stored();
    let metrics = bench.metrics.clone();
    bench.stop(PATIENCE);
    assert_eq!(counted(&metrics, "out"), last, "positions passed");
    assert_eq!(stored.len() as u64 + dropped, last, "stored or counted");
    assert!(stored.is_sorted() && stored.last() == Some(&last));
}

#[test]
fn a_store_without_positions_goes_on_from_the_file() {
    let sink = MemorySink::default();
    let mut bench = Bench::new(folder(), &sink);
    bench.commit(5);
    bench.wait_for(|bench| bench.router.progress().position() == 5);
    let mut bench = Bench::new(bench.stop(PATIENCE), &sink);
    bench.commit(3);
    bench.wait_for(|bench| bench.router.progress().position() == 8);
    bench.stop(PATIENCE);
    assert_eq!(sink.stored(), [1, 2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn events_dropped_under_a_sink_that_had_nothing_yet_are_counted_also_after_a_restart() {
    for sink in [transactional(), MemorySink::default()] {
        sink.memory().failures.push_back(Unavailable::down("away").into());
        let mut bench = Bench::new(folder(), &sink);
        bench.commit(1);
        bench.wait_for(|bench| matches!(bench.router.progress().status(), SinkStatus::Down(_)));
        while bench.writer.bytes() < 400 * 1024 {
            bench.commit(200);
        }
        assert!(bench.writer.drop_oldest().unwrap().unwrap() > 2);
        let last = bench.writer.next_position() - 1;
        let bench = Bench::new(bench.stop(PATIENCE), &sink);
        bench.wait_for(|bench| bench.router.progress().position() == last);
        let dropped: u64 = bench.metric(DROPPED).parse().unwrap();
        assert!(dropped > 0);
        assert_eq!(sink.stored().len() as u64 + dropped, last, "stored or counted");
        let keeps = sink.memory().position.is_some();
        assert_eq!(bench.dir.path().join("positions/out").exists(), !keeps, "the store's own position counts now");
        bench.stop(PATIENCE);
    }
}

#[test]
fn what_is_missing_is_counted_once_however_often_the_store_has_to_be_asked_again() {
    let sink = transactional();
    sink.memory().failures.push_back(Unavailable::down("away").into());
    let mut bench = Bench::new(folder(), &sink);
    bench.commit(1);
    bench.wait_for(|bench| matches!(bench.router.progress().status(), SinkStatus::Down(_)));
    while bench.writer.bytes() < 400 * 1024 {
        bench.commit(200);
    }
    let oldest = bench.writer.drop_oldest().unwrap().unwrap();
    let dir = bench.stop(PATIENCE);
    // What follows the gap is refused a few times: each time the store says that it has nothing.
    sink.memory().failures.extend((0..4).map(|_| Failure::from(Unavailable::retry("full"))));
    let bench = Bench::new(dir, &sink);
    let last = bench.writer.next_position() - 1;
    bench.wait_for(|bench| bench.router.progress().position() == last);
    assert_eq!(bench.metric(DROPPED), (oldest - 1).to_string());
    assert_eq!(sink.stored().len() as u64, last + 1 - oldest);
    let metrics = bench.metrics.clone();
    bench.stop(PATIENCE);
    assert_eq!(counted(&metrics, "out"), last, "positions passed");
}

#[test]
fn a_position_that_no_log_has_given_out_is_not_believed() {
    let sink = transactional();
    sink.memory().position = Some(u64::MAX - 1);
    let bench = Bench::new(folder(), &sink);
    bench.wait_for(|bench| matches!(bench.router.progress().status(), SinkStatus::Down(_)));
    assert_eq!(bench.router.progress().ahead(), 0, "the log must not go on behind it");
    bench.stop(PATIENCE);
}

#[test]
fn a_sink_of_another_kind_with_the_same_name_begins_at_the_oldest_event() {
    let file = MemorySink::default();
    let mut bench = Bench::new(folder(), &file);
    bench.commit(5);
    bench.wait_for(|bench| bench.router.progress().position() == 5);
    let dir = bench.stop(PATIENCE);
    let sink = transactional();
    let bench = Bench::new(dir, &sink);
    bench.wait_for(|bench| bench.router.progress().position() == 5);
    bench.stop(PATIENCE);
    assert_eq!(sink.stored(), [1, 2, 3, 4, 5]);
}

#[test]
fn a_router_with_nothing_to_do_passes_positions_that_are_left_out() {
    let sink = transactional();
    let mut bench = Bench::new(folder(), &sink);
    bench.commit(5);
    bench.wait_for(|bench| bench.router.progress().position() == 5);
    bench.writer.skip_to(1_000).unwrap();
    bench.queue.as_ref().unwrap().skipped_to(1_000);
    // Level *delivered* of what was in the log before waits for this.
    bench.wait_for(|bench| bench.router.progress().position() == 999);
    assert_eq!(bench.router.progress().owed_events(), 0);
    bench.stop(PATIENCE);
}

#[test]
fn positions_that_are_left_out_are_no_lag() {
    let sink = transactional();
    let mut bench = Bench::new(folder(), &sink);
    bench.commit(5);
    bench.wait_for(|bench| bench.router.progress().position() == 5);
    sink.memory().failures.push_back(Unavailable::down("away").into());
    bench.writer.skip_to(1_000_000).unwrap();
    bench.commit(7);
    bench.wait_for(|bench| matches!(bench.router.progress().status(), SinkStatus::Down(_)));
    assert_eq!(bench.router.progress().owed_events(), 7);
    bench.stop(PATIENCE);
}

#[test]
fn a_store_that_is_ahead_of_the_log_is_down_and_says_why() {
    let sink = transactional();
    sink.memory().position = Some(1_000);
    let mut bench = Bench::new(folder(), &sink);
    bench.commit(5);
    bench.wait_for(|bench| matches!(bench.router.progress().status(), SinkStatus::Down(_)));
    let reason = bench.router.progress().status().to_string();
    assert!(reason.contains("position 1000") && reason.contains("older copy"), "{reason}");
    assert_eq!(bench.router.progress().ahead(), 1_000);
    // As the server does before it takes anything.
    bench.writer.skip_to(2_000).unwrap();
    bench.commit(5);
    let dir = bench.stop(PATIENCE);
    assert!(sink.stored().is_empty());
    // Once more started, it goes on behind its own position, and no position was used twice.
    let bench = Bench::new(dir, &sink);
    bench.wait_for(|bench| bench.router.progress().position() >= 2_004);
    bench.stop(PATIENCE);
    assert_eq!(sink.stored(), (2_000..=2_004).collect::<Vec<_>>());
}
