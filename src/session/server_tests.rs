//! Every rule of the protocol that the server keeps, as scenarios: what an agent sends, what it hears.
//!
//! A scenario runs whole, byte by byte, and split at every offset, and must hear the same each time.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use prost::Message as _;

use super::admission::{Admission, admit};
use super::marks::Marks;
use super::receive::{Consumed, Data, End, Ingress, Taken};
use super::server::{ServerSession, SessionSettings, Step, Turn};
use super::tokens::{Access, Tokens};
use crate::event::proto::{Event, EventBatch};
use crate::ids::{ConnectionId, LoopId, Ticket};
use crate::limits::*;
use crate::wire::{AckLevel, Decoded, FrameKind, Goaway, GoawayCode, Header, Hello, NackCode, Welcome, decode};

mod bye;
mod limits;

const AGENT: [u8; 16] = [7; 16];
const SECOND: Duration = Duration::from_secs(1);

/// What an agent heard, in few words.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Heard {
    Welcome { epoch: u64, last_seq: u64, resumed: bool, level: AckLevel },
    Ack(u64),
    Nack(u64, NackCode),
    Pong(u64),
    Goaway(GoawayCode, u64),
}

fn ticket(number: u64) -> Ticket {
    Ticket { number, ..Ticket::default() }
}

fn id(number: usize) -> ConnectionId {
    ConnectionId::new(LoopId(0), 1, number)
}

/// A server with one connection at a time.
struct Server {
    settings: SessionSettings,
    marks: Mutex<Marks>,
    tokens: Tokens,
    loopback: bool,
    now: Instant,
    ticket: u64,
    /// Up to which ticket the level of the connection is reached.
    watermark: u64,
    /// Up to which ticket everything is delivered; `None`: as far as the watermark.
    delivered: Option<u64>,
    /// Tickets are reached as soon as they are given.
    at_once: bool,
    connection: usize,
    stored: Vec<String>,
    /// The last number of each agent that sent BYE.
    left: Vec<u64>,
}

impl Server {
    fn new() -> Self {
        Self {
            settings: SessionSettings {
                server_id: [1; 16],
                max_frame_bytes: 4096,
                window_bytes: 8192,
                window_frames: 4,
                keepalive: KEEPALIVE,
                default_ack: AckLevel::Received,
                highest_ack: AckLevel::Received,
            },
            marks: Mutex::new(Marks::new(10, DEDUPE_RETENTION)),
            tokens: Tokens::default(),
            loopback: true,
            now: Instant::now(),
            ticket: 0,
            watermark: 0,
            delivered: None,
            at_once: true,
            connection: 0,
            stored: Vec::new(),
            left: Vec::new(),
        }
    }

    fn connect(&mut self) -> ServerSession {
        self.connection += 1;
        ServerSession::new(id(self.connection), &self.settings, self.now)
    }

    fn turn<R>(&mut self, call: impl FnOnce(&mut Turn<'_>) -> R) -> R {
        let gate = self.tokens.gate(Access { is_private: self.loopback, ..Access::default() });
        let settings = self.settings.clone();
        call(&mut Turn { now: self.now, random: 41, settings: &settings, marks: &self.marks, gate: &gate })
    }

    /// What the event loop does with a connection that is gone or replaced.
    fn leave(&mut self, session: &mut ServerSession) {
        session.leave(false, &mut self.marks.lock().unwrap(), self.now);
    }

    /// What the event loop does with bytes, without sockets. `input` keeps what is not parsed.
    fn receive(&mut self, session: &mut ServerSession, input: &mut Vec<u8>, out: &mut Vec<u8>) {
        while session.may_receive(&self.settings) {
            let Consumed { bytes, end } = if session.is_authenticated() {
                // One frame at a time, so that the rules can be looked at between two of them.
                let mut one = OneFrame { server: self, has_room: true };
                session.receive(input, 0, &mut one, out)
            } else {
                self.turn(|turn| session.greet(input, turn, out))
            };
            input.drain(..bytes);
            assert!(!matches!(end, End::LentTo(_)), "the older connection of a test leaves first");
            if matches!(end, End::All | End::Partial { .. }) {
                break;
            }
            self.acknowledge(session, out);
        }
        self.acknowledge(session, out);
    }

    fn acknowledge(&mut self, session: &mut ServerSession, out: &mut Vec<u8>) {
        if self.at_once {
            self.watermark = self.ticket;
        }
        let (watermark, delivered) = (self.watermark, self.delivered.unwrap_or(self.watermark));
        self.turn(|turn| {
            let reached = |ticket: Ticket, level| match level {
                AckLevel::Delivered => ticket.number <= delivered,
                _ => ticket.number <= watermark,
            };
            session.settled(reached, turn, out);
            // What the level of the connection is does not matter here.
            session.acknowledge(|ticket, _| ticket.number <= watermark, turn, out, |_| {});
        });
    }

    fn time_out(&mut self, session: &mut ServerSession, pressure: bool) -> Vec<Heard> {
        let mut out = Vec::new();
        self.turn(|turn| session.handle_timeout(pressure, turn, &mut out));
        heard(&out)
    }
}

/// Takes one frame.
struct OneFrame<'a> {
    server: &'a mut Server,
    has_room: bool,
}

