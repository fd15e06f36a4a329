//! `telemetryx wal` as its users call it: a log made here, the real binary, what it prints and how it exits.
#![cfg(feature = "sqlite")] // the default sink; it takes the server with it

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use telemetryx::pipeline::batch::Origin;
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
    assert!(shown.contains(&"07".repeat(16)) && shown.contains("1970-01-01T00:00:01"), "{shown}");
    let sink: Vec<_> = shown.lines().last().unwrap().split_whitespace().collect();
    assert_eq!(sink, ["sqlite", "-"], "{shown}");
    assert!(wal(folder.path(), &["verify"]).status.success());
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
    assert_eq!(said, "telemetryx: 1 places of the log are damaged; readers pass over them\n");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(fs::read(&files[1]).unwrap(), bytes, "only looked at");
}

#[test]
fn no_log_is_said_so() {
    let folder = tempfile::tempdir().unwrap();
    for command in ["inspect", "verify"] {
        let output = wal(folder.path(), &[command]);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(
            text(&output.stderr),
            "telemetryx: there is no log in telemetryx-data/wal: set data_dir to the server's\n"
        );
    }
    assert!(fs::read_dir(folder.path()).unwrap().next().is_none(), "nothing is made");
}
