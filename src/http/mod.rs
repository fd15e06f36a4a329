//! The server side of HTTP/1.1 (RFC 9110, RFC 9112): bytes and `now` in, answers out; no sockets, no clock.
//!
//! ```text
//!            ┌───────────── answered, keep-alive ────────────────┐
//!            ▼                                                   │
//!  bytes ─▶ Head ─ POST /v1/… ────▶ Body ─ whole, valid ─▶ Waiting ─ watermark ─▶ 200
//!            │ GET: page, answered       │ bad: 4xx, 503         │ 30 s ─▶ 504, the events stay kept
//!            ├─ GET of a profile ─▶ Profile ─ taken ─▶ 200       │
//!            └────────────┬──────────────┴───────────────────────┘ no keep-alive
//!                         ▼
//!                      Closing: the caller writes what is in `out`, half-closes, discards, closes (R15)
//! ```
//!
//! | file | what it is |
//! |---|---|
//! | `connection` | the states above, timers, pipelining, 100-continue |
//! | `head` | request line and header fields, read strictly |
//! | `fields` | the header fields of a head, in one pass |
//! | `bytes` | what bytes of a head may be part of |
//! | `routes` | resources, and what the head of a POST must have before its body is read |
//! | `query` | the parameters of a POST: the level of its answer, how its JSON is read |
//! | `body` | Content-Length and chunked, incremental |
//! | `limited` | the 429 of a sender that is above a limit |
//! | `kept` | where a body's bytes are: the first 64 KiB outside the pool, or all of it in one pool buffer |
//! | `incoming` | a body on its way in: its room, its rate, its time |
//! | `proxy_header` | recognises the header of the PROXY protocol, to name it in the 400 |
//! | `ingest` | a whole body becomes `EventBatch` bytes in the pool and a list of what was refused |
//! | `otlp` | a whole body of OTLP becomes events, and its answers |
//! | `hints` | what a body is that is not what its head declares: for the message of its 400 |
//! | `pages` | the page at `/`, and who may read it and `/status.json` |
//! | `profiles` | CPU profiles, which are answered once they are taken |
//! | `response` | status line, header fields, JSON bodies |
//! | `date` | the `Date` field, formatted once per second |
//! | `fuzz` | bodies of the fuzz targets; a peer and an ingress for them and the tests |
//!
//! * **Strict where two readers could differ** (request smuggling): what RFC 9112 lets a server refuse about framing
//!   is refused, answered, and the connection closed. An answer that leaves bytes of its request unread always closes.
//! * **Heads cost no pool memory**, so that GETs are answered under any load.
//! * **A body costs what it has sent**: its first 64 KiB are kept as they arrive, outside the pool, of a budget of
//!   `HTTP_BODY_BEGINNINGS_BYTES_MAX` for all connections. Then all of it is reserved in the pool at once. A body that is
//!   whole (with its head, for most requests) goes straight into the pool. Where there is no room, the caller closes slower
//!   bodies ([`Connection::lacks_room`]); without one, the newcomer gets 503.
//! * **An admitted body finishes**: a whole body stays as it is until there is room for what it becomes
//!   ([`Room::Finish`]); the pool keeps a share for that (`batch/shares.rs`).
//! * **While the log accepts nothing** ([`Ingress::log_pause`]), a POST gets 503 by its head, and again at the end of its
//!   body: nothing is taken that would wait in memory and be sent again meanwhile.
//! * **All or nothing**: events are handed on only once the whole document was found valid and the ring has room for
//!   all.
//! * **A POST above a limit** ([`Ingress::limited`]) gets 429 by its head. What was admitted is charged once it is whole.
//! * HTTP/1.0 is answered and closed: nginx and old health checks still use it. Everything else gets 505.

mod body;
mod bytes;
mod connection;
mod date;
mod fields;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
mod head;
mod hints;
mod incoming;
mod ingest;
mod kept;
mod limited;
mod otlp;
mod pages;
mod profiles;
mod proxy_header;
mod query;
mod response;
mod routes;
#[cfg(test)]
mod tests;

