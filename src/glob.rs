//! Patterns with `*`, and sets of them.
//!
//! Only `*` is special: it stands for any characters, also none. `\` before a character takes the character as it is.
//! `?`, `[` and `{`, which other programs give a meaning, have to be written with `\`, so that nobody takes them for one.
//!
//! A pattern is matched in time linear to the text. In a set, texts without `*`, prefixes (`api-*`) and suffixes
//! (`*.token`) are found by binary search if there are many; other patterns are tried one by one. Nothing allocates.
//!
//! The crate `globset` was not taken: it brings `regex-automata`, `aho-corasick` and `bstr`, for files and their
//! directories, and classes of characters that names of services do not need.

use std::cmp::Ordering;
use std::fmt;

use thiserror::Error;

/// A pattern.
#[derive(Clone, PartialEq, Eq)]
pub struct Glob {
    /// As it was written.
    text: String,
    /// The texts between the `*`; of one part there is none.
    parts: Vec<String>,
}

/// Why a text is not a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum GlobError {
    /// A character that other programs give a meaning.
    #[error(
        "{0:?} has no meaning in a pattern, where only * stands for any characters: write \\{0} for the character; \
         give several patterns as a list"
    )]
    Reserved(char),
    /// The text ends with `\`.
    #[error("nothing follows the last \\: write \\\\ for the character")]
    Unfinished,
}

impl Glob {
    /// Reads a pattern.
    ///
    /// # Errors
    /// It has a reserved character, or ends with `\`.
    pub fn new(text: &str) -> Result<Self, GlobError> {
        let mut parts = vec![];
        let mut part = String::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match c {
                '*' => parts.push(std::mem::take(&mut part)),
                '\\' => part.push(chars.next().ok_or(GlobError::Unfinished)?),
                '?' | '[' | ']' | '{' | '}' => return Err(GlobError::Reserved(c)),
                c => part.push(c),
            }
        }
        parts.push(part);
        // `**` is `*`.
        let last = parts.len() - 1;
        let parts = parts.into_iter().enumerate();
        let parts = parts.filter(|(index, part)| *index == 0 || *index == last || !part.is_empty());
        Ok(Self { text: text.to_owned(), parts: parts.map(|(_, part)| part).collect() })
    }

    /// Whether the whole of `text` is what the pattern describes.
    pub fn matches(&self, text: &str) -> bool {
        let Some((first, others)) = self.parts.split_first() else { return false };
        let Some((last, middle)) = others.split_last() else { return text == first };
        let Some(text) = text.strip_prefix(first.as_str()) else { return false };
        let Some(mut text) = text.strip_suffix(last.as_str()) else { return false };
        for part in middle {
            let Some(at) = text.find(part.as_str()) else { return false };
            text = text.get(at + part.len()..).unwrap_or_default();
        }
        true
    }

    /// Fewest bytes of a text that it matches.
    pub fn bytes_min(&self) -> usize {
        self.parts.iter().map(String::len).sum()
    }

    /// The only text that it matches; `None`: there are several.
    pub fn exact(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [text] => Some(text),
            _ => None,
        }
    }

    /// Whether it matches every text.
    pub fn matches_all(&self) -> bool {
        self.parts.len() > 1 && self.bytes_min() == 0
    }
}

/// As it was written.
impl fmt::Display for Glob {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl fmt::Debug for Glob {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}", self.text)
    }
}

/// Several patterns, of which one has to match.
#[derive(Debug, Clone, Default)]
pub struct GlobSet {
    /// Sorted.
    exact: Vec<Box<[u8]>>,
    /// Sorted; none begins with another one.
    prefixes: Vec<Box<[u8]>>,
    /// Sorted by their bytes from the last to the first; none ends with another one.
    suffixes: Vec<Box<[u8]>>,
    others: Vec<Glob>,
}

/// Up to so many texts are tried one by one: most differ in their first or last byte, which takes less time than finding the
/// only one that can match.
const ONE_BY_ONE_MAX: usize = 8;

