//! Dead letters: what a sink refuses (`dead/<sink>.ndjson`) and what is rejected on receipt (`dead/ingest.ndjson`), one
//! JSON object per line. What a sink refused is on disk before the sink's position passes it. What came in a frame is written by the
//! log thread after the NACK; an ACK of a level above *received* waits for it.
//!
//! ```text
//!  router, log ─── append (locked, synced) ──▶ dead/<name>.ndjson ──▶ read up to what was whole when it began
//!                                                     ▲
//!   `dead drop|replay` ── rewrite: copy what stays ───┘ then, locked, what was appended meanwhile, and rename
//! ```
//!
//! Server and commands share the files by an advisory lock on the file itself (`file`). A letter is in the file until
//! a person drops it, or until the store has it.

mod file;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

pub use file::{Piece, Snapshot, rewrite};
pub use reader::{Content, ReadLetter, Seen};
pub use writer::{DeadLetters, Letter, RefusedEvent, RefusedFrame};

/// Name of the file for what is rejected on receipt; no sink has this name.
pub const INGEST: &str = "ingest";
/// The earlier name of [`INGEST`]: its file is still read, and never written to.
const INGEST_BEFORE: &str = "door";

const EXTENSION: &str = ".ndjson";

/// Where all dead letters are.
pub fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join("dead")
}

/// The file of a sink, or of [`INGEST`], that letters are appended to.
pub fn path(data_dir: &Path, name: &str) -> PathBuf {
    folder(data_dir).join(format!("{name}{EXTENSION}"))
}

/// All files with letters of a name, whether they exist or not, the oldest first: those of [`INGEST`] include the one
/// that earlier versions wrote.
pub fn files(data_dir: &Path, name: &str) -> Vec<PathBuf> {
    let before = (name == INGEST).then(|| path(data_dir, INGEST_BEFORE));
    before.into_iter().chain([path(data_dir, name)]).collect()
}

/// Names of all that have a file, sorted. Empty if there is no directory.
pub fn names(data_dir: &Path) -> io::Result<Vec<String>> {
    let entries = match folder(data_dir).read_dir() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        if let Some(name) = entry?.file_name().to_str().and_then(|name| name.strip_suffix(EXTENSION)) {
            names.push(if name == INGEST_BEFORE { INGEST } else { name }.to_owned());
        }
    }
    names.sort_unstable();
    names.dedup();
    Ok(names)
}