impl Ingress for OneFrame<'_> {
    type Source = Vec<u8>;

    fn bytes(source: &Vec<u8>) -> &[u8] {
        source
    }

    fn turn<R>(&mut self, call: impl FnOnce(&mut Turn<'_>) -> R) -> R {
        self.server.turn(call)
    }

    fn has_room(&self) -> bool {
        self.has_room
    }

    fn admit(&mut self, source: &mut Vec<u8>, data: &Data) -> Taken {
        let payload = &source[data.payload.clone()];
        let mut ranges = Vec::new();
        let nack = match admit(payload, &mut ranges) {
            Admission::All { .. } => None,
            Admission::Some { reason, .. } => Some((NackCode::Partial, reason.into())),
            Admission::None { code, reason, .. } => Some((code, reason.into())),
        };
        if nack.as_ref().is_none_or(|(code, _)| *code == NackCode::Partial) {
            for range in ranges {
                let batch = EventBatch::decode(&payload[range]).unwrap();
                self.server.stored.extend(batch.events.into_iter().map(|event| event.name));
            }
        }
        Taken { ticket: self.ticket(), nack }
    }

    fn refuse(&mut self, _: &mut Vec<u8>, _: &Data, _: NackCode, _: &str) -> Ticket {
        self.ticket()
    }

    fn duplicate(&mut self) {
        self.has_room = false;
    }

    fn bye(&mut self, last_seq: u64) {
        self.server.left.push(last_seq);
    }
}

impl OneFrame<'_> {
    fn ticket(&mut self) -> Ticket {
        self.has_room = false;
        self.server.ticket += 1;
        ticket(self.server.ticket)
    }
}

fn heard(mut bytes: &[u8]) -> Vec<Heard> {
    let mut all = Vec::new();
    while let Ok(Decoded::Frame { header, payload }) = decode(bytes, crate::wire::PayloadCaps { data: 0 }) {
        all.push(match header.kind {
            FrameKind::Welcome => {
                let Welcome { epoch, last_seq, resumed, ack, .. } = Welcome::decode(payload).unwrap();
                Heard::Welcome { epoch, last_seq, resumed, level: ack }
            }
            FrameKind::Ack => Heard::Ack(header.seq),
            FrameKind::Nack => Heard::Nack(header.seq, NackCode::from_wire(header.arg).unwrap()),
            FrameKind::Pong => Heard::Pong(header.seq),
            FrameKind::Goaway => Heard::Goaway(Goaway::decode(payload).unwrap().code.unwrap(), header.seq),
            other => panic!("a server never sends {other:?}"),
        });
        bytes = &bytes[HEADER_BYTES + payload.len()..];
    }
    assert!(bytes.is_empty(), "the server's bytes are whole frames");
    all
}

// ---- what agents say ----

fn hello() -> Hello<'static> {
    Hello {
        min_version: 1,
        max_version: 1,
        codecs: 1,
        ack: Ok(None),
        agent_id: AGENT,
        epoch: 0,
        oldest_seq: 1,
        token: b"",
        name: "api",
    }
}

fn bytes_of(hello: Hello<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    hello.encode(&mut out);
    out
}

fn frame(header: Header, payload: &[u8]) -> Vec<u8> {
    [&header.encode()[..], payload].concat()
}

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

const EPOCH: u64 = 42;
const WELCOME: Heard = Heard::Welcome { epoch: EPOCH, last_seq: 0, resumed: false, level: AckLevel::Received };

