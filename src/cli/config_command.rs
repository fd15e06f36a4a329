//! `telemetryx config`: the settings in force, or the documented defaults.

use clap::Args;

use super::{Failure, SettingsArgs, print};
use crate::config::document;

#[derive(Args)]
pub struct ConfigArgs {
    /// Print a settings file with every key, its meaning and its default
    #[arg(long)]
    pub defaults: bool,
    #[command(flatten)]
    pub(super) settings: SettingsArgs,
}

pub fn run(settings: &SettingsArgs, defaults: bool) -> Result<(), Failure> {
    if defaults {
        // Also where the present settings are wrong: this is how to put them right.
        return print(&document::default_file());
    }
    print(&settings.load()?.to_string())
}
