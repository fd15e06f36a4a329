//! The settings and their checks.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use postgres::Config;
use postgres::config::Host;
use serde::Deserialize;

use super::super::Kind;
use super::tables::Tables;
use crate::escape::escape;
use crate::resolve;
use crate::settings::hide::hide;
use crate::settings::url::{Parts, decoded_text};
use crate::settings::{Form, Setting, Url, Value};

/// What the settings know of it.
pub const KIND: Kind = Kind {
    name: "postgres",
    doc: "A table of PostgreSQL 12 or later, written by COPY in transactions that also store the sink's position: \
          exactly once.",
    settings: &[
        Setting {
            key: "url",
            default: Value::text("postgres://telemetryx@localhost/telemetryx"),
            form: Form::Url,
            doc: "postgres://user:password@host:5432/database; the database is required. Write characters with a \
                  meaning in URLs as %XX (%2F for a /). Several hosts (host1,host2) are tried in turn; \
                  ?target_session_attrs=read-write finds the primary among them.",
        },
        Setting {
            key: "table",
            default: Value::text("events"),
            form: Form::Text,
            doc: "Name of the table, or schema.name, in lower case. The table telemetryx_positions is in the same \
                  schema.",
        },
        Setting {
            key: "create",
            default: Value::Flag(true),
            form: Form::Flag,
            doc: "Create the two tables if they are missing. false: they must exist, as `telemetryx config --ddl \
                  NAME` prints them.",
        },
        Setting {
            key: "tls",
            default: Value::text("prefer"),
            form: Form::Choice(&["off", "prefer", "require", "verify"]),
            doc: "prefer: encrypt if the server offers TLS. require: connect only with TLS. verify: connect only if \
                  ca_file has signed the server's certificate for the name of the host. sslmode=require in url means \
                  at least require.",
        },
        Setting {
            key: "ca_file",
            default: Value::text(""),
            form: Form::Path,
            doc: "CA certificates (PEM) that are trusted for tls = \"verify\". Empty: the public authorities.",
        },
        Setting {
            key: "timeout",
            default: Value::Duration(Duration::from_secs(60)),
            form: Form::Duration { min: Duration::from_secs(1), max: Duration::from_secs(3_600) },
            doc: "Longest time for the server to answer one statement, such as the COPY of a whole delivery; then \
                  the delivery is tried again.",
        },
    ],
};

/// `kind = "postgres"`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Hosts, database and login.
    pub url: Url,
    /// As [`Tables::named`] takes it.
    pub table: String,
    /// Whether missing tables are created.
    pub create: bool,
    /// Whether the connection is encrypted.
    pub tls: Tls,
    /// For [`Tls::Verify`] only.
    pub ca_file: Option<PathBuf>,
    /// Longest time for the answer to one statement.
    pub timeout: Duration,
}

