//! One setting: its key, default, form and meaning. Text in, checked value out, and back.
//!
//! The rows themselves are in `config/table.rs` and, for the keys of one kind of sink, in that sink's `settings.rs`.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;

use super::hosts::Hosts;
use super::networks::Networks;
use super::steps::StepForm;
use super::url::{Url, Urls, is_placeholder, not_a_url};
use crate::escape::is_escaped;

/// What is expected where a value is only the sign for a hidden secret.
pub const SECRET_ITSELF: &str =
    "the secret itself: *** stands for it in the output of `telemetryx config`; write it here";

/// A row of the table of settings. Its key is relative to its section.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Relative to its section or sink.
    pub key: &'static str,
    /// When a changed value takes effect.
    pub applies: Applies,
    /// The value if no layer sets one.
    pub default: Value,
    /// What a value must look like.
    pub form: Form,
    /// What it does, in full sentences; printed into the documented file and `docs/configuration.md`.
    pub doc: &'static str,
}

/// When a changed value takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applies {
    /// When the settings are read again (SIGHUP, `telemetryx reload`). `server/reload.rs` puts it in force.
    OnReload,
    /// When the server is started again.
    OnRestart,
}

impl Applies {
    /// As `docs/configuration.md` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::OnReload => "reload",
            Self::OnRestart => "restart",
        }
    }
}

/// What a value must look like. Bounds are inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `true` or `false`.
    Flag,
    /// A plain integer.
    Count {
        /// Lowest value.
        min: u64,
        /// Highest value.
        max: u64,
    },
    /// A number of bytes, `"4MiB"` or a plain integer.
    Bytes {
        /// Fewest bytes.
        min: u64,
        /// Most bytes.
        max: u64,
    },
    /// A time with its unit, `"10s"`.
    Duration {
        /// Shortest time.
        min: Duration,
        /// Longest time.
        max: Duration,
    },
    /// A time, or a word in its place.
    DurationOr {
        /// The word, such as `off`.
        word: &'static str,
        /// Shortest time.
        min: Duration,
        /// Longest time.
        max: Duration,
        /// A time, where the default is the word.
        example: &'static str,
    },
    /// IP address and port.
    Address,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A file or directory. Empty where the default is empty: none. [`DATA_DIR`] in a default follows `data_dir`.
    Path,
    /// Text that is never shown. It may also come from the file that `<key>_file` names.
    Secret,
    /// A table of texts that are never shown; their names are free. In the environment, which has no
    /// dashes, `_` in a name stands for one.
    Secrets,
    /// Text; the kind of sink checks it.
    Text,
    /// Where a store is. Shown without what may be secret in it; it may also come from the file that `<key>_file` names.
    Url,
    /// As [`Form::Url`], several.
    Urls,
    /// Of a step of a sink.
    Step(StepForm),
    /// Host names.
    Hosts,
    /// Addresses and networks in CIDR notation.
    Networks,
}

impl Form {
    /// Whether `<key>_file` may name a file that holds the value.
    pub fn is_secret(self) -> bool {
        matches!(self, Self::Secret | Self::Url | Self::Urls)
    }

    /// A value of this form as it may be shown.
    pub fn shown(self, value: &Value) -> String {
        match (self, value) {
            (Self::Secret, Value::Text(text)) if text.is_empty() => value.to_string(),
            (Self::Secret, _) => "\"***\"".to_owned(),
            (Self::Url, Value::Text(url)) => Value::Text(Url::new(&**url).to_string().into()).to_string(),
            (Self::Urls, Value::Text(urls)) => Value::Text(Urls::new(urls).to_string().into()).to_string(),
            // In a wrong place.
            (_, Value::Text(text)) => Value::Text(not_a_url(text).to_owned().into()).to_string(),
            _ => value.to_string(),
        }
    }
}

/// A password, token or key: never shown.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// A secret with this text.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// To log in with, not to show.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("***")
    }
}

/// Stands for the value of `data_dir` in the default of another path.
pub(super) const DATA_DIR: &str = "{data_dir}";

