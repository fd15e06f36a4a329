//! The commands as their users call them: the real binary, its exit codes, what it says and where.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use crate::support::server::Server;
use crate::support::stores::free_address;

/// `telemetryx ARGUMENTS` in `folder`, with nobody's settings in its environment.
fn telemetryx(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_telemetryx"));
    command.args(arguments).current_dir(folder).env_clear().stdin(Stdio::null());
    command
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    telemetryx(folder, arguments).output().unwrap()
}

#[track_caller]
fn expect(output: &Output, code: i32, stdout: &str, stderr: &str) {
    assert_eq!(text(&output.stderr), stderr);
    assert_eq!(text(&output.stdout), stdout);
    assert_eq!(output.status.code(), Some(code));
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn check_connect_says_what_would_not_do_and_makes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let good = run(folder.path(), &["check", "--connect"]);
    let shown = String::from_utf8(good.stdout).unwrap();
    assert!(
        good.status.success()
            && shown.contains("telemetryx-data: ok\n")
            && shown.contains("wal: ok, none yet\nsink sqlite: ok, "),
        "{shown}"
    );
    assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none(), "nothing is made");

    std::fs::write(folder.path().join("file"), "no folder, and no database, but long enough for a header of one")
        .unwrap();
    let sets =
        ["sinks.a.kind=sqlite", "sinks.a.path=file", "sinks.b.kind=file", "sinks.b.path=file/x", "sinks.c.kind=stdout"];
    let arguments: Vec<_> = sets.iter().flat_map(|set| ["--set", set]).collect();
    let bad = run(folder.path(), &[&["check", "--connect"][..], &arguments].concat());
    let shown = String::from_utf8(bad.stdout).unwrap();
    assert_eq!(bad.status.code(), Some(1), "{shown}");
    assert!(shown.contains("sink a: ") && shown.contains("file is not a database"), "{shown}");
    assert!(shown.contains("sink b: ") && shown.contains("sink c: ok, standard output\n"), "{shown}");
    assert!(String::from_utf8(bad.stderr).unwrap().contains("2 of these failed"), "{shown}");
}

#[test]
fn check_prints_one_document_where_json_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let document = |arguments: &[&str], code: i32| -> serde_json::Value {
        let output = run(folder.path(), &[&["check", "--json"], arguments].concat());
        assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
        assert_eq!(text(&output.stdout).lines().count(), 1);
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let settings = document(&[], 0);
    assert_eq!((&settings["ok"], &settings["address"]), (&true.into(), &"127.0.0.1:4640".into()));
    assert_eq!(settings["sinks"], serde_json::json!([{"name": "sqlite", "kind": "sqlite"}]));
    let asked = document(&["--connect"], 0);
    assert_eq!(asked["findings"].as_array().map(Vec::len), Some(3), "{asked}");
    std::fs::write(folder.path().join("file"), "x").unwrap();
    let failed = document(&["--connect", "--set", "sinks.b.kind=file", "--set", "sinks.b.path=file/x"], 1);
    assert_eq!((&failed["ok"], &failed["findings"][2]["ok"]), (&false.into(), &false.into()));
    assert_eq!((&failed["findings"][2]["subject"], &failed["findings"][2]["name"]), (&"sink".into(), &"b".into()));
    let wrong = document(&["--set", "a=1"], 78);
    assert_eq!(
        wrong,
        serde_json::json!({"ok": false, "problems": ["--set: unknown key `a`: `telemetryx config --defaults` prints all keys"]})
    );
}

#[test]
fn check_says_what_it_found_sound() {
    let folder = tempfile::tempdir().unwrap();
    let found = "settings OK: no settings file · 127.0.0.1:4640 · sinks sqlite (sqlite)\n";
    expect(&run(folder.path(), &["check"]), 0, found, "");

    std::fs::write(folder.path().join("telemetryx.toml"), "[[sinks]]\nname = \"a\"\nkind = \"file\"").unwrap();
    let found = "settings OK: telemetryx.toml · 127.0.0.1:1 · sinks a (file), out (stdout)\n";
    let output = telemetryx(folder.path(), &["check", "--set", "server.address=127.0.0.1:1"])
        .env("TELEMETRYX__SINKS__OUT__KIND", "stdout")
        .output();
    expect(&output.unwrap(), 0, found, "");
}

