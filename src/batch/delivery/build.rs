//! Deliveries as steps build them: some of the picks of others, and rows of their own.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use prost::encoding::encode_varint;

use super::{Delivery, Filtered, MADE, Pick, Stretch};
use crate::batch::{Batch, Origin, Payload, Record, Run};
use crate::event::{EventKind, EventRef, Events, kind_of};
use crate::limits::SEVERITY_MAX;
use crate::metrics::FilterStep;

/// Key of `EventBatch.events`, with which each made row begins: joined, they are an `EventBatch`.
const EVENT_KEY: u8 = 0x0A;
/// Stands for the batch of a stretch in the builder's own rows, until it is finished.
const OWN: usize = MADE - 1;

/// Builds a delivery from others, which cover positions one after the other. Deliveries are begun in order of
/// position.
///
/// Stretches of the others are kept without a copy; everything else is a made row. The made rows that it adds lie in one
/// piece of memory.
#[derive(Debug, Default)]
pub struct Builder {
    batches: Vec<Arc<Batch>>,
    /// Made runs of the others.
    adopted: Vec<Run>,
    /// Neighbours of one origin and time of receipt are one run. The payload is put into them in the end.
    own: Vec<Run>,
    /// Of all own runs.
    bytes: Vec<u8>,
    picks: Vec<Stretch>,
    /// Of all picks.
    rows: u64,
    /// Of all picks.
    payload_bytes: usize,
    filtered: Filtered,
    there: u64,
    is_whole: bool,
    /// Rows were added out of order.
    is_unsorted: bool,
    /// Up to the position after the last one; `None`: nothing was begun.
    covered: Option<Range<u64>>,
    /// Of the batches.
    pinned_bytes: usize,
    /// Of the batches: what is in memory for as long as the delivery is.
    held_bytes: usize,
    /// Of the rows that lie in the batches.
    kept_bytes: usize,
    /// Where the batches and made runs of the delivery that was begun last are.
    batch_base: usize,
    adopted_base: usize,
}

/// A row that a step makes.
#[derive(Debug, Clone, Copy)]
pub struct MadeRow<'a> {
    /// That of an event that it stands for: the last one.
    pub position: u64,
    /// Nanoseconds since 1970-01-01T00:00:00Z.
    pub received_unix_nano: u64,
    /// Where the row comes from, for the columns `agent` and `source`.
    pub origin: &'a Arc<Origin>,
    /// Events of the log that it stands for, at least 1.
    pub originals: u32,
    /// An encoded `Event` that keeps the rules of `event::check`, apart from its size and the number of its attributes:
    /// steps may add up to `limits::STEP_ATTRIBUTES_MAX` of them.
    pub event: &'a [u8],
}

/// What becomes of an event; see [`Delivery::shaped`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is written as it is.
    Keep,
    /// It is covered, and not written.
    Filter(FilterStep),
    /// The event that was appended to the buffer is written in its place.
    Replace,
    /// The event that was appended to the buffer is written in its place, and stands for so many events: this one and
    /// others that are folded.
    Stand(u32),
    /// It is covered; a made row stands for it.
    Fold,
    /// It is covered: the store has it already.
    There,
}

impl Builder {
    /// Begins to take from `delivery`, whose positions follow those of the delivery before. Its positions are covered from
    /// now on, and what was filtered of it is counted, whatever is added.
    pub fn begin(&mut self, delivery: &Delivery) {
        self.begin_made(delivery);
        // Two parts of one batch hold it once.
        let is_held = self.holds_first_of(delivery);
        self.batch_base = self.batches.len() - usize::from(is_held);
        let more = delivery.batches.iter().skip(is_held.into());
        self.pinned_bytes += more.clone().map(|batch| batch.pinned_bytes()).sum::<usize>();
        self.held_bytes += more.clone().map(|batch| batch.payload_bytes()).sum::<usize>();
        self.batches.extend(more.cloned());
    }

    /// Whether the first batch of `delivery` is the last one that is held.
    fn holds_first_of(&self, delivery: &Delivery) -> bool {
        let both = self.batches.last().zip(delivery.batches.first());
        both.is_some_and(|(held, other)| Arc::ptr_eq(held, other))
    }

    /// As [`Builder::begin`], without the batches: only made rows may be kept.
    fn begin_made(&mut self, delivery: &Delivery) {
        self.cover(delivery);
        self.adopted.extend(delivery.made.iter().cloned());
    }

