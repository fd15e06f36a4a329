//! The statements about the row of the position. What follows from it decides [`ownership`](crate::sink::ownership).

use postgres::Error;

use super::Postgres;
use super::session::{Session, text};
use super::tables::Tables;
use crate::sink::ownership::{FIRST, Held, Remains, Wording};
use crate::sink::{Failure, Unavailable};

impl Postgres {
    fn positions(&self) -> &str {
        self.tables.as_ref().map_or("", |tables| &tables.positions)
    }

    /// The position of this sink, as the store has it. `lock`: the clause that locks its row, or nothing.
    pub(super) fn read_position(&self, session: &mut Session, lock: &str) -> Result<Option<Held>, Error> {
        let (positions, own) = (self.positions(), &self.ownership);
        let (server_id, sink) = (own.server_id(), own.sink());
        let rows = session.select(&format!(
            "SELECT position, owner FROM {positions} WHERE server_id = '{server_id}' AND sink = '{sink}'{lock}"
        ))?;
        Ok(rows.first().map(|row| Held { position: text(row, 0).parse().unwrap_or(0), owner: text(row, 1).to_owned() }))
    }

    /// Makes this process the owner of the position; one that is there stays.
    pub(super) fn take_position(&self, session: &mut Session) -> Result<(), Error> {
        let (positions, own) = (self.positions(), &self.ownership);
        let (server_id, sink, owner) = (own.server_id(), own.sink(), own.owner());
        let take = format!(
            "INSERT INTO {positions} (server_id, sink, position, owner) VALUES ('{server_id}', '{sink}', 0, '{owner}') \
             ON CONFLICT (server_id, sink) DO UPDATE SET owner = excluded.owner"
        );
        session.run(&take).map(drop)
    }

    /// Begins the transaction of a delivery: its position first. `false`: it is not as this process left it.
    pub(super) fn move_position(&self, session: &mut Session, last: u64) -> Result<bool, Error> {
        let (positions, own) = (self.positions(), &self.ownership);
        let (server_id, sink, owner, old) = (own.server_id(), own.sink(), own.owner(), own.position(FIRST));
        let moved = session.run(&format!(
            "{}; UPDATE {positions} SET position = {last} \
             WHERE server_id = '{server_id}' AND sink = '{sink}' AND owner = '{owner}' AND position = {old}",
            self.begin()
        ))?;
        Ok(moved > 0)
    }

    /// What it means that [`Postgres::move_position`] moved nothing.
    pub(super) fn not_moved(&self, session: &mut Session, last: u64) -> Result<(), Failure> {
        let held = self.read_position(session, "").map_err(|error| self.unavailable(&error))?;
        Ok(self.ownership.not_moved(held.as_ref(), last).map_err(|error| self.stopped(&error))?)
    }

    /// Fails with what to do where the table has rows of this log and no sink has a position of it. (A sink that was renamed
    /// begins anew: rows that are there stay.)
    pub(super) fn check_missing(&self, session: &mut Session) -> Result<(), Unavailable> {
        let Some(Tables { events, positions, .. }) = &self.tables else { return Ok(()) };
        let server_id = self.ownership.server_id();
        let rows = session
            .select(&format!(
                "SELECT position FROM {events} WHERE server_id = '{server_id}' \
                 AND NOT EXISTS (SELECT 1 FROM {positions} WHERE server_id = '{server_id}') \
                 ORDER BY position DESC LIMIT 1"
            ))
            .map_err(|error| self.unavailable(&error))?;
        let last = rows.first().and_then(|row| text(row, 0).parse().ok());
        let remains = last.map_or(Remains::Nothing, Remains::Events);
        self.ownership
            .check_missing(FIRST, remains, |position, _| {
                Wording::of_tables(events, positions, &self.ownership, position)
            })
            .map_err(|error| self.stopped(&error))
    }
}
