use std::ops::RangeInclusive;

use proptest::prelude::*;

use super::*;
use crate::batch::Fate;
use crate::batch::testing::pooled_batch;
use crate::event::proto::Event;
use crate::limits;
use crate::metrics::FilterStep;
use crate::router::steps::Step;
use crate::sink::testing::{RECEIVED_UNIX_NANO, batch, batch_of, named};

const AGE: Duration = Duration::from_millis(50);

fn gather(max_events: u64, max_bytes: usize) -> Gather {
    Gather::new(BatchSettings { max_events, max_bytes, max_age: AGE }, Arc::default())
}

fn positions(delivery: &Delivery) -> RangeInclusive<u64> {
    delivery.first_position()..=delivery.last_position()
}

#[track_caller]
fn now(due: Due) -> Delivery {
    match due {
        Due::Now(delivery) => delivery,
        other => panic!("{other:?}"),
    }
}

/// Takes everything that is due at `at`, as if each delivery was stored at once.
/// What follows `position`, it included.
fn rest(delivery: &Delivery, position: u64) -> Delivery {
    Delivery::of_picks(delivery, delivery.picks().filter_map(|pick| pick.split_at(position).1))
}

fn store_all(gather: &mut Gather, at: Instant) -> Vec<RangeInclusive<u64>> {
    let mut stored = Vec::new();
    while let Due::Now(delivery) = gather.due(at) {
        gather.stored(delivery.last_position());
        stored.push(positions(&delivery));
    }
    stored
}

#[test]
fn an_idle_router_delivers_at_once() {
    let start = Instant::now();
    let mut gather = gather(100, 1 << 20);
    assert!(matches!(gather.due(start), Due::Nothing));
    gather.take(batch(1..=1));
    assert_eq!(positions(&now(gather.due(start))), 1..=1);
    assert_eq!(positions(&now(gather.due(start))), 1..=1, "the same until it is stored");
    gather.stored(1);
    gather.delivery_ended(start);
    assert!(matches!(gather.due(start), Due::Nothing));
    gather.take(batch(2..=2));
    assert_eq!(positions(&now(gather.due(start + AGE))), 2..=2, "idle for long enough");
}

#[test]
fn after_a_delivery_the_next_one_may_fill_for_max_age() {
    let start = Instant::now();
    let mut gather = gather(10, 1 << 20);
    gather.delivery_ended(start);
    gather.take(batch(1..=4));
    assert!(matches!(gather.due(start), Due::At(at) if at == start + AGE));
    gather.take(batch(5..=9));
    assert!(matches!(gather.due(start), Due::At(_)));
    gather.take(batch(10..=10));
    assert_eq!(positions(&now(gather.due(start))), 1..=10, "full");
}

#[test]
fn a_closed_router_waits_for_nothing() {
    let start = Instant::now();
    let mut gather = gather(10, 1 << 20);
    gather.delivery_ended(start);
    gather.take(batch(1..=4));
    gather.close();
    assert_eq!(positions(&now(gather.due(start))), 1..=4);
}

#[test]
fn batches_are_joined_and_split_by_events() {
    let start = Instant::now();
    let mut gather = gather(4, 1 << 20);
    for first in [1, 4, 7] {
        gather.take(batch(first..=first + 2));
    }
    assert_eq!(store_all(&mut gather, start), [1..=3, 4..=6, 7..=9], "runs are not cut without need");
    gather.take(batch(10..=19));
    assert_eq!(store_all(&mut gather, start), [10..=13, 14..=17, 18..=19]);
}

#[test]
fn batches_are_split_by_bytes_and_one_event_is_always_allowed() {
    let start = Instant::now();
    let mut gather = gather(1_000, 100);
    let sized = |bytes: usize| Event { body: "x".repeat(bytes), ..named("e") };
    let events = [10, 10, 500, 10, 30, 30, 30, 500].map(sized).to_vec();
    gather.take(batch_of(1, vec![events]));
    gather.take(batch_of(9, vec![vec![sized(10)], vec![sized(10)], vec![sized(80)]]));
    assert_eq!(store_all(&mut gather, start), [1..=2, 3..=3, 4..=6, 7..=7, 8..=8, 9..=10, 11..=11]);
}

