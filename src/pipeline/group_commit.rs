//! The log thread with a log: everything in the ring becomes one record, one sync, one step of the watermarks.
//!
//! ```text
//!  ring ─▶ take all (up to 4 MiB) ─▶ keep refused payloads ─▶ append ─▶ written ─▶ fdatasync ─▶ synced ─▶ offer to routers
//!              ▲                                              │ no space, log full: wait, the same again
//!              └── the loop reads on meanwhile                 └ any other error: the log is over, and the process with it
//! ```
//!
//! * It never waits to fill a commit: an event alone is synced at once, and what comes during a sync is the next commit.
//! * A batch is offered, not owed: a router without room reads it from the log.
//! * Once a second it looks which segments no sink needs any more.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::batch::{Batch, Payload, Run};
use crate::descriptors;
use crate::limits::{COMMIT_BYTES_MAX, COMMIT_SLOTS_MAX, LOG_RETRY, LOG_UPKEEP, LOG_WARNING_INTERVAL};
use crate::metrics::Metrics;
use crate::pipeline::commit::RefusedPayload;
use crate::pipeline::health::{LogHealth, Pause};
use crate::pipeline::ring::{Content, Slot};
use crate::pipeline::rings::{Rings, Waited};
use crate::pipeline::watermark::Watermarks;
use crate::time::now_unix_nano;
use crate::wal::{AppendError, Entry, Kind, LogFailure, Writer};
use crate::wire::{AckLevel, NackCode};

/// A sink, as far as the log keeps events for it.
pub trait Holder: Send {
    /// The last position that it has passed.
    fn position(&self) -> u64;
    /// Whether the oldest events may be dropped under it when `wal.max_bytes` is reached; else the log waits for it.
    fn drops_oldest(&self) -> bool;
    /// Name of the sink, for log lines.
    fn name(&self) -> &str;
}

/// What the log thread has of an event loop.
pub struct LoopEnd {
    /// How far the events of that loop are.
    pub watermarks: Arc<Watermarks>,
    /// Wakes it, so that it acknowledges.
    pub wake: Box<dyn Fn() + Send>,
}

/// What the log thread works with.
pub struct GroupCommit {
    /// The end of the log that is written.
    pub writer: Writer,
    /// Every sink that the log keeps events for.
    pub holders: Vec<Box<dyn Holder>>,
    /// One for each event loop, in their order.
    pub loops: Vec<LoopEnd>,
    /// State of the log, shown to the event loops and by `/ready`.
    pub health: Arc<LogHealth>,
    /// The metrics of the server.
    pub metrics: Arc<Metrics>,
    /// Sleeps; `false`: the server ends and waits for nothing any more.
    pub sleep: Box<dyn Fn(Duration) -> bool + Send>,
}

/// What is not in the log when the log thread has ended.
#[derive(Debug, Default)]
pub struct Unwritten {
    /// Accepted events, at any ack level.
    pub events: u64,
    /// Those of them that were acknowledged as *received*: no other copy of them exists.
    pub let_go_events: u64,
    /// Rejected frames and requests that are not in dead letters either.
    pub rejected_payloads: u64,
}

/// The server ends, or the log failed.
struct Over;

/// Log lines about pauses: at most one in a while, however often the log pauses and continues.
#[derive(Default)]
struct Said {
    next: Option<Instant>,
    /// Since the log last worked.
    anything: bool,
}

impl Said {
    fn due(&mut self) -> bool {
        let now = Instant::now();
        let due = self.next.is_none_or(|next| now >= next);
        if due {
            (self.next, self.anything) = (Some(now + LOG_WARNING_INTERVAL), true);
        }
        due
    }

    fn anything(&mut self) -> bool {
        std::mem::take(&mut self.anything)
    }
}

