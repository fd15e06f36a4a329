//! What a peer can trigger, a peer can flood: log lines about connections are limited to so many a second.

use std::time::{Duration, Instant};

use crate::limits::{LOG_LINES_PER_SECOND, LOG_WARNING_INTERVAL};

const WINDOW: Duration = Duration::from_secs(1);

/// Counts the lines of the current second.
#[derive(Debug, Default)]
pub struct LogLimit {
    since: Option<Instant>,
    lines: u32,
    suppressed: u64,
}

impl LogLimit {
    /// Whether one more line may be written at `now`. Says itself, once a second, how many were not.
    pub fn allows(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now >= since + WINDOW) {
            if self.suppressed > 0 {
                tracing::info!(lines = self.suppressed, "more lines about connections were left out");
            }
            (self.since, self.lines, self.suppressed) = (Some(now), 0, 0);
        }
        self.lines += 1;
        let allowed = self.lines <= LOG_LINES_PER_SECOND;
        self.suppressed += u64::from(!allowed);
        allowed
    }
}

/// Lets the first line through, then one per `LOG_WARNING_INTERVAL`: for a state that lasts.
#[derive(Debug, Default)]
pub struct Interval {
    last: Option<Instant>,
    suppressed: u64,
}

impl Interval {
    /// The number of lines suppressed since the last one; `None`: suppress this one, too.
    pub fn due(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now < last + LOG_WARNING_INTERVAL) {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_passes_then_one_per_interval() {
        let (mut interval, now) = (Interval::default(), Instant::now());
        assert_eq!(interval.due(now), Some(0));
        assert_eq!(interval.due(now + LOG_WARNING_INTERVAL / 3), None);
        assert_eq!(interval.due(now + LOG_WARNING_INTERVAL / 2), None);
        assert_eq!(interval.due(now + LOG_WARNING_INTERVAL), Some(2));
        assert_eq!(interval.due(now + LOG_WARNING_INTERVAL * 2), Some(0));
    }

    #[test]
    fn each_second_has_its_lines_and_no_more() {
        let (mut limit, now) = (LogLimit::default(), Instant::now());
        let burst = |limit: &mut LogLimit, now| (0..10 * LOG_LINES_PER_SECOND).filter(|_| limit.allows(now)).count();
        assert_eq!(burst(&mut limit, now), LOG_LINES_PER_SECOND as usize);
        assert_eq!(burst(&mut limit, now + WINDOW / 2), 0);
        assert_eq!(burst(&mut limit, now + WINDOW), LOG_LINES_PER_SECOND as usize);
    }
}
