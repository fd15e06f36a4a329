//! What the writer and the readers share, and a reader: batches from the log in order of position.
//!
//! ```text
//!  segments   ┌─ 1.. ──┐┌─ 9000.. ─┐┌─ 17000.. ──┊ not synced ┊ zeros ┐
//!              ▲ oldest        ▲ reader          ▲ end
//! ```
//!
//! A reader opens one segment at a time and holds one record in memory. It sees what is synced and nothing else.

use std::fmt;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::record::{Content, Kind};
use super::scan::{Found, Scan, Step, slices};
use super::segment;
use super::storage::Storage;
use crate::batch::{Batch, Payload, Run};
use crate::limits::WAL_POSITION_JUMP;

/// One segment of the log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    /// Its name, with its first position.
    pub name: segment::Name,
    /// By the clock of receipts; the segment before it was closed then.
    pub created_unix_nano: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Positions right before its first one that no event has.
    pub left_out: u64,
}

impl Segment {
    /// The positions right before its first one that no event has.
    pub(super) fn left_out(&self) -> Range<u64> {
        self.name.first_position.saturating_sub(self.left_out)..self.name.first_position
    }
}

/// Which segments there are; only the writer changes it.
pub(super) struct Shape {
    /// In order; the last one is being written. Never empty.
    pub segments: Vec<Segment>,
    /// What was left out before segments that are deleted by now; as many ranges as there were starts with such a jump.
    pub gone: Vec<Range<u64>>,
    /// Of the last segment: readers look at nothing after it.
    pub synced_bytes: u64,
    /// The first position that is not synced yet.
    pub end: u64,
}

impl Shape {
    /// Positions that no event has, in order and each once: a segment repeats what the one before it left out, if that
    /// has no events.
    fn left_out(&self) -> impl Iterator<Item = Range<u64>> {
        let mut told = 0;
        let new = move |range: Range<u64>| {
            let new = range.start.max(told)..range.end;
            told = told.max(range.end);
            new
        };
        let of_segments = self.segments.iter().map(Segment::left_out);
        self.gone.iter().cloned().chain(of_segments).map(new).filter(|range| !range.is_empty())
    }
}

/// What writer and readers share.
pub struct Log {
    storage: Arc<dyn Storage>,
    shape: Mutex<Shape>,
    /// As in `shape`, to look at without the lock.
    end: AtomicU64,
    oldest: AtomicU64,
}

impl Log {
    /// The log of these files.
    pub(super) fn new(storage: Arc<dyn Storage>, shape: Shape) -> Self {
        let log = Self { storage, shape: Mutex::new(shape), end: AtomicU64::new(0), oldest: AtomicU64::new(0) };
        log.change(|_| ());
        log
    }

    /// The first position that is not synced yet: readers see everything below.
    pub fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// The lowest position that is kept; equals [`Log::end`] while nothing is.
    pub fn oldest(&self) -> u64 {
        self.oldest.load(Ordering::Acquire)
    }

    /// How many of `positions` no event has.
    pub fn left_out(&self, positions: Range<u64>) -> u64 {
        let shape = self.shape();
        let within = |range: Range<u64>| range.end.min(positions.end).saturating_sub(range.start.max(positions.start));
        shape.left_out().map(within).sum()
    }

    /// A reader that begins with the event at `from`.
    pub fn reader(self: &Arc<Self>, from: u64) -> Reader {
        Reader { log: self.clone(), position: from, open: None }
    }

    /// The shape, locked.
    pub(super) fn shape(&self) -> MutexGuard<'_, Shape> {
        self.shape.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the shape, and what can be read without its lock.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Shape) -> T) -> T {
        let mut shape = self.shape();
        let changed = change(&mut shape);
        let oldest = shape.segments.first().map_or(shape.end, |segment| segment.name.first_position);
        self.oldest.store(oldest, Ordering::Release);
        self.end.store(shape.end, Ordering::Release);
        changed
    }
}

/// What a reader finds next.
#[derive(Debug)]
pub enum Read {
    /// One record. It may begin before the position that was asked for.
    Batch(Arc<Batch>),
    /// Positions that cannot be read, and never will be. Continue after them.
    Missing {
        /// Which positions.
        positions: Range<u64>,
        /// Why they cannot be read.
        reason: MissingReason,
    },
}

/// Why positions are missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MissingReason {
    /// The segment was dropped (`on_full = "drop_oldest"`), or the log began later.
    Dropped,
    /// Events were there and are lost: a record of this segment is not as it was written.
    Damaged {
        /// Name of the segment.
        file: String,
        /// Where in the segment its corrupt bytes begin.
        offset: u64,
    },
    /// No events were there: positions left out after a recovery, so that none is used twice.
    Skipped,
}

impl MissingReason {
    /// The `reason` of `telemetryx_events_dropped_total`; `None`: no event was there.
    pub fn counted_as(&self) -> Option<&'static str> {
        match self {
            Self::Dropped => Some("log_full"),
            Self::Damaged { .. } => Some("damaged"),
            Self::Skipped => None,
        }
    }
}

impl fmt::Display for MissingReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dropped => f.write_str("dropped from the log before this sink had them"),
            Self::Damaged { file, offset } => write!(f, "a damaged record in {file} at offset {offset}"),
            Self::Skipped => f.write_str("left out after a recovery"),
        }
    }
}

