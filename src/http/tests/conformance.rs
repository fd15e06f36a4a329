//! What RFC 9110 and RFC 9112 require of an origin server with a few pages: each request with its statuses and the
//! fields of its answers. [`exchange`] sends each one whole, byte by byte and split at every offset.

use proptest::prelude::*;

use super::*;

const GET: &str = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
const HEAD_200: &str = "HTTP/1.1 200 OK\r\nDate: Mon, 23 Nov 2026 20:15:48 GMT\r\nContent-Type: application/json\r\n\
                        Content-Length: 15\r\nConnection: keep-alive\r\nKeep-Alive: timeout=75\r\n\r\n";
const GET_200: &str = "HTTP/1.1 200 OK\r\nDate: Mon, 23 Nov 2026 20:15:48 GMT\r\nContent-Type: application/json\r\n\
                       Content-Length: 15\r\nConnection: keep-alive\r\nKeep-Alive: timeout=75\r\n\r\n{\"status\":\"ok\"}";

/// Sends a request, then a GET on the same connection.
fn statuses_before_a_get(request: &str) -> (Vec<u16>, String) {
    let got = exchange(format!("{request}{GET}"));
    (got.statuses, got.answers)
}

#[test]
fn every_answer_has_one_date() {
    // RFC 9110, section 6.6.1.
    let body = String::from_utf8(batch(&["a"])).unwrap();
    for (request, status) in [
        (GET.to_owned(), 200),
        (String::from_utf8(post(PROTOBUF, &body)).unwrap(), 200),
        (String::from_utf8(post(PROTOBUF, "x")).unwrap(), 400),
        ("GET\r\n\r\n".to_owned(), 400),
        ("GET /none HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 404),
        ("POST /health HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 405),
        ("POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n".to_owned(), 415),
        ("POST /v1/events HTTP/1.1\r\nHost: x\r\nExpect: 200\r\n\r\n".to_owned(), 417),
        ("GET /health HTTP/2.0\r\nHost: x\r\n\r\n".to_owned(), 505),
    ] {
        let got = exchange(&request);
        assert_eq!(got.statuses, [status], "{request}");
        assert_eq!(got.answers.matches("\r\nDate: Mon, 23 Nov 2026 20:15:48 GMT\r\n").count(), 1, "{}", got.answers);
    }
    for late in [Duration::from_secs(6), Duration::from_secs(600)] {
        let mut peer = Peer::new();
        peer.send("GET /health");
        peer.later(late);
        let answer = peer.answer();
        assert!(answer.starts_with("HTTP/1.1 408 Request Timeout\r\nDate: Mon, 23 Nov 2026"), "{answer}");
    }
}

#[test]
fn an_interim_answer_has_no_date() {
    let request = post_with("Content-Type: application/x-protobuf\r\nExpect: 100-continue\r\n", batch(&["a"]));
    let got = exchange(&request);
    assert!(got.answers.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nDate: "), "{}", got.answers);
}

#[test]
fn a_target_may_be_absolute() {
    // RFC 9112, section 3.2.2: it must be accepted, and Host is ignored; section 3.2.1: an empty path is `/`.
    for (line, status) in [
        ("GET http://x/health HTTP/1.1", 200),
        ("GET https://x:443/health?a=b HTTP/1.1", 200),
        ("GET HTTP://127.0.0.1:4640/health HTTP/1.1", 200),
        ("GET http://[::1]:4640/health HTTP/1.1", 200),
        ("GET http://another.example/health HTTP/1.1", 200),
        ("HEAD http://x/health HTTP/1.1", 200),
        ("GET http://x HTTP/1.1", 421),
        ("GET http://x?a HTTP/1.1", 421),
        ("GET http://x//health HTTP/1.1", 404),
        ("GET http://x/v1/events HTTP/1.1", 405),
        ("OPTIONS http://x HTTP/1.1", 405),
    ] {
        let got = exchange(format!("{line}\r\nHost: x\r\n\r\n"));
        assert_eq!((got.statuses.as_slice(), got.closing), (&[status][..], false), "{line}");
    }
    let got = exchange("GET http://x/health HTTP/1.0\r\n\r\n");
    assert_eq!((got.statuses.as_slice(), got.closing), (&[200][..], true));
    let posted = String::from_utf8(post(PROTOBUF, batch(&["a"]))).unwrap();
    let posted = posted.replace("/v1/events", "http://x:4640/v1/events?ack=written");
    assert_eq!(exchange(posted).names, ["a"]);
    // Host must be there and valid all the same (section 3.2).
    assert_eq!(exchange("GET http://x/health HTTP/1.1\r\n\r\n").statuses, [400]);
    assert_eq!(exchange("GET http://x/health HTTP/1.1\r\nHost: a b\r\n\r\n").statuses, [400]);
}

#[test]
fn options_is_answered_with_the_allowed_methods() {
    for (target, allow) in [
        ("*", "GET, HEAD, POST"),
        ("http://x", "GET, HEAD, POST"),
        ("/health", "GET, HEAD"),
        ("/ready", "GET, HEAD"),
        ("/metrics", "GET, HEAD"),
        ("/v1/events", "POST"),
        ("http://x/v1/events", "POST"),
    ] {
        let (statuses, answers) = statuses_before_a_get(&format!("OPTIONS {target} HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert_eq!(statuses, [405, 200], "{target}");
        assert!(answers.contains(&format!("\r\nAllow: {allow}\r\n")), "{target}: {answers}");
    }
    assert_eq!(statuses_before_a_get("OPTIONS /none HTTP/1.1\r\nHost: x\r\n\r\n").0, [404, 200]);
    // `*` names the server, and only OPTIONS asks for that (RFC 9112, section 3.2.4).
    for method in ["GET", "HEAD", "POST", "TRACE"] {
        assert_eq!(statuses_before_a_get(&format!("{method} * HTTP/1.1\r\nHost: x\r\n\r\n")).0, [400], "{method}");
    }
}

#[test]
fn head_has_the_fields_of_get_and_no_body() {
    for path in ["/health", "/ready", "/metrics", "/none", "/v1/events", "http://x/health"] {
        let get = exchange(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).answers;
        let head = exchange(format!("HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n")).answers;
        let (fields, body) = get.split_once("\r\n\r\n").unwrap();
        assert_eq!(head, format!("{fields}\r\n\r\n"), "{path}");
        assert!(fields.contains(&format!("\r\nContent-Length: {}", body.len())), "{path}");
    }
    assert_eq!(exchange("HEAD /health HTTP/1.1\r\nHost: x\r\n\r\n").answers, HEAD_200);
    for malformed in ["HEAD /health HTTP/1.1\r\n\r\n", "HEAD health HTTP/1.1\r\nHost: x\r\n\r\n"] {
        let got = exchange(malformed);
        assert_eq!((got.statuses.as_slice(), got.closing), (&[400][..], true), "{malformed}");
        assert!(got.answers.ends_with("\r\n\r\n") && !got.answers.contains('{'), "{}", got.answers);
    }
}

#[test]
fn requests_that_must_be_served() {
    for (what, request) in [
        ("one empty line before the request line (2.2)", "\r\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("spaces and tabs around a value (5)", "GET /health HTTP/1.1\r\nHost: \t x \t\r\nA:\r\n\r\n"),
        ("field names of either case", "GET /health HTTP/1.1\r\nhOST: x\r\n\r\n"),
        ("text beyond ASCII in an unknown field", "GET /health HTTP/1.1\r\nHost: x\r\nA: \u{e9}\r\n\r\n"),
        ("a field twice that may be a list", "GET /health HTTP/1.1\r\nHost: x\r\nAccept: a\r\nAccept: b\r\n\r\n"),
        (
            "any other protocol to upgrade to (RFC 9110, 7.8)",
            "GET /health HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n",
        ),
        (
            "empty members of a list (RFC 9110, 5.6.1)",
            "GET /health HTTP/1.1\r\nHost: x\r\nConnection: , keep-alive,,\r\n\r\n",
        ),
        ("a length of 0 on a GET", "GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"),
        ("a condition that is not evaluated", "GET /health HTTP/1.1\r\nHost: x\r\nIf-None-Match: \"a\"\r\n\r\n"),
        ("a range that is not offered", "GET /health HTTP/1.1\r\nHost: x\r\nRange: bytes=0-1\r\n\r\n"),
    ] {
        let (statuses, answers) = statuses_before_a_get(request);
        assert_eq!(statuses, [200, 200], "{what}");
        assert_eq!(answers, [GET_200, GET_200].concat(), "{what}");
    }
}

#[test]
fn requests_that_must_be_refused_and_end_the_connection() {
    let post = "POST /v1/events HTTP/1.1\r\nHost: x\r\n";
    for (what, request) in [
        ("two lengths", format!("{post}Content-Length: 1\r\nContent-Length: 2\r\n\r\n")),
        ("one length twice", format!("{post}Content-Length: 1\r\nContent-Length: 1\r\n\r\n")),
        ("a list of lengths", format!("{post}Content-Length: 1, 1\r\n\r\n")),
        (
            "a length and a coding (6.1)",
            format!("{post}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ),
        ("a coding before a length", format!("{post}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n")),
        ("a coding in HTTP/1.0", "POST /v1/events HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned()),
        ("a folded field (5.2)", "GET /health HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n".to_owned()),
        ("a space before the colon (5.1)", "GET /health HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n".to_owned()),
        ("LF alone", "GET /health HTTP/1.1\nHost: x\n\n".to_owned()),
        ("CR alone", "GET /health HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n".to_owned()),
        ("no Host", "GET /health HTTP/1.1\r\n\r\n".to_owned()),
        ("two Hosts", "GET /health HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n".to_owned()),
        ("an authority with a user (RFC 9110, 4.2.4)", "GET http://u@x/health HTTP/1.1\r\nHost: x\r\n\r\n".to_owned()),
        (
            "an absolute target without a host (RFC 9110, 4.2.1)",
            "GET http:///health HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        ),
        ("a fragment", "GET http://x/health#a HTTP/1.1\r\nHost: x\r\n\r\n".to_owned()),
        ("another scheme", "GET ws://x/health HTTP/1.1\r\nHost: x\r\n\r\n".to_owned()),
        ("a tunnel", "CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n".to_owned()),
    ] {
        let got = exchange(format!("{request}{GET}"));
        assert_eq!((got.statuses.as_slice(), got.closing), (&[400][..], true), "{what}");
        assert!(got.answers.contains("\r\nConnection: close\r\n"), "{what}");
    }
}

#[test]
fn the_connection_option_close_is_found_in_every_list() {
    for (fields, closes) in [
        ("Connection: close", true),
        ("Connection: Close", true),
        ("Connection: keep-alive, close", true),
        ("Connection: close ,upgrade", true),
        ("Connection: a\r\nConnection: b,\tclose", true),
        ("Connection: keep-alive", false),
        ("Connection: enclose", false),
        ("Connection: \"close\"", false),
        ("Proxy-Connection: close", false),
    ] {
        let got = exchange(format!("GET /health HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n"));
        assert_eq!((got.statuses.as_slice(), got.closing), (&[200][..], closes), "{fields}");
    }
}

/// A chunked POST of `batch(&["hello"])`, 9 bytes, with this first size line and this end.
fn chunked_with(size_line: &str, end: &str) -> Outcome {
    let head = "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    exchange([head.as_bytes(), size_line.as_bytes(), b"\r\n", &batch(&["hello"]), b"\r\n", end.as_bytes()].concat())
}

#[test]
fn chunk_extensions_follow_the_grammar() {
    // RFC 9112, section 7.1.1: *( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] )
    for extension in [
        "",
        ";a",
        " ; a",
        "\t;\ta",
        ";a=b",
        "; a = b",
        ";a=\"\"",
        ";a=\"q;x\"",
        ";a=\"\\\"\"",
        ";a=\"\t\u{e9}\\\\\"",
        ";a;b=c;d",
        ";a=b;c=\"d\" ; e",
        ";!#$%&'*+-.^_`|~=1",
    ] {
        assert_eq!(chunked_with(&format!("9{extension}"), "0\r\n\r\n").names, ["hello"], "{extension:?}");
        assert_eq!(chunked_with("9", &format!("0{extension}\r\n\r\n")).names, ["hello"], "last, {extension:?}");
    }
    for extension in [
        " ",
        "\t",
        ";",
        "; ",
        ";;",
        ";a;",
        ";a ",
        ";=b",
        ";a=",
        ";a= ",
        ";a=;b",
        ";bad[=x",
        ";a=[",
        ";a=b c",
        ";a b",
        ";a=\"",
        ";a=\"b",
        ";a=\"b\"c",
        ";a=\"b\" ",
        ";a=\"\\\u{1}\"",
        ";a=\"\u{7f}\"",
        ";a=b=c",
        ";a=\"b\"=c",
        ";\u{e9}",
        "x",
        ",a",
        ";a=b\"c\"",
    ] {
        for (size_line, end) in
            [(format!("9{extension}"), "0\r\n\r\n".to_owned()), ("9".to_owned(), format!("0{extension}\r\n\r\n"))]
        {
            let got = chunked_with(&size_line, &end);
            assert_eq!((got.statuses.as_slice(), got.closing), (&[400][..], true), "{size_line:?} {end:?}");
            assert!(got.names.is_empty());
        }
    }
}

proptest! {
    /// The decoder, in pieces, against a reader that has the whole line.
    #[test]
    fn chunk_extensions_are_read_alike_by_two_readers(extensions in "[;;= \\t\"\\\\ab0\u{1}\u{e9}]{0,12}") {
        crate::http::fuzz::chunked(format!("2{extensions}\r\nhi\r\n0{extensions}\r\n\r\n").as_bytes());
    }
}

#[test]
fn trailers_are_read_and_dropped() {
    for end in ["0\r\nA: b\r\n\r\n", "0\r\nA:\r\nB: c, d\r\n\r\n", "0\r\nHost: y\r\nContent-Length: 7\r\n\r\n"] {
        assert_eq!(chunked_with("9", end).names, ["hello"], "{end:?}");
    }
    for end in ["0\r\nA\r\n\r\n", "0\r\nA : b\r\n\r\n", "0\r\n A: b\r\n\r\n", "0\r\nA: b\n\r\n", "0\n\n"] {
        assert_eq!(chunked_with("9", end).statuses, [400], "{end:?}");
    }
}

#[test]
fn other_names_of_the_media_types_are_known() {
    let json = r#"{"name":"a"}"#;
    for content_type in ["application/json", "text/json", "Text/JSON; charset=utf-8", "application/json;a=\"b;c\""] {
        assert_eq!(exchange(post(content_type, json)).names, ["a"], "{content_type}");
    }
    for content_type in
        ["application/x-ndjson", "application/ndjson", "application/jsonl", "Application/JSONL ; charset=UTF-8"]
    {
        assert_eq!(exchange(post(content_type, format!("{json}\n{json}"))).names, ["a", "a"], "{content_type}");
    }
    for content_type in ["application/x-protobuf", "application/protobuf", "APPLICATION/PROTOBUF;proto=a.B"] {
        assert_eq!(exchange(post(content_type, batch(&["a"]))).names, ["a"], "{content_type}");
    }
}

#[test]
fn a_refused_coding_is_answered_with_those_that_are_accepted() {
    // RFC 9110, section 12.5.3: only where the coding is the reason.
    let got = exchange(post_with("Content-Type: application/json\r\nContent-Encoding: br\r\n", "x"));
    assert_eq!(got.statuses, [415]);
    assert!(got.answers.contains("\r\nAccept-Encoding: gzip\r\n"), "{}", got.answers);
    let got = exchange(post("text/plain", "x"));
    assert_eq!(got.statuses, [415]);
    assert!(!got.answers.contains("Accept-Encoding"), "{}", got.answers);
}
