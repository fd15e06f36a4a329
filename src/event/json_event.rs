//! One event in JSON, read from serde_json as it comes and appended to a [`Draft`]. The rules are those of `json`.
//!
//! What is wrong with an event is noted in its draft and the reading goes on, so that only JSON that is not well-formed
//! ends it. Every value of JSON stands at a [`Place`]: an event, one of its fields, an attribute, or within an array.

use std::fmt;
use std::ops::Range;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::draft::Draft;
use super::foreign::{EarlyTime, FractionalTime, KindHint, SeverityHint};
use super::json_key::{Field, Key, KeySeed, Quoted};
use super::json_map::{self, Filled};
use super::json_options::{JsonOptions, UnknownKeys};
use super::json_quick::{Trials, read_event};
use super::proto::EventKind;
use super::rfc3339;
use super::view::{
    AttributeValue, BODY, DURATION_NANO, KIND, NAME, PARENT_SPAN_ID, SEVERITY, SOURCE, SPAN_ID, TIME_UNIX_NANO,
    TRACE_ID, VALUE,
};
use crate::limits::{ATTRIBUTE_KEY_BYTES_MAX, EVENT_BYTES_MAX, JSON_DEPTH_MAX, JSON_TIME_UNIX_NANO_MIN, SEVERITY_MAX};

/// Buffers that are reused from event to event.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// The event that is being read.
    pub draft: Draft,
    /// How events are read.
    pub options: JsonOptions,
    /// Names of the objects around an attribute, joined by dots.
    pub(super) path: String,
    /// The JSON text of an array, or the digits of a time.
    pub(super) array: Vec<u8>,
    /// Which fields of a mapped event are filled.
    pub(super) filled: Filled,
    /// Whether ordinary events are read by `json_quick`.
    pub(super) knows_ordinary: bool,
    /// Where they are encoded.
    pub(super) room: Vec<u8>,
    /// Which events might be ordinary.
    pub(super) trials: Trials,
}

impl Scratch {
    /// Begins the next event.
    pub(super) fn begin(&mut self) {
        self.draft.clear();
        if self.options.map.is_some() {
            self.filled = Filled::default();
        }
    }

    /// Reads the event at the beginning of `text` if it is ordinary, as [`read_event`], into `room`.
    #[inline]
    pub(super) fn read_ordinary<'t>(&mut self, text: &'t [u8]) -> Option<(Range<usize>, &'t [u8])> {
        if !self.trials.is_due() {
            return None;
        }
        let read = read_event(text, &mut self.room);
        self.trials.note(read.is_some());
        read
    }

    /// As [`Scratch::make_room`], for events like the one in the draft.
    pub(super) fn make_room_for_more(&mut self) {
        self.make_room(self.draft.event().len());
    }

    /// Makes room for ordinary events of about so many bytes, as JSON or encoded.
    pub(super) fn make_room(&mut self, bytes: usize) {
        // Few encoded events are longer than their JSON; texts are copied in pieces, the last of which may reach further.
        let bytes = (2 * bytes + 64).min(EVENT_BYTES_MAX + 64);
        if bytes > self.room.len() && self.knows_ordinary {
            self.room.resize(bytes, 0);
        }
    }

    /// The path is this key of the event itself.
    pub(super) fn set_path(&mut self, key: &str) {
        self.path.clear();
        self.push_path(key, false);
    }

    /// Appends a name to the path; refuses the event instead if the path becomes too long.
    fn push_path(&mut self, name: &str, is_nested: bool) {
        let Self { draft, path, .. } = self;
        if path.len() + usize::from(is_nested) + name.len() > ATTRIBUTE_KEY_BYTES_MAX {
            draft.refuse(format_args!(
                "the key of attribute {} has more than {ATTRIBUTE_KEY_BYTES_MAX} bytes",
                Quoted(name)
            ));
            return;
        }
        if is_nested {
            path.push('.');
        }
        path.push_str(name);
    }
}

