//! A host whose clock is wrong for a while: what `keep` deletes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::http;
use crate::support::ledger::rows_stored;
use crate::support::server::{Process, Server, wait_until};

const PATIENCE: Duration = Duration::from_secs(90);
const SETTINGS: [&str; 2] = ["sinks.sqlite.kind=sqlite", "sinks.sqlite.keep=365d"];

/// The library that shifts the wall clock of a process (Debian package `faketime`).
fn library() -> PathBuf {
    let directories = fs::read_dir("/usr/lib").unwrap().filter_map(Result::ok).map(|entry| entry.path());
    let libraries = directories.map(|directory| directory.join("faketime/libfaketime.so.1"));
    libraries.into_iter().find(|path| path.exists()).expect("tools/test installs the package faketime")
}

/// Starts a server whose wall clock is ahead by what the file `clock` in its data directory holds, such as `+10y`. Its
/// monotonic clock is the system's.
fn launch(data_dir: &Path) -> Process {
    let (library, clock) = (library(), data_dir.join("clock"));
    let environment = [
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("FAKETIME_DONT_RESET", "1"),
    ];
    Server::launch_with(data_dir, &SETTINGS, &environment)
}

fn set_clock(data_dir: &Path, offset: &str) {
    fs::write(data_dir.join("part"), offset).unwrap();
    fs::rename(data_dir.join("part"), data_dir.join("clock")).unwrap();
}

fn post(server: &Server, events: u64) {
    for _ in 0..events {
        assert_eq!(http::post(server.address(), "?ack=delivered", r#"{"name":"e"}"#).unwrap().0, 200);
    }
}

fn expired(server: &Server) -> f64 {
    http::metric(server.address(), "telemetryx_events_expired_total{sink=\"sqlite\"}").unwrap()
}

#[test]
fn a_start_with_a_clock_that_is_ten_years_ahead_deletes_nothing_and_warns() {
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("events.db");
    set_clock(directory.path(), "+0");
    let mut server = launch(directory.path()).listening();
    post(&server, 10);
    server.terminate();
    assert!(server.wait(PATIENCE).success());

    set_clock(directory.path(), "+10y");
    let server = launch(directory.path()).listening();
    let warned = wait_until(PATIENCE, || server.log().contains("no events are deleted for 24 h"));
    assert!(warned, "{}", server.log());
    post(&server, 5);
    assert_eq!(rows_stored(&database), 15);
    assert_eq!(expired(&server), 0.0);
}

#[test]
fn a_clock_that_jumps_ten_years_ahead_deletes_nothing_and_warns() {
    let directory = tempfile::tempdir().unwrap();
    set_clock(directory.path(), "+0");
    let server = launch(directory.path()).listening();
    post(&server, 10);
    set_clock(directory.path(), "+10y");
    let warned = wait_until(PATIENCE, || server.log().contains("no events are deleted for 24 h"));
    assert!(warned, "{}", server.log());
    post(&server, 5);
    assert_eq!(rows_stored(&directory.path().join("events.db")), 15);
    assert_eq!(expired(&server), 0.0);
}

#[test]
fn events_that_are_deleted_by_their_age_are_logged_and_counted() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &["sinks.sqlite.kind=sqlite", "sinks.sqlite.keep=1s"]);
    post(&server, 10);
    assert!(wait_until(PATIENCE, || expired(&server) == 10.0), "{}", expired(&server));
    assert_eq!(rows_stored(&directory.path().join("events.db")), 0);
    let logged = |line: &str| line.contains("old events deleted") && line.contains("events=10");
    assert!(wait_until(PATIENCE, || server.log().lines().any(logged)), "{}", server.log());
}
