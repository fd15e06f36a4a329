//! Variables of the environment that almost name a setting: a typing error there would otherwise change nothing, in
//! silence.
//!
//! ```text
//!  TELEMETRYX__SERVER__ADDRESS   a setting: layers.rs takes it
//!  TELEMETRYX_SERVER_ADDRESS     almost one: an error that names the right one
//!  TELEMETRYX_SERVICE_HOST       Kubernetes' and Docker's own, and whatever is like no setting: left alone
//! ```

use super::log_filter::FILTER_VARIABLE;
use super::{FILE_VARIABLE, table};
use crate::event::nearest::edits;
use crate::settings::{Form, Setting};
use crate::sink;

/// What every setting's variable begins with.
pub(super) const VARIABLE_PREFIX: &str = "TELEMETRYX__";
const PROGRAM: &str = "TELEMETRYX";
/// A name of other programs, too: it must have the double underscore.
const PROGRAM_OF_OTHERS: &str = "TELEMETRY";
/// Variables that are not settings; the last three are read by builds for profiles and by tests.
const OWN: &[&str] =
    &[FILE_VARIABLE, FILTER_VARIABLE, "TELEMETRYX_PROFILE", "TELEMETRYX_TEST_SEED", "TELEMETRYX_TORTURE_ROUNDS"];
/// What else they are taken for, without the program's name.
const FOREIGN: &[(&str, &str)] = &[
    ("CONFIG", FILE_VARIABLE),
    ("CONFIG_FILE", FILE_VARIABLE),
    ("CONFIG_PATH", FILE_VARIABLE),
    ("LOG", FILTER_VARIABLE),
    ("LOG_LEVEL", FILTER_VARIABLE),
    ("LOGLEVEL", FILTER_VARIABLE),
    ("LOGGING", FILTER_VARIABLE),
    ("RUST_LOG", FILTER_VARIABLE),
];
/// Edits between the program's name and a typing error in it.
const PROGRAM_EDITS_MAX: usize = 2;

/// The variable of the setting `key`: `server.address` is `TELEMETRYX__SERVER__ADDRESS`.
pub(super) fn variable(key: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", key.replace('.', "__").replace('-', "_").to_ascii_uppercase())
}

/// The variable that `name` almost is. `None`: it is one, or is nothing like one.
pub(super) fn meant(name: &str, value: &str) -> Option<String> {
    if OWN.contains(&name) {
        return None;
    }
    let (program, rest) = name.split_at(name.find('_')?);
    let program = program.to_ascii_uppercase();
    if edits(&program, PROGRAM) > PROGRAM_EDITS_MAX {
        return None;
    }
    if program == PROGRAM_OF_OTHERS && !rest.starts_with("__") {
        return None;
    }
    let words: Vec<String> = rest.split('_').filter(|word| !word.is_empty()).map(str::to_ascii_uppercase).collect();
    let words = words.join("_");
    if is_of_a_container(&words, value) {
        return None;
    }
    let foreign = FOREIGN.iter().find(|(foreign, _)| *foreign == words).map(|(_, own)| (*own).to_owned());
    if foreign.is_some() || name.starts_with(VARIABLE_PREFIX) {
        // Other names with this prefix are keys, known or not.
        return foreign;
    }
    let settings: Vec<String> = table::SECTIONS
        .iter()
        .flat_map(|section| section.settings.iter().map(|setting| variable(&section.key(setting))))
        .collect();
    let own = FOREIGN.iter().map(|(foreign, own)| (*foreign, *own));
    let known =
        settings.iter().filter_map(|variable| Some((variable.strip_prefix(VARIABLE_PREFIX)?, variable.as_str())));
    let known: Vec<(String, &str)> = own.chain(known).map(|(words, own)| (words.replace("__", "_"), own)).collect();
    let distance = |known: &str| edits(known, &words);
    let allowed = |known: &str| match (program == PROGRAM, known.len()) {
        (false, _) => 0,
        (true, ..8) => 1,
        (true, _) => 2,
    };
    let nearest = known
        .iter()
        .filter(|(known, _)| distance(known) <= allowed(known))
        .min_by_key(|(known, _)| distance(known))
        .map(|(_, own)| (*own).to_owned());
    nearest.or_else(|| of_a_sink(&words)).or_else(|| of_a_client(&words))
}

