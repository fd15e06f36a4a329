//! Reads dead letters. Lines of older versions have no `received_at`, `agent` and `encoded`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use prost::Message as _;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::batch::{Batch, Origin, Payload, Run};
use crate::event::proto::EventBatch;
use crate::event::{EventRef, Events, JsonDecoder, JsonError, JsonRecord, rfc3339, write_json};
use crate::ids::parse_uuid;
use crate::limits::WAL_POSITION_LIMIT;

/// One letter.
#[derive(Debug)]
pub struct ReadLetter<'l> {
    /// The store's code of the error, or the name of the NACK code.
    pub code: String,
    /// The store's message, or the text of the NACK.
    pub reason: String,
    /// When it was received, else the event's own time.
    pub time_unix_nano: Option<u64>,
    /// The agent that sent it; `None`: it came over HTTP, or an older version wrote the letter.
    pub agent: Option<String>,
    /// What was refused.
    pub content: Content<'l>,
}

/// What a letter keeps.
#[derive(Debug)]
pub enum Content<'l> {
    /// What a sink refused.
    Event {
        /// The server that received the event.
        server_id: [u8; 16],
        /// The event's position.
        position: u64,
        /// As JSON in takes it.
        event: &'l RawValue,
        /// An `EventBatch` of the same event, where JSON cannot express all of it; base64.
        encoded: Option<String>,
    },
    /// What was rejected on receipt.
    Frame {
        /// The agent's id, hexadecimal; `None`: it came over HTTP.
        agent_id: Option<String>,
        /// The agent's epoch; 0 over HTTP.
        epoch: u64,
        /// Sequence number of the frame; 0 over HTTP.
        seq: u64,
        /// As it was sent; base64.
        payload: String,
    },
}

/// Every key that a letter may have.
#[derive(Deserialize)]
struct Line<'l> {
    server_id: Option<String>,
    position: Option<u64>,
    received_at: Option<String>,
    agent: Option<String>,
    agent_id: Option<String>,
    epoch: Option<u64>,
    seq: Option<u64>,
    code: String,
    #[serde(default)]
    reason: String,
    #[serde(borrow)]
    event: Option<&'l RawValue>,
    encoded: Option<String>,
    payload: Option<String>,
}

/// What an event adds to its letter.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Own {
    time: Option<Value>,
    source: Option<String>,
}

impl<'l> ReadLetter<'l> {
    /// `None`: the line is not a dead letter.
    pub fn read(line: &'l [u8]) -> Option<Self> {
        let line: Line<'l> = serde_json::from_slice(line).ok()?;
        let content = match (line.event, line.payload) {
            (Some(event), _) => Content::Event {
                server_id: parse_uuid(&line.server_id?)?,
                position: line.position.filter(|position| (1..WAL_POSITION_LIMIT).contains(position))?,
                event,
                encoded: line.encoded,
            },
            (None, Some(payload)) => {
                Content::Frame { agent_id: line.agent_id, epoch: line.epoch.unwrap_or(0), seq: line.seq?, payload }
            }
            (None, None) => return None,
        };
        let of_event = || line.event.and_then(|event| time_of(own(event).time?));
        let received = line.received_at.and_then(|received| rfc3339::parse(&received).ok());
        let time_unix_nano = received.or_else(of_event);
        Some(Self { code: line.code, reason: line.reason, time_unix_nano, agent: line.agent, content })
    }

