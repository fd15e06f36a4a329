//! What the event loops know of each other: how many connections each has, and what one asks of another.
//!
//! ```text
//!  loop 0 accepts ── choose: the one with the fewest ──▶ Message::Connection ──▶ loop 1
//!  loop 1: HELLO of an agent that is connected to loop 0 ── Message::Replace ──▶ loop 0 closes it, gives the mark back
//!  loop 1 shows the HELLO again ◀── Message::Free ────────────────────────────── loop 0
//! ```
//!
//! Messages are few: one per connection, two per takeover, one per loop when the server drains, lacks room for connections, or has read
//! its settings again. No frame and no event passes here.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

use mio::net::TcpStream;

use crate::ids::{ConnectionId, LoopId};
use crate::net::policy::Policy;

/// What one loop asks of another.
pub enum Message {
    /// Serve this connection; it is counted already. `overloaded`: there are more than `server.max_connections`.
    Connection { stream: TcpStream, peer: SocketAddr, overloaded: bool },
    /// Close your connection `older`, of whose agent `newer` has sent a HELLO (R5); then answer [`Message::Free`].
    Replace { older: ConnectionId, newer: ConnectionId },
    /// The mark for which your connection waits has been given back.
    Free(ConnectionId),
    /// Close the connection of yours that has lingered for the longest time: there is no room for a new one.
    MakeRoom,
    /// The server shuts down.
    Drain,
    /// Who may send, and how much, has changed; answer when every connection was looked at.
    Policy { policy: Arc<Policy>, done: Sender<()> },
}

/// One loop, as the others see it.
pub struct Mailbox {
    messages: Mutex<Vec<Message>>,
    wake: Box<dyn Fn() + Send + Sync>,
    /// Connections that it has, or that are on their way to it.
    connections: AtomicUsize,
}

impl Mailbox {
    /// `wake`: wakes the loop.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self { messages: Mutex::default(), wake: Box::new(wake), connections: AtomicUsize::new(0) }
    }
}

/// All event loops of a server.
pub struct Loops {
    mailboxes: Vec<Mailbox>,
    /// Connections of all loops.
    connections: AtomicUsize,
    /// Those of them that are half-closed and answered (R15).
    lingering: AtomicUsize,
    /// Those of them that have shown neither a valid HELLO nor a whole HTTP head (R12).
    unknown: AtomicUsize,
}

impl Loops {
    /// In the order of the loops.
    pub fn new(mailboxes: Vec<Mailbox>) -> Self {
        Self {
            mailboxes,
            connections: AtomicUsize::new(0),
            lingering: AtomicUsize::new(0),
            unknown: AtomicUsize::new(0),
        }
    }

    /// Connections of all loops.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Connections of one loop, or that are on their way to it.
    pub fn connections_of(&self, event_loop: LoopId) -> usize {
        self.mailboxes.get(event_loop.index()).map_or(0, |mailbox| mailbox.connections.load(Ordering::Relaxed))
    }

    /// Connections of all loops that are not answered and half-closed.
    pub fn serving(&self) -> usize {
        self.connections().saturating_sub(self.lingering())
    }

    /// Connections of all loops that are answered and half-closed.
    pub fn lingering(&self) -> usize {
        self.lingering.load(Ordering::Relaxed)
    }

    /// A connection has begun to linger.
    pub fn lingers(&self) {
        self.lingering.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection that lingered is gone.
    pub fn lingers_no_longer(&self) {
        self.lingering.fetch_sub(1, Ordering::Relaxed);
    }

    /// Connections of all loops that have shown neither a valid HELLO nor a whole HTTP head.
    pub fn unknown(&self) -> usize {
        self.unknown.load(Ordering::Relaxed)
    }

    /// There is a new one.
    pub fn enters_unknown(&self) {
        self.unknown.fetch_add(1, Ordering::Relaxed);
    }

    /// One of them has shown what it is, or is gone.
    pub fn leaves_unknown(&self) {
        self.unknown.fetch_sub(1, Ordering::Relaxed);
    }

    /// Gives the next connection to the loop that has the fewest, and counts it there: choosing and counting is one step,
    /// so that connections which come together do not all choose the same. Called by the loop that accepts.
    pub fn choose(&self) -> LoopId {
        let fewest =
            self.mailboxes.iter().enumerate().min_by_key(|(_, other)| other.connections.load(Ordering::Relaxed));
        let Some((index, chosen)) = fewest else { return LoopId::default() };
        chosen.connections.fetch_add(1, Ordering::Relaxed);
        self.connections.fetch_add(1, Ordering::Relaxed);
        LoopId(index as u8)
    }

    /// A connection of `event_loop` is gone.
    pub fn left(&self, event_loop: LoopId) {
        if let Some(mailbox) = self.mailboxes.get(event_loop.index()) {
            mailbox.connections.fetch_sub(1, Ordering::Relaxed);
            self.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Puts a message into the mailbox of a loop and wakes the loop.
    pub fn send(&self, to: LoopId, message: Message) {
        if let Some(mailbox) = self.mailboxes.get(to.index()) {
            mailbox.messages.lock().unwrap_or_else(PoisonError::into_inner).push(message);
            (mailbox.wake)();
        }
    }

    /// Has a loop look at the watermarks.
    pub fn wake(&self, event_loop: LoopId) {
        if let Some(mailbox) = self.mailboxes.get(event_loop.index()) {
            (mailbox.wake)();
        }
    }

    /// To every loop but `from`.
    pub fn tell_others(&self, from: LoopId, message: impl Fn() -> Message) {
        for index in (0..self.mailboxes.len()).filter(|index| *index != from.index()) {
            self.send(LoopId(index as u8), message());
        }
    }

    /// Moves what was sent to `event_loop` into `messages`, in order.
    pub fn take(&self, event_loop: LoopId, messages: &mut Vec<Message>) {
        if let Some(mailbox) = self.mailboxes.get(event_loop.index()) {
            messages.append(&mut mailbox.messages.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_that_come_together_are_spread_and_places_that_become_free_are_taken() {
        let loops = Loops::new((0..3).map(|_| Mailbox::new(|| {})).collect());
        let chosen: Vec<_> = (0..100).map(|_| loops.choose()).collect();
        let count = |index| chosen.iter().filter(|id| id.0 == index).count();
        assert_eq!([count(0), count(1), count(2)], [34, 33, 33]);
        (0..10).for_each(|_| loops.left(LoopId(2)));
        assert!((0..10).all(|_| loops.choose() == LoopId(2)));
        assert_eq!(loops.connections(), 100);
    }

    #[test]
    fn a_message_wakes_the_loop_it_is_for_and_arrives_in_order() {
        let woken = std::sync::Arc::new(AtomicUsize::new(0));
        let count = woken.clone();
        let wake = move || {
            count.fetch_add(1, Ordering::Relaxed);
        };
        let loops = Loops::new(vec![Mailbox::new(|| panic!("loop 0 is not asked")), Mailbox::new(wake)]);
        let id = |key| ConnectionId::new(LoopId(1), 1, key);
        loops.send(LoopId(1), Message::Free(id(1)));
        loops.tell_others(LoopId(0), || Message::Drain);
        let mut messages = Vec::new();
        loops.take(LoopId(1), &mut messages);
        assert!(matches!(messages[..], [Message::Free(first), Message::Drain] if first == id(1)));
        assert_eq!(woken.load(Ordering::Relaxed), 2);
        loops.take(LoopId(0), &mut messages);
        assert_eq!(messages.len(), 2);
    }
}
