//! `collapse`: identical events of a delivery become one.
//!
//! Two logs, or two spans, are identical if they differ in their time only: kind, severity, source, name, body, attributes,
//! ids and agent are the same, byte by byte as they were sent. Counters and gauges are left as they are: their values add
//! up, and `aggregate` adds them.
//!
//! The row that is left is the last of them with three more attributes: [`REPEATED`], how many there were, and the earliest
//! and latest of their times.

use std::collections::HashMap;

use super::Step;
use crate::batch::{Delivery, Fate, Record};
use crate::event::rewrite::{EventField, EventFields, put_attribute};
use crate::event::{AttributeValue, EventKind, rfc3339};

/// The attribute of a collapsed row: how many events it stands for.
pub const REPEATED: &str = "repeated";
/// The attribute of a collapsed row: the earliest time of its events, as RFC 3339.
pub const FIRST_TIME: &str = "first_time";
/// The attribute of a collapsed row: the latest time of its events, as RFC 3339.
pub const LAST_TIME: &str = "last_time";

/// Leaves one of identical events.
#[derive(Debug)]
pub struct Collapse;

/// What makes an event the same as another one.
#[derive(PartialEq, Eq, Hash)]
struct Identity<'a> {
    /// Its bytes before the time, and after it.
    event: (&'a [u8], &'a [u8]),
    source: &'a str,
    agent: Option<&'a str>,
}

/// Identical events.
struct Group {
    events: u32,
    first_time: u64,
    last_time: u64,
    last_position: u64,
}

/// Stands for the group of an event that is not collapsed.
const NONE: usize = usize::MAX;

fn bytes_without_time(bytes: &[u8]) -> (&[u8], &[u8]) {
    let mut before = 0;
    for (field, what) in EventFields::accepted(bytes) {
        if what == EventField::Time {
            return (bytes.get(..before).unwrap_or_default(), bytes.get(before + field.len()..).unwrap_or_default());
        }
        before += field.len();
    }
    (bytes, &[])
}

/// The groups, and that of each event.
fn groups(delivery: &Delivery) -> (Vec<Group>, Vec<usize>) {
    let mut groups: Vec<Group> = Vec::new();
    let mut known: HashMap<Identity<'_>, usize> = HashMap::new();
    let of_events = delivery.records().map(|record| {
        if !matches!(record.event.kind(), EventKind::Log | EventKind::Span) {
            return NONE;
        }
        let identity = Identity {
            event: bytes_without_time(record.event.bytes()),
            source: record.source(),
            agent: record.origin.agent.as_deref(),
        };
        let index = *known.entry(identity).or_insert(groups.len());
        let (time, position) = (record.time_unix_nano(), record.position);
        match groups.get_mut(index) {
            Some(group) => {
                group.events = group.events.saturating_add(1);
                group.first_time = group.first_time.min(time);
                group.last_time = group.last_time.max(time);
                group.last_position = position;
            }
            None => groups.push(Group { events: 1, first_time: time, last_time: time, last_position: position }),
        }
        index
    });
    let of_events = of_events.collect();
    (groups, of_events)
}

impl Group {
    fn fate(&self, record: &Record<'_>, out: &mut Vec<u8>) -> Fate {
        if self.events == 1 {
            return Fate::Keep;
        }
        if record.position != self.last_position {
            return Fate::Fold;
        }
        out.extend_from_slice(record.event.bytes());
        put_attribute(REPEATED, AttributeValue::Int(self.events.into()), out);
        for (key, time) in [(FIRST_TIME, self.first_time), (LAST_TIME, self.last_time)] {
            let text = rfc3339::format(time);
            put_attribute(key, AttributeValue::String(std::str::from_utf8(&text).unwrap_or_default()), out);
        }
        Fate::Stand(self.events)
    }
}

impl Step for Collapse {
    fn apply(&self, delivery: Delivery) -> Delivery {
        let (groups, of_events) = groups(&delivery);
        if groups.iter().all(|group| group.events == 1) {
            return delivery;
        }
        let mut of_events = of_events.into_iter();
        delivery.shaped(|record, out| match of_events.next().and_then(|index| groups.get(index)) {
            Some(group) => group.fate(record, out),
            None => Fate::Keep,
        })
    }
}