impl GlobSet {
    /// A set of these patterns.
    pub fn new<'a>(globs: impl IntoIterator<Item = &'a Glob>) -> Self {
        let mut set = Self::default();
        for glob in globs {
            match glob.parts.as_slice() {
                [text] => set.exact.push(text.as_bytes().into()),
                [prefix, suffix] if suffix.is_empty() => set.prefixes.push(prefix.as_bytes().into()),
                [prefix, suffix] if prefix.is_empty() => set.suffixes.push(suffix.as_bytes().into()),
                _ => set.others.push(glob.clone()),
            }
        }
        set.exact.sort_unstable();
        set.exact.dedup();
        set.prefixes.sort_unstable();
        // What one begins with stands before it.
        set.prefixes.dedup_by(|later, earlier| later.starts_with(earlier));
        set.suffixes.sort_unstable_by(|one, other| from_the_end(one, other));
        set.suffixes.dedup_by(|later, earlier| later.ends_with(earlier));
        set
    }

    /// Whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.prefixes.is_empty() && self.suffixes.is_empty() && self.others.is_empty()
    }

    /// Whether one of the patterns matches. What is not UTF-8 matches only where the bytes before or after it decide.
    #[inline]
    pub fn matches(&self, text: impl AsRef<[u8]>) -> bool {
        let text = text.as_ref();
        self.is_exact(text) || self.has_prefix(text) || self.has_suffix(text) || self.is_other(text)
    }

    #[inline(always)]
    fn is_exact(&self, text: &[u8]) -> bool {
        if self.exact.is_empty() {
            return false;
        }
        match self.exact.len() {
            ..=ONE_BY_ONE_MAX => self.exact.iter().any(|exact| exact.first() == text.first() && **exact == *text),
            _ => self.exact.binary_search_by(|exact| (**exact).cmp(text)).is_ok(),
        }
    }

    #[inline(always)]
    fn has_prefix(&self, text: &[u8]) -> bool {
        if self.prefixes.is_empty() {
            return false;
        }
        if self.prefixes.len() <= ONE_BY_ONE_MAX {
            return self.prefixes.iter().any(|prefix| starts_with(text, prefix));
        }
        // The last one that is not above the text is the only one that it can begin with.
        let index = self.prefixes.partition_point(|prefix| **prefix <= *text);
        index.checked_sub(1).and_then(|index| self.prefixes.get(index)).is_some_and(|prefix| text.starts_with(prefix))
    }

    #[inline(always)]
    fn has_suffix(&self, text: &[u8]) -> bool {
        if self.suffixes.is_empty() {
            return false;
        }
        if self.suffixes.len() <= ONE_BY_ONE_MAX {
            return self.suffixes.iter().any(|suffix| ends_with(text, suffix));
        }
        let index = self.suffixes.partition_point(|suffix| from_the_end(suffix, text) != Ordering::Greater);
        index.checked_sub(1).and_then(|index| self.suffixes.get(index)).is_some_and(|suffix| text.ends_with(suffix))
    }

    #[inline]
    fn is_other(&self, text: &[u8]) -> bool {
        if self.others.is_empty() {
            return false;
        }
        std::str::from_utf8(text).is_ok_and(|text| self.others.iter().any(|glob| glob.matches(text)))
    }
}

/// As the method of slices, which calls a function before it has seen a byte.
#[inline]
fn starts_with(text: &[u8], prefix: &[u8]) -> bool {
    prefix.first().is_none_or(|first| text.first() == Some(first) && text.starts_with(prefix))
}

#[inline]
fn ends_with(text: &[u8], suffix: &[u8]) -> bool {
    suffix.last().is_none_or(|last| text.last() == Some(last) && text.ends_with(suffix))
}

fn from_the_end(one: &[u8], other: &[u8]) -> Ordering {
    one.iter().rev().cmp(other.iter().rev())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn glob(text: &str) -> Glob {
        Glob::new(text).unwrap()
    }

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, texts, others) in [
            ("api", &["api"][..], &["", "api-1", "API", "ap"][..]),
            ("api-*", &["api-", "api-1", "api-*"], &["api", "xapi-1"]),
            ("*.token", &[".token", "a.b.token"], &["token", "a.tokens"]),
            ("a*b*c", &["abc", "a--b--c", "abbc", "abcbc"], &["ac", "acb", "abcd"]),
            ("a**b", &["ab", "axb"], &["a"]),
            ("*", &["", "x"], &[]),
            ("**", &["", "x"], &[]),
            ("a*a", &["aa", "aba"], &["a"]),
            ("*ß*", &["groß", "ß"], &["s"]),
            (r"\*\?\\", &[r"*?\"], &["a", r"\*\?\\"]),
            ("", &[""], &["x"]),
        ] {
            for text in texts {
                assert!(glob(pattern).matches(text), "{pattern} {text}");
            }
            for text in others {
                assert!(!glob(pattern).matches(text), "{pattern} {text}");
            }
        }
    }

    #[test]
    fn what_others_give_a_meaning_is_refused() {
        for text in ["a?", "[ab]", "{a,b}", "]", "}"] {
            assert!(matches!(Glob::new(text), Err(GlobError::Reserved(_))), "{text}");
        }
        assert_eq!(Glob::new("a\\"), Err(GlobError::Unfinished));
        assert_eq!(
            Glob::new("{a,b}").unwrap_err().to_string(),
            "'{' has no meaning in a pattern, where only * stands for any characters: write \\{ for the character; give \
             several patterns as a list"
        );
    }

    #[test]
    fn only_stars_match_everything() {
        for (pattern, all, exact, bytes) in
            [("*", true, None, 0), ("**", true, None, 0), ("", false, Some(""), 0), ("a*b", false, None, 2)]
        {
            let glob = glob(pattern);
            assert_eq!((glob.matches_all(), glob.exact(), glob.bytes_min()), (all, exact, bytes), "{pattern}");
        }
    }

    /// By definition, in exponential time.
    fn naive(pattern: &[char], text: &[char]) -> bool {
        match pattern {
            [] => text.is_empty(),
            ['*', pattern @ ..] => (0..=text.len()).any(|at| naive(pattern, &text[at..])),
            [c, pattern @ ..] => text.first() == Some(c) && naive(pattern, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn a_set_is_its_patterns_and_each_is_what_it_says(
            patterns in prop::collection::vec("[ab*]{0,5}", 0..40),
            texts in prop::collection::vec("[ab]{0,7}", 1..20),
        ) {
            let globs: Vec<Glob> = patterns.iter().map(|pattern| glob(pattern)).collect();
            let set = GlobSet::new(&globs);
            for text in texts {
                let chars: Vec<char> = text.chars().collect();
                let mut any = false;
                for (glob, pattern) in globs.iter().zip(&patterns) {
                    let expected = naive(&pattern.chars().collect::<Vec<_>>(), &chars);
                    prop_assert_eq!(glob.matches(&text), expected, "{} {}", pattern, text);
                    any |= expected;
                }
                prop_assert_eq!(set.matches(&text), any, "{:?} {}", patterns, text);
            }
        }
    }
}
