//! What a sink does between deliveries: the check that they are in place, and its upkeep.

use std::time::Instant;

use tracing::warn;

use super::{Next, State, Stepped, Then, Worker};
use crate::limits;
use crate::sink::{Unavailable, Upkeep};
use crate::time::Now;

impl Worker {
    /// Whether it is time for what is due `at` a moment; `None`: never. Not while draining: that has a deadline.
    pub(super) fn is_due(&self, at: Option<Instant>, now: Now) -> bool {
        at.is_some_and(|at| at <= now.monotonic) && !self.drain.begun()
    }

    /// Looks whether what was delivered is in place.
    pub(super) fn check(&mut self, then_upkeep: bool, now: Now) -> Next<()> {
        self.check_at = self.sink.check_interval().map(|interval| now.monotonic + interval);
        let result = self.sink.check_in_place();
        self.then(State::Checked { then_upkeep, result })
    }

    /// Connects again where something is not in its place.
    pub(super) fn checked(&mut self, then_upkeep: bool, result: Result<(), Unavailable>, now: Now) -> Stepped {
        if let Err(unavailable) = result {
            return self.wait(&unavailable, State::Connect(Then::Gather), now);
        }
        let has_upkeep = then_upkeep && self.is_due(self.upkeep_at, now);
        Ok(self.then(if has_upkeep { State::Upkeep } else { State::Gather }))
    }

    /// The sink's upkeep has ended.
    pub(super) fn upkept(&mut self, result: Result<Upkeep, Unavailable>, now: Now) -> Next<()> {
        let again = match result {
            Ok(upkeep) => {
                self.metrics.events_expired.inc_by(upkeep.expired_events);
                upkeep.again
            }
            Err(error) => {
                warn!(sink = self.name, error = error.to_string(), "sink maintenance failed");
                Some(limits::UPKEEP_INTERVAL)
            }
        };
        self.upkeep_at = again.map(|after| now.monotonic + after);
        self.then(State::Gather)
    }
}
