//! The ordinary event in JSON, read in one pass that writes its encoded bytes as it goes.
//!
//! ```text
//!  { ─▶ "key" ─▶ : ─▶ value ─┬─ , ─▶ next key
//!            │         │     └─ } ─▶ encoded event, and the text after it
//!            └─────────┴───── anything unusual ─▶ None: `json_event` reads this event from its beginning
//! ```
//!
//! Ordinary is an object of known keys, each once, with values that the contract accepts, and attributes that are texts, numbers,
//! booleans, null, or objects of these. Everything else is left to `json_event`, the reference: what it refuses, why, and how it
//! spells a message. What is read here has the bytes that the reference would have written (`json_quick_tests`), and keeps the rules
//! of `check`.

use std::ops::Range;

use super::draft::{HEADER_BYTES, write_header};
use super::json_event::hex_id;
use super::json_key::{FIELD_NAMES, Field};
use super::json_scan::{DIGITS_MAX, copy_plain, digits, skip_space};
use super::proto::EventKind;
use super::protobuf::varint_bytes;
use super::rfc3339;
use super::view::{
    ATTRIBUTE_KEY, ATTRIBUTES, BODY, BOOL_VALUE, DOUBLE_VALUE, DURATION_NANO, INT_VALUE, KIND, NAME, PARENT_SPAN_ID,
    SEVERITY, SOURCE, SPAN_ID, STRING_VALUE, TIME_UNIX_NANO, TRACE_ID, VALUE,
};
use crate::limits::{
    EVENT_ATTRIBUTES_MAX, EVENT_BODY_BYTES_MAX, EVENT_BYTES_MAX, EVENT_NAME_BYTES_MAX, JSON_TIME_UNIX_NANO_MIN,
    SEVERITY_MAX,
};

/// Deepest nesting within `attributes` that is read here.
const DEPTH_MAX: usize = 8;
/// A length below this is one byte.
const SHORT_BYTES: usize = 0x80;

/// Reads the event at the beginning of `text`, which is UTF-8, into `room`. Returns the range of `room` with the event as a field of an
/// `EventBatch`, and the text after it. `None`: the event is not ordinary, is longer than `room`, or is not an event.
pub(super) fn read_event<'t>(text: &'t [u8], room: &mut [u8]) -> Option<(Range<usize>, &'t [u8])> {
    let [b'{', rest @ ..] = text else { return None };
    let mut event = Event { rest: skip_space(rest), room, at: HEADER_BYTES, seen: 0, attributes: 0, has_text: false };
    loop {
        let field = event.key()?;
        event.colon()?;
        event.field(field)?;
        if event.is_last()? {
            break;
        }
    }
    let Event { rest, room, at, attributes, has_text, .. } = event;
    let event_bytes = at - HEADER_BYTES;
    if !has_text || attributes > EVENT_ATTRIBUTES_MAX || event_bytes > EVENT_BYTES_MAX {
        return None;
    }
    let start = write_header(room, event_bytes);
    Some((start..at, rest))
}

/// Whether to try the next event. Where one after the other is not ordinary, few are tried: 2, 6, 14 … at most 62 are left out.
#[derive(Debug, Default)]
pub(super) struct Trials {
    /// Events tried since the last ordinary one, as far as they count.
    misses: u32,
    /// Events that are not tried.
    left_out: u32,
}

impl Trials {
    /// Whether the next event is to be tried.
    #[inline]
    pub(super) fn is_due(&mut self) -> bool {
        let is_due = self.left_out == 0;
        self.left_out = self.left_out.saturating_sub(1);
        is_due
    }

    /// Notes whether the event that was tried is ordinary.
    #[inline]
    pub(super) fn note(&mut self, is_ordinary: bool) {
        const MISSES_MAX: u32 = 6;
        self.misses = if is_ordinary { 0 } else { (self.misses + 1).min(MISSES_MAX) };
        self.left_out = (1_u32 << self.misses).saturating_sub(2);
    }
}

