//! Real threads and files, waited for with deadlines; the sink is one in memory that fails as it is told.

use std::collections::VecDeque;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::batch::Delivery;
use crate::limits::REFUSED_IN_A_ROW_MAX;
use crate::settings::steps::StepSettings;
use crate::sink::testing::{batch, identity};
use crate::sink::{BatchSettings, Clocks, Failure, Refusal, SinkConfig, Unavailable, Upkeep, discard, file};

pub(super) const PATIENCE: Duration = Duration::from_secs(90);

/// What a sink in memory has and will answer.
#[derive(Default)]
pub(super) struct Memory {
    stored: Vec<u64>,
    /// Positions of each delivery that was asked for, stored or not.
    asked: Vec<(u64, u64)>,
    connects: u32,
    connect_failures: VecDeque<Unavailable>,
    pub failures: VecDeque<Failure>,
    /// Stores the delivery and then says that it failed: the answer was lost.
    pub answers_lost: u32,
    /// Refused one by one, or, with `unnamed`, as a batch.
    poison: Vec<u64>,
    unnamed: bool,
    /// What the store itself keeps; `None`: nothing.
    pub position: Option<u64>,
    /// How often it is looked whether what was delivered is in place, what is answered, and how often it was.
    check_interval: Option<Duration>,
    missing: VecDeque<Unavailable>,
    checks: u32,
    /// What its upkeep answers; then there is more, or, without `untidy`, never again anything.
    upkeep: VecDeque<Result<Option<Duration>, Unavailable>>,
    untidy: bool,
    /// Events stored when it was asked.
    upkeeps: Vec<usize>,
}

#[derive(Clone, Default)]
pub(super) struct MemorySink(Arc<Mutex<Memory>>);

impl MemorySink {
    pub(super) fn with(change: impl FnOnce(&mut Memory)) -> Self {
        let sink = Self::default();
        change(&mut sink.memory());
        sink
    }

    pub(super) fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.0.lock().unwrap()
    }

    pub(super) fn stored(&self) -> Vec<u64> {
        self.memory().stored.clone()
    }
}

impl Memory {
    /// Refuses these positions, one by one or as a batch.
    pub(super) fn refuse(&mut self, positions: Vec<u64>, unnamed: bool) {
        (self.poison, self.unnamed) = (positions, unnamed);
    }
}

impl Sink for MemorySink {
    fn connect(&mut self) -> Result<Option<u64>, Unavailable> {
        let mut memory = self.memory();
        memory.connects += 1;
        match memory.connect_failures.pop_front() {
            Some(unavailable) => Err(unavailable),
            None => Ok(memory.position),
        }
    }

    fn deliver(&mut self, delivery: &Delivery) -> Result<(), Failure> {
        let mut memory = self.memory();
        memory.asked.push((delivery.first_position(), delivery.last_position()));
        if let Some(failure) = memory.failures.pop_front() {
            return Err(failure);
        }
        let asked: Vec<u64> = delivery.records().map(|record| record.position).collect();
        let refusals: Vec<Refusal> = asked
            .iter()
            .filter(|position| memory.poison.contains(position))
            .map(|position| Refusal { position: *position, code: "E42".into(), reason: "poison \"quoted\"".into() })
            .collect();
        if !refusals.is_empty() && memory.unnamed {
            return Err(Failure::BatchRefused { code: "400".into(), reason: "bad request".into() });
        }
        if !refusals.is_empty() {
            return Err(Failure::Refused(refusals));
        }
        memory.stored.extend(asked);
        memory.position = memory.position.map(|_| delivery.last_position());
        if memory.answers_lost > 0 {
            memory.answers_lost -= 1;
            return Err(Unavailable::retry("answer lost").into());
        }
        Ok(())
    }

    fn check_interval(&self) -> Option<Duration> {
        self.memory().check_interval
    }

