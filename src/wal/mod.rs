//! The write-ahead log: what is acknowledged is here first, and stays until every sink has it.
//!
//! ```text
//!                         ┌──────────── data_dir/wal ─────────────┐
//!  log thread ─▶ Writer ─▶│ segment │ segment │ segment ▓▓▓░░░░░░ │─▶ Reader, one per sink ─▶ router
//!                append   └───────────────────────────▲───────────┘
//!                sync                        Log::end ┘ readers see what is synced
//! ```
//!
//! - A **record** is one commit; it stands for itself and every bit of it is under a checksum (`record`).
//! - A **segment** is a file of records that begins with all agents' marks (`segment`, `marks`).
//! - Every start **recovers** and begins a new segment (`recovery`): a partial tail is cut and kept aside, corruption
//!   is skipped and reported, no position is used twice, no valid record is lost.
//! - A full disk changes nothing; any other failed write or sync is final (`writer`).
//!
//! Files are behind a trait (`storage`), so that tests can fail and crash at every call. `docs/log.md` has the format.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

mod direct;
mod follow;
mod inspect;
mod marks;
mod reader;
mod record;
mod recovery;
mod scan;
mod segment;
mod storage;
mod writer;

pub use follow::{Followed, Follower};
pub use inspect::{Damage, InspectedSegment, Inspection, Place, inspect};
pub use marks::AgentMark;
pub use reader::{Log, MissingReason, Read, Reader};
pub use record::{Entry, Kind};
pub use recovery::{OpenError, Opened, Report, open};
pub use storage::{DirStorage, Storage, StorageFile};
pub use writer::Writer;

use writer::segment_id;

/// Settings of the log.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `data_dir/wal`, for messages.
    pub dir: PathBuf,
    /// A segment is closed before it grows beyond this; a single record may be larger.
    pub segment_bytes: u64,
    /// Bytes of all segments; at least two segments are allowed.
    pub max_bytes: u64,
    /// A segment that no sink needs is kept this long after it was closed.
    pub keep: Duration,
    /// Marks that are kept, at most.
    pub max_agents: usize,
    /// How long the mark of a silent agent is kept at least.
    pub dedupe_retention: Duration,
}

/// A write or a sync failed. What is on the disk is not known: stop acknowledging and exit; recovery will look.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the log failed: cannot {action} {file}: {error}")]
pub struct LogFailure {
    action: &'static str,
    file: String,
    error: Arc<io::Error>,
}

/// Why a commit was not appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Nothing has changed; call again when there may be space.
    #[error("no space for the log: {0}; free some, it continues by itself")]
    NoSpace(io::Error),
    /// A new segment needs a file descriptor. Nothing has changed; call again when one may be free.
    #[error("no file descriptor for a segment of the log: {0}; raise the limit of open files")]
    NoDescriptors(io::Error),
    /// Nothing has changed; call again after [`Writer::trim`] or [`Writer::drop_oldest`].
    #[error("the log has reached wal.max_bytes and a sink still needs all of it: fix the sink or raise wal.max_bytes")]
    Full,
    /// Exit.
    #[error(transparent)]
    Failed(#[from] LogFailure),
}

#[cfg(test)]
pub(crate) mod tests;
