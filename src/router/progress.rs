//! What a router shows to others while it runs: how far its sink is, and how it is doing.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::limits::SINK_WAIT_MAX;
use crate::metrics::IntGauge;
use crate::router::notes::SinkNotes;
use crate::sink::SinkSettings;
use crate::time::{Now, unix_nano};
use crate::wal::Log;

/// How a sink is doing. `Display` is what log lines show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkStatus {
    /// The first attempt to connect has not ended.
    Connecting,
    /// Connected, and nothing failed since.
    Ok,
    /// It passes by itself.
    Retrying(String),
    /// A person has to act.
    Down(String),
}

/// How a sink is doing, in one word, as `/ready` shows it to every peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinkState {
    /// The first attempt to connect has not ended.
    Connecting,
    /// It delivers, and is not behind.
    Ok,
    /// It delivers, but its oldest event waits for longer than [`SINK_WAIT_MAX`] and the sink's `batch.max_age`.
    Behind,
    /// It delivered nothing in that time, although events wait.
    Stalled,
    /// It passes by itself.
    Retrying,
    /// A person has to act.
    Down,
}

impl SinkState {
    /// As in `/ready`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Ok => "ok",
            Self::Behind => "behind",
            Self::Stalled => "stalled",
            Self::Retrying => "retrying",
            Self::Down => "down",
        }
    }

    /// Whether the sink delivers, as far as is known.
    pub fn is_up(self) -> bool {
        matches!(self, Self::Ok | Self::Behind)
    }
}

impl fmt::Display for SinkStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting => f.write_str("connecting"),
            Self::Ok => f.write_str("ok"),
            Self::Retrying(reason) => write!(f, "retrying: {reason}"),
            Self::Down(reason) => write!(f, "down: {reason}"),
        }
    }
}

/// Written by one router, read by anyone.
pub struct SinkProgress {
    name: String,
    required: bool,
    /// Knows which positions no event has.
    log: Option<Arc<Log>>,
    /// The store has reported its position.
    is_placed: AtomicBool,
    /// Last position handed to the router.
    offered: AtomicU64,
    /// Last position that the sink has passed.
    position: AtomicU64,
    /// A position of this log that the store holds and the log does not; 0: none.
    ahead: AtomicU64,
    /// When the oldest event that is owed was received, nanoseconds since 1970; 0: none is known.
    oldest_unix_nano: AtomicU64,
    /// An event that waits longer makes the sink `behind` or `stalled`.
    wait_max: Mutex<Duration>,
    started: Instant,
    /// When the sink last connected or passed something, nanoseconds after `started`.
    progressed_nano: AtomicU64,
    status: Mutex<SinkStatus>,
    status_changed: Condvar,
    notes: SinkNotes,
    /// Both ends set it; the lock makes the last one to do so the one that sees both newest positions.
    lag_events: Mutex<IntGauge>,
}

impl SinkProgress {
    /// Deliveries are gathered for this long from now on.
    pub(super) fn set_max_age(&self, max_age: Duration) {
        *self.wait_max.lock().unwrap_or_else(PoisonError::into_inner) = SINK_WAIT_MAX + max_age;
    }

    /// The progress of a sink that is connecting for the first time. With a log, positions without events do not count
    /// as events.
    pub fn new(settings: &SinkSettings, lag_events: IntGauge, log: Option<Arc<Log>>) -> Self {
        Self {
            name: settings.name.clone(),
            required: settings.required,
            log,
            is_placed: AtomicBool::new(false),
            offered: AtomicU64::new(0),
            position: AtomicU64::new(0),
            ahead: AtomicU64::new(0),
            oldest_unix_nano: AtomicU64::new(0),
            wait_max: Mutex::new(SINK_WAIT_MAX + settings.batch.max_age),
            started: Instant::now(),
            progressed_nano: AtomicU64::new(0),
            status: Mutex::new(SinkStatus::Connecting),
            status_changed: Condvar::new(),
            notes: SinkNotes::default(),
            lag_events: Mutex::new(lag_events),
        }
    }

    /// How long deliveries are gathered.
    pub fn max_age(&self) -> Duration {
        self.wait_max.lock().unwrap_or_else(PoisonError::into_inner).saturating_sub(SINK_WAIT_MAX)
    }

    /// The sink's name in the settings.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is noted of trouble with the sink.
    pub fn notes(&self) -> &SinkNotes {
        &self.notes
    }

    /// Whether acknowledgements of level `delivered` wait for this sink.
    pub fn required(&self) -> bool {
        self.required
    }

    /// Everything up to this position is stored, or kept in dead letters; 0: nothing.
    pub fn position(&self) -> u64 {
        self.position.load(Ordering::Acquire)
    }

