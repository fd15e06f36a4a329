//! What a router has yet to deliver: takes batches in order of position, decides when a delivery is due and what is in
//! it.
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
//!
//! With steps: see `window`.

mod window;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{iter, mem};

use super::steps::{Open, Steps};
use crate::batch::{Batch, Delivery, PickBuffer, Place, runs_from};
use crate::event::Events;
use crate::limits::STEPS_READ_EVENTS;
use crate::sink::{BatchSettings, ShardPositions};

/// What to do now.
#[derive(Debug)]
pub enum Due {
    /// Nothing is held.
    Nothing,
    /// Wait for more, until then.
    At(Instant),
    /// Deliver this.
    Now(Delivery),
}

/// The batches that a router holds, cut into deliveries.
#[derive(Debug)]
pub struct Gather {
    settings: BatchSettings,
    steps: Arc<Steps>,
    held: VecDeque<Arc<Batch>>,
    /// What the steps left of the batches that were held before; nothing where there are no steps.
    open: Open,
    /// Of the delivery with steps that is being delivered: its last position, and when its oldest event was received.
    lent: Option<(u64, u64)>,
    /// What shards of the store had when this began; `None`: there is one position for all.
    shards: Option<ShardPositions>,
    /// When the open delivery was first looked at.
    opened: Option<Instant>,
    /// Most encoded bytes of events that one delivery may have read, where it waits for its window to end.
    window_bytes_max: u64,
    /// What was due before everything began again: a delivery that has it all again waits no longer.
    owed: Option<u64>,
    /// Nothing that is held is followed by the next position.
    at_gap: bool,
    /// Where `next` begins in its run, if that is known.
    place: Option<Place>,
    /// Events that went through the steps since it was last asked what is due.
    read_events: u64,
    /// All positions below are stored, or went through the steps.
    next: u64,
    /// Of `held`, whole batches: what is pinned.
    events: u64,
    bytes: usize,
    /// Of those, what lies in the buffer pool.
    pinned_bytes: usize,
    last_delivery: Option<Instant>,
    closed: bool,
    /// Other steps, for what comes after the open delivery.
    next_steps: Option<(Arc<Steps>, Duration)>,
    /// Of the last delivery that was stored.
    picks: PickBuffer,
}

impl Gather {
    /// Nothing is stored yet: positions begin at 1.
    pub fn new(settings: BatchSettings, steps: Arc<Steps>) -> Self {
        Self {
            settings,
            steps,
            held: VecDeque::new(),
            open: Open::default(),
            lent: None,
            shards: None,
            opened: None,
            window_bytes_max: u64::MAX,
            owed: None,
            at_gap: false,
            place: None,
            read_events: 0,
            next: 1,
            events: 0,
            bytes: 0,
            pinned_bytes: 0,
            last_delivery: None,
            closed: false,
            next_steps: None,
            picks: PickBuffer::default(),
        }
    }

    /// Whether one more batch may be taken: what is held does not fill a delivery yet.
    pub fn has_room(&self) -> bool {
        if !self.steps.is_empty() {
            // What is held did not go through the steps, because the delivery is full or positions jump.
            return self.held.is_empty() && !self.is_open_full() && self.read_events < STEPS_READ_EVENTS;
        }
        self.events < self.settings.max_events.max(1) && self.bytes < self.settings.max_bytes.max(1)
    }

    /// Takes the batch that follows. What of it is stored already is left out.
    pub fn take(&mut self, batch: Arc<Batch>) {
        if batch.end_position() > self.next && batch.events() > 0 {
            self.events += batch.events();
            self.bytes += batch.payload_bytes();
            self.pinned_bytes += batch.pinned_bytes();
            self.held.push_back(batch);
        }
        self.pass_steps();
    }

    /// Whether positions that no batch will have follow what is held: then nothing waits for more.
    pub fn set_at_gap(&mut self, at_gap: bool) {
        self.at_gap = at_gap;
    }

    /// Bytes of the buffer pool that are held.
    pub fn pinned_bytes(&self) -> usize {
        self.pinned_bytes + self.open.pinned_bytes()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty() && self.open.is_empty() && self.lent.is_none()
    }

    /// When the oldest of what is held was received; `None`: nothing is held.
    pub fn oldest_unix_nano(&self) -> Option<u64> {
        if let Some(oldest) = self.lent.map(|(_, oldest)| oldest).or(self.open.oldest_unix_nano()) {
            return Some(oldest);
        }
        // A batch is one commit: what it holds came within moments.
        self.held.front()?.runs().first().map(|run| run.received_unix_nano)
    }

