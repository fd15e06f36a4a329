//! Protobuf of OTLP as JSON, by the tables: for requests that are the same in both encodings.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};

use crate::event::otlp::schema::{Field, Kind, Message};
use crate::event::protobuf::{DELIMITED, FIXED64, delimited, field_key, fixed64, varint};

/// A message that prost has encoded. `None`: it has an id that is longer than JSON may have.
pub(super) fn message(message: &Message, bytes: &[u8]) -> Option<Value> {
    let mut object = Map::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (key, after) = field_key(rest).ok()?;
        let field = message.fields.iter().find(|field| field.number == key >> 3)?;
        let mut values = Vec::new();
        rest = if key & 7 == DELIMITED && field.kind.wire_type() != DELIMITED {
            let (mut packed, after) = delimited(after).ok()?;
            while !packed.is_empty() {
                let (value, left) = one(field, packed)?;
                values.push(value);
                packed = left;
            }
            after
        } else {
            let (value, after) = one(field, after)?;
            values.push(value);
            after
        };
        let name = camel_case(field.name);
        if field.repeated {
            let array = object.entry(name).or_insert_with(|| json!([]));
            array.as_array_mut()?.append(&mut values);
        } else {
            object.insert(name, values.pop()?);
        }
    }
    Some(Value::Object(object))
}

fn one<'a>(field: &Field, bytes: &'a [u8]) -> Option<(Value, &'a [u8])> {
    match field.kind.wire_type() {
        DELIMITED => {
            let (content, after) = delimited(bytes).ok()?;
            let value = match field.kind {
                Kind::Message(nested) => message(nested, content)?,
                Kind::Text => json!(std::str::from_utf8(content).ok()?),
                Kind::Id if content.len() > 64 => return None,
                Kind::Id => json!(content.iter().map(|byte| format!("{byte:02X}")).collect::<String>()),
                _ => json!(BASE64_STANDARD.encode(content)),
            };
            Some((value, after))
        }
        FIXED64 => {
            let (bits, after) = fixed64(bytes).ok()?;
            let value = match field.kind {
                Kind::Double => double(f64::from_bits(bits)),
                Kind::SFixed64 => json!((bits as i64).to_string()),
                _ => json!(bits.to_string()),
            };
            Some((value, after))
        }
        0 => {
            let (value, after) = varint(bytes).ok()?;
            let value = match field.kind {
                Kind::Bool => json!(value != 0),
                Kind::Int64 => json!((value as i64).to_string()),
                Kind::UInt64 => json!(value),
                Kind::SInt32 => json!((value as u32 >> 1) as i32 ^ -((value & 1) as i32)),
                Kind::UInt32 => json!(value as u32),
                _ => json!(value as i32),
            };
            Some((value, after))
        }
        _ => {
            let (value, after) = bytes.split_first_chunk()?;
            Some((json!(u32::from_le_bytes(*value)), after))
        }
    }
}

fn double(value: f64) -> Value {
    match value {
        f64::INFINITY => json!("Infinity"),
        f64::NEG_INFINITY => json!("-Infinity"),
        value if value.is_nan() => json!("NaN"),
        value => json!(value),
    }
}

fn camel_case(snake: &str) -> String {
    let mut words = snake.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        let (head, tail) = word.split_at(1);
        name + &head.to_uppercase() + tail
    })
}
