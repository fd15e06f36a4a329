//! Data directories that earlier revisions wrote, in `tests/fixtures`: the current program starts on a copy of them, and
//! continues where they ended.
#![cfg(feature = "http-sink")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use crate::support::agent::{RawAgent, batch, data, hello, named};
use crate::support::server::{Server, wait_until};
use crate::support::stores::HttpService;
use rusqlite::Connection;
use telemetryx::event::proto::{Event, EventKind};
use telemetryx::wire::Hello;

const PATIENCE: Duration = Duration::from_secs(60);
/// What `tests/fixtures/README.md` says of the data.
const EVENTS: usize = 14;
const EDGE: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
const EDGE_EPOCH: u64 = 229_970_352_350_615;
const EDGE_SEQ: u64 = 5;

/// A copy of the data that revision 1c021b5 wrote, which git may have checked out read-only.
fn data_of_1c021b5() -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_directory(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data-1c021b5"), copy.path());
    copy
}

fn copy_directory(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (path, copy) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            fs::create_dir(&copy).unwrap();
            copy_directory(&path, &copy);
        } else {
            fs::write(&copy, fs::read(&path).unwrap()).unwrap();
        }
    }
}

fn settings(url: &str) -> Vec<String> {
    let url = format!("sinks.service.url={url}");
    let fixed = ["sinks.sqlite.kind=sqlite", "sinks.archive.kind=file", "sinks.archive.path=archive.ndjson"];
    fixed
        .into_iter()
        .chain(["wal.segment_bytes=64KiB", "sinks.service.kind=http", "sinks.service.format=ndjson", &url])
        .map(str::to_owned)
        .collect()
}

fn start(data: &Path, url: &str) -> Server {
    let settings = settings(url);
    Server::start(data, &settings.iter().map(String::as_str).collect::<Vec<_>>())
}

fn telemetryx(data: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_telemetryx"));
    command.args(arguments).current_dir(data).env_remove("TELEMETRYX_CONFIG");
    command.args(["--set", &format!("data_dir={}", data.display())]).output().expect("the binary starts")
}

/// The event of the agent's last frame.
fn last_event() -> Event {
    Event {
        time_unix_nano: 1_790_000_000_000_000_000,
        kind: EventKind::Log as i32,
        body: "ünïcode \u{2028} body".to_owned(),
        ..named("grüße")
    }
}

/// Names of the events that the service has, in the order of their arrival.
fn names_of_service(service: &HttpService, name: &str) -> Vec<String> {
    let bodies = service.requests(name).into_iter().map(|request| request.body);
    let lines = bodies.flat_map(|body| body.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>());
    let events = lines.filter(|line| !line.is_empty()).map(|line| serde_json::from_slice::<serde_json::Value>(&line));
    events.map(|event| event.unwrap()["name"].as_str().unwrap().to_owned()).collect()
}

/// Positions and names in the SQLite file.
fn rows(data: &Path) -> Vec<(i64, String)> {
    let database = Connection::open(data.join("events.db")).unwrap();
    let mut statement = database.prepare("SELECT position, name FROM events ORDER BY position").unwrap();
    statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
}

