//! Passwords, tokens and headers appear in nothing that the program prints, logs, keeps or answers, whether a store is
//! away, refuses the login, or repeats what it was sent.

#![cfg(all(feature = "postgres", feature = "redis", feature = "grpc", feature = "http-sink"))]

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use crate::support::http;
use crate::support::server::wait_until;
use crate::support::stores::{HttpService, Postgres, Receiver, Redis};

const PATIENCE: Duration = Duration::from_secs(60);

/// What stands around the signs in each secret, in lower case.
const PIECES: [&str; 2] = ["hunter", "zebra"];

/// As it stands in a URL: with a raw @, and with every other sign that means something encoded.
const IN_URL: &str = "hunter@:%2F%3F%23%25%20zebra";
const TOKEN: &str = "hunter@:/?#%zebra";

#[track_caller]
fn look(what: &str, text: &[u8]) {
    let text = String::from_utf8_lossy(text).to_ascii_lowercase();
    let line = text.lines().find(|line| PIECES.iter().any(|piece| line.contains(piece)));
    assert_eq!(line, None, "{what}");
}

fn telemetryx(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_telemetryx"))
        .args(arguments)
        .env_remove("TELEMETRYX_CONFIG")
        .env("TELEMETRYX_LOG", "trace")
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[track_caller]
fn look_at_output(arguments: &[&str], output: &Output) {
    for text in [&output.stdout, &output.stderr] {
        look(&arguments.join(" "), text);
    }
}

/// A server that writes its log, every level of it, into `folder/log`.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn log(folder: &Path) -> String {
    String::from_utf8_lossy(&fs::read(folder.join("log")).unwrap()).into_owned()
}

fn start(folder: &Path, format: &str) -> Server {
    let child = Command::new(env!("CARGO_BIN_EXE_telemetryx"))
        .args(["--config", "t.toml", "--log-format", format])
        .env("TELEMETRYX_LOG", "trace")
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(folder.join("log")).unwrap())
        .spawn()
        .unwrap();
    let mut server = Server { child, address: ([0, 0, 0, 0], 0).into() };
    let address = || {
        let log = log(folder);
        let (_, rest) = log.split_once("listening on ")?;
        rest.split_whitespace().next()?.parse().ok()
    };
    assert!(wait_until(PATIENCE, || address().is_some()), "{}", log(folder));
    server.address = address().unwrap();
    server
}

/// Places of the four stores.
struct Places {
    postgres: String,
    redis: String,
    grpc: String,
    http: String,
    bearer: String,
}

