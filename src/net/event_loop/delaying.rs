//! Connections that are not read until a time: what they have sent is not paid for, or connections keep too much outside the pool.

use std::time::Instant;

use super::EventLoop;
use crate::ids::ConnectionId;
use crate::net::delayed::{Delay, Line};

impl EventLoop {
    /// Stops reading a connection because of a limit.
    pub(super) fn delay(&mut self, id: ConnectionId, delay: Delay) {
        if let Some(connection) = self.connections.get_mut(id).filter(|connection| !connection.is_delayed) {
            connection.is_delayed = true;
            self.ingress.delayed.add(id, delay);
        }
    }

    /// Stops reading a connection until a time.
    pub(super) fn delay_until(&mut self, id: ConnectionId, until: Instant) {
        if let Some(connection) = self.connections.get_mut(id).filter(|connection| !connection.is_delayed) {
            connection.is_delayed = true;
            self.ingress.delayed.add_alone(id, until);
        }
    }

    /// A connection that waits for a limit has sent something: a BYE is taken.
    pub(super) fn read_while_delayed(&mut self, id: ConnectionId) {
        let close = self.with_protocol(id, |protocol, cx| protocol.read_while_delayed(cx)).flatten();
        self.settle(id, close);
    }

    /// Those whose time is over are read again: who waited alone among all others, who waited in line at once.
    pub(super) fn serve_delayed(&mut self) {
        let now = self.ingress.now;
        while let Some(id) = self.ingress.delayed.next_alone(now) {
            if self.is_called(id) {
                self.enqueue(id);
            }
        }
        if self.ingress.delayed.take_lines_due(now).is_none() {
            return;
        }
        for line in self.ingress.delayed.lines() {
            if let Some(at) = self.serve_line(line) {
                self.ingress.delayed.moves_at(at);
            }
        }
    }

    /// Serves a line while its limit admits more, each connection at most once. Returns when it moves on.
    fn serve_line(&mut self, line: Line) -> Option<Instant> {
        let (scope, client) = line.limit();
        for _ in 0..self.ingress.delayed.len_of(line) {
            if let Some(wait) = self.ingress.policy.rates.shared_wait(scope, client, self.ingress.now) {
                return Some(self.ingress.now + wait);
            }
            let Some(id) = self.ingress.delayed.next_of(line) else { break };
            if self.is_called(id) {
                self.ingress.delayed.is_called = true;
                self.serve_one(id);
                self.ingress.delayed.is_called = false;
            }
        }
        (self.ingress.delayed.len_of(line) > 0).then_some(self.ingress.now)
    }

    /// Ends the delay of a connection. `false`: it has closed meanwhile.
    fn is_called(&mut self, id: ConnectionId) -> bool {
        let is_called =
            self.connections.get_mut(id).is_some_and(|connection| std::mem::take(&mut connection.is_delayed));
        if !is_called {
            self.ingress.delayed.was_stale();
        }
        is_called
    }

    /// A delayed connection has closed, or has got its last answer.
    pub(super) fn leave_delayed(&mut self) {
        let connections = &self.connections;
        let is_delayed = |id| connections.get(id).is_some_and(|connection| connection.is_delayed);
        self.ingress.delayed.leave(is_delayed);
    }
}
