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
//! * Once a second it looks which segments nobody needs any more.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::limits::{COMMIT_BYTES_MAX, COMMIT_SLOTS_MAX, LOG_RETRY, LOG_UPKEEP, LOG_WARNING_INTERVAL};
use crate::metrics::Metrics;
use crate::pipeline::batch::{Batch, Payload, Run};
use crate::pipeline::commit::RefusedPayload;
use crate::pipeline::health::{LogHealth, Pause};
use crate::pipeline::ring::{Content, Slot, SlotReceiver, Waited};
use crate::pipeline::watermark::Watermarks;
use crate::wal::{AppendError, Entry, Kind, LogFailure, Writer};
use crate::wire::{AckLevel, NackCode};

/// A sink, as far as the log keeps events for it.
pub trait Holder: Send {
    /// The last position that it has passed.
    fn position(&self) -> u64;
    /// Whether the oldest events may be dropped under it when `wal.max_bytes` is reached; else everybody waits for it.
    fn drops_oldest(&self) -> bool;
    fn name(&self) -> &str;
}

/// What the log thread works with.
pub struct GroupCommit {
    pub writer: Writer,
    pub holders: Vec<Box<dyn Holder>>,
    pub watermarks: Arc<Watermarks>,
    pub health: Arc<LogHealth>,
    pub metrics: Arc<Metrics>,
    /// Wakes the event loop, which acknowledges.
    pub wake: Box<dyn Fn() + Send>,
    /// Sleeps; `false`: the server ends and waits for nothing any more.
    pub sleep: Box<dyn Fn(Duration) -> bool + Send>,
}

/// The server ends, or the log failed.
struct Over;

