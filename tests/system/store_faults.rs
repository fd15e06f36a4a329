//! Stores that are set up wrong, full, or written to by two servers with one log: the server says what to do, goes on
//! serving, and nothing is lost or doubled once it is mended.
#![cfg(all(feature = "postgres", feature = "redis"))]

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::disk::{Disk, skip};
use crate::support::http::{self, get, sink_state};
use crate::support::ledger::{self, Ledger, NAME, Outcome, Sender};
use crate::support::load::{Load, Plan};
use crate::support::server::{Server, own_address, wait_until};
use crate::support::stores::{Postgres, Redis};
use crate::support::{rows, seed};
use telemetryx::random::Random;
use telemetryx::wire::AckLevel::Synced;

/// Longer than the 30 s that a sink waits at most before another attempt.
const PATIENCE: Duration = Duration::from_secs(90);

/// Waits until `/ready` has this state of the sink, and the log a line about it with all these words.
#[track_caller]
fn wait_for_state(server: &Server, sink: &str, expected: &str, words: &[&str]) {
    let reached = wait_until(PATIENCE, || sink_state(server.address(), sink) == expected);
    assert!(reached, "{sink} is `{}`, expected `{expected}`\n{}", sink_state(server.address(), sink), server.log());
    let (of_sink, status) = (format!("sink=\"{sink}\""), format!("{expected}: "));
    let is_it = |line: &str| {
        let line = line.replace("\\\"", "\"");
        line.contains(&of_sink) && line.contains(&status) && words.iter().all(|word| line.contains(word))
    };
    // Lines are written by a thread of their own: what /ready says may be ahead.
    let logged = wait_until(PATIENCE, || server.log().lines().any(is_it));
    assert!(logged, "no line about {sink} has {status:?} and {words:?}:\n{}", server.log());
}

// ---- two servers with one log ----

/// Numbered events over HTTP, each posted once and answered 200.
struct Poster {
    seed: u64,
    events: u64,
}

impl Poster {
    fn post(&mut self, server: &Server, events: u64) {
        let mut body = String::new();
        for number in self.events + 1..=self.events + events {
            let text = ledger::body(self.seed, "poster", number);
            let event = format!(r#"{{"name":"{NAME}","source":"poster","value":{number},"body":"{text}"}}"#);
            writeln!(body, "{event}").unwrap();
        }
        let head = "POST /v1/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/x-ndjson\r\n";
        let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        assert_eq!(http::request(server.address(), &request).unwrap().0, 200);
        self.events += events;
    }

    fn ledger(&self) -> Ledger {
        let sender = Sender { name: "poster".to_owned(), events: self.events, exactly_once: true, interruptions: 0 };
        Ledger { seed: self.seed, senders: vec![sender] }
    }
}

/// What two servers share.
struct Shared {
    folder: tempfile::TempDir,
    postgres: Postgres,
    redis: Redis,
}

const SINKS: [&str; 3] = ["pg", "redis", "sqlite"];

impl Shared {
    fn settings(&self, address: SocketAddr) -> Vec<String> {
        vec![
            format!("server.address={address}"),
            "sinks.pg.kind=postgres".to_owned(),
            format!("sinks.pg.url={}", self.postgres.url("postgres")),
            "sinks.redis.kind=redis".to_owned(),
            format!("sinks.redis.url={}", self.redis.url()),
            "sinks.sqlite.kind=sqlite".to_owned(),
            format!("sinks.sqlite.path={}", self.folder.path().join("elsewhere.db").display()),
        ]
    }

