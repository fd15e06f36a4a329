//! Sinks: the trait, the table of kinds, one file a sink.
//!
//! A sink only speaks its store's language. Retry, backoff, deadlines, dead letters and metrics are the router's.

use std::time::Duration;

use crate::config::setting::{Form, Setting, Value};
use crate::pipeline::batch::Delivery;

/// Why a sink could not say yes. Every variant is an answer for one delivery.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// All of it is stored (or had been stored by an earlier attempt), and the position with it where the store
    /// keeps positions.
    Delivered,
    /// Nothing was stored, and the reason passes: deliver the same again, not before `after` if the store named a time.
    Retry { reason: String, after: Option<Duration> },
    /// The store refuses events and nothing of the delivery was stored; deliver the rest without them.
    /// Empty: it names none; the router finds them by bisection.
    Refused(Vec<Refusal>),
    /// Nothing can be stored before a person acts (authentication, wrong schema, fenced): keep the data, try slowly.
    Down { reason: String },
}

/// One event that a store will never take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub position: u64,
    /// The store's own code (SQLSTATE, verdict …).
    pub code: String,
    pub reason: String,
}

/// One store. Lives on its router's thread; may block there.
pub trait Sink: Send {
    /// Connects and prepares the store (tables exist before the port opens). Called again after a failed delivery.
    /// Returns the last position that the store holds of this `server_id`: `None` where it keeps no positions.
    fn connect(&mut self, server_id: [u8; 16]) -> Result<Option<u64>, Outcome>;

    /// Stores the delivery without the events at `except` (sorted positions refused earlier), and moves the store's
    /// position to the delivery's last one in the same transaction where the store can.
    fn deliver(&mut self, delivery: &Delivery, except: &[u64]) -> Outcome;
}

/// One `[[sinks]]` section.
#[derive(Debug, Clone, PartialEq)]
pub struct SinkSettings {
    pub name: String,
    pub required: bool,
    pub batch: BatchSettings,
    pub kind: Settings,
}

/// How events are gathered into one delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
pub struct BatchSettings {
    pub max_events: u64,
    pub max_bytes: usize,
    pub max_age: Duration,
}

/// The table of kinds: `kind = "…"` with the settings of that kind beside it.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Settings {
    Sqlite { path: std::path::PathBuf },
    File { path: std::path::PathBuf, rotate_bytes: u64, rotate_age: Duration },
    Stdout {},
    Discard {},
}

impl Settings {
    /// What the sink writes to: two sinks may not write to the same. `None`: nothing.
    pub fn output(&self) -> Option<String> {
        match self {
            Self::Sqlite { path } | Self::File { path, .. } => Some(file_output(path)),
            Self::Stdout {} => Some("standard output".to_owned()),
            Self::Discard {} => None,
        }
    }
}

/// A file as an output, the same for every way to write its path that no link makes different.
fn file_output(path: &std::path::Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

/// What the settings need to know of a kind of sink.
pub struct Kind {
    /// As in `kind = "…"`.
    pub name: &'static str,
    pub doc: &'static str,
    /// Its own keys, beside those that every sink has.
    pub settings: &'static [Setting],
}

/// The kinds there are. The first is the default sink.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "sqlite",
        doc: "An SQLite file, written in transactions that hold the sink's position too: exactly once.",
        settings: &[Setting {
            key: "path",
            default: Value::text("{data_dir}/events.db"),
            form: Form::Path,
            doc: "The database file; made at start if it is missing.",
        }],
    },
    Kind {
        name: "file",
        doc: "A file of one JSON object a line. At least once.",
        settings: &[
            Setting {
                key: "path",
                default: Value::text("{data_dir}/events.ndjson"),
                form: Form::Path,
                doc: "The file that is appended to.",
            },
            Setting {
                key: "rotate_bytes",
                default: Value::Bytes(256 * 1024 * 1024),
                form: Form::Bytes { min: 1024, max: 1 << 40 },
                doc: "Size from which a new file is begun.",
            },
            Setting {
                key: "rotate_age",
                default: Value::Duration(Duration::from_secs(24 * 3600)),
                form: Form::Duration { min: Duration::from_secs(1), max: Duration::from_secs(365 * 86_400) },
                doc: "Age from which a new file is begun.",
            },
        ],
    },
    Kind { name: "stdout", doc: "One JSON object a line on standard output. At least once.", settings: &[] },
    Kind {
        name: "discard",
        doc: "Takes everything and keeps nothing: for measuring what is before it.",
        settings: &[],
    },
];
