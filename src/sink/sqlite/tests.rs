use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rusqlite::types::Value;
use tempfile::TempDir;

use super::super::testing::{self, Store, batch_of, delivery, delivery_of, identity, named};
use super::*;
use crate::event::proto::{self, Attribute, attribute};

struct Database {
    dir: TempDir,
}

impl Database {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("new/folder/events.db")
    }

    fn sqlite(&self, owner: u8) -> Sqlite {
        Sqlite::new("main", &Settings { path: self.path(), keep: None }, &identity(owner))
    }

    /// A sink on a database in which `sql` was run once the tables were there.
    fn with(sql: &str) -> (Self, Sqlite) {
        let database = Self::new();
        let mut sink = database.sqlite(1);
        sink.connect().unwrap();
        database.user().execute_batch(sql).unwrap();
        (database, sink)
    }

    /// Somebody else's connection.
    fn user(&self) -> Connection {
        let connection = Connection::open(self.path()).unwrap();
        connection.busy_timeout(Duration::from_secs(10)).unwrap();
        connection
    }

    fn positions(&self) -> Vec<u64> {
        self.rows().unwrap().into_iter().map(|(position, _)| position).collect()
    }
}

impl Store for Database {
    const EXACTLY_ONCE: bool = true;
    const KEEPS_POSITIONS: bool = true;
    const REPLAYS: Option<bool> = Some(true);

    fn sink(&self, owner: u8) -> Box<dyn Sink> {
        Box::new(self.sqlite(owner))
    }

    const NAN_IS_UNSET: bool = true;

    fn stored(&self) -> Option<Vec<testing::Row>> {
        Some(testing::rows_of_sqlite(&self.user()))
    }
}

