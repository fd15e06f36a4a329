//! The page for people, and who may read what it shows.
//!
//! The page itself is static and open; what it shows comes from `/status.json`, which needs a token where senders need one.
//! Both answer only to a Host that is an IP address, `localhost` or one of `http.hosts`: a page of somebody else whose
//! name is made to lead here (DNS rebinding) reads nothing.

use std::net::Ipv4Addr;
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::head::Head;
use super::response::Refusal;
use super::{Ingress, Page};

/// The page: HTML with its style and script.
pub(super) const HTML: &str = include_str!("page.html");
/// Content type of [`HTML`].
pub(super) const CONTENT_TYPE: &str = "text/html; charset=utf-8";

/// Header fields of [`HTML`], each with its line end: it may run its own script, and connect to its own server only.
pub(super) fn fields_of_html() -> &'static str {
    static FIELDS: LazyLock<String> = LazyLock::new(|| {
        let [script, style] = ["script", "style"].map(|element| hash(element_text(element)));
        format!(
            "Content-Security-Policy: default-src 'none'; connect-src 'self'; img-src data:; script-src {script}; \
             style-src {style}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n\
             X-Frame-Options: DENY\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n\
             Cross-Origin-Opener-Policy: same-origin\r\nCache-Control: no-cache\r\n"
        )
    });
    &FIELDS
}

/// Header fields of `/status.json`.
pub(super) const FIELDS_OF_STATUS: &str =
    "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nCross-Origin-Resource-Policy: same-origin\r\n";

/// What is in the element of this name in the page, which has one.
fn element_text(element: &str) -> &'static str {
    let (_, rest) = HTML.split_once(&format!("<{element}>")).unwrap_or_default();
    rest.split_once(&format!("</{element}>")).unwrap_or_default().0
}

/// As in a Content-Security-Policy.
fn hash(text: &str) -> String {
    format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text.as_bytes())))
}

/// Why a request may not read `/status.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// Senders need tokens, and there is no pages token.
    NotSet,
    /// It came without a token.
    Missing,
    /// The token is not the pages token, or came over a connection that others may read.
    Wrong,
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::NotSet => Self::new(
                403,
                "this server requires tokens, and has none for its pages: set server.pages_token_file and run `telemetryx reload`",
            ),
            Denied::Missing => {
                Self::new(401, "send `Authorization: Bearer TOKEN` with the token of server.pages_token_file")
            }
            Denied::Wrong => Self::new(
                401,
                "this is not the token of server.pages_token_file, or it came unencrypted from another machine \
                 (server.allow_plaintext_tokens)",
            ),
        }
    }
}

/// # Errors
/// 421: the server does not have this name.
pub(super) fn check_host(head: &Head<'_>, ingress: &impl Ingress) -> Result<(), Refusal> {
    if head.host.is_some_and(|host| is_own(host, ingress)) {
        return Ok(());
    }
    Err(Refusal::new(
        421,
        "pages are not shown under this host name: use the IP address, or add the name to http.hosts",
    ))
}

/// # Errors
/// 401, 403, 421, of a page that is not open to everybody.
pub(super) fn check(page: Page, head: &Head<'_>, ingress: &mut impl Ingress) -> Result<(), Refusal> {
    if page != Page::Status {
        return Ok(());
    }
    check_host(head, ingress)?;
    ingress.may_read_status(head.bearer.map(str::as_bytes)).map_err(Refusal::from)
}

/// `host` is valid: an IPv6 address if it is in brackets.
fn is_own(host: &str, ingress: &impl Ingress) -> bool {
    let name = host.split(':').next().unwrap_or_default();
    host.starts_with('[')
        || name.parse::<Ipv4Addr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || ingress.has_host(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::STATUS_PAGE_BYTES_MAX;

    #[test]
    fn the_page_is_small_and_has_no_resources_from_elsewhere() {
        assert!(HTML.len() <= STATUS_PAGE_BYTES_MAX, "{} bytes", HTML.len());
        for sign in [
            "://",
            "src=",
            "@import",
            "url(",
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
        ] {
            assert!(!HTML.contains(sign), "the page has {sign}");
        }
        // A handler or a style in an attribute would need a looser policy.
        let tags = HTML.replace(element_text("script"), "");
        for attribute in [" style=", " onclick=", " onload=", " onerror=", " onsubmit="] {
            assert!(!tags.contains(attribute), "the page has an attribute{attribute}");
        }
        for element in ["script", "style"] {
            assert_eq!(HTML.matches(&format!("<{element}")).count(), 1, "one {element}");
            assert!(element_text(element).len() > 1_000);
        }
    }

    #[test]
    fn the_policy_allows_what_is_in_the_page_and_nothing_else() {
        let fields = fields_of_html();
        assert!(fields.contains("default-src 'none'; connect-src 'self'") && !fields.contains("unsafe"), "{fields}");
        assert!(fields.lines().all(|line| line.contains(": ")) && fields.ends_with("\r\n"));
        // `printf abc | openssl dgst -sha256 -binary | base64`
        assert_eq!(hash("abc"), "'sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0='");
    }
}