    fn check_in_place(&mut self) -> Result<(), Unavailable> {
        let mut memory = self.memory();
        memory.checks += 1;
        memory.missing.pop_front().map_or(Ok(()), Err)
    }

    fn upkeep(&mut self, _now: Clocks) -> Result<Upkeep, Unavailable> {
        let mut memory = self.memory();
        let stored = memory.stored.len();
        memory.upkeeps.push(stored);
        let more = memory.untidy.then_some(Duration::ZERO);
        memory.upkeep.pop_front().unwrap_or(Ok(more)).map(Upkeep::again)
    }
}

/// Positions that a sink has passed, by the counters that each event is counted in once.
pub(crate) fn counted(metrics: &Metrics, sink: &str) -> u64 {
    let text = String::from_utf8(metrics.text()).unwrap();
    let sink = format!("sink=\"{sink}\"");
    ["delivered", "filtered", "dead", "dropped"]
        .iter()
        .flat_map(|way| {
            let name = format!("telemetryx_events_{way}_total{{");
            text.lines().filter(move |line| line.starts_with(&name))
        })
        // A letter that is dropped was counted as dead.
        .filter(|line| line.contains(&sink) && !line.contains("dead_letters_full"))
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
        .sum()
}

/// A router with its surroundings.
struct Bench {
    dir: TempDir,
    metrics: Arc<Metrics>,
    drain: Arc<Drain>,
    notified: Arc<AtomicU64>,
    queue: Option<RouterQueue>,
    router: Router,
    /// The position of the store at the start.
    began: u64,
}

const BATCH: BatchSettings = BatchSettings { max_events: 100, max_bytes: 1 << 20, max_age: Duration::from_millis(1) };

/// Of a sink called `out`.
pub(super) fn settings() -> SinkSettings {
    let config = Box::new(discard::DiscardSettings {});
    let steps = StepSettings::default();
    SinkSettings { name: "out".into(), kind: "test", required: true, drops_oldest: false, steps, batch: BATCH, config }
}

impl Bench {
    fn new(sink: Box<dyn Sink>) -> Self {
        Self::in_dir(tempfile::tempdir().unwrap(), sink)
    }

    fn in_dir(dir: TempDir, sink: Box<dyn Sink>) -> Self {
        Self::with(dir, &settings(), sink)
    }

    fn with(dir: TempDir, settings: &SinkSettings, sink: Box<dyn Sink>) -> Self {
        let metrics = Metrics::new().unwrap();
        let drain = Arc::new(Drain::default());
        let notified = Arc::new(AtomicU64::new(0));
        let notify: Notify = Arc::new({
            let notified = notified.clone();
            move || {
                notified.fetch_add(1, Ordering::SeqCst);
            }
        });
        let identity = identity(1);
        let shared = Shared {
            identity: &identity,
            data_dir: dir.path(),
            log: None,
            log_bytes_max: 1 << 30,
            share_bytes: 0,
            metrics: &metrics,
            drain: drain.clone(),
            notify,
        };
        let (queue, router) = Router::start(settings, sink, &shared).unwrap();
        Self { dir, metrics, drain, notified, queue: Some(queue), router, began: 0 }
    }

    fn send(&self, positions: std::ops::RangeInclusive<u64>) {
        self.queue.as_ref().unwrap().offer(&batch(positions));
    }

    fn wait_for_position(&self, position: u64) {
        self.wait_for(|bench| bench.router.progress().position() >= position);
    }

