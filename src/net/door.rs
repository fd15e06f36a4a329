//! The door: everything that comes in passes here, whatever protocol it came by.
//!
//! It owns what all connections share (memory, ring, marks, tokens) and gives each accepted frame or request its
//! ticket. Nothing is pushed without room in the ring, so nothing accepted is ever lost between here and the log
//! thread.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::http;
use crate::limits::DEAD_LETTER_REASON_BYTES_MAX;
use crate::metrics::{Metrics, Protocol, RejectReason};
use crate::net::intake::{Intake, Source};
use crate::pipeline::batch::Origin;
use crate::pipeline::pool::{Buffer, PoolSlice};
use crate::pipeline::ring::{Content, Slot, SlotSender};
use crate::pipeline::watermark::Watermarks;
use crate::random::Random;
use crate::session::admission::{Admission, admit};
use crate::session::marks::Marks;
use crate::session::server::{Gate, ServerSession, SessionSettings, Turn};
use crate::session::tokens::Tokens;
use crate::wire::answer::cut;
use crate::wire::{AckLevel, Header, NackCode};

/// Slots that one frame may take: its accepted events, and its payload for the dead letters.
pub const SLOTS_PER_FRAME: usize = 2;
/// The line of waiting connections must have been there this long before `/ready` says so; a refused POST is remembered
/// as long.
const EXHAUSTED_TIME: Duration = Duration::from_secs(1);

/// What `/ready` says of a sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkState {
    pub name: String,
    /// `ok`, or what is wrong.
    pub state: String,
}

/// A frame cannot be taken now: no memory for the copy of its good part.
#[derive(Debug, PartialEq, Eq)]
pub struct NoRoom;

pub struct Door {
    pub settings: SessionSettings,
    pub http: http::Settings,
    pub tokens: Tokens,
    pub marks: Marks,
    pub intake: Intake,
    pub ring: SlotSender,
    pub watermarks: Arc<Watermarks>,
    pub metrics: Arc<Metrics>,
    pub sinks: Box<dyn Fn() -> Vec<SinkState> + Send>,
    pub random: Random,
    /// The clock of this turn.
    pub now: Instant,
    pub received_unix_nano: u64,
    pub last_ticket: u64,
    pub draining: bool,
    /// Connections wait for memory or ring since then.
    pub starved_since: Option<Instant>,
    /// When a POST was last refused for want of memory or ring.
    pub post_refused: Option<Instant>,
    /// Scratch of `admit`.
    pub ranges: Vec<Range<usize>>,
}

impl Door {
    /// Reads the clocks, once a turn.
    pub fn begin_turn(&mut self) {
        self.now = Instant::now();
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.received_unix_nano = since_epoch.as_nanos() as u64;
    }

    /// What was accepted in this turn is *received*, and the log thread hears of it.
    pub fn end_turn(&mut self) {
        self.ring.flush();
        self.watermarks.advance(AckLevel::Received, self.last_ticket);
    }

    /// Whether a frame can be handed on.
    pub fn has_slots(&self) -> bool {
        self.ring.room() >= SLOTS_PER_FRAME
    }

    /// Like [`Door::has_slots`]; where not, the log thread wakes the loop when there is room.
    pub fn has_slots_or_wake(&self) -> bool {
        self.has_slots() || {
            self.ring.wait_for_room();
            self.has_slots()
        }
    }

    fn push(&mut self, content: Content, seq: u64, origin: &Arc<Origin>) -> u64 {
        self.last_ticket += 1;
        let slot = Slot {
            ticket: self.last_ticket,
            content,
            received_unix_nano: self.received_unix_nano,
            seq,
            origin: origin.clone(),
        };
        let pushed = self.ring.push(slot);
        // Ours to keep, not a peer's: every caller asked for room in the same turn, and only this thread fills it.
        assert!(pushed.is_ok(), "a slot is pushed only after asking for room");
        self.last_ticket
    }