pub use connection::{Connection, Settings};
pub use date::{DATE_BYTES, HttpDate};
pub use incoming::Room;
pub use ingest::Needs;
pub use kept::Beginnings;
pub use limited::Limited;
pub use pages::Denied;

use std::time::Duration;

use crate::batch::pool::{Buffer, PoolSlice};
use crate::metrics::RejectReason;
use crate::pipeline::health::Pause;
use crate::profiling::{NotBegun, Order, Pending};
use crate::rate::Received;
use crate::wire::AckLevel;

/// The pages that GET and HEAD can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// `/health`: 200, or 503 once the log has failed.
    Health,
    /// `/ready`: whether the server accepts events, and how log and sinks are doing.
    Ready,
    /// `/metrics`: the metrics as Prometheus text.
    Metrics,
    /// `/status.json`: the state of the server at this moment, for whom [`Ingress::may_read_status`] lets it be.
    Status,
}

/// A request that was refused or that failed, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused<'a> {
    /// HTTP status of the answer.
    pub status: u16,
    /// As the peer sent it; empty where the head could not be read.
    pub method: &'a str,
    /// As the peer sent it, without the query, which may hold a secret; empty where the head could not be read.
    pub path: &'a str,
    /// The error of the answer.
    pub reason: &'a str,
    /// [`Ingress::rejected_some`] has reported its events already.
    pub is_noted: bool,
}

impl<'a> Refused<'a> {
    /// A POST.
    fn post(status: u16, target: routes::Target, reason: &'a str) -> Self {
        Self { status, method: "POST", path: target.path(), reason, is_noted: false }
    }

    /// A POST of which every event was rejected, after [`Ingress::rejected_some`].
    fn wholly_rejected(target: routes::Target, reason: &'a str) -> Self {
        Self { is_noted: true, ..Self::post(400, target, reason) }
    }
}

/// What the machine asks of the server around it. The event loop implements it; tests implement a small one.
pub trait Ingress {
    /// The wall clock as the `Date` of an answer.
    fn date(&mut self) -> &[u8; DATE_BYTES];

    /// The page's status, content type and body.
    fn status_page(&mut self, page: Page) -> (u16, &'static str, Vec<u8>);

    /// Whether pages are shown under this host name, which is neither an IP address nor `localhost`.
    fn has_host(&self, _name: &str) -> bool {
        false
    }

    /// Whether a request with this bearer token may read `/status.json`; `None`: it came without one.
    ///
    /// # Errors
    /// Why not.
    fn may_read_status(&mut self, _token: Option<&[u8]>) -> Result<(), Denied> {
        Ok(())
    }

    /// Whether the server can take CPU profiles of itself.
    fn takes_profiles(&self) -> bool {
        false
    }

    /// Whether a request with this bearer token may have a profile; `None`: it came without one. Without a pages token nobody may.
    ///
    /// # Errors
    /// Why not.
    fn may_profile(&mut self, _token: Option<&[u8]>) -> Result<(), Denied> {
        Err(Denied::NotSet)
    }

    /// Begins to take a profile, where [`Ingress::takes_profiles`]. The caller is to call [`Connection::look_at_profile`] once it is
    /// there.
    ///
    /// # Errors
    /// Why it did not begin.
    fn begin_profile(&mut self, _order: Order) -> Result<Pending, NotBegun> {
        Err(NotBegun::Failed("this server takes no profiles".to_owned()))
    }

    /// Admits a POST with this bearer token; `None`: it came without one. Compares in constant time.
    ///
    /// # Errors
    /// Why not.
    fn admit(&mut self, token: Option<&[u8]>) -> Result<(), &'static str>;

    /// Why no POST is accepted over this connection, whatever its token; `None`: it depends on the token.
    fn refuses_connection(&self) -> Option<&'static str> {
        None
    }

