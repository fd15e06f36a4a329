//! Slow uploads beside normal requests: they cost little, and whoever is slowest goes first where there is no room.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::agent::{RawAgent, hello};
use crate::support::fifo::Fifo;
use crate::support::http;
use crate::support::server::{Server, wait_until};
use crate::support::stores::free_address;
use telemetryx::random::Random;

const TIMEOUT: Duration = Duration::from_secs(60);
const BODY_BYTES: usize = 4 << 20;
/// What the pool of the default size holds of such bodies.
const BODIES: usize = 10;
/// They count on one pool: each event loop has its own.
const ONE_POOL: &str = "server.event_loops=1";
/// Of the pool, what is kept for the next reads of agents: a largest frame and a current buffer.
const READING_BYTES: f64 = (2 << 20) as f64;

fn head(length: usize) -> String {
    format!(
        "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\nContent-Length: {length}\r\n\r\n"
    )
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream
}

/// The status of the next answer.
fn status(stream: &mut TcpStream) -> String {
    let mut answer = vec![0; 4096];
    let bytes = stream.read(&mut answer).unwrap();
    let text = String::from_utf8_lossy(&answer[..bytes]).into_owned();
    text.split(' ').nth(1).unwrap_or_default().to_owned()
}

/// `BODY_BYTES` of lines, an event each.
fn lines() -> Vec<u8> {
    let mut body = Vec::with_capacity(BODY_BYTES);
    while body.len() < BODY_BYTES - 2_000 {
        let text = "x".repeat(1_000);
        body.extend_from_slice(format!("{{\"name\":\"line\",\"body\":\"{text}\"}}\n").as_bytes());
    }
    body.resize(BODY_BYTES, b'\n');
    body
}

fn in_use(address: SocketAddr) -> f64 {
    http::metric(address, "telemetryx_buffers_in_use").unwrap()
}