/// Whether and how strictly a connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tls {
    /// Never encrypted.
    Off,
    /// Encrypted if the server offers it; the certificate is not checked.
    Prefer,
    /// Always encrypted; the certificate is not checked.
    Require,
    /// Always encrypted, with a trusted certificate for the host's name.
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
        if config.get_dbname().is_none() {
            // libpq takes the name of the user, which is not shown: nobody would see where the events go.
            return Err((
                "url",
                "names no database: write it after the host, as in postgres://user@host:5432/database".to_owned(),
            ));
        }
        let sockets = config.get_hosts().iter().filter(|host| matches!(host, Host::Unix(_))).count();
        if sockets > 0 && sockets < config.get_hosts().len() {
            return Err((
                "url",
                "names a Unix socket and a host: use one kind only, since TLS is for hosts only".to_owned(),
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
        let database = config.get_dbname().unwrap_or_default();
        format!("postgres {}/{} table {}", places(&config), escape(database), self.table)
    }

    /// `text`, which the server sent, without password and parameters of the URL.
    pub(super) fn hide(&self, text: &str) -> String {
        let Ok(parts) = self.url.parts() else { return text.to_owned() };
        let mut secrets = parts.secrets();
        // Messages are of use only with them, and settings show them elsewhere.
        let parameters = parts.parameters().unwrap_or_default();
        let (shown, hidden): (Vec<_>, Vec<_>) =
            parameters.into_iter().partition(|(key, _)| SHOWN_PARAMETERS.contains(&&**key));
        secrets.retain(|secret| !shown.iter().any(|(_, shown)| decoded_text(secret).as_ref() == Some(shown)));
        // They may be the same word as a parameter that is shown.
        secrets.extend(hidden.into_iter().map(|(_, value)| Cow::from(value)));
        secrets.extend(parts.password.as_ref().map(|password| String::from_utf8_lossy(password)));
        hide(text, secrets.iter().map(|secret| &**secret))
    }

    /// Whether both write to the same table.
    pub fn shares_output_with(&self, other: &Self) -> bool {
        let table = |settings: &Self| {
            let config = settings.config().ok()?;
            Some((places(&config), config.get_dbname().unwrap_or_default().to_owned(), settings.table.clone()))
        };
        table(self).is_some_and(|one| Some(one) == table(other))
    }

    /// The statements that create the tables.
    pub fn ddl(&self) -> Option<String> {
        Tables::named(&self.table).map(|tables| tables.ddl())
    }

    /// How to connect.
    pub(super) fn config(&self) -> Result<Config, String> {
        const EXPECTED: &str = "expected postgres://user:password@host:5432/database";
        let parts = self.url.parts().map_err(|why| format!("{why}: {EXPECTED}"))?;
        if !matches!(parts.scheme, "postgres" | "postgresql") {
            return Err(EXPECTED.to_owned());
        }
        let mut config = parameters(parts)?;
        if !parts.hosts.is_empty() && !config.get_hosts().is_empty() {
            return Err("names hosts both before its query and in it: keep one".to_owned());
        }
        for host in &parts.hosts {
            config.host(&host.name).port(host.port.unwrap_or(PORT));
        }
        // What the query has goes over what stands before it, as in libpq.
        if let Some(user) = parts.user.as_ref().filter(|_| config.get_user().is_none()) {
            config.user(user);
        }
        if let Some(password) = parts.password.as_ref().filter(|_| config.get_password().is_none()) {
            config.password(password);
        }
        let database = parts.name_in_path().ok_or("names a database that is not UTF-8")?;
        if !database.is_empty() && config.get_dbname().is_none() {
            config.dbname(&database);
        }
        Ok(config)
    }
}

const PORT: u16 = 5432;

/// Of libpq: named where this client does not take them, or not their value.
const KNOWN_PARAMETERS: &[&str] = &[
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "gssencmode",
    "hostaddr",
    "keepalives",
    "keepalives_idle",
    "load_balance_hosts",
    "passfile",
    "port",
    "service",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslnegotiation",
    "sslpassword",
    "sslrootcert",
    "target_session_attrs",
    "tcp_user_timeout",
];

/// Those whose values are not secrets.
const SHOWN_PARAMETERS: &[&str] =
    &["channel_binding", "dbname", "host", "hostaddr", "port", "sslmode", "target_session_attrs", "user"];

/// The settings in the query of a URL. The library reads them as it reads its own form, `key='value'`.
fn parameters(parts: &Parts) -> Result<Config, String> {
    let mut text = String::new();
    let wrong = || "has a query that is not key=value&key=value in UTF-8".to_owned();
    for (key, value) in parts.parameters().ok_or_else(wrong)? {
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') {
            return Err(wrong());
        }
        let value = value.replace('\\', "\\\\").replace('\'', "\\'");
        let parameter = format!("{key}='{value}' ");
        // The library's own message may quote the value, and another key may be the end of a password with an & in it.
        if parameter.parse::<Config>().is_err() {
            let known = KNOWN_PARAMETERS.iter().find(|known| **known == key);
            let named = known.map_or_else(String::new, |known| format!(" `{known}`"));
            return Err(format!("has a parameter{named} in its query that is unknown or has an invalid value"));
        }
        text += &parameter;
    }
    text.parse().map_err(|_| wrong())
}

/// The hosts and ports.
fn places(config: &Config) -> String {
    let mut places = String::new();
    for (index, host) in config.get_hosts().iter().enumerate() {
        // Writing into a String cannot fail.
        let _ = match host {
            Host::Tcp(host) => {
                let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
                write!(places, "{}{open}{}{close}", if index > 0 { "," } else { "" }, escape(host))
            }
            Host::Unix(path) => write!(places, "{}", escape(&path.display().to_string())),
        };
        if let Some(port) = config.get_ports().get(index).or(config.get_ports().first()) {
            let _ = write!(places, ":{port}");
        }
    }
    places
}

/// Where every host is `localhost` and the system does not know it (no `/etc/hosts`), the client is given the address; the name
/// is still the one that a certificate has to have. Addresses are for all hosts or for none.
pub(super) fn give_unknown_localhost(config: &mut Config) {
    let address = |host: &Host| match host {
        Host::Tcp(name) => resolve::unknown_localhost(name),
        Host::Unix(_) => None,
    };
    let addresses: Vec<_> = config.get_hosts().iter().filter_map(address).collect();
    if addresses.len() == config.get_hosts().len() && config.get_hostaddrs().is_empty() {
        for address in addresses {
            config.hostaddr(address);
        }
    }
}
