//! Syslog in: messages of RFC 5424 and RFC 3164 become encoded events. Bytes and `now` in, bytes out.
//!
//! ```text
//!  TCP ─▶ Framer ─ message ─┐
//!                           ├─▶ header ─▶ Draft ─▶ event
//!  UDP ───── datagram ──────┘
//! ```
//!
//! | message | event |
//! |---|---|
//! | severity of the priority | severity: emerg 21, alert 19, crit 18, err 17, warning 13, notice 10, info 9, debug 5 |
//! | facility | attribute `syslog.facility` |
//! | TIMESTAMP | time; a BSD time is UTC, in the year nearest to `now` |
//! | APP-NAME or tag, else HOSTNAME | source |
//! | HOSTNAME | attribute `host.name` |
//! | PROCID, MSGID | attributes `syslog.procid`, `syslog.msgid` |
//! | STRUCTURED-DATA | attributes `sd.<id>.<param>`; `sd.<id>` = true for an element without parameters |
//! | MSG | body |
//! | | name `syslog` |
//!
//! **Every message becomes a valid event.** What is neither form is a body, marked `syslog.malformed`; bytes that are not UTF-8
//! are replaced, marked `syslog.invalid_utf8`; what is too long is cut at a character, marked `truncated`; parameters for which
//! there is no room are counted in `syslog.dropped_parameters`. Nothing allocates once the buffers are there.

mod framing;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
mod header;
mod time;

#[cfg(test)]
mod tests;

pub use framing::{Framer, Message, Step};

use super::draft::Draft;
use super::json_map::{SYSLOG_SEVERITIES, TRUNCATED};
use super::view::{AttributeValue, BODY, NAME, SEVERITY, SOURCE, TIME_UNIX_NANO};
use crate::limits::{ATTRIBUTE_KEY_BYTES_MAX, EVENT_NAME_BYTES_MAX, SYSLOG_MESSAGE_BYTES_MAX, SYSLOG_PARAMETERS_MAX};
use crate::text::cut;
use header::Header;

/// The name of every event.
const EVENT_NAME: &str = "syslog";

/// Turns messages into encoded events. Reuse it: its buffers stay.
#[derive(Debug, Default)]
pub struct SyslogDecoder {
    draft: Draft,
    /// The message, where bytes of it were replaced.
    replaced: String,
    /// A key of structured data, and a value without its escapes.
    key: String,
    value: String,
}

impl SyslogDecoder {
    /// A decoder with empty buffers.
    pub fn new() -> Self {
        Self::default()
    }

    /// The event of one message, as a field of an `EventBatch`. `now_unix_nano`: for the year of BSD times.
    pub fn decode(&mut self, message: Message<'_>, now_unix_nano: u64) -> &[u8] {
        let Self { draft, replaced, key, value } = self;
        let Message { bytes, mut truncated } = message;
        let bytes = bytes.get(..SYSLOG_MESSAGE_BYTES_MAX).unwrap_or(bytes);
        truncated |= bytes.len() < message.bytes.len();
        let whole = if truncated { whole_characters(bytes) } else { bytes };
        let (text, is_replaced) = match simdutf8::basic::from_utf8(whole) {
            Ok(text) => (text, false),
            Err(_) => {
                replace(whole, replaced);
                // U+FFFD takes three bytes, and may stand for one.
                let text = cut(replaced, SYSLOG_MESSAGE_BYTES_MAX);
                truncated |= text.len() < replaced.len();
                (text, true)
            }
        };
        draft.clear();
        let Left { dropped, is_cut } = put(draft, &header::read(text, now_unix_nano), (key, value));
        truncated |= is_cut;
        if is_replaced {
            draft.put_attribute("syslog.invalid_utf8", AttributeValue::Bool(true));
        }
        if dropped > 0 {
            draft.put_attribute("syslog.dropped_parameters", AttributeValue::Int(dropped));
        }
        if truncated || dropped > 0 {
            draft.put_attribute(TRUNCATED, AttributeValue::Bool(true));
        }
        debug_assert!(!draft.is_refused(), "a message is shorter than the largest event");
        draft.batch_field()
    }
}

/// What was left out of an event.
struct Left {
    /// Parameters.
    dropped: i64,
    /// The end of the APP-NAME.
    is_cut: bool,
}

/// Appends the fields; returns what was left out.
fn put(draft: &mut Draft, header: &Header<'_>, (key, value): (&mut String, &mut String)) -> Left {
    let Header { priority, time_unix_nano, host, app, process, message_id, structured, body, malformed } = *header;
    if time_unix_nano != 0 {
        draft.put_fixed64(TIME_UNIX_NANO, time_unix_nano);
    }
    let severity = priority.and_then(|priority| SYSLOG_SEVERITIES.get(usize::from(priority & 7)));
    if let Some(severity) = severity {
        draft.put_varint(SEVERITY, u64::from(*severity));
    }
    draft.put_bytes(NAME, EVENT_NAME.as_bytes());
    let source = if app.is_empty() { host } else { app };
    if !source.is_empty() {
        draft.put_bytes(SOURCE, cut(source, EVENT_NAME_BYTES_MAX).as_bytes());
    }
    if !body.is_empty() {
        draft.put_bytes(BODY, body.as_bytes());
    }
    if let Some(priority) = priority {
        draft.put_attribute("syslog.facility", AttributeValue::Int(i64::from(priority >> 3)));
    }
    for (name, text) in [("host.name", host), ("syslog.procid", process), ("syslog.msgid", message_id)] {
        if !text.is_empty() {
            draft.put_attribute(name, AttributeValue::String(text));
        }
    }
    if malformed {
        draft.put_attribute("syslog.malformed", AttributeValue::Bool(true));
    }
    let (mut kept, mut dropped) = (0, 0);
    header::parameters(structured, |id, parameter| {
        key.clear();
        key.push_str("sd.");
        key.push_str(id);
        if let Some((name, _)) = parameter {
            key.push('.');
            key.push_str(name);
        }
        if key.len() > ATTRIBUTE_KEY_BYTES_MAX || kept == SYSLOG_PARAMETERS_MAX {
            dropped += 1;
            return;
        }
        kept += 1;
        match parameter {
            Some((_, escaped)) => {
                unescape(escaped, value);
                draft.put_attribute(key, AttributeValue::String(value));
            }
            None => draft.put_attribute(key, AttributeValue::Bool(true)),
        }
    });
    // A host is an attribute as well.
    Left { dropped, is_cut: app.len() > EVENT_NAME_BYTES_MAX }
}

/// `\"`, `\\` and `\]` stand for the character; any other backslash for itself.
fn unescape(escaped: &str, value: &mut String) {
    value.clear();
    let mut rest = escaped;
    while let Some((before, after)) = rest.split_once('\\') {
        value.push_str(before);
        match after.chars().next() {
            Some(character @ ('"' | '\\' | ']')) => {
                value.push(character);
                rest = after.get(1..).unwrap_or_default();
            }
            _ => {
                value.push('\\');
                rest = after;
            }
        }
    }
    value.push_str(rest);
}

/// Without the character in the middle of which a message was cut.
fn whole_characters(bytes: &[u8]) -> &[u8] {
    match simdutf8::compat::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => bytes.get(..error.valid_up_to()).unwrap_or(bytes),
        _ => bytes,
    }
}

fn replace(bytes: &[u8], text: &mut String) {
    text.clear();
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        if !chunk.invalid().is_empty() {
            text.push('\u{fffd}');
        }
    }
}
