//! The real server in front of real stores: PostgreSQL, Redis and services in Python, as their users set them up and
//! break them.
#![cfg(all(feature = "postgres", feature = "redis", feature = "grpc", feature = "http-sink"))]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::support::server::{Server, wait_until};
use crate::support::stores::{HttpService, Postgres, Receiver, Redis, free_address, python};

const PATIENCE: Duration = Duration::from_secs(60);

fn telemetryx(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_telemetryx"));
    command.args(arguments).current_dir(folder).env_remove("TELEMETRYX_CONFIG").output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Posts lines of JSON; all of them must be accepted.
fn post(address: SocketAddr, lines: &str, events: usize) {
    let mut connection = TcpStream::connect(address).unwrap();
    let head = "POST /v1/events HTTP/1.1\r\nhost: here\r\nconnection: close\r\ncontent-type: application/x-ndjson\r\n";
    write!(connection, "{head}content-length: {}\r\n\r\n{lines}", lines.len()).unwrap();
    connection.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    assert!(answer.contains(&format!("\"accepted\":{events},")), "{answer}");
}

fn lines(numbers: std::ops::Range<u64>) -> String {
    numbers.map(|number| format!("{{\"name\":\"e{number}\",\"attributes\":{{\"user\":\"{number}\"}}}}\n")).collect()
}

fn dead_letters(data_dir: &Path, sink: &str) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(data_dir.join(format!("dead/{sink}.ndjson"))).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn count(server: &Postgres, database: &str) -> u64 {
    server.psql(database, "SELECT count(*) FROM events").unwrap().trim().parse().unwrap()
}

/// One of 10,000 rows is refused, and nothing else is lost.
#[track_caller]
fn one_is_buried(spoil: &str, bad_line: &str, code: &str) {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sinks.pg.url={}", postgres.url(&database));
    let server = Server::start(folder.path(), &["sinks.pg.kind=postgres", &url]);
    // The port opens before a slow store has answered.
    assert!(wait_until(PATIENCE, || postgres.psql(&database, spoil).is_ok()), "{}", server.log());
    let all = lines(0..6_789) + bad_line + "\n" + &lines(6_790..10_000);
    post(server.address(), &all, 10_000);
    let arrived = wait_until(PATIENCE, || count(postgres, &database) == 9_999);
    assert!(arrived, "{} rows\n{}", count(postgres, &database), server.log());
    let distinct = "SELECT count(DISTINCT name), count(*) FILTER (WHERE name = 'bad') FROM events";
    assert_eq!(postgres.psql(&database, distinct).unwrap(), "9999|0\n");
    let letters = dead_letters(folder.path(), "pg");
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!((letters[0]["code"].as_str(), letters[0]["event"]["name"].as_str()), (Some(code), Some("bad")));
    assert!(letters[0]["reason"].as_str().unwrap().contains(&format!("SQLSTATE {code}")), "{letters:?}");
    // Another one goes its way.
    post(server.address(), &lines(0..1), 1);
    assert!(wait_until(PATIENCE, || count(postgres, &database) == 10_000));
}

#[test]
fn a_row_that_a_check_refuses_is_one_dead_letter_of_ten_thousand_events() {
    one_is_buried("ALTER TABLE events ADD CHECK (name <> 'bad')", "{\"name\":\"bad\"}", "23514");
}

#[test]
fn a_value_that_postgresql_refuses_is_one_dead_letter_of_ten_thousand_events() {
    let typed = "ALTER TABLE events ADD user_id int GENERATED ALWAYS AS ((attributes->>'user')::int) STORED";
    one_is_buried(typed, "{\"name\":\"bad\",\"attributes\":{\"user\":\"no number\"}}", "22P02");
}

/// Positions and names of the NDJSON that the service has kept under this name.
fn kept(service: &HttpService, name: &str) -> Vec<(u64, String)> {
    let bodies: Vec<Vec<u8>> = service.requests(name).into_iter().map(|request| request.body).collect();
    let lines = bodies.iter().flat_map(|body| text(body).lines()).map(|line| {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        (event["position"].as_u64().unwrap(), event["name"].as_str().unwrap().to_owned())
    });
    lines.collect()
}

#[test]
fn an_event_that_a_service_refuses_is_one_dead_letter_of_ten_thousand() {
    let service = HttpService::shared();
    let name = service.name();
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sinks.out.url={}", service.url(&name));
    service.tell(&name, "poison", b"poison");
    let server = Server::start(folder.path(), &["sinks.out.kind=http", &url, "sinks.out.format=ndjson"]);
    let all = lines(0..6_789) + "{\"name\":\"bad\",\"body\":\"poison\"}\n" + &lines(6_790..10_000);
    post(server.address(), &all, 10_000);
    let arrived = wait_until(PATIENCE, || kept(service, &name).len() >= 9_999);
    assert!(arrived, "{}", server.log());
    let expected = (0..10_000).filter(|number| *number != 6_789).map(|number| (number + 1, format!("e{number}")));
    assert_eq!(kept(service, &name), expected.collect::<Vec<_>>());
    let letters = dead_letters(folder.path(), "out");
    assert_eq!(letters.len(), 1, "{letters:?}");
    let letter = ["code", "reason"].map(|key| letters[0][key].as_str());
    assert_eq!(letter, [Some("HTTP 400"), Some("poisoned")]);
    assert_eq!(letters[0]["event"]["name"], "bad");
    // Another one goes its way.
    post(server.address(), &lines(0..1), 1);
    assert!(wait_until(PATIENCE, || kept(service, &name).len() == 10_000));
}

#[test]
fn a_service_that_is_away_under_load_has_everything_in_the_end() {
    let service = HttpService::shared();
    let name = service.name();
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sinks.out.url={}", service.url(&name));
    let settings = ["sinks.out.kind=http", &url, "sinks.out.format=ndjson", "sinks.out.batch.max_events=100"];
    let server = Server::start(folder.path(), &settings);
    let mut sent = 0;
    for trouble in [&b"HTTP/1.1 503 x\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n"[..], b"", b"HTTP/1.1 200 OK\r\n"]
    {
        for away in [false, true] {
            match away {
                true => service.tell(&name, "answer", trouble),
                false => service.tell_nothing(&name),
            }
            for _ in 0..10 {
                post(server.address(), &lines(sent..sent + 50), 50);
                sent += 50;
            }
        }
    }
    service.tell_nothing(&name);
    let all: Vec<_> = (0..sent).map(|number| (number + 1, format!("e{number}"))).collect();
    let mut found = Vec::new();
    let arrived = wait_until(PATIENCE, || {
        found = kept(service, &name);
        found.sort_unstable();
        found.dedup();
        found.len() >= all.len()
    });
    assert!(arrived && found == all, "{} of {sent}\n{}", found.len(), server.log());
    assert!(dead_letters(folder.path(), "out").is_empty());
}

#[test]
fn a_server_hands_its_events_on_to_another_as_protobuf() {
    let (folder, next_folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let next = Server::start(next_folder.path(), &["sinks.out.kind=file"]);
    let url = format!("sinks.next.url=http://{}/v1/events", next.address());
    let settings = ["sinks.next.kind=http", &url, "sinks.next.format=protobuf", "sinks.next.gzip=true"];
    let server = Server::start(folder.path(), &settings);
    post(server.address(), &lines(0..1_000), 1_000);
    let arrived = || fs::read_to_string(next_folder.path().join("events.ndjson")).unwrap_or_default();
    assert!(wait_until(PATIENCE, || arrived().lines().count() == 1_000), "{}{}", server.log(), next.log());
    let last: serde_json::Value = serde_json::from_str(arrived().lines().last().unwrap()).unwrap();
    assert_eq!((&last["name"], &last["attributes"]["user"]), (&"e999".into(), &"999".into()));
}

#[test]
fn stores_that_crash_under_load_have_everything_once_in_the_end() {
    let mut postgres = Postgres::start(&["fsync=on"]);
    let mut redis = Redis::start(&["--appendonly", "yes", "--appendfsync", "always", "--aof-load-truncated", "no"]);
    let folder = tempfile::tempdir().unwrap();
    let (pg_url, redis_url) =
        (format!("sinks.pg.url={}", postgres.url("postgres")), format!("sinks.r.url={}", redis.url()));
    let settings = ["sinks.pg.kind=postgres", &pg_url, "sinks.r.kind=redis", &redis_url];
    let server = Server::start(folder.path(), &settings);
    let mut sent = 0;
    for _ in 0..2 {
        for _ in 0..20 {
            post(server.address(), &lines(sent..sent + 250), 250);
            sent += 250;
        }
        postgres.kill();
        redis.kill();
        for _ in 0..20 {
            post(server.address(), &lines(sent..sent + 250), 250);
            sent += 250;
        }
        postgres.go_on(&["fsync=on"]);
        redis.go_on();
    }
    assert!(wait_until(PATIENCE, || count(&postgres, "postgres") >= sent), "{}", server.log());
    let distinct = postgres.psql("postgres", "SELECT count(*), count(DISTINCT name) FROM events").unwrap();
    assert_eq!(distinct, format!("{sent}|{sent}\n"));
    let length = || redis.cli(&["xlen", "events:{0}"]).trim().parse::<u64>();
    assert!(wait_until(PATIENCE, || length().is_ok_and(|length| length >= sent)), "{}", server.log());
    let entries = redis.cli(&["xrange", "events:{0}", "-", "+"]);
    // A server id may begin with an e, too.
    let is_name = |line: &&str| line.strip_prefix('e').is_some_and(|number| number.parse::<u64>().is_ok());
    let mut names: Vec<&str> = entries.lines().filter(is_name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!((length(), names.len() as u64), (Ok(sent), sent));
    assert!(dead_letters(folder.path(), "pg").is_empty());
}

/// Number of rows, of different names, and of rows called `bad` that a receiver has.
fn received(receiver: &Receiver) -> (i64, i64, i64) {
    let database = rusqlite::Connection::open(receiver.database()).unwrap();
    database.busy_timeout(PATIENCE).unwrap();
    let sql = "SELECT count(*), count(DISTINCT name), count(*) FILTER (WHERE name = 'bad') FROM events";
    database.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap()
}

#[test]
fn an_event_that_a_python_service_refuses_is_one_dead_letter_of_ten_thousand_events() {
    let receiver = Receiver::start(&["--token", "secret"]);
    receiver.control(r#"{"refuse": {"bad": ["TOO_BAD", "not this one"]}}"#);
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sinks.service.url={}", receiver.url());
    fs::write(folder.path().join("token"), "secret\n").unwrap();
    let token = "sinks.service.token_file=token"; // looked for where the server starts
    let server = Server::start(folder.path(), &["sinks.service.kind=grpc", &url, token]);
    let all = lines(0..6_789) + "{\"name\":\"bad\"}\n" + &lines(6_790..10_000);
    post(server.address(), &all, 10_000);
    assert!(wait_until(PATIENCE, || received(&receiver) == (9_999, 9_999, 0)), "{}", server.log());
    assert!(wait_until(PATIENCE, || dead_letters(folder.path(), "service").len() == 1), "{}", server.log());
    let letter = dead_letters(folder.path(), "service").remove(0);
    let words = [&letter["code"], &letter["reason"], &letter["event"]["name"]].map(|text| text.as_str());
    assert_eq!(words, [Some("TOO_BAD"), Some("not this one"), Some("bad")]);
}

#[test]
fn an_event_in_a_batch_that_a_python_service_refuses_unnamed_is_found() {
    let receiver = Receiver::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sinks.service.url={}", receiver.url());
    let server = Server::start(folder.path(), &["sinks.service.kind=grpc", &url]);
    receiver.control(r#"{"dislike": "bad"}"#);
    let all = lines(0..700) + "{\"name\":\"bad\"}\n" + &lines(701..1_000);
    post(server.address(), &all, 1_000);
    assert!(wait_until(PATIENCE, || received(&receiver) == (999, 999, 0)), "{}", server.log());
    assert!(wait_until(PATIENCE, || dead_letters(folder.path(), "service").len() == 1), "{}", server.log());
    assert_eq!(dead_letters(folder.path(), "service")[0]["code"], "INVALID_ARGUMENT");
}

#[test]
fn a_python_service_that_crashes_under_load_has_everything_once_in_the_end() {
    let mut receiver = Receiver::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sinks.service.url={}", receiver.url());
    let server = Server::start(folder.path(), &["sinks.service.kind=grpc", &url]);
    let mut sent = 0;
    let mut post_some = || {
        for _ in 0..20 {
            post(server.address(), &lines(sent..sent + 250), 250);
            sent += 250;
        }
        sent
    };
    for _ in 0..2 {
        post_some();
        receiver.kill();
        post_some();
        receiver.go_on();
    }
    let sent = post_some() as i64;
    assert!(wait_until(PATIENCE, || received(&receiver).0 >= sent), "{}", server.log());
    assert_eq!(received(&receiver), (sent, sent, 0));
    assert!(dead_letters(folder.path(), "service").is_empty());
}

#[test]
fn the_python_receiver_passes_its_own_tests() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/python/test_receiver.py");
    let mut compiler = protox::Compiler::new([concat!(env!("CARGO_MANIFEST_DIR"), "/proto")]).unwrap();
    compiler.open_file("events.proto").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let compiled = folder.path().join("events.fds");
    std::fs::write(&compiled, compiler.encode_file_descriptor_set()).unwrap();
    let output = Command::new(python()).arg("-B").arg(script).arg(compiled).output().unwrap();
    let said = text(&output.stderr);
    assert!(output.status.success() && !said.contains("skipped"), "{said}");
}

#[test]
fn two_sinks_on_one_table_or_stream_are_wrong_settings() {
    let folder = tempfile::tempdir().unwrap();
    for (kind, output) in [
        ("postgres", "postgres localhost:5432/telemetryx table events"),
        ("redis", "redis 127.0.0.1:6379 stream events"),
        ("grpc", "grpc http://127.0.0.1:50051"),
    ] {
        let (a, b) = (format!("sinks.a.kind={kind}"), format!("sinks.b.kind={kind}"));
        let output_of = |arguments: &[&str]| telemetryx(folder.path(), arguments);
        let wrong = output_of(&["check", "--set", &a, "--set", &b]);
        assert_eq!(wrong.status.code(), Some(78));
        let said = format!(
            "telemetryx: --set: sinks.b writes to {output}, where sinks.a (--set) writes too; give each its own\n"
        );
        assert_eq!(text(&wrong.stderr), said);
        let other = match kind {
            "postgres" => "sinks.b.table=other",
            "redis" => "sinks.b.stream=other",
            _ => "sinks.b.url=http://other:50051",
        };
        assert_eq!(output_of(&["check", "--set", &a, "--set", &b, "--set", other]).status.code(), Some(0));
    }
}

#[test]
fn wrong_settings_of_a_store_are_named_without_their_password() {
    let folder = tempfile::tempdir().unwrap();
    for (set, said) in [
        (
            "sinks.postgres.url=postgres://u:secret@h:x/d",
            "sinks.postgres.url = \"postgres://***\": contains a port that is not a number from 1 to 65535: expected \
             postgres://user:password@host:5432/database",
        ),
        (
            "sinks.postgres.table=Events",
            "sinks.postgres.table = \"Events\": expected a name such as events or schema.events: lower-case letters, \
             digits and _",
        ),
        (
            "sinks.redis.stream={a}",
            "sinks.redis.stream = \"{a}\": expected 1 to 200 bytes without { and }, which name the slot on a Cluster",
        ),
        ("sinks.redis.urls=redis://h/3", "sinks.redis.urls = \"redis://h/3\": a Cluster has database 0 only"),
        ("sinks.redis.ca_file=x", "sinks.redis.ca_file = \"x\": is for rediss:// only"),
        (
            "sinks.grpc.url=http://u:secret@h",
            "sinks.grpc.url = \"http://***@h\": contains a user or password: give the receiver a token instead (token, \
             token_file)",
        ),
        ("sinks.grpc.ca_file=x", "sinks.grpc.ca_file = \"x\": is for https:// only"),
        ("sinks.grpc.token=sécret", "sinks.grpc.token = \"***\": expected visible ASCII characters without a space"),
        (
            "sinks.http.url=https://u:secret@/x",
            "sinks.http.url = \"https://***@/x\": expected http:// or https://, a host, \
             and a path with %XX for other signs",
        ),
        ("sinks.http.headers.TE=secret", "sinks.http.headers.TE = \"***\": is a header that the sink sets itself"),
        (
            "sinks.postgres.url=postgres://u@%2Frun,h/d",
            "sinks.postgres.url = \"postgres://***@%2Frun,h/d\": names a Unix socket and a host: use one kind only, \
             since TLS is for hosts only",
        ),
        ("sinks.postgres.ca_file=x", "sinks.postgres.ca_file = \"x\": is for tls = \"verify\" only"),
    ] {
        let output = telemetryx(folder.path(), &["check", "--set", set]);
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(78), &*format!("telemetryx: --set: {said}\n")));
    }
    let shown = telemetryx(folder.path(), &["config", "--set", "sinks.redis.url=redis://u:secret@h/2"]);
    assert!(text(&shown.stdout).contains("url = \"redis://***@h/2\" # --set\n"), "{}", text(&shown.stdout));
    let http = ["sinks.http.url=http://h/?key=secret", "sinks.http.token=secret", "sinks.http.headers.X-Key=secret"];
    let shown = telemetryx(folder.path(), &["config", "--set", http[0], "--set", http[1], "--set", http[2]]);
    let shown = text(&shown.stdout);
    for line in ["url = \"http://h/?***\" # --set\n", "token = \"***\" # --set\n", "headers.X-Key = \"***\" # --set\n"]
    {
        assert!(shown.contains(line) && !shown.contains("secret"), "{shown}");
    }
}

#[test]
fn check_connect_looks_at_stores_and_takes_nothing_from_a_server_that_runs() {
    let postgres = Postgres::shared();
    let (database, redis) = (postgres.database(), Redis::start(&[]));
    let folder = tempfile::tempdir().unwrap();
    let (pg_url, redis_url) =
        (format!("sinks.pg.url={}", postgres.url(&database)), format!("sinks.r.url={}", redis.url()));
    let settings = ["sinks.pg.kind=postgres", &pg_url, "sinks.r.kind=redis", &redis_url, "data_dir=."];
    let check = |more: &[&str]| {
        let sets = settings.iter().chain(more).flat_map(|set| ["--set", set]);
        telemetryx(folder.path(), &["check", "--connect"].into_iter().chain(sets).collect::<Vec<_>>())
    };
    let missing = check(&["sinks.pg.create=false"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stdout).contains("there is no table \"events\""), "{}", text(&missing.stdout));
    let good = check(&[]);
    assert!(good.status.success(), "{}{}", text(&good.stdout), text(&good.stderr));
    assert_eq!(postgres.psql(&database, "SELECT to_regclass('events') IS NULL").unwrap(), "t\n", "no table is made");
    assert_eq!(redis.cli(&["keys", "*"]).trim(), "");

    let server = Server::start(folder.path(), &settings);
    post(server.address(), &lines(0..5), 5);
    assert!(wait_until(PATIENCE, || count(postgres, &database) == 5), "{}", server.log());
    assert!(check(&[]).status.success());
    // Not fenced.
    post(server.address(), &lines(5..9), 4);
    assert!(wait_until(PATIENCE, || count(postgres, &database) == 9), "{}", server.log());
    assert!(wait_until(PATIENCE, || redis.cli(&["xlen", "events:{0}"]).trim() == "9"), "{}", server.log());
    redis.cli(&["set", "events:{0}", "x"]);
    let wrong = check(&["sinks.r.shards=2"]);
    assert!(text(&wrong.stdout).contains("sink r: "), "{}", text(&wrong.stdout));
    assert_eq!(wrong.status.code(), Some(1));
}

/// Positions of all entries of the one stream.
fn entries(redis: &Redis) -> Vec<u64> {
    let text = redis.cli(&["xrange", "events:{0}", "-", "+"]);
    let lines: Vec<&str> = text.lines().collect();
    lines.windows(2).filter(|pair| pair[0] == "position").map(|pair| pair[1].parse().unwrap()).collect()
}

#[test]
fn a_position_that_redis_evicted_doubles_nothing_after_a_restart() {
    let redis = Redis::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sinks.r.url={}", redis.url());
    let settings = ["sinks.r.kind=redis", &url];
    let mut server = Server::start(folder.path(), &settings);
    post(server.address(), &lines(0..100), 100);
    assert!(wait_until(PATIENCE, || entries(&redis).len() == 100), "{}", server.log());
    let key = redis.cli(&["keys", "*:position:*"]).trim().to_owned();
    redis.cli(&["del", &key]);
    post(server.address(), &lines(100..110), 10);
    let is_down =
        |server: &Server| server.log().contains("is missing, and the stream events:{0} has events of this log");
    assert!(wait_until(PATIENCE, || is_down(&server)), "{}", server.log());
    server.kill();

    let server = Server::start(folder.path(), &settings);
    assert!(wait_until(PATIENCE, || is_down(&server)), "{}", server.log());
    assert_eq!(entries(&redis).len(), 100);
    // As the message says.
    let log = server.log().replace('\\', "");
    let (_, command) = log.rsplit_once(&format!("SET {key} \"")).unwrap_or_else(|| panic!("{log}"));
    redis.cli(&["set", &key, command.split_once('"').unwrap().0]);
    assert!(wait_until(PATIENCE, || entries(&redis).len() >= 110), "{}", server.log());
    assert_eq!(entries(&redis), (1..=110).collect::<Vec<_>>());
}

#[test]
fn the_printed_statements_make_tables_that_will_do() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sinks.pg.url={}", postgres.url(&database));
    let settings = ["--set", "sinks.pg.kind=postgres", "--set", &url, "--set", "sinks.pg.create=false"];
    let ddl = telemetryx(folder.path(), &[&["config", "--ddl", "pg"], &settings[..]].concat());
    assert_eq!((ddl.status.code(), text(&ddl.stderr)), (Some(0), ""));
    postgres.psql(&database, text(&ddl.stdout)).unwrap();
    let server = Server::start(folder.path(), &["sinks.pg.kind=postgres", &url, "sinks.pg.create=false"]);
    post(server.address(), &lines(0..3), 3);
    assert!(wait_until(PATIENCE, || count(postgres, &database) == 3), "{}", server.log());

    let none = telemetryx(folder.path(), &["config", "--ddl", "x", "--set", "sinks.out.kind=stdout"]);
    assert_eq!(
        (none.status.code(), text(&none.stderr)),
        (Some(1), "telemetryx: no sink is named `x`; the sinks are: out\n")
    );
    let none = telemetryx(folder.path(), &["config", "--ddl", "out", "--set", "sinks.out.kind=stdout"]);
    assert_eq!((none.status.code(), text(&none.stderr)), (Some(1), "telemetryx: sink `out` writes into no table\n"));
}

/// The blocks of README.md after `heading`: settings, then the command that reads the events back.
fn readme(heading: &str) -> (String, String) {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let (_, rest) = page.split_once(heading).unwrap_or_else(|| panic!("no {heading}"));
    let block = |tag: &str| {
        let (_, block) = rest.split_once(&format!("```{tag}\n")).unwrap();
        block.split_once("```").unwrap().0.to_owned()
    };
    (block("toml"), block("sh"))
}

/// Runs what README.md says, with the store where it is here; returns what the command prints.
fn follow_readme(heading: &str, there: &str, here: &str) -> String {
    let (settings, command) = readme(heading);
    assert!(settings.lines().count() <= 5, "five lines of settings");
    assert!(settings.contains(there) && command.contains(there), "{settings}{command}");
    let folder = tempfile::tempdir().unwrap();
    // The server's own: looked for where it starts.
    fs::write(folder.path().join("telemetryx.toml"), settings.replace(there, here)).unwrap();
    let server = Server::start(folder.path(), &[]);
    post(server.address(), "{\"name\":\"hello\",\"source\":\"web\",\"attributes\":{\"user\":\"ann\"}}\n", 1);
    let mut printed = String::new();
    let found = wait_until(PATIENCE, || {
        let output = Command::new("sh").args(["-c", &command.replace(there, here)]).output().unwrap();
        printed = text(&output.stdout).to_owned() + text(&output.stderr);
        printed.contains("hello")
    });
    assert!(found, "{printed}\n{}", server.log());
    printed
}

#[test]
fn the_readme_reads_events_back_from_postgresql() {
    let postgres = Postgres::shared();
    postgres.psql("postgres", "CREATE DATABASE telemetryx").unwrap();
    let printed = follow_readme("**Into PostgreSQL**", "localhost:5432", &format!("127.0.0.1:{}", postgres.port()));
    assert!(printed.contains("web") && printed.contains("ann"), "{printed}");
}

#[test]
fn the_readme_reads_events_back_from_redis() {
    let redis = Redis::start(&[]);
    let printed = follow_readme("**Into Redis Streams**", "localhost:6379", &format!("127.0.0.1:{}", redis.port()));
    assert!(printed.contains("ann") && printed.contains("web"), "{printed}");
}

/// A program that runs until this is dropped, with all that it started.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.0.id())]).status();
        let _ = self.0.wait();
    }
}

