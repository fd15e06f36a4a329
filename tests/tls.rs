//! TLS on the port of the server, with real clients.

#![cfg(feature = "sqlite")]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustls::version::{TLS12, TLS13};
use support::agent::{batch, data, hello, hello_bytes, named};
use support::http::{get, metric, post};
use support::proxy::{CutPlan, Proxy};
use support::seed;
use support::server::wait_until;
use support::tls::{TlsServer, TlsStream};
use telemetryx::client::{Client, Connector, ConnectorFiles, Options};
use telemetryx::event::proto::Event;

const BOTH: &[&rustls::SupportedProtocolVersion] = &[&TLS12, &TLS13];
const TIMEOUT: Duration = Duration::from_secs(20);

fn run(command: &mut Command) -> (String, Output) {
    let output = command.stdin(Stdio::null()).output().expect("the program is installed");
    (format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)), output)
}

fn telemetryx(arguments: &[&str]) -> (String, Output) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_telemetryx"));
    command.args(arguments).env_remove("TELEMETRYX_CONFIG").current_dir(std::env::temp_dir());
    run(&mut command)
}

fn options(server: &TlsServer, own: Option<(&Path, &Path)>) -> Options {
    let ca_file = server.file("ca.pem");
    let files = ConnectorFiles { ca_file: Some(&ca_file), certificate: own };
    let patience = Some(TIMEOUT);
    Options { tls: Some(Connector::new(files).unwrap()), patience, ..Options::new(server.address().to_string()) }
}

fn wait_for_rows(directory: &Path, rows: i64, timeout: Duration) {
    let stored = || {
        let database = rusqlite::Connection::open(directory.join("events.db")).unwrap();
        database.query_row("SELECT count(*) FROM events", [], |row| row.get::<_, i64>(0)).unwrap_or(0)
    };
    let there = wait_until(timeout, || stored() >= rows);
    assert_eq!(stored(), rows, "complete: {there}");
}

fn events(count: usize) -> Vec<Event> {
    (0..count).map(|number| named(&format!("event-{number}"))).collect()
}

#[test]
fn curl_is_answered_on_the_same_port_with_tls_and_without() {
    let server = TlsServer::start(&[]);
    let address = server.address();
    let (ca, body) = (server.file("ca.pem"), server.file("body"));
    let line = "{\"name\":\"a\",\"body\":\"0123456789\"}\n";
    std::fs::write(&body, line.repeat(20_000)).unwrap();
    let data = format!("@{}", body.display());
    for (scheme, version) in [("https", "1.2"), ("https", "1.3"), ("http", "1.3")] {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--tls-max", version, "--cacert"]).arg(&ca).arg(format!("{scheme}://{address}/v1/events"));
        let (text, output) = run(curl.args(["-H", "Content-Type: application/x-ndjson", "--data-binary", &data]));
        assert!(output.status.success() && text == "{\"accepted\":20000,\"rejected\":[]}", "{version}: {text}");
    }
    wait_for_rows(server.directory.path(), 60_000, TIMEOUT);
    let mut curl = Command::new("curl");
    // Two requests over one connection, and more than a socket takes at once.
    curl.args(["-sS", "--cacert"])
        .arg(&ca)
        .args([format!("https://{address}/metrics"), format!("https://{address}/health")]);
    let (text, output) = run(&mut curl);
    assert!(output.status.success() && text.ends_with("{\"status\":\"ok\"}"), "{text}");
    let (text, output) = run(Command::new("curl").args(["-sS", &format!("https://{address}/health")]));
    assert!(!output.status.success() && text.contains("certificate"), "{text}");
    let log = server.server.log_with("does not trust the certificate in tls.cert_file");
    assert!(log.contains("TLS connection failed"), "{log}");
}

