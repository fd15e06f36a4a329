//! File descriptors run out: connections never take those of the log and the sinks, and without any the server pauses and
//! continues by itself.
#![cfg(all(feature = "postgres", feature = "redis", feature = "http-sink"))]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::agent::{RawAgent, batch, data, hello};
use crate::support::http::{self, get};
use crate::support::ledger::rows_stored;
use crate::support::server::{Server, wait_until};
use crate::support::stores::{HttpService, Postgres, Redis};
use crate::support::strace::newest_segment;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use telemetryx::event::proto::Event;

const TIMEOUT: Duration = Duration::from_secs(60);
const SMALL_SEGMENTS: [&str; 2] = ["wal.segment_bytes=64KiB", "wal.keep=0s"];

/// A payload that fills a segment.
fn segment_full(name: &str) -> Vec<u8> {
    batch(vec![Event { name: name.to_owned(), body: "b".repeat(60_000), ..Event::default() }])
}

fn open_files(server: &Server) -> u64 {
    fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count() as u64
}

/// Sets the soft limit of open files of the running server; the hard one stays.
fn limit_open_files(server: &Server, current: Option<u64>) {
    let pid = Pid::from_raw(server.pid().cast_signed());
    let Rlimit { maximum, .. } =
        prlimit(pid, Resource::Nofile, Rlimit { current, maximum: hard_limit(server) }).unwrap();
    assert_eq!(maximum, hard_limit(server));
}

fn hard_limit(server: &Server) -> Option<u64> {
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    line.split_whitespace().nth(4).unwrap().parse().ok()
}

/// One keep-alive connection, for when there is no descriptor for another.
struct KeepAlive(TcpStream);

impl KeepAlive {
    fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        Self(stream)
    }

    /// The head of the answer, and its body.
    fn ask(&mut self, request: &str) -> (String, String) {
        self.0.write_all(request.as_bytes()).unwrap();
        let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
        loop {
            let bytes = self.0.read(&mut piece).unwrap();
            assert!(bytes > 0, "closed before the answer: {}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&piece[..bytes]);
            let text = String::from_utf8_lossy(&answer);
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.split_once("Content-Length: ").unwrap().1;
            let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
            if body.len() >= length {
                return (head.to_owned(), body.to_owned());
            }
        }
    }

    fn ready(&mut self) -> String {
        self.ask("GET /ready HTTP/1.1\r\nHost: x\r\n\r\n").1
    }
}

fn count(text: &str, needle: &str) -> usize {
    text.matches(needle).count()
}

fn newest_segment_name(directory: &Path) -> String {
    newest_segment(directory).file_name().unwrap().to_string_lossy().into_owned()
}

