//! Settings that are wrong in ways which used to pass in silence: filters of log lines, variables that almost name a
//! setting, files that are named and not there, an open address, a corrupt log.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::support::agent::{RawAgent, batch, data, hello, named};
use crate::support::server::Server;
use telemetryx::wire::{AckLevel, Hello};

/// A debug build on a busy machine needs a while to end.
const PATIENCE: Duration = Duration::from_secs(60);

fn telemetryx(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_telemetryx"));
    command.args(arguments).current_dir(folder).env_clear().stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[track_caller]
fn refused(output: &Output, message: &str) {
    assert_eq!(text(&output.stderr), format!("telemetryx: {message}\n"));
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(78), ""));
}

#[test]
fn an_unknown_level_or_target_is_refused_with_its_nearest_name() {
    let folder = tempfile::tempdir().unwrap();
    let expected = "expected a level (error, warn, info, debug, trace, off) or targets with levels, such as \
                    \"warn,telemetryx::net=debug\"";
    for (filter, problem) in [
        ("warning", "unknown level or target \"warning\": did you mean \"warn\"?"),
        ("err", "unknown level or target \"err\": did you mean \"error\"?"),
        ("VERBOSE", "unknown level or target \"VERBOSE\": did you mean \"debug\"?"),
        ("inof", "unknown level or target \"inof\": did you mean \"info\"?"),
        ("5", "unknown level or target \"5\""),
        ("info,telemetryx::nett=debug", "unknown target \"telemetryx::nett\": did you mean \"telemetryx::net\"?"),
        ("info,telemetryx::net=loud", "unknown level \"loud\""),
        ("info,telemetryx::net=warning", "unknown level \"warning\": did you mean \"warn\"?"),
        ("net=debug", "unknown target \"net\": did you mean \"telemetryx::net\"?"),
        ("a=b=c", "unknown target \"a\""),
    ] {
        for command in ["run", "check", "config"] {
            // No server runs here, not even one that takes the filter: the address is of no machine.
            let arguments = [command, "--set", "server.address=192.0.2.1:1"];
            let output = telemetryx(folder.path(), &arguments).env("TELEMETRYX_LOG", filter).output().unwrap();
            refused(&output, &format!("TELEMETRYX_LOG: {problem} ({expected})"));
        }
    }
    for filter in ["", "warn", "WARN", "off", "info, telemetryx::net=debug", "telemetryx=trace", "info,ureq_proto=off"]
    {
        let output = telemetryx(folder.path(), &["check"]).env("TELEMETRYX_LOG", filter).output().unwrap();
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""), "{filter}");
    }
}

