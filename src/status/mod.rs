//! What `/status.json` contains: the state of a server at one moment. The server fills it in, the page at `/` and
//! `telemetryx top` read it.
//!
//! Counters are totals since the start of the process. Whoever shows a rate subtracts two of them, and divides by the
//! difference of `unix_ms`; [`Acknowledgements::since`] does the same for latencies. Lists have at most
//! [`STATUS_LIST_MAX`] entries, and every text of others is cut ([`text`]), so that an answer is bounded whatever peers
//! and stores send.
//!
//! | file | what it is |
//! |---|---|
//! | `latency` | quantiles of a histogram |
//! | `recent` | the newest entries of what repeats itself |

mod latency;
mod recent;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use latency::{Acknowledgements, Bucket};
pub use recent::Recent;

use crate::limits::{STATUS_LIST_MAX, STATUS_TEXT_BYTES_MAX};
use crate::text::cut;

/// The state of a server at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// The server's clock, milliseconds since 1970.
    pub unix_ms: u64,
    /// How long the process has run.
    pub uptime_seconds: u64,
    /// Whether events are accepted.
    pub is_ready: bool,
    /// Why not, as `/ready` names it.
    pub reasons: Vec<String>,
    /// Events that were accepted, by protocol.
    pub received: BTreeMap<String, u64>,
    /// Events that were rejected on receipt, by reason.
    pub rejected: BTreeMap<String, u64>,
    /// Events that were delayed by a limit, by whom the limit is for.
    pub limited: BTreeMap<String, u64>,
    /// Frames that were sent again and dropped.
    pub duplicates_dropped: u64,
    /// Frames that were acknowledged at a low level and then lost.
    pub frames_missing: u64,
    /// Events rejected on receipt that are in dead letters.
    pub dead_on_receipt: u64,
    /// From the last byte of a frame or request to its acknowledgement.
    pub ack: Acknowledgements,
    /// Open connections.
    pub connections: Use,
    /// Agents that are connected.
    pub agents: Agents,
    /// How many event loops there are.
    pub event_loops: u64,
    /// The first of them.
    pub loops: Vec<Loop>,
    /// Slots that wait for the log, of all loops.
    pub ring: Use,
    /// Bytes of the buffer pool.
    pub buffers: Use,
    /// The write-ahead log; `None`: there is none.
    pub log: Option<Log>,
    /// Events that sinks have stored: of all of them, also those that are not listed. One that several have stored counts for each.
    pub stored: u64,
    /// How many sinks there are.
    pub sinks_total: u64,
    /// The first of them, in the order of the settings. Where there are more, those that need attention come first.
    pub sinks: Vec<Sink>,
    /// What was last rejected on receipt, the newest first.
    pub rejections: Vec<Rejection>,
}

/// How much of something is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Use {
    /// Used at this moment.
    pub used: u64,
    /// Most that can be used.
    pub capacity: u64,
}

/// The agents that are connected.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Agents {
    /// How many.
    pub connected: u64,
    /// Those that connected last, the newest first.
    pub newest: Vec<Agent>,
}

/// An agent that is connected.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Agent {
    /// The name that it has sent, or its id.
    pub name: String,
    /// Its IP address and port.
    pub address: String,
    /// The client whose token it has sent; `None`: it needs none.
    pub client: Option<String>,
    /// When it connected, milliseconds since 1970.
    pub since_unix_ms: u64,
}

/// An event loop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Loop {
    /// Share of the last second in which it did not wait: 0 to 1.
    pub busy_ratio: f64,
    /// Its open connections.
    pub connections: u64,
    /// Slots of its ring.
    pub ring: Use,
    /// Bytes of its part of the buffer pool.
    pub buffers: Use,
}

/// The write-ahead log.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Log {
    /// Bytes of all segments, and `wal.max_bytes`.
    pub bytes: Use,
    /// Bytes of the segments with events that a sink has yet to store: the others are deleted where there is no room.
    pub needed_bytes: u64,
    /// Syncs since the start.
    pub syncs: u64,
    /// Seconds that they took together.
    pub sync_seconds: f64,
}

/// A sink.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sink {
    /// Its name in the settings.
    pub name: String,
    /// Its kind in the settings, such as `postgres`.
    pub kind: String,
    /// As `/ready` names it.
    pub state: String,
    /// Whether it delivers.
    pub is_up: bool,
    /// Whether acknowledgements of level *delivered* wait for it.
    pub is_required: bool,
    /// The last position that it has passed.
    pub position: u64,
    /// Events that it has yet to store.
    pub lag_events: u64,
    /// How long the oldest of them has waited.
    pub oldest_seconds: f64,
    /// Events that it has stored.
    pub delivered: u64,
    /// Rows that it has written.
    pub rows: u64,
    /// Events that its steps left out.
    pub filtered: u64,
    /// Events that it refused, which are in dead letters.
    pub dead: u64,
    /// Events that were given up by a setting.
    pub dropped: u64,
    /// Deliveries that were tried again.
    pub retries: u64,
    /// Deliveries, with those that failed.
    pub deliveries: u64,
    /// Seconds that they took together.
    pub delivery_seconds: f64,
    /// When the next attempt is made; `None`: it works.
    pub next_attempt_seconds: Option<f64>,
    /// Why it last did not work, also once it works again.
    pub last_error: Option<LastError>,
    /// The events that it last refused, the newest first.
    pub dead_letters: Vec<DeadLetter>,
}

