//! Answers what the watermarks have reached, once a turn.

use super::EventLoop;
use crate::ids::ConnectionId;

impl EventLoop {
    /// Answers everything that the watermarks cover by now.
    pub(super) fn acknowledge(&mut self) {
        self.ingress.look_at_sinks();
        let mut awaiting = std::mem::take(&mut self.awaiting);
        awaiting.retain(|id| self.acknowledge_one(*id));
        self.awaiting = awaiting;
    }

    /// Answers what the watermarks cover. `true`: something still waits.
    fn acknowledge_one(&mut self, id: ConnectionId) -> bool {
        // The last ACKs before a GOAWAY are not delayed: the agent would send what they cover again, to another server.
        let goes_on = !self.draining() && self.ingress.shared.health.failure().is_none();
        let is_read_next = goes_on && self.connections.get(id).is_some_and(|connection| connection.queued);
        let answered = self.with_protocol(id, |protocol, cx| {
            protocol.acknowledge(is_read_next, cx);
            (protocol.is_waiting(), protocol.is_over().or(cx.socket.is_at_end().then_some("end")))
        });
        let Some(connection) = self.connections.get_mut(id) else { return false };
        let (waits, close) = answered.unwrap_or_default();
        connection.awaiting = waits;
        let (readable, more) = (connection.socket.is_readable(), connection.socket.has_more());
        if waits {
            if !self.out.is_empty() {
                // The window has moved on.
                self.settle(id, None);
                if readable && !self.draining() {
                    self.enqueue(id);
                }
            }
            return true;
        }
        self.settle(id, close);
        if close.is_none() && self.draining() {
            self.drain_one(id);
        } else if more {
            self.enqueue(id);
        }
        false
    }
}
