//! HTTP bodies in the loop itself, over real sockets: the turns and the clock are the test's.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use mio::Events;

use super::*;
use crate::batch::pool::Buffer;
use crate::batch::shares::Shares;
use crate::http;
use crate::limits::{FRAME_BYTES_LOWEST, HTTP_ACK_TIMEOUT, KEEPALIVE, POOL_PAGE_BYTES, RING_SLOTS};
use crate::net::connection::Phase;
use crate::net::event_loop::{ConnectionLimits, LISTENER, Parts};
use crate::net::{Ingress, testing};
use crate::pipeline::ring::{SlotReceiver, ring};
use crate::session::server::SessionSettings;
use crate::session::tokens::Tokens;
use crate::wire::AckLevel;
use crate::wire::header::MAGIC;

const FRAME: usize = FRAME_BYTES_LOWEST;
const BODY: usize = 512 * 1024;
const SLOW: Duration = Duration::from_secs(8);

struct Bench {
    event_loop: EventLoop,
    events: Events,
    address: SocketAddr,
    /// What the log thread would take.
    slots: SlotReceiver,
}

impl Bench {
    /// A loop with the smallest pool that its settings allow.
    fn new() -> Self {
        let parts = Parts::new().unwrap();
        let (sender, slots) = ring(RING_SLOTS, Box::new(|| {}));
        let pool =
            Pool::divided(Shares::new(Shares::lowest_buffer_bytes(BODY, FRAME), BODY, FRAME), Box::new(parts.wake()));
        let settings = SessionSettings {
            server_id: [1; 16],
            max_frame_bytes: FRAME as u32,
            window_bytes: 4 * FRAME as u32,
            window_frames: 4,
            keepalive: KEEPALIVE,
            default_ack: AckLevel::Synced,
            highest_ack: AckLevel::Synced,
        };
        let http =
            http::Settings { max_body_bytes: BODY, max_frame_bytes: FRAME, ..super::super::tests::http_settings() };
        let limits = ConnectionLimits { lingering: 10, max_connections: 100, max_unauthenticated: 100 };
        let ingress = testing::ingress(settings, http, limits, Tokens::default(), (pool, sender));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let event_loop = EventLoop::new(parts, Some(listener), ingress, Duration::from_secs(1)).unwrap();
        Self { event_loop, events: Events::with_capacity(64), address, slots }
    }

    /// What the loop does once; the clock stands still.
    fn turn(&mut self) {
        let event_loop = &mut self.event_loop;
        event_loop.listener.as_mut().unwrap().begin_turn(event_loop.ingress.now);
        event_loop.poll.poll(&mut self.events, Some(Duration::from_millis(2))).unwrap();
        for event in &self.events {
            match event.token() {
                LISTENER => event_loop.listener.as_mut().unwrap().set_ready(),
                token if token.0 < 1000 => event_loop.note(token.0, event),
                _ => {}
            }
        }
        event_loop.accept();
        event_loop.serve_ready();
        event_loop.serve_waiting();
        event_loop.ingress.end_turn();
        event_loop.acknowledge();
        event_loop.fire_timers();
    }

