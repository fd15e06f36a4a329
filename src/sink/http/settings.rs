//! What a user sets, and what of it is wrong.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use ureq::http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use ureq::http::uri::Uri;

use super::super::Kind;
use crate::config::setting::{Form, Secret, Setting, Url, Value};

/// What the settings know of it.
pub const KIND: Kind = Kind {
    name: "http",
    doc: "A service that takes events by POST over HTTP/1.1: at least once. Each request names this log and the \
          positions of its events (Telemetryx-Server-Id, Telemetryx-Positions), so that the service can tell what comes \
          again.",
    settings: &[
        Setting {
            key: "url",
            default: Value::text("http://localhost:8080/"),
            form: Form::Url,
            doc: "http:// or https://, host, port, path and query. user:password@ in it becomes Authorization: Basic. \
                  Redirects are not followed, and no proxy of the environment is used.",
        },
        Setting {
            key: "format",
            default: Value::text("json"),
            form: Form::Choice(&["json", "ndjson", "protobuf"]),
            doc: "Body of a request. json: an array of events. ndjson: an event a line. Both have the fields of a file \
                  sink's lines. protobuf: an EventBatch of the events as they came, without what the server knows \
                  besides (agent, time of receipt, and the source and time that stand in for missing ones).",
        },
        Setting {
            key: "gzip",
            default: Value::Flag(false),
            form: Form::Flag,
            doc: "Compress the body (Content-Encoding: gzip).",
        },
        Setting {
            key: "headers",
            default: Value::Empty,
            form: Form::Secrets,
            doc: "Further headers of each request, such as { X-Api-Key = \"${API_KEY}\" }. Their values are never shown.",
        },
        Setting {
            key: "token",
            default: Value::text(""),
            form: Form::Secret,
            doc: "Sent as Authorization: Bearer TOKEN. Empty: none. Read at start.",
        },
        Setting {
            key: "ca_file",
            default: Value::text(""),
            form: Form::Path,
            doc: "Certificates (PEM) that https:// believes. Empty: the public authorities.",
        },
        Setting {
            key: "timeout",
            default: Value::Duration(Duration::from_secs(60)),
            form: Form::Duration { min: Duration::from_secs(1), max: Duration::from_secs(3_600) },
            doc: "Longest time for one request, from the host's name to the end of the answer; then it is tried again.",
        },
    ],
};

/// `kind = "http"`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub url: Url,
    pub format: Format,
    pub gzip: bool,
    pub headers: BTreeMap<String, Secret>,
    /// Empty: none.
    pub token: Secret,
    /// For https only.
    pub ca_file: Option<PathBuf>,
    pub timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Json,
    Ndjson,
    Protobuf,
}

impl Format {
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Ndjson => "application/x-ndjson",
            Self::Protobuf => "application/x-protobuf",
        }
    }
}

/// What a request says by itself: two of one would contradict each other.
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

type Problem = (Cow<'static, str>, String);

fn problem(key: &'static str, why: &str) -> Problem {
    (key.into(), why.to_owned())
}

impl Settings {
    /// What a person must change, and in which key.
    pub fn check(&self) -> Result<(), Problem> {
        let uri = self.uri()?;
        self.sent_headers()?;
        if self.ca_file.is_some() && uri.scheme_str() != Some("https") {
            return Err(problem("ca_file", "is for https:// only"));
        }
        Ok(())
    }

    /// Where to, without secrets.
    pub fn output(&self) -> String {
        format!("http {}", self.url)
    }

    pub(super) fn uri(&self) -> Result<Uri, Problem> {
        let expected = || problem("url", "expected http:// or https://, a host, and a path with %XX for other signs");
        let uri: Uri = self.url.with_secrets().parse().map_err(|_| expected())?;
        let known = matches!(uri.scheme_str(), Some("http" | "https"));
        let host = uri.host().unwrap_or_default();
        // The part behind # is for browsers, and would be left out in silence.
        if !known || host.is_empty() || self.url.with_secrets().contains('#') {
            return Err(expected());
        }
        let user = uri.authority().and_then(|authority| authority.as_str().rsplit_once('@')).map(|(user, _)| user);
        if user.is_some_and(|user| user.contains('%')) {
            let why = "user and password are sent as they stand, %XX too: set headers.Authorization instead";
            return Err(problem("url", why));
        }
        if user.is_some() && (!self.token.reveal().is_empty() || self.named("authorization").is_some()) {
            return Err(problem("url", "a user in it and token or headers.Authorization: keep one"));
        }
        Ok(uri)
    }

    /// The headers that the settings name, ready to be sent. They do not show themselves.
    pub(super) fn sent_headers(&self) -> Result<Vec<(HeaderName, HeaderValue)>, Problem> {
        let value = |text: &str| {
            let mut value = HeaderValue::from_str(text).ok()?;
            value.set_sensitive(true);
            Some(value)
        };
        let mut headers = Vec::with_capacity(self.headers.len() + 1);
        for (name, text) in &self.headers {
            let refuse = |why: &str| (Cow::from(format!("headers.{name}")), why.to_owned());
            if OWN_HEADERS.iter().any(|own| own.eq_ignore_ascii_case(name)) {
                return Err(refuse("is a header that the sink sets itself"));
            }
            let header = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| refuse("is no name of a header: letters, digits and - are"))?;
            let value = value(text.reveal()).ok_or_else(|| refuse("holds a sign that no header may have"))?;
            headers.push((header, value));
        }
        let token = self.token.reveal();
        if !token.is_empty() {
            if self.named("authorization").is_some() {
                return Err(problem("token", "headers.Authorization is given too: keep one"));
            }
            let value = value(&format!("Bearer {token}"))
                .ok_or_else(|| problem("token", "holds a sign that no header may have, such as a line end"))?;
            headers.push((AUTHORIZATION, value));
        }
        Ok(headers)
    }

    fn named(&self, header: &str) -> Option<&Secret> {
        self.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(header)).map(|(_, value)| value)
    }
}
