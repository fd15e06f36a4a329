//! Body of the fuzz target for the settings of redact, as an ordinary function: tests call it too, on the stable toolchain.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::{Redact, Step};
use crate::batch::{Batch, Delivery, Origin, Payload, Run};
use crate::event::proto::{Attribute, Event, EventBatch, attribute};
use crate::limits::{EVENT_BODY_BYTES_MAX, EVENT_BYTES_MAX};
use crate::settings::steps::redact::read_all;

/// Takes the first line as the text of `redact`, and the rest as body, key and value of events: the text is an error of one
/// line, or rules that leave valid events in the same order.
///
/// # Panics
/// If not.
pub fn redaction(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (settings, event) = text.split_once('\n').unwrap_or((&text, "card 4111111111111111"));
    let rules = match read_all(settings) {
        Ok(rules) => rules,
        Err(why) => {
            assert!(!why.is_empty() && !why.contains('\n'), "{why}");
            return;
        }
    };
    let Some(redact) = Redact::new(&rules) else { return };
    let before: Vec<Event> = (0..3).map(|index| sample_event(event, index)).collect();
    let delivery = delivery(&before);
    let after = redact.apply(delivery.clone());
    assert_eq!((after.events(), after.originals()), (3, 3));
    for ((record, before), position) in after.records().zip(&before).zip(1..) {
        assert_eq!(record.position, position);
        let event = Event::decode(record.event.bytes()).expect("a valid event");
        assert!(event.body.len() <= EVENT_BODY_BYTES_MAX.max(before.body.len()));
        assert!(event.attributes.iter().all(|attribute| attribute.encoded_len() <= EVENT_BYTES_MAX + 300));
        let rest = |event: &Event| Event { body: String::new(), attributes: Vec::new(), ..event.clone() };
        assert_eq!(rest(&event), rest(before));
        assert_eq!(event.body.is_empty(), before.body.is_empty());
    }
    let again = redact.apply(delivery);
    assert!(after.records().zip(again.records()).all(|(one, other)| one.event.bytes() == other.event.bytes()));
}

fn sample_event(text: &str, index: u64) -> Event {
    let value = match index {
        0 => attribute::Value::StringValue(text.to_owned()),
        1 => attribute::Value::IntValue(text.len() as i64),
        _ => attribute::Value::BytesValue(text.as_bytes().to_vec()),
    };
    let key = text.split_whitespace().next().filter(|key| key.len() <= 128).unwrap_or("key").to_owned();
    let attributes = vec![Attribute { key: key.clone(), value: Some(value) }, Attribute { key, value: None }];
    Event { time_unix_nano: index, name: "event".to_owned(), body: text.to_owned(), attributes, ..Event::default() }
}

fn delivery(events: &[Event]) -> Delivery {
    let payload = EventBatch { events: events.to_vec() }.encode_to_vec();
    let origin = Origin { agent_id: None, agent: None, default_source: "fuzz".to_owned(), epoch: 0 };
    let run = Run {
        payload: Payload::Read(Bytes::from(payload)),
        events: events.len() as u32,
        received_unix_nano: 1,
        origin: Arc::new(origin),
        are_head_first: false,
    };
    Delivery::new([Arc::new(Batch::new(1, vec![run]))], 1..=events.len() as u64)
}
