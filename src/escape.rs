//! Text that a peer sent, made safe for a log line and for a terminal.
//!
//! Escaped are control characters (C0, DEL, C1), the line and paragraph separators, and every character that changes how
//! text around it is shown (bidirectional controls) or that is not shown at all (byte order mark, tags). The form is that
//! of JSON, `\n` and `\u009B`: inside a JSON string the escaped text means the same as before.

use std::borrow::Cow;
use std::fmt::{self, Write};

/// Whether a terminal or a reader of lines acts on the character instead of showing it.
pub fn is_escaped(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{061C}' // Arabic letter mark
            | '\u{200E}' | '\u{200F}' // left-to-right and right-to-left marks
            | '\u{2028}' | '\u{2029}' // line and paragraph separators
            | '\u{202A}'..='\u{202E}' // embeddings and overrides
            | '\u{2066}'..='\u{206F}' // isolates, and deprecated format characters
            | '\u{FEFF}' // byte order mark
            | '\u{FFF9}'..='\u{FFFB}' // interlinear annotation
            | '\u{E0000}'..='\u{E007F}' // tags: text that is not shown
        )
}

/// Returns `text` on one line, with every character escaped for which [`is_escaped`] is true.
pub fn escape(text: &str) -> Cow<'_, str> {
    escape_if(text, is_escaped)
}

/// As [`escape`], but keeps the line ends: for output of several lines whose parts are escaped already.
pub fn escape_lines(text: &str) -> Cow<'_, str> {
    escape_if(text, |c| c != '\n' && is_escaped(c))
}

fn escape_if(text: &str, is_escaped: impl Fn(char) -> bool) -> Cow<'_, str> {
    // Nearly all text is this.
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) || !text.contains(&is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_escaped(c) { push_escaped(&mut out, c) } else { out.push(c) }
    }
    Cow::Owned(out)
}

fn push_escaped(out: &mut impl Write, c: char) {
    // Writing into a String cannot fail, and an adapter keeps its error.
    let _ = match c {
        '\n' => out.write_str("\\n"),
        '\r' => out.write_str("\\r"),
        '\t' => out.write_str("\\t"),
        c => c.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(out, "\\u{unit:04X}")),
    };
}

/// Displays as the value does, escaped and on one line.
pub struct Escaped<T>(pub T);

impl<T: fmt::Display> fmt::Display for Escaped<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Adapter<'a, 'b>(&'a mut fmt::Formatter<'b>);
        impl Write for Adapter<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.0.write_str(&escape(text))
            }
        }
        write!(Adapter(out), "{}", self.0)
    }
}

/// Displays as the text in double quotes, escaped; `"` and `\` in it are escaped too.
pub struct Quoted<T>(pub T);

impl<T: AsRef<str>> fmt::Display for Quoted<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_char('"')?;
        for c in self.0.as_ref().chars() {
            match c {
                '"' | '\\' => write!(out, "\\{c}")?,
                c if is_escaped(c) => push_escaped(out, c),
                c => out.write_char(c)?,
            }
        }
        out.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ODD: &str =
        "a\nb\r\t\u{0}\u{1b}[2J\u{7f}\u{9b}\u{61c}\u{200e}\u{2028}\u{2029}\u{202e}\u{2066}\u{feff}\u{e0041}";
    const ODD_ESCAPED: &str = "a\\nb\\r\\t\\u0000\\u001B[2J\\u007F\\u009B\\u061C\\u200E\\u2028\\u2029\\u202E\\u2066\\uFEFF\
                               \\uDB40\\uDC41";

    #[test]
    fn what_is_acted_on_is_escaped_and_the_rest_is_as_it_was() {
        assert_eq!(escape(ODD), ODD_ESCAPED);
        assert_eq!(Escaped(format_args!("{ODD}")).to_string(), ODD_ESCAPED);
        assert_eq!(Quoted(ODD).to_string(), format!("\"{ODD_ESCAPED}\""));
        assert_eq!(Quoted("a \"b\" \\").to_string(), r#""a \"b\" \\""#);
        assert_eq!(escape_lines("a\u{1b}\nb\u{7f}\n"), "a\\u001B\nb\\u007F\n");
        for text in ["", "plain \"quoted\" \\", "größer 日本語 👩\u{200d}🚀 e\u{301} \u{a0}"] {
            assert!(matches!(escape(text), Cow::Borrowed(same) if same == text), "{text}");
        }
    }

    #[test]
    fn json_means_the_same_escaped() {
        let json = serde_json::to_string(ODD).unwrap();
        let escaped = escape(&json);
        assert!(!escaped.contains(is_escaped), "{escaped}");
        assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), ODD);
    }

    /// Fields of log lines that are text are written so.
    #[test]
    fn debug_of_text_escapes_all_of_it() {
        for c in (0..=0x10FFFF).filter_map(char::from_u32).filter(|c| is_escaped(*c)) {
            let text = format!("{:?}", c.to_string());
            assert!(text.starts_with("\"\\") && !text.contains(is_escaped), "{text}");
        }
    }
}