/// `SINKS_NAME_KEY` as it should be.
fn of_a_sink(words: &str) -> Option<String> {
    let rest = words.strip_prefix("SINKS_").or_else(|| words.strip_prefix("SINK_"))?;
    let of_kinds = sink::KINDS.iter().flat_map(|kind| kind.settings).map(|setting| (setting.key.to_owned(), setting));
    let of_all = table::SINK.iter().map(|setting| (setting.key.to_owned(), setting));
    let of_batches = table::BATCH.settings.iter().map(|setting| (table::BATCH.key(setting), setting));
    let mut keys: Vec<String> = of_kinds.chain(of_all).chain(of_batches).flat_map(names_of).collect();
    keys.push("kind".to_owned());
    of_named("sinks", rest, keys)
}

/// `CLIENTS_NAME_KEY` as it should be.
fn of_a_client(words: &str) -> Option<String> {
    let rest = words.strip_prefix("CLIENTS_").or_else(|| words.strip_prefix("CLIENT_"))?;
    let keys = table::CLIENT.iter().map(|setting| (setting.key.to_owned(), setting)).flat_map(names_of);
    of_named("clients", rest, keys.collect())
}

/// `NAME_KEY`, where `section` has these keys under any name.
fn of_named(section: &str, rest: &str, mut keys: Vec<String>) -> Option<String> {
    // `batch.max_bytes` before a `max_bytes`.
    keys.sort_by_key(|key| std::cmp::Reverse(key.len()));
    keys.iter().find_map(|key| {
        let words = key.replace('.', "_").to_ascii_uppercase();
        let name = rest.strip_suffix(&words)?.strip_suffix('_').filter(|name| !name.is_empty())?;
        Some(variable(&format!("{section}.{name}.{key}")))
    })
}

/// The keys of a row.
fn names_of((key, setting): (String, &Setting)) -> Vec<String> {
    match setting.form {
        form if form.is_secret() => vec![format!("{key}_file"), key],
        // Any name may be in the table.
        Form::Secrets => Vec::new(),
        _ => vec![key],
    }
}

/// Whether a variable, named by what comes after the program's name, is one that Kubernetes or Docker sets in every
/// container beside a service or container called so.
fn is_of_a_container(words: &str, value: &str) -> bool {
    let ends = |end: &str| words.strip_suffix(end).is_some_and(|before| before.is_empty() || before.ends_with('_'));
    let has = |part: &str| format!("_{words}").contains(part);
    let protocols = ["TCP", "UDP", "SCTP"];
    ends("SERVICE_HOST")
        || has("_SERVICE_PORT")
        || has("_ENV_")
        || (ends("PORT") && value.contains("://"))
        || (ends("NAME") && value.starts_with('/'))
        || words.split('_').collect::<Vec<_>>().windows(3).any(|three| match three {
            ["PORT", number, protocol] => number.parse::<u16>().is_ok() && protocols.contains(protocol),
            _ => false,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_is_known_by_every_near_miss_of_its_variable() {
        for section in table::SECTIONS {
            for setting in section.settings {
                let right = variable(&section.key(setting));
                assert_eq!(meant(&right, "x"), None, "{right}");
                let single = right.replace("__", "_");
                for near in [&single, &right.to_lowercase(), &format!("{single}S"), &right.replacen("TRYX", "TRX", 1)] {
                    assert_eq!(meant(near, "x").as_ref(), Some(&right), "{near}");
                }
            }
        }
    }

    #[test]
    fn what_is_like_no_setting_is_left_alone() {
        for name in
            ["PATH", "TELEMETRYX", "TELEMETRYX_", "_", "", "TELEMETRYX_VERSION", "TELEMETRYX_SINKS_A", "LOG_LEVEL"]
        {
            assert_eq!(meant(name, "x"), None, "{name}");
        }
        for own in OWN {
            assert_eq!(meant(own, "x"), None, "{own}");
        }
    }
}
