//! Routers: one thread per sink. Each takes batches from a short queue, gathers them into deliveries, and does not rest
//! before its sink has them.
//!
//! ```text
//!  log thread ─▶ queue ─▶ source ─▶ gather ─▶ [delivery] ─▶ sink ── stored ──▶ position moves, others are notified
//!              (bounded)   ▲ log      ▲                     │
//!                                 │                      ├─ unavailable ─▶ wait (backoff), connect, the same again
//!                                 │                      ├─ refused ─────▶ dead letters (synced), then without them
//!                                 └── next ◀─────────────┴─ refused unnamed ─▶ bisection
//! ```
//!
//! | file | what | I/O |
//! |---|---|---|
//! | `queue` | batches offered by the log thread, bounded | none |
//! | `source` | the queue, and the log for what was missed | reads the log |
//! | `gather` | when a delivery is due and what is in it | none |
//! | `steps` | what the settings of the sink leave of it | none |
//! | `retry` | delays between attempts, rate of warnings | none |
//! | `bisection` | what is left of a delivery: without refused rows, halved where the store names none | none |
//! | `worker` | what is next: gather, deliver, pause; its thread loops over it | all of it |
//! | `drain` | the end: one deadline for all routers | sleeps |
//! | `progress` | position and status, for others to read | none |
//! | `notes` | the last error and dead letters, for others to read | none |
//! | `positions` | position files of stores that keep none | files |
//! | `removed` | sinks that were removed from the settings | files |
//! | `dead` | dead letters | files |
//!
//! **End.** Dropping the [`RouterQueue`] drains the router: it stores what it was given, for ever until
//! [`Drain::begin`] gives it a deadline. A store may hold its thread longer than that (a FIFO without a reader):
//! [`Router::wait`] then gives up, and the process ends without it.

pub(crate) mod bisection;
pub mod dead;
pub mod drain;
pub mod gather;
mod notes;
pub mod positions;
pub mod progress;
mod queue;
pub mod removed;
pub mod retry;
mod source;
pub mod steps;
mod worker;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

pub use drain::Drain;
pub use notes::SinkNotes;
pub use progress::{SinkProgress, SinkState, SinkStatus};
pub use worker::Worker;

use crate::batch::Batch;
use crate::metrics::Metrics;
use crate::random::Random;
use crate::sink::{Identity, Sink, SinkSettings};
use crate::time::Now;
use crate::wal::Log;
use queue::{Queue, Reshape};
use steps::Steps;

/// Called by a router after its position moved.
pub type Notify = Arc<dyn Fn() + Send + Sync>;

/// What all routers of a server share.
pub struct Shared<'a> {
    /// The log's id, and this process as the owner of positions.
    pub identity: &'a Identity,
    /// The directory of position files and dead letters.
    pub data_dir: &'a Path,
    /// What a router missed is read from here; `None`: an offer waits for the router instead.
    pub log: Option<Arc<Log>>,
    /// Most bytes of the log (`wal.max_bytes`).
    pub log_bytes_max: u64,
    /// With a log, bytes of the buffer pool that one router may hold.
    pub share_bytes: usize,
    /// The metrics of the server.
    pub metrics: &'a Arc<Metrics>,
    /// The deadline of all routers, once the server drains.
    pub drain: Arc<Drain>,
    /// Wakes whatever waits for positions, such as acknowledgements of level *delivered*.
    pub notify: Notify,
}

/// The end that batches go into. Dropped: the router drains and ends.
pub struct RouterQueue {
    queue: Arc<Queue>,
    progress: Arc<SinkProgress>,
}

impl RouterQueue {
    /// Hands over the batch that follows. Without a log, waits while the queue is full.
    pub fn offer(&self, batch: &Arc<Batch>) {
        let received = batch.runs().first().map(|run| run.received_unix_nano);
        self.progress.offered(batch.end_position().saturating_sub(1), received);
        self.queue.offer(batch);
    }

    /// No event has a position between what was offered and `end`: the log continues there.
    pub fn skipped_to(&self, end: u64) {
        self.progress.offered(end.saturating_sub(1), None);
        self.queue.skipped_to(end);
    }
}

impl Drop for RouterQueue {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// Gives a running router other steps.
#[derive(Clone)]
pub struct Reshaper {
    queue: Arc<Queue>,
    progress: Arc<SinkProgress>,
}

impl Reshaper {
    /// From the next delivery on, the sink gets what these steps leave. A delivery that is open ends early with the earlier ones;
    /// one that is retried keeps them. `max_age`: how long deliveries are gathered.
    pub fn reshape(&self, steps: Steps, max_age: Duration) {
        self.progress.set_max_age(max_age);
        self.queue.reshape(Reshape { steps: Arc::new(steps), max_age });
    }
}

/// A running router, as its owner sees it.
pub struct Router {
    reshaper: Reshaper,
    progress: Arc<SinkProgress>,
    /// Never sends; disconnected when the thread has ended.
    ended: Receiver<()>,
}

impl Router {
    /// Starts the thread that delivers to `sink`.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(settings: &SinkSettings, sink: Box<dyn Sink>, shared: &Shared<'_>) -> io::Result<(RouterQueue, Self)> {
        let (queue, worker) = Worker::new(settings, sink, shared, Random::from_system(), Now::read());
        let progress = worker.progress().clone();
        let reshaper = Reshaper { queue: queue.queue.clone(), progress: progress.clone() };
        let (running, ended) = mpsc::sync_channel(0);
        thread::Builder::new().name(format!("router {}", settings.name)).spawn(move || {
            worker::thread::run(worker);
            drop(running);
        })?;
        Ok((queue, Self { reshaper, progress, ended }))
    }

    /// What the router shows while it runs.
    pub fn progress(&self) -> &Arc<SinkProgress> {
        &self.progress
    }

    /// To give it other steps while it runs.
    pub fn reshaper(&self) -> &Reshaper {
        &self.reshaper
    }

    /// Waits for the thread to end. `false`: it had not by `until`; what it owes is in its progress.
    pub fn wait(&self, until: Instant) -> bool {
        let left = until.saturating_duration_since(Instant::now());
        self.ended.recv_timeout(left) == Err(RecvTimeoutError::Disconnected)
    }
}

#[cfg(test)]
mod log_tests;
#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
mod window_tests;
