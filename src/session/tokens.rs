//! Tokens: who may send events (R12).

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use super::server::Gate;
use crate::ids::ClientId;

/// The SHA-256 of a token. A server that knows no more cannot show a token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// The hash of `token`.
    pub fn of(token: &[u8]) -> Self {
        Self(Sha256::digest(token).into())
    }

    /// A hash of 64 hexadecimal digits; `None`: it is not.
    pub fn from_hex(digits: &str) -> Option<Self> {
        let digits = digits.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            let [high, low] = [pair.first()?, pair.get(1)?].map(|digit| char::from(*digit).to_digit(16));
            *byte = u8::try_from(high? << 4 | low?).ok()?;
        }
        Some(Self(hash))
    }
}

/// Not derived: whoever has a hash can try tokens against it.
impl fmt::Debug for TokenHash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("***")
    }
}

/// The tokens of the settings. Without tokens every agent is accepted.
#[derive(Default, Clone)]
pub struct Tokens {
    /// With the client, where it is the token of one.
    known: Vec<(TokenHash, Option<ClientId>)>,
    /// Names of the clients, by their ids.
    clients: Vec<String>,
    /// Tokens may cross networks unencrypted.
    allow_plaintext: bool,
}

impl Tokens {
    /// One token a line; blank lines are skipped, white space around a token is not part of it.
    pub fn from_lines(lines: &str, allow_plaintext: bool) -> Self {
        let tokens = lines.lines().map(str::trim).filter(|line| !line.is_empty());
        let known = tokens.map(|token| (TokenHash::of(token.as_bytes()), None)).collect();
        Self { known, clients: Vec::new(), allow_plaintext }
    }

    /// Adds a client, whose id is the number of those before it.
    ///
    /// # Errors
    /// The token is known already: of this client, or of none.
    pub fn add_client(&mut self, name: &str, token: TokenHash) -> Result<(), Option<&str>> {
        if let Some((_, other)) = self.known.iter().find(|(known, _)| *known == token) {
            return Err(other.and_then(|other| self.clients.get(other.index()).map(String::as_str)));
        }
        self.known.push((token, Some(ClientId(self.clients.len() as u16))));
        self.clients.push(name.to_owned());
        Ok(())
    }

    /// Names of the clients, by their ids.
    pub fn clients(&self) -> &[String] {
        &self.clients
    }

    /// The name of a client, for log lines.
    pub fn name_of(&self, client: Option<ClientId>) -> Option<&str> {
        self.clients.get(client?.index()).map(String::as_str)
    }

    /// Whether no token is configured.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Compares with every token, each in constant time: the time depends neither on where they differ nor on which it is.
    /// `None`: it is not known; `Some(None)`: it is not the token of a client.
    pub fn find(&self, token: &[u8]) -> Option<Option<ClientId>> {
        let TokenHash(token) = TokenHash::of(token);
        // Place from 1 on; 0: not found.
        let found = self.known.iter().zip(1..).fold(0_u32, |found, ((known, _), place)| {
            let is_same: Choice = known.0.ct_eq(&token);
            u32::conditional_select(&found, &place, is_same)
        });
        self.known.get(found.checked_sub(1)? as usize).map(|(_, client)| *client)
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
    fn admit(&self, token: &[u8]) -> Result<Option<ClientId>, &'static str> {
        if self.tokens.is_empty() {
            return Ok(None);
        }
        if token.is_empty() {
            return Err("this server requires a token; the agent sent none");
        }
        if !self.loopback && !self.tokens.allow_plaintext {
            return Err("tokens in clear are accepted from this machine only (server.allow_plaintext_tokens)");
        }
        self.tokens.find(token).ok_or("unknown token")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_tokens_everybody_comes_in() {
        assert_eq!(Tokens::from_lines("\n \n", false).gate(false).admit(b"anything"), Ok(None));
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

    #[test]
    fn the_token_of_a_client_names_it() {
        let mut tokens = Tokens::from_lines("common", false);
        tokens.add_client("api", TokenHash::of(b"one")).unwrap();
        tokens.add_client("edge", TokenHash::of(b"two")).unwrap();
        for (token, client) in [("common", None), ("one", Some(ClientId(0))), ("two", Some(ClientId(1)))] {
            assert_eq!(tokens.gate(true).admit(token.as_bytes()), Ok(client), "{token}");
        }
        assert_eq!(tokens.gate(true).admit(b"three"), Err("unknown token"));
        assert_eq!(tokens.name_of(Some(ClientId(1))), Some("edge"));
        assert_eq!((tokens.name_of(None), tokens.name_of(Some(ClientId(2)))), (None, None));
    }

    #[test]
    fn a_token_has_one_owner() {
        let mut tokens = Tokens::from_lines("common", false);
        assert_eq!(tokens.add_client("api", TokenHash::of(b"common")), Err(None));
        tokens.add_client("api", TokenHash::of(b"one")).unwrap();
        assert_eq!(tokens.add_client("edge", TokenHash::of(b"one")), Err(Some("api")));
        assert_eq!(tokens.clients(), ["api"]);
    }

    #[test]
    fn a_hash_is_64_hexadecimal_digits_and_is_not_shown() {
        // `printf %s abc | sha256sum`
        let digits = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(TokenHash::from_hex(digits), Some(TokenHash::of(b"abc")));
        assert_eq!(TokenHash::from_hex(&digits.to_uppercase()), Some(TokenHash::of(b"abc")));
        for wrong in ["", "abc", &digits[1..], &format!("{digits}0"), &digits.replace('b', "g"), &"é".repeat(32)] {
            assert_eq!(TokenHash::from_hex(wrong), None, "{wrong}");
        }
        assert_eq!(format!("{:?}", TokenHash::of(b"abc")), "***");
    }
}
