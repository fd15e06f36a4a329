//! The server's side of one connection, without a socket: ciphertext in; plaintext, and ciphertext to send, out.
//!
//! ```text
//!   socket ─▶ wire: [held from before | received] ─▶ receive ─▶ room of the caller, what has no place there: plain
//!                                                        └────▶ out: handshake, alerts
//!   answers ──────────────────────────────────────▶ encrypt ──▶ out
//! ```
//!
//! This is rustls' unbuffered API: the caller owns the memory that ciphertext is received into, decrypted in and encrypted to, and
//! all connections of a loop share it. The buffered one would copy all ciphertext into a buffer of each connection, 4 KiB at a time.
//! The plaintext of TLS 1.3 is copied once, out of the wire: see [`in_place`].
//!
//! Memory of a connection, beside some KiB of rustls' state: at most [`TLS_HELD_BYTES_MAX`] of ciphertext that is not a whole record
//! (or handshake message) yet, and at most 18 KiB of plaintext that had no place with the caller. Both are freed once they are empty.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic};
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, ServerConfig};

use super::in_place;
use crate::limits::{
    TLS_FULL_RECORD_BYTES, TLS_FULL_RECORD_PLAIN_BYTES, TLS_HELD_BYTES_MAX, TLS_RECORD_BYTES_MAX, TLS_WIRE_BYTES,
};

/// How much is to be received for a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fill {
    /// What has a place in it.
    Within,
    /// All of it, for what is missing of a frame. What the last record has beyond it, and a part of the next record, are kept.
    Whole,
}

/// What received ciphertext came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Received {
    /// So many bytes of plaintext are in the room of the caller; at least one.
    Bytes(usize),
    /// No plaintext: a part of the handshake, or of a record.
    Nothing,
    /// The peer sends nothing more (close_notify).
    End,
}

/// One connection of the server.
pub(crate) struct Machine {
    connection: UnbufferedServerConnection,
    /// Ciphertext of which more has to come.
    held: Vec<u8>,
    /// Plaintext that had no place with the caller, and how much of it was taken since.
    plain: Vec<u8>,
    plain_taken: usize,
    /// The peer has sent close_notify.
    has_ended: bool,
    /// Nothing can be received or sent any more.
    has_failed: bool,
    /// Why, until it is taken: what was decrypted before comes first.
    failure: Option<Error>,
    /// Something was sent.
    has_answered: bool,
}

/// A record of version 1.2 with an alert: fatal, decode_error (RFC 8446, section 6). It is sent where a connection fails before anything
/// was sent, and rustls sends no alert: a connection that is only closed would look like a fault of the network.
const DECODE_ERROR: [u8; 7] = [21, 3, 3, 0, 2, 2, 50];