/// A value that is neither array nor object.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scalar<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// An integer within i64.
    Int(i64),
    /// An integer beyond i64.
    Unsigned(u64),
    /// Any other number.
    Double(f64),
    /// A string.
    Text(&'a str),
}

/// Where a value stands, and so what it means.
pub(super) trait Place<'de>: Sized {
    /// Takes a value that is neither array nor object.
    fn scalar(self, value: Scalar<'_>);
    /// Reads an array to its end.
    ///
    /// # Errors
    /// The JSON is not well-formed.
    fn array<A: SeqAccess<'de>>(self, array: A) -> Result<(), A::Error>;
    /// Reads an object to its end.
    ///
    /// # Errors
    /// The JSON is not well-formed.
    fn object<A: MapAccess<'de>>(self, object: A) -> Result<(), A::Error>;
}

/// A place, as serde requires it.
pub(super) struct At<P>(pub P);

impl<'de, P: Place<'de>> DeserializeSeed<'de> for At<P> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de, P: Place<'de>> Visitor<'de> for At<P> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.0.scalar(Scalar::Null);
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.0.scalar(Scalar::Bool(value));
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.0.scalar(Scalar::Int(value));
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.0.scalar(i64::try_from(value).map_or(Scalar::Unsigned(value), Scalar::Int));
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.0.scalar(Scalar::Double(value));
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.0.scalar(Scalar::Text(value));
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, array: A) -> Result<(), A::Error> {
        self.0.array(array)
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<(), A::Error> {
        self.0.object(object)
    }
}

fn skip_array<'de, A: SeqAccess<'de>>(mut array: A) -> Result<(), A::Error> {
    while array.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}

fn skip_object<'de, A: MapAccess<'de>>(mut object: A) -> Result<(), A::Error> {
    while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(())
}

/// The place of an event: the draft holds it, or why it is refused, afterwards.
pub(super) struct EventPlace<'s>(pub &'s mut Scratch);

const NO_OBJECT: &str = "an event must be an object";

impl<'de> Place<'de> for EventPlace<'_> {
    fn scalar(self, _: Scalar<'_>) {
        self.0.draft.clear();
        self.0.draft.refuse(NO_OBJECT);
    }

    fn array<A: SeqAccess<'de>>(self, array: A) -> Result<(), A::Error> {
        self.0.draft.clear();
        self.0.draft.refuse(NO_OBJECT);
        skip_array(array)
    }

    fn object<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        self.0.begin();
        let first = object.next_key_seed(KeySeed(self.0))?;
        read_fields(self.0, &mut object, first)
    }
}

/// Reads the fields of an event from its first key on.
pub(super) fn read_fields<'de, A: MapAccess<'de>>(
    scratch: &mut Scratch,
    object: &mut A,
    first: Option<Key>,
) -> Result<(), A::Error> {
    let mut next = first;
    while let Some(mut key) = next {
        if key == Key::Events {
            match scratch.options.unknown {
                UnknownKeys::Reject => {
                    scratch.draft.refuse("unknown key `events`: an envelope has no keys of an event");
                }
                UnknownKeys::Attributes => {
                    scratch.set_path("events");
                    key = Key::Attribute;
                }
            }
        }
        match key {
            Key::Field(field) if !scratch.draft.is_refused() => {
                object.next_value_seed(At(FieldPlace { scratch: &mut *scratch, field }))?;
            }
            Key::Attribute if !scratch.draft.is_refused() => {
                object.next_value_seed(At(AttributePlace { scratch: &mut *scratch, depth: 2 }))?;
            }
            _ => {
                object.next_value::<IgnoredAny>()?;
            }
        }
        next = object.next_key_seed(KeySeed(scratch))?;
    }
    if scratch.options.map.is_some() {
        json_map::finish(scratch);
    }
    Ok(())
}

struct FieldPlace<'s> {
    scratch: &'s mut Scratch,
    field: Field,
}