impl GroupCommit {
    /// Runs until the event loops are gone and their rings are empty, or the log fails. Returns what is not in the
    /// log. `keep_refused` gets what a commit holds of refused payloads, before anything
    /// of the commit is written, and is called again after an error; `offer` hands a synced batch to every router.
    pub fn run(
        mut self,
        mut rings: Rings,
        keep_refused: impl FnMut(&[RefusedPayload]) -> io::Result<()>,
        offer: impl FnMut(&Arc<Batch>),
    ) -> Unwritten {
        let mut slots = Vec::with_capacity(COMMIT_SLOTS_MAX);
        let mut lost = 0;
        let ended = self.commit_all(&mut rings, &mut slots, keep_refused, offer, &mut lost);
        let mut unwritten = Unwritten { rejected_payloads: lost, ..Unwritten::default() };
        if let Err(Over) = ended {
            unwritten = slots.iter().fold(unwritten, Unwritten::and);
            slots.clear();
            // The loops read nothing more either: this is all there is.
            rings.take(usize::MAX, &mut slots, |_| false);
            let is_rejected = |slot: &&Slot| matches!(slot.content, Content::Refused { .. });
            unwritten.rejected_payloads += slots.iter().filter(is_rejected).count() as u64;
            unwritten = slots.iter().fold(unwritten, Unwritten::and);
        }
        unwritten
    }

    fn commit_all(
        &mut self,
        rings: &mut Rings,
        slots: &mut Vec<Slot>,
        mut keep_refused: impl FnMut(&[RefusedPayload]) -> io::Result<()>,
        mut offer: impl FnMut(&Arc<Batch>),
        lost: &mut u64,
    ) -> Result<(), Over> {
        let mut refused = Vec::new();
        let mut said = Said::default();
        let mut upkeep_due = Instant::now() + LOG_UPKEEP;
        self.show_bytes();
        loop {
            match rings.wait_until(Some(upkeep_due)) {
                Waited::Gone => return Ok(()),
                Waited::TimedOut => {}
                Waited::Slots => {
                    let mut bytes = 0;
                    rings.take(COMMIT_SLOTS_MAX, slots, |slot| {
                        if let Content::Events { payload, .. } = &slot.content {
                            bytes += payload.len();
                        }
                        bytes >= COMMIT_BYTES_MAX
                    });
                    take_refused(slots, &mut refused);
                    if !refused.is_empty() {
                        if !self.keep(&refused, &mut keep_refused, &mut said)? {
                            *lost += refused.len() as u64;
                        }
                        refused.clear();
                    }
                    if let Some(batch) = self.commit(slots, &mut said)? {
                        offer(&Arc::new(batch));
                    }
                }
            }
            if Instant::now() >= upkeep_due {
                upkeep_due = Instant::now() + LOG_UPKEEP;
                let keep_from = self.keep_from();
                let trimmed = self.writer.trim(keep_from, now_unix_nano());
                trimmed.map_err(|failure| self.fail(&failure))?;
                self.show_bytes();
            }
        }
    }

    /// Has refused payloads kept, however long it takes. What sinks have passed is deleted meanwhile: it may be what the
    /// disk is full of. `false`: the server ends, and they are lost.
    fn keep(
        &mut self,
        refused: &[RefusedPayload],
        keep_refused: &mut impl FnMut(&[RefusedPayload]) -> io::Result<()>,
        said: &mut Said,
    ) -> Result<bool, Over> {
        let mut paused = None;
        let mut are_kept = true;
        while let Err(error) = keep_refused(refused) {
            let pause = match descriptors::are_exhausted_by(&error) {
                true => Pause::NoDescriptors,
                false => Pause::DiskFull,
            };
            if paused.replace(pause) != Some(pause) {
                self.pause(pause);
            }
            if said.due() {
                tracing::error!(%error, "dead letters cannot be written; nothing is accepted until they can be");
            }
            self.trim_at_once()?;
            self.show_bytes();
            if !(self.sleep)(LOG_RETRY) {
                let frames = refused.len();
                tracing::error!(%error, frames, "rejected frames could not be written to dead letters and are lost");
                are_kept = false;
                break;
            }
        }
        if paused.is_some() {
            self.health.set_pause(None);
        }
        Ok(are_kept)
    }

