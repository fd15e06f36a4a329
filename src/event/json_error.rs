//! Messages about text that is not well-formed JSON: what is wrong, where, and what to send instead. Nothing here is
//! looked at before reading has failed.

use std::fmt::Write;

/// Longest word that is quoted, bytes: `-Infinity`, `undefined`.
const WORD_BYTES_MAX: usize = 16;

/// Whether the bytes begin as UTF-16 does: with its byte order mark, or with an ASCII character of two bytes.
pub(super) fn is_utf16(bytes: &[u8]) -> bool {
    matches!(bytes, [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] | [0, 1..=0x7F, ..] | [1..=0x7F, 0, ..])
}

/// The message for text that is UTF-16.
pub(super) const UTF16: &str = "the text is UTF-16: encode it as UTF-8";
/// The message for text that begins with a UTF-8 byte order mark.
pub(super) const BYTE_ORDER_MARK: &str = "it begins with a byte order mark: leave it out";

/// The message for a byte that is not UTF-8, within the event of this index if there are several.
pub(super) fn not_utf8(byte: usize, event: Option<usize>) -> String {
    let mut message = format!("byte {byte} is not UTF-8");
    push_event(&mut message, event);
    message + ": encode texts as UTF-8"
}

/// The message for an error in a document, within the event of this index if there are several.
pub(super) fn in_document(text: &str, error: &serde_json::Error, event: Option<usize>) -> String {
    let mut place = format!(" at line {} column {}", error.line(), error.column());
    push_event(&mut place, event);
    message(text, error, &place)
}

/// The message for an error in a line of NDJSON, whose number is known.
pub(super) fn in_line(line: &str, error: &serde_json::Error) -> String {
    message(line, error, &format!(" at column {}", error.column()))
}

fn push_event(message: &mut String, event: Option<usize>) {
    if let Some(event) = event {
        // Writing to a String cannot fail.
        let _ = write!(message, ", event {event}");
    }
}

fn message(text: &str, error: &serde_json::Error, place: &str) -> String {
    if is_utf16(text.as_bytes()) {
        return UTF16.to_owned();
    }
    let reason = error.to_string();
    let reason = reason.rsplit_once(" at line ").map_or(reason.as_str(), |(reason, _)| reason);
    let word = word_at(text, error.line(), error.column());
    let next_step = match reason {
        "unexpected end of hex escape" | "lone leading surrogate in hex escape" => {
            return format!("half of a surrogate pair{place}: send both halves, or \\ufffd");
        }
        "expected value" | "expected ident" | "invalid number" => match instead_of(word) {
            Some(instead) => return format!("`{word}` is not a JSON value{place}: {instead}"),
            None => "",
        },
        reason if reason.starts_with("EOF while parsing") => ": the text is cut off",
        "number out of range" => ": send at most 1.7e308, or a text",
        "key must be a string" => ": use double quotes",
        "control character (\\u0000-\\u001F) found while parsing a string" => ": escape it, a line end as \\n",
        _ => "",
    };
    format!("{reason}{place}{next_step}")
}

/// What to send instead of a word of another language.
fn instead_of(word: &str) -> Option<&'static str> {
    let unsigned = word.strip_prefix(['-', '+']).unwrap_or(word);
    let is = |words: &[&str]| words.iter().any(|known| unsigned.eq_ignore_ascii_case(known));
    Some(match word {
        _ if is(&["nan", "inf", "infinity"]) => "leave the key out, or send a text",
        _ if is(&["none", "nil", "undefined", "null"]) => "send null",
        _ if is(&["true"]) => "send true",
        _ if is(&["false"]) => "send false",
        _ => return None,
    })
}

/// The word around a place that serde_json names: the column is that of the byte read last, from 1. Empty: there is
/// none, or it is long.
fn word_at(text: &str, line: usize, column: usize) -> &str {
    let is_word_byte = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-_.".contains(byte);
    let Some(line) = line.checked_sub(1).and_then(|line| text.split('\n').nth(line)) else { return "" };
    let (before, after) = line.as_bytes().split_at_checked(column.saturating_sub(1)).unwrap_or((line.as_bytes(), &[]));
    let left = before.iter().rev().take(WORD_BYTES_MAX).take_while(|byte| is_word_byte(byte)).count();
    let right = after.iter().take(WORD_BYTES_MAX).take_while(|byte| is_word_byte(byte)).count();
    // Both ends are beside ASCII bytes.
    line.get(before.len() - left..before.len() + right).filter(|word| word.len() <= WORD_BYTES_MAX).unwrap_or_default()
}
