//! How busy an event loop is: the part of a second in which it did not wait.
//!
//! ```text
//!  poll ───── turn ──── poll ── turn ── poll ─────────────────────
//!        busy      idle     busy    idle  … a second is over: what was busy of it is shown
//! ```

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::net::shared::Moment;

/// What is shown is of the last whole window.
const WINDOW: Duration = Duration::from_secs(1);

/// What other threads read; written by one loop.
#[derive(Debug)]
pub struct Busy {
    /// As `f64::to_bits`: 0 to 1.
    ratio: AtomicU64,
    /// When the ratio was shown.
    shown: Moment,
    /// When the turn that it is in began.
    turn: Moment,
}

impl Busy {
    /// A ratio of 0, before the loop has run.
    pub fn new() -> Self {
        Self { ratio: AtomicU64::new(0), shown: Moment::new(), turn: Moment::new() }
    }

    /// 0 to 1, of the last second or two.
    pub fn ratio(&self, now: Instant) -> f64 {
        match self.shown.get() {
            Some(shown) if now < shown + 2 * WINDOW => f64::from_bits(self.ratio.load(Ordering::Relaxed)),
            // For longer than a window it has been in one turn, or has waited.
            _ => f64::from(u8::from(self.turn.get().is_some_and(|began| now >= began + WINDOW))),
        }
    }
}

/// What a loop measures of itself.
#[derive(Debug)]
pub(super) struct BusyMeter {
    window_began: Instant,
    busy: Duration,
    turn_began: Instant,
}

impl BusyMeter {
    /// A meter whose first second begins at `now`.
    pub(super) fn new(now: Instant) -> Self {
        Self { window_began: now, busy: Duration::ZERO, turn_began: now }
    }

    /// The loop has waited, and continues.
    pub(super) fn turn_begins(&mut self, now: Instant, shown: &Busy) {
        self.turn_began = now;
        shown.turn.set(Some(now));
    }

    /// The loop is about to wait.
    pub(super) fn turn_ends(&mut self, now: Instant, shown: &Busy) {
        self.busy += now.saturating_duration_since(self.turn_began);
        shown.turn.set(None);
        let window = now.saturating_duration_since(self.window_began);
        if window >= WINDOW {
            let ratio = self.busy.as_secs_f64() / window.as_secs_f64();
            shown.ratio.store(ratio.min(1.0).to_bits(), Ordering::Relaxed);
            shown.shown.set(Some(now));
            (self.window_began, self.busy) = (now, Duration::ZERO);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_of_a_second_in_which_the_loop_does_not_wait_is_shown() {
        let (shown, start) = (Busy::new(), Instant::now());
        let mut meter = BusyMeter::new(start);
        let at = |millis| start + Duration::from_millis(millis);
        for turn in 0..=10 {
            meter.turn_begins(at(100 * turn), &shown);
            meter.turn_ends(at(100 * turn + 25), &shown);
        }
        assert!((shown.ratio(at(1_500)) - 0.268).abs() < 0.001, "{}", shown.ratio(at(1_500)));
        // It waits.
        assert_eq!(shown.ratio(at(10_000)), 0.0);
        meter.turn_begins(at(10_000), &shown);
        assert_eq!(shown.ratio(at(10_001)), 0.0, "in the turn that shows it");
        assert_eq!(shown.ratio(at(20_000)), 1.0, "in a turn of ten seconds");
    }
}
