//! Batches for tests, in memory of a pool.

use std::ops::RangeInclusive;
use std::sync::Arc;

use prost::Message as _;

use crate::batch::pool::Pool;
use crate::batch::{Batch, Origin, Payload, Run};
use crate::event::proto::{Event, EventBatch};

/// Events called `e<position>`, as one frame of an agent.
pub(crate) fn pooled_batch(positions: RangeInclusive<u64>) -> Arc<Batch> {
    let events: Vec<_> =
        positions.clone().map(|position| Event { name: format!("e{position}"), ..Event::default() }).collect();
    let count = events.len() as u32;
    let payload = EventBatch { events }.encode_to_vec();
    let mut buffer = Pool::new(payload.len(), Box::new(|| {})).allocate(payload.len()).unwrap();
    assert!(buffer.extend(&payload));
    let payload = Payload::Pooled(buffer.share(0..payload.len()));
    let origin = Origin { agent_id: Some([1; 16]), agent: None, default_source: "test".to_owned(), epoch: 1 };
    let run = Run { payload, events: count, received_unix_nano: 1, origin: Arc::new(origin), are_head_first: false };
    Arc::new(Batch::new(*positions.start(), vec![run]))
}
