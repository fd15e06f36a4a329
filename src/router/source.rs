//! Where a router's batches come from: the queue while it keeps up, the log for all it missed.
//!
//! ```text
//!  position:   … stored │ next ──────────────▶
//!  log         ─────────┼──── read ────▶┐
//!  queue                                └ [ batch that begins at next ] [ … ]
//! ```
//!
//! Batches come out in order of position, each position once, however they came in.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;
use std::{io, mem};

use super::queue::{Queue, Reshape, Taken};
use crate::batch::Batch;
use crate::wal::{Log, MissingReason, Read, Reader};

/// What comes next.
#[derive(Debug)]
pub(super) enum Next {
    /// The batch that contains the next position; it may begin before that.
    Batch(Arc<Batch>),
    /// Positions that no longer are, or never were, in the log.
    Missing(Range<u64>, MissingReason),
    /// Nothing now.
    Nothing,
    /// Nothing ever again.
    End,
}

/// The batches of one router.
pub(super) struct Source {
    queue: Arc<Queue>,
    /// `None`: there is no log, so the queue leaves nothing out.
    log: Option<(Arc<Log>, Reader)>,
    /// The position that comes next.
    next: u64,
    /// Offered up to here, exclusive: the log has it.
    known: u64,
    /// Taken from the queue, and what lies before it must be read first.
    ahead: Option<Arc<Batch>>,
}

impl Source {
    /// A source that begins at position 1. `log`: where missed batches are read; `None`: there is none.
    pub(super) fn new(queue: Arc<Queue>, log: Option<&Arc<Log>>) -> Self {
        Self { queue, log: log.map(|log| (log.clone(), log.reader(1))), next: 1, known: 0, ahead: None }
    }

    /// Goes on at `position`; backwards too, where there is a log.
    pub(super) fn seek(&mut self, position: u64) {
        self.next = position;
        self.ahead = None;
        if let Some((log, _)) = &self.log {
            // What was taken out of the queue and not stored is not in there any more.
            self.known = self.known.max(log.end());
        }
    }

    /// Everything up to `position` is stored, also where it did not come from here since the last [`Source::seek`]: it is not
    /// read again, and not missed if the log has dropped it since.
    pub(super) fn passed(&mut self, position: u64) {
        self.next = self.next.max(position.saturating_add(1));
    }

    /// What comes next, without waiting. `taken_bytes`: what the router holds of the pool.
    ///
    /// # Errors
    /// The log cannot be read now.
    pub(super) fn next(&mut self, taken_bytes: usize) -> io::Result<Next> {
        loop {
            let held = taken_bytes + self.ahead.as_ref().map_or(0, |batch| batch.pinned_bytes());
            let (batch, closed) = match mem::take(&mut self.ahead) {
                Some(batch) => (Some(batch), false),
                None => match self.queue.take(held) {
                    Taken::Batch(batch) => (Some(batch), false),
                    Taken::Empty { behind, closed } => {
                        self.known = self.known.max(behind);
                        (None, closed)
                    }
                },
            };
            if let Some(batch) = batch {
                if self.log.is_none() || batch.first_position() <= self.next {
                    if batch.end_position() <= self.next && batch.events() > 0 {
                        continue;
                    }
                    self.next = self.next.max(batch.end_position());
                    return Ok(Next::Batch(batch));
                }
                self.known = self.known.max(batch.first_position());
                self.ahead = Some(batch);
            }
            let Some((_, reader)) = &mut self.log else {
                return Ok(if closed { Next::End } else { Next::Nothing });
            };
            if self.next >= self.known {
                // In step with the log thread: what is read later will be elsewhere.
                reader.rest();
                return Ok(if closed { Next::End } else { Next::Nothing });
            }
            if reader.position() != self.next {
                reader.seek(self.next);
            }
            match reader.read_next()? {
                Some(Read::Batch(batch)) => {
                    self.next = self.next.max(batch.end_position());
                    return Ok(Next::Batch(batch));
                }
                Some(Read::Missing { positions, reason }) => {
                    self.next = self.next.max(positions.end);
                    return Ok(Next::Missing(positions, reason));
                }
                // Offered and not readable: it cannot be, as only what is synced is offered.
                None => return Ok(Next::Nothing),
            }
        }
    }

    /// Lets go of the buffer pool until [`Source::next`] is called again; see [`Queue::release`].
    pub(super) fn release(&mut self) {
        if self.log.is_some() {
            // What was taken out of the queue was offered, so it is below `behind`.
            self.ahead = None;
            self.queue.release();
        }
    }

    /// Takes the steps that a reload has left, if there are any.
    pub(super) fn take_reshape(&self) -> Option<Reshape> {
        self.queue.take_reshape()
    }

    /// Waits for more, or for the end; not longer than `until`.
    pub(super) fn wait(&self, until: Option<Instant>) {
        self.queue.wait(self.next, until);
    }
}

impl Drop for Source {
    /// Without a log, an offer must not wait for a router that has ended.
    fn drop(&mut self) {
        self.queue.close();
    }
}
