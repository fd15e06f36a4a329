//! Limits with a real server: a greedy sender gets its rate, the others do not notice, and nothing is lost.
#![cfg(feature = "server")]

mod support;

use std::collections::HashMap;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::ops::RangeFrom;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use support::agent::{ANSWER_TIMEOUT, RawAgent, batch, data, hello, log_line};
use support::http::{get, metric};
use support::server::{Server, wait_until};
use telemetryx::client::{Client, Options};
use telemetryx::event::proto::Event;
use telemetryx::limits::{WINDOW_BYTES, WINDOW_BYTES_DELAYED};
use telemetryx::wire::{FrameKind, GoawayCode, Hello};

/// Events per second of each agent or address.
const RATE: u64 = 500;
const BURST: Duration = Duration::from_secs(2);
const LIMIT: &str = "limits.agent_events_per_second=500";
/// Small senders, and how often each sends.
const SMALL: usize = 100;
const PERIOD: Duration = Duration::from_millis(100);
/// Events of one frame, and of one request of the greedy client.
const FRAME_EVENTS: u64 = 20;
const BODY_EVENTS: u64 = 50;
/// Of how many windows the best counts, alone and afterwards; and after how many beside the greedy one none was good enough.
const WINDOWS: usize = 3;
const WINDOWS_BESIDE: usize = 12;
const WINDOW: Duration = Duration::from_secs(2);
/// How long the rate of the greedy one is measured at least.
const MEASURED: Duration = Duration::from_secs(8);

/// By how much the time may grow.
fn bound(alone: Duration) -> Duration {
    (2 * alone).max(alone + Duration::from_millis(2))
}

fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

/// An event of `source` with a number, so that a loss is seen.
fn numbered(source: &str, number: u64) -> Event {
    Event { source: source.to_owned(), ..log_line(number) }
}

/// What the senders were told is kept: the events of each source.
#[derive(Default)]
struct Sent(std::sync::Mutex<HashMap<String, u64>>);

impl Sent {
    fn add(&self, source: &str, events: u64) {
        *self.0.lock().unwrap().entry(source.to_owned()).or_default() += events;
    }
}

/// Every event that was sent is in the file of the sink, once.
fn nothing_is_lost(path: &Path, sent: &Sent) {
    let sent = sent.0.lock().unwrap();
    let total: u64 = sent.values().sum();
    let lines = || fs::read_to_string(path).unwrap_or_default();
    let stored = wait_until(Duration::from_secs(60), || lines().matches('\n').count() as u64 >= total);
    let text = lines();
    assert!(stored, "{} of {total} events are stored", text.matches('\n').count());
    let mut found: HashMap<String, Vec<u64>> = HashMap::new();
    for line in text.lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        let number = event["value"].as_f64().unwrap() as u64;
        found.entry(event["source"].as_str().unwrap().to_owned()).or_default().push(number);
    }
    for (source, numbers) in &mut found {
        numbers.sort_unstable();
        assert!(numbers.iter().copied().eq(0..sent[source]), "{source}: {} of {}", numbers.len(), sent[source]);
    }
    assert_eq!(found.len(), sent.len());
}

fn start(directory: &Path) -> (Server, std::path::PathBuf) {
    let path = directory.join("events.ndjson");
    let setting = format!("sinks.file.path={}", path.to_str().unwrap());
    (Server::start(directory, &[LIMIT, "sinks.file.kind=file", &setting]), path)
}

/// Runs `send` once per period and small sender for one window, and returns the 99th percentile of how long it took.
/// `connect` makes what a sender keeps, of its number, which is used once.
fn window<T>(
    numbers: &mut RangeFrom<usize>,
    connect: impl Fn(usize) -> T + Send + Sync + Copy + 'static,
    send: impl Fn(&mut T, u64) + Send + Sync + Copy + 'static,
) -> Duration {
    let threads: Vec<_> = numbers
        .take(SMALL)
        .enumerate()
        .map(|(index, number)| {
            thread::spawn(move || {
                let mut sender = connect(number);
                // Not all at the same moment.
                thread::sleep(PERIOD * index as u32 / SMALL as u32);
                let (begin, mut times) = (Instant::now(), Vec::new());
                for round in 0..(WINDOW.as_millis() / PERIOD.as_millis()) as u32 {
                    thread::sleep((begin + PERIOD * round).saturating_duration_since(Instant::now()));
                    let sent = Instant::now();
                    send(&mut sender, round.into());
                    times.push(sent.elapsed());
                }
                times
            })
        })
        .collect();
    p99(threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect())
}

