//! `telemetryx dead` as its users call it: over files made here, and beside a server whose store refuses events.
#![cfg(feature = "postgres")]

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::support::server::{Server, wait_until};
use crate::support::stores::Postgres;
use rusqlite::Connection;

const PATIENCE: Duration = Duration::from_secs(60);

fn telemetryx(folder: &Path, arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_telemetryx"));
    command.args(arguments).current_dir(folder).env_remove("TELEMETRYX_CONFIG");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// `telemetryx dead …` on the files in `data_dir`: exit code, standard output and standard error.
fn dead(data_dir: &Path, arguments: &[&str]) -> (i32, String, String) {
    let set = format!("data_dir={}", data_dir.display());
    let output = telemetryx(data_dir, &[&["dead"], arguments, &["--set", &set]].concat(), "");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[track_caller]
fn fine(data_dir: &Path, arguments: &[&str]) -> String {
    let (code, out, err) = dead(data_dir, arguments);
    assert_eq!((code, err.as_str()), (0, ""), "{arguments:?}: {out}");
    out
}

fn letter(position: u64, code: &str, hour: u64) -> String {
    format!(
        "{{\"server_id\":\"5e5e5e5e-5e5e-5e5e-5e5e-5e5e5e5e5e5e\",\"position\":{position},\
         \"received_at\":\"2026-01-02T{hour:02}:00:00Z\",\"agent\":\"api\",\"code\":\"{code}\",\"reason\":\"no {position}\",\
         \"event\":{{\"kind\":\"log\",\"name\":\"e{position}\"}}}}\n"
    )
}

const REJECTED: &str = r#"{"agent":"api","agent_id":"000102030405060708090a0b0c0d0e0f","epoch":7,"seq":4,"code":"INVALID","reason":"event 1 has neither","received_at":"2026-01-02T09:00:00Z","payload":"CgcqBWhlbGxvCgA="}
"#;

/// Letters of a sink that is in no settings, of the default sink, and of what was rejected on receipt; some lines are none.
fn files() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("dead")).unwrap();
    let old = [letter(1, "23514", 1), letter(2, "23514", 2), letter(2, "23514", 2), letter(3, "22P02", 3)].concat();
    let torn = [&old[..], "no letter\n{\"server_id\":\"5e\n", &letter(4, "23514", 4), "{\"torn"].concat();
    fs::write(folder.path().join("dead/old.ndjson"), torn).unwrap();
    fs::write(folder.path().join("dead/sqlite.ndjson"), letter(9, "SQLITE_FULL", 9)).unwrap();
    fs::write(folder.path().join("dead/ingest.ndjson"), REJECTED).unwrap();
    folder
}

fn file(folder: &tempfile::TempDir, name: &str) -> String {
    fs::read_to_string(folder.path().join(format!("dead/{name}.ndjson"))).unwrap()
}

const BAD: &str = "dead/old.ndjson: 3 lines are not dead letters and left as is: line 5 6 8\n";