    fn outcomes(&self, ledger: &Ledger) -> [(&'static str, Outcome); 3] {
        [
            ("PostgreSQL", ledger.compare(rows::of_postgres(&self.postgres, "postgres"))),
            ("Redis", ledger.compare(rows::of_redis(&self.redis, "events:{0}"))),
            ("SQLite", ledger.compare_sqlite(&self.folder.path().join("elsewhere.db"))),
        ]
    }

    fn has(&self, events: u64) -> bool {
        let rows = self.postgres.psql("postgres", "SELECT count(*) FROM events").unwrap_or_default();
        let has = |number: String| number.trim().parse().is_ok_and(|number: u64| number >= events);
        let in_sqlite = ledger::rows_stored(&self.folder.path().join("elsewhere.db"));
        has(rows) && has(self.redis.cli(&["xlen", "events:{0}"])) && in_sqlite >= events
    }

    /// Every store has all of it, once and in order.
    #[track_caller]
    fn assert_complete(&self, ledger: &Ledger, servers: &[&Server]) {
        let complete = wait_until(PATIENCE, || self.has(ledger.events()));
        let outcomes = self.outcomes(ledger);
        outcomes.iter().for_each(|(store, outcome)| println!("{store}: {outcome}"));
        assert!(complete, "{}", servers.iter().map(|server| server.log()).collect::<String>());
        outcomes.iter().for_each(|(_, outcome)| outcome.assert_clean());
    }
}

fn launch(data_dir: &Path, settings: &[String]) -> crate::support::server::Process {
    Server::launch(data_dir, &settings.iter().map(String::as_str).collect::<Vec<_>>())
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    assert!(Command::new("cp").arg("-a").args([from, to]).status().expect("there is a cp command").success());
}

fn stop(mut server: Server) {
    server.terminate();
    assert!(server.wait(PATIENCE).success(), "{}", server.log());
}

#[test]
fn a_second_server_on_a_copy_of_the_data_directory_fences_or_is_down_and_nothing_is_doubled() {
    let seed = seed();
    let mut random = Random::seeded(seed);
    let folder = tempfile::tempdir().unwrap();
    let (first_dir, copy_dir) = (folder.path().join("first"), folder.path().join("copy"));
    fs::create_dir(&first_dir).unwrap();
    let redis = Redis::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let mut shared = Shared { folder, postgres: Postgres::start(&[]), redis };
    let (first_settings, copy_settings) = (shared.settings(own_address()), shared.settings(own_address()));
    let mut poster = Poster { seed, events: 0 };
    let first = launch(&first_dir, &first_settings).listening();
    poster.post(&first, 500);
    shared.assert_complete(&poster.ledger(), &[&first]);
    stop(first);
    copy(&first_dir, &copy_dir);

    // The newest start wins; the other one says so as soon as it has something to deliver.
    let first = launch(&first_dir, &first_settings).listening();
    let second = launch(&copy_dir, &copy_settings).listening();
    poster.post(&first, 100);
    for sink in SINKS {
        let words = ["fenced at position 500: another server with the same log delivers", "stop one of them"];
        wait_for_state(&first, sink, "down", &words);
        assert_eq!(sink_state(second.address(), sink), "ok");
    }
    stop(second);
    stop(first);
    let first = launch(&first_dir, &first_settings).listening();
    shared.assert_complete(&poster.ledger(), &[&first]);

    // A copy that is older than the stores cannot go on, and harms nobody.
    let second = launch(&copy_dir, &copy_settings).listening();
    for sink in SINKS {
        wait_for_state(&second, sink, "down", &["is an older copy of the log"]);
    }
    poster.post(&first, 100);
    shared.assert_complete(&poster.ledger(), &[&first, &second]);
    SINKS.iter().for_each(|sink| assert_eq!(sink_state(first.address(), sink), "ok"));
    stop(second);

    // Both have the same events to deliver, and meet at stores that come back.
    shared.postgres.stop();
    shared.redis.stop();
    let holder = rusqlite::Connection::open(shared.folder.path().join("elsewhere.db")).unwrap();
    holder.execute_batch("BEGIN EXCLUSIVE").unwrap();
    (0..20).for_each(|_| poster.post(&first, 500));
    stop(first);
    copy(&first_dir, &copy_dir);
    let (first, second) = (launch(&first_dir, &first_settings), launch(&copy_dir, &copy_settings));
    std::thread::sleep(random.below(Duration::from_millis(300)));
    drop(holder);
    shared.redis.go_on();
    shared.postgres.go_on(&[]);
    let (first, second) = (first.listening(), second.listening());
    shared.assert_complete(&poster.ledger(), &[&first, &second]);
    for server in [&first, &second] {
        SINKS.iter().for_each(|sink| println!("{sink}: {}", sink_state(server.address(), sink)));
    }
    stop(second);
    stop(first);
    let first = launch(&first_dir, &first_settings).listening();
    poster.post(&first, 100);
    shared.assert_complete(&poster.ledger(), &[&first]);
}

// ---- stores that are set up wrong ----

#[test]
fn a_wrong_password_and_a_missing_table_are_told_and_nothing_is_lost_once_they_are_mended() {
    let postgres = Postgres::start(&[]);
    let redis = Redis::start(&[]);
    postgres.psql("postgres", "CREATE ROLE app LOGIN PASSWORD 'other'").unwrap();
    postgres.psql("postgres", "CREATE DATABASE app OWNER app").unwrap();
    postgres.put_file("pg_hba.conf", "host all app 127.0.0.1/32 scram-sha-256\nhost all postgres 127.0.0.1/32 trust\n");
    let asks_for_it = || postgres.psql("app", "SELECT pg_reload_conf(); SET ROLE app").is_ok();
    assert!(wait_until(PATIENCE, asks_for_it));
    redis.cli(&["config", "set", "requirepass", "other"]);

    let data_dir = tempfile::tempdir().unwrap();
    let address = own_address();
    let pg_url = format!("sinks.login.url=postgres://app:secret@127.0.0.1:{}/app", postgres.port());
    let table_url = format!("sinks.table.url={}", postgres.url("postgres"));
    let redis_url = format!("sinks.redis.url=redis://:secret@127.0.0.1:{}", redis.port());
    let at = format!("server.address={address}");
    let settings = [
        &at,
        "sinks.login.kind=postgres",
        &pg_url,
        "sinks.table.kind=postgres",
        &table_url,
        "sinks.table.create=false",
        "sinks.redis.kind=redis",
        &redis_url,
    ];
    let mut server = Server::start(data_dir.path(), &settings);
    let load = Load::start(address, &Plan { agents: vec![Synced; 4], posters: vec![], ..Plan::mixed(seed()) });
    for (sink, words) in [
        ("login", &["28P01", "check user and password in url"][..]),
        ("table", &["there is no table \"events\": run what `telemetryx config --ddl table` prints"]),
        ("redis", &["WRONGPASS", "check user and password"]),
    ] {
        wait_for_state(&server, sink, "down", words);
    }
    load.wait_for_acknowledged(1_000, PATIENCE);
    assert!(!server.log().contains("secret"), "a password is shown:\n{}", server.log());

    postgres.psql("postgres", "ALTER ROLE app PASSWORD 'secret'").unwrap();
    redis.cli(&["-a", "other", "config", "set", "requirepass", ""]);
    redis.cli(&["config", "set", "requirepass", "secret"]);
    let arguments = settings.iter().flat_map(|setting| ["--set", setting]);
    let ddl = Command::new(env!("CARGO_BIN_EXE_telemetryx"))
        .args(["config", "--ddl", "table"])
        .args(arguments)
        .current_dir(data_dir.path())
        .env_remove("TELEMETRYX_CONFIG")
        .output()
        .unwrap();
    postgres.psql("postgres", std::str::from_utf8(&ddl.stdout).unwrap()).unwrap();
    // It goes on by itself, within 30 s; whoever does not want to wait starts it again.
    if std::env::var_os("TELEMETRYX_TORTURE_ROUNDS").is_none() {
        stop(server);
        server = Server::start(data_dir.path(), &settings);
    }
    let ledger = load.finish(PATIENCE);
    let delivered = || matches!(http::post(address, "?ack=delivered", r#"{"name":"fresh"}"#), Ok((200, _)));
    assert!(wait_until(PATIENCE, delivered), "{}\n{}", get(address, "/ready").1, server.log());
    redis.cli(&["-a", "secret", "config", "set", "requirepass", ""]);
    for (store, rows) in [
        ("behind a password", rows::of_postgres(&postgres, "app")),
        ("without a table", rows::of_postgres(&postgres, "postgres")),
        ("Redis", rows::of_redis(&redis, "events:{0}")),
    ] {
        let outcome = ledger.compare(rows);
        println!("{store}: {outcome}");
        outcome.assert_clean();
    }
}

#[test]
fn a_full_disk_under_postgresql_is_told_and_nothing_is_lost_once_there_is_space() {
    let disk = match Disk::tmpfs(24 << 20) {
        Ok(disk) => disk,
        Err(reason) => return skip("a full disk under PostgreSQL", &reason),
    };
    // Its user must get there.
    fs::set_permissions(disk.path().parent().unwrap(), fs::Permissions::from_mode(0o711)).unwrap();
    let ballast = disk.path().join("ballast");
    let postgres = Postgres::start(&[]);
    let database = postgres.database_on(&disk.path().join("space"));
    // A table has room for some thousand events; as much again is to come.
    fs::write(&ballast, vec![1; 13 << 20]).unwrap();
    let data_dir = tempfile::tempdir().unwrap();
    let address = own_address();
    let (at, url) = (format!("server.address={address}"), format!("sinks.pg.url={}", postgres.url(&database)));
    let server = Server::start(data_dir.path(), &[&at, "sinks.pg.kind=postgres", &url]);
    let load = Load::start(address, &Plan { posters: vec![], agents: vec![Synced; 4], ..Plan::mixed(seed()) });
    wait_for_state(&server, "pg", "retrying", &["SQLSTATE 53100", "the server's disk is full: free or add space"]);
    load.wait_for_acknowledged(1_000, PATIENCE);

    fs::remove_file(&ballast).unwrap();
    let ledger = load.finish(PATIENCE);
    let delivered = || matches!(http::post(address, "?ack=delivered", r#"{"name":"fresh"}"#), Ok((200, _)));
    assert!(wait_until(PATIENCE, delivered), "{}\n{}", get(address, "/ready").1, server.log());
    let outcome = ledger.compare(rows::of_postgres(&postgres, &database));
    println!("{outcome}");
    outcome.assert_clean();
}

/// The rest of a delivery waits in an open transaction, which locks the row of the position, until what was refused of it is kept.
#[test]
fn a_full_disk_under_dead_letters_locks_no_position_for_long_and_nothing_is_lost_once_there_is_space() {
    let disk = match Disk::tmpfs(64 << 10) {
        Ok(disk) => disk,
        Err(reason) => return skip("a full disk under dead letters", &reason),
    };
    let (data_dir, ballast) = (tempfile::tempdir().unwrap(), disk.path().join("ballast"));
    symlink(disk.path(), data_dir.path().join("dead")).unwrap();
    let postgres = Postgres::shared();
    let database = postgres.database();
    let sql = |statement: &str| postgres.psql(&database, statement).map(|rows| rows.trim().to_owned());
    let stored = |rows: &str| wait_until(PATIENCE, || sql("SELECT count(*) FROM events").as_deref() == Ok(rows));
    let url = format!("sinks.pg.url={}", postgres.url(&database));
    let server = Server::start(data_dir.path(), &["sinks.pg.kind=postgres", &url, "sinks.pg.timeout=5s"]);
    let post = |body: &str| assert_eq!(http::post(server.address(), "?ack=synced", body).unwrap().0, 200);
    post(r#"{"name":"first"}"#);
    assert!(stored("1"), "{}", server.log());
    sql("ALTER TABLE events ADD CHECK (name <> 'bad')").unwrap();
    let mut file = fs::File::create(&ballast).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}

    post(r#"[{"name":"good"},{"name":"bad"},{"name":"more"}]"#);
    let locks = "SELECT position FROM telemetryx_positions FOR UPDATE NOWAIT";
    assert!(wait_until(PATIENCE, || sql(locks).is_err_and(|error| error.contains("could not obtain lock"))));
    wait_for_state(&server, "pg", "retrying", &["pg.ndjson", "No space left on device"]);
    // The store ends a transaction in which nothing comes for so long as the timeout of the sink.
    assert!(wait_until(PATIENCE, || sql(locks).is_ok()), "the row of the position stays locked");
    assert_eq!(
        (sql("SELECT count(*) FROM events").as_deref(), sink_state(server.address(), "pg")),
        (Ok("1"), "retrying".into())
    );

    drop(file);
    fs::remove_file(&ballast).unwrap();
    assert!(stored("3"), "{}", server.log());
    assert!(wait_until(PATIENCE, || sink_state(server.address(), "pg") == "ok"), "{}", server.log());
    let names = "SELECT string_agg(name, ' ' ORDER BY position) FROM events";
    assert_eq!(sql(names).as_deref(), Ok("first good more"));
    let letters = fs::read_to_string(disk.path().join("pg.ndjson")).unwrap();
    assert!(letters.lines().count() == 1 && letters.contains("\"bad\"") && letters.contains("23514"), "{letters}");
}
