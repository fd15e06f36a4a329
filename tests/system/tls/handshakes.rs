//! Handshakes and connections: what a peer may do to them, and how they end.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use telemetryx::client::{Client, Options};

use super::{BOTH, TIMEOUT, events, options, run, wait_for_rows};
use crate::support::agent::{batch, data, hello, hello_bytes};
use crate::support::http::{get, metric};
use crate::support::proxy::{CutPlan, Proxy};
use crate::support::seed;
use crate::support::server::wait_until;
use crate::support::tls::TlsServer;

#[test]
fn openssl_agrees_on_each_version_and_sees_an_orderly_end() {
    let server = TlsServer::start(&[]);
    let address = server.address().to_string();
    for version in ["-tls1_2", "-tls1_3"] {
        let mut openssl = Command::new("openssl");
        openssl.args(["s_client", "-connect", &address, "-servername", "localhost", version, "-verify_return_error"]);
        openssl.args(["-quiet", "-ign_eof", "-CAfile"]).arg(server.file("ca.pem"));
        let mut child = openssl
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("openssl is installed");
        let request = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        child.stdin.as_mut().unwrap().write_all(request).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && text.contains("{\"status\":\"ok\"}"), "{version}: {text}");
        assert!(!text.contains("unexpected eof"), "{version}: {text}");
    }
    let mut openssl = Command::new("openssl");
    let (text, output) =
        run(openssl.args(["s_client", "-connect", &address, "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"]));
    assert!(!output.status.success() && text.contains("alert"), "{text}");
    assert!(server.server.log_with("TLS 1.2 or 1.3").contains("TLS connection failed"));
}

#[test]
fn an_agent_that_half_closes_reads_its_acks_and_an_orderly_end() {
    let server = TlsServer::start(&[]);
    for (number, version) in BOTH.iter().enumerate() {
        let mut agent = server.connect(&server.client(None, &[version]));
        agent.write_all(&hello_bytes(hello([number as u8 + 1; 16], 0))).unwrap();
        for seq in 1..=50 {
            agent.write_all(&data(seq, &batch(events(100)))).unwrap();
        }
        agent.half_close().unwrap();
        let received = agent.read_to_end().expect("close_notify comes before the end");
        // The last frame is the ACK of the last one: its seq is in the header.
        let ack = &received[received.len() - 32..];
        assert_eq!((ack[5], u64::from_le_bytes(ack[16..24].try_into().unwrap())), (4, 50), "{version:?}");
    }
    wait_for_rows(server.directory.path(), 10_000, TIMEOUT);
}

#[test]
fn a_server_that_shuts_down_notifies_and_ends_in_order() {
    for version in BOTH {
        let mut server = TlsServer::start(&[]);
        let mut agent = server.connect(&server.client(None, &[version]));
        agent.write_all(&hello_bytes(hello([9; 16], 0))).unwrap();
        agent.write_all(&data(1, &batch(events(10)))).unwrap();
        // WELCOME and the ACK.
        let mut answers = [0; 32 + 56 + 32];
        agent.read_exact(&mut answers).unwrap();
        server.server.terminate();
        let notice = agent.read_to_end().expect("close_notify comes before the end");
        assert_eq!(notice[5], 8, "GOAWAY: {notice:?}");
        assert!(notice.ends_with(b"this server is shutting down"), "{version:?}");
        drop(agent);
        assert!(server.server.wait(TIMEOUT).success());
    }
}

#[test]
fn connections_that_are_cut_at_any_byte_lose_and_double_nothing() {
    let server = TlsServer::start(&[]);
    // Some within the handshake.
    let plan = CutPlan {
        seed: seed(),
        bytes: 200..200_000,
        answer_bytes: 300..6_000,
        reset_percent: 50,
        ..CutPlan::default()
    };
    let proxy = Proxy::start(server.address(), plan).unwrap();
    let mut client =
        Client::connect(Options { address: proxy.address().to_string(), ..options(&server, None) }).unwrap();
    client.set_patience(Some(Duration::from_secs(60)));
    for number in 1..=100 {
        client.send(&events(1_000)).unwrap();
        if number % 4 == 0 {
            // What is acknowledged ends the agent's growing pauses.
            client.flush(Some(Instant::now() + Duration::from_secs(60))).unwrap();
        }
    }
    let progress = client.close(Some(Instant::now() + Duration::from_secs(120))).unwrap();
    assert_eq!(progress.acknowledged_events, 100_000);
    assert!(progress.connections > 5, "{} connections", progress.connections);
    wait_for_rows(server.directory.path(), 100_000, TIMEOUT);
}

#[test]
fn a_refusal_is_read_by_a_client_that_is_still_sending() {
    let server = TlsServer::start(&[]);
    for version in BOTH {
        let mut stream = server.connect(&server.client(None, &[version]));
        let head =
            "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 90000000\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        for _ in 0..200 {
            // Without looking at what has come.
            stream.tls.writer().write_all(&[b' '; 40_000]).unwrap();
            while stream.tls.wants_write() {
                stream.tls.write_tls(&mut stream.tcp).expect("the connection is not reset");
            }
        }
        stream.half_close().unwrap();
        let answer = String::from_utf8(stream.read_to_end().expect("the answer ends in order")).unwrap();
        assert!(answer.starts_with("HTTP/1.1 413 "), "{version:?}: {answer}");
    }
}

