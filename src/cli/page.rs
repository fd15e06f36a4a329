//! One page of a server, for `health` and `top`: at the URL of the arguments, or of the server of the settings.

mod own;

use std::io::{ErrorKind, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::Level;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};
use ureq::unversioned::transport::DefaultConnector;

use super::address::{Address, AddressError};
use super::terminal::fit;
use super::tls_args::TlsFiles;
use super::{Failure, SettingsArgs, logging};
use crate::escape::escape;
use crate::limits::{self, TLS_FILE_BYTES_MAX};
use crate::resolve::http::SystemResolver;
use crate::settings::hide::hide_in_all;
use crate::settings::url::Url;
use crate::small_file::{self, Kinds};
use crate::tls;

/// A page that can be asked for again and again.
pub(super) struct Page {
    from: From,
    /// Its URL without the query, which may hold a secret.
    pub shown: String,
    token: Option<Vec<u8>>,
    max_bytes: u64,
}

enum From {
    /// A server, over a connection that is kept. `has_scheme`: http or https was asked for.
    Url { agent: Box<ureq::Agent>, url: String, has_scheme: bool },
    /// The server of the settings, which has this certificate.
    Own { address: Address, cert_file: PathBuf, target: String },
}

/// What a server answers.
pub(super) struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Without the secrets of the URL, which a server may repeat.
    pub body: String,
    /// Why the body is not whole.
    pub incomplete: Option<String>,
}

impl Page {
    /// The page `name` of the server at `url`; without one, of the server of the settings. `command` asks for it.
    /// Certificates are for https, which is also meant where they are named and a scheme is not.
    ///
    /// # Errors
    /// The URL is not valid or certificates are of no use with it, or files or settings cannot be read.
    pub(super) fn new(
        (name, command): (&str, &str),
        url: Option<&str>,
        files: &TlsFiles,
        settings: &SettingsArgs,
        max_bytes: u64,
    ) -> Result<Self, Failure> {
        let has_files = files.ca_file.is_some() || files.cert.is_some();
        let has_scheme = url.is_none_or(|url| url.contains("://"));
        let url = match url {
            Some(url) => {
                let url = page_url(url, name).map_err(|error| Failure::Usage(error.to_string()))?;
                let url = match url.strip_prefix("http://") {
                    Some(rest) if has_files && !has_scheme => format!("https://{rest}"),
                    _ => url,
                };
                if has_files && !is_https(&url) {
                    return Err(Failure::Usage(
                        "--ca-file, --cert and --key are for https, the URL is http".to_owned(),
                    ));
                }
                url
            }
            None if has_files => {
                let why = "--ca-file, --cert and --key need a URL: the server of the settings is trusted by its own certificate";
                return Err(Failure::Usage(why.to_owned()));
            }
            None => {
                let address = Address::or_of_settings(None, settings, command)?;
                if let Some(cert_file) = settings.load()?.config.tls.cert_file {
                    let shown = format!("https://{address}/{name}");
                    let from = From::Own { address, cert_file, target: format!("/{name}") };
                    return Ok(Self { from, shown, token: None, max_bytes });
                }
                format!("http://{address}/{name}")
            }
        };
        let shown = url.split_once('?').map_or(url.as_str(), |(shown, _)| shown).to_owned();
        Ok(Self { from: From::Url { agent: Box::new(agent(files)?), url, has_scheme }, shown, token: None, max_bytes })
    }

    /// Sends this token from now on. `false`: it is the one that was sent before, or none was.
    pub(super) fn take_other_token(&mut self, token: Vec<u8>) -> bool {
        let is_other = self.token.as_ref().is_some_and(|known| *known != token);
        if is_other {
            self.token = Some(token);
        }
        is_other
    }

    /// The same page, with a bearer token in each request. Another machine gets it without TLS only at a URL that names `http`.
    ///
    /// # Errors
    /// The token would be sent unencrypted, and nobody asked for that.
    pub(super) fn with_token(self, token: Option<Vec<u8>>) -> Result<Self, Failure> {
        if let (Some(_), From::Url { url, has_scheme, .. }) = (&token, &self.from)
            && crosses_network_in_clear(url)
        {
            if !has_scheme {
                return Err(Failure::Usage(
                    "the token would be sent unencrypted: begin the URL with https://, or with http:// in a private network"
                        .to_owned(),
                ));
            }
            logging::message(Level::WARN, "the token is sent unencrypted: use https outside of a private network");
        }
        Ok(Self { token, ..self })
    }

