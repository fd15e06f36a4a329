//! Body of the fuzz target `frames`, as an ordinary function: tests call it too, so it runs on the stable toolchain.

use std::sync::Mutex;
use std::time::Instant;

use super::admission::{Admission, admit};
use super::marks::Marks;
use super::receive::{Consumed, Data, End, Ingress, Taken};
use super::server::{Gate, ServerSession, SessionSettings, Turn, lock};
use super::tokens::Admitted;
use crate::event::check_batch;
use crate::ids::{ConnectionId, LoopId, Ticket};
use crate::limits::{DEDUPE_RETENTION, HEADER_BYTES, KEEPALIVE};
use crate::wire::header::MAGIC;
use crate::wire::{AckLevel, Decoded, FrameKind, Goaway, GoawayCode, Header, NackCode, PayloadCaps, decode};

/// Reads `bytes` as what one agent sends: whole, byte by byte, and in two parts. Random changes rarely leave two checksums
/// right, so the same is done with all of them mended.
///
/// # Panics
/// If what the agent receives or what is stored depends on how the bytes are split, or if a rule of the protocol is
/// broken.
pub fn frames(bytes: &[u8]) {
    compare(bytes);
    compare(&mended(bytes));
}

fn compare(bytes: &[u8]) {
    let whole = drive(&[bytes], true);
    assert_eq!(whole, drive(&bytes.chunks(1).collect::<Vec<_>>(), true), "byte by byte");
    // The place comes from the bytes themselves: an input that fails does so again.
    let (one, two) = bytes.split_at(crc32fast::hash(bytes) as usize % (bytes.len() + 1));
    assert_eq!(whole, drive(&[one, two], true), "split at {}", one.len());
    check_answers(&whole);
    // A BYE behind frames that are not acknowledged yet changes nothing: more may follow it.
    let at_once = drive(&[bytes], false);
    assert!(at_once.stored.starts_with(&whole.stored), "as one read");
    check_answers(&at_once);
}

/// `bytes` as frames whose magic and checksums are right; the lengths decide where the next one begins.
pub fn mended(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let mut rest = bytes.as_mut_slice();
    while let Some((header, after)) = rest.split_first_chunk_mut::<HEADER_BYTES>() {
        header[..4].copy_from_slice(&MAGIC);
        let length = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
        let payload = after.get(..length).unwrap_or_default();
        let payload_crc = if payload.is_empty() { 0 } else { crc32fast::hash(payload) };
        header[24..28].copy_from_slice(&payload_crc.to_le_bytes());
        let header_crc = crc32fast::hash(&header[..28]);
        header[28..].copy_from_slice(&header_crc.to_le_bytes());
        rest = after.get_mut(length..).unwrap_or_default();
    }
    bytes
}

/// What an agent received. Texts are for people: some of them quote what has come so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// WELCOME.
    Welcome,
    /// ACK of this sequence number.
    Ack(u64),
    /// NACK of this sequence number.
    Nack(u64, NackCode),
    /// PONG with this echo.
    Pong(u64),
    /// GOAWAY, with the last acknowledged sequence number.
    Goaway(GoawayCode, u64),
}

#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    heard: Vec<Heard>,
    /// Accepted `EventBatch` bytes and their events, a frame each.
    stored: Vec<(Vec<u8>, u32)>,
    /// The last number, where the agent sent BYE and was forgotten.
    left: Option<u64>,
    closed: bool,
}

struct OpenGate;

impl Gate for OpenGate {
    fn admit(&self, _token: &[u8]) -> Result<Admitted, &'static str> {
        Ok(Admitted::default())
    }
}

/// Keeps what it is handed, one frame a call.
struct Store {
    now: Instant,
    settings: SessionSettings,
    marks: Mutex<Marks>,
    ticket: u64,
    is_one_by_one: bool,
    has_room: bool,
    stored: Vec<(Vec<u8>, u32)>,
    left: Option<u64>,
}

impl Store {
    fn new() -> Self {
        let settings = SessionSettings {
            server_id: [1; 16],
            max_frame_bytes: 4096,
            window_bytes: 8192,
            window_frames: 4,
            keepalive: KEEPALIVE,
            default_ack: AckLevel::Received,
            highest_ack: AckLevel::Written,
        };
        let marks = Mutex::new(Marks::new(4, DEDUPE_RETENTION));
        Self {
            now: Instant::now(),
            settings,
            marks,
            ticket: 0,
            is_one_by_one: true,
            has_room: true,
            stored: Vec::new(),
            left: None,
        }
    }

    fn next_ticket(&mut self) -> Ticket {
        self.has_room = !self.is_one_by_one;
        self.ticket += 1;
        Ticket { number: self.ticket, ..Ticket::default() }
    }
}

impl Ingress for Store {
    type Source = Vec<u8>;

    fn bytes(source: &Vec<u8>) -> &[u8] {
        source
    }

