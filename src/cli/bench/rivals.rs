//! What telemetryx is measured against: the same events, from the same sender, to somebody else. See `make bench`.

use std::collections::VecDeque;
use std::fmt::Write as _;

use super::frames::Frames;
use super::sample::SampleBatch;
use super::talk::{Answered, Message, Talk, TalkError};
use crate::limits::{WINDOW_BYTES, WINDOW_FRAMES};

/// A NATS server: each event is a core PUB, and a PING behind each batch stands for the acknowledgement that NATS does
/// not have. The window is that of frames.
pub(super) struct Nats {
    greeted: bool,
    in_flight: VecDeque<usize>,
    in_flight_bytes: usize,
}

impl Nats {
    pub(super) fn message(batch: &SampleBatch) -> Message {
        let mut body = Vec::with_capacity(batch.encoded.bytes().len() + 24 * batch.each.len());
        let mut line = String::new();
        for event in &batch.each {
            line.clear();
            let _ = write!(line, "PUB telemetry.events {}\r\n", event.len());
            body.extend_from_slice(line.as_bytes());
            body.extend_from_slice(event);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(b"PING\r\n");
        Message { body, crc: 0 }
    }

    pub(super) fn new() -> Self {
        Self { greeted: false, in_flight: VecDeque::new(), in_flight_bytes: 0 }
    }
}

impl Talk for Nats {
    fn greeting(&self) -> Vec<u8> {
        b"CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"rust\",\"version\":\"1\"}\r\nPING\r\n".to_vec()
    }

    fn is_greeted(&self) -> bool {
        self.greeted
    }

    fn may_send(&self, body_bytes: usize) -> bool {
        self.in_flight.is_empty()
            || (self.in_flight.len() < usize::from(WINDOW_FRAMES)
                && self.in_flight_bytes + body_bytes <= WINDOW_BYTES as usize)
    }

    fn begin(&mut self, message: &Message, _: &mut Vec<u8>) {
        self.in_flight.push_back(message.body.len());
        self.in_flight_bytes += message.body.len();
    }

    fn receive(&mut self, bytes: &mut Vec<u8>, answered: &mut Answered) -> Result<(), TalkError> {
        let mut used = 0;
        while let Some(end) = bytes.get(used..).and_then(|rest| rest.iter().position(|byte| *byte == b'\n')) {
            let line = bytes.get(used..used + end).unwrap_or_default().trim_ascii();
            used += end + 1;
            match line {
                b"PONG" if !self.greeted => self.greeted = true,
                b"PONG" => {
                    self.in_flight_bytes -= self.in_flight.pop_front().unwrap_or_default();
                    answered.messages += 1;
                }
                // The server's own PING may stay unanswered for minutes.
                b"PING" => {}
                line if line.starts_with(b"INFO ") => {}
                line => return Err(TalkError::Unexpected(String::from_utf8_lossy(line).into_owned())),
            }
        }
        bytes.drain(..used);
        Ok(())
    }
}

/// A program that reads and says nothing: the frames of [`Frames`], as fast as TCP takes them.
pub(super) struct Mute(pub Frames);

impl Talk for Mute {
    fn greeting(&self) -> Vec<u8> {
        self.0.greeting()
    }

    fn is_greeted(&self) -> bool {
        true
    }

    fn may_send(&self, _: usize) -> bool {
        true
    }

    fn begin(&mut self, message: &Message, head: &mut Vec<u8>) {
        self.0.begin(message, head);
        self.0.lengths.clear();
    }

    fn receive(&mut self, bytes: &mut Vec<u8>, _: &mut Answered) -> Result<(), TalkError> {
        bytes.clear();
        Ok(())
    }

    fn answers(&self) -> bool {
        false
    }
}
