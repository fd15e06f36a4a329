//! Who connects: programs and libraries, commands, agents, and what their certificates are for.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use telemetryx::client::{Client, Options};

use super::{BOTH, TIMEOUT, events, options, run, telemetryx, wait_for_rows};
use crate::support::http::{get, metric, post};
use crate::support::server::wait_until;
use crate::support::tls::TlsServer;

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
        let source = crate::support::tls::write(server.directory.path(), "Post.java", source);
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
    crate::support::tls::write(server.directory.path(), "post.go", source);
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
fn a_certificate_of_a_client_is_its_identity() {
    const CLIENTS: &[&str] = &[
        "tls.client_ca_file=DIR/ca.pem",
        "tls.client_auth=require",
        "tls.client_crl_file=DIR/crl.pem",
        "clients.api.certificate_name=api.example.org",
        "clients.edge.certificate_name=edge.example.org",
    ];
    let server = TlsServer::start_with(CLIENTS, |path, authority| {
        crate::support::tls::write(path, "crl.pem", &authority.revoked(&[66]));
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

/// HTTP gives the same reason for a refusal as frames do.
#[test]
fn a_refused_post_names_what_is_wrong_with_its_token_or_certificate() {
    let server = TlsServer::start_with(
        &[
            "tls.client_ca_file=DIR/ca.pem",
            "tls.client_auth=request",
            "clients.api.certificate_name=api.example.org",
            "clients.edge.token_file=DIR/token",
        ],
        |path, _| drop(crate::support::tls::write(path, "token", "of-edge\n")),
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
    let plain = crate::support::server::Server::start(plain.path(), &[]);
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