/// What people were told of pauses: at most one line in a while, however often the log pauses and goes on.
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
    /// Runs until the event loop is gone and the ring is empty, or the log fails. Returns the events that were let go of by
    /// their senders and are not in the log. `keep_refused` gets what a commit holds
    /// of refused payloads, before anything of the commit is written; `offer` hands a synced batch to every router.
    pub fn run(
        mut self,
        mut ring: SlotReceiver,
        mut keep_refused: impl FnMut(&[RefusedPayload]),
        mut offer: impl FnMut(&Arc<Batch>),
    ) -> u64 {
        let mut slots = Vec::with_capacity(COMMIT_SLOTS_MAX);
        let mut refused = Vec::new();
        let mut said = Said::default();
        let mut upkeep_due = Instant::now() + LOG_UPKEEP;
        self.show_bytes();
        loop {
            match ring.wait_until(Some(upkeep_due)) {
                Waited::Gone => return 0,
                Waited::TimedOut => {}
                Waited::Slots => {
                    let mut bytes = 0;
                    ring.take(COMMIT_SLOTS_MAX, &mut slots, |slot| {
                        if let Content::Events { payload, .. } = &slot.content {
                            bytes += payload.len();
                        }
                        bytes >= COMMIT_BYTES_MAX
                    });
                    take_refused(&slots, &mut refused);
                    if !refused.is_empty() {
                        keep_refused(&refused);
                        refused.clear();
                    }
                    match self.commit(&mut slots, &mut said) {
                        Ok(Some(batch)) => offer(&Arc::new(batch)),
                        Ok(None) => {}
                        Err(Over) => {
                            // The loop reads nothing more either: this is all there is.
                            ring.take(usize::MAX, &mut slots, |_| false);
                            return slots.iter().map(let_go).sum();
                        }
                    }
                }
            }
            if Instant::now() >= upkeep_due {
                upkeep_due = Instant::now() + LOG_UPKEEP;
                let keep_from = self.keep_from();
                if let Err(failure) = self.writer.trim(keep_from, unix_nano()) {
                    self.fail(&failure);
                    return 0;
                }
                self.show_bytes();
            }
        }
    }

    /// Writes and syncs one record. `None`: there was no event in it.
    fn commit(&mut self, slots: &mut Vec<Slot>, said: &mut Said) -> Result<Option<Batch>, Over> {
        let Some(ticket) = slots.last().map(|slot| slot.ticket) else { return Ok(None) };
        let entries: Vec<Entry<'_>> = slots.iter().filter_map(entry).collect();
        let first_position = self.append(&entries, said)?;
        self.watermarks.advance(AckLevel::Written, ticket);
        if self.watermarks.is_written_wanted() {
            (self.wake)();
        }
        let started = Instant::now();
        if let Err(failure) = self.writer.sync() {
            self.fail(&failure);
            return Err(Over);
        }
        self.metrics.wal_sync_seconds.observe(started.elapsed().as_secs_f64());
        self.watermarks.synced(ticket, self.writer.next_position());
        (self.wake)();
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

    /// Appends, however long it takes until there is space.
    fn append(&mut self, entries: &[Entry<'_>], said: &mut Said) -> Result<u64, Over> {
        let mut paused = None;
        loop {
            let pause = match self.writer.append(entries) {
                Ok(position) => {
                    if paused.is_some() {
                        self.health.set_pause(None);
                        if said.anything() {
                            tracing::info!("the log takes events again");
                        }
                    }
                    return Ok(position);
                }
                Err(AppendError::Failed(failure)) => {
                    self.fail(&failure);
                    return Err(Over);
                }
                Err(AppendError::NoSpace(error)) => {
                    if said.due() {
                        tracing::error!(
                            %error,
                            "the log cannot be written: make space on the file system of data_dir; nothing is taken until then"
                        );
                    }
                    Pause::DiskFull
                }
                Err(AppendError::Full) => {
                    if self.make_room()? {
                        continue;
                    }
                    if said.due() {
                        let sinks = self.holding().join(", ");
                        tracing::error!(
                            sinks,
                            "the log is as large as wal.max_bytes allows, full of what these sinks have not taken; \
                             nothing is taken until they do"
                        );
                    }
                    Pause::LogFull
                }
            };
            if paused != Some(pause) {
                paused = Some(pause);
                self.health.set_pause(paused);
            }
            // What nobody needs any more is space, too.
            self.trim_at_once()?;
            self.show_bytes();
            if !(self.sleep)(LOG_RETRY) {
                return Err(Over);
            }
        }
    }

    fn show_bytes(&self) {
        self.metrics.wal_bytes.set(self.writer.bytes().cast_signed());
    }

    /// The lowest position that a sink still needs.
    fn keep_from(&self) -> u64 {
        self.holders.iter().map(|holder| holder.position() + 1).min().unwrap_or(u64::MAX)
    }

    /// The sinks that need the oldest segment.
    fn holding(&self) -> Vec<&str> {
        let keep_from = self.keep_from();
        let holding = self.holders.iter().filter(|holder| holder.position() < keep_from);
        holding.map(|holder| holder.name()).collect()
    }

    /// Deletes what nobody needs, whatever `wal.keep` says. `true`: something was.
    fn trim_at_once(&mut self) -> Result<bool, Over> {
        let before = self.writer.oldest_position();
        let keep_from = self.keep_from();
        if let Err(failure) = self.writer.trim(keep_from, u64::MAX) {
            self.fail(&failure);
            return Err(Over);
        }
        Ok(self.writer.oldest_position() > before)
    }

    /// `wal.max_bytes` is reached: what nobody needs goes first, then the oldest events of sinks that allow it.
    fn make_room(&mut self) -> Result<bool, Over> {
        if self.trim_at_once()? {
            return Ok(true);
        }
        let keep_from = self.keep_from();
        let blocked = self.holders.iter().any(|holder| holder.position() < keep_from && !holder.drops_oldest());
        if blocked {
            return Ok(false);
        }
        match self.writer.drop_oldest() {
            Ok(dropped) => Ok(dropped.is_some()),
            Err(failure) => {
                self.fail(&failure);
                Err(Over)
            }
        }
    }

    fn fail(&self, failure: &LogFailure) {
        tracing::error!(error = %failure, "the log failed: nothing more is acknowledged, the server ends");
        self.health.fail(failure.to_string());
        (self.wake)();
    }
}

/// What of a slot goes into the log.
fn entry(slot: &Slot) -> Option<Entry<'_>> {
    let (payload, events, payload_crc): (&[u8], _, _) = match &slot.content {
        Content::Events { payload, events, payload_crc } => (payload, *events, *payload_crc),
        // The good ones follow under the same sequence number.
        Content::Refused { code: NackCode::Partial, .. } => return None,
        // Uses up its sequence number.
        Content::Refused { .. } | Content::Hello => (&[], 0, None),
    };
    let kind = match &slot.content {
        Content::Hello => Kind::Hello { last_seq: slot.seq },
        _ if slot.origin.agent_id.is_some() => Kind::Frame { seq: slot.seq, sent_crc: slot.sent_crc },
        _ => Kind::Request,
    };
    let Slot { origin, received_unix_nano, .. } = slot;
    Some(Entry { kind, origin, events, received_unix_nano: *received_unix_nano, payload, payload_crc })
}

/// Events of a slot that nobody else holds.
fn let_go(slot: &Slot) -> u64 {
    match &slot.content {
        Content::Events { events, .. } if slot.is_let_go => u64::from(*events),
        _ => 0,
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

fn unix_nano() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}
