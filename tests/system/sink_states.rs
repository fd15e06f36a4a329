//! What `/ready` and `/metrics` show of sinks that do not deliver: services that nobody runs, stores that hang, sinks
//! that are far behind.
#![cfg(all(feature = "postgres", feature = "grpc", feature = "http-sink"))]

use std::fs::File;
use std::io::Read as _;
use std::net::SocketAddr;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::http::{get, metric, post, sink_state};
use crate::support::server::{Server, wait_until};
use crate::support::stores::{HttpService, Postgres, free_address};

/// Longer than the 30 s after which a sink is `stalled`, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

#[track_caller]
fn wait_for_state(server: &Server, sink: &str, expected: &str) {
    let reached = wait_until(PATIENCE, || sink_state(server.address(), sink) == expected);
    assert!(reached, "{sink} is `{}`, expected `{expected}`\n{}", sink_state(server.address(), sink), server.log());
}

fn up(address: SocketAddr, sink: &str) -> f64 {
    metric(address, &format!("telemetryx_sink_up{{sink=\"{sink}\"}}")).expect("every sink has it")
}

fn oldest(address: SocketAddr, sink: &str) -> f64 {
    metric(address, &format!("telemetryx_sink_oldest_seconds{{sink=\"{sink}\"}}")).expect("every sink has it")
}

