//! Ingress: everything that comes in passes here, whatever protocol it came by.
//!
//! It owns what the connections of one loop share (its part of the pool, its ring, its clock), knows what all loops share (marks, tokens,
//! metrics: [`Shared`]), and gives each accepted frame or request its ticket. Nothing is pushed without room in the ring, so nothing accepted is ever lost between here and the log
//! thread.

use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use crate::batch::Origin;
use crate::batch::pool::{Buffer, PoolSlice};
use crate::batch::shares::Share;
use crate::http::{self, Limited};
use crate::ids::{ClientId, LoopId, Ticket};
use crate::limits::{DEAD_LETTER_REASON_BYTES_MAX, HEADER_BYTES, HTTP_BODY_BEGINNINGS_BYTES_MAX};
use crate::metrics::{LimitScope, LocalMetrics, Protocol, RejectReason};
use crate::net::connection::Peer;
use crate::net::delayed::Delayed;
use crate::net::intake::Intake;
use crate::net::policy::Policy;
use crate::net::shared::{LoopState, Shared, late_sinks};
use crate::net::status::Rejected;
use crate::pipeline::health::Pause;
use crate::pipeline::ring::{Content, Slot, SlotSender};
use crate::pipeline::watermark::Watermarks;
use crate::profiling::{self, NotBegun, Order, Pending};
use crate::random::Random;
use crate::rate::Received;
use crate::session::admission::{Admission, admit};
use crate::session::rates::{Sender, Wait};
use crate::session::receive::{self, Data, Taken};
use crate::session::server::{Gate, ServerSession, Turn};
use crate::session::tokens::Access;
use crate::text::cut;
use crate::time::{Now, unix_nano};
use crate::wire::{AckLevel, Header, NackCode};

/// Slots that one frame may take: its accepted events, and its payload for the dead letters.
pub(super) const SLOTS_PER_FRAME: usize = 2;
/// Delayed connections that need no further memory.
const DELAYED: usize = 1024;

/// What one loop owns of ingress, and what it shares with the others.
pub struct Ingress {
    /// What all loops share.
    pub shared: Arc<Shared>,
    /// Who may send, and how much.
    pub policy: Arc<Policy>,
    /// The loop that this belongs to.
    pub event_loop: LoopId,
    /// Memory that sockets are read into.
    pub intake: Intake,
    /// The loop's end of its ring to the log thread.
    pub ring: SlotSender,
    /// For first epochs and the jitter of retry hints.
    pub random: Random,
    /// What this loop counts by itself until its turn ends.
    pub counts: LocalMetrics,
    /// The clock of this turn.
    pub now: Instant,
    received_unix_nano: u64,
    /// That time as HTTP answers show it.
    http_date: http::HttpDate,
    last_ticket: u64,
    /// Whether the server shuts down: new requests are refused.
    pub draining: bool,
    /// Connections wait for memory or ring since then.
    starved_since: Option<Instant>,
    /// Whole HTTP bodies wait in line for memory or ring; what is kept for them is not for others.
    pub finishing: bool,
    /// Agents' connections that are not read because of a limit.
    pub delayed: Delayed,
    /// For the beginnings of HTTP bodies.
    pub beginnings: http::Beginnings,
    /// Scratch of `admit`: the good ranges of a payload, and a copy of the others.
    ranges: Vec<Range<usize>>,
    refused: Vec<u8>,
    /// The page of metrics, once it was asked for in this turn.
    metrics_page: Option<Vec<u8>>,
    /// That of `/status.json`.
    status_page: Option<Vec<u8>>,
}

impl Ingress {
    /// What the loop `event_loop` receives passes through its ring. `last_ticket`: the last number that it has given out.
    pub fn new(
        shared: Arc<Shared>,
        event_loop: LoopId,
        intake: Intake,
        ring: SlotSender,
        random: Random,
        last_ticket: u64,
    ) -> Self {
        let policy = shared.policy.get();
        let clients = policy.tokens.clients();
        let counts = LocalMetrics::new(&shared.metrics, clients);
        let delayed = Delayed::new(clients.len(), DELAYED);
        let beginnings = http::Beginnings::new(shared.part_of(HTTP_BODY_BEGINNINGS_BYTES_MAX));
        Self {
            shared,
            policy,
            event_loop,
            intake,
            ring,
            random,
            counts,
            now: Instant::now(),
            received_unix_nano: 0,
            http_date: http::HttpDate::default(),
            last_ticket,
            draining: false,
            starved_since: None,
            finishing: false,
            delayed,
            beginnings,
            ranges: Vec::new(),
            refused: Vec::new(),
            metrics_page: None,
            status_page: None,
        }
    }

