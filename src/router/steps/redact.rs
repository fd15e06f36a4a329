//! `redact`: removes, hashes or masks parts of events.
//!
//! The rules apply in order, each to what the one before has left of an attribute or body. An event of which no rule changes
//! anything is not copied; of another one, only what changes is written anew.
//!
//! **Hash.** HMAC-SHA-256 of the value under the key of the rule, its first 16 bytes as hex digits: the same value has the
//! same hash in every event, and without the key it cannot be found by trying. The value is a text or bytes as they are, an
//! integer in decimal, a boolean as `true` or `false`, a double as its 8 bytes, the most significant first. The
//! implementation is that of `ring`, which TLS has linked already: about 150 ns for a short value. (BLAKE3 would take 50 ns,
//! but is one more crate with code in C, and no other tool computes it.)
//!
//! **Mask.** `***` in place of what an expression matches; matches side by side are one. The crate is `regex` with its lazy DFA
//! and without what only makes some expressions faster: 0.2 to 0.3 µs for a body of 120 bytes, and 0.8 MB of the binary.
//! `regex-lite` takes 2 to 5 µs, more than all else that is done with an event, and 0.1 MB; `regex` with everything 0.01 to
//! 0.2 µs and 1.3 MB. A search takes time linear to the text; searching for all matches does not. So after
//! `limits::REDACT_MATCHES_MAX` of them the rest of the text is masked as a whole.

use regex::Regex;
use ring::hmac;

use super::Step;
use super::conditions::with_decimal;
use crate::batch::{Delivery, Fate, Record};
use crate::event::rewrite::{EventField, EventFields, put_attribute, put_body};
use crate::event::{AttributeValue, EventRef};
use crate::glob::GlobSet;
use crate::ids::write_hex;
use crate::limits::{EVENT_BODY_BYTES_MAX, EVENT_BYTES_MAX, REDACT_MATCHES_MAX};
use crate::settings::steps::RedactRule;
use crate::text::cut;

/// What stands in place of something that is masked.
pub const MASK: &str = "***";
/// Bytes of a hash that are kept: two of some billion values have the same one with a chance of one in 10¹⁸.
const HASH_BYTES: usize = 16;

/// Removes, hashes and masks.
#[derive(Debug)]
pub struct Redact {
    of_attributes: Vec<(GlobSet, Action)>,
    of_body: Vec<Regex>,
}

#[derive(Debug)]
enum Action {
    Remove,
    Hash(hmac::Key),
    Mask,
    MaskWithin(Regex),
}

/// What the rules leave of an attribute.
enum Left {
    AsItIs,
    Nothing,
    Text(String),
}

impl Redact {
    /// The step; `None`: there are no rules. A hash whose key was not read removes the attribute instead.
    pub fn new(rules: &[RedactRule]) -> Option<Self> {
        let (mut of_attributes, mut of_body) = (Vec::new(), Vec::new());
        for rule in rules {
            let (globs, action) = match rule {
                RedactRule::MaskBody(pattern) => {
                    of_body.push(pattern.regex().clone());
                    continue;
                }
                RedactRule::Remove(globs) => (globs, Action::Remove),
                RedactRule::Mask(globs) => (globs, Action::Mask),
                RedactRule::MaskWithin(globs, pattern) => (globs, Action::MaskWithin(pattern.regex().clone())),
                RedactRule::Hash(globs, file) => match file.key() {
                    Some(key) => (globs, Action::Hash(hmac::Key::new(hmac::HMAC_SHA256, key))),
                    None => (globs, Action::Remove),
                },
            };
            of_attributes.push((GlobSet::new(globs), action));
        }
        (!rules.is_empty()).then_some(Self { of_attributes, of_body })
    }

    /// Whether a rule changes something of the event.
    fn changes(&self, event: &EventRef<'_>) -> bool {
        self.changes_body(event)
            || !self.of_attributes.is_empty()
                && event.attributes().any(|(key, value)| self.changes_attribute(key, value))
    }

    fn changes_body(&self, event: &EventRef<'_>) -> bool {
        !self.of_body.is_empty() && {
            let body = event.body();
            !body.is_empty() && self.of_body.iter().any(|regex| regex.is_match(body))
        }
    }

    fn changes_attribute(&self, key: &str, value: AttributeValue<'_>) -> bool {
        self.of_attributes.iter().any(|(globs, action)| {
            globs.matches(key)
                && match (action, value) {
                    (Action::MaskWithin(regex), AttributeValue::String(text)) => regex.is_match(text),
                    (Action::MaskWithin(_), _) => false,
                    _ => true,
                }
        })
    }

