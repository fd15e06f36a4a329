//! Deliveries: what a router hands to its sink.
//!
//! ```text
//!  runs        │ 7  8  9 │ 10 11 12 13 14 │ 15 16 │ 17 18 19 …        of the batches, in order of position
//!  picks       └── 7–9 ──┴ 10–11 ┘└ 13–14 ┘    ▲                     what is written: 12 was refused before
//!  made row                                    16                    what is written in place of 15 and 16
//!  positions   from 7 ──────────────────────▶ through 16            how far the sink's position moves
//! ```
//!
//! What is written is separate from how far the position moves: leaving out a refused row splits a pick, and the position
//! of the row is covered all the same. An event that a step filters is covered without being picked.
//!
//! **Made rows.** A row that a step made is an encoded `Event` with a position, a time of receipt and an origin, like any
//! other event; its bytes are the delivery's own. It lies in a run that the delivery adds to those of its batches, so that a
//! sink sees no difference: it is a [`Pick`], and a [`Record`]. Its position is that of an event of the log that it was
//! made from (of the last one, where it stands for several), so positions stay unique and in order. A step builds such
//! deliveries with a [`Builder`].
//!
//! **Counts.** [`Delivery::events`] is the number of rows, [`Delivery::originals`] that of the events of the log which these
//! rows stand for, [`Delivery::filtered`] that of the events that steps left out. Until rows are refused,
//! originals + filtered is the number of events at the covered positions.

use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use super::{Batch, Record, Run};
use crate::event::Events;
use crate::limits::PICKS_KEPT_MAX;
use crate::metrics::FilterStep;

mod build;

pub use build::{Builder, Fate, FatesByNumbers, MadeRow};

/// A list of picks, and the range of positions that it covers.
///
/// * `from <= through`, and every position of a pick lies between them.
/// * Picks are in order of position and do not overlap. Each has at least one event, and its bytes are those of exactly
///   its events.
/// * A delivery without picks is valid: it only moves the position.
/// * Deliveries that a delivery was split into cover the same positions without a gap.
///
/// It holds the batches of its picks; parts of it share them. Whole runs are picked without a walk over their events.
#[derive(Debug, Clone)]
pub struct Delivery {
    batches: Arc<[Arc<Batch>]>,
    /// Runs of rows that steps made; shared by the parts of a delivery.
    made: Arc<[Run]>,
    picks: Vec<Stretch>,
    /// Of all picks.
    events: u64,
    /// Of all picks.
    originals: u64,
    filtered: Filtered,
    /// Events that the store has already.
    there: u64,
    is_whole: bool,
    from: u64,
    through: u64,
}

/// Events that the steps left out, by step.
pub type Filtered = [u64; FilterStep::NAMES.len()];

/// A pick as a delivery stores it, without a borrow.
#[derive(Debug, Clone)]
struct Stretch {
    /// Index in the delivery's batches; [`MADE`]: none of them.
    batch: usize,
    /// Index in the batch's runs, or in the made runs.
    run: usize,
    /// In the run's payload.
    bytes: Range<usize>,
    first_position: u64,
    events: u32,
    /// Events of the log that a made row stands for. Of several events it is their number.
    originals: u32,
}

/// Stands for the batch of a stretch that lies in a made run.
const MADE: usize = usize::MAX;

/// Room for the picks of a delivery, to be used again by a later one.
#[derive(Debug, Default)]
pub struct PickBuffer(Vec<Stretch>);

/// Where an event lies in its batch. Who knows that need not walk through the runs and events before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The event's position.
    pub position: u64,
    /// Index of its run in the batch.
    run: usize,
    /// Position of the first event of the run.
    run_position: u64,
    /// Bytes of the run's payload before the event.
    pub offset: usize,
}

/// Consecutive events of one run.
#[derive(Debug, Clone)]
pub struct Pick<'a> {
    run: &'a Run,
    stretch: Stretch,
}

