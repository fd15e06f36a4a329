//! A segment that is written past the system's page cache.
//!
//! A log is written once and, while its sinks keep up, never read. Through the page cache each of its bytes would cost
//! a fresh page, a copy and a write-back: on the machines that were measured up to twenty times what the device's own
//! transfer costs in CPU time (`docs/performance.md`). `O_DIRECT` requires whole blocks, in memory and on the disk:
//!
//! ```text
//!              ┌ block ──┬ block ──┬ block ──┐
//!  on disk     │▓▓▓▓▓▓▓▓▓│▓▓▓▓00000│000000000│      ▓ written before, 0 reserved
//!  staging               │▓▓▓▓new n│ew new000│      one write: the partial block again, what is new, zeros
//!                             ▲ end      ▲ new end
//! ```
//!
//! The last block is written again with each append, as the page cache does with its page. Anything but an append, and
//! all reads, go through the page cache; the system keeps both views of the file the same. Where a file system refuses
//! `O_DIRECT`, everything does.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, IoSlice};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::OFlags;

use super::storage::{StorageFile, read_full_at};
use crate::batch::pool::{Buffer, Pool};
use crate::descriptors;
use crate::limits::{POOL_HUGE_PAGE_BYTES, WAL_BLOCK_BYTES, WAL_STAGING_BYTES, WAL_STAGING_SMALL_BYTES};

/// A segment's file.
pub(super) struct DirectFile {
    /// Through the page cache.
    file: File,
    /// `None`: there is no other way.
    append: Mutex<Option<Append>>,
}

/// The end of the file, where it is written past the page cache.
struct Append {
    file: File,
    staging: Staging,
    spare: Spare,
    /// Where the next append goes, if it is one; the bytes of its block before it are in the staging.
    end: Option<u64>,
}

impl DirectFile {
    /// `file` is the one at `path`, which is opened a second time, for `O_DIRECT`. `spare`: that of the log.
    ///
    /// # Errors
    /// No file descriptor is left. That passes, whereas a segment without `O_DIRECT` would stay so to its end.
    pub(super) fn new(file: File, path: &Path, spare: &Spare) -> io::Result<Self> {
        let direct = OpenOptions::new().write(true).custom_flags(OFlags::DIRECT.bits().cast_signed()).open(path);
        Self::with(file, direct, spare)
    }

    fn with(file: File, direct: io::Result<File>, spare: &Spare) -> io::Result<Self> {
        let append = match direct {
            Ok(file) => Some(Append { file, staging: Staging::small(), spare: spare.clone(), end: None }),
            Err(error) if descriptors::are_exhausted_by(&error) => return Err(error),
            // The file system refuses `O_DIRECT`.
            Err(_) => None,
        };
        Ok(Self { file, append: Mutex::new(append) })
    }
}

impl StorageFile for DirectFile {
    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let mut append = self.append.lock().unwrap_or_else(PoisonError::into_inner);
        match append.as_mut() {
            // The header, which is written last. It may be in the staged block.
            Some(direct) if offset == 0 => direct.end = None,
            Some(direct) => match direct.write(slices, offset, &self.file) {
                // Larger blocks than ours, or a file system that knows `O_DIRECT` by name only.
                Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => {
                    *append = None
                }
                written => return written,
            },
            None => {}
        }
        StorageFile::write_at(&self.file, slices, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(&self.file, buffer, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        if let Some(append) = self.append.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            append.end = None;
        }
        self.file.set_len(bytes)
    }

    fn bytes(&self) -> io::Result<u64> {
        self.file.bytes()
    }
}

