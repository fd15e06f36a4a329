//! Overload: a sink that takes nothing, agents and HTTP clients that push, and memory that stays where it was promised.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::agent::{RawAgent, batch, data, hello, log_line};
use crate::support::http::{self, get};
use crate::support::server::{Server, resident_bytes, wait_until};
use telemetryx::wire::FrameKind;

const AGENTS: u64 = 8;
const FRAME_EVENTS: u64 = 200;
const WINDOW_FRAMES: u64 = 32;
const PUSH: Duration = Duration::from_secs(30);
const BUFFER_BYTES: u64 = 64 << 20;
/// What the process may need beside its buffers.
const BESIDE_BUFFERS_BYTES: u64 = 64 << 20;

fn post(address: SocketAddr, name: &str) -> u16 {
    http::post(address, "", &format!("{{\"name\":\"{name}\"}}")).expect("the server answers").0
}

/// Sends numbered events until told to stop; then waits until all is acknowledged. Returns how many events it sent.
fn push(address: SocketAddr, index: u64, stop: &AtomicBool, acked_events: &AtomicU64) -> u64 {
    let mut id = [0; 16];
    id[0] = index as u8 + 1;
    let name = format!("agent-{index}");
    let (mut agent, _) = RawAgent::greeted(address, telemetryx::wire::Hello { name: &name, ..hello(id, 0) });
    let (mut sent, mut acked) = (0, 0);
    while !stop.load(Ordering::Relaxed) || acked < sent {
        if !stop.load(Ordering::Relaxed) && sent - acked < WINDOW_FRAMES {
            sent += 1;
            let first = index * 1_000_000_000 + (sent - 1) * FRAME_EVENTS;
            let events = (first..first + FRAME_EVENTS).map(log_line).collect();
            write_all_while_reading(&mut agent, &data(sent, &batch(events)), &mut acked, stop);
        } else {
            acked = next_ack(&mut agent, acked);
        }
        acked_events.fetch_max(acked * FRAME_EVENTS, Ordering::Relaxed);
    }
    assert!(agent.finish().iter().all(|answer| answer.header.kind == FrameKind::Ack));
    sent * FRAME_EVENTS
}

/// The server may not read for as long as it likes, but it repeats its ACK every second.
fn next_ack(agent: &mut RawAgent, acked: u64) -> u64 {
    agent.stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    agent.answer(FrameKind::Ack).header.seq.max(acked)
}

fn write_all_while_reading(agent: &mut RawAgent, mut bytes: &[u8], acked: &mut u64, stop: &AtomicBool) {
    agent.stream.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
    while !bytes.is_empty() {
        match agent.stream.write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                // Not disconnected: words from the server still come.
                if !stop.load(Ordering::Relaxed) {
                    *acked = next_ack(agent, *acked);
                }
            }
            Err(error) => panic!("the agent was disconnected: {error}"),
        }
    }
}

/// What was read of the pipe.
#[derive(Default)]
struct Seen {
    /// What tells events apart.
    keys: HashSet<String>,
    lines: u64,
    doubled: u64,
    /// Lines before the last event called "end".
    lines_before_end: u64,
}

/// Reads events until the server has closed the pipe.
fn read_all(fifo: &Path, seen: &Mutex<Seen>) {
    // The first line is empty.
    for line in BufReader::new(File::open(fifo).unwrap()).lines().map(Result::unwrap).filter(|line| !line.is_empty()) {
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        let key = match line["value"].as_f64() {
            Some(value) => format!("{value}"),
            None => line["name"].as_str().unwrap().to_owned(),
        };
        let mut seen = seen.lock().unwrap();
        if key == "end" {
            seen.lines_before_end = seen.lines;
        } else {
            seen.lines += 1;
            seen.doubled += u64::from(!seen.keys.insert(key));
        }
    }
}