/// Node's and Java's own TLS; each where it is installed.
#[test]
fn node_and_java_post_over_tls() {
    let server = TlsServer::start(&[]);
    let url = format!("https://localhost:{}/v1/events", server.address().port());
    let is_installed =
        |program: &str| Command::new(program).arg("--version").output().is_ok_and(|run| run.status.success());
    let mut posted = 0;
    if is_installed("node") {
        let script = "fetch(process.argv[1], {method: 'POST', headers: {'content-type': 'application/json'}, \
                      body: '{\"name\":\"node\"}'}).then(answer => answer.text()).then(console.log)";
        let mut node = Command::new("node");
        let (text, output) = run(node.args(["-e", script, &url]).env("NODE_EXTRA_CA_CERTS", server.file("ca.pem")));
        assert!(output.status.success() && text.contains("{\"accepted\":1"), "{text}");
        posted += 1;
    }
    if is_installed("javac") {
        let source = r#"
            import java.net.URI;
            import java.net.http.*;
            public class Post {
                public static void main(String[] arguments) throws Exception {
                    var body = HttpRequest.BodyPublishers.ofString("{\"name\":\"java\"}");
                    var request = HttpRequest.newBuilder(URI.create(arguments[0]))
                        .header("Content-Type", "application/json").POST(body).build();
                    var answer = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
                    System.out.println(answer.body());
                }
            }"#;
        let source = support::tls::write(server.directory.path(), "Post.java", source);
        let store = server.file("trust.p12");
        let mut keytool = Command::new("keytool");
        keytool.args(["-importcert", "-noprompt", "-alias", "ca", "-storepass", "changeit", "-file"]);
        let (text, output) = run(keytool.arg(server.file("ca.pem")).arg("-keystore").arg(&store));
        assert!(output.status.success(), "{text}");
        let mut java = Command::new("java");
        java.arg(format!("-Djavax.net.ssl.trustStore={}", store.display()));
        let (text, output) = run(java.arg("-Djavax.net.ssl.trustStorePassword=changeit").arg(source).arg(&url));
        assert!(output.status.success() && text.contains("{\"accepted\":1"), "{text}");
        posted += 1;
    }
    if posted > 0 {
        wait_for_rows(server.directory.path(), posted, TIMEOUT);
    }
}

