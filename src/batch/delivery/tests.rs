use std::ops::RangeInclusive;
use std::sync::Arc;

use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::batch::{Payload, Record};
use crate::event::proto::{Event, EventBatch};
use crate::sink::testing::{RECEIVED_UNIX_NANO, batch, batch_of, named, origin, without};

fn positions(delivery: &Delivery) -> Vec<u64> {
    delivery.records().map(|record| record.position).collect()
}

/// What each event is called, by its position, read in both ways; the invariants hold.
fn written(delivery: &Delivery) -> Vec<(u64, String)> {
    let from_records: Vec<_> =
        delivery.records().map(|record| (record.position, record.event.name().to_owned())).collect();
    let mut from_picks = Vec::new();
    for pick in delivery.picks() {
        let events = EventBatch::decode(pick.payload()).unwrap().events;
        assert_eq!(events.len() as u32, pick.events());
        assert!(!events.is_empty());
        from_picks.extend((pick.first_position()..pick.end_position()).zip(events.into_iter().map(|event| event.name)));
    }
    assert_eq!(from_records, from_picks);
    assert_eq!(delivery.events(), from_records.len() as u64);
    assert!(from_records.is_sorted_by(|(one, _), (other, _)| one < other));
    let covered = delivery.first_position()..=delivery.last_position();
    assert!(!covered.is_empty() && from_records.iter().all(|(position, _)| covered.contains(position)));
    let ranges: Vec<u64> = delivery.position_ranges().into_iter().flatten().collect();
    assert_eq!(ranges, from_records.iter().map(|(position, _)| *position).collect::<Vec<_>>());
    from_records
}

fn names(positions: impl IntoIterator<Item = u64>) -> Vec<(u64, String)> {
    positions.into_iter().map(|position| (position, format!("e{position}"))).collect()
}

#[test]
fn whole_runs_are_one_pick_each_and_runs_without_events_none() {
    let runs = vec![vec![named("e5"), named("e6")], vec![], vec![named("e7")]];
    let delivery = Delivery::new(vec![batch(1..=4), batch_of(5, runs)], 1..=7);
    assert_eq!(delivery.picks().map(|pick| pick.events()).collect::<Vec<_>>(), [4, 2, 1]);
    assert_eq!(written(&delivery), names(1..=7));
}

#[test]
fn a_part_of_batches_with_a_gap_between_them() {
    let delivery = Delivery::new(vec![batch(4..=6), batch(100..=102)], 5..=101);
    assert_eq!(written(&delivery), names([5, 6, 100, 101]));
    assert_eq!(delivery.position_ranges(), [5..=6, 100..=101]);
}

#[test]
fn a_refused_row_splits_a_pick_and_is_covered() {
    let delivery = Delivery::new(vec![batch(1..=9)], 1..=9);
    let fewer = without(&delivery, &[0, 1, 5, 6, 9, 10]);
    assert_eq!(fewer.picks().map(|pick| pick.events()).collect::<Vec<_>>(), [3, 2]);
    assert_eq!(written(&fewer), names([2, 3, 4, 7, 8]));
    assert_eq!((fewer.first_position(), fewer.last_position()), (1, 9));
    let nothing = without(&fewer, &[2, 3, 4, 7, 8]);
    assert_eq!((nothing.events(), nothing.picks().count()), (0, 0));
    assert_eq!((nothing.first_position(), nothing.last_position()), (1, 9));
    assert!(nothing.split().is_none());
}

#[test]
fn halves_cover_what_was_left_out_between_them() {
    let delivery = without(&Delivery::new(vec![batch(1..=9)], 1..=9), &[4, 5, 6]);
    let (first, second) = delivery.split().unwrap();
    assert_eq!((written(&first), written(&second)), (names(1..=3), names(7..=9)));
    assert_eq!((first.first_position(), first.last_position()), (1, 6));
    assert_eq!((second.first_position(), second.last_position()), (7, 9));
}

