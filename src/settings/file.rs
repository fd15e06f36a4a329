//! Files that settings are in, or name.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use crate::limits::SETTINGS_FILE_BYTES_MAX;

/// Reads a file of settings, secrets, tokens or keys, which is small.
///
/// # Errors
/// It cannot be read, is not UTF-8, or is so large that it is the wrong file.
pub fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let bytes = File::open(path)?.take(SETTINGS_FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if bytes as u64 > SETTINGS_FILE_BYTES_MAX {
        let why = format!("larger than {} bytes", SETTINGS_FILE_BYTES_MAX);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    Ok(text)
}
