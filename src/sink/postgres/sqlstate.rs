//! What an error of PostgreSQL means for a delivery: its SQLSTATE decides (PostgreSQL manual, appendix A).
//!
//! | class | | |
//! |---|---|---|
//! | 22, 23, 44, 54, P0 | the row itself: data, constraint, trigger, size | refused |
//! | 0A with a column | a value that the database's encoding cannot hold | refused |
//! | 08, 40, 53, 55P03, 57, 58, 25006, XX000 | the server or its neighbours | retry |
//! | 28, 3D, 3F, 42, 0A, 22P03, 22P04 … | settings, rights or tables | down, with what to do |
//!
//! A code that a trigger made up belongs to the row if the error names one.

/// What a COPY was at when the error happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Not in a row.
    Elsewhere,
    /// In a row as a whole.
    Row,
    /// In the value of one column.
    Value,
}

/// Who has to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nobody: it passes by itself.
    Retry,
    /// The row will never be taken.
    Refused,
    /// A person.
    Down,
}

/// What the error `code` at this place of a COPY means.
pub(super) fn verdict(code: &str, place: Place) -> Verdict {
    match code {
        // "Conversion between UTF8 and … is not supported."
        "0A000" if place == Place::Value => Verdict::Refused,
        // Binary data that does not fit the columns: the table has changed under us.
        "22P03" | "22P04" => Verdict::Down,
        // The database was dropped.
        "57P04" => Verdict::Down,
        // Read-only: most often a standby that is about to be the primary, or a primary that no longer is.
        "25006" => Verdict::Retry,
        // Lock not available; an object that is in use; the transaction was ended for being idle.
        "55P03" | "55006" | "25P02" | "25P03" => Verdict::Retry,
        // Damaged data. Trying on can only hide it.
        "XX001" | "XX002" => Verdict::Down,
        _ => match code.get(..2).unwrap_or_default() {
            "22" | "23" | "44" | "54" | "P0" => Verdict::Refused,
            "08" | "40" | "53" | "57" | "58" | "XX" => Verdict::Retry,
            "0A" | "28" | "3D" | "3F" | "42" | "55" | "F0" => Verdict::Down,
            _ if place != Place::Elsewhere => Verdict::Refused,
            _ => Verdict::Down,
        },
    }
}

/// What a person does about a message of PgBouncer, whose codes are not specific.
pub(super) fn pooler_advice(message: &str) -> Option<&'static str> {
    if message.contains("statement pooling mode") {
        Some("this pooler does not support transactions: set its pool_mode to transaction or session")
    } else if message.starts_with("unsupported startup parameter") {
        Some("leave it out of url, or name it in the pooler's ignore_startup_parameters")
    } else if message.starts_with("no such database") || message.starts_with("no such user") {
        Some("add it to the pooler's settings, or name another one in url")
    } else {
        None
    }
}

/// What a person does about an error of the server; empty where its own message is enough. `routine`: the function of
/// the server that reports it.
pub(super) fn advice(code: &str, routine: Option<&str>) -> &'static str {
    match code {
        "28P01" | "28000" => "check user and password in url (or the file of url_file), and pg_hba.conf",
        "3D000" | "57P04" => "create the database, or name another one in url",
        "42501" => "grant this user SELECT, INSERT, UPDATE on both tables, or CREATE on the schema while create = true",
        "42P01" | "42703" | "42804" | "22P03" | "22P04" => {
            "correct the tables: `telemetryx config --ddl NAME` prints what they must have"
        }
        "3F000" => "create the schema, or name another table",
        "25006" => {
            "the server is read-only, as a standby is: name the primary in url, or all servers with \
             target_session_attrs=read-write"
        }
        "53100" => "the server's disk is full: free or add space",
        "53300" => "raise max_connections of the server, or close connections",
        "55P03" => "another session holds this sink's position: a delivery of a lost connection that has not ended yet",
        "57014" => "a statement took longer than timeout: find what holds it up (pg_stat_activity), or raise timeout",
        "0A000" | "42809" if matches!(routine, Some("DoCopy" | "BeginCopyFrom" | "CopyFrom")) => {
            "a table with row-level security, or a view, does not accept COPY: use a plain table"
        }
        "XX001" | "XX002" => "the server reports corrupt data: see its log",
        _ => "",
    }
}

/// The row of `COPY table, line 17, column name`, counted from 1.
pub(super) fn copy_line(context: &str) -> Option<usize> {
    let (line, _) = line_and_rest(context)?;
    Some(line)
}

/// Where in a COPY an error with this context happened.
pub(super) fn copy_place(context: &str) -> Place {
    match line_and_rest(context) {
        None => Place::Elsewhere,
        Some((_, rest)) if rest.starts_with(", column ") => Place::Value,
        Some(_) => Place::Row,
    }
}

/// Whether an error with this context in a COPY depends on the row alone: data, constraint, index. A row that conflicts with
/// another one does so whatever else is stored. Code of the user, as a trigger is, may look for other rows: it is named in
/// the context, too.
pub(super) fn is_of_row_alone(code: &str, context: &str) -> bool {
    let is_own = |line: &str| line.starts_with("COPY ") || line.starts_with("JSON data, ");
    matches!(code.get(..2), Some("22" | "23" | "54")) && context.lines().all(is_own)
}

