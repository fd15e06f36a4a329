//! The client's side of a connection over a blocking socket.
//!
//! A client reads and writes on two threads. Both use one [`Session`], which is locked while it encrypts or decrypts, never while a
//! socket blocks. Only the thread that writes sends: what the other one has to send (an update of keys) goes with the next write.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, ClientConfig, ClientConnection, Error};

use super::trust::{builder, not_pem, roots};
use crate::limits::TLS_FILE_BYTES_MAX;
use crate::small_file::{self, Kinds};

/// Files of a client, in PEM.
#[derive(Debug, Clone, Copy, Default)]
pub struct ConnectorFiles<'a> {
    /// The authorities that are trusted. `None`: the public ones.
    pub ca_file: Option<&'a Path>,
    /// The certificate that the client shows, then those of authorities in between; and its private key.
    pub certificate: Option<(&'a Path, &'a Path)>,
}

/// Whom a client trusts, and what it shows of itself.
#[derive(Clone)]
pub struct Connector(Arc<ClientConfig>);

impl fmt::Debug for Connector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Connector")
    }
}

impl Connector {
    /// Reads the files.
    ///
    /// # Errors
    /// One cannot be read, or has not the content that it should have; the text is for people.
    pub fn new(files: ConnectorFiles<'_>) -> Result<Self, String> {
        let builder = builder()?.with_root_certificates(roots(files.ca_file, Kinds::Any)?);
        let config = match files.certificate {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let wrong = |path: &Path, error: &dyn fmt::Display| format!("{}: {error}", path.display());
                let chain = chain(cert).map_err(|error| wrong(cert, &pem_error(&error)))?;
                let private = read(key).and_then(|pem| PrivateKeyDer::from_pem_slice(&pem));
                let private = private.map_err(|error| wrong(key, &pem_error(&error)))?;
                builder.with_client_auth_cert(chain, private).map_err(|error| wrong(cert, &error))?
            }
        };
        Ok(Self(Arc::new(config)))
    }

    /// Trusts exactly the first certificate in the file, whatever names it has.
    ///
    /// # Errors
    /// As of [`Connector::new`].
    #[cfg(feature = "server")]
    pub(crate) fn exactly(cert_file: &Path) -> Result<Self, String> {
        let pem = small_file::read(cert_file, Kinds::Regular, TLS_FILE_BYTES_MAX).map_err(pem::Error::Io);
        let certificate = pem.and_then(|pem| CertificateDer::from_pem_slice(&pem));
        let certificate = certificate.map_err(|error| format!("{}: {}", cert_file.display(), pem_error(&error)))?;
        super::trust::exactly(certificate).map(Self)
    }

    /// What a connection to `host`, a name or an IP address, begins with.
    ///
    /// # Errors
    /// It is neither.
    pub(crate) fn start(&self, host: &str) -> io::Result<ClientConnection> {
        let name = ServerName::try_from(host.to_owned());
        let name = name.map_err(|_| io::Error::new(ErrorKind::InvalidInput, "the host is not a name of DNS"))?;
        ClientConnection::new(self.0.clone(), name).map_err(failed)
    }

    /// Runs the handshake with the server at `host`, to which `stream` is connected; sets no timeout of the socket in the end.
    ///
    /// # Errors
    /// The server is not trusted, does not speak TLS, or takes longer than `timeout`.
    pub(crate) fn connect(&self, host: &str, mut stream: &TcpStream, timeout: Duration) -> io::Result<Session> {
        let mut connection = self.start(host)?;
        let until = Instant::now() + timeout;
        while connection.is_handshaking() || connection.wants_write() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::new(ErrorKind::TimedOut, "the TLS handshake took too long"));
            }
            stream.set_write_timeout(Some(left))?;
            stream.set_read_timeout(Some(left))?;
            match step(&mut connection, &mut stream) {
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                other => other?,
            }
        }
        stream.set_write_timeout(None)?;
        stream.set_read_timeout(None)?;
        Ok(Session(Mutex::new(connection)))
    }
}

