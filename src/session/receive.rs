//! Bytes of one agent become frames, and frames become calls to an [`Ingress`].
//!
//! ```text
//!  source   │ frame │ frame │ frame │ partial frame
//!           from ────── Consumed::bytes ─────┘└ stays with the caller, who calls again once there is more
//! ```
//!
//! This is the only parse loop for frames: the server, the tests of the rules and the fuzz target all call it.

use std::borrow::Cow;
use std::ops::Range;

use super::marks::Greeting;
use super::server::{ServerSession, Step, Turn};
use crate::ids::{ConnectionId, Ticket};
use crate::limits::{HEADER_BYTES, HELLO_FRAME_BYTES, OUTBOX_BYTES_MAX};
use crate::wire::{AckLevel, Decoded, FrameKind, GoawayCode, Header, NackCode, decode};

/// One DATA frame in a source.
#[derive(Debug, Clone)]
pub struct Data {
    /// The frame's header.
    pub header: Header,
    /// Where its payload is in the source.
    pub payload: Range<usize>,
    /// At which it will be acknowledged.
    pub level: AckLevel,
}

/// The result of handing on a payload.
#[derive(Debug)]
pub struct Taken {
    /// The ticket of its last slot.
    pub ticket: Ticket,
    /// Which events were refused and why, for the NACK; `None`: every event was accepted.
    pub nack: Option<(NackCode, Cow<'static, str>)>,
}

/// Where a session hands on what it receives: ingress as frames see it (in the server, `net::ingress::FrameIngress`).
pub trait Ingress {
    /// What holds the bytes.
    type Source;

    /// The bytes that `source` holds.
    fn bytes(source: &Self::Source) -> &[u8];

    /// Runs `call` with the clock and what all sessions share.
    fn turn<R>(&mut self, call: impl FnOnce(&mut Turn<'_>) -> R) -> R;

    /// Whether the next frame can be handed on; where not, parsing stops before it.
    fn has_room(&self) -> bool;

    /// Checks the payload of the next DATA of the sequence, and hands its events on.
    fn admit(&mut self, source: &mut Self::Source, data: &Data) -> Taken;

    /// Hands on a DATA that is refused without a look at its payload. Returns its ticket.
    fn refuse(&mut self, source: &mut Self::Source, data: &Data, code: NackCode, reason: &str) -> Ticket;

    /// Counts a DATA that was received again.
    fn duplicate(&mut self);

    /// The agent is done, and its mark is deleted; `last_seq` is the last number that was acknowledged.
    fn bye(&mut self, last_seq: u64);
}

/// How far a call came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Consumed {
    /// Of the bytes that were offered.
    pub bytes: usize,
    /// Why parsing stopped there.
    pub end: End,
}

/// Why parsing stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// At the end of the bytes, and of a frame.
    All,
    /// Within a frame; of `total` bytes, if its header is complete.
    Partial {
        /// Bytes of the whole frame; `None` while its header is incomplete.
        total: Option<usize>,
    },
    /// Before a frame for which the ingress has no room.
    NoRoom,
    /// After an accepted HELLO: see [`ServerSession::epoch_logged`] and [`ServerSession::settled`].
    Greeted(Greeting),
    /// Before a HELLO: an older connection of the agent holds its mark. Close that one, then offer the HELLO again (R5).
    LentTo(ConnectionId),
    /// Before a HELLO that has waited: a newer connection of the agent has come. Close without a GOAWAY (R5).
    Superseded,
    /// After a BYE: flush and close without a GOAWAY.
    Bye,
    /// A GOAWAY is written: flush and close.
    Closed(GoawayCode),
}

impl ServerSession {
    /// Bytes of an agent whose HELLO is not accepted yet. Nothing after the HELLO is parsed.
    pub fn greet(&mut self, bytes: &[u8], turn: &mut Turn<'_>, out: &mut Vec<u8>) -> Consumed {
        let mut at = 0;
        let end = loop {
            let rest = bytes.get(at..).unwrap_or_default();
            if rest.is_empty() {
                break End::All;
            }
            let (header, payload) = match decode(rest, turn.settings.payload_caps()) {
                Ok(Decoded::Frame { header, payload }) => (header, payload),
                Ok(Decoded::NeedHeader) => break End::Partial { total: None },
                // A first frame that is not a HELLO may be large: it is refused by its header alone.
                Ok(Decoded::Partial { total, .. }) if total > HELLO_FRAME_BYTES => {
                    let error = "the first frame must be a HELLO of at most 1 KiB";
                    break End::Closed(self.end(GoawayCode::Protocol, error, turn.random, out));
                }
                Ok(Decoded::Partial { total, .. }) => break End::Partial { total: Some(total) },
                Err(error) => break End::Closed(self.broken(error, turn.random, out)),
            };
            let length = header.frame_bytes();
            match self.frame(&header, payload, turn, out) {
                Step::Greeted(greeting) => return Consumed { bytes: at + length, end: End::Greeted(greeting) },
                Step::LentTo(older) => break End::LentTo(older),
                Step::Superseded => break End::Superseded,
                Step::Close(code) => break End::Closed(code),
                // Of an unknown kind that may be skipped; there is nothing else before a HELLO.
                Step::Continue | Step::Data | Step::Refuse(..) | Step::Bye { .. } => at += length,
            }
        };
        Consumed { bytes: at, end }
    }

