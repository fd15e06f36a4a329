//! Answers: status line, header fields, JSON bodies. Every answer has a `Content-Length`.

use std::borrow::Cow;
use std::io::Write;
use std::time::Duration;

use super::date::DATE_BYTES;
use crate::limits::RETRY_HINT_MS;
use crate::metrics::RejectReason;

/// Content type of every body that is not a page.
pub(super) const JSON: &str = "application/json";

/// Bytes of the head of most answers, at most.
const ANSWER_HEAD_BYTES: usize = 256;

/// The interim answer to `Expect: 100-continue` (RFC 9110, section 10.1.1).
pub(super) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Why a request is not served: the peer's fault (4xx), not offered (501, 505), or not now (503, 504).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {error}")]
pub(super) struct Refusal {
    /// HTTP status of the answer, 4xx or 5xx.
    pub status: u16,
    /// What is wrong and what to do instead; becomes `{"error":"…"}`.
    pub error: Cow<'static, str>,
    /// Of a 405: the methods that the target has.
    pub allow: Option<&'static str>,
    /// Of a 415 because of the content coding: the codings that are accepted (RFC 9110, section 12.5.3).
    pub accept_encoding: Option<&'static str>,
    /// Of a 429: when to send the request again, in whole seconds.
    pub retry_after: Option<u64>,
    /// Of a POST whose events are lost with it: what the events count as. Not for what can be sent again as it is.
    pub reason: Option<RejectReason>,
}

impl Refusal {
    /// A refusal without further header fields, which rejects no events.
    pub(super) fn new(status: u16, error: impl Into<Cow<'static, str>>) -> Self {
        Self { status, error: error.into(), allow: None, accept_encoding: None, retry_after: None, reason: None }
    }

    /// A refused body.
    pub(super) fn body(reason: RejectReason, error: impl Into<Cow<'static, str>>) -> Self {
        let status = match reason {
            RejectReason::Malformed | RejectReason::Invalid => 400,
            RejectReason::TooLarge => 413,
            RejectReason::Codec => 415,
        };
        Self { reason: Some(reason), ..Self::new(status, error) }
    }

    /// A request that is not valid HTTP, or asks for something that the server does not have.
    pub(super) fn malformed(error: impl Into<Cow<'static, str>>) -> Self {
        Self::new(400, error)
    }
}

/// One answer, to be written by [`Answer::write`].
#[derive(Debug)]
pub(super) struct Answer<'a> {
    /// HTTP status.
    pub status: u16,
    /// Value of `Content-Type`.
    pub content_type: &'a str,
    /// The body; sent unless `head_only` is set.
    pub body: &'a [u8],
    /// Value of `Allow`; `None`: left out.
    pub allow: Option<&'a str>,
    /// Value of `Accept-Encoding`; `None`: left out.
    pub accept_encoding: Option<&'a str>,
    /// Value of `Retry-After`, seconds; `None`: that of the status, or left out.
    pub retry_after: Option<u64>,
    /// Further header fields, each with its line end.
    pub fields: &'a str,
    /// The request was a HEAD: the length is sent, the body is not.
    pub head_only: bool,
    /// The connection ends after this answer.
    pub close: bool,
    /// Otherwise: how long it may be idle, to be announced.
    pub keep_alive: Option<Duration>,
}

impl<'a> Answer<'a> {
    /// An answer to anything but a HEAD.
    pub(super) fn json(status: u16, body: &'a [u8], close: bool) -> Self {
        Self {
            status,
            content_type: JSON,
            body,
            allow: None,
            accept_encoding: None,
            retry_after: None,
            fields: "",
            head_only: false,
            close,
            keep_alive: None,
        }
    }

