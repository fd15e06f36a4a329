//! What is left of a delivery to store, and what a sink's answer changes of it: refused events are left out, and where
//! the store names none, what was refused is halved until one event is left.
//!
//! ```text
//!  1–8 refused ─▶ 1–4 stored ─▶ 5–8 refused ─▶ 5–6 refused ─▶ 5 stored ─▶ 6 refused: it is 6 ─▶ 7–8 stored
//! ```
//!
//! Halves are halves of the picked events, whatever their positions. Parts are delivered in order of position, because
//! each one that is stored moves the store's position. A bad event among n costs at most 2 log₂ n + 1 deliveries. The
//! router and `telemetryx dead replay` both work like this.
//!
//! **A delivery that is whole** ([`Delivery::is_whole`]) moves the position once all of it is stored. Where the sink can
//! rehearse, each attempt but the last one is rolled back, and has what was accepted before in it:
//!
//! ```text
//!  1–8 refused ─▶ try 1–4 ─▶ try 1–6: refused ─▶ try 1–5 ─▶ try 1–6: refused, it is 6 ─▶ store 1–5, 7–8
//! ```
//!
//! Elsewhere its parts are stored one by one, and the position moves after the last one.

use std::borrow::Cow;

use crate::batch::Delivery;
use crate::sink::{Failure, Refusal, Unavailable};

/// What a sink's answer about [`Bisection::next`] means.
#[derive(Debug)]
pub(crate) enum Answer {
    /// This part is stored, and no longer next.
    Stored(Delivery),
    /// The first half of the part is next, then the other half.
    Halved,
    /// The store would take this part of a whole delivery, or has taken it; the position has not moved.
    Accepted {
        /// Of this part.
        rows: u64,
    },
    /// The store refuses these events of the part, in order of position and at least one. The part stays next: keep them,
    /// then call [`Bisection::leave_out`].
    Refused(Vec<Refusal>),
    /// As `Refused`, of the one event of the part; the store did not name it.
    RefusedAlone(Refusal),
    /// The part stays next.
    Unavailable(Unavailable),
}

/// The parts of a delivery that are still to be stored.
#[derive(Debug, Default)]
pub(crate) struct Bisection {
    /// In descending order: the last one is next.
    parts: Vec<Delivery>,
    /// Of a whole delivery, what lies before the parts: the store would take it, or has it.
    accepted: Option<Delivery>,
    rehearses: bool,
}

impl Bisection {
    /// Begins with all of `delivery`.
    pub(crate) fn new(delivery: Delivery) -> Self {
        Self { parts: vec![delivery], accepted: None, rehearses: false }
    }

    /// As [`Bisection::new`]; parts of a whole delivery are rolled back where the sink `rehearses`.
    pub(crate) fn rehearsing(delivery: Delivery, rehearses: bool) -> Self {
        Self { rehearses, ..Self::new(delivery) }
    }

    /// What to deliver next; `None`: all is stored.
    pub(crate) fn next(&self) -> Option<&Delivery> {
        self.parts.last()
    }

    /// Of all that is left; `None`: all is stored.
    pub(crate) fn last_position(&self) -> Option<u64> {
        self.parts.first().map(Delivery::last_position)
    }

