//! Deletes what was received longer ago than `keep`.
//!
//! ```text
//!  key (server_id, position):   a 1 … a 900 │ b 1  b 2  b 3  b 4 │ b 5 …
//!                               log a: gone │ looked at: old, old, young, young ─▶ two are deleted, log b is done
//! ```
//!
//! No index on `received_at` is needed: within a log, positions grow with the time of receipt. So only the lowest
//! positions of each log are looked at. Where the clock was set back, young rows may stand before old ones, which then
//! wait for them; no row is deleted before its time.
//!
//! A transaction deletes few rows. Between two deliveries there are so many transactions that twice as many rows go as
//! came with one: a file that is too large gets smaller under load, and no delivery waits much longer than it takes itself.
//!
//! A wall clock that was set ahead deletes nothing for a day: see [`ClockGuard`].

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Deserializer};

use super::clock::{ClockGuard, Verdict};
use super::hold;
use crate::event::rfc3339;
use crate::limits;
use crate::sink::Clocks;
use crate::time::unix_nano;

const NEXT_LOG: &str = "SELECT server_id FROM events WHERE server_id > ?1 ORDER BY server_id LIMIT 1";

/// Deletes the rows of one log that are too old, among its lowest positions.
pub(super) const DELETE: &str = "
    DELETE FROM events WHERE server_id = ?1 AND position IN (
        SELECT position FROM (
            SELECT position, received_at FROM events WHERE server_id = ?1 ORDER BY position LIMIT ?3
        ) WHERE received_at < ?2)";

/// The row at a position or after it, and the one before it.
const AT_OR_AFTER: &str =
    "SELECT position, received_at FROM events WHERE server_id = ?1 AND position >= ?2 ORDER BY position LIMIT 1";
const BEFORE: &str =
    "SELECT position, received_at FROM events WHERE server_id = ?1 AND position < ?2 ORDER BY position DESC LIMIT 1";

/// Deletes old rows of one database, in small passes.
pub(super) struct Keep {
    sink: String,
    /// The log whose rows this process stores.
    server_id: String,
    keep: Duration,
    guard: ClockGuard,
    /// A pass has looked for a jump in the rows.
    has_passed: bool,
    /// The rows that were there before this process delivered any are known to the guard.
    has_newest: bool,
    /// When to look for old rows again, by the monotonic clock.
    due: Duration,
    /// Logs up to this server_id have nothing old.
    done: String,
    /// Rows of the largest delivery since the last deletion.
    stored: u64,
    /// What is left of a hold, as in the database; zero: nothing.
    saved_hold: Duration,
    line: DeletedLine,
}

/// The line about deleted rows: at most one in a while, with the sum.
#[derive(Default)]
struct DeletedLine {
    rows: u64,
    /// By the monotonic clock.
    last: Option<Duration>,
}

/// What a pass has done.
pub(super) struct Passed {
    /// When to call again, from now on.
    pub again: Duration,
    /// Rows that were deleted.
    pub deleted: u64,
}

impl Keep {
    /// Nothing was looked at yet. `keep`: how long rows stay after receipt.
    pub(super) fn new(sink: &str, server_id: &str, keep: Duration) -> Self {
        Self {
            sink: sink.to_owned(),
            server_id: server_id.to_owned(),
            keep,
            guard: ClockGuard::default(),
            has_passed: false,
            has_newest: false,
            due: Duration::ZERO,
            done: String::new(),
            stored: 0,
            saved_hold: Duration::ZERO,
            line: DeletedLine::default(),
        }
    }

    /// A delivery of so many rows was stored. Deliveries do not add up: one call would hold up the next one for as long as
    /// it takes to delete the rows of all.
    pub(super) fn stored(&mut self, rows: u64) {
        self.stored = self.stored.max(rows);
    }

    /// Reads, once, what was there before this process delivered anything: when the newest row was received, and what is
    /// left of a hold.
    pub(super) fn read_before(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        if self.has_newest {
            return Ok(());
        }
        let (mut log, mut newest) = (String::new(), None);
        while let Some(next) = next_log(connection, &log)? {
            newest = newest.max(row_of(connection, BEFORE, &next, i64::MAX)?.map(|(_, received)| received));
            log = next;
        }
        self.guard.newest_row(newest.map(|nanos| UNIX_EPOCH + Duration::from_nanos(nanos)));
        let left = hold::read(connection, &self.server_id, &self.sink)?;
        self.guard.left_before(left);
        self.saved_hold = left.unwrap_or_default();
        self.has_newest = true;
        Ok(())
    }

