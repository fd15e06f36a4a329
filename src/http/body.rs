//! Bodies: Content-Length and chunked (RFC 9112, sections 6 and 7), incremental, into one pool buffer.
//!
//! ```text
//!  Size ─ CRLF ─▶ Data ─ all of it ─▶ CRLF ─▶ Size …
//!   │ ; ─▶ Extension ─ CRLF ─┘
//!   └ 0 ─▶ Trailer lines ─ empty line ─▶ Done
//! ```
//!
//! Chunk extensions and trailers are checked, bounded and dropped. `httparse::parse_chunk_size` is not used: it takes
//! LF without CR and needs the whole line.

use super::head::is_token_byte;
use super::response::Refusal;
use crate::limits::HTTP_HEAD_BYTES_MAX;
use crate::metrics::RejectReason;
use crate::pipeline::pool::Buffer;

/// Where a body's bytes are told apart from its framing.
#[derive(Debug)]
pub enum Framing {
    /// Bytes still to come.
    Length(usize),
    Chunked(Chunked),
}

impl Framing {
    /// Takes what belongs to this body from `input` into `body`, which has room for `max_bytes`. Returns how much of
    /// `input` was consumed, and whether the body is whole.
    pub fn receive(&mut self, input: &[u8], body: &mut Buffer, max_bytes: usize) -> Result<(usize, bool), Refusal> {
        match self {
            Self::Length(missing) => {
                let taken = input.get(..*missing).unwrap_or(input);
                store(body, taken)?;
                *missing -= taken.len();
                Ok((taken.len(), *missing == 0))
            }
            Self::Chunked(chunked) => chunked.receive(input, body, max_bytes),
        }
    }
}

/// Decoder of the chunked coding.
#[derive(Debug)]
pub struct Chunked {
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
    /// White space behind a size: only an extension may follow (RFC 9112, section 7.1.1).
    SizeSpace {
        size: u64,
    },
    Extension {
        size: u64,
    },
    /// CR of the size's line was there.
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

impl Chunked {
    pub fn new() -> Self {
        Self { state: ChunkState::Size { size: 0, digits: 0 }, extra: HTTP_HEAD_BYTES_MAX }
    }

    fn receive(&mut self, input: &[u8], body: &mut Buffer, max_bytes: usize) -> Result<(usize, bool), Refusal> {
        let mut consumed = 0;
        while let Some(rest) = input.get(consumed..).filter(|rest| !rest.is_empty()) {
            match self.state {
                ChunkState::Done => break,
                ChunkState::Data { missing } => {
                    let taken = rest.get(..missing).unwrap_or(rest);
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
            (S::Size { size, digits: 1.. }, b'\r') | (S::Extension { size }, b'\r') => S::SizeLf { size },
            (S::Size { size, digits: 1.. }, b' ' | b'\t') => S::SizeSpace { size },
            (S::Size { size, digits: 1.. } | S::SizeSpace { size }, b';') => S::Extension { size },
            (S::SizeSpace { .. }, b' ' | b'\t') => self.extra_byte(state)?,
            (S::Extension { .. }, _) if is_field_byte(byte) => self.extra_byte(state)?,
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

/// What may stand in a field's value or an extension: no control bytes but tab.
fn is_field_byte(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}

pub fn too_large(max_bytes: usize) -> Refusal {
    Refusal::body(
        RejectReason::TooLarge,
        format!("the body is larger than {max_bytes} bytes (server.max_body_bytes): send less at once"),
    )
}

/// The buffer was reserved for all that the framing lets through; a body that does not fit is a mistake of ours.
fn store(body: &mut Buffer, bytes: &[u8]) -> Result<(), Refusal> {
    if body.extend(bytes) { Ok(()) } else { Err(Refusal::new(500, "no room for the body")) }
}
