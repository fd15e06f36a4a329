//! Reads a log from outside as it grows: nothing is locked or written, and no file stays open between two calls, so that a segment
//! can be deleted meanwhile.
//!
//! ```text
//!  │ record │ record │ record (half) 0 0 0 0 │        a record that is being written is waited for
//!                    ▲ place
//! ```
//!
//! What is read was written, and may not be synced yet. A record that stays unreadable is corrupt: it is passed, as by
//! [`Reader`](super::Reader), once it was so for a while, or a newer segment was begun. A corrupt header of a segment loses nothing.

use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::reader::batch;
use super::scan::{Scan, Step};
use super::segment::{self, Header, Name};
use super::storage::{Storage, StorageFile, read_full_at};
use super::{MissingReason, record};
use crate::batch::Batch;
use crate::limits::{WAL_FOLLOW_PATIENCE, WAL_POSITION_JUMP};

/// What was found.
#[derive(Debug)]
pub enum Followed {
    /// One record. It may begin before the position that was asked for.
    Batch {
        /// The log that it belongs to.
        server_id: [u8; 16],
        /// Its events.
        batch: Arc<Batch>,
    },
    /// Positions that cannot be read, and never will be.
    Missing(Range<u64>, MissingReason),
}

/// Where the walk stands in a segment.
#[derive(Debug, Clone, Copy)]
struct Place {
    name: Name,
    offset: u64,
    /// The next record is expected to begin with it.
    position: u64,
}

impl Place {
    fn begin(name: Name) -> Self {
        Self { name, offset: segment::HEADER_BYTES as u64, position: name.first_position }
    }
}

/// Follows a log.
pub struct Follower {
    storage: Arc<dyn Storage>,
    position: u64,
    /// `None`: it is sought by the position.
    place: Option<Place>,
    /// Since when the next record has begun, and cannot be read.
    unreadable: Option<Instant>,
    /// The next segment, and since when it is there without a valid header.
    without_header: Option<(Name, Instant)>,
}

impl Follower {
    /// Begins with the event at `position`.
    pub fn new(storage: Arc<dyn Storage>, position: u64) -> Self {
        Self { storage, position, place: None, unreadable: None, without_header: None }
    }

