//! The two tables: how they are created, and whether existing ones are suitable (design, section 6).

use super::encode;
use super::settings::Indexes;

/// A table's name, `events` or `schema.events`, quoted for SQL; the table of positions is in the same schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tables {
    /// The table of events.
    pub events: String,
    /// The table of positions.
    pub positions: String,
    /// The statement that creates the index of `events`, or nothing.
    index: String,
}

/// Longest identifier that PostgreSQL keeps whole.
const IDENTIFIER_BYTES_MAX: usize = 63;

impl Tables {
    /// `None`: not such a name. Only names that need no quotes are accepted, so that queries by hand need none either.
    pub(super) fn named(table: &str) -> Option<Self> {
        let (schema, name) = match table.split_once('.') {
            Some((schema, name)) => (Some(schema), name),
            None => (None, table),
        };
        let plain = |identifier: &str| {
            (1..=IDENTIFIER_BYTES_MAX).contains(&identifier.len())
                && identifier.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
                && !identifier.starts_with(|c: char| c.is_ascii_digit())
        };
        if !plain(name) || !schema.is_none_or(plain) || name == "telemetryx_positions" {
            return None;
        }
        let quoted =
            |name: &str| schema.map_or_else(|| format!("\"{name}\""), |schema| format!("\"{schema}\".\"{name}\""));
        Some(Self { events: quoted(name), positions: quoted("telemetryx_positions"), index: String::new() })
    }

    /// The same with an index of the table of events.
    pub(super) fn indexed(self, indexes: Indexes) -> Self {
        let method = match indexes {
            Indexes::None => return self,
            Indexes::Time => "",
            Indexes::Brin => "USING brin ",
        };
        // A longer name would be truncated, and could be that of the table.
        let name = self.events.trim_matches('"').rsplit('"').next().unwrap_or_default();
        let name = &name[..name.len().min(IDENTIFIER_BYTES_MAX - "_time".len())];
        let index = format!("CREATE INDEX IF NOT EXISTS \"{name}_time\" ON {} {method}(time);\n", self.events);
        Self { index, ..self }
    }

    /// What `create = true` runs where the table of events is missing, and what `telemetryx config --ddl` prints.
    pub(super) fn ddl(&self) -> String {
        self.ddl_of_tables() + &self.index
    }

    /// The same without the index, which takes long where the table has rows.
    pub(super) fn ddl_of_tables(&self) -> String {
        let table = |name: &str, columns: &[Column], key: &str| {
            let columns: String = columns.iter().map(|column| format!("    {column},\n")).collect();
            format!("CREATE TABLE IF NOT EXISTS {name} (\n{columns}    PRIMARY KEY ({key})\n);\n")
        };
        table(&self.events, EVENTS, "server_id, position") + &table(&self.positions, POSITIONS, "server_id, sink")
    }

    /// Makes [`Tables::missing`] look at each.
    pub(super) fn each(&self) -> [(&str, &'static [Column]); 2] {
        [(&self.events, EVENTS), (&self.positions, POSITIONS)]
    }

    /// Starts a COPY of [`encode::Rows`].
    pub(super) fn copy(&self) -> String {
        format!("COPY {} ({}) FROM STDIN BINARY", self.events, encode::COLUMNS.join(", "))
    }
}

/// A column that a table must have.
pub(super) struct Column {
    /// Its name, not quoted.
    pub name: &'static str,
    /// As `format_type` shows it.
    pub sql_type: &'static str,
    /// Whether it is NOT NULL.
    pub required: bool,
}

impl std::fmt::Display for Column {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, sql_type, required } = self;
        write!(out, "{name} {sql_type}{}", if *required { " NOT NULL" } else { "" })
    }
}

const fn required(name: &'static str, sql_type: &'static str) -> Column {
    Column { name, sql_type, required: true }
}

const fn optional(name: &'static str, sql_type: &'static str) -> Column {
    Column { name, sql_type, required: false }
}

const EVENTS: &[Column] = &[
    required("server_id", "uuid"),
    required("position", "bigint"),
    required("received_at", "timestamp with time zone"),
    required("time", "timestamp with time zone"),
    required("time_unix_nano", "bigint"),
    required("kind", "text"),
    optional("severity", "smallint"),
    optional("source", "text"),
    optional("name", "text"),
    optional("body", "text"),
    optional("value", "double precision"),
    optional("duration_nano", "bigint"),
    optional("trace_id", "bytea"),
    optional("span_id", "bytea"),
    optional("parent_span_id", "bytea"),
    optional("agent", "text"),
    optional("attributes", "jsonb"),
];

