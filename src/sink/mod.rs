//! Sinks: the trait, the table of kinds, one file per sink.
//!
//! A sink only implements its store's protocol. Retry, backoff, deadlines, bisection, dead letters, metrics and the
//! positions of stores that keep none are the router's.
//!
//! Adding a sink is one file with its [`Kind`], its `Settings` and its `Sink`, one variant of [`Settings`], and its
//! lines in [`KINDS`], [`open`] and [`Settings::output`].

pub mod creatable;
pub mod discard;
pub mod file;
#[cfg(feature = "grpc")]
pub mod grpc;
#[cfg(feature = "http-sink")]
pub mod http;
mod ndjson;
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
#[cfg(any(feature = "postgres", feature = "redis", feature = "grpc", feature = "http-sink"))]
pub(crate) mod tls;
pub mod upkeep;

use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;

use crate::batch::Delivery;
use crate::config::setting::Setting;
use crate::config::steps::StepSettings;
pub use crate::ids::uuid;
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
    /// The store refuses these events, in order of position; deliver the rest without them. Never empty.
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

/// One `[[sinks]]` section.
#[derive(Debug, Clone, PartialEq)]
pub struct SinkSettings {
    /// Label of its metrics, name of its files: letters, digits, `-` and `_`. `ingest` is taken by the dead letters.
    pub name: String,
    /// Acknowledgements of level `delivered` wait for this sink.
    pub required: bool,
    /// When the log is full of what this sink has not taken, its oldest events are dropped; else the log waits for it.
    pub drops_oldest: bool,
    /// How its events are gathered into deliveries.
    pub batch: BatchSettings,
    /// What of the stream it gets, and in what form.
    pub steps: StepSettings,
    /// The sink's kind, with the settings of that kind.
    pub kind: Settings,
}

/// How events are gathered into one delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchSettings {
    /// Events of one delivery; at least 1.
    pub max_events: u64,
    /// Encoded bytes of one delivery; one event is always allowed.
    pub max_bytes: usize,
    /// After a delivery, the wait for more events to fill the next one. An idle sink is served at once.
    pub max_age: Duration,
}

/// `kind = "…"` with the settings of that kind beside it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Settings {
    /// `sqlite`: an SQLite database.
    #[cfg(feature = "sqlite")]
    Sqlite(sqlite::Settings),
    /// `postgres`: a table in PostgreSQL.
    #[cfg(feature = "postgres")]
    Postgres(postgres::Settings),
    /// `redis`: streams in Redis.
    #[cfg(feature = "redis")]
    Redis(redis::Settings),
    /// `grpc`: a gRPC service of the user's.
    #[cfg(feature = "grpc")]
    Grpc(grpc::Settings),
    /// `http`: an HTTP service of the user's.
    #[cfg(feature = "http-sink")]
    Http(http::Settings),
    /// `file`: NDJSON in a file or FIFO.
    File(file::Settings),
    /// `stdout`: NDJSON on standard output.
    Stdout(stdout::Settings),
    /// `discard`: nothing is stored.
    Discard(discard::Settings),
}

/// The sink called `name`. Touches nothing outside before [`Sink::connect`].
#[cfg_attr(
    not(any(feature = "sqlite", feature = "postgres", feature = "redis", feature = "grpc")),
    expect(unused_variables)
)] // files need no name
pub fn open(name: &str, settings: &Settings, identity: &Identity) -> Box<dyn Sink> {
    match settings {
        #[cfg(feature = "sqlite")]
        Settings::Sqlite(settings) => Box::new(sqlite::Sqlite::new(name, settings, identity)),
        #[cfg(feature = "postgres")]
        Settings::Postgres(settings) => Box::new(postgres::Postgres::new(name, settings, identity)),
        #[cfg(feature = "redis")]
        Settings::Redis(settings) => Box::new(redis::Redis::new(name, settings, identity)),
        #[cfg(feature = "grpc")]
        Settings::Grpc(settings) => Box::new(grpc::Grpc::new(name, settings, identity)),
        #[cfg(feature = "http-sink")]
        Settings::Http(settings) => Box::new(http::Http::new(settings, identity)),
        Settings::File(settings) => Box::new(file::File::new(settings, identity)),
        Settings::Stdout(_) => Box::new(stdout::Stdout::new(identity)),
        Settings::Discard(_) => Box::new(discard::Discard),
    }
}