impl<'de> Place<'de> for FieldPlace<'_> {
    fn scalar(self, value: Scalar<'_>) {
        let Scratch { draft, options, array, .. } = self.scratch;
        if let (Field::Time, Some(unit), Scalar::Int(_) | Scalar::Unsigned(_) | Scalar::Double(_)) =
            (self.field, options.time, value)
        {
            return json_map::put_numeric_time(draft, "time", unit, value, array);
        }
        match (self.field, value) {
            (_, Scalar::Null) => {}
            (Field::Time, Scalar::Int(nanoseconds @ 0..)) => match nanoseconds as u64 {
                1..JSON_TIME_UNIX_NANO_MIN => draft.refuse(EarlyTime(nanoseconds)),
                nanoseconds => draft.put_fixed64(TIME_UNIX_NANO, nanoseconds),
            },
            (Field::Time, Scalar::Double(number)) => draft.refuse(FractionalTime(number)),
            (Field::Time, Scalar::Text(text)) => match rfc3339::parse(text) {
                Ok(nanoseconds) => draft.put_fixed64(TIME_UNIX_NANO, nanoseconds),
                Err(error) => draft.refuse(format_args!("`time` is {}: {error}", Quoted(text))),
            },
            (Field::Kind, Scalar::Text(text)) => match kind_from_name(text) {
                Some(kind) => draft.put_varint(KIND, kind as u64),
                None => draft.refuse(format_args!("{}, not {}{}", self.field.expected(), Quoted(text), KindHint(text))),
            },
            (Field::Severity, Scalar::Int(number)) if (0..=i64::from(SEVERITY_MAX)).contains(&number) => {
                draft.put_varint(SEVERITY, number as u64);
            }
            (Field::Severity, Scalar::Text(text)) => match severity_from_name(text) {
                Some(number) => draft.put_varint(SEVERITY, number),
                None => {
                    draft.refuse(format_args!("{}, not {}{}", self.field.expected(), Quoted(text), SeverityHint(text)));
                }
            },
            (Field::Source, Scalar::Text(text)) => draft.put_bytes(SOURCE, text.as_bytes()),
            (Field::Name, Scalar::Text(text)) => draft.put_bytes(NAME, text.as_bytes()),
            (Field::Body, Scalar::Text(text)) => draft.put_bytes(BODY, text.as_bytes()),
            (Field::Value, Scalar::Int(number)) => draft.put_fixed64(VALUE, (number as f64).to_bits()),
            (Field::Value, Scalar::Unsigned(number)) => draft.put_fixed64(VALUE, (number as f64).to_bits()),
            (Field::Value, Scalar::Double(number)) => draft.put_fixed64(VALUE, number.to_bits()),
            (Field::Value, Scalar::Text("NaN")) => draft.put_fixed64(VALUE, f64::NAN.to_bits()),
            (Field::Value, Scalar::Text("Infinity")) => draft.put_fixed64(VALUE, f64::INFINITY.to_bits()),
            (Field::Value, Scalar::Text("-Infinity")) => draft.put_fixed64(VALUE, f64::NEG_INFINITY.to_bits()),
            (Field::DurationNano, Scalar::Int(nanoseconds @ 0..)) => {
                draft.put_fixed64(DURATION_NANO, nanoseconds as u64);
            }
            (Field::TraceId, Scalar::Text(text)) => put_id::<16>(draft, TRACE_ID, self.field, text),
            (Field::SpanId, Scalar::Text(text)) => put_id::<8>(draft, SPAN_ID, self.field, text),
            (Field::ParentSpanId, Scalar::Text(text)) => put_id::<8>(draft, PARENT_SPAN_ID, self.field, text),
            (field, _) => draft.refuse(field.expected()),
        }
    }

    fn array<A: SeqAccess<'de>>(self, array: A) -> Result<(), A::Error> {
        self.scratch.draft.refuse(self.field.expected());
        skip_array(array)
    }

    fn object<A: MapAccess<'de>>(self, object: A) -> Result<(), A::Error> {
        if self.field != Field::Attributes {
            self.scratch.draft.refuse(self.field.expected());
            return skip_object(object);
        }
        self.scratch.path.clear();
        read_attributes(self.scratch, object, 2, false)
    }
}