#[test]
fn a_variable_that_almost_names_a_setting_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (variable, meant) in [
        ("TELEMETRYX_SERVER_ADDRESS", "TELEMETRYX__SERVER__ADDRESS"),
        ("TELEMETRYX_SERVER_ADRESS", "TELEMETRYX__SERVER__ADDRESS"),
        ("TELEMETRYX_SERVER__ADDRESS", "TELEMETRYX__SERVER__ADDRESS"),
        ("TELEMETRYX_SERVER___ADDRESS", "TELEMETRYX__SERVER__ADDRESS"),
        ("telemetryx__server__address", "TELEMETRYX__SERVER__ADDRESS"),
        ("TELEMETRY__SERVER__ADDRESS", "TELEMETRYX__SERVER__ADDRESS"),
        ("TELEMETRIX__SERVER__ADDRESS", "TELEMETRYX__SERVER__ADDRESS"),
        ("TELEMTRYX_SERVER_ADDRESS", "TELEMETRYX__SERVER__ADDRESS"),
        ("TELEMETRYX_DATA_DIR", "TELEMETRYX__DATA_DIR"),
        ("TELEMETRYX_DATADIR", "TELEMETRYX__DATA_DIR"),
        ("TELEMETRYX_WAL_MAX_BYTES", "TELEMETRYX__WAL__MAX_BYTES"),
        ("TELEMETRYX_LOG_FORMAT", "TELEMETRYX__LOG__FORMAT"),
        ("TELEMETRYX_LOG_LEVEL", "TELEMETRYX_LOG"),
        ("TELEMETRYX__LOG", "TELEMETRYX_LOG"),
        ("TELEMETRYX_LOGS", "TELEMETRYX_LOG"),
        ("telemetryx_log", "TELEMETRYX_LOG"),
        ("TELEMETRYX_CONFIG_FILE", "TELEMETRYX_CONFIG"),
        ("TELEMETRYX_CONFG", "TELEMETRYX_CONFIG"),
        ("TELEMETRYX_SINKS_PG_URL_FILE", "TELEMETRYX__SINKS__PG__URL_FILE"),
        ("TELEMETRYX_CLIENTS_API_TOKEN_FILE", "TELEMETRYX__CLIENTS__API__TOKEN_FILE"),
        ("TELEMETRYX_CLIENT_API_BURST", "TELEMETRYX__CLIENTS__API__BURST"),
        ("TELEMETRYX_SINKS_OUT_BATCH_MAX_AGE", "TELEMETRYX__SINKS__OUT__BATCH__MAX_AGE"),
    ] {
        let output = telemetryx(folder.path(), &["check"]).env(variable, "secret").output().unwrap();
        refused(&output, &format!("{variable}: unknown variable: did you mean `{meant}`?"));
    }
    let output = telemetryx(folder.path(), &["check"]).env("TELEMETRYX__SERVER__ADRESS", "x").output().unwrap();
    refused(
        &output,
        "TELEMETRYX__SERVER__ADRESS: unknown key `server.adress`: did you mean `TELEMETRYX__SERVER__ADDRESS`?",
    );
}

#[test]
fn variables_of_kubernetes_docker_tests_and_others_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = telemetryx(folder.path(), &["check"]);
    for (variable, value) in [
        ("TELEMETRYX_SERVICE_HOST", "10.0.0.1"),
        ("TELEMETRYX_SERVICE_PORT", "4640"),
        ("TELEMETRYX_SERVICE_PORT_HTTP", "4640"),
        ("TELEMETRYX_PORT", "tcp://10.0.0.1:4640"),
        ("TELEMETRYX_PORT_4640_TCP", "tcp://10.0.0.1:4640"),
        ("TELEMETRYX_PORT_4640_TCP_ADDR", "10.0.0.1"),
        ("TELEMETRYX_PORT_4640_TCP_PORT", "4640"),
        ("TELEMETRYX_PORT_4640_TCP_PROTO", "tcp"),
        // Services named telemetryx-server and telemetryx-log.
        ("TELEMETRYX_SERVER_SERVICE_HOST", "10.0.0.1"),
        ("TELEMETRYX_SERVER_PORT", "tcp://10.0.0.1:4640"),
        ("TELEMETRYX_SERVER_PORT_4640_TCP_ADDR", "10.0.0.1"),
        ("TELEMETRYX_LOG_SERVICE_HOST", "10.0.0.1"),
        ("TELEMETRYX_LOG_PORT", "tcp://10.0.0.1:4640"),
        // Docker's links, which carry the environment of the other container.
        ("TELEMETRYX_NAME", "/web/telemetryx"),
        ("TELEMETRYX_ENV_TELEMETRYX_LOG", "warning"),
        ("TELEMETRYX_ENV_TELEMETRYX__SERVER__ADDRESS", "0.0.0.0:4640"),
        ("TELEMETRYX_TEST_SEED", "1"),
        ("TELEMETRYX_TORTURE_ROUNDS", "1"),
        ("TELEMETRYX_PROFILE", "x.svg"),
        ("TELEMETRYX_CONFIG", ""),
        ("TELEMETRYX_VERSION", "1.2.3"),
        ("TELEMETRYX_HOME", "/opt"),
        ("TELEMETRY_ENABLED", "1"),
        ("TELEMETRY_SERVER_ADDRESS", "collector:4317"),
        ("TELEMETRY_LOG", "verbose"),
        ("DISABLE_TELEMETRY", "1"),
        ("SERVER_ADDRESS", "x"),
    ] {
        command.env(variable, value);
    }
    let output = command.output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
}

