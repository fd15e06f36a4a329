//! The protocols of connections: one adapter for each, between a socket and a machine without sockets.
//!
//! ```text
//!  first byte ─▶ PROTOCOLS ─▶ Box<dyn Protocol> ── serve ─▶ acknowledge ─▶ … ─▶ handle_timeout, end
//! ```
//!
//! A new protocol is one file here, one line in the table, and its name among those that are counted (`metrics::Protocol`).

mod frames;
mod http;
mod syslog;

pub(super) use self::frames::REPLACED;
use std::ops::Range;
use std::time::Instant;

use crate::http::Room;
use crate::net::connection::Peer;
use crate::net::ingress::Ingress;
use crate::net::serve::{Scratch, Served};
use crate::net::socket::Socket;

/// Opens the protocol that the first byte belongs to: the first line of the table that accepts the byte.
const PROTOCOLS: [Row; 3] =
    [(frames::begins_with, frames::open), (syslog::begins_with, syslog::open), (http::begins_with, http::open)];

/// Whether a connection that begins with this byte speaks the protocol, where that is enabled; and its beginning.
type Row = (fn(u8, &Ingress) -> bool, Open);

type Open = fn(&Peer, &Ingress) -> Box<dyn Protocol>;

/// The protocol that begins with `first`.
pub(super) fn open(first: u8, peer: &Peer, ingress: &Ingress) -> Box<dyn Protocol> {
    let protocol = PROTOCOLS.iter().find(|(begins_with, _)| begins_with(first, ingress));
    protocol.map_or(http::open as Open, |(_, open)| *open)(peer, ingress)
}

/// What a protocol works with besides its own state.
pub(super) struct Context<'a> {
    /// The connection's socket.
    pub socket: &'a mut Socket,
    /// Who is at the other end.
    pub peer: &'a mut Peer,
    /// What accepts events.
    pub ingress: &'a mut Ingress,
    /// Memory that all connections share for the length of a call.
    pub scratch: &'a mut Scratch,
    /// Answers are appended here.
    pub out: &'a mut Vec<u8>,
}

/// Who is served first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Priority {
    /// Accepted agents: all of them in each turn.
    Agents,
    /// Those that have not shown yet who they are. A first read is cheap, and an agent that connects must not wait until
    /// the pages of all others are written.
    New,
    /// HTTP and syslog; served within their share of the turn.
    Others,
}

/// Why the server ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The server drains: once what was taken is acknowledged.
    Shutdown,
    /// The time for that has passed: at once.
    OutOfTime,
    /// The log failed: at once, for nothing can be kept any more.
    LogFailed,
}

/// A body that comes too slowly.
pub(super) struct SlowBody {
    /// Average rate since the body could begin.
    pub bytes_per_second: u64,
    /// What it holds of the budget for beginnings.
    pub beginning_bytes: usize,
    /// The pages of the pool that it holds.
    pub pages: Range<usize>,
}

/// An open connection of one protocol. Where a method returns a reason, the last answer is in `out` and the connection
/// closes; the reason is for the counter.
pub(super) trait Protocol: Send {
    /// Reads and parses a share of one turn.
    fn serve(&mut self, cx: &mut Context<'_>) -> Served;

    /// Its name, for the span of the connection.
    fn name(&self) -> &'static str;

    /// In which order the connection is served.
    fn priority(&self) -> Priority;

    /// Whether something waits for a watermark.
    fn is_waiting(&self) -> bool;

    /// Answers what the watermarks cover; `is_read_next`: the connection is read again in the next turn.
    fn acknowledge(&mut self, is_read_next: bool, cx: &mut Context<'_>);

    /// When [`Protocol::handle_timeout`] has something to do. `pressure`: others wait for memory.
    fn deadline(&self, pressure: bool) -> Option<Instant>;

    /// The deadline is over; timers on the peer are looked at only after a read that found nothing (R11).
    fn handle_timeout(&mut self, pressure: bool, cx: &mut Context<'_>) -> Option<&'static str>;

    /// Ends the connection, or leaves it open until what it waits for has come.
    fn end(&mut self, ending: Ending, cx: &mut Context<'_>) -> Option<&'static str>;

    // What follows has a default. Protocols override what concerns them; those with bodies also the part after `lacks_room`.

    /// Whether everything is answered and nothing more will be taken.
    fn is_over(&self) -> Option<&'static str> {
        None
    }

    /// Who may send, or how much, has changed, and the peer's access with it. `forgets_dues`: the limit on each agent is another one.
    /// The connection ends if it is not allowed any more.
    fn policy_changed(&mut self, _forgets_dues: bool, _cx: &mut Context<'_>) -> Option<&'static str> {
        None
    }

    /// The connection is open no longer, for `reason`.
    fn closed(&mut self, _reason: &'static str, _peer: &Peer, _ingress: &mut Ingress) {}

    /// Bytes have come while the connection waits for a limit: takes what needs no limit. `Some`: it ends.
    fn read_while_delayed(&mut self, _cx: &mut Context<'_>) -> Option<&'static str> {
        None
    }

    /// Where connections keep too much outside the pool, it is not read until they keep less; others are closed if they add to it.
    fn waits_for_budget(&self) -> bool {
        false
    }

    /// What the peer has sent is of use also after it has reset the connection: it gets no answers, and keeps no copy.
    fn reads_after_reset(&self) -> bool {
        false
    }

    /// Holds memory of the pool for what is partly received, and needs slots of the ring only.
    fn holds_partial(&self) -> bool {
        false
    }

    /// What another connection of the same agent held has been given back (R5).
    fn mark_is_free(&mut self) {}

    /// Bytes of the peer wait here to be read, or are held back: it must not be blamed for the time until they are.
    fn set_paused(&mut self, _paused: bool, _now: Instant) {}

    /// What a body that is being received cannot continue without.
    fn lacks_room(&self) -> Option<Room> {
        None
    }

    /// Whether there is now what [`Protocol::lacks_room`] named.
    fn take_room(&mut self, _cx: &mut Context<'_>) -> bool {
        true
    }

    /// When a whole body that waits in line is to be tried whether or not anything was freed.
    fn retry_room_at(&self) -> Option<Instant> {
        None
    }

    /// Refuses the body that lacks room: there is none for it, and none can be made.
    fn refuse_room(&mut self, _cx: &mut Context<'_>) {}

    /// A body that comes too slowly and whose end would free some of `room`.
    fn slow_body(&self, _room: Room, _now: Instant) -> Option<SlowBody> {
        None
    }

    /// Ends the body that [`Protocol::slow_body`] returned.
    fn press_body(&mut self, _cx: &mut Context<'_>) -> Option<&'static str> {
        None
    }

    /// The HTTP machine, if this is one.
    #[cfg(test)]
    fn http(&self) -> Option<&crate::http::Connection> {
        None
    }
}
