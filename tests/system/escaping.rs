//! Text of peers in log lines and on terminals: it stays on its line, between its quotes, and changes no terminal.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;

use crate::support::agent::{RawAgent, data, hello};
use telemetryx::wire::{FrameKind, Goaway, GoawayCode, Hello};

/// A second line that looks like the server's own, an escape sequence in 7 and in 8 bits, DEL, a line separator, text that
/// is shown backwards, a byte order mark.
const FORGED: &str =
    "a\n2026-11-26T23:00:00.000000Z ERROR telemetryx::wal: forged\r\u{1b}[2J\u{9b}2J\u{7f}\u{2028}\u{202e}b\u{feff}";

/// Whether a reader of lines or a terminal acts on the character, but for line ends.
fn acts(c: char) -> bool {
    (c.is_control() && c != '\n')
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[track_caller]
fn is_escaped(text: &str) {
    assert!(!text.contains(acts), "{text:?}");
    let forged = text.lines().find(|line| line.starts_with("2026-11-26T23:00:00") || line.starts_with(' '));
    assert_eq!(forged, None, "{text}");
}

fn telemetryx(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_telemetryx"));
    command.args(arguments).current_dir(folder).env_clear().stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("output is UTF-8")
}

/// What a server logs at `debug` about an agent of that name that sends a frame which is no batch of events.
fn log_of_an_agent_named(name: &str, format: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--set", "server.address=127.0.0.1:0", "--log-format", format];
    let mut server = telemetryx(folder.path(), &arguments)
        .env("TELEMETRYX_LOG", "debug")
        .stderr(Stdio::piped())
        .spawn()
        .expect("the server starts");
    let mut stderr = BufReader::new(server.stderr.take().unwrap());
    let mut log = String::new();
    let address: SocketAddr = loop {
        let begin = log.len();
        assert!(stderr.read_line(&mut log).expect("the log is UTF-8") > 0, "{log}");
        if let Some((_, rest)) = log[begin..].split_once("listening on ") {
            break rest.split([' ', '"', ',']).next().unwrap().parse().unwrap();
        }
    };
    let (mut agent, _) = RawAgent::greeted(address, Hello { name, ..hello([7; 16], 0) });
    agent.send(&data(1, b"no batch of events"));
    agent.answer(FrameKind::Nack);
    drop(agent);
    let terminated = Command::new("kill").args(["-TERM", &server.id().to_string()]).status();
    assert!(terminated.expect("there is a kill command").success());
    stderr.read_to_string(&mut log).expect("the log is UTF-8");
    assert!(server.wait().unwrap().success(), "{log}");
    log
}

#[test]
fn a_name_cannot_forge_a_log_line() {
    let log = log_of_an_agent_named(FORGED, "text");
    is_escaped(&log);
    assert!(log.lines().any(|line| line.contains("frame refused") && line.contains("agent=\"a\\n2026-")), "{log}");
    assert!(log.lines().any(|line| line.contains("agent connected") && line.contains("agent=\"a\\n2026-")), "{log}");
}

#[test]
fn json_log_lines_escape_what_json_need_not() {
    let log = log_of_an_agent_named(FORGED, "json");
    is_escaped(&log);
    let lines: Vec<serde_json::Value> =
        log.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).expect(line)).collect();
    let named = lines.iter().filter(|line| line["agent"] == FORGED).count();
    assert!(named >= 2, "the value is as it was sent: {log}");
}

#[test]
fn dead_letters_are_shown_escaped_and_their_json_says_the_same() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("telemetryx-data/dead")).unwrap();
    let quoted = |text: &str| serde_json::to_string(text).unwrap();
    let letter = format!(
        "{{\"server_id\":\"5e5e5e5e-5e5e-5e5e-5e5e-5e5e5e5e5e5e\",\"position\":1,\"received_at\":\"2026-01-02T01:00:00Z\",\
         \"agent\":{name},\"code\":{name},\"reason\":{name},\"event\":{{\"kind\":\"log\",\"name\":{name}}}}}\n",
        name = quoted(FORGED)
    );
    fs::write(folder.path().join("telemetryx-data/dead/sqlite.ndjson"), letter).unwrap();
    for arguments in [&["list"][..], &["list", "--json"], &["show"], &["show", "--json"]] {
        let output = telemetryx(folder.path(), &[&["dead"], arguments].concat()).output().unwrap();
        let shown = text(&output.stdout);
        assert!(output.status.success() && shown.contains("forged"), "{arguments:?}: {shown}");
        assert!(!shown.contains(acts), "{arguments:?}: {shown:?}");
        if arguments.contains(&"--json") {
            let document: serde_json::Value = serde_json::from_str(shown.trim_end()).expect(shown);
            let letter = document["groups"].get(0).unwrap_or(&document);
            assert_eq!(letter["reason"], FORGED, "{document}");
        } else {
            assert!(!shown.lines().any(|line| line.starts_with("2026-11-26")), "{shown}");
        }
    }
}

