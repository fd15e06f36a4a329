//! Settings of the steps of a sink: what of the stream it gets, and in what form. Text in, checked values out; `router::steps`
//! compiles them.
//!
//! ```text
//!  include = [{ kinds = ["log"], severity = "warn" }]       in [[sinks]]
//!  sinks.errors.include=[{ severity = "warn" }]              --set and environment: the same text
//!       └──▶ checked by its StepForm ──▶ Value::Nested (text) ──▶ StepSettings
//! ```
//!
//! | file | what it is |
//! |---|---|
//! | `condition` | conditions of `include`, `exclude` and `sample.always` |
//! | `sample` | which part is kept, and by what |
//! | `redact` | what is removed, hashed or masked |
//! | `inline` | nested values of the settings file as text |
//!
//! **A new step** has its rows here and in `table::SINK`, a variant of [`StepForm`] for each new kind of value, and a field in
//! [`StepSettings`].

mod condition;
pub(super) mod inline;
pub mod redact;
mod sample;
#[cfg(test)]
mod tests;

pub use condition::{AttributeCondition, AttributeTest, Condition};
pub use redact::RedactRule;
pub use sample::{SampleBy, SampleSettings};

use super::setting::{Form, Setting, Value};
use super::table::SINK;

/// The row of `include`.
pub(super) const INCLUDE: Setting = Setting {
    key: "include",
    default: Value::nested("[]"),
    form: Form::Step(StepForm::Conditions),
    doc: "Conditions, such as [{ kinds = [\"log\"], severity = \"warn\" }]: the sink gets only events that meet at \
          least one of them. Empty: all events. See docs/shaping.md.",
};

/// The row of `exclude`.
pub(super) const EXCLUDE: Setting = Setting {
    key: "exclude",
    default: Value::nested("[]"),
    form: Form::Step(StepForm::Conditions),
    doc: "Conditions, such as [{ name = [\"healthcheck\"] }]: the sink gets no event that meets one of them. Empty: \
          nothing is left out.",
};

/// The row of `sample.keep`.
pub(super) const SAMPLE_KEEP: Setting = Setting {
    key: "sample.keep",
    default: Value::text(""),
    form: Form::Step(StepForm::SampleKeep),
    doc: "Which part of the logs and spans the sink gets, such as \"1/10\". The kept events have the attribute \
          sample_rate. Metrics are never sampled. Empty: all.",
};

/// The row of `sample.by`.
pub(super) const SAMPLE_BY: Setting = Setting {
    key: "sample.by",
    default: Value::text("trace_id"),
    form: Form::Step(StepForm::SampleBy),
    doc: "What decides together whether it is kept: \"trace_id\" (a whole trace or nothing of it), \"source\", \
          \"name\", \"attributes.KEY\", or \"event\" for each event by itself. Events without it are decided each by \
          itself.",
};

/// The row of `sample.always`.
pub(super) const SAMPLE_ALWAYS: Setting = Setting {
    key: "sample.always",
    default: Value::nested("[]"),
    form: Form::Step(StepForm::Conditions),
    doc: "Conditions, such as [{ severity = \"error\" }], or a single one: an event that meets one of them is kept, \
          and without the attribute sample_rate.",
};

/// The row of `redact`.
pub(super) const REDACT: Setting = Setting {
    key: "redact",
    default: Value::nested("[]"),
    form: Form::Step(StepForm::Redact),
    doc: "Rules, such as [{ attributes = [\"password\", \"*.token\"], action = \"remove\" }]: what is removed, hashed or \
          masked before an event reaches the sink. See docs/shaping.md.",
};

/// What the settings of steps look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepForm {
    /// A list of conditions, or one.
    Conditions,
    /// `"1/10"`.
    SampleKeep,
    /// A field, or `"event"`.
    SampleBy,
    /// A list of rules, or one.
    Redact,
}

impl StepForm {
    /// Whether the value is written as TOML tables or lists.
    pub fn is_nested(self) -> bool {
        matches!(self, Self::Conditions | Self::Redact)
    }

    /// What is accepted, in words.
    pub fn expected(self) -> &'static str {
        match self {
            Self::Conditions => "a list of conditions",
            Self::SampleKeep => "1/n with n from 1 to 1000000",
            Self::Redact => "a list of rules",
            Self::SampleBy => "`trace_id`, `source`, `name`, `attributes.KEY` or `event`",
        }
    }

    /// Checks a value. Empty: the step is off.
    ///
    /// # Errors
    /// What is wrong with it, and what is expected.
    pub fn check(self, text: &str) -> Result<(), String> {
        match self {
            Self::Conditions => condition::read_all(text).map(|_| ()),
            Self::SampleKeep => sample::read_keep(text).map(|_| ()),
            Self::SampleBy => sample::read_by(text).map(|_| ()),
            Self::Redact => redact::read_all(text).map(|_| ()),
        }
    }
}

/// Whether the values of this key of a sink are kept as text, and not as a value for each key in them.
pub(super) fn is_nested(key: &str) -> bool {
    SINK.iter().any(|row| row.key == key && matches!(row.form, Form::Step(form) if form.is_nested()))
}

/// The steps of one sink.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepSettings {
    /// An event has to meet one of these; empty: all events pass.
    pub include: Vec<Condition>,
    /// An event may meet none of these.
    pub exclude: Vec<Condition>,
    /// `None`: all events are kept.
    pub sample: Option<SampleSettings>,
    /// What is changed of the events.
    pub redact: Vec<RedactRule>,
}

impl StepSettings {
    /// The settings with these values, by key; a key without one has its default.
    ///
    /// # Errors
    /// The key, and what is wrong with its value: also what a value says of another one.
    pub fn read<'a>(value: impl Fn(&str) -> Option<&'a str>) -> Result<Self, (&'static str, String)> {
        let conditions = |key: &'static str| match value(key) {
            Some(text) => condition::read_all(text).map_err(|why| (key, why)),
            None => Ok(Vec::new()),
        };
        let always = conditions("sample.always")?;
        let by = sample::read_by(value("sample.by").unwrap_or_default()).map_err(|why| ("sample.by", why))?;
        let keep = sample::read_keep(value("sample.keep").unwrap_or_default()).map_err(|why| ("sample.keep", why))?;
        if keep.is_none() && !always.is_empty() {
            return Err(("sample.always", "has no effect without sample.keep".to_owned()));
        }
        let sample = keep.filter(|one_in| *one_in > 1).map(|one_in| SampleSettings { one_in, by, always });
        let (include, exclude) = (conditions("include")?, conditions("exclude")?);
        let redact = redact::read_all(value("redact").unwrap_or_default()).map_err(|why| ("redact", why))?;
        Ok(Self { include, exclude, sample, redact })
    }

    /// Reads the files that the values name.
    ///
    /// # Errors
    /// The key, and what is wrong with a file.
    pub fn load_files(&mut self) -> Result<(), (&'static str, String)> {
        redact::load_keys(&mut self.redact).map_err(|why| ("redact", why))
    }
}
