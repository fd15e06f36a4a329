//! Agents: frames straight into the pool's current buffer, and to their session.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Context, Ending, Priority, Protocol};
use crate::batch::Origin;
use crate::batch::pool::Buffer;
use crate::ids::{Ticket, hex};
use crate::limits::{HEADER_BYTES, HELLO_FRAME_BYTES, READ_BYTES_PER_TURN};
use crate::metrics::{self, LimitScope};
use crate::net::connection::Peer;
use crate::net::delayed::Delay;
use crate::net::ingress::Ingress;
use crate::net::serve::{Scratch, Served, after_read, wait_for_budget};
use crate::net::socket::{ReadEnd, Socket};
use crate::net::status::Listed;
use crate::rate::Received;
use crate::session::marks::Greeting;
use crate::session::rates::Wait;
use crate::session::receive::{Consumed, End};
use crate::session::server::ServerSession;
use crate::wire::header::MAGIC;
use crate::wire::{Decoded, FrameKind, GoawayCode, decode};

/// Why a connection is closed whose agent sent BYE.
pub(super) const BYE: &str = "bye";
/// Why a connection is closed whose agent has a newer one.
pub(crate) const REPLACED: &str = "replaced";

/// Whether a connection's first byte is that of a frame.
pub(super) fn begins_with(first: u8, _ingress: &Ingress) -> bool {
    first == MAGIC[0]
}

/// A session that waits for HELLO.
pub(super) fn open(peer: &Peer, ingress: &Ingress) -> Box<dyn Protocol> {
    Box::new(Frames {
        session: ServerSession::new(peer.connection, &ingress.shared.settings, peer.opened),
        partial: None,
        waits_for_mark: false,
        unlogged_epoch: None,
        is_refused: false,
        is_limited: false,
        is_logged: false,
        delayed_by: None,
        listed: None,
    })
}

/// A frame of `total` bytes, a part of which has come: memory of the pool that belongs to this connection alone.
struct PartialFrame {
    buffer: Buffer,
    total: usize,
}

struct Frames {
    session: ServerSession,
    partial: Option<PartialFrame>,
    /// An older connection of the agent holds its mark, and was asked to close.
    waits_for_mark: bool,
    unlogged_epoch: Option<UnloggedEpoch>,
    /// What it sent, or when, is why the connection ends.
    is_refused: bool,
    /// There are limits for this agent.
    is_limited: bool,
    /// Its frames are logged one by one (`log.agents`).
    is_logged: bool,
    /// What is read next had to wait for this limit.
    delayed_by: Option<LimitScope>,
    /// In the list of connected agents, for `/status.json`.
    listed: Option<Listed>,
}

/// The agent's epoch is new, and not on its way into the log yet.
struct UnloggedEpoch {
    /// Everything up to this number counts as acknowledged.
    last_seq: u64,
    /// What has to be in the log before: what the agent may have sent through other loops.
    after: Vec<Ticket>,
}

impl Protocol for Frames {
    fn serve(&mut self, cx: &mut Context<'_>) -> Served {
        let served = self.serve_once(cx);
        self.is_refused = matches!(served, Served::Close(reason) if reason != BYE);
        served
    }

