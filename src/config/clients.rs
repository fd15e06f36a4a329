//! `[[clients]]`: who may send with a token or a certificate of their own, and how much.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::layers::{Given, GivenSink, Keys, Origin, same_name};
use super::resolve::{Entry, Row, check_keys, values};
use super::table;
use crate::limits::CLIENTS_MAX;
use crate::session::tokens::TokenHash;
use crate::settings::SECRET_ITSELF;
use crate::settings::url::{is_placeholder, not_a_url};

/// The section of which every table is a client.
pub(super) const CLIENTS: &str = "clients";
/// Also the value of a metric's label.
const NAME_BYTES_MAX: usize = 64;

/// A client: a name for a token or a certificate, and limits for all that is sent with it.
#[derive(Debug, Clone, PartialEq)]
pub struct Client {
    /// Shown in log lines and metrics.
    pub name: String,
    /// What its token is known by. `None`: it shows a certificate.
    pub token: Option<ClientToken>,
    /// The first DNS name in its certificate. `None`: it sends a token.
    pub certificate_name: Option<String>,
    /// 0: no limit.
    pub events_per_second: u64,
    /// 0: no limit.
    pub bytes_per_second: u64,
    /// Time whose events and bytes may come at once.
    pub burst: Duration,
}

/// What a token is known by.
#[derive(Debug, Clone, PartialEq)]
pub enum ClientToken {
    /// `token_sha256`.
    Sha256(TokenHash),
    /// `token_file`: the file that contains the token, read at start.
    File(PathBuf),
}

/// A checked client, and where each of its values came from.
#[derive(Debug)]
pub(super) struct ResolvedClient {
    /// Its values.
    pub client: Client,
    /// Where it was first named.
    pub origin: Origin,
    /// Its values, in the order of the table of settings.
    pub entries: Vec<Entry>,
}

/// The keys of a client, as their types.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Typed {
    token_sha256: String,
    token_file: Option<PathBuf>,
    certificate_name: String,
    events_per_second: u64,
    bytes_per_second: u64,
    burst: Duration,
}

/// Puts a value of the environment or of `--set` to its client, which it may be the first to name.
pub(super) fn place(clients: &mut Vec<GivenSink>, name: &str, key: &str, given: Given) {
    let index = clients.iter().position(|client| same_name(&client.name, name)).unwrap_or_else(|| {
        clients.push(GivenSink { name: name.to_owned(), origin: given.origin.clone(), keys: Keys::new() });
        clients.len() - 1
    });
    if let Some(client) = clients.get_mut(index) {
        client.keys.insert(key.to_owned(), given);
    }
}

/// Checks all clients.
pub(super) fn resolve(clients: Vec<GivenSink>, problems: &mut Vec<String>) -> Vec<ResolvedClient> {
    let mut resolved: Vec<ResolvedClient> = Vec::with_capacity(clients.len());
    if let Some(first) = clients.get(CLIENTS_MAX) {
        problems.push(format!("{}: more than {CLIENTS_MAX} clients", first.origin));
        return resolved;
    }
    let mut names: Vec<(String, Origin)> = Vec::new();
    for given in clients {
        let (name, origin) = (given.name.clone(), given.origin.clone());
        if !is_name(&name) {
            let name = not_a_url(&name);
            problems.push(format!(
                "{origin}: `{name}` is not a name for a client: use 1 to {NAME_BYTES_MAX} letters, digits, - and _, but \
                 not __"
            ));
            continue;
        }
        if let Some((other, first)) = names.iter().find(|(other, _)| same_name(other, &name)) {
            let why = if *other == name { "" } else { ": names must differ in more than case, - and _" };
            problems.push(format!("{origin}: client `{name}` has the name of client `{other}` ({first}){why}"));
            continue;
        }
        names.push((name, origin));
        resolved.extend(resolve_one(given, problems));
    }
    check_certificate_names(&resolved, problems);
    resolved
}

/// A certificate is that of one client.
fn check_certificate_names(clients: &[ResolvedClient], problems: &mut Vec<String>) {
    for (index, client) in clients.iter().enumerate() {
        let Some(name) = &client.client.certificate_name else { continue };
        let has_it = |other: &&ResolvedClient| other.client.certificate_name.as_ref() == Some(name);
        if let Some(other) = clients.iter().take(index).find(has_it) {
            let (origin, own) = (client.origin_of("certificate_name"), &client.client.name);
            problems.push(format!(
                "{origin}: clients.{own}.certificate_name is also that of clients.{}: give each client its own",
                other.client.name
            ));
        }
    }
}

