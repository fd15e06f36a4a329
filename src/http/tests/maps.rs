//! JSON of other agents in requests: the query, and the default of the settings.

use super::events::body;
use super::*;
use crate::event::Events;
use crate::event::UnknownKeys;
use crate::http::fuzz::exchange_body_at;

#[path = "../../../tests/support/bad_maps.rs"]
mod bad_maps;

const LINE: &str = r#"{"level":50,"time":1795771426124,"name":"api","msg":"boom","code":7}"#;

fn post_to(query: &str, content_type: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let request = String::from_utf8(post(content_type, body)).unwrap();
    request.replacen("/v1/events", &format!("/v1/events{query}"), 1).into_bytes()
}

#[test]
fn a_map_renames_the_keys_of_a_request() {
    for (content_type, text) in [
        ("application/json", LINE.to_owned()),
        ("application/x-ndjson", format!("{LINE}\n")),
        ("application/json", format!("[{LINE}]")),
    ] {
        let got = exchange(post_to("?map=pino&ack=received", content_type, text));
        assert_eq!(got.statuses, [200], "{}", got.answers);
        let event = Events::accepted(&got.payloads[0]).next().unwrap();
        assert_eq!((event.body(), event.source(), event.severity()), ("boom", "api", 17));
        assert_eq!((event.time_unix_nano(), event.attributes().count()), (1_795_771_426_124_000_000, 1));
    }
}

#[test]
fn unknown_keys_are_rejected_unless_the_query_or_the_settings_allow_them() {
    let text = r#"{"body":"a","user":"b"}"#;
    let lenient = Settings { unknown_keys: UnknownKeys::Attributes, ..SETTINGS };
    for (settings, query, status) in [
        (SETTINGS, "", 400),
        (SETTINGS, "?unknown=attributes", 200),
        (SETTINGS, "?unknown=reject", 400),
        (lenient, "", 200),
        (lenient, "?unknown=reject", 400),
    ] {
        let got = exchange_within(settings, &post_to(query, "application/json", text), &|_| {});
        assert_eq!(got.statuses, [status], "{query} {}", got.answers);
    }
}

#[test]
fn parameters_that_do_not_exist_or_do_not_fit_are_400() {
    for (query, content_type, expected) in [
        ("?map=logstash", "application/json", "unknown value of `map`"),
        ("?time=m", "application/json", "use s, ms, us or ns"),
        ("?unknown=drop", "application/json", "use reject or attributes"),
        ("?maps=pino", "application/json", "`ack`, `map`, `time` and `unknown`"),
        ("?map=pino", PROTOBUF, "are about JSON: leave them out with protobuf"),
    ] {
        let got = exchange(post_to(query, content_type, "{}"));
        assert_eq!(got.statuses, [400], "{query}");
        assert!(body(&got)["error"].as_str().unwrap().contains(expected), "{query} {}", got.answers);
    }
}

#[test]
fn a_wrong_unit_is_named_in_the_answer() {
    let got = exchange(post_to("?map=pino", "application/json", r#"{"time":1795771426,"msg":"a"}"#));
    let error = body(&got)["rejected"][0]["error"].as_str().unwrap().to_owned();
    assert!(error.contains("it looks like seconds: set time=s"), "{error}");
}

/// Whole, byte by byte, and split everywhere.
#[test]
fn what_cannot_be_read_is_answered_alike_however_it_comes() {
    assert!(bad_maps::BAD.len() >= 40);
    for (map, text, expected) in bad_maps::BAD {
        let path = format!("/v1/events?map={}", map.name());
        let got = exchange_body_at(&path, "application/json", text.as_bytes());
        assert_eq!((got.statuses.as_slice(), got.payloads.len()), (&[400][..], 0), "{text} {}", got.answers);
        let body = body(&got);
        let error = body["rejected"][0]["error"].as_str().or(body["error"].as_str()).unwrap();
        // Of a whole request there may be more to say.
        assert!(error.contains(expected) || error.starts_with("the body "), "{text}: {error}");
    }
}
