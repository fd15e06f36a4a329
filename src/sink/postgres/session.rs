//! A connection while it lasts.

use std::time::Duration;

use postgres::{Client, Error, SimpleQueryMessage, SimpleQueryRow};

use super::refused::Held;
use super::stream::Deadline;
use super::tables::{self, Found};
use crate::limits;

/// A connection, thrown away after whatever leaves its state unknown.
pub(super) struct Session {
    /// The connection.
    pub client: Client,
    /// The deadline of every read and write of the connection.
    pub deadline: Deadline,
    /// `timeout` of the settings.
    pub timeout: Duration,
    /// What the transaction has stored that is left open after a refusal; `None`: none is open between deliveries.
    pub held: Option<Held>,
}

impl Drop for Session {
    fn drop(&mut self) {
        // The client says goodbye, and would wait for it to be taken.
        self.deadline.set(limits::STORE_GOODBYE_TIMEOUT);
    }
}

impl Session {
    /// Runs statements; returns the number of rows that the last one changed.
    pub(super) fn run(&mut self, sql: &str) -> Result<u64, Error> {
        self.wait_from_now();
        let messages = self.client.simple_query(sql)?;
        let changed = messages.iter().rev().find_map(|message| match message {
            SimpleQueryMessage::CommandComplete(rows) => Some(*rows),
            _ => None,
        });
        Ok(changed.unwrap_or(0))
    }

    /// Runs one query; returns its rows.
    pub(super) fn select(&mut self, sql: &str) -> Result<Vec<SimpleQueryRow>, Error> {
        self.wait_from_now();
        let messages = self.client.simple_query(sql)?;
        let row = |message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        };
        Ok(messages.into_iter().filter_map(row).collect())
    }

    /// Gives the next answer the configured time, from now on.
    pub(super) fn wait_from_now(&self) {
        self.deadline.set(self.timeout + limits::STORE_ANSWER_GRACE);
    }
}

/// A column; "" where it is NULL, or the peer is not PostgreSQL.
pub(super) fn text(row: &SimpleQueryRow, index: usize) -> &str {
    row.try_get(index).ok().flatten().unwrap_or_default()
}

/// The columns of a table; empty if there is no such table.
pub(super) fn columns(session: &mut Session, table: &str) -> Result<Vec<Found>, Error> {
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
