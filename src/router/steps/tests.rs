use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::batch::Fate;
use crate::event::proto::attribute::Value;
use crate::event::proto::{Attribute, Event, EventBatch};
use crate::event::{EventKind, JsonRecord, check_batch, write_json};
use crate::limits::{EVENT_ATTRIBUTES_MAX, STEP_CONDITIONS_MAX};
use crate::metrics::FilterStep;
use crate::settings::steps::{SampleBy, SampleSettings};
use crate::sink::BatchSettings;
use crate::sink::testing::{SERVER_ID, batch_of, delivery_of, named, origin};

fn attribute(key: &str, value: Value) -> Attribute {
    Attribute { key: key.to_owned(), value: Some(value) }
}

fn span(trace: u8) -> Event {
    Event { trace_id: vec![trace; 16], kind: EventKind::Span.into(), ..named("span") }
}

fn settings(pairs: &[(&str, &str)]) -> StepSettings {
    StepSettings::read(|key| pairs.iter().find(|(other, _)| *other == key).map(|(_, value)| *value)).unwrap()
}

fn delivery(events: &[Event]) -> Delivery {
    delivery_of(batch_of(1, events.chunks(3).map(<[_]>::to_vec).collect()))
}

fn rows(delivery: &Delivery) -> Vec<(u64, Event)> {
    delivery.records().map(|record| (record.position, Event::decode(record.event.bytes()).unwrap())).collect()
}

fn kept(pairs: &[(&str, &str)], events: &[Event]) -> Vec<u64> {
    let steps = Steps::new(&settings(pairs), SERVER_ID);
    rows(&steps.apply_to_events(delivery(events))).into_iter().map(|(position, _)| position).collect()
}

#[test]
fn conditions_are_any_of_and_their_parts_all_of() {
    let with = |attributes: Vec<Attribute>| Event { attributes, ..named("request") };
    let events = [
        Event { severity: 17, ..named("request") },
        Event { severity: 9, source: "web-1".to_owned(), ..named("ping") },
        Event { severity: 17, kind: EventKind::Span.into(), ..named("request") },
        with(vec![attribute("env", Value::StringValue("prod".to_owned())), attribute("code", Value::IntValue(503))]),
        with(vec![attribute("env", Value::StringValue("test".to_owned())), attribute("ok", Value::BoolValue(true))]),
        with(vec![
            attribute("env", Value::StringValue("prod".to_owned())),
            attribute("env", Value::StringValue("test".to_owned())),
            attribute("code", Value::DoubleValue(5.0)),
        ]),
        with(vec![Attribute { key: "env".to_owned(), value: None }, attribute("raw", Value::BytesValue(vec![1]))]),
    ];
    for (include, expected) in [
        ("{ severity = 'warn' }", &[1, 3][..]),
        ("{ severity = 'warn', kinds = 'log' }", &[1]),
        ("[{ kinds = 'span' }, { name = 'p*' }]", &[2, 3]),
        // The source of the others is the name of their agent.
        ("{ source = 'api' }", &[1, 3, 4, 5, 6, 7]),
        ("{ source = ['web-*', 'x'] }", &[2]),
        ("{ attributes = { env = 'prod' } }", &[4]),
        ("{ attributes = { env = '*' } }", &[4, 5, 6, 7]),
        ("{ attributes = { env = 't*' } }", &[5, 6]),
        ("{ attributes = { env = 't*', ok = true } }", &[5]),
        ("{ attributes = { ok = ['false', 'true'] } }", &[5]),
        ("{ attributes = { code = '5*' } }", &[4]),
        ("{ attributes = { code = 503.0 } }", &[4]),
        ("{ attributes = { code = [1, 5] } }", &[6]),
        ("{ attributes = { raw = 'x*' } }", &[]),
        ("{ attributes = { raw = '*' } }", &[7]),
    ] {
        assert_eq!(kept(&[("include", include)], &events), expected, "{include}");
        let others: Vec<u64> = (1..=7).filter(|position| !expected.contains(position)).collect();
        assert_eq!(kept(&[("exclude", include)], &events), others, "exclude {include}");
    }
    assert_eq!(kept(&[("include", "{ severity = 'warn' }"), ("exclude", "{ kinds = 'span' }")], &events), [1]);
}

