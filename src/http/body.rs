//! Bodies: Content-Length and chunked (RFC 9112, sections 6 and 7), incremental, into what is [kept](super::kept).
//!
//! ```text
//!  Size ─ CRLF ─▶ Data ─ all of it ─▶ CRLF ─▶ Size …
//!   │ ; ─▶ name = value ─ CRLF ─┘
//!   └ 0 ─▶ Trailer lines ─ empty line ─▶ Done
//! ```
//!
//! Chunk extensions and trailers are checked, bounded and dropped. `httparse::parse_chunk_size` is not used: it takes
//! LF without CR and needs the whole line.

use super::bytes::is_token_byte;
use super::kept::Kept;
use super::response::Refusal;
use crate::limits::HTTP_HEAD_BYTES_MAX;
use crate::metrics::RejectReason;

/// The state of receiving a body: separates its bytes from the framing.
#[derive(Debug)]
pub(super) enum Framing {
    /// Bytes still to come.
    Length(usize),
    /// In chunks, each with its length before it.
    Chunked(Chunked),
}

impl Framing {
    /// Takes what belongs to this body from `input` into `body`, as much as that has room for; it is at most `max_bytes`.
    /// Returns how much of `input` was consumed, and whether the body is whole.
    pub(super) fn receive(
        &mut self,
        input: &[u8],
        body: &mut Kept,
        max_bytes: usize,
    ) -> Result<(usize, bool), Refusal> {
        match self {
            Self::Length(missing) => {
                let taken = input.get(..body.room().min(*missing)).unwrap_or(input);
                store(body, taken)?;
                *missing -= taken.len();
                Ok((taken.len(), *missing == 0))
            }
            Self::Chunked(chunked) => chunked.receive(input, body, max_bytes),
        }
    }

    /// Bytes of the whole body, of which `received` have come; for chunked, whose length is not known, `max_bytes`.
    pub(super) fn whole_bytes(&self, received: usize, max_bytes: usize) -> usize {
        match self {
            Self::Length(missing) => received + missing,
            Self::Chunked(_) => max_bytes,
        }
    }

    /// Whether the next bytes are the body's own, not its framing's.
    pub(super) fn is_within_data(&self) -> bool {
        match self {
            Self::Length(missing) => *missing > 0,
            Self::Chunked(chunked) => matches!(chunked.state, ChunkState::Data { .. }),
        }
    }
}

/// Decoder of the chunked coding.
#[derive(Debug)]
pub(super) struct Chunked {
    state: ChunkState,
    /// Bytes of extensions and trailers that may still come.
    extra: usize,
}

#[derive(Debug, Clone, Copy)]
enum ChunkState {
    /// Hex digits of a size; how many there were.
    Size {
        size: u64,
        digits: u8,
    },
    /// Within the extensions of a size.
    Extension {
        size: u64,
        at: Extension,
    },
    /// After the CR of the size's line.
    SizeLf {
        size: u64,
    },
    Data {
        missing: usize,
    },
    DataCr,
    DataLf,
    /// At the first byte of a trailer line, or of the empty line that ends the body.
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    Done,
}

/// Within `*( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] )` (RFC 9112, section 7.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extension {
    /// White space where only another extension may follow.
    Space,
    /// After `;` and white space.
    NameStart,
    Name,
    /// White space after a name: `=` or another extension follows.
    NameSpace,
    /// After `=` and white space.
    ValueStart,
    Token,
    Quoted,
    /// After a backslash in a quoted string.
    QuotedPair,
    /// After the closing quote.
    ValueEnd,
}

impl Extension {
    /// The state after `byte`; `None`: the grammar does not allow it here. CR is the caller's.
    fn next(self, byte: u8) -> Option<Self> {
        Some(match (self, byte) {
            (Self::Quoted, b'"') => Self::ValueEnd,
            (Self::Quoted, b'\\') => Self::QuotedPair,
            (Self::Quoted | Self::QuotedPair, _) if is_field_byte(byte) => Self::Quoted,
            (Self::Quoted | Self::QuotedPair, _) => return None,
            (Self::NameStart | Self::ValueStart, b' ' | b'\t') => self,
            (Self::NameStart | Self::Name, _) if is_token_byte(byte) => Self::Name,
            (Self::ValueStart | Self::Token, _) if is_token_byte(byte) => Self::Token,
            (Self::ValueStart, b'"') => Self::Quoted,
            (Self::Name | Self::NameSpace, b'=') => Self::ValueStart,
            (Self::Name | Self::NameSpace, b' ' | b'\t') => Self::NameSpace,
            (Self::NameStart | Self::ValueStart, _) => return None,
            (_, b';') => Self::NameStart,
            (Self::Space | Self::Token | Self::ValueEnd, b' ' | b'\t') => Self::Space,
            _ => return None,
        })
    }

    /// Whether the line may end here.
    fn is_whole(self) -> bool {
        matches!(self, Self::Name | Self::Token | Self::ValueEnd)
    }
}

impl Chunked {
    /// A body whose first chunk is to come.
    pub(super) fn new() -> Self {
        Self { state: ChunkState::Size { size: 0, digits: 0 }, extra: HTTP_HEAD_BYTES_MAX }
    }