fn make_fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().expect("there is a mkfifo command").success());
}

/// Nobody writes into the FIFO: where it was opened, the command would wait for ever.
#[test]
fn no_file_that_settings_name_may_be_a_fifo() {
    let folder = tempfile::tempdir().unwrap();
    make_fifo(&folder.path().join("fifo"));
    for sets in [
        &["server.pages_token_file=fifo"][..],
        &["clients.a.token_file=fifo"],
        &["tls.cert_file=fifo", "tls.key_file=fifo"],
        &["sinks.s.kind=postgres", "sinks.s.url_file=fifo"],
        &[
            "sinks.s.kind=discard",
            "sinks.s.redact=[{ attributes = [\"a\"], action = \"hash\", key_file = \"./fifo\" }]",
        ],
    ] {
        let arguments: Vec<&str> = ["check"].into_iter().chain(sets.iter().flat_map(|set| ["--set", set])).collect();
        let output = telemetryx(folder.path(), &arguments).output().unwrap();
        let printed = text(&output.stderr);
        assert!(printed.contains("fifo cannot be read: it is a FIFO; a regular file is needed"), "{printed}");
        assert_eq!(output.status.code(), Some(78), "{printed}");
    }
    let output = telemetryx(folder.path(), &["--config", "fifo", "check"]).output().unwrap();
    refused(&output, "fifo: cannot be read: it is a FIFO; a regular file is needed, which can be read again");
    let output = telemetryx(folder.path(), &["--config", "/dev/null", "check"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn check_reads_the_tokens_file_as_a_start_does() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("directory")).unwrap();
    fs::write(folder.path().join("empty"), " \n\n").unwrap();
    fs::write(folder.path().join("binary"), b"\x7fELF\xff\xfe\x00").unwrap();
    make_fifo(&folder.path().join("fifo"));
    for (file, problem) in [
        ("none", "cannot be read: No such file or directory (os error 2)"),
        ("directory", "cannot be read: Is a directory (os error 21)"),
        ("binary", "cannot be read: stream did not contain valid UTF-8"),
        ("fifo", "cannot be read: it is a FIFO; a regular file is needed, which can be read again"),
        ("empty", "contains no token: write one per line, or unset server.tokens_file"),
    ] {
        let set = format!("server.tokens_file={file}");
        for command in ["check", "run"] {
            let output = telemetryx(folder.path(), &[command, "--set", &set, "--set", "server.address=192.0.2.1:1"])
                .env("TELEMETRYX_LOG", "off")
                .output()
                .unwrap();
            refused(&output, &format!("server.tokens_file: {file} {problem}"));
        }
    }
    fs::write(folder.path().join("tokens"), "secret\n").unwrap();
    let output = telemetryx(folder.path(), &["check", "--set", "server.tokens_file=tokens"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn check_reads_the_certificates_that_a_sink_names() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("empty.pem"), "").unwrap();
    make_fifo(&folder.path().join("fifo.pem"));
    for (file, problem) in [
        ("none.pem", "No such file or directory"),
        ("empty.pem", "contains no certificate in PEM"),
        ("fifo.pem", "it is a FIFO; a regular file is needed"),
    ] {
        for (kind, more) in [
            ("postgres", "sinks.s.tls=verify"),
            ("redis", "sinks.s.url=rediss://127.0.0.1:6379"),
            ("grpc", "sinks.s.url=https://127.0.0.1:1"),
            ("http", "sinks.s.url=https://127.0.0.1:1"),
        ] {
            let (kind_set, file_set) = (format!("sinks.s.kind={kind}"), format!("sinks.s.ca_file={file}"));
            let arguments = ["check", "--set", &kind_set, "--set", more, "--set", &file_set];
            let output = telemetryx(folder.path(), &arguments).output().unwrap();
            let said = text(&output.stderr);
            assert!(said.contains("sinks.s.ca_file") && said.contains(problem), "{kind}: {said}");
            assert_eq!(output.status.code(), Some(78), "{kind}: {said}");
        }
    }
}

#[test]
fn check_warns_of_an_address_that_is_open_to_everybody() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tokens"), "secret\n").unwrap();
    let check = |sets: &[&str]| {
        let arguments: Vec<&str> = sets.iter().flat_map(|set| ["--set", *set]).collect();
        let output = telemetryx(folder.path(), &[&["check"][..], &arguments].concat()).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).to_owned()
    };
    let open = "server.address=0.0.0.0:4640";
    let warning = "warning: 0.0.0.0:4640: anybody who reaches this address can send events: set server.tokens_file or [[clients]]\n";
    assert!(check(&[open]).ends_with(warning), "{}", check(&[open]));
    let shown = check(&[open, "server.tokens_file=tokens"]);
    assert!(shown.contains("warning: 0.0.0.0:4640: tokens are accepted from this machine only"), "{shown}");
    let trusted = ["server.address=[::]:4640", "server.tokens_file=tokens", "server.allow_plaintext_tokens=true"];
    for quiet in [&trusted[..], &[]] {
        assert!(!check(quiet).contains("warning"), "{}", check(quiet));
    }
}

