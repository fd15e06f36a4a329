//! The writer: append, sync, rotate, delete.
//!
//! ```text
//!  append: │ … │ record ▓▓▓▓▓▓▓│ 0 0 0 │      sync: everything appended is durable, readers see it
//!  rotate:  sync ─▶ new file: marks, header ─▶ sync, sync directory ─▶ cut the old one to its end
//! ```
//!
//! So unsynced bytes are only ever in the newest segment. A full disk changes nothing and can be tried again; any other
//! error is the end: what is on the disk is not known then, and a second sync would claim what the first one lost.

use std::io::{self, IoSlice};
use std::sync::Arc;

use super::marks::MarkTable;
use super::reader::{Log, Segment, Shape};
use super::record::{Encoder, Entry, Place, SegmentId, TooLarge};
use super::segment::{self, Name};
use super::storage::{Shortage, Storage, StorageFile, write_all_at};
use super::{AppendError, LogFailure, Settings};
use crate::limits::WAL_POSITION_LIMIT;
use crate::random::Random;

/// Appends to the log; there is one.
pub struct Writer {
    settings: Settings,
    storage: Arc<dyn Storage>,
    log: Arc<Log>,
    server_id: [u8; 16],
    random: Random,
    marks: MarkTable,
    encoder: Encoder,
    current: Current,
    next_position: u64,
    next_number: u64,
    /// Newest time of receipt.
    newest_unix_nano: u64,
    failed: Option<LogFailure>,
}

/// The segment that is being written.
struct Current {
    name: Name,
    file: Arc<dyn StorageFile>,
    /// The next record begins here.
    offset: u64,
    /// Everything before is synced.
    synced_bytes: u64,
    has_commits: bool,
}

/// The parameters of a new segment.
pub(super) struct Begin<'a> {
    /// Where the segment is created.
    pub storage: &'a dyn Storage,
    /// The log that it belongs to.
    pub server_id: [u8; 16],
    /// Its name.
    pub name: Name,
    /// When it begins, by the clock of receipts: nanoseconds since 1970-01-01T00:00:00Z.
    pub created_unix_nano: u64,
    /// Positions right before the first one that no event has.
    pub left_out: u64,
    /// Bytes to reserve, if what is written at once takes less.
    pub bytes: u64,
}

/// A begun segment: durable, with its name.
pub(super) struct Begun {
    file: Arc<dyn StorageFile>,
    /// Where the first commit goes.
    offset: u64,
    segment: Segment,
}

impl Begin<'_> {
    /// Creates the file. `encoder` holds the marks.
    pub(super) fn write(&self, encoder: &mut Encoder) -> io::Result<Begun> {
        let file_name = self.name.to_string();
        let offset = segment::HEADER_BYTES as u64 + encoder.record_bytes();
        let bytes = self.bytes.max(offset);
        let file = self.storage.create(&file_name, bytes)?;
        let header = segment::Header {
            version: segment::VERSION,
            server_id: self.server_id,
            segment_id: self.name.id,
            first_position: self.name.first_position,
            created_unix_nano: self.created_unix_nano,
            left_out: self.left_out,
        };
        let marks = encoder.finish(Place {
            segment_id: self.name.id,
            server_id: self.server_id,
            first_position: self.name.first_position,
            synced_bytes: 0,
        });
        // The header last: a segment with a header is begun completely.
        let written = write_all_at(&*file, &mut [IoSlice::new(marks)], segment::HEADER_BYTES as u64)
            .1
            .and_then(|()| write_all_at(&*file, &mut [IoSlice::new(&header.encode())], 0).1);
        if let Err(error) = written {
            // The segment before goes on if the disk is full: nothing of this one may be found behind it.
            let removed = self.storage.remove(&file_name).and_then(|()| self.storage.sync_dir());
            removed.map_err(|error| io::Error::other(error.to_string()))?;
            return Err(error);
        }
        // A shortage met this late is final: the segment may be there and may not.
        file.sync_data().and_then(|()| self.storage.sync_dir()).map_err(|error| match Shortage::of(&error) {
            Some(_) => io::Error::other(error.to_string()),
            None => error,
        })?;
        let Self { name, created_unix_nano, left_out, .. } = *self;
        let segment = Segment { name, created_unix_nano, bytes, left_out };
        Ok(Begun { file, offset, segment })
    }
}

