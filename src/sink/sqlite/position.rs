//! The statements about the row of the position. What follows from it decides [`ownership`](crate::sink::ownership).

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::Sqlite;
use crate::sink::ownership::{FIRST, Held, Remains, Wording};
use crate::sink::{Failure, Unavailable};

/// The position of a sink, and its owner.
pub(super) const READ_POSITION: &str =
    "SELECT position, owner FROM telemetryx_positions WHERE server_id = ?1 AND sink = ?2";

/// Sets the owner; a position that is there stays.
pub(super) const TAKE_POSITION: &str = "
    INSERT INTO telemetryx_positions (server_id, sink, position, owner) VALUES (?1, ?2, 0, ?3)
    ON CONFLICT (server_id, sink) DO UPDATE SET owner = excluded.owner";

/// Moves the position that this process left there.
pub(super) const MOVE_POSITION: &str = "
    UPDATE telemetryx_positions SET position = ?5
    WHERE server_id = ?1 AND sink = ?2 AND owner = ?3 AND position = ?4";

/// The last row of a log of which no sink has a position.
const LAST_WITHOUT_POSITION: &str = "
    SELECT position FROM events
    WHERE server_id = ?1 AND NOT EXISTS (SELECT 1 FROM telemetryx_positions WHERE server_id = ?1)
    ORDER BY position DESC LIMIT 1";

impl Sqlite {
    /// The position of this sink, as the database has it.
    pub(super) fn read_position(&self, connection: &Connection) -> rusqlite::Result<Option<Held>> {
        let mut statement = connection.prepare_cached(READ_POSITION)?;
        statement
            .query_row([self.ownership.server_id(), self.ownership.sink()], |row| {
                Ok(Held { position: row.get::<_, i64>(0)?.cast_unsigned(), owner: row.get(1)? })
            })
            .optional()
    }

    /// Makes this process the owner of the position.
    pub(super) fn take_position(&self, transaction: &Transaction<'_>) -> rusqlite::Result<()> {
        let own = &self.ownership;
        transaction.execute(TAKE_POSITION, [own.server_id(), own.sink(), own.owner()]).map(drop)
    }

    /// Moves the position to `last`. `false`: it is not as this process left it.
    pub(super) fn move_position(&self, transaction: &Transaction<'_>, last: u64) -> rusqlite::Result<bool> {
        let own = &self.ownership;
        let (old, new) = (own.position(FIRST).cast_signed(), last.cast_signed());
        let mut statement = transaction.prepare_cached(MOVE_POSITION)?;
        Ok(statement.execute(params![own.server_id(), own.sink(), own.owner(), old, new])? > 0)
    }

    /// What it means that [`Sqlite::move_position`] moved nothing.
    pub(super) fn not_moved(&self, connection: &Connection, last: u64) -> Result<(), Failure> {
        let held = self.read_position(connection).map_err(|error| self.unavailable(&error))?;
        Ok(self.ownership.not_moved(held.as_ref(), last).map_err(|error| self.stopped(&error))?)
    }

    /// Fails with what to do where the table has rows of this log and no sink has a position of it. (A sink that was renamed
    /// begins anew: rows that are there stay.)
    pub(super) fn check_missing(&self, connection: &Connection) -> Result<(), Unavailable> {
        let own = &self.ownership;
        let last = connection
            .query_row(LAST_WITHOUT_POSITION, [own.server_id()], |row| row.get::<_, i64>(0))
            .optional()
            .map_err(|error| self.unavailable(&error))?;
        let remains = last.map_or(Remains::Nothing, |last| Remains::Events(last.cast_unsigned()));
        own.check_missing(FIRST, remains, |position, _| {
            Wording::of_tables("events", "telemetryx_positions", own, position)
        })
        .map_err(|error| self.stopped(&error))
    }
}
