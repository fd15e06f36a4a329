//! A walk through the records of one segment; recovery, readers and `telemetryx wal` take the same one.
//!
//! ```text
//!  │ record │ record │▒▒ corrupt ▒▒│ record │ 0 0 0 0 0 0 0 0 │
//!  ──── Record ──────▶──── Gap ────▶─Record─▶────── End ───────▶ limit
//! ```
//!
//! After corrupt bytes it looks for the next valid header of this segment whose position is possible there. Bytes of
//! events are never searched while the header before them is valid.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::record::{self, Content, LoggedRun, MAGIC, SEGMENT_ID_BYTES, SegmentId};
use super::segment;
use super::storage::{StorageFile, read_full_at};
use crate::limits::WAL_READ_BYTES;

/// Magic and segment id: what a record begins with.
const START_BYTES: usize = MAGIC.len() + SEGMENT_ID_BYTES;

/// One step of the walk.
#[derive(Debug)]
pub(super) enum Step {
    /// A record with valid header and tables. Its payloads were not looked at; [`Scan::payload`] does.
    Record(Box<Found>),
    /// Bytes that are not a record, with a valid one after them. `positions` are those that were in them.
    Gap { bytes: Range<u64>, positions: Range<u64> },
    /// No more records. `Some`: these bytes are not zero, and no record.
    End { torn: Option<Range<u64>> },
}

/// A valid record.
#[derive(Debug)]
pub(super) struct Found {
    /// Where the record begins in the segment.
    pub offset: u64,
    /// The record's header.
    pub header: record::Header,
    /// The record's tables.
    pub content: Content,
}

impl Found {
    /// Where the next record begins.
    pub(super) fn end(&self) -> u64 {
        self.offset + self.header.record_bytes()
    }
}

/// A walk that goes from one record to the next.
pub(super) struct Scan {
    window: Window,
    segment_id: SegmentId,
    /// The next record begins here …
    offset: u64,
    /// … and its first event has this position.
    position: u64,
}

impl Scan {
    /// A walk that begins after the header of the segment.
    pub(super) fn new(file: Arc<dyn StorageFile>, name: &segment::Name) -> Self {
        Self {
            window: Window { file, buffer: Vec::new(), start: 0 },
            segment_id: name.id,
            offset: segment::HEADER_BYTES as u64,
            position: name.first_position,
        }
    }

    /// A walk that continues at `offset`, where a record from `position` on is expected.
    pub(super) fn resumed(file: Arc<dyn StorageFile>, name: &segment::Name, offset: u64, position: u64) -> Self {
        Self { offset, position, ..Self::new(file, name) }
    }

    /// The next record, if all of it is there; looks no further. [`Scan::pass`] goes to the one after it.
    pub(super) fn record(&mut self, limit: u64) -> io::Result<Option<Found>> {
        let found = self.record_at(self.offset, limit)?;
        Ok(found.filter(|found| found.header.first_position() == self.position))
    }

    /// The walk continues after this record.
    pub(super) fn pass(&mut self, found: &Found) {
        self.offset = found.end();
        self.position = found.header.end_position();
    }

    /// Whether something was written where the next record is expected.
    pub(super) fn has_begun(&mut self, limit: u64) -> io::Result<bool> {
        let bytes = limit.saturating_sub(self.offset).min(record::HEADER_BYTES as u64) as usize;
        let written = self.window.bytes(self.offset, bytes, limit)?.unwrap_or_default();
        Ok(written.iter().any(|byte| *byte != 0))
    }

    /// Where the next record is expected.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The position that the next record is expected to begin with.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The next step; looks at no byte from `limit` on. After `End` it stays where it is.
    pub(super) fn next(&mut self, limit: u64) -> io::Result<Step> {
        if let Some(found) = self.record(limit)? {
            self.pass(&found);
            return Ok(Step::Record(Box::new(found)));
        }
        let begin = self.offset;
        // Most of a segment may never have been written: its zeros are passed over quickly, and nothing is sought there.
        let Some(last) = self.window.last_nonzero(begin, limit)? else { return Ok(Step::End { torn: None }) };
        if let Some((offset, position)) = self.search(limit)? {
            let positions = self.position..position;
            (self.offset, self.position) = (offset, position);
            return Ok(Step::Gap { bytes: begin..offset, positions });
        }
        Ok(Step::End { torn: Some(begin..last + 1) })
    }

    /// The payloads of `found`, all in one. `None`: a run's bytes are not as they were written.
    pub(super) fn payload(&mut self, found: &Found) -> io::Result<Option<Bytes>> {
        let begin = found.offset + (record::HEADER_BYTES + found.header.tables_bytes()) as u64;
        let mut payload = vec![0; found.header.payload_bytes()];
        self.window.copy(begin, &mut payload)?;
        let Content::Commit(runs) = &found.content else { return Ok(Some(payload.into())) };
        let payload = Bytes::from(payload);
        let sound = slices(runs, &payload).all(|(run, bytes)| crc32fast::hash(&bytes) == run.payload_crc);
        Ok(sound.then_some(payload))
    }

    /// The valid header and tables of a record that begins at `offset` and ends before `limit`.
    fn record_at(&mut self, offset: u64, limit: u64) -> io::Result<Option<Found>> {
        let Some(bytes) = self.window.bytes(offset, record::HEADER_BYTES, limit)? else { return Ok(None) };
        let Some(header) = record::Header::read(bytes, &self.segment_id) else { return Ok(None) };
        if limit.saturating_sub(offset) < header.record_bytes() {
            return Ok(None);
        }
        let head_bytes = record::HEADER_BYTES + header.tables_bytes();
        let Some(bytes) = self.window.bytes(offset, head_bytes, limit)? else { return Ok(None) };
        let Some(tables) = bytes.get(record::HEADER_BYTES..) else { return Ok(None) };
        if !header.covers(tables) {
            return Ok(None);
        }
        Ok(header.content(tables).map(|content| Found { offset, header, content }))
    }