#[test]
fn wrong_settings_exit_78_for_every_command_that_reads_them() {
    let folder = tempfile::tempdir().unwrap();
    let wrong = ["--set", "a=1"];
    let said = "telemetryx: --set: unknown key `a`: `telemetryx config --defaults` prints all keys\n";
    for command in [&["check"][..], &["config"], &["health"], &["top"], &["run"], &[]] {
        expect(&run(folder.path(), &[command, &wrong[..]].concat()), 78, "", said);
    }
    let said = "telemetryx: none.toml: cannot be read: No such file or directory (os error 2)\n";
    expect(&run(folder.path(), &["check", "--config", "none.toml"]), 78, "", said);
    let output = telemetryx(folder.path(), &["check"]).env("TELEMETRYX_CONFIG", "none.toml").output().unwrap();
    expect(&output, 78, "", &said.replace("none", "TELEMETRYX_CONFIG: none"));

    let output = telemetryx(folder.path(), &["run"]).env("TELEMETRYX_LOG", "a=b=c").output().unwrap();
    let said = "telemetryx: TELEMETRYX_LOG: unknown target \"a\" (expected a level (error, warn, info, debug, trace, off) or \
                targets with levels, such as \"warn,telemetryx::net=debug\")\n";
    expect(&output, 78, "", said);
}

#[test]
fn files_are_looked_for_in_their_order() {
    let folder = tempfile::tempdir().unwrap();
    for (name, agents) in [("telemetryx.toml", 1), ("variable.toml", 2), ("argument.toml", 3)] {
        std::fs::write(folder.path().join(name), format!("server.max_agents = {agents}")).unwrap();
    }
    let shown = |command: &mut Command| {
        let output = command.output().unwrap();
        text(&output.stdout).lines().find(|line| line.starts_with("max_agents")).unwrap().to_owned()
    };
    let mut command = telemetryx(folder.path(), &["config"]);
    assert_eq!(shown(&mut command), "max_agents = 1 # telemetryx.toml:1");
    command.env("TELEMETRYX_CONFIG", "variable.toml");
    assert_eq!(shown(&mut command), "max_agents = 2 # variable.toml:1");
    assert_eq!(shown(command.args(["--config", "argument.toml"])), "max_agents = 3 # argument.toml:1");
}

#[test]
fn wrong_arguments_exit_2() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [&["--set", "x"][..], &["frobnicate"], &["run", "--colour"], &["send", "--ack", "never"]] {
        let output = run(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).starts_with("error: "), "{}", text(&output.stderr));
        assert_eq!(text(&output.stdout), "");
    }
}

#[test]
fn help_and_version_are_printed_where_pipes_read_them() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &["--help"]);
    assert_eq!(output.status.code(), Some(0));
    for word in ["run ", "check ", "config ", "health ", "send ", "curl localhost:4640/v1/events", "78", "130", "143"] {
        assert!(text(&output.stdout).contains(word), "{word} is not in the help");
    }
    assert!(!text(&output.stdout).contains("at once"), "{}", text(&output.stdout));
    let width = text(&output.stdout).lines().map(|line| line.chars().count()).max();
    assert!(width <= Some(80), "the help is {width:?} wide");
    let help = run(folder.path(), &["help", "send"]);
    expect(&help, 0, text(&run(folder.path(), &["send", "--help"]).stdout), "");
    let version = format!("telemetryx {}\n", env!("CARGO_PKG_VERSION"));
    expect(&run(folder.path(), &["--version"]), 0, &version, "");
}

#[test]
fn the_documented_file_checks_as_sound() {
    let folder = tempfile::tempdir().unwrap();
    let defaults = run(folder.path(), &["config", "--defaults", "--set", "not=asked"]);
    expect(&defaults, 0, text(&defaults.stdout), "");
    std::fs::write(folder.path().join("telemetryx.toml"), &defaults.stdout).unwrap();
    let found = "settings OK: telemetryx.toml · 127.0.0.1:4640 · sinks sqlite (sqlite)\n";
    expect(&run(folder.path(), &["check"]), 0, found, "");
}