impl ResolvedClient {
    /// Where the value of `key` is from.
    pub(super) fn origin_of(&self, key: &str) -> &Origin {
        self.entries.iter().find(|entry| entry.key == key).map_or(&self.origin, |entry| &entry.origin)
    }
}

fn resolve_one(given: GivenSink, problems: &mut Vec<String>) -> Option<ResolvedClient> {
    let GivenSink { name, origin, keys } = given;
    let prefix = format!("{CLIENTS}.{name}.");
    let rows = table::CLIENT.iter().map(|row| Row::new(row.key.to_owned(), row)).collect();
    let before = problems.len();
    let entries = check_keys(&prefix, rows, keys, problems);
    if problems.len() > before {
        return None;
    }
    let typed: Typed = match values(&entries).read() {
        Ok(typed) => typed,
        Err(bug) => {
            problems.push(bug.why);
            return None;
        }
    };
    let token = check_certificate_name(&typed).and_then(|()| token(&typed, &entries));
    match token {
        Ok(token) => {
            let Typed { certificate_name, events_per_second, bytes_per_second, burst, .. } = typed;
            // Names of DNS are compared without regard to case.
            let certificate_name = Some(certificate_name.to_ascii_lowercase()).filter(|name| !name.is_empty());
            let client = Client { name, token, certificate_name, events_per_second, bytes_per_second, burst };
            Some(ResolvedClient { client, origin, entries })
        }
        Err(Wrong { key: None, why }) => {
            problems.push(format!("{origin}: {CLIENTS}.{name} {why}"));
            None
        }
        Err(Wrong { key: Some(key), why }) => {
            let origin = entries.iter().find(|entry| entry.key == key).map_or(&origin, |entry| &entry.origin);
            problems.push(format!("{origin}: {prefix}{key} {why}"));
            None
        }
    }
}

/// Rejects a `certificate_name` that is not a DNS name, such as `CN=api`: no certificate would match it.
fn check_certificate_name(typed: &Typed) -> Result<(), Wrong> {
    let name = &typed.certificate_name;
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'*');
    if name.bytes().all(is_part) && !name.starts_with('.') && !name.ends_with('.') {
        return Ok(());
    }
    let why = format!(
        "= {name:?}: expected the first DNS name in the certificate of the client (subjectAltName), such as \
         \"api.example.org\""
    );
    Err(Wrong { key: Some("certificate_name"), why })
}

/// What is wrong with the token or certificate of a client; `key`: with one of its settings.
struct Wrong {
    key: Option<&'static str>,
    why: String,
}

fn token(typed: &Typed, entries: &[Entry]) -> Result<Option<ClientToken>, Wrong> {
    match (typed.token_sha256.as_str(), &typed.token_file) {
        ("", None) if typed.certificate_name.is_empty() => Err(Wrong {
            key: None,
            why: "needs token_sha256, the SHA-256 of its token, or token_file, or certificate_name".to_owned(),
        }),
        ("", None) => Ok(None),
        ("", Some(path)) => Ok(Some(ClientToken::File(path.clone()))),
        (_, Some(_)) => {
            let other = entries.iter().find(|entry| entry.key == "token_sha256").map(|entry| &entry.origin);
            let other = other.map_or(String::new(), ToString::to_string);
            Err(Wrong { key: Some("token_file"), why: format!("is set, and token_sha256 too ({other}): keep one") })
        }
        (digits, None) => {
            let expected = if is_placeholder(digits) {
                SECRET_ITSELF
            } else {
                "64 hexadecimal digits, the SHA-256 of the token: printf %s TOKEN | sha256sum"
            };
            let wrong = || Wrong { key: Some("token_sha256"), why: format!("= ***: expected {expected}") };
            TokenHash::from_hex(digits).map(|hash| Some(ClientToken::Sha256(hash))).ok_or_else(wrong)
        }
    }
}

/// As of a sink: the environment has neither dots nor two underscores within a name.
fn is_name(name: &str) -> bool {
    let letters = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && letters && !name.contains("__")
}
