//! The least that a server does with TLS: decrypt, and forget.

use std::io::{self, Read};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

/// Connections in the handshake at a time.
const THREADS: u64 = 64;
/// A handshake that takes longer has failed.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// What connections are opened with.
pub(super) fn config(cert: &str, key: &str) -> io::Result<Arc<ServerConfig>> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect);
    let (chain, key) = (chain.map_err(io::Error::other)?, PrivateKeyDer::from_pem_file(key).map_err(io::Error::other)?);
    let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(io::Error::other)?.with_no_client_auth();
    builder.with_single_cert(chain, key).map(Arc::new).map_err(io::Error::other)
}

/// Decrypts what was received on a connection.
pub(super) fn receive(
    connection: &mut Option<ServerConnection>,
    config: &Arc<ServerConfig>,
    mut bytes: &[u8],
    stream: &mut TcpStream,
) -> io::Result<()> {
    let connection = begun(connection, config)?;
    while !bytes.is_empty() {
        connection.read_tls(&mut bytes)?;
        forget_plaintext(connection, stream)?;
    }
    Ok(())
}

/// One read of the socket, as large as rustls makes it, decrypted. False: the peer sends nothing more.
pub(super) fn receive_itself(
    connection: &mut Option<ServerConnection>,
    config: &Arc<ServerConfig>,
    stream: &mut TcpStream,
) -> io::Result<bool> {
    let connection = begun(connection, config)?;
    let is_open = connection.read_tls(stream)? > 0;
    forget_plaintext(connection, stream)?;
    Ok(is_open)
}

/// The connection, which is created for the first bytes.
fn begun<'a>(
    connection: &'a mut Option<ServerConnection>,
    config: &Arc<ServerConfig>,
) -> io::Result<&'a mut ServerConnection> {
    match connection {
        Some(connection) => Ok(connection),
        none => Ok(none.insert(ServerConnection::new(config.clone()).map_err(io::Error::other)?)),
    }
}

fn forget_plaintext(connection: &mut ServerConnection, stream: &mut TcpStream) -> io::Result<()> {
    let mut room = [0; 16 * 1024];
    connection.process_new_packets().map_err(io::Error::other)?;
    while matches!(connection.reader().read(&mut room), Ok(1..)) {}
    while connection.wants_write() {
        connection.write_tls(stream)?;
    }
    Ok(())
}

/// Connects `per_second` times in a second, each with a full handshake.
pub(super) fn handshakes(port: &str, cert: &str, per_second: &str, seconds: &str) -> io::Result<()> {
    let number = |text: &str| text.parse::<u64>().map_err(io::Error::other);
    let (port, per_second, seconds) = (port.parse().map_err(io::Error::other)?, number(per_second)?, number(seconds)?);
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(cert).map_err(io::Error::other)?;
    roots.add(certificate).map_err(io::Error::other)?;
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(io::Error::other)?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.resumption = Resumption::disabled();
    let config = Arc::new(config);
    let (next, failed, slowest) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::new(Duration::ZERO));
    let begin = Instant::now();
    let one = || loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= per_second * seconds {
            return;
        }
        let due = begin + Duration::from_secs_f64(number as f64 / per_second as f64);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if shake(port, &config).is_err() {
            failed.fetch_add(1, Ordering::Relaxed);
        }
        if let Ok(mut slowest) = slowest.lock() {
            *slowest = slowest.max(due.elapsed());
        }
    };
    thread::scope(|scope| (0..THREADS).for_each(|_| drop(scope.spawn(one))));
    let (failed, slowest) = (failed.load(Ordering::Relaxed), slowest.lock().map_or(Duration::ZERO, |slowest| *slowest));
    let complete = per_second * seconds - failed;
    let took = begin.elapsed().as_secs_f64();
    let slowest = slowest.as_secs_f64() * 1e3;
    println!(
        "{{\"complete\":{complete},\"failed\":{failed},\"seconds\":{took:.3},\"slowest_milliseconds\":{slowest:.1}}}"
    );
    Ok(())
}

fn shake(port: u16, config: &Arc<ClientConfig>) -> io::Result<()> {
    let name = "127.0.0.1".try_into().map_err(io::Error::other)?;
    let mut connection = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(HANDSHAKE_TIMEOUT))?;
    while connection.is_handshaking() || connection.wants_write() {
        connection.complete_io(&mut stream)?;
    }
    Ok(())
}

/// Writes a certificate for 127.0.0.1 and its key.
pub(super) fn certificate(folder: &str) -> io::Result<()> {
    let issued = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).map_err(io::Error::other)?;
    std::fs::write(Path::new(folder).join("cert.pem"), issued.cert.pem())?;
    std::fs::write(Path::new(folder).join("key.pem"), issued.signing_key.serialize_pem())
}
