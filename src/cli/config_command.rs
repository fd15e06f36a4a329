//! `telemetryx config`: the settings in force, the documented defaults, or what makes a sink's tables.

use clap::Args;

use super::{Failure, SettingsArgs, print};
use crate::config::document;
use crate::settings::url::not_a_url;

#[derive(Args)]
pub(super) struct ConfigArgs {
    /// Print a settings file with all keys, their documentation and defaults
    #[arg(long)]
    pub defaults: bool,
    /// Print the SQL statements that create the tables of this sink
    #[arg(long, value_name = "SINK", conflicts_with = "defaults")]
    pub ddl: Option<String>,
    #[command(flatten)]
    pub(super) settings: SettingsArgs,
}

pub(super) fn run(settings: &SettingsArgs, defaults: bool, ddl: Option<&str>) -> Result<(), Failure> {
    if defaults {
        // Also where the present settings are wrong: this is how to put them right.
        return print(&document::default_file());
    }
    let resolved = settings.load()?;
    let Some(name) = ddl else { return print(&resolved.to_string()) };
    let sinks = &resolved.config.sinks;
    let Some(sink) = sinks.iter().find(|sink| sink.name == name) else {
        let names: Vec<_> = sinks.iter().map(|sink| sink.name.as_str()).collect();
        return Err(Failure::Failed(format!(
            "no sink is named `{}`; the sinks are: {}",
            not_a_url(name),
            names.join(", ")
        )));
    };
    match sink.config.ddl() {
        Some(ddl) => print(&ddl),
        None => Err(Failure::Failed(format!("sink `{name}` writes into no table"))),
    }
}