/// A checked value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Of [`Form::Flag`].
    Flag(bool),
    /// Of [`Form::Count`].
    Count(u64),
    /// Of [`Form::Bytes`].
    Bytes(u64),
    /// Of [`Form::Duration`].
    Duration(Duration),
    /// Of all forms that are text.
    Text(Cow<'static, str>),
    /// TOML with lists and tables in it.
    Nested(Cow<'static, str>),
    /// A table without entries. Each entry is a value of its own.
    Empty,
}

/// A value as a layer gave it, `${VAR}` already replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Raw {
    /// A TOML string, or the text of an environment variable or of `--set`.
    Text(String),
    /// A TOML integer.
    Integer(i64),
    /// A TOML boolean.
    Flag(bool),
    /// Several texts.
    List(Vec<String>),
    /// The TOML of a value with lists and tables in it.
    Nested(String),
    /// A TOML type that no setting has, named with its article.
    Other(&'static str),
    /// A section without keys.
    Table,
}

impl Value {
    /// For the rows of a table of settings.
    pub const fn text(text: &'static str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }

    /// For the rows of a table of settings: the TOML of a list or table.
    pub const fn nested(text: &'static str) -> Self {
        Self::Nested(Cow::Borrowed(text))
    }

    /// The default of a path, with `data_dir` in its place.
    pub fn within(&self, data_dir: &str) -> Self {
        match self {
            Self::Text(path) => Self::Text(path.replace(DATA_DIR, data_dir.trim_end_matches('/')).into()),
            other => other.clone(),
        }
    }

    /// Whether the default is another where `data_dir` is.
    pub fn follows_data_dir(&self) -> bool {
        matches!(self, Self::Text(path) if path.contains(DATA_DIR))
    }

    /// As serde takes it. A duration becomes the fields of `std::time::Duration`, so that a settings type is a plain
    /// struct with a derived `Deserialize`.
    pub(super) fn to_toml(&self) -> toml::Value {
        let integer = |number: u64| toml::Value::Integer(i64::try_from(number).unwrap_or(i64::MAX));
        match self {
            Self::Flag(flag) => toml::Value::Boolean(*flag),
            Self::Count(number) | Self::Bytes(number) => integer(*number),
            Self::Duration(time) => toml::Value::Table(toml::Table::from_iter([
                ("secs".to_owned(), integer(time.as_secs())),
                ("nanos".to_owned(), integer(time.subsec_nanos().into())),
            ])),
            Self::Text(text) | Self::Nested(text) => toml::Value::String(text.clone().into_owned()),
            Self::Empty => toml::Value::Table(toml::Table::new()),
        }
    }
}

/// The value as it is written in a settings file.
impl fmt::Display for Value {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(out, "{flag}"),
            Self::Count(number) => write!(out, "{number}"),
            Self::Bytes(bytes) => write!(out, "\"{}\"", format_bytes(*bytes)),
            Self::Duration(time) => write!(out, "\"{}\"", format_duration(*time)),
            Self::Text(text) => quote(out, text),
            Self::Nested(text) => out.write_str(text),
            Self::Empty => out.write_str("{}"),
        }
    }
}

impl fmt::Display for Raw {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => quote(out, not_a_url(text)),
            Self::Integer(number) => write!(out, "{number}"),
            Self::Flag(flag) => write!(out, "{flag}"),
            Self::List(_) => write!(out, "a list"),
            Self::Nested(text) => out.write_str(text),
            Self::Other(what) => write!(out, "{what}"),
            Self::Table => write!(out, "a section"),
        }
    }
}

/// A TOML basic string.
fn quote(out: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    use fmt::Write;
    out.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' | '\\' => write!(out, "\\{c}")?,
            '\n' => out.write_str("\\n")?,
            '\t' => out.write_str("\\t")?,
            c if is_escaped(c) && u32::from(c) <= 0xFFFF => write!(out, "\\u{:04X}", u32::from(c))?,
            c if is_escaped(c) => write!(out, "\\U{:08X}", u32::from(c))?,
            c => out.write_char(c)?,
        }
    }
    out.write_char('"')
}

