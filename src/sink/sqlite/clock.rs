//! Whether the wall clock can be trusted with deleting: one wrong reading must not empty the store.
//!
//! ```text
//!  monotonic  ──┬────────┬────────┬──────────────────────┬──▶
//!  wall         12:00    12:30    2036                   │
//!                                 └─ gained 10 years: nothing is deleted for 24 h of the monotonic clock
//! ```
//!
//! A clock that goes back deletes too little, which does no harm; when it is set right it has gained, and deleting only
//! waits. At start there is no earlier reading: the newest row stands for one. A server that was down, or without
//! events, for longer than a day waits too.
//!
//! What is left of the 24 h outlives a restart, in the database. A start in doubt does not begin them anew while some are
//! left, so that a host that never runs for 24 h at a time deletes, too; a clock that is set ahead while the server runs
//! does. Time in which the server does not run does not count: the clock that measures it is the one that is doubted.

use std::time::{Duration, SystemTime};

use crate::limits::{CLOCK_GAIN_MAX, CLOCK_HOLD, CLOCK_START_GAIN_MAX};
use crate::sink::Clocks;

/// Remembers the last reading, and until when nothing is deleted.
#[derive(Debug, Default)]
pub(super) struct ClockGuard {
    /// When the newest row was received that was there before this process delivered any.
    newest_row: Option<SystemTime>,
    last: Option<Clocks>,
    /// What an earlier process left of its hold.
    left_before: Option<Duration>,
    /// By the monotonic clock.
    held_until: Option<Duration>,
}

/// Whether events may be deleted by age now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Yes.
    Trusted,
    /// Not yet.
    Held,
    /// Not from now on: the wall clock has gained this much since the last reading.
    Gained(Duration),
    /// Not from now on: the first reading is this far beyond the newest row.
    AheadOfRows(Duration),
    /// Not for this time: an earlier process doubted the clock.
    HeldBefore(Duration),
}

impl ClockGuard {
    /// What the table holds at the first connect.
    pub(super) fn newest_row(&mut self, received: Option<SystemTime>) {
        self.newest_row = received;
    }

    /// What an earlier process left of its hold.
    pub(super) fn left_before(&mut self, left: Option<Duration>) {
        self.left_before = left.map(|left| left.min(CLOCK_HOLD));
    }

    /// What is left of the hold at `monotonic`; zero where there is none.
    pub(super) fn left(&self, monotonic: Duration) -> Duration {
        let before = self.left_before.unwrap_or_default();
        self.held_until.map_or(before, |until| until.saturating_sub(monotonic))
    }

    /// The reading that was judged last.
    pub(super) fn last_reading(&self) -> Option<Clocks> {
        self.last
    }

    /// Judges a reading.
    pub(super) fn check(&mut self, now: Clocks) -> Verdict {
        let doubt = match self.last.replace(now) {
            Some(last) => {
                let passed = now.monotonic.saturating_sub(last.monotonic);
                let gained = since(now.wall, last.wall).saturating_sub(passed);
                (gained > CLOCK_GAIN_MAX).then_some(Verdict::Gained(gained))
            }
            None if self.left_before.is_some() => {
                let left = self.left_before.take().unwrap_or_default();
                self.held_until = Some(now.monotonic + left);
                return Verdict::HeldBefore(left);
            }
            None => {
                let ahead = self.newest_row.map_or(Duration::ZERO, |newest| since(now.wall, newest));
                (ahead > CLOCK_START_GAIN_MAX).then_some(Verdict::AheadOfRows(ahead))
            }
        };
        if let Some(doubt) = doubt {
            self.held_until = Some(now.monotonic + CLOCK_HOLD);
            return doubt;
        }
        match self.held_until {
            Some(until) if now.monotonic < until => Verdict::Held,
            _ => {
                self.held_until = None;
                Verdict::Trusted
            }
        }
    }
}

