//! The frames that are not acknowledged yet, as the bytes that were or will be sent. They outlive connections.
//!
//! ```text
//!        acked_seq            sent_seq           written_seq              last_seq
//!  ──────────┼───────────────────┼────────────────────┼──────────────────────┼─────▶ sequence numbers
//!   dropped  │ on the way over   │ a server may       │ never left           │
//!            │ this connection   │ know them          │ this agent           │
//!            └──────────────────────── frames ───────────────────────────────┘
//! ```
//!
//! Numbers are given once and never change (R6); a frame is encoded once, so what is sent again is identical (R7).

use std::collections::VecDeque;

use bytes::Bytes;
use serde::Deserialize;

use super::{Refusal, ServerFault};
use crate::limits::{FRAME_EVENTS_MAX, HEADER_BYTES};
use crate::wire::{Header, NackCode};

/// Why a frame was not queued. Nothing of it was taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// The frame does not fit into the queue.
    #[error("the queue holds {queued} of {max} bytes: wait for acknowledgements")]
    Full {
        /// Bytes queued now.
        queued: usize,
        /// `Settings::queue_bytes`.
        max: usize,
    },
    /// The payload is larger than the server accepts.
    #[error("a payload of {bytes} bytes is too large: the server accepts at most {max}")]
    TooLarge {
        /// Bytes of the payload.
        bytes: usize,
        /// Largest payload that the server accepts, bytes.
        max: usize,
    },
    /// The frame has this many events, more than [`FRAME_EVENTS_MAX`].
    #[error("a frame of {0} events is too large: the maximum is 65,536")]
    TooManyEvents(u32),
    /// [`Agent::close`](super::Agent::close) was called.
    #[error("the agent is closing")]
    Closing,
}

/// Counts since the agent was created.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// The highest number given to a frame.
    pub last_seq: u64,
    /// Everything up to here is acknowledged.
    pub acked_seq: u64,
    /// Without the refused ones.
    pub acknowledged_events: u64,
    /// Refused with a NACK.
    pub refused_events: u64,
    /// In frames that were set aside.
    pub set_aside_events: u64,
    /// In frames that may be stored twice; see `Notice::PossiblyDoubled`.
    pub possibly_doubled_events: u64,
    /// Successful greetings.
    pub connections: u64,
}

/// A frame until it is acknowledged: header and payload as they are sent.
#[derive(Debug)]
struct Frame {
    bytes: Bytes,
    events: u32,
    /// Number of refused events, once a NACK was received.
    refused: Option<u32>,
}

impl Frame {
    fn new(seq: u64, payload: &[u8], events: u32) -> Self {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
        bytes.extend_from_slice(&Header::data(seq, payload).encode());
        bytes.extend_from_slice(payload);
        Self { bytes: bytes.into(), events, refused: None }
    }

    fn payload_bytes(&self) -> usize {
        self.bytes.len().saturating_sub(HEADER_BYTES)
    }

    /// What it counts for in the queue: many small frames cost memory too.
    fn queue_bytes(&self) -> usize {
        self.bytes.len() + size_of::<Self>()
    }
}

/// How much may be on the way (R10).
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    /// 0: nothing at all.
    pub bytes: u32,
    /// Frames that may be unacknowledged at a time.
    pub frames: u16,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Backlog {
    /// The first has number `acked_seq + 1`.
    frames: VecDeque<Frame>,
    queued_bytes: usize,
    queued_bytes_max: usize,
    /// Highest number handed out for writing on this connection, or acknowledged.
    sent_seq: u64,
    in_flight_bytes: usize,
    /// Highest number ever handed out for writing.
    written_seq: u64,
    /// The same for the current server alone.
    written_here_seq: u64,
    /// Sequence numbers and event counts so far.
    pub progress: Progress,
}

impl Backlog {
    /// An empty backlog of at most `queued_bytes_max` bytes.
    pub(super) fn new(queued_bytes_max: usize) -> Self {
        Self {
            frames: VecDeque::new(),
            queued_bytes: 0,
            queued_bytes_max,
            sent_seq: 0,
            in_flight_bytes: 0,
            written_seq: 0,
            written_here_seq: 0,
            progress: Progress::default(),
        }
    }

    /// Whether every frame is acknowledged.
    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Payload bytes of the oldest frame.
    pub(super) fn oldest_bytes(&self) -> usize {
        self.frames.front().map_or(0, Frame::payload_bytes)
    }

    /// Frames on the way over this connection.
    pub(super) fn in_flight(&self) -> u64 {
        self.sent_seq - self.progress.acked_seq
    }

    /// Highest number ever handed out for writing.
    pub(super) fn written_seq(&self) -> u64 {
        self.written_seq
    }

    /// Whether a payload of this size may be queued now. The first frame always may.
    pub(super) fn has_room(&self, payload_bytes: usize) -> bool {
        let bytes = HEADER_BYTES + payload_bytes + size_of::<Frame>();
        self.frames.is_empty() || self.queued_bytes + bytes <= self.queued_bytes_max
    }