    /// Turns until `done`, or a bounded number of them.
    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        for _ in 0..2_000 {
            if done(self) {
                return;
            }
            self.turn();
        }
        panic!("{what}");
    }

    fn later(&mut self, time: Duration) {
        self.event_loop.ingress.now += time;
    }

    /// A connected peer; its connection is the newest.
    fn connect(&mut self) -> TcpStream {
        let before = self.event_loop.connections.opened();
        let peer = TcpStream::connect(self.address).unwrap();
        peer.set_nonblocking(true).unwrap();
        self.until("accepted", |bench| bench.event_loop.connections.opened() > before);
        peer
    }

    fn newest(&self) -> ConnectionId {
        let ids = self.event_loop.connections.iter().map(|connection| connection.id);
        ids.max().unwrap()
    }

    fn send(&mut self, peer: &mut TcpStream, mut bytes: &[u8]) {
        self.until("sent", |_| {
            match peer.write(bytes) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            bytes.is_empty()
        });
    }

    /// A POST of `length` bytes, of which `sent` are sent and received.
    fn post(&mut self, length: usize, sent: usize) -> (TcpStream, ConnectionId) {
        let mut peer = self.connect();
        let id = self.newest();
        self.send(&mut peer, head(length).as_bytes());
        self.send(&mut peer, &lines(length)[..sent]);
        self.until("received", |bench| match &bench.event_loop.connections.get(id).unwrap().phase {
            Phase::Open(protocol) => received(protocol.http().unwrap()) >= sent,
            Phase::Undecided => false,
            // Refused.
            _ => true,
        });
        (peer, id)
    }

    fn machine(&self, id: ConnectionId) -> Option<&http::Connection> {
        self.event_loop.connections.get(id)?.protocol()?.http()
    }

    fn is_open(&mut self, id: ConnectionId) -> bool {
        self.machine(id).is_some()
    }

    /// Whether `/ready` says that a POST was refused for want of memory.
    fn post_refused(&self) -> bool {
        let Ingress { shared, now, .. } = &self.event_loop.ingress;
        shared.not_ready(*now).contains(&"buffers_exhausted")
    }

    fn pool_in_use(&self) -> usize {
        self.event_loop.ingress.intake.pool().bytes_in_use()
    }

    /// Takes all that is free of the share of agents: the pool is full of events that no sink takes.
    fn fill(&mut self) -> Vec<Buffer> {
        let mut taken = Vec::new();
        drop(self.event_loop.ingress.intake.take_current());
        for bytes in [16 * POOL_PAGE_BYTES, POOL_PAGE_BYTES] {
            while let Some(buffer) = self.event_loop.ingress.intake.take(bytes) {
                taken.push(buffer);
            }
        }
        taken
    }

    /// Waits for the status of the next answer.
    fn status(&mut self, peer: &mut TcpStream) -> String {
        let mut answer = Vec::new();
        self.until("an answer", |_| {
            let mut bytes = [0; 4096];
            match peer.read(&mut bytes) {
                Ok(read) => answer.extend_from_slice(&bytes[..read]),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            answer.len() >= 12
        });
        String::from_utf8_lossy(&answer[9..12]).into_owned()
    }

    /// The log thread takes what there is.
    fn take_slots(&mut self) {
        self.slots.take(RING_SLOTS, &mut Vec::new(), |_| false);
    }
}

fn head(length: usize) -> String {
    format!(
        "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\nContent-Length: {length}\r\n\r\n"
    )
}

fn lines(bytes: usize) -> Vec<u8> {
    let mut body = format!("{{\"name\":\"a\",\"body\":\"{}\"}}\n", "b".repeat(970)).repeat(bytes / 1000).into_bytes();
    body.resize(bytes, b'\n');
    body
}

/// Bytes of a body that were received, roughly: what it holds of the budget; all, once it is in the pool or whole.
fn received(machine: &http::Connection) -> usize {
    let is_in_pool = !machine.body_pages().is_empty() || machine.waiting_for().is_some();
    if is_in_pool { usize::MAX } else { machine.beginning_bytes() }
}

#[test]
fn as_few_slow_bodies_are_closed_as_free_enough_of_the_budget() {
    for (sizes, needed, expected) in [
        (&[256, 512, 64, 1024][..], 1, &[0][..]),
        (&[256, 512, 64, 1024], 256, &[0]),
        (&[256, 512, 64, 1024], 257, &[1]),
        (&[256, 512, 64, 1024], 800, &[0, 1, 2]),
        (&[256, 512, 64, 1024], 1_600, &[1, 2, 3]),
        (&[256, 512, 64, 1024], 1_856, &[0, 1, 2, 3]),
        (&[256, 512, 64, 1024], 1_857, &[]),
        (&[], 1, &[]),
        (&[256], 0, &[]),
    ] {
        assert_eq!(fewest_sizes(sizes, needed), expected, "{needed}");
    }
}

#[test]
fn as_few_slow_bodies_are_closed_as_make_a_place_in_the_pool() {
    let mut pool = Pool::new(16 * POOL_PAGE_BYTES, Box::new(|| {}));
    let buffers: Vec<_> = (0..16).map(|_| pool.allocate(POOL_PAGE_BYTES).unwrap()).collect();
    let choose = |pool: &Pool, slow: &[usize], pages: usize| {
        let held: Vec<_> = slow.iter().map(|index| buffers[*index].pages()).collect();
        fewest_pages(pool, &held, Share::Bodies, pages * POOL_PAGE_BYTES)
    };
    for (slow, pages, expected) in [
        (&[5, 1, 9, 6, 2][..], 1, &[0][..]),
        (&[5, 1, 9, 6, 2], 2, &[0, 3]),
        (&[5, 1, 9, 6, 2], 3, &[]),
        (&[5, 1, 9, 7, 6, 2], 3, &[0, 3, 4]),
        (&[], 1, &[]),
    ] {
        assert_eq!(choose(&pool, slow, pages), expected, "{pages} pages of {slow:?}");
    }
}

