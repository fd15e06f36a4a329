//! Connections of syslog, and what TLS keeps of connections: real sockets, turn by turn, and a ring that is emptied by the test alone.

use std::io::Write;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConnection;
use rustls::version::{TLS12, TLS13};
use socket2::SockRef;

use super::Policy;
use super::connection::{Connection, Phase};
use super::encryption::Encryption;
use super::protocols::{Context, Ending};
use super::serve::{Scratch, Served, serve};
use super::socket::KeptBytes;
use super::testing;
use super::transport::Transport;
use super::{Ingress, Shared};
use crate::batch::pool::Pool;
use crate::event::{AttributeValue, Events, UnknownKeys};
use crate::http;
use crate::ids::{ConnectionId, LoopId, Ticket};
use crate::limits::{
    FRAME_BYTES_LOWEST, HTTP_IDLE_TIMEOUT_DEFAULT, HTTP_TORN_HEADS_BYTES_MAX, KEEPALIVE, KEPT_BYTES_PAUSE,
    READ_BYTES_PER_TURN, SYSLOG_MESSAGES_PER_TURN, SYSLOG_READ_BYTES, SYSLOG_READ_BYTES_LOWEST, TLS_AGENTS_BYTES_MAX,
    TLS_RECORD_BYTES_MAX,
};
use crate::pipeline::ring::{Content, SlotReceiver, ring};
use crate::session::marks::Restored;
use crate::session::server::SessionSettings;
use crate::session::tokens::Tokens;
use crate::time::Now;
use crate::tls::testing::{Issued, acceptor, client, connect, sent_by, show};
use crate::wire::{AckLevel, Hello};

/// Longest wait for what the kernel passes from one socket of this process to another.
const TIMEOUT: Duration = Duration::from_secs(30);
const AGENT: [u8; 16] = [1; 16];

/// A server with one connection.
struct Bench {
    ingress: Ingress,
    scratch: Scratch,
    receiver: SlotReceiver,
    certificate: Issued,
    peer: TcpStream,
    connection: Connection,
}

