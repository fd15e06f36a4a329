//! Messages out of a stream of TCP (RFC 6587): octet counting and lines, message by message.
//!
//! ```text
//!  83 <34>1 2026-…        digits, a space and `<`: so many bytes
//!  <34>Oct 11 22:14:15…   anything else: up to the line end, or to NUL
//!  2026-11-27T09:23:46…   a line, too: no `<` follows its first digits
//! ```

use std::io::BufRead;

use crate::limits::{SYSLOG_COUNT_BYTES_MAX, SYSLOG_MESSAGE_BYTES_MAX};

/// Digits of a count.
const COUNT_DIGITS_MAX: usize = SYSLOG_COUNT_BYTES_MAX.ilog10() as usize + 1;

/// One message of a stream, without its framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// Its bytes; at most [`SYSLOG_MESSAGE_BYTES_MAX`].
    pub bytes: &'a [u8],
    /// There was more of it, which is skipped.
    pub truncated: bool,
}

/// What was found at the beginning of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step<'a> {
    /// Bytes that are done; at least one.
    pub consumed: usize,
    /// The message in them; `None`: they separate messages, or belong to one that was cut.
    pub message: Option<Message<'a>>,
}

/// What of a message that was cut is still to be skipped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Skip {
    #[default]
    Nothing,
    Bytes(usize),
    Line,
}

/// Finds messages in a stream. The caller keeps what is not consumed, and shows it again with what follows.
#[derive(Debug, Default)]
pub struct Framer {
    skip: Skip,
}

enum Count {
    /// Digits, and more must be seen.
    Undecided,
    /// The bytes do not begin with a count.
    None,
    /// Bytes of the count with its space, and bytes of the message.
    Is(usize, usize),
}

impl Framer {
    /// The next step; `None`: more bytes are needed.
    pub fn next<'a>(&mut self, bytes: &'a [u8]) -> Option<Step<'a>> {
        if bytes.is_empty() {
            return None;
        }
        match self.skip {
            Skip::Bytes(left) => {
                let consumed = left.min(bytes.len());
                self.skip = if consumed < left { Skip::Bytes(left - consumed) } else { Skip::Nothing };
                return Some(Step { consumed, message: None });
            }
            Skip::Line => {
                let end = line_end(bytes);
                if end.is_some() {
                    self.skip = Skip::Nothing;
                }
                return Some(Step { consumed: end.map_or(bytes.len(), |end| end + 1), message: None });
            }
            Skip::Nothing => {}
        }
        let separators = bytes.iter().take_while(|byte| matches!(byte, b'\n' | b'\r' | 0)).count();
        if separators > 0 {
            return Some(Step { consumed: separators, message: None });
        }
        match count(bytes) {
            Count::Undecided => None,
            Count::Is(digits, length) => self.counted(bytes, digits, length),
            Count::None => self.line(bytes),
        }
    }

    /// The stream ends after `bytes`, which no step has consumed: they are its last message. A counted one is incomplete.
    pub fn end<'a>(&mut self, bytes: &'a [u8]) -> Option<Message<'a>> {
        if bytes.is_empty() || self.skip != Skip::Nothing {
            return None;
        }
        let (begin, truncated) = match count(bytes) {
            Count::Is(digits, _) => (digits, true),
            Count::Undecided | Count::None => (0, false),
        };
        let bytes = bytes.get(begin..)?;
        let kept = bytes.get(..SYSLOG_MESSAGE_BYTES_MAX).unwrap_or(bytes);
        (!kept.is_empty()).then_some(Message { bytes: kept, truncated: truncated || kept.len() < bytes.len() })
    }

    /// Cuts the message that `bytes` begin, which no step has consumed, at their end: what follows of it is skipped.
    pub fn cut<'a>(&mut self, bytes: &'a [u8]) -> Option<Message<'a>> {
        let message = self.end(bytes)?;
        self.skip = match count(bytes) {
            Count::Is(digits, length) => Skip::Bytes((digits + length).saturating_sub(bytes.len())),
            Count::Undecided | Count::None => Skip::Line,
        };
        Some(Message { truncated: true, ..message })
    }

    fn counted<'a>(&mut self, bytes: &'a [u8], digits: usize, length: usize) -> Option<Step<'a>> {
        let kept = length.min(SYSLOG_MESSAGE_BYTES_MAX);
        let consumed = digits + kept;
        let message = bytes.get(digits..consumed)?;
        if kept < length {
            self.skip = Skip::Bytes(length - kept);
        }
        Some(Step { consumed, message: Some(Message { bytes: message, truncated: kept < length }) })
    }

    fn line<'a>(&mut self, bytes: &'a [u8]) -> Option<Step<'a>> {
        let seen = bytes.get(..=SYSLOG_MESSAGE_BYTES_MAX).unwrap_or(bytes);
        if let Some(end) = line_end(seen) {
            let message = Message { bytes: bytes.get(..end)?, truncated: false };
            return Some(Step { consumed: end + 1, message: Some(message) });
        }
        let kept = bytes.get(..SYSLOG_MESSAGE_BYTES_MAX).filter(|kept| kept.len() < bytes.len())?;
        self.skip = Skip::Line;
        Some(Step { consumed: kept.len(), message: Some(Message { bytes: kept, truncated: true }) })
    }
}

fn count(bytes: &[u8]) -> Count {
    let digits = bytes.iter().take(COUNT_DIGITS_MAX + 1).take_while(|byte| byte.is_ascii_digit()).count();
    if digits == 0 || digits > COUNT_DIGITS_MAX || bytes.first() == Some(&b'0') {
        return Count::None;
    }
    let length = bytes.iter().take(digits).fold(0, |number, digit| number * 10 + usize::from(digit - b'0'));
    match (bytes.get(digits), bytes.get(digits + 1)) {
        (None, _) | (Some(b' '), None) => Count::Undecided,
        (Some(b' '), Some(b'<')) if length <= SYSLOG_COUNT_BYTES_MAX => Count::Is(digits + 1, length),
        _ => Count::None,
    }
}

/// Where a message without a count ends: at a line end or NUL. Both are looked for in pieces, so that each byte is looked at twice at
/// most, whichever of them the sender uses.
fn line_end(bytes: &[u8]) -> Option<usize> {
    const PIECE_BYTES: usize = 256;
    let mut at = 0;
    for piece in bytes.chunks(PIECE_BYTES) {
        let line_end = place_of(b'\n', piece);
        let line = piece.get(..line_end.unwrap_or(piece.len())).unwrap_or(piece);
        if let Some(end) = place_of(0, line).or(line_end) {
            return Some(at + end);
        }
        at += piece.len();
    }
    None
}

fn place_of(byte: u8, bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes;
    // Reading from a slice cannot fail; it finds the byte many bytes at a time.
    let skipped = rest.skip_until(byte).unwrap_or(0);
    bytes.get(..skipped).filter(|found| found.last() == Some(&byte)).map(|found| found.len() - 1)
}
