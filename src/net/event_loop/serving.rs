//! Who is served in a turn, and who waits in line for memory or slots of the ring.

use std::time::Instant;

use super::EventLoop;
use crate::ids::ConnectionId;
use crate::limits::{OTHERS_TIME_PER_TURN, STALLED_FRAME_TIMEOUT};
use crate::net::connection::{Connection, Phase};
use crate::net::protocols::{Priority, Protocol};
use crate::net::serve::{Served, serve};

impl EventLoop {
    /// Puts a connection into the list of those to be served, by priority.
    pub(super) fn enqueue(&mut self, id: ConnectionId) {
        let now = self.ingress.now;
        if let Some(connection) = self.connections.get_mut(id)
            && !connection.queued
            && !connection.waiting
            && !connection.is_delayed
        {
            connection.queued = true;
            if let Phase::Open(protocol) = &mut connection.phase {
                protocol.set_paused(true, now);
            }
            let priority = match &connection.phase {
                Phase::Undecided => Priority::New,
                Phase::Open(protocol) => protocol.priority(),
                // An agent that was disconnected is not served before others: what it still sends is discarded.
                Phase::Closing | Phase::Lingering(_) => Priority::Others,
            };
            match priority {
                Priority::Agents => self.ready.push_back(id),
                Priority::New => self.ready_new.push_back(id),
                Priority::Others => self.ready_others.push_back(id),
            }
        }
    }

    /// Serves the connections that have something to read: agents first, others within their share of the turn.
    pub(super) fn serve_ready(&mut self) {
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
        // No clock is read for one alone.
        let until = (count > 1).then(|| Instant::now() + OTHERS_TIME_PER_TURN);
        for served in 0..count {
            if served > 0 && until.is_some_and(|until| Instant::now() >= until) {
                break;
            }
            let Some(id) = next(self) else { break };
            self.serve_one(id);
        }
    }

    /// Those in line, in order: those whose memory is reserved while there is ring, the others while there is memory too.
    /// Where there is not, the next free wakes the loop.
    pub(super) fn serve_waiting(&mut self) {
        let more_bodies = !self.finishing.is_empty() && self.finish_bodies(Instant::now() + OTHERS_TIME_PER_TURN);
        // Each at most once: one that lines up again has to wait for what others free.
        for _ in 0..self.waiting_for_ring.len() {
            if !self.ingress.has_slots() {
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
            self.ingress.set_starved_since(None);
            self.serve_at_once = more_bodies;
            return;
        }
        if self.ingress.now >= self.pressure_swept + STALLED_FRAME_TIMEOUT / 2 {
            self.press_partial();
        }
        // Armed first, then looked once more: nothing that is freed meanwhile goes unnoticed.
        self.ingress.ring.wait_for_room();
        self.ingress.intake.wait_for_room();
        let ring = self.ingress.has_slots() && !self.waiting_for_ring.is_empty();
        self.serve_at_once = more_bodies || ring || self.can_serve_next_waiting();
    }

    /// Whether the first of those that wait for memory can be read now. What it has sent already, with its HELLO, needs slots
    /// too: without this, it would be served again and again while the log is paused, and lines up again each time.
    fn can_serve_next_waiting(&mut self) -> bool {
        let Some(first) = self.waiting.front() else { return false };
        let kept_bytes = self.connections.get(*first).map_or(0, Connection::kept_frame_bytes);
        self.ingress.has_slots() && self.ingress.bytes_within_slots() > kept_bytes && self.ingress.intake.prepare()
    }

    fn serve_next_of(&mut self, next: impl FnOnce(&mut Self) -> Option<ConnectionId>) {
        let Some(id) = next(self) else { return };
        if let Some(connection) = self.connections.get_mut(id) {
            connection.waiting = false;
            self.serve_one(id);
        }
        // Slots in the ring are of use to nobody but an awake log thread.
        self.ingress.ring.flush();
    }

    /// Serves one connection, queues it again or closes it; does nothing if it is closed.
    pub(super) fn serve_one(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.queued = false;
        let (was_known, was_undecided) = (connection.peer.is_known, connection.is_undecided());
        let mut served = serve(connection, &mut self.ingress, &mut self.scratch, &mut self.out);
        if served == Served::NeedsRoom {
            served = self.make_room(id);
        }
        let Some(connection) = self.connections.get_mut(id) else { return };
        let shows_what_it_is = !was_known && connection.peer.is_known;
        let waits = connection.protocol().is_some_and(Protocol::is_waiting);
        if waits && !connection.awaiting {
            connection.awaiting = true;
            self.awaiting.push(id);
        }
        if shows_what_it_is || was_undecided != connection.is_undecided() {
            connection.renew_span(&self.ingress.policy);
        }
        if shows_what_it_is {
            self.known();
        }
        let close = match served {
            Served::Close(reason) => Some(reason),
            // Closed once what it sent is acknowledged and sent; see `acknowledge`.
            Served::End if !waits => Some("end"),
            _ => None,
        };
        if let Served::Gone(reason) = served {
            self.out.clear();
            self.remove(id, reason);
            return;
        }
        self.settle(id, close);
        match served {
            Served::Again => self.enqueue(id),
            Served::Wait => self.line_up(id),
            Served::Delayed(delay) => self.delay(id, delay),
            Served::Later(until) => self.delay_until(id, until),
            // Held for its answers, and they are all sent: no event of the poll will say so.
            Served::Hold if !waits && self.connections.get(id).is_some_and(|held| held.socket.is_flushed()) => {
                self.enqueue(id)
            }
            _ => {}
        }
        self.replace_older(id);
    }

    fn line_up(&mut self, id: ConnectionId) {
        if self.ingress.starved_since().is_none() {
            self.ingress.set_starved_since(Some(self.ingress.now));
            self.ingress.shared.metrics.read_pauses.inc();
        }
        let Some(connection) = self.connections.get_mut(id).filter(|connection| !connection.waiting) else { return };
        connection.waiting = true;
        if connection.protocol().is_some_and(Protocol::holds_partial) {
            self.waiting_for_ring.push_back(id);
        } else {
            self.waiting.push_back(id);
        }
    }
}
