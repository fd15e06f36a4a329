//! Maps: the keys of other agents and libraries, as tables of renames.
//!
//! A key of a table goes into its field if its value fits; every other key, and every value that does not fit, becomes an
//! attribute under its own name, so that nothing is lost. Of several keys for one field the lowest rank is used, and of equal
//! ranks the first that comes; the others stay attributes. Objects are joined with dots before they are looked up, so
//! `{"log":{"level":"info"}}` and `{"log.level":"info"}` are the same.
//!
//! | value | becomes |
//! |---|---|
//! | time | number in the unit of the map, or text; one that cannot be read rejects the event |
//! | level | a word, in any case, or a number of pino or of syslog; what is not known stays an attribute |
//! | text that is too long | is cut at a character, and the event gets `truncated = true` |
//! | body | without its last line end, which Docker and `tail` leave there |
//! | neither name nor body | name `log` |

use super::draft::Draft;
use super::json_event::{Scalar, Scratch, hex_id};
use super::json_key::Quoted;
use super::json_options::{Map, TimeUnit};
use super::json_time::{self, WrongTime};
use super::view::{
    AttributeValue, BODY, DURATION_NANO, NAME, PARENT_SPAN_ID, SEVERITY, SOURCE, SPAN_ID, TIME_UNIX_NANO, TRACE_ID,
};
use crate::limits::{EVENT_BODY_BYTES_MAX, EVENT_NAME_BYTES_MAX, SEVERITY_MAX};
use crate::text::cut;

/// The attribute of an event whose text was cut.
pub(super) const TRUNCATED: &str = "truncated";
/// The name of a log event that has neither name nor body.
pub(super) const NAMELESS: &str = "log";

/// Where a value goes, and how it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// `time`.
    Time,
    /// `severity`, from a word.
    Level,
    /// `severity`, from a word or a number of pino: 30 is info.
    PinoLevel,
    /// `severity`, from a word or a number of syslog: 6 is info.
    SyslogLevel,
    /// `source`.
    Source,
    /// `name`.
    Name,
    /// `body`.
    Body,
    /// `duration_nano`, from an integer.
    DurationNano,
    /// `trace_id`.
    TraceId,
    /// `span_id`.
    SpanId,
    /// `parent_span_id`.
    ParentSpanId,
}

/// Fields that are filled once: one place for each.
const PLACES: usize = 9;

impl Target {
    const fn place(self) -> usize {
        match self {
            Self::Time => 0,
            Self::Level | Self::PinoLevel | Self::SyslogLevel => 1,
            Self::Source => 2,
            Self::Name => 3,
            Self::Body => 4,
            Self::DurationNano => 5,
            Self::TraceId => 6,
            Self::SpanId => 7,
            Self::ParentSpanId => 8,
        }
    }
}

/// A key and where it goes.
#[derive(Debug)]
pub(super) struct Rename {
    /// The key, joined with dots.
    pub key: &'static str,
    /// Where its value goes.
    pub target: Target,
    /// The lowest one of a field is used.
    pub rank: u8,
    /// It is an attribute as well: a fallback that another key may replace.
    pub keeps: bool,
}

const fn first(key: &'static str, target: Target) -> Rename {
    Rename { key, target, rank: 0, keeps: false }
}

const fn fallback(key: &'static str, target: Target, rank: u8) -> Rename {
    Rename { key, target, rank, keeps: true }
}

/// The renames of one map.
#[derive(Debug)]
pub(super) struct Preset {
    /// The unit of times that are numbers.
    pub unit: TimeUnit,
    /// Its keys.
    pub renames: &'static [Rename],
}

static FLUENT_BIT: Preset = Preset {
    unit: TimeUnit::Seconds,
    renames: &[
        first("date", Target::Time),
        first("log", Target::Body),
        first("message", Target::Body),
        first("MESSAGE", Target::Body),
        first("msg", Target::Body),
        first("level", Target::Level),
        first("severity", Target::Level),
        first("PRIORITY", Target::SyslogLevel),
        first("service", Target::Source),
        fallback("SYSLOG_IDENTIFIER", Target::Source, 1),
        fallback("ident", Target::Source, 1),
        fallback("kubernetes.container_name", Target::Source, 1),
        fallback("hostname", Target::Source, 2),
        fallback("host", Target::Source, 2),
        fallback("_HOSTNAME", Target::Source, 2),
        first("trace_id", Target::TraceId),
        first("span_id", Target::SpanId),
    ],
};