impl Setting {
    /// Checks `raw` against the form; the error is what was expected instead.
    pub fn parse(&self, raw: &Raw) -> Result<Value, String> {
        let hidden = match raw {
            Raw::Text(text) => is_placeholder(text),
            Raw::List(texts) => texts.iter().any(|text| is_placeholder(text)),
            _ => false,
        };
        if let Form::Step(form) = self.form {
            return self.parse_step(form, raw);
        }
        if hidden && self.form.is_secret() {
            return Err(format!("{SECRET_ITSELF}, or name a file that contains it with {}_file", self.key));
        }
        self.parse_form(raw).ok_or_else(|| match (self.form, raw) {
            // The value is not repeated: a URI may hold a secret.
            (Form::Path, Raw::Text(text)) if !text.is_empty() => {
                "a path: \":memory:\" and URIs are not supported (put \"./\" before it if a file has this name)"
                    .to_owned()
            }
            (Form::Bytes { .. }, Raw::Text(text)) if begins_with_digit(text) && parse_bytes(text).is_none() => format!(
                "{} (a whole number; units are B, KiB, MiB, GiB and TiB, each 1,024 of the one before)",
                self.expected()
            ),
            (Form::Duration { .. } | Form::DurationOr { .. }, Raw::Text(text))
                if begins_with_digit(text) && parse_duration(text).is_none() =>
            {
                format!("{} {TIME_UNITS_NAMED}", self.expected())
            }
            (Form::Duration { .. } | Form::DurationOr { .. }, Raw::Integer(_)) => {
                format!("{} {TIME_UNITS_NAMED}", self.expected())
            }
            _ => self.expected(),
        })
    }

    /// Checks a setting of a step; the error is what is wrong with it.
    fn parse_step(&self, form: StepForm, raw: &Raw) -> Result<Value, String> {
        let number;
        let text = match raw {
            Raw::Text(text) | Raw::Nested(text) => text,
            Raw::Integer(given) if form == StepForm::AggregateMaxSeries => {
                number = given.to_string();
                &number
            }
            _ => return Err(format!("expected {}, not {raw}", form.expected())),
        };
        form.check(text)?;
        Ok(match (form.is_nested(), text.trim()) {
            (true, "") => self.default.clone(),
            (true, text) => Value::Nested(Cow::Owned(text.to_owned())),
            (false, _) => Value::Text(Cow::Owned(text.clone())),
        })
    }

    fn parse_form(&self, raw: &Raw) -> Option<Value> {
        let number = || match raw {
            Raw::Integer(number) => u64::try_from(*number).ok(),
            Raw::Text(text) => text.parse().ok(),
            _ => None,
        };
        let text = || match raw {
            Raw::Text(text) => Some(text.as_str()),
            _ => None,
        };
        let own = |text: &str| Some(Value::Text(Cow::Owned(text.to_owned())));
        match self.form {
            Form::Flag => match raw {
                Raw::Flag(flag) => Some(Value::Flag(*flag)),
                _ => text()?.parse().ok().map(Value::Flag),
            },
            Form::Count { min, max } => number().filter(|count| (min..=max).contains(count)).map(Value::Count),
            Form::Bytes { min, max } => {
                number().or_else(|| parse_bytes(text()?)).filter(|bytes| (min..=max).contains(bytes)).map(Value::Bytes)
            }
            Form::Duration { min, max } => {
                parse_duration(text()?).filter(|time| (min..=max).contains(time)).map(Value::Duration)
            }
            Form::DurationOr { word, .. } if text() == Some(word) => Some(Value::text(word)),
            Form::DurationOr { min, max, .. } => {
                parse_duration(text()?).filter(|time| (min..=max).contains(time)).map(Value::Duration)
            }
            Form::Address => text().filter(|text| text.parse::<SocketAddr>().is_ok()).and_then(own),
            Form::Choice(names) => text().filter(|text| names.contains(text)).and_then(own),
            Form::Path => text().filter(|text| self.is_path(text)).and_then(own),
            Form::Secret | Form::Text => text().and_then(own),
            Form::Step(_) => None,
            Form::Secrets => matches!(raw, Raw::Table).then_some(Value::Empty),
            Form::Url => text().and_then(own),
            Form::Urls => match raw {
                // A list is written with commas from here on.
                Raw::List(urls) => own(&urls.join(",")),
                _ => text().and_then(own),
            },
            Form::Hosts => {
                let list = match raw {
                    Raw::List(names) => names.join(","),
                    _ => text()?.to_owned(),
                };
                own(&list).filter(|_| list.parse::<Hosts>().is_ok())
            }
            Form::Networks => {
                let list = match raw {
                    Raw::List(networks) => networks.join(","),
                    _ => text()?.to_owned(),
                };
                own(&list).filter(|_| list.parse::<Networks>().is_ok())
            }
        }
    }

