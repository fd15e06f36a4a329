//! The door: everything that comes in passes here, whatever protocol it came by.
//!
//! It owns what all connections share (memory, ring, marks, tokens) and gives each accepted frame or request its
//! ticket. Nothing is pushed without room in the ring, so nothing accepted is ever lost between here and the log
//! thread.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::http;
use crate::limits::{DEAD_LETTER_REASON_BYTES_MAX, HEADER_BYTES, HTTP_BODY_BEGINNINGS_BYTES_MAX, OUTBOX_BYTES_MAX};
use crate::metrics::{Metrics, Protocol, RejectReason};
use crate::net::intake::Intake;
use crate::net::refusal_log::RefusalLog;
use crate::pipeline::batch::Origin;
use crate::pipeline::health::{LogHealth, Pause};
use crate::pipeline::pool::{Buffer, PoolSlice};
use crate::pipeline::ring::{Content, Slot, SlotSender};
use crate::pipeline::watermark::Watermarks;
use crate::random::Random;
use crate::session::admission::{Admission, admit};
use crate::session::marks::Marks;
use crate::session::server::{Gate, ServerSession, SessionSettings, Turn};
use crate::session::tokens::Tokens;
use crate::text::cut;
use crate::time::now_unix_nano;
use crate::wire::{AckLevel, Header, NackCode};

/// Slots that one frame may take: its accepted events, and its payload for the dead letters.
pub const SLOTS_PER_FRAME: usize = 2;
/// The line of waiting connections must have been there this long before `/ready` says so; a refused POST is remembered
/// as long.
const EXHAUSTED_TIME: Duration = Duration::from_secs(1);

/// What `/ready` and `/metrics` show of a sink.
#[derive(Debug, Clone, PartialEq)]
pub struct SinkReport {
    pub name: String,
    /// One word: everybody may read it.
    pub state: &'static str,
    /// Whether it delivers.
    pub is_up: bool,
    /// How long its oldest event has waited.
    pub oldest: Duration,
}

pub struct Door {
    pub settings: SessionSettings,
    pub http: http::Settings,
    pub intake: Intake,
    pub ring: SlotSender,
    pub marks: Marks,
    pub metrics: Arc<Metrics>,
    pub random: Random,
    /// Whom to let in; everybody until it is set.
    pub tokens: Tokens,
    pub watermarks: Arc<Watermarks>,
    /// How the log is doing.
    pub health: Arc<LogHealth>,
    /// For `/ready` and `/metrics`: how the sinks are doing at this moment.
    pub sinks: Box<dyn Fn() -> Vec<SinkReport> + Send>,
    /// The last position that every required sink has passed.
    pub delivered_position: Box<dyn Fn() -> u64 + Send>,
    /// The clock of this turn.
    pub now: Instant,
    pub received_unix_nano: u64,
    /// That time as HTTP answers show it.
    pub http_date: http::HttpDate,
    pub last_ticket: u64,
    pub draining: bool,
    /// Connections wait for memory or ring since then.
    pub starved_since: Option<Instant>,
    /// When a POST was last refused for want of memory or ring.
    pub post_refused: Option<Instant>,
    /// Whole HTTP bodies wait in line for memory or ring; what is kept for them is not for others.
    pub finishing: bool,
    /// When accepting was last paused for want of a file descriptor.
    pub descriptors_exhausted: Option<Instant>,
    /// For the beginnings of HTTP bodies.
    pub beginnings: http::Beginnings,
    /// Scratch of `admit`: the good ranges of a payload, and a copy of the others.
    pub ranges: Vec<Range<usize>>,
    pub refused: Vec<u8>,
    /// The page of metrics, once it was asked for in this turn.
    metrics_page: Option<Vec<u8>>,
    /// Log lines about requests that were refused.
    pub refusals: RefusalLog,
}

impl Door {
    /// A door that lets everybody in, with no sinks and no log behind it: set the public fields for what differs.
    pub fn new(
        settings: SessionSettings,
        http: http::Settings,
        intake: Intake,
        ring: SlotSender,
        marks: Marks,
        metrics: Arc<Metrics>,
        random: Random,
    ) -> Self {
        Self {
            settings,
            http,
            intake,
            ring,
            marks,
            metrics,
            random,
            tokens: Tokens::default(),
            watermarks: Arc::default(),
            health: Arc::default(),
            sinks: Box::new(Vec::new),
            delivered_position: Box::new(|| 0),
            now: Instant::now(),
            received_unix_nano: 0,
            http_date: http::HttpDate::default(),
            last_ticket: 0,
            draining: false,
            starved_since: None,
            post_refused: None,
            finishing: false,
            descriptors_exhausted: None,
            beginnings: http::Beginnings::new(HTTP_BODY_BEGINNINGS_BYTES_MAX),
            ranges: Vec::new(),
            refused: Vec::new(),
            metrics_page: None,
            refusals: RefusalLog::default(),
        }
    }

