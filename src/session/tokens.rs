//! Tokens: who may send events (R12).

use subtle::{Choice, ConstantTimeEq};

use super::server::Gate;

/// The tokens of the settings. Without tokens every agent is accepted.
#[derive(Default, Clone)]
pub struct Tokens {
    tokens: Vec<Vec<u8>>,
    /// Tokens may cross networks unencrypted.
    allow_plaintext: bool,
}

impl Tokens {
    /// One token a line; blank lines are skipped, white space around a token is not part of it.
    pub fn from_lines(lines: &str, allow_plaintext: bool) -> Self {
        let tokens = lines.lines().map(str::trim).filter(|line| !line.is_empty());
        Self { tokens: tokens.map(|token| token.as_bytes().to_vec()).collect(), allow_plaintext }
    }

    /// Whether no token is configured.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Compares with every token, each in constant time: the time does not depend on where they differ.
    pub fn knows(&self, token: &[u8]) -> bool {
        self.tokens.iter().fold(Choice::from(0), |known, one| known | one.ct_eq(token)).into()
    }

    /// The gate for a peer; `loopback`: it is on this machine.
    pub fn gate(&self, loopback: bool) -> PeerGate<'_> {
        PeerGate { tokens: self, loopback }
    }
}

/// [`Tokens`] for one peer.
pub struct PeerGate<'a> {
    tokens: &'a Tokens,
    loopback: bool,
}

impl Gate for PeerGate<'_> {
    fn admit(&self, token: &[u8]) -> Result<(), &'static str> {
        if self.tokens.is_empty() {
            return Ok(());
        }
        if token.is_empty() {
            return Err("this server requires a token; the agent sent none");
        }
        if !self.loopback && !self.tokens.allow_plaintext {
            return Err("tokens in clear are accepted from this machine only (server.allow_plaintext_tokens)");
        }
        if self.tokens.knows(token) { Ok(()) } else { Err("unknown token") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_tokens_everybody_comes_in() {
        assert_eq!(Tokens::from_lines("\n \n", false).gate(false).admit(b"anything"), Ok(()));
    }

    #[test]
    fn tokens_are_matched_whole_and_trimmed() {
        let tokens = Tokens::from_lines(" secret \nother\n", false);
        for (token, known) in [("secret", true), ("other", true), ("secre", false), ("secret2", false), ("", false)] {
            assert_eq!(tokens.gate(true).admit(token.as_bytes()).is_ok(), known, "{token}");
        }
    }

    #[test]
    fn tokens_in_clear_stay_on_this_machine_unless_allowed() {
        assert!(Tokens::from_lines("secret", false).gate(false).admit(b"secret").is_err());
        assert!(Tokens::from_lines("secret", true).gate(false).admit(b"secret").is_ok());
    }
}
