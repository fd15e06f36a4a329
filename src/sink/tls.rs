//! TLS towards a store: rustls with ring, and which certificates are trusted.
//!
//! The public roots are compiled in: a static binary in an empty container finds no store of the system's.

use std::error::Error;
use std::path::Path;
#[cfg(any(feature = "postgres", feature = "redis", feature = "http-sink"))]
use std::sync::Arc;

#[cfg(any(feature = "postgres", feature = "redis"))]
use rustls::ClientConfig;
use rustls::RootCertStore;
#[cfg(any(feature = "postgres", feature = "redis", feature = "http-sink"))]
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// Believes the certificates that the file's (or, without one, the public) authorities have signed for the name that is
/// connected to.
///
/// # Errors
/// The file cannot be read or has no certificate; the text is for people.
#[cfg(any(feature = "postgres", feature = "redis"))]
pub(crate) fn verifying(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let config = builder()?.with_root_certificates(roots(ca_file)?).with_no_client_auth();
    Ok(Arc::new(config))
}

/// Who has to act when TLS fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The certificate is not trusted, or is another name's.
    Certificate,
    /// What answers does not use TLS.
    NotTls,
    /// The server requires a certificate of its client, and sinks have none.
    ClientCertificate,
    /// Versions, ciphers, a broken record.
    Other,
}

/// What a TLS error means.
pub(crate) fn trouble(error: &rustls::Error) -> Trouble {
    use rustls::AlertDescription::{BadCertificate, CertificateRequired, HandshakeFailure};
    match error {
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => Trouble::Certificate,
        rustls::Error::InvalidMessage(_) => Trouble::NotTls,
        // TLS 1.2 has no alert of its own for a certificate that is missing.
        rustls::Error::AlertReceived(CertificateRequired | BadCertificate | HandshakeFailure) => {
            Trouble::ClientCertificate
        }
        _ => Trouble::Other,
    }
}

/// TLS's own error in an error of a connection or in one of its causes.
pub(crate) fn error_in<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    std::iter::successors(Some(error), |&error| error.source()).find_map(|error| {
        // What an I/O error holds is not its source.
        let held = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        held.and_then(|held| held.downcast_ref()).or_else(|| error.downcast_ref())
    })
}

/// TLS's own error in an error of the HTTP client.
#[cfg(feature = "http-sink")]
pub(crate) fn error_of_http(error: &ureq::Error) -> Option<&rustls::Error> {
    match error {
        ureq::Error::Rustls(error) => Some(error),
        ureq::Error::Io(error) => error_in(error),
        _ => None,
    }
}

/// The authorities that the file, or without one the public, names.
///
/// # Errors
/// As [`verifying`].
#[cfg(any(feature = "postgres", feature = "redis", feature = "grpc"))]
pub(crate) fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(path) => {
            roots.add_parsable_certificates(authorities(path)?);
        }
    }
    Ok(roots)
}

/// The certificates in the file; at least one, and each can be trusted.
///
/// # Errors
/// As those of [`verifying`].
pub(crate) fn authorities(ca_file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed = |why: &dyn std::fmt::Display| format!("ca_file {}: {why}", ca_file.display());
    let mut certificates = Vec::new();
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca_file).map_err(|error| failed(&error))? {
        let certificate = certificate.map_err(|error| failed(&error))?;
        roots.add(certificate.clone()).map_err(|error| failed(&error))?;
        certificates.push(certificate);
    }
    if certificates.is_empty() {
        return Err(failed(&"contains no certificate in PEM"));
    }
    Ok(certificates)
}

/// Reads a file of authorities as a sink does when it connects.
///
/// # Errors
/// As those of [`verifying`].
pub(crate) fn check_authorities(ca_file: Option<&Path>) -> Result<(), String> {
    ca_file.map_or(Ok(()), |path| authorities(path).map(drop))
}

#[cfg(any(feature = "postgres", feature = "redis"))]
fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, String> {
    // Named here, so that no process-wide default has to be installed first.
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())
}

/// The cryptography of all TLS connections: ring.
#[cfg(any(feature = "postgres", feature = "redis", feature = "http-sink"))]
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

#[cfg(feature = "postgres")]
pub(crate) use any_certificate::unverified;

#[cfg(feature = "postgres")]
mod any_certificate {
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
    use rustls::pki_types::{ServerName, UnixTime};
    use rustls::{DigitallySignedStruct, Error, SignatureScheme};

    use super::{Arc, CertificateDer, ClientConfig, builder, ring};

    /// Encrypts and trusts any certificate: protects from eavesdropping, not from a man in the middle.
    pub(crate) fn unverified() -> Result<Arc<ClientConfig>, String> {
        let config = builder()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(ring::default_provider())))
            .with_no_client_auth();
        Ok(Arc::new(config))
    }

    /// Checks that the peer holds the key of its certificate, but not whose certificate it is.
    #[derive(Debug)]
    struct AnyCertificate(CryptoProvider);

    impl ServerCertVerifier for AnyCertificate {
        fn verify_server_cert(
            &self,
            _end_entity: &CertificateDer<'_>,
            _intermediates: &[CertificateDer<'_>],
            _server_name: &ServerName<'_>,
            _ocsp_response: &[u8],
            _now: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }
}