    fn wait_for(&self, condition: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition(self) {
            assert!(Instant::now() < deadline, "status {}", self.router.progress().status());
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Closes the queue and waits for the thread.
    fn finish(&mut self) {
        self.queue = None;
        assert!(self.router.wait(Instant::now() + PATIENCE), "the router does not end");
        let passed = self.router.progress().position() - self.began;
        assert_eq!(counted(&self.metrics, "out"), passed, "delivered + filtered + dead + dropped");
    }

    fn dead_letters(&self) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(self.dir.path().join("dead/out.ndjson")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn metric(&self, name: &str) -> String {
        let text = String::from_utf8(self.metrics.text()).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix("{sink=\"out\"} "));
        line.unwrap_or("absent").to_owned()
    }
}

#[test]
fn delivers_what_is_sent_and_drains_when_the_queue_is_dropped() {
    let sink = MemorySink::default();
    let mut bench = Bench::new(Box::new(sink.clone()));
    bench.send(1..=3);
    bench.wait_for_position(3);
    assert!(bench.notified.load(Ordering::SeqCst) > 0);
    for first in (4..=1_000).step_by(3) {
        bench.send(first..=first + 2);
    }
    bench.finish();
    assert_eq!(sink.stored(), (1..=1_002).collect::<Vec<_>>());
    assert_eq!(bench.router.progress().owed_events(), 0);
    assert_eq!(bench.metric("telemetryx_events_delivered_total"), "1002");
    assert_eq!(bench.metric("telemetryx_sink_lag_events"), "0");
    assert!(sink.memory().asked.iter().all(|(first, last)| last - first < 100), "max_events holds");
}

#[test]
fn a_trouble_that_passes_costs_time_only() {
    let sink = MemorySink::with(|memory| {
        memory.connect_failures.push_back(Unavailable::retry("starting up"));
        memory.failures.extend((0..3).map(|_| Failure::from(Unavailable::retry("busy"))));
    });
    let mut bench = Bench::new(Box::new(sink.clone()));
    bench.send(1..=5);
    bench.finish();
    assert_eq!(sink.stored(), [1, 2, 3, 4, 5]);
    assert_eq!(sink.memory().connects, 5, "connects again after each failure");
    assert_eq!(bench.metric("telemetryx_sink_retries_total"), "4");
    assert_eq!(bench.router.progress().status(), SinkStatus::Ok);
}

#[test]
fn a_lost_answer_is_settled_by_the_stores_own_position() {
    let sink = MemorySink::with(|memory| {
        memory.position = Some(0);
        memory.answers_lost = 1;
    });
    let mut bench = Bench::new(Box::new(sink.clone()));
    bench.send(1..=5);
    bench.wait_for_position(5);
    bench.send(6..=7);
    bench.finish();
    assert_eq!(sink.stored(), [1, 2, 3, 4, 5, 6, 7], "nothing twice");
    assert_eq!(bench.metric("telemetryx_events_delivered_total"), "7");
    assert_eq!(bench.metric("telemetryx_sink_rows_total"), "7", "those of the lost answer too, once");
    assert!(!bench.dir.path().join("positions").exists(), "the store keeps the position");
}

#[test]
fn what_the_store_has_already_is_skipped() {
    let sink = MemorySink::with(|memory| memory.position = Some(4));
    let mut bench = Bench::new(Box::new(sink.clone()));
    bench.began = 4;
    bench.send(1..=3);
    bench.send(4..=6);
    bench.finish();
    assert_eq!(sink.stored(), [5, 6]);
}

#[test]
fn without_a_log_no_position_is_saved_for_it_would_mean_nothing_to_the_next_start() {
    let sink = MemorySink::default();
    let mut bench = Bench::new(Box::new(sink.clone()));
    bench.send(1..=5);
    bench.finish();
    assert_eq!(sink.stored(), [1, 2, 3, 4, 5]);
    assert!(!bench.dir.path().join("positions").exists());
}

#[test]
fn a_store_that_refuses_everything_is_down_and_what_it_refuses_is_kept() {
    let bad = REFUSED_IN_A_ROW_MAX + 200;
    let sink = MemorySink::with(|memory| {
        memory.poison = (3..=bad).collect();
        memory.unnamed = true;
    });
    let mut bench = Bench::new(Box::new(sink.clone()));
    for first in (1..bad).step_by(100) {
        bench.send(first..=first + 99);
    }
    bench.wait_for(|bench| bench.router.progress().status().to_string().contains("refuses everything"));
    assert_eq!(bench.dead_letters().len() as u64, REFUSED_IN_A_ROW_MAX);
    assert_eq!(bench.router.progress().position(), REFUSED_IN_A_ROW_MAX + 2);
    // Somebody mends it. (While draining nobody waits half a minute.)
    sink.memory().poison.clear();
    bench.drain.begin(Instant::now() + PATIENCE);
    bench.finish();
    assert_eq!(sink.stored(), [1, 2].into_iter().chain(REFUSED_IN_A_ROW_MAX + 3..=bad).collect::<Vec<_>>());
}

#[test]
fn named_events_are_buried_and_the_rest_is_stored() {
    let sink = MemorySink::with(|memory| memory.poison = vec![2, 7]);
    let mut bench = Bench::new(Box::new(sink.clone()));
    bench.send(1..=8);
    bench.finish();
    assert_eq!(sink.stored(), [1, 3, 4, 5, 6, 8]);
    let letters = bench.dead_letters();
    assert_eq!(letters.iter().map(|letter| letter["position"].as_u64().unwrap()).collect::<Vec<_>>(), [2, 7]);
    assert_eq!(letters[0]["server_id"], "5e5e5e5e-5e5e-5e5e-5e5e-5e5e5e5e5e5e");
    assert_eq!(letters[0]["code"], "E42");
    assert_eq!(letters[0]["reason"], "poison \"quoted\"");
    assert_eq!(letters[1]["event"]["name"], "e7");
    assert_eq!(bench.metric("telemetryx_events_dead_total"), "2");
    assert_eq!(bench.metric("telemetryx_events_delivered_total"), "6");
    assert_eq!(bench.metric("telemetryx_sink_rows_total"), "6");
    assert_eq!(bench.router.progress().position(), 8, "a buried event is passed");
}

#[test]
fn unnamed_events_are_found_by_bisection() {
    let sink = MemorySink::with(|memory| {
        memory.poison = vec![1, 33, 34, 64];
        memory.unnamed = true;
    });
    let mut bench = Bench::new(Box::new(sink.clone()));
    bench.send(1..=64);
    bench.finish();
    assert_eq!(sink.stored(), (1..=64).filter(|position| ![1, 33, 34, 64].contains(position)).collect::<Vec<_>>());
    let dead: Vec<_> = bench.dead_letters().iter().map(|letter| letter["position"].as_u64().unwrap()).collect();
    assert_eq!(dead, [1, 33, 34, 64]);
    assert!(sink.memory().asked.len() < 60, "{} deliveries", sink.memory().asked.len());
}

#[test]
fn a_sink_that_refuses_what_is_not_in_the_delivery_is_down_and_does_not_spin() {
    let sink = MemorySink::with(|memory| {
        let refusal = Refusal { position: 99, code: "X".into(), reason: "confused".into() };
        memory.failures.extend((0..1_000).map(|_| Failure::Refused(vec![refusal.clone()])));
    });
    let bench = Bench::new(Box::new(sink.clone()));
    bench.send(1..=3);
    bench.wait_for(|bench| matches!(bench.router.progress().status(), SinkStatus::Down(_)));
    bench.drain.begin(Instant::now() + Duration::from_millis(50));
    assert!(bench.router.wait(Instant::now() + PATIENCE));
    assert!(sink.memory().asked.len() < 100);
    assert_eq!(bench.router.progress().owed_events(), 3);
    assert_eq!(bench.dead_letters().len(), 0);
}

#[test]
fn dead_letters_that_cannot_be_written_hold_the_delivery_back() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("dead"), "in the way").unwrap();
    let sink = MemorySink::with(|memory| memory.poison = vec![2]);
    let mut bench = Bench::in_dir(dir, Box::new(sink.clone()));
    bench.send(1..=3);
    bench.wait_for(|bench| matches!(bench.router.progress().status(), SinkStatus::Retrying(_)));
    assert!(sink.stored().is_empty());
    fs::remove_file(bench.dir.path().join("dead")).unwrap();
    bench.finish();
    assert_eq!(sink.stored(), [1, 3]);
    assert_eq!(bench.dead_letters().len(), 1);
}