/// Runs a scenario whole, byte by byte, and split at every offset. ACKs are cumulative and their number depends on
/// the split, so neighbouring ACKs count as the last of them.
fn scenario(prepare: impl Fn() -> Server, input: &[u8]) -> (Vec<Heard>, Vec<String>) {
    let run = |pieces: &[&[u8]]| {
        let mut server = prepare();
        let mut session = server.connect();
        let (mut unparsed, mut out) = (Vec::new(), Vec::new());
        for piece in pieces {
            unparsed.extend_from_slice(piece);
            server.receive(&mut session, &mut unparsed, &mut out);
        }
        let mut all = heard(&out);
        all.dedup_by(|next, last| {
            if let (Heard::Ack(next), Heard::Ack(last)) = (&*next, &mut *last) {
                assert!(*next >= *last, "ACKs never go back");
                *last = *next;
                return true;
            }
            false
        });
        (all, server.stored)
    };
    let whole = run(&[input]);
    assert_eq!(run(&input.chunks(1).collect::<Vec<_>>()), whole, "byte by byte");
    for at in 0..input.len() {
        let (left, right) = input.split_at(at);
        assert_eq!(run(&[left, right]), whole, "split at {at}");
    }
    whole
}

fn expect(input: &[Vec<u8>], answer: &[Heard], stored: &[&str]) {
    let (all, names) = scenario(Server::new, &input.concat());
    assert_eq!(all, answer);
    assert_eq!(names, stored);
}

// ---- R1, R2: sequence and acknowledgement ----

#[test]
fn data_in_order_is_stored_and_acknowledged() {
    expect(&[bytes_of(hello()), data(1, "a"), data(2, "b")], &[WELCOME, Heard::Ack(2)], &["a", "b"]);
}

#[test]
fn r1_one_ack_covers_all_of_a_commit_and_is_repeated_every_second_while_the_commit_stalls() {
    let mut server = Server::new();
    server.at_once = false;
    let mut session = server.connect();
    let (mut input, mut out) = ([bytes_of(hello()), data(1, "a"), data(2, "b"), data(3, "c")].concat(), Vec::new());
    server.receive(&mut session, &mut input, &mut out);
    assert_eq!(heard(&out), [WELCOME], "nothing is acknowledged before the watermark");
    let deadline = session.deadline(false).unwrap();
    assert_eq!(deadline, server.now + SECOND);
    server.now = deadline;
    assert_eq!(server.time_out(&mut session, false), [Heard::Ack(0)], "the last ACK again");
    assert_eq!(session.deadline(false), Some(server.now + SECOND));
    out.clear();
    server.watermark = 2;
    server.acknowledge(&mut session, &mut out);
    assert_eq!(heard(&out), [Heard::Ack(2)]);
    out.clear();
    server.acknowledge(&mut session, &mut out);
    assert!(out.is_empty(), "one ACK a commit");
    server.watermark = 3;
    server.acknowledge(&mut session, &mut out);
    assert_eq!(heard(&out), [Heard::Ack(3)]);
}

#[test]
fn an_ack_waits_for_what_is_read_next_for_5_ms_or_a_quarter_of_the_window() {
    let mut server = Server::new();
    (server.settings.window_frames, server.at_once) = (16, false);
    let quarter = server.settings.window_bytes as usize / 4;
    let mut session = server.connect();
    let mut out = Vec::new();
    server.receive(&mut session, &mut [bytes_of(hello()), data(1, "a")].concat(), &mut out);
    let may_wait =
        |session: &ServerSession, server: &Server| session.may_acknowledge_later(&server.settings, server.now);
    assert!(may_wait(&session, &server));
    server.now += ACK_DELAY_MIN - Duration::from_nanos(1);
    assert!(may_wait(&session, &server));
    server.now += Duration::from_nanos(1);
    assert!(!may_wait(&session, &server), "it has waited long enough");
    server.watermark = 1;
    server.acknowledge(&mut session, &mut out);
    assert!(may_wait(&session, &server), "an ACK was sent just now");
    server.receive(&mut session, &mut data(2, &"b".repeat(quarter)), &mut Vec::new());
    assert!(!may_wait(&session, &server), "the agent needs its window");
    server.watermark = 2;
    server.acknowledge(&mut session, &mut out);
    let four: Vec<u8> = (3..7).flat_map(|seq| data(seq, "c")).collect();
    server.receive(&mut session, &mut four.clone(), &mut out);
    assert!(!may_wait(&session, &server), "of frames, too");
}

#[test]
fn r2_a_duplicate_is_dropped_and_acknowledged_again() {
    expect(
        &[bytes_of(hello()), data(1, "a"), data(2, "b"), data(1, "a"), data(2, "b")],
        &[WELCOME, Heard::Ack(2)],
        &["a", "b"],
    );
}

#[test]
fn r2_a_gap_ends_the_connection() {
    expect(
        &[bytes_of(hello()), data(1, "a"), data(3, "c")],
        &[WELCOME, Heard::Ack(1), Heard::Goaway(GoawayCode::SeqGap, 1)],
        &["a"],
    );
}

