//! Passes over JSON text that take many bytes at a time: plain text, digits and white space. Each stops at what it does not know,
//! and leaves it to its caller.

/// Bytes that are taken at once.
const CHUNK_BYTES: usize = 16;

/// Copies text from the beginning of `source` to the beginning of `to`, up to a quotation mark, a backslash or a control character of
/// `source`. Returns the length of that text; `to` may be overwritten beyond it. `None`: `source` or `to` ends before.
#[inline(always)]
pub(super) fn copy_plain(source: &[u8], to: &mut [u8]) -> Option<usize> {
    let (chunks, _) = source.as_chunks::<CHUNK_BYTES>();
    let (places, _) = to.as_chunks_mut::<CHUNK_BYTES>();
    let mut bytes = 0;
    for (chunk, place) in chunks.iter().zip(places) {
        *place = *chunk;
        if let Some(end) = first_special(chunk) {
            return Some(bytes + end);
        }
        bytes += CHUNK_BYTES;
    }
    copy_last(source, to, bytes)
}

/// What is left of [`copy_plain`] after `bytes`, one byte at a time.
#[cold]
fn copy_last(source: &[u8], to: &mut [u8], mut bytes: usize) -> Option<usize> {
    loop {
        let byte = *source.get(bytes)?;
        if is_special(byte) {
            return Some(bytes);
        }
        *to.get_mut(bytes)? = byte;
        bytes += 1;
    }
}

/// Whether a text of JSON may not have this byte as it is, or ends with it.
fn is_special(byte: u8) -> bool {
    matches!(byte, 0..0x20 | b'"' | b'\\')
}

/// The index of the first special byte, in words of eight bytes.
#[inline(always)]
fn first_special(chunk: &[u8; CHUNK_BYTES]) -> Option<usize> {
    let [low, high] = *chunk.as_chunks::<8>().0 else { return None };
    let (low, high) = (special_bits(u64::from_le_bytes(low)), special_bits(u64::from_le_bytes(high)));
    if low | high == 0 {
        return None;
    }
    let (word, before) = if low == 0 { (high, 8) } else { (low, 0) };
    Some(before + word.trailing_zeros() as usize / 8)
}

