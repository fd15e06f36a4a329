//! Rules of `redact`: `{ attributes = ["password", "*.token"], action = "remove" }`.
//!
//! A rule is about attributes, by their keys, or about the body. What can never have an effect is an error here, so that
//! nobody relies on it.

use std::fmt;
use std::path::{Path, PathBuf};

use regex::{Regex, RegexBuilder};
use toml::Value as Toml;

use super::condition::{list, read_glob};
use super::inline::{name_of, read};
use crate::escape::Escaped;
use crate::event::nearest::nearest;
use crate::glob::Glob;
use crate::limits::{
    ATTRIBUTE_KEY_BYTES_MAX, REDACT_KEY_BYTES_MIN, REDACT_PATTERN_BYTES_MAX, REDACT_PATTERN_COMPILED_BYTES_MAX,
    REDACT_RULES_MAX, SETTINGS_FILE_BYTES_MAX,
};
use crate::small_file;

/// What is changed of an event.
#[derive(Debug, Clone, PartialEq)]
pub enum RedactRule {
    /// The attributes with these keys are left out.
    Remove(Vec<Glob>),
    /// The values of the attributes with these keys are replaced by a keyed hash of them.
    Hash(Vec<Glob>, KeyFile),
    /// The values of the attributes with these keys are replaced by `***`.
    Mask(Vec<Glob>),
    /// What the expression matches in the texts of the attributes with these keys is replaced by `***`.
    MaskWithin(Vec<Glob>, Pattern),
    /// What the expression matches in the body is replaced by `***`.
    MaskBody(Pattern),
}

/// A regular expression, matched in time linear to the text.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

impl Pattern {
    /// The compiled expression.
    pub fn regex(&self) -> &Regex {
        &self.0
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

/// The file that holds the key of a hash, and the key once it is read.
#[derive(Clone, PartialEq)]
pub struct KeyFile {
    path: PathBuf,
    key: Option<Vec<u8>>,
}

impl KeyFile {
    /// The key; `None`: not read yet.
    pub fn key(&self) -> Option<&[u8]> {
        self.key.as_deref()
    }

    fn load(&mut self) -> Result<(), String> {
        let shown = shown(&self.path);
        let text = small_file::read_text(&self.path, SETTINGS_FILE_BYTES_MAX);
        let text = text.map_err(|error| format!("key_file: {shown} cannot be read: {error}"))?;
        // An editor's last line end is not part of a key.
        let key = text.trim_end_matches(['\r', '\n']).as_bytes();
        if key.len() < REDACT_KEY_BYTES_MIN {
            return Err(format!(
                "key_file: {shown} has a key of {} bytes: at least {REDACT_KEY_BYTES_MIN} are needed, such as those of \
                 `openssl rand -hex 32`",
                key.len()
            ));
        }
        self.key = Some(key.to_vec());
        Ok(())
    }
}

/// The path for messages. What does not look like one may be the key itself.
fn shown(path: &Path) -> String {
    let path = path.display().to_string();
    match path.contains(['/', '.']) {
        true => Escaped(&path).to_string(),
        false => "the file that it names".to_owned(),
    }
}

/// Never shows the key.
impl fmt::Debug for KeyFile {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}", self.path)
    }
}

const EXAMPLE: &str = "{ attributes = [\"*.token\"], action = \"remove\" }";
const PARTS: [&str; 5] = ["attributes", "body", "pattern", "action", "key_file"];
const ACTIONS: &str = "\"remove\", \"hash\" or \"mask\"";

/// Reads a list of rules, or a single one. Empty: none. No file is read: see [`load_keys`].
///
/// # Errors
/// Which rule is wrong, what of it, and what is expected.
pub fn read_all(text: &str) -> Result<Vec<RedactRule>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let items = match read(text)? {
        Toml::Array(items) => items,
        item @ Toml::Table(_) => vec![item],
        other => return Err(format!("expected a list of rules, such as [{EXAMPLE}], not {}", name_of(&other))),
    };
    if items.len() > REDACT_RULES_MAX {
        return Err(format!("{} rules: write at most {REDACT_RULES_MAX}", items.len()));
    }
    let numbered = items.iter().enumerate();
    numbered.map(|(index, item)| read_one(item).map_err(|why| format!("rule {}: {why}", index + 1))).collect()
}

/// Reads the keys of the rules from their files.
///
/// # Errors
/// Which rule, which file, and what is wrong with it.
pub fn load_keys(rules: &mut [RedactRule]) -> Result<(), String> {
    for (index, rule) in rules.iter_mut().enumerate() {
        if let RedactRule::Hash(_, file) = rule {
            file.load().map_err(|why| format!("rule {}: {why}", index + 1))?;
        }
    }
    Ok(())
}

