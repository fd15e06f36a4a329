//! The query of a POST of events: the level of its answer, and how its JSON is read.

use std::str::FromStr;

use super::response::Refusal;
use crate::event::{JsonOptions, Map, TimeUnit, UnknownKeys};
use crate::wire::AckLevel;

const PARAMETERS: &str = "the query may have the parameters `ack`, `map`, `time` and `unknown`, each once";

/// The parameters of a query. `None`: it does not have this one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Query {
    /// `?ack=`.
    pub level: Option<AckLevel>,
    /// `?unknown=`.
    unknown: Option<UnknownKeys>,
    /// `?map=`.
    map: Option<Map>,
    /// `?time=`.
    time: Option<TimeUnit>,
}

impl Query {
    /// An unknown parameter is refused: a misspelt `ack` would promise less than was asked for. No value needs
    /// percent-encoding; one that has some is unknown.
    ///
    /// # Errors
    /// 400 that names the parameters or values that there are.
    pub(super) fn read(query: Option<&str>) -> Result<Self, Refusal> {
        let mut read = Self::default();
        for parameter in query.unwrap_or_default().split('&').filter(|parameter| !parameter.is_empty()) {
            match parameter.split_once('=') {
                Some(("ack", level)) if read.level.is_none() => {
                    read.level = Some(level.parse().map_err(|_| {
                        Refusal::malformed("unknown ack level: use ?ack=received, written, synced or delivered")
                    })?);
                }
                Some(("unknown", value)) if read.unknown.is_none() => read.unknown = Some(parse("unknown", value)?),
                Some(("map", value)) if read.map.is_none() => read.map = Some(parse("map", value)?),
                Some(("time", value)) if read.time.is_none() => read.time = Some(parse("time", value)?),
                _ => return Err(Refusal::malformed(PARAMETERS)),
            }
        }
        if read.map.is_some() && read.unknown == Some(UnknownKeys::Reject) {
            return Err(Refusal::malformed("with `map`, unknown keys become attributes: leave out `unknown=reject`"));
        }
        Ok(read)
    }

    /// Whether it says how JSON is read.
    pub(super) fn is_about_json(&self) -> bool {
        self.unknown.is_some() || self.map.is_some() || self.time.is_some()
    }

    /// How JSON is read, where `unknown` is the default of the settings.
    pub(super) fn json(&self, unknown: UnknownKeys) -> JsonOptions {
        JsonOptions { unknown: self.unknown.unwrap_or(unknown), map: self.map, time: self.time }
    }
}

fn parse<T: FromStr<Err = &'static str>>(parameter: &str, value: &str) -> Result<T, Refusal> {
    // The value is the peer's: it is not repeated.
    value.parse().map_err(|next_step| Refusal::malformed(format!("unknown value of `{parameter}`: {next_step}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parameter_comes_once_with_a_value_that_exists() {
        let json = |query: &str| Query::read(Some(query)).unwrap().json(UnknownKeys::Reject);
        assert_eq!(json(""), JsonOptions::default());
        assert_eq!(json("unknown=attributes").unknown, UnknownKeys::Attributes);
        let pino = JsonOptions { map: Some(Map::Pino), time: Some(TimeUnit::Seconds), ..JsonOptions::default() };
        assert_eq!(json("map=pino&time=s&ack=synced"), pino);
        assert_eq!(Query::read(None).unwrap().json(UnknownKeys::Attributes).unknown, UnknownKeys::Attributes);
        for map in Map::ALL {
            assert_eq!(json(&format!("map={}&unknown=attributes", map.name())).map, Some(map));
        }
        for unit in TimeUnit::ALL {
            assert_eq!(json(&format!("time={}", unit.name())).time, Some(unit));
        }
        for name in UnknownKeys::NAMES {
            assert!(name.parse::<UnknownKeys>().is_ok());
        }
        for (query, error) in [
            ("map=PINO", "unknown value of `map`: use fluentbit, vector, pino, zap, ecs or docker"),
            ("map=", "unknown value of `map`: use fluentbit, vector, pino, zap, ecs or docker"),
            ("map", PARAMETERS),
            ("map=pino&map=zap", PARAMETERS),
            ("maps=pino", PARAMETERS),
            ("time=m", "unknown value of `time`: use s, ms, us or ns"),
            ("time=%6ds", "unknown value of `time`: use s, ms, us or ns"),
            ("time=s&time=s", PARAMETERS),
            ("unknown=drop", "unknown value of `unknown`: use reject or attributes"),
            ("map=pino&unknown=reject", "with `map`, unknown keys become attributes: leave out `unknown=reject`"),
        ] {
            assert_eq!(Query::read(Some(query)).unwrap_err().error, error, "{query}");
        }
    }
}
