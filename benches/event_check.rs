//! Ingress: `EventRef` checks a batch in place; prost decodes the same bytes into owned events (which then would still have
//! to be checked). 1,000 log lines of 220 bytes with four attributes.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use prost::Message;
use std::hint::black_box;
use telemetryx::cli::bench::sample::Sample;
use telemetryx::event::proto::EventBatch;
use telemetryx::event::{Events, check_batch};

const EVENTS: usize = 1_000;

fn event_check(criterion: &mut Criterion) {
    // Several batches: no branch predictor knows them by heart.
    let mut sample = Sample::new(220);
    let batches: Vec<_> = (0..16).map(|_| sample.batch(EVENTS).encoded.bytes().to_vec()).collect();
    let mut group = criterion.benchmark_group("event_check");
    group.throughput(Throughput::Elements(EVENTS as u64));
    let mut next = batches.iter().cycle();
    let mut batch = move || next.next().expect("a cycle has no end").as_slice();
    group.bench_function("EventRef", |bench| {
        bench.iter(|| check_batch(black_box(batch()), EVENTS, |_, _, event| _ = black_box(event.is_ok())));
    });
    group.bench_function("prost", |bench| bench.iter(|| EventBatch::decode(black_box(batch()))));
    // What a sink does later: without the checks.
    group.bench_function("EventRef::accepted", |bench| {
        bench.iter(|| Events::accepted(black_box(batch())).map(|event| black_box(event).time_unix_nano()).max());
    });
    group.finish();
}

criterion_group!(benches, event_check);
criterion_main!(benches);
