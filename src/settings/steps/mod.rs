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
//! | `aggregate` | what counters and gauges are aggregated by, and to what |
//! | `inline` | nested values of the settings file as text |
//!
//! **A new step** has its rows here and in `config::table`, a variant of [`StepForm`] for each new kind of value, and a field in
//! [`StepSettings`].

mod aggregate;
mod condition;
pub mod inline;
pub mod redact;
mod sample;
#[cfg(test)]
mod tests;

pub use aggregate::{AggregateBy, AggregateSettings, GaugeStatistic};
pub use condition::{AttributeCondition, AttributeTest, Condition};
pub use redact::RedactRule;
pub use sample::{SampleBy, SampleSettings};

use super::setting::{Applies, Form, Setting, Value};

/// The row of `include`.
pub const INCLUDE: Setting = Setting {
    key: "include",
    applies: Applies::OnReload,
    default: Value::nested("[]"),
    form: Form::Step(StepForm::Conditions),
    doc: "Conditions, such as [{ kinds = [\"log\"], severity = \"warn\" }]: the sink gets only events that meet at \
          least one of them. Empty: all events. See docs/shaping.md.",
};

/// The row of `exclude`.
pub const EXCLUDE: Setting = Setting {
    key: "exclude",
    applies: Applies::OnReload,
    default: Value::nested("[]"),
    form: Form::Step(StepForm::Conditions),
    doc: "Conditions, such as [{ name = [\"healthcheck\"] }]: the sink gets no event that meets one of them. Empty: \
          nothing is left out.",
};

/// The row of `sample.keep`.
pub const SAMPLE_KEEP: Setting = Setting {
    key: "sample.keep",
    applies: Applies::OnReload,
    default: Value::text(""),
    form: Form::Step(StepForm::SampleKeep),
    doc: "Which part of the logs and spans the sink gets, such as \"1/10\". The kept events have the attribute \
          sample_rate. Events of other kinds always pass. Empty: all.",
};

/// The row of `sample.by`.
pub const SAMPLE_BY: Setting = Setting {
    key: "sample.by",
    applies: Applies::OnReload,
    default: Value::text("trace_id"),
    form: Form::Step(StepForm::SampleBy),
    doc: "What decides together whether it is kept: \"trace_id\" (a whole trace or nothing of it), \"source\", \
          \"name\", \"attributes.KEY\", or \"event\" for each event by itself. Events without it are decided each by \
          itself.",
};

/// The row of `sample.always`.
pub const SAMPLE_ALWAYS: Setting = Setting {
    key: "sample.always",
    applies: Applies::OnReload,
    default: Value::nested("[]"),
    form: Form::Step(StepForm::Conditions),
    doc: "Conditions, such as [{ severity = \"error\" }], or a single one: an event that meets one of them is kept, \
          and without the attribute sample_rate.",
};

/// The row of `redact`.
pub const REDACT: Setting = Setting {
    key: "redact",
    applies: Applies::OnReload,
    default: Value::nested("[]"),
    form: Form::Step(StepForm::Redact),
    doc: "Rules, such as [{ attributes = [\"password\", \"*.token\"], action = \"remove\" }]: what is removed, hashed or \
          masked before an event reaches the sink. See docs/shaping.md.",
};

/// The row of `collapse`.
pub const COLLAPSE: Setting = Setting {
    key: "collapse",
    applies: Applies::OnReload,
    default: Value::Flag(false),
    form: Form::Flag,
    doc: "true: logs, and spans, of one delivery that differ only in their time become one row with the attributes \
          repeated, first_time and last_time.",
};

/// The row of `aggregate.interval`.
pub const AGGREGATE_INTERVAL: Setting = Setting {
    key: "aggregate.interval",
    applies: Applies::OnReload,
    default: Value::text(""),
    form: Form::Step(StepForm::AggregateInterval),
    doc: "Such as \"10s\": the sink gets one row for each series of counters or gauges and each interval of event time. \
          Deliveries are gathered for this time too (batch.max_age, unless it is set for the sink); acknowledgements \
          of level delivered wait for that, so a longer one belongs with required = false. Empty: counters and gauges \
          as they came.",
};

/// The row of `aggregate.gauges`.
pub const AGGREGATE_GAUGES: Setting = Setting {
    key: "aggregate.gauges",
    applies: Applies::OnReload,
    default: Value::nested("[\"last\"]"),
    form: Form::Step(StepForm::AggregateGauges),
    doc: "What gauges are aggregated to: \"last\", \"min\", \"max\", \"avg\", \"count\". The first is the value of the \
          row, the others are attributes. Counters are summed.",
};

/// The row of `aggregate.by`.
pub const AGGREGATE_BY: Setting = Setting {
    key: "aggregate.by",
    applies: Applies::OnReload,
    default: Value::nested("[\"source\", \"name\", \"attributes\"]"),
    form: Form::Step(StepForm::AggregateBy),
    doc: "What tells series apart: \"source\", \"name\", \"attributes\" (all of them) or \"attributes.KEY\". Of a sink with \
          several shards it must contain \"source\".",
};

/// The row of `aggregate.max_series`.
pub const AGGREGATE_MAX_SERIES: Setting = Setting {
    key: "aggregate.max_series",
    applies: Applies::OnReload,
    default: Value::nested("10000"),
    form: Form::Step(StepForm::AggregateMaxSeries),
    doc: "Series of one delivery, each counted once per interval. When there are as many, the delivery is sent before \
          its time, and the interval has one more row per series.",
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
    /// A time.
    AggregateInterval,
    /// A list of statistics, or one.
    AggregateGauges,
    /// A list of fields, or one.
    AggregateBy,
    /// A number.
    AggregateMaxSeries,
}

