//! What a sender reads when its request is wrong: each input with its status and its message, word for word.

use super::events::{body, gzip};
use super::*;

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";

/// The status, and the message of the first rejected event, or of the whole request where none is listed.
fn answer(request: impl AsRef<[u8]>) -> (u16, String) {
    let got = exchange(request);
    assert_eq!(got.statuses.len(), 1, "{}", got.answers);
    let body = body(&got);
    let error = match &body["rejected"][0] {
        // `message`: of google.rpc.Status.
        serde_json::Value::Null => body["error"].as_str().or(body["message"].as_str()).unwrap().to_owned(),
        entry => format!("{}: {}", entry["index"], entry["error"].as_str().unwrap()),
    };
    (got.statuses[0], error)
}

#[track_caller]
fn answers(request: impl AsRef<[u8]>, status: u16, error: &str) {
    assert_eq!(answer(request), (status, error.to_owned()));
}

fn gzipped(media_type: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    post_with(&format!("Content-Type: {media_type}\r\nContent-Encoding: gzip\r\n"), body)
}

#[test]
fn an_empty_body_is_called_empty() {
    let error = r#"the body is empty: send an event, an array of events or {"events":[…]}"#;
    for empty in ["", " ", "\r\n\t"] {
        answers(post(JSON, empty), 400, error);
    }
    answers("POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\r\n", 400, error);
    answers(gzipped(JSON, gzip(b"")), 400, error);
    answers(
        gzipped(JSON, ""),
        400,
        "the body is empty, which is not gzip: send one, or leave out \"Content-Encoding: gzip\"",
    );
}

#[test]
fn a_compressed_body_without_its_encoding_is_named() {
    let event = br#"{"name":"a"}"#;
    let set = "the body is gzip: set \"Content-Encoding: gzip\"";
    for media_type in [JSON, NDJSON, PROTOBUF] {
        answers(post(media_type, gzip(event)), 400, set);
        answers(post(media_type, gzip(&batch(&["a"]))), 400, set);
    }
    let unsupported = |name: &str| format!("the body is {name}, which is not supported: send it as it is, or as gzip");
    for (bytes, name) in [
        (&b"\x28\xb5\x2f\xfd\x04\x60\x19\x00\x00{\"name\"}"[..], "Zstandard"),
        (b"\x04\x22\x4d\x18\x60\x40\x82\x06\x00\x00\x80{}", "LZ4"),
        (b"\x78\x9c\xab\x56\xca\x4b\xcc\x4d\x55\xb2\x52\x4a\x54\xaa\x05\x00\x1f\x1a\x04\x0c", "zlib (\"deflate\")"),
        (b"\x78\x01\xab\x56\xca\x4b\xcc\x4d\x55\xb2\x52\x4a\x54\xaa\x05\x00\x1f\x1a\x04\x0c", "zlib (\"deflate\")"),
        (b"\xff\x06\x00\x00sNaPpY\x01", "Snappy"),
    ] {
        for media_type in [JSON, NDJSON, PROTOBUF] {
            answers(post(media_type, bytes), 400, &unsupported(name));
        }
        // With the header, and so unpacked.
        answers(gzipped(JSON, bytes), 400, &format!("the body is {name}, not gzip: compress it with gzip"));
    }
    answers(gzipped(JSON, gzip(&gzip(event))), 400, "the body is gzip within gzip: compress it once");
    answers(gzipped(NDJSON, gzip(&gzip(event))), 400, "the body is gzip within gzip: compress it once");
}

