//! Sinks: the trait, the table of kinds, one file per sink.
//!
//! A sink only implements its store's protocol. Retry, backoff, deadlines, bisection, dead letters, metrics and the
//! positions of stores that keep none are the router's.
//!
//! A new kind is a directory with a [`Sink`] and a [`SinkConfig`] (see [`kind`]), its module and its line in [`KINDS`]
//! below, and a cargo feature if it has dependencies of its own. Nothing else names a kind.

pub mod creatable;
pub mod discard;
pub mod file;
#[cfg(feature = "grpc")]
pub mod grpc;
#[cfg(feature = "http-sink")]
pub mod http;
pub mod kind;
pub(crate) mod ndjson;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "redis"))]
pub mod ownership;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(test)]
#[path = "../../tests/support/proxy.rs"]
#[allow(dead_code)] // as below
pub(crate) mod proxy;
#[cfg(feature = "redis")]
pub mod redis;
mod shards;
#[cfg(feature = "sqlite")]
pub mod sqlite;
pub mod stdout;
#[cfg(test)]
#[path = "../../tests/support/stores.rs"]
#[allow(dead_code)] // tests with processes use the other part
pub(crate) mod stores;
#[cfg(test)]
pub(crate) mod testing;
pub mod upkeep;

use std::time::Duration;

use thiserror::Error;

use crate::batch::Delivery;
pub use crate::ids::uuid;
#[cfg(any(feature = "postgres", feature = "redis", feature = "grpc", feature = "http-sink"))]
use crate::tls;
pub use kind::{BatchSettings, Kind, Output, SinkConfig, SinkSettings};
pub use shards::ShardPositions;
pub use upkeep::{Clocks, Upkeep};

/// One store. Lives on its router's thread; may block there.
pub trait Sink: Send {
    /// Connects and prepares the store (tables exist before the port opens). Called before the first delivery, and
    /// again after one that ended with [`Failure::Unavailable`].
    ///
    /// Returns the last position that the store holds of this log, 0 for none of it; `None` where the store keeps no
    /// positions, so that the router keeps them in a file. A first connect that finds a position from
    /// [`Identity::log_end`] on only returns it: the store stays its owner's, and nothing can be delivered.
    fn connect(&mut self) -> Result<Option<u64>, Unavailable>;

    /// Whether a server answers where deliveries go. Called after the first [`Sink::connect`], until it succeeds once:
    /// the sink does not count as working before. For sinks whose connect contacts no server.
    fn reach(&mut self) -> Result<(), Unavailable> {
        Ok(())
    }

    /// Whether that file is worth its syncs. Not where nothing is stored: a second delivery stores nothing twice.
    fn needs_position(&self) -> bool {
        true
    }

    /// Whether deliveries would get through, without changing anything where they go or taking anything from a server
    /// that runs: for `telemetryx check --connect`. What [`Sink::connect`] would create may be missing. Where there is
    /// no store, nothing can be wrong.
    fn probe(&mut self) -> Result<(), Unavailable> {
        Ok(())
    }

    /// What a successful [`Sink::probe`] has shown, for a person.
    fn probed(&self) -> &'static str {
        "ok"
    }

    /// The last position that the store holds of this log, 0 for none of it, read without changing anything and without
    /// [`Sink::connect`]: for `telemetryx wal inspect --connect`. `None`: the store keeps no positions.
    fn stored_position(&mut self) -> Result<Option<u64>, Unavailable> {
        Ok(None)
    }

    /// Stores the events of the delivery, and moves the store's position to the last one that the delivery covers, in the
    /// same transaction where the store can. `Ok`: all of it is stored, by this attempt or by an earlier one whose answer
    /// was lost.
    ///
    /// A delivery without events only moves the position.
    fn deliver(&mut self, delivery: &Delivery) -> Result<(), Failure>;

    /// Stores events that the store refused before (`telemetryx dead replay`), each under its server_id and position.
    /// Their positions leave gaps. The server's own sink continues meanwhile in another process: neither the store's
    /// position nor its owner is touched. Called without [`Sink::connect`]; connects itself, and creates no tables.
    ///
    /// The answer is that of [`Sink::deliver`]: what was stored by an earlier replay counts as stored, where the store
    /// can recognise it.
    fn replay(&mut self, delivery: &Delivery) -> Result<(), Failure> {
        let _ = delivery;
        Err(Unavailable::down(NoReplay.to_string()).into())
    }

    /// Whether [`Sink::replay`] is more than a refusal.
    fn replays(&self) -> bool {
        false
    }

    /// What each shard of the store holds of this log, as of the last connect; `None`: there is one position for all.
    fn shard_positions(&self) -> Option<ShardPositions> {
        None
    }

    /// Whether [`Sink::rehearse`] can be used: the store keeps rows and position in one transaction.
    fn rehearses(&self) -> bool {
        false
    }

    /// Does what [`Sink::deliver`] does, and rolls it back: whether the store would store it.
    ///
    /// # Errors
    /// As those of [`Sink::deliver`].
    fn rehearse(&mut self, delivery: &Delivery) -> Result<(), Failure> {
        self.deliver(delivery)
    }

    /// How often [`Sink::check_in_place`] is called between deliveries; `None`: never.
    fn check_interval(&self) -> Option<Duration> {
        None
    }

    /// Whether what was delivered is still where its readers find it. Called once the sink is connected, whatever comes of
    /// [`Sink::upkeep`] and also while a delivery fills.
    ///
    /// # Errors
    /// The connection is of no use any more: connect again now, not before the next delivery only.
    fn check_in_place(&mut self) -> Result<(), Unavailable> {
        Ok(())
    }

    /// A small piece of work between deliveries, such as deleting what is too old. Called now and then once the sink is
    /// connected.
    ///
    /// # Errors
    /// The work could not be done. It is tried again later; deliveries continue.
    fn upkeep(&mut self, now: Clocks) -> Result<Upkeep, Unavailable> {
        let _ = now;
        Ok(Upkeep::again(None))
    }
}

