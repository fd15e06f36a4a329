//! Conditions: `{ kinds = ["log"], severity = "warn", source = ["api-*"], attributes = { env = "prod" } }`.
//!
//! All parts of a condition have to hold; of a list in it, one entry. What can never hold is an error here, so that no sink
//! waits for events that cannot come.

use toml::Value as Toml;

use super::inline::{name_of, read};
use crate::escape::Escaped;
use crate::event::nearest::nearest;
use crate::event::{EventKind, severity_from_name};
use crate::glob::Glob;
use crate::limits::{
    ATTRIBUTE_KEY_BYTES_MAX, EVENT_BYTES_MAX, EVENT_NAME_BYTES_MAX, SEVERITY_MAX, STEP_CONDITIONS_MAX,
};

/// What an event has to be. At least one part is given.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Condition {
    /// One of these; empty: any.
    pub kinds: Vec<EventKind>,
    /// This severity or a higher one, from 1 to 24; `None`: any, also none.
    pub severity: Option<u8>,
    /// One of these; empty: any.
    pub source: Vec<Glob>,
    /// One of these; empty: any.
    pub name: Vec<Glob>,
    /// All of these.
    pub attributes: Vec<AttributeCondition>,
}

/// What an attribute has to be.
#[derive(Debug, Clone, PartialEq)]
pub struct AttributeCondition {
    /// Its key.
    pub key: String,
    /// One of these has to hold of its value.
    pub any_of: Vec<AttributeTest>,
}

/// What the value of an attribute has to be.
#[derive(Debug, Clone, PartialEq)]
pub enum AttributeTest {
    /// There is one, whatever it is: the pattern `*`.
    Present,
    /// A text, or an integer or boolean as text, that the pattern matches.
    Text(Glob),
    /// This number, as integer or double.
    Number(f64),
    /// This integer; or the double that equals it.
    Integer(i64),
    /// This boolean.
    Flag(bool),
}

const PARTS: [&str; 5] = ["kinds", "severity", "source", "name", "attributes"];

/// Reads a list of conditions, or a single one. Empty: none.
///
/// # Errors
/// Which condition is wrong, what of it, and what is expected.
pub(super) fn read_all(text: &str) -> Result<Vec<Condition>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let items = match read(text)? {
        Toml::Array(items) => items,
        item @ Toml::Table(_) => vec![item],
        other => return Err(format!("expected a list of conditions, such as [{EXAMPLE}], not {}", name_of(&other))),
    };
    if items.len() > STEP_CONDITIONS_MAX {
        return Err(format!("{} conditions: write at most {STEP_CONDITIONS_MAX}", items.len()));
    }
    let numbered = items.iter().enumerate();
    numbered.map(|(index, item)| read_one(item).map_err(|why| format!("condition {}: {why}", index + 1))).collect()
}

const EXAMPLE: &str = "{ kinds = [\"log\"], severity = \"warn\" }";

fn read_one(item: &Toml) -> Result<Condition, String> {
    let Toml::Table(table) = item else {
        return Err(format!("expected a table, such as {EXAMPLE}, not {}", name_of(item)));
    };
    if table.is_empty() {
        return Err(format!("it is empty: give at least one of {}", PARTS.join(", ")));
    }
    let mut condition = Condition::default();
    for (key, value) in table {
        let of_key = |why: String| format!("{key}: {why}");
        match key.as_str() {
            "kinds" => condition.kinds = list(value, read_kind).map_err(of_key)?,
            "severity" => condition.severity = Some(read_severity(value).map_err(of_key)?),
            "source" => condition.source = list(value, read_source).map_err(of_key)?,
            "name" => condition.name = list(value, read_name).map_err(of_key)?,
            "attributes" => {
                let Toml::Table(attributes) = value else {
                    let found = name_of(value);
                    return Err(of_key(format!("expected a table, such as {{ env = \"prod\" }}, not {found}")));
                };
                if attributes.is_empty() {
                    return Err(of_key("it is empty: name at least one attribute".to_owned()));
                }
                read_attributes("", attributes, &mut condition.attributes).map_err(of_key)?;
            }
            _ => {
                let hint = match nearest(key, &PARTS) {
                    Some(name) => format!("did you mean `{name}`?"),
                    None => format!("a condition has {}", PARTS.join(", ")),
                };
                return Err(format!("unknown key `{}`: {hint}", Escaped(key)));
            }
        }
    }
    Ok(condition)
}

/// A list, or one entry.
pub(super) fn list<T>(value: &Toml, read: impl Fn(&Toml) -> Result<T, String>) -> Result<Vec<T>, String> {
    match value {
        Toml::Array(items) if items.is_empty() => Err("an empty list matches nothing: give it an entry".to_owned()),
        Toml::Array(items) => items.iter().map(read).collect(),
        item => Ok(vec![read(item)?]),
    }
}

