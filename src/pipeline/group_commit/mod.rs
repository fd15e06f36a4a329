//! The log thread with a log: everything in the rings becomes one record, one sync, one step of the watermarks.
//!
//! ```text
//!            slots                     written                      synced
//!  Idle ────────▶ Keep ──▶ Append ───────────────▶ Sync ──▶ Synced ────────▶ Idle     batch ─▶ routers
//!   ▲ upkeep    ▲  │      ▲   │                               │
//!   └ each      │  ▼      │   ▼ no space, log full             └ error: End, and the process with it
//!     second  KeepFailed  AppendFailed
//!              │ pause, or lost ─▶ Append     │ pause, or End
//! ```
//!
//! * [`GroupCommit::step`] does what is to be done between two arrows, and answers what the thread has to wait for. It reads no
//!   clock and does not sleep; it only blocks in calls to the disk. [`thread::run`] is the loop over it.
//! * It never waits to fill a commit: an event alone is synced at once, and what comes during a sync is the next commit.
//! * A batch is offered, not owed: a router without room reads it from the log.
//! * Once a second it looks which segments no sink needs any more.

mod slots;
mod span;
#[cfg(test)]
mod tests;
pub mod thread;

use std::sync::Arc;
use std::time::Instant;
use std::{io, mem};

pub use self::slots::Unwritten;
use self::slots::{copy_refused, entry, is_refused, runs};
use self::span::CommitSpan;
use crate::batch::Batch;
use crate::descriptors;
use crate::limits::{COMMIT_BYTES_MAX, COMMIT_SLOTS_MAX, LOG_RETRY, LOG_UPKEEP, LOG_WARNING_INTERVAL};
use crate::metrics::Metrics;
use crate::pipeline::health::{LogHealth, Pause};
use crate::pipeline::next::Next;
use crate::pipeline::ring::{Content, Slot};
use crate::pipeline::rings::{Found, Rings};
use crate::pipeline::watermark::Watermarks;
use crate::pipeline::without_log::RefusedPayload;
use crate::time::{Now, unix_nano};
use crate::wal::{AppendError, Entry, LogFailure, Writer};
use crate::wire::AckLevel;

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
pub struct Parts {
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
    /// Whether the server ends at this moment and waits for nothing any more.
    pub is_over: Box<dyn Fn(Instant) -> bool + Send>,
}

/// Has refused payloads kept.
pub type KeepRefused = dyn FnMut(&[RefusedPayload]) -> io::Result<()> + Send;

/// Takes a batch.
pub type Offer = dyn FnMut(&Arc<Batch>) + Send;

/// Where a commit goes besides the log.
pub struct Outlets {
    /// Gets what a commit holds of refused payloads, before anything of the commit is written. Called again after an error.
    pub keep_refused: Box<KeepRefused>,
    /// Hands a synced batch to every router.
    pub offer: Box<Offer>,
}

/// The state machine of the log thread.
pub struct GroupCommit {
    parts: Parts,
    outlets: Outlets,
    rings: Rings,
    state: State,
    /// What was taken from the rings and is not synced yet.
    slots: Vec<Slot>,
    /// Of the commit that they belong to.
    span: CommitSpan,
    /// What of it is not in dead letters yet.
    refused: Vec<RefusedPayload>,
    /// For each loop its last ticket in `slots`; 0: there is none.
    tickets: Vec<u64>,
    /// Why the log accepts nothing, while it does not; the event loops have seen it.
    paused: Option<Pause>,
    lines: PauseLines,
    upkeep_due: Instant,
    /// Refused payloads that were given up.
    lost: u64,
}

/// What is done next.
enum State {
    /// Take from the rings.
    Idle,
    /// Have refused payloads kept.
    Keep,
    /// That failed: pause, or give them up.
    KeepFailed(io::Error),
    /// Append what was taken.
    Append,
    /// That failed for now: pause, or give up.
    AppendFailed,
    /// Sync the record, whose first event has this position.
    Sync { first_position: u64 },
    /// The sync that began at `since` has ended.
    Synced { first_position: u64, since: Instant, result: Result<(), LogFailure> },
}

