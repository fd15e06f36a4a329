//! The protocol through a socket: what a state machine with slices cannot show.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use crate::support::agent::{RawAgent, batch, data, hello, hello_bytes, named};
use crate::support::server::{Server, wait_until};
use telemetryx::wire::{FrameKind, GoawayCode, Hello, NackCode};

const ID: [u8; 16] = [7; 16];

fn names_stored(directory: &tempfile::TempDir) -> Vec<String> {
    let database = rusqlite::Connection::open(directory.path().join("events.db")).unwrap();
    // The port opens before a slow disk has the table.
    let Ok(mut rows) = database.prepare("SELECT name FROM events ORDER BY position") else { return Vec::new() };
    rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

fn wait_for_names(directory: &tempfile::TempDir, names: &[&str]) {
    let there = wait_until(Duration::from_secs(20), || names_stored(directory).len() >= names.len());
    assert_eq!(names_stored(directory), names, "complete: {there}");
}

fn one(seq: u64, name: &str) -> Vec<u8> {
    data(seq, &batch(vec![named(name)]))
}

#[test]
fn frames_split_at_every_offset_are_stored_once_and_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &[]);
    let (mut agent, welcome) = RawAgent::greeted(server.address(), hello(ID, 0));
    assert_eq!((welcome.last_seq, welcome.resumed), (0, false));
    let frame_bytes = one(1, "event-000").len();
    let mut names = Vec::new();
    for at in 0..frame_bytes {
        let name = format!("event-{at:03}");
        let frame = one(at as u64 + 1, &name);
        let (left, right) = frame.split_at(at);
        agent.send(left);
        // The answer to a PING cannot overtake: only without it may both halves arrive in one read.
        agent.stream.flush().unwrap();
        std::thread::yield_now();
        agent.send(right);
        agent.acknowledged(at as u64 + 1);
        names.push(name);
    }
    assert!(agent.finish().is_empty());
    wait_for_names(&directory, &names.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn many_frames_in_one_write_and_a_frame_of_the_largest_size_are_taken() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &[]);
    let (mut agent, welcome) = RawAgent::greeted(server.address(), hello(ID, 0));
    let mut bytes = Vec::new();
    (1..=50).for_each(|seq| bytes.extend(one(seq, "small")));
    agent.send(&bytes);
    agent.acknowledged(50);
    let mut events = Vec::new();
    let mut size = 0;
    while size < welcome.max_frame as usize - 70_000 {
        let event = telemetryx::event::proto::Event { body: "b".repeat(60_000), ..named("large") };
        size += prost::Message::encoded_len(&event) + 4;
        events.push(event);
    }
    let count = events.len();
    agent.send(&data(51, &batch(events)));
    agent.acknowledged(51);
    agent.finish();
    let mut names = vec!["small"; 50];
    names.extend(std::iter::repeat_n("large", count));
    wait_for_names(&directory, &names);
}

#[test]
fn r5_the_newest_connection_of_an_agent_wins_and_resumes() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &[]);
    let (mut older, welcome) = RawAgent::greeted(server.address(), hello(ID, 0));
    older.send(&one(1, "a"));
    older.acknowledged(1);
    let (mut newer, again) = RawAgent::greeted(server.address(), hello(ID, welcome.epoch));
    assert_eq!((again.epoch, again.last_seq, again.resumed), (welcome.epoch, 1, true));
    assert!(!matches!(older.next(), Ok(Some(_))), "the older connection is closed");
    newer.send(&[one(1, "a"), one(2, "b")].concat());
    newer.acknowledged(2);
    newer.finish();
    wait_for_names(&directory, &["a", "b"]);
}

#[test]
fn r8_refused_frames_are_told_and_kept_in_the_dead_letters_before_their_ack() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &[]);
    let (mut agent, _) = RawAgent::greeted(server.address(), hello(ID, 0));
    agent.send(&data(1, b"\x0a\x03abc"));
    agent.send(&data(2, &batch(vec![named("good"), named("")])));
    assert_eq!(agent.answer(FrameKind::Nack).header.arg, NackCode::Malformed as u32);
    let mut partial = agent.next().unwrap().unwrap();
    if partial.header.kind == FrameKind::Ack {
        partial = agent.next().unwrap().unwrap();
    }
    assert_eq!((partial.header.seq, partial.header.arg), (2, NackCode::Partial as u32));
    agent.acknowledged(2);
    agent.finish();
    wait_for_names(&directory, &["good"]);
    let letters = std::fs::read_to_string(directory.path().join("dead/ingest.ndjson")).unwrap();
    let codes: Vec<_> = letters
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["code"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(codes, ["MALFORMED", "PARTIAL"]);
}

#[test]
fn the_last_words_arrive_although_the_agent_is_still_sending() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &[]);
    let (mut agent, _) = RawAgent::greeted(server.address(), hello(ID, 0));
    // A gap, and behind it more than the server will ever look at: a reset would eat the GOAWAY.
    let mut bytes = one(9, "gap");
    bytes.resize(bytes.len() + 700_000, 0);
    // On a slow machine the server has given up before all of it is sent.
    let _ = agent.stream.write_all(&bytes);
    assert_eq!(agent.answer(FrameKind::Goaway).goaway(), Some(GoawayCode::SeqGap));
    assert_eq!(agent.next().unwrap(), None);
}

