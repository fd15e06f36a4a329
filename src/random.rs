//! Randomness for jitter, ids and first epochs: a small generator, seeded by the system or, in tests, by hand.

use std::time::Duration;

use crate::time::now_unix_nano;

/// SplitMix64 (Steele, Lea, Flood 2014): one `u64` of state, passes BigCrush. Not for secrets.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The same seed gives the same numbers.
    pub fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// Seeded by the operating system; where that fails, by the clock, which is enough for jitter.
    pub fn from_system() -> Self {
        Self(getrandom::u64().unwrap_or_else(|_| now_unix_nano()))
    }

    /// The next number of the sequence, uniform over all `u64`.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Uniform in `[0, limit)`: full jitter.
    pub fn below(&mut self, limit: Duration) -> Duration {
        // 53 bits: what a double in [0, 1) holds.
        limit.mul_f64((self.next_u64() >> 11) as f64 / (1u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_match_the_reference_implementation() {
        let mut random = Random::seeded(1234567);
        assert_eq!([random.next_u64(), random.next_u64()], [6457827717110365317, 3203168211198807973]);
    }

    #[test]
    fn jitter_stays_below_its_limit() {
        let mut random = Random::seeded(1);
        let limit = Duration::from_secs(30);
        let drawn: Vec<_> = (0..1000).map(|_| random.below(limit)).collect();
        assert!(drawn.iter().all(|delay| *delay < limit));
        assert!(drawn.iter().any(|delay| *delay < limit / 10) && drawn.iter().any(|delay| *delay > limit * 9 / 10));
    }
}