/// Each of the most conditions that there may be, on both sides of the borders of sets of 64, is met by one event only.
#[test]
fn each_of_256_conditions_is_the_one_that_is_met() {
    let number = STEP_CONDITIONS_MAX;
    for part in ["name = 'e{}'", "attributes = { n = {} }", "name = 'e{}', attributes = { n = {} }"] {
        let conditions: Vec<String> =
            (0..number).map(|index| format!("{{ {} }}", part.replace("{}", &index.to_string()))).collect();
        let settings = settings(&[("include", &format!("[{}]", conditions.join(", ")))]);
        let events: Vec<Event> = (0..=number)
            .map(|index| {
                let attributes = vec![attribute("n", Value::IntValue(index as i64))];
                Event { attributes, ..named(format!("e{index}")) }
            })
            .collect();
        let delivery = delivery(&events);
        let conditions = conditions::Conditions::new(&settings.include);
        let met: Vec<Option<usize>> =
            delivery.records().map(|record| conditions.evaluation().first_met(&record)).collect();
        let expected: Vec<Option<usize>> = (0..number).map(Some).chain([None]).collect();
        assert_eq!(met, expected, "{part}");
        super::fuzz::check(&settings, EventBatch { events }.encode_to_vec());
    }
}

/// Events that begin with their head, and then have attributes in every place and form that an encoder may write.
#[test]
fn attributes_are_found_wherever_they_lie_behind_the_head() {
    let only = |attributes: Vec<Attribute>| Event { attributes, ..Event::default() }.encode_to_vec();
    let env = |value: &str| attribute("env", Value::StringValue(value.to_owned()));
    let head = Event { severity: 9, ..named("request") };
    let long = attribute("route", Value::StringValue("/x".repeat(100)));
    let tail = Event {
        value: Some(1.5),
        duration_nano: 7,
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        parent_span_id: vec![3; 8],
        ..Event::default()
    };
    // In the second one the value comes before the key; 0xb8 0x3e 0x05 is an unknown field.
    let [key, value] = [&b"\x0a\x03env"[..], b"\x12\x04prod"];
    let reversed = [&[0x3a, 11][..], value, key].concat();
    let unusual = vec![
        attribute("raw", Value::BytesValue(vec![0xff; 20])),
        Attribute { key: "env".to_owned(), value: None },
        attribute("ok", Value::BoolValue(true)),
        attribute("n", Value::IntValue(-5)),
        attribute("x", Value::DoubleValue(0.5)),
    ];
    let body = Event { body: "b".repeat(20_000), ..Event::default() }.encode_to_vec();
    let behind_head = [
        only(vec![env("prod")]),
        reversed,
        [&[0xb8, 0x3e, 5][..], &only(vec![env("prod")])].concat(),
        [tail.encode_to_vec(), only(vec![env("prod")])].concat(),
        [only(vec![env("test")]), tail.encode_to_vec(), only(vec![env("prod")])].concat(),
        [body, only(vec![long.clone(), env("prod")]), tail.encode_to_vec()].concat(),
        only([vec![env("prod")], unusual].concat()),
        [only(vec![long]), tail.encode_to_vec()].concat(),
    ];
    let events = behind_head.iter().map(|rest| [head.encode_to_vec(), rest.clone()].concat());
    let payload: Vec<u8> = events
        .flat_map(|event| {
            let mut field = vec![0x0a];
            prost::encoding::encode_varint(event.len() as u64, &mut field);
            [field, event].concat()
        })
        .collect();
    let counts = check_batch(&payload, behind_head.len(), |_, _, _| {}).unwrap();
    assert_eq!((counts.accepted, counts.are_head_first), (behind_head.len(), true));
    for include in ["env = 'prod'", "env = '*'", "route = '/x*'", "raw = '*'", "ok = true", "n = -5", "x = 0.5"] {
        let settings = settings(&[("include", &format!("{{ attributes = {{ {include} }} }}"))]);
        super::fuzz::check(&settings, payload.clone());
    }
}

