//! What commands show to a person: on a terminal of 80 columns, and not in a pipe.

use std::fmt::Write as _;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::server::{Server, wait_until};
use crate::support::terminal::{run, seen};

const TELEMETRYX: &str = env!("CARGO_BIN_EXE_telemetryx");

fn width(lines: &[String]) -> usize {
    lines.iter().map(|line| line.chars().count()).max().unwrap_or(0)
}

#[test]
fn help_wraps_at_the_terminals_width() {
    let folder = tempfile::tempdir().unwrap();
    for (columns, widest) in [(70, 60..=70), (80, 70..=80), (200, 85..=100)] {
        for command in ["send --help", "help send", "bench --help"] {
            let (output, code) = run(folder.path(), columns, &format!("{TELEMETRYX} {command}"));
            let width = width(&seen(&output));
            assert!(code == Some(0) && widest.contains(&width), "{command}: {width} of {columns} columns\n{output}");
        }
    }
    let output = Command::new(TELEMETRYX).args(["send", "--help"]).output().unwrap();
    let lines: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    assert!((70..=80).contains(&width(&lines)), "a pipe gets 80 columns");
}

#[test]
fn send_shows_its_progress_within_eighty_columns_and_nothing_of_it_in_a_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &["sinks.discard.kind=discard"]);
    let log = folder.path().join("app.log");
    let mut text = String::new();
    for line in 0..400_000 {
        writeln!(text, "a line of a log that is long enough to take a little time, number {line}").unwrap();
    }
    fs::write(&log, text).unwrap();
    let send = format!("{TELEMETRYX} send --to {} app.log", server.address());
    let (output, code) = run(folder.path(), 80, &send);
    let lines = seen(&output);
    assert!(code == Some(0) && width(&lines) <= 80, "{output}");
    assert!(
        lines.iter().any(|line| line.contains("% · ") && line.contains("events · ") && line.contains("ETA")),
        "{output}"
    );
    let bar = lines.iter().rfind(|line| line.contains("% · ")).unwrap();
    assert!(bar.contains("100% · 400000 events · "), "the last line of the bar has the count of the summary: {bar}");
    let last = lines.last().unwrap();
    assert!(last.starts_with("sent 400000 events (") && last.contains("400000 acknowledged"), "{output}");

    let (output, _) = run(folder.path(), 80, &format!("cat app.log | {send} -"));
    assert!(!output.contains("ETA"), "the size of a pipe is not known: {output}");
    assert!(output.contains(" MB · ") && !output.contains("MiB"), "units are those of the summary: {output}");

    let output =
        Command::new("sh").args(["-c", &send]).current_dir(folder.path()).stdin(Stdio::null()).output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 1);
}

#[test]
fn bench_shows_its_progress_within_eighty_columns_and_nothing_of_it_in_a_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &["sinks.discard.kind=discard"]);
    let bench = format!(
        "{TELEMETRYX} bench --to {} --seconds 1 --connections 1 --rate 1000 --frame-events 10",
        server.address()
    );
    let (output, code) = run(folder.path(), 80, &bench);
    let lines = seen(&output);
    assert!(code == Some(0) && width(&lines) <= 80, "{output}");
    assert!(lines.iter().any(|line| line.contains(" s · ") && line.contains("events · ")), "{output}");
    let output = Command::new("sh").args(["-c", &bench]).output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}

#[test]
fn tables_fit_eighty_columns_and_are_whole_in_a_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let server =
        Server::start(folder.path(), &["sinks.pg.kind=discard", "sinks.a-sink-with-quite-a-long-name.kind=discard"]);
    let name = "an-agent-with-a-name-that-is-far-longer-than-a-terminal-has-columns-for-it-and-more-of-that";
    // An agent that ends is forgotten: this one stays.
    let mut agent = Command::new(TELEMETRYX)
        .args(["send", "--to", &server.address().to_string(), "--source", name])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = agent.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, b"x\n").unwrap();
    let inspect = ["wal", "inspect", "--set", "data_dir=."];
    let inspect = || Command::new(TELEMETRYX).args(inspect).current_dir(folder.path()).output().unwrap();
    let logged = || String::from_utf8_lossy(&inspect().stdout).contains(name);
    assert!(wait_until(Duration::from_secs(20), logged));
    fs::create_dir_all(folder.path().join("dead")).unwrap();
    let letter = format!(
        "{{\"server_id\":\"5e5e5e5e-5e5e-5e5e-5e5e-5e5e5e5e5e5e\",\"position\":1,\"received_at\":\"2026-01-02T03:04:05Z\",\"code\":\"SQLITE_CONSTRAINT_TRIGGER\",\
         \"reason\":\"{}\",\"event\":{{\"name\":\"e\"}}}}\n",
        "a long reason ".repeat(20)
    );
    fs::write(folder.path().join("dead/pg.ndjson"), letter).unwrap();
    for (command, shown) in [("wal inspect", "an-agent-with-a-name"), ("dead list", "SQLITE_CONST")] {
        let line = format!("{TELEMETRYX} {command} --set data_dir=.");
        let (output, code) = run(folder.path(), 80, &line);
        let lines = seen(&output);
        assert!(code == Some(0) && width(&lines) <= 80, "{output}");
        assert!(output.contains(shown) && output.contains('…'), "{output}");
        let output = Command::new("sh").args(["-c", &line]).current_dir(folder.path()).output().unwrap();
        let output = String::from_utf8(output.stdout).unwrap();
        assert!(!output.contains('…'), "{output}");
    }
    drop(input);
    assert!(agent.wait().unwrap().success());
}

#[test]
fn ctrl_c_ends_send_with_the_number_of_events_that_were_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &["sinks.discard.kind=discard"]);
    let mut sent = 0.0;
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let mut child = Command::new(TELEMETRYX)
            .args(["send", "--ack", "received", "--to", &server.address().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut input, b"one\ntwo\n").unwrap();
        sent += 2.0;
        // Acknowledged in the same turn, however slow the disk is. The input stays open: only the signal can end it.
        let received =
            || crate::support::http::metric(server.address(), "telemetryx_events_received_total{protocol=\"frames\"}");
        assert!(wait_until(Duration::from_secs(20), || received() == Some(sent)));
        Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said, "telemetryx: interrupted; 2 of 2 events were acknowledged\n");
        assert_eq!((output.status.code(), output.stdout.len()), (Some(code), 0));
        drop(input);
    }
}

#[test]
fn ctrl_c_ends_send_also_while_the_server_does_not_answer() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut child = Command::new(TELEMETRYX)
        .args(["send", "--timeout", "0", "--to", &silent.local_addr().unwrap().to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _connection = silent.accept().unwrap();
    for _ in 0..2 {
        Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    }
    let mut said = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut said).unwrap();
    assert_eq!(said, "telemetryx: interrupted; no events were sent\n");
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
