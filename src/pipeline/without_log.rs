//! The log thread without a log (`wal.enabled = false`): takes what is in the ring, gives it positions, hands it to the
//! routers.
//!
//! ```text
//!  rings ─▶ take all (up to 4 MiB) ─▶ keep refused payloads ─▶ positions ─▶ one Batch, shared ─▶ each router's queue
//! ```
//!
//! It never waits to fill a batch: an event alone is handed on at once, and while the routers are busy the next batch
//! grows in the ring. A router's full queue makes it wait: the ring fills, the loop stops reading, TCP does the rest.
//! What is in here when the process is killed is lost, which is why the only ack level offered is *received*.

use std::sync::Arc;

use crate::batch::pool::PoolSlice;
use crate::batch::{Batch, Origin, Payload, Run};
use crate::limits::{COMMIT_BYTES_MAX, COMMIT_SLOTS_MAX};
use crate::pipeline::ring::{Content, Slot};
use crate::pipeline::rings::Rings;
use crate::wire::NackCode;

/// A payload that was rejected on receipt, all or part of it: for the dead letters (R8).
pub struct RefusedPayload {
    /// The payload as sent.
    pub payload: PoolSlice,
    /// Refused events in it.
    pub events: u32,
    /// Code of the NACK that the sender received.
    pub code: NackCode,
    /// Text of the NACK.
    pub reason: Box<str>,
    /// Sequence number of the frame; 0 over HTTP.
    pub seq: u64,
    /// When it was received: nanoseconds since 1970-01-01T00:00:00Z.
    pub received_unix_nano: u64,
    /// Where it came from.
    pub origin: Arc<Origin>,
}

/// Runs until the event loops are gone and their rings are empty. Positions begin at 1. `keep_refused` gets what a commit holds
/// of refused payloads, before anything of the commit is handed on; `offer` hands a batch to every router, and waits
/// where one is full.
pub fn run(mut rings: Rings, mut keep_refused: impl FnMut(&[RefusedPayload]), mut offer: impl FnMut(&Arc<Batch>)) {
    let mut next_position = 1;
    let mut slots = Vec::with_capacity(COMMIT_SLOTS_MAX);
    let mut refused = Vec::new();
    while rings.wait() {
        let mut bytes = 0;
        rings.take(COMMIT_SLOTS_MAX, &mut slots, |slot| {
            if let Content::Events { payload, .. } = &slot.content {
                bytes += payload.len();
            }
            bytes >= COMMIT_BYTES_MAX
        });
        let mut runs = Vec::with_capacity(slots.len());
        for Slot { content, received_unix_nano, seq, origin, .. } in slots.drain(..) {
            match content {
                Content::Events { payload, events, are_head_first, .. } => {
                    let payload = Payload::Pooled(payload);
                    runs.push(Run { payload, events, received_unix_nano, origin, are_head_first });
                }
                Content::Refused { payload, events, code, reason } => {
                    refused.push(RefusedPayload { payload, events, code, reason, seq, received_unix_nano, origin });
                }
                // Without a log nothing outlives the process, an epoch neither.
                Content::Hello | Content::Bye => {}
            }
        }
        if !refused.is_empty() {
            keep_refused(&refused);
            refused.clear();
        }
        let batch = Batch::new(next_position, runs);
        if batch.events() == 0 {
            continue;
        }
        next_position = batch.end_position();
        tracing::debug!(
            first_position = batch.first_position(),
            events = batch.events(),
            bytes = batch.payload_bytes(),
            "batch"
        );
        offer(&Arc::new(batch));
    }
}