impl Append {
    /// Writes as much of `slices` as fits into one transfer. `cached`: the same file.
    fn write(&mut self, slices: &[IoSlice<'_>], offset: u64, cached: &File) -> io::Result<usize> {
        let block = WAL_BLOCK_BYTES as u64;
        let begin = offset - offset % block;
        let kept = (offset - begin) as usize;
        let wanted = slices.iter().fold(kept, |bytes, slice| bytes.saturating_add(slice.len()));
        self.staging.grow(wanted, kept, &self.spare);
        let staging = self.staging.bytes_mut();
        if self.end.take() != Some(offset) {
            let Some(before) = staging.get_mut(..kept) else { return Err(ErrorKind::InvalidInput.into()) };
            let read = read_full_at(cached, before, begin)?;
            before.get_mut(read..).unwrap_or_default().fill(0);
        }
        let mut filled = kept;
        for slice in slices {
            let room = staging.get_mut(filled..).unwrap_or_default();
            let bytes = slice.len().min(room.len());
            if let (Some(to), Some(from)) = (room.get_mut(..bytes), slice.get(..bytes)) {
                to.copy_from_slice(from);
            }
            filled += bytes;
            if bytes < slice.len() {
                break;
            }
        }
        let padded = filled.next_multiple_of(WAL_BLOCK_BYTES);
        staging.get_mut(filled..padded).unwrap_or_default().fill(0);

        let blocks = staging.get(..padded).unwrap_or_default();
        let (written, result) = write_blocks(blocks, |rest, at| FileExt::write_at(&self.file, rest, begin + at as u64));
        match result {
            Ok(()) => {}
            // The rest is tried again, and its error then told.
            Err(_) if written > kept => return Ok(written.min(filled) - kept),
            Err(error) => return Err(error),
        }
        let torn = filled % WAL_BLOCK_BYTES;
        staging.copy_within(filled - torn..filled, 0);
        self.end = Some(offset + (filled - kept) as u64);
        Ok(filled - kept)
    }
}

impl Drop for Append {
    fn drop(&mut self) {
        if let Staging::Large(buffer) = std::mem::replace(&mut self.staging, Staging::none()) {
            self.spare.keep(buffer);
        }
    }
}

/// Has `write_at` write all of `blocks`, at an offset from their begin. Returns the bytes of the whole blocks that are
/// written, and why not all are.
fn write_blocks(blocks: &[u8], mut write_at: impl FnMut(&[u8], usize) -> io::Result<usize>) -> (usize, io::Result<()>) {
    let mut written = 0;
    while let Some(rest) = blocks.get(written..).filter(|rest| !rest.is_empty()) {
        match write_at(rest, written) {
            // What is not a whole block of it is written again.
            Ok(bytes) if bytes >= WAL_BLOCK_BYTES => written += bytes - bytes % WAL_BLOCK_BYTES,
            // Only where there is no whole block left.
            Ok(_) => return (written, Err(ErrorKind::StorageFull.into())),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

/// Large memory of a segment that has ended, for the next one: the system would have to make new pages zero.
#[derive(Clone, Default)]
pub(super) struct Spare(Arc<Mutex<Option<Buffer>>>);

impl Spare {
    fn take(&self) -> Option<Buffer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn keep(&self, buffer: Buffer) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(buffer);
    }
}

/// Memory that begins at a block's boundary.
enum Staging {
    /// As long as writes are small: a server with little to do does not use more.
    Small { bytes: Vec<u8>, begin: usize },
    /// On huge pages. For each write the system looks up every page of it: with pages of 4 KiB the whole server took about 5 % more CPU time.
    Large(Buffer),
}

impl Staging {
    const fn none() -> Self {
        Self::Small { bytes: Vec::new(), begin: 0 }
    }

    fn small() -> Self {
        let bytes = vec![0; WAL_STAGING_SMALL_BYTES + WAL_BLOCK_BYTES];
        let begin = bytes.as_ptr().align_offset(WAL_BLOCK_BYTES);
        Self::Small { bytes, begin }
    }

    /// The spare one, or a pool of its own that is just large enough to be on huge pages.
    fn large(spare: &Spare) -> Option<Self> {
        let new = || Pool::new(2 * POOL_HUGE_PAGE_BYTES, Box::new(|| {})).allocate(WAL_STAGING_BYTES);
        let mut buffer = spare.take().or_else(new)?;
        let is_aligned = buffer.unfilled().as_ptr().align_offset(WAL_BLOCK_BYTES) == 0;
        is_aligned.then_some(Self::Large(buffer))
    }

    /// Becomes large if `wanted` bytes do not fit. The first `kept` bytes stay.
    fn grow(&mut self, wanted: usize, kept: usize, spare: &Spare) {
        if matches!(self, Self::Small { .. })
            && wanted > WAL_STAGING_SMALL_BYTES
            && let Some(mut large) = Self::large(spare)
        {
            if let (Some(to), Some(from)) = (large.bytes_mut().get_mut(..kept), self.bytes_mut().get(..kept)) {
                to.copy_from_slice(from);
            }
            *self = large;
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Small { bytes, begin } => bytes.get_mut(*begin..*begin + WAL_STAGING_SMALL_BYTES).unwrap_or_default(),
            Self::Large(buffer) => buffer.unfilled(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use crate::wal::storage::write_all_at;

    fn file(path: &Path, bytes: u64) -> DirectFile {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path).unwrap();
        file.set_len(bytes).unwrap();
        DirectFile::new(file, path, &Spare::default()).unwrap()
    }

    #[test]
    fn without_a_descriptor_there_is_no_segment_and_without_direct_io_there_is() {
        let with = |code| {
            let (file, direct) = (tempfile::tempfile().unwrap(), io::Error::from_raw_os_error(code));
            DirectFile::with(file, Err(direct), &Spare::default()).map_err(|error| error.raw_os_error())
        };
        for code in [libc::EMFILE, libc::ENFILE] {
            assert_eq!(with(code).err(), Some(Some(code)));
        }
        let cached = with(libc::EINVAL).unwrap();
        assert!(cached.append.lock().unwrap().is_none());
    }

    #[test]
    fn short_writes_go_on_at_a_block_and_end_where_none_fits() {
        let blocks: Vec<u8> = (0..4 * WAL_BLOCK_BYTES).map(|at| (at / 100) as u8).collect();
        // What the system takes at a time; all are at least once interrupted.
        for (takes, expected) in [
            (vec![usize::MAX], 4),
            (vec![WAL_BLOCK_BYTES; 4], 4),
            (vec![WAL_BLOCK_BYTES * 2 - 1, WAL_BLOCK_BYTES + 1, usize::MAX], 4),
            (vec![WAL_BLOCK_BYTES * 3 + 100, 100], 3),
            (vec![WAL_BLOCK_BYTES - 1], 0),
            (vec![0], 0),
        ] {
            let mut disk = vec![0; blocks.len()];
            let (mut takes, mut interrupted) = (takes.into_iter(), false);
            let (written, result) = write_blocks(&blocks, |rest, at| {
                interrupted = !interrupted;
                if interrupted {
                    return Err(ErrorKind::Interrupted.into());
                }
                assert_eq!(at % WAL_BLOCK_BYTES, 0);
                let bytes = rest.len().min(takes.next().expect("the system is asked no more than that"));
                disk[at..at + bytes].copy_from_slice(&rest[..bytes]);
                Ok(bytes)
            });
            assert_eq!(written, expected * WAL_BLOCK_BYTES);
            assert_eq!(disk[..written], blocks[..written]);
            assert_eq!(result.err().map(|error| error.kind()), (expected < 4).then_some(ErrorKind::StorageFull));
        }
        let (written, result) = write_blocks(&blocks, |_, at| match at {
            0 => Ok(WAL_BLOCK_BYTES),
            _ => Err(ErrorKind::QuotaExceeded.into()),
        });
        assert_eq!((written, result.unwrap_err().kind()), (WAL_BLOCK_BYTES, ErrorKind::QuotaExceeded));
    }

    /// Whether appends are written past the page cache, and from large memory.
    fn is_large(file: &DirectFile) -> Option<bool> {
        let append = file.append.lock().unwrap();
        append.as_ref().map(|append| matches!(append.staging, Staging::Large(_)))
    }

    #[test]
    fn the_first_large_append_keeps_the_block_that_was_begun() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("segment");
        let appends = [(100, 1, Some(false)), (WAL_STAGING_SMALL_BYTES - 100, 2, Some(false)), (50, 3, Some(false))];
        let large = [(WAL_STAGING_SMALL_BYTES - 50 + 1, 4, Some(true)), (70, 5, Some(true))];
        let (direct, mut naive) = (file(&path, 1 << 20), Vec::new());
        for (bytes, fill, expected) in appends.into_iter().chain(large) {
            // Not at 0, where the header is.
            let offset = 4096 + naive.len() as u64;
            write_all_at(&direct, &mut [IoSlice::new(&vec![fill; bytes])], offset).1.unwrap();
            naive.resize(naive.len() + bytes, fill);
            if is_large(&direct).is_none() {
                println!("skipped: the file system of {} has no O_DIRECT", dir.path().display());
                return;
            }
            assert_eq!(is_large(&direct), expected, "append {fill}");
        }
        assert!(std::fs::read(&path).unwrap()[4096..].starts_with(&naive));
    }

    #[test]
    fn a_segment_gets_the_large_memory_of_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let (spare, mut before) = (Spare::default(), None);
        for segment in 0..3 {
            let path = dir.path().join(format!("segment {segment}"));
            let plain = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
            let direct = DirectFile::new(plain, &path, &spare).unwrap();
            let written = vec![segment; WAL_STAGING_SMALL_BYTES + 1];
            write_all_at(&direct, &mut [IoSlice::new(&written)], 4096).1.unwrap();
            let Some(append) = &mut *direct.append.lock().unwrap() else {
                println!("skipped: the file system of {} has no O_DIRECT", dir.path().display());
                return;
            };
            let address = append.staging.bytes_mut().as_ptr().addr();
            assert_eq!(address % WAL_BLOCK_BYTES, 0);
            assert_eq!(*before.get_or_insert(address), address, "segment {segment}");
            assert!(std::fs::read(&path).unwrap()[4096..].starts_with(&written));
        }
    }

    #[test]
    fn any_appends_end_as_a_plain_file_has_them() {
        let seed = Random::from_system().next_u64();
        println!("seed {seed}");
        let mut random = Random::seeded(seed);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("segment");
        let direct = file(&path, 8 << 20);
        if direct.append.lock().unwrap().is_none() {
            println!("skipped: the file system of {} has no O_DIRECT", dir.path().display());
            return;
        }
        // A segment's begin: what follows the header, then the header, both in the first block.
        direct.write_at(&[IoSlice::new(&[7; 100])], 56).unwrap();
        direct.write_at(&[IoSlice::new(&[8; 56])], 0).unwrap();
        let mut naive = [vec![8_u8; 56], vec![7; 100]].concat();
        while naive.len() < 6 << 20 {
            let parts: Vec<Vec<u8>> = (0..1 + random.next_u64() % 4)
                .map(|_| {
                    let bytes = match random.next_u64() % 8 {
                        0 => random.next_u64() % (WAL_STAGING_BYTES as u64 * 2),
                        1 => WAL_BLOCK_BYTES as u64,
                        _ => random.next_u64() % 5_000,
                    };
                    (0..bytes).map(|_| random.next_u64() as u8).collect()
                })
                .collect();
            let mut slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
            let offset = naive.len() as u64;
            let (written, result) = write_all_at(&direct, &mut slices, offset);
            result.unwrap();
            naive.extend(parts.iter().flatten());
            assert_eq!(written, naive.len() as u64 - offset, "seed {seed}");
            match random.next_u64() % 10 {
                // As after a record for which there was no space.
                0 => {
                    naive.truncate(naive.len() - (naive.len() - 156).min(random.next_u64() as usize % 9_000));
                    direct.truncate(naive.len() as u64).unwrap();
                }
                // The header, and a reader in between.
                1 => {
                    naive[..56].fill(random.next_u64() as u8);
                    direct.write_at(&[IoSlice::new(&naive[..56])], 0).unwrap();
                }
                2 => {
                    let mut seen = vec![0; naive.len()];
                    assert_eq!(read_full_at(&direct, &mut seen, 0).unwrap(), naive.len());
                    assert!(seen == naive, "seed {seed}");
                }
                _ => {}
            }
        }
        direct.sync_data().unwrap();
        let seen = std::fs::read(&path).unwrap();
        assert!(seen[..naive.len()] == naive, "seed {seed}");
        assert!(seen[naive.len()..].iter().all(|byte| *byte == 0), "seed {seed}: what follows is reserved, not used");
    }
}