#[test]
fn a_reader_that_left_is_no_failure() {
    let folder = tempfile::tempdir().unwrap();
    let nobody_reads = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        writer
    };
    let output = telemetryx(folder.path(), &["config", "--defaults"]).stdout(nobody_reads()).output().unwrap();
    expect(&output, 0, "", "");
    let output = telemetryx(folder.path(), &["--help"]).stdout(nobody_reads()).output().unwrap();
    expect(&output, 0, "", "");
    let output = telemetryx(folder.path(), &["check", "--set", "a=1"]).stderr(nobody_reads()).output().unwrap();
    expect(&output, 78, "", "");
}

/// A server that gives one answer to one connection, and returns what it was asked.
fn answer_once(answer: &'static str) -> (SocketAddr, thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let (mut peer, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            peer.read_exact(&mut byte).unwrap();
            request.extend(byte);
        }
        peer.write_all(answer.as_bytes()).unwrap();
        String::from_utf8(request).unwrap()
    });
    (address, server)
}

#[test]
fn health_is_the_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let healthy = "HTTP/1.1 200 OK\r\nContent-Length: 15\r\nConnection: close\r\n\r\n{\"status\":\"ok\"}";
    let (address, server) = answer_once(healthy);
    let output = run(folder.path(), &["health", &address.to_string()]);
    expect(&output, 0, "{\"status\":\"ok\"}\n", "");
    assert!(server.join().unwrap().starts_with("GET /health HTTP/1.1\r\n"));

    // The address of the settings; 0.0.0.0 is reached on loopback.
    let (address, server) = answer_once(healthy);
    let set = format!("server.address=0.0.0.0:{}", address.port());
    // A proxy is not asked.
    let output = telemetryx(folder.path(), &["health", "--set", &set]).env("http_proxy", "http://127.0.0.1:1").output();
    expect(&output.unwrap(), 0, "{\"status\":\"ok\"}\n", "");
    server.join().unwrap();

    let (address, server) = answer_once(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 21\r\nConnection: close\r\n\r\n{\"status\":\"stopping\"}",
    );
    let output = run(folder.path(), &["health", &format!("http://{address}/")]);
    server.join().unwrap();
    let said = format!("telemetryx: http://{address}/health: answers 503 {{\"status\":\"stopping\"}}\n");
    expect(&output, 1, "", &said);

    // Bound but never accepting would wait; a port that was closed refuses.
    let closed = free_address();
    let output = run(folder.path(), &["health", &closed.to_string()]);
    assert_eq!(output.status.code(), Some(1));
    let refused = text(&output.stderr);
    assert!(refused.starts_with(&format!("telemetryx: http://{closed}/health: ")), "{refused}");
    assert!(refused.ends_with("; nothing listens there: start the server, or check host and port\n"), "{refused}");

    let output = run(folder.path(), &["health", "--set", "server.address=127.0.0.1:0"]);
    let said = "telemetryx: server.address has port 0, which is a different one at each start: name the port in use, \
                as in `telemetryx health localhost:4640`\n";
    expect(&output, 1, "", said);
}

#[test]
fn health_prints_a_long_page_whole_and_a_long_error_cut() {
    let folder = tempfile::tempdir().unwrap();
    // Far more than is kept of what a store answers.
    let page: String = (0..10_000).map(|line| format!("a_metric_of_the_server{{number=\"{line}\"}} 1\n")).collect();
    let answer = |status: &str| {
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", page.len());
        answer_once((head + &page).leak())
    };
    let (address, server) = answer("200 OK");
    let output = run(folder.path(), &["health", &format!("http://{address}/metrics")]);
    server.join().unwrap();
    expect(&output, 0, &page, "");

    // What stands at its end is looked at as well.
    let (address, server) = answer("200 OK");
    let output = run(folder.path(), &["health", &format!("http://{address}/metrics?key=9999")]);
    server.join().unwrap();
    let shown = page.replace("9999", "***");
    assert!(shown != page && text(&output.stdout) == shown, "{}", output.stdout.len());

    let (address, server) = answer("404 Not Found");
    let output = run(folder.path(), &["health", &format!("http://{address}/metrics")]);
    server.join().unwrap();
    let reported = text(&output.stderr);
    assert_eq!((output.status.code(), reported.lines().count()), (Some(1), 1), "{reported}");
    assert!(reported.ends_with("answers 404 a_metric_of_the_server{number=\"0\"} 1 …\n"), "{reported}");
}