fn kind_from_name(name: &str) -> Option<EventKind> {
    Some(match name {
        "log" => EventKind::Log,
        "gauge" => EventKind::Gauge,
        "counter" => EventKind::Counter,
        "span" => EventKind::Span,
        "histogram" => EventKind::Histogram,
        "summary" => EventKind::Summary,
        _ => return None,
    })
}

/// The lowest number of a name's range in OpenTelemetry.
pub fn severity_from_name(name: &str) -> Option<u64> {
    Some(match name {
        "trace" => 1,
        "debug" => 5,
        "info" => 9,
        "warn" => 13,
        "error" => 17,
        "fatal" => 21,
        _ => return None,
    })
}

fn put_id<const BYTES: usize>(draft: &mut Draft, key: u32, field: Field, text: &str) {
    if text.is_empty() {
        return draft.put_bytes(key, &[]);
    }
    match hex_id::<BYTES>(text.as_bytes()) {
        Some(id) => draft.put_bytes(key, &id),
        None => draft.refuse(format_args!("{}, not {}", field.expected(), Quoted(text))),
    }
}

/// The bytes of an id in hex digits of either case; `None`: it is not one.
#[inline]
pub(super) fn hex_id<const BYTES: usize>(text: &[u8]) -> Option<[u8; BYTES]> {
    let (pairs, odd) = text.as_chunks::<2>();
    if pairs.len() != BYTES || !odd.is_empty() {
        return None;
    }
    let (mut id, mut all) = ([0; BYTES], 0);
    for (byte, [high, low]) in id.iter_mut().zip(pairs) {
        let (high, low) = (HEX_DIGITS[usize::from(*high)], HEX_DIGITS[usize::from(*low)]);
        all |= high | low;
        *byte = high << 4 | low & 0x0F;
    }
    (all < NO_HEX_DIGIT).then_some(id)
}

/// Greater than every value of a digit, also together with others.
const NO_HEX_DIGIT: u8 = 0x10;

/// The value of each byte as a hex digit.
static HEX_DIGITS: [u8; 256] = {
    let mut digits = [NO_HEX_DIGIT; 256];
    let mut value = 0;
    while value < 16 {
        let [lower, upper] = [b"0123456789abcdef"[value], b"0123456789ABCDEF"[value]];
        digits[lower as usize] = value as u8;
        digits[upper as usize] = value as u8;
        value += 1;
    }
    digits
};

/// Reads an object of attributes whose path is `scratch.path`; `depth` is its own level, 2 for `attributes`. `is_nested`: its
/// names are joined to the path.
fn read_attributes<'de, A: MapAccess<'de>>(
    scratch: &mut Scratch,
    mut object: A,
    depth: usize,
    is_nested: bool,
) -> Result<(), A::Error> {
    let parent_bytes = scratch.path.len();
    while object.next_key_seed(PathSeed { scratch, is_nested })?.is_some() {
        if scratch.draft.is_refused() {
            object.next_value::<IgnoredAny>()?;
        } else {
            object.next_value_seed(At(AttributePlace { scratch: &mut *scratch, depth: depth + 1 }))?;
        }
        scratch.path.truncate(parent_bytes);
    }
    Ok(())
}

fn refuse_depth(draft: &mut Draft) {
    draft.refuse(format_args!("`attributes` is nested deeper than {JSON_DEPTH_MAX} levels"));
}

/// Appends a name to the path.
struct PathSeed<'s> {
    scratch: &'s mut Scratch,
    is_nested: bool,
}

impl<'de> DeserializeSeed<'de> for PathSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for PathSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, name: &str) -> Result<(), E> {
        self.scratch.push_path(name, self.is_nested);
        Ok(())
    }
}

struct AttributePlace<'s> {
    scratch: &'s mut Scratch,
    /// The level of an array or object that stands here.
    depth: usize,
}