    /// Reads the clocks, once a turn.
    pub fn begin_turn(&mut self) {
        self.now = Instant::now();
        self.metrics_page = None;
        self.received_unix_nano = now_unix_nano();
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

    /// Bytes of which every frame finds its slots, however small the frames are.
    pub fn bytes_within_slots(&self) -> usize {
        self.ring.room() / SLOTS_PER_FRAME * HEADER_BYTES
    }

    /// Puts an agent's new epoch on its way into the log, before its WELCOME. Ask for [`Door::has_slots`] first.
    /// `last_seq`: everything up to it counts as acknowledged in this epoch.
    pub fn log_epoch(&mut self, session: &mut ServerSession, last_seq: u64, origin: &Arc<Origin>) {
        if self.settings.has_log() {
            let ticket = self.push(Content::Hello, last_seq, 0, None, origin);
            // No token is looked at here.
            self.turn(true, |turn| session.epoch_logged(ticket, turn));
        }
    }

    /// Puts on its way into the log that the agent is done and its mark deleted; `last_seq` is the last number that was
    /// acknowledged. Ask for [`Door::has_slots`] first. No answer waits for it: until it is in the log, a new start of the
    /// server remembers the agent again, which costs room and nothing else.
    pub fn log_bye(&mut self, last_seq: u64, origin: &Arc<Origin>) {
        if self.settings.has_log() {
            self.push(Content::Bye, last_seq, 0, None, origin);
        }
    }

    /// Somebody will wait for `level`.
    pub fn note_level(&self, level: AckLevel) {
        if level == AckLevel::Written {
            self.watermarks.want_written();
        }
    }

    /// Looks how far the required sinks are, before anybody is acknowledged.
    pub fn look_at_sinks(&self) {
        if self.settings.has_log() {
            self.watermarks.delivered((self.delivered_position)());
        }
    }

    /// `level`: at which its sender is answered; `None`: nobody waits for it.
    fn push(
        &mut self,
        content: Content,
        seq: u64,
        sent_crc: u32,
        level: Option<AckLevel>,
        origin: &Arc<Origin>,
    ) -> u64 {
        self.last_ticket += 1;
        let slot = Slot {
            ticket: self.last_ticket,
            content,
            received_unix_nano: self.received_unix_nano,
            seq,
            sent_crc,
            is_let_go: level == Some(AckLevel::Received),
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
    /// letters, and tells the session. Ask for [`Door::has_slots`] first. `range` of `buffer` is not shared yet.
    pub fn admit(
        &mut self,
        session: &mut ServerSession,
        header: &Header,
        buffer: &mut Buffer,
        range: Range<usize>,
        origin: &Arc<Origin>,
        out: &mut Vec<u8>,
    ) {
        let payload = buffer.filled().get(range.clone()).unwrap_or_default();
        match admit(payload, &mut self.ranges) {
            Admission::All { events } => {
                let payload = buffer.share(range);
                let content = Content::Events { payload, events, payload_crc: Some(header.payload_crc) };
                let ticket = self.push(content, header.seq, header.payload_crc, Some(session.level()), origin);
                self.metrics.events_received(Protocol::Frames).inc_by(u64::from(events));
                self.taken(session, header, ticket, None, out);
            }
            Admission::Some { events, refused, reason } => {
                // In place: a frame with a bad event must not need memory that a full pool does not have.
                let good = range.start
                    + buffer
                        .unshared_mut(range.clone())
                        .map_or(0, |payload| good_first(payload, &self.ranges, &mut self.refused));
                self.refuse(header, NackCode::Partial, &reason, refused, buffer.share(good..range.end), origin);
                let payload = buffer.share(range.start..good);
                let content = Content::Events { payload, events, payload_crc: None };
                let ticket = self.push(content, header.seq, header.payload_crc, Some(session.level()), origin);
                self.metrics.events_received(Protocol::Frames).inc_by(u64::from(events));
                self.taken(session, header, ticket, Some((NackCode::Partial, &reason)), out);
            }
            Admission::None { code, refused, reason } => {
                let ticket = self.refuse(header, code, &reason, refused, buffer.share(range), origin);
                self.taken(session, header, ticket, Some((code, &reason)), out);
            }
        }
    }

    fn taken(
        &mut self,
        session: &mut ServerSession,
        header: &Header,
        ticket: u64,
        nack: Option<(NackCode, &str)>,
        out: &mut Vec<u8>,
    ) {
        // Where answers pile up, a NACK says its code only: what a turn adds for one peer stays bounded.
        let nack = nack.map(|(code, reason)| (code, if out.len() < OUTBOX_BYTES_MAX { reason } else { "" }));
        // No token is looked at here.
        self.turn(true, |turn| session.taken(header, ticket, nack, turn, out));
    }

    /// Sends a payload that was refused on its way to the dead letters.
    fn refuse(
        &mut self,
        header: &Header,
        code: NackCode,
        reason: &str,
        events: u32,
        payload: PoolSlice,
        origin: &Arc<Origin>,
    ) -> u64 {
        let why = match code {
            NackCode::Malformed | NackCode::Decompress => RejectReason::Malformed,
            NackCode::TooLarge => RejectReason::TooLarge,
            NackCode::Codec => RejectReason::Codec,
            NackCode::Invalid | NackCode::Partial => RejectReason::Invalid,
        };
        self.metrics.events_rejected(why).inc_by(u64::from(events));
        tracing::debug!(agent = origin.default_source, seq = header.seq, code = code.name(), reason, "frame refused");
        // The ring holds thousands of slots: a list of reasons as long as a NACK's would be memory outside the pool.
        let reason = cut(reason, DEAD_LETTER_REASON_BYTES_MAX).into();
        let content = Content::Refused { payload, events, code, reason };
        self.push(content, header.seq, header.payload_crc, None, origin)
    }

    /// A DATA that the session refuses without looking at its payload.
    pub fn refuse_whole(
        &mut self,
        session: &mut ServerSession,
        header: &Header,
        (code, reason): (NackCode, &str),
        payload: PoolSlice,
        origin: &Arc<Origin>,
        out: &mut Vec<u8>,
    ) {
        let ticket = self.refuse(header, code, reason, 1, payload, origin);
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
        reasons.extend(self.health.not_ready());
        let lacks_descriptors = self.descriptors_exhausted.is_some_and(|at| self.now < at + EXHAUSTED_TIME);
        if lacks_descriptors && !reasons.contains(&Pause::NoDescriptors.name()) {
            reasons.push(Pause::NoDescriptors.name());
        }
        let sinks: serde_json::Map<_, _> =
            (self.sinks)().into_iter().map(|sink| (sink.name, serde_json::Value::from(sink.state))).collect();
        let (status, word) = if reasons.is_empty() { (200, "ready") } else { (503, "not ready") };
        let (reasons, sinks) = (serde_json::json!(reasons), serde_json::Value::Object(sinks));
        (status, format!(r#"{{"status":"{word}","reasons":{reasons},"sinks":{sinks}}}"#).into_bytes())
    }
}

/// Moves the bytes of `good` (ascending ranges) to the front of `payload` and all others behind them, each side in its
/// order; returns where the others begin. Both sides are an `EventBatch`.
fn good_first(payload: &mut [u8], good: &[Range<usize>], others: &mut Vec<u8>) -> usize {
    others.clear();
    let (mut end, mut last) = (0, 0);
    for range in good {
        others.extend_from_slice(payload.get(last..range.start).unwrap_or_default());
        payload.copy_within(range.clone(), end);
        end += range.len();
        last = range.end;
    }
    others.extend_from_slice(payload.get(last..).unwrap_or_default());
    if let Some(rest) = payload.get_mut(end..).filter(|rest| rest.len() == others.len()) {
        rest.copy_from_slice(others);
    }
    end
}

/// The door as the HTTP machine sees it.
pub struct HttpDoor<'a> {
    door: &'a mut Door,
    origin: &'a Arc<Origin>,
    loopback: bool,
    overloaded: bool,
}

impl http::Door for HttpDoor<'_> {
    fn date(&mut self) -> &[u8; http::DATE_BYTES] {
        self.door.http_date.at(self.door.received_unix_nano)
    }

    fn status_page(&mut self, page: http::Page) -> (u16, &'static str, Vec<u8>) {
        const JSON: &str = "application/json";
        match page {
            // A failed thread aborts the process; a failed log ends it, which may take a moment.
            http::Page::Health if self.door.health.failure().is_some() => {
                (503, JSON, br#"{"status":"failed"}"#.to_vec())
            }
            http::Page::Health => (200, JSON, br#"{"status":"ok"}"#.to_vec()),
            http::Page::Ready => {
                let (status, body) = self.door.ready_page();
                (status, JSON, body)
            }
            http::Page::Metrics => {
                // Once in a turn: whoever asks for it a hundred times at once gets what was gathered the first time.
                const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
                if let Some(page) = &self.door.metrics_page {
                    return (200, TEXT, page.clone());
                }
                let (door, metrics) = (&self.door, &self.door.metrics);
                metrics.ring_depth.set(door.ring.depth() as i64);
                metrics.ring_capacity.set(door.ring.capacity() as i64);
                metrics.buffer_bytes_in_use.set(door.intake.pool().bytes_in_use() as i64);
                metrics.buffer_bytes_capacity.set(door.intake.pool().capacity_bytes() as i64);
                for sink in (door.sinks)() {
                    metrics.show_sink(&sink.name, sink.is_up, sink.oldest.as_secs_f64());
                }
                let page = metrics.text();
                self.door.metrics_page = Some(page.clone());
                (200, TEXT, page)
            }
        }
    }

    fn authorized(&mut self, token: Option<&[u8]>) -> bool {
        self.door.tokens.gate(self.loopback).admit(token.unwrap_or_default()).is_ok()
    }

    fn ack_level(&mut self, wanted: Option<AckLevel>) -> Result<AckLevel, String> {
        let settings = &self.door.settings;
        match wanted.unwrap_or(settings.default_ack) {
            level if level <= settings.highest_ack => {
                self.door.note_level(level);
                Ok(level)
            }
            level => Err(format!(
                "ack level `{}` is not offered: this server acknowledges at most `{}` ({})",
                level.name(),
                settings.highest_ack.name(),
                settings.highest_ack_because()
            )),
        }
    }

    fn reserve(&mut self, bytes: usize) -> Option<Buffer> {
        // Agents that wait in line come first: what is freed is theirs.
        if self.overloaded || self.door.starved_since.is_some() {
            return None;
        }
        self.door.intake.take_for_body(bytes)
    }

    fn reserve_to_finish(&mut self, bytes: usize) -> Option<Buffer> {
        self.door.intake.take_to_finish(bytes, self.door.finishing)
    }

    fn reserve_for_answer(&mut self, bytes: usize) -> Option<Buffer> {
        self.door.intake.take_for_answer(bytes)
    }

    fn can_finish(&self, needs: http::Needs) -> bool {
        let http::Needs { unpacked_bytes, packed_bytes, piece_bytes, slots } = needs;
        !self.door.finishing
            && self.door.ring.room() >= slots
            && self.door.intake.pool().can_finish(unpacked_bytes, packed_bytes, piece_bytes)
    }

    fn no_room(&mut self) {
        self.door.post_refused = Some(self.door.now);
    }

    fn beginnings(&self) -> &http::Beginnings {
        &self.door.beginnings
    }

    fn ring_room(&mut self, slots: usize) -> bool {
        self.door.ring.room() >= slots
    }

    fn accept(&mut self, payload: PoolSlice, events: u32, level: AckLevel) -> u64 {
        self.door.metrics.events_received(Protocol::Http).inc_by(u64::from(events));
        self.door.push(Content::Events { payload, events, payload_crc: None }, 0, 0, Some(level), self.origin)
    }

    fn is_written(&self, ticket: u64) -> bool {
        self.door.watermarks.get(AckLevel::Written) >= ticket
    }

    fn rejected(&mut self, reason: RejectReason, events: u64) {
        self.door.metrics.events_rejected(reason).inc_by(events);
    }

    fn refused(&mut self, refused: &http::Refused<'_>) {
        // Without a session an origin is named by the peer's IP address.
        self.door.refusals.log(&self.origin.default_source, refused, self.door.now);
    }

    fn answered(&mut self, status: u16) {
        self.door.metrics.http_response(status);
    }

    fn log_pause(&self) -> Option<Pause> {
        self.door.health.pause()
    }

    fn draining(&self) -> bool {
        self.door.draining || self.overloaded
    }

    fn overloaded(&self) -> bool {
        self.overloaded && !self.door.draining
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_ranges_come_first_and_nothing_is_lost() {
        for (good, expected, end) in [
            (&[][..], "abcdefgh", 0),
            (&[(0, 8)], "abcdefgh", 8),
            (&[(2, 4)], "cdabefgh", 2),
            (&[(0, 1), (3, 4), (7, 8)], "adhbcefg", 3),
            (&[(1, 8)], "bcdefgha", 7),
        ] {
            let mut payload = *b"abcdefgh";
            let ranges: Vec<_> = good.iter().map(|(start, end)| *start..*end).collect();
            let found = good_first(&mut payload, &ranges, &mut vec![b'x'; 20]);
            assert_eq!((std::str::from_utf8(&payload).unwrap(), found), (expected, end), "{good:?}");
        }
    }
}
