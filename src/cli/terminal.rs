//! The terminal: how wide it is, and how wide a text is on it.

use std::borrow::Cow;
use std::io::{IsTerminal, stderr, stdout};
use std::os::fd::AsFd;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Columns of help that nobody reads on a terminal.
const HELP_COLUMNS: usize = 80;
/// Longer lines of prose are hard to read, however wide the terminal is.
const HELP_COLUMNS_MAX: usize = 100;
/// Narrower than that, clap breaks words.
const HELP_COLUMNS_MIN: usize = 40;

/// Columns of the terminal that standard output is; `None`: it is not a terminal, or does not know.
pub(super) fn columns() -> Option<usize> {
    columns_of(stdout())
}

/// Columns and rows of the terminal that standard output is.
pub(super) fn size() -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(stdout()).ok()?;
    Some((usize::from(size.ws_col), usize::from(size.ws_row))).filter(|(columns, rows)| *columns > 0 && *rows > 0)
}

fn columns_of(output: impl IsTerminal + AsFd) -> Option<usize> {
    if !output.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(output).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// Columns at which help and usage errors wrap.
pub(super) fn help_columns() -> usize {
    let columns = columns().or_else(|| columns_of(stderr())).unwrap_or(HELP_COLUMNS);
    columns.clamp(HELP_COLUMNS_MIN, HELP_COLUMNS_MAX)
}

/// Columns that the text takes on a terminal; it has no control characters.
pub(super) fn width(text: &str) -> usize {
    text.width()
}

/// The text in at most `columns`; where it is longer, it ends in `…`.
pub(super) fn fit(text: &str, columns: usize) -> Cow<'_, str> {
    if width(text) <= columns {
        return Cow::Borrowed(text);
    }
    let mut used = 1; // of the ellipsis
    let mut end = 0;
    for (at, c) in text.char_indices() {
        used += c.width().unwrap_or(0);
        if used > columns {
            break;
        }
        end = at + c.len_utf8();
    }
    Cow::Owned(text.get(..end).unwrap_or_default().to_owned() + if columns > 0 { "…" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_at_characters_and_by_their_width() {
        for (text, columns, cut) in [
            ("abcdef", 6, "abcdef"),
            ("abcdef", 5, "abcd…"),
            ("abcdef", 1, "…"),
            ("abcdef", 0, ""),
            ("日本語", 6, "日本語"),
            ("日本語", 5, "日本…"),
            ("日本語", 4, "日…"),
            ("e\u{301}tude", 4, "e\u{301}tu…"),
            ("", 0, ""),
        ] {
            assert_eq!(fit(text, columns), cut, "{text} in {columns}");
            assert!(width(&fit(text, columns)) <= columns);
        }
    }
}
