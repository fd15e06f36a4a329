//! `telemetryx wal` as its users call it: a log made here, the real binary, what it prints and how it exits.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use telemetryx::batch::Origin;
use telemetryx::random::Random;
use telemetryx::wal::{DirStorage, Entry, Kind, Settings, open};

fn wal(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_telemetryx"));
    command.arg("wal").args(arguments).current_dir(folder).env_clear().stdin(Stdio::null());
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// A log of 20 records of two events. Returns the writer too: the log is being written while a command looks.
fn log(folder: &Path) -> telemetryx::wal::Opened {
    let dir = folder.join("telemetryx-data/wal");
    let settings = Settings {
        dir: dir.clone(),
        segment_bytes: 4096,
        max_bytes: 1 << 20,
        keep: Duration::ZERO,
        max_agents: 10,
        dedupe_retention: Duration::from_secs(60),
    };
    let storage = Arc::new(DirStorage::create(&dir).unwrap());
    let mut opened = open(&settings, storage, &mut Random::seeded(1), 5).unwrap();
    let name = "api".to_owned();
    let origin = Origin { agent_id: Some([7; 16]), agent: Some(name.clone()), default_source: name, epoch: 3 };
    let origin = Arc::new(origin);
    for seq in 1..=20 {
        let kind = Kind::Frame { seq, sent_crc: 9 };
        let payload = [seq as u8; 500];
        let received_unix_nano = 1_000_000_000;
        let entry =
            Entry { kind, origin: &origin, events: 2, received_unix_nano, payload: &payload, payload_crc: None };
        opened.writer.append(&[entry]).unwrap();
        opened.writer.sync().unwrap();
    }
    opened
}

#[test]
fn inspect_shows_segments_agents_and_sinks_of_a_log_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let opened = log(folder.path());
    let output = wal(folder.path(), &["inspect"]);
    let shown = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(shown.contains("oldest position 1, next 41"), "{shown}");
    assert_eq!(shown.matches(".seg ").count(), opened.report.segments + 3, "{shown}");
    let agent: Vec<_> = shown.lines().rev().nth(3).unwrap().split_whitespace().collect();
    assert_eq!(agent, ["api", "3", "20", "1970-01-01T00:00:01Z"], "the name, not the id: {shown}");
    let sink: Vec<_> = shown.lines().last().unwrap().split_whitespace().collect();
    assert_eq!(sink, ["sqlite", "-", "40"], "{shown}");
    assert!(wal(folder.path(), &["verify"]).status.success());
}