#[test]
fn r2_an_empty_data_is_acknowledged_like_any_other() {
    expect(&[bytes_of(hello()), frame(Header::data(1, b""), b""), data(2, "b")], &[WELCOME, Heard::Ack(2)], &["b"]);
}

// ---- R4: epochs; the table itself is tested in `marks` ----

fn known_agent(epoch: u64, seqs: u64) -> Server {
    let mut server = Server::new();
    let mut session = server.connect();
    let mut input = bytes_of(Hello { epoch, ..hello() });
    for seq in 1..=seqs {
        input.extend(data(seq, "earlier"));
    }
    server.receive(&mut session, &mut input, &mut Vec::new());
    server.leave(&mut session);
    server.stored.clear();
    server
}

#[test]
fn r4_the_same_epoch_resumes_after_the_last_stored_frame() {
    let input = [bytes_of(Hello { epoch: 5, oldest_seq: 2, ..hello() }), data(2, "earlier"), data(3, "new")].concat();
    let (all, stored) = scenario(|| known_agent(5, 2), &input);
    let resumed = Heard::Welcome { epoch: 5, last_seq: 2, resumed: true, level: AckLevel::Received };
    assert_eq!(all[0], resumed);
    assert_eq!(stored, ["new"]);
}

#[test]
fn r4_a_lower_epoch_is_fenced() {
    let (all, _) = scenario(|| known_agent(5, 2), &bytes_of(Hello { epoch: 4, ..hello() }));
    assert_eq!(all, [Heard::Goaway(GoawayCode::Fenced, 0)]);
}

#[test]
fn r4_a_higher_or_unknown_epoch_is_adopted() {
    let (all, _) = scenario(|| known_agent(5, 2), &bytes_of(Hello { epoch: 9, oldest_seq: 7, ..hello() }));
    assert_eq!(all, [Heard::Welcome { epoch: 9, last_seq: 6, resumed: false, level: AckLevel::Received }]);
    let (all, _) = scenario(Server::new, &bytes_of(Hello { epoch: 9, oldest_seq: 7, ..hello() }));
    assert_eq!(all, [Heard::Welcome { epoch: 9, last_seq: 6, resumed: false, level: AckLevel::Received }]);
}

#[test]
fn r4_an_epoch_of_2_to_the_62_is_a_protocol_error() {
    expect(&[bytes_of(Hello { epoch: 1 << 62, ..hello() })], &[Heard::Goaway(GoawayCode::Protocol, 0)], &[]);
}

// ---- R3, R5, R7 ----

#[test]
fn r3_new_agents_beyond_the_bound_are_overload() {
    let prepare = || {
        let mut server = Server::new();
        server.marks = Mutex::new(Marks::new(1, DEDUPE_RETENTION));
        server.marks.get_mut().unwrap().greet([9; 16], 0, 1, id(99), server.now, 0).unwrap();
        server
    };
    let (all, _) = scenario(prepare, &bytes_of(hello()));
    assert_eq!(all, [Heard::Goaway(GoawayCode::Overloaded, 0)]);
}

fn bye() -> Vec<u8> {
    frame(Header::empty(FrameKind::Bye, 0, 0), b"")
}

#[test]
fn r5_a_takeover_names_the_older_connection_and_waits_until_it_is_settled() {
    let mut server = Server::new();
    server.at_once = false;
    let mut older = server.connect();
    let mut input = [bytes_of(Hello { epoch: 5, ..hello() }), data(1, "a")].concat();
    server.receive(&mut older, &mut input, &mut Vec::new());
    let mut newer = server.connect();
    let (hello, mut out) = (bytes_of(Hello { epoch: 5, ..hello() }), Vec::new());
    let greeted = server.turn(|turn| newer.greet(&hello, turn, &mut out));
    assert_eq!(greeted, Consumed { bytes: 0, end: End::LentTo(id(1)) }, "the HELLO is offered again");
    server.leave(&mut older);
    let greeted = server.turn(|turn| newer.greet(&hello, turn, &mut out));
    let End::Greeted(greeting) = greeted.end else { panic!("{greeted:?}") };
    assert_eq!((greeting.after_ticket, greeting.last_seq, greeted.bytes), (ticket(1), 1, hello.len()));
    server.acknowledge(&mut newer, &mut out);
    assert!(out.is_empty() && !newer.may_receive(&server.settings), "not before the log has passed ticket 1");
    server.watermark = 1;
    server.acknowledge(&mut newer, &mut out);
    assert_eq!(heard(&out), [Heard::Welcome { epoch: 5, last_seq: 1, resumed: true, level: AckLevel::Received }]);
}

