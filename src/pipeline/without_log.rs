//! The log thread without a log (`wal.enabled = false`): takes what is in the ring, gives it positions, hands it to the
//! routers.
//!
//! ```text
//!  rings ─▶ take all (up to 4 MiB) ─▶ keep refused payloads ─▶ positions ─▶ one Batch, shared ─▶ each router's queue
//! ```
//!
//! An event alone is handed on at once. After a small batch the thread rests for [`REST_TIME`], and what comes meanwhile becomes one batch:
//! nobody waits for it, and requests of one event each would else wake this thread once in each turn of a loop. While the routers are
//! busy, the next batch grows in the ring. A router's full queue makes it wait: the ring fills, the loop stops reading, TCP does the rest.
//! What is in here when the process is killed is lost, which is why the only ack level offered is *received*.

use std::sync::Arc;
use std::thread;

use crate::batch::pool::PoolSlice;
use crate::batch::{Batch, Origin, Payload, Run};
use crate::limits::{COMMIT_BYTES_MAX, COMMIT_SLOTS_MAX, REST_BYTES_MAX, REST_SLOTS_MAX, REST_TIME};
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
        let is_small = bytes < REST_BYTES_MAX && slots.len() < REST_SLOTS_MAX;
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
        if is_small {
            // Not a park: a loop that unparks this thread then needs no system call, and is remembered.
            thread::sleep(REST_TIME);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::batch::pool::Pool;
    use crate::ids::LoopId;
    use crate::pipeline::ring::{SlotSender, ring};

    const WAIT: Duration = Duration::from_secs(30);

    fn push(sender: &mut SlotSender, pool: &mut Pool, number: u64) {
        let mut buffer = pool.allocate(1).unwrap();
        let origin = Origin { agent_id: None, agent: None, default_source: String::new(), epoch: 0 };
        assert!(buffer.extend(b"event"));
        let content =
            Content::Events { payload: buffer.share(0..5), events: 1, payload_crc: None, are_head_first: false };
        let slot = Slot {
            event_loop: LoopId(0),
            number,
            content,
            received_unix_nano: 0,
            seq: 0,
            sent_crc: 0,
            is_let_go: true,
            origin: Arc::new(origin),
        };
        sender.push(slot).unwrap();
        sender.flush();
    }

    #[test]
    fn what_follows_a_small_batch_at_once_becomes_one_batch_after_a_rest() {
        let (mut sender, receiver) = ring(64, Box::new(|| {}));
        let (offers, offered) = mpsc::channel();
        let log_thread = thread::spawn(move || {
            let offer = |batch: &Arc<Batch>| offers.send((batch.events(), Instant::now())).unwrap();
            run(Rings::new(vec![receiver]), |_| {}, offer);
        });
        sender.set_log_thread(log_thread.thread().clone());
        let mut pool = Pool::new(1 << 20, Box::new(|| {}));
        push(&mut sender, &mut pool, 1);
        let (events, first) = offered.recv_timeout(WAIT).unwrap();
        assert_eq!(events, 1, "an event alone is handed on at once");
        (2..=50).for_each(|number| push(&mut sender, &mut pool, number));
        drop(sender);
        let rest: Vec<_> = offered.iter().collect();
        log_thread.join().unwrap();
        assert_eq!(rest.iter().map(|(events, _)| events).sum::<u64>(), 49);
        assert!(rest[0].1 >= first + REST_TIME, "handed on within the rest");
    }
}