/// An `EventBatch` as an agent may send it: with fields that are not of the schema around its events.
fn with_unknown_fields(names: &[&str], unknown: &[u8]) -> Arc<Batch> {
    let mut payload = unknown.to_vec();
    for name in names {
        payload.extend(EventBatch { events: vec![named(*name)] }.encode_to_vec());
        payload.extend_from_slice(unknown);
    }
    let payload = Payload::Read(payload.into());
    let run = Run {
        payload,
        events: names.len() as u32,
        received_unix_nano: RECEIVED_UNIX_NANO,
        origin: Arc::new(origin()),
        are_head_first: false,
    };
    Arc::new(Batch::new(1, vec![run]))
}

#[test]
fn what_stands_between_events_belongs_to_no_part_that_is_cut_there() {
    // Field 2, of 100 bytes.
    let unknown = [&[0x12, 100][..], &[7; 100]].concat();
    let delivery = Delivery::new(vec![with_unknown_fields(&["e1", "e2", "e3"], &unknown)], 1..=3);
    assert_eq!(written(&delivery), names(1..=3));
    for position in 1..=3 {
        let others: Vec<u64> = (1..=3).filter(|other| *other != position).collect();
        let alone = without(&delivery, &others);
        assert_eq!(written(&alone), names([position]));
        let pick = alone.picks().next().unwrap();
        assert_eq!(pick.payload(), EventBatch { events: vec![named(format!("e{position}"))] }.encode_to_vec());
    }
    // An event by itself is not too large because of what is around it.
    let alone = Delivery::new(vec![with_unknown_fields(&["e1"], &unknown)], 1..=1);
    let pick = alone.picks().next().unwrap();
    assert_eq!(pick.payload().len(), pick.clone().cut(|_, bytes| bytes < 100).0.unwrap().payload().len());
    let pair = Delivery::new(vec![with_unknown_fields(&["e1", "e2"], &unknown)], 1..=2);
    let (first, rest) = pair.picks().next().unwrap().cut(|_, bytes| bytes < 100);
    assert!(first.unwrap().payload().len() < 100 && rest.unwrap().payload().len() < 100);
}

proptest! {
    #[test]
    fn parts_have_each_event_that_is_left_once(
        runs in prop::collection::vec(prop::collection::vec(0_usize..300, 0..12), 1..6),
        jumps in prop::collection::vec(0_u64..3, 6),
        cut in (0_u64..5, 0_u64..5),
        refused in prop::collection::btree_set(0_u64..60, 0..20),
        max_bytes in 1_usize..600,
    ) {
        let (mut next, mut batches, mut all) = (50, Vec::new(), Vec::new());
        for (runs, jump) in runs.chunks(2).zip(jumps) {
            next += jump;
            let first = next;
            let mut event = |bytes: &usize| {
                all.push(next);
                next += 1;
                Event { body: "x".repeat(*bytes), ..named(format!("e{}", next - 1)) }
            };
            let runs: Vec<Vec<Event>> = runs.iter().map(|run| run.iter().map(&mut event).collect()).collect();
            if runs.iter().any(|run| !run.is_empty()) {
                batches.push(batch_of(first, runs));
            }
        }
        prop_assume!(!all.is_empty());
        let covered: RangeInclusive<u64> = all[0] + cut.0..=all[all.len() - 1].saturating_sub(cut.1);
        prop_assume!(!covered.is_empty());
        let batches: Vec<_> = batches
            .into_iter()
            .filter(|batch| batch.first_position() <= *covered.end() && batch.end_position() > *covered.start())
            .collect();
        prop_assume!(batches.first().is_some_and(|batch| batch.first_position() <= *covered.start()));
        prop_assume!(batches.last().is_some_and(|batch| batch.end_position() > *covered.end()));
        all.retain(|position| covered.contains(position));
        let delivery = Delivery::new(batches, covered.clone());
        prop_assert_eq!(written(&delivery), names(all.clone()));

        let refused: Vec<u64> = refused.into_iter().map(|offset| 50 + offset).collect();
        let left = without(&delivery, &refused);
        all.retain(|position| !refused.contains(position));
        prop_assert_eq!(written(&left), names(all.clone()));
        prop_assert_eq!((left.first_position(), left.last_position()), (*covered.start(), *covered.end()));

        match left.split() {
            None => prop_assert!(all.len() <= 1),
            Some((first, second)) => {
                prop_assert_eq!([written(&first), written(&second)].concat(), names(all.clone()));
                prop_assert_eq!(first.events(), (all.len() as u64).div_ceil(2));
                prop_assert_eq!(first.first_position(), *covered.start());
                prop_assert_eq!(first.last_position() + 1, second.first_position());
                prop_assert_eq!(second.last_position(), *covered.end());
            }
        }

        // Cut by bytes: each piece fits, or is one event.
        let mut pieces = Vec::new();
        for pick in left.picks() {
            let mut rest = Some(pick);
            while let Some(pick) = rest {
                let (piece, more) = pick.cut(|events, bytes| events == 1 || bytes <= max_bytes);
                let piece = piece.unwrap();
                prop_assert!(piece.events() == 1 || piece.payload().len() <= max_bytes);
                pieces.push(piece);
                rest = more;
            }
        }
        prop_assert_eq!(positions(&left.of_picks(pieces)), all);
    }
}

