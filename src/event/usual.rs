//! Reading of events in the usual form, as encoders write them: each field at most once, in the order of the numbers, keys and lengths
//! as short as they can be. Whatever else comes is left to `view`, which reads every form.

use super::proto::EventKind;
use super::protobuf::{high_bytes, high_bytes_in, is_one_varint, is_utf8};
use super::view::{
    ATTRIBUTE_KEY, ATTRIBUTES, BODY, BOOL_VALUE, DOUBLE_VALUE, DURATION_NANO, EventRef, Findings, INT_VALUE, KIND,
    NAME, PARENT_SPAN_ID, SEVERITY, SOURCE, SPAN_ID, STRING_VALUE, TIME_UNIX_NANO, TRACE_ID, VALUE, check_attribute,
};
use crate::limits::{ATTRIBUTE_KEY_BYTES_MAX, EVENT_ATTRIBUTES_MAX, EVENT_BYTES_MAX, SEVERITY_MAX, TIME_UNIX_NANO_MAX};

const KIND_LAST: u8 = EventKind::Summary as u8;
// Keys of an attribute's value.
const INT: u8 = INT_VALUE as u8;
const DOUBLE: u8 = DOUBLE_VALUE as u8;
const BOOL: u8 = BOOL_VALUE as u8;

impl<'a> EventRef<'a> {
    /// Reads fields as far as they come as encoders write them: each at most once, in the order of their numbers, and with lengths
    /// below 16,384. Returns what is left for [`EventRef::locate_rest`], and what it has to know. Reading accepted events is most
    /// of what a filter costs.
    #[inline(always)]
    pub(super) fn locate_usual(&mut self) -> (&'a [u8], Findings) {
        let mut findings = Findings::default();
        let mut rest = self.locate_usual_head();
        usual_delimited(&mut rest, BODY, &mut self.body);
        let from_attributes = rest;
        // Most are short.
        loop {
            while let [first, length @ ..0x80, ..] = rest
                && u32::from(*first) == ATTRIBUTES
                && let Some(after) = rest.get(2 + usize::from(*length)..)
            {
                rest = after;
            }
            if !usual_delimited(&mut rest, ATTRIBUTES, &mut &[][..]) {
                break;
            }
        }
        let attributes_bytes = from_attributes.len() - rest.len();
        if attributes_bytes > 0 {
            // Their number is not needed, only that there are some.
            findings.attributes = 1;
            findings.first_attribute = self.bytes.len() - from_attributes.len();
            self.attributes = from_attributes.get(..attributes_bytes).unwrap_or_default();
        }
        if !rest.is_empty() {
            usual_fixed64(&mut rest, VALUE, |bits| self.value = Some(f64::from_bits(bits)));
            usual_fixed64(&mut rest, DURATION_NANO, |bits| self.duration_nano = bits);
            usual_delimited(&mut rest, TRACE_ID, &mut self.trace_id);
            usual_delimited(&mut rest, SPAN_ID, &mut self.span_id);
            usual_delimited(&mut rest, PARENT_SPAN_ID, &mut self.parent_span_id);
        }
        (rest, findings)
    }

    /// Kind and severity, as encoded, of an event that was accepted before and begins with its head.
    #[cfg(feature = "server")]
    #[inline(always)]
    pub(crate) fn head_numbers(bytes: &'a [u8]) -> (i32, i32) {
        let mut event = Self::unset(bytes);
        match event.locate_usual_numbers() {
            [first, ..] if u32::from(*first) <= SEVERITY => Self::accepted_numbers(bytes),
            _ => (event.kind, event.severity),
        }
    }

    /// Kind and severity, as encoded, of an event that was accepted before.
    #[cfg(feature = "server")]
    #[inline(never)]
    pub(crate) fn accepted_numbers(bytes: &'a [u8]) -> (i32, i32) {
        let event = Self::accepted(bytes);
        (event.kind, event.severity)
    }