#[test]
fn what_is_held_is_bounded() {
    let mut gather = gather(10, 1 << 20);
    gather.take(batch(1..=9));
    assert!(gather.has_room());
    gather.take(batch(10..=500));
    assert!(!gather.has_room());
    gather.stored(499);
    assert!(!gather.has_room(), "a batch that is stored in part is held as a whole");
    gather.stored(500);
    assert!(gather.has_room());
}

#[test]
fn what_is_stored_already_is_skipped_and_gaps_are_not_spanned() {
    let start = Instant::now();
    let mut gather = gather(100, 1 << 20);
    gather.stored(5);
    gather.take(batch(1..=3));
    assert!(matches!(gather.due(start), Due::Nothing));
    gather.take(batch(4..=8));
    gather.take(batch(9..=9));
    gather.take(batch(1_000..=1_001));
    gather.take(batch_of(1_002, vec![]));
    assert_eq!(store_all(&mut gather, start), [6..=9, 1_000..=1_001]);
    assert!(matches!(gather.due(start), Due::Nothing));
}

#[test]
fn what_is_held_and_being_delivered_leaves_the_pool_and_stays_the_same() {
    let start = Instant::now();
    let mut gather = gather(9, 1 << 20);
    for first in [1, 4, 7] {
        gather.take(pooled_batch(first..=first + 2));
    }
    let records = |delivery: &Delivery| {
        delivery.records().map(|record| (record.position, record.event.bytes().to_vec())).collect::<Vec<_>>()
    };
    let mut delivery = now(gather.due(start));
    let before = records(&delivery);
    // Its first part is stored: of the first batch nothing is needed any more, of the second one the rest.
    gather.stored(5);
    delivery = rest(&delivery, 6);
    assert!(gather.pinned_bytes() > 0);
    // One that is not held any more, as after a restart.
    let mut other = delivery.clone();
    let held: Vec<_> = gather.held.iter().map(Arc::downgrade).collect();
    gather.unpin([&mut delivery]);
    Gather::new(gather.settings, Arc::default()).unpin([&mut other]);
    assert!(held.iter().all(|batch| batch.upgrade().is_none()), "a batch in the pool is still held");
    assert_eq!(gather.pinned_bytes(), 0);
    assert_eq!((records(&delivery), records(&other)), (before[5..].to_vec(), before[5..].to_vec()));
    assert_eq!(rest(&delivery, 9).records().count(), 1);
    gather.unpin([]);
    assert_eq!(store_all(&mut gather, start), [6..=9]);
    assert!(gather.is_empty() && gather.pinned_bytes() == 0 && gather.bytes == 0);
}

/// Keeps one position of `0`.
struct KeepOneOf(u64);

impl Step for KeepOneOf {
    fn apply(&self, delivery: Delivery) -> Delivery {
        delivery.shaped(|record, _| match record.position.is_multiple_of(self.0) {
            true => Fate::Keep,
            false => Fate::Filter(FilterStep::Sample),
        })
    }
}

fn keeping_one_of(number: u64, max_events: u64) -> Gather {
    let settings = BatchSettings { max_events, max_bytes: 1 << 20, max_age: AGE };
    Gather::new(settings, Arc::new(Steps::of_events(vec![Box::new(KeepOneOf(number))])))
}

#[test]
fn with_steps_a_delivery_is_filled_with_rows_and_batches_without_rows_share_one() {
    let start = Instant::now();
    let mut gather = keeping_one_of(100, 8);
    gather.take(batch(1..=50));
    let first = now(gather.due(start));
    assert_eq!((first.events(), positions(&first)), (0, 1..=50), "an idle router delivers at once");
    assert!(!gather.is_empty(), "it is not stored yet");
    gather.stored(50);
    assert!(gather.is_empty());
    gather.delivery_ended(start);
    for first in (51..=550).step_by(50) {
        assert!(gather.has_room());
        gather.take(batch(first..=first + 49));
        assert_eq!(gather.pinned_bytes(), 0);
    }
    assert!(matches!(gather.due(start), Due::At(at) if at == start + AGE));
    assert_eq!(gather.oldest_unix_nano(), Some(RECEIVED_UNIX_NANO));
    gather.take(batch(551..=600));
    assert!(!gather.has_room(), "6 rows of at most 8");
    let second = now(gather.due(start));
    assert_eq!((second.events(), positions(&second)), (6, 51..=600));
    assert_eq!(second.filtered()[FilterStep::Sample as usize], 544);
    gather.stored(600);
    assert!(gather.oldest_unix_nano().is_none() && gather.is_empty());
    assert!(matches!(gather.due(start), Due::Nothing));
}

