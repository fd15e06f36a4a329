//! The layers and how they lie on each other: file < environment < `--set`. Defaults lie below, in `table.rs`.
//!
//! ```text
//!  --set section.key=value            ┐
//!  TELEMETRYX__SECTION__KEY=value     ├─▶ Merged { section.key ─▶ Given, sinks: [name, key ─▶ Given] }
//!  telemetryx.toml (see file.rs)      ┘      still unchecked, each value with where it came from
//! ```

use std::collections::BTreeMap;
use std::fmt;

use super::clients;
use super::environment::{self, VARIABLE_PREFIX};
use super::log_filter::FILTER_VARIABLE;
use super::{file, table};
use crate::settings::Raw;
use crate::settings::url::not_a_url;

/// Also the name of a file and the value of a metric's label.
const SINK_NAME_BYTES_MAX: usize = 64;
/// What is rejected on receipt is kept and counted under the first name, and was under the second in earlier versions.
const SINK_NAMES_TAKEN: [&str; 2] = ["ingest", "door"];

/// What the settings are made from. No `Debug` here and below: it would show secrets.
///
/// No file or variable is read below this type but those of `*_file` keys.
#[derive(Default)]
pub struct Layers {
    /// The settings file's name, as messages show it, and its text.
    pub file: Option<(String, String)>,
    /// The process's environment.
    pub environment: BTreeMap<String, String>,
    /// `--set`: key and value, in the order given.
    pub set: Vec<(String, String)>,
}

/// Where a value came from. A later variant overrides an earlier one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The table of settings; no layer set it.
    Default,
    /// This line of the settings file, from 1 on.
    File { name: String, line: usize },
    /// This environment variable.
    Environment(String),
    /// `--set` on the command line.
    Set,
}

impl Origin {
    /// Two values of one rank are from the same layer.
    pub fn rank(&self) -> u8 {
        match self {
            Self::Default => 0,
            Self::File { .. } => 1,
            Self::Environment(_) => 2,
            Self::Set => 3,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => write!(out, "default"),
            Self::File { name, line } => write!(out, "{name}:{line}"),
            Self::Environment(variable) => write!(out, "{variable}"),
            Self::Set => write!(out, "--set"),
        }
    }
}

/// A value that is not checked yet.
#[derive(Clone)]
pub struct Given {
    /// The value, not checked.
    pub raw: Raw,
    /// Where it came from, for error messages.
    pub origin: Origin,
}

/// The given keys of one section or sink.
pub(super) type Keys = BTreeMap<String, Given>;

/// A sink or client that a layer named.
pub struct GivenSink {
    /// Name in `[sinks.NAME]`.
    pub name: String,
    /// Where it was named first.
    pub origin: Origin,
    /// Its keys, relative to the sink.
    pub keys: Keys,
}

/// The values of all layers, for each key the one that overrides the others.
#[derive(Default)]
pub struct Merged {
    /// By full key, `section.key`; without those of sinks and clients.
    pub keys: Keys,
    /// In the order in which they were first named.
    pub sinks: Vec<GivenSink>,
    /// As the sinks.
    pub clients: Vec<GivenSink>,
}

impl Layers {
    /// Lays the layers on each other. What cannot be placed becomes a problem.
    pub fn merge(&self, problems: &mut Vec<String>) -> Merged {
        let mut merged = match &self.file {
            Some((name, text)) => file::read(name, text, &self.environment, problems),
            None => Merged::default(),
        };
        merged.check_sink_names(problems);
        // Another name for its variable, which overrides it.
        if let Some(filter) =
            self.environment.get(FILTER_VARIABLE).map(|text| text.trim()).filter(|text| !text.is_empty())
        {
            let origin = Origin::Environment(FILTER_VARIABLE.to_owned());
            merged.keys.insert(table::LOG_FILTER.to_owned(), Given { raw: Raw::Text(filter.to_owned()), origin });
        }
        for (variable, value) in &self.environment {
            if let Some(meant) = environment::meant(variable, value) {
                problems.push(format!("{variable}: unknown variable: did you mean `{meant}`?"));
            } else if let Some(path) = variable.strip_prefix(VARIABLE_PREFIX) {
                let path = path.to_ascii_lowercase();
                let segments: Vec<&str> = path.split("__").collect();
                let given = Given { raw: Raw::Text(value.clone()), origin: Origin::Environment(variable.clone()) };
                merged.place(&segments, given, problems);
            }
        }
        for (key, value) in &self.set {
            let segments: Vec<&str> = key.split('.').collect();
            let given = Given { raw: Raw::Text(value.clone()), origin: Origin::Set };
            merged.place(&segments, given, problems);
        }
        merged
    }
}

impl Merged {
    fn place(&mut self, segments: &[&str], given: Given, problems: &mut Vec<String>) {
        match segments {
            ["sinks", name, key @ ..] if !key.is_empty() => {
                let index = match self.sinks.iter().position(|sink| same_name(&sink.name, name)) {
                    Some(index) => index,
                    None => {
                        if let Err(why) = check_sink_name(name) {
                            problems.push(format!("{}: {why}", given.origin));
                            return;
                        }
                        let sink =
                            GivenSink { name: (*name).to_owned(), origin: given.origin.clone(), keys: Keys::new() };
                        self.sinks.push(sink);
                        self.sinks.len() - 1
                    }
                };
                if let Some(sink) = self.sinks.get_mut(index) {
                    sink.keys.insert(key.join("."), given);
                }
            }
            ["sinks", ..] => problems
                .push(format!("{}: a sink's setting is named sinks.NAME.KEY, such as sinks.sqlite.path", given.origin)),
            ["clients", name, key @ ..] if !key.is_empty() => {
                clients::place(&mut self.clients, name, &key.join("."), given);
            }
            ["clients", ..] => problems.push(format!(
                "{}: a client's setting is named clients.NAME.KEY, such as clients.api.token_file",
                given.origin
            )),
            _ => {
                self.keys.insert(segments.join("."), given);
            }
        }
    }

    fn check_sink_names(&self, problems: &mut Vec<String>) {
        for (index, sink) in self.sinks.iter().enumerate() {
            if let Err(why) = check_sink_name(&sink.name) {
                problems.push(format!("{}: {why}", sink.origin));
            }
            if let Some(first) = self.sinks.iter().take(index).find(|first| same_name(&first.name, &sink.name)) {
                let why = if first.name == sink.name { "" } else { ": names must differ in more than case, - and _" };
                problems.push(format!(
                    "{}: sink `{}` has the name of sink `{}` ({}){why}",
                    sink.origin, sink.name, first.name, first.origin
                ));
            }
        }
    }
}

/// The environment has neither lower case nor dashes, so names must differ without them.
pub(super) fn same_name(a: &str, b: &str) -> bool {
    let fold = |byte: u8| if byte == b'-' { b'_' } else { byte.to_ascii_lowercase() };
    a.bytes().map(fold).eq(b.bytes().map(fold))
}

fn check_sink_name(name: &str) -> Result<(), String> {
    let letters = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    if name.is_empty() || name.len() > SINK_NAME_BYTES_MAX || !letters || name.contains("__") {
        let name = not_a_url(name);
        return Err(format!(
            "`{name}` is not a name for a sink: use 1 to {SINK_NAME_BYTES_MAX} letters, digits, - and _, but not __"
        ));
    }
    if SINK_NAMES_TAKEN.iter().any(|taken| same_name(name, taken)) {
        return Err(format!(
            "`{name}` is reserved, events rejected on receipt are kept under this name: choose another one"
        ));
    }
    Ok(())
}
