//! What a router does while its sink is unavailable: it shows that, and pauses before the next attempt.

use std::time::Instant;

use tracing::warn;

use super::{DeadlinePassed, Done, Next, State, Stepped, Worker};
use crate::router::progress::SinkStatus;
use crate::sink::Unavailable;
use crate::time::Now;
use crate::{descriptors, limits};

impl Worker {
    /// Shows the trouble, and pauses before `then`.
    pub(super) fn wait(&mut self, unavailable: &Unavailable, then: State, now: Now) -> Stepped {
        self.state = then;
        let unavailable = &without_descriptors(unavailable.clone());
        let (status, delay) = match unavailable {
            Unavailable::Retry { reason, after } => (SinkStatus::Retrying(reason.clone()), self.backoff.retry(*after)),
            // While draining there is no time to be slow.
            Unavailable::Down { reason } if self.draining => {
                (SinkStatus::Down(reason.clone()), self.backoff.retry(None))
            }
            Unavailable::Down { reason } => (SinkStatus::Down(reason.clone()), self.backoff.down()),
        };
        if self.log.is_some() && self.drain.begun() {
            // The log keeps what is left; nothing is won by waiting for a store that does not answer.
            self.progress.set_status(status);
            return Err(DeadlinePassed);
        }
        let words = status.to_string();
        let is_down = matches!(status, SinkStatus::Down(_));
        let before = self.progress.set_status(status);
        // Whether a person has to act, or not any more, is never one of many: tries are seldom while a sink is down.
        let changes = is_down != matches!(before, SinkStatus::Down(_));
        let suppressed =
            if changes { Some(self.warnings.at_once(now.monotonic)) } else { self.warnings.due(now.monotonic) };
        if let Some(suppressed) = suppressed {
            let next_attempt_seconds = delay.as_secs_f64();
            warn!(sink = self.name, status = words, suppressed, next_attempt_seconds, "sink unavailable, retrying");
            self.warned = true;
        }
        self.metrics.retries.inc();
        // Others need the pool meanwhile: the largest HTTP body may need all that is kept for whole bodies.
        let saving = if let State::Save(part) = &mut self.state { Some(part) } else { None };
        self.gather.unpin(self.parts.parts_mut().chain(saving));
        self.source.release();
        let until = now.monotonic + delay;
        let (Unavailable::Retry { reason, .. } | Unavailable::Down { reason }) = unavailable;
        self.progress.notes().failed(reason, until, now);
        self.paused_until = Some(until);
        Ok(Next::Pause(until))
    }

    /// Whether the pause until `until` has ended. The begin of the drain ends it: from then on attempts are made quickly, or with
    /// a log none.
    pub(super) fn is_pause_over(&mut self, until: Instant, now: Now) -> Done<bool> {
        let begins = self.drain.begun() && !self.draining;
        if self.log.is_some() && self.drain.begun() {
            return Err(DeadlinePassed);
        }
        if begins {
            self.draining = true;
            self.backoff.reset();
        }
        self.check_deadline(now)?;
        Ok(begins || until <= now.monotonic)
    }

    pub(super) fn check_deadline(&self, now: Now) -> Done {
        if self.drain.passed(now.monotonic) { Err(DeadlinePassed) } else { Ok(()) }
    }
}

/// A sink that is down while there is no file descriptor left is retried: its store need not be at fault, and the errors
/// of most libraries do not carry the cause.
fn without_descriptors(unavailable: Unavailable) -> Unavailable {
    match unavailable {
        Unavailable::Down { reason } if descriptors::lack(limits::STORE_DESCRIPTORS) => {
            Unavailable::retry(format!("{reason} (out of file descriptors)"))
        }
        unavailable => unavailable,
    }
}
