//! Events at the extremes of every field, and how each must come back.

use serde_json::Value;

use super::{RECEIVED_UNIX_NANO, Row, SERVER_ID, Store};
use crate::batch::Origin;
use crate::event::proto::{Attribute, Event, attribute};
use crate::event::rfc3339;
use crate::limits;
use crate::sink::uuid;

const TEXTS: &[&str] = &[
    "plain",
    " ",
    "a\0b\0",
    "\0",
    "\\u0000 \\\\u0000 \\N \\. \\x00",
    "emoji 👩‍👩‍👧‍👦 🏳️‍🌈",
    "right to left: שלום \u{202e}abc\u{202c} العربية",
    "quotes ' \" ` '' \\' \\\" $$ ; DROP TABLE events; --",
    "line\nend\r\n\ttab \u{2028} \u{7f} \u{1} \u{1f}",
    "\u{FFFD}\u{FFFF}\u{10FFFF}\u{feff}",
    "e\u{301} é",
];

const DOUBLES: &[f64] = &[
    0.0,
    -0.0,
    0.1,
    1.0,
    -1.5,
    1e16,
    1e20,
    f64::MAX,
    f64::MIN,
    f64::MIN_POSITIVE,
    5e-324,
    f64::EPSILON,
    f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
];

const INTEGERS: &[i64] = &[0, 1, -1, i64::MAX, i64::MIN, (1 << 53) + 1, -(1 << 53) - 1];

const TIMES: &[u64] = &[1, 999, 1_000, 946_684_800_000_000_000, 1_767_323_045_123_456_789, limits::TIME_UNIX_NANO_MAX];

/// One event for each extreme of each field.
pub(crate) fn every_field() -> Vec<Event> {
    let base = || Event { name: "e".into(), ..Event::default() };
    let mut events = vec![base(), Event { body: "no name".into(), ..Event::default() }];
    for text in TEXTS {
        let text = (*text).to_owned();
        events.push(Event { name: text.clone(), ..base() });
        events.push(Event { source: text.clone(), ..base() });
        events.push(Event { body: text.clone(), ..base() });
        events.push(Event { attributes: vec![string(&text, &text), string("after", &text)], ..base() });
    }
    events.extend(DOUBLES.iter().map(|value| Event { value: Some(*value), ..base() }));
    events.extend(TIMES.iter().map(|time| Event { time_unix_nano: *time, duration_nano: *time, ..base() }));
    events.extend((0..=limits::SEVERITY_MAX).map(|severity| Event { severity, ..base() }));
    events.extend((0..=4).map(|kind| Event { kind, ..base() }));
    for byte in [0, 0x5c, 0xff] {
        let (trace_id, span_id) = (vec![byte; 16], vec![byte; 8]);
        events.push(Event { trace_id, span_id: span_id.clone(), parent_span_id: span_id, ..base() });
    }
    let name = "n".repeat(limits::EVENT_NAME_BYTES_MAX);
    events.push(Event { name: name.clone(), source: name, ..base() });
    events.push(Event { body: "x".repeat(limits::EVENT_BODY_BYTES_MAX), ..base() });
    events.push(Event { body: "é".repeat(limits::EVENT_BODY_BYTES_MAX / 2), ..base() });
    events.push(Event { body: "\0".repeat(limits::EVENT_BODY_BYTES_MAX), ..base() });
    let value = |value| Event { attributes: vec![attribute("k", value)], ..base() };
    events.extend(DOUBLES.iter().map(|number| value(attribute::Value::DoubleValue(*number))));
    events.extend(INTEGERS.iter().map(|number| value(attribute::Value::IntValue(*number))));
    events.extend([true, false].map(|yes| value(attribute::Value::BoolValue(yes))));
    events.push(value(attribute::Value::StringValue(String::new())));
    events.push(value(attribute::Value::BytesValue(Vec::new())));
    events.push(value(attribute::Value::BytesValue((0..=255).collect())));
    events.push(Event { attributes: vec![Attribute { key: "unset".into(), value: None }], ..base() });
    // The later one wins.
    events.push(Event { attributes: vec![string("twice", "first"), string("twice", "second")], ..base() });
    events.push(Event { attributes: vec![string(&"k".repeat(limits::ATTRIBUTE_KEY_BYTES_MAX), "")], ..base() });
    events
}

/// 10,000 keys and more in one delivery, as many in an event as one may have.
pub(super) fn many_keys() -> Vec<Event> {
    let event = |event| {
        let attributes =
            (0..limits::EVENT_ATTRIBUTES_MAX).map(|key| string(&format!("key.{event}.{key}"), "v")).collect();
        Event { name: "keys".into(), attributes, ..Event::default() }
    };
    (0..10_000_usize.div_ceil(limits::EVENT_ATTRIBUTES_MAX)).map(event).collect()
}

