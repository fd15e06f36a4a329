//! Requests that are no sound HTTP/1.1, or that two readers could read differently. Each is answered once, closes the
//! connection, and nothing behind it is read as a request. [`exchange`] sends each in every way that bytes can come, and
//! looks that memory is back.

use super::*;
use crate::limits::{HTTP_HEAD_BYTES_MAX, HTTP_HEADERS_MAX, HTTP_TARGET_BYTES_MAX};

/// What must never be served behind a bad request.
const SMUGGLED: &str = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";

const TABLE: &[(u16, &[u8])] = &[
    // Request line.
    (400, b"GET\r\n\r\n"),
    (400, b"GET /health\r\n\r\n"),
    (400, b"GET  /health HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET /health  HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET\t/health\tHTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b" GET /health HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET /health HTTP/1.1 \r\nHost: x\r\n\r\n"),
    (400, b"GET /health HTTP/1.1 x\r\nHost: x\r\n\r\n"),
    (400, b"GE(T /health HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"G\xc3\x89T /health HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"\r\n\r\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n"),
    // PROXY headers.
    (400, b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"PROXY UNKNOWN\r\n\r\n"),
    (400, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc0\0\x02\x02\xdc\x04\x01\xbbGET /health HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"{\"name\":\"no HTTP at all\"}\r\n\r\n"),
    // Versions.
    (400, b"GET /health http/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET /health HTTP/1\r\nHost: x\r\n\r\n"),
    (400, b"GET /health HTTP/1.1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET /health HTTP/11\r\nHost: x\r\n\r\n"),
    (400, b"GET /health HTTP/1.x\r\nHost: x\r\n\r\n"),
    (400, b"GET /health FTP/1.1\r\nHost: x\r\n\r\n"),
    (505, b"GET /health HTTP/0.9\r\nHost: x\r\n\r\n"),
    (505, b"GET /health HTTP/1.2\r\nHost: x\r\n\r\n"),
    (505, b"GET /health HTTP/3.0\r\nHost: x\r\n\r\n"),
    (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    // Targets.
    (400, b"GET health HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET * HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET x:80 HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET ?a HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET http:/x/health HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET http:x/health HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET http://?/health HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET http://x:65536/health HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET http://x:a/health HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET http://[x]/health HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET http://a,b/health HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET http://a%41/health HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET ?http://x/health HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET http://x/health HTTP/1.1\r\n\r\n"),
    (400, b"GET http://x/health HTTP/1.1\r\nHost: y\r\nHost: x\r\n\r\n"),
    (400, b"OPTIONS *?a HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"options * HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"OPTIONS ** HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET /health% HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET /health%2 HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET /health?%zz HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET /health?a|b HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"CONNECT health HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"CONNECT a@b:1 HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET /health#top HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET /a\"b HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET /a\\b HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET /\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET ftp://x/health HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET http:///health HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET http://user@x/health HTTP/1.1\r\nHost: x\r\n\r\n"),
    // Host.
    (400, b"GET /health HTTP/1.1\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n"),
    (400, b"GET /health HTTP/1.0\r\nHost: x\r\nhost: y\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: a b\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: a,b\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: u@b\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: \xc3\xa9\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost:\r\n\r\n"),
    (400, b"GET /health HTTP/1.0\r\nHost: \t\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: :80\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: x:y\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: x:-1\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: x:65536\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: x:1:2\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: ::1\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: [::1\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: [x]\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: [::1]80\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: x?\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: x%00\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: http://x\r\n\r\n"),
    // Lines and control bytes.
    (400, b"GET /health HTTP/1.1\nHost: x\n\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: x\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: x\r\n\n"),
    (400, b"GET /health HTTP/1.1\rHost: x\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: x\r\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: x\r\nA: a\rb\r\n\r\n"),
    (400, b"GET /hea\0lth HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: x\r\nA: \0\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: x\r\nA: \x0b\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: x\r\nA: \x7f\r\n\r\n"),
    (400, b"G\x01ET /health HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET /health\x1b HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\0\r\nHost: x\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: x\0\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: x\r\nA\x08: b\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: x\r\nA: \x0c\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: x\r\nA: b\n\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: x\r\nA: b\r\n\r\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: x\r\nA: b\n C: d\r\n\r\n"),
    (400, b"\r\rGET /health HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"\x80GET /health HTTP/1.1\r\nHost: x\r\n\r\n"),
    // Fields.
    (400, b"GET /health HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: x\r\n\tfolded: y\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\n Host: x\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost : x\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: x\r\nA\t: b\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: x\r\nnocolon\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: x\r\n: b\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: x\r\nA(: b\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: x\r\nA b: c\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: x\r\nA{}: c\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: x\r\nA\"\": c\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: x\r\nA/B: c\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: x\r\nA@: c\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: x\r\nA=b\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: x\r\nA: b\r\n \r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: x\r\n\xc3\xa9: c\r\n\r\n"),
    (400, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Type: text/plain\r\n\r\n"),
    (400, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n"),
    (417, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nExpect: 200-ok\r\n\r\n"),
    // Content-Length.
    (400, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\n"),
    (400, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n"),
    (400, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\n"),
    (400, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 0x1\r\n\r\n"),
    (400, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 1 1\r\n\r\n"),
    (400, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 1\r\n\r\n"),
    (400, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 1.0\r\n\r\n"),
    (400, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: \xd9\xa1\r\n\r\n"),
    (400, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\ncontent-length: 35\r\n\r\n"),
    (400, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 01\r\n\r\n"),
    (400, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 00\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 0000000000000000000000000\r\n\r\n"),
    (400, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 1;\r\n\r\n"),
    (400, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 0,\r\n\r\n"),
    (400, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: \"1\"\r\n\r\n"),
    (400, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 1e1\r\n\r\n"),
    (400, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: a\r\n\r\n"),
    (400, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551616\r\n\r\n"),
    (400, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n"),
    (400, b"POST /v1/events HTTP/1.0\r\nContent-Length: 0\r\nContent-Length: 1\r\n\r\n"),
    // Transfer-Encoding.
    (400, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    (400, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 35\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n"),
    (400, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"),
    (400, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\ntransfer-encoding: x\r\n\r\n"),
    (400, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity\r\n\r\n"),
    (400, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n"),
    (400, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n"),
    (400, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, chunked\r\n\r\n"),
    (400, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: ,chunked\r\n\r\n"),
    (400, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked;q=1\r\n\r\n"),
    (400, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \"chunked\"\r\n\r\n"),
    (400, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\r\n\r\n"),
    (400, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chun\x0bked\r\n\r\n"),
    (400, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n"),
    (400, b"POST /v1/events HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"),
    (400, b"POST /v1/events HTTP/1.0\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n"),
    (400, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked,\r\n\r\n"),
    (400, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding:\r\n\r\n"),
    (400, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n"),
    (400, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked gzip\r\n\r\n"),
    (400, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \xe3\x83\x81hunked\r\n\r\n"),
    (400, b"GET /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity, chunked, chunked\r\n\r\n"),
    (501, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
    (501, b"GET /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity,CHUNKED\r\n\r\n"),
];

#[test]
fn bad_requests_are_answered_once_and_close() {
    for (status, request) in TABLE {
        let shown = request.escape_ascii().to_string();
        let got = exchange([*request, SMUGGLED.as_bytes()].concat());
        assert_eq!(got.statuses, [*status], "{shown}");
        assert!(got.closing, "{shown}");
        assert!(got.answers.contains("\r\nConnection: close\r\n"), "{shown}");
        assert!(got.answers.contains(r#"{"error":""#), "{shown}");
        // The status is the one thing that is counted.
        assert_eq!((got.payloads.len(), got.rejected.len()), (0, 0), "{shown}");
    }
    assert!(TABLE.len() >= 120, "{}", TABLE.len());
}

#[test]
fn a_target_may_be_as_long_as_the_limit_says() {
    let of = |bytes: usize| format!("GET /health?{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(bytes - "/health?".len()));
    assert_eq!(exchange(of(HTTP_TARGET_BYTES_MAX)).statuses, [200]);
    assert_eq!(exchange(of(HTTP_TARGET_BYTES_MAX + 1)).statuses, [414]);
    // One that never ends is not waited for.
    assert_eq!(exchange(format!("GET /{}", "a".repeat(2 * HTTP_TARGET_BYTES_MAX))).statuses, [414]);
}

#[test]
fn a_head_may_be_as_long_as_the_limit_says() {
    let of = |bytes: usize| {
        let head = "GET /health HTTP/1.1\r\nHost: x\r\nA: \r\n\r\n";
        head.replace("A: ", &format!("A: {}", "a".repeat(bytes - head.len())))
    };
    assert_eq!(exchange(of(HTTP_HEAD_BYTES_MAX)).statuses, [200]);
    assert_eq!(exchange(of(HTTP_HEAD_BYTES_MAX + 1)).statuses, [431]);
    let endless = format!("GET /health HTTP/1.1\r\nHost: x\r\nA: {}", "a".repeat(HTTP_HEAD_BYTES_MAX));
    assert_eq!(exchange(endless).statuses, [431]);
}

#[test]
fn a_head_may_have_as_many_fields_as_the_limit_says() {
    let of = |fields: usize| format!("GET /health HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(fields - 1));
    assert_eq!(exchange(of(HTTP_HEADERS_MAX)).statuses, [200]);
    assert_eq!(exchange(of(HTTP_HEADERS_MAX + 1)).statuses, [431]);
}

#[test]
fn a_header_value_may_have_obsolete_text_and_white_space_around_it() {
    let got = exchange(&b"GET /health HTTP/1.1\r\nHost:\t x \r\nA: \xe9\xff\tb\r\nEmpty:\r\n\r\n"[..]);
    assert_eq!(got.statuses, [200]);
}

/// What a machine without any bytes kept makes of random bytes: no panic, and the same however they are torn.
#[test]
fn damaged_requests_never_panic_and_do_not_depend_on_how_they_are_torn() {
    use proptest::prelude::*;
    let samples = [
        post(PROTOBUF, batch(&["a"])),
        b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\n\x0a\x03\x2a\r\n2\r\n\x01a\r\n0\r\nA: b\r\n\r\n".to_vec(),
        SMUGGLED.as_bytes().to_vec(),
    ];
    let changes = proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>(), 0..3u8), 0..6);
    proptest!(|(sample in 0..samples.len(), changes in changes, cut in any::<proptest::sample::Index>())| {
        let mut bytes = samples[sample].clone();
        for (index, byte, change) in changes {
            let at = index.index(bytes.len());
            match change {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => { bytes.remove(at); }
            }
        }
        bytes.extend_from_slice(SMUGGLED.as_bytes());
        let whole = outcome_of([&bytes[..]], false, &|_| {});
        prop_assert_eq!(&whole, &outcome_of(bytes.chunks(1), true, &|_| {}));
        let (one, two) = bytes.split_at(cut.index(bytes.len()));
        prop_assert_eq!(&whole, &outcome_of([one, two], true, &|_| {}));
    });
}

#[test]
fn a_proxy_header_is_named_in_the_answer() {
    for (header, version) in [
        (&b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n"[..], "(version 1)"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", "(version 2)"),
    ] {
        let got = exchange(header);
        let named = got.answers.contains("PROXY protocol header") && got.answers.contains(version);
        assert!(got.statuses == [400] && named, "{}", got.answers);
    }
}
