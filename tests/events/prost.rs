//! The in-place parser agrees with prost: over generated events, over damaged ones, and over noise.

use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use telemetryx::event::EventRef;
use telemetryx::event::fuzz::{compare_event, compare_with_prost};
use telemetryx::event::proto::attribute::Value;
use telemetryx::event::proto::{Attribute, Event, EventBatch};

fn text(bytes: usize) -> impl Strategy<Value = String> {
    prop_oneof![
        3 => vec(proptest::char::range(' ', '~'), 0..=bytes.min(80)).prop_map(String::from_iter),
        1 => vec(any::<char>(), 0..=bytes / 4).prop_map(String::from_iter),
        1 => Just("ä".repeat(bytes / 2)),
    ]
}

fn extreme() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(1),
        Just(i64::MAX as u64),
        Just(i64::MAX as u64 + 1),
        Just(u64::MAX),
        any::<u64>(),
        any::<u64>().prop_map(|n| n >> 1),
    ]
}

fn attribute() -> impl Strategy<Value = Attribute> {
    let value = prop_oneof![
        text(300).prop_map(Value::StringValue),
        extreme().prop_map(|n| Value::IntValue(n as i64)),
        any::<u64>().prop_map(|bits| Value::DoubleValue(f64::from_bits(bits))),
        any::<bool>().prop_map(Value::BoolValue),
        vec(any::<u8>(), 0..200).prop_map(Value::BytesValue),
    ];
    (prop_oneof![9 => "[a-z.]{1,20}", 1 => text(132)], proptest::option::weighted(0.9, value))
        .prop_map(|(key, value)| Attribute { key, value })
}

fn id(bytes: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![4 => vec(any::<u8>(), bytes), 4 => Just(Vec::new()), 1 => vec(any::<u8>(), 0..bytes + 2)]
}

prop_compose! {
    fn event()(
        (time_unix_nano, duration_nano) in (extreme(), extreme()),
        kind in prop_oneof![9 => 0..7, 1 => any::<i32>()],
        severity in prop_oneof![9 => 0..25, 1 => any::<i32>()],
        (source, name, body) in (text(258), text(258), prop_oneof![9 => text(400), 1 => text(66_000)]),
        attributes in prop_oneof![9 => vec(attribute(), 0..8), 1 => vec(attribute(), 120..135)],
        value in proptest::option::of(any::<u64>().prop_map(f64::from_bits)),
        (trace_id, span_id, parent_span_id) in (id(16), id(8), id(8)),
    ) -> Event {
        Event {
            time_unix_nano, kind, severity, source, name, body, attributes, value, duration_nano, trace_id, span_id,
            parent_span_id,
        }
    }
}

/// One field with any number and wire type: known or not, sound or not.
fn field() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![0..20u32, Just((1 << 29) - 1)];
    let content = prop_oneof![
        extreme().prop_map(|n| varint(n, 0)),
        (extreme(), 0..4usize).prop_map(|(n, padding)| varint(n, padding)),
        vec(any::<u8>(), 0..12),
        vec(any::<u8>(), 8),
        attribute().prop_map(|attribute| attribute.encode_to_vec()),
    ];
    (number, 0..8u32, content, any::<bool>(), 0..3usize).prop_map(|(number, wire_type, content, close, padding)| {
        let mut bytes = varint(u64::from(number << 3 | wire_type), padding);
        if wire_type == WireType::LengthDelimited as u32 {
            encode_varint(content.len() as u64, &mut bytes);
        }
        bytes.extend(content);
        if wire_type == WireType::StartGroup as u32 && close && number > 0 {
            encode_key(number, WireType::EndGroup, &mut bytes);
        }
        bytes
    })
}

/// A varint, longer than it needs to be.
fn varint(value: u64, padding: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_varint(value, &mut bytes);
    for _ in 0..padding {
        *bytes.last_mut().unwrap() |= 0x80;
        bytes.push(0);
    }
    bytes
}

#[derive(Debug, Clone)]
enum Damage {
    Flip(u8),
    Set(u8),
    Truncate,
    Insert(Vec<u8>),
    Remove(usize),
    Double(usize),
}

fn damage() -> impl Strategy<Value = (prop::sample::Index, Damage)> {
    let damage = prop_oneof![
        (0..8u8).prop_map(|bit| Damage::Flip(1 << bit)),
        prop_oneof![any::<u8>(), Just(0), Just(0xFF), Just(0x80)].prop_map(Damage::Set),
        Just(Damage::Truncate),
        prop_oneof![vec(any::<u8>(), 1..4), field()].prop_map(Damage::Insert),
        (1..20usize).prop_map(Damage::Remove),
        (1..20usize).prop_map(Damage::Double),
    ];
    (any::<prop::sample::Index>(), damage)
}

