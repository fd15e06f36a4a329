//! Bodies of the fuzz targets, as ordinary functions, and the peer and the ingress that they share with the tests.
//!
//! Every exchange is driven whole, byte by byte, split and through [`Connection::body_room`], and must give the same
//! answers and the same events each time; memory is back afterwards. Each function panics where that does not hold.

use std::cell::Cell;
use std::time::Instant;

use super::body::{Chunked, Framing};
use super::bytes::is_token_byte;
use super::date::DATE_BYTES;
use super::kept::{Beginnings, Kept};
use super::{Connection, Denied, Ingress, Limited, Needs, Page, Settings};
use crate::batch::pool::{Buffer, Pool, PoolSlice};
use crate::event::{Counts, Events, UnknownKeys, check_batch};
use crate::limits::{
    EVENT_BYTES_MAX, HTTP_BODY_BEGINNING_BYTES, HTTP_BODY_BEGINNINGS_BYTES_MAX, HTTP_IDLE_TIMEOUT_DEFAULT,
};
use crate::metrics::RejectReason;
use crate::pipeline::health::Pause;
use crate::profiling::{NotBegun, Order, Pending, Task, pending};
use crate::rate::Received;
use crate::wire::AckLevel;

/// Reads `bytes` as requests on one connection: whole, byte by byte with bodies read in place, and in two parts.
///
/// # Panics
/// If the answers or the events that are taken depend on how the bytes come, if answers and statuses do not match, if
/// something is served behind an answer that closes, or if memory does not come back.
pub fn requests(bytes: &[u8]) {
    let whole = outcome_of([bytes], false, &|_| {});
    assert_eq!(whole, outcome_of(bytes.chunks(1), true, &|_| {}), "byte by byte, bodies in place");
    let (one, two) = bytes.split_at(some_offset(bytes));
    assert_eq!(whole, outcome_of([one, two], false, &|_| {}), "split at {}", one.len());
    check_answers(&whole);
    for payload in &whole.payloads {
        let checked = check_batch(payload, usize::MAX, |_, _, event| assert!(event.is_ok(), "{event:?}"));
        assert!(matches!(checked, Ok(Counts { accepted: 1.., rejected: 0, .. })), "{checked:?}");
    }
}

/// Reads `bytes` as a chunked body, as [`requests`] does, and compares it with a reader that needs the whole of it.
///
/// # Panics
/// If two readings differ.
pub fn chunked(bytes: &[u8]) {
    let mut pool = Pool::new(CHUNKED_BYTES_MAX, Box::new(|| {}));
    let mut read = |pieces: &[&[u8]]| {
        let mut body = Kept::Pool(pool.allocate(CHUNKED_BYTES_MAX).expect("the pool is empty"));
        let (mut framing, mut consumed) = (Framing::Chunked(Chunked::new()), 0);
        for piece in pieces {
            match framing.receive(piece, &mut body, CHUNKED_BYTES_MAX) {
                Ok((taken, true)) => {
                    let Kept::Pool(buffer) = &body else { unreachable!("it is in the pool from the start") };
                    return Ok(Some((consumed + taken, buffer.filled().to_vec())));
                }
                Ok((taken, false)) => {
                    assert_eq!(taken, piece.len(), "an unfinished body takes all there is");
                    consumed += taken;
                }
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(None)
    };
    let whole = read(&[bytes]);
    assert_eq!(whole, read(&bytes.chunks(1).collect::<Vec<_>>()), "byte by byte");
    let (one, two) = bytes.split_at(some_offset(bytes));
    assert_eq!(whole, read(&[one, two]), "split at {}", one.len());
    assert_eq!(whole.unwrap_or(None), chunked_at_once(bytes));
}

const CHUNKED_BYTES_MAX: usize = 4096;

/// A whole chunked body at the start of `bytes`, line by line: how long it is, and what it carries. `None`: damaged, too
/// large, or not all there. Extensions and trailers are not bounded here: `bytes` are few.
fn chunked_at_once(bytes: &[u8]) -> Option<(usize, Vec<u8>)> {
    fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
        let end = bytes.windows(2).position(|two| two == b"\r\n")?;
        Some((&bytes[..end], &bytes[end + 2..]))
    }
    let is_text = |bytes: &[u8]| bytes.iter().all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f));
    let (mut rest, mut body) = (bytes, Vec::new());
    loop {
        let (size_line, after) = line(rest)?;
        let digits = size_line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let (digits, mut extensions) = size_line.split_at(digits);
        if digits.is_empty() || digits.len() > 16 {
            return None;
        }
        while !extensions.is_empty() {
            extensions = after_extension(extensions)?;
        }
        let size = usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        rest = after;
        if size == 0 {
            break;
        }
        if size > CHUNKED_BYTES_MAX - body.len() {
            return None;
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest[size..].strip_prefix(b"\r\n")?;
    }
    loop {
        let (field, after) = line(rest)?;
        rest = after;
        if field.is_empty() {
            return Some((bytes.len() - rest.len(), body));
        }
        let colon = field.iter().position(|byte| *byte == b':')?;
        let name_ends = field[..colon].iter().all(|byte| is_token_byte(*byte));
        if colon == 0 || !name_ends || !is_text(field) {
            return None;
        }
    }
}

