//! What a router shows to others while it runs: how far its sink is, and how it is doing.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use prometheus::IntGauge;

use crate::wal::Log;

/// How a sink is doing. `Display` is what `/ready` shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkStatus {
    /// The first attempt to connect has not ended.
    Connecting,
    Ok,
    /// It passes by itself.
    Retrying(String),
    /// A person has to act.
    Down(String),
}

impl fmt::Display for SinkStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting => f.write_str("connecting"),
            Self::Ok => f.write_str("ok"),
            Self::Retrying(reason) => write!(f, "retrying: {reason}"),
            Self::Down(reason) => write!(f, "down: {reason}"),
        }
    }
}

/// Written by one router, read by anyone.
pub struct SinkProgress {
    name: String,
    required: bool,
    /// Knows which positions no event has.
    log: Option<Arc<Log>>,
    /// The store has said where it is.
    is_placed: AtomicBool,
    /// Last position handed to the router.
    offered: AtomicU64,
    /// Last position that the sink has passed.
    position: AtomicU64,
    /// A position of this log that the store holds and the log does not; 0: none.
    ahead: AtomicU64,
    status: Mutex<SinkStatus>,
    status_changed: Condvar,
    /// Both ends set it; the lock makes the last one to do so the one that sees both newest positions.
    lag_events: Mutex<IntGauge>,
}

impl SinkProgress {
    pub fn new(name: &str, required: bool, lag_events: IntGauge, log: Option<Arc<Log>>) -> Self {
        Self {
            name: name.to_owned(),
            required,
            log,
            is_placed: AtomicBool::new(false),
            offered: AtomicU64::new(0),
            position: AtomicU64::new(0),
            ahead: AtomicU64::new(0),
            status: Mutex::new(SinkStatus::Connecting),
            status_changed: Condvar::new(),
            lag_events: Mutex::new(lag_events),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether acknowledgements of level `delivered` wait for this sink.
    pub fn required(&self) -> bool {
        self.required
    }

    /// Everything up to this position is stored, or kept in dead letters; 0: nothing.
    pub fn position(&self) -> u64 {
        self.position.load(Ordering::Acquire)
    }

    /// The position that the store holds beyond the end of the log, which then is an older copy; 0: none.
    pub fn ahead(&self) -> u64 {
        self.ahead.load(Ordering::Acquire)
    }

    pub(super) fn set_ahead(&self, position: u64) {
        self.ahead.store(position, Ordering::Release);
        self.is_placed.store(true, Ordering::Release);
    }

    /// Whether the store has said, in this process, which position it holds.
    pub fn is_placed(&self) -> bool {
        self.is_placed.load(Ordering::Acquire)
    }

    /// Events handed to the router that its sink has not passed.
    pub fn owed_events(&self) -> u64 {
        // The position first: it never passes what was offered before.
        let position = self.position();
        let offered = self.offered.load(Ordering::Acquire);
        let left_out = self.log.as_ref().map_or(0, |log| log.left_out(position + 1..offered + 1));
        offered.saturating_sub(position).saturating_sub(left_out)
    }

    pub fn status(&self) -> SinkStatus {
        self.lock().clone()
    }

    /// Waits until the first attempt to connect has ended, well or not. `false`: `until` came first.
    pub fn wait_for_first_connect(&self, until: Instant) -> bool {
        let mut status = self.lock();
        while *status == SinkStatus::Connecting {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            status = self.status_changed.wait_timeout(status, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    pub(super) fn offered(&self, position: u64) {
        self.offered.fetch_max(position, Ordering::Release);
        self.update_lag();
    }

    pub(super) fn passed(&self, position: u64) {
        self.position.fetch_max(position, Ordering::Release);
        self.update_lag();
    }

    /// The store says that it has everything up to `position`, even if that is less than before.
    pub(super) fn restarted(&self, position: u64) {
        self.position.store(position, Ordering::Release);
        self.is_placed.store(true, Ordering::Release);
        self.update_lag();
    }

    fn update_lag(&self) {
        let gauge = self.lag_events.lock().unwrap_or_else(PoisonError::into_inner);
        gauge.set(self.owed_events().cast_signed());
    }

    /// Returns the status before.
    pub(super) fn set_status(&self, status: SinkStatus) -> SinkStatus {
        let before = std::mem::replace(&mut *self.lock(), status);
        self.status_changed.notify_all();
        before
    }

    fn lock(&self) -> MutexGuard<'_, SinkStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