#[test]
fn list_counts_by_sink_and_code_each_position_once() {
    let folder = files();
    let (code, out, err) = dead(folder.path(), &["list"]);
    assert_eq!(code, 0);
    assert!(err.starts_with("telemetryx: ") && err.ends_with(BAD), "{err}");
    let expected = "\
sink    code         letters  oldest                newest                reason, such as
ingest  INVALID            1  2026-01-02T09:00:00Z  2026-01-02T09:00:00Z  event 1 has neither
old     22P02              1  2026-01-02T03:00:00Z  2026-01-02T03:00:00Z  no 3
old     23514              3  2026-01-02T01:00:00Z  2026-01-02T04:00:00Z  no 4
sqlite  SQLITE_FULL        1  2026-01-02T09:00:00Z  2026-01-02T09:00:00Z  no 9
";
    assert_eq!(out, expected);
    let (_, out, _) = dead(folder.path(), &["list", "--sink", "old", "--since", "2026-01-02T02:00:00Z", "--json"]);
    let found: serde_json::Value = serde_json::from_str(&out).unwrap();
    let letters = |group: &serde_json::Value| group["letters"].as_u64().unwrap();
    assert_eq!(found["groups"].as_array().unwrap().iter().map(letters).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(found["letters"], 3);
    assert_eq!(
        fine(folder.path(), &["list", "--sink", "sqlite", "--since", "1h ago"]),
        "no dead letters match: without filters, others may be listed\n"
    );
    assert_eq!(fine(tempfile::tempdir().unwrap().path(), &["list"]), "no dead letters\n");
}

#[test]
fn show_prints_what_was_refused_and_why() {
    let folder = files();
    let shown = "\
ingest epoch 7 seq 4  code INVALID  received 2026-01-02T09:00:00.000000000Z  agent \"api\" (000102030405060708090a0b0c0d0e0f)
  event 1 has neither
  {\"kind\":\"log\",\"name\":\"hello\"}
  event 1: event has neither `name` nor `body`: set one of them

";
    assert_eq!(fine(folder.path(), &["show", "--sink", "ingest"]), shown);
    let shown = "\
sqlite position 9  code SQLITE_FULL  received 2026-01-02T09:00:00.000000000Z  agent \"api\"
  no 9
  {\"kind\":\"log\",\"name\":\"e9\"}

";
    assert_eq!(fine(folder.path(), &["show", "--sink", "sqlite", "--position", "9"]), shown);
    assert_eq!(fine(folder.path(), &["show", "--sink", "ingest", "--json"]), REJECTED);
    let (_, out, _) = dead(folder.path(), &["show", "--limit", "2"]);
    assert!(out.ends_with("4 letters more: --limit 0 shows all\n"), "{out}");
    let (_, out, _) = dead(folder.path(), &["show", "--code", "23514", "--limit", "2", "--json"]);
    assert_eq!(out, letter(1, "23514", 1) + &letter(2, "23514", 2));
}

#[test]
fn a_position_without_a_letter_is_named() {
    let folder = files();
    let none = "no dead letter of position 99\n";
    assert_eq!(fine(folder.path(), &["show", "--sink", "sqlite", "--position", "99"]), none);
    assert_eq!(fine(folder.path(), &["list", "--sink", "sqlite", "--position", "99"]), none);
}

#[test]
fn without_a_data_directory_every_command_fails_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in
        [&["list"][..], &["list", "--json"], &["show"], &["replay", "--sink", "sqlite"], &["drop", "--all"]]
    {
        let output = telemetryx(folder.path(), &[&["dead"], arguments].concat(), "");
        let reported = String::from_utf8_lossy(&output.stderr);
        let expected = "telemetryx: there is no data directory telemetryx-data: set data_dir to that of the server\n";
        assert_eq!((output.status.code(), reported.as_ref()), (Some(1), expected), "{arguments:?}");
        assert_eq!(output.stdout, b"");
    }
    // A directory without dead letters has none.
    fs::create_dir(folder.path().join("telemetryx-data")).unwrap();
    let output = telemetryx(folder.path(), &["dead", "list"], "");
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"no dead letters\n"[..]));
}

#[test]
fn drop_takes_what_is_asked_for_and_nothing_else() {
    let folder = files();
    assert_eq!(dead(folder.path(), &["drop"]).0, 2, "everything must be asked for");
    assert_eq!(fine(folder.path(), &["drop", "--code", "none"]), "no dead letters match: nothing was dropped\n");
    assert_eq!(fine(folder.path(), &["drop", "--position", "2"]), "old: 2 lines dropped\n");
    let until = ["drop", "--sink", "old", "--until", "2026-01-02T03:00:00Z"];
    assert_eq!(fine(folder.path(), &until), "old: 1 line dropped\n");
    let left =
        [&letter(3, "22P02", 3)[..], "no letter\n{\"server_id\":\"5e\n", &letter(4, "23514", 4), "{\"torn"].concat();
    assert_eq!(file(&folder, "old"), left);
    assert_eq!(file(&folder, "ingest"), REJECTED);
    assert_eq!(fine(folder.path(), &["drop", "--bad-lines"]), "old: 2 lines dropped\n");
    assert_eq!(file(&folder, "old"), letter(3, "22P02", 3) + &letter(4, "23514", 4) + "{\"torn");
    let all = fine(folder.path(), &["drop", "--all"]);
    assert_eq!(all, "ingest: 1 line dropped\nold: 2 lines dropped\nsqlite: 1 line dropped\n");
    assert_eq!((file(&folder, "ingest"), file(&folder, "old")), (String::new(), "{\"torn".to_owned()));
}

