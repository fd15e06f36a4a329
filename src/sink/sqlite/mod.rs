//! SQLite: the embedded default.
//!
//! ```text
//!  BEGIN IMMEDIATE
//!    UPDATE telemetryx_positions  old position ─▶ last of the delivery, under the own owner   no row: fenced, or done
//!    INSERT INTO events           one row an event; a row that is there already stays
//!  COMMIT                         synced (journal_mode WAL, synchronous FULL)
//! ```
//!
//! Rows and position commit together, so that every event is stored exactly once. A row that a constraint or trigger
//! refuses rolls the delivery back; all such rows of it are named at once.
//!
//! **Fencing**: see [`ownership`](super::ownership); the statements are in `position`.
//!
//! **Files** that are removed or replaced are noticed before a delivery is reported as stored, and within a second
//! where none comes. What is only in a removed write-ahead log is moved into the database through the connection that
//! still has it open; then the database is opened again.
//!
//! **Replay** inserts the same rows and leaves the position alone. **Old rows** are deleted between deliveries (`keep`).

mod clock;
mod encode;
mod errors;
mod files;
mod hold;
mod keep;
mod position;
mod settings;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior, ffi};

use self::encode::{INSERT, Rows};
use self::errors::{refusal, wanted_column};
use self::files::Files;
use self::position::{MOVE_POSITION, READ_POSITION, TAKE_POSITION};
pub use self::settings::{Indexes, KIND, SqliteSettings};
use super::ownership::{Connect, FIRST, Ownership, OwnershipError};
use super::{Clocks, Failure, Identity, Refusal, Sink, Unavailable, Upkeep, uuid};
use crate::batch::Delivery;
use crate::limits;

