//! CPU profiles of this process: one at a time, on a thread of its own, for whoever asked.
//!
//! ```text
//!  begin ─▶ thread "profile": sample ─ time is over ─▶ resolve names ─▶ encode ─▶ result, wake
//!    │                          └─ Pending dropped: ends, result thrown away
//!    └▶ Pending ── result? ──▶ None, or the profile once
//! ```
//!
//! | file | what it is |
//! |---|---|
//! | `sampler` | takes the samples; only with the cargo feature `profiling` |
//! | `samples` | the samples with the names of their functions |
//! | `encode` | `profile.proto` of pprof, compressed, and the lines that a flamegraph is drawn from |
//!
//! Without the feature everything else is built too, so that it is tested, and [`begin`] fails.

#[cfg(any(test, feature = "profiling"))]
mod encode;
#[cfg(feature = "profiling")]
mod sampler;
#[cfg(any(test, feature = "profiling"))]
mod samples;
#[cfg(test)]
mod tests;

#[cfg(feature = "profiling")]
pub(crate) use sampler::{Sampling, flamegraph};

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::limits::PROFILE_BYTES_MAX;

/// Whether this binary can take profiles: it was built with the cargo feature `profiling`.
pub const IS_BUILT: bool = cfg!(feature = "profiling");

/// The format of a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `profile.proto` of pprof, compressed with gzip.
    Protobuf,
    /// A flamegraph, SVG.
    Flamegraph,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// The format of the answer.
    pub format: Format,
    /// How long samples are taken.
    pub time: Duration,
}

/// Why a profile did not begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotBegun {
    /// Another one is being taken, for so long still.
    Busy {
        /// Until its samples are taken; zero while its names are resolved.
        wait: Duration,
    },
    /// The system refuses the thread.
    Failed(String),
}

/// The profile, or in one line why there is none and what to do.
pub type Outcome = Result<Vec<u8>, String>;

/// A profile that is being taken. Dropping it ends the profile.
#[derive(Debug)]
pub struct Pending {
    result: Receiver<Outcome>,
    /// Never sent to: the thread notices that it is gone.
    _wanted: Sender<()>,
}

/// The other end of a [`Pending`].
#[derive(Debug)]
pub struct Task {
    result: Sender<Outcome>,
    wanted: Receiver<()>,
}

/// A profile that nobody takes yet, and what takes it.
pub fn pending() -> (Pending, Task) {
    let ((result, results), (wanted, is_wanted)) = (channel(), channel());
    (Pending { result: results, _wanted: wanted }, Task { result, wanted: is_wanted })
}

impl Pending {
    /// The profile, once; `None`: it is not ready.
    pub fn take(&mut self) -> Option<Outcome> {
        match self.result.try_recv() {
            Ok(outcome) => Some(outcome),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err("the profile ended early: ask for it again".to_owned())),
        }
    }
}

impl Task {
    /// Waits while samples are taken. `false`: nobody waits for them any more.
    pub fn wait(&self, time: Duration) -> bool {
        matches!(self.wanted.recv_timeout(time), Err(RecvTimeoutError::Timeout))
    }

    /// Hands the profile over. Nothing happens if nobody waits for it any more.
    pub fn finish(self, outcome: Outcome) {
        let _ = self.result.send(outcome);
    }
}

/// When the samples of the profile that is being taken will be there; `None`: none is taken. SIGPROF and its timer belong to the
/// process, so this does as well.
static RUNNING: Mutex<Option<Instant>> = Mutex::new(None);

/// The only profile that is being taken, until it is dropped.
struct Turn;

impl Turn {
    fn take(now: Instant, time: Duration) -> Result<Self, Duration> {
        let mut running = running();
        match *running {
            Some(until) => Err(until.saturating_duration_since(now)),
            None => {
                *running = Some(now + time);
                Ok(Self)
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *running() = None;
    }
}

fn running() -> MutexGuard<'static, Option<Instant>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins to take a profile, on a thread of its own. `wake` is called there once [`Pending::take`] has something.
///
/// # Errors
/// Another one is being taken, or there is no thread for it.
pub fn begin(order: Order, wake: impl FnOnce() + Send + 'static) -> Result<Pending, NotBegun> {
    begin_by(order, wake, take)
}

/// `take` returns `None` if nobody waits for the profile any more.
fn begin_by(
    order: Order,
    wake: impl FnOnce() + Send + 'static,
    take: impl FnOnce(Order, &Task) -> Option<Outcome> + Send + 'static,
) -> Result<Pending, NotBegun> {
    let turn = Turn::take(Instant::now(), order.time).map_err(|wait| NotBegun::Busy { wait })?;
    let (pending, task) = pending();
    let run = move || {
        let outcome = take(order, &task);
        // Whoever has the answer can ask for the next one.
        drop(turn);
        if let Some(outcome) = outcome {
            task.finish(outcome.and_then(within_bound));
            wake();
        }
    };
    let started = thread::Builder::new().name("profile".to_owned()).spawn(run);
    started.map_err(|error| NotBegun::Failed(format!("cannot start a thread for the profile: {error}")))?;
    Ok(pending)
}

fn within_bound(profile: Vec<u8>) -> Outcome {
    if profile.len() > PROFILE_BYTES_MAX {
        return Err(format!(
            "the profile has {} bytes, and at most {PROFILE_BYTES_MAX} are sent: ask for fewer seconds",
            profile.len()
        ));
    }
    Ok(profile)
}

#[cfg(feature = "profiling")]
fn take(order: Order, task: &Task) -> Option<Outcome> {
    let sampling = match Sampling::start() {
        Ok(sampling) => sampling,
        Err(error) => return Some(Err(error)),
    };
    if !task.wait(order.time) {
        return None;
    }
    let encode = |samples| match order.format {
        Format::Protobuf => Ok(encode::protobuf(&samples)),
        Format::Flamegraph => flamegraph(&samples),
    };
    Some(sampling.finish().and_then(encode))
}

#[cfg(not(feature = "profiling"))]
fn take(_order: Order, _task: &Task) -> Option<Outcome> {
    Some(Err("this server was built without the cargo feature `profiling`".to_owned()))
}
