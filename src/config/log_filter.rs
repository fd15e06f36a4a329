//! Which log lines are written: `log.filter`, or `TELEMETRYX_LOG` in the environment, a level or targets with levels.
//!
//! `tracing` takes any word for the name of a target: with `warning`, a level by another name, nothing at all would be
//! logged. Here levels and targets must be known ones.

use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, Targets};

use super::layers::Origin;
use super::resolve::Entry;
use super::table;
use crate::event::nearest::nearest;
use crate::glob::Glob;
use crate::settings::Value;

/// What is logged: a level, or targets with levels.
pub(super) const FILTER_VARIABLE: &str = "TELEMETRYX_LOG";

const LEVELS: &[&str] = &["error", "warn", "info", "debug", "trace", "off"];
/// What other programs call them.
const FOREIGN_LEVELS: &[(&str, &str)] = &[
    ("alert", "error"),
    ("all", "trace"),
    ("crit", "error"),
    ("critical", "error"),
    ("err", "error"),
    ("fatal", "error"),
    ("finest", "trace"),
    ("information", "info"),
    ("informational", "info"),
    ("none", "off"),
    ("notice", "info"),
    ("quiet", "off"),
    ("silent", "off"),
    ("verbose", "debug"),
    ("warning", "warn"),
];
/// The paths of all modules of this crate, from `build.rs`.
const MODULES: &[&str] = include!(concat!(env!("OUT_DIR"), "/modules.rs"));
/// Libraries that log. A test compares them with Cargo.lock.
const LIBRARIES: &[&str] =
    &["h2", "hyper_util", "mio", "postgres", "rustls", "tokio_postgres", "tonic", "tower", "ureq", "ureq_proto"];
const EXPECTED: &str = "expected a level (error, warn, info, debug, trace, off) or targets with levels, such as \
                        \"warn,telemetryx::net=debug\"";

/// Reads the names of agents, with commas between them.
///
/// # Errors
/// One is not a pattern.
pub fn agents(text: &str) -> Result<Vec<Glob>, String> {
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    names.map(|name| Glob::new(name).map_err(|error| error.to_string())).collect()
}

/// Names of agents that cannot be read become a problem.
pub(super) fn check_agents(entries: &[Entry], problems: &mut Vec<String>) {
    if let Some(Entry { key, value: Value::Text(text), origin, .. }) =
        entries.iter().find(|entry| entry.key == table::LOG_AGENTS)
        && let Err(why) = agents(text)
    {
        problems.push(format!("{origin}: {key}: {why}"));
    }
}

/// A checked filter.
#[derive(Debug, Clone, PartialEq)]
pub struct LogFilter(Targets);

impl Default for LogFilter {
    fn default() -> Self {
        Self(bounded(without_secrets(Targets::new().with_default(LevelFilter::INFO))))
    }
}

impl LogFilter {
    /// The filter of a setting's value; an empty one is the default: `info`.
    ///
    /// # Errors
    /// A level or target is unknown; names it, and what is expected.
    pub fn of(text: &str) -> Result<Self, String> {
        match text.trim() {
            "" => Ok(Self::default()),
            text => Self::parse(text).map_err(|why| format!("{why} ({EXPECTED})")),
        }
    }

    /// The filter of the settings. One that cannot be parsed becomes a problem.
    pub(super) fn of_entries(entries: &[Entry], problems: &mut Vec<String>) -> Self {
        let Some(Entry { value: Value::Text(text), origin, .. }) =
            entries.iter().find(|entry| entry.key == table::LOG_FILTER)
        else {
            return Self::default();
        };
        Self::of(text).unwrap_or_else(|why| {
            problems.push(match origin {
                Origin::Environment(variable) => format!("{variable}: {why}"),
                origin => format!("{origin}: {}: {why}", table::LOG_FILTER),
            });
            Self::default()
        })
    }

    /// Reads a level, targets, or both, separated by commas. A target without a level is logged in full.
    ///
    /// # Errors
    /// A level or target is unknown; names it and the nearest one.
    fn parse(text: &str) -> Result<Self, String> {
        let mut targets = Targets::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match part.split_once('=') {
                Some((target, level)) => {
                    let target = known_target(target.trim())?;
                    let found = level_named(level.trim());
                    let level = found.ok_or_else(|| unknown("level", level.trim(), nearest_level(level.trim())))?;
                    targets = targets.with_target(target, level);
                }
                None => match level_named(part) {
                    Some(level) => targets = targets.with_default(level),
                    None if is_target(part) => targets = targets.with_target(part, LevelFilter::TRACE),
                    None => {
                        let meant = nearest_level(part).or_else(|| nearest_target(part));
                        return Err(unknown("level or target", part, meant));
                    }
                },
            }
        }
        Ok(Self(bounded(without_secrets(targets))))
    }

    /// For the subscriber.
    pub fn into_targets(self) -> Targets {
        self.0
    }
}

fn level_named(name: &str) -> Option<LevelFilter> {
    LEVELS.iter().find(|level| level.eq_ignore_ascii_case(name))?.parse().ok()
}

fn nearest_level(name: &str) -> Option<&'static str> {
    let foreign = FOREIGN_LEVELS.iter().find(|(foreign, _)| foreign.eq_ignore_ascii_case(name));
    foreign.map(|(_, level)| *level).or_else(|| nearest(name, LEVELS))
}

/// Whether something may be logged under this name: a module of this crate, a library that logs, or a part of it.
fn is_target(name: &str) -> bool {
    let library = name.split("::").next().unwrap_or_default();
    MODULES.contains(&name) || LIBRARIES.contains(&library)
}

