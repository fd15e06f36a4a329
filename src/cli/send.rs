//! `telemetryx send`: lines of a file or of standard input as events, acknowledged.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Failure, SettingsArgs};
use crate::wire::AckLevel;

#[derive(Args)]
pub struct SendArgs {
    #[command(flatten)]
    pub send: Send,
    #[command(flatten)]
    pub(super) settings: SettingsArgs,
}

#[derive(Args)]
pub struct Send {
    /// File to send; else standard input
    pub file: Option<PathBuf>,
    /// Server to send to; else server.address of the settings
    #[arg(long, value_name = "ADDR")]
    pub to: Option<String>,
    /// What a line is
    #[arg(long, value_enum, default_value_t = Format::Auto)]
    pub format: Format,
    /// Name of events made from text
    #[arg(long, default_value = "log")]
    pub name: String,
    /// Source of events that carry none; else this host's name
    #[arg(long)]
    pub source: Option<String>,
    /// File that holds the token
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// What an acknowledgement must promise: received, written, synced or delivered; else what the server says
    #[arg(long, value_name = "LEVEL")]
    pub ack: Option<AckLevel>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// NDJSON where the first line is a JSON object, else text
    Auto,
    /// The body of an event
    Text,
    /// An event as JSON
    Ndjson,
}

pub fn run(_settings: &SettingsArgs, _send: &Send) -> Result<(), Failure> {
    Err(Failure::Failed("send: not in this build yet".to_owned()))
}
