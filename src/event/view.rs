//! [`EventRef`]: an event read in place from its encoded bytes. Nothing is copied and nothing allocates.
//!
//! ```text
//!  bytes       09 time…… │ 22 len source │ 2a len name │ 32 len body │ 3a len attribute │ 3a len attribute │ 52 len …
//!  EventRef    time (u64)      └ slice         └ slice        └ slice   └────── attributes, one slice ─────┘      └ slice
//! ```
//!
//! * [`EventRef::check`] (module `check`) is for ingress: it rejects what is not a valid event.
//! * [`EventRef::accepted`] is for everything after it: the same reading without the checks. Bytes that never passed a
//!   ingress cannot make it fail either; what is malformed reads as unset.
//! * Texts are kept as bytes, and an accessor turns them into `&str`. Ingress has checked them already, but safe Rust
//!   keeps no proof of that in a slice; ingress reads no texts and a sink reads each once, so each side pays one pass.
//! * Attributes lie mostly side by side; `attributes` spans from the first to the last, or all that follows the head, and whatever else
//!   is in it is stepped over.

use super::check::Malformed;
pub use super::proto::EventKind;
use super::protobuf::{
    DELIMITED, DEPTH_ATTRIBUTE, DEPTH_BATCH, DEPTH_EVENT, FIXED64, Fault, Read, VARINT, delimited, field_key, fixed64,
    is_ascii, is_one_varint, is_utf8, key, skip, varint,
};
use super::usual::{read_usual_attribute, text_of, usual_delimited, usual_fixed64};
use crate::limits::{ATTRIBUTE_KEY_BYTES_MAX, SEVERITY_MAX, TIME_UNIX_NANO_MAX};

// Keys of `EventBatch`, `Event` and `Attribute`, all of one byte.
/// Key of `EventBatch.events`.
pub(super) const EVENTS: u32 = key(1, DELIMITED);
/// Highest field number of `EventBatch`.
pub(super) const BATCH_FIELD_LAST: u32 = 1;

/// Key of `Event.time_unix_nano`.
pub(super) const TIME_UNIX_NANO: u32 = key(1, FIXED64);
/// Key of `Event.kind`.
pub(super) const KIND: u32 = key(2, VARINT);
/// Key of `Event.severity`.
pub(super) const SEVERITY: u32 = key(3, VARINT);
/// Key of `Event.source`.
pub(super) const SOURCE: u32 = key(4, DELIMITED);
/// Key of `Event.name`.
pub(super) const NAME: u32 = key(5, DELIMITED);
/// Key of `Event.body`.
pub(super) const BODY: u32 = key(6, DELIMITED);
/// Key of `Event.attributes`.
pub(super) const ATTRIBUTES: u32 = key(7, DELIMITED);
/// Key of `Event.value`.
pub(super) const VALUE: u32 = key(8, FIXED64);
/// Key of `Event.duration_nano`.
pub(super) const DURATION_NANO: u32 = key(9, FIXED64);
/// Key of `Event.trace_id`.
pub(super) const TRACE_ID: u32 = key(10, DELIMITED);
/// Key of `Event.span_id`.
pub(super) const SPAN_ID: u32 = key(11, DELIMITED);
/// Key of `Event.parent_span_id`.
pub(super) const PARENT_SPAN_ID: u32 = key(12, DELIMITED);
const EVENT_FIELD_LAST: u32 = 12;

/// Key of `Attribute.key`.
pub(super) const ATTRIBUTE_KEY: u32 = key(1, DELIMITED);
/// Key of `Attribute.string_value`.
pub(super) const STRING_VALUE: u32 = key(2, DELIMITED);
/// Key of `Attribute.int_value`.
pub(super) const INT_VALUE: u32 = key(3, VARINT);
/// Key of `Attribute.double_value`.
pub(super) const DOUBLE_VALUE: u32 = key(4, FIXED64);
/// Key of `Attribute.bool_value`.
pub(super) const BOOL_VALUE: u32 = key(5, VARINT);
/// Key of `Attribute.bytes_value`.
pub(super) const BYTES_VALUE: u32 = key(6, DELIMITED);
const ATTRIBUTE_FIELD_LAST: u32 = 6;

