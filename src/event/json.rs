//! JSON in: bodies of requests and lines of NDJSON become encoded events, without a tree in between.
//!
//! ```text
//!  body ─▶ serde_json, pulled ─▶ visitors append fields ─▶ Draft ─▶ EventRef::check ─▶ emit(key, length, event)
//!                                   └ what the event does wrong: refused under its index, the rest is read on
//! ```
//!
//! A *document* is one event object, an array of them, or an envelope `{"events":[…]}`: an object is an envelope if it
//! has the key `events` and no key of an event. A document that is not well-formed gives an error, and the caller throws
//! away what was emitted. In *lines* (NDJSON) each line is an event object and stands for itself.
//!
//! | JSON | becomes |
//! |---|---|
//! | key that no event has | refusal, with the name that was meant |
//! | `null` | as if the key were absent |
//! | a key twice | the later one counts |
//! | `time`: RFC 3339 text or integer | nanoseconds; 0, which is also 1970-01-01T00:00:00Z, means unset |
//! | `kind` | one of the six names, in lower case |
//! | `severity` | number, or the lowest number of a name's range |
//! | `value` | number, or `"NaN"`, `"Infinity"`, `"-Infinity"` as JSON out writes them |
//! | ids | hex digits of either case; `""` means unset |
//! | number in `attributes` | integer if it is one and an i64 holds it, else double; `-0` is a double |
//! | object in `attributes` | its members, with the names joined by dots; an empty one leaves nothing |
//! | array in `attributes` | a string: its JSON text without spaces |
//!
//! [`JsonOptions`] change this for JSON of other agents: unknown keys become attributes, or a map renames them (`json_map`).
//!
//! Numbers beyond a double (`1e999`) and halves of surrogate pairs are not well-formed JSON here. Nesting is capped for
//! each event, the event object being level 1; deeper events are refused. In steady state nothing allocates but
//! refusals, and a buffer of serde_json for texts with escapes.

use std::fmt;
use std::io::BufRead;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::check::{Rejections, check_event};
use super::json_error;
use super::json_event::{At, EventPlace, Scratch, read_fields};
use super::json_key::{Key, KeySeed};
use super::json_options::JsonOptions;
use crate::limits::FRAME_EVENTS_MAX;

/// Why a body is refused as a whole. Nothing that was emitted for it may be kept.
#[derive(Debug, thiserror::Error)]
pub enum JsonError<E> {
    /// Not well-formed JSON; the text says what is wrong and where.
    #[error("malformed JSON: {0}")]
    Malformed(String),
    /// There is nothing but white space.
    #[error("the body is empty: send an event, an array of events or {{\"events\":[…]}}")]
    Empty,
    /// The body has more events than one batch may have.
    #[error("more than {max} events in one body: split it")]
    TooManyEvents {
        /// Most events of one body.
        max: usize,
    },
    /// What `emit` returned.
    #[error("an event was not taken")]
    Emit(E),
}

/// What a body held.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decoded {
    /// Number of events that were emitted.
    pub accepted: usize,
    /// The events that break a rule.
    pub rejected: Rejections,
}

/// Turns JSON into encoded events. Reuse it: its buffers stay.
#[derive(Debug, Default)]
pub struct JsonDecoder {
    scratch: Scratch,
}

impl JsonDecoder {
    /// A decoder with empty buffers.
    pub fn new() -> Self {
        Self::default()
    }

    /// A decoder of JSON that is not written for this server.
    pub fn with_options(options: JsonOptions) -> Self {
        Self { scratch: Scratch { options, ..Scratch::default() } }
    }

