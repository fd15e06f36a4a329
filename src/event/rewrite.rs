//! Encoded events that are written anew from others, or from parts of them.
//!
//! [`EventFields`] gives the fields one by one with their bytes, so that what is not changed is copied as it came. The
//! functions write fields and attributes.

use super::protobuf::{DEPTH_EVENT, delimited, field_key, fixed64, put_varint, skip, varint_bytes};
use super::view::{
    ATTRIBUTE_KEY, ATTRIBUTES, AttributeValue, BODY, BOOL_VALUE, BYTES_VALUE, DOUBLE_VALUE, EventKind, INT_VALUE, KIND,
    NAME, SOURCE, STRING_VALUE, TIME_UNIX_NANO, VALUE, read_attribute, text,
};

/// A field of an encoded event, as far as somebody changes it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum EventField<'a> {
    /// The time.
    Time,
    /// The body.
    Body(&'a str),
    /// One attribute.
    Attribute(&'a str, AttributeValue<'a>),
    /// Any other field, also one that is not of the schema.
    Other,
}

/// The fields of an accepted event in the order of its bytes: all bytes of each, and what it is. Joined, the bytes are the
/// event.
#[derive(Debug, Clone)]
pub struct EventFields<'a> {
    rest: &'a [u8],
}

impl<'a> EventFields<'a> {
    /// Of an event that was accepted.
    pub fn accepted(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn read(&mut self) -> Option<(&'a [u8], EventField<'a>)> {
        let from_field = std::mem::take(&mut self.rest);
        let (key, after) = field_key(from_field).ok()?;
        let (field, after) = match key {
            TIME_UNIX_NANO => (EventField::Time, fixed64(after).ok()?.1),
            BODY => {
                let (body, after) = delimited(after).ok()?;
                (EventField::Body(text(body)), after)
            }
            ATTRIBUTES => {
                let (attribute, after) = delimited(after).ok()?;
                let (key, value) = read_attribute(attribute);
                (EventField::Attribute(key, value), after)
            }
            _ => (EventField::Other, skip(key, after, 0, DEPTH_EVENT).ok()?),
        };
        self.rest = after;
        Some((from_field.get(..from_field.len() - after.len())?, field))
    }
}

impl<'a> Iterator for EventFields<'a> {
    type Item = (&'a [u8], EventField<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() { None } else { self.read() }
    }
}

/// Appends the time; 0 is none.
pub fn put_time(unix_nano: u64, out: &mut Vec<u8>) {
    put_fixed64(TIME_UNIX_NANO, unix_nano, out);
}

/// Appends the kind.
pub fn put_kind(kind: EventKind, out: &mut Vec<u8>) {
    out.push(KIND as u8);
    put_varint(out, kind as u64);
}

/// Appends the source.
pub fn put_source(source: &str, out: &mut Vec<u8>) {
    put_bytes(SOURCE, source.as_bytes(), out);
}

/// Appends the name.
pub fn put_name(name: &str, out: &mut Vec<u8>) {
    put_bytes(NAME, name.as_bytes(), out);
}

/// Appends the body.
pub fn put_body(body: &str, out: &mut Vec<u8>) {
    put_bytes(BODY, body.as_bytes(), out);
}

/// Appends the value.
pub fn put_value(value: f64, out: &mut Vec<u8>) {
    put_fixed64(VALUE, value.to_bits(), out);
}

/// Appends an attribute. Of two with one key the later one counts.
pub fn put_attribute(key: &str, value: AttributeValue<'_>, out: &mut Vec<u8>) {
    let delimited_bytes = |content: &[u8]| 1 + varint_bytes(content.len() as u64) + content.len();
    let value_bytes = match value {
        AttributeValue::Null => 0,
        AttributeValue::String(text) => delimited_bytes(text.as_bytes()),
        AttributeValue::Int(number) => 1 + varint_bytes(number.cast_unsigned()),
        AttributeValue::Double(_) => 9,
        AttributeValue::Bool(_) => 2,
        AttributeValue::Bytes(bytes) => delimited_bytes(bytes),
    };
    out.push(ATTRIBUTES as u8);
    put_varint(out, (delimited_bytes(key.as_bytes()) + value_bytes) as u64);
    put_bytes(ATTRIBUTE_KEY, key.as_bytes(), out);
    match value {
        AttributeValue::Null => {}
        AttributeValue::String(text) => put_bytes(STRING_VALUE, text.as_bytes(), out),
        AttributeValue::Int(number) => {
            out.push(INT_VALUE as u8);
            put_varint(out, number.cast_unsigned());
        }
        AttributeValue::Double(number) => put_fixed64(DOUBLE_VALUE, number.to_bits(), out),
        AttributeValue::Bool(flag) => out.extend([BOOL_VALUE as u8, u8::from(flag)]),
        AttributeValue::Bytes(bytes) => put_bytes(BYTES_VALUE, bytes, out),
    }
}

fn put_fixed64(key: u32, value: u64, out: &mut Vec<u8>) {
    out.push(key as u8);
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_bytes(key: u32, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(key as u8);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::event::EventRef;
    use crate::event::proto::{Attribute, Event, attribute};

    #[test]
    fn what_is_written_is_what_prost_reads() {
        let mut bytes = Vec::new();
        put_time(7, &mut bytes);
        put_kind(EventKind::Counter, &mut bytes);
        put_source("api", &mut bytes);
        put_name("requests", &mut bytes);
        put_body(&"b".repeat(300), &mut bytes);
        put_value(-1.5, &mut bytes);
        let values = [
            (AttributeValue::Null, None),
            (AttributeValue::String("x"), Some(attribute::Value::StringValue("x".into()))),
            (AttributeValue::Int(-3), Some(attribute::Value::IntValue(-3))),
            (AttributeValue::Double(0.5), Some(attribute::Value::DoubleValue(0.5))),
            (AttributeValue::Bool(true), Some(attribute::Value::BoolValue(true))),
            (AttributeValue::Bytes(&[1, 2]), Some(attribute::Value::BytesValue(vec![1, 2]))),
        ];
        for (value, _) in &values {
            put_attribute("key", *value, &mut bytes);
        }
        let attributes = values.map(|(_, value)| Attribute { key: "key".into(), value });
        let event = Event {
            time_unix_nano: 7,
            kind: EventKind::Counter as i32,
            source: "api".into(),
            name: "requests".into(),
            body: "b".repeat(300),
            value: Some(-1.5),
            attributes: attributes.to_vec(),
            ..Event::default()
        };
        assert_eq!(Event::decode(bytes.as_slice()).unwrap(), event);
        // And read field by field.
        let fields: Vec<_> = EventFields::accepted(&bytes).collect();
        assert_eq!(fields.iter().map(|(bytes, _)| *bytes).collect::<Vec<_>>().concat(), bytes);
        let attributes: Vec<_> = fields
            .iter()
            .filter_map(|(_, field)| match field {
                EventField::Attribute(key, value) => Some((*key, *value)),
                _ => None,
            })
            .collect();
        assert_eq!(attributes, EventRef::accepted(&bytes).attributes().collect::<Vec<_>>());
        assert_eq!(fields[0].1, EventField::Time);
        assert!(fields.iter().any(|(_, field)| *field == EventField::Body(&"b".repeat(300))));
    }
}