/// Go's own TLS, where it is installed: both versions, with and without a certificate, resumed, and two reasons not to connect.
#[test]
fn go_posts_over_tls() {
    if !Command::new("go").arg("version").stdout(Stdio::null()).status().is_ok_and(|status| status.success()) {
        println!("not run: install Go");
        return;
    }
    let server = TlsServer::start(&[
        "tls.client_ca_file=DIR/ca.pem",
        "tls.client_auth=require",
        "clients.api.certificate_name=api.example.org",
    ]);
    server.issue("api", &["API.example.org"], 2);
    let source = r#"
        package main
        import ("crypto/tls"; "crypto/x509"; "fmt"; "io"; "net/http"; "os"; "strings")
        func main() {
            authority, _ := os.ReadFile("ca.pem")
            pool := x509.NewCertPool()
            pool.AppendCertsFromPEM(authority)
            own, _ := tls.LoadX509KeyPair("api.pem", "api.key")
            post := func(name string, config *tls.Config) {
                client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
                answer, failed := client.Post(os.Args[1], "application/json", strings.NewReader(`{"name":"go"}`))
                if failed != nil { fmt.Println(name, failed); return }
                body, _ := io.ReadAll(answer.Body)
                fmt.Println(name, answer.StatusCode, answer.TLS.DidResume, string(body))
            }
            for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
                of := tls.Config{RootCAs: pool, MinVersion: version, MaxVersion: version}
                with := of.Clone()
                with.Certificates, with.ClientSessionCache = []tls.Certificate{own}, tls.NewLRUClientSessionCache(1)
                post("first", with)
                post("second", with)
                post("without", of.Clone())
                wrong := of.Clone()
                wrong.ServerName = "other.example.org"
                post("wrong", wrong)
                post("untrusted", &tls.Config{MinVersion: version, MaxVersion: version})
            }
        }"#;
    support::tls::write(server.directory.path(), "post.go", source);
    let mut go = Command::new("go");
    go.args(["run", "post.go", &format!("https://localhost:{}/v1/events", server.address().port())]);
    go.current_dir(server.directory.path()).env("GO111MODULE", "off").env("GOCACHE", server.file("cache"));
    let (text, output) = run(&mut go);
    assert!(output.status.success(), "{text}");
    let expected = [
        "first 200 false {\"accepted\":1",
        "second 200 true {\"accepted\":1",
        "without 403 false {\"error\":\"this server requires a client certificate",
        "wrong Post \"https://localhost:",
        "untrusted Post \"https://localhost:",
    ];
    for (line, expected) in text.lines().zip(expected.iter().cycle()) {
        assert!(line.starts_with(expected), "{expected}: {text}");
        assert!(!expected.starts_with("wrong") || line.contains("not other.example.org"), "{line}");
        assert!(!expected.starts_with("untrusted") || line.contains("unknown authority"), "{line}");
    }
    assert_eq!(text.lines().count(), 10, "{text}");
    wait_for_rows(server.directory.path(), 4, TIMEOUT);
}

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
fn an_agent_sends_frames_over_tls_exactly_once() {
    let server = TlsServer::start(&[]);
    let mut client = Client::connect(options(&server, None)).unwrap();
    for _ in 0..20 {
        client.send(&events(1_000)).unwrap();
    }
    let progress = client.close(Some(Instant::now() + TIMEOUT)).unwrap();
    assert_eq!((progress.acknowledged_events, progress.connections), (20_000, 1));
    wait_for_rows(server.directory.path(), 20_000, TIMEOUT);
    let reason =
        |reason| metric(server.address(), &format!("telemetryx_connections_closed_total{{reason=\"{reason}\"}}"));
    assert!(wait_until(TIMEOUT, || reason("bye") == Some(1.0)));
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

#[test]
fn a_certificate_of_a_client_is_its_identity() {
    const CLIENTS: &[&str] = &[
        "tls.client_ca_file=DIR/ca.pem",
        "tls.client_auth=require",
        "tls.client_crl_file=DIR/crl.pem",
        "clients.api.certificate_name=api.example.org",
        "clients.edge.certificate_name=edge.example.org",
    ];
    let server = TlsServer::start_with(CLIENTS, |path, authority| {
        support::tls::write(path, "crl.pem", &authority.revoked(&[66]));
    });
    let address = server.address();
    for (name, dns, serial) in [
        ("api", "api.example.org", 2),
        ("edge", "edge.example.org", 3),
        ("revoked", "api.example.org", 66),
        ("other", "x.y", 4),
    ] {
        server.issue(name, &[dns], serial);
    }
    let own = |name: &str| (server.file(&format!("{name}.pem")), server.file(&format!("{name}.key")));
    let connect = |name: &str, agent_id| {
        let (cert, key) = own(name);
        let options = Options { agent_id, name: name.to_owned(), ..options(&server, Some((&cert, &key))) };
        Client::connect(Options { patience: Some(Duration::from_secs(3)), ..options })
    };
    // The agent of one client is not that of another (R5).
    let mut api = connect("api", Some([7; 16])).unwrap();
    api.send(&events(10)).unwrap();
    api.flush(Some(Instant::now() + TIMEOUT)).unwrap();
    let stolen = connect("edge", Some([7; 16])).map(drop).unwrap_err().to_string();
    assert!(stolen.contains("belongs to another client"), "{stolen}");
    connect("edge", None).unwrap().close(None).unwrap();
    let unknown = connect("other", None).map(drop).unwrap_err().to_string();
    assert!(unknown.contains("the certificate is not that of a client"), "{unknown}");
    let revoked = connect("revoked", None).map(drop).unwrap_err().to_string();
    assert!(revoked.contains("CertificateRevoked") && revoked.contains("does not accept the certificate"), "{revoked}");
    assert!(server.server.log_with("is in tls.client_crl_file").contains("TLS connection failed"));
    let received = "telemetryx_client_events_total{client=\"api\"}";
    assert!(wait_until(TIMEOUT, || metric(address, received) == Some(10.0)));

    // Pages need none; events do, with TLS and without.
    assert_eq!(get(address, "/health").0, 200);
    let (status, body) = post(address, "", r#"{"name":"a"}"#).unwrap();
    assert!(status == 403 && body.contains("tls.client_auth"), "{status} {body}");
    let plain = Client::connect(Options { patience: Some(TIMEOUT), ..Options::new(address.to_string()) });
    let plain = plain.map(drop).unwrap_err().to_string();
    assert!(plain.contains("requires a client certificate"), "{plain}");
    let without = Client::connect(options(&server, None)).map(drop).unwrap_err().to_string();
    assert!(without.contains("requires a client certificate"), "{without}");
    let curl = |extra: &[String]| {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-H", "Content-Type: application/json", "-d", r#"{"name":"a"}"#, "--cacert"]);
        run(curl.arg(server.file("ca.pem")).args(extra).arg(format!("https://{address}/v1/events"))).0
    };
    assert!(curl(&[]).contains("requires a client certificate"));
    let (cert, key) = own("edge");
    let answer =
        curl(&["--cert".to_owned(), cert.display().to_string(), "--key".to_owned(), key.display().to_string()]);
    assert_eq!(answer, "{\"accepted\":1,\"rejected\":[]}");
}

/// Whoever is refused over HTTP is told the same reason as an agent.
#[test]
fn a_refused_post_names_what_is_wrong_with_its_token_or_certificate() {
    let server = TlsServer::start_with(
        &[
            "tls.client_ca_file=DIR/ca.pem",
            "tls.client_auth=request",
            "clients.api.certificate_name=api.example.org",
            "clients.edge.token_file=DIR/token",
        ],
        |path, _| drop(support::tls::write(path, "token", "of-edge\n")),
    );
    let api = server.issue("api", &["api.example.org"], 2);
    let nobody = server.issue("nobody", &["10.0.0.1"], 3);
    let missing = "and none was sent: send `Authorization: Bearer TOKEN`";
    for (own, token, expected) in [
        (Some(&api), "", "\"accepted\":1"),
        (Some(&nobody), "of-edge", "\"accepted\":1"),
        (None, "", missing),
        (None, "of-nobody", "unknown token"),
        (Some(&nobody), "", "the certificate is not that of a client (certificate_name): send `Authorization: "),
        (Some(&api), "of-edge", "the token is that of another client than the certificate"),
    ] {
        let mut stream = server.connect(&server.client(own, BOTH));
        let token = if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
        let head = format!("POST /v1/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{token}");
        let body = "Content-Type: application/json\r\nContent-Length: 12\r\n\r\n{\"name\":\"a\"}";
        stream.write_all((head + body).as_bytes()).unwrap();
        let answer = String::from_utf8(stream.read_to_end().unwrap()).unwrap();
        assert!(answer.contains(expected), "{expected}: {answer}");
        assert_eq!(answer.starts_with("HTTP/1.1 401 "), !expected.contains("accepted"), "{answer}");
    }
}

#[test]
fn without_tls_events_are_accepted_as_set() {
    let server = TlsServer::start(&["tls.plaintext=refuse"]);
    let (status, body) = post(server.address(), "", r#"{"name":"a"}"#).unwrap();
    assert!(status == 403 && body.contains("with TLS only (tls.plaintext)"), "{status} {body}");
    let plain = Client::connect(Options { patience: Some(TIMEOUT), ..Options::new(server.address().to_string()) });
    assert!(plain.map(drop).unwrap_err().to_string().contains("with TLS only"));
    assert_eq!((get(server.address(), "/ready").0, get(server.address(), "/metrics").0), (200, 200));
    Client::connect(options(&server, None)).unwrap().close(None).unwrap();
}

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

#[test]
fn a_pair_that_is_replaced_under_load_drops_no_connection() {
    // 100 for a measurement: each takes up to a second to be noticed.
    let replacements: u64 =
        std::env::var("TELEMETRYX_TEST_REPLACEMENTS").ok().and_then(|number| number.parse().ok()).unwrap_or(4);
    let server = TlsServer::start(&[]);
    let mut steady = Client::connect(options(&server, None)).unwrap();
    let config = server.client(None, BOTH);
    let mut sent = 0;
    for number in 0..replacements {
        let next = server.issue("next", &["localhost", "127.0.0.1"], 100 + number);
        // One after the other, as programs do that renew certificates.
        std::fs::rename(server.file("next.pem"), server.file("server.pem")).unwrap();
        for _ in 0..20 {
            let mut stream = server.connect(&config);
            stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
            assert!(stream.read_to_end().unwrap().ends_with(b"{\"status\":\"ok\"}"), "no handshake fails meanwhile");
        }
        std::fs::rename(server.file("next.key"), server.file("server.key")).unwrap();
        let shows_next = || {
            steady.send(&events(100)).unwrap();
            sent += 100;
            let mut stream = TlsStream::connect(server.address(), &server.client(None, BOTH)).unwrap();
            stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
            stream.read_to_end().unwrap();
            stream.tls.peer_certificates().unwrap()[0].as_ref() == &next.der[..]
        };
        assert!(wait_until(TIMEOUT, shows_next), "the pair takes effect");
    }
    let progress = steady.close(Some(Instant::now() + TIMEOUT)).unwrap();
    assert_eq!((progress.acknowledged_events, progress.connections), (sent, 1));
    wait_for_rows(server.directory.path(), sent.cast_signed(), TIMEOUT);
    assert!(server.server.log_with("TLS certificate replaced").contains("valid_until=\"2120-01-01T00:00:00Z\""));
    // What is wrong is said once, and changes nothing.
    std::fs::write(server.file("server.key"), "nothing").unwrap();
    server.server.log_with("contains no private key in PEM");
    let mut stream = server.connect(&config);
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    assert!(stream.read_to_end().is_ok());
}

#[test]
fn the_commands_speak_tls() {
    let server = TlsServer::start(&["tls.plaintext=refuse"]);
    let address = server.address().to_string();
    let file = |name: &str| server.file(name).display().to_string();
    let (ca, lines) = (file("ca.pem"), file("lines"));
    std::fs::write(&lines, "one\ntwo\nthree\n").unwrap();
    let (text, output) = telemetryx(&["send", "--to", &address, "--ca-file", &ca, &lines]);
    assert!(output.status.success(), "{text}");
    wait_for_rows(server.directory.path(), 3, TIMEOUT);
    let (text, output) = telemetryx(&["send", "--to", &address, "--tls", "--timeout", "1", &lines]);
    assert!(!output.status.success() && text.contains("UnknownIssuer") && text.contains("CA file"), "{text}");
    let (text, output) = telemetryx(&["send", "--to", &address, &lines]);
    assert!(!output.status.success() && text.contains("with TLS only"), "{text}");
    assert!(!text.contains("--token-file"), "a token would not help: {text}");
    for http in [&[][..], &["--http"]] {
        let bench = [
            "bench",
            "--to",
            &address,
            "--ca-file",
            &ca,
            "--seconds",
            "1",
            "--connections",
            "2",
            "--frame-events",
            "10",
        ];
        let (text, output) = telemetryx(&[&bench[..], http].concat());
        assert!(output.status.success() && text.contains("events"), "{text}");
    }
    let url = format!("https://{address}/health");
    let (text, output) = telemetryx(&["health", &url, "--ca-file", &ca]);
    assert!(output.status.success() && text == "{\"status\":\"ok\"}\n", "{text}");
    let (text, output) = telemetryx(&["health", &url]);
    assert!(!output.status.success() && text.contains("--ca-file"), "{text}");
    // Of the settings: exactly the certificate that is set.
    let own = |cert: &str| {
        let settings = [
            format!("server.address={address}"),
            format!("tls.cert_file={cert}"),
            format!("tls.key_file={}", file("server.key")),
        ];
        let [address, cert, key] = &settings;
        telemetryx(&["health", "--set", address, "--set", cert, "--set", key])
    };
    let (text, output) = own(&file("server.pem"));
    assert!(output.status.success() && text == "{\"status\":\"ok\"}\n", "{text}");
    server.issue("other", &["localhost", "127.0.0.1"], 9);
    let (text, output) = own(&file("other.pem"));
    assert!(!output.status.success() && text.contains("the certificate is not that of tls.cert_file"), "{text}");
}

/// `top` asks as `health` does: with an authority, or for exactly the certificate of the settings; and sends its token.
#[test]
fn top_asks_over_tls() {
    let token = |directory: &Path, _: &_| std::fs::write(directory.join("pages"), "of-pages\n").unwrap();
    let server = TlsServer::start_with(&["server.pages_token_file=DIR/pages", "tls.plaintext=refuse"], token);
    let [ca, cert, key, token] = ["ca.pem", "server.pem", "server.key", "pages"]
        .map(|name| server.file(name).into_os_string().into_string().unwrap());
    let url = format!("https://{}", server.address());
    let [address, cert, key] = [
        format!("server.address={}", server.address()),
        format!("tls.cert_file={cert}"),
        format!("tls.key_file={key}"),
    ];
    let own = ["--set", &address, "--set", &cert, "--set", &key];
    for arguments in [&[url.as_str(), "--ca-file", &ca][..], &own] {
        let (text, output) = telemetryx(&[&["top", "--json", "--token-file", &token], arguments].concat());
        assert!(output.status.success() && text.contains("\"is_ready\":true"), "{text}");
        let (text, output) = telemetryx(&[&["top", "--json"], arguments].concat());
        assert!(!output.status.success() && text.contains("answers 401") && text.contains("--token-file"), "{text}");
    }
}

#[test]
fn a_client_without_tls_and_one_with_tls_where_there_is_none_are_told() {
    let server = TlsServer::start(&[]);
    let plain = tempfile::tempdir().unwrap();
    let plain = support::server::Server::start(plain.path(), &[]);
    let to_plain = Options {
        address: plain.address().to_string(),
        patience: Some(Duration::from_secs(1)),
        ..options(&server, None)
    };
    let error = Client::connect(to_plain).map(drop).unwrap_err().to_string();
    assert!(error.contains("perhaps the server does not speak TLS on this port"), "{error}");
    // A name that the certificate does not have.
    let elsewhere = Options {
        address: format!("localhost.localhost:{}", server.address().port()),
        patience: Some(Duration::from_secs(1)),
        ..options(&server, None)
    };
    let error = Client::connect(elsewhere).map(drop).unwrap_err().to_string();
    assert!(error.contains("not valid for name") && error.contains("its names"), "{error}");
}

#[test]
fn the_python_agent_speaks_tls() {
    let server = TlsServer::start(&["tls.client_ca_file=DIR/ca.pem", "tls.client_auth=require"]);
    server.issue("agent", &["agent"], 5);
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/python/telemetryx_agent.py");
    let mut agent = Command::new("python3");
    agent.arg(tool).arg(server.address().to_string()).args(["--count", "20000", "--frame-events", "500", "--ca-file"]);
    agent
        .arg(server.file("ca.pem"))
        .arg("--cert")
        .arg(server.file("agent.pem"))
        .arg("--key")
        .arg(server.file("agent.key"));
    let (text, output) = run(&mut agent);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("\"acknowledged\": 20000, \"reconnects\": 0"), "{text}");
    wait_for_rows(server.directory.path(), 20_000, TIMEOUT);
}

#[test]
fn check_names_the_expiry_and_what_is_wrong_with_the_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let authority = support::certificates::Authority::new("of a test");
    let soon = {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        // The first of a month that begins within the next 30 days may not exist: any day of the next ten does.
        let days = (now / 86_400 + 10) as i64;
        civil(days)
    };
    for (name, day) in [("far", (2120, 1, 1)), ("soon", soon), ("over", (2020, 1, 1))] {
        let issued = authority.issue(&["localhost"], 1, day);
        support::tls::write(path, &format!("{name}.pem"), &issued.pem);
        support::tls::write(path, &format!("{name}.key"), &issued.key);
    }
    let check = |cert: &str, key: &str| {
        let [cert, key] = [
            format!("tls.cert_file={}/{cert}.pem", path.display()),
            format!("tls.key_file={}/{key}.key", path.display()),
        ];
        telemetryx(&["check", "--set", &cert, "--set", &key])
    };
    let (text, output) = check("far", "far");
    assert!(output.status.success() && text.contains("far.pem: valid until 2120-01-01T00:00:00Z\n"), "{text}");
    let (text, output) = check("soon", "soon");
    assert!(
        output.status.success() && text.contains("warning: valid until ") && text.contains("9 days: renew it"),
        "{text}"
    );
    let (text, output) = check("over", "over");
    assert!(output.status.code() == Some(1) && text.contains("expired at 2020-01-01T00:00:00Z"), "{text}");
    let (text, output) = check("far", "soon");
    assert!(output.status.code() == Some(78) && text.contains("is not the key of the first certificate"), "{text}");
    let (text, output) = telemetryx(&["check", "--set", "tls.cert_file=x.pem"]);
    assert!(output.status.code() == Some(78) && text.contains("needs tls.key_file"), "{text}");
}

/// Year, month and day of a day after 1970.
fn civil(days: i64) -> (i32, u8, u8) {
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let (day, month) = (of_year - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    ((year + era * 400 + i64::from(month <= 2)) as i32, month as u8, day as u8)
}

#[test]
fn the_expiry_is_a_metric_and_an_expired_certificate_is_warned_about() {
    let server = TlsServer::start(&[]);
    let expiry = "telemetryx_tls_certificate_expiry_seconds";
    assert_eq!(metric(server.address(), expiry), Some(4_733_510_400.0));
    let over = server.authority.issue(&["localhost"], 2, (2020, 1, 1));
    support::tls::write(server.directory.path(), "server.pem", &over.pem);
    support::tls::write(server.directory.path(), "server.key", &over.key);
    assert!(wait_until(TIMEOUT, || metric(server.address(), expiry) == Some(1_577_836_800.0)));
    let log = server.server.log_with("has expired");
    assert!(log.contains("expired_at=\"2020-01-01T00:00:00Z\""), "{log}");
    let plain = tempfile::tempdir().unwrap();
    let plain = support::server::Server::start(plain.path(), &[]);
    assert_eq!(metric(plain.address(), expiry), None, "there is no certificate");
}
