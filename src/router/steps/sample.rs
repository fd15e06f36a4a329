//! `sample`: keeps one in n of the logs and spans.
//!
//! A hash decides, so that every server and every repetition decides alike: an event is kept if
//!
//! ```text
//!  XXH64(value, seed 0) ≤ floor((2⁶⁴ − 1) / n)
//! ```
//!
//! where the value is that of `sample.by`: the 16 bytes of the trace id, the text of source or name, or the value of an attribute
//! (its text or bytes; an integer in decimal, a boolean as `true` or `false`, a double as its 8 bytes, the most
//! significant first). Where an event has none, and with `by = "event"`, it is the 16 bytes of the server id followed by
//! the position in 8 bytes, the most significant first. What is kept with a larger n is also kept with a smaller one.
//!
//! A kept event is written as a made row: its bytes, followed by one more attribute. Only what is kept is copied, which is one
//! event in n; runs that have neither logs nor spans, or are exempt as a whole, are not.

use prost::encoding::{encode_varint, encoded_len_varint};
use xxhash_rust::xxh64::xxh64;

use super::Step;
use super::conditions::{Conditions, Evaluation, attribute, with_decimal};
use crate::batch::{Delivery, Fate, Record};
use crate::event::{AttributeValue, EventKind, UnreadValue};
use crate::metrics::FilterStep;
use crate::settings::steps::{SampleBy, SampleSettings};

/// The attribute of kept events: how many events each of them stands for.
pub const SAMPLE_RATE: &str = "sample_rate";

/// Keeps one in n of the logs and spans.
#[derive(Debug)]
pub struct Sample {
    one_in: u32,
    by: SampleBy,
    always: Conditions,
    server_id: [u8; 16],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    /// Neither a log nor a span.
    NotSampled,
    /// It meets this condition of `always`.
    Exempt(usize),
    Kept,
    LeftOut,
}

impl Sample {
    /// The step. `server_id`: names the log whose positions decide about events that have no value.
    pub fn new(settings: &SampleSettings, server_id: [u8; 16]) -> Self {
        let always = Conditions::new(&settings.always);
        Self { one_in: settings.one_in.max(1), by: settings.by.clone(), always, server_id }
    }

    fn decide(&self, record: &Record<'_>, always: &mut Evaluation<'_>) -> Decision {
        if !matches!(record.event.kind(), EventKind::Log | EventKind::Span) {
            return Decision::NotSampled;
        }
        if let Some(index) = always.first_met(record) {
            return Decision::Exempt(index);
        }
        match self.hash(record) <= u64::MAX / u64::from(self.one_in) {
            true => Decision::Kept,
            false => Decision::LeftOut,
        }
    }

    fn hash(&self, record: &Record<'_>) -> u64 {
        self.hash_of_field(record).unwrap_or_else(|| {
            let mut bytes = [0; 24];
            let (server_id, position) = bytes.split_at_mut(16);
            server_id.copy_from_slice(&self.server_id);
            position.copy_from_slice(&record.position.to_be_bytes());
            hash(&bytes)
        })
    }

    /// `None`: the position decides.
    fn hash_of_field(&self, record: &Record<'_>) -> Option<u64> {
        match &self.by {
            SampleBy::TraceId => record.event.trace_id().map(|id| hash(id)),
            SampleBy::Source => Some(hash(record.source().as_bytes())),
            SampleBy::Name => {
                Some(record.event.name()).filter(|name| !name.is_empty()).map(|name| hash(name.as_bytes()))
            }
            SampleBy::Attribute(key) => attribute(record, key).and_then(|value| hash_of_value(value.read())),
            SampleBy::Event => None,
        }
    }
}

fn hash(bytes: &[u8]) -> u64 {
    xxh64(bytes, 0)
}

fn hash_of_value(value: AttributeValue<'_>) -> Option<u64> {
    match value {
        AttributeValue::String(text) => Some(hash(text.as_bytes())),
        AttributeValue::Bytes(bytes) => Some(hash(bytes)),
        AttributeValue::Int(number) => Some(with_decimal(number, hash)),
        AttributeValue::Bool(flag) => Some(hash(if flag { b"true" } else { b"false" })),
        AttributeValue::Double(number) => Some(hash(&number.to_bits().to_be_bytes())),
        AttributeValue::Null => None,
    }
}

impl Step for Sample {
    fn apply(&self, delivery: Delivery) -> Delivery {
        let mut always = self.always.evaluation();
        delivery.shaped(|record, out| match self.decide(record, &mut always) {
            Decision::NotSampled | Decision::Exempt(_) => Fate::Keep,
            Decision::LeftOut => Fate::Filter(FilterStep::Sample),
            Decision::Kept => {
                out.extend_from_slice(record.event.bytes());
                put_rate(self.rate(record), out);
                Fate::Replace
            }
        })
    }

    fn reason(&self, record: &Record<'_>) -> Option<String> {
        let by = if self.hash_of_field(record).is_none() { ", decided by the position in the log" } else { "" };
        let one_in = self.one_in;
        match self.decide(record, &mut self.always.evaluation()) {
            Decision::NotSampled => None,
            Decision::Exempt(index) => Some(format!("kept: meets condition {} of sample.always", index + 1)),
            Decision::Kept => Some(format!("kept by sample, as 1 in {one_in}{by}")),
            Decision::LeftOut => Some(format!("left out by sample, which keeps 1 in {one_in}{by}")),
        }
    }

    fn decides_by_position(&self, record: &Record<'_>) -> bool {
        let decision = self.decide(record, &mut self.always.evaluation());
        matches!(decision, Decision::Kept | Decision::LeftOut) && self.hash_of_field(record).is_none()
    }
}

impl Sample {
    /// Of an event that was sampled before, by the agent or another server, also how many it stood for.
    pub(super) fn rate(&self, record: &Record<'_>) -> i64 {
        let before = match attribute(record, SAMPLE_RATE).map(UnreadValue::read) {
            Some(AttributeValue::Int(rate)) if rate > 0 => rate,
            _ => 1,
        };
        before.saturating_mul(self.one_in.into())
    }
}

/// Appends the attribute to an encoded event. Where the event has one with this key, the later one counts.
fn put_rate(rate: i64, out: &mut Vec<u8>) {
    // Keys of `Event.attributes`, `Attribute.key` and `Attribute.int_value`.
    const ATTRIBUTES: u8 = 7 << 3 | 2;
    const KEY: u8 = 1 << 3 | 2;
    const INT_VALUE: u8 = 3 << 3;
    let value = rate.cast_unsigned();
    out.push(ATTRIBUTES);
    encode_varint((2 + SAMPLE_RATE.len() + 1 + encoded_len_varint(value)) as u64, out);
    out.push(KEY);
    out.push(SAMPLE_RATE.len() as u8);
    out.extend_from_slice(SAMPLE_RATE.as_bytes());
    out.push(INT_VALUE);
    encode_varint(value, out);
}
