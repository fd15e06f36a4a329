//! Acceptance: what rsyslogd, syslog-ng and logger send is stored, field by field.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::http::metric;
use crate::support::server::{Server, wait_until};
use crate::support::syslogd::{Daemon, Forward};
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};

/// For all rows to be there: a debug build on a busy machine, and daemons that read a file once per second.
const TIMEOUT: Duration = Duration::from_secs(240);
const SYSLOG: &[&str] = &["syslog.enabled=true", "syslog.udp=true"];
const UDP: &str = "telemetryx_syslog_dropped_total{reason=";

/// Records of one daemon over one transport: `TELEMETRYX_SYSLOG_RECORDS`, else a few.
fn records() -> usize {
    std::env::var("TELEMETRYX_SYSLOG_RECORDS").map_or(2_000, |records| records.parse().expect("a number"))
}

#[derive(Debug, PartialEq)]
struct Row {
    time: String,
    received_at: String,
    severity: i64,
    source: String,
    name: String,
    body: Option<String>,
    attributes: Value,
}

fn database(data_dir: &Path) -> Option<Connection> {
    Connection::open_with_flags(data_dir.join("events.db"), OpenFlags::SQLITE_OPEN_READ_ONLY).ok()
}

fn count(data_dir: &Path) -> usize {
    let count =
        |database: Connection| database.query_row("SELECT count(*) FROM events", [], |row| row.get::<_, i64>(0)).ok();
    database(data_dir).and_then(count).unwrap_or(0) as usize
}

fn rows(data_dir: &Path) -> Vec<Row> {
    let database = database(data_dir).expect("the sink's file");
    let columns = "time, received_at, severity, source, name, body, attributes";
    let mut query = database.prepare(&format!("SELECT {columns} FROM events ORDER BY position")).unwrap();
    let row = |row: &rusqlite::Row<'_>| {
        Ok(Row {
            time: row.get(0)?,
            received_at: row.get(1)?,
            severity: row.get::<_, Option<i64>>(2)?.unwrap_or(0),
            source: row.get(3)?,
            name: row.get(4)?,
            body: row.get(5)?,
            attributes: serde_json::from_str(&row.get::<_, Option<String>>(6)?.unwrap_or("{}".to_owned())).unwrap(),
        })
    };
    query.query_map([], row).unwrap().map(Result::unwrap).collect()
}

#[track_caller]
fn wait_for_rows(data_dir: &Path, expected: usize) -> Vec<Row> {
    let arrived = wait_until(TIMEOUT, || count(data_dir) >= expected);
    assert!(arrived, "{} of {expected} rows", count(data_dir));
    rows(data_dir)
}

/// Lines of many lengths and scripts, each with its number. None begins or ends with a space, which daemons strip.
fn lines(count: usize) -> Vec<String> {
    let texts =
        ["short", "GET /v1/users/12345 took 12.4 ms", "größer als sonst: äöü €", "日本語のログ 😀", "a=\"b\" c]d [e]"];
    let line = |number: usize| {
        let text = texts[number % texts.len()];
        let padding = if number % 100 == 99 { "x".repeat(9_000 + number % 20_000) } else { "x".repeat(number % 60) };
        format!("{number:06} {text} {padding}.")
    };
    (0..count).map(line).collect()
}

