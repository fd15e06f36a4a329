//! Whoever is refused while still sending sees why (R15): refused POSTs of 5, 16 and 64 MiB from the clients that people
//! use, at full speed and at 4 MiB/s, with Content-Length and chunked, directly and through nginx; and GOAWAY.
//!
//! `make torture` runs 50 tries instead of 10, and each of them at both speeds.
#![cfg(feature = "server")]

mod support;

use std::fmt;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::agent::{RawAgent, data, hello, hello_bytes};
use support::http;
use support::nginx::Nginx;
use support::server::{Server, wait_until};
use support::stores::python;
use telemetryx::wire::{FrameKind, GoawayCode, Header, Hello};

const MIB: usize = 1 << 20;
const SIZES: [usize; 3] = [5 * MIB, 16 * MIB, 64 * MIB];
const RATE: usize = 4 * MIB;
/// Of the server that refuses all others: as many again may be refused at the same time.
const FULL_CONNECTIONS: u8 = 64;
const TOKEN: &str = "refusals-token";
/// Longest wait for one step of a client by hand; a body takes 16 s on its own.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);

/// `TELEMETRYX_TORTURE_ROUNDS`: tries of each kind.
fn torture_rounds() -> Option<usize> {
    std::env::var("TELEMETRYX_TORTURE_ROUNDS").ok().map(|rounds| rounds.parse().expect("a number of rounds"))
}

// ---- servers ----

/// Two servers: one that refuses by what a request says, and one with as many connections as it allows (503).
struct Servers {
    strict: Server,
    full: Server,
    _holders: Holders,
    _directories: [tempfile::TempDir; 2],
}

impl Servers {
    fn start() -> Self {
        let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let tokens = directories[0].path().join("tokens");
        std::fs::write(&tokens, TOKEN).unwrap();
        let tokens_file = format!("server.tokens_file={}", tokens.display());
        // A chunked body is known to be too large once max_body_bytes of it have come: there is memory for all that are tried
        // at the same time, for without it the answer would be 503.
        let settings = ["sinks.discard.kind=discard", "server.buffer_bytes=512MiB", &tokens_file];
        let strict = Server::start(directories[0].path(), &settings);
        let most = format!("server.max_connections={FULL_CONNECTIONS}");
        let full = Server::start(directories[1].path(), &["sinks.discard.kind=discard", &most]);
        let holders = Holders::start(full.address());
        Self { strict, full, _holders: holders, _directories: directories }
    }
}

/// Agents that use up all connections of a server, for as long as they are kept.
struct Holders {
    end: Option<std::sync::mpsc::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Holders {
    fn start(address: SocketAddr) -> Self {
        let mut agents: Vec<RawAgent> =
            (1..=FULL_CONNECTIONS).map(|index| RawAgent::greeted(address, hello([index; 16], 0)).0).collect();
        let (end, ended) = std::sync::mpsc::channel();
        // Silent agents are disconnected after 45 s.
        let thread = thread::spawn(move || {
            while ended.recv_timeout(Duration::from_secs(10)) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                for agent in &mut agents {
                    agent.send(&Header::empty(FrameKind::Ping, 1, 0).encode());
                    // ACKs may come in between.
                    while agent.next().unwrap().expect("still connected").header.kind != FrameKind::Pong {}
                }
            }
        });
        Self { end: Some(end), thread: Some(thread) }
    }
}

impl Drop for Holders {
    fn drop(&mut self) {
        drop(self.end.take());
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}

/// Where a client sends its requests: to the servers themselves, or to an nginx in front of each.
#[derive(Clone, Copy)]
struct Addresses {
    strict: SocketAddr,
    full: SocketAddr,
}

impl Addresses {
    fn of(servers: &Servers) -> Self {
        Self { strict: servers.strict.address(), full: servers.full.address() }
    }

    fn through(nginx: &[Nginx; 2]) -> Self {
        Self { strict: nginx[0].address(), full: nginx[1].address() }
    }
}

fn nginx_before(servers: &Servers, request_buffering: bool) -> [Nginx; 2] {
    [&servers.strict, &servers.full].map(|server| Nginx::start(server.address(), request_buffering))
}

// ---- jobs ----

#[derive(Debug, Clone)]
struct Job {
    status: u16,
    bytes: usize,
    chunked: bool,
    /// Bytes per second; 0 is full speed.
    rate: usize,
    address: SocketAddr,
}

const STATUSES: [u16; 5] = [413, 415, 404, 401, 503];

impl Job {
    /// The try number `index`: ten of them are every status with both framings.
    fn new(index: usize, bytes: usize, rate: usize, to: Addresses) -> Self {
        let status = STATUSES[index % STATUSES.len()];
        let address = if status == 503 { to.full } else { to.strict };
        Self { status, bytes, chunked: index / STATUSES.len() % 2 == 1, rate, address }
    }

