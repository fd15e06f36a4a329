//! Numbers with their noun, for messages: `1 segment`, `2 segments`.

use std::fmt;

/// A number and its noun in the singular, one that forms its plural with `s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted(pub u64, pub &'static str);

impl fmt::Display for Counted {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(number, noun) = self;
        write!(out, "{number} {noun}{}", if *number == 1 { "" } else { "s" })
    }
}

/// Some of a total, with the noun and the verb that fits: `1 of 5 events was`, `3 of 5 events were`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartOf(pub u64, pub Counted);

impl fmt::Display for PartOf {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(part, total) = self;
        write!(out, "{part} of {total} {}", if *part == 1 || total.0 == 1 { "was" } else { "were" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nouns_and_verbs_fit_their_numbers() {
        for (number, text) in [(0, "0 events"), (1, "1 event"), (2, "2 events"), (11, "11 events")] {
            assert_eq!(Counted(number, "event").to_string(), text);
        }
        for (part, total, text) in [
            (0, 1, "0 of 1 event was"),
            (1, 1, "1 of 1 event was"),
            (1, 5, "1 of 5 events was"),
            (0, 5, "0 of 5 events were"),
            (5, 5, "5 of 5 events were"),
        ] {
            assert_eq!(PartOf(part, Counted(total, "event")).to_string(), text);
        }
    }
}
