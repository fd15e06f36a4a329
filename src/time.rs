//! The wall clock as the event format has it (nanoseconds since 1970), and both clocks as a value.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Two clocks, read at the same moment. What can be stepped gets this passed in.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Never goes back.
    pub monotonic: Instant,
    /// The host's time of day. It may be set.
    pub wall: SystemTime,
}

impl Now {
    /// Reads both clocks.
    pub fn read() -> Self {
        Self { monotonic: Instant::now(), wall: SystemTime::now() }
    }
}

/// Nanoseconds since 1970; 0 before, and `u64::MAX` from the year 2554 on.
pub fn unix_nano(wall: SystemTime) -> u64 {
    u64::try_from(wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

/// [`unix_nano`] of now. What can be stepped gets the time passed in instead.
pub fn now_unix_nano() -> u64 {
    unix_nano(SystemTime::now())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_outside_the_range_are_its_ends() {
        assert_eq!(unix_nano(UNIX_EPOCH - Duration::from_secs(1)), 0);
        assert_eq!(unix_nano(UNIX_EPOCH + Duration::from_nanos(7)), 7);
        assert_eq!(unix_nano(UNIX_EPOCH + Duration::from_secs(600 * 365 * 86_400)), u64::MAX);
        assert!(now_unix_nano() > 1_700_000_000_000_000_000);
    }
}