impl Bench {
    fn new() -> Self {
        let (ring, receiver) = ring(64, Box::new(|| {}));
        let pool = Pool::new(4 * READ_BYTES_PER_TURN + 8 * FRAME_BYTES_LOWEST, Box::new(|| {}));
        let settings = SessionSettings {
            server_id: [1; 16],
            max_frame_bytes: FRAME_BYTES_LOWEST as u32,
            window_bytes: 4 * FRAME_BYTES_LOWEST as u32,
            window_frames: 4,
            keepalive: KEEPALIVE,
            default_ack: AckLevel::Received,
            highest_ack: AckLevel::Received,
        };
        let http = http::Settings {
            max_body_bytes: FRAME_BYTES_LOWEST,
            max_frame_bytes: FRAME_BYTES_LOWEST,
            idle_timeout: HTTP_IDLE_TIMEOUT_DEFAULT,
            unknown_keys: UnknownKeys::Reject,
        };
        let mut ingress = testing::ingress(settings, http, testing::NO_LIMITS, Tokens::default(), (pool, ring));
        let certificate = Issued::self_signed("localhost");
        let acceptor = Some(Arc::new(acceptor(&certificate, None)));
        let shared: &mut Shared = Arc::get_mut(&mut ingress.shared).unwrap();
        shared.syslog = Some("127.0.0.0/8".parse().unwrap());
        let encryption = Encryption { acceptor, ..Encryption::default() };
        ingress.policy = Arc::new(Policy { encryption, ..Policy::default() });
        let age = Duration::ZERO;
        let known = Restored { agent_id: AGENT, epoch: 5, last_seq: 0, last_crc: None, has_frames: true, age };
        shared.marks().restore(known, Ticket::default(), ingress.now);
        ingress.begin_turn(Now::read());
        assert!(ingress.intake.prepare());

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, address) = listener.accept().unwrap();
        ours.set_nonblocking(true).unwrap();
        let access = ingress.policy.encryption.access_without_tls(address.ip());
        let transport = Transport::plain(mio::net::TcpStream::from_std(ours));
        let id = ConnectionId::new(LoopId(0), 1, 0);
        let connection = Connection::new(id, transport, (address, access), false, ingress.now);
        Self { ingress, scratch: Scratch::new(), receiver, certificate, peer, connection }
    }

    /// One turn: what comes next, the messages that were taken, and whether each is marked as truncated.
    fn turn(&mut self) -> (Served, Vec<(String, bool)>) {
        let mut out = Vec::new();
        let served = serve(&mut self.connection, &mut self.ingress, &mut self.scratch, &mut out);
        self.ingress.end_turn();
        let Connection { phase, socket, peer, .. } = &mut self.connection;
        let (ingress, scratch) = (&mut self.ingress, &mut self.scratch);
        if let (Phase::Open(protocol), false) = (phase, has_ended(served)) {
            protocol.acknowledge(false, &mut Context { socket, peer, ingress, scratch, out: &mut out });
        }
        self.connection.socket.send(&out, self.ingress.now).ok();
        (served, self.take_messages())
    }

    /// What the connection has handed on since then: messages, and whether they are marked as truncated.
    fn take_messages(&mut self) -> Vec<(String, bool)> {
        let (mut slots, mut messages) = (Vec::new(), Vec::new());
        self.receiver.take(64, &mut slots, |_| false);
        for slot in slots {
            let Content::Events { payload, .. } = slot.content else { continue };
            messages.extend(Events::accepted(&payload).map(|event| {
                let is_truncated = |(key, value)| key == "truncated" && value == AttributeValue::Bool(true);
                (event.body().to_owned(), event.attributes().any(is_truncated))
            }));
        }
        messages
    }

    /// The server ends: what the protocol hands on then.
    fn shut_down(&mut self) -> Vec<(String, bool)> {
        let Connection { phase: Phase::Open(protocol), socket, peer, .. } = &mut self.connection else {
            panic!("the protocol is not known")
        };
        let (ingress, scratch, out) = (&mut self.ingress, &mut self.scratch, &mut Vec::new());
        assert_eq!(
            protocol.end(Ending::Shutdown, &mut Context { socket, peer, ingress, scratch, out }),
            Some("SHUTDOWN")
        );
        self.ingress.end_turn();
        self.take_messages()
    }

    /// Turns until one ends like this.
    #[track_caller]
    fn reads_until(&mut self, is_end: impl Fn(&Self, Served) -> bool) -> Vec<(String, bool)> {
        let (until, mut all) = (Instant::now() + TIMEOUT, Vec::new());
        loop {
            self.connection.socket.set_readable();
            let (served, messages) = self.turn();
            all.extend(messages);
            if is_end(self, served) {
                return all;
            }
            assert!(Instant::now() < until, "{served:?} {all:?}");
        }
    }

    /// Turns until one has this end, and all messages meanwhile.
    #[track_caller]
    fn turns_until(&mut self, is_end: impl Fn(Served) -> bool) -> (Served, Vec<(String, bool)>) {
        let (until, mut all) = (Instant::now() + TIMEOUT, Vec::new());
        loop {
            self.connection.socket.set_readable();
            let (served, messages) = self.turn();
            all.extend(messages);
            if is_end(served) {
                return (served, all);
            }
            assert!(Instant::now() < until, "{served:?} {all:?}");
        }
    }

    /// A client that has shaken hands with the server.
    fn shake_hands(&mut self, version: &'static rustls::SupportedProtocolVersion) -> ClientConnection {
        let mut client = connect(&client(&self.certificate, None, version));
        let until = Instant::now() + TIMEOUT;
        self.peer.set_nonblocking(true).unwrap();
        while client.is_handshaking() || client.wants_write() {
            let sent = sent_by(&mut client);
            self.peer.write_all(&sent).unwrap();
            self.connection.socket.set_readable();
            self.turn();
            let mut room = [0; 16 * 1024];
            if let Ok(bytes) = std::io::Read::read(&mut self.peer, &mut room) {
                show(&mut client, &room[..bytes]).unwrap();
            }
            assert!(Instant::now() < until, "no handshake");
        }
        client
    }
}

fn encrypted(client: &mut ClientConnection, plain: &[u8]) -> Vec<u8> {
    client.writer().write_all(plain).unwrap();
    sent_by(client)
}

fn has_ended(served: Served) -> bool {
    matches!(served, Served::End | Served::Close(_) | Served::Gone(_))
}

