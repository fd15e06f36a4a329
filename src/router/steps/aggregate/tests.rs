use std::collections::BTreeMap;

use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::batch::Builder;
use crate::event::proto::attribute::Value;
use crate::event::proto::{Attribute, Event};
use crate::router::steps::{Open, Steps};
use crate::settings::steps::StepSettings;
use crate::sink::testing::{SERVER_ID, batch_of, named};

const SECOND: u64 = 1_000_000_000;

fn settings(by: &str, gauges: &str) -> StepSettings {
    StepSettings::read(|key| match key {
        "aggregate.interval" => Some("10s"),
        "aggregate.by" => Some(by),
        "aggregate.gauges" => Some(gauges),
        _ => None,
    })
    .unwrap()
}

fn attribute(key: &str, value: Value) -> Attribute {
    Attribute { key: key.to_owned(), value: Some(value) }
}

fn text(key: &str, value: &str) -> Attribute {
    attribute(key, Value::StringValue(value.to_owned()))
}

fn metric(kind: EventKind, second: u64, value: f64, attributes: &[Attribute]) -> Event {
    let attributes = attributes.to_vec();
    let (time_unix_nano, value) = (second * SECOND, Some(value));
    Event { kind: kind.into(), time_unix_nano, value, attributes, source: "api".to_owned(), ..named("m") }
}

fn counter(second: u64, value: f64, attributes: &[Attribute]) -> Event {
    metric(EventKind::Counter, second, value, attributes)
}

/// The rows of these events, which are read in pieces of so many.
fn aggregated(settings: &StepSettings, events: &[Event], piece: usize) -> Delivery {
    let steps = Steps::new(settings, SERVER_ID);
    let mut open = Open::default();
    let mut next = 1;
    for events in events.chunks(piece) {
        let last = next + events.len() as u64 - 1;
        open.add(&steps, Delivery::new([batch_of(next, vec![events.to_vec()])], next..=last), 1);
        next = last + 1;
    }
    open.close(&steps).unwrap()
}

fn rows(delivery: &Delivery) -> Vec<(u64, Event)> {
    delivery.records().map(|record| (record.position, Event::decode(record.event.bytes()).unwrap())).collect()
}

fn row(event: &Event, start: u64, value: f64, count: i64, more: &[Attribute]) -> Event {
    let mut event = Event { time_unix_nano: start * SECOND, value: Some(value), ..event.clone() };
    event.attributes.sort_by(|one, other| one.key.cmp(&other.key));
    event.attributes.extend(more.iter().cloned());
    event.attributes.extend([attribute(COUNT, Value::IntValue(count)), text(INTERVAL, "10s")]);
    event
}

#[test]
fn counters_are_summed_per_series_and_interval_of_event_time() {
    let (one, two) = ([text("b", "1"), text("a", "2")], [text("a", "2"), text("b", "2")]);
    let sorted = [text("a", "2"), text("b", "1")];
    let events =
        [counter(10, 1.0, &one), counter(19, 2.0, &sorted), counter(20, 4.0, &one), counter(11, 8.0, &two), named("l")];
    let delivery = aggregated(&settings("", ""), &events, 100);
    let expected = [
        (2, row(&counter(0, 0.0, &one), 10, 3.0, 2, &[])),
        (3, row(&counter(0, 0.0, &one), 20, 4.0, 1, &[])),
        (4, row(&counter(0, 0.0, &two), 10, 8.0, 1, &[])),
        (5, named("l")),
    ];
    assert_eq!(rows(&delivery), expected);
    assert_eq!((delivery.events(), delivery.originals(), delivery.is_whole()), (4, 5, true));
    assert_eq!((delivery.first_position(), delivery.last_position()), (1, 5));
}

#[test]
fn gauges_become_what_is_chosen() {
    let gauge = |second, value| metric(EventKind::Gauge, second, value, &[]);
    let events = [gauge(12, 5.0), gauge(18, 1.0), gauge(15, 3.0)];
    let double = |key: &str, value| attribute(key, Value::DoubleValue(value));
    for (gauges, value, more) in [
        ("", 1.0, vec![]),
        ("['last', 'max']", 1.0, vec![double("max", 5.0)]),
        ("['avg', 'min', 'last', 'count']", 3.0, vec![double("min", 1.0), double("last", 1.0)]),
        ("'count'", 3.0, vec![]),
    ] {
        let delivery = aggregated(&settings("", gauges), &events, 100);
        assert_eq!(rows(&delivery), [(3, row(&gauge(0, 0.0), 10, value, 3, &more))], "{gauges}");
    }
}

