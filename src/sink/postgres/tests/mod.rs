//! Against a real PostgreSQL. What `psql` shows is what counts.

mod encoding;
mod refused;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use super::settings::{Indexes, PostgresSection};
use super::*;
use crate::event::proto::Event;
use crate::event::rfc3339;
use crate::settings::{Problem, Url};
use crate::sink::testing::{
    self, KeepsPositions, Store, batch_of, delivery, delivery_of, down, identity, named, refused, retry, without,
};
use crate::sink::{Refusal, stores};

/// A database of its own on the shared server.
struct Database {
    server: &'static stores::Postgres,
    name: String,
}

impl PostgresSection {
    pub(super) fn valid(&self) -> PostgresSettings {
        self.clone().validate().unwrap()
    }
}

fn settings(url: String) -> PostgresSection {
    PostgresSection {
        url: Url::new(url),
        table: "events".into(),
        create: true,
        indexes: Indexes::None,
        tls: Tls::Prefer,
        ca_file: None,
        timeout: Duration::from_secs(30),
    }
}

impl Database {
    fn new() -> Self {
        let server = stores::Postgres::shared();
        Self::named(server, server.database())
    }

    fn named(server: &'static stores::Postgres, name: String) -> Self {
        Self { server, name }
    }

    fn settings(&self) -> PostgresSection {
        settings(self.server.url(&self.name))
    }

    fn postgres(&self, owner: u8) -> Postgres {
        Postgres::new("main", &self.settings().valid(), &identity(owner))
    }

    /// A sink on a database in which `sql` was run once the tables were there.
    fn with(sql: &str) -> (Self, Postgres) {
        let database = Self::new();
        let mut sink = database.postgres(1);
        sink.connect().unwrap();
        database.sql(sql);
        (database, sink)
    }

    fn sql(&self, sql: &str) -> String {
        self.server.psql(&self.name, sql).unwrap()
    }
}

impl Store for Database {
    const EXACTLY_ONCE: bool = true;
    const KEEPS_POSITIONS: bool = true;
    const REPLAYS: Option<bool> = Some(true);
    const REPLACES_NUL: bool = true;

    fn sink(&self, owner: u8) -> Box<dyn Sink> {
        Box::new(self.postgres(owner))
    }

    fn stored(&self) -> Option<Vec<testing::Row>> {
        // psql's own tables leave out U+10FFFF. Quote and delimiter are what JSON does not have.
        let rows = self.sql(
            "COPY (SELECT row_to_json(events) FROM events ORDER BY server_id, position) TO STDOUT \
             (FORMAT csv, QUOTE E'\\x01', DELIMITER E'\\x02')",
        );
        Some(rows.lines().map(row).collect())
    }

    fn address(&self) -> Option<SocketAddr> {
        Some(([127, 0, 0, 1], self.server.port()).into())
    }

    fn sink_through(&self, address: SocketAddr, owner: u8) -> Box<dyn Sink> {
        let settings = settings(format!("postgres://postgres@{address}/{}", self.name));
        Box::new(Postgres::new("main", &settings.valid(), &identity(owner)))
    }
}

/// As the suite compares it: bytes are shown with a backslash and x in front, times with microseconds.
fn row(line: &str) -> testing::Row {
    let mut row: testing::Row = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    row.retain(|_, value| !value.is_null());
    for id in ["trace_id", "span_id", "parent_span_id"] {
        if let Some(value) = row.get_mut(id) {
            *value = value.as_str().unwrap().strip_prefix("\\x").unwrap().into();
        }
    }
    let nanos = row.remove("time_unix_nano").and_then(|time| time.as_u64()).unwrap();
    let microseconds = |text: &serde_json::Value| rfc3339::parse(text.as_str().unwrap()).unwrap();
    assert_eq!(microseconds(&row["time"]), nanos / 1_000 * 1_000);
    assert_eq!(microseconds(&row["received_at"]), testing::RECEIVED_UNIX_NANO / 1_000 * 1_000);
    let time = |nanos| String::from_utf8(rfc3339::format(nanos).to_vec()).unwrap();
    row.insert("time".into(), time(nanos).into());
    row.insert("received_at".into(), time(testing::RECEIVED_UNIX_NANO).into());
    row
}

impl KeepsPositions for Database {
    fn sink_of(&self, name: &str, identity: &Identity) -> Box<dyn Sink> {
        Box::new(Postgres::new(name, &self.settings().valid(), identity))
    }

