//! Notifies the service manager: ready, stopping, and that the event loops make progress.
//!
//! ```text
//!  wake all loops ─▶ wait a part of the watchdog's time ─▶ has each ended a turn? ─▶ WATCHDOG=1 ─▶ wake all loops …
//!                                                              └─ no: nothing is sent, and the service manager ends the process
//! ```
//!
//! A thread of its own sends, so that no loop waits for the service manager. The log thread is not watched: a disk that answers late is
//! no reason to end the process.

use std::net::SocketAddr;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::{ServerError, system};
use crate::ids::LoopId;
use crate::limits::{STOPPING_NOTICE_WAIT, WATCHDOG_INTERVAL_LOWEST, WATCHDOG_MESSAGES};
use crate::net::Shared;
use crate::service_manager::{READY, RELOADING, STOPPING, ServiceManager, WATCHDOG};

/// What happens to the server.
enum Notice {
    /// Its settings are read again, since this time of CLOCK_MONOTONIC.
    Reloading { since: Duration },
    /// They were read.
    Reloaded,
    /// The end has begun.
    End,
}

/// Notifies the service manager of reloads; without one it does nothing.
pub(super) struct Notices(Option<Sender<Notice>>);

impl Notices {
    /// The settings are read again.
    pub(super) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let nanos = u32::try_from(now.tv_nsec).unwrap_or_default();
        self.send(Notice::Reloading { since: Duration::new(now.tv_sec.cast_unsigned(), nanos) });
    }

    /// That is done.
    pub(super) fn reloaded(&self) {
        self.send(Notice::Reloaded);
    }

    fn send(&self, notice: Notice) {
        if let Some(sender) = &self.0 {
            // Nobody receives it where the thread could not be started.
            let _ = sender.send(notice);
        }
    }
}

/// What notifies the service manager, before its thread runs.
pub(super) struct Notifier {
    manager: Option<ServiceManager>,
    sender: Sender<Notice>,
    notices: Receiver<Notice>,
}

impl Notifier {
    /// Notifies the service manager that the environment names. Without one it does nothing.
    pub(super) fn from_environment() -> Self {
        let manager = ServiceManager::from_environment().unwrap_or_else(|error| {
            tracing::warn!(%error, "the service manager is not notified");
            None
        });
        let (sender, notices) = mpsc::channel();
        Self { manager, sender, notices }
    }

    /// For reloads.
    pub(super) fn notices(&self) -> Notices {
        Notices(self.manager.as_ref().map(|_| self.sender.clone()))
    }

    /// What the loops call when the end begins.
    pub(super) fn on_end(&self) -> Box<dyn Fn() + Send + Sync> {
        if self.manager.is_none() {
            return Box::new(|| {});
        }
        let sender = self.sender.clone();
        Box::new(move || {
            // Nobody receives it where the thread could not be started.
            let _ = sender.send(Notice::End);
        })
    }

    /// Starts the thread, which reports the service as ready once every loop has had a turn. It never ends: the process does.
    pub(super) fn start(self, shared: &Arc<Shared>, address: SocketAddr) -> Result<Stopping, ServerError> {
        let Some(manager) = self.manager else { return Ok(Stopping(None)) };
        let (loops, notices) = (Arc::downgrade(shared), self.notices);
        let (stopping_sent, stopping) = mpsc::channel();
        let run = move || Notifying { manager, loops, address, stopping_sent, fails: false }.run(&notices);
        let thread = thread::Builder::new().name("notify".to_owned()).spawn(run);
        thread.map(|_| Stopping(Some(stopping))).map_err(system("a thread that notifies the service manager"))
    }
}

/// Whether the service manager was notified of the end.
pub(super) struct Stopping(Option<Receiver<()>>);

impl Stopping {
    /// Waits until it was, since the end may be shorter than a thread needs to notice it; a moment at most.
    pub(super) fn wait_until_sent(&self) {
        if let Some(sent) = &self.0 {
            let _ = sent.recv_timeout(STOPPING_NOTICE_WAIT);
        }
    }
}

/// The thread's state.
struct Notifying {
    manager: ServiceManager,
    /// Gone when all loops have ended.
    loops: Weak<Shared>,
    address: SocketAddr,
    /// For the end, once STOPPING was sent.
    stopping_sent: Sender<()>,
    /// The last message could not be sent, and this was logged.
    fails: bool,
}

impl Notifying {
    fn run(mut self, notices: &Receiver<Notice>) {
        let interval = self.manager.watchdog().map(|time| (time / WATCHDOG_MESSAGES).max(WATCHDOG_INTERVAL_LOWEST));
        let (mut watch, mut stopping) = (Watch::default(), false);
        loop {
            // How long the end may take is another setting of the service manager.
            let turns = if stopping { None } else { self.turns_and_wake() };
            match watch.step(turns) {
                Step::Ready => self.send(&self.ready()),
                Step::Alive if interval.is_some() => self.send(WATCHDOG),
                Step::Hangs { event_loop } => {
                    tracing::error!(event_loop, "an event loop hangs; the service manager will end the process");
                }
                Step::Alive | Step::Nothing => {}
            }
            let pause = if watch.is_ready || stopping { interval } else { Some(WATCHDOG_INTERVAL_LOWEST) };
            let until = pause.map(|pause| Instant::now() + pause);
            let is_up = watch.is_ready && !stopping;
            // The loops have had no turn yet where a notice comes sooner.
            while let Some(notice) = next_notice(notices, until) {
                match notice {
                    Notice::End if !stopping => {
                        stopping = true;
                        self.send(&format!("{STOPPING}\nSTATUS=Shutting down"));
                        let _ = self.stopping_sent.send(());
                        break;
                    }
                    Notice::Reloading { since } if is_up => {
                        let micros = since.as_micros();
                        self.send(&format!("{RELOADING}\nMONOTONIC_USEC={micros}\nSTATUS=Reading the settings again"));
                    }
                    Notice::Reloaded if is_up => self.send(&self.ready()),
                    Notice::End | Notice::Reloading { .. } | Notice::Reloaded => {}
                }
            }
            if stopping && interval.is_none() {
                return;
            }
        }
    }

