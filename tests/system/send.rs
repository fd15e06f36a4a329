//! Real input: the logs of this machine, sent by `telemetryx send` as text and as NDJSON, equal what SQLite holds.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::server::{Server, wait_until};
use crate::support::stores::free_address;
use telemetryx::wire::{AckLevel, Decoded, FrameKind, PayloadCaps, Welcome, answer, decode};

const LINES_MIN: u64 = 100_000;

/// Number of lines, and a checksum over all of them in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sum {
    lines: u64,
    crc: u32,
}

fn sum<S: AsRef<[u8]>>(lines: impl Iterator<Item = S>) -> Sum {
    let mut hasher = crc32fast::Hasher::new();
    let mut count = 0;
    for line in lines {
        hasher.update(line.as_ref());
        hasher.update(b"\n");
        count += 1;
    }
    Sum { lines: count, crc: hasher.finalize() }
}

/// The lines as `send` documents them: ended by `\n` or `\r\n`, the last one also without; U+FFFD for what is no UTF-8.
fn lines_of(log: &[u8]) -> Vec<String> {
    let mut lines: Vec<&[u8]> = log.split(|byte| *byte == b'\n').collect();
    if lines.last().is_some_and(|last| last.is_empty()) {
        lines.pop();
    }
    let text = |line: &[u8]| String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned();
    lines.into_iter().map(text).collect()
}

#[test]
fn a_token_may_come_from_a_process() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("tokens"), "secret\n").unwrap();
    let tokens = format!("server.tokens_file={}", directory.path().join("tokens").display());
    let server = Server::start(directory.path(), &[&tokens, "sinks.discard.kind=discard"]);
    let line = r#"echo one | "$0" send --to "$1" --token-file <(echo secret) -"#;
    let mut command = Command::new("bash");
    command.args(["-c", line, env!("CARGO_BIN_EXE_telemetryx"), &server.address().to_string()]);
    let output = command.current_dir(directory.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// Logs of the package manager and of the kernel where there are any, and cargo's own of reading this project.
fn real_logs(directory: &Path) -> Vec<PathBuf> {
    let mut logs: Vec<PathBuf> = ["dpkg.log", "alternatives.log", "apt/history.log", "apt/term.log", "bootstrap.log"]
        .iter()
        .map(|name| Path::new("/var/log").join(name))
        .filter(|path| fs::read(path).is_ok_and(|log| !log.is_empty()))
        .collect();
    let mut keep = |name: &str, log: Vec<u8>| {
        if !log.is_empty() {
            let path = directory.join(name);
            fs::write(&path, log).unwrap();
            logs.push(path);
        }
    };
    if let Ok(kernel) = Command::new("dmesg").output() {
        keep("kernel.log", kernel.stdout);
    }
    for (name, command) in [
        ("tree.log", &["tree"][..]),
        ("all.log", &["tree", "--edges", "all"]),
        ("metadata.log", &["metadata", "--format-version=1"]),
    ] {
        let cargo = Command::new(env!("CARGO"))
            .args(command)
            .args(["--offline", "--locked"])
            .env("CARGO_LOG", "trace")
            // That of this test, which may be that of `--target-dir`.
            .env("CARGO_TARGET_DIR", crate::support::target_directory())
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("cargo runs");
        keep(name, cargo.stderr);
    }
    logs
}

fn send(server: &Server, arguments: &[&str], input: Option<&[u8]>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_telemetryx"));
    command.args(["send", "--to", &server.address().to_string()]).args(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = command.spawn().unwrap();
    if let Some(input) = input {
        child.stdin.take().unwrap().write_all(input).unwrap();
    }
    child.wait_with_output().unwrap()
}

/// Waits until the table has `expected.lines` bodies named so, then sums them in order of position.
fn stored(database: &Path, name: &str, expected: Sum) -> Sum {
    let database = rusqlite::Connection::open(database).unwrap();
    let count = || -> u64 {
        let count =
            database.query_row("SELECT count(*) FROM events WHERE name = ?1", [name], |row| row.get::<_, i64>(0));
        count.unwrap() as u64
    };
    wait_until(Duration::from_secs(60), || count() >= expected.lines);
    let mut bodies =
        database.prepare("SELECT coalesce(body, '') FROM events WHERE name = ?1 ORDER BY position").unwrap();
    sum(bodies.query_map([name], |row| row.get::<_, String>(0)).unwrap().map(Result::unwrap))
}

#[test]
fn real_logs_sent_as_text_and_as_ndjson_equal_what_is_stored() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &[]);
    let database = directory.path().join("events.db");
    let mut total = 0;
    for (index, path) in real_logs(directory.path()).iter().enumerate() {
        let lines = lines_of(&fs::read(path).unwrap());
        let expected = sum(lines.iter());
        total += expected.lines;

        let name = format!("text-{index}");
        let started = Instant::now();
        let output = send(&server, &["--format", "text", "--name", &name, path.to_str().unwrap()], None);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        print!("{} in {:?}: {}", path.display(), started.elapsed(), String::from_utf8_lossy(&output.stdout));
        assert_eq!(stored(&database, &name, expected), expected, "{} as text", path.display());

        let name = format!("ndjson-{index}");
        let mut ndjson = Vec::new();
        for line in &lines {
            serde_json::to_writer(&mut ndjson, &serde_json::json!({ "name": name, "body": line })).unwrap();
            ndjson.push(b'\n');
        }
        let output = send(&server, &["-"], Some(&ndjson));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(stored(&database, &name, expected), expected, "{} as NDJSON", path.display());
    }
    println!("{total} lines");
    assert!(total >= LINES_MIN, "{total} lines are too few for this test");
}

