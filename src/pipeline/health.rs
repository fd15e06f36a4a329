//! How the log is doing, as `/ready`, `/health` and the event loop see it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

/// Why the log accepts nothing for the moment. It passes by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Pause {
    /// The file system has no space.
    DiskFull = 1,
    /// `wal.max_bytes` is used up by what a sink has not taken.
    LogFull = 2,
    /// The process or the system has no file descriptor left.
    NoDescriptors = 3,
}

impl Pause {
    /// The reason as `/ready` names it.
    pub fn name(self) -> &'static str {
        // Also in `metrics::NOT_READY`.
        match self {
            Self::DiskFull => "disk_full",
            Self::LogFull => "log_full",
            Self::NoDescriptors => "descriptors_exhausted",
        }
    }
}

/// Written by the log thread, read by anyone.
#[derive(Debug, Default)]
pub struct LogHealth {
    pause: AtomicU8,
    failure: OnceLock<String>,
}

impl LogHealth {
    /// Sets why the log accepts nothing; `None`: it accepts again.
    pub fn set_pause(&self, pause: Option<Pause>) {
        self.pause.store(pause.map_or(0, |pause| pause as u8), Ordering::Relaxed);
    }

    /// Why the log accepts nothing at the moment; `None`: it accepts events.
    pub fn pause(&self) -> Option<Pause> {
        let paused = self.pause.load(Ordering::Relaxed);
        [Pause::DiskFull, Pause::LogFull, Pause::NoDescriptors].into_iter().find(|pause| *pause as u8 == paused)
    }

    /// The reason as `/ready` names it.
    pub fn not_ready(&self) -> Option<&'static str> {
        self.pause().map(Pause::name)
    }

    /// A write or a sync failed: nothing more is acknowledged, and the process ends.
    pub fn fail(&self, reason: String) {
        // The first reason is the one that counts.
        let _ = self.failure.set(reason);
    }

    /// Why the log failed; `None`: it did not.
    pub fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }
}