static VECTOR: Preset = Preset {
    unit: TimeUnit::Seconds,
    renames: &[
        first("timestamp", Target::Time),
        first("message", Target::Body),
        first("msg", Target::Body),
        first("event", Target::Body),
        first("level", Target::Level),
        first("levelname", Target::Level),
        first("severity", Target::Level),
        first("service", Target::Source),
        fallback("appname", Target::Source, 1),
        fallback("container_name", Target::Source, 1),
        fallback("hostname", Target::Source, 2),
        fallback("host", Target::Source, 2),
        first("trace_id", Target::TraceId),
        first("span_id", Target::SpanId),
    ],
};

static PINO: Preset = Preset {
    unit: TimeUnit::Millis,
    renames: &[
        first("time", Target::Time),
        first("msg", Target::Body),
        first("level", Target::PinoLevel),
        first("name", Target::Source),
        fallback("hostname", Target::Source, 1),
        first("trace_id", Target::TraceId),
        first("span_id", Target::SpanId),
    ],
};

static ZAP: Preset = Preset {
    unit: TimeUnit::Seconds,
    renames: &[
        first("ts", Target::Time),
        first("time", Target::Time),
        first("msg", Target::Body),
        first("level", Target::Level),
        first("service", Target::Source),
        first("trace_id", Target::TraceId),
        first("span_id", Target::SpanId),
    ],
};

static ECS: Preset = Preset {
    unit: TimeUnit::Millis,
    renames: &[
        first("@timestamp", Target::Time),
        first("message", Target::Body),
        first("log.level", Target::Level),
        first("service.name", Target::Source),
        fallback("host.name", Target::Source, 1),
        first("event.action", Target::Name),
        first("event.duration", Target::DurationNano),
        first("trace.id", Target::TraceId),
        first("span.id", Target::SpanId),
        first("parent.id", Target::ParentSpanId),
    ],
};

static DOCKER: Preset =
    Preset { unit: TimeUnit::Nanos, renames: &[first("time", Target::Time), first("log", Target::Body)] };

/// The renames of `map`.
pub(super) fn preset(map: Map) -> &'static Preset {
    match map {
        Map::FluentBit => &FLUENT_BIT,
        Map::Vector => &VECTOR,
        Map::Pino => &PINO,
        Map::Zap => &ZAP,
        Map::Ecs => &ECS,
        Map::Docker => &DOCKER,
    }
}

/// What was put into the fields of the event that is being read.
#[derive(Debug)]
pub(super) struct Filled {
    /// The rank of each field's key; `u8::MAX`: it is unset.
    ranks: [u8; PLACES],
    /// A text was cut.
    truncated: bool,
}

impl Default for Filled {
    fn default() -> Self {
        Self { ranks: [u8::MAX; PLACES], truncated: false }
    }
}

impl Filled {
    fn has(&self, target: Target) -> bool {
        self.ranks.get(target.place()).is_some_and(|rank| *rank != u8::MAX)
    }
}

/// Puts the value of the key `scratch.path` into the field that `map` names for it. `false`: it is to become an attribute.
pub(super) fn put(scratch: &mut Scratch, map: Map, value: Scalar<'_>) -> bool {
    let preset = map.preset();
    let Some(rename) = preset.renames.iter().find(|rename| rename.key == scratch.path) else { return false };
    let Rename { target, rank, keeps, .. } = *rename;
    let place = target.place();
    if matches!(value, Scalar::Null) || scratch.filled.ranks.get(place).is_none_or(|best| rank >= *best) {
        return false;
    }
    let fits = put_field(scratch, target, preset, value);
    if fits && let Some(best) = scratch.filled.ranks.get_mut(place) {
        *best = rank;
    }
    fits && !keeps
}

