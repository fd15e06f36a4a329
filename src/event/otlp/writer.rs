//! Writes one event of OTLP in place, within the limits of the contract: what is too long is cut, what there is no room for
//! is left out and counted.
//!
//! ```text
//!  out  [ . . . . │ 09 time │ 10 kind │ 22 source │ 2a name │ 32 body │ 3a attribute │ 3a … │ 41 value │ 52 ids ]
//!         └ key and length of the event in a batch        └ resource and scope: copied as they were encoded once
//! ```

use crate::event::protobuf::varint_bytes;
use crate::event::view::{
    ATTRIBUTE_KEY, ATTRIBUTES, BOOL_VALUE, BYTES_VALUE, DOUBLE_VALUE, EVENTS, INT_VALUE, STRING_VALUE,
};
use crate::limits::{
    ATTRIBUTE_KEY_BYTES_MAX, EVENT_ATTRIBUTES_MAX, EVENT_BYTES_MAX, OTLP_OWN_ATTRIBUTES, OTLP_OWN_BYTES,
    OTLP_TAIL_BYTES,
};

/// Key and length of an event in a batch, at most.
const HEAD_BYTES: usize = 1 + varint_bytes(EVENT_BYTES_MAX as u64);
/// The same for most events: of 128 bytes to 16 KiB.
const USUAL_HEAD_BYTES: usize = 3;
/// Bytes that a [`Writer`] needs for one event.
pub const EVENT_FIELD_BYTES_MAX: usize = HEAD_BYTES + EVENT_BYTES_MAX;

/// The value of an attribute.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scalar<'a> {
    /// Checked to be UTF-8.
    Text(&'a [u8]),
    /// Any integer.
    Int(i64),
    /// May be NaN or infinite.
    Double(f64),
    /// True or false.
    Bool(bool),
    /// Any bytes.
    Bytes(&'a [u8]),
}

/// The key of an attribute, in two parts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key<'a> {
    /// The names around it, with their dots.
    pub prefix: &'a [u8],
    /// Its own name.
    pub name: &'a [u8],
}

impl<'a> Key<'a> {
    /// A key of one part.
    pub(super) fn of(name: &'a str) -> Self {
        Self { prefix: &[], name: name.as_bytes() }
    }
}

/// What an event lacks of what was sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Losses {
    /// A text was cut.
    pub cut: bool,
    /// Attributes that were left out.
    pub attributes: u64,
}

/// Writes the fields of one event, or of the attributes that many have in common.
pub(super) struct Writer<'o> {
    out: &'o mut [u8],
    at: usize,
    /// Where what can be cut or left out ends.
    limit: usize,
    attributes: usize,
    attributes_max: usize,
    /// So far.
    pub losses: Losses,
}

impl<'o> Writer<'o> {
    /// Begins an event in `out`, which has room for [`EVENT_FIELD_BYTES_MAX`].
    pub(super) fn event(out: &'o mut [u8]) -> Self {
        let limit = USUAL_HEAD_BYTES + EVENT_BYTES_MAX - OTLP_TAIL_BYTES - OTLP_OWN_BYTES;
        let attributes_max = EVENT_ATTRIBUTES_MAX - OTLP_OWN_ATTRIBUTES;
        Self { out, at: USUAL_HEAD_BYTES, limit, attributes: 0, attributes_max, losses: Losses::default() }
    }

    /// Continues with attributes alone, of which there are `attributes` and room for `attributes_max`, at `at`.
    pub(super) fn attributes(
        out: &'o mut [u8],
        at: usize,
        attributes: usize,
        attributes_max: usize,
        losses: Losses,
    ) -> Self {
        let limit = out.len();
        Self { out, at, limit, attributes, attributes_max, losses }
    }

    /// How far it has written, and how many attributes.
    pub(super) fn written(&self) -> (usize, usize) {
        (self.at, self.attributes)
    }

    /// From now on come the attributes that are named by us: there is room for them.
    pub(super) fn begin_own_attributes(&mut self) {
        self.limit += OTLP_OWN_BYTES;
        self.attributes_max = EVENT_ATTRIBUTES_MAX - MARKERS;
    }

    /// Appends bytes that were encoded before: fields of the event, of which `attributes` are attributes.
    #[inline(always)]
    pub(super) fn encoded(&mut self, bytes: &[u8], attributes: usize) {
        self.raw(bytes);
        self.attributes += attributes;
    }

    /// Appends a field of eight bytes.
    #[inline(always)]
    pub(super) fn fixed64(&mut self, key: u32, value: u64) {
        self.byte(key as u8);
        self.raw(&value.to_le_bytes());
    }

    /// Appends a varint field.
    #[inline(always)]
    pub(super) fn varint(&mut self, key: u32, value: u64) {
        self.byte(key as u8);
        self.put_varint(value);
    }

    /// Appends a text, cut to `max` bytes.
    #[inline(always)]
    pub(super) fn text(&mut self, key: u32, text: &[u8], max: usize) {
        let text = self.cut(text, max);
        self.bytes(key, text);
    }

    /// Appends a field with a length.
    #[inline(always)]
    pub(super) fn bytes(&mut self, key: u32, bytes: &[u8]) {
        self.byte(key as u8);
        self.put_varint(bytes.len() as u64);
        self.raw(bytes);
    }