    /// Writes and syncs one record. `None`: there was no event in it.
    fn commit(&mut self, slots: &mut Vec<Slot>, said: &mut Said) -> Result<Option<Batch>, Over> {
        if slots.is_empty() {
            return Ok(None);
        }
        let tickets = self.last_tickets(slots);
        let entries: Vec<Entry<'_>> = slots.iter().filter_map(entry).collect();
        let first_position = self.append(&entries, said)?;
        for (event_loop, ticket) in self.reached(&tickets) {
            event_loop.watermarks.advance(AckLevel::Written, ticket);
            if event_loop.watermarks.is_written_wanted() {
                (event_loop.wake)();
            }
        }
        let started = Instant::now();
        let synced = self.writer.sync();
        synced.map_err(|failure| self.fail(&failure))?;
        self.metrics.wal_sync_seconds.observe(started.elapsed().as_secs_f64());
        for (event_loop, ticket) in self.reached(&tickets) {
            event_loop.watermarks.synced(ticket, self.writer.next_position());
        }
        for (event_loop, ticket) in self.loops.iter().zip(&tickets) {
            if *ticket > 0 || event_loop.watermarks.take_others_wanted() {
                (event_loop.wake)();
            }
        }
        let mut runs = Vec::with_capacity(slots.len());
        for Slot { content, received_unix_nano, origin, .. } in slots.drain(..) {
            if let Content::Events { payload, events, .. } = content
                && events > 0
            {
                runs.push(Run { payload: Payload::Pooled(payload), events, received_unix_nano, origin });
            }
        }
        Ok((!runs.is_empty()).then(|| Batch::new(first_position, runs)))
    }

    /// For each loop its last ticket in `slots`; 0: there is none. (A commit has few, so nothing is reused here.)
    fn last_tickets(&self, slots: &[Slot]) -> Vec<u64> {
        let mut tickets = vec![0; self.loops.len()];
        for Slot { ticket, .. } in slots {
            if let Some(last) = tickets.get_mut(ticket.event_loop.index()) {
                *last = ticket.number;
            }
        }
        tickets
    }

    /// The loops that have something in this commit, and up to which ticket.
    fn reached(&self, tickets: &[u64]) -> impl Iterator<Item = (&LoopEnd, u64)> {
        self.loops
            .iter()
            .zip(tickets)
            .filter(|(_, ticket)| **ticket > 0)
            .map(|(event_loop, ticket)| (event_loop, *ticket))
    }

    fn wake_all(&self) {
        self.loops.iter().for_each(|event_loop| (event_loop.wake)());
    }

