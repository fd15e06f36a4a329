use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

use super::rivals::{Mute, Nats};
use super::sample::Sample;
use super::talk::{Answered, TalkError};
use super::*;
use crate::tls::testing::{Issued, acceptor};
use crate::tls::{Connector, ConnectorFiles};
use crate::wire::{Goaway, GoawayCode, Welcome, answer};

fn welcome(window_bytes: u32, window_frames: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    Welcome {
        version: 1,
        ack: AckLevel::Received,
        codecs: 1,
        max_frame: 1 << 20,
        max_raw: 1 << 20,
        window_bytes,
        window_frames,
        keepalive_seconds: 30,
        resumed: false,
        epoch: 7,
        last_seq: 0,
        server_id: [1; 16],
    }
    .encode(&mut bytes);
    bytes
}

/// Shows `bytes` one by one, as the worst socket would.
fn receive(talk: &mut dyn Talk, bytes: &[u8]) -> Result<Answered, TalkError> {
    let (mut incoming, mut answered) = (Vec::new(), Answered::default());
    for byte in bytes {
        incoming.push(*byte);
        talk.receive(&mut incoming, &mut answered)?;
    }
    assert_eq!(incoming, b"", "bytes of an unfinished answer");
    Ok(answered)
}

#[test]
fn an_agent_keeps_its_window_and_counts_what_one_ack_covers() {
    let message = frames::Frames::message(&Sample::new(220).batch(10));
    let bytes = message.body.len();
    let mut talk = frames::Frames::new([1; 16], &[], None);
    assert!(!talk.may_send(bytes));
    receive(&mut talk, &welcome(3 * bytes as u32, 64)).unwrap();
    assert!(talk.is_greeted());
    let mut heads = Vec::new();
    for _ in 0..3 {
        assert!(talk.may_send(bytes));
        talk.begin(&message, &mut heads);
    }
    assert!(!talk.may_send(bytes), "the window of three frames is full");
    let second = [&heads[32..64], &message.body].concat();
    let decoded = crate::wire::decode(&second, crate::wire::PayloadCaps { data: 1 << 20 }).unwrap();
    assert!(matches!(decoded, crate::wire::Decoded::Frame { header, .. } if header.seq == 2));

    let mut acks = Vec::new();
    answer::nack(1, crate::wire::NackCode::Partial, "{}", &mut acks);
    answer::ack(2, 3 * bytes as u32, &mut acks);
    answer::ack(2, 3 * bytes as u32, &mut acks);
    assert_eq!(receive(&mut talk, &acks).unwrap(), Answered { messages: 2, refused: 1 });
    assert!(talk.may_send(bytes));
    assert_eq!(talk.farewell(), b"", "no BYE while a frame is not acknowledged");
    let mut pause = Vec::new();
    answer::ack(3, 0, &mut pause);
    assert_eq!(receive(&mut talk, &pause).unwrap().messages, 1);
    assert!(!talk.may_send(bytes), "a window of 0 is a pause");
    let mut bye = Vec::new();
    answer::bye(&mut bye);
    assert_eq!(talk.farewell(), bye);
}

#[test]
fn a_goaway_is_told_with_its_words() {
    let mut bytes = Vec::new();
    Goaway { code: Ok(GoawayCode::AckLevel), retry_ms: 0, text: "not offered" }.encode(0, &mut bytes);
    let error = receive(&mut frames::Frames::new([1; 16], &[], None), &bytes).unwrap_err();
    assert_eq!(error.to_string(), "the server ends the connection: ACK_LEVEL: not offered");
}