    /// The turns of each loop so far; each is woken to have another one. `None`: all loops have ended.
    fn turns_and_wake(&self) -> Option<Vec<u64>> {
        let shared = self.loops.upgrade()?;
        let turns_and_wake = |index| {
            let event_loop = LoopId(index as u8);
            let turns = shared.state(event_loop).turns();
            shared.loops.wake(event_loop);
            turns
        };
        Some((0..shared.event_loops()).map(turns_and_wake).collect())
    }

    fn ready(&self) -> String {
        format!("{READY}\nSTATUS=Listening on {}", self.address)
    }

    fn send(&mut self, message: &str) {
        let sent = self.manager.notify(message);
        if let (Err(error), false) = (&sent, self.fails) {
            tracing::warn!(%error, "the service manager cannot be notified");
        }
        self.fails = sent.is_err();
    }
}

/// Waits for the next notice until then, or with `None` for ever. `None`: there was none in time.
fn next_notice(notices: &Receiver<Notice>, until: Option<Instant>) -> Option<Notice> {
    let Some(until) = until else {
        // All loops have ended where nobody can send any more; the log and the sinks have not.
        return Some(notices.recv().unwrap_or(Notice::End));
    };
    let left = until.saturating_duration_since(Instant::now());
    match notices.recv_timeout(left) {
        Ok(notice) => Some(notice),
        Err(RecvTimeoutError::Timeout) => None,
        Err(RecvTimeoutError::Disconnected) => {
            thread::sleep(until.saturating_duration_since(Instant::now()));
            None
        }
    }
}

/// Decides what is sent. Its steps are a part of the watchdog's time apart.
#[derive(Debug, Default)]
struct Watch {
    /// The turns of each loop at the last step.
    turns: Vec<u64>,
    /// Every loop has had a turn.
    is_ready: bool,
    /// A loop hangs, and this was reported.
    hangs: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Not every loop has had a turn yet, or the same loop still hangs.
    Nothing,
    /// The service has started.
    Ready,
    /// Every loop has ended a turn since the last step.
    Alive,
    /// This loop has not; the first step of which that is true.
    Hangs { event_loop: usize },
}

impl Watch {
    /// `turns`: of each loop so far; `None`: the end has begun, and loops may have ended.
    fn step(&mut self, turns: Option<Vec<u64>>) -> Step {
        let Some(turns) = turns else { return Step::Alive };
        let before = |index: usize| self.turns.get(index).copied().unwrap_or(0);
        let without = turns.iter().enumerate().position(|(index, turns)| *turns == before(index));
        match (without, self.is_ready, self.hangs) {
            // What was seen stays, so that all have had a turn where one is late.
            (Some(_), false, _) | (Some(_), true, true) => Step::Nothing,
            (None, false, _) => {
                (self.is_ready, self.turns) = (true, turns);
                Step::Ready
            }
            (Some(event_loop), true, false) => {
                self.hangs = true;
                Step::Hangs { event_loop }
            }
            (None, true, _) => {
                (self.hangs, self.turns) = (false, turns);
                Step::Alive
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_is_ready_once_every_loop_has_had_a_turn() {
        let mut watch = Watch::default();
        assert_eq!(watch.step(Some(vec![0, 0])), Step::Nothing);
        assert_eq!(watch.step(Some(vec![9, 0])), Step::Nothing);
        assert_eq!(watch.step(Some(vec![9, 1])), Step::Ready);
        assert_eq!(watch.step(Some(vec![10, 2])), Step::Alive);
    }

    #[test]
    fn a_loop_that_ends_no_turn_is_reported_once_and_nothing_is_sent_until_it_does() {
        let mut watch = Watch::default();
        assert_eq!(watch.step(Some(vec![1, 1])), Step::Ready);
        assert_eq!(watch.step(Some(vec![500, 1])), Step::Hangs { event_loop: 1 });
        assert_eq!(watch.step(Some(vec![900, 1])), Step::Nothing);
        assert_eq!(watch.step(Some(vec![901, 2])), Step::Alive);
        assert_eq!(watch.step(Some(vec![901, 3])), Step::Hangs { event_loop: 0 });
    }

    #[test]
    fn a_late_loop_need_not_be_in_step_with_the_others() {
        let mut watch = Watch::default();
        watch.step(Some(vec![1, 1]));
        // Loop 1 ends its turn between these steps, loop 0 between the next ones: both have moved since the last message.
        assert_eq!(watch.step(Some(vec![1, 2])), Step::Hangs { event_loop: 0 });
        assert_eq!(watch.step(Some(vec![2, 2])), Step::Alive);
    }

    #[test]
    fn loops_are_not_watched_once_the_end_has_begun() {
        let mut watch = Watch::default();
        watch.step(Some(vec![1]));
        assert_eq!(watch.step(Some(vec![1])), Step::Hangs { event_loop: 0 });
        assert_eq!(watch.step(None), Step::Alive);
        assert_eq!(watch.step(None), Step::Alive);
    }
}
