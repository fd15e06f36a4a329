//! The settings and their checks.

use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use serde::Deserialize;
use tonic::metadata::{Ascii, MetadataValue};

use super::Grpc;
use crate::limits;
use crate::settings::hide::hide;
use crate::settings::{Applies, Form, Problem, Secret, Setting, Url, Value};
use crate::sink::{Identity, Kind, Output, Sink, SinkConfig, tls};

/// What the settings know of it.
pub const KIND: Kind = Kind {
    name: "grpc",
    doc: "Your service that implements `telemetryx.v1.Sink` of proto/events.proto, such as one in Python with \
          tools/python/telemetryx_receiver.py. It answers with a verdict on each event. At least once; exactly once \
          if the service deduplicates by (server_id, position), which every event has.",
    settings: &[
        Setting {
            key: "url",
            applies: Applies::OnRestart,
            default: Value::text("http://127.0.0.1:50051"),
            form: Form::Url,
            doc: "http://host:port, or https:// for TLS.",
        },
        Setting {
            key: "ca_file",
            applies: Applies::OnRestart,
            default: Value::text(""),
            form: Form::Path,
            doc: "CA certificates (PEM) that are trusted for https://. Empty: the public authorities.",
        },
        Setting {
            key: "token",
            applies: Applies::OnRestart,
            default: Value::text(""),
            form: Form::Secret,
            doc: "Sent as `authorization: Bearer TOKEN`, in clear with http://. Empty: none.",
        },
        Setting {
            key: "deadline",
            applies: Applies::OnRestart,
            default: Value::Duration(Duration::from_secs(30)),
            form: Form::Duration { min: Duration::from_millis(100), max: Duration::from_secs(3_600) },
            doc: "Longest time for one request, from the first byte to the answer; then the request is sent again.",
        },
        Setting {
            key: "in_flight",
            applies: Applies::OnRestart,
            default: Value::Count(4),
            form: Form::Count { min: 1, max: limits::GRPC_IN_FLIGHT_MAX },
            doc: "How many requests are sent at the same time when a delivery is split, which happens above 1 MiB or \
                  10,000 events. 1: events arrive in the order of their positions, except when they are sent again.",
        },
    ],
    parse: |values| Ok(Box::new(values.read::<GrpcSection>()?.validate()?)),
};

/// `kind = "grpc"`, each value as its row allows.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GrpcSection {
    pub url: Url,
    pub ca_file: Option<PathBuf>,
    /// Empty: none.
    pub token: Secret,
    pub deadline: Duration,
    pub in_flight: usize,
}

/// `kind = "grpc"`.
#[derive(Debug, Clone)]
pub struct GrpcSettings {
    /// The receiver: its host, its port, and whether TLS is used. It holds no secret.
    pub(super) uri: Uri,
    /// Certificates (PEM) to trust, for https only; `None`: the public authorities.
    pub(super) ca_file: Option<PathBuf>,
    token: Secret,
    /// The metadata with the token, which `Debug` does not show; `None`: no token.
    pub(super) authorization: Option<MetadataValue<Ascii>>,
    /// Longest time for one request.
    pub(super) deadline: Duration,
    /// Requests of one delivery that are sent at a time; at least 1.
    pub(super) in_flight: usize,
    output: Output,
}

impl GrpcSection {
    /// Checks the values against each other, and parses URL and token.
    pub(super) fn validate(self) -> Result<GrpcSettings, Problem> {
        let uri = uri(&self.url).map_err(|why| Problem::new("url", why))?;
        if self.ca_file.is_some() && !is_encrypted(&uri) {
            return Err(Problem::new("ca_file", "is for https:// only"));
        }
        let authorization = authorization(&self.token).map_err(|why| Problem::new("token", why))?;
        Ok(GrpcSettings {
            output: Output::new(format!("grpc {}", uri.to_string().trim_end_matches('/'))),
            uri,
            ca_file: self.ca_file,
            token: self.token,
            authorization,
            deadline: self.deadline,
            in_flight: self.in_flight,
        })
    }
}

impl SinkConfig for GrpcSettings {
    fn open(&self, name: &str, identity: &Identity) -> Box<dyn Sink> {
        Box::new(Grpc::new(name, self, identity))
    }

    fn output(&self) -> Option<Output> {
        Some(self.output.clone())
    }

    fn check(&self) -> Result<(), String> {
        tls::check_authorities(self.ca_file.as_deref())
    }
}

impl GrpcSettings {
    /// The receiver, for messages.
    pub(super) fn place(&self) -> &str {
        self.output.shown()
    }

    /// `text`, which the receiver sent, without the token.
    pub(super) fn hide(&self, text: &str) -> String {
        hide(text, [self.token.reveal()])
    }

    /// Whether TLS is used.
    pub(super) fn is_encrypted(&self) -> bool {
        is_encrypted(&self.uri)
    }
}

/// Where the receiver is.
fn uri(url: &Url) -> Result<Uri, String> {
    const EXPECTED: &str = "expected http://host:port or https://host:port";
    let parts = url.parts().map_err(|why| format!("{why}: {EXPECTED}"))?;
    if !matches!(parts.scheme, "http" | "https") || parts.hosts.len() != 1 {
        return Err(EXPECTED.to_owned());
    }
    if parts.user.is_some() || parts.password.is_some() {
        return Err("contains a user or password: give the receiver a token instead (token, token_file)".to_owned());
    }
    if !matches!(parts.path.as_str(), "" | "/") || parts.query.is_some() {
        return Err(format!("has a path or query, which gRPC does not: {EXPECTED}"));
    }
    format!("{}://{}/", parts.scheme, parts.hosts_text()).parse().map_err(|_| EXPECTED.to_owned())
}

/// The metadata that shows the token.
fn authorization(token: &Secret) -> Result<Option<MetadataValue<Ascii>>, String> {
    let token = token.reveal().trim();
    if token.is_empty() {
        return Ok(None);
    }
    let expected = || "expected visible ASCII characters without a space".to_owned();
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(expected());
    }
    let mut value = MetadataValue::try_from(format!("Bearer {token}")).map_err(|_| expected())?;
    value.set_sensitive(true);
    Ok(Some(value))
}

fn is_encrypted(uri: &Uri) -> bool {
    uri.scheme_str() == Some("https")
}
