//! Bodies of the fuzz targets, as ordinary functions: tests call them too. Each panics where the mapping in place and a plain
//! twin over the types of prost disagree.

mod expected;
mod generate;
mod to_json;

use prost::Message as _;

use super::reference::collector::logs::v1::ExportLogsServiceRequest;
use super::reference::collector::metrics::v1::ExportMetricsServiceRequest;
use super::reference::collector::trace::v1::ExportTraceServiceRequest;
use super::request::Messages;
use super::schema::{Kind, Message};
use super::writer::TRUNCATED;
use super::{Decoded, EVENT_FIELD_BYTES_MAX, OtlpDecoder, OtlpError, Output, Signal};
use crate::event::view::AttributeValue;
use crate::event::{EventRef, Events, check_batch};
use expected::{Expected, Record};
pub use generate::request;

/// Every field of the tables: message, number, name, type as the official files have it, and whether it is repeated.
pub fn fields() -> Vec<(&'static str, u32, &'static str, String, bool)> {
    fn add(message: &'static Message, into: &mut Vec<(&'static str, u32, &'static str, String, bool)>) {
        if into.iter().any(|(name, ..)| *name == message.name) {
            return;
        }
        for field in message.fields {
            let kind = match field.kind {
                Kind::Message(nested) => nested.name.to_owned(),
                Kind::Text => "string".to_owned(),
                Kind::Id => "bytes".to_owned(),
                kind => format!("{kind:?}").to_lowercase(),
            };
            into.push((message.name, field.number, field.name, kind, field.repeated));
        }
        for field in message.fields {
            if let Kind::Message(nested) = field.kind {
                add(nested, into);
            }
        }
    }
    let mut fields = Vec::new();
    Signal::ALL.into_iter().for_each(|signal| add(Messages::of(signal).request, &mut fields));
    fields
}

/// Keeps everything in memory.
#[derive(Debug, Default)]
pub struct Memory {
    /// The events: an `EventBatch`.
    pub batch: Vec<u8>,
    /// The rejected records: a request.
    pub rejected: Vec<u8>,
    room: Vec<u8>,
}

impl Output for Memory {
    type Error = ();

    fn room(&mut self) -> Result<&mut [u8], ()> {
        self.room.resize(EVENT_FIELD_BYTES_MAX, 0);
        Ok(&mut self.room)
    }

    fn wrote(&mut self, bytes: usize) {
        self.batch.extend_from_slice(&self.room[..bytes]);
    }

    fn reject(&mut self, pieces: &[&[u8]]) -> Result<(), ()> {
        pieces.iter().for_each(|piece| self.rejected.extend_from_slice(piece));
        Ok(())
    }
}

/// What becomes of a request in protobuf.
pub fn protobuf(signal: Signal, body: &[u8]) -> Result<(Decoded, Memory), OtlpError<()>> {
    let mut memory = Memory::default();
    let decoded = OtlpDecoder::new().protobuf(signal, body, &mut memory)?;
    check_output(&decoded, &memory);
    Ok((decoded, memory))
}

/// What becomes of a request in JSON.
pub fn json(signal: Signal, body: &[u8]) -> Result<(Decoded, Memory), OtlpError<()>> {
    let mut memory = Memory::default();
    let decoded = OtlpDecoder::new().json(signal, body, &mut memory)?;
    check_output(&decoded, &memory);
    Ok((decoded, memory))
}

/// Every event is valid, and counted.
fn check_output(decoded: &Decoded, memory: &Memory) {
    let counts = check_batch(&memory.batch, usize::MAX, |_, _, event| assert!(event.is_ok(), "{event:?}"));
    assert_eq!(counts.map(|counts| (counts.accepted, counts.rejected)), Ok((decoded.events, 0)));
    assert_eq!(memory.rejected.is_empty(), decoded.rejected.total == 0);
}

/// Reads `bytes` as a request of each signal, in place and with prost: both accept or both refuse, and the events are those
/// of a plain mapping. The same request in JSON gives the same events, and what was rejected is rejected again.
///
/// # Panics
/// If that does not hold.
pub fn compare_with_prost(bytes: &[u8]) {
    for signal in Signal::ALL {
        let expected = match signal {
            Signal::Logs => ExportLogsServiceRequest::decode(bytes)
                .map(|request| (request.encode_to_vec(), expected::logs(&request))),
            Signal::Metrics => ExportMetricsServiceRequest::decode(bytes)
                .map(|request| (request.encode_to_vec(), expected::metrics(&request))),
            Signal::Traces => ExportTraceServiceRequest::decode(bytes)
                .map(|request| (request.encode_to_vec(), expected::traces(&request))),
        };
        match (protobuf(signal, bytes), expected) {
            (Ok((decoded, memory)), Ok((canonical, records))) => {
                compare_events(&decoded, &memory, &records);
                compare_json(signal, &canonical, &decoded, &memory);
                compare_rejected(signal, &decoded, &memory);
            }
            (Err(OtlpError::Malformed { .. }), Err(_)) | (Err(OtlpError::TooManyEvents { .. }), _) => {}
            (ours, theirs) => panic!("{signal:?}: ours {:?}, prost: {:?}", ours.map(|_| ()), theirs.map(|_| ())),
        }
    }
}