    /// Writes what is left of a hold into the database, if that is due.
    fn save_hold(&mut self, connection: &Connection, monotonic: Duration) -> rusqlite::Result<()> {
        let left = self.guard.left(monotonic);
        let is_saved = match (left.is_zero(), self.saved_hold.is_zero()) {
            (false, false) => (left..left + limits::CLOCK_HOLD_SAVE_INTERVAL).contains(&self.saved_hold),
            (one, other) => one == other,
        };
        if !is_saved {
            hold::write(connection, &self.server_id, &self.sink, left)?;
            self.saved_hold = left;
        }
        Ok(())
    }

    /// Writes what was left of a hold when the clocks were last read: at the end, so that short runs add up.
    pub(super) fn save_rest(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let Some(last) = self.guard.last_reading() else { return Ok(()) };
        let left = self.guard.left(last.monotonic);
        if left != self.saved_hold {
            hold::write(connection, &self.server_id, &self.sink, left)?;
            self.saved_hold = left;
        }
        Ok(())
    }

    /// Reads the clocks, and deletes some of what is too old if they can be trusted. `connection`: where to; `None`:
    /// nothing is deleted now.
    pub(super) fn pass(&mut self, connection: Option<&Connection>, now: Clocks) -> rusqlite::Result<Passed> {
        if let Some(connection) = connection.filter(|_| !self.has_passed) {
            if let Some(received) = before_jump(connection, &self.server_id, now.wall)? {
                self.guard.newest_row(Some(received));
            }
            self.has_passed = true;
        }
        let is_trusted = self.trusts(now);
        if let Some(connection) = connection {
            self.save_hold(connection, now.monotonic)?;
        }
        if !is_trusted {
            self.stored = 0;
        }
        let passed = match (is_trusted, connection) {
            (true, Some(connection)) if now.monotonic >= self.due => self.delete_old(connection, now)?,
            _ => Passed { again: limits::UPKEEP_INTERVAL, deleted: 0 },
        };
        self.line.rows += passed.deleted;
        if let Some(events) = self.line.due(now.monotonic) {
            let received_before = self.cutoff(now.wall);
            tracing::info!(sink = self.sink, events, received_before, "old events deleted");
        }
        Ok(passed)
    }

    /// Whether rows may be deleted by this reading; warns where it begins to be doubted.
    fn trusts(&mut self, now: Clocks) -> bool {
        let wall = || in_words(unix_nano(now.wall));
        match self.guard.check(now) {
            Verdict::Trusted => return true,
            Verdict::Held => {}
            Verdict::Gained(gained) => {
                let (sink, gained_seconds, now) = (&self.sink, gained.as_secs(), wall());
                tracing::warn!(
                    sink,
                    gained_seconds,
                    now,
                    "the wall clock was set ahead: no events are deleted for 24 h; correct the clock within that time, or \
                     events that are older than `keep` by it are deleted then"
                );
            }
            Verdict::AheadOfRows(ahead) => {
                let (sink, ahead_seconds, now) = (&self.sink, ahead.as_secs(), wall());
                tracing::warn!(
                    sink,
                    ahead_seconds,
                    now,
                    "more than a day lies between the stored events and the wall clock, or between two of them: no events \
                     are deleted for 24 h; if the clock is wrong, correct it within that time"
                );
            }
            Verdict::HeldBefore(left) => {
                let (sink, left_seconds, now) = (&self.sink, left.as_secs(), wall());
                tracing::warn!(
                    sink,
                    left_seconds,
                    now,
                    "the wall clock was in doubt before this start: no events are deleted for the rest of the 24 h; \
                     if the clock is wrong, correct it within that time"
                );
            }
        }
        false
    }

    /// What was received before is too old, in RFC 3339.
    fn cutoff(&self, wall: SystemTime) -> String {
        in_words(wall.checked_sub(self.keep).map_or(0, unix_nano))
    }

