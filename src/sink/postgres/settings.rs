//! What a user sets, and what of it is wrong.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use postgres::Config;
use postgres::config::Host;
use serde::Deserialize;

use super::super::Kind;
use super::tables::Tables;
use crate::config::setting::{Form, Setting, Url, Value};

/// What the settings know of it.
pub const KIND: Kind = Kind {
    name: "postgres",
    doc: "A table of PostgreSQL 12 or later, written by COPY in transactions that hold the sink's position too: exactly \
          once.",
    settings: &[
        Setting {
            key: "url",
            default: Value::text("postgres://telemetryx@localhost/telemetryx"),
            form: Form::Url,
            doc: "postgres://user:password@host:5432/database. Several hosts (host1,host2) are tried in turn; \
                  ?target_session_attrs=read-write finds the primary among them.",
        },
        Setting {
            key: "table",
            default: Value::text("events"),
            form: Form::Text,
            doc: "Name, or schema.name, in lower case. telemetryx_positions is beside it, in the same schema.",
        },
        Setting {
            key: "create",
            default: Value::Flag(true),
            form: Form::Flag,
            doc: "Make the two tables where they are missing. false: they must be there, as \
                  `telemetryx config --ddl NAME` prints them.",
        },
        Setting {
            key: "tls",
            default: Value::text("prefer"),
            form: Form::Choice(&["off", "prefer", "require", "verify"]),
            doc: "prefer: encrypted where the server offers it. require: not without. verify: not without a certificate \
                  that ca_file has signed for the host's name. sslmode=require in url is at least require.",
        },
        Setting {
            key: "ca_file",
            default: Value::text(""),
            form: Form::Path,
            doc: "Certificates (PEM) that tls = \"verify\" believes. Empty: the public authorities.",
        },
        Setting {
            key: "timeout",
            default: Value::Duration(Duration::from_secs(60)),
            form: Form::Duration { min: Duration::from_secs(1), max: Duration::from_secs(3_600) },
            doc: "Longest time for the server to answer one statement, such as the COPY of a whole delivery; then it is \
                  tried again.",
        },
    ],
};

/// `kind = "postgres"`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub url: Url,
    /// As [`Tables::named`] takes it.
    pub table: String,
    pub create: bool,
    pub tls: Tls,
    /// For [`Tls::Verify`] only.
    pub ca_file: Option<PathBuf>,
    pub timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tls {
    Off,
    Prefer,
    Require,
    Verify,
}

impl Settings {
    /// What a person must change, and in which key.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if Tables::named(&self.table).is_none() {
            let why = "expected a name such as events or schema.events: lower-case letters, digits and _".to_owned();
            return Err(("table", why));
        }
        let config = self.config().map_err(|why| ("url", why))?;
        if config.get_hosts().is_empty() {
            return Err(("url", "names no host".to_owned()));
        }
        let sockets = config.get_hosts().iter().filter(|host| matches!(host, Host::Unix(_))).count();
        if sockets > 0 && sockets < config.get_hosts().len() {
            return Err((
                "url",
                "names a Unix socket and a host: one of both kinds, for TLS is for hosts only".to_owned(),
            ));
        }
        if sockets > 0 && matches!(self.tls, Tls::Verify | Tls::Require) {
            return Err(("tls", "a Unix socket has no TLS: leave it out".to_owned()));
        }
        if self.ca_file.is_some() && self.tls != Tls::Verify {
            return Err(("ca_file", "is for tls = \"verify\" only".to_owned()));
        }
        Ok(())
    }

    /// The table, without secrets.
    pub fn output(&self) -> String {
        let Ok(config) = self.config() else { return format!("table {}", self.table) };
        let mut output = "postgres ".to_owned();
        for (index, host) in config.get_hosts().iter().enumerate() {
            // Writing into a String cannot fail.
            let _ = match host {
                Host::Tcp(host) => write!(output, "{}{host}", if index > 0 { "," } else { "" }),
                Host::Unix(path) => write!(output, "{}", path.display()),
            };
            if let Some(port) = config.get_ports().get(index).or(config.get_ports().first()) {
                let _ = write!(output, ":{port}");
            }
        }
        let database = config.get_dbname().or(config.get_user()).unwrap_or_default();
        output + "/" + database + " table " + &self.table
    }

    /// The statements that make the tables.
    pub fn ddl(&self) -> Option<String> {
        Tables::named(&self.table).map(|tables| tables.ddl())
    }

    pub(super) fn config(&self) -> Result<Config, String> {
        let url = self.url.with_secrets();
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err("expected postgres://user:password@host:5432/database".to_owned());
        }
        // The parser's own words may quote a part of the URL.
        url.parse()
            .map_err(|_| "is no URL of PostgreSQL: expected postgres://user:password@host:5432/database".to_owned())
    }
}
