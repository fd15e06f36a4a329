//! The files of an open database: whether they are still where SQLite would look for them.
//!
//! SQLite opens its files once and does not notice when one is removed or replaced. What it commits to a removed
//! `-wal` file is invisible to all others, and is lost with the process.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Device and inode.
type Id = (u64, u64);

/// The database, its write-ahead log (`-wal`) and the index of that (`-shm`), as they were when it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Files {
    database: (PathBuf, Id),
    /// Both are there in journal mode WAL only; some file systems do not allow it.
    log: Vec<(PathBuf, Id)>,
}

impl Files {
    /// Those of the database at `path`, which is open. `None`: one of them is not there any more.
    pub(super) fn of(path: &Path, has_log: bool) -> Option<Self> {
        // SQLite follows links, and puts the other files beside what they lead to.
        let real = fs::canonicalize(path).ok()?;
        let beside = |suffix: &str| {
            let mut name = real.clone().into_os_string();
            name.push(suffix);
            let path = PathBuf::from(name);
            id(&path).map(|id| (path, id))
        };
        let log = if has_log { vec![beside("-wal")?, beside("-shm")?] } else { Vec::new() };
        Some(Self { database: (path.to_owned(), id(path)?), log })
    }

    /// Whether the database at `path` has a write-ahead log with something in it.
    pub(super) fn log_has_rows(path: &Path) -> bool {
        let mut log = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()).into_os_string();
        log.push("-wal");
        fs::metadata(log).is_ok_and(|log| log.len() > 0)
    }

    /// Whether the database file is the one that was opened.
    pub(super) fn database_is_in_place(&self) -> bool {
        is_in_place(&self.database)
    }

    /// Whether the database and its write-ahead log are the files that were opened.
    pub(super) fn are_in_place(&self) -> bool {
        self.database_is_in_place() && self.log.iter().all(is_in_place)
    }

    /// The first one that was removed or replaced.
    pub(super) fn missing(&self) -> Option<&Path> {
        let mut all = std::iter::once(&self.database).chain(&self.log);
        all.find(|file| !is_in_place(file)).map(|(path, _)| path.as_path())
    }
}

fn is_in_place((path, id_then): &(PathBuf, Id)) -> bool {
    id(path) == Some(*id_then)
}

/// Of what is at `path` now.
fn id(path: &Path) -> Option<Id> {
    fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}