impl Settings {
    /// Whether [`Sink::stored_position`] connects to another process to read the position.
    pub fn keeps_position_in_a_server(&self) -> bool {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => true,
            #[cfg(feature = "redis")]
            Self::Redis(_) => true,
            _ => false,
        }
    }

    /// Parts of the store by source, each with a position of its own; 1: it has one position.
    pub fn shards(&self) -> u64 {
        match self {
            #[cfg(feature = "redis")]
            Self::Redis(settings) => settings.shards(),
            _ => 1,
        }
    }

    /// What the sink writes to: two sinks may not write to the same. `None`: nothing.
    pub fn output(&self) -> Option<String> {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(settings) => Some(file_output(&settings.path)),
            #[cfg(feature = "postgres")]
            Self::Postgres(settings) => Some(settings.output()),
            #[cfg(feature = "redis")]
            Self::Redis(settings) => Some(settings.output()),
            #[cfg(feature = "grpc")]
            Self::Grpc(settings) => Some(settings.output()),
            #[cfg(feature = "http-sink")]
            Self::Http(settings) => Some(settings.output()),
            Self::File(settings) => Some(file_output(&settings.path)),
            Self::Stdout(_) => Some("standard output".to_owned()),
            Self::Discard(_) => None,
        }
    }

    /// Whether both write to the same.
    pub fn shares_output_with(&self, other: &Self) -> bool {
        match (self, other) {
            // What is shown of a URL leaves out its query.
            #[cfg(feature = "http-sink")]
            (Self::Http(one), Self::Http(other)) => one.url == other.url,
            #[cfg(feature = "postgres")]
            (Self::Postgres(one), Self::Postgres(other)) => one.shares_output_with(other),
            _ => self.output().is_some_and(|output| Some(output) == other.output()),
        }
    }

    /// What no row of the table of settings can check of a value: the key, and what is wrong with it.
    pub fn check(&self) -> Result<(), (Cow<'static, str>, String)> {
        #[cfg(any(feature = "postgres", feature = "redis", feature = "grpc"))]
        let of_row = |(key, why): (&'static str, String)| (Cow::Borrowed(key), why);
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(settings) => settings.check().map_err(of_row),
            #[cfg(feature = "redis")]
            Self::Redis(settings) => settings.check().map_err(of_row),
            #[cfg(feature = "grpc")]
            Self::Grpc(settings) => settings.check().map_err(of_row),
            #[cfg(feature = "http-sink")]
            Self::Http(settings) => settings.check(),
            _ => Ok(()),
        }
    }

    /// The file of authorities for TLS that it names.
    pub fn ca_file(&self) -> Option<&Path> {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(settings) => settings.ca_file.as_deref(),
            #[cfg(feature = "redis")]
            Self::Redis(settings) => settings.ca_file.as_deref(),
            #[cfg(feature = "grpc")]
            Self::Grpc(settings) => settings.ca_file.as_deref(),
            #[cfg(feature = "http-sink")]
            Self::Http(settings) => settings.ca_file.as_deref(),
            _ => None,
        }
    }

    /// The statements that create its tables; `None`: it has none.
    pub fn ddl(&self) -> Option<String> {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(_) => Some(sqlite::ddl()),
            #[cfg(feature = "postgres")]
            Self::Postgres(settings) => settings.ddl(),
            _ => None,
        }
    }
}

/// Reads a file of authorities as a sink does when it connects.
///
/// # Errors
/// Names the key, the file, and what is wrong with it.
pub fn check_ca_file(path: &Path) -> Result<(), String> {
    #[cfg(any(feature = "postgres", feature = "redis", feature = "grpc", feature = "http-sink"))]
    return tls::authorities(path).map(drop);
    #[cfg(not(any(feature = "postgres", feature = "redis", feature = "grpc", feature = "http-sink")))]
    Err(format!("ca_file {}: no sink of this build has TLS", path.display()))
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

/// What to do about rows in `tables` (events, positions) of a log whose position is missing. `owner`: of the sink that
/// finds it, which then continues.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
fn missing_position(tables: (&str, &str), [server_id, sink, owner]: [&str; 3], last: u64) -> String {
    let (events, positions) = tables;
    format!(
        "{events} has rows of this log up to position {last}, and {positions} has no position of it: it was removed. \
         To continue after them: INSERT INTO {positions} (server_id, sink, position, owner) \
         VALUES ('{server_id}', '{sink}', {last}, '{owner}'); with 0 in place of {last} everything that the log still has \
         is delivered again, and rows that are there stay"
    )
}

/// A file as an output, the same for every way to write its path that no link makes different.
fn file_output(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

/// What the settings need to know of a kind of sink.
pub struct Kind {
    /// As in `kind = "…"`.
    pub name: &'static str,
    /// What it is for and what it guarantees, in full sentences; printed into the documented settings.
    pub doc: &'static str,
    /// Its own keys, beside those that every sink has.
    pub settings: &'static [Setting],
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn the_settings_of_a_kind_are_beside_it() {
        let settings =
            parse("kind = 'file'\npath = '/x'\nrotate_bytes = 5\nrotate_age = { secs = 7, nanos = 0 }").unwrap();
        let expected = file::Settings { path: "/x".into(), rotate_bytes: 5, rotate_age: Duration::from_secs(7) };
        assert_eq!(settings, Settings::File(expected));
    }

    #[test]
    fn unknown_kinds_and_keys_are_refused_by_name() {
        assert!(parse("kind = 'kafka'").unwrap_err().to_string().contains("kafka"));
        for kind in ["file", "stdout", "discard"] {
            let error = parse(&format!("kind = '{kind}'\npaht = 'x'")).unwrap_err();
            assert!(error.to_string().contains("paht"), "{kind}: {error}");
        }
    }

    struct Nothing(Settings);

    impl testing::Store for Nothing {
        const EXACTLY_ONCE: bool = false;
        const KEEPS_POSITIONS: bool = false;

        fn sink(&self, owner: u8) -> Box<dyn Sink> {
            open("out", &self.0, &testing::identity(owner))
        }

        fn stored(&self) -> Option<Vec<testing::Row>> {
            None
        }
    }

    #[test]
    fn discard_passes_the_conformance_suite() {
        testing::conformance(|| Nothing(Settings::Discard(discard::Settings {})));
    }
}