#[test]
fn a_sink_that_is_down_is_shown_and_tried_again_when_the_drain_begins() {
    let sink = MemorySink::with(|memory| memory.failures.push_back(Unavailable::down("wrong password").into()));
    let mut bench = Bench::new(Box::new(sink.clone()));
    bench.send(1..=3);
    bench.wait_for(|bench| bench.router.progress().status() == SinkStatus::Down("wrong password".into()));
    assert_eq!(bench.router.progress().status().to_string(), "down: wrong password");
    assert_eq!(bench.metric("telemetryx_sink_lag_events"), "3");
    // It would rest for half a minute; the drain does not let it.
    bench.drain.begin(Instant::now() + PATIENCE);
    bench.finish();
    assert_eq!(sink.stored(), [1, 2, 3]);
}

#[test]
fn the_drain_deadline_ends_a_backoff_and_what_is_owed_is_counted() {
    let sink = MemorySink::with(|memory| {
        memory.failures.extend((0..1_000).map(|_| Failure::from(Unavailable::retry("busy"))));
    });
    let mut bench = Bench::new(Box::new(sink.clone()));
    bench.send(1..=3);
    bench.send(4..=9);
    bench.wait_for(|bench| matches!(bench.router.progress().status(), SinkStatus::Retrying(_)));
    let begun = Instant::now();
    bench.drain.begin(begun + Duration::from_millis(100));
    bench.finish();
    assert!(begun.elapsed() >= Duration::from_millis(100));
    assert_eq!(bench.router.progress().owed_events(), 9);
}

