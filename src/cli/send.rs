//! `telemetryx send`: the lines of files or of standard input become events, and each is acknowledged.
//!
//! - Text: a line is the body of a log event, its time is that of reading. Empty lines are events too, so that numbers
//!   agree. A line end is `\n` or `\r\n`; a last line without one counts. Bytes that are not UTF-8 become U+FFFD and
//!   are reported. A line beyond 64 KiB is cut at a character, and its event has the attribute `truncated = true`.
//! - NDJSON: a line is an event; empty lines are not. A line that is not an event ends the command with its number, once
//!   all before it is acknowledged.
//! - JSON: the elements of an array, or objects that follow one another, are events. They are read one at a time: the
//!   array may be larger than memory. What is not an event ends the command, as above.
//!
//! With `--map`, `--unknown` and `--time` the JSON is that of other agents and libraries, read as `POST /v1/events` reads it
//! with `?map=`, `?unknown=` and `?time=`; then every JSON object is an event. With `--map` a line that is not an object is text: what
//! a program writes among its JSON (a banner, a stack trace) neither ends the command nor is lost. It is reported.
//!
//! gzip is unpacked and a byte order mark dropped; other encodings are refused by name (`input`).
//!
//! Lines that are there are sent at once, so that it may follow a growing log: `tail -f app.log | telemetryx send`.
//!
//! **Every ending says how many events were acknowledged**: success, an error, a signal (`stop`).

mod elements;
mod input;
mod lines;
mod progress;
mod sending;
mod stop;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

use self::progress::{Live, how_far};
use self::sending::{Sending, Sent};
use self::stop::Stop;
use super::address::Address;
use super::tls_args::TlsArgs;
use super::{Failure, SettingsArgs, print, read_token};
use crate::client::{self, Client, ClientError, Progress, Stopped};
use crate::counted::{Counted, PartOf};
use crate::event::{FIELD_NAMES, JsonOptions, Map, TimeUnit, UnknownKeys};
use crate::limits::EVENT_NAME_BYTES_MAX;
use crate::wire::{AckLevel, GoawayCode};

/// How long to try for a first connection by default: a server that is just starting is found, a wrong address soon
/// reported.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait for an acknowledgement by default.
const ACK_PATIENCE: Duration = Duration::from_secs(30);

#[derive(Args)]
pub(super) struct SendArgs {
    #[command(flatten)]
    pub options: SendOptions,
    #[command(flatten)]
    pub(super) settings: SettingsArgs,
}

#[derive(Debug, Clone, Args)]
pub(super) struct SendOptions {
    /// Files to send; `-` or none: standard input. gzip is unpacked
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Server to send to, HOST or HOST:PORT [default: server.address]
    #[arg(long, value_name = "ADDR")]
    pub to: Option<Address>,
    /// Format of the input
    #[arg(long, value_enum, default_value_t = Format::Auto)]
    pub format: Format,
    /// Whose keys the JSON has: fluentbit, vector, pino, zap, ecs or docker
    #[arg(long, value_name = "MAP")]
    pub map: Option<Map>,
    /// What becomes of unknown keys in JSON: reject or attributes [default: reject]
    #[arg(long, value_name = "WHAT", conflicts_with = "map")]
    pub unknown: Option<UnknownKeys>,
    /// Unit of times in JSON that are numbers: s, ms, us or ns [default: ns, or that of the map]
    #[arg(long, value_name = "UNIT")]
    pub time: Option<TimeUnit>,
    /// Name of the events that are created from text
    #[arg(long, default_value = "log", value_parser = name_of_event)]
    pub name: String,
    /// Source of the events that have none [default: the name of this host]
    #[arg(long, value_parser = name_of_event)]
    pub source: Option<String>,
    /// File that contains the token
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    #[command(flatten)]
    pub tls: TlsArgs,
    /// Acknowledge events once they are received, written, synced or delivered [default: server.ack of the server]
    #[arg(long, value_name = "LEVEL")]
    pub ack: Option<AckLevel>,
    /// Has no effect, kept for scripts: long lines are always truncated
    #[arg(long, hide = true)]
    pub truncate: bool,
    /// Fail after this time without a connection or an acknowledgement; 0 waits forever [default: 5 for the first
    /// connection, then 30]
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
}

