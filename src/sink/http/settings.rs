//! The settings and their checks.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use ureq::http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use ureq::http::uri::Uri;

use super::Http;
use crate::settings::hide::hide;
use crate::settings::url::Parts;
use crate::settings::{Applies, Form, Problem, Secret, Setting, Url, Value};
use crate::sink::{Identity, Kind, Output, Sink, SinkConfig, tls};

/// What the settings know of it.
pub const KIND: Kind = Kind {
    name: "http",
    doc: "A service that receives events by POST over HTTP/1.1: at least once. Each request has the id of this log \
          and the positions of its events (Telemetryx-Server-Id, Telemetryx-Positions), so that the service can \
          recognize events that are sent again.",
    settings: &[
        Setting {
            key: "url",
            applies: Applies::OnRestart,
            default: Value::text("http://localhost:8080/"),
            form: Form::Url,
            doc: "http:// or https://, host, port, path and query. user:password@ in it becomes Authorization: \
                  Basic; write characters with a meaning in URLs as %XX. Redirects are not followed, and proxy \
                  settings of the environment are not used.",
        },
        Setting {
            key: "format",
            applies: Applies::OnRestart,
            default: Value::text("json"),
            form: Form::Choice(&["json", "ndjson", "protobuf"]),
            doc: "Body of a request. json: an array of events. ndjson: one event per line. Both have the fields of a \
                  file sink's lines. protobuf: an EventBatch of the events as they were received, without what the \
                  server adds (agent, time of receipt, and values for a missing source or time).",
        },
        Setting {
            key: "gzip",
            applies: Applies::OnRestart,
            default: Value::Flag(false),
            form: Form::Flag,
            doc: "Compress the body (Content-Encoding: gzip).",
        },
        Setting {
            key: "headers",
            applies: Applies::OnRestart,
            default: Value::Empty,
            form: Form::Secrets,
            doc: "Additional headers of each request, such as { X-Api-Key = \"${API_KEY}\" }. Their values are never \
                  shown.",
        },
        Setting {
            key: "token",
            applies: Applies::OnRestart,
            default: Value::text(""),
            form: Form::Secret,
            doc: "Sent as Authorization: Bearer TOKEN. Empty: none. Read at start.",
        },
        Setting {
            key: "ca_file",
            applies: Applies::OnRestart,
            default: Value::text(""),
            form: Form::Path,
            doc: "CA certificates (PEM) that are trusted for https://. Empty: the public authorities.",
        },
        Setting {
            key: "timeout",
            applies: Applies::OnRestart,
            default: Value::Duration(Duration::from_secs(60)),
            form: Form::Duration { min: Duration::from_secs(1), max: Duration::from_secs(3_600) },
            doc: "Longest time for one request, from looking up the host to the end of the answer; then the request \
                  is sent again.",
        },
    ],
    parse: |values| Ok(Box::new(values.read::<HttpSection>()?.validate()?)),
};

/// `kind = "http"`, each value as its row allows.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HttpSection {
    pub url: Url,
    pub format: Format,
    pub gzip: bool,
    pub headers: BTreeMap<String, Secret>,
    /// Empty: none.
    pub token: Secret,
    pub ca_file: Option<PathBuf>,
    pub timeout: Duration,
}

/// `kind = "http"`.
#[derive(Clone)]
pub struct HttpSettings {
    /// Where requests go, without user and password.
    pub(super) uri: Uri,
    /// Encoding of the body.
    pub(super) format: Format,
    /// Whether the body is compressed.
    pub(super) gzip: bool,
    /// Further header fields of each request, with that of the token or of the URL's user.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// For https only; `None`: the public authorities.
    pub(super) ca_file: Option<PathBuf>,
    /// Longest time for one request, name resolution and answer included.
    pub(super) timeout: Duration,
    /// What the service may repeat of URL, headers and token, and must not be shown.
    secrets: Vec<Secret>,
    output: Output,
}

/// Not derived: it would show the query of the URL.
impl fmt::Debug for HttpSettings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { output, format, gzip, headers, ca_file, timeout, .. } = self;
        out.debug_struct("HttpSettings")
            .field("output", output)
            .field("format", format)
            .field("gzip", gzip)
            .field("headers", headers)
            .field("ca_file", ca_file)
            .field("timeout", timeout)
            .finish_non_exhaustive()
    }
}

/// Encoding of a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// An array of events.
    Json,
    /// One event per line.
    Ndjson,
    /// An `EventBatch`.
    Protobuf,
}

impl Format {
    /// Value of `Content-Type`.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Ndjson => "application/x-ndjson",
            Self::Protobuf => "application/x-protobuf",
        }
    }
}

/// Header fields that the sink sets: a second one would contradict it.
const OWN_HEADERS: &[&str] = &[
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "te",
    "telemetryx-positions",
    "telemetryx-server-id",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];

impl HttpSection {
    /// Checks the values against each other, and parses URL and headers.
    pub(super) fn validate(self) -> Result<HttpSettings, Problem> {
        let uri = self.uri()?;
        let headers = self.sent_headers()?;
        if self.ca_file.is_some() && uri.scheme_str() != Some("https") {
            return Err(Problem::new("ca_file", "is for https:// only"));
        }
        Ok(HttpSettings {
            uri,
            headers,
            secrets: self.secrets(),
            // What is shown of a URL leaves out its query.
            output: Output::with_hidden(format!("http {}", self.url), format!("http {}", self.url.reveal())),
            format: self.format,
            gzip: self.gzip,
            ca_file: self.ca_file,
            timeout: self.timeout,
        })
    }

