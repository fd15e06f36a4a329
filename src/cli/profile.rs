//! Where the CPU time of `telemetryx run` goes: a flamegraph (SVG), written when the server ends. Only in a build with the
//! cargo feature `profiling`; see `make flamegraph`.

use std::path::PathBuf;

use super::Failure;
use crate::profiling::{Sampling, flamegraph};

/// Names the file that the flamegraph is written to.
const VARIABLE: &str = "TELEMETRYX_PROFILE";

pub(super) struct Profile {
    running: Option<(Sampling, PathBuf)>,
}

impl Profile {
    /// Starts to take samples, if [`VARIABLE`] is set.
    pub(super) fn start() -> Result<Self, Failure> {
        let Some(path) = std::env::var_os(VARIABLE) else { return Ok(Self { running: None }) };
        Ok(Self { running: Some((Sampling::start().map_err(failed)?, path.into())) })
    }

    /// Writes the flamegraph of all samples since the start.
    pub(super) fn write(self) -> Result<(), Failure> {
        let Some((sampling, path)) = self.running else { return Ok(()) };
        let svg = sampling.finish().and_then(|samples| flamegraph(&samples)).map_err(failed)?;
        std::fs::write(&path, svg).map_err(|error| failed(format!("cannot write {}: {error}", path.display())))?;
        tracing::info!(file = %path.display(), "flamegraph written");
        Ok(())
    }
}

fn failed(why: String) -> Failure {
    Failure::Failed(format!("{VARIABLE}: {why}"))
}
