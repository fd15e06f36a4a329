//! What `/status.json` shows of the metrics.

use std::collections::{BTreeMap, HashMap};

use prometheus::core::Collector;
use prometheus::{Histogram, IntCounter};

use super::{LimitScope, Metrics, Protocol, RejectReason};
use crate::status::{Acknowledgements, Bucket, Sink, Status, Use};

impl Metrics {
    /// Fills in what is counted for the server as a whole. Sinks are filled in by [`Metrics::fill_sinks`].
    pub fn fill_status(&self, status: &mut Status) {
        let receipt = &self.receipt;
        status.received = by_name(&Protocol::NAMES, &receipt.events_received);
        status.rejected = by_name(&RejectReason::NAMES, &receipt.events_rejected);
        status.limited = by_name(&LimitScope::NAMES, &receipt.events_limited);
        status.duplicates_dropped = receipt.duplicates_dropped.get();
        status.frames_missing = self.frames_missing.get();
        status.ack = acknowledgements(&receipt.ack_seconds);
        status.connections.used = self.connections.get().unsigned_abs();
        let bytes =
            Use { used: self.wal_bytes.get().unsigned_abs(), capacity: self.wal_bytes_max.get().unsigned_abs() };
        status.log = (bytes.capacity > 0).then(|| crate::status::Log {
            bytes,
            needed_bytes: self.wal_bytes_needed.get().unsigned_abs(),
            syncs: self.wal_sync_seconds.get_sample_count(),
            sync_seconds: self.wal_sync_seconds.get_sample_sum(),
        });
    }

    /// Fills in what is counted for the sinks of `status`, by their names, and for all sinks together.
    pub fn fill_sinks(&self, status: &mut Status) {
        let [filtered, dropped] = [sums_by_sink(&self.sinks.filtered), sums_by_sink(&self.sinks.dropped)];
        status.stored = sums_by_sink(&self.sinks.delivered).values().sum();
        for sink in &mut status.sinks {
            self.fill_sink(sink);
            let sum = |sums: &HashMap<String, u64>| sums.get(&sink.name).copied().unwrap_or(0);
            (sink.filtered, sink.dropped) = (sum(&filtered), sum(&dropped));
        }
    }

    fn fill_sink(&self, sink: &mut Sink) {
        let name = &[sink.name.as_str()];
        sink.lag_events = self.sinks.lag.with_label_values(name).get().unsigned_abs();
        sink.delivered = self.sinks.delivered.with_label_values(name).get();
        sink.rows = self.sinks.rows.with_label_values(name).get();
        sink.dead = self.sinks.dead.with_label_values(name).get();
        sink.retries = self.sinks.retries.with_label_values(name).get();
        let deliveries = self.sinks.delivery_seconds.with_label_values(name);
        (sink.deliveries, sink.delivery_seconds) = (deliveries.get_sample_count(), deliveries.get_sample_sum());
    }
}

fn by_name(names: &[&str], counters: &[IntCounter]) -> BTreeMap<String, u64> {
    names.iter().zip(counters).map(|(name, counter)| ((*name).to_owned(), counter.get())).collect()
}

/// The counters of each sink, over their other label. One pass for all sinks: this runs in an event loop.
fn sums_by_sink(counters: &impl Collector) -> HashMap<String, u64> {
    let families = counters.collect();
    let mut sums = HashMap::new();
    for metric in families.iter().flat_map(|family| family.get_metric()) {
        let sink = metric.get_label().iter().find(|label| label.name() == "sink");
        let sum = sums.entry(sink.map_or_else(String::new, |label| label.value().to_owned())).or_default();
        *sum += metric.get_counter().get_value() as u64;
    }
    sums
}

fn acknowledgements(histogram: &Histogram) -> Acknowledgements {
    let families = histogram.collect();
    let Some(metric) = families.first().and_then(|family| family.get_metric().first()) else {
        return Acknowledgements::default();
    };
    let histogram = metric.get_histogram();
    let bucket = |bucket: &prometheus::proto::Bucket| Bucket {
        up_to_seconds: bucket.upper_bound(),
        count: bucket.cumulative_count(),
    };
    let buckets = histogram.get_bucket().iter().map(bucket).filter(|bucket| bucket.up_to_seconds.is_finite());
    Acknowledgements::new(histogram.get_sample_count(), histogram.get_sample_sum(), buckets.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::LocalMetrics;

    #[test]
    fn numbers_are_those_of_the_metrics() {
        let metrics = Metrics::new().unwrap();
        let counts = LocalMetrics::new(&metrics, &[]);
        counts.received(Protocol::Http, 7);
        counts.acknowledged(0.002);
        counts.flush();
        metrics.events_rejected(RejectReason::Invalid).inc_by(3);
        let pg = metrics.sink("pg");
        pg.events_delivered.inc_by(11);
        pg.events_filtered.iter().for_each(|step| step.inc_by(2));
        metrics.sink("other").events_filtered[0].inc_by(100);
        metrics.events_dropped("pg", "dead_letters_full").inc_by(5);
        let mut status = Status::default();
        metrics.fill_status(&mut status);
        assert_eq!((status.received_total(), status.received["http"]), (7, 7));
        assert_eq!((status.rejected_total(), status.rejected["invalid"]), (3, 3));
        assert_eq!((status.ack.count, status.ack.buckets.len()), (1, super::super::SECONDS.len()));
        assert!((0.001..=0.0025).contains(&status.ack.p99_seconds.unwrap()), "{:?}", status.ack);
        assert_eq!(status.log, None, "there is none");
        metrics.wal_bytes_max.set(10);
        metrics.wal_bytes_needed.set(3);
        metrics.fill_status(&mut status);
        assert_eq!(status.log.as_ref().map(|log| (log.bytes.capacity, log.needed_bytes)), Some((10, 3)));
        metrics.sink("other").events_delivered.inc_by(4);
        status.sinks = vec![Sink { name: "pg".to_owned(), ..Sink::default() }];
        metrics.fill_sinks(&mut status);
        let sink = &status.sinks[0];
        assert_eq!((sink.delivered, sink.filtered, sink.dropped), (11, 6, 5));
        assert_eq!(status.stored, 15, "with those of sinks that are not listed");
    }
}