    /// Copies what is held out of the buffer pool. `parts`, which are being delivered, are moved to these copies; what of them
    /// is not held any more is copied too.
    pub fn unpin<'a>(&mut self, parts: impl IntoIterator<Item = &'a mut Delivery>) {
        let copy = |batch: &Arc<Batch>| (batch.clone(), batch.unpinned().map(Arc::new));
        let mut copies: Vec<_> = self.held.iter().map(copy).collect();
        let mut exchange = |batch: &Arc<Batch>| {
            if !copies.iter().any(|(copied, _)| Arc::ptr_eq(copied, batch)) {
                copies.push(copy(batch));
            }
            copies.iter().find(|(copied, _)| Arc::ptr_eq(copied, batch))?.1.clone()
        };
        for part in parts {
            part.exchange(&mut exchange);
        }
        self.open.exchange(exchange);
        for (held, (_, copy)) in self.held.iter_mut().zip(copies) {
            if let Some(copy) = copy {
                *held = copy;
            }
        }
        self.pinned_bytes = 0;
    }

    /// Begins again after `position`: what was held will be offered again. `shards`: what each shard of the store has.
    pub fn restart(&mut self, position: u64, shards: Option<ShardPositions>) {
        let new = Self::new(self.settings, self.steps.clone());
        let (window_bytes_max, last_delivery) = (self.window_bytes_max, self.last_delivery);
        let owed = self.lent.map(|(last, _)| last).or(self.owed).filter(|last| *last > position);
        let next_steps = self.next_steps.take();
        *self = Self { next: position + 1, shards, window_bytes_max, owed, last_delivery, next_steps, ..new };
    }

    /// No more batches will come: nothing waits for more any longer.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Whether no more batches will come.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// The next delivery, if it is time for it. Without steps it is the same one again until [`Gather::stored`] is called;
    /// with steps it is handed out once, and again only after [`Gather::restart`].
    pub fn due(&mut self, now: Instant) -> Due {
        self.read_events = 0;
        self.pass_steps();
        let is_full = !self.has_room();
        let since = match self.steps.aggregate() {
            Some(_) if !self.open.is_empty() => Some(*self.opened.get_or_insert(now)),
            _ => self.last_delivery,
        };
        let at = since.map(|since| since + self.settings.max_age);
        let is_owed = self.owed.zip(self.open.end_position()).is_some_and(|(owed, end)| owed < end);
        let at =
            at.filter(|at| *at > now && !is_full && !is_owed && !self.at_gap && !self.closed && !self.ends_early());
        if !self.open.is_empty() {
            return match at {
                Some(at) => Due::At(at),
                None => self.close_delivery(),
            };
        }
        match (self.held.front(), at) {
            (None, _) => Due::Nothing,
            (Some(_), Some(at)) => Due::At(at),
            (Some(first), None) => {
                let first = first.first_position().max(self.next);
                let (events, bytes) = (self.settings.max_events.max(1), self.settings.max_bytes.max(1));
                Due::Now(self.delivery(first, events, bytes, bytes))
            }
        }
    }

    /// Everything up to `position` is stored.
    pub fn stored(&mut self, position: u64) {
        self.lent = self.lent.filter(|(last, _)| *last > position);
        self.owed = self.owed.filter(|last| *last > position);
        self.passed(position.saturating_add(1));
    }

    /// All positions before `next` are stored, or went through the steps.
    fn passed(&mut self, next: u64) {
        self.next = self.next.max(next);
        while self.held.front().is_some_and(|batch| batch.end_position() <= self.next) {
            let Some(batch) = self.held.pop_front() else { break };
            self.events -= batch.events();
            self.bytes -= batch.payload_bytes();
            self.pinned_bytes -= batch.pinned_bytes();
        }
    }

    /// A delivery ended: the next one may wait for more from now on.
    pub fn delivery_ended(&mut self, now: Instant) {
        self.last_delivery = Some(now);
    }

    /// Takes back a delivery that is stored, for the memory of its picks.
    pub fn reuse(&mut self, delivery: Delivery) {
        self.picks = delivery.into_buffer();
    }

    /// What is held from `first` on: at most so many events and bytes, but at least one event. `enough` bytes of whole runs are
    /// not added to.
    fn delivery(&mut self, first: u64, events_left: u64, bytes_left: usize, enough: usize) -> Delivery {
        let place = self.place.filter(|place| place.position == first);
        let mut cut = Cut { first, end: first, events_left, bytes_left, missing: enough, place };
        let mut batches = 0;
        for batch in &self.held {
            // Positions may jump between batches, but not within a delivery.
            if batch.first_position() > cut.end {
                break;
            }
            let before = cut.end;
            let whole = cut.batch(batch);
            if cut.end > before {
                batches += 1;
            }
            if !whole {
                break;
            }
        }
        // The first of what is held: each has events in the delivery, and only the last one is cut.
        let batches: Arc<[_]> = self.held.iter().take(batches).cloned().collect();
        Delivery::resuming(mem::take(&mut self.picks), batches, first..=cut.end - 1, place)
    }
}

/// Where a delivery ends.
struct Cut {
    first: u64,
    end: u64,
    events_left: u64,
    bytes_left: usize,
    /// Bytes that are missing to what is enough.
    missing: usize,
    /// Of `first`.
    place: Option<Place>,
}

impl Cut {
    /// Adds what fits of `batch`; `false`: not all of it did.
    fn batch(&mut self, batch: &Batch) -> bool {
        if batch.payload_bytes() <= self.missing && self.whole(batch.end_position(), batch.payload_bytes()) {
            return true;
        }
        let place = self.place.filter(|_| self.end == self.first);
        for (_, run_first, run) in runs_from(batch, place) {
            let run_end = run_first + u64::from(run.events);
            if run_end <= self.end {
                continue;
            }
            if self.missing == 0 {
                return false;
            }
            if !self.whole(run_end, run.payload.len()) {
                // Cut between runs, so that runs need not be walked through; unless the first is too large itself.
                if self.end == self.first {
                    let (offset, before) = match self.place {
                        Some(place) => (place.offset, 0),
                        None => (0, (self.end - run_first) as usize),
                    };
                    self.within(Events::accepted(run.payload.get(offset..).unwrap_or_default()), before);
                }
                return false;
            }
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
            self.missing = self.missing.saturating_sub(bytes);
        }
        fits
    }

    /// As many of `events` as fit, at least one, without the first ones.
    fn within(&mut self, mut events: Events<'_>, before: usize) {
        let mut bytes = 0;
        let lengths = iter::from_fn(|| Some(events.next_encoded()?.1.len())).skip(before);
        let fitting = lengths.take_while(|length| {
            bytes += length;
            bytes <= self.bytes_left
        });
        self.end += (fitting.count() as u64).clamp(1, self.events_left);
    }
}

#[cfg(test)]
mod tests;
