//! The protobuf wire format as slices: keys, varints, lengths, and skipping of unknown fields. Knows no message.
//!
//! Accepts and refuses exactly the bytes that prost does (`fuzz` compares them): varints may be longer than needed but
//! not beyond 64 bits, a key fits in 32 bits, groups are skipped. Every function takes the bytes that are left and
//! returns what it read with the bytes after it.

use crate::limits::PROTOBUF_DEPTH_MAX;

/// How many levels may still be entered; counted down, as prost counts.
pub(super) const DEPTH_BATCH: usize = PROTOBUF_DEPTH_MAX;
/// Levels that may still be entered within an `Event`.
pub(super) const DEPTH_EVENT: usize = DEPTH_BATCH - 1;
/// Levels that may still be entered within an `Attribute`.
pub(super) const DEPTH_ATTRIBUTE: usize = DEPTH_EVENT - 1;

// The key of a field is its number and its wire type; the numbers are those of proto/events.proto.
/// Wire type of varints.
pub(super) const VARINT: u32 = 0;
/// Wire type of eight little-endian bytes.
pub(super) const FIXED64: u32 = 1;
/// Wire type of texts, bytes and messages: a length as a varint, then so many bytes.
pub(super) const DELIMITED: u32 = 2;
const GROUP_START: u32 = 3;
const GROUP_END: u32 = 4;
const FIXED32: u32 = 5;

/// What is wrong with bytes that are not protobuf. Always the sender's encoder, or corruption that a checksum missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The bytes end before the value does.
    #[error("it is truncated")]
    Truncated,
    /// A varint is longer than 64 bits.
    #[error("a varint exceeds 64 bits")]
    Varint,
    /// The key of a field is 0 or longer than 32 bits.
    #[error("a field key is 0 or exceeds 32 bits")]
    Key,
    /// A known field with another wire type than in the schema, or a wire type that protobuf does not have.
    #[error("it has another wire type than in the schema")]
    WireType,
    /// The end of a group without its start.
    #[error("the end of a group without its start")]
    GroupEnd,
    /// Groups are nested too deep.
    #[error("groups are nested deeper than {PROTOBUF_DEPTH_MAX}")]
    Depth,
    /// A text is not UTF-8.
    #[error("it is not valid UTF-8")]
    Utf8,
}

/// The value that was read and the bytes after it, or what is wrong.
pub(super) type Read<'a, T> = Result<(T, &'a [u8]), Fault>;

/// The key of a field: number and wire type.
pub(super) const fn key(number: u32, wire_type: u32) -> u32 {
    number << 3 | wire_type
}

/// Reads a varint.
#[inline(always)]
pub(super) fn varint(bytes: &[u8]) -> Read<'_, u64> {
    match bytes {
        [byte, rest @ ..] if *byte < 0x80 => Ok((u64::from(*byte), rest)),
        _ => long_varint(bytes),
    }
}

#[inline(never)]
fn long_varint(bytes: &[u8]) -> Read<'_, u64> {
    let (mut value, mut rest) = (0, bytes);
    for shift in (0..70).step_by(7) {
        let Some((byte, after)) = rest.split_first() else { return Err(Fault::Truncated) };
        rest = after;
        // The tenth byte holds the highest bit alone.
        if shift == 63 && *byte > 1 {
            return Err(Fault::Varint);
        }
        value |= u64::from(byte & 0x7F) << shift;
        if *byte < 0x80 {
            return Ok((value, rest));
        }
    }
    Err(Fault::Varint)
}

/// Whether `bytes` are a varint and nothing else.
#[inline(always)]
pub(super) fn is_one_varint(bytes: &[u8]) -> bool {
    match bytes {
        [0..0x80] | [0x80..=0xFF, 0..0x80] => true,
        _ => matches!(long_varint(bytes), Ok((_, []))),
    }
}

/// The key of the next field. Its number is checked by [`skip`], where all keys end that no message knows.
#[inline(always)]
pub(super) fn field_key(bytes: &[u8]) -> Read<'_, u32> {
    #[cfg(test)]
    work::FIELDS.with(|fields| fields.set(fields.get() + 1));
    let (key, rest) = varint(bytes)?;
    Ok((u32::try_from(key).map_err(|_| Fault::Key)?, rest))
}

/// How much was read by a thread, for tests of work that must be linear.
#[cfg(test)]
pub(super) mod work {
    thread_local! {
        /// Calls of [`super::field_key`].
        pub(in crate::event) static FIELDS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
    }
}

/// Reads eight little-endian bytes.
#[inline(always)]
pub(super) fn fixed64(bytes: &[u8]) -> Read<'_, u64> {
    let (value, rest) = bytes.split_first_chunk().ok_or(Fault::Truncated)?;
    Ok((u64::from_le_bytes(*value), rest))
}

/// Reads a length and so many bytes.
#[inline(always)]
pub(super) fn delimited(bytes: &[u8]) -> Read<'_, &[u8]> {
    let (len, rest) = length(bytes)?;
    usize::try_from(len).ok().and_then(|len| rest.split_at_checked(len)).ok_or(Fault::Truncated)
}

/// Reads a length; most are below 16,384, which is two bytes.
#[inline(always)]
fn length(bytes: &[u8]) -> Read<'_, u64> {
    match bytes {
        [byte @ ..0x80, rest @ ..] => Ok((u64::from(*byte), rest)),
        [low, high @ ..0x80, rest @ ..] => Ok((u64::from(low & 0x7F) | u64::from(*high) << 7, rest)),
        _ => long_varint(bytes),
    }
}