fn put_field(scratch: &mut Scratch, target: Target, preset: &Preset, value: Scalar<'_>) -> bool {
    let draft = &mut scratch.draft;
    match (target, value) {
        (Target::Time, value) => return put_time(scratch, preset.unit, value),
        (Target::Level | Target::PinoLevel | Target::SyslogLevel, value) => match severity(target, value) {
            Some(severity) => draft.put_varint(SEVERITY, severity),
            None => return false,
        },
        (Target::Source | Target::Name | Target::Body, Scalar::Text(text)) => {
            let (key, max) = match target {
                Target::Source => (SOURCE, EVENT_NAME_BYTES_MAX),
                Target::Name => (NAME, EVENT_NAME_BYTES_MAX),
                _ => (BODY, EVENT_BODY_BYTES_MAX),
            };
            let text = if target == Target::Body { without_line_end(text) } else { text };
            let kept = cut(text, max);
            if kept.is_empty() {
                return false;
            }
            scratch.filled.truncated |= kept.len() < text.len();
            draft.put_bytes(key, kept.as_bytes());
        }
        (Target::DurationNano, Scalar::Int(nanoseconds @ 0..)) => draft.put_fixed64(DURATION_NANO, nanoseconds as u64),
        (Target::TraceId, Scalar::Text(text)) => return put_id::<16>(draft, TRACE_ID, text),
        (Target::SpanId, Scalar::Text(text)) => return put_id::<8>(draft, SPAN_ID, text),
        (Target::ParentSpanId, Scalar::Text(text)) => return put_id::<8>(draft, PARENT_SPAN_ID, text),
        _ => return false,
    }
    true
}

/// A time that cannot be read rejects the event: stored with the time of receipt, nobody would notice the wrong unit.
fn put_time(scratch: &mut Scratch, unit: TimeUnit, value: Scalar<'_>) -> bool {
    let unit = scratch.options.time.unwrap_or(unit);
    let Scratch { draft, path, array, .. } = scratch;
    match value {
        Scalar::Int(_) | Scalar::Unsigned(_) | Scalar::Double(_) => put_numeric_time(draft, path, unit, value, array),
        Scalar::Text(text) => match json_time::from_text(text) {
            Ok(nanoseconds) => draft.put_fixed64(TIME_UNIX_NANO, nanoseconds),
            Err(error) => draft.refuse(format_args!("`{path}` is {}: {error}", Quoted(text))),
        },
        Scalar::Null | Scalar::Bool(_) => return false,
    }
    true
}

/// Puts a time that is a number in `unit`, or refuses the event. `key`: for the message.
pub(super) fn put_numeric_time(
    draft: &mut Draft,
    key: &str,
    unit: TimeUnit,
    number: Scalar<'_>,
    scratch: &mut Vec<u8>,
) {
    match json_time::nanoseconds(number, unit, scratch) {
        Ok(nanoseconds) => draft.put_fixed64(TIME_UNIX_NANO, nanoseconds),
        Err(fault) => draft.refuse(WrongTime { key, number, unit, fault }),
    }
}

/// All keys of a mapped event were read.
pub(super) fn finish(scratch: &mut Scratch) {
    if scratch.filled.truncated {
        scratch.draft.put_attribute(TRUNCATED, AttributeValue::Bool(true));
    }
    if !scratch.filled.has(Target::Body) && !scratch.filled.has(Target::Name) {
        scratch.draft.put_bytes(NAME, NAMELESS.as_bytes());
    }
}