    fn cover(&mut self, delivery: &Delivery) {
        debug_assert!(self.covered.as_ref().is_none_or(|covered| covered.end == delivery.from));
        let from = self.covered.as_ref().map_or(delivery.from, |covered| covered.start);
        self.covered = Some(from..delivery.through + 1);
        for (count, more) in self.filtered.iter_mut().zip(delivery.filtered) {
            *count += more;
        }
        self.there += delivery.there;
        self.is_whole |= delivery.is_whole;
        self.adopted_base = self.adopted.len();
    }

    /// Adds all rows of `delivery`. Where they are few of the `read_bytes` that were there before the steps, they are copied, so
    /// that the batches need not be held. They are copied, too, while little is kept of the batches that are held already: besides
    /// those of the last piece, these have at most twice the bytes of the rows in them.
    pub fn append(&mut self, delivery: &Delivery, read_bytes: usize) {
        let of_batches = delivery.picks.iter().filter(|stretch| stretch.batch != MADE);
        let kept_bytes = of_batches.map(|stretch| stretch.bytes.len()).sum::<usize>();
        let holds_no_more = self.holds_first_of(delivery) && delivery.batches.len() == 1;
        if kept_bytes > read_bytes / 2 && (holds_no_more || self.held_bytes <= self.kept_bytes * 2) {
            self.begin(delivery);
            delivery.picks.iter().for_each(|stretch| self.keep_stretch(stretch.clone()));
            return;
        }
        self.begin_made(delivery);
        self.bytes.reserve(kept_bytes);
        for pick in delivery.picks() {
            match pick.stretch.batch {
                MADE => self.keep(&pick),
                _ => self.copy(&pick),
            }
        }
    }

    /// Adds copies of all rows of `delivery`: nothing of it need be held, however long this takes.
    pub fn append_copied(&mut self, delivery: &Delivery) {
        self.cover(delivery);
        delivery.picks().for_each(|pick| self.copy(&pick));
    }

    /// Keeps a pick of the delivery that was begun last, or a part of it.
    pub fn keep(&mut self, pick: &Pick<'_>) {
        self.keep_stretch(pick.stretch.clone());
    }

    fn keep_stretch(&mut self, mut stretch: Stretch) {
        match &mut stretch {
            Stretch { batch: MADE, run, .. } => *run += self.adopted_base,
            Stretch { batch, bytes, .. } => {
                *batch += self.batch_base;
                self.kept_bytes += bytes.len();
            }
        }
        self.push(stretch);
    }

    /// Copies the events of a pick, which are then rows of its own.
    fn copy(&mut self, pick: &Pick<'_>) {
        let (run, start) = (pick.run(), self.bytes.len());
        self.bytes.extend_from_slice(run.payload.get(pick.stretch.bytes.clone()).unwrap_or_default());
        self.own_rows(start, run.received_unix_nano, &run.origin, &pick.stretch);
    }

    /// Adds a row. Rows may come after others with a higher position.
    pub fn row(&mut self, row: &MadeRow<'_>) {
        let start = self.bytes.len();
        self.bytes.push(EVENT_KEY);
        encode_varint(row.event.len() as u64, &mut self.bytes);
        self.bytes.extend_from_slice(row.event);
        let (first_position, originals) = (row.position, row.originals);
        let stretch = Stretch { batch: OWN, run: 0, bytes: 0..0, first_position, events: 1, originals };
        self.own_rows(start, row.received_unix_nano, row.origin, &stretch);
    }

    /// Adds the rows whose bytes were appended from `start` on. `like`: their positions and numbers.
    fn own_rows(&mut self, start: usize, received_unix_nano: u64, origin: &Arc<Origin>, like: &Stretch) {
        let bytes = start..self.bytes.len();
        let same = |run: &Run| Arc::ptr_eq(&run.origin, origin) && run.received_unix_nano == received_unix_nano;
        match self.own.last_mut().filter(|run| same(run)) {
            Some(run) => run.events += like.events,
            None => self.own.push(Run {
                payload: Payload::Read(Bytes::new()),
                events: like.events,
                received_unix_nano,
                origin: origin.clone(),
                are_head_first: false,
            }),
        }
        let run = self.own.len() - 1;
        if let Some(last) = self.picks.last_mut()
            && (last.batch, last.run, last.bytes.end, last.end_position()) == (OWN, run, start, like.first_position)
            && (last.originals, like.originals) == (last.events, like.events)
        {
            self.rows += u64::from(like.events);
            self.payload_bytes += bytes.len();
            last.bytes.end = bytes.end;
            last.events += like.events;
            last.originals += like.events;
            return;
        }
        self.push(Stretch { batch: OWN, run, bytes, ..like.clone() });
    }

