//! Slow and greedy peers beside busy agents: the agents do not notice, the others are gone within their timers.
#![cfg(feature = "server")]

mod support;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::ops::RangeFrom;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::agent::{RawAgent, batch, data, hello, hello_bytes, log_line};
use support::server::{Server, resident_bytes, wait_until};

const TRICKLING: usize = 5_000;
const DEAF: usize = 5_000;
const AGENTS: u8 = 8;
/// Of how many windows the best counts, alone and after the peers: other work on the machine shows in single windows.
const WINDOWS: u8 = 5;
/// After how many windows beside the peers none was good enough; all of them end before the deaf peers do. The first ones
/// fall into the burst of what the deaf peers ask.
const WINDOWS_BESIDE: u8 = 12;
const WINDOW: Duration = Duration::from_secs(2);
/// How often a trickling peer sends a byte.
const TRICKLE: Duration = Duration::from_secs(5);
/// From the last byte of a slow peer to its end: 5 s for a head, 30 s for unread answers, and what a busy machine adds.
const GONE: Duration = Duration::from_secs(50);

/// [`ack_p99`] in the best of the windows.
fn best_ack_p99(address: SocketAddr, rounds: &mut RangeFrom<u8>) -> Duration {
    rounds.take(usize::from(WINDOWS)).map(|round| ack_p99(address, round)).min().unwrap()
}

/// By how much the time may grow.
fn bound(alone: Duration) -> Duration {
    (2 * alone).max(alone + Duration::from_millis(2))
}

/// Eight agents, one frame in flight each; the 99th percentile of the time to an ACK in one window.
fn ack_p99(address: SocketAddr, round: u8) -> Duration {
    let payload = Arc::new(batch((0..20).map(log_line).collect()));
    let threads: Vec<_> = (0..AGENTS)
        .map(|index| {
            let payload = payload.clone();
            thread::spawn(move || {
                let (mut agent, _) = RawAgent::greeted(address, hello([round * AGENTS + index + 1; 16], 0));
                let (mut times, mut seq) = (Vec::new(), 0);
                let started = Instant::now();
                while started.elapsed() < WINDOW {
                    seq += 1;
                    let sent = Instant::now();
                    agent.send(&data(seq, &payload));
                    agent.acknowledged(seq);
                    times.push(sent.elapsed());
                    // A paced agent, not a closed loop that measures how busy the machine is.
                    thread::sleep(Duration::from_millis(2));
                }
                times
            })
        })
        .collect();
    let mut times: Vec<Duration> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

fn open_descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

#[test]
fn slow_and_deaf_peers_cost_agents_nothing_and_are_gone_within_their_timers() {
    let directory = tempfile::tempdir().unwrap();
    // What a deaf peer's socket takes whole leaves its connection idle.
    let server = Server::start(directory.path(), &["sinks.discard.kind=discard", "server.http_idle_timeout=25s"]);
    let address = server.address();
    let mut rounds = 0..;
    let alone = best_ack_p99(address, &mut rounds);
    let (descriptors, memory) = (open_descriptors(server.pid()), resident_bytes(server.pid()));

    let connect = move |_| {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream
    };
    // They ask and ask, and read no answer.
    let deaf: Vec<TcpStream> = (0..DEAF).map(connect).collect();
    let question = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(20);
    for mut stream in &deaf {
        let _ = stream.write(&question);
    }
    // They send one byte of a HELLO or of a request every 5 s, each at its own moment, and come back when they are closed.
    let mut trickling: Vec<(TcpStream, usize)> = (0..TRICKLING).map(|index| (connect(index), 0)).collect();
    let (come_back, stop) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let trickle = {
        let (come_back, stop, hello) = (come_back.clone(), stop.clone(), hello_bytes(hello([255; 16], 0)));
        thread::spawn(move || {
            let request = b"POST /v1/events HTTP/1.1\r\n";
            let started = Instant::now();
            for (sent, index) in (0..TRICKLING).cycle().enumerate() {
                let bytes = if index % 2 == 0 { &hello[..] } else { request };
                let (stream, next) = &mut trickling[index];
                let written = stream.write(&bytes[*next..][..1]);
                *next += 1;
                if written.is_err() && come_back.load(Ordering::Relaxed) {
                    (*stream, *next) = (connect(index), 0);
                }
                let due = started + TRICKLE * sent as u32 / TRICKLING as u32;
                thread::sleep(due.saturating_duration_since(Instant::now()));
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
            trickling
        })
    };
    let mut beside = Duration::MAX;
    for round in rounds.by_ref().take(usize::from(WINDOWS_BESIDE)) {
        beside = beside.min(ack_p99(address, round));
        if beside <= bound(alone) {
            break;
        }
    }
    let most = resident_bytes(server.pid());
    println!("ack p99 {alone:?} alone, {beside:?} beside {TRICKLING} trickling and {DEAF} deaf peers");
    println!("{} descriptors, {} bytes more resident", open_descriptors(server.pid()), most.saturating_sub(memory));

    come_back.store(false, Ordering::Relaxed);
    let gone = wait_until(GONE, || open_descriptors(server.pid()) <= descriptors);
    let left = open_descriptors(server.pid());
    stop.store(true, Ordering::Relaxed);
    drop((deaf, trickle.join().unwrap()));
    let alone = alone.max(best_ack_p99(address, &mut rounds));
    assert!(gone, "{left} descriptors are still open, {descriptors} were before");
    assert!(beside <= bound(alone), "{alone:?} became {beside:?}");
    assert!(most <= memory + (64 << 20), "{most} bytes resident, {memory} before");
}
