//! The worker step by step, with a log in memory and a clock of the test.

use std::time::SystemTime;

use super::*;
use crate::router::tests::{MemorySink, counted, settings};
use crate::settings::steps::StepSettings;
use crate::sink::testing::{batch, identity};
use crate::wal::tests::memory::MemoryStorage;
use crate::wal::{self, Entry, Kind, Writer};

struct Bench {
    worker: Worker,
    queue: RouterQueue,
    writer: Writer,
    metrics: Arc<Metrics>,
    drain: Arc<Drain>,
    now: Now,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn new(sink: &MemorySink) -> Self {
        Self::with(sink, &settings())
    }

    fn with(sink: &MemorySink, settings: &SinkSettings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log_settings = wal::Settings {
            dir: "wal".into(),
            segment_bytes: 1_500,
            max_bytes: 1 << 20,
            keep: Duration::ZERO,
            max_agents: 10,
            dedupe_retention: Duration::from_secs(60),
        };
        let storage = Arc::new(MemoryStorage::default());
        let opened = wal::open(&log_settings, storage, &mut Random::seeded(1), 1).unwrap();
        let (metrics, drain) = (Metrics::new().unwrap(), Arc::new(Drain::default()));
        let shared = Shared {
            identity: &identity(1),
            data_dir: dir.path(),
            log: Some(opened.log),
            log_bytes_max: 1 << 30,
            share_bytes: 1 << 20,
            metrics: &metrics,
            drain: drain.clone(),
            notify: Arc::new(|| {}),
        };
        let now = Now { monotonic: Instant::now(), wall: SystemTime::now() };
        let (queue, worker) = Worker::new(settings, Box::new(sink.clone()), &shared, Random::seeded(1), now);
        Self { worker, queue, writer: opened.writer, metrics, drain, now, _dir: dir }
    }

    /// A commit of one event.
    fn commit(&mut self) {
        let position = self.writer.next_position();
        let batch = batch(position..=position);
        let run = &batch.runs()[0];
        let entry = Entry {
            kind: Kind::Request,
            origin: &run.origin,
            events: run.events,
            received_unix_nano: run.received_unix_nano,
            payload: &run.payload,
            payload_crc: None,
        };
        assert_eq!(self.writer.append(&[entry]).unwrap(), position);
        self.writer.sync().unwrap();
        self.queue.offer(&batch);
    }

    /// One step, a millisecond after the one before.
    fn step(&mut self) -> Next<()> {
        self.now.monotonic += Duration::from_millis(1);
        self.worker.step(self.now)
    }
}

#[test]
fn what_was_delivered_in_parts_is_not_missing_although_the_log_has_dropped_it() {
    let sink = MemorySink::with(|memory| {
        memory.position = Some(0);
        memory.answers_lost = 1;
        memory.refuse(vec![40], true);
    });
    let mut bench = Bench::new(&sink);
    (0..40).for_each(|_| bench.commit());
    loop {
        // The log drops what the sink has passed as soon as it can.
        bench.writer.trim(bench.worker.position + 1, u64::MAX).unwrap();
        match bench.step() {
            Next::Step => {}
            Next::Pause(until) => bench.now.monotonic = until,
            Next::Wait(_) => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(bench.writer.oldest_position() > 21, "what was to be read again after the lost answer is gone");
    assert_eq!(sink.stored(), (1..=39).collect::<Vec<_>>());
    assert_eq!(bench.metrics.sink("out").events_dead.get(), 1);
    assert_eq!(counted(&bench.metrics, "out"), bench.worker.progress.position(), "nothing is counted as dropped");
}

#[test]
fn a_pause_begins_after_the_failed_attempt_and_ends_in_its_time_only() {
    let sink = MemorySink::with(|memory| {
        memory.position = Some(0);
        memory.failures.push_back(Unavailable::down("stopped").into());
    });
    let mut bench = Bench::new(&sink);
    bench.commit();
    let until = loop {
        match bench.step() {
            Next::Step => {}
            Next::Pause(until) => break until,
            other => panic!("{other:?}"),
        }
    };
    assert!(until - bench.now.monotonic >= crate::limits::RETRY_BACKOFF_MAX / 2);
    assert_eq!(bench.step(), Next::Pause(until), "an early step changes nothing");
    bench.now.monotonic = until;
    assert_eq!(bench.step(), Next::Step);
    while bench.step() == Next::Step {}
    assert_eq!(sink.stored(), [1]);
    // With a log, nothing is won by waiting for a store that does not answer.
    sink.memory().failures.push_back(Unavailable::retry("away").into());
    bench.commit();
    while !matches!(bench.step(), Next::Pause(_)) {}
    bench.drain.begin(bench.now.monotonic + Duration::from_secs(60));
    assert_eq!([bench.step(), bench.step()], [Next::End(()), Next::End(())]);
}

#[test]
fn a_window_waits_for_its_end_without_looking_and_for_nothing_where_positions_are_missing() {
    let sink = MemorySink::with(|memory| memory.position = Some(0));
    let mut settings = settings();
    let interval = "1h";
    settings.steps = StepSettings::read(|key| (key == "aggregate.interval").then_some(interval)).unwrap();
    settings.batch.max_age = Duration::from_secs(3_600);
    let mut bench = Bench::with(&sink, &settings);
    bench.commit();
    let mut looks = 0;
    let end = loop {
        match bench.step() {
            Next::Step => {}
            Next::Sleep(until) => {
                looks += 1;
                bench.now.monotonic = until;
            }
            Next::Wait(Some(until)) => break until,
            other => panic!("{other:?}"),
        }
    };
    assert!(looks <= 1 && end > bench.now.monotonic + Duration::from_secs(3_000), "{looks} looks");
    // What comes wakes it, and it waits on.
    bench.commit();
    assert!(matches!(bench.step(), Next::Sleep(_)));
    assert_eq!(bench.step(), Next::Wait(Some(end)));
    assert!(sink.stored().is_empty());
    bench.now.monotonic = end;
    while bench.step() == Next::Step {}
    assert_eq!(sink.stored(), [1, 2]);
    bench.commit();
    while !matches!(bench.step(), Next::Wait(Some(_))) {}
    bench.worker.gap = Some(4..6);
    while sink.stored().len() < 3 {
        bench.step();
    }
    while bench.step() == Next::Step {}
    assert_eq!((sink.stored(), bench.worker.position), (vec![1, 2, 3], 5));
}