impl Delivery {
    /// All events of `batches` at `positions`, which are not empty. The batches are in order of position; they may leave
    /// gaps.
    pub fn new(batches: impl Into<Arc<[Arc<Batch>]>>, positions: RangeInclusive<u64>) -> Self {
        Self::reusing(PickBuffer::default(), batches, positions)
    }

    /// As [`Delivery::new`], without an allocation for picks that `buffer` has room for.
    pub fn reusing(buffer: PickBuffer, batches: impl Into<Arc<[Arc<Batch>]>>, positions: RangeInclusive<u64>) -> Self {
        Self::resuming(buffer, batches, positions, None)
    }

    /// As [`Delivery::reusing`]; `place`: of the first event, if it is known.
    pub fn resuming(
        PickBuffer(mut picks): PickBuffer,
        batches: impl Into<Arc<[Arc<Batch>]>>,
        positions: RangeInclusive<u64>,
        place: Option<Place>,
    ) -> Self {
        let (batches, (from, through)) = (batches.into(), positions.into_inner());
        debug_assert!(from <= through);
        debug_assert!(batches.first().is_some_and(|batch| batch.first_position() <= from));
        debug_assert!(batches.last().is_some_and(|batch| batch.end_position() > through));
        picks.clear();
        let places = std::iter::once(place).chain(std::iter::repeat(None));
        for ((index, batch), place) in batches.iter().enumerate().zip(places) {
            pick_runs(index, batch, from..=through, place, &mut picks);
        }
        let made = Arc::default();
        let filtered = Filtered::default();
        Self { picks, events: 0, originals: 0, filtered, there: 0, is_whole: false, batches, made, from, through }
            .counted()
    }

    fn counted(mut self) -> Self {
        self.events = self.picks.iter().map(|pick| u64::from(pick.events)).sum();
        self.originals = self.picks.iter().map(|pick| u64::from(pick.originals)).sum();
        self
    }

    /// The same batches, other picks.
    fn with(&self, picks: Vec<Stretch>, filtered: Filtered, from: u64, through: u64) -> Self {
        let (batches, made, is_whole) = (self.batches.clone(), self.made.clone(), self.is_whole);
        let there = if through == self.through { self.there } else { 0 };
        Self { batches, made, picks, events: 0, originals: 0, filtered, there, is_whole, from, through }.counted()
    }

    /// Gives back the room of its picks, unless it is more than `limits::PICKS_KEPT_MAX`.
    pub fn into_buffer(self) -> PickBuffer {
        let is_kept = self.picks.capacity() <= PICKS_KEPT_MAX;
        PickBuffer(if is_kept { self.picks } else { Vec::new() })
    }

    /// The first position that the delivery covers.
    pub fn first_position(&self) -> u64 {
        self.from
    }

    /// The last position that the delivery covers: the sink's position once it is stored.
    pub fn last_position(&self) -> u64 {
        self.through
    }

    /// Rows to write: events as they came, and made rows. 0: the delivery only moves the position.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Events of the log that the rows to write stand for, and those that the store has already.
    pub fn originals(&self) -> u64 {
        self.originals + self.there
    }

    /// Events that steps left out of what the delivery covers. Of the parts of a delivery, the last one has them all: they
    /// are counted when the position has passed everything.
    pub fn filtered(&self) -> &Filtered {
        &self.filtered
    }

    /// Bytes of all rows to write.
    pub fn payload_bytes(&self) -> usize {
        self.picks.iter().map(|pick| pick.bytes.len()).sum()
    }

    /// Bytes of the buffer pool that cannot be allocated while the delivery is held.
    pub fn pinned_bytes(&self) -> usize {
        self.batches.iter().map(|batch| batch.pinned_bytes()).sum()
    }

    /// Bytes of all runs and batches that it holds.
    #[cfg(test)]
    pub(crate) fn held_bytes(&self) -> usize {
        let batches: usize = self.batches.iter().map(|batch| batch.payload_bytes()).sum();
        let mut made: Vec<&[u8]> = self.made.iter().map(|run| &run.payload[..]).collect();
        // The rows of one piece of memory share it.
        made.dedup_by_key(|bytes| bytes.as_ptr());
        batches + made.into_iter().map(<[u8]>::len).sum::<usize>()
    }