/// Reads batches in order of position.
pub struct Reader {
    log: Arc<Log>,
    position: u64,
    open: Option<Open>,
}

struct Open {
    name: segment::Name,
    scan: Scan,
}

/// A segment, as a reader may see it now.
struct View {
    name: segment::Name,
    /// Nothing after it is looked at.
    limit: u64,
    /// Where the next segment begins, or the end of the log: no position after this one's last record is below.
    until: u64,
}

impl Reader {
    /// Position of the next event.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Lets go of the file: while it is held, a segment that is dropped keeps its space.
    pub fn rest(&mut self) {
        self.open = None;
    }

    /// Goes to `position`. Forward within a segment is cheaper than back.
    pub fn seek(&mut self, position: u64) {
        self.position = position;
    }

    /// The next record that has an event at or after the reader's position, or what is missing there; `None` at the
    /// end.
    ///
    /// # Errors
    /// The file system's own. The reader stands where it stood.
    pub fn read_next(&mut self) -> io::Result<Option<Read>> {
        loop {
            let view = match self.view() {
                Ok(view) => view,
                Err(read) => return Ok(read),
            };
            let mut open = match self.open_at(&view) {
                Ok(open) => open,
                // Dropped just now.
                Err(error) if error.kind() == ErrorKind::NotFound && self.log.oldest() > self.position => continue,
                Err(error) => return Err(error),
            };
            let step = open.scan.next(view.limit)?;
            let payload = match &step {
                Step::Record(found) if found.header.end_position() > self.position => open.scan.payload(found)?,
                _ => None,
            };
            self.open = Some(open);
            let read = match step {
                Step::Record(found) if found.header.end_position() <= self.position => continue,
                Step::Record(found) => match payload {
                    Some(payload) => {
                        self.position = found.header.end_position();
                        return Ok(Some(Read::Batch(Arc::new(batch(&found, payload)))));
                    }
                    None => self.damaged(&view, found.offset, found.header.end_position()),
                },
                Step::Gap { bytes, positions } => self.damaged(&view, bytes.start, positions.end),
                Step::End { torn: Some(bytes) } if view.until.saturating_sub(self.position) < WAL_POSITION_JUMP => {
                    self.damaged(&view, bytes.start, view.until)
                }
                // Also where recovery has cut something: it counted that.
                Step::End { .. } => self.missing(view.until, MissingReason::Skipped),
            };
            if read.is_some() {
                return Ok(read);
            }
        }
    }

    /// The segment with the reader's position. `Err`: there is none, and this is the reader's answer.
    fn view(&mut self) -> Result<View, Option<Read>> {
        let log = self.log.clone();
        let shape = log.shape();
        if self.position >= shape.end {
            return Err(None);
        }
        let after = shape.segments.partition_point(|segment| segment.name.first_position <= self.position);
        let Some(segment) = after.checked_sub(1).and_then(|index| shape.segments.get(index)) else {
            self.open = None;
            let oldest = shape.segments.first().map_or(shape.end, |segment| segment.name.first_position);
            let left_out = shape.left_out().find(|left_out| left_out.end > self.position);
            return Err(match left_out.filter(|left_out| left_out.end <= oldest) {
                Some(left_out) if left_out.start <= self.position => self.missing(left_out.end, MissingReason::Skipped),
                Some(left_out) => self.missing(left_out.start, MissingReason::Dropped),
                None => self.missing(oldest, MissingReason::Dropped),
            });
        };
        Ok(match shape.segments.get(after) {
            Some(next) => View { name: segment.name, limit: segment.bytes, until: next.name.first_position },
            None => View { name: segment.name, limit: shape.synced_bytes, until: shape.end },
        })
    }

    /// The scan that was held if it can continue to the reader's position, else a new one from the start of the
    /// segment.
    fn open_at(&mut self, view: &View) -> io::Result<Open> {
        match self.open.take() {
            Some(open) if open.name == view.name && open.scan.position() <= self.position => Ok(open),
            _ => {
                let file = self.log.storage.open(&view.name.to_string())?;
                Ok(Open { name: view.name, scan: Scan::new(file, &view.name) })
            }
        }
    }

    fn damaged(&mut self, view: &View, offset: u64, until: u64) -> Option<Read> {
        let file = view.name.to_string();
        tracing::warn!(file, offset, from = self.position, until, "skipped a corrupt record of the log");
        self.missing(until, MissingReason::Damaged { file, offset })
    }

    fn missing(&mut self, until: u64, reason: MissingReason) -> Option<Read> {
        let positions = self.position..until;
        self.position = self.position.max(until);
        (!positions.is_empty()).then_some(Read::Missing { positions, reason })
    }
}

/// The record as the routers saw it when it was fresh.
pub(super) fn batch(found: &Found, payload: bytes::Bytes) -> Batch {
    let Content::Commit(runs) = &found.content else { return Batch::new(found.header.first_position(), Vec::new()) };
    let runs = slices(runs, &payload)
        .filter(|(run, _)| !matches!(run.kind, Kind::Hello { .. } | Kind::Bye { .. }))
        .map(|(run, payload)| Run {
            payload: Payload::Read(payload),
            events: run.events,
            received_unix_nano: run.received_unix_nano,
            origin: run.origin.clone(),
            are_head_first: false,
        })
        .collect();
    Batch::new(found.header.first_position(), runs)
}
