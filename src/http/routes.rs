//! The resources of the server, and what the head of a POST must have before its body is read.

use super::head::Head;
use super::otlp::Encoding;
use super::profiles;
use super::query::Query;
use super::response::Refusal;
use super::{Ingress, Page};
use crate::event::Quoted;
use crate::event::otlp::Signal;
use crate::metrics::RejectReason;
use crate::profiling::Format;
use crate::wire::AckLevel;

const PAGE_METHODS: &str = "GET, HEAD";
const EVENTS_METHODS: &str = "POST";
/// A HEAD would have to take a profile to know its length.
const PROFILE_METHODS: &str = "GET";
/// Of `OPTIONS *`, which asks about the server as a whole.
const SERVER_METHODS: &str = "GET, HEAD, POST";

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// A page, for GET and HEAD.
    Page(Page),
    /// The status page at `/`, for GET and HEAD.
    Home,
    /// What takes events, for POST.
    Post(Target),
    /// A CPU profile, for GET.
    Profile(Format),
}

/// What a POST is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// `/v1/events`.
    Events,
    /// `/v1/logs`, `/v1/metrics`, `/v1/traces`.
    Otlp(Signal),
}

impl Target {
    /// The target of a path.
    fn of(path: &str) -> Option<Self> {
        Some(match path {
            "/v1/events" => Self::Events,
            "/v1/logs" => Self::Otlp(Signal::Logs),
            "/v1/metrics" => Self::Otlp(Signal::Metrics),
            "/v1/traces" => Self::Otlp(Signal::Traces),
            _ => return None,
        })
    }

    /// Its path.
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Events => "/v1/events",
            Self::Otlp(Signal::Logs) => "/v1/logs",
            Self::Otlp(Signal::Metrics) => "/v1/metrics",
            Self::Otlp(Signal::Traces) => "/v1/traces",
        }
    }
}

/// Whether a path is one of OTLP, or nearly one: after a prefix, with a slash at its end, or of a signal that is not supported. An
/// exporter expects `google.rpc.Status` in the answer.
pub(super) fn is_otlp(path: &str) -> bool {
    let path = path.trim_end_matches('/');
    ["/v1/logs", "/v1/metrics", "/v1/traces", PROFILES].iter().any(|known| path.ends_with(known))
}

/// The path of profiles, which are in development.
const PROFILES: &str = "/v1development/profiles";

impl Route {
    /// # Errors
    /// 404; 405 with Allow.
    pub(super) fn find(head: &Head<'_>) -> Result<Self, Refusal> {
        let (route, methods) = match head.path {
            "/health" => (Self::Page(Page::Health), PAGE_METHODS),
            "/ready" => (Self::Page(Page::Ready), PAGE_METHODS),
            "/metrics" => (Self::Page(Page::Metrics), PAGE_METHODS),
            "/status.json" => (Self::Page(Page::Status), PAGE_METHODS),
            "/" => (Self::Home, PAGE_METHODS),
            path if path == profiles::path(Format::Protobuf) => (Self::Profile(Format::Protobuf), PROFILE_METHODS),
            path if path == profiles::path(Format::Flamegraph) => (Self::Profile(Format::Flamegraph), PROFILE_METHODS),
            "*" => return Err(wrong_method(head.method, SERVER_METHODS)),
            path => match Target::of(path) {
                Some(target) => (Self::Post(target), EVENTS_METHODS),
                None => return Err(Refusal::new(404, not_found(path))),
            },
        };
        let mut allowed = methods.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
        if allowed.any(|method| method == head.method.as_bytes()) {
            Ok(route)
        } else {
            Err(wrong_method(head.method, methods))
        }
    }
}

/// The message of a 404. Nothing of the path is repeated: it may be long.
fn not_found(path: &str) -> &'static str {
    match path.trim_end_matches('/') {
        "/v1/logs" | "/v1/metrics" | "/v1/traces" => "not found: the paths of OTLP have no slash at their end",
        path if is_otlp(path) && !path.ends_with(PROFILES) => {
            "not found: the paths of OTLP are /v1/logs, /v1/metrics and /v1/traces, with nothing before them"
        }
        path if path.ends_with(PROFILES) => "profiles are not supported: send logs, metrics and traces",
        path if path.starts_with("/debug") => {
            "not found: there are GET /debug/pprof/profile and /debug/pprof/flamegraph"
        }
        _ => {
            "not found: there are POST /v1/events, /v1/logs, /v1/metrics, /v1/traces and GET /, /health, /ready, \
             /metrics, /status.json"
        }
    }
}

fn wrong_method(method: &str, allow: &'static str) -> Refusal {
    // The method is the peer's, and as long as a request line: it is not repeated.
    let error = if method.eq_ignore_ascii_case("POST") || allow != EVENTS_METHODS {
        format!("method not allowed here: use {allow}")
    } else {
        "method not allowed here: events are sent with POST".to_owned()
    };
    Refusal { allow: Some(allow), ..Refusal::new(405, error) }
}

/// What the body of a POST is (protocol, "HTTP on the same port").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MediaType {
    /// `application/json`: one document of events.
    Json,
    /// `application/x-ndjson`: one event per line.
    Ndjson,
    /// `application/x-protobuf`: an `EventBatch`.
    Protobuf,
}

