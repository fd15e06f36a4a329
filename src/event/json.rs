//! JSON in: bodies of requests and lines of NDJSON become encoded events, without a tree in between.
//!
//! ```text
//!  body ─▶ next event ─▶ json_quick: ordinary, encoded in one pass ────────────────────────────────┬─▶ emit(key, length, event)
//!              │  ▲          └ unusual ─▶ serde_json, pulled ─▶ visitors ─▶ Draft ─▶ check_event ─────┤
//!              │  └──── , ──────────────────────── rejected under its index, with the reason ◀──────┘
//!              └ not well-formed: all is read again by the visitors, for the message
//! ```
//!
//! The visitors (`json_event`) are the reference: they decide alone what is refused and why. `json_quick` only takes events that they
//! would accept, and gives the same bytes. JSON of other agents (a map, or a unit of times) is read by the visitors only.
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
//! refusals, and a buffer of serde_json for unusual events with escapes.

use std::fmt;
use std::io::BufRead;
use std::ops::Range;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::check::{Rejections, check_batch, check_event};
use super::json_error;
use super::json_event::{At, EventPlace, Scratch, read_fields};
use super::json_key::{Key, KeySeed};
use super::json_options::JsonOptions;
use super::json_scan::skip_space;
use crate::limits::{EVENT_BYTES_MAX, FRAME_EVENTS_MAX};

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

/// Room for the first event of a body, bytes: more than most need.
const ROOM_BYTES_FIRST: usize = 2 * 1024;

/// Turns JSON into encoded events. Reuse it: its buffers stay.
#[derive(Debug)]
pub struct JsonDecoder {
    scratch: Scratch,
}

impl Default for JsonDecoder {
    fn default() -> Self {
        Self::with_options(JsonOptions::default())
    }
}

impl JsonDecoder {
    /// A decoder with empty buffers.
    pub fn new() -> Self {
        Self::default()
    }

    /// A decoder of JSON that is not written for this server.
    pub fn with_options(options: JsonOptions) -> Self {
        let knows_ordinary = options.has_ordinary_events();
        Self { scratch: Scratch { options, knows_ordinary, ..Scratch::default() } }
    }

