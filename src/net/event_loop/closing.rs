//! How connections end: sent to, half-closed, dropped; those whose peers still send (R15), and silent ones of which there are too many
//! (R12).

use super::EventLoop;
use crate::ids::ConnectionId;
use crate::limits::{LINGERING_MAX, OUTBOXES_BYTES_MAX, SILENT_SWEEP_INTERVAL};
use crate::net::connection::{Connection, Phase};
use crate::net::connections::Connections;
use crate::net::socket::KeptBytes;

impl EventLoop {
    /// Sends what is in `out`, begins or continues to close where that is due, and sets the timer.
    pub(super) fn settle(&mut self, id: ConnectionId, close: Option<&'static str>) {
        let now = self.ingress.now;
        let out = std::mem::take(&mut self.out);
        let mut gone = None;
        let outboxes_max = self.ingress.shared.part_of(OUTBOXES_BYTES_MAX);
        if let Some(connection) = self.connections.get_mut(id) {
            let socket = &mut connection.socket;
            if !out.is_empty() && socket.send(&out, now).is_err() {
                gone = Some("broken");
            }
            // Also what TLS had to send because of what was read.
            let unsent_before = self.unsent_bytes;
            socket.count_unsent(&mut self.unsent_bytes);
            if self.unsent_bytes > unsent_before && self.unsent_bytes > outboxes_max {
                gone = Some("outboxes_over_budget");
            }
            let (mut left, mut was_delayed) = (false, false);
            if let Some(reason) = close {
                connection.close(reason, &mut self.ingress);
                // It needs neither memory nor ring any more: what it still sends is read and discarded.
                connection.waiting = false;
                was_delayed = std::mem::take(&mut connection.is_delayed);
                // Whatever it was, it is answered: it takes no place of those that are silent.
                left = !std::mem::replace(&mut connection.peer.is_known, true);
            }
            let is_agent = connection.peer.origin.agent_id.is_some();
            connection.socket.count_kept(is_agent, &mut self.scratch.kept);
            if left {
                self.known();
            }
            if was_delayed {
                self.leave_delayed();
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

    /// Drops a connection. `reason` stands where none was given before.
    pub(super) fn remove(&mut self, id: ConnectionId, reason: &'static str) {
        let Some(mut connection) = self.connections.remove(id) else { return };
        connection.socket.transport().deregister(self.poll.registry());
        if !connection.peer.is_known {
            self.known();
        }
        if let Phase::Lingering(linger) = &connection.phase {
            self.lingering.leave();
            self.ingress.shared.loops.lingers_no_longer();
            if !connection.socket.is_at_end()
                && let Some(reason) = linger.cut(self.ingress.now)
            {
                self.ingress.shared.metrics.connection_cut(reason);
            }
        }
        self.scratch.kept.replace(connection.socket.counted_kept(), KeptBytes::default());
        self.unsent_bytes = self.unsent_bytes.saturating_sub(connection.socket.counted_unsent());
        if connection.is_delayed {
            self.leave_delayed();
        }
        let reason = connection.close(reason, &mut self.ingress);
        connection.log_end(reason, &self.ingress.policy, self.ingress.now);
        self.ingress.shared.loops.left(self.ingress.event_loop);
        self.ingress.shared.metrics.connections.dec();
        self.ingress.shared.metrics.connection_closed(reason);
    }

    /// A connection has shown what it is, or is gone.
    pub(super) fn known(&mut self) {
        self.unknown.leave();
        self.ingress.shared.loops.leaves_unknown();
    }

    /// More connections than allowed have shown nothing, and more of them than its part are of this loop.
    pub(super) fn has_too_many_unknown(&self) -> bool {
        let shared = &self.ingress.shared;
        shared.loops.unknown() > shared.limits.max_unauthenticated && self.unknown.len() > self.max_unauthenticated()
    }

    /// This loop's part of the silent connections that are allowed.
    fn max_unauthenticated(&self) -> usize {
        self.ingress.shared.part_of(self.ingress.shared.limits.max_unauthenticated)
    }

    /// R12: of the connections that are silent, the oldest are closed while there are more than allowed. Real agents
    /// and clients send their first bytes at once.
    pub(super) fn close_silent(&mut self) {
        let (now, max) = (self.ingress.now, self.max_unauthenticated());
        if !self.has_too_many_unknown() || now < self.silent_swept + SILENT_SWEEP_INTERVAL {
            return;
        }
        self.silent_swept = now;
        let connections = &self.connections;
        let is_silent = |id: &ConnectionId| connections.get(*id).is_some_and(|connection| connection.is_silent(now));
        let silent: Vec<_> = self.unknown.iter().filter(is_silent).collect();
        let shared = self.ingress.shared.clone();
        let most = shared.loops.unknown().saturating_sub(shared.limits.max_unauthenticated);
        let excess = silent.len().saturating_sub(max).min(most);
        let Some(oldest) = silent.first().and_then(|id| connections.get(*id)).filter(|_| excess > 0) else { return };
        if let Some(connections) = shared.log_lines.silent.allows(excess as u64, now) {
            let (peer, max_unauthenticated) = (oldest.peer.address, shared.limits.max_unauthenticated);
            tracing::info!(connections, %peer, max_unauthenticated, "too many silent connections, closed the oldest");
        }
        for id in silent.into_iter().take(excess) {
            self.remove(id, "unauthenticated_cap");
        }
    }

    /// Closes the connection that has lingered for the longest time. `false`: none lingers.
    pub(super) fn cut_oldest_lingering(&mut self) -> bool {
        let connections = &self.connections;
        let Some(oldest) = self.lingering.oldest(|id| is_lingering(connections, id)) else { return false };
        if let Some(Connection { phase: Phase::Lingering(linger), .. }) = self.connections.get_mut(oldest) {
            linger.make_room();
        }
        self.remove(oldest, "closed");
        true
    }

    /// Goes on closing where that has begun. `true`: the connection is gone.
    pub(super) fn finish_closing(&mut self, id: ConnectionId) -> bool {
        let (now, hurry) = (self.ingress.now, self.draining() || self.failed_until.is_some());
        let Some(connection) = self.connections.get_mut(id) else { return true };
        let lingered = connection.is_lingering();
        let is_over = connection.finish_closing(now);
        connection.socket.count_unsent(&mut self.unsent_bytes);
        if is_over {
            self.remove(id, "closed");
            return true;
        }
        if let Phase::Lingering(linger) = &mut connection.phase
            && !lingered
        {
            if hurry {
                linger.drain(now);
            }
            let connections = &self.connections;
            self.lingering.enter(id, |id| is_lingering(connections, id));
            self.ingress.shared.loops.lingers();
            let shared = &self.ingress.shared;
            if shared.loops.lingering() > LINGERING_MAX && self.lingering.len() > shared.part_of(LINGERING_MAX) {
                self.cut_oldest_lingering();
            }
        }
        false
    }
}

/// Whether the peer has not yet shown a valid HELLO or a whole HTTP head. A closed connection is not unknown.
pub(super) fn is_unknown(connections: &Connections, id: ConnectionId) -> bool {
    connections.get(id).is_some_and(|connection| !connection.peer.is_known)
}

fn is_lingering(connections: &Connections, id: ConnectionId) -> bool {
    connections.get(id).is_some_and(Connection::is_lingering)
}