/// Skips a field that the message does not know. `known` is the highest number that it does know: such a field came
/// with a wrong wire type. `depth`: levels that may still be entered.
#[cold]
pub(super) fn skip(key: u32, bytes: &[u8], known: u32, depth: usize) -> Result<&[u8], Fault> {
    let (number, wire_type) = (key >> 3, key & 7);
    if number == 0 {
        return Err(Fault::Key);
    }
    if number <= known {
        return Err(Fault::WireType);
    }
    let depth = depth.checked_sub(1).ok_or(Fault::Depth)?;
    match wire_type {
        VARINT => varint(bytes).map(|(_, rest)| rest),
        FIXED64 => bytes.get(8..).ok_or(Fault::Truncated),
        FIXED32 => bytes.get(4..).ok_or(Fault::Truncated),
        DELIMITED => delimited(bytes).map(|(_, rest)| rest),
        GROUP_START => {
            let mut rest = bytes;
            loop {
                let (inner, after) = field_key(rest)?;
                if inner & 7 == GROUP_END {
                    return if inner >> 3 == number { Ok(after) } else { Err(Fault::GroupEnd) };
                }
                rest = skip(inner, after, 0, depth)?;
            }
        }
        GROUP_END => Err(Fault::GroupEnd),
        _ => Err(Fault::WireType),
    }
}

/// Appends a varint.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Number of bytes that [`put_varint`] appends.
pub(super) const fn varint_bytes(value: u64) -> usize {
    (64 - (value | 1).leading_zeros()).div_ceil(7) as usize
}

/// Whether `bytes` are UTF-8. Most are short and ASCII: eight bytes at a time, the last eight overlapping.
#[inline(always)]
pub(super) fn is_utf8(bytes: &[u8]) -> bool {
    is_ascii(bytes) || simdutf8::basic::from_utf8(bytes).is_ok()
}

/// Whether `bytes` are short and ASCII.
#[inline(always)]
pub(super) fn is_ascii(bytes: &[u8]) -> bool {
    // Longer texts are the SIMD validator's, whose dispatch costs more than these words.
    const SHORT_BYTES: usize = 256;
    if bytes.len() > SHORT_BYTES {
        return false;
    }
    let (chunks, _) = bytes.as_chunks::<16>();
    if let Some(last) = bytes.last_chunk::<16>() {
        let bits = chunks.iter().fold(u128::from_ne_bytes(*last), |bits, word| bits | u128::from_ne_bytes(*word));
        return (bits as u64 | (bits >> 64) as u64) & HIGH == 0;
    }
    let bits = if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        u64::from_ne_bytes(*first) | u64::from_ne_bytes(*last)
    } else if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        u64::from(u32::from_ne_bytes(*first) | u32::from_ne_bytes(*last))
    } else {
        bytes.iter().fold(0, |bits, byte| bits | u64::from(*byte))
    };
    bits & HIGH == 0
}

const HIGH: u64 = 0x8080_8080_8080_8080;

/// How many of `bytes` are 0x80 or more: none, if they are ASCII.
#[inline(always)]
pub(super) fn high_bytes(bytes: &[u8]) -> usize {
    // Each of 16 sums has a byte.
    const SUMMED_BYTES: usize = 16 * 254;
    if bytes.len() > SUMMED_BYTES {
        return bytes.chunks(SUMMED_BYTES).map(few_high_bytes).sum();
    }
    few_high_bytes(bytes)
}

#[inline(always)]
fn few_high_bytes(bytes: &[u8]) -> usize {
    // A piece of it, of 16 bytes, begins with zeros and goes on with ones.
    const ONES_AT_LAST: [u8; 32] =
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1];
    let Some(last) = bytes.last_chunk::<16>() else {
        return bytes.iter().map(|byte| usize::from(byte >> 7)).sum();
    };
    let (chunks, rest) = bytes.as_chunks::<16>();
    let mut sums = [0u8; 16];
    for chunk in chunks {
        for (sum, byte) in sums.iter_mut().zip(chunk) {
            *sum += byte >> 7;
        }
    }
    let not_counted = ONES_AT_LAST.get(rest.len()..).unwrap_or_default();
    for ((sum, byte), is_not_counted) in sums.iter_mut().zip(last).zip(not_counted) {
        *sum += byte >> 7 & is_not_counted;
    }
    sums.iter().map(|sum| usize::from(*sum)).sum()
}

/// How many bytes of `word` are 0x80 or more.
#[inline(always)]
pub(super) fn high_bytes_in(word: u64) -> usize {
    (((word & HIGH) >> 7).wrapping_mul(0x0101_0101_0101_0101) >> 56) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utf8_is_what_the_standard_library_says_it_is() {
        for length in 0..300 {
            let ascii = vec![b'a'; length];
            assert!(is_utf8(&ascii), "{length}");
            for place in 0..length {
                for bad in [
                    &b"\x80"[..],
                    b"\xff",
                    "ä".as_bytes(),
                    "😀".as_bytes(),
                    b"\xed\xa0\x80",
                    b"\xe2\x82",
                    b"\0",
                    b"\x7f",
                ] {
                    let mut bytes = ascii.clone();
                    let end = (place + bad.len()).min(length);
                    bytes[place..end].copy_from_slice(&bad[..end - place]);
                    assert_eq!(is_utf8(&bytes), std::str::from_utf8(&bytes).is_ok(), "{bad:?} at {place} of {length}");
                }
            }
        }
    }

    #[test]
    fn varints_are_written_as_they_are_read() {
        for value in (0..64).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1]).chain([u64::MAX]) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            assert_eq!(bytes.len(), varint_bytes(value));
            assert_eq!(varint(&bytes), Ok((value, &[][..])));
            for end in 0..bytes.len() {
                assert_eq!(varint(&bytes[..end]), Err(Fault::Truncated));
            }
        }
    }
}
