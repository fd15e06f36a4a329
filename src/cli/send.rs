//! `telemetryx send`: the lines of files or of standard input become events, and each is acknowledged.
//!
//! - Text: a line is the body of a log event, its time is that of reading. Empty lines are events too, so that numbers
//!   agree. A line end is `\n` or `\r\n`; a last line without one counts. Bytes that are not UTF-8 become U+FFFD and
//!   are reported. A line beyond 64 KiB ends the command, unless `--truncate` allows to cut it.
//! - NDJSON: a line is an event; empty lines are none. A line that is no event ends the command with its number, once
//!   all before it is acknowledged.
//!
//! Lines that are there are sent at once, so that it may follow a growing log: `tail -f app.log | telemetryx send`.

mod lines;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use self::lines::Lines;
use super::{Failure, SettingsArgs, print, reachable};
use crate::client::{self, Batch, Client, ClientError, Progress, Refusal, Report};
use crate::escape::escape;
use crate::event::proto::Event;
use crate::event::{FIELD_NAMES, JsonDecoder};
use crate::limits::{EVENT_BODY_BYTES_MAX, EVENT_NAME_BYTES_MAX, SEND_LINE_BYTES_MAX};
use crate::wire::AckLevel;

/// How long to try for a first connection: a server that is just starting is found, a wrong address soon reported.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

#[derive(Args)]
pub struct SendArgs {
    #[command(flatten)]
    pub options: SendOptions,
    #[command(flatten)]
    pub(super) settings: SettingsArgs,
}

#[derive(Debug, Clone, Args)]
pub struct SendOptions {
    /// Files to send; none, or `-`: standard input
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Server to send to; else server.address of the settings
    #[arg(long, value_name = "ADDR")]
    pub to: Option<String>,
    /// What a line is
    #[arg(long, value_enum, default_value_t = Format::Auto)]
    pub format: Format,
    /// Name of the events made from text
    #[arg(long, default_value = "log", value_parser = name_of_event)]
    pub name: String,
    /// Source of events that carry none; else this host's name
    #[arg(long, value_parser = name_of_event)]
    pub source: Option<String>,
    /// File that holds the token
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// What an acknowledgement must promise: received, written, synced or delivered; else what the server says
    #[arg(long, value_name = "LEVEL")]
    pub ack: Option<AckLevel>,
    /// Cut text lines beyond 64 KiB instead of stopping at them
    #[arg(long)]
    pub truncate: bool,
    /// Give up after this time without an acknowledgement; 0: never
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub timeout: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// NDJSON where the name ends in .ndjson or .jsonl, or the first line is a JSON object of an event's keys; else text
    Auto,
    /// A line is the body of a log event
    Text,
    /// A line is an event as JSON
    Ndjson,
}

/// Why not all was sent and acknowledged.
#[derive(Debug, thiserror::Error)]
enum SendError {
    /// A line is no event, and what came before it was not all acknowledged either.
    #[error("{line}; what came before it did not all arrive either: {before}")]
    LineAndBefore { line: Box<SendError>, before: Box<SendError> },
    #[error("{path}: {source}")]
    Read { path: String, source: io::Error },
    #[error("{path}: holds no token")]
    NoToken { path: String },
    #[error("{path}:{line}: {error}")]
    Line { path: String, line: u64, error: LineError },
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{refused} of {events} events were refused by the server")]
    Refused { refused: u64, events: u64 },
}

/// Why a line cannot be sent.
#[derive(Debug, thiserror::Error)]
enum LineError {
    #[error("the line has {found} bytes; a body has at most 64 KiB: --truncate cuts it")]
    TextTooLong { found: u64 },
    #[error("the line has {found} bytes; an event as JSON has at most 1 MiB")]
    JsonTooLong { found: u64 },
    #[error("no event: {0}")]
    Json(String),
}

/// Sends, and prints one line about it. Fine where all is acknowledged and nothing refused.
pub fn run(settings: &SettingsArgs, options: &SendOptions) -> Result<(), Failure> {
    let address = match &options.to {
        Some(address) => address.clone(),
        None => reachable(settings.load()?.config.server.address).to_string(),
    };
    let begin = Instant::now();
    let sent = send(address, options).map_err(|error| Failure::Failed(error.to_string()))?;
    print(&format!(
        "sent {} events ({}) in {:.1} s · acknowledged {}\n",
        sent.progress.acknowledged_events,
        megabytes(sent.bytes),
        begin.elapsed().as_secs_f64(),
        sent.level.map_or("", AckLevel::name),
    ))
}