/// The fields of the head of a POST about its body and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Submission {
    /// What it is for.
    pub target: Target,
    /// How the events are encoded.
    pub media_type: MediaType,
    /// Whether the body is compressed with gzip.
    pub gzip: bool,
    /// The level at which the answer is sent: `?ack=`, or the server's default.
    pub level: AckLevel,
    /// What the query says about JSON.
    pub query: Query,
}

impl Submission {
    /// # Errors
    /// 503 while draining; 403 for the connection; 401; 400 for the query; 415.
    pub(super) fn check(head: &Head<'_>, target: Target, ingress: &mut impl Ingress) -> Result<Self, Refusal> {
        if ingress.draining() {
            return Err(draining(ingress));
        }
        if let Some(reason) = ingress.refuses_connection() {
            return Err(Refusal::new(403, reason));
        }
        ingress.admit(head.bearer.map(str::as_bytes)).map_err(|reason| unauthorized(reason, head.bearer.is_some()))?;
        let query = Query::read(head.query)?;
        let level = ingress.ack_level(query.level).map_err(Refusal::malformed)?;
        let media_type = media_type(head.content_type, target)?;
        if query.is_about_json() {
            check_json_query(target, media_type)?;
        }
        let gzip = match head.content_encoding {
            None => false,
            Some(coding) if coding.eq_ignore_ascii_case("identity") => false,
            Some(coding) if coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip") => true,
            Some(coding) => return Err(wrong_coding(coding)),
        };
        Ok(Self { target, media_type, gzip, level, query })
    }

    /// The encoding of its answers.
    pub(super) fn encoding(self) -> Encoding {
        match (self.target, self.media_type) {
            (Target::Events, _) => Encoding::Native,
            (Target::Otlp(_), MediaType::Protobuf) => Encoding::Protobuf,
            (Target::Otlp(_), _) => Encoding::Json,
        }
    }
}

/// The refusal of a POST that brings no token, or one that does not admit it.
fn unauthorized(reason: &'static str, has_token: bool) -> Refusal {
    match has_token {
        true => Refusal::new(401, reason),
        false => Refusal::new(401, format!("{reason}: send `Authorization: Bearer TOKEN`")),
    }
}

/// `?map=` and the like with this content.
fn check_json_query(target: Target, media_type: MediaType) -> Result<(), Refusal> {
    if let Target::Otlp(_) = target {
        return Err(Refusal::malformed(
            "`map`, `time` and `unknown` are about POST /v1/events: leave them out with OTLP",
        ));
    }
    if media_type == MediaType::Protobuf {
        return Err(Refusal::malformed("`map`, `time` and `unknown` are about JSON: leave them out with protobuf"));
    }
    Ok(())
}

fn wrong_coding(coding: &str) -> Refusal {
    let error = format!("Content-Encoding {} is not supported: use gzip, or none", Quoted(coding));
    Refusal { accept_encoding: Some("gzip"), ..Refusal::body(RejectReason::Codec, error) }
}

/// Why a POST is refused while [`Ingress::draining`].
pub(super) fn draining(ingress: &impl Ingress) -> Refusal {
    if ingress.overloaded() {
        let error = "too many connections (server.max_connections): nothing of this request was accepted, retry later";
        return Refusal::new(503, error);
    }
    Refusal::new(
        503,
        "the server is shutting down: nothing of this request was accepted, send it again elsewhere or later",
    )
}

/// The names of the media types. None is registered but `application/json` and `application/protobuf`: the first of
/// each kind is the one that most senders use.
const MEDIA_TYPES: [(&str, MediaType); 7] = [
    ("application/json", MediaType::Json),
    ("text/json", MediaType::Json),
    ("application/x-ndjson", MediaType::Ndjson),
    ("application/ndjson", MediaType::Ndjson),
    ("application/jsonl", MediaType::Ndjson),
    ("application/x-protobuf", MediaType::Protobuf),
    ("application/protobuf", MediaType::Protobuf),
];

fn wrong_media_type(name: &str, target: Target) -> Refusal {
    let known = match target {
        Target::Events => "application/json, application/x-ndjson or application/x-protobuf",
        Target::Otlp(_) => "application/x-protobuf or application/json",
    };
    let error = match name {
        "" => format!("Content-Type is missing: set it to {known}"),
        name => format!("Content-Type {} is not supported: use {known}", Quoted(name)),
    };
    Refusal::body(RejectReason::Codec, error)
}

/// The type without its parameters: text is UTF-8 whatever `charset` says, and is checked.
fn media_type(content_type: Option<&str>, target: Target) -> Result<MediaType, Refusal> {
    let value = content_type.unwrap_or_default();
    let end = value.bytes().position(|byte| byte == b';').unwrap_or(value.len());
    let name = value.get(..end).unwrap_or_default().trim_ascii();
    let known = MEDIA_TYPES.iter().find(|(known, _)| name.eq_ignore_ascii_case(known));
    let known = known.map(|(_, media_type)| *media_type);
    let is_offered = |media_type: &MediaType| target == Target::Events || *media_type != MediaType::Ndjson;
    known.filter(is_offered).ok_or_else(|| wrong_media_type(name, target))
}