/// A server with a log whose sinks lag, and what is needed to come back to it.
fn lagging_server() -> Server {
    let mut server = Server::new();
    server.settings.highest_ack = AckLevel::Delivered;
    server.delivered = Some(0);
    server
}

fn hello_for(level: AckLevel) -> Vec<u8> {
    bytes_of(Hello { ack: Ok(Some(level)), epoch: 5, ..hello() })
}

#[test]
fn r4_at_level_delivered_a_reconnect_hears_only_of_what_is_delivered_and_its_duplicates_are_acknowledged_then() {
    let mut server = lagging_server();
    let mut session = server.connect();
    let mut input = [hello_for(AckLevel::Synced), data(1, "a"), data(2, "b")].concat();
    server.receive(&mut session, &mut input, &mut Vec::new());
    // Stored, and acknowledged as synced. The same agent comes back, and wants more.
    server.leave(&mut session);
    let (mut session, mut out) = (server.connect(), Vec::new());
    server.receive(&mut session, &mut hello_for(AckLevel::Delivered), &mut out);
    let welcome = Heard::Welcome { epoch: 5, last_seq: 0, resumed: true, level: AckLevel::Delivered };
    assert_eq!(heard(&std::mem::take(&mut out)), [welcome]);
    let mut again = [data(1, "a"), data(2, "b")].concat();
    server.at_once = false;
    server.watermark = 0;
    server.receive(&mut session, &mut again, &mut out);
    assert_eq!((heard(&out), server.stored.len()), (vec![], 2), "known, not stored again, and not yet delivered");
    // The connection's level is what its ACKs wait for.
    server.watermark = 2;
    server.acknowledge(&mut session, &mut out);
    assert_eq!(heard(&out), [Heard::Ack(2)]);
    // Once delivered, WELCOME says so.
    server.delivered = None;
    server.leave(&mut session);
    let (mut session, mut out) = (server.connect(), Vec::new());
    server.receive(&mut session, &mut hello_for(AckLevel::Delivered), &mut out);
    assert_eq!(heard(&out), [Heard::Welcome { epoch: 5, last_seq: 2, resumed: true, level: AckLevel::Delivered }]);
}

#[test]
fn r4_a_new_epoch_is_in_the_log_before_its_welcome() {
    let mut server = lagging_server();
    server.at_once = false;
    let (mut session, mut out) = (server.connect(), Vec::new());
    let hello = hello_for(AckLevel::Synced);
    let Ok(Decoded::Frame { header, payload }) = decode(&hello, server.settings.payload_caps()) else { panic!() };
    let step = server.turn(|turn| session.frame(&header, payload, turn, &mut out));
    assert!(matches!(step, Step::Greeted(greeting) if greeting.new_epoch), "{step:?}");
    session.epoch_logged(ticket(9));
    server.watermark = 8;
    server.acknowledge(&mut session, &mut out);
    assert!(out.is_empty());
    // An agent that sent no frame leaves no mark: its next connection puts the epoch into the log again.
    server.leave(&mut session);
    let mut newer = server.connect();
    let greeted = server.turn(|turn| newer.greet(&hello, turn, &mut out));
    assert!(matches!(greeted.end, End::Greeted(greeting) if greeting.new_epoch), "{greeted:?}");
    newer.epoch_logged(ticket(10));
    server.watermark = 9;
    server.acknowledge(&mut newer, &mut out);
    assert!(out.is_empty());
    server.watermark = 10;
    server.acknowledge(&mut newer, &mut out);
    assert!(matches!(heard(&out)[..], [Heard::Welcome { epoch: 5, .. }]), "{:?}", heard(&out));
}

#[test]
fn r7_the_last_frame_again_with_other_bytes_is_a_protocol_error() {
    expect(
        &[bytes_of(hello()), data(1, "a"), data(1, "b")],
        &[WELCOME, Heard::Ack(1), Heard::Goaway(GoawayCode::Protocol, 1)],
        &["a"],
    );
}

// ---- R8, R9: refused frames, and every NACK code ----

fn nacked(payload: &[u8], header: Header, code: NackCode, stored: &[&str]) {
    let input = [bytes_of(hello()), frame(header, payload), data(2, "next")].concat();
    let (all, names) = scenario(Server::new, &input);
    assert_eq!(all, [WELCOME, Heard::Nack(1, code), Heard::Ack(2)], "the NACK before the first ACK that covers it");
    assert_eq!(names, [stored, &["next"]].concat());
}