/// What follows the first of these chunk extensions (RFC 9112, section 7.1.1). `None`: it is not one.
fn after_extension(bytes: &[u8]) -> Option<&[u8]> {
    fn unspaced(bytes: &[u8]) -> &[u8] {
        let spaces = bytes.iter().take_while(|byte| b" \t".contains(byte)).count();
        &bytes[spaces..]
    }
    fn after_token(bytes: &[u8]) -> Option<&[u8]> {
        let token = bytes.iter().take_while(|byte| is_token_byte(**byte)).count();
        bytes.get(token..).filter(|_| token > 0)
    }
    let rest = after_token(unspaced(unspaced(bytes).strip_prefix(b";")?))?;
    let Some(value) = unspaced(rest).strip_prefix(b"=").map(unspaced) else { return Some(rest) };
    let Some(mut quoted) = value.strip_prefix(b"\"") else { return after_token(value) };
    loop {
        quoted = match quoted {
            [b'"', rest @ ..] => return Some(rest),
            [b'\\', byte, rest @ ..] | [byte, rest @ ..] if *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f) => rest,
            _ => return None,
        };
    }
}

/// A place to split `bytes` at, from the bytes themselves: an input that fails does so again.
fn some_offset(bytes: &[u8]) -> usize {
    crc32fast::hash(bytes) as usize % (bytes.len() + 1)
}

/// The answers are whole and as many as were counted, and nothing follows one that closes.
fn check_answers(outcome: &Outcome) {
    let (mut rest, mut statuses, mut closed) = (outcome.answers.as_str(), Vec::new(), false);
    while let Some((head, after)) = rest.split_once("\r\n\r\n") {
        assert!(!closed, "an answer behind `Connection: close`");
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|line| line.get(..3)).expect("a status line");
        if status == "100" {
            rest = after;
            continue;
        }
        let length = head.split_once("\r\nContent-Length: ").expect("a length").1;
        let length: usize = length.split("\r\n").next().unwrap_or_default().parse().expect("a length in digits");
        closed = head.contains("\r\nConnection: close");
        // An answer to HEAD has no body: then another answer begins here, or nothing does.
        let bodiless = after.is_empty() || after.starts_with("HTTP/1.1 ");
        rest = if bodiless { after } else { after.get(length..).expect("a whole body") };
        statuses.push(status.parse::<u16>().expect("a status in digits"));
    }
    assert_eq!((rest, &statuses), ("", &outcome.statuses), "{}", outcome.answers);
    assert_eq!(closed, outcome.closing);
}

/// The largest body is larger than a beginning and what one read brings, so that bodies are admitted, and wait for room once
/// they are whole.
pub(super) const SETTINGS: Settings = Settings {
    max_body_bytes: 4 * HTTP_BODY_BEGINNING_BYTES,
    max_frame_bytes: 16 * 1024,
    idle_timeout: HTTP_IDLE_TIMEOUT_DEFAULT,
    unknown_keys: UnknownKeys::Reject,
};

