//! In steady state nothing is allocated for a frame or an event on its way from socket to batch.
//!
//! The real event loop and log thread run here, each counting its own allocations.
#![cfg(feature = "server")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use support::agent::{RawAgent, batch, data, hello, log_line};
use support::server::wait_until;
use telemetryx::batch::Batch;
use telemetryx::batch::pool::Pool;
use telemetryx::event::UnknownKeys;
use telemetryx::http;
use telemetryx::ids::LoopId;
use telemetryx::metrics::Metrics;
use telemetryx::net::{self, ConnectionLimits, EventLoop, Ingress, Intake, LoopState, Loops, Mailbox};
use telemetryx::pipeline::group_commit::{self, GroupCommit, Holder, LoopEnd, Outlets};
use telemetryx::pipeline::ring::ring;
use telemetryx::pipeline::rings::Rings;
use telemetryx::pipeline::watermark::Watermarks;
use telemetryx::pipeline::without_log;
use telemetryx::random::Random;
use telemetryx::rate::Limit;
use telemetryx::router::{Drain, Router, Shared, SinkProgress};
use telemetryx::session::marks::Marks;
use telemetryx::session::rates::{RateSettings, Rates};
use telemetryx::session::server::SessionSettings;
use telemetryx::settings::steps::StepSettings;
use telemetryx::sink::{self, Identity, SinkSettings};
use telemetryx::time::Now;
use telemetryx::wal::{self, DirStorage};
use telemetryx::wire::AckLevel;

/// The sink, as the log keeps events for it.
struct Discard(Arc<SinkProgress>);

impl Holder for Discard {
    fn position(&self) -> u64 {
        self.0.position()
    }

    fn drops_oldest(&self) -> bool {
        false
    }

    fn name(&self) -> &str {
        self.0.name()
    }
}

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

