//! The events of a ledger as the stores have them, each in its own order.

use serde_json::Value;

use super::ledger::{NAME, Row};
use super::stores::{Postgres, Redis};

/// Table `events` of a sink `postgres`, in the order of positions. It must hold the events of one log only.
pub(crate) fn of_postgres(server: &Postgres, database: &str) -> Vec<Row> {
    let ask = |sql: &str| server.psql(database, sql).unwrap();
    assert_eq!(ask("SELECT count(DISTINCT server_id) FROM events"), "1\n", "the log was begun anew");
    let rows = ask(&format!("SELECT source, value, body FROM events WHERE name = '{NAME}' ORDER BY position"));
    let row = |line: &str| {
        let [sender, number, body] = line.split('|').collect::<Vec<_>>()[..] else { panic!("{line}") };
        Row { sender: sender.to_owned(), number: number.parse().unwrap(), body: body.to_owned() }
    };
    rows.lines().map(row).collect()
}

/// The entries of a stream in its own order, which must be the one of their positions.
pub(crate) fn of_redis(server: &Redis, stream: &str) -> Vec<Row> {
    let text = server.cli(&["--json", "xrange", stream, "-", "+"]);
    let Ok(Value::Array(entries)) = serde_json::from_str(&text) else { panic!("{stream}: {text}") };
    let mut before = 0;
    let mut rows = Vec::new();
    for entry in &entries {
        let fields = entry[1].as_array().unwrap();
        let field = |name: &str| {
            let pair = fields.chunks(2).find(|pair| pair[0] == name).unwrap_or_else(|| panic!("no {name}: {entry}"));
            pair[1].as_str().unwrap().to_owned()
        };
        let position: u64 = field("position").parse().unwrap();
        assert!(position > before, "{stream}: position {position} after {before}");
        before = position;
        if field("name") == NAME {
            let number = field("value").parse::<f64>().unwrap() as u64;
            rows.push(Row { sender: field("source"), number, body: field("body") });
        }
    }
    rows
}
