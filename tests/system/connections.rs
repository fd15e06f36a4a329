//! Connections that have not shown who they are, idle ones, and what is logged of requests that are refused.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::http;
use crate::support::server::{Server, wait_until};
use crate::support::stores::python;
use socket2::{Domain, Socket, Type};

const STEP_TIMEOUT: Duration = Duration::from_secs(60);
const POST: &[u8] = b"POST /v1/events?ack=received HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
    Connection: close\r\nContent-Length: 14\r\n\r\n{\"name\":\"fan\"}";

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(STEP_TIMEOUT)).unwrap();
    stream
}

/// Opens connections as fast as it can and sends each one's request `delay` later. Returns how many were sent within a
/// second of connecting, and how many of those were not answered 200.
fn burst(address: SocketAddr, count: usize, delay: Duration) -> (usize, usize) {
    let mut connecting = VecDeque::new();
    let mut sent = Vec::new();
    let mut send_due = |connecting: &mut VecDeque<(TcpStream, Instant)>, wait: bool| {
        while let Some((_, started)) = connecting.front() {
            let left = (*started + delay).saturating_duration_since(Instant::now());
            if !left.is_zero() && !wait {
                return;
            }
            thread::sleep(left);
            let (mut stream, started) = connecting.pop_front().unwrap();
            let written = stream.write_all(POST).is_ok();
            sent.push((stream, written, started.elapsed() < Duration::from_secs(1)));
        }
    };
    for _ in 0..count {
        let started = Instant::now();
        connecting.push_back((connect(address), started));
        send_due(&mut connecting, false);
    }
    send_due(&mut connecting, true);
    // A busy machine makes this sender late: then the connection was silent for longer than a second.
    sent.retain(|(_, _, in_time)| *in_time);
    let answered = |(stream, written, _): &mut (TcpStream, bool, bool)| {
        let mut answer = [0; 12];
        *written && stream.read_exact(&mut answer).is_ok() && &answer == b"HTTP/1.1 200"
    };
    let lost = sent.iter_mut().filter_map(|one| (!answered(one)).then_some(())).count();
    (sent.len(), lost)
}

#[test]
fn a_burst_of_connects_whose_requests_follow_later_is_answered() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &["sinks.discard.kind=discard"]);
    for delay in [100, 900] {
        let (sent, lost) = burst(server.address(), 3_000, Duration::from_millis(delay));
        println!("{delay} ms: {sent} sent in time, {lost} not answered");
        assert!(lost == 0 && sent > 0, "{lost} of {sent} requests {delay} ms after connecting were not answered");
    }
}

#[test]
fn of_silent_connections_the_oldest_are_closed_counted_and_logged() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &["sinks.discard.kind=discard", "server.max_unauthenticated=10"]);
    let mut streams: Vec<TcpStream> = (0..30).map(|_| connect(server.address())).collect();
    let closed = |reason: &str| {
        http::metric(server.address(), &format!("telemetryx_connections_closed_total{{reason=\"{reason}\"}}"))
    };
    assert!(wait_until(STEP_TIMEOUT, || closed("unauthenticated_cap") == Some(20.0)), "{}", server.log());
    for stream in &mut streams[..20] {
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the oldest are closed, without a reset");
    }
    // The others stay: each is still answered.
    for stream in &mut streams[20..] {
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
    }
    assert_eq!(closed("unauthenticated_cap"), Some(20.0));
    let log = server.log_with("too many silent connections");
    let line = log.lines().find(|line| line.contains("too many silent connections")).expect("a line in the log");
    assert!(line.contains("max_unauthenticated=10") && line.contains("peer=127.0.0.1:"), "{line}");
}