impl Machine {
    /// A connection that waits for ClientHello.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub(crate) fn new(config: Arc<ServerConfig>) -> Result<Self, Error> {
        Ok(Self {
            connection: UnbufferedServerConnection::new(config)?,
            held: Vec::new(),
            plain: Vec::new(),
            plain_taken: 0,
            has_ended: false,
            has_failed: false,
            failure: None,
            has_answered: false,
        })
    }

    /// Whether the handshake is not complete.
    pub(crate) fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// The certificate that the client has shown in the handshake, and which was verified.
    pub(crate) fn client_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.connection.peer_certificates()?.first()
    }

    /// Bytes of memory that wait for more ciphertext, or for room.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.held.len() + self.plain.len().saturating_sub(self.plain_taken)
    }

    /// Where the next ciphertext is to be received, in a buffer of [`TLS_WIRE_BYTES`]: after what is held.
    ///
    /// [`Fill::Within`]: with what is held no more than will have a place in `room` bytes of plaintext or in a record, so that nothing is
    /// left of what is decrypted into a room for a record. A handshake message may be longer: it is received record by record.
    ///
    /// [`Fill::Whole`]: as many full records as fill the room, in one read in place of several that become shorter.
    pub(crate) fn receive_at(&self, room: usize, fill: Fill) -> std::ops::Range<usize> {
        let held = self.held.len();
        let records = if held < TLS_RECORD_BYTES_MAX { TLS_RECORD_BYTES_MAX } else { held + TLS_RECORD_BYTES_MAX };
        let filled = match fill {
            Fill::Within => room,
            Fill::Whole => room.div_ceil(TLS_FULL_RECORD_PLAIN_BYTES) * TLS_FULL_RECORD_BYTES,
        };
        held..filled.max(records).min(TLS_WIRE_BYTES)
    }

    /// How many bytes of `next`, which come after what is held, end with a record: whoever receives only these holds nothing afterwards.
    pub(crate) fn whole_records(&self, next: &[u8]) -> usize {
        let held = self.held.len();
        let byte = |at: usize| if at < held { self.held.get(at) } else { next.get(at - held) };
        let mut end = 0;
        while let (Some(high), Some(low)) = (byte(end + 3), byte(end + 4)) {
            let after = end + 5 + usize::from(u16::from_be_bytes([*high, *low]));
            if after > held + next.len() {
                break;
            }
            end = after;
        }
        end.saturating_sub(held)
    }

    /// Takes plaintext that was left from before into `room`; returns how much.
    pub(crate) fn take_plain(&mut self, room: &mut [u8]) -> usize {
        let left = self.plain.get(self.plain_taken..).unwrap_or_default();
        let count = left.len().min(room.len());
        if let (Some(room), Some(taken)) = (room.get_mut(..count), left.get(..count)) {
            room.copy_from_slice(taken);
        }
        self.plain_taken += count;
        if self.plain_taken == self.plain.len() && !self.plain.is_empty() {
            (self.plain, self.plain_taken) = (Vec::new(), 0);
        }
        count
    }

    /// Whether there is plaintext that [`Machine::take_plain`] has not taken.
    pub(crate) fn has_plain(&self) -> bool {
        !self.plain.is_empty()
    }

    /// Why the connection has failed, once, where [`Machine::receive`] returned what was decrypted before. Take that first.
    pub(crate) fn take_failure(&mut self) -> Option<Error> {
        self.failure.take()
    }

    /// Whether a part of a record is held whose rest has not come.
    pub(crate) fn holds_part_of_record(&self) -> bool {
        !self.held.is_empty()
    }

    /// Whether the peer has announced that it sends nothing more (close_notify).
    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Whether the peer sends nothing more, and all that it sent was taken.
    pub(crate) fn is_at_end(&self) -> bool {
        self.has_ended && self.plain.is_empty()
    }

    /// Decrypts `wire`, whose bytes from [`Machine::receive_at`] on were received. Plaintext goes to `room`; what has to be sent is
    /// appended to `out`. Call [`Machine::take_plain`] first.
    ///
    /// # Errors
    /// The connection has failed; an alert that says why is in `out`. What was decrypted before is returned first; then
    /// [`Machine::take_failure`] has the error.
    pub(crate) fn receive(&mut self, wire: &mut [u8], room: &mut [u8], out: &mut Vec<u8>) -> Result<Received, Error> {
        if self.has_failed {
            return Err(Error::General("the connection has failed".to_owned()));
        }
        if let Some(front) = wire.get_mut(..self.held.len()) {
            front.copy_from_slice(&self.held);
        }
        let (unsent, mut filled) = (out.len(), 0);
        let processed = self.process(wire, room, &mut filled, out);
        self.has_answered |= out.len() > unsent;
        let used = match processed {
            Ok(used) => used,
            Err(error) => {
                self.has_failed = true;
                if !self.has_answered && !matches!(error, Error::AlertReceived(_)) {
                    out.extend_from_slice(&DECODE_ERROR);
                }
                self.held = Vec::new();
                if filled == 0 && self.plain.is_empty() {
                    return Err(error);
                }
                self.failure = Some(error);
                return Ok(if filled == 0 { Received::Nothing } else { Received::Bytes(filled) });
            }
        };
        let rest = wire.get(used..).filter(|_| !self.has_ended).unwrap_or_default();
        if rest.is_empty() {
            self.held = Vec::new();
        } else {
            self.held.clear();
            self.held.extend_from_slice(rest);
        }
        Ok(match filled {
            0 if self.is_at_end() => Received::End,
            0 => Received::Nothing,
            bytes => Received::Bytes(bytes),
        })
    }

    /// Returns how much of `wire` is done with. `filled`: the bytes of plaintext in `room`, also where a later record is wrong.
    fn process(
        &mut self,
        wire: &mut [u8],
        room: &mut [u8],
        filled: &mut usize,
        out: &mut Vec<u8>,
    ) -> Result<usize, Error> {
        let mut plain = Plain { room, filled, later: &mut self.plain };
        let mut used = 0;
        loop {
            let left = wire.get_mut(used..).unwrap_or_default();
            let (left_at, left_bytes) = (left.as_ptr().addr(), left.len());
            let capture = in_place::capture();
            let UnbufferedStatus { mut discard, state, .. } = self.connection.process_tls_records(left);
            let mut is_done = false;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    if let Some(record) = traffic.next_record().transpose()? {
                        discard += record.discard;
                        match capture.place(record.payload, left_at)? {
                            None => plain.put(record.payload),
                            Some(place) => {
                                plain.put(place.payload(wire.get(used..used + discard).unwrap_or_default())?);
                            }
                        }
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => encode(out, |out| data.encode(out))?,
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.has_ended = true,
                Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_) | ConnectionState::Closed) => {
                    is_done = true;
                }
                // Early data is not offered.
                Ok(_) => return Err(Error::General("the TLS library is in an unexpected state".to_owned())),
                Err(error) => {
                    used += discard;
                    self.collect_alert(wire.get_mut(used..).unwrap_or_default(), out);
                    return Err(error);
                }
            }
            capture.end()?;
            used += discard;
            if !is_done {
                continue;
            }
            if left_bytes.saturating_sub(discard) > TLS_HELD_BYTES_MAX && !self.has_ended {
                return Err(Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge));
            }
            return Ok(used);
        }
    }

    /// After an error: what is to be sent because of it.
    fn collect_alert(&mut self, wire: &mut [u8], out: &mut Vec<u8>) {
        // Not once more than that: the wrong record is still there.
        while self.connection.wants_write() {
            let Ok(ConnectionState::EncodeTlsData(mut data)) = self.connection.process_tls_records(wire).state else {
                return;
            };
            if encode(out, |out| data.encode(out)).is_err() {
                return;
            }
        }
    }

    /// Appends `bytes`, encrypted, to `out`. After a failure nothing is appended: the alert was the last that can be sent.
    ///
    /// # Errors
    /// The handshake is not complete, or the keys are used up.
    pub(crate) fn encrypt(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        self.write(out, |traffic, out| traffic.encrypt(bytes, out))
    }

    /// Appends close_notify to `out`: nothing more is sent. Before the handshake is complete, and after a failure, there is nothing
    /// to append.
    pub(crate) fn end_sending(&mut self, out: &mut Vec<u8>) {
        if !self.is_handshaking() {
            // There is no other way than to close.
            let _ = self.write(out, |traffic, out| traffic.queue_close_notify(out));
        }
    }

    fn write(
        &mut self,
        out: &mut Vec<u8>,
        mut call: impl FnMut(
            &mut WriteTraffic<'_, rustls::server::ServerConnectionData>,
            &mut [u8],
        ) -> Result<usize, EncryptError>,
    ) -> Result<(), Error> {
        let Self { connection, held, has_failed, .. } = self;
        while !*has_failed {
            let UnbufferedStatus { discard, state, .. } = connection.process_tls_records(held);
            let is_written = match state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    encode(out, |out| call(&mut traffic, out))?;
                    true
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(out, |out| data.encode(out))?;
                    false
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    false
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.has_ended = true;
                    false
                }
                Ok(ConnectionState::Closed) => true,
                Ok(_) => return Err(Error::HandshakeNotComplete),
                Err(error) => {
                    *has_failed = true;
                    return Err(error);
                }
            };
            held.drain(..discard);
            if is_written {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Where plaintext goes.
struct Plain<'a> {
    room: &'a mut [u8],
    /// Bytes of the room that have some.
    filled: &'a mut usize,
    /// What does not fit into it.
    later: &'a mut Vec<u8>,
}

