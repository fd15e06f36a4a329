//! Settings, once: layers in, one typed and checked [`Config`] out.
//!
//! ```text
//!  defaults < telemetryx.toml < TELEMETRYX__SECTION__KEY < --set section.key=value
//!      │            │                    │                       │
//!   table.rs     file.rs             layers.rs                layers.rs
//!      └────────────┴──── resolve.rs ────┴───────────────────────┘
//!                              │  every value against its row, then their relations
//!                 Config ◀─────┴─────▶ Resolved: values with where they came from (document.rs prints them)
//! ```
//!
//! The keys of a sink are rows of its kind, in [`crate::sink::KINDS`]: this module is above [`crate::sink`], and what both
//! need is below both, in [`crate::settings`].
//!
//! After [`load`] no setting is wrong: nothing else in the server checks one. The problems of all keys are reported together.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::batch::shares::Shares;
use crate::event::UnknownKeys;
use crate::limits::{EVENT_LOOP_BUFFER_BYTES_LOWEST, EVENT_LOOPS_DEFAULT_MAX, SETTINGS_FILE_BYTES_MAX};
use crate::settings::url::not_a_url;
use crate::settings::{Hosts, Networks};
use crate::sink::{BatchSettings, SinkSettings};
use crate::small_file;
use crate::wire::AckLevel;

pub mod changes;
pub mod clients;
pub mod document;
mod environment;
mod file;
mod foreign;
mod known;
mod layers;
pub mod log_filter;
mod resolve;
#[cfg(all(test, feature = "sqlite", feature = "postgres", feature = "redis", feature = "grpc", feature = "http-sink"))]
mod secrets_tests;
mod table;
pub mod tls;
// The default sink is SQLite.
#[cfg(all(test, feature = "sqlite"))]
mod clients_tests;
#[cfg(all(test, feature = "sqlite"))]
mod tests;

pub use clients::Client;
pub use layers::Layers;
pub use log_filter::LogFilter;
pub use resolve::Resolved;
pub use tls::Tls;

/// Names the settings file when `--config` does not.
const FILE_VARIABLE: &str = "TELEMETRYX_CONFIG";
/// Read from the working directory if it is there and no other file is named.
const FILE_DEFAULT: &str = "telemetryx.toml";

/// Every setting of a server, checked. `Debug` shows no secret.
#[derive(Debug)]
pub struct Config {
    /// Directory of everything that the server keeps.
    pub data_dir: PathBuf,
    /// `[server]`.
    pub server: Server,
    /// `[tls]`.
    pub tls: Tls,
    /// `[limits]`.
    pub limits: RateLimits,
    /// Names differ; at most [`CLIENTS_MAX`](crate::limits::CLIENTS_MAX).
    pub clients: Vec<Client>,
    /// `[http]`.
    pub http: Http,
    /// `[syslog]`.
    pub syslog: Syslog,
    /// `[wal]`.
    pub wal: Wal,
    /// What a sink's own batch settings default to.
    pub batch: BatchSettings,
    /// At least one; names differ, and so do the files they write.
    pub sinks: Vec<SinkSettings>,
    /// `[log]`.
    pub log: Log,
}

/// `[server]`; `table.rs` documents each setting.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Where to listen, for frames and HTTP alike; port 0 is any free port.
    pub address: SocketAddr,
    /// Promised to agents and requests that ask for no level; *received* without a log.
    pub ack: AckLevel,
    /// At most an eighth of `buffer_bytes`.
    pub max_frame_bytes: usize,
    /// At most a quarter of `buffer_bytes`.
    pub max_body_bytes: usize,
    /// Memory for events that no sink has stored yet, bytes; reserved at start.
    pub buffer_bytes: usize,
    /// 0: see [`Config::event_loops`].
    pub event_loops: usize,
    /// Open connections; those beyond it are refused.
    pub max_connections: usize,
    /// Silent connections that have shown neither a valid HELLO nor a whole HTTP head.
    pub max_unauthenticated: usize,
    /// Between two requests of one connection.
    pub http_idle_timeout: Duration,
    /// Agents whose last sequence number is remembered.
    pub max_agents: usize,
    /// How long a disconnected agent is remembered at least.
    pub dedupe_retention: Duration,
    /// After SIGTERM, the time that sinks have for what was accepted.
    pub drain_timeout: Duration,
    /// `None`: no token is needed.
    pub tokens_file: Option<PathBuf>,
    /// Whether tokens are accepted on unencrypted connections from other machines.
    pub allow_plaintext_tokens: bool,
    /// `None`: there is no token for pages.
    pub pages_token_file: Option<PathBuf>,
}

