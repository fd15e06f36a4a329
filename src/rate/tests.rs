//! Rates by hand, and against a bucket of tokens that counts one by one.

use std::sync::Arc;
use std::thread;

use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000_000_000;

fn rate(per_second: u64, burst: Duration) -> Rate {
    Rate::new(per_second, burst).unwrap()
}

#[test]
fn a_burst_passes_at_once_and_then_the_rate() {
    let rate = rate(10, Duration::from_secs(2));
    let (mut due, now) = (0, 7 * SECOND);
    for room in (0..=20).rev() {
        assert_eq!((rate.room(due, now), rate.wait_nanos(due, now)), (room, 0));
        due = rate.charge(due, 1, now);
    }
    // The one after the burst was admitted because those before were paid for; it is not yet.
    assert_eq!(rate.wait_nanos(due, now), SECOND / 10);
    assert_eq!(rate.wait_nanos(due, now + SECOND / 10 - 1), 1);
    assert_eq!(rate.wait_nanos(due, now + SECOND / 10), 0);
    assert_eq!(rate.room(due, now + SECOND), 9);
    assert_eq!(rate.room(due, now + 3_600 * SECOND), 20, "a pause saves one burst and not more");
}

#[test]
fn something_larger_than_the_burst_passes_and_is_paid_for_afterwards() {
    let rate = rate(100, Duration::from_secs(2));
    let due = rate.charge(0, 65_536, SECOND);
    assert_eq!(rate.wait_nanos(due, SECOND), 653_360_000_000, "655.36 s less the burst");
    assert_eq!(rate.wait_nanos(due, SECOND + 653_360_000_000), 0);
}

#[test]
fn numbers_beyond_all_use_do_not_overflow() {
    let slow = rate(1, Duration::MAX);
    assert_eq!(slow.charge(u64::MAX, u64::MAX, u64::MAX), u64::MAX);
    assert_eq!(slow.wait_nanos(u64::MAX, 0), 0, "the burst has no end");
    assert_eq!(rate(u64::MAX, Duration::MAX).room(0, u64::MAX), 0, "the end of time");
    assert_eq!(rate(1, Duration::ZERO).wait_nanos(u64::MAX, 0), u64::MAX);
}

#[test]
fn zero_is_no_limit() {
    assert_eq!((Rate::new(0, Duration::from_secs(2)), Limit::new(0, 0, Duration::from_secs(2))), (None, None));
    let limit = Limit::new(0, 1_000, Duration::from_secs(1)).unwrap();
    let due = limit.charge(Due::default(), Amount { events: u64::MAX, bytes: 1_001 }, 0);
    assert_eq!(due.events, 0);
    assert_eq!(limit.wait(due, 0), Some(Duration::from_millis(1)));
    assert_eq!(limit.room(due, SECOND), Amount { events: u64::MAX, bytes: 999 });
}

#[test]
fn the_later_of_both_rates_decides() {
    let limit = Limit::new(10, 1_000, Duration::from_secs(1)).unwrap();
    let due = limit.charge(Due::default(), Amount { events: 30, bytes: 1_500 }, 0);
    assert_eq!(limit.wait(due, 0), Some(Duration::from_secs(2)));
    let due = limit.charge(Due::default(), Amount { events: 11, bytes: 4_000 }, 0);
    assert_eq!(limit.wait(due, 0), Some(Duration::from_secs(3)));
    assert!(!due.is_paid(4 * SECOND - 1) && due.is_paid(4 * SECOND));
    assert_eq!(due.max(Due { events: 0, bytes: u64::MAX }), Due { events: due.events, bytes: u64::MAX });
}

#[test]
fn loops_that_charge_at_the_same_time_all_count() {
    let limit = Limit::new(1_000_000, 1_000_000, Duration::from_secs(1)).unwrap();
    let shared = Arc::new(SharedLimit::new(limit));
    let charge = |shared: Arc<SharedLimit>| {
        thread::spawn(move || (0..10_000).for_each(|_| shared.charge(Amount { events: 100, bytes: 300 }, 0)))
    };
    let threads: Vec<_> = (0..4).map(|_| charge(shared.clone())).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(shared.wait(0), Some(Duration::from_secs(11)), "12 s of bytes less the burst");
    assert_eq!(shared.room(12 * SECOND), Amount { events: 1_000_000, bytes: 1_000_000 });
}

/// A bucket that holds one burst of tokens, in parts of a token, and may be overdrawn.
struct Bucket {
    per_second: i128,
    parts_max: i128,
    parts: i128,
    at: u64,
}

impl Bucket {
    fn new(per_second: u64, burst_nanos: u64) -> Self {
        let parts_max = i128::from(per_second) * i128::from(burst_nanos);
        Self { per_second: per_second.into(), parts_max, parts: parts_max, at: 0 }
    }

    fn refill(&mut self, now: u64) {
        self.parts = (self.parts + i128::from(now - self.at) * self.per_second).min(self.parts_max);
        self.at = now;
    }

    fn take(&mut self, units: u64) {
        self.parts -= i128::from(units) * i128::from(SECOND);
    }
}

proptest! {
    /// Where a unit costs a whole number of nanoseconds, both agree to the nanosecond.
    #[test]
    fn a_rate_is_a_bucket_that_may_be_overdrawn(
        per_second in prop::sample::select(vec![1, 2, 5, 8, 125, 1_000, 64_000, 1_000_000, 1_000_000_000_u64]),
        burst_nanos in 0..10 * SECOND,
        steps in prop::collection::vec((0..3 * SECOND, 0..5_000_u64), 1..60),
    ) {
        let rate = rate(per_second, Duration::from_nanos(burst_nanos));
        let mut bucket = Bucket::new(per_second, burst_nanos);
        let (mut due, mut now) = (0, 0);
        for (pause, units) in steps {
            now += pause;
            bucket.refill(now);
            prop_assert_eq!(rate.wait_nanos(due, now) == 0, bucket.parts >= 0);
            prop_assert_eq!(u128::from(rate.room(due, now)), (bucket.parts.max(0) / i128::from(SECOND)) as u128);
            if bucket.parts < 0 {
                let wait = (-bucket.parts).div_euclid(bucket.per_second) as u64;
                prop_assert!(rate.wait_nanos(due, now).abs_diff(wait) <= 1);
            } else {
                due = rate.charge(due, units, now);
                bucket.take(units);
            }
        }
    }

    /// At any rate: never more than the rate and one burst, besides the last charge; less by a nanosecond per charge at most.
    #[test]
    fn a_greedy_sender_gets_its_rate(
        per_second in 1..2_000_000_000_u64,
        burst_nanos in 0..10 * SECOND,
        charges in prop::collection::vec(1..100_000_u64, 1..200),
    ) {
        let rate = rate(per_second, Duration::from_nanos(burst_nanos));
        let (mut due, mut now, mut sum) = (0, 0_u64, 0);
        let count = charges.len() as u128;
        for units in charges {
            now += rate.wait_nanos(due, now);
            // What came before, now that it is paid for.
            let paid = u128::from(now + burst_nanos) * u128::from(per_second) / NANOS_PER_SECOND;
            prop_assert!(sum <= paid);
            let lost = (count * u128::from(per_second)).div_ceil(NANOS_PER_SECOND) + 1;
            let last = u128::from(rate.room(due, now));
            prop_assert!(now == 0 || sum + last + lost >= paid, "{sum} of {paid} at {now}");
            due = rate.charge(due, units, now);
            sum += u128::from(units);
        }
    }
}
