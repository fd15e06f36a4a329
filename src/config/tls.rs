//! `[tls]`: encryption on the server's port, and which clients it is for.

use std::path::PathBuf;

use serde::Deserialize;

use super::clients::ResolvedClient;
use super::resolve::Written;
use crate::tls::Files;

/// `[tls]`; `table.rs` documents each setting.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// `None`: TLS is not offered.
    pub cert_file: Option<PathBuf>,
    /// Set if `cert_file` is.
    pub key_file: Option<PathBuf>,
    /// `None` only while `client_auth` is off.
    pub client_ca_file: Option<PathBuf>,
    /// `None`: no certificate is revoked.
    pub client_crl_file: Option<PathBuf>,
    /// Whether clients show certificates.
    pub client_auth: ClientAuth,
    /// Who may send without TLS.
    pub plaintext: Plaintext,
}

/// Whether clients show certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    /// They are not asked.
    Off,
    /// They are asked, and need none.
    Request,
    /// Frames and POST without one are refused.
    Require,
}

/// Who may send without TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Plaintext {
    /// Everybody.
    Allow,
    /// Who is on this host.
    Loopback,
    /// Nobody.
    Refuse,
}

impl Tls {
    /// The files to read. `None`: TLS is not offered.
    pub fn files(&self) -> Option<Files> {
        let asks = self.client_auth != ClientAuth::Off;
        Some(Files {
            cert: self.cert_file.clone()?,
            key: self.key_file.clone()?,
            client_ca: self.client_ca_file.clone().filter(|_| asks),
            client_crl: self.client_crl_file.clone().filter(|_| asks),
        })
    }
}

/// What is wrong with one value beside another.
pub(super) fn check(tls: &Tls, clients: &[ResolvedClient], given: &Written<'_>, problems: &mut Vec<String>) {
    let mut problem = |key: &str, why: &str| problems.push(format!("{}: {why}", given.subject(key)));
    match (&tls.cert_file, &tls.key_file) {
        (Some(_), None) => problem("tls.cert_file", "needs tls.key_file, the private key of the certificate"),
        (None, Some(_)) => problem("tls.key_file", "needs tls.cert_file, the certificate of the key"),
        _ => {}
    }
    if tls.cert_file.is_none() {
        if tls.client_auth != ClientAuth::Off {
            problem("tls.client_auth", "needs TLS: set tls.cert_file and tls.key_file");
        }
        if tls.plaintext != Plaintext::Allow {
            problem("tls.plaintext", "needs TLS: set tls.cert_file and tls.key_file");
        }
    } else if tls.client_auth != ClientAuth::Off && tls.client_ca_file.is_none() {
        problem("tls.client_auth", "needs tls.client_ca_file, the authorities whose certificates are trusted");
    }
    if tls.client_auth == ClientAuth::Off {
        if tls.client_ca_file.is_some() {
            problem("tls.client_ca_file", "has no effect: set tls.client_auth to \"request\" or \"require\"");
        }
        for client in clients.iter().filter(|client| client.client.certificate_name.is_some()) {
            let name = &client.client.name;
            let origin = client.origin_of("certificate_name");
            problems.push(format!(
                "{origin}: clients.{name}.certificate_name: clients are not asked for certificates; set tls.client_auth"
            ));
        }
    } else if tls.client_crl_file.is_some() && tls.client_ca_file.is_none() {
        problem("tls.client_crl_file", "needs tls.client_ca_file");
    }
}
