//! Networking: event loops, connections, protocols. The only module that uses mio.
//!
//! ```text
//!  a turn    poll ─▶ note who is readable ─▶ accept ─▶ serve each once (bounded read, parse, push) ─▶ wake the log thread
//!            ─▶ acknowledge what the watermarks cover ─▶ timers ─▶ poll
//!
//!  a read    Undecided ── first byte ─┬▶ Frames: HELLO by scratch, then straight into the pool's current buffer
//!                ▲           │         ├▶ Syslog: by scratch; its events into the pool's current buffer
//!                └ handshake ┘         └▶ Http:   heads by scratch, bodies straight into their own pool buffer
//!            with TLS, the first byte is the first that was decrypted, and all of it goes through the loop's buffer of ciphertext
//! ```
//!
//! | file | what it is |
//! |---|---|
//! | `event_loop` | the turn; in its directory a file for each of: accepting, serving, delaying, acknowledging, timers, closing, draining, reloading, messages |
//! | `event_loop/bodies` | room for HTTP bodies: whose is closed where there is none, and who waits |
//! | `connection` | one connection: its phase, its peer, the lists it is in |
//! | `connections` | the open connections of a loop, by id |
//! | `serve` | the share of one connection in a turn, by phase |
//! | `protocols` | an adapter for each protocol, behind one trait |
//! | `collector` | encoded events of messages that are not acknowledged, into the current buffer |
//! | `datagrams` | syslog over UDP |
//! | `socket` | the buffers of one connection: read and not yet parsed, not yet sent |
//! | `transport` | what carries the bytes: TCP, with TLS or without |
//! | `encryption` | who may send with TLS and without it |
//! | `delayed` | connections that are not read until what they have sent is paid for |
//! | `intake` | the current buffer, and the reserve that a partial frame may need |
//! | `ingress` | everything accepted goes through here: tickets, ring, counters; what one loop owns |
//! | `shared` | what all loops share |
//! | `status` | `/status.json`: who may read it, and what only it needs |
//! | `loops` | what loops know of each other, and the messages between them |
//! | `busy` | how busy a loop is |
//! | `linger` | when a half-closed connection that is still sent to is closed |
//! | `roster` | the connections in one state, the oldest first |
//! | `refusal_log` | log lines about refused requests, by peer |
//! | `listener` | bind, bounded accepts, pause when descriptors run out |
//! | `policy` | who may send and how much: what a reload may change |
//! | `timers` | deadlines of connections |
//! | `spans` | the span of a connection, which says what its log lines are about |
//! | `log_limit` | so many log lines about connections a second |
//!
//! **Backpressure is one rule**: a connection for which the ring has no slot, or the pool no room for a frame of the largest size, is
//! not read but waits in line (`EventLoop` has three: for memory, for slots, and for bodies that are complete); the thread that frees
//! wakes the loop, which serves the lines in order.
//! Sockets are registered edge-triggered for both directions, so *not reading* needs no system call.

#[cfg(test)]
mod bad_frames_tests;
mod busy;
mod collector;
mod connection;
mod connections;
mod datagrams;
mod delayed;
mod encryption;
mod event_loop;
mod ingress;
mod intake;
mod linger;
mod listener;
mod log_limit;
mod loops;
mod policy;
mod protocols;
mod refusal_log;
mod roster;
mod serve;
mod shared;
mod socket;
mod spans;
mod status;
#[cfg(test)]
mod syslog_tests;
#[cfg(test)]
mod testing;
mod timers;
mod transport;

pub use datagrams::{BoundDatagrams, bind_datagrams};
pub use encryption::{Encryption, Plaintext};
pub use event_loop::{ConnectionLimits, DRAIN_SIGNALS, Ended, EventLoop, LoopError, Parts, RELOAD_SIGNAL};
pub use ingress::Ingress;
pub use intake::Intake;
pub use listener::{bind, bind_problem};
pub use loops::{Loops, Mailbox};
pub use policy::{Newest, Policy};
pub use shared::{LogLines, LoopState, Shared, SinkReport};
pub use status::{PagesAccess, StatusSources};
