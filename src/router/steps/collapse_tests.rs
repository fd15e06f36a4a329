use std::collections::BTreeMap;

use proptest::prelude::*;
use prost::Message;

use super::{Collapse, FIRST_TIME, LAST_TIME, REPEATED, Step};
use crate::batch::Delivery;
use crate::event::proto::attribute::Value;
use crate::event::proto::{Attribute, Event};
use crate::event::{EventKind, rfc3339};
use crate::sink::testing::{batch_of, named};

fn log(name: &str, time: u64) -> Event {
    Event { time_unix_nano: time, body: "b".to_owned(), ..named(name) }
}

fn delivery(events: &[Event]) -> Delivery {
    Delivery::new([batch_of(1, events.chunks(3).map(<[_]>::to_vec).collect())], 1..=events.len() as u64)
}

fn rows(delivery: &Delivery) -> Vec<(u64, Event)> {
    delivery.records().map(|record| (record.position, Event::decode(record.event.bytes()).unwrap())).collect()
}

/// The event as the row of so many.
fn repeated(event: &Event, events: i64, first: u64, last: u64) -> Event {
    let mut event = event.clone();
    let text = |time| Value::StringValue(String::from_utf8(rfc3339::format(time).to_vec()).unwrap());
    for (key, value) in [(REPEATED, Value::IntValue(events)), (FIRST_TIME, text(first)), (LAST_TIME, text(last))] {
        event.attributes.push(Attribute { key: key.to_owned(), value: Some(value) });
    }
    event
}

#[test]
fn logs_that_differ_in_their_time_only_become_one() {
    let events = [log("a", 50), log("b", 60), log("a", 40), log("a", 70)];
    let collapsed = Collapse.apply(delivery(&events));
    assert_eq!(rows(&collapsed), [(2, log("b", 60)), (4, repeated(&log("a", 70), 3, 40, 70))]);
    assert_eq!((collapsed.events(), collapsed.originals(), collapsed.is_whole()), (2, 4, true));
    assert_eq!((collapsed.first_position(), collapsed.last_position()), (1, 4));
    assert_eq!(collapsed.filtered().iter().sum::<u64>(), 0, "nothing is left out");
}

#[test]
fn without_repetition_nothing_changes() {
    let before = delivery(&[log("a", 1), log("b", 1)]);
    let after = Collapse.apply(before.clone());
    assert!(after.picks().zip(before.picks()).all(|(one, other)| std::ptr::eq(one.payload(), other.payload())));
    assert!(!after.is_whole());
}

#[test]
fn values_that_add_up_stay() {
    let counter = |kind: EventKind| Event { kind: kind.into(), value: Some(1.0), ..named("n") };
    let events = [counter(EventKind::Counter), counter(EventKind::Counter), counter(EventKind::Gauge)];
    assert_eq!(Collapse.apply(delivery(&events)).events(), 3);
    let span = Event { kind: EventKind::Span.into(), span_id: vec![1; 8], ..named("s") };
    let other = Event { span_id: vec![2; 8], ..span.clone() };
    assert_eq!(Collapse.apply(delivery(&[span.clone(), other, span])).events(), 2);
}

proptest! {
    #[test]
    fn it_is_its_naive_twin(
        events in prop::collection::vec((0_u8..4, 0_u8..3, 1_u64..100), 1..30),
    ) {
        let events: Vec<Event> = events.into_iter().map(|(name, kind, time)| {
            let kind = [EventKind::Unspecified, EventKind::Span, EventKind::Counter][usize::from(kind)];
            Event { kind: kind.into(), ..log(&name.to_string(), time) }
        }).collect();
        let mut groups: BTreeMap<Vec<u8>, Vec<(u64, Event)>> = BTreeMap::new();
        for (position, event) in (1_u64..).zip(&events) {
            let mut key = Event { time_unix_nano: 0, ..event.clone() }.encode_to_vec();
            if event.kind() == EventKind::Counter {
                key.extend(position.to_le_bytes());
            }
            groups.entry(key).or_default().push((position, event.clone()));
        }
        let mut expected: Vec<(u64, Event)> = groups.into_values().map(|group| {
            let (position, last) = group.last().unwrap().clone();
            let times = || group.iter().map(|(_, event)| event.time_unix_nano);
            match group.len() {
                1 => (position, last),
                count => (position, repeated(&last, count as i64, times().min().unwrap(), times().max().unwrap())),
            }
        }).collect();
        expected.sort_by_key(|(position, _)| *position);
        let collapsed = Collapse.apply(delivery(&events));
        prop_assert_eq!(rows(&collapsed), expected.clone());
        prop_assert_eq!(collapsed.originals(), events.len() as u64);
        prop_assert_eq!(rows(&Collapse.apply(delivery(&events))), expected, "repeated");
    }
}