    fn is_untouched(&self) -> bool {
        self.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == "0\n"
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
        self.sql(statement);
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

// ---- refused rows ----

#[test]
fn every_row_that_a_constraint_refuses_is_named_at_once() {
    let (database, mut sink) = Database::with(
        "ALTER TABLE events ADD CHECK (name <> 'e2'), ALTER COLUMN agent SET NOT NULL;
         CREATE UNIQUE INDEX one_body ON events (body);",
    );
    let body = |position: u64, body: &str| Event { body: body.into(), ..named(format!("e{position}")) };
    let events = vec![named("e1"), named("e2"), body(3, "same"), body(4, "same"), named("e5")];
    let delivery = delivery_of(batch_of(1, vec![events]));
    assert_eq!(refused(sink.deliver(&delivery)), [(2, "23514".into()), (4, "23505".into())]);
    assert!(database.positions().is_empty(), "nothing of it is stored");
    assert_eq!(sink.deliver(&without(&delivery, &[2, 4])), Ok(()));
    assert_eq!(database.positions(), [1, 3, 5]);
}

#[test]
fn a_refusal_says_what_the_server_said() {
    let (_database, mut sink) = Database::with("ALTER TABLE events ADD CONSTRAINT no_e2 CHECK (name <> 'e2')");
    let Err(Failure::Refused(refusals)) = sink.deliver(&delivery(1..=3)) else { panic!("it is taken") };
    let reason = "new row for relation \"events\" violates check constraint \"no_e2\" (SQLSTATE 23514)";
    assert_eq!(refusals, [Refusal { position: 2, code: "23514".into(), reason: reason.into() }]);
}

#[test]
fn a_foreign_key_names_no_row_and_each_is_found() {
    let (database, mut sink) = Database::with(
        "CREATE TABLE names (name text PRIMARY KEY); INSERT INTO names SELECT 'e' || n FROM generate_series(1, 100) n;
         DELETE FROM names WHERE name IN ('e1', 'e50', 'e51', 'e100');
         ALTER TABLE events ADD FOREIGN KEY (name) REFERENCES names;",
    );
    let refused: Vec<u64> = refused(sink.deliver(&delivery(1..=100))).into_iter().map(|(at, _)| at).collect();
    assert_eq!(refused, [1, 50, 51, 100]);
    assert_eq!(sink.deliver(&without(&delivery(1..=100), &refused)), Ok(()));
    assert_eq!(database.positions().len(), 96);
}

#[test]
fn a_trigger_refuses_with_a_code_of_its_own() {
    let (database, mut sink) = Database::with(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF new.name = 'e2' THEN RAISE 'not this one' USING ERRCODE = 'TX001'; END IF; RETURN new;
         END $$;
         CREATE TRIGGER no BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION no();",
    );
    assert_eq!(refused(sink.deliver(&delivery(1..=3))), [(2, "TX001".into())]);
    assert_eq!(sink.deliver(&without(&delivery(1..=3), &[2])), Ok(()));
    assert_eq!(database.positions(), [1, 3]);
}

#[test]
fn a_row_too_large_for_the_users_index_is_refused_alone() {
    let (database, mut sink) = Database::with("CREATE INDEX ON events (body)");
    let mut random = crate::random::Random::seeded(1);
    let noise: String = (0..20_000).map(|_| char::from(b'!' + (random.next_u64() % 90) as u8)).collect();
    let events = vec![named("e1"), Event { body: noise, ..named("e2") }, named("e3")];
    let delivery = delivery_of(batch_of(1, vec![events]));
    assert_eq!(refused(sink.deliver(&delivery)), [(2, "54000".into())]);
    assert_eq!(sink.deliver(&without(&delivery, &[2])), Ok(()));
    assert_eq!(database.positions(), [1, 3]);
}

#[test]
fn a_constraint_that_is_checked_at_the_commit_names_no_row() {
    let (database, mut sink) = Database::with(
        "CREATE TABLE kinds (name text PRIMARY KEY);
         ALTER TABLE events ADD FOREIGN KEY (kind) REFERENCES kinds DEFERRABLE INITIALLY DEFERRED;",
    );
    let result = sink.deliver(&delivery(1..=3));
    assert!(matches!(&result, Err(Failure::BatchRefused { code, .. }) if code == "23503"), "{result:?}");
    database.sql("INSERT INTO kinds VALUES ('log')");
    assert_eq!(sink.deliver(&delivery(1..=3)), Ok(()));
    assert_eq!(database.positions(), [1, 2, 3]);
}

#[test]
fn when_every_row_is_refused_all_are_named_at_once() {
    let (_database, mut sink) = Database::with("ALTER TABLE events ADD CHECK (agent = 'somebody else')");
    assert_eq!(refused(sink.deliver(&delivery(1..=500))).len(), 500);
}

// ---- positions ----

#[test]
fn a_commit_on_its_way_is_waited_for_by_the_next_connect() {
    let (database, mut sink) = Database::with("");
    // What a lost connection may have left behind: moved, not yet committed.
    let session = thread::scope(|scope| {
        let slow = scope.spawn(|| {
            database.sql("BEGIN; UPDATE telemetryx_positions SET position = 7; SELECT pg_sleep(3); COMMIT");
        });
        let locked = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(3)%' AND wait_event = 'PgSleep' \
                      AND datname = current_database()";
        let deadline = Instant::now() + Duration::from_secs(20);
        while database.sql(locked).trim() != "1" {
            assert!(Instant::now() < deadline, "the other session does not sleep");
        }
        let position = sink.connect();
        slow.join().unwrap();
        position
    });
    assert_eq!(session, Ok(Some(7)));
}

// ---- tables ----

#[test]
fn a_table_in_a_schema_is_used_with_its_own_columns() {
    let database = Database::new();
    let settings = PostgresSection { table: "logs.lines".into(), ..database.settings() };
    let mut sink = Postgres::new("main", &settings.valid(), &identity(1));
    let reason = down(sink.connect());
    assert!(reason.contains("schema \"logs\" does not exist") && reason.contains("create the schema"), "{reason}");
    database.sql("CREATE SCHEMA logs");
    sink.connect().unwrap();
    database.sql("ALTER TABLE logs.lines ADD site text NOT NULL DEFAULT 'here'");
    sink.connect().unwrap();
    sink.deliver(&delivery(1..=2)).unwrap();
    assert_eq!(database.sql("SELECT site, name FROM logs.lines ORDER BY position"), "here|e1\nhere|e2\n");
}

#[test]
fn an_index_is_created_together_with_the_table_only() {
    const INDEXES: &str = "SELECT indexdef FROM pg_indexes WHERE indexname = 'events_time'";
    for (indexes, definition) in [
        (Indexes::Time, "CREATE INDEX events_time ON public.events USING btree (\"time\")\n"),
        (Indexes::Brin, "CREATE INDEX events_time ON public.events USING brin (\"time\")\n"),
    ] {
        let database = Database::new();
        let settings = PostgresSection { indexes, ..database.settings() };
        let mut sink = Postgres::new("main", &settings.valid(), &identity(1));
        sink.connect().unwrap();
        sink.deliver(&delivery(1..=2)).unwrap();
        assert_eq!(database.sql(INDEXES), definition);
        // Dropped by a person: it is not created again, on a table that has rows.
        database.sql("DROP INDEX events_time");
        Postgres::new("main", &settings.valid(), &identity(2)).connect().unwrap();
        database.sql("DROP TABLE telemetryx_positions");
        let _ = Postgres::new("main", &settings.valid(), &identity(3)).connect();
        assert_eq!(database.sql(INDEXES), "");
        database.sql(&settings.valid().tables.ddl());
        assert_eq!(database.sql(INDEXES), definition, "what `telemetryx config --ddl` prints");
    }
}

#[test]
fn without_create_missing_tables_are_down_with_what_to_do() {
    let database = Database::new();
    let settings = PostgresSection { create: false, ..database.settings() };
    let mut sink = Postgres::new("main", &settings.valid(), &identity(1));
    let reason = down(sink.connect());
    assert!(
        reason.contains("there is no table \"events\": run what `telemetryx config --ddl main` prints"),
        "{reason}"
    );
    assert!(reason.contains("127.0.0.1") && reason.contains(&database.name), "{reason}");
    database.sql(&settings.valid().tables.ddl());
    assert_eq!(sink.connect(), Ok(Some(0)));
    assert_eq!(sink.deliver(&delivery(1..=2)), Ok(()));
}

#[test]
fn a_table_that_does_not_fit_is_down_with_all_that_is_wrong() {
    let (database, mut sink) = Database::with(
        "ALTER TABLE events DROP COLUMN body; ALTER TABLE events ALTER severity TYPE text;
         ALTER TABLE events ADD site text NOT NULL;",
    );
    let reason = down(sink.connect());
    for part in [
        "has no column `body text`",
        "its column severity is text, not smallint",
        "its own column site is NOT NULL without a default",
        "telemetryx config --ddl main",
    ] {
        assert!(reason.contains(part), "{reason}");
    }
    // The same while it runs: nothing is buried for a mistake in the table.
    database.sql("DROP TABLE events");
    sink.connect().unwrap();
    database.sql("ALTER TABLE events DROP COLUMN body");
    let reason = down(sink.deliver(&delivery(1..=2)));
    assert!(reason.contains("42703") && reason.contains("correct the tables"), "{reason}");
}

#[test]
fn two_servers_that_make_the_tables_at_once_both_connect() {
    let database = Database::new();
    thread::scope(|scope| {
        for owner in 1..=6 {
            let database = &database;
            scope.spawn(move || {
                let settings = database.settings();
                let mut sink = Postgres::new(&format!("s{owner}"), &settings.valid(), &identity(owner));
                let deadline = Instant::now() + Duration::from_secs(20);
                loop {
                    match sink.connect() {
                        Ok(position) => break assert_eq!(position, Some(0)),
                        Err(Unavailable::Retry { .. }) => assert!(Instant::now() < deadline),
                        other => panic!("{other:?}"),
                    }
                }
            });
        }
    });
}

#[test]
fn rows_of_a_partitioned_table_find_their_partition() {
    let database = Database::new();
    let ddl = database.settings().valid().tables.ddl();
    let ddl = ddl.replacen("server_id, position)\n)", "server_id, position, time)\n) PARTITION BY RANGE (time)", 1);
    database.sql(&ddl);
    database.sql("CREATE TABLE y2026 PARTITION OF events FOR VALUES FROM ('2026-01-01Z') TO ('2027-01-01Z')");
    let mut sink = database.postgres(1);
    sink.connect().unwrap();
    let old = Event { time_unix_nano: 1, ..named("e2") };
    let delivery = delivery_of(batch_of(1, vec![vec![named("e1"), old, named("e3")]]));
    assert_eq!(refused(sink.deliver(&delivery)), [(2, "23514".into())]);
    assert_eq!(sink.deliver(&without(&delivery, &[2])), Ok(()));
    assert_eq!(database.positions(), [1, 3]);
}

#[test]
fn a_partition_that_no_event_finds_is_down_instead_of_burying_them_all() {
    let database = Database::new();
    let ddl = database.settings().valid().tables.ddl();
    let ddl = ddl.replacen("server_id, position)\n)", "server_id, position, time)\n) PARTITION BY RANGE (time)", 1);
    database.sql(&ddl);
    let mut sink = database.postgres(1);
    sink.connect().unwrap();
    let events = limits::REFUSED_IN_A_ROW_MAX + 100;
    let few = delivery(1..=events / 2);
    assert_eq!(refused(sink.deliver(&few)).len() as u64, events / 2);
    let (rest, mixed) = (delivery(events / 2 + 1..=events), delivery(events + 1..=events + 2));
    let except: Vec<u64> = (1..=events / 2).collect();
    assert_eq!(sink.deliver(&without(&few, &except)), Ok(()));
    for _ in 0..2 {
        let reason = down(sink.deliver(&rest));
        assert!(reason.contains("no partition of relation") && reason.contains("create the partition"), "{reason}");
        sink.connect().unwrap();
    }
    // Once one of them has its partition, the others without one are refused alone again.
    let from = "PARTITION OF events FOR VALUES FROM ('2026-01-01Z') TO ('2027-01-01Z')";
    database.sql(&format!("CREATE TABLE y2026 {from}; ALTER TABLE y2026 ADD CHECK (position > {})", events / 2 + 1));
    assert_eq!(refused(sink.deliver(&rest)), [(events / 2 + 1, "23514".into())]);
    assert_eq!(sink.deliver(&without(&rest, &[events / 2 + 1])), Ok(()));
    assert_eq!(sink.deliver(&mixed), Ok(()));
    assert_eq!(database.positions(), (events / 2 + 2..=events + 2).collect::<Vec<_>>());
}

#[test]
fn a_row_that_lacks_a_generated_value_is_refused_alone() {
    let (database, mut sink) =
        Database::with("ALTER TABLE events ADD site text GENERATED ALWAYS AS (nullif(name, 'e2')) STORED NOT NULL");
    assert_eq!(refused(sink.deliver(&delivery(1..=3))), [(2, "23502".into())]);
    assert_eq!(sink.deliver(&without(&delivery(1..=3), &[2])), Ok(()));
    assert_eq!(database.positions(), [1, 3]);
}

#[test]
fn a_column_that_was_added_and_wants_a_value_is_down_and_no_row_is_refused_for_it() {
    let (database, mut sink) = Database::with("");
    sink.deliver(&delivery(1..=2)).unwrap();
    database.sql("DELETE FROM events; ALTER TABLE events ADD site text NOT NULL");
    let reason = down(sink.deliver(&delivery(3..=4)));
    assert!(reason.contains("its own column site is NOT NULL without a default"), "{reason}");
    database.sql("ALTER TABLE events ALTER COLUMN site SET DEFAULT 'here'");
    assert_eq!(sink.connect(), Ok(Some(2)));
    assert_eq!(sink.deliver(&delivery(3..=4)), Ok(()));
    assert_eq!(database.positions(), [3, 4]);
}

#[test]
fn rows_that_are_there_already_are_not_refused_beside_one_that_is() {
    let (database, mut sink) = Database::with("ALTER TABLE events ADD CHECK (name <> 'e3')");
    sink.deliver(&delivery(1..=2)).unwrap();
    // As after the sink got another name.
    database.sql("UPDATE telemetryx_positions SET sink = 'before'");
    let mut sink = database.postgres(1);
    assert_eq!(sink.connect(), Ok(Some(0)));
    assert_eq!(refused(sink.deliver(&delivery(1..=4))), [(3, "23514".into())]);
    assert_eq!(sink.deliver(&without(&delivery(1..=4), &[3])), Ok(()));
    assert_eq!(database.positions(), [1, 2, 4]);
}

#[test]
fn rights_that_are_missing_are_down_with_what_to_grant() {
    let (database, _sink) = Database::with("");
    let role = format!("r_{}", database.name);
    database.sql(&format!("CREATE ROLE {role} LOGIN; GRANT SELECT, INSERT, UPDATE ON telemetryx_positions TO {role}"));
    let url = format!("postgres://{role}@127.0.0.1:{}/{}", database.server.port(), database.name);
    let mut sink = Postgres::new("main", &settings(url).valid(), &identity(1));
    assert_eq!(sink.connect(), Ok(Some(0)), "what exists needs no right to create");
    let reason = down(sink.deliver(&delivery(1..=1)));
    assert!(reason.contains("42501") && reason.contains("grant this user SELECT, INSERT, UPDATE"), "{reason}");
    let reason = down(sink.probe());
    assert!(reason.contains("may not read and write the table \"events\": grant this user"), "{reason}");
    database.sql(&format!("GRANT SELECT, INSERT ON events TO {role}"));
    sink.connect().unwrap();
    assert_eq!(sink.deliver(&delivery(1..=1)), Ok(()));
    assert_eq!(sink.probe(), Ok(()));
    database.sql("DROP TABLE events");
    let reason = down(sink.probe());
    assert!(reason.contains("may not create the table \"events\": grant this user"), "{reason}");
    database.sql(&format!("GRANT CREATE ON SCHEMA public TO {role}"));
    assert_eq!(sink.probe(), Ok(()));
    database.sql(&format!("CREATE SCHEMA logs; GRANT USAGE ON SCHEMA logs TO {role}"));
    let url = format!("postgres://{role}@127.0.0.1:{}/{}", database.server.port(), database.name);
    let mut sink =
        Postgres::new("main", &PostgresSection { table: "logs.lines".into(), ..settings(url) }.valid(), &identity(1));
    let reason = down(sink.probe());
    assert!(reason.contains("may not create the table \"logs\".\"lines\""), "{reason}");
    database.sql(&format!("GRANT CREATE ON SCHEMA logs TO {role}"));
    assert_eq!(sink.probe(), Ok(()));
}

// ---- servers in trouble ----

#[test]
fn what_a_person_must_put_right_is_down() {
    let server = stores::Postgres::shared();
    let mut sink = Postgres::new("main", &settings(server.url("no_such_database")).valid(), &identity(1));
    let reason = down(sink.connect());
    assert!(reason.contains("3D000") && reason.contains("create the database"), "{reason}");
    let url = format!("postgres://nobody_here@127.0.0.1:{}/postgres", server.port());
    let reason = down(Postgres::new("main", &settings(url).valid(), &identity(1)).connect());
    assert!(reason.contains("28000") && reason.contains("check user and password"), "{reason}");
}

#[test]
fn a_pooler_in_statement_mode_is_down_with_what_it_reports() {
    let database = Database::new();
    let connect = |mode: &str| {
        let pooler = stores::PgBouncer::start(database.server, mode);
        let mut sink = Postgres::new("main", &settings(pooler.url(&database.name)).valid(), &identity(1));
        sink.connect()?;
        sink.deliver(&delivery(1..=3))
    };
    let reason = down(connect("statement"));
    assert!(reason.contains("transaction blocks not allowed in statement pooling mode"), "{reason}");
    assert!(reason.contains("set its pool_mode to transaction or session"), "{reason}");
    for mode in ["transaction", "session"] {
        assert_eq!(connect(mode), Ok(()), "{mode}");
    }
    assert_eq!(database.positions(), [1, 2, 3]);
    let pooler = stores::PgBouncer::start(database.server, "transaction");
    let url = pooler.url("no_such_database");
    let reason = Postgres::new("main", &settings(url).valid(), &identity(1)).connect().unwrap_err().to_string();
    assert!(reason.contains("no_such_database"), "{reason}");
}

#[test]
fn a_table_that_takes_no_copy_is_down_with_the_reason() {
    let (database, mut sink) =
        Database::with("ALTER TABLE events RENAME TO rows; CREATE VIEW events AS SELECT * FROM rows");
    let reason = down(sink.deliver(&delivery(1..=1)));
    assert!(reason.contains("cannot copy to view") && reason.contains("use a plain table"), "{reason}");
    database.sql("DROP VIEW events; ALTER TABLE rows RENAME TO events");
    sink.connect().unwrap();
    assert_eq!(sink.deliver(&delivery(1..=1)), Ok(()));
}

#[test]
fn a_server_that_is_not_there_is_tried_again() {
    let url = "postgres://u:secret@127.0.0.1:1/db".to_owned();
    let reason = retry(Postgres::new("main", &settings(url).valid(), &identity(1)).connect());
    assert!(reason.contains("127.0.0.1:1") && reason.contains("refused"), "{reason}");
    assert!(reason.contains("nothing listens there"), "{reason}");
    assert!(!reason.contains("secret"), "{reason}");
}

#[test]
fn what_the_server_repeats_of_the_url_shows_no_secret() {
    let server = stores::Postgres::shared();
    for options in ["-c%20hunter_zebra%3D1", "-c%20work_mem%3Dhunter%2Fzebra", "hunter%20zebra"] {
        let url = format!("{}?options={options}&sslmode=disable", server.url("postgres"));
        let reason = down(Postgres::new("main", &settings(url).valid(), &identity(1)).connect());
        assert!(!reason.contains("hunter") && reason.contains("***"), "{reason}");
        assert!(reason.contains(&server.port().to_string()), "{reason}");
    }
}

#[test]
fn a_url_names_its_database() {
    for (url, named) in [
        ("postgres://app@h", false),
        ("postgres://app@h:5432/", false),
        ("postgres://app@h/?user=x", false),
        ("postgres://app@h/d", true),
        ("postgres://app@h?dbname=d", true),
        ("postgres:///d?host=/run/postgresql", true),
    ] {
        let checked = settings(url.to_owned()).validate();
        let reason = checked.err().map(|Problem { key, why }| format!("{key} {why}"));
        assert_eq!(reason.is_none(), named, "{url}: {reason:?}");
        assert!(
            reason.is_none_or(|reason| reason.starts_with("url names no database: write it after the host")),
            "{url}"
        );
    }
}

#[test]
fn a_session_that_the_server_ends_is_opened_again() {
    let (database, mut sink) = Database::with("");
    sink.deliver(&delivery(1..=2)).unwrap();
    database.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE datname = current_database() AND application_name = 'telemetryx'",
    );
    retry(sink.deliver(&delivery(3..=4)));
    assert_eq!(sink.connect(), Ok(Some(2)));
    sink.deliver(&delivery(3..=4)).unwrap();
    assert_eq!(database.positions(), [1, 2, 3, 4]);
}

#[test]
fn a_statement_that_takes_too_long_is_ended_by_the_server_and_tried_again() {
    let (database, _sink) = Database::with("");
    let settings = PostgresSection { timeout: Duration::from_secs(1), ..database.settings() };
    let mut sink = Postgres::new("main", &settings.valid(), &identity(1));
    sink.connect().unwrap();
    thread::scope(|scope| {
        // Until it is ended, however slow this machine is.
        let hold = "BEGIN; LOCK TABLE events; SELECT pg_sleep(60)";
        let holder = scope.spawn(|| database.server.psql(&database.name, hold));
        let locked = "SELECT count(*) FROM pg_locks WHERE relation = 'events'::regclass AND granted \
                      AND mode = 'AccessExclusiveLock' \
                      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        let deadline = Instant::now() + Duration::from_secs(20);
        while database.sql(locked).trim() == "0" {
            assert!(Instant::now() < deadline, "no lock");
        }
        let reason = retry(sink.deliver(&delivery(1..=1)));
        assert!(reason.contains("55P03") || reason.contains("57014"), "{reason}");
        let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' \
                   AND pid <> pg_backend_pid() AND datname = current_database()";
        assert_eq!(database.sql(end).trim(), "1");
        assert!(holder.join().unwrap().is_err());
    });
    sink.connect().unwrap();
    assert_eq!(sink.deliver(&delivery(1..=1)), Ok(()));
}

#[test]
fn a_user_who_reads_only_by_default_still_writes() {
    let (database, mut sink) = Database::with("");
    database.sql(&format!("ALTER DATABASE {} SET default_transaction_read_only = on", database.name));
    assert_eq!(sink.connect(), Ok(Some(0)));
    assert_eq!(sink.deliver(&delivery(1..=1)), Ok(()));
}

#[test]
fn a_stopped_server_is_noticed_and_found_again() {
    let server = stores::Postgres::start(&[]);
    let settings = PostgresSection { timeout: Duration::from_secs(1), ..settings(server.url("postgres")) };
    let mut sink = Postgres::new("main", &settings.valid(), &identity(1));
    sink.connect().unwrap();
    sink.deliver(&delivery(1..=2)).unwrap();
    server.signal_all("STOP");
    let begun = Instant::now();
    let reason = retry(sink.deliver(&delivery(3..=4)));
    assert!(reason.contains("no answer in time"), "{reason}");
    // The system still accepts connections for it.
    let reason = retry(sink.connect());
    assert!(reason.contains("no answer in time"), "{reason}");
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    server.signal_all("CONT");
    let deadline = Instant::now() + Duration::from_secs(30);
    while sink.connect().is_err() {
        assert!(Instant::now() < deadline, "it does not come back");
    }
    sink.deliver(&delivery(3..=4)).unwrap();
    assert_eq!(server.psql("postgres", "SELECT position FROM events ORDER BY 1").unwrap(), "1\n2\n3\n4\n");
}

#[test]
fn a_crash_of_the_server_loses_and_doubles_nothing() {
    let mut server = stores::Postgres::start(&["fsync=on"]);
    let mut sink = Postgres::new("main", &settings(server.url("postgres")).valid(), &identity(1));
    let mut next = 1;
    for _ in 0..3 {
        let deadline = Instant::now() + Duration::from_secs(30);
        while sink.connect().is_err() {
            assert!(Instant::now() < deadline, "it does not come back");
        }
        sink.deliver(&delivery(next..=next + 999)).unwrap();
        next += 1_000;
        server.kill();
        retry(sink.deliver(&delivery(next..=next)));
        server.go_on(&["fsync=on"]);
    }
    let sum = server.psql("postgres", "SELECT count(*), count(DISTINCT position), max(position) FROM events").unwrap();
    assert_eq!(sum, "3000|3000|3000\n");
}

// ---- TLS and passwords ----

/// A server with TLS, whose certificate is for `localhost`, and the file of its authority.
fn tls_server() -> (stores::Postgres, tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let mut server = stores::Postgres::start(&[]);
    server.stop();
    server.put_file("server.crt", &certificate.cert.pem());
    server.put_file("server.key", &certificate.signing_key.serialize_pem());
    server.go_on(&["ssl=on"]);
    let ca_file = dir.path().join("ca.pem");
    std::fs::write(&ca_file, certificate.cert.pem()).unwrap();
    (server, dir, ca_file)
}

#[test]
fn tls_is_used_as_the_settings_ask_for_it() {
    let (server, _dir, ca_file) = tls_server();
    let url = |host: &str| format!("postgres://postgres@{host}:{}/postgres", server.port());
    let encrypted =
        "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'telemetryx'";
    for (tls, expected) in [(Tls::Off, "f\n"), (Tls::Prefer, "t\n"), (Tls::Require, "t\n"), (Tls::Verify, "t\n")] {
        let ca_file = (tls == Tls::Verify).then(|| ca_file.clone());
        let settings = PostgresSection { tls, ca_file, ..settings(url("localhost")) };
        let mut sink = Postgres::new("main", &settings.valid(), &identity(1));
        sink.connect().unwrap();
        assert_eq!(server.psql("postgres", encrypted).unwrap(), expected, "{tls:?}");
        sink.session = None;
        let deadline = Instant::now() + Duration::from_secs(20);
        while server.psql("postgres", encrypted).unwrap() != "" {
            assert!(Instant::now() < deadline, "the session stays");
        }
    }
    // Another name than the certificate's, and an authority that nobody knows.
    let verify = |host: &str, ca_file| {
        let settings = PostgresSection { tls: Tls::Verify, ca_file, ..settings(url(host)) };
        down(Postgres::new("main", &settings.valid(), &identity(1)).connect())
    };
    assert!(verify("127.0.0.1", Some(ca_file)).contains("check the server's certificate"));
    assert!(verify("localhost", None).contains("UnknownIssuer"));
    assert!(verify("localhost", Some("/nonexistent".into())).contains("ca_file /nonexistent"));
}

#[test]
fn a_server_without_tls_is_down_where_it_is_asked_for() {
    let server = stores::Postgres::shared();
    for (tls, url) in
        [(Tls::Require, server.url("postgres")), (Tls::Prefer, server.url("postgres") + "?sslmode=require")]
    {
        let settings = PostgresSection { tls, ..settings(url) };
        let reason = down(Postgres::new("main", &settings.valid(), &identity(1)).connect());
        assert!(reason.contains("offers no TLS") && reason.contains("turn on ssl"), "{reason}");
    }
}

#[test]
fn a_password_that_equals_a_shown_parameter_is_hidden() {
    for (url, text, shown) in [
        ("postgres://u:prefer@h/d?sslmode=prefer", "no login with prefer", "no login with ***"),
        ("postgres://u:hunter2@h/d?sslmode=prefer", "no login with hunter2: prefer", "no login with ***: prefer"),
        ("postgres://h/d?sslmode=prefer&password=prefer", "no login with prefer", "no login with ***"),
    ] {
        assert_eq!(settings(url.to_owned()).valid().hide(text), shown, "{url}");
    }
}

#[test]
fn a_password_is_asked_for_and_checked() {
    let (server, _dir, _ca) = tls_server();
    server.psql("postgres", "CREATE ROLE app LOGIN PASSWORD 'r@:ght/'").unwrap();
    server.psql("postgres", "CREATE DATABASE app OWNER app").unwrap();
    server.put_file("pg_hba.conf", "host all app 127.0.0.1/32 scram-sha-256\nhost all postgres 127.0.0.1/32 trust\n");
    let connect = |login: &str| {
        let url = format!("postgres://{login}@127.0.0.1:{}/app", server.port());
        Postgres::new("main", &settings(url).valid(), &identity(1)).connect()
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    while connect("app").is_ok() {
        assert!(Instant::now() < deadline, "the settings are not read");
    }
    let reason = down(connect("app"));
    assert!(
        reason.contains("password missing") && reason.contains("into url") && reason.contains("url_file"),
        "{reason}"
    );
    let reason = down(connect("app:wrong"));
    assert!(reason.contains("28P01") && !reason.contains("wrong@"), "{reason}");
    let url = "postgres://app:r@:ght/@127.0.0.1/app".to_owned();
    assert!(settings(url).validate().unwrap_err().why.contains("write %2F for a /"));
    for login in ["app:r@:ght%2F", "app:r%40%3aght%2f"] {
        assert_eq!(connect(login), Ok(Some(0)), "{login}");
    }
}
