//! Steps: what it costs to filter and to sample, beside `check_batch` over the same events. 1,000 log lines of 220 bytes with
//! four attributes. The number of allocations per event is printed first.

// Counting allocations needs an allocator, which cannot be written without unsafe.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use prost::Message;
use telemetryx::batch::{Batch, Delivery, Origin, Payload, Run};
use telemetryx::cli::bench::sample::Sample;
use telemetryx::event::proto::attribute::Value::StringValue;
use telemetryx::event::proto::{Attribute, Event, EventBatch};
use telemetryx::event::{EventKind, check_batch};
use telemetryx::router::steps::Steps;
use telemetryx::settings::steps::StepSettings;

const EVENTS: u32 = 1_000;

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: all is left to the system's allocator; the counter allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises; `alloc` got it from there.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Name, and the settings by key.
const CASES: &[(&str, &[(&str, &str)])] = &[
    ("one kind", &[("include", "{ kinds = 'span' }")]),
    ("one severity", &[("include", "{ severity = 'error' }")]),
    (
        "five conditions",
        &[(
            "include",
            "[{ kinds = 'span' }, { severity = 'fatal' }, { source = ['db-*', 'cache-*'] }, { name = '*.slow' }, \
              { attributes = { http.status_code = '5*', http.route = '/admin/*' } }]",
        )],
    ),
    (
        "eleven sources",
        &[("include", "{ source = ['a1-*', 'a2-*', 'a3-*', 'a4-*', 'b', 'c', 'd', 'e', '*.x', '*.y', '*.z'] }")],
    ),
    ("sample by trace", &[("sample.keep", "1/10")]),
    ("sample by event", &[("sample.keep", "1/10"), ("sample.by", "event")]),
    ("sample by source", &[("sample.keep", "1/10"), ("sample.by", "source")]),
    ("exclude and sample", &[("exclude", "{ severity = 'fatal' }"), ("sample.keep", "1/10"), ("sample.by", "event")]),
];

/// The same, of steps that write rows of their own. `n` at the end of the name: over counters of ten series in place of logs.
const ROWS: &[(&str, &[(&str, &str)])] = &[
    ("redact, no key matches", &[("redact", "{ attributes = ['password', '*.token'], action = 'remove' }")]),
    ("redact, no body matches", &[("redact", r"{ body = '\b\d{16}\b', action = 'mask' }")]),
    ("redact, remove one", &[("redact", "{ attributes = '*', action = 'remove' }")]),
    ("redact, mask a body", &[("redact", r"{ body = '[a-z]+', action = 'mask' }")]),
    ("collapse, all differ", &[("collapse", "true")]),
    ("aggregate, n", &[("aggregate.interval", "10s")]),
];

/// Counters of ten series.
fn counters() -> Vec<u8> {
    let attribute = |key: &str, value: String| Attribute { key: key.to_owned(), value: Some(StringValue(value)) };
    let event = |index: u32| Event {
        time_unix_nano: 1_767_323_045_000_000_000 + u64::from(index),
        kind: EventKind::Counter.into(),
        source: "api-1".to_owned(),
        name: "http.requests".to_owned(),
        value: Some(1.0),
        attributes: vec![attribute("path", format!("/{}", index % 10)), attribute("method", "GET".to_owned())],
        ..Event::default()
    };
    EventBatch { events: (0..EVENTS).map(event).collect() }.encode_to_vec()
}

fn delivery(payload: &[u8], origin: &Arc<Origin>) -> Delivery {
    let payload = Payload::Read(payload.to_vec().into());
    let run = Run { payload, events: EVENTS, received_unix_nano: 1, origin: origin.clone(), are_head_first: true };
    Delivery::new(vec![Arc::new(Batch::new(1, vec![run]))], 1..=EVENTS.into())
}

fn steps(criterion: &mut Criterion) {
    let mut sample = Sample::new(220);
    let batches: Vec<Vec<u8>> = (0..16).map(|_| sample.batch(EVENTS as usize).encoded.bytes().to_vec()).collect();
    let origin = Arc::new(Origin { agent_id: None, agent: None, default_source: "192.0.2.1".to_owned(), epoch: 0 });
    let deliveries: Vec<Delivery> = batches.iter().map(|batch| delivery(batch, &origin)).collect();
    let mut group = criterion.benchmark_group("steps");
    group.throughput(Throughput::Elements(EVENTS.into()));
    let mut next = batches.iter().cycle();
    group.bench_function("check_batch", |bench| {
        bench.iter(|| {
            let batch = next.next().expect("a cycle has no end");
            check_batch(black_box(batch), EVENTS as usize, |_, _, event| _ = black_box(event.is_ok()))
        });
    });
    for (name, settings) in CASES {
        let value = |key: &str| settings.iter().find(|(other, _)| *other == key).map(|(_, value)| *value);
        let steps = Steps::new(&StepSettings::read(value).expect("valid settings"), [7; 16]);
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        let kept: u64 = deliveries.iter().map(|delivery| steps.apply_to_events(delivery.clone()).events()).sum();
        let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
        let events = f64::from(EVENTS) * deliveries.len() as f64;
        println!("steps/{name}: {kept} of {events} kept, {:.4} allocations per event", allocations as f64 / events);
        let mut next = deliveries.iter().cycle();
        group.bench_function(*name, |bench| {
            bench.iter_batched(
                || next.next().expect("a cycle has no end").clone(),
                |delivery| black_box(steps.apply_to_events(delivery)),
                BatchSize::SmallInput,
            );
        });
    }
    let of_counters = [delivery(&counters(), &origin)];
    for (name, settings) in ROWS {
        let value = |key: &str| settings.iter().find(|(other, _)| *other == key).map(|(_, value)| *value);
        let steps = Steps::new(&StepSettings::read(value).expect("valid settings"), [7; 16]);
        let deliveries = if name.ends_with(", n") { &of_counters[..] } else { &deliveries };
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        let rows: u64 = deliveries.iter().map(|delivery| steps.apply(delivery.clone()).events()).sum();
        let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
        let events = f64::from(EVENTS) * deliveries.len() as f64;
        println!("steps/{name}: {rows} rows of {events}, {:.4} allocations per event", allocations as f64 / events);
        let mut next = deliveries.iter().cycle();
        group.bench_function(*name, |bench| {
            bench.iter_batched(
                || next.next().expect("a cycle has no end").clone(),
                |delivery| black_box(steps.apply(delivery)),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, steps);
criterion_main!(benches);