/// An event while it is read.
struct Event<'t, 'r> {
    /// What is not read yet.
    rest: &'t [u8],
    /// Where the encoded event is written.
    room: &'r mut [u8],
    /// The end of what is written.
    at: usize,
    /// A bit for each field that occurred.
    seen: u32,
    /// Number of attributes.
    attributes: usize,
    /// Whether `name` or `body` is set.
    has_text: bool,
}

/// A number as the contract sees it.
enum Number {
    Int(i64),
    Double(f64),
}

impl Event<'_, '_> {
    /// Reads the key of a field that did not occur yet.
    #[inline(always)]
    fn key(&mut self) -> Option<Field> {
        let [b'"', name @ ..] = self.rest else { return None };
        let chunk = name.first_chunk().map_or_else(|| short_chunk(name), |chunk| u128::from_le_bytes(*chunk));
        let known = KEYS.get(slot(chunk as u16))?;
        let bit = 1 << known.field as u32;
        if chunk & known.mask != known.name || self.seen & bit != 0 {
            return None;
        }
        self.seen |= bit;
        self.rest = name.get(known.bytes..)?;
        Some(known.field)
    }

    /// Passes the colon after a key, with the space around it.
    #[inline(always)]
    fn colon(&mut self) -> Option<()> {
        let [b':', rest @ ..] = skip_space(self.rest) else { return None };
        self.rest = skip_space(rest);
        Some(())
    }

    /// Passes what follows a member of an object: a comma, or the brace after the last one.
    #[inline(always)]
    fn is_last(&mut self) -> Option<bool> {
        match skip_space(self.rest) {
            [b',', rest @ ..] => {
                self.rest = skip_space(rest);
                Some(false)
            }
            [b'}', rest @ ..] => {
                self.rest = rest;
                Some(true)
            }
            _ => None,
        }
    }

    #[inline(always)]
    fn field(&mut self, field: Field) -> Option<()> {
        if let [b'n', ..] = self.rest {
            return self.pass(b"null");
        }
        match field {
            Field::Time => self.time(),
            Field::Kind => self.kind(),
            Field::Severity => self.severity(),
            Field::Source | Field::Name | Field::Body => {
                let (key, bytes_max) = match field {
                    Field::Source => (SOURCE, EVENT_NAME_BYTES_MAX),
                    Field::Name => (NAME, EVENT_NAME_BYTES_MAX),
                    _ => (BODY, EVENT_BODY_BYTES_MAX),
                };
                let bytes = self.text(key)?;
                self.has_text |= bytes > 0 && field != Field::Source;
                (bytes <= bytes_max).then_some(())
            }
            Field::Attributes => self.attributes(),
            Field::Value => {
                let value = match self.number()? {
                    Number::Int(number) => number as f64,
                    Number::Double(number) => number,
                };
                self.put_fixed64(VALUE, value.to_bits())
            }
            Field::DurationNano => {
                let Number::Int(nanoseconds @ 0..) = self.number()? else { return None };
                self.put_fixed64(DURATION_NANO, nanoseconds as u64)
            }
            Field::TraceId => self.id::<16, 32>(TRACE_ID),
            Field::SpanId => self.id::<8, 16>(SPAN_ID),
            Field::ParentSpanId => self.id::<8, 16>(PARENT_SPAN_ID),
        }
    }

    #[inline(always)]
    fn time(&mut self) -> Option<()> {
        let nanoseconds = if let [b'"', text @ ..] = self.rest {
            let (nanoseconds, after) = rfc3339::parse_usual(text).or_else(|| any_time(text))?;
            self.rest = after;
            self.pass(b"\"")?;
            nanoseconds
        } else {
            match self.number()? {
                Number::Int(0) => 0,
                Number::Int(nanoseconds) if nanoseconds >= JSON_TIME_UNIX_NANO_MIN as i64 => nanoseconds as u64,
                _ => return None,
            }
        };
        self.put_fixed64(TIME_UNIX_NANO, nanoseconds)
    }