/// The parts of a rule, before it is known whether they belong together.
#[derive(Default)]
struct Parts {
    attributes: Option<Vec<Glob>>,
    body: Option<Pattern>,
    pattern: Option<Pattern>,
    action: Option<String>,
    key_file: Option<PathBuf>,
}

fn read_one(item: &Toml) -> Result<RedactRule, String> {
    let Toml::Table(table) = item else {
        return Err(format!("expected a table, such as {EXAMPLE}, not {}", name_of(item)));
    };
    let mut parts = Parts::default();
    for (key, value) in table {
        let of_key = |why: String| format!("{key}: {why}");
        let text = |what: &str| match value {
            Toml::String(text) if !text.is_empty() => Ok(text.clone()),
            other => Err(format!("{key}: expected {what}, not {}", name_of(other))),
        };
        match key.as_str() {
            "attributes" => parts.attributes = Some(list(value, read_key).map_err(of_key)?),
            "body" => parts.body = Some(read_pattern(&text("a regular expression")?).map_err(of_key)?),
            "pattern" => parts.pattern = Some(read_pattern(&text("a regular expression")?).map_err(of_key)?),
            "action" => parts.action = Some(text(ACTIONS)?),
            "key_file" => parts.key_file = Some(text("a path")?.into()),
            _ => {
                let hint = match nearest(key, &PARTS) {
                    Some(name) => format!("did you mean `{name}`?"),
                    None => format!("a rule has {}", PARTS.join(", ")),
                };
                return Err(format!("unknown key `{}`: {hint}", Escaped(key)));
            }
        }
    }
    parts.rule()
}

impl Parts {
    fn rule(self) -> Result<RedactRule, String> {
        let Self { attributes, body, pattern, action, key_file } = self;
        let action = action.ok_or(format!("action is missing: expected {ACTIONS}"))?;
        if !["remove", "hash", "mask"].contains(&action.as_str()) {
            return Err(format!("action: expected {ACTIONS}, not {:?}", Escaped(&action).to_string()));
        }
        if key_file.is_some() && action != "hash" {
            return Err(format!("key_file: has no effect with action = \"{action}\""));
        }
        if pattern.is_some() && action != "mask" {
            return Err(format!(
                "pattern: has no effect with action = \"{action}\": only \"mask\" changes a part of a text"
            ));
        }
        match (attributes, body) {
            (Some(_), Some(_)) => Err("attributes and body: give each a rule of its own".to_owned()),
            (None, None) => Err("names neither attributes nor body".to_owned()),
            (None, Some(_)) if pattern.is_some() => Err("pattern: is for attributes; body has its own".to_owned()),
            (None, Some(_)) if action != "mask" => {
                Err(format!("action: \"{action}\" is for attributes; of a body, parts are masked"))
            }
            (None, Some(pattern)) => Ok(RedactRule::MaskBody(pattern)),
            (Some(globs), None) => match (action.as_str(), pattern, key_file) {
                ("remove", ..) => Ok(RedactRule::Remove(globs)),
                ("hash", _, Some(path)) => Ok(RedactRule::Hash(globs, KeyFile { path, key: None })),
                ("hash", _, None) => Err("key_file is missing: without a key, values can be guessed".to_owned()),
                (_, Some(pattern), _) => Ok(RedactRule::MaskWithin(globs, pattern)),
                _ => Ok(RedactRule::Mask(globs)),
            },
        }
    }
}

fn read_key(value: &Toml) -> Result<Glob, String> {
    let glob = read_glob(value, ATTRIBUTE_KEY_BYTES_MAX)?;
    match glob.exact() {
        Some("") => Err("an empty pattern can never match: every attribute has a key".to_owned()),
        _ => Ok(glob),
    }
}

fn read_pattern(text: &str) -> Result<Pattern, String> {
    if text.len() > REDACT_PATTERN_BYTES_MAX {
        return Err(format!("an expression of {} bytes: write at most {REDACT_PATTERN_BYTES_MAX}", text.len()));
    }
    let built = RegexBuilder::new(text)
        .size_limit(REDACT_PATTERN_COMPILED_BYTES_MAX)
        .dfa_size_limit(REDACT_PATTERN_COMPILED_BYTES_MAX)
        .build();
    let regex = built.map_err(|error| match error {
        // Several lines, of which the last says why.
        regex::Error::Syntax(message) => {
            let why = message.lines().last().unwrap_or_default();
            format!("not a regular expression: {}", Escaped(why.trim_start_matches("error: ")))
        }
        regex::Error::CompiledTooBig(bytes) => format!("the expression is too large: it needs more than {bytes} bytes"),
        _ => "not a regular expression".to_owned(),
    })?;
    if regex.is_match("") {
        return Err("matches the empty text, so that nothing of a text would be left as it is".to_owned());
    }
    Ok(Pattern(regex))
}
