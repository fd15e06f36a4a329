//! Finds frames in a byte stream, in place.
//!
//! ```text
//!  input   ┌ header ┬ payload ┐┌ header ┬ payload ┐┌ header ┬ pay…
//!  decode  └── Frame, consumed ┘ again: Frame        Partial { total }: keep the tail, come back with more
//! ```
//!
//! The decoder keeps nothing: a caller shows the bytes that it has from the start of a frame on.

use super::header::{FrameError, FrameKind, Header};
use crate::limits::{HEADER_BYTES, HELLO_BYTES_MAX, REASON_BYTES_MAX};

/// What the bytes at hand begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// Not a whole header yet.
    NeedHeader,
    /// A valid header whose frame takes `total` bytes, header included; not all of them are here.
    Partial {
        /// The header, checked.
        header: Header,
        /// Bytes of the whole frame, header included.
        total: usize,
    },
    /// A whole frame, checksums verified; it takes `32 + payload.len()` bytes.
    Frame {
        /// The header, checked.
        header: Header,
        /// The payload; it may be empty.
        payload: &'a [u8],
    },
}

/// Largest payload of each kind of frame. Checked as soon as the header is there, before anything is reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayloadCaps {
    /// DATA and skippable frames.
    pub data: u32,
}

impl PayloadCaps {
    fn cap(&self, kind: FrameKind) -> u32 {
        match kind {
            FrameKind::Data | FrameKind::Skippable(_) => self.data,
            FrameKind::Hello | FrameKind::Welcome => HELLO_BYTES_MAX as u32,
            FrameKind::Nack | FrameKind::Goaway => REASON_BYTES_MAX as u32,
            FrameKind::Ack | FrameKind::Ping | FrameKind::Pong | FrameKind::Bye => 0,
        }
    }
}

/// Looks at the frame that `bytes` begin with.
pub fn decode(bytes: &[u8], caps: PayloadCaps) -> Result<Decoded<'_>, FrameError> {
    let Some(header) = Header::decode(bytes)? else { return Ok(Decoded::NeedHeader) };
    let max = caps.cap(header.kind);
    if header.length > max {
        return Err(FrameError::TooLong { kind: header.kind, length: header.length, max });
    }
    let total = HEADER_BYTES + header.length as usize;
    let Some(payload) = bytes.get(HEADER_BYTES..total) else { return Ok(Decoded::Partial { header, total }) };
    header.check_payload(payload)?;
    Ok(Decoded::Frame { header, payload })
}
