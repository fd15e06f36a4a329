//! HTTP through a socket, to the row in SQLite. The state machine itself is tested with slices in `src/http`.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::support::agent::{batch, named};
use crate::support::server::{Server, wait_until};

/// One connection, its answers read by their Content-Length.
struct Client {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Client {
    fn connect(server: &Server) -> Self {
        let stream = TcpStream::connect(server.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self { stream, unread: Vec::new() }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Reads until `found` has its bytes; whatever it leaves stays for the next answer.
    fn read_until<T>(&mut self, found: impl Fn(&[u8]) -> Option<(T, usize)>) -> T {
        let mut chunk = [0; 4096];
        loop {
            if let Some((value, used)) = found(&self.unread) {
                self.unread.drain(..used);
                return value;
            }
            let bytes = self.stream.read(&mut chunk).expect("the server answers in time");
            assert!(bytes > 0, "closed after {:?}", String::from_utf8_lossy(&self.unread));
            self.unread.extend_from_slice(&chunk[..bytes]);
        }
    }

    fn head(&mut self) -> String {
        self.read_until(|bytes| {
            let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
            Some((String::from_utf8(bytes[..end].to_vec()).unwrap(), end))
        })
    }

    /// Status and body of the next answer.
    fn answer(&mut self) -> (u16, String) {
        let head = self.head();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length =
            head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).map_or(0, |n| n.parse().unwrap());
        let body = self.read_until(|bytes| Some((String::from_utf8(bytes.get(..length)?.to_vec()).unwrap(), length)));
        (status, body)
    }
}

fn post(media: &str, more: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: {media}\r\n{more}Content-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn wait_for_names(data_dir: &Path, names: &[&str]) {
    let database = rusqlite::Connection::open(data_dir.join("events.db")).unwrap();
    let stored = || -> Vec<String> {
        // The port opens before a slow disk has the table.
        let Ok(mut rows) = database.prepare("SELECT name FROM events ORDER BY position") else { return Vec::new() };
        rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    wait_until(Duration::from_secs(20), || stored().len() >= names.len());
    assert_eq!(stored(), names);
}

#[test]
fn every_form_of_body_is_stored_over_one_connection() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &[]);
    let mut client = Client::connect(&server);
    let array = br#"[{"name":"b"},{"name":"c"}]"#;
    let requests: [(Vec<u8>, &str); 7] = [
        (post("application/json", "", br#"{"name":"a"}"#), r#"{"accepted":1,"rejected":[]}"#),
        (post("application/json; charset=utf-8", "", array), r#"{"accepted":2,"rejected":[]}"#),
        (post("application/json", "", br#"{"events":[{"name":"d"}]}"#), r#"{"accepted":1,"rejected":[]}"#),
        (post("application/x-protobuf", "", &batch(vec![named("e"), named("f")])), r#"{"accepted":2,"rejected":[]}"#),
        (
            post("application/json", "Content-Encoding: gzip\r\n", &gzip(br#"{"name":"g"}"#)),
            r#"{"accepted":1,"rejected":[]}"#,
        ),
        (post("application/json", "", b"[]"), r#"{"accepted":0,"rejected":[]}"#),
        (
            b"POST /v1/events?ack=received HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
              Transfer-Encoding: chunked\r\n\r\n5\r\n{\"nam\r\n7\r\ne\":\"h\"}\r\n0\r\n\r\n"
                .to_vec(),
            r#"{"accepted":1,"rejected":[]}"#,
        ),
    ];
    for (request, expected) in &requests {
        client.send(request);
        assert_eq!(client.answer(), (200, (*expected).to_owned()));
    }
    wait_for_names(directory.path(), &["a", "b", "c", "d", "e", "f", "g", "h"]);
}

#[test]
fn bad_lines_of_ndjson_are_named_and_the_others_stored() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &[]);
    let mut client = Client::connect(&server);
    client.send(&post("application/x-ndjson", "", b"{\"name\":\"a\"}\n\n{broken\n{\"body\":5}\n{\"name\":\"b\"}\n"));
    let (status, body) = client.answer();
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    let rejected: Vec<_> = body["rejected"].as_array().unwrap().iter().map(|entry| entry["index"].as_u64()).collect();
    assert_eq!((status, body["accepted"].as_u64(), rejected), (200, Some(2), vec![Some(2), Some(3)]));
    wait_for_names(directory.path(), &["a", "b"]);
}

#[test]
fn a_malformed_document_takes_nothing_and_the_connection_lives_on() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &[]);
    let mut client = Client::connect(&server);
    client.send(&post("application/json", "", br#"[{"name":"a"},{"name":"b"]"#));
    assert_eq!(client.answer().0, 400);
    client.send(&post("application/json", "", br#"{"name":"c"}"#));
    assert_eq!(client.answer().0, 200);
    wait_for_names(directory.path(), &["c"]);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &[]);
    let mut client = Client::connect(&server);
    let mut requests = Vec::new();
    for index in 0..200 {
        requests.extend(post(
            "application/json",
            "",
            format!("[{}]", vec![r#"{"name":"n"}"#; index % 5].join(",")).as_bytes(),
        ));
    }
    requests.extend(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
    client.send(&requests);
    client.stream.shutdown(Shutdown::Write).unwrap();
    for index in 0..200 {
        assert_eq!(client.answer(), (200, format!(r#"{{"accepted":{},"rejected":[]}}"#, index % 5)));
    }
    assert_eq!(client.answer().0, 200);
    assert_eq!(client.stream.read(&mut [0]).unwrap(), 0, "closed after the last answer");
}

#[test]
fn expect_continue_is_answered_before_the_body_comes() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &[]);
    let mut client = Client::connect(&server);
    let request = post("application/json", "Expect: 100-continue\r\n", br#"{"name":"waited"}"#);
    let head = request.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    client.send(&request[..head]);
    assert!(client.head().starts_with("HTTP/1.1 100 "));
    client.send(&request[head..]);
    assert_eq!(client.answer().0, 200);
    wait_for_names(directory.path(), &["waited"]);
}

#[test]
fn pages_and_refusals_have_their_status() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &[]);
    for (request, status, contains) in [
        ("GET /health HTTP/1.1", 200, r#"{"status":"ok"}"#),
        ("GET /ready HTTP/1.1", 200, r#""sinks":{"sqlite":"ok"}"#),
        ("GET /metrics HTTP/1.1", 200, "telemetryx_events_received_total"),
        ("GET /nowhere HTTP/1.1", 404, "error"),
        ("DELETE /v1/events HTTP/1.1", 405, "error"),
        ("POST /v1/events?ack=never HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 2", 400, "received"),
        ("POST /v1/events HTTP/1.1\r\nContent-Type: text/plain\r\nContent-Length: 2", 415, "application/json"),
        ("POST /v1/events HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 99999999", 413, "error"),
        ("GET /health HTTP/3.0", 505, "error"),
    ] {
        let mut client = Client::connect(&server);
        client.send(format!("{request}\r\nHost: localhost\r\n\r\n").as_bytes());
        let (found, body) = client.answer();
        assert!(found == status && body.contains(contains), "{request}: {found} {body}");
    }
}

#[test]
#[cfg(not(feature = "profiling"))]
fn profiles_are_not_found_in_a_build_without_them_and_the_answer_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &[]);
    for path in ["profile", "flamegraph?seconds=1"] {
        let (status, body) = crate::support::http::get(server.address(), &format!("/debug/pprof/{path}"));
        assert!(status == 404 && body.contains("--features profiling"), "{status} {body}");
    }
}

#[test]
fn answers_have_the_date_and_requests_may_have_a_url() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &[]);
    let mut client = Client::connect(&server);
    let address = server.address();
    for request in [format!("GET http://{address}/health"), "GET https://elsewhere/health".to_owned()] {
        let before = SystemTime::now();
        client.send(format!("{request} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
        let head = client.head();
        let after = SystemTime::now();
        client.read_until(|bytes| (bytes.len() >= 15).then_some(((), 15)));
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        let date = head.lines().find_map(|line| line.strip_prefix("Date: ")).unwrap();
        let date = httpdate::parse_http_date(date).unwrap();
        // The clock of the turn that answered, cut to its second.
        assert!(date <= after && date + Duration::from_secs(10) > before, "{head}");
    }
    client.send(b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(client.head().contains("\r\nAllow: GET, HEAD, POST\r\n"));
}

#[test]
fn a_large_body_becomes_several_slots_and_one_answer() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &[]);
    let mut client = Client::connect(&server);
    let body = format!("[{}]", vec![format!(r#"{{"name":"n","body":"{}"}}"#, "b".repeat(50_000)); 70].join(","));
    client.send(&post("application/json", "", body.as_bytes()));
    assert_eq!(client.answer(), (200, r#"{"accepted":70,"rejected":[]}"#.to_owned()));
    wait_for_names(directory.path(), &["n"; 70]);
}

#[test]
fn junk_of_strangers_leaves_nothing_behind_that_would_shut_out_others() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &[]);
    // More than 4 MiB in all: what torn heads may hold at one time.
    let mut junk = b"GET /health HTTP/1.1\r\nHost: x\r\nnonsense without a colon\r\n".to_vec();
    junk.resize(15_000, b'x');
    for _ in 0..400 {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        // The server may have answered and closed before all is written.
        let _ = stream.write_all(&junk);
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    let mut client = Client::connect(&server);
    client.send(b"GET /health HT");
    // By the second answer, the loop has read what came before the first request.
    for _ in 0..2 {
        assert_eq!(crate::support::http::get(server.address(), "/health").0, 200);
    }
    client.send(b"TP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(client.answer().0, 200);
}
