//! `telemetryx run`: settings, log output, descriptors, then the server.

use std::io::Write as _;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

use super::{Failure, SettingsArgs, logging};
use crate::{limits, server};

pub fn run(settings: &SettingsArgs) -> Result<(), Failure> {
    let settings = settings.load()?;
    // Held to the end: dropping it writes out the last lines.
    let _logging = logging::start(settings.config.log.format)?;
    match &settings.file {
        Some(file) => info!(%file, "settings read"),
        None => info!("no settings file"),
    }
    raise_descriptor_limit(settings.config.server.max_connections);
    server::run(&settings.config, |line| {
        // For the person who started it, whatever the log's level; nobody can be told if it cannot be printed.
        let _ = writeln!(std::io::stderr(), "{line}");
    })
    .map_err(|error| Failure::Failed(error.to_string()))
}

/// Raises the soft limit of open files to the hard one, and warns where that is too few.
fn raise_descriptor_limit(max_connections: usize) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    if let Err(error) = &raised {
        warn!(%error, "the limit of open files cannot be raised");
    }
    let limit = if raised.is_ok() { maximum } else { current };
    let needed = max_connections + limits::DESCRIPTORS_BESIDE_CONNECTIONS;
    if let Some(limit) = limit
        && limit < needed as u64
    {
        warn!(
            limit,
            needed, "fewer open files are allowed than server.max_connections needs: raise `ulimit -n` or lower it"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_open_files_is_raised_to_the_hard_one() {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let lower = current.map(|limit| limit / 2);
        setrlimit(Resource::Nofile, Rlimit { current: lower, maximum }).unwrap();
        raise_descriptor_limit(1);
        assert_eq!(getrlimit(Resource::Nofile).current, maximum);
    }
}
