//! Files that are moved, removed or replaced under an open database.

use super::*;

#[test]
fn a_database_that_was_removed_is_made_anew() {
    let (database, mut sink) = Database::with("");
    sink.deliver(&delivery(1..=3)).unwrap();
    fs::remove_file(database.path()).unwrap();
    retry(sink.deliver(&delivery(4..=5)));
    assert_eq!(sink.connect(), Ok(Some(0)));
    assert_eq!(sink.deliver(&delivery(4..=5)), Ok(()));
    assert_eq!(database.positions(), [4, 5]);
}

#[test]
fn a_database_that_was_moved_keeps_all_its_rows() {
    let (database, mut sink) = Database::with("");
    sink.deliver(&delivery(1..=300)).unwrap();
    let moved = database.path().with_extension("moved");
    fs::rename(database.path(), &moved).unwrap();
    retry(sink.deliver(&delivery(301..=302)));
    assert_eq!(sink.connect(), Ok(Some(0)));
    assert_eq!(sink.deliver(&delivery(301..=302)), Ok(()));
    assert_eq!(database.positions(), [301, 302]);
    let rows = Connection::open(moved).unwrap();
    let count: i64 = rows.query_row("SELECT count(*) FROM events", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 300, "also those that were still in its write-ahead log");
}

/// The file beside the database whose name ends so.
fn beside(database: &Database, suffix: &str) -> PathBuf {
    let mut name = database.path().into_os_string();
    name.push(suffix);
    name.into()
}

/// The positions that are left if the process is killed now: read from a copy of the files.
fn positions_after_a_kill(database: &Database) -> Vec<u64> {
    let copy = Database::new();
    fs::create_dir_all(copy.path().parent().unwrap()).unwrap();
    for suffix in ["", "-wal"] {
        let _ = fs::copy(beside(database, suffix), beside(&copy, suffix));
    }
    let integrity: String = copy.user().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(integrity, "ok");
    if copy.user().table_exists(None, "events").unwrap() { copy.positions() } else { Vec::new() }
}

#[test]
fn files_of_the_log_that_are_removed_or_replaced_are_noticed_and_lose_nothing() {
    for suffixes in [&["-wal"][..], &["-shm"], &["-wal", "-shm"]] {
        for replaced in [false, true] {
            let (database, mut sink) = Database::with("");
            sink.deliver(&delivery(1..=3)).unwrap();
            for suffix in suffixes {
                let old = fs::read(beside(&database, suffix)).unwrap();
                fs::remove_file(beside(&database, suffix)).unwrap();
                if replaced {
                    // Half of it, as a careless restore leaves it.
                    fs::write(beside(&database, suffix), &old[..old.len() / 2]).unwrap();
                }
            }
            let reason = retry(sink.deliver(&delivery(4..=5)));
            assert!(reason.contains(&format!("moved or removed: events.db{}", suffixes[0])), "{reason}");
            assert_eq!(sink.connect(), Ok(Some(3)), "{suffixes:?}");
            sink.deliver(&delivery(4..=5)).unwrap();
            assert_eq!(positions_after_a_kill(&database), [1, 2, 3, 4, 5], "{suffixes:?}, replaced: {replaced}");
        }
    }
}

#[test]
fn a_log_that_is_removed_while_nothing_is_delivered_is_noticed_all_the_same() {
    let (database, mut sink) = Database::with("");
    sink.deliver(&delivery(1..=3)).unwrap();
    assert_eq!(sink.check_in_place(), Ok(()));
    fs::remove_file(beside(&database, "-wal")).unwrap();
    assert!(positions_after_a_kill(&database).is_empty(), "this is what is at stake");
    retry(sink.check_in_place());
    assert_eq!(sink.connect(), Ok(Some(3)));
    assert_eq!(sink.check_in_place(), Ok(()));
    assert_eq!(positions_after_a_kill(&database), [1, 2, 3]);
}

#[test]
fn a_log_that_is_removed_in_the_middle_of_a_delivery_does_not_take_it_along() {
    let (database, mut sink) = Database::with("");
    sink.deliver(&delivery(1..=3)).unwrap();
    let mut connection = sink.connection.take().unwrap();
    sink.write(&mut connection, &delivery(4..=5), false).unwrap();
    sink.connection = Some(connection);
    fs::remove_file(beside(&database, "-wal")).unwrap();
    let reason = retry(sink.confirm());
    assert!(reason.contains("events.db-wal"), "{reason}");
    assert_eq!(sink.connect(), Ok(Some(5)));
    assert_eq!(positions_after_a_kill(&database), [1, 2, 3, 4, 5]);
}

#[test]
fn a_database_that_replaces_the_old_one_keeps_its_own_log() {
    let (database, mut sink) = Database::with("");
    sink.deliver(&delivery(1..=3)).unwrap();
    // Somebody's database with rows that are in its log only.
    let other = Database::new();
    let mut writer = other.sqlite(2);
    writer.connect().unwrap();
    writer.deliver(&delivery(1..=9)).unwrap();
    for suffix in ["-shm", "-wal", ""] {
        let _ = fs::remove_file(beside(&database, suffix));
        if suffix != "-shm" {
            fs::copy(beside(&other, suffix), beside(&database, suffix)).unwrap();
        }
    }
    retry(sink.deliver(&delivery(10..=11)));
    assert!(down(sink.connect()).contains("fenced at position 9"));
    assert_eq!(database.positions(), (1..=9).collect::<Vec<_>>());
}

#[test]
fn rows_of_a_removed_log_wait_for_a_reader_that_keeps_them_from_the_database() {
    let (database, mut sink) = Database::with("");
    sink.deliver(&delivery(1..=3)).unwrap();
    let reader = database.user();
    reader.execute_batch("BEGIN; SELECT count(*) FROM events").unwrap();
    sink.deliver(&delivery(4..=5)).unwrap();
    fs::remove_file(beside(&database, "-wal")).unwrap();
    sink.connection.as_ref().unwrap().busy_timeout(Duration::from_millis(10)).unwrap();
    let reason = retry(sink.connect());
    assert!(reason.contains("rows of a removed -wal file cannot be moved"), "{reason}");
    retry(sink.deliver(&delivery(6..=7)));
    drop(reader);
    assert_eq!(sink.connect(), Ok(Some(5)));
    assert_eq!(positions_after_a_kill(&database), [1, 2, 3, 4, 5]);
}
