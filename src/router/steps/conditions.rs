//! Conditions as they are evaluated: compiled once, on the bytes of an event, without an allocation.
//!
//! ```text
//!  conditions that may be met:   source and name  &  kind  &  severity       a bit for each condition, a table for each part
//!                                       │
//!                                       ▼
//!  of these, in order:           attributes                                  the first one without any, or that meets its own
//! ```
//!
//! What source and name meet is looked up again only where they differ from those of the event before. Attributes are read only
//! if a condition needs them, and then once for all conditions.

use std::collections::BTreeMap;

use crate::batch::Record;
use crate::event::{AttributeValue, EventKind, UnreadAttributes, UnreadValue};
use crate::glob::GlobSet;
use crate::limits::{SEVERITY_MAX, STEP_CONDITIONS_MAX};
use crate::settings::steps::{AttributeTest, Condition};

/// Keys of attributes that are read in one pass over the attributes of an event; for each one beyond these there is a pass
/// of its own.
const KEYS_AT_ONCE: usize = 8;
/// Sets of 64 conditions.
const SETS_MAX: usize = STEP_CONDITIONS_MAX.div_ceil(64);
/// More than there are kinds.
const KINDS: usize = 8;

/// A list of conditions, of which an event has to meet one.
#[derive(Debug, Clone, Default)]
pub(super) struct Conditions {
    any_of: Vec<Compiled>,
    /// Of the first 64 conditions, of the next 64 …
    tables: Vec<Tables>,
    /// All keys that conditions look at, each once.
    keys: Vec<String>,
    /// Whether one of them looks at source or name.
    have_texts: bool,
}

/// Which of 64 conditions an event of a kind, of a severity meets: a bit for each condition.
#[derive(Debug, Clone, Default)]
struct Tables {
    by_kind: [u64; KINDS],
    by_severity: [u64; SEVERITY_MAX as usize + 1],
}

/// The parts of a condition that are not in the tables.
#[derive(Debug, Clone)]
struct Compiled {
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

/// The values of the first keys that conditions look at.
#[derive(Default)]
struct FirstValues<'a> {
    are_read: bool,
    /// If `are_read` is true, `None` means that the event does not have this attribute.
    values: [Option<UnreadValue<'a>>; KEYS_AT_ONCE],
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
        Self { any_of, tables: conditions.chunks(64).map(Tables::new).collect(), keys, have_texts }
    }

    /// Whether there is no condition.
    pub(super) fn is_empty(&self) -> bool {
        self.any_of.is_empty()
    }

    /// Whether kind and severity decide.
    pub(super) fn need_only_numbers(&self) -> bool {
        self.keys.is_empty() && !self.have_texts
    }

    /// Whether one of them allows this kind and severity.
    pub(super) fn allow(&self, kind: EventKind, severity: u8) -> bool {
        self.tables.iter().any(|tables| tables.allow(kind, severity) != 0)
    }

    /// Evaluates the conditions on events, one after the other.
    pub(super) fn evaluation(&self) -> Evaluation<'_> {
        Evaluation { conditions: self, last: None, texts_met: [u64::MAX; SETS_MAX] }
    }

    /// Whether the attributes of the event are those of a condition.
    #[inline]
    fn attributes_are_met<'a>(&self, index: usize, record: &Record<'a>, first: &mut FirstValues<'a>) -> bool {
        self.any_of.get(index).is_some_and(|condition| {
            condition.attributes.is_empty()
                || self.tests_hold(&condition.attributes, record.event.unread_attributes(), first)
        })
    }

    #[inline(never)]
    fn tests_hold<'a>(
        &self,
        tests: &[(usize, Test)],
        attributes: UnreadAttributes<'a>,
        first: &mut FirstValues<'a>,
    ) -> bool {
        if !std::mem::replace(&mut first.are_read, true) {
            read_first_values(attributes.clone(), &self.keys, &mut first.values);
        }
        tests.iter().all(|(index, test)| {
            let value = match first.values.get(*index) {
                Some(value) => *value,
                None => self.keys.get(*index).and_then(|key| value_of(attributes.clone(), key)),
            };
            value.is_some_and(|value| test.holds(value))
        })
    }
}

impl Tables {
    fn new(conditions: &[Condition]) -> Self {
        let mut tables = Self::default();
        for (bit, condition) in conditions.iter().enumerate() {
            for (kind, bits) in tables.by_kind.iter_mut().enumerate() {
                let meets = condition.kinds.is_empty() || condition.kinds.iter().any(|other| *other as usize == kind);
                *bits |= u64::from(meets) << bit;
            }
            for (severity, bits) in tables.by_severity.iter_mut().enumerate() {
                *bits |= u64::from(severity >= condition.severity.map_or(0, usize::from)) << bit;
            }
        }
        tables
    }

