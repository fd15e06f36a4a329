//! The position of a sink whose store keeps none: `data_dir/positions/<sink>`, one line `server_id position`. Of a sink
//! that has nothing yet: where it began, followed by the word `begins`; where the store keeps its own position, until
//! it has one.
//!
//! Replaced as a whole (write, sync, rename, sync the directory), so that a crash leaves the old one or the new one.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::sink::uuid;
use crate::{descriptors, folder};

/// Follows the position of a sink that has nothing yet.
const BEGINS: &str = " begins";

/// The content of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saved {
    /// Every event up to here is stored; 0: none.
    pub position: u64,
    /// The sink has nothing yet, and begins after the position.
    pub begins: bool,
}

/// The file that keeps the position of one sink.
#[derive(Debug)]
pub struct PositionFile {
    path: PathBuf,
    new_path: PathBuf,
    server_id: String,
    /// This process has synced the directory's name.
    folder_is_made: Cell<bool>,
}

impl PositionFile {
    /// The file of this sink and log; nothing is read or written yet.
    pub fn new(data_dir: &Path, sink: &str, server_id: &[u8; 16]) -> Self {
        let folder = data_dir.join("positions");
        Self {
            path: folder.join(sink),
            new_path: folder.join(format!("{sink}.new")),
            server_id: uuid(server_id),
            folder_is_made: Cell::new(false),
        }
    }

    /// The last position saved of this log; `None`: none, or it was of another log.
    ///
    /// # Errors
    /// `InvalidData`: the file is not one of ours. Otherwise the file cannot be read.
    pub fn load(&self) -> io::Result<Option<Saved>> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.named(error)),
        };
        let (server_id, position) = text.trim_end().split_once(' ').ok_or_else(|| self.damaged())?;
        let (position, begins) = match position.strip_suffix(BEGINS) {
            Some(position) => (position, true),
            None => (position, false),
        };
        let position = position.parse().map_err(|_| self.damaged())?;
        Ok((server_id == self.server_id).then_some(Saved { position, begins }))
    }

    /// Afterwards nothing is saved.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(self.named(error)),
            _ => Ok(()),
        }
    }

    /// Saves `position`; when it returns, the position survives power loss.
    pub fn save(&self, position: u64) -> io::Result<()> {
        self.replace(position, "").map_err(|error| self.named(error))
    }

    /// Saves that the sink begins after `position`.
    pub fn save_begin(&self, position: u64) -> io::Result<()> {
        self.replace(position, BEGINS).map_err(|error| self.named(error))
    }

    fn replace(&self, position: u64, word: &str) -> io::Result<()> {
        let Some(folder) = self.path.parent() else { return Err(ErrorKind::InvalidInput.into()) };
        // Again where somebody has removed it.
        if !self.folder_is_made.get() || !folder.is_dir() {
            folder::make(folder)?;
            self.folder_is_made.set(true);
        }
        let mut file = File::create(&self.new_path)?;
        writeln!(file, "{} {position}{word}", self.server_id)?;
        file.sync_all()?;
        fs::rename(&self.new_path, &self.path)?;
        File::open(folder)?.sync_all()
    }

    fn named(&self, error: io::Error) -> io::Error {
        descriptors::with_context(format!("position file {}", self.path.display()), error)
    }

    fn damaged(&self) -> io::Error {
        let reason = format!(
            "position file {} does not hold a server id and a position; remove it to deliver again from the oldest \
             event kept",
            self.path.display()
        );
        io::Error::new(ErrorKind::InvalidData, reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_position_is_loaded_by_the_same_log_only() {
        let dir = tempfile::tempdir().unwrap();
        let positions = PositionFile::new(dir.path(), "out", &[1; 16]);
        assert_eq!(positions.load().unwrap(), None);
        positions.remove().unwrap();
        for position in [0, 7, u64::MAX] {
            positions.save(position).unwrap();
            let load = || PositionFile::new(dir.path(), "out", &[1; 16]).load().unwrap();
            assert_eq!(load(), Some(Saved { position, begins: false }));
            positions.save_begin(position).unwrap();
            assert_eq!(load(), Some(Saved { position, begins: true }));
        }
        assert_eq!(PositionFile::new(dir.path(), "out", &[2; 16]).load().unwrap(), None);
        assert_eq!(PositionFile::new(dir.path(), "other", &[1; 16]).load().unwrap(), None);
        positions.remove().unwrap();
        assert_eq!(positions.load().unwrap(), None);
    }

    #[test]
    fn a_torn_new_file_does_not_harm_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let positions = PositionFile::new(dir.path(), "out", &[1; 16]);
        positions.save(7).unwrap();
        fs::write(dir.path().join("positions/out.new"), "0101").unwrap();
        assert_eq!(positions.load().unwrap(), Some(Saved { position: 7, begins: false }));
        positions.save(8).unwrap();
        assert_eq!(positions.load().unwrap(), Some(Saved { position: 8, begins: false }));
    }

    #[test]
    fn a_foreign_file_is_an_error_that_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let positions = PositionFile::new(dir.path(), "out", &[1; 16]);
        fs::create_dir(dir.path().join("positions")).unwrap();
        for text in ["", "hello", "01010101-0101-0101-0101-010101010101 x", "a b c"] {
            fs::write(dir.path().join("positions/out"), text).unwrap();
            let error = positions.load().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{text:?}");
            assert!(error.to_string().contains("remove it"), "{error}");
        }
    }
}
