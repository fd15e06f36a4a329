//! Rows that stand for several events, through gathering, bisection and shards: exact whatever fails in between.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use prost::Message;

use super::bisection::{Answer, Bisection};
use super::gather::{Due, Gather};
use super::steps::Steps;
use crate::batch::{Batch, Delivery};
use crate::event::EventKind;
use crate::event::proto::attribute::Value::StringValue;
use crate::event::proto::{Attribute, Event};
use crate::settings::steps::StepSettings;
use crate::sink::testing::{SERVER_ID, batch_of, named};
use crate::sink::{BatchSettings, Failure, ShardPositions};

const AGE: Duration = Duration::from_secs(10);

fn gather(max_events: u64, max_series: &'static str) -> Gather {
    let settings = StepSettings::read(|key| match key {
        "aggregate.interval" => Some("10s"),
        "aggregate.max_series" => Some(max_series),
        "collapse" => Some("true"),
        _ => None,
    });
    let steps = Steps::new(&settings.unwrap(), SERVER_ID);
    Gather::new(BatchSettings { max_events, max_bytes: 1 << 20, max_age: AGE }, Arc::new(steps))
}

fn counter(source: u8, value: u32) -> Event {
    let (kind, value) = (EventKind::Counter.into(), Some(value.into()));
    Event { kind, value, source: format!("s{source}"), time_unix_nano: 5_000_000_000, ..named("n") }
}

/// Batches of so many counters of value 1, three in a row of each source.
fn batches(sizes: &[u64], sources: u64) -> Vec<Arc<Batch>> {
    let mut next = 1;
    let batch = |size: &u64| {
        let events = (next..next + size).map(|position| counter((position / 3 % sources) as u8, 1)).collect();
        next += size;
        batch_of(next - size, vec![events])
    };
    sizes.iter().map(batch).collect()
}

