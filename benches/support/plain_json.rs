//! What a team would write in an afternoon: serde_json into a borrowed struct, and no check of anything. JSON in is
//! measured against it.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

#[derive(Deserialize)]
#[allow(dead_code)] // decoding is all that is asked for
pub(crate) struct PlainEvent<'a> {
    #[serde(borrow)]
    pub time: Cow<'a, str>,
    #[serde(borrow)]
    pub kind: Cow<'a, str>,
    pub severity: Option<i32>,
    #[serde(borrow, default)]
    pub source: Cow<'a, str>,
    #[serde(borrow, default)]
    pub name: Cow<'a, str>,
    #[serde(borrow, default)]
    pub body: Cow<'a, str>,
    #[serde(borrow, default, deserialize_with = "pairs")]
    pub attributes: Vec<(Cow<'a, str>, PlainValue<'a>)>,
    pub value: Option<f64>,
}

#[allow(dead_code)]
pub(crate) enum PlainValue<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(Cow<'a, str>),
}

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

fn pairs<'de, D: Deserializer<'de>>(json: D) -> Result<Vec<(Cow<'de, str>, PlainValue<'de>)>, D::Error> {
    struct Pairs;

    impl<'de> Visitor<'de> for Pairs {
        type Value = Vec<(Cow<'de, str>, PlainValue<'de>)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
            let mut pairs = Vec::new();
            while let Some((Key(key), value)) = object.next_entry()? {
                pairs.push((key, value));
            }
            Ok(pairs)
        }
    }

    json.deserialize_map(Pairs)
}

impl<'de> Deserialize<'de> for PlainValue<'de> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Scalar;

        impl<'de> Visitor<'de> for Scalar {
            type Value = PlainValue<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a scalar")
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(PlainValue::Null)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
                Ok(PlainValue::Bool(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
                Ok(PlainValue::Int(value))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
                i64::try_from(value).map(PlainValue::Int).map_err(E::custom)
            }

            fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
                Ok(PlainValue::Double(value))
            }

            fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
                Ok(PlainValue::Text(Cow::Borrowed(value)))
            }

            fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
                Ok(PlainValue::Text(Cow::Owned(value.to_owned())))
            }
        }

        json.deserialize_any(Scalar)
    }
}

/// Decodes an array of events; the number of them.
pub(crate) fn decode(body: &[u8]) -> usize {
    serde_json::from_slice::<Vec<PlainEvent<'_>>>(body).map_or(0, |events| std::hint::black_box(events).len())
}
