//! URLs of stores: parsed once into parts, of which scheme, hosts and path are shown and the rest never is.
//!
//! ```text
//!  scheme :// user:password @ host:port,host:port /path ?query
//!             └── hidden ──┘  └─────── shown ─────────┘└ hidden
//! ```
//!
//! Sinks connect with these parts and no other parser reads the text again, so what is used and what is shown agree.
//! A raw `@` in a password belongs to it: the last one before the host separates. A raw `/`, `?` or `#` would end the
//! host; every such password leaves an `@` after the host, where none is accepted. Of a URL that cannot be parsed
//! nothing but its scheme is shown.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;

/// What a URL may begin with; anything else could be a part of a password.
const SCHEMES: [&str; 11] = [
    "http",
    "https",
    "postgres",
    "postgresql",
    "redis",
    "redis+unix",
    "rediss",
    "unix",
    "valkey",
    "valkey+unix",
    "valkeys",
];

/// Stands for what is not shown.
pub const HIDDEN: &str = "***";

/// Whether the text is a secret as it is shown, and not the secret: from the output of `telemetryx config`.
pub fn is_placeholder(text: &str) -> bool {
    let is_shown_url = |url: &str| {
        let Some((_, rest)) = url.split_once("://") else { return false };
        let login_is_hidden = rest.strip_prefix(HIDDEN).is_some_and(|rest| rest.is_empty() || rest.starts_with('@'));
        login_is_hidden || rest.split_once('?').is_some_and(|(_, query)| query == HIDDEN)
    };
    text == HIDDEN || text.split(',').any(is_shown_url)
}

/// Where a store is, and how to log in. Shown without user, password and query.
#[derive(Clone, Deserialize)]
#[serde(from = "String")]
pub struct Url {
    text: String,
    parts: Result<Parts, UrlError>,
}

/// The parts of a URL.
#[derive(Clone, PartialEq, Eq)]
pub struct Parts {
    /// One of the known schemes, in lower case.
    pub scheme: &'static str,
    /// Decoded.
    pub user: Option<String>,
    /// Decoded.
    pub password: Option<Vec<u8>>,
    /// Empty where the URL has no host.
    pub hosts: Vec<Host>,
    /// As written: percent-encoded, with its first `/`, or empty.
    pub path: String,
    /// As written, without its `?`.
    pub query: Option<String>,
}

/// A host and its port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Decoded, without the brackets of an IPv6 address. Never empty.
    pub name: String,
    /// `None`: the scheme's default.
    pub port: Option<u16>,
    /// As written.
    text: String,
}

/// Why a text is not a URL. Quotes nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// There is no `://` with a scheme before it.
    #[error("has no scheme, the part before ://")]
    NoScheme,
    /// A scheme that no sink supports.
    #[error("has a scheme that is not supported")]
    Scheme,
    /// A `%` without two hexadecimal digits.
    #[error("contains a % that two hexadecimal digits do not follow (write %25 for a %)")]
    Percent,
    /// An `@` after the host: probably an unescaped character in the password.
    #[error(
        "contains an @ after the host (in user and password write %2F for a /, %3F for a ?, %23 for a #; elsewhere \
         %40 for an @)"
    )]
    At,
    /// A fragment, which the URL of a store cannot have.
    #[error("contains a # (write %23)")]
    Fragment,
    /// A space or control character after the host.
    #[error("contains a space or a control character after the host (write it as %XX)")]
    Space,
    /// The decoded user is not UTF-8.
    #[error("contains a user that is not UTF-8")]
    User,
    /// A character that no host name has.
    #[error("contains a host with a character that no host name has (IPv6 addresses are written in [ ])")]
    Host,
    /// Several hosts, where the scheme allows one.
    #[error("names several hosts")]
    Several,
    /// A port, but no host.
    #[error("contains a port without a host")]
    NoHost,
    /// A port that is not a number from 1 to 65535.
    #[error("contains a port that is not a number from 1 to 65535")]
    Port,
}

