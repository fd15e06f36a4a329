//! Conditions as they are evaluated: compiled once, on the bytes of an event, without an allocation.
//!
//! The parts of a condition are tried in the order of their cost: kind and severity, name, source, attributes. Attributes
//! are read only if a condition needs them, and then once for all conditions.

use std::collections::BTreeMap;
use std::io::Write;

use crate::batch::Record;
use crate::event::{AttributeValue, EventKind, UnreadValue};
use crate::glob::GlobSet;
use crate::settings::steps::{AttributeTest, Condition};

/// Keys of attributes that are read in one pass over the attributes of an event; for each one beyond these there is a pass
/// of its own.
const KEYS_AT_ONCE: usize = 16;

/// A list of conditions, of which an event has to meet one.
#[derive(Debug, Clone, Default)]
pub(super) struct Conditions {
    any_of: Vec<Compiled>,
    /// All keys that conditions look at, each once.
    keys: Vec<String>,
}

#[derive(Debug, Clone)]
struct Compiled {
    /// A bit per kind; 0: any.
    kinds: u32,
    /// 0: any.
    severity: u8,
    name: Option<GlobSet>,
    source: Option<GlobSet>,
    /// Index in the keys of all conditions, and what the value has to be.
    attributes: Vec<(usize, Test)>,
}

#[derive(Debug, Clone, Default)]
struct Test {
    is_present: bool,
    texts: Option<GlobSet>,
    numbers: Vec<f64>,
    integers: Vec<i64>,
    flags: Vec<bool>,
}

/// What was read of an event so far.
struct Facts<'r, 'a> {
    record: &'r Record<'a>,
    /// Of the first keys.
    attributes: Option<[Option<UnreadValue<'a>>; KEYS_AT_ONCE]>,
}

impl Conditions {
    /// Compiles the conditions.
    pub(super) fn new(conditions: &[Condition]) -> Self {
        let mut index: BTreeMap<&str, usize> = BTreeMap::new();
        let mut keys = Vec::new();
        for attribute in conditions.iter().flat_map(|condition| &condition.attributes) {
            index.entry(&attribute.key).or_insert_with(|| {
                keys.push(attribute.key.clone());
                keys.len() - 1
            });
        }
        Self { any_of: conditions.iter().map(|condition| Compiled::new(condition, &index)).collect(), keys }
    }

    /// Whether there is no condition.
    pub(super) fn is_empty(&self) -> bool {
        self.any_of.is_empty()
    }

    /// The index of the first condition that the event meets; `None`: it meets none.
    pub(super) fn first_met(&self, record: &Record<'_>) -> Option<usize> {
        let mut facts = Facts { record, attributes: None };
        self.any_of.iter().position(|condition| condition.is_met(&mut facts, &self.keys))
    }

    /// Whether the event meets one of the conditions.
    pub(super) fn are_met(&self, record: &Record<'_>) -> bool {
        self.first_met(record).is_some()
    }
}

impl Compiled {
    fn new(condition: &Condition, index: &BTreeMap<&str, usize>) -> Self {
        let globs = |globs: &[_]| (!globs.is_empty()).then(|| GlobSet::new(globs));
        let attributes = condition
            .attributes
            .iter()
            .filter_map(|attribute| Some((*index.get(attribute.key.as_str())?, Test::new(&attribute.any_of))));
        Self {
            kinds: condition.kinds.iter().fold(0, |bits, kind| bits | bit(*kind)),
            severity: condition.severity.unwrap_or_default(),
            name: globs(&condition.name),
            source: globs(&condition.source),
            attributes: attributes.collect(),
        }
    }

    fn is_met(&self, facts: &mut Facts<'_, '_>, keys: &[String]) -> bool {
        let event = &facts.record.event;
        (self.kinds == 0 || self.kinds & bit(event.kind()) != 0)
            && (self.severity == 0 || event.severity() >= self.severity)
            && self.name.as_ref().is_none_or(|globs| globs.matches(event.name_bytes()))
            && self.source.as_ref().is_none_or(|globs| globs.matches(facts.record.source_bytes()))
            && self
                .attributes
                .iter()
                .all(|(key, test)| facts.attribute(*key, keys).is_some_and(|value| test.holds(value)))
    }
}

fn bit(kind: EventKind) -> u32 {
    1_u32.checked_shl(kind as u32).unwrap_or_default()
}

impl Test {
    fn new(any_of: &[AttributeTest]) -> Self {
        let mut test = Self::default();
        let mut globs = Vec::new();
        for one in any_of {
            match one {
                AttributeTest::Present => test.is_present = true,
                AttributeTest::Text(glob) => globs.push(glob),
                AttributeTest::Number(number) => test.numbers.push(*number),
                AttributeTest::Integer(number) => test.integers.push(*number),
                AttributeTest::Flag(flag) => test.flags.push(*flag),
            }
        }
        test.texts = (!globs.is_empty()).then(|| GlobSet::new(globs));
        test
    }

    fn holds(&self, value: AttributeValue<'_>) -> bool {
        let matches = |text: &str| self.texts.as_ref().is_some_and(|globs| globs.matches(text));
        self.is_present
            || match value {
                AttributeValue::String(text) => matches(text),
                AttributeValue::Int(number) => {
                    self.integers.contains(&number)
                        || self.numbers.contains(&(number as f64))
                        || self.texts.is_some() && with_decimal(number, matches)
                }
                AttributeValue::Double(number) => {
                    self.numbers.contains(&number) || self.integers.iter().any(|integer| *integer as f64 == number)
                }
                AttributeValue::Bool(flag) => {
                    self.flags.contains(&flag) || matches(if flag { "true" } else { "false" })
                }
                AttributeValue::Bytes(_) | AttributeValue::Null => false,
            }
    }
}

/// Calls `with` with the text of a number.
pub(super) fn with_decimal<T>(number: i64, with: impl FnOnce(&str) -> T) -> T {
    // The longest has 19 digits and a sign.
    let mut text = [0; 20];
    let mut rest = &mut text[..];
    // It has room for each.
    let _ = write!(rest, "{number}");
    let length = 20 - rest.len();
    with(text.get(..length).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default())
}

impl<'a> Facts<'_, 'a> {
    fn attribute(&mut self, index: usize, keys: &[String]) -> Option<AttributeValue<'a>> {
        if index >= KEYS_AT_ONCE {
            return attribute(self.record, keys.get(index)?);
        }
        let found = self.attributes.get_or_insert_with(|| {
            let mut found = [None; KEYS_AT_ONCE];
            for (key, value) in self.record.event.unread_attributes() {
                // Of two with one key the later one counts.
                if let Some(index) = keys.iter().take(KEYS_AT_ONCE).position(|wanted| wanted.as_bytes() == key)
                    && let Some(place) = found.get_mut(index)
                {
                    *place = Some(value);
                }
            }
            found
        });
        found.get(index).copied().flatten().map(UnreadValue::read)
    }
}

/// The value of an attribute; of two with one key the later one counts.
pub(super) fn attribute<'a>(record: &Record<'a>, key: &str) -> Option<AttributeValue<'a>> {
    let key = key.as_bytes();
    record.event.unread_attributes().filter(|(other, _)| *other == key).last().map(|(_, value)| value.read())
}
