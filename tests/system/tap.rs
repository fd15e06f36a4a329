//! `telemetryx tap` beside a running server.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use crate::support::agent::{RawAgent, batch, data, hello, log_line, named};
use crate::support::http::metric;
use crate::support::load::{Load, Plan};
use crate::support::server::{Server, wait_until};
use telemetryx::event::proto::Event;

const DEADLINE: Duration = Duration::from_secs(60);
const DISCARD: &str = "sinks.none.kind=discard";

fn command(data_dir: &Path, arguments: &[&str]) -> Command {
    // A shell ignores SIGINT for what it starts in the background, and with it for these tests and their children.
    let mut command = Command::new("env");
    command.args(["--default-signal=INT", env!("CARGO_BIN_EXE_telemetryx")]);
    let setting = format!("data_dir={}", data_dir.display());
    command.args(["tap", "--set", &setting]).args(arguments).env_remove("TELEMETRYX_CONFIG").current_dir(data_dir);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn tap(data_dir: &Path, arguments: &[&str]) -> Output {
    command(data_dir, arguments).output().unwrap()
}

fn lines(output: &Output) -> Vec<String> {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap().lines().map(str::to_owned).collect()
}

/// Ends the process and waits for it.
fn end(child: &mut Child, signal: &str) -> std::process::ExitStatus {
    crate::support::stores::signal_process(child.id(), signal);
    let mut ended = None;
    assert!(wait_until(DEADLINE, || {
        ended = child.try_wait().unwrap();
        ended.is_some()
    }));
    ended.unwrap()
}

fn send(address: SocketAddr, id: u8, events: Vec<Event>) {
    let (mut agent, _) = RawAgent::greeted(address, hello([id; 16], 0));
    agent.send(&data(1, &batch(events)));
    agent.acknowledged(1);
}

#[test]
fn events_are_shown_from_a_position_by_conditions_and_up_to_a_count() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &[DISCARD]);
    let mut events: Vec<_> = (1..=10).map(log_line).collect();
    events.push(Event {
        severity: 17,
        source: "a\u{1b}[31m".to_owned(),
        body: "\u{9b}2J \"x\"\n".to_owned(),
        ..named("bad")
    });
    send(server.address(), 1, events);
    let shown = |arguments: &[&str]| lines(&tap(directory.path(), arguments));

    let all = shown(&["--from", "1", "--count", "11"]);
    assert_eq!(all.len(), 11);
    assert!(
        all[0].starts_with("1 2023-11-14T22:13:20.000000001Z log info \"127.0.0.1\" \"request\" value=1 \"GET /api"),
        "{}",
        all[0]
    );
    assert!(all[0].contains("\"host\":\"edge-7\""), "{}", all[0]);
    let last = &all[10];
    assert!(last.starts_with("11 ") && last.ends_with(r#"log error "a\u001B[31m" "bad" "\u009B2J \"x\"\n""#), "{last}");

    let json: Vec<serde_json::Value> = shown(&["--from", "9", "--count", "3", "--json"])
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let positions: Vec<_> = json.iter().map(|event| event["position"].as_u64().unwrap()).collect();
    assert_eq!((positions, json[2]["source"].as_str().unwrap()), (vec![9, 10, 11], "a\u{1b}[31m"));

    let bad = shown(&["--from", "1", "--count", "1", "--include", "[{ severity = \"error\" }]"]);
    assert_eq!(&bad, &all[10..]);
    let bad = shown(&["--from", "1", "--count", "1", "--exclude", "{ name = [\"req*\"] }"]);
    assert_eq!(&bad, &all[10..]);
    assert!(shown(&["--count", "0"]).is_empty());

    let wrong = tap(directory.path(), &["--include", "[{ severty = \"error\" }]"]);
    let printed = String::from_utf8(wrong.stderr).unwrap();
    assert!(wrong.status.code() == Some(2) && printed.contains("--include: "), "{printed}");
    let empty = tempfile::tempdir().unwrap();
    let none = tap(empty.path(), &[]);
    let printed = String::from_utf8(none.stderr).unwrap();
    assert!(none.status.code() == Some(1) && printed.contains("there is no log in"), "{printed}");
}

#[test]
fn every_event_of_a_load_is_shown_once_in_order_as_it_comes() {
    let directory = tempfile::tempdir().unwrap();
    // Small segments, of which old ones are deleted at once.
    let settings = [DISCARD, "wal.segment_bytes=1MiB", "wal.keep=0s"];
    let mut server = Server::start(directory.path(), &settings);
    let mut child = command(directory.path(), &["--from", "1", "--json"]).spawn().unwrap();
    let output = child.stdout.take().unwrap();
    let last = Arc::new(AtomicU64::new(0));
    let seen = last.clone();
    let reader = std::thread::spawn(move || {
        let positions = BufReader::new(output).lines().map(|line| {
            let event: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
            let position = event["position"].as_u64().unwrap();
            seen.store(position, SeqCst);
            position
        });
        positions.collect::<Vec<_>>()
    });
    let load = Load::start(server.address(), &Plan::mixed(crate::support::seed()));
    load.wait_for_acknowledged(10_000, DEADLINE);
    let events = load.finish(DEADLINE).events();
    let received = |protocol| {
        let name = format!("telemetryx_events_received_total{{protocol=\"{protocol}\"}}");
        metric(server.address(), &name).unwrap() as u64
    };
    let end_of_log = received("frames") + received("http");
    assert!(wait_until(DEADLINE, || last.load(SeqCst) >= end_of_log), "{} of {end_of_log}", last.load(SeqCst));
    server.terminate();
    assert!(server.wait(DEADLINE).success());
    let status = end(&mut child, "INT");
    assert_eq!(status.signal(), Some(2), "as a shell expects of a program that Ctrl-C ends");
    let (mut printed, positions) = (String::new(), reader.join().unwrap());
    child.stderr.take().unwrap().read_to_string(&mut printed).unwrap();
    assert!(positions.is_sorted() && positions.windows(2).all(|pair| pair[0] != pair[1]), "each once");
    let missing: u64 = printed
        .lines()
        .map(|line| {
            let numbers: Vec<u64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
            assert!(line.ends_with("are not in the log any more"), "{line}");
            numbers[1] - numbers[0] + 1
        })
        .sum();
    // HTTP clients may repeat a request.
    assert!(positions.len() as u64 + missing >= events, "{} shown, {missing} missing, {events} sent", positions.len());
    if missing == 0 {
        assert!(positions.iter().copied().eq(1..=positions.len() as u64));
    }
}

#[test]
fn what_was_deleted_from_the_log_is_reported_and_the_rest_shown() {
    let directory = tempfile::tempdir().unwrap();
    let settings = [DISCARD, "wal.segment_bytes=1MiB", "wal.max_bytes=2MiB", "wal.keep=0s"];
    let server = Server::start(directory.path(), &settings);
    let (mut agent, _) = RawAgent::greeted(server.address(), hello([1; 16], 0));
    // The output is not read: the command waits, and holds no file of the log.
    let mut child = command(directory.path(), &["--from", "1"]).spawn().unwrap();
    for seq in 1..=60 {
        let events = (0..100).map(|_| Event { body: "x".repeat(1_000), ..named("e") }).collect();
        agent.send(&data(seq, &batch(events)));
        agent.acknowledged(seq);
    }
    let segments = || {
        fs::read_dir(directory.path().join("wal"))
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|end| end == "seg"))
            .count()
    };
    assert!(wait_until(DEADLINE, || segments() <= 3), "{} segments", segments());
    let held = fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap().filter(|entry| {
        let link = fs::read_link(entry.as_ref().unwrap().path()).unwrap_or_default();
        link.to_string_lossy().contains(".seg")
    });
    assert_eq!(held.count(), 0);
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let (mut line, mut last) = (String::new(), 0);
    while last < 6_000 {
        line.clear();
        assert!(output.read_line(&mut line).unwrap() > 0);
        last = line.split(' ').next().unwrap().parse().unwrap();
    }
    // Nobody reads any more, and nothing more comes.
    drop(output);
    let mut ended = None;
    assert!(wait_until(DEADLINE, || {
        ended = child.try_wait().unwrap();
        ended.is_some()
    }));
    assert!(ended.unwrap().success());
    let mut printed = String::new();
    child.stderr.take().unwrap().read_to_string(&mut printed).unwrap();
    assert!(printed.contains("are not in the log any more"), "{printed}");
}