    /// Begins with the next event that is written.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn at_end(storage: Arc<dyn Storage>) -> io::Result<Self> {
        let mut follower = Self::new(storage, 1);
        // A segment that is begun just now has no records; its name says where the log is.
        while let Some(name) = follower.names()?.pop() {
            let Some((file, limit)) = follower.open(&name)? else { continue };
            let mut scan = Scan::new(file, &name);
            // What is corrupt before the end is none of the events to come.
            while !matches!(scan.next(limit)?, Step::End { .. }) {}
            follower.position = scan.position();
            follower.place = Some(Place { name, offset: scan.offset(), position: scan.position() });
            break;
        }
        Ok(follower)
    }

    /// Position of the next event.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// What there is, up to about so many bytes of events; empty: nothing now.
    ///
    /// # Errors
    /// The file system's own. Nothing is passed.
    pub fn read(&mut self, bytes_max: usize, now: Instant) -> io::Result<Vec<Followed>> {
        let mut found = Vec::new();
        loop {
            let names = self.names()?;
            let Some(place) = self.find_place(&names, &mut found)? else { return Ok(found) };
            let newer = names.get(names.partition_point(|name| *name <= place.name)..).unwrap_or_default();
            let Some((file, limit)) = self.open(&place.name)? else {
                // Deleted just now.
                self.place = None;
                continue;
            };
            // Looked at before the records: where it has begun, this segment is complete.
            let next = self.next_segment(newer, now)?;
            let mut scan = Scan::resumed(file, &place.name, place.offset, place.position);
            let at_end = self.walk(&mut scan, limit, (bytes_max, next.is_some(), now), &mut found)?;
            self.place = Some(Place { offset: scan.offset(), position: scan.position(), ..place });
            match next {
                Some((name, left_out)) if at_end => self.enter(name, left_out, &mut found),
                _ => return Ok(found),
            }
        }
    }

    /// Reads the records of a segment. `true`: there are no more now.
    fn walk(
        &mut self,
        scan: &mut Scan,
        limit: u64,
        (bytes_max, is_complete, now): (usize, bool, Instant),
        found: &mut Vec<Followed>,
    ) -> io::Result<bool> {
        let mut bytes = 0;
        while bytes < bytes_max {
            if let Some(record) = scan.record(limit)? {
                if record.header.end_position() <= self.position {
                    scan.pass(&record);
                    continue;
                }
                if let Some(payload) = scan.payload(&record)? {
                    scan.pass(&record);
                    (self.position, self.unreadable) = (record.header.end_position(), None);
                    bytes += payload.len().max(record::HEADER_BYTES);
                    let server_id = record.header.server_id;
                    found.push(Followed::Batch { server_id, batch: Arc::new(batch(&record, payload)) });
                    continue;
                }
            } else if !is_complete && !scan.has_begun(limit)? {
                self.unreadable = None;
                return Ok(true);
            }
            let since = *self.unreadable.get_or_insert(now);
            if !is_complete && now < since + WAL_FOLLOW_PATIENCE {
                return Ok(true);
            }
            if self.pass_corrupt(scan, limit, found)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Passes what cannot be read. `true`: nothing follows it in this segment.
    fn pass_corrupt(&mut self, scan: &mut Scan, limit: u64, found: &mut Vec<Followed>) -> io::Result<bool> {
        self.unreadable = None;
        let offset = scan.offset();
        let until = match scan.next(limit)? {
            Step::Record(record) => record.header.end_position(),
            Step::Gap { positions, .. } => positions.end,
            Step::End { .. } => return Ok(true),
        };
        let file = self.place.map(|place| place.name.to_string()).unwrap_or_default();
        self.miss(until, MissingReason::Damaged { file, offset }, found);
        Ok(false)
    }

    /// The place in the log, sought where it is not known or its segment was deleted. `None`: there is no log.
    fn find_place(&mut self, names: &[Name], found: &mut Vec<Followed>) -> io::Result<Option<Place>> {
        if let Some(place) = self.place.filter(|place| names.contains(&place.name)) {
            return Ok(Some(place));
        }
        let after = names.partition_point(|name| name.first_position <= self.position);
        match (after.checked_sub(1).and_then(|index| names.get(index)), names.first()) {
            (Some(name), _) => (self.place, self.unreadable) = (Some(Place::begin(*name)), None),
            (None, Some(first)) => {
                let left_out = self.header(first)?.map(|header| header.left_out);
                self.enter(*first, left_out, found);
            }
            (None, None) => self.place = None,
        }
        Ok(self.place)
    }

    /// The first of the `newer` segments and how many positions were left out before it (`None`: its header is corrupt), once it
    /// was begun: it has a header, another segment follows, or it was without one for a while.
    fn next_segment(&mut self, newer: &[Name], now: Instant) -> io::Result<Option<(Name, Option<u64>)>> {
        let Some(name) = newer.first() else { return Ok(None) };
        if let Some(header) = self.header(name)? {
            return Ok(Some((*name, Some(header.left_out))));
        }
        let since = match self.without_header {
            Some((known, since)) if known == *name => since,
            _ => now,
        };
        self.without_header = Some((*name, since));
        let is_begun = newer.len() > 1 || now >= since + WAL_FOLLOW_PATIENCE;
        Ok(is_begun.then_some((*name, None)))
    }

    /// Continues with a segment.
    fn enter(&mut self, name: Name, left_out: Option<u64>, found: &mut Vec<Followed>) {
        // Where that cannot be read, a jump is recognised by its size, as by `Reader`.
        let unknown = name.first_position.saturating_sub(self.position);
        let left_out = left_out.unwrap_or(if unknown < WAL_POSITION_JUMP { 0 } else { unknown });
        let skipped = name.first_position.saturating_sub(left_out);
        if self.position < skipped {
            // Of a record that was corrupt at the end of the segment before, or of a segment that was deleted.
            self.miss(skipped, MissingReason::Dropped, found);
        }
        self.miss(name.first_position, MissingReason::Skipped, found);
        (self.place, self.unreadable) = (Some(Place::begin(name)), None);
    }

    fn miss(&mut self, until: u64, reason: MissingReason, found: &mut Vec<Followed>) {
        if until > self.position {
            found.push(Followed::Missing(self.position..until, reason));
            self.position = until;
        }
    }

    fn names(&self) -> io::Result<Vec<Name>> {
        let mut names: Vec<_> = self.storage.list("")?.iter().filter_map(|(file, _)| Name::parse(file)).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// `None`: it was deleted meanwhile.
    fn open(&self, name: &Name) -> io::Result<Option<(Arc<dyn StorageFile>, u64)>> {
        match self.storage.open(&name.to_string()) {
            Ok(file) => {
                let bytes = file.bytes()?;
                Ok(Some((file, bytes)))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// `None`: it is not begun yet, or was deleted.
    fn header(&self, name: &Name) -> io::Result<Option<Header>> {
        let Some((file, _)) = self.open(name)? else { return Ok(None) };
        let mut header = [0; segment::HEADER_BYTES];
        read_full_at(&*file, &mut header, 0)?;
        Ok(Header::decode(&header))
    }
}
