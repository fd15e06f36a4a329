//! Pipeline: a frame's bytes become a shared slice of the pool, a slot in the ring, and free memory again.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::Arc;
use telemetryx::batch::Origin;
use telemetryx::batch::pool::Pool;
use telemetryx::ids::{LoopId, Ticket};
use telemetryx::pipeline::ring::{Content, Slot, ring};

/// Slots that are pushed before they are taken, as in a turn of the loop.
const SLOTS: u64 = 64;

fn hand_over(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hand_over");
    let mut pool = Pool::new(64 << 20, Box::new(|| {}));

    group.throughput(Throughput::Elements(1));
    for (name, bytes) in [("a page", 4 << 10), ("a read", 256 << 10)] {
        group.bench_function(format!("allocate and free {name}"), |bench| {
            bench.iter(|| pool.allocate(black_box(bytes)).is_some());
        });
    }
    // Behind 32 MiB that are in use: the map of free pages is searched from its start.
    let in_use = pool.allocate(32 << 20);
    group.bench_function("allocate and free a page behind 32 MiB in use", |bench| {
        bench.iter(|| pool.allocate(black_box(4 << 10)).is_some());
    });
    drop(in_use);

    let origin = Arc::new(Origin { agent_id: None, agent: None, default_source: "127.0.0.1".to_owned(), epoch: 0 });
    let (mut sender, mut receiver) = ring(1024, Box::new(|| {}));
    let Some(mut buffer) = pool.allocate(1 << 20) else { return };
    buffer.advance(1 << 20);
    let mut slots = Vec::with_capacity(SLOTS as usize);
    group.throughput(Throughput::Elements(SLOTS));
    group.bench_function("share, push, take and drop a slot", |bench| {
        bench.iter(|| {
            for number in 1..=SLOTS {
                let content = Content::Events { payload: buffer.share(0..4096), events: 10, payload_crc: None };
                let slot = Slot {
                    ticket: Ticket { event_loop: LoopId(0), number },
                    content,
                    received_unix_nano: 0,
                    seq: number,
                    sent_crc: 0,
                    is_let_go: false,
                    origin: origin.clone(),
                };
                assert!(sender.push(slot).is_ok());
            }
            receiver.take(SLOTS as usize, &mut slots, |_| false);
            slots.clear();
        });
    });
    group.finish();
}

criterion_group!(benches, hand_over);
criterion_main!(benches);
