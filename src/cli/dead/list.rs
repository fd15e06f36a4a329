//! `dead list`: how many letters, by sink and code.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal};

use serde_json::json;

use super::selection::Which;
use super::{Failure, Found, names, print, visit};
use crate::config::Config;
use crate::escape::escape;
use crate::event::rfc3339;

/// Characters of a reason that are shown however narrow the terminal is.
const REASON_CHARS_MIN: usize = 24;

/// Letters of one sink with one code.
#[derive(Default)]
struct Group {
    letters: u64,
    oldest: Option<u64>,
    newest: Option<u64>,
    /// Of the last one.
    reason: String,
}

pub fn run(config: &Config, which: &Which, json: bool) -> Result<(), Failure> {
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
    let width = io::stdout().is_terminal().then(|| rustix::termios::tcgetwinsize(io::stdout()).ok()).flatten();
    print(&match json {
        true => lines(&groups),
        false if groups.is_empty() => which.selection.none().to_owned(),
        false => table(&groups, width.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0)),
    })
}

fn lines(groups: &BTreeMap<(String, String), Group>) -> String {
    let mut text = String::new();
    for ((sink, code), group) in groups {
        let time = |time: Option<u64>| time.map(|time| String::from_utf8_lossy(&rfc3339::format(time)).into_owned());
        let (oldest, newest) = (time(group.oldest), time(group.newest));
        let (letters, reason) = (group.letters, &group.reason);
        let line = json!({
            "sink": sink, "code": code, "letters": letters, "oldest": oldest, "newest": newest, "reason": reason,
        });
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{line}");
    }
    text
}

/// `width`: of the terminal in columns; `None`: nothing is cut.
fn table(groups: &BTreeMap<(String, String), Group>, width: Option<usize>) -> String {
    // To the second.
    let time = |time: Option<u64>| match time {
        Some(time) => String::from_utf8_lossy(rfc3339::format(time).get(..19).unwrap_or_default()).into_owned() + "Z",
        None => "-".to_owned(),
    };
    let head = ["sink", "code", "letters", "oldest", "newest", "reason, such as"].map(str::to_owned);
    let rows = groups.iter().map(|((sink, code), group)| {
        let (oldest, newest) = (time(group.oldest), time(group.newest));
        let text = |text: &str| escape(text).into_owned();
        [text(sink), text(code), group.letters.to_string(), oldest, newest, text(&group.reason)]
    });
    let rows: Vec<[String; 6]> = std::iter::once(head).chain(rows).collect();
    let wide = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (a, b, c, d, e) = (wide(0), wide(1), wide(2), wide(3), wide(4));
    let before = a + b + c + d + e + 10;
    let reason_chars = width.map_or(usize::MAX, |width| width.saturating_sub(before).max(REASON_CHARS_MIN));
    let mut text = String::new();
    for [sink, code, letters, oldest, newest, reason] in &rows {
        let reason = cut(reason, reason_chars);
        let line = format!("{sink:a$}  {code:b$}  {letters:>c$}  {oldest:d$}  {newest:e$}  {reason}");
        // As above.
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

fn cut(text: &str, chars: usize) -> String {
    if text.chars().count() <= chars {
        return text.to_owned();
    }
    text.chars().take(chars.saturating_sub(1)).chain(['…']).collect()
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
        groups.insert(("door".to_owned(), "INVALID".to_owned()), group(1, "bell \u{7} escape \u{1b}[2J\n\u{9b}2J"));
        let text = table(&groups, Some(100));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert_eq!(lines[0], "sink  code     letters  oldest                newest                reason, such as");
        assert!(
            lines[1].starts_with("door  INVALID        1  1970-01-01T00:00:00Z  2026-01-02T03:04:05Z  bell \\u0007")
        );
        assert!(lines[2].starts_with("pg    23514         12  ") && lines[2].ends_with('…'), "{text}");
        assert!(lines.iter().all(|line| line.chars().count() <= 100 && !line.contains(char::is_control)), "{text}");
        assert!(table(&groups, None).contains(&"long ".repeat(99)), "a pipe gets all of it");
    }

    #[test]
    fn machines_get_a_line_for_each_group() {
        let groups =
            BTreeMap::from([(("pg".to_owned(), "23514".to_owned()), Group { oldest: None, ..group(12, "no") })]);
        let line: serde_json::Value = serde_json::from_str(&lines(&groups)).unwrap();
        let expected = json!({
            "sink": "pg", "code": "23514", "letters": 12, "oldest": null,
            "newest": "2026-01-02T03:04:05.999999999Z", "reason": "no",
        });
        assert_eq!(line, expected);
    }
}