#[test]
fn documents_have_all_that_the_tables_have() {
    let folder = tempfile::tempdir().unwrap();
    let _opened = log(folder.path());
    let document = |arguments: &[&str]| -> serde_json::Value {
        let output = wal(folder.path(), arguments);
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
        assert_eq!(text(&output.stdout).lines().count(), 1);
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let found = document(&["inspect", "--json"]);
    assert_eq!((&found["oldest_position"], &found["next_position"]), (&1.into(), &41.into()));
    let events: u64 =
        found["segments"].as_array().unwrap().iter().map(|segment| segment["events"].as_u64().unwrap()).sum();
    assert_eq!(events, 40);
    let agent = &found["agents"][0];
    assert_eq!((&agent["agent_id"], &agent["name"]), (&"07".repeat(16).into(), &"api".into()));
    assert_eq!((&agent["epoch"], &agent["last_seq"]), (&3.into(), &20.into()));
    assert_eq!((&found["sinks"][0]["sink"], &found["sinks"][0]["position"]), (&"sqlite".into(), &0.into()));
    let verified = document(&["verify", "--json"]);
    assert_eq!((&verified["valid_records"], &verified["corrupt"]), (&20.into(), &serde_json::json!([])));
}

/// After a kill during a write the positions of the next start begin 2^24 later.
#[test]
fn positions_that_a_start_left_out_are_not_events_that_wait() {
    let folder = tempfile::tempdir().unwrap();
    drop(log(folder.path()));
    let dir = folder.path().join("telemetryx-data/wal");
    let mut files: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let last = files.iter().rfind(|file| fs::metadata(file).unwrap().len() > 1_000).unwrap();
    let bytes = fs::read(last).unwrap();
    // Half of the last record of all.
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    fs::write(last, &bytes[..end - 100]).unwrap();
    drop(log(folder.path()));
    let output = wal(folder.path(), &["inspect", "--json"]);
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(found["next_position"].as_u64() > Some(1 << 24), "{found}");
    let events = found["segments"].as_array().unwrap().iter().map(|segment| segment["events"].as_u64().unwrap());
    assert_eq!(found["sinks"][0]["events_behind"], events.sum::<u64>(), "{found}");
}

#[test]
fn verify_names_what_is_damaged_and_exits_1() {
    let folder = tempfile::tempdir().unwrap();
    drop(log(folder.path()));
    let dir = folder.path().join("telemetryx-data/wal");
    let mut files: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut bytes = fs::read(&files[1]).unwrap();
    let payload = bytes.windows(20).position(|window| window == [8; 20]).unwrap();
    bytes[payload + 100] ^= 1;
    fs::write(&files[1], &bytes).unwrap();
    let output = wal(folder.path(), &["verify"]);
    let name = files[1].file_name().unwrap().to_str().unwrap();
    let (shown, said) = (text(&output.stdout), text(&output.stderr));
    assert!(shown.starts_with(&format!("{name} at ")) && shown.contains("positions 15 to 16"), "{shown}");
    assert_eq!(said, "telemetryx: 1 place of the log is corrupt; readers skip it\n");
    let document = wal(folder.path(), &["verify", "--json"]);
    assert_eq!(document.status.code(), Some(1));
    let document: serde_json::Value = serde_json::from_slice(&document.stdout).unwrap();
    let place = &document["corrupt"][0];
    assert_eq!(
        (&place["file"], &place["first_position"], &place["last_position"]),
        (&name.into(), &15.into(), &16.into())
    );
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(fs::read(&files[1]).unwrap(), bytes, "only looked at");
}

/// A sink whose store is not there: `inspect` does not wait for it unless it is asked to.
#[cfg(all(feature = "postgres", feature = "redis"))]
#[test]
fn positions_in_servers_are_read_where_asked() {
    let folder = tempfile::tempdir().unwrap();
    let _opened = log(folder.path());
    let sinks = [
        "sinks.pg.kind=postgres",
        "sinks.pg.url=postgres://u:secret@127.0.0.1:1/d",
        "sinks.r.kind=redis",
        "sinks.r.url=redis://:secret@127.0.0.1:1",
    ];
    let sets: Vec<&str> = sinks.iter().flat_map(|set| ["--set", set]).collect();
    let output = wal(folder.path(), &[&["inspect"], &sets[..]].concat());
    let shown = text(&output.stdout);
    assert_eq!(shown.matches("not asked").count(), 3, "{shown}");
    assert!(shown.contains("--connect reads"), "{shown}");
    let output = wal(folder.path(), &[&["inspect", "--connect"], &sets[..]].concat());
    let shown = text(&output.stdout);
    assert_eq!((output.status.code(), shown.matches(" unknown  ").count()), (Some(0), 2), "{shown}");
    assert_eq!(shown.matches(": position unknown: ").count(), 2, "{shown}");
    assert!(!shown.contains("secret"), "{shown}");
}

#[test]
fn no_log_is_said_so() {
    let folder = tempfile::tempdir().unwrap();
    for command in ["inspect", "verify"] {
        let output = wal(folder.path(), &[command]);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(
            text(&output.stderr),
            "telemetryx: there is no log in telemetryx-data/wal: set data_dir to that of the server\n"
        );
    }
    assert!(fs::read_dir(folder.path()).unwrap().next().is_none(), "nothing is made");
}