fn without_line_end(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

fn put_id<const BYTES: usize>(draft: &mut Draft, key: u32, text: &str) -> bool {
    hex_id::<BYTES>(text.as_bytes()).map(|id| draft.put_bytes(key, &id)).is_some()
}

/// Words of pino, zap, syslog, Python, Java and .NET, and OpenTelemetry's number for each.
const WORDS: &[(&str, u64)] = &[
    ("trace", 1),
    ("finest", 1),
    ("verbose", 1),
    ("debug", 5),
    ("dbg", 5),
    ("fine", 5),
    ("info", 9),
    ("information", 9),
    ("informational", 9),
    ("notice", 10),
    ("warn", 13),
    ("warning", 13),
    ("error", 17),
    ("err", 17),
    ("severe", 17),
    ("crit", 18),
    ("dpanic", 18),
    ("alert", 19),
    ("panic", 19),
    ("fatal", 21),
    ("critical", 21),
    ("emerg", 21),
    ("emergency", 21),
];

/// Numbers of syslog, from 0, and OpenTelemetry's number for each.
pub(super) const SYSLOG_SEVERITIES: [u8; 8] = [21, 19, 18, 17, 13, 10, 9, 5];

fn severity(target: Target, level: Scalar<'_>) -> Option<u64> {
    match (target, level) {
        (Target::SyslogLevel, Scalar::Int(number)) => syslog_severity(number),
        (Target::PinoLevel, Scalar::Int(number)) => Some(pino_severity(number)),
        (Target::SyslogLevel, Scalar::Text(text)) if text.parse::<i64>().is_ok() => {
            syslog_severity(text.parse().unwrap_or_default())
        }
        (_, Scalar::Text(text)) => severity_of_word(text),
        _ => None,
    }
}

/// A word, or one of `log/slog` with what lies between two of them: `ERROR+2`. Its levels are four apart, as OpenTelemetry's.
fn severity_of_word(text: &str) -> Option<u64> {
    let sign = text.find(['+', '-']).unwrap_or(text.len());
    let (word, offset) = text.split_at_checked(sign)?;
    let number = WORDS.iter().find(|(known, _)| known.eq_ignore_ascii_case(word)).map(|(_, number)| *number)?;
    let offset: i64 = if offset.is_empty() { 0 } else { offset.parse().ok()? };
    Some(number.saturating_add_signed(offset).clamp(1, SEVERITY_MAX as u64))
}

fn syslog_severity(number: i64) -> Option<u64> {
    let severity = usize::try_from(number).ok().and_then(|number| SYSLOG_SEVERITIES.get(number));
    severity.copied().map(u64::from)
}

/// 10 trace, 20 debug, 30 info, 40 warn, 50 error, 60 fatal; levels of a program's own lie between, so 35 is above info (9)
/// and below warn (13): 11.
fn pino_severity(level: i64) -> u64 {
    let level = level.clamp(10, 69) as u64;
    (level / 10 - 1) * 4 + 1 + level % 10 * 4 / 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_map_names_a_key_twice_and_every_field_has_one_that_comes_first() {
        for map in Map::ALL {
            let renames = map.preset().renames;
            for (index, rename) in renames.iter().enumerate() {
                assert!(!renames[..index].iter().any(|other| other.key == rename.key), "{map:?} {}", rename.key);
                assert_eq!(rename.keeps, rename.rank > 0, "{map:?} {}", rename.key);
                let first =
                    renames.iter().any(|other| other.target.place() == rename.target.place() && other.rank == 0);
                assert!(first, "{map:?} {}", rename.key);
            }
        }
    }

    #[test]
    fn levels_keep_their_order() {
        let pino: Vec<_> = [10, 20, 30, 35, 39, 40, 50, 60, 69].map(pino_severity).into();
        assert_eq!(pino, [1, 5, 9, 11, 12, 13, 17, 21, 24]);
        assert_eq!((pino_severity(i64::MIN), pino_severity(i64::MAX)), (1, 24));
        assert_eq!(severity(Target::Level, Scalar::Text("DPanic")), Some(18));
        assert_eq!(severity(Target::Level, Scalar::Int(30)), None);
        for (word, expected) in [("ERROR+2", Some(19)), ("INFO-2", Some(7)), ("DEBUG-9", Some(1)), ("INFO+", None)] {
            assert_eq!(severity(Target::Level, Scalar::Text(word)), expected, "{word}");
        }
        assert_eq!(severity(Target::SyslogLevel, Scalar::Text("3")), Some(17));
        assert_eq!(severity(Target::SyslogLevel, Scalar::Int(8)), None);
    }

    #[test]
    fn the_page_names_every_key_of_every_map() {
        let page = include_str!("../../docs/json.md");
        for map in Map::ALL {
            let cells = page.lines().filter(|line| line.starts_with(&format!("| `{}` |", map.name())));
            let table: String = cells.collect();
            for rename in map.preset().renames {
                assert!(table.contains(&format!("`{}`", rename.key)), "{}: {}", map.name(), rename.key);
            }
        }
    }
}