    #[inline(always)]
    fn kind(&mut self) -> Option<()> {
        let kind = self.one_of(&[
            (b"\"log\"", EventKind::Log as u8),
            (b"\"gauge\"", EventKind::Gauge as u8),
            (b"\"counter\"", EventKind::Counter as u8),
            (b"\"span\"", EventKind::Span as u8),
            (b"\"histogram\"", EventKind::Histogram as u8),
            (b"\"summary\"", EventKind::Summary as u8),
        ])?;
        self.put([KIND as u8, kind])
    }

    #[inline(always)]
    fn severity(&mut self) -> Option<()> {
        if let [b'"', ..] = self.rest {
            let severity = self.one_of(&[
                (b"\"info\"", 9),
                (b"\"debug\"", 5),
                (b"\"warn\"", 13),
                (b"\"error\"", 17),
                (b"\"trace\"", 1),
                (b"\"fatal\"", 21),
            ])?;
            return self.put([SEVERITY as u8, severity]);
        }
        match self.number()? {
            Number::Int(number) if (0..=i64::from(SEVERITY_MAX)).contains(&number) => {
                self.put([SEVERITY as u8, number as u8])
            }
            _ => None,
        }
    }

    /// Passes the text of one of these.
    #[inline(always)]
    fn one_of<const N: usize>(&mut self, names: &[(&[u8], u8); N]) -> Option<u8> {
        for (name, number) in names {
            if let Some(after) = self.rest.strip_prefix(*name) {
                self.rest = after;
                return Some(*number);
            }
        }
        None
    }

    /// Writes a text as a field; returns its length.
    #[inline(always)]
    fn text(&mut self, key: u32) -> Option<usize> {
        let [b'"', source @ ..] = self.rest else { return None };
        let start = self.at;
        let (bytes, after) = copy_text(source, self.room.get_mut(start + 2..)?)?;
        self.rest = after;
        self.close(start, key, bytes)?;
        Some(bytes)
    }

    /// Writes key and length before the `bytes` that were written from two bytes after `start` on.
    #[inline(always)]
    fn close(&mut self, start: usize, key: u32, bytes: usize) -> Option<()> {
        if bytes >= SHORT_BYTES {
            self.at = close_long(self.room, start, key, bytes)?;
            return Some(());
        }
        *self.room.get_mut(start..)?.first_chunk_mut()? = [key as u8, bytes as u8];
        self.at = start + 2 + bytes;
        Some(())
    }

    #[inline(always)]
    fn put<const BYTES: usize>(&mut self, bytes: [u8; BYTES]) -> Option<()> {
        *self.room.get_mut(self.at..)?.first_chunk_mut()? = bytes;
        self.at += BYTES;
        Some(())
    }

    #[inline(always)]
    fn put_fixed64(&mut self, key: u32, value: u64) -> Option<()> {
        self.put([key as u8])?;
        self.put(value.to_le_bytes())
    }

    #[inline(always)]
    fn id<const BYTES: usize, const DIGITS: usize>(&mut self, key: u32) -> Option<()> {
        let [b'"', text @ ..] = self.rest else { return None };
        let (digits, after) = text.split_first_chunk::<DIGITS>()?;
        let [b'"', rest @ ..] = after else { return None };
        self.rest = rest;
        self.put([key as u8, BYTES as u8])?;
        self.put(hex_id::<BYTES>(digits)?)
    }

    /// Passes this text.
    #[inline(always)]
    fn pass<const BYTES: usize>(&mut self, text: &[u8; BYTES]) -> Option<()> {
        self.rest = self.rest.strip_prefix(text)?;
        Some(())
    }