#[test]
fn idle_connections_leave_log_and_sinks_their_descriptors() {
    let directory = tempfile::tempdir().unwrap();
    let settings = [&["server.max_connections=128"], &SMALL_SEGMENTS[..]].concat();
    let mut server = Server::start_with_open_files(directory.path(), &settings, 128 + 64);
    let log = server.log();
    assert_eq!(count(&log, "lowered server.max_connections"), 1, "one line says that fewer are allowed:\n{log}");
    assert!(log.contains("192") && log.contains("128"), "{log}");

    let (mut agent, _) = RawAgent::greeted(server.address(), hello([1; 16], 0));
    let idle: Vec<_> = (0..180)
        .map(|_| {
            let mut stream = TcpStream::connect(server.address()).unwrap();
            // Whoever has asked once may stay.
            let _ = stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
            stream
        })
        .collect();
    let accepted = wait_until(TIMEOUT, || open_files(&server) > 100);
    assert!(accepted, "{} open files\n{}", open_files(&server), server.log());
    let before = newest_segment_name(directory.path());
    for seq in 1..=8 {
        agent.send(&data(seq, &segment_full("a")));
        agent.acknowledged(seq);
    }
    assert_ne!(newest_segment_name(directory.path()), before, "the log began another segment");
    let stored = wait_until(TIMEOUT, || rows_stored(&directory.path().join("events.db")) == 8);
    assert!(stored, "{}", server.log());
    assert!(open_files(&server) <= 192 - 16, "{} open files of 192", open_files(&server));
    drop(idle);
    let fresh = || http::post(server.address(), "", r#"{"name":"fresh"}"#).is_ok_and(|(status, _)| status == 200);
    assert!(wait_until(TIMEOUT, fresh), "{}", server.log());
    server.terminate();
    assert!(server.wait(TIMEOUT).success(), "{}", server.log());
}

/// A segment is opened twice: the second time for I/O past the page cache, without which it would be slow to its end.
#[test]
fn with_one_descriptor_left_the_log_pauses_instead_of_beginning_a_segment_without_direct_io() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server::start(directory.path(), &[&SMALL_SEGMENTS[..], &["sinks.discard.kind=discard"]].concat());
    let (mut agent, _) = RawAgent::greeted(server.address(), hello([1; 16], 0));
    agent.send(&data(1, &segment_full("a")));
    agent.acknowledged(1);
    let normal = hard_limit(&server);
    let is_open = |fd: u64| fs::symlink_metadata(format!("/proc/{}/fd/{fd}", server.pid())).is_ok();
    // The limit is on the number of a new descriptor, and the lowest free one is taken.
    let free = (0..).find(|fd| !is_open(*fd)).unwrap();
    limit_open_files(&server, Some(free + 1));
    (2..=4).for_each(|seq| agent.send(&data(seq, &segment_full("b"))));
    let paused = wait_until(TIMEOUT / 3, || server.log().contains("the log cannot open another segment"));
    assert!(paused, "{}", server.log());
    limit_open_files(&server, normal);
    agent.acknowledged(4);
    server.terminate();
    assert!(server.wait(TIMEOUT).success(), "{}", server.log());
}

