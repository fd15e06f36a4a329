//! `telemetryx bench`: how fast a server takes events, how soon it acknowledges, and what that costs it.
//!
//! ```text
//!  sample ─▶ messages, encoded once ─▶ load: threads of lines, each with its talk ─▶ report
//!                                            frames │ http │ rivals        process ─┘
//! ```
//!
//! The server is asked nothing that an agent would not ask: what it spends is read from `/proc` where it runs on this
//! host. Events are counted as acknowledged; those of the warm-up, a tenth of the time, are not.

mod frames;
mod http;
mod load;
mod process;
mod progress;
mod report;
#[cfg(any(test, feature = "rivals"))]
mod rivals;
pub mod sample;
mod stream;
mod talk;

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use clap::Args;

use self::load::{Counted, Latencies, Line, LoadError, Window, drive};
use self::process::Process;
use self::progress::Progress;
use self::report::{Report, ServerCost};
use self::sample::{EVENT_BYTES_MIN, Sample};
use self::stream::Target;
use self::talk::{Message, Talk};
use super::address::Address;
use super::tls_args::TlsArgs;
use super::{Failure, SettingsArgs, print, read_token};
use crate::counted;
use crate::limits::{CLIENT_CONNECT_TIMEOUT, EVENT_BYTES_MAX, FRAME_EVENTS_MAX, PORT_DEFAULT};
use crate::wire::AckLevel;

/// Different messages: enough that no cache and no branch predictor knows them by heart …
const MESSAGES: usize = 16;
/// … and events in them, where messages are small.
const EVENTS: usize = 4_000;
/// The server's memory is looked at this often.
const SAMPLING: Duration = Duration::from_millis(50);

/// Arguments of `telemetryx bench`.
#[derive(Args)]
pub struct BenchArgs {
    #[command(flatten)]
    pub(super) options: BenchOptions,
    #[command(flatten)]
    pub(super) settings: SettingsArgs,
}

/// What is measured, and how.
#[derive(Debug, Clone, Args)]
pub struct BenchOptions {
    /// Server to send to, HOST or HOST:PORT [default: server.address]
    #[arg(long, value_name = "ADDR")]
    to: Option<Address>,
    /// File that contains the token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    tls: TlsArgs,
    /// Connections; each is a separate agent
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Encoded bytes per event; an event is a log line with four attributes
    #[arg(long, value_name = "N", default_value_t = 220, value_parser = event_bytes)]
    event_bytes: usize,
    /// Events per frame; with --http per request
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=FRAME_EVENTS_MAX as i64))]
    frame_events: u32,
    /// Events per second over all connections; 0 sends as fast as they are acknowledged
    #[arg(long, value_name = "N", default_value_t = 0)]
    rate: u64,
    /// Duration of the measurement, seconds
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    /// Acknowledge events once they are received, written, synced or delivered [default: server.ack of the server]
    #[arg(long, value_name = "LEVEL")]
    ack: Option<AckLevel>,
    /// Post JSON over HTTP, one request at a time per connection, instead of sending frames
    #[arg(long)]
    http: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// For `make bench`: send the same events to another kind of server
    #[cfg(any(test, feature = "rivals"))]
    #[arg(long, hide = true, value_enum, conflicts_with_all = ["http", "ack", "token_file"])]
    rival: Option<Rival>,
}

#[cfg(any(test, feature = "rivals"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Rival {
    /// A NATS server: one event per PUB
    Nats,
    /// A server that reads frames and does not answer
    Mute,
}

impl BenchOptions {
    fn protocol(&self) -> Protocol {
        #[cfg(any(test, feature = "rivals"))]
        if let Some(rival) = self.rival {
            return Protocol::Rival(rival);
        }
        if self.http { Protocol::Http } else { Protocol::Frames }
    }
}

/// What the messages are, and who says them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Frames,
    Http,
    #[cfg(any(test, feature = "rivals"))]
    Rival(Rival),
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Self::Frames => "frames",
            Self::Http => "http",
            #[cfg(any(test, feature = "rivals"))]
            Self::Rival(Rival::Nats) => "nats",
            #[cfg(any(test, feature = "rivals"))]
            Self::Rival(Rival::Mute) => "mute",
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum BenchError {
    #[error("the token contains a control character, which HTTP cannot send")]
    Token,
    #[error(transparent)]
    Load(#[from] LoadError),
    /// After the first message.
    #[error("{error}; {} acknowledged within {seconds:.1} s, with those of the warm-up", counted::Counted(*.events, "event"))]
    Ended { error: LoadError, events: u64, seconds: f64 },
    #[error("the system cannot provide random bytes for an agent_id: {0}")]
    Random(getrandom::Error),
    #[error(
        "nothing was acknowledged in time: --rate may be less than one message of --frame-events per second; else \
         /ready of the server says why"
    )]
    Nothing,
}

