//! The settings and their checks.

use std::fmt;
use std::path::PathBuf;
use std::slice;
use std::time::Duration;

use serde::Deserialize;

use super::Redis;
use crate::limits;
use crate::settings::hide::hide;
use crate::settings::url::{Parts, decoded_text};
use crate::settings::{Applies, Form, Problem, Setting, Url, Urls, Value};
use crate::sink::{Identity, Kind, Output, Sink, SinkConfig, tls};

/// What the settings know of it.
pub const KIND: Kind = Kind {
    name: "redis",
    doc: "Streams of Redis 5 or later, a single server or a Cluster, written in transactions that also store the \
          sink's position: exactly once as long as Redis keeps what it has acknowledged. Redis replicates and syncs \
          *after* it answers: a failover to a replica, or a crash with appendfsync other than always, can lose the \
          last entries *together with* the position that counts them. The server delivers these events again only if \
          they are still in its log. If that matters, set min-replicas-to-write, appendfsync always, or a second \
          sink.",
    settings: &[
        Setting {
            key: "url",
            applies: Applies::OnRestart,
            default: Value::text("redis://127.0.0.1:6379"),
            form: Form::Url,
            doc: "redis://user:password@host:6379/database, or rediss:// for TLS, or \
                  unix:///path?user=…&pass=…&db=…. Write characters with a meaning in URLs as %XX (%2F for a /).",
        },
        Setting {
            key: "urls",
            applies: Applies::OnRestart,
            default: Value::text(""),
            form: Form::Urls,
            doc: "Some nodes of a Redis Cluster, as a list or separated by commas; the other nodes are learnt from \
                  these. If it is set, url is not used. The user, password and TLS of the first node apply to all \
                  nodes.",
        },
        Setting {
            key: "ca_file",
            applies: Applies::OnRestart,
            default: Value::text(""),
            form: Form::Path,
            doc: "CA certificates (PEM) that are trusted for rediss://. Empty: the public authorities.",
        },
        Setting {
            key: "stream",
            applies: Applies::OnRestart,
            default: Value::text("events"),
            form: Form::Text,
            doc: "Prefix of the streams, which are named <stream>:{0}, <stream>:{1} and so on, one per shard. The \
                  sink's positions have the same prefix.",
        },
        Setting {
            key: "maxlen",
            applies: Applies::OnRestart,
            default: Value::Count(1_000_000),
            form: Form::Count { min: 0, max: i64::MAX as u64 },
            doc: "How many entries a stream keeps, approximately; older ones are deleted, whether they were read or \
                  not. 0: all, until Redis is out of memory.",
        },
        Setting {
            key: "shards",
            applies: Applies::OnRestart,
            default: Value::Count(0),
            form: Form::Count { min: 0, max: limits::REDIS_SHARDS_MAX },
            doc: "Number of streams to distribute events over, by their source: events of one source stay in order. \
                  0: 1, or 16 on a Cluster. It cannot be changed for a stream that this log has written to.",
        },
        Setting {
            key: "timeout",
            applies: Applies::OnRestart,
            default: Value::Duration(Duration::from_secs(10)),
            form: Form::Duration { min: Duration::from_secs(1), max: Duration::from_secs(3_600) },
            doc: "Longest time without data while the sink waits for an answer; then it tries again over a new \
                  connection.",
        },
    ],
    parse: |values| Ok(Box::new(values.read::<RedisSection>()?.validate()?)),
};

/// Shards on a Cluster where the settings name no number: enough for as many nodes.
const SHARDS_ON_A_CLUSTER: u64 = 16;

/// `kind = "redis"`, each value as its row allows.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RedisSection {
    /// The server, its database and the login; not used if `urls` is set.
    pub url: Url,
    /// Empty: no Cluster.
    pub urls: Urls,
    pub ca_file: Option<PathBuf>,
    pub stream: String,
    pub maxlen: u64,
    /// 0: by the kind of server.
    pub shards: u64,
    pub timeout: Duration,
}

/// `kind = "redis"`.
#[derive(Debug, Clone)]
pub struct RedisSettings {
    /// The servers that are named; at least one.
    pub(super) servers: Vec<Server>,
    /// Whether the settings name a Cluster.
    pub(super) is_cluster: bool,
    /// Certificates (PEM) to trust; `None`: the public authorities.
    pub(super) ca_file: Option<PathBuf>,
    /// Name of the streams, before `:{shard}`.
    pub(super) stream: String,
    /// 0: no bound.
    pub(super) maxlen: u64,
    /// Number of streams; at least 1.
    pub(super) shards: u64,
    /// Longest silence while an answer is awaited.
    pub(super) timeout: Duration,
    output: Output,
}

impl RedisSection {
    /// Checks the values against each other, and parses the URLs.
    pub(super) fn validate(self) -> Result<RedisSettings, Problem> {
        let fits = (1..=limits::REDIS_STREAM_BYTES_MAX).contains(&self.stream.len());
        if !fits || self.stream.contains(['{', '}']) {
            let most = limits::REDIS_STREAM_BYTES_MAX;
            let why = format!("expected 1 to {most} bytes without {{ and }}, which name the slot on a Cluster");
            return Err(Problem::new("stream", why));
        }
        let is_cluster = !self.urls.is_empty();
        let (key, urls) = if is_cluster { ("urls", self.urls.each()) } else { ("url", slice::from_ref(&self.url)) };
        let servers: Result<Vec<_>, _> = urls.iter().map(Server::from_url).collect();
        let servers = servers.map_err(|why| Problem::new(key, why))?;
        if self.ca_file.is_some() && !servers.iter().any(|server| server.tls) {
            return Err(Problem::new("ca_file", "is for rediss:// only"));
        }
        if is_cluster && servers.iter().any(|server| server.database != 0) {
            return Err(Problem::new(key, "a Cluster has database 0 only"));
        }
        Ok(RedisSettings {
            shards: match self.shards {
                0 if is_cluster => SHARDS_ON_A_CLUSTER,
                0 => 1,
                shards => shards,
            },
            output: Output::new(place(&servers, &self.stream)),
            servers,
            is_cluster,
            ca_file: self.ca_file,
            stream: self.stream,
            maxlen: self.maxlen,
            timeout: self.timeout,
        })
    }
}

