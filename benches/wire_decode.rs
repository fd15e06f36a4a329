//! Wire: finding a frame and verifying its checksums, for the frame of an agent under load, a small one, and an ACK; and
//! encoding what is sent most.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use telemetryx::cli::bench::sample::Sample;
use telemetryx::wire::{Header, PayloadCaps, answer, decode};

fn wire_decode(criterion: &mut Criterion) {
    let caps = PayloadCaps { data: 1 << 20 };
    let mut group = criterion.benchmark_group("wire_decode");
    for events in [1_000, 10] {
        let payload = Sample::new(220).batch(events).encoded.bytes().to_vec();
        let frame = [&Header::data(1, &payload).encode()[..], &payload].concat();
        group.throughput(Throughput::Bytes(frame.len() as u64));
        group.bench_function(format!("DATA of {events} events"), |bench| {
            bench.iter(|| decode(black_box(&frame), caps).is_ok());
        });
    }
    let mut ack = Vec::new();
    answer::ack(1, 1 << 22, &mut ack);
    group.throughput(Throughput::Elements(1));
    group.bench_function("ACK", |bench| bench.iter(|| decode(black_box(&ack), caps).is_ok()));
    group.bench_function("ACK encoded", |bench| {
        bench.iter(|| {
            ack.clear();
            answer::ack(black_box(7), 1 << 22, &mut ack);
        });
    });
    group.finish();
}

criterion_group!(benches, wire_decode);
criterion_main!(benches);