#[test]
fn what_was_not_delivered_is_delivered_and_nothing_twice() {
    let copy = data_of_1c021b5();
    let data_dir = copy.path();
    let service = HttpService::shared();
    let name = service.name();
    let before = rows(data_dir);
    assert_eq!(before.len(), EVENTS - 1, "all but the refused one");

    let mut server = start(data_dir, &service.url(&name));
    let (mut agent, welcome) =
        RawAgent::greeted(server.address(), Hello { name: "edge-7", oldest_seq: EDGE_SEQ, ..hello(EDGE, EDGE_EPOCH) });
    assert_eq!((welcome.epoch, welcome.last_seq), (EDGE_EPOCH, EDGE_SEQ), "the mark of the agent is known");
    agent.send(&data(EDGE_SEQ, &batch(vec![last_event()])));
    agent.send(&data(EDGE_SEQ + 1, &batch(vec![named("new")])));
    agent.acknowledged(EDGE_SEQ + 1);
    agent.finish();
    let expected = EVENTS + 1;
    let arrived = wait_until(PATIENCE, || names_of_service(service, &name).len() >= expected);
    assert!(arrived && wait_until(PATIENCE, || rows(data_dir).len() >= EVENTS), "{}", server.log());
    server.terminate();
    assert!(server.wait(PATIENCE).success(), "{}", server.log());

    let names = names_of_service(service, &name);
    assert_eq!(names[..4], ["boot", "boot", "boot", "load"]);
    assert_eq!((names.len(), names.last().map(String::as_str)), (expected, Some("new")));
    assert!(names.iter().any(|name| name == "bad"), "each sink refuses for itself: {names:?}");
    let after = rows(data_dir);
    assert_eq!(after[..before.len()], before);
    assert_eq!(after[before.len()..], [(EVENTS as i64 + 1, "new".to_owned())]);
    let archive = fs::read_to_string(data_dir.join("archive.ndjson")).unwrap();
    assert_eq!(archive.lines().count(), expected);
}

#[test]
fn dead_letters_are_listed_with_ingest_for_those_rejected_on_receipt() {
    let copy = data_of_1c021b5();
    let output = telemetryx(copy.path(), &["dead", "list", "--json"]);
    assert!(output.status.success(), "{output:?}");
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let group = |group: &serde_json::Value| {
        (group["sink"].as_str().unwrap().to_owned(), group["code"].as_str().unwrap().to_owned())
    };
    let groups: Vec<_> = list["groups"].as_array().unwrap().iter().map(group).collect();
    let expected = [("ingest", "MALFORMED"), ("ingest", "PARTIAL"), ("sqlite", "SQLITE_CONSTRAINT_TRIGGER")]
        .map(|(sink, code)| (sink.to_owned(), code.to_owned()));
    assert_eq!(groups, expected);
}

#[test]
fn a_dead_letter_is_replayed_once_its_cause_is_gone() {
    let copy = data_of_1c021b5();
    Connection::open(copy.path().join("events.db")).unwrap().execute("DROP TRIGGER no_bad", []).unwrap();
    let output = telemetryx(copy.path(), &["dead", "replay", "--sink", "sqlite"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(rows(copy.path()).iter().filter(|row| row.1 == "bad").count(), 1);
}

/// Raises the format in a segment's header, and its checksum with it. Returns the file's name.
fn raise_format(data: &Path) -> PathBuf {
    let mut segments: Vec<_> = fs::read_dir(data.join("wal")).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.sort_unstable();
    let newest = segments.pop().unwrap();
    let mut bytes = fs::read(&newest).unwrap();
    // The layout of docs/log.md: the version in bytes 4 and 5, the checksum of the first 52 bytes after them.
    bytes[4..6].copy_from_slice(&2_u16.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..52]);
    bytes[52..56].copy_from_slice(&crc.to_le_bytes());
    fs::write(&newest, bytes).unwrap();
    newest
}

#[test]
fn a_log_of_a_newer_format_is_refused_by_name_and_left_as_it_is() {
    let copy = data_of_1c021b5();
    let file = raise_format(copy.path());
    let wal = || {
        let files = fs::read_dir(copy.path().join("wal")).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = files.map(|path| (fs::read(&path).unwrap(), path)).collect();
        files.sort_unstable();
        files
    };
    let before = wal();
    let settings = settings("http://127.0.0.1:9/");
    let mut process = Server::launch(copy.path(), &settings.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(process.wait(PATIENCE).code(), Some(1));
    let log = process.log();
    let refused =
        format!("{} has format 2, this telemetryx writes format 1: start the version that wrote it", file.display());
    assert!(log.contains(&refused), "{log}");
    assert_eq!(wal(), before);
}