#[test]
fn a_sink_that_takes_nothing_stops_reading_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let path = format!("sinks.fifo.path={}", fifo.display());
    let mut server = Server::start(
        directory.path(),
        &["sinks.fifo.kind=file", &path, "server.buffer_bytes=64MiB", "wal.enabled=false"],
    );
    let address = server.address();
    // The sink's first connect has its pipe and then nobody reads it.
    let held = File::options().read(true).write(true).open(&fifo).unwrap();

    let stop = Arc::new(AtomicBool::new(false));
    let acked_events = Arc::new(AtomicU64::new(0));
    let agents: Vec<_> = (0..AGENTS)
        .map(|index| {
            let (stop, acked_events) = (stop.clone(), acked_events.clone());
            thread::spawn(move || push(address, index, &stop, &acked_events))
        })
        .collect();

    let started = Instant::now();
    let (mut refused, mut posted, mut largest) = (0, Vec::new(), 0);
    while started.elapsed() < PUSH {
        let name = format!("post-{}", posted.len());
        match post(address, &name) {
            200 => posted.push(name),
            503 => refused += 1,
            other => panic!("POST was answered {other}"),
        }
        assert_eq!(get(address, "/health").0, 200);
        let (status, metrics) = get(address, "/metrics");
        assert!(status == 200 && metrics.contains("telemetryx_buffers_in_use"), "{metrics}");
        largest = largest.max(resident_bytes(server.pid()));
        thread::sleep(Duration::from_millis(100));
    }
    let (ready, reasons) = get(address, "/ready");
    assert!(ready == 503 && reasons.contains("buffers_exhausted"), "{ready} {reasons}");
    let stalled = acked_events.load(Ordering::Relaxed);
    println!("largest resident {largest} bytes, {refused} POSTs refused, {} taken, {stalled} acked", posted.len());
    assert!(largest <= BUFFER_BYTES + BESIDE_BUFFERS_BYTES, "resident memory grew to {largest} bytes");
    assert!(refused > 10, "POSTs without memory get 503");
    // What was acknowledged before is heard for a while.
    let still = wait_until(Duration::from_secs(20), || {
        let before = acked_events.load(Ordering::Relaxed);
        thread::sleep(Duration::from_secs(1));
        acked_events.load(Ordering::Relaxed) == before
    });
    assert!(still, "reads have stopped");

    // The sink returns. Between connections there is no order: the last event may be read before those of others.
    stop.store(true, Ordering::Relaxed);
    let seen = Arc::new(Mutex::new(Seen::default()));
    let reader = {
        let seen = seen.clone();
        thread::spawn(move || read_all(&fifo, &seen))
    };
    let sent: u64 = agents.into_iter().map(|agent| agent.join().expect("no agent was disconnected")).sum();
    let expected = sent + posted.len() as u64;
    let all_flows = wait_until(Duration::from_secs(60), || {
        post(address, "end");
        seen.lock().unwrap().lines_before_end >= expected
    });
    drop(held);
    server.terminate();
    assert!(server.wait(Duration::from_secs(30)).success(), "{}", server.log());
    reader.join().unwrap();
    let Seen { keys, lines, doubled, .. } = &*seen.lock().unwrap();
    println!("{sent} events sent and acknowledged, {lines} lines read, {doubled} doubled");
    assert_eq!((*lines, *doubled), (expected, 0));
    assert!(posted.iter().all(|name| keys.contains(name)), "every 200 was kept");
    assert!(all_flows, "a fresh event flows again behind all others");
}

/// Frames with one bad event each, 1 MiB, whose last byte comes when the whole pool is taken by them: none needs memory
/// that only another could free.
#[test]
fn partly_refused_frames_that_fill_the_pool_are_all_taken() {
    const FRAME: usize = 1 << 20;
    let directory = tempfile::tempdir().unwrap();
    let small = ["server.buffer_bytes=8MiB", "server.max_body_bytes=1MiB", "batch.max_bytes=1MiB"];
    let server = Server::start(directory.path(), &[&["sinks.discard.kind=discard"], &small[..]].concat());
    let mut events = vec![crate::support::agent::named("")];
    let body = "b".repeat(60_000);
    while prost::Message::encoded_len(&telemetryx::event::proto::EventBatch { events: events.clone() }) < FRAME - 61_000
    {
        events.push(telemetryx::event::proto::Event { body: body.clone(), ..crate::support::agent::named("good") });
    }
    let frame = data(1, &batch(events));
    let (all, last) = frame.split_at(frame.len() - 1);
    let mut agents: Vec<RawAgent> =
        (1..=8).map(|index| RawAgent::greeted(server.address(), hello([index; 16], 0)).0).collect();
    let writers: Vec<_> = agents
        .iter()
        .map(|agent| {
            let (mut stream, bytes) = (agent.stream.try_clone().unwrap(), all.to_vec());
            thread::spawn(move || stream.write_all(&bytes).unwrap())
        })
        .collect();
    // As many as the pool holds have all but one byte; the others wait for memory.
    let mut before = None;
    let full = wait_until(Duration::from_secs(20), || {
        thread::sleep(Duration::from_millis(50));
        let in_use = http::metric(server.address(), "telemetryx_buffers_in_use");
        let paused = http::metric(server.address(), "telemetryx_read_pauses_total") >= Some(1.0);
        paused && in_use == before.replace(in_use).flatten()
    });
    assert!(full, "{}", server.log());
    let mut finishers = Vec::new();
    for (agent, writer) in agents.iter().zip(writers) {
        let (mut stream, last) = (agent.stream.try_clone().unwrap(), last.to_vec());
        finishers.push(thread::spawn(move || {
            writer.join().unwrap();
            stream.write_all(&last).unwrap();
        }));
    }
    for agent in &mut agents {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let answer = agent.next().expect("an answer in time").expect("not closed");
            if answer.header.kind == FrameKind::Ack && answer.header.seq == 1 {
                break;
            }
            assert!(Instant::now() < deadline, "not acknowledged in time");
        }
    }
    finishers.into_iter().for_each(|thread| thread.join().unwrap());
}
