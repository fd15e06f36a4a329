//! The turn of the loop. Its order is a contract: read, wake the log thread, acknowledge, then time out (see [`super`]).

mod bodies;
mod closing;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token, Waker};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;
use slab::Slab;

use self::closing::is_unauthenticated;
use crate::descriptors;
use crate::http::Room;
use crate::limits::{
    LINGER_DRAIN_TIMEOUT, OTHERS_TIME_PER_TURN, OUTBOXES_BYTES_MAX, SILENT_SWEEP_INTERVAL, STALLED_FRAME_TIMEOUT,
};
use crate::net::connection::{Connection, Held, Protocol};
use crate::net::door::Door;
use crate::net::listener::{Accepted, Listener};
use crate::net::log_limit::LogInterval;
use crate::net::roster::Roster;
use crate::net::serve::{BYE, Scratch, Served, serve};
use crate::net::timers::Timers;
use crate::session::marks::ConnectionId;
use crate::session::server::Step;
use crate::wire::{AckLevel, GoawayCode};

/// Signals that ask for an orderly end. SIGHUP too: a terminal that is closed must not cost events.
pub const DRAIN_SIGNALS: [i32; 3] = [SIGTERM, SIGINT, SIGHUP];

const WAKER: Token = Token(usize::MAX);
const SIGNALS: Token = Token(usize::MAX - 1);
const LISTENER: Token = Token(usize::MAX - 2);
/// Readiness events taken in one poll.
const EVENTS: usize = 1024;
/// Connections that the loop's lists and timers hold before they grow.
const LISTS: usize = 1024;
/// The soonest that a timer is looked at again.
const TIMER_STEP: Duration = Duration::from_millis(1);
/// A peer's timer that is over while its bytes wait to be read is looked at again after this.
const TIMER_RECHECK: Duration = Duration::from_millis(20);

/// What ends the loop against its will. The system is at fault: descriptors, memory, permissions.
#[derive(Debug, thiserror::Error)]
#[error("the event loop cannot go on: {doing}: {error}")]
pub struct LoopError {
    doing: &'static str,
    error: io::Error,
}

fn failed(doing: &'static str) -> impl FnOnce(io::Error) -> LoopError {
    move |error| LoopError { doing, error }
}

/// The poll and what wakes it; made first, because pool and ring need to wake the loop.
pub struct Parts {
    poll: Poll,
    waker: Arc<Waker>,
    /// From here on a signal waits for the loop.
    signals: Signals,
}

impl Parts {
    pub fn new() -> Result<Self, LoopError> {
        Self::with_signals(&DRAIN_SIGNALS)
    }

    fn with_signals(signals: &[i32]) -> Result<Self, LoopError> {
        let poll = Poll::new().map_err(failed("creating the poll"))?;
        let waker = Waker::new(poll.registry(), WAKER).map_err(failed("creating the waker"))?;
        let mut signals = Signals::new(signals).map_err(failed("listening for signals"))?;
        poll.registry().register(&mut signals, SIGNALS, Interest::READABLE).map_err(failed("registering signals"))?;
        Ok(Self { poll, waker: Arc::new(waker), signals })
    }

    /// Wakes the loop from any thread.
    pub fn wake(&self) -> impl Fn() + Send + Sync + Clone + 'static {
        let waker = self.waker.clone();
        move || {
            // It fails only when the loop's descriptor is gone, and then there is nobody to wake.
            let _ = waker.wake();
        }
    }
}

/// How the loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Every connection was told and closed.
    Drained,
    /// The drain timeout was over first; the number of connections cut.
    TimedOut { connections: usize },
    /// The log failed; everybody was told.
    LogFailed,
}

/// How many connections of which kind may be open.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// Connections that may linger (R15) beside all others: what the limit of open files leaves.
    pub lingering: usize,
    /// Of all kinds; those beyond it are refused.
    pub max_connections: usize,
    /// Silent ones that have shown neither a valid HELLO nor a whole HTTP head; beyond it the oldest are closed.
    pub max_unauthenticated: usize,
}

