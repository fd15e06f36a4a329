//! Takes samples: the kernel sends SIGPROF to whatever thread is running, some times in each second of CPU time, and its stack is
//! unwound by the tables in the executable (framehop). So no frame pointers and no libgcc are needed, and a static binary works too.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};

use pprof::flamegraph::{Options, TextTruncateDirection, from_lines};
use pprof::{Frames, ProfilerGuard, ProfilerGuardBuilder, Symbol};
use signal_hook::consts::SIGPROF;

use super::encode;
use super::samples::{Line, Place, Samples};

/// Samples in a second of CPU time. A timer of the kernel cannot do many more, and no round number, so that nothing
/// periodic hides between them.
const SAMPLES_PER_SECOND: i32 = 199;

/// Samples are being taken, until this is dropped.
pub(crate) struct Sampling {
    guard: ProfilerGuard<'static>,
}

impl Sampling {
    /// Starts to take samples of all threads.
    ///
    /// # Errors
    /// In one line why not, and what to do.
    pub(crate) fn start() -> Result<Self, String> {
        static IS_PREPARED: AtomicBool = AtomicBool::new(false);
        if !IS_PREPARED.load(Ordering::Acquire) {
            // The first signal builds the tables and allocates for that. It must not come within malloc: raised here, once.
            let first = start(1)?;
            signal_hook::low_level::raise(SIGPROF).map_err(|error| format!("cannot raise SIGPROF: {error}"))?;
            drop(first);
            IS_PREPARED.store(true, Ordering::Release);
        }
        Ok(Self { guard: start(SAMPLES_PER_SECOND)? })
    }

    /// The samples since the start.
    ///
    /// # Errors
    /// In one line why there are none.
    pub(crate) fn finish(self) -> Result<Samples, String> {
        let report = self.guard.report().build_unresolved();
        // Looking up names is not sampled, and takes no time from others.
        drop(self.guard);
        let report = report.map_err(|error| format!("cannot collect the samples: {error}"))?;
        let timing = report.timing;
        let per_second = timing.frequency.unsigned_abs();
        let mut samples = Samples::new(timing.start_time, timing.duration, per_second);
        let mut known = HashMap::<usize, Place>::new();
        for (stack, count) in report.data {
            let thread = samples.text(&String::from_utf8_lossy(&stack.thread_name[..stack.thread_name_length]));
            let mut places = Vec::with_capacity(stack.frames.len());
            for frame in &stack.frames {
                let place = match known.entry(frame.ip) {
                    Entry::Occupied(known) => *known.get(),
                    Entry::Vacant(new) => {
                        // Each address is looked up once: it takes long.
                        let mut alone = stack.clone();
                        alone.frames.clear();
                        alone.frames.push(frame.clone());
                        *new.insert(place_of(&mut samples, frame.ip, &Frames::from(alone)))
                    }
                };
                places.push(place);
            }
            samples.found(thread, places, count.unsigned_abs() as u64);
        }
        Ok(samples)
    }
}

fn start(per_second: i32) -> Result<ProfilerGuard<'static>, String> {
    ProfilerGuardBuilder::default().frequency(per_second).build().map_err(|error| match error {
        pprof::Error::Running => {
            "another profile is being taken: if TELEMETRYX_PROFILE is set, unset it and restart the server".to_owned()
        }
        pprof::Error::CreatingError => {
            "cannot create the temporary file of a profile: set TMPDIR to a directory that this \
                                        user may write to, and restart the server"
                .to_owned()
        }
        error => format!("cannot start the timer of a profile: {error}"),
    })
}

/// A place whose functions are known; where they are not, its address stands for them.
fn place_of(samples: &mut Samples, address: usize, frames: &Frames) -> Place {
    let symbols = frames.frames.iter().flatten().filter(|symbol| symbol.name.is_some());
    let line = |symbol: &Symbol| {
        let file = symbol.filename.as_deref().map(|file| file.to_string_lossy().into_owned()).unwrap_or_default();
        Line {
            name: samples.text(&encode::with_file(symbol.name(), &file)),
            system_name: samples.text(&symbol.sys_name()),
            file: samples.text(&file),
            line: symbol.lineno(),
        }
    };
    let mut lines: Vec<_> = symbols.map(line).collect();
    if lines.is_empty() {
        let name = samples.text(&format!("{address:#x}"));
        lines.push(Line { name, system_name: name, file: 0, line: 0 });
    }
    samples.place(address as u64, lines)
}

/// A flamegraph of the samples, SVG.
///
/// # Errors
/// In one line why it cannot be drawn.
pub(crate) fn flamegraph(samples: &Samples) -> Result<Vec<u8>, String> {
    let lines = encode::folded(samples);
    if lines.is_empty() {
        return Ok(NO_SAMPLES.to_vec());
    }
    let mut options = Options::default();
    options.title = format!("telemetryx: CPU time of {:.0} s", samples.duration.as_secs_f64());
    options.count_name = "samples".to_owned();
    // Types come last in a name.
    options.text_truncate_direction = TextTruncateDirection::Right;
    let mut svg = Vec::new();
    from_lines(&mut options, lines.iter().map(String::as_str), &mut svg)
        .map_err(|error| format!("cannot draw the flamegraph: {error}"))?;
    Ok(svg)
}

/// What is drawn of a server that was idle.
const NO_SAMPLES: &[u8] = b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
    <svg xmlns=\"http://www.w3.org/2000/svg\" width=\"600\" height=\"60\"><text x=\"20\" y=\"35\" \
    font-family=\"sans-serif\">No samples: the server used no CPU time.</text></svg>\n";
