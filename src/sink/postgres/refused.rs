//! A delivery of which a row is refused: finds every such row, and stores the others in the same transaction.
//!
//! ```text
//!  BEGIN, position ─▶ SAVEPOINT ─▶ COPY of a piece ┬─ kept ────────────▶ RELEASE, SAVEPOINT ─┬─▶ next piece
//!                                                  └─ tried, refused ──▶ ROLLBACK TO ────────┘
//!  no piece left ─▶ answer: these rows are refused ─▶ the router keeps them ─▶ the rest is delivered ─▶ COMMIT
//! ```
//!
//! The transaction stays open while the router keeps the refused rows, which have to be on disk before the rest is
//! committed. So what is stored beside them is sent once. It ends with the delivery that follows: COMMIT if that is exactly
//! what is stored, else ROLLBACK. If the connection ends before that, nothing is stored, and the rest is delivered again.

use std::ops::RangeInclusive;

use super::errors::{Trouble, code, lacks_partition, named, refuses};
use super::pieces::{Named, Piece, Pieces};
use super::session::Session;
use super::{End, Postgres};
use crate::batch::{Delivery, Record};
use crate::limits;
use crate::sink::{Failure, Refusal};

/// What an open transaction has stored.
#[derive(Debug)]
pub(super) struct Held {
    last: u64,
    ranges: Vec<RangeInclusive<u64>>,
}

impl Held {
    /// `delivery` without what is refused of it.
    fn of(delivery: &Delivery, refusals: &[Refusal]) -> Self {
        let mut rest = delivery.clone();
        rest.leave_out(&refusals.iter().map(|refusal| refusal.position).collect::<Vec<_>>());
        Self { last: rest.last_position(), ranges: rest.position_ranges() }
    }

    /// Whether it is all of `delivery`, and nothing else.
    fn is(&self, delivery: &Delivery) -> bool {
        self.last == delivery.last_position() && self.ranges == delivery.position_ranges()
    }
}

/// Why a row is refused.
pub(super) struct Cause {
    code: String,
    reason: String,
    named: Named,
    lacks_partition: bool,
}

/// What came of rows in pieces.
pub(super) struct Found {
    /// In order of position.
    pub refusals: Vec<Refusal>,
    /// Of them, those without a partition.
    unplaced: u64,
    stored: usize,
    /// See [`Pieces::usual`].
    usual: Option<usize>,
}

impl Postgres {
    /// Ends the transaction that a refusal has left open. Returns whether it is committed: all of `delivery` is stored by it.
    pub(super) fn end_held(&self, session: &mut Session, delivery: &Delivery, end: End) -> Result<bool, Failure> {
        let Some(held) = session.held.take() else { return Ok(false) };
        if end == End::Commit && held.is(delivery) {
            self.finish(session, end)?;
            return Ok(true);
        }
        session.run("ROLLBACK").map_err(|error| self.unavailable(&error))?;
        Ok(false)
    }

    /// What the error says of a row.
    pub(super) fn cause(&self, error: &Trouble) -> Cause {
        Cause {
            code: code(error).to_owned(),
            reason: self.describe(error),
            named: named(error),
            lacks_partition: lacks_partition(error),
        }
    }

    /// Stores the delivery in pieces. `whole`: why it was refused as a whole, if that was tried.
    pub(super) fn write_in_pieces(
        &mut self,
        session: &mut Session,
        delivery: &Delivery,
        end: End,
        whole: Option<Cause>,
    ) -> Result<(), Failure> {
        let (first, last) = (delivery.first_position(), delivery.last_position());
        if !self.begin_delivery(session, last)? {
            return self.not_moved(session, last);
        }
        let mut records: Vec<Record<'_>> = delivery.records().collect();
        // Whatever the error is: a CHECK is looked at before the key.
        let there = self
            .positions_there(session, &format!("BETWEEN {first} AND {last}"))
            .map_err(|error| self.unavailable(&error))?;
        records.retain(|record| !there.contains(&record.position));
        let mut pieces = Pieces::of(records.len(), self.usual);
        if let Some(cause) = whole {
            self.check_cause(session, &cause)?;
            // Without the rows that are there, the same row has another number; and the one that was there may be gone.
            if there.is_empty() && cause.code != UNIQUE_VIOLATION {
                pieces.refused(&Piece { rows: 0..records.len(), is_kept: true }, cause.named, cause);
            }
        }
        let found = self.store_in_pieces(session, &records, pieces)?;
        self.usual = found.usual;
        self.check_placed(&found)?;
        if found.refusals.is_empty() {
            return self.finish(session, end);
        }
        match end {
            End::Commit => session.held = Some(Held::of(delivery, &found.refusals)),
            End::RollBack => drop(session.run("ROLLBACK").map_err(|error| self.unavailable(&error))?),
        }
        Err(Failure::Refused(found.refusals))
    }

