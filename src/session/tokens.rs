//! Tokens and certificates: who may send events (R12).

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
    /// Names of the clients, by their ids; also of those that earlier settings had.
    clients: Vec<String>,
    /// Which of them these settings have.
    is_current: Vec<bool>,
    /// First DNS names of certificates, in lower case, and whose they are.
    certificates: Vec<(String, ClientId)>,
    /// Tokens may cross networks unencrypted.
    allow_plaintext: bool,
}

impl Tokens {
    /// One token a line; blank lines are skipped, white space around a token is not part of it.
    pub fn from_lines(lines: &str, allow_plaintext: bool) -> Self {
        let tokens = lines.lines().map(str::trim).filter(|line| !line.is_empty());
        let known = tokens.map(|token| (TokenHash::of(token.as_bytes()), None)).collect();
        Self { known, allow_plaintext, ..Self::default() }
    }

    /// Clients that are added keep the ids that they had in `earlier` settings, by their names: no id is used for another client while
    /// the process lives.
    #[must_use]
    pub fn after(mut self, earlier: &Self) -> Self {
        self.clients.clone_from(&earlier.clients);
        self.is_current = vec![false; self.clients.len()];
        self
    }

    /// Adds a client, whose id is that of the same client in earlier settings, or a new one. `certificate`: the first DNS name in its certificate, in lower case.
    ///
    /// # Errors
    /// The token is known already: of this client, or of none.
    pub fn add_client(
        &mut self,
        name: &str,
        token: Option<TokenHash>,
        certificate: Option<&str>,
    ) -> Result<(), Option<&str>> {
        if let Some((_, other)) = self.known.iter().find(|(known, _)| Some(*known) == token) {
            return Err(other.and_then(|other| self.clients.get(other.index()).map(String::as_str)));
        }
        let place = self.clients.iter().position(|known| known == name).unwrap_or(self.clients.len());
        let id = ClientId(place as u16);
        if place == self.clients.len() {
            self.clients.push(name.to_owned());
            self.is_current.push(false);
        }
        self.is_current[place] = true;
        self.known.extend(token.map(|token| (token, Some(id))));
        self.certificates.extend(certificate.map(|name| (name.to_owned(), id)));
        Ok(())
    }

    /// What a valid certificate with this first DNS name stands for.
    pub fn certificate(&self, name: Option<&str>) -> Certificate {
        let is_it = |(known, _): &&(String, ClientId)| name.is_some_and(|name| name.eq_ignore_ascii_case(known));
        self.certificates.iter().find(is_it).map_or(Certificate::Other, |(_, client)| Certificate::Client(*client))
    }

    /// Names of the clients, by their ids; also of those that earlier settings had.
    pub fn clients(&self) -> &[String] {
        &self.clients
    }

    /// Clients of earlier settings that these do not have.
    pub fn gone(&self) -> impl Iterator<Item = ClientId> + '_ {
        let ids = self.is_current.iter().enumerate();
        ids.filter(|(_, is_current)| !**is_current).map(|(place, _)| ClientId(place as u16))
    }

    /// The name of a client, for log lines.
    pub fn name_of(&self, client: Option<ClientId>) -> Option<&str> {
        self.clients.get(client?.index()).map(String::as_str)
    }

    /// Whether neither tokens nor clients are configured: everybody may send.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty() && !self.is_current.contains(&true)
    }

    /// Whether both know the same tokens, of the same clients.
    pub fn knows_same(&self, other: &Self) -> bool {
        let sorted = |tokens: &Self| {
            let mut known: Vec<_> = tokens.known.iter().map(|(TokenHash(hash), client)| (*hash, *client)).collect();
            known.sort_unstable();
            known
        };
        sorted(self) == sorted(other)
    }

    /// Compares with every token, each in constant time: the time depends neither on where they differ nor on which it is.
    /// `None`: it is not known; `Some(None)`: it is not the token of a client.
    fn find(&self, TokenHash(token): TokenHash) -> Option<Option<ClientId>> {
        // Place from 1 on; 0: not found.
        let found = self.known.iter().zip(1..).fold(0_u32, |found, ((known, _), place)| {
            let is_same: Choice = known.0.ct_eq(&token);
            u32::conditional_select(&found, &place, is_same)
        });
        self.known.get(found.checked_sub(1)? as usize).map(|(_, client)| *client)
    }

    /// As [`Tokens::find`], of a token that was found before: its sender cannot measure the time.
    fn find_again(&self, token: TokenHash) -> Option<Option<ClientId>> {
        self.known.iter().find(|(known, _)| *known == token).map(|(_, client)| *client)
    }

    /// The gate for a peer.
    pub fn gate(&self, access: Access) -> PeerGate<'_> {
        PeerGate { tokens: self, access }
    }
}