/// The server ends, or the log failed.
struct Over;

type Stepped = Result<Next<Unwritten>, Over>;

/// Log lines about pauses: at most one in a while, however often the log pauses and continues.
#[derive(Default)]
struct PauseLines {
    next: Option<Instant>,
    /// A line was logged since the log last worked.
    logged: bool,
}

impl PauseLines {
    fn due(&mut self, now: Instant) -> bool {
        let due = self.next.is_none_or(|next| now >= next);
        if due {
            (self.next, self.logged) = (Some(now + LOG_WARNING_INTERVAL), true);
        }
        due
    }
}

impl GroupCommit {
    /// Nothing is taken from the rings yet.
    pub fn new(parts: Parts, outlets: Outlets, rings: Rings, now: Now) -> Self {
        let tickets = vec![0; parts.loops.len()];
        let group_commit = Self {
            parts,
            outlets,
            rings,
            state: State::Idle,
            slots: Vec::with_capacity(COMMIT_SLOTS_MAX),
            span: CommitSpan::default(),
            refused: Vec::new(),
            tickets,
            paused: None,
            lines: PauseLines::default(),
            upkeep_due: now.monotonic + LOG_UPKEEP,
            lost: 0,
        };
        group_commit.show_bytes();
        group_commit
    }

    /// Does what is next. It ends with what is not in the log.
    pub fn step(&mut self, now: Now) -> Next<Unwritten> {
        self.try_step(now).unwrap_or_else(|Over| Next::End(self.unwritten()))
    }

    fn try_step(&mut self, now: Now) -> Stepped {
        let _entered = self.span.entered();
        match mem::replace(&mut self.state, State::Idle) {
            State::Idle => self.take(now),
            State::Keep => self.keep(now),
            State::KeepFailed(error) => Ok(self.keep_failed(&error, now)),
            State::Append => self.append(now),
            State::AppendFailed => self.append_failed(now),
            State::Sync { first_position } => {
                let result = self.parts.writer.sync();
                self.state = State::Synced { first_position, since: now.monotonic, result };
                Ok(Next::Step)
            }
            State::Synced { first_position, since, result } => {
                result.map_err(|failure| self.fail(&failure))?;
                let sync_seconds = (now.monotonic - since).as_secs_f64();
                self.parts.metrics.wal_sync_seconds.observe(sync_seconds);
                mem::take(&mut self.span).log_end(sync_seconds, now.monotonic);
                self.synced(first_position);
                Ok(Next::Step)
            }
        }
    }

    /// What is not in the log, of this commit and of what is still in the rings. The loops read nothing more either: this is all
    /// there is.
    fn unwritten(&mut self) -> Unwritten {
        let rejected_payloads = self.lost + self.refused.len() as u64;
        self.refused.clear();
        let taken = Unwritten { rejected_payloads, ..Unwritten::default() };
        let mut unwritten = self.slots.drain(..).fold(taken, |unwritten, slot| unwritten.and(&slot));
        self.rings.take(usize::MAX, &mut self.slots, |_| false);
        unwritten.rejected_payloads += self.slots.iter().filter(|slot| is_refused(slot)).count() as u64;
        self.slots.drain(..).fold(unwritten, |unwritten, slot| unwritten.and(&slot))
    }

    /// Takes what is in the rings.
    fn take(&mut self, now: Now) -> Stepped {
        let found = self.rings.look();
        if found == Found::Gone {
            return Ok(Next::End(Unwritten { rejected_payloads: self.lost, ..Unwritten::default() }));
        }
        if now.monotonic >= self.upkeep_due {
            self.upkeep(now)?;
        }
        if found == Found::Nothing {
            return Ok(Next::Wait(Some(self.upkeep_due)));
        }
        let mut bytes = 0;
        self.rings.take(COMMIT_SLOTS_MAX, &mut self.slots, |slot| {
            if let Content::Events { payload, .. } = &slot.content {
                bytes += payload.len();
            }
            bytes >= COMMIT_BYTES_MAX
        });
        self.span = CommitSpan::new(&self.slots, self.parts.writer.next_position(), now.monotonic);
        let _entered = self.span.entered();
        copy_refused(&self.slots, &mut self.refused);
        if self.refused.is_empty() { self.append(now) } else { self.keep(now) }
    }