    /// Reads one document (`application/json`). `emit` gets each accepted event as a field of an `EventBatch`: what it
    /// gets, joined, is the batch.
    ///
    /// # Errors
    /// The body is not a well-formed document of events, holds more than [`FRAME_EVENTS_MAX`], or `emit` failed. What
    /// was emitted is void.
    pub fn document<E>(
        &mut self,
        body: &[u8],
        emit: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<Decoded, JsonError<E>> {
        let body = match text(body) {
            Ok(body) => body,
            Err(fault) => return Err(JsonError::Malformed(self.not_text(body, fault))),
        };
        let mut reading = Reading::new(&mut self.scratch, emit);
        match reading.document(body) {
            Ok(()) => Ok(reading.decoded),
            Err(_) if body.trim_ascii().is_empty() => Err(JsonError::Empty),
            Err(error) => {
                let malformed = || JsonError::Malformed(json_error::in_document(body, &error, reading.failed_event));
                Err(reading.stopped.unwrap_or_else(malformed))
            }
        }
    }

    /// The message for a document that is not text, with the index of the event in which it stops being text.
    fn not_text(&mut self, body: &[u8], fault: TextFault) -> String {
        let TextFault::NotUtf8 { valid_bytes } = fault else { return fault.message() };
        let valid = body.get(..valid_bytes).map(str::from_utf8).and_then(Result::ok).unwrap_or_default();
        let mut reading = Reading::new(&mut self.scratch, |_: &[u8]| Ok::<(), ()>(()));
        let _ = reading.document(valid);
        json_error::not_utf8(valid_bytes, reading.failed_event)
    }

    /// Reads lines (`application/x-ndjson`), one event object each. A bad line is rejected under its 0-based number;
    /// blank lines are counted and skipped.
    ///
    /// # Errors
    /// There are more than [`FRAME_EVENTS_MAX`] lines that are not blank, or `emit` failed. What was emitted is void.
    pub fn lines<E>(&mut self, body: &[u8], emit: impl FnMut(&[u8]) -> Result<(), E>) -> Result<Decoded, JsonError<E>> {
        let mut reading = Reading::new(&mut self.scratch, emit);
        let mut rest = body;
        for index in 0.. {
            let mut after = rest;
            // Reading from a slice cannot fail; it finds the newline many bytes at a time.
            let Ok(bytes @ 1..) = after.skip_until(b'\n') else { break };
            let line = rest.get(..bytes).unwrap_or_default();
            rest = after;
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            if line.iter().all(|byte| b" \t\r".contains(byte)) {
                continue;
            }
            if let Err(fault) = read_line(reading.scratch, line) {
                reading.scratch.draft.clear();
                reading.scratch.draft.refuse(fault);
            }
            reading.settle(index)?;
        }
        Ok(reading.decoded)
    }
}

fn read_line<'l>(scratch: &mut Scratch, line: &'l [u8]) -> Result<(), LineFault<'l>> {
    let line = text(line).map_err(LineFault::Text)?;
    let mut json = serde_json::Deserializer::from_str(line);
    let read = At(EventPlace(scratch)).deserialize(&mut json).and_then(|()| json.end());
    read.map_err(|error| LineFault::Json(line, error))
}

/// Why a line is not JSON.
enum LineFault<'l> {
    Text(TextFault),
    Json(&'l str, serde_json::Error),
}

impl fmt::Display for LineFault<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = match self {
            Self::Text(fault) => fault.message(),
            Self::Json(line, error) => json_error::in_line(line, error),
        };
        write!(f, "malformed JSON: {reason}")
    }
}

/// Why bytes are not text in the encoding of JSON.
#[derive(Debug, Clone, Copy)]
enum TextFault {
    NotUtf8 { valid_bytes: usize },
    Utf16,
    ByteOrderMark,
}

impl TextFault {
    fn message(self) -> String {
        match self {
            Self::NotUtf8 { valid_bytes } => json_error::not_utf8(valid_bytes, None),
            Self::Utf16 => json_error::UTF16.to_owned(),
            Self::ByteOrderMark => json_error::BYTE_ORDER_MARK.to_owned(),
        }
    }
}

fn text(bytes: &[u8]) -> Result<&str, TextFault> {
    match simdutf8::compat::from_utf8(bytes) {
        Ok(text) if text.starts_with('\u{FEFF}') => Err(TextFault::ByteOrderMark),
        Ok(text) => Ok(text),
        Err(_) if json_error::is_utf16(bytes) => Err(TextFault::Utf16),
        Err(error) => Err(TextFault::NotUtf8 { valid_bytes: error.valid_up_to() }),
    }
}

