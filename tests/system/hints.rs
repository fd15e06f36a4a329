//! What is wrong in settings and arguments is named with its next step: quotes, sections, keys, units, hidden secrets.
#![cfg(all(feature = "postgres", feature = "redis", feature = "grpc", feature = "http-sink"))]

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn telemetryx(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_telemetryx"));
    command.args(arguments).current_dir(folder).env_clear().stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Whether `check` reports this, and nothing else.
#[track_caller]
fn reports(folder: &Path, arguments: &[&str], problem: &str) {
    let output = telemetryx(folder, &[&["check"], arguments].concat());
    assert_eq!(text(&output.stderr), format!("telemetryx: {problem}\n"));
    assert_eq!(output.status.code(), Some(78));
}

#[test]
fn text_without_quotes_is_named_in_a_settings_file() {
    let folder = tempfile::tempdir().unwrap();
    let quotes = "put text in quotes, as in key = \"text\"";
    for (line, problem) in [
        ("server.address = 0.0.0.0:4640", format!("invalid float, expected nothing; {quotes}")),
        ("data_dir = /var/lib/secret", format!("string values must be quoted, expected literal string; {quotes}")),
        ("batch.max_age = 10s # a comment", format!("string values must be quoted, expected literal string; {quotes}")),
        ("wal.enabled = True", "invalid boolean, expected `true`; write true or false".to_owned()),
        ("data_dir = ", "string values must be quoted, expected literal string; a value is missing after =".to_owned()),
        ("data_dir: \"x\"", "key with no value, expected `=`".to_owned()),
        ("data_dir = \"x", "invalid basic string, expected `\"`".to_owned()),
    ] {
        fs::write(folder.path().join("telemetryx.toml"), format!("# a line before\n{line}\n")).unwrap();
        reports(folder.path(), &[], &format!("telemetryx.toml:2: invalid TOML: {problem}"));
    }
}

#[test]
fn a_section_or_key_of_another_name_leads_to_ours() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("t.toml"), "[[sink]]\nkind = \"file\"\n[[sink]]\nkind = \"stdout\"\n").unwrap();
    reports(folder.path(), &["--config", "t.toml"], "t.toml:1: unknown key `sink`: did you mean `[[sinks]]`?");
    for (set, problem) in [
        ("sink.a.kind=file", "unknown key `sink.a.kind`: did you mean `sinks.a.kind`?"),
        ("log.level=debug", "unknown key `log.level`: did you mean `log.filter`?"),
        ("loglevel=x", "unknown key `loglevel`: did you mean `log.filter`?"),
        ("server.port=4641", "unknown key `server.port`: did you mean `server.address`?"),
        ("listen=x", "unknown key `listen`: did you mean `server.address`?"),
        ("server.tokens=x", "unknown key `server.tokens`: did you mean `server.tokens_file`?"),
    ] {
        reports(folder.path(), &["--set", set], &format!("--set: {problem}"));
    }
}

#[test]
fn sizes_and_times_in_other_units_name_ours() {
    let folder = tempfile::tempdir().unwrap();
    for size in ["10GB", "10 G", "10g", "10gib", "512M", "1mb", "1.5GiB", "10 gigabytes"] {
        let set = format!("wal.max_bytes={size}");
        let problem = format!(
            "--set: wal.max_bytes = \"{size}\": expected a size from 128KiB to 1024TiB, such as \"10GiB\" (a whole number; \
             units are B, KiB, MiB, GiB and TiB, each 1,024 of the one before)"
        );
        reports(folder.path(), &["--set", &set], &problem);
    }
    for time in ["10", "10sec", "1.5s", "2 minutes"] {
        let set = format!("server.drain_timeout={time}");
        let problem = format!(
            "--set: server.drain_timeout = \"{time}\": expected a time from 0s to 1h, such as \"10s\" (a whole number; units \
             are ms, s, m, h and d)"
        );
        reports(folder.path(), &["--set", &set], &problem);
    }
    let out_of_range = "--set: wal.max_bytes = \"1KiB\": expected a size from 128KiB to 1024TiB, such as \"10GiB\"";
    reports(folder.path(), &["--set", "wal.max_bytes=1KiB"], out_of_range);
}

