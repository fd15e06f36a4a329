//! What a peer can trigger, a peer can flood: log lines about connections are limited to so many a second, over all loops.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::limits::{LOG_LINES_PER_SECOND, LOG_WARNING_INTERVAL};

const WINDOW: Duration = Duration::from_secs(1);

/// Counts the lines of the current second.
#[derive(Debug, Default)]
pub struct LogLimit(Mutex<Second>);

#[derive(Debug, Default)]
struct Second {
    since: Option<Instant>,
    lines: u32,
    suppressed: u64,
}

impl LogLimit {
    /// Whether one more line may be written at `now`. Says itself, once a second, how many were not.
    pub fn allows(&self, now: Instant) -> bool {
        let mut second = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if second.since.is_none_or(|since| now >= since + WINDOW) {
            if second.suppressed > 0 {
                tracing::info!(lines = second.suppressed, "more log lines about connections were suppressed");
            }
            *second = Second { since: Some(now), lines: 0, suppressed: 0 };
        }
        second.lines += 1;
        let allowed = second.lines <= LOG_LINES_PER_SECOND;
        second.suppressed += u64::from(!allowed);
        allowed
    }
}

/// One line in [`LOG_WARNING_INTERVAL`] about the same thing: the first at once, the next one with the number of what came since.
#[derive(Debug, Default)]
pub struct LogInterval(Mutex<Interval>);

#[derive(Debug, Default)]
struct Interval {
    logged: Option<Instant>,
    unlogged: u64,
}

impl LogInterval {
    /// Whether there may be a line about `count` more of the thing at `now`: the number that it stands for.
    pub fn allows(&self, count: u64, now: Instant) -> Option<u64> {
        let mut interval = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        interval.unlogged += count;
        if interval.logged.is_some_and(|logged| now < logged + LOG_WARNING_INTERVAL) {
            return None;
        }
        interval.logged = Some(now);
        Some(std::mem::take(&mut interval.unlogged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_second_has_its_lines_and_no_more() {
        let (limit, now) = (LogLimit::default(), Instant::now());
        let burst = |limit: &LogLimit, now| (0..10 * LOG_LINES_PER_SECOND).filter(|_| limit.allows(now)).count();
        assert_eq!(burst(&limit, now), LOG_LINES_PER_SECOND as usize);
        assert_eq!(burst(&limit, now + WINDOW / 2), 0);
        assert_eq!(burst(&limit, now + WINDOW), LOG_LINES_PER_SECOND as usize);
    }

    #[test]
    fn a_line_in_a_while_stands_for_what_came_since_the_last_one() {
        let (limit, now) = (LogInterval::default(), Instant::now());
        assert_eq!(limit.allows(3, now), Some(3));
        assert_eq!(limit.allows(1, now), None);
        assert_eq!(limit.allows(2, now + LOG_WARNING_INTERVAL / 2), None);
        assert_eq!(limit.allows(1, now + LOG_WARNING_INTERVAL), Some(4));
    }
}