#[test]
fn handshakes_that_stand_still_are_gone_after_five_seconds() {
    let server = TlsServer::start(&[]);
    let mut complete = server.connect(&server.client(None, BOTH));
    while complete.tls.is_handshaking() {
        complete.tls.complete_io(&mut complete.tcp).unwrap();
    }
    let begin = Instant::now();
    let beginnings: [&[u8]; 3] =
        [b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", &[0x16, 3, 1, 0, 255, 1, 0, 0, 251, 7]];
    let mut streams: Vec<_> = beginnings
        .iter()
        .map(|bytes| {
            let mut stream = TcpStream::connect(server.address()).unwrap();
            stream.set_read_timeout(Some(TIMEOUT)).unwrap();
            stream.write_all(bytes).unwrap();
            stream
        })
        .collect();
    for stream in &mut streams {
        assert_eq!(stream.read(&mut [0; 10]).unwrap_or(0), 0);
        assert!(begin.elapsed() > Duration::from_secs(4), "each has its time");
    }
    // A ticket, and the end.
    complete.tcp.read_to_end(&mut Vec::new()).expect("the connection ends");
    let closed =
        |reason| metric(server.address(), &format!("telemetryx_connections_closed_total{{reason=\"{reason}\"}}"));
    assert!(wait_until(TIMEOUT, || closed("tls_timeout") == Some(3.0) && closed("silent") == Some(1.0)));
    assert_eq!(get(server.address(), "/health").0, 200);
}

#[test]
fn of_too_many_handshakes_that_stand_still_the_oldest_are_closed() {
    let server = TlsServer::start(&["server.max_unauthenticated=8"]);
    let begin = |_| {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.write_all(b"\x16\x03\x01\x02\x00\x01").unwrap();
        stream
    };
    let _streams: Vec<_> = (0..40).map(begin).collect();
    let closed = "telemetryx_connections_closed_total{reason=\"unauthenticated_cap\"}";
    assert!(wait_until(TIMEOUT, || metric(server.address(), closed).is_some_and(|closed| closed > 0.0)));
}

#[test]
fn records_whose_rest_does_not_come_have_a_budget() {
    // Of 4 MiB for all.
    const CONNECTIONS: usize = 300;
    let server = TlsServer::start(&["server.event_loops=1"]);
    let config = server.client(None, BOTH);
    let over = || metric(server.address(), "telemetryx_connections_closed_total{reason=\"heads_over_budget\"}");
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = server.connect(&config);
        // Known, so that nothing but the budget ends it.
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"{\"status\":\"ok\"}") {
            let mut room = [0; 1024];
            let bytes = stream.read(&mut room).unwrap();
            answer.extend_from_slice(&room[..bytes]);
        }
        stream.tls.writer().write_all(&[b'x'; 16 * 1024]).unwrap();
        let mut record = Vec::new();
        stream.tls.write_tls(&mut record).unwrap();
        stream.tcp.write_all(&record[..record.len() - 1]).unwrap();
        streams.push(stream);
    }
    assert!(wait_until(TIMEOUT, || over().is_some_and(|over| over > 0.0)), "{:?}", over());
    // What has room again is used: the sum is right.
    drop(streams);
    assert!(wait_until(TIMEOUT, || metric(server.address(), "telemetryx_connections") == Some(1.0)));
    let before = over();
    let mut stream = server.connect(&config);
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    assert!(stream.read_to_end().unwrap().ends_with(b"{\"status\":\"ok\"}"));
    assert_eq!(over(), before);
}

#[test]
fn bad_handshakes_are_counted_answered_with_an_alert_and_logged_a_few_times() {
    let server = TlsServer::start(&[]);
    for _ in 0..200 {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.write_all(b"\x16\x03\x01\x00\x05hello and more that is no record").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("the alert is not lost");
        assert_eq!((answer[0], answer[answer.len() - 2]), (21, 2), "a fatal alert: {answer:?}");
    }
    // A HelloRequest: what the TLS library logs about it by itself would have no limit.
    for _ in 0..50 {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.write_all(b"\x16\x03\x03\x00\x04\x00\x00\x00\x00").unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
    }
    let failed = "telemetryx_connections_closed_total{reason=\"tls_failed\"}";
    assert!(wait_until(TIMEOUT, || metric(server.address(), failed).is_some_and(|failed| failed == 250.0)));
    let log = server.server.log_with("TLS connection failed");
    assert!(log.matches("TLS connection failed").count() < 10, "{log}");
    assert!(!log.contains("rustls"), "{log}");
}

#[test]
fn a_thousand_answers_that_are_not_read_cost_bounded_memory_and_no_other_client() {
    let server = TlsServer::start(&[]);
    let config = server.client(None, BOTH);
    let mut stream = server.connect(&config);
    stream.tcp.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    // Nothing is read: at some time the server stops reading, too.
    let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    let is_blocked = (0..2_000).any(|_| stream.write_all(&request.repeat(1_000)).is_err());
    assert!(is_blocked, "the server reads on although its answers are not read");
    let mut other = server.connect(&config);
    other.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    assert!(String::from_utf8(other.read_to_end().unwrap()).unwrap().ends_with("{\"status\":\"ok\"}"));
}
