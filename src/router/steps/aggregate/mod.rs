//! `aggregate`: counters and gauges become one row per series and interval of event time.
//!
//! ```text
//!  counter requests 1 ─┐                           ┌ position of the last event, time = start of the interval
//!  counter requests 4 ─┼▶ Window: series ─▶ totals ─▶ value = sum, attributes of the series, count, interval
//!  gauge   load  0.5  ─┘  fed as events are read
//!  log, span ──────────────────────────────────────▶ as they came
//! ```
//!
//! A [`Window`] belongs to the delivery that is open (`Open`), and has no memory of the one before. It is fed as events are
//! read, and keeps totals, not events: its memory is that of the series, at most `max_series` of them and
//! `batch.max_bytes`. A series counts once for each interval in which it has events.
//!
//! **Series.** Kind, the fields and attributes of `by`; of a counter with `temporality = cumulative` also its `start_time`.
//! Such a counter is not summed: its latest value counts. The `start_time` of other counters is that of one measurement, and
//! belongs to no series. Counters and gauges without a value pass as they came.
//!
//! **Sums** are those of [`sum::Sum`].

pub mod sum;
#[cfg(test)]
mod tests;
mod window;

use std::time::Duration;

pub use window::Window;

use crate::batch::{Builder, Delivery, Record};
use crate::event::{AttributeValue, EventKind};
use crate::settings::steps::{AggregateBy, AggregateSettings, GaugeStatistic};

/// Source or name of a row whose series may have several.
pub const SEVERAL: &str = "*";
/// The attribute of a made row: how many events it stands for.
pub const COUNT: &str = "count";
/// The attribute of a made row: the interval, such as `10s`.
pub const INTERVAL: &str = "interval";

/// What the settings ask for.
#[derive(Debug, Clone)]
pub struct Aggregate {
    interval_nano: u64,
    interval: String,
    gauges: Vec<GaugeStatistic>,
    by: AggregateBy,
    max_series: usize,
}

impl Aggregate {
    /// Aggregation with these settings.
    pub fn new(settings: &AggregateSettings) -> Self {
        Self {
            interval_nano: nanoseconds(settings.interval),
            interval: settings.shown_interval(),
            gauges: settings.gauges.clone(),
            by: settings.by.clone(),
            max_series: usize::try_from(settings.max_series).unwrap_or(usize::MAX).max(1),
        }
    }

    /// Whether the event becomes part of a row; otherwise it passes as it came.
    pub fn takes(&self, record: &Record<'_>) -> bool {
        matches!(record.event.kind(), EventKind::Counter | EventKind::Gauge) && record.event.value().is_some()
    }

    /// Series and intervals of one window.
    pub fn max_series(&self) -> u64 {
        self.max_series as u64
    }

    /// The delivery with its counters and gauges aggregated.
    pub fn apply(&self, delivery: Delivery) -> Delivery {
        let mut window = Window::new(self.clone());
        let mut builder = Builder::default();
        builder.append(&window.add(delivery.clone()), delivery.payload_bytes());
        window.finish(&mut builder);
        builder.finish().unwrap_or(delivery)
    }

    /// What is done with the event, for a person.
    pub fn reason(&self, record: &Record<'_>) -> Option<String> {
        self.takes(record).then(|| format!("aggregated per {}", self.interval))
    }

    /// The beginning of the interval that holds a time. Never 0, which would be no time.
    fn start_of(&self, unix_nano: u64) -> u64 {
        (unix_nano - unix_nano % self.interval_nano).max(1)
    }

    /// Whether a series is told from others by this attribute.
    fn is_of_series(&self, key: &str, kind: EventKind, is_cumulative: bool) -> bool {
        let by = &self.by;
        let by_key = by.attributes.iter().any(|wanted| wanted == key);
        match key {
            "start_time" if kind == EventKind::Counter => is_cumulative || by_key,
            "temporality" if is_cumulative => true,
            _ => by.all_attributes || by_key,
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1)
}

fn is_cumulative(kind: EventKind, key: &str, value: AttributeValue<'_>) -> bool {
    kind == EventKind::Counter && key == "temporality" && value == AttributeValue::String("cumulative")
}
