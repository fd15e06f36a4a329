//! CPU profiles over HTTP, taken from a server under load. Run with `--features profiling`.
#![cfg(all(feature = "profiling", feature = "sqlite"))]

mod support;

use std::collections::HashSet;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use prost::Message;
use support::Ended;
use support::agent::{RawAgent, batch, data, hello, named};
use support::http::get;
use support::server::{Server, wait_until};

/// Of a debug build on a busy machine, whose names take long to resolve.
const PATIENCE: Duration = Duration::from_secs(120);
const TOKEN: &str = "of-pages";

/// What is read of the message `Profile` of `profile.proto` (github.com/google/pprof).
#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(int64, tag = "12")]
    period: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    r#type: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    str: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
}

impl Profile {
    fn text(&self, number: i64) -> &str {
        &self.string_table[usize::try_from(number).unwrap()]
    }

    /// What pprof checks when it reads a file (`Profile.CheckValid`).
    fn assert_valid(&self) {
        assert_eq!(self.string_table[0], "");
        let unit = |value: &ValueType| format!("{}/{}", self.text(value.r#type), self.text(value.unit));
        assert_eq!(self.sample_type.iter().map(unit).collect::<Vec<_>>(), ["samples/count", "cpu/nanoseconds"]);
        let functions: HashSet<_> = self.function.iter().map(|function| function.id).collect();
        let locations: HashSet<_> = self.location.iter().map(|location| location.id).collect();
        assert_eq!((functions.len(), locations.len()), (self.function.len(), self.location.len()), "ids are unique");
        assert!(!functions.contains(&0) && !locations.contains(&0));
        for location in &self.location {
            assert!(
                location.line.iter().all(|line| functions.contains(&line.function_id)) && !location.line.is_empty()
            );
        }
        for sample in &self.sample {
            assert!(sample.location_id.iter().all(|id| locations.contains(id)));
            assert_eq!(sample.value.len(), self.sample_type.len());
            assert_eq!(sample.value[1], sample.value[0] * self.period);
        }
    }

    fn names(&self) -> HashSet<&str> {
        self.function.iter().map(|function| self.text(function.name)).collect()
    }

    fn threads(&self) -> HashSet<&str> {
        let labels = self.sample.iter().flat_map(|sample| &sample.label);
        labels.filter(|label| self.text(label.key) == "thread").map(|label| self.text(label.str)).collect()
    }
}

fn start(directory: &Path) -> Server {
    let file = directory.join("pages");
    fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let pages = format!("server.pages_token_file={}", file.display());
    Server::start(directory, &[&pages, "wal.enabled=false", "sinks.discard.kind=discard"])
}

/// A connection on which a profile was asked for.
fn ask(address: SocketAddr, path: &str, token: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!(
        "GET /debug/pprof/{path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

/// Head and body of the answer.
fn answer(mut stream: TcpStream) -> (String, Vec<u8>) {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head");
    (String::from_utf8(bytes[..end].to_vec()).unwrap(), bytes[end + 4..].to_vec())
}

fn status(stream: TcpStream) -> (u16, String) {
    let (head, body) = answer(stream);
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, String::from_utf8_lossy(&body).into_owned())
}

/// Sends frames until `is_over`.
fn load(address: SocketAddr, is_over: &AtomicBool) {
    let mut agent = RawAgent::greeted(address, hello([1; 16], 0)).0;
    let payload = batch((0..200).map(|_| named("an event of the load")).collect());
    for seq in 1.. {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        agent.send(&data(seq, &payload));
        agent.acknowledged(seq);
    }
}

#[test]
fn a_profile_under_load_names_our_functions_and_threads() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path());
    let (address, is_over) = (server.address(), AtomicBool::new(false));
    thread::scope(|scope| {
        let _ended = Ended(&is_over);
        scope.spawn(|| load(address, &is_over));
        let (head, body) = answer(ask(address, "profile?seconds=1", TOKEN));
        assert!(head.starts_with("HTTP/1.1 200 "), "{head} {}", String::from_utf8_lossy(&body));
        assert!(head.contains("\r\nCache-Control: no-store\r\n"), "{head}");
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(body.as_slice()).read_to_end(&mut bytes).unwrap();
        let profile = Profile::decode(bytes.as_slice()).unwrap();
        profile.assert_valid();
        assert!(profile.duration_nanos >= 1_000_000_000 && profile.time_nanos > 0, "{}", profile.duration_nanos);
        println!("{} bytes, {} stacks, threads {:?}", body.len(), profile.sample.len(), profile.threads());
        let names = profile.names();
        // With line tables, the end of a file's path stands for the module of a function into which others were inlined.
        let is_turn = |name: &&str| {
            name.starts_with("telemetryx::") && name.contains("EventLoop::turn")
                || name.starts_with("turn") && name.ends_with("(net/event_loop.rs)")
        };
        assert!(names.iter().any(is_turn), "{names:#?}");
        assert!(!names.iter().any(|name| name.contains("perf_signal_handler")), "the profiler is not in the profile");

        // With the same numbers of seconds again: the first one has ended.
        let (head, body) = answer(ask(address, "flamegraph?seconds=1", TOKEN));
        let svg = String::from_utf8(body).unwrap();
        assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("\r\nContent-Type: image/svg+xml\r\n"), "{head}");
        println!("{} bytes of SVG", svg.len());
        assert!(
            svg.contains("<svg") && (svg.contains("telemetryx::net") || svg.contains("(net/event_loop.rs)")),
            "{svg}"
        );
    });
}