#[test]
fn a_turn_takes_a_bounded_number_of_messages() {
    let mut bench = Bench::new();
    let mut sent = b"<1>first\n".to_vec();
    sent.extend_from_slice(&b"x\n".repeat(SYSLOG_READ_BYTES / 2));
    bench.peer.write_all(&sent).unwrap();
    bench.peer.shutdown(Shutdown::Write).unwrap();
    let (mut turns, mut messages) = (0, 0);
    let until = Instant::now() + TIMEOUT;
    loop {
        let (served, taken) = bench.turn();
        assert!(taken.len() <= SYSLOG_MESSAGES_PER_TURN, "{} messages in one turn", taken.len());
        messages += taken.len();
        turns += 1;
        match served {
            Served::Again => {}
            Served::Idle => bench.connection.socket.set_readable(),
            served => break assert_eq!(served, Served::End),
        }
        assert!(Instant::now() < until);
    }
    assert_eq!(messages, SYSLOG_READ_BYTES / 2 + 1);
    assert!(turns > messages / SYSLOG_MESSAGES_PER_TURN, "{turns}");
}

/// While there is little room outside the pool, no messages are read that are not parsed in the same turn.
#[test]
fn where_connections_keep_much_little_is_read_at_once() {
    let mut bench = Bench::new();
    bench.peer.write_all(&[b"<1>first\n".as_slice(), &b"x\n".repeat(SYSLOG_READ_BYTES / 2)].concat()).unwrap();
    bench.turns_until(|served| served == Served::Again);
    bench.scratch.kept.unparsed += HTTP_TORN_HEADS_BYTES_MAX / 2 + SYSLOG_READ_BYTES;
    for _ in 0..100 {
        bench.connection.socket.set_readable();
        let before = bench.connection.socket.unparsed.len();
        bench.turn();
        assert!(bench.connection.socket.unparsed.len() <= before.max(SYSLOG_READ_BYTES_LOWEST));
    }
}

#[test]
fn half_a_message_is_marked_where_its_sender_has_not_ended_the_stream() {
    let sent = b"<13>a: whole\n<13>a: hal";
    let whole = ("whole".to_owned(), false);
    let half = |is_truncated| ("hal".to_owned(), is_truncated);
    // Without TLS nobody can tell whether the end is the sender's.
    let mut bench = Bench::new();
    bench.peer.write_all(sent).unwrap();
    bench.peer.shutdown(Shutdown::Write).unwrap();
    assert_eq!(bench.turns_until(has_ended), (Served::End, vec![whole.clone(), half(false)]));
    for version in [&TLS12, &TLS13] {
        for (ends, expected) in [(true, (Served::End, false)), (false, (Served::Close("syslog_cut"), true))] {
            let mut bench = Bench::new();
            let mut client = bench.shake_hands(version);
            let mut bytes = encrypted(&mut client, sent);
            if ends {
                client.send_close_notify();
                bytes.extend_from_slice(&sent_by(&mut client));
            }
            bench.peer.write_all(&bytes).unwrap();
            bench.peer.shutdown(Shutdown::Write).unwrap();
            let (served, messages) = bench.turns_until(has_ended);
            assert_eq!((served, messages), (expected.0, vec![whole.clone(), half(expected.1)]), "{version:?}");
        }
    }
}

/// Senders of syslog drop what TCP has acknowledged: what was received is stored, however much connections keep.
#[test]
fn what_tls_has_decrypted_is_stored_where_connections_keep_much() {
    const MESSAGES: usize = 50_000;
    for kept in [HTTP_TORN_HEADS_BYTES_MAX / 2 + 1, HTTP_TORN_HEADS_BYTES_MAX - 4 * 1024, HTTP_TORN_HEADS_BYTES_MAX] {
        let mut bench = Bench::new();
        let mut client = bench.shake_hands(&TLS13);
        let mut bytes = encrypted(&mut client, b"<1>first\n");
        // As much as the client's buffer holds.
        for part in b"x\n".repeat(MESSAGES).chunks(30_000) {
            bytes.extend_from_slice(&encrypted(&mut client, part));
        }
        client.send_close_notify();
        bytes.extend_from_slice(&sent_by(&mut client));
        bench.scratch.kept.unparsed += kept;
        let mut peer = bench.peer.try_clone().unwrap();
        let sending = std::thread::spawn(move || {
            peer.set_nonblocking(false).unwrap();
            peer.write_all(&bytes).unwrap();
            peer.shutdown(Shutdown::Write).unwrap();
        });
        let messages = bench.reads_until(|bench, served| {
            let kept = bench.connection.socket.counted_kept();
            assert!(kept.unparsed <= TLS_RECORD_BYTES_MAX, "{kept:?}");
            has_ended(served).then(|| assert_eq!(served, Served::End)).is_some()
        });
        sending.join().unwrap();
        assert_eq!(messages.len(), MESSAGES + 1, "{kept} bytes are kept");
    }
}

