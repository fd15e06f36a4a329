//! The keys of an event in JSON: what they are called, what stands under them, and what was meant by a wrong one.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Visitor};

use super::foreign;
use super::json_event::Scratch;
use super::json_options::UnknownKeys;
use super::nearest::nearest;

/// A field of an event, by its key in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    /// `time`.
    Time,
    /// `kind`.
    Kind,
    /// `severity`.
    Severity,
    /// `source`.
    Source,
    /// `name`.
    Name,
    /// `body`.
    Body,
    /// `attributes`.
    Attributes,
    /// `value`.
    Value,
    /// `duration_nano`.
    DurationNano,
    /// `trace_id`.
    TraceId,
    /// `span_id`.
    SpanId,
    /// `parent_span_id`.
    ParentSpanId,
}

/// The keys that an event may have.
pub const FIELD_NAMES: [&str; 12] = [
    "time",
    "kind",
    "severity",
    "source",
    "name",
    "body",
    "attributes",
    "value",
    "duration_nano",
    "trace_id",
    "span_id",
    "parent_span_id",
];

impl Field {
    /// Every field, in the order of [`FIELD_NAMES`].
    pub(super) const ALL: [Self; FIELD_NAMES.len()] = [
        Self::Time,
        Self::Kind,
        Self::Severity,
        Self::Source,
        Self::Name,
        Self::Body,
        Self::Attributes,
        Self::Value,
        Self::DurationNano,
        Self::TraceId,
        Self::SpanId,
        Self::ParentSpanId,
    ];

    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "time" => Self::Time,
            "kind" => Self::Kind,
            "severity" => Self::Severity,
            "source" => Self::Source,
            "name" => Self::Name,
            "body" => Self::Body,
            "attributes" => Self::Attributes,
            "value" => Self::Value,
            "duration_nano" => Self::DurationNano,
            "trace_id" => Self::TraceId,
            "span_id" => Self::SpanId,
            "parent_span_id" => Self::ParentSpanId,
            _ => return None,
        })
    }

    /// What its value must be, as a sentence.
    pub(super) fn expected(self) -> &'static str {
        match self {
            Self::Time => "`time` must be an RFC 3339 text or integer nanoseconds from 0 to 2^63 - 1",
            Self::Kind => "`kind` must be \"log\", \"gauge\", \"counter\", \"span\", \"histogram\" or \"summary\"",
            Self::Severity => {
                "`severity` must be an integer from 0 to 24, or \"trace\", \"debug\", \"info\", \"warn\", \"error\" or \
                 \"fatal\""
            }
            Self::Source => "`source` must be a text",
            Self::Name => "`name` must be a text",
            Self::Body => "`body` must be a text",
            Self::Attributes => "`attributes` must be an object",
            Self::Value => "`value` must be a number",
            Self::DurationNano => "`duration_nano` must be integer nanoseconds from 0 to 2^63 - 1",
            Self::TraceId => "`trace_id` must be a text of 32 hex digits",
            Self::SpanId => "`span_id` must be a text of 16 hex digits",
            Self::ParentSpanId => "`parent_span_id` must be a text of 16 hex digits",
        }
    }
}

/// A key of an event or a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    /// The key of a field of an event.
    Field(Field),
    /// The key of an envelope; an event has none of this name.
    Events,
    /// An attribute, whose key is the path of the scratch.
    Attribute,
    /// Not known: the event is refused.
    Unknown,
}

/// Reads a key of an object; an unknown one refuses the event of the draft, or is an attribute.
pub(super) struct KeySeed<'s>(pub &'s mut Scratch);

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Key, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed<'_> {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, name: &str) -> Result<Key, E> {
        if self.0.options.map.is_some() {
            self.0.set_path(name);
            return Ok(Key::Attribute);
        }
        Ok(match Field::from_name(name) {
            Some(field) => Key::Field(field),
            None if name == "events" => Key::Events,
            None if self.0.options.unknown == UnknownKeys::Attributes => {
                self.0.set_path(name);
                Key::Attribute
            }
            None => {
                self.0.draft.refuse(UnknownKey(name));
                Key::Unknown
            }
        })
    }
}

/// Why an event is refused that has this key.
struct UnknownKey<'a>(&'a str);

impl fmt::Display for UnknownKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(name) = *self;
        let key = Quoted(name);
        // What a name means elsewhere comes before what its letters look like.
        match (foreign::advice(name), nearest(name, &FIELD_NAMES)) {
            (Some(advice), _) => write!(f, "unknown key {key}: {advice}"),
            (None, Some(ours)) => write!(f, "unknown key {key}: did you mean `{ours}`?"),
            (None, None) => write!(f, "unknown key {key}: put it into `attributes`"),
        }
    }
}

/// A text from outside within a message, cut to a bounded length.
pub struct Quoted<'a>(pub &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const CHARS_MAX: usize = 64;
        let end = self.0.char_indices().nth(CHARS_MAX).map_or(self.0.len(), |(end, _)| end);
        let (text, rest) = self.0.split_at(end);
        write!(f, "`{}{}`", text.escape_debug(), if rest.is_empty() { "" } else { "…" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_that_is_suggested_is_a_key() {
        for (name, same) in FIELD_NAMES.into_iter().zip(Field::ALL) {
            let field = Field::from_name(name).expect(name);
            assert_eq!(field, same);
            assert!(field.expected().starts_with(&format!("`{name}` must be ")), "{name}");
        }
    }
}