    /// Reads time, kind and severity as far as they are in the usual form, and returns what follows.
    #[inline(always)]
    fn locate_usual_numbers(&mut self) -> &'a [u8] {
        let mut rest = self.bytes;
        if let Some((time, after)) = fixed64_of(rest, TIME_UNIX_NANO) {
            (self.time_unix_nano, rest) = (time, after);
        }
        if let Some((kind, after)) = byte_of(rest, KIND) {
            (self.kind, rest) = (kind.into(), after);
        }
        if let Some((severity, after)) = byte_of(rest, SEVERITY) {
            (self.severity, rest) = (severity.into(), after);
        }
        rest
    }

    /// Reads the head as far as it is in the usual form, and returns what follows.
    #[inline(always)]
    pub(super) fn locate_usual_head(&mut self) -> &'a [u8] {
        let mut rest = self.locate_usual_numbers();
        usual_delimited(&mut rest, SOURCE, &mut self.source);
        usual_delimited(&mut rest, NAME, &mut self.name);
        rest
    }
}

/// If `rest` begins with the field of `key`, passes it.
#[inline(always)]
pub(super) fn usual_fixed64(rest: &mut &[u8], key: u32, set: impl FnOnce(u64)) {
    if let [first, after @ ..] = *rest
        && u32::from(*first) == key
        && let Some((bits, after)) = after.split_first_chunk()
    {
        set(u64::from_le_bytes(*bits));
        *rest = after;
    }
}

/// If `rest` begins with the field of `key` and a length of one or two bytes, passes it; whether it did.
#[inline(always)]
pub(super) fn usual_delimited<'a>(rest: &mut &'a [u8], key: u32, field: &mut &'a [u8]) -> bool {
    let [first, length, ..] = *rest else { return false };
    if u32::from(*first) != key {
        return false;
    }
    let (head_bytes, length) = match (*length, *rest) {
        (length @ ..0x80, _) => (2, usize::from(length)),
        (low, [_, _, high @ ..0x80, ..]) => (3, usize::from(low & 0x7F) | usize::from(*high) << 7),
        _ => return false,
    };
    let Some((whole, after)) = rest.split_at_checked(head_bytes + length) else { return false };
    let Some((_, bytes)) = whole.split_at_checked(head_bytes) else { return false };
    (*field, *rest) = (bytes, after);
    true
}

/// Whether an event is valid and all its fields are in the usual form. `false`: it may be anything, and `check` has to read it field by
/// field. The hot loop of receipt.
///
/// Texts are not checked one by one. While fields are passed, the bytes of 0x80 or more that numbers, lengths and ids contain are counted.
/// If the whole event contains no more such bytes than that, all its texts are ASCII. Otherwise each text is checked for UTF-8.
#[inline(never)]
pub(super) fn is_usual_and_valid(bytes: &[u8]) -> bool {
    let (mut rest, mut high) = (bytes, 0);
    let mut has_text = false;
    if let Some((time, after)) = fixed64_of(rest, TIME_UNIX_NANO) {
        rest = after;
        if time > TIME_UNIX_NANO_MAX {
            return false;
        }
    }
    let after_time = rest;
    for (key, last) in [(KIND, KIND_LAST), (SEVERITY, SEVERITY_MAX as u8)] {
        if let Some((value, after)) = byte_of(rest, key) {
            rest = after;
            if value > last {
                return false;
            }
        }
    }
    if let Some((length, after)) = byte_of(rest, SOURCE) {
        let Some(after) = after.get(usize::from(length)..) else { return false };
        rest = after;
    }
    if let Some((length, after)) = byte_of(rest, NAME) {
        let Some(after) = after.get(usize::from(length)..) else { return false };
        rest = after;
        has_text = length > 0;
    }
    if let Some((body, after)) = text_of(rest, BODY) {
        rest = after;
        high += usize::from(body.len() >= 0x80);
        has_text |= !body.is_empty();
    }
    let mut attributes = 0;
    loop {
        while let Some((after, of_attribute)) = pass_usual_attribute(rest) {
            (rest, high, attributes) = (after, high + of_attribute, attributes + 1);
        }
        if rest.first().is_none_or(|first| u32::from(*first) != ATTRIBUTES) {
            break;
        }
        let Some((after, of_attribute)) = pass_any_attribute(rest) else { return false };
        (rest, high, attributes) = (after, high + of_attribute, attributes + 1);
    }
    if !rest.is_empty() {
        let Some(of_tail) = pass_tail(rest) else { return false };
        high += of_tail;
    }
    let is_short = bytes.len() <= EVENT_BYTES_MAX && attributes <= EVENT_ATTRIBUTES_MAX;
    is_short && has_text && (high_bytes(after_time) == high || are_texts_utf8(after_time))
}

