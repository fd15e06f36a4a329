//! `telemetryx run`: settings, log output, descriptors, then the server.

use std::io::{IsTerminal, stdin};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

use super::{Failure, SettingsArgs, logging, started};
use crate::config::LogFormat;
use crate::descriptors;
use crate::server::{self, Reloading};

pub(super) fn run(settings: &SettingsArgs) -> Result<(), Failure> {
    let arguments = settings.clone();
    let mut settings = settings.load()?;
    // Held to the end: dropping it writes out the last lines.
    let logging = logging::start(settings.config.log.format, settings.log_filter.clone())?;
    if settings.config.log.format == LogFormat::Json {
        logging::panics_as_json();
    }
    match &settings.file {
        Some(file) => info!(%file, "settings read"),
        None => info!("no settings file"),
    }
    let config = &mut settings.config;
    let users = descriptors::Users { sinks: config.sinks.len(), event_loops: config.event_loops(server::cores()) };
    config.server.max_connections = connections_within_descriptors(config.server.max_connections, users);
    #[cfg(feature = "profiling")]
    let profile = super::profile::Profile::start()?;
    let reloading = Reloading {
        load: Box::new(move || arguments.read()),
        set_log_filter: logging.set_filter(),
        by_hangup: !stdin().is_terminal(),
    };
    let ended = server::run(settings, reloading, |address, config| {
        // For the person who started it, whatever the log's level.
        logging.print(&started::lines(address, config));
    });
    #[cfg(feature = "profiling")]
    profile.write()?;
    ended.map_err(|error| match error {
        server::ServerError::Settings(error) => Failure::Settings(error),
        error => Failure::Failed(error.to_string()),
    })
}

/// Raises the soft limit of open files to the hard one. Returns how many of the `wanted` connections it leaves room for
/// beside the reserve of log and sinks, with a warning where those are fewer.
fn connections_within_descriptors(wanted: usize, users: descriptors::Users) -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    if let Err(error) = &raised {
        warn!(%error, "cannot raise the soft limit of open files to the hard one");
    }
    let limit = if raised.is_ok() { maximum } else { current };
    let Some(limit) = limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)) else { return wanted };
    let open = descriptors::open_now();
    let allowed = descriptors::connections_within(limit, open, users);
    if allowed < wanted {
        warn!(
            open_files_limit = limit,
            open_files_needed = descriptors::needed(wanted, open, users),
            configured = wanted,
            allowed,
            "lowered server.max_connections: too few open files are allowed; raise the hard limit (LimitNOFILE=, ulimit -Hn), \
             or set server.max_connections lower"
        );
    }
    allowed.min(wanted)
}