impl SinkConfig for RedisSettings {
    fn open(&self, name: &str, identity: &Identity) -> Box<dyn Sink> {
        Box::new(Redis::new(name, self, identity))
    }

    fn output(&self) -> Option<Output> {
        Some(self.output.clone())
    }

    fn check(&self) -> Result<(), String> {
        tls::check_authorities(self.ca_file.as_deref())
    }

    fn shards(&self) -> u64 {
        self.shards
    }

    fn keeps_position_in_a_server(&self) -> bool {
        true
    }
}

impl RedisSettings {
    /// The stream, for messages.
    pub(super) fn place(&self) -> &str {
        self.output.shown()
    }

    /// `text`, which a server sent, without the passwords of the URLs.
    pub(super) fn hide(&self, text: &str) -> String {
        let passwords = self.servers.iter().filter_map(|server| server.password.as_ref());
        let passwords: Vec<_> = passwords.map(|password| String::from_utf8_lossy(&password.0)).collect();
        hide(text, passwords.iter().map(|password| &**password))
    }
}

/// The servers and the stream, for messages.
fn place(servers: &[Server], stream: &str) -> String {
    let mut place = "redis".to_owned();
    for server in servers {
        let separator = if place.len() > "redis".len() { ',' } else { ' ' };
        place.push(separator);
        place += &server.place.to_string();
        if server.database != 0 {
            place += &format!("/{}", server.database);
        }
    }
    format!("{place} stream {stream}")
}

/// One server, and how to log in.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Server {
    /// Where it listens.
    pub place: Place,
    /// Whether the connection is encrypted with TLS.
    pub tls: bool,
    pub user: Option<String>,
    /// `None`: no AUTH is sent.
    pub password: Option<Password>,
    /// Number of the database; 0 on a Cluster.
    pub database: i64,
}

/// Without the login.
impl fmt::Debug for Server {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} database {}, tls {}", self.place, self.database, self.tls)
    }
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Host and port.
    Tcp(String, u16),
    /// A Unix domain socket.
    Unix(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(out, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(out, "{host}:{port}"),
            Self::Unix(path) => write!(out, "{}", path.display()),
        }
    }
}

/// A password, which has no `Debug`: it is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Password(pub Vec<u8>);

const PORT: u16 = 6379;

impl Server {
    fn from_url(url: &Url) -> Result<Self, String> {
        const EXPECTED: &str = "expected redis://user:password@host:6379/database, rediss:// or unix:///path";
        let parts = url.parts().map_err(|why| format!("{why}: {EXPECTED}"))?;
        match parts.scheme {
            "redis" | "rediss" | "valkey" | "valkeys" => Self::over_tcp(parts),
            "unix" | "redis+unix" | "valkey+unix" => Self::over_unix(parts),
            _ => Err(EXPECTED.to_owned()),
        }
    }

    fn over_tcp(parts: &Parts) -> Result<Self, String> {
        let [host] = parts.hosts.as_slice() else {
            return Err("names no host".to_owned());
        };
        // The version of the protocol makes no difference to the commands of this sink.
        let known = |parameters: Vec<(String, String)>| parameters.iter().all(|(key, _)| key == "protocol");
        if !parts.parameters().is_some_and(known) {
            return Err(
                "has a query that this sink does not know: write user, password and database before it".to_owned()
            );
        }
        Ok(Self {
            place: Place::Tcp(host.name.clone(), host.port.unwrap_or(PORT)),
            tls: matches!(parts.scheme, "rediss" | "valkeys"),
            user: parts.user.clone(),
            password: parts.password.clone().map(Password),
            database: parts.name_in_path().and_then(|database| number(&database)).ok_or(NO_DATABASE)?,
        })
    }

    /// `unix:///path?user=…&pass=…&db=…`.
    fn over_unix(parts: &Parts) -> Result<Self, String> {
        if !parts.hosts.is_empty() || parts.user.is_some() || parts.password.is_some() || parts.path.is_empty() {
            return Err("expected unix:///path, with ?user=…&pass=…&db=… after it where they are needed".to_owned());
        }
        let path = decoded_text(&parts.path).filter(|path| !path.contains(char::is_control));
        let mut server = Self {
            place: Place::Unix(path.ok_or("names a path that is not UTF-8, or contains a control character")?.into()),
            tls: false,
            user: None,
            password: None,
            database: 0,
        };
        for (key, value) in parts.parameters().ok_or("has a query that is not key=value&key=value in UTF-8")? {
            match key.as_str() {
                "user" => server.user = Some(value).filter(|user| !user.is_empty()),
                "pass" => server.password = Some(Password(value.into_bytes())).filter(|pass| !pass.0.is_empty()),
                "db" => server.database = number(&value).ok_or(NO_DATABASE)?,
                "protocol" => {}
                _ => return Err("has a query with more than user, pass and db".to_owned()),
            }
        }
        Ok(server)
    }
}

const NO_DATABASE: &str = "names a database that is not a number";

/// Of a database; none is the first.
fn number(text: &str) -> Option<i64> {
    if text.is_empty() { Some(0) } else { text.parse().ok().filter(|number| *number >= 0) }
}
