//! Senders of syslog.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustls::version::TLS13;

use super::{BOTH, TIMEOUT, wait_for_rows};
use crate::support::http::{get, metric};
use crate::support::server::wait_until;
use crate::support::tls::TlsServer;

#[test]
fn syslog_comes_over_tls_and_without_it_only_as_set() {
    let server = TlsServer::start(&["syslog.enabled=true", "tls.plaintext=refuse"]);
    let message = b"<14>1 2026-01-02T03:04:05Z host app 7 - - over TLS\n";
    let mut plain = std::net::TcpStream::connect(server.address()).unwrap();
    plain.write_all(message).unwrap();
    assert!(server.server.log_with("syslog without TLS or a certificate, closed").contains("tls.plaintext"));
    let mut openssl = Command::new("openssl");
    openssl.args([
        "s_client",
        "-connect",
        &server.address().to_string(),
        "-servername",
        "localhost",
        "-quiet",
        "-CAfile",
    ]);
    let mut child = openssl
        .arg(server.file("ca.pem"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl is installed");
    child.stdin.as_mut().unwrap().write_all(message).unwrap();
    let stored = wait_until(TIMEOUT, || {
        get(server.address(), "/metrics").1.contains("telemetryx_events_delivered_total{sink=\"sqlite\"} 1\n")
    });
    // It would wait for the server's end.
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(stored, "{}", server.server.log());
}

/// Most senders of syslog never read. With something unread, their kernel would reset the connection at its close.
#[test]
fn a_sender_of_syslog_that_is_held_back_and_never_reads_loses_nothing() {
    const MESSAGES: usize = 3_000;
    let limits = ["limits.agent_events_per_second=1000", "limits.burst=1s"];
    let server = TlsServer::start(&[&["syslog.enabled=true"], &limits[..]].concat());
    let lines: String = (0..MESSAGES).map(|number| format!("<13>app: {number} {}\n", "x".repeat(400))).collect();
    let mut stream = server.connect(&server.client(None, &[&TLS13]));
    stream.write_all(lines.as_bytes()).unwrap();
    stream.half_close().unwrap();
    drop(stream);
    wait_for_rows(server.directory.path(), MESSAGES as i64, TIMEOUT);
    // A client that does read gets no ticket, and is not told that it may resume.
    let mut stream = server.connect(&server.client(None, &[&TLS13]));
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    assert!(stream.read_to_end().unwrap().ends_with(b"{\"status\":\"ok\"}"));
    assert_eq!(stream.tls.tls13_tickets_received(), 0);
}

#[test]
fn syslog_needs_a_certificate_where_it_is_required_and_has_the_limits_of_its_client() {
    let server = TlsServer::start(&[
        "syslog.enabled=true",
        "tls.client_auth=require",
        "tls.client_ca_file=DIR/ca.pem",
        "clients.edge.certificate_name=edge.example.org",
        "clients.edge.events_per_second=100",
        "clients.edge.burst=1s",
    ]);
    let message = |text: &str| format!("<14>1 2026-01-02T03:04:05Z host app 7 - - {text}\n").into_bytes();
    // Without TLS, and with TLS but without a certificate.
    let mut plain = TcpStream::connect(server.address()).unwrap();
    plain.write_all(&message("plain")).unwrap();
    assert_eq!(plain.read(&mut [0]).unwrap(), 0);
    let mut stream = server.connect(&server.client(None, BOTH));
    stream.write_all(&message("nobody")).unwrap();
    assert_eq!(stream.read_to_end().unwrap(), b"");
    let line = server.server.log_with("syslog without TLS or a certificate, closed");
    assert!(line.contains("tls.client_auth") && line.contains("peer=127.0.0.1:"), "{line}");
    let refused = || metric(server.address(), "telemetryx_connections_closed_total{reason=\"syslog_not_allowed\"}");
    assert!(wait_until(TIMEOUT, || refused() == Some(2.0)), "{:?}", refused());
    // Of an authority that is trusted, but not of a client.
    let other = server.issue("other", &["other.example.org"], 7);
    let mut stream = server.connect(&server.client(Some(&other), BOTH));
    stream.write_all(&message("other")).unwrap();
    assert_eq!(stream.read_to_end().unwrap(), b"");
    assert!(wait_until(TIMEOUT, || refused() == Some(3.0)), "{:?}", refused());
    // Of a client, whose limit holds it back: what was read at once is paid for afterwards, at 100 per second.
    let edge = server.issue("edge", &["edge.example.org"], 8);
    let mut stream = server.connect(&server.client(Some(&edge), BOTH));
    let begin = Instant::now();
    (0..100).for_each(|number| stream.write_all(&message(&number.to_string())).unwrap());
    wait_for_rows(server.directory.path(), 100, TIMEOUT);
    (100..299).for_each(|number| stream.write_all(&message(&number.to_string())).unwrap());
    wait_for_rows(server.directory.path(), 299, TIMEOUT);
    stream.write_all(&message("last")).unwrap();
    stream.half_close().unwrap();
    wait_for_rows(server.directory.path(), 300, TIMEOUT);
    assert!(begin.elapsed() >= Duration::from_secs(1), "{:?}", begin.elapsed());
    let page = get(server.address(), "/metrics").1;
    assert!(page.contains("telemetryx_client_events_total{client=\"edge\"} 300\n"), "{page}");
    assert!(page.contains("telemetryx_events_received_total{protocol=\"syslog\"} 300\n"), "{page}");
}

#[test]
fn the_certificate_of_a_client_stands_in_for_the_network_of_a_syslog_sender() {
    let server = TlsServer::start(&[
        "syslog.enabled=true",
        "syslog.allow=10.0.0.0/8",
        "tls.client_auth=request",
        "tls.client_ca_file=DIR/ca.pem",
        "clients.edge.certificate_name=edge.example.org",
    ]);
    let edge = server.issue("edge", &["edge.example.org"], 7);
    let mut stream = server.connect(&server.client(Some(&edge), BOTH));
    stream.write_all(b"<14>app: edge\n").unwrap();
    wait_for_rows(server.directory.path(), 1, TIMEOUT);
    // Of nobody, and of an authority that is trusted but not of a client: by the address, as without TLS.
    let other = server.issue("other", &["other.example.org"], 8);
    for certificate in [None, Some(&other)] {
        let mut stream = server.connect(&server.client(certificate, BOTH));
        stream.write_all(b"<14>app: nobody\n").unwrap();
        assert_eq!(stream.read_to_end().unwrap(), b"");
    }
    let refused = || metric(server.address(), "telemetryx_connections_closed_total{reason=\"syslog_not_allowed\"}");
    assert!(wait_until(TIMEOUT, || refused() == Some(2.0)), "{:?}", refused());
    let line = server.server.log_with("syslog from a network that is not allowed");
    assert!(line.contains("syslog.allow") && line.contains("certificate"), "{line}");
    stream.write_all(b"<14>app: edge again\n").unwrap();
    stream.half_close().unwrap();
    wait_for_rows(server.directory.path(), 2, TIMEOUT);
}
