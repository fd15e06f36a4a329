//! Both sides of a connection, for tests.

use std::io::Read;
use std::sync::Arc;

use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};

pub(crate) use self::certificates::{Authority, Issued};
use super::{Acceptor, Files};

#[path = "../../tests/support/certificates.rs"]
mod certificates;

/// A server that shows `issued`, and perhaps asks clients for a certificate of `authority`, of which some are `revoked`.
pub(crate) fn acceptor(issued: &Issued, clients: Option<(&Authority, &[u64])>) -> Acceptor {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let client_ca = clients.map(|(authority, _)| write("ca", &authority.pem));
    let client_crl = clients.map(|(authority, revoked)| write("crl", &authority.revoked(revoked)));
    let files = Files { cert: write("cert", &issued.pem), key: write("key", &issued.key), client_ca, client_crl };
    Acceptor::new(files, true).unwrap()
}

/// A client that trusts `server` and shows `own`, with this version only.
pub(crate) fn client(
    server: &Issued,
    own: Option<&Issued>,
    version: &'static SupportedProtocolVersion,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(server.der.clone().into()).unwrap();
    let builder = ClientConfig::builder_with_provider(super::provider()).with_protocol_versions(&[version]).unwrap();
    let builder = builder.with_root_certificates(roots);
    let config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![own.der.clone().into()], key).unwrap()
        }
    };
    Arc::new(config)
}

/// A client that begins to connect to `localhost`.
pub(crate) fn connect(config: &Arc<ClientConfig>) -> ClientConnection {
    ClientConnection::new(config.clone(), "localhost".try_into().unwrap()).unwrap()
}

/// What a client sends next.
pub(crate) fn sent_by(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// Shows `bytes` to a client; what it reads of them.
pub(crate) fn show(client: &mut ClientConnection, mut bytes: &[u8]) -> Result<Vec<u8>, rustls::Error> {
    let mut plain = Vec::new();
    while !bytes.is_empty() {
        client.read_tls(&mut bytes).unwrap();
        let state = client.process_new_packets()?;
        let start = plain.len();
        plain.resize(start + state.plaintext_bytes_to_read(), 0);
        client.reader().read_exact(&mut plain[start..]).unwrap();
    }
    Ok(plain)
}