#[test]
fn twenty_slow_uploads_keep_nobody_out() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &["sinks.discard.kind=discard"]);
    let address = server.address();
    let stop = Arc::new(AtomicBool::new(false));
    // A byte a second each; whoever is disconnected comes again.
    let slow: Vec<_> = (0..20)
        .map(|_| {
            let stop = stop.clone();
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let mut stream = connect(address);
                    stream.write_all(head(BODY_BYTES).as_bytes()).unwrap();
                    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
                    while !stop.load(Ordering::Relaxed) && stream.write_all(b"\n").is_ok() {
                        match stream.read(&mut [0; 300]) {
                            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                            _ => break,
                        }
                    }
                }
            })
        })
        .collect();
    assert!(wait_until(TIMEOUT, || http::metric(address, "telemetryx_connections") >= Some(20.0)));
    let end = Instant::now() + Duration::from_secs(6);
    let mut statuses = Vec::new();
    while statuses.len() < 100 || Instant::now() < end {
        statuses.push(http::post(address, "", r#"{"name":"normal"}"#).unwrap().0);
        thread::sleep(Duration::from_millis(40));
    }
    stop.store(true, Ordering::Relaxed);
    let refused = statuses.iter().filter(|status| **status != 200).count();
    assert_eq!(refused, 0, "of {} requests", statuses.len());
    assert_eq!(http::get(address, "/ready").0, 200);
    slow.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn every_body_that_was_admitted_finishes() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &["sinks.discard.kind=discard", ONE_POOL]);
    let address = server.address();
    let body = lines();
    let (first, rest) = body.split_at(body.len() / 2);
    let mut uploads: Vec<_> = (0..BODIES).map(|_| connect(address)).collect();
    for upload in &mut uploads {
        upload.write_all(head(body.len()).as_bytes()).unwrap();
        upload.write_all(first).unwrap();
    }
    let admitted = wait_until(TIMEOUT, || in_use(address) >= (BODIES * BODY_BYTES) as f64);
    assert!(admitted, "{} bytes in use\n{}", in_use(address), server.log());
    // The pool has no room for another body of this size, and for every small one.
    for _ in 0..20 {
        assert_eq!(http::post(address, "", r#"{"name":"small"}"#).unwrap().0, 200);
    }
    let finishing: Vec<_> = uploads
        .into_iter()
        .map(|mut upload| {
            let rest = rest.to_vec();
            thread::spawn(move || {
                upload.write_all(&rest).unwrap();
                status(&mut upload)
            })
        })
        .collect();
    let statuses: Vec<_> = finishing.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert_eq!(statuses, vec!["200"; BODIES]);
}

#[test]
fn where_there_is_no_room_the_slowest_upload_is_closed() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &["sinks.discard.kind=discard", ONE_POOL]);
    let address = server.address();
    let body = lines();
    // Admitted, and then nothing more comes; each has sent more than the one before.
    let mut stalled: Vec<_> = (0..BODIES).map(|_| connect(address)).collect();
    for (index, upload) in stalled.iter_mut().enumerate() {
        upload.write_all(head(body.len()).as_bytes()).unwrap();
        upload.write_all(&body[..(100 + 20 * index) << 10]).unwrap();
    }
    let admitted = wait_until(TIMEOUT, || in_use(address) >= (BODIES * BODY_BYTES) as f64);
    assert!(admitted, "{} bytes in use\n{}", in_use(address), server.log());
    // As soon as they are below 64 KiB/s, a newcomer takes the place of one.
    let mut told = String::new();
    let taken = wait_until(Duration::from_secs(30), || {
        let mut newcomer = connect(address);
        newcomer.write_all(head(body.len()).as_bytes()).unwrap();
        // An error: refused while it was still sending.
        let _ = newcomer.write_all(&body);
        told = status(&mut newcomer);
        told == "200"
    });
    assert!(taken, "{told}");
    assert_eq!(status(&mut stalled[0]), "408", "the slowest");
    for upload in &mut stalled[1..] {
        upload.set_nonblocking(true).unwrap();
        assert_eq!(upload.read(&mut [0; 10]).unwrap_err().kind(), ErrorKind::WouldBlock, "one was enough");
    }
}

/// The budget for beginnings of bodies is used up by uploads that stand still: the slowest makes room, too.
#[test]
fn where_there_is_no_budget_for_beginnings_the_slowest_is_closed() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &["sinks.discard.kind=discard", ONE_POOL]);
    let address = server.address();
    let (body, sent) = (&lines()[..60_000], 40_000);
    let mut slow: Vec<_> = (0..140).map(|_| connect(address)).collect();
    for upload in &mut slow {
        upload.write_all(head(body.len()).as_bytes()).unwrap();
        // An error: refused while it was still sending.
        let _ = upload.write_all(&body[..sent]);
    }
    let mut told = String::new();
    let taken = wait_until(Duration::from_secs(30), || {
        let mut newcomer = connect(address);
        newcomer.write_all(head(body.len()).as_bytes()).unwrap();
        let _ = newcomer.write_all(&body[..sent]);
        // The server has read this much alone, so the body needed the budget: it was refused, or another made room for it.
        let known = || answered(&newcomer, "") || slow.iter().any(|upload| answered(upload, "408"));
        if !wait_until(Duration::from_secs(1), known) {
            slow.push(newcomer);
            return false;
        }
        let _ = newcomer.write_all(&body[sent..]);
        told = status(&mut newcomer);
        told == "200"
    });
    assert!(taken, "{told}");
    assert!(slow.iter().any(|upload| answered(upload, "408")), "none was closed with 408");
}

/// Whether the server has answered, with a status that begins so.
fn answered(stream: &TcpStream, begins: &str) -> bool {
    stream.set_nonblocking(true).unwrap();
    let mut answer = [0; 12];
    let answered =
        stream.peek(&mut answer).is_ok_and(|bytes| bytes == 12 && answer[9..].starts_with(begins.as_bytes()));
    stream.set_nonblocking(false).unwrap();
    answered
}

