//! Drives the agent with slices against a scripted server, in virtual time.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::agent::*;
use crate::limits::{AGENT_BACKOFF_MAX, WELCOME_TIMEOUT};
use crate::wire::{
    AckLevel, Decoded, FrameKind, Goaway, GoawayCode, Header, Hello, NackCode, PayloadCaps, Welcome, answer, decode,
};

mod closing;

const KEEPALIVE: Duration = Duration::from_secs(30);
const EPOCH: u64 = 77;

fn settings() -> Settings {
    Settings {
        agent_id: std::array::from_fn(|index| index as u8),
        name: "api".to_owned(),
        token: Vec::new(),
        ack: None,
        queue_bytes: 1 << 20,
        seed: 1,
    }
}

fn welcome() -> Welcome {
    Welcome {
        version: 1,
        ack: AckLevel::Synced,
        codecs: 1,
        max_frame: 1 << 16,
        max_raw: 1 << 16,
        window_bytes: 1 << 16,
        window_frames: 4,
        keepalive_seconds: KEEPALIVE.as_secs() as u16,
        resumed: false,
        epoch: EPOCH,
        last_seq: 0,
        server_id: [9; 16],
    }
}

/// What the agent wrote, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Said {
    Hello { epoch: u64, oldest_seq: u64 },
    Data { seq: u64, payload: Vec<u8> },
    Ping,
    Pong(u64),
    Bye,
}

fn data(seq: u64, payload: &[u8]) -> Said {
    Said::Data { seq, payload: payload.to_vec() }
}

/// The agent, its driver, and the server's pen.
struct Script {
    agent: Agent,
    now: Instant,
    /// The last action that was no write.
    rest: Action,
}

impl Script {
    fn new(settings: Settings) -> Self {
        let now = Instant::now();
        Self { agent: Agent::new(settings, now).unwrap(), now, rest: Action::Wait(None) }
    }

    /// Up to the WELCOME, with nothing said but HELLO.
    fn greeted(settings: Settings, welcome: &Welcome) -> Self {
        let mut script = Self::new(settings);
        assert_eq!(script.connect(), [Said::Hello { epoch: 0, oldest_seq: 1 }]);
        script.server(|out| welcome.encode(out));
        script
    }

    /// Everything that the agent writes until it does something else.
    fn written(&mut self) -> Vec<u8> {
        let mut written = Vec::new();
        loop {
            match self.agent.poll(self.now) {
                Action::Write(bytes) => written.extend_from_slice(&bytes),
                rest => {
                    self.rest = rest;
                    return written;
                }
            }
        }
    }

    fn said(&mut self) -> Vec<Said> {
        let written = self.written();
        said_in(&written)
    }

    /// Waits for the agent to connect, lets it, and returns what it says first.
    fn connect(&mut self) -> Vec<Said> {
        for _ in 0..4 {
            assert_eq!(self.written(), b"");
            match self.rest {
                Action::Wait(Some(until)) => self.now = until,
                Action::Connect => {
                    self.agent.connected(self.now);
                    return self.said();
                }
                _ => {}
            }
        }
        panic!("does not connect: {:?}", self.rest)
    }

    fn server(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = Vec::new();
        write(&mut bytes);
        self.agent.receive(&bytes, self.now);
    }

    fn ack(&mut self, seq: u64) {
        self.server(|out| answer::ack(seq, 1 << 16, out));
    }

    fn goaway(&mut self, code: GoawayCode, last_acked: u64, retry_ms: u32) {
        self.server(|out| Goaway { code: Ok(code), retry_ms, text: "why" }.encode(last_acked, out));
    }

    fn queue(&mut self, payloads: &[&[u8]]) {
        for payload in payloads {
            self.agent.queue(payload, 1).unwrap();
        }
    }

    /// Loses the connection and greets again, resumed after `last_seq`; returns HELLO and what follows the WELCOME.
    fn reconnect(&mut self, last_seq: u64) -> (Vec<Said>, Vec<Said>) {
        self.agent.disconnected("reset".to_owned(), self.now);
        let hello = self.connect();
        self.server(|out| Welcome { resumed: true, last_seq, ..welcome() }.encode(out));
        (hello, self.said())
    }

    fn notices(&mut self) -> Vec<Notice> {
        std::iter::from_fn(|| self.agent.take_notice()).collect()
    }

    /// Why the connection ended, from the notices since the last call.
    fn lost(&mut self) -> Option<Lost> {
        self.notices().into_iter().find_map(|notice| match notice {
            Notice::Disconnected { reason, .. } => Some(reason),
            _ => None,
        })
    }
}

