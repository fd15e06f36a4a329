//! Nothing is allocated per event: not where a batch is checked, not where it is read, not where JSON becomes events, not
//! where a router gathers a delivery and a sink reads it.

// Counting allocations needs an allocator, which cannot be written without unsafe.
#![cfg(feature = "server")]
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use telemetryx::batch::{Batch, Delivery, Origin, Payload, Run};
use telemetryx::event::otlp::{EVENT_FIELD_BYTES_MAX, OtlpDecoder, Output, Signal};
use telemetryx::event::{Events, JsonDecoder, JsonOptions, JsonRecord, Map, check_batch, write_json};
use telemetryx::router::gather::{Due, Gather};
use telemetryx::router::steps::Steps;
use telemetryx::settings::steps::StepSettings;
use telemetryx::sink::BatchSettings;

struct Counting;

thread_local! {
    /// A thread of its own for each test: parallel tests do not disturb each other.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: (needed) the trait is unsafe. (sound) all is left to the system's allocator; the counter is a constant-
// initialised Cell without destructor, so touching it allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
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

fn allocations<T>(run: impl FnOnce() -> T) -> (usize, T) {
    let before = ALLOCATIONS.get();
    let result = run();
    (ALLOCATIONS.get() - before, result)
}

const LINE: &str = r#"{"time":"2026-11-23T20:15:48.123456789Z","kind":"log","severity":"info","source":"api","name":"request",
    "body":"GET /v1/users/12345 took 12.4 ms, größer als sonst","value":12.4,"trace_id":"000102030405060708090a0b0c0d0e0f",
    "attributes":{"http":{"method":"GET","status":200},"cached":false,"tags":["a","b",{"c":1.5}]}}"#;

fn lines(events: usize) -> String {
    (LINE.replace('\n', " ") + "\n").repeat(events)
}

fn batch(events: usize) -> Vec<u8> {
    let mut batch = Vec::new();
    let decoded = JsonDecoder::new().lines(lines(events).as_bytes(), |field| {
        batch.extend_from_slice(field);
        Ok::<(), ()>(())
    });
    assert_eq!(decoded.unwrap().accepted, events);
    batch
}

#[test]
fn checking_a_batch_allocates_nothing() {
    let batch = batch(1_000);
    let (count, counts) = allocations(|| {
        check_batch(&batch, usize::MAX, |_, _, event| {
            event.unwrap();
        })
    });
    assert_eq!((count, counts.unwrap().accepted), (0, 1_000));
}

#[test]
fn refusing_an_event_allocates_nothing() {
    let batch = [0x0a, 0].repeat(1_000);
    let (count, counts) = allocations(|| check_batch(&batch, usize::MAX, |_, _, event| assert!(event.is_err())));
    assert_eq!((count, counts.unwrap().rejected), (0, 1_000));
}

#[test]
fn reading_a_batch_allocates_nothing() {
    let batch = batch(1_000);
    let (count, bytes) = allocations(|| {
        Events::accepted(&batch)
            .map(|event| {
                event.name().len() + event.body().len() + event.attributes().map(|(key, _)| key.len()).sum::<usize>()
            })
            .sum::<usize>()
    });
    assert_eq!(count, 0);
    assert!(bytes > 50_000);
}

#[test]
fn decoding_json_allocates_nothing_once_its_buffers_are_there() {
    let (body, array) = (lines(1_000), format!("[{}]", vec![LINE; 1_000].join(",")));
    let mut decoder = JsonDecoder::new();
    decoder.lines(body.as_bytes(), |_| Ok::<(), ()>(())).unwrap();
    let (count, decoded) = allocations(|| decoder.lines(body.as_bytes(), |_| Ok::<(), ()>(())));
    assert_eq!((count, decoded.unwrap().accepted), (0, 1_000));
    let (count, decoded) = allocations(|| decoder.document(array.as_bytes(), |_| Ok::<(), ()>(())));
    assert_eq!((count, decoded.unwrap().accepted), (0, 1_000));
}

