//! `localhost` where no resolver knows it: an empty root has neither `/etc/hosts` nor `/etc/resolv.conf`.
#![cfg(all(feature = "postgres", feature = "redis", feature = "grpc", feature = "http-sink"))]

use std::process::{Command, Output};

use crate::support::server::Server;
use crate::support::stores::{HttpService, Postgres, Receiver, Redis};

/// Why this machine cannot hide the two files: it takes root. Printed, and the test is skipped.
fn cannot_hide() -> bool {
    let tried = Command::new("unshare").args(["--mount", "mount", "--bind", "/dev/null", "/etc/hosts"]).output();
    let hidden = tried.as_ref().is_ok_and(|output| output.status.success());
    if !hidden {
        eprintln!("skipped: /etc/hosts cannot be hidden: {tried:?}");
    }
    !hidden
}

/// Runs telemetryx where both files are empty.
fn without_resolver(arguments: &[&str]) -> Output {
    let script = "mount --bind /dev/null /etc/hosts && mount --bind /dev/null /etc/resolv.conf && exec \"$0\" \"$@\"";
    Command::new("unshare")
        .args(["--mount", "sh", "-c", script, env!("CARGO_BIN_EXE_telemetryx")])
        .args(arguments)
        .output()
        .expect("unshare (util-linux)")
}

#[track_caller]
fn assert_succeeds(output: &Output) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}\n{}", output.status, text(&output.stdout), text(&output.stderr));
}

#[test]
fn commands_reach_a_server_on_localhost() {
    if cannot_hide() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &["sinks.discard.kind=discard"]);
    let port = server.address().port();
    assert_succeeds(&without_resolver(&["health", &format!("http://localhost:{port}")]));
    let lines = directory.path().join("lines");
    std::fs::write(&lines, "a line\n").unwrap();
    assert_succeeds(&without_resolver(&["send", "--to", &format!("localhost:{port}"), lines.to_str().unwrap()]));
}

#[test]
fn every_sink_reaches_its_store_on_localhost() {
    if cannot_hide() {
        return;
    }
    let (postgres, redis, receiver, service) =
        (Postgres::shared(), Redis::start(&[]), Receiver::start(&[]), HttpService::shared());
    let database = postgres.database();
    let directory = tempfile::tempdir().unwrap();
    let data = format!("data_dir={}", directory.path().display());
    let by_name = |sink: &str, url: String| format!("sinks.{sink}.url={}", url.replace("127.0.0.1", "localhost"));
    let urls = [
        by_name("p", postgres.url(&database)),
        by_name("r", redis.url()),
        by_name("g", receiver.url()),
        by_name("h", service.url(&service.name())),
    ];
    for url in &urls {
        assert!(url.contains("localhost"), "{url}");
    }
    let kinds = ["sinks.p.kind=postgres", "sinks.r.kind=redis", "sinks.g.kind=grpc", "sinks.h.kind=http"];
    let mut arguments = vec!["check", "--connect"];
    for setting in kinds.into_iter().chain(urls.iter().map(String::as_str)).chain([data.as_str()]) {
        arguments.extend(["--set", setting]);
    }
    assert_succeeds(&without_resolver(&arguments));
}
