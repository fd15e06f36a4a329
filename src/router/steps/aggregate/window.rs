//! The totals of the delivery that is open.

use std::collections::HashMap;
use std::sync::Arc;

use super::sum::Sum;
use super::{Aggregate, COUNT, INTERVAL, SEVERAL, is_cumulative};
use crate::batch::{Builder, Delivery, Fate, MadeRow, Origin, Record};
use crate::event::rewrite::{put_attribute, put_kind, put_name, put_source, put_time, put_value};
use crate::event::{AttributeValue, EventKind};
use crate::settings::steps::GaugeStatistic;

/// Attributes that are sorted without an allocation.
const FEW: usize = 16;
/// What a series costs beyond its key: the totals, and its place in the map.
const SERIES_BYTES: usize = size_of::<Total>() + 32;

/// Counters and gauges of one delivery, as totals.
#[derive(Debug)]
pub struct Window {
    aggregate: Aggregate,
    /// By series and interval: see `write_key`.
    totals: HashMap<Box<[u8]>, Total>,
    /// Of all totals and their keys.
    bytes: usize,
    /// Of the event in hand.
    key: Vec<u8>,
}

#[derive(Debug)]
struct Total {
    kind: EventKind,
    is_cumulative: bool,
    /// Of the interval.
    start: u64,
    /// Where the attributes begin in the key; before them are source and name.
    name_at: usize,
    attributes_at: usize,
    /// Of the last event.
    position: u64,
    received_unix_nano: u64,
    origin: Arc<Origin>,
    events: u64,
    sum: Sum,
    min: f64,
    max: f64,
    /// The latest by time, of several with one time by position.
    last: f64,
    last_time: u64,
}

impl Window {
    /// Without events.
    pub fn new(aggregate: Aggregate) -> Self {
        Self { aggregate, totals: HashMap::new(), bytes: 0, key: Vec::new() }
    }

    /// Rows that it will make.
    pub fn rows(&self) -> u64 {
        self.totals.len() as u64
    }

    /// Bytes that it holds, which is about what its rows will have.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Series and intervals that may still be added.
    pub fn room(&self) -> u64 {
        self.aggregate.max_series().saturating_sub(self.rows())
    }

    /// Most series and intervals.
    pub fn max(&self) -> u64 {
        self.aggregate.max_series()
    }

    /// Adds the counters and gauges of the delivery; returns what is left of it.
    pub fn add(&mut self, delivery: Delivery) -> Delivery {
        let (mut added, mut passed) = (false, false);
        for pick in delivery.picks() {
            for record in pick.records() {
                match self.aggregate.takes(&record) {
                    true => {
                        self.add_event(&record, &pick.run().origin);
                        added = true;
                    }
                    false => passed = true,
                }
            }
        }
        match (added, passed) {
            (false, _) => delivery,
            (true, false) => delivery.folded(),
            (true, true) => {
                delivery.shaped(|record, _| if self.aggregate.takes(record) { Fate::Fold } else { Fate::Keep })
            }
        }
    }

    fn add_event(&mut self, record: &Record<'_>, origin: &Arc<Origin>) {
        let Some(value) = record.event.value() else { return };
        let (kind, time) = (record.event.kind(), record.time_unix_nano());
        let start = self.aggregate.start_of(time);
        let parts = write_key(&self.aggregate, record, start, &mut self.key);
        if let Some(total) = self.totals.get_mut(self.key.as_slice()) {
            total.add(value, time, record, origin);
            return;
        }
        let mut total = Total {
            kind,
            is_cumulative: parts.is_cumulative,
            start,
            name_at: parts.name_at,
            attributes_at: parts.attributes_at,
            position: record.position,
            received_unix_nano: record.received_unix_nano,
            origin: origin.clone(),
            events: 0,
            sum: Sum::default(),
            min: value,
            max: value,
            last: value,
            last_time: 0,
        };
        total.add(value, time, record, origin);
        self.bytes += self.key.len() + SERIES_BYTES;
        self.totals.insert(self.key.as_slice().into(), total);
    }

    /// Adds the rows to `builder`.
    pub fn finish(self, builder: &mut Builder) {
        if self.totals.is_empty() {
            return;
        }
        let mut totals: Vec<_> = self.totals.into_iter().collect();
        totals.sort_unstable_by_key(|(_, total)| total.position);
        let mut event = Vec::new();
        for (key, total) in &totals {
            event.clear();
            total.write(&self.aggregate, key, &mut event);
            builder.row(&MadeRow {
                position: total.position,
                received_unix_nano: total.received_unix_nano,
                origin: &total.origin,
                originals: u32::try_from(total.events).unwrap_or(u32::MAX),
                event: &event,
            });
        }
        builder.whole();
    }
}

/// Where the parts of a key are.
struct KeyParts {
    name_at: usize,
    attributes_at: usize,
    is_cumulative: bool,
}