    fn delete_old(&mut self, connection: &Connection, now: Clocks) -> rusqlite::Result<Passed> {
        let mut left = (2 * std::mem::take(&mut self.stored)).max(limits::SQLITE_DELETE_ROWS_MAX);
        let before = self.cutoff(now.wall);
        let mut passed = Passed { again: Duration::ZERO, deleted: 0 };
        while left > 0 {
            let deleted = match self.delete_of_next_log(connection, &before, left.min(limits::SQLITE_DELETE_ROWS_MAX)) {
                Ok(deleted) => deleted,
                // Each statement is a transaction: what is gone is to be counted. The next call meets the error again.
                Err(_) if passed.deleted > 0 => return Ok(passed),
                Err(error) => return Err(error),
            };
            let Some(deleted) = deleted else {
                self.done.clear();
                self.due = now.monotonic + limits::UPKEEP_INTERVAL;
                passed.again = limits::UPKEEP_INTERVAL;
                return Ok(passed);
            };
            passed.deleted += deleted;
            // A log without anything old costs a look as well.
            left -= deleted.max(1);
        }
        Ok(passed)
    }

    /// Deletes at most `rows` old rows; `None`: no log is left to look at.
    fn delete_of_next_log(
        &mut self,
        connection: &Connection,
        before: &str,
        rows: u64,
    ) -> rusqlite::Result<Option<u64>> {
        let Some(log) = next_log(connection, &self.done)? else { return Ok(None) };
        let deleted = connection.prepare_cached(DELETE)?.execute(params![log, before, rows.cast_signed()])? as u64;
        if deleted < rows {
            self.done = log;
        }
        Ok(Some(deleted))
    }
}

impl DeletedLine {
    /// The rows to report now, if any.
    fn due(&mut self, now: Duration) -> Option<u64> {
        if self.rows == 0 || self.last.is_some_and(|last| now < last + limits::EXPIRED_LINE_INTERVAL) {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.rows))
    }
}

/// The server_id that follows in the table.
fn next_log(connection: &Connection, after: &str) -> rusqlite::Result<Option<String>> {
    let mut statement = connection.prepare_cached(NEXT_LOG)?;
    statement.query_row([after], |row| Ok(row.get_ref(0)?.as_str()?.to_owned())).optional()
}

/// Position and time of receipt of the row that `statement` finds.
fn row_of(connection: &Connection, statement: &str, log: &str, position: i64) -> rusqlite::Result<Option<(i64, u64)>> {
    let mut statement = connection.prepare_cached(statement)?;
    let row = statement.query_row(params![log, position], |row| {
        let received = row.get_ref(1)?.as_bytes_or_null()?.unwrap_or_default();
        // A table of the user's may hold anything there.
        let received = std::str::from_utf8(received).ok().and_then(|text| rfc3339::parse(text).ok());
        Ok((row.get(0)?, received.unwrap_or_default()))
    });
    row.optional()
}

/// When the row before the rows of the last day was received, if that was more than a day before them: then a clock that
/// is wrong may have begun there, and an earlier run of the server may have stored what is newer. Rows are found by
/// halving the positions.
fn before_jump(connection: &Connection, log: &str, wall: SystemTime) -> rusqlite::Result<Option<SystemTime>> {
    let day = limits::CLOCK_START_GAIN_MAX.as_nanos() as u64;
    let now = unix_nano(wall);
    let (mut low, mut high) = (0, i64::MAX);
    let mut after = now;
    while low < high {
        let middle = low + (high - low) / 2;
        match row_of(connection, AT_OR_AFTER, log, middle)? {
            Some((position, received)) if received < now.saturating_sub(day) => low = position.saturating_add(1),
            Some((_, received)) => (high, after) = (middle, received),
            None => high = middle,
        }
    }
    let before = row_of(connection, BEFORE, log, low)?.map(|(_, received)| received);
    Ok(before
        .filter(|before| after.saturating_sub(*before) > day)
        .map(|nanos| UNIX_EPOCH + Duration::from_nanos(nanos)))
}

fn in_words(unix_nano: u64) -> String {
    String::from_utf8_lossy(&rfc3339::format(unix_nano)).into_owned()
}

/// `"forever"`, or a duration as the settings have it.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Duration>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Given {
        For(Duration),
        Forever(#[expect(dead_code, reason = "the settings let no other word through")] String),
    }
    Ok(match Given::deserialize(value)? {
        Given::For(keep) => Some(keep),
        Given::Forever(_) => None,
    })
}
