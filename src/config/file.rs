//! The settings file: TOML into unchecked keys with their lines, `${VAR}` replaced.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::layers::{Given, GivenSink, Keys, Merged, Origin};
use super::table;
use crate::settings::Raw;
use crate::settings::steps::inline::inline;

type Environment = BTreeMap<String, String>;

/// Reads the text of the file `name`. A file that is not TOML gives one problem and no keys.
pub(super) fn read(name: &str, text: &str, environment: &Environment, problems: &mut Vec<String>) -> Merged {
    let mut reader = Reader { name, text, environment, problems };
    let mut merged = Merged::default();
    match DeTable::parse(text) {
        Ok(document) => reader.document(document.get_ref(), &mut merged),
        Err(error) => {
            // Not the error's own form: it quotes the line, and with it a secret.
            let line = error.span().map_or(1, |span| line_of(text, span.start));
            let hint = hint(text.lines().nth(line - 1).unwrap_or_default());
            let message = error.message().trim_end().replace('\n', ", ");
            reader.problems.push(format!("{name}:{line}: invalid TOML: {message}{hint}"));
        }
    }
    merged
}

struct Reader<'a> {
    name: &'a str,
    text: &'a str,
    environment: &'a Environment,
    problems: &'a mut Vec<String>,
}

impl Reader<'_> {
    fn document(&mut self, document: &DeTable<'_>, merged: &mut Merged) {
        for (key, value) in document {
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("sinks", DeValue::Array(sinks)) => {
                    for sink in sinks {
                        if let Some(sink) = self.sink(sink) {
                            merged.sinks.push(sink);
                        }
                    }
                }
                ("sinks", _) => {
                    let origin = self.origin(key);
                    self.problems.push(format!("{origin}: sinks are written as [[sinks]], each with its name"));
                }
                ("clients", DeValue::Array(clients)) => {
                    merged.clients.extend(clients.iter().filter_map(|client| self.client(client)));
                }
                ("clients", _) => {
                    let origin = self.origin(key);
                    self.problems.push(format!("{origin}: clients are written as [[clients]], each with its name"));
                }
                (name, _) => self.leaves(name.to_owned(), key, value, &mut merged.keys),
            }
        }
    }

    fn sink(&mut self, sink: &Spanned<DeValue<'_>>) -> Option<GivenSink> {
        let mut keys = Keys::new();
        let DeValue::Table(table) = sink.get_ref() else {
            let line = line_of(self.text, sink.span().start);
            self.problems.push(format!("{}:{line}: sinks are written as [[sinks]], each with its name", self.name));
            return None;
        };
        for (key, value) in table {
            self.leaves(key.get_ref().clone().into_owned(), key, value, &mut keys);
        }
        let origin = Origin::File { name: self.name.to_owned(), line: line_of(self.text, sink.span().start) };
        let name = keys.remove("name").or_else(|| keys.get("kind").cloned());
        match name {
            Some(Given { raw: Raw::Text(name), origin }) => Some(GivenSink { name, origin, keys }),
            Some(Given { raw, origin }) => {
                self.problems.push(format!("{origin}: name = {raw}: expected text"));
                None
            }
            None => {
                self.problems.push(format!("{origin}: this sink needs a kind, such as kind = \"file\", and a name"));
                None
            }
        }
    }

    fn client(&mut self, client: &Spanned<DeValue<'_>>) -> Option<GivenSink> {
        let mut keys = Keys::new();
        let origin = Origin::File { name: self.name.to_owned(), line: line_of(self.text, client.span().start) };
        let DeValue::Table(table) = client.get_ref() else {
            self.problems.push(format!("{origin}: clients are written as [[clients]], each with its name"));
            return None;
        };
        for (key, value) in table {
            self.leaves(key.get_ref().clone().into_owned(), key, value, &mut keys);
        }
        match keys.remove("name") {
            Some(Given { raw: Raw::Text(name), origin }) => Some(GivenSink { name, origin, keys }),
            Some(Given { raw, origin }) => {
                self.problems.push(format!("{origin}: name = {raw}: expected text"));
                None
            }
            None => {
                self.problems.push(format!("{origin}: this client needs a name"));
                None
            }
        }
    }

    /// Puts the value, or what is in the table, into `keys` under dotted names.
    fn leaves(&mut self, path: String, key: &Spanned<impl Sized>, value: &Spanned<DeValue<'_>>, keys: &mut Keys) {
        let origin = self.origin(key);
        let raw = match value.get_ref() {
            nested @ (DeValue::Table(_) | DeValue::Array(_)) if table::is_nested(&path) => {
                match inline(nested, &|text: &str| expand(text, self.environment)) {
                    Ok(text) => Raw::Nested(text),
                    Err(why) => {
                        self.problems.push(format!("{origin}: {path}: {why}"));
                        return;
                    }
                }
            }
            DeValue::Table(table) if !table.is_empty() => {
                for (key, value) in table {
                    self.leaves(format!("{path}.{}", key.get_ref()), key, value, keys);
                }
                return;
            }
            DeValue::Table(_) => Raw::Table,
            DeValue::String(text) => match expand(text, self.environment) {
                Ok(text) => Raw::Text(text),
                Err(why) => {
                    self.problems.push(format!("{origin}: {path}: {why}"));
                    return;
                }
            },
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .map_or(Raw::Other("a number beyond 64 bits"), Raw::Integer),
            DeValue::Boolean(flag) => Raw::Flag(*flag),
            DeValue::Float(_) => Raw::Other("a decimal number"),
            DeValue::Datetime(_) => Raw::Other("a date or time"),
            DeValue::Array(items) => match self.list(items) {
                Ok(list) => list,
                Err(why) => {
                    self.problems.push(format!("{origin}: {path}: {why}"));
                    return;
                }
            },
        };
        keys.insert(path, Given { raw, origin });
    }

    /// A list of texts, each with its variables replaced.
    fn list(&self, items: &[Spanned<DeValue<'_>>]) -> Result<Raw, String> {
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            let DeValue::String(text) = item.get_ref() else { return Ok(Raw::Other("a list")) };
            texts.push(expand(text, self.environment)?);
        }
        Ok(Raw::List(texts))
    }

    fn origin(&self, key: &Spanned<impl Sized>) -> Origin {
        Origin::File { name: self.name.to_owned(), line: line_of(self.text, key.span().start) }
    }
}

