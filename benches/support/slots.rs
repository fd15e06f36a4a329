//! A frame's bytes on their way through the ring, for the benches of speed and of instructions.

use std::sync::Arc;

use telemetryx::batch::Origin;
use telemetryx::batch::pool::Pool;
use telemetryx::ids::LoopId;
use telemetryx::pipeline::ring::{Content, Slot, ring};

/// Slots that are pushed before they are taken, as in a turn of the loop.
pub(crate) const SLOTS: u64 = 64;

/// Shares, pushes, takes and drops [`SLOTS`] slots at each call.
pub(crate) fn slots() -> impl FnMut() {
    let mut pool = Pool::new(64 << 20, Box::new(|| {}));
    let origin = Arc::new(Origin { agent_id: None, agent: None, default_source: "127.0.0.1".to_owned(), epoch: 0 });
    let (mut sender, mut receiver) = ring(1024, Box::new(|| {}));
    let mut buffer = pool.allocate(1 << 20).expect("the pool is empty");
    buffer.advance(1 << 20);
    let mut taken = Vec::with_capacity(SLOTS as usize);
    move || {
        for number in 1..=SLOTS {
            let payload = buffer.share(0..4096);
            let content = Content::Events { payload, events: 10, payload_crc: None, are_head_first: true };
            let slot = Slot {
                event_loop: LoopId(0),
                number,
                content,
                received_unix_nano: 0,
                seq: number,
                sent_crc: 0,
                is_let_go: false,
                origin: origin.clone(),
            };
            assert!(sender.push(slot).is_ok());
        }
        receiver.take(SLOTS as usize, &mut taken, |_| false);
        taken.clear();
    }
}