    fn push(&mut self, stretch: Stretch) {
        self.is_unsorted |= self.picks.last().is_some_and(|last| last.end_position() > stretch.first_position);
        self.rows += u64::from(stretch.events);
        self.payload_bytes += stretch.bytes.len();
        self.picks.push(stretch);
    }

    /// Counts events that are left out.
    pub fn filter(&mut self, step: FilterStep, events: u64) {
        if let Some(count) = self.filtered.get_mut(step as usize) {
            *count += events;
        }
    }

    /// Counts events that the store has already.
    pub fn there(&mut self, events: u64) {
        self.there += events;
    }

    /// Some rows stand for events whose positions lie among those of other rows.
    ///
    /// A part of such a delivery must not move the position by itself: the position would pass events that only a row of
    /// another part stands for. Where the store keeps rows and position in one transaction, the parts that a bisection
    /// tries are to be rolled back; elsewhere the position is to move after the last part.
    pub fn whole(&mut self) {
        self.is_whole = true;
    }

    /// Rows that were added.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes of all rows that were added.
    pub fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    /// How many positions it covers.
    pub fn covered_events(&self) -> u64 {
        self.covered.as_ref().map_or(0, |covered| covered.end - covered.start)
    }

    /// The position after the last one that is covered; `None`: nothing was begun.
    pub fn end_position(&self) -> Option<u64> {
        self.covered.as_ref().map(|covered| covered.end)
    }

    /// Bytes of the buffer pool that are held.
    pub fn pinned_bytes(&self) -> usize {
        self.pinned_bytes
    }

    /// As [`Delivery::exchange`].
    pub fn exchange(&mut self, mut exchange: impl FnMut(&Arc<Batch>) -> Option<Arc<Batch>>) {
        for batch in &mut self.batches {
            if let Some(other) = exchange(batch) {
                *batch = other;
            }
        }
        self.pinned_bytes = self.batches.iter().map(|batch| batch.pinned_bytes()).sum();
    }

    /// The delivery; `None`: nothing was begun.
    pub fn finish(self) -> Option<Delivery> {
        let covered = self.covered?;
        let (mut made, mut picks, payload) = (self.adopted, self.picks, Bytes::from(self.bytes));
        if self.is_unsorted {
            picks.sort_unstable_by_key(|stretch| stretch.first_position);
        }
        for stretch in picks.iter_mut().filter(|stretch| stretch.batch == OWN) {
            (stretch.batch, stretch.run) = (MADE, stretch.run + made.len());
        }
        made.extend(self.own.into_iter().map(|run| Run { payload: Payload::Read(payload.clone()), ..run }));
        let delivery = Delivery {
            batches: self.batches.into(),
            made: made.into(),
            picks,
            events: 0,
            originals: 0,
            filtered: self.filtered,
            there: self.there,
            is_whole: self.is_whole,
            from: covered.start,
            through: covered.end - 1,
        };
        Some(delivery.counted())
    }
}

