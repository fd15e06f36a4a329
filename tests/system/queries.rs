//! Every statement of docs/queries.md, in a real SQLite and a real PostgreSQL that a server has written to.
#![cfg(feature = "postgres")]

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::http::{post, request};
use crate::support::server::Server;
use crate::support::stores::Postgres;

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// A question of the page.
struct Question {
    title: String,
    sqlite: String,
    postgres: String,
    /// The names of its columns, then its rows; fields with `|` between them.
    answer: String,
}

/// The only block of the section that begins with ```` ```<tag> ````.
fn block(section: &str, tag: &str) -> String {
    let blocks: Vec<_> = section.split(&format!("\n```{tag}\n")).skip(1).collect();
    assert_eq!(blocks.len(), 1, "blocks `{tag}` in: {section}");
    let (block, _) = blocks[0].split_once("\n```").expect("the block ends");
    block.to_owned()
}

fn questions() -> Vec<Question> {
    let page = read("docs/queries.md");
    let sections = page.split("\n## ").skip(1);
    let question = |section: &str| Question {
        title: section.lines().next().unwrap().to_owned(),
        sqlite: block(section, "sql sqlite"),
        postgres: block(section, "sql postgres"),
        answer: block(section, "text answer"),
    };
    sections.map(question).collect()
}

fn sqlite(database: &Path, sql: &str) -> String {
    let output = Command::new("sqlite3").args(["-cmd", ".timeout 20000", "-header"]).arg(database).arg(sql).output();
    let output = output.expect("sqlite3 is installed: run tools/test");
    assert!(output.status.success(), "{sql}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

const FIXTURES: &str = "tests/fixtures/queries";

/// Sends the events of the page: over HTTP, by two agents that are instances of one source, and with OTLP. How many there are.
fn send_all(server: &Server) -> usize {
    let lines = read(&format!("{FIXTURES}/events.ndjson"));
    let (events, mut count) = (format!("[{}]", lines.lines().collect::<Vec<_>>().join(",")), lines.lines().count());
    let (status, answer) = post(server.address(), "?ack=delivered", &events).unwrap();
    assert_eq!((status, answer.trim()), (200, &*format!("{{\"accepted\":{count},\"rejected\":[]}}")));
    for agent in ["db-1", "db-2"] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(FIXTURES).join(agent).with_extension("ndjson");
        count += fs::read_to_string(&file).unwrap().lines().count();
        let mut command = Command::new(env!("CARGO_BIN_EXE_telemetryx"));
        command.args(["send", "--ack", "delivered", "--source", agent, "--to", &server.address().to_string()]);
        let output = command.arg(file).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let otlp = read(&format!("{FIXTURES}/otlp.json"));
    let head =
        "POST /v1/metrics?ack=delivered HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close";
    let answer = request(server.address(), &format!("{head}\r\nContent-Length: {}\r\n\r\n{otlp}", otlp.len()));
    assert_eq!(answer.unwrap(), (200, "{}".to_owned()));
    count + otlp.matches("\"timeUnixNano\"").count()
}

/// As if each event had been received at its time; the clock of `laptop` is ahead.
const RECEIVED: [&str; 2] = [
    "UPDATE events SET received_at = time WHERE source <> 'laptop';
     UPDATE events SET received_at = replace(time, 'T23:', 'T10:') WHERE source = 'laptop'",
    "UPDATE events SET received_at = time - CASE source WHEN 'laptop' THEN interval '13 hours' ELSE interval '0' END",
];

#[test]
fn every_question_has_the_answer_of_the_page_in_both_stores() {
    let directory = tempfile::tempdir().unwrap();
    let postgres = Postgres::shared();
    let database = postgres.database();
    let url = format!("sinks.postgres.url={}", postgres.url(&database));
    let settings = [
        "sinks.sqlite.kind=sqlite",
        "sinks.sqlite.required=true",
        "sinks.postgres.kind=postgres",
        "sinks.postgres.required=true",
        &url,
    ];
    let server = Server::start(directory.path(), &settings);
    let count = send_all(&server);
    assert!(read("docs/queries.md").contains(&format!("of the {count} events")));
    sqlite(&directory.path().join("events.db"), RECEIVED[0]);
    postgres.psql(&database, RECEIVED[1]).unwrap();

    let questions = questions();
    assert_eq!(questions.len(), 10);
    for Question { title, sqlite: sql, postgres: psql, answer } in questions {
        assert!(answer.lines().count() > 1, "{title}: no rows");
        assert_eq!(sqlite(&directory.path().join("events.db"), &sql).trim_end(), answer, "{title}, SQLite");
        let rows = postgres.psql(&database, &psql).unwrap_or_else(|error| panic!("{title}: {error}"));
        let (_, expected) = answer.split_once('\n').unwrap();
        assert_eq!(rows.trim_end(), expected, "{title}, PostgreSQL");
    }
}

#[test]
fn the_indexes_of_the_page_can_be_created() {
    let directory = tempfile::tempdir().unwrap();
    let postgres = Postgres::shared();
    let database = postgres.database();
    let url = format!("sinks.postgres.url={}", postgres.url(&database));
    let settings = ["sinks.sqlite.kind=sqlite", "sinks.postgres.kind=postgres", &url];
    let _server = Server::start(directory.path(), &settings);
    let page = read("docs/queries.md");
    let introduction = page.split("\n## ").next().unwrap();
    sqlite(&directory.path().join("events.db"), &block(introduction, "sql sqlite index"));
    // One by one: several statements of one call are a transaction.
    for statement in block(introduction, "sql postgres index").lines() {
        postgres.psql(&database, statement).unwrap();
    }
    let (_, gin) = page.split_once("An index for it in PostgreSQL: `").unwrap();
    postgres.psql(&database, gin.split('`').next().unwrap()).unwrap();
}