#[test]
fn a_line_that_is_no_event_ends_the_command_with_its_number_after_all_before_it() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &[]);
    let input =
        "{\"name\":\"good\",\"body\":\"a\"}\n{\"name\":\"good\",\"body\":\"b\"}\n{\"nmae\":1}\n{\"name\":\"good\"}\n";
    let output = send(&server, &["--format", "ndjson"], Some(input.as_bytes()));
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains('3') && error.contains("name"), "{error}");
    let expected = sum(["a", "b"].iter());
    assert_eq!(stored(&directory.path().join("events.db"), "good", expected), expected);
}

#[test]
fn nobody_listening_is_an_error_that_names_the_address() {
    let free = free_address();
    let mut command = Command::new(env!("CARGO_BIN_EXE_telemetryx"));
    let output = command.args(["send", "--to", &free.to_string()]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains(&free.to_string()));
}

#[test]
fn a_name_that_does_not_resolve_and_a_bad_address_are_errors_at_once() {
    let run = |to: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_telemetryx"));
        command.args(["send", "--to", to]).stdin(Stdio::null()).output().unwrap()
    };
    let output = run("no-such-host.invalid");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with("telemetryx: cannot resolve host \"no-such-host.invalid\": "), "{said}");
    for to in ["localhost:", "localhost:http", "local host", "http://localhost:4640", "", "[::1"] {
        let output = run(to);
        assert_eq!(output.status.code(), Some(2), "{to}");
        assert!(String::from_utf8_lossy(&output.stderr).starts_with("error: "), "{to}");
    }
}

#[test]
fn a_host_without_a_port_is_asked_at_the_default_port() {
    let directory = tempfile::tempdir().unwrap();
    // 4640 on this process's own address.
    let mut address = crate::support::server::own_address();
    address.set_port(4640);
    let server = Server::start(directory.path(), &[&format!("server.address={address}"), "sinks.discard.kind=discard"]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_telemetryx"));
    let output = command.args(["send", "--to", &address.ip().to_string()]).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}{}", server.log());
    assert!(String::from_utf8_lossy(&output.stdout).contains("sent 0 events"));
}

#[test]
fn gzip_and_json_arrays_come_from_standard_input_too() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &[]);
    let array = "[\n  {\"name\": \"packed\", \"body\": \"a\"},\n  {\"name\": \"packed\", \"body\": \"b\"}\n]\n";
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(array.as_bytes()).unwrap();
    let output = send(&server, &[], Some(&packed.finish().unwrap()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let expected = sum(["a", "b"].iter());
    assert_eq!(stored(&directory.path().join("events.db"), "packed", expected), expected);
}

#[test]
fn a_line_that_is_cut_has_the_attribute_truncated() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &[]);
    let line = format!("{}\u{20ac}\r\nshort\r\n", "x".repeat(65_535));
    let output = send(&server, &["--name", "long"], Some(line.as_bytes()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said, "telemetryx: lines truncated to 64 KiB and marked truncated = true: 1, first standard input:1\n");
    let expected = sum(["x".repeat(65_535).as_str(), "short"].iter());
    assert_eq!(stored(&directory.path().join("events.db"), "long", expected), expected);
    let database = rusqlite::Connection::open(directory.path().join("events.db")).unwrap();
    let query =
        "SELECT group_concat(coalesce(attributes, '-'), ' ') FROM (SELECT attributes FROM events ORDER BY position)";
    let attributes: String = database.query_row(query, [], |row| row.get(0)).unwrap();
    assert_eq!(attributes, "{\"truncated\":true} -");
}

