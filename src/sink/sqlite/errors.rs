//! What an error of SQLite means for a delivery: its code decides.

use rusqlite::{Connection, ErrorCode, ffi};

use super::Sqlite;
use super::encode::writes;
use crate::sink::Unavailable;

impl Sqlite {
    /// SQLite's message names the table and what it lacks.
    pub(super) fn wrong_table(&self, error: &rusqlite::Error) -> Unavailable {
        match self.unavailable(error) {
            Unavailable::Down { reason } => Unavailable::down(format!(
                "{reason}: add what is missing to the table, or rename the table so that a new one is created"
            )),
            passes => passes,
        }
    }

    /// What an error means for the delivery.
    pub(super) fn unavailable(&self, error: &rusqlite::Error) -> Unavailable {
        let passes = matches!(
            error.sqlite_error_code(),
            Some(
                ErrorCode::DatabaseBusy
                    | ErrorCode::DatabaseLocked
                    | ErrorCode::DiskFull
                    | ErrorCode::SystemIoFailure
                    | ErrorCode::OutOfMemory
                    | ErrorCode::OperationAborted
                    | ErrorCode::OperationInterrupted
                    | ErrorCode::FileLockingProtocolFailed
                    | ErrorCode::SchemaChanged
            )
        );
        let reason = match error {
            // Its own words would quote the whole statement.
            rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
            other if matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)) => {
                format!("{other}: another process writes to it (`fuser {}` names it)", self.path.display())
            }
            other => other.to_string(),
        };
        if passes { self.retry(&reason) } else { self.down(&reason) }
    }
}

/// The column, not among the sink's own, that no row brings a value for. Not one that SQLite makes out of the others.
pub(super) fn wanted_column<'e>(connection: &Connection, error: &'e rusqlite::Error) -> Option<&'e str> {
    let rusqlite::Error::SqliteFailure(code, Some(words)) = error else { return None };
    let column = words.strip_prefix("NOT NULL constraint failed: events.")?;
    if code.extended_code != ffi::SQLITE_CONSTRAINT_NOTNULL || writes(column) {
        return None;
    }
    let plain =
        "SELECT count(*) FROM pragma_table_xinfo('events') WHERE name = ?1 AND hidden = 0 AND dflt_value IS NULL";
    let found: i64 = connection.query_row(plain, [column], |row| row.get(0)).ok()?;
    (found > 0).then_some(column)
}

/// Code and reason where the store refuses the row itself, and would refuse it again.
pub(super) fn refusal(error: &rusqlite::Error) -> Option<(String, String)> {
    let error_code = error.sqlite_error_code()?;
    if !matches!(error_code, ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig) {
        return None;
    }
    let code = match error.sqlite_error()?.extended_code {
        ffi::SQLITE_CONSTRAINT_CHECK => "SQLITE_CONSTRAINT_CHECK".to_owned(),
        ffi::SQLITE_CONSTRAINT_DATATYPE => "SQLITE_CONSTRAINT_DATATYPE".to_owned(),
        ffi::SQLITE_CONSTRAINT_FOREIGNKEY => "SQLITE_CONSTRAINT_FOREIGNKEY".to_owned(),
        ffi::SQLITE_CONSTRAINT_NOTNULL => "SQLITE_CONSTRAINT_NOTNULL".to_owned(),
        ffi::SQLITE_CONSTRAINT_TRIGGER => "SQLITE_CONSTRAINT_TRIGGER".to_owned(),
        ffi::SQLITE_CONSTRAINT_UNIQUE => "SQLITE_CONSTRAINT_UNIQUE".to_owned(),
        ffi::SQLITE_MISMATCH => "SQLITE_MISMATCH".to_owned(),
        ffi::SQLITE_TOOBIG => "SQLITE_TOOBIG".to_owned(),
        other => format!("SQLITE_{other}"),
    };
    Some((code, error.to_string()))
}
