//! Bad frames and sessions against ingress itself: the loop's own reading and parsing, its pool and its counters, over a
//! pair of sockets. Each comes whole, byte by byte, and split at every offset.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use prost::Message as _;

use super::connection::{Connection, Phase};
use super::protocols::Context;
use super::serve::{Scratch, Served, serve};
use super::socket::KeptBytes;
use super::transport::Transport;
use super::{Ingress, testing};
use crate::batch::pool::Pool;
use crate::event::proto::{Event, EventBatch};
use crate::event::{Events, UnknownKeys};
use crate::http;
use crate::ids::{ConnectionId, LoopId, Ticket};
use crate::limits::{
    DEDUPE_RETENTION, DISCARD_BYTES_PER_TURN, FRAME_BYTES_LOWEST, HEADER_BYTES, HTTP_IDLE_TIMEOUT_DEFAULT, KEEPALIVE,
    READ_BYTES_PER_TURN,
};
use crate::metrics::RejectReason;
use crate::pipeline::ring::{Content, SlotReceiver, ring};
use crate::session::fuzz::{Heard, heard};
use crate::session::marks::{Marks, Restored};
use crate::session::server::SessionSettings;
use crate::session::tokens::{Access, Tokens};
use crate::time::Now;
use crate::wire::{AckLevel, FrameKind, GoawayCode, Header, Hello, NackCode};

const MAX_FRAME: u32 = FRAME_BYTES_LOWEST as u32;
/// An agent that was here before, in epoch 5.
const KNOWN_AGENT: [u8; 16] = [9; 16];
const REASONS: [RejectReason; 4] =
    [RejectReason::Malformed, RejectReason::Invalid, RejectReason::TooLarge, RejectReason::Codec];

/// Ingress, one connection at a time, and what a log thread would take from the ring.
struct Bench {
    ingress: Ingress,
    scratch: Scratch,
    receiver: SlotReceiver,
    connections: u32,
}

/// What came of one connection.
#[derive(Debug, PartialEq)]
struct Outcome {
    heard: Vec<Heard>,
    /// Names of the events that were taken.
    stored: Vec<String>,
    /// Frames that went towards the dead letters.
    refused: Vec<NackCode>,
    /// What the loop counts in `telemetryx_connections_closed_total`.
    closed: Option<&'static str>,
    /// By how much each reason of `telemetryx_events_rejected_total` moved.
    rejected: [u64; 4],
}

impl Bench {
    fn new() -> Self {
        let (ring, receiver) = ring(64, Box::new(|| {}));
        let pool = Pool::new(4 * READ_BYTES_PER_TURN + 8 * FRAME_BYTES_LOWEST, Box::new(|| {}));
        let max_frame_bytes = FRAME_BYTES_LOWEST;
        let settings = SessionSettings {
            server_id: [1; 16],
            max_frame_bytes: MAX_FRAME,
            window_bytes: 4 * MAX_FRAME,
            window_frames: 4,
            keepalive: KEEPALIVE,
            default_ack: AckLevel::Received,
            highest_ack: AckLevel::Received,
        };
        let http = http::Settings {
            max_body_bytes: max_frame_bytes,
            max_frame_bytes,
            idle_timeout: HTTP_IDLE_TIMEOUT_DEFAULT,
            unknown_keys: UnknownKeys::Reject,
        };
        let tokens = Tokens::from_lines("secret", false);
        let mut ingress = testing::ingress(settings, http, testing::NO_LIMITS, tokens, (pool, ring));
        assert!(ingress.intake.prepare());
        Self { ingress, scratch: Scratch::new(), receiver, connections: 0 }
    }

    fn rejected(&self) -> [u64; 4] {
        REASONS.map(|reason| self.ingress.shared.metrics.events_rejected(reason).get())
    }

