//! `dead list`: how many letters, by sink and code.

use std::collections::BTreeMap;

use serde_json::json;

use super::super::table::{Column, Table};
use super::super::terminal;
use super::selection::Which;
use super::{Failure, Found, names, print, visit};
use crate::config::Config;
use crate::escape::escape;
use crate::event::rfc3339;

/// Columns of a reason, of a sink's name and of a code that are shown however narrow the terminal is.
const REASON_COLUMNS_MIN: usize = 24;
const SINK_COLUMNS_MIN: usize = 6;
const CODE_COLUMNS_MIN: usize = 8;

/// Letters of one sink with one code.
#[derive(Default)]
struct Group {
    letters: u64,
    oldest: Option<u64>,
    newest: Option<u64>,
    /// Of the last one.
    reason: String,
}

pub(super) fn run(config: &Config, which: &Which, json: bool) -> Result<(), Failure> {
    let mut groups: BTreeMap<(String, String), Group> = BTreeMap::new();
    for name in names(config, which)? {
        visit(&config.data_dir, &name, &which.selection, |Found { letter, .. }| {
            let group = groups.entry((name.clone(), letter.code)).or_default();
            group.letters += 1;
            if let Some(time) = letter.time_unix_nano {
                group.oldest = Some(group.oldest.map_or(time, |oldest| oldest.min(time)));
                group.newest = group.newest.max(Some(time));
            }
            group.reason = letter.reason;
            Ok(true)
        })?;
    }
    print(&match json {
        true => document(&groups),
        false if groups.is_empty() => which.selection.none(),
        false => table(&groups).render(terminal::columns()),
    })
}

/// One document and a newline.
fn document(groups: &BTreeMap<(String, String), Group>) -> String {
    let time = |time: Option<u64>| time.map(|time| String::from_utf8_lossy(&rfc3339::format(time)).into_owned());
    let each = groups.iter().map(|((sink, code), group)| {
        let (oldest, newest) = (time(group.oldest), time(group.newest));
        let (letters, reason) = (group.letters, &group.reason);
        json!({ "sink": sink, "code": code, "letters": letters, "oldest": oldest, "newest": newest, "reason": reason })
    });
    let letters: u64 = groups.values().map(|group| group.letters).sum();
    format!("{}\n", json!({ "letters": letters, "groups": each.collect::<Vec<_>>() }))
}

fn table(groups: &BTreeMap<(String, String), Group>) -> Table<6> {
    // To the second.
    let time = |time: Option<u64>| match time {
        Some(time) => String::from_utf8_lossy(rfc3339::format(time).get(..19).unwrap_or_default()).into_owned() + "Z",
        None => "-".to_owned(),
    };
    let mut table = Table::new([
        Column::flexible("sink", SINK_COLUMNS_MIN),
        Column::flexible("code", CODE_COLUMNS_MIN),
        Column::number("letters"),
        Column::optional("oldest"),
        Column::text("newest"),
        Column::flexible("reason, such as", REASON_COLUMNS_MIN),
    ]);
    for ((sink, code), group) in groups {
        let (oldest, newest) = (time(group.oldest), time(group.newest));
        let text = |text: &str| escape(text).into_owned();
        table.row([text(sink), text(code), group.letters.to_string(), oldest, newest, text(&group.reason)]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(letters: u64, reason: &str) -> Group {
        Group { letters, oldest: Some(0), newest: Some(1_767_323_045_999_999_999), reason: reason.to_owned() }
    }

    #[test]
    fn the_table_fits_the_terminal_and_says_nothing_to_it() {
        let mut groups = BTreeMap::new();
        groups.insert(("pg".to_owned(), "23514".to_owned()), group(12, &"long ".repeat(100)));
        groups.insert(("ingest".to_owned(), "INVALID".to_owned()), group(1, "bell \u{7} escape \u{1b}[2J\n\u{9b}2J"));
        let text = table(&groups).render(Some(100));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert_eq!(lines[0], "sink    code     letters  oldest                newest                reason, such as");
        assert!(
            lines[1].starts_with("ingest  INVALID        1  1970-01-01T00:00:00Z  2026-01-02T03:04:05Z  bell \\u0007")
        );
        assert!(lines[2].starts_with("pg      23514         12  ") && lines[2].ends_with('…'), "{text}");
        assert!(lines.iter().all(|line| line.chars().count() <= 100 && !line.contains(char::is_control)), "{text}");
        let narrow = table(&groups).render(Some(80));
        assert!(narrow.lines().all(|line| line.chars().count() <= 80), "{narrow}");
        assert!(narrow.contains("23514") && narrow.contains("2026-01-02T03:04:05Z"), "{narrow}");
        assert!(table(&groups).render(None).contains(&"long ".repeat(99)), "a pipe gets all of it");
    }

    #[test]
    fn machines_get_one_document() {
        let groups =
            BTreeMap::from([(("pg".to_owned(), "23514".to_owned()), Group { oldest: None, ..group(12, "no") })]);
        let found: serde_json::Value = serde_json::from_str(&document(&groups)).unwrap();
        let group = json!({
            "sink": "pg", "code": "23514", "letters": 12, "oldest": null,
            "newest": "2026-01-02T03:04:05.999999999Z", "reason": "no",
        });
        assert_eq!(found, json!({ "letters": 12, "groups": [group] }));
        let none: serde_json::Value = serde_json::from_str(&document(&BTreeMap::new())).unwrap();
        assert_eq!(none, json!({ "letters": 0, "groups": [] }));
    }
}