    /// Has refused payloads kept. What sinks have passed is deleted where that fails: it may be what the disk is full of.
    fn keep(&mut self, now: Now) -> Stepped {
        let Err(error) = (self.outlets.keep_refused)(&self.refused) else {
            self.refused.clear();
            self.resume();
            return self.append(now);
        };
        // First the pause, then the line: whoever reads it finds that nothing is accepted.
        self.pause(match descriptors::are_exhausted_by(&error) {
            true => Pause::NoDescriptors,
            false => Pause::DiskFull,
        });
        if self.lines.due(now.monotonic) {
            tracing::error!(%error, "dead letters cannot be written; nothing is accepted until they can be");
        }
        self.trim_at_once()?;
        self.show_bytes();
        self.state = State::KeepFailed(error);
        Ok(Next::Step)
    }

    /// The failed attempt has ended at `now`.
    fn keep_failed(&mut self, error: &io::Error, now: Now) -> Next<Unwritten> {
        if !(self.parts.is_over)(now.monotonic) {
            self.state = State::Keep;
            return Next::Pause(now.monotonic + LOG_RETRY);
        }
        let frames = self.refused.len();
        tracing::error!(%error, frames, "rejected frames could not be written to dead letters and are lost");
        self.lost += frames as u64;
        self.refused.clear();
        self.resume();
        self.state = State::Append;
        Next::Step
    }

    /// Writes one record, which is not synced yet.
    fn append(&mut self, now: Now) -> Stepped {
        let slots = mem::take(&mut self.slots);
        let entries: Vec<Entry<'_>> = slots.iter().filter_map(entry).collect();
        let appended = self.append_entries(&entries);
        drop(entries);
        self.slots = slots;
        match appended? {
            Ok(first_position) => {
                if self.resume() && mem::take(&mut self.lines.logged) {
                    tracing::info!("the log accepts events again");
                }
                self.written();
                self.state = State::Sync { first_position };
            }
            Err(error) => {
                self.append_paused(&error, now)?;
                self.state = State::AppendFailed;
            }
        }
        Ok(Next::Step)
    }