impl Delivery {
    /// The delivery in which each event has the fate that `fate` decides, in order of position; the buffer is empty each
    /// time. Without any change it is the same delivery. Runs, and parts of them, whose events are kept are not copied.
    pub fn shaped(self, mut fate: impl FnMut(&Record<'_>, &mut Vec<u8>) -> Fate) -> Self {
        self.shaped_picks(|pick, made, builder| {
            let fate = |position, bytes, made: &mut _| {
                let mut record = pick.run.record(position, EventRef::unset(bytes));
                // Read where it lies: it is so large that moving it takes a call.
                record.event.locate_accepted();
                fate(&record, made)
            };
            shape_pick(pick, fate, made, builder)
        })
    }

    /// As [`Delivery::shaped`], where time, kind, severity, source, name and attributes decide: the other fields of the records may
    /// read as unset.
    pub fn shaped_by_heads(self, mut fate: impl FnMut(&Record<'_>, &mut Vec<u8>) -> Fate) -> Self {
        self.shaped_picks(|pick, made, builder| {
            let fate = |position, bytes, made: &mut _| {
                let event = EventRef::head(bytes, pick.run.are_head_first);
                fate(&pick.run.record(position, event), made)
            };
            shape_pick(pick, fate, made, builder)
        })
    }

    /// As [`Delivery::shaped`], where kind and severity decide: nothing else of the events is read.
    pub fn shaped_by_numbers(self, fates: &FatesByNumbers) -> Self {
        self.shaped_picks(|pick, made, builder| match pick.run.are_head_first {
            true => shape_pick(pick, |_, bytes, _| fates.of(EventRef::head_numbers(bytes)), made, builder),
            false => shape_pick(pick, |_, bytes, _| fates.of(EventRef::accepted_numbers(bytes)), made, builder),
        })
    }

    /// `shape` adds to the builder what is left of a pick, and returns whether that is less, or something else.
    fn shaped_picks(self, mut shape: impl FnMut(&Pick<'_>, &mut Vec<u8>, &mut Builder) -> bool) -> Self {
        let mut builder = Builder::default();
        let mut is_changed = false;
        let mut made = Vec::new();
        builder.begin(&self);
        for pick in self.picks() {
            is_changed |= shape(&pick, &mut made, &mut builder);
        }
        match builder.finish() {
            Some(shaped) if is_changed => shaped,
            _ => self,
        }
    }
}

/// What becomes of events of each kind and severity.
#[derive(Debug)]
pub struct FatesByNumbers(Vec<Fate>);

impl FatesByNumbers {
    const KINDS: usize = EventKind::Summary as usize + 1;
    const SEVERITIES: usize = SEVERITY_MAX as usize + 1;

    /// Asks once for each kind and severity.
    pub fn new(fate: impl Fn(EventKind, u8) -> Fate) -> Self {
        let all = (0..Self::KINDS * Self::SEVERITIES).map(|index| {
            let (kind, severity) = (index / Self::SEVERITIES, index % Self::SEVERITIES);
            fate(kind_of(kind as i32), severity as u8)
        });
        Self(all.collect())
    }

    /// That of an event of an encoded kind and severity. Unknown numbers are read as unset, as `EventRef` does.
    #[inline(always)]
    fn of(&self, (kind, severity): (i32, i32)) -> Fate {
        let known = |number: i32, numbers| usize::try_from(number).ok().filter(|number| *number < numbers).unwrap_or(0);
        let index = known(kind, Self::KINDS) * Self::SEVERITIES + known(severity, Self::SEVERITIES);
        self.0.get(index).copied().unwrap_or(Fate::Keep)
    }
}

/// Adds to `builder` what is left of the pick; returns whether that is less, or something else. `fate` gets the position of an event and
/// its bytes, and the empty buffer.
#[inline(always)]
fn shape_pick<'a>(
    pick: &Pick<'a>,
    mut fate: impl FnMut(u64, &'a [u8], &mut Vec<u8>) -> Fate,
    made: &mut Vec<u8>,
    builder: &mut Builder,
) -> bool {
    let (run, stretch) = (pick.run, &pick.stretch);
    let mut events = Events::accepted(run.payload.get(stretch.bytes.clone()).unwrap_or_default());
    let mut kept: Option<Stretch> = None;
    let mut is_changed = false;
    let mut position = stretch.first_position;
    while let Some((field, bytes)) = events.next_encoded() {
        let originals = if stretch.events == 1 { stretch.originals } else { 1 };
        made.clear();
        let fate = fate(position, bytes, made);
        if fate == Fate::Keep {
            let end = stretch.bytes.end - events.bytes_left();
            match &mut kept {
                Some(kept) => {
                    kept.bytes.end = end;
                    kept.events += 1;
                    kept.originals += originals;
                }
                None => {
                    let bytes = end - field.len()..end;
                    kept = Some(Stretch { bytes, first_position: position, events: 1, originals, ..stretch.clone() });
                }
            }
        } else {
            is_changed = true;
            kept.take().into_iter().for_each(|kept| builder.keep_stretch(kept));
        }
        match fate {
            Fate::Keep | Fate::Fold => {}
            Fate::Stand(originals) => {
                let (received_unix_nano, origin) = (run.received_unix_nano, &run.origin);
                builder.row(&MadeRow { position, received_unix_nano, origin, originals, event: made });
                builder.whole();
            }
            Fate::There => builder.there(originals.into()),
            Fate::Filter(step) => builder.filter(step, originals.into()),
            Fate::Replace => {
                let (received_unix_nano, origin) = (run.received_unix_nano, &run.origin);
                builder.row(&MadeRow { position, received_unix_nano, origin, originals, event: made });
            }
        }
        position += 1;
    }
    if is_changed {
        kept.into_iter().for_each(|kept| builder.keep_stretch(kept));
    } else {
        builder.keep(pick);
    }
    is_changed
}
