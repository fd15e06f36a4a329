//! Where the CPU time of `telemetryx run` goes: a flamegraph (SVG), written when the server ends. Only in a build with the
//! cargo feature `profiling`; see `make flamegraph`.
//!
//! The kernel sends SIGPROF to whatever thread is running, some times in each second of CPU time; its stack is unwound by
//! the tables in the executable (framehop), so no frame pointers and no libgcc are needed, and a static binary works too.

use std::fs::File;
use std::path::PathBuf;

use pprof::{ProfilerGuard, ProfilerGuardBuilder};
use signal_hook::consts::SIGPROF;

use super::Failure;

/// Names the file that the flamegraph is written to.
const VARIABLE: &str = "TELEMETRYX_PROFILE";
/// Samples in a second of CPU time. A timer of the kernel cannot do many more, and no round number, so that nothing
/// periodic hides between them.
const SAMPLES_PER_SECOND: i32 = 199;

pub(super) struct Profile {
    running: Option<(ProfilerGuard<'static>, PathBuf)>,
}

impl Profile {
    /// Starts to take samples, if [`VARIABLE`] is set.
    pub(super) fn start() -> Result<Self, Failure> {
        let Some(path) = std::env::var_os(VARIABLE) else { return Ok(Self { running: None }) };
        // The first signal builds the tables and allocates for that. It must not come within malloc: raised here, once.
        let first = take_samples(1)?;
        signal_hook::low_level::raise(SIGPROF).map_err(|error| failed("raising SIGPROF", error))?;
        drop(first);
        Ok(Self { running: Some((take_samples(SAMPLES_PER_SECOND)?, path.into())) })
    }

    /// Writes the flamegraph of all samples since the start.
    pub(super) fn write(self) -> Result<(), Failure> {
        let Some((guard, path)) = self.running else { return Ok(()) };
        let report = guard.report().build().map_err(|error| failed("collecting samples", error))?;
        let file = File::create(&path).map_err(|error| failed("creating its file", error))?;
        report.flamegraph(file).map_err(|error| failed("drawing it", error))?;
        tracing::info!(file = %path.display(), "flamegraph written");
        Ok(())
    }
}

fn take_samples(per_second: i32) -> Result<ProfilerGuard<'static>, Failure> {
    ProfilerGuardBuilder::default().frequency(per_second).build().map_err(|error| failed("starting the timer", error))
}

fn failed(doing: &str, error: impl std::fmt::Display) -> Failure {
    Failure::Failed(format!("{VARIABLE}: {doing}: {error}"))
}