#[test]
fn cumulative_counters_count_by_their_latest_value() {
    let of = |start: i64, temporality: &str| {
        [attribute("start_time", Value::IntValue(start)), text("temporality", temporality)]
    };
    let (one, restarted, delta) = (of(1, "cumulative"), of(2, "cumulative"), of(3, "delta"));
    let events = [
        counter(11, 10.0, &one),
        counter(13, 30.0, &one),
        counter(12, 20.0, &one),
        counter(14, 5.0, &restarted),
        counter(15, 1.0, &delta),
        counter(16, 2.0, &of(4, "delta")),
    ];
    let values = |by: &str| {
        rows(&aggregated(&settings(by, ""), &events, 100))
            .into_iter()
            .map(|(_, row)| row.value.unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(values(""), [30.0, 5.0, 3.0]);
    // Also where their attributes are not asked for.
    assert_eq!(values("['source', 'name']"), [30.0, 5.0, 3.0]);
}

#[test]
fn series_are_told_apart_by_what_is_asked_for() {
    let of = |source: &str, name: &str, user: &str| Event {
        source: source.to_owned(),
        name: name.to_owned(),
        ..counter(10, 1.0, &[text("user", user), text("path", user)])
    };
    let events = [of("a", "m", "1"), of("b", "m", "1"), of("a", "n", "2"), of("a", "m", "2")];
    for (by, expected) in [
        ("['source', 'name', 'attributes']", 4),
        ("['source', 'name']", 3),
        ("'source'", 2),
        ("['name', 'attributes.user']", 3),
        ("[]", 1),
    ] {
        if by == "[]" {
            assert!(StepSettings::read(|key| (key == "aggregate.by").then_some(by)).is_err());
            continue;
        }
        let found = rows(&aggregated(&settings(by, ""), &events, 100));
        assert_eq!(found.len(), expected, "{by}");
        assert_eq!(found.iter().map(|(_, row)| row.value.unwrap()).sum::<f64>(), 4.0);
        let has_source = by.contains("source");
        assert!(found.iter().all(|(_, row)| (row.source == SEVERAL) != has_source), "{by}");
    }
}

#[test]
fn what_has_no_value_passes_and_strange_values_stay_themselves() {
    let none = Event { value: None, ..counter(10, 0.0, &[]) };
    let delivery = aggregated(&settings("", "['min', 'max']"), &[none.clone(), counter(1, f64::INFINITY, &[])], 1);
    assert_eq!(rows(&delivery)[0], (1, none));
    assert_eq!(rows(&delivery)[1].1.value, Some(f64::INFINITY));
    let gauge = |value| metric(EventKind::Gauge, 10, value, &[]);
    let delivery = aggregated(&settings("", "['min', 'max']"), &[gauge(f64::NAN), gauge(2.0), gauge(f64::NAN)], 1);
    assert_eq!(rows(&delivery)[0].1.value, Some(2.0));
    // An interval that begins at 0 would have no time.
    let first = aggregated(&settings("", ""), &[Event { time_unix_nano: 5, ..counter(0, 1.0, &[]) }], 1);
    assert_eq!(rows(&first)[0].1.time_unix_nano, 1);
}

#[test]
fn settings_without_effect_are_refused() {
    let read = |pairs: &[(&str, &'static str)]| {
        StepSettings::read(|key| pairs.iter().find(|(given, _)| *given == key).map(|(_, value)| *value)).unwrap_err()
    };
    let interval = ("aggregate.interval", "10s");
    for (pairs, key, problem) in [
        (&[("aggregate.interval", "10")][..], "aggregate.interval", "expected a time from 1s to 24h, such as \"10s\""),
        (&[("aggregate.by", "['source']")], "aggregate.by", "has no effect without aggregate.interval"),
        (&[interval, ("aggregate.gauges", "['mean']")], "aggregate.gauges", "expected \"last\", \"min\""),
        (&[interval, ("aggregate.gauges", "['min', 'min']")], "aggregate.gauges", "\"min\" is given twice"),
        (&[interval, ("aggregate.by", "['host']")], "aggregate.by", "expected \"source\", \"name\""),
        (&[interval, ("aggregate.by", "['attributes', 'attributes.a']")], "aggregate.by", "\"attributes\" are all"),
        (&[interval, ("aggregate.max_series", "0")], "aggregate.max_series", "expected a whole number from 1"),
    ] {
        let (found, why) = read(pairs);
        assert!(found == key && why.starts_with(problem), "{pairs:?}: {found}: {why}");
    }
}

#[test]
fn memory_is_that_of_the_series() {
    let aggregate = Aggregate::new(settings("", "").aggregate.as_ref().unwrap());
    let mut window = Window::new(aggregate);
    let mut held = 0;
    for round in 0..200_u64 {
        let events: Vec<Event> =
            (0..500).map(|index| counter(10, 1.0, &[attribute("n", Value::IntValue(index))])).collect();
        let first = 1 + round * 500;
        let left = window.add(Delivery::new([batch_of(first, vec![events])], first..=first + 499));
        assert_eq!((left.events(), left.picks().count()), (0, 0));
        held = if round == 0 { window.bytes() } else { held };
    }
    assert_eq!((window.rows(), window.bytes()), (500, held));
    let mut builder = Builder::default();
    window.finish(&mut builder);
    assert_eq!(builder.rows(), 500);
}

/// Sum, count and latest value by kind, name, attribute and interval, and the last position.
type Naive = BTreeMap<(i32, String, String, u64), (f64, u64, (u64, f64), u64)>;

proptest! {
    #[test]
    fn it_is_its_naive_twin_in_any_pieces(
        events in prop::collection::vec((0_u8..3, 0_u8..3, 0_u8..3, 1_u64..60, -50_i32..50), 1..60),
        piece in 1_usize..20,
    ) {
        let kinds = [EventKind::Counter, EventKind::Gauge, EventKind::Log];
        let events: Vec<Event> = events.into_iter().map(|(kind, name, user, second, value)| Event {
            name: name.to_string(),
            ..metric(kinds[usize::from(kind)], second, value.into(), &[text("user", &user.to_string())])
        }).collect();
        let mut naive = Naive::new();
        let mut passed = Vec::new();
        for (position, event) in (1..).zip(&events) {
            if event.kind() == EventKind::Log {
                passed.push((position, event.clone()));
                continue;
            }
            let Some(Value::StringValue(user)) = &event.attributes[0].value else { unreachable!() };
            let start = event.time_unix_nano / (10 * SECOND) * 10;
            let key = (event.kind, event.name.clone(), user.clone(), start);
            let (sum, count, last, at) = naive.entry(key).or_default();
            *sum += event.value.unwrap();
            *count += 1;
            if event.time_unix_nano >= last.0 {
                *last = (event.time_unix_nano, event.value.unwrap());
            }
            *at = position;
        }
        let mut expected: Vec<(u64, Event)> = naive.into_iter().map(|((kind, name, user, start), (sum, count, last, at))| {
            let kind = EventKind::try_from(kind).unwrap();
            let value = if kind == EventKind::Counter { sum } else { last.1 };
            let event = Event { name, ..metric(kind, 0, 0.0, &[text("user", &user)]) };
            let time_unix_nano = (start * SECOND).max(1);
            (at, Event { time_unix_nano, ..row(&event, start, value, count as i64, &[]) })
        }).collect();
        expected.extend(passed);
        expected.sort_by_key(|(position, _)| *position);
        let whole = aggregated(&settings("", ""), &events, 1_000);
        prop_assert_eq!(rows(&whole), expected.clone());
        prop_assert_eq!(whole.originals(), events.len() as u64);
        let pieces = aggregated(&settings("", ""), &events, piece);
        prop_assert_eq!(rows(&pieces), expected);
        prop_assert_eq!(pieces.last_position(), events.len() as u64);
    }
}