/// Takes everything and keeps it.
pub struct FakeIngress {
    /// Memory for bodies.
    pub(super) pool: Pool,
    /// Memory for the beginnings of bodies.
    pub(super) beginnings: Beginnings,
    /// Slots of the ring that are free.
    pub(super) ring_slots: usize,
    /// There is memory for what admitted bodies become. Even so the answer is no each first time it is asked: every admitted
    /// body waits once.
    pub(super) finishes: bool,
    /// Whether there is room for what is kept until an answer is written.
    pub(super) answers_find_room: bool,
    /// How often it was asked.
    pub(super) asked: Cell<usize>,
    /// The only token; `None`: none is needed.
    pub(super) token: Option<&'static [u8]>,
    /// Why nothing is accepted on the connection.
    pub(super) refuses_connection: Option<&'static str>,
    /// Whether the server shuts down.
    pub(super) draining: bool,
    /// Why the log accepts nothing.
    pub(super) log_pause: Option<Pause>,
    /// The log has taken what waits.
    pub(super) written: bool,
    /// Payloads that were handed on, each with its number of events.
    pub(super) accepted: Vec<(PoolSlice, u32)>,
    /// Rejected records for the dead letters, with their number and the reason.
    pub(super) dead: Vec<(PoolSlice, u32, String)>,
    /// Rejected events, by reason.
    pub(super) rejected: Vec<(RejectReason, u64)>,
    /// Statuses of the answers so far.
    pub(super) statuses: Vec<u16>,
    /// Bodies that were refused for lack of room.
    pub(super) no_room: usize,
    /// Largest payload.
    pub(super) max_frame_bytes: usize,
    /// The limit that POSTs have to wait for.
    pub(super) limited: Option<Limited>,
    /// What was charged, body by body.
    pub(super) received: Vec<Received>,
    /// What becomes of the next profile, if the server takes profiles.
    pub(super) profiles: Option<Result<(), NotBegun>>,
    /// The profiles that were begun.
    pub(super) tasks: Vec<(Order, Task)>,
}

impl FakeIngress {
    /// An ingress that has room for every body.
    pub(super) fn new() -> Self {
        Self {
            pool: Pool::new(6 * SETTINGS.max_body_bytes, Box::new(|| {})),
            beginnings: Beginnings::new(HTTP_BODY_BEGINNINGS_BYTES_MAX),
            ring_slots: 1000,
            finishes: true,
            answers_find_room: true,
            asked: Cell::new(0),
            token: None,
            refuses_connection: None,
            draining: false,
            log_pause: None,
            written: true,
            accepted: Vec::new(),
            dead: Vec::new(),
            rejected: Vec::new(),
            statuses: Vec::new(),
            no_room: 0,
            max_frame_bytes: SETTINGS.max_frame_bytes,
            limited: None,
            received: Vec::new(),
            profiles: None,
            tasks: Vec::new(),
        }
    }

    /// The names of all events that were taken.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for (payload, events) in &self.accepted {
            assert!(payload.len() <= self.max_frame_bytes);
            let before = names.len();
            names.extend(Events::accepted(payload).map(|event| event.name().to_owned()));
            assert_eq!(names.len() - before, *events as usize, "events told and events there");
        }
        names
    }
}

impl Ingress for FakeIngress {
    fn date(&mut self) -> &[u8; DATE_BYTES] {
        b"Mon, 23 Nov 2026 20:15:48 GMT"
    }

