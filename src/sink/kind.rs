//! Kinds of sinks, and the settings of a sink: what a new kind implements beside [`Sink`].
//!
//! ```text
//!  [[sinks]] ──▶ Kind::settings ──▶ Values ──▶ Kind::parse ──▶ SinkConfig ──▶ SinkConfig::open ──▶ Sink
//!                each value against            once: relations of values,      at start, and by
//!                its row                       URLs, names, headers            every command
//! ```
//!
//! Nothing is parsed a second time when a sink is opened: a [`SinkConfig`] is valid. Only files that settings name are read
//! later, by [`SinkConfig::check`] and by each connect, since they may change.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::{Identity, Sink};
use crate::settings::steps::StepSettings;
use crate::settings::{Problem, Setting, Values};

/// A kind of sink, one line of [`super::KINDS`].
pub struct Kind {
    /// As in `kind = "…"`.
    pub name: &'static str,
    /// What it is for and what it guarantees, in full sentences; printed into the documented settings.
    pub doc: &'static str,
    /// Its own keys, beside those that every sink has.
    pub settings: &'static [Setting],
    /// Checks the values of these keys against each other, and parses what they contain.
    ///
    /// # Errors
    /// Names the value that a person must change.
    pub parse: fn(Values) -> Result<Box<dyn SinkConfig>, Problem>,
}

/// The settings of a sink of some kind, valid: parsed once by [`Kind::parse`]. `Debug` shows no secret.
pub trait SinkConfig: fmt::Debug + Send + Sync {
    /// Returns the sink called `name`. Touches nothing outside before [`Sink::connect`].
    fn open(&self, name: &str, identity: &Identity) -> Box<dyn Sink>;

    /// Where the sink writes: no two sinks may write to the same. `None`: nowhere.
    fn output(&self) -> Option<Output>;

    /// Reads the files that the settings name, as the sink does when it connects. No network is used.
    ///
    /// # Errors
    /// Names the key, the file, and what is wrong with it.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    /// The statements that create its tables; `None`: it has none.
    fn ddl(&self) -> Option<String> {
        None
    }

    /// Parts of the store by source, each with a position of its own; 1: it has one position.
    fn shards(&self) -> u64 {
        1
    }

    /// Whether [`Sink::stored_position`] connects to another process to read the position.
    fn keeps_position_in_a_server(&self) -> bool {
        false
    }
}

/// Where a sink writes. Two that are equal are the same place.
#[derive(Clone, PartialEq, Eq)]
pub struct Output {
    shown: String,
    /// All that distinguishes it from others; it may contain secrets.
    whole: String,
}

impl Output {
    /// An output that its text distinguishes from others.
    pub fn new(shown: impl Into<String>) -> Self {
        let shown = shown.into();
        Self { whole: shown.clone(), shown }
    }

    /// An output that is distinguished by `whole`, of which `shown` leaves something out.
    pub fn with_hidden(shown: impl Into<String>, whole: impl Into<String>) -> Self {
        Self { shown: shown.into(), whole: whole.into() }
    }

    /// The output for messages, without secrets.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// A file, the same for every way to write its path that no link makes different.
    pub fn file(path: &Path) -> Self {
        Self::new(std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string())
    }
}

/// Without secrets.
impl fmt::Display for Output {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.shown)
    }
}

/// As it is displayed.
impl fmt::Debug for Output {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.shown)
    }
}

/// One `[[sinks]]` section, valid.
#[derive(Debug)]
pub struct SinkSettings {
    /// Label of its metrics, name of its files: letters, digits, `-` and `_`. `ingest` is taken by the dead letters.
    pub name: String,
    /// Name of its kind.
    pub kind: &'static str,
    /// Acknowledgements of level `delivered` wait for this sink.
    pub required: bool,
    /// When the log is full of what this sink has not taken, its oldest events are dropped; else the log waits for it.
    pub drops_oldest: bool,
    /// How its events are gathered into deliveries.
    pub batch: BatchSettings,
    /// What of the stream it gets, and in what form.
    pub steps: StepSettings,
    /// The settings of its kind.
    pub config: Box<dyn SinkConfig>,
}

impl SinkSettings {
    /// Returns the sink. Touches nothing outside before [`Sink::connect`].
    pub fn open(&self, identity: &Identity) -> Box<dyn Sink> {
        self.config.open(&self.name, identity)
    }
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

#[cfg(test)]
mod tests {
    use super::super::testing::{self, Row, Store, identity};
    use super::super::{KINDS, discard, file};
    use super::*;
    use crate::settings::{Form, Value};

    /// The defaults of a kind.
    fn defaults(kind: &Kind) -> Values {
        let mut values = Values::default();
        kind.settings.iter().for_each(|row| values.insert(row.key, row.form, &row.default));
        values
    }

    #[test]
    fn every_kind_reads_its_rows_and_no_other_key() {
        for kind in KINDS {
            (kind.parse)(defaults(kind)).unwrap_or_else(|problem| panic!("{}: {problem:?}", kind.name));
            let mut more = defaults(kind);
            more.insert("paht", Form::Text, &Value::text("x"));
            let problem = (kind.parse)(more).unwrap_err();
            assert!(problem.why.contains("bug in the table") && problem.why.contains("paht"), "{problem:?}");
        }
    }

    #[test]
    fn the_values_of_a_section_are_those_of_the_sink() {
        let mut values = defaults(&file::KIND);
        values.insert("path", Form::Path, &Value::text("/x"));
        values.insert("rotate_bytes", Form::Bytes { min: 0, max: 5 }, &Value::Bytes(5));
        let config = (file::KIND.parse)(values).unwrap();
        let age = Duration::from_secs(24 * 3600);
        let expected = file::FileSettings { path: "/x".into(), rotate_bytes: 5, rotate_age: age };
        assert_eq!(format!("{config:?}"), format!("{expected:?}"));
        assert_eq!(config.output(), Some(Output::new("/x")));
    }

    #[test]
    fn an_output_is_shown_without_what_distinguishes_it() {
        let one = Output::with_hidden("http h/?***", "http h/?a");
        assert_eq!(format!("{one} {one:?}"), "http h/?*** http h/?***");
        assert_ne!(one, Output::with_hidden("http h/?***", "http h/?b"));
        let absolute = std::path::absolute("x").unwrap();
        assert_eq!(Output::file(Path::new("./x")), Output::new(absolute.display().to_string()));
    }

    struct Nothing;

    impl Store for Nothing {
        const EXACTLY_ONCE: bool = false;
        const KEEPS_POSITIONS: bool = false;

        fn sink(&self, owner: u8) -> Box<dyn Sink> {
            discard::DiscardSettings::default().open("out", &identity(owner))
        }

        fn stored(&self) -> Option<Vec<Row>> {
            None
        }
    }

    #[test]
    fn discard_passes_the_conformance_suite() {
        testing::conformance(|| Nothing);
    }
}