    /// Sends `pieces` over a fresh connection, to a server that only knows [`KNOWN_AGENT`].
    fn run(&mut self, pieces: &[&[u8]]) -> Outcome {
        let before = (self.ingress.intake.pool().bytes_in_use(), self.rejected());
        *self.ingress.shared.marks() = Marks::new(10, DEDUPE_RETENTION);
        let age = Duration::ZERO;
        let known = Restored { agent_id: KNOWN_AGENT, epoch: 5, last_seq: 1, last_crc: Some(0), has_frames: true, age };
        self.ingress.shared.marks().restore(known, Ticket { number: 1, ..Ticket::default() }, self.ingress.now);
        self.ingress.begin_turn(Now::read());

        let (mut peer, ours) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let stream = mio::net::TcpStream::from_std(OwnedFd::from(ours).into());
        self.connections += 1;
        let address = ([127, 0, 0, 1], 1).into();
        let access = self.ingress.policy.encryption.access_without_tls([127, 0, 0, 1].into());
        let transport = Transport::plain(stream);
        let mut connection = Connection::new(
            ConnectionId::new(LoopId(0), self.connections, 0),
            transport,
            (address, access),
            false,
            self.ingress.now,
        );
        let mut outcome = Outcome { heard: vec![], stored: vec![], refused: vec![], closed: None, rejected: [0; 4] };
        for piece in pieces {
            if outcome.closed.is_some() {
                break;
            }
            peer.write_all(piece).unwrap();
            connection.socket.set_readable();
            self.serve(&mut connection, &mut outcome);
        }
        let mut said = Vec::new();
        connection.socket.transport().shut_down().unwrap();
        peer.read_to_end(&mut said).unwrap();
        self.scratch.kept.replace(connection.socket.counted_kept(), KeptBytes::default());
        drop(connection);
        outcome.heard = heard(&said);
        outcome.rejected = std::array::from_fn(|index| self.rejected()[index] - before.1[index]);
        assert!(self.ingress.intake.prepare());
        assert_eq!(self.ingress.intake.pool().bytes_in_use(), before.0, "memory is back");
        assert_eq!(self.scratch.kept, KeptBytes::default());
        outcome
    }

    /// The turns of the loop until the socket is empty.
    fn serve(&mut self, connection: &mut Connection, outcome: &mut Outcome) {
        loop {
            let mut out = Vec::new();
            let served = serve(connection, &mut self.ingress, &mut self.scratch, &mut out);
            self.ingress.end_turn();
            self.log(outcome);
            if let Served::Close(reason) | Served::Gone(reason) = served {
                outcome.closed = Some(reason);
            } else {
                let Connection { phase, socket, peer, .. } = &mut *connection;
                let (ingress, scratch, out) = (&mut self.ingress, &mut self.scratch, &mut out);
                if let Phase::Open(protocol) = phase {
                    protocol.acknowledge(false, &mut Context { socket, peer, ingress, scratch, out });
                }
            }
            connection.socket.send(&out, self.ingress.now).unwrap();
            match served {
                // What was held back is acknowledged now.
                Served::Again | Served::Hold => {}
                Served::Idle => return,
                Served::Close(_) | Served::Gone(_) => return,
                Served::Wait | Served::End | Served::NeedsRoom | Served::Delayed(_) | Served::Later(_) => {
                    panic!("{served:?}")
                }
            }
        }
    }

    /// Takes what the loop handed on, as the log thread does.
    fn log(&mut self, outcome: &mut Outcome) {
        let mut slots = Vec::new();
        self.receiver.take(64, &mut slots, |_| false);
        for slot in slots {
            match slot.content {
                Content::Events { payload, events, .. } => {
                    let before = outcome.stored.len();
                    outcome.stored.extend(Events::accepted(&payload).map(|event| event.name().to_owned()));
                    assert_eq!(outcome.stored.len() - before, events as usize);
                }
                Content::Refused { code, .. } => outcome.refused.push(code),
                Content::Hello | Content::Bye => panic!("there is no log"),
            }
        }
    }
}