/// Starts a server's threads in this process, with a log or without; the address it listens on.
fn start(
    directory: &std::path::Path,
    metrics: &Arc<Metrics>,
    with_log: bool,
    rates: RateSettings,
) -> std::net::SocketAddr {
    let parts = net::Parts::new().unwrap();
    let log = with_log.then(|| {
        let settings = wal::Settings {
            dir: directory.join("wal"),
            segment_bytes: 16 << 20,
            max_bytes: 1 << 30,
            keep: Duration::ZERO,
            max_agents: 100,
            dedupe_retention: Duration::from_secs(3600),
        };
        let storage = Arc::new(DirStorage::create(&settings.dir).unwrap());
        wal::open(&settings, storage, &mut Random::seeded(2), 1).unwrap()
    });
    let shared = Shared {
        identity: &Identity { server_id: [1; 16], owner: [2; 16], log_end: u64::MAX },
        data_dir: directory,
        log: log.as_ref().map(|opened| opened.log.clone()),
        log_bytes_max: 1 << 30,
        share_bytes: 8 << 20,
        metrics,
        drain: Arc::new(Drain::default()),
        notify: Arc::new(|| {}),
    };
    let config = Box::new(sink::discard::DiscardSettings {});
    let batch = sink::BatchSettings { max_events: 10_000, max_bytes: 4 << 20, max_age: Duration::from_millis(50) };
    let (name, steps) = ("discard".to_owned(), StepSettings::default());
    let settings = SinkSettings { name, kind: "test", required: true, drops_oldest: false, steps, batch, config };
    let sink = settings.open(shared.identity);
    let (queue, router) = Router::start(&settings, sink, &shared).unwrap();
    let (mut sender, receiver) = ring(1024, Box::new(parts.wake()));
    let rings = Rings::new(vec![receiver]);
    let watermarks = Arc::new(Watermarks::default());
    let progress = router.progress().clone();
    std::mem::forget(router);
    let log_parts = log.map(|opened| group_commit::Parts {
        writer: opened.writer,
        holders: vec![Box::new(Discard(progress))],
        loops: vec![LoopEnd { watermarks: watermarks.clone(), wake: Box::new(parts.wake()) }],
        health: Arc::default(),
        metrics: metrics.clone(),
        is_over: Box::new(|_| panic!("the log takes everything")),
    });
    let log_thread = thread::spawn(move || {
        COUNTER.set(Some(&LOG));
        match log_parts {
            Some(parts) => {
                let offer = Box::new(move |batch: &Arc<Batch>| queue.offer(batch));
                let outlets = Outlets { keep_refused: Box::new(|_| Ok(())), offer };
                let group_commit = GroupCommit::new(parts, outlets, rings, Now::read());
                group_commit::thread::run(group_commit, |_| panic!("the log takes everything"));
            }
            None => without_log::run(rings, |_| {}, |batch| queue.offer(batch)),
        }
    });
    sender.set_log_thread(log_thread.thread().clone());
    let listener = net::bind("127.0.0.1:0".parse().unwrap()).unwrap().listen().unwrap();
    let address = listener.local_addr().unwrap();
    let level = if with_log { AckLevel::Synced } else { AckLevel::Received };
    let settings = SessionSettings {
        server_id: [1; 16],
        max_frame_bytes: FRAME_BYTES as u32,
        window_bytes: 4 << 20,
        window_frames: 64,
        keepalive: Duration::from_secs(30),
        default_ack: level,
        highest_ack: level,
    };
    let http = http::Settings {
        max_body_bytes: 4 << 20,
        max_frame_bytes: FRAME_BYTES,
        idle_timeout: Duration::from_secs(75),
        unknown_keys: UnknownKeys::Reject,
    };
    let pool = Pool::new(32 << 20, Box::new(parts.wake()));
    let shared = Arc::new(net::Shared {
        settings,
        http,
        syslog: None,
        limits: ConnectionLimits { lingering: 0, max_connections: 100, max_unauthenticated: 100 },
        policy: net::Newest::new(net::Policy { rates: Rates::new(rates, Instant::now()), ..net::Policy::default() }),
        marks: Mutex::new(Marks::new(100, Duration::from_secs(3600))),
        metrics: metrics.clone(),
        watermarks: vec![watermarks],
        health: Arc::default(),
        loops: Loops::new(vec![Mailbox::new(parts.wake())]),
        states: vec![LoopState::new(pool.gauge(), sender.gauge())],
        log_lines: net::LogLines::default(),
        sinks: Box::new(Vec::new),
        status: net::StatusSources::default(),
        delivered_position: Box::new(|| 0),
        on_end: Box::new(|| {}),
        hangup_reloads: false,
        on_reload: Box::new(|| {}),
    });
    let intake = Intake::new(pool, FRAME_BYTES + 32);
    let ingress = Ingress::new(shared, LoopId(0), intake, sender, Random::seeded(1), 0);
    let mut event_loop = EventLoop::new(parts, Some(listener), ingress, Duration::from_secs(1)).unwrap();
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
    // The default of `log.filter`: spans of connections and commits are left out, as in a server.
    tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).with_writer(std::io::sink).init();
    // One after the other: they share the counters.
    no_allocation(false, RateSettings::default());
    no_allocation(true, RateSettings::default());
    // Limits that are looked at and charged, and that make the agent wait now and then.
    let limit = |bytes| Limit::new(1_000_000, bytes, Duration::from_secs(1));
    no_allocation(true, RateSettings { server: limit(0), agent: limit(40_000_000), clients: Vec::new() });
}

fn no_allocation(with_log: bool, rates: RateSettings) {
    let directory = tempfile::tempdir().unwrap();
    let metrics = Metrics::new().unwrap();
    let address = start(directory.path(), &metrics, with_log, rates);
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
        println!(
            "{FRAMES} frames of {events} events, log {with_log}: {in_loop} allocations in the loop, {in_log} in the log thread"
        );
        assert_eq!(in_loop, 0, "{FRAMES} frames of {events} events allocated in the event loop");
        // A batch has its list of runs and its shared head, with a log also the lists of what is written; there is at most
        // one batch a frame. Beginning a segment takes a few more.
        let a_batch = if with_log { 6 } else { 2 };
        assert!(in_log <= a_batch * FRAMES, "{in_log} allocations in the log thread");
    }
}