    /// What to ask the sink for: the next part, and before it, of a whole delivery, what was rolled back.
    pub(crate) fn attempt(&self) -> Option<Cow<'_, Delivery>> {
        let part = self.parts.last()?;
        Some(match &self.accepted {
            Some(accepted) if self.rehearses => Cow::Owned(accepted.joined(part)),
            _ => Cow::Borrowed(part),
        })
    }

    /// Whether the attempt is to be rolled back: more of a whole delivery comes after it.
    pub(crate) fn is_rehearsal(&self) -> bool {
        self.rehearses && self.parts.len() > 1 && self.parts.last().is_some_and(Delivery::is_whole)
    }

    /// All that is left.
    pub(crate) fn parts_mut(&mut self) -> impl Iterator<Item = &mut Delivery> {
        self.parts.iter_mut().chain(&mut self.accepted)
    }

    /// Takes the sink's answer about [`Bisection::next`]. A sink that refuses events, but none that it was asked to
    /// store, is down: asked again, it would refuse the same for ever.
    pub(crate) fn answer(&mut self, answer: Result<(), Failure>) -> Answer {
        match answer {
            Ok(()) => match self.parts.pop() {
                Some(part) if part.is_whole() => self.accept(part),
                Some(part) => Answer::Stored(part),
                None => Answer::Halved,
            },
            Err(Failure::Refused(refusals)) => self.refused(refusals),
            Err(Failure::BatchRefused { code, reason }) => self.refused_unnamed(code, reason),
            Err(Failure::Unavailable(unavailable)) => Answer::Unavailable(unavailable),
        }
    }

    fn accept(&mut self, part: Delivery) -> Answer {
        let rows = part.events();
        let all = match self.accepted.take() {
            Some(accepted) => accepted.joined(&part),
            None => part,
        };
        if self.parts.is_empty() {
            return Answer::Stored(all);
        }
        self.accepted = Some(all);
        Answer::Accepted { rows }
    }

    /// What the attempt consists of.
    pub(crate) fn asked(&self) -> impl Iterator<Item = &Delivery> {
        self.accepted.iter().filter(move |_| self.rehearses).chain(self.parts.last())
    }

    /// Leaves these rows out of what the sink was asked for. Returns how many events of the log they stand for.
    pub(crate) fn leave_out(&mut self, refusals: &[Refusal]) -> u64 {
        let positions: Vec<u64> = refusals.iter().map(|refusal| refusal.position).collect();
        let asked = self.accepted.iter_mut().filter(|_| self.rehearses).chain(self.parts.last_mut());
        let mut events = 0;
        for part in asked {
            let before = part.originals();
            part.leave_out(&positions);
            events += before - part.originals();
        }
        events
    }

    fn refused(&self, mut refusals: Vec<Refusal>) -> Answer {
        let given = refusals.first().map_or_else(String::new, |refusal| refusal.reason.clone());
        refusals.sort_by_key(|refusal| refusal.position);
        refusals.dedup_by_key(|refusal| refusal.position);
        let mut ranges = self.asked().flat_map(Delivery::position_ranges).peekable();
        refusals.retain(|refusal| {
            while ranges.next_if(|range| *range.end() < refusal.position).is_some() {}
            ranges.peek().is_some_and(|range| range.contains(&refusal.position))
        });
        match refusals.is_empty() {
            true => refuses_nothing(&given),
            false => Answer::Refused(refusals),
        }
    }

    fn refused_unnamed(&mut self, code: String, reason: String) -> Answer {
        let Some(part) = self.next() else { return Answer::Halved };
        if let Some((first, second)) = part.split() {
            self.parts.pop();
            self.parts.extend([second, first]);
            return Answer::Halved;
        }
        match part.records().next() {
            Some(record) => Answer::RefusedAlone(Refusal { position: record.position, code, reason }),
            None => refuses_nothing(&reason),
        }
    }
}

fn refuses_nothing(given: &str) -> Answer {
    Answer::Unavailable(Unavailable::down(format!("refuses a delivery, but none of the events left in it: {given}")))
}

#[cfg(test)]
mod tests {
    use std::ops::RangeInclusive;

    use proptest::prelude::*;

    use super::*;
    use crate::sink::testing::delivery;

    fn positions(delivery: &Delivery) -> Vec<u64> {
        delivery.records().map(|record| record.position).collect()
    }

    fn unnamed() -> Result<(), Failure> {
        Err(Failure::BatchRefused { code: "E".into(), reason: "something".into() })
    }

    fn named(positions: &[u64]) -> Result<(), Failure> {
        let refusal = |position: &u64| Refusal { position: *position, code: "E".into(), reason: "bad".into() };
        Err(Failure::Refused(positions.iter().map(refusal).collect()))
    }

