//! A connection while it lasts, and what its errors mean.

use std::fmt::Write as _;
use std::time::Duration;

use postgres::error::DbError;
use postgres::{Client, Error, SimpleQueryMessage, SimpleQueryRow};

use super::sqlstate::{Place, Verdict, copy_line, copy_place, verdict};
use super::stream::Deadline;
use super::tables::{self, Found};
use crate::limits;

/// A connection, thrown away after whatever leaves its state unknown.
pub struct Session {
    /// The connection.
    pub client: Client,
    /// The deadline of every read and write of the connection.
    pub deadline: Deadline,
    /// `timeout` of the settings.
    pub timeout: Duration,
}

impl Drop for Session {
    fn drop(&mut self) {
        // The client says goodbye, and would wait for it to be taken.
        self.deadline.set(limits::STORE_GOODBYE_TIMEOUT);
    }
}

impl Session {
    /// Runs statements; returns the number of rows that the last one changed.
    pub fn run(&mut self, sql: &str) -> Result<u64, Error> {
        self.wait_from_now();
        let messages = self.client.simple_query(sql)?;
        let changed = messages.iter().rev().find_map(|message| match message {
            SimpleQueryMessage::CommandComplete(rows) => Some(*rows),
            _ => None,
        });
        Ok(changed.unwrap_or(0))
    }

    /// Runs one query; returns its rows.
    pub fn select(&mut self, sql: &str) -> Result<Vec<SimpleQueryRow>, Error> {
        self.wait_from_now();
        let messages = self.client.simple_query(sql)?;
        let row = |message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        };
        Ok(messages.into_iter().filter_map(row).collect())
    }

    /// Gives the next answer the configured time, from now on.
    pub fn wait_from_now(&self) {
        self.deadline.set(self.timeout + limits::STORE_ANSWER_GRACE);
    }
}

/// Any error of a session.
pub type Trouble = dyn std::error::Error + 'static;

/// A column; "" where it is NULL, or the peer is not PostgreSQL.
pub fn text(row: &SimpleQueryRow, index: usize) -> &str {
    row.try_get(index).ok().flatten().unwrap_or_default()
}

/// The columns of a table; empty if there is no such table.
pub fn columns(session: &mut Session, table: &str) -> Result<Vec<Found>, Error> {
    let rows = session.select(&tables::columns_query(table))?;
    Ok(rows
        .iter()
        .map(|row| Found {
            name: text(row, 0).to_owned(),
            sql_type: text(row, 1).to_owned(),
            must_be_given: text(row, 2) == "t",
        })
        .collect())
}

/// The error and what it comes from.
pub fn chain(error: &Trouble) -> impl Iterator<Item = &Trouble> {
    std::iter::successors(Some(error), |error| error.source())
}

/// The error that the server sent; `None`: the error is not the server's.
pub fn db_error(error: &Trouble) -> Option<&DbError> {
    chain(error).find_map(|error| error.downcast_ref())
}

/// The SQLSTATE of the error; empty if the server did not send it.
pub fn code(error: &Trouble) -> &str {
    db_error(error).map_or("", |error| error.code().code())
}

/// The row of a COPY that the error names, from 1 on.
pub fn named_line(error: &Trouble) -> Option<usize> {
    copy_line(db_error(error)?.where_()?)
}

/// Whether the error refuses rows, rather than postponing the delivery.
pub fn refuses(error: &Trouble) -> bool {
    let place = |error: &DbError| error.where_().map_or(Place::Elsewhere, copy_place);
    db_error(error).is_some_and(|error| verdict(error.code().code(), place(error)) == Verdict::Refused)
}

/// The row belongs into a partition that is not there. The code alone is a CHECK's, and a trigger's that raises it.
pub fn lacks_partition(error: &Trouble) -> bool {
    db_error(error).is_some_and(|error| error.routine() == Some("ExecFindPartition"))
}

/// In one line.
pub fn describe(error: &Trouble) -> String {
    if let Some(error) = db_error(error) {
        let mut text = format!("{} (SQLSTATE {})", error.message(), error.code().code());
        // The failing row itself is in the dead letter already.
        if let Some(detail) = error.detail().filter(|detail| !detail.starts_with("Failing row contains")) {
            let _ = write!(text, ": {detail}");
        }
        return text;
    }
    chain(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