#[test]
fn r8_every_nack_code_uses_up_its_sequence_number() {
    let malformed = b"\x0a\x03abc";
    nacked(malformed, Header::data(1, malformed), NackCode::Malformed, &[]);
    let sound = batch(vec![named("a")]);
    let header = Header::data(1, &sound);
    nacked(&sound, Header { arg: header.arg + 1, ..header }, NackCode::Decompress, &[]);
    nacked(&sound, Header { arg: 4097, ..header }, NackCode::TooLarge, &[]);
    nacked(&sound, Header { codec: 1, ..header }, NackCode::Codec, &[]);
    let invalid = batch(vec![Event::default(), Event { severity: 25, ..named("a") }]);
    nacked(&invalid, Header::data(1, &invalid), NackCode::Invalid, &[]);
}

#[test]
fn r9_good_events_of_a_partly_refused_frame_are_stored() {
    let partly = batch(vec![named("a"), Event::default(), named("c")]);
    nacked(&partly, Header::data(1, &partly), NackCode::Partial, &["a", "c"]);
}

#[test]
fn r9_a_partial_nack_names_the_refused_events_as_json() {
    let payload = batch(vec![Event::default(), named("b"), Event { trace_id: vec![1], ..named("c") }]);
    let Admission::Some { events: 1, refused: 2, reason } = admit(&payload, &mut Vec::new()) else { panic!() };
    let reason: serde_json::Value = serde_json::from_str(&reason).unwrap();
    assert_eq!(reason["accepted"], 1);
    assert_eq!((reason["rejected"][0]["index"].as_u64(), reason["rejected"][1]["index"].as_u64()), (Some(0), Some(2)));
    assert!(reason["rejected"][1]["error"].as_str().unwrap().contains("trace_id"));
}

#[test]
fn too_many_events_in_a_frame_are_too_large() {
    let payload = batch(vec![named("a"); FRAME_EVENTS_MAX + 1]);
    let verdict = admit(&payload, &mut Vec::new());
    assert!(matches!(verdict, Admission::None { code: NackCode::TooLarge, .. }), "{verdict:?}");
}

#[test]
fn a_partial_nack_stays_within_its_bound_however_many_events_are_refused() {
    let mut events = vec![Event::default(); 5000];
    events.push(named("good"));
    let Admission::Some { refused: 5000, reason, .. } = admit(&batch(events), &mut Vec::new()) else { panic!() };
    assert!(reason.len() <= REASON_BYTES_MAX);
    assert!(serde_json::from_str::<serde_json::Value>(&reason).is_ok());
}

// ---- R10: window ----

#[test]
fn r10_frames_over_the_window_are_not_taken_before_the_watermark_moves() {
    let mut server = Server::new();
    server.at_once = false;
    let mut session = server.connect();
    let mut input: Vec<u8> = bytes_of(hello());
    (1..=6).for_each(|seq| input.extend(data(seq, "x")));
    server.receive(&mut session, &mut input, &mut Vec::new());
    assert_eq!(server.stored.len(), 4, "window_frames");
    server.watermark = 2;
    server.acknowledge(&mut session, &mut Vec::new());
    server.receive(&mut session, &mut input, &mut Vec::new());
    assert_eq!(server.stored.len(), 6);
}

#[test]
fn r10_one_frame_is_always_allowed_and_bytes_are_counted() {
    let mut server = Server::new();
    (server.at_once, server.settings.window_bytes) = (false, 10);
    let mut session = server.connect();
    let mut input = [bytes_of(hello()), data(1, &"n".repeat(200)), data(2, "b")].concat();
    server.receive(&mut session, &mut input, &mut Vec::new());
    assert_eq!(server.stored.len(), 1);
}

// ---- R11, R12, R13: timers ----

fn streaming(server: &mut Server) -> ServerSession {
    let mut session = server.connect();
    let mut input = bytes_of(hello());
    server.receive(&mut session, &mut input, &mut Vec::new());
    session
}

#[test]
fn r11_a_slow_frame_loses_its_connection_after_10_s_and_1_s_for_each_64_kib() {
    let mut server = Server::new();
    let mut session = streaming(&mut server);
    let total = 128 * 1024;
    session.partial(10, total, server.now);
    let deadline = server.now + FRAME_TIMEOUT + 2 * SECOND;
    assert_eq!(session.deadline(false), Some(deadline));
    server.now += 11 * SECOND;
    session.partial(20, total, server.now);
    assert_eq!(session.deadline(false), Some(deadline), "progress does not move it");
    assert_eq!(server.time_out(&mut session, false), []);
    server.now = deadline;
    assert_eq!(server.time_out(&mut session, false), [Heard::Goaway(GoawayCode::FrameTimeout, 0)]);
}

