//! How JSON is read that is not written for this server: what becomes of unknown keys, which agent's keys are renamed, in
//! which unit its times are.

use std::str::FromStr;

use super::json_map::{Preset, preset};

/// What becomes of top-level keys that no event has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnknownKeys {
    /// The event is rejected, and the message names the key that was meant.
    #[default]
    Reject,
    /// They become attributes.
    Attributes,
}

/// The agents and libraries whose keys are renamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Map {
    /// The `http` output of Fluent Bit.
    FluentBit,
    /// Vector; also python-json-logger and structlog.
    Vector,
    /// pino.
    Pino,
    /// zap, and `log/slog` of Go.
    Zap,
    /// The Elastic Common Schema, as Filebeat and the ECS libraries write it.
    Ecs,
    /// Files of Docker's `json-file` driver.
    Docker,
}

/// The unit of a time that is a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeUnit {
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Millis,
    /// Microseconds.
    Micros,
    /// Nanoseconds.
    Nanos,
}

/// How JSON is read. The default is the strict contract of this server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JsonOptions {
    /// Without a map: what becomes of unknown keys. With one they are always attributes.
    pub unknown: UnknownKeys,
    /// Whose keys are renamed.
    pub map: Option<Map>,
    /// The unit of numeric times; `None`: that of the map, else nanoseconds.
    pub time: Option<TimeUnit>,
}

impl JsonOptions {
    /// Whether events are read by the contract, but for unknown keys: the only ones that `json_quick` knows.
    pub(super) fn has_ordinary_events(&self) -> bool {
        self.map.is_none() && self.time.is_none()
    }
}

impl UnknownKeys {
    /// The names of all, as they are set.
    pub const NAMES: [&'static str; 2] = ["reject", "attributes"];
}

impl FromStr for UnknownKeys {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "reject" => Ok(Self::Reject),
            "attributes" => Ok(Self::Attributes),
            _ => Err("use reject or attributes"),
        }
    }
}

impl Map {
    /// Every map.
    pub const ALL: [Self; 6] = [Self::FluentBit, Self::Vector, Self::Pino, Self::Zap, Self::Ecs, Self::Docker];

    /// The name that selects it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FluentBit => "fluentbit",
            Self::Vector => "vector",
            Self::Pino => "pino",
            Self::Zap => "zap",
            Self::Ecs => "ecs",
            Self::Docker => "docker",
        }
    }

    /// Its renames.
    pub(super) fn preset(self) -> &'static Preset {
        preset(self)
    }
}

impl FromStr for Map {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let map = Self::ALL.into_iter().find(|map| map.name() == name);
        map.ok_or("use fluentbit, vector, pino, zap, ecs or docker")
    }
}

impl TimeUnit {
    /// Every unit, the longest first.
    pub const ALL: [Self; 4] = [Self::Seconds, Self::Millis, Self::Micros, Self::Nanos];

    /// The name that selects it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Seconds => "s",
            Self::Millis => "ms",
            Self::Micros => "us",
            Self::Nanos => "ns",
        }
    }

    /// Its name in a sentence.
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Seconds => "seconds",
            Self::Millis => "milliseconds",
            Self::Micros => "microseconds",
            Self::Nanos => "nanoseconds",
        }
    }

    /// Decimal digits between it and a nanosecond.
    pub(super) const fn digits(self) -> u32 {
        match self {
            Self::Seconds => 9,
            Self::Millis => 6,
            Self::Micros => 3,
            Self::Nanos => 0,
        }
    }
}

impl FromStr for TimeUnit {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|unit| unit.name() == name).ok_or("use s, ms, us or ns")
    }
}