/// A value of an attribute.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum AttributeValue<'a> {
    /// The oneof is not set.
    Null,
    /// `string_value`.
    String(&'a str),
    /// `int_value`.
    Int(i64),
    /// `double_value`; may be NaN or infinite.
    Double(f64),
    /// `bool_value`.
    Bool(bool),
    /// `bytes_value`.
    Bytes(&'a [u8]),
}

/// The value of an attribute that was not read yet: the fields of the encoded attribute, with or without its key.
#[derive(Debug, Clone, Copy)]
pub struct UnreadValue<'a>(&'a [u8]);

impl<'a> UnreadValue<'a> {
    /// The bytes of a text, in the usual form; `None`: [`UnreadValue::read`] tells what it is.
    #[inline]
    pub fn text(self) -> Option<&'a [u8]> {
        match text_of(self.0, STRING_VALUE) {
            Some((text, [])) => Some(text),
            _ => None,
        }
    }

    /// Reads it.
    pub fn read(self) -> AttributeValue<'a> {
        read_attribute(self.0).1
    }
}

/// An event, borrowed from its encoded bytes.
#[derive(Debug, Clone, Copy)]
pub struct EventRef<'a> {
    /// The encoded event.
    pub(super) bytes: &'a [u8],
    /// 0: unset.
    pub(super) time_unix_nano: u64,
    /// 0: unset.
    pub(super) duration_nano: u64,
    /// `None`: unset.
    pub(super) value: Option<f64>,
    /// Empty: unset.
    pub(super) source: &'a [u8],
    /// Empty: unset.
    pub(super) name: &'a [u8],
    /// Empty: unset.
    pub(super) body: &'a [u8],
    /// The bytes in which the attributes lie, with or without other fields; there may be none.
    pub(super) attributes: &'a [u8],
    /// Empty: unset.
    pub(super) trace_id: &'a [u8],
    /// Empty: unset.
    pub(super) span_id: &'a [u8],
    /// Empty: unset.
    pub(super) parent_span_id: &'a [u8],
    /// As encoded; may be an unknown number.
    pub(super) kind: i32,
    /// As encoded; may be an unknown number.
    pub(super) severity: i32,
}

/// The kind that an encoded number is read as: log where it is unset or unknown.
pub fn kind_of(number: i32) -> EventKind {
    match EventKind::try_from(number) {
        Ok(EventKind::Unspecified) | Err(_) => EventKind::Log,
        Ok(kind) => kind,
    }
}

/// What the rules need to know about the attributes, found while reading them.
#[derive(Default)]
pub(super) struct Findings {
    /// Number of attributes.
    pub(super) attributes: usize,
    /// Where the first one begins.
    pub(super) first_attribute: usize,
    /// Index and length of the first key that is empty or too long.
    pub(super) bad_key: Option<(usize, usize)>,
    /// A field of the head may follow one of the others, come twice or out of order, or have a longer key.
    pub(super) is_head_late: bool,
}

impl<'a> EventRef<'a> {
    /// Reads an event that was accepted before.
    #[inline]
    pub fn accepted(bytes: &'a [u8]) -> Self {
        let mut event = Self::unset(bytes);
        event.locate_accepted();
        event
    }

    /// Reads the fields of an event that was accepted before, of which none was read yet.
    #[inline(always)]
    pub(crate) fn locate_accepted(&mut self) {
        let (rest, findings) = self.locate_usual();
        if !rest.is_empty() {
            self.locate_rest(rest, findings);
        }
    }

    /// Reads the head of an event that was accepted before: time, kind, severity, source and name; of the rest only attributes can be
    /// read. Where the event may not begin with its head (`Counts::are_head_first`), or it is not in the usual form, everything is read.
    #[cfg(feature = "server")]
    #[inline(always)]
    pub(crate) fn head(bytes: &'a [u8], is_head_first: bool) -> Self {
        if is_head_first {
            let mut event = Self::unset(bytes);
            let rest = event.locate_usual_head();
            if rest.first().is_none_or(|key| u32::from(*key) > NAME) {
                event.attributes = rest;
                return event;
            }
        }
        Self::accepted_in_any_form(bytes)
    }

