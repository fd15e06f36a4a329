//! An event while it is being written: its encoded bytes, and the first reason to refuse it.
//!
//! ```text
//!  field  [ . . . .│ 32 05 hello 2a 03 api 3a … ]      one buffer, reused from event to event
//!          └ room for the key and length of the event in a batch, known only at the end
//! ```
//!
//! Fields are appended as they come: in protobuf the last one of a number counts, as in JSON. After a refusal nothing
//! is written any more, so that a hostile body cannot make the buffer much longer than one event may be.

use std::fmt::Display;

use super::protobuf::{put_varint, varint_bytes};
use super::view::{
    ATTRIBUTE_KEY, ATTRIBUTES, AttributeValue, BOOL_VALUE, BYTES_VALUE, DOUBLE_VALUE, EVENTS, INT_VALUE, STRING_VALUE,
};
use crate::limits::EVENT_BYTES_MAX;

/// Bytes before the event: one of key, and the varint of a length up to [`EVENT_BYTES_MAX`].
pub(super) const HEADER_BYTES: usize = 1 + varint_bytes(EVENT_BYTES_MAX as u64);
/// Most events are shorter: for one event a request the buffer is allocated once.
const USUAL_BYTES: usize = 512;

/// The encoded event and the first reason to refuse it; reused from event to event. Allocated for the first one.
#[derive(Debug, Default)]
pub(super) struct Draft {
    field: Vec<u8>,
    refusal: Option<String>,
    /// Nobody reads the reason of a refusal.
    is_silent: bool,
}

impl Draft {
    /// Begins the next event.
    pub(super) fn clear(&mut self) {
        if self.field.is_empty() {
            self.field.reserve(USUAL_BYTES);
        }
        self.field.resize(HEADER_BYTES, 0);
        self.refusal = None;
    }

    /// The first reason counts. It is written only then, and only if somebody reads it: whatever takes time belongs in its `Display`.
    pub(super) fn refuse(&mut self, reason: impl Display) {
        if self.refusal.is_none() {
            self.refusal = Some(if self.is_silent { String::new() } else { reason.to_string() });
        }
    }

    /// From now on nobody reads the reasons of refusals, or somebody does.
    pub(super) fn set_silent(&mut self, is_silent: bool) {
        self.is_silent = is_silent;
    }

    /// Whether the event has a reason to be refused.
    pub(super) fn is_refused(&self) -> bool {
        self.refusal.is_some()
    }

    /// The first reason to refuse the event, which is removed; `None`: there is none.
    pub(super) fn take_refusal(&mut self) -> Option<String> {
        self.refusal.take()
    }

    /// The encoded event.
    pub(super) fn event(&self) -> &[u8] {
        self.field.get(HEADER_BYTES..).unwrap_or_default()
    }

    /// The event as a field of an `EventBatch`: key, length, event.
    pub(super) fn batch_field(&mut self) -> &[u8] {
        let event_bytes = self.event().len();
        let start = write_header(&mut self.field, event_bytes);
        self.field.get(start..).unwrap_or_default()
    }

    /// Whether `bytes` more can be written; if not, the event is refused.
    pub(super) fn has_room(&mut self, bytes: usize) -> bool {
        if self.event().len().saturating_add(bytes) > EVENT_BYTES_MAX {
            self.refuse(format_args!("event has more than {EVENT_BYTES_MAX} bytes"));
        }
        !self.is_refused()
    }

    /// Appends a varint field. Refuses the event instead if it becomes too long.
    pub(super) fn put_varint(&mut self, key: u32, value: u64) {
        if self.has_room(varint_bytes(value) + 1) {
            self.field.push(key as u8);
            put_varint(&mut self.field, value);
        }
    }

    /// Appends a field of eight little-endian bytes. Refuses the event instead if it becomes too long.
    pub(super) fn put_fixed64(&mut self, key: u32, value: u64) {
        if self.has_room(9) {
            self.field.push(key as u8);
            self.field.extend_from_slice(&value.to_le_bytes());
        }
    }

    /// Appends a field with a length: text, bytes or a message. Refuses the event instead if it becomes too long.
    pub(super) fn put_bytes(&mut self, key: u32, bytes: &[u8]) {
        if self.has_room(delimited_bytes(bytes)) {
            self.field.push(key as u8);
            put_varint(&mut self.field, bytes.len() as u64);
            self.field.extend_from_slice(bytes);
        }
    }

    /// Appends an attribute. Refuses the event instead if it becomes too long.
    pub(super) fn put_attribute(&mut self, key: &str, value: AttributeValue<'_>) {
        let value_bytes = match value {
            AttributeValue::Null => 0,
            AttributeValue::String(text) => delimited_bytes(text.as_bytes()),
            AttributeValue::Int(number) => 1 + varint_bytes(number as u64),
            AttributeValue::Double(_) => 9,
            AttributeValue::Bool(_) => 2,
            AttributeValue::Bytes(bytes) => delimited_bytes(bytes),
        };
        let bytes = delimited_bytes(key.as_bytes()) + value_bytes;
        if !self.has_room(1 + varint_bytes(bytes as u64) + bytes) {
            return;
        }
        self.field.push(ATTRIBUTES as u8);
        put_varint(&mut self.field, bytes as u64);
        self.put_bytes(ATTRIBUTE_KEY, key.as_bytes());
        match value {
            AttributeValue::Null => {}
            AttributeValue::String(text) => self.put_bytes(STRING_VALUE, text.as_bytes()),
            AttributeValue::Int(number) => self.put_varint(INT_VALUE, number as u64),
            AttributeValue::Double(number) => self.put_fixed64(DOUBLE_VALUE, number.to_bits()),
            AttributeValue::Bool(yes) => self.put_varint(BOOL_VALUE, u64::from(yes)),
            AttributeValue::Bytes(bytes) => self.put_bytes(BYTES_VALUE, bytes),
        }
    }
}

/// Writes the key and the length of an event in a batch, which end after [`HEADER_BYTES`]. Returns where they begin.
#[inline]
pub(super) fn write_header(field: &mut [u8], event_bytes: usize) -> usize {
    const EVENT: u8 = EVENTS as u8;
    const MORE: u8 = 0x80;
    let [low, middle, high] = [event_bytes as u8, (event_bytes >> 7) as u8, (event_bytes >> 14) as u8];
    let (header, start) = match event_bytes {
        ..0x80 => ([0, 0, EVENT, low], 2),
        0x80..0x4000 => ([0, EVENT, low | MORE, middle], 1),
        _ => ([EVENT, low | MORE, middle | MORE, high], 0),
    };
    if let Some(place) = field.first_chunk_mut::<HEADER_BYTES>() {
        *place = header;
    }
    start
}

/// Key of one byte, length and content.
fn delimited_bytes(content: &[u8]) -> usize {
    1 + varint_bytes(content.len() as u64) + content.len()
}