    /// Offset and position of the next valid record after the present offset.
    fn search(&mut self, limit: u64) -> io::Result<Option<(u64, u64)>> {
        let mut start = [0; START_BYTES];
        start[..MAGIC.len()].copy_from_slice(&MAGIC);
        start[MAGIC.len()..].copy_from_slice(&self.segment_id);
        let mut offset = self.offset + 1;
        while let Some(candidate) = self.window.find(&start, offset, limit)? {
            // Every event takes a byte at least: a position further on cannot be this place's.
            let possible = self.position..=self.position + (candidate - self.offset);
            if let Some(found) = self.record_at(candidate, limit)?
                && possible.contains(&found.header.first_position())
            {
                return Ok(Some((candidate, found.header.first_position())));
            }
            offset = candidate + 1;
        }
        Ok(None)
    }
}

/// The runs with their part of the record's payload.
pub(super) fn slices<'a>(runs: &'a [LoggedRun], payload: &'a Bytes) -> impl Iterator<Item = (&'a LoggedRun, Bytes)> {
    let mut begin = 0;
    runs.iter().map_while(move |run| {
        let end = begin + run.payload_bytes as usize;
        let part = (end <= payload.len()).then(|| payload.slice(begin..end))?;
        begin = end;
        Some((run, part))
    })
}

/// What was never written.
static ZEROS: [u8; 4096] = [0; 4096];

/// A piece of a file. It is read in large pieces, for records can be small.
struct Window {
    file: Arc<dyn StorageFile>,
    buffer: Vec<u8>,
    /// Offset of the buffer's first byte.
    start: u64,
}

impl Window {
    /// The bytes from `offset`; `None` if they reach beyond `limit` or the end of the file.
    fn bytes(&mut self, offset: u64, bytes: usize, limit: u64) -> io::Result<Option<&[u8]>> {
        if offset.checked_add(bytes as u64).is_none_or(|end| end > limit) {
            return Ok(None);
        }
        if self.held(offset).len() < bytes {
            self.fill(offset, bytes.max(WAL_READ_BYTES), limit)?;
        }
        Ok(self.held(offset).get(..bytes))
    }

    /// What is held from `offset` on.
    fn held(&self, offset: u64) -> &[u8] {
        let skip = offset.checked_sub(self.start).and_then(|skip| usize::try_from(skip).ok());
        skip.and_then(|skip| self.buffer.get(skip..)).unwrap_or_default()
    }

    fn fill(&mut self, offset: u64, bytes: usize, limit: u64) -> io::Result<()> {
        let bytes = limit.saturating_sub(offset).min(bytes as u64) as usize;
        self.start = offset;
        self.buffer.clear();
        // A table of marks is larger than the window usually is: its memory is given back.
        self.buffer.shrink_to(bytes.max(WAL_READ_BYTES));
        self.buffer.resize(bytes, 0);
        match read_full_at(&*self.file, &mut self.buffer, offset) {
            Ok(read) => {
                self.buffer.truncate(read);
                Ok(())
            }
            Err(error) => {
                self.buffer.clear();
                Err(error)
            }
        }
    }

    /// Fills `into` from what is held and, for the rest, from the file at once. Behind the file's end are zeros.
    fn copy(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let held = self.held(offset);
        let first = held.len().min(into.len());
        let (from_held, rest) = into.split_at_mut(first);
        from_held.copy_from_slice(held.get(..first).unwrap_or_default());
        read_full_at(&*self.file, rest, offset + first as u64)?;
        Ok(())
    }

    /// Where `pattern` is found from `offset` on.
    fn find(&mut self, pattern: &[u8], mut offset: u64, limit: u64) -> io::Result<Option<u64>> {
        loop {
            if self.held(offset).len() < pattern.len() {
                self.fill(offset, WAL_READ_BYTES, limit)?;
            }
            let held = self.held(offset);
            if held.len() < pattern.len() {
                return Ok(None);
            }
            let room = usize::try_from(limit.saturating_sub(offset)).unwrap_or(usize::MAX);
            let held = held.get(..room).unwrap_or(held);
            if let Some(at) = held.windows(pattern.len()).position(|window| window == pattern) {
                return Ok(Some(offset + at as u64));
            }
            if held.len() < pattern.len() {
                return Ok(None);
            }
            offset += (held.len() - pattern.len() + 1) as u64;
        }
    }

    /// Offset of the last byte between `offset` and `limit` that is not zero.
    fn last_nonzero(&mut self, mut offset: u64, limit: u64) -> io::Result<Option<u64>> {
        let mut last = None;
        while offset < limit {
            if self.held(offset).is_empty() {
                self.fill(offset, WAL_READ_BYTES, limit)?;
            }
            let held = self.held(offset);
            let room = usize::try_from(limit - offset).unwrap_or(usize::MAX);
            let held = held.get(..room).unwrap_or(held);
            if held.is_empty() {
                break;
            }
            // In blocks, so that the compiler, or libc, compares many bytes at once.
            let mut from = 0;
            for block in held.chunks(ZEROS.len()) {
                if block != &ZEROS[..block.len()]
                    && let Some(at) = block.iter().rposition(|byte| *byte != 0)
                {
                    last = Some(offset + (from + at) as u64);
                }
                from += block.len();
            }
            offset += held.len() as u64;
        }
        Ok(last)
    }
}
