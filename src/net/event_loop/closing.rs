//! Connections that are closed: half-closed ones whose peers still send (R15), and silent ones of which there are too many
//! (R12).

use slab::Slab;

use super::EventLoop;
use crate::limits::{LINGERING_MAX, SILENT_SWEEP_INTERVAL};
use crate::net::connection::{Connection, Protocol};
use crate::session::marks::ConnectionId;

impl EventLoop {
    /// R12: of the connections that say nothing, the oldest are closed while there are more than allowed. Real agents and
    /// clients send their first bytes at once.
    pub(super) fn close_silent(&mut self) {
        let (now, max) = (self.door.now, self.limits.max_unauthenticated);
        if self.unauthenticated.len() <= max || now < self.silent_swept + SILENT_SWEEP_INTERVAL {
            return;
        }
        self.silent_swept = now;
        let connections = &self.connections;
        let is_silent = |id: &ConnectionId| find(connections, *id).is_some_and(|connection| connection.is_silent(now));
        let silent: Vec<_> = self.unauthenticated.iter().filter(is_silent).collect();
        let excess = silent.len().saturating_sub(max);
        let Some(oldest) = silent.first().and_then(|id| find(connections, *id)).filter(|_| excess > 0) else { return };
        if let Some(connections) = self.silent_log.allows(excess as u64, now) {
            let peer = oldest.peer;
            tracing::info!(connections, %peer, max_unauthenticated = max, "too many silent connections, closed the oldest");
        }
        for id in silent.into_iter().take(excess) {
            self.remove(id, "unauthenticated_cap");
        }
    }

    /// Closes the connection that has lingered for the longest time. `false`: none lingers.
    pub(super) fn cut_oldest_lingering(&mut self) -> bool {
        let connections = &self.connections;
        let Some(oldest) = self.lingering.oldest(|id| is_lingering(connections, id)) else { return false };
        if let Some(Connection { protocol: Protocol::Lingering(linger), .. }) = self.get(oldest) {
            linger.make_room();
        }
        self.remove(oldest, "closed");
        true
    }

    /// Goes on closing where that has begun. `true`: the connection is gone.
    pub(super) fn finish_closing(&mut self, id: ConnectionId) -> bool {
        let (now, hurry) = (self.door.now, self.draining() || self.failed_until.is_some());
        let Some(connection) = self.get(id) else { return true };
        let lingered = connection.is_lingering();
        if connection.finish_closing(now) {
            self.remove(id, "closed");
            return true;
        }
        if let Protocol::Lingering(linger) = &mut connection.protocol
            && !lingered
        {
            if hurry {
                linger.drain(now);
            }
            let connections = &self.connections;
            self.lingering.enter(id, |id| is_lingering(connections, id));
            if self.lingering.len() > LINGERING_MAX {
                self.cut_oldest_lingering();
            }
        }
        false
    }
}

fn find(connections: &Slab<Connection>, id: ConnectionId) -> Option<&Connection> {
    connections.get(EventLoop::key(id)).filter(|connection| connection.id == id)
}

pub(super) fn is_unauthenticated(connections: &Slab<Connection>, id: ConnectionId) -> bool {
    find(connections, id).is_some_and(|connection| connection.unauthenticated)
}

fn is_lingering(connections: &Slab<Connection>, id: ConnectionId) -> bool {
    find(connections, id).is_some_and(Connection::is_lingering)
}