#[test]
fn decoding_json_of_other_agents_allocates_nothing_once_its_buffers_are_there() {
    let line = r#"{"level":"warn","ts":1795771426.1240017,"caller":"a.go:12","msg":"größer","req":{"url":"/","tags":["a",1]}}"#;
    let body = format!("{line}\n").repeat(1_000);
    let options = JsonOptions { map: Some(Map::Zap), ..JsonOptions::default() };
    let mut decoder = JsonDecoder::with_options(options);
    decoder.lines(line.as_bytes(), |_| Ok::<(), ()>(())).unwrap();
    let (count, decoded) = allocations(|| decoder.lines(body.as_bytes(), |_| Ok::<(), ()>(())));
    assert_eq!((count, decoded.unwrap().accepted), (0, 1_000));
}

#[test]
fn writing_json_allocates_nothing_but_its_output() {
    let batch = batch(100);
    let mut out = Vec::with_capacity(1 << 20);
    let (count, ()) =
        allocations(|| Events::accepted(&batch).for_each(|event| write_json(&JsonRecord::event(event), &mut out)));
    assert_eq!(count, 0);
}

/// One run of so many events.
fn one_run(events: u32) -> Delivery {
    let origin = Arc::new(Origin { agent_id: None, agent: None, default_source: "192.0.2.1".to_owned(), epoch: 0 });
    let payload = Payload::Read(batch(events as usize).into());
    let batch = Batch::new(1, vec![Run { payload, events, received_unix_nano: 1, origin, are_head_first: true }]);
    Delivery::new(vec![Arc::new(batch)], 1..=events.into())
}

/// Allocations of the steps for a delivery of so many events.
fn allocations_of_steps(settings: &[(&str, &str)], events: u32) -> usize {
    let value = |key: &str| settings.iter().find(|(other, _)| *other == key).map(|(_, value)| *value);
    let steps = Steps::new(&StepSettings::read(value).unwrap(), [7; 16]);
    let delivery = one_run(events);
    allocations(|| steps.apply_to_events(delivery)).0
}

#[test]
fn steps_allocate_nothing_per_event() {
    for settings in [
        &[
            ("include", "[{ kinds = 'span' }, { attributes = { http.status = '2*' } }]"),
            ("exclude", "{ source = '*x' }"),
        ][..],
        &[("exclude", "{ name = 'request' }")],
        &[("sample.keep", "1/1000"), ("sample.by", "event")],
        &[("sample.keep", "1/2"), ("sample.by", "event")],
        &[("sample.keep", "1/10"), ("sample.by", "attributes.http.status")],
    ] {
        let (few, many) = (allocations_of_steps(settings, 1_000), allocations_of_steps(settings, 16_000));
        // Lists and the bytes of the rows grow by doubling.
        assert!(few <= 40 && many <= few + 20, "{settings:?}: {few} for 1,000 events, {many} for 16,000");
    }
}

/// `runs` runs of one event each.
fn single_events(first_position: u64, runs: u64) -> Arc<Batch> {
    let origin = Arc::new(Origin { agent_id: None, agent: None, default_source: "192.0.2.1".to_owned(), epoch: 0 });
    let run =
        Run { payload: Payload::Read(batch(1).into()), events: 1, received_unix_nano: 1, origin, are_head_first: true };
    Arc::new(Batch::new(first_position, vec![run; usize::try_from(runs).unwrap()]))
}

#[test]
fn a_delivery_allocates_a_list_of_batches_and_nothing_per_run_or_event() {
    let now = Instant::now();
    let mut gather = Gather::new(
        BatchSettings { max_events: 1_000, max_bytes: 1 << 20, max_age: Duration::from_secs(1) },
        Arc::default(),
    );
    for round in 0..3 {
        let first = 1 + round * 1_000;
        let batch = single_events(first, 1_000);
        let (count, events) = allocations(|| {
            gather.take(batch);
            let Due::Now(delivery) = gather.due(now) else { panic!("the delivery is full") };
            let events = delivery.records().filter(|record| !record.event.name().is_empty()).count();
            gather.reuse(delivery);
            gather.stored(first + 999);
            events
        });
        assert_eq!(events, 1_000);
        assert!(round == 0 || count <= 1, "{count} allocations");
    }
}

