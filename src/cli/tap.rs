//! `telemetryx tap`: events from the log as they come, beside a running server.
//!
//! The log is only read, and no file of it stays open while the output waits. SIGINT ends the process as any other.

use std::io::{self, ErrorKind, Write, stdout};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing::Level;

use super::{Failure, SettingsArgs, logging};
use crate::batch::{Batch, Delivery, Record};
use crate::escape::{Escaped, Quoted, escape_lines};
use crate::event::{rfc3339, write_attributes_json};
use crate::limits::{TAP_INTERVAL, TAP_READ_BYTES};
use crate::router::steps::{Filter, Step};
use crate::settings::steps::StepSettings;
use crate::sink::ndjson::write_record;
use crate::wal::{DirStorage, Followed, Follower, MissingReason};

#[derive(Args)]
pub(super) struct TapArgs {
    /// Show only events that meet one of these conditions, written as in a sink:
    /// '[{ kinds = ["log"], severity = "warn" }]'
    #[arg(long, value_name = "CONDITIONS")]
    include: Option<String>,
    /// Leave out events that meet one of these conditions
    #[arg(long, value_name = "CONDITIONS")]
    exclude: Option<String>,
    /// Begin with this position of the log; 1: with the oldest event. Default: with the next event
    #[arg(long, value_name = "POSITION")]
    from: Option<u64>,
    /// End after N events that were shown
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Print one JSON object per line, as the sink `file` does
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub(super) settings: SettingsArgs,
}

pub(super) fn run(settings: &SettingsArgs, args: &TapArgs) -> Result<(), Failure> {
    let filter = filter(args)?;
    let dir = settings.load()?.config.data_dir.join("wal");
    let failed = |error: io::Error| Failure::Failed(problem(&dir, &error));
    let storage = Arc::new(DirStorage::existing(&dir));
    let mut follower = match args.from {
        Some(position) => Follower::new(storage, position.max(1)),
        None => Follower::at_end(storage).map_err(failed)?,
    };
    let mut tap = Tap { filter, json: args.json, left: args.count, out: Vec::new() };
    if tap.left == Some(0) {
        return Ok(());
    }
    loop {
        let from = follower.position();
        let found = follower.read(TAP_READ_BYTES, Instant::now()).map_err(failed)?;
        let is_idle = found.is_empty();
        for found in found {
            if tap.show(found, from)? == End::Reached {
                return Ok(());
            }
        }
        if is_idle && wait() == End::Reached {
            return Ok(());
        }
    }
}

/// Why the log in `dir` cannot be read.
fn problem(dir: &Path, error: &io::Error) -> String {
    let dir = dir.display();
    match error.kind() {
        ErrorKind::NotFound => format!("there is no log in {dir}: set data_dir to that of the server"),
        ErrorKind::PermissionDenied => {
            format!("the log in {dir} cannot be read: {error}; run this command as the user of the server")
        }
        _ => format!("the log in {dir} cannot be read: {error}"),
    }
}

/// The conditions of the arguments.
fn filter(args: &TapArgs) -> Result<Option<Filter>, Failure> {
    let value = |key: &str| match key {
        "include" => args.include.as_deref(),
        "exclude" => args.exclude.as_deref(),
        _ => None,
    };
    let settings = StepSettings::read(value).map_err(|(key, why)| Failure::Usage(format!("--{key}: {why}")))?;
    Ok(Filter::new(&settings))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// There is more to come.
    Open,
    /// As many events as were asked for, or nobody reads the output any more.
    Reached,
}

/// Waits for a moment. Where the reader of the output is gone, there may be no event by which that would be noticed.
fn wait() -> End {
    let out = stdout();
    let time = Timespec { tv_sec: 0, tv_nsec: i64::from(TAP_INTERVAL.subsec_nanos()) };
    let mut waited = [PollFd::new(&out, PollFlags::empty())];
    match poll(&mut waited, Some(&time)) {
        Ok(ready) if ready > 0 && waited[0].revents().intersects(PollFlags::ERR | PollFlags::NVAL) => End::Reached,
        // A terminal that hangs up sends a signal. It must not be looked at again and again.
        Ok(ready) if ready > 0 => {
            thread::sleep(TAP_INTERVAL);
            End::Open
        }
        _ => End::Open,
    }
}

