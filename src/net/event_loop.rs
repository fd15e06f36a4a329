//! The turn of the loop. Its order is a contract: read, wake the log thread, acknowledge, then time out (see [`super`]).

mod accept;
mod acknowledging;
mod bodies;
mod closing;
mod delaying;
mod draining;
mod messages;
mod reloading;
mod serving;
#[cfg(test)]
mod takeover_tests;
#[cfg(test)]
mod tests;
mod timing;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token, Waker};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook_mio::v1_0::Signals;

use crate::ids::ConnectionId;
use crate::limits::SILENT_SWEEP_INTERVAL;
use crate::net::busy::BusyMeter;
use crate::net::connection::{Connection, Phase};
use crate::net::connections::Connections;
use crate::net::datagrams::{BoundDatagrams, Datagrams};
use crate::net::ingress::Ingress;
use crate::net::listener::Listener;
use crate::net::loops::Message;
use crate::net::protocols::{Context, Protocol};
use crate::net::roster::Roster;
use crate::net::serve::Scratch;
use crate::net::timers::Timers;
use crate::time::Now;

/// Signals that ask for an orderly end. On a terminal SIGHUP too: one that is closed must not cost events.
pub const DRAIN_SIGNALS: [i32; 3] = [SIGTERM, SIGINT, SIGHUP];
/// Asks for a reload, as SIGHUP does where the server has no terminal: `telemetryx reload` sends it.
pub const RELOAD_SIGNAL: i32 = SIGUSR1;

const WAKER: Token = Token(usize::MAX);
const SIGNALS: Token = Token(usize::MAX - 1);
const LISTENER: Token = Token(usize::MAX - 2);
const DATAGRAMS: Token = Token(usize::MAX - 3);
/// Readiness events taken in one poll.
const EVENTS: usize = 1024;
/// Connections that the loop's lists and timers hold before they grow.
const LISTS: usize = 1024;

/// Why a loop had to stop: a system call failed (descriptors, memory, permissions).
#[derive(Debug, thiserror::Error)]
#[error("the event loop cannot continue: {doing}: {error}")]
pub struct LoopError {
    doing: &'static str,
    error: io::Error,
}

fn failed(doing: &'static str) -> impl FnOnce(io::Error) -> LoopError {
    move |error| LoopError { doing, error }
}

/// The poll and what wakes it; created first, because pool and ring need to wake the loop.
pub struct Parts {
    poll: Poll,
    waker: Arc<Waker>,
    /// From here on a signal waits for the loop.
    signals: Option<Signals>,
}

impl Parts {
    /// Poll, waker and signals for a single loop.
    ///
    /// # Errors
    /// The system has no descriptors left, or refuses the signal handlers.
    pub fn new() -> Result<Self, LoopError> {
        let mut parts = Self::without_signals()?;
        let all = DRAIN_SIGNALS.into_iter().chain([RELOAD_SIGNAL]);
        let mut signals = Signals::new(all).map_err(failed("listening for signals"))?;
        let registered = parts.poll.registry().register(&mut signals, SIGNALS, Interest::READABLE);
        registered.map_err(failed("registering signals"))?;
        parts.signals = Some(signals);
        Ok(parts)
    }

    /// One for each of `count` loops; the first one listens for signals.
    pub fn of_loops(count: usize) -> Result<Vec<Self>, LoopError> {
        (0..count.max(1)).map(|index| if index == 0 { Self::new() } else { Self::without_signals() }).collect()
    }

