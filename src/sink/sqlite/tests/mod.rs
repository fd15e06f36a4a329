mod files;
mod keep;

use std::time::Duration;

use rusqlite::types::Value;
use tempfile::TempDir;

use super::super::testing::{
    self, KeepsPositions, Store, batch_of, delivery, delivery_of, down, identity, named, refused, retry, without,
};
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

    fn settings(&self) -> SqliteSettings {
        SqliteSettings { path: self.path(), keep: None, indexes: Indexes::None }
    }

    fn sqlite(&self, owner: u8) -> Sqlite {
        Sqlite::new("main", &self.settings(), &identity(owner))
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

#[test]
fn a_column_of_the_users_that_wants_a_value_is_down_and_no_row_is_refused_for_it() {
    let table = ddl(Indexes::None).replacen("attributes TEXT,", "attributes TEXT, site TEXT NOT NULL,", 1);
    let (_database, mut sink) = Database::with(&format!("DROP TABLE events; {table}"));
    let reason = down(sink.deliver(&delivery(1..=2)));
    assert!(reason.contains("give the column site a default"), "{reason}");
}

#[test]
fn a_row_that_lacks_a_generated_value_is_refused_alone() {
    let generated = "attributes TEXT, site TEXT GENERATED ALWAYS AS (nullif(name, 'e2')) STORED NOT NULL,";
    let table = ddl(Indexes::None).replacen("attributes TEXT,", generated, 1);
    let (database, mut sink) = Database::with(&format!("DROP TABLE events; {table}"));
    assert_eq!(refused(sink.deliver(&delivery(1..=3))), [(2, "SQLITE_CONSTRAINT_NOTNULL".into())]);
    assert_eq!(sink.deliver(&without(&delivery(1..=3), &[2])), Ok(()));
    assert_eq!(database.positions(), [1, 3]);
}

impl KeepsPositions for Database {
    fn sink_of(&self, name: &str, identity: &Identity) -> Box<dyn Sink> {
        Box::new(Sqlite::new(name, &self.settings(), identity))
    }

    fn is_untouched(&self) -> bool {
        !self.path().exists()
    }

    fn set_positions(&self, position: u64) {
        self.run(&format!("UPDATE telemetryx_positions SET position = {position}"));
    }

    fn remove_positions(&self) {
        self.run("DELETE FROM telemetryx_positions");
    }

    fn remove_events(&self) {
        self.run("DELETE FROM events");
    }

    fn run(&self, statement: &str) {
        self.user().execute_batch(statement).unwrap();
    }
}

#[test]
fn passes_the_conformance_suite() {
    testing::conformance(Database::new);
}

#[test]
fn passes_the_suite_of_positions() {
    testing::keeps_positions(Database::new);
}

#[test]
fn the_position_of_a_file_without_tables_is_0_and_what_is_not_a_database_has_none() {
    let database = Database::new();
    fs::create_dir_all(database.path().parent().unwrap()).unwrap();
    fs::write(database.path(), "").unwrap();
    assert_eq!(database.sqlite(9).stored_position(), Ok(Some(0)));
    fs::write(database.path(), "no database, but long enough to be taken for a header of one").unwrap();
    assert!(down(database.sqlite(9).stored_position()).contains("not a database"));
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
    sink.deliver(&delivery_of(batch_of(1, vec![vec![full, named("bare")]]))).unwrap();
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
    let synchronous: i64 =
        sink.connection.as_ref().unwrap().query_row("PRAGMA synchronous", [], |row| row.get(0)).unwrap();
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
    let refusals = refused(sink.deliver(&delivery));
    assert_eq!(refusals, [(3, "SQLITE_CONSTRAINT_TRIGGER".into()), (5, "SQLITE_CONSTRAINT_UNIQUE".into())]);
    assert!(database.positions().is_empty(), "nothing of it is stored");
    assert_eq!(sink.deliver(&without(&delivery, &[3, 5])), Ok(()));
    assert_eq!(database.positions(), [1, 2, 4]);
}

#[test]
fn a_trigger_that_ends_the_transaction_names_its_row() {
    let (database, mut sink) = Database::with(
        "CREATE TRIGGER no_e2 BEFORE INSERT ON events WHEN new.name = 'e2' BEGIN SELECT RAISE(ROLLBACK, 'no'); END;",
    );
    assert_eq!(refused(sink.deliver(&delivery(1..=3))), [(2, "SQLITE_CONSTRAINT_TRIGGER".into())]);
    assert_eq!(sink.deliver(&without(&delivery(1..=3), &[2])), Ok(()));
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
    assert_eq!(refused(sink.deliver(&delivery(1..=3))), [(2, "SQLITE_CONSTRAINT_CHECK".into())]);
}

#[test]
fn a_constraint_that_is_checked_at_the_commit_names_no_row() {
    let (database, mut sink) = Database::with("CREATE TABLE kinds (name TEXT PRIMARY KEY);");
    let strict = CREATE
        .replace("kind TEXT NOT NULL", "kind TEXT NOT NULL REFERENCES kinds (name) DEFERRABLE INITIALLY DEFERRED");
    database.user().execute_batch(&format!("DROP TABLE events; {strict}")).unwrap();
    sink.connect().unwrap();
    sink.connection.as_ref().unwrap().pragma_update(None, "foreign_keys", true).unwrap();
    let result = sink.deliver(&delivery(1..=3));
    assert!(matches!(&result, Err(Failure::BatchRefused { code, .. }) if code.contains("FOREIGNKEY")), "{result:?}");
    database.user().execute_batch("INSERT INTO kinds VALUES ('log')").unwrap();
    assert_eq!(sink.deliver(&delivery(1..=3)), Ok(()));
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
fn a_crash_before_the_commit_leaves_nothing_and_one_after_it_everything() {
    let database = Database::new();
    let mut sink = database.sqlite(1);
    sink.connect().unwrap();
    {
        let mut connection = sink.connection.take().unwrap();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        assert_eq!(sink.insert(&transaction, &delivery(1..=3)), Ok(vec![]));
        // Dropped in the middle, as a killed process leaves it.
    }
    assert!(database.positions().is_empty());
    let mut sink = database.sqlite(2);
    assert_eq!(sink.connect(), Ok(Some(0)));
    sink.deliver(&delivery(1..=3)).unwrap();
    drop(sink);
    let mut sink = database.sqlite(3);
    assert_eq!(sink.connect(), Ok(Some(3)));
    assert_eq!(sink.deliver(&delivery(1..=3)), Ok(()));
    assert_eq!(database.positions(), [1, 2, 3]);
}

#[test]
fn another_processes_lock_is_waited_for_then_tried_again_later() {
    let (database, mut sink) = Database::with("");
    sink.connection.as_ref().unwrap().busy_timeout(Duration::from_millis(10)).unwrap();
    let user = database.user();
    user.execute_batch("BEGIN IMMEDIATE").unwrap();
    retry(sink.deliver(&delivery(1..=1)));
    user.execute_batch("ROLLBACK").unwrap();
    assert_eq!(sink.deliver(&delivery(1..=1)), Ok(()));
}

#[test]
fn a_full_disk_passes() {
    let (database, mut sink) = Database::with("");
    let limit = |sink: &Sqlite, pages: i64| {
        sink.connection.as_ref().unwrap().pragma_update(None, "max_page_count", pages).unwrap();
    };
    limit(&sink, 1);
    retry(sink.deliver(&delivery(1..=1_000)));
    limit(&sink, 100_000);
    assert_eq!(sink.deliver(&delivery(1..=1_000)), Ok(()));
    assert_eq!(database.positions().len(), 1_000);
}

#[test]
fn a_replay_makes_no_database_and_names_what_is_refused_again() {
    let database = Database::new();
    down(database.sqlite(1).replay(&delivery(1..=1)));
    assert!(!database.path().exists());
    let (_database, sink) = Database::with(
        "CREATE TRIGGER no_e3 BEFORE INSERT ON events WHEN new.name = 'e3' BEGIN SELECT RAISE(ABORT, 'no e3'); END;",
    );
    let mut beside = Sqlite::new(
        "main",
        &SqliteSettings { path: sink.path.clone(), keep: None, indexes: Indexes::None },
        &identity(2),
    );
    assert_eq!(refused(beside.replay(&delivery(1..=5))), [(3, "SQLITE_CONSTRAINT_TRIGGER".into())]);
    assert_eq!(beside.replay(&without(&delivery(1..=5), &[3])), Ok(()));
}

#[test]
fn an_index_is_created_together_with_the_table_only() {
    const INDEXES: &str = "SELECT count(*) FROM sqlite_schema WHERE name = 'events_time'";
    let database = Database::new();
    let indexes = || database.user().query_row(INDEXES, [], |row| row.get::<_, u32>(0)).unwrap();
    let settings = SqliteSettings { indexes: Indexes::Time, ..database.settings() };
    Sqlite::new("main", &settings, &identity(1)).connect().unwrap();
    assert_eq!(indexes(), 1);
    // Dropped by a person: it is not created again, on a table that may have rows.
    database.user().execute_batch("DROP INDEX events_time").unwrap();
    Sqlite::new("main", &settings, &identity(2)).connect().unwrap();
    assert_eq!(indexes(), 0);
    assert!(!ddl(Indexes::None).contains("INDEX"));
    database.user().execute_batch(&ddl(Indexes::Time)).unwrap();
    assert_eq!(indexes(), 1, "what `telemetryx config --ddl` prints");
}