/// How a peer is connected, as far as it decides about its admission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Access {
    /// The connection cannot be intercepted: tokens may be sent.
    pub is_private: bool,
    /// Why nothing is accepted over this connection, whatever token comes.
    pub refused: Option<&'static str>,
    /// The certificate that the peer has shown.
    pub certificate: Certificate,
}

/// The certificate of a peer, which was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Certificate {
    /// It has shown none.
    #[default]
    None,
    /// That of a client.
    Client(ClientId),
    /// Its first DNS name is that of no client.
    Other,
}

/// [`Tokens`] for one peer.
pub struct PeerGate<'a> {
    tokens: &'a Tokens,
    access: Access,
}

/// What a peer was admitted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Admitted {
    /// The token that it has sent, known or not. `None`: it has sent none.
    pub token: Option<TokenHash>,
    /// The client to which token or certificate belong, if it is that of one.
    pub client: Option<ClientId>,
}

impl Gate for PeerGate<'_> {
    fn admit(&self, token: &[u8]) -> Result<Admitted, &'static str> {
        let token = (!token.is_empty()).then(|| TokenHash::of(token));
        let client = self.decide(token, |token| self.tokens.find(token))?;
        Ok(Admitted { token, client })
    }
}

impl PeerGate<'_> {
    /// Whether a peer that was admitted would be now, and as which client.
    ///
    /// # Errors
    /// Why not.
    pub fn readmit(&self, admitted: Admitted) -> Result<Option<ClientId>, &'static str> {
        self.decide(admitted.token, |token| self.tokens.find_again(token))
    }

    fn decide(
        &self,
        token: Option<TokenHash>,
        find: impl FnOnce(TokenHash) -> Option<Option<ClientId>>,
    ) -> Result<Option<ClientId>, &'static str> {
        if let Some(reason) = self.access.refused {
            return Err(reason);
        }
        if self.tokens.is_empty() {
            return Ok(None);
        }
        let Some(token) = token else {
            return match self.access.certificate {
                Certificate::Client(client) => Ok(Some(client)),
                Certificate::Other => {
                    Err("this server requires a token: the certificate is not that of a client (certificate_name)")
                }
                Certificate::None => Err("this server requires a token; the agent sent none"),
            };
        };
        if !self.access.is_private && !self.tokens.allow_plaintext {
            return Err("tokens in clear are accepted from this machine only (TLS, server.allow_plaintext_tokens)");
        }
        let found = find(token).ok_or("unknown token")?;
        match (self.access.certificate, found) {
            (Certificate::Client(client), Some(other)) if client != other => {
                Err("the token is that of another client than the certificate")
            }
            (Certificate::Client(client), _) => Ok(Some(client)),
            (_, found) => Ok(found),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: Access = Access { is_private: false, refused: None, certificate: Certificate::None };
    const PRIVATE: Access = Access { is_private: true, ..OPEN };

    /// The client as which a peer is admitted.
    fn admit(tokens: &Tokens, access: Access, token: &[u8]) -> Result<Option<ClientId>, &'static str> {
        let admitted = tokens.gate(access).admit(token);
        if let Ok(admitted) = admitted {
            assert_eq!(tokens.gate(access).readmit(admitted), Ok(admitted.client), "the same again");
        }
        admitted.map(|admitted| admitted.client)
    }

    #[test]
    fn without_tokens_everybody_comes_in() {
        assert_eq!(admit(&Tokens::from_lines("\n \n", false), OPEN, b"anything"), Ok(None));
    }

    #[test]
    fn tokens_are_matched_whole_and_trimmed() {
        let tokens = Tokens::from_lines(" secret \nother\n", false);
        for (token, known) in [("secret", true), ("other", true), ("secre", false), ("secret2", false), ("", false)] {
            assert_eq!(admit(&tokens, PRIVATE, token.as_bytes()).is_ok(), known, "{token}");
        }
    }

    #[test]
    fn tokens_in_clear_stay_on_this_machine_unless_allowed() {
        assert!(admit(&Tokens::from_lines("secret", false), OPEN, b"secret").is_err());
        assert!(admit(&Tokens::from_lines("secret", true), OPEN, b"secret").is_ok());
    }

    #[test]
    fn the_token_of_a_client_names_it() {
        let mut tokens = Tokens::from_lines("common", false);
        tokens.add_client("api", Some(TokenHash::of(b"one")), None).unwrap();
        tokens.add_client("edge", Some(TokenHash::of(b"two")), None).unwrap();
        for (token, client) in [("common", None), ("one", Some(ClientId(0))), ("two", Some(ClientId(1)))] {
            assert_eq!(admit(&tokens, PRIVATE, token.as_bytes()), Ok(client), "{token}");
        }
        assert_eq!(admit(&tokens, PRIVATE, b"three"), Err("unknown token"));
        assert_eq!(tokens.name_of(Some(ClientId(1))), Some("edge"));
        assert_eq!((tokens.name_of(None), tokens.name_of(Some(ClientId(2)))), (None, None));
    }

    #[test]
    fn a_certificate_stands_for_its_client_and_needs_no_token() {
        let mut tokens = Tokens::from_lines("common", false);
        tokens.add_client("api", Some(TokenHash::of(b"one")), Some("api.example.org")).unwrap();
        tokens.add_client("edge", None, Some("edge.example.org")).unwrap();
        let certificate = |name: Option<&str>| Access { certificate: tokens.certificate(name), ..PRIVATE };
        let (api, edge) = (certificate(Some("API.example.org")), certificate(Some("edge.example.org")));
        assert_eq!(
            (api.certificate, edge.certificate),
            (Certificate::Client(ClientId(0)), Certificate::Client(ClientId(1)))
        );
        assert_eq!(certificate(None).certificate, Certificate::Other);
        let other = certificate(Some("other.example.org"));
        let missing = "this server requires a token: the certificate is not that of a client (certificate_name)";
        for (access, token, admitted) in [
            (api, "", Ok(Some(ClientId(0)))),
            (edge, "", Ok(Some(ClientId(1)))),
            (api, "one", Ok(Some(ClientId(0)))),
            (api, "common", Ok(Some(ClientId(0)))),
            (edge, "one", Err("the token is that of another client than the certificate")),
            (edge, "wrong", Err("unknown token")),
            (other, "", Err(missing)),
            (other, "one", Ok(Some(ClientId(0)))),
            (PRIVATE, "", Err("this server requires a token; the agent sent none")),
        ] {
            assert_eq!(admit(&tokens, access, token.as_bytes()), admitted, "{access:?} {token}");
        }
    }

    #[test]
    fn clients_without_tokens_keep_others_out() {
        let mut tokens = Tokens::default();
        tokens.add_client("edge", None, Some("edge")).unwrap();
        assert!(!tokens.is_empty());
        assert!(admit(&tokens, PRIVATE, b"").is_err() && admit(&tokens, PRIVATE, b"anything").is_err());
    }

    #[test]
    fn what_is_refused_by_its_connection_is_refused_with_every_token() {
        let refused = Access { refused: Some("without TLS"), ..PRIVATE };
        for tokens in [Tokens::default(), Tokens::from_lines("common", true)] {
            assert_eq!(admit(&tokens, refused, b"common"), Err("without TLS"));
        }
    }

    #[test]
    fn a_token_has_one_owner() {
        let mut tokens = Tokens::from_lines("common", false);
        assert_eq!(tokens.add_client("api", Some(TokenHash::of(b"common")), None), Err(None));
        tokens.add_client("api", Some(TokenHash::of(b"one")), None).unwrap();
        assert_eq!(tokens.add_client("edge", Some(TokenHash::of(b"one")), None), Err(Some("api")));
        assert_eq!(tokens.clients(), ["api"]);
    }

    #[test]
    fn clients_keep_their_ids_and_ids_their_clients() {
        let tokens = |names: &[&str], earlier: &Tokens| {
            let mut tokens = Tokens::from_lines("common", false).after(earlier);
            for name in names {
                tokens.add_client(name, Some(TokenHash::of(name.as_bytes())), None).unwrap();
            }
            tokens
        };
        let first = tokens(&["a", "b"], &Tokens::default());
        let of_b = first.gate(PRIVATE).admit(b"b").unwrap();
        let of_all = first.gate(PRIVATE).admit(b"common").unwrap();
        let second = tokens(&["c", "b"], &first);
        assert_eq!(
            (second.clients(), second.gone().collect::<Vec<_>>()),
            (&["a", "b", "c"].map(String::from)[..], vec![ClientId(0)])
        );
        assert_eq!(second.gate(PRIVATE).readmit(of_b), Ok(Some(ClientId(1))));
        assert_eq!(second.gate(PRIVATE).readmit(of_all), Ok(None));
        let third = tokens(&["a"], &second);
        assert_eq!(admit(&third, PRIVATE, b"a"), Ok(Some(ClientId(0))));
        assert_eq!(third.gate(PRIVATE).readmit(of_b), Err("unknown token"));
        // The token of nobody has become that of a client, and where there are none everybody is let in.
        let mut fourth = Tokens::from_lines("", false).after(&third);
        fourth.add_client("d", Some(TokenHash::of(b"common")), None).unwrap();
        assert_eq!(fourth.gate(PRIVATE).readmit(of_all), Ok(Some(ClientId(3))));
        assert!(fourth.gate(OPEN).readmit(of_all).is_err());
        let nobody = Tokens::default().after(&fourth);
        assert!(nobody.is_empty() && nobody.gate(OPEN).readmit(of_b) == Ok(None));
        // Who sent a token where none was needed is let in where it is.
        let early = nobody.gate(PRIVATE).admit(b"common").unwrap();
        assert_eq!(fourth.gate(PRIVATE).readmit(early), Ok(Some(ClientId(3))));
        assert!(fourth.gate(PRIVATE).readmit(nobody.gate(PRIVATE).admit(b"").unwrap()).is_err());
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