    /// Appends an attribute, cut to the room that there is, or leaves it out and counts it.
    #[inline]
    pub(super) fn attribute(&mut self, key: Key<'_>, value: Scalar<'_>) {
        let key_bytes = key.prefix.len() + key.name.len();
        // The usual one: short, and there is room.
        if let Scalar::Text(text) = value
            && key.prefix.is_empty()
            && (1..100).contains(&key.name.len())
            && text.len() < 0x80
            && self.attributes < self.attributes_max
            && self.at + 256 <= self.limit
        {
            let bytes = 4 + key.name.len() + text.len();
            self.attributes += 1;
            self.byte(ATTRIBUTES as u8);
            self.put_varint(bytes as u64);
            self.byte(ATTRIBUTE_KEY as u8);
            self.byte(key.name.len() as u8);
            self.raw(key.name);
            self.byte(STRING_VALUE as u8);
            self.byte(text.len() as u8);
            return self.raw(text);
        }
        if key_bytes == 0 || self.attributes >= self.attributes_max {
            self.losses.attributes += 1;
            return;
        }
        self.any_attribute(key, value);
    }

    fn any_attribute(&mut self, key: Key<'_>, mut value: Scalar<'_>) {
        // A prefix is cut between characters already.
        let prefix = self.cut(key.prefix, ATTRIBUTE_KEY_BYTES_MAX);
        let name = self.cut(key.name, ATTRIBUTE_KEY_BYTES_MAX - prefix.len());
        let key_field = delimited_bytes(prefix.len() + name.len());
        let room = self.limit.saturating_sub(self.at);
        let whole = |value_bytes: usize| {
            let bytes = key_field + value_bytes;
            1 + varint_bytes(bytes as u64) + bytes
        };
        if let Scalar::Text(text) = value
            && whole(delimited_bytes(text.len())) > room
        {
            // Lengths of a text within an event take at most three bytes, as that of its attribute.
            let most = room.saturating_sub(key_field + 8);
            if most == 0 {
                self.losses.attributes += 1;
                return;
            }
            value = Scalar::Text(self.cut(text, most));
        }
        let value_bytes = match value {
            Scalar::Text(bytes) | Scalar::Bytes(bytes) => delimited_bytes(bytes.len()),
            Scalar::Int(number) => 1 + varint_bytes(number as u64),
            Scalar::Double(_) => 9,
            Scalar::Bool(_) => 2,
        };
        if whole(value_bytes) > room {
            self.losses.attributes += 1;
            return;
        }
        self.attributes += 1;
        self.byte(ATTRIBUTES as u8);
        self.put_varint((key_field + value_bytes) as u64);
        self.byte(ATTRIBUTE_KEY as u8);
        self.put_varint((prefix.len() + name.len()) as u64);
        self.raw(prefix);
        self.raw(name);
        match value {
            Scalar::Text(text) => self.bytes(STRING_VALUE, text),
            Scalar::Int(number) => self.varint(INT_VALUE, number as u64),
            Scalar::Double(number) => self.fixed64(DOUBLE_VALUE, number.to_bits()),
            Scalar::Bool(yes) => self.varint(BOOL_VALUE, u64::from(yes)),
            Scalar::Bytes(bytes) => self.bytes(BYTES_VALUE, bytes),
        }
    }

    /// Appends the attributes that say what the event lacks, where it lacks something. Nothing but value, duration and ids may
    /// follow.
    #[inline]
    pub(super) fn mark_losses(&mut self) {
        if self.losses == Losses::default() {
            return;
        }
        self.attributes_max = EVENT_ATTRIBUTES_MAX;
        self.limit += OTLP_TAIL_BYTES / 2;
        let lost = self.losses.attributes;
        self.attribute(Key::of(TRUNCATED), Scalar::Bool(true));
        if lost > 0 {
            self.attribute(Key::of(TRUNCATED_ATTRIBUTES), Scalar::Int(lost.min(i64::MAX as u64) as i64));
        }
    }

    /// Writes key and length before the event. Returns the bytes of the whole field.
    #[inline]
    pub(super) fn finish(self) -> usize {
        let length = self.at - USUAL_HEAD_BYTES;
        let length_bytes = varint_bytes(length as u64);
        if 1 + length_bytes != USUAL_HEAD_BYTES {
            self.out.copy_within(USUAL_HEAD_BYTES..self.at, 1 + length_bytes);
        }
        let mut head = Writer { at: 0, ..Writer::attributes(self.out, 0, 0, 0, self.losses) };
        head.byte(EVENTS as u8);
        head.put_varint(length as u64);
        1 + length_bytes + length
    }

    /// A text of at most `max` bytes.
    #[inline(always)]
    fn cut<'t>(&mut self, text: &'t [u8], max: usize) -> &'t [u8] {
        if text.len() <= max {
            return text;
        }
        self.losses.cut = true;
        cut(text, max)
    }

    #[inline(always)]
    fn put_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.byte(value as u8 | 0x80);
            value >>= 7;
        }
        self.byte(value as u8);
    }

    #[inline(always)]
    fn byte(&mut self, byte: u8) {
        if let Some(place) = self.out.get_mut(self.at) {
            *place = byte;
        }
        self.at += 1;
    }

    #[inline(always)]
    fn raw(&mut self, bytes: &[u8]) {
        let end = self.at + bytes.len();
        if let Some(place) = self.out.get_mut(self.at..end) {
            place.copy_from_slice(bytes);
        }
        self.at = end;
    }
}

/// Name of the attribute of an event that lacks something.
pub(super) const TRUNCATED: &str = "truncated";
/// Name of the attribute with the number of attributes that were left out.
pub(super) const TRUNCATED_ATTRIBUTES: &str = "truncated_attributes";
/// How many of these there are.
const MARKERS: usize = 2;

/// The longest prefix of whole characters within `max` bytes of a text that is UTF-8.
pub(super) fn cut(text: &[u8], max: usize) -> &[u8] {
    let mut end = max.min(text.len());
    while end > 0 && text.get(end).is_some_and(|byte| byte & 0xC0 == 0x80) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// Key of one byte, length and content.
fn delimited_bytes(content: usize) -> usize {
    1 + varint_bytes(content as u64) + content
}
