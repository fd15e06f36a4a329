//! The loop, turn by turn: real sockets, a ring that is emptied by the test alone, and no signals.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use mio::Events;
use tracing_subscriber::Registry;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;

use super::{ConnectionLimits, EVENTS, Ended, EventLoop, Parts};
use crate::batch::pool::Pool;
use crate::event::UnknownKeys;
use crate::http;
use crate::ids::{ConnectionId, Ticket};
use crate::limits::{
    FRAME_BYTES_LOWEST, HEADER_BYTES, HELLO_TIMEOUT, HTTP_IDLE_TIMEOUT_DEFAULT, KEEPALIVE, READ_BYTES_PER_TURN,
};
use crate::net::connection::{Connection, Phase};
use crate::net::linger::Linger;
use crate::net::protocols::Protocol;
use crate::net::{bind, testing};
use crate::pipeline::ring::{Content, SlotReceiver, ring};
use crate::session::marks::Restored;
use crate::session::server::SessionSettings;
use crate::session::tokens::Tokens;
use crate::wire::{AckLevel, Decoded, FrameKind, Header, Hello, PayloadCaps, decode};

/// Longest wait for what the kernel passes from one socket of this process to another.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);
/// Agents with an epoch that needs no place in the log.
const KNOWN: [[u8; 16]; 2] = [[1; 16], [2; 16]];
const SLOTS: usize = 8;

struct Bench {
    event_loop: EventLoop,
    events: Events,
    address: SocketAddr,
    log_thread: SlotReceiver,
}

impl Bench {
    fn new(max_connections: usize, lingering: usize) -> Self {
        let parts = Parts::without_signals().unwrap();
        wake_each_second(&parts);
        let (ring, log_thread) = ring(SLOTS, Box::new(parts.wake()));
        let pool = Pool::new(POOL_BYTES, Box::new(parts.wake()));
        let limits = ConnectionLimits { lingering, max_connections, max_unauthenticated: 100 };
        let ingress = testing::ingress(session_settings(), http_settings(), limits, Tokens::default(), (pool, ring));
        for agent_id in KNOWN {
            let age = Duration::ZERO;
            let mark = Restored { agent_id, epoch: 5, last_seq: 0, last_crc: None, has_frames: true, age };
            ingress.shared.marks().restore(mark, Ticket::default(), ingress.now);
        }
        let listener = bind(([127, 0, 0, 1], 0).into()).unwrap().listen().unwrap();
        let address = listener.local_addr().unwrap();
        let event_loop = EventLoop::new(parts, Some(listener), ingress, TIMEOUT).unwrap();
        Self { event_loop, events: Events::with_capacity(EVENTS), address, log_thread }
    }

    /// Connects and sends `bytes`; returns the client's end and the connection's id once the loop has accepted it.
    fn connect(&mut self, bytes: &[u8]) -> (TcpStream, ConnectionId) {
        let mut client = TcpStream::connect(self.address).unwrap();
        client.set_read_timeout(Some(TIMEOUT)).unwrap();
        client.write_all(bytes).unwrap();
        let peer = client.local_addr().unwrap();
        let mut id = None;
        self.turns_until("the connection is accepted", |event_loop| {
            let found = event_loop.connections.iter().find(|connection| connection.peer.address == peer);
            id = found.map(|connection| connection.id);
            id.is_some()
        });
        (client, id.unwrap())
    }

    /// An agent that is greeted, and then takes `slots` of the ring.
    fn agent_that_takes(&mut self, slots: usize) -> TcpStream {
        let (mut client, id) = self.connect(&hello(KNOWN[0]));
        self.turns_until("the agent is greeted", |event_loop| event_loop.connections.get(id).unwrap().peer.is_known);
        client.write_all(&empty_frames(slots as u64)).unwrap();
        self.turns_until("its frames are taken", |event_loop| event_loop.ingress.ring.gauge().depth() == slots);
        client
    }

    fn turn(&mut self) {
        assert_eq!(self.event_loop.turn(&mut self.events).unwrap(), None);
    }

    #[track_caller]
    fn turns_until(&mut self, what: &str, mut reached: impl FnMut(&mut EventLoop) -> bool) {
        let until = Instant::now() + TIMEOUT;
        while !reached(&mut self.event_loop) {
            assert!(Instant::now() < until, "not within {TIMEOUT:?}: {what}");
            self.turn();
        }
    }