#[test]
fn more_keys_than_are_read_at_once_are_found_too() {
    let keys: Vec<String> = (0..40).map(|key| format!("k{key}")).collect();
    let event = Event { attributes: keys.iter().map(|key| attribute(key, Value::IntValue(1))).collect(), ..named("e") };
    let all: Vec<String> = keys.iter().map(|key| format!("{key} = 1")).collect();
    assert_eq!(
        kept(&[("include", &format!("{{ attributes = {{ {} }} }}", all.join(", ")))], std::slice::from_ref(&event)),
        [1]
    );
    let other = format!("{{ attributes = {{ {}, k39 = 2 }} }}", all[..39].join(", "));
    assert_eq!(kept(&[("include", &other)], &[event]).len(), 0);
}

#[test]
fn what_is_left_out_is_counted_by_its_step() {
    let events = [named("a"), named("b"), named("c"), span(1), span(2)];
    let settings = settings(&[
        ("include", "{ name = ['a', 'b', 'span'] }"),
        ("exclude", "{ name = 'b' }"),
        ("sample.keep", "1/1000000"),
    ]);
    let shaped = Steps::new(&settings, SERVER_ID).apply_to_events(delivery(&events));
    let count = |step: FilterStep| shaped.filtered()[step as usize];
    assert_eq!((count(FilterStep::Include), count(FilterStep::Exclude), count(FilterStep::Sample)), (1, 1, 3));
    assert_eq!((shaped.events(), shaped.first_position(), shaped.last_position()), (0, 1, 5));
}

/// The vectors of docs/shaping.md.
#[test]
fn the_hash_is_the_documented_one() {
    let hash = |bytes: &[u8]| xxhash_rust::xxh64::xxh64(bytes, 0);
    assert_eq!(hash(b""), 0xEF46_DB37_51D8_E999);
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/shaping.md")).unwrap();
    let id: Vec<u8> = (0..16).collect();
    let position = [&SERVER_ID[..], &1000_u64.to_be_bytes()].concat();
    for (what, bytes) in [
        ("000102030405060708090a0b0c0d0e0f", id.as_slice()),
        ("api-1", b"api-1"),
        ("5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e00000000000003e8", &position),
    ] {
        let row = format!("| `{what}` | `{:016x}` |", hash(bytes));
        assert!(page.contains(&row), "{row} is not in docs/shaping.md");
    }
}

#[test]
fn a_trace_is_kept_whole_with_its_rate_and_what_is_exempt_without() {
    let mut events: Vec<Event> = (0..=255).flat_map(|trace| [span(trace), span(trace)]).collect();
    events.push(Event { kind: EventKind::Counter.into(), ..span(0) });
    events.push(Event { severity: 17, ..span(1) });
    let settings = settings(&[("sample.keep", "1/10"), ("sample.always", "{ severity = 'error' }")]);
    let shaped = rows(&Steps::new(&settings, SERVER_ID).apply_to_events(delivery(&events)));
    let rate = |event: &Event| event.attributes.iter().find(|attribute| attribute.key == SAMPLE_RATE).cloned();
    let (sampled, others): (Vec<_>, Vec<_>) = shaped.into_iter().partition(|(position, _)| *position <= 512);
    assert!((20..100).contains(&sampled.len()), "{} of 512 spans", sampled.len());
    assert!(sampled.chunks(2).all(|pair| pair[0].1.trace_id == pair[1].1.trace_id));
    assert!(sampled.iter().all(|(_, event)| rate(event) == Some(attribute(SAMPLE_RATE, Value::IntValue(10)))));
    assert_eq!(others.iter().map(|(position, _)| *position).collect::<Vec<_>>(), [513, 514]);
    assert!(others.iter().all(|(_, event)| rate(event).is_none()));
}