    /// Whether this names a file or directory. What other programs take for something else would be a file of that name:
    /// `./file:x` is one.
    fn is_path(&self, text: &str) -> bool {
        let is_uri = text.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("file:"));
        let is_nothing = text.is_empty() && self.default != Value::text("");
        !(is_uri || is_nothing || text.eq_ignore_ascii_case(":memory:"))
    }

    /// A value, as it is written in the settings file: that of a step, or else the default.
    pub fn example(&self) -> String {
        match self.form {
            Form::Step(form) => form.example().to_owned(),
            _ => self.default.to_string(),
        }
    }

    /// The form in words: `a size from 1KiB to 16MiB, such as "1MiB"`.
    pub fn expected(&self) -> String {
        let default = &self.default;
        match self.form {
            Form::Flag => "true or false".to_owned(),
            Form::Count { min, max } => format!("a whole number from {min} to {max}"),
            Form::Bytes { min, max } => {
                format!("a size from {} to {}, such as {default}", format_bytes(min), format_bytes(max))
            }
            Form::Duration { min, max } => {
                format!("a time from {} to {}, such as {default}", format_duration(min), format_duration(max))
            }
            Form::DurationOr { word, min, max, example } => {
                let (min, max) = (format_duration(min), format_duration(max));
                format!("\"{word}\" or a time from {min} to {max}, such as \"{example}\"")
            }
            Form::Address => format!("an IP address and port, such as {default}"),
            Form::Choice(names) => {
                let names: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
                names.join(" or ")
            }
            Form::Path => "a path".to_owned(),
            Form::Secret | Form::Text => "text".to_owned(),
            Form::Secrets => "a table of texts".to_owned(),
            Form::Step(form) => form.expected().to_owned(),
            Form::Url => "a URL".to_owned(),
            Form::Urls => "URLs, as a list or with commas between them".to_owned(),
            Form::Hosts => "host names without a port, such as [\"telemetry.example\"]".to_owned(),
            Form::Networks => "addresses and networks, such as [\"10.0.0.0/8\", \"::1\"]".to_owned(),
        }
    }
}

const BYTE_UNITS: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// `"64MiB"`: a whole number and a binary unit.
fn parse_bytes(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text)?;
    let (_, factor) = BYTE_UNITS.into_iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(factor)
}

fn format_bytes(bytes: u64) -> String {
    let fits = |(_, factor): &(&str, u64)| bytes >= *factor && bytes.is_multiple_of(*factor);
    let (unit, factor) = BYTE_UNITS.into_iter().find(fits).unwrap_or(("B", 1));
    format!("{}{unit}", bytes / factor)
}

const TIME_UNITS_NAMED: &str = "(a whole number; units are ms, s, m, h and d)";
const TIME_UNITS_MS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// `"50ms"`: a whole number and a unit.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split_unit(text)?;
    let (_, factor) = TIME_UNITS_MS.into_iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(factor).map(Duration::from_millis)
}

/// As [`parse_duration`] reads it.
pub fn format_duration(time: Duration) -> String {
    let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    if ms == 0 {
        return "0s".to_owned();
    }
    // Days only from a week on: "24h" is how people say it.
    let fits = |(unit, factor): &(&str, u64)| {
        ms >= *factor && ms.is_multiple_of(*factor) && (*unit != "d" || ms >= 7 * factor)
    };
    let (unit, factor) = TIME_UNITS_MS.into_iter().find(fits).unwrap_or(("ms", 1));
    format!("{}{unit}", ms / factor)
}

