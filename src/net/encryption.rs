//! TLS on the port of the server: who may send with it and without it.

use std::net::IpAddr;
use std::sync::Arc;

use crate::session::tokens::{Access, Certificate, Tokens};
use crate::tls::{Acceptor, Machine, first_dns_name};

/// What all connections are held to.
#[derive(Default)]
pub struct Encryption {
    /// `None`: TLS is not offered.
    pub acceptor: Option<Arc<Acceptor>>,
    /// Frames, POST and syslog need the certificate of a client.
    pub requires_certificate: bool,
    /// From whom frames, POST and syslog are accepted without TLS.
    pub plaintext: Plaintext,
}

/// From whom frames, POST and syslog are accepted without TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Plaintext {
    /// From everywhere.
    #[default]
    Allow,
    /// From this host.
    Loopback,
    /// From nowhere.
    Refuse,
}

const NEEDS_CERTIFICATE: &str =
    "this server requires a client certificate (tls.client_auth): connect with TLS and show one";
const NEEDS_TLS: &str = "this server accepts events with TLS only (tls.plaintext)";
const NEEDS_TLS_FROM_ELSEWHERE: &str = "this server accepts events without TLS from its own host only (tls.plaintext)";

impl Encryption {
    /// Of a connection as it was accepted.
    pub(super) fn access_without_tls(&self, ip: IpAddr) -> Access {
        let is_loopback = ip.is_loopback();
        let refused = match self.plaintext {
            _ if self.requires_certificate => Some(NEEDS_CERTIFICATE),
            Plaintext::Refuse => Some(NEEDS_TLS),
            Plaintext::Loopback if !is_loopback => Some(NEEDS_TLS_FROM_ELSEWHERE),
            Plaintext::Loopback | Plaintext::Allow => None,
        };
        Access { is_private: is_loopback, refused, certificate: Certificate::None }
    }

    /// Of a connection whose handshake is complete.
    pub(super) fn access_with_tls(&self, machine: &Machine, tokens: &Tokens) -> Access {
        let certificate = machine.client_certificate();
        let refused = (self.requires_certificate && certificate.is_none()).then_some(NEEDS_CERTIFICATE);
        let certificate = certificate
            .map_or(Certificate::None, |certificate| tokens.certificate(first_dns_name(certificate).as_deref()));
        Access { is_private: true, refused, certificate }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plaintext_is_accepted_as_set() {
        let [here, elsewhere] = ["127.0.0.1", "192.0.2.1"].map(|ip| ip.parse().unwrap());
        for (plaintext, from_here, from_elsewhere) in [
            (Plaintext::Allow, None, None),
            (Plaintext::Loopback, None, Some(NEEDS_TLS_FROM_ELSEWHERE)),
            (Plaintext::Refuse, Some(NEEDS_TLS), Some(NEEDS_TLS)),
        ] {
            let encryption = Encryption { plaintext, ..Encryption::default() };
            let of = |ip| encryption.access_without_tls(ip);
            assert_eq!((of(here).refused, of(elsewhere).refused), (from_here, from_elsewhere), "{plaintext:?}");
            assert!(of(here).is_private && !of(elsewhere).is_private);
        }
        let encryption = Encryption { requires_certificate: true, ..Encryption::default() };
        assert_eq!(encryption.access_without_tls(here).refused, Some(NEEDS_CERTIFICATE));
    }
}