#[test]
fn what_is_kept_with_a_larger_number_is_kept_with_a_smaller_one() {
    let events: Vec<Event> = (0..=255).map(span).collect();
    let of = |keep: &str| kept(&[("sample.keep", keep)], &events);
    let (third, tenth, fiftieth) = (of("1/3"), of("1/10"), of("1/50"));
    assert!(tenth.iter().all(|position| third.contains(position)));
    assert!(fiftieth.iter().all(|position| tenth.contains(position)));
}

#[test]
fn an_event_that_was_sampled_before_stands_for_all_and_a_full_one_has_its_rate_too() {
    let before = |value| Event { attributes: vec![attribute(SAMPLE_RATE, value)], ..named("e") };
    let full = (0..EVENT_ATTRIBUTES_MAX).map(|key| attribute(&format!("k{key}"), Value::IntValue(1))).collect();
    let events = [
        before(Value::IntValue(7)),
        before(Value::IntValue(i64::MAX)),
        before(Value::IntValue(0)),
        before(Value::StringValue("7".to_owned())),
        Event { attributes: full, ..named("e") },
    ];
    let sample = SampleSettings { one_in: 1, by: SampleBy::Event, always: vec![] };
    for one_in in [1, 3] {
        let all = Sample::new(&SampleSettings { one_in, ..sample.clone() }, SERVER_ID);
        let rate = |event: &Event| {
            let delivery = delivery(std::slice::from_ref(event));
            let record = delivery.records().next().unwrap();
            all.rate(&record)
        };
        let expected = [7 * i64::from(one_in), i64::MAX, one_in.into(), one_in.into(), one_in.into()];
        assert_eq!(events.iter().map(rate).collect::<Vec<_>>(), expected);
    }
    let shaped = Sample::new(&sample, SERVER_ID).apply(delivery(&events));
    let mut json = Vec::new();
    write_json(&JsonRecord::event(shaped.records().last().unwrap().event), &mut json);
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["attributes"].as_object().unwrap().len(), EVENT_ATTRIBUTES_MAX + 1);
    assert_eq!(json["attributes"]["sample_rate"], 1);
}

#[test]
fn a_step_with_nothing_to_do_copies_nothing() {
    let events: Vec<Event> = (0..20).map(|_| Event { kind: EventKind::Gauge.into(), ..named("g") }).collect();
    let delivery = delivery(&events);
    let shaped = Steps::new(&settings(&[("exclude", "{ name = 'x' }"), ("sample.keep", "1/10")]), SERVER_ID)
        .apply_to_events(delivery.clone());
    assert!(shaped.picks().zip(delivery.picks()).all(|(one, other)| std::ptr::eq(one.payload(), other.payload())));
}

fn any_event() -> impl Strategy<Value = Event> {
    let text = prop_oneof![Just(""), Just("api-1"), Just("api-2"), Just("web")];
    let value = prop_oneof![
        "[ab]{0,2}".prop_map(|text| Some(Value::StringValue(text))),
        (-2_i64..3).prop_map(|number| Some(Value::IntValue(number))),
        (-2_i64..3).prop_map(|number| Some(Value::DoubleValue(number as f64 / 2.0))),
        any::<bool>().prop_map(|flag| Some(Value::BoolValue(flag))),
        Just(Some(Value::BytesValue(vec![1]))),
        Just(None),
    ];
    let key = prop_oneof![Just("a"), Just("b"), Just("sample_rate")];
    let attributes = prop::collection::vec((key, value), 0..4);
    (0_i32..5, 0_i32..25, text.clone(), text, attributes, prop::option::of(0_u8..6)).prop_map(
        |(kind, severity, source, name, attributes, trace)| Event {
            kind,
            severity,
            source: source.to_owned(),
            name: name.to_owned(),
            body: "body".to_owned(),
            attributes: attributes.into_iter().map(|(key, value)| Attribute { key: key.to_owned(), value }).collect(),
            trace_id: trace.map(|trace| vec![trace; 16]).unwrap_or_default(),
            ..Event::default()
        },
    )
}