    fn path(&self) -> &'static str {
        if self.status == 404 { "/v1/nothing" } else { "/v1/events" }
    }

    fn headers(&self) -> Vec<(&'static str, String)> {
        let media_type = if self.status == 415 { "text/plain" } else { "application/json" };
        let mut headers = vec![("Content-Type", media_type.to_owned())];
        if self.status != 401 {
            headers.push(("Authorization", format!("Bearer {TOKEN}")));
        }
        headers
    }

    fn json(&self, client: &str) -> Value {
        let headers: serde_json::Map<_, _> =
            self.headers().into_iter().map(|(name, value)| (name.to_owned(), Value::String(value))).collect();
        let url = format!("http://{}{}", self.address, self.path());
        json!({"client": client, "url": url, "headers": headers, "bytes": self.bytes, "chunked": self.chunked, "rate": self.rate})
    }
}

/// Tries at full speed: each size, each status, both framings.
fn fast_jobs(to: Addresses) -> Vec<Job> {
    let tries = torture_rounds().unwrap_or(10);
    SIZES.iter().flat_map(|&bytes| (0..tries).map(move |index| Job::new(index, bytes, 0, to))).collect()
}

/// Tries at 4 MiB/s: `salt` spreads what each client tries of the larger sizes.
fn slow_jobs(to: Addresses, salt: usize) -> Vec<Job> {
    let tries = torture_rounds().map_or([10, 2, 1], |rounds| [rounds; 3]);
    let jobs = SIZES.iter().zip(tries).flat_map(|(&bytes, tries)| {
        (0..tries).map(move |index| Job::new(if tries < 10 { salt + 3 * index } else { index }, bytes, RATE, to))
    });
    // The longest first: they all run at the same time.
    jobs.rev().collect()
}

/// What went wrong, for the message of the test.
#[derive(Default)]
struct Report {
    tried: AtomicUsize,
    lost: Mutex<Vec<String>>,
}

impl Report {
    fn note(&self, client: &str, job: &Job, outcome: &impl fmt::Debug, seen: bool) {
        self.tried.fetch_add(1, Ordering::Relaxed);
        if !seen {
            self.lost.lock().unwrap().push(format!("{client}: {outcome:?} instead of {job:?}"));
        }
    }

    fn assert_clean(self, what: &str, started: Instant) {
        let (tried, lost) = (self.tried.into_inner(), self.lost.into_inner().unwrap());
        println!("{what}: {tried} refusals, {} not seen, {:?}", lost.len(), started.elapsed());
        assert!(lost.is_empty(), "{} of {tried} refusals were not seen:\n{}", lost.len(), lost.join("\n"));
    }
}

// ---- clients ----

/// Writes the whole request before it reads, as the simplest clients do. Writing fails once the server resets.
fn by_hand(job: &Job) -> std::io::Result<u16> {
    let mut stream = TcpStream::connect(job.address)?;
    socket2::SockRef::from(&stream).set_send_buffer_size(16 * MIB)?;
    stream.set_read_timeout(Some(STEP_TIMEOUT))?;
    stream.set_write_timeout(Some(STEP_TIMEOUT))?;
    let mut head = format!("POST {} HTTP/1.1\r\nHost: x\r\n", job.path());
    for (name, value) in job.headers() {
        head += &format!("{name}: {value}\r\n");
    }
    head += &match job.chunked {
        true => "Transfer-Encoding: chunked\r\n\r\n".to_owned(),
        false => format!("Content-Length: {}\r\n\r\n", job.bytes),
    };
    stream.write_all(head.as_bytes())?;
    let piece = vec![b' '; 64 * 1024];
    let mut pace = Pace::new(job.rate);
    for _ in 0..job.bytes / piece.len() {
        if job.chunked {
            stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes())?;
        }
        stream.write_all(&piece)?;
        if job.chunked {
            stream.write_all(b"\r\n")?;
        }
        pace.sent(piece.len());
    }
    if job.chunked {
        stream.write_all(b"0\r\n\r\n")?;
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0))
}

struct Pace {
    rate: usize,
    started: Instant,
    sent: usize,
}

impl Pace {
    fn new(rate: usize) -> Self {
        Self { rate, started: Instant::now(), sent: 0 }
    }