#[test]
fn a_service_that_nobody_runs_is_never_ok_and_its_events_grow_old() {
    let directory = tempfile::tempdir().unwrap();
    let [http_url, grpc_url] = ["h", "g"].map(|sink| format!("sinks.{sink}.url=http://{}/secret", free_address()));
    let grpc_url = grpc_url.replace("/secret", "");
    let server = Server::start(directory.path(), &["sinks.h.kind=http", &http_url, "sinks.g.kind=grpc", &grpc_url]);
    let address = server.address();
    for sink in ["h", "g"] {
        let state = sink_state(address, sink);
        assert!(["connecting", "retrying"].contains(&state.as_str()), "{sink} is {state} after the start");
        wait_for_state(&server, sink, "retrying");
        assert_eq!((up(address, sink), oldest(address, sink)), (0.0, 0.0));
        let is_in =
            |state: &str| metric(address, &format!("telemetryx_sink_state{{sink=\"{sink}\",state=\"{state}\"}}"));
        assert_eq!((is_in("retrying"), is_in("ok"), is_in("down")), (Some(1.0), Some(0.0), Some(0.0)));
        let dropped =
            metric(address, &format!("telemetryx_events_dropped_total{{reason=\"log_full\",sink=\"{sink}\"}}"));
        assert_eq!(dropped, Some(0.0), "an alert sees the first loss only if there was a value before it");
    }
    // Nothing but the word: everybody may read it.
    let page = r#"{"status":"ready","reasons":[],"sinks":{"g":"retrying","h":"retrying"}}"#;
    assert_eq!(get(address, "/ready"), (200, page.to_owned()));
    for sink in ["h", "g"] {
        let of_sink = |line: &str| line.contains(&format!("sink=\"{sink}\"")) && line.contains("onnection refused");
        assert!(wait_until(PATIENCE, || server.log().lines().any(of_sink)), "{}", server.log());
    }
    assert_eq!(post(address, "?ack=synced", r#"{"name":"e"}"#).unwrap().0, 200);
    for sink in ["h", "g"] {
        assert!(wait_until(PATIENCE, || oldest(address, sink) > 1.0), "{}", oldest(address, sink));
    }
}

#[test]
fn a_service_that_starts_later_is_connected_to_and_a_down_one_is_logged_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let (service, name, [kind, url]) = HttpService::with_sink("h");
    let server = Server::start(directory.path(), &[&kind, &url]);
    let address = server.address();
    wait_for_state(&server, "h", "ok");
    assert_eq!((up(address, "h"), oldest(address, "h")), (1.0, 0.0));

    service.tell(&name, "answer", b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(post(address, "?ack=synced", r#"{"name":"e"}"#).unwrap().0, 200);
    wait_for_state(&server, "h", "retrying");
    service.tell(&name, "answer", b"HTTP/1.1 401 Who\r\nContent-Length: 0\r\n\r\n");
    wait_for_state(&server, "h", "down");
    let seen = Instant::now();
    let logged = || server.log().lines().any(|line| line.contains("down: ") && line.contains("HTTP 401"));
    assert!(wait_until(Duration::from_secs(10), logged), "{}", server.log());
    println!("logged {:?} after the state", seen.elapsed());
    assert_eq!(up(address, "h"), 0.0);
}

#[test]
fn a_request_that_is_not_delivered_in_time_names_the_sinks() {
    let directory = tempfile::tempdir().unwrap();
    let (service, name, [kind, url]) = HttpService::with_sink("h");
    service.tell(&name, "answer", b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n");
    let settings = [
        &kind,
        &url,
        "sinks.w.kind=discard",
        "sinks.w.aggregate.interval=10s",
        "sinks.n.kind=discard",
        "sinks.n.aggregate.interval=10s",
        "sinks.n.required=false",
        "server.drain_timeout=5s",
    ];
    let server = Server::start(directory.path(), &settings);
    let address = server.address();
    let (status, answer) = thread::scope(|scope| {
        let counter = r#"{"name":"c","kind":"counter","value":1}"#;
        let asked = scope.spawn(|| post(address, "?ack=delivered", counter).unwrap());
        wait_for_state(&server, "h", "retrying");
        server.terminate();
        asked.join().unwrap()
    });
    assert_eq!(status, 504, "{answer}");
    let sinks =
        r#"before this server ended; sink h is retrying, sink w gathers for \"10s\"; the events are in the log"#;
    assert!(answer.contains(sinks), "{answer}");
}

#[test]
fn a_stopped_postgresql_is_stalled_and_its_oldest_event_grows_older_while_the_delivery_hangs() {
    let directory = tempfile::tempdir().unwrap();
    let postgres = Postgres::start(&[]);
    let url = format!("sinks.pg.url={}", postgres.url("postgres"));
    let server = Server::start(directory.path(), &["sinks.pg.kind=postgres", &url]);
    let address = server.address();
    wait_for_state(&server, "pg", "ok");
    assert_eq!(post(address, "?ack=delivered", r#"{"name":"e"}"#).unwrap().0, 200);

    postgres.signal_all("STOP");
    assert_eq!(post(address, "?ack=synced", r#"{"name":"e"}"#).unwrap().0, 200);
    let mut before = 0.0;
    for seconds in [1.0, 2.0, 3.0] {
        assert!(wait_until(PATIENCE, || oldest(address, "pg") > seconds), "{}", oldest(address, "pg"));
        assert!(oldest(address, "pg") > before);
        before = oldest(address, "pg");
    }
    wait_for_state(&server, "pg", "stalled");
    assert!(oldest(address, "pg") > 30.0);
    assert_eq!(up(address, "pg"), 0.0);
    postgres.signal_all("CONT");
    wait_for_state(&server, "pg", "ok");
    assert!(wait_until(PATIENCE, || oldest(address, "pg") == 0.0));
    assert_eq!(up(address, "pg"), 1.0);
}

#[test]
fn a_sink_that_delivers_too_slowly_is_behind_and_one_that_delivers_nothing_is_stalled() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let path = format!("sinks.slow.path={}", fifo.display());
    let server = Server::start(directory.path(), &["sinks.slow.kind=file", &path, "sinks.slow.batch.max_events=1"]);
    let address = server.address();
    wait_for_state(&server, "slow", "ok");
    let event = format!(r#"{{"name":"e","body":"{}"}}"#, "x".repeat(1_000));
    let body = format!("[{}]", vec![event; 2_000].join(","));
    assert_eq!(post(address, "?ack=synced", &body).unwrap().0, 200);
    wait_for_state(&server, "slow", "stalled");

    // Some events a second, then all of them.
    let (faster, waits) = std::sync::mpsc::channel::<()>();
    let reader = thread::spawn(move || {
        let mut file = File::open(fifo).unwrap();
        let mut piece = [0; 4_096];
        let mut is_slow = true;
        while file.read(&mut piece).unwrap() > 0 {
            is_slow = is_slow && waits.recv_timeout(Duration::from_millis(50)).is_err();
        }
    });
    wait_for_state(&server, "slow", "behind");
    assert!(oldest(address, "slow") > 30.0);
    assert_eq!(up(address, "slow"), 1.0);
    faster.send(()).unwrap();
    wait_for_state(&server, "slow", "ok");
    assert!(wait_until(PATIENCE, || oldest(address, "slow") == 0.0));
    drop(server);
    reader.join().unwrap();
}

#[test]
fn build_process_and_capacities_are_shown() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &["server.buffer_bytes=64MiB", "wal.max_bytes=1GiB"]);
    let at = |name: &str| metric(server.address(), name).unwrap_or_else(|| panic!("no {name}"));
    let version = concat!("telemetryx_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}");
    assert_eq!(at(version), 1.0);
    assert_eq!(at("telemetryx_buffer_bytes_capacity"), f64::from(64 << 20));
    assert_eq!(at("telemetryx_wal_bytes_max"), f64::from(1 << 30));
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let started = at("process_start_time_seconds");
    assert!((seconds - started).abs() < 120.0, "{started}");
    let resident = crate::support::server::resident_bytes(server.pid()) as f64;
    let shown = at("process_resident_memory_bytes");
    assert!(shown > resident / 2.0 && shown < resident * 2.0, "{shown} {resident}");
    assert!(at("process_virtual_memory_bytes") >= shown);
    let (open, max) = (at("process_open_fds"), at("process_max_fds"));
    assert!(open > 5.0 && open < 200.0 && max >= open, "{open} {max}");
    let cpu = at("process_cpu_seconds_total");
    assert!(wait_until(PATIENCE, || at("process_cpu_seconds_total") > cpu), "{cpu}");
}