fn write_settings(folder: &Path, places: &Places) {
    let Places { postgres, redis, grpc, http, bearer } = places;
    let settings = format!(
        "data_dir = \"data\"
         server.address = \"127.0.0.1:0\"
         [[sinks]]
         kind = \"postgres\"
         url = \"postgres://app:{IN_URL}@{postgres}/app?application_name=hunterzebra\"
         [[sinks]]
         kind = \"redis\"
         url = \"redis://app:{IN_URL}@{redis}/0\"
         [[sinks]]
         kind = \"grpc\"
         url = \"http://{grpc}\"
         token = \"{TOKEN}\"
         [[sinks]]
         kind = \"http\"
         url = \"http://app:{IN_URL}@{http}/events?api_key=hunterzebra&hunter%2Fzebra\"
         headers = {{ X-Api-Key = \"{TOKEN}\" }}
         [[sinks]]
         name = \"bearer\"
         kind = \"http\"
         url = \"http://{bearer}/events\"
         token = \"{TOKEN}\"
         "
    );
    fs::write(folder.join("t.toml"), settings).unwrap();
}

/// Runs the server until its log holds each of `words` and the sinks named by `refuse` have dead letters, and looks at
/// everything that can be read of it meanwhile.
fn nothing_is_shown(places: &Places, words: &[&str], refuse: &[&str], format: &str) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_settings(folder, places);
    let server = start(folder, format);
    assert_eq!(http::post(server.address, "", "[{\"name\":\"x\"}]").unwrap().0, 200);
    for word in words {
        assert!(wait_until(PATIENCE, || log(folder).contains(word)), "no {word} in {}", log(folder));
    }
    let letters = |sink: &str| fs::read(folder.join(format!("data/dead/{sink}.ndjson"))).unwrap_or_default();
    for sink in refuse {
        assert!(wait_until(PATIENCE, || !letters(sink).is_empty()), "no letters of {sink}: {}", log(folder));
    }
    for page in ["/ready", "/metrics", "/health", "/status.json"] {
        let head = format!("GET {page} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let (status, body) = http::request(server.address, &head).unwrap();
        if page == "/status.json" {
            assert!(status == 200 && body.contains(r#""last_error":{"reason""#), "{status} {body}");
        }
        look(page, body.as_bytes());
    }
    for command in [
        &["check"][..],
        &["check", "--connect"],
        &["config"],
        &["config", "--ddl", "postgres"],
        &["dead", "list"],
        &["dead", "list", "--json"],
        &["dead", "show"],
        &["dead", "show", "--json"],
        &["dead", "replay", "--sink", "http", "--dry-run"],
        &["dead", "replay", "--sink", "http"],
        &["dead", "replay", "--sink", "grpc"],
        &["wal", "inspect"],
        &["wal", "inspect", "--connect"],
        &["health", "localhost:1"],
        &["top", "--once", "localhost:1"],
    ] {
        let arguments = [command, &["--config", "t.toml"]].concat();
        let output = telemetryx(folder, &arguments);
        assert_ne!(output.status.code(), Some(2), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        look_at_output(&arguments, &output);
        if command == ["dead", "show"] {
            let shown = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(refuse.iter().all(|sink| shown.contains(sink)), "{shown}");
        }
    }
    drop(server);
    look("the log", &fs::read(folder.join("log")).unwrap());
    for kept in ["dead", "positions"].iter().filter_map(|name| fs::read_dir(folder.join("data").join(name)).ok()) {
        for file in kept {
            let path = file.unwrap().path();
            look(&path.display().to_string(), &fs::read(&path).unwrap());
        }
    }
}

#[test]
fn of_stores_that_are_away_no_secret_is_shown() {
    let nowhere = || "127.0.0.1:1".to_owned();
    let places = Places { postgres: nowhere(), redis: nowhere(), grpc: nowhere(), http: nowhere(), bearer: nowhere() };
    let words = ["sink=\"postgres\"", "sink=\"redis\"", "sink=\"grpc\"", "sink=\"http\""];
    nothing_is_shown(&places, &words, &[], "text");
}

#[test]
fn of_stores_that_refuse_the_login_no_secret_is_shown() {
    let postgres = Postgres::start(&[]);
    postgres.psql("postgres", "CREATE ROLE app LOGIN PASSWORD 'right'").unwrap();
    postgres.psql("postgres", "CREATE DATABASE app OWNER app").unwrap();
    postgres.put_file("pg_hba.conf", "host all app 127.0.0.1/32 scram-sha-256\nhost all postgres 127.0.0.1/32 trust\n");
    let redis = Redis::start(&["--requirepass", "right"]);
    let receiver = Receiver::start(&["--token", "right"]);
    let service = HttpService::shared();
    // It repeats what it was sent.
    let repeats = |sent: &str| {
        let name = service.name();
        let head = format!("HTTP/1.1 401 Unauthorized\r\nContent-Length: {}\r\n\r\n", sent.len());
        service.tell(&name, "answer", (head + sent).as_bytes());
        format!("localhost:{}/{name}", service.port())
    };
    let at = |port: u16| format!("127.0.0.1:{port}");
    let places = Places {
        postgres: at(postgres.port()),
        redis: at(redis.port()),
        grpc: at(receiver.port()),
        http: repeats(&format!("app:hunter@:/?#% zebra {TOKEN} key=hunterzebra")),
        bearer: repeats(&format!("Authorization: Bearer {TOKEN}")),
    };
    nothing_is_shown(&places, &["28P01", "WRONGPASS", "UNAUTHENTICATED", "HTTP 401"], &[], "json");
}

#[test]
fn of_stores_that_refuse_events_and_repeat_the_request_no_secret_is_shown() {
    let nowhere = || "127.0.0.1:1".to_owned();
    let receiver = Receiver::start(&["--token", TOKEN]);
    receiver.control(r#"{"echo": "VERDICT"}"#);
    let service = HttpService::shared();
    let echo = || {
        let name = service.name();
        service.tell(&name, "echo", b"400");
        format!("localhost:{}/{name}", service.port())
    };
    let places = Places {
        postgres: nowhere(),
        redis: nowhere(),
        grpc: format!("127.0.0.1:{}", receiver.port()),
        http: echo(),
        bearer: echo(),
    };
    nothing_is_shown(&places, &["events refused, kept in dead letters"], &["grpc", "http", "bearer"], "text");
}

#[test]
fn arguments_that_are_refused_are_not_repeated_where_they_may_hold_a_secret() {
    let folder = tempfile::tempdir().unwrap();
    let url = "postgres://u:hunterzebra@h/d";
    let setting = format!("sinks.postgres.url={url}");
    for arguments in [
        &["--set", url][..],
        &["run", url],
        &[&setting],
        &["run", &setting],
        &["run", "--sett", &setting],
        &["run", &format!("--sett={setting}")],
        &["--set", "postgres://u:hunterzebra@h/d?sslmode=require"],
        &["run", "sinks.http.token=hunterzebra"],
        &["run", "--sett=sinks.http.token=hunterzebra"],
        &["--config", url],
        &["--log-format", url],
        &["config", "--ddl", url],
        &["health", "http://u:hunterzebra@127.0.0.1:1"],
        &["health", "http://u:hunter@zebra/@127.0.0.1:1"],
        &["top", "http://u:hunterzebra@127.0.0.1:1"],
        &["top", "http://127.0.0.1:1?token=hunterzebra"],
    ] {
        let output = telemetryx(folder.path(), arguments);
        assert_ne!(output.status.code(), Some(0), "{arguments:?}");
        look_at_output(arguments, &output);
    }
    // The name of the argument is not a secret.
    let output = telemetryx(folder.path(), &["--set", "foo"]);
    let reported = String::from_utf8_lossy(&output.stderr);
    assert!(reported.contains("invalid value 'foo' for '--set <KEY=VALUE>'"), "{reported}");
}
