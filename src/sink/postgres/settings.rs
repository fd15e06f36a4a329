//! The settings and their checks.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use postgres::Config;
use postgres::config::Host;
use serde::Deserialize;

use super::Postgres;
use super::tables::Tables;
use crate::escape::escape;
use crate::resolve;
use crate::settings::hide::hide;
use crate::settings::url::{Parts, decoded_text};
use crate::settings::{Applies, Form, Problem, Secret, Setting, Url, Value};
use crate::sink::{Identity, Kind, Output, Sink, SinkConfig, tls};

/// What the settings know of it.
pub const KIND: Kind = Kind {
    name: "postgres",
    doc: "A table of PostgreSQL 12 or later, written by COPY in transactions that also store the sink's position: \
          exactly once.",
    settings: &[
        Setting {
            key: "url",
            applies: Applies::OnRestart,
            default: Value::text("postgres://telemetryx@localhost/telemetryx"),
            form: Form::Url,
            doc: "postgres://user:password@host:5432/database; the database is required. Write characters with a \
                  meaning in URLs as %XX (%2F for a /). Several hosts (host1,host2) are tried in turn; \
                  ?target_session_attrs=read-write finds the primary among them.",
        },
        Setting {
            key: "table",
            applies: Applies::OnRestart,
            default: Value::text("events"),
            form: Form::Text,
            doc: "Name of the table, or schema.name, in lower case. The table telemetryx_positions is in the same \
                  schema.",
        },
        Setting {
            key: "create",
            applies: Applies::OnRestart,
            default: Value::Flag(true),
            form: Form::Flag,
            doc: "Create the two tables if they are missing. false: they must exist, as `telemetryx config --ddl \
                  NAME` prints them.",
        },
        Setting {
            key: "indexes",
            applies: Applies::OnRestart,
            default: Value::text("none"),
            form: Form::Choice(&["none", "time", "brin"]),
            doc: "Index on the column time that is created together with the table. It makes queries for a period fast and \
                  deliveries slower; \"brin\" is small and nearly free, for events that arrive about in the order of their time. \
                  For a table that exists, run the statement that `telemetryx config --ddl NAME` prints, with CONCURRENTLY after \
                  INDEX: without it, nothing is delivered meanwhile.",
        },
        Setting {
            key: "tls",
            applies: Applies::OnRestart,
            default: Value::text("prefer"),
            form: Form::Choice(&["off", "prefer", "require", "verify"]),
            doc: "prefer: encrypt if the server offers TLS. require: connect only with TLS. verify: connect only if \
                  ca_file has signed the server's certificate for the name of the host. sslmode=require in url means \
                  at least require.",
        },
        Setting {
            key: "ca_file",
            applies: Applies::OnRestart,
            default: Value::text(""),
            form: Form::Path,
            doc: "CA certificates (PEM) that are trusted for tls = \"verify\". Empty: the public authorities.",
        },
        Setting {
            key: "timeout",
            applies: Applies::OnRestart,
            default: Value::Duration(Duration::from_secs(60)),
            form: Form::Duration { min: Duration::from_secs(1), max: Duration::from_secs(3_600) },
            doc: "Longest time for the server to answer one statement, such as the COPY of a whole delivery; then \
                  the delivery is tried again.",
        },
    ],
    parse: |values| Ok(Box::new(values.read::<PostgresSection>()?.validate()?)),
};

/// `kind = "postgres"`, each value as its row allows.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PostgresSection {
    pub url: Url,
    /// As [`Tables::named`] takes it.
    pub table: String,
    pub create: bool,
    pub indexes: Indexes,
    pub tls: Tls,
    pub ca_file: Option<PathBuf>,
    pub timeout: Duration,
}

/// `kind = "postgres"`.
#[derive(Clone)]
pub struct PostgresSettings {
    /// How to connect: hosts, database and login. At least one host, and a database.
    pub(super) config: Config,
    /// The two tables.
    pub(super) tables: Tables,
    /// Whether missing tables are created.
    pub(super) create: bool,
    /// Whether the connection is encrypted.
    pub(super) tls: Tls,
    /// For [`Tls::Verify`] only; `None`: the public authorities.
    pub(super) ca_file: Option<PathBuf>,
    /// Longest time for the answer to one statement.
    pub(super) timeout: Duration,
    output: Output,
    /// Password and parameters of the URL.
    secrets: Vec<Secret>,
}