    /// Where to, without user and password.
    fn uri(&self) -> Result<Uri, Problem> {
        const EXPECTED: &str = "expected http:// or https://, a host, and a path with %XX for other signs";
        let parts = self.url.parts().map_err(|why| Problem::new("url", format!("{why}: {EXPECTED}")))?;
        if !matches!(parts.scheme, "http" | "https") || parts.hosts.len() != 1 {
            return Err(Problem::new("url", EXPECTED));
        }
        let query = parts.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
        let text = format!("{}://{}{}{query}", parts.scheme, parts.hosts_text(), parts.path);
        text.parse().map_err(|_| Problem::new("url", EXPECTED))
    }

    /// `Authorization: Basic` of the user and password in the URL.
    fn basic(&self) -> Option<String> {
        let parts = self.url.parts().ok()?;
        if parts.user.is_none() && parts.password.is_none() {
            return None;
        }
        let mut login = parts.user.clone().unwrap_or_default().into_bytes();
        login.push(b':');
        login.extend_from_slice(parts.password.as_deref().unwrap_or_default());
        Some(format!("Basic {}", STANDARD.encode(login)))
    }

    /// What the service gets and may repeat, whole and in pieces.
    fn secrets(&self) -> Vec<Secret> {
        let parts = self.url.parts().ok();
        let mut secrets = parts.map(Parts::secrets).unwrap_or_default();
        // A key may stand where a user does.
        secrets.extend(parts.and_then(|parts| parts.user.as_deref()).map(Cow::from));
        let basic = self.basic().map(Cow::from);
        for header in self.headers.values().map(|value| Cow::from(value.reveal())).chain(basic) {
            secrets.extend(pieces(&header).into_iter().map(Cow::from));
            secrets.push(header);
        }
        secrets.push(self.token.reveal().into());
        secrets.into_iter().map(Secret::new).collect()
    }

    /// The headers that the settings name, ready to be sent. They do not show themselves.
    fn sent_headers(&self) -> Result<Vec<(HeaderName, HeaderValue)>, Problem> {
        let value = |text: &str| {
            let mut value = HeaderValue::from_str(text).ok()?;
            value.set_sensitive(true);
            Some(value)
        };
        let mut headers = Vec::with_capacity(self.headers.len() + 1);
        for (name, text) in &self.headers {
            let refuse = |why: &str| Problem::new(format!("headers.{name}"), why);
            if OWN_HEADERS.iter().any(|own| own.eq_ignore_ascii_case(name)) {
                return Err(refuse("is a header that the sink sets itself"));
            }
            let header = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| refuse("is not a name of a header: letters, digits and - are"))?;
            let value = value(text.reveal()).ok_or_else(|| refuse("contains a character that no header may have"))?;
            headers.push((header, value));
        }
        let named = self.headers.keys().any(|name| name.eq_ignore_ascii_case("authorization"));
        if let Some(basic) = self.basic() {
            if named || !self.token.reveal().is_empty() {
                return Err(Problem::new("url", "a user in it and token or headers.Authorization: keep one"));
            }
            headers.extend(value(&basic).map(|value| (AUTHORIZATION, value)));
        }
        let token = self.token.reveal();
        if !token.is_empty() {
            if named {
                return Err(Problem::new("token", "headers.Authorization is given too: keep one"));
            }
            let value = value(&format!("Bearer {token}")).ok_or_else(|| {
                Problem::new("token", "contains a character that no header may have, such as a line end")
            })?;
            headers.push((AUTHORIZATION, value));
        }
        Ok(headers)
    }
}

impl SinkConfig for HttpSettings {
    fn open(&self, _name: &str, identity: &Identity) -> Box<dyn Sink> {
        Box::new(Http::new(self, identity))
    }

    fn output(&self) -> Option<Output> {
        Some(self.output.clone())
    }

    fn check(&self) -> Result<(), String> {
        tls::check_authorities(self.ca_file.as_deref())
    }
}

impl HttpSettings {
    /// Where to, for messages.
    pub(super) fn place(&self) -> &str {
        self.output.shown()
    }

    /// `text`, which the service sent, without the secrets that it got.
    pub(super) fn hide(&self, text: &str) -> String {
        hide(text, self.secrets.iter().map(Secret::reveal))
    }
}

/// What of a header's value may be repeated without the rest: its parts, a value that a `=` gives a name, and what
/// Base64 of Basic holds.
fn pieces(value: &str) -> Vec<String> {
    const SCHEMES: [&str; 4] = ["basic", "bearer", "digest", "token"];
    let words = value.split([' ', '\t', ',', ';']);
    let words = words.filter(|word| !SCHEMES.iter().any(|scheme| scheme.eq_ignore_ascii_case(word)));
    let mut pieces = Vec::new();
    for word in words {
        pieces.push(word.to_owned());
        pieces.extend(word.split_once('=').map(|(_, value)| value.trim_matches('"').to_owned()));
        let login = STANDARD.decode(word).ok().and_then(|login| String::from_utf8(login).ok());
        if let Some((user, password)) = login.as_deref().and_then(|login| login.split_once(':')) {
            pieces.extend([user.to_owned(), password.to_owned()]);
        }
    }
    pieces
}