    /// Gives a payload its number and keeps it.
    pub(super) fn push(&mut self, payload: &[u8], events: u32, payload_bytes_max: usize) -> Result<u64, QueueError> {
        if payload.len() > payload_bytes_max {
            return Err(QueueError::TooLarge { bytes: payload.len(), max: payload_bytes_max });
        }
        if events as usize > FRAME_EVENTS_MAX {
            return Err(QueueError::TooManyEvents(events));
        }
        if !self.has_room(payload.len()) {
            return Err(QueueError::Full { queued: self.queued_bytes, max: self.queued_bytes_max });
        }
        self.progress.last_seq += 1;
        let frame = Frame::new(self.progress.last_seq, payload, events);
        self.queued_bytes += frame.queue_bytes();
        self.frames.push_back(frame);
        Ok(self.progress.last_seq)
    }

    /// The next frame to write, if the window lets it through; one is always allowed (R10).
    pub(super) fn next_frame(&mut self, window: Window) -> Option<Bytes> {
        let in_flight = self.in_flight();
        if window.bytes == 0 || in_flight >= u64::from(window.frames.max(1)) {
            return None;
        }
        let frame = self.frames.get(in_flight as usize)?;
        let in_flight_bytes = self.in_flight_bytes + frame.payload_bytes();
        if in_flight > 0 && in_flight_bytes > window.bytes as usize {
            return None;
        }
        self.in_flight_bytes = in_flight_bytes;
        self.sent_seq += 1;
        self.written_seq = self.written_seq.max(self.sent_seq);
        self.written_here_seq = self.written_here_seq.max(self.sent_seq);
        Some(frame.bytes.clone())
    }

    /// Nothing is on the way any more: the connection is over.
    pub(super) fn rewind(&mut self) {
        (self.sent_seq, self.in_flight_bytes) = (self.progress.acked_seq, 0);
    }

    /// The next frames go to a server that does not know the earlier ones; everything up to `last_seq` is settled.
    /// Returns how many events are sent a second time by that.
    pub(super) fn change_server(&mut self, last_seq: u64) -> u64 {
        let written = self.written_here_seq.saturating_sub(last_seq) as usize;
        self.written_here_seq = last_seq;
        let doubled = self.frames.iter().take(written).map(|frame| u64::from(frame.events)).sum();
        self.progress.possibly_doubled_events += doubled;
        doubled
    }

    /// A number that the server names lies between `min` and what was written.
    pub(super) fn check(&self, found: u64, min: u64) -> Result<(), ServerFault> {
        let max = self.written_seq;
        if (min..=max).contains(&found) { Ok(()) } else { Err(ServerFault::Sequence { found, min, max }) }
    }

    /// Drops the frames up to `seq`. A server may know of more than this connection has carried.
    pub(super) fn acknowledge(&mut self, seq: u64) {
        while self.progress.acked_seq < seq
            && let Some(frame) = self.frames.pop_front()
        {
            self.progress.acked_seq += 1;
            if self.progress.acked_seq <= self.sent_seq {
                self.in_flight_bytes -= frame.payload_bytes();
            }
            self.queued_bytes -= frame.queue_bytes();
            self.progress.acknowledged_events += u64::from(frame.events - frame.refused.unwrap_or(0));
        }
        self.sent_seq = self.sent_seq.max(self.progress.acked_seq);
    }

    /// A NACK. The frame stays until the ACK that follows: if the connection is lost before, the server may have
    /// forgotten both, and the same bytes must fill the number (R7). `None`: known already.
    pub(super) fn refuse(&mut self, seq: u64, code: u32, payload: &[u8]) -> Option<Refusal> {
        let index = seq.checked_sub(self.progress.acked_seq + 1)?;
        let frame = self.frames.get_mut(index as usize).filter(|frame| frame.refused.is_none())?;
        let code = NackCode::from_wire(code).ok_or(code);
        let refused = if code == Ok(NackCode::Partial) {
            frame.events.saturating_sub(accepted_events(payload))
        } else {
            frame.events
        };
        frame.refused = Some(refused);
        self.progress.refused_events += u64::from(refused);
        let reason = String::from_utf8_lossy(payload).into_owned();
        Some(Refusal { seq, code, reason, events: frame.events, refused })
    }

    /// Replaces the oldest frame by an empty one (R16), and returns its number, payload and events. `None`: it is
    /// empty already.
    pub(super) fn set_aside_oldest(&mut self) -> Option<(u64, Bytes, u32)> {
        let seq = self.progress.acked_seq + 1;
        let frame = self.frames.front_mut().filter(|frame| frame.payload_bytes() > 0)?;
        let aside = std::mem::replace(frame, Frame::new(seq, &[], 0));
        self.queued_bytes = self.queued_bytes + frame.queue_bytes() - aside.queue_bytes();
        self.progress.set_aside_events += u64::from(aside.events);
        Some((seq, aside.bytes.slice(HEADER_BYTES..), aside.events))
    }
}

/// The number in a PARTIAL; 0 where it cannot be read, so that no loss goes unseen.
fn accepted_events(payload: &[u8]) -> u32 {
    #[derive(Deserialize)]
    struct Partial {
        accepted: u32,
    }
    serde_json::from_slice(payload).map_or(0, |partial: Partial| partial.accepted)
}