#[test]
fn what_a_closing_connection_is_still_sent_costs_a_bounded_read_per_turn_and_no_pool_memory() {
    let mut bench = Bench::new();
    let (mut peer, ours) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    peer.set_nonblocking(true).unwrap();
    let stream = mio::net::TcpStream::from_std(OwnedFd::from(ours).into());
    bench.ingress.begin_turn(Now::read());
    let mut connection = Connection::new(
        ConnectionId::new(LoopId(0), 1, 0),
        Transport::plain(stream),
        (([127, 0, 0, 1], 1).into(), Access::default()),
        false,
        bench.ingress.now,
    );
    connection.close("http", &mut bench.ingress);
    assert!(!connection.finish_closing(bench.ingress.now) && connection.is_lingering());
    let before = bench.ingress.intake.pool().bytes_in_use();
    // As much as the socket takes is more than one turn's share.
    let (piece, mut sent) = ([b' '; 16 * 1024], 0);
    while let Ok(bytes) = peer.write(&piece) {
        sent += bytes;
    }
    assert!(sent > DISCARD_BYTES_PER_TURN, "{sent}");
    let mut turns = 0;
    connection.socket.set_readable();
    while serve(&mut connection, &mut bench.ingress, &mut bench.scratch, &mut Vec::new()) == Served::Again {
        turns += 1;
    }
    assert_eq!(turns, sent / DISCARD_BYTES_PER_TURN);
    assert_eq!((bench.ingress.intake.pool().bytes_in_use(), connection.socket.unparsed.capacity()), (before, 0));
}

// ---- what agents say ----

fn frame(header: Header, payload: &[u8]) -> Vec<u8> {
    [&header.encode()[..], payload].concat()
}

fn bytes_of(hello: Hello<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    hello.encode(&mut out);
    out
}

const HELLO: Hello<'static> = Hello {
    min_version: 1,
    max_version: 1,
    codecs: 1,
    ack: Ok(None),
    agent_id: [7; 16],
    epoch: 0,
    oldest_seq: 1,
    token: b"secret",
    name: "api",
};

fn named(name: &str) -> Event {
    Event { name: name.to_owned(), ..Event::default() }
}

fn batch(events: Vec<Event>) -> Vec<u8> {
    EventBatch { events }.encode_to_vec()
}

fn data(seq: u64, name: &str) -> Vec<u8> {
    let payload = batch(vec![named(name)]);
    frame(Header::data(seq, &payload), &payload)
}