/// All that can follow the attributes: how many bytes from 0x80 on it has. `None`: it is invalid, or in another form.
#[inline(never)]
fn pass_tail(mut rest: &[u8]) -> Option<usize> {
    let mut high = 0;
    for (key, last) in [(VALUE, u64::MAX), (DURATION_NANO, TIME_UNIX_NANO_MAX)] {
        if let Some((bits, after)) = fixed64_of(rest, key) {
            rest = after;
            high += high_bytes_in(bits);
            if bits > last {
                return None;
            }
        }
    }
    for (key, id_bytes) in [(TRACE_ID, 16), (SPAN_ID, 8), (PARENT_SPAN_ID, 8)] {
        if let Some((id, after)) = text_of(rest, key) {
            rest = after;
            high += high_bytes(id);
            if id.len() != id_bytes {
                return None;
            }
        }
    }
    rest.is_empty().then_some(high)
}

/// Whether the texts of an event are UTF-8, of which all else was found valid; `rest` begins after its time.
#[inline(never)]
fn are_texts_utf8(mut rest: &[u8]) -> bool {
    for key in [KIND, SEVERITY] {
        rest = byte_of(rest, key).map_or(rest, |(_, after)| after);
    }
    for key in [SOURCE, NAME, BODY] {
        if let Some((text, after)) = text_of(rest, key) {
            rest = after;
            if !is_utf8(text) {
                return false;
            }
        }
    }
    while let Some((attribute, after)) = text_of(rest, ATTRIBUTES) {
        rest = after;
        if check_attribute(attribute).is_err() {
            return false;
        }
    }
    true
}

/// An attribute at the beginning of some bytes, and what follows it.
struct UsualAttribute<'a> {
    key: &'a [u8],
    value: &'a [u8],
    /// `value` is one text, of fewer than 128 bytes. Otherwise it was not looked at.
    is_text: bool,
    after: &'a [u8],
}

/// If `bytes` begin with an attribute of fewer than 128 bytes that has a key, and then at least two bytes more: its parts.
#[inline(always)]
fn usual_attribute(bytes: &[u8]) -> Option<UsualAttribute<'_>> {
    const HEAD: u32 = ATTRIBUTES | ATTRIBUTE_KEY << 16;
    const STRING: usize = STRING_VALUE as usize;
    let (head, after) = bytes.split_first_chunk::<4>()?;
    let head = u32::from_le_bytes(*head);
    // Key and length of the attribute, key and length of its key. The lengths have one byte.
    if head & 0x80FF_80FF != HEAD {
        return None;
    }
    let (attribute_bytes, key_bytes) = ((head >> 8 & 0x7F) as usize, (head >> 24) as usize);
    let (key_and_value, after) = after.split_at_checked(attribute_bytes.wrapping_sub(2))?;
    let (key, value) = key_and_value.split_at_checked(key_bytes)?;
    let (value_head, content) = value.split_first_chunk::<2>()?;
    let is_text = usize::from(u16::from_le_bytes(*value_head)) == STRING | content.len() << 8;
    Some(UsualAttribute { key, value, is_text, after })
}