impl Url {
    /// Parses `text`. One that is not a URL is kept, so that the settings can be read as a whole; [`Url::parts`] says
    /// what is wrong with it.
    pub fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        let parts = Parts::parse(&text);
        Self { text, parts }
    }

    /// The parts.
    ///
    /// # Errors
    /// The text is not a URL.
    pub fn parts(&self) -> Result<&Parts, UrlError> {
        self.parts.as_ref().map_err(|error| *error)
    }

    /// The whole text, to compare, not to show.
    pub fn reveal(&self) -> &str {
        &self.text
    }
}

impl From<String> for Url {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl PartialEq for Url {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Url {}

impl fmt::Display for Url {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.parts {
            Ok(parts) => write!(out, "{parts}"),
            Err(_) if self.text.is_empty() => Ok(()),
            Err(_) => match scheme(&self.text) {
                Some((scheme, _)) => write!(out, "{scheme}://{HIDDEN}"),
                None => out.write_str(HIDDEN),
            },
        }
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{self}")
    }
}

/// Several URLs with commas between them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub struct Urls(Vec<Url>);

impl Urls {
    /// A comma separates two URLs where a scheme follows it; any other is part of a password or of a list of hosts.
    pub fn new(text: &str) -> Self {
        let mut urls = Vec::new();
        let mut start = 0;
        for (comma, _) in text.match_indices(',') {
            let next = text.get(comma + 1..).unwrap_or_default();
            if scheme(next.trim_start()).is_some() {
                urls.push(Url::new(text.get(start..comma).unwrap_or_default().trim()));
                start = comma + 1;
            }
        }
        let last = text.get(start..).unwrap_or_default().trim();
        if !last.is_empty() || !urls.is_empty() {
            urls.push(Url::new(last));
        }
        Self(urls)
    }

    /// The URLs, in the order of the text.
    pub fn each(&self) -> &[Url] {
        &self.0
    }

    /// Whether there is no URL.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for Urls {
    fn from(text: String) -> Self {
        Self::new(&text)
    }
}

impl fmt::Display for Urls {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.iter().any(|url| url.parts.is_err()) {
            // Where one ends is a guess then: a password may have been taken for two URLs.
            return out.write_str(HIDDEN);
        }
        for (index, url) in self.0.iter().enumerate() {
            write!(out, "{}{url}", if index > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl Parts {
    fn parse(text: &str) -> Result<Self, UrlError> {
        let unknown = if text.contains("://") { UrlError::Scheme } else { UrlError::NoScheme };
        let (scheme, rest) = scheme(text).ok_or(unknown)?;
        check_percent(rest)?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, tail) = rest.split_at_checked(end).unwrap_or((rest, ""));
        if tail.contains('@') {
            return Err(UrlError::At);
        }
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (Some(login), hosts),
            None => (None, authority),
        };
        if hosts.contains(',') && !scheme.starts_with("postgres") {
            return Err(UrlError::Several);
        }
        if tail.contains('#') {
            return Err(UrlError::Fragment);
        }
        if tail.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err(UrlError::Space);
        }
        let (user, password) = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
            Some((user, password)) => (Some(decoded_text(user).ok_or(UrlError::User)?), Some(decoded(password))),
            None => (None, None),
        };
        let (path, query) = match tail.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (tail, None),
        };
        Ok(Self {
            scheme,
            user: user.filter(|user| !user.is_empty()),
            password: password.filter(|password| !password.is_empty()),
            hosts: parse_hosts(hosts)?,
            path: path.to_owned(),
            query,
        })
    }

    /// The path without the `/` around it, decoded.
    pub fn name_in_path(&self) -> Option<String> {
        decoded_text(self.path.trim_matches('/'))
    }

    /// The parameters of the query, decoded; `None`: one has no `=`, or is not UTF-8.
    pub fn parameters(&self) -> Option<Vec<(String, String)>> {
        let query = self.query.as_deref().unwrap_or_default();
        let parameter = |text: &str| {
            let (key, value) = text.split_once('=')?;
            Some((decoded_text(key)?, decoded_text(value)?))
        };
        query.split('&').filter(|text| !text.is_empty()).map(parameter).collect()
    }

    /// What of the URL is not shown and a server may repeat: the password, and the query with its pieces and the words of
    /// these. Percent-encoded where it is so in the URL.
    pub fn secrets(&self) -> Vec<Cow<'_, str>> {
        let mut secrets: Vec<_> = self.password.iter().map(|password| String::from_utf8_lossy(password)).collect();
        let query = self.query.as_deref().unwrap_or_default();
        secrets.push(query.into());
        for piece in query.split(['&', ';']) {
            secrets.push(piece.into());
            let value = piece.split_once('=').map_or(piece, |(_, value)| value);
            secrets.push(value.into());
            let words = decoded_text(value).unwrap_or_default();
            secrets.extend(words.split([' ', '=', ',']).map(|word| Cow::from(word.to_owned())));
        }
        secrets
    }

    /// The hosts with their ports, as written.
    pub fn hosts_text(&self) -> String {
        let hosts: Vec<&str> = self.hosts.iter().map(|host| host.text.as_str()).collect();
        hosts.join(",")
    }
}

