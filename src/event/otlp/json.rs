//! A request in JSON. Usually the resource comes before its scopes, and the scope before its records: then all is read once.
//! What comes earlier than what it belongs to is kept as text until the object ends, and read again.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::mapping::{Group, Mapping};
use super::request::{Messages, member};
use super::schema::Message;
use super::transcode::{Encoded, MessageSeed, is_camel_case_of};
use super::{OtlpError, Output};
use crate::limits::HTTP_ERROR_BYTES_MAX;
use crate::text::cut;

/// Messages as protobuf, reused from record to record.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    resource: Encoded,
    scope: Encoded,
    record: Encoded,
}

/// Maps a whole request.
///
/// # Errors
/// It is malformed or too large, or the output takes no more.
pub(super) fn read<O: Output>(
    mapping: &mut Mapping<'_, O>,
    buffers: &mut Buffers,
    body: &[u8],
) -> Result<(), OtlpError<O::Error>> {
    let text = match simdutf8::compat::from_utf8(body) {
        Ok(text) => text,
        Err(error) => return Err(OtlpError::Json(format!("byte {} is not UTF-8", error.valid_up_to()))),
    };
    let messages = Messages::of(mapping.signal);
    let mut reading = Reading { mapping, buffers, messages, stopped: None };
    let mut json = serde_json::Deserializer::from_str(text);
    let read = Level::Request.seed(&mut reading).deserialize(&mut json).and_then(|()| json.end());
    match (read, reading.stopped) {
        (Ok(()), _) => Ok(()),
        (Err(_), Some(stopped)) => Err(stopped),
        (Err(error), None) => Err(OtlpError::Json(cut(&error.to_string(), HTTP_ERROR_BYTES_MAX).to_owned())),
    }
}

struct Reading<'r, 'm, O: Output> {
    mapping: &'r mut Mapping<'m, O>,
    buffers: &'r mut Buffers,
    messages: Messages,
    /// Why the reading ended, where that was not the JSON's fault.
    stopped: Option<OtlpError<O::Error>>,
}

/// An object that holds an array of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    /// The request: an array of resources.
    Request,
    /// A resource, and an array of scopes.
    Resource,
    /// A scope, and an array of records.
    Scope,
}

impl Level {
    fn seed<'s, 'r, 'm, O: Output>(self, reading: &'s mut Reading<'r, 'm, O>) -> ObjectSeed<'s, 'r, 'm, O> {
        ObjectSeed { level: self, reading }
    }

    fn message(self, messages: Messages) -> &'static Message {
        match self {
            Self::Request => messages.request,
            Self::Resource => messages.resources,
            Self::Scope => messages.scopes,
        }
    }

    /// Number of the field with what its members have in common; `None`: there is none.
    fn head(self) -> Option<u32> {
        (self != Self::Request).then_some(1)
    }

    /// Number of the field with its members.
    fn members(self) -> u32 {
        if self == Self::Request { 1 } else { 2 }
    }
}

impl<O: Output> Reading<'_, '_, O> {
    /// Ends the reading with an error that is not of the JSON.
    fn stop<E: Error>(&mut self, result: Result<(), OtlpError<O::Error>>) -> Result<(), E> {
        result.map_err(|error| {
            self.stopped = Some(error);
            E::custom("stopped")
        })
    }

    /// What the members of an object have in common was read.
    fn begin<E: Error>(&mut self, level: Level) -> Result<(), E> {
        let result = match level {
            Level::Request => Ok(()),
            Level::Resource if self.buffers.resource.is_too_large => Err(OtlpError::RecordTooLarge),
            Level::Scope if self.buffers.scope.is_too_large => Err(OtlpError::RecordTooLarge),
            Level::Resource => self.mapping.begin_resource(&self.buffers.resource.bytes).map_err(OtlpError::from),
            Level::Scope => self.mapping.begin_scope(&self.buffers.scope.bytes).map_err(OtlpError::from),
        };
        self.stop(result)
    }

    fn head_buffer(&mut self, level: Level) -> &mut Encoded {
        if level == Level::Scope { &mut self.buffers.scope } else { &mut self.buffers.resource }
    }

    /// The record in the buffer was read.
    fn record<E: Error>(&mut self) -> Result<(), E> {
        let Buffers { resource, scope, record } = &*self.buffers;
        let group = Group { resource: &resource.bytes, scope: &scope.bytes };
        let result = if record.is_too_large {
            Err(OtlpError::RecordTooLarge)
        } else {
            self.mapping.record(group, &record.bytes)
        };
        self.stop(result)
    }
}

/// Reads an object of a level.
struct ObjectSeed<'s, 'r, 'm, O: Output> {
    level: Level,
    reading: &'s mut Reading<'r, 'm, O>,
}

impl<'de, O: Output> DeserializeSeed<'de> for ObjectSeed<'_, '_, '_, O> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de, O: Output> Visitor<'de> for ObjectSeed<'_, '_, '_, O> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object ({})", self.level.message(self.reading.messages).name)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        let Self { level, reading } = self;
        let message = level.message(reading.messages);
        reading.head_buffer(level).clear();
        let mut begun = level == Level::Request;
        // Members that came before what they have in common.
        let mut early: Vec<&'de RawValue> = Vec::new();
        while let Some(number) = object.next_key_seed(NumberSeed(message))? {
            if number == Some(level.members()) {
                if begun {
                    object.next_value_seed(MembersSeed { level, reading: &mut *reading })?;
                } else {
                    early.push(object.next_value()?);
                }
            } else if number.is_some() && number == level.head() {
                if begun {
                    return Err(A::Error::custom("`resource` or `scope` occurs twice in one object"));
                }
                let head = member(message, 1);
                object.next_value_seed(MessageSeed { message: head, out: reading.head_buffer(level) })?;
                reading.begin(level)?;
                begun = true;
            } else {
                object.next_value::<IgnoredAny>()?;
            }
        }
        if !begun {
            reading.begin(level)?;
        }
        for members in early {
            let mut json = serde_json::Deserializer::from_str(members.get());
            let seed = MembersSeed { level, reading: &mut *reading };
            seed.deserialize(&mut json).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

/// Reads a key: the number of the field that it names.
struct NumberSeed(&'static Message);

impl<'de> DeserializeSeed<'de> for NumberSeed {
    type Value = Option<u32>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for NumberSeed {
    type Value = Option<u32>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.fields.iter().find(|field| is_camel_case_of(name, field.name)).map(|field| field.number))
    }
}

/// Reads an array of members, or `null`.
struct MembersSeed<'s, 'r, 'm, O: Output> {
    level: Level,
    reading: &'s mut Reading<'r, 'm, O>,
}

impl<'de, O: Output> DeserializeSeed<'de> for MembersSeed<'_, '_, '_, O> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de, O: Output> Visitor<'de> for MembersSeed<'_, '_, '_, O> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members = member(self.level.message(self.reading.messages), self.level.members());
        write!(f, "an array of objects ({})", members.name)
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        let Self { level, reading } = self;
        let inner = match level {
            Level::Request => Level::Resource,
            Level::Resource => Level::Scope,
            Level::Scope => {
                let message = member(reading.messages.scopes, 2);
                loop {
                    reading.buffers.record.clear();
                    let seed = MessageSeed { message, out: &mut reading.buffers.record };
                    if array.next_element_seed(seed)?.is_none() {
                        return Ok(());
                    }
                    reading.record()?;
                }
            }
        };
        while array.next_element_seed(inner.seed(reading))?.is_some() {}
        Ok(())
    }
}