fn forwards(start: fn(&Path, Forward, SocketAddr) -> Daemon, forward: Forward) {
    let (data, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(data.path(), SYSLOG);
    let (file, lines) = (files.path().join("app.log"), lines(records()));
    fs::write(&file, lines.join("\n") + "\n").unwrap();
    let mut daemon = start(&file, forward, server.address());
    if forward == Forward::Datagrams {
        // What the kernel has dropped is counted, and nothing else is missing.
        let all = wait_until(TIMEOUT, || {
            daemon.assert_runs();
            let dropped = metric(server.address(), &format!("{UDP}\"kernel\"}}")).unwrap_or(0.0) as usize;
            count(data.path()) + dropped >= lines.len()
        });
        assert!(all, "{} of {} rows", count(data.path()), lines.len());
        let rows = rows(data.path());
        assert!(rows.len() <= lines.len() && rows.iter().all(|row| row.source == "app" && row.severity == 13));
        println!("{} of {} datagrams are stored", rows.len(), lines.len());
        return;
    }
    let arrived = wait_until(TIMEOUT, || {
        daemon.assert_runs();
        count(data.path()) >= lines.len()
    });
    assert!(arrived, "{} of {} rows", count(data.path()), lines.len());
    let rows = rows(data.path());
    assert_eq!(rows.len(), lines.len());
    for (row, line) in rows.iter().zip(&lines) {
        assert_eq!(row.body.as_deref(), Some(line.as_str()));
        assert_eq!((row.source.as_str(), row.name.as_str(), row.severity), ("app", "syslog", 13), "{line}");
        assert_eq!(row.attributes["syslog.facility"], json!(19), "{line}");
        assert!(row.attributes["host.name"].is_string(), "{line}: {}", row.attributes);
        assert!(row.attributes.get("syslog.malformed").is_none(), "{line}: {}", row.attributes);
        // Sender and server have one clock; the old form has whole seconds of the sender's zone.
        if forward == Forward::Counted {
            assert_eq!(row.time[..13], row.received_at[..13], "{line}");
        }
    }
}

#[test]
fn rsyslogd_forwards_lines() {
    forwards(Daemon::rsyslogd, Forward::Lines);
}

#[test]
fn rsyslogd_forwards_with_octet_counting() {
    forwards(Daemon::rsyslogd, Forward::Counted);
}

#[test]
fn rsyslogd_forwards_datagrams() {
    forwards(Daemon::rsyslogd, Forward::Datagrams);
}

#[test]
fn syslog_ng_forwards_lines() {
    forwards(Daemon::syslog_ng, Forward::Lines);
}

#[test]
fn syslog_ng_forwards_with_octet_counting() {
    forwards(Daemon::syslog_ng, Forward::Counted);
}

#[test]
fn syslog_ng_forwards_datagrams() {
    forwards(Daemon::syslog_ng, Forward::Datagrams);
}

#[test]
fn logger_sends_over_tcp_and_udp() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), SYSLOG);
    let (ip, port) = (server.address().ip().to_string(), server.address().port().to_string());
    let logger = |arguments: &[&str]| {
        let common = ["-n", &ip, "-P", &port, "-t", "app", "-p", "local3.warning"];
        let status = Command::new("logger").args(common).args(arguments).status().expect("logger is installed");
        assert!(status.success(), "{arguments:?}");
    };
    let file = data.path().join("lines");
    let sent = lines(50);
    // logger cuts at 1 KiB unless it is told not to.
    fs::write(&file, sent.join("\n") + "\n").unwrap();
    let file = file.to_str().unwrap();
    let mut expected = 0;
    for arguments in [
        &["-T", "--rfc5424", "-S", "64KiB"][..],
        &["-T", "--rfc5424", "--octet-count", "-S", "64KiB"],
        &["-T", "--rfc3164", "-S", "64KiB"],
        &["-d", "--rfc5424", "-S", "32KiB"],
        &["-d", "--rfc3164", "-S", "32KiB"],
    ] {
        logger(&[arguments, &["-f", file]].concat());
        let before = expected;
        expected += sent.len();
        let rows = wait_for_rows(data.path(), expected);
        for (row, line) in rows[before..].iter().zip(&sent) {
            assert_eq!(row.body.as_deref(), Some(line.as_str()), "{arguments:?}");
            assert_eq!((row.source.as_str(), row.severity), ("app", 13), "{arguments:?}");
            assert_eq!(row.attributes["syslog.facility"], json!(19), "{arguments:?} {}", row.attributes);
        }
    }
    logger(&["-T", "--rfc5424=notq", "--msgid", "M1", "--sd-id", "x@1", "--sd-param", "a=\"b\"", "-i", "structured"]);
    let row = wait_for_rows(data.path(), expected + 1).pop().unwrap();
    assert_eq!(row.body.as_deref(), Some("structured"));
    assert_eq!((&row.attributes["syslog.msgid"], &row.attributes["sd.x@1.a"]), (&json!("M1"), &json!("b")));
    assert!(row.attributes["syslog.procid"].is_string());
}

/// Python's own handler ends each message with NUL, also over TCP, where it never ends a line.
#[test]
fn the_handler_of_python_sends_over_tcp_and_udp() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), SYSLOG);
    let program = format!(
        "import logging, socket\n\
         from logging.handlers import SysLogHandler\n\
         log = logging.getLogger('x')\n\
         for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):\n\
         \x20   handler = SysLogHandler(('127.0.0.1', {}), SysLogHandler.LOG_LOCAL3, kind)\n\
         \x20   handler.ident = 'app: '\n\
         \x20   log.addHandler(handler)\n\
         \x20   for number in range(50): log.warning('größer %d', number)\n\
         \x20   log.removeHandler(handler)\n\
         \x20   handler.close()\n",
        server.address().port()
    );
    assert!(Command::new("python3").args(["-c", &program]).status().unwrap().success());
    let rows = wait_for_rows(data.path(), 100);
    assert_eq!(rows.len(), 100);
    // Over the two there is no order.
    let mut bodies: Vec<_> = rows.iter().map(|row| row.body.clone().unwrap()).collect();
    let mut expected: Vec<_> = (0..100).map(|number| format!("größer {}", number / 2)).collect();
    bodies.sort();
    expected.sort();
    assert_eq!(bodies, expected);
    for row in rows {
        assert_eq!((row.source.as_str(), row.severity), ("app", 13));
        assert_eq!(row.attributes, json!({"syslog.facility": 19}));
    }
}