    /// As [`EventRef::accepted`], in a call.
    #[cfg(feature = "server")]
    #[inline(never)]
    fn accepted_in_any_form(bytes: &'a [u8]) -> Self {
        Self::accepted(bytes)
    }

    /// Reads the fields from `rest` on, in any form and order. A fault ends the reading; what was not reached stays unset.
    #[cold]
    fn locate_rest(&mut self, mut rest: &'a [u8], mut findings: Findings) {
        while let Ok((key, after)) = field_key(rest)
            && let Ok(after) = self.field::<false>(key, rest.len(), after, &mut findings)
        {
            rest = after;
        }
    }

    /// The encoded event.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// 0: unset.
    pub fn time_unix_nano(&self) -> u64 {
        below_2_63(self.time_unix_nano)
    }

    /// Log where unset.
    pub fn kind(&self) -> EventKind {
        kind_of(self.kind)
    }

    /// 1 to 24; 0: unset.
    pub fn severity(&self) -> u8 {
        if self.severity > SEVERITY_MAX { 0 } else { u8::try_from(self.severity).unwrap_or(0) }
    }

    /// Empty: unset.
    pub fn source(&self) -> &'a str {
        text(self.source)
    }

    /// Empty: unset.
    pub fn name(&self) -> &'a str {
        text(self.name)
    }

    /// The bytes of [`EventRef::source`].
    pub fn source_bytes(&self) -> &'a [u8] {
        self.source
    }

    /// The bytes of [`EventRef::name`].
    pub fn name_bytes(&self) -> &'a [u8] {
        self.name
    }

    /// Empty: unset.
    pub fn body(&self) -> &'a str {
        text(self.body)
    }

    /// The measured value; `None`: unset. May be NaN or infinite.
    pub fn value(&self) -> Option<f64> {
        self.value
    }

    /// 0: unset.
    pub fn duration_nano(&self) -> u64 {
        below_2_63(self.duration_nano)
    }

    /// The id of the trace; `None`: unset.
    pub fn trace_id(&self) -> Option<&'a [u8; 16]> {
        self.trace_id.try_into().ok()
    }

    /// The id of the span; `None`: unset.
    pub fn span_id(&self) -> Option<&'a [u8; 8]> {
        self.span_id.try_into().ok()
    }

    /// The id of the span around this one; `None`: unset.
    pub fn parent_span_id(&self) -> Option<&'a [u8; 8]> {
        self.parent_span_id.try_into().ok()
    }

    /// Attributes in the order of the bytes, duplicates included (a later one wins).
    pub fn attributes(&self) -> impl Iterator<Item = (&'a str, AttributeValue<'a>)> + use<'a> {
        Fields { rest: self.attributes, key: ATTRIBUTES }.map(read_attribute)
    }

    /// As [`EventRef::attributes`], with the bytes of each key, and its value not read yet: for those who look for few keys.
    #[inline]
    pub fn unread_attributes(&self) -> UnreadAttributes<'a> {
        let mut rest = self.attributes;
        usual_delimited(&mut rest, BODY, &mut &[][..]);
        UnreadAttributes(Fields { rest, key: ATTRIBUTES })
    }

    /// An event of these bytes, of which no field was read yet.
    #[inline(always)]
    pub(crate) fn unset(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            time_unix_nano: 0,
            duration_nano: 0,
            value: None,
            source: &[],
            name: &[],
            body: &[],
            attributes: &[],
            trace_id: &[],
            span_id: &[],
            parent_span_id: &[],
            kind: 0,
            severity: 0,
        }
    }

    /// One pass over the fields, in any form and order: texts must be UTF-8, and attributes are read as well.
    pub(super) fn locate_checked(&mut self) -> Result<Findings, Malformed> {
        let mut findings = Findings::default();
        let mut rest = self.bytes;
        let mut last_key = 0;
        while !rest.is_empty() {
            let (key, after) = field_key(rest).map_err(|fault| Malformed { field: "Event", fault })?;
            // Who looks for the head first does not know longer forms of its keys.
            findings.is_head_late |= key <= NAME && (key <= last_key || rest.len() > after.len() + 1);
            last_key = last_key.max(key);
            rest = self.field::<true>(key, rest.len(), after, &mut findings)?;
        }
        Ok(findings)
    }

    /// Reads the field of `key`, which begins `from_end` bytes before the end; returns what follows. Without `CHECK` texts and
    /// attributes are trusted.
    #[inline(always)]
    fn field<const CHECK: bool>(
        &mut self,
        key: u32,
        from_end: usize,
        after: &'a [u8],
        findings: &mut Findings,
    ) -> Result<&'a [u8], Malformed> {
        let named = |fault| Malformed { field: event_field(key), fault };
        match key {
            TIME_UNIX_NANO => put(&mut self.time_unix_nano, fixed64(after)),
            KIND => put_i32(&mut self.kind, varint(after)),
            SEVERITY => put_i32(&mut self.severity, varint(after)),
            SOURCE => put(&mut self.source, utf8::<CHECK>(after)),
            NAME => put(&mut self.name, utf8::<CHECK>(after)),
            BODY => put(&mut self.body, utf8::<CHECK>(after)),
            ATTRIBUTES => {
                if findings.attributes == 0 {
                    findings.first_attribute = self.bytes.len() - from_end;
                }
                let mut after = after;
                // They mostly lie side by side.
                loop {
                    let (attribute, behind) = delimited(after).map_err(named)?;
                    if CHECK {
                        let key_bytes = check_attribute(attribute)?;
                        if !(1..=ATTRIBUTE_KEY_BYTES_MAX).contains(&key_bytes) && findings.bad_key.is_none() {
                            findings.bad_key = Some((findings.attributes, key_bytes));
                        }
                    }
                    findings.attributes += 1;
                    match behind {
                        [next, behind @ ..] if u32::from(*next) == ATTRIBUTES => after = behind,
                        _ => {
                            after = behind;
                            break;
                        }
                    }
                }
                let end = self.bytes.len() - after.len();
                self.attributes = self.bytes.get(findings.first_attribute..end).unwrap_or_default();
                Ok(after)
            }
            VALUE => fixed64(after).map(|(bits, after)| {
                self.value = Some(f64::from_bits(bits));
                after
            }),
            DURATION_NANO => put(&mut self.duration_nano, fixed64(after)),
            TRACE_ID => put(&mut self.trace_id, delimited(after)),
            SPAN_ID => put(&mut self.span_id, delimited(after)),
            PARENT_SPAN_ID => put(&mut self.parent_span_id, delimited(after)),
            _ => skip(key, after, EVENT_FIELD_LAST, DEPTH_EVENT),
        }
        .map_err(named)
    }
}