/// `[limits]`; 0: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimits {
    /// Of everybody together.
    pub events_per_second: u64,
    /// Of everybody together.
    pub bytes_per_second: u64,
    /// Of each agent or address.
    pub agent_events_per_second: u64,
    /// Of each agent or address.
    pub agent_bytes_per_second: u64,
    /// Time whose events and bytes may come at once.
    pub burst: Duration,
}

impl Config {
    /// How many event loops there are on `cores` cores: what is set, or one per core, at most [`EVENT_LOOPS_DEFAULT_MAX`],
    /// and fewer where their parts of the pool would be too small for a body, a frame, or a sink's batch.
    pub fn event_loops(&self, cores: usize) -> usize {
        let server = &self.server;
        let lowest = Shares::lowest_buffer_bytes(server.max_body_bytes, server.max_frame_bytes);
        let batch = self.sinks.iter().map(|sink| sink.batch.max_bytes).max().unwrap_or(0);
        let part = lowest.max(EVENT_LOOP_BUFFER_BYTES_LOWEST).max(8 * server.max_frame_bytes).max(4 * batch);
        match server.event_loops {
            0 => cores.min(EVENT_LOOPS_DEFAULT_MAX).min(server.buffer_bytes / part).max(1),
            loops => loops,
        }
    }
}

impl Server {
    /// The part of `buffer_bytes` that each loop has, as far as it is set; of one loop it is all.
    pub fn part_bytes(&self) -> usize {
        self.buffer_bytes / self.event_loops.max(1)
    }
}

/// `[http]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// What becomes of unknown keys in JSON, where a request does not say it.
    pub unknown_keys: UnknownKeys,
    /// Names under which the status page is shown, beside IP addresses and `localhost`.
    pub hosts: Hosts,
}

/// `[syslog]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Syslog {
    /// Over TCP, on the port of agents.
    pub enabled: bool,
    /// Over UDP as well, on the port of the same number.
    pub udp: bool,
    /// Whose messages are accepted.
    pub allow: Networks,
}

/// `[wal]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wal {
    /// `false`: events are in memory only, and *received* is the only ack level.
    pub enabled: bool,
    /// Bytes of one segment file.
    pub segment_bytes: u64,
    /// At least twice `segment_bytes`.
    pub max_bytes: u64,
    /// How long events stay in the log after every sink has stored them.
    pub keep: Duration,
}

/// `[log]`: the server's log lines.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Form of the log lines.
    pub format: LogFormat,
    /// Which are written, as it was set; [`Resolved::log_filter`] is the same, parsed.
    pub filter: String,
    /// Agents whose frames are logged, as [`log_filter::agents`] reads them.
    pub agents: String,
}

/// Form of the server's log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line of text per event, for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Wrong settings: one line per problem, each with the key, where it was set, and what was expected. Exit code 78.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .problems.join("\n"))]
pub struct ConfigError {
    /// One line for each problem; at least one.
    pub problems: Vec<String>,
}

/// Reads the settings of this process: `file`, else `TELEMETRYX_CONFIG`, else `telemetryx.toml` if it is there; over it
/// the environment, over that `set` (key and value).
pub fn load(file: Option<&Path>, set: Vec<(String, String)>) -> Result<Resolved, ConfigError> {
    let mut environment = BTreeMap::new();
    for (variable, value) in std::env::vars_os() {
        match (variable.into_string(), value.into_string()) {
            (Ok(variable), Ok(value)) => {
                environment.insert(variable, value);
            }
            (Ok(variable), Err(_)) if variable.starts_with("TELEMETRYX_") => {
                return Err(problem(format!("{variable}: its value is not UTF-8")));
            }
            // A variable that no setting can name.
            _ => {}
        }
    }
    let named = file
        .map(|path| (path.to_owned(), String::new()))
        .or_else(|| {
            let path = environment.get(FILE_VARIABLE).filter(|path| !path.is_empty())?;
            Some((PathBuf::from(path), format!("{FILE_VARIABLE}: ")))
        })
        .or_else(|| {
            let path = PathBuf::from(FILE_DEFAULT);
            path.exists().then_some((path, String::new()))
        });
    let file = match named {
        Some((path, by)) => match small_file::read_text(&path, SETTINGS_FILE_BYTES_MAX) {
            Ok(text) => Some((path.display().to_string(), text)),
            Err(error) => {
                return Err(problem(format!(
                    "{by}{}: cannot be read: {error}",
                    not_a_url(&path.display().to_string())
                )));
            }
        },
        None => None,
    };
    Layers { file, environment, set }.resolve()
}

fn problem(problem: String) -> ConfigError {
    ConfigError { problems: vec![problem] }
}