#[test]
fn no_slow_body_is_closed_where_that_cannot_help() {
    let mut bench = Bench::new();
    let (_slow, slow) = bench.post(100 * 1024, 80 * 1024);
    let _events = bench.fill();
    bench.later(SLOW);
    assert!(bench.machine(slow).is_some_and(|http| http.body_pages().len() == 25));
    let (mut large, _) = bench.post(200 * 1024, 70 * 1024);
    assert_eq!(bench.status(&mut large), "503", "there is no place of its size even without the slow one");
    assert!(bench.is_open(slow) && bench.post_refused());
    bench.event_loop.ingress.state().post_refused.set(None);
    let (_small, small) = bench.post(90 * 1024, 70 * 1024);
    assert!(!bench.is_open(slow) && bench.is_open(small), "a smaller one takes the slow one's place");
    assert!(!bench.post_refused(), "nothing was refused");
}

#[test]
fn while_agents_wait_only_slow_bodies_are_closed_whose_memory_they_can_use() {
    let mut bench = Bench::new();
    let (_beginning, beginning) = bench.post(60 * 1024, 30 * 1024);
    let (_slow, slow) = bench.post(400 * 1024, 80 * 1024);
    bench.later(SLOW);
    let agent = bench.connect();
    let waiting = bench.newest();
    // An agent that is in line; what it would read does not matter here.
    bench.event_loop.connections.get_mut(waiting).unwrap().waiting = true;
    bench.event_loop.waiting.push_back(waiting);
    bench.event_loop.ingress.set_starved_since(Some(bench.event_loop.ingress.now));
    assert!(bench.event_loop.ingress.intake.prepare());
    bench.event_loop.press_partial();
    assert!(bench.is_open(slow) && bench.is_open(beginning), "there is memory: they wait for something else");

    let events = bench.fill();
    let current = bench.event_loop.ingress.intake.take_current();
    bench.event_loop.press_partial();
    assert!(!bench.is_open(slow), "its memory is a place to read into");
    assert!(bench.is_open(beginning), "it holds none of the pool");
    assert!(bench.event_loop.ingress.intake.lacks().is_none_or(|bytes| bytes <= FRAME), "a place for a partial frame");
    drop((events, current, agent));
}

#[test]
fn while_agents_wait_a_beginning_takes_the_place_of_a_slower_one() {
    let mut bench = Bench::new();
    // One body has all of the budget.
    bench.event_loop.ingress.beginnings = http::Beginnings::new(32 * 1024);
    let (_slow, slow) = bench.post(60 * 1024, 30 * 1024);
    assert_eq!(bench.event_loop.ingress.beginnings.left(), 0);
    bench.later(SLOW);
    let mut peer = bench.connect();
    let newcomer = bench.newest();
    bench.send(&mut peer, &[head(60_000).as_bytes(), &[b'\n'; 100]].concat());
    bench.until("the slow one is closed", |bench| {
        // Its memory is not of the pool, so it is of no use to agents.
        bench.event_loop.ingress.set_starved_since(Some(bench.event_loop.ingress.now));
        !bench.is_open(slow)
    });
    assert!(bench.is_open(newcomer) && !bench.post_refused());
}

