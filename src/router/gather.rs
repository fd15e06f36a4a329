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
//! **With steps**, a batch goes through them as soon as it is taken, and what is left is added to the delivery that is
//! open:
//!
//! ```text
//!  ┌─ Batch ──┐
//!  │ 7 … 99   │ ─▶ steps ─▶ [ open delivery: rows, covers 1 … 99 ]     ≤ max_events and max_bytes of rows
//!  └──────────┘
//! ```
//!
//! `max_events` and `max_bytes` then count rows, so that a sink of which most is filtered does not get a transaction for
//! each few of them, and none for each batch of which nothing is left: these move the position with the next rows, or
//! after `max_age`, or when they are many (`STEPS_COVERED_EVENTS`). With `aggregate` a delivery is a window: it is gathered for `max_age` from its first event on, also by a
//! router that was idle.
//!
//! A window also ends before its time: when it is full of rows or series, has read a quarter of what the log may hold (which the
//! log would wait for), where a gap in the positions follows, and after a failed delivery once it has all events of that one again.
//!
//! **Shards.** Of a store with several positions, a shard may have events that others lack. They are left out before the steps:
//! a row that stands for several events must stand for none that the shard has.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{iter, mem};

use super::steps::{Open, Steps};
use crate::batch::{Batch, Delivery, Fate, PickBuffer, Place, runs_from};
use crate::event::Events;
use crate::limits::{STEPS_PIECE_BYTES, STEPS_READ_EVENTS};
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

    /// Other steps from the next delivery on, and another `batch.max_age`. An open delivery ends at once, with the steps that it was
    /// gathered with: what has to be delivered again, too, once it is delivered.
    pub fn change_steps(&mut self, steps: Arc<Steps>, max_age: Duration) {
        self.next_steps = Some((steps, max_age));
    }

    /// Takes the other steps where nothing has gone through the present ones that is not stored.
    fn take_next_steps(&mut self) {
        if self.open.is_empty()
            && self.lent.is_none()
            && self.owed.is_none()
            && let Some((steps, max_age)) = self.next_steps.take()
        {
            self.steps = steps;
            self.settings.max_age = max_age;
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

    /// Lets what is held go through the steps, as far as there is room.
    fn pass_steps(&mut self) {
        self.take_next_steps();
        while !self.steps.is_empty() && !self.is_open_full() {
            let Some(batch) = self.held.front() else { return };
            let first = batch.first_position().max(self.next);
            // Positions do not jump within a delivery.
            if self.open.end_position().is_some_and(|end| end != first) {
                return;
            }
            let oldest = batch.runs().first().map_or(0, |run| run.received_unix_nano);
            let (events, bytes) = self.open.room(&self.steps, self.settings);
            let piece = self.delivery(first, events, bytes, STEPS_PIECE_BYTES);
            self.place = piece.end_place(self.place.filter(|place| place.position == first));
            let piece = self.without_stored(piece);
            let next = piece.last_position() + 1;
            self.read_events += next - first;
            self.open.add(&self.steps, piece, oldest);
            self.passed(next);
        }
    }

    fn is_open_full(&self) -> bool {
        let is_window = self.steps.aggregate().is_some();
        self.open.is_full(self.settings) || is_window && self.open.read_bytes() >= self.window_bytes_max
    }

    /// Most encoded bytes of events that a window may read before it is delivered. Unless it is called there is no such limit.
    pub fn limit_window(&mut self, bytes: u64) {
        self.window_bytes_max = bytes;
    }

    /// Whether positions that no batch will have follow what is held: then nothing waits for more.
    pub fn set_at_gap(&mut self, at_gap: bool) {
        self.at_gap = at_gap;
    }

    /// Leaves out what shards of the store have already.
    fn without_stored(&self, piece: Delivery) -> Delivery {
        match &self.shards {
            Some(shards) if piece.first_position() <= shards.highest() => {
                piece.shaped(|record, _| match shards.have(record.source(), record.position) {
                    true => Fate::There,
                    false => Fate::Keep,
                })
            }
            _ => piece,
        }
    }

    /// Whether what is gathered depends on what each shard of the store has.
    pub fn is_by_shards(&self) -> bool {
        self.shards.is_some() && !self.steps.is_empty()
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

    /// The open delivery ends before its time, because other steps wait; but not before it has all that was due.
    fn ends_early(&self) -> bool {
        self.next_steps.is_some() && self.owed.is_none()
    }

    fn close_delivery(&mut self) -> Due {
        let oldest = self.open.oldest_unix_nano().unwrap_or_default();
        self.opened = None;
        let Some(delivery) = self.open.close(&self.steps) else { return Due::Nothing };
        self.lent = Some((delivery.last_position(), oldest));
        Due::Now(delivery)
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
mod tests {
    use std::ops::RangeInclusive;

    use proptest::prelude::*;

    use super::*;
    use crate::batch::Fate;
    use crate::batch::testing::pooled_batch;
    use crate::event::proto::Event;
    use crate::limits;
    use crate::metrics::FilterStep;
    use crate::router::steps::Step;
    use crate::sink::testing::{RECEIVED_UNIX_NANO, batch, batch_of, named};

    const AGE: Duration = Duration::from_millis(50);

    fn gather(max_events: u64, max_bytes: usize) -> Gather {
        Gather::new(BatchSettings { max_events, max_bytes, max_age: AGE }, Arc::default())
    }

    fn positions(delivery: &Delivery) -> RangeInclusive<u64> {
        delivery.first_position()..=delivery.last_position()
    }

    #[track_caller]
    fn now(due: Due) -> Delivery {
        match due {
            Due::Now(delivery) => delivery,
            other => panic!("{other:?}"),
        }
    }

    /// Takes everything that is due at `at`, as if each delivery was stored at once.
    /// What follows `position`, it included.
    fn rest(delivery: &Delivery, position: u64) -> Delivery {
        Delivery::of_picks(delivery, delivery.picks().filter_map(|pick| pick.split_at(position).1))
    }

    fn store_all(gather: &mut Gather, at: Instant) -> Vec<RangeInclusive<u64>> {
        let mut stored = Vec::new();
        while let Due::Now(delivery) = gather.due(at) {
            gather.stored(delivery.last_position());
            stored.push(positions(&delivery));
        }
        stored
    }

    #[test]
    fn an_idle_router_delivers_at_once() {
        let start = Instant::now();
        let mut gather = gather(100, 1 << 20);
        assert!(matches!(gather.due(start), Due::Nothing));
        gather.take(batch(1..=1));
        assert_eq!(positions(&now(gather.due(start))), 1..=1);
        assert_eq!(positions(&now(gather.due(start))), 1..=1, "the same until it is stored");
        gather.stored(1);
        gather.delivery_ended(start);
        assert!(matches!(gather.due(start), Due::Nothing));
        gather.take(batch(2..=2));
        assert_eq!(positions(&now(gather.due(start + AGE))), 2..=2, "idle for long enough");
    }

    #[test]
    fn after_a_delivery_the_next_one_may_fill_for_max_age() {
        let start = Instant::now();
        let mut gather = gather(10, 1 << 20);
        gather.delivery_ended(start);
        gather.take(batch(1..=4));
        assert!(matches!(gather.due(start), Due::At(at) if at == start + AGE));
        gather.take(batch(5..=9));
        assert!(matches!(gather.due(start), Due::At(_)));
        gather.take(batch(10..=10));
        assert_eq!(positions(&now(gather.due(start))), 1..=10, "full");
    }

    #[test]
    fn a_closed_router_waits_for_nothing() {
        let start = Instant::now();
        let mut gather = gather(10, 1 << 20);
        gather.delivery_ended(start);
        gather.take(batch(1..=4));
        gather.close();
        assert_eq!(positions(&now(gather.due(start))), 1..=4);
    }

    #[test]
    fn batches_are_joined_and_split_by_events() {
        let start = Instant::now();
        let mut gather = gather(4, 1 << 20);
        for first in [1, 4, 7] {
            gather.take(batch(first..=first + 2));
        }
        assert_eq!(store_all(&mut gather, start), [1..=3, 4..=6, 7..=9], "runs are not cut without need");
        gather.take(batch(10..=19));
        assert_eq!(store_all(&mut gather, start), [10..=13, 14..=17, 18..=19]);
    }

    #[test]
    fn batches_are_split_by_bytes_and_one_event_is_always_allowed() {
        let start = Instant::now();
        let mut gather = gather(1_000, 100);
        let sized = |bytes: usize| Event { body: "x".repeat(bytes), ..named("e") };
        let events = [10, 10, 500, 10, 30, 30, 30, 500].map(sized).to_vec();
        gather.take(batch_of(1, vec![events]));
        gather.take(batch_of(9, vec![vec![sized(10)], vec![sized(10)], vec![sized(80)]]));
        assert_eq!(store_all(&mut gather, start), [1..=2, 3..=3, 4..=6, 7..=7, 8..=8, 9..=10, 11..=11]);
    }

    #[test]
    fn what_is_held_is_bounded() {
        let mut gather = gather(10, 1 << 20);
        gather.take(batch(1..=9));
        assert!(gather.has_room());
        gather.take(batch(10..=500));
        assert!(!gather.has_room());
        gather.stored(499);
        assert!(!gather.has_room(), "a batch that is stored in part is held as a whole");
        gather.stored(500);
        assert!(gather.has_room());
    }

    #[test]
    fn what_is_stored_already_is_skipped_and_gaps_are_not_spanned() {
        let start = Instant::now();
        let mut gather = gather(100, 1 << 20);
        gather.stored(5);
        gather.take(batch(1..=3));
        assert!(matches!(gather.due(start), Due::Nothing));
        gather.take(batch(4..=8));
        gather.take(batch(9..=9));
        gather.take(batch(1_000..=1_001));
        gather.take(batch_of(1_002, vec![]));
        assert_eq!(store_all(&mut gather, start), [6..=9, 1_000..=1_001]);
        assert!(matches!(gather.due(start), Due::Nothing));
    }

    #[test]
    fn what_is_held_and_being_delivered_leaves_the_pool_and_stays_the_same() {
        let start = Instant::now();
        let mut gather = gather(9, 1 << 20);
        for first in [1, 4, 7] {
            gather.take(pooled_batch(first..=first + 2));
        }
        let records = |delivery: &Delivery| {
            delivery.records().map(|record| (record.position, record.event.bytes().to_vec())).collect::<Vec<_>>()
        };
        let mut delivery = now(gather.due(start));
        let before = records(&delivery);
        // Its first part is stored: of the first batch nothing is needed any more, of the second one the rest.
        gather.stored(5);
        delivery = rest(&delivery, 6);
        assert!(gather.pinned_bytes() > 0);
        // One that is not held any more, as after a restart.
        let mut other = delivery.clone();
        let held: Vec<_> = gather.held.iter().map(Arc::downgrade).collect();
        gather.unpin([&mut delivery]);
        Gather::new(gather.settings, Arc::default()).unpin([&mut other]);
        assert!(held.iter().all(|batch| batch.upgrade().is_none()), "a batch in the pool is still held");
        assert_eq!(gather.pinned_bytes(), 0);
        assert_eq!((records(&delivery), records(&other)), (before[5..].to_vec(), before[5..].to_vec()));
        assert_eq!(rest(&delivery, 9).records().count(), 1);
        gather.unpin([]);
        assert_eq!(store_all(&mut gather, start), [6..=9]);
        assert!(gather.is_empty() && gather.pinned_bytes() == 0 && gather.bytes == 0);
    }

    /// Keeps one position of `0`.
    struct KeepOneOf(u64);

    impl Step for KeepOneOf {
        fn apply(&self, delivery: Delivery) -> Delivery {
            delivery.shaped(|record, _| match record.position.is_multiple_of(self.0) {
                true => Fate::Keep,
                false => Fate::Filter(FilterStep::Sample),
            })
        }
    }

    fn keeping_one_of(number: u64, max_events: u64) -> Gather {
        let settings = BatchSettings { max_events, max_bytes: 1 << 20, max_age: AGE };
        Gather::new(settings, Arc::new(Steps::of_events(vec![Box::new(KeepOneOf(number))])))
    }

    #[test]
    fn with_steps_a_delivery_is_filled_with_rows_and_batches_without_rows_share_one() {
        let start = Instant::now();
        let mut gather = keeping_one_of(100, 8);
        gather.take(batch(1..=50));
        let first = now(gather.due(start));
        assert_eq!((first.events(), positions(&first)), (0, 1..=50), "an idle router delivers at once");
        assert!(!gather.is_empty(), "it is not stored yet");
        gather.stored(50);
        assert!(gather.is_empty());
        gather.delivery_ended(start);
        for first in (51..=550).step_by(50) {
            assert!(gather.has_room());
            gather.take(batch(first..=first + 49));
            assert_eq!(gather.pinned_bytes(), 0);
        }
        assert!(matches!(gather.due(start), Due::At(at) if at == start + AGE));
        assert_eq!(gather.oldest_unix_nano(), Some(RECEIVED_UNIX_NANO));
        gather.take(batch(551..=600));
        assert!(!gather.has_room(), "6 rows of at most 8");
        let second = now(gather.due(start));
        assert_eq!((second.events(), positions(&second)), (6, 51..=600));
        assert_eq!(second.filtered()[FilterStep::Sample as usize], 544);
        gather.stored(600);
        assert!(gather.oldest_unix_nano().is_none() && gather.is_empty());
        assert!(matches!(gather.due(start), Due::Nothing));
    }

    #[test]
    fn with_steps_a_delivery_that_covers_many_events_does_not_wait_for_rows() {
        let start = Instant::now();
        let mut gather = keeping_one_of(1 << 40, 8);
        gather.delivery_ended(start);
        let mut next = 1;
        while gather.has_room() {
            assert!(matches!(gather.due(start), Due::Nothing | Due::At(_)));
            gather.take(batch(next..=next + 999));
            next += 1_000;
        }
        let delivery = now(gather.due(start));
        assert_eq!((delivery.events(), positions(&delivery)), (0, 1..=limits::STEPS_COVERED_EVENTS));
    }

    #[test]
    fn with_steps_positions_do_not_jump_within_a_delivery() {
        let start = Instant::now();
        let mut gather = keeping_one_of(10, 100);
        gather.delivery_ended(start);
        gather.take(batch(1..=15));
        gather.take(batch(101..=115));
        assert!(!gather.has_room());
        assert_eq!(positions(&now(gather.due(start))), 1..=15);
        gather.stored(15);
        assert!(matches!(gather.due(start), Due::At(_)));
        assert_eq!(positions(&now(gather.due(start + AGE))), 101..=115);
        gather.restart(15, None);
        assert!(gather.is_empty());
        gather.take(batch(14..=20));
        assert_eq!(positions(&now(gather.due(start + AGE))), 16..=20, "what is stored is left out");
    }

    #[test]
    fn a_large_batch_goes_through_the_steps_in_pieces_and_its_rows_are_the_same() {
        // Runs of 20 KiB in one batch, of which some are empty, and one that is larger than a piece by itself.
        let run = |events: usize| vec![Event { body: "x".repeat(1_000), ..named("e") }; events];
        let runs: Vec<_> = (0..40).map(|index| run([20, 0, 1, 300][index % 4])).collect();
        let events = runs.iter().flatten().count() as u64;
        for (number, max_events) in [(1, 10_000), (3, 10_000), (3, 70), (events + 1, 10_000)] {
            let settings = BatchSettings { max_events, max_bytes: 64 << 20, max_age: AGE };
            let mut gather = Gather::new(settings, Arc::new(Steps::of_events(vec![Box::new(KeepOneOf(number))])));
            gather.take(batch_of(1, runs.clone()));
            let (mut rows, mut passed) = (Vec::new(), 0);
            while let Due::Now(delivery) = gather.due(Instant::now()) {
                assert_eq!(delivery.first_position(), passed + 1);
                passed = delivery.last_position();
                rows.extend(delivery.records().map(|record| record.position));
                gather.stored(passed);
                // As after a failed delivery: it begins again, within a run.
                gather.restart(passed, None);
                gather.unpin([]);
                gather.take(batch_of(1, runs.clone()));
            }
            assert_eq!(passed, events);
            assert_eq!(rows, (1..=events).filter(|position| position % number == 0).collect::<Vec<_>>());
            assert!(gather.is_empty() && gather.pinned_bytes() == 0);
        }
    }

    #[test]
    fn batches_of_which_little_is_kept_are_not_held_for_their_rows() {
        // Of each batch of 4 MiB one run of 200 KiB is kept.
        struct KeepRun;
        impl Step for KeepRun {
            fn apply(&self, delivery: Delivery) -> Delivery {
                delivery.shaped(|record, _| match record.event.name() {
                    "kept" => Fate::Keep,
                    _ => Fate::Filter(FilterStep::Include),
                })
            }
        }
        let run = |name: &str| vec![Event { body: "x".repeat(1_000), ..named(name) }; 200];
        let runs: Vec<_> = (0..20).map(|index| run(if index == 7 { "kept" } else { "other" })).collect();
        let settings = BatchSettings { max_events: 10_000, max_bytes: 64 << 20, max_age: AGE };
        let mut gather = Gather::new(settings, Arc::new(Steps::of_events(vec![Box::new(KeepRun)])));
        gather.delivery_ended(Instant::now());
        for index in 0..12 {
            gather.take(batch_of(1 + index * 4_000, runs.clone()));
            assert!(gather.held.is_empty());
        }
        let delivery = now(gather.due(Instant::now() + AGE));
        assert_eq!(delivery.events(), 12 * 200);
        let (held, rows) = (delivery.held_bytes(), delivery.payload_bytes());
        assert!(held < 2 * rows + (5 << 20), "{held} bytes are held for {rows} of rows");
    }

    #[test]
    fn what_is_open_is_copied_out_of_the_pool() {
        let mut gather = keeping_one_of(1, 100);
        gather.take(pooled_batch(1..=10));
        assert!(gather.pinned_bytes() > 0);
        gather.unpin([]);
        assert_eq!(gather.pinned_bytes(), 0);
        assert_eq!(now(gather.due(Instant::now())).events(), 10);
        // Of few events the batch is not held at all.
        let mut gather = keeping_one_of(10, 100);
        gather.take(pooled_batch(1..=10));
        assert_eq!(gather.pinned_bytes(), 0);
        let names: Vec<String> =
            now(gather.due(Instant::now())).records().map(|record| record.event.name().to_owned()).collect();
        assert_eq!(names, ["e10"]);
    }

    proptest! {
        #[test]
        fn every_position_is_delivered_once_in_order_and_within_the_limits(
            batches in prop::collection::vec(prop::collection::vec(prop::collection::vec(0usize..60, 0..8), 0..4), 1..8),
            max_events in 1u64..12,
            max_bytes in 1usize..200,
        ) {
            let start = Instant::now();
            let mut gather = gather(max_events, max_bytes);
            let (mut next, mut delivered) = (1, Vec::new());
            let deliver = |gather: &mut Gather, delivered: &mut Vec<u64>| {
                while let Due::Now(delivery) = gather.due(start) {
                    let records: Vec<_> = delivery.records().map(|record| record.position).collect();
                    let bytes: usize = delivery.records().map(|record| record.event.bytes().len()).sum();
                    assert_eq!(records, positions(&delivery).collect::<Vec<_>>());
                    assert!(delivery.events() <= max_events);
                    assert!(bytes <= max_bytes || delivery.events() == 1);
                    delivered.extend(records);
                    gather.stored(delivery.last_position());
                }
            };
            for runs in &batches {
                let runs: Vec<Vec<Event>> = runs.iter().map(|run| {
                    run.iter().map(|bytes| Event { body: "x".repeat(*bytes), ..named("e") }).collect()
                }).collect();
                let events = runs.iter().flatten().count() as u64;
                if !gather.has_room() {
                    deliver(&mut gather, &mut delivered);
                }
                gather.take(batch_of(next, runs));
                next += events;
            }
            deliver(&mut gather, &mut delivered);
            prop_assert_eq!(delivered, (1..next).collect::<Vec<_>>());
        }

        #[test]
        fn with_steps_too(
            events in prop::collection::vec(1_u64..40, 1..60),
            jumps in prop::collection::vec(0_u64..2, 60),
            number in 1_u64..12,
            max_events in 1_u64..20,
        ) {
            let start = Instant::now();
            let mut gather = keeping_one_of(number, max_events);
            let (mut next, mut covered) = (1, Vec::new());
            let (mut rows, mut expected, mut filtered) = (Vec::new(), Vec::new(), 0);
            let mut deliver = |gather: &mut Gather| {
                while let Due::Now(delivery) = gather.due(start) {
                    let kept: Vec<u64> = delivery.records().map(|record| record.position).collect();
                    assert!(delivery.events() <= max_events);
                    filtered += delivery.filtered()[FilterStep::Sample as usize];
                    covered.extend(positions(&delivery));
                    gather.stored(delivery.last_position());
                    rows.extend(kept);
                }
            };
            for (events, jump) in events.into_iter().zip(jumps) {
                next += jump * 7;
                if !gather.has_room() {
                    deliver(&mut gather);
                }
                gather.take(batch(next..=next + events - 1));
                expected.extend(next..next + events);
                next += events;
            }
            deliver(&mut gather);
            prop_assert_eq!(rows.len() as u64 + filtered, expected.len() as u64);
            prop_assert_eq!(rows, expected.iter().copied().filter(|position| position % number == 0).collect::<Vec<_>>());
            prop_assert_eq!(covered, expected);
        }
    }
}