/// Zero where `later` is not later.
fn since(later: SystemTime, earlier: SystemTime) -> Duration {
    later.duration_since(earlier).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600;
    const DAY: u64 = 24 * HOUR;
    const YEAR: u64 = 365 * DAY;
    /// The wall clock when the monotonic one is 0.
    const START: u64 = 56 * YEAR;

    fn wall(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// The verdict on each reading: seconds of the monotonic clock, and by how much the wall clock is wrong then.
    #[track_caller]
    fn check(newest_row: Option<u64>, readings: &[(u64, i64, Verdict)]) {
        let mut guard = ClockGuard::default();
        guard.newest_row(newest_row.map(wall));
        for (monotonic, wrong, expected) in readings {
            let wall = wall((START + monotonic).checked_add_signed(*wrong).unwrap());
            let verdict = guard.check(Clocks { wall, monotonic: Duration::from_secs(*monotonic) });
            assert_eq!(verdict, *expected, "after {monotonic} s, wrong by {wrong} s");
        }
    }

    fn gained(seconds: u64) -> Verdict {
        Verdict::Gained(Duration::from_secs(seconds))
    }

    fn ahead(seconds: u64) -> Verdict {
        Verdict::AheadOfRows(Duration::from_secs(seconds))
    }

    #[test]
    fn a_clock_that_goes_with_the_monotonic_one_is_trusted() {
        use Verdict::Trusted;
        // Also over a suspend, which both clocks count.
        check(Some(START), &[(0, 0, Trusted), (30, 0, Trusted), (12 * HOUR, 0, Trusted), (YEAR, 0, Trusted)]);
        // Small corrections, even many.
        check(None, &[(0, 0, Trusted), (30, 3_600, Trusted), (60, 7_200, Trusted), (90, 3_000, Trusted)]);
    }

    #[test]
    fn a_jump_ahead_holds_for_a_day_of_the_monotonic_clock() {
        use Verdict::{Held, Trusted};
        let jump = 10 * YEAR as i64;
        let after = 40 + DAY;
        check(
            Some(START),
            &[
                (0, 0, Trusted),
                (40, jump, gained(10 * YEAR)),
                (41, jump, Held),
                (after - 1, jump, Held),
                (after, jump, Trusted),
            ],
        );
        check(None, &[(0, 0, Trusted), (30, 3_601, gained(3_601)), (60, 3_601, Held)]);
    }

    #[test]
    fn a_jump_ahead_and_back_holds_from_the_jump_ahead() {
        use Verdict::{Held, Trusted};
        let jump = 10 * YEAR as i64;
        check(
            None,
            &[
                (0, 0, Trusted),
                (30, jump, gained(10 * YEAR)),
                (70, 0, Held),
                (29 + DAY, 0, Held),
                (30 + DAY, 0, Trusted),
            ],
        );
        // The next one holds anew.
        check(
            None,
            &[
                (0, 0, Trusted),
                (30, jump, gained(10 * YEAR)),
                (DAY, 0, Held),
                (DAY + 9, jump, gained(10 * YEAR)),
                (DAY + 30, jump, Held),
            ],
        );
    }

    #[test]
    fn a_clock_that_went_back_has_gained_once_it_is_set_right() {
        use Verdict::{Held, Trusted};
        let back = -(10 * YEAR as i64);
        check(Some(START), &[(0, 0, Trusted), (30, back, Trusted), (60, 0, gained(10 * YEAR)), (90, 0, Held)]);
        check(Some(START), &[(0, back, Trusted), (30, 0, gained(10 * YEAR))]);
    }

    #[test]
    fn what_is_left_of_a_hold_continues_in_the_next_process() {
        let clocks = |monotonic, wall_at| Clocks { wall: wall(wall_at), monotonic: Duration::from_secs(monotonic) };
        let mut left = None;
        // Off for two days before each start, and on for an hour.
        for start in 0..24 {
            let mut guard = ClockGuard::default();
            guard.newest_row(Some(wall(START + start * 2 * DAY)));
            guard.left_before(left);
            let begin = START + (start + 1) * 2 * DAY;
            let held = left.map_or(ahead(2 * DAY), Verdict::HeldBefore);
            assert_eq!(guard.check(clocks(9, begin)), held, "start {start}");
            assert_eq!(guard.check(clocks(9 + HOUR - 1, begin + HOUR - 1)), Verdict::Held);
            left = Some(guard.left(Duration::from_secs(9 + HOUR))).filter(|left| !left.is_zero());
            assert_eq!(left.unwrap_or_default(), Duration::from_secs((23 - start) * HOUR));
            let last = guard.check(clocks(9 + HOUR, begin + HOUR));
            assert_eq!(last, if start < 23 { Verdict::Held } else { Verdict::Trusted });
        }
        // A clock that is set ahead begins it anew.
        let mut guard = ClockGuard::default();
        guard.left_before(Some(Duration::from_secs(HOUR)));
        assert_eq!(guard.left(Duration::from_secs(5)), Duration::from_secs(HOUR), "not read yet");
        guard.check(clocks(5, START));
        assert_eq!(guard.check(clocks(6, START + YEAR)), gained(YEAR - 1));
        assert_eq!(guard.left(Duration::from_secs(6)), Duration::from_secs(DAY));
        // Not more than a whole one, whatever the database says.
        guard.left_before(Some(Duration::MAX));
        assert_eq!(guard.left_before, Some(CLOCK_HOLD));
    }

    #[test]
    fn a_start_is_compared_with_the_newest_row() {
        use Verdict::{Held, Trusted};
        check(None, &[(0, 10 * YEAR as i64, Trusted)]);
        check(Some(START - DAY), &[(0, 0, Trusted)]);
        check(Some(START - DAY - 1), &[(0, 0, ahead(DAY + 1)), (30, 0, Held), (DAY, 0, Trusted)]);
        check(Some(START), &[(0, 10 * YEAR as i64, ahead(10 * YEAR)), (40, 0, Held)]);
        // Rows from a clock that was ahead.
        check(Some(START + YEAR), &[(0, 0, Trusted)]);
        // A server that was down for three days.
        check(Some(START - 3 * DAY), &[(0, 0, ahead(3 * DAY)), (DAY - 1, 0, Held), (DAY, 0, Trusted)]);
    }
}
