//! The delivery that is being gathered: what the steps left so far.

use std::sync::Arc;

use super::Steps;
use crate::batch::{Batch, Builder, Delivery};
use crate::sink::BatchSettings;

/// A delivery in the making. Pieces are added in order of position, without a gap.
#[derive(Debug, Default)]
pub struct Open {
    builder: Builder,
    oldest_unix_nano: Option<u64>,
}

impl Open {
    /// Adds what the steps leave of `piece`. `oldest_unix_nano`: when its first event was received.
    pub fn add(&mut self, steps: &Steps, piece: Delivery, oldest_unix_nano: u64) {
        self.oldest_unix_nano.get_or_insert(oldest_unix_nano);
        self.builder.append(&steps.apply_to_events(piece));
    }

    /// The delivery, after the steps that look at all of it; nothing is open then. `None`: nothing was added.
    pub fn close(&mut self, steps: &Steps) -> Option<Delivery> {
        self.oldest_unix_nano = None;
        Some(steps.apply_to_all(std::mem::take(&mut self.builder).finish()?))
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.builder.end_position().is_none()
    }

    /// The position that comes next; `None`: nothing was added.
    pub fn end_position(&self) -> Option<u64> {
        self.builder.end_position()
    }

    /// When the oldest event, delivered or left out, was received.
    pub fn oldest_unix_nano(&self) -> Option<u64> {
        self.oldest_unix_nano
    }

    /// Whether it has about as many rows or bytes as a delivery may have. Not only when it has exactly as many: pieces
    /// would become very small at the end, because most of their events may be left out.
    pub fn is_full(&self, settings: BatchSettings) -> bool {
        let is_most = |held: u64, max: u64| held.saturating_mul(4) >= max.max(1).saturating_mul(3);
        is_most(self.builder.rows(), settings.max_events)
            || is_most(self.builder.payload_bytes() as u64, settings.max_bytes as u64)
    }

    /// Rows and bytes that fit, at least 1.
    pub fn room(&self, settings: BatchSettings) -> (u64, usize) {
        let events = settings.max_events.saturating_sub(self.builder.rows());
        (events.max(1), settings.max_bytes.saturating_sub(self.builder.payload_bytes()).max(1))
    }

    /// Bytes of the buffer pool that are held.
    pub fn pinned_bytes(&self) -> usize {
        self.builder.pinned_bytes()
    }

    /// As [`Delivery::exchange`].
    pub fn exchange(&mut self, exchange: impl FnMut(&Arc<Batch>) -> Option<Arc<Batch>>) {
        self.builder.exchange(exchange);
    }
}