/// `bytes` with some of them changed and the header's checksum right again.
fn forged(mut bytes: Vec<u8>, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    change(&mut bytes);
    let crc = crc32fast::hash(&bytes[..28]);
    bytes[28..32].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// `bytes` with one of them changed on the way.
fn damaged(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    bytes[at] ^= 1;
    bytes
}

fn empty(kind: FrameKind) -> Vec<u8> {
    frame(Header::empty(kind, 1, 0), b"")
}

/// A HELLO frame around these bytes.
fn hello_of(payload: &[u8]) -> Vec<u8> {
    frame(Header::of_payload(FrameKind::Hello, 0, 0, payload), payload)
}

/// A HELLO with bytes of its payload changed, its checksums right.
fn hello_with(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut payload = bytes_of(HELLO)[HEADER_BYTES..].to_vec();
    change(&mut payload);
    hello_of(&payload)
}

// ---- the tables ----

/// Each of these ends the connection with the code beside it, behind a sound HELLO or as the first frame.
/// Whether a HELLO comes before it, what it is, its bytes, and the code of the GOAWAY.
type Ending = (bool, &'static str, Vec<u8>, GoawayCode);

fn ends_the_connection() -> Vec<Ending> {
    [first_frames(), hellos(), later_frames()].concat()
}

fn first_frames() -> Vec<Ending> {
    use FrameKind as F;
    use GoawayCode::{Protocol, Version};
    let header = |kind, length: u32| Header { length, ..Header::empty(kind, 1, 0) }.encode().to_vec();
    let hello = |hello| bytes_of(hello);
    vec![
        // The first frame.
        (false, "magic ends early", b"\xf5TLY".to_vec(), Protocol),
        (false, "magic, then HTTP", b"\xf5GET / HTTP/1.1\r\n\r\n".to_vec(), Protocol),
        (false, "a HELLO damaged in its header", damaged(hello(HELLO), 9), Protocol),
        (false, "a HELLO damaged in its checksum", damaged(hello(HELLO), 31), Protocol),
        (false, "a HELLO damaged in its payload", damaged(hello(HELLO), 40), Protocol),
        (false, "a HELLO with a codec", forged(hello(HELLO), |h| h[6] = 1), Protocol),
        (false, "a HELLO with an arg", forged(hello(HELLO), |h| h[12] = 1), Protocol),
        (false, "a HELLO above 1 KiB, its header", header(F::Hello, 1025), Protocol),
        (false, "a HELLO of 4 GiB, its header", header(F::Hello, u32::MAX), Protocol),
        (false, "DATA first", data(1, "a"), Protocol),
        (false, "the largest DATA first, its header", header(F::Data, MAX_FRAME), Protocol),
        (false, "too large a DATA first, its header", header(F::Data, MAX_FRAME + 1), Protocol),
        (false, "WELCOME first", empty(F::Welcome), Protocol),
        (false, "ACK first", empty(F::Ack), Protocol),
        (false, "NACK first", empty(F::Nack), Protocol),
        (false, "PING first", empty(F::Ping), Protocol),
        (false, "PONG first", empty(F::Pong), Protocol),
        (false, "GOAWAY first", empty(F::Goaway), Protocol),
        (false, "a version 2 HELLO", forged(hello(HELLO), |h| h[4] = 2), Version),
    ]
}

fn hellos() -> Vec<Ending> {
    use GoawayCode::{AckLevel as NoLevel, Auth, Fenced, Protocol, Version};
    let hello = |hello| bytes_of(hello);
    vec![
        (false, "no payload", hello_of(b""), Protocol),
        (false, "47 bytes", hello_with(|p| p.truncate(47)), Protocol),
        (false, "a name that is cut", hello_with(|p| p.truncate(p.len() - 1)), Protocol),
        (false, "bytes behind the name", hello_with(|p| p.push(b'x')), Protocol),
        (false, "a token longer than the frame", hello_with(|p| p[41] = 1), Protocol),
        (false, "a name longer than the frame", hello_with(|p| p[43] = 0xff), Protocol),
        (false, "a name that is no UTF-8", hello_with(|p| *p.last_mut().unwrap() = 0xff), Protocol),
        (false, "a reserved byte", hello_with(|p| p[47] = 1), Protocol),
        (false, "agent_id zero", hello(Hello { agent_id: [0; 16], ..HELLO }), Protocol),
        (false, "no codec", hello(Hello { codecs: 0, ..HELLO }), Protocol),
        (false, "codec 1 alone", hello(Hello { codecs: 2, ..HELLO }), Protocol),
        (false, "oldest_seq 0", hello(Hello { oldest_seq: 0, ..HELLO }), Protocol),
        (false, "epoch 2^62", hello(Hello { epoch: 1 << 62, ..HELLO }), Protocol),
        (false, "epoch 2^64 - 1", hello(Hello { epoch: u64::MAX, ..HELLO }), Protocol),
        (false, "versions 2 to 3", hello(Hello { min_version: 2, max_version: 3, ..HELLO }), Version),
        (false, "versions 0 to 0", hello(Hello { min_version: 0, max_version: 0, ..HELLO }), Version),
        (false, "versions 2 to 1", hello(Hello { min_version: 2, max_version: 1, ..HELLO }), Version),
        (false, "no token", hello(Hello { token: b"", ..HELLO }), Auth),
        (false, "a shorter token", hello(Hello { token: b"secre", ..HELLO }), Auth),
        (false, "a longer token", hello(Hello { token: b"secrets", ..HELLO }), Auth),
        (false, "another token", hello(Hello { token: b"\0ecret", ..HELLO }), Auth),
        (false, "ack written", hello(Hello { ack: Ok(Some(AckLevel::Written)), ..HELLO }), NoLevel),
        (false, "ack delivered", hello(Hello { ack: Ok(Some(AckLevel::Delivered)), ..HELLO }), NoLevel),
        (false, "ack 5", hello(Hello { ack: Err(5), ..HELLO }), NoLevel),
        (false, "ack 2^32 - 1", hello(Hello { ack: Err(u32::MAX), ..HELLO }), NoLevel),
        (false, "an old epoch", hello(Hello { agent_id: KNOWN_AGENT, epoch: 4, ..HELLO }), Fenced),
    ]
}

/// Behind a HELLO: no frame, and frames out of place.
fn later_frames() -> Vec<Ending> {
    use FrameKind as F;
    use GoawayCode::{Protocol, SeqGap, Version};
    let header = |kind, length: u32| Header { length, ..Header::empty(kind, 1, 0) }.encode().to_vec();
    let data_header = || empty(F::Data);
    vec![
        (true, "magic", damaged(data(1, "a"), 0), Protocol),
        (true, "text", b"GET / HTTP/1.1\r\n\r\n".to_vec(), Protocol),
        (true, "a bit of seq", damaged(data(1, "a"), 16), Protocol),
        (true, "a bit of the length", damaged(data(1, "a"), 8), Protocol),
        (true, "a bit of the payload", damaged(data(1, "a"), 33), Protocol),
        (true, "an empty payload's checksum", forged(data_header(), |h| h[24] = 1), Protocol),
        (true, "version 0", forged(data(1, "a"), |h| h[4] = 0), Version),
        (true, "version 255", forged(data(1, "a"), |h| h[4] = 255), Version),
        (true, "type 0", forged(data(1, "a"), |h| h[5] = 0), Protocol),
        (true, "type 9", forged(data(1, "a"), |h| h[5] = 9), Protocol),
        (true, "type 127", forged(data(1, "a"), |h| h[5] = 127), Protocol),
        (true, "flag bit 4", forged(data(1, "a"), |h| h[6] = 0x10), Protocol),
        (true, "flag bit 15", forged(data(1, "a"), |h| h[7] = 0x80), Protocol),
        (true, "codec on a PING", forged(empty(F::Ping), |h| h[6] = 1), Protocol),
        (true, "arg on a PING", forged(empty(F::Ping), |h| h[12] = 1), Protocol),
        (true, "arg on a GOAWAY", forged(empty(F::Goaway), |h| h[15] = 1), Protocol),
        (true, "a PING with a payload", header(F::Ping, 1), Protocol),
        (true, "DATA above max_frame, its header", header(F::Data, MAX_FRAME + 1), Protocol),
        (true, "DATA of 4 GiB, its header", header(F::Data, u32::MAX), Protocol),
        (true, "too large a frame to skip, its header", header(F::Skippable(0x80), MAX_FRAME + 1), Protocol),
        (true, "too large a NACK, its header", header(F::Nack, 1 << 20), Protocol),
        // Behind a HELLO: a frame out of place.
        (true, "a second HELLO", bytes_of(HELLO), Protocol),
        (true, "WELCOME", empty(F::Welcome), Protocol),
        (true, "ACK", empty(F::Ack), Protocol),
        (true, "NACK", empty(F::Nack), Protocol),
        (true, "GOAWAY", empty(F::Goaway), Protocol),
        (true, "seq 2", data(2, "a"), SeqGap),
        (true, "seq 2^64 - 1", data(u64::MAX, "a"), SeqGap),
        (true, "an empty DATA with a gap", frame(Header::data(9, b""), b""), SeqGap),
        (true, "other bytes in an old DATA", [data(1, "a"), data(1, "b")].concat(), Protocol),
    ]
}

#[test]
fn bad_frames_and_sessions_end_with_their_code() {
    let rows = ends_the_connection();
    assert!(rows.len() >= 60, "{}", rows.len());
    let mut bench = Bench::new();
    for (greeted, name, bytes, code) in rows {
        let hello = if greeted { bytes_of(HELLO) } else { Vec::new() };
        let input = [&hello[..], &bytes, &data(1, "after")].concat();
        let stored = if name == "other bytes in an old DATA" { &["a"][..] } else { &[] };
        in_every_way(&input, |pieces| {
            let Outcome { mut heard, stored: names, refused, closed, rejected } = bench.run(pieces);
            // How far ACKs came before the last word depends on how the bytes came.
            heard.retain(|word| !matches!(word, Heard::Ack(_)));
            let said = matches!(heard.last(), Some(Heard::Goaway(last, _)) if *last == code);
            assert!(said && heard.len() == 1 + usize::from(greeted), "{name}: {heard:?}");
            // One counter: the connection's end.
            assert_eq!((closed, rejected, refused.len()), (Some(code.name()), [0; 4], 0), "{name}");
            assert_eq!(names, stored, "{name}: nothing behind it is taken");
        });
    }
}

#[test]
fn bad_payloads_use_up_their_number_and_the_session_goes_on() {
    use NackCode::{Codec, Decompress, Invalid, Malformed, Partial, TooLarge};
    let sound = batch(vec![named("a")]);
    let of = |payload: &[u8]| frame(Header::data(1, payload), payload);
    let with = |change: &dyn Fn(Header) -> Header| frame(change(Header::data(1, &sound)), &sound);
    let rows: Vec<(&str, Vec<u8>, NackCode, RejectReason, u64)> = vec![
        ("an event of three bytes that are none", of(b"\x0a\x03abc"), Malformed, RejectReason::Malformed, 1),
        ("a cut event", of(b"\x0a\x09\x2a"), Malformed, RejectReason::Malformed, 1),
        ("JSON", of(b"{\"name\":\"a\"}"), Malformed, RejectReason::Malformed, 1),
        ("zeros", of(&[0; 40]), Malformed, RejectReason::Malformed, 1),
        ("a name that is no UTF-8", of(b"\x0a\x03\x2a\x01\xff"), Malformed, RejectReason::Malformed, 1),
        ("a sound event, then a cut one", of(&[&sound[..], b"\x0a"].concat()), Malformed, RejectReason::Malformed, 1),
        ("arg above length", with(&|h| Header { arg: h.arg + 1, ..h }), Decompress, RejectReason::Malformed, 1),
        ("arg 0", with(&|h| Header { arg: 0, ..h }), Decompress, RejectReason::Malformed, 1),
        ("arg above max_raw", with(&|h| Header { arg: MAX_FRAME + 1, ..h }), TooLarge, RejectReason::TooLarge, 1),
        ("codec 1", with(&|h| Header { codec: 1, ..h }), Codec, RejectReason::Codec, 1),
        ("codec 15", with(&|h| Header { codec: 15, ..h }), Codec, RejectReason::Codec, 1),
        ("an empty event", of(&batch(vec![Event::default()])), Invalid, RejectReason::Invalid, 1),
        ("severity 25", of(&batch(vec![Event { severity: 25, ..named("a") }])), Invalid, RejectReason::Invalid, 1),
        ("two bad events", of(&batch(vec![Event::default(); 2])), Invalid, RejectReason::Invalid, 2),
        ("a bad event first", of(&batch(vec![Event::default(), named("a")])), Partial, RejectReason::Invalid, 1),
        (
            "a bad event between",
            of(&batch(vec![named("a"), Event { kind: 9, ..named("b") }, named("c")])),
            Partial,
            RejectReason::Invalid,
            1,
        ),
    ];
    let mut bench = Bench::new();
    for (name, bytes, code, reason, events) in rows {
        let input = [bytes_of(HELLO), bytes, data(2, "after")].concat();
        in_every_way(&input, |pieces| {
            let outcome = bench.run(pieces);
            let heard = [Heard::Welcome, Heard::Nack(1, code), Heard::Ack(2)];
            assert_eq!((outcome.heard.as_slice(), outcome.closed), (&heard[..], None), "{name}");
            let counted = REASONS.map(|one| if one == reason { events } else { 0 });
            assert_eq!((outcome.rejected, outcome.refused.as_slice()), (counted, &[code][..]), "{name}");
            assert_eq!(outcome.stored.last().map(String::as_str), Some("after"), "{name}");
            assert_eq!(outcome.stored.len() > 1, code == Partial, "{name}");
        });
    }
}

/// Whole, byte by byte, and split at every offset.
fn in_every_way(input: &[u8], mut run: impl FnMut(&[&[u8]])) {
    run(&[input]);
    run(&input.chunks(1).collect::<Vec<_>>());
    for at in 1..input.len() {
        let (one, two) = input.split_at(at);
        run(&[one, two]);
    }
}
