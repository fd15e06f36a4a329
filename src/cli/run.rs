//! `telemetryx run`: settings, log output, descriptors, then the server.

use std::io::Write as _;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

use super::{Failure, SettingsArgs, logging};
use crate::{limits, server};

pub fn run(settings: &SettingsArgs) -> Result<(), Failure> {
    let settings = settings.load()?;
    // Held to the end: dropping it writes out the last lines.
    let _logging = logging::start(settings.config.log.format, settings.log_filter)?;
    match &settings.file {
        Some(file) => info!(%file, "settings read"),
        None => info!("no settings file"),
    }
    let mut config = settings.config;
    let server = &mut config.server;
    server.max_connections = server.max_connections.min(connections_within_descriptors(server.max_connections));
    #[cfg(feature = "profiling")]
    let profile = super::profile::Profile::start()?;
    let ended = server::run(&config, |line| {
        // For the person who started it, whatever the log's level; nobody can be told if it cannot be printed.
        let _ = writeln!(std::io::stderr(), "{line}");
    });
    #[cfg(feature = "profiling")]
    profile.write()?;
    ended.map_err(|error| match error {
        server::ServerError::Settings(error) => Failure::Settings(error),
        error => Failure::Failed(error.to_string()),
    })
}

/// Raises the soft limit of open files to the hard one. Returns how many connections there can be beside the files of
/// sinks, dead letters and log: connections must not take the descriptor that a file needs.
fn connections_within_descriptors(wanted: usize) -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    if let Err(error) = &raised {
        warn!(%error, "the limit of open files cannot be raised");
    }
    let limit = if raised.is_ok() { maximum } else { current };
    let Some(limit) = limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)) else { return wanted };
    let connections = limit.saturating_sub(limits::DESCRIPTORS_BESIDE_CONNECTIONS).max(1);
    if connections < wanted {
        warn!(
            limit,
            connections,
            "fewer open files are allowed than server.max_connections needs: raise `ulimit -n` or lower it"
        );
    }
    connections
}