    /// Plays a store that refuses every delivery with an event of `bad` in it. Returns what was stored, what was
    /// found, and the number of deliveries.
    fn run(delivery: Delivery, bad: &[u64]) -> (Vec<u64>, Vec<u64>, u32) {
        let mut covered = delivery.first_position();
        let through = delivery.last_position();
        let mut bisection = Bisection::new(delivery);
        let (mut stored, mut found, mut deliveries) = (Vec::new(), Vec::new(), 0);
        while let Some(part) = bisection.next() {
            deliveries += 1;
            let is_bad = positions(part).iter().any(|position| bad.contains(position));
            match bisection.answer(if is_bad { unnamed() } else { Ok(()) }) {
                Answer::Stored(part) => {
                    assert_eq!(part.first_position(), covered);
                    covered = part.last_position() + 1;
                    stored.extend(positions(&part));
                }
                Answer::Halved => {}
                Answer::RefusedAlone(refusal) => {
                    found.push(refusal.position);
                    bisection.leave_out(&[refusal]);
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(covered, through + 1, "every position is covered");
        (stored, found, deliveries)
    }

    #[test]
    fn without_a_bad_event_one_delivery_is_enough() {
        assert_eq!(run(delivery(1..=1000), &[]), ((1..=1000).collect(), vec![], 1));
    }

    #[test]
    fn one_bad_event_costs_a_logarithm_of_deliveries() {
        for (logarithm, step) in [(4, 1), (8, 3), (10, 31)] {
            let events = 1 << logarithm;
            for bad in (1..=events).step_by(step).chain([events / 2, events / 2 + 1, events]) {
                let (stored, found, deliveries) = run(delivery(1..=events), &[bad]);
                assert_eq!(found, [bad]);
                assert_eq!(stored.len() as u64, events - 1);
                assert!(deliveries <= 2 * logarithm + 2, "{deliveries} deliveries for {bad} of {events}");
            }
        }
    }

    #[test]
    fn an_event_refused_again_is_named_again() {
        let mut bisection = Bisection::new(delivery(5..=5));
        for _ in 0..2 {
            let answer = bisection.answer(unnamed());
            assert!(matches!(answer, Answer::RefusedAlone(Refusal { position: 5, .. })), "{answer:?}");
        }
        assert_eq!(positions(bisection.next().unwrap()), [5]);
    }

    #[test]
    fn named_events_are_left_out_once_and_strange_ones_never() {
        let mut bisection = Bisection::new(delivery(5..=9));
        let Answer::Refused(refusals) = bisection.answer(named(&[9, 4, 6, 6, 10])) else { panic!() };
        assert_eq!(refusals.iter().map(|refusal| refusal.position).collect::<Vec<_>>(), [6, 9]);
        assert_eq!(positions(bisection.next().unwrap()), [5, 6, 7, 8, 9], "until they are kept");
        bisection.leave_out(&refusals);
        assert_eq!(positions(bisection.next().unwrap()), [5, 7, 8]);
        for answer in [named(&[6, 9]), named(&[])] {
            let answer = bisection.answer(answer);
            assert!(matches!(answer, Answer::Unavailable(Unavailable::Down { .. })), "{answer:?}");
        }
        bisection.leave_out(&[5, 7, 8].map(|position| Refusal {
            position,
            code: String::new(),
            reason: String::new(),
        }));
        let answer = bisection.answer(unnamed());
        assert!(matches!(answer, Answer::Unavailable(Unavailable::Down { .. })), "nothing is left: {answer:?}");
        let Answer::Stored(part) = bisection.answer(Ok(())) else { panic!() };
        assert_eq!((part.first_position(), part.last_position(), part.events()), (5, 9, 0));
        assert!(bisection.next().is_none());
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
            let all: RangeInclusive<u64> = first..=last;
            let (stored, found, deliveries) = run(delivery(all), &bad);
            let good: Vec<u64> = (first..=last).filter(|position| !bad.contains(position)).collect();
            let bound = 1 + bad.len() as u32 * (2 * events.next_power_of_two().ilog2() + 1);
            prop_assert_eq!(stored, good);
            prop_assert_eq!(found, bad);
            prop_assert!(deliveries <= bound, "{} deliveries, bound {}", deliveries, bound);
        }
    }
}
