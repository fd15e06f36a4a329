//! Nothing is allocated per event: not where a batch is checked, not where it is read, not where JSON becomes events.

// Counting allocations needs an allocator, which cannot be written without unsafe.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use telemetryx::event::{Events, JsonDecoder, JsonRecord, check_batch, write_json};

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
    decoder.lines(LINE.replace('\n', " ").as_bytes(), |_| Ok::<(), ()>(())).unwrap();
    let (count, decoded) = allocations(|| decoder.lines(body.as_bytes(), |_| Ok::<(), ()>(())));
    assert_eq!((count, decoded.unwrap().accepted), (0, 1_000));
    let (count, decoded) = allocations(|| decoder.document(array.as_bytes(), |_| Ok::<(), ()>(())));
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
