//! Timers of connections: when they are set, and what they do.

use std::time::Duration;

use super::EventLoop;
use crate::http::Room;
use crate::ids::ConnectionId;
use crate::net::connection::Phase;
use crate::net::protocols::Protocol;
use crate::tls::Machine;

/// The soonest that a timer is looked at again.
const TIMER_STEP: Duration = Duration::from_millis(1);
/// A peer's timer that is over while its bytes wait to be read is looked at again after this.
const TIMER_RECHECK: Duration = Duration::from_millis(20);

impl EventLoop {
    /// Sets the timer of a connection.
    pub(super) fn schedule(&mut self, id: ConnectionId) {
        let pressure = self.ingress.starved_since().is_some();
        if let Some(connection) = self.connections.get_mut(id) {
            // Never now: whatever a timer has to do, it is done once a turn.
            let deadline = connection.deadline(pressure).map(|deadline| deadline.max(self.ingress.now + TIMER_STEP));
            self.timers.schedule(id, deadline, &mut connection.scheduled);
        }
    }

    /// Runs the timers of all connections whose deadline has passed.
    pub(super) fn fire_timers(&mut self) {
        let now = self.ingress.now;
        while let Some((at, id)) = self.timers.due(now) {
            let pressure = self.ingress.starved_since().is_some();
            let Some(connection) = self.connections.get_mut(id).filter(|connection| connection.scheduled == Some(at))
            else {
                continue;
            };
            connection.scheduled = None;
            let deadline = connection.deadline(pressure);
            if deadline.is_none_or(|deadline| deadline > now) {
                self.schedule(id);
            } else if connection.socket.write_deadline().is_some_and(|deadline| now >= deadline) {
                self.remove(id, "write_timeout");
            } else if connection.queued {
                // A timer on a peer fires only after a read that found nothing (R11), and this one's read is due.
                let mut scheduled = None;
                self.timers.schedule(id, Some(now + TIMER_RECHECK), &mut scheduled);
                if let Some(connection) = self.connections.get_mut(id) {
                    connection.scheduled = scheduled;
                }
            } else {
                self.time_out(id, pressure);
            }
        }
    }

    fn time_out(&mut self, id: ConnectionId, pressure: bool) {
        let is_in_line = self.lacks_room(id) == Some(Room::Finish);
        let Some(connection) = self.connections.get_mut(id) else { return };
        let close = match &connection.phase {
            Phase::Undecided => {
                let is_handshaking = connection.socket.tls().is_some_and(Machine::is_handshaking);
                return self.remove(id, if is_handshaking { "tls_timeout" } else { "silent" });
            }
            Phase::Lingering(_) => return self.remove(id, "closed"),
            Phase::Closing => None,
            Phase::Open(_) => self.with_protocol(id, |protocol, cx| protocol.handle_timeout(pressure, cx)).flatten(),
        };
        // A body may have become events at its last try.
        let has_finished = is_in_line && close.is_none() && self.lacks_room(id).is_none();
        if has_finished {
            self.leave_finishing(id);
        }
        let more = self.connections.get(id).is_some_and(|connection| connection.socket.has_more()) || has_finished;
        self.settle(id, close);
        if more && close.is_none() {
            // Requests after one that was answered 504, here or still in the socket.
            self.enqueue(id);
        }
    }

    /// While others wait for memory, a frame or body that stands still has less time (R11): timers set before are too
    /// late.
    pub(super) fn press_partial(&mut self) {
        let now = self.ingress.now;
        self.pressure_swept = now;
        for connection in self.connections.iter_mut() {
            if connection.protocol().is_some_and(Protocol::holds_partial) {
                let deadline = connection.deadline(true);
                self.timers.schedule(connection.id, deadline, &mut connection.scheduled);
            }
        }
        self.press_bodies();
    }
}