/// The next step where this line is invalid TOML. Quotes nothing of it: it may be a secret.
fn hint(line: &str) -> &'static str {
    let Some((key, value)) = line.split_once('=') else { return "" };
    let value = value.split('#').next().unwrap_or_default().trim();
    let is_word = |word: &str| value.eq_ignore_ascii_case(word);
    if key.trim_start().starts_with(['#', '[', '"', '\'']) || value.starts_with(['"', '\'', '[', '{']) {
        return "";
    }
    if value.is_empty() {
        return "; a value is missing after =";
    }
    if is_word("true") || is_word("false") {
        return "; write true or false";
    }
    // A number that is written wrong is none.
    if value.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_') {
        ""
    } else {
        "; put text in quotes, as in key = \"text\""
    }
}

/// The line that a problem with the file `name` begins with: `telemetryx.toml:5: …`.
pub(super) fn line_of_problem(problem: &str, name: &str) -> Option<usize> {
    problem.strip_prefix(name)?.strip_prefix(':')?.split(':').next()?.parse().ok()
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

/// Replaces `${VAR}` and `${VAR:-default}` (unset or empty); `$${` stands for `${`. What is put in is not looked at
/// again.
fn expand(text: &str, environment: &Environment) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, after) = (&rest[..at], &rest[at + 2..]);
        if let Some(before) = before.strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = after;
            continue;
        }
        out.push_str(before);
        let (inside, after) = after.split_once('}').ok_or("`${` without `}`; write `$${` for the characters `${`")?;
        let (variable, default) = match inside.split_once(":-") {
            Some((variable, default)) => (variable, Some(default)),
            None => (inside, None),
        };
        if variable.is_empty() || !variable.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Err("`${…}` takes the name of a variable, as in ${VAR} or ${VAR:-default}".to_owned());
        }
        match (environment.get(variable), default) {
            (Some(value), None) => out.push_str(value),
            (Some(value), Some(_)) if !value.is_empty() => out.push_str(value),
            (_, Some(default)) => out.push_str(default),
            (None, None) => {
                return Err(format!("the variable {variable} is not set; set it, or write ${{{variable}:-default}}"));
            }
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_replaced_once() {
        let environment = Environment::from([
            ("HOST".to_owned(), "db".to_owned()),
            ("EMPTY".to_owned(), String::new()),
            ("ODD".to_owned(), "${HOST}".to_owned()),
        ]);
        for (text, expanded) in [
            ("", ""),
            ("no variable, $5 } {", "no variable, $5 } {"),
            ("${HOST}", "db"),
            ("http://${HOST}:${PORT:-80}/${EMPTY}", "http://db:80/"),
            ("${EMPTY:-x}${HOST:-x}${NONE:-}", "xdb"),
            ("${ODD}", "${HOST}"),
            ("$${HOST} ${HOST}", "${HOST} db"),
        ] {
            assert_eq!(expand(text, &environment).as_deref(), Ok(expanded), "{text}");
        }
        for (text, why) in [
            ("a ${NONE} b", "the variable NONE is not set; set it, or write ${NONE:-default}"),
            ("${HOST", "`${` without `}`; write `$${` for the characters `${`"),
            ("${}", "`${…}` takes the name of a variable, as in ${VAR} or ${VAR:-default}"),
            ("${a b}", "`${…}` takes the name of a variable, as in ${VAR} or ${VAR:-default}"),
        ] {
            assert_eq!(expand(text, &environment), Err(why.to_owned()), "{text}");
        }
    }
}
