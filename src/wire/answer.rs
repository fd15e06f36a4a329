//! The short frames of a running session: ACK, NACK, PING, PONG, BYE, GOAWAY, and DATA's header.

use super::header::{FrameKind, Header};
use super::{GoawayCode, NackCode};
use crate::limits::REASON_BYTES_MAX;
use crate::text::cut;

/// Appends an ACK of every DATA with sequence number ≤ `seq`; `window_bytes` holds from now on.
pub fn ack(seq: u64, window_bytes: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&Header::empty(FrameKind::Ack, seq, window_bytes).encode());
}

/// Appends a NACK of `seq`; `reason` is cut to what a NACK may carry.
pub fn nack(seq: u64, code: NackCode, reason: &str, out: &mut Vec<u8>) {
    let reason = cut(reason, REASON_BYTES_MAX);
    let header = Header::of_payload(FrameKind::Nack, seq, code as u32, reason.as_bytes());
    out.extend_from_slice(&header.encode());
    out.extend_from_slice(reason.as_bytes());
}

/// Appends a PING; the peer returns `echo` in a PONG.
pub fn ping(echo: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&Header::empty(FrameKind::Ping, echo, 0).encode());
}

/// Appends a PONG, the answer to a PING with `echo`.
pub fn pong(echo: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&Header::empty(FrameKind::Pong, echo, 0).encode());
}

/// Appends a BYE: the agent has read its last ACK and is done (R3).
pub fn bye(out: &mut Vec<u8>) {
    out.extend_from_slice(&Header::empty(FrameKind::Bye, 0, 0).encode());
}

/// Why and how a server ends a connection: the payload of a GOAWAY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Goaway<'a> {
    /// An unknown number is kept: agents treat it as one to retry.
    pub code: Result<GoawayCode, u32>,
    /// Milliseconds before which the agent must not reconnect.
    pub retry_ms: u32,
    /// The reason, for people.
    pub text: &'a str,
}

impl<'a> Goaway<'a> {
    /// `None`: shorter than its fixed part.
    pub fn decode(payload: &'a [u8]) -> Option<Self> {
        let (code, rest) = payload.split_first_chunk::<4>()?;
        let (retry_ms, text) = rest.split_first_chunk::<4>()?;
        let code = u32::from_le_bytes(*code);
        Some(Self {
            code: GoawayCode::from_wire(code).ok_or(code),
            retry_ms: u32::from_le_bytes(*retry_ms),
            // The text is for people; a damaged one is no reason to misread the code.
            text: std::str::from_utf8(text).unwrap_or(""),
        })
    }

    /// Appends the whole frame; `last_acked` is the sequence number it carries.
    pub fn encode(&self, last_acked: u64, out: &mut Vec<u8>) {
        let text = cut(self.text, REASON_BYTES_MAX - 8);
        let mut payload = Vec::with_capacity(8 + text.len());
        payload.extend_from_slice(&self.code.map_or_else(|code| code, |code| code as u32).to_le_bytes());
        payload.extend_from_slice(&self.retry_ms.to_le_bytes());
        payload.extend_from_slice(text.as_bytes());
        out.extend_from_slice(&Header::of_payload(FrameKind::Goaway, last_acked, 0, &payload).encode());
        out.extend_from_slice(&payload);
    }
}
