//! Finds the events that a store refuses when it names none: halves what was refused until one event is left.
//!
//! ```text
//!  1..=8 refused ─▶ 1..=4 stored ─▶ 5..=8 refused ─▶ 5..=6 refused ─▶ 5 stored ─▶ 6 refused: it is 6 ─▶ 7..=8 stored
//! ```
//!
//! Parts are asked in order of position, because each one that is stored moves the store's position. A bad event among
//! n costs at most 2 log₂ n + 1 deliveries.

use std::ops::RangeInclusive;

/// The store's answer about a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Stored,
    /// Refused without naming an event.
    Refused,
}

/// The parts of a delivery that are still to be stored.
#[derive(Debug)]
pub struct Bisection {
    /// In descending order: the last one is next.
    parts: Vec<RangeInclusive<u64>>,
}

impl Bisection {
    /// Begins with the whole of `positions`.
    pub fn new(positions: RangeInclusive<u64>) -> Self {
        Self { parts: vec![positions] }
    }

    /// What to deliver next; `None`: all is stored.
    pub fn next(&self) -> Option<RangeInclusive<u64>> {
        self.parts.last().cloned()
    }

    /// The answer about [`Bisection::next`]. `Some(position)`: this event alone is refused; the part stays next, to be
    /// delivered once more without the event.
    pub fn answer(&mut self, answer: Answer) -> Option<u64> {
        let (first, last) = self.parts.pop()?.into_inner();
        match answer {
            Answer::Stored => None,
            Answer::Refused if first == last => {
                self.parts.push(first..=last);
                Some(first)
            }
            Answer::Refused => {
                let middle = first + (last - first) / 2;
                self.parts.push(middle + 1..=last);
                self.parts.push(first..=middle);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Plays a store that refuses every delivery with an event of `bad` in it. Returns what was stored, what was
    /// found, and the number of deliveries.
    fn run(positions: RangeInclusive<u64>, bad: &[u64]) -> (Vec<u64>, Vec<u64>, u32) {
        let mut bisection = Bisection::new(positions);
        let (mut stored, mut found, mut deliveries) = (Vec::new(), Vec::new(), 0);
        while let Some(part) = bisection.next() {
            deliveries += 1;
            if part.clone().any(|position| bad.contains(&position) && !found.contains(&position)) {
                found.extend(bisection.answer(Answer::Refused));
            } else {
                stored.extend(part.filter(|position| !found.contains(position)));
                assert_eq!(bisection.answer(Answer::Stored), None);
            }
        }
        (stored, found, deliveries)
    }

    #[test]
    fn without_a_bad_event_one_delivery_is_enough() {
        assert_eq!(run(1..=1000, &[]), ((1..=1000).collect(), vec![], 1));
    }

    #[test]
    fn one_bad_event_costs_a_logarithm_of_deliveries() {
        for bad in 1..=1024 {
            let (stored, found, deliveries) = run(1..=1024, &[bad]);
            assert_eq!(found, [bad]);
            assert_eq!(stored.len(), 1023);
            assert!(deliveries <= 2 * 10 + 2, "{deliveries} deliveries for {bad}");
        }
    }

    #[test]
    fn an_event_refused_again_is_named_again() {
        let mut bisection = Bisection::new(5..=5);
        assert_eq!(bisection.answer(Answer::Refused), Some(5));
        assert_eq!(bisection.answer(Answer::Refused), Some(5));
        assert_eq!(bisection.next(), Some(5..=5));
    }

    proptest! {
        #[test]
        fn finds_exactly_the_bad_events_and_stores_the_others_in_order(
            first in 1u64..1_000_000,
            events in 1u64..300,
            bad in prop::collection::btree_set(0u64..300, 0..20),
        ) {
            let last = first + events - 1;
            let bad: Vec<u64> = bad.into_iter().map(|index| first + index).filter(|bad| *bad <= last).collect();
            let (stored, found, deliveries) = run(first..=last, &bad);
            let good: Vec<u64> = (first..=last).filter(|position| !bad.contains(position)).collect();
            let bound = 1 + bad.len() as u32 * (2 * events.next_power_of_two().ilog2() + 1);
            prop_assert_eq!(stored, good);
            prop_assert_eq!(found, bad);
            prop_assert!(deliveries <= bound, "{} deliveries, bound {}", deliveries, bound);
        }
    }
}