#[test]
fn r11_while_others_wait_for_memory_2_s_without_progress_are_enough() {
    let mut server = Server::new();
    let mut session = streaming(&mut server);
    session.partial(400 << 10, 1 << 20, server.now);
    server.now += SECOND;
    session.partial(500 << 10, 1 << 20, server.now);
    assert_eq!(session.deadline(true), Some(server.now + 2 * SECOND));
    server.now += 2 * SECOND;
    assert_eq!(server.time_out(&mut session, false), [], "nobody waits");
    assert_eq!(server.time_out(&mut session, true), [Heard::Goaway(GoawayCode::FrameTimeout, 0)]);
}

#[test]
fn r11_a_byte_a_second_holds_no_memory_that_others_wait_for() {
    let mut server = Server::new();
    let mut session = streaming(&mut server);
    session.partial(1000, 1 << 20, server.now);
    server.now += SECOND;
    session.partial(1001, 1 << 20, server.now);
    server.now += SECOND;
    session.partial(1002, 1 << 20, server.now);
    server.now += SECOND / 10;
    assert_eq!(server.time_out(&mut session, true), [Heard::Goaway(GoawayCode::FrameTimeout, 0)]);
}

#[test]
fn r11_timers_on_a_peer_stand_while_it_is_not_read_and_the_last_ack_is_repeated() {
    let mut server = Server::new();
    let mut session = streaming(&mut server);
    session.partial(10, 1000, server.now);
    session.set_paused(true, server.now);
    for _ in 0..100 {
        server.now += SECOND;
        assert_eq!(session.deadline(true), Some(server.now));
        assert_eq!(server.time_out(&mut session, true), [Heard::Ack(0)]);
    }
    session.set_paused(false, server.now);
    assert_eq!(session.deadline(true), Some(server.now + 2 * SECOND));
}

#[test]
fn r12_no_hello_within_5_s_ends_the_connection_however_many_bytes_come() {
    let mut server = Server::new();
    let mut session = server.connect();
    let deadline = server.now + HELLO_TIMEOUT;
    server.now += 4 * SECOND;
    server.receive(&mut session, &mut bytes_of(hello())[..40].to_vec(), &mut Vec::new());
    assert_eq!(session.deadline(false), Some(deadline));
    server.now = deadline;
    assert_eq!(server.time_out(&mut session, false), [Heard::Goaway(GoawayCode::Idle, 0)]);
    assert_eq!(session.deadline(false), None);
}

#[test]
fn r12_tokens_decide_who_comes_in() {
    for (token, loopback, allow, welcome) in [
        (&b"secret"[..], true, false, true),
        (b"wrong", true, false, false),
        (b"", true, false, false),
        (b"secret", false, false, false),
        (b"secret", false, true, true),
    ] {
        let prepare = || {
            let mut server = Server::new();
            (server.tokens, server.loopback) = (Tokens::from_lines("secret", allow), loopback);
            server
        };
        let (all, _) = scenario(prepare, &bytes_of(Hello { token, ..hello() }));
        let expected = if welcome { WELCOME } else { Heard::Goaway(GoawayCode::Auth, 0) };
        assert_eq!(all, [expected], "{token:?} loopback {loopback} allow {allow}");
    }
}

#[test]
fn r13_pings_are_answered_and_45_s_of_silence_end_the_connection() {
    let ping = frame(Header::empty(FrameKind::Ping, 77, 0), b"");
    expect(&[bytes_of(hello()), ping.clone()], &[WELCOME, Heard::Pong(77)], &[]);
    let mut server = Server::new();
    let mut session = streaming(&mut server);
    server.now += 44 * SECOND;
    server.receive(&mut session, &mut ping.clone(), &mut Vec::new());
    server.now += 44 * SECOND;
    assert_eq!(server.time_out(&mut session, false), []);
    server.now += SECOND;
    assert_eq!(session.deadline(false), Some(server.now));
    assert_eq!(server.time_out(&mut session, false), [Heard::Goaway(GoawayCode::Idle, 0)]);
}

// ---- R14, ack levels, and what is no protocol at all ----