fn refused(result: Result<(), Failure>) -> Vec<(u64, String)> {
    match result {
        Err(Failure::Refused(refusals)) => {
            refusals.into_iter().map(|refusal| (refusal.position, refusal.code)).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn down<T: std::fmt::Debug>(result: Result<T, impl Into<Failure>>) -> String {
    match result.map_err(Into::into) {
        Err(Failure::Unavailable(Unavailable::Down { reason })) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_column_of_the_users_that_wants_a_value_is_down_and_no_row_is_refused_for_it() {
    let table = ddl().replacen("attributes TEXT,", "attributes TEXT, site TEXT NOT NULL,", 1);
    let (_database, mut sink) = Database::with(&format!("DROP TABLE events; {table}"));
    let reason = down(sink.deliver(&delivery(1..=2), &[]));
    assert!(reason.contains("give the column site a default"), "{reason}");
}

#[test]
fn a_row_that_lacks_a_generated_value_is_refused_alone() {
    let generated = "attributes TEXT, site TEXT GENERATED ALWAYS AS (nullif(name, 'e2')) STORED NOT NULL,";
    let table = ddl().replacen("attributes TEXT,", generated, 1);
    let (database, mut sink) = Database::with(&format!("DROP TABLE events; {table}"));
    assert_eq!(refused(sink.deliver(&delivery(1..=3), &[])), [(2, "SQLITE_CONSTRAINT_NOTNULL".into())]);
    assert_eq!(sink.deliver(&delivery(1..=3), &[2]), Ok(()));
    assert_eq!(database.positions(), [1, 3]);
}

#[test]
fn passes_the_conformance_suite() {
    testing::conformance(Database::new);
}

#[test]
fn every_field_has_its_column() {
    let database = Database::new();
    let mut sink = database.sqlite(1);
    sink.connect().unwrap();
    let full = proto::Event {
        time_unix_nano: 1,
        kind: proto::EventKind::Span.into(),
        severity: 9,
        source: "host".into(),
        name: "na\0me".into(),
        body: "zwölf".into(),
        attributes: vec![Attribute { key: "k".into(), value: Some(attribute::Value::IntValue(1)) }],
        value: Some(1.5),
        duration_nano: 77,
        trace_id: vec![0xab; 16],
        span_id: vec![0xcd; 8],
        parent_span_id: vec![0xef; 8],
    };
    sink.deliver(&delivery_of(batch_of(1, vec![vec![full, named("bare")]])), &[]).unwrap();
    let user = database.user();
    let mut rows = user.prepare("SELECT * FROM events ORDER BY position").unwrap();
    let row = |row: &rusqlite::Row<'_>| (0..16).map(|column| row.get(column)).collect();
    let rows: rusqlite::Result<Vec<Vec<Value>>> = rows.query_map([], row).unwrap().collect();
    let text = |text: &str| Value::Text(text.to_owned());
    let full = vec![
        text("5e5e5e5e-5e5e-5e5e-5e5e-5e5e5e5e5e5e"),
        Value::Integer(1),
        text("2026-01-02T03:04:05.000000006Z"),
        text("1970-01-01T00:00:00.000000001Z"),
        text("span"),
        Value::Integer(9),
        text("host"),
        text("na\0me"),
        text("zwölf"),
        Value::Real(1.5),
        Value::Integer(77),
        text(&"ab".repeat(16)),
        text(&"cd".repeat(8)),
        text(&"ef".repeat(8)),
        text("api"),
        text("{\"k\":1}"),
    ];
    let mut bare = vec![Value::Null; 16];
    bare[0] = text("5e5e5e5e-5e5e-5e5e-5e5e-5e5e5e5e5e5e");
    bare[1] = Value::Integer(2);
    bare[2] = text("2026-01-02T03:04:05.000000006Z");
    bare[3] = text("2026-01-02T03:04:05.000000006Z");
    bare[4] = text("log");
    bare[6] = text("api");
    bare[7] = text("bare");
    bare[14] = text("api");
    assert_eq!(rows.unwrap(), [full, bare]);
}

#[test]
fn the_database_is_durable_and_readable_while_written() {
    let (database, sink) = Database::with("");
    let mode: String = database.user().query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
    let synchronous: i64 = sink.connection.unwrap().query_row("PRAGMA synchronous", [], |row| row.get(0)).unwrap();
    assert_eq!(synchronous, 2, "FULL");
}

#[test]
fn all_rows_that_a_constraint_refuses_are_named_and_the_rest_can_be_stored() {
    let (database, mut sink) = Database::with(
        "CREATE TRIGGER no_e3 BEFORE INSERT ON events WHEN new.name = 'e3' BEGIN SELECT RAISE(ABORT, 'no e3'); END;
         CREATE UNIQUE INDEX one_body ON events (body);",
    );
    let mut events: Vec<_> = (1..=5).map(|n| named(format!("e{n}"))).collect();
    events[0].body = "same".into();
    events[4].body = "same".into();
    let delivery = delivery_of(batch_of(1, vec![events]));
    let refusals = refused(sink.deliver(&delivery, &[]));
    assert_eq!(refusals, [(3, "SQLITE_CONSTRAINT_TRIGGER".into()), (5, "SQLITE_CONSTRAINT_UNIQUE".into())]);
    assert!(database.positions().is_empty(), "nothing of it is stored");
    assert_eq!(sink.deliver(&delivery, &[3, 5]), Ok(()));
    assert_eq!(database.positions(), [1, 2, 4]);
}

#[test]
fn a_trigger_that_ends_the_transaction_names_its_row() {
    let (database, mut sink) = Database::with(
        "CREATE TRIGGER no_e2 BEFORE INSERT ON events WHEN new.name = 'e2' BEGIN SELECT RAISE(ROLLBACK, 'no'); END;",
    );
    assert_eq!(refused(sink.deliver(&delivery(1..=3), &[])), [(2, "SQLITE_CONSTRAINT_TRIGGER".into())]);
    assert_eq!(sink.deliver(&delivery(1..=3), &[2]), Ok(()));
    assert_eq!(database.positions(), [1, 3]);
}

#[test]
fn the_users_own_table_with_a_check_is_used() {
    let database = Database::new();
    fs::create_dir_all(database.path().parent().unwrap()).unwrap();
    let create = CREATE.replace("name TEXT,", "name TEXT CHECK (name <> 'e2'), site TEXT DEFAULT 'here',");
    database.user().execute_batch(&create).unwrap();
    let mut sink = database.sqlite(1);
    sink.connect().unwrap();
    assert_eq!(refused(sink.deliver(&delivery(1..=3), &[])), [(2, "SQLITE_CONSTRAINT_CHECK".into())]);
}

#[test]
fn a_constraint_that_is_checked_at_the_commit_names_no_row() {
    let (database, mut sink) = Database::with("CREATE TABLE kinds (name TEXT PRIMARY KEY);");
    let strict = CREATE
        .replace("kind TEXT NOT NULL", "kind TEXT NOT NULL REFERENCES kinds (name) DEFERRABLE INITIALLY DEFERRED");
    database.user().execute_batch(&format!("DROP TABLE events; {strict}")).unwrap();
    sink.connect().unwrap();
    sink.connection.as_ref().unwrap().pragma_update(None, "foreign_keys", true).unwrap();
    let result = sink.deliver(&delivery(1..=3), &[]);
    assert!(matches!(&result, Err(Failure::BatchRefused { code, .. }) if code.contains("FOREIGNKEY")), "{result:?}");
    database.user().execute_batch("INSERT INTO kinds VALUES ('log')").unwrap();
    assert_eq!(sink.deliver(&delivery(1..=3), &[]), Ok(()));
    assert_eq!(database.positions(), [1, 2, 3]);
}

#[test]
fn a_table_without_a_column_or_the_key_is_down_with_what_to_do() {
    let (database, mut sink) = Database::with("ALTER TABLE events DROP COLUMN body;");
    let reason = down(sink.connect());
    assert!(reason.contains("table events has no column named body: add what is missing"), "{reason}");
    let keyless = CREATE.replacen(",\n        PRIMARY KEY (server_id, position)\n    ) WITHOUT ROWID", ")", 1);
    database.user().execute_batch(&format!("DROP TABLE events; {keyless}")).unwrap();
    let reason = down(sink.connect());
    assert!(reason.contains("PRIMARY KEY"), "{reason}");
}

#[test]
fn a_file_that_is_no_database_is_down() {
    let database = Database::new();
    fs::create_dir_all(database.path().parent().unwrap()).unwrap();
    fs::write(database.path(), "no database, but long enough to be looked at".repeat(100)).unwrap();
    let reason = down(database.sqlite(1).connect());
    assert!(reason.contains("events.db") && reason.contains("not a database"), "{reason}");
}

#[test]
fn the_newest_owner_wins_and_the_older_one_does_not_take_it_back() {
    let database = Database::new();
    let mut old = database.sqlite(1);
    old.connect().unwrap();
    old.deliver(&delivery(1..=2), &[]).unwrap();
    let mut new = database.sqlite(2);
    assert_eq!(new.connect(), Ok(Some(2)));
    let reason = down(old.deliver(&delivery(3..=4), &[]));
    assert!(reason.contains("fenced at position 2"), "{reason}");
    assert!(down(old.connect()).contains("fenced"));
    new.deliver(&delivery(3..=4), &[]).unwrap();
    // What the other has stored is stored.
    assert_eq!(new.deliver(&delivery(3..=4), &[]), Ok(()));
    assert!(down(old.connect()).contains("fenced"));
    assert_eq!(database.positions(), [1, 2, 3, 4]);
}

#[test]
fn sinks_and_logs_have_their_own_positions_in_one_database() {
    let database = Database::new();
    let mut first = database.sqlite(1);
    first.connect().unwrap();
    first.deliver(&delivery(1..=5), &[]).unwrap();
    let other_log = Identity { server_id: [9; 16], ..identity(1) };
    let settings = Settings { path: database.path(), keep: None };
    let mut second = Sqlite::new("main", &settings, &other_log);
    assert_eq!(second.connect(), Ok(Some(0)));
    second.deliver(&delivery(1..=3), &[]).unwrap();
    assert_eq!(Sqlite::new("other", &settings, &identity(1)).connect(), Ok(Some(0)));
    assert_eq!(database.rows().unwrap().len(), 8);
}

#[test]
fn a_crash_before_the_commit_leaves_nothing_and_one_after_it_everything() {
    let database = Database::new();
    let mut sink = database.sqlite(1);
    sink.connect().unwrap();
    {
        let mut connection = sink.connection.take().unwrap();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        assert_eq!(sink.insert(&transaction, &delivery(1..=3), &[]), Ok(vec![]));
        // Dropped in the middle, as a killed process leaves it.
    }
    assert!(database.positions().is_empty());
    let mut sink = database.sqlite(2);
    assert_eq!(sink.connect(), Ok(Some(0)));
    sink.deliver(&delivery(1..=3), &[]).unwrap();
    drop(sink);
    let mut sink = database.sqlite(3);
    assert_eq!(sink.connect(), Ok(Some(3)));
    assert_eq!(sink.deliver(&delivery(1..=3), &[]), Ok(()));
    assert_eq!(database.positions(), [1, 2, 3]);
}

#[test]
fn a_row_that_is_there_already_stays_as_it_is() {
    let (database, mut sink) = Database::with("");
    sink.deliver(&delivery(1..=3), &[]).unwrap();
    // The store was restored from a copy in which the position is older than the rows.
    database.user().execute_batch("UPDATE telemetryx_positions SET position = 1").unwrap();
    sink.connect().unwrap();
    assert_eq!(sink.deliver(&delivery(2..=4), &[]), Ok(()));
    assert_eq!(database.positions(), [1, 2, 3, 4]);
}

#[test]
fn a_database_that_was_removed_is_made_anew() {
    let (database, mut sink) = Database::with("");
    sink.deliver(&delivery(1..=3), &[]).unwrap();
    fs::remove_file(database.path()).unwrap();
    let result = sink.deliver(&delivery(4..=5), &[]);
    assert!(matches!(result, Err(Failure::Unavailable(Unavailable::Retry { .. }))), "{result:?}");
    assert_eq!(sink.connect(), Ok(Some(0)));
    assert_eq!(sink.deliver(&delivery(4..=5), &[]), Ok(()));
    assert_eq!(database.positions(), [4, 5]);
}

#[test]
fn a_database_that_was_moved_keeps_all_its_rows() {
    let (database, mut sink) = Database::with("");
    sink.deliver(&delivery(1..=300), &[]).unwrap();
    let moved = database.path().with_extension("moved");
    fs::rename(database.path(), &moved).unwrap();
    let result = sink.deliver(&delivery(301..=302), &[]);
    assert!(matches!(result, Err(Failure::Unavailable(Unavailable::Retry { .. }))), "{result:?}");
    assert_eq!(sink.connect(), Ok(Some(0)));
    assert_eq!(sink.deliver(&delivery(301..=302), &[]), Ok(()));
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

fn is_retry<T: std::fmt::Debug>(result: Result<T, impl Into<Failure>>) -> String {
    match result.map_err(Into::into) {
        Err(Failure::Unavailable(Unavailable::Retry { reason, .. })) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn files_of_the_log_that_are_removed_or_replaced_are_noticed_and_lose_nothing() {
    for suffixes in [&["-wal"][..], &["-shm"], &["-wal", "-shm"]] {
        for replaced in [false, true] {
            let (database, mut sink) = Database::with("");
            sink.deliver(&delivery(1..=3), &[]).unwrap();
            for suffix in suffixes {
                let old = fs::read(beside(&database, suffix)).unwrap();
                fs::remove_file(beside(&database, suffix)).unwrap();
                if replaced {
                    // Half of it, as a careless restore leaves it.
                    fs::write(beside(&database, suffix), &old[..old.len() / 2]).unwrap();
                }
            }
            let reason = is_retry(sink.deliver(&delivery(4..=5), &[]));
            assert!(reason.contains(&format!("moved or removed: events.db{}", suffixes[0])), "{reason}");
            assert_eq!(sink.connect(), Ok(Some(3)), "{suffixes:?}");
            sink.deliver(&delivery(4..=5), &[]).unwrap();
            assert_eq!(positions_after_a_kill(&database), [1, 2, 3, 4, 5], "{suffixes:?}, replaced: {replaced}");
        }
    }
}

#[test]
fn a_log_that_is_removed_while_nothing_is_delivered_is_noticed_by_the_upkeep() {
    let (database, mut sink) = Database::with("");
    sink.deliver(&delivery(1..=3), &[]).unwrap();
    assert_eq!(sink.upkeep(at(1)).unwrap().reconnect, None);
    fs::remove_file(beside(&database, "-wal")).unwrap();
    assert!(positions_after_a_kill(&database).is_empty(), "this is what is at stake");
    let upkeep = sink.upkeep(at(2)).unwrap();
    assert!(upkeep.reconnect.is_some() && upkeep.again == Some(limits::SQLITE_FILES_INTERVAL), "{upkeep:?}");
    assert_eq!(sink.connect(), Ok(Some(3)));
    assert_eq!(sink.upkeep(at(3)).unwrap().reconnect, None);
    assert_eq!(positions_after_a_kill(&database), [1, 2, 3]);
}

#[test]
fn a_log_that_is_removed_in_the_middle_of_a_delivery_does_not_take_it_along() {
    let (database, mut sink) = Database::with("");
    sink.deliver(&delivery(1..=3), &[]).unwrap();
    let mut connection = sink.connection.take().unwrap();
    sink.write(&mut connection, &delivery(4..=5), &[]).unwrap();
    sink.connection = Some(connection);
    fs::remove_file(beside(&database, "-wal")).unwrap();
    let reason = is_retry(sink.confirm());
    assert!(reason.contains("events.db-wal"), "{reason}");
    assert_eq!(sink.connect(), Ok(Some(5)));
    assert_eq!(positions_after_a_kill(&database), [1, 2, 3, 4, 5]);
}

#[test]
fn a_database_that_replaces_the_old_one_keeps_its_own_log() {
    let (database, mut sink) = Database::with("");
    sink.deliver(&delivery(1..=3), &[]).unwrap();
    // Somebody's database with rows that are in its log only.
    let other = Database::new();
    let mut writer = other.sqlite(2);
    writer.connect().unwrap();
    writer.deliver(&delivery(1..=9), &[]).unwrap();
    for suffix in ["-shm", "-wal", ""] {
        let _ = fs::remove_file(beside(&database, suffix));
        if suffix != "-shm" {
            fs::copy(beside(&other, suffix), beside(&database, suffix)).unwrap();
        }
    }
    is_retry(sink.deliver(&delivery(10..=11), &[]));
    assert!(down(sink.connect()).contains("fenced at position 9"));
    assert_eq!(database.positions(), (1..=9).collect::<Vec<_>>());
}

#[test]
fn rows_of_a_removed_log_wait_for_a_reader_that_keeps_them_from_the_database() {
    let (database, mut sink) = Database::with("");
    sink.deliver(&delivery(1..=3), &[]).unwrap();
    let reader = database.user();
    reader.execute_batch("BEGIN; SELECT count(*) FROM events").unwrap();
    sink.deliver(&delivery(4..=5), &[]).unwrap();
    fs::remove_file(beside(&database, "-wal")).unwrap();
    sink.connection.as_ref().unwrap().busy_timeout(Duration::from_millis(10)).unwrap();
    let reason = is_retry(sink.connect());
    assert!(reason.contains("rows of a removed -wal file cannot be moved"), "{reason}");
    is_retry(sink.deliver(&delivery(6..=7), &[]));
    drop(reader);
    assert_eq!(sink.connect(), Ok(Some(5)));
    assert_eq!(positions_after_a_kill(&database), [1, 2, 3, 4, 5]);
}

#[test]
fn a_position_changed_from_outside_is_read_again() {
    let (database, mut sink) = Database::with("");
    sink.deliver(&delivery(1..=3), &[]).unwrap();
    database.user().execute_batch("UPDATE telemetryx_positions SET position = 1").unwrap();
    let result = sink.deliver(&delivery(4..=5), &[]);
    assert!(matches!(result, Err(Failure::Unavailable(Unavailable::Retry { .. }))), "{result:?}");
    assert_eq!(sink.connect(), Ok(Some(1)));
    assert_eq!(sink.deliver(&delivery(4..=5), &[]), Ok(()));
}

#[test]
fn another_processes_lock_is_waited_for_then_tried_again_later() {
    let (database, mut sink) = Database::with("");
    sink.connection.as_ref().unwrap().busy_timeout(Duration::from_millis(10)).unwrap();
    let user = database.user();
    user.execute_batch("BEGIN IMMEDIATE").unwrap();
    let result = sink.deliver(&delivery(1..=1), &[]);
    assert!(matches!(result, Err(Failure::Unavailable(Unavailable::Retry { .. }))), "{result:?}");
    user.execute_batch("ROLLBACK").unwrap();
    assert_eq!(sink.deliver(&delivery(1..=1), &[]), Ok(()));
}

#[test]
fn a_full_disk_passes() {
    let (database, mut sink) = Database::with("");
    let limit = |sink: &Sqlite, pages: i64| {
        sink.connection.as_ref().unwrap().pragma_update(None, "max_page_count", pages).unwrap();
    };
    limit(&sink, 1);
    let result = sink.deliver(&delivery(1..=1_000), &[]);
    assert!(matches!(result, Err(Failure::Unavailable(Unavailable::Retry { .. }))), "{result:?}");
    limit(&sink, 100_000);
    assert_eq!(sink.deliver(&delivery(1..=1_000), &[]), Ok(()));
    assert_eq!(database.positions().len(), 1_000);
}

#[test]
fn a_replay_makes_no_database_and_names_what_is_refused_again() {
    let database = Database::new();
    let failed = database.sqlite(1).replay(&delivery(1..=1), &[]);
    assert!(matches!(failed, Err(Failure::Unavailable(Unavailable::Down { .. }))), "{failed:?}");
    assert!(!database.path().exists());
    let (_database, sink) = Database::with(
        "CREATE TRIGGER no_e3 BEFORE INSERT ON events WHEN new.name = 'e3' BEGIN SELECT RAISE(ABORT, 'no e3'); END;",
    );
    let mut beside = Sqlite::new("main", &Settings { path: sink.path.clone(), keep: None }, &identity(2));
    assert_eq!(refused(beside.replay(&delivery(1..=5), &[])), [(3, "SQLITE_CONSTRAINT_TRIGGER".into())]);
    assert_eq!(beside.replay(&delivery(1..=5), &[3]), Ok(()));
}

/// Events called `e<position>`, received at `seconds` since 1970.
fn received(positions: std::ops::RangeInclusive<u64>, seconds: u64) -> Delivery {
    let mut runs =
        batch_of(1, vec![positions.clone().map(|position| named(format!("e{position}"))).collect()]).runs()[0].clone();
    runs.received_unix_nano = seconds * 1_000_000_000;
    delivery_of(std::sync::Arc::new(crate::pipeline::batch::Batch::new(*positions.start(), vec![runs])))
}

/// A wall clock that nobody doubts, however it jumps: hours pass between two calls.
fn at(seconds: u64) -> Clocks {
    static CALLS: AtomicU64 = AtomicU64::new(1);
    let monotonic = Duration::from_secs(CALLS.fetch_add(1, Ordering::Relaxed) * 100_000);
    Clocks { wall: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds), monotonic }
}

/// A sink that keeps events for 100 seconds.
fn keeping(database: &Database, log: u8) -> Sqlite {
    let settings = Settings { path: database.path(), keep: Some(Duration::from_secs(100)) };
    let mut sink = Sqlite::new("main", &settings, &Identity { server_id: [log; 16], ..identity(1) });
    sink.connect().unwrap();
    sink
}

/// Calls it as long as there is more; returns how often.
fn tidy(sink: &mut Sqlite, now: u64) -> u32 {
    for calls in 1.. {
        match sink.upkeep(at(now)).unwrap().again.unwrap() {
            Duration::ZERO => {}
            after => {
                assert_eq!(after, limits::SQLITE_FILES_INTERVAL);
                return calls;
            }
        }
    }
    0
}

#[test]
fn events_go_when_they_are_older_than_keep_and_not_before() {
    let database = Database::new();
    let mut sink = keeping(&database, 0x5e);
    sink.deliver(&received(1..=3, 1_000), &[]).unwrap();
    sink.deliver(&received(4..=5, 1_050), &[]).unwrap();
    tidy(&mut sink, 1_100);
    assert_eq!(database.positions(), [1, 2, 3, 4, 5], "100 s old is not older");
    tidy(&mut sink, 1_101);
    assert_eq!(database.positions(), [4, 5]);
    // The sink goes on, and its position is its own.
    sink.deliver(&received(6..=6, 1_101), &[]).unwrap();
    tidy(&mut sink, 1_151);
    assert_eq!(database.positions(), [6]);
    tidy(&mut sink, 9_999);
    assert!(database.positions().is_empty());
    assert_eq!(sink.connect(), Ok(Some(6)));
    tidy(&mut sink, 9_999);
}

#[test]
fn forever_is_the_default_and_deletes_nothing() {
    let (database, mut sink) = Database::with("");
    sink.deliver(&received(1..=3, 1), &[]).unwrap();
    assert_eq!(sink.upkeep(at(u64::from(u32::MAX))), Ok(Upkeep::again(Some(limits::SQLITE_FILES_INTERVAL))));
    assert_eq!(database.positions(), [1, 2, 3]);
}

#[test]
fn old_events_of_every_log_go_in_small_transactions() {
    let database = Database::new();
    let rows = 3 * limits::SQLITE_DELETE_ROWS_MAX;
    for log in [0x11, 0x5e, 0xee] {
        let mut sink = keeping(&database, log);
        sink.deliver(&received(1..=rows, 1_000), &[]).unwrap();
        sink.deliver(&received(rows + 1..=rows + 2, 2_000), &[]).unwrap();
    }
    let mut sink = keeping(&database, 0x5e);
    let before = database.positions().len();
    let upkeep = sink.upkeep(at(2_000)).unwrap();
    assert_eq!((upkeep.again, upkeep.expired_events), (Some(Duration::ZERO), limits::SQLITE_DELETE_ROWS_MAX));
    assert_eq!((before - database.positions().len()) as u64, limits::SQLITE_DELETE_ROWS_MAX);
    let calls = tidy(&mut sink, 2_000);
    assert!((8..=12).contains(&calls), "{calls} calls");
    assert_eq!(database.positions(), [rows + 1, rows + 2].repeat(3));
}

#[test]
fn under_load_more_goes_than_comes() {
    let database = Database::new();
    let mut sink = keeping(&database, 0x5e);
    sink.deliver(&received(1..=20_000, 1_000), &[]).unwrap();
    sink.upkeep(at(1_000)).unwrap();
    let mut next = 20_001;
    for _ in 0..5 {
        sink.deliver(&received(next..=next + 4_999, 2_000), &[]).unwrap();
        next += 5_000;
        sink.upkeep(at(2_000)).unwrap();
    }
    assert_eq!(database.positions().len(), 25_000);
    assert_eq!(database.positions()[0], 20_001);
}

#[test]
fn a_clock_that_was_wrong_costs_no_young_event() {
    let database = Database::new();
    let mut sink = keeping(&database, 0x5e);
    sink.deliver(&received(1..=2, 1_000), &[]).unwrap();
    sink.deliver(&received(3..=4, 5_000), &[]).unwrap(); // set back after it
    sink.deliver(&received(5..=6, 1_010), &[]).unwrap();
    sink.deliver(&received(7..=8, 1_200), &[]).unwrap();
    tidy(&mut sink, 1_200);
    assert_eq!(database.positions(), [3, 4, 7, 8]);
    tidy(&mut sink, 0);
    assert_eq!(database.positions(), [3, 4, 7, 8]);
    tidy(&mut sink, 5_101);
    assert!(database.positions().is_empty());
}

/// Both clocks, the wall clock ahead by so much.
fn clocks(seconds: u64, ahead: u64) -> Clocks {
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds + ahead);
    Clocks { wall, monotonic: Duration::from_secs(seconds) }
}

const DAY: u64 = 86_400;
const TEN_YEARS: u64 = 3_652 * DAY;

#[test]
fn a_wall_clock_that_jumps_ahead_deletes_nothing_for_a_day() {
    let database = Database::new();
    let mut sink = keeping(&database, 0x5e);
    let start = 1_000_000;
    assert_eq!(sink.upkeep(clocks(start, 0)).unwrap().expired_events, 0);
    sink.deliver(&received(1..=3, start), &[]).unwrap();
    for seconds in [40, 41, 80, DAY] {
        let upkeep = sink.upkeep(clocks(start + seconds, TEN_YEARS)).unwrap();
        assert_eq!((upkeep.expired_events, upkeep.again), (0, Some(limits::SQLITE_FILES_INTERVAL)));
    }
    assert_eq!(database.positions(), [1, 2, 3]);
    // A jump that nobody corrects within a day is the time.
    assert_eq!(sink.upkeep(clocks(start + DAY + 40, TEN_YEARS)).unwrap().expired_events, 3);
    assert!(database.positions().is_empty());
}

#[test]
fn a_start_with_a_wall_clock_that_is_far_beyond_the_newest_row_deletes_nothing_for_a_day() {
    let database = Database::new();
    let start = 1_000_000;
    for log in [0x11, 0x5e] {
        keeping(&database, log).deliver(&received(1..=3, start), &[]).unwrap();
    }
    let mut sink = keeping(&database, 0x5e);
    // What this process stores says nothing about its clock.
    sink.deliver(&received(4..=5, start + TEN_YEARS), &[]).unwrap();
    assert_eq!(sink.upkeep(clocks(start, TEN_YEARS)).unwrap().expired_events, 0);
    sink.connect().unwrap();
    assert_eq!(sink.upkeep(clocks(start + DAY - 1, TEN_YEARS)).unwrap().expired_events, 0);
    assert_eq!(database.positions().len(), 8);
    assert_eq!(sink.upkeep(clocks(start + DAY, TEN_YEARS)).unwrap().expired_events, 8);
    // An earlier run of the same day has stored rows by that clock, in which there is a jump of ten years.
    let database = Database::new();
    let mut sink = keeping(&database, 0x5e);
    sink.deliver(&received(1..=1_000, start), &[]).unwrap();
    sink.deliver(&received(1_001..=1_009, start + TEN_YEARS), &[]).unwrap();
    let mut sink = keeping(&database, 0x5e);
    assert_eq!(sink.upkeep(clocks(start + 40, TEN_YEARS)).unwrap().expired_events, 0);
    assert_eq!(sink.upkeep(clocks(start + DAY, TEN_YEARS)).unwrap().expired_events, 0);
    sink.deliver(&received(1_010..=1_010, start + DAY - 10 + TEN_YEARS), &[]).unwrap();
    let mut sink = keeping(&database, 0x5e);
    let upkeep = sink.upkeep(clocks(start + DAY + 40, TEN_YEARS)).unwrap();
    assert_eq!(upkeep.again, Some(Duration::ZERO), "a day later the clock is trusted");
    assert!(upkeep.expired_events >= 1_000, "{upkeep:?}");
    // Old events that were still in the log of a new database.
    let new = Database::new();
    let mut sink = keeping(&new, 0x5e);
    sink.deliver(&received(1..=3, start), &[]).unwrap();
    assert_eq!(sink.upkeep(clocks(start, TEN_YEARS)).unwrap().expired_events, 0);
    assert_eq!(sink.upkeep(clocks(start + DAY, TEN_YEARS)).unwrap().expired_events, 3);
}

#[test]
fn a_database_that_was_moved_away_is_left_alone() {
    let database = Database::new();
    let mut sink = keeping(&database, 0x5e);
    sink.deliver(&received(1..=3, 1_000), &[]).unwrap();
    let moved = database.path().with_extension("moved");
    fs::rename(database.path(), &moved).unwrap();
    let upkeep = sink.upkeep(at(9_999)).unwrap();
    assert!(upkeep.reconnect.is_some() && upkeep.expired_events == 0, "{upkeep:?}");
    let moved = sink.connection.as_ref().unwrap();
    let rows: i64 = moved.query_row("SELECT count(*) FROM events", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 3);
}

#[test]
fn old_events_are_found_by_their_key() {
    let (database, _sink) = Database::with("");
    let plan: Vec<String> = database
        .user()
        .prepare(&format!("EXPLAIN QUERY PLAN {}", keep::DELETE))
        .unwrap()
        .query_map(params!["a", "b", 1], |row| row.get("detail"))
        .unwrap()
        .collect::<rusqlite::Result<_>>()
        .unwrap();
    assert!(plan.iter().any(|step| step.starts_with("SEARCH events")), "{plan:#?}");
    assert!(!plan.iter().any(|step| step.contains("SCAN events") || step.contains("TEMP B-TREE")), "{plan:#?}");
}
