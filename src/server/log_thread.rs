//! The log thread: what it works with, and what it keeps of frames that were rejected.

use std::io;
use std::sync::{Arc, mpsc};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::{ServerError, system};
use crate::batch::Batch;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::pipeline::group_commit::{self, GroupCommit, Holder, Outlets, Parts, Unwritten};
use crate::pipeline::rings::Rings;
use crate::pipeline::without_log::{self, RefusedPayload};
use crate::router::dead::{DeadLetters, INGEST, RefusedFrame};
use crate::router::{Drain, Router, RouterQueue, SinkProgress};
use crate::sink::SinkSettings;
use crate::time::Now;

/// Pause before dead letters that could not be written are written again.
const DEAD_LETTERS_RETRY: Duration = Duration::from_secs(1);

/// A running log thread.
pub(super) struct LogThread {
    handle: thread::JoinHandle<()>,
    ended: mpsc::Receiver<Unwritten>,
}

impl LogThread {
    /// `log`: `None` without a log.
    pub(super) fn start(
        config: &Config,
        log: Option<Parts>,
        rings: Rings,
        queues: Vec<RouterQueue>,
        (metrics, drain): (&Arc<Metrics>, &Arc<Drain>),
    ) -> Result<Self, ServerError> {
        let letters = DeadLetters::new(&config.data_dir, INGEST, metrics);
        let events_dead = metrics.events_dead(INGEST);
        let drain = drain.clone();
        let (ends, ended) = mpsc::sync_channel(1);
        let run = move || {
            let keep_refused = move |refused: &[RefusedPayload]| {
                letters.append(refused.iter().map(letter))?;
                events_dead.inc_by(refused.iter().map(|payload| u64::from(payload.events)).sum());
                Ok(())
            };
            let offer = move |batch: &Arc<Batch>| queues.iter().for_each(|queue| queue.offer(batch));
            let unwritten = match log {
                Some(parts) => {
                    let outlets = Outlets { keep_refused: Box::new(keep_refused), offer: Box::new(offer) };
                    let group_commit = GroupCommit::new(parts, outlets, rings, Now::read());
                    group_commit::thread::run(group_commit, |until| drain.sleep(until, drain.begun()))
                }
                None => {
                    without_log::run(rings, |refused| keep(refused, &keep_refused, &drain), offer);
                    Unwritten::default()
                }
            };
            // Nobody listens where a loop has failed.
            let _ = ends.send(unwritten);
        };
        let handle =
            thread::Builder::new().name("log".to_owned()).spawn(run).map_err(system("a thread for the log"))?;
        Ok(Self { handle, ended })
    }

    /// The thread, to be woken by the rings.
    pub(super) fn thread(&self) -> &Thread {
        self.handle.thread()
    }

    /// Waits until it has ended, not longer than `time`. `None`: it has not.
    pub(super) fn wait(&self, time: Duration) -> Option<Unwritten> {
        self.ended.recv_timeout(time).ok()
    }

    /// Whether the thread has ended.
    pub(super) fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }
}

/// For whom the log keeps events.
pub(super) fn holders(config: &Config, routers: &[Router]) -> Vec<Box<dyn Holder>> {
    struct SinkHolder {
        progress: Arc<SinkProgress>,
        drops_oldest: bool,
    }
    impl Holder for SinkHolder {
        fn position(&self) -> u64 {
            self.progress.position()
        }

        fn drops_oldest(&self) -> bool {
            self.drops_oldest
        }

        fn name(&self) -> &str {
            self.progress.name()
        }
    }
    let holder = |(settings, router): (&SinkSettings, &Router)| {
        let progress = router.progress().clone();
        Box::new(SinkHolder { progress, drops_oldest: settings.drops_oldest }) as Box<dyn Holder>
    };
    config.sinks.iter().zip(routers).map(holder).collect()
}

/// Whether the drain is over: then the log thread waits for nothing any more.
pub(super) fn is_over(drain: &Arc<Drain>) -> Box<dyn Fn(Instant) -> bool + Send> {
    let drain = drain.clone();
    Box::new(move |now| drain.passed(now))
}

fn letter(refused: &RefusedPayload) -> RefusedFrame<'_> {
    RefusedFrame {
        origin: &refused.origin,
        seq: refused.seq,
        code: refused.code.name(),
        reason: &refused.reason,
        payload: &refused.payload,
        received_unix_nano: refused.received_unix_nano,
    }
}

/// Without a log, has refused payloads kept, however long it takes. (Only an ACK of a level above *received* could
/// wait for this, and needs a log.) If the disk takes no writes until the drain has ended, they are lost, and that is
/// logged.
fn keep(refused: &[RefusedPayload], append: impl Fn(&[RefusedPayload]) -> io::Result<()>, drain: &Drain) {
    while let Err(error) = append(refused) {
        let now = Instant::now();
        if drain.passed(now) {
            tracing::error!(%error, frames = refused.len(), "rejected frames could not be written to dead letters and are lost");
            return;
        }
        tracing::warn!(%error, "dead letters cannot be written; nothing is accepted until they can be");
        drain.sleep(now + DEAD_LETTERS_RETRY, drain.begun());
    }
}