fn begins_with_digit(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
}

fn split_unit(text: &str) -> Option<(u64, &str)> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    Some((number.parse().ok()?, unit.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Setting = Setting {
        key: "size",
        applies: Applies::OnRestart,
        default: Value::Bytes(1 << 20),
        form: Form::Bytes { min: 1, max: u64::MAX },
        doc: "",
    };
    const TIME: Setting = Setting {
        key: "time",
        applies: Applies::OnRestart,
        default: Value::Duration(Duration::from_millis(50)),
        form: Form::Duration { min: Duration::ZERO, max: Duration::from_secs(30 * 86_400) },
        doc: "",
    };

    #[test]
    fn sizes_are_read_and_written_in_binary_units() {
        for (text, bytes, written) in [
            ("64MiB", 64 << 20, "\"64MiB\""),
            ("4 MiB", 4 << 20, "\"4MiB\""),
            ("1024", 1024, "\"1KiB\""),
            ("1025B", 1025, "\"1025B\""),
            ("2TiB", 2 << 40, "\"2TiB\""),
        ] {
            let value = SIZE.parse(&Raw::Text(text.to_owned()));
            assert_eq!(value, Ok(Value::Bytes(bytes)), "{text}");
            assert_eq!(Value::Bytes(bytes).to_string(), written);
        }
        assert_eq!(SIZE.parse(&Raw::Integer(7)), Ok(Value::Bytes(7)));
        for text in ["", "MiB", "1MB", "-1", "1.5MiB", "99999999TiB", "1MiB1"] {
            assert!(SIZE.parse(&Raw::Text(text.to_owned())).is_err(), "{text}");
        }
        assert!(SIZE.parse(&Raw::Integer(-7)).is_err());
    }

    #[test]
    fn durations_need_a_unit() {
        for (text, ms, written) in [
            ("50ms", 50, "\"50ms\""),
            ("10s", 10_000, "\"10s\""),
            ("1500ms", 1_500, "\"1500ms\""),
            ("24h", 86_400_000, "\"24h\""),
            ("7d", 604_800_000, "\"7d\""),
            ("0s", 0, "\"0s\""),
        ] {
            let time = Duration::from_millis(ms);
            assert_eq!(TIME.parse(&Raw::Text(text.to_owned())), Ok(Value::Duration(time)), "{text}");
            assert_eq!(Value::Duration(time).to_string(), written);
        }
        for text in ["", "10", "s", "1.5s", "1w", "99999999999999999999s"] {
            assert!(TIME.parse(&Raw::Text(text.to_owned())).is_err(), "{text}");
        }
        assert!(TIME.parse(&Raw::Integer(10)).is_err());
    }

    #[test]
    fn a_word_may_stand_for_a_duration() {
        let (min, max) = (Duration::from_secs(1), Duration::from_secs(86_400));
        let form = Form::DurationOr { word: "forever", min, max, example: "12h" };
        let keep = Setting { key: "keep", applies: Applies::OnRestart, default: Value::text("forever"), form, doc: "" };
        let parse = |text: &str| keep.parse(&Raw::Text(text.to_owned()));
        assert_eq!(parse("forever"), Ok(Value::text("forever")));
        assert_eq!(parse("2h"), Ok(Value::Duration(Duration::from_secs(7200))));
        let expected = "\"forever\" or a time from 1s to 24h, such as \"12h\"";
        for wrong in ["", "never", "2d", "0s"] {
            assert_eq!(parse(wrong), Err(expected.to_owned()), "{wrong}");
        }
        assert_eq!(parse("7"), Err(format!("{expected} {TIME_UNITS_NAMED}")));
    }

    #[test]
    fn text_is_quoted_as_toml() {
        let text = "a \"b\" \\ \n \u{1} \u{9b} \u{202e} \u{e0041}";
        let document = format!("key = {}", Value::Text(text.into()));
        let table: toml::Table = toml::from_str(&document).unwrap();
        assert_eq!(table["key"].as_str(), Some(text));
        assert!(!document.contains(is_escaped), "{document}");
    }
}