#[test]
fn a_request_after_one_that_was_answered_504_is_read_at_once() {
    let mut bench = Bench::new();
    let (mut peer, id) = bench.post(2_000, 2_000);
    bench.until("it waits for the log", |bench| bench.machine(id).is_some_and(|http| http.waiting_for().is_some()));
    // It stays in the socket.
    bench.send(&mut peer, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
    for _ in 0..5 {
        bench.turn();
    }
    bench.later(HTTP_ACK_TIMEOUT);
    let mut answers = Vec::new();
    bench.until("both answers", |_| {
        let mut bytes = [0; 4096];
        if let Ok(read) = peer.read(&mut bytes) {
            answers.extend_from_slice(&bytes[..read]);
        }
        let text = String::from_utf8_lossy(&answers);
        text.contains("HTTP/1.1 504 ") && text.contains("HTTP/1.1 200 ")
    });
}

/// A whole body whose client is gone gives its memory back; one whose client has only ended its half keeps waiting.
#[test]
fn a_peer_that_is_gone_leaves_the_line() {
    let mut bench = Bench::new();
    bench.event_loop.ingress.finishing = true;
    // Somebody else is first in line and stays there.
    let (first, _) = bench.post(100 * 1024, 80 * 1024);
    let first_id = bench.newest();
    let events = bench.fill();
    bench.event_loop.finishing.push_front(first_id);
    let rest = |bench: &mut Bench, peer: &mut TcpStream| bench.send(peer, &lines(100 * 1024)[80 * 1024..]);
    drop(events);
    let (mut gone, gone_id) = bench.post(100 * 1024, 80 * 1024);
    let (mut half, half_id) = bench.post(100 * 1024, 80 * 1024);
    let _full: Vec<_> =
        std::iter::from_fn(|| bench.event_loop.ingress.intake.take_to_finish(POOL_PAGE_BYTES, false)).collect();
    for (peer, id) in [(&mut gone, gone_id), (&mut half, half_id)] {
        rest(&mut bench, peer);
        bench.until("in line", |bench| {
            bench.event_loop.connections.get(id).is_some_and(|connection| connection.waiting)
        });
    }
    half.shutdown(Shutdown::Write).unwrap();
    for _ in 0..5 {
        bench.turn();
    }
    assert!(bench.is_open(half_id) && bench.is_open(gone_id));
    let before = bench.pool_in_use();
    socket2::SockRef::from(&gone).set_linger(Some(Duration::ZERO)).unwrap();
    drop(gone);
    bench.until("the memory is back", |bench| bench.pool_in_use() <= before - 100 * 1024);
    assert!(!bench.is_open(gone_id) && bench.is_open(half_id));
    drop((first, _full));
    bench.take_slots();
    bench.until("it is finished", |bench| bench.machine(half_id).is_some_and(|http| http.waiting_for().is_some()));
}

/// What comes later does not take what the first in line waits for.
#[test]
fn whole_bodies_are_finished_in_order() {
    let mut bench = Bench::new();
    let (mut first, first_id) = bench.post(400 * 1024, 80 * 1024);
    let mut full: Vec<_> =
        std::iter::from_fn(|| bench.event_loop.ingress.intake.take_to_finish(POOL_PAGE_BYTES, false)).collect();
    bench.send(&mut first, &lines(400 * 1024)[80 * 1024..]);
    bench.until("in line", |bench| bench.event_loop.finishing.contains(&first_id));
    // Enough for a small one, not for the first.
    full.truncate(full.len() - FRAME / POOL_PAGE_BYTES - 1);
    let _small = bench.post(2_000, 2_000);
    for _ in 0..5 {
        bench.turn();
    }
    assert!(bench.event_loop.finishing.front() == Some(&first_id));
    drop(full);
    bench.until("the first is finished", |bench| {
        bench.machine(first_id).is_some_and(|http| http.waiting_for().is_some())
    });
    bench.until("all are finished", |bench| {
        bench.event_loop.finishing.is_empty() && !bench.event_loop.ingress.finishing
    });
}

/// A small body behind a large one that finds no room is tried before its 503, with memory that the large one does not wait for.
#[test]
fn a_small_body_behind_a_large_one_has_a_try_of_its_own() {
    let mut bench = Bench::new();
    // Unpacked it may have the largest size, in one piece: beside itself there is no such place.
    let mut first = bench.connect();
    let first_id = bench.newest();
    let gzip = head(100 * 1024).replace("\r\n\r\n", "\r\nContent-Encoding: gzip\r\n\r\n");
    bench.send(&mut first, &[gzip.as_bytes(), &lines(80 * 1024)].concat());
    bench.until("admitted", |bench| bench.machine(first_id).is_some_and(|http| !http.body_pages().is_empty()));
    let take = |bench: &mut Bench, is_received: bool| {
        let intake = &mut bench.event_loop.ingress.intake;
        std::iter::from_fn(|| intake.take_to_finish(POOL_PAGE_BYTES, is_received)).collect::<Vec<_>>()
    };
    let received = take(&mut bench, true);
    let full = take(&mut bench, false);
    bench.send(&mut first, &lines(100 * 1024)[80 * 1024..]);
    bench.until("in line", |bench| bench.event_loop.finishing.contains(&first_id));
    let mut small = Vec::new();
    for _ in 0..2 {
        let mut peer = bench.connect();
        let id = bench.newest();
        bench.send(&mut peer, &[head(2_000).as_bytes(), &lines(2_000)].concat());
        bench.until("the small one is in line", |bench| bench.event_loop.finishing.contains(&id));
        small.push((peer, id));
    }
    drop(received);
    bench.later(crate::limits::HTTP_FINISH_RETRY);
    // One frame's buffer is enough for both, one after the other.
    for (_, id) in &small {
        bench.until("it is finished", |bench| bench.machine(*id).is_some_and(|http| http.waiting_for().is_some()));
        assert!(!bench.event_loop.finishing.contains(id));
    }
    assert_eq!(bench.event_loop.finishing.front(), Some(&first_id), "the large one keeps its place");
    assert!(bench.event_loop.ingress.finishing);
    drop(full);
    bench.until("the first is finished", |bench| bench.event_loop.finishing.is_empty());
}

#[test]
fn the_line_has_a_time_in_each_turn_and_the_log_hears_of_each_body() {
    let mut bench = Bench::new();
    let mut peers: Vec<_> = (0..3).map(|_| bench.post(100 * 1024, 80 * 1024)).collect();
    let full: Vec<_> =
        std::iter::from_fn(|| bench.event_loop.ingress.intake.take_to_finish(POOL_PAGE_BYTES, false)).collect();
    for (peer, id) in &mut peers {
        bench.send(peer, &lines(100 * 1024)[80 * 1024..]);
        bench.until("in line", |bench| bench.event_loop.finishing.contains(id));
    }
    drop(full);
    assert!(bench.event_loop.finish_bodies(Instant::now()), "there are more");
    assert_eq!(bench.event_loop.finishing.len(), 2);
    let mut slots = Vec::new();
    bench.slots.take(RING_SLOTS, &mut slots, |_| false);
    assert!(!slots.is_empty(), "the log thread can take what was finished");
    bench.until("all are finished", |bench| bench.event_loop.finishing.is_empty());
}

/// The memory for whole bodies must not wait until an answer is written.
#[test]
fn a_list_of_rejected_events_is_not_kept_in_the_memory_for_whole_bodies() {
    let mut bench = Bench::new();
    let intake = &mut bench.event_loop.ingress.intake;
    let received: Vec<_> = std::iter::from_fn(|| intake.take_to_finish(POOL_PAGE_BYTES, true)).collect();
    let body = "{\"name\":\"good\"}\n{\"name\":\"\"}\n";
    let mut peer = bench.connect();
    let id = bench.newest();
    bench.send(&mut peer, format!("{}{body}", head(body.len())).as_bytes());
    bench.until("it waits for the log", |bench| bench.machine(id).is_some_and(|http| http.waiting_for().is_some()));
    bench.take_slots();
    let intake = &mut bench.event_loop.ingress.intake;
    assert!(intake.can_finish(BODY, crate::batch::shares::packed_bytes(BODY, FRAME), FRAME));
    drop(received);
}

/// The time of a HELLO does not run while its connection is in line, and runs again afterwards.
#[test]
fn a_hello_has_its_time_again_once_its_connection_was_in_line() {
    let mut bench = Bench::new();
    while bench.event_loop.ingress.has_slots() {
        bench.event_loop.ingress.log_bye(
            1,
            &std::sync::Arc::new(crate::batch::Origin {
                agent_id: None,
                agent: None,
                default_source: String::new(),
                epoch: 0,
            }),
        );
    }
    let mut peer = bench.connect();
    let id = bench.newest();
    bench.send(&mut peer, &[MAGIC[0]]);
    bench.until("in line", |bench| bench.event_loop.connections.get(id).unwrap().waiting);
    assert_eq!(bench.event_loop.connections.get(id).unwrap().deadline(false), None, "it is not read");
    bench.take_slots();
    bench.until("out of line", |bench| !bench.event_loop.connections.get(id).unwrap().waiting);
    assert!(bench.event_loop.connections.get(id).unwrap().deadline(false).is_some());
}
