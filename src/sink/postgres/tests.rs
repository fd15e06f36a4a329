//! Against a real PostgreSQL. What `psql` shows is what counts.

use std::time::{Duration, Instant};

use super::*;
use crate::config::setting::Url;
use crate::sink::stores;
use crate::sink::testing::{self, Store, batch_of, delivery, delivery_of, identity, named};

/// A database of its own on the shared server.
struct Database {
    server: &'static stores::Postgres,
    name: String,
}

fn settings(url: String) -> Settings {
    Settings {
        url: Url::new(url),
        table: "events".into(),
        create: true,
        tls: Tls::Prefer,
        ca_file: None,
        timeout: Duration::from_secs(30),
    }
}

impl Database {
    fn new() -> Self {
        let server = stores::Postgres::shared();
        Self { server, name: server.database() }
    }

    fn settings(&self) -> Settings {
        settings(self.server.url(&self.name))
    }

    fn postgres(&self, owner: u8) -> Postgres {
        Postgres::new("main", &self.settings(), &identity(owner))
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

    fn positions(&self) -> Vec<u64> {
        self.rows().unwrap().into_iter().map(|(position, _)| position).collect()
    }
}

impl Store for Database {
    const EXACTLY_ONCE: bool = true;
    const KEEPS_POSITIONS: bool = true;

    fn sink(&self, owner: u8) -> Box<dyn Sink> {
        Box::new(self.postgres(owner))
    }

    fn rows(&self) -> Option<Vec<(u64, String)>> {
        let rows = self.sql("SELECT position, name FROM events ORDER BY server_id, position");
        let row = |line: &str| {
            let (position, name) = line.split_once('|').unwrap();
            (position.parse().unwrap(), name.to_owned())
        };
        Some(rows.lines().map(row).collect())
    }
}

#[test]
fn passes_the_conformance_suite() {
    testing::conformance(Database::new);
}