fn known_target(name: &str) -> Result<&str, String> {
    if is_target(name) { Ok(name) } else { Err(unknown("target", name, nearest_target(name))) }
}

fn nearest_target(name: &str) -> Option<&'static str> {
    // `net` for `telemetryx::net`.
    let full = MODULES.iter().find(|module| module.strip_prefix("telemetryx::") == Some(name)).copied();
    full.or_else(|| {
        let names: Vec<&str> = MODULES.iter().chain(LIBRARIES).copied().collect();
        nearest(name, &names)
    })
}

fn unknown(what: &str, name: &str, meant: Option<&str>) -> String {
    let hint = meant.map_or_else(String::new, |meant| format!(": did you mean \"{meant}\"?"));
    format!("unknown {what} \"{name}\"{hint}")
}

/// The HTTP client logs every byte that it sends at this level, and with them tokens: it goes no further than `debug`.
fn without_secrets(filter: Targets) -> Targets {
    const CLIENT: &str = "ureq";
    let cap = |target: &str, level: LevelFilter| {
        if target.starts_with(CLIENT) { level.min(LevelFilter::DEBUG) } else { level }
    };
    let capped: Targets = filter.iter().map(|(target, level)| (target.to_owned(), cap(target, level))).collect();
    let capped = capped.with_default(filter.default_level().unwrap_or(LevelFilter::OFF));
    if capped.would_enable(CLIENT, &Level::TRACE) { capped.with_target(CLIENT, LevelFilter::DEBUG) } else { capped }
}

/// The TLS library warns about what peers send, each time, and our own lines about it are limited: unless it is named, only its errors
/// are logged.
fn bounded(filter: Targets) -> Targets {
    const TLS: &str = "rustls";
    let is_named = filter.iter().any(|(target, _)| target.split("::").next() == Some(TLS));
    let level = filter.default_level().unwrap_or(LevelFilter::OFF);
    if is_named { filter } else { filter.with_target(TLS, level.min(LevelFilter::ERROR)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> Targets {
        LogFilter::parse(text).unwrap().into_targets()
    }

    #[test]
    fn what_would_show_tokens_is_not_logged_at_any_level() {
        for text in ["trace", "ureq=trace", "ureq_proto::util=trace", "info,ureq_proto=trace", "ureq"] {
            assert!(!filter(text).would_enable("ureq_proto::util", &Level::TRACE), "{text}");
        }
        assert!(filter("trace").would_enable("ureq::run", &Level::DEBUG));
        assert!(filter("trace").would_enable("telemetryx::net", &Level::TRACE));
        assert!(!filter("info,telemetryx::net=debug").would_enable("ureq::run", &Level::DEBUG));
        assert!(!filter("telemetryx=trace").would_enable("ureq::run", &Level::ERROR));
    }

    #[test]
    fn what_the_tls_library_says_of_peers_is_logged_only_where_it_is_named() {
        for text in ["warn", "info", "trace", "info,telemetryx::net=debug"] {
            assert!(!filter(text).would_enable("rustls::check", &Level::WARN), "{text}");
            assert!(filter(text).would_enable("rustls::common_state", &Level::ERROR), "{text}");
        }
        assert!(!LogFilter::default().into_targets().would_enable("rustls::check", &Level::WARN));
        assert!(!filter("off").would_enable("rustls", &Level::ERROR));
        for text in ["info,rustls=debug", "rustls", "off,rustls::check=warn"] {
            assert!(filter(text).would_enable("rustls::check", &Level::WARN), "{text}");
        }
    }

    #[test]
    fn levels_are_known_in_any_case_and_the_default_is_info() {
        for level in ["error", "WARN", "Info", "debug", "trace"] {
            assert!(filter(level).would_enable("telemetryx::net", &Level::ERROR), "{level}");
        }
        assert!(!filter("off").would_enable("telemetryx", &Level::ERROR));
        let default = LogFilter::of(" ").unwrap().into_targets();
        assert!(default.would_enable("telemetryx", &Level::INFO) && !default.would_enable("telemetryx", &Level::DEBUG));
        let targets = filter(" warn , telemetryx::net::event_loop = debug,");
        assert!(targets.would_enable("telemetryx::net::event_loop", &Level::DEBUG));
        assert!(!targets.would_enable("telemetryx::net", &Level::INFO));
    }

    #[test]
    fn every_level_that_others_know_leads_to_one_of_ours() {
        for (foreign, level) in FOREIGN_LEVELS {
            assert!(level_named(level).is_some() && level_named(foreign).is_none(), "{foreign}");
            assert_eq!(nearest_level(&foreign.to_uppercase()), Some(*level));
        }
        for own in [module_path!().strip_suffix("::tests").unwrap(), "telemetryx", "telemetryx::net"] {
            assert!(is_target(own), "{own}");
        }
        assert!(!is_target("telemetryx::none") && !is_target("u"));
    }

    #[test]
    fn every_library_that_logs_is_known() {
        /// Built into tests, tools and build scripts only, or part of the logging itself.
        const NEVER_LOG: &[&str] = &[
            "generator",
            "inferno",
            "loom",
            "pprof",
            "prost-build",
            "telemetryx",
            "tracing-log",
            "tracing-subscriber",
        ];
        let lock = include_str!("../../Cargo.lock");
        let mut found: Vec<String> = Vec::new();
        for package in lock.split("[[package]]").skip(1) {
            let name = package.split("name = \"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
            let logs = ["\"log\"", "\"log ", "\"tracing\"", "\"tracing "].iter().any(|on| package.contains(on));
            if logs && name != "log" && name != "tracing" && !NEVER_LOG.contains(&name) {
                found.push(name.replace('-', "_"));
            }
        }
        assert_eq!(found, LIBRARIES);
    }
}