/// As [`Url`] is shown.
impl fmt::Display for Parts {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}://", self.scheme)?;
        if self.user.is_some() || self.password.is_some() {
            write!(out, "{HIDDEN}@")?;
        }
        write!(out, "{}{}", self.hosts_text(), self.path)?;
        if self.query.is_some() {
            write!(out, "?{HIDDEN}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Parts {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{self}")
    }
}

/// The known scheme that the text begins with, and what follows its `://`.
fn scheme(text: &str) -> Option<(&'static str, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    let known = SCHEMES.into_iter().find(|known| known.eq_ignore_ascii_case(scheme))?;
    Some((known, rest))
}

fn check_percent(text: &str) -> Result<(), UrlError> {
    let digits = |rest: &str| rest.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    match text.split('%').skip(1).all(digits) {
        true => Ok(()),
        false => Err(UrlError::Percent),
    }
}

fn parse_hosts(text: &str) -> Result<Vec<Host>, UrlError> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    text.split(',').map(parse_host).collect()
}

fn parse_host(text: &str) -> Result<Host, UrlError> {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or(UrlError::Host)?;
            if !address.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":.%_-".contains(&byte)) {
                return Err(UrlError::Host);
            }
            match port.strip_prefix(':') {
                Some(port) => (address, port),
                None if port.is_empty() => (address, ""),
                None => return Err(UrlError::Host),
            }
        }
        None => {
            let (name, port) = text.split_once(':').unwrap_or((text, ""));
            if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_~%".contains(&byte)) {
                return Err(UrlError::Host);
            }
            (name, port)
        }
    };
    let name = decoded_text(name).filter(|name| !name.contains(char::is_control)).ok_or(UrlError::Host)?;
    if name.is_empty() {
        return Err(UrlError::NoHost);
    }
    let port = match port {
        "" => None,
        port if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(port.parse().ok().filter(|port| *port > 0).ok_or(UrlError::Port)?)
        }
        _ => return Err(UrlError::Port),
    };
    Ok(Host { name, port, text: text.to_owned() })
}

/// `%XX` replaced; every `%` is known to have its digits.
pub(super) fn decoded(text: &str) -> Vec<u8> {
    let mut pieces = text.split('%');
    let mut bytes = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        let (digits, rest) = piece.split_at_checked(2).unwrap_or((piece, ""));
        bytes.extend(u8::from_str_radix(digits, 16).ok());
        bytes.extend_from_slice(rest.as_bytes());
    }
    bytes
}

/// `%XX` replaced; `None`: the result is not UTF-8.
pub fn decoded_text(text: &str) -> Option<String> {
    String::from_utf8(decoded(text)).ok()
}

