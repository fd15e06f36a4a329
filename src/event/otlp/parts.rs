//! Fields that occur several times and then are one message, joined, as protobuf has it.
//!
//! | message | how |
//! |---|---|
//! | `AnyValue` and what is in it, at any depth | [`Parts`], [`Members`]: read where they are, so that the work is linear in the bytes at any depth |
//! | all others, which are not nested in themselves | [`join`]: checked, and copied together |

use std::borrow::Cow;

use super::Malformed;
use super::schema::Message;
use crate::event::protobuf::{DELIMITED, delimited, field_key, key, skip};

/// The content of a message that may occur several times and then is one, joined, as protobuf has it.
pub(super) type Joined<'a> = Option<Cow<'a, [u8]>>;

/// Adds an occurrence. `depth`: levels that may be entered within it.
///
/// # Errors
/// There are several, and one is malformed: each is a message by itself.
#[inline(always)]
pub(super) fn join<'a>(
    joined: &mut Joined<'a>,
    bytes: &'a [u8],
    message: &'static Message,
    depth: usize,
) -> Result<(), Malformed> {
    match joined {
        None => *joined = Some(Cow::Borrowed(bytes)),
        Some(joined) => extend(joined, bytes, message, depth)?,
    }
    Ok(())
}

#[cold]
fn extend<'a>(
    joined: &mut Cow<'a, [u8]>,
    bytes: &'a [u8],
    message: &'static Message,
    depth: usize,
) -> Result<(), Malformed> {
    if let Cow::Borrowed(first) = joined {
        message.validate(first, depth)?;
    }
    message.validate(bytes, depth)?;
    joined.to_mut().extend_from_slice(bytes);
    Ok(())
}

/// An `AnyValue`, in one part or several; and how far it is read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts<'a> {
    /// What is left of the part that is being read.
    pub part: &'a [u8],
    /// Where the other parts are: what is left of the message that has them.
    message: &'a [u8],
    /// The key of its fields that are parts.
    key: u32,
}

impl<'a> Parts<'a> {
    /// A single part.
    #[inline(always)]
    pub(super) fn one(part: &'a [u8]) -> Self {
        Self { part, message: &[], key: 0 }
    }

    /// Adds a part. `message` has it, and those before it, as fields of `key`.
    #[inline(always)]
    pub(super) fn add(parts: &mut Option<Self>, part: &'a [u8], (message, key): (&'a [u8], u32)) {
        *parts = Some(match parts {
            None => Self::one(part),
            Some(_) => Self { part: &[], message, key },
        });
    }

    /// The only part; empty where there are several.
    #[inline(always)]
    pub(super) fn only(self) -> &'a [u8] {
        if self.message.is_empty() { self.part } else { &[] }
    }

    /// Whether a field is left: then [`Parts::part`] begins with it.
    pub(super) fn has_more(&mut self) -> bool {
        while self.part.is_empty() {
            let Some((part, message)) = next_of(self.message, self.key) else { return false };
            (self.part, self.message) = (part, message);
        }
        true
    }
}

/// The next field of `key` in a message whose keys and lengths were checked: its content, and what follows it.
fn next_of(message: &[u8], wanted: u32) -> Option<(&[u8], &[u8])> {
    let mut rest = message;
    while !rest.is_empty() {
        let (key, after) = field_key(rest).ok()?;
        if key == wanted {
            return delimited(after).ok();
        }
        rest = skip(key, after, 0, usize::MAX).ok()?;
    }
    None
}

/// The fields with an `ArrayValue` or a `KeyValueList` in an `AnyValue` of checked keys and lengths: one, or several that are one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Members<'a> {
    /// From the first of them on.
    pub first: Parts<'a>,
    /// Their key.
    pub key: u32,
    /// How many there are.
    pub fields: usize,
}

impl<'a> Members<'a> {
    /// Calls `each` with the content of every field.
    pub(super) fn each(self, mut each: impl FnMut(&'a [u8]) -> Result<(), Malformed>) -> Result<(), Malformed> {
        let mut parts = self.first;
        let mut left = self.fields;
        while left > 0 && parts.has_more() {
            match next_of(parts.part, self.key) {
                Some((content, after)) => {
                    parts.part = after;
                    left -= 1;
                    each(content)?;
                }
                None => parts.part = &[],
            }
        }
        Ok(())
    }

    /// Calls `each` with every value, and checks the other fields. `message`: what the fields are. `depth`: levels that may be
    /// entered within it.
    pub(super) fn each_value(
        self,
        message: &'static Message,
        depth: usize,
        mut each: impl FnMut(&'a [u8]) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        /// Of `ArrayValue` and `KeyValueList`.
        const VALUES: u32 = key(1, DELIMITED);
        let malformed = |fault| message.malformed(fault);
        self.each(|content| {
            let mut rest = content;
            while !rest.is_empty() {
                let (key, after) = field_key(rest).map_err(malformed)?;
                if key == VALUES {
                    let (value, after) = delimited(after).map_err(malformed)?;
                    each(value)?;
                    rest = after;
                } else {
                    rest = message.pass(key, after, depth)?;
                }
            }
            Ok(())
        })
    }
}