    fn status_page(&mut self, page: Page) -> (u16, &'static str, Vec<u8>) {
        match page {
            Page::Health => (200, "application/json", br#"{"status":"ok"}"#.to_vec()),
            Page::Ready if self.draining => (503, "application/json", br#"{"status":"draining"}"#.to_vec()),
            Page::Ready => (200, "application/json", br#"{"status":"ready"}"#.to_vec()),
            Page::Status => (200, "application/json", b"{}".to_vec()),
            Page::Metrics => (200, "text/plain; version=0.0.4", b"telemetryx_connections 1\n".to_vec()),
        }
    }

    fn refuses_connection(&self) -> Option<&'static str> {
        self.refuses_connection
    }

    fn has_host(&self, name: &str) -> bool {
        name == "known"
    }

    fn may_read_status(&mut self, token: Option<&[u8]>) -> Result<(), Denied> {
        match (self.token, token) {
            (None, _) => Ok(()),
            (Some(_), None) => Err(Denied::Missing),
            (known, token) if known == token => Ok(()),
            _ => Err(Denied::Wrong),
        }
    }

    fn takes_profiles(&self) -> bool {
        self.profiles.is_some()
    }

    fn may_profile(&mut self, token: Option<&[u8]>) -> Result<(), Denied> {
        if self.token.is_none() { Err(Denied::NotSet) } else { self.may_read_status(token) }
    }

    fn begin_profile(&mut self, order: Order) -> Result<Pending, NotBegun> {
        self.profiles.clone().unwrap_or(Ok(()))?;
        let (pending, task) = pending();
        self.tasks.push((order, task));
        Ok(pending)
    }

    fn admit(&mut self, token: Option<&[u8]>) -> Result<(), &'static str> {
        match self.token {
            Some(expected) if token != Some(expected) => Err("not this token"),
            _ => Ok(()),
        }
    }

    fn limited(&mut self) -> Option<Limited> {
        self.limited
    }

    fn received(&mut self, received: Received) {
        self.received.push(received);
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

    fn reserve_to_finish(&mut self, bytes: usize) -> Option<Buffer> {
        self.pool.allocate(bytes)
    }

    fn reserve_for_answer(&mut self, bytes: usize) -> Option<Buffer> {
        if self.answers_find_room { self.pool.allocate(bytes) } else { None }
    }

    fn can_finish(&mut self, needs: Needs) -> bool {
        let asked = self.asked.get() + 1;
        self.asked.set(asked);
        self.finishes && asked.is_multiple_of(2) && self.accepted.len() + needs.slots <= self.ring_slots
    }

    fn no_room(&mut self) {
        self.no_room += 1;
    }

    fn beginnings(&self) -> &Beginnings {
        &self.beginnings
    }

    fn ring_room(&mut self, slots: usize) -> bool {
        self.accepted.len() + slots <= self.ring_slots
    }

    fn accept(&mut self, payload: PoolSlice, events: u32, _level: AckLevel) -> u64 {
        self.accepted.push((payload, events));
        self.accepted.len() as u64
    }

    fn reject(&mut self, payload: PoolSlice, records: u32, _all: bool, reason: &str) -> u64 {
        self.dead.push((payload, records, reason.to_owned()));
        self.accepted.len() as u64
    }

    fn finishing_bytes(&self) -> usize {
        self.pool.capacity_bytes()
    }

    fn is_written(&self, _ticket: u64) -> bool {
        self.written
    }

    fn rejected(&mut self, reason: RejectReason, events: u64) {
        self.rejected.push((reason, events));
    }

    fn answered(&mut self, status: u16) {
        self.statuses.push(status);
    }

    fn log_pause(&self) -> Option<Pause> {
        self.log_pause
    }

    fn draining(&self) -> bool {
        self.draining
    }
}

/// One connection with a peer at the other end.
pub(super) struct Peer {
    /// The connection under test.
    pub(super) connection: Connection,
    /// What it hands events to.
    pub(super) ingress: FakeIngress,
    /// The time passed to it.
    pub(super) now: Instant,
    /// Sent and not consumed yet.
    pub(super) kept: Vec<u8>,
    /// Answers that are not written yet.
    pub(super) out: Vec<u8>,
    /// Written to the peer.
    pub(super) written: Vec<u8>,
    /// The log is quick: what waits is acknowledged at once.
    pub(super) acknowledge: bool,
    /// Bodies are read straight into the pool where the machine offers room.
    pub(super) in_place: bool,
}

impl Peer {
    /// A fresh connection, with nothing sent.
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            connection: Connection::new(SETTINGS, now),
            ingress: FakeIngress::new(),
            now,
            kept: Vec::new(),
            out: Vec::new(),
            written: Vec::new(),
            acknowledge: true,
            in_place: false,
        }
    }

    /// Sends these bytes, then calls [`Peer::turn`].
    pub(super) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.kept.extend_from_slice(bytes.as_ref());
        self.turn();
    }

    /// Goes on until nothing moves any more.
    pub(super) fn turn(&mut self) {
        loop {
            let mut consumed = 0;
            if let Some(room) = self.connection.body_room().filter(|_| self.in_place) {
                assert!(!room.is_empty());
                consumed = room.len().min(self.kept.len());
                room[..consumed].copy_from_slice(&self.kept[..consumed]);
                self.connection.body_filled(consumed, self.now, &mut self.ingress, &mut self.out);
            } else {
                consumed += self.connection.receive(&self.kept, self.now, &mut self.ingress, &mut self.out);
            }
            if self.connection.lacks_room().is_some()
                && !self.connection.take_room(self.now, &mut self.ingress, &mut self.out)
            {
                self.connection.refuse_room(self.now, &mut self.ingress, &mut self.out);
            }
            self.kept.drain(..consumed);
            self.written.append(&mut self.out);
            if self.acknowledge && self.connection.waiting_for().is_some() {
                self.connection.acknowledged(self.now, &mut self.ingress, &mut self.out);
                self.written.append(&mut self.out);
            } else if consumed == 0 {
                return;
            }
        }
    }

    /// What was written since the last call.
    pub(super) fn answer(&mut self) -> String {
        let mut text = String::new();
        for chunk in std::mem::take(&mut self.written).utf8_chunks() {
            text.push_str(chunk.valid());
            // Lengths in protobuf may be no UTF-8. The number of bytes stays.
            text.extend(chunk.invalid().iter().map(|_| '?'));
        }
        text
    }

    /// The statuses that were answered since the last call.
    pub(super) fn statuses(&mut self) -> Vec<u16> {
        std::mem::take(&mut self.ingress.statuses)
    }
}