impl Plain<'_> {
    fn put(&mut self, payload: &[u8]) {
        let free = self.room.get_mut(*self.filled..).unwrap_or_default();
        let (now, later) = payload.split_at(payload.len().min(free.len()));
        if let Some(free) = free.get_mut(..now.len()) {
            free.copy_from_slice(now);
        }
        *self.filled += now.len();
        self.later.extend_from_slice(later);
    }
}

/// What an encoder returns when it has too little room, and why it fails otherwise.
trait Needs: Sized {
    fn required(self) -> Result<usize, Error>;
}

impl Needs for EncodeError {
    fn required(self) -> Result<usize, Error> {
        match self {
            Self::InsufficientSize(size) => Ok(size.required_size),
            Self::AlreadyEncoded => Err(Error::General("a record was encoded twice".to_owned())),
        }
    }
}

impl Needs for EncryptError {
    fn required(self) -> Result<usize, Error> {
        match self {
            Self::InsufficientSize(size) => Ok(size.required_size),
            Self::EncryptExhausted => Err(Error::EncryptError),
        }
    }
}

/// Appends what `call` writes: it is asked for its size first.
fn encode<E: Needs>(out: &mut Vec<u8>, mut call: impl FnMut(&mut [u8]) -> Result<usize, E>) -> Result<(), Error> {
    let required = match call(&mut []) {
        Ok(_) => return Ok(()),
        Err(needs) => needs.required()?,
    };
    let start = out.len();
    out.resize(start + required, 0);
    let written = call(out.get_mut(start..).unwrap_or_default()).unwrap_or_default();
    out.truncate(start + written);
    if written == 0 { Err(Error::EncryptError) } else { Ok(()) }
}