    fn name(&self) -> &'static str {
        metrics::Protocol::Frames.name()
    }

    fn priority(&self) -> Priority {
        if self.session.is_authenticated() { Priority::Agents } else { Priority::New }
    }

    fn is_waiting(&self) -> bool {
        self.session.is_waiting()
    }

    fn acknowledge(&mut self, is_read_next: bool, cx: &mut Context<'_>) {
        let shared = cx.ingress.shared.clone();
        if !self.log_epoch(&cx.peer.origin, cx.ingress) {
            return;
        }
        let has_more = is_read_next && cx.socket.is_more_likely() && !self.is_limited;
        if has_more && self.session.may_acknowledge_later(&shared.settings, cx.ingress.now) {
            return;
        }
        let (own, before) = (cx.ingress.event_loop, self.session.acked_seq());
        let reached = |ticket: Ticket, level| shared.has_reached(own, ticket, level);
        cx.ingress.turn_counting(cx.peer.access, |turn, counts| {
            self.session.settled(reached, turn, cx.out);
            self.session.acknowledge(reached, turn, cx.out, |age| counts.acknowledged(age.as_secs_f64()));
        });
        if self.is_logged && self.session.acked_seq() > before {
            let (agent, seq) = (&cx.peer.origin.agent, self.session.acked_seq());
            tracing::info!(agent, seq, "frames acknowledged");
        }
    }

    fn deadline(&self, pressure: bool) -> Option<Instant> {
        self.session.deadline(pressure)
    }

    fn handle_timeout(&mut self, pressure: bool, cx: &mut Context<'_>) -> Option<&'static str> {
        let closed = cx.ingress.turn(cx.peer.access, |turn| self.session.handle_timeout(pressure, turn, cx.out));
        if closed.is_none() && !cx.socket.is_flushed() {
            // A repeated ACK tells nothing to a peer that has not read the last one.
            cx.out.clear();
        }
        closed.map(GoawayCode::name)
    }

    fn end(&mut self, ending: Ending, cx: &mut Context<'_>) -> Option<&'static str> {
        let (code, text) = match ending {
            Ending::Shutdown if self.session.is_waiting() => return None,
            Ending::Shutdown | Ending::OutOfTime => (GoawayCode::Shutdown, "this server is shutting down"),
            Ending::LogFailed => (GoawayCode::Storage, "this server cannot write its log any more"),
        };
        Some(self.session.end(code, text, cx.ingress.random.next_u64(), cx.out).name())
    }

    fn policy_changed(&mut self, forgets_dues: bool, cx: &mut Context<'_>) -> Option<&'static str> {
        if !self.session.is_authenticated() {
            return None;
        }
        let (policy, random) = (cx.ingress.policy.clone(), cx.ingress.random.next_u64());
        if let Err(reason) = self.session.readmit(&policy.tokens.gate(cx.peer.access)) {
            self.is_refused = true;
            return Some(self.session.end(GoawayCode::Auth, reason, random, cx.out).name());
        }
        cx.peer.client = self.session.client();
        if forgets_dues {
            self.session.forget_due();
        }
        self.is_limited = policy.rates.has_limits(cx.peer.client);
        self.is_logged = policy.logs(cx.peer.origin.agent.as_deref());
        if !self.is_limited {
            self.delayed_by = None;
            self.session.open_window();
        }
        None
    }

    fn closed(&mut self, reason: &'static str, peer: &Peer, ingress: &mut Ingress) {
        if self.session.is_authenticated() {
            // Before another loop can have the mark.
            ingress.an_agent_leaves();
        }
        let mut marks = ingress.shared.marks();
        if ingress.shared.policy.has_other_dues(&ingress.policy) {
            // This loop will take the new policy in a moment; the mark may be lent again before.
            self.session.forget_due();
        }
        self.session.leave(reason == REPLACED, &mut marks, ingress.now);
        drop(marks);
        if !(self.is_refused || self.session.is_authenticated())
            || !ingress.shared.log_lines.connections.allows(ingress.now)
        {
            return;
        }
        let Peer { connection, address, origin, client, .. } = peer;
        let (connection, agent) = (connection.get(), &origin.agent);
        let client = ingress.policy.tokens.name_of(*client);
        match self.is_refused {
            true => {
                tracing::warn!(connection, peer = %address, agent, client, reason, "agent disconnected by the server")
            }
            false => tracing::info!(connection, agent, client, reason, "agent disconnected"),
        }
    }

    fn mark_is_free(&mut self) {
        self.waits_for_mark = false;
    }

    fn holds_partial(&self) -> bool {
        self.partial.is_some()
    }

    fn waits_for_budget(&self) -> bool {
        self.session.is_authenticated()
    }

    /// An agent that has sent everything leaves with BYE, and does not wait until what it has sent is paid for.
    fn read_while_delayed(&mut self, cx: &mut Context<'_>) -> Option<&'static str> {
        match self.read_bye(cx) {
            Some(Served::Close(reason)) => Some(reason),
            _ => None,
        }
    }
}

impl Frames {
    fn serve_once(&mut self, cx: &mut Context<'_>) -> Served {
        let (now, session) = (cx.ingress.now, &mut self.session);
        if cx.ingress.draining || cx.peer.overloaded {
            let (code, text) = if cx.ingress.draining {
                (GoawayCode::Shutdown, "this server is shutting down")
            } else {
                (GoawayCode::Overloaded, "this server has as many connections as server.max_connections allows")
            };
            if session.is_waiting() {
                // Drained once it is acknowledged.
                return Served::Hold;
            }
            return Served::Close(session.end(code, text, cx.ingress.random.next_u64(), cx.out).name());
        }
        if self.waits_for_mark {
            return Served::Idle;
        }
        if !session.is_authenticated() {
            if !cx.ingress.has_slots() {
                // An epoch goes through the ring.
                return self.wait(now);
            }
            // It is read again: the time of its HELLO runs.
            session.set_paused(false, now);
            return self.greet(cx);
        }
        session.set_paused(false, now);
        if !session.may_receive(&cx.ingress.shared.settings) || cx.socket.is_choked() {
            return self.hold(now);
        }
        if !cx.ingress.has_slots() {
            return self.wait(now);
        }
        if let Some(later) = wait_for_budget(cx) {
            self.session.set_paused(true, now);
            return later;
        }
        // One that has begun is read to its end, so that it holds no memory while its connection waits.
        if let Some(partial) = self.partial.take() {
            return self.continue_partial(partial, cx);
        }
        if !self.is_limited {
            return self.read_frames(READ_BYTES_PER_TURN, cx);
        }
        match self.room(cx) {
            Err(delay) => {
                if let Some(served @ Served::Close(_)) = self.read_bye(cx) {
                    return served;
                }
                self.delayed_by = Some(delay.scope);
                if self.is_logged {
                    let (agent, scope) = (&cx.peer.origin.agent, delay.scope.name());
                    tracing::info!(agent, scope, "not read until a limit admits more");
                }
                self.session.set_paused(true, now);
                Served::Delayed(delay)
            }
            Ok(bytes) => {
                let served = self.read_frames(bytes, cx);
                if served == Served::Idle {
                    self.delayed_by = None;
                    self.session.open_window();
                }
                served
            }
        }
    }

    /// Reads the header of the next frame outside the pool, whatever is due: it is the frame itself if that is a BYE, which has no events.
    /// Any other stays unparsed until its agent may be read. `None`: it is not a BYE, or has not come.
    fn read_bye(&mut self, cx: &mut Context<'_>) -> Option<Served> {
        // An agent sends BYE once everything is acknowledged.
        if self.partial.is_some()
            || self.session.is_waiting()
            || !cx.ingress.has_slots()
            || wait_for_budget(cx).is_some()
        {
            return None;
        }
        let missing = HEADER_BYTES.saturating_sub(cx.socket.unparsed.len());
        if missing > 0 && cx.socket.is_readable() {
            let Scratch { read, wire, .. } = &mut *cx.scratch;
            read_unparsed(cx.socket, (&mut read[..missing], wire), cx.ingress.now);
        }
        let caps = cx.ingress.shared.settings.payload_caps();
        match decode(&cx.socket.unparsed, caps) {
            Ok(Decoded::Frame { header, .. }) if header.kind == FrameKind::Bye => {
                Some(self.read_frames(HEADER_BYTES, cx))
            }
            _ => None,
        }
    }

    /// Bytes that may be read now, as far as limits are concerned.
    fn room(&mut self, cx: &mut Context<'_>) -> Result<usize, Delay> {
        let (rates, client, now) = (&cx.ingress.policy.rates, cx.peer.client, cx.ingress.now);
        let Wait { scope, time } = match self.session.room(rates, now) {
            Err(wait) => wait,
            Ok(bytes) => {
                let Some(scope) = cx.ingress.line_of(client) else {
                    return Ok(bytes.min(READ_BYTES_PER_TURN));
                };
                self.session.narrow_window();
                Wait { scope, time: Duration::ZERO }
            }
        };
        Err(Delay { scope, client, until: now + time })
    }

    /// Until the HELLO is accepted, bytes stay outside the pool.
    fn greet(&mut self, cx: &mut Context<'_>) -> Served {
        let unparsed = &mut cx.socket.unparsed;
        let missing = HELLO_FRAME_BYTES.saturating_sub(unparsed.len());
        let mut end = ReadEnd::Empty;
        if cx.socket.is_readable() && missing > 0 {
            let Scratch { read, wire, .. } = &mut *cx.scratch;
            end = read_unparsed(cx.socket, (&mut read[..missing], wire), cx.ingress.now);
        }
        let (session, unparsed) = (&mut self.session, &mut cx.socket.unparsed);
        let Consumed { bytes, end: parsed } =
            cx.ingress.turn(cx.peer.access, |turn| session.greet(unparsed, turn, cx.out));
        unparsed.drain(..bytes);
        match parsed {
            End::Greeted(greeting) => {
                self.greeted(&greeting, cx);
                Served::Again
            }
            End::LentTo(older) => {
                // Asked once: until the mark is given back, whatever else comes waits behind the HELLO.
                self.waits_for_mark = true;
                cx.scratch.replaced.push(older);
                Served::Idle
            }
            // It gets no word, as every connection that is replaced.
            End::Superseded => Served::Gone(REPLACED),
            End::Closed(code) => Served::Close(code.name()),
            End::All | End::Partial { .. } | End::NoRoom | End::Bye => after_read(cx.socket, end),
        }
    }

    fn greeted(&mut self, greeting: &Greeting, cx: &mut Context<'_>) {
        let (ingress, peer) = (&mut *cx.ingress, &mut *cx.peer);
        let agent_id = self.session.agent_id().copied().unwrap_or_default();
        self.session.add_due(ingress.policy.rates.remembered(agent_id));
        let name = self.session.agent_name();
        peer.is_known = true;
        peer.client = self.session.client();
        self.is_limited = ingress.policy.rates.has_limits(peer.client);
        peer.origin = Arc::new(Origin {
            agent_id: Some(agent_id),
            agent: Some(if name.is_empty() { hex(&agent_id) } else { name.to_owned() }),
            default_source: if name.is_empty() {
                peer.address.ip().to_canonical().to_string()
            } else {
                name.to_owned()
            },
            epoch: greeting.epoch,
        });
        let (agents, client) = (&ingress.shared.status.agents, ingress.policy.tokens.name_of(peer.client));
        self.listed = Some(agents.enter(&peer.origin, peer.address, client, ingress.unix_ms()));
        self.is_logged = ingress.policy.logs(peer.origin.agent.as_deref());
        ingress.note_level(self.session.level());
        if greeting.new_epoch && ingress.shared.settings.has_log() {
            // After the mark was given back, so that what its agent sent before is at or below these.
            let after = ingress.shared.left_tickets(ingress.event_loop);
            self.unlogged_epoch = Some(UnloggedEpoch { last_seq: greeting.last_seq, after });
            self.log_epoch(&peer.origin, ingress);
        }
        if ingress.shared.log_lines.connections.allows(ingress.now) {
            tracing::info!(
                connection = peer.connection.get(),
                agent = peer.origin.agent,
                peer = %peer.address,
                client = ingress.policy.tokens.name_of(peer.client),
                epoch = greeting.epoch,
                last_seq = greeting.last_seq,
                resumed = greeting.resumed,
                "agent connected"
            );
        }
        if greeting.missing > 0 {
            if ingress.shared.log_lines.connections.allows(ingress.now) {
                tracing::warn!(
                    agent = peer.origin.agent,
                    frames = greeting.missing,
                    "acknowledged frames are missing from the log"
                );
            }
            // The number is the peer's word: it must not overflow the counter.
            ingress.shared.metrics.frames_missing.inc_by(greeting.missing.min(u64::from(u32::MAX)));
        }
    }

    /// Puts a new epoch on its way into the log, once what the agent sent before through another loop is in there: the log
    /// tells of epochs in the order in which they were given out. `true`: there is none left to be logged.
    fn log_epoch(&mut self, origin: &Arc<Origin>, ingress: &mut Ingress) -> bool {
        let Some(UnloggedEpoch { last_seq, after }) = &self.unlogged_epoch else { return true };
        let (own, level) = (ingress.event_loop, ingress.shared.settings.settled_level());
        let is_due = ingress.has_slots() && after.iter().all(|ticket| ingress.shared.has_reached(own, *ticket, level));
        if is_due {
            ingress.log_epoch(&mut self.session, *last_seq, origin);
            self.unlogged_epoch = None;
        }
        is_due
    }

    /// The rest of a frame whose beginning has a buffer of its own.
    fn continue_partial(&mut self, partial: PartialFrame, cx: &mut Context<'_>) -> Served {
        let PartialFrame { mut buffer, total } = partial;
        let missing = total.saturating_sub(buffer.len());
        let end = match buffer.unfilled().get_mut(..missing) {
            Some(room) if !room.is_empty() => cx.socket.read_rest(room, &mut cx.scratch.wire, cx.ingress.now),
            _ => unreachable!("a partial frame has room for its rest"),
        };
        if let ReadEnd::Bytes(bytes) = end {
            buffer.advance(bytes);
        }
        let consumed = self.parse(&mut buffer, 0, cx);
        if let End::Partial { .. } = consumed.end {
            self.partial = Some(PartialFrame { buffer, total });
            return after_read(cx.socket, end);
        }
        self.keep(&mut buffer, 0, consumed, cx)
    }

    /// Reads at most `bytes` into the buffer that all agents share.
    fn read_frames(&mut self, bytes: usize, cx: &mut Context<'_>) -> Served {
        if !cx.ingress.intake.prepare() {
            return self.wait(cx.ingress.now);
        }
        // Every frame of the read must find its slots: what is read is parsed, and never has to wait half-way.
        let within_slots = cx.ingress.bytes_within_slots().saturating_sub(cx.socket.unparsed.len());
        let limit = bytes.min(within_slots);
        if limit == 0 {
            return self.wait(cx.ingress.now);
        }
        let Some(mut current) = cx.ingress.intake.take_current() else { return self.wait(cx.ingress.now) };
        let served = self.read_into_current(&mut current, limit, cx);
        cx.ingress.intake.put_back(current);
        served
    }

    fn read_into_current(&mut self, current: &mut Buffer, limit: usize, cx: &mut Context<'_>) -> Served {
        let start = current.len();
        // A part of a header, or what came right behind the HELLO. It fits: a current buffer has room for a read.
        let fits = current.extend(&cx.socket.unparsed);
        assert!(fits, "a current buffer has room for a read");
        cx.socket.unparsed.clear();
        let room = current.unfilled();
        let limit = room.len().min(limit);
        let end = match room.get_mut(..limit) {
            Some(room) if !room.is_empty() => cx.socket.read(room, &mut cx.scratch.wire, cx.ingress.now),
            _ => unreachable!("a current buffer has room for a read"),
        };
        if let ReadEnd::Bytes(bytes) = end {
            current.advance(bytes);
        }
        if current.len() == start {
            return after_read(cx.socket, end);
        }
        let consumed = self.parse(current, start, cx);
        match self.keep(current, start, consumed, cx) {
            Served::Again => after_read(cx.socket, end),
            other => other,
        }
    }

    /// Parses the frames from `start` on.
    fn parse(&mut self, source: &mut Buffer, start: usize, cx: &mut Context<'_>) -> Consumed {
        let mut ingress = cx.ingress.frames(&cx.peer.origin, cx.peer.access);
        let consumed = self.session.receive(source, start, &mut ingress, cx.out);
        let received = ingress.received;
        self.charge(received, cx);
        consumed
    }

    fn charge(&mut self, received: Received, cx: &mut Context<'_>) {
        if received == Received::default() {
            return;
        }
        if self.is_logged {
            let (agent, Received { amount, accepted }) = (&cx.peer.origin.agent, received);
            let (events, bytes) = (amount.events, amount.bytes);
            tracing::info!(agent, events, accepted, bytes, "frames received");
        }
        if let Some(client) = cx.peer.client {
            cx.ingress.counts.received_of(client, received.accepted);
        }
        if self.is_limited {
            if let Some(scope) = self.delayed_by.take() {
                cx.ingress.counts.limited(scope, received.amount.events);
            }
            self.session.charge(received.amount, &cx.ingress.policy.rates, cx.ingress.now);
        }
    }

    /// Keeps what parsing from `start` on left over.
    fn keep(&mut self, source: &mut Buffer, start: usize, consumed: Consumed, cx: &mut Context<'_>) -> Served {
        let at = start + consumed.bytes;
        let rest = source.filled().get(at..).unwrap_or_default();
        match consumed.end {
            End::All => return Served::Again,
            End::Bye => {
                self.leave_due(cx);
                return Served::Close(BYE);
            }
            End::Closed(code) => return Served::Close(code.name()),
            // Ours to keep: a HELLO is accepted once, and every frame that was read has its slots.
            End::Greeted(_) | End::LentTo(_) | End::Superseded | End::NoRoom => {
                unreachable!("parsing stops at the end of what was read, or closes")
            }
            End::Partial { total: None } => cx.socket.unparsed.extend_from_slice(rest),
            End::Partial { total: Some(total) } => {
                let Some(mut buffer) = cx.ingress.intake.take(total) else {
                    unreachable!("there is a spare buffer before every read");
                };
                let fits = buffer.extend(rest);
                debug_assert!(fits);
                self.partial = Some(PartialFrame { buffer, total });
            }
        }
        source.rewind(at);
        Served::Again
    }

    /// The agent's mark is deleted, but not what is due by it.
    fn leave_due(&self, cx: &Context<'_>) {
        if let Some(agent_id) = self.session.agent_id() {
            cx.ingress.policy.rates.remember(*agent_id, self.session.due(), cx.ingress.now);
        }
    }

    /// Not read for now, through no fault of the peer's: its timers stand, and it is sent the last ACK every second.
    fn hold(&mut self, now: Instant) -> Served {
        self.session.set_paused(true, now);
        Served::Hold
    }

    /// The same until there is ring or memory.
    fn wait(&mut self, now: Instant) -> Served {
        self.session.set_paused(true, now);
        Served::Wait
    }
}

/// Reads after the bytes that are not parsed yet.
fn read_unparsed(socket: &mut Socket, (room, wire): (&mut [u8], &mut [u8]), now: Instant) -> ReadEnd {
    let end = socket.read(room, wire, now);
    if let ReadEnd::Bytes(bytes) = end {
        socket.unparsed.extend_from_slice(room.get(..bytes).unwrap_or_default());
    }
    end
}