#[test]
fn a_store_that_never_connects_lets_the_server_start_and_end() {
    let sink = MemorySink::with(|memory| {
        memory.connect_failures.extend((0..1_000).map(|_| Unavailable::retry("connection refused")));
    });
    let mut bench = Bench::new(Box::new(sink));
    assert!(bench.router.progress().wait_for_first_connect(Instant::now() + PATIENCE));
    assert_eq!(bench.router.progress().status(), SinkStatus::Retrying("connection refused".into()));
    bench.drain.begin(Instant::now());
    bench.finish();
}

#[test]
fn a_full_queue_makes_the_sender_wait_and_bounds_what_is_held() {
    let sink = MemorySink::with(|memory| memory.failures.push_back(Unavailable::down("stopped").into()));
    let mut bench = Bench::new(Box::new(sink.clone()));
    bench.send(1..=1);
    bench.wait_for(|bench| matches!(bench.router.progress().status(), SinkStatus::Down(_)));
    let queue = bench.queue.take().unwrap();
    let sent = Arc::new(AtomicU64::new(0));
    let sender = thread::spawn({
        let sent = sent.clone();
        move || {
            for position in 2..=200 {
                queue.offer(&batch(position..=position));
                sent.store(position, Ordering::SeqCst);
            }
        }
    });
    let full = 1 + crate::limits::ROUTER_QUEUE_BATCHES as u64;
    bench.wait_for(|_| sent.load(Ordering::SeqCst) >= full);
    assert_eq!(sent.load(Ordering::SeqCst), full);
    bench.drain.begin(Instant::now() + PATIENCE);
    sender.join().unwrap();
    bench.finish();
    assert_eq!(sink.stored(), (1..=200).collect::<Vec<_>>());
}

#[test]
fn after_the_deadline_nobody_waits_for_a_router_that_has_ended() {
    let mut bench = Bench::new(Box::new(MemorySink::with(|memory| {
        memory.connect_failures.extend((0..1_000).map(|_| Unavailable::retry("busy")));
    })));
    bench.drain.begin(Instant::now());
    assert!(bench.router.wait(Instant::now() + PATIENCE));
    let queue = bench.queue.take().unwrap();
    (1..=100).for_each(|position| queue.offer(&batch(position..=position)));
}