#[test]
fn there_is_one_profile_at_a_time_and_it_ends_with_its_client() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path());
    let address = server.address();
    assert_eq!(status(ask(address, "profile", "other")).0, 401);
    let first = ask(address, "profile?seconds=60", TOKEN);
    server.log_with("taking a CPU profile");
    let (refused, why) = status(ask(address, "flamegraph?seconds=1", TOKEN));
    assert!(refused == 429 && why.contains("one at a time"), "{refused} {why}");
    // The loops serve everybody else meanwhile.
    assert_eq!(get(address, "/health").0, 200);
    drop(first);
    let begins = || {
        let stream = ask(address, "flamegraph?seconds=1", TOKEN);
        status(stream).0 == 200
    };
    assert!(wait_until(Duration::from_secs(40), begins), "a minute is not over, and the next one may begin");
}

#[test]
fn the_end_of_the_server_ends_a_profile() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = start(directory.path());
    let stream = ask(server.address(), "profile?seconds=60", TOKEN);
    server.log_with("taking a CPU profile");
    server.terminate();
    let (ended, why) = status(stream);
    assert!(ended == 503 && why.contains("shutting down"), "{ended} {why}");
    assert!(server.process().wait(Duration::from_secs(40)).success(), "{}", server.log());
}

#[test]
fn without_a_pages_token_nobody_takes_a_profile() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &[]);
    let (refused, why) = status(ask(server.address(), "profile", TOKEN));
    assert!(refused == 403 && why.contains("server.pages_token_file"), "{refused} {why}");
}

#[test]
fn a_temporary_directory_that_is_missing_is_named() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("pages"), TOKEN).unwrap();
    let pages = format!("server.pages_token_file={}", directory.path().join("pages").display());
    let missing = directory.path().join("missing").display().to_string();
    let server = Server::launch_with(directory.path(), &[&pages], &[("TMPDIR", &missing)]).listening();
    let (failed, why) = status(ask(server.address(), "profile?seconds=1", TOKEN));
    assert!(failed == 503 && why.contains("set TMPDIR"), "{failed} {why}");
    // The server continues.
    assert_eq!(get(server.address(), "/health").0, 200);
}

#[test]
fn a_reset_ends_a_profile() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path());
    let address = server.address();
    let mut first = ask(address, "profile?seconds=60", TOKEN);
    server.log_with("taking a CPU profile");
    first.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let nothing = first.read(&mut [0]).unwrap_err();
    assert!(matches!(nothing.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{nothing}");
    socket2::SockRef::from(&first).set_linger(Some(Duration::ZERO)).unwrap();
    drop(first);
    let is_free = || status(ask(address, "profile?seconds=1", TOKEN)).0 == 200;
    assert!(wait_until(Duration::from_secs(40), is_free), "{}", server.log());
}