    /// A decoder that reads every event with the visitors: what `json_quick` is compared with.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn reference(options: JsonOptions) -> Self {
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
        // A body that is one event has room at once.
        let is_array = body.trim_ascii_start().starts_with('[');
        self.scratch.make_room(body.len().min(if is_array { ROOM_BYTES_FIRST } else { EVENT_BYTES_MAX }));
        let mut reading = Reading::new(&mut self.scratch, emit);
        let error = match reading.document(body) {
            Ok(()) => return Ok(reading.decoded),
            Err(_) if body.trim_ascii().is_empty() => return Err(JsonError::Empty),
            Err(error) => error,
        };
        if let Some(stopped) = reading.stopped {
            return Err(stopped);
        }
        let failed_event = reading.failed_event;
        Err(JsonError::Malformed(match error {
            Some(error) => json_error::in_document(body, &error, failed_event),
            None => self.not_json(body),
        }))
    }

    /// The message for a document that is not well-formed.
    fn not_json(&mut self, body: &str) -> String {
        let mut reading = Reading::new(&mut self.scratch, |_: &[u8]| Ok::<(), ()>(()));
        match reading.any_document(body) {
            Err(error) => json_error::in_document(body, &error, reading.failed_event),
            Ok(()) => "the text is not an event, an array of events or an envelope".to_owned(),
        }
    }

    /// The message for a document that is not text, with the index of the event in which it stops being text.
    fn not_text(&mut self, body: &[u8], fault: TextFault) -> String {
        let TextFault::NotUtf8 { valid_bytes } = fault else { return fault.message() };
        let valid = body.get(..valid_bytes).map(str::from_utf8).and_then(Result::ok).unwrap_or_default();
        let mut reading = Reading::new(&mut self.scratch, |_: &[u8]| Ok::<(), ()>(()));
        let _ = reading.any_document(valid);
        json_error::not_utf8(valid_bytes, reading.failed_event)
    }

    /// Reads lines (`application/x-ndjson`), one event object each. A bad line is rejected under its 0-based number;
    /// blank lines are counted and skipped.
    ///
    /// # Errors
    /// There are more than [`FRAME_EVENTS_MAX`] lines that are not blank, or `emit` failed. What was emitted is void.
    pub fn lines<E>(&mut self, body: &[u8], emit: impl FnMut(&[u8]) -> Result<(), E>) -> Result<Decoded, JsonError<E>> {
        self.scratch.make_room(body.len().min(ROOM_BYTES_FIRST));
        let mut reading = Reading::new(&mut self.scratch, emit);
        let may_be_ordinary = reading.scratch.knows_ordinary && simdutf8::basic::from_utf8(body).is_ok();
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
            if may_be_ordinary && reading.take_line(line)? {
                continue;
            }
            if let Err(fault) = read_line(reading.scratch, line) {
                reading.scratch.draft.clear();
                reading.scratch.draft.refuse(fault);
            }
            reading.settle(index)?;
            reading.scratch.make_room_for_more();
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

    /// Reads a document. What is not ordinary in it is read by the visitors. `None` for an error: it is `stopped`, or the one that
    /// [`Reading::any_document`] finds.
    fn document(&mut self, text: &str) -> Result<(), Option<serde_json::Error>> {
        let start = skip_space(text.as_bytes());
        let rest = match start {
            _ if !self.scratch.knows_ordinary => return self.any_document(text).map_err(Some),
            [b'[', events @ ..] => self.events(text, events),
            [b'{', object @ ..] => match envelope(object) {
                Some(events) => self.events(text, events).and_then(|rest| skip_space(rest).strip_prefix(b"}")),
                None => match self.scratch.read_ordinary(start) {
                    Some((event, rest)) if skip_space(rest).is_empty() => self.accept(event).map(|()| rest),
                    _ => return self.any_document(text).map_err(Some),
                },
            },
            _ => None,
        };
        rest.filter(|rest| skip_space(rest).is_empty()).map(|_| ()).ok_or(None)
    }

    /// Reads the events of an array after its bracket; returns what follows it. `None`: `stopped` says why, or it is not well-formed.
    fn events<'t>(&mut self, text: &'t str, events: &'t [u8]) -> Option<&'t [u8]> {
        let mut rest = skip_space(events);
        if let [b']', after @ ..] = rest {
            return Some(after);
        }
        loop {
            rest = match self.scratch.read_ordinary(rest) {
                Some((event, after)) => {
                    self.accept(event)?;
                    after
                }
                None => self.any_event(text, rest)?,
            };
            match skip_space(rest) {
                [b',', after @ ..] => rest = skip_space(after),
                [b']', after @ ..] => return Some(after),
                _ => return None,
            }
        }
    }

    /// Reads the event at `rest`, the end of `text`, with the visitors; returns what follows it. As [`Reading::events`].
    #[inline(never)]
    fn any_event<'t>(&mut self, text: &str, rest: &'t [u8]) -> Option<&'t [u8]> {
        let mut json = serde_json::Deserializer::from_str(text.get(text.len() - rest.len()..)?);
        At(EventPlace(self.scratch)).deserialize(&mut json).ok()?;
        let after = rest.get(json.into_iter::<IgnoredAny>().byte_offset()..)?;
        let settled = self.settle(self.next_index());
        self.note(settled)?;
        self.scratch.make_room_for_more();
        Some(after)
    }

    /// Takes an ordinary event, which is in this range of the scratch's room. `None`: `stopped` says why.
    #[inline]
    fn accept(&mut self, event: Range<usize>) -> Option<()> {
        let accepted = self.accept_ordinary(event);
        self.note(accepted)
    }

    #[inline]
    fn note(&mut self, taken: Result<(), JsonError<E>>) -> Option<()> {
        taken.map_err(|error| self.stopped = Some(error)).ok()
    }

    #[inline]
    fn accept_ordinary(&mut self, event: Range<usize>) -> Result<(), JsonError<E>> {
        self.expect_room()?;
        let event = self.scratch.room.get(event).unwrap_or_default();
        debug_assert!(check_batch(event, 1, |_, _, event| assert!(event.is_ok(), "{event:?}")).is_ok());
        self.decoded.accepted += 1;
        (self.emit)(event).map_err(JsonError::Emit)
    }

    /// Takes a line that is an ordinary event, and UTF-8; whether it is.
    fn take_line(&mut self, line: &[u8]) -> Result<bool, JsonError<E>> {
        match self.scratch.read_ordinary(skip_space(line)) {
            Some((event, rest)) if skip_space(rest).is_empty() => self.accept_ordinary(event).map(|()| true),
            _ => Ok(false),
        }
    }

    /// Reads a document with the visitors: the reference.
    fn any_document(&mut self, text: &str) -> Result<(), serde_json::Error> {
        let mut json = serde_json::Deserializer::from_str(text);
        json.deserialize_any(Document(self)).and_then(|()| json.end())
    }

    /// The index of the next event of a document.
    fn next_index(&self) -> usize {
        self.decoded.accepted + self.decoded.rejected.total
    }

    /// Takes the event in the draft, or rejects it.
    fn settle(&mut self, index: usize) -> Result<(), JsonError<E>> {
        self.expect_room()?;
        let Self { scratch: Scratch { draft, .. }, decoded, .. } = self;
        if let Some(reason) = draft.take_refusal() {
            decoded.rejected.add(index, reason);
        } else if let Err(error) = check_event(draft.event()) {
            decoded.rejected.add(index, error);
        } else {
            decoded.accepted += 1;
            (self.emit)(draft.batch_field()).map_err(JsonError::Emit)?;
        }
        self.scratch.draft.set_silent(!self.decoded.rejected.has_room());
        Ok(())
    }

    /// Fails where a body may not have another event.
    #[inline]
    fn expect_room(&self) -> Result<(), JsonError<E>> {
        if self.next_index() == FRAME_EVENTS_MAX {
            return Err(JsonError::TooManyEvents { max: FRAME_EVENTS_MAX });
        }
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

/// What follows the bracket of an envelope's array; `object` follows its brace. `None`: it is another object.
fn envelope(object: &[u8]) -> Option<&[u8]> {
    let rest = skip_space(object).strip_prefix(b"\"events\"")?;
    let rest = skip_space(rest).strip_prefix(b":")?;
    skip_space(rest).strip_prefix(b"[")
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