#[test]
fn a_fifo_without_a_reader_does_not_hold_the_end_of_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let settings = file::FileSettings { path: path.clone(), rotate_bytes: 0, rotate_age: Duration::ZERO };
    let mut bench = Bench::in_dir(dir, settings.open("out", &identity(1)));
    assert!(bench.router.progress().wait_for_first_connect(Instant::now() + PATIENCE));
    assert_eq!(bench.router.progress().status(), SinkStatus::Ok);
    bench.send(1..=3);
    bench.queue = None;
    let deadline = Instant::now() + Duration::from_millis(50);
    bench.drain.begin(deadline);
    assert!(!bench.router.wait(deadline), "it waits for its reader; the process would end now");
    assert_eq!(bench.router.progress().owed_events(), 3);
    // The test's process goes on: let the thread end.
    let reader = fs::File::open(&path).unwrap();
    assert!(bench.router.wait(Instant::now() + PATIENCE));
    drop(reader);
}

#[cfg(feature = "sqlite")]
#[test]
fn a_poison_row_in_sqlite_is_buried_and_everything_else_is_stored_once() {
    use crate::sink::sqlite;

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.db");
    let settings = sqlite::SqliteSettings { path: path.clone(), keep: None, indexes: sqlite::Indexes::None };
    let open = |owner| settings.open("out", &identity(owner));
    open(9).connect().unwrap();
    let user = rusqlite::Connection::open(&path).unwrap();
    user.execute_batch(
        "DROP TABLE events;
         CREATE TABLE events (
            server_id, position INTEGER, received_at, time, kind, severity, source, name CHECK (name NOT LIKE '%7'),
            body, value, duration_nano, trace_id, span_id, parent_span_id, agent, attributes,
            PRIMARY KEY (server_id, position)
         ) WITHOUT ROWID;",
    )
    .unwrap();
    let mut bench = Bench::in_dir(dir, open(1));
    for first in (1..=500).step_by(50) {
        bench.send(first..=first + 49);
    }
    bench.finish();
    // A restart offers the same again.
    let mut bench = Bench::in_dir(bench.dir, open(2));
    bench.began = 500;
    bench.send(1..=500);
    bench.send(501..=510);
    bench.finish();
    let mut rows = user.prepare("SELECT position FROM events ORDER BY position").unwrap();
    let stored: Vec<i64> = rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    assert_eq!(stored, (1..=510).filter(|position| position % 10 != 7).collect::<Vec<_>>());
    let dead: Vec<_> = bench.dead_letters().iter().map(|letter| letter["position"].as_i64().unwrap()).collect();
    assert_eq!(dead, (1..=510).filter(|position| position % 10 == 7).collect::<Vec<_>>());
}

#[test]
fn a_sink_tidies_up_when_it_has_nothing_to_do() {
    let sink = MemorySink::with(|memory| {
        memory.upkeep.extend([Ok(Some(Duration::ZERO)), Ok(Some(Duration::from_millis(1))), Ok(None)]);
    });
    let bench = Bench::new(Box::new(sink.clone()));
    bench.wait_for(|_| sink.memory().upkeeps == [0, 0, 0]);
    bench.send(1..=3);
    bench.wait_for_position(3);
    assert_eq!(sink.memory().upkeeps.len(), 3, "never means never");
}

