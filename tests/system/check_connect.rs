//! `telemetryx check --connect`: it finds what would keep events out, and changes nothing.

#![cfg(all(feature = "grpc", feature = "http-sink"))]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::stores::{HttpService, Receiver};
use crate::support::{http, server};

/// Exit code and output.
fn check(directory: &Path, sets: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_telemetryx"))
        .args(["check", "--connect"])
        .args(sets.iter().flat_map(|set| ["--set", set]))
        .env_remove("TELEMETRYX_CONFIG")
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[test]
fn a_receiver_that_does_not_speak_grpc_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let service = HttpService::shared();
    let of = |kind: &str, url: &str| {
        check(directory.path(), &[&format!("sinks.s.kind={kind}"), &format!("sinks.s.url={url}")])
    };
    let (code, shown) = of("grpc", &format!("http://localhost:{}", service.port()));
    assert!(code == Some(1) && shown.contains("gRPC requires"), "{shown}");
    let receiver = Receiver::start(&[]);
    let (code, shown) = of("grpc", &receiver.url());
    assert!(code == Some(0) && shown.contains("sink s: ok, grpc "), "{shown}");
    // Anything may listen there: this is all that is known.
    let (code, shown) = of("http", &receiver.url());
    assert!(code == Some(0) && shown.contains("sink s: reachable (the service itself is not asked), http "), "{shown}");
    for kind in ["grpc", "http"] {
        let (code, shown) = of(kind, "http://127.0.0.1:1");
        assert!(code == Some(1) && shown.contains("nothing listens there"), "{shown}");
    }
    assert!(receiver.calls().is_empty());
}

#[test]
fn directories_and_files_that_cannot_be_created_are_found() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("file"), "x").unwrap();
    symlink("nowhere/x", directory.path().join("link")).unwrap();
    for (set, found) in [
        ("data_dir=/proc/telemetryx", "data_dir /proc/telemetryx: cannot create directory"),
        ("data_dir=file", "data_dir file: cannot create directory"),
        ("data_dir=file/x", "data_dir file/x: cannot create directory"),
        ("sinks.f.path=/proc/telemetryx/x", "sink f: cannot create /proc/telemetryx/x"),
        ("sinks.f.path=link", "sink f: cannot create"),
        ("sinks.f.path=link/x", "sink f: cannot create"),
    ] {
        let (code, shown) = check(directory.path(), &["sinks.f.kind=file", "sinks.f.path=f", set]);
        assert!(code == Some(1) && shown.contains(found), "{set}: {shown}");
    }
    let (code, shown) = check(directory.path(), &["sinks.f.kind=file", "sinks.f.path=a/b/f", "data_dir=c/d"]);
    assert!(code == Some(0) && shown.contains("data_dir c/d: ok\n"), "{shown}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "nothing is created");
}

#[test]
fn a_locked_database_is_found_and_none_is_changed() {
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("events.db");
    let mut running = server::Server::start(directory.path(), &[]);
    assert_eq!(http::post(running.address(), "?ack=delivered", r#"{"name":"e"}"#).unwrap().0, 200);
    let at = "data_dir=.";
    let (code, shown) = check(directory.path(), &[at]);
    assert!(code == Some(0), "beside a server: {shown}");
    // Its rows are in the write-ahead log only.
    running.kill();
    let files = || ["", "-wal"].map(|suffix| fs::read(directory.path().join(format!("events.db{suffix}"))).ok());
    let before = files();
    assert!(before[1].as_ref().is_some_and(|log| !log.is_empty()));
    assert_eq!(check(directory.path(), &[at]).0, Some(0));
    assert!(files() == before, "the files are changed");
    // One without a log, after a stop in order.
    let user = rusqlite::Connection::open(&database).unwrap();
    user.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(user);
    let before = files();
    assert_eq!(check(directory.path(), &[at]).0, Some(0));
    assert!(files() == before, "the files are changed");
    let user = rusqlite::Connection::open(&database).unwrap();
    user.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (code, shown) = check(directory.path(), &[at]);
    assert!(code == Some(1) && shown.contains("database is locked") && shown.contains("fuser"), "{shown}");
    user.execute_batch("ROLLBACK").unwrap();
    assert_eq!(check(directory.path(), &[at]).0, Some(0));
}
