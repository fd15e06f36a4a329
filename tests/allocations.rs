//! In steady state nothing is allocated for a frame or an event on its way from socket to batch.
//!
//! The real event loop and log thread run here, each counting its own allocations.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use support::agent::{RawAgent, batch, data, hello, log_line};
use support::server::wait_until;
use telemetryx::http;
use telemetryx::metrics::Metrics;
use telemetryx::net::{self, Door, EventLoop, Intake};
use telemetryx::pipeline::commit;
use telemetryx::pipeline::pool::Pool;
use telemetryx::pipeline::ring::ring;
use telemetryx::random::Random;
use telemetryx::router::{Drain, Router, Shared};
use telemetryx::session::marks::Marks;
use telemetryx::session::server::SessionSettings;
use telemetryx::sink::{self, Identity, SinkSettings};
use telemetryx::wire::AckLevel;

static LOOP: AtomicU64 = AtomicU64::new(0);
static LOG: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Where this thread's allocations are counted.
    static COUNTER: Cell<Option<&'static AtomicU64>> = const { Cell::new(None) };
}

struct Counting;

// SAFETY: every call is passed on to the system's allocator as it came.
#[expect(unsafe_code, reason = "an allocator that counts cannot be written without")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // Not `with`: the thread may be ending.
        let _ = COUNTER.try_with(|counter| counter.get().map(|counter| counter.fetch_add(1, Ordering::Relaxed)));
        // SAFETY: as the caller promised us.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised us.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const FRAME_BYTES: usize = 1 << 20;

/// Starts a server's threads in this process; the address it listens on.
fn start(directory: &std::path::Path, metrics: &Arc<Metrics>) -> std::net::SocketAddr {
    let parts = net::Parts::new().unwrap();
    let shared = Shared {
        identity: &Identity { server_id: [1; 16], owner: [2; 16] },
        data_dir: directory,
        log: None,
        share_bytes: 0,
        metrics,
        drain: Arc::new(Drain::default()),
        notify: Arc::new(|| {}),
    };
    let kind: sink::Settings = toml::from_str("kind = 'discard'").unwrap();
    let batch = sink::BatchSettings { max_events: 10_000, max_bytes: 4 << 20, max_age: Duration::from_millis(50) };
    let settings = SinkSettings { name: "discard".to_owned(), required: true, drops_oldest: false, batch, kind };
    let sink = sink::open("discard", &settings.kind, shared.identity);
    let (queue, router) = Router::start(&settings, sink, &shared).unwrap();
    std::mem::forget(router);
    let (mut sender, receiver) = ring(1024, Box::new(parts.wake()));
    let log_thread = thread::spawn(move || {
        COUNTER.set(Some(&LOG));
        commit::run(receiver, |_| {}, |batch| queue.offer(batch));
    });
    sender.set_log_thread(log_thread.thread().clone());
    let listener = net::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let settings = SessionSettings {
        server_id: [1; 16],
        max_frame_bytes: FRAME_BYTES as u32,
        window_bytes: 4 << 20,
        window_frames: 64,
        keepalive: Duration::from_secs(30),
        default_ack: AckLevel::Received,
        highest_ack: AckLevel::Received,
    };
    let door = Door::new(
        settings,
        http::Settings { max_body_bytes: 4 << 20, max_frame_bytes: FRAME_BYTES },
        Intake::new(Pool::new(32 << 20, Box::new(parts.wake())), FRAME_BYTES + 32),
        sender,
        Marks::new(100, Duration::from_secs(3600)),
        metrics.clone(),
        Random::seeded(1),
    );
    let mut event_loop = EventLoop::new(parts, listener, door, 100, Duration::from_secs(1)).unwrap();
    thread::spawn(move || {
        COUNTER.set(Some(&LOOP));
        event_loop.run().unwrap();
    });
    address
}

/// Sends `frames`, a few in flight, every other one torn in the middle.
fn send(agent: &mut RawAgent, payload: &[u8], frames: u64, seq: &mut u64) {
    for frame in 0..frames {
        *seq += 1;
        let bytes = data(*seq, payload);
        let (left, right) = bytes.split_at(if frame % 2 == 0 { bytes.len() / 2 } else { bytes.len() });
        agent.send(left);
        if !right.is_empty() {
            thread::yield_now();
            agent.send(right);
        }
        if seq.is_multiple_of(8) {
            agent.acknowledged(*seq);
        }
    }
    if !seq.is_multiple_of(8) {
        agent.acknowledged(*seq);
    }
}

#[test]
fn no_frame_and_no_event_allocates_between_socket_and_batch() {
    let directory = tempfile::tempdir().unwrap();
    let metrics = Metrics::new().unwrap();
    let address = start(directory.path(), &metrics);
    let delivered = metrics.sink("discard").events_delivered;
    let mut sent = 0;
    // Acknowledged is not yet batched: the log thread is done when its sink is.
    let mut settle = |events: u64| {
        sent += events;
        assert!(wait_until(Duration::from_secs(20), || delivered.get() == sent), "{} of {sent}", delivered.get());
    };
    let (mut agent, _) = RawAgent::greeted(address, hello([7; 16], 0));
    let mut seq = 0;
    for events in [1, 1000] {
        const WARM_UP: u64 = 200;
        const FRAMES: u64 = 400;
        let payload = batch((0..events).map(log_line).collect());
        // Queues and scratch reach their size: as many frames at once as are ever in flight, then torn ones.
        let burst: Vec<u8> = (1..=8).flat_map(|next| data(seq + next, &payload)).collect();
        agent.send(&burst);
        seq += 8;
        agent.acknowledged(seq);
        for cut in 1..32 {
            let bytes = data(seq + cut, &payload);
            agent.send(&bytes[..cut as usize]);
            thread::yield_now();
            agent.send(&bytes[cut as usize..]);
            agent.acknowledged(seq + cut);
        }
        seq += 31;
        settle(39 * events);
        // The rest of a multiple of 8, so that `send` hears its ACKs.
        send(&mut agent, &payload, WARM_UP + 1, &mut seq);
        settle((WARM_UP + 1) * events);
        let (loop_before, log_before) = (LOOP.load(Ordering::Relaxed), LOG.load(Ordering::Relaxed));
        send(&mut agent, &payload, FRAMES, &mut seq);
        settle(FRAMES * events);
        let in_loop = LOOP.load(Ordering::Relaxed) - loop_before;
        let in_log = LOG.load(Ordering::Relaxed) - log_before;
        println!("{FRAMES} frames of {events} events: {in_loop} allocations in the loop, {in_log} in the log thread");
        assert_eq!(in_loop, 0, "{FRAMES} frames of {events} events allocated in the event loop");
        // A batch has its list of runs and its shared head; there is at most one batch a frame.
        assert!(in_log <= 2 * FRAMES, "{in_log} allocations in the log thread");
    }
}