#[test]
fn letters_under_the_earlier_name_are_listed_shown_and_dropped_as_ingest() {
    let folder = files();
    let before = REJECTED.replace(r#""seq":4"#, r#""seq":3"#);
    fs::write(folder.path().join("dead/door.ndjson"), &before).unwrap();
    let found =
        serde_json::from_str::<serde_json::Value>(&fine(folder.path(), &["list", "--sink", "ingest", "--json"]));
    let found = found.unwrap();
    assert_eq!((&found["letters"], &found["groups"][0]["sink"]), (&2.into(), &"ingest".into()));
    assert_eq!(fine(folder.path(), &["show", "--sink", "ingest", "--json"]), [&before, REJECTED].concat());
    assert_eq!(fine(folder.path(), &["show", "--sink", "ingest", "--json", "--limit", "1"]), before);
    assert_eq!(fine(folder.path(), &["drop", "--sink", "ingest"]), "ingest: 2 lines dropped\n");
    assert_eq!((file(&folder, "door"), file(&folder, "ingest")), (String::new(), String::new()));
}

#[test]
fn what_cannot_be_done_is_said_and_leaves_the_files_as_they_are() {
    let folder = files();
    let before = (file(&folder, "old"), file(&folder, "sqlite"), file(&folder, "ingest"));
    for (arguments, code, said) in [
        (&["list", "--sink", "pg"][..], 1, "no sink is named `pg`; the sinks are: sqlite"),
        (&["replay", "--sink", "old"], 1, "no sink is named `old`; the sinks are: sqlite"),
        (&["replay", "--sink", "ingest"], 1, "`telemetryx dead show --sink ingest` shows"),
        (&["replay", "--sink", "sqlite"], 1, "events.db: unable to open database file"),
        (&["replay", "--sink", "sqlite", "--set", "sinks.sqlite.kind=stdout"], 1, "dead show --json"),
        (&["replay", "--sink", "sqlite", "--dry-run", "--set", "sinks.sqlite.kind=stdout"], 1, "dead show --json"),
        (&["replay"], 2, "--sink"),
        (&["show", "--since", "yesterday"], 2, "or write a time ago, such as 1h"),
        (&["list", "--set", "a.b=c"], 78, "unknown key"),
    ] {
        let (found, out, err) = dead(folder.path(), arguments);
        assert_eq!((found, out.as_str()), (code, ""), "{arguments:?}: {err}");
        assert!(err.contains(said), "{arguments:?}: {err}");
    }
    let lock = fs::File::open(folder.path().join("dead")).unwrap();
    lock.lock().unwrap();
    let (code, _, err) = dead(folder.path(), &["drop", "--all"]);
    assert!(code == 1 && err.contains("is at work"), "{err}");
    assert_eq!(before, (file(&folder, "old"), file(&folder, "sqlite"), file(&folder, "ingest")));
    assert!(!folder.path().join("events.db").exists());
}

/// Posts lines of JSON; all of them must be accepted.
fn post(address: SocketAddr, lines: &str) {
    let mut connection = TcpStream::connect(address).unwrap();
    let head = "POST /v1/events HTTP/1.1\r\nhost: here\r\nconnection: close\r\ncontent-type: application/x-ndjson\r\n";
    write!(connection, "{head}content-length: {}\r\n\r\n{lines}", lines.len()).unwrap();
    connection.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    assert!(answer.contains(&format!("\"accepted\":{},", lines.lines().count())), "{answer}");
}

/// Every field that an event may have.
fn full(name: &str) -> String {
    format!(
        "{{\"time\":\"2026-01-02T03:04:05.123456789Z\",\"kind\":\"span\",\"severity\":\"warn\",\"source\":\"web\",\
         \"name\":\"{name}\",\"body\":\"zwölf \\\"quoted\\\"\",\"attributes\":{{\"n\":-1,\"d\":0.1,\"b\":true,\"s\":\"x\"}},\
         \"value\":1.5,\"duration_nano\":77,\"trace_id\":\"{}\",\"span_id\":\"{}\",\"parent_span_id\":\"{}\"}}\n",
        "ab".repeat(16),
        "cd".repeat(8),
        "ef".repeat(8)
    )
}

/// A store refuses one of `events` events until `mend`; then `dead replay` brings it, beside the server, which goes on.
/// `select` runs a query that gives one text.
fn refused_then_replayed(
    sink: &str,
    settings: &[&str],
    spoil: &str,
    mend: &str,
    code: &str,
    sql: impl Fn(&Path, &str) -> String,
) {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let server = Server::start(dir, settings);
    let names = |where_: &str| sql(dir, &format!("SELECT count(*) FROM events WHERE {where_}"));
    let settings: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    fn joined<'a>(arguments: &[&'a str], settings: &[&'a str]) -> Vec<&'a str> {
        [arguments, settings].concat()
    }
    let run = |arguments: &[&str]| dead(dir, &joined(arguments, &settings));
    let fine = |arguments: &[&str]| fine(dir, &joined(arguments, &settings));
    post(server.address(), "{\"name\":\"first\"}\n");
    assert!(wait_until(PATIENCE, || names("name = 'first'") == "1"), "{}", server.log());
    sql(dir, spoil);

    // Over frames, so that it has an agent.
    let to = server.address().to_string();
    let input = full("good") + &full("bad") + &"{\"name\":\"more\"}\n".repeat(500);
    let sent = telemetryx(dir, &["send", "--to", &to, "--format", "ndjson", "--ack", "delivered"], &input);
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    assert_eq!((names("name = 'more'"), names("name = 'bad'")), ("500".into(), "0".into()));

    let list = fine(&["list"]);
    assert!(list.lines().count() == 2 && list.contains(code), "{list}");
    let shown = fine(&["show", "--code", code]);
    assert!(shown.contains("\"name\":\"bad\"") && shown.contains(code), "{shown}");
    let (exit, _, err) = run(&["replay", "--sink", sink]);
    assert!(exit == 1 && err.contains(&format!("1 letter ({code}): ")), "{err}");
    assert_eq!(
        fine(&["replay", "--sink", sink, "--dry-run"]),
        format!("1 letter would be delivered into sink {sink}\n")
    );
    let kept = fs::read_to_string(dir.join(format!("dead/{sink}.ndjson"))).unwrap();
    assert_eq!(kept.lines().count(), 1, "refused again, kept once");

    sql(dir, mend);
    let told = fine(&["replay", "--sink", sink]);
    assert!(told.starts_with(&format!("1 letter delivered into sink {sink} and taken out of ")), "{told}");
    // All but name and position are those of its neighbour, which the server stored.
    let row = |name: &str| {
        let columns = "server_id, received_at, time, kind, severity, source, body, value, duration_nano, trace_id, \
                       span_id, parent_span_id, agent, attributes";
        let columns: Vec<String> =
            columns.split(", ").map(|column| format!("coalesce(CAST({column} AS text), 'NULL')")).collect();
        sql(dir, &format!("SELECT {} FROM events WHERE name = '{name}'", columns.join(" || '|' || ")))
    };
    let good = row("good");
    assert!(good.contains("zwölf") && !good.contains("NULL"), "{good}");
    assert_eq!(row("bad"), good);
    let gaps = "SELECT max(position) - min(position) + 1 - count(*) FROM events";
    assert_eq!(sql(dir, gaps), "0", "it has the position that was left");

    // A crash before it was taken out of the file: it is there again, and doubles nothing.
    fs::write(dir.join(format!("dead/{sink}.ndjson")), kept).unwrap();
    let told = fine(&["replay", "--sink", sink]);
    assert!(told.starts_with("1 letter delivered"), "{told}");
    assert_eq!(fine(&["replay", "--sink", sink]), "no dead letters\n");
    assert_eq!(names("name = 'bad'"), "1");
    post(server.address(), "{\"name\":\"last\"}\n");
    assert!(wait_until(PATIENCE, || names("name = 'last'") == "1"), "the sink goes on\n{}", server.log());
    assert!(!server.log().contains("fenced"), "{}", server.log());
}

#[test]
fn what_a_check_of_postgresql_refused_is_delivered_once_it_is_dropped() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let url = format!("sinks.pg.url={}", postgres.url(&database));
    let check = "ALTER TABLE events ADD CONSTRAINT no_bad CHECK (name <> 'bad')";
    let mend = "ALTER TABLE events DROP CONSTRAINT no_bad";
    refused_then_replayed("pg", &["sinks.pg.kind=postgres", &url], check, mend, "23514", |_, sql| {
        postgres.psql(&database, sql).unwrap().trim_end().to_owned()
    });
}