    /// The position that the store holds beyond the end of the log, which then is an older copy; 0: none.
    pub fn ahead(&self) -> u64 {
        self.ahead.load(Ordering::Acquire)
    }

    /// Notes the position that the store holds beyond the end of the log.
    pub(super) fn set_ahead(&self, position: u64) {
        self.ahead.store(position, Ordering::Release);
        self.is_placed.store(true, Ordering::Release);
    }

    /// Whether the store has reported its position to this process.
    pub fn is_placed(&self) -> bool {
        self.is_placed.load(Ordering::Acquire)
    }

    /// Events handed to the router that its sink has not passed.
    pub fn owed_events(&self) -> u64 {
        // The position first: it never passes what was offered before.
        let position = self.position();
        let offered = self.offered.load(Ordering::Acquire);
        let left_out = self.log.as_ref().map_or(0, |log| log.left_out(position + 1..offered + 1));
        offered.saturating_sub(position).saturating_sub(left_out)
    }

    /// How the sink is doing, with the reason if it does not deliver.
    pub fn status(&self) -> SinkStatus {
        self.lock().clone()
    }

    /// Waits until the first attempt to connect has ended, well or not. `false`: `until` came first.
    pub fn wait_for_first_connect(&self, until: Instant) -> bool {
        let mut status = self.lock();
        while *status == SinkStatus::Connecting {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            status = self.status_changed.wait_timeout(status, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// How long the oldest event that the sink has not passed has waited; zero where there is none. Of a sink whose
    /// store has not reported its position yet, only events received since the start count.
    pub fn oldest_age(&self, now: SystemTime) -> Duration {
        let oldest = self.oldest_unix_nano.load(Ordering::Acquire);
        if oldest == 0 || self.owed_events() == 0 {
            return Duration::ZERO;
        }
        now.duration_since(UNIX_EPOCH + Duration::from_nanos(oldest)).unwrap_or_default()
    }

    /// The state at this moment: a delivery that hangs is seen, too.
    pub fn state(&self, now: Instant, wall: SystemTime) -> SinkState {
        match *self.lock() {
            SinkStatus::Connecting => return SinkState::Connecting,
            SinkStatus::Retrying(_) => return SinkState::Retrying,
            SinkStatus::Down(_) => return SinkState::Down,
            SinkStatus::Ok => {}
        }
        let wait_max = *self.wait_max.lock().unwrap_or_else(PoisonError::into_inner);
        if self.oldest_age(wall) <= wait_max {
            return SinkState::Ok;
        }
        let progressed = self.started + Duration::from_nanos(self.progressed_nano.load(Ordering::Acquire));
        match now.saturating_duration_since(progressed) <= wait_max {
            true => SinkState::Behind,
            false => SinkState::Stalled,
        }
    }

    /// Positions up to this one are the router's now. `received_unix_nano`: of the first event among them, where that is
    /// known.
    pub(super) fn offered(&self, position: u64, received_unix_nano: Option<u64>) {
        self.offered.fetch_max(position, Ordering::Release);
        if let Some(received) = received_unix_nano {
            self.set_oldest_if_none(received);
        }
        self.update_lag();
    }

    /// The router holds events, of which the oldest was received then.
    pub(super) fn holds(&self, oldest_unix_nano: u64) {
        self.oldest_unix_nano.store(oldest_unix_nano, Ordering::Release);
    }

    /// `oldest_unix_nano`: when the oldest of what the router still holds was received; `None`: it holds nothing.
    pub(super) fn passed(&self, position: u64, oldest_unix_nano: Option<u64>, now: Now) {
        if self.position.fetch_max(position, Ordering::Release) < position {
            self.progressed(now.monotonic);
        }
        match oldest_unix_nano {
            Some(oldest) => self.holds(oldest),
            None if position >= self.offered.load(Ordering::Acquire) => {
                self.oldest_unix_nano.store(0, Ordering::Release);
                // Offered in between, and not marked because of what was there before.
                if position < self.offered.load(Ordering::Acquire) {
                    self.set_oldest_if_none(unix_nano(now.wall));
                }
            }
            // The router takes it next, and then knows.
            None => {}
        }
        self.update_lag();
    }

    /// The sink works: what waits is expected to be delivered from now on.
    pub(super) fn progressed(&self, now: Instant) {
        let nanos = u64::try_from(now.saturating_duration_since(self.started).as_nanos()).unwrap_or(u64::MAX);
        self.progressed_nano.store(nanos, Ordering::Release);
    }

    fn set_oldest_if_none(&self, received_unix_nano: u64) {
        let oldest = &self.oldest_unix_nano;
        // One that is there is older.
        let _ = oldest.compare_exchange(0, received_unix_nano, Ordering::AcqRel, Ordering::Acquire);
    }

    /// The store reports that it has everything up to `position`, even if that is less than before.
    pub(super) fn restarted(&self, position: u64) {
        self.position.store(position, Ordering::Release);
        self.is_placed.store(true, Ordering::Release);
        self.update_lag();
    }

    fn update_lag(&self) {
        let gauge = self.lag_events.lock().unwrap_or_else(PoisonError::into_inner);
        gauge.set(self.owed_events().cast_signed());
    }

    /// Returns the status before.
    pub(super) fn set_status(&self, status: SinkStatus) -> SinkStatus {
        let before = std::mem::replace(&mut *self.lock(), status);
        self.status_changed.notify_all();
        before
    }

    fn lock(&self) -> MutexGuard<'_, SinkStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::router::tests::settings;

    const SECOND: Duration = Duration::from_secs(1);

    fn progress() -> SinkProgress {
        let lag_events = Metrics::new().unwrap().sink("out").lag_events;
        SinkProgress::new(&settings(), lag_events, None)
    }

    fn received(wall: SystemTime) -> Option<u64> {
        Some(unix_nano(wall))
    }

    #[test]
    fn every_state_is_one_of_the_metric() {
        use SinkState::{Behind, Connecting, Down, Ok, Retrying, Stalled};
        let names = [Connecting, Ok, Behind, Stalled, Retrying, Down].map(SinkState::name);
        assert_eq!(names, crate::metrics::SINK_STATES);
    }

    #[test]
    fn the_oldest_event_ages_until_it_is_passed() {
        let progress = progress();
        let start = SystemTime::now();
        assert_eq!(progress.oldest_age(start + 9 * SECOND), Duration::ZERO);
        progress.offered(10, received(start));
        progress.offered(20, received(start + 5 * SECOND));
        assert_eq!(progress.oldest_age(start + 9 * SECOND), 9 * SECOND, "before the router has taken anything");
        progress.holds(unix_nano(start));
        progress.passed(10, received(start + 5 * SECOND), Now::read());
        assert_eq!(progress.oldest_age(start + 9 * SECOND), 4 * SECOND);
        progress.passed(20, None, Now::read());
        assert_eq!(progress.oldest_age(start + 99 * SECOND), Duration::ZERO);
        progress.offered(21, received(start + 98 * SECOND));
        assert_eq!(progress.oldest_age(start + 99 * SECOND), SECOND);
        assert_eq!(progress.oldest_age(start), Duration::ZERO, "the clock went back");
        // What is held no longer, and not taken from the queue yet.
        progress.offered(30, received(start + 99 * SECOND));
        progress.passed(21, None, Now::read());
        assert_eq!(progress.oldest_age(start + 99 * SECOND), SECOND);
    }

    #[test]
    fn a_sink_is_behind_while_it_delivers_and_stalled_once_it_does_not() {
        let progress = progress();
        let (start, wall) = (Instant::now(), SystemTime::now());
        let wait = *progress.wait_max.lock().unwrap();
        assert_eq!(progress.state(start, wall), SinkState::Connecting);
        progress.set_status(SinkStatus::Ok);
        progress.progressed(Instant::now());
        assert_eq!(progress.state(start + 100 * wait, wall + 100 * wait), SinkState::Ok, "nothing waits");
        progress.offered(10, received(wall));
        assert_eq!(progress.state(start + wait, wall + wait), SinkState::Ok);
        assert_eq!(progress.state(start + wait + SECOND, wall + wait + SECOND), SinkState::Stalled);
        // What was in the log for an hour is on its way.
        progress.holds(unix_nano(wall - 100 * wait));
        progress.passed(5, received(wall - 99 * wait), Now::read());
        assert_eq!(progress.state(start + wait, wall + wait), SinkState::Behind);
        // An answer that it has passed the same again is no progress.
        progress.passed(5, received(wall - 99 * wait), Now::read());
        assert_eq!(progress.state(start + 2 * wait, wall + 2 * wait), SinkState::Stalled);
        progress.passed(10, None, Now::read());
        assert_eq!(progress.state(start + 2 * wait, wall + 2 * wait), SinkState::Ok);
        progress.offered(11, received(wall));
        for (status, state) in [
            (SinkStatus::Retrying("busy".into()), SinkState::Retrying),
            (SinkStatus::Down("wrong password".into()), SinkState::Down),
        ] {
            progress.set_status(status);
            assert_eq!(progress.state(start + 100 * wait, wall + 100 * wait), state);
        }
    }
}