#[test]
fn with_steps_a_delivery_that_covers_many_events_does_not_wait_for_rows() {
    let start = Instant::now();
    let mut gather = keeping_one_of(1 << 40, 8);
    gather.delivery_ended(start);
    let mut next = 1;
    while gather.has_room() {
        assert!(matches!(gather.due(start), Due::Nothing | Due::At(_)));
        gather.take(batch(next..=next + 999));
        next += 1_000;
    }
    let delivery = now(gather.due(start));
    assert_eq!((delivery.events(), positions(&delivery)), (0, 1..=limits::STEPS_COVERED_EVENTS));
}

#[test]
fn with_steps_positions_do_not_jump_within_a_delivery() {
    let start = Instant::now();
    let mut gather = keeping_one_of(10, 100);
    gather.delivery_ended(start);
    gather.take(batch(1..=15));
    gather.take(batch(101..=115));
    assert!(!gather.has_room());
    assert_eq!(positions(&now(gather.due(start))), 1..=15);
    gather.stored(15);
    assert!(matches!(gather.due(start), Due::At(_)));
    assert_eq!(positions(&now(gather.due(start + AGE))), 101..=115);
    gather.restart(15, None);
    assert!(gather.is_empty());
    gather.take(batch(14..=20));
    assert_eq!(positions(&now(gather.due(start + AGE))), 16..=20, "what is stored is left out");
}

#[test]
fn a_large_batch_goes_through_the_steps_in_pieces_and_its_rows_are_the_same() {
    // Runs of 20 KiB in one batch, of which some are empty, and one that is larger than a piece by itself.
    let run = |events: usize| vec![Event { body: "x".repeat(1_000), ..named("e") }; events];
    let runs: Vec<_> = (0..40).map(|index| run([20, 0, 1, 300][index % 4])).collect();
    let events = runs.iter().flatten().count() as u64;
    for (number, max_events) in [(1, 10_000), (3, 10_000), (3, 70), (events + 1, 10_000)] {
        let settings = BatchSettings { max_events, max_bytes: 64 << 20, max_age: AGE };
        let mut gather = Gather::new(settings, Arc::new(Steps::of_events(vec![Box::new(KeepOneOf(number))])));
        gather.take(batch_of(1, runs.clone()));
        let (mut rows, mut passed) = (Vec::new(), 0);
        while let Due::Now(delivery) = gather.due(Instant::now()) {
            assert_eq!(delivery.first_position(), passed + 1);
            passed = delivery.last_position();
            rows.extend(delivery.records().map(|record| record.position));
            gather.stored(passed);
            // As after a failed delivery: it begins again, within a run.
            gather.restart(passed, None);
            gather.unpin([]);
            gather.take(batch_of(1, runs.clone()));
        }
        assert_eq!(passed, events);
        assert_eq!(rows, (1..=events).filter(|position| position % number == 0).collect::<Vec<_>>());
        assert!(gather.is_empty() && gather.pinned_bytes() == 0);
    }
}

#[test]
fn batches_of_which_little_is_kept_are_not_held_for_their_rows() {
    // Of each batch of 4 MiB one run of 200 KiB is kept.
    struct KeepRun;
    impl Step for KeepRun {
        fn apply(&self, delivery: Delivery) -> Delivery {
            delivery.shaped(|record, _| match record.event.name() {
                "kept" => Fate::Keep,
                _ => Fate::Filter(FilterStep::Include),
            })
        }
    }
    let run = |name: &str| vec![Event { body: "x".repeat(1_000), ..named(name) }; 200];
    let runs: Vec<_> = (0..20).map(|index| run(if index == 7 { "kept" } else { "other" })).collect();
    let settings = BatchSettings { max_events: 10_000, max_bytes: 64 << 20, max_age: AGE };
    let mut gather = Gather::new(settings, Arc::new(Steps::of_events(vec![Box::new(KeepRun)])));
    gather.delivery_ended(Instant::now());
    for index in 0..12 {
        gather.take(batch_of(1 + index * 4_000, runs.clone()));
        assert!(gather.held.is_empty());
    }
    let delivery = now(gather.due(Instant::now() + AGE));
    assert_eq!(delivery.events(), 12 * 200);
    let (held, rows) = (delivery.held_bytes(), delivery.payload_bytes());
    assert!(held < 2 * rows + (5 << 20), "{held} bytes are held for {rows} of rows");
}

