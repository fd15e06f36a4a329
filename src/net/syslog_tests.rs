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
use super::protocols::Context;
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
    FRAME_BYTES_LOWEST, HTTP_IDLE_TIMEOUT_DEFAULT, HTTP_TORN_HEADS_BYTES_MAX, KEEPALIVE, READ_BYTES_PER_TURN,
    SYSLOG_MESSAGES_PER_TURN, SYSLOG_READ_BYTES, SYSLOG_READ_BYTES_LOWEST, TLS_AGENTS_BYTES_MAX,
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
            protocol.acknowledge(&mut Context { socket, peer, ingress, scratch, out: &mut out });
        }
        self.connection.socket.send(&out, self.ingress.now).ok();
        let (mut slots, mut messages) = (Vec::new(), Vec::new());
        self.receiver.take(64, &mut slots, |_| false);
        for slot in slots {
            let Content::Events { payload, .. } = slot.content else { continue };
            messages.extend(Events::accepted(&payload).map(|event| {
                let is_truncated = |(key, value)| key == "truncated" && value == AttributeValue::Bool(true);
                (event.body().to_owned(), event.attributes().any(is_truncated))
            }));
        }
        (served, messages)
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

/// An agent that was accepted, and that sends all but the last byte of a record.
fn agent_within_a_record(before: impl FnOnce(&mut Bench)) -> (Bench, Served) {
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
    let until = Instant::now() + TIMEOUT;
    while bench.connection.peer.origin.agent_id.is_none() {
        bench.connection.socket.set_readable();
        bench.turn();
        assert!(Instant::now() < until, "the agent is not accepted");
    }
    before(&mut bench);
    let record = encrypted(&mut client, &[0; 8 * 1024]);
    bench.peer.write_all(&record[..record.len() - 1]).unwrap();
    loop {
        bench.connection.socket.set_readable();
        let (served, _) = bench.turn();
        let kept = bench.connection.socket.tls().unwrap().kept_bytes();
        if has_ended(served) || kept == record.len() - 1 {
            return (bench, served);
        }
        assert!(Instant::now() < until, "{served:?}");
    }
}

#[test]
fn what_tls_keeps_of_agents_has_a_sum_of_its_own() {
    let (bench, _) = agent_within_a_record(|_| {});
    let kept = bench.connection.socket.tls().unwrap().kept_bytes();
    assert!(kept > 8 * 1024);
    assert_eq!(bench.scratch.kept, KeptBytes { unparsed: 0, of_agents: kept });
}

#[test]
fn an_agent_that_adds_to_more_than_tls_may_keep_is_closed() {
    let (_, served) = agent_within_a_record(|bench| bench.scratch.kept.of_agents = TLS_AGENTS_BYTES_MAX);
    assert_eq!(served, Served::Gone("tls_over_budget"));
    // What others keep that are not agents is of another sum.
    let (_, served) = agent_within_a_record(|bench| bench.scratch.kept.unparsed = HTTP_TORN_HEADS_BYTES_MAX);
    assert!(!has_ended(served), "{served:?}");
}
