//! How much may be received in a time: the generic cell rate algorithm (GCRA), charged afterwards. `now` is an argument, and
//! all numbers are integers.
//!
//! ```text
//!          paid for                    due
//!  ─────────────┼────────── burst ──────┼───────▶ time
//!              now                      each unit moves it by 1 s / rate
//! ```
//!
//! Of each rate one number is kept: the time at which everything received is paid for ([`Due`]). Something new is admitted
//! while that time is at most one burst ahead, however large it is; only then its size is known, and charged. So a unit is
//! admitted once those before it are paid for, and a large one passes. The same as a bucket of tokens that holds one burst,
//! may be overdrawn, and admits while it is not.
//!
//! Times are nanoseconds since any moment that the caller keeps. The cost of a charge is rounded up to a whole nanosecond:
//! never more than the rate is admitted, and less by at most one nanosecond per charge.

mod shared;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use self::shared::SharedLimit;

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// Units per second, and how many may come at once after a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// At least one.
    per_second: u64,
    burst_nanos: u64,
}

impl Rate {
    /// `burst`: the time whose units may come at once. `None`: 0 per second, which stands for no limit.
    pub fn new(per_second: u64, burst: Duration) -> Option<Self> {
        let burst_nanos = u64::try_from(burst.as_nanos()).unwrap_or(u64::MAX);
        (per_second > 0).then_some(Self { per_second, burst_nanos })
    }

    /// Nanoseconds until something is admitted; 0: now.
    pub fn wait_nanos(&self, due: u64, now: u64) -> u64 {
        due.saturating_sub(now).saturating_sub(self.burst_nanos)
    }

    /// The time at which everything is paid for, once `units` more were received.
    pub fn charge(&self, due: u64, units: u64, now: u64) -> u64 {
        let nanos = (u128::from(units) * NANOS_PER_SECOND).div_ceil(u128::from(self.per_second));
        due.max(now).saturating_add(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Units that can be received now before something has to wait.
    pub fn room(&self, due: u64, now: u64) -> u64 {
        let nanos = now.saturating_add(self.burst_nanos).saturating_sub(due.max(now));
        u64::try_from(u128::from(nanos) * u128::from(self.per_second) / NANOS_PER_SECOND).unwrap_or(u64::MAX)
    }
}

/// What was received, or can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amount {
    /// Number of events.
    pub events: u64,
    /// Bytes of payloads and bodies, as they were sent.
    pub bytes: u64,
}

/// What was received, and how many events of it were accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Received {
    /// Everything, rejected events too.
    pub amount: Amount,
    /// Accepted events.
    pub accepted: u64,
}

impl Received {
    /// Adds `events` in `bytes`, of which so many were accepted.
    pub fn add(&mut self, events: u32, accepted: u32, bytes: usize) {
        self.amount.events += u64::from(events);
        self.amount.bytes += bytes as u64;
        self.accepted += u64::from(accepted);
    }
}

/// When everything received is paid for, in nanoseconds. At first it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Due {
    /// By the limit on events.
    pub events: u64,
    /// By the limit on bytes.
    pub bytes: u64,
}

impl Due {
    /// The later of both, for each rate.
    pub fn max(self, other: Self) -> Self {
        Self { events: self.events.max(other.events), bytes: self.bytes.max(other.bytes) }
    }

    /// Whether everything is paid for.
    pub fn is_paid(self, now: u64) -> bool {
        self.events <= now && self.bytes <= now
    }
}

/// A rate of events and a rate of bytes, at least one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    events: Option<Rate>,
    bytes: Option<Rate>,
}

impl Limit {
    /// 0: no limit. `None`: neither is limited.
    pub fn new(events_per_second: u64, bytes_per_second: u64, burst: Duration) -> Option<Self> {
        let limit = Self { events: Rate::new(events_per_second, burst), bytes: Rate::new(bytes_per_second, burst) };
        (limit.events.is_some() || limit.bytes.is_some()).then_some(limit)
    }

    /// How long until something is admitted. `None`: it is admitted now.
    pub fn wait(&self, due: Due, now: u64) -> Option<Duration> {
        let wait = |rate: Option<Rate>, due| rate.map_or(0, |rate| rate.wait_nanos(due, now));
        let nanos = wait(self.events, due.events).max(wait(self.bytes, due.bytes));
        (nanos > 0).then(|| Duration::from_nanos(nanos))
    }

    /// When everything is paid for, once this was received too.
    pub fn charge(&self, due: Due, received: Amount, now: u64) -> Due {
        let charge = |rate: Option<Rate>, due, units| rate.map_or(due, |rate| rate.charge(due, units, now));
        Due {
            events: charge(self.events, due.events, received.events),
            bytes: charge(self.bytes, due.bytes, received.bytes),
        }
    }

    /// What can be received now before something has to wait; the largest number where there is no limit.
    pub fn room(&self, due: Due, now: u64) -> Amount {
        let room = |rate: Option<Rate>, due| rate.map_or(u64::MAX, |rate| rate.room(due, now));
        Amount { events: room(self.events, due.events), bytes: room(self.bytes, due.bytes) }
    }
}