/// The high bit of the first special byte, and maybe of some after it: a borrow only goes upwards.
#[inline(always)]
fn special_bits(word: u64) -> u64 {
    // One bit turned, a quotation mark is 0x20 and so next to the control characters.
    let other = (word ^ (ONES * 0x02)).wrapping_sub(ONES * 0x21);
    let backslash = (word ^ (ONES * u64::from(b'\\'))).wrapping_sub(ONES);
    (other | backslash) & !word & HIGH_BITS
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH_BITS: u64 = 0x80 * ONES;

/// `rest` without the white space at its beginning.
#[inline(always)]
pub(super) fn skip_space(rest: &[u8]) -> &[u8] {
    match rest {
        [..=b' ', ..] => skip_some_space(rest),
        _ => rest,
    }
}

#[inline(never)]
fn skip_some_space(mut rest: &[u8]) -> &[u8] {
    while let [b' ' | b'\n' | b'\r' | b'\t', after @ ..] = rest {
        rest = after;
    }
    rest
}

/// The first eight bytes as a little-endian word; bytes beyond the end are 0.
#[inline(always)]
fn word(rest: &[u8]) -> u64 {
    rest.first_chunk().map_or_else(|| short_word(rest), |word| u64::from_le_bytes(*word))
}

#[cold]
fn short_word(rest: &[u8]) -> u64 {
    rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// The digits at the beginning of `word`, each a byte from 0 to 9, with other bytes after them; and how many they are.
#[inline(always)]
fn split_digits(word: u64) -> (u64, u32) {
    let digits = word ^ (ONES * u64::from(b'0'));
    // What is above 9 gets its high bit; a carry goes to bytes after such a one only.
    let others = (digits.wrapping_add(0x76 * ONES) | digits) & HIGH_BITS;
    (digits, others.trailing_zeros() / 8)
}

/// The number of eight decimal digits, each a byte from 0 to 9, the first one lowest.
#[inline(always)]
fn number_of(digits: u64) -> u64 {
    const PAIRS: u64 = 0x0000_00FF_0000_00FF;
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8);
    let high = (pairs & PAIRS).wrapping_mul(100 + (1_000_000 << 32));
    let low = (pairs >> 16 & PAIRS).wrapping_mul(1 + (10_000 << 32));
    high.wrapping_add(low) >> 32
}

/// Most digits of [`digits`]: any such number fits into a u64.
pub(super) const DIGITS_MAX: usize = 19;

/// Reads the digits at the beginning of `rest`. Returns their value, how many they are, and what follows. `None`: they are more than
/// [`DIGITS_MAX`].
#[inline(always)]
pub(super) fn digits(rest: &[u8]) -> Option<(u64, usize, &[u8])> {
    let (digits, count) = split_digits(word(rest));
    let value = number_of(digits.checked_shl(64 - 8 * count).unwrap_or(0));
    if count == 8 {
        return more_digits(value, rest);
    }
    Some((value, count as usize, rest.get(count as usize..)?))
}

/// The rest of [`digits`] after the first eight, whose value is `value`.
fn more_digits(mut value: u64, rest: &[u8]) -> Option<(u64, usize, &[u8])> {
    let mut after = rest.get(8..)?;
    while let [digit @ b'0'..=b'9', next @ ..] = after {
        if rest.len() - next.len() > DIGITS_MAX {
            return None;
        }
        value = 10 * value + u64::from(digit - b'0');
        after = next;
    }
    Some((value, rest.len() - after.len(), after))
}

/// Reads the first eight digits, or as many as there are, as if zeros followed them to the eighth; and how many they are.
#[inline(always)]
pub(super) fn decimals(rest: &[u8]) -> (u64, usize) {
    let (digits, count) = split_digits(word(rest));
    let mask = 1_u64.checked_shl(8 * count).map_or(u64::MAX, |bit| bit - 1);
    (number_of(digits & mask), count as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_ends_at_the_first_special_byte() {
        for length in 0..70 {
            for special in [None, Some(b'"'), Some(b'\\'), Some(b'\n'), Some(0), Some(0x1F)] {
                for other in [b'a', b' ', b'!', b'#', b'[', b']', 0x7F, 0x80, 0xA2, 0xDC, 0xFF] {
                    let mut source = vec![other; length];
                    source.extend(special);
                    // What comes after the first one does not matter.
                    source.extend(special.map_or(&b""[..], |_| b"\"a\\b\x1F 0123456789"));
                    for room in [0, length.saturating_sub(1), length, length + 1, length + 40] {
                        let mut to = vec![b'-'; room];
                        let copied = copy_plain(&source, &mut to);
                        let expected = special.map(|_| length).filter(|_| room >= length);
                        assert_eq!(copied, expected, "{length} of {other}, {special:?}, {room}");
                        assert!(copied.is_none_or(|bytes| to.get(..bytes) == source.get(..bytes)));
                    }
                }
            }
        }
    }

    #[test]
    fn a_word_shows_each_special_byte() {
        for byte in 0..=u8::MAX {
            for other in [b'a', 0x20, 0x21, 0x23, 0x5B, 0x5D, 0x80, 0xFF] {
                for at in 0..CHUNK_BYTES {
                    let mut chunk = [other; CHUNK_BYTES];
                    chunk[at] = byte;
                    let expected = is_special(byte).then_some(at);
                    assert_eq!(first_special(&chunk), expected, "{byte} at {at}");
                }
            }
        }
    }

    #[test]
    fn digits_are_read_up_to_any_other_byte() {
        for number in
            ["", "0", "7", "42", "00", "1234567", "12345678", "123456789", "9999999999999999999", "0000000000000000001"]
        {
            for after in ["", " ", ",", "/", ":", "a", "\u{ff}", ".5", "}]............", "\0"] {
                let text = format!("{number}{after}");
                let value = number.parse().unwrap_or(0);
                assert_eq!(digits(text.as_bytes()), Some((value, number.len(), after.as_bytes())), "{text}");
                let eight = format!("{:0<8}", number.get(..8).unwrap_or(number)).parse().unwrap();
                assert_eq!(decimals(text.as_bytes()), (eight, number.len().min(8)), "{text}");
            }
        }
        assert_eq!(digits(b"00000000000000000001"), None);
        for byte in (0..=u8::MAX).filter(|byte| !byte.is_ascii_digit()) {
            for at in 0..8 {
                let mut text = *b"98765432";
                text[at] = byte;
                let value = text.iter().take(at).fold(0, |value, digit| 10 * value + u64::from(digit - b'0'));
                assert_eq!(digits(&text), Some((value, at, &text[at..])), "{byte} at {at}");
            }
        }
    }

    #[test]
    fn only_white_space_of_json_is_skipped() {
        for (text, rest) in
            [("", ""), ("a ", "a "), (" \n\r\t a", "a"), ("\x0c", "\x0c"), (" \u{a0}", "\u{a0}"), ("   ", "")]
        {
            assert_eq!(skip_space(text.as_bytes()), rest.as_bytes(), "{text:?}");
        }
    }
}