    /// One GET.
    ///
    /// # Errors
    /// There is no answer; the message names the URL.
    pub(super) fn get(&self) -> Result<Answer, Failure> {
        let token = self.token.as_deref();
        match &self.from {
            From::Own { address, cert_file, target } => {
                let answer = own::get((address, target), cert_file, token, self.max_bytes);
                let (status, body) = answer.map_err(|why| Failure::Failed(format!("{}: {why}", self.shown)))?;
                Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned(), incomplete: None })
            }
            From::Url { agent, url, .. } => {
                let mut request = agent.get(url);
                if let Some(token) = token {
                    request = request.header("Authorization", [b"Bearer ", token].concat());
                }
                let mut answer = request.call().map_err(|error| Failure::Failed(explain(&self.shown, &error)))?;
                let mut body = Vec::new();
                let read = answer.body_mut().as_reader().take(self.max_bytes).read_to_end(&mut body);
                let asked = Url::new(&**url);
                let secrets = asked.parts().map(|parts| parts.secrets()).unwrap_or_default();
                let body = hide_in_all(&String::from_utf8_lossy(&body), secrets.iter().map(|secret| &**secret));
                let incomplete = read.err().map(|error| error.to_string());
                Ok(Answer { status: answer.status().as_u16(), body: body.to_string(), incomplete })
            }
        }
    }
}

/// What an error shows of a body: its first line, escaped, and `…` for what follows. Another server answers with a page of HTML.
pub(super) fn first_line(body: &str, chars_max: usize) -> String {
    let mut lines = body.trim().lines();
    let first =
        escape(lines.next().unwrap_or_default()).into_owned() + if lines.next().is_some() { " …" } else { "" };
    fit(&first, chars_max).into_owned()
}

fn agent(files: &TlsFiles) -> Result<ureq::Agent, Failure> {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(limits::HEALTH_TIMEOUT))
        .max_redirects(0)
        // A proxy's answer says nothing about the server.
        .proxy(None);
    let config = config.tls_config(tls_config(files)?);
    Ok(ureq::Agent::with_parts(config.build(), DefaultConnector::default(), SystemResolver))
}

fn tls_config(files: &TlsFiles) -> Result<TlsConfig, Failure> {
    let roots = match &files.ca_file {
        None => RootCerts::WebPki,
        Some(path) => {
            let authorities = tls::authorities(path, Kinds::Any).map_err(Failure::Failed)?;
            let certificates = authorities.iter().map(|authority| Certificate::from_der(authority).to_owned());
            RootCerts::Specific(Arc::new(certificates.collect()))
        }
    };
    // The provider is named here, so that no process-wide one has to be installed first.
    Ok(TlsConfig::builder()
        .root_certs(roots)
        .client_cert(client_certificate(files)?)
        .unversioned_rustls_crypto_provider(tls::provider())
        .build())
}

fn client_certificate(files: &TlsFiles) -> Result<Option<ClientCert>, Failure> {
    let (Some(cert), Some(key)) = (&files.cert, &files.key) else { return Ok(None) };
    let failed = |path: &Path, error: &dyn std::fmt::Display| Failure::Failed(format!("{}: {error}", path.display()));
    let chain = tls::chain(cert).map_err(|error| failed(cert, &error))?;
    let chain: Vec<_> = chain.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect();
    let key = small_file::read(key, Kinds::Any, TLS_FILE_BYTES_MAX)
        .map_err(|error| failed(key, &error))
        .and_then(|pem| PrivateKey::from_pem(&pem).map_err(|error| failed(key, &error)))?;
    Ok(Some(ClientCert::new_with_certs(&chain, key)))
}

fn explain(url: &str, error: &ureq::Error) -> String {
    let hint = match error {
        error if tls::error_of_http(error).is_some() || (is_https(url) && ended(error)) => {
            match tls::error_of_http(error).map(tls::trouble) {
                Some(tls::Trouble::Certificate) => {
                    "; name the authority with --ca-file, or ask the server itself over http"
                }
                // telemetryx itself, for one, closes the connection or answers with an alert.
                _ => "; perhaps the server does not speak TLS on this port: use http",
            }
        }
        ureq::Error::Io(error) if error.kind() == ErrorKind::ConnectionRefused => {
            "; nothing listens there: start the server, or check host and port"
        }
        _ => "",
    };
    // Without the prefix of the library.
    let error = match error {
        ureq::Error::Io(error) => error.to_string(),
        error => error.to_string(),
    };
    format!("{url}: {error}{hint}")
}

/// Whether the URL, which [`page_url`] returned, leads to another machine without TLS.
fn crosses_network_in_clear(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else { return false };
    let host = rest.split(['/', '?']).next().and_then(|host| host.parse::<Address>().ok());
    let is_loopback = |host: &str| match host.parse::<IpAddr>() {
        Ok(ip) => ip.to_canonical().is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    };
    !host.is_some_and(|address| is_loopback(&address.host))
}

fn is_https(url: &str) -> bool {
    url.starts_with("https://")
}

/// The server closed the connection without an answer.
fn ended(error: &ureq::Error) -> bool {
    let kinds = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
    matches!(error, ureq::Error::Io(error) if kinds.contains(&error.kind()))
}