pub struct EventLoop {
    poll: Poll,
    signals: Signals,
    listener: Option<Listener>,
    connections: Slab<Connection>,
    next_generation: u32,
    limits: ConnectionLimits,
    accept_warnings: LogInterval,
    drain_timeout: Duration,
    drain_until: Option<Instant>,
    /// The log has failed: until then what peers still send is discarded, so that they hear of it.
    failed_until: Option<Instant>,
    /// Agents to be served in this or the next turn.
    ready: VecDeque<ConnectionId>,
    /// Those that have not shown yet what they speak, or whose HELLO is not accepted yet; some in each turn. A first read
    /// is cheap, and an agent that connects must not wait until the pages of all others are written.
    ready_new: VecDeque<ConnectionId>,
    /// All others to be served, some in each turn.
    ready_others: VecDeque<ConnectionId>,
    /// In line for memory, in order; each needs slots of the ring as well.
    waiting: VecDeque<ConnectionId>,
    /// In line for slots of the ring only: their frames have their memory, and free it once they are parsed.
    waiting_for_ring: VecDeque<ConnectionId>,
    /// HTTP bodies that are whole, in line for memory or ring to become events.
    finishing: VecDeque<ConnectionId>,
    /// Somebody in line can be served now.
    serve_at_once: bool,
    /// Wait for a watermark.
    awaiting: Vec<ConnectionId>,
    /// Have shown neither a valid HELLO nor a whole HTTP head.
    unauthenticated: Roster,
    /// When silent ones among them were last looked for.
    silent_swept: Instant,
    silent_log: LogInterval,
    /// For connections that are closed without an answer.
    overflow_log: LogInterval,
    /// Half-closed, while the peer may still be sending.
    lingering: Roster,
    timers: Timers,
    /// When the timers of partial frames were last shortened.
    pressure_swept: Instant,
    door: Door,
    scratch: Scratch,
    out: Vec<u8>,
    /// Said and not yet written, over all connections.
    unwritten_bytes: usize,
}

impl EventLoop {
    pub fn new(
        parts: Parts,
        listener: std::net::TcpListener,
        door: Door,
        limits: ConnectionLimits,
        drain_timeout: Duration,
    ) -> Result<Self, LoopError> {
        let mut listener = Listener::new(listener);
        let registry = parts.poll.registry();
        registry
            .register(listener.source(), LISTENER, Interest::READABLE)
            .map_err(failed("registering the listening socket"))?;
        Ok(Self {
            poll: parts.poll,
            signals: parts.signals,
            listener: Some(listener),
            connections: Slab::new(),
            next_generation: 0,
            limits,
            accept_warnings: LogInterval::default(),
            drain_timeout,
            drain_until: None,
            failed_until: None,
            ready: VecDeque::with_capacity(LISTS),
            ready_new: VecDeque::with_capacity(LISTS),
            ready_others: VecDeque::with_capacity(LISTS),
            waiting: VecDeque::with_capacity(LISTS),
            waiting_for_ring: VecDeque::with_capacity(LISTS),
            finishing: VecDeque::new(),
            serve_at_once: false,
            awaiting: Vec::with_capacity(LISTS),
            unauthenticated: Roster::default(),
            silent_swept: door.now,
            silent_log: LogInterval::default(),
            overflow_log: LogInterval::default(),
            lingering: Roster::default(),
            timers: Timers::with_capacity(LISTS),
            pressure_swept: door.now,
            door,
            scratch: Scratch::new(),
            out: Vec::with_capacity(4096),
            unwritten_bytes: 0,
        })
    }