/// Passes an attribute of fewer than 128 bytes that has a key and then one value: what follows, and how many bytes from 0x80 on are
/// expected in it. `None`: it is in another form.
#[inline(always)]
fn pass_usual_attribute(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let UsualAttribute { key, value, is_text, after } = usual_attribute(bytes)?;
    let high = if is_text {
        0
    } else {
        match *value {
            [INT | BOOL, 0..0x80] => 0,
            [INT, 0x80..=0xFF, 0..0x80] => 1,
            [DOUBLE, ref bits @ ..] if let Ok(bits) = bits.try_into() => high_bytes_in(u64::from_le_bytes(bits)),
            [INT, ref varint @ ..] if is_one_varint(varint) => varint.len() - 1,
            _ => return None,
        }
    };
    (!key.is_empty()).then_some((after, high))
}

/// If `rest` begins with an attribute of fewer than 128 bytes that has a key and then one value, passes it: its key, and key and content
/// of its value.
#[inline(always)]
pub(super) fn read_usual_attribute<'a>(rest: &mut &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let UsualAttribute { key, value, is_text, after } = usual_attribute(rest)?;
    let is_one_value = is_text
        || match value {
            [INT | BOOL, varint @ ..] => is_one_varint(varint),
            [DOUBLE, bits @ ..] => bits.len() == 8,
            _ => false,
        };
    if !is_one_value {
        return None;
    }
    *rest = after;
    Some((key, value))
}

// A key whose length has one byte needs no look at it.
const _: () = assert!(ATTRIBUTE_KEY_BYTES_MAX >= 0x7F);

/// Passes an attribute in any form, as [`pass_usual_attribute`] does. `None`: it has a fault.
#[inline(never)]
fn pass_any_attribute(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (attribute, after) = text_of(bytes, ATTRIBUTES)?;
    let key_bytes = check_attribute(attribute).ok()?;
    let whole = bytes.get(..bytes.len() - after.len())?;
    (1..=ATTRIBUTE_KEY_BYTES_MAX).contains(&key_bytes).then(|| (after, high_bytes(whole)))
}

/// If `bytes` begin with the field of `key`: its value, and what follows.
#[inline(always)]
fn fixed64_of(bytes: &[u8], key: u32) -> Option<(u64, &[u8])> {
    let (first, after) = bytes.split_first()?;
    let (value, after) = after.split_first_chunk()?;
    (u32::from(*first) == key).then_some((u64::from_le_bytes(*value), after))
}

/// If `bytes` begin with the field of `key`, and its value or length is one byte: that byte, and what follows.
#[inline(always)]
fn byte_of(bytes: &[u8], key: u32) -> Option<(u8, &[u8])> {
    let (head, after) = bytes.split_first_chunk()?;
    let head = u16::from_le_bytes(*head);
    (u32::from(head & 0x80FF) == key).then_some(((head >> 8) as u8, after))
}