    /// Sleeps so that the average rate is kept.
    fn sent(&mut self, bytes: usize) {
        self.sent += bytes;
        if self.rate > 0 {
            let due = self.started + Duration::from_secs_f64(self.sent as f64 / self.rate as f64);
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    }
}

fn run_by_hand(jobs: &[Job], parallel: usize, report: &Report) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..parallel {
            scope.spawn(|| {
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = by_hand(job);
                    let seen = matches!(outcome, Ok(status) if status == job.status);
                    report.note("raw socket", job, &outcome, seen);
                }
            });
        }
    });
}

/// Runs `jobs` with a client of Python or Node in a process of its own.
fn run_client(client: &str, jobs: &[Job], parallel: usize, report: &Report) {
    let file = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support").join(name);
    let mut command = match client {
        "fetch" => {
            let mut node = Command::new("node");
            node.arg(file("refusal_client.mjs"));
            node
        }
        _ => {
            let mut python = Command::new(python());
            python.arg(file("refusal_client.py"));
            python
        }
    };
    let spawned = command.arg(parallel.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut process = spawned.expect("the client starts");
    let input = Value::Array(jobs.iter().map(|job| job.json(client)).collect()).to_string();
    process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = process.wait_with_output().unwrap();
    assert!(output.status.success(), "{client} failed");
    let outcomes: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(outcomes.len(), jobs.len());
    for (job, outcome) in jobs.iter().zip(outcomes) {
        report.note(client, job, &outcome, outcome.as_u64() == Some(u64::from(job.status)));
    }
}

/// Node is not on every machine, and tools/test does not install it.
fn has_fetch() -> bool {
    let version = Command::new("node").arg("--version").output().map(|output| output.stdout).unwrap_or_default();
    let major = String::from_utf8_lossy(&version).trim().trim_start_matches('v').split('.').next().map(str::to_owned);
    let found = major.and_then(|major| major.parse::<u32>().ok()).is_some_and(|major| major >= 20);
    if !found {
        println!("skipped: there is no Node 20 or later, its fetch is not tried");
    }
    found
}

fn clients() -> Vec<&'static str> {
    let mut clients = vec!["http.client", "requests", "aiohttp"];
    if has_fetch() {
        clients.push("fetch");
    }
    clients
}

// ---- HTTP ----

#[test]
fn refused_posts_at_full_speed_see_their_status() {
    let (servers, report, started) = (Servers::start(), Report::default(), Instant::now());
    let jobs = fast_jobs(Addresses::of(&servers));
    run_by_hand(&jobs, 2, &report);
    for client in clients() {
        run_client(client, &jobs, 2, &report);
    }
    for request_buffering in [false, true] {
        let nginx = nginx_before(&servers, request_buffering);
        run_client("http.client", &fast_jobs(Addresses::through(&nginx)), 2, &report);
    }
    report.assert_clean("full speed", started);
}

#[test]
fn refused_posts_at_4_mib_per_second_see_their_status() {
    let (servers, report, started) = (Servers::start(), Report::default(), Instant::now());
    let direct = Addresses::of(&servers);
    let nginx = [nginx_before(&servers, false), nginx_before(&servers, true)];
    thread::scope(|scope| {
        let report = &report;
        scope.spawn(|| run_by_hand(&slow_jobs(direct, 0), 13, report));
        for (salt, client) in clients().into_iter().enumerate() {
            scope.spawn(move || run_client(client, &slow_jobs(direct, salt + 1), 13, report));
        }
        for (salt, nginx) in nginx.iter().enumerate() {
            let to = Addresses::through(nginx);
            scope.spawn(move || run_client("http.client", &slow_jobs(to, salt + 5), 13, report));
        }
    });
    report.assert_clean("4 MiB/s", started);
}

/// Some senders limit their rate with a second's worth at once, and then pause: their pauses are a little over a second.
#[test]
fn a_sender_that_pauses_for_a_second_sees_its_status() {
    let servers = Servers::start();
    let job = Job::new(1, 16 * MIB, 0, Addresses::of(&servers));
    let mut stream = TcpStream::connect(job.address).unwrap();
    stream.set_read_timeout(Some(STEP_TIMEOUT)).unwrap();
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {}\r\n\r\n",
        job.bytes
    );
    stream.write_all(head.as_bytes()).unwrap();
    let piece = vec![b' '; 64 * 1024];
    for second in 0..4 {
        for _ in 0..4 * MIB / piece.len() {
            stream.write_all(&piece).unwrap_or_else(|error| panic!("the server reset in second {second}: {error}"));
        }
        thread::sleep(Duration::from_millis(1_100));
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 415 "), "{answer}");
}