    /// The conditions that allow this kind and severity.
    #[inline]
    fn allow(&self, kind: EventKind, severity: u8) -> u64 {
        let of = |table: &[u64], index| table.get(index).copied().unwrap_or_default();
        of(&self.by_kind, kind as usize) & of(&self.by_severity, severity.into())
    }
}

/// Conditions as they are evaluated on the events of a delivery.
#[derive(Debug)]
pub(super) struct Evaluation<'c> {
    conditions: &'c Conditions,
    /// Source and name of the last event; most events have those of the one before. `None`: there was none.
    last: Option<(Vec<u8>, Vec<u8>)>,
    /// A bit for each condition: whether `last` meets it.
    texts_met: [u64; SETS_MAX],
}

impl Evaluation<'_> {
    /// The index of the first condition that the event meets; `None`: it meets none.
    #[inline(always)]
    pub(super) fn first_met(&mut self, record: &Record<'_>) -> Option<usize> {
        let conditions = self.conditions;
        if conditions.have_texts {
            let (source, name) = (record.source_bytes(), record.event.name_bytes());
            if !self.are_last_texts(source, name) {
                self.look_up_texts(source, name);
            }
        }
        let (kind, severity) = (record.event.kind(), record.event.severity());
        let mut first = FirstValues::default();
        for (set, (tables, texts_met)) in conditions.tables.iter().zip(self.texts_met).enumerate() {
            let mut maybe = tables.allow(kind, severity) & texts_met;
            while maybe != 0 {
                let index = set * 64 + maybe.trailing_zeros() as usize;
                if conditions.attributes_are_met(index, record, &mut first) {
                    return Some(index);
                }
                maybe &= maybe - 1;
            }
        }
        None
    }

    /// Whether the event meets one of the conditions.
    #[inline(always)]
    pub(super) fn are_met(&mut self, record: &Record<'_>) -> bool {
        self.first_met(record).is_some()
    }

    #[inline]
    fn are_last_texts(&self, source: &[u8], name: &[u8]) -> bool {
        self.last.as_ref().is_some_and(|(last_source, last_name)| *last_source == source && *last_name == name)
    }

    #[inline(never)]
    fn look_up_texts(&mut self, source: &[u8], name: &[u8]) {
        let (last_source, last_name) = self.last.get_or_insert_default();
        last_source.clear();
        last_source.extend_from_slice(source);
        last_name.clear();
        last_name.extend_from_slice(name);
        for (bits, conditions) in self.texts_met.iter_mut().zip(self.conditions.any_of.chunks(64)) {
            let each = conditions.iter().enumerate();
            *bits = each.fold(0, |met, (bit, condition)| met | u64::from(condition.texts_are_met(source, name)) << bit);
        }
    }
}

impl Compiled {
    fn new(condition: &Condition, index: &BTreeMap<&str, usize>) -> Self {
        let globs = |globs: &[_]| (!globs.is_empty()).then(|| GlobSet::new(globs));
        let attributes = condition
            .attributes
            .iter()
            .filter_map(|attribute| Some((*index.get(attribute.key.as_str())?, Test::new(&attribute.any_of))));
        Self { name: globs(&condition.name), source: globs(&condition.source), attributes: attributes.collect() }
    }

    fn texts_are_met(&self, source: &[u8], name: &[u8]) -> bool {
        self.name.as_ref().is_none_or(|globs| globs.matches(name))
            && self.source.as_ref().is_none_or(|globs| globs.matches(source))
    }
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

/// Of two attributes with one key the later one counts.
#[inline]
fn read_first_values<'a>(
    attributes: UnreadAttributes<'a>,
    keys: &[String],
    values: &mut [Option<UnreadValue<'a>>; KEYS_AT_ONCE],
) {
    for (key, value) in attributes {
        for (wanted, place) in keys.iter().zip(&mut *values) {
            if wanted.as_bytes() == key {
                *place = Some(value);
                break;
            }
        }
    }
}

/// The value of an attribute; of two with one key the later one counts.
pub(super) fn attribute<'a>(record: &Record<'a>, key: &str) -> Option<UnreadValue<'a>> {
    value_of(record.event.unread_attributes(), key)
}

fn value_of<'a>(attributes: UnreadAttributes<'a>, key: &str) -> Option<UnreadValue<'a>> {
    attributes.filter(|(other, _)| *other == key.as_bytes()).last().map(|(_, value)| value)
}