/// What came of an exchange.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    /// Everything that the peer received.
    pub answers: String,
    /// Statuses of the answers, in order.
    pub statuses: Vec<u16>,
    /// Names of the accepted events, in order.
    pub names: Vec<String>,
    /// Payloads that were handed on, in order.
    pub payloads: Vec<Vec<u8>>,
    /// Payloads for the dead letters, in order, with the number of records and the reason.
    pub dead: Vec<(Vec<u8>, u32, String)>,
    /// Rejected events, by reason.
    pub rejected: Vec<(RejectReason, u64)>,
    /// Whether the connection ends after the last answer.
    pub closing: bool,
}

/// Sends `pieces` over a fresh connection.
pub(super) fn outcome_of<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
    in_place: bool,
    prepare: &dyn Fn(&mut FakeIngress),
) -> Outcome {
    outcome_within(SETTINGS, pieces, in_place, prepare)
}

fn outcome_within<'a>(
    settings: Settings,
    pieces: impl IntoIterator<Item = &'a [u8]>,
    in_place: bool,
    prepare: &dyn Fn(&mut FakeIngress),
) -> Outcome {
    let mut peer = Peer { in_place, ..Peer::new() };
    peer.connection = Connection::new(settings, peer.now);
    prepare(&mut peer.ingress);
    for piece in pieces {
        peer.send(piece);
    }
    let outcome = Outcome {
        answers: peer.answer(),
        statuses: peer.statuses(),
        names: peer.ingress.names(),
        payloads: peer.ingress.accepted.iter().map(|(payload, _)| payload.to_vec()).collect(),
        dead: peer.ingress.dead.iter().map(|(bytes, records, why)| (bytes.to_vec(), *records, why.clone())).collect(),
        rejected: std::mem::take(&mut peer.ingress.rejected),
        closing: peer.connection.closing(),
    };
    drop(peer.connection);
    peer.ingress.accepted.clear();
    peer.ingress.dead.clear();
    assert_eq!(peer.ingress.pool.bytes_in_use(), 0, "memory is back");
    assert_eq!(peer.ingress.beginnings.left(), HTTP_BODY_BEGINNINGS_BYTES_MAX, "the budget is whole again");
    outcome
}

/// Drives `input` in every way that bytes can come, and returns what came of it: whole, byte by byte, and split at every
/// offset (at some of a long input).
pub(super) fn exchange_within(settings: Settings, input: &[u8], prepare: &dyn Fn(&mut FakeIngress)) -> Outcome {
    let whole = outcome_within(settings, [input], false, prepare);
    assert_eq!(whole, outcome_within(settings, input.chunks(1), false, prepare), "byte by byte");
    assert_eq!(whole, outcome_within(settings, input.chunks(1), true, prepare), "byte by byte, bodies in place");
    let offsets = if input.len() < 10_000 { 500 } else { 50 };
    for offset in (0..input.len()).step_by((input.len() / offsets).max(1)) {
        let (one, two) = input.split_at(offset);
        let split = outcome_within(settings, [one, two], offset % 2 == 0, prepare);
        assert_eq!(whole, split, "split at {offset}");
    }
    whole
}

/// What comes of a POST with this body, in every way that its bytes can come. It may be as long as an event.
pub fn exchange_body(content_type: &str, body: &[u8]) -> Outcome {
    exchange_body_at("/v1/events", content_type, body)
}

/// The same, with another path.
pub fn exchange_body_at(path: &str, content_type: &str, body: &[u8]) -> Outcome {
    let settings = Settings { max_body_bytes: 2 * EVENT_BYTES_MAX, max_frame_bytes: 2 * EVENT_BYTES_MAX, ..SETTINGS };
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let input = [head.as_bytes(), body].concat();
    exchange_within(settings, &input, &|ingress| {
        ingress.pool = Pool::new(16 * EVENT_BYTES_MAX, Box::new(|| {}));
        ingress.max_frame_bytes = settings.max_frame_bytes;
    })
}