impl SendOptions {
    /// How JSON is read.
    fn json(&self) -> JsonOptions {
        JsonOptions { unknown: self.unknown.unwrap_or_default(), map: self.map, time: self.time }
    }

    /// Whether this line is an event: a JSON object whose keys are all an event's, or any object where other keys are allowed.
    fn is_event(&self, line: &[u8]) -> bool {
        let allows_all = self.map.is_some() || self.unknown == Some(UnknownKeys::Attributes);
        match serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(line) {
            Ok(object) => {
                let known = |key: &String| FIELD_NAMES.contains(&key.as_str());
                !object.is_empty() && (allows_all || object.keys().all(known))
            }
            Err(_) => false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// JSON or NDJSON if the input begins with an event or the name ends in .ndjson or .jsonl, else text
    Auto,
    /// Each line is the body of an event
    Text,
    /// Each line is an event as JSON
    Ndjson,
    /// An array of events, or event objects that follow one another
    Json,
}

/// Why not all was sent and acknowledged.
#[derive(Debug, thiserror::Error)]
enum SendError {
    /// A line is not an event, and what was read before it was not all acknowledged.
    #[error("{line}; {before}")]
    LineAndBefore { line: Box<SendError>, before: Box<SendError> },
    /// A file that is named cannot be opened; nothing is sent.
    #[error("{path}: {source}")]
    Open { path: String, source: io::Error },
    #[error("{path}: {source}")]
    Read { path: String, source: io::Error },
    #[error("{0}")]
    Token(String),
    /// A file of certificates or of a key.
    #[error("{0}")]
    Tls(String),
    #[error("{path}:{line}: {error}")]
    Line { path: String, line: u64, error: LineError },
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The server requires a token, and none is named.
    #[error("{0}; name a file that contains the token with --token-file")]
    NoToken(ClientError),
    /// Nothing listens there.
    #[error("{0}; start the server, or check host and port")]
    NobodyListens(ClientError),
    #[error("{} refused by the server", PartOf(*refused, Counted(*events, "event")))]
    Refused { refused: u64, events: u64 },
    #[error("interrupted")]
    Interrupted { signal: u8 },
}

impl SendError {
    /// The signal that ended the command.
    fn signal(&self) -> Option<u8> {
        match self {
            Self::Interrupted { signal } => Some(*signal),
            Self::LineAndBefore { line, .. } => line.signal(),
            _ => None,
        }
    }
}

/// Why a line cannot be sent.
#[derive(Debug, thiserror::Error)]
enum LineError {
    #[error("the line has {found} bytes; an event as JSON has at most 1 MiB")]
    JsonTooLong { found: u64 },
    #[error("not an event: {0}")]
    Json(String),
}

/// How the command failed, and how far it had come.
#[derive(Debug, thiserror::Error)]
#[error("{error}; {}", how_far(.progress, *.events))]
struct Ended {
    error: Box<SendError>,
    progress: Progress,
    /// Events that were read.
    events: u64,
}

impl From<SendError> for Ended {
    /// Before the first event.
    fn from(error: SendError) -> Self {
        Self { error: Box::new(error), progress: Progress::default(), events: 0 }
    }
}

impl From<Ended> for Failure {
    fn from(ended: Ended) -> Self {
        let message = ended.to_string();
        match (ended.error.signal(), &*ended.error) {
            (Some(signal), _) => Self::Interrupted { message, signal },
            (None, SendError::Open { .. }) => Self::Usage(message),
            (None, _) => Self::Failed(message),
        }
    }
}

/// Sends, and prints one line about it. `Ok`: all events are acknowledged, none is refused.
pub(super) fn run(settings: &SettingsArgs, options: &SendOptions) -> Result<(), Failure> {
    let address = Address::or_of_settings(options.to.as_ref(), settings, "send --to")?;
    let live = Live::new(&files(options));
    let stop = Stop::on_signals({
        let live = live.clone();
        move |signal| live.give_up(signal)
    });
    let stop = stop.map_err(|error| Failure::Failed(format!("cannot watch for signals: {error}")))?;
    check_files(&files(options)).map_err(Ended::from)?;
    // A name that does not resolve is an error at once; a server that is only starting is waited for.
    address.resolve()?;
    let begin = Instant::now();
    let sent = send(address.to_string(), options, &stop, &live)?;
    print(&format!(
        "sent {} ({}) in {:.1} s · {} acknowledged ({})\n",
        Counted(sent.events, "event"),
        megabytes(sent.bytes),
        begin.elapsed().as_secs_f64(),
        sent.progress.acknowledged_events,
        sent.level.map_or("", AckLevel::name),
    ))
}

fn files(options: &SendOptions) -> Vec<PathBuf> {
    if options.files.is_empty() { vec![PathBuf::from("-")] } else { options.files.clone() }
}

/// Checks that each of the files can be opened, so that none is found missing after others were sent. It is closed again:
/// there may be more of them than a process may have open.
fn check_files(files: &[PathBuf]) -> Result<(), SendError> {
    let open = files.iter().filter(|path| !is_standard_input(path)).map(|path| (path, input::check(path)));
    for (path, checked) in open {
        checked.map_err(|source| SendError::Open { path: shown(path), source })?;
    }
    Ok(())
}

/// How long to wait for the first connection and then for each acknowledgement, by the `--timeout` in seconds; `None`:
/// forever.
fn patience(timeout: Option<u64>) -> (Option<Duration>, Option<Duration>) {
    match timeout {
        None => (Some(CONNECT_PATIENCE), Some(ACK_PATIENCE)),
        Some(0) => (None, None),
        Some(seconds) => (Some(Duration::from_secs(seconds)), Some(Duration::from_secs(seconds))),
    }
}

/// Sends what `options` name; once it returns all is acknowledged.
fn send(address: String, options: &SendOptions, stop: &Stop, live: &Arc<Live>) -> Result<Sent, Ended> {
    let token = options.token_file.as_deref().map(read_token).transpose();
    let token = token.map_err(SendError::Token)?.unwrap_or_default();
    let tls = options.tls.connector().map_err(|failure| SendError::Tls(failure.to_string()))?;
    let (connect_patience, patience) = patience(options.timeout);
    let no_token = token.is_empty();
    let client = Client::connect(client::Options {
        // Events without a source get the agent's name; so it is sent once and not in each event.
        name: options.source.clone().unwrap_or_else(host_name),
        token,
        ack: options.ack,
        patience: connect_patience,
        tls,
        ..client::Options::new(address)
    });
    let mut client = client.map_err(|error| match error {
        ClientError::Stopped(Stopped::Refused { code: GoawayCode::Auth, ref text })
            if no_token && text.contains("requires a token") =>
        {
            SendError::NoToken(error)
        }
        ClientError::TimedOut { ref reason, .. } if reason.contains("refused (os error") => {
            SendError::NobodyListens(error)
        }
        error => SendError::Client(error),
    })?;
    client.set_patience(patience);

    let mut sending = Sending::new(client, options, stop, live);
    let read = files(options).iter().try_for_each(|file| sending.file(file));
    if let Err(error @ SendError::Client(_)) = read {
        return Err(sending.failed(error));
    }
    // Whatever is wrong with a line: all before it is acknowledged first.
    match (read, sending.finish()) {
        (Ok(()), Ok(sent)) => match stop.signal() {
            Some(signal) => Err(Ended {
                error: Box::new(SendError::Interrupted { signal }),
                progress: sent.progress,
                events: sent.events,
            }),
            None => Ok(sent),
        },
        (Ok(()), Err(ended)) => Err(ended),
        (Err(error), Ok(sent)) => Err(Ended { error: Box::new(error), progress: sent.progress, events: sent.events }),
        (Err(line), Err(Ended { error: before, progress, events })) => {
            let error = SendError::LineAndBefore { line: Box::new(line), before };
            Err(Ended { error: Box::new(error), progress, events })
        }
    }
}

/// What an event's name and source may be.
fn name_of_event(text: &str) -> Result<String, String> {
    match text.len() {
        1..=EVENT_NAME_BYTES_MAX => Ok(text.to_owned()),
        bytes => Err(format!("{bytes} bytes; from 1 to {EVENT_NAME_BYTES_MAX} are allowed")),
    }
}

fn is_standard_input(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn shown(path: &Path) -> String {
    if is_standard_input(path) { "standard input".to_owned() } else { path.display().to_string() }
}

/// The name that this host has: what `hostname` prints.
fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn megabytes(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}