const POSITIONS: &[Column] = &[
    required("server_id", "uuid"),
    required("sink", "text"),
    required("position", "bigint"),
    required("owner", "uuid"),
];

/// A column as the server describes it.
pub(super) struct Found {
    /// Its name.
    pub name: String,
    /// Its type, as `format_type` shows it.
    pub sql_type: String,
    /// NOT NULL, and nothing fills it when a row does not.
    pub must_be_given: bool,
}

/// Asks for a table's columns: name, type, and `t` if it must be given. No row: no such table.
pub(super) fn columns_query(table: &str) -> String {
    format!(
        "SELECT attname, format_type(atttypid, NULL), attnotnull AND NOT atthasdef AND attidentity = '' \
         FROM pg_attribute WHERE attrelid = to_regclass('{table}') AND attnum > 0 AND NOT attisdropped"
    )
}

/// Whether the user has these rights on the table; on columns of it will do.
pub(super) fn may_query(table: &str, rights: &[&str]) -> String {
    let may = rights.iter().map(|right| format!("has_any_column_privilege(to_regclass('{table}'), '{right}')"));
    format!("SELECT {}", may.collect::<Vec<_>>().join(" AND "))
}

/// Whether the user may create the table.
pub(super) fn may_create_query(table: &str) -> String {
    match table.split_once('.') {
        // A name, not an identifier: without quotes.
        Some((schema, _)) => format!("SELECT has_schema_privilege('{}', 'CREATE')", schema.trim_matches('"')),
        None => "SELECT has_schema_privilege(current_schema(), 'CREATE')".to_owned(),
    }
}

/// Why a table cannot store our rows, as text; empty: it can.
pub(super) fn problems(wanted: &[Column], found: &[Found]) -> Vec<String> {
    let mut problems = Vec::new();
    for column in wanted {
        match found.iter().find(|found| found.name == column.name) {
            None => problems.push(format!("has no column `{} {}`", column.name, column.sql_type)),
            Some(found) if found.sql_type != column.sql_type => {
                problems.push(format!("its column {} is {}, not {}", column.name, found.sql_type, column.sql_type));
            }
            Some(_) => {}
        }
    }
    let extra = found.iter().filter(|found| wanted.iter().all(|column| column.name != found.name));
    for found in extra.filter(|found| found.must_be_given) {
        // Every row would be refused.
        problems.push(format!("its own column {} is NOT NULL without a default", found.name));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_tables_have_the_same_columns() {
        assert_eq!(EVENTS.iter().map(|column| column.name).collect::<Vec<_>>(), encode::COLUMNS);
    }

    #[test]
    fn names_that_need_quotes_are_refused() {
        assert_eq!(
            Tables::named("logs.events_2"),
            Some(Tables {
                events: "\"logs\".\"events_2\"".into(),
                positions: "\"logs\".\"telemetryx_positions\"".into(),
                index: String::new(),
            })
        );
        assert_eq!(Tables::named("events").unwrap().events, "\"events\"");
        for name in ["", ".", "a.", ".a", "a.b.c", "Events", "2a", "a-b", "a\"b", "a'b", "ä", "telemetryx_positions"] {
            assert_eq!(Tables::named(name), None, "{name}");
        }
        assert_eq!(Tables::named(&"a".repeat(64)), None);
    }

    #[test]
    fn an_index_has_the_name_of_its_table() {
        let index = |table: &str, indexes| {
            let ddl = Tables::named(table).unwrap().indexed(indexes).ddl();
            ddl.lines()
                .filter(|line| line.starts_with("CREATE INDEX"))
                .map(str::to_owned)
                .collect::<Vec<_>>()
                .join("\n")
        };
        assert_eq!(index("events", Indexes::None), "");
        assert_eq!(index("events", Indexes::Time), "CREATE INDEX IF NOT EXISTS \"events_time\" ON \"events\" (time);");
        assert_eq!(
            index("logs.lines", Indexes::Brin),
            "CREATE INDEX IF NOT EXISTS \"lines_time\" ON \"logs\".\"lines\" USING brin (time);"
        );
        let long = "a".repeat(63);
        assert!(index(&long, Indexes::Time).contains(&format!(" \"{}_time\" ", "a".repeat(58))));
    }
}