    /// The time of this turn, milliseconds since 1970.
    pub(super) fn unix_ms(&self) -> u64 {
        self.received_unix_nano / 1_000_000
    }

    /// Nobody waits for a limit then: those who did are to be served again.
    pub(super) fn set_policy(&mut self, policy: Arc<Policy>) {
        let clients = policy.tokens.clients();
        self.counts.add_clients(&self.shared.metrics, clients);
        self.delayed = Delayed::new(clients.len(), DELAYED);
        self.policy = policy;
    }

    /// Once a turn: everything in it has this time.
    pub fn begin_turn(&mut self, now: Now) {
        self.now = now.monotonic;
        (self.metrics_page, self.status_page) = (None, None);
        self.received_unix_nano = unix_nano(now.wall);
    }

    /// What was accepted in this turn is *received*, and the log thread is woken.
    pub fn end_turn(&mut self) {
        self.ring.flush();
        // Before anybody is answered: who has an answer finds its events counted.
        self.counts.flush();
        self.own_watermarks().advance(AckLevel::Received, self.last_ticket);
        if !self.shared.settings.has_log() {
            self.shared.wake_waiting_for(self.event_loop);
        }
    }

    /// Whether a frame can be handed on.
    pub fn has_slots(&self) -> bool {
        self.ring.room() >= SLOTS_PER_FRAME
    }

    /// How many bytes may be read so that every frame in them gets its slots, even if all frames are empty.
    pub fn bytes_within_slots(&self) -> usize {
        self.ring.room() / SLOTS_PER_FRAME * HEADER_BYTES
    }

    /// Puts an agent's new epoch on its way into the log, before its WELCOME; there is a log. Ask for [`Ingress::has_slots`]
    /// first.
    /// `last_seq`: everything up to it counts as acknowledged in this epoch.
    pub fn log_epoch(&mut self, session: &mut ServerSession, last_seq: u64, origin: &Arc<Origin>) {
        let ticket = self.push(Content::Hello, last_seq, 0, None, origin);
        session.epoch_logged(ticket);
        self.ring.flush();
    }

    /// Puts on its way into the log that the agent is done and its mark deleted; `last_seq` is the last number that was
    /// acknowledged. Ask for [`Ingress::has_slots`] first. No answer waits for it: if the server restarts before it is in the log, it
    /// knows the agent again, which only uses a place in the table.
    pub fn log_bye(&mut self, last_seq: u64, origin: &Arc<Origin>) {
        if self.shared.settings.has_log() {
            self.push(Content::Bye, last_seq, 0, None, origin);
        }
    }

    /// An agent gives its mark back. What it sent is settled before the log hears of its next epoch from another loop.
    pub fn an_agent_leaves(&self) {
        self.state().left_ticket.fetch_max(self.last_ticket, Ordering::Release);
    }

    pub(super) fn own_watermarks(&self) -> &Watermarks {
        &self.shared.watermarks[self.event_loop.index()]
    }

    /// What this loop shows of itself to the others.
    pub fn state(&self) -> &LoopState {
        self.shared.state(self.event_loop)
    }

    /// Connections wait for memory or ring since then.
    pub fn starved_since(&self) -> Option<Instant> {
        self.starved_since
    }

    /// Sets the moment since which connections wait for memory or room in the ring; `None`: none waits. `/ready` shows
    /// it.
    pub fn set_starved_since(&mut self, since: Option<Instant>) {
        if self.starved_since != since {
            self.starved_since = since;
            self.state().starved_since.set(since);
        }
    }

    /// Up to which number of this loop `level` is reached.
    pub fn watermark(&self, level: AckLevel) -> u64 {
        self.own_watermarks().get(level)
    }

    /// A sender will wait for `level`.
    pub fn note_level(&self, level: AckLevel) {
        if level == AckLevel::Written {
            self.own_watermarks().want_written();
        }
    }

    /// Looks how far the required sinks are, before anybody is acknowledged.
    pub fn look_at_sinks(&self) {
        if self.shared.settings.has_log() {
            let position = (self.shared.delivered_position)();
            // Those of the other loops too: an agent that has come from one waits for its tickets.
            self.shared.watermarks.iter().for_each(|watermarks| watermarks.delivered(position));
        }
    }

