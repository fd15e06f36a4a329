//! Delays between attempts: capped exponential with full jitter.

use std::time::Duration;

use crate::random::Random;

/// The n-th delay is uniformly random below `min × 2^n`, and below `max`: what lost the same server or store does not
/// come back together. Equal seeds give equal delays.
#[derive(Debug, Clone)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    attempt: u32,
    random: Random,
}

impl Backoff {
    /// The first delay is below `min`, every delay below `max`.
    pub fn new(min: Duration, max: Duration, random: Random) -> Self {
        Self { min, max, attempt: 0, random }
    }

    /// The next delay; the one after it may be twice as long.
    pub fn next_delay(&mut self) -> Duration {
        let ceiling = self.min.saturating_mul(1u32 << self.attempt.min(31)).min(self.max);
        self.attempt = self.attempt.saturating_add(1);
        self.random.below(ceiling)
    }

    /// A delay in the upper half of the longest one. Does not count as an attempt.
    pub fn long_delay(&mut self) -> Duration {
        let half = self.max / 2;
        half + self.random.below(half)
    }

    /// It works again: the next delay is a short one.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }

    /// The next delays are random below the longest one.
    pub fn slow_down(&mut self) {
        self.attempt = 31;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_millis(50);
    const MAX: Duration = Duration::from_secs(30);

    fn backoff(seed: u64) -> Backoff {
        Backoff::new(MIN, MAX, Random::seeded(seed))
    }

    #[test]
    fn delays_grow_up_to_the_cap_and_use_the_whole_range() {
        for attempt in 0..40u32 {
            let ceiling = MIN.saturating_mul(1 << attempt.min(20)).min(MAX);
            let (mut lowest, mut highest) = (MAX, Duration::ZERO);
            for seed in 0..200 {
                let mut backoff = backoff(seed);
                let delay = (0..=attempt).map(|_| backoff.next_delay()).last().unwrap();
                assert!(delay < ceiling, "attempt {attempt}: {delay:?}");
                (lowest, highest) = (lowest.min(delay), highest.max(delay));
            }
            assert!(lowest < ceiling / 10 && highest > ceiling / 10 * 9, "attempt {attempt}: {lowest:?} {highest:?}");
        }
    }

    #[test]
    fn a_reset_makes_delays_short_and_slowing_down_makes_them_long() {
        let mut backoff = backoff(1);
        backoff.slow_down();
        assert!((0..50).map(|_| backoff.next_delay()).max().unwrap() > MAX / 2);
        backoff.reset();
        assert!(backoff.next_delay() < MIN);
    }

    #[test]
    fn a_long_delay_is_in_the_upper_half() {
        let mut backoff = backoff(1);
        assert!((0..100).map(|_| backoff.long_delay()).all(|delay| delay >= MAX / 2 && delay <= MAX));
        assert!(backoff.next_delay() < MIN);
    }

    #[test]
    fn equal_seeds_give_equal_delays() {
        let delays = |seed| {
            let mut backoff = backoff(seed);
            std::array::from_fn::<_, 8, _>(|_| backoff.next_delay())
        };
        assert_eq!(delays(7), delays(7));
        assert_ne!(delays(7), delays(8));
    }
}