/// Sends what `options` name; once it returns all is acknowledged.
fn send(address: String, options: &SendOptions) -> Result<Sent, SendError> {
    let standard_input = [PathBuf::from("-")];
    let files = if options.files.is_empty() { &standard_input[..] } else { &options.files };
    let token = options.token_file.as_deref().map(read_token).transpose()?.unwrap_or_default();
    let patience = (options.timeout > 0).then(|| Duration::from_secs(options.timeout));
    let mut client = Client::connect(client::Options {
        // Events without a source get the agent's name; so it is said once and not in each event.
        name: options.source.clone().unwrap_or_else(host_name),
        token,
        ack: options.ack,
        patience: Some(patience.map_or(CONNECT_PATIENCE, |patience| patience.min(CONNECT_PATIENCE))),
        ..client::Options::new(address)
    })?;
    client.set_patience(patience);

    let mut sending = Sending::new(client, options, files);
    let read = files.iter().try_for_each(|file| sending.file(file));
    if let Err(SendError::Client(error)) = read {
        return Err(error.into());
    }
    // Whatever is wrong with a line: all before it is acknowledged first.
    match (read, sending.finish()) {
        (Err(line), Err(before)) => Err(SendError::LineAndBefore { line: Box::new(line), before: Box::new(before) }),
        (read, sent) => read.and(sent),
    }
}

/// What has come through.
struct Sent {
    progress: Progress,
    bytes: u64,
    level: Option<AckLevel>,
}

/// A client and the frame that is being filled for it.
struct Sending<'a> {
    options: &'a SendOptions,
    client: Client,
    batch: Batch,
    max_frame: usize,
    /// Reused for every line of text.
    event: Event,
    /// The event of the last line, encoded.
    line: Batch,
    json: JsonDecoder,
    /// Sequence number and first line of the frames that are not acknowledged: for reports.
    places: VecDeque<(u64, String)>,
    bar: ProgressBar,
    events: u64,
    bytes: u64,
    /// Lines in which bytes were replaced, and lines that were cut.
    replaced: u64,
    truncated: u64,
}

impl<'a> Sending<'a> {
    fn new(client: Client, options: &'a SendOptions, files: &[PathBuf]) -> Self {
        Self {
            max_frame: client.max_frame(),
            client,
            batch: Batch::new(),
            event: Event { name: options.name.clone(), ..Event::default() },
            line: Batch::new(),
            json: JsonDecoder::new(),
            places: VecDeque::new(),
            bar: progress_bar(files),
            events: 0,
            bytes: 0,
            replaced: 0,
            truncated: 0,
            options,
        }
    }

    fn file(&mut self, path: &Path) -> Result<(), SendError> {
        let name = shown(path);
        let failed = |source| SendError::Read { path: name.clone(), source };
        let input: Box<dyn Read> =
            if is_standard_input(path) { Box::new(io::stdin()) } else { Box::new(File::open(path).map_err(failed)?) };
        let mut lines = Lines::new(input, SEND_LINE_BYTES_MAX);
        let mut format = match self.options.format {
            Format::Auto if path.extension().is_some_and(|end| end == "ndjson" || end == "jsonl") => Format::Ndjson,
            format => format,
        };
        // Empty lines before the first that tells the format.
        let mut empty_lines = 0;
        loop {
            if lines.may_wait() {
                self.send_batch()?;
            }
            let read_before = lines.bytes_read;
            let Some(line) = lines.next_line().map_err(failed)? else { break };
            let bytes = line.bytes;
            if format == Format::Auto {
                if bytes.is_empty() {
                    empty_lines += 1;
                } else {
                    format = if looks_like_event(bytes) { Format::Ndjson } else { Format::Text };
                    self.text_lines(if format == Format::Text { empty_lines } else { 0 }, &name)?;
                }
            }
            let done = match format {
                Format::Text => self.text(bytes, line.cut_bytes),
                Format::Ndjson => self.json(bytes, line.cut_bytes),
                Format::Auto => Ok(false),
            };
            let number = lines.number;
            let is_event = done.map_err(|error| SendError::Line { path: name.clone(), line: number, error })?;
            self.bytes += lines.bytes_read - read_before;
            if is_event {
                self.push(&name, number)?;
            }
        }
        if format == Format::Auto {
            self.text_lines(empty_lines, &name)?;
        }
        self.send_batch()
    }

    /// The first `count` lines, which are empty, as text.
    fn text_lines(&mut self, count: u64, name: &str) -> Result<(), SendError> {
        for number in 1..=count {
            // An empty line is never too long.
            if self.text(b"", 0).is_ok() {
                self.push(name, number)?;
            }
        }
        Ok(())
    }

