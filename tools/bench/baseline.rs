//! What `make bench` measures telemetryx against: loops that do as little as can be done with the same bytes.
//!
//! ```text
//!  baseline recv PORT        reads what comes, from any number of connections, and forgets it
//!  baseline recv-tls PORT CERT KEY
//!                            the same with TLS: rustls' own buffers, and what is decrypted is forgotten
//!  baseline recv-tls-itself PORT CERT KEY
//!                            the same, and rustls reads the socket itself (`read_tls`), as its examples let it
//!  baseline handshakes PORT CERT PER_SECOND SECONDS
//!                            connects so often with a full handshake, and closes; prints JSON: how many were complete, how
//!                            many failed, the slowest in milliseconds
//!  baseline certificate DIR  writes DIR/cert.pem and DIR/key.pem, for 127.0.0.1
//!  baseline answer PORT      finds the end of each HTTP request and answers it, and forgets it
//!  baseline decode SECONDS   decodes JSON in this process with plain serde_json; prints events per CPU-second
//!  baseline append FILE BYTES SECONDS PAUSE_MS
//!                            appends so many bytes and syncs them, again and again; prints JSON: bytes a second, and
//!                            the median of one append in milliseconds
//! ```
//!
//! One thread; reads are as large as the server's, but those of rustls itself. `recv` and `answer` end when they are killed.

#[path = "../../benches/support/plain_json.rs"]
mod plain_json;
#[path = "baseline_tls.rs"]
mod tls;

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use telemetryx::cli::bench::sample::Sample;
use telemetryx::limits::{READ_BYTES_PER_TURN, SEGMENT_BYTES_DEFAULT};

const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 28\r\n\r\n{\"accepted\":1,\"rejected\":[]}";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["recv", port] => serve(port, |_, _| Ok(())),
        ["recv-tls", port, cert, key] => tls::config(cert, key).and_then(|config| {
            serve(port, |peer, bytes| tls::receive(&mut peer.tls, &config, bytes, &mut peer.stream))
        }),
        ["recv-tls-itself", port, cert, key] => tls::config(cert, key)
            .and_then(|config| serve_ready(port, |peer| tls::receive_itself(&mut peer.tls, &config, &mut peer.stream))),
        ["handshakes", port, cert, per_second, seconds] => tls::handshakes(port, cert, per_second, seconds),
        ["certificate", folder] => tls::certificate(folder),
        ["answer", port] => serve(port, answer),
        ["decode", seconds] => decode(seconds),
        ["append", file, bytes, seconds, pause_ms] => append(file, bytes, seconds, pause_ms),
        _ => {
            let usage = "usage: baseline recv PORT | recv-tls PORT CERT KEY | recv-tls-itself PORT CERT KEY | \
                         handshakes PORT CERT PER_SECOND SECONDS | certificate DIR | answer PORT | decode SECONDS | \
                         append FILE BYTES SECONDS PAUSE_MS";
            Err(io::Error::other(usage))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("baseline: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One read of a connection that is ready, into a room that all share.
fn serve(port: &str, mut each: impl FnMut(&mut Peer, &[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut room = vec![0; READ_BYTES_PER_TURN];
    serve_ready(port, |peer| match peer.stream.read(&mut room)? {
        0 => Ok(false),
        bytes => each(peer, &room[..bytes]).map(|()| true),
    })
}

/// Calls `each` for every connection that has something to read, until it returns false or an error.
fn serve_ready(port: &str, mut each: impl FnMut(&mut Peer) -> io::Result<bool>) -> io::Result<()> {
    let port = port.parse().map_err(io::Error::other)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    let mut peers: Vec<Peer> = Vec::new();
    loop {
        let mut sockets: Vec<_> = peers.iter().map(|peer| PollFd::new(&peer.stream, PollFlags::IN)).collect();
        sockets.push(PollFd::new(&listener, PollFlags::IN));
        poll(&mut sockets, None)?;
        let mut ready: Vec<_> = sockets.iter().map(|socket| !socket.revents().is_empty()).collect();
        if ready.pop() == Some(true) {
            let (stream, _) = listener.accept()?;
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            peers.push(Peer { stream, tls: None, rest: Vec::new() });
        }
        let mut ready = ready.into_iter();
        peers.retain_mut(|peer| {
            ready.next() != Some(true) || each(peer).unwrap_or_else(|error| error.kind() == io::ErrorKind::WouldBlock)
        });
    }
}

struct Peer {
    stream: TcpStream,
    /// After its first bytes, where there is TLS.
    tls: Option<rustls::ServerConnection>,
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

/// A file is begun anew when it has as many bytes as a segment of the log.
fn append(path: &str, bytes: &str, seconds: &str, pause_ms: &str) -> io::Result<()> {
    let number = |text: &str| text.parse::<u64>().map_err(io::Error::other);
    let (seconds, pause) = (Duration::from_secs(number(seconds)?), Duration::from_millis(number(pause_ms)?));
    let chunk: Vec<u8> = (0..number(bytes)?).map(|index| (index * 31 % 251) as u8).collect();
    let begin = Instant::now();
    let (mut written, mut spent) = (0, Vec::new());
    while begin.elapsed() < seconds {
        let mut file = File::create(path)?;
        let mut in_file = 0;
        while in_file + chunk.len() as u64 <= SEGMENT_BYTES_DEFAULT && begin.elapsed() < seconds {
            let started = Instant::now();
            file.write_all(&chunk)?;
            file.sync_data()?;
            spent.push(started.elapsed());
            in_file += chunk.len() as u64;
            std::thread::sleep(pause);
        }
        written += in_file;
    }
    spent.sort_unstable();
    let median = spent.get(spent.len() / 2).copied().unwrap_or_default().as_secs_f64() * 1e3;
    let rate = written as f64 / begin.elapsed().as_secs_f64();
    println!(r#"{{"bytes_per_second":{rate},"milliseconds":{median}}}"#);
    std::fs::remove_file(path)
}

/// CPU time of this thread: the first number of its schedstat, nanoseconds.
fn cpu_time() -> io::Result<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = text.split(' ').next().and_then(|first| first.parse().ok());
    nanoseconds.map(Duration::from_nanos).ok_or_else(|| io::Error::other("no schedstat"))
}