/// Measures, and prints the result.
pub(super) fn run(settings: &SettingsArgs, options: &BenchOptions) -> Result<(), Failure> {
    let token = options.token_file.as_deref().map(read_token).transpose().map_err(Failure::Failed)?;
    let to = Address::or_of_settings(options.to.as_ref(), settings, "bench --to")?;
    let address = answering(&to.resolve()?);
    let target = Target { address, host: to.host, tls: options.tls.connector()? };
    let report = measure(&target, &token.unwrap_or_default(), options);
    let report = report.map_err(|error| Failure::Failed(error.to_string()))?;
    print(&if options.json { report.json() } else { report.text() })
}

/// Of several addresses the first that takes a connection; else the first, so that the error names it.
fn answering(addresses: &[SocketAddr]) -> SocketAddr {
    let takes = |address: &&SocketAddr| TcpStream::connect_timeout(address, CLIENT_CONNECT_TIMEOUT).is_ok();
    let first = addresses.first().copied().unwrap_or(SocketAddr::from(([127, 0, 0, 1], PORT_DEFAULT)));
    if addresses.len() < 2 { first } else { addresses.iter().find(takes).copied().unwrap_or(first) }
}

fn measure(target: &Target, token: &[u8], options: &BenchOptions) -> Result<Report, BenchError> {
    let address = target.address;
    let protocol = options.protocol();
    let server = Process::listening_on(address).filter(|_| is_this_host(address));
    let resident_before = server.and_then(|server| server.resident_bytes());
    let mut groups = connect(target, protocol, token, options)?;

    let seconds = Duration::from_secs(options.seconds.into());
    let begin = Instant::now() + seconds / 10;
    let window = Window { begin, end: begin + seconds };
    let counted = Counted::default();
    let progress = Progress::new(&window);
    let started = Instant::now();
    let acknowledged = || counted.messages.load(Ordering::Relaxed) * u64::from(options.frame_events);
    for (index, line) in groups.iter_mut().flatten().enumerate() {
        line.start_at(Instant::now() + interval(options) * index as u32 / options.connections);
    }
    thread::scope(|scope| {
        let threads: Vec<_> = groups.iter_mut().map(|lines| scope.spawn(|| drive(lines, &window, &counted))).collect();
        let failed = || threads.iter().any(|thread| thread.is_finished());
        let show = || progress.show(acknowledged());
        while Instant::now() < window.begin && !failed() {
            sleep_until((Instant::now() + SAMPLING).min(window.begin), failed);
            show();
        }
        let first = Meter::read(server, &counted);
        let mut resident_most = resident_before;
        while Instant::now() < window.end && !failed() {
            sleep_until((Instant::now() + SAMPLING).min(window.end), failed);
            resident_most = resident_most.max(server.and_then(|server| server.resident_bytes()));
            show();
        }
        let last = Meter::read(server, &counted);
        progress.clear();

        let latencies = joined(threads, |error| {
            let (events, seconds) = (acknowledged(), (last.at - started).as_secs_f64());
            BenchError::Ended { error, events, seconds }
        })?;
        if last.messages == first.messages {
            return Err(BenchError::Nothing);
        }
        let events = (last.messages - first.messages) * u64::from(options.frame_events);
        Ok(Report {
            protocol: protocol.name(),
            connections: options.connections,
            event_bytes: options.event_bytes,
            frame_events: options.frame_events,
            seconds: (last.at - first.at).as_secs_f64(),
            events,
            bytes: last.bytes - first.bytes,
            refused_messages: counted.refused.load(Ordering::Relaxed),
            unanswered_messages: latencies.unanswered,
            latency_micros: latencies.micros,
            sender_cpu_seconds: last.sender_cpu.saturating_sub(first.sender_cpu).as_secs_f64(),
            server: server.and_then(|server| {
                Some(ServerCost {
                    pid: server.pid,
                    cpu_seconds: last.server_cpu?.saturating_sub(first.server_cpu?).as_secs_f64(),
                    resident_bytes_before: resident_before?,
                    resident_bytes_most: resident_most?,
                })
            }),
        })
    })
}

/// What the threads return, once all have ended; `failed` explains the first error.
fn joined(
    threads: Vec<ScopedJoinHandle<'_, Result<Latencies, LoadError>>>,
    failed: impl Fn(LoadError) -> BenchError,
) -> Result<Latencies, BenchError> {
    let mut latencies = Latencies::new();
    for thread in threads {
        let of_thread = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).map_err(&failed)?;
        latencies.micros += of_thread.micros;
        latencies.unanswered += of_thread.unanswered;
    }
    Ok(latencies)
}

