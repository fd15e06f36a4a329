//! A server with TLS, and a client that speaks it by hand.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};

use super::agent::ANSWER_TIMEOUT;
use super::certificates::{Authority, Issued};
use super::server::Server;

/// A date far behind every test.
pub(crate) const FAR: (i32, u8, u8) = (2120, 1, 1);

/// A server whose certificate is for `localhost` and 127.0.0.1.
pub(crate) struct TlsServer {
    pub(crate) server: Server,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) authority: Authority,
}

impl TlsServer {
    /// `settings` are further ones; `DIR` in them is the directory of the files.
    pub(crate) fn start(settings: &[&str]) -> Self {
        Self::start_with(settings, |_, _| {})
    }

    /// `prepare` may write further files, and gets the authority.
    pub(crate) fn start_with(settings: &[&str], prepare: impl FnOnce(&Path, &Authority)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let authority = Authority::new("of a test");
        let [cert, key] = settings_in(path, &authority);
        write(path, "ca.pem", &authority.pem);
        prepare(path, &authority);
        let mut all = vec![cert.as_str(), key.as_str()];
        all.extend(settings);
        let all: Vec<_> = all.iter().map(|setting| setting.replace("DIR", path.to_str().unwrap())).collect();
        let all: Vec<_> = all.iter().map(String::as_str).collect();
        let server = Server::start(path, &all);
        Self { server, directory, authority }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// A file in the directory.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Issues a certificate and writes it and its key: `NAME.pem` and `NAME.key`.
    pub(crate) fn issue(&self, name: &str, names: &[&str], serial: u64) -> Issued {
        let issued = self.authority.issue(names, serial, FAR);
        write(self.directory.path(), &format!("{name}.pem"), &issued.pem);
        write(self.directory.path(), &format!("{name}.key"), &issued.key);
        issued
    }

    /// A client of this server; `own`: what it shows.
    pub(crate) fn client(
        &self,
        own: Option<&Issued>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Arc<ClientConfig> {
        client(&self.authority, own, versions)
    }

    pub(crate) fn connect(&self, config: &Arc<ClientConfig>) -> TlsStream {
        TlsStream::connect(self.address(), config).unwrap()
    }
}

/// Writes a certificate for `localhost` and its key; the settings that name them.
pub(crate) fn settings_in(directory: &Path, authority: &Authority) -> [String; 2] {
    let issued = authority.issue(&["localhost", "127.0.0.1"], 1, FAR);
    let cert = write(directory, "server.pem", &issued.pem);
    let key = write(directory, "server.key", &issued.key);
    [format!("tls.cert_file={}", cert.display()), format!("tls.key_file={}", key.display())]
}

/// A client of servers of this authority; `own`: what it shows.
pub(crate) fn client(
    authority: &Authority,
    own: Option<&Issued>,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let builder = builder.with_root_certificates(roots);
    Arc::new(match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![own.der.clone().into()], key).unwrap()
        }
    })
}

pub(crate) fn write(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// A blocking connection with TLS.
pub(crate) struct TlsStream {
    pub(crate) tls: ClientConnection,
    pub(crate) tcp: TcpStream,
}

impl TlsStream {
    /// Connects; the handshake comes with the first bytes that are read or written.
    pub(crate) fn connect(address: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<Self> {
        let tls = ClientConnection::new(config.clone(), "localhost".try_into().unwrap()).unwrap();
        let tcp = TcpStream::connect(address)?;
        tcp.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(Self { tls, tcp })
    }

    /// Sends close_notify, and half-closes the socket.
    pub(crate) fn half_close(&mut self) -> io::Result<()> {
        self.tls.send_close_notify();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.tcp)?;
        }
        self.tcp.shutdown(Shutdown::Write)
    }

    /// Reads to close_notify; the end of the socket without it is an error.
    pub(crate) fn read_to_end(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.read_until_end(&mut bytes).map(|()| bytes)
    }

    fn read_until_end(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        Read::read_to_end(self, bytes).map(drop)
    }
}

impl Read for TlsStream {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        rustls::Stream::new(&mut self.tls, &mut self.tcp).read(room)
    }
}

impl Write for TlsStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        rustls::Stream::new(&mut self.tls, &mut self.tcp).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        rustls::Stream::new(&mut self.tls, &mut self.tcp).flush()
    }
}
