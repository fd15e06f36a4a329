//! Text of bounded length.

/// The longest prefix of whole characters within `max_bytes`.
pub fn cut(text: &str, max_bytes: usize) -> &str {
    let mut end = max_bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters() {
        for (text, max_bytes, expected) in [
            ("", 0, ""),
            ("abc", 3, "abc"),
            ("abc", 2, "ab"),
            ("aä", 2, "a"),
            ("aä", 3, "aä"),
            ("😀", 3, ""),
            ("a", 9, "a"),
        ] {
            assert_eq!(cut(text, max_bytes), expected, "{text} at {max_bytes}");
        }
    }
}
