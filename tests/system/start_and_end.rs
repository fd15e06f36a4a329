//! A start that fails leaves nothing behind, and an end while the log is full says what is lost, if anything.
#![cfg(feature = "http-sink")]

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use crate::support::agent::{RawAgent, batch, data, hello, named};
use crate::support::http::{get, metric, post};
use crate::support::server::{Server, wait_until};
use telemetryx::event::proto::Event;
use telemetryx::wire::{AckLevel, Hello};

const TIMEOUT: Duration = Duration::from_secs(60);

/// The exit code and the last line of a server that does not start.
fn fails_to_start(settings: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_telemetryx"));
    settings.iter().for_each(|setting| _ = command.args(["--set", setting]));
    let output = command.output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), log.lines().last().unwrap_or_default().to_owned())
}

#[test]
fn a_new_data_directory_is_readable_for_its_user_only() {
    let directory = tempfile::tempdir().unwrap();
    let mut shell = Command::new("sh");
    // As a shell of an ordinary user, and not as the service.
    shell.args(["-c", r#"umask 022; exec "$0" "$@""#, env!("CARGO_BIN_EXE_telemetryx")]);
    for setting in ["data_dir=new", "server.address=127.0.0.1:0"] {
        shell.args(["--set", setting]);
    }
    let mut server = shell.current_dir(directory.path()).spawn().unwrap();
    let database = directory.path().join("new/events.db");
    let started = wait_until(TIMEOUT, || database.exists());
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(started);
    let mode = std::fs::metadata(directory.path().join("new")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "{mode:o}");
}

#[test]
fn a_start_that_cannot_listen_or_read_its_settings_creates_no_data_directory() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("new");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let data = format!("data_dir={}", data_dir.display());
    let taken = format!("server.address={}", listener.local_addr().unwrap());
    let tokens = format!("server.tokens_file={}", directory.path().join("missing").display());
    let (code, line) = fails_to_start(&[&data, &taken]);
    assert!(code == Some(1) && line.contains("address already in use"), "{code:?} {line}");
    assert!(!data_dir.exists());
    let (code, line) = fails_to_start(&[&data, "server.address=127.0.0.1:0", &tokens]);
    assert!(code == Some(78) && line.contains("missing"), "{code:?} {line}");
    assert!(!data_dir.exists());

    // The same settings as a server that runs: both the address and the directory are taken, and the latter says by whom.
    let second = tempfile::tempdir().unwrap();
    let server = Server::start(second.path(), &["sinks.discard.kind=discard"]);
    let data = format!("data_dir={}", second.path().display());
    let (code, line) = fails_to_start(&[&data, &format!("server.address={}", server.address())]);
    assert!(code == Some(1) && line.contains("in use by another telemetryx"), "{code:?} {line}");
}

/// A server whose log an agent of this level has filled, and which that agent has left with frames in memory only.
fn full(directory: &std::path::Path, drain_timeout: &str, level: AckLevel) -> Server {
    let drain_timeout = format!("server.drain_timeout={drain_timeout}");
    // Nobody listens there: the log keeps everything.
    let sink = ["sinks.h.kind=http", "sinks.h.url=http://127.0.0.1:1/"];
    let log = ["wal.segment_bytes=64KiB", "wal.max_bytes=128KiB", "wal.keep=0s", &drain_timeout];
    let server = Server::start(directory, &[&log[..], &sink].concat());
    let greeting = Hello { ack: Ok(Some(level)), ..hello([1; 16], 0) };
    let (mut agent, _) = RawAgent::greeted(server.address(), greeting);
    let payload = batch(vec![Event { body: "b".repeat(20_000), ..named("filler") }]);
    let at = server.address();
    let is_full = || get(at, "/ready").1.contains("log_full");
    let commits = || metric(at, "telemetryx_wal_sync_seconds_count").unwrap_or_default();
    let mut sent = 0;
    // One frame per commit, until what is full stays so: a first retry may find a segment that nobody needs.
    while !is_full() || wait_until(Duration::from_millis(500), || !is_full()) {
        assert!(sent < 100, "the log does not fill");
        let before = commits();
        sent += 1;
        agent.send(&data(sent, &payload));
        assert!(wait_until(TIMEOUT, || commits() > before || is_full()), "{}", server.log());
    }
    let received = || metric(at, r#"telemetryx_events_received_total{protocol="frames"}"#) == Some(sent as f64);
    assert!(wait_until(TIMEOUT, received), "{}", server.log());
    // Its connection is reset: what it has not heard of is nobody's.
    socket2::SockRef::from(&agent.stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(agent);
    let left = wait_until(TIMEOUT, || metric(server.address(), "telemetryx_connections") == Some(1.0));
    assert!(left, "{}", server.log());
    server
}

#[test]
fn a_full_log_without_a_promise_is_no_failure_of_the_end() {
    let directory = tempfile::tempdir().unwrap();
    // With a short drain time the log thread still counts what is left.
    for (drain_timeout, counted) in [("30s", false), ("1s", true)] {
        let data_dir = directory.path().join(drain_timeout);
        std::fs::create_dir(&data_dir).unwrap();
        let mut server = full(&data_dir, drain_timeout, AckLevel::Synced);
        server.terminate();
        let status = server.wait(TIMEOUT);
        let log = server.log();
        assert!(status.success(), "{status:?}\n{log}");
        assert!(!log.contains("may be lost"), "{log}");
        // One last line, which promises nothing about the senders.
        assert_eq!(log.matches("shut down").count(), 1, "{log}");
        let last = log.lines().last().unwrap_or_default();
        assert!(last.contains(" WARN ") && last.contains("shut down while the log accepted nothing"), "{log}");
        assert!(last.contains(" undelivered=") && !last.contains("senders"), "{log}");
        let has_counts = last.contains("were not acknowledged") && last.contains(" rejected_payloads=0");
        assert!(has_counts || !counted, "{log}");
    }
}

#[test]
fn events_that_were_acknowledged_as_received_are_counted_where_a_full_log_loses_them() {
    let directory = tempfile::tempdir().unwrap();
    // Longer than the log thread is waited for once the drain is over.
    let mut server = full(directory.path(), "4s", AckLevel::Received);
    server.terminate();
    assert_eq!(server.wait(TIMEOUT).code(), Some(1), "{}", server.log());
    let log = server.log();
    let last = log.lines().last().unwrap_or_default();
    assert!(last.contains("were acknowledged as `received`") && last.contains(" events"), "{log}");
}

#[test]
fn a_sink_that_was_removed_before_it_had_taken_all_is_named_at_start() {
    let directory = tempfile::tempdir().unwrap();
    let (gone, discard) =
        (["sinks.gone.kind=http", "sinks.gone.url=http://127.0.0.1:1/"], ["sinks.discard.kind=discard"]);
    let mut server = Server::start(directory.path(), &[&gone[..], &discard].concat());
    for _ in 0..3 {
        assert_eq!(post(server.address(), "?ack=synced", r#"{"name":"x"}"#).unwrap().0, 200, "{}", server.log());
    }
    server.terminate();
    assert!(server.wait(TIMEOUT).success(), "{}", server.log());
    let start = |settings: &[&str]| {
        let server = Server::start(directory.path(), settings);
        let log = server.log();
        let lines = log.lines().filter(|line| line.contains("not in the settings")).map(str::to_owned);
        lines.collect::<Vec<_>>()
    };
    assert_eq!(start(&[&gone[..], &discard].concat()), [""; 0]);
    let lines = start(&discard);
    assert_eq!(lines.len(), 1, "{lines:?}");
    let fields = [" WARN ", "sink=\"gone\"", "events=3"];
    assert!(fields.iter().all(|field| lines[0].contains(field)), "{lines:?}");
}