    /// The bytes of `source` from `from` on, of an agent whose HELLO is accepted. The window is looked at by
    /// [`ServerSession::may_receive`] before bytes are read, and may be exceeded by those (R10 is kept by not reading).
    pub fn receive<I: Ingress>(
        &mut self,
        source: &mut I::Source,
        from: usize,
        ingress: &mut I,
        out: &mut Vec<u8>,
    ) -> Consumed {
        let mut at = from;
        let end = loop {
            let rest = I::bytes(source).get(at..).unwrap_or_default();
            if rest.is_empty() {
                break End::All;
            }
            if !ingress.has_room() {
                break End::NoRoom;
            }
            match ingress.turn(|turn| self.next_frame(rest, turn, out)) {
                Ok((header, step)) => {
                    let next = at + header.frame_bytes();
                    let payload = next - header.length as usize..next;
                    let data = Data { header, payload, level: self.level() };
                    match self.hand_on(step, source, data, ingress, out) {
                        None => at = next,
                        Some(end) => break end,
                    }
                }
                Err(end) => break end,
            }
        };
        if let End::Partial { total } = end {
            let have = I::bytes(source).len() - at;
            let total = total.unwrap_or(HEADER_BYTES);
            ingress.turn(|turn| self.partial(have, total, turn.now));
        }
        Consumed { bytes: at - from, end }
    }

    fn next_frame(&mut self, bytes: &[u8], turn: &mut Turn<'_>, out: &mut Vec<u8>) -> Result<(Header, Step), End> {
        match decode(bytes, turn.settings.payload_caps()) {
            Ok(Decoded::Frame { header, payload }) => Ok((header, self.frame(&header, payload, turn, out))),
            Ok(Decoded::NeedHeader) => Err(End::Partial { total: None }),
            Ok(Decoded::Partial { total, .. }) => Err(End::Partial { total: Some(total) }),
            Err(error) => Err(End::Closed(self.broken(error, turn.random, out))),
        }
    }

    /// Does what a frame asks for. `Some`: nothing after it is parsed.
    fn hand_on<I: Ingress>(
        &mut self,
        step: Step,
        source: &mut I::Source,
        data: Data,
        ingress: &mut I,
        out: &mut Vec<u8>,
    ) -> Option<End> {
        let (ticket, nack) = match step {
            Step::Data => {
                let Taken { ticket, nack } = ingress.admit(source, &data);
                (ticket, nack)
            }
            Step::Refuse(code, reason) => {
                (ingress.refuse(source, &data, code, reason), Some((code, Cow::Borrowed(reason))))
            }
            Step::Continue => {
                if data.header.kind == FrameKind::Data {
                    ingress.duplicate();
                }
                return None;
            }
            Step::Bye { last_seq } => {
                ingress.bye(last_seq);
                ingress.turn(|turn| self.forget(turn));
                return Some(End::Bye);
            }
            Step::Greeted(greeting) => return Some(End::Greeted(greeting)),
            Step::LentTo(older) => return Some(End::LentTo(older)),
            Step::Superseded => return Some(End::Superseded),
            Step::Close(code) => return Some(End::Closed(code)),
        };
        // Where answers pile up, a NACK says its code only: what a turn adds for one peer stays bounded.
        let is_short = out.len() >= OUTBOX_BYTES_MAX;
        let nack = nack.as_ref().map(|(code, reason)| (*code, if is_short { "" } else { reason.as_ref() }));
        ingress.turn(|turn| self.taken(&data.header, ticket, nack, turn, out));
        None
    }
}
