//! `telemetryx wal`: what is in the log. Reads only, also beside a running server.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::Path;

use clap::{Args, Subcommand};

use super::{Failure, SettingsArgs, print};
use crate::config::Config;
use crate::event::rfc3339;
use crate::router::positions::PositionFile;
use crate::sink::{self, uuid};
use crate::wal::{AgentMark, DirStorage, Inspection, inspect};

/// Agents that `inspect` names without being asked for all.
const AGENTS_SHOWN: usize = 20;

#[derive(Args)]
pub struct WalArgs {
    #[command(subcommand)]
    pub command: WalCommand,
}

#[derive(Subcommand)]
pub enum WalCommand {
    /// Show segments, positions, agents and how far each sink has come
    Inspect {
        /// Name every agent, not only those seen last
        #[arg(long)]
        agents: bool,
        #[command(flatten)]
        settings: SettingsArgs,
    },
    /// Read every byte and name each damaged record: exit 1 if there is one
    Verify {
        #[command(flatten)]
        settings: SettingsArgs,
    },
}

pub fn run(mut settings: SettingsArgs, command: WalCommand) -> Result<(), Failure> {
    match command {
        WalCommand::Inspect { agents, settings: after } => {
            settings.merge(after);
            let config = settings.load()?.config;
            let dir = config.data_dir.join("wal");
            let found = look(&dir, false)?;
            let shown = if agents { usize::MAX } else { AGENTS_SHOWN };
            print(&overview(&dir, &found, shown, &sinks(&config, &found)))
        }
        WalCommand::Verify { settings: after } => {
            settings.merge(after);
            let dir = settings.load()?.config.data_dir.join("wal");
            verify(&look(&dir, true)?)
        }
    }
}

fn look(dir: &Path, payloads: bool) -> Result<Inspection, Failure> {
    inspect(&DirStorage::existing(dir), payloads).map_err(|error| {
        Failure::Failed(match error.kind() {
            ErrorKind::NotFound => format!("there is no log in {}: set data_dir to the server's", dir.display()),
            _ => format!("the log in {} cannot be read: {error}", dir.display()),
        })
    })
}

fn verify(found: &Inspection) -> Result<(), Failure> {
    let mut text = String::new();
    let (mut records, mut damaged) = (0, 0);
    for segment in &found.segments {
        records += segment.records;
        for damage in &segment.damaged {
            damaged += 1;
            let bytes = damage.bytes.end - damage.bytes.start;
            let _ = write!(text, "{} at {}: {bytes} bytes are damaged", segment.file, damage.bytes.start);
            if !damage.positions.is_empty() {
                let _ = write!(text, ", positions {} to {}", damage.positions.start, damage.positions.end - 1);
            }
            text.push('\n');
        }
    }
    let _ = writeln!(text, "{} segments, {records} sound records", found.segments.len());
    print(&text)?;
    match damaged {
        0 => Ok(()),
        _ => Err(Failure::Failed(format!("{damaged} places of the log are damaged; readers pass over them"))),
    }
}

/// One line a sink: name, last position, and what it has not got yet.
fn sinks(config: &Config, found: &Inspection) -> Vec<(String, String, String)> {
    let server_id = found.server_id.unwrap_or_default();
    let line = |sink: &sink::SinkSettings| {
        let stored = sink.kind.stored_position(&uuid(&server_id), &sink.name);
        let kept = match stored {
            Some(stored) => stored,
            None => {
                let saved = PositionFile::new(&config.data_dir, &sink.name, &server_id).load();
                saved.map(|saved| saved.map_or(0, |saved| saved.position)).map_err(|error| error.to_string())
            }
        };
        let (position, lag) = match kept {
            Ok(0) => ("-".to_owned(), String::new()),
            Ok(position) => (position.to_string(), (found.next_position() - 1).saturating_sub(position).to_string()),
            Err(error) => (error, String::new()),
        };
        (sink.name.clone(), position, lag)
    };
    config.sinks.iter().map(line).collect()
}

fn overview(dir: &Path, found: &Inspection, agents: usize, sinks: &[(String, String, String)]) -> String {
    let mut text = String::new();
    // Writing into a String cannot fail.
    let _ = match &found.server_id {
        Some(id) => writeln!(text, "log {} of server {}", dir.display(), uuid(id)),
        None => writeln!(text, "log {}", dir.display()),
    };
    let (oldest, next) = (found.oldest_position(), found.next_position());
    let _ = writeln!(text, "oldest position {oldest}, next {next}\n");
    let _ = writeln!(text, "{:<52} {:>20} {:>12} {:>14}  damaged", "segment", "first position", "events", "bytes");
    for segment in &found.segments {
        let (file, damaged) = (&segment.file, segment.damaged.len());
        let (first, events, bytes) = (segment.first_position, segment.events, segment.bytes);
        let _ = writeln!(text, "{file:<52} {first:>20} {events:>12} {bytes:>14}  {damaged:>7}");
    }
    let _ = writeln!(text, "damaged: places seen without reading the events; `telemetryx wal verify` reads all\n");

    let _ = writeln!(text, "{:<32} {:>20} {:>20}  last seen", "agent", "epoch", "last seq");
    let mut marks: Vec<&AgentMark> = found.marks.iter().collect();
    marks.sort_unstable_by_key(|mark| (std::cmp::Reverse(mark.last_seen_unix_nano), mark.agent_id));
    for mark in marks.iter().take(agents) {
        let (id, seen) = (u128::from_be_bytes(mark.agent_id), rfc3339::format(mark.last_seen_unix_nano));
        let seen = String::from_utf8_lossy(&seen);
        let _ = writeln!(text, "{id:032x} {:>20} {:>20}  {seen}", mark.epoch, mark.last_seq);
    }
    if let Some(more) = marks.len().checked_sub(agents).filter(|more| *more > 0) {
        let _ = writeln!(text, "and {more} more: --agents names all");
    }

    let _ = writeln!(text, "\n{:<32} {:>20} {:>20}", "sink", "position", "events behind");
    for (name, position, lag) in sinks {
        let _ = writeln!(text, "{name:<32} {position:>20} {lag:>20}");
    }
    text
}
