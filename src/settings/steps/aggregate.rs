//! What counters and gauges are aggregated by, and to what.

use std::time::Duration;

use toml::Value as Toml;

use super::condition::list;
use super::inline::{name_of, read};
use crate::limits::{
    AGGREGATE_INTERVAL_MAX, AGGREGATE_INTERVAL_MIN, AGGREGATE_SERIES_DEFAULT, AGGREGATE_SERIES_MAX,
    ATTRIBUTE_KEY_BYTES_MAX,
};
use crate::settings::{format_duration, parse_duration};

/// Counters and gauges become one row per series and interval.
#[derive(Debug, Clone, PartialEq)]
pub struct AggregateSettings {
    /// Of event time; also how long a delivery is gathered.
    pub interval: Duration,
    /// Of gauges; the first one is the value of the row. Never empty.
    pub gauges: Vec<GaugeStatistic>,
    /// What tells series apart.
    pub by: AggregateBy,
    /// Series of one delivery, each counted once per interval.
    pub max_series: u64,
}

impl AggregateSettings {
    /// The interval as it is written in settings.
    pub fn shown_interval(&self) -> String {
        format_duration(self.interval)
    }
}

/// What a gauge is aggregated to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GaugeStatistic {
    /// The latest value.
    Last,
    /// The lowest value.
    Min,
    /// The highest value.
    Max,
    /// The mean of the values.
    Avg,
    /// How many values there were.
    Count,
}

impl GaugeStatistic {
    const ALL: [Self; 5] = [Self::Last, Self::Min, Self::Max, Self::Avg, Self::Count];

    /// As in the settings, and as attribute of a row.
    pub fn name(self) -> &'static str {
        match self {
            Self::Last => "last",
            Self::Min => "min",
            Self::Max => "max",
            Self::Avg => "avg",
            Self::Count => "count",
        }
    }
}

/// What tells series apart, beside the kind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AggregateBy {
    /// The source, or what stands in for it.
    pub source: bool,
    /// The name.
    pub name: bool,
    /// All attributes.
    pub all_attributes: bool,
    /// The attributes with these keys.
    pub attributes: Vec<String>,
}

/// An empty text is no interval.
pub(super) fn read_interval(text: &str) -> Result<Option<Duration>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let interval = parse_duration(text).filter(|time| (AGGREGATE_INTERVAL_MIN..=AGGREGATE_INTERVAL_MAX).contains(time));
    interval.map(Some).ok_or_else(|| {
        let (min, max) = (format_duration(AGGREGATE_INTERVAL_MIN), format_duration(AGGREGATE_INTERVAL_MAX));
        format!("expected a time from {min} to {max}, such as \"10s\"")
    })
}

pub(super) fn read_gauges(text: &str) -> Result<Vec<GaugeStatistic>, String> {
    if text.trim().is_empty() {
        return Ok(vec![GaugeStatistic::Last]);
    }
    let gauges = list(&read(text)?, |value| {
        GaugeStatistic::ALL
            .into_iter()
            .find(|known| value.as_str() == Some(known.name()))
            .ok_or_else(|| format!("expected \"last\", \"min\", \"max\", \"avg\" or \"count\", not {}", name_of(value)))
    })?;
    match gauges.iter().enumerate().find(|(index, one)| gauges.iter().take(*index).any(|other| other == *one)) {
        Some((_, twice)) => Err(format!("\"{}\" is given twice", twice.name())),
        None => Ok(gauges),
    }
}

pub(super) fn read_by(text: &str) -> Result<AggregateBy, String> {
    if text.trim().is_empty() {
        return Ok(AggregateBy { source: true, name: true, all_attributes: true, attributes: Vec::new() });
    }
    let mut by = AggregateBy::default();
    let expected = "expected \"source\", \"name\", \"attributes\" or \"attributes.KEY\"";
    let names = list(&read(text)?, |value| match value {
        Toml::String(name) => Ok(name.clone()),
        other => Err(format!("{expected}, not {}", name_of(other))),
    })?;
    for name in names {
        match name.as_str() {
            "source" => by.source = true,
            "name" => by.name = true,
            "attributes" => by.all_attributes = true,
            _ => match name.strip_prefix("attributes.") {
                Some(key) if (1..=ATTRIBUTE_KEY_BYTES_MAX).contains(&key.len()) => by.attributes.push(key.to_owned()),
                Some(key) => {
                    let bytes = key.len();
                    return Err(format!(
                        "a key of {bytes} bytes: attributes have keys of 1 to {ATTRIBUTE_KEY_BYTES_MAX}"
                    ));
                }
                None => return Err(format!("{expected}, not {:?}", crate::escape::Escaped(&name).to_string())),
            },
        }
    }
    match by.all_attributes && !by.attributes.is_empty() {
        true => Err("\"attributes\" are all attributes: leave out those with a key".to_owned()),
        false => Ok(by),
    }
}

pub(super) fn read_max_series(text: &str) -> Result<u64, String> {
    if text.trim().is_empty() {
        return Ok(AGGREGATE_SERIES_DEFAULT);
    }
    let max = text.trim().parse().ok().filter(|max| (1..=AGGREGATE_SERIES_MAX).contains(max));
    max.ok_or_else(|| format!("expected a whole number from 1 to {AGGREGATE_SERIES_MAX}"))
}