    fn turn<R>(&mut self, call: impl FnOnce(&mut Turn<'_>) -> R) -> R {
        let Self { now, settings, marks, .. } = self;
        call(&mut Turn { now: *now, random: 41, settings, marks, gate: &OpenGate })
    }

    fn has_room(&self) -> bool {
        self.has_room
    }

    fn admit(&mut self, source: &mut Vec<u8>, data: &Data) -> Taken {
        let payload = &source[data.payload.clone()];
        let mut ranges = Vec::new();
        let nack = match admit(payload, &mut ranges) {
            Admission::All { events, .. } => {
                self.stored.push((payload.to_vec(), events));
                None
            }
            Admission::Some { events, reason, .. } => {
                let accepted = ranges.iter().flat_map(|range| &payload[range.clone()]).copied().collect();
                self.stored.push((accepted, events));
                Some((NackCode::Partial, reason.into()))
            }
            Admission::None { code, reason, .. } => Some((code, reason.into())),
        };
        Taken { ticket: self.next_ticket(), nack }
    }

    fn refuse(&mut self, _: &mut Vec<u8>, _: &Data, _: NackCode, _: &str) -> Ticket {
        self.next_ticket()
    }

    fn duplicate(&mut self) {
        self.has_room = !self.is_one_by_one;
    }

    fn bye(&mut self, last_seq: u64) {
        self.left = Some(last_seq);
    }
}

/// `is_one_by_one`: each frame is acknowledged before the next is looked at; otherwise a piece is taken as a whole.
fn drive(pieces: &[&[u8]], is_one_by_one: bool) -> Outcome {
    let mut store = Store { is_one_by_one, ..Store::new() };
    let mut session = ServerSession::new(ConnectionId::new(LoopId(0), 1, 0), &store.settings, store.now);
    let (mut input, mut out) = (Vec::new(), Vec::new());
    for piece in pieces {
        input.extend_from_slice(piece);
        while session.may_receive(&store.settings) {
            store.has_room = true;
            let Consumed { bytes, end } = if session.is_authenticated() {
                session.receive(&mut input, 0, &mut store, &mut out)
            } else {
                store.turn(|turn| session.greet(&input, turn, &mut out))
            };
            input.drain(..bytes);
            // Everything has reached every level.
            store.turn(|turn| {
                session.settled(|_, _| true, turn, &mut out);
                session.acknowledge(|_, _| true, turn, &mut out, |_| {});
            });
            if let End::Partial { total } = end {
                let total = total.unwrap_or(HEADER_BYTES);
                assert!(input.len() < total && total <= HEADER_BYTES + 16 * 1024, "a length is bounded");
            }
            if matches!(end, End::All | End::Partial { .. }) {
                break;
            }
        }
        // An early look changes nothing.
        store.turn(|turn| session.handle_timeout(true, turn, &mut out));
        assert!(session.deadline(true).is_none_or(|deadline| deadline > store.now));
    }
    let Store { marks, stored, left, .. } = store;
    assert!(left.is_none() || lock(&marks).is_empty(), "an agent that sent BYE is forgotten");
    Outcome { heard: heard(&out), stored, left, closed: session.is_closed() }
}

/// ACKs are cumulative and their number depends on the split: neighbouring ones count as the last of them.
pub fn heard(mut bytes: &[u8]) -> Vec<Heard> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let decoded = decode(bytes, PayloadCaps { data: 0 });
        let Ok(Decoded::Frame { header, payload }) = decoded else {
            panic!("the server's bytes are frames: {decoded:?}")
        };
        let word = word(&header, payload);
        match (all.last_mut(), &word) {
            (Some(Heard::Ack(last)), Heard::Ack(next)) => {
                assert!(*next >= *last, "ACKs never go back");
                *last = *next;
            }
            _ => all.push(word),
        }
        bytes = &bytes[HEADER_BYTES + payload.len()..];
    }
    all
}

fn word(header: &Header, payload: &[u8]) -> Heard {
    match header.kind {
        FrameKind::Welcome => Heard::Welcome,
        FrameKind::Ack => Heard::Ack(header.seq),
        FrameKind::Nack => Heard::Nack(header.seq, NackCode::from_wire(header.arg).expect("a known code")),
        FrameKind::Pong => Heard::Pong(header.seq),
        FrameKind::Goaway => {
            let goaway = Goaway::decode(payload).expect("a whole GOAWAY");
            Heard::Goaway(goaway.code.expect("a known code"), header.seq)
        }
        other => panic!("a server never sends {other:?}"),
    }
}

fn check_answers(outcome: &Outcome) {
    let (mut acked, mut nacked) = (0, 0);
    for (index, word) in outcome.heard.iter().enumerate() {
        match word {
            Heard::Welcome => assert_eq!(index, 0, "WELCOME is the first word"),
            Heard::Goaway(_, seq) => {
                assert_eq!(index + 1, outcome.heard.len(), "GOAWAY is the last word");
                assert!(*seq >= acked);
            }
            Heard::Ack(seq) => acked = *seq,
            Heard::Nack(seq, _) => {
                assert!(*seq > acked && *seq > nacked, "a NACK comes before the first ACK that covers it");
                nacked = *seq;
            }
            Heard::Pong(_) => {}
        }
        assert!(index > 0 || matches!(word, Heard::Welcome | Heard::Goaway(..)));
    }
    assert_eq!(matches!(outcome.heard.last(), Some(Heard::Goaway(..))), outcome.closed);
    // 0: nothing but WELCOME acknowledged anything.
    assert!(outcome.left.is_none_or(|last_seq| acked == 0 || acked == last_seq), "BYE counts once all is acknowledged");
    for (payload, events) in &outcome.stored {
        let counts = check_batch(payload, usize::MAX, |_, _, event| assert!(event.is_ok(), "{event:?}"));
        assert_eq!(counts.map(|counts| (counts.accepted, counts.rejected)), Ok((*events as usize, 0)));
    }
}
