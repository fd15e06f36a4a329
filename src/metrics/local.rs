//! Counters of one event loop: nothing that loops share is written for a frame or an event. What was counted is added to
//! the metrics of the server once or twice a turn.

use prometheus::local::{LocalHistogram, LocalIntCounter};

use super::{LimitScope, Metrics, Protocol};
use crate::ids::ClientId;

/// What one loop counts by itself until [`LocalMetrics::flush`].
pub struct LocalMetrics {
    events_received: Vec<LocalIntCounter>,
    events_limited: Vec<LocalIntCounter>,
    /// By the ids of the clients.
    client_events: Vec<LocalIntCounter>,
    duplicates_dropped: LocalIntCounter,
    ack_seconds: LocalHistogram,
}

impl LocalMetrics {
    /// Counters at zero that [`LocalMetrics::flush`] adds to `metrics`. `clients`: their names, by their ids.
    pub fn new(metrics: &Metrics, clients: &[String]) -> Self {
        let of_client = |name: &String| metrics.receipt.client_events.with_label_values(&[name]).local();
        Self {
            events_limited: metrics.receipt.events_limited.iter().map(prometheus::IntCounter::local).collect(),
            client_events: clients.iter().map(of_client).collect(),
            events_received: metrics.receipt.events_received.iter().map(prometheus::IntCounter::local).collect(),
            duplicates_dropped: metrics.receipt.duplicates_dropped.local(),
            ack_seconds: metrics.receipt.ack_seconds.local(),
        }
    }

    /// There are further clients: `clients` are the names of all.
    pub fn add_clients(&mut self, metrics: &Metrics, clients: &[String]) {
        let of_client = |name: &String| metrics.receipt.client_events.with_label_values(&[name]).local();
        self.client_events.extend(clients.iter().skip(self.client_events.len()).map(of_client));
    }

    /// `events` were accepted.
    pub fn received(&self, protocol: Protocol, events: u32) {
        self.events_received[protocol as usize].inc_by(u64::from(events));
    }

    /// `events` of a client were accepted.
    pub fn received_of(&self, client: ClientId, events: u64) {
        if let Some(counter) = self.client_events.get(client.index()) {
            counter.inc_by(events);
        }
    }

    /// `events` had to wait for a limit.
    pub fn limited(&self, scope: LimitScope, events: u64) {
        self.events_limited[scope as usize].inc_by(events);
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
        self.events_limited.iter().for_each(LocalIntCounter::flush);
        self.client_events.iter().for_each(LocalIntCounter::flush);
        self.duplicates_dropped.flush();
        self.ack_seconds.flush();
    }
}
