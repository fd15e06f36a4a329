//! `telemetryx dead`: what sinks refused and what was rejected on receipt; read, delivered again, or dropped, also beside a running server.
//!
//! ```text
//!  list, show ─▶ read a snapshot of dead/<name>.ndjson          (router/dead: locks, lines, letters)
//!  replay     ─▶ read, deliver into the sink itself, then take out what it has stored
//!  drop       ─▶ take out what is asked for
//! ```
//!
//! Lines that are no letters are named and left as they are.

mod list;
mod replay;
mod selection;
mod show;
#[cfg(test)]
mod tests;

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

use clap::{ArgGroup, Args, Subcommand};
use tracing::Level;

use self::selection::{Selection, Which};
use super::{Failure, SettingsArgs, logging, print};
use crate::config::Config;
use crate::limits::DEAD_BAD_LINES_NAMED;
use crate::router::dead::{self, INGEST, ReadLetter, Seen, Snapshot};

#[derive(Args)]
pub(super) struct DeadArgs {
    #[command(subcommand)]
    pub command: DeadCommand,
}

#[derive(Subcommand)]
pub(super) enum DeadCommand {
    /// Count dead letters per sink and code, each with an example of the reason
    List {
        #[command(flatten)]
        which: Which,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        settings: SettingsArgs,
    },
    /// Print dead letters: position, code, reason, event
    Show {
        #[command(flatten)]
        which: Which,
        /// Print at most N letters; 0 prints all [default: 20, with --json all]
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
        /// Print the lines as they are in the files, one JSON object per line
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        settings: SettingsArgs,
    },
    /// Deliver events again to the sink that refused them; stored ones leave the file
    Replay {
        /// Name of the sink in the settings
        #[arg(long, value_name = "NAME")]
        sink: String,
        #[command(flatten)]
        selection: Selection,
        /// Only print how many there are
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        settings: SettingsArgs,
    },
    /// Delete dead letters from the files
    #[command(override_usage = "telemetryx dead drop [OPTIONS] <FILTERS|--bad-lines|--all>")]
    #[command(group(ArgGroup::new("what").required(true).multiple(true)
        .args(["sink", "code", "since", "until", "position", "bad_lines", "all"])))]
    Drop {
        #[command(flatten)]
        which: Which,
        /// Also delete lines that are not dead letters
        #[arg(long)]
        bad_lines: bool,
        /// Delete the letters of all sinks, and those that were rejected on receipt
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        settings: SettingsArgs,
    },
}

pub(super) fn run(mut settings: SettingsArgs, command: DeadCommand) -> Result<(), Failure> {
    match command {
        DeadCommand::List { which, json, settings: after } => {
            settings.merge(after);
            list::run(&load(&settings)?, &which, json)
        }
        DeadCommand::Show { which, limit, json, settings: after } => {
            settings.merge(after);
            show::run(&load(&settings)?, &which, limit, json)
        }
        DeadCommand::Replay { sink, selection, dry_run, settings: after } => {
            settings.merge(after);
            replay::run(&load(&settings)?, &sink, &selection, dry_run)
        }
        DeadCommand::Drop { which, bad_lines, all, settings: after } => {
            settings.merge(after);
            drop_letters(&load(&settings)?, &which, bad_lines, all)
        }
    }
}

/// The settings, if they name a data directory that exists: without one, no dead letters would be no information.
fn load(settings: &SettingsArgs) -> Result<Config, Failure> {
    let config = settings.load()?.config;
    let dir = config.data_dir.display();
    match config.data_dir.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Failure::Failed(format!("there is no data directory {dir}: set data_dir to that of the server")))
        }
        _ => Ok(config),
    }
}

fn drop_letters(config: &Config, which: &Which, bad_lines: bool, all: bool) -> Result<(), Failure> {
    let names = names(config, which)?;
    let _alone = alone(&config.data_dir)?;
    let letters = all || !which.is_everything();
    let mut total = 0;
    for name in names {
        let mut dropped = 0;
        for path in dead::files(&config.data_dir, &name) {
            let lines = dead::rewrite(&path, |line| match ReadLetter::read(line) {
                Some(letter) => letters && which.selection.wants(&letter),
                None => bad_lines,
            });
            dropped += lines.map_err(|error| failed(&path, &error))?;
        }
        if dropped > 0 {
            let lines = if dropped == 1 { "line" } else { "lines" };
            print(&format!("{name}: {dropped} {lines} dropped\n"))?;
        }
        total += dropped;
    }
    if total == 0 { print("no dead letters match: nothing was dropped\n") } else { Ok(()) }
}