/// A connected agent, its name, and where its events are counted.
type Small = (RawAgent, String, &'static Sent);

fn small_agent(address: SocketAddr, number: usize, sent: &'static Sent) -> Small {
    let name = format!("agent-{number}");
    let mut id = [1; 16];
    id[..8].copy_from_slice(&(number as u64 + 1).to_le_bytes());
    let (agent, _) = RawAgent::greeted(address, Hello { name: &name, ..hello(id, 0) });
    (agent, name, sent)
}

fn send_frame((agent, name, sent): &mut Small, round: u64) {
    let events = (5 * round..5 * (round + 1)).map(|number| numbered(name, number)).collect();
    agent.send(&data(round + 1, &batch(events)));
    agent.acknowledged(round + 1);
    sent.add(name, 5);
}

#[test]
fn a_greedy_agent_gets_its_rate_and_the_others_do_not_notice() {
    let directory = tempfile::tempdir().unwrap();
    let (server, path) = start(directory.path());
    let (address, sent): (_, &'static Sent) = (server.address(), Box::leak(Box::default()));
    let mut numbers = 0..;
    let connect = move |number| small_agent(address, number, sent);
    let mut best = |windows: usize, good: Duration| {
        let mut best = Duration::MAX;
        for _ in 0..windows {
            best = best.min(window(&mut numbers, connect, send_frame));
            if best <= good {
                break;
            }
        }
        best
    };
    let alone = best(WINDOWS, Duration::ZERO);

    // It sends whenever its window allows it.
    let options = Options { name: "greedy".to_owned(), queue_bytes: 256 * 1024, ..Options::new(address.to_string()) };
    let client = Arc::new(Client::connect(options).unwrap());
    let (stop, begin) = (Arc::new(AtomicBool::new(false)), Instant::now());
    let greedy = thread::spawn({
        let (client, stop) = (client.clone(), stop.clone());
        move || {
            let mut numbers = (0..).step_by(FRAME_EVENTS as usize);
            let mut first = 0;
            while !stop.load(SeqCst) {
                first = numbers.next().unwrap();
                let events = (first..first + FRAME_EVENTS).map(|number| numbered("greedy", number)).collect();
                client.send_encoded(&batch(events), FRAME_EVENTS as u32).unwrap();
            }
            first + FRAME_EVENTS
        }
    });
    // Its burst is over.
    let burst = RATE * BURST.as_secs();
    assert!(
        wait_until(ANSWER_TIMEOUT, || client.acknowledged_events() > burst + RATE / 2),
        "the greedy agent is stuck"
    );
    let (measured, before) = (Instant::now(), client.acknowledged_events());
    let beside = best(WINDOWS_BESIDE, bound(alone));
    thread::sleep(MEASURED.saturating_sub(measured.elapsed()));
    let (seconds, events) = (measured.elapsed().as_secs_f64(), client.acknowledged_events() - before);
    let ratio = events as f64 / seconds / RATE as f64;
    println!("ack p99 {alone:?} alone, {beside:?} beside a greedy agent, which got {ratio:.3} of its rate");
    assert!((0.95..=1.05).contains(&ratio), "{events} events in {seconds} s are {ratio} of the rate");

    stop.store(true, SeqCst);
    sent.add("greedy", greedy.join().unwrap());
    let client = Arc::into_inner(client).unwrap();
    let total = client.close(Some(Instant::now() + ANSWER_TIMEOUT)).unwrap().acknowledged_events;
    let most = begin.elapsed().as_secs_f64() * RATE as f64 * 1.01 + (burst + 2 * FRAME_EVENTS) as f64;
    assert!(total as f64 <= most, "{total} events, {most} by the rate and one burst");
    let limited = metric(address, "telemetryx_events_limited_total{scope=\"agent\"}").unwrap();
    assert!(limited > 0.5 * (total - burst) as f64, "{limited} of {total} events were delayed");
    let alone = alone.max(best(WINDOWS, beside / 2));
    assert!(beside <= bound(alone), "{alone:?} became {beside:?}");
    nothing_is_lost(&path, sent);
}

/// A keep-alive connection from an address of its own.
struct Poster {
    server: SocketAddr,
    address: Ipv4Addr,
    stream: TcpStream,
}

/// Status and `Retry-After` of an answer.
type Answered = (u16, Option<u64>);

impl Poster {
    fn connect(server: SocketAddr, address: Ipv4Addr) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((address, 0)).into()).unwrap();
        socket.connect(&server.into()).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(ANSWER_TIMEOUT)).unwrap();
        Self { server, address, stream }
    }

    /// Posts an `EventBatch`. Connects again where the answer ends the connection.
    fn post(&mut self, fields: &str, body: &[u8]) -> Answered {
        let (status, retry_after, close) = self.exchange(fields, body).expect("the server answers");
        if close {
            *self = Self::connect(self.server, self.address);
        }
        (status, retry_after)
    }

    fn exchange(&mut self, fields: &str, body: &[u8]) -> io::Result<(u16, Option<u64>, bool)> {
        let length = body.len();
        let head = format!(
            "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\n{fields}Content-Length: {length}\r\n\r\n"
        );
        self.stream.write_all(&[head.as_bytes(), body].concat())?;
        let (mut answer, mut chunk) = (Vec::new(), [0; 4096]);
        loop {
            match self.stream.read(&mut chunk)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                bytes => answer.extend_from_slice(&chunk[..bytes]),
            }
            let text = String::from_utf8_lossy(&answer);
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            if body.len() < field("Content-Length").unwrap().parse().unwrap() {
                continue;
            }
            let status = head.split(' ').nth(1).unwrap().parse().unwrap();
            let retry_after = field("Retry-After").map(|seconds| seconds.parse().unwrap());
            return Ok((status, retry_after, field("Connection") == Some("close")));
        }
    }
}

