//! `AnyValue` and `KeyValue`: attributes of events, and the JSON text of what is no scalar.
//!
//! | value of an attribute | becomes |
//! |---|---|
//! | text, integer, double, boolean, bytes | the same |
//! | none | an empty text |
//! | list of key and value | its members, their keys joined by dots; an empty one leaves nothing |
//! | array | a text: its JSON without spaces |
//!
//! Within JSON, bytes are base64, no value is `null`, and NaN and infinities are texts.

use super::Malformed;
use super::parts::{Members, Parts};
use super::schema::{enter, text};
use super::tables::{ANY_VALUE, ARRAY_VALUE, KEY_VALUE, KEY_VALUE_LIST};
use super::writer::{Key, Scalar, Writer, cut};
use crate::event::json_out::{write_base64, write_double, write_number, write_text};
use crate::event::protobuf::{DELIMITED, FIXED64, VARINT, delimited, field_key, fixed64, is_utf8, key, varint};
use crate::limits::{ATTRIBUTE_KEY_BYTES_MAX, EVENT_BODY_BYTES_MAX};

const KEY: u32 = key(1, DELIMITED);
const VALUE: u32 = key(2, DELIMITED);
const STRING_VALUE: u32 = key(1, DELIMITED);
const BOOL_VALUE: u32 = key(2, VARINT);
const INT_VALUE: u32 = key(3, VARINT);
const DOUBLE_VALUE: u32 = key(4, FIXED64);
const ARRAY: u32 = key(5, DELIMITED);
const LIST: u32 = key(6, DELIMITED);
const BYTES_VALUE: u32 = key(7, DELIMITED);
const STRING_INDEX: u32 = key(8, VARINT);

