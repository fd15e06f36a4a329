//! An agent without a queue to resend from: a lost connection ends the run.

use std::collections::VecDeque;

use super::sample::SampleBatch;
use super::talk::{Answered, Message, Talk, TalkError};
use crate::limits::HEADER_BYTES;
use crate::wire::header::{FrameKind, VERSION};
use crate::wire::hello::CODECS;
use crate::wire::{AckLevel, Decoded, Goaway, Header, Hello, PayloadCaps, Welcome, answer, decode};

pub(super) struct Frames {
    hello: Vec<u8>,
    welcome: Option<Welcome>,
    next_seq: u64,
    acked_seq: u64,
    window_bytes: u64,
    in_flight_bytes: u64,
    /// Payload bytes of each frame in flight.
    pub(super) lengths: VecDeque<u32>,
}

impl Frames {
    pub(super) fn message(batch: &SampleBatch) -> Message {
        let body = batch.encoded.bytes().to_vec();
        Message { crc: crc32fast::hash(&body), body }
    }

    pub(super) fn new(agent_id: [u8; 16], token: &[u8], ack: Option<AckLevel>) -> Self {
        let mut hello = Vec::new();
        Hello {
            min_version: VERSION,
            max_version: VERSION,
            codecs: CODECS,
            ack: Ok(ack),
            agent_id,
            epoch: 0,
            oldest_seq: 1,
            token,
            name: "bench",
        }
        .encode(&mut hello);
        Self {
            hello,
            welcome: None,
            next_seq: 1,
            acked_seq: 0,
            window_bytes: 0,
            in_flight_bytes: 0,
            lengths: VecDeque::new(),
        }
    }

    fn frame(&mut self, header: &Header, payload: &[u8], answered: &mut Answered) -> Result<(), TalkError> {
        match header.kind {
            FrameKind::Welcome => {
                let welcome = Welcome::decode(payload)?;
                self.window_bytes = u64::from(welcome.window_bytes);
                self.welcome = Some(welcome);
            }
            FrameKind::Ack => {
                self.window_bytes = u64::from(header.arg);
                while self.acked_seq < header.seq
                    && let Some(length) = self.lengths.pop_front()
                {
                    self.acked_seq += 1;
                    self.in_flight_bytes -= u64::from(length);
                    answered.messages += 1;
                }
            }
            // Its ACK follows.
            FrameKind::Nack => answered.refused += 1,
            FrameKind::Ping | FrameKind::Pong | FrameKind::Skippable(_) => {}
            FrameKind::Goaway => {
                return Err(TalkError::Goaway(match Goaway::decode(payload) {
                    Some(Goaway { code: Ok(code), text, .. }) => format!("{}: {text}", code.name()),
                    Some(Goaway { code: Err(code), text, .. }) => format!("code {code}: {text}"),
                    None => "without a reason".to_owned(),
                }));
            }
            FrameKind::Hello | FrameKind::Data | FrameKind::Bye => {
                return Err(TalkError::Unexpected(format!("{:?}", header.kind)));
            }
        }
        Ok(())
    }
}

impl Talk for Frames {
    fn greeting(&self) -> Vec<u8> {
        self.hello.clone()
    }

    fn is_greeted(&self) -> bool {
        self.welcome.is_some()
    }

    fn may_send(&self, body_bytes: usize) -> bool {
        let frames = self.welcome.map_or(0, |welcome| usize::from(welcome.window_frames));
        // One frame is always allowed, unless the server asks to pause (R10).
        self.window_bytes > 0
            && (self.lengths.is_empty()
                || (self.lengths.len() < frames && self.in_flight_bytes + body_bytes as u64 <= self.window_bytes))
    }

    fn begin(&mut self, message: &Message, head: &mut Vec<u8>) {
        let length = message.body.len() as u32;
        let header =
            Header { length, payload_crc: message.crc, ..Header::empty(FrameKind::Data, self.next_seq, length) };
        head.extend_from_slice(&header.encode());
        self.next_seq += 1;
        self.in_flight_bytes += u64::from(length);
        self.lengths.push_back(length);
    }

    fn farewell(&self) -> Vec<u8> {
        let mut bye = Vec::new();
        if self.lengths.is_empty() {
            answer::bye(&mut bye);
        }
        bye
    }

    fn receive(&mut self, bytes: &mut Vec<u8>, answered: &mut Answered) -> Result<(), TalkError> {
        let mut used = 0;
        while let Decoded::Frame { header, payload } =
            decode(bytes.get(used..).unwrap_or_default(), PayloadCaps { data: 0 })?
        {
            self.frame(&header, payload, answered)?;
            used += HEADER_BYTES + payload.len();
        }
        bytes.drain(..used);
        Ok(())
    }
}