#[test]
fn an_idle_connection_announces_its_time_and_keeps_it() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &["sinks.discard.kind=discard", "server.http_idle_timeout=1s"]);
    let mut stream = connect(server.address());
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = [0; 1024];
    let bytes = stream.read(&mut answer).unwrap();
    let answered = Instant::now();
    let answer = String::from_utf8_lossy(&answer[..bytes]).into_owned();
    assert!(answer.contains("\r\nKeep-Alive: timeout=1\r\n"), "{answer}");
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "closed in the end");
    assert!(answered.elapsed() > Duration::from_secs(1), "after {:?}", answered.elapsed());
}

#[test]
fn a_tls_client_gets_an_alert_and_the_log_a_line() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &["sinks.discard.kind=discard"]);
    let mut stream = connect(server.address());
    // The beginning of a ClientHello; the rest is never looked at.
    stream.write_all(&[&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 505]].concat()).unwrap();
    let mut alert = Vec::new();
    stream.read_to_end(&mut alert).expect("closed without a reset");
    assert_eq!(alert, [21, 3, 3, 0, 2, 2, 40], "a fatal handshake_failure");
    let script = "import socket, ssl, sys\n\
        context = ssl.create_default_context(); context.check_hostname = False; context.verify_mode = ssl.CERT_NONE\n\
        try: context.wrap_socket(socket.create_connection((sys.argv[1], int(sys.argv[2]))))\n\
        except ssl.SSLError as error: print(error)\n";
    let (ip, port) = (server.address().ip().to_string(), server.address().port().to_string());
    let output = Command::new(python()).args(["-c", script, &ip, &port]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stdout).to_lowercase();
    assert!(error.contains("handshake") && error.contains("failure"), "{error}");
    let log = server.log_with("TLS handshake refused");
    let lines = log.lines().filter(|line| line.contains("TLS handshake refused")).collect::<Vec<_>>();
    assert!(lines.len() == 1 && lines[0].contains("peer=\"127.0.0.1\""), "{log}");
}

#[test]
fn refused_requests_are_logged_by_peer_status_and_reason() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &["sinks.discard.kind=discard"]);
    // Each peer address has lines of its own.
    let ask_from = |last: u8, request: &str| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, last], 0)).into()).unwrap();
        socket.connect(&server.address().into()).unwrap();
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(STEP_TIMEOUT)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).and_then(|status| status.parse::<u16>().ok()).unwrap()
    };
    let ask = |request: &str| ask_from(1, request);
    for _ in 0..100 {
        let status = ask("POST /v1/events?token=secret HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n\
                          Connection: close\r\nContent-Length: 2\r\n\r\n[]");
        assert_eq!(status, 400);
    }
    let text = "Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n[]";
    assert_eq!(ask(&format!("POST /v1/events HTTP/1.1\r\nHost: x\r\n{text}")), 415);
    assert_eq!(ask("GET /nowhere?secret HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), 404);
    assert_eq!(ask_from(2, "GET /\x1b[2J HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), 400);
    let seen = wait_until(STEP_TIMEOUT, || server.log().matches("request refused").count() >= 4);
    let log = server.log();
    assert!(seen, "{log}");
    let line_of = |peer: &str, status: u16| {
        let mark = format!(" peer=\"{peer}\" status={status} ");
        let lines: Vec<_> =
            log.lines().filter(|line| line.contains("request refused") && line.contains(&mark)).collect();
        assert_eq!(lines.len(), 1, "{status}: {log}");
        assert!(lines[0].contains(" INFO "), "{}", lines[0]);
        lines[0].to_owned()
    };
    let line = |status| line_of("127.0.0.1", status);
    let refused = line(400);
    assert!(refused.contains("path=\"/v1/events\"") && refused.contains("parameter"), "{refused}");
    let refused = line(415);
    assert!(refused.contains("method=\"POST\"") && refused.contains("Content-Type"), "{refused}");
    assert!(line(404).contains("path=\"/nowhere\""));
    println!("{}", line_of("127.0.0.2", 400));
    assert!(!log.contains("secret") && !log.contains('\u{1b}'), "{log}");
}