    /// Makes `self.line` of a line of text.
    fn text(&mut self, line: &[u8], cut_bytes: u64) -> Result<bool, LineError> {
        let text = match simdutf8::basic::from_utf8(line) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => {
                self.replaced += 1;
                String::from_utf8_lossy(line)
            }
        };
        let mut end = text.len();
        if end > EVENT_BODY_BYTES_MAX || cut_bytes > 0 {
            if !self.options.truncate {
                return Err(LineError::TextTooLong { found: line.len() as u64 + cut_bytes });
            }
            self.truncated += 1;
            end = end.min(EVENT_BODY_BYTES_MAX);
            while !text.is_char_boundary(end) {
                end -= 1;
            }
        }
        self.event.body.clear();
        self.event.body.push_str(text.get(..end).unwrap_or_default());
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.event.time_unix_nano = since_epoch.as_nanos() as u64;
        self.line.clear();
        self.line.push(&self.event);
        Ok(true)
    }

    /// Makes `self.line` of a line of JSON.
    fn json(&mut self, line: &[u8], cut_bytes: u64) -> Result<bool, LineError> {
        if cut_bytes > 0 {
            return Err(LineError::JsonTooLong { found: line.len() as u64 + cut_bytes });
        }
        self.line.clear();
        let taken = self.json.lines(line, |event| {
            self.line.append(event, 1);
            Ok::<_, Infallible>(())
        });
        match taken {
            Ok(decoded) => match decoded.rejected.named.into_iter().next() {
                Some(rejection) => Err(LineError::Json(rejection.error)),
                None => Ok(decoded.accepted > 0),
            },
            Err(error) => Err(LineError::Json(error.to_string())),
        }
    }

    /// Puts `self.line` into the frame.
    fn push(&mut self, path: &str, line: u64) -> Result<(), SendError> {
        if !self.batch.has_room(self.line.bytes().len(), self.max_frame) {
            self.send_batch()?;
        }
        if self.batch.is_empty() {
            // The number that the frame is going to get.
            self.places.push_back((self.client.progress().last_seq + 1, format!("{path}:{line}")));
        }
        self.batch.append(self.line.bytes(), 1);
        self.events += 1;
        Ok(())
    }

    fn send_batch(&mut self) -> Result<(), SendError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.client.send_encoded(self.batch.bytes(), self.batch.events())?;
        self.batch.clear();
        self.report();
        self.bar.set_position(self.bytes);
        let rate = self.events as f64 / self.bar.elapsed().as_secs_f64().max(0.001);
        self.bar.set_message(format!("{} events, {rate:.0}/s", self.events));
        Ok(())
    }

    /// Waits for the last acknowledgement.
    fn finish(mut self) -> Result<Sent, SendError> {
        self.send_batch()?;
        let flushed = self.client.flush(None);
        self.report();
        self.bar.finish_and_clear();
        flushed?;
        let level = self.client.welcome().map(|welcome| welcome.ack);
        let progress = self.client.close(None)?;
        if self.replaced > 0 {
            warn(&format!("lines with bytes that are not UTF-8, now U+FFFD: {}", self.replaced));
        }
        if self.truncated > 0 {
            warn(&format!("lines cut to 64 KiB: {}", self.truncated));
        }
        if progress.possibly_doubled_events > 0 {
            warn(&format!(
                "{} events may be stored twice: the server lost its state, or another one took over",
                progress.possibly_doubled_events
            ));
        }
        let refused = progress.refused_events + progress.set_aside_events;
        if refused > 0 {
            return Err(SendError::Refused { refused, events: self.events });
        }
        Ok(Sent { progress, bytes: self.bytes, level })
    }

    /// Says what the server refused, and where those lines begin.
    fn report(&mut self) {
        for report in self.client.take_reports() {
            let (seq, events, refused, reason) = match report {
                Report::Refused(Refusal { seq, events, refused, reason, .. }) => (seq, events, refused, reason),
                Report::SetAside { seq, events, .. } => (seq, events, events, "the server cannot read them".to_owned()),
            };
            let place = self.places.iter().find(|(number, _)| *number == seq).map_or("", |(_, place)| place.as_str());
            let line = format!("{place}: of the {events} events from here on {refused} are refused: {reason}");
            self.bar.suspend(|| warn(&line));
        }
        let acked_seq = self.client.progress().acked_seq;
        while self.places.front().is_some_and(|(seq, _)| *seq <= acked_seq) {
            self.places.pop_front();
        }
    }
}

/// Whether a line is a JSON object, and all its keys are an event's.
fn looks_like_event(line: &[u8]) -> bool {
    match serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(line) {
        Ok(object) => !object.is_empty() && object.keys().all(|key| FIELD_NAMES.contains(&key.as_str())),
        Err(_) => false,
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

/// The name that this host has: what `hostname` prints. Empty where the system does not tell.
fn host_name() -> String {
    ["/proc/sys/kernel/hostname", "/etc/hostname"]
        .into_iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .map(|name| name.trim().to_owned())
        .find(|name| !name.is_empty())
        .unwrap_or_default()
}

fn read_token(path: &Path) -> Result<Vec<u8>, SendError> {
    let text = std::fs::read(path).map_err(|source| SendError::Read { path: shown(path), source })?;
    let token = text.trim_ascii();
    if token.is_empty() { Err(SendError::NoToken { path: shown(path) }) } else { Ok(token.to_vec()) }
}

/// Drawn on standard error, if that is a terminal.
fn progress_bar(files: &[PathBuf]) -> ProgressBar {
    let sizes = files.iter().map(|file| std::fs::metadata(file).ok().filter(|data| data.is_file()));
    let total: Option<u64> = sizes.map(|size| size.map(|data| data.len())).sum();
    let (bar, template) = match total {
        Some(total) => (ProgressBar::new(total), "{bar:30} {bytes} of {total_bytes}, {msg}"),
        None => (ProgressBar::no_length(), "{bytes}, {msg}"),
    };
    bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// One line on standard error; not `eprintln!`, which panics where that is closed.
fn warn(line: &str) {
    let _ = writeln!(io::stderr(), "telemetryx: {}", escape(line));
}

fn megabytes(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}