#[test]
fn streams_in_pieces_are_taken_apart_and_a_last_message_needs_no_end() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[SYSLOG, &["server.event_loops=2"]].concat());
    let mut bytes =
        b"<13>a: one\n12 <13>b: two\nx<13>c: three\n2003-10-11T22:14:15Z h d: four\n<13>bad \xff\n".to_vec();
    bytes.extend_from_slice(format!("<13>e: {}\n<13>f: last", "y".repeat(70_000)).as_bytes());
    for (round, size) in [bytes.len(), 1_000, 7].into_iter().enumerate() {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        for piece in bytes.chunks(size) {
            stream.write_all(piece).unwrap();
        }
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        // Nothing is ever answered; the server ends its half once it has taken everything.
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"");
        // The next connection may be of another loop, whose events have no order with these.
        wait_for_rows(data.path(), 7 * (round + 1));
    }
    let rows = wait_for_rows(data.path(), 21);
    for rows in rows.chunks(7) {
        let bodies: Vec<_> = rows.iter().map(|row| row.body.as_deref().unwrap()).collect();
        assert_eq!(bodies[..5], ["one", "two\nx", "three", "four", "bad \u{fffd}"]);
        assert_eq!((bodies[5].len(), bodies[6]), (65_536 - "<13>e: ".len(), "last"));
        assert_eq!(rows[3].time, "2003-10-11T22:14:15.000000000Z");
        assert_eq!(rows[4].attributes["syslog.invalid_utf8"], json!(true));
        assert_eq!(rows[4].source, "127.0.0.1", "the peer, where the message names nobody");
        assert_eq!(rows[5].attributes["truncated"], json!(true));
    }
    assert_eq!(metric(server.address(), "telemetryx_events_received_total{protocol=\"syslog\"}"), Some(21.0));
}

#[test]
fn a_network_that_is_not_allowed_is_refused_and_counted() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[SYSLOG, &["syslog.allow=10.0.0.0/8"]].concat());
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.write_all(b"<13>a: one\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.send_to(b"<13>a: one", server.address()).unwrap();
    let name = format!("{UDP}\"not_allowed\"}}");
    assert!(wait_until(TIMEOUT, || metric(server.address(), &name) == Some(1.0)));
    let log = server.log_with("syslog from a network that is not allowed");
    assert!(log.contains("syslog.allow") && log.contains("127.0.0.1:"), "{log}");
    assert_eq!(count(data.path()), 0);
}

#[test]
fn syslog_is_off_by_default() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.write_all(b"<13>a: one\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    // Nobody listens for datagrams: the port is free.
    assert!(UdpSocket::bind(server.address()).is_ok());
}

#[test]
fn quiet_connections_stay_and_what_was_read_survives_a_stop() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::start(data.path(), SYSLOG);
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.write_all(b"<13>a: one\n<13>a: tw").unwrap();
    wait_for_rows(data.path(), 1);
    // A younger connection that shows nothing is closed in the meantime.
    let mut silent = TcpStream::connect(server.address()).unwrap();
    assert_eq!(silent.read(&mut [0]).unwrap(), 0);
    stream.write_all(b"o\n<13>a: three").unwrap();
    wait_for_rows(data.path(), 2);
    server.terminate();
    assert!(server.wait(TIMEOUT).success());
    let bodies: Vec<_> = rows(data.path()).into_iter().filter_map(|row| row.body).collect();
    assert_eq!(bodies, ["one", "two", "three"]);
}

#[test]
fn a_limit_holds_a_connection_back() {
    let data = tempfile::tempdir().unwrap();
    let limit = ["limits.agent_events_per_second=100", "limits.burst=1s"];
    let server = Server::start(data.path(), &[SYSLOG, &limit].concat());
    let mut stream = TcpStream::connect(server.address()).unwrap();
    let begin = Instant::now();
    let lines: String = (0..200).map(|number| format!("<13>a: {number}\n")).collect();
    stream.write_all(lines.as_bytes()).unwrap();
    wait_for_rows(data.path(), 200);
    stream.write_all(b"<13>a: 200\n").unwrap();
    let rows = wait_for_rows(data.path(), 201);
    assert!(begin.elapsed() >= Duration::from_secs(1), "100 more than the burst: {:?}", begin.elapsed());
    assert!(rows.iter().enumerate().all(|(number, row)| row.body == Some(number.to_string())));
    // Only messages that came after the burst had to wait; how many depends on the reads.
    let limited = metric(server.address(), "telemetryx_events_limited_total{scope=\"address\"}").unwrap();
    assert!((1.0..=101.0).contains(&limited), "{limited}");
}

#[test]
fn datagrams_above_a_limit_are_dropped_and_counted() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[SYSLOG, &["limits.agent_events_per_second=1"]].concat());
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let send = || (0..100).for_each(|_| assert_eq!(socket.send_to(b"<13>a: one", server.address()).unwrap(), 10));
    send();
    // What is received in one turn is admitted as a whole, and paid for afterwards.
    let dropped = || metric(server.address(), &format!("{UDP}\"limited\"}}")).unwrap_or(0.0);
    assert!(wait_until(TIMEOUT, || count(data.path()) as f64 + dropped() >= 100.0));
    let (stored, before) = (count(data.path()), dropped());
    assert!(stored >= 2, "the burst");
    send();
    assert!(wait_until(TIMEOUT, || dropped() >= before + 90.0), "{} dropped", dropped());
    let limited = || metric(server.address(), "telemetryx_events_limited_total{scope=\"address\"}");
    assert!(wait_until(TIMEOUT, || limited() == Some(dropped())), "{:?} of {}", limited(), dropped());
}