#[test]
fn r15_sigterm_acknowledges_what_is_complete_says_goaway_and_delivers_everything() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server::start(directory.path(), &[]);
    let (mut agent, _) = RawAgent::greeted(server.address(), hello(ID, 0));
    let mut http = std::net::TcpStream::connect(server.address()).unwrap();
    agent.send(&one(1, "a"));
    agent.acknowledged(1);
    // Half a frame: not complete, so it is not taken.
    agent.send(&one(2, "half")[..35]);
    server.terminate();
    let goaway = agent.answer(FrameKind::Goaway);
    assert_eq!((goaway.goaway(), goaway.header.seq), (Some(GoawayCode::Shutdown), 1));
    assert_eq!(agent.next().unwrap(), None);
    drop(agent);
    let mut rest = Vec::new();
    assert!(http.read_to_end(&mut rest).is_err() || rest.is_empty(), "a silent connection is closed");
    assert!(server.wait(Duration::from_secs(20)).success(), "{}", server.log());
    assert_eq!(names_stored(&directory), ["a"]);
}

#[test]
fn r12_strangers_that_say_nothing_are_closed_after_5_s() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &[]);
    let started = Instant::now();
    let mut silent = RawAgent::connect(server.address());
    let mut torn = RawAgent::connect(server.address());
    torn.send(&hello_bytes(hello(ID, 0))[..50]);
    assert!(!matches!(silent.next(), Ok(Some(_))));
    assert_eq!(torn.answer(FrameKind::Goaway).goaway(), Some(GoawayCode::Idle));
    let waited = started.elapsed();
    assert!(waited >= Duration::from_millis(4500) && waited < Duration::from_secs(15), "{waited:?}");
}

#[test]
fn tokens_from_a_file_decide_for_frames_and_for_http() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("tokens"), "secret\n").unwrap();
    let tokens = format!("server.tokens_file={}", directory.path().join("tokens").display());
    let server = Server::start(directory.path(), &[&tokens]);
    let (_agent, _) = RawAgent::greeted(server.address(), Hello { token: b"secret", ..hello(ID, 0) });
    let mut stranger = RawAgent::connect(server.address());
    stranger.send(&hello_bytes(hello([8; 16], 0)));
    assert_eq!(stranger.answer(FrameKind::Goaway).goaway(), Some(GoawayCode::Auth));
    for (header, status) in
        [("", "401"), ("Authorization: Bearer wrong\r\n", "401"), ("Authorization: Bearer secret\r\n", "200")]
    {
        let mut http = std::net::TcpStream::connect(server.address()).unwrap();
        write!(
            http,
            "POST /v1/events HTTP/1.1\r\nHost: x\r\n{header}Content-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n[]"
        )
        .unwrap();
        let mut answer = String::new();
        http.read_to_string(&mut answer).unwrap();
        assert_eq!(answer.split(' ').nth(1), Some(status), "{answer}");
    }
}

#[test]
fn more_connections_than_allowed_are_told_so_in_their_own_protocol() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &["server.max_connections=2"]);
    let (_first, _) = RawAgent::greeted(server.address(), hello([1; 16], 0));
    let (second, _) = RawAgent::greeted(server.address(), hello([2; 16], 0));
    let mut third = RawAgent::connect(server.address());
    third.send(&hello_bytes(hello([3; 16], 0)));
    assert_eq!(third.answer(FrameKind::Goaway).goaway(), Some(GoawayCode::Overloaded));
    let post = "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n[]";
    for (request, status) in [("GET /health HTTP/1.1\r\nHost: x\r\n\r\n", "200"), (post, "503")] {
        let mut http = std::net::TcpStream::connect(server.address()).unwrap();
        http.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        http.read_to_string(&mut answer).unwrap();
        assert_eq!(answer.split(' ').nth(1), Some(status), "pages are answered under any load: {answer}");
    }
    drop(third);
    second.finish();
    let freed = wait_until(Duration::from_secs(10), || {
        let mut next = RawAgent::connect(server.address());
        next.send(&hello_bytes(hello([4; 16], 0)));
        matches!(next.next(), Ok(Some(answer)) if answer.header.kind == FrameKind::Welcome)
    });
    assert!(freed, "a place that is free again can be taken");
}

#[test]
fn a_damaged_payload_is_never_stored() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &[]);
    let (mut agent, _) = RawAgent::greeted(server.address(), hello(ID, 0));
    let mut frame = one(1, "damaged");
    let last = frame.len() - 1;
    frame[last] ^= 1;
    agent.send(&frame);
    assert_eq!(agent.answer(FrameKind::Goaway).goaway(), Some(GoawayCode::Protocol));
    let (mut agent, _) = RawAgent::greeted(server.address(), hello([9; 16], 0));
    agent.send(&one(1, "sound"));
    agent.acknowledged(1);
    agent.finish();
    wait_for_names(&directory, &["sound"]);
}
