//! A peer and a door for the state machine: every exchange is driven whole, byte by byte, split at every offset and
//! through [`Connection::body_room`], and must give the same answers and the same events each time.

mod events;
mod refused;
mod requests;
mod timers;

use std::time::{Duration, Instant};

use super::{Connection, Door, Page, Settings};
use crate::event::Events;
use crate::metrics::RejectReason;
use crate::pipeline::pool::{Buffer, Pool, PoolSlice};
use crate::wire::AckLevel;

const SETTINGS: Settings = Settings { max_body_bytes: 64 * 1024, max_frame_bytes: 16 * 1024 };

struct FakeDoor {
    pool: Pool,
    ring_slots: usize,
    /// The only token; `None`: none is needed.
    token: Option<&'static [u8]>,
    draining: bool,
    accepted: Vec<(PoolSlice, u32)>,
    rejected: Vec<(RejectReason, u64)>,
    statuses: Vec<u16>,
}

impl FakeDoor {
    fn new() -> Self {
        Self {
            pool: Pool::new(4 * SETTINGS.max_body_bytes, Box::new(|| {})),
            ring_slots: 1000,
            token: None,
            draining: false,
            accepted: Vec::new(),
            rejected: Vec::new(),
            statuses: Vec::new(),
        }
    }

    /// The names of all events that were taken.
    fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for (payload, events) in &self.accepted {
            assert!(payload.len() <= SETTINGS.max_frame_bytes);
            let before = names.len();
            names.extend(Events::accepted(payload).map(|event| event.name().to_owned()));
            assert_eq!(names.len() - before, *events as usize, "events told and events there");
        }
        names
    }
}

impl Door for FakeDoor {
    fn status_page(&mut self, page: Page) -> (u16, &'static str, Vec<u8>) {
        match page {
            Page::Health => (200, "application/json", br#"{"status":"ok"}"#.to_vec()),
            Page::Ready if self.draining => (503, "application/json", br#"{"status":"draining"}"#.to_vec()),
            Page::Ready => (200, "application/json", br#"{"status":"ready"}"#.to_vec()),
            Page::Metrics => (200, "text/plain; version=0.0.4", b"telemetryx_connections 1\n".to_vec()),
        }
    }

    fn authorized(&mut self, token: Option<&[u8]>) -> bool {
        self.token.is_none() || self.token == token
    }

    fn ack_level(&mut self, wanted: Option<AckLevel>) -> Result<AckLevel, String> {
        match wanted {
            Some(AckLevel::Delivered) => Err("ack=delivered is not offered: no sink is `required`".to_owned()),
            wanted => Ok(wanted.unwrap_or(AckLevel::Synced)),
        }
    }

    fn reserve(&mut self, bytes: usize) -> Option<Buffer> {
        self.pool.allocate(bytes)
    }

    fn ring_room(&mut self, slots: usize) -> bool {
        self.accepted.len() + slots <= self.ring_slots
    }

    fn accept(&mut self, payload: PoolSlice, events: u32) -> u64 {
        self.accepted.push((payload, events));
        self.accepted.len() as u64
    }

    fn rejected(&mut self, reason: RejectReason, events: u64) {
        self.rejected.push((reason, events));
    }

    fn answered(&mut self, status: u16) {
        self.statuses.push(status);
    }

    fn draining(&self) -> bool {
        self.draining
    }
}

/// One connection with a peer at the other end.
struct Peer {
    connection: Connection,
    door: FakeDoor,
    now: Instant,
    /// Sent and not consumed yet.
    kept: Vec<u8>,
    out: Vec<u8>,
    /// Written to the peer.
    written: Vec<u8>,
    /// The log is quick: what waits is acknowledged at once.
    acknowledge: bool,
    /// Bodies are read straight into the pool where the machine offers room.
    in_place: bool,
}

impl Peer {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            connection: Connection::new(SETTINGS, now),
            door: FakeDoor::new(),
            now,
            kept: Vec::new(),
            out: Vec::new(),
            written: Vec::new(),
            acknowledge: true,
            in_place: false,
        }
    }

    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.kept.extend_from_slice(bytes.as_ref());
        self.turn();
    }

