//! Which part of the events is kept, and by what they are chosen.

use super::condition::Condition;
use crate::limits::{ATTRIBUTE_KEY_BYTES_MAX, SAMPLE_ONE_IN_MAX};

/// Keeps one in so many logs and spans.
#[derive(Debug, Clone, PartialEq)]
pub struct SampleSettings {
    /// At least 2, at most [`SAMPLE_ONE_IN_MAX`].
    pub one_in: u32,
    /// What decides.
    pub by: SampleBy,
    /// Events that meet one of these are kept in any case.
    pub always: Vec<Condition>,
}

/// What is hashed: events with the same value are kept or left out together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SampleBy {
    /// The trace id.
    TraceId,
    /// The source, or what stands in for it.
    Source,
    /// The name.
    Name,
    /// The attribute with this key.
    Attribute(String),
    /// Each event by itself, by server and position.
    Event,
}

/// `1/n`; `None`: empty.
pub(super) fn read_keep(text: &str) -> Result<Option<u32>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let one_in = text.strip_prefix("1/").filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    let one_in =
        one_in.and_then(|number| number.parse().ok()).filter(|one_in| (1..=SAMPLE_ONE_IN_MAX).contains(one_in));
    match one_in {
        Some(one_in) => Ok(Some(one_in)),
        None => Err(format!("expected 1/n with n from 1 to {SAMPLE_ONE_IN_MAX}, such as \"1/10\"")),
    }
}

pub(super) fn read_by(text: &str) -> Result<SampleBy, String> {
    Ok(match text {
        "" | "trace_id" => SampleBy::TraceId,
        "source" => SampleBy::Source,
        "name" => SampleBy::Name,
        "event" => SampleBy::Event,
        _ => match text.strip_prefix("attributes.") {
            Some(key) if (1..=ATTRIBUTE_KEY_BYTES_MAX).contains(&key.len()) => SampleBy::Attribute(key.to_owned()),
            Some(key) => {
                let bytes = key.len();
                return Err(format!("a key of {bytes} bytes: attributes have keys of 1 to {ATTRIBUTE_KEY_BYTES_MAX}"));
            }
            None => {
                return Err("expected \"trace_id\", \"source\", \"name\", \"attributes.KEY\" or \"event\"".to_owned());
            }
        },
    })
}
