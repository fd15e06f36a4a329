//! JSON in: an array of 1,000 log lines becomes checked, encoded events; plain serde_json decodes the same bytes into a
//! borrowed struct and checks nothing.

#[path = "support/plain_json.rs"]
mod plain_json;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::convert::Infallible;
use std::hint::black_box;
use telemetryx::cli::bench::sample::Sample;
use telemetryx::event::JsonDecoder;

const EVENTS: usize = 1_000;

fn json_in(criterion: &mut Criterion) {
    let mut sample = Sample::new(220);
    let bodies: Vec<_> = (0..16).map(|_| sample.batch(EVENTS).json).collect();
    let mut group = criterion.benchmark_group("json_in");
    group.throughput(Throughput::Elements(EVENTS as u64));
    let mut next = bodies.iter().cycle();
    let mut body = move || next.next().expect("a cycle has no end").as_slice();
    let (mut decoder, mut encoded) = (JsonDecoder::new(), Vec::new());
    group.bench_function("JsonDecoder", |bench| {
        bench.iter(|| {
            encoded.clear();
            let decoded = decoder.document(black_box(body()), |event| {
                encoded.extend_from_slice(event);
                Ok::<_, Infallible>(())
            });
            assert!(decoded.is_ok_and(|decoded| decoded.accepted == EVENTS));
        });
    });
    group.bench_function("serde_json", |bench| {
        bench.iter(|| assert_eq!(plain_json::decode(black_box(body())), EVENTS));
    });
    group.finish();
}

criterion_group!(benches, json_in);
criterion_main!(benches);