impl Writer {
    /// Begins where recovery ended: in a new segment. `older` are the segments before it.
    pub(super) fn new(
        settings: Settings,
        storage: Arc<dyn Storage>,
        server_id: [u8; 16],
        random: Random,
        marks: MarkTable,
        older: Vec<Segment>,
        begun: Begun,
    ) -> (Self, Arc<Log>) {
        let Begun { file, offset, segment } = begun;
        let name = segment.name;
        let segments = older.into_iter().chain([segment]).collect();
        let shape = Shape { segments, gone: Vec::new(), synced_bytes: offset, end: name.first_position };
        let log = Arc::new(Log::new(storage.clone(), shape));
        let writer = Self {
            settings,
            storage,
            log: log.clone(),
            server_id,
            random,
            marks,
            encoder: Encoder::default(),
            current: Current { name, file, offset, synced_bytes: offset, has_commits: false },
            next_position: name.first_position,
            next_number: name.number + 1,
            newest_unix_nano: segment.created_unix_nano,
            failed: None,
        };
        (writer, log)
    }

    /// Position of the next event that is appended.
    pub fn next_position(&self) -> u64 {
        self.next_position
    }

    /// The lowest position that is kept.
    pub fn oldest_position(&self) -> u64 {
        self.log.oldest()
    }

    /// The position after the oldest segment's last one: a sink that is before it needs that segment.
    pub fn oldest_segment_end(&self) -> u64 {
        let shape = self.log.shape();
        shape.segments.get(1).map_or(shape.end, |next| next.name.first_position)
    }