    /// Whether its rows stand for events with positions among those of other rows, so that a part of it would cover what
    /// it does not contain: the sink's position may move only once all of it is stored. See [`Builder::whole`].
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// What is to be written, in order of position.
    pub fn picks(&self) -> impl Iterator<Item = Pick<'_>> {
        self.picks.iter().filter_map(|stretch| Some(Pick { run: self.run(stretch)?, stretch: stretch.clone() }))
    }

    /// The events to write, in order of position.
    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let picks = self.picks.iter().filter_map(|stretch| Some((self.run(stretch)?, stretch)));
        picks.flat_map(|(run, stretch)| records(run, stretch))
    }

    /// The positions of the events to write, in order: neighbours are one range.
    pub fn position_ranges(&self) -> Vec<RangeInclusive<u64>> {
        let mut ranges: Vec<RangeInclusive<u64>> = Vec::new();
        for stretch in &self.picks {
            let (first, last) = (stretch.first_position, stretch.end_position() - 1);
            match ranges.last_mut() {
                Some(range) if range.end() + 1 == first => *range = *range.start()..=last,
                _ => ranges.push(first..=last),
            }
        }
        ranges
    }

    /// A delivery of some of this one's picks, or parts of them, in order and not empty. It covers the positions from the
    /// first picked event to the last.
    pub fn of_picks<'a>(&'a self, picks: impl IntoIterator<Item = Pick<'a>>) -> Self {
        let picks: Vec<Stretch> = picks.into_iter().map(|pick| pick.stretch).collect();
        let from = picks.first().map_or(self.from, |pick| pick.first_position);
        let through = picks.last().map_or(self.through, |pick| pick.end_position() - 1);
        self.with(picks, self.filtered, from, through)
    }

    /// Leaves out the events at `positions`, which are in order: they are covered, and not written.
    pub fn leave_out(&mut self, positions: &[u64]) {
        let mut kept = Vec::with_capacity(self.picks.len() + positions.len());
        let mut positions = positions.iter().copied().peekable();
        for pick in self.picks() {
            let mut rest = Some(pick);
            while let Some(pick) = rest.take() {
                while positions.next_if(|position| *position < pick.first_position()).is_some() {}
                match positions.next_if(|position| *position < pick.end_position()) {
                    None => kept.push(pick.stretch),
                    Some(position) => {
                        let (before, with) = pick.split_at(position);
                        kept.extend(before.map(|before| before.stretch));
                        rest = with.and_then(|with| with.split_at(position + 1).1);
                    }
                }
            }
        }
        *self = self.with(kept, self.filtered, self.from, self.through);
    }

    /// Where the event after the last row lies, if that is in the batch of the row. `begin`: of the first event, if it is known.
    pub fn end_place(&self, begin: Option<Place>) -> Option<Place> {
        let last = self.picks.last().filter(|last| last.batch != MADE)?;
        let (position, offset) = (last.end_position(), last.bytes.end);
        if offset < self.run(last)?.payload.len() {
            let run_position = match begin.filter(|begin| last.batch == 0 && last.run == begin.run) {
                Some(begin) => begin.run_position,
                None if last.bytes.start == 0 => last.first_position,
                None => runs_from(self.batches.get(last.batch)?, None).nth(last.run)?.1,
            };
            return Some(Place { position, run: last.run, run_position, offset });
        }
        let mut behind = self.batches.get(last.batch)?.runs().iter().enumerate().skip(last.run + 1);
        let (run, _) = behind.find(|(_, run)| run.events > 0)?;
        Some(Place { position, run, run_position: position, offset: 0 })
    }

    /// The same positions without rows: made rows elsewhere stand for its events.
    pub fn folded(&self) -> Self {
        self.with(Vec::new(), self.filtered, self.from, self.through)
    }

    /// Halves by events; `None`: there are no two events. Both halves together cover what this one covers.
    pub fn split(&self) -> Option<(Self, Self)> {
        let half = self.events.div_ceil(2);
        if half == self.events {
            return None;
        }
        let (mut first, mut second) = (Vec::new(), Vec::new());
        let mut left = half;
        for pick in self.picks() {
            match pick.events() {
                events if u64::from(events) <= left => {
                    left -= u64::from(events);
                    first.push(pick.stretch);
                }
                _ if left == 0 => second.push(pick.stretch),
                _ => {
                    let middle = pick.first_position() + left;
                    left = 0;
                    let (before, after) = pick.split_at(middle);
                    first.extend(before.map(|pick| pick.stretch));
                    second.extend(after.map(|pick| pick.stretch));
                }
            }
        }
        let middle = second.first()?.first_position;
        let first = self.with(first, Filtered::default(), self.from, middle - 1);
        Some((first, self.with(second, self.filtered, middle, self.through)))
    }

    /// This delivery and `next`, which were parts of one.
    pub fn joined(&self, next: &Self) -> Self {
        let picks = self.picks.iter().chain(&next.picks).cloned().collect();
        let mut filtered = self.filtered;
        for (count, more) in filtered.iter_mut().zip(next.filtered) {
            *count += more;
        }
        Self { there: self.there + next.there, ..self.with(picks, filtered, self.from, next.through) }
    }

    /// Exchanges each batch for what `exchange` returns, which has the same events at the same positions, and as many bytes
    /// in each run.
    pub fn exchange(&mut self, mut exchange: impl FnMut(&Arc<Batch>) -> Option<Arc<Batch>>) {
        self.batches = self.batches.iter().map(|batch| exchange(batch).unwrap_or_else(|| batch.clone())).collect();
    }

    fn run(&self, stretch: &Stretch) -> Option<&Run> {
        match stretch.batch {
            MADE => self.made.get(stretch.run),
            batch => self.batches.get(batch)?.runs().get(stretch.run),
        }
    }
}