// ---- GOAWAY ----

/// What is wrong with a session, and what its agent goes on to send.
#[derive(Debug, Clone, Copy)]
enum Wrong {
    Gap,
    NoHello,
    Token,
    Overloaded,
}

/// Sends frames of 1 MiB after one that ends the connection, whatever the server says, and only then reads.
fn goaway_by_hand(
    wrong: Wrong,
    bytes: usize,
    rate: usize,
    to: Addresses,
    frame: &[u8],
) -> std::io::Result<Option<GoawayCode>> {
    let (address, token) = match wrong {
        Wrong::Overloaded => (to.full, ""),
        Wrong::Token => (to.strict, "another-token"),
        Wrong::Gap | Wrong::NoHello => (to.strict, TOKEN),
    };
    let mut agent = RawAgent::try_connect(address)?;
    socket2::SockRef::from(&agent.stream).set_send_buffer_size(16 * MIB)?;
    agent.stream.set_write_timeout(Some(STEP_TIMEOUT))?;
    static NEXT_AGENT: AtomicUsize = AtomicUsize::new(2);
    let mut id = [7; 16];
    id[..8].copy_from_slice(&NEXT_AGENT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    if !matches!(wrong, Wrong::NoHello) {
        agent.stream.write_all(&hello_bytes(Hello { token: token.as_bytes(), ..hello(id, 0) }))?;
    }
    let mut pace = Pace::new(rate);
    for _ in 0..bytes / MIB {
        for piece in frame.chunks(64 * 1024) {
            agent.stream.write_all(piece)?;
            pace.sent(piece.len());
        }
    }
    while let Some(answer) = agent.next()? {
        if answer.header.kind == FrameKind::Goaway {
            return Ok(answer.goaway());
        }
    }
    Ok(None)
}

#[test]
fn agents_that_keep_sending_hear_goaway() {
    let (servers, started) = (Servers::start(), Instant::now());
    let to = Addresses::of(&servers);
    // Number 9 of a fresh session: nothing was sent before.
    let frame = data(9, &vec![b' '; MIB]);
    let kinds = [
        (Wrong::Gap, GoawayCode::SeqGap),
        (Wrong::NoHello, GoawayCode::Protocol),
        (Wrong::Token, GoawayCode::Auth),
        (Wrong::Overloaded, GoawayCode::Overloaded),
    ];
    let (tried, lost) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let try_one = |index: usize, bytes, rate| {
        let (wrong, code) = kinds[index % kinds.len()];
        let heard = goaway_by_hand(wrong, bytes, rate, to, &frame);
        tried.fetch_add(1, Ordering::Relaxed);
        if !matches!(heard, Ok(Some(heard)) if heard == code) {
            lost.lock().unwrap().push(format!("{heard:?} instead of {code:?}: {bytes} bytes, rate {rate}"));
        }
    };
    let fast = torture_rounds().unwrap_or(10);
    let slow = torture_rounds().map_or([4, 2, 1], |rounds| [rounds; 3]);
    thread::scope(|scope| {
        let try_one = &try_one;
        for (bytes, tries) in SIZES.into_iter().zip(slow) {
            for index in 0..tries {
                scope.spawn(move || try_one(index + bytes / (16 * MIB), bytes, RATE));
            }
        }
        for bytes in SIZES {
            (0..fast).for_each(|index| try_one(index, bytes, 0));
        }
    });
    let (tried, lost) = (tried.into_inner(), lost.into_inner().unwrap());
    if !lost.is_empty() {
        for server in [&servers.strict, &servers.full] {
            let metrics = http::get(server.address(), "/metrics").1;
            metrics.lines().filter(|line| line.contains("connections_")).for_each(|line| println!("{line}"));
        }
    }
    println!("GOAWAY: {tried} sessions, {} did not hear it, {:?}", lost.len(), started.elapsed());
    assert!(lost.is_empty(), "{} of {tried} GOAWAYs were not heard:\n{}", lost.len(), lost.join("\n"));
}

// ---- bounds ----

/// POSTs that are refused by their head, whose bodies never end: each keeps sending as long as the server takes it.
struct Floods {
    stop: Arc<AtomicBool>,
    opened: Arc<AtomicUsize>,
    thread: Option<thread::JoinHandle<usize>>,
}

impl Floods {
    /// Opens `count` connections one after the other and keeps all of them sending.
    fn start(address: SocketAddr, count: usize) -> Self {
        let (stop, opened) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, all_opened) = (stop.clone(), opened.clone());
        let thread = thread::spawn(move || {
            let (mut streams, mut opened, mut broken) = (Vec::new(), 0, 0);
            let piece = [b' '; 16 * 1024];
            while !stopped.load(Ordering::Relaxed) {
                if opened < count {
                    let mut stream = TcpStream::connect(address).unwrap();
                    let head = "POST /v1/nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\n\r\n";
                    // At 64 KiB/s this takes 8 s: so long a busy machine may take to come back to it.
                    let beginning = [head.as_bytes(), &[b' '; 512 * 1024]].concat();
                    match stream.write_all(&beginning) {
                        Ok(()) => {
                            stream.set_nonblocking(true).unwrap();
                            streams.push(stream);
                        }
                        Err(_) => broken += 1,
                    }
                    opened += 1;
                    all_opened.store(opened, Ordering::Relaxed);
                }
                if opened == count || opened.is_multiple_of(64) {
                    streams.retain_mut(|stream| match stream.write(&piece) {
                        Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => {
                            broken += 1;
                            false
                        }
                        _ => true,
                    });
                    thread::sleep(Duration::from_millis(5));
                }
            }
            broken
        });
        Self { stop, opened, thread: Some(thread) }
    }

    /// Ends them; how many the server has closed meanwhile.
    fn stop(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

#[test]
fn of_more_than_1024_lingering_connections_the_oldest_are_closed() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &["sinks.discard.kind=discard", "server.max_unauthenticated=1"]);
    let floods = Floods::start(server.address(), 1_100);
    let cut = || http::metric(server.address(), "telemetryx_connections_cut_total{reason=\"limit\"}");
    let seen = wait_until(STEP_TIMEOUT, || cut() >= Some(1.0));
    assert!(wait_until(STEP_TIMEOUT, || floods.opened.load(Ordering::Relaxed) == 1_100));
    // Beside them: the one that asks, and the one that asked before.
    let open = || http::metric(server.address(), "telemetryx_connections");
    let bounded = wait_until(STEP_TIMEOUT, || open() <= Some(1_026.0));
    // Lingering connections do not count as unauthenticated, and agents come in beside them.
    let (agent, _) = RawAgent::greeted(server.address(), hello([3; 16], 0));
    let closed = floods.stop();
    drop(agent);
    assert!(seen && bounded, "{:?} cut, {:?} open, {closed} closed", cut(), open());
}