/// An admitted body comes whole when the pool is full of what a sink does not take: it waits for memory.
#[test]
fn an_admitted_body_waits_for_memory() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = Fifo::make(directory.path().join("fifo"));
    let [kind, path] = fifo.sink();
    let settings = ["wal.enabled=false", ONE_POOL, "server.buffer_bytes=16MiB", "batch.max_bytes=1MiB", &kind, &path];
    let server = Server::start(directory.path(), &settings);
    let address = server.address();
    let body = lines();
    let (first, rest) = body.split_at(body.len() / 2);
    let mut upload = connect(address);
    upload.write_all(head(body.len()).as_bytes()).unwrap();
    upload.write_all(first).unwrap();
    assert!(wait_until(TIMEOUT, || in_use(address) >= BODY_BYTES as f64));
    // Until the pool has no room for more, what is kept for whole bodies included.
    let filler = &body[..60_000];
    let filled = (0..1_000).any(|_| {
        let mut stream = connect(address);
        stream.write_all(head(filler.len()).as_bytes()).unwrap();
        let _ = stream.write_all(filler);
        status(&mut stream) == "503"
    });
    assert!(filled, "{} bytes in use", in_use(address));

    upload.write_all(rest).unwrap();
    upload.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut answer = [0; 500];
    let waits = upload.read(&mut answer).map(|bytes| String::from_utf8_lossy(&answer[..bytes]).into_owned());
    let timed_out = |error: &io::Error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
    assert!(waits.as_ref().is_err_and(timed_out), "{} bytes in use: {waits:?}", in_use(address));
    assert_eq!(http::get(address, "/health").0, 200);
    let _reading = fifo.read();
    upload.set_read_timeout(Some(TIMEOUT)).unwrap();
    assert_eq!(status(&mut upload), "200");
}

/// A sink that is unavailable costs its router's share of the pool nothing: ten bodies of the largest size, which together
/// become more than that share, are taken at once, and an agent beside them is acknowledged.
#[test]
fn while_a_sink_is_unavailable_bodies_and_agents_are_taken() {
    let closed = free_address();
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sinks.away.url=http://{closed}/");
    let server = Server::start(directory.path(), &["sinks.away.kind=http", &url, ONE_POOL]);
    let address = server.address();
    let down = || http::metric(address, "telemetryx_sink_up{sink=\"away\"}") == Some(0.0);
    assert!(wait_until(TIMEOUT, down), "{}", server.log());
    let body = Arc::new(lines());
    let uploads: Vec<_> = (0..BODIES)
        .map(|_| {
            let body = body.clone();
            thread::spawn(move || {
                let mut upload = connect(address);
                upload.write_all(head(body.len()).as_bytes()).unwrap();
                // An error: refused while it was still sending.
                let _ = upload.write_all(&body);
                status(&mut upload)
            })
        })
        .collect();
    let events = directory.path().join("events.ndjson");
    std::fs::write(&events, "{\"name\":\"from an agent\"}\n").unwrap();
    let sent = Command::new(env!("CARGO_BIN_EXE_telemetryx"))
        .args(["send", "--timeout", "50", "--to", &address.to_string()])
        .arg(&events)
        .output()
        .unwrap();
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    let statuses: Vec<_> = uploads.into_iter().map(|upload| upload.join().unwrap()).collect();
    assert_eq!(statuses, vec!["200"; BODIES], "{}", server.log());
    // What is left is the buffers for reading.
    let let_go = wait_until(TIMEOUT, || in_use(address) <= READING_BYTES + 8192.0);
    assert!(let_go, "{} bytes in use\n{}", in_use(address), server.log());
}