#[test]
fn a_greedy_http_client_that_honours_429_gets_its_rate_and_the_others_do_not_notice() {
    let directory = tempfile::tempdir().unwrap();
    let (server, path) = start(directory.path());
    let (address, sent): (_, &'static Sent) = (server.address(), Box::leak(Box::default()));
    let mut numbers = 0..;
    let connect = move |number: usize| {
        // 127.0.1.1 and so on, each one for the whole test.
        let own = Ipv4Addr::new(127, 0, 1, 1 + (number % SMALL) as u8);
        (Poster::connect(address, own), format!("client-{number}"), sent)
    };
    let send = |(poster, name, sent): &mut (Poster, String, &'static Sent), round: u64| {
        let events = (5 * round..5 * (round + 1)).map(|number| numbered(name, number)).collect();
        assert_eq!(poster.post("", &batch(events)), (200, None));
        sent.add(name, 5);
    };
    let mut best = |windows: usize, good: Duration| {
        let mut best = Duration::MAX;
        for _ in 0..windows {
            best = best.min(window(&mut numbers, connect, send));
            if best <= good {
                break;
            }
        }
        best
    };
    let alone = best(WINDOWS, Duration::ZERO);

    let (stop, refused) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let greedy = thread::spawn({
        let (stop, refused) = (stop.clone(), refused.clone());
        move || {
            let mut poster = Poster::connect(address, Ipv4Addr::new(127, 0, 2, 1));
            // Time and events at each refusal: there everything before is charged, and not paid for by at most one body.
            let (mut number, mut refusals) = (0, Vec::new());
            while !stop.load(SeqCst) {
                let events = (number..number + BODY_EVENTS).map(|number| numbered("greedy", number)).collect();
                match poster.post("", &batch(events)) {
                    (200, None) => number += BODY_EVENTS,
                    (429, Some(seconds)) => {
                        refusals.push((Instant::now(), number));
                        refused.fetch_add(1, SeqCst);
                        thread::sleep(Duration::from_secs(seconds));
                    }
                    other => panic!("{other:?}"),
                }
            }
            sent.add("greedy", number);
            refusals
        }
    });
    assert!(wait_until(ANSWER_TIMEOUT, || refused.load(SeqCst) > 0), "the greedy client is not limited");
    let measured = Instant::now();
    let beside = best(WINDOWS_BESIDE, bound(alone));
    thread::sleep(MEASURED.saturating_sub(measured.elapsed()));
    stop.store(true, SeqCst);
    let refusals = greedy.join().unwrap();
    let ((first, before), (last, after)) = (refusals[0], refusals[refusals.len() - 1]);
    let ratio = (after - before) as f64 / (last - first).as_secs_f64() / RATE as f64;
    println!("answer p99 {alone:?} alone, {beside:?} beside a greedy client, which got {ratio:.3} of its rate");
    assert!((0.95..=1.05).contains(&ratio), "{ratio} of the rate from {before} to {after} events");
    assert!(before >= RATE * BURST.as_secs(), "the burst came at once, and not {before} events only");
    // Another loop may answer this than counted that.
    let limited = || metric(address, "telemetryx_events_limited_total{scope=\"address\"}");
    assert!(wait_until(ANSWER_TIMEOUT, || limited() == Some(refusals.len() as f64)), "{:?}", limited());
    let alone = alone.max(best(WINDOWS, beside / 2));
    assert!(beside <= bound(alone), "{alone:?} became {beside:?}");
    nothing_is_lost(&path, sent);
}

#[test]
fn a_limit_of_the_server_is_shared_in_order() {
    const AGENTS: usize = 6;
    const FRAMES: u64 = 40;
    let directory = tempfile::tempdir().unwrap();
    let settings = ["limits.events_per_second=1000", "limits.burst=1s", "sinks.discard.kind=discard"];
    let server = Server::start(directory.path(), &settings);
    let address = server.address();
    let options = Options { queue_bytes: 256 * 1024, ..Options::new(address.to_string()) };
    let client = Arc::new(Client::connect(options).unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let greedy = thread::spawn({
        let (client, stop) = (client.clone(), stop.clone());
        let payload = batch((0..FRAME_EVENTS).map(log_line).collect());
        move || {
            while !stop.load(SeqCst) {
                client.send_encoded(&payload, FRAME_EVENTS as u32).unwrap();
            }
        }
    });
    assert!(wait_until(ANSWER_TIMEOUT, || client.acknowledged_events() > 1_500), "the greedy agent is stuck");
    let (begin, before) = (Instant::now(), client.acknowledged_events());
    // Each sends the next frame once the last one is acknowledged: as much as the greedy one, if they are served in turn.
    let sent: &'static Sent = Box::leak(Box::default());
    let threads: Vec<_> = (0..AGENTS)
        .map(|number| {
            thread::spawn(move || {
                let mut agent = small_agent(address, number, sent);
                (0..FRAMES).for_each(|round| send_frame(&mut agent, round));
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let (seconds, greedy_events) = (begin.elapsed().as_secs_f64(), client.acknowledged_events() - before);
    let events = greedy_events + AGENTS as u64 * FRAMES * 5;
    println!("{events} events in {seconds} s, {greedy_events} of the greedy agent");
    assert!(events as f64 <= seconds * 1_000.0 * 1.05 + 200.0, "{events} events in {seconds} s");
    // A turn of the greedy one is a frame or two; in two loops it may have as many turns as all others together.
    let turns = (AGENTS as u64 * FRAMES).max(FRAMES);
    assert!(
        greedy_events <= 2 * turns * FRAME_EVENTS + 500,
        "{greedy_events} events while the others had {turns} turns"
    );
    stop.store(true, SeqCst);
    greedy.join().unwrap();
}

#[test]
fn a_delayed_agent_sees_a_smaller_window_and_is_not_disconnected() {
    let directory = tempfile::tempdir().unwrap();
    let settings = ["limits.agent_events_per_second=10", "limits.burst=1s", "sinks.discard.kind=discard"];
    let mut server = Server::start(directory.path(), &settings);
    let address = server.address();
    let (mut agent, welcome) = RawAgent::greeted(address, hello([1; 16], 0));
    assert_eq!(welcome.window_bytes, WINDOW_BYTES);
    let frame = |seq, events| data(seq, &batch((0..events).map(log_line).collect()));
    agent.send(&[frame(1, 40), frame(2, 1)].concat());
    let mut windows = Vec::new();
    let begin = Instant::now();
    while windows.last() != Some(&(2, WINDOW_BYTES)) {
        let header = agent.answer(FrameKind::Ack).header;
        windows.push((header.seq, header.arg));
        assert!(begin.elapsed() < ANSWER_TIMEOUT, "{windows:?}");
    }
    assert!(begin.elapsed() > Duration::from_millis(2_900), "40 events of 10 a second and a burst of 10: {windows:?}");
    assert!(windows.contains(&(1, WINDOW_BYTES_DELAYED)), "{windows:?}");

    // Two that are delayed for hours. One goes away; the other one comes again, and is still delayed.
    let delayed = |id: u8| {
        let (mut agent, _) = RawAgent::greeted(address, hello([id; 16], 0));
        agent.send(&frame(1, 4_000));
        agent.acknowledged(1);
        agent.send(&frame(2, 1));
        let ack = agent.answer(FrameKind::Ack);
        assert_eq!((ack.header.seq, ack.header.arg), (1, WINDOW_BYTES_DELAYED), "the last ACK again");
        agent
    };
    let (gone, other) = (delayed(2), delayed(3));
    drop(gone);
    let connections = || metric(address, "telemetryx_connections").unwrap();
    assert!(wait_until(ANSWER_TIMEOUT, || connections() <= 3.0), "{} connections", connections());
    let (mut again, welcome) = RawAgent::greeted(address, hello([3; 16], 0));
    again.send(&frame(welcome.last_seq + 1, 1));
    let ack = again.answer(FrameKind::Ack);
    assert_eq!(
        (ack.header.seq, ack.header.arg),
        (welcome.last_seq, WINDOW_BYTES_DELAYED),
        "reconnecting refills nothing"
    );
    drop(other);
    server.terminate();
    let last = std::iter::from_fn(|| again.next().unwrap()).last().unwrap();
    assert_eq!(last.goaway(), Some(GoawayCode::Shutdown));
    assert!(server.wait(ANSWER_TIMEOUT).success());
}

/// `printf %s token-of-api | sha256sum`
const API_SHA256: &str = "8c8b322395824ab1561a8e3fe27ed601088805716cebe4ccc99788589cf396de";

#[test]
fn clients_are_known_by_their_tokens_and_have_limits_and_counters_of_their_own() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let settings = [
        format!("clients.api.token_sha256={API_SHA256}"),
        "clients.api.events_per_second=100".to_owned(),
        format!("clients.edge.token_file={}", file("edge", "token-of-edge\n")),
        format!("server.tokens_file={}", file("tokens", "token-of-nobody\n")),
        "sinks.discard.kind=discard".to_owned(),
    ];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let server = Server::start(directory.path(), &settings);
    let address = server.address();
    let payload = batch((0..300).map(log_line).collect());
    let post = |token: &str| {
        let mut poster = Poster::connect(address, Ipv4Addr::LOCALHOST);
        poster.post(&format!("Authorization: Bearer {token}\r\n"), &payload)
    };
    // 300 events are two seconds' worth and one second's; the next one waits, whatever it comes by.
    let (mut agent, _) = RawAgent::greeted(address, Hello { token: b"token-of-api", name: "one", ..hello([1; 16], 0) });
    agent.send(&data(1, &payload));
    agent.acknowledged(1);
    assert_eq!(post("token-of-api"), (429, Some(1)));
    let (mut other, _) = RawAgent::greeted(address, Hello { token: b"token-of-api", name: "two", ..hello([2; 16], 0) });
    let begin = Instant::now();
    other.send(&data(1, &payload));
    other.acknowledged(1);
    assert!(begin.elapsed() > Duration::from_millis(500), "both share the limit: {:?}", begin.elapsed());
    // The others do not.
    for token in ["token-of-edge", "token-of-nobody", "token-of-edge"] {
        assert_eq!(post(token), (200, None), "{token}");
    }
    assert_eq!(post("token-of-someone").0, 401);
    let mut unknown = RawAgent::connect(address);
    unknown.send(&support::agent::hello_bytes(Hello { token: API_SHA256.as_bytes(), ..hello([3; 16], 0) }));
    assert_eq!(unknown.answer(FrameKind::Goaway).goaway(), Some(GoawayCode::Auth), "a hash is not a token");

    let mut thief = RawAgent::connect(address);
    thief.send(&support::agent::hello_bytes(Hello { token: b"token-of-edge", ..hello([1; 16], 0) }));
    assert_eq!(thief.answer(FrameKind::Goaway).goaway(), Some(GoawayCode::Auth), "the agent of another client");

    let (_, page) = get(address, "/metrics");
    for line in [
        "telemetryx_client_events_total{client=\"api\"} 600",
        "telemetryx_client_events_total{client=\"edge\"} 600",
        "telemetryx_events_limited_total{scope=\"client\"} 301",
        "telemetryx_events_limited_total{scope=\"server\"} 0",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
    }
    let log = server.log_with("agent disconnected by the server");
    assert!(log.contains("client=\"api\""), "{log}");
    for secret in ["token-of", API_SHA256] {
        assert!(!log.contains(secret) && !page.contains(secret), "{secret} is shown");
    }
    // The owner of the agent is not disturbed by who tried to take it over: its connection is open, and its numbers continue.
    agent.send(&data(2, &batch(vec![log_line(0)])));
    agent.acknowledged(2);
}
