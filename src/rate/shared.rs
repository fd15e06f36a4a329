//! A limit that several event loops share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Amount, Due, Limit, Rate};

/// A [`Limit`] and what is due of it. Loops that charge at the same time all count; each can have been admitted before.
#[derive(Debug)]
pub struct SharedLimit {
    limit: Limit,
    events: AtomicU64,
    bytes: AtomicU64,
}

impl SharedLimit {
    /// Nothing was received yet.
    pub fn new(limit: Limit) -> Self {
        Self { limit, events: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }

    /// The limit, without what is due of it.
    pub fn limit(&self) -> Limit {
        self.limit
    }

    /// As [`Limit::wait`].
    pub fn wait(&self, now: u64) -> Option<Duration> {
        self.limit.wait(self.due(), now)
    }

    /// As [`Limit::room`].
    pub fn room(&self, now: u64) -> Amount {
        self.limit.room(self.due(), now)
    }

    /// As [`Limit::charge`].
    pub fn charge(&self, received: Amount, now: u64) {
        charge(self.limit.events, &self.events, received.events, now);
        charge(self.limit.bytes, &self.bytes, received.bytes, now);
    }

    fn due(&self) -> Due {
        Due { events: self.events.load(Ordering::Relaxed), bytes: self.bytes.load(Ordering::Relaxed) }
    }
}

/// Nothing else is published by these numbers, so no order is asked for.
fn charge(rate: Option<Rate>, due: &AtomicU64, units: u64, now: u64) {
    let Some(rate) = rate else { return };
    let mut before = due.load(Ordering::Relaxed);
    loop {
        let after = rate.charge(before, units, now);
        match due.compare_exchange_weak(before, after, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return,
            Err(other) => before = other,
        }
    }
}