struct Tap {
    filter: Option<Filter>,
    json: bool,
    /// Events that are still to be shown; `None`: all.
    left: Option<u64>,
    /// Scratch.
    out: Vec<u8>,
}

impl Tap {
    /// `from`: events before it are not asked for.
    fn show(&mut self, found: Followed, from: u64) -> Result<End, Failure> {
        match found {
            Followed::Batch { server_id, batch } => self.show_batch(&server_id, batch, from),
            // No event had these positions.
            Followed::Missing(_, MissingReason::Skipped) => Ok(End::Open),
            Followed::Missing(positions, reason) => {
                let (first, last) = (positions.start, positions.end - 1);
                let why = match reason {
                    MissingReason::Damaged { file, offset } => format!("corrupt ({file}, offset {offset})"),
                    _ => "not in the log any more".to_owned(),
                };
                logging::message(Level::WARN, &format!("events {first} to {last} are {why}"));
                Ok(End::Open)
            }
        }
    }

    fn show_batch(&mut self, server_id: &[u8; 16], batch: Arc<Batch>, from: u64) -> Result<End, Failure> {
        let (first, end) = (batch.first_position().max(from), batch.end_position());
        if first >= end {
            return Ok(End::Open);
        }
        let mut delivery = Delivery::new(vec![batch], first..=end - 1);
        if let Some(filter) = &self.filter {
            delivery = filter.apply(delivery);
        }
        self.out.clear();
        for record in delivery.records() {
            if self.left == Some(0) {
                break;
            }
            if self.json {
                write_record(server_id, &record, &mut self.out);
            } else {
                line(&record, &mut self.out);
            }
            self.out.push(b'\n');
            self.left = self.left.map(|left| left - 1);
        }
        let end = if self.left == Some(0) { End::Reached } else { End::Open };
        // Escaped for terminals; within JSON it means the same.
        let text = String::from_utf8_lossy(&self.out);
        let mut stdout = stdout().lock();
        match stdout.write_all(escape_lines(&text).as_bytes()).and_then(|()| stdout.flush()) {
            Ok(()) => Ok(end),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(End::Reached),
            Err(error) => Err(Failure::Failed(format!("standard output cannot be written: {error}"))),
        }
    }
}

/// Position, time, kind, severity, source, name, then what the event has of value, body and attributes.
fn line(record: &Record<'_>, out: &mut Vec<u8>) {
    let event = record.event;
    let time = rfc3339::format(record.time_unix_nano());
    let time = String::from_utf8_lossy(&time);
    // Writing into a Vec cannot fail.
    let _ = write!(out, "{} {time} {}", record.position, event.kind().name());
    if let Some(severity) = severity(event.severity()) {
        let _ = write!(out, " {severity}");
    }
    let _ = write!(out, " {}", Quoted(record.source()));
    if !event.name().is_empty() {
        let _ = write!(out, " {}", Quoted(event.name()));
    }
    if let Some(value) = event.value() {
        let _ = write!(out, " value={value}");
    }
    if !event.body().is_empty() {
        let _ = write!(out, " {}", Quoted(event.body()));
    }
    let mut attributes = Vec::new();
    write_attributes_json(&event, &mut attributes);
    if attributes != b"{}" {
        let _ = write!(out, " {}", Escaped(String::from_utf8_lossy(&attributes)));
    }
}

/// The word for a severity of OpenTelemetry.
fn severity(number: u8) -> Option<&'static str> {
    const NAMES: [&str; 6] = ["trace", "debug", "info", "warn", "error", "fatal"];
    NAMES.get(usize::from(number.checked_sub(1)?) / 4).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreadable_log_is_reported_with_the_next_step() {
        for (kind, next) in [
            (ErrorKind::NotFound, "set data_dir to that of the server"),
            (ErrorKind::PermissionDenied, "run this command as the user of the server"),
        ] {
            let text = problem(Path::new("/data/wal"), &kind.into());
            assert!(text.contains("/data/wal") && text.ends_with(next), "{text}");
        }
    }

    #[test]
    fn severities_have_the_words_of_opentelemetry() {
        for (number, word) in
            [(0, None), (1, Some("trace")), (9, Some("info")), (16, Some("warn")), (24, Some("fatal"))]
        {
            assert_eq!(severity(number), word, "{number}");
        }
        assert_eq!((severity(25), severity(255)), (None, None));
    }
}