#[inline(always)]
fn put<'a, T>(field: &mut T, read: Read<'a, T>) -> Result<&'a [u8], Fault> {
    let (value, after) = read?;
    *field = value;
    Ok(after)
}

/// An int32 or enum is the low half of its varint: negative numbers come as ten bytes.
#[inline(always)]
fn put_i32<'a>(field: &mut i32, read: Read<'a, u64>) -> Result<&'a [u8], Fault> {
    let (value, after) = read?;
    *field = value as i32;
    Ok(after)
}

#[inline(always)]
fn utf8<const CHECK: bool>(bytes: &[u8]) -> Read<'_, &[u8]> {
    let (text, after) = delimited(bytes)?;
    if CHECK && !is_utf8(text) {
        return Err(Fault::Utf8);
    }
    Ok((text, after))
}

pub(super) fn text(bytes: &[u8]) -> &str {
    // Below this simdutf8 does the same behind a dispatch that costs as much.
    const SHORT_BYTES: usize = 64;
    if bytes.len() < SHORT_BYTES {
        return std::str::from_utf8(bytes).unwrap_or_default();
    }
    simdutf8::basic::from_utf8(bytes).unwrap_or_default()
}

fn below_2_63(nanoseconds: u64) -> u64 {
    if nanoseconds > TIME_UNIX_NANO_MAX { 0 } else { nanoseconds }
}

