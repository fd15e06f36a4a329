//! Sums of many doubles.

/// A sum with its rounding errors kept apart, after Neumaier.
///
/// Of n values x whose sums stay finite, it differs from the exact sum S by at most
/// `u·|S| + n²·u²·Σ|x|` with u = 2⁻⁵³. For values that are not negative, and up to ten million of them, that is one unit in the
/// last place; whole numbers below 2⁵³ are summed exactly.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum {
    sum: f64,
    /// What rounding has lost of it.
    lost: f64,
}

impl Sum {
    /// Adds a value.
    pub fn add(&mut self, value: f64) {
        let sum = self.sum + value;
        self.lost += match self.sum.abs() >= value.abs() {
            true => (self.sum - sum) + value,
            false => (value - sum) + self.sum,
        };
        self.sum = sum;
    }

    /// The sum of all values. NaN and infinite values give what adding them gives.
    pub fn value(&self) -> f64 {
        let sum = self.sum + self.lost;
        // Infinity less infinity would be in `lost`.
        if self.sum.is_finite() { sum } else { self.sum }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sum(values: &[f64]) -> f64 {
        let mut sum = Sum::default();
        values.iter().for_each(|value| sum.add(*value));
        sum.value()
    }

    #[test]
    fn rounding_errors_do_not_add_up() {
        assert_eq!(sum(&[]), 0.0);
        assert_eq!(sum(&[1.0, 1e100, 1.0, -1e100]), 2.0);
        assert_eq!(sum(&vec![0.1; 10_000_000]), 1_000_000.0);
        let naive: f64 = vec![0.1; 10_000_000].iter().sum();
        assert!(naive != 1_000_000.0);
    }

    #[test]
    fn what_is_not_finite_is_as_in_plain_sums() {
        assert_eq!(sum(&[1.0, f64::INFINITY, 2.0]), f64::INFINITY);
        assert!(sum(&[f64::INFINITY, f64::NEG_INFINITY]).is_nan());
        assert!(sum(&[f64::NAN, 1.0]).is_nan());
        assert_eq!(sum(&[f64::MAX, f64::MAX]), f64::INFINITY);
    }

    proptest! {
        #[test]
        fn whole_numbers_are_exact_in_any_order(values in prop::collection::vec(-1_i64 << 40..1 << 40, 0..100)) {
            let exact: i64 = values.iter().sum();
            let mut doubles: Vec<f64> = values.iter().map(|value| *value as f64).collect();
            prop_assert_eq!(sum(&doubles), exact as f64);
            doubles.reverse();
            prop_assert_eq!(sum(&doubles), exact as f64);
        }

        /// Multiples of 2⁻³⁰ that an i128 sums exactly.
        #[test]
        fn the_error_is_within_its_bound(values in prop::collection::vec((0_i64..1 << 52, 0_u32..20), 0..300)) {
            let exact: i128 = values.iter().map(|(value, shift)| i128::from(*value) << shift).sum();
            let doubles: Vec<f64> = values.iter().map(|(value, shift)| (i128::from(*value) << shift) as f64).collect();
            let error = (exact - sum(&doubles) as i128).unsigned_abs() as f64;
            prop_assert!(error <= exact as f64 * f64::EPSILON, "{} off {}", error, exact);
        }
    }
}