/// A request with so many log records in JSON: a body that is a list, an array and a list among the attributes.
fn otlp_json(records: usize) -> String {
    let record = r#"{"timeUnixNano":"1795464948000000000","severityNumber":9,"traceId":"5B8EFFF798038103D269B633813FC60C",
        "body":{"kvlistValue":{"values":[{"key":"order","value":{"intValue":"7"}}]}},"attributes":[
        {"key":"path","value":{"stringValue":"/orders/7"}},{"key":"status","value":{"intValue":200}},
        {"key":"tags","value":{"arrayValue":{"values":[{"stringValue":"a"},{"doubleValue":1.5}]}}},
        {"key":"http","value":{"kvlistValue":{"values":[{"key":"method","value":{"stringValue":"GET"}}]}}}]}"#;
    let resource = r#"{"attributes":[{"key":"service.name","value":{"stringValue":"shop"}}]}"#;
    let records = vec![record; records].join(",");
    format!(r#"{{"resourceLogs":[{{"resource":{resource},"scopeLogs":[{{"scope":{{}},"logRecords":[{records}]}}]}}]}}"#)
}

/// Room for one event, again and again.
struct OneEvent(Vec<u8>);

impl Output for OneEvent {
    type Error = ();

    fn room(&mut self) -> Result<&mut [u8], ()> {
        Ok(&mut self.0)
    }

    fn wrote(&mut self, _: usize) {}

    fn reject(&mut self, _: &[&[u8]]) -> Result<(), ()> {
        Err(())
    }
}

#[test]
fn mapping_otlp_allocates_nothing_per_record() {
    let mut decoder = OtlpDecoder::new();
    let mut out = OneEvent(vec![0; EVENT_FIELD_BYTES_MAX]);
    let bodies = [otlp_json(10), otlp_json(10), otlp_json(1_000)];
    let [_, few, many] = bodies.each_ref().map(|body| {
        let (count, decoded) = allocations(|| decoder.json(Signal::Logs, body.as_bytes(), &mut out));
        assert!(decoded.unwrap().rejected.total == 0);
        count
    });
    assert_eq!(few, many, "allocations for 10 and for 1,000 records in JSON");
    let bodies = [10, 10, 1_000].map(|records| otlp_protobuf(&otlp_json(records)));
    let [_, few, many] = bodies.each_ref().map(|body| {
        let (count, decoded) = allocations(|| decoder.protobuf(Signal::Logs, body, &mut out));
        assert!(decoded.unwrap().accepted >= 10);
        count
    });
    assert_eq!(few, many, "allocations for 10 and for 1,000 records in protobuf");
}

/// The request in protobuf: every record of it is rejected in JSON by a time, and kept as it is, but for that time.
fn otlp_protobuf(json: &str) -> Vec<u8> {
    struct Rejected(Vec<u8>, Vec<u8>);

    impl Output for Rejected {
        type Error = ();

        fn room(&mut self) -> Result<&mut [u8], ()> {
            Ok(&mut self.1)
        }

        fn wrote(&mut self, _: usize) {}

        fn reject(&mut self, pieces: &[&[u8]]) -> Result<(), ()> {
            pieces.iter().for_each(|piece| self.0.extend_from_slice(piece));
            Ok(())
        }
    }

    let json = json.replace("\"1795464948000000000\"", "\"9223372036854775808\"");
    let mut out = Rejected(Vec::new(), vec![0; EVENT_FIELD_BYTES_MAX]);
    OtlpDecoder::new().json(Signal::Logs, json.as_bytes(), &mut out).unwrap();
    // The time below 2^63.
    let time = 9_223_372_036_854_775_808_u64.to_le_bytes();
    let mut request = out.0;
    for at in 0..request.len() - 8 {
        if request[at..at + 8] == time {
            request[at + 7] = 0x10;
        }
    }
    request
}
