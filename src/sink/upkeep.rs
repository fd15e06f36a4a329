//! Work between deliveries: the clocks that it goes by, and what came of it.

use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

/// Two clocks, read at the same moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clocks {
    /// The host's time of day. It may be set.
    pub wall: SystemTime,
    /// Since the host's start, including the time that it was suspended. It cannot be set.
    pub monotonic: Duration,
}

impl Clocks {
    /// Reads both clocks.
    pub fn now() -> Self {
        // Not std's Instant: it stands still while the host is suspended, so that each resume would look like a wall
        // clock that was set.
        let since_boot = clock_gettime(ClockId::Boottime);
        Self {
            wall: SystemTime::now(),
            monotonic: Duration::new(
                u64::try_from(since_boot.tv_sec).unwrap_or_default(),
                u32::try_from(since_boot.tv_nsec).unwrap_or_default(),
            ),
        }
    }
}

/// What came of a call of [`super::Sink::upkeep`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upkeep {
    /// When to call it again; `None`: never.
    pub again: Option<Duration>,
    /// Events deleted because they were older than the sink keeps them.
    pub expired_events: u64,
}

impl Upkeep {
    /// Nothing to report; call it again after this time, or never.
    pub fn again(again: Option<Duration>) -> Self {
        Self { again, expired_events: 0 }
    }
}
