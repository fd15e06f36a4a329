//! Pipeline: a frame's bytes become a shared slice of the pool, a slot in the ring, and free memory again.

#[path = "support/slots.rs"]
mod slots;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use telemetryx::batch::pool::Pool;

use self::slots::SLOTS;

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

    group.throughput(Throughput::Elements(SLOTS));
    group.bench_function("share, push, take and drop a slot", |bench| bench.iter(slots::slots()));
    group.finish();
}

criterion_group!(benches, hand_over);
criterion_main!(benches);
