//! Certificate, key and authorities of the server: read as a whole, checked as a whole.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ProducesTickets, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{Error, InconsistentKeys, RootCertStore, ServerConfig};

use super::{in_place, not_pem, provider, validity};
use crate::limits::TLS_FILE_BYTES_MAX;
use crate::small_file::{self, Kinds};

/// The files that the settings name; all in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// `tls.cert_file`: the server's certificate, then those of the authorities in between.
    pub cert: PathBuf,
    /// `tls.key_file`: its private key.
    pub key: PathBuf,
    /// `tls.client_ca_file`: whose certificates of clients are trusted. `None`: clients are not asked for one.
    pub client_ca: Option<PathBuf>,
    /// `tls.client_crl_file`: certificates that are revoked.
    pub client_crl: Option<PathBuf>,
}

/// The contents of the files at one moment. `Debug` would show the key.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    /// Authorities and revoked certificates.
    pub clients: [Option<Vec<u8>>; 2],
}

/// Certificates that belong together, ready for connections.
pub(super) struct Certificates {
    key: Arc<CertifiedKey>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    /// When the first certificate of the chain expires: its last second, since 1970.
    pub not_after: i64,
}

impl Files {
    /// Reads the files.
    ///
    /// # Errors
    /// One cannot be read. The text begins with the setting.
    pub(super) fn read(&self) -> Result<Contents, String> {
        let optional = |name, path: &Option<PathBuf>| path.as_deref().map(|path| read(name, path)).transpose();
        Ok(Contents {
            cert: read("cert_file", &self.cert)?,
            key: read("key_file", &self.key)?,
            clients: [optional("client_ca_file", &self.client_ca)?, optional("client_crl_file", &self.client_crl)?],
        })
    }

    /// Checks what was read.
    ///
    /// # Errors
    /// A file has not the content that it should have, or key and certificate do not belong together. The text begins with the setting.
    pub(super) fn check(&self, contents: &Contents) -> Result<Certificates, String> {
        let cert = Source { name: "cert_file", path: &self.cert };
        let chain = cert.certificates(&contents.cert)?;
        let not_after = chain.iter().map(|certificate| validity::not_after(certificate)).min().flatten();
        let not_after = not_after.ok_or_else(|| cert.wrong("contains a certificate that cannot be parsed"))?;
        let key = self.key(chain, &contents.key)?;
        let [authorities, revoked] = &contents.clients;
        let clients = match (&self.client_ca, authorities) {
            (Some(path), Some(authorities)) => Some(self.verifier(path, authorities, revoked.as_deref())?),
            _ => None,
        };
        Ok(Certificates { key: Arc::new(key), clients, not_after })
    }

    /// The chain with its key.
    fn key(&self, chain: Vec<CertificateDer<'static>>, pem: &[u8]) -> Result<CertifiedKey, String> {
        let source = Source { name: "key_file", path: &self.key };
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
            pem::Error::NoItemsFound if String::from_utf8_lossy(pem).contains("ENCRYPTED PRIVATE KEY") => {
                source.wrong("contains a key with a password: write it without one (openssl pkey)")
            }
            pem::Error::NoItemsFound => source.wrong("contains no private key in PEM"),
            other => source.wrong(not_pem(&other)),
        })?;
        CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => source
                .wrong(&format!("is not the key of the first certificate in tls.cert_file {}", self.cert.display())),
            Error::InvalidCertificate(_) => {
                let cert = Source { name: "cert_file", path: &self.cert };
                cert.wrong("contains a certificate that cannot be parsed")
            }
            other => source.wrong(&format!("contains a key that cannot be used: {other}")),
        })
    }

    /// Checks the certificates that clients present; those that present none are not refused in the handshake.
    fn verifier(
        &self,
        path: &Path,
        authorities: &[u8],
        revoked: Option<&[u8]>,
    ) -> Result<Arc<dyn ClientCertVerifier>, String> {
        let source = Source { name: "client_ca_file", path };
        let mut roots = RootCertStore::empty();
        for authority in source.certificates(authorities)? {
            roots.add(authority).map_err(|error| source.wrong(&format!("has an unusable certificate: {error}")))?;
        }
        let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        let lists = Source { name: "client_crl_file", path: self.client_crl.as_deref().unwrap_or(path) };
        if let Some(pem) = revoked {
            let found: Result<Vec<_>, String> = CertificateRevocationListDer::pem_slice_iter(pem)
                .map(|list| list.map_err(|error| lists.wrong(not_pem(&error))))
                .collect();
            let found = found?;
            // Without a list nothing would be looked up.
            if found.is_empty() {
                return Err(lists.wrong("contains no revocation list in PEM"));
            }
            builder = builder.with_crls(found);
        }
        let unusable = |error| lists.wrong(&format!("has an unusable list: {error}"));
        builder.allow_unauthenticated().build().map_err(unusable)
    }
}

impl Certificates {
    /// What connections are opened with. `tickets`: what sessions are resumed by. `are_sent`: also after a handshake of TLS 1.3.
    pub(super) fn config(&self, tickets: Arc<dyn ProducesTickets>, are_sent: bool) -> Result<Arc<ServerConfig>, Error> {
        let builder =
            ServerConfig::builder_with_provider(in_place::provider()).with_safe_default_protocol_versions()?;
        let builder = match &self.clients {
            Some(clients) => builder.with_client_cert_verifier(clients.clone()),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(self.key.clone())));
        // Agents keep their connections: one ticket is for the next one.
        config.send_tls13_tickets = usize::from(are_sent);
        config.ticketer = tickets;
        Ok(Arc::new(config))
    }
}

/// A file, for messages.
struct Source<'a> {
    name: &'static str,
    path: &'a Path,
}