/// A small pool, filled by gzip bodies that unpack to the largest size, beside agents: each body that was admitted finishes,
/// although there is never memory for what all of them become.
#[test]
fn in_a_small_pool_gzip_bodies_finish_beside_agents() {
    const LARGEST: usize = 1 << 20;
    let directory = tempfile::tempdir().unwrap();
    let settings = [ONE_POOL, "server.buffer_bytes=8MiB", "server.max_body_bytes=1MiB", "batch.max_bytes=1MiB"];
    let server = Server::start(directory.path(), &[&["sinks.discard.kind=discard"], &settings[..]].concat());
    let address = server.address();
    let body = gzip_lines(LARGEST);
    let (first, rest) = body.split_at(body.len() / 2);
    let head = head(body.len()).replace("\r\n\r\n", "\r\nContent-Encoding: gzip\r\n\r\n");
    let mut uploads = Vec::new();
    for _ in 0..6 {
        let mut upload = connect(address);
        let before = in_use(address);
        upload.write_all(head.as_bytes()).unwrap();
        // An error: refused while it was still sending.
        let _ = upload.write_all(first);
        upload.set_nonblocking(true).unwrap();
        let mut answer = [0; 12];
        let known =
            wait_until(TIMEOUT, || in_use(address) >= before + body.len() as f64 || upload.peek(&mut answer).is_ok());
        assert!(known, "{} bytes in use\n{}", in_use(address), server.log());
        match upload.peek(&mut answer) {
            Ok(_) => assert!(answer.ends_with(b"503"), "a newcomer without room is refused: {}", answer.escape_ascii()),
            Err(_) => {
                upload.set_nonblocking(false).unwrap();
                uploads.push(upload);
            }
        }
    }
    assert!(uploads.len() >= 3, "{} were admitted", uploads.len());
    let stop = Arc::new(AtomicBool::new(false));
    let agents: Vec<_> = (1..=4)
        .map(|index| {
            let stop = stop.clone();
            thread::spawn(move || agent(address, index, &stop))
        })
        .collect();
    let taken = || http::metric(address, "telemetryx_events_received_total{protocol=\"frames\"}") > Some(0.0);
    assert!(wait_until(TIMEOUT, taken), "the bodies keep agents out\n{}", server.log());
    for upload in &mut uploads {
        upload.write_all(rest).unwrap();
    }
    let statuses: Vec<_> = uploads.iter_mut().map(status).collect();
    assert_eq!(statuses, vec!["200"; uploads.len()], "{}", server.log());
    stop.store(true, Ordering::Relaxed);
    agents.into_iter().for_each(|agent| agent.join().unwrap());
}

/// A gzip body that unpacks to `bytes`, lines with an event each; it is about four fifths as long.
fn gzip_lines(bytes: usize) -> Vec<u8> {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-";
    let (mut text, mut random) = (Vec::with_capacity(bytes), Random::seeded(1));
    while text.len() < bytes - 2_000 {
        text.extend_from_slice(b"{\"name\":\"line\",\"body\":\"");
        text.extend((0..1_000).map(|_| LETTERS[random.next_u64() as usize % LETTERS.len()]));
        text.extend_from_slice(b"\"}\n");
    }
    text.resize(bytes, b'\n');
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(&text).unwrap();
    packed.finish().unwrap()
}

/// Sends frames of about 100 KiB, one after the other is acknowledged, until it is stopped.
fn agent(address: SocketAddr, index: u8, stop: &AtomicBool) {
    let events = (0..100)
        .map(|_| telemetryx::event::proto::Event { body: "b".repeat(1_000), ..crate::support::agent::named("frame") });
    let payload = crate::support::agent::batch(events.collect());
    let (mut agent, _) = RawAgent::greeted(address, hello([index; 16], 0));
    let mut seq = 0;
    while !stop.load(Ordering::Relaxed) {
        seq += 1;
        agent.send(&crate::support::agent::data(seq, &payload));
        agent.acknowledged(seq);
    }
}
