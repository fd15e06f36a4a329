//! A log that is full, step by step: pauses, what is lost, and what is logged.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use super::*;
use crate::batch::Origin;
use crate::batch::pool::Pool;
use crate::ids::LoopId;
use crate::pipeline::ring::{SlotSender, ring};
use crate::random::Random;
use crate::wal::{self, DirStorage, Kind};
use crate::wire::NackCode;

struct Sink {
    position: Arc<AtomicU64>,
    drops_oldest: bool,
}

impl Holder for Sink {
    fn position(&self) -> u64 {
        self.position.load(Ordering::Relaxed)
    }

    fn drops_oldest(&self) -> bool {
        self.drops_oldest
    }

    fn name(&self) -> &str {
        if self.drops_oldest { "drops" } else { "blocks" }
    }
}

/// A log that is full of requests, and where two sinks are: the first one lets its oldest events go.
struct Full {
    commit: GroupCommit,
    sender: SlotSender,
    positions: [Arc<AtomicU64>; 2],
    now: Now,
    _dir: tempfile::TempDir,
}

impl Full {
    fn new() -> Self {
        Self::keeping(Box::new(|_| Ok(())))
    }

    fn keeping(keep_refused: Box<KeepRefused>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let positions = [Arc::new(AtomicU64::new(1)), Arc::new(AtomicU64::new(2))];
        let sink = |index: usize| Sink { position: positions[index].clone(), drops_oldest: index == 0 };
        let parts = Parts {
            writer: full_log(dir.path()),
            holders: vec![Box::new(sink(0)), Box::new(sink(1))],
            loops: vec![LoopEnd { watermarks: Arc::default(), wake: Box::new(|| {}) }],
            health: Arc::default(),
            metrics: Metrics::new().unwrap(),
            is_over: Box::new(|_| false),
        };
        let (sender, receiver) = ring(COMMIT_SLOTS_MAX, Box::new(|| {}));
        let now = Now { monotonic: Instant::now(), wall: SystemTime::now() };
        let outlets = Outlets { keep_refused, offer: Box::new(|_| panic!("nothing is committed")) };
        let commit = GroupCommit::new(parts, outlets, Rings::new(vec![receiver]), now);
        Self { commit, sender, positions, now, _dir: dir }
    }

    fn push(&mut self, ticket: u64, is_rejected: bool) {
        assert!(self.sender.push(slot(ticket, is_rejected)).is_ok());
    }

    /// Steps until the next wait or the end; the clock moves by a millisecond with each step.
    fn steps(&mut self) -> Next<Unwritten> {
        loop {
            self.now.monotonic += Duration::from_millis(1);
            match self.commit.step(self.now) {
                Next::Step => {}
                next => return next,
            }
        }
    }

    /// Steps until a pause, and moves the clock to its end.
    #[track_caller]
    fn steps_until_paused(&mut self) {
        let Next::Pause(until) = self.steps() else { panic!("no pause") };
        assert_eq!(until, self.now.monotonic + LOG_RETRY, "it begins when the failed attempt has ended");
        self.now.monotonic = until;
    }
}

fn full_log(dir: &std::path::Path) -> Writer {
    let settings = wal::Settings {
        dir: dir.to_owned(),
        segment_bytes: 64 * 1024,
        max_bytes: 256 * 1024,
        keep: Duration::ZERO,
        max_agents: 10,
        dedupe_retention: Duration::from_secs(60),
    };
    let storage = Arc::new(DirStorage::create(dir).unwrap());
    let mut writer = wal::open(&settings, storage, &mut Random::seeded(1), 1).unwrap().writer;
    let payload = [1; 1_000];
    let entry = Entry {
        kind: Kind::Request,
        origin: &origin(),
        events: 1,
        received_unix_nano: 1,
        payload: &payload,
        payload_crc: None,
    };
    while writer.append(&[entry]).is_ok() {
        writer.sync().unwrap();
    }
    writer
}

fn origin() -> Arc<Origin> {
    Arc::new(Origin { agent_id: None, agent: None, default_source: "x".into(), epoch: 0 })
}