fn line_and_rest(context: &str) -> Option<(usize, &str)> {
    let line = context.lines().rev().find(|line| line.starts_with("COPY "))?;
    let (_, rest) = line.split_once(", line ")?;
    let (number, rest) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len()));
    Some((number.parse().ok().filter(|line| *line > 0)?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_has_one_to_act() {
        for (code, expected) in [
            ("23514", Verdict::Refused), // CHECK
            ("23502", Verdict::Refused), // NOT NULL
            ("22021", Verdict::Refused), // character not in repertoire
            ("22P05", Verdict::Refused), // untranslatable character
            ("54000", Verdict::Refused), // index row too large
            ("P0001", Verdict::Refused), // RAISE in a trigger
            ("44000", Verdict::Refused),
            ("22P04", Verdict::Down), // bad COPY format
            ("28P01", Verdict::Down), // wrong password
            ("3D000", Verdict::Down),
            ("42501", Verdict::Down),
            ("42P01", Verdict::Down),
            ("0A000", Verdict::Down),
            ("57P04", Verdict::Down), // database dropped
            ("55000", Verdict::Down),
            ("57P01", Verdict::Retry), // admin shutdown
            ("57P03", Verdict::Retry), // starting up
            ("57014", Verdict::Retry), // statement timeout
            ("53100", Verdict::Retry), // disk full
            ("53300", Verdict::Retry),
            ("40001", Verdict::Retry),
            ("40P01", Verdict::Retry),
            ("55P03", Verdict::Retry),
            ("25006", Verdict::Retry),
            ("08006", Verdict::Retry),
            ("XX000", Verdict::Retry),
            ("XX001", Verdict::Down),
            ("TX001", Verdict::Down),
            ("", Verdict::Down),
        ] {
            assert_eq!(verdict(code, Place::Elsewhere), expected, "{code}");
        }
        assert_eq!(verdict("TX001", Place::Row), Verdict::Refused, "a trigger's own code");
        assert_eq!(verdict("0A000", Place::Value), Verdict::Refused, "no conversion to the database's encoding");
        assert_eq!(verdict("0A000", Place::Row), Verdict::Down, "something that the table cannot do");
        assert_eq!(verdict("57014", Place::Row), Verdict::Retry, "in the middle of a row, but not because of it");
    }

    #[test]
    fn advice_depends_on_what_reports_the_error() {
        for (code, routine, words) in [
            ("0A000", Some("DoCopy"), "row-level security"),
            ("42809", Some("CopyFrom"), "a view"),
            ("0A000", Some("pg_unicode_to_server"), ""),
            ("0A000", None, ""),
            ("42809", Some("ExecRenameStmt"), ""),
            ("3D000", None, "create the database"),
            ("28P01", None, "check user and password"),
        ] {
            let found = advice(code, routine);
            assert!(found.contains(words) && found.is_empty() == words.is_empty(), "{code} {routine:?}: {found}");
        }
        for (message, words) in [
            ("transaction blocks not allowed in statement pooling mode", Some("pool_mode")),
            ("unsupported startup parameter: options", Some("ignore_startup_parameters")),
            ("no such database: x", Some("pooler's settings")),
            ("no such user: x", Some("pooler's settings")),
            ("server login has been failing", None),
        ] {
            let found = pooler_advice(message);
            assert!(
                found.is_some() == words.is_some() && found.unwrap_or("").contains(words.unwrap_or("")),
                "{message}"
            );
        }
    }

    #[test]
    fn what_a_trigger_reports_may_depend_on_other_rows() {
        for (code, context, expected) in [
            ("23514", "COPY events, line 17", true),
            ("23505", "COPY events, line 17", true),
            ("22P02", "JSON data, line 1: {\"x\":...\nCOPY events, line 3, column attributes", true),
            ("23514", "PL/pgSQL function f() line 2 at RAISE\nCOPY events, line 5", false),
            ("22012", "SQL function \"f\" statement 1\nCOPY events, line 5", false),
            ("P0001", "COPY events, line 5", false),
            ("TX001", "COPY events, line 5", false),
            ("", "COPY events, line 5", false),
        ] {
            assert_eq!(is_of_row_alone(code, context), expected, "{code} {context}");
        }
    }

    #[test]
    fn the_line_of_a_copy_is_found() {
        for (context, line) in [
            ("COPY events, line 17", Some(17)),
            ("COPY events, line 3, column attributes", Some(3)),
            ("PL/pgSQL function f() line 2 at RAISE\nCOPY events, line 5", Some(5)),
            ("COPY odd, line 4, line 9", Some(4)),
            ("COPY events, line 0", None),
            ("COPY events", None),
            ("SQL statement \"SELECT 1\"", None),
            ("", None),
        ] {
            assert_eq!(copy_line(context), line, "{context}");
        }
        for (context, place) in [
            ("COPY events, line 17", Place::Row),
            ("COPY events, line 3, column attributes", Place::Value),
            ("JSON data, line 1: {\"x\":...\nCOPY events, line 3, column attributes", Place::Value),
            ("COPY events", Place::Elsewhere),
            ("COPY events, line x, column y", Place::Elsewhere),
        ] {
            assert_eq!(copy_place(context), place, "{context}");
        }
    }
}