#[test]
fn health_shows_no_secret_of_the_query_that_the_server_repeats() {
    let folder = tempfile::tempdir().unwrap();
    for body in ["no key hunter@zebra", "no key hunter%40zebra", "no key hunter"] {
        let head = format!("HTTP/1.1 400 Bad Request\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        let (address, server) = answer_once((head + body).leak());
        let output = run(folder.path(), &["health", &format!("http://{address}/health?key=hunter%40zebra")]);
        server.join().unwrap();
        let said = text(&output.stderr);
        assert!(said.contains("answers 400 no key ***") && !said.contains("hunter"), "{said}");
    }
}

#[test]
fn health_of_what_is_not_a_url_is_a_wrong_argument_and_shows_no_password() {
    let folder = tempfile::tempdir().unwrap();
    for url in
        ["http://user:secret@localhost/health", "user:secret@localhost", "ftp://secret", "http://:1", "http://h:secret"]
    {
        let output = run(folder.path(), &["health", url]);
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(2), ""), "{url}");
        assert!(text(&output.stderr).starts_with("telemetryx: URL: "), "{}", text(&output.stderr));
        assert!(!text(&output.stderr).contains("secret"), "{}", text(&output.stderr));
    }
    let output = run(folder.path(), &["health", "http://127.0.0.1:1/health?key=secret"]);
    assert!(text(&output.stderr).starts_with("telemetryx: http://127.0.0.1:1/health: "), "{}", text(&output.stderr));
}

/// A server that speaks TLS with a certificate of its own, and gives the same answer to each of `connections`. Returns
/// its port, and writes its certificate to `file`.
#[cfg(feature = "http-sink")]
fn answer_over_tls(connections: usize, file: &Path) -> u16 {
    use std::sync::Arc;

    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(file, certificate.cert.pem()).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(certificate.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.cert.der().clone()], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().take(connections) {
            let connection = rustls::ServerConnection::new(Arc::new(config.clone())).unwrap();
            let mut peer = rustls::StreamOwned::new(connection, stream.unwrap());
            let mut request = Vec::new();
            let mut byte = [0];
            // A client that does not trust the certificate leaves.
            while !request.ends_with(b"\r\n\r\n") && peer.read_exact(&mut byte).is_ok() {
                request.extend(byte);
            }
            let _ = peer
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\nConnection: close\r\n\r\n{\"status\":\"ok\"}");
            peer.conn.send_close_notify();
            let _ = peer.flush();
        }
    });
    port
}

#[cfg(feature = "http-sink")]
#[test]
fn health_speaks_https_and_names_a_certificate_that_it_does_not_trust() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    let port = answer_over_tls(3, &file);
    let url = format!("https://localhost:{port}");
    let trusting = run(folder.path(), &["health", &url, "--ca-file", "ca.pem"]);
    expect(&trusting, 0, "{\"status\":\"ok\"}\n", "");
    for (url, arguments) in [(&url, &[][..]), (&format!("https://127.0.0.1:{port}"), &["--ca-file", "ca.pem"])] {
        let output = run(folder.path(), &[&["health", url], arguments].concat());
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.starts_with(&format!("telemetryx: {url}/health: ")) && said.contains("certificate"), "{said}");
        assert!(said.contains("--ca-file") && said.lines().count() == 1, "{said}");
    }
    let output = run(folder.path(), &["health", &url, "--ca-file", "none.pem"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).starts_with("telemetryx: ca_file none.pem: "), "{}", text(&output.stderr));

    // The server itself, which speaks no TLS.
    let server = Server::start(folder.path(), &["sinks.discard.kind=discard"]);
    let output = run(folder.path(), &["health", &format!("https://{}", server.address())]);
    let said = text(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("does not speak TLS"), "{said}");
}

#[track_caller]
fn json_lines(stderr: &str) -> Vec<serde_json::Value> {
    let line = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}\n{stderr}"));
    stderr.lines().map(line).collect()
}