/// Picks the events of `batch` at `positions`. Only a run that lies in them in part is walked, from `place` on.
fn pick_runs(
    index: usize,
    batch: &Batch,
    positions: RangeInclusive<u64>,
    place: Option<Place>,
    picks: &mut Vec<Stretch>,
) {
    let (from, end) = (*positions.start(), positions.end() + 1);
    let place = place.filter(|place| place.position == from);
    for (at, first_position, run) in runs_from(batch, place) {
        let next = first_position + u64::from(run.events);
        if first_position >= end {
            break;
        }
        if next <= from || run.events == 0 {
            continue;
        }
        let bytes = 0..run.payload.len();
        let (events, originals) = (run.events, run.events);
        let stretch = Stretch { batch: index, run: at, bytes, first_position, events, originals };
        if first_position >= from && next <= end {
            picks.push(stretch);
            continue;
        }
        let pick = Pick { run, stretch };
        let after = match place {
            _ if first_position >= from => Some(pick),
            Some(place) => pick.resumed(place),
            None => pick.split_at(from).1,
        };
        let within = after.and_then(|pick| pick.split_at(end).0);
        picks.extend(within.map(|pick| pick.stretch));
    }
}

/// The runs of a batch, from that of `place` on: index, position of the first event, run.
pub(crate) fn runs_from(batch: &Batch, place: Option<Place>) -> impl Iterator<Item = (usize, u64, &Run)> {
    let (first, position) = place.map_or((0, batch.first_position()), |place| (place.run, place.run_position));
    batch.runs().iter().enumerate().skip(first).scan(position, |next, (index, run)| {
        let position = *next;
        *next += u64::from(run.events);
        Some((index, position, run))
    })
}

fn records<'a>(run: &'a Run, stretch: &Stretch) -> impl Iterator<Item = Record<'a>> + use<'a> {
    let payload = run.payload.get(stretch.bytes.clone()).unwrap_or_default();
    Events::accepted(payload).zip(stretch.first_position..).map(move |(event, position)| run.record(position, event))
}