    /// Serves until a signal asks for the end and the connections are drained.
    pub fn run(&mut self) -> Result<Ended, LoopError> {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            if let Some(ended) = self.turn(&mut events)? {
                return Ok(ended);
            }
        }
    }

    /// Waits for what is due next, and does it. `Some`: the loop has ended.
    fn turn(&mut self, events: &mut Events) -> Result<Option<Ended>, LoopError> {
        let timeout = self.timeout();
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => other.map_err(failed("polling"))?,
        }
        self.door.begin_turn();
        if let Some(listener) = &mut self.listener {
            listener.begin_turn(self.door.now);
        }
        for event in &*events {
            match event.token() {
                WAKER => {}
                SIGNALS => self.take_signals(),
                LISTENER => {
                    if let Some(listener) = &mut self.listener {
                        listener.set_ready();
                    }
                }
                Token(key) => self.note(key, event),
            }
        }
        self.accept();
        self.serve_ready();
        self.serve_waiting();
        self.door.end_turn();
        self.acknowledge();
        if self.door.health.failure().is_some() && self.failed_until.is_none() {
            self.tell_of_failure();
        }
        self.fire_timers();
        self.close_silent();
        Ok(self.ended())
    }

    fn ended(&self) -> Option<Ended> {
        if let Some(until) = self.failed_until {
            return (self.connections.is_empty() || self.door.now >= until).then_some(Ended::LogFailed);
        }
        let until = self.drain_until?;
        if self.connections.is_empty() {
            return Some(Ended::Drained);
        }
        (self.door.now >= until).then(|| Ended::TimedOut { connections: self.connections.len() })
    }

    fn timeout(&self) -> Option<Duration> {
        let ready =
            !self.ready.is_empty() || !self.ready_new.is_empty() || !self.ready_others.is_empty() || self.serve_at_once;
        if ready || self.listener.as_ref().is_some_and(Listener::is_ready) {
            return Some(Duration::ZERO);
        }
        let paused = self.listener.as_ref().and_then(Listener::deadline);
        let sweep = (self.unauthenticated.len() > self.limits.max_unauthenticated)
            .then(|| self.silent_swept + SILENT_SWEEP_INTERVAL);
        let ends = [self.drain_until, self.failed_until];
        let next =
            [self.timers.next(), paused, sweep, self.finish_retry_at()].into_iter().chain(ends).flatten().min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    // ---- connections ----

    fn key(id: ConnectionId) -> usize {
        (id & u64::from(u32::MAX)) as usize
    }

    fn get(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.connections.get_mut(Self::key(id)).filter(|connection| connection.id == id)
    }

    fn note(&mut self, key: usize, event: &mio::event::Event) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let id = connection.id;
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            connection.readable = true;
        }
        // Both directions are closed: nobody waits for an answer. A peer that has only half-closed does.
        if event.is_error() || (event.is_read_closed() && event.is_write_closed()) {
            connection.is_reset = true;
            if connection.waiting {
                self.remove(id, "broken");
                return;
            }
        }
        let mut resumed = false;
        if event.is_writable() {
            let was_unflushed = !connection.is_flushed();
            let before = connection.unwritten();
            let flushed = connection.flush(self.door.now);
            self.unwritten_bytes -= before - connection.unwritten();
            if flushed.is_err() {
                self.remove(id, "broken");
                return;
            }
            // Unread answers no longer hold it back, nor what was read and not parsed because of them.
            resumed = was_unflushed && connection.is_flushed();
        }
        let readable = connection.readable;
        if self.finish_closing(id) {
            return;
        }
        if readable || resumed {
            self.enqueue(id);
        }
        self.schedule(id);
    }

    fn enqueue(&mut self, id: ConnectionId) {
        let now = self.door.now;
        if let Some(connection) = self.get(id)
            && !connection.queued
            && !connection.waiting
        {
            connection.queued = true;
            if let Protocol::Http(machine) = &mut connection.protocol {
                machine.set_paused(true, now);
            }
            // An agent that was disconnected is not served before others: what it still sends is discarded.
            if connection.origin.agent_id.is_some() && !connection.is_closing() {
                self.ready.push_back(id);
            } else if matches!(connection.protocol, Protocol::Undecided | Protocol::Frames(_)) {
                self.ready_new.push_back(id);
            } else {
                self.ready_others.push_back(id);
            }
        }
    }

    fn accept(&mut self) {
        let now = self.door.now;
        while let Some(listener) = &mut self.listener {
            match listener.accept(now) {
                Accepted::Nothing => return,
                Accepted::Paused(error) => return self.accept_paused(&error),
                Accepted::Connection(stream, peer) => self.admit(stream, peer),
            }
        }
    }

    /// Out of descriptors or kernel memory: one line at once, then one per 10 s, however often the pause is renewed.
    fn accept_paused(&mut self, error: &io::Error) {
        let (now, connections) = (self.door.now, self.connections.len());
        self.door.metrics.accept_pauses.inc();
        let lacks_descriptors = descriptors::are_exhausted_by(error);
        if lacks_descriptors {
            self.door.descriptors_exhausted = Some(now);
        }
        let Some(pauses) = self.accept_warnings.allows(1, now) else { return };
        if lacks_descriptors {
            tracing::warn!(
                %error,
                connections,
                pauses,
                "paused accepting: out of file descriptors; raise the limit of open files (LimitNOFILE=, ulimit -Hn), or \
                 lower server.max_connections"
            );
        } else {
            tracing::warn!(%error, connections, pauses, "paused accepting: out of kernel memory");
        }
    }

    fn admit(&mut self, mut stream: mio::net::TcpStream, peer: std::net::SocketAddr) {
        // Those that linger take no place from a newcomer.
        let overloaded = self.connections.len() - self.lingering.len() >= self.limits.max_connections;
        if overloaded {
            self.door.metrics.connections_refused.inc();
        }
        let overloaded_max = descriptors::overloaded_beside(self.limits.max_connections);
        let most = self.limits.max_connections + overloaded_max + self.limits.lingering;
        if self.connections.len() >= most && !self.cut_oldest_lingering() {
            if let Some(connections) = self.overflow_log.allows(1, self.door.now) {
                let max_connections = self.limits.max_connections;
                tracing::warn!(connections, %peer, max_connections, "too many connections, closed new ones without an answer");
            }
            return;
        }
        // Answers are written whole, once a turn: waiting for more to send only delays them.
        let _ = stream.set_nodelay(true);
        let entry = self.connections.vacant_entry();
        let key = entry.key();
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.poll.registry().register(&mut stream, Token(key), interest) {
            if self.scratch.log.allows(self.door.now) {
                tracing::warn!(%error, %peer, "a connection could not be registered and is closed");
            }
            return;
        }
        self.next_generation = self.next_generation.wrapping_add(1);
        let id = u64::from(self.next_generation) << 32 | key as u64;
        entry.insert(Connection::new(id, stream, peer, overloaded, self.door.now));
        self.door.metrics.connections.inc();
        tracing::debug!(connection = id, %peer, "connected");
        let connections = &self.connections;
        self.unauthenticated.enter(id, |id| is_unauthenticated(connections, id));
        self.enqueue(id);
        self.schedule(id);
    }

    fn remove(&mut self, id: ConnectionId, reason: &'static str) {
        if self.get(id).is_none() {
            return;
        }
        let mut connection = self.connections.remove(Self::key(id));
        // Closing the descriptor takes it out of the poll as well.
        let _ = self.poll.registry().deregister(&mut connection.stream);
        if connection.unauthenticated {
            self.unauthenticated.leave();
        }
        if let Protocol::Lingering(linger) = &connection.protocol {
            self.lingering.leave();
            if !connection.end_of_stream
                && let Some(reason) = linger.cut(self.door.now)
            {
                self.door.metrics.connection_cut(reason);
            }
        }
        let reason = connection.close_reason.unwrap_or(reason);
        if let Some(agent_id) = connection.origin.agent_id {
            self.door.marks.disconnect(&agent_id, id, self.door.now);
            if self.scratch.log.allows(self.door.now) {
                tracing::info!(connection = id, agent = connection.origin.agent, reason, "agent disconnected");
            }
        } else {
            tracing::debug!(connection = id, peer = %connection.peer, reason, "disconnected");
        }
        self.scratch.small_bytes = self.scratch.small_bytes.saturating_sub(connection.small.len());
        self.unwritten_bytes -= connection.unwritten();
        self.door.metrics.connections.dec();
        self.door.metrics.connection_closed(reason);
    }

    fn schedule(&mut self, id: ConnectionId) {
        let pressure = self.door.starved_since.is_some();
        if let Some(connection) = self.connections.get_mut(Self::key(id)).filter(|connection| connection.id == id) {
            // Never now: whatever a timer has to do, it is done once a turn.
            let deadline = connection.deadline(pressure).map(|deadline| deadline.max(self.door.now + TIMER_STEP));
            self.timers.schedule(id, deadline, &mut connection.scheduled);
        }
    }

    /// Sends what was said, begins or goes on to close where that is due, and sets the timer.
    fn settle(&mut self, id: ConnectionId, close: Option<&'static str>) {
        let now = self.door.now;
        let out = std::mem::take(&mut self.out);
        let mut gone = None;
        let unwritten_bytes = self.unwritten_bytes;
        if let Some(connection) = self.get(id) {
            let (before, small_before) = (connection.unwritten(), connection.small.len());
            if !out.is_empty() && connection.send(&out, now).is_err() {
                gone = Some("broken");
            }
            let added = connection.unwritten() - before;
            if added > 0 && unwritten_bytes + added > OUTBOXES_BYTES_MAX {
                gone = Some("outboxes_over_budget");
            }
            let mut left = false;
            if let Some(reason) = close {
                connection.close(reason);
                // It needs neither memory nor ring any more: what it still sends is read and discarded.
                connection.waiting = false;
                // Whatever it was, it is answered: it takes no place of those that are silent.
                left = std::mem::take(&mut connection.unauthenticated);
            }
            let dropped = small_before - connection.small.len();
            self.unwritten_bytes += added;
            self.scratch.small_bytes -= dropped;
            if left {
                self.unauthenticated.leave();
            }
        }
        self.out = out;
        self.out.clear();
        match gone {
            Some(reason) => self.remove(id, reason),
            None => {
                if self.finish_closing(id) {
                    return;
                }
                if close.is_some() {
                    // What the peer still sends is discarded.
                    self.enqueue(id);
                }
                self.schedule(id);
            }
        }
    }

    // ---- serving ----

    fn serve_ready(&mut self) {
        self.serve_at_once = false;
        for _ in 0..self.ready.len() {
            let Some(id) = self.ready.pop_front() else { break };
            self.serve_one(id);
        }
        self.serve_some(self.ready_new.len(), |event_loop| event_loop.ready_new.pop_front());
        self.serve_some(self.ready_others.len(), |event_loop| event_loop.ready_others.pop_front());
    }

    /// Serves up to `count` connections within their share of the turn, at least one.
    fn serve_some(&mut self, count: usize, next: impl Fn(&mut Self) -> Option<ConnectionId>) {
        let until = Instant::now() + OTHERS_TIME_PER_TURN;
        for _ in 0..count {
            let Some(id) = next(self) else { break };
            self.serve_one(id);
            if Instant::now() >= until {
                break;
            }
        }
    }

    /// Those in line, in order: those whose memory is reserved while there is ring, the others while there is memory too.
    /// Where there is not, whoever frees some wakes the loop.
    fn serve_waiting(&mut self) {
        let more_bodies = self.finish_bodies(Instant::now() + OTHERS_TIME_PER_TURN);
        // Each at most once: one that lines up again has to wait for what others free.
        for _ in 0..self.waiting_for_ring.len() {
            if !self.door.has_slots() {
                break;
            }
            self.serve_next_of(|event_loop| event_loop.waiting_for_ring.pop_front());
        }
        for _ in 0..self.waiting.len() {
            if !self.can_serve_next_waiting() {
                break;
            }
            self.serve_next_of(|event_loop| event_loop.waiting.pop_front());
        }
        if self.waiting.is_empty() && self.waiting_for_ring.is_empty() {
            self.door.starved_since = None;
            self.serve_at_once = more_bodies;
            return;
        }
        if self.door.now >= self.pressure_swept + STALLED_FRAME_TIMEOUT / 2 {
            self.press_partial();
        }
        // Armed first, then looked once more: nothing that is freed meanwhile goes unnoticed.
        self.door.ring.wait_for_room();
        self.door.intake.wait_for_room();
        let ring = self.door.has_slots() && !self.waiting_for_ring.is_empty();
        self.serve_at_once = more_bodies || ring || self.can_serve_next_waiting();
    }

    /// Whether the first of those that wait for memory can be read now. What it has sent already, with its HELLO, needs slots
    /// too: without this, it would be served again and again while the log is paused, and lines up again each time.
    fn can_serve_next_waiting(&mut self) -> bool {
        let Some(first) = self.waiting.front() else { return false };
        let kept = self.connections.get(Self::key(*first)).filter(|connection| connection.id == *first);
        let kept_bytes = kept.map_or(0, Connection::kept_frame_bytes);
        self.door.has_slots() && self.door.bytes_within_slots() > kept_bytes && self.door.intake.prepare()
    }

    fn serve_next_of(&mut self, next: impl FnOnce(&mut Self) -> Option<ConnectionId>) {
        let Some(id) = next(self) else { return };
        if let Some(connection) = self.get(id) {
            connection.waiting = false;
            self.serve_one(id);
        }
        // Slots in the ring are of use to nobody but an awake log thread.
        self.door.ring.flush();
    }

    /// While others wait for memory, a frame or body that stands still has less time (R11): timers set before are too
    /// late.
    fn press_partial(&mut self) {
        let now = self.door.now;
        self.pressure_swept = now;
        for (_, connection) in &mut self.connections {
            if matches!(connection.held, Held::Frame { .. }) {
                let deadline = connection.deadline(true);
                self.timers.schedule(connection.id, deadline, &mut connection.scheduled);
            }
        }
        self.press_bodies();
    }

    fn serve_one(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(Self::key(id)).filter(|connection| connection.id == id) else {
            return;
        };
        connection.queued = false;
        let was_unauthenticated = connection.unauthenticated;
        let mut served = serve(connection, &mut self.door, &mut self.scratch, &mut self.out);
        if served == Served::NeedsRoom {
            served = self.make_room(id);
        }
        let Some(connection) = self.connections.get_mut(Self::key(id)) else { return };
        if let Some(session) = connection.session()
            && session.is_authenticated()
        {
            connection.unauthenticated = false;
        }
        if was_unauthenticated && !connection.unauthenticated {
            self.unauthenticated.leave();
        }
        let waits = match &connection.protocol {
            Protocol::Frames(session) => session.is_waiting(),
            Protocol::Http(machine) => machine.waiting_for().is_some(),
            _ => false,
        };
        if waits && !connection.awaiting {
            connection.awaiting = true;
            self.awaiting.push(id);
        }
        let close = match served {
            Served::Close(reason) => Some(reason),
            // Closed once what it sent is acknowledged and written; see `acknowledge`.
            Served::End if !waits => Some("end"),
            _ => None,
        };
        if let Served::Close(reason) = served
            && reason != BYE
            && matches!(connection.protocol, Protocol::Frames(_))
            && self.scratch.log.allows(self.door.now)
        {
            let agent = &connection.origin.agent;
            tracing::warn!(connection = id, peer = %connection.peer, agent, reason, "agent sent away");
        }
        if let Served::Gone(reason) = served {
            self.out.clear();
            self.remove(id, reason);
            return;
        }
        self.settle(id, close);
        match served {
            Served::Again => self.enqueue(id),
            Served::Wait => self.line_up(id),
            // Held for its answers, and they are all written: no event of the poll will say so.
            Served::Hold if !waits && self.get(id).is_some_and(|connection| connection.is_flushed()) => {
                self.enqueue(id)
            }
            _ => {}
        }
        while let Some(older) = self.scratch.replaced.pop() {
            // It gets no word: an agent that is alive on both would only come back and push the newer one out.
            self.remove(older, "replaced");
        }
    }

    fn line_up(&mut self, id: ConnectionId) {
        if self.door.starved_since.is_none() {
            self.door.starved_since = Some(self.door.now);
            self.door.metrics.read_pauses.inc();
        }
        let Some(connection) = self.get(id).filter(|connection| !connection.waiting) else { return };
        connection.waiting = true;
        if matches!(connection.held, Held::Frame { .. }) {
            self.waiting_for_ring.push_back(id);
        } else {
            self.waiting.push_back(id);
        }
    }

    // ---- acknowledging ----

    fn acknowledge(&mut self) {
        self.door.look_at_sinks();
        let mut awaiting = std::mem::take(&mut self.awaiting);
        awaiting.retain(|id| self.acknowledge_one(*id));
        self.awaiting = awaiting;
    }

    /// Answers what the watermarks cover. `true`: something still waits.
    fn acknowledge_one(&mut self, id: ConnectionId) -> bool {
        let Some(connection) = self.connections.get_mut(Self::key(id)).filter(|connection| connection.id == id) else {
            return false;
        };
        let Connection { protocol, loopback, overloaded, origin, .. } = connection;
        let (out, door) = (&mut self.out, &mut self.door);
        let waits = match protocol {
            Protocol::Frames(session) => {
                let watermark = door.watermarks.get(session.level());
                let settled = door.watermarks.get(door.settings.settled_level());
                let delivered = door.watermarks.get(AckLevel::Delivered);
                let metrics = door.metrics.clone();
                door.turn(*loopback, |turn| {
                    session.settled(settled, delivered, turn, out);
                    session.acknowledge(watermark, turn, out, |age| metrics.ack_seconds.observe(age.as_secs_f64()));
                });
                session.is_waiting()
            }
            Protocol::Http(machine) => match machine.waiting_for() {
                Some((level, ticket)) if door.watermarks.get(level) >= ticket => {
                    let now = door.now;
                    door.metrics.ack_seconds.observe(now.saturating_duration_since(connection.heard).as_secs_f64());
                    machine.acknowledged(now, &mut door.http(origin, *loopback, *overloaded), out);
                    false
                }
                waiting => waiting.is_some(),
            },
            _ => false,
        };
        connection.awaiting = waits;
        if waits {
            if !self.out.is_empty() {
                // The window has moved on.
                let readable = connection.readable;
                self.settle(id, None);
                if readable && !self.draining() {
                    self.enqueue(id);
                }
            }
            return true;
        }
        let close = match &connection.protocol {
            Protocol::Http(machine) if machine.closing() => Some("http"),
            _ if connection.end_of_stream => Some("end"),
            _ => None,
        };
        let more = connection.readable || !connection.small.is_empty();
        self.settle(id, close);
        if close.is_none() && self.draining() {
            self.drain_one(id);
        } else if more {
            self.enqueue(id);
        }
        false
    }

    // ---- timers ----

    fn fire_timers(&mut self) {
        let now = self.door.now;
        while let Some((at, id)) = self.timers.due(now) {
            let pressure = self.door.starved_since.is_some();
            let Some(connection) = self.get(id).filter(|connection| connection.scheduled == Some(at)) else { continue };
            connection.scheduled = None;
            let deadline = connection.deadline(pressure);
            if deadline.is_none_or(|deadline| deadline > now) {
                self.schedule(id);
            } else if connection.is_write_timed_out(now) {
                self.remove(id, "write_timeout");
            } else if connection.queued {
                // A timer on a peer fires only after a read that found nothing (R11), and this one's read is due.
                let mut scheduled = None;
                self.timers.schedule(id, Some(now + TIMER_RECHECK), &mut scheduled);
                if let Some(connection) = self.get(id) {
                    connection.scheduled = scheduled;
                }
            } else {
                self.time_out(id, pressure);
            }
        }
    }

    fn time_out(&mut self, id: ConnectionId, pressure: bool) {
        let Some(connection) = self.connections.get_mut(Self::key(id)).filter(|connection| connection.id == id) else {
            return;
        };
        let flushed = connection.is_flushed();
        let Connection { protocol, loopback, overloaded, origin, .. } = connection;
        let (out, door) = (&mut self.out, &mut self.door);
        let mut has_finished = false;
        let close = match protocol {
            Protocol::Undecided => {
                self.remove(id, "silent");
                return;
            }
            Protocol::Frames(session) => {
                let step = door.turn(*loopback, |turn| session.handle_timeout(pressure, turn, out));
                if !flushed && !matches!(step, Step::Close(_)) {
                    // A repeated ACK tells nothing to a peer that has not read the last one.
                    out.clear();
                }
                if let Step::Close(code) = step { Some(code.name()) } else { None }
            }
            Protocol::Http(machine) => {
                let now = door.now;
                let is_in_line = machine.lacks_room() == Some(Room::Finish);
                machine.handle_timeout(now, &mut door.http(origin, *loopback, *overloaded), out);
                has_finished = is_in_line && !machine.closing();
                machine.closing().then_some("http_timeout")
            }
            Protocol::Closing => None,
            Protocol::Lingering(_) => {
                self.remove(id, "closed");
                return;
            }
        };
        let more = connection.readable || !connection.small.is_empty() || has_finished;
        if has_finished {
            self.leave_finishing(id);
        }
        self.settle(id, close);
        if more && close.is_none() {
            // Requests after one that was answered 504, here or still in the socket.
            self.enqueue(id);
        }
    }

    // ---- the end ----

    fn take_signals(&mut self) {
        let signals: Vec<_> = self.signals.pending().collect();
        if !signals.is_empty() && self.drain_until.is_none() {
            self.begin_drain();
        }
    }

    /// When the drain must be over; `None` before it began.
    pub fn drain_deadline(&self) -> Option<Instant> {
        self.drain_until
    }

    fn draining(&self) -> bool {
        self.drain_until.is_some()
    }

    /// The log failed: nothing can be kept any more, so every agent goes elsewhere, and the process ends. What a socket
    /// does not take at once has [`LINGER_DRAIN_TIMEOUT`] to be written.
    fn tell_of_failure(&mut self) {
        self.failed_until = Some(self.door.now + LINGER_DRAIN_TIMEOUT);
        self.door.draining = true;
        self.stop_listening();
        let ids: Vec<_> = self.connections.iter().map(|(_, connection)| connection.id).collect();
        for id in ids {
            let (random, now) = (self.door.random.next_u64(), self.door.now);
            let Some(connection) = self.connections.get_mut(Self::key(id)).filter(|connection| connection.id == id)
            else {
                continue;
            };
            let Connection { protocol, loopback, overloaded, origin, .. } = connection;
            let (mut http, out) = (self.door.http(origin, *loopback, *overloaded), &mut self.out);
            match protocol {
                Protocol::Frames(session) => {
                    let text = "this server cannot write its log any more";
                    session.end(GoawayCode::Storage, text, random, out);
                }
                Protocol::Http(machine) => {
                    machine.log_failed(now, &mut http, out);
                    machine.drain(now, &mut http, out);
                }
                Protocol::Lingering(linger) => linger.drain(now),
                Protocol::Undecided | Protocol::Closing => {}
            }
            self.settle(id, Some(GoawayCode::Storage.name()));
        }
    }

    /// R15: no more connections, no more reading; what was taken is acknowledged, then everybody is told.
    fn begin_drain(&mut self) {
        tracing::info!(connections = self.connections.len(), "shutting down: draining connections");
        self.drain_until = Some(self.door.now + self.drain_timeout);
        self.door.draining = true;
        self.stop_listening();
        let ids: Vec<_> = self.connections.iter().map(|(_, connection)| connection.id).collect();
        for id in ids {
            self.drain_one(id);
        }
    }

    fn stop_listening(&mut self) {
        if let Some(mut listener) = self.listener.take() {
            let _ = self.poll.registry().deregister(listener.source());
        }
    }

    /// Ends one connection, or leaves it until what it waits for has come.
    fn drain_one(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(Self::key(id)).filter(|connection| connection.id == id) else {
            return;
        };
        let close = match &mut connection.protocol {
            Protocol::Undecided => {
                self.remove(id, "SHUTDOWN");
                return;
            }
            Protocol::Frames(session) if session.is_waiting() => None,
            Protocol::Frames(session) => {
                let random = self.door.random.next_u64();
                session.end(GoawayCode::Shutdown, "this server is shutting down", random, &mut self.out);
                Some(GoawayCode::Shutdown.name())
            }
            Protocol::Http(machine) => {
                let Connection { loopback, overloaded, origin, .. } = connection;
                let (now, door) = (self.door.now, &mut self.door);
                machine.drain(now, &mut door.http(origin, *loopback, *overloaded), &mut self.out);
                machine.closing().then_some("SHUTDOWN")
            }
            Protocol::Closing => None,
            Protocol::Lingering(linger) => {
                linger.drain(self.door.now);
                None
            }
        };
        self.settle(id, close);
    }
}