fn slot(ticket: u64, is_rejected: bool) -> Slot {
    let mut buffer = Pool::new(1_000, Box::new(|| {})).allocate(1_000).unwrap();
    assert!(buffer.extend(&[1; 1_000]));
    let payload = buffer.share(0..1_000);
    let content = match is_rejected {
        true => Content::Refused { payload, events: 1, code: NackCode::Malformed, reason: "x".into() },
        false => Content::Events { payload, events: 1, payload_crc: None, are_head_first: false },
    };
    Slot {
        event_loop: LoopId(0),
        number: ticket,
        content,
        origin: origin(),
        seq: ticket,
        sent_crc: 0,
        received_unix_nano: 1,
        is_let_go: false,
    }
}

fn full_disk() -> io::Result<()> {
    Err(io::ErrorKind::StorageFull.into())
}

#[test]
fn a_segment_is_not_dropped_under_a_sink_that_blocks_although_another_one_is_further_behind() {
    let Full { mut commit, positions, _dir, .. } = Full::new();
    let end = commit.parts.writer.oldest_segment_end();
    assert!(end > 10);
    assert!(matches!(commit.make_room(), Ok(false)), "position 3 is needed by a sink that blocks");
    assert_eq!(commit.holding().map(Holder::name).collect::<Vec<_>>(), ["drops", "blocks"]);
    positions[1].store(end - 1, Ordering::Relaxed);
    assert!(matches!(commit.make_room(), Ok(true)));
    assert_eq!(commit.parts.writer.oldest_position(), end);
}

#[test]
fn segments_that_every_sink_has_passed_are_in_the_log_and_not_needed() {
    let Full { commit, positions, _dir, .. } = Full::new();
    let (writer, metrics) = (&commit.parts.writer, &commit.parts.metrics);
    let needed = |passed: u64| {
        positions.iter().for_each(|position| position.store(passed, Ordering::Relaxed));
        commit.show_bytes();
        assert_eq!(metrics.wal_bytes.get(), writer.bytes().cast_signed());
        metrics.wal_bytes_needed.get().unsigned_abs()
    };
    let first_end = writer.oldest_segment_end();
    assert_eq!(needed(0), writer.bytes());
    assert_eq!(needed(first_end - 2), writer.bytes(), "its last event is needed");
    let without_first = needed(first_end - 1);
    assert!((1..writer.bytes()).contains(&without_first), "{without_first} of {}", writer.bytes());
    assert!(
        (1..without_first).contains(&needed(writer.next_position() - 2)),
        "the last event is in the newest segment"
    );
    assert_eq!(needed(writer.next_position() - 1), 0);
    // The sink that is furthest behind decides.
    positions[1].store(0, Ordering::Relaxed);
    commit.show_bytes();
    assert_eq!(metrics.wal_bytes_needed.get(), writer.bytes().cast_signed());
}

#[test]
fn while_dead_letters_cannot_be_written_the_log_gives_back_what_nobody_needs() {
    let (has_room, tries) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (room, tried) = (has_room.clone(), tries.clone());
    let mut full = Full::keeping(Box::new(move |refused| {
        assert_eq!(refused.len(), 1, "the same again");
        tried.fetch_add(1, Ordering::Relaxed);
        if room.load(Ordering::Relaxed) == 0 { full_disk() } else { Ok(()) }
    }));
    let (end, bytes) = (full.commit.parts.writer.oldest_segment_end(), full.commit.parts.writer.bytes());
    let (health, metrics) = (full.commit.parts.health.clone(), full.commit.parts.metrics.clone());
    full.push(1, true);
    full.steps_until_paused();
    assert_eq!((health.not_ready(), metrics.wal_bytes.get()), (Some("disk_full"), bytes.cast_signed()));
    // The sinks continue while the log thread waits; the next attempt gives back what they have passed.
    full.positions.iter().for_each(|position| position.store(end - 1, Ordering::Relaxed));
    full.steps_until_paused();
    assert_eq!(full.commit.parts.writer.oldest_position(), end);
    assert!(metrics.wal_bytes.get() < bytes.cast_signed());
    assert_eq!(health.not_ready(), Some("disk_full"));
    has_room.store(1, Ordering::Relaxed);
    assert!(matches!(full.steps(), Next::Wait(Some(_))));
    assert_eq!((health.not_ready(), tries.load(Ordering::Relaxed)), (None, 3));
    assert_eq!(full.commit.parts.loops[0].watermarks.get(AckLevel::Synced), 1, "acknowledged with its commit");
}