    /// Bytes of all segments, with what is reserved in the current one.
    pub fn bytes(&self) -> u64 {
        self.log.shape().segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Bytes of the segments that hold `position` or a later one. 0 where nothing of that is in the log.
    pub fn bytes_from(&self, position: u64) -> u64 {
        let shape = self.log.shape();
        let ends = shape.segments.iter().skip(1).map(|next| next.name.first_position).chain([shape.end]);
        let needed = shape.segments.iter().zip(ends).filter(|(_, end)| position < *end);
        needed.map(|(segment, _)| segment.bytes).sum()
    }

    /// Agents that have a mark.
    #[cfg(test)]
    pub fn agents(&self) -> usize {
        self.marks.len()
    }

    /// Writes one record with everything in `entries`, into a new segment if it does not fit into the current one.
    /// Returns the position of its first event. Nothing of it is durable before [`Writer::sync`].
    ///
    /// # Errors
    /// After [`AppendError::NoSpace`], [`AppendError::NoDescriptors`] and [`AppendError::Full`] nothing has changed: call
    /// again. [`AppendError::Failed`] is final.
    pub fn append(&mut self, entries: &[Entry<'_>]) -> Result<u64, AppendError> {
        self.alive()?;
        if entries.is_empty() {
            return Ok(self.next_position);
        }
        let encoded = self.encoder.commit(entries);
        encoded.map_err(|error: TooLarge| self.fail("append to", io::Error::other(error)))?;
        let record_bytes = self.encoder.record_bytes();
        if self.current.has_commits && self.current.offset + record_bytes > self.settings.segment_bytes {
            self.rotate(record_bytes, 0)?;
            let encoded = self.encoder.commit(entries);
            encoded.map_err(|error: TooLarge| self.fail("append to", io::Error::other(error)))?;
        }
        self.write(entries)?;

        let first_position = self.next_position;
        for entry in entries {
            self.next_position += u64::from(entry.events);
            self.newest_unix_nano = self.newest_unix_nano.max(entry.received_unix_nano);
            self.marks.apply(entry.kind, entry.origin, entry.received_unix_nano, self.next_position - 1);
        }
        self.current.offset += record_bytes;
        self.current.has_commits = true;
        let written = self.current.offset;
        self.log.change(|shape| {
            if let Some(segment) = shape.segments.last_mut() {
                segment.bytes = segment.bytes.max(written);
            }
        });
        Ok(first_position)
    }

    /// Writes the record that the encoder holds, at the current offset.
    fn write(&mut self, entries: &[Entry<'_>]) -> Result<(), AppendError> {
        let head = self.encoder.finish(Place {
            segment_id: self.current.name.id,
            server_id: self.server_id,
            first_position: self.next_position,
            synced_bytes: self.current.synced_bytes,
        });
        let payloads = entries.iter().map(|entry| entry.payload).filter(|payload| !payload.is_empty());
        let mut slices: Vec<_> = [head].into_iter().chain(payloads).map(IoSlice::new).collect();
        let (_, result) = write_all_at(&*self.current.file, &mut slices, self.current.offset);
        match result {
            Ok(()) => Ok(()),
            Err(error) if Shortage::of(&error) == Some(Shortage::Space) => {
                // Half a record must not stay, or a crash now would look like a torn one. Also where nothing is said to be
                // written: blocks may be.
                let (file, offset) = (&self.current.file, self.current.offset);
                file.truncate(offset).map_err(|error| self.fail("cut", error))?;
                Err(AppendError::NoSpace(error))
            }
            Err(error) => Err(self.fail("write", error).into()),
        }
    }

    /// `fdatasync`. Afterwards everything that was appended survives power loss, and readers see it.
    ///
    /// # Errors
    /// Final: what of it is on the disk is not known.
    pub fn sync(&mut self) -> Result<(), LogFailure> {
        self.alive()?;
        if self.current.synced_bytes == self.current.offset {
            return Ok(());
        }
        self.current.file.sync_data().map_err(|error| self.fail("sync", error))?;
        self.current.synced_bytes = self.current.offset;
        let (synced_bytes, end) = (self.current.synced_bytes, self.next_position);
        self.log.change(|shape| (shape.synced_bytes, shape.end) = (synced_bytes, end));
        Ok(())
    }

    /// Begins a new segment with room for a record of `record_bytes`, after `left_out` positions that no event has.
    fn rotate(&mut self, record_bytes: u64, left_out: u64) -> Result<(), AppendError> {
        self.marks.sweep();
        self.encoder.marks(self.marks.iter());
        let needed = segment::HEADER_BYTES as u64 + self.encoder.record_bytes() + record_bytes;
        let bytes = needed.max(self.settings.segment_bytes);
        let (closed_bytes, segments) = {
            let shape = self.log.shape();
            let older = shape.segments.split_last().map_or(&[][..], |(_, older)| older);
            (older.iter().map(|segment| segment.bytes).sum::<u64>(), shape.segments.len())
        };
        // With only one segment there is nothing that could be dropped: the log may have two, whatever the limit.
        // A skip has no other time than this: it may go beyond the limit, as every start does with its segment.
        if left_out == 0 && segments > 1 && closed_bytes + self.current.offset + bytes > self.settings.max_bytes {
            return Err(AppendError::Full);
        }
        self.sync()?;
        // What was left out before a segment without events is before the new one, too, and still told once it is gone.
        let before = self.log.shape().segments.last().map_or(0, |segment| segment.left_out);
        let left_out = if self.current.has_commits { left_out } else { left_out + before };
        let name = Name {
            first_position: self.next_position,
            number: self.next_number,
            id: super::segment_id(&mut self.random),
        };
        self.next_number += 1;
        let begin = Begin {
            storage: &*self.storage,
            server_id: self.server_id,
            name,
            created_unix_nano: self.newest_unix_nano,
            left_out,
            bytes,
        };
        let begun = begin.write(&mut self.encoder).map_err(|error| match Shortage::of(&error) {
            Some(Shortage::Space) => AppendError::NoSpace(error),
            Some(Shortage::Descriptors) => AppendError::NoDescriptors(error),
            None => self.fail("begin a segment after", error).into(),
        })?;
        self.current.file.truncate(self.current.offset).map_err(|error| self.fail("cut", error))?;

        let closed_bytes = self.current.offset;
        let Begun { file, offset, segment } = begun;
        self.current = Current { name, file, offset, synced_bytes: offset, has_commits: false };
        self.log.change(|shape| {
            if let Some(closed) = shape.segments.last_mut() {
                closed.bytes = closed_bytes;
            }
            shape.segments.push(segment);
            shape.synced_bytes = offset;
        });
        Ok(())
    }

    /// Gives out no position below `position`, because another process may have: continues there in a new segment.
    ///
    /// # Errors
    /// As for [`Writer::append`].
    pub fn skip_to(&mut self, position: u64) -> Result<(), AppendError> {
        self.alive()?;
        // A start refuses positions beyond the limit, and what follows them would be lost.
        let position = position.min(WAL_POSITION_LIMIT);
        if position <= self.next_position {
            return Ok(());
        }
        self.sync()?;
        let before = std::mem::replace(&mut self.next_position, position);
        if let Err(error) = self.rotate(0, position - before) {
            // Only a new segment may begin at another position than where the last record ends.
            self.next_position = before;
            return Err(error);
        }
        self.log.change(|shape| shape.end = position);
        Ok(())
    }

    /// Deletes segments that lie wholly below `keep_from`, the lowest position that a sink still needs, and were closed
    /// longer ago than `keep`.
    ///
    /// # Errors
    /// Final, as for [`Writer::sync`].
    pub fn trim(&mut self, keep_from: u64, now_unix_nano: u64) -> Result<(), LogFailure> {
        self.alive()?;
        let keep_nano = self.settings.keep.as_nanos();
        let mut dropped = false;
        loop {
            let next = self.log.shape().segments.get(1).copied();
            let Some(next) = next.filter(|next| next.name.first_position <= keep_from) else { break };
            // A clock that was set back must not hold the disk for a day: then they are old enough.
            let closed_for = now_unix_nano.checked_sub(next.created_unix_nano);
            if closed_for.is_some_and(|nano| u128::from(nano) < keep_nano) {
                break;
            }
            self.remove_oldest()?;
            dropped = true;
        }
        if dropped { self.sync_dir() } else { Ok(()) }
    }

    /// Deletes the oldest segment, even if a sink needs it. Returns the new oldest position, or `None` if only the
    /// current segment is left.
    ///
    /// # Errors
    /// Final, as for [`Writer::sync`].
    pub fn drop_oldest(&mut self) -> Result<Option<u64>, LogFailure> {
        self.alive()?;
        if self.log.shape().segments.len() < 2 {
            return Ok(None);
        }
        self.remove_oldest()?;
        self.sync_dir()?;
        Ok(Some(self.log.oldest()))
    }

    /// Readers are notified first, then the file is removed.
    fn remove_oldest(&mut self) -> Result<(), LogFailure> {
        let oldest = self.log.change(|shape| {
            let oldest = shape.segments.remove(0);
            shape.gone.extend(Some(oldest.left_out()).filter(|range| !range.is_empty()));
            oldest
        });
        self.storage.remove(&oldest.name.to_string()).map_err(|error| self.fail("delete the segment before", error))
    }

    fn sync_dir(&mut self) -> Result<(), LogFailure> {
        self.storage.sync_dir().map_err(|error| self.fail("sync the folder of", error))
    }

    fn alive(&self) -> Result<(), LogFailure> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    fn fail(&mut self, action: &'static str, error: io::Error) -> LogFailure {
        let failure = LogFailure { action, file: self.current.name.to_string(), error: Arc::new(error) };
        self.failed = Some(failure.clone());
        failure
    }
}

/// 8 random bytes that peers cannot guess. The generator's other numbers, which they see, must not tell: the system's own
/// randomness where it gives it.
pub(super) fn segment_id(random: &mut Random) -> SegmentId {
    let mut id = random.next_u64().to_be_bytes();
    let _ = getrandom::fill(&mut id);
    id
}