impl Source<'_> {
    fn wrong(&self, why: &str) -> String {
        format!("tls.{}: {} {why}", self.name, self.path.display())
    }

    /// At least one certificate.
    fn certificates(&self, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
        let certificates: Result<Vec<_>, String> = CertificateDer::pem_slice_iter(pem)
            .map(|certificate| certificate.map_err(|error| self.wrong(not_pem(&error))))
            .collect();
        match certificates {
            Ok(none) if none.is_empty() => Err(self.wrong("contains no certificate in PEM")),
            certificates => certificates,
        }
    }
}

fn read(name: &'static str, path: &Path) -> Result<Vec<u8>, String> {
    let source = Source { name, path };
    small_file::read(path, Kinds::Regular, TLS_FILE_BYTES_MAX).map_err(|error| match error.kind() {
        ErrorKind::FileTooLarge => source.wrong(&format!("is {error}: it is another file")),
        _ => source.wrong(&format!("cannot be read: {error}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::{Authority, Issued};

    /// When the certificate expires, or what is wrong.
    fn load(files: &Files) -> Result<i64, String> {
        files.check(&files.read()?).map(|certificates| certificates.not_after)
    }

    /// A directory with files of these names.
    fn written(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    fn files_in(dir: &Path) -> Files {
        Files { cert: dir.join("cert"), key: dir.join("key"), client_ca: None, client_crl: None }
    }

    #[test]
    fn a_certificate_with_its_key_is_loaded_and_its_end_known() {
        let issued = Issued::self_signed_until("localhost", (2049, 12, 31));
        let dir = written(&[("cert", &issued.pem), ("key", &issued.key)]);
        assert_eq!(load(&files_in(dir.path())), Ok(2_524_521_600));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_setting_and_its_file() {
        let [one, other] = ["one", "other"].map(Issued::self_signed);
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n";
        for (cert, key, expected) in [
            ("", &one.key[..], "tls.cert_file: {}/cert contains no certificate in PEM"),
            (&one.key, &one.key, "tls.cert_file: {}/cert contains no certificate in PEM"),
            (&one.pem, "", "tls.key_file: {}/key contains no private key in PEM"),
            (&one.pem, &one.pem, "tls.key_file: {}/key contains no private key in PEM"),
            (
                &one.pem,
                encrypted,
                "tls.key_file: {}/key contains a key with a password: write it without one (openssl pkey)",
            ),
            (
                &one.pem,
                &other.key,
                "tls.key_file: {}/key is not the key of the first certificate in tls.cert_file {}/cert",
            ),
        ] {
            let dir = written(&[("cert", cert), ("key", key)]);
            let expected = expected.replace("{}", &dir.path().display().to_string());
            assert_eq!(load(&files_in(dir.path())), Err(expected));
        }
        let broken = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        let dir = written(&[("cert", broken), ("key", &one.key)]);
        let error = load(&files_in(dir.path())).err().unwrap();
        assert!(error.ends_with("cert contains a certificate that cannot be parsed"), "{error}");
        let dir = written(&[("key", &one.key)]);
        let error = load(&files_in(dir.path())).err().unwrap();
        assert!(error.starts_with("tls.cert_file: ") && error.contains(" cannot be read: "), "{error}");
        let large = "x".repeat(TLS_FILE_BYTES_MAX as usize + 1);
        let dir = written(&[("cert", &large), ("key", &one.key)]);
        let error = load(&files_in(dir.path())).err().unwrap();
        assert!(error.contains("is larger than"), "{error}");
    }

    #[test]
    fn a_key_that_is_not_in_lines_is_not_shown() {
        let one = Issued::self_signed("localhost");
        let on_one_line = one.key.replace('\n', " ");
        let without_dashes = one.key.replacen("KEY-----", "KEY--", 1);
        for key in [&on_one_line, &without_dashes] {
            let dir = written(&[("cert", &one.pem), ("key", key)]);
            let error = load(&files_in(dir.path())).err().unwrap();
            assert!(error.starts_with("tls.key_file: ") && error.len() < 250, "{error}");
            let secret = one.key.lines().nth(1).unwrap();
            let as_numbers = secret.bytes().take(8).map(|byte| byte.to_string()).collect::<Vec<_>>().join(", ");
            assert!(!error.contains(&secret[..16]) && !error.contains(&as_numbers), "{error}");
        }
    }

    #[test]
    fn authorities_of_clients_and_lists_of_revoked_certificates_are_checked() {
        let (issued, authority) = (Issued::self_signed("localhost"), Authority::new("clients"));
        let list = authority.revoked(&[]);
        for (ca, crl, wrong) in [
            (&authority.pem[..], Some(&list[..]), None),
            (&authority.pem, None, None),
            ("", None, Some("tls.client_ca_file: ")),
            (&authority.pem, Some(""), Some("tls.client_crl_file: ")),
            (&authority.pem, Some("\u{30}\u{82}\u{1}"), Some("tls.client_crl_file: ")),
            (
                &authority.pem,
                Some("-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n"),
                Some("tls.client_crl_file: "),
            ),
        ] {
            let dir = written(&[("cert", &issued.pem), ("key", &issued.key), ("ca", ca), ("crl", crl.unwrap_or(""))]);
            let client_crl = crl.map(|_| dir.path().join("crl"));
            let files = Files { client_ca: Some(dir.path().join("ca")), client_crl, ..files_in(dir.path()) };
            match (load(&files).err(), wrong) {
                (None, None) => {}
                (Some(error), Some(wrong)) => assert!(error.starts_with(wrong), "{error}"),
                (error, wrong) => panic!("{error:?}, not {wrong:?}"),
            }
        }
    }
}