fn damaged(mut bytes: Vec<u8>, damages: &[(prop::sample::Index, Damage)]) -> Vec<u8> {
    for (index, damage) in damages {
        if bytes.is_empty() {
            break;
        }
        let at = index.index(bytes.len());
        match damage {
            Damage::Flip(bit) => bytes[at] ^= bit,
            Damage::Set(byte) => bytes[at] = *byte,
            Damage::Truncate => bytes.truncate(at),
            Damage::Insert(new) => drop(bytes.splice(at..at, new.iter().copied())),
            Damage::Remove(count) => drop(bytes.drain(at..(at + count).min(bytes.len()))),
            Damage::Double(count) => {
                let part = bytes[at..(at + count).min(bytes.len())].to_vec();
                bytes.splice(at..at, part);
            }
        }
    }
    bytes
}

proptest! {
    #[test]
    fn agrees_with_prost_over_events(event in event()) {
        let bytes = event.encode_to_vec();
        compare_with_prost(&bytes);
        if let Ok(view) = EventRef::check(&bytes) {
            compare_event(&view, &event);
        }
    }

    #[test]
    fn agrees_with_prost_over_batches(events in vec(event(), 0..5)) {
        compare_with_prost(&EventBatch { events }.encode_to_vec());
    }

    #[test]
    fn agrees_with_prost_over_doubled_and_unknown_fields(event in event(), other in event(), fields in vec(field(), 0..4)) {
        let mut bytes = event.encode_to_vec();
        bytes.extend(fields.concat());
        bytes.extend(other.encode_to_vec());
        compare_with_prost(&bytes);
    }

    #[test]
    fn agrees_with_prost_over_damaged_batches(events in vec(event(), 1..3), damages in vec(damage(), 1..4)) {
        compare_with_prost(&damaged(EventBatch { events }.encode_to_vec(), &damages));
    }

    #[test]
    fn agrees_with_prost_over_damaged_small_events(
        attributes in vec(attribute(), 0..3), name in "[a-z]{0,4}", damages in vec(damage(), 1..5)
    ) {
        let event = Event { name, attributes, severity: -1, value: Some(1.0), ..Event::default() };
        compare_with_prost(&damaged(event.encode_to_vec(), &damages));
    }

    #[test]
    fn agrees_with_prost_over_fields(fields in vec(field(), 0..8)) {
        compare_with_prost(&fields.concat());
    }

    #[test]
    fn agrees_with_prost_over_noise(bytes in vec(any::<u8>(), 0..64)) {
        compare_with_prost(&bytes);
    }
}

#[test]
fn agrees_with_prost_on_the_depth_of_groups() {
    for field in [1, 7, 13] {
        for depth in 95..105 {
            for inner in [&[][..], &[0x78, 0x01]] {
                let mut bytes = vec![];
                (0..depth).for_each(|_| encode_key(field, WireType::StartGroup, &mut bytes));
                bytes.extend_from_slice(inner);
                (0..depth).for_each(|_| encode_key(field, WireType::EndGroup, &mut bytes));
                compare_with_prost(&bytes);
                // The same within an attribute.
                let mut event = vec![0x2a, 1, b'n', 0x3a];
                encode_varint(bytes.len() as u64, &mut event);
                event.extend_from_slice(&bytes);
                compare_with_prost(&event);
            }
        }
    }
}

#[test]
fn agrees_with_prost_on_every_short_input() {
    for a in 0..=255 {
        compare_with_prost(&[a]);
        for b in 0..=255 {
            compare_with_prost(&[a, b]);
            compare_with_prost(&[0x2a, 1, b'n', a, b]);
            compare_with_prost(&[0x3a, 3, a, b, 0]);
        }
    }
}

#[test]
fn agrees_with_prost_on_every_prefix_and_every_changed_byte() {
    let attributes = [
        Value::StringValue("ü".repeat(70)),
        Value::IntValue(-1),
        Value::DoubleValue(0.5),
        Value::BoolValue(true),
        Value::BytesValue(vec![0xFF]),
    ];
    let event = Event {
        time_unix_nano: 1_795_464_948_123_456_789,
        kind: 4,
        severity: 9,
        source: "api".to_owned(),
        name: "request".to_owned(),
        body: "x".repeat(130),
        attributes: attributes.map(|value| Attribute { key: "k".to_owned(), value: Some(value) }).to_vec(),
        value: Some(-0.0),
        duration_nano: 1,
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        parent_span_id: vec![3; 8],
    };
    let bytes = event.encode_to_vec();
    for place in 0..bytes.len() {
        compare_with_prost(&bytes[..place]);
        for byte in [0, 1, 0x3a, 0x7f, 0x80, 0xff, bytes[place] ^ 1, bytes[place] ^ 4, bytes[place].wrapping_sub(1)] {
            let mut changed = bytes.clone();
            changed[place] = byte;
            compare_with_prost(&changed);
        }
    }
}
