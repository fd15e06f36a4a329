//! What the stages hand to each other: memory of the pool, batches for the routers, deliveries for their sinks.
//!
//! ```text
//!  Batch      first_position ─▶ ┌ Run (one frame or request) ┬ Run ┬ Run ┐   shared by all routers (Arc)
//!  Delivery   picks of runs, made rows, a range of positions             what a sink is asked to store, see `delivery`
//!  Record     one event with its position and where it came from            what a sink writes
//! ```
//!
//! Nothing here copies an event: a run is a slice of the pool or of what was read from the log, a record borrows from it.
//!
//! | file | what it is |
//! |---|---|
//! | `pool` | the memory that peers can fill; the only `unsafe` |
//! | `shares` | what part of it is for agents, for HTTP bodies, and for what these become |
//! | `free_runs` | runs of free pages in its map |
//! | `delivery` | what a sink is asked to store in one go |

pub mod delivery;
mod free_runs;
pub mod pool;
pub mod shares;
#[cfg(test)]
pub(crate) mod testing;

use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;

pub(crate) use self::delivery::runs_from;
pub use self::delivery::{Builder, Delivery, Fate, FatesByNumbers, Filtered, MadeRow, Pick, PickBuffer, Place};
use self::pool::PoolSlice;
use crate::event::EventRef;

/// Where the events of a connection come from; shared by all its runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The agent's random id; `None`: came over HTTP.
    pub agent_id: Option<[u8; 16]>,
    /// HELLO's name, else the agent id in hex; `None`: came over HTTP.
    pub agent: Option<String>,
    /// `source` of events that carry none: HELLO's name, else the peer's address without the port.
    pub default_source: String,
    /// The agent's epoch; 0 over HTTP.
    pub epoch: u64,
}

/// Bytes of an `EventBatch`, wherever they are.
#[derive(Debug, Clone)]
pub enum Payload {
    /// Where the event loop read them.
    Pooled(PoolSlice),
    /// Read back from the log, into memory of the router that reads.
    Read(Bytes),
}

impl Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Pooled(slice) => slice,
            Self::Read(bytes) => bytes,
        }
    }
}

/// Events that came in one frame or request: the encoded `EventBatch` of the accepted ones, where it was received.
#[derive(Debug, Clone)]
pub struct Run {
    /// Bytes of an `EventBatch`, every event in it accepted.
    pub payload: Payload,
    /// Number of events in the payload.
    pub events: u32,
    /// When the server received the frame or request: nanoseconds since 1970-01-01T00:00:00Z.
    pub received_unix_nano: u64,
    /// Where the events came from; shared by the runs of one connection.
    pub origin: Arc<Origin>,
    /// As in `event::Counts`; `false`: not known, as of what is read from the log.
    pub are_head_first: bool,
}

impl Run {
    /// One of its events, at `position`.
    #[inline(always)]
    fn record<'a>(&'a self, position: u64, event: EventRef<'a>) -> Record<'a> {
        Record { position, received_unix_nano: self.received_unix_nano, origin: &self.origin, event }
    }

    fn pinned_bytes(&self) -> usize {
        match &self.payload {
            Payload::Pooled(slice) => slice.pinned_bytes(),
            Payload::Read(_) => 0,
        }
    }
}

/// Consecutive positions that became final in one commit.
#[derive(Debug)]
pub struct Batch {
    first_position: u64,
    events: u64,
    payload_bytes: usize,
    pinned_bytes: usize,
    runs: Vec<Run>,
}

impl Batch {
    /// A batch of `runs` whose first event has `first_position`. Runs without events are allowed.
    pub fn new(first_position: u64, runs: Vec<Run>) -> Self {
        let events = runs.iter().map(|run| u64::from(run.events)).sum();
        let payload_bytes = runs.iter().map(|run| run.payload.len()).sum();
        let pinned_bytes = runs.iter().map(Run::pinned_bytes).sum();
        Self { first_position, events, payload_bytes, pinned_bytes, runs }
    }

    /// Position of the first event.
    pub fn first_position(&self) -> u64 {
        self.first_position
    }

    /// The position after the last event; equals `first_position` for a batch without events.
    pub fn end_position(&self) -> u64 {
        self.first_position + self.events
    }

    /// Number of events in all runs.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Encoded bytes of all runs.
    pub fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    /// Bytes of the pool that cannot be allocated while this batch is held.
    pub fn pinned_bytes(&self) -> usize {
        self.pinned_bytes
    }

    /// The runs, in order of position.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The same batch, copied out of the buffer pool; `None`: nothing of it lies there.
    pub fn unpinned(&self) -> Option<Self> {
        let is_pooled = |run: &Run| matches!(run.payload, Payload::Pooled(_));
        if !self.runs.iter().any(is_pooled) {
            return None;
        }
        let runs = self.runs.iter().map(|run| {
            let payload = match &run.payload {
                Payload::Pooled(slice) => Bytes::copy_from_slice(slice),
                Payload::Read(bytes) => bytes.clone(),
            };
            Run { payload: Payload::Read(payload), ..run.clone() }
        });
        Some(Self::new(self.first_position, runs.collect()))
    }
}

/// One event on its way into a sink.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// The event's place in the order of the log, from 1 on; unique within one `server_id`.
    pub position: u64,
    /// When the server received the event: nanoseconds since 1970-01-01T00:00:00Z.
    pub received_unix_nano: u64,
    /// Where the event came from.
    pub origin: &'a Origin,
    /// The event itself.
    pub event: EventRef<'a>,
}

impl<'a> Record<'a> {
    /// The event's own source, else the agent's name, else the peer's address.
    pub fn source(&self) -> &'a str {
        match self.event.source() {
            "" => &self.origin.default_source,
            source => source,
        }
    }

    /// The bytes of [`Record::source`].
    pub fn source_bytes(&self) -> &'a [u8] {
        match self.event.source_bytes() {
            [] => self.origin.default_source.as_bytes(),
            source => source,
        }
    }

    /// The event's own time, else the time of receipt.
    pub fn time_unix_nano(&self) -> u64 {
        match self.event.time_unix_nano() {
            0 => self.received_unix_nano,
            time => time,
        }
    }
}
