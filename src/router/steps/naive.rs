//! Conditions and sampling by their definition, on owned events: what the steps are compared with.

use crate::event::EventKind;
use crate::event::proto::attribute::Value;
use crate::event::proto::{Attribute, Event};
use crate::settings::steps::{AttributeTest, Condition, SampleBy, SampleSettings, StepSettings};

/// Whether the event meets the condition. `default_source`: stands in for a source that is not set.
pub(super) fn meets(condition: &Condition, event: &Event, default_source: &str) -> bool {
    let kind = match event.kind() {
        EventKind::Unspecified => EventKind::Log,
        kind => kind,
    };
    let source = if event.source.is_empty() { default_source } else { &event.source };
    let severity = condition.severity.is_none_or(|severity| event.severity >= i32::from(severity));
    let globs =
        |globs: &[crate::glob::Glob], text: &str| globs.is_empty() || globs.iter().any(|glob| glob.matches(text));
    (condition.kinds.is_empty() || condition.kinds.contains(&kind))
        && severity
        && globs(&condition.source, source)
        && globs(&condition.name, &event.name)
        && condition.attributes.iter().all(|attribute| {
            last(event, &attribute.key).is_some_and(|value| attribute.any_of.iter().any(|test| holds(test, value)))
        })
}

fn last<'a>(event: &'a Event, key: &str) -> Option<&'a Option<Value>> {
    event.attributes.iter().rev().find(|attribute| attribute.key == key).map(|attribute| &attribute.value)
}

fn holds(test: &AttributeTest, value: &Option<Value>) -> bool {
    match (test, value) {
        (AttributeTest::Present, _) => true,
        (_, None) => false,
        (AttributeTest::Text(glob), Some(Value::StringValue(text))) => glob.matches(text),
        (AttributeTest::Text(glob), Some(Value::IntValue(number))) => glob.matches(&number.to_string()),
        (AttributeTest::Text(glob), Some(Value::BoolValue(flag))) => glob.matches(&flag.to_string()),
        (AttributeTest::Number(wanted), Some(Value::IntValue(number))) => *wanted == *number as f64,
        (AttributeTest::Number(wanted), Some(Value::DoubleValue(number))) => wanted == number,
        (AttributeTest::Integer(wanted), Some(Value::IntValue(number))) => wanted == number,
        (AttributeTest::Integer(wanted), Some(Value::DoubleValue(number))) => *wanted as f64 == *number,
        (AttributeTest::Flag(wanted), Some(Value::BoolValue(flag))) => wanted == flag,
        _ => false,
    }
}

/// What include, exclude and sample leave of `events`, whose first one has position `first`: positions and events.
pub(super) fn shaped(
    settings: &StepSettings,
    server_id: [u8; 16],
    default_source: &str,
    first: u64,
    events: &[Event],
) -> Vec<(u64, Event)> {
    let any = |conditions: &[Condition], event: &Event| {
        conditions.iter().any(|condition| meets(condition, event, default_source))
    };
    (first..)
        .zip(events)
        .filter(|(_, event)| settings.include.is_empty() || any(&settings.include, event))
        .filter(|(_, event)| !any(&settings.exclude, event))
        .filter_map(|(position, event)| {
            let Some(sample) = &settings.sample else { return Some((position, event.clone())) };
            let is_sampled = matches!(event.kind(), EventKind::Unspecified | EventKind::Log | EventKind::Span);
            if !is_sampled || any(&sample.always, event) {
                return Some((position, event.clone()));
            }
            let bytes = hashed(sample, event, default_source)
                .unwrap_or_else(|| [&server_id[..], &position.to_be_bytes()].concat());
            if xxhash_rust::xxh64::xxh64(&bytes, 0) > u64::MAX / u64::from(sample.one_in) {
                return None;
            }
            let before = match last(event, "sample_rate") {
                Some(Some(Value::IntValue(rate))) if *rate > 0 => *rate,
                _ => 1,
            };
            let mut event = event.clone();
            let value = Some(Value::IntValue(before.saturating_mul(sample.one_in.into())));
            event.attributes.push(Attribute { key: "sample_rate".to_owned(), value });
            Some((position, event))
        })
        .collect()
}

fn hashed(sample: &SampleSettings, event: &Event, default_source: &str) -> Option<Vec<u8>> {
    let text = |text: &str| Some(text.as_bytes().to_vec()).filter(|bytes| !bytes.is_empty());
    match &sample.by {
        SampleBy::TraceId => Some(event.trace_id.clone()).filter(|id| id.len() == 16),
        SampleBy::Source if event.source.is_empty() => text(default_source),
        SampleBy::Source => text(&event.source),
        SampleBy::Name => text(&event.name),
        SampleBy::Event => None,
        SampleBy::Attribute(key) => Some(match last(event, key)?.as_ref()? {
            Value::StringValue(text) => text.as_bytes().to_vec(),
            Value::BytesValue(bytes) => bytes.clone(),
            Value::IntValue(number) => number.to_string().into_bytes(),
            Value::BoolValue(flag) => flag.to_string().into_bytes(),
            Value::DoubleValue(number) => number.to_be_bytes().to_vec(),
        }),
    }
}
