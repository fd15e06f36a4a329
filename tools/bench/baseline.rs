//! What `make bench` measures telemetryx against: loops that do as little as can be done with the same bytes.
//!
//! ```text
//!  baseline recv PORT        reads what comes, from any number of connections, and forgets it
//!  baseline answer PORT      finds the end of each HTTP request and answers it, and forgets it
//!  baseline decode SECONDS   decodes JSON in this process with plain serde_json; prints events a CPU-second
//! ```
//!
//! One thread; reads are as large as the server's. `recv` and `answer` end when they are killed.

#[path = "../../benches/support/plain_json.rs"]
mod plain_json;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use telemetryx::cli::bench::sample::Sample;
use telemetryx::limits::READ_BYTES_PER_TURN;

const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 28\r\n\r\n{\"accepted\":1,\"rejected\":[]}";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["recv", port] => serve(port, |_, _| Ok(())),
        ["answer", port] => serve(port, answer),
        ["decode", seconds] => decode(seconds),
        _ => Err(io::Error::other("usage: baseline recv PORT | answer PORT | decode SECONDS")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("baseline: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(port: &str, mut each: impl FnMut(&mut Peer, &[u8]) -> io::Result<()>) -> io::Result<()> {
    let port = port.parse().map_err(io::Error::other)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    let mut peers: Vec<Peer> = Vec::new();
    let mut room = vec![0; READ_BYTES_PER_TURN];
    loop {
        let mut sockets: Vec<_> = peers.iter().map(|peer| PollFd::new(&peer.stream, PollFlags::IN)).collect();
        sockets.push(PollFd::new(&listener, PollFlags::IN));
        poll(&mut sockets, None)?;
        let mut ready: Vec<_> = sockets.iter().map(|socket| !socket.revents().is_empty()).collect();
        if ready.pop() == Some(true) {
            let (stream, _) = listener.accept()?;
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            peers.push(Peer { stream, rest: Vec::new() });
        }
        let mut ready = ready.into_iter();
        peers.retain_mut(|peer| {
            if ready.next() != Some(true) {
                return true;
            }
            match peer.stream.read(&mut room) {
                Ok(0) => false,
                Ok(bytes) => each(peer, &room[..bytes]).is_ok(),
                Err(error) => error.kind() == io::ErrorKind::WouldBlock,
            }
        });
    }
}

struct Peer {
    stream: TcpStream,
    /// The beginning of a request that has not ended.
    rest: Vec<u8>,
}

fn answer(peer: &mut Peer, bytes: &[u8]) -> io::Result<()> {
    peer.rest.extend_from_slice(bytes);
    while let Some(end) = request_end(&peer.rest)? {
        peer.rest.drain(..end);
        peer.stream.write_all(ANSWER)?;
    }
    Ok(())
}

/// The length of the request that `bytes` begin with; `None`: not all of it is here.
fn request_end(bytes: &[u8]) -> io::Result<Option<usize>> {
    const LENGTH: &[u8] = b"Content-Length: ";
    let Some(head) = bytes.windows(4).position(|end| end == b"\r\n\r\n") else { return Ok(None) };
    let at = bytes[..head].windows(LENGTH.len()).position(|name| name == LENGTH);
    let digits = at.map_or(&[][..], |at| &bytes[at + LENGTH.len()..head]);
    let digits = digits.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let body: usize = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).unwrap_or(0);
    Ok(Some(head + 4 + body).filter(|end| bytes.len() >= *end))
}

fn decode(seconds: &str) -> io::Result<()> {
    const EVENTS: usize = 1_000;
    let seconds = Duration::from_secs(seconds.parse().map_err(io::Error::other)?);
    let mut sample = Sample::new(220);
    let bodies: Vec<_> = (0..16).map(|_| sample.batch(EVENTS).json).collect();
    let begin = Instant::now();
    let cpu_before = cpu_time()?;
    let mut events = 0;
    while begin.elapsed() < seconds {
        for body in &bodies {
            events += plain_json::decode(body);
        }
    }
    let cpu = cpu_time()? - cpu_before;
    println!("{}", events as f64 / cpu.as_secs_f64());
    Ok(())
}

/// CPU time of this thread: the first number of its schedstat, nanoseconds.
fn cpu_time() -> io::Result<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = text.split(' ').next().and_then(|first| first.parse().ok());
    nanoseconds.map(Duration::from_nanos).ok_or_else(|| io::Error::other("no schedstat"))
}
