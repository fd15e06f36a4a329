//! What a check finds, printed as it is found, or as one JSON document at the end.

use serde_json::{Value, json};

use super::super::{Failure, print};
use crate::config::{ConfigError, Resolved};

/// One thing that was looked at.
#[derive(Debug)]
pub(super) struct Finding {
    /// What it is: `address`, `certificate`, `data_dir`, `log`, `sink`.
    pub subject: &'static str,
    /// Which one: the address itself, the directory, the name of the sink.
    pub name: String,
    pub ok: bool,
    /// What there is to say about it.
    pub message: String,
}

#[derive(Debug)]
pub(super) struct Findings {
    json: bool,
    found: Vec<Finding>,
}

impl Findings {
    /// `json`: nothing is printed before [`Findings::document`].
    pub(super) fn new(json: bool) -> Self {
        Self { json, found: Vec::new() }
    }

    /// Adds what was found, and prints it at once where that is text.
    pub(super) fn add(&mut self, finding: Finding) -> Result<(), Failure> {
        let Finding { subject, name, message, .. } = &finding;
        let line = format!("{subject} {name}: {message}\n");
        self.found.push(finding);
        if self.json { Ok(()) } else { print(&line) }
    }

    /// Prints the line about the settings, where that is text.
    pub(super) fn summary(&self, settings: &Resolved) -> Result<(), Failure> {
        if self.json { Ok(()) } else { print(&format!("{}\n", settings.summary())) }
    }

    /// Adds a warning about one thing.
    pub(super) fn warn(&mut self, subject: &'static str, name: &str, warning: &str) -> Result<(), Failure> {
        let finding = Finding { subject, name: name.to_owned(), ok: true, message: format!("warning: {warning}") };
        self.found.push(finding);
        if self.json { Ok(()) } else { print(&format!("warning: {name}: {warning}\n")) }
    }

    /// How many are not ok.
    pub(super) fn failed(&self) -> usize {
        self.found.iter().filter(|finding| !finding.ok).count()
    }

    /// Prints the document, where JSON is asked for.
    pub(super) fn document(&self, settings: &Resolved) -> Result<(), Failure> {
        if !self.json {
            return Ok(());
        }
        let sinks = settings.sink_kinds().map(|(name, kind)| json!({ "name": name, "kind": kind }));
        let findings = self.found.iter().map(|finding| {
            let Finding { subject, name, ok, message } = finding;
            json!({ "subject": subject, "name": name, "ok": ok, "message": message })
        });
        let document = json!({
            "ok": self.failed() == 0,
            "problems": [],
            "file": settings.file,
            "address": settings.config.server.address.to_string(),
            "sinks": sinks.collect::<Vec<Value>>(),
            "findings": findings.collect::<Vec<Value>>(),
        });
        print(&format!("{document}\n"))
    }
}

/// The document where the settings are wrong: there is nothing to look at.
pub(super) fn print_problems(error: &ConfigError) -> Result<(), Failure> {
    print(&format!("{}\n", json!({ "ok": false, "problems": error.problems })))
}
