//! What a router owes its sink: takes batches in order of position, says when a delivery is due and what is in it.
//!
//! ```text
//!             ▼ next
//!  ┌─ Batch ──┬───────┐┌─ Batch ──────┐┌─ Batch ─┐
//!  │ stored   │ delivery: ≤ max_events,│  held on │   ◀─ take() while has_room()
//!  └──────────┴───────┘└  ≤ max_bytes ┘└─────────┘
//! ```
//!
//! An idle router delivers at once; after a delivery it waits up to `max_age` for the next one to fill. What is held
//! stays below the size of one delivery plus one batch. Clock and queue are the caller's.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::event::Events;
use crate::pipeline::batch::{Batch, Delivery};
use crate::sink::BatchSettings;

/// What to do now.
#[derive(Debug)]
pub enum Due {
    /// Nothing is held.
    Nothing,
    /// Wait for more, until then.
    At(Instant),
    Now(Delivery),
}

#[derive(Debug)]
pub struct Gather {
    settings: BatchSettings,
    held: VecDeque<Arc<Batch>>,
    /// All positions below are stored.
    next: u64,
    /// Of `held`, whole batches: what is pinned.
    events: u64,
    bytes: usize,
    last_delivery: Option<Instant>,
    closed: bool,
}

impl Gather {
    /// Nothing is stored yet: positions begin at 1.
    pub fn new(settings: BatchSettings) -> Self {
        Self { settings, held: VecDeque::new(), next: 1, events: 0, bytes: 0, last_delivery: None, closed: false }
    }

    /// Whether one more batch may be taken: what is held does not fill a delivery yet.
    pub fn has_room(&self) -> bool {
        self.events < self.settings.max_events.max(1) && self.bytes < self.settings.max_bytes.max(1)
    }

    /// Takes the batch that follows. What of it is stored already is left out.
    pub fn take(&mut self, batch: Arc<Batch>) {
        if batch.end_position() > self.next && batch.events() > 0 {
            self.events += batch.events();
            self.bytes += batch.payload_bytes();
            self.held.push_back(batch);
        }
    }

    /// No more batches will come: nothing waits for more any longer.
    pub fn close(&mut self) {
        self.closed = true;
    }

    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// The next delivery, if it is time for it. The same one again until [`Gather::stored`] says that it is done.
    pub fn due(&self, now: Instant) -> Due {
        let Some(first) = self.held.front() else { return Due::Nothing };
        let full = !self.has_room();
        match self.last_delivery.map(|last| last + self.settings.max_age) {
            Some(at) if at > now && !full && !self.closed => Due::At(at),
            _ => Due::Now(self.delivery(first.first_position().max(self.next))),
        }
    }

    /// Everything up to `position` is stored.
    pub fn stored(&mut self, position: u64) {
        self.next = self.next.max(position.saturating_add(1));
        while self.held.front().is_some_and(|batch| batch.end_position() <= self.next) {
            let Some(batch) = self.held.pop_front() else { break };
            self.events -= batch.events();
            self.bytes -= batch.payload_bytes();
        }
    }

    /// A delivery ended: the next one may wait for more from now on.
    pub fn delivery_ended(&mut self, now: Instant) {
        self.last_delivery = Some(now);
    }

    fn delivery(&self, first: u64) -> Delivery {
        let mut cut = Cut {
            first,
            end: first,
            events_left: self.settings.max_events.max(1),
            bytes_left: self.settings.max_bytes.max(1),
        };
        let mut batches = Vec::with_capacity(self.held.len());
        for batch in &self.held {
            // Positions may jump between batches, but not within a delivery.
            if batch.first_position() > cut.end {
                break;
            }
            let before = cut.end;
            let whole = cut.batch(batch);
            if cut.end > before {
                batches.push(batch.clone());
            }
            if !whole {
                break;
            }
        }
        Delivery::new(batches, first..=cut.end - 1)
    }
}

/// Where a delivery ends.
struct Cut {
    first: u64,
    end: u64,
    events_left: u64,
    bytes_left: usize,
}

impl Cut {
    /// Adds what fits of `batch`; `false`: not all of it did.
    fn batch(&mut self, batch: &Batch) -> bool {
        if self.whole(batch.end_position(), batch.payload_bytes()) {
            return true;
        }
        let mut run_first = batch.first_position();
        for run in batch.runs() {
            let run_end = run_first + u64::from(run.events);
            if run_end > self.end && !self.whole(run_end, run.payload.len()) {
                // Cut between runs, so that runs need not be walked through; unless the first is too large itself.
                if self.end == self.first {
                    self.within(Events::accepted(&run.payload).skip((self.end - run_first) as usize));
                }
                return false;
            }
            run_first = run_end;
        }
        true
    }

    fn whole(&mut self, end: u64, bytes: usize) -> bool {
        let events = end - self.end;
        let fits = events <= self.events_left && bytes <= self.bytes_left;
        if fits {
            self.end = end;
            self.events_left -= events;
            self.bytes_left -= bytes;
        }
        fits
    }

    /// As many of `events` as fit, at least one.
    fn within<'a>(&mut self, events: impl Iterator<Item = crate::event::EventRef<'a>>) {
        let mut bytes = 0;
        let fitting = events.take_while(|event| {
            bytes += event.bytes().len();
            bytes <= self.bytes_left
        });
        self.end += (fitting.count() as u64).clamp(1, self.events_left);
    }
}
