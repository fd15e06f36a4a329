//! Conditions as they are evaluated: compiled once, on the bytes of an event, without an allocation.
//!
//! The parts of a condition are tried in the order of their cost: source and name (which are mostly those of the event before),
//! kind and severity, attributes. Attributes are read only if a condition needs them, and then once for all conditions.

use std::collections::BTreeMap;

use crate::batch::Record;
use crate::event::{AttributeValue, EventKind, UnreadValue};
use crate::glob::GlobSet;
use crate::settings::steps::{AttributeTest, Condition};

/// Keys of attributes that are read in one pass over the attributes of an event; for each one beyond these there is a pass
/// of its own.
const KEYS_AT_ONCE: usize = 8;

/// A list of conditions, of which an event has to meet one.
#[derive(Debug, Clone, Default)]
pub(super) struct Conditions {
    any_of: Vec<Compiled>,
    /// All keys that conditions look at, each once.
    keys: Vec<String>,
    /// Whether one of them looks at source or name.
    have_texts: bool,
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
    /// Of the first keys, once they are read.
    attributes: [Option<UnreadValue<'a>>; KEYS_AT_ONCE],
    are_read: bool,
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
        let any_of: Vec<_> = conditions.iter().map(|condition| Compiled::new(condition, &index)).collect();
        let have_texts = any_of.iter().any(|condition| condition.name.is_some() || condition.source.is_some());
        Self { any_of, keys, have_texts }
    }

    /// Whether there is no condition.
    pub(super) fn is_empty(&self) -> bool {
        self.any_of.is_empty()
    }

    /// Evaluates the conditions on events, one after the other.
    pub(super) fn evaluation(&self) -> Evaluation<'_> {
        Evaluation { conditions: self, source: Vec::new(), name: Vec::new(), is_set: false, texts_met: 0 }
    }
}

/// Conditions as they are evaluated on the events of a delivery. Most events have source and name of the one before: what these
/// texts meet is looked up once.
#[derive(Debug)]
pub(super) struct Evaluation<'c> {
    conditions: &'c Conditions,
    /// Of the last event, once there was one.
    source: Vec<u8>,
    name: Vec<u8>,
    is_set: bool,
    /// A bit for each of the first 64 conditions: whether source and name meet it.
    texts_met: u64,
}

impl Evaluation<'_> {
    /// The index of the first condition that the event meets; `None`: it meets none.
    pub(super) fn first_met(&mut self, record: &Record<'_>) -> Option<usize> {
        let conditions = self.conditions;
        if conditions.have_texts {
            self.look_up_texts(record);
        }
        let mut facts = Facts { record, attributes: [None; KEYS_AT_ONCE], are_read: false };
        conditions.any_of.iter().enumerate().position(|(index, condition)| {
            let texts = match index {
                0..64 if conditions.have_texts => self.texts_met >> index & 1 != 0,
                0..64 => true,
                _ => condition.texts_are_met(record),
            };
            texts && condition.is_met(&mut facts, &conditions.keys)
        })
    }

    /// Whether the event meets one of the conditions.
    pub(super) fn are_met(&mut self, record: &Record<'_>) -> bool {
        self.first_met(record).is_some()
    }

    fn look_up_texts(&mut self, record: &Record<'_>) {
        let (source, name) = (record.source_bytes(), record.event.name_bytes());
        if self.is_set && self.source == source && self.name == name {
            return;
        }
        let first = self.conditions.any_of.iter().take(64).enumerate();
        self.texts_met =
            first.fold(0, |met, (index, condition)| met | u64::from(condition.texts_are_met(record)) << index);
        self.source.clear();
        self.source.extend_from_slice(source);
        self.name.clear();
        self.name.extend_from_slice(name);
        self.is_set = true;
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

    fn texts_are_met(&self, record: &Record<'_>) -> bool {
        self.name.as_ref().is_none_or(|globs| globs.matches(record.event.name_bytes()))
            && self.source.as_ref().is_none_or(|globs| globs.matches(record.source_bytes()))
    }

    /// Whether the event meets it, given that source and name do.
    #[inline]
    fn is_met(&self, facts: &mut Facts<'_, '_>, keys: &[String]) -> bool {
        let event = &facts.record.event;
        (self.kinds == 0 || self.kinds & bit(event.kind()) != 0)
            && (self.severity == 0 || event.severity() >= self.severity)
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

    fn holds(&self, value: UnreadValue<'_>) -> bool {
        match value.text() {
            Some(text) => self.is_present || self.texts.as_ref().is_some_and(|globs| globs.matches(text)),
            None => self.holds_value(value.read()),
        }
    }

    fn holds_value(&self, value: AttributeValue<'_>) -> bool {
        let matches = |text: &[u8]| self.texts.as_ref().is_some_and(|globs| globs.matches(text));
        self.is_present
            || match value {
                AttributeValue::String(text) => matches(text.as_bytes()),
                AttributeValue::Int(number) => {
                    self.integers.contains(&number)
                        || self.numbers.contains(&(number as f64))
                        || self.texts.is_some() && with_decimal(number, matches)
                }
                AttributeValue::Double(number) => {
                    self.numbers.contains(&number) || self.integers.iter().any(|integer| *integer as f64 == number)
                }
                AttributeValue::Bool(flag) => {
                    self.flags.contains(&flag) || matches(if flag { b"true" } else { b"false" })
                }
                AttributeValue::Bytes(_) | AttributeValue::Null => false,
            }
    }
}

/// Calls `with` with the text of a number. (`write!` takes as long as all conditions of an event.)
pub(super) fn with_decimal<T>(number: i64, with: impl FnOnce(&[u8]) -> T) -> T {
    // The longest has 19 digits and a sign.
    let mut text = [0; 20];
    let (mut rest, mut begin) = (number.unsigned_abs(), text.len());
    for place in text.iter_mut().rev() {
        *place = b'0' + (rest % 10) as u8;
        begin -= 1;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if let Some(sign) = text.get_mut(begin.wrapping_sub(1)).filter(|_| number < 0) {
        *sign = b'-';
        begin -= 1;
    }
    with(text.get(begin..).unwrap_or_default())
}

impl<'a> Facts<'_, 'a> {
    fn attribute(&mut self, index: usize, keys: &[String]) -> Option<UnreadValue<'a>> {
        if index >= KEYS_AT_ONCE {
            return attribute(self.record, keys.get(index)?);
        }
        if !self.are_read {
            self.are_read = true;
            self.read_attributes(keys);
        }
        self.attributes.get(index).copied().flatten()
    }

    /// Of two attributes with one key the later one counts.
    fn read_attributes(&mut self, keys: &[String]) {
        for (key, value) in self.record.event.unread_attributes() {
            for (wanted, place) in keys.iter().zip(&mut self.attributes) {
                if wanted.as_bytes() == key {
                    *place = Some(value);
                    break;
                }
            }
        }
    }
}

/// The value of an attribute; of two with one key the later one counts.
pub(super) fn attribute<'a>(record: &Record<'a>, key: &str) -> Option<UnreadValue<'a>> {
    let key = key.as_bytes();
    record.event.unread_attributes().filter(|(other, _)| *other == key).last().map(|(_, value)| value)
}
