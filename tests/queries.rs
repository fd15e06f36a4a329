//! Every statement of docs/queries.md, in a real SQLite and a real PostgreSQL that a server has written to.
#![cfg(all(feature = "sqlite", feature = "postgres"))]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use support::http::post;
use support::server::Server;
use support::stores::Postgres;

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
    let output = Command::new("sqlite3").args(["-readonly", "-header"]).arg(database).arg(sql).output();
    let output = output.expect("sqlite3 is installed: run tools/test");
    assert!(output.status.success(), "{sql}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

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
    let lines = read("tests/fixtures/queries/events.ndjson");
    let events = format!("[{}]", lines.lines().collect::<Vec<_>>().join(","));
    let (status, answer) = post(server.address(), "?ack=delivered", &events).unwrap();
    let count = lines.lines().count();
    assert_eq!((status, answer.trim()), (200, &*format!("{{\"accepted\":{count},\"rejected\":[]}}")));
    assert!(read("docs/queries.md").contains(&format!("of the {count} events")));

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
    let indexes = block(page.split("\n## ").next().unwrap(), "sql");
    let output = Command::new("sqlite3").arg(directory.path().join("events.db")).arg(&indexes).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    postgres.psql(&database, &indexes).unwrap();
    let (_, gin) = page.split_once("An index for it in PostgreSQL: `").unwrap();
    postgres.psql(&database, gin.split('`').next().unwrap()).unwrap();
}
