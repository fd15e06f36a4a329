//! The events that are sent: log lines of a web shop with four attributes (string, string, integer, double), as an agent
//! would send them. The same events every time, so that every run and every server gets the same bytes.

use prost::Message;

use crate::client::Batch;
use crate::event::proto::attribute::Value;
use crate::event::proto::{Attribute, Event, EventKind};
use crate::event::{EventRef, JsonRecord, write_json};
use crate::random::Random;

/// Smallest encoded event: all but the line itself, and a few words of that.
pub const EVENT_BYTES_MIN: usize = 180;
const SEED: u64 = 4640;
/// 2026-09-21T14:13:20Z.
const FIRST_TIME_UNIX_NANO: u64 = 1_790_000_000_000_000_000;
/// What makes a line longer, again and again.
const MORE_WORDS: &str = " upstream=10.0.3.17:8080 cache=miss retries=0";

/// Makes one event after the other.
pub struct Sample {
    random: Random,
    event_bytes: usize,
    time_unix_nano: u64,
}

impl Sample {
    /// Events of `event_bytes` encoded bytes each, give or take one, at least [`EVENT_BYTES_MIN`].
    pub fn new(event_bytes: usize) -> Self {
        Self { random: Random::seeded(SEED), event_bytes, time_unix_nano: FIRST_TIME_UNIX_NANO }
    }

    fn number(&mut self, below: u64) -> u64 {
        self.random.next_u64() % below
    }

    /// The next event of the sequence, of about the requested size.
    pub fn event(&mut self) -> Event {
        self.time_unix_nano += self.number(1_000_000);
        let (order, user) = (self.number(10_000_000), self.number(100_000_000));
        let status = [200, 200, 200, 201, 204, 302, 404, 500][self.number(8) as usize];
        let duration_ms = self.number(1_000_000) as f64 / 1000.0;
        let attribute = |key: &str, value| Attribute { key: key.to_owned(), value: Some(value) };
        let mut event = Event {
            time_unix_nano: self.time_unix_nano,
            kind: EventKind::Log as i32,
            severity: if status < 500 { 9 } else { 17 },
            source: "checkout".to_owned(),
            name: "http.request".to_owned(),
            attributes: vec![
                attribute("http.route", Value::StringValue("/api/v1/orders/{id}".to_owned())),
                attribute("user.id", Value::StringValue(format!("u-{user:08}"))),
                attribute("http.status_code", Value::IntValue(status)),
                attribute("duration_ms", Value::DoubleValue(duration_ms)),
            ],
            ..Event::default()
        };
        // Key and length of the body are two bytes, or three from 128 on.
        let body_bytes = self.event_bytes.saturating_sub(event.encoded_len() + 2).max(1);
        event.body = format!("GET /api/v1/orders/{order:07} {status} in {duration_ms:.3} ms");
        while event.body.len() < body_bytes {
            event.body.push_str(MORE_WORDS);
        }
        event.body.truncate(body_bytes);
        event
    }

    /// The next `events` events, in each form that a server takes.
    pub fn batch(&mut self, events: usize) -> SampleBatch {
        let mut batch = SampleBatch { encoded: Batch::new(), each: Vec::new(), json: Vec::new() };
        for _ in 0..events {
            let event = self.event();
            batch.encoded.push(&event);
            let bytes = event.encode_to_vec();
            batch.json.push(if batch.json.is_empty() { b'[' } else { b',' });
            write_json(&JsonRecord::event(EventRef::accepted(&bytes)), &mut batch.json);
            batch.each.push(bytes);
        }
        if events == 1 {
            batch.json.remove(0);
        } else {
            batch.json.push(b']');
        }
        batch
    }
}

/// The same events in three forms.
pub struct SampleBatch {
    /// An `EventBatch`.
    pub encoded: Batch,
    /// Each encoded `Event`.
    pub each: Vec<Vec<u8>>,
    /// An array; of one event the bare object.
    pub json: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{JsonDecoder, check_batch};

    #[test]
    fn all_forms_are_the_same_accepted_events_of_the_size_asked_for() {
        for (events, event_bytes) in [(1, EVENT_BYTES_MIN), (100, 220), (3, 4_000)] {
            let batch = Sample::new(event_bytes).batch(events);
            let counts = check_batch(batch.encoded.bytes(), events, |_, _, _| {}).unwrap();
            assert_eq!((counts.accepted, counts.rejected), (events, 0));
            for bytes in &batch.each {
                assert!(bytes.len().abs_diff(event_bytes) <= 1, "{} bytes, {event_bytes} asked for", bytes.len());
            }
            let mut from_json = Vec::new();
            let decoded = JsonDecoder::new().document(&batch.json, |event| {
                from_json.extend_from_slice(event);
                Ok::<_, ()>(())
            });
            assert_eq!(decoded.unwrap().accepted, events);
            assert_eq!(batch.json.first(), Some(if events == 1 { &b'{' } else { &b'[' }));
            let mut from_encoded = Vec::new();
            for event in crate::event::Events::accepted(batch.encoded.bytes()) {
                write_json(&JsonRecord::event(event), &mut from_encoded);
            }
            let mut back = Vec::new();
            for event in crate::event::Events::accepted(&from_json) {
                write_json(&JsonRecord::event(event), &mut back);
            }
            assert_eq!(back, from_encoded);
        }
    }
}