/// Why a sink last did not work.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LastError {
    /// As in the log line.
    pub reason: String,
    /// When, milliseconds since 1970.
    pub unix_ms: u64,
}

/// Events that a sink refused for one reason.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeadLetter {
    /// When the last one was refused, milliseconds since 1970.
    pub unix_ms: u64,
    /// Position of the last one.
    pub position: u64,
    /// The store's own code.
    pub code: String,
    /// The store's message.
    pub reason: String,
    /// Events with this code and reason, as long as they are remembered.
    pub events: u64,
}

/// Events or requests that were rejected on receipt, of one sender and with one code.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rejection {
    /// When it last happened, milliseconds since 1970.
    pub unix_ms: u64,
    /// Name of the agent, or IP address of the peer.
    pub from: String,
    /// `frames` or `http`.
    pub protocol: String,
    /// Name of the NACK code, or the HTTP status.
    pub code: String,
    /// What the sender was last answered.
    pub reason: String,
    /// How often.
    pub times: u64,
    /// Events in all; 0: of requests whose events were not counted.
    pub events: u64,
}

impl Status {
    /// The answer to `GET /status.json`.
    pub fn to_json(&self) -> Vec<u8> {
        // Numbers that JSON does not have become `null`; nothing else can fail in memory.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Events that were accepted.
    pub fn received_total(&self) -> u64 {
        self.received.values().fold(0, |sum, events| sum.saturating_add(*events))
    }

    /// Events that were rejected on receipt.
    pub fn rejected_total(&self) -> u64 {
        self.rejected.values().fold(0, |sum, events| sum.saturating_add(*events))
    }
}

impl Sink {
    /// Whether a person should look at it: it does not deliver, or not fast enough. While it connects for the first time it is not
    /// in trouble yet.
    pub fn needs_attention(&self) -> bool {
        match self.state.as_str() {
            "ok" => false,
            "connecting" => self.last_error.is_some(),
            _ => true,
        }
    }
}

/// A text of others as the page may have it: cut, and otherwise as it is. It is data, which whoever shows it escapes.
pub fn text(text: &str) -> String {
    cut(text, STATUS_TEXT_BYTES_MAX).to_owned()
}

/// The first entries of a list.
pub fn first<T>(entries: impl Iterator<Item = T>) -> Vec<T> {
    entries.take(STATUS_LIST_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::STATUS_ANSWER_BYTES_MAX;

    #[test]
    fn what_is_written_is_read_again_and_unknown_keys_are_ignored() {
        let log = Log { bytes: Use { used: 7, capacity: 9 }, ..Log::default() };
        let sink = Sink { name: "pg".to_owned(), next_attempt_seconds: Some(1.5), ..Sink::default() };
        let status = Status { unix_ms: 5, log: Some(log), sinks: vec![sink], ..Status::default() };
        assert_eq!(serde_json::from_slice::<Status>(&status.to_json()).unwrap(), status);
        let of_another_version = br#"{"unix_ms":5,"novelty":[1],"ring":{"used":3}}"#;
        let read: Status = serde_json::from_slice(of_another_version).unwrap();
        assert_eq!((read.unix_ms, read.ring), (5, Use { used: 3, capacity: 0 }));
    }

    #[test]
    fn an_answer_is_bounded_whatever_peers_and_stores_send() {
        // Six bytes in JSON for one.
        let longest = text(&"\u{1}".repeat(10_000));
        assert_eq!(longest.len(), STATUS_TEXT_BYTES_MAX);
        let letter = DeadLetter { code: longest.clone(), reason: longest.clone(), ..DeadLetter::default() };
        let error = LastError { reason: longest.clone(), unix_ms: u64::MAX };
        let sink = Sink {
            name: longest.clone(),
            last_error: Some(error),
            dead_letters: vec![letter; crate::limits::STATUS_DEAD_LETTERS_MAX],
            ..Sink::default()
        };
        let agent = Agent { name: longest.clone(), client: Some(longest.clone()), ..Agent::default() };
        let rejection = Rejection { from: longest.clone(), reason: longest, ..Rejection::default() };
        let status = Status {
            agents: Agents { connected: u64::MAX, newest: first(std::iter::repeat(agent)) },
            loops: first(std::iter::repeat(Loop::default())),
            sinks: first(std::iter::repeat(sink)),
            rejections: first(std::iter::repeat(rejection)),
            ..Status::default()
        };
        let bytes = status.to_json().len() as u64;
        assert!(bytes <= STATUS_ANSWER_BYTES_MAX, "{bytes}");
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(text("<b>"), "<b>");
        let cut = text(&"é".repeat(1_000));
        assert_eq!(cut.chars().count(), STATUS_TEXT_BYTES_MAX / 2);
    }
}