/// Messages, encoded once, and lines that send them, in a group for each thread.
fn connect(
    target: &Target,
    protocol: Protocol,
    token: &[u8],
    options: &BenchOptions,
) -> Result<Vec<Vec<Line>>, BenchError> {
    let address = target.address;
    if protocol == Protocol::Http && token.iter().any(u8::is_ascii_control) {
        return Err(BenchError::Token);
    }
    let mut sample = Sample::new(options.event_bytes);
    let frame_events = options.frame_events as usize;
    let host = address.to_string();
    let messages: Arc<[Message]> = (0..MESSAGES.max(EVENTS / frame_events))
        .map(|_| {
            let batch = sample.batch(frame_events);
            match protocol {
                Protocol::Frames => frames::Frames::message(&batch),
                Protocol::Http => http::Http::message(&batch, &host, token, options.ack),
                #[cfg(any(test, feature = "rivals"))]
                Protocol::Rival(Rival::Mute) => frames::Frames::message(&batch),
                #[cfg(any(test, feature = "rivals"))]
                Protocol::Rival(Rival::Nats) => rivals::Nats::message(&batch),
            }
        })
        .collect();

    // The server has half of this host's CPUs, where it runs here.
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let threads = if is_this_host(address) { cpus / 2 } else { cpus }.clamp(1, options.connections as usize);
    let mut groups: Vec<Vec<Line>> = (0..threads).map(|_| Vec::new()).collect();
    for (_, group) in (0..options.connections).zip((0..threads).cycle()) {
        let talk: Box<dyn Talk> = match protocol {
            Protocol::Frames => Box::new(frames::Frames::new(agent_id()?, token, options.ack)),
            Protocol::Http => Box::new(http::Http::default()),
            #[cfg(any(test, feature = "rivals"))]
            Protocol::Rival(Rival::Nats) => Box::new(rivals::Nats::new()),
            #[cfg(any(test, feature = "rivals"))]
            Protocol::Rival(Rival::Mute) => Box::new(rivals::Mute(frames::Frames::new(agent_id()?, &[], None))),
        };
        let interval = (options.rate > 0).then(|| interval(options));
        groups[group].push(Line::open(target, talk, messages.clone(), interval)?);
    }
    Ok(groups)
}

fn agent_id() -> Result<[u8; 16], BenchError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(BenchError::Random)?;
    Ok(id)
}

/// Between two messages of one connection; zero without a rate.
fn interval(options: &BenchOptions) -> Duration {
    match options.rate {
        0 => Duration::ZERO,
        rate => {
            let events = u64::from(options.connections) * u64::from(options.frame_events);
            Duration::from_secs_f64(events as f64 / rate as f64)
        }
    }
}

/// What has been counted and spent so far.
struct Meter {
    at: Instant,
    messages: u64,
    bytes: u64,
    server_cpu: Option<Duration>,
    sender_cpu: Duration,
}

impl Meter {
    fn read(server: Option<Process>, counted: &Counted) -> Self {
        Self {
            at: Instant::now(),
            messages: counted.messages.load(Ordering::Relaxed),
            bytes: counted.bytes.load(Ordering::Relaxed),
            server_cpu: server.and_then(|server| server.cpu_time()),
            sender_cpu: Process::this().cpu_time().unwrap_or_default(),
        }
    }
}

/// Sleeps until `until`, or until `failed`: a thread that ends early has failed.
fn sleep_until(until: Instant, failed: impl Fn() -> bool) {
    while let left = until.saturating_duration_since(Instant::now())
        && !left.is_zero()
        && !failed()
    {
        thread::sleep(left.min(SAMPLING));
    }
}

/// Whether what listens there runs here: the way to it begins at the same address.
fn is_this_host(address: SocketAddr) -> bool {
    let here: SocketAddr = if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let route = std::net::UdpSocket::bind(here).and_then(|socket| {
        // Sends nothing: the system picks the address that it would send from.
        socket.connect(address)?;
        socket.local_addr()
    });
    route.is_ok_and(|local| local.ip() == address.ip())
}

/// What `--event-bytes` may be.
fn event_bytes(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(bytes @ EVENT_BYTES_MIN..=EVENT_BYTES_LIMIT) => Ok(bytes),
        _ => Err(format!("expected {EVENT_BYTES_MIN} to {EVENT_BYTES_LIMIT} bytes")),
    }
}

/// The longest line fits into a body.
const EVENT_BYTES_LIMIT: usize = EVENT_BYTES_MAX / 2;

#[cfg(test)]
mod tests;