    /// Appends, however long it takes until there is space.
    fn append(&mut self, entries: &[Entry<'_>], said: &mut Said) -> Result<u64, Over> {
        let mut paused = None;
        loop {
            let error = match self.writer.append(entries) {
                Ok(position) => {
                    if paused.is_some() {
                        self.health.set_pause(None);
                        if said.anything() {
                            tracing::info!("the log accepts events again");
                        }
                    }
                    return Ok(position);
                }
                Err(error) => error,
            };
            let pause = match &error {
                AppendError::Failed(failure) => return Err(self.fail(failure)),
                AppendError::Full if self.make_room()? => continue,
                AppendError::Full => Pause::LogFull,
                AppendError::NoSpace(_) => Pause::DiskFull,
                AppendError::NoDescriptors(_) => Pause::NoDescriptors,
            };
            // First the pause, then the line: whoever reads it finds that nothing is accepted.
            if paused != Some(pause) {
                paused = Some(pause);
                self.pause(pause);
            }
            if said.due() {
                self.log_pause(&error);
            }
            // What nobody needs any more is space, too.
            self.trim_at_once()?;
            self.show_bytes();
            if !(self.sleep)(LOG_RETRY) {
                return Err(Over);
            }
        }
    }

    fn log_pause(&self, error: &AppendError) {
        match error {
            // That is logged by `fail`.
            AppendError::Failed(_) => {}
            AppendError::NoSpace(error) => tracing::error!(
                %error,
                "the log cannot be written: make space on the file system of data_dir; nothing is accepted until then"
            ),
            AppendError::NoDescriptors(error) => tracing::error!(
                %error,
                "the log cannot open another segment, ingestion is paused: raise the limit of open files \
                 (LimitNOFILE=, ulimit -Hn), or lower server.max_connections"
            ),
            AppendError::Full => {
                let sinks = self.holding().map(Holder::name).collect::<Vec<_>>().join(", ");
                tracing::error!(
                    sinks,
                    "the log has reached wal.max_bytes with events that these sinks have not stored; nothing \
                     is accepted until they continue"
                );
            }
        }
    }

    /// The log accepts nothing for now. The event loops refuse requests at once, those that wait for memory included.
    fn pause(&self, pause: Pause) {
        self.health.set_pause(Some(pause));
        self.wake_all();
    }

    fn show_bytes(&self) {
        self.metrics.wal_bytes.set(self.writer.bytes().cast_signed());
    }

    /// The lowest position that a sink still needs.
    fn keep_from(&self) -> u64 {
        self.holders.iter().map(|holder| holder.position() + 1).min().unwrap_or(u64::MAX)
    }

    /// Who needs events of the oldest segment.
    fn holding(&self) -> impl Iterator<Item = &dyn Holder> {
        let needed = self.writer.oldest_segment_end();
        self.holders.iter().map(Box::as_ref).filter(move |holder| holder.position() + 1 < needed)
    }

    /// Deletes the segments that no sink needs, regardless of `wal.keep`. `true`: there were some.
    fn trim_at_once(&mut self) -> Result<bool, Over> {
        let before = self.writer.oldest_position();
        let keep_from = self.keep_from();
        let trimmed = self.writer.trim(keep_from, u64::MAX);
        trimmed.map_err(|failure| self.fail(&failure))?;
        Ok(self.writer.oldest_position() > before)
    }

    /// `wal.max_bytes` is reached: what no sink needs is dropped first, then the oldest events of sinks that allow it.
    fn make_room(&mut self) -> Result<bool, Over> {
        if self.trim_at_once()? {
            return Ok(true);
        }
        if self.holding().any(|holder| !holder.drops_oldest()) {
            return Ok(false);
        }
        let dropped = self.writer.drop_oldest();
        dropped.map(|dropped| dropped.is_some()).map_err(|failure| self.fail(&failure))
    }

    fn fail(&self, failure: &LogFailure) -> Over {
        tracing::error!(error = %failure, "the log failed: nothing more is acknowledged, the server ends");
        self.health.fail(failure.to_string());
        self.wake_all();
        Over
    }
}

/// What of a slot goes into the log.
fn entry(slot: &Slot) -> Option<Entry<'_>> {
    let (payload, events, payload_crc): (&[u8], _, _) = match &slot.content {
        Content::Events { payload, events, payload_crc } => (payload, *events, *payload_crc),
        // The good ones follow under the same sequence number.
        Content::Refused { code: NackCode::Partial, .. } => return None,
        // Uses up its sequence number.
        Content::Refused { .. } | Content::Hello | Content::Bye => (&[], 0, None),
    };
    let kind = match &slot.content {
        Content::Hello => Kind::Hello { last_seq: slot.seq },
        Content::Bye => Kind::Bye { last_seq: slot.seq },
        _ if slot.origin.agent_id.is_some() => Kind::Frame { seq: slot.seq, sent_crc: slot.sent_crc },
        _ => Kind::Request,
    };
    let Slot { origin, received_unix_nano, .. } = slot;
    Some(Entry { kind, origin, events, received_unix_nano: *received_unix_nano, payload, payload_crc })
}

impl Unwritten {
    fn and(self, slot: &Slot) -> Self {
        let Content::Events { events, .. } = &slot.content else { return self };
        let events = u64::from(*events);
        let let_go = if slot.is_let_go { events } else { 0 };
        Self { events: self.events + events, let_go_events: self.let_go_events + let_go, ..self }
    }
}