/// A server of which only the first part works: it takes one frame and acknowledges it, then says nothing more. The
/// channel says when BYE is there.
fn silent_after_ack() -> (std::net::SocketAddr, mpsc::Receiver<()>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (leaving, left) = mpsc::channel();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut inbox = Vec::new();
        loop {
            let Ok(Decoded::Frame { header, payload }) = decode(&inbox, PayloadCaps { data: 1 << 20 }) else {
                let mut chunk = [0; 4096];
                match stream.read(&mut chunk).unwrap_or(0) {
                    // The connection stays open until the test ends.
                    0 => loop {
                        thread::park();
                    },
                    bytes => inbox.extend_from_slice(&chunk[..bytes]),
                }
                continue;
            };
            let (header, bytes) = (header, 32 + payload.len());
            inbox.drain(..bytes);
            let mut answered = Vec::new();
            match header.kind {
                FrameKind::Hello => WELCOME.encode(&mut answered),
                FrameKind::Data => answer::ack(header.seq, 4 << 20, &mut answered),
                FrameKind::Bye => leaving.send(()).unwrap(),
                _ => {}
            }
            stream.write_all(&answered).unwrap();
        }
    });
    (address, left)
}

const WELCOME: Welcome = Welcome {
    version: 1,
    ack: AckLevel::Synced,
    codecs: 1,
    max_frame: 1 << 20,
    max_raw: 1 << 20,
    window_bytes: 4 << 20,
    window_frames: 64,
    keepalive_seconds: 30,
    resumed: false,
    epoch: 5,
    last_seq: 0,
    server_id: [3; 16],
};

#[test]
fn a_signal_ends_the_command_also_while_it_closes_against_a_silent_server() {
    for (signals, code) in [(&["INT"][..], 130), (&["TERM", "TERM"], 143)] {
        let (address, left) = silent_after_ack();
        let mut child = Command::new(env!("CARGO_BIN_EXE_telemetryx"))
            .args(["send", "--timeout", "0", "--to", &address.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(b"one\ntwo\n").unwrap();
        left.recv_timeout(Duration::from_secs(60)).expect("the command says that it leaves");
        for signal in signals {
            Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap();
        }
        let output = child.wait_with_output().unwrap();
        let reported = String::from_utf8_lossy(&output.stderr);
        assert_eq!(reported, "telemetryx: interrupted; 2 of 2 events were acknowledged\n");
        assert_eq!((output.status.code(), output.stdout.len()), (Some(code), 0));
    }
}

#[test]
fn a_file_that_is_missing_is_a_usage_error_before_anything_is_sent() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("first.log"), "one\n").unwrap();
    fs::create_dir(directory.path().join("directory")).unwrap();
    // Nobody listens: a connection is not even tried.
    for (files, problem) in [
        (["first.log", "none.log"], "none.log: No such file or directory (os error 2)"),
        (["none.log", "first.log"], "none.log: No such file or directory (os error 2)"),
        (["first.log", "directory"], "directory: is a directory"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_telemetryx"));
        command.args(["send", "--to", "127.0.0.1:1"]).args(files).current_dir(directory.path());
        let output = command.stdin(Stdio::null()).output().unwrap();
        let reported = String::from_utf8_lossy(&output.stderr);
        assert_eq!(reported, format!("telemetryx: {problem}; no events were sent\n"));
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
    }
}

#[test]
fn one_event_is_not_one_events() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &[]);
    let output = send(&server, &[], Some(b"one\n"));
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(
        printed.starts_with("sent 1 event (4 B) in ") && printed.ends_with(" 1 acknowledged (synced)\n"),
        "{printed}"
    );
    let log = server.log();
    assert!(log.contains("log opened: 1 segment agents=0 "), "{log}");
}

#[test]
fn a_missing_token_is_named_with_its_option() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("tokens"), "secret\n").unwrap();
    fs::write(directory.path().join("other"), "other\n").unwrap();
    let tokens = format!("server.tokens_file={}", directory.path().join("tokens").display());
    let server = Server::start(directory.path(), &[&tokens]);
    let other = directory.path().join("other");
    for (arguments, end) in [
        (&[][..], "; name a file that contains the token with --token-file; no events were sent\n"),
        (&["--token-file", other.to_str().unwrap()], "\"unknown token\"; no events were sent\n"),
    ] {
        let output = send(&server, arguments, Some(b"one\n"));
        let reported = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && reported.ends_with(end), "{reported}");
    }
}