/// If `bytes` begin with the field of `key` and a length of one or two bytes: its content, and what follows.
#[inline(always)]
pub(super) fn text_of(bytes: &[u8], key: u32) -> Option<(&[u8], &[u8])> {
    if let Some((length, after)) = byte_of(bytes, key) {
        return after.split_at_checked(length.into());
    }
    let ([first, low, high @ ..0x80], after) = bytes.split_first_chunk()? else { return None };
    let length = usize::from(low & 0x7F) | usize::from(*high) << 7;
    (u32::from(*first) == key && *low >= 0x80).then(|| after.split_at_checked(length))?
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::super::check::check_any_event;
    use super::super::proto::attribute::Value;
    use super::super::proto::{Attribute, Event};
    use super::*;

    fn attribute(key: &str, value: Value) -> Attribute {
        Attribute { key: key.to_owned(), value: Some(value) }
    }

    /// Valid events as encoders write them, with every kind of value.
    fn events() -> Vec<Vec<u8>> {
        let log = Event {
            time_unix_nano: 1_790_000_000_987_654_321,
            kind: EventKind::Log as i32,
            severity: 17,
            source: "checkout".to_owned(),
            name: "http.request".to_owned(),
            body: "GET /api/v1/orders 500".to_owned(),
            attributes: vec![
                attribute("http.route", Value::StringValue("/api/v1/orders/{id}".to_owned())),
                attribute("status", Value::IntValue(500)),
                attribute("small", Value::IntValue(5)),
                attribute("negative", Value::IntValue(-5)),
                attribute("seconds", Value::DoubleValue(-0.125)),
                attribute("cached", Value::BoolValue(true)),
            ],
            ..Event::default()
        };
        let unusual = vec![
            attribute("raw", Value::BytesValue(vec![0xff; 20])),
            attribute("stack", Value::StringValue("ünusual ".repeat(40))),
            Attribute { key: "null".to_owned(), value: None },
        ];
        let span = Event {
            kind: EventKind::Span as i32,
            attributes: Vec::new(),
            value: Some(-1.5),
            duration_nano: 200,
            trace_id: vec![0xfe; 16],
            span_id: vec![0x80; 8],
            parent_span_id: vec![1; 8],
            ..log.clone()
        };
        let long = Event { body: "x".repeat(5_000), ..log.clone() };
        let beyond_ascii = Event { body: "größer als 日本".to_owned(), ..log.clone() };
        let other_values = Event { attributes: unusual, ..log.clone() };
        let other_texts = Event {
            name: "größe".to_owned(),
            body: "x".repeat(0x80),
            attributes: vec![attribute("stadt", Value::StringValue("München".to_owned()))],
            ..Event::default()
        };
        let body_alone = Event { body: "x".repeat(0x7f), ..Event::default() };
        [log, span, long, beyond_ascii, other_values, other_texts, body_alone]
            .iter()
            .map(Message::encode_to_vec)
            .collect()
    }

    #[test]
    fn what_encoders_write_needs_no_second_reading() {
        for (index, event) in events().iter().enumerate() {
            assert!(is_usual_and_valid(event), "event {index}");
        }
    }

    #[test]
    fn an_event_with_one_other_byte_or_a_part_of_it_is_valid_only_if_the_twin_finds_so() {
        let mut refused = 0;
        for mut event in events().into_iter().filter(|event| event.len() < 1_000) {
            for place in 0..event.len() {
                let whole = event[place];
                // All bytes; in a debug build those at bounds, and one in four of the others, other ones at each place.
                let (first, step) = if cfg!(debug_assertions) { (place % 4, 4) } else { (0, 1) };
                let at_bounds = [0, 1, 0x7f, 0x80, 0xff, whole ^ 1, whole ^ 0x80];
                for byte in at_bounds.into_iter().chain((first as u8..=u8::MAX).step_by(step)) {
                    event[place] = byte;
                    if is_usual_and_valid(&event) {
                        assert_eq!(check_any_event(&event), Ok(true), "{byte:02x} at {place} of {event:02x?}");
                    } else {
                        refused += 1;
                    }
                }
                event[place] = whole;
                if is_usual_and_valid(&event[..place]) {
                    assert_eq!(check_any_event(&event[..place]), Ok(true), "{place} bytes of {event:02x?}");
                }
            }
        }
        assert!(refused > 10_000);
    }

    #[test]
    fn bytes_from_0x80_on_are_counted_in_any_number() {
        for length in (0..100).chain([4_063, 4_064, 4_065, 9_000]) {
            let bytes: Vec<u8> = (0..length).map(|index| (index * 37 % 256) as u8).collect();
            assert_eq!(high_bytes(&bytes), bytes.iter().filter(|byte| **byte >= 0x80).count(), "{length}");
            assert_eq!(high_bytes(&vec![0xff; length]), length);
        }
    }
}