/// An `AnyValue`.
#[derive(Debug)]
pub(super) enum Value<'a> {
    /// Nothing is set.
    None,
    /// Text, number, boolean or bytes.
    Scalar(Scalar<'a>),
    /// An `ArrayValue`, not checked yet.
    Array(Members<'a>),
    /// A `KeyValueList`, not checked yet.
    List(Members<'a>),
}

impl<'a> Value<'a> {
    /// Reads an `AnyValue`; the last value counts. `depth`: levels that may be entered within it.
    ///
    /// # Errors
    /// The bytes are no `AnyValue`; arrays and lists are not looked into.
    #[inline]
    pub(super) fn read(parts: Parts<'a>, depth: usize) -> Result<Self, Malformed> {
        const STRING: u8 = STRING_VALUE as u8;
        const INT: u8 = INT_VALUE as u8;
        const DOUBLE: u8 = DOUBLE_VALUE as u8;
        match parts.only() {
            [STRING, length @ ..0x80, text @ ..] if usize::from(*length) == text.len() && is_utf8(text) => {
                return Ok(Self::Scalar(Scalar::Text(text)));
            }
            [INT, value @ ..] => {
                if let Ok((bits, [])) = varint(value) {
                    return Ok(Self::Scalar(Scalar::Int(bits as i64)));
                }
            }
            [DOUBLE, value @ ..] => {
                if let Ok((bits, [])) = fixed64(value) {
                    return Ok(Self::Scalar(Scalar::Double(f64::from_bits(bits))));
                }
            }
            _ => {}
        }
        Self::read_any(parts, depth)
    }

    fn read_any(mut parts: Parts<'a>, depth: usize) -> Result<Self, Malformed> {
        let malformed = |fault| ANY_VALUE.malformed(fault);
        let mut value = Self::None;
        while parts.has_more() {
            let field = parts;
            let (key, after) = field_key(parts.part).map_err(malformed)?;
            let (next, after) = match key {
                STRING_VALUE => text(after).map(|(text, after)| (Self::Scalar(Scalar::Text(text)), after)),
                BOOL_VALUE => varint(after).map(|(bits, after)| (Self::Scalar(Scalar::Bool(bits != 0)), after)),
                INT_VALUE => varint(after).map(|(bits, after)| (Self::Scalar(Scalar::Int(bits as i64)), after)),
                DOUBLE_VALUE => {
                    fixed64(after).map(|(bits, after)| (Self::Scalar(Scalar::Double(f64::from_bits(bits))), after))
                }
                BYTES_VALUE => delimited(after).map(|(bytes, after)| (Self::Scalar(Scalar::Bytes(bytes)), after)),
                // Refers to a table of profiles, which logs, metrics and traces do not have.
                STRING_INDEX => varint(after).map(|(_, after)| (Self::None, after)),
                ARRAY | LIST => {
                    parts.part = delimited(after).map_err(malformed)?.1;
                    enter(depth).map_err(malformed)?;
                    value.add(key, field, depth)?;
                    continue;
                }
                _ => {
                    parts.part = ANY_VALUE.pass(key, after, depth)?;
                    continue;
                }
            }
            .map_err(malformed)?;
            value.check_replaced(depth)?;
            (value, parts.part) = (next, after);
        }
        Ok(value)
    }

    /// Adds the array or list at `field`; several of one kind are one.
    fn add(&mut self, key: u32, field: Parts<'a>, depth: usize) -> Result<(), Malformed> {
        match (key, &mut *self) {
            (ARRAY, Self::Array(members)) | (LIST, Self::List(members)) => {
                members.fields += 1;
                return Ok(());
            }
            _ => self.check_replaced(depth)?,
        }
        let members = Members { first: field, key, fields: 1 };
        *self = if key == ARRAY { Self::Array(members) } else { Self::List(members) };
        Ok(())
    }

    /// What another value replaces must be well-formed too.
    fn check_replaced(&self, depth: usize) -> Result<(), Malformed> {
        let (members, message) = match self {
            Self::Array(members) => (members, &ARRAY_VALUE),
            Self::List(members) => (members, &KEY_VALUE_LIST),
            Self::None | Self::Scalar(_) => return Ok(()),
        };
        let inner = enter(depth).map_err(|fault| ANY_VALUE.malformed(fault))?;
        members.each(|content| message.validate(content, inner))
    }
}

/// A `KeyValue`, and the content of its value.
#[derive(Debug)]
pub(super) struct KeyValue<'a> {
    /// Checked to be UTF-8.
    pub key: &'a [u8],
    /// An `AnyValue` that is not checked yet.
    pub value: Option<Parts<'a>>,
}

impl<'a> KeyValue<'a> {
    /// Reads a `KeyValue`. `depth`: levels that may be entered within it.
    ///
    /// # Errors
    /// The bytes are no `KeyValue`; the value is not looked into.
    #[inline]
    pub(super) fn read(bytes: &'a [u8], depth: usize) -> Result<Self, Malformed> {
        const KEY_BYTE: u8 = KEY as u8;
        const VALUE_BYTE: u8 = VALUE as u8;
        if let [KEY_BYTE, key_bytes @ ..0x80, rest @ ..] = bytes
            && let Some((key, [VALUE_BYTE, value_bytes @ ..0x80, value @ ..])) =
                rest.split_at_checked(usize::from(*key_bytes))
            && usize::from(*value_bytes) == value.len()
            && depth > 0
            && is_utf8(key)
        {
            return Ok(Self { key, value: Some(Parts::one(value)) });
        }
        Self::read_any(bytes, depth)
    }

    fn read_any(bytes: &'a [u8], depth: usize) -> Result<Self, Malformed> {
        let malformed = |fault| KEY_VALUE.malformed(fault);
        let mut read = Self { key: &[], value: None };
        let mut rest = bytes;
        while !rest.is_empty() {
            let (key, after) = field_key(rest).map_err(malformed)?;
            rest = match key {
                KEY => {
                    let (text, after) = text(after).map_err(malformed)?;
                    read.key = text;
                    after
                }
                VALUE => {
                    let (value, after) = delimited(after).map_err(malformed)?;
                    enter(depth).map_err(malformed)?;
                    Parts::add(&mut read.value, value, (bytes, VALUE));
                    after
                }
                _ => KEY_VALUE.pass(key, after, depth)?,
            };
        }
        Ok(read)
    }
}

/// Buffers that are reused from record to record.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// The names around an attribute, with their dots.
    pub path: Vec<u8>,
    /// The text of an array among the attributes.
    pub text: JsonText,
    /// The text of a body, or of an attribute that is named by us; taken out while it is used.
    pub body: JsonText,
}