    /// `level`: at which its sender is answered; `None`: no sender waits for it.
    fn push(
        &mut self,
        content: Content,
        seq: u64,
        sent_crc: u32,
        level: Option<AckLevel>,
        origin: &Arc<Origin>,
    ) -> Ticket {
        self.last_ticket += 1;
        let ticket = Ticket { event_loop: self.event_loop, number: self.last_ticket };
        let slot = Slot {
            event_loop: ticket.event_loop,
            number: ticket.number,
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
        ticket
    }

    /// Puts the events of a request on their way into the log. Ask for [`Ingress::has_slots`] first.
    pub fn accept(
        &mut self,
        protocol: Protocol,
        payload: PoolSlice,
        events: u32,
        level: AckLevel,
        origin: &Arc<Origin>,
    ) -> Ticket {
        self.counts.received(protocol, events);
        let content = Content::Events { payload, events, payload_crc: None, are_head_first: false };
        self.push(content, 0, 0, Some(level), origin)
    }

    /// The limit that a sender without a session, at this address, has to wait for. `None`: what it sends next is admitted.
    pub(super) fn limit_on(&self, address: IpAddr, client: Option<ClientId>) -> Option<Wait> {
        let rates = &self.policy.rates;
        if !rates.has_limits(client) {
            return None;
        }
        rates.wait(Sender::Address(address), client, self.now)
    }

    /// The limit for which others wait in line: what is left of it is theirs first.
    pub(super) fn line_of(&self, client: Option<ClientId>) -> Option<LimitScope> {
        let has_line = |scope: &LimitScope| self.delayed.has_line(*scope, client);
        [LimitScope::Client, LimitScope::Server].into_iter().find(has_line)
    }

    /// Counts and charges what a sender without a session, at this address, has sent.
    pub(super) fn received(&self, address: IpAddr, client: Option<ClientId>, received: Received) {
        let rates = &self.policy.rates;
        if let Some(client) = client {
            self.counts.received_of(client, received.accepted);
        }
        if rates.has_limits(client) {
            rates.charge(Sender::Address(address), client, received.amount, self.now);
        }
    }

    /// When this turn received what it received: nanoseconds since 1970.
    pub(super) fn received_unix_nano(&self) -> u64 {
        self.received_unix_nano
    }

    /// Runs `call` with what a session works with.
    pub fn turn<R>(&mut self, access: Access, call: impl FnOnce(&mut Turn<'_>) -> R) -> R {
        self.turn_counting(access, |turn, _| call(turn))
    }

    /// As [`Ingress::turn`], with what this loop counts.
    pub fn turn_counting<R>(&mut self, access: Access, call: impl FnOnce(&mut Turn<'_>, &LocalMetrics) -> R) -> R {
        let Shared { settings, marks, .. } = &*self.shared;
        let gate = self.policy.tokens.gate(access);
        let (now, random) = (self.now, self.random.next_u64());
        call(&mut Turn { now, random, settings, marks, gate: &gate as &dyn Gate }, &self.counts)
    }

    /// Ingress for one agent.
    pub fn frames<'a>(&'a mut self, origin: &'a Arc<Origin>, access: Access) -> FrameIngress<'a> {
        FrameIngress { ingress: self, origin, access, received: Received::default() }
    }

    /// Ingress for one HTTP connection. One that is `overloaded` has pages only.
    pub(super) fn http<'a>(&'a mut self, peer: &'a mut Peer) -> HttpIngress<'a> {
        HttpIngress { ingress: self, peer }
    }

    /// The page of `/status.json`, gathered once in a turn.
    fn status_page(&mut self) -> Vec<u8> {
        if let Some(page) = &self.status_page {
            return page.clone();
        }
        self.counts.flush();
        let wall = SystemTime::UNIX_EPOCH + Duration::from_nanos(self.received_unix_nano);
        let page = self.shared.status_page(Now { monotonic: self.now, wall }, self.draining);
        self.status_page = Some(page.clone());
        page
    }

    fn ready_page(&self) -> (u16, Vec<u8>) {
        let mut reasons = if self.draining { vec!["draining"] } else { Vec::new() };
        reasons.extend(self.shared.not_ready(self.now));
        let states = (self.shared.sinks)().into_iter().map(|sink| (sink.name, serde_json::Value::from(sink.state)));
        let sinks: serde_json::Map<_, _> = states.collect();
        let (status, word) = if reasons.is_empty() { (200, "ready") } else { (503, "not ready") };
        let (reasons, sinks) = (serde_json::json!(reasons), serde_json::Value::Object(sinks));
        (status, format!(r#"{{"status":"{word}","reasons":{reasons},"sinks":{sinks}}}"#).into_bytes())
    }
}

/// Moves the bytes of `good` (ascending ranges) to the front of `payload` and all others after them, each side in its
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

/// Ingress as the session of one agent sees it. The reader has ensured that there are slots for every frame of the
/// read.
pub struct FrameIngress<'a> {
    ingress: &'a mut Ingress,
    origin: &'a Arc<Origin>,
    access: Access,
    /// What was handed on.
    pub received: Received,
}

impl receive::Ingress for FrameIngress<'_> {
    type Source = Buffer;

    fn bytes(source: &Buffer) -> &[u8] {
        source.filled()
    }

    fn turn<R>(&mut self, call: impl FnOnce(&mut Turn<'_>) -> R) -> R {
        self.ingress.turn(self.access, call)
    }

    fn has_room(&self) -> bool {
        true
    }

    /// Checks the payload, hands its good events on, and keeps the others for the dead letters. It is not shared yet.
    fn admit(&mut self, source: &mut Buffer, data: &Data) -> Taken {
        let range = data.payload.clone();
        let payload = source.filled().get(range.clone()).unwrap_or_default();
        match admit(payload, &mut self.ingress.ranges) {
            Admission::All { events, are_head_first } => {
                let (payload, payload_crc) = (source.share(range), Some(data.header.payload_crc));
                let ticket = self.accept(Content::Events { payload, events, payload_crc, are_head_first }, data);
                Taken { ticket, nack: None }
            }
            Admission::Some { events, refused, reason } => {
                // In place: a frame with a bad event must not need memory that a full pool does not have.
                let Ingress { ranges, refused: scratch, .. } = &mut *self.ingress;
                let payload = source.unshared_mut(range.clone());
                let good = range.start + payload.map_or(0, |payload| good_first(payload, ranges, scratch));
                self.reject(data, NackCode::Partial, &reason, refused, source.share(good..range.end));
                let payload = source.share(range.start..good);
                let content = Content::Events { payload, events, payload_crc: None, are_head_first: false };
                let ticket = self.accept(content, data);
                Taken { ticket, nack: Some((NackCode::Partial, reason.into())) }
            }
            Admission::None { code, refused, reason } => {
                let ticket = self.reject(data, code, &reason, refused, source.share(range));
                Taken { ticket, nack: Some((code, reason.into())) }
            }
        }
    }

    fn refuse(&mut self, source: &mut Buffer, data: &Data, code: NackCode, reason: &str) -> Ticket {
        self.reject(data, code, reason, 1, source.share(data.payload.clone()))
    }

    fn duplicate(&mut self) {
        self.ingress.counts.duplicate_dropped();
    }

    fn bye(&mut self, last_seq: u64) {
        self.ingress.log_bye(last_seq, self.origin);
        self.ingress.an_agent_leaves();
    }
}

impl FrameIngress<'_> {
    fn accept(&mut self, content: Content, data: &Data) -> Ticket {
        if let Content::Events { payload, events, .. } = &content {
            self.received.add(*events, *events, payload.len());
            self.ingress.counts.received(Protocol::Frames, *events);
        }
        let Header { seq, payload_crc, .. } = data.header;
        self.ingress.push(content, seq, payload_crc, Some(data.level), self.origin)
    }

    /// Sends a payload that was refused on its way to the dead letters.
    fn reject(&mut self, data: &Data, code: NackCode, reason: &str, events: u32, payload: PoolSlice) -> Ticket {
        self.received.add(events, 0, payload.len());
        let Header { seq, payload_crc, .. } = data.header;
        let why = match code {
            NackCode::Malformed | NackCode::Decompress => RejectReason::Malformed,
            NackCode::TooLarge => RejectReason::TooLarge,
            NackCode::Codec => RejectReason::Codec,
            NackCode::Invalid | NackCode::Partial => RejectReason::Invalid,
        };
        self.ingress.shared.metrics.events_rejected(why).inc_by(u64::from(events));
        tracing::debug!(agent = self.origin.default_source, seq, code = code.name(), reason, "frame refused");
        let from = self.origin.agent.as_deref().unwrap_or_default();
        let rejected = Rejected { from, protocol: "frames", code: code.name(), events: events.into(), reason };
        self.ingress.shared.status.rejected(&rejected, self.ingress.unix_ms());
        // The ring holds thousands of slots: a list of reasons as long as a NACK's would be memory outside the pool.
        let reason = cut(reason, DEAD_LETTER_REASON_BYTES_MAX).into();
        let content = Content::Refused { payload, events, code, reason };
        self.ingress.push(content, seq, payload_crc, None, self.origin)
    }
}

/// Ingress as the HTTP machine sees it.
pub(super) struct HttpIngress<'a> {
    ingress: &'a mut Ingress,
    peer: &'a mut Peer,
}

impl http::Ingress for HttpIngress<'_> {
    fn date(&mut self) -> &[u8; http::DATE_BYTES] {
        self.ingress.http_date.at(self.ingress.received_unix_nano)
    }

    fn status_page(&mut self, page: http::Page) -> (u16, &'static str, Vec<u8>) {
        const JSON: &str = "application/json";
        match page {
            // A failed thread aborts the process; a failed log ends it, which may take a moment.
            http::Page::Health if self.ingress.shared.health.failure().is_some() => {
                (503, JSON, br#"{"status":"failed"}"#.to_vec())
            }
            http::Page::Health => (200, JSON, br#"{"status":"ok"}"#.to_vec()),
            http::Page::Ready => {
                let (status, body) = self.ingress.ready_page();
                (status, JSON, body)
            }
            http::Page::Metrics => {
                // Once in a turn: whoever asks for it a hundred times at once gets what was gathered the first time.
                const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
                if let Some(page) = &self.ingress.metrics_page {
                    return (200, TEXT, page.clone());
                }
                self.ingress.counts.flush();
                let page = self.ingress.shared.metrics_page(self.ingress.now);
                self.ingress.metrics_page = Some(page.clone());
                (200, TEXT, page)
            }
            http::Page::Status => (200, JSON, self.ingress.status_page()),
        }
    }

    fn has_host(&self, name: &str) -> bool {
        self.ingress.shared.status.has_host(name)
    }

    fn may_read_status(&mut self, token: Option<&[u8]>) -> Result<(), http::Denied> {
        let Policy { tokens, encryption, pages, .. } = &*self.ingress.policy;
        let access = self.peer.access;
        let is_open = tokens.is_empty() && !encryption.requires_certificate && access.refused.is_none();
        pages.admit(token, access.is_private, is_open)
    }

    fn takes_profiles(&self) -> bool {
        profiling::IS_BUILT
    }

    fn may_profile(&mut self, token: Option<&[u8]>) -> Result<(), http::Denied> {
        self.ingress.policy.pages.admit_token(token, self.peer.access.is_private)
    }

    fn begin_profile(&mut self, order: Order) -> Result<Pending, NotBegun> {
        // The thread must not keep what the loops share after they have ended.
        let (shared, own) = (Arc::downgrade(&self.ingress.shared), self.ingress.event_loop);
        let wake = move || shared.upgrade().iter().for_each(|shared| shared.loops.wake(own));
        let pending = profiling::begin(order, wake)?;
        let (peer, seconds) = (self.peer.address, order.time.as_secs());
        tracing::info!(%peer, seconds, "taking a CPU profile");
        Ok(pending)
    }

    fn refuses_connection(&self) -> Option<&'static str> {
        self.peer.access.refused
    }

    fn admit(&mut self, token: Option<&[u8]>) -> Result<(), &'static str> {
        let gate = self.ingress.policy.tokens.gate(self.peer.access);
        let admitted = gate.admit(token.unwrap_or_default());
        self.peer.client = admitted.ok().and_then(|admitted| admitted.client);
        admitted.map(drop)
    }

    fn limited(&mut self) -> Option<Limited> {
        let Wait { scope, time } = self.ingress.limit_on(self.peer.address.ip(), self.peer.client)?;
        self.ingress.counts.limited(scope, 1);
        Some(Limited { scope, wait: time })
    }

    fn received(&mut self, received: Received) {
        self.ingress.received(self.peer.address.ip(), self.peer.client, received);
    }

    fn ack_level(&mut self, wanted: Option<AckLevel>) -> Result<AckLevel, String> {
        let settings = &self.ingress.shared.settings;
        match wanted.unwrap_or(settings.default_ack) {
            level if level <= settings.highest_ack => {
                self.ingress.note_level(level);
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
        if self.peer.overloaded || self.ingress.starved_since.is_some() {
            return None;
        }
        self.ingress.intake.take_for_body(bytes)
    }

    fn reserve_to_finish(&mut self, bytes: usize) -> Option<Buffer> {
        self.ingress.intake.take_to_finish(bytes, self.ingress.finishing)
    }

    fn reserve_for_answer(&mut self, bytes: usize) -> Option<Buffer> {
        self.ingress.intake.take_for_answer(bytes)
    }

    fn take_common(&mut self, bytes: usize) -> Option<Buffer> {
        // Bodies that wait in line come first.
        if self.ingress.finishing { None } else { self.ingress.intake.take_common(bytes) }
    }

    fn put_back_common(&mut self, buffer: Buffer) {
        self.ingress.intake.put_back_common(buffer);
    }

    fn can_finish(&mut self, needs: http::Needs) -> bool {
        let http::Needs { unpacked_bytes, packed_bytes, piece_bytes, slots } = needs;
        !self.ingress.finishing
            && self.ingress.ring.room() >= slots
            && self.ingress.intake.can_finish(unpacked_bytes, packed_bytes, piece_bytes)
    }

    fn no_room(&mut self) {
        self.ingress.state().post_refused.set(Some(self.ingress.now));
    }

    fn beginnings(&self) -> &http::Beginnings {
        &self.ingress.beginnings
    }

    fn ring_room(&mut self, slots: usize) -> bool {
        self.ingress.ring.room() >= slots
    }

    fn accept(&mut self, payload: PoolSlice, events: u32, level: AckLevel) -> u64 {
        self.ingress.accept(Protocol::Http, payload, events, level, &self.peer.origin).number
    }

    fn reject(&mut self, payload: PoolSlice, records: u32, all: bool, reason: &str) -> u64 {
        let code = if all { NackCode::Invalid } else { NackCode::Partial };
        let reason = cut(reason, DEAD_LETTER_REASON_BYTES_MAX).into();
        let content = Content::Refused { payload, events: records, code, reason };
        self.ingress.push(content, 0, 0, None, &self.peer.origin).number
    }

    fn finishing_bytes(&self) -> usize {
        self.ingress.intake.pool().share_bytes(Share::Finishing)
    }

    fn late_sinks(&self, age: Duration) -> String {
        late_sinks(&(self.ingress.shared.sinks)(), age)
    }

    fn is_written(&self, ticket: u64) -> bool {
        self.ingress.watermark(AckLevel::Written) >= ticket
    }

    fn rejected(&mut self, reason: RejectReason, events: u64) {
        self.ingress.shared.metrics.events_rejected(reason).inc_by(events);
    }

    fn rejected_some(&mut self, status: u16, why: &str, events: u64) {
        self.note_rejection(status, why, events);
    }

    fn refused(&mut self, refused: &http::Refused<'_>) {
        if refused.method == "POST" && refused.status < 500 && !refused.is_noted {
            self.note_rejection(refused.status, refused.reason, 0);
        }
        // Without a session an origin is named by the peer's IP address.
        let client = self.ingress.policy.tokens.name_of(self.peer.client);
        self.ingress.shared.log_lines.refusals.log(&self.peer.origin.default_source, client, refused, self.ingress.now);
    }

    fn answered(&mut self, status: u16) {
        // The next request brings a token of its own.
        self.peer.client = None;
        self.ingress.shared.metrics.http_response(status);
    }

    fn log_pause(&self) -> Option<Pause> {
        self.ingress.shared.health.pause()
    }

    fn draining(&self) -> bool {
        self.ingress.draining || self.peer.overloaded
    }

    fn overloaded(&self) -> bool {
        self.peer.overloaded && !self.ingress.draining
    }
}

impl HttpIngress<'_> {
    fn note_rejection(&self, status: u16, reason: &str, events: u64) {
        let (from, code) = (&self.peer.origin.default_source, &*status.to_string());
        let rejected = Rejected { from, protocol: "http", code, events, reason };
        self.ingress.shared.status.rejected(&rejected, self.ingress.unix_ms());
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
