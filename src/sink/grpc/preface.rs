//! Whether HTTP/2 without TLS is spoken at an address: a server's first frame is its SETTINGS (RFC 9113, 3.4).
//!
//! ```text
//!  client: PRI * HTTP/2.0 … SM, SETTINGS (empty) ─▶      ◀─ server: SETTINGS; then the client closes
//! ```

use std::io::{self, Read, Write};
use std::time::Duration;

use http::Uri;
use thiserror::Error;

use super::super::{Unavailable, connection_advice, with_advice};
use crate::limits;
use crate::resolve;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const FRAME_HEADER_BYTES: usize = 9;
const SETTINGS: u8 = 4;
/// Of one setting: its name and its value.
const SETTING_BYTES: u32 = 6;

/// Why no HTTP/2 was answered.
#[derive(Debug, Error)]
pub(super) enum NoHttp2 {
    /// The connection cannot be opened, or failed.
    #[error("{}", with_advice(&.0.to_string(), connection_advice(.0)))]
    Connection(#[from] io::Error),
    /// Nothing was received within this time.
    #[error("no answer within {} ms: is this a gRPC service?", .0.as_millis())]
    Silent(Duration),
    /// The connection was closed before anything was received.
    #[error("the receiver closed the connection: is this a gRPC service, and without TLS? (else https:// in url)")]
    Closed,
    /// The answer is HTTP/1.1.
    #[error("an HTTP/1.1 service answers, and gRPC requires HTTP/2: check host and port in url")]
    Http1,
    /// The answer is a TLS alert.
    #[error("the receiver speaks TLS: name it with https:// in url")]
    Tls,
    /// The answer is none of these.
    #[error("the peer does not speak HTTP/2, which gRPC requires: check host and port in url")]
    Other,
}

impl NoHttp2 {
    /// What it means for the sink at `place`.
    pub(super) fn unavailable(&self, place: &str) -> Unavailable {
        let reason = format!("{place}: {self}");
        match self {
            Self::Connection(_) | Self::Silent(_) | Self::Closed => Unavailable::retry(reason),
            Self::Http1 | Self::Tls | Self::Other => Unavailable::down(reason),
        }
    }
}

/// Connects to the receiver, and waits at most so long for the header of its first frame.
///
/// # Errors
/// There is no connection, or no HTTP/2.
pub(super) fn check(uri: &Uri, patience: Duration) -> Result<(), NoHttp2> {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let mut stream = resolve::connect(host, uri.port_u16().unwrap_or(80), limits::STORE_CONNECT_TIMEOUT)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.write_all(PREFACE)?;
    let mut header = [0; FRAME_HEADER_BYTES];
    let mut filled = 0;
    while let Some(free) = header.get_mut(filled..).filter(|free| !free.is_empty()) {
        match stream.read(free) {
            Ok(0) => return Err(NoHttp2::Closed),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Err(NoHttp2::Silent(patience));
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(NoHttp2::Closed),
            Err(error) => return Err(error.into()),
        }
        verdict(header.get(..filled).unwrap_or_default())?;
    }
    Ok(())
}

/// Whether this can be the beginning of the header of a SETTINGS frame.
fn verdict(header: &[u8]) -> Result<(), NoHttp2> {
    const TLS_ALERT: &[u8] = b"\x15\x03";
    let is_of = |bytes: &[u8]| header.iter().zip(bytes).all(|(one, other)| one == other);
    match header {
        [b'H', ..] => if_whole(header, b"HTTP/1", NoHttp2::Http1),
        [0x15, ..] if is_of(TLS_ALERT) => if_whole(header, TLS_ALERT, NoHttp2::Tls),
        [a, b, c, kind, ..] => {
            let length = u32::from_be_bytes([0, *a, *b, *c]);
            if *kind == SETTINGS && length.is_multiple_of(SETTING_BYTES) { Ok(()) } else { Err(NoHttp2::Other) }
        }
        _ => Ok(()),
    }
}

/// `verdict` once all of `bytes` are there; [`NoHttp2::Other`] where others are.
fn if_whole(header: &[u8], bytes: &[u8], verdict: NoHttp2) -> Result<(), NoHttp2> {
    if header.starts_with(bytes) {
        return Err(verdict);
    }
    if bytes.starts_with(header) { Ok(()) } else { Err(NoHttp2::Other) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is known after each byte; the last is the end of it.
    fn of(bytes: &[u8]) -> Option<String> {
        let verdicts = (1..=bytes.len()).map(|length| verdict(&bytes[..length]));
        verdicts.filter_map(Result::err).map(|error| format!("{error:?}")).next()
    }

    #[test]
    fn the_first_frame_of_a_server_is_its_settings() {
        for (bytes, verdict) in [
            (&b"\0\0\x12\x04\0\0\0\0\0"[..], None),
            (b"\0\0\0\x04\0\0\0\0\0", None),
            (b"\0\0\x05\x04\0\0\0\0\0", Some("Other")),
            (b"\0\0\0\x07\0\0\0\0\0", Some("Other")),
            (b"HTTP/1.1 ", Some("Http1")),
            (b"HTTP/1.0 ", Some("Http1")),
            (b"HELO x\r\n", Some("Other")),
            (b"\x15\x03\x03\0\x02", Some("Tls")),
            (b"SSH-2.0-x", Some("Other")),
            (b"<html>\r\n\r", Some("Other")),
        ] {
            assert_eq!(of(bytes).as_deref(), verdict, "{bytes:?}");
        }
    }
}