    /// Appends what is left of the event.
    fn write(&self, event: &[u8], out: &mut Vec<u8>) {
        for (bytes, field) in EventFields::accepted(event) {
            match field {
                EventField::Attribute(key, value) => match self.left_of(key, value) {
                    Left::AsItIs => out.extend_from_slice(bytes),
                    Left::Nothing => {}
                    Left::Text(text) => put_attribute(key, AttributeValue::String(&text), out),
                },
                EventField::Body(body) => match self.left_of_body(body) {
                    Some(body) => put_body(&body, out),
                    None => out.extend_from_slice(bytes),
                },
                EventField::Time | EventField::Other => out.extend_from_slice(bytes),
            }
        }
    }

    fn left_of(&self, key: &str, value: AttributeValue<'_>) -> Left {
        let mut left: Option<String> = None;
        for (globs, action) in &self.of_attributes {
            if !globs.matches(key) {
                continue;
            }
            let value = left.as_deref().map_or(value, AttributeValue::String);
            left = match (action, value) {
                (Action::Remove, _) => return Left::Nothing,
                (Action::Hash(key), value) => Some(hash(key, value)),
                (Action::Mask, _) => Some(MASK.to_owned()),
                (Action::MaskWithin(regex), AttributeValue::String(text)) => {
                    mask(regex, text, EVENT_BYTES_MAX).or(left)
                }
                (Action::MaskWithin(_), _) => left,
            };
        }
        left.map_or(Left::AsItIs, Left::Text)
    }

    fn left_of_body(&self, body: &str) -> Option<String> {
        self.of_body.iter().fold(None, |left: Option<String>, regex| {
            mask(regex, left.as_deref().unwrap_or(body), EVENT_BODY_BYTES_MAX).or(left)
        })
    }
}

fn hash(key: &hmac::Key, value: AttributeValue<'_>) -> String {
    let tag = match value {
        AttributeValue::String(text) => hmac::sign(key, text.as_bytes()),
        AttributeValue::Bytes(bytes) => hmac::sign(key, bytes),
        AttributeValue::Int(number) => with_decimal(number, |text| hmac::sign(key, text)),
        AttributeValue::Bool(flag) => hmac::sign(key, if flag { b"true" } else { b"false" }),
        AttributeValue::Double(number) => hmac::sign(key, &number.to_bits().to_be_bytes()),
        AttributeValue::Null => hmac::sign(key, b""),
    };
    let mut digits = Vec::with_capacity(2 * HASH_BYTES);
    write_hex(tag.as_ref().get(..HASH_BYTES).unwrap_or_default(), &mut digits);
    String::from_utf8(digits).unwrap_or_default()
}

/// The text with a mask in place of each match, cut to so many bytes; `None`: nothing matches.
fn mask(regex: &Regex, text: &str, bytes_max: usize) -> Option<String> {
    let mut masked = String::new();
    let mut end = 0;
    for (index, found) in regex.find_iter(text).enumerate() {
        let is_last = index + 1 == REDACT_MATCHES_MAX;
        if found.is_empty() && !is_last {
            continue;
        }
        // At the beginning, too, the match is one of its own.
        if found.start() > end || masked.is_empty() {
            masked.push_str(text.get(end..found.start()).unwrap_or_default());
            masked.push_str(MASK);
        }
        end = found.end();
        if is_last {
            end = text.len();
            break;
        }
    }
    if masked.is_empty() {
        return None;
    }
    masked.push_str(text.get(end..).unwrap_or_default());
    masked.truncate(cut(&masked, bytes_max).len());
    Some(masked)
}

impl Step for Redact {
    fn apply(&self, delivery: Delivery) -> Delivery {
        delivery.shaped(|record, out| {
            if !self.changes(&record.event) {
                return Fate::Keep;
            }
            self.write(record.event.bytes(), out);
            Fate::Replace
        })
    }

    fn reason(&self, record: &Record<'_>) -> Option<String> {
        let attributes = record.event.attributes();
        let keys: Vec<&str> =
            attributes.filter(|(key, value)| self.changes_attribute(key, *value)).map(|(key, _)| key).collect();
        let body = self.changes_body(&record.event).then_some("body");
        let changed: Vec<&str> = body.into_iter().chain(keys).collect();
        (!changed.is_empty()).then(|| format!("redacted: {}", changed.join(", ")))
    }
}
