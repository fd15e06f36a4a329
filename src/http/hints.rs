//! What a rejected body is in truth, for the message of its 400. Nothing here is looked at before reading has failed.

use serde::de::IgnoredAny;

use super::response::Refusal;
use super::routes::{MediaType, Submission};
use crate::event::{JsonDecoder, check_batch};
use crate::limits::FRAME_EVENTS_MAX;
use crate::metrics::RejectReason;

/// A better message for a body of which nothing could be read, if it is something else than its head declares.
pub(super) fn instead(body: &[u8], submission: Submission) -> Option<Refusal> {
    if let Some(name) = compression(body) {
        let error = match (submission.gzip, name) {
            (true, GZIP) => "the body is gzip within gzip: compress it once".to_owned(),
            (true, name) => format!("the body is {name} within gzip: compress it once, with gzip"),
            (false, GZIP) => "the body is gzip: set \"Content-Encoding: gzip\"".to_owned(),
            (false, name) => format!("the body is {name}, which is not supported: send it as it is, or as gzip"),
        };
        return Some(malformed(error));
    }
    let error = match submission.media_type {
        MediaType::Protobuf if looks_like_json(body) => {
            "the body is JSON, not protobuf: set \"Content-Type: application/json\", or application/x-ndjson for one \
             event per line"
        }
        MediaType::Protobuf if looks_like_otlp(body) => {
            "the body looks like OTLP, which is not supported yet: send an EventBatch of proto/events.proto"
        }
        MediaType::Json | MediaType::Ndjson if is_protobuf(body) => {
            "the body is protobuf, not JSON: set \"Content-Type: application/x-protobuf\""
        }
        MediaType::Json if has_several_values(body) => {
            "the body has more than one JSON value: set \"Content-Type: application/x-ndjson\" for one event per line, \
             or send an array"
        }
        MediaType::Ndjson if is_document(body) => {
            "the body is one JSON document, not one event per line: set \"Content-Type: application/json\""
        }
        _ => return None,
    };
    Some(malformed(error.to_owned()))
}

/// The message for a body that cannot be unpacked. `member`: where the gzip member that failed begins.
pub(super) fn not_gzip(packed: &[u8], member: usize, error: &std::io::Error) -> Refusal {
    let bytes = packed.len();
    let rest = packed.get(member..).unwrap_or_default();
    let is_gzip = rest.starts_with(b"\x1f\x8b") || rest == b"\x1f";
    malformed(match compression(packed) {
        _ if packed.is_empty() => {
            "the body is empty, which is not gzip: send one, or leave out \"Content-Encoding: gzip\"".to_owned()
        }
        _ if member > 0 && !is_gzip => {
            let more = rest.len();
            format!("the gzip body ends at byte {member}, and {more} bytes that are not gzip follow: leave them out")
        }
        Some(name) if !is_gzip => format!("the body is {name}, not gzip: compress it with gzip"),
        None if !is_gzip => "the body is not gzip: compress it, or leave out \"Content-Encoding: gzip\"".to_owned(),
        _ if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            format!("the gzip body is cut off: it ends after {bytes} bytes, before its end mark; send all of it")
        }
        _ => format!("the gzip body is corrupt: {error}; compress and send it again"),
    })
}

fn malformed(error: String) -> Refusal {
    Refusal::body(RejectReason::Malformed, error)
}

const GZIP: &str = "gzip";

/// The compression that these bytes begin with.
fn compression(bytes: &[u8]) -> Option<&'static str> {
    Some(match bytes {
        [0x1F, 0x8B, ..] => GZIP,
        [0x28, 0xB5, 0x2F, 0xFD, ..] => "Zstandard",
        [0x04, 0x22, 0x4D, 0x18, ..] => "LZ4",
        [0xFF, 0x06, 0x00, 0x00, b's', b'N', b'a', b'P', b'p', b'Y', ..] => "Snappy",
        // RFC 1950; `x^` may also begin a text.
        [0x78, 0x01 | 0x5E | 0x9C | 0xDA, ..] if simdutf8::basic::from_utf8(bytes).is_err() => "zlib (\"deflate\")",
        _ => return None,
    })
}

/// An object with a key, or an array of something.
fn looks_like_json(body: &[u8]) -> bool {
    match body.trim_ascii_start() {
        [b'{', rest @ ..] => matches!(rest.trim_ascii_start(), [b'"' | b'}', ..]),
        [b'[', rest @ ..] => matches!(rest.trim_ascii_start(), [b'{' | b']', ..]),
        _ => false,
    }
}

/// A message whose field 1 is a message that begins with a message of its own: the `Resource` or the scopes in OTLP's three
/// requests, and in `EventBatch` a time or a kind of the wrong type.
fn looks_like_otlp(body: &[u8]) -> bool {
    let [0x0A, rest @ ..] = body else { return false };
    let length = rest.iter().take_while(|byte| **byte >= 0x80).count() + 1;
    matches!(rest.get(length), Some(0x0A | 0x12))
}

fn is_protobuf(body: &[u8]) -> bool {
    check_batch(body, FRAME_EVENTS_MAX, |_, _, _| {}).is_ok_and(|counts| counts.accepted > 0)
}

/// An object, and after it the beginning of another object or of an array.
fn has_several_values(body: &[u8]) -> bool {
    let mut values = serde_json::Deserializer::from_slice(body).into_iter::<IgnoredAny>();
    if !matches!(values.next(), Some(Ok(_))) {
        return false;
    }
    let rest = body.get(values.byte_offset()..).unwrap_or_default();
    body.trim_ascii_start().starts_with(b"{") && matches!(rest.trim_ascii_start(), [b'{' | b'[', ..])
}

fn is_document(body: &[u8]) -> bool {
    JsonDecoder::new().document(body, |_| Ok::<(), ()>(())).is_ok_and(|decoded| decoded.accepted > 0)
}
