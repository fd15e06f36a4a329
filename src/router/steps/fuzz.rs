//! Body of the fuzz target for the settings of steps: any text is an error or a working rule.

use std::sync::Arc;

use prost::Message;

use super::{Steps, naive};
use crate::batch::{Batch, Delivery, Origin, Payload, Run};
use crate::event::proto::{Event, EventBatch};
use crate::event::{JsonDecoder, check_batch};
use crate::settings::steps::StepSettings;

const SERVER_ID: [u8; 16] = [7; 16];
const DEFAULT_SOURCE: &str = "192.0.2.1";

/// The first line is `include`, the second `exclude`, the third `sample.keep`, the fourth `sample.by`, the fifth
/// `sample.always`; the others are events as NDJSON. What the steps leave of them is what their definition says.
pub fn settings_and_events(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let lines: Vec<&str> = text.splitn(6, '\n').collect();
    let line = |index: usize| lines.get(index).copied();
    let keys = ["include", "exclude", "sample.keep", "sample.by", "sample.always"];
    let value = |key: &str| line(keys.iter().position(|known| *known == key)?);
    let Ok(settings) = StepSettings::read(value) else { return };
    let mut payload = Vec::new();
    let decoded = JsonDecoder::new().lines(line(5).unwrap_or_default().as_bytes(), |field| {
        payload.extend_from_slice(field);
        Ok::<(), ()>(())
    });
    if decoded.is_err() {
        return;
    }
    check(&settings, payload);
}

/// Compares the steps with their definition, over an `EventBatch` that was accepted.
pub fn check(settings: &StepSettings, payload: Vec<u8>) {
    let Ok(EventBatch { events }) = EventBatch::decode(payload.as_slice()) else { return };
    let steps = Steps::new(settings, SERVER_ID);
    let count = events.len() as u64;
    if count == 0 {
        return;
    }
    let origin = Origin { agent_id: None, agent: None, default_source: DEFAULT_SOURCE.to_owned(), epoch: 0 };
    let counts = check_batch(&payload, usize::MAX, |_, _, _| {});
    let run = Run {
        are_head_first: counts.is_ok_and(|counts| counts.are_head_first),
        payload: Payload::Read(payload.into()),
        events: u32::try_from(count).unwrap_or(u32::MAX),
        received_unix_nano: 1,
        origin: Arc::new(origin),
    };
    let delivery = Delivery::new(vec![Arc::new(Batch::new(10, vec![run]))], 10..=9 + count);
    let expected = naive::shaped(settings, SERVER_ID, DEFAULT_SOURCE, 10, &events);
    let shaped = steps.apply_to_events(delivery);
    let rows: Vec<_> = shaped.records().map(|record| (record.position, Event::decode(record.event.bytes()))).collect();
    assert_eq!(rows.len(), expected.len());
    for ((position, event), (expected_position, expected)) in rows.into_iter().zip(expected) {
        assert_eq!(position, expected_position);
        // By its bytes: a NaN does not equal itself.
        assert_eq!(event.map(|event| event.encode_to_vec()), Ok(expected.encode_to_vec()));
    }
    assert_eq!(shaped.originals() + shaped.filtered().iter().sum::<u64>(), count);
    assert_eq!((shaped.first_position(), shaped.last_position()), (10, 9 + count));
    for pick in shaped.picks() {
        assert!(check_batch(pick.payload(), usize::MAX, |_, _, _| {}).is_ok());
    }
}