#[test]
fn a_gzip_body_says_what_is_wrong_with_it() {
    let packed = gzip(br#"{"name":"hello"}"#);
    let bytes = packed.len();
    let cut =
        |at: usize| format!("the gzip body is cut off: it ends after {at} bytes, before its end mark; send all of it");
    for at in [3, 12, bytes - 8, bytes - 1] {
        answers(gzipped(JSON, &packed[..at]), 400, &cut(at));
    }
    answers(gzipped(JSON, [&packed[..], &packed[..9]].concat()), 400, &cut(bytes + 9));
    let padded =
        |more| format!("the gzip body ends at byte {bytes}, and {more} bytes that are not gzip follow: leave them out");
    answers(gzipped(JSON, [&packed[..], b"\n"].concat()), 400, &padded(1));
    answers(gzipped(JSON, [&packed[..], &[0; 512]].concat()), 400, &padded(512));
    let not_gzip = "the body is not gzip: compress it, or leave out \"Content-Encoding: gzip\"";
    answers(gzipped(JSON, br#"{"name":"hello"}"#), 400, not_gzip);
    answers(gzipped(PROTOBUF, batch(&["a"])), 400, not_gzip);
    let mut damaged = packed.clone();
    damaged[bytes - 6] ^= 1;
    answers(
        gzipped(JSON, &damaged),
        400,
        "the gzip body is corrupt: corrupt gzip stream does not have a matching checksum; compress and send it again",
    );
}

#[test]
fn text_in_another_encoding_is_named() {
    let wide: Vec<u8> = "{\"name\":\"a\"}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let wide_be: Vec<u8> = "{\"name\":\"a\"}".encode_utf16().flat_map(u16::to_be_bytes).collect();
    for bytes in
        [wide.clone(), [&b"\xff\xfe"[..], &wide].concat(), wide_be.clone(), [&b"\xfe\xff"[..], &wide_be].concat()]
    {
        answers(post(JSON, &bytes), 400, "malformed JSON: the text is UTF-16: encode it as UTF-8");
        answers(post(NDJSON, &bytes), 400, "0: malformed JSON: the text is UTF-16: encode it as UTF-8");
    }
    answers(
        post(JSON, "\u{feff}{\"name\":\"a\"}"),
        400,
        "malformed JSON: it begins with a byte order mark: leave it out",
    );
    answers(
        post(JSON, b"[{\"name\":\"a\"},{\"name\":\"caf\xe9\"}]"),
        400,
        "malformed JSON: byte 26 is not UTF-8, event 1: encode texts as UTF-8",
    );
    answers(post(JSON, b"{\"name\":\"caf\xe9\"}"), 400, "malformed JSON: byte 12 is not UTF-8: encode texts as UTF-8");
}

#[test]
fn a_body_of_another_media_type_is_named() {
    let several = "the body has more than one JSON value: set \"Content-Type: application/x-ndjson\" for one event per \
                   line, or send an array";
    for text in [
        "{\"name\":\"a\"}\n{\"name\":\"b\"}",
        "{\"name\":\"a\"}\r\n{\"name\":\"b\"}\r\n",
        "{\"name\":\"a\"}{\"name\":",
        "\n{\"a\":1}\n\n[]",
    ] {
        answers(post(JSON, text), 400, several);
    }
    let protobuf = "the body is protobuf, not JSON: set \"Content-Type: application/x-protobuf\"";
    answers(post(JSON, batch(&["a", "b"])), 400, protobuf);
    answers(post(NDJSON, batch(&["a", "b"])), 400, protobuf);
    let json = "the body is JSON, not protobuf: set \"Content-Type: application/json\", or application/x-ndjson for one \
                event per line";
    for text in [r#"{"name":"a"}"#, r#"[{"name":"a"}]"#, " \n{\"name\":\"a\"}\n{\"name\":\"b\"}"] {
        answers(post(PROTOBUF, text), 400, json);
    }
    let document = "the body is one JSON document, not one event per line: set \"Content-Type: application/json\"";
    for text in [r#"[{"name":"a"},{"name":"b"}]"#, "{\n  \"name\": \"a\"\n}\n", r#"{"events":[{"name":"a"}]}"#] {
        answers(post(NDJSON, text), 400, document);
    }
}

#[test]
fn a_fault_within_an_array_is_named_with_its_event() {
    let array = |bad: &str| format!("[{{\"name\":\"a\"}},{{\"name\":\"b\",\"value\":{bad}}},{{\"name\":\"c\"}}]");
    let surrogate = "send both halves, or \\ufffd";
    for (bad, error) in [
        ("\"\\ud800\"", format!("half of a surrogate pair at line 1 column 42, event 1: {surrogate}")),
        ("\"\\udc00 \"", format!("half of a surrogate pair at line 1 column 41, event 1: {surrogate}")),
        ("\"\\ud800\\u0041\"", format!("half of a surrogate pair at line 1 column 47, event 1: {surrogate}")),
        ("NaN", "`NaN` is not a JSON value at line 1 column 35, event 1: leave the key out, or send a text".to_owned()),
        (
            "-Infinity",
            "`-Infinity` is not a JSON value at line 1 column 36, event 1: leave the key out, or send a text"
                .to_owned(),
        ),
        ("None", "`None` is not a JSON value at line 1 column 35, event 1: send null".to_owned()),
        ("True", "`True` is not a JSON value at line 1 column 35, event 1: send true".to_owned()),
        ("1e400", "number out of range at line 1 column 39, event 1: send at most 1.7e308, or a text".to_owned()),
        ("01", "invalid number at line 1 column 36, event 1".to_owned()),
    ] {
        answers(post(JSON, array(bad)), 400, &format!("malformed JSON: {error}"));
        answers(
            post(JSON, format!("{{\"events\":\n{}}}", array(bad))),
            400,
            &format!("malformed JSON: {}", error.replace("line 1", "line 2")),
        );
    }
    answers(
        post(JSON, "[{\"name\":\"a\"},\n {\"name\":\"b\"}\n {\"name\":\"c\"}]"),
        400,
        "malformed JSON: expected `,` or `]` at line 3 column 2, event 2",
    );
    answers(
        post(JSON, "{\"name\":\"b\",\"value\":1e400}"),
        400,
        "malformed JSON: number out of range at line 1 column 25: send at most 1.7e308, or a text",
    );
    answers(
        post(NDJSON, "{\"name\":\"b\",\"value\":NaN}"),
        400,
        "0: malformed JSON: `NaN` is not a JSON value at column 21: leave the key out, or send a text",
    );
    answers(
        post(NDJSON, "\n{\"name\":\"\\ud800\"}"),
        400,
        "1: malformed JSON: half of a surrogate pair at column 16: send both halves, or \\ufffd",
    );
    answers(
        post(JSON, "{'name':'a'}"),
        400,
        "malformed JSON: key must be a string at line 1 column 2: use double quotes",
    );
}

const TIME: &str = "use `time`: an RFC 3339 text, or integer nanoseconds since 1970";
const BODY: &str = "use `body`";
const SEVERITY: &str = "use `severity`: \"trace\", \"debug\", \"info\", \"warn\", \"error\", \"fatal\", or 1 to 24";
const SOURCE: &str = "use `source`";
const ATTRIBUTES: &str = "use `attributes`: an object";
const PUT: &str = "put it into `attributes`";
const DURATION: &str = "use `duration_nano`, in nanoseconds";
const MILLIS: &str = "use `duration_nano`, in nanoseconds: milliseconds × 1,000,000";
const OTLP: &str = "this is OTLP: send it to POST /v1/logs, /v1/metrics or /v1/traces";

/// Keys that other agents send, and the advice in the answer to each.
const KEYS_OF_AGENTS: &[(&str, &[(&str, &str)])] = &[
    ("Fluent Bit", &[("date", TIME), ("log", BODY), ("stream", PUT), ("kubernetes", PUT)]),
    ("Vector", &[("timestamp", TIME), ("message", BODY), ("host", SOURCE), ("source_type", PUT), ("file", PUT)]),
    ("pino", &[("level", SEVERITY), ("msg", BODY), ("hostname", SOURCE), ("pid", PUT), ("responseTime", MILLIS)]),
    ("zap", &[("ts", TIME), ("logger", PUT), ("caller", PUT), ("stacktrace", PUT), ("lvl", SEVERITY)]),
    (
        "ECS",
        &[
            ("@timestamp", TIME),
            ("log.level", SEVERITY),
            ("service.name", SOURCE),
            ("labels", ATTRIBUTES),
            ("tags", ATTRIBUTES),
            ("ecs.version", PUT),
            ("trace.id", "use `trace_id`"),
            ("span.id", "use `span_id`"),
            ("parent.id", "use `parent_span_id`"),
            ("event", "use `name` for what happened, `body` for a text"),
        ],
    ),
    (
        "OTLP",
        &[
            ("resourceLogs", OTLP),
            ("resourceMetrics", OTLP),
            ("resourceSpans", OTLP),
            ("resource_logs", OTLP),
            ("scopeLogs", OTLP),
            ("logRecords", OTLP),
            ("timeUnixNano", TIME),
            ("observedTimeUnixNano", TIME),
            ("severityText", SEVERITY),
            ("severityNumber", SEVERITY),
            ("traceId", "use `trace_id`"),
            ("parentSpanId", "use `parent_span_id`"),
            ("resource", ATTRIBUTES),
        ],
    ),
    ("Docker", &[("log", BODY), ("attrs", ATTRIBUTES)]),
    ("Loki", &[("streams", "this is a push body of Loki, which is not supported: send events"), ("line", BODY)]),
    (
        "Datadog",
        &[
            ("ddsource", SOURCE),
            ("ddtags", ATTRIBUTES),
            ("hostname", SOURCE),
            ("service", SOURCE),
            ("status", PUT),
            ("dd.trace_id", "use `trace_id`"),
        ],
    ),
    ("journald", &[("MESSAGE", BODY), ("PRIORITY", SEVERITY), ("_HOSTNAME", SOURCE)]),
    ("GELF", &[("short_message", BODY), ("full_message", BODY), ("facility", PUT)]),
    ("Splunk", &[("fields", ATTRIBUTES), ("sourcetype", PUT), ("index", PUT)]),
    (
        "durations",
        &[
            ("duration_ms", MILLIS),
            ("elapsed_ms", MILLIS),
            ("durationMs", MILLIS),
            ("duration", DURATION),
            ("elapsed", DURATION),
            ("latency", DURATION),
            ("duration_us", "use `duration_nano`, in nanoseconds: microseconds × 1,000"),
            ("duration_s", "use `duration_nano`, in nanoseconds: seconds × 1,000,000,000"),
            ("duration_ns", DURATION),
        ],
    ),
    (
        "others",
        &[
            (
                "type",
                "put it into `attributes`; `kind` is \"log\", \"gauge\", \"counter\", \"span\", \"histogram\" or \"summary\"",
            ),
            ("id", PUT),
            ("uid", PUT),
            ("node", PUT),
            ("size", PUT),
            ("title", PUT),
            ("data", PUT),
            ("user", PUT),
            ("text", BODY),
            ("position", "the server sets it: leave it out"),
            ("received_at", "the server sets it: leave it out"),
        ],
    ),
    (
        "typing errors",
        &[
            ("nmae", "did you mean `name`?"),
            ("atributes", "did you mean `attributes`?"),
            ("severty", "did you mean `severity`?"),
            ("NAME", "did you mean `name`?"),
            ("trace_idd", "did you mean `trace_id`?"),
        ],
    ),
];

#[test]
fn a_key_of_another_agent_is_answered_with_ours() {
    for (agent, keys) in KEYS_OF_AGENTS {
        for (key, advice) in *keys {
            let error = format!("0: unknown key `{key}`: {advice}");
            answers(post(JSON, format!("{{\"name\":\"a\",\"{key}\":1}}")), 400, &error);
            assert_eq!(advice.matches("did you mean").count(), usize::from(*agent == "typing errors"));
        }
    }
}

#[test]
fn a_time_in_another_unit_is_refused_with_the_unit() {
    let before = "which is before 1980 in nanoseconds";
    for (time, error) in [
        ("1795464948", format!("`time` is 1795464948, {before}; it looks like seconds: multiply it by 1,000,000,000")),
        (
            "1795464948123",
            format!("`time` is 1795464948123, {before}; it looks like milliseconds: multiply it by 1,000,000"),
        ),
        (
            "1795464948123456",
            format!("`time` is 1795464948123456, {before}; it looks like microseconds: multiply it by 1,000"),
        ),
        ("5", format!("`time` is 5, {before}: send nanoseconds since 1970, or an RFC 3339 text")),
        (
            "315532799999999999",
            format!("`time` is 315532799999999999, {before}: send nanoseconds since 1970, or an RFC 3339 text"),
        ),
        (
            "1795464948.5",
            "`time` is 1795464948.5, which looks like seconds: send integer nanoseconds since 1970, or an RFC 3339 text"
                .to_owned(),
        ),
        (
            "1.5",
            "`time` must be an RFC 3339 text or integer nanoseconds from 0 to 2^63 - 1, without fraction or exponent"
                .to_owned(),
        ),
    ] {
        answers(post(JSON, format!("{{\"name\":\"a\",\"time\":{time}}}")), 400, &format!("0: {error}"));
    }
    for time in ["0", "315532800000000000", "1795464948123456789", "\"1970-01-01T00:00:01Z\"", "null"] {
        assert_eq!(exchange(post(JSON, format!("{{\"name\":\"a\",\"time\":{time}}}"))).names, ["a"], "{time}");
    }
}

#[test]
fn otlp_is_named() {
    let error = "not found: the paths of OTLP have no slash at their end";
    for path in ["/v1/logs/", "/v1/metrics/", "/v1/traces/", "http://x/v1/traces//"] {
        answers(format!("POST {path} HTTP/1.1\r\nHost: x\r\n\r\n"), 404, error);
    }
    answers(
        "POST /api/v1/logs HTTP/1.1\r\nHost: x\r\n\r\n",
        404,
        "not found: the paths of OTLP are /v1/logs, /v1/metrics and /v1/traces, with nothing before them",
    );
    answers(
        "POST /v1development/profiles HTTP/1.1\r\nHost: x\r\n\r\n",
        404,
        "profiles are not supported: send logs, metrics and traces",
    );
    // ExportLogsServiceRequest { resource_logs { resource { attributes { key: "service.name" value: "api" } } } }
    let resource = [&b"\x0a\x1b\x0a\x19\x0a\x17\x0a\x0cservice.name\x12\x07\x0a\x05hello"[..]].concat();
    let looks = "the body looks like OTLP: send it to POST /v1/logs, /v1/metrics or /v1/traces";
    answers(post(PROTOBUF, &resource), 400, looks);
    // The same without a resource: ResourceLogs { scope_logs { } }.
    answers(post(PROTOBUF, b"\x0a\x02\x12\x00"), 400, looks);
    answers(
        post("application/json", r#"{"resourceSpans":[{"resource":{}}]}"#),
        400,
        "0: unknown key `resourceSpans`: this is OTLP: send it to POST /v1/logs, /v1/metrics or /v1/traces",
    );
}

#[test]
fn a_head_says_what_is_wrong_with_it() {
    let types = "application/json, application/x-ndjson or application/x-protobuf";
    answers(post_with("", "{}"), 415, &format!("Content-Type is missing: set it to {types}"));
    answers(post("text/plain", "{}"), 415, &format!("Content-Type `text/plain` is not supported: use {types}"));
    answers(
        post(&"x".repeat(100), "{}"),
        415,
        &format!("Content-Type `{}…` is not supported: use {types}", "x".repeat(64)),
    );
    answers(
        post_with("Content-Type: application/json\r\nContent-Encoding: br\r\n", "{}"),
        415,
        "Content-Encoding `br` is not supported: use gzip, or none",
    );
    answers(
        "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n",
        404,
        "not found: there are POST /v1/events, /v1/logs, /v1/metrics, /v1/traces and GET /, /health, /ready, \
         /metrics, /status.json",
    );
    answers("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "HTTP/2, and so gRPC, is not supported: use HTTP/1.1");
    answers("GET / HTTP/3.0\r\nHost: x\r\n\r\n", 505, "HTTP/3.0 is not supported: use HTTP/1.1");
    answers(
        "GET ftp://x/health HTTP/1.1\r\nHost: x\r\n\r\n",
        400,
        "the request target is neither a path nor an http:// or https:// URL with a host",
    );
    answers(
        "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n5;\r\n",
        400,
        "a chunk extension is not `;name` or `;name=value` (RFC 9112, section 7.1.1)",
    );
}
