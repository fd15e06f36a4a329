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
    /// Frames, POST and syslog without one are refused.
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
        for (key, file) in [("tls.client_ca_file", &tls.client_ca_file), ("tls.client_crl_file", &tls.client_crl_file)]
        {
            if file.is_some() {
                problem(key, "has no effect: set tls.client_auth to \"request\" or \"require\"");
            }
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

// The default sink is SQLite.
#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use super::*;
    use crate::config::{ConfigError, Layers};

    fn load(text: &str) -> Result<Tls, ConfigError> {
        let file = Some(("t.toml".to_owned(), text.to_owned()));
        let layers = Layers { file, environment: Default::default(), set: Vec::new() };
        layers.resolve().map(|resolved| resolved.config.tls)
    }

    #[test]
    fn without_a_certificate_there_is_no_tls() {
        let tls = load("").unwrap();
        assert_eq!((tls.files(), tls.client_auth, tls.plaintext), (None, ClientAuth::Off, Plaintext::Allow));
    }

    #[test]
    fn the_files_are_those_that_are_used() {
        let pair = "[tls]\ncert_file = \"c\"\nkey_file = \"k\"\n";
        let files = Files { cert: "c".into(), key: "k".into(), client_ca: None, client_crl: None };
        assert_eq!(load(pair).unwrap().files(), Some(files.clone()));
        let mutual = format!("{pair}client_ca_file = \"a\"\nclient_crl_file = \"r\"\nclient_auth = \"request\"");
        let expected = Files { client_ca: Some("a".into()), client_crl: Some("r".into()), ..files };
        assert_eq!(load(&mutual).unwrap().files(), Some(expected));
    }

    #[test]
    fn values_that_do_not_fit_together_are_named() {
        let client = "[[clients]]\nname = \"a\"\ncertificate_name = \"A.example\"\n";
        for (text, problem) in [
            (
                "cert_file = \"c\"",
                "t.toml:2: tls.cert_file = \"c\": needs tls.key_file, the private key of the certificate",
            ),
            ("key_file = \"k\"", "t.toml:2: tls.key_file = \"k\": needs tls.cert_file, the certificate of the key"),
            (
                "plaintext = \"refuse\"",
                "t.toml:2: tls.plaintext = \"refuse\": needs TLS: set tls.cert_file and tls.key_file",
            ),
            (
                "client_ca_file = \"a\"\nclient_auth = \"require\"",
                "t.toml:3: tls.client_auth = \"require\": needs TLS: set tls.cert_file and tls.key_file",
            ),
            (
                "cert_file = \"c\"\nkey_file = \"k\"\nclient_auth = \"request\"",
                "t.toml:4: tls.client_auth = \"request\": needs tls.client_ca_file, the authorities whose certificates are trusted",
            ),
            (
                "cert_file = \"c\"\nkey_file = \"k\"\nclient_ca_file = \"a\"",
                "t.toml:4: tls.client_ca_file = \"a\": has no effect: set tls.client_auth to \"request\" or \"require\"",
            ),
            (
                "cert_file = \"c\"\nkey_file = \"k\"\nclient_crl_file = \"r\"",
                "t.toml:4: tls.client_crl_file = \"r\": has no effect: set tls.client_auth to \"request\" or \"require\"",
            ),
            (
                client,
                "t.toml:4: clients.a.certificate_name: clients are not asked for certificates; set tls.client_auth",
            ),
        ] {
            assert_eq!(load(&format!("[tls]\n{text}")).unwrap_err().problems, [problem]);
        }
        let mutual = "[tls]\ncert_file = \"c\"\nkey_file = \"k\"\nclient_ca_file = \"a\"\nclient_auth = \"require\"\n";
        assert!(load(&format!("{mutual}{client}")).is_ok());
        let other = "[[clients]]\nname = \"b\"\ncertificate_name = \"a.EXAMPLE\"\n";
        let error = load(&format!("{mutual}{client}{other}")).unwrap_err().problems;
        let expected =
            "t.toml:11: clients.b.certificate_name is also that of clients.a: give each client its own".to_owned();
        assert_eq!(error, [expected]);
    }
}