    fn without_signals() -> Result<Self, LoopError> {
        let poll = Poll::new().map_err(failed("creating the poll"))?;
        let waker = Waker::new(poll.registry(), WAKER).map_err(failed("creating the waker"))?;
        Ok(Self { poll, waker: Arc::new(waker), signals: None })
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
    /// Every connection was notified and closed.
    Drained,
    /// The drain timed out while connections were still open; they are cut.
    TimedOut {
        /// Connections that were open at that moment.
        connections: usize,
    },
    /// The log failed; every peer was notified.
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

/// One event loop with its connections.
pub struct EventLoop {
    poll: Poll,
    /// Of the first loop only.
    signals: Option<Signals>,
    listener: Option<Listener>,
    /// Of the first loop only.
    datagrams: Option<Datagrams>,
    connections: Connections,
    drain_timeout: Duration,
    drain_until: Option<Instant>,
    /// Connections that were open when the time for acknowledgements had passed; `None` before.
    out_of_time: Option<usize>,
    /// The log has failed: until then what peers still send is discarded, so that they receive the notice.
    failed_until: Option<Instant>,
    /// Ids of agents that are to be served in this or the next turn.
    ready: VecDeque<ConnectionId>,
    /// Ids of connections whose protocol is not known yet, or whose HELLO is not accepted yet; some are served in each turn. A first
    /// read is cheap, and an agent that connects must not wait until the pages of all others are written.
    ready_new: VecDeque<ConnectionId>,
    /// Ids of all others that are to be served, some in each turn.
    ready_others: VecDeque<ConnectionId>,
    /// Ids of connections that wait for memory, in order; each needs slots of the ring as well.
    waiting: VecDeque<ConnectionId>,
    /// Ids of connections that wait for slots of the ring only: their frames have their memory, and free it once they are parsed.
    waiting_for_ring: VecDeque<ConnectionId>,
    /// Ids of connections whose HTTP bodies are complete and wait for memory or slots to become events.
    finishing: VecDeque<ConnectionId>,
    /// A connection that waits can be served now: the next poll does not wait.
    serve_at_once: bool,
    /// Ids of connections that wait for a watermark.
    awaiting: Vec<ConnectionId>,
    /// Connections that have sent neither a valid HELLO nor a complete HTTP head.
    unknown: Roster,
    /// When silent ones among them were last looked for.
    silent_swept: Instant,
    /// Connections that are half-closed while the peer may still be sending.
    lingering: Roster,
    timers: Timers,
    busy: BusyMeter,
    /// When the timers of partial frames were last shortened.
    pressure_swept: Instant,
    ingress: Ingress,
    scratch: Scratch,
    out: Vec<u8>,
    /// Bytes that are not sent yet, over all connections.
    unsent_bytes: usize,
    /// What other loops have asked for; scratch.
    messages: Vec<Message>,
}

impl EventLoop {
    /// A loop that serves what `listener` accepts, and the connections that other loops hand over.
    ///
    /// # Errors
    /// The listener cannot be added to the poll.
    pub fn new(
        parts: Parts,
        listener: Option<std::net::TcpListener>,
        ingress: Ingress,
        drain_timeout: Duration,
    ) -> Result<Self, LoopError> {
        let mut listener = listener.map(Listener::new);
        if let Some(listener) = &mut listener {
            let registry = parts.poll.registry();
            let registered = registry.register(listener.source(), LISTENER, Interest::READABLE);
            registered.map_err(failed("registering the listening socket"))?;
        }
        Ok(Self {
            poll: parts.poll,
            signals: parts.signals,
            listener,
            datagrams: None,
            connections: Connections::new(ingress.event_loop),
            drain_timeout,
            drain_until: None,
            out_of_time: None,
            failed_until: None,
            ready: VecDeque::with_capacity(LISTS),
            ready_new: VecDeque::with_capacity(LISTS),
            ready_others: VecDeque::with_capacity(LISTS),
            waiting: VecDeque::with_capacity(LISTS),
            waiting_for_ring: VecDeque::with_capacity(LISTS),
            finishing: VecDeque::new(),
            serve_at_once: false,
            awaiting: Vec::with_capacity(LISTS),
            unknown: Roster::default(),
            silent_swept: ingress.now,
            lingering: Roster::default(),
            timers: Timers::with_capacity(LISTS),
            busy: BusyMeter::new(ingress.now),
            pressure_swept: ingress.now,
            ingress,
            scratch: Scratch::new(),
            out: Vec::with_capacity(4096),
            unsent_bytes: 0,
            messages: Vec::new(),
        })
    }

    /// Receives syslog over UDP as well.
    ///
    /// # Errors
    /// The socket cannot be added to the poll.
    pub fn receive_datagrams(&mut self, socket: BoundDatagrams) -> Result<(), LoopError> {
        let datagrams = self.datagrams.insert(Datagrams::new(socket));
        let registered = self.poll.registry().register(datagrams.source(), DATAGRAMS, Interest::READABLE);
        registered.map_err(failed("registering the socket for datagrams"))
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
        Ok(self.turn_with(events))
    }

    /// Does what is due, with what the poll has found.
    fn turn_with(&mut self, events: &Events) -> Option<Ended> {
        self.ingress.begin_turn(Now::read());
        self.busy.turn_begins(self.ingress.now, &self.ingress.state().busy);
        if let Some(listener) = &mut self.listener {
            listener.begin_turn(self.ingress.now);
        }
        for event in events {
            match event.token() {
                WAKER => {}
                SIGNALS => self.take_signals(),
                LISTENER => {
                    if let Some(listener) = &mut self.listener {
                        listener.set_ready();
                    }
                }
                DATAGRAMS => self.datagrams.iter_mut().for_each(Datagrams::set_ready),
                Token(key) => self.note(key, event),
            }
        }
        self.take_messages();
        self.accept();
        self.serve_delayed();
        if let Some(datagrams) = &mut self.datagrams {
            datagrams.receive(&mut self.scratch.read, &mut self.ingress);
        }
        self.serve_ready();
        self.serve_waiting();
        self.ingress.end_turn();
        self.acknowledge();
        if self.ingress.shared.health.failure().is_some() && self.failed_until.is_none() {
            self.tell_of_failure();
        }
        self.fire_timers();
        self.close_silent();
        self.end_acknowledging();
        self.ingress.counts.flush();
        self.busy.turn_ends(Instant::now(), &self.ingress.state().busy);
        self.ingress.state().turn_ended();
        self.ended()
    }

    fn ended(&self) -> Option<Ended> {
        if let Some(until) = self.failed_until {
            return (self.connections.is_empty() || self.ingress.now >= until).then_some(Ended::LogFailed);
        }
        let until = self.drain_until?;
        let is_over = self.connections.is_empty() || self.ingress.now >= until;
        let connections = self.out_of_time.unwrap_or(0).max(self.connections.len());
        is_over.then_some(if connections == 0 { Ended::Drained } else { Ended::TimedOut { connections } })
    }

    fn timeout(&self) -> Option<Duration> {
        let ready =
            !self.ready.is_empty() || !self.ready_new.is_empty() || !self.ready_others.is_empty() || self.serve_at_once;
        let accepts = self.listener.as_ref().is_some_and(Listener::is_ready);
        if ready || accepts || self.datagrams.as_ref().is_some_and(Datagrams::is_ready) {
            return Some(Duration::ZERO);
        }
        let paused = self.listener.as_ref().and_then(Listener::deadline);
        let sweep = self.has_too_many_unknown().then(|| self.silent_swept + SILENT_SWEEP_INTERVAL);
        let datagrams = self.datagrams.as_ref().and_then(Datagrams::deadline);
        let drain = self.acknowledges_until().or(self.drain_until);
        let ends = [drain, self.failed_until, self.ingress.delayed.next_at(), datagrams];
        let next =
            [self.timers.next(), paused, sweep, self.finish_retry_at()].into_iter().chain(ends).flatten().min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    /// Runs `call` with the protocol of an open connection and what it works with. `None`: it is not open.
    fn with_protocol<R>(
        &mut self,
        id: ConnectionId,
        call: impl FnOnce(&mut dyn Protocol, &mut Context<'_>) -> R,
    ) -> Option<R> {
        let Connection { phase: Phase::Open(protocol), socket, peer, span, .. } = self.connections.get_mut(id)? else {
            return None;
        };
        let _entered = span.enter();
        let (ingress, scratch, out) = (&mut self.ingress, &mut self.scratch, &mut self.out);
        Some(call(protocol.as_mut(), &mut Context { socket, peer, ingress, scratch, out }))
    }

    fn note(&mut self, key: usize, event: &mio::event::Event) {
        let Some(connection) = self.connections.at_key(key) else { return };
        let id = connection.id;
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            connection.socket.set_readable();
        }
        if event.is_read_closed() || event.is_error() {
            connection.socket.set_closed_by_peer();
        }
        // Both directions are closed: nobody waits for an answer. A peer that has only half-closed does.
        if event.is_error() || (event.is_read_closed() && event.is_write_closed()) {
            connection.is_reset = true;
            let is_held_back = connection.waiting || connection.is_delayed;
            if is_held_back && !connection.protocol().is_some_and(Protocol::reads_after_reset) {
                self.remove(id, "broken");
                return;
            }
        }
        let mut resumed = false;
        if event.is_writable() {
            let was_unflushed = !connection.socket.is_flushed();
            let flushed = connection.socket.flush(self.ingress.now);
            connection.socket.count_unsent(&mut self.unsent_bytes);
            // What was received before is taken where that is of use.
            if flushed.is_err() && !connection.protocol().is_some_and(Protocol::reads_after_reset) {
                self.remove(id, "broken");
                return;
            }
            // Unread answers no longer hold it back, nor what was read and not parsed because of them.
            resumed = was_unflushed && connection.socket.is_flushed();
        }
        let (readable, is_delayed) = (connection.socket.is_readable(), connection.is_delayed);
        if self.finish_closing(id) {
            return;
        }
        if readable && is_delayed {
            return self.read_while_delayed(id);
        }
        if readable || resumed {
            self.enqueue(id);
        }
        self.schedule(id);
    }
}