impl Scratch {
    /// Appends the attribute of an encoded `KeyValue`, or several where its value is a list. `depth`: levels that may be
    /// entered within it.
    ///
    /// # Errors
    /// The bytes are no `KeyValue`.
    #[inline]
    pub(super) fn put_attribute(
        &mut self,
        writer: &mut Writer<'_>,
        bytes: &[u8],
        depth: usize,
    ) -> Result<(), Malformed> {
        let KeyValue { key, value } = KeyValue::read(bytes, depth)?;
        let value_depth = depth.saturating_sub(1);
        let value = match value {
            None => Value::None,
            Some(value) => Value::read(value, value_depth)?,
        };
        match value {
            Value::Scalar(value) => writer.attribute(Key { prefix: &self.path, name: key }, value),
            Value::None => writer.attribute(Key { prefix: &self.path, name: key }, Scalar::Text(b"")),
            Value::Array(members) => {
                self.text.clear();
                self.text.array(members, value_depth)?;
                writer.losses.cut |= self.text.is_cut;
                writer.attribute(Key { prefix: &self.path, name: key }, Scalar::Text(&self.text.bytes));
            }
            Value::List(members) => {
                let parent = self.path.len();
                self.enter(key, writer);
                self.put_members(writer, members, value_depth)?;
                self.path.truncate(parent);
            }
        }
        Ok(())
    }

    /// Goes into a list. A path that is longer than a key may be grows no more.
    fn enter(&mut self, key: &[u8], writer: &mut Writer<'_>) {
        let room = ATTRIBUTE_KEY_BYTES_MAX.saturating_sub(self.path.len());
        let name = cut(key, room);
        writer.losses.cut |= name.len() < key.len();
        self.path.extend_from_slice(name);
        match self.path.len() < ATTRIBUTE_KEY_BYTES_MAX {
            true => self.path.push(b'.'),
            false => writer.losses.cut = true,
        }
    }

    /// `value_depth`: levels that may be entered within the `AnyValue` that holds the list.
    fn put_members(&mut self, writer: &mut Writer<'_>, list: Members<'_>, value_depth: usize) -> Result<(), Malformed> {
        let depth = value_depth.saturating_sub(1);
        list.each_value(&KEY_VALUE_LIST, depth, |member| {
            let depth = enter(depth).map_err(|fault| KEY_VALUE_LIST.malformed(fault))?;
            self.put_attribute(writer, member, depth)
        })
    }
}

/// JSON text of bounded length. What it is made of is read to its end, also where the text is cut.
#[derive(Debug, Default)]
pub(super) struct JsonText {
    /// What was written so far.
    pub bytes: Vec<u8>,
    /// Something is missing.
    pub is_cut: bool,
}

