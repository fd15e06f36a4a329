//! Who may send: the tokens of the settings, and what to warn of. A start and `telemetryx check` share it.

use std::net::SocketAddr;
use std::path::Path;

use crate::config::clients::ClientToken;
use crate::config::tls::ClientAuth;
use crate::config::{self, Client, ConfigError};
use crate::limits::{CLIENT_NAMES_MAX, SETTINGS_FILE_BYTES_MAX};
use crate::session::tokens::{TokenHash, Tokens};
use crate::sink::SinkSettings;
use crate::small_file;

/// Reads the tokens of `server.tokens_file` and those of the clients, in their order.
///
/// # Errors
/// A file cannot be read, is not text, or contains no token; or two clients have the same token.
pub fn read_tokens(config: &config::Config) -> Result<Tokens, ConfigError> {
    read_tokens_after(config, &Tokens::default())
}

/// Whether nobody can send events without a token or a certificate.
pub fn is_required(config: &config::Config, tokens: &Tokens) -> bool {
    !tokens.is_empty() || config.tls.client_auth == ClientAuth::Require
}

/// As [`read_tokens`], where `earlier` ones are in force.
///
/// # Errors
/// Also if the process has had too many clients.
pub(super) fn read_tokens_after(config: &config::Config, earlier: &Tokens) -> Result<Tokens, ConfigError> {
    let mut tokens = read_tokens_file(&config.server)?.after(earlier);
    let mut problems = Vec::new();
    for client in &config.clients {
        let name = &client.name;
        let known = match token_of(client) {
            Ok(token) => tokens.add_client(name, token, client.certificate_name.as_deref()),
            Err(why) => {
                problems.push(format!("clients.{name}.token_file: {why}"));
                continue;
            }
        };
        match known {
            Ok(()) => {}
            Err(Some(other)) => problems.push(format!("clients.{name}: its token is also that of clients.{other}")),
            Err(None) => {
                problems.push(format!("clients.{name}: its token is also in server.tokens_file: remove it there"))
            }
        }
    }
    if tokens.clients().len() > CLIENT_NAMES_MAX {
        problems
            .push(format!("clients: this process has had more than {CLIENT_NAMES_MAX} names of clients: restart it"));
    }
    if problems.is_empty() { Ok(tokens) } else { Err(ConfigError { problems }) }
}

/// The token of a client by its hash; the file of one is read here. `None`: it has none.
fn token_of(client: &Client) -> Result<Option<TokenHash>, String> {
    let path = match &client.token {
        None => return Ok(None),
        Some(ClientToken::Sha256(token)) => return Ok(Some(*token)),
        Some(ClientToken::File(path)) => path,
    };
    read_one_token(path).map(|token| Some(TokenHash::of(token.as_bytes())))
}

/// Reads the file that `server.tokens_file` names; no tokens where none is named.
fn read_tokens_file(server: &config::Server) -> Result<Tokens, ConfigError> {
    let Some(path) = &server.tokens_file else { return Ok(Tokens::from_lines("", server.allow_plaintext_tokens)) };
    let problem = |why: String| ConfigError { problems: vec![format!("server.tokens_file: {} {why}", path.display())] };
    let lines = small_file::read_text(path, SETTINGS_FILE_BYTES_MAX)
        .map_err(|error| problem(format!("cannot be read: {error}")))?;
    if let Some(line) = lines.lines().position(|line| line.trim().contains(char::is_control)) {
        return Err(problem(format!("has a control character in line {}: write one token per line", line + 1)));
    }
    let tokens = Tokens::from_lines(&lines, server.allow_plaintext_tokens);
    if tokens.is_empty() {
        return Err(problem("contains no token: write one per line, or unset server.tokens_file".to_owned()));
    }
    Ok(tokens)
}

/// Reads the token for pages; none where no file is named.
///
/// # Errors
/// The file cannot be read, or does not contain one token.
pub fn read_pages_token(server: &config::Server) -> Result<Tokens, ConfigError> {
    let none = || Tokens::from_lines("", server.allow_plaintext_tokens);
    let Some(path) = &server.pages_token_file else { return Ok(none()) };
    let problem = |why: String| ConfigError { problems: vec![format!("server.pages_token_file: {why}")] };
    let token = read_one_token(path).map_err(problem)?;
    Ok(Tokens::from_lines(&token, server.allow_plaintext_tokens))
}

/// The only token in a file.
fn read_one_token(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let text = small_file::read_text(path, SETTINGS_FILE_BYTES_MAX)
        .map_err(|error| format!("{shown} cannot be read: {error}"))?;
    match text.trim() {
        "" => Err(format!("{shown} contains no token: write one into it")),
        token if token.contains(char::is_control) => {
            Err(format!("{shown} has more than one line, or a control character: write one token into it"))
        }
        token => Ok(token.to_owned()),
    }
}

/// What to warn of where the server listens on `address`.
pub fn warning(address: SocketAddr, tokens: &Tokens, config: &config::Config) -> Option<&'static str> {
    match (address.ip().is_loopback(), tokens.is_empty()) {
        (true, _) => None,
        (false, true) if config.tls.client_auth == ClientAuth::Require => None,
        (false, true) => {
            Some("anybody who reaches this address can send events: set server.tokens_file or [[clients]]")
        }
        (false, false) if config.server.allow_plaintext_tokens || config.tls.cert_file.is_some() => None,
        (false, false) => Some(
            "tokens are accepted from this machine only: set tls.cert_file, or server.allow_plaintext_tokens where the network is trusted",
        ),
    }
}

/// Reads the other files that the settings name, as their sinks do when they connect.
///
/// # Errors
/// Names each file that cannot be used.
pub fn check_files(config: &config::Config) -> Result<(), ConfigError> {
    let problem = |sink: &SinkSettings| Some(format!("sinks.{}.{}", sink.name, sink.config.check().err()?));
    let problems: Vec<String> = config.sinks.iter().filter_map(problem).collect();
    if problems.is_empty() { Ok(()) } else { Err(ConfigError { problems }) }
}
