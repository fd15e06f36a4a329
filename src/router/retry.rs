//! When to try again, and how often to log it. No clock and no sleep here: `now` comes in, durations go out.
//!
//! With one delivery of a sink on its way at a time this is its circuit breaker, too: after a failure nothing goes to the
//! store until the delay is over, then one connect and one delivery as a trial, and the rest only once that was stored.

use std::time::{Duration, Instant};

use crate::backoff::Backoff;
use crate::limits;
use crate::random::Random;

/// When a sink is tried again, for ever.
#[derive(Debug)]
pub struct RetryDelays(Backoff);

impl RetryDelays {
    /// The first delay is at most `limits::RETRY_BACKOFF_MIN`.
    pub fn new(random: Random) -> Self {
        Self(Backoff::new(limits::RETRY_BACKOFF_MIN, limits::RETRY_BACKOFF_MAX, random))
    }

    /// The next delay for a fault that passes by itself; not below `after`, which the store named, up to a bound.
    pub fn retry(&mut self, after: Option<Duration>) -> Duration {
        self.0.next_delay().max(after.unwrap_or_default().min(limits::RETRY_AFTER_MAX))
    }

    /// The next delay while a person has to act: the upper half of the largest one.
    pub fn down(&mut self) -> Duration {
        self.0.long_delay()
    }

    /// It works again, or the rules changed: begin with short delays.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}

/// Lets the first warning through, then one in every `limits::SINK_WARNING_INTERVAL`.
#[derive(Debug, Default)]
pub struct Warnings {
    last: Option<Instant>,
    suppressed: u64,
}

impl Warnings {
    /// `Some(n)`: log it now; `n` lines were suppressed since the last one.
    pub fn due(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now < last + limits::SINK_WARNING_INTERVAL) {
            self.suppressed += 1;
            return None;
        }
        Some(self.at_once(now))
    }

    /// For what must not wait: as if it was due. Returns how many were swallowed since the last one.
    pub fn at_once(&mut self, now: Instant) -> u64 {
        self.last = Some(now);
        std::mem::take(&mut self.suppressed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_stay_below_a_doubling_bound_and_the_cap() {
        for seed in 0..200 {
            let mut backoff = RetryDelays::new(Random::seeded(seed));
            let mut bound = limits::RETRY_BACKOFF_MIN;
            for _ in 0..64 {
                assert!(backoff.retry(None) < bound, "seed {seed}");
                bound = (bound * 2).min(limits::RETRY_BACKOFF_MAX);
            }
        }
    }

    #[test]
    fn a_time_named_by_the_store_is_honoured_up_to_a_bound() {
        let mut backoff = RetryDelays::new(Random::seeded(1));
        assert_eq!(backoff.retry(Some(Duration::from_secs(60))), Duration::from_secs(60));
        assert_eq!(backoff.retry(Some(Duration::MAX)), limits::RETRY_AFTER_MAX);
    }

    #[test]
    fn a_sink_that_is_down_is_tried_slowly() {
        let mut backoff = RetryDelays::new(Random::seeded(1));
        for _ in 0..100 {
            let delay = backoff.down();
            assert!(delay >= limits::RETRY_BACKOFF_MAX / 2 && delay <= limits::RETRY_BACKOFF_MAX);
        }
    }

    #[test]
    fn the_first_warning_passes_then_one_an_interval() {
        let start = Instant::now();
        let mut warnings = Warnings::default();
        assert_eq!(warnings.due(start), Some(0));
        assert_eq!(warnings.due(start), None);
        assert_eq!(warnings.due(start + limits::SINK_WARNING_INTERVAL / 2), None);
        assert_eq!(warnings.due(start + limits::SINK_WARNING_INTERVAL), Some(2));
        assert_eq!(warnings.due(start + limits::SINK_WARNING_INTERVAL), None);
        assert_eq!(warnings.at_once(start + limits::SINK_WARNING_INTERVAL), 1);
        assert_eq!(warnings.due(start + 2 * limits::SINK_WARNING_INTERVAL), Some(0));
    }
}