impl<'de> Place<'de> for AttributePlace<'_> {
    fn scalar(self, value: Scalar<'_>) {
        if let Some(map) = self.scratch.options.map
            && json_map::put(self.scratch, map, value)
        {
            return;
        }
        let Scratch { draft, path, .. } = self.scratch;
        match value {
            Scalar::Null => {}
            Scalar::Bool(yes) => draft.put_attribute(path, AttributeValue::Bool(yes)),
            Scalar::Int(number) => draft.put_attribute(path, AttributeValue::Int(number)),
            Scalar::Unsigned(number) => draft.put_attribute(path, AttributeValue::Double(number as f64)),
            Scalar::Double(number) => draft.put_attribute(path, AttributeValue::Double(number)),
            Scalar::Text(text) => draft.put_attribute(path, AttributeValue::String(text)),
        }
    }

    fn array<A: SeqAccess<'de>>(self, array: A) -> Result<(), A::Error> {
        self.scratch.array.clear();
        TextPlace { scratch: self.scratch, depth: self.depth }.array(array)?;
        let Scratch { draft, path, array, .. } = self.scratch;
        match std::str::from_utf8(array) {
            Ok(text) => draft.put_attribute(path, AttributeValue::String(text)),
            Err(_) => draft.refuse("an array in `attributes` is not UTF-8"),
        }
        Ok(())
    }

    fn object<A: MapAccess<'de>>(self, object: A) -> Result<(), A::Error> {
        if self.depth > JSON_DEPTH_MAX {
            refuse_depth(&mut self.scratch.draft);
            return skip_object(object);
        }
        read_attributes(self.scratch, object, self.depth, true)
    }
}

/// Within an array: appends the value's JSON text to `scratch.array`.
struct TextPlace<'s> {
    scratch: &'s mut Scratch,
    depth: usize,
}

impl<'de> Place<'de> for TextPlace<'_> {
    fn scalar(self, value: Scalar<'_>) {
        let Scratch { draft, array, .. } = self.scratch;
        let text_bytes = if let Scalar::Text(text) = value { text.len() } else { 0 };
        if !draft.has_room(array.len() + text_bytes) {
            return;
        }
        // Writing to a Vec cannot fail.
        let _ = match value {
            Scalar::Null => serde_json::to_writer(array, &()),
            Scalar::Bool(yes) => serde_json::to_writer(array, &yes),
            Scalar::Int(number) => serde_json::to_writer(array, &number),
            Scalar::Unsigned(number) => serde_json::to_writer(array, &number),
            Scalar::Double(number) => serde_json::to_writer(array, &number),
            Scalar::Text(text) => serde_json::to_writer(array, text),
        };
    }

    fn array<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        let Self { scratch, depth } = self;
        if depth > JSON_DEPTH_MAX {
            refuse_depth(&mut scratch.draft);
        }
        let start = scratch.array.len();
        scratch.array.push(b'[');
        loop {
            let end = scratch.array.len();
            if !scratch.draft.has_room(end) {
                return skip_array(array);
            }
            if end > start + 1 {
                scratch.array.push(b',');
            }
            if array.next_element_seed(At(TextPlace { scratch: &mut *scratch, depth: depth + 1 }))?.is_none() {
                scratch.array.truncate(end);
                scratch.array.push(b']');
                return Ok(());
            }
        }
    }

    fn object<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        let Self { scratch, depth } = self;
        if depth > JSON_DEPTH_MAX {
            refuse_depth(&mut scratch.draft);
        }
        let start = scratch.array.len();
        scratch.array.push(b'{');
        loop {
            let end = scratch.array.len();
            if !scratch.draft.has_room(end) {
                return skip_object(object);
            }
            if end > start + 1 {
                scratch.array.push(b',');
            }
            if object.next_key_seed(At(TextPlace { scratch: &mut *scratch, depth: depth + 1 }))?.is_none() {
                scratch.array.truncate(end);
                scratch.array.push(b'}');
                return Ok(());
            }
            scratch.array.push(b':');
            object.next_value_seed(At(TextPlace { scratch: &mut *scratch, depth: depth + 1 }))?;
        }
    }
}