/// A server that ends each connection with these bytes.
fn answers(bytes: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for peer in listener.incoming() {
            let Ok(mut peer) = peer else { return };
            let mut request = [0; 4096];
            let _ = peer.read(&mut request);
            let _ = peer.write_all(&bytes);
        }
    });
    address
}

#[track_caller]
fn said(output: &Output, words: &str) {
    let (shown, said) = (text(&output.stdout), text(&output.stderr));
    assert!(said.contains(words) && said.contains("forged"), "{shown}{said}");
    is_escaped(shown);
    is_escaped(said);
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn what_a_server_answers_is_shown_escaped() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("lines"), "hello\n").unwrap();
    for code in [GoawayCode::Auth, GoawayCode::Shutdown] {
        let mut goaway = Vec::new();
        Goaway { code: Ok(code), retry_ms: 60_000, text: FORGED }.encode(0, &mut goaway);
        let address = answers(goaway).to_string();
        let output =
            telemetryx(folder.path(), &["send", "--to", &address, "--timeout", "5", "lines"]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        said(&output, "\\n2026-");
    }
    let answer = format!("HTTP/1.1 503 No\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{FORGED}", FORGED.len());
    let address = answers(answer.into_bytes()).to_string();
    for arguments in [&["health", &address][..], &["top", &address], &["top", "--json", &address]] {
        let output = telemetryx(folder.path(), arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        // Of an answer that is not ours only the status and the first line are shown.
        let shown = text(&output.stderr);
        assert!(shown.contains("503") && shown.lines().count() == 1, "{shown}");
        is_escaped(shown);
        is_escaped(text(&output.stdout));
    }
    // Something that is neither: a banner with escape sequences.
    let address = answers(FORGED.as_bytes().to_vec()).to_string();
    for arguments in
        [&["health", &address][..], &["top", &address], &["send", "--to", &address, "--timeout", "1", "lines"]]
    {
        let output = telemetryx(folder.path(), arguments).output().unwrap();
        is_escaped(text(&output.stderr));
        assert_eq!(output.status.code(), Some(1));
    }
}

#[test]
fn the_state_of_a_server_is_shown_escaped() {
    let folder = tempfile::tempdir().unwrap();
    let sink = serde_json::json!({
        "name": FORGED, "state": FORGED, "last_error": {"reason": FORGED},
        "dead_letters": [{"code": FORGED, "reason": FORGED}],
    });
    let rejection = serde_json::json!({"from": FORGED, "code": FORGED, "reason": FORGED});
    let status =
        serde_json::json!({"version": FORGED, "reasons": [FORGED], "sinks": [sink], "rejections": [rejection]});
    let body = status.to_string();
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    let address = answers(answer.into_bytes()).to_string();
    let output = telemetryx(folder.path(), &["top", "--once", &address]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let shown = text(&output.stdout);
    assert!(shown.matches("\\n2026-").count() >= 8, "{shown}");
    is_escaped(&shown.replace('\n', ""));
}

#[test]
fn arguments_and_settings_are_shown_escaped() {
    let folder = tempfile::tempdir().unwrap();
    let set = format!("server.address={FORGED}");
    let output = telemetryx(folder.path(), &["check", "--set", &set]).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    said(&output, "server.address = ");
    let set = format!("{}=1", FORGED.replace('\n', " "));
    let output = telemetryx(folder.path(), &["check", "--set", &set]).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    is_escaped(text(&output.stderr));
}