const CREATE: &str = "
    CREATE TABLE IF NOT EXISTS events (
        server_id TEXT NOT NULL,
        position INTEGER NOT NULL,
        received_at TEXT NOT NULL,
        time TEXT NOT NULL,
        kind TEXT NOT NULL,
        severity INTEGER,
        source TEXT,
        name TEXT,
        body TEXT,
        value REAL,
        duration_nano INTEGER,
        trace_id TEXT,
        span_id TEXT,
        parent_span_id TEXT,
        agent TEXT,
        attributes TEXT,
        PRIMARY KEY (server_id, position)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS telemetryx_positions (
        server_id TEXT NOT NULL,
        sink TEXT NOT NULL,
        position INTEGER NOT NULL,
        owner TEXT NOT NULL,
        PRIMARY KEY (server_id, sink)
    ) WITHOUT ROWID;";

const CREATE_INDEX: &str = "
    CREATE INDEX IF NOT EXISTS events_time ON events (time);";

/// The statements that create the tables, as `telemetryx config --ddl` prints them.
pub fn ddl(indexes: Indexes) -> String {
    let index = if indexes == Indexes::Time { CREATE_INDEX } else { "" };
    let lines = CREATE.lines().chain(index.lines()).filter(|line| !line.is_empty());
    lines.map(|line| format!("{}\n", line.strip_prefix("    ").unwrap_or(line))).collect()
}

/// The sink, with its database.
pub struct Sqlite {
    path: PathBuf,
    ownership: Ownership,
    connection: Option<Connection>,
    /// What `connection` writes to.
    files: Option<Files>,
    keep: Option<keep::Keep>,
    indexes: Indexes,
}

impl Sqlite {
    /// A sink that has not opened its database. `sink`: its name, under which the position is stored.
    pub fn new(sink: &str, settings: &SqliteSettings, identity: &Identity) -> Self {
        Self {
            path: settings.path.clone(),
            ownership: Ownership::new(sink, identity, 1),
            connection: None,
            files: None,
            keep: settings.keep.map(|keep| keep::Keep::new(sink, &uuid(&identity.server_id), keep)),
            indexes: settings.indexes,
        }
    }

    fn open_or_create(&self) -> Result<Connection, Unavailable> {
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)
                .map_err(|error| Unavailable::down(format!("cannot create directory {}: {error}", folder.display())))?;
        }
        self.open(OpenFlags::SQLITE_OPEN_CREATE)
    }

    fn open(&self, create: OpenFlags) -> Result<Connection, Unavailable> {
        let open = || {
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | create;
            let connection = Connection::open_with_flags(&self.path, flags)?;
            connection.busy_timeout(limits::SQLITE_BUSY_TIMEOUT)?;
            connection.pragma_update(None, "journal_mode", "wal")?;
            connection.pragma_update(None, "synchronous", "full")?;
            connection.pragma_update(None, "journal_size_limit", limits::SQLITE_WAL_BYTES_MAX.cast_signed())?;
            // A static binary in a container may have no temporary folder.
            connection.pragma_update(None, "temp_store", "memory")?;
            Ok(connection)
        };
        open().map_err(|error| self.unavailable(&error))
    }

    /// A connection that changes nothing.
    fn open_to_read(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(limits::SQLITE_BUSY_TIMEOUT)?;
        Ok(connection)
    }

    /// A connection that can take the write lock. What is in a write-ahead log stays there when it is closed.
    fn open_to_probe(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(limits::SQLITE_BUSY_TIMEOUT)?;
        // Without rows in it, SQLite removes the log that it has created for this connection.
        let keeps_log = Files::log_has_rows(&self.path);
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, keeps_log)?;
        Ok(connection)
    }

    /// What the connection has open.
    fn files_of(&self, connection: &Connection) -> Result<Files, Unavailable> {
        // A file system that does not support shared memory leaves another mode.
        let mode = connection.query_row("PRAGMA journal_mode", [], |row| row.get::<_, String>(0));
        let mode = mode.map_err(|error| self.unavailable(&error))?;
        Files::of(&self.path, mode == "wal")
            .ok_or_else(|| self.retry("a file was moved or removed while it was opened"))
    }

    /// Why the connection is of no use: SQLite would write on into a file that no one can find any more.
    fn removed(&self) -> Option<Unavailable> {
        let file = self.files.as_ref()?.missing()?.file_name()?.to_string_lossy().into_owned();
        Some(self.retry(&format!("the file was moved or removed: {file}")))
    }

    /// Whether what was committed is where readers find it.
    fn confirm(&self) -> Result<(), Failure> {
        self.removed().map_or(Ok(()), |removed| Err(removed.into()))
    }

    /// Closes the connection. Where a file was removed or replaced, what is only in the write-ahead log that the
    /// connection has open is moved into the database first.
    ///
    /// # Errors
    /// Somebody reads there, or the disk is full: the connection stays open, since its rows are nowhere else.
    fn close(&mut self) -> Result<(), Unavailable> {
        let Some(connection) = self.connection.take() else { return Ok(()) };
        let Some(files) = self.files.as_ref().filter(|files| !files.are_in_place()) else { return Ok(()) };
        let database_is_in_place = files.database_is_in_place();
        if !database_is_in_place {
            // At the end SQLite removes the log by its name, which may be that of a new database's log by now.
            let _ = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        }
        let Err(error) = move_log_into_database(&connection) else { return Ok(()) };
        let code = error.sqlite_error_code();
        let passes = matches!(code, Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::DiskFull));
        if database_is_in_place && passes {
            self.connection = Some(connection);
            return Err(self.retry(&format!("rows of a removed -wal file cannot be moved into the database: {error}")));
        }
        let error = error.to_string();
        tracing::warn!(
            sink = self.ownership.sink(),
            error,
            "rows of a removed -wal file are lost, unless the log still has their events: do not touch the files of a \
             database that is in use"
        );
        Ok(())
    }

    /// Creates the tables and takes the position, or looks whether it is still ours. Returns it: one that this log does
    /// not reach is left alone.
    fn prepare(&mut self, connection: &mut Connection) -> Result<u64, Unavailable> {
        let sql = |error| self.unavailable(&error);
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql)?;
        // On a table that has rows it may take minutes.
        let is_indexed = self.indexes == Indexes::Time && !transaction.table_exists(None, "events").map_err(sql)?;
        transaction.execute_batch(CREATE).map_err(sql)?;
        if is_indexed {
            transaction.execute_batch(CREATE_INDEX).map_err(sql)?;
        }
        // A table of the user's is welcome if it has what these name.
        for statement in [READ_POSITION, TAKE_POSITION, MOVE_POSITION, INSERT] {
            transaction.prepare_cached(statement).map_err(|error| self.wrong_table(&error))?;
        }
        let held = self.read_position(&transaction).map_err(sql)?;
        let position = match self.ownership.connect(FIRST, held.as_ref()).map_err(|error| self.stopped(&error))? {
            Connect::LeaveAlone { position } => return Ok(position),
            Connect::Take { position } => position,
            Connect::New => {
                self.check_missing(&transaction)?;
                0
            }
        };
        self.take_position(&transaction).map_err(sql)?;
        transaction.commit().map_err(sql)?;
        self.ownership.taken(FIRST, position);
        Ok(position)
    }

    fn write(&self, connection: &mut Connection, delivery: &Delivery, is_rehearsal: bool) -> Result<(), Failure> {
        let sql = |error| self.unavailable(&error);
        let last = delivery.last_position();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql)?;
        if !self.move_position(&transaction, last).map_err(sql)? {
            transaction.rollback().map_err(sql)?;
            return self.not_moved(connection, last);
        }
        self.store(transaction, delivery, is_rehearsal)
    }

    /// Inserts and commits. A rehearsal is rolled back by its hook, once all constraints have been checked, the deferred ones too.
    fn store(&self, transaction: Transaction<'_>, delivery: &Delivery, is_rehearsal: bool) -> Result<(), Failure> {
        let refusals = self.insert(&transaction, delivery)?;
        if !refusals.is_empty() {
            // Rolled back when dropped.
            return Err(Failure::Refused(refusals));
        }
        transaction.commit().or_else(|error| match refusal(&error) {
            _ if is_rehearsal && was_rolled_back_by_hook(&error) => Ok(()),
            // A deferred constraint names no row.
            Some((code, reason)) => Err(Failure::BatchRefused { code, reason }),
            None => Err(self.unavailable(&error).into()),
        })
    }

    fn write_to_its_file(&mut self, delivery: &Delivery, is_rehearsal: bool) -> Result<(), Failure> {
        let Some(mut connection) = self.connection.take() else {
            return Err(self.retry("not open").into());
        };
        if is_rehearsal {
            // SQLite asks the hook before it commits: true makes it roll back.
            connection.commit_hook(Some(|| true)).map_err(|error| self.unavailable(&error))?;
        }
        let result = self.confirm();
        let result = result.and_then(|()| self.write(&mut connection, delivery, is_rehearsal));
        // Once more: what was committed to a file that was removed meanwhile is not stored yet.
        let result = result.and_then(|()| self.confirm());
        if is_rehearsal {
            // A connection that keeps the hook must not be used again.
            connection.commit_hook(None::<fn() -> bool>).map_err(|error| self.unavailable(&error))?;
        }
        self.connection = Some(connection);
        result
    }

    /// Inserts what it can; returns what a constraint or a trigger refuses.
    fn insert(&self, transaction: &Transaction<'_>, delivery: &Delivery) -> Result<Vec<Refusal>, Unavailable> {
        let mut rows = Rows::new(transaction, self.ownership.server_id()).map_err(|error| self.unavailable(&error))?;
        let mut refusals = Vec::new();
        for record in delivery.records() {
            let Err(error) = rows.insert(&record) else { continue };
            let Some((code, reason)) = refusal(&error) else { return Err(self.unavailable(&error)) };
            if let Some(column) = wanted_column(transaction, &error) {
                return Err(self.down(&format!("{reason}: give the column {column} a default, or let it be NULL")));
            }
            refusals.push(Refusal { position: record.position, code, reason });
            // The statement alone was undone, so that the others can be tried; unless a trigger has ended it all.
            if transaction.is_autocommit() {
                break;
            }
        }
        Ok(refusals)
    }

    fn retry(&self, reason: &str) -> Unavailable {
        Unavailable::retry(format!("{}: {reason}", self.path.display()))
    }

    fn down(&self, reason: &str) -> Unavailable {
        Unavailable::down(format!("{}: {reason}", self.path.display()))
    }

    fn stopped(&self, error: &OwnershipError) -> Unavailable {
        error.at(&self.path.display())
    }
}