/// A text that was meant for something else and may be a URL with a password, as it may be shown.
pub fn not_a_url(text: &str) -> &str {
    if text.contains("://") { HIDDEN } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_scheme_hosts_and_path_are_shown() {
        for (text, shown) in [
            ("postgres://telemetryx@localhost/telemetryx", "postgres://***@localhost/telemetryx"),
            ("postgres://u:hunter2@db:5432/x?sslmode=require", "postgres://***@db:5432/x?***"),
            ("postgres://u:p@hunter2@127.0.0.1:15432/tx", "postgres://***@127.0.0.1:15432/tx"),
            ("postgres://u:hunter2,x@a:1,b:2,[::1]:3/d", "postgres://***@a:1,b:2,[::1]:3/d"),
            ("postgres://db/x?user=u&password=hunter2", "postgres://db/x?***"),
            ("postgres://hunter2@", "postgres://***@"),
            ("redis://:hunter2@h", "redis://***@h"),
            ("redis://h", "redis://h"),
            ("unix:///run/redis.sock?pass=hunter2", "unix:///run/redis.sock?***"),
            ("HTTP://h/?key=hunter2", "http://h/?***"),
            ("https://u:hunter2%40%2f%3f%23%25@h/v1", "https://***@h/v1"),
            ("", ""),
        ] {
            assert_eq!(Url::new(text).to_string(), shown);
            assert_eq!(format!("{:?}", Url::new(text)), shown);
        }
    }

    #[test]
    fn of_what_is_not_a_url_only_the_scheme_is_shown() {
        for (text, error, shown) in [
            ("hunter2", UrlError::NoScheme, "***"),
            ("u:hunter2@h", UrlError::NoScheme, "***"),
            ("host=db password=hunter2", UrlError::NoScheme, "***"),
            ("hunter2://u@h", UrlError::Scheme, "***"),
            ("postgres://u:hun/ter2@h/d", UrlError::At, "postgres://***"),
            ("postgres://u:5/ter2@h/d", UrlError::At, "postgres://***"),
            ("postgres://u:hun?ter2@h/d", UrlError::At, "postgres://***"),
            ("postgres://u:hun#ter2@h/d", UrlError::At, "postgres://***"),
            ("postgres://u:h@n/ter2@h/d", UrlError::At, "postgres://***"),
            ("http://h/?to=hunter2@x", UrlError::At, "http://***"),
            ("http://h/#hunter2", UrlError::Fragment, "http://***"),
            ("redis://u:hunter2", UrlError::Port, "redis://***"),
            ("redis://u:hunter2/3", UrlError::Port, "redis://***"),
            ("redis://:hunter2", UrlError::NoHost, "redis://***"),
            ("redis://u@h:hunter2", UrlError::Port, "redis://***"),
            ("redis://h:99999", UrlError::Port, "redis://***"),
            ("redis://h:0", UrlError::Port, "redis://***"),
            ("redis://u:100%@h", UrlError::Percent, "redis://***"),
            ("redis://u:%zz@h", UrlError::Percent, "redis://***"),
            ("redis://%ff:x@h", UrlError::User, "redis://***"),
            ("redis://h%0a", UrlError::Host, "redis://***"),
            ("redis://::1", UrlError::NoHost, "redis://***"),
            ("redis://fe80::1", UrlError::Port, "redis://***"),
            ("redis://[::1", UrlError::Host, "redis://***"),
            ("redis://[::1]x", UrlError::Host, "redis://***"),
            ("postgres://a,,b", UrlError::NoHost, "postgres://***"),
            ("http://a,hunter2", UrlError::Several, "http://***"),
            ("http://h/a b", UrlError::Space, "http://***"),
            ("http://h/a\n", UrlError::Space, "http://***"),
            ("http://h\n", UrlError::Host, "http://***"),
            ("http://h\\x", UrlError::Host, "http://***"),
        ] {
            let url = Url::new(text);
            assert_eq!((url.parts().unwrap_err(), url.to_string().as_str()), (error, shown), "{text:?}");
            let message = error.to_string();
            assert!(!message.contains("hunter2") && !message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn each_part_is_decoded_once() {
        let url = Url::new("PostgreSQL://us%3aer:p@:/@%252f%ff@%2frun%2Fpg:5433/a%20b?x=%26&y=");
        assert_eq!(url.parts().unwrap_err(), UrlError::At);
        let url = Url::new("PostgreSQL://us%3aer:p@:, %252f%ff@%2frun%2Fpg:5433,[fe80::1%25eth0]/a%20b?x=%26&y=");
        let parts = url.parts().unwrap();
        assert_eq!(parts.scheme, "postgresql");
        assert_eq!(parts.user.as_deref(), Some("us:er"));
        assert_eq!(parts.password.as_deref(), Some(&b"p@:, %2f\xff"[..]));
        let hosts: Vec<_> = parts.hosts.iter().map(|host| (host.name.as_str(), host.port)).collect();
        assert_eq!(hosts, [("/run/pg", Some(5433)), ("fe80::1%eth0", None)]);
        assert_eq!(parts.name_in_path().as_deref(), Some("a b"));
        assert_eq!(parts.parameters().unwrap(), [("x".into(), "&".into()), ("y".into(), String::new())]);
        assert_eq!(Url::new("http://h?a").parts().unwrap().parameters(), None);
        for text in ["redis://h", "redis://@h", "redis://:@h"] {
            let parts = Url::new(text).parts().unwrap().clone();
            assert_eq!((parts.user, parts.password), (None, None), "{text}");
        }
    }

    #[test]
    fn a_comma_separates_urls_where_a_scheme_follows() {
        for (text, shown) in [
            ("redis://:hunter2@a,redis://u:hunter2,2@b", "redis://***@a,redis://***@b"),
            ("redis://a:1, rediss://b:2", "redis://a:1,rediss://b:2"),
            ("redis://u:hun,ter2@a", "redis://***@a"),
            ("redis://u:h,redis://ter2@a", "***"),
            ("redis://u:h,x://ter2@a", "***"),
            ("redis://a,", "***"),
            ("redis://a,hunter2", "***"),
            ("hunter2", "***"),
            ("", ""),
        ] {
            assert_eq!(Urls::new(text).to_string(), shown, "{text}");
        }
        assert!(Urls::new(" ").is_empty());
        assert_eq!(Urls::new("redis://a:1, rediss://b:2").each(), [Url::new("redis://a:1"), Url::new("rediss://b:2")]);
    }

    #[test]
    fn what_is_shown_of_a_secret_is_not_taken_for_one() {
        for url in [
            "postgres://u:p@h/d",
            "postgres://h/d?sslmode=x",
            "redis://u:p@a,redis://:q@b",
            "http://u:p@h?x",
            "hunter2",
        ] {
            assert!(!is_placeholder(url), "{url}");
            let shown = Urls::new(url).to_string();
            assert!(is_placeholder(&shown), "{shown}");
        }
        for text in ["", "***x", "postgres://u:***@h/d", "redis://h", "http://h/***", "http://h/?a=***"] {
            assert!(!is_placeholder(text), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_password_is_shown(
            password in "[@:/?#%a-c0-9,\\[\\] \\\\é\n]{0,12}",
            user in "[@:/?#%a-c0-9]{0,3}",
            index in 0..SCHEMES.len(),
        ) {
            // A piece that nothing else has, wherever the signs around it lead.
            let text = format!("{}://{user}:{password}SECRET{password}@h:1/path", SCHEMES[index]);
            for shown in [Url::new(&*text).to_string(), Urls::new(&text).to_string()] {
                proptest::prop_assert!(!shown.contains("SECRET"), "{} in {}", shown, text);
            }
        }
    }
}