    /// Runs `call` with what the session needs of the door.
    pub fn turn<R>(&mut self, loopback: bool, call: impl FnOnce(&mut Turn<'_>) -> R) -> R {
        let gate = self.tokens.gate(loopback);
        call(&mut Turn {
            now: self.now,
            random: self.random.next_u64(),
            settings: &self.settings,
            marks: &mut self.marks,
            gate: &gate as &dyn Gate,
        })
    }

    /// Checks the payload of the next DATA of a session, hands its good events on, keeps the others for the dead
    /// letters, and tells the session. Ask for [`Door::has_slots`] first.
    pub fn admit(
        &mut self,
        session: &mut ServerSession,
        header: &Header,
        source: &mut impl Source,
        range: Range<usize>,
        origin: &Arc<Origin>,
        out: &mut Vec<u8>,
    ) -> Result<(), NoRoom> {
        let payload = source.bytes().get(range.clone()).unwrap_or_default();
        match admit(payload, &mut self.ranges) {
            Admission::All { events } => {
                let ticket = self.push(Content::Events { payload: source.share(range), events }, header.seq, origin);
                self.metrics.events_received(Protocol::Frames).inc_by(u64::from(events));
                self.taken(session, header, ticket, None, out);
            }
            Admission::Some { events, refused, reason } => {
                let bytes = self.ranges.iter().map(ExactSizeIterator::len).sum();
                let mut good = self.intake.take(bytes).ok_or(NoRoom)?;
                for range in &self.ranges {
                    // The sum of the ranges is what was asked for.
                    let copied = good.extend(payload.get(range.clone()).unwrap_or_default());
                    debug_assert!(copied);
                }
                let good = good.share(0..bytes);
                self.refuse(header, NackCode::Partial, &reason, refused, source, range, origin);
                let ticket = self.push(Content::Events { payload: good, events }, header.seq, origin);
                self.metrics.events_received(Protocol::Frames).inc_by(u64::from(events));
                self.taken(session, header, ticket, Some((NackCode::Partial, &reason)), out);
            }
            Admission::None { code, refused, reason } => {
                let ticket = self.refuse(header, code, &reason, refused, source, range, origin);
                self.taken(session, header, ticket, Some((code, &reason)), out);
            }
        }
        Ok(())
    }

    fn taken(
        &mut self,
        session: &mut ServerSession,
        header: &Header,
        ticket: u64,
        nack: Option<(NackCode, &str)>,
        out: &mut Vec<u8>,
    ) {
        // No token is looked at here.
        self.turn(true, |turn| session.taken(header, ticket, nack, turn, out));
    }

    /// Sends a payload that was refused on its way to the dead letters.
    #[expect(clippy::too_many_arguments, reason = "one frame, where it lies, why it is refused")]
    fn refuse(
        &mut self,
        header: &Header,
        code: NackCode,
        reason: &str,
        events: u32,
        source: &mut impl Source,
        range: Range<usize>,
        origin: &Arc<Origin>,
    ) -> u64 {
        let why = match code {
            NackCode::Malformed | NackCode::Decompress => RejectReason::Malformed,
            NackCode::TooLarge => RejectReason::TooLarge,
            NackCode::Codec => RejectReason::Codec,
            NackCode::Invalid | NackCode::Partial => RejectReason::Invalid,
        };
        self.metrics.events_rejected(why).inc_by(u64::from(events));
        tracing::debug!(agent = %origin.default_source, seq = header.seq, code = code.name(), reason, "frame refused");
        // The ring holds thousands of slots: a list of reasons as long as a NACK's would be memory outside the pool.
        let reason = cut(reason, DEAD_LETTER_REASON_BYTES_MAX).into();
        let content = Content::Refused { payload: source.share(range), events, code, reason };
        self.push(content, header.seq, origin)
    }

    /// A DATA that the session refuses without looking at its payload.
    #[expect(clippy::too_many_arguments, reason = "one frame, where it lies, why it is refused")]
    pub fn refuse_whole(
        &mut self,
        session: &mut ServerSession,
        header: &Header,
        code: NackCode,
        reason: &str,
        source: &mut impl Source,
        range: Range<usize>,
        origin: &Arc<Origin>,
        out: &mut Vec<u8>,
    ) {
        let ticket = self.refuse(header, code, reason, 1, source, range, origin);
        self.taken(session, header, ticket, Some((code, reason)), out);
    }

    /// This door for one HTTP connection. `overloaded`: there are more connections than allowed, so it has pages only.
    pub fn http<'a>(&'a mut self, origin: &'a Arc<Origin>, loopback: bool, overloaded: bool) -> HttpDoor<'a> {
        HttpDoor { door: self, origin, loopback, overloaded }
    }

    fn exhausted(&self) -> bool {
        let waits = self.starved_since.is_some_and(|since| self.now >= since + EXHAUSTED_TIME);
        waits || self.post_refused.is_some_and(|at| self.now < at + EXHAUSTED_TIME)
    }

    fn ready_page(&self) -> (u16, Vec<u8>) {
        let mut reasons = Vec::new();
        if self.draining {
            reasons.push("draining");
        }
        if self.exhausted() {
            reasons.push("buffers_exhausted");
        }
        let sinks: serde_json::Map<_, _> =
            (self.sinks)().into_iter().map(|sink| (sink.name, serde_json::Value::String(sink.state))).collect();
        let (status, word) = if reasons.is_empty() { (200, "ready") } else { (503, "not ready") };
        let (reasons, sinks) = (serde_json::json!(reasons), serde_json::Value::Object(sinks));
        (status, format!(r#"{{"status":"{word}","reasons":{reasons},"sinks":{sinks}}}"#).into_bytes())
    }
}

/// The door as the HTTP machine sees it.
pub struct HttpDoor<'a> {
    door: &'a mut Door,
    origin: &'a Arc<Origin>,
    loopback: bool,
    overloaded: bool,
}

impl http::Door for HttpDoor<'_> {
    fn status_page(&mut self, page: http::Page) -> (u16, &'static str, Vec<u8>) {
        const JSON: &str = "application/json";
        match page {
            // The process that cannot do its work any more has ended: a failed thread aborts it.
            http::Page::Health => (200, JSON, br#"{"status":"ok"}"#.to_vec()),
            http::Page::Ready => {
                let (status, body) = self.door.ready_page();
                (status, JSON, body)
            }
            http::Page::Metrics => {
                let (door, metrics) = (&self.door, &self.door.metrics);
                metrics.ring_depth.set(door.ring.depth() as i64);
                metrics.ring_capacity.set(door.ring.capacity() as i64);
                metrics.buffer_bytes_in_use.set(door.intake.pool().bytes_in_use() as i64);
                (200, "text/plain; version=0.0.4; charset=utf-8", metrics.text())
            }
        }
    }

    fn authorized(&mut self, token: Option<&[u8]>) -> bool {
        self.door.tokens.gate(self.loopback).admit(token.unwrap_or_default()).is_ok()
    }

    fn ack_level(&mut self, wanted: Option<AckLevel>) -> Result<AckLevel, String> {
        let settings = &self.door.settings;
        match wanted.unwrap_or(settings.default_ack) {
            level if level <= settings.highest_ack => Ok(level),
            level => Err(format!(
                "ack level `{}` is not offered: without a log this server acknowledges at most `{}`",
                level.name(),
                settings.highest_ack.name()
            )),
        }
    }

    fn reserve(&mut self, bytes: usize) -> Option<Buffer> {
        // Agents that wait in line come first: what is freed is theirs.
        let buffer = if self.door.starved_since.is_some() { None } else { self.door.intake.take_optional(bytes) };
        if buffer.is_none() {
            self.door.post_refused = Some(self.door.now);
        }
        buffer
    }

    fn ring_room(&mut self, slots: usize) -> bool {
        let room = self.door.ring.room() >= slots;
        if !room {
            self.door.post_refused = Some(self.door.now);
        }
        room
    }

    fn accept(&mut self, payload: PoolSlice, events: u32) -> u64 {
        self.door.metrics.events_received(Protocol::Http).inc_by(u64::from(events));
        self.door.push(Content::Events { payload, events }, 0, self.origin)
    }

    fn rejected(&mut self, reason: RejectReason, events: u64) {
        self.door.metrics.events_rejected(reason).inc_by(events);
    }

    fn answered(&mut self, status: u16) {
        self.door.metrics.http_response(status);
    }

    fn draining(&self) -> bool {
        self.door.draining || self.overloaded
    }
}
