//! Who may send: the tokens of the settings, and what to warn of. A start and `telemetryx check` share it.

use std::net::SocketAddr;

use crate::config::{self, ConfigError};
use crate::session::tokens::Tokens;
use crate::sink::SinkSettings;

/// Reads the file that `server.tokens_file` names; no tokens where none is named.
///
/// # Errors
/// The file cannot be read, is not text, or contains no token.
pub fn read_tokens(server: &config::Server) -> Result<Tokens, ConfigError> {
    let Some(path) = &server.tokens_file else { return Ok(Tokens::default()) };
    let problem = |why: String| ConfigError { problems: vec![format!("server.tokens_file: {} {why}", path.display())] };
    let lines = config::read_bounded(path).map_err(|error| problem(format!("cannot be read: {error}")))?;
    if let Some(line) = lines.lines().position(|line| line.trim().contains(char::is_control)) {
        return Err(problem(format!("has a control character in line {}: write one token per line", line + 1)));
    }
    let tokens = Tokens::from_lines(&lines, server.allow_plaintext_tokens);
    if tokens.is_empty() {
        return Err(problem("contains no token: write one per line, or unset server.tokens_file".to_owned()));
    }
    Ok(tokens)
}

/// What to warn of where the server listens on `address`.
pub fn warning(address: SocketAddr, tokens: &Tokens, server: &config::Server) -> Option<&'static str> {
    match (address.ip().is_loopback(), tokens.is_empty()) {
        (true, _) => None,
        (false, true) => Some("anybody who reaches this address can send events: set server.tokens_file"),
        (false, false) if server.allow_plaintext_tokens => None,
        (false, false) => Some(
            "tokens are accepted from this machine only: set server.allow_plaintext_tokens where the network is trusted",
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
