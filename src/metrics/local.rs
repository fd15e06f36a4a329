//! Counters of one event loop: nothing that loops share is written for a frame or an event. What was counted is added to
//! the metrics of the server once or twice a turn.

use prometheus::local::{LocalHistogram, LocalIntCounter};

use super::{Metrics, Protocol};

/// What one loop counts by itself until [`LocalMetrics::flush`].
pub struct LocalMetrics {
    events_received: Vec<LocalIntCounter>,
    duplicates_dropped: LocalIntCounter,
    ack_seconds: LocalHistogram,
}

impl LocalMetrics {
    /// Counters at zero that [`LocalMetrics::flush`] adds to `metrics`.
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            events_received: metrics.receipt.events_received.iter().map(prometheus::IntCounter::local).collect(),
            duplicates_dropped: metrics.receipt.duplicates_dropped.local(),
            ack_seconds: metrics.receipt.ack_seconds.local(),
        }
    }

    /// `events` were accepted.
    pub fn received(&self, protocol: Protocol, events: u32) {
        self.events_received[protocol as usize].inc_by(u64::from(events));
    }

    /// A frame was sent again, and dropped.
    pub fn duplicate_dropped(&self) {
        self.duplicates_dropped.inc();
    }

    /// A frame or request was acknowledged so many seconds after its last byte.
    pub fn acknowledged(&self, seconds: f64) {
        self.ack_seconds.observe(seconds);
    }

    /// Adds what was counted to the metrics of the server.
    pub fn flush(&self) {
        self.events_received.iter().for_each(LocalIntCounter::flush);
        self.duplicates_dropped.flush();
        self.ack_seconds.flush();
    }
}
