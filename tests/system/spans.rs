//! Spans of connections, commits and deliveries: which lines they write, for whom, and that text of peers in them is escaped.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::support::agent::{RawAgent, batch, data, hello, log_line};
use crate::support::http::get;
use crate::support::server::{Server, wait_until};
use serde_json::Value;
use telemetryx::wire::Hello;

const DEADLINE: Duration = Duration::from_secs(60);
const ALL: &str = "info,telemetryx::net=debug,telemetryx::pipeline=debug,telemetryx::router=debug";
const SPANS: [&str; 3] = ["connection{", "commit{", "delivery{"];

/// A server whose settings file has `settings` besides its log filter.
fn start(directory: &Path, filter: &str, settings: &str) -> Server {
    let file = write(directory, filter, settings);
    Server::launch_with(directory, &[], &[("TELEMETRYX_CONFIG", &file)]).listening()
}

fn write(directory: &Path, filter: &str, settings: &str) -> String {
    let file = directory.join("settings.toml");
    let out = "[[sinks]]\nname = \"out\"\nkind = \"file\"\npath = \"out.ndjson\"\n";
    let sinks = if settings.contains("[[sinks]]") { "" } else { out };
    fs::write(&file, format!("[log]\nfilter = \"{filter}\"\n{settings}{sinks}")).unwrap();
    file.display().to_string()
}

fn reload(directory: &Path, filter: &str, settings: &str) {
    write(directory, filter, settings);
    let mut command = Command::new(env!("CARGO_BIN_EXE_telemetryx"));
    let output =
        command.arg("reload").arg("--data-dir").arg(directory).env_remove("TELEMETRYX_CONFIG").output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn connect(server: &Server, id: u8, name: &str) -> RawAgent {
    RawAgent::greeted(server.address(), Hello { name, token: b"of-api", ..hello([id; 16], 0) }).0
}

/// Sends a frame of three events and waits for its ACK.
fn send(agent: &mut RawAgent, seq: u64) {
    agent.send(&data(seq, &batch((0..3).map(log_line).collect())));
    agent.acknowledged(seq);
}

/// The first line with all of `parts`, once the server has written it.
#[track_caller]
fn line(server: &Server, parts: &[&str]) -> String {
    let find = || server.log().lines().find(|line| parts.iter().all(|part| line.contains(part))).map(str::to_owned);
    assert!(wait_until(DEADLINE, || find().is_some()), "no line has all of {parts:?}:\n{}", server.log());
    find().unwrap_or_default()
}

/// The value of a field of a line, which is a number.
#[track_caller]
fn number(line: &str, field: &str) -> f64 {
    let value = line.split(&format!("{field}=")).nth(1).and_then(|rest| rest.split([' ', '}']).next());
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no number {field} in {line}"))
}

#[test]
fn a_connection_a_commit_and_a_delivery_have_a_line_each_at_level_debug() {
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    fs::write(&token, "of-api\n").unwrap();
    let client = format!("[[clients]]\nname = \"api\"\ntoken_file = {token:?}\n");
    let server = start(directory.path(), ALL, &client);
    let mut agent = connect(&server, 1, "web-1");
    send(&mut agent, 1);
    drop(agent);

    let ended = line(&server, &["disconnected reason=\"end\""]);
    assert!(ended.contains(" DEBUG connection{id="), "{ended}");
    let peer = "peer=127.0.0.1:";
    assert!(
        ended.contains(peer) && ended.contains("tls=false protocol=\"frames\" agent=\"web-1\" client=\"api\"}: "),
        "{ended}"
    );
    assert!((0.0..600.0).contains(&number(&ended, "seconds")), "{ended}");
    // What others log about the connection shows whose it is.
    line(&server, &["connection{id=", "client=\"api\"}: ", ": agent disconnected "]);

    get(server.address(), "/health");
    line(&server, &["connection{id=", "tls=false protocol=\"http\"}: ", ": disconnected reason=", " seconds="]);

    let commit = line(&server, &[" DEBUG commit{first=1 runs=1 events=3 bytes="]);
    assert!(commit.contains("}: telemetryx::pipeline::group_commit::span: commit synced "), "{commit}");
    assert!(
        number(&commit, " bytes") > 10.0 && number(&commit, " seconds") >= number(&commit, "sync_seconds"),
        "{commit}"
    );

    let delivery = line(&server, &[" DEBUG delivery{sink=\"out\" first=1 last=3 events=3 attempt=1}: "]);
    assert!(delivery.contains("telemetryx::router::worker: delivery ended outcome=\"stored\" seconds="), "{delivery}");
    assert!((0.0..600.0).contains(&number(&delivery, " seconds")), "{delivery}");
}

#[test]
fn without_the_level_there_are_no_spans() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = start(directory.path(), "info", "");
    let mut agent = connect(&server, 1, "web-1");
    send(&mut agent, 1);
    drop(agent);
    line(&server, &["agent disconnected"]);
    server.terminate();
    server.wait(DEADLINE);
    let log = server.log();
    assert!(SPANS.iter().all(|span| !log.contains(span)) && !log.contains("DEBUG"), "{log}");
}