mod shaped {
    use super::*;
    use crate::limits::ATTRIBUTE_KEY_BYTES_MAX;

    /// A delivery of two batches with several runs, some of them of other origins.
    fn mixed(runs: &[Vec<usize>]) -> Delivery {
        let mut next = 1;
        let mut batches = Vec::new();
        for run in runs {
            let events: Vec<Event> = run
                .iter()
                .enumerate()
                .map(|(index, bytes)| Event { body: "x".repeat(*bytes), ..named(format!("e{}", next + index as u64)) })
                .collect();
            let count = events.len() as u64;
            if count > 0 {
                batches.push(batch_of(next, vec![events]));
            }
            next += count;
        }
        Delivery::new(batches, 1..=next - 1)
    }

    #[test]
    fn what_is_kept_whole_is_the_same_delivery() {
        let delivery = mixed(&[vec![0; 5], vec![0; 3]]);
        let shaped = delivery.clone().shaped(|_, _| Fate::Keep);
        assert_eq!(shaped.picks().count(), 2);
        assert!(shaped.picks().zip(delivery.picks()).all(|(one, other)| std::ptr::eq(one.payload(), other.payload())));
    }

    #[test]
    fn an_event_that_is_filtered_is_covered_and_its_neighbours_are_not_copied() {
        let delivery = mixed(&[vec![0; 5], vec![0; 3]]);
        let shaped = delivery.clone().shaped(|record, _| match record.position {
            2 | 8 => Fate::Filter(FilterStep::Exclude),
            _ => Fate::Keep,
        });
        assert_eq!(written(&shaped), names([1, 3, 4, 5, 6, 7]));
        assert_eq!(shaped.picks().map(|pick| pick.events()).collect::<Vec<_>>(), [1, 3, 2]);
        assert_eq!((shaped.filtered()[FilterStep::Exclude as usize], shaped.originals()), (2, 6));
        let run = delivery.picks().next().unwrap().payload().as_ptr_range();
        assert!(shaped.picks().take(2).all(|pick| run.contains(&pick.payload().as_ptr())));
    }

    #[test]
    fn a_made_row_is_a_row_as_any_other() {
        let delivery = mixed(&[vec![0; 3], vec![0; 2]]);
        let event = Event { body: "y".repeat(ATTRIBUTE_KEY_BYTES_MAX), ..named("made") }.encode_to_vec();
        let shaped = delivery.shaped(|record, out| match record.position {
            1 => Fate::Keep,
            4 => Fate::Filter(FilterStep::Sample),
            _ => {
                out.extend_from_slice(&event);
                Fate::Replace
            }
        });
        let made = |position: u64| (position, "made".to_owned());
        assert_eq!(written(&shaped), [vec![(1, "e1".to_owned())], [2, 3, 5].map(made).to_vec()].concat());
        // Neighbours of one run are one pick.
        assert_eq!(shaped.picks().map(|pick| pick.events()).collect::<Vec<_>>(), [1, 2, 1]);
        assert!(
            shaped
                .records()
                .all(|record| record.origin.default_source == "api" && record.received_unix_nano == RECEIVED_UNIX_NANO)
        );
        let (first, second) = shaped.split().unwrap();
        assert_eq!((written(&first).len(), written(&second)), (2, vec![made(3), made(5)]));
        assert_eq!((first.filtered()[2], second.filtered()[2]), (0, 1), "counted with the last part");
        assert_eq!(written(&without(&shaped, &[2])), [vec![(1, "e1".to_owned())], [3, 5].map(made).to_vec()].concat());
    }