#[track_caller]
fn now(due: Due) -> Delivery {
    match due {
        Due::Now(delivery) => delivery,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_window_is_gathered_for_its_interval_also_by_an_idle_router() {
    let start = Instant::now();
    let mut gather = gather(1_000, "");
    for batch in batches(&[100, 100, 100], 2) {
        gather.take(batch);
        assert!(matches!(gather.due(start), Due::At(at) if at == start + AGE));
    }
    assert_eq!(gather.pinned_bytes(), 0);
    let delivery = now(gather.due(start + AGE));
    assert_eq!((delivery.events(), delivery.originals(), delivery.last_position()), (2, 300, 300));
    gather.stored(300);
    gather.delivery_ended(start + AGE);
    assert!(gather.is_empty());
    gather.take(batch_of(301, vec![vec![counter(1, 1)]]));
    let later = start + 5 * AGE;
    assert!(matches!(gather.due(later), Due::At(at) if at == later + AGE));
    gather.close();
    assert_eq!(now(gather.due(later)).events(), 1, "nothing more comes");
}

/// Steps that leave everything out.
fn nothing() -> Arc<Steps> {
    let settings = StepSettings::read(|key| (key == "exclude").then_some("[{ kinds = [\"counter\"] }]"));
    Arc::new(Steps::new(&settings.unwrap(), SERVER_ID))
}

#[test]
fn other_steps_end_an_open_window_and_begin_with_the_next_event() {
    let start = Instant::now();
    let mut gather = gather(1_000, "");
    let [first, second, third] = &batches(&[100, 100, 100], 2)[..] else { panic!("three batches") };
    gather.take(first.clone());
    assert!(matches!(gather.due(start), Due::At(_)));
    gather.change_steps(nothing(), Duration::ZERO);
    let window = now(gather.due(start));
    assert_eq!((window.events(), window.originals(), window.last_position()), (2, 100, 100));
    // It is delivered for the first time, or again: what comes next waits, as without a change.
    gather.stored(100);
    gather.delivery_ended(start);
    gather.take(second.clone());
    let filtered = now(gather.due(start + AGE));
    assert_eq!((filtered.events(), filtered.filtered().iter().sum::<u64>(), filtered.last_position()), (0, 100, 200));
    gather.stored(200);
    // None at all: what is held follows as it is.
    gather.change_steps(Arc::default(), Duration::ZERO);
    gather.take(third.clone());
    assert_eq!(now(gather.due(start + AGE)).originals(), 100);
}

#[test]
fn what_is_delivered_again_keeps_its_steps() {
    let start = Instant::now();
    let mut gather = gather(1_000, "");
    let all = batches(&[100, 100], 2);
    gather.take(all[0].clone());
    assert!(matches!(gather.due(start), Due::At(_)));
    let lost = now(gather.due(start + AGE));
    gather.change_steps(nothing(), Duration::ZERO);
    // The store has less than was thought: everything begins again, with what was due as it was.
    gather.restart(0, None);
    let first = batch_of(1, vec![(1..=60).map(|position| counter((position / 3 % 2) as u8, 1)).collect()]);
    gather.take(first);
    assert!(matches!(gather.due(start + AGE), Due::At(_)), "not all of it is there");
    gather.take(all[0].clone());
    let again = now(gather.due(start + AGE));
    assert_eq!((again.originals(), again.events(), again.last_position()), (100, lost.events(), 100));
    gather.stored(100);
    gather.delivery_ended(start + AGE);
    gather.take(all[1].clone());
    assert_eq!(now(gather.due(start + 2 * AGE)).originals(), 0, "and the new steps from there on");
}

#[test]
fn a_window_ends_early_when_its_series_or_rows_are_as_many_as_may_be() {
    for (max_events, max_series) in [(1_000, "40"), (40, "1000")] {
        let start = Instant::now();
        let mut gather = gather(max_events, max_series);
        let mut events = 0;
        let mut rows = 0;
        for batch in batches(&[100; 20], 97) {
            if gather.has_room() {
                gather.take(batch.clone());
            }
            while let Due::Now(delivery) = gather.due(start) {
                assert!(delivery.events() <= 40, "{} rows", delivery.events());
                (events, rows) = (events + delivery.originals(), rows + delivery.events());
                gather.stored(delivery.last_position());
            }
        }
        gather.close();
        while let Due::Now(delivery) = gather.due(start) {
            (events, rows) = (events + delivery.originals(), rows + delivery.events());
            gather.stored(delivery.last_position());
        }
        assert_eq!(events, 2_000);
        assert!(rows < 2_000, "{rows} rows");
    }
}

#[test]
fn a_window_that_failed_is_due_once_it_has_all_its_events_again() {
    let start = Instant::now();
    let mut gather = gather(1_000, "");
    let all = batches(&[100, 100, 100], 2);
    gather.take(all[0].clone());
    gather.take(all[1].clone());
    assert!(matches!(gather.due(start), Due::At(_)));
    let late = start + AGE;
    assert_eq!(now(gather.due(late)).last_position(), 200);
    // The store was away, and what each shard has is asked for again; twice.
    for _ in 0..2 {
        gather.restart(0, None);
        gather.take(all[0].clone());
        assert!(matches!(gather.due(late), Due::At(at) if at == late + AGE), "not all of it is there yet");
        gather.take(all[1].clone());
        assert_eq!(now(gather.due(late)).last_position(), 200);
    }
    gather.stored(200);
    gather.delivery_ended(late);
    gather.take(all[2].clone());
    assert!(matches!(gather.due(late), Due::At(at) if at == late + AGE), "the next one is a window of its own");
}

#[test]
fn a_window_ends_where_positions_are_missing_and_when_it_has_read_as_much_as_it_may() {
    let start = Instant::now();
    let mut gather = gather(1_000, "");
    let all = batches(&[100, 100, 100, 100], 2);
    gather.take(all[0].clone());
    assert!(matches!(gather.due(start), Due::At(_)));
    gather.set_at_gap(true);
    assert_eq!(now(gather.due(start)).last_position(), 100);
    gather.stored(100);
    gather.set_at_gap(false);
    gather.limit_window(all[1].payload_bytes() as u64 + 1);
    gather.take(all[1].clone());
    assert!(gather.has_room() && matches!(gather.due(start), Due::At(_)));
    gather.take(all[2].clone());
    assert!(!gather.has_room());
    assert_eq!(now(gather.due(start)).last_position(), 300);
}

/// What steps before it made, what came by other ways, and what the pool holds: none of it is held by a window.
#[test]
fn a_window_holds_its_rows_only() {
    let settings = StepSettings::read(|key| match key {
        "aggregate.interval" => Some("10s"),
        "redact" => Some("{ attributes = 'user', action = 'remove' }"),
        _ => None,
    });
    let steps = Steps::new(&settings.unwrap(), SERVER_ID);
    let settings = BatchSettings { max_events: 1_000, max_bytes: 1 << 20, max_age: AGE };
    let mut gather = Gather::new(settings, Arc::new(steps));
    let text = Some(StringValue("x".repeat(200)));
    let with_user =
        |event: Event| Event { attributes: vec![Attribute { key: "user".into(), value: text.clone() }], ..event };
    for first in (1..=2_000).step_by(100) {
        let log = Event { kind: EventKind::Log.into(), ..named("log") };
        let counters = (0..99).map(|_| with_user(counter(1, 1)));
        gather.take(batch_of(first, vec![counters.chain([with_user(log)]).collect()]));
        assert_eq!(gather.pinned_bytes(), 0);
    }
    gather.close();
    let delivery = now(gather.due(Instant::now()));
    assert_eq!((delivery.events(), delivery.originals()), (21, 2_000));
    assert!(delivery.held_bytes() < 2_000, "{} bytes for {} of rows", delivery.held_bytes(), delivery.payload_bytes());
}

/// Sums of `value` by source.
type Sums = BTreeMap<String, f64>;

fn add(sums: &mut Sums, delivery: &Delivery, is_stored: impl Fn(&str, u64) -> bool) {
    for record in delivery.records() {
        if is_stored(record.source(), record.position) {
            *sums.entry(record.source().to_owned()).or_default() +=
                Event::decode(record.event.bytes()).unwrap().value.unwrap();
        }
    }
}

const SHARDS: usize = 3;

/// A store with a position for each shard, which may fail after any of them.
#[derive(Default)]
struct ShardedStore {
    positions: [u64; SHARDS],
    sums: Sums,
}

impl ShardedStore {
    /// Stores what the first `shards` lack.
    fn deliver(&mut self, delivery: &Delivery, shards: usize) {
        for shard in 0..shards {
            let before = self.positions[shard];
            if before >= delivery.last_position() {
                continue;
            }
            add(&mut self.sums, delivery, |source, position| {
                ShardPositions::shard_of(source, SHARDS) == shard && position > before
            });
            self.positions[shard] = delivery.last_position();
        }
    }

    fn lowest(&self) -> u64 {
        self.positions.into_iter().min().unwrap()
    }
}

proptest! {
    /// Each round delivers one window, whose border and whose failure are arbitrary. After a failure the router begins again
    /// at the lowest position, and what follows is gathered into other windows.
    #[test]
    fn sums_are_exact_in_shards_whatever_fails(
        sizes in prop::collection::vec(1_u64..30, 1..12),
        rounds in prop::collection::vec((1_usize..4, 0_usize..=SHARDS), 0..20),
    ) {
        let batches = batches(&sizes, 8);
        let start = Instant::now();
        let mut store = ShardedStore::default();
        let mut gather = gather(1_000, "");
        let last = batches.last().unwrap().end_position() - 1;
        for (taken, shards) in rounds.into_iter().chain(std::iter::repeat_n((2, SHARDS), sizes.len())) {
            let from = store.lowest();
            if from == last {
                break;
            }
            // As after a connect.
            gather.restart(from, Some(ShardPositions::new(store.positions.to_vec())));
            for batch in batches.iter().filter(|batch| batch.end_position() > from + 1).take(taken) {
                gather.take(batch.clone());
            }
            let delivery = match gather.due(start) {
                Due::At(at) => now(gather.due(at)),
                // It was due before.
                due => now(due),
            };
            store.deliver(&delivery, shards);
        }
        let mut expected = Sums::new();
        for batch in &batches {
            add(&mut expected, &Delivery::new([batch.clone()], batch.first_position()..=batch.end_position() - 1), |_, _| true);
        }
        prop_assert_eq!(store.lowest(), last);
        prop_assert_eq!(store.sums, expected);
    }

    /// A store that names no row, and refuses some rows by themselves and some pairs of rows together.
    #[test]
    fn a_whole_delivery_moves_the_position_once_without_what_is_refused(
        rows in 1_u64..40,
        bad in prop::collection::btree_set(1_u64..40, 0..5),
        pairs in prop::collection::vec((1_u64..40, 1_u64..40), 0..3),
        rehearses: bool,
        fails in prop::collection::btree_set(0_usize..40, 0..6),
    ) {
        let events: Vec<Event> = (0..rows).flat_map(|source| [counter(source as u8, 1), counter(source as u8, 2)]).collect();
        let mut gather = gather(1_000, "");
        gather.take(batch_of(1, vec![events]));
        gather.close();
        let delivery = now(gather.due(Instant::now()));
        prop_assert!(delivery.is_whole() && delivery.events() == rows);
        let last = delivery.last_position();
        let refused = |positions: &[u64]| {
            positions.iter().any(|position| bad.contains(&(position / 2)))
                || pairs.iter().any(|(one, other)| {
                    one != other && [one, other].iter().all(|row| positions.contains(&(*row * 2)))
                })
        };
        let (mut stored, mut dead, mut moves, mut attempts) = (Vec::new(), Vec::new(), Vec::new(), 0);
        let mut parts = Bisection::rehearsing(delivery, rehearses);
        while let Some(part) = parts.attempt() {
            attempts += 1;
            prop_assert!(attempts < 2_000);
            let positions: Vec<u64> = part.records().map(|record| record.position).collect();
            let mut all: Vec<u64> = if rehearses { vec![] } else { stored.clone() };
            all.extend(&positions);
            let is_rehearsal = parts.is_rehearsal();
            let result = if fails.contains(&attempts) {
                Err(Failure::Unavailable(crate::sink::Unavailable::retry("gone")))
            } else if refused(&all) {
                Err(Failure::BatchRefused { code: "E".to_owned(), reason: "r".to_owned() })
            } else {
                if !is_rehearsal {
                    stored = all;
                }
                Ok(())
            };
            match parts.answer(result) {
                Answer::Stored(all) => moves.push((all.last_position(), all.events())),
                Answer::RefusedAlone(refusal) => {
                    dead.push(refusal.position);
                    prop_assert_eq!(parts.leave_out(&[refusal]), 2);
                }
                Answer::Halved | Answer::Accepted { .. } | Answer::Unavailable(_) => {}
                other => panic!("{other:?}"),
            }
        }
        prop_assert_eq!(moves, vec![(last, stored.len() as u64)]);
        prop_assert!(!refused(&stored));
        prop_assert!(bad.iter().filter(|row| **row <= rows).all(|row| dead.contains(&(row * 2))));
        let mut all = [stored, dead].concat();
        all.sort_unstable();
        prop_assert_eq!(all, (1..=rows).map(|row| row * 2).collect::<Vec<_>>());
    }
}