impl StepForm {
    /// Whether the value is written as TOML tables or lists.
    pub fn is_nested(self) -> bool {
        !matches!(self, Self::SampleKeep | Self::SampleBy | Self::AggregateInterval)
    }

    /// What is accepted, in words.
    pub fn expected(self) -> &'static str {
        match self {
            Self::Conditions => "a list of conditions",
            Self::SampleKeep => "1/n with n from 1 to 1000000",
            Self::Redact => "a list of rules",
            Self::AggregateInterval => "a time, such as \"10s\"",
            Self::AggregateGauges => "a list of `last`, `min`, `max`, `avg`, `count`",
            Self::AggregateBy => "a list of `source`, `name`, `attributes`, `attributes.KEY`",
            Self::AggregateMaxSeries => "a whole number",
            Self::SampleBy => "`trace_id`, `source`, `name`, `attributes.KEY` or `event`",
        }
    }

    /// A value, as it is written in the settings file.
    pub fn example(self) -> &'static str {
        match self {
            Self::Conditions => "[{ kinds = [\"log\"], severity = \"warn\" }]",
            Self::SampleKeep => "\"1/10\"",
            Self::SampleBy => "\"source\"",
            Self::Redact => "[{ attributes = [\"password\"], action = \"remove\" }]",
            Self::AggregateInterval => "\"10s\"",
            Self::AggregateGauges => "[\"last\", \"max\"]",
            Self::AggregateBy => "[\"source\", \"name\"]",
            Self::AggregateMaxSeries => "10000",
        }
    }

    /// Checks a value. Empty: the step is off.
    ///
    /// # Errors
    /// What is wrong with it, and what is expected.
    pub fn check(self, text: &str) -> Result<(), String> {
        // A text without quotes, brackets and braces is not meant as TOML.
        let is_toml = text.trim_start().starts_with(['[', '{', '"', '\'']);
        let checked = match self {
            Self::Conditions => condition::read_all(text).map(|_| ()),
            Self::SampleKeep => sample::read_keep(text).map(|_| ()),
            Self::SampleBy => sample::read_by(text).map(|_| ()),
            Self::Redact => redact::read_all(text).map(|_| ()),
            Self::AggregateInterval => aggregate::read_interval(text).map(|_| ()),
            Self::AggregateGauges => aggregate::read_gauges(text).map(|_| ()),
            Self::AggregateBy => aggregate::read_by(text).map(|_| ()),
            Self::AggregateMaxSeries => aggregate::read_max_series(text).map(|_| ()),
        };
        checked.map_err(|why| match !is_toml && why.starts_with("invalid TOML") {
            true => format!("expected {}, such as {}", self.expected(), self.example()),
            false => why,
        })
    }
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
    /// Whether identical logs and spans become one.
    pub collapse: bool,
    /// `None`: counters and gauges stay as they came.
    pub aggregate: Option<AggregateSettings>,
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
        if keep.is_none() {
            let of_by = (by != SampleBy::TraceId).then_some("sample.by");
            if let Some(key) = (!always.is_empty()).then_some("sample.always").or(of_by) {
                return Err((key, "has no effect without sample.keep".to_owned()));
            }
        }
        let sample = keep.filter(|one_in| *one_in > 1).map(|one_in| SampleSettings { one_in, by, always });
        let (include, exclude) = (conditions("include")?, conditions("exclude")?);
        let redact = redact::read_all(value("redact").unwrap_or_default()).map_err(|why| ("redact", why))?;
        let collapse = value("collapse") == Some("true");
        let aggregate = Self::read_aggregate(value)?;
        Ok(Self { include, exclude, sample, redact, collapse, aggregate })
    }

    fn read_aggregate<'a>(
        value: impl Fn(&str) -> Option<&'a str>,
    ) -> Result<Option<AggregateSettings>, (&'static str, String)> {
        let text = |key: &str| value(key).unwrap_or_default();
        let of = |key: &'static str| move |why: String| (key, why);
        let interval = aggregate::read_interval(text("aggregate.interval")).map_err(of("aggregate.interval"))?;
        let gauges = aggregate::read_gauges(text("aggregate.gauges")).map_err(of("aggregate.gauges"))?;
        let by = aggregate::read_by(text("aggregate.by")).map_err(of("aggregate.by"))?;
        let max_series = text("aggregate.max_series");
        let max_series = aggregate::read_max_series(max_series).map_err(of("aggregate.max_series"))?;
        let Some(interval) = interval else {
            let defaults = [AGGREGATE_GAUGES, AGGREGATE_BY, AGGREGATE_MAX_SERIES];
            let given =
                defaults.into_iter().find(|row| value(row.key).is_some_and(|text| *text != row.default.to_string()));
            return match given {
                Some(row) => Err((row.key, "has no effect without aggregate.interval".to_owned())),
                None => Ok(None),
            };
        };
        Ok(Some(AggregateSettings { interval, gauges, by, max_series }))
    }

    /// Reads the files that the values name.
    ///
    /// # Errors
    /// The key, and what is wrong with a file.
    pub fn load_files(&mut self) -> Result<(), (&'static str, String)> {
        redact::load_keys(&mut self.redact).map_err(|why| ("redact", why))
    }
}