/// Checks an attribute's structure and texts; returns the length of its key. The usual one, a short key and then one value
/// that ends where the attribute ends, needs no loop.
#[inline(always)]
pub(super) fn check_attribute(bytes: &[u8]) -> Result<usize, Malformed> {
    const KEY: u8 = ATTRIBUTE_KEY as u8;
    const STRING: u8 = STRING_VALUE as u8;
    const INT: u8 = INT_VALUE as u8;
    const DOUBLE: u8 = DOUBLE_VALUE as u8;
    if let [KEY, key_bytes @ ..0x80, rest @ ..] = bytes
        && let Some((key, [value_key, value @ ..])) = rest.split_at_checked(usize::from(*key_bytes))
        && match (*value_key, value) {
            // Its keys and lengths are ASCII as well: one look at all of it.
            (STRING, [text_bytes @ ..0x80, text @ ..]) => {
                usize::from(*text_bytes) == text.len() && (is_ascii(bytes) || is_utf8(text) && is_utf8(key))
            }
            (INT, value) => is_one_varint(value) && is_utf8(key),
            (DOUBLE, value) => value.len() == 8 && is_utf8(key),
            _ => false,
        }
    {
        return Ok(key.len());
    }
    check_any_attribute(bytes)
}

/// The naive twin of [`check_attribute`]: any order, any number of fields.
fn check_any_attribute(bytes: &[u8]) -> Result<usize, Malformed> {
    let mut key_bytes = 0;
    let mut rest = bytes;
    while !rest.is_empty() {
        let (key, after) = field_key(rest).map_err(|fault| Malformed { field: "Attribute", fault })?;
        rest = match key {
            ATTRIBUTE_KEY => utf8::<true>(after).map(|(text, after)| {
                key_bytes = text.len();
                after
            }),
            STRING_VALUE => utf8::<true>(after).map(|(_, after)| after),
            INT_VALUE | BOOL_VALUE => varint(after).map(|(_, after)| after),
            DOUBLE_VALUE => fixed64(after).map(|(_, after)| after),
            BYTES_VALUE => delimited(after).map(|(_, after)| after),
            _ => skip(key, after, ATTRIBUTE_FIELD_LAST, DEPTH_ATTRIBUTE),
        }
        .map_err(|fault| Malformed { field: attribute_field(key), fault })?;
    }
    Ok(key_bytes)
}

/// Attributes of an event that was accepted: the bytes of each key, and its value.
#[derive(Debug, Clone)]
pub struct UnreadAttributes<'a>(Fields<'a>);

impl<'a> Iterator for UnreadAttributes<'a> {
    type Item = (&'a [u8], UnreadValue<'a>);

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        match read_usual_attribute(&mut self.0.rest) {
            Some((key, value)) => Some((key, UnreadValue(value))),
            None if self.0.rest.is_empty() => None,
            None => self.next_unusual(),
        }
    }
}

impl<'a> UnreadAttributes<'a> {
    #[inline(never)]
    fn next_unusual(&mut self) -> Option<(&'a [u8], UnreadValue<'a>)> {
        // What mostly follows the attributes.
        let rest = &mut self.0.rest;
        usual_fixed64(rest, VALUE, |_| ());
        usual_fixed64(rest, DURATION_NANO, |_| ());
        for key in [TRACE_ID, SPAN_ID, PARENT_SPAN_ID] {
            usual_delimited(rest, key, &mut &[][..]);
        }
        let bytes = self.0.next()?;
        // One of 128 bytes or more.
        if let Some((key, value)) = text_of(bytes, ATTRIBUTE_KEY)
            && let Some((_, [])) = text_of(value, STRING_VALUE)
        {
            return Some((key, UnreadValue(value)));
        }
        Some((read_attribute(bytes).0.as_bytes(), UnreadValue(bytes)))
    }
}

/// Key and value of an accepted attribute.
pub(super) fn read_attribute(bytes: &[u8]) -> (&str, AttributeValue<'_>) {
    let mut attribute = ("", AttributeValue::Null);
    // A fault ends the reading; what was not reached stays unset.
    let _ = read_attribute_into(bytes, &mut attribute);
    attribute
}