#[test]
fn the_readme_reads_events_back_from_a_python_service() {
    use std::os::unix::process::CommandExt as _;
    let (there, folder) = ("localhost:50051", tempfile::tempdir().unwrap());
    let here = free_address().to_string();
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let (_, rest) = page.split_once("**To a Python service**").expect("it is told of");
    let mut blocks = rest.split("\n```").skip(1).step_by(2).map(|block| block.split_once('\n').unwrap());
    let (Some(("sh", start)), Some(("toml", settings)), Some(("sh", read))) =
        (blocks.next(), blocks.next(), blocks.next())
    else {
        panic!("{rest}")
    };
    assert!(settings.lines().count() <= 5 && settings.contains(there) && start.contains(there), "{settings}{start}");

    std::os::unix::fs::symlink(Path::new(env!("CARGO_MANIFEST_DIR")).join("tools"), folder.path().join("tools"))
        .unwrap();
    fs::write(folder.path().join("telemetryx.toml"), settings.replace(there, &here)).unwrap();
    // The user's own Python is the one that the tests have.
    let path = format!("{}:{}", python().parent().unwrap().display(), std::env::var("PATH").unwrap());
    let shell = |script: &str| {
        let mut shell = Command::new("sh");
        shell.args(["-c", &script.replace(there, &here)]).current_dir(folder.path());
        shell.env("PATH", &path).env("PYTHONDONTWRITEBYTECODE", "1");
        shell
    };
    let _receiver = Running(shell(start).process_group(0).stdout(Stdio::null()).spawn().unwrap());
    let server = Server::start(folder.path(), &[]);
    post(server.address(), "{\"name\":\"hello\",\"source\":\"web\",\"attributes\":{\"user\":\"ann\"}}\n", 1);
    let mut printed = String::new();
    let found = wait_until(PATIENCE, || {
        let output = shell(read).output().unwrap();
        printed = text(&output.stdout).to_owned() + text(&output.stderr);
        printed.contains("hello")
    });
    assert!(found && printed.contains("web"), "{printed}\n{}", server.log());
}

#[test]
fn the_readme_prints_events_in_an_http_service() {
    let (settings, command) = readme("**To an HTTP service**");
    assert!(settings.lines().count() <= 5, "five lines of settings");
    // A port that is free, in the place of the one that may not be.
    let port = free_address().port().to_string();
    assert!(settings.contains("8080") && command.contains("8080"), "{settings}{command}");
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("telemetryx.toml"), settings.replace("8080", &port)).unwrap();
    let server = Server::start(folder.path(), &[]);
    post(server.address(), "{\"name\":\"hello\",\"source\":\"web\"}\n", 1);
    let command = command.strip_prefix("# a service that prints the events\n").expect("the README says what it is");
    // Without a shell in between, which would be killed in its place.
    let command = format!("exec {}", command.replace("8080", &port));
    let mut service =
        Command::new("sh").args(["-c", &command]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    let read = BufReader::new(service.stdout.take().unwrap()).read_line(&mut line);
    service.kill().unwrap();
    service.wait().unwrap();
    assert!(read.is_ok() && line.contains("\"name\":\"hello\""), "{line}\n{}", server.log());
}