impl Sink for Sqlite {
    fn probe(&mut self) -> Result<(), Unavailable> {
        if !self.path.exists() {
            return super::creatable::check_file(&self.path).map_err(Unavailable::down);
        }
        let sql = |error| self.unavailable(&error);
        let mut connection = self.open_to_probe().map_err(sql)?;
        // Nobody else holds the write lock, and the file can be written.
        let lock = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql)?;
        lock.rollback().map_err(sql)?;
        for (table, statement) in [("events", INSERT), ("telemetryx_positions", MOVE_POSITION)] {
            if connection.table_exists(None, table).map_err(sql)? {
                connection.prepare(statement).map_err(|error| self.wrong_table(&error))?;
            } else {
                // Both are created together.
                return Ok(());
            }
        }
        match self.read_position(&connection).map_err(sql)? {
            Some(_) => Ok(()),
            None => self.check_missing(&connection),
        }
    }

    fn stored_position(&mut self) -> Result<Option<u64>, Unavailable> {
        if !self.path.exists() {
            return Ok(Some(0));
        }
        let held = self.open_to_read().and_then(|connection| {
            let has_table = connection.table_exists(None, "telemetryx_positions")?;
            if has_table { self.read_position(&connection) } else { Ok(None) }
        });
        Ok(Some(held.map_err(|error| self.unavailable(&error))?.map_or(0, |held| held.position)))
    }

    fn connect(&mut self) -> Result<Option<u64>, Unavailable> {
        self.close()?;
        let mut connection = self.open_or_create()?;
        let position = self.prepare(&mut connection)?;
        if self.ownership.is_owner() {
            self.files = Some(self.files_of(&connection)?);
            if let Some(keep) = &mut self.keep {
                let read = keep.read_before(&connection);
                read.map_err(|error| self.unavailable(&error))?;
            }
            self.connection = Some(connection);
        }
        Ok(Some(position))
    }

    fn deliver(&mut self, delivery: &Delivery) -> Result<(), Failure> {
        if self.ownership.lowest() >= delivery.last_position() {
            return Ok(());
        }
        let result = self.write_to_its_file(delivery, false);
        if result.is_ok() {
            self.ownership.moved(FIRST, delivery.last_position());
            if let Some(keep) = &mut self.keep {
                keep.stored(delivery.events());
            }
        }
        result
    }

    fn rehearses(&self) -> bool {
        true
    }

    fn rehearse(&mut self, delivery: &Delivery) -> Result<(), Failure> {
        self.write_to_its_file(delivery, true)
    }

    fn replays(&self) -> bool {
        true
    }

    fn replay(&mut self, delivery: &Delivery) -> Result<(), Failure> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            // Whoever replays may be another user than the server: a database made here would keep it out.
            None => self.open(OpenFlags::empty())?,
        };
        connection.prepare_cached(INSERT).map_err(|error| self.wrong_table(&error))?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let transaction = transaction.map_err(|error| self.unavailable(&error))?;
        let result = self.store(transaction, delivery, false);
        self.connection = Some(connection);
        result
    }

    fn check_interval(&self) -> Option<Duration> {
        Some(limits::SQLITE_FILES_INTERVAL)
    }

    fn check_in_place(&mut self) -> Result<(), Unavailable> {
        let removed = self.connection.as_ref().and_then(|_| self.removed());
        removed.map_or(Ok(()), Err)
    }

    fn upkeep(&mut self, now: Clocks) -> Result<Upkeep, Unavailable> {
        // What was moved away is somebody's archive.
        let is_in_place = self.check_in_place().is_ok();
        let Some(keep) = &mut self.keep else { return Ok(Upkeep::again(None)) };
        let passed = keep.pass(self.connection.as_ref().filter(|_| is_in_place), now);
        let passed = passed.map_err(|error| self.unavailable(&error))?;
        let again = Some(passed.again.min(limits::CLOCK_READ_INTERVAL));
        Ok(Upkeep { again, expired_events: passed.deleted })
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        // What was moved away is somebody's archive.
        let is_in_place = self.check_in_place().is_ok();
        if let (Some(keep), Some(connection), true) = (&mut self.keep, &self.connection, is_in_place)
            && let Err(error) = keep.save_rest(connection)
        {
            tracing::warn!(
                sink = self.ownership.sink(),
                error = error.to_string(),
                "cannot save how long deleting is suspended; the next start waits longer"
            );
        }
    }
}

fn was_rolled_back_by_hook(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|error| error.extended_code == ffi::SQLITE_CONSTRAINT_COMMITHOOK)
}

/// Writes all rows of the write-ahead log into the database, and syncs it.
fn move_log_into_database(connection: &Connection) -> rusqlite::Result<()> {
    let (busy, pages, moved) = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
    })?;
    // A reader may keep the log from being cut, and still all of it is in the database.
    if busy != 0 && pages != moved {
        return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_BUSY), None));
    }
    Ok(())
}
