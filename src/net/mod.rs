//! The event loop: the only part that names mio.
//!
//! ```text
//!  a turn    poll ─▶ note who is readable ─▶ accept ─▶ serve each once (bounded read, parse, push) ─▶ wake the log thread
//!            ─▶ acknowledge what the watermarks cover ─▶ timers ─▶ poll
//!
//!  a read    Undecided ── first byte ──▶ Frames: HELLO by scratch, then straight into the pool's current buffer
//!                                   └──▶ Http:   heads by scratch, bodies straight into their own pool buffer
//! ```
//!
//! | file | what it is |
//! |---|---|
//! | `event_loop` | the turn: who is served, acknowledged, timed out, closed |
//! | `event_loop/bodies` | room for HTTP bodies: whose is closed where there is none, and who waits |
//! | `connection` | one socket: what was read and not yet parsed, what is to be sent and not yet written |
//! | `collector` | encoded events of messages that are not acknowledged, into the current buffer |
//! | `datagrams` | syslog over UDP |
//! | `connections` | the open connections of a loop, by number |
//! | `serve` | reads and parses for one connection, by protocol |
//! | `intake` | the current buffer, and the reserve that a partial frame may need |
//! | `ingress` | everything accepted goes through here: tickets, ring, counters; what one loop owns |
//! | `shared` | what all loops share |
//! | `loops` | what loops know of each other, and the messages between them |
//! | `busy` | how busy a loop is |
//! | `linger` | when a half-closed connection that is still sent to is closed |
//! | `roster` | the connections in one state, the oldest first |
//! | `refusal_log` | log lines about refused requests, by peer |
//! | `listener` | bind, bounded accepts, pause when descriptors run out |
//! | `timers` | deadlines of connections |
//! | `log_limit` | so many log lines about connections a second |
//!
//! **Backpressure is one rule**: where the ring has no slot or the pool no room for a whole largest frame, a connection
//! is not read but put into the waiting line; the freeing thread wakes the loop, which serves the line in order.
//! Sockets are registered edge-triggered for both directions, so *not reading* needs no system call.

#[cfg(test)]
mod bad_frames_tests;
mod busy;
mod collector;
mod connection;
mod connections;
mod datagrams;
mod event_loop;
mod ingress;
mod intake;
mod linger;
mod listener;
mod log_limit;
mod loops;
mod protocols;
mod refusal_log;
mod roster;
mod serve;
mod shared;
mod socket;
#[cfg(test)]
mod testing;
mod timers;
mod transport;

pub use datagrams::{BoundDatagrams, bind_datagrams};
pub use event_loop::{ConnectionLimits, DRAIN_SIGNALS, Ended, EventLoop, LoopError, Parts};
pub use ingress::Ingress;
pub use intake::Intake;
pub use listener::{bind, bind_problem};
pub use loops::{Loops, Mailbox};
pub use shared::{LogLines, LoopState, Shared, SinkReport};