/// A body while it is read.
struct Reading<'s, F, E> {
    scratch: &'s mut Scratch,
    emit: F,
    decoded: Decoded,
    /// Why the reading ended, where that was not the JSON's fault.
    stopped: Option<JsonError<E>>,
    /// The index of the event at which an array is not well-formed.
    failed_event: Option<usize>,
}

impl<'s, E, F: FnMut(&[u8]) -> Result<(), E>> Reading<'s, F, E> {
    fn new(scratch: &'s mut Scratch, emit: F) -> Self {
        scratch.draft.set_silent(false);
        Self { scratch, emit, decoded: Decoded::default(), stopped: None, failed_event: None }
    }

    fn document(&mut self, text: &str) -> Result<(), serde_json::Error> {
        let mut json = serde_json::Deserializer::from_str(text);
        json.deserialize_any(Document(self)).and_then(|()| json.end())
    }

    /// The index of the next event of a document.
    fn next_index(&self) -> usize {
        self.decoded.accepted + self.decoded.rejected.total
    }

    /// Takes the event in the draft, or rejects it.
    fn settle(&mut self, index: usize) -> Result<(), JsonError<E>> {
        let Self { scratch: Scratch { draft, .. }, decoded, .. } = self;
        if decoded.accepted + decoded.rejected.total == FRAME_EVENTS_MAX {
            return Err(JsonError::TooManyEvents { max: FRAME_EVENTS_MAX });
        }
        if let Some(reason) = draft.take_refusal() {
            decoded.rejected.add(index, reason);
        } else if let Err(error) = check_event(draft.event()) {
            decoded.rejected.add(index, error);
        } else {
            decoded.accepted += 1;
            (self.emit)(draft.batch_field()).map_err(JsonError::Emit)?;
        }
        draft.set_silent(!decoded.rejected.has_room());
        Ok(())
    }

    /// As [`Reading::settle`], for the next event of a document, within serde.
    fn settle_next<D: Error>(&mut self) -> Result<(), D> {
        self.settle(self.next_index()).map_err(|error| {
            self.stopped = Some(error);
            D::custom("stopped")
        })
    }

    fn read_array<'de, A: SeqAccess<'de>>(&mut self, mut array: A) -> Result<(), A::Error> {
        loop {
            match array.next_element_seed(At(EventPlace(self.scratch))) {
                Ok(Some(())) => self.settle_next()?,
                Ok(None) => return Ok(()),
                Err(error) => {
                    self.failed_event = Some(self.next_index());
                    return Err(error);
                }
            }
        }
    }
}

struct Document<'r, 's, F, E>(&'r mut Reading<'s, F, E>);

impl<'de, E, F: FnMut(&[u8]) -> Result<(), E>> Visitor<'de> for Document<'_, '_, F, E> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event object, an array of events or {\"events\":[…]}")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, array: A) -> Result<(), A::Error> {
        self.0.read_array(array)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        let Self(reading) = self;
        reading.scratch.begin();
        let first = object.next_key_seed(KeySeed(reading.scratch))?;
        // The first key decides. An object that also has the other sort of key is refused whichever comes first: as an
        // envelope with a key too many, or as an event with the unknown key `events`.
        if matches!(first, Some(Key::Events)) {
            object.next_value_seed(Envelope(reading))?;
            return match object.next_key::<String>()? {
                None => Ok(()),
                Some(_) => Err(A::Error::custom("an envelope has no key but one `events`")),
            };
        }
        read_fields(reading.scratch, &mut object, first)?;
        reading.settle_next()
    }
}

struct Envelope<'r, 's, F, E>(&'r mut Reading<'s, F, E>);

impl<'de, E, F: FnMut(&[u8]) -> Result<(), E>> DeserializeSeed<'de> for Envelope<'_, '_, F, E> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de, E, F: FnMut(&[u8]) -> Result<(), E>> Visitor<'de> for Envelope<'_, '_, F, E> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, array: A) -> Result<(), A::Error> {
        self.0.read_array(array)
    }
}