fn said_in(mut bytes: &[u8]) -> Vec<Said> {
    let mut said = Vec::new();
    while let Ok(Decoded::Frame { header, payload }) = decode(bytes, PayloadCaps { data: 1 << 20 }) {
        bytes = &bytes[32 + payload.len()..];
        said.push(match header.kind {
            FrameKind::Hello => {
                let hello = Hello::decode(payload).unwrap();
                Said::Hello { epoch: hello.epoch, oldest_seq: hello.oldest_seq }
            }
            FrameKind::Data => data(header.seq, payload),
            FrameKind::Ping => Said::Ping,
            FrameKind::Pong => Said::Pong(header.seq),
            FrameKind::Bye => Said::Bye,
            other => panic!("an agent does not say {other:?}"),
        });
    }
    assert_eq!(bytes, b"", "an agent writes whole frames");
    said
}

#[test]
fn first_words_are_the_golden_hello() {
    let mut script = Script::new(settings());
    assert_eq!(script.agent.poll(script.now), Action::Connect);
    script.agent.connected(script.now);
    let golden = "f5544c5801010000330000000000000000000000000000009032 2bbf6de7770c\
                  0101010000000000000102030405060708090a0b0c0d0e0f00000000000000000100000000000000000003000000\
                  0000617069";
    let hex: String = script.written().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, golden.replace(' ', ""));
}

#[test]
fn settings_that_no_server_accepts_are_refused() {
    let now = Instant::now();
    let error = |settings| Agent::new(settings, now).err();
    assert_eq!(error(Settings { agent_id: [0; 16], ..settings() }), Some(SettingsError::AgentId));
    let long = Settings { token: vec![b'x'; 974], ..settings() };
    assert_eq!(error(long), Some(SettingsError::Hello { found: 1025 }));
    assert_eq!(error(Settings { token: vec![b'x'; 973], ..settings() }), None);
}

#[test]
fn nothing_but_hello_goes_before_welcome() {
    let mut script = Script::new(settings());
    script.queue(&[b"a"]);
    assert_eq!(script.connect(), [Said::Hello { epoch: 0, oldest_seq: 1 }]);
    script.server(|out| welcome().encode(out));
    assert_eq!(script.said(), [data(1, b"a")]);
    assert_eq!(script.notices(), [Notice::Connected(welcome())]);
}

#[test]
fn without_a_welcome_in_time_the_connection_is_given_up() {
    let mut script = Script::new(settings());
    script.connect();
    assert_eq!(script.rest, Action::Wait(Some(script.now + WELCOME_TIMEOUT)));
    script.now += WELCOME_TIMEOUT;
    assert_eq!(script.agent.poll(script.now), Action::Close);
    assert_eq!(script.lost(), Some(Lost::NoWelcome));
}

#[test]
fn frames_in_flight_stay_within_the_window() {
    let mut script = Script::greeted(settings(), &Welcome { window_bytes: 10, window_frames: 3, ..welcome() });
    script.queue(&[b"four", b"five5", b"x", b"y", b"z", b"longer than the window", b"end"]);
    assert_eq!(script.said(), [data(1, b"four"), data(2, b"five5"), data(3, b"x")], "10 bytes, 3 frames");
    script.server(|out| answer::ack(1, 10, out));
    assert_eq!(script.said(), [data(4, b"y")]);
    script.server(|out| answer::ack(3, 10, out));
    assert_eq!(script.said(), [data(5, b"z")], "22 bytes more would be too many");
    script.server(|out| answer::ack(5, 10, out));
    assert_eq!(script.said(), [data(6, b"longer than the window")], "one frame is always allowed");
    script.server(|out| answer::ack(6, 10, out));
    assert_eq!(script.said(), [data(7, b"end")]);
}

#[test]
fn a_window_of_zero_pauses_until_an_ack_opens_it() {
    let mut script = Script::greeted(settings(), &welcome());
    script.queue(&[b"a"]);
    assert_eq!(script.said(), [data(1, b"a")]);
    script.notices();
    script.server(|out| answer::ack(0, 0, out));
    script.server(|out| answer::ack(1, 0, out));
    script.queue(&[b"b"]);
    assert_eq!(script.said(), []);
    assert_eq!(script.notices(), [Notice::Paused], "said once");
    script.server(|out| answer::ack(1, 100, out));
    assert_eq!(script.said(), [data(2, b"b")]);
    assert_eq!(script.notices(), [Notice::Resumed]);
}

