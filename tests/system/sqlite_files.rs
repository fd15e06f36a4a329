//! Files of the SQLite sink that somebody removes while the server runs: nothing that was delivered is lost with them,
//! unless it is the database itself.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::http::{get, post};
use crate::support::ledger;
use crate::support::load::{Load, Plan};
use crate::support::seed;
use crate::support::server::{Server, own_address, wait_until};
use telemetryx::wire::AckLevel::{Delivered, Synced};

const PATIENCE: Duration = Duration::from_secs(90);
/// What sinks have passed leaves the log at once: nothing that the store loses can be delivered again.
const NOTHING_KEPT: [&str; 2] = ["wal.keep=0s", "wal.segment_bytes=64KiB"];

fn inode(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|metadata| metadata.ino())
}

fn files(directory: &Path) -> [PathBuf; 3] {
    ["events.db", "events.db-wal", "events.db-shm"].map(|name| directory.join(name))
}

fn integrity(database: &Path) -> String {
    ledger::open(database).query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap()
}

fn is_ok(server: &Server) -> bool {
    get(server.address(), "/ready").1.contains(r#""sqlite":"ok""#)
}

/// Each combination of files is removed under load; then the process is killed. `bits`: which of [`files`].
fn remove_and_kill(bits: usize) {
    let directory = tempfile::tempdir().unwrap();
    let at = format!("server.address={}", own_address());
    let settings = [&NOTHING_KEPT[..], &[&at]].concat();
    let mut server = Server::start(directory.path(), &settings);
    let agents = vec![Synced, Synced, Delivered, Delivered];
    let load = Load::start(server.address(), &Plan { agents, posters: vec![], ..Plan::mixed(seed()) });
    load.wait_for_acknowledged(2_000, PATIENCE);
    let files = files(directory.path());
    let removed: Vec<&PathBuf> =
        files.iter().enumerate().filter(|(index, _)| bits & 1 << index != 0).map(|(_, path)| path).collect();
    // Under other names they keep their inodes: else a new file may get the same one.
    let before: Vec<_> = removed.iter().map(|path| inode(path)).collect();
    for (index, path) in removed.iter().enumerate() {
        fs::hard_link(path, directory.path().join(format!("removed-{index}"))).unwrap();
        fs::remove_file(path).unwrap();
    }
    let is_new = |(path, before): (&&PathBuf, &Option<u64>)| inode(path).is_some_and(|now| Some(now) != *before);
    let are_new = || removed.iter().zip(&before).all(is_new);
    let noticed = wait_until(PATIENCE, are_new);
    load.wait_for_acknowledged(500, PATIENCE);
    let well = wait_until(PATIENCE, || is_ok(&server));
    assert!(noticed && well, "{removed:?}: noticed {noticed}, {}\n{}", get(server.address(), "/ready").1, server.log());
    server.kill();
    let mut server = Server::start(directory.path(), &settings);
    load.wait_for_acknowledged(500, PATIENCE);
    let ledger = load.finish(PATIENCE);
    let delivered = || matches!(post(server.address(), "?ack=delivered", r#"{"name":"fresh"}"#), Ok((200, _)));
    assert!(wait_until(PATIENCE, delivered), "{}", server.log());
    server.terminate();
    assert!(server.wait(PATIENCE).success(), "{}", server.log());
    assert_eq!(integrity(&files[0]), "ok", "{removed:?}");
    let outcome = ledger.compare_sqlite(&files[0]);
    println!("{removed:?}: {outcome}");
    if bits & 1 == 0 {
        outcome.assert_clean();
    }
}

#[test]
fn a_removed_log_of_sqlite_loses_nothing() {
    remove_and_kill(0b010);
}

#[test]
fn removed_shared_memory_of_sqlite_loses_nothing() {
    remove_and_kill(0b100);
}

#[test]
fn a_removed_log_and_shared_memory_of_sqlite_lose_nothing() {
    remove_and_kill(0b110);
}

#[test]
fn a_removed_database_is_made_anew_whatever_is_removed_with_it() {
    [0b001, 0b011, 0b101, 0b111].into_iter().for_each(remove_and_kill);
}

#[test]
fn a_log_that_is_removed_while_nothing_comes_is_noticed_and_its_rows_are_saved() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server::start(directory.path(), &NOTHING_KEPT);
    for _ in 0..20 {
        assert_eq!(post(server.address(), "?ack=delivered", r#"{"name":"e"}"#).unwrap().0, 200);
    }
    let [database, wal, _] = files(directory.path());
    fs::remove_file(&wal).unwrap();
    let noticed = wait_until(PATIENCE, || wal.exists());
    assert!(noticed && wait_until(PATIENCE, || is_ok(&server)), "{}", server.log());
    server.kill();
    assert_eq!(ledger::rows_stored(&database), 20);
    assert_eq!(integrity(&database), "ok");
}

#[test]
fn a_log_that_is_removed_while_a_delivery_fills_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server::start(directory.path(), &["sinks.sqlite.kind=sqlite", "sinks.sqlite.batch.max_age=1m"]);
    assert_eq!(post(server.address(), "?ack=delivered", r#"{"name":"e"}"#).unwrap().0, 200);
    assert_eq!(post(server.address(), "", r#"{"name":"e"}"#).unwrap().0, 200);
    let [database, wal, _] = files(directory.path());
    fs::remove_file(&wal).unwrap();
    // The delivery is due after 60 s.
    assert!(wait_until(Duration::from_secs(40), || wal.exists()), "{}", server.log());
    assert_eq!(ledger::rows_stored(&database), 1);
    assert!(wait_until(PATIENCE, || is_ok(&server)), "{}", server.log());
    server.kill();
}

#[test]
fn the_log_of_sqlite_shrinks_again_after_a_reader_that_held_it_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &[]);
    let [database, wal, _] = files(directory.path());
    let bytes = || fs::metadata(&wal).unwrap().len();
    let event = format!(r#"{{"name":"e","body":"{}"}}"#, "x".repeat(1_000));
    let body = format!("[{}]", vec![event; 3_000].join(","));
    let write = || assert_eq!(post(server.address(), "?ack=delivered", &body).unwrap().0, 200);
    write();
    let reader = ledger::open(&database);
    reader.execute_batch("BEGIN; SELECT count(*) FROM events").unwrap();
    (0..12).for_each(|_| write());
    assert!(bytes() > 24 << 20, "the reader holds it: {}", bytes());
    drop(reader);
    (0..3).for_each(|_| write());
    assert!(bytes() <= 16 << 20, "{}", bytes());
}