/// The certificates in a file that a command or a program names.
///
/// # Errors
/// It cannot be read, or is not PEM.
pub(crate) fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, pem::Error> {
    CertificateDer::pem_slice_iter(&read(path)?).collect()
}

fn read(path: &Path) -> Result<Vec<u8>, pem::Error> {
    small_file::read(path, Kinds::Any, TLS_FILE_BYTES_MAX).map_err(pem::Error::Io)
}

/// The error without what the file contains.
fn pem_error(error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => error.to_string(),
        error => not_pem(error).to_owned(),
    }
}

fn step(connection: &mut ClientConnection, stream: &mut &TcpStream) -> io::Result<()> {
    if connection.wants_write() {
        return connection.write_tls(stream).map(drop);
    }
    if connection.read_tls(stream)? == 0 {
        let why = "the server closed the connection in the TLS handshake; perhaps it does not speak TLS on this port";
        return Err(io::Error::new(ErrorKind::UnexpectedEof, why));
    }
    if let Err(error) = connection.process_new_packets() {
        // The server is told why; if that fails, it learns it from the end.
        let _ = connection.write_tls(stream);
        return Err(failed(error));
    }
    Ok(())
}

/// TLS's error, with what a person can do.
pub(crate) fn failed(error: Error) -> io::Error {
    let advice = match &error {
        Error::InvalidCertificate(_) => {
            "; check its authority (a CA file), its names and its expiry, and by which name the server is connected to"
        }
        Error::InvalidMessage(_) | Error::AlertReceived(AlertDescription::HandshakeFailure) => {
            "; perhaps the server does not speak TLS on this port"
        }
        Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA,
        ) => "; the server does not accept the certificate of this client, see its log",
        _ => "",
    };
    io::Error::new(ErrorKind::InvalidData, format!("TLS: {error}{advice}"))
}

/// A connection after its handshake.
pub(crate) struct Session(Mutex<ClientConnection>);

impl Session {
    fn lock(&self) -> MutexGuard<'_, ClientConnection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `bytes` as they are to be sent, in the order of the calls.
    ///
    /// # Errors
    /// The connection has failed.
    pub(crate) fn seal(&self, mut bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut connection = self.lock();
        let mut sealed = Vec::with_capacity(bytes.len() + bytes.len() / 256 + 64);
        while !bytes.is_empty() {
            // As much as rustls buffers.
            let taken = connection.writer().write(bytes)?;
            bytes = bytes.get(taken..).unwrap_or_default();
            take_records(&mut connection, &mut sealed)?;
        }
        Ok(sealed)
    }

    /// What is to be sent before the socket is half-closed.
    pub(crate) fn end(&self) -> Vec<u8> {
        let (mut connection, mut sealed) = (self.lock(), Vec::new());
        connection.send_close_notify();
        // A `Vec` takes all.
        let _ = take_records(&mut connection, &mut sealed);
        sealed
    }

    /// Appends what is in the received `bytes` to `plain`. `false`: the server sends nothing more.
    ///
    /// # Errors
    /// The server has sent an alert, or something that is not TLS.
    pub(crate) fn open(&self, mut bytes: &[u8], plain: &mut Vec<u8>) -> io::Result<bool> {
        let mut connection = self.lock();
        while !bytes.is_empty() {
            connection.read_tls(&mut bytes)?;
            let state = connection.process_new_packets().map_err(failed)?;
            let start = plain.len();
            plain.resize(start + state.plaintext_bytes_to_read(), 0);
            connection.reader().read_exact(plain.get_mut(start..).unwrap_or_default())?;
            if state.peer_has_closed() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn take_records(connection: &mut ClientConnection, into: &mut Vec<u8>) -> io::Result<()> {
    while connection.wants_write() {
        connection.write_tls(into)?;
    }
    Ok(())
}