    /// Sends a request whose answer closes the connection; returns once the connection lingers, which it does for an hour.
    fn linger(&mut self) -> TcpStream {
        let (client, id) = self.connect(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        self.turns_until("the connection lingers", |event_loop| event_loop.connections.get(id).unwrap().is_lingering());
        let from = self.event_loop.ingress.now + Duration::from_secs(3_600);
        self.event_loop.connections.get_mut(id).unwrap().phase = Phase::Lingering(Linger::new(from));
        client
    }

    /// By how much the counters of connections that were cut have moved, all reasons together.
    fn cut(&self) -> u64 {
        let page = self.event_loop.ingress.shared.metrics.text();
        let page = String::from_utf8(page).unwrap();
        let lines = page.lines().filter(|line| line.starts_with("telemetryx_connections_cut_total{"));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }
}

/// A test that waits for what never comes fails: without this, the poll could wait for ever.
pub(super) fn wake_each_second(parts: &Parts) {
    let wake = parts.wake();
    thread::spawn(move || {
        for _ in 0..TIMEOUT.as_secs() + 1 {
            thread::sleep(Duration::from_secs(1));
            wake();
        }
    });
}

pub(super) fn session_settings() -> SessionSettings {
    SessionSettings {
        server_id: [1; 16],
        max_frame_bytes: FRAME_BYTES_LOWEST as u32,
        window_bytes: 4 * FRAME_BYTES_LOWEST as u32,
        window_frames: 64,
        keepalive: KEEPALIVE,
        default_ack: AckLevel::Synced,
        highest_ack: AckLevel::Synced,
    }
}

pub(super) fn http_settings() -> http::Settings {
    http::Settings {
        max_body_bytes: FRAME_BYTES_LOWEST,
        max_frame_bytes: FRAME_BYTES_LOWEST,
        idle_timeout: HTTP_IDLE_TIMEOUT_DEFAULT,
        unknown_keys: UnknownKeys::Reject,
    }
}

/// Bytes of a pool that has room for what the tests send.
pub(super) const POOL_BYTES: usize = 4 * READ_BYTES_PER_TURN + 16 * (HEADER_BYTES + FRAME_BYTES_LOWEST);

fn hello(agent_id: [u8; 16]) -> Vec<u8> {
    hello_of_epoch(agent_id, 5)
}

pub(super) fn hello_of_epoch(agent_id: [u8; 16], epoch: u64) -> Vec<u8> {
    let hello = Hello {
        min_version: 1,
        max_version: 1,
        codecs: 1,
        ack: Ok(None),
        agent_id,
        epoch,
        oldest_seq: 1,
        token: b"",
        name: "",
    };
    let mut frame = Vec::new();
    hello.encode(&mut frame);
    frame
}

/// DATA frames without events: 32 bytes and one slot each.
pub(super) fn empty_frames(count: u64) -> Vec<u8> {
    (1..=count).flat_map(|seq| Header::data(seq, b"").encode()).collect()
}

fn waits(event_loop: &mut EventLoop, id: ConnectionId) -> bool {
    event_loop.connections.get(id).is_some_and(|connection| connection.waiting)
}

// ---- when an ACK is sent ----

/// Says that the log has synced up to `ticket` while the connection is read in the next turn; whether an ACK of `seq` comes.
fn is_acknowledged(bench: &mut Bench, client: &mut TcpStream, (ticket, seq): (u64, u64)) -> bool {
    let event_loop = &mut bench.event_loop;
    event_loop.ingress.own_watermarks().advance(AckLevel::Synced, ticket);
    // Before the last ACK, however slow the machine is.
    event_loop.ingress.now -= Duration::from_secs(60 * ticket);
    let id = event_loop.connections.ids()[0];
    event_loop.enqueue(id);
    event_loop.acknowledge();
    client.set_nonblocking(true).unwrap();
    let mut ack = [0; HEADER_BYTES];
    let read = client.read(&mut ack);
    client.set_nonblocking(false).unwrap();
    match read {
        Ok(HEADER_BYTES) => {
            let decoded = decode(&ack, PayloadCaps { data: 0 });
            let Ok(Decoded::Frame { header, .. }) = decoded else { panic!("{decoded:?}") };
            assert_eq!((header.kind, header.seq), (FrameKind::Ack, seq));
            true
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_ack_waits_after_a_full_read_but_not_once_the_log_has_failed() {
    let mut bench = Bench::new(10, 0);
    let mut client = bench.agent_that_takes(1);
    assert!(client.read(&mut [0; 1024]).unwrap() > HEADER_BYTES, "WELCOME");
    assert!(is_acknowledged(&mut bench, &mut client, (1, 1)), "the read had room for more than there was");

    // The rest of a partial frame fills its read. The event has a name of one letter.
    let payload = [0x0A, 3, 0x2A, 1, b'n'];
    let frame = [&Header::data(2, &payload).encode()[..], &payload].concat();
    let (beginning, rest) = frame.split_at(HEADER_BYTES + 2);
    client.write_all(beginning).unwrap();
    let is_partial = |connection: &Connection| connection.protocol().is_some_and(Protocol::holds_partial);
    bench.turns_until("a part is there", |event_loop| event_loop.connections.iter().any(is_partial));
    client.write_all(rest).unwrap();
    bench.turns_until("the frame is taken", |event_loop| event_loop.ingress.ring.gauge().depth() == 2);
    assert!(!is_acknowledged(&mut bench, &mut client, (2, 2)), "there may be more");

    bench.event_loop.ingress.shared.health.fail("the disk is gone".to_owned());
    assert!(is_acknowledged(&mut bench, &mut client, (2, 2)), "no further ACK will come");
}

// ---- waiting for the ring ----

/// Frames that came with the HELLO need more slots than the ring has while the log is paused.
#[test]
fn while_the_ring_has_fewer_slots_than_what_is_kept_needs_the_loop_sleeps() {
    let mut bench = Bench::new(10, 0);
    let _first = bench.agent_that_takes(SLOTS - 2);
    let (_client, id) = bench.connect(&[hello(KNOWN[1]), empty_frames(2)].concat());
    bench.turns_until("the agent is in line", |event_loop| waits(event_loop, id));
    let mut busy = 0;
    while busy < 1_000 && bench.event_loop.timeout().is_some_and(|timeout| timeout.is_zero()) {
        bench.turn();
        busy += 1;
    }
    assert!(busy < 10, "{busy} turns in a row without a wait");
    assert!(waits(&mut bench.event_loop, id));

    bench.log_thread.take(SLOTS, &mut Vec::new(), |_| false);
    bench.turns_until("what was kept is taken", |event_loop| event_loop.ingress.ring.gauge().depth() == 2);
    assert!(!waits(&mut bench.event_loop, id));
}

#[test]
fn what_a_connection_sends_that_was_closed_in_line_is_read_and_discarded() {
    let mut bench = Bench::new(10, 0);
    let _first = bench.agent_that_takes(SLOTS - 1);
    assert!(!bench.event_loop.ingress.has_slots());
    let (_client, id) = bench.connect(&[hello(KNOWN[1]), vec![0; 64 * 1024]].concat());
    bench.turns_until("the agent is in line", |event_loop| waits(event_loop, id));
    bench.event_loop.begin_drain();
    // Closing the socket with unread bytes would reset the connection, and the GOAWAY with it.
    bench.turns_until("all of it is read", |event_loop| {
        let connection = event_loop.connections.get(id).expect("closed although not all is read");
        connection.is_lingering() && !connection.socket.is_readable()
    });
}

#[test]
fn a_connection_that_sends_nothing_is_closed_after_its_time() {
    let mut bench = Bench::new(10, 0);
    let (_client, id) = bench.connect(b"");
    bench.turns_until("its read found nothing", |event_loop| {
        !event_loop.connections.get(id).unwrap().socket.is_readable()
    });
    let opened = bench.event_loop.connections.get(id).unwrap().peer.opened;
    for (age, is_open) in [(HELLO_TIMEOUT - Duration::from_millis(1), true), (HELLO_TIMEOUT, false)] {
        bench.event_loop.ingress.now = opened + age;
        bench.event_loop.fire_timers();
        assert_eq!(bench.event_loop.connections.get(id).is_some(), is_open, "after {age:?}");
    }
    let closed = r#"telemetryx_connections_closed_total{reason="silent"} 1"#;
    assert!(String::from_utf8(bench.event_loop.ingress.shared.metrics.text()).unwrap().contains(closed));
}

/// Nobody sends them again: syslog has no acknowledgements.
#[test]
fn messages_of_syslog_that_wait_for_room_are_kept_when_their_sender_is_gone() {
    let mut bench = Bench::new(10, 0);
    let _first = bench.agent_that_takes(SLOTS - 1);
    let shared = &mut bench.event_loop.ingress.shared;
    Arc::get_mut(shared).expect("the loop is alone").syslog = Some("127.0.0.0/8".parse().unwrap());
    let (client, id) = bench.connect(b"<13>a: one\n<13>a: two\n");
    bench.turns_until("it is in line", |event_loop| waits(event_loop, id));
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    bench.turns_until("the reset is noticed", |event_loop| {
        event_loop.connections.get(id).is_none_or(|connection| connection.is_reset)
    });
    assert!(waits(&mut bench.event_loop, id), "it is gone, with what it sent");
    bench.log_thread.take(SLOTS, &mut Vec::new(), |_| false);
    bench.turns_until("it is closed", |event_loop| event_loop.connections.get(id).is_none());
    let mut slots = Vec::new();
    bench.log_thread.take(SLOTS, &mut slots, |_| false);
    let taken = |slot: &crate::pipeline::ring::Slot| match &slot.content {
        crate::pipeline::ring::Content::Events { events, .. } => *events,
        _ => 0,
    };
    assert_eq!(slots.iter().map(taken).sum::<u32>(), 2);
}

// ---- lingering ----

#[test]
fn connections_that_linger_have_room_of_their_own() {
    let (max_connections, lingering) = (2, 3);
    let mut bench = Bench::new(max_connections, lingering);
    let most = max_connections + crate::descriptors::overloaded_beside(max_connections) + lingering;
    let mut clients: Vec<_> = (0..most).map(|_| bench.linger()).collect();
    assert_eq!((bench.event_loop.lingering.len(), bench.cut()), (most, 0));
    // The oldest makes room for the next one.
    clients.push(bench.linger());
    assert_eq!((bench.event_loop.lingering.len(), bench.cut()), (most, 1));
}

#[test]
fn a_lingering_connection_that_is_cut_is_counted_once() {
    let mut bench = Bench::new(10, 10);
    let _client = bench.linger();
    // Its time is up, and its peer still sends; before its timer fires its place is needed.
    let now = bench.event_loop.ingress.now;
    let connection = bench.event_loop.connections.iter_mut().next().unwrap();
    let mut linger = Linger::new(now);
    linger.discarded(1 << 30, now + crate::limits::LINGER_TIMEOUT);
    connection.phase = Phase::Lingering(linger);
    bench.event_loop.ingress.now = now + crate::limits::LINGER_TIMEOUT;
    assert!(bench.event_loop.cut_oldest_lingering());
    assert_eq!((bench.event_loop.connections.len(), bench.cut()), (0, 1));
}

// ---- refused requests ----

const HEAD: &str =
    "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n";

/// The poll reports what comes later: a read that finds nothing would be a system call per request.
#[test]
fn a_request_that_was_read_with_room_left_is_not_read_again() {
    let mut bench = Bench::new(10, 0);
    // What finds the protocol reads as every protocol needs it.
    let (mut client, id) = bench.connect(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
    bench.turns_until("the first request is read", |event_loop| {
        !event_loop.connections.get(id).unwrap().socket.is_readable()
    });
    client.write_all(&[HEAD.as_bytes(), br#"{"name":"fan"}"#].concat()).unwrap();
    let waits = |event_loop: &mut EventLoop| event_loop.connections.get(id).unwrap().awaiting;
    bench.turns_until("the request waits for the log", waits);
    assert!(!bench.event_loop.connections.get(id).unwrap().socket.is_readable());
    assert_ne!(bench.event_loop.timeout(), Some(Duration::ZERO));
}

#[test]
fn requests_of_one_event_share_a_buffer_and_refused_ones_take_nothing_of_it() {
    let mut bench = Bench::new(10, 0);
    let bodies = [r#"{"name":"fan"}"#, r#"[{"name":"f"},]"#, r#"{"name":"fog"}"#];
    let mut clients = Vec::new();
    for body in bodies {
        let head = HEAD.replace("Length: 14", &format!("Length: {}", body.len()));
        let (client, id) = bench.connect(format!("{head}{body}").as_bytes());
        bench.turns_until("it is received", |event_loop| {
            event_loop.connections.get(id).is_none_or(|it| it.peer.is_known)
        });
        clients.push(client);
    }
    let mut slots = Vec::new();
    bench.log_thread.take(SLOTS, &mut slots, |_| false);
    let payloads = slots.iter().map(|slot| match &slot.content {
        Content::Events { payload, .. } => payload.as_ptr_range(),
        other => panic!("{other:?}"),
    });
    let payloads: Vec<_> = payloads.collect();
    assert_eq!(payloads.len(), 2);
    assert_eq!(payloads[0].end, payloads[1].start);
}

/// The end may be reported with the last bytes, or by an event of its own.
#[test]
fn the_end_of_a_peer_is_found_whenever_it_comes() {
    for ends_at_once in [true, false] {
        let mut bench = Bench::new(10, 0);
        let (client, id) = if ends_at_once {
            let mut client = TcpStream::connect(bench.address).unwrap();
            client.write_all(&[HEAD.as_bytes(), br#"{"name":"fan"}"#].concat()).unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
            bench.turns_until("it is accepted", |event_loop| event_loop.connections.len() == 1);
            let id = bench.event_loop.connections.ids()[0];
            (client, id)
        } else {
            bench.connect(&[HEAD.as_bytes(), br#"{"name":"fan"}"#].concat())
        };
        bench.turns_until("the request waits for the log", |event_loop| {
            event_loop.connections.get(id).unwrap().awaiting
        });
        if !ends_at_once {
            client.shutdown(std::net::Shutdown::Write).unwrap();
        }
        bench.event_loop.ingress.own_watermarks().advance(AckLevel::Synced, 1);
        bench.turns_until("the connection ends", |event_loop| event_loop.connections.is_empty());
        let mut answer = String::new();
        (&client).read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
}

/// All that the server sends until it closes its half.
fn answer(bench: &mut Bench, client: &mut TcpStream, id: ConnectionId) -> String {
    bench.turns_until("the answer is written", |event_loop| {
        event_loop.connections.get(id).is_none_or(|connection| connection.is_lingering())
    });
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_post_beyond_the_most_connections_is_told_so() {
    let mut bench = Bench::new(1, 0);
    let _first = bench.connect(b"");
    let (mut client, id) = bench.connect(&[HEAD.as_bytes(), br#"{"name":"fan"}"#].concat());
    let answer = answer(&mut bench, &mut client, id);
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("too many connections (server.max_connections)"),
        "{answer}"
    );
    assert!(!answer.contains("shutting down"), "{answer}");
}

#[test]
fn a_post_that_the_end_of_the_server_cuts_short_is_logged_by_method_and_path() {
    let mut bench = Bench::new(10, 0);
    let (mut client, id) = bench.connect(&[HEAD.as_bytes(), b"{"].concat());
    bench.turns_until("the head is read", |event_loop| {
        let connection: &Connection = event_loop.connections.get(id).unwrap();
        !connection.socket.is_readable() && connection.peer.is_known
    });
    let lines = logged(|| bench.event_loop.begin_drain());
    let answer = answer(&mut bench, &mut client, id);
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("shutting down"), "{answer}");
    let line = lines.lines().find(|line| line.contains("request failed")).unwrap_or(&lines);
    assert!(line.contains(r#"method="POST" path="/v1/events""#), "{line}");
}

/// The log lines of `call`.
fn logged(call: impl FnOnce()) -> String {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(Lines(lines.clone()));
    tracing::subscriber::with_default(Registry::default().with(layer), call);
    String::from_utf8(lines.lock().unwrap().clone()).unwrap()
}

#[derive(Clone)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

// ---- the end ----

/// The log does not move: who waits when the time of the drain is nearly over is answered, and not only cut.
#[test]
fn who_still_waits_at_the_end_of_a_drain_is_answered() {
    let mut bench = Bench::new(10, 2);
    let mut agent = bench.agent_that_takes(2);
    let request = "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n";
    let (mut client, id) = bench.connect(format!("{request}{{\"name\":\"a\"}}").as_bytes());
    bench.turns_until("the request waits", |event_loop| event_loop.connections.get(id).unwrap().awaiting);
    bench.event_loop.drain_timeout = Duration::from_secs(2);
    bench.event_loop.begin_drain();
    let until = Instant::now() + TIMEOUT;
    let ended = loop {
        match bench.event_loop.turn(&mut bench.events).unwrap() {
            Some(ended) => break ended,
            None => assert!(Instant::now() < until),
        }
    };
    assert_eq!(ended, Ended::TimedOut { connections: 2 });
    drop(bench);
    let (mut answer, mut frames) = (Vec::new(), Vec::new());
    client.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 504 ") && answer.contains("before this server ended"), "{answer}");
    agent.read_to_end(&mut frames).unwrap();
    assert!(String::from_utf8_lossy(&frames).contains("this server is shutting down"), "the agent gets GOAWAY");
}