#[test]
fn r14_versions_that_do_not_meet_are_told_so() {
    for (min, max) in [(2, 3), (0, 0), (2, 1)] {
        let input = bytes_of(Hello { min_version: min, max_version: max, ..hello() });
        expect(&[input], &[Heard::Goaway(GoawayCode::Version, 0)], &[]);
    }
}

#[test]
fn a_level_that_is_not_offered_is_refused_and_the_default_is_named() {
    for (ack, level) in
        [(Ok(None), true), (Ok(Some(AckLevel::Received)), true), (Ok(Some(AckLevel::Synced)), false), (Err(9), false)]
    {
        let expected = if level { WELCOME } else { Heard::Goaway(GoawayCode::AckLevel, 0) };
        expect(&[bytes_of(Hello { ack, ..hello() })], &[expected], &[]);
    }
}

#[test]
fn bad_bytes_and_frames_out_of_place_are_protocol_errors() {
    let damaged = |at: usize| {
        let mut bytes = data(1, "a");
        bytes[at] ^= 1;
        bytes
    };
    let too_long = Header { length: 4097, ..Header::empty(FrameKind::Data, 1, 0) }.encode().to_vec();
    let streaming: &[(&str, Vec<u8>)] = &[
        ("magic", damaged(0)),
        ("header", damaged(9)),
        ("payload", damaged(33)),
        ("longer than max_frame", too_long),
        ("a second HELLO", bytes_of(hello())),
        ("BYE with a payload", frame(Header::of_payload(FrameKind::Bye, 0, 0, b"?"), b"?")),
        ("BYE with an arg", frame(Header::empty(FrameKind::Bye, 0, 1), b"")),
        ("BYE with a codec", frame(Header { codec: 1, ..Header::empty(FrameKind::Bye, 0, 0) }, b"")),
        ("WELCOME", frame(Header::empty(FrameKind::Welcome, 0, 0), b"")),
        ("ACK", frame(Header::empty(FrameKind::Ack, 1, 0), b"")),
        ("NACK", frame(Header::empty(FrameKind::Nack, 1, 1), b"")),
        ("GOAWAY", frame(Header::empty(FrameKind::Goaway, 0, 0), b"")),
    ];
    for (name, bytes) in streaming {
        let (all, stored) = scenario(Server::new, &[bytes_of(hello()), bytes.clone(), data(1, "after")].concat());
        assert_eq!(all, [WELCOME, Heard::Goaway(GoawayCode::Protocol, 0)], "{name}");
        assert!(stored.is_empty(), "{name}: nothing after it is taken");
    }
    for (name, bytes) in [
        ("DATA first", data(1, "a")),
        ("PING first", frame(Header::empty(FrameKind::Ping, 1, 0), b"")),
        ("BYE first", bye()),
    ] {
        let (all, _) = scenario(Server::new, &bytes);
        assert_eq!(all, [Heard::Goaway(GoawayCode::Protocol, 0)], "{name}");
    }
}

#[test]
fn frames_of_unknown_skippable_types_are_skipped() {
    let skippable = frame(Header::of_payload(FrameKind::Skippable(0xC1), 3, 9, b"later"), b"later");
    expect(&[skippable.clone(), bytes_of(hello()), skippable, data(1, "a")], &[WELCOME, Heard::Ack(1)], &["a"]);
}

// ---- R15: the end ----

#[test]
fn r15_the_last_words_carry_what_is_acknowledged_and_a_jittered_hint() {
    let mut server = Server::new();
    let mut session = streaming(&mut server);
    server.receive(&mut session, &mut data(1, "a"), &mut Vec::new());
    let mut hints = Vec::new();
    for random in [0, 1, 500, 999] {
        let mut session = streaming(&mut Server::new());
        let mut out = Vec::new();
        session.end(GoawayCode::Shutdown, "bye", random, &mut out);
        let Ok(Decoded::Frame { payload, .. }) = decode(&out, server.settings.payload_caps()) else { panic!() };
        let goaway = Goaway::decode(payload).unwrap();
        assert_eq!((goaway.code, goaway.text), (Ok(GoawayCode::Shutdown), "bye"));
        hints.push(goaway.retry_ms);
    }
    assert!(hints.iter().all(|hint| (RETRY_HINT_MS / 2..RETRY_HINT_MS).contains(hint)) && hints[0] != hints[2]);
    let mut out = Vec::new();
    session.end(GoawayCode::Storage, "the log cannot be written", 0, &mut out);
    session.end(GoawayCode::Shutdown, "twice", 0, &mut out);
    assert_eq!(heard(&out), [Heard::Goaway(GoawayCode::Storage, 1)], "only the first reason is said");
    assert!(!session.may_receive(&server.settings));
}
