//! Routes, statuses, keep-alive, pipelining, chunked, 100-continue.

use super::*;
use crate::limits::{HTTP_HEAD_BYTES_MAX, OUTBOX_BYTES_MAX};

const GET: &str = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
const HEALTH: &str = "HTTP/1.1 200 OK\r\nDate: Mon, 23 Nov 2026 20:15:48 GMT\r\nContent-Type: application/json\r\nContent-Length: 15\r\nConnection: keep-alive\r\nKeep-Alive: timeout=75\r\n\r\n{\"status\":\"ok\"}";
const ACCEPTED_1: &str = "HTTP/1.1 200 OK\r\nDate: Mon, 23 Nov 2026 20:15:48 GMT\r\nContent-Type: application/json\r\nContent-Length: 28\r\nConnection: keep-alive\r\nKeep-Alive: timeout=75\r\n\r\n\
                          {\"accepted\":1,\"rejected\":[]}";

#[test]
fn pages_are_served_to_get_and_their_heads_to_head() {
    for (path, content_type, body) in [
        ("/health", "application/json", r#"{"status":"ok"}"#),
        ("/ready", "application/json", r#"{"status":"ready"}"#),
        ("/metrics", "text/plain; version=0.0.4", "telemetryx_connections 1\n"),
    ] {
        let keep_alive = "Connection: keep-alive\r\nKeep-Alive: timeout=75";
        let head = format!(
            "HTTP/1.1 200 OK\r\nDate: Mon, 23 Nov 2026 20:15:48 GMT\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n{keep_alive}\r\n\r\n",
            body.len()
        );
        let got = exchange(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert_eq!((got.answers, got.closing), (format!("{head}{body}"), false));
        let got = exchange(format!("HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert_eq!((got.answers, got.closing), (head, false));
    }
}

#[test]
fn a_query_does_not_hide_a_page() {
    assert_eq!(exchange("GET /metrics?name[]=a&x=%20 HTTP/1.1\r\nHost: x\r\n\r\n").statuses, [200]);
}

#[test]
fn what_is_not_there_is_404_and_the_connection_stays() {
    for target in
        ["/status", "/health/", "/Health", "//health", "/%68ealth", "/v1/event", "/v1/events/", "/v1/events%3Fack"]
    {
        let got = exchange(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n{GET}"));
        assert_eq!(got.statuses, [404, 200], "{target}");
    }
}

#[test]
fn a_head_of_nothing_has_no_body_so_that_the_next_answer_is_found() {
    let got =
        exchange(format!("HEAD /none HTTP/1.1\r\nHost: x\r\n\r\nHEAD /v1/events HTTP/1.1\r\nHost: x\r\n\r\n{GET}"));
    assert_eq!(got.statuses, [404, 405, 200]);
    assert_eq!(got.answers.matches('{').count(), 1, "{}", got.answers);
}

#[test]
fn the_wrong_method_is_told_the_right_ones() {
    for (method, target, allow) in [
        ("POST", "/health", "GET, HEAD"),
        ("DELETE", "/ready", "GET, HEAD"),
        ("get", "/metrics", "GET, HEAD"),
        ("GET", "/v1/events", "POST"),
        ("PUT", "/v1/events", "POST"),
        ("OPTIONS", "/v1/events", "POST"),
    ] {
        let got = exchange(format!("{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert_eq!(got.statuses, [405], "{method} {target}");
        assert!(got.answers.contains(&format!("\r\nAllow: {allow}\r\n")), "{}", got.answers);
    }
}

#[test]
fn a_host_is_a_name_or_an_address_with_or_without_a_port() {
    for host in ["x", "x.example", "a_b-c.9", "x:", "x:80", "x:65535", "127.0.0.1:4640", "[::1]", "[::ffff:1.2.3.4]:1"]
    {
        assert_eq!(exchange(format!("GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n")).statuses, [200], "{host}");
    }
}

#[test]
fn requests_on_one_connection_are_answered_in_order() {
    let post = String::from_utf8(post(PROTOBUF, batch(&["a"]))).unwrap();
    let got = exchange(format!("{GET}{post}{post}{GET}"));
    assert_eq!(got.answers, [HEALTH, ACCEPTED_1, ACCEPTED_1, HEALTH].concat());
    assert_eq!(got.names, ["a", "a"]);
    assert!(!got.closing);
}

#[test]
fn nothing_is_consumed_while_an_acknowledgement_is_awaited() {
    let mut peer = Peer { acknowledge: false, ..Peer::new() };
    peer.send([&post(PROTOBUF, batch(&["a"])), GET.as_bytes()].concat());
    assert_eq!(peer.connection.waiting_for(), Some((AckLevel::Synced, 1)));
    assert_eq!((peer.answer().as_str(), peer.kept.as_slice()), ("", GET.as_bytes()));
    peer.connection.acknowledged(peer.now, &mut peer.ingress, &mut peer.out);
    peer.turn();
    assert_eq!(peer.answer(), [ACCEPTED_1, HEALTH].concat());
    assert_eq!(peer.connection.waiting_for(), None);
}

#[test]
fn a_torn_head_is_left_with_the_caller() {
    let mut peer = Peer::new();
    peer.send(&GET[..20]);
    assert_eq!(peer.kept.len(), 20);
    peer.send(&GET[20..]);
    assert_eq!((peer.kept.len(), peer.answer().as_str()), (0, HEALTH));
}

#[test]
fn a_peer_that_does_not_read_answers_is_not_read() {
    let mut connection = Connection::new(SETTINGS, Instant::now());
    let (mut ingress, mut out) = (FakeIngress::new(), Vec::new());
    let many = GET.repeat(10_000);
    let consumed = connection.receive(many.as_bytes(), Instant::now(), &mut ingress, &mut out);
    assert!(consumed < many.len() && consumed.is_multiple_of(GET.len()));
    assert!(out.len() < OUTBOX_BYTES_MAX + HEALTH.len());
    out.clear();
    assert!(connection.receive(&many.as_bytes()[consumed..], Instant::now(), &mut ingress, &mut out) > 0);
}

#[test]
fn the_connection_ends_where_the_peer_says_so() {
    for field in ["Connection: close", "connection: Keep-Alive,  CLOSE", "Connection: x\r\nConnection: close"] {
        let got = exchange(format!("GET /health HTTP/1.1\r\nHost: x\r\n{field}\r\n\r\n{GET}"));
        assert_eq!((got.statuses.as_slice(), got.closing), (&[200][..], true), "{field}");
        assert!(got.answers.contains("\r\nConnection: close\r\n"));
    }
    let got = exchange(
        [&post_with("Content-Type: application/x-protobuf\r\nConnection: close\r\n", batch(&["a"])), GET.as_bytes()]
            .concat(),
    );
    assert_eq!((got.statuses.as_slice(), got.closing), (&[200][..], true));
    let got = exchange(format!("GET /health HTTP/1.1\r\nHost: x\r\nConnection: closed, keep-alive\r\n\r\n{GET}"));
    assert_eq!((got.statuses.as_slice(), got.closing), (&[200, 200][..], false));
}

#[test]
fn http_1_0_is_answered_and_closed() {
    for head in ["GET /health HTTP/1.0\r\n\r\n", "GET /health HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n"] {
        let got = exchange(format!("{head}{GET}"));
        assert_eq!((got.statuses.as_slice(), got.closing), (&[200][..], true));
    }
}

#[test]
fn an_answer_that_leaves_a_body_unread_closes() {
    for head in [
        "GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n",
        "POST /none HTTP/1.1\r\nHost: x\r\nContent-Length: 40\r\n\r\n",
        "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 40\r\n\r\n",
        "POST /v1/events?ack=x HTTP/1.1\r\nHost: x\r\nContent-Length: 40\r\n\r\n",
    ] {
        let got = exchange(format!("{head}{GET}"));
        assert_eq!((got.statuses.len(), got.closing), (1, true), "{head}: {}", got.answers);
        assert!(got.answers.contains("\r\nConnection: close\r\n"));
    }
}

#[test]
fn one_empty_line_before_a_request_is_skipped() {
    assert_eq!(exchange(format!("\r\n{GET}\r\n{GET}")).statuses, [200, 200]);
}

#[test]
fn expect_continue_is_answered_before_the_body_is_awaited() {
    let fields = "Content-Type: application/x-protobuf\r\nExpect: 100-Continue\r\n";
    let request = post_with(fields, batch(&["a"]));
    let head_bytes = request.len() - batch(&["a"]).len();
    let mut peer = Peer::new();
    peer.send(&request[..head_bytes]);
    assert_eq!(peer.answer(), "HTTP/1.1 100 Continue\r\n\r\n");
    peer.send(&request[head_bytes..]);
    assert_eq!(peer.answer(), ACCEPTED_1);
    assert_eq!(exchange(&request).statuses, [200]);
    // Refused by its head, without a body, over HTTP/1.0: no interim answer.
    assert!(!exchange(post_with("Expect: 100-continue\r\n", batch(&["a"]))).answers.contains("100"));
    assert!(!exchange(post_with(fields, b"")).answers.contains("Continue"));
    assert!(!exchange("GET /health HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n").answers.contains("Continue"));
    let old = String::from_utf8(request).unwrap().replace("HTTP/1.1", "HTTP/1.0");
    assert_eq!(exchange(old).answers, ACCEPTED_1.replace("keep-alive\r\nKeep-Alive: timeout=75", "close"));
}

/// A POST whose body is `coded` as it stands.
fn chunked(coded: &[u8]) -> Vec<u8> {
    [
        b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\nTransfer-Encoding: chunked\r\n\r\n",
        coded,
    ]
    .concat()
}

#[test]
fn chunked_bodies_are_joined() {
    let body = batch(&["hello"]);
    assert_eq!(body.len(), 9);
    let (one, two) = body.split_at(4);
    let coded = |sizes: [&str; 2], last: &str| {
        [sizes[0].as_bytes(), b"\r\n", one, b"\r\n", sizes[1].as_bytes(), b"\r\n", two, b"\r\n", last.as_bytes()]
            .concat()
    };
    for (sizes, last) in [
        (["4", "5"], "0\r\n\r\n"),
        (["0004", "05"], "000\r\n\r\n"),
        (["4;a", "5;a=b;c=\"d e\""], "0;last\r\n\r\n"),
        (["4 ;a", "5\t \t; a = b"], "0 ;a\r\n\r\n"),
        (["4", "5"], "0\r\nA: b\r\nContent-Length: 7\r\nEmpty:\r\n\r\n"),
    ] {
        let got = exchange([&chunked(&coded(sizes, last)), GET.as_bytes()].concat());
        assert_eq!(got.answers, [ACCEPTED_1, HEALTH].concat(), "{sizes:?} {last:?}");
        assert_eq!(got.names, ["hello"]);
    }
}

#[test]
fn an_upper_case_size_is_hexadecimal_too() {
    let name = "n".repeat(0xA0);
    let body = batch(&[&name]);
    for size in [format!("{:X}", body.len()), format!("{:x}", body.len())] {
        let coded = [size.as_bytes(), b"\r\n", &body, b"\r\n0\r\n\r\n"].concat();
        assert_eq!(exchange(chunked(&coded)).names, [name.as_str()]);
    }
}

#[test]
fn malformed_chunks_are_refused_and_close() {
    for (coded, status) in [
        (&b"\r\n"[..], 400),
        (b"x\r\n", 400),
        // These would end an empty body, were it not for one byte.
        (b"\r\n\r\n", 400),
        (b"-0\r\n\r\n", 400),
        (b"+0\r\n\r\n", 400),
        (b"0x0\r\n\r\n", 400),
        (b" 0\r\n\r\n", 400),
        (b"0 \r\n\r\n", 400),
        (b"0 0\r\n\r\n", 400),
        (b"0\n\r\n", 400),
        (b"0\r\r\n", 400),
        (b"0\rx\r\n\r\n", 400),
        (b";a\r\n\r\n", 400),
        (b"0;a\n\r\n", 400),
        (b"0;\0\r\n\r\n", 400),
        (b"0;a\x7f\r\n\r\n", 400),
        (b"0,\r\n\r\n", 400),
        (b"1\r\nab", 400),
        (b"1\r\na\n", 400),
        (b"1\r\na\rb", 400),
        (b"0\r\n\n", 400),
        (b"0\r\n\rx", 400),
        (b"0\r\n folded\r\n\r\n", 400),
        (b"0\r\nnocolon\r\n\r\n", 400),
        (b"0\r\nspace : x\r\n\r\n", 400),
        (b"0\r\n: x\r\n\r\n", 400),
        (b"0\r\na: b\n\r\n", 400),
        (b"0\r\na: \x01\r\n\r\n", 400),
        (b"00000000000000001\r\n", 400),
        (b"FFFFFFFFFFFFFFFF\r\n", 413),
        (b"40001\r\n", 413),
        (b"7fffffffffffffff\r\n", 413),
    ] {
        let got = exchange([&chunked(coded), GET.as_bytes()].concat());
        assert_eq!(got.statuses, [status], "{:?}", coded.escape_ascii().to_string());
        assert!(got.closing && got.names.is_empty());
        assert!(got.answers.contains("\r\nConnection: close\r\n"));
        let reason = if status == 413 { RejectReason::TooLarge } else { RejectReason::Malformed };
        assert_eq!(got.rejected, [(reason, 1)]);
    }
}

#[test]
fn chunks_are_bounded_together() {
    let chunk = [&b"20000\r\n"[..], &[0; 0x20000], b"\r\n"].concat();
    let coded = [&chunk[..], &chunk, b"1\r\n"].concat();
    let mut peer = Peer::new();
    peer.send(chunked(&coded));
    assert_eq!((peer.statuses(), peer.ingress.rejected.as_slice()), (vec![413], &[(RejectReason::TooLarge, 1)][..]));
}

#[test]
fn extensions_and_trailers_are_bounded_together() {
    let long = "a".repeat(HTTP_HEAD_BYTES_MAX / 2);
    for (coded, statuses) in [
        (format!("0;{long}\r\nb: {}\r\n\r\n", &long[..long.len() - 4]), vec![200]),
        (format!("0;{long}\r\nb: {long}\r\n\r\n"), vec![431]),
        (format!("0;{long}{long}a\r\n\r\n"), vec![431]),
    ] {
        let mut peer = Peer::new();
        peer.send(chunked(coded.as_bytes()));
        assert_eq!(peer.statuses(), statuses);
    }
}

#[test]
fn draining_refuses_posts_answers_probes_and_closes() {
    let drain = |ingress: &mut FakeIngress| ingress.draining = true;
    for (request, status) in [
        (GET.as_bytes().to_vec(), 200),
        (GET.replace("/health", "/ready").into_bytes(), 503),
        (GET.replace("/health", "/none").into_bytes(), 404),
        (post(PROTOBUF, batch(&["a"])), 503),
    ] {
        let got = exchange_with([&request, GET.as_bytes()].concat(), drain);
        assert_eq!((got.statuses.as_slice(), got.closing), (&[status][..], true));
        assert!(got.answers.contains("\r\nConnection: close\r\n") && got.names.is_empty());
        assert_eq!(got.answers.contains("\r\nRetry-After: "), status == 503);
    }
}

#[test]
fn draining_answers_who_waits_and_closes_who_rests() {
    let mut peer = Peer { acknowledge: false, ..Peer::new() };
    peer.send(post(PROTOBUF, batch(&["a"])));
    peer.ingress.draining = true;
    peer.connection.drain(peer.now, &mut peer.ingress, &mut peer.out);
    assert!(!peer.connection.closing());
    peer.connection.acknowledged(peer.now, &mut peer.ingress, &mut peer.out);
    peer.turn();
    assert!(peer.connection.closing() && peer.answer().starts_with("HTTP/1.1 200"));

    let mut fresh = Peer::new();
    fresh.connection.drain(fresh.now, &mut fresh.ingress, &mut fresh.out);
    assert!(fresh.connection.closing());
    let mut idle = Peer::new();
    idle.send(GET);
    idle.connection.drain(idle.now, &mut idle.ingress, &mut idle.out);
    assert!(idle.connection.closing());
    let mut torn = Peer::new();
    torn.send(&GET[..10]);
    torn.connection.drain(torn.now, &mut torn.ingress, &mut torn.out);
    assert_eq!((torn.statuses(), torn.connection.closing()), (vec![503], true));
}

#[test]
fn a_body_that_has_begun_is_refused_at_the_drain() {
    let mut peer = Peer::new();
    let request = post(PROTOBUF, batch(&["a"]));
    peer.send(&request[..request.len() - 1]);
    peer.ingress.draining = true;
    peer.connection.drain(peer.now, &mut peer.ingress, &mut peer.out);
    assert_eq!((peer.statuses(), peer.ingress.names().len(), peer.connection.closing()), (vec![503], 0, true));
}

#[test]
fn a_body_below_64_kib_a_second_gives_its_memory_back_when_others_wait_for_it() {
    let mut peer = Peer::new();
    let request = post(PROTOBUF, batch(&["a"]));
    peer.connection.press_body(peer.now, &mut peer.ingress, &mut peer.out);
    assert!(peer.out.is_empty() && !peer.connection.closing());
    peer.send(&request[..request.len() - 2]);
    peer.connection.press_body(peer.now, &mut peer.ingress, &mut peer.out);
    assert!(peer.out.is_empty(), "it has 2 s");
    peer.now += std::time::Duration::from_millis(2_100);
    // A byte is progress, and too slow all the same.
    peer.send(&request[request.len() - 2..request.len() - 1]);
    peer.connection.press_body(peer.now, &mut peer.ingress, &mut peer.out);
    assert_eq!((peer.statuses(), peer.connection.closing()), (vec![408], true));
    assert_eq!(peer.ingress.pool.bytes_in_use(), 0);
}

#[test]
fn tokens_are_needed_for_posts_only() {
    let needs = |ingress: &mut FakeIngress| ingress.token = Some(b"secret");
    let with = |field: &str| post_with(&format!("Content-Type: application/x-protobuf\r\n{field}"), batch(&["a"]));
    for field in ["Authorization: Bearer secret\r\n", "authorization: bearer  secret\r\n"] {
        assert_eq!(exchange_with(with(field), needs).statuses, [200], "{field}");
    }
    for field in ["", "Authorization: Bearer wrong\r\n", "Authorization: Basic secret\r\n", "Authorization: secret\r\n"]
    {
        let got = exchange_with(with(field), needs);
        assert_eq!((got.statuses.as_slice(), got.closing), (&[401][..], true), "{field}");
        assert!(got.answers.contains("\r\nWWW-Authenticate: Bearer\r\n"));
        // The reason; where no token was sent, also what to send.
        let advice = if field.contains("earer ") { "" } else { ": send `Authorization: Bearer TOKEN`" };
        assert!(got.answers.contains(&format!(r#"{{"error":"not this token{advice}"}}"#)), "{field} {}", got.answers);
    }
    assert_eq!(exchange_with(GET, needs).statuses, [200]);
}

#[test]
fn the_level_is_the_one_asked_for() {
    for (query, level) in [
        ("", AckLevel::Synced),
        ("?", AckLevel::Synced),
        ("?ack=received", AckLevel::Received),
        ("?ack=written", AckLevel::Written),
        ("?ack=synced&", AckLevel::Synced),
    ] {
        let mut peer = Peer { acknowledge: false, ..Peer::new() };
        let request = String::from_utf8(post(PROTOBUF, batch(&["a"]))).unwrap();
        peer.send(request.replace("/v1/events", &format!("/v1/events{query}")));
        assert_eq!(peer.connection.waiting_for(), Some((level, 1)), "{query}");
    }
    for query in ["ack=", "ack", "ack=SYNCED", "ack=delivered", "ack=synced&ack=synced", "acks=synced", "x=1"] {
        let request = String::from_utf8(post(PROTOBUF, batch(&["a"]))).unwrap();
        let got = exchange(request.replace("/v1/events", &format!("/v1/events?{query}")));
        assert_eq!((got.statuses.as_slice(), got.closing), (&[400][..], true), "{query}");
    }
}
