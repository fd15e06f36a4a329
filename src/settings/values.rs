//! The values of a section on their way into a struct.

use std::borrow::Cow;

use serde::de::DeserializeOwned;

use super::{Form, Value};

/// The values of one section by key, each valid for its row. No `Debug`: it would show secrets.
#[derive(Default)]
pub struct Values(toml::Table);

impl Values {
    /// Adds the value of `key`, relative to the section; `table.key` belongs to a table of it. An empty path is left out:
    /// none.
    pub fn insert(&mut self, key: &str, form: Form, value: &Value) {
        if form == Form::Path && *value == Value::text("") {
            return;
        }
        match key.split_once('.') {
            None => {
                self.0.insert(key.to_owned(), value.to_toml());
            }
            Some((table, key)) => {
                let table = self.0.entry(table).or_insert_with(|| toml::Value::Table(toml::Table::new()));
                if let Some(table) = table.as_table_mut() {
                    table.insert(key.to_owned(), value.to_toml());
                }
            }
        }
    }

    /// Takes out the values of a table of the section; none if it has no such table.
    pub fn take_table(&mut self, name: &str) -> Self {
        match self.0.remove(name) {
            Some(toml::Value::Table(table)) => Self(table),
            _ => Self::default(),
        }
    }

    /// The values as a struct that has a field for each row.
    ///
    /// # Errors
    /// The struct and the rows differ, which is a bug.
    pub fn read<T: DeserializeOwned>(self) -> Result<T, Problem> {
        toml::Value::Table(self.0).try_into().map_err(|error: toml::de::Error| Problem {
            key: "".into(),
            why: format!("a bug in the table of settings: {}", error.message()),
        })
    }
}

/// Why a value that its row allows is wrong, alone or beside another one. Shows no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Of the value that a person must change; relative to its section. Empty: it is not about one value.
    pub key: Cow<'static, str>,
    /// What is wrong with it, and what was expected, to be read after the value.
    pub why: String,
}

impl Problem {
    /// A problem with the value of `key`.
    pub fn new(key: impl Into<Cow<'static, str>>, why: impl Into<String>) -> Self {
        Self { key: key.into(), why: why.into() }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Section {
        ca_file: Option<PathBuf>,
        timeout: Duration,
        gzip: bool,
    }

    fn values(keys: &[(&str, Form, Value)]) -> Values {
        let mut values = Values::default();
        keys.iter().for_each(|(key, form, value)| values.insert(key, *form, value));
        values
    }

    const TIME: Form = Form::Duration { min: Duration::ZERO, max: Duration::MAX };

    #[test]
    fn values_become_fields_and_an_empty_path_is_none() {
        let timeout = Duration::from_millis(1_500);
        let given = [
            ("ca_file", Form::Path, Value::text("")),
            ("timeout", TIME, Value::Duration(timeout)),
            ("gzip", Form::Flag, Value::Flag(true)),
        ];
        assert_eq!(values(&given).read(), Ok(Section { ca_file: None, timeout, gzip: true }));
    }

    #[test]
    fn a_table_is_taken_out_of_its_section() {
        let mut of_a_sink = values(&[
            ("batch.gzip", Form::Flag, Value::Flag(false)),
            ("batch.timeout", TIME, Value::Duration(Duration::ZERO)),
        ]);
        let expected = Section { ca_file: None, timeout: Duration::ZERO, gzip: false };
        assert_eq!(of_a_sink.take_table("batch").read(), Ok(expected));
        assert!(of_a_sink.take_table("batch").read::<Section>().is_err());
    }

    #[test]
    fn a_struct_that_differs_from_the_rows_is_a_bug_with_a_name() {
        let problem = values(&[("zip", Form::Flag, Value::Flag(true))]).read::<Section>().unwrap_err();
        assert!(problem.why.starts_with("a bug in the table of settings: ") && problem.why.contains("zip"));
        assert_eq!(problem.key, "");
    }
}