fn sqlite(dir: &Path, sql: &str) -> String {
    let connection = Connection::open(dir.join("events.db")).unwrap();
    connection.busy_timeout(PATIENCE).unwrap();
    if sql.starts_with("SELECT") {
        return connection
            .query_row(&format!("SELECT CAST(({sql}) AS text)"), [], |row| row.get::<_, Option<String>>(0))
            .unwrap()
            .unwrap_or_default();
    }
    connection.execute_batch(sql).unwrap();
    String::new()
}

const REFUSE: &str =
    "CREATE TRIGGER no_bad BEFORE INSERT ON events WHEN new.name LIKE 'bad%' BEGIN SELECT RAISE(ABORT, 'no'); END;";

#[test]
fn what_a_trigger_of_sqlite_refused_is_delivered_once_it_is_dropped() {
    refused_then_replayed("sqlite", &[], REFUSE, "DROP TRIGGER no_bad", "SQLITE_CONSTRAINT_TRIGGER", sqlite);
}

#[test]
fn replays_and_drops_beside_a_server_that_refuses_more_all_the_time_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let server = Server::start(dir, &[]);
    // The port opens before a slow disk has the table.
    let table = || Connection::open(dir.join("events.db")).unwrap().table_exists(None, "events").unwrap_or(false);
    assert!(wait_until(PATIENCE, table), "{}", server.log());
    sqlite(dir, REFUSE);
    std::thread::scope(|scope| {
        let posting = scope.spawn(|| {
            for number in 0..60 {
                post(server.address(), &format!("{{\"name\":\"good{number}\"}}\n{{\"name\":\"bad{number}\"}}\n"));
                if number == 40 {
                    sqlite(dir, "DROP TRIGGER no_bad");
                }
            }
        });
        while !posting.is_finished() {
            let (code, out, err) = dead(dir, &["replay", "--sink", "sqlite"]);
            assert!(code == 0 || err.contains("SQLITE_CONSTRAINT_TRIGGER"), "{out}{err}");
            assert_eq!(fine(dir, &["drop", "--code", "other"]), "no dead letters match: nothing was dropped\n");
        }
    });
    let all = || {
        dead(dir, &["replay", "--sink", "sqlite"]);
        sqlite(dir, "SELECT count(*) FROM events") == "120"
    };
    assert!(wait_until(PATIENCE, all), "{}\n{}", sqlite(dir, "SELECT count(*) FROM events"), server.log());
    assert_eq!(sqlite(dir, "SELECT count(DISTINCT name) FROM events"), "120");
    assert_eq!(fine(dir, &["list"]), "no dead letters\n");
}
