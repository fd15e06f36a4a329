//! Whether a server that does not answer as expected uses TLS, or does not: asked over a connection of its own, to
//! which no secret is sent. Bounded by [`limits::STORE_TLS_SILENCE`] for each step.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use crate::limits;
use crate::resolve;
use crate::sink::tls;

/// It answers an unencrypted PING, be it with a refusal.
pub(super) fn speaks_plain(host: &str, port: u16) -> bool {
    matches!(first_byte(host, port, b"PING\r\n"), Some(b'+' | b'-'))
}

/// It answers the first message of TLS with a handshake or an alert.
pub(super) fn speaks_tls(host: &str, port: u16) -> bool {
    const ALERT: u8 = 21;
    const HANDSHAKE: u8 = 22;
    let hello = || {
        let name = ServerName::try_from(host.to_owned()).ok()?;
        let mut session = ClientConnection::new(tls::verifying(None).ok()?, name).ok()?;
        let mut hello = Vec::new();
        session.write_tls(&mut hello).ok()?;
        Some(hello)
    };
    let first = hello().and_then(|hello| first_byte(host, port, &hello));
    matches!(first, Some(ALERT | HANDSHAKE))
}

/// The first byte of the answer to `bytes`.
fn first_byte(host: &str, port: u16, bytes: &[u8]) -> Option<u8> {
    let mut stream: TcpStream = resolve::connect(host, port, limits::STORE_CONNECT_TIMEOUT).ok()?;
    stream.set_read_timeout(Some(limits::STORE_TLS_SILENCE)).ok()?;
    stream.set_write_timeout(Some(limits::STORE_TLS_SILENCE)).ok()?;
    stream.write_all(bytes).ok()?;
    let mut first = [0];
    stream.read_exact(&mut first).ok()?;
    Some(first[0])
}
