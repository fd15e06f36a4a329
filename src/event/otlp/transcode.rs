//! A message of OTLP in JSON becomes the same message in protobuf, by the tables.
//!
//! | JSON | becomes |
//! |---|---|
//! | key that the message does not have, in camel case | ignored, with what stands under it |
//! | `null` | as if the key were absent |
//! | integer | a number, or a text of digits; `1.0` and `1e3` are integers too |
//! | double | a number, a text of one, or `"NaN"`, `"Infinity"`, `"-Infinity"` |
//! | ids of traces and spans | hexadecimal digits of either case |
//! | other bytes | base64, also with `-` and `_`, with or without padding |
//! | enum | its number |
//!
//! A nested message has a length of four bytes, whatever it is: how long it becomes is known only at its end.

use std::fmt;

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::schema::{Field, Kind, Message};
use super::writer::cut;
use crate::event::json_key::Quoted;
use crate::event::protobuf::{DELIMITED, key, put_varint};
use crate::limits::{EVENT_BYTES_MAX, OTLP_JSON_RECORD_BYTES_MAX};

/// Protobuf while it is written.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    /// What was written so far.
    pub bytes: Vec<u8>,
    /// It is longer than [`OTLP_JSON_RECORD_BYTES_MAX`]: the rest is left out, and nothing of it may be used.
    pub is_too_large: bool,
}

/// Bytes of a nested message's length: enough for the longest, so that nothing is moved to make room for more.
const LENGTH_BYTES: usize = 4;
const _: () = assert!(OTLP_JSON_RECORD_BYTES_MAX >> (7 * LENGTH_BYTES) == 0);

impl Encoded {
    /// Begins the next message.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.is_too_large = false;
    }

    fn has_room(&mut self, bytes: usize) -> bool {
        self.is_too_large |= self.bytes.len() + bytes > OTLP_JSON_RECORD_BYTES_MAX;
        !self.is_too_large
    }

    fn key(&mut self, field: &Field, wire_type: u32) {
        put_varint(&mut self.bytes, key(field.number, wire_type).into());
    }

    fn put_bytes(&mut self, field: &Field, bytes: &[u8]) {
        if self.has_room(bytes.len()) {
            self.key(field, DELIMITED);
            put_varint(&mut self.bytes, bytes.len() as u64);
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// Begins a field with a length. Returns where its content begins.
    fn begin(&mut self, field: &Field) -> usize {
        if self.has_room(LENGTH_BYTES) {
            self.key(field, DELIMITED);
            self.bytes.extend_from_slice(&[0; LENGTH_BYTES]);
        }
        self.bytes.len()
    }

    fn end(&mut self, start: usize) {
        let mut length = self.bytes.len() - start;
        if self.is_too_large || start < LENGTH_BYTES {
            return;
        }
        for (number, place) in self.bytes.iter_mut().skip(start - LENGTH_BYTES).take(LENGTH_BYTES).enumerate() {
            *place = length as u8 & 0x7F | if number + 1 < LENGTH_BYTES { 0x80 } else { 0 };
            length >>= 7;
        }
    }

    /// Appends one number, without a key.
    fn number(&mut self, kind: Kind, number: Number) {
        if !self.has_room(10) {
            return;
        }
        match (kind, number) {
            (Kind::Double, Number::Double(double)) => self.bytes.extend_from_slice(&double.to_bits().to_le_bytes()),
            (Kind::Fixed64 | Kind::SFixed64, Number::Int(integer)) => {
                self.bytes.extend_from_slice(&(integer as u64).to_le_bytes());
            }
            (Kind::Fixed32, Number::Int(integer)) => self.bytes.extend_from_slice(&(integer as u32).to_le_bytes()),
            (Kind::SInt32, Number::Int(integer)) => {
                let integer = integer as i32;
                put_varint(&mut self.bytes, u64::from((integer << 1 ^ integer >> 31) as u32));
            }
            (_, Number::Int(integer)) => put_varint(&mut self.bytes, integer as u64),
            (_, Number::Double(_)) => {}
        }
    }
}

/// A number as its field has it.
#[derive(Clone, Copy)]
enum Number {
    Int(i128),
    Double(f64),
}

/// What stands under a key.
#[derive(Clone, Copy)]
enum Scalar<'a> {
    Bool(bool),
    Int(i128),
    Double(f64),
    Text(&'a str),
}

/// Reads an object as this message.
pub(super) struct MessageSeed<'e> {
    /// What it is.
    pub message: &'static Message,
    /// Where it goes.
    pub out: &'e mut Encoded,
}

