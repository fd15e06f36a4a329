//! Latencies as a histogram: quantiles of all, and of what came between two moments.

use serde::{Deserialize, Serialize};

/// How long acknowledgements took, since the start of the process.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Acknowledgements {
    /// How many.
    pub count: u64,
    /// Seconds of all together.
    pub sum_seconds: f64,
    /// Half of them took no longer, by the place in their bucket. `None`: there was none. Infinite, in JSON `null` too: they took
    /// longer than the last bucket.
    pub p50_seconds: Option<f64>,
    /// The same of 99 in 100.
    pub p99_seconds: Option<f64>,
    /// In ascending order; what took longer than the last one is in `count` only.
    pub buckets: Vec<Bucket>,
}

/// Acknowledgements that took at most so long; with those of the buckets before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Bucket {
    /// Seconds.
    pub up_to_seconds: f64,
    /// How many.
    pub count: u64,
}

impl Acknowledgements {
    /// Sets the quantiles.
    pub fn new(count: u64, sum_seconds: f64, buckets: Vec<Bucket>) -> Self {
        let mut new = Self { count, sum_seconds, buckets, ..Self::default() };
        (new.p50_seconds, new.p99_seconds) = (new.quantile(0.5), new.quantile(0.99));
        new
    }

    /// What came after `before`. All of it, where that is of another process.
    pub fn since(&self, before: &Self) -> Self {
        let is_same = |(one, other): (&Bucket, &Bucket)| one.up_to_seconds == other.up_to_seconds;
        let continues = before.count <= self.count
            && before.buckets.len() == self.buckets.len()
            && self.buckets.iter().zip(&before.buckets).all(is_same);
        if !continues {
            return self.clone();
        }
        let less = |(bucket, before): (&Bucket, &Bucket)| Bucket {
            count: bucket.count.saturating_sub(before.count),
            ..*bucket
        };
        let buckets = self.buckets.iter().zip(&before.buckets).map(less).collect();
        Self::new(self.count - before.count, self.sum_seconds - before.sum_seconds, buckets)
    }

    /// The bound of the last bucket, seconds: what took longer is not measured.
    pub fn bound_seconds(&self) -> Option<f64> {
        self.buckets.last().map(|bucket| bucket.up_to_seconds)
    }

    /// Seconds within which the share `quantile` (0 to 1) came, between the bounds of its bucket by its place in it. Infinite
    /// where it took longer than the last bound.
    fn quantile(&self, quantile: f64) -> Option<f64> {
        self.bound_seconds().filter(|_| self.count > 0)?;
        let rank = quantile * self.count as f64;
        let mut below = Bucket::default();
        for bucket in &self.buckets {
            if bucket.count as f64 >= rank && bucket.count > below.count {
                let share = (rank - below.count as f64) / (bucket.count - below.count) as f64;
                return Some(below.up_to_seconds + share * (bucket.up_to_seconds - below.up_to_seconds));
            }
            below = *bucket;
        }
        Some(f64::INFINITY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(counts: [u64; 3]) -> Vec<Bucket> {
        [0.001, 0.01, 0.1]
            .into_iter()
            .zip(counts)
            .map(|(up_to_seconds, count)| Bucket { up_to_seconds, count })
            .collect()
    }

    #[test]
    fn a_quantile_lies_within_its_bucket() {
        let none = Acknowledgements::new(0, 0.0, buckets([0, 0, 0]));
        assert_eq!((none.p50_seconds, none.p99_seconds), (None, None));
        let all = Acknowledgements::new(100, 0.0, buckets([80, 100, 100]));
        assert!((all.p50_seconds.unwrap() - 0.000625).abs() < 1e-9, "{all:?}");
        assert!((all.p99_seconds.unwrap() - 0.00955).abs() < 1e-9, "{all:?}");
        let slow = Acknowledgements::new(100, 0.0, buckets([0, 0, 1]));
        assert_eq!(
            (slow.p99_seconds, slow.bound_seconds()),
            (Some(f64::INFINITY), Some(0.1)),
            "longer than the last bound"
        );
        assert!(serde_json::to_string(&slow).unwrap().contains("\"p99_seconds\":null"));
        assert_eq!(Acknowledgements::new(5, 0.0, Vec::new()).p50_seconds, None);
    }

    #[test]
    fn what_came_in_between_is_the_difference() {
        let before = Acknowledgements::new(100, 1.0, buckets([100, 100, 100]));
        let after = Acknowledgements::new(110, 1.5, buckets([100, 100, 110]));
        let between = after.since(&before);
        assert_eq!((between.count, between.buckets[2].count), (10, 10));
        assert!(between.p50_seconds.unwrap() > 0.01 && (between.sum_seconds - 0.5).abs() < 1e-9);
        // The server was started anew.
        assert_eq!(before.since(&after), before);
        assert_eq!(after.since(&Acknowledgements::default()), after);
    }
}