fn compare_events(decoded: &Decoded, memory: &Memory, records: &[Record]) {
    let mut events = Events::accepted(&memory.batch);
    let mut rejected = 0;
    for record in records {
        match record {
            Record::Rejected => rejected += 1,
            Record::Events(expected) => {
                for expected in expected {
                    let event = events.next().expect("an event for each that is expected");
                    compare_event(&event, expected);
                }
            }
        }
    }
    assert!(events.next().is_none(), "more events than expected");
    assert_eq!(rejected, decoded.rejected.total);
    assert_eq!(records.len(), decoded.accepted + rejected);
}

/// The event's own attributes, and whether it lacks something.
fn compare_event(event: &EventRef<'_>, expected: &Expected) {
    assert_eq!(event.kind(), expected.kind);
    assert_eq!(event.time_unix_nano(), expected.time);
    assert_eq!(i32::from(event.severity()), expected.severity);
    assert_eq!(event.duration_nano(), expected.duration);
    assert_eq!(event.value().map(f64::to_bits), expected.value.map(f64::to_bits));
    assert_eq!(event.trace_id().map_or(&[][..], |id| id), expected.trace_id);
    assert_eq!(event.span_id().map_or(&[][..], |id| id), expected.span_id);
    assert_eq!(event.parent_span_id().map_or(&[][..], |id| id), expected.parent_span_id);
    if event.attributes().any(|(key, _)| key == TRUNCATED) {
        assert!(expected.source.starts_with(event.source()) && expected.name.starts_with(event.name()));
        return;
    }
    assert_eq!(event.source(), expected.source);
    assert_eq!(event.name(), expected.name);
    expected.body.compare_text(event.body());
    assert_eq!(event.attributes().count(), expected.attributes.len(), "{:?}", expected.attributes);
    for ((key, value), (expected_key, expected)) in event.attributes().zip(&expected.attributes) {
        assert_eq!(key, expected_key);
        expected.compare(value);
    }
}

/// The same request in JSON.
fn compare_json(signal: Signal, canonical: &[u8], decoded: &Decoded, memory: &Memory) {
    let Some(value) = to_json::message(Messages::of(signal).request, canonical) else { return };
    let body = serde_json::to_vec(&value).expect("a value is JSON");
    match json(signal, &body) {
        Ok((of_json, of_json_memory)) => {
            assert_eq!(&of_json, decoded, "{value}");
            if of_json_memory.batch != memory.batch {
                compare_batches(&of_json_memory.batch, &memory.batch);
            }
        }
        Err(OtlpError::Json(error)) if error.contains("recursion limit") => {}
        Err(error) => panic!("{error}: {value}"),
    }
}

/// Two batches with the same events. NaN has many forms, of which JSON keeps one.
fn compare_batches(left: &[u8], right: &[u8]) {
    for (left, right) in Events::accepted(left).zip(Events::accepted(right)) {
        let parts = |event: &EventRef<'_>| {
            let text = (event.source().to_owned(), event.name().to_owned());
            let value = event.value().map(|value| value.is_nan() || value == 0.0);
            (event.time_unix_nano(), event.kind(), event.severity(), text, value)
        };
        assert_eq!(parts(&left), parts(&right));
        compare_texts(left.body(), right.body());
        for ((left_key, left), (right_key, right)) in left.attributes().zip(right.attributes()) {
            assert_eq!(left_key, right_key);
            match (left, right) {
                (AttributeValue::Double(left), AttributeValue::Double(right)) => {
                    assert!(left == right || (left.is_nan() && right.is_nan()));
                }
                (AttributeValue::String(left), AttributeValue::String(right)) => compare_texts(left, right),
                (left, right) => assert_eq!(left, right),
            }
        }
    }
}

/// The same text, or the same JSON: -0 may have become 0.
fn compare_texts(left: &str, right: &str) {
    if left != right {
        let json = |text| serde_json::from_str::<serde_json::Value>(text).expect(text);
        assert_eq!(json(left), json(right));
    }
}

/// What was rejected, sent again, is rejected again.
fn compare_rejected(signal: Signal, decoded: &Decoded, memory: &Memory) {
    if decoded.rejected.total == 0 {
        return;
    }
    let (again, _) = protobuf(signal, &memory.rejected).expect("rejected records are a request");
    assert_eq!((again.accepted, again.rejected.total), (0, decoded.rejected.total));
}

/// Reads `body` as a request of each signal in JSON: what is accepted is valid, and what is rejected is a request.
///
/// # Panics
/// If it is not.
pub fn json_body(body: &[u8]) {
    for signal in Signal::ALL {
        if let Ok((decoded, memory)) = json(signal, body) {
            compare_rejected(signal, &decoded, &memory);
        }
    }
}
