//! OTLP: bad input in every way that its bytes can come, answers in the encoding of the request, and what may pass later.

use prost::Message as _;
use serde_json::{Value, json};

use super::*;
use crate::event::otlp::reference::collector::logs::v1::{
    ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use crate::event::otlp::reference::common::v1::any_value::Value as Of;
use crate::event::otlp::reference::common::v1::{AnyValue, KeyValue};
use crate::event::otlp::reference::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use crate::event::otlp::reference::resource::v1::Resource;
use crate::event::otlp::{OtlpError, Signal};
use crate::event::{EventKind, Events};
use crate::http::Limited;
use crate::http::fuzz::exchange_body_at;
use crate::limits::{
    EVENT_ATTRIBUTES_MAX, EVENT_BODY_BYTES_MAX, EVENT_NAME_BYTES_MAX, OTLP_OWN_ATTRIBUTES, OTLP_PREFIX_ATTRIBUTES_MAX,
};
use crate::metrics::LimitScope;
use crate::pipeline::health::Pause;
use crate::rate::{Amount, Received};

const JSON: &str = "application/json";

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, prost::Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

fn text(text: impl Into<String>) -> Option<AnyValue> {
    Some(AnyValue { value: Some(Of::StringValue(text.into())) })
}

fn attribute(key: impl Into<String>, value: impl Into<String>) -> KeyValue {
    KeyValue { key: key.into(), value: text(value), ..KeyValue::default() }
}

/// A request with these log records, of the service `api`.
fn logs(log_records: Vec<LogRecord>) -> ExportLogsServiceRequest {
    let resource = Resource { attributes: vec![attribute("service.name", "api")], ..Resource::default() };
    let scope_logs = vec![ScopeLogs { log_records, ..ScopeLogs::default() }];
    let resource_logs = vec![ResourceLogs { resource: Some(resource), scope_logs, ..ResourceLogs::default() }];
    ExportLogsServiceRequest { resource_logs }
}

fn log(name: &str) -> LogRecord {
    LogRecord { event_name: name.to_owned(), ..LogRecord::default() }
}

/// A request as bytes over the wire.
fn post_to(path: &str, fields: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\n{fields}Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// Status, content type and body of the only answer.
fn answer_of(peer: &mut Peer) -> (u16, String, Vec<u8>) {
    let answer = std::mem::take(&mut peer.written);
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let field = |name: &str| {
        let line = head.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim_start_matches(": ").to_owned()
    };
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, field("Content-Type"), answer[end..].to_vec())
}

fn exchange_otlp(path: &str, content_type: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
    let mut peer = Peer::new();
    peer.send(post_to(path, &format!("Content-Type: {content_type}\r\n"), body));
    answer_of(&mut peer)
}

#[test]
fn logs_become_events_and_the_answer_is_an_empty_response() {
    let request = logs(vec![log("a"), log("b")]).encode_to_vec();
    assert_eq!(exchange_otlp("/v1/logs", PROTOBUF, &request), (200, PROTOBUF.to_owned(), Vec::new()));
    let outcome = exchange_body_at("/v1/logs", PROTOBUF, &request);
    assert_eq!(outcome.names, ["a", "b"]);
    let events: Vec<_> = outcome.payloads.iter().flat_map(|payload| Events::accepted(payload)).collect();
    assert!(events.iter().all(|event| event.kind() == EventKind::Log && event.source() == "api"));
    let body = br#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"eventName":"c"}]}]}]}"#;
    assert_eq!(exchange_otlp("/v1/logs", JSON, body), (200, JSON.to_owned(), b"{}".to_vec()));
    assert_eq!(exchange_body_at("/v1/logs", JSON, body).names, ["c"]);
    // Nothing at all is a success, too.
    assert_eq!(exchange_otlp("/v1/traces", PROTOBUF, b""), (200, PROTOBUF.to_owned(), Vec::new()));
    assert_eq!(exchange_otlp("/v1/metrics", JSON, b"{}"), (200, JSON.to_owned(), b"{}".to_vec()));
}

#[test]
fn rejected_records_are_counted_named_and_kept() {
    let bad = LogRecord { severity_number: 99, ..log("bad") };
    let request = logs(vec![log("a"), bad, log("b")]);
    let outcome = exchange_body_at("/v1/logs", PROTOBUF, &request.encode_to_vec());
    assert_eq!((outcome.statuses, outcome.names), (vec![200], vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!(outcome.rejected, [(RejectReason::Invalid, 1)]);
    let [(letter, 1, reason)] = &outcome.dead[..] else { panic!("{:?}", outcome.dead) };
    let message = "1 of 3 log records were rejected: log record 1: `severity_number` is 99: use 1 to 24, or 0 for none";
    assert_eq!(reason, &format!("OTLP logs: {message}"));
    // The letter is a request with the rejected record and its resource.
    let kept = ExportLogsServiceRequest::decode(letter.as_slice()).unwrap();
    assert_eq!(kept, logs(vec![LogRecord { severity_number: 99, ..log("bad") }]));

    let (status, _, body) = exchange_otlp("/v1/logs", PROTOBUF, &request.encode_to_vec());
    let partial = ExportLogsPartialSuccess { rejected_log_records: 1, error_message: message.to_owned() };
    let expected = ExportLogsServiceResponse { partial_success: Some(partial) };
    assert_eq!((status, ExportLogsServiceResponse::decode(body.as_slice()).unwrap()), (200, expected));

    let records = json!([{"eventName": "a"}, {"severityNumber": 99}]);
    let body = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]}).to_string();
    let (status, _, answer) = exchange_otlp("/v1/logs", JSON, body.as_bytes());
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!((status, &answer["partialSuccess"]["rejectedLogRecords"]), (200, &json!("1")));
    assert!(answer["partialSuccess"]["errorMessage"].as_str().unwrap().starts_with("1 of 2 log records"), "{answer}");
}