fn any_conditions() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        Just("kinds = ['log', 'span']"),
        Just("severity = 'warn'"),
        Just("source = ['api-*', '192*']"),
        Just("name = ['web', '*-1']"),
        Just("attributes = { a = ['a*', 1, true], b = '*' }"),
        Just("attributes = { b = ['*b', 0.5] }"),
    ];
    let condition = prop::collection::vec(part, 1..3).prop_map(|mut parts| {
        parts.sort_unstable();
        parts.dedup_by_key(|part| part.split_once(' ').map(|(key, _)| key));
        format!("{{ {} }}", parts.join(", "))
    });
    prop::collection::vec(condition, 0..3).prop_map(|conditions| format!("[{}]", conditions.join(", ")))
}

/// So many conditions that they are more than one set, of which an event meets one in any set, or none.
fn many_conditions() -> impl Strategy<Value = String> {
    let condition = (0_usize..6, 0_u32..4).prop_map(|(part, number)| match part {
        0 => "{ source = 'api-2', severity = 24 }".to_owned(),
        1 => format!("{{ name = 'none-{number}' }}"),
        2 => format!("{{ source = 'web-{number}', kinds = 'span' }}"),
        3 => format!("{{ attributes = {{ a = {number}, b = 'b*' }} }}"),
        4 => format!("{{ severity = {}, kinds = 'gauge' }}", 20 + number),
        _ => format!("{{ attributes = {{ k{number} = '*' }} }}"),
    });
    prop::collection::vec(condition, 60..200).prop_map(|conditions| format!("[{}]", conditions.join(", ")))
}

/// As [`any_settings`].
fn settings_with_many_conditions() -> impl Strategy<Value = StepSettings> {
    (many_conditions(), any_conditions(), many_conditions()).prop_map(|(include, exclude, always)| {
        settings(&[
            ("include", &include),
            ("exclude", &exclude),
            ("sample.keep", "1/3"),
            ("sample.by", "event"),
            ("sample.always", &always),
        ])
    })
}

fn any_settings() -> impl Strategy<Value = StepSettings> {
    let by = prop_oneof![Just("trace_id"), Just("source"), Just("name"), Just("attributes.a"), Just("event")];
    (any_conditions(), any_conditions(), 1_u32..5, by, any_conditions()).prop_map(
        |(include, exclude, keep, by, always)| {
            let keep = format!("1/{keep}");
            settings(&[
                ("include", &include),
                ("exclude", &exclude),
                ("sample.keep", &keep),
                ("sample.by", by),
                ("sample.always", &always),
            ])
        },
    )
}

proptest! {
    #[test]
    fn the_steps_are_what_their_definition_says(
        settings in any_settings(),
        events in prop::collection::vec(any_event(), 1..40),
    ) {
        super::fuzz::check(&settings, EventBatch { events }.encode_to_vec());
    }

    #[test]
    fn more_conditions_than_a_set_holds_are_what_their_definition_says(
        settings in settings_with_many_conditions(),
        events in prop::collection::vec(any_event(), 1..20),
    ) {
        super::fuzz::check(&settings, EventBatch { events }.encode_to_vec());
    }

    #[test]
    fn a_delivery_in_pieces_or_once_more_has_the_same_result(
        settings in any_settings(),
        events in prop::collection::vec(any_event(), 1..40),
        pieces in prop::collection::vec(1_usize..10, 40),
        max_events in 1_u64..50,
    ) {
        let steps = Steps::new(&settings, SERVER_ID);
        let whole = delivery(&events);
        let expected = steps.apply_to_events(whole.clone());
        prop_assert_eq!(rows(&steps.apply_to_events(whole)), rows(&expected));
        let mut open = Open::default();
        let (mut first, mut rest) = (1, events.as_slice());
        for piece in pieces {
            let (piece, others) = rest.split_at(piece.min(rest.len()));
            if !piece.is_empty() {
                open.add(&steps, delivery_of(batch_of(first, vec![piece.to_vec()])), 1);
            }
            first += piece.len() as u64;
            rest = others;
        }
        let settings = BatchSettings { max_events, max_bytes: usize::MAX, max_age: Duration::ZERO };
        prop_assert_eq!(open.is_full(settings), expected.events() * 4 >= max_events * 3);
        let joined = open.close(&steps).unwrap();
        prop_assert!(open.is_empty());
        prop_assert_eq!(rows(&joined), rows(&expected));
        prop_assert_eq!(joined.filtered(), expected.filtered());
        prop_assert_eq!(joined.last_position(), events.len() as u64);
    }
}