#[test]
fn a_token_belongs_to_one_client_and_its_file_holds_it() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in
        [("tokens", "common\n"), ("one", "secret\n"), ("same", "secret"), ("empty", "\n"), ("two", "a\nb")]
    {
        fs::write(folder.path().join(name), text).unwrap();
    }
    for (sets, problem) in [
        (
            &["clients.a.token_file=one", "clients.b.token_file=same"][..],
            "clients.b: its token is also that of clients.a",
        ),
        (&["clients.a.token_file=tokens"], "clients.a: its token is also in server.tokens_file: remove it there"),
        (&["clients.a.token_file=empty"], "clients.a.token_file: empty contains no token: write one into it"),
        (
            &["clients.a.token_file=two"],
            "clients.a.token_file: two has more than one line, or a control character: write one token into it",
        ),
        (
            &["clients.a.token_file=none"],
            "clients.a.token_file: none cannot be read: No such file or directory (os error 2)",
        ),
    ] {
        let sets = sets.iter().copied().chain(["server.tokens_file=tokens"]);
        let arguments: Vec<&str> = ["check"].into_iter().chain(sets.flat_map(|set| ["--set", set])).collect();
        let output = telemetryx(folder.path(), &arguments).output().unwrap();
        refused(&output, problem);
        let shown = [text(&output.stderr), text(&output.stdout)].concat();
        assert!(!shown.contains("secret") && !shown.contains("common"), "{shown}");
    }
}

/// A log of several segments that a real server has written: `data_dir`, and the segments in order.
fn log() -> (tempfile::TempDir, Vec<PathBuf>) {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("telemetryx-data");
    fs::create_dir(&data_dir).unwrap();
    for start in 0..2 {
        // A sink that is never there keeps every segment.
        let settings = ["sinks.sqlite.path=/proc/none/events.db", "wal.segment_bytes=1MiB"];
        let mut server = Server::start(&data_dir, &settings);
        let greeting = Hello { ack: Ok(Some(AckLevel::Synced)), name: "api", ..hello([7 + start; 16], 0) };
        let (mut agent, _) = RawAgent::greeted(server.address(), greeting);
        for seq in 1..=20 {
            agent.send(&data(seq, &batch((0..100).map(|number| named(&format!("event {seq} {number}"))).collect())));
            agent.acknowledged(seq);
        }
        server.kill();
    }
    let mut segments: Vec<_> = fs::read_dir(data_dir.join("wal"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "seg"))
        .collect();
    segments.sort();
    (folder, segments)
}

/// Where the payload of the frame that holds this event is.
fn payload_of(segment: &[u8], event: &str) -> usize {
    segment.windows(event.len()).position(|window| window == event.as_bytes()).expect(event)
}