fn kinds() -> impl Iterator<Item = EventKind> {
    (1..=i32::from(u8::MAX)).map_while(|number| EventKind::try_from(number).ok())
}

fn read_kind(value: &Toml) -> Result<EventKind, String> {
    kinds().find(|kind| value.as_str() == Some(kind.name())).ok_or_else(|| {
        let names: Vec<&str> = kinds().map(EventKind::name).collect();
        let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
        format!("expected {}, not {}{}", quoted.join(" or "), name_of(value), meant(value, &names))
    })
}

fn read_severity(value: &Toml) -> Result<u8, String> {
    let number = match value {
        Toml::String(name) => severity_from_name(name),
        Toml::Integer(number) => u64::try_from(*number).ok().filter(|number| *number > 0),
        _ => None,
    };
    let number =
        number.and_then(|number| u8::try_from(number).ok()).filter(|number| i32::from(*number) <= SEVERITY_MAX);
    number.ok_or_else(|| {
        format!(
            "expected \"trace\", \"debug\", \"info\", \"warn\", \"error\", \"fatal\", or 1 to {SEVERITY_MAX}, not {}{}",
            name_of(value),
            meant(value, &SEVERITIES)
        )
    })
}

const SEVERITIES: [&str; 6] = ["trace", "debug", "info", "warn", "error", "fatal"];

/// `; did you mean "warn"?` for `warning`: a text with a typing error, or of which one is the beginning of the other.
fn meant(value: &Toml, names: &[&str]) -> String {
    let Toml::String(text) = value else { return String::new() };
    let text = text.to_ascii_lowercase();
    let is_begun = |name: &&&str| text.len() > 2 && (text.starts_with(**name) || name.starts_with(&text));
    let name = nearest(&text, names).or_else(|| names.iter().find(is_begun).copied());
    name.map(|name| format!("; did you mean \"{name}\"?")).unwrap_or_default()
}

/// A pattern for texts of at most `bytes_max`.
pub(super) fn read_glob(value: &Toml, bytes_max: usize) -> Result<Glob, String> {
    let Toml::String(text) = value else {
        return Err(format!("expected a pattern, such as \"api-*\", not {}", name_of(value)));
    };
    let glob = Glob::new(text).map_err(|error| error.to_string())?;
    if glob.bytes_min() > bytes_max {
        let bytes = glob.bytes_min();
        return Err(format!("a pattern of {bytes} bytes can never match: there are at most {bytes_max}"));
    }
    Ok(glob)
}

fn read_name(value: &Toml) -> Result<Glob, String> {
    read_glob(value, EVENT_NAME_BYTES_MAX)
}

fn read_source(value: &Toml) -> Result<Glob, String> {
    let glob = read_glob(value, EVENT_NAME_BYTES_MAX)?;
    match glob.exact() {
        Some("") => Err("an empty pattern can never match: every event has a source".to_owned()),
        _ => Ok(glob),
    }
}

/// Attributes by key; those in tables have keys with dots, as those of events.
fn read_attributes(prefix: &str, table: &toml::Table, out: &mut Vec<AttributeCondition>) -> Result<(), String> {
    for (key, value) in table {
        let key = format!("{prefix}{key}");
        match value {
            Toml::Table(table) if !table.is_empty() => read_attributes(&format!("{key}."), table, out)?,
            _ => {
                if key.is_empty() || key.len() > ATTRIBUTE_KEY_BYTES_MAX {
                    let bytes = key.len();
                    return Err(format!(
                        "a key of {bytes} bytes can never match: they have 1 to {ATTRIBUTE_KEY_BYTES_MAX}"
                    ));
                }
                let any_of = list(value, read_test);
                let any_of = any_of.map_err(|why| format!("{}: {why}", Escaped(&key)))?;
                out.push(AttributeCondition { key, any_of });
            }
        }
    }
    Ok(())
}

fn read_test(value: &Toml) -> Result<AttributeTest, String> {
    match value {
        Toml::String(_) => {
            let glob = read_glob(value, EVENT_BYTES_MAX)?;
            Ok(if glob.matches_all() { AttributeTest::Present } else { AttributeTest::Text(glob) })
        }
        Toml::Integer(number) => Ok(AttributeTest::Integer(*number)),
        Toml::Float(number) if number.is_nan() => Err("nan equals no number".to_owned()),
        Toml::Float(number) => Ok(AttributeTest::Number(*number)),
        Toml::Boolean(flag) => Ok(AttributeTest::Flag(*flag)),
        other => Err(format!("expected a pattern, a number, true or false, not {}", name_of(other))),
    }
}