#[test]
fn a_resumed_session_trims_and_sends_identical_bytes_again() {
    let mut script = Script::greeted(settings(), &welcome());
    script.queue(&[b"a", b"b", b"c"]);
    let first = script.written();
    script.ack(1);
    script.agent.disconnected("reset".to_owned(), script.now);
    assert_eq!(script.connect(), [Said::Hello { epoch: EPOCH, oldest_seq: 2 }]);
    script.server(|out| Welcome { resumed: true, last_seq: 2, ..welcome() }.encode(out));
    assert_eq!(script.written(), first[66..], "only frame 3 is missing");
    assert_eq!(script.agent.progress().acked_seq, 2);
    let (hello, again) = script.reconnect(3);
    assert_eq!((hello, again), (vec![Said::Hello { epoch: EPOCH, oldest_seq: 3 }], vec![]));
    assert_eq!(script.agent.progress().acknowledged_events, 3);
}

#[test]
fn an_ack_may_pass_what_was_sent_again() {
    let mut script = Script::greeted(settings(), &Welcome { window_frames: 10, ..welcome() });
    script.queue(&[b"a", b"b", b"c", b"d"]);
    assert_eq!(script.said().len(), 4);
    script.agent.disconnected("reset".to_owned(), script.now);
    script.connect();
    script.server(|out| Welcome { resumed: true, window_frames: 1, ..welcome() }.encode(out));
    assert_eq!(script.said(), [data(1, b"a")]);
    script.ack(3);
    assert_eq!(script.said(), [data(4, b"d")]);
    script.ack(4);
    assert_eq!(script.agent.progress().acknowledged_events, 4);
}

#[test]
fn a_connection_that_breaks_before_welcome_asks_for_a_new_epoch_again() {
    let mut script = Script::new(settings());
    script.queue(&[b"a"]);
    script.connect();
    script.agent.disconnected("reset".to_owned(), script.now);
    assert_eq!(script.connect(), [Said::Hello { epoch: 0, oldest_seq: 1 }]);
}