#[test]
fn above_the_budget_a_connection_is_read_again_once_others_keep_less() {
    let mut bench = Bench::new();
    bench.peer.write_all(b"<1>first\n").unwrap();
    let mut all = bench.reads_until(|bench, _| bench.connection.peer.is_known);
    bench.scratch.kept.unparsed = HTTP_TORN_HEADS_BYTES_MAX + 1;
    bench.peer.write_all(b"<1>second\n").unwrap();
    let later = Served::Later(bench.ingress.now + KEPT_BYTES_PAUSE);
    all.extend(bench.reads_until(|_, served| served == later));
    assert_eq!(all, [("first".to_owned(), false)]);
    bench.scratch.kept.unparsed = 0;
    bench.peer.shutdown(Shutdown::Write).unwrap();
    assert_eq!(bench.turns_until(has_ended), (Served::End, vec![("second".to_owned(), false)]));
}

#[test]
fn messages_before_a_wrong_record_are_stored() {
    for version in [&TLS12, &TLS13] {
        let mut bench = Bench::new();
        let mut client = bench.shake_hands(version);
        let mut bytes = encrypted(&mut client, b"<13>a: whole\n<13>a: hal");
        bytes.extend_from_slice(&[&[23, 3, 3, 0, 40][..], &[7; 40]].concat());
        bench.peer.write_all(&bytes).unwrap();
        let (served, messages) = bench.turns_until(has_ended);
        assert_eq!(served, Served::Close("tls_failed"), "{version:?}");
        assert_eq!(messages, [("whole".to_owned(), false), ("hal".to_owned(), true)], "{version:?}");
    }
}

#[test]
fn half_a_message_at_the_end_of_the_server_is_marked() {
    let mut bench = Bench::new();
    bench.peer.write_all(b"<13>a: whole\n<13>a: hal").unwrap();
    let messages = bench.reads_until(|bench, _| bench.connection.peer.is_known);
    assert_eq!(messages, [("whole".to_owned(), false)]);
    assert_eq!(bench.shut_down(), [("hal".to_owned(), true)]);
}

#[test]
fn what_tls_has_decrypted_is_stored_at_the_end_of_the_server() {
    let mut bench = Bench::new();
    let mut client = bench.shake_hands(&TLS13);
    let bytes = encrypted(&mut client, &b"<13>a: whole\n".repeat(500));
    bench.peer.write_all(&bytes).unwrap();
    // The first read only decides the protocol.
    bench.reads_until(|bench, _| matches!(bench.connection.phase, Phase::Open(_)));
    assert_eq!(bench.shut_down(), vec![("whole".to_owned(), false); 500]);
}

/// Anybody on the way can end a connection within a record: it had a part of a message, whatever came before.
#[test]
fn a_stream_that_is_cut_within_a_record_is_counted() {
    for version in [&TLS12, &TLS13] {
        for missing in [1, 10, 20] {
            let mut bench = Bench::new();
            let mut client = bench.shake_hands(version);
            let mut bytes = encrypted(&mut client, b"<13>a: whole\n");
            let second = encrypted(&mut client, b"<13>a: lost\n");
            bytes.extend_from_slice(&second[..second.len() - missing]);
            bench.peer.write_all(&bytes).unwrap();
            bench.peer.shutdown(Shutdown::Write).unwrap();
            let expected = (Served::Close("syslog_cut"), vec![("whole".to_owned(), false)]);
            assert_eq!(bench.turns_until(has_ended), expected, "{version:?} {missing}");
        }
    }
}

#[test]
fn a_stream_that_is_cut_between_two_messages_has_ended_as_usual() {
    let mut bench = Bench::new();
    let mut client = bench.shake_hands(&TLS13);
    let bytes = encrypted(&mut client, b"<13>a: whole\n");
    bench.peer.write_all(&bytes).unwrap();
    bench.peer.shutdown(Shutdown::Write).unwrap();
    assert_eq!(bench.turns_until(has_ended), (Served::End, vec![("whole".to_owned(), false)]));
}