    /// A sink's letter as a batch of its one event.
    ///
    /// # Errors
    /// What is wrong with the event: the file was edited.
    pub fn batch(&self) -> Result<Batch, String> {
        let Content::Event { position, event, encoded, .. } = &self.content else {
            return Err("a frame that was rejected on receipt belongs to no sink".to_owned());
        };
        let default_source = own(event).source.unwrap_or_default();
        let received_unix_nano =
            self.time_unix_nano.ok_or("neither received_at nor the event's time says when it was")?;
        // What a person may have mended is what counts.
        let encoded = encoded.as_ref().and_then(|encoded| {
            let batch = BASE64_STANDARD.decode(encoded).ok()?;
            // Not the check on receipt: a row that steps made may be larger than an event may be.
            let is_one_event = EventBatch::decode(&*batch).is_ok_and(|batch| batch.events.len() == 1);
            let as_written = Events::accepted(&batch).next().filter(|_| is_one_event)?;
            says(event, &as_written, &default_source, received_unix_nano).then_some(batch)
        });
        let payload = match encoded {
            Some(batch) => batch,
            None => from_json(event)?,
        };
        let origin = Origin { agent_id: None, agent: self.agent.clone(), default_source, epoch: 0 };
        let payload = Payload::Read(payload.into());
        Ok(Batch::new(
            *position,
            vec![Run { payload, events: 1, received_unix_nano, origin: Arc::new(origin), are_head_first: false }],
        ))
    }
}

fn own(event: &RawValue) -> Own {
    serde_json::from_str(event.get()).unwrap_or_default()
}

fn time_of(time: Value) -> Option<u64> {
    match time {
        Value::String(time) => rfc3339::parse(&time).ok(),
        Value::Number(nanos) => nanos.as_u64(),
        _ => None,
    }
}

/// Whether the letter's JSON is what was written for `event`.
fn says(json: &RawValue, event: &EventRef<'_>, default_source: &str, received_unix_nano: u64) -> bool {
    let source = if event.source().is_empty() { default_source } else { event.source() };
    let time_unix_nano = if event.time_unix_nano() == 0 { received_unix_nano } else { event.time_unix_nano() };
    let mut written = Vec::new();
    write_json(&JsonRecord { source, time_unix_nano, ..JsonRecord::event(*event) }, &mut written);
    let value = |json: &[u8]| serde_json::from_slice::<Value>(json).ok();
    value(&written).is_some_and(|written| Some(written) == value(json.get().as_bytes()))
}

fn from_json(event: &RawValue) -> Result<Vec<u8>, String> {
    let mut batch = Vec::new();
    let decoded = JsonDecoder::new().document(event.get().as_bytes(), |field| {
        batch.extend_from_slice(field);
        Ok::<(), String>(())
    });
    match decoded {
        Ok(decoded) if decoded.rejected.total > 0 => {
            Err(decoded.rejected.named.into_iter().next().map(|rejection| rejection.error).unwrap_or_default())
        }
        Ok(decoded) if decoded.accepted == 1 => Ok(batch),
        Ok(_) => Err("not one event".to_owned()),
        Err(JsonError::Malformed(why) | JsonError::Emit(why)) => Err(why),
        Err(error) => Err(error.to_string()),
    }
}

/// Which letters of sinks were seen: one is there twice where the server was killed before it could continue.
#[derive(Default)]
pub struct Seen {
    /// There are few logs, and many letters of each.
    positions: HashMap<[u8; 16], HashSet<u64>>,
}

impl Seen {
    /// Whether it was not seen before. Letters of rejected frames have no position: all are new.
    pub fn add(&mut self, letter: &ReadLetter<'_>) -> bool {
        match letter.content {
            Content::Event { server_id, position, .. } => self.positions.entry(server_id).or_default().insert(position),
            Content::Frame { .. } => true,
        }
    }

    /// Adds an event by its position.
    pub fn insert(&mut self, server_id: [u8; 16], position: u64) {
        self.positions.entry(server_id).or_default().insert(position);
    }

    /// Whether the letter's event was added before. Never for what was rejected on receipt, which has no position.
    pub fn has(&self, letter: &ReadLetter<'_>) -> bool {
        match letter.content {
            Content::Event { server_id, position, .. } => {
                self.positions.get(&server_id).is_some_and(|positions| positions.contains(&position))
            }
            Content::Frame { .. } => false,
        }
    }
}