#[test]
fn dead_letters_that_lack_a_descriptor_are_told_from_a_full_disk() {
    let tries = AtomicUsize::new(0);
    let mut full = Full::keeping(Box::new(move |_| {
        let error = match tries.fetch_add(1, Ordering::Relaxed) {
            0 => io::Error::from_raw_os_error(libc::ENFILE),
            1 => io::ErrorKind::StorageFull.into(),
            2 => return Ok(()),
            _ => panic!("called again after it worked"),
        };
        Err(descriptors::with_context("dead letters".to_owned(), error))
    }));
    let health = full.commit.parts.health.clone();
    full.push(1, true);
    for reason in ["descriptors_exhausted", "disk_full"] {
        full.steps_until_paused();
        assert_eq!(health.not_ready(), Some(reason));
    }
    assert!(matches!(full.steps(), Next::Wait(Some(_))));
    assert_eq!(health.not_ready(), None);
}

/// Notes for each line of the log why nothing is taken when it is written.
#[derive(Clone)]
struct Notes {
    health: Arc<LogHealth>,
    pauses: Arc<Mutex<Vec<Option<&'static str>>>>,
}

impl io::Write for Notes {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.pauses.lock().unwrap().push(self.health.not_ready());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn when_a_line_says_that_nothing_is_taken_nothing_is() {
    for (is_rejected, reason) in [(false, "log_full"), (true, "disk_full")] {
        let mut full = Full::keeping(Box::new(|_| full_disk()));
        let notes = Notes { health: full.commit.parts.health.clone(), pauses: Arc::default() };
        let writer = notes.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        full.push(1, is_rejected);
        tracing::subscriber::with_default(subscriber, || {
            full.steps_until_paused();
            full.steps_until_paused();
        });
        assert_eq!(*notes.pauses.lock().unwrap(), [Some(reason)], "one line, while nothing is taken");
    }
}

/// Requests that wait for memory are refused at once.
#[test]
fn a_pause_of_the_log_wakes_the_event_loop() {
    let woken = Arc::new(AtomicU64::new(0));
    let count = woken.clone();
    let mut full = Full::keeping(Box::new(|_| full_disk()));
    full.commit.parts.loops[0].wake = Box::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
    });
    full.push(1, true);
    for _ in 0..3 {
        full.steps_until_paused();
        assert_eq!(woken.load(Ordering::Relaxed), 1, "once, when the pause began");
    }
}

#[test]
fn dead_letters_that_cannot_be_written_do_not_keep_the_server_from_ending() {
    let mut full = Full::keeping(Box::new(|_| full_disk()));
    full.commit.parts.is_over = Box::new(|_| true);
    full.push(1, true);
    assert!(matches!(full.steps(), Next::Wait(Some(_))));
    assert_eq!(full.commit.parts.health.not_ready(), None);
    drop(full.sender);
    let unwritten = Unwritten { rejected_payloads: 1, ..Unwritten::default() };
    assert_eq!(full.commit.step(full.now), Next::End(unwritten));
}

#[test]
fn rejected_payloads_that_are_stored_nowhere_are_counted() {
    for (is_kept, lost) in [(true, 1), (false, 3)] {
        let mut full = Full::keeping(Box::new(move |_| if is_kept { Ok(()) } else { full_disk() }));
        full.push(1, true);
        full.push(2, true);
        full.push(3, false);
        full.steps_until_paused();
        // It comes before the server ends.
        full.push(4, true);
        full.commit.parts.is_over = Box::new(|_| true);
        let Next::End(unwritten) = full.steps() else { panic!("it continues") };
        assert_eq!((unwritten.rejected_payloads, unwritten.events), (lost, 1), "{is_kept}");
    }
}

#[test]
fn a_step_that_comes_early_or_once_more_changes_nothing() {
    let mut full = Full::new();
    assert!(matches!(full.steps(), Next::Wait(Some(_))));
    assert!(matches!(full.steps(), Next::Wait(Some(_))));
    full.push(1, false);
    for _ in 0..3 {
        // Before the pause is over, each one is an attempt.
        assert!(matches!(full.steps(), Next::Pause(_)));
    }
    assert_eq!(full.commit.parts.health.not_ready(), Some("log_full"));
    assert_eq!(full.commit.slots.len(), 1);
}