#[test]
fn what_is_open_is_copied_out_of_the_pool() {
    let mut gather = keeping_one_of(1, 100);
    gather.take(pooled_batch(1..=10));
    assert!(gather.pinned_bytes() > 0);
    gather.unpin([]);
    assert_eq!(gather.pinned_bytes(), 0);
    assert_eq!(now(gather.due(Instant::now())).events(), 10);
    // Of few events the batch is not held at all.
    let mut gather = keeping_one_of(10, 100);
    gather.take(pooled_batch(1..=10));
    assert_eq!(gather.pinned_bytes(), 0);
    let names: Vec<String> =
        now(gather.due(Instant::now())).records().map(|record| record.event.name().to_owned()).collect();
    assert_eq!(names, ["e10"]);
}

proptest! {
    #[test]
    fn every_position_is_delivered_once_in_order_and_within_the_limits(
        batches in prop::collection::vec(prop::collection::vec(prop::collection::vec(0usize..60, 0..8), 0..4), 1..8),
        max_events in 1u64..12,
        max_bytes in 1usize..200,
    ) {
        let start = Instant::now();
        let mut gather = gather(max_events, max_bytes);
        let (mut next, mut delivered) = (1, Vec::new());
        let deliver = |gather: &mut Gather, delivered: &mut Vec<u64>| {
            while let Due::Now(delivery) = gather.due(start) {
                let records: Vec<_> = delivery.records().map(|record| record.position).collect();
                let bytes: usize = delivery.records().map(|record| record.event.bytes().len()).sum();
                assert_eq!(records, positions(&delivery).collect::<Vec<_>>());
                assert!(delivery.events() <= max_events);
                assert!(bytes <= max_bytes || delivery.events() == 1);
                delivered.extend(records);
                gather.stored(delivery.last_position());
            }
        };
        for runs in &batches {
            let runs: Vec<Vec<Event>> = runs.iter().map(|run| {
                run.iter().map(|bytes| Event { body: "x".repeat(*bytes), ..named("e") }).collect()
            }).collect();
            let events = runs.iter().flatten().count() as u64;
            if !gather.has_room() {
                deliver(&mut gather, &mut delivered);
            }
            gather.take(batch_of(next, runs));
            next += events;
        }
        deliver(&mut gather, &mut delivered);
        prop_assert_eq!(delivered, (1..next).collect::<Vec<_>>());
    }

    #[test]
    fn with_steps_too(
        events in prop::collection::vec(1_u64..40, 1..60),
        jumps in prop::collection::vec(0_u64..2, 60),
        number in 1_u64..12,
        max_events in 1_u64..20,
    ) {
        let start = Instant::now();
        let mut gather = keeping_one_of(number, max_events);
        let (mut next, mut covered) = (1, Vec::new());
        let (mut rows, mut expected, mut filtered) = (Vec::new(), Vec::new(), 0);
        let mut deliver = |gather: &mut Gather| {
            while let Due::Now(delivery) = gather.due(start) {
                let kept: Vec<u64> = delivery.records().map(|record| record.position).collect();
                assert!(delivery.events() <= max_events);
                filtered += delivery.filtered()[FilterStep::Sample as usize];
                covered.extend(positions(&delivery));
                gather.stored(delivery.last_position());
                rows.extend(kept);
            }
        };
        for (events, jump) in events.into_iter().zip(jumps) {
            next += jump * 7;
            if !gather.has_room() {
                deliver(&mut gather);
            }
            gather.take(batch(next..=next + events - 1));
            expected.extend(next..next + events);
            next += events;
        }
        deliver(&mut gather);
        prop_assert_eq!(rows.len() as u64 + filtered, expected.len() as u64);
        prop_assert_eq!(rows, expected.iter().copied().filter(|position| position % number == 0).collect::<Vec<_>>());
        prop_assert_eq!(covered, expected);
    }
}
