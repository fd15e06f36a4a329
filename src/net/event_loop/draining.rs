//! The end: a signal asks for it, or the log has failed.

use std::time::Instant;

use signal_hook::consts::SIGHUP;

use super::{EventLoop, RELOAD_SIGNAL};
use crate::ids::ConnectionId;
use crate::limits::LINGER_DRAIN_TIMEOUT;
use crate::net::connection::{Connection, Phase};
use crate::net::protocols::Ending;
use crate::wire::GoawayCode;

impl EventLoop {
    /// Begins to drain, in the other loops as well, if a signal asks for it; or has the settings read again.
    pub(super) fn take_signals(&mut self) {
        let signals: Vec<_> = self.signals.iter_mut().flat_map(|signals| signals.pending()).collect();
        let shared = &self.ingress.shared;
        let reloads = |signal: &i32| *signal == RELOAD_SIGNAL || *signal == SIGHUP && shared.hangup_reloads;
        if signals.iter().any(reloads) {
            (shared.on_reload)();
        }
        if !signals.iter().all(reloads) && self.drain_until.is_none() {
            let connections = self.ingress.shared.loops.connections();
            tracing::info!(connections, "shutting down: draining connections");
            self.begin_drain();
            self.tell_others_to_drain();
        }
    }

    /// When the drain must be over; `None` before it began.
    pub fn drain_deadline(&self) -> Option<Instant> {
        self.drain_until
    }

    /// Whether the drain has begun.
    pub(super) fn draining(&self) -> bool {
        self.drain_until.is_some()
    }

    /// The log failed: nothing can be kept any more, so every agent goes elsewhere, and the process ends. What a socket
    /// does not take at once has [`LINGER_DRAIN_TIMEOUT`] to be sent.
    pub(super) fn tell_of_failure(&mut self) {
        self.failed_until = Some(self.ingress.now + LINGER_DRAIN_TIMEOUT);
        self.ingress.draining = true;
        (self.ingress.shared.on_end)();
        self.stop_listening();
        for id in self.connections.ids() {
            self.with_protocol(id, |protocol, cx| protocol.end(Ending::LogFailed, cx));
            self.hurry(id);
            self.settle(id, Some(GoawayCode::Storage.name()));
        }
    }

    /// R15: no more connections, no more reading; what was accepted is acknowledged, then every peer is notified.
    pub(super) fn begin_drain(&mut self) {
        self.drain_until = Some(self.ingress.now + self.drain_timeout);
        self.ingress.draining = true;
        (self.ingress.shared.on_end)();
        self.stop_listening();
        for id in self.connections.ids() {
            self.drain_one(id);
        }
    }

    /// When those that still wait for an acknowledgement are answered that it has not come, so that the answers arrive before the end:
    /// `LINGER_DRAIN_TIMEOUT`, or a tenth of all, before the drain must be over. `None`: it does not drain, or they were answered.
    pub(super) fn acknowledges_until(&self) -> Option<Instant> {
        let before = (self.drain_timeout / 10).min(LINGER_DRAIN_TIMEOUT);
        self.drain_until.filter(|_| self.out_of_time.is_none()).map(|until| until - before)
    }

    /// Once their time has passed, those that still wait for an acknowledgement are answered that it has not come.
    pub(super) fn end_acknowledging(&mut self) {
        if self.acknowledges_until().is_none_or(|until| self.ingress.now < until) {
            return;
        }
        let is_open = |connection: &Connection| connection.protocol().is_some();
        let open: Vec<_> = self.connections.iter().filter(|connection| is_open(connection)).map(|c| c.id).collect();
        self.out_of_time = Some(open.len());
        for id in open {
            let close = self.with_protocol(id, |protocol, cx| protocol.end(Ending::OutOfTime, cx)).flatten();
            self.settle(id, close);
        }
    }

    fn stop_listening(&mut self) {
        if let Some(mut listener) = self.listener.take() {
            let _ = self.poll.registry().deregister(listener.source());
        }
        if let Some(mut datagrams) = self.datagrams.take() {
            // What the kernel still has is lost, as what comes later.
            let _ = self.poll.registry().deregister(datagrams.source());
        }
    }

    /// Ends one connection, or leaves it until what it waits for has come.
    pub(super) fn drain_one(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        if matches!(connection.phase, Phase::Undecided) {
            return self.remove(id, "SHUTDOWN");
        }
        let close = self.with_protocol(id, |protocol, cx| protocol.end(Ending::Shutdown, cx)).flatten();
        self.hurry(id);
        self.settle(id, close);
    }

    /// Lingering connections have less time now.
    fn hurry(&mut self, id: ConnectionId) {
        if let Some(Phase::Lingering(linger)) = self.connections.get_mut(id).map(|connection| &mut connection.phase) {
            linger.drain(self.ingress.now);
        }
    }
}