    fn receive(&mut self, input: &[u8], body: &mut Kept, max_bytes: usize) -> Result<(usize, bool), Refusal> {
        let mut consumed = 0;
        while let Some(rest) = input.get(consumed..).filter(|rest| !rest.is_empty()) {
            match self.state {
                ChunkState::Done => break,
                ChunkState::Data { missing } => {
                    let taken = rest.get(..body.room().min(missing)).unwrap_or(rest);
                    if taken.is_empty() {
                        break;
                    }
                    store(body, taken)?;
                    consumed += taken.len();
                    let missing = missing - taken.len();
                    self.state = if missing == 0 { ChunkState::DataCr } else { ChunkState::Data { missing } };
                }
                state => {
                    let Some(&byte) = rest.first() else { break };
                    self.state = self.framing_byte(state, byte, body.len(), max_bytes)?;
                    consumed += 1;
                }
            }
        }
        Ok((consumed, matches!(self.state, ChunkState::Done)))
    }

    fn framing_byte(
        &mut self,
        state: ChunkState,
        byte: u8,
        received: usize,
        max_bytes: usize,
    ) -> Result<ChunkState, Refusal> {
        use ChunkState as S;
        Ok(match (state, byte) {
            (S::Size { size, digits }, _) if byte.is_ascii_hexdigit() => {
                // 16 digits fill a u64.
                if digits == 16 {
                    return Err(Refusal::body(RejectReason::Malformed, "a chunk size has more than 16 digits"));
                }
                let digit = (byte as char).to_digit(16).unwrap_or_default();
                S::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }
            }
            (S::Size { size, digits: 1.. }, b'\r') => S::SizeLf { size },
            (S::Size { size, digits: 1.. }, b';') => {
                self.extra_byte(S::Extension { size, at: Extension::NameStart })?
            }
            (S::Size { size, digits: 1.. }, b' ' | b'\t') => {
                self.extra_byte(S::Extension { size, at: Extension::Space })?
            }
            (S::Extension { size, at }, b'\r') if at.is_whole() => S::SizeLf { size },
            (S::Extension { size, at }, _) => match at.next(byte) {
                Some(at) => self.extra_byte(S::Extension { size, at })?,
                None => {
                    let error = "a chunk extension is not `;name` or `;name=value` (RFC 9112, section 7.1.1)";
                    return Err(Refusal::body(RejectReason::Malformed, error));
                }
            },
            (S::SizeLf { size: 0 }, b'\n') => S::TrailerStart,
            (S::SizeLf { size }, b'\n') => match usize::try_from(size) {
                Ok(missing) if missing <= max_bytes.saturating_sub(received) => S::Data { missing },
                _ => return Err(too_large(max_bytes)),
            },
            (S::DataCr, b'\r') => S::DataLf,
            (S::DataLf, b'\n') => S::Size { size: 0, digits: 0 },
            (S::TrailerStart, b'\r') => S::EndLf,
            (S::TrailerStart | S::TrailerName, _) if is_token_byte(byte) => self.extra_byte(S::TrailerName)?,
            (S::TrailerName, b':') => self.extra_byte(S::TrailerValue)?,
            (S::TrailerValue, b'\r') => S::TrailerLf,
            (S::TrailerValue, _) if is_field_byte(byte) => self.extra_byte(state)?,
            (S::TrailerLf, b'\n') => S::TrailerStart,
            (S::EndLf, b'\n') => S::Done,
            (S::DataCr | S::DataLf, _) => {
                return Err(Refusal::body(RejectReason::Malformed, "a chunk is longer than its size"));
            }
            (S::TrailerStart | S::TrailerName | S::TrailerValue | S::TrailerLf | S::EndLf, _) => {
                return Err(Refusal::body(RejectReason::Malformed, "a trailer field is not `name: value`"));
            }
            _ => return Err(Refusal::body(RejectReason::Malformed, "a chunk size is not hexadecimal digits and CRLF")),
        })
    }

    fn extra_byte(&mut self, next: ChunkState) -> Result<ChunkState, Refusal> {
        match self.extra.checked_sub(1) {
            Some(extra) => {
                self.extra = extra;
                Ok(next)
            }
            None => Err(Refusal::new(
                431,
                format!("chunk extensions and trailers are larger than {HTTP_HEAD_BYTES_MAX} bytes"),
            )),
        }
    }
}

/// What may stand in a field's value or a quoted string: no control bytes but tab.
fn is_field_byte(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}

/// The refusal of a body of more than `max_bytes`: 413.
pub(super) fn too_large(max_bytes: usize) -> Refusal {
    Refusal::body(
        RejectReason::TooLarge,
        format!("the body is larger than {max_bytes} bytes (server.max_body_bytes): send less at once"),
    )
}

/// No more is taken than there is room for; a body that does not fit is a mistake of ours.
fn store(body: &mut Kept, bytes: &[u8]) -> Result<(), Refusal> {
    if body.extend(bytes) { Ok(()) } else { Err(Refusal::new(500, "no room for the body")) }
}