impl<'de> DeserializeSeed<'de> for MessageSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for MessageSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object ({})", self.message.name)
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        while let Some(field) = object.next_key_seed(FieldSeed(self.message))? {
            match field {
                Some(field) => object.next_value_seed(ValueSeed { field, out: &mut *self.out })?,
                None => drop(object.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// Reads a key: the field that it names.
struct FieldSeed(&'static Message);

impl<'de> DeserializeSeed<'de> for FieldSeed {
    type Value = Option<&'static Field>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for FieldSeed {
    type Value = Option<&'static Field>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.fields.iter().find(|field| is_camel_case_of(name, field.name)))
    }
}

/// Whether `name` is `snake` in lower camel case.
pub(super) fn is_camel_case_of(name: &str, snake: &str) -> bool {
    let mut expected = snake.bytes();
    name.bytes().all(|byte| match expected.next() {
        Some(b'_') => expected.next().is_some_and(|next| next.to_ascii_uppercase() == byte),
        Some(next) => next == byte,
        None => false,
    }) && expected.next().is_none()
}

/// Reads what stands under the key of a field.
struct ValueSeed<'e> {
    field: &'static Field,
    out: &'e mut Encoded,
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.field.name;
        match (self.field.repeated, self.field.kind) {
            (true, _) => write!(f, "an array for the field `{name}`"),
            (_, Kind::Message(message)) => write!(f, "an object ({}) for the field `{name}`", message.name),
            (_, kind) => write!(f, "{} for the field `{name}`", expected(kind)),
        }
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.scalar(Scalar::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.scalar(Scalar::Int(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.scalar(Scalar::Int(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.scalar(Scalar::Double(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.scalar(Scalar::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        let Self { field, out } = self;
        if !field.repeated {
            return Err(A::Error::invalid_type(serde::de::Unexpected::Seq, &ValueSeed { field, out }));
        }
        if field.kind.wire_type() == DELIMITED {
            while array.next_element_seed(ElementSeed { field, out: &mut *out, is_packed: false })?.is_some() {}
            return Ok(());
        }
        let start = out.begin(field);
        while array.next_element_seed(ElementSeed { field, out: &mut *out, is_packed: true })?.is_some() {}
        out.end(start);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<(), A::Error> {
        let Self { field, out } = self;
        match field.kind {
            Kind::Message(message) if !field.repeated => put_message(field, message, out, object),
            _ => Err(A::Error::invalid_type(serde::de::Unexpected::Map, &ValueSeed { field, out })),
        }
    }
}

impl ValueSeed<'_> {
    fn scalar<E: Error>(self, value: Scalar<'_>) -> Result<(), E> {
        if self.field.repeated {
            return Err(E::custom(format_args!("the field `{}` must be an array", self.field.name)));
        }
        put_scalar(self.field, self.out, value, false)
    }
}

fn put_message<'de, A: MapAccess<'de>>(
    field: &Field,
    message: &'static Message,
    out: &mut Encoded,
    object: A,
) -> Result<(), A::Error> {
    let start = out.begin(field);
    MessageSeed { message, out: &mut *out }.visit_map(object)?;
    out.end(start);
    Ok(())
}

/// Reads an element of an array.
struct ElementSeed<'e> {
    field: &'static Field,
    out: &'e mut Encoded,
    is_packed: bool,
}

impl<'de> DeserializeSeed<'de> for ElementSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ElementSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if matches!(self.field.kind, Kind::Message(_)) { "an object" } else { expected(self.field.kind) };
        write!(f, "{what} in the array `{}`", self.field.name)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        put_scalar(self.field, self.out, Scalar::Bool(value), self.is_packed)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        put_scalar(self.field, self.out, Scalar::Int(value.into()), self.is_packed)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        put_scalar(self.field, self.out, Scalar::Int(value.into()), self.is_packed)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        put_scalar(self.field, self.out, Scalar::Double(value), self.is_packed)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        put_scalar(self.field, self.out, Scalar::Text(value), self.is_packed)
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<(), A::Error> {
        let Self { field, out, is_packed } = self;
        match field.kind {
            Kind::Message(message) => put_message(field, message, out, object),
            _ => Err(A::Error::invalid_type(serde::de::Unexpected::Map, &ElementSeed { field, out, is_packed })),
        }
    }
}

/// What a value must be.
fn expected(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "a text",
        Kind::Bytes => "base64",
        Kind::Id => "hexadecimal digits",
        Kind::Double => "a number",
        Kind::Bool => "true or false",
        Kind::Enum => "the number of an enum",
        Kind::UInt32 | Kind::Fixed32 => "an integer from 0 to 2^32 - 1",
        Kind::Int32 | Kind::SInt32 => "an integer of 32 bits",
        Kind::Fixed64 | Kind::UInt64 => "an integer from 0 to 2^64 - 1, or a text of its digits",
        Kind::SFixed64 | Kind::Int64 => "an integer of 64 bits, or a text of its digits",
        Kind::Message(_) => "an object",
    }
}

fn put_scalar<E: Error>(field: &Field, out: &mut Encoded, value: Scalar<'_>, is_packed: bool) -> Result<(), E> {
    let wrong = || {
        let what = expected(field.kind);
        E::custom(match value {
            Scalar::Text(text) => format!("the field `{}` must be {what}, not {}", field.name, Quoted(text)),
            _ => format!("the field `{}` must be {what}", field.name),
        })
    };
    match (field.kind, value) {
        (Kind::Text, Scalar::Text(text)) => {
            // What is longer than an event may be is cut anyway, and marked because it is.
            out.put_bytes(field, cut(text.as_bytes(), EVENT_BYTES_MAX + 4));
            return Ok(());
        }
        (Kind::Bytes, Scalar::Text(text)) => {
            let bytes = from_base64(text).ok_or_else(wrong)?;
            out.put_bytes(field, bytes.get(..EVENT_BYTES_MAX + 4).unwrap_or(&bytes));
            return Ok(());
        }
        (Kind::Id, Scalar::Text(text)) => {
            let mut bytes = [0; ID_BYTES_MAX];
            let bytes = from_hex(text, &mut bytes).ok_or_else(wrong)?;
            out.put_bytes(field, bytes);
            return Ok(());
        }
        _ => {}
    }
    let number = number(field.kind, value).ok_or_else(wrong)?;
    if !is_packed && out.has_room(10) {
        out.key(field, field.kind.wire_type());
    }
    out.number(field.kind, number);
    Ok(())
}

/// The number that a value is for a field of this kind; `None`: it is none.
fn number(kind: Kind, value: Scalar<'_>) -> Option<Number> {
    let (lowest, highest) = match kind {
        Kind::Bool => {
            let Scalar::Bool(yes) = value else { return None };
            return Some(Number::Int(yes.into()));
        }
        Kind::Double => return double(value).map(Number::Double),
        Kind::Enum => {
            // Names are not allowed in OTLP.
            let Scalar::Int(_) = value else { return None };
            (i128::from(i32::MIN), i128::from(i32::MAX))
        }
        Kind::Int32 | Kind::SInt32 => (i128::from(i32::MIN), i128::from(i32::MAX)),
        Kind::UInt32 | Kind::Fixed32 => (0, i128::from(u32::MAX)),
        Kind::Int64 | Kind::SFixed64 => (i128::from(i64::MIN), i128::from(i64::MAX)),
        Kind::UInt64 | Kind::Fixed64 => (0, i128::from(u64::MAX)),
        Kind::Text | Kind::Bytes | Kind::Id | Kind::Message(_) => return None,
    };
    let integer = match value {
        Scalar::Int(integer) => integer,
        Scalar::Double(double) if double.fract() == 0.0 && double.abs() < 1e19 => double as i128,
        Scalar::Text(text) if !text.starts_with('+') => text.parse().ok()?,
        _ => return None,
    };
    (lowest..=highest).contains(&integer).then_some(Number::Int(integer))
}

fn double(value: Scalar<'_>) -> Option<f64> {
    match value {
        Scalar::Int(integer) => Some(integer as f64),
        Scalar::Double(double) => Some(double),
        Scalar::Text("NaN") => Some(f64::NAN),
        Scalar::Text("Infinity") => Some(f64::INFINITY),
        Scalar::Text("-Infinity") => Some(f64::NEG_INFINITY),
        Scalar::Text(text) if text.bytes().all(|byte| b"0123456789+-.eE".contains(&byte)) => {
            text.parse().ok().filter(|double: &f64| double.is_finite())
        }
        Scalar::Bool(_) | Scalar::Text(_) => None,
    }
}

/// Bytes of an id that are read: more than any id has, so that a wrong length is named.
const ID_BYTES_MAX: usize = 64;

fn from_hex<'b>(text: &str, bytes: &'b mut [u8; ID_BYTES_MAX]) -> Option<&'b [u8]> {
    let (pairs, odd) = text.as_bytes().as_chunks::<2>();
    if !odd.is_empty() || pairs.len() > ID_BYTES_MAX {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = (digit(*high)? << 4 | digit(*low)?) as u8;
    }
    bytes.get(..pairs.len())
}

fn from_base64(text: &str) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    const OF_STANDARD: GeneralPurpose = GeneralPurpose::new(&STANDARD, LENIENT);
    const OF_URLS: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, LENIENT);
    OF_STANDARD.decode(text).or_else(|_| OF_URLS.decode(text)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_in_camel_case() {
        for (name, snake, expected) in [
            ("timeUnixNano", "time_unix_nano", true),
            ("time_unix_nano", "time_unix_nano", false),
            ("timeUnixNan", "time_unix_nano", false),
            ("timeUnixNanos", "time_unix_nano", false),
            ("timeunixnano", "time_unix_nano", false),
            ("name", "name", true),
            ("Name", "name", false),
            ("", "name", false),
        ] {
            assert_eq!(is_camel_case_of(name, snake), expected, "{name}");
        }
    }
}