#[test]
fn without_descriptors_log_and_sinks_pause_and_continue_by_themselves() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server::start(directory.path(), &SMALL_SEGMENTS);
    let database = directory.path().join("events.db");
    let (mut agent, _) = RawAgent::greeted(server.address(), hello([1; 16], 0));
    let (mut pages, mut poster) = (KeepAlive::open(server.address()), KeepAlive::open(server.address()));
    pages.ready();
    poster.ready();
    agent.send(&data(1, &segment_full("a")));
    agent.acknowledged(1);
    assert!(wait_until(TIMEOUT, || rows_stored(&database) == 1));

    let normal = hard_limit(&server);
    let limited = Instant::now();
    limit_open_files(&server, Some(3));
    // The sink has to open its database anew, the log needs another file, and clients knock.
    fs::rename(&database, directory.path().join("archive.db")).unwrap();
    let knocking: Vec<_> = (0..20).map(|_| TcpStream::connect(server.address()).unwrap()).collect();
    for seq in 2..=4 {
        agent.send(&data(seq, &segment_full("b")));
    }
    let page = pages.ready();
    let paused = wait_until(TIMEOUT, || server.log().contains("the log cannot open another segment"));
    assert!(paused, "{page}\n{}", server.log());
    let told = wait_until(TIMEOUT, || pages.ready().contains(r#""descriptors_exhausted""#));
    assert!(told, "{}\n{}", pages.ready(), server.log());
    let asked = Instant::now();
    let post = "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{\"name\":\"p\"}";
    let (head, body) = poster.ask(post);
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("\r\nRetry-After: "), "{head}\n{body}");
    assert!(body.contains("file descriptors"), "{body}");
    assert!(asked.elapsed() < Duration::from_secs(20), "at once, not after 30 s");
    let mut pauses = || {
        let (_, page) = pages.ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        let line = page.lines().find_map(|line| line.strip_prefix("telemetryx_accept_pauses_total "));
        assert!(!pages.ready().contains("down"), "{}", pages.ready());
        line.unwrap().parse::<usize>().unwrap()
    };
    assert!(wait_until(TIMEOUT, || pauses() >= 12), "{}", server.log());
    // One line at once, then one per 10 s, however often accepting pauses.
    let line = "paused accepting: out of file descriptors";
    let lines = count(&server.log_with(line), line);
    let most = 1 + limited.elapsed().as_secs() as usize / 10;
    assert!((1..=most).contains(&lines), "{lines} lines, {most} expected at most\n{}", server.log());

    limit_open_files(&server, normal);
    agent.acknowledged(4);
    let ready = wait_until(TIMEOUT, || get(server.address(), "/ready").0 == 200);
    assert!(ready, "{}", server.log());
    let stored = wait_until(TIMEOUT, || database.exists() && rows_stored(&database) >= 2);
    assert!(stored, "{} {}", get(server.address(), "/ready").1, server.log());
    drop(knocking);
    assert_eq!(http::post(server.address(), "?ack=delivered", r#"{"name":"fresh"}"#).unwrap().0, 200);
    server.terminate();
    assert!(server.wait(TIMEOUT).success(), "{}", server.log());
    assert!(!directory.path().join("dead").exists(), "no event was refused for want of a descriptor");
}

/// Connections to stores end, positions have to be saved and an event is refused, all without a descriptor: every sink is
/// retried, and afterwards each has each event once.
#[test]
fn stores_position_files_and_dead_letters_wait_for_descriptors() {
    let directory = tempfile::tempdir().unwrap();
    let (postgres, service, redis) = (Postgres::start(&[]), HttpService::start(None), Redis::start(&[]));
    let database = postgres.database();
    let name = service.name();
    let settings = [
        "wal.keep=0s".to_owned(),
        "sinks.pg.kind=postgres".to_owned(),
        format!("sinks.pg.url={}", postgres.url(&database)),
        "sinks.redis.kind=redis".to_owned(),
        format!("sinks.redis.url={}", redis.url()),
        "sinks.http.kind=http".to_owned(),
        format!("sinks.http.url={}", service.url(&name)),
    ];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let mut server = Server::start(directory.path(), &settings);
    let rows = || postgres.psql(&database, "SELECT count(*) FROM events").unwrap_or_default().trim().to_owned();
    let (mut pages, mut poster) = (KeepAlive::open(server.address()), KeepAlive::open(server.address()));
    let post = |body: &str| {
        let head = "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json";
        format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    assert!(poster.ask(&post(r#"[{"name":"a"}]"#)).0.contains(" 200 "));
    assert!(wait_until(TIMEOUT, || rows() == "1"), "{}", server.log());
    postgres.psql(&database, "ALTER TABLE events ADD CHECK (name <> 'bad')").unwrap();

    let normal = hard_limit(&server);
    limit_open_files(&server, Some(3));
    let end_all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()";
    postgres.psql(&database, end_all).unwrap();
    redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
    assert!(poster.ask(&post(r#"[{"name":"b"},{"name":"bad"},{"name":"c"}]"#)).0.contains(" 200 "));
    let retrying = |page: &str| ["pg", "redis"].iter().all(|sink| page.contains(&format!("\"{sink}\":\"retrying")));
    assert!(wait_until(TIMEOUT, || retrying(&pages.ready())), "{}\n{}", pages.ready(), server.log());
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        let page = pages.ready();
        assert!(!page.contains("\"down"), "{page}");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(rows(), "1");

    limit_open_files(&server, normal);
    let entries = || redis.cli(&["XLEN", "events:{0}"]).trim().to_owned();
    let all = wait_until(TIMEOUT, || rows() == "3" && get(server.address(), "/ready").1.matches("ok").count() == 3);
    assert!(all, "{} rows, {}\n{}", rows(), get(server.address(), "/ready").1, server.log());
    let letters = || fs::read_to_string(directory.path().join("dead/pg.ndjson")).unwrap_or_default();
    assert!(wait_until(TIMEOUT, || letters().lines().count() == 1), "{}", letters());
    assert!(wait_until(TIMEOUT, || !service.requests(&name).is_empty()));
    assert!(wait_until(TIMEOUT, || entries() == "4"), "{}", entries());
    server.terminate();
    assert!(server.wait(TIMEOUT).success(), "{}", server.log());
}