/// What `config` prints in place of secrets, back as settings.
#[test]
fn a_hidden_secret_from_the_output_of_config_is_not_a_value() {
    let folder = tempfile::tempdir().unwrap();
    let given = [
        "sinks.pg.kind=postgres",
        "sinks.pg.url=postgres://u:secret@db/x",
        "sinks.r.kind=redis",
        "sinks.r.url=redis://:secret@a:1",
        "sinks.g.kind=grpc",
        "sinks.g.url=http://h:1",
        "sinks.g.token=secret",
        "sinks.h.kind=http",
        "sinks.h.url=http://h/?key=secret",
        "sinks.h.headers.X-Key=secret",
    ];
    let sets: Vec<&str> = given.iter().flat_map(|set| ["--set", set]).collect();
    let printed = telemetryx(folder.path(), &[&["config"], &sets[..]].concat());
    assert!(printed.status.success() && !text(&printed.stdout).contains("secret"), "{}", text(&printed.stderr));
    fs::write(folder.path().join("telemetryx.toml"), &printed.stdout).unwrap();
    for command in ["check", "run"] {
        // No server runs here, not even one that takes the settings: the address is of no machine.
        let output = telemetryx(folder.path(), &[command, "--set", "server.address=192.0.2.1:1"]);
        assert_eq!(output.status.code(), Some(78));
        let problems: Vec<&str> = text(&output.stderr).lines().collect();
        assert_eq!(problems.len(), 5, "{}", text(&output.stderr));
        for (key, or_file) in [
            ("sinks.pg.url", ", or name a file that contains it with url_file"),
            ("sinks.r.url", ", or name a file that contains it with url_file"),
            ("sinks.g.token", ", or name a file that contains it with token_file"),
            ("sinks.h.url", ", or name a file that contains it with url_file"),
            ("sinks.h.headers.X-Key", ""),
        ] {
            let problem = format!(
                ": {key} = ***: expected the secret itself: *** stands for it in the output of `telemetryx config`; write \
                 it here{or_file}"
            );
            assert!(problems.iter().any(|line| line.ends_with(&problem)), "{problem}\n{}", text(&output.stderr));
        }
    }
    // A secret that only has asterisks in it is one.
    let sets = ["--set", "server.address=127.0.0.1:1", "--set", "sinks.pg.url=postgres://u:***@db/x"];
    fs::write(folder.path().join("telemetryx.toml"), "[[sinks]]\nname = \"pg\"\nkind = \"postgres\"\n").unwrap();
    let output = telemetryx(folder.path(), &[&["check"], &sets[..]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn what_is_wrong_with_a_url_is_named_and_nothing_secret_of_it_shown() {
    let folder = tempfile::tempdir().unwrap();
    let pg = ["--set", "sinks.pg.kind=postgres", "--set"];
    for (url, problem) in [
        ("db:5432/x", "has no scheme, the part before ://"),
        ("hunter2@db/x", "has no scheme, the part before ://"),
        ("psql://u:hunter2@db/x", "has a scheme that is not supported"),
    ] {
        let problem =
            format!("--set: sinks.pg.url = \"***\": {problem}: expected postgres://user:password@host:5432/database");
        reports(folder.path(), &[&pg[..], &[&format!("sinks.pg.url={url}")]].concat(), &problem);
    }
    for (command, url, shown) in [
        ("send", "http://localhost:4640", "http://localhost:4640"),
        ("send", "https://u:hunter2@logs.example.org/hunter2?x=hunter2", "https://logs.example.org"),
        ("bench", "http://localhost:4640/", "http://localhost:4640"),
        ("send", "tcp://hunter2", "***"),
        ("send", "http://u:hun/ter2@h", "***"),
    ] {
        let output = telemetryx(folder.path(), &[command, "--to", url]);
        let reported = text(&output.stderr);
        let expected = format!(
            "error: invalid value '{shown}' for '--to <ADDR>': this is a URL: expected HOST or HOST:PORT, without a scheme \
             and a path\n"
        );
        assert!(output.status.code() == Some(2) && reported.starts_with(&expected), "{reported}");
        assert!(!reported.contains("hunter2") && !reported.contains("ter2"), "{reported}");
    }
}