fn take_refused(slots: &[Slot], refused: &mut Vec<RefusedPayload>) {
    for slot in slots {
        if let Content::Refused { payload, events, code, reason } = &slot.content {
            refused.push(RefusedPayload {
                payload: payload.clone(),
                events: *events,
                code: *code,
                reason: reason.clone(),
                seq: slot.seq,
                received_unix_nano: slot.received_unix_nano,
                origin: slot.origin.clone(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::batch::Origin;
    use crate::batch::pool::Pool;
    use crate::ids::{LoopId, Ticket};
    use crate::pipeline::ring::ring;
    use crate::random::Random;
    use crate::wal::{self, DirStorage};

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
        positions: [Arc<AtomicU64>; 2],
        _dir: tempfile::TempDir,
    }

    impl Full {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let settings = wal::Settings {
                dir: dir.path().to_owned(),
                segment_bytes: 64 * 1024,
                max_bytes: 256 * 1024,
                keep: Duration::ZERO,
                max_agents: 10,
                dedupe_retention: Duration::from_secs(60),
            };
            let storage = Arc::new(DirStorage::create(dir.path()).unwrap());
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
            let positions = [Arc::new(AtomicU64::new(1)), Arc::new(AtomicU64::new(2))];
            let sink = |index: usize| Sink { position: positions[index].clone(), drops_oldest: index == 0 };
            let commit = GroupCommit {
                writer,
                holders: vec![Box::new(sink(0)), Box::new(sink(1))],
                loops: vec![LoopEnd { watermarks: Arc::default(), wake: Box::new(|| {}) }],
                health: Arc::default(),
                metrics: Metrics::new().unwrap(),
                sleep: Box::new(|_| false),
            };
            Self { commit, positions, _dir: dir }
        }
    }

    fn origin() -> Arc<Origin> {
        Arc::new(Origin { agent_id: None, agent: None, default_source: "x".into(), epoch: 0 })
    }

    #[test]
    fn a_segment_is_not_dropped_under_a_sink_that_blocks_although_another_one_is_further_behind() {
        let Full { mut commit, positions, _dir } = Full::new();
        let end = commit.writer.oldest_segment_end();
        assert!(end > 10);
        assert!(matches!(commit.make_room(), Ok(false)), "position 3 is needed by a sink that blocks");
        assert_eq!(commit.holding().map(Holder::name).collect::<Vec<_>>(), ["drops", "blocks"]);
        positions[1].store(end - 1, Ordering::Relaxed);
        assert!(matches!(commit.make_room(), Ok(true)));
        assert_eq!(commit.writer.oldest_position(), end);
    }

    #[test]
    fn while_dead_letters_cannot_be_written_the_log_gives_back_what_nobody_needs() {
        let Full { mut commit, positions, _dir } = Full::new();
        let (end, bytes) = (commit.writer.oldest_segment_end(), commit.writer.bytes());
        let (health, metrics) = (commit.health.clone(), commit.metrics.clone());
        // The sinks go on while the log thread sleeps.
        commit.sleep = Box::new(move |_| {
            positions.iter().for_each(|position| position.store(end - 1, Ordering::Relaxed));
            true
        });
        let (paused, shown) = (commit.health.clone(), commit.metrics.clone());
        let mut keep = |refused: &[RefusedPayload]| {
            assert!(refused.is_empty(), "the same again");
            // The disk has room once a segment is gone.
            if shown.wal_bytes.get() == 0 || shown.wal_bytes.get() >= bytes.cast_signed() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            assert_eq!(paused.not_ready(), Some("disk_full"));
            Ok(())
        };
        assert!(commit.keep(&[], &mut keep, &mut Said::default()).is_ok());
        assert_eq!((commit.writer.oldest_position(), health.not_ready()), (end, None));
        assert_eq!(metrics.wal_bytes.get(), commit.writer.bytes().cast_signed());
    }

    #[test]
    fn dead_letters_that_lack_a_descriptor_are_told_from_a_full_disk() {
        let Full { mut commit, .. } = Full::new();
        commit.sleep = Box::new(|_| true);
        let health = commit.health.clone();
        let mut reasons = Vec::new();
        let mut keep = |_: &[RefusedPayload]| {
            reasons.extend(health.not_ready());
            let error = match reasons.len() {
                0 => io::Error::from_raw_os_error(libc::ENFILE),
                1 => io::ErrorKind::StorageFull.into(),
                2 => return Ok(()),
                _ => panic!("called again after it worked"),
            };
            Err(descriptors::with_context("dead letters".to_owned(), error))
        };
        assert!(commit.keep(&[], &mut keep, &mut Said::default()).is_ok());
        assert_eq!((reasons, commit.health.not_ready()), (vec!["descriptors_exhausted", "disk_full"], None));
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
        let Full { mut commit, .. } = Full::new();
        let notes = Notes { health: commit.health.clone(), pauses: Arc::default() };
        let writer = notes.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            let origin = origin();
            let payload = [1; 1_000];
            let entry = Entry {
                kind: Kind::Request,
                origin: &origin,
                events: 1,
                received_unix_nano: 1,
                payload: &payload,
                payload_crc: None,
            };
            assert!(commit.append(&[entry], &mut Said::default()).is_err());
            let mut keep = |_: &[RefusedPayload]| Err(io::ErrorKind::StorageFull.into());
            assert!(matches!(commit.keep(&[], &mut keep, &mut Said::default()), Ok(false)));
        });
        // What follows the pause of `keep` is that the payloads are lost.
        assert_eq!(*notes.pauses.lock().unwrap(), [Some("log_full"), Some("disk_full"), Some("disk_full")]);
    }

    /// Requests that wait for memory are refused at once.
    #[test]
    fn a_pause_of_the_log_wakes_the_event_loop() {
        let Full { mut commit, .. } = Full::new();
        let woken = Arc::new(AtomicU64::new(0));
        let count = woken.clone();
        commit.loops[0].wake = Box::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        commit.sleep = Box::new(|_| true);
        let mut woken_before = Vec::new();
        let mut keep = |_: &[RefusedPayload]| {
            woken_before.push(woken.load(Ordering::Relaxed));
            if woken_before.len() <= 2 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        };
        assert!(commit.keep(&[], &mut keep, &mut Said::default()).is_ok());
        assert_eq!(woken_before[..2], [0, 1], "once, when the pause began");
    }

    #[test]
    fn dead_letters_that_cannot_be_written_do_not_keep_the_server_from_ending() {
        let Full { mut commit, .. } = Full::new();
        let mut keep = |_: &[RefusedPayload]| Err(io::ErrorKind::StorageFull.into());
        assert!(matches!(commit.keep(&[], &mut keep, &mut Said::default()), Ok(false)));
        assert_eq!(commit.health.not_ready(), None);
    }

    fn slot(ticket: u64, is_rejected: bool) -> Slot {
        let mut buffer = Pool::new(1_000, Box::new(|| {})).allocate(1_000).unwrap();
        assert!(buffer.extend(&[1; 1_000]));
        let payload = buffer.share(0..1_000);
        let content = match is_rejected {
            true => Content::Refused { payload, events: 1, code: NackCode::Malformed, reason: "x".into() },
            false => Content::Events { payload, events: 1, payload_crc: None },
        };
        let number = Ticket { event_loop: LoopId(0), number: ticket };
        Slot {
            ticket: number,
            content,
            origin: origin(),
            seq: ticket,
            sent_crc: 0,
            received_unix_nano: 1,
            is_let_go: false,
        }
    }

    #[test]
    fn rejected_payloads_that_are_stored_nowhere_are_counted() {
        for (is_kept, lost) in [(true, 1), (false, 3)] {
            let Full { commit, .. } = Full::new();
            let (mut sender, receiver) = ring(COMMIT_SLOTS_MAX + 1, Box::new(|| {}));
            (1..=2).for_each(|ticket| assert!(sender.push(slot(ticket, true)).is_ok()));
            assert!(sender.push(slot(3, false)).is_ok());
            let mut later = Some(sender);
            let keep = move |_: &[RefusedPayload]| {
                // Comes before the log has no space for the event.
                if let Some(mut sender) = later.take() {
                    assert!(sender.push(slot(4, true)).is_ok());
                }
                if is_kept { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
            };
            let unwritten = commit.run(Rings::new(vec![receiver]), keep, |_| {});
            assert_eq!((unwritten.rejected_payloads, unwritten.events), (lost, 1), "{is_kept}");
        }
    }
}