    /// Reads the object of attributes, and the objects within.
    ///
    /// ```text
    ///  start: ATTRIBUTES, length │ ATTRIBUTE_KEY, length │ key │ key of the value, value
    ///                                                      └ prefix of the next ones, where the value is an object
    /// ```
    #[inline(always)]
    fn attributes(&mut self) -> Option<()> {
        // Lengths of the prefixes around the present one, which all begin as it does.
        let mut outer = [0_u8; DEPTH_MAX];
        let (mut depth, mut prefix, mut prefix_bytes) = (0, 0, 0);
        self.pass(b"{")?;
        if self.is_empty_object() {
            return Some(());
        }
        loop {
            let start = self.at;
            let key_start = start + 4;
            let name_start =
                if depth == 0 { key_start } else { put_prefix(self.room, prefix, prefix_bytes, key_start)? };
            let key_bytes = self.attribute_key(name_start)? - key_start;
            if key_bytes >= SHORT_BYTES || key_bytes == 0 {
                return None;
            }
            if let [b'{', rest @ ..] = self.rest {
                (self.rest, self.at) = (rest, start);
                if !self.is_empty_object() {
                    *outer.get_mut(depth)? = prefix_bytes as u8;
                    (depth, prefix, prefix_bytes) = (depth + 1, key_start, key_bytes);
                    continue;
                }
            } else if let [b'n', ..] = self.rest {
                self.pass(b"null")?;
                self.at = start;
            } else {
                self.attribute_value()?;
                self.attributes += 1;
                *self.room.get_mut(start + 2..)?.first_chunk_mut()? = [ATTRIBUTE_KEY as u8, key_bytes as u8];
                let bytes = self.at - (start + 2);
                // A longer one is moved, and the prefix might be within.
                if bytes >= SHORT_BYTES && depth > 0 {
                    return None;
                }
                self.close(start, ATTRIBUTES, bytes)?;
            }
            while self.is_last()? {
                let Some(around) = depth.checked_sub(1) else { return Some(()) };
                depth = around;
                prefix_bytes = usize::from(*outer.get(depth)?);
            }
        }
    }