/// A step of all events: puts them into one row.
struct One;

impl Step for One {
    fn apply(&self, delivery: Delivery) -> Delivery {
        let mut builder = crate::batch::Builder::default();
        builder.begin(&delivery);
        builder.whole();
        let event = named("one").encode_to_vec();
        let (position, originals) = (delivery.last_position(), u32::try_from(delivery.originals()).unwrap());
        let origin = Arc::new(origin());
        builder.row(&crate::batch::MadeRow {
            position,
            received_unix_nano: 1,
            origin: &origin,
            originals,
            event: &event,
        });
        builder.finish().unwrap()
    }
}

#[test]
fn a_step_of_all_events_sees_what_the_others_left_of_all_pieces() {
    let half = Half;
    let steps = Steps { of_events: vec![Box::new(half)], of_deliveries: vec![Box::new(One)], ..Steps::default() };
    let mut open = Open::default();
    for first in [1, 5] {
        open.add(&steps, delivery_of(batch_of(first, vec![(0..4).map(|_| named("e")).collect()])), 7);
    }
    assert_eq!(open.oldest_unix_nano(), Some(7));
    let delivery = open.close(&steps).unwrap();
    assert_eq!((delivery.events(), delivery.originals(), delivery.filtered()), (1, 4, &[0, 0, 4]));
    assert!(delivery.is_whole());
}

/// Keeps even positions.
struct Half;

impl Step for Half {
    fn apply(&self, delivery: Delivery) -> Delivery {
        delivery.shaped(|record, _| match record.position % 2 {
            0 => Fate::Keep,
            _ => Fate::Filter(FilterStep::Sample),
        })
    }
}

#[test]
fn the_last_value_of_a_field_decides_wherever_it_lies() {
    let head = |event: Event| event.encode_to_vec();
    let body = |event: Event| Event { body: "b".to_owned(), ..event }.encode_to_vec();
    let mild = || Event { severity: 9, source: "web".to_owned(), ..named("request") };
    let bad = || Event { severity: 17, source: "db".to_owned(), ..Event::default() };
    // A severity of 9 or 17 in more bytes than it needs.
    let (long_mild, long_bad) = (vec![0x18, 0x89, 0], vec![0x18, 0x91, 0]);
    let events = [
        body(mild()),
        body(bad()),
        [body(mild()), head(bad())].concat(),
        [body(bad()), head(mild())].concat(),
        [head(mild()), head(bad()), body(Event::default())].concat(),
        [long_bad.clone(), body(Event::default())].concat(),
        [long_mild, body(Event::default()), long_bad].concat(),
    ];
    let batch = |events: &[Vec<u8>]| {
        let mut payload = Vec::new();
        for event in events {
            payload.extend([0x0A, event.len() as u8]);
            payload.extend(event);
        }
        payload
    };
    for include in ["{ severity = 'error' }", "{ source = 'db' }", "{ severity = 'error', source = ['db', 'test'] }"] {
        let settings = settings(&[("include", include)]);
        super::fuzz::check(&settings, batch(&events));
        // By itself each is of a batch whose heads come first, or do not.
        events.iter().for_each(|event| super::fuzz::check(&settings, batch(std::slice::from_ref(event))));
    }
}