#[test]
fn what_was_received_before_a_reset_is_taken() {
    let mut bench = Bench::new();
    bench.peer.write_all(b"<13>a: whole\n<13>a: hal").unwrap();
    // Closing it now resets the connection.
    SockRef::from(&bench.peer).set_linger(Some(Duration::ZERO)).unwrap();
    drop(std::mem::replace(&mut bench.peer, TcpStream::connect(listening()).unwrap()));
    let (served, messages) = bench.turns_until(has_ended);
    let expected = vec![("whole".to_owned(), false), ("hal".to_owned(), true)];
    assert_eq!((served, messages), (Served::Gone("syslog_cut"), expected));
}

/// Somewhere to connect to.
fn listening() -> std::net::SocketAddr {
    let listener = Box::leak(Box::new(TcpListener::bind("127.0.0.1:0").unwrap()));
    listener.local_addr().unwrap()
}

// ---- what TLS keeps of agents ----

/// An agent that was accepted, and that sends all but the last byte of a record. Returns that byte, too.
fn agent_within_a_record() -> (Bench, u8, usize) {
    let mut bench = Bench::new();
    let mut client = bench.shake_hands(&TLS13);
    let mut hello = Vec::new();
    Hello {
        min_version: 1,
        max_version: 1,
        codecs: 1,
        ack: Ok(None),
        agent_id: AGENT,
        epoch: 5,
        oldest_seq: 1,
        token: b"",
        name: "",
    }
    .encode(&mut hello);
    let bytes = encrypted(&mut client, &hello);
    bench.peer.write_all(&bytes).unwrap();
    bench.reads_until(|bench, _| bench.connection.peer.origin.agent_id.is_some());
    let record = encrypted(&mut client, &[0; 8 * 1024]);
    let (last, rest) = record.split_last().unwrap();
    bench.peer.write_all(rest).unwrap();
    (bench, *last, rest.len())
}

fn kept_by_tls(bench: &Bench) -> usize {
    bench.connection.socket.tls().unwrap().kept_bytes()
}

#[test]
fn what_tls_keeps_of_agents_has_a_sum_of_its_own() {
    let (mut bench, _, sent) = agent_within_a_record();
    bench.reads_until(|bench, _| kept_by_tls(bench) == sent);
    assert_eq!(bench.scratch.kept, KeptBytes { unparsed: 0, of_agents: sent });
    // What others keep that are not agents is of another sum.
    let (mut bench, _, sent) = agent_within_a_record();
    bench.scratch.kept.unparsed = HTTP_TORN_HEADS_BYTES_MAX + 1;
    bench.reads_until(|bench, served| kept_by_tls(bench) == sent && !has_ended(served));
}

#[test]
fn where_tls_keeps_much_of_agents_parts_of_records_stay_with_the_kernel() {
    let (mut bench, last, sent) = agent_within_a_record();
    bench.scratch.kept.of_agents = TLS_AGENTS_BYTES_MAX / 2 + 1;
    let mut room = vec![0; 2 * sent];
    while bench.connection.socket.transport().peek(&mut room).unwrap_or(0) < sent {}
    for _ in 0..3 {
        bench.connection.socket.set_readable();
        let (served, _) = bench.turn();
        assert_eq!((served, kept_by_tls(&bench)), (Served::Idle, 0));
    }
    // Zeroes are not a frame: they were read.
    bench.peer.write_all(&[last]).unwrap();
    assert_eq!(bench.turns_until(has_ended).0, Served::Close("PROTOCOL"));
}

#[test]
fn where_tls_keeps_too_much_of_agents_they_are_not_read_and_not_closed() {
    let (mut bench, last, _) = agent_within_a_record();
    bench.scratch.kept.of_agents = TLS_AGENTS_BYTES_MAX + 1;
    bench.peer.write_all(&[last]).unwrap();
    for _ in 0..3 {
        bench.connection.socket.set_readable();
        let (served, _) = bench.turn();
        assert_eq!((served, kept_by_tls(&bench)), (Served::Later(bench.ingress.now + KEPT_BYTES_PAUSE), 0));
    }
    bench.scratch.kept.of_agents = 0;
    assert_eq!(bench.turns_until(has_ended).0, Served::Close("PROTOCOL"));
}