#[test]
fn a_port_in_use_exits_1_and_every_line_is_json_where_asked() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("server.address={}", taken.local_addr().unwrap());
    let arguments = ["--log-format", "json", "--set", &address, "--set", "sinks.discard.required=true"];
    let output = run(folder.path(), &arguments);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "");
    let lines = json_lines(text(&output.stderr));
    assert_eq!((&lines[0]["message"], &lines[0]["level"]), (&"no settings file".into(), &"INFO".into()));
    let last = lines.last().unwrap();
    assert!(last["message"].as_str().unwrap().starts_with("cannot listen on "), "{last}");
    assert_eq!(last["level"], "ERROR");
}

#[test]
fn messages_are_json_where_asked_also_about_settings_and_of_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let wrong = ["--log-format", "json", "--set", "a=1"];
    for command in [&["check"][..], &["run"], &[]] {
        for arguments in [[command, &wrong].concat(), [&wrong, command].concat()] {
            let output = run(folder.path(), &arguments);
            let lines = json_lines(text(&output.stderr));
            assert_eq!((output.status.code(), lines.len()), (Some(78), 1), "{arguments:?}");
            assert_eq!(
                (&lines[0]["level"], &lines[0]["message"]),
                (&"ERROR".into(), &"--set: unknown key `a`: `telemetryx config --defaults` prints all keys".into())
            );
        }
    }
    let output =
        run(folder.path(), &["send", "no-such-file", "--to", "127.0.0.1:1", "--timeout", "1", "--log-format", "json"]);
    assert_eq!((output.status.code(), json_lines(text(&output.stderr)).len()), (Some(2), 1));
    let output = run(folder.path(), &["wal", "verify", "--set", "log.format=json"]);
    assert_eq!((output.status.code(), json_lines(text(&output.stderr)).len()), (Some(1), 1));
}

#[test]
fn the_start_lines_are_json_too_and_one_for_each_sink() {
    let folder = tempfile::tempdir().unwrap();
    let sinks = ["sinks.a.kind=discard", "sinks.b.kind=file", "log.format=json"];
    let mut server = Server::start(folder.path(), &sinks);
    server.terminate();
    assert!(server.wait(Duration::from_secs(30)).success());
    let log = server.log();
    let lines = json_lines(&log);
    let start = lines.iter().position(|line| line["address"] == server.address().to_string()).expect("a start line");
    assert_eq!(lines[start]["message"], format!("listening on {} (frames, HTTP)", server.address()));
    assert_eq!((&lines[start + 1]["sink"], &lines[start + 1]["output"]), (&"a".into(), &serde_json::Value::Null));
    assert!(lines[start + 2]["sink"] == "b" && lines[start + 2]["output"].is_string(), "{log}");

    let server = Server::start(folder.path(), &sinks[..2]);
    let log = server.log();
    let start = log.lines().skip_while(|line| !line.starts_with("listening on ")).collect::<Vec<_>>();
    assert!(start[0].ends_with(" · log wal"), "{log}");
    drop(server);
}

#[test]
fn what_keeps_a_server_from_listening_is_said_by_its_errno() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let in_use = "address already in use (another process listens there; see \"ss -ltnp\")";
    let not_here =
        "this machine does not have the address (see \"ip address\"; 0.0.0.0 and [::] stand for all of them)";
    let denied = "permission denied (a port below 1024 needs CAP_NET_BIND_SERVICE, in a systemd unit also PrivateUsers=no; \
                  or set server.address to a higher one)";
    for (address, problem) in [
        (taken.local_addr().unwrap().to_string(), in_use),
        ("192.0.2.1:4640".to_owned(), not_here),
        ("[2001:db8::1]:4640".to_owned(), not_here),
        ("127.0.0.1:1".to_owned(), denied),
    ] {
        // Root, too, may not without the capability.
        let mut command = Command::new("setpriv");
        command.args(["--inh-caps=-all", "--bounding-set=-net_bind_service"]);
        let output = command
            .arg(env!("CARGO_BIN_EXE_telemetryx"))
            .args(["--set", &format!("server.address={address}"), "--set", "sinks.discard.required=true"])
            .env_remove("TELEMETRYX_CONFIG")
            .current_dir(folder.path())
            .output()
            .unwrap();
        let last = text(&output.stderr).lines().last().unwrap_or_default().to_owned();
        if address.starts_with('[') && last.contains("IPv6 is turned off here") {
            continue;
        }
        assert_eq!(last, format!("telemetryx: cannot listen on {address}: {problem}"));
        assert_eq!(output.status.code(), Some(1));
    }
}
