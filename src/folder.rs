//! Directories whose names survive power loss.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::Path;

/// Creates the directory if it is missing. When it returns, its name is on the disk, and that of its parent directory:
/// both may be new.
pub fn make(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    for parent in std::path::absolute(path)?.ancestors().skip(1).take(2) {
        match File::open(parent).and_then(|parent| parent.sync_all()) {
            // A folder that we may not read is none that was just made.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
            synced => synced?,
        }
    }
    Ok(())
}