    #[test]
    fn a_row_of_several_events_counts_as_these() {
        let delivery = mixed(&[vec![0; 6]]);
        let mut builder = Builder::default();
        builder.begin(&delivery);
        let origin = delivery.picks().next().unwrap().run().origin.clone();
        let event = named("sum").encode_to_vec();
        for (position, originals) in [(4, 3), (5, 1), (6, 2)] {
            builder.row(&MadeRow { position, received_unix_nano: 7, origin: &origin, originals, event: &event });
        }
        builder.whole();
        let delivery = builder.finish().unwrap();
        assert_eq!((delivery.events(), delivery.originals(), delivery.is_whole()), (3, 6, true));
        assert_eq!(written(&delivery), [4, 5, 6].map(|position| (position, "sum".to_owned())));
        assert_eq!(without(&delivery, &[4]).originals(), 3);
        assert!(without(&delivery, &[4]).is_whole());
        let filtered = delivery.shaped(|record, _| match record.position {
            6 => Fate::Filter(FilterStep::Include),
            _ => Fate::Keep,
        });
        assert_eq!((filtered.originals(), filtered.filtered()[0]), (4, 2));
    }

    proptest! {
        #[test]
        fn shaping_in_pieces_or_twice_is_shaping_at_once(
            runs in prop::collection::vec(prop::collection::vec(0_usize..200, 0..12), 1..8),
            fates in prop::collection::vec(0_u8..4, 100),
            again in prop::collection::vec(0_u8..4, 100),
            cuts in prop::collection::btree_set(1_u64..100, 0..6),
        ) {
            prop_assume!(runs.iter().any(|run| !run.is_empty()));
            let delivery = mixed(&runs);
            let fate = |fates: &[u8], record: &Record<'_>, out: &mut Vec<u8>| match fates[record.position as usize % 100] {
                0 => Fate::Filter(FilterStep::Sample),
                1 => {
                    out.extend_from_slice(record.event.bytes());
                    out.extend(Event { name: format!("m{}", record.event.name()), ..Event::default() }.encode_to_vec());
                    Fate::Replace
                }
                _ => Fate::Keep,
            };
            let step = |delivery: Delivery| {
                delivery.shaped(|record, out| fate(&fates, record, out)).shaped(|record, out| fate(&again, record, out))
            };
            let mut expected = Vec::new();
            let mut filtered = 0;
            'events: for (position, name) in written(&delivery) {
                let mut name = name;
                for fates in [&fates, &again] {
                    match fates[position as usize % 100] {
                        0 => { filtered += 1; continue 'events }
                        1 => name = format!("m{name}"),
                        _ => {}
                    }
                }
                expected.push((position, name));
            }
            let shaped = step(delivery.clone());
            prop_assert_eq!(&written(&shaped), &expected);
            prop_assert_eq!(shaped.filtered()[FilterStep::Sample as usize], filtered);
            prop_assert_eq!(shaped.originals() + filtered, delivery.events());
            let mut builder = Builder::default();
            let (mut rest, mut left) = (Some(delivery.clone()), cuts);
            while let Some(piece) = rest.take() {
                let (piece, others) = match left.pop_first() {
                    Some(cut) if cut > piece.first_position() && cut <= piece.last_position() => {
                        let part = |after: bool| piece.of_picks(piece.picks().filter_map(|pick| {
                            let (before, behind) = pick.split_at(cut);
                            if after { behind } else { before }
                        }));
                        (part(false), Some(part(true)))
                    }
                    Some(_) => { rest = Some(piece); continue }
                    None => (piece, None),
                };
                let read_bytes = piece.payload_bytes();
                builder.append(&step(piece), read_bytes);
                rest = others;
            }
            let (rows, bytes) = (builder.rows(), builder.payload_bytes());
            let joined = builder.finish().unwrap();
            prop_assert_eq!(&written(&joined), &expected);
            prop_assert_eq!((joined.events(), joined.payload_bytes()), (rows, bytes));
            prop_assert_eq!(joined.filtered(), shaped.filtered());
            prop_assert_eq!(joined.first_position()..=joined.last_position(), 1..=delivery.last_position());
        }
    }
}