#[test]
fn where_every_record_is_rejected_the_answer_is_400_once_they_are_kept() {
    let request = logs(vec![LogRecord { severity_number: -1, ..LogRecord::default() }]).encode_to_vec();
    let mut peer = Peer { acknowledge: false, ..Peer::new() };
    peer.send(post_to("/v1/logs", &format!("Content-Type: {PROTOBUF}\r\n"), &request));
    assert!(peer.written.is_empty() && peer.connection.waiting_for().is_some(), "until they are in the dead letters");
    peer.acknowledge = true;
    peer.turn();
    let (status, content_type, body) = answer_of(&mut peer);
    let Status { code, message } = Status::decode(body.as_slice()).unwrap();
    assert_eq!((status, content_type.as_str(), code), (400, PROTOBUF, 3));
    assert!(message.contains("`severity_number` is -1"), "{message}");
}

#[test]
fn what_may_pass_later_is_503_in_the_encoding_of_the_request() {
    let request = logs(vec![log("a")]).encode_to_vec();
    let refused = |prepare: &dyn Fn(&mut FakeIngress)| {
        let mut peer = Peer::new();
        prepare(&mut peer.ingress);
        peer.send(post_to("/v1/logs", &format!("Content-Type: {PROTOBUF}\r\n"), &request));
        let retry_after = String::from_utf8_lossy(&peer.written).contains("\r\nRetry-After: ");
        let (status, content_type, body) = answer_of(&mut peer);
        let Status { code, message } = Status::decode(body.as_slice()).unwrap();
        assert_eq!((status, content_type.as_str(), code, retry_after), (503, PROTOBUF, 14, true), "{message}");
        message
    };
    assert!(refused(&|ingress| ingress.log_pause = Some(Pause::LogFull)).contains("log is full"));
    assert!(refused(&|ingress| ingress.draining = true).contains("shutting down"));
    assert!(refused(&|ingress| ingress.pool = Pool::new(4096, Box::new(|| {}))).contains("out of buffers"));
    // A body that comes too slowly: exporters do not send again after a 408.
    let mut peer = Peer::new();
    let whole = post_to("/v1/logs", &format!("Content-Type: {JSON}\r\n"), "{}   ");
    peer.send(&whole[..whole.len() - 1]);
    peer.later(Duration::from_secs(60));
    let (status, _, body) = answer_of(&mut peer);
    assert_eq!((status, serde_json::from_slice::<Value>(&body).unwrap()["code"].clone()), (503, json!(14)));
}