#[test]
fn an_http_connection_has_one_request_on_its_way() {
    let mut talk = http::Http::default();
    let message = http::Http::message(&Sample::new(220).batch(1), "h:1", b"secret", Some(AckLevel::Received));
    assert!(message.body.starts_with(b"POST /v1/events?ack=received HTTP/1.1\r\nHost: h:1\r\n"));
    let head = String::from_utf8_lossy(&message.body);
    assert!(head.contains("\r\nAuthorization: Bearer secret\r\n\r\n"), "{head}");
    let without = http::Http::message(&Sample::new(220).batch(1), "h:1", b"", None);
    assert!(!String::from_utf8_lossy(&without.body).contains("Authorization"));
    talk.begin(&message, &mut Vec::new());
    assert!(!talk.may_send(1));
    let answer =
        |status: &str, body: &str| format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let good = answer("200 OK", r#"{"accepted":1,"rejected":[]}"#);
    assert_eq!(receive(&mut talk, good.as_bytes()).unwrap(), Answered { messages: 1, refused: 0 });
    assert!(talk.may_send(1));
    let part = answer("200 OK", r#"{"accepted":1,"rejected":[{"index":1,"error":"e"}]}"#);
    assert_eq!(receive(&mut talk, part.as_bytes()).unwrap(), Answered { messages: 1, refused: 1 });
    let error = receive(&mut talk, answer("503 Busy", "{\"error\":\"later\"}").as_bytes()).unwrap_err();
    assert_eq!(error.to_string(), "the server answers 503: {\"error\":\"later\"}");
}

#[test]
fn a_batch_to_nats_is_answered_by_one_pong() {
    let batch = Sample::new(220).batch(2);
    let message = Nats::message(&batch);
    let lines = message.body.windows(4).filter(|bytes| bytes == b"PUB ").count();
    assert!(lines == 2 && message.body.ends_with(b"\r\nPING\r\n"));
    let mut talk = Nats::new();
    receive(&mut talk, b"INFO {}\r\nPONG\r\n").unwrap();
    assert!(talk.is_greeted());
    talk.begin(&message, &mut Vec::new());
    assert_eq!(receive(&mut talk, b"PING\r\nPONG\r\n").unwrap().messages, 1);
    assert!(receive(&mut talk, b"-ERR 'no'\r\n").is_err());
}

#[test]
fn who_says_nothing_is_sent_to_without_end() {
    let message = frames::Frames::message(&Sample::new(220).batch(1));
    let mut talk = Mute(frames::Frames::new([1; 16], &[], None));
    for _ in 0..1_000 {
        assert!(talk.is_greeted() && talk.may_send(usize::MAX) && !talk.answers());
        talk.begin(&message, &mut Vec::new());
    }
}

/// The whole way but for a real server: see `tests/system/bench.rs` for that.
#[test]
fn a_run_counts_what_is_answered_and_stops() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut room = [0; 4096];
        loop {
            let bytes = stream.read(&mut room).unwrap_or(0);
            if bytes == 0 {
                return;
            }
            request.extend_from_slice(&room[..bytes]);
            if request.ends_with(b"}") {
                request.clear();
                let _ =
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 28\r\n\r\n{\"accepted\":1,\"rejected\":[]}");
            }
        }
    });
    let options = BenchOptions { frame_events: 1, rate: 200, http: true, ..one_second() };
    let report = measure(&target(address), b"", &options).unwrap();
    assert!((100..=300).contains(&report.events), "{} events at a rate of 200/s", report.events);
    assert!(report.bytes > 300 * report.events && report.latency_micros.len() > 100);
    assert_eq!((report.refused_messages, report.unanswered_messages), (0, 0));
    assert!(report.server.is_some_and(|server| server.pid == std::process::id()));
    assert!(report.text().contains("server CPU") && report.json().contains("\"events_per_second\""));
}

fn one_second() -> BenchOptions {
    BenchOptions {
        to: None,
        token_file: None,
        tls: TlsArgs::default(),
        connections: 1,
        event_bytes: 220,
        frame_events: 100,
        rate: 0,
        seconds: 1,
        ack: None,
        http: false,
        json: false,
        rival: None,
    }
}

/// What TLS has encrypted and the socket does not take yet is a message as well.
#[test]
fn every_message_over_tls_counts_where_nobody_answers() {
    let certificate = Issued::self_signed("localhost");
    let config = acceptor(&certificate, None).config();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let received = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut connection = rustls::ServerConnection::new(config).unwrap();
        let (mut room, mut received) = (vec![0; 1 << 16], 0);
        while connection.complete_io(&mut stream).is_ok() {
            match connection.reader().read(&mut room) {
                Ok(0) => break,
                Ok(bytes) => received += bytes,
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            }
        }
        received
    });
    let dir = tempfile::tempdir().unwrap();
    let ca_file = dir.path().join("ca.pem");
    std::fs::write(&ca_file, &certificate.pem).unwrap();
    let tls = Connector::new(ConnectorFiles { ca_file: Some(&ca_file), certificate: None }).unwrap();
    let target = Target { tls: Some(tls), ..target(address) };
    let report = measure(&target, b"", &BenchOptions { rival: Some(Rival::Mute), ..one_second() }).unwrap();
    assert_eq!(report.unanswered_messages, 0);
    assert!(report.events > 0 && received.join().unwrap() as u64 >= report.bytes);
}

fn target(address: SocketAddr) -> Target {
    Target { address, host: address.ip().to_string(), tls: None }
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    let error =
        Line::open(&target(address), Box::new(http::Http::default()), Arc::new([]), None).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("is a server listening there?"), "{error}");
}