#[test]
fn deliveries_are_looked_for_in_their_place_while_one_fills_and_after_a_failed_upkeep() {
    let sink = MemorySink::with(|memory| {
        memory.check_interval = Some(Duration::from_millis(1));
        memory.upkeep.push_back(Err(Unavailable::retry("locked")));
    });
    let checks = |bench: &Bench| {
        let before = sink.memory().checks;
        bench.wait_for(|_| sink.memory().checks > before + 3);
    };
    let mut fills = settings();
    fills.batch.max_age = Duration::from_secs(3_600);
    let mut bench = Bench::with(tempfile::tempdir().unwrap(), &fills, Box::new(sink.clone()));
    bench.wait_for(|_| sink.memory().upkeep.is_empty());
    checks(&bench);
    bench.send(1..=3);
    bench.wait_for_position(3);
    bench.send(4..=6);
    checks(&bench);
    assert_eq!(sink.stored(), [1, 2, 3], "the next delivery fills");
    // What is missing is connected to anew at once.
    let connects = sink.memory().connects;
    sink.memory().missing.push_back(Unavailable::retry("moved away"));
    bench.wait_for(|_| sink.memory().connects > connects);
    checks(&bench);
    bench.finish();
    assert_eq!(sink.stored(), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn a_sink_tidies_up_between_deliveries_and_trouble_with_it_stops_none() {
    let sink = MemorySink::with(|memory| memory.untidy = true);
    let mut bench = Bench::new(Box::new(sink.clone()));
    for position in 1..=200 {
        bench.send(position..=position);
    }
    bench.wait_for_position(200);
    bench.wait_for(|_| sink.memory().upkeeps.last() == Some(&200));
    sink.memory().upkeep.push_back(Err(Unavailable::retry("locked")));
    bench.wait_for(|_| sink.memory().upkeep.is_empty());
    let asked = sink.memory().upkeeps.len();
    bench.send(201..=300);
    bench.finish();
    assert_eq!(sink.stored().len(), 300);
    assert_eq!(sink.memory().upkeeps.len(), asked, "after a trouble there is a pause");
}

#[test]
fn a_sink_that_gets_nothing_passes_everything_in_few_deliveries() {
    let sink = MemorySink::default();
    let exclude = |key: &str| (key == "exclude").then_some("{ source = '*' }");
    let mut settings = settings();
    settings.steps = StepSettings::read(exclude).unwrap();
    settings.batch.max_age = Duration::from_secs(3_600);
    let mut bench = Bench::with(tempfile::tempdir().unwrap(), &settings, Box::new(sink.clone()));
    bench.send(1..=1);
    bench.wait_for_position(1);
    for first in (2..1_002).step_by(10) {
        bench.send(first..=first + 9);
    }
    bench.queue = None;
    bench.wait_for_position(1_001);
    assert_eq!((sink.stored(), counted(&bench.metrics, "out")), (vec![], 1_001));
    assert_eq!(sink.memory().asked, [(1, 1), (2, 1_001)]);
    assert!(bench.notified.load(Ordering::SeqCst) > 0);
}

#[test]
fn a_refused_row_of_a_step_becomes_the_dead_letter_that_the_store_was_offered() {
    let sink = MemorySink::with(|memory| memory.poison = vec![7]);
    let sample = |key: &str| match key {
        "sample.keep" => Some("1/2"),
        "sample.by" => Some("source"),
        _ => None,
    };
    let mut settings = settings();
    settings.steps = StepSettings::read(sample).unwrap();
    // All of one source, which is kept.
    let hash = |source: &str| xxhash_rust::xxh64::xxh64(source.as_bytes(), 0) <= u64::MAX / 2;
    let kept = (0..).map(|number| format!("s{number}")).find(|source| hash(source)).unwrap();
    let mut bench = Bench::with(tempfile::tempdir().unwrap(), &settings, Box::new(sink.clone()));
    let events = (1..=9).map(|position| crate::event::proto::Event {
        source: kept.clone(),
        ..crate::sink::testing::named(format!("e{position}"))
    });
    bench.queue.as_ref().unwrap().offer(&crate::sink::testing::batch_of(1, vec![events.collect()]));
    bench.finish();
    assert_eq!(sink.stored(), [1, 2, 3, 4, 5, 6, 8, 9]);
    let letters = bench.dead_letters();
    assert_eq!((letters.len(), &letters[0]["position"]), (1, &7.into()));
    assert_eq!(letters[0]["event"]["attributes"]["sample_rate"], 2);
}