    /// Finds every row that the store refuses, and stores the others in the transaction that has begun.
    pub(super) fn store_in_pieces(
        &mut self,
        session: &mut Session,
        records: &[Record<'_>],
        mut pieces: Pieces<Cause>,
    ) -> Result<Found, Failure> {
        let mut is_checked = false;
        let mut stored = 0;
        session.wait_from_now();
        let copy = session.client.prepare(&self.copy_statement()).map_err(|error| self.unavailable(&error))?;
        session.run("SAVEPOINT piece").map_err(|error| self.unavailable(&error))?;
        while let Some(piece) = pieces.next() {
            let stretches = pieces.stretches(&piece);
            let rows = || stretches.iter().filter_map(|rows| records.get(rows.clone())).flatten().copied();
            let Err(error) = self.copy(session, &copy, rows()) else {
                pieces.accepted(&piece);
                let end = if piece.is_kept {
                    stored += rows().count();
                    // Anew: what is stored is not rolled back with the next piece, and savepoints do not nest.
                    "RELEASE piece; SAVEPOINT piece"
                } else {
                    "ROLLBACK TO piece"
                };
                session.run(end).map_err(|error| self.unavailable(&error))?;
                continue;
            };
            if !refuses(&error) {
                return Err(self.unavailable(&error).into());
            }
            // It is still there afterwards, for the next piece.
            session.run("ROLLBACK TO piece").map_err(|error| self.unavailable(&error))?;
            let cause = self.cause(&error);
            if !is_checked {
                self.check_cause(session, &cause)?;
                is_checked = cause.code == NOT_NULL_VIOLATION;
            }
            pieces.refused(&piece, cause.named, cause);
        }
        // Within the transaction: a pooler may give the next one another connection, on which it is not.
        drop(copy);
        let usual = pieces.usual();
        let mut found = Found { refusals: Vec::new(), unplaced: 0, stored, usual };
        for (row, Cause { code, reason, lacks_partition, .. }) in pieces.into_refused() {
            found.unplaced += u64::from(lacks_partition);
            found.refusals.extend(records.get(row).map(|record| Refusal { position: record.position, code, reason }));
        }
        Ok(found)
    }

    /// Fails where it is not the row that is wrong: the table may have got a column that requires a value and of which the
    /// sink knows nothing.
    fn check_cause(&self, session: &mut Session, cause: &Cause) -> Result<(), Failure> {
        match cause.code == NOT_NULL_VIOLATION {
            true => Ok(self.check_events(session)?),
            false => Ok(()),
        }
    }

    /// Fails where no row of many finds its partition.
    fn check_placed(&mut self, found: &Found) -> Result<(), Failure> {
        if found.stored > 0 {
            self.unplaced_in_a_row = 0;
        } else if found.unplaced > 0 && found.unplaced == found.refusals.len() as u64 {
            self.unplaced_in_a_row += found.unplaced;
            if self.unplaced_in_a_row > limits::REFUSED_IN_A_ROW_MAX {
                // The same ones come again.
                self.unplaced_in_a_row -= found.unplaced;
                let reason = found.refusals.first().map_or("", |refusal| &refusal.reason);
                let advice = "no event finds its partition, so they are kept: create the partition, or a DEFAULT one";
                return Err(self.down(&format!("{reason}: {advice}")).into());
            }
        }
        Ok(())
    }
}

const NOT_NULL_VIOLATION: &str = "23502";
const UNIQUE_VIOLATION: &str = "23505";