    /// If an object ends here, whose brace was passed, passes its end; if not, the space before its first key.
    #[inline(always)]
    fn is_empty_object(&mut self) -> bool {
        self.rest = skip_space(self.rest);
        match self.rest {
            [b'}', rest @ ..] => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    /// Writes the name of an attribute from `start` on, and passes the colon. Returns where the name ends.
    #[inline(always)]
    fn attribute_key(&mut self, start: usize) -> Option<usize> {
        let [b'"', name @ ..] = self.rest else { return None };
        let (name_bytes, after) = copy_text(name, self.room.get_mut(start..)?)?;
        self.rest = after;
        self.colon()?;
        self.at = start + name_bytes;
        Some(self.at)
    }

    #[inline(always)]
    fn attribute_value(&mut self) -> Option<()> {
        match self.rest {
            [b'"', ..] => self.text(STRING_VALUE).map(|_| ()),
            [b't', ..] => {
                self.pass(b"true")?;
                self.put([BOOL_VALUE as u8, 1])
            }
            [b'f', ..] => {
                self.pass(b"false")?;
                self.put([BOOL_VALUE as u8, 0])
            }
            _ => match self.number()? {
                Number::Int(number) => self.put_varint(INT_VALUE, number as u64),
                Number::Double(number) => self.put_fixed64(DOUBLE_VALUE, number.to_bits()),
            },
        }
    }

    #[inline(always)]
    fn put_varint(&mut self, key: u32, mut value: u64) -> Option<()> {
        self.put([key as u8])?;
        while value >= 0x80 {
            self.put([value as u8 | 0x80])?;
            value >>= 7;
        }
        self.put([value as u8])
    }

    /// Reads a number of at most 19 digits, without exponent, that is exact as an i64 or by one division.
    #[inline(always)]
    fn number(&mut self) -> Option<Number> {
        let (is_negative, rest) = match self.rest {
            [b'-', rest @ ..] => (true, rest),
            rest => (false, rest),
        };
        let (whole, whole_digits, after) = digits(rest)?;
        if whole_digits == 0 || whole_digits > 1 && rest.first() == Some(&b'0') {
            return None;
        }
        let number = if let [b'.', fraction @ ..] = after {
            let (fraction, fraction_digits, after) = digits(fraction)?;
            self.rest = after;
            double(is_negative, whole, whole_digits, fraction, fraction_digits)?
        } else {
            self.rest = after;
            let number = i64::try_from(whole).ok()?;
            match (is_negative, number) {
                (true, 0) => Number::Double(-0.0),
                (true, number) => Number::Int(-number),
                (false, number) => Number::Int(number),
            }
        };
        if let [b'e' | b'E' | b'.', ..] = self.rest { None } else { Some(number) }
    }
}

/// As [`Event::close`], for a length that takes more than one byte; returns where what was written ends.
#[inline(never)]
fn close_long(room: &mut [u8], start: usize, key: u32, bytes: usize) -> Option<usize> {
    let length_bytes = varint_bytes(bytes as u64);
    let (from, to) = (start + 2, start + 1 + length_bytes);
    room.get(..to + bytes)?;
    room.copy_within(from..from + bytes, to);
    let (first, places) = room.get_mut(start..to)?.split_first_mut()?;
    *first = key as u8;
    let mut length = bytes;
    for place in places.iter_mut() {
        *place = length as u8 | 0x80;
        length >>= 7;
    }
    *places.last_mut()? &= 0x7F;
    Some(to + bytes)
}

/// Writes the `bytes` at `prefix` once more at `to`, and a dot; returns where it ends.
#[inline(never)]
fn put_prefix(room: &mut [u8], prefix: usize, bytes: usize, to: usize) -> Option<usize> {
    let end = to + bytes;
    room.get(..=end)?;
    room.copy_within(prefix..prefix + bytes, to);
    *room.get_mut(end)? = b'.';
    Some(end + 1)
}

/// `whole.fraction` as the double that is nearest: exact integers below 2^53 and powers of ten up to 10^22 make one division exact but
/// for its own rounding.
#[inline(always)]
fn double(is_negative: bool, whole: u64, whole_digits: usize, fraction: u64, fraction_digits: usize) -> Option<Number> {
    if fraction_digits == 0 || whole_digits + fraction_digits > DIGITS_MAX {
        return None;
    }
    let digits = whole * TENS.get(fraction_digits)? + fraction;
    if digits >= 1 << 53 {
        return None;
    }
    let number = digits as f64 / DOUBLE_TENS.get(fraction_digits)?;
    Some(Number::Double(if is_negative { -number } else { number }))
}

const TENS: [u64; DIGITS_MAX + 1] = {
    let mut tens = [1; DIGITS_MAX + 1];
    let mut at = 1;
    while at < tens.len() {
        tens[at] = 10 * tens[at - 1];
        at += 1;
    }
    tens
};

/// Exact: 10^22 is the largest power of ten that is a double.
const DOUBLE_TENS: [f64; DIGITS_MAX + 1] = {
    let mut tens = [1.0; DIGITS_MAX + 1];
    let mut at = 1;
    while at < tens.len() {
        tens[at] = TENS[at] as f64;
        at += 1;
    }
    tens
};

/// Copies a text without its escapes to the beginning of `to`. Returns its length, and what follows its quotation mark.
#[inline(always)]
fn copy_text<'t>(source: &'t [u8], to: &mut [u8]) -> Option<(usize, &'t [u8])> {
    let bytes = copy_plain(source, to)?;
    match source.get(bytes..)? {
        [b'"', after @ ..] => Some((bytes, after)),
        rest => unescape(rest, to, bytes),
    }
}

/// Goes on with [`copy_text`] at an escape, after `bytes` were written.
#[inline(never)]
fn unescape<'t>(mut rest: &'t [u8], to: &mut [u8], mut bytes: usize) -> Option<(usize, &'t [u8])> {
    loop {
        rest = match rest {
            [b'"', after @ ..] => return Some((bytes, after)),
            [b'\\', b'u', after @ ..] => {
                let (character, after) = escaped_character(after)?;
                let place = to.get_mut(bytes..)?;
                if place.len() < character.len_utf8() {
                    return None;
                }
                bytes += character.encode_utf8(place).len();
                after
            }
            [b'\\', escape, after @ ..] => {
                *to.get_mut(bytes)? = match escape {
                    b'"' | b'\\' | b'/' => *escape,
                    b'b' => 0x08,
                    b'f' => 0x0C,
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    _ => return None,
                };
                bytes += 1;
                after
            }
            _ => return None,
        };
        let plain = copy_plain(rest, to.get_mut(bytes..)?)?;
        bytes += plain;
        rest = rest.get(plain..)?;
    }
}