impl JsonText {
    /// Begins the next text.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.is_cut = false;
    }

    /// Appends JSON as it is.
    pub(super) fn raw(&mut self, json: &str) {
        if self.has_room() {
            self.bytes.extend_from_slice(json.as_bytes());
        }
    }

    /// Appends a comma, unless it would be the first member.
    pub(super) fn comma(&mut self) {
        if !matches!(self.bytes.last(), Some(b'[' | b'{' | b':') | None) {
            self.raw(",");
        }
    }

    /// Appends the key of a member of an object, after a comma where one is needed.
    pub(super) fn key(&mut self, name: &str) {
        self.comma();
        self.text(name.as_bytes());
        self.raw(":");
    }

    /// Appends an integer.
    pub(super) fn integer(&mut self, number: impl serde::Serialize) {
        if self.has_room() {
            write_number(number, &mut self.bytes);
        }
    }

    /// Appends a double; NaN and infinities as texts.
    pub(super) fn double(&mut self, number: f64) {
        if self.has_room() {
            write_double(number, &mut self.bytes);
        }
    }

    /// Appends a text that is UTF-8, in quotes.
    pub(super) fn text(&mut self, text: &[u8]) {
        if self.has_room() {
            // More than fits is cut later; escaped it may be six times as long.
            let cut = cut(text, EVENT_BODY_BYTES_MAX);
            self.is_cut |= cut.len() < text.len();
            write_text(std::str::from_utf8(cut).unwrap_or_default(), &mut self.bytes);
        }
    }

    /// Appends bytes as hexadecimal digits, in quotes.
    pub(super) fn hex(&mut self, bytes: &[u8]) {
        if self.has_room() {
            self.bytes.push(b'"');
            crate::ids::write_hex(bytes.get(..32).unwrap_or(bytes), &mut self.bytes);
            self.bytes.push(b'"');
        }
    }

    /// Appends an `AnyValue` that was read.
    ///
    /// # Errors
    /// An array or list within it is malformed.
    pub(super) fn value(&mut self, value: &Value<'_>, depth: usize) -> Result<(), Malformed> {
        match value {
            Value::None => self.raw("null"),
            Value::Scalar(Scalar::Text(text)) => self.text(text),
            Value::Scalar(Scalar::Int(number)) => self.integer(number),
            Value::Scalar(Scalar::Double(number)) => self.double(*number),
            Value::Scalar(Scalar::Bool(yes)) => self.raw(if *yes { "true" } else { "false" }),
            Value::Scalar(Scalar::Bytes(bytes)) => {
                if self.has_room() {
                    let cut = bytes.get(..EVENT_BODY_BYTES_MAX).unwrap_or(bytes);
                    self.is_cut |= cut.len() < bytes.len();
                    self.bytes.push(b'"');
                    write_base64(cut, &mut self.bytes);
                    self.bytes.push(b'"');
                }
            }
            Value::Array(members) => self.array(*members, depth)?,
            Value::List(members) => self.list(*members, depth)?,
        }
        Ok(())
    }

    /// Appends an `ArrayValue`. `depth`: levels that may be entered within the `AnyValue` that holds it.
    ///
    /// # Errors
    /// It is malformed.
    fn array(&mut self, members: Members<'_>, depth: usize) -> Result<(), Malformed> {
        let malformed = |fault| ARRAY_VALUE.malformed(fault);
        let depth = enter(depth).map_err(malformed)?;
        self.raw("[");
        members.each_value(&ARRAY_VALUE, depth, |member| {
            let depth = enter(depth).map_err(malformed)?;
            self.comma();
            self.value(&Value::read(Parts::one(member), depth)?, depth)
        })?;
        self.raw("]");
        Ok(())
    }

    /// Appends a `KeyValueList` as an object. `depth`: as of [`JsonText::array`].
    ///
    /// # Errors
    /// It is malformed.
    fn list(&mut self, members: Members<'_>, depth: usize) -> Result<(), Malformed> {
        let malformed = |fault| KEY_VALUE_LIST.malformed(fault);
        let depth = enter(depth).map_err(malformed)?;
        self.raw("{");
        members.each_value(&KEY_VALUE_LIST, depth, |member| self.member(member, enter(depth).map_err(malformed)?))?;
        self.raw("}");
        Ok(())
    }

    /// Appends a `KeyValue` as a member of an object.
    ///
    /// # Errors
    /// It is malformed.
    pub(super) fn member(&mut self, bytes: &[u8], depth: usize) -> Result<(), Malformed> {
        let KeyValue { key, value } = KeyValue::read(bytes, depth)?;
        self.comma();
        self.text(key);
        self.raw(":");
        let depth = depth.saturating_sub(1);
        match value {
            None => self.raw("null"),
            Some(value) => self.value(&Value::read(value, depth)?, depth)?,
        }
        Ok(())
    }

    fn has_room(&mut self) -> bool {
        let room = self.bytes.len() <= EVENT_BODY_BYTES_MAX;
        self.is_cut |= !room;
        room
    }
}