/// The first DNS name that a certificate is for: who a client is. `None`: it has none.
pub(crate) fn first_dns_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    certificate.valid_dns_names().next().map(str::to_owned)
}

/// What a person can do about a handshake that failed; to be read after the error. Empty: nothing that is known.
pub(crate) fn explain(error: &Error) -> &'static str {
    match error {
        Error::InvalidCertificate(certificate) => match certificate {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the certificate of the client has expired: renew it"
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the certificate of the client is not valid yet: compare the clocks"
            }
            CertificateError::Revoked => "the certificate of the client is in tls.client_crl_file",
            CertificateError::UnknownRevocationStatus => {
                "tls.client_crl_file has no list of the authority that signed the certificate of the client"
            }
            CertificateError::UnknownIssuer => {
                "the certificate of the client is not signed by an authority in tls.client_ca_file"
            }
            _ => "the certificate of the client cannot be used: see its extended key usage (clientAuth)",
        },
        Error::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            // Of an authority with the same name and another key.
            | AlertDescription::DecryptError,
        ) => {
            "the client does not trust the certificate in tls.cert_file: give it the authority, and check name and expiry"
        }
        Error::PeerIncompatible(_) => "the client offers no version or cipher that this server has: TLS 1.2 or 1.3",
        _ => "",
    }
}

#[cfg(test)]
mod sealed_tests;
#[cfg(test)]
mod tests;
