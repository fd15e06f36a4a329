//! What a message of OTLP may have, and the check of bytes that are not mapped to events. Accepts and refuses exactly what
//! prost does (`fuzz` compares them).

use super::Malformed;
use crate::event::protobuf::{
    DELIMITED, FIXED64, Fault, Read, VARINT, delimited, field_key, fixed64, is_utf8, skip, varint,
};

/// Wire type of four little-endian bytes.
pub(super) const FIXED32: u32 = 5;

/// A message of OTLP.
#[derive(Debug)]
pub(super) struct Message {
    /// The name in the `.proto` file, after that of the message around it.
    pub name: &'static str,
    /// By number.
    pub fields: &'static [Field],
}

/// A field of a message.
#[derive(Debug)]
pub(super) struct Field {
    /// Number on the wire.
    pub number: u32,
    /// The name in the `.proto` file; JSON has it in camel case.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Whether it may occur many times.
    pub repeated: bool,
}

/// What a field holds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// `string`.
    Text,
    /// `bytes`; base64 in JSON.
    Bytes,
    /// `bytes` of a trace or span; hexadecimal in JSON.
    Id,
    /// `fixed64`.
    Fixed64,
    /// `sfixed64`.
    SFixed64,
    /// `fixed32`.
    Fixed32,
    /// `double`.
    Double,
    /// `int64`.
    Int64,
    /// `uint64`.
    UInt64,
    /// `int32`.
    Int32,
    /// `uint32`.
    UInt32,
    /// `sint32`, zigzag.
    SInt32,
    /// `bool`.
    Bool,
    /// An enum; a number in JSON.
    Enum,
    /// Another message.
    Message(&'static Message),
}

impl Kind {
    /// Wire type of one value.
    pub(super) fn wire_type(self) -> u32 {
        match self {
            Self::Text | Self::Bytes | Self::Id | Self::Message(_) => DELIMITED,
            Self::Fixed64 | Self::SFixed64 | Self::Double => FIXED64,
            Self::Fixed32 => FIXED32,
            Self::Int64 | Self::UInt64 | Self::Int32 | Self::UInt32 | Self::SInt32 | Self::Bool | Self::Enum => VARINT,
        }
    }
}

/// A field that occurs at most once.
pub(super) const fn one(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, repeated: false }
}

/// A repeated field.
pub(super) const fn many(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, repeated: true }
}

impl Message {
    /// What is wrong with bytes of this message.
    #[cold]
    pub(super) fn malformed(&self, fault: Fault) -> Malformed {
        Malformed { message: self.name, fault }
    }

    /// Checks bytes that are not mapped. `depth`: levels that may be entered within the message.
    ///
    /// # Errors
    /// They are not such a message.
    pub(super) fn validate(&self, bytes: &[u8], depth: usize) -> Result<(), Malformed> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (key, after) = field_key(rest).map_err(|fault| self.malformed(fault))?;
            rest = self.pass(key, after, depth)?;
        }
        Ok(())
    }

    /// Checks the field of `key`, and returns what follows it.
    ///
    /// # Errors
    /// It is not such a field.
    pub(super) fn pass<'a>(&self, key: u32, after: &'a [u8], depth: usize) -> Result<&'a [u8], Malformed> {
        let (number, wire_type) = (key >> 3, key & 7);
        let Some(field) = self.fields.iter().find(|field| field.number == number) else {
            return skip(key, after, 0, depth).map_err(|fault| self.malformed(fault));
        };
        if let (Kind::Message(nested), DELIMITED) = (field.kind, wire_type) {
            let (bytes, after) = delimited(after).map_err(|fault| self.malformed(fault))?;
            nested.validate(bytes, enter(depth).map_err(|fault| self.malformed(fault))?)?;
            return Ok(after);
        }
        field.pass_scalar(wire_type, after).map_err(|fault| self.malformed(fault))
    }
}

/// The levels that may be entered within a message that is entered here.
#[inline(always)]
pub(super) fn enter(depth: usize) -> Result<usize, Fault> {
    depth.checked_sub(1).ok_or(Fault::Depth)
}

impl Field {
    fn pass_scalar<'a>(&self, wire_type: u32, after: &'a [u8]) -> Result<&'a [u8], Fault> {
        let own = self.kind.wire_type();
        if wire_type == own {
            return match self.kind {
                Kind::Text => text(after).map(|(_, after)| after),
                _ if own == DELIMITED => delimited(after).map(|(_, after)| after),
                _ => pass_number(own, after),
            };
        }
        // Numbers of a repeated field may be packed.
        if !self.repeated || own == DELIMITED || wire_type != DELIMITED {
            return Err(Fault::WireType);
        }
        let (mut packed, after) = delimited(after)?;
        while !packed.is_empty() {
            packed = pass_number(own, packed)?;
        }
        Ok(after)
    }
}

fn pass_number(wire_type: u32, bytes: &[u8]) -> Result<&[u8], Fault> {
    match wire_type {
        FIXED64 => bytes.get(8..).ok_or(Fault::Truncated),
        FIXED32 => bytes.get(4..).ok_or(Fault::Truncated),
        _ => varint(bytes).map(|(_, after)| after),
    }
}

/// Reads a text.
#[inline(always)]
pub(super) fn text(bytes: &[u8]) -> Read<'_, &[u8]> {
    let (text, after) = delimited(bytes)?;
    if is_utf8(text) { Ok((text, after)) } else { Err(Fault::Utf8) }
}

/// Reads four little-endian bytes.
#[inline(always)]
pub(super) fn fixed32(bytes: &[u8]) -> Read<'_, u32> {
    let (value, rest) = bytes.split_first_chunk().ok_or(Fault::Truncated)?;
    Ok((u32::from_le_bytes(*value), rest))
}

/// The numbers of the repeated field `number` in a message that was checked: their bits, in order, packed or not.
pub(super) fn each_number(message: &[u8], number: u32, wire_type: u32, mut each: impl FnMut(u64)) {
    let next = |bytes| match wire_type {
        FIXED64 => fixed64(bytes),
        _ => varint(bytes),
    };
    let mut rest = message;
    while !rest.is_empty() {
        // It was checked: whatever ends the reading early leaves nothing to read.
        let Ok((key, after)) = field_key(rest) else { return };
        rest = if key >> 3 != number {
            let Ok(after) = skip(key, after, 0, usize::MAX) else { return };
            after
        } else if key & 7 == DELIMITED {
            let Ok((mut packed, after)) = delimited(after) else { return };
            while let Ok((bits, left)) = next(packed) {
                each(bits);
                packed = left;
            }
            after
        } else {
            let Ok((bits, after)) = next(after) else { return };
            each(bits);
            after
        };
    }
}