fn read_attribute_into<'a>(bytes: &'a [u8], attribute: &mut (&'a str, AttributeValue<'a>)) -> Result<(), Fault> {
    let (name, value) = attribute;
    let mut rest = bytes;
    while !rest.is_empty() {
        let (key, after) = field_key(rest)?;
        let mut set = |read: Read<'a, AttributeValue<'a>>| put(value, read);
        rest = match key {
            ATTRIBUTE_KEY => put(name, delimited(after).map(|(bytes, after)| (text(bytes), after)))?,
            STRING_VALUE => set(delimited(after).map(|(bytes, after)| (AttributeValue::String(text(bytes)), after)))?,
            INT_VALUE => set(varint(after).map(|(bits, after)| (AttributeValue::Int(bits as i64), after)))?,
            DOUBLE_VALUE => {
                set(fixed64(after).map(|(bits, after)| (AttributeValue::Double(f64::from_bits(bits)), after)))?
            }
            BOOL_VALUE => set(varint(after).map(|(bits, after)| (AttributeValue::Bool(bits != 0), after)))?,
            BYTES_VALUE => set(delimited(after).map(|(bytes, after)| (AttributeValue::Bytes(bytes), after)))?,
            _ => skip(key, after, ATTRIBUTE_FIELD_LAST, DEPTH_ATTRIBUTE)?,
        };
    }
    Ok(())
}

#[cold]
fn event_field(key: u32) -> &'static str {
    const NAMES: [&str; 13] = [
        "Event",
        "time_unix_nano",
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
    NAMES.get((key >> 3) as usize).copied().unwrap_or("Event")
}

#[cold]
fn attribute_field(key: u32) -> &'static str {
    const NAMES: [&str; 7] = [
        "Attribute",
        "attributes.key",
        "attributes.string_value",
        "attributes.int_value",
        "attributes.double_value",
        "attributes.bool_value",
        "attributes.bytes_value",
    ];
    NAMES.get((key >> 3) as usize).copied().unwrap_or("Attribute")
}

/// The delimited fields of one key in a trusted message; others are stepped over. Ends at a fault.
#[derive(Debug, Clone)]
struct Fields<'a> {
    rest: &'a [u8],
    key: u32,
}

impl<'a> Fields<'a> {
    /// What was left where the next field begins, and its content.
    #[inline(always)]
    fn next_field(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let (from_field, mut bytes) = (self.rest, &[][..]);
        if usual_delimited(&mut self.rest, self.key, &mut bytes) {
            return Some((from_field, bytes));
        }
        self.next_unusual()
    }

    #[inline(never)]
    fn next_unusual(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        while !self.rest.is_empty() {
            // Whatever ends the reading early leaves nothing to read.
            let from_field = std::mem::take(&mut self.rest);
            let (key, after) = field_key(from_field).ok()?;
            if key == self.key {
                let (bytes, after) = delimited(after).ok()?;
                self.rest = after;
                return Some((from_field, bytes));
            }
            self.rest = skip(key, after, 0, DEPTH_BATCH).ok()?;
        }
        None
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        self.next_field().map(|(_, bytes)| bytes)
    }
}

/// The events of an `EventBatch` that was accepted.
#[derive(Debug, Clone)]
pub struct Events<'a> {
    fields: Fields<'a>,
}

impl<'a> Events<'a> {
    /// `payload` has been accepted: every event in it is valid.
    pub fn accepted(payload: &'a [u8]) -> Self {
        Self { fields: Fields { rest: payload, key: EVENTS } }
    }

    /// Passes the next event, and returns it with its key and length: joined, such fields are an `EventBatch`.
    #[inline]
    pub fn next_field(&mut self) -> Option<&'a [u8]> {
        Some(self.next_encoded()?.0)
    }

    /// What [`Events::next_field`] returns of the next event, and the encoded event.
    #[inline(always)]
    pub fn next_encoded(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let (from_field, bytes) = self.fields.next_field()?;
        Some((from_field.get(..from_field.len() - self.fields.rest.len())?, bytes))
    }

    /// Bytes of the payload after the events that were passed.
    #[inline]
    pub fn bytes_left(&self) -> usize {
        self.fields.rest.len()
    }
}

impl<'a> Iterator for Events<'a> {
    type Item = EventRef<'a>;

    #[inline]
    fn next(&mut self) -> Option<EventRef<'a>> {
        self.fields.next().map(EventRef::accepted)
    }
}
