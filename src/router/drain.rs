//! The end of the server as the routers see it: one deadline for all of them, set once the server drains.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Shared by all routers and by the code that stops them.
#[derive(Debug, Default)]
pub struct Drain {
    deadline: Mutex<Option<Instant>>,
    changed: Condvar,
}

impl Drain {
    /// From now on routers have until `deadline`. Wakes those that wait to try again.
    pub fn begin(&self, deadline: Instant) {
        *self.lock() = Some(deadline);
        self.changed.notify_all();
    }

    /// Whether the drain has begun.
    pub fn begun(&self) -> bool {
        self.lock().is_some()
    }

    /// Whether the drain has begun and its deadline has passed.
    pub fn passed(&self, now: Instant) -> bool {
        self.lock().is_some_and(|deadline| deadline <= now)
    }

    /// Sleeps until `until` or the deadline, and not beyond the begin of the drain where the caller has not `seen` it.
    pub fn sleep(&self, until: Instant, seen: bool) {
        let mut deadline = self.lock();
        loop {
            let end = deadline.map_or(until, |deadline| deadline.min(until));
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || deadline.is_some() != seen {
                return;
            }
            deadline = self.changed.wait_timeout(deadline, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.deadline.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_begin_of_the_drain_ends_a_long_sleep_even_if_it_came_first() {
        let drain = Arc::new(Drain::default());
        let started = Instant::now();
        let sleeper = std::thread::spawn({
            let drain = drain.clone();
            move || drain.sleep(started + Duration::from_secs(60), false)
        });
        drain.begin(started + Duration::from_secs(60));
        sleeper.join().unwrap();
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_sleep_ends_with_the_deadline() {
        let drain = Drain::default();
        let now = Instant::now();
        drain.begin(now + Duration::from_millis(20));
        assert!(!drain.passed(now));
        drain.sleep(now + Duration::from_secs(60), true);
        assert!(drain.passed(Instant::now()));
        assert!(now.elapsed() < Duration::from_secs(10));
    }
}