#[test]
fn a_reload_gives_spans_to_connections_that_are_open_and_takes_them_away() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path(), "info", "");
    let (mut one, mut other) = (connect(&server, 1, "web-1"), connect(&server, 2, "db-1"));
    send(&mut one, 1);
    reload(directory.path(), "info", "agents = \"web-*\"\n");
    send(&mut one, 2);
    send(&mut other, 1);
    let received = line(&server, &["frames received", "agent=\"web-1\""]);
    assert!(received.contains(" INFO connection{id=") && received.contains(" agent=\"web-1\"}: "), "{received}");
    line(&server, &["frames acknowledged", "connection{id=", " agent=\"web-1\"}: "]);
    assert!(!server.log().contains("agent=\"db-1\"}"), "{}", server.log());

    reload(directory.path(), "info,telemetryx::net=debug", "");
    drop(other);
    line(&server, &[" DEBUG connection{id=", " agent=\"db-1\"}: ", "disconnected reason=\"end\" seconds="]);

    reload(directory.path(), "info", "");
    let before = server.log().len();
    drop(one);
    line(&server, &["agent disconnected", "agent=\"web-1\""]);
    reload(directory.path(), "warn", "");
    let log = server.log();
    assert!(!log[before..].contains("connection{") && !log[before..].contains("DEBUG"), "{}", &log[before..]);
}

#[test]
fn the_connection_of_one_agent_has_a_span_at_level_info() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path(), "info", "agents = \"web-1\"\n");
    let mut agents = [connect(&server, 1, "web-1"), connect(&server, 2, "db-1")];
    agents.iter_mut().for_each(|agent| send(agent, 1));
    drop(agents);
    let ended =
        line(&server, &[" INFO connection{id=", "agent=\"web-1\"}: ", ": disconnected reason=\"end\" seconds="]);
    assert!(ended.contains("telemetryx::net::"), "{ended}");
    line(&server, &["agent disconnected", "agent=\"db-1\""]);
    let log = server.log();
    assert_eq!(log.matches(": disconnected ").count(), 1, "{log}");
    assert!(!log.contains("agent=\"db-1\"}") && !log.contains("commit{") && !log.contains("delivery{"), "{log}");
}

#[test]
fn each_attempt_of_a_delivery_has_its_number_and_its_outcome() {
    // Whoever connects is disconnected: the port is open, and no request is answered.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || listener.incoming().for_each(drop));
    let directory = tempfile::tempdir().unwrap();
    let sink = format!("[[sinks]]\nname = \"web\"\nkind = \"http\"\nurl = \"{url}\"\n");
    let server = start(directory.path(), "info,telemetryx::router=debug", &sink);
    send(&mut connect(&server, 1, "web-1"), 1);
    for attempt in 1..=2 {
        let span = format!("delivery{{sink=\"web\" first=1 last=3 events=3 attempt={attempt}}}: ");
        let ended = line(&server, &[" DEBUG ", &span, "delivery ended outcome=\"unavailable\" reason=\"http "]);
        assert!(ended.contains(" seconds="), "{ended}");
    }
    // The lines of the worker about it are within the span.
    line(&server, &[" WARN delivery{sink=\"web\"", "sink unavailable, retrying sink=\"web\""]);
}

/// A name that looks like the end of a span and the beginning of another line.
const HOSTILE: &str = "x\"} \u{1b}[2J\n2026-01-01T00:00:00Z ERROR delivery{sink=\"y\" \u{202e}\u{9b}\\";

#[test]
fn a_hostile_name_in_a_span_is_quoted_and_escaped() {
    for format in ["text", "json"] {
        let directory = tempfile::tempdir().unwrap();
        let server = start(directory.path(), ALL, &format!("format = \"{format}\"\nagents = \"*\"\n"));
        let mut agent = connect(&server, 1, HOSTILE);
        send(&mut agent, 1);
        drop(agent);
        line(&server, &["disconnected", "reason", "seconds"]);
        line(&server, &["delivery ended"]);
        let log = server.log();
        let is_control = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!log.contains(is_control) && !log.contains("\n2026-01-01"), "{log}");
        if format == "text" {
            let written =
                r#"agent="x\"} \u{1b}[2J\n2026-01-01T00:00:00Z ERROR delivery{sink=\"y\" \u{202e}\u{9b}\\"}: "#;
            line(&server, &["connection{id=", written, ": disconnected reason="]);
            continue;
        }
        let lines: Vec<Value> =
            log.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect();
        let with =
            |message: &str| lines.iter().find(|line| line["message"] == message).unwrap_or_else(|| panic!("{log}"));
        let ended = with("disconnected");
        assert_eq!((&ended["level"], &ended["spans"][0]["name"]), (&"INFO".into(), &"connection".into()), "{ended}");
        assert_eq!(ended["spans"][0]["agent"], HOSTILE, "{ended}");
        assert!(ended["seconds"].is_f64() && ended["span"].is_null(), "{ended}");
        let delivery = with("delivery ended");
        assert_eq!(
            (&delivery["spans"][0]["sink"], &delivery["outcome"]),
            (&"out".into(), &"stored".into()),
            "{delivery}"
        );
        assert!(with("commit synced")["sync_seconds"].is_f64());
    }
}
