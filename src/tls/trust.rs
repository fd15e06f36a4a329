//! Which certificates of servers are trusted, and what it means when one is not.
//!
//! The public roots are compiled in: a static binary in an empty container finds no store of the system's.

#[cfg(feature = "server")]
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};
use rustls::{ClientConfig, RootCertStore};

use crate::limits::TLS_FILE_BYTES_MAX;
use crate::small_file::{self, Kinds};

/// Trusts the certificates that the authorities of the file (or, without one, the public ones) have signed for the name that is
/// connected to.
///
/// # Errors
/// The file cannot be read or has no certificate; the text is for people.
#[cfg(any(feature = "postgres", feature = "redis"))]
pub(crate) fn verifying(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let config = builder()?.with_root_certificates(roots(ca_file, Kinds::Regular)?).with_no_client_auth();
    Ok(Arc::new(config))
}

/// Who has to act when TLS fails.
#[cfg(feature = "server")]
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
#[cfg(feature = "server")]
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
#[cfg(feature = "server")]
pub(crate) fn error_in<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    std::iter::successors(Some(error), |&error| error.source()).find_map(|error| {
        // What an I/O error holds is not its source.
        let held = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        held.and_then(|held| held.downcast_ref()).or_else(|| error.downcast_ref())
    })
}

/// TLS's own error in an error of the HTTP client.
#[cfg(feature = "server")]
pub(crate) fn error_of_http(error: &ureq::Error) -> Option<&rustls::Error> {
    match error {
        ureq::Error::Rustls(error) => Some(error),
        ureq::Error::Io(error) => error_in(error),
        _ => None,
    }
}

/// The authorities of the file, or without one the public ones.
///
/// # Errors
/// The file cannot be read or has no certificate; the text is for people.
pub(crate) fn roots(ca_file: Option<&Path>, kinds: Kinds) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(path) => {
            roots.add_parsable_certificates(authorities(path, kinds)?);
        }
    }
    Ok(roots)
}

/// What is wrong with a file. The error itself may contain its lines, and these a key.
pub(super) fn not_pem(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::NoItemsFound => "contains nothing of that kind in PEM",
        pem::Error::MissingSectionEnd { .. } => {
            "is not PEM: a section has no END line; BEGIN and END are lines of their own"
        }
        pem::Error::IllegalSectionStart { .. } => "is not PEM: a BEGIN line is malformed",
        pem::Error::Base64Decode(_) => "is not PEM: a section is not base64",
        pem::Error::Io(_) => "cannot be read",
        _ => "is not PEM",
    }
}

/// The certificates in the file; at least one, and each can be trusted.
///
/// # Errors
/// As those of [`roots`].
pub(crate) fn authorities(ca_file: &Path, kinds: Kinds) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed = |why: &dyn std::fmt::Display| format!("ca_file {}: {why}", ca_file.display());
    let mut certificates = Vec::new();
    let mut roots = RootCertStore::empty();
    let pem = small_file::read(ca_file, kinds, TLS_FILE_BYTES_MAX).map_err(|error| failed(&error))?;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| failed(&not_pem(&error)))?;
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
/// As those of [`roots`].
#[cfg(any(feature = "postgres", feature = "redis", feature = "grpc", feature = "http-sink"))]
pub(crate) fn check_authorities(ca_file: Option<&Path>) -> Result<(), String> {
    ca_file.map_or(Ok(()), |path| authorities(path, Kinds::Regular).map(drop))
}

/// A client's configuration to which it is to be added whom it trusts.
pub(crate) fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, String> {
    // Named here, so that no process-wide default has to be installed first.
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())
}

/// The cryptography of all TLS connections: ring.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Encrypts and trusts any certificate: protects from eavesdropping, not from a man in the middle.
#[cfg(feature = "postgres")]
pub(crate) fn unverified() -> Result<Arc<ClientConfig>, String> {
    let config = builder()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier::OfSignatures::new(None)))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Trusts exactly this certificate, whatever names it has and whoever signed it.
#[cfg(feature = "server")]
pub(crate) fn exactly(certificate: CertificateDer<'static>) -> Result<Arc<ClientConfig>, String> {
    let config = builder()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier::OfSignatures::new(Some(certificate))))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[cfg(feature = "server")]
mod verifier {
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
    use rustls::pki_types::{ServerName, UnixTime};
    use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

    use super::{CertificateDer, ring};

    /// Checks that the peer holds the key of its certificate; and whose it is only where one certificate is trusted.
    #[derive(Debug)]
    pub(super) struct OfSignatures {
        provider: CryptoProvider,
        trusted: Option<CertificateDer<'static>>,
    }

    impl OfSignatures {
        pub(super) fn new(trusted: Option<CertificateDer<'static>>) -> Self {
            Self { provider: ring::default_provider(), trusted }
        }
    }

    impl ServerCertVerifier for OfSignatures {
        fn verify_server_cert(
            &self,
            end_entity: &CertificateDer<'_>,
            _intermediates: &[CertificateDer<'_>],
            _server_name: &ServerName<'_>,
            _ocsp_response: &[u8],
            _now: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            match &self.trusted {
                Some(trusted) if trusted != end_entity => Err(CertificateError::UnknownIssuer.into()),
                _ => Ok(ServerCertVerified::assertion()),
            }
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.provider.signature_verification_algorithms.supported_schemes()
        }
    }
}