/// `1 letter delivered`
fn count(letters: u64, what: &str) -> String {
    format!("{letters} letter{} {what}", if letters == 1 { "" } else { "s" })
}

/// Whose files are looked at. One that nobody can have meant is named.
fn names(config: &Config, which: &Which) -> Result<Vec<String>, Failure> {
    let found = dead::names(&config.data_dir).map_err(|error| failed(&dead::folder(&config.data_dir), &error))?;
    let Some(name) = &which.sink else { return Ok(found) };
    if name != INGEST && !found.contains(name) && !config.sinks.iter().any(|sink| sink.name == *name) {
        return Err(no_such_sink(config, name));
    }
    Ok(vec![name.clone()])
}

fn no_such_sink(config: &Config, name: &str) -> Failure {
    let names: Vec<_> = config.sinks.iter().map(|sink| sink.name.as_str()).collect();
    Failure::Failed(format!("no sink is named `{name}`; the sinks are: {}", names.join(", ")))
}

/// Two commands that both replay, or rewrite, would do it twice. Held until it is dropped; `None`: there is nothing yet.
fn alone(data_dir: &Path) -> Result<Option<File>, Failure> {
    let folder = dead::folder(data_dir);
    let lock = match File::open(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(&folder, &error)),
        Ok(lock) => lock,
    };
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Err(Failure::Failed(format!(
            "another `telemetryx dead replay` or `drop` is at work in {}: wait for it",
            folder.display()
        ))),
        Err(TryLockError::Error(error)) => Err(failed(&folder, &error)),
    }
}

/// A letter as it was found.
struct Found<'l> {
    letter: ReadLetter<'l>,
    /// The line, without its end.
    line: &'l [u8],
    number: u64,
}

/// Calls `each` with the letters of `name` that are wanted, in the order of the files, each position once, until it says
/// `false`. Names the lines that are no letters on standard error.
fn visit(
    data_dir: &Path,
    name: &str,
    selection: &Selection,
    mut each: impl FnMut(Found<'_>) -> Result<bool, Failure>,
) -> Result<(), Failure> {
    let mut seen = Seen::default();
    for path in dead::files(data_dir, name) {
        let mut bad = BadLines::default();
        let goes_on = visit_file(&path, selection, &mut seen, &mut bad, &mut each)?;
        bad.tell(&path);
        if !goes_on {
            break;
        }
    }
    Ok(())
}

/// One file of [`visit`]. Returns whether `each` wants more.
fn visit_file(
    path: &Path,
    selection: &Selection,
    seen: &mut Seen,
    bad: &mut BadLines,
    each: &mut impl FnMut(Found<'_>) -> Result<bool, Failure>,
) -> Result<bool, Failure> {
    let failed = |error| failed(path, &error);
    let Some(snapshot) = Snapshot::open(path).map_err(failed)? else { return Ok(true) };
    let mut lines = snapshot.lines().map_err(failed)?;
    while let Some(piece) = lines.next().map_err(failed)? {
        let number = piece.number;
        let Some((line, letter)) = piece.line().and_then(|line| Some((line, ReadLetter::read(line)?))) else {
            if piece.begins {
                bad.add(number);
            }
            continue;
        };
        if selection.wants(&letter) && seen.add(&letter) && !each(Found { letter, line, number })? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Lines that are not dead letters: cut short by a crash, or written by another program.
#[derive(Default)]
struct BadLines {
    named: Vec<String>,
    total: usize,
}

impl BadLines {
    fn add(&mut self, number: u64) {
        self.total += 1;
        if self.named.len() < DEAD_BAD_LINES_NAMED {
            self.named.push(number.to_string());
        }
    }

    fn tell(&self, path: &Path) {
        if self.total == 0 {
            return;
        }
        let more = if self.total > self.named.len() { " …" } else { "" };
        let (path, total, named) = (path.display(), self.total, self.named.join(" "));
        let is = if total == 1 { "line is not a dead letter" } else { "lines are not dead letters" };
        logging::message(Level::WARN, &format!("{path}: {total} {is} and left as is: line {named}{more}"));
    }
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    Failure::Failed(format!("{}: {error}", path.display()))
}