    /// The limit that a POST has to wait for, whose sender [`Ingress::admit`] has admitted; `None`: its body may
    /// come. What is admitted here is taken, whatever is due by the time its body is whole.
    fn limited(&mut self) -> Option<Limited> {
        None
    }

    /// A whole body was read that this sender has sent: counts and charges it.
    fn received(&mut self, _received: Received) {}

    /// The level that `?ack=` asks for (`None`: it does not), if the server offers it; else why not, for a 400.
    fn ack_level(&mut self, wanted: Option<AckLevel>) -> Result<AckLevel, String>;

    /// A buffer for a body of `bytes` that is being admitted, or `None` while the pool has no room for more bodies.
    fn reserve(&mut self, bytes: usize) -> Option<Buffer>;

    /// A buffer for what a whole body becomes; `None` only where the pool has no room for it.
    fn reserve_to_finish(&mut self, bytes: usize) -> Option<Buffer>;

    /// A buffer with room for `bytes`, into which what small bodies become is packed one after the other, or `None`: then
    /// [`Ingress::reserve_to_finish`]. Give it back with [`Ingress::put_back_common`].
    fn take_common(&mut self, _bytes: usize) -> Option<Buffer> {
        None
    }

    /// Gives the buffer of [`Ingress::take_common`] back.
    fn put_back_common(&mut self, _buffer: Buffer) {}

    /// A buffer for what is kept until an answer is written; `None`: no room, and the answer is shorter.
    fn reserve_for_answer(&mut self, bytes: usize) -> Option<Buffer>;

    /// Whether pool and ring have room for what a whole body becomes, and no other one waits for it.
    fn can_finish(&mut self, needs: Needs) -> bool;

    /// A body is refused because there is no room for it.
    fn no_room(&mut self) {}

    /// The budget for what is kept of bodies outside the pool.
    fn beginnings(&self) -> &Beginnings;

    /// Whether `slots` slots fit into the ring now.
    fn ring_room(&mut self, slots: usize) -> bool;

    /// Takes accepted events: `payload` is `EventBatch` bytes, at most [`Settings::max_frame_bytes`] of them. Called
    /// only after [`Ingress::ring_room`] has confirmed all slots of the request, which is answered at `level`. Returns
    /// the ticket.
    fn accept(&mut self, payload: PoolSlice, events: u32, level: AckLevel) -> u64;

    /// Takes rejected records for the dead letters: `payload` is as it was sent, or a part of it. As [`Ingress::accept`]. `all`:
    /// nothing of the request was accepted.
    fn reject(&mut self, payload: PoolSlice, records: u32, all: bool, reason: &str) -> u64;

    /// Bytes of the pool in which events may lie that bodies become.
    fn finishing_bytes(&self) -> usize;

    /// Whether the log has all up to this ticket.
    fn is_written(&self, ticket: u64) -> bool;

    /// The required sinks whose oldest event is at least so old, and what keeps each, with `; ` after them. Empty: none is known.
    fn late_sinks(&self, _age: Duration) -> String {
        String::new()
    }

    /// Counts refused events.
    fn rejected(&mut self, reason: RejectReason, events: u64);

    /// A body could be read, and some of its events were rejected, the first of them for the reason `why`. `status` will
    /// be answered.
    fn rejected_some(&mut self, _status: u16, _why: &str, _events: u64) {}

    /// Logs a request that was refused or that failed.
    fn refused(&mut self, _refused: &Refused<'_>) {}

    /// Counts an answer by its status.
    fn answered(&mut self, status: u16);

    /// Why the log accepts nothing at the moment: POSTs get 503, and nothing of them is taken. `None`: it accepts events.
    fn log_pause(&self) -> Option<Pause>;

    /// Whether the server is draining, or has too many connections: POSTs get 503, and every connection ends after its answer.
    fn draining(&self) -> bool;

    /// Whether that is because this connection is one more than `server.max_connections` allows.
    fn overloaded(&self) -> bool {
        false
    }
}