/// Why a text is not a URL. The message does not repeat the text: it may hold a password.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum UrlError {
    #[error("URL: the scheme is not http or https")]
    Scheme,
    #[error("URL: user and password are not sent: leave them out")]
    User,
    #[error("URL: {0}")]
    Address(#[from] AddressError),
    #[error("URL: the path contains a character that must be written as %XX")]
    Path,
}

/// `host`, `host:port`, a base URL or a whole one. A path is kept; without one, or below one that ends in `/`, it is that
/// of `page`.
///
/// Without a scheme the port is that of a telemetryx server; with one, that of the scheme.
fn page_url(text: &str, page: &str) -> Result<String, UrlError> {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (Some(scheme.to_ascii_lowercase()), rest),
        None => (None, text),
    };
    if scheme.as_ref().is_some_and(|scheme| scheme != "http" && scheme != "https") {
        return Err(UrlError::Scheme);
    }
    let rest = rest.split_once('#').map_or(rest, |(rest, _)| rest);
    let (host, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if host.contains('@') {
        return Err(UrlError::User);
    }
    let address: Address = host.parse()?;
    if !target.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte)) {
        return Err(UrlError::Path);
    }
    // A zone is a matter of this host; in a URL its sign is escaped.
    let shown = address.to_string().replace('%', "%25");
    let host = match &scheme {
        // The scheme's port is not ours.
        Some(_) if !has_port(host) => shown.rsplit_once(':').map_or(shown.clone(), |(host, _)| host.to_owned()),
        _ => shown,
    };
    let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
    let target = match path {
        "" => format!("/{page}{query}"),
        path if path.ends_with('/') => format!("{path}{page}{query}"),
        _ => target.to_owned(),
    };
    Ok(format!("{}://{host}{target}", scheme.as_deref().unwrap_or("http")))
}

/// Whether a host that parses as an [`Address`] has a port.
fn has_port(host: &str) -> bool {
    let after_brackets = host.rsplit_once(']').map(|(_, port)| port);
    match after_brackets {
        Some(port) => !port.is_empty(),
        // An IPv6 address without brackets has several colons.
        None => host.matches(':').count() == 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_enough_and_a_path_is_kept() {
        for (url, asked) in [
            ("localhost", "http://localhost:4640/health"),
            ("localhost:4640", "http://localhost:4640/health"),
            ("localhost:1/ready", "http://localhost:1/ready"),
            ("::1", "http://[::1]:4640/health"),
            ("[::1]", "http://[::1]:4640/health"),
            ("[::1]:5", "http://[::1]:5/health"),
            ("http://h", "http://h/health"),
            ("HTTPS://h", "https://h/health"),
            ("https://h:8443", "https://h:8443/health"),
            ("http://[::1]", "http://[::1]/health"),
            ("http://[::1]:5/", "http://[::1]:5/health"),
            ("http://h:1/", "http://h:1/health"),
            ("http://h:1/health", "http://h:1/health"),
            ("http://h?a=b", "http://h/health?a=b"),
            ("http://h/ready?a=b#c", "http://h/ready?a=b"),
            ("http://h/behind/proxy/health", "http://h/behind/proxy/health"),
            ("https://h/behind/proxy/", "https://h/behind/proxy/health"),
            ("https://h/behind/proxy/?a=b", "https://h/behind/proxy/health?a=b"),
        ] {
            assert_eq!(page_url(url, "health").as_deref(), Ok(asked), "{url}");
        }
    }

    #[test]
    fn only_http_to_another_machine_is_read_by_others() {
        for url in ["localhost", "127.0.0.1:1", "[::1]:5", "[::ffff:127.0.0.1]:5/a", "https://h", "http://LOCALHOST"] {
            assert!(!crosses_network_in_clear(&page_url(url, "x").unwrap()), "{url}");
        }
        for url in ["h", "192.0.2.1", "http://h:1/behind", "http://localhost.example", "[2001:db8::1]"] {
            assert!(crosses_network_in_clear(&page_url(url, "x").unwrap()), "{url}");
        }
    }

    #[test]
    fn what_is_not_a_url_is_rejected() {
        for (url, error) in [
            ("", UrlError::Address(AddressError::NoHost)),
            ("http://", UrlError::Address(AddressError::NoHost)),
            ("http:///health", UrlError::Address(AddressError::NoHost)),
            ("/health", UrlError::Address(AddressError::NoHost)),
            ("ftp://h", UrlError::Scheme),
            ("http://h:x", UrlError::Address(AddressError::Port)),
            ("http://h:99999/health", UrlError::Address(AddressError::Port)),
            ("http://[::1", UrlError::Address(AddressError::Brackets)),
            ("http://user:secret@h/health", UrlError::User),
            ("user:secret@h", UrlError::User),
            ("http://h/a b", UrlError::Path),
            ("http://h/é", UrlError::Path),
        ] {
            assert_eq!(page_url(url, "health"), Err(error), "{url}");
        }
    }
}