#[test]
fn lingering_connections_take_no_place_from_newcomers() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &["sinks.discard.kind=discard", "server.max_connections=20"]);
    let floods = Floods::start(server.address(), 200);
    assert!(wait_until(STEP_TIMEOUT, || floods.opened.load(Ordering::Relaxed) == 200));
    // Answered after all of them were refused: until then they have a place like anybody.
    let full = wait_until(STEP_TIMEOUT, || http::metric(server.address(), "telemetryx_connections") >= Some(38.0));
    for index in 1..=20 {
        let (agent, _) = RawAgent::greeted(server.address(), hello([index; 16], 0));
        agent.finish();
    }
    let closed = floods.stop();
    assert!(full, "{closed} closed");
}

#[test]
fn lingering_ends_by_pause_by_slowness_and_by_drain() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server::start(directory.path(), &["sinks.discard.kind=discard", "server.drain_timeout=60s"]);
    let head = b"POST /v1/nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n";
    let connect = || {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.write_all(head).unwrap();
        stream
    };
    // The connection that asks is the only one left.
    let alone = || http::metric(server.address(), "telemetryx_connections") == Some(1.0);
    let paused = connect();
    assert!(wait_until(STEP_TIMEOUT, alone), "a peer that pauses is closed");
    // On a busy machine this sender may pause for a second itself.
    let slow = wait_until(STEP_TIMEOUT, || {
        let mut slow = connect();
        while slow.write_all(b" ").is_ok() {
            thread::sleep(Duration::from_millis(100));
        }
        http::metric(server.address(), "telemetryx_connections_cut_total{reason=\"slow\"}") >= Some(1.0)
    });
    assert!(slow && wait_until(STEP_TIMEOUT, alone), "a peer that trickles is closed");
    let floods = Floods::start(server.address(), 4);
    assert!(wait_until(STEP_TIMEOUT, || http::metric(server.address(), "telemetryx_connections") >= Some(5.0)));
    let started = Instant::now();
    server.terminate();
    assert!(server.wait(STEP_TIMEOUT).success(), "{}", server.log());
    println!("drained within {:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(20), "30 s would be without the drain");
    drop(paused);
    floods.stop();
}