    /// Appends, and drops what may be dropped where that makes room. `Ok(Err(…))`: not now.
    fn append_entries(&mut self, entries: &[Entry<'_>]) -> Result<Result<u64, AppendError>, Over> {
        loop {
            match self.parts.writer.append(entries) {
                Err(AppendError::Failed(failure)) => return Err(self.fail(&failure)),
                Err(AppendError::Full) if self.make_room()? => {}
                appended => return Ok(appended),
            }
        }
    }

    fn append_paused(&mut self, error: &AppendError, now: Now) -> Result<(), Over> {
        // First the pause, then the line, as above.
        self.pause(match error {
            AppendError::NoDescriptors(_) => Pause::NoDescriptors,
            AppendError::NoSpace(_) => Pause::DiskFull,
            AppendError::Full | AppendError::Failed(_) => Pause::LogFull,
        });
        if self.lines.due(now.monotonic) {
            self.log_pause(error);
        }
        // What nobody needs any more is space, too.
        self.trim_at_once()?;
        self.show_bytes();
        Ok(())
    }

    /// The failed attempt has ended at `now`.
    fn append_failed(&mut self, now: Now) -> Stepped {
        if (self.parts.is_over)(now.monotonic) {
            return Err(Over);
        }
        self.state = State::Append;
        Ok(Next::Pause(now.monotonic + LOG_RETRY))
    }

    /// The record is written.
    fn written(&mut self) {
        self.tickets.fill(0);
        for ticket in self.slots.iter().map(Slot::ticket) {
            if let Some(last) = self.tickets.get_mut(ticket.event_loop.index()) {
                *last = ticket.number;
            }
        }
        for (event_loop, ticket) in self.reached() {
            event_loop.watermarks.advance(AckLevel::Written, ticket);
            if event_loop.watermarks.is_written_wanted() {
                (event_loop.wake)();
            }
        }
    }

    /// The record is synced: those who wait for it are woken, and routers get its batch.
    fn synced(&mut self, first_position: u64) {
        for (event_loop, ticket) in self.reached() {
            event_loop.watermarks.synced(ticket, self.parts.writer.next_position());
        }
        for (event_loop, ticket) in self.parts.loops.iter().zip(&self.tickets) {
            if *ticket > 0 || event_loop.watermarks.take_others_wanted() {
                (event_loop.wake)();
            }
        }
        let runs = runs(&mut self.slots);
        if !runs.is_empty() {
            (self.outlets.offer)(&Arc::new(Batch::new(first_position, runs)));
        }
    }

    /// The loops that have something in this commit, and up to which ticket.
    fn reached(&self) -> impl Iterator<Item = (&LoopEnd, u64)> {
        let ends = self.parts.loops.iter().zip(self.tickets.iter().copied());
        ends.filter(|(_, ticket)| *ticket > 0)
    }

    fn wake_all(&self) {
        self.parts.loops.iter().for_each(|event_loop| (event_loop.wake)());
    }

    fn upkeep(&mut self, now: Now) -> Result<(), Over> {
        self.upkeep_due = now.monotonic + LOG_UPKEEP;
        let keep_from = self.keep_from();
        let trimmed = self.parts.writer.trim(keep_from, unix_nano(now.wall));
        trimmed.map_err(|failure| self.fail(&failure))?;
        self.show_bytes();
        Ok(())
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
    fn pause(&mut self, pause: Pause) {
        if self.paused.replace(pause) != Some(pause) {
            self.parts.health.set_pause(Some(pause));
            self.wake_all();
        }
    }

    /// What was tried worked, or is given up. `true`: there was a pause.
    fn resume(&mut self) -> bool {
        let was_paused = self.paused.take().is_some();
        if was_paused {
            self.parts.health.set_pause(None);
        }
        was_paused
    }

    fn show_bytes(&self) {
        let (metrics, writer) = (&self.parts.metrics, &self.parts.writer);
        metrics.wal_bytes.set(writer.bytes().cast_signed());
        metrics.wal_bytes_needed.set(writer.bytes_from(self.keep_from()).cast_signed());
    }

    /// The lowest position that a sink still needs.
    fn keep_from(&self) -> u64 {
        self.parts.holders.iter().map(|holder| holder.position() + 1).min().unwrap_or(u64::MAX)
    }

    /// Who needs events of the oldest segment.
    fn holding(&self) -> impl Iterator<Item = &dyn Holder> {
        let needed = self.parts.writer.oldest_segment_end();
        self.parts.holders.iter().map(Box::as_ref).filter(move |holder| holder.position() + 1 < needed)
    }

    /// Deletes the segments that no sink needs, regardless of `wal.keep`. `true`: there were some.
    fn trim_at_once(&mut self) -> Result<bool, Over> {
        let before = self.parts.writer.oldest_position();
        let keep_from = self.keep_from();
        let trimmed = self.parts.writer.trim(keep_from, u64::MAX);
        trimmed.map_err(|failure| self.fail(&failure))?;
        Ok(self.parts.writer.oldest_position() > before)
    }

    /// `wal.max_bytes` is reached: what no sink needs is dropped first, then the oldest events of sinks that allow it.
    fn make_room(&mut self) -> Result<bool, Over> {
        if self.trim_at_once()? {
            return Ok(true);
        }
        if self.holding().any(|holder| !holder.drops_oldest()) {
            return Ok(false);
        }
        let dropped = self.parts.writer.drop_oldest();
        dropped.map(|dropped| dropped.is_some()).map_err(|failure| self.fail(&failure))
    }

    fn fail(&self, failure: &LogFailure) -> Over {
        tracing::error!(error = %failure, "the log failed: nothing more is acknowledged, the server ends");
        self.parts.health.fail(failure.to_string());
        self.wake_all();
        Over
    }
}