fn attribute(key: &str, value: attribute::Value) -> Attribute {
    Attribute { key: key.into(), value: Some(value) }
}

fn string(key: &str, value: &str) -> Attribute {
    attribute(key, attribute::Value::StringValue(value.into()))
}

/// How the event must come back from the store.
pub(super) fn row<S: Store>(position: u64, event: &Event, origin: &Origin) -> Row {
    let time = |nanos| String::from_utf8(rfc3339::format(nanos).to_vec()).expect("ASCII");
    let text = |text: &str| if S::REPLACES_NUL { text.replace('\0', "\u{FFFD}") } else { text.to_owned() };
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut row = Row::new();
    let mut set = |name: &str, value: Value| row.insert(name.to_owned(), value);
    set("server_id", uuid(&SERVER_ID).into());
    set("position", position.into());
    set("received_at", time(RECEIVED_UNIX_NANO).into());
    set("time", time(if event.time_unix_nano == 0 { RECEIVED_UNIX_NANO } else { event.time_unix_nano }).into());
    set("kind", ["log", "log", "gauge", "counter", "span"][event.kind as usize].into());
    if event.severity != 0 {
        set("severity", event.severity.into());
    }
    set("source", text(if event.source.is_empty() { &origin.default_source } else { &event.source }).into());
    for (name, value) in [("name", &event.name), ("body", &event.body)] {
        if !value.is_empty() {
            set(name, text(value).into());
        }
    }
    if let Some(value) = event.value.filter(|value| !(value.is_nan() && S::NAN_IS_UNSET)) {
        set("value", number(value));
    }
    if event.duration_nano != 0 {
        set("duration_nano", event.duration_nano.into());
    }
    for (name, id) in
        [("trace_id", &event.trace_id), ("span_id", &event.span_id), ("parent_span_id", &event.parent_span_id)]
    {
        if !id.is_empty() {
            set(name, hex(id).into());
        }
    }
    if let Some(agent) = &origin.agent {
        set("agent", agent.as_str().into());
    }
    let mut attributes = Row::new();
    for Attribute { key, value } in &event.attributes {
        let value = match value {
            None => Value::Null,
            Some(attribute::Value::StringValue(value)) => text(value).into(),
            Some(attribute::Value::IntValue(value)) => (*value).into(),
            Some(attribute::Value::DoubleValue(value)) => number(*value),
            Some(attribute::Value::BoolValue(value)) => (*value).into(),
            Some(attribute::Value::BytesValue(bytes)) => base64(bytes).into(),
        };
        attributes.insert(text(key), value);
    }
    if !attributes.is_empty() {
        row.insert("attributes".into(), attributes.into());
    }
    row
}

/// What JSON has no number for is text.
pub(crate) fn number(number: f64) -> Value {
    match number {
        f64::INFINITY => "Infinity".into(),
        f64::NEG_INFINITY => "-Infinity".into(),
        number if number.is_nan() => "NaN".into(),
        number => number.into(),
    }
}

/// The plain way: all bits in a row, six at a time.
fn base64(bytes: &[u8]) -> String {
    let letters: Vec<char> = ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(['+', '/']).collect();
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    let mut text: String = bits
        .chunks(6)
        .map(|six| letters[(0..6).fold(0, |number, bit| number << 1 | usize::from(*six.get(bit).unwrap_or(&0)))])
        .collect();
    while !text.len().is_multiple_of(4) {
        text.push('=');
    }
    text
}

/// Numbers are compared by what they are: a store may write 1e16 with all its digits.
#[track_caller]
pub(super) fn assert_same(stored: &Row, expected: &Row) {
    fn same(stored: &Value, expected: &Value) -> bool {
        match (stored, expected) {
            (Value::Number(stored), Value::Number(expected)) if stored.is_f64() || expected.is_f64() => {
                stored.as_f64() == expected.as_f64()
            }
            (Value::Object(stored), Value::Object(expected)) => same_fields(stored, expected),
            (stored, expected) => stored == expected,
        }
    }
    fn same_fields(stored: &Row, expected: &Row) -> bool {
        stored.len() == expected.len()
            && expected.iter().all(|(name, expected)| stored.get(name).is_some_and(|stored| same(stored, expected)))
    }
    assert!(same_fields(stored, expected), "stored   {stored:?}\nexpected {expected:?}");
}
