//! `telemetryx wal`: what is in the log. Reads only, also while a server runs.

mod overview;
mod positions;
mod verify;

use std::io::ErrorKind;
use std::path::Path;

use clap::{Args, Subcommand};

use super::{Failure, SettingsArgs, print, terminal};
use crate::wal::{DirStorage, Inspection, inspect};

/// Agents that `inspect` shows without being asked for all.
const AGENTS_SHOWN: usize = 20;

#[derive(Args)]
pub(super) struct WalArgs {
    #[command(subcommand)]
    pub command: WalCommand,
}

#[derive(Subcommand)]
pub(super) enum WalCommand {
    /// Show segments, agents and the position of each sink
    Inspect {
        /// Show all agents, not only the 20 that were seen last
        #[arg(long)]
        agents: bool,
        /// Connect to PostgreSQL and Redis to read the positions that they keep
        #[arg(long)]
        connect: bool,
        /// Print one JSON document, with all agents
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        settings: SettingsArgs,
    },
    /// Read every byte and list each corrupt place; exit code 1 if there is one
    Verify {
        /// Print one JSON document
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        settings: SettingsArgs,
    },
}

pub(super) fn run(mut settings: SettingsArgs, command: WalCommand) -> Result<(), Failure> {
    match command {
        WalCommand::Inspect { agents, connect, json, settings: after } => {
            settings.merge(after);
            let config = settings.load()?.config;
            let dir = config.data_dir.join("wal");
            let found = look(&dir, false)?;
            let sinks = positions::of_sinks(&config, &found, connect);
            if json {
                return print(&overview::json(&dir, &found, &sinks));
            }
            let shown = if agents { usize::MAX } else { AGENTS_SHOWN };
            print(&overview::text(&dir, &found, shown, &sinks, terminal::columns()))
        }
        WalCommand::Verify { json, settings: after } => {
            settings.merge(after);
            let dir = settings.load()?.config.data_dir.join("wal");
            verify::run(&look(&dir, true)?, json)
        }
    }
}

fn look(dir: &Path, payloads: bool) -> Result<Inspection, Failure> {
    inspect(&DirStorage::existing(dir), payloads).map_err(|error| {
        Failure::Failed(match error.kind() {
            ErrorKind::NotFound => format!("there is no log in {}: set data_dir to that of the server", dir.display()),
            _ => format!("the log in {} cannot be read: {error}", dir.display()),
        })
    })
}
