//! The delivery that is being gathered: what the steps left so far.

use std::sync::Arc;

use super::Steps;
use super::aggregate::Window;
use crate::batch::{Batch, Builder, Delivery};
use crate::limits::STEPS_COVERED_EVENTS;
use crate::sink::BatchSettings;

/// A delivery in the making. Pieces are added in order of position, without a gap.
#[derive(Debug, Default)]
pub struct Open {
    builder: Builder,
    /// Counters and gauges, where they are aggregated.
    window: Option<Window>,
    oldest_unix_nano: Option<u64>,
    /// Encoded bytes of all events that were added, before the steps.
    read_bytes: u64,
}

impl Open {
    /// Adds what the steps leave of `piece`. `oldest_unix_nano`: when its first event was received.
    pub fn add(&mut self, steps: &Steps, piece: Delivery, oldest_unix_nano: u64) {
        self.oldest_unix_nano.get_or_insert(oldest_unix_nano);
        let read_bytes = piece.payload_bytes();
        self.read_bytes += read_bytes as u64;
        let piece = steps.apply_to_events(piece);
        let Some(aggregate) = steps.aggregate() else {
            self.builder.append(&piece, read_bytes);
            return;
        };
        let window = self.window.get_or_insert_with(|| Window::new(aggregate.clone()));
        // A window may take hours: it holds neither the buffer pool, nor rows that the steps before it have made.
        self.builder.append_copied(&window.add(piece));
    }

    /// The delivery, after the steps that look at all of it; nothing is open then. `None`: nothing was added.
    pub fn close(&mut self, steps: &Steps) -> Option<Delivery> {
        (self.oldest_unix_nano, self.read_bytes) = (None, 0);
        let mut builder = std::mem::take(&mut self.builder);
        if let Some(window) = self.window.take() {
            window.finish(&mut builder);
        }
        Some(steps.apply_to_all(builder.finish()?))
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

    /// Encoded bytes of all events that were added, before the steps.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes
    }

    fn rows(&self) -> u64 {
        self.builder.rows() + self.window.as_ref().map_or(0, Window::rows)
    }

    fn payload_bytes(&self) -> usize {
        self.builder.payload_bytes() + self.window.as_ref().map_or(0, Window::bytes)
    }

    /// Whether it has about as many rows or bytes as a delivery may have. Not only when it has exactly as many: pieces
    /// would become very small at the end, because most of their events may be left out, or add to rows that are there.
    ///
    /// Without a window it is also full when it covers many events: their agents may wait for their acknowledgement.
    pub fn is_full(&self, settings: BatchSettings) -> bool {
        let (rows, bytes) = (self.rows(), self.payload_bytes() as u64);
        if let Some(window) = &self.window {
            // Less than the smallest piece is left.
            let is_most = |left: u64, max: u64| left < piece_min(max);
            return is_most(settings.max_events.saturating_sub(rows), settings.max_events)
                || is_most(window.room(), window.max())
                || bytes.saturating_mul(16) >= (settings.max_bytes as u64).saturating_mul(15);
        }
        let is_most = |held: u64, max: u64| held.saturating_mul(4) >= max.max(1).saturating_mul(3);
        is_most(rows, settings.max_events)
            || is_most(bytes, settings.max_bytes as u64)
            || self.builder.covered_events() >= settings.max_events.saturating_mul(4).max(STEPS_COVERED_EVENTS)
    }

    /// Rows and bytes that fit, at least 1.
    pub fn room(&self, steps: &Steps, settings: BatchSettings) -> (u64, usize) {
        let series = match (&self.window, steps.aggregate()) {
            (Some(window), _) => window.room(),
            (None, Some(aggregate)) => aggregate.max_series(),
            (None, None) => u64::MAX,
        };
        let events = settings.max_events.saturating_sub(self.rows()).min(series);
        (events.max(1), settings.max_bytes.saturating_sub(self.payload_bytes()).max(1))
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

/// Fewest events of a piece that is aggregated, where a delivery may have `max` rows.
fn piece_min(max: u64) -> u64 {
    (max / 4).clamp(1, 64)
}
