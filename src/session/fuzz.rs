//! Body of the fuzz target `frames`, as an ordinary function: tests call it too, so it runs on the stable toolchain.

use std::time::Instant;

use super::admission::{Admission, admit};
use super::marks::Marks;
use super::server::{Gate, ServerSession, SessionSettings, Step, Turn};
use crate::event::{Counts, check_batch};
use crate::limits::{DEDUPE_RETENTION, HEADER_BYTES, KEEPALIVE};
use crate::wire::header::MAGIC;
use crate::wire::{AckLevel, Decoded, FrameKind, Goaway, GoawayCode, Header, NackCode, PayloadCaps, decode};

/// Reads `bytes` as what one agent sends: whole, byte by byte, and in two parts. Random changes rarely leave two checksums
/// right, so the same is done with all of them mended.
///
/// # Panics
/// If what the agent hears or what is stored depends on how the bytes come, or if a rule of the protocol is broken.
pub fn frames(bytes: &[u8]) {
    compare(bytes);
    compare(&mended(bytes));
}

fn compare(bytes: &[u8]) {
    let whole = drive(&[bytes]);
    assert_eq!(whole, drive(&bytes.chunks(1).collect::<Vec<_>>()), "byte by byte");
    // The place comes from the bytes themselves: an input that fails does so again.
    let (one, two) = bytes.split_at(crc32fast::hash(bytes) as usize % (bytes.len() + 1));
    assert_eq!(whole, drive(&[one, two]), "split at {}", one.len());
    check_answers(&whole);
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

/// What an agent heard. Texts are for people: some of them quote what has come so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    Welcome,
    Ack(u64),
    Nack(u64, NackCode),
    Pong(u64),
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
    fn admit(&self, _token: &[u8]) -> Result<(), &'static str> {
        Ok(())
    }
}

fn drive(pieces: &[&[u8]]) -> Outcome {
    let settings = SessionSettings {
        server_id: [1; 16],
        max_frame_bytes: 4096,
        window_bytes: 8192,
        window_frames: 4,
        keepalive: KEEPALIVE,
        default_ack: AckLevel::Received,
        highest_ack: AckLevel::Written,
    };
    let mut marks = Marks::new(4, DEDUPE_RETENTION);
    let mut turn = Turn { now: Instant::now(), random: 41, settings: &settings, marks: &mut marks, gate: &OpenGate };
    let mut session = ServerSession::new(1, &settings, turn.now);
    let (mut input, mut out, mut ranges) = (Vec::new(), Vec::new(), Vec::new());
    let (mut ticket, mut stored, mut left) = (0, Vec::new(), None);
    for piece in pieces {
        input.extend_from_slice(piece);
        while session.may_receive(&settings) {
            let (header, payload, step) = match decode(&input, settings.payload_caps()) {
                Ok(Decoded::Frame { header, payload }) => {
                    (header, payload, session.frame(&header, payload, &mut turn, &mut out))
                }
                Ok(Decoded::NeedHeader) => break,
                Ok(Decoded::Partial { total, .. }) => {
                    assert!(input.len() < total && total <= HEADER_BYTES + 16 * 1024, "a length is bounded");
                    session.partial(input.len(), total, turn.now);
                    break;
                }
                Err(error) => {
                    session.broken(error, 41, &mut out);
                    break;
                }
            };
            let refusal = match step {
                Step::Data => Some(match admit(payload, &mut ranges) {
                    Admission::All { events } => {
                        stored.push((payload.to_vec(), events));
                        None
                    }
                    Admission::Some { events, reason, .. } => {
                        let accepted = ranges.iter().flat_map(|range| &payload[range.clone()]).copied().collect();
                        stored.push((accepted, events));
                        Some((NackCode::Partial, reason))
                    }
                    Admission::None { code, reason, .. } => Some((code, reason)),
                }),
                Step::Refuse(code, reason) => Some(Some((code, reason.to_owned()))),
                Step::Bye { last_seq } => {
                    left = Some(last_seq);
                    None
                }
                Step::Continue | Step::Greeted(_) | Step::Close(_) => None,
            };
            if let Some(nack) = refusal {
                ticket += 1;
                let nack = nack.as_ref().map(|(code, reason)| (*code, reason.as_str()));
                session.taken(&header, ticket, nack, &mut turn, &mut out);
            }
            session.settled(ticket, ticket, &turn, &mut out);
            session.acknowledge(ticket, &turn, &mut out, |_| {});
            input.drain(..HEADER_BYTES + payload.len());
        }
        // An early look changes nothing.
        session.handle_timeout(true, &turn, &mut out);
        assert!(session.deadline(true).is_none_or(|deadline| deadline > turn.now));
    }
    assert!(left.is_none() || marks.is_empty(), "who sent BYE is forgotten");
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
        assert_eq!(counts, Ok(Counts { accepted: *events as usize, rejected: 0 }));
    }
}
