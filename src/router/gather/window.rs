//! Deliveries with steps, and windows.
//!
//! A batch goes through the steps as soon as it is taken, and what is left is added to the delivery that is open:
//!
//! ```text
//!  ┌─ Batch ──┐
//!  │ 7 … 99   │ ─▶ steps ─▶ [ open delivery: rows, covers 1 … 99 ]     ≤ max_events and max_bytes of rows
//!  └──────────┘
//! ```
//!
//! `max_events` and `max_bytes` then count rows, so that a sink of which most is filtered does not get a transaction for
//! each few of them, and none for each batch of which nothing is left: these move the position with the next rows, or
//! after `max_age`, or when they are many (`STEPS_COVERED_EVENTS`). With `aggregate` a delivery is a window: it is gathered for `max_age` from its first event on, also by a
//! router that was idle.
//!
//! A window also ends before its time: when it is full of rows or series, has read a quarter of what the log may hold (which the
//! log would wait for), where a gap in the positions follows, and after a failed delivery once it has all events of that one again.
//!
//! **Shards.** Of a store with several positions, a shard may have events that others lack. They are left out before the steps:
//! a row that stands for several events must stand for none that the shard has.

use std::sync::Arc;
use std::time::Duration;

use super::{Due, Gather};
use crate::batch::{Delivery, Fate};
use crate::limits::STEPS_PIECE_BYTES;
use crate::router::steps::Steps;

impl Gather {
    /// Other steps from the next delivery on, and another `batch.max_age`. An open delivery ends at once, with the steps that it was
    /// gathered with: what has to be delivered again, too, once it is delivered.
    pub fn change_steps(&mut self, steps: Arc<Steps>, max_age: Duration) {
        self.next_steps = Some((steps, max_age));
    }

    /// Takes the other steps where nothing has gone through the present ones that is not stored.
    fn take_next_steps(&mut self) {
        if self.open.is_empty()
            && self.lent.is_none()
            && self.owed.is_none()
            && let Some((steps, max_age)) = self.next_steps.take()
        {
            self.steps = steps;
            self.settings.max_age = max_age;
        }
    }

    /// Lets what is held go through the steps, as far as there is room.
    pub(super) fn pass_steps(&mut self) {
        self.take_next_steps();
        while !self.steps.is_empty() && !self.is_open_full() {
            let Some(batch) = self.held.front() else { return };
            let first = batch.first_position().max(self.next);
            // Positions do not jump within a delivery.
            if self.open.end_position().is_some_and(|end| end != first) {
                return;
            }
            let oldest = batch.runs().first().map_or(0, |run| run.received_unix_nano);
            let (events, bytes) = self.open.room(&self.steps, self.settings);
            let piece = self.delivery(first, events, bytes, STEPS_PIECE_BYTES);
            self.place = piece.end_place(self.place.filter(|place| place.position == first));
            let piece = self.without_stored(piece);
            let next = piece.last_position() + 1;
            self.read_events += next - first;
            self.open.add(&self.steps, piece, oldest);
            self.passed(next);
        }
    }

    pub(super) fn is_open_full(&self) -> bool {
        let is_window = self.steps.aggregate().is_some();
        self.open.is_full(self.settings) || is_window && self.open.read_bytes() >= self.window_bytes_max
    }

    /// Most encoded bytes of events that a window may read before it is delivered. No limit by default.
    pub fn limit_window(&mut self, bytes: u64) {
        self.window_bytes_max = bytes;
    }

    /// Leaves out what shards of the store have already.
    fn without_stored(&self, piece: Delivery) -> Delivery {
        match &self.shards {
            Some(shards) if piece.first_position() <= shards.highest() => {
                piece.shaped(|record, _| match shards.have(record.source(), record.position) {
                    true => Fate::There,
                    false => Fate::Keep,
                })
            }
            _ => piece,
        }
    }

    /// Whether what is gathered depends on what each shard of the store has.
    pub fn is_by_shards(&self) -> bool {
        self.shards.is_some() && !self.steps.is_empty()
    }

    /// The open delivery ends before its time, because other steps wait; but not before it has all that was due.
    pub(super) fn ends_early(&self) -> bool {
        self.next_steps.is_some() && self.owed.is_none()
    }

    pub(super) fn close_delivery(&mut self) -> Due {
        let oldest = self.open.oldest_unix_nano().unwrap_or_default();
        self.opened = None;
        let Some(delivery) = self.open.close(&self.steps) else { return Due::Nothing };
        self.lent = Some((delivery.last_position(), oldest));
        Due::Now(delivery)
    }
}
