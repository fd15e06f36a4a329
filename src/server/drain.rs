//! The end: the loops have ended; the log thread and the routers do what is left.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGUSR1, SIGUSR2};

use super::log_thread::LogThread;
use super::loops::End;
use super::{ServerError, end};
use crate::net::{self, Ended};
use crate::pipeline::group_commit::Unwritten;
use crate::pipeline::health::LogHealth;
use crate::pipeline::ring::LetGo;
use crate::pipeline::watermark::Watermarks;
use crate::router::{Drain, Router};
use crate::wire::AckLevel;

/// As a shell reports a process that SIGINT ended.
const EXIT_SECOND_SIGNAL: i32 = 130;
/// Once the drain is over the log thread ends, unless its disk holds it.
const LOG_END_TIMEOUT: Duration = Duration::from_secs(2);
/// The routers have at least this long, however late the loops have ended.
const ROUTERS_MIN: Duration = Duration::from_millis(200);

/// What has to end, and in which order.
pub(super) struct Ending {
    /// Ends when the rings have ended.
    pub log_thread: LogThread,
    /// End when their queues have ended.
    pub routers: Vec<Router>,
    /// The deadline of the routers.
    pub drain: Arc<Drain>,
    /// State of the log.
    pub health: Arc<LogHealth>,
    /// Of each loop: what its senders have let go of, and how far the log is.
    pub promises: Vec<(LetGo, Arc<Watermarks>)>,
    /// Whether what the sinks have not stored is kept for the next start.
    pub has_log: bool,
}

impl Ending {
    /// Lets the rest be delivered, and reports what is missing.
    pub(super) fn finish(self, end: End) -> Result<(), ServerError> {
        if self.health.failure().is_some() {
            let unwritten = self.log_thread.wait(LOG_END_TIMEOUT).unwrap_or_default();
            return Err(ServerError::log_failed(&self.health, unwritten.let_go_events));
        }
        // The loops leave the rest of the drain time to the routers.
        let deadline = end.deadline.unwrap_or_else(Instant::now).max(Instant::now() + ROUTERS_MIN);
        self.drain.begin(deadline);
        // All of them are waited for, also behind one that has not ended.
        let late = self.routers.iter().filter(|router| !router.wait(deadline)).count();
        let delivered = late == 0;
        let undelivered: u64 = self.routers.iter().map(|router| router.progress().owed_events()).sum();
        if let Ended::TimedOut { connections } = end.ended {
            tracing::warn!(connections, "closed connections after server.drain_timeout");
        }
        if self.has_log {
            end::report(self.end_log(deadline)?.as_ref(), undelivered);
            return Ok(());
        }
        // A router that is still trying to connect, with nothing to deliver, loses nothing.
        if undelivered > 0 || (!delivered && !self.log_thread.is_finished()) {
            return Err(ServerError::DrainTimeout { events: undelivered });
        }
        tracing::info!("shut down, everything delivered");
        Ok(())
    }

    /// Something was acknowledged as *received* that is not in the log yet.
    fn is_promised(&self) -> bool {
        self.promises.iter().any(|(let_go, watermarks)| let_go.ticket() > watermarks.get(AckLevel::Written))
    }

    /// Waits for the log thread: what was acknowledged is in the log then, delivered or not. `None`: it has not answered.
    fn end_log(&self, deadline: Instant) -> Result<Option<Unwritten>, ServerError> {
        let promised = self.is_promised();
        // Space may return until the drain is over; for events that nobody was promised, that is not waited for.
        let time = if promised { deadline.saturating_duration_since(Instant::now()) } else { Duration::ZERO };
        match self.log_thread.wait(time + LOG_END_TIMEOUT) {
            Some(unwritten) if self.health.failure().is_some() => {
                Err(ServerError::log_failed(&self.health, unwritten.let_go_events))
            }
            Some(Unwritten { let_go_events: events @ 1.., .. }) => Err(ServerError::NotKept { events }),
            None if promised && self.is_promised() => Err(ServerError::LogStuck),
            unwritten => Ok(unwritten),
        }
    }
}

/// The first SIGTERM or SIGINT drains (the event loop sees to it); a second one ends the process at once. So does SIGHUP, unless
/// it asks for a reload.
pub(super) fn exit_on_second_signal(hangup_reloads: bool) -> io::Result<()> {
    let once = Arc::new(AtomicBool::new(false));
    for signal in net::DRAIN_SIGNALS.into_iter().filter(|signal| !hangup_reloads || *signal != SIGHUP) {
        // In this order: the first signal finds the flag down and then raises it.
        signal_hook::flag::register_conditional_shutdown(signal, EXIT_SECOND_SIGNAL, once.clone())?;
        signal_hook::flag::register(signal, once.clone())?;
    }
    Ok(())
}

/// SIGUSR2 means nothing to the server, and SIGUSR1, and SIGHUP where it asks for a reload, nothing before it listens. Scripts send
/// them to have a log file opened again; by default they end a process.
pub(super) fn ignore_signals(hangup_reloads: bool) -> io::Result<()> {
    for signal in [SIGUSR1, SIGUSR2].into_iter().chain(hangup_reloads.then_some(SIGHUP)) {
        // A handler that does nothing that matters: to ignore a signal would need `unsafe`.
        signal_hook::flag::register(signal, Arc::default())?;
    }
    Ok(())
}