/// Why a delivery was not stored. Nothing of it was, as far as the store can undo what it began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The store refuses these events, in order of position; deliver the rest without them. Never empty. The rest may be in a
    /// transaction that is still open: deliver it next, or connect, so that it ends.
    Refused(Vec<Refusal>),
    /// The store refuses the delivery and names no event; the router finds it by bisection.
    BatchRefused {
        /// The store's own code (SQLSTATE, HTTP status …).
        code: String,
        /// The store's message.
        reason: String,
    },
    /// Nothing can be stored now: deliver the same again.
    Unavailable(Unavailable),
}

impl From<Unavailable> for Failure {
    fn from(unavailable: Unavailable) -> Self {
        Self::Unavailable(unavailable)
    }
}

/// Why a store accepts nothing now. The reason names the store's error and, where a person must act, what to do.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unavailable {
    /// It passes: deliver the same again, not before `after` if the store named a time.
    #[error("{reason}")]
    Retry {
        /// What failed, for the log.
        reason: String,
        /// Not to be tried again before this time has passed; `None`: the store named none.
        after: Option<Duration>,
    },
    /// Nothing can be stored before a person acts (authentication, wrong schema, fenced): keep the data, try slowly.
    #[error("{reason}")]
    Down {
        /// What failed and what to do, for the log.
        reason: String,
    },
}

impl Unavailable {
    /// A failure that passes by itself; the store named no time.
    pub fn retry(reason: impl Into<String>) -> Self {
        Self::Retry { reason: reason.into(), after: None }
    }

    /// A failure that a person must fix.
    pub fn down(reason: impl Into<String>) -> Self {
        Self::Down { reason: reason.into() }
    }
}

/// The answer of a sink that delivers in order only.
/// The sink's kind supports no `telemetryx dead replay`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "a sink of this kind accepts events in order only, and only from the server: `telemetryx dead show --json` prints \
     them, and docs/operations.md, \"Dead letters\", describes how to send them to all sinks again"
)]
pub struct NoReplay;

/// One event that a store will never take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Position of the event.
    pub position: u64,
    /// The store's own code (SQLSTATE, verdict …).
    pub code: String,
    /// The store's message.
    pub reason: String,
}

/// What every sink needs to know about where it is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Names the log whose positions these are.
    pub server_id: [u8; 16],
    /// Random per process start: the newest owner of a position wins, an older one is fenced.
    pub owner: [u8; 16],
    /// Where the log ended when this process opened it; `u64::MAX`: there is none. A store that holds a position from
    /// there on has seen a newer log than this one, and is left to the process that has it.
    pub log_end: u64,
}

/// What a person looks at when a store cannot be reached; empty where the error itself is enough.
#[cfg(any(feature = "postgres", feature = "redis", feature = "grpc", feature = "http-sink"))]
fn connection_advice(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionRefused => "nothing listens there: start it, or check host and port in url",
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::AddrNotAvailable => {
            "check the host in url, the network and its firewalls"
        }
        // Of getaddrinfo, which has no kind of its own.
        _ if error.to_string().starts_with("failed to lookup address") => "check the host in url, and DNS",
        _ => "",
    }
}

/// What happened, and what to do about it where there is advice.
#[cfg(any(feature = "grpc", feature = "http-sink"))]
fn with_advice(reason: &str, advice: &str) -> String {
    if advice.is_empty() { reason.to_owned() } else { format!("{reason}: {advice}") }
}

/// The table of kinds. The first is the default sink.
pub const KINDS: &[Kind] = &[
    #[cfg(feature = "sqlite")]
    sqlite::KIND,
    #[cfg(feature = "postgres")]
    postgres::KIND,
    #[cfg(feature = "redis")]
    redis::KIND,
    #[cfg(feature = "grpc")]
    grpc::KIND,
    #[cfg(feature = "http-sink")]
    http::KIND,
    file::KIND,
    stdout::KIND,
    discard::KIND,
];
