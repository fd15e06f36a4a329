//! Where the log's files are. The only place between the event loop and the routers that touches `std::fs`.
//!
//! The log needs few things of a file system: named files in one directory, writes at an offset, `fdatasync`, and that
//! a name is durable once its directory is synced. Tests run the same code over files in memory that lose what was not
//! synced.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::direct::{DirectFile, Spare};
use crate::{descriptors, folder};

/// One directory of files. A name may have a directory before it, as in `damaged/x`, which is created when needed.
pub trait Storage: Send + Sync {
    /// Names and sizes in bytes of the files in `folder` ("" is the log's own), without what is in directories below.
    fn list(&self, folder: &str) -> io::Result<Vec<(String, u64)>>;
    /// Creates a file of `bytes` zeros, with their space reserved where the file system can; an old one is replaced.
    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn StorageFile>>;
    /// Opens a file for reading, and for writing if the storage is not read-only.
    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Afterwards the names in the log's own directory survive power loss.
    fn sync_dir(&self) -> io::Result<()>;
}

/// One open file.
pub trait StorageFile: Send + Sync {
    /// Writes from the start of `slices`, at most [`WAL_SLICES_MAX`](crate::limits::WAL_SLICES_MAX) of them. Returns
    /// the bytes written, which may be fewer.
    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize>;
    /// Reads into the start of `buffer`. Returns the bytes read; 0 at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// `fdatasync`. After an error nothing is known about what was written since the last one.
    fn sync_data(&self) -> io::Result<()>;
    /// Cuts the file to `bytes`.
    fn truncate(&self, bytes: u64) -> io::Result<()>;
    /// Size of the file, bytes.
    fn bytes(&self) -> io::Result<u64>;
}

/// What a call lacked that passes by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shortage {
    /// The disk, or a quota, is full.
    Space,
    /// The process or the system has no file descriptor left.
    Descriptors,
}

impl Shortage {
    /// `None`: waiting does not help against `error`.
    pub(super) fn of(error: &io::Error) -> Option<Self> {
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Some(Self::Space),
            _ => descriptors::are_exhausted_by(error).then_some(Self::Descriptors),
        }
    }
}

/// Reads until `buffer` is full or the file ends. Returns the bytes read.
pub(super) fn read_full_at(file: &dyn StorageFile, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Writes all of `slices`. Returns the bytes written, and the error that kept the rest from being written.
pub(super) fn write_all_at(
    file: &dyn StorageFile,
    mut slices: &mut [IoSlice<'_>],
    offset: u64,
) -> (u64, io::Result<()>) {
    let mut written = 0;
    while let Some(first) = slices.get(..slices.len().min(crate::limits::WAL_SLICES_MAX)).filter(|s| !s.is_empty()) {
        match file.write_at(first, offset + written) {
            Ok(0) => return (written, Err(ErrorKind::WriteZero.into())),
            Ok(bytes) => {
                written += bytes as u64;
                IoSlice::advance_slices(&mut slices, bytes);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

/// A directory of the real file system.
pub struct DirStorage {
    dir: PathBuf,
    /// The directory itself, held open so that syncing it never lacks a descriptor. `None`: it is only read.
    synced: Option<File>,
    /// What a segment that has ended leaves to the next one.
    spare: Spare,
}

impl DirStorage {
    /// Creates the directory if it is missing; its own name is durable then.
    pub fn create(dir: &Path) -> io::Result<Self> {
        folder::make(dir)?;
        Ok(Self { dir: dir.to_owned(), synced: Some(File::open(dir)?), spare: Spare::default() })
    }

    /// A directory that is only read.
    pub fn existing(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), synced: None, spare: Spare::default() }
    }
}

impl Storage for DirStorage {
    fn list(&self, folder: &str) -> io::Result<Vec<(String, u64)>> {
        let entries = match fs::read_dir(self.dir.join(folder)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound && !folder.is_empty() => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                // Dropped by the server while a command looks.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
                names.push((name, metadata.len()));
            }
        }
        Ok(names)
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn StorageFile>> {
        let path = self.dir.join(name);
        if let Some(folder) = path.parent().filter(|folder| *folder != self.dir) {
            fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
        if bytes == 0 {
            return Ok(Arc::new(file));
        }
        let reserved = match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes) {
            // Not every file system can reserve space; the file grows by its writes then.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(error) => Err(error.into()),
        };
        match reserved.and_then(|()| DirectFile::new(file, &path, &self.spare)) {
            Ok(file) => Ok(Arc::new(file)),
            Err(error) => {
                // Nothing is in it: were it left, it would be passed over.
                let _ = fs::remove_file(&path);
                Err(error)
            }
        }
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(self.synced.is_some()).open(self.dir.join(name))?))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.dir.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        match &self.synced {
            Some(dir) => dir.sync_all(),
            None => File::open(&self.dir)?.sync_all(),
        }
    }
}

impl StorageFile for File {
    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        Ok(rustix::io::pwritev(self, slices, offset)?)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}