/// Writes interval, kind, source, name and attributes, these encoded as in an event and sorted.
fn write_key(aggregate: &Aggregate, record: &Record<'_>, start: u64, key: &mut Vec<u8>) -> KeyParts {
    let kind = record.event.kind();
    key.clear();
    key.extend_from_slice(&start.to_le_bytes());
    key.push(kind as u8);
    // Names are shorter than 2³² bytes.
    let put_text = |text: &str, key: &mut Vec<u8>| {
        key.extend_from_slice(&(text.len() as u32).to_le_bytes());
        key.extend_from_slice(text.as_bytes());
    };
    put_text(if aggregate.by.source { record.source() } else { SEVERAL }, key);
    let name_at = key.len();
    let name = if aggregate.by.name { record.event.name() } else { SEVERAL };
    put_text(if name.is_empty() { SEVERAL } else { name }, key);
    let attributes_at = key.len();
    let is_cumulative = write_attributes(aggregate, record, kind, key);
    KeyParts { name_at, attributes_at, is_cumulative }
}

/// Writes the attributes of the series; returns whether the counter is cumulative.
fn write_attributes(aggregate: &Aggregate, record: &Record<'_>, kind: EventKind, key: &mut Vec<u8>) -> bool {
    let attributes = || record.event.attributes();
    let mut few = [("", AttributeValue::Null); FEW];
    let mut many;
    let count = attributes().count();
    let gathered: &mut [(&str, AttributeValue<'_>)] = if count <= FEW {
        few.iter_mut().zip(attributes()).for_each(|(place, attribute)| *place = attribute);
        few.get_mut(..count).unwrap_or_default()
    } else {
        many = attributes().collect::<Vec<_>>();
        &mut many
    };
    // Stable: of several with one key the last one counts.
    gathered.sort_by_key(|(key, _)| *key);
    let gathered: &[_] = gathered;
    let counts = |index: usize| {
        let next = gathered.get(index + 1);
        gathered.get(index).filter(|(key, _)| next.is_none_or(|(next, _)| next != key))
    };
    let is_cumulative = (0..count).filter_map(counts).any(|(attribute, value)| is_cumulative(kind, attribute, *value));
    for (attribute, value) in (0..count).filter_map(counts) {
        if aggregate.is_of_series(attribute, kind, is_cumulative) {
            put_attribute(attribute, *value, key);
        }
    }
    is_cumulative
}

impl Total {
    fn add(&mut self, value: f64, time: u64, record: &Record<'_>, origin: &Arc<Origin>) {
        self.events += 1;
        self.sum.add(value);
        // NaN is below and above nothing: it counts only where there is no other value.
        if value < self.min || self.min.is_nan() {
            self.min = value;
        }
        if value > self.max || self.max.is_nan() {
            self.max = value;
        }
        if time >= self.last_time {
            (self.last, self.last_time) = (value, time);
        }
        self.position = record.position;
        self.received_unix_nano = record.received_unix_nano;
        if !Arc::ptr_eq(&self.origin, origin) {
            self.origin = origin.clone();
        }
    }

    fn statistic(&self, statistic: GaugeStatistic) -> f64 {
        match statistic {
            GaugeStatistic::Last => self.last,
            GaugeStatistic::Min => self.min,
            GaugeStatistic::Max => self.max,
            GaugeStatistic::Avg => self.sum.value() / self.events as f64,
            GaugeStatistic::Count => self.events as f64,
        }
    }

    fn value(&self, gauges: &[GaugeStatistic]) -> f64 {
        match (self.kind, gauges.first()) {
            (EventKind::Gauge, Some(first)) => self.statistic(*first),
            (EventKind::Gauge, None) => self.last,
            _ if self.is_cumulative => self.last,
            _ => self.sum.value(),
        }
    }

    /// Appends the row.
    fn write(&self, aggregate: &Aggregate, key: &[u8], out: &mut Vec<u8>) {
        put_time(self.start, out);
        put_kind(self.kind, out);
        put_source(text_at(key, SOURCE_AT, self.name_at), out);
        put_name(text_at(key, self.name_at, self.attributes_at), out);
        out.extend_from_slice(key.get(self.attributes_at..).unwrap_or_default());
        put_value(self.value(&aggregate.gauges), out);
        if self.kind == EventKind::Gauge {
            for statistic in aggregate.gauges.iter().skip(1).filter(|other| **other != GaugeStatistic::Count) {
                put_attribute(statistic.name(), AttributeValue::Double(self.statistic(*statistic)), out);
            }
        }
        put_attribute(COUNT, AttributeValue::Int(self.events.cast_signed()), out);
        put_attribute(INTERVAL, AttributeValue::String(&aggregate.interval), out);
    }
}

/// Where the source begins in a key: after interval and kind.
const SOURCE_AT: usize = 9;

/// The text that was written from `at` to `end`, after its length.
fn text_at(key: &[u8], at: usize, end: usize) -> &str {
    key.get(at + 4..end).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default()
}