#[test]
fn check_connect_names_what_is_corrupt_in_the_log_and_changes_nothing() {
    let (folder, segments) = log();
    let check = || {
        let arguments = ["check", "--connect", "--set", "sinks.discard.required=true"];
        let output = telemetryx(folder.path(), &arguments).output().unwrap();
        (output.status.code(), text(&output.stdout).to_owned())
    };
    let (code, shown) = check();
    assert!(code == Some(0) && shown.contains("wal: ok, "), "{shown}");
    let (first, last) = (&segments[0], &segments[segments.len() - 1]);
    assert_ne!(first, last);
    let file = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();

    let corrupt = |path: &Path, at: &dyn Fn(&[u8]) -> usize, words: &[&str]| {
        let whole = fs::read(path).unwrap();
        let mut bytes = whole.clone();
        let at = at(&bytes);
        bytes[at] ^= 0x20;
        fs::write(path, &bytes).unwrap();
        let (code, shown) = check();
        assert_eq!(code, Some(1), "{shown}");
        assert!(!shown.contains("wal: ok") && shown.contains(&file(path)), "{shown}");
        for word in words {
            assert!(shown.contains(word), "no {word:?} in: {shown}");
        }
        assert!(fs::read(path).unwrap() == bytes, "check changed {}", path.display());
        fs::write(path, whole).unwrap();
    };
    // A segment's header, an event in the middle of an old and of the newest segment, a record's header, the last record.
    corrupt(first, &|_| 3, &["the header is corrupt"]);
    corrupt(first, &|bytes| payload_of(bytes, "event 9 50"), &["positions 801 to 900", "skips"]);
    corrupt(last, &|bytes| payload_of(bytes, "event 9 50"), &["positions ", "skips"]);
    corrupt(last, &|bytes| payload_of(bytes, "event 20 50"), &["the next start cuts ", "wal/damaged"]);
    let header_of = |bytes: &[u8], event: &str| {
        let end = payload_of(bytes, event);
        bytes[..end].windows(4).rposition(|window| window == b"\xf5REC").expect("a record begins")
    };
    corrupt(first, &|bytes| header_of(bytes, "event 9 50"), &["positions 801 to 900", "skips"]);
    corrupt(last, &|bytes| header_of(bytes, "event 20 50"), &["the next start cuts "]);
    // The table of agents, which is the first record.
    corrupt(last, &|bytes| header_of(bytes, "event 1 0") - 1, &["corrupt"]);
    let (code, shown) = check();
    assert_eq!(code, Some(0), "{shown}");
    // A segment under another name: a start refuses it.
    let renamed = first.with_file_name(file(first).replacen("01-", "02-", 1));
    fs::rename(first, &renamed).unwrap();
    let (code, shown) = check();
    assert!(code == Some(1) && shown.contains("does not start") && shown.contains("was renamed"), "{shown}");
    assert_eq!(fs::read_dir(folder.path().join("telemetryx-data/wal")).unwrap().count(), segments.len());
}

#[test]
fn check_connect_reads_the_log_of_a_running_server_and_disturbs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("telemetryx-data");
    fs::create_dir(&data_dir).unwrap();
    let mut server = Server::start(&data_dir, &[]);
    let greeting = Hello { ack: Ok(Some(AckLevel::Synced)), name: "api", ..hello([7; 16], 0) };
    let (mut agent, _) = RawAgent::greeted(server.address(), greeting);
    for seq in 1..=10 {
        agent.send(&data(seq, &batch((0..100).map(|number| named(&format!("event {seq} {number}"))).collect())));
        let output = telemetryx(folder.path(), &["check", "--connect"]).output().unwrap();
        let shown = text(&output.stdout);
        assert!(output.status.success() && shown.contains("wal: ok, "), "{shown}{}", text(&output.stderr));
        agent.acknowledged(seq);
    }
    server.terminate();
    assert!(server.wait(PATIENCE).success(), "{}", server.log());
}
