//! What is left of the time in which nothing is deleted, in a table that is created with the first doubt.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

const TABLE: &str = "telemetryx_holds";

const CREATE: &str = "
    CREATE TABLE IF NOT EXISTS telemetryx_holds (
        server_id TEXT NOT NULL,
        sink TEXT NOT NULL,
        left_seconds INTEGER NOT NULL,
        PRIMARY KEY (server_id, sink)
    ) WITHOUT ROWID";

/// What is left for `sink` of a log; `None`: nothing.
pub(super) fn read(connection: &Connection, server_id: &str, sink: &str) -> rusqlite::Result<Option<Duration>> {
    if !connection.table_exists(None, TABLE)? {
        return Ok(None);
    }
    let read = "SELECT left_seconds FROM telemetryx_holds WHERE server_id = ?1 AND sink = ?2";
    let seconds = connection.query_row(read, [server_id, sink], |row| row.get::<_, i64>(0)).optional()?;
    Ok(seconds.and_then(|seconds| u64::try_from(seconds).ok()).filter(|left| *left > 0).map(Duration::from_secs))
}

/// Replaces it; zero: nothing is left.
pub(super) fn write(connection: &Connection, server_id: &str, sink: &str, left: Duration) -> rusqlite::Result<()> {
    if left.is_zero() {
        let remove = "DELETE FROM telemetryx_holds WHERE server_id = ?1 AND sink = ?2";
        return connection.execute(remove, [server_id, sink]).map(drop);
    }
    connection.execute(CREATE, [])?;
    // A part of a second counts as one: runs of parts of a second do not end a hold early.
    let seconds = (left.as_secs() + u64::from(left.subsec_nanos() > 0)).cast_signed();
    let replace = "INSERT OR REPLACE INTO telemetryx_holds (server_id, sink, left_seconds) VALUES (?1, ?2, ?3)";
    connection.execute(replace, params![server_id, sink, seconds]).map(drop)
}