/// The character of the escape whose digits come next: `\u` was read.
fn escaped_character(digits: &[u8]) -> Option<(char, &[u8])> {
    let (first, rest) = hex_unit(digits)?;
    if let Some(character) = char::from_u32(first) {
        return Some((character, rest));
    }
    let [b'\\', b'u', rest @ ..] = rest else { return None };
    let (second, rest) = hex_unit(rest)?;
    let character = char::decode_utf16([first as u16, second as u16]).next()?.ok()?;
    // Both units were needed for it.
    Some((character, rest))
}

/// Four hex digits.
fn hex_unit(digits: &[u8]) -> Option<(u32, &[u8])> {
    let (digits, rest) = digits.split_first_chunk::<4>()?;
    let [high, low] = hex_id::<2>(digits)?;
    Some((u32::from(high) << 8 | u32::from(low), rest))
}

/// A time in another form than the usual one, up to its quotation mark.
#[cold]
fn any_time(text: &[u8]) -> Option<(u64, &[u8])> {
    // A longer one has more digits than nanoseconds. This form is rare: a plain search for its end will do.
    const BYTES_MAX: usize = 40;
    let bytes = text.iter().take(BYTES_MAX).position(|byte| *byte == b'"')?;
    let (time, after) = text.split_at_checked(bytes)?;
    let time = std::str::from_utf8(time).ok()?;
    Some((rfc3339::parse(time).ok()?, after))
}

/// A key, as it is compared.
#[derive(Clone, Copy)]
struct KnownKey {
    /// The name and its quotation mark, little-endian.
    name: u128,
    /// The bits of those bytes.
    mask: u128,
    /// Number of those bytes.
    bytes: usize,
    field: Field,
}

/// Slots of [`KEYS`].
const SLOTS: usize = 16;

/// The slot of a name, by its first two letters, which differ.
#[inline(always)]
const fn slot(letters: u16) -> usize {
    ((letters as u32 * 593) >> 12) as usize % SLOTS
}

/// Each known key in its slot.
static KEYS: [KnownKey; SLOTS] = {
    // Equal to no name: a bit outside of its mask.
    let none = KnownKey { name: 1, mask: 0, bytes: 0, field: Field::Time };
    let mut keys = [none; SLOTS];
    let mut index = 0;
    while index < FIELD_NAMES.len() {
        let name = FIELD_NAMES[index].as_bytes();
        let mut chunk = [0; 16];
        let mut at = 0;
        while at < name.len() {
            chunk[at] = name[at];
            at += 1;
        }
        chunk[at] = b'"';
        let bytes = name.len() + 1;
        let slot = slot(u16::from_le_bytes([name[0], name[1]]));
        assert!(keys[slot].bytes == 0, "two names in one slot");
        let mask = u128::MAX >> (128 - 8 * bytes);
        keys[slot] = KnownKey { name: u128::from_le_bytes(chunk), mask, bytes, field: Field::ALL[index] };
        index += 1;
    }
    keys
};

/// The first 16 bytes of a text that is shorter; bytes beyond its end are 0.
#[cold]
fn short_chunk(text: &[u8]) -> u128 {
    text.iter().rev().fold(0, |chunk, byte| chunk << 8 | u128::from(*byte))
}