    /// Goes on until nothing moves any more.
    fn turn(&mut self) {
        loop {
            let mut consumed = 0;
            if let Some(room) = self.connection.body_room().filter(|_| self.in_place) {
                assert!(!room.is_empty());
                consumed = room.len().min(self.kept.len());
                room[..consumed].copy_from_slice(&self.kept[..consumed]);
                self.connection.body_filled(consumed, self.now, &mut self.door, &mut self.out);
            } else {
                consumed += self.connection.receive(&self.kept, self.now, &mut self.door, &mut self.out);
            }
            self.kept.drain(..consumed);
            self.written.append(&mut self.out);
            if self.acknowledge && self.connection.waiting_for().is_some() {
                self.connection.acknowledged(self.now, &mut self.door, &mut self.out);
                self.written.append(&mut self.out);
            } else if consumed == 0 {
                return;
            }
        }
    }

    fn later(&mut self, time: Duration) {
        self.now += time;
        self.connection.handle_timeout(self.now, &mut self.door, &mut self.out);
        self.written.append(&mut self.out);
    }

    /// What was written since the last call.
    fn answer(&mut self) -> String {
        String::from_utf8(std::mem::take(&mut self.written)).expect("answers are UTF-8")
    }

    /// The statuses that were answered since the last call.
    fn statuses(&mut self) -> Vec<u16> {
        std::mem::take(&mut self.door.statuses)
    }
}

/// What came of an exchange.
#[derive(Debug, PartialEq)]
struct Outcome {
    answers: String,
    statuses: Vec<u16>,
    names: Vec<String>,
    payloads: Vec<Vec<u8>>,
    rejected: Vec<(RejectReason, u64)>,
    closing: bool,
}

fn outcome_of<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
    in_place: bool,
    prepare: &dyn Fn(&mut FakeDoor),
) -> Outcome {
    let mut peer = Peer { in_place, ..Peer::new() };
    prepare(&mut peer.door);
    for piece in pieces {
        peer.send(piece);
    }
    Outcome {
        answers: peer.answer(),
        statuses: peer.statuses(),
        names: peer.door.names(),
        payloads: peer.door.accepted.iter().map(|(payload, _)| payload.to_vec()).collect(),
        rejected: peer.door.rejected,
        closing: peer.connection.closing(),
    }
}

/// Drives `input` in every way that bytes can come, and returns what came of it.
fn exchange_with(input: impl AsRef<[u8]>, prepare: impl Fn(&mut FakeDoor)) -> Outcome {
    let input = input.as_ref();
    let whole = outcome_of([input], false, &prepare);
    assert_eq!(whole, outcome_of(input.chunks(1), false, &prepare), "byte by byte");
    assert_eq!(whole, outcome_of(input.chunks(1), true, &prepare), "byte by byte, bodies in place");
    let step = (input.len() / 500).max(1);
    for offset in (0..input.len()).step_by(step) {
        let (one, two) = input.split_at(offset);
        assert_eq!(whole, outcome_of([one, two], offset % 2 == 0, &prepare), "split at {offset}");
    }
    whole
}

fn exchange(input: impl AsRef<[u8]>) -> Outcome {
    exchange_with(input, |_| {})
}

fn post(content_type: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    post_with(&format!("Content-Type: {content_type}\r\n"), body)
}

/// `fields`: header fields with their CRLF.
fn post_with(fields: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let head = format!("POST /v1/events HTTP/1.1\r\nHost: x\r\n{fields}Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// An `EventBatch` of events with these names.
fn batch(names: &[&str]) -> Vec<u8> {
    let events = names
        .iter()
        .map(|name| crate::event::proto::Event { name: (*name).to_owned(), ..Default::default() })
        .collect();
    prost::Message::encode_to_vec(&crate::event::proto::EventBatch { events })
}

const PROTOBUF: &str = "application/x-protobuf";
