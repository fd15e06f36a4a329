//! The settings.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::{Sqlite, ddl, keep};
use crate::settings::{Applies, Form, Setting, Value};
use crate::sink::{Identity, Kind, Output, Sink, SinkConfig};

/// What the settings know of it.
pub const KIND: Kind = Kind {
    name: "sqlite",
    doc: "An SQLite file, written in transactions that also store the sink's position: exactly once.",
    settings: &[
        Setting {
            key: "path",
            applies: Applies::OnRestart,
            default: Value::text("{data_dir}/events.db"),
            form: Form::Path,
            doc: "The database file; it and its directory are created if they are missing.",
        },
        Setting {
            key: "keep",
            applies: Applies::OnRestart,
            default: Value::text("forever"),
            form: Form::DurationOr {
                word: "forever",
                min: Duration::from_secs(1),
                max: Duration::from_secs(100 * 365 * 86_400),
                example: "30d",
            },
            doc: "Events that were received longer ago are deleted, a few at a time between deliveries. The file \
                  does not shrink: SQLite reuses the space.",
        },
        Setting {
            key: "indexes",
            applies: Applies::OnRestart,
            default: Value::text("none"),
            form: Form::Choice(&["none", "time"]),
            doc: "Index that is created together with the table: \"time\" makes queries for a period fast and deliveries \
                  slower. For a table that exists, run the statement that `telemetryx config --ddl NAME` prints; if it is large, \
                  that takes minutes, in which nothing is delivered.",
        },
    ],
    parse: |values| Ok(Box::new(values.read::<SqliteSettings>()?)),
};

/// `kind = "sqlite"`: an embedded database.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqliteSettings {
    /// The database file; it and its directory are created if they are missing.
    pub path: PathBuf,
    /// Events received longer ago are deleted; `None`: none are.
    #[serde(deserialize_with = "keep::deserialize")]
    pub keep: Option<Duration>,
    /// Created together with the table.
    pub indexes: Indexes,
}

/// Indexes beside the primary key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Indexes {
    /// There is none.
    None,
    /// On the column `time`.
    Time,
}

impl SinkConfig for SqliteSettings {
    fn open(&self, name: &str, identity: &Identity) -> Box<dyn Sink> {
        Box::new(Sqlite::new(name, self, identity))
    }

    fn output(&self) -> Option<Output> {
        Some(Output::file(&self.path))
    }

    fn ddl(&self) -> Option<String> {
        Some(ddl(self.indexes))
    }
}