#[test]
fn a_refused_frame_is_reported_once_and_keeps_its_number_and_bytes() {
    let mut script = Script::greeted(settings(), &welcome());
    script.agent.queue(b"a", 3).unwrap();
    script.agent.queue(b"b", 5).unwrap();
    script.said();
    script.notices();
    script.server(|out| {
        answer::nack(1, NackCode::Invalid, "no name", out);
        answer::nack(2, NackCode::Partial, r#"{"accepted":4,"rejected":[{"index":0,"error":"x"}]}"#, out);
    });
    let refusals: Vec<_> = script.notices();
    let [Notice::Refused(whole), Notice::Refused(part)] = &refusals[..] else { panic!("{refusals:?}") };
    assert_eq!((whole.seq, whole.code, whole.reason.as_str()), (1, Ok(NackCode::Invalid), "no name"));
    assert_eq!((whole.events, whole.refused), (3, 3));
    assert_eq!((part.seq, part.events, part.refused), (2, 5, 1));
    // Lost before the ACK: the number is filled with the same bytes, and refused again.
    let (_, again) = script.reconnect(0);
    assert_eq!(again, [data(1, b"a"), data(2, b"b")]);
    script.notices();
    script.server(|out| answer::nack(1, NackCode::Invalid, "no name", out));
    script.ack(2);
    assert_eq!(script.notices(), []);
    let progress = script.agent.progress();
    assert_eq!((progress.acknowledged_events, progress.refused_events), (4, 4));
}

#[test]
fn an_unknown_nack_code_is_permanent_too() {
    let mut script = Script::greeted(settings(), &welcome());
    script.queue(&[b"a"]);
    script.said();
    script.server(|out| out.extend_from_slice(&Header::empty(FrameKind::Nack, 1, 999).encode()));
    script.ack(1);
    assert_eq!((script.agent.progress().refused_events, script.agent.progress().acknowledged_events), (1, 0));
}

#[test]
fn an_idle_agent_pings_at_half_the_keepalive() {
    let mut script = Script::greeted(settings(), &welcome());
    assert_eq!(script.said(), []);
    let start = script.now;
    assert_eq!(script.rest, Action::Wait(Some(start + KEEPALIVE / 2)));
    script.now = start + KEEPALIVE / 2 - Duration::from_millis(1);
    assert_eq!(script.said(), []);
    script.now = start + KEEPALIVE / 2;
    assert_eq!(script.said(), [Said::Ping]);
    script.server(|out| answer::pong(1, out));
    assert_eq!(script.said(), []);
    assert_eq!(script.rest, Action::Wait(Some(script.now + KEEPALIVE / 2)));
    script.now += KEEPALIVE / 4;
    script.queue(&[b"a"]);
    assert_eq!(script.said(), [data(1, b"a")]);
    assert_eq!(script.rest, Action::Wait(Some(script.now + KEEPALIVE / 2)), "data stands for a ping");
}

#[test]
fn a_silent_server_is_left() {
    let mut script = Script::greeted(settings(), &welcome());
    let start = script.now;
    script.now = start + KEEPALIVE * 3 / 2 - Duration::from_millis(1);
    assert_eq!(script.said(), [Said::Ping]);
    script.now = start + KEEPALIVE * 3 / 2;
    assert_eq!(script.agent.poll(script.now), Action::Close);
    assert_eq!(script.lost(), Some(Lost::Silent(KEEPALIVE * 3 / 2)));
}

#[test]
fn a_large_frame_on_a_slow_line_is_given_the_time_it_needs() {
    let big = Welcome { max_frame: 1 << 20, window_bytes: 1 << 20, ..welcome() };
    let mut script = Script::greeted(Settings { queue_bytes: 1 << 22, ..settings() }, &big);
    script.queue(&[&vec![0; 640 * 1024]]);
    script.said();
    script.now += KEEPALIVE * 3 / 2 + Duration::from_secs(9);
    script.said();
    assert!(script.agent.is_connected());
    script.now += Duration::from_secs(1);
    assert_eq!(script.agent.poll(script.now), Action::Close);
}

#[test]
fn a_ping_of_the_server_is_answered() {
    let mut script = Script::greeted(settings(), &welcome());
    script.server(|out| answer::ping(5, out));
    assert_eq!(script.said(), [Said::Pong(5)]);
}

#[test]
fn failed_attempts_are_spread_further_and_further_apart() {
    let mut script = Script::new(settings());
    let mut longest = Duration::ZERO;
    for attempt in 0..200 {
        let before = script.now;
        script.connect();
        let waited = script.now - before;
        assert!(waited <= AGENT_BACKOFF_MAX.min(Duration::from_millis(50) * 2u32.pow(attempt.min(20))));
        longest = longest.max(waited);
        script.agent.disconnected("refused".to_owned(), script.now);
    }
    assert!(longest > AGENT_BACKOFF_MAX / 2);
    // A WELCOME alone is no progress: a server may greet and hang up. An acknowledgement is.
    script.connect();
    script.server(|out| welcome().encode(out));
    script.queue(&[b"a"]);
    script.said();
    script.ack(1);
    let before = script.now;
    script.reconnect(1);
    assert!(script.now - before < Duration::from_millis(50));
}

#[test]
fn goaway_sends_the_agent_away_for_the_time_it_says() {
    let mut script = Script::greeted(settings(), &welcome());
    script.queue(&[b"a", b"b"]);
    script.said();
    script.goaway(GoawayCode::Shutdown, 1, 1500);
    assert_eq!(script.agent.progress().acked_seq, 1, "what GOAWAY acknowledges is trimmed");
    assert_eq!(script.agent.poll(script.now), Action::Close);
    assert_eq!(script.agent.poll(script.now), Action::Wait(Some(script.now + Duration::from_millis(1500))));
    let before = script.now;
    assert_eq!(script.connect(), [Said::Hello { epoch: EPOCH, oldest_seq: 2 }]);
    assert_eq!(script.now - before, Duration::from_millis(1500));
    script.goaway(GoawayCode::Overloaded, 0, u32::MAX);
    let before = script.now;
    script.agent.poll(before);
    script.connect();
    assert_eq!(script.now - before, AGENT_BACKOFF_MAX, "no server keeps an agent away for weeks");
}

#[test]
fn after_a_storage_failure_the_agent_comes_back_slowly() {
    let mut waits: Vec<_> = (0..50)
        .map(|seed| {
            let mut script = Script::greeted(Settings { seed, ..settings() }, &welcome());
            script.goaway(GoawayCode::Storage, 0, 0);
            script.agent.poll(script.now);
            let before = script.now;
            script.connect();
            script.now - before
        })
        .collect();
    waits.sort();
    assert!(waits[25] > Duration::from_secs(10), "{:?}", waits[25]);
}

#[test]
fn goaways_that_cannot_change_stop_the_agent() {
    for code in GoawayCode::ALL {
        for greeted in [false, true] {
            let mut script = Script::new(settings());
            script.connect();
            if greeted {
                script.server(|out| welcome().encode(out));
            }
            script.goaway(code, 0, 0);
            assert_eq!(script.agent.poll(script.now), Action::Close);
            if code.retry() {
                assert_eq!(script.agent.stopped(), None);
                script.connect();
            } else {
                let stopped = Stopped::Refused { code, text: "why".to_owned() };
                assert_eq!(script.agent.stopped(), Some(&stopped));
                assert_eq!(script.agent.poll(script.now), Action::Stop);
                assert_eq!(script.agent.queue(b"a", 1), Err(QueueError::Closing));
            }
        }
    }
}

#[test]
fn an_unknown_goaway_code_is_one_to_retry() {
    let mut script = Script::greeted(settings(), &welcome());
    script.server(|out| Goaway { code: Err(99), retry_ms: 0, text: "" }.encode(0, out));
    assert_eq!(script.lost(), Some(Lost::Goaway { code: Err(99), text: String::new() }));
    assert_eq!(script.agent.poll(script.now), Action::Close);
    script.connect();
}

#[test]
fn a_frame_that_ends_four_connections_is_set_aside() {
    let mut script = Script::greeted(settings(), &welcome());
    script.queue(&[b"bad", b"next"]);
    assert_eq!(script.said(), [data(1, b"bad"), data(2, b"next")]);
    for round in 1..=4 {
        script.notices();
        script.goaway(GoawayCode::Protocol, 0, 0);
        assert_eq!(script.agent.poll(script.now), Action::Close);
        script.connect();
        script.server(|out| Welcome { resumed: true, ..welcome() }.encode(out));
        let again: &[u8] = if round < 4 { b"bad" } else { b"" };
        assert_eq!(script.said(), [data(1, again)], "round {round}: alone, so that an error names it");
    }
    let aside = script.notices().into_iter().find_map(|notice| match notice {
        Notice::SetAside { seq, payload, events } => Some((seq, payload, events)),
        _ => None,
    });
    assert_eq!(aside, Some((1, b"bad".as_slice().into(), 1)));
    script.ack(1);
    assert_eq!(script.said(), [data(2, b"next")]);
    script.ack(2);
    let progress = script.agent.progress();
    assert_eq!((progress.acknowledged_events, progress.set_aside_events), (1, 1));
    assert!(script.agent.has_room(1 << 19), "its bytes are given back");
}

#[test]
fn the_frame_that_is_set_aside_is_the_guilty_one() {
    // At level delivered WELCOME does not tell what was accepted, so the oldest frame is suspected first.
    let mut script = Script::greeted(settings(), &welcome());
    script.queue(&[b"good", b"bad", b"fine"]);
    script.said();
    for _ in 0..4 {
        script.goaway(GoawayCode::Protocol, 0, 0);
        script.agent.poll(script.now);
        script.connect();
        let last_seq = script.agent.progress().acked_seq;
        script.server(|out| Welcome { resumed: true, last_seq, ..welcome() }.encode(out));
        if last_seq == 0 {
            assert_eq!(script.said(), [data(1, b"good")]);
            script.ack(1);
        }
        assert_eq!(script.said(), [data(2, b"bad")]);
    }
    script.goaway(GoawayCode::Protocol, 1, 0);
    let aside: Vec<_> =
        script.notices().into_iter().filter(|notice| matches!(notice, Notice::SetAside { .. })).collect();
    assert_eq!(aside, [Notice::SetAside { seq: 2, payload: b"bad".as_slice().into(), events: 1 }]);
}

#[test]
fn protocol_errors_without_a_frame_in_flight_blame_none() {
    let mut script = Script::greeted(settings(), &Welcome { window_bytes: 0, ..welcome() });
    script.queue(&[b"a"]);
    for _ in 0..8 {
        script.goaway(GoawayCode::Protocol, 0, 0);
        script.agent.poll(script.now);
        script.connect();
        script.goaway(GoawayCode::Protocol, 0, 0);
        script.agent.poll(script.now);
        script.connect();
        script.server(|out| Welcome { window_bytes: 0, resumed: true, ..welcome() }.encode(out));
    }
    assert_eq!(script.agent.progress().set_aside_events, 0);
}

#[test]
fn events_that_another_server_may_have_are_counted() {
    let mut script = Script::greeted(settings(), &Welcome { window_frames: 2, ..welcome() });
    script.queue(&[b"a", b"b", b"never sent"]);
    script.said();
    script.ack(1);
    script.notices();
    script.agent.disconnected("reset".to_owned(), script.now);
    script.said();
    script.connect();
    // Frames 2 and 3 were written, 4 was not.
    let other = Welcome { server_id: [8; 16], last_seq: 1, ..welcome() };
    script.server(|out| other.encode(out));
    assert!(script.notices().contains(&Notice::PossiblyDoubled { events: 1 }));
    assert_eq!(script.said(), [data(2, b"b"), data(3, b"never sent")]);
    // The same server, with its state: nothing can double.
    script.agent.disconnected("reset".to_owned(), script.now);
    script.connect();
    script.server(|out| Welcome { resumed: true, ..other }.encode(out));
    assert_eq!(script.agent.progress().possibly_doubled_events, 1);
    // The same server has lost its state: both may be there already.
    script.said();
    script.agent.disconnected("reset".to_owned(), script.now);
    script.connect();
    script.server(|out| other.encode(out));
    assert_eq!(script.agent.progress().possibly_doubled_events, 3);
}

#[test]
fn a_first_server_that_knows_more_than_its_successor_is_believed() {
    let mut script = Script::greeted(settings(), &welcome());
    script.queue(&[b"a", b"b"]);
    script.said();
    script.agent.disconnected("reset".to_owned(), script.now);
    script.connect();
    script.server(|out| Welcome { server_id: [8; 16], ..welcome() }.encode(out));
    script.agent.disconnected("reset".to_owned(), script.now);
    script.connect();
    script.server(|out| Welcome { resumed: true, last_seq: 2, ..welcome() }.encode(out));
    assert_eq!(script.agent.progress().acknowledged_events, 2);
}

#[test]
fn the_queue_is_bounded_by_bytes() {
    let mut script = Script::greeted(Settings { queue_bytes: 1000, ..settings() }, &welcome());
    script.queue(&[&[0; 2000]]);
    assert!(matches!(script.agent.queue(b"", 0), Err(QueueError::Full { max: 1000, .. })), "one is always allowed");
    script.said();
    script.ack(1);
    let mut frames = 0;
    while script.agent.queue(b"small", 1).is_ok() {
        frames += 1;
    }
    assert!((5..20).contains(&frames), "{frames} frames: what a small one costs is counted too");
    script.said();
    script.ack(4);
    assert!(script.agent.has_room(5));
}

#[test]
fn frames_that_the_server_would_refuse_are_not_queued() {
    let mut script = Script::greeted(settings(), &welcome());
    let max = 1 << 16;
    assert_eq!(script.agent.max_frame(), max);
    let error = script.agent.queue(&vec![0; max + 1], 1);
    assert_eq!(error, Err(QueueError::TooLarge { bytes: max + 1, max }));
    assert_eq!(script.agent.queue(b"", 65_537), Err(QueueError::TooManyEvents(65_537)));
    assert_eq!(script.agent.queue(&vec![0; max], 65_536), Ok(1), "a refused frame takes no number");
}

#[test]
fn a_server_that_breaks_the_protocol_is_left_and_tried_again() {
    type Fault = fn(&mut Vec<u8>);
    let cases: [(&str, Fault); 11] = [
        ("not bytes of this protocol", |out| out.extend_from_slice(b"HTTP/1.1 400 Bad Request\r\n")),
        ("a damaged header", |out| {
            answer::ack(1, 1, out);
            out[20] ^= 1;
        }),
        ("a damaged payload", |out| {
            answer::nack(1, NackCode::Invalid, "reason", out);
            out[34] ^= 1;
        }),
        ("ACK of what was never sent", |out| answer::ack(4, 1, out)),
        ("NACK of what was never sent", |out| answer::nack(u64::MAX, NackCode::Invalid, "", out)),
        ("a second WELCOME", |out| welcome().encode(out)),
        ("DATA", |out| out.extend_from_slice(&Header::data(1, b"").encode())),
        ("HELLO", |out| out.extend_from_slice(&Header::empty(FrameKind::Hello, 0, 0).encode())),
        ("a short GOAWAY", |out| out.extend_from_slice(&Header::empty(FrameKind::Goaway, 0, 0).encode())),
        ("an endless NACK", |out| {
            let header = Header { length: 1 << 24, ..Header::empty(FrameKind::Nack, 1, 1) };
            out.extend_from_slice(&header.encode());
        }),
        ("an unknown type", |out| {
            let mut frame = Header::empty(FrameKind::Ack, 0, 0).encode();
            frame[5] = 9;
            let crc = crc32fast::hash(&frame[..28]);
            frame[28..].copy_from_slice(&crc.to_le_bytes());
            out.extend_from_slice(&frame);
        }),
    ];
    for (what, fault) in cases {
        let mut script = Script::greeted(settings(), &welcome());
        script.queue(&[b"a", b"b", b"c"]);
        script.said();
        script.server(fault);
        assert!(matches!(script.lost(), Some(Lost::Fault(_))), "{what}");
        assert_eq!(script.agent.poll(script.now), Action::Close, "{what}");
        let (_, again) = script.reconnect(0);
        assert_eq!(again, [data(1, b"a"), data(2, b"b"), data(3, b"c")], "{what}: nothing is lost");
    }
}

#[test]
fn a_welcome_that_does_not_fit_is_a_fault() {
    let synced = Settings { ack: Some(AckLevel::Synced), ..settings() };
    let cases = [
        ("another level", Welcome { ack: AckLevel::Received, ..welcome() }),
        ("frames never sent", Welcome { last_seq: 1, ..welcome() }),
        ("an epoch that cannot be", Welcome { epoch: 1 << 62, ..welcome() }),
        ("no epoch", Welcome { epoch: 0, ..welcome() }),
    ];
    for (what, unfit) in cases {
        let mut script = Script::greeted(synced.clone(), &unfit);
        assert!(matches!(script.lost(), Some(Lost::Fault(_))), "{what}");
    }
    // Once there is an epoch it stays, for frames may be on their way under it.
    let mut script = Script::greeted(synced, &welcome());
    script.queue(&[b"a"]);
    script.said();
    script.ack(1);
    for unfit in [Welcome { epoch: EPOCH + 1, last_seq: 1, ..welcome() }, Welcome { last_seq: 0, ..welcome() }] {
        script.agent.disconnected("reset".to_owned(), script.now);
        script.connect();
        script.notices();
        script.server(|out| unfit.encode(out));
        assert!(matches!(script.lost(), Some(Lost::Fault(_))), "{unfit:?}");
        script.agent.poll(script.now);
    }
}

#[test]
fn frames_that_may_be_skipped_are() {
    let mut script = Script::greeted(settings(), &welcome());
    script.server(|out| {
        out.extend_from_slice(&Header::of_payload(FrameKind::Skippable(0x90), 0, 0, b"later").encode());
        out.extend_from_slice(b"later");
        answer::ping(3, out);
    });
    assert_eq!(script.said(), [Said::Pong(3)]);
}

/// WELCOME, three ACKs, two NACKs and more, as a server sends them.
fn conversation() -> Vec<u8> {
    let mut out = Vec::new();
    welcome().encode(&mut out);
    answer::ack(0, 1 << 16, &mut out);
    out.extend_from_slice(&Header::of_payload(FrameKind::Skippable(0xFF), 0, 0, b"?").encode());
    out.extend_from_slice(b"?");
    answer::ack(2, 1 << 16, &mut out);
    answer::nack(3, NackCode::Partial, r#"{"accepted":1}"#, &mut out);
    answer::pong(1, &mut out);
    answer::ack(3, 0, &mut out);
    Goaway { code: Ok(GoawayCode::Shutdown), retry_ms: 500, text: "bye" }.encode(4, &mut out);
    out
}

/// What is left of a conversation that came in these pieces.
fn after(pieces: &[&[u8]]) -> (Progress, Vec<Notice>, Vec<Said>) {
    let mut script = Script::new(settings());
    for payload in [b"a", b"b", b"c", b"d"] {
        script.agent.queue(payload, 2).unwrap();
    }
    let mut said = script.connect();
    for piece in pieces {
        script.agent.receive(piece, script.now);
        said.extend(script.said());
    }
    (script.agent.progress(), script.notices(), said)
}

#[test]
fn the_pieces_in_which_bytes_arrive_do_not_matter() {
    let bytes = conversation();
    // WELCOME has to be in a piece of its own: what follows it answers frames that are written after it.
    let (greeting, rest) = bytes.split_at(88);
    let whole = after(&[greeting, rest]);
    assert_eq!((whole.0.acked_seq, whole.0.acknowledged_events, whole.0.refused_events), (4, 7, 1));
    assert_eq!(whole.2.len(), 5);
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(after(&single), whole, "byte by byte");
    for at in 0..bytes.len() {
        let pieces = if at <= 88 {
            vec![&bytes[..at], &bytes[at..88], rest]
        } else {
            vec![greeting, &bytes[88..at], &bytes[at..]]
        };
        assert_eq!(after(&pieces), whole, "split at {at}");
    }
}

/// A server in a few lines: R2's sequence, R4's resume, and what it has stored.
#[derive(Default)]
struct Model {
    stored: Vec<Vec<u8>>,
    acked: u64,
    left: bool,
}

impl Model {
    fn take(&mut self, said: &[Said]) {
        for frame in said {
            if let Said::Data { seq, payload } = frame {
                let last = self.stored.len() as u64;
                match seq.checked_sub(last + 1) {
                    Some(0) => self.stored.push(payload.clone()),
                    Some(_) => panic!("a gap: {seq} after {last}"),
                    None => assert_eq!(&self.stored[*seq as usize - 1], payload, "sent again with other bytes"),
                }
            }
            self.left |= *frame == Said::Bye;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn whatever_breaks_each_frame_is_stored_once_and_in_order(
        steps in prop::collection::vec((0u8..6, any::<u16>()), 1..200),
        window_frames in 1u16..6,
    ) {
        let mut script = Script::new(settings());
        let mut model = Model::default();
        let mut queued: Vec<Vec<u8>> = Vec::new();
        for (step, number) in steps {
            match step {
                0 | 1 => {
                    let payload = queued.len().to_le_bytes().repeat(usize::from(number % 4) + 1);
                    if script.agent.queue(&payload, 1).is_ok() {
                        queued.push(payload);
                    }
                }
                2 if script.agent.is_connected() => script.agent.disconnected("cut".to_owned(), script.now),
                // Part of what was on its way arrives before the connection breaks.
                3 if script.agent.is_connected() => {
                    let said = script.said();
                    model.take(&said[..said.len().min(usize::from(number % 3))]);
                    script.agent.disconnected("cut".to_owned(), script.now);
                }
                4 if script.agent.is_connected() => {
                    let said = script.said();
                    model.take(&said);
                    model.acked += (model.stored.len() as u64 - model.acked) * u64::from(number) / u64::from(u16::MAX);
                    let (acked, window) = (model.acked, u32::from(number % 3) * 64);
                    script.server(|out| answer::ack(acked, window, out));
                }
                _ if !script.agent.is_connected() => {
                    script.connect();
                    let last_seq = model.stored.len() as u64;
                    model.acked = last_seq;
                    script.server(|out| {
                        Welcome { resumed: last_seq > 0, last_seq, window_frames, ..welcome() }.encode(out);
                    });
                }
                _ => {}
            }
            let in_flight = script.agent.progress().last_seq - script.agent.progress().acked_seq;
            prop_assert!(in_flight as usize >= queued.len() - model.stored.len());
        }
        script.agent.close();
        for _ in 0..1000 {
            if script.agent.stopped().is_some() {
                break;
            }
            if !script.agent.is_connected() {
                script.connect();
                let last_seq = model.stored.len() as u64;
                script.server(|out| Welcome { resumed: true, last_seq, ..welcome() }.encode(out));
            }
            let said = script.said();
            model.take(&said);
            if model.left {
                script.agent.disconnected("the server closed the connection".to_owned(), script.now);
                break;
            }
            let last_seq = model.stored.len() as u64;
            script.server(|out| answer::ack(last_seq, 1 << 16, out));
        }
        prop_assert_eq!(script.agent.stopped(), Some(&Stopped::Finished));
        prop_assert_eq!(script.agent.progress().acknowledged_events, queued.len() as u64);
        prop_assert_eq!(model.stored, queued);
    }

    #[test]
    fn no_bytes_of_a_server_make_an_agent_panic(
        frames in prop::collection::vec((any::<u8>(), 0u64..6, any::<u32>(), prop::collection::vec(any::<u8>(), 0..70)), 0..30),
        cut in any::<u16>(),
    ) {
        let mut script = Script::greeted(settings(), &welcome());
        script.queue(&[b"a", b"b", b"c"]);
        script.said();
        for (kind, seq, arg, payload) in frames {
            let kind = [FrameKind::Welcome, FrameKind::Ack, FrameKind::Nack, FrameKind::Ping, FrameKind::Pong,
                FrameKind::Goaway, FrameKind::Bye, FrameKind::Skippable(kind | 0x80)][usize::from(kind % 8)];
            let mut bytes = Header::of_payload(kind, seq, arg, &payload).encode().to_vec();
            bytes.extend_from_slice(&payload);
            bytes.truncate(bytes.len() - usize::from(cut % 3) / 2);
            if script.agent.stopped().is_none() && !script.agent.is_connected() {
                script.agent.poll(script.now);
                script.connect();
                script.server(|out| Welcome { resumed: true, last_seq: seq % 4, ..welcome() }.encode(out));
            }
            script.agent.receive(&bytes, script.now);
            script.said();
        }
    }
}