    /// Appends the answer to `out`. `date`: the wall clock, see [`HttpDate`](super::HttpDate).
    pub(super) fn write(&self, date: &[u8; DATE_BYTES], out: &mut Vec<u8>) {
        out.reserve(ANSWER_HEAD_BYTES + self.body.len());
        match self.status {
            200 => out.extend_from_slice(b"HTTP/1.1 200 OK\r\nDate: "),
            status => {
                // Writing into a Vec cannot fail.
                let _ = write!(out, "HTTP/1.1 {status} {}\r\nDate: ", reason_phrase(status));
            }
        }
        out.extend_from_slice(date);
        out.extend_from_slice(b"\r\nContent-Type: ");
        out.extend_from_slice(self.content_type.as_bytes());
        out.extend_from_slice(b"\r\nContent-Length: ");
        push_number(out, self.body.len() as u64);
        out.extend_from_slice(b"\r\n");
        if let Some(methods) = self.allow {
            let _ = write!(out, "Allow: {methods}\r\n");
        }
        if let Some(codings) = self.accept_encoding {
            let _ = write!(out, "Accept-Encoding: {codings}\r\n");
        }
        match self.status {
            401 => out.extend_from_slice(b"WWW-Authenticate: Bearer\r\n"),
            // Probes send GETs and take no hints: a hint on /ready does no harm.
            503 if self.retry_after.is_none() => {
                let _ = write!(out, "Retry-After: {}\r\n", RETRY_HINT_MS.div_ceil(1000));
            }
            _ => {}
        }
        if let Some(seconds) = self.retry_after {
            let _ = write!(out, "Retry-After: {seconds}\r\n");
        }
        out.extend_from_slice(self.fields.as_bytes());
        if self.close {
            out.extend_from_slice(b"Connection: close\r\n");
        } else if let Some(idle) = self.keep_alive {
            // RFC 9110, section 7.6.1: a field for this connection alone is named in Connection.
            out.extend_from_slice(b"Connection: keep-alive\r\nKeep-Alive: timeout=");
            push_number(out, idle.as_secs());
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
        if !self.head_only {
            out.extend_from_slice(self.body);
        }
    }
}

/// `{"error":"…"}`
pub(super) fn error_body(error: &str) -> Vec<u8> {
    let mut body = Vec::with_capacity(error.len() + 16);
    body.extend_from_slice(br#"{"error":"#);
    push_json_string(&mut body, error);
    body.push(b'}');
    body
}

/// `{"error":"…","accepted":n,"rejected":[…],"rejected_total":n}`: the error only where there is one, the total only
/// where it is more than `listed`. `entries` are the joined entries of the list, `{"index":i,"error":"…"},…`.
pub(super) fn result_body(error: Option<&str>, accepted: u64, entries: &[u8], listed: u64, total: u64) -> Vec<u8> {
    let mut body = Vec::with_capacity(entries.len() + 128);
    body.push(b'{');
    if let Some(error) = error {
        body.extend_from_slice(br#""error":"#);
        push_json_string(&mut body, error);
        body.push(b',');
    }
    body.extend_from_slice(br#""accepted":"#);
    push_number(&mut body, accepted);
    body.extend_from_slice(br#","rejected":["#);
    body.extend_from_slice(entries);
    body.push(b']');
    if total > listed {
        let _ = write!(body, r#","rejected_total":{total}"#);
    }
    body.push(b'}');
    body
}

/// `number` in decimal digits. As `write!`, at a small part of its cost: every answer has some.
fn push_number(out: &mut Vec<u8>, mut number: u64) {
    // 2^64 has 20 digits.
    let mut digits = [0; 20];
    let mut start = digits.len();
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        start -= 1;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(start..).unwrap_or_default());
}

/// `text` as a JSON string, quotes included.
pub(super) fn push_json_string(out: &mut Vec<u8>, text: &str) {
    // A string always is representable, and a Vec takes it.
    let _ = serde_json::to_writer(out, text);
}

/// RFC 9110, section 15.
fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_is_counted_from_the_start() {
        let known: Vec<u16> = (100..600).filter(|status| !reason_phrase(*status).is_empty()).collect();
        assert_eq!(known, crate::metrics::HTTP_STATUSES);
    }

    fn written(answer: &Answer<'_>) -> String {
        let mut out = Vec::new();
        answer.write(b"Mon, 23 Nov 2026 20:15:48 GMT", &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers_have_the_digits_that_are_needed() {
        for number in [0, 9, 10, 28, 255, 1_000_000, u64::MAX] {
            let mut out = b"x".to_vec();
            push_number(&mut out, number);
            assert_eq!(out, format!("x{number}").into_bytes());
        }
    }

    const PLAIN: Answer<'_> = Answer {
        status: 200,
        content_type: JSON,
        body: b"{}",
        allow: None,
        accept_encoding: None,
        retry_after: None,
        fields: "",
        head_only: false,
        close: false,
        keep_alive: None,
    };

    #[test]
    fn an_answer_has_a_length_and_its_body() {
        assert_eq!(
            written(&PLAIN),
            "HTTP/1.1 200 OK\r\nDate: Mon, 23 Nov 2026 20:15:48 GMT\r\nContent-Type: application/json\r\n\
             Content-Length: 2\r\n\r\n{}"
        );
    }

    #[test]
    fn an_answer_to_head_tells_the_length_and_has_no_body() {
        let answer = written(&Answer { head_only: true, ..PLAIN });
        assert!(answer.contains("Content-Length: 2\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    }

    #[test]
    fn statuses_bring_their_fields() {
        let with = |status, allow| written(&Answer { status, allow, close: true, ..PLAIN });
        assert!(with(401, None).contains("\r\nWWW-Authenticate: Bearer\r\n"));
        assert!(with(405, Some("POST")).contains("\r\nAllow: POST\r\n"));
        assert!(with(503, None).contains("\r\nRetry-After: 2\r\n"));
        assert!(!with(429, None).contains("Retry-After"));
        let answer = written(&Answer { status: 429, retry_after: Some(7), ..PLAIN });
        assert!(answer.starts_with("HTTP/1.1 429 Too Many Requests\r\n") && answer.contains("\r\nRetry-After: 7\r\n"));
        assert!(with(400, None).contains("\r\nConnection: close\r\n"));
        assert!(!written(&PLAIN).contains("Connection"));
    }

    #[test]
    fn a_connection_that_stays_open_announces_for_how_long() {
        let idle = Some(Duration::from_secs(75));
        let answer = written(&Answer { keep_alive: idle, ..PLAIN });
        assert!(answer.contains("\r\nConnection: keep-alive\r\nKeep-Alive: timeout=75\r\n"), "{answer}");
        let answer = written(&Answer { keep_alive: idle, close: true, ..PLAIN });
        assert!(answer.contains("\r\nConnection: close\r\n") && !answer.contains("Keep-Alive"), "{answer}");
    }

    #[test]
    fn bodies_are_json_and_escaped() {
        assert_eq!(error_body("a \"b\"\n"), br#"{"error":"a \"b\"\n"}"#);
        assert_eq!(result_body(None, 2, b"", 0, 0), br#"{"accepted":2,"rejected":[]}"#);
        let entries = br#"{"index":1,"error":"x"}"#;
        assert_eq!(
            result_body(Some("no"), 0, entries, 1, 7),
            br#"{"error":"no","accepted":0,"rejected":[{"index":1,"error":"x"}],"rejected_total":7}"#
        );
    }
}
