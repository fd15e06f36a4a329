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
//! came: a file that is too large gets smaller under load, and no delivery waits much longer than it takes itself.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Deserializer};

use super::row::utf8;
use crate::event::rfc3339;
use crate::limits;

const NEXT_LOG: &str = "SELECT server_id FROM events WHERE server_id > ?1 ORDER BY server_id LIMIT 1";

pub(super) const DELETE: &str = "
    DELETE FROM events WHERE server_id = ?1 AND position IN (
        SELECT position FROM (
            SELECT position, received_at FROM events WHERE server_id = ?1 ORDER BY position LIMIT ?3
        ) WHERE received_at < ?2)";

pub struct Keep {
    keep: Duration,
    /// Logs up to this server_id have nothing old.
    done: String,
    /// Rows stored since the last deletion.
    stored: u64,
}

impl Keep {
    pub fn new(keep: Duration) -> Self {
        Self { keep, done: String::new(), stored: 0 }
    }

    pub fn stored(&mut self, rows: u64) {
        self.stored += rows;
    }

    /// Deletes some of what is too old. Returns when to go on: at once if there is more.
    pub fn delete_old(&mut self, connection: &Connection, now: SystemTime) -> rusqlite::Result<Duration> {
        let mut left = (2 * std::mem::take(&mut self.stored)).max(limits::SQLITE_DELETE_ROWS_MAX);
        let before = now.checked_sub(self.keep).and_then(|before| before.duration_since(UNIX_EPOCH).ok());
        let before = rfc3339::format(before.map_or(0, |before| before.as_nanos() as u64));
        while left > 0 {
            let log = connection
                .prepare_cached(NEXT_LOG)?
                .query_row([&self.done], |row| Ok(row.get_ref(0)?.as_str()?.to_owned()))
                .optional()?;
            let Some(log) = log else {
                self.done.clear();
                return Ok(limits::UPKEEP_INTERVAL);
            };
            let rows = left.min(limits::SQLITE_DELETE_ROWS_MAX);
            let deleted =
                connection.prepare_cached(DELETE)?.execute(params![log, utf8(&before), rows.cast_signed()])? as u64;
            if deleted < rows {
                self.done = log;
            }
            // A log without anything old costs a look as well.
            left -= deleted.max(1);
            tracing::debug!(deleted, "old events deleted");
        }
        Ok(Duration::ZERO)
    }
}

/// `"forever"`, or a duration as the settings have it.
pub fn deserialize<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Duration>, D::Error> {
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