#[test]
fn an_answer_that_does_not_come_in_time_is_504() {
    let mut peer = Peer { acknowledge: false, ..Peer::new() };
    let request = logs(vec![log("a")]).encode_to_vec();
    peer.send(post_to("/v1/logs", &format!("Content-Type: {PROTOBUF}\r\n"), &request));
    peer.later(crate::limits::HTTP_ACK_TIMEOUT);
    let (status, content_type, body) = answer_of(&mut peer);
    assert_eq!((status, content_type.as_str()), (504, PROTOBUF));
    assert!(Status::decode(body.as_slice()).unwrap().message.contains("within 30 s"));
}

#[test]
fn heads_that_are_refused_are_answered_in_the_encoding_of_the_request() {
    let send = |fields: &str, token| {
        let mut peer = Peer::new();
        peer.ingress.token = token;
        peer.send(post_to("/v1/traces", fields, "{}"));
        answer_of(&mut peer)
    };
    let (status, content_type, body) = send("Content-Type: application/x-protobuf\r\n", Some(b"secret"));
    assert_eq!((status, content_type.as_str()), (401, PROTOBUF));
    assert_eq!(Status::decode(body.as_slice()).unwrap().code, 16);
    for fields in ["", "Content-Type: text/plain\r\n", "Content-Type: application/x-ndjson\r\n"] {
        let (status, content_type, body) = send(fields, None);
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((status, content_type.as_str(), &body["code"]), (415, JSON, &json!(3)));
        let message = body["message"].as_str().unwrap();
        assert!(message.ends_with("application/x-protobuf or application/json"), "{message}");
    }
    let (status, ..) = send("Content-Type: application/json; charset=utf-8\r\nContent-Encoding: identity\r\n", None);
    assert_eq!(status, 200);
    let got = exchange("GET /v1/logs HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(got.statuses == [405] && got.answers.contains("\r\nAllow: POST\r\n"), "{}", got.answers);
    assert!(got.answers.ends_with(r#"{"code":12,"message":"method not allowed here: events are sent with POST"}"#));
}

/// The codes are those of google.rpc.Code.
#[test]
fn requests_that_are_not_for_a_path_of_otlp_are_answered_as_otlp_where_an_exporter_sends_them() {
    for (method, path, status, code) in [
        ("PUT", "/v1/traces", 405, 12),
        ("POST", "/v1/logs/", 404, 5),
        ("POST", "/otlp/v1/metrics", 404, 5),
        ("POST", "/v1development/profiles", 404, 5),
    ] {
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {PROTOBUF}\r\nContent-Length: 0\r\n\r\n");
        let mut peer = Peer::new();
        peer.send(head);
        let (found, content_type, body) = answer_of(&mut peer);
        let found_code = Status::decode(body.as_slice()).unwrap().code;
        assert_eq!((found, content_type.as_str(), found_code), (status, PROTOBUF, code), "{path}");
    }
    let mut peer = Peer::new();
    peer.send(post_to("/v1/event", "Content-Type: application/x-protobuf\r\n", ""));
    let (status, content_type, body) = answer_of(&mut peer);
    assert!(status == 404 && content_type == JSON && body.starts_with(br#"{"error":"#));
}

#[test]
fn a_connection_that_may_not_send_is_answered_with_permission_denied() {
    let mut peer = Peer::new();
    peer.ingress.refuses_connection = Some("connect with TLS");
    peer.send(post_to("/v1/logs", &format!("Content-Type: {PROTOBUF}\r\n"), ""));
    let (status, _, body) = answer_of(&mut peer);
    assert_eq!((status, Status::decode(body.as_slice()).unwrap().code), (403, 7));
}

/// Accepted and rejected records wait for the same level: with `received`, neither for the disk.
#[test]
fn rejected_records_are_kept_at_the_level_of_the_request() {
    let bad = LogRecord { severity_number: 99, ..log("bad") };
    for records in [vec![bad.clone()], vec![log("a"), bad]] {
        for (path, level) in [("/v1/logs", AckLevel::Synced), ("/v1/logs?ack=received", AckLevel::Received)] {
            let mut peer = Peer { acknowledge: false, ..Peer::new() };
            let body = logs(records.clone()).encode_to_vec();
            peer.send(post_to(path, &format!("Content-Type: {PROTOBUF}\r\n"), body));
            assert_eq!(peer.connection.waiting_for().map(|(level, _)| level), Some(level), "{path}");
        }
    }
}

/// Bodies in protobuf that are malformed: path, body, and a part of the message.
const BAD_PROTOBUF: &[(&str, &[u8], &str)] = &[
    ("/v1/logs", b"\x0a", "it is truncated"),
    ("/v1/logs", b"\x0a\x05\x0a\x03\x0a\x01", "it is truncated"),
    ("/v1/logs", b"\x00", "a field key is 0"),
    ("/v1/logs", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "a varint exceeds 64 bits"),
    ("/v1/logs", b"\x08\x01", "wire type"),
    ("/v1/logs", b"\x0f", "wire type"),
    ("/v1/logs", b"\x7c", "the end of a group without its start"),
    ("/v1/logs", b"\x0a\x02\x10\x01", "`ResourceLogs`"),
    ("/v1/logs", b"\x0a\x03\x1a\x01\xff", "it is not valid UTF-8"),
    ("/v1/logs", b"\x0a\x04\x0a\x02\x08\x01", "`Resource`"),
    ("/v1/logs", b"\x0a\x08\x0a\x06\x0a\x04\x0a\x02\xc3\x28", "`KeyValue`"),
    ("/v1/logs", b"\x0a\x04\x12\x02\x08\x01", "`ScopeLogs`"),
    ("/v1/logs", b"\x0a\x06\x12\x04\x0a\x02\x08\x01", "`InstrumentationScope`"),
    ("/v1/logs", b"\x0a\x06\x12\x04\x12\x02\x08\x01", "`LogRecord`"),
    ("/v1/logs", b"\x0a\x09\x12\x07\x12\x05\x09\x01\x02\x03\x04", "`LogRecord`"),
    ("/v1/logs", b"\x0a\x08\x12\x06\x12\x04\x2a\x02\x0a\xff", "`AnyValue`"),
    ("/v1/logs", b"\x0a\x0a\x12\x08\x12\x06\x2a\x04\x2a\x02\x08\x01", "`ArrayValue`"),
    ("/v1/logs", b"\x0a\x0a\x12\x08\x12\x06\x2a\x04\x32\x02\x08\x01", "`KeyValueList`"),
    ("/v1/logs", b"\x0a\x08\x12\x06\x12\x04\x62\x02\xff\xfe", "it is not valid UTF-8"),
    ("/v1/logs", b"\x0a\x0a\x12\x08\x12\x06\x10\x63\x1a\x02\xff\xff", "it is not valid UTF-8"),
    ("/v1/traces", b"\x0a\x06\x12\x04\x12\x02\x08\x01", "`Span`"),
    ("/v1/traces", b"\x0a\x08\x12\x06\x12\x04\x7a\x02\x10\x01", "`Status`"),
    ("/v1/traces", b"\x0a\x08\x12\x06\x12\x04\x5a\x02\x08\x01", "`Span.Event`"),
    ("/v1/metrics", b"\x0a\x06\x12\x04\x12\x02\x08\x01", "`Metric`"),
    ("/v1/metrics", b"\x0a\x08\x12\x06\x12\x04\x2a\x02\x08\x01", "`Gauge`"),
    ("/v1/metrics", b"\x0a\x0a\x12\x08\x12\x06\x3a\x04\x0a\x02\x10\x01", "`NumberDataPoint`"),
    ("/v1/metrics", b"\x0a\x0b\x12\x09\x12\x07\x4a\x05\x0a\x03\x32\x01\x00", "`HistogramDataPoint`"),
    ("/v1/metrics", b"\x0a\x0a\x12\x08\x12\x06\x5a\x04\x0a\x02\x32\x01", "`SummaryDataPoint`"),
    ("/v1/logs", b"{\"resourceLogs\":[]}", "the body is JSON, not protobuf"),
    ("/v1/logs", b"\x1f\x8b\x08\x00", "the body is gzip"),
];

/// The same in JSON.
const BAD_JSON: &[(&str, &str, &str)] = &[
    ("/v1/logs", "", "EOF while parsing"),
    ("/v1/logs", "[]", "expected an object (ExportLogsServiceRequest)"),
    ("/v1/logs", "{", "EOF while parsing"),
    ("/v1/logs", "{}x", "trailing characters"),
    ("/v1/logs", r#"{"resourceLogs":{}}"#, "expected an array of objects (ResourceLogs)"),
    ("/v1/logs", r#"{"resourceLogs":[1]}"#, "an object (ResourceLogs)"),
    ("/v1/logs", r#"{"resourceLogs":[{"resource":[]}]}"#, "an object (Resource)"),
    ("/v1/logs", r#"{"resourceLogs":[{"scopeLogs":1}]}"#, "array of objects (ScopeLogs)"),
    ("/v1/logs", r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[3]}]}]}"#, "an object (LogRecord)"),
    ("/v1/logs", r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"timeUnixNano":"x"}]}]}]}"#, "`time_unix_nano`"),
    ("/v1/logs", r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"timeUnixNano":-1}]}]}]}"#, "`time_unix_nano`"),
    ("/v1/logs", r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"timeUnixNano":1.5}]}]}]}"#, "`time_unix_nano`"),
    (
        "/v1/logs",
        r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"severityNumber":"SEVERITY_NUMBER_INFO"}]}]}]}"#,
        "the number of an enum, not `SEVERITY_NUMBER_INFO`",
    ),
    ("/v1/logs", r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"traceId":"xy"}]}]}]}"#, "hexadecimal"),
    ("/v1/logs", r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"traceId":"abc"}]}]}]}"#, "hexadecimal"),
    ("/v1/logs", r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"eventName":7}]}]}]}"#, "must be a text"),
    ("/v1/logs", r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":"text"}]}]}]}"#, "`body`"),
    (
        "/v1/logs",
        r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":{"bytesValue":"*"}}]}]}]}"#,
        "must be base64",
    ),
    ("/v1/logs", r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"attributes":{}}]}]}]}"#, "an array"),
    ("/v1/traces", r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"status":1}]}]}]}"#, "`status`"),
    ("/v1/metrics", r#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"sum":{"isMonotonic":1}}]}]}]}"#, "true"),
    ("/v1/logs", r#"{"resourceLogs":[{"resource":{},"scopeLogs":[],"resource":{}}]}"#, "occurs twice"),
    ("/v1/logs", "\u{feff}{}", "expected value"),
    ("/v1/logs", "\n\u{4}\u{12}\u{2}\u{12}\u{0}", "the body is protobuf, not JSON"),
];

/// Requests of which nothing may be taken: path, content type, body, and a part of the message.
fn bad_requests() -> Vec<(&'static str, &'static str, Vec<u8>, &'static str)> {
    let protobuf = BAD_PROTOBUF.iter().map(|(path, body, message)| (*path, PROTOBUF, body.to_vec(), *message));
    let json = BAD_JSON.iter().map(|(path, body, message)| (*path, JSON, body.as_bytes().to_vec(), *message));
    protobuf.chain(json).chain([("/v1/logs", JSON, b"{\"a\":\"\xff\"}".to_vec(), "byte 6 is not UTF-8")]).collect()
}

#[test]
fn malformed_requests_are_answered_alike_however_they_come() {
    let table = bad_requests();
    assert!(table.len() >= 40);
    for (path, content_type, body, message) in table {
        // Whole, byte by byte, and split everywhere.
        let outcome = exchange_body_at(path, content_type, &body);
        assert_eq!(outcome.statuses, [400], "{path} {body:?} {}", outcome.answers);
        assert!(outcome.payloads.is_empty() && outcome.dead.is_empty());
        assert_eq!(outcome.rejected, [(RejectReason::Malformed, 1)]);
        let (_, answered_type, answer) = exchange_otlp(path, content_type, &body);
        assert_eq!(answered_type, content_type);
        let found = match content_type {
            PROTOBUF => Status::decode(answer.as_slice()).unwrap().message,
            _ => serde_json::from_slice::<Value>(&answer).unwrap()["message"].as_str().unwrap().to_owned(),
        };
        assert!(found.contains(message), "{path} {}: {found}", String::from_utf8_lossy(&body));
    }
}

#[test]
fn a_malformed_record_voids_the_request_and_names_its_record() {
    let mut request = logs(vec![log("a"), log("b")]).encode_to_vec();
    // After two whole records: one that ends within its first field.
    request.extend_from_slice(b"\x0a\x07\x12\x05\x12\x03\x09\x01\x02");
    let outcome = exchange_body_at("/v1/logs", PROTOBUF, &request);
    assert_eq!((outcome.statuses.as_slice(), outcome.payloads.len()), (&[400][..], 0));
    assert!(outcome.answers.contains("log record 2: malformed protobuf in `LogRecord`"), "{}", outcome.answers);
}

/// The events of a request with one log record.
fn event_of(log: LogRecord, check: impl Fn(crate::event::EventRef<'_>)) {
    let outcome = exchange_body_at("/v1/logs", PROTOBUF, &logs(vec![log]).encode_to_vec());
    assert_eq!(outcome.statuses, [200], "{}", outcome.answers);
    let events: Vec<_> = outcome.payloads.iter().flat_map(|payload| Events::accepted(payload)).collect();
    assert_eq!(events.len(), 1);
    check(events[0]);
}

#[test]
fn what_is_too_long_is_cut_and_marked() {
    let is_marked = |event: &crate::event::EventRef<'_>| event.attributes().any(|(key, _)| key == "truncated");
    event_of(LogRecord { body: text("ä".repeat(EVENT_BODY_BYTES_MAX)), ..LogRecord::default() }, |event| {
        assert_eq!(event.body(), "ä".repeat(EVENT_BODY_BYTES_MAX / 2));
        assert!(is_marked(&event));
    });
    event_of(LogRecord { body: text("x".repeat(EVENT_BODY_BYTES_MAX)), ..LogRecord::default() }, |event| {
        assert!(event.body().len() == EVENT_BODY_BYTES_MAX && !is_marked(&event));
    });
    event_of(log(&"n".repeat(EVENT_NAME_BYTES_MAX + 1)), |event| {
        assert!(event.name().len() == EVENT_NAME_BYTES_MAX && is_marked(&event));
    });
    let long = LogRecord { attributes: vec![attribute("a", "y".repeat(200_000)), attribute("b", "z")], ..log("long") };
    event_of(long, |event| {
        let attributes: Vec<_> = event.attributes().map(|(key, _)| key).collect();
        assert!(attributes.contains(&"a") && is_marked(&event), "{attributes:?}");
    });
}

#[test]
fn surplus_attributes_are_left_out_and_counted() {
    let attributes = (0..200).map(|number| attribute(format!("key{number}"), "value")).collect();
    event_of(LogRecord { attributes, severity_text: "INFO".to_owned(), ..log("many") }, |event| {
        let attributes: Vec<_> = event.attributes().collect();
        let kept = EVENT_ATTRIBUTES_MAX - OTLP_OWN_ATTRIBUTES;
        let find = |name: &str| attributes.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        let lost = crate::event::AttributeValue::Int(200 - (kept as i64 - 1));
        assert_eq!(find("truncated_attributes"), Some(lost));
        assert!(find("severity_text").is_some() && find("truncated").is_some());
        assert_eq!(attributes.len(), kept + 3);
    });
    // A resource may have half of them.
    let resource = Resource {
        attributes: (0..100).map(|number| attribute(format!("key{number}"), "value")).collect(),
        ..Resource::default()
    };
    let mut request = logs(vec![log("a"), log("b")]);
    request.resource_logs[0].resource = Some(resource);
    let outcome = exchange_body_at("/v1/logs", PROTOBUF, &request.encode_to_vec());
    for event in outcome.payloads.iter().flat_map(|payload| Events::accepted(payload)) {
        assert_eq!(event.attributes().count(), OTLP_PREFIX_ATTRIBUTES_MAX + 2);
    }
}

#[test]
fn a_request_that_becomes_too_much_is_413() {
    // Each of many empty records gets the attributes of its resource.
    let mut request = logs(vec![LogRecord::default(); 20_000]);
    let attributes = (0..20).map(|number| attribute(format!("key{number}"), "v".repeat(1_000))).collect();
    request.resource_logs[0].resource = Some(Resource { attributes, ..Resource::default() });
    let (status, _, body) = exchange_otlp("/v1/logs", PROTOBUF, &request.encode_to_vec());
    let Status { code, message } = Status::decode(body.as_slice()).unwrap();
    assert_eq!((status, code), (413, 8), "{message}");
    assert!(message.contains("bytes of encoded events: send smaller batches"), "{message}");
    let request = logs(vec![LogRecord::default(); crate::limits::FRAME_EVENTS_MAX + 1]).encode_to_vec();
    let decoded = crate::event::otlp::fuzz::protobuf(Signal::Logs, &request);
    assert!(matches!(decoded, Err(OtlpError::TooManyEvents { max: crate::limits::FRAME_EVENTS_MAX })));
}

#[test]
fn above_a_limit_the_answer_is_429_in_the_encoding_of_the_request() {
    let body = logs(vec![log("a")]).encode_to_vec();
    let request = post_to("/v1/logs", &format!("Content-Type: {PROTOBUF}\r\n"), body);
    let mut peer = Peer::new();
    peer.ingress.limited = Some(Limited { scope: LimitScope::Server, wait: Duration::from_millis(2_001) });
    peer.send(request);
    assert!(String::from_utf8_lossy(&peer.written).contains("\r\nRetry-After: 3\r\n"));
    let (status, content_type, body) = answer_of(&mut peer);
    assert_eq!((status, content_type.as_str()), (429, PROTOBUF));
    let Status { code, message } = Status::decode(&body[..]).unwrap();
    assert_eq!(code, 8, "RESOURCE_EXHAUSTED");
    assert!(message.starts_with("the server receives more than its limit"), "{message}");
    assert!(peer.ingress.accepted.is_empty() && peer.ingress.received.is_empty());
}

/// A limit on events counts what is stored: a span with two events is three.
#[test]
fn a_request_is_charged_with_its_bytes_and_with_what_it_became() {
    let invalid = LogRecord { severity_number: 99, ..log("c") };
    let logs = logs(vec![log("a"), log("b"), invalid]).encode_to_vec();
    let span = r#"{"traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174","name":"a",
        "events":[{"name":"b"},{"name":"c"}]}"#;
    let spans = format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{span}]}}]}}]}}"#);
    for (path, content_type, body, (events, accepted)) in [
        ("/v1/logs", PROTOBUF, logs.as_slice(), (3, 2)),
        ("/v1/traces", JSON, spans.as_bytes(), (3, 3)),
        ("/v1/traces", JSON, b"{", (1, 0)),
    ] {
        let mut peer = Peer::new();
        peer.send(post_to(path, &format!("Content-Type: {content_type}\r\n"), body));
        let amount = Amount { events, bytes: body.len() as u64 };
        assert_eq!(peer.ingress.received, [Received { amount, accepted }], "{path}");
    }
}

#[test]
fn a_query_about_json_is_refused() {
    for (query, status) in [("?ack=received", 200), ("?map=pino", 400), ("?time=s", 400), ("?unknown=attributes", 400)]
    {
        let (found, _, body) = exchange_otlp(&format!("/v1/logs{query}"), JSON, b"{}");
        assert_eq!(found, status, "{query}");
        let text = String::from_utf8(body).unwrap();
        assert_eq!(text.contains("are about POST /v1/events"), status == 400, "{text}");
    }
}
