//! What other loops ask of this one, and what this one asks of them.

use super::EventLoop;
use crate::ids::ConnectionId;
use crate::net::loops::Message;
use crate::net::protocols::REPLACED;

impl EventLoop {
    /// Does what the other loops have asked for.
    pub(super) fn take_messages(&mut self) {
        let mut messages = std::mem::take(&mut self.messages);
        self.ingress.shared.loops.take(self.ingress.event_loop, &mut messages);
        for message in messages.drain(..) {
            match message {
                Message::Connection { stream, peer, overloaded } => self.open(stream, peer, overloaded),
                Message::Replace { older, newer } => {
                    self.remove(older, REPLACED);
                    self.ingress.shared.loops.send(newer.event_loop(), Message::Free(newer));
                }
                Message::Free(newer) => self.greet_again(newer),
                Message::MakeRoom => {
                    self.cut_oldest_lingering();
                }
                Message::Policy { policy, done } => {
                    self.take_policy(policy);
                    // Nobody waits for it any more where this took too long.
                    let _ = done.send(());
                }
                Message::Drain => {
                    if !self.draining() {
                        self.begin_drain();
                    }
                }
            }
        }
        self.messages = messages;
    }

    /// Closes the older connections of agents that have come again (R5), here or by asking their loop.
    pub(super) fn replace_older(&mut self, newer: ConnectionId) {
        while let Some(older) = self.scratch.replaced.pop() {
            if older.event_loop() == self.ingress.event_loop {
                // It gets no word: an agent that is alive on both would only come back and push the newer one out.
                self.remove(older, REPLACED);
                self.greet_again(newer);
            } else {
                self.ingress.shared.loops.send(older.event_loop(), Message::Replace { older, newer });
            }
        }
    }

    /// The mark that a HELLO waits for has been given back.
    fn greet_again(&mut self, newer: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(newer) {
            connection.mark_is_free();
            self.enqueue(newer);
        }
    }

    /// Passes on that the server ends.
    pub fn tell_others_to_drain(&self) {
        self.ingress.shared.loops.tell_others(self.ingress.event_loop, || Message::Drain);
    }
}