/// Not derived: it would show parameters of the URL.
impl fmt::Debug for PostgresSettings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { output, create, tls, ca_file, timeout, .. } = self;
        out.debug_struct("PostgresSettings")
            .field("output", output)
            .field("create", create)
            .field("tls", tls)
            .field("ca_file", ca_file)
            .field("timeout", timeout)
            .finish_non_exhaustive()
    }
}

/// The index on the column `time`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Indexes {
    /// There is none.
    None,
    /// A B-tree.
    Time,
    /// Of ranges of blocks.
    Brin,
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

impl PostgresSection {
    /// Checks the values against each other, and parses URL and table.
    pub(super) fn validate(self) -> Result<PostgresSettings, Problem> {
        let Some(tables) = Tables::named(&self.table) else {
            let why = "expected a name such as events or schema.events: lower-case letters, digits and _";
            return Err(Problem::new("table", why));
        };
        let of_url = |why: String| Problem::new("url", why);
        let parts = self.url.parts().map_err(|why| of_url(format!("{why}: {EXPECTED}")))?;
        let config = config(parts).map_err(of_url)?;
        if config.get_hosts().is_empty() {
            return Err(Problem::new("url", "names no host"));
        }
        let Some(database) = config.get_dbname() else {
            // libpq takes the name of the user, which is not shown: nobody would see where the events go.
            let why = "names no database: write it after the host, as in postgres://user@host:5432/database";
            return Err(Problem::new("url", why));
        };
        self.check_encryption(&config)?;
        let place = |database: &str| format!("postgres {}/{database} table {}", hosts(&config), self.table);
        Ok(PostgresSettings {
            output: Output::with_hidden(place(&escape(database)), place(database)),
            secrets: secrets(parts),
            tables: tables.indexed(self.indexes),
            create: self.create,
            tls: self.tls,
            ca_file: self.ca_file,
            timeout: self.timeout,
            config,
        })
    }

    /// Whether TLS is possible where it is required.
    fn check_encryption(&self, config: &Config) -> Result<(), Problem> {
        let sockets = config.get_hosts().iter().filter(|host| matches!(host, Host::Unix(_))).count();
        if sockets > 0 && sockets < config.get_hosts().len() {
            let why = "names a Unix socket and a host: use one kind only, since TLS is for hosts only";
            return Err(Problem::new("url", why));
        }
        if sockets > 0 && matches!(self.tls, Tls::Verify | Tls::Require) {
            return Err(Problem::new("tls", "a Unix socket has no TLS: leave it out"));
        }
        if self.ca_file.is_some() && self.tls != Tls::Verify {
            return Err(Problem::new("ca_file", "is for tls = \"verify\" only"));
        }
        Ok(())
    }
}

impl SinkConfig for PostgresSettings {
    fn open(&self, name: &str, identity: &Identity) -> Box<dyn Sink> {
        Box::new(Postgres::new(name, self, identity))
    }

    fn output(&self) -> Option<Output> {
        Some(self.output.clone())
    }

    fn check(&self) -> Result<(), String> {
        tls::check_authorities(self.ca_file.as_deref())
    }

    fn ddl(&self) -> Option<String> {
        Some(self.tables.ddl())
    }

    fn keeps_position_in_a_server(&self) -> bool {
        true
    }
}

impl PostgresSettings {
    /// The table, for messages.
    pub(super) fn place(&self) -> &str {
        self.output.shown()
    }

    /// `text`, which the server sent, without password and parameters of the URL.
    pub(super) fn hide(&self, text: &str) -> String {
        hide(text, self.secrets.iter().map(Secret::reveal))
    }
}

const EXPECTED: &str = "expected postgres://user:password@host:5432/database";

/// What of the URL the server may repeat and must not be shown.
fn secrets(parts: &Parts) -> Vec<Secret> {
    let mut secrets = parts.secrets();
    // Messages are of use only with them, and settings show them elsewhere.
    let parameters = parts.parameters().unwrap_or_default();
    let (shown, hidden): (Vec<_>, Vec<_>) =
        parameters.into_iter().partition(|(key, _)| SHOWN_PARAMETERS.contains(&&**key));
    secrets.retain(|secret| !shown.iter().any(|(_, shown)| decoded_text(secret).as_ref() == Some(shown)));
    // They may be the same word as a parameter that is shown.
    secrets.extend(hidden.into_iter().map(|(_, value)| Cow::from(value)));
    secrets.extend(parts.password.as_ref().map(|password| String::from_utf8_lossy(password)));
    secrets.into_iter().map(Secret::new).collect()
}

/// How to connect.
fn config(parts: &Parts) -> Result<Config, String> {
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
fn hosts(config: &Config) -> String {
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