impl Stretch {
    fn end_position(&self) -> u64 {
        self.first_position + u64::from(self.events)
    }
}

impl<'a> Pick<'a> {
    /// The run whose events it covers.
    pub fn run(&self) -> &'a Run {
        self.run
    }

    /// Position of the first event.
    pub fn first_position(&self) -> u64 {
        self.stretch.first_position
    }

    /// The position after the last event.
    pub fn end_position(&self) -> u64 {
        self.stretch.end_position()
    }

    /// At least 1.
    pub fn events(&self) -> u32 {
        self.stretch.events
    }

    /// An `EventBatch` of exactly these events: the bytes as they were received. Between two events there may be fields
    /// that are not of the schema, as an agent sent them.
    pub fn payload(&self) -> &'a [u8] {
        let payload = self.run.payload.get(self.stretch.bytes.clone()).unwrap_or_default();
        match self.stretch.events {
            // An event by itself must not be too large because of what was sent beside it.
            1 => Events::accepted(payload).next_field().unwrap_or(payload),
            _ => payload,
        }
    }

    /// The events, in order of position.
    pub fn records(&self) -> impl Iterator<Item = Record<'a>> + use<'a> {
        records(self.run, &self.stretch)
    }

    /// Events of the log that these events stand for.
    pub fn originals(&self) -> u32 {
        self.stretch.originals
    }

    /// The events from `place` on, which lies within the pick.
    fn resumed(self, Place { position, offset, .. }: Place) -> Option<Self> {
        let before = u32::try_from(position.checked_sub(self.first_position())?).ok()?;
        let events = self.stretch.events.checked_sub(before)?;
        let bytes = offset..self.stretch.bytes.end;
        let stretch = Stretch { bytes, first_position: position, events, originals: events, ..self.stretch };
        Some(Self { run: self.run, stretch })
    }

    /// The events before `position`, and the others.
    pub fn split_at(self, position: u64) -> (Option<Self>, Option<Self>) {
        let before = position.saturating_sub(self.first_position());
        self.cut(|events, _| u64::from(events) <= before)
    }

    /// As many of the first events as `fits`, given their number and the bytes of their [`Pick::payload`], and the others.
    /// Where all fit, they are not walked through.
    pub fn cut(self, mut fits: impl FnMut(u32, usize) -> bool) -> (Option<Self>, Option<Self>) {
        if fits(self.stretch.events, self.payload().len()) {
            return (Some(self), None);
        }
        let Stretch { bytes, first_position, events, .. } = self.stretch.clone();
        let mut fields = Events::accepted(self.run.payload.get(bytes.clone()).unwrap_or_default());
        let mut taken: u32 = 0;
        // Of the taken ones; then where the next one begins. Both leave out what lies between events.
        let (mut start, mut end) = (bytes.start, bytes.start);
        while taken < events {
            let Some(field) = fields.next_field() else { break };
            let field_end = bytes.end - fields.bytes_left();
            let field_start = field_end - field.len();
            if taken == 0 {
                start = field_start;
            }
            if !fits(taken + 1, field_end - start) {
                // Where there are several events, each is its own original.
                let originals = |events| if taken == 0 { self.stretch.originals } else { events };
                let rest = Stretch {
                    bytes: field_start..bytes.end,
                    first_position: first_position + u64::from(taken),
                    events: events - taken,
                    originals: originals(events - taken),
                    ..self.stretch
                };
                let taken = Stretch { bytes: start..end, events: taken, originals: taken, ..self.stretch };
                let some = |stretch: Stretch| (stretch.events > 0).then_some(Self { run: self.run, stretch });
                return (some(taken), some(rest));
            }
            (taken, end) = (taken + 1, field_end);
        }
        // Only what follows the last event was too much.
        (Some(Self { run: self.run, stretch: Stretch { bytes: start..end, ..self.stretch } }), None)
    }
}

#[cfg(test)]
mod tests;
