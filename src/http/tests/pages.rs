//! The page at `/` and `/status.json`: under which names, and with which token.

use super::*;

fn get(path: &str, host: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n")
}

#[test]
fn the_page_is_html_that_may_load_nothing_from_elsewhere() {
    let got = exchange(get("/", "localhost:4640", ""));
    assert_eq!(got.statuses, [200]);
    let (head, body) = got.answers.split_once("\r\n\r\n").unwrap();
    for field in [
        "Content-Type: text/html; charset=utf-8",
        "Content-Security-Policy: default-src 'none'; connect-src 'self'",
        "X-Frame-Options: DENY",
        "X-Content-Type-Options: nosniff",
    ] {
        assert!(head.contains(&format!("\r\n{field}")), "{field} is missing: {head}");
    }
    assert!(body.starts_with("<!doctype html>"), "{body}");
    let head_only = exchange("HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n").answers;
    assert!(head_only.contains(&format!("\r\nContent-Length: {}\r\n", body.len())) && head_only.ends_with("\r\n\r\n"));
}

#[test]
fn pages_are_shown_under_addresses_localhost_and_the_names_that_are_set() {
    for path in ["/", "/status.json"] {
        for host in ["127.0.0.1:4640", "10.1.2.3", "[::1]:4640", "[2001:db8::1]", "localhost", "LocalHost:80", "known"]
        {
            assert_eq!(exchange(get(path, host, "")).statuses, [200], "{path} {host}");
        }
        for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "1.2.3", "known.example"] {
            let got = exchange(get(path, host, ""));
            assert_eq!(got.statuses, [421], "{path} {host}");
            assert!(got.answers.contains("add the name to http.hosts"), "{}", got.answers);
        }
        assert_eq!(exchange(format!("GET {path} HTTP/1.0\r\n\r\n")).statuses, [421], "{path} without a Host");
    }
    // Pages for programs that name no secret are shown under every name.
    for path in ["/health", "/ready", "/metrics"] {
        assert_eq!(exchange(get(path, "evil.example", "")).statuses, [200], "{path}");
    }
}

#[test]
fn the_status_needs_the_token_where_one_is_set_and_the_page_does_not() {
    let with_token = |input: String| exchange_with(input, |ingress| ingress.token = Some(b"secret"));
    assert_eq!(with_token(get("/", "localhost", "")).statuses, [200]);
    for (fields, status) in [
        ("", 401),
        ("Authorization: Bearer other\r\n", 401),
        ("Authorization: Basic secret\r\n", 401),
        ("Authorization: Bearer secret\r\n", 200),
    ] {
        let got = with_token(get("/status.json", "localhost", fields));
        assert_eq!(got.statuses, [status], "{fields}");
        assert_eq!(got.answers.contains("WWW-Authenticate: Bearer"), status == 401, "{}", got.answers);
    }
    let got = exchange(get("/status.json", "localhost", ""));
    assert!(got.answers.contains("\r\nCache-Control: no-store\r\n"), "{}", got.answers);
}
