//! The event loops: what each owns, what they share, and how they run and end together.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Instant, SystemTime};

use super::{ServerError, system};
use crate::batch::pool::Pool;
use crate::batch::shares::Shares;
use crate::config::tls::ClientAuth;
use crate::config::{self, Config};
use crate::descriptors;
use crate::glob::Glob;
use crate::http;
use crate::ids::{LoopId, Ticket};
use crate::limits::{HEADER_BYTES, KEEPALIVE, RING_SLOTS, WINDOW_BYTES, WINDOW_FRAMES};
use crate::metrics::Metrics;
use crate::net::{
    ConnectionLimits, Encryption, Ended, EventLoop, Ingress, Intake, LogLines, LoopError, LoopState, Loops, Mailbox,
    Newest, PagesAccess, Parts, Plaintext, Policy, Shared, SinkReport, StatusSources,
};
use crate::pipeline::group_commit::LoopEnd;
use crate::pipeline::health::LogHealth;
use crate::pipeline::ring::{LetGo, SlotReceiver, SlotSender, ring};
use crate::pipeline::watermark::Watermarks;
use crate::random::Random;
use crate::rate::Limit;
use crate::router::{Router, SinkProgress};
use crate::session::marks::Marks;
use crate::session::rates::{RateSettings, Rates};
use crate::session::server::SessionSettings;
use crate::session::tokens::Tokens;
use crate::status;
use crate::tls::Acceptor;
use crate::wire::AckLevel;

/// What one loop owns before it runs.
pub(super) struct Owned {
    parts: Parts,
    pool: Pool,
    ring: SlotSender,
    /// How far the events of this loop are.
    pub watermarks: Arc<Watermarks>,
    /// The last ticket of this loop whose sender keeps no copy.
    pub let_go: LetGo,
}

/// What each loop owns, and the log thread's ends of their rings.
pub(super) fn divide(config: &Config, parts: Vec<Parts>) -> (Vec<Owned>, Vec<SlotReceiver>) {
    let server = &config.server;
    let share_bytes = server.buffer_bytes / parts.len().max(1);
    let own = |parts: Parts| {
        let (ring, receiver) = ring(RING_SLOTS, Box::new(parts.wake()));
        let shares = Shares::new(share_bytes, server.max_body_bytes, server.max_frame_bytes);
        let pool = Pool::divided(shares, Box::new(parts.wake()));
        let let_go = ring.let_go();
        (Owned { parts, pool, ring, watermarks: Arc::default(), let_go }, receiver)
    };
    parts.into_iter().map(own).unzip()
}

impl Owned {
    /// What the log thread has of this loop.
    pub(super) fn log_end(&self) -> LoopEnd {
        LoopEnd { watermarks: self.watermarks.clone(), wake: Box::new(self.parts.wake()) }
    }

    /// Sets the thread that slots of this loop wake.
    pub(super) fn set_log_thread(&mut self, thread: &thread::Thread) {
        self.ring.set_log_thread(thread.clone());
    }

    /// What the other loops see of this one.
    pub(super) fn mailbox(&self) -> Mailbox {
        Mailbox::new(self.parts.wake())
    }

    /// What the loop will show of itself.
    pub(super) fn state(&self) -> LoopState {
        LoopState::new(self.pool.gauge(), self.ring.gauge())
    }

    /// The loop itself. `listener`: of the loop that accepts for all.
    pub(super) fn event_loop(
        self,
        config: &Config,
        shared: Arc<Shared>,
        event_loop: LoopId,
        (listener, last_ticket, random): (Option<std::net::TcpListener>, u64, Random),
    ) -> Result<EventLoop, LoopError> {
        let intake = Intake::new(self.pool, HEADER_BYTES + config.server.max_frame_bytes);
        let ingress = Ingress::new(shared, event_loop, intake, self.ring, random, last_ticket);
        EventLoop::new(self.parts, listener, ingress, config.server.drain_timeout)
    }
}

/// What becomes part of [`Shared`] as it is.
pub(super) struct Sharing {
    /// Sent in WELCOME.
    pub server_id: [u8; 16],
    /// Who may send events, and who may read pages.
    pub policy: Policy,
    /// The marks of all agents.
    pub marks: Marks,
    /// The metrics of the server.
    pub metrics: Arc<Metrics>,
    /// State of the log.
    pub health: Arc<LogHealth>,
    /// Called when the end begins.
    pub on_end: Box<dyn Fn() + Send + Sync>,
    /// Whether SIGHUP asks for a reload.
    pub hangup_reloads: bool,
    /// Called for a signal that asks for a reload.
    pub on_reload: Box<dyn Fn() + Send + Sync>,
}

impl Sharing {
    /// What the loops share. `owned` and `routers` are those of this server.
    pub(super) fn share(self, config: &Config, owned: &[Owned], routers: &[Router]) -> Arc<Shared> {
        let has_required_sinks = routers.iter().any(|router| router.progress().required());
        Arc::new(Shared {
            settings: session_settings(config, self.server_id, has_required_sinks),
            http: http_settings(config),
            syslog: config.syslog.enabled.then(|| config.syslog.allow.clone()),
            limits: connection_limits(config, owned.len()),
            status: status_sources(config, routers),
            policy: Newest::new(self.policy),
            marks: Mutex::new(self.marks),
            metrics: self.metrics,
            watermarks: owned.iter().map(|own| own.watermarks.clone()).collect(),
            health: self.health,
            loops: Loops::new(owned.iter().map(Owned::mailbox).collect()),
            states: owned.iter().map(Owned::state).collect(),
            log_lines: LogLines::default(),
            sinks: sink_reports(routers),
            delivered_position: delivered_position(routers),
            on_end: self.on_end,
            hangup_reloads: self.hangup_reloads,
            on_reload: self.on_reload,
        })
    }
}

/// The loops, each on what it owns; the first one accepts. `restored`: the ticket that stands for what was in the log at start.
pub(super) fn start(
    config: &Config,
    owned: Vec<Owned>,
    shared: &Arc<Shared>,
    (listener, restored): (std::net::TcpListener, Ticket),
    random: &mut Random,
) -> Result<Vec<EventLoop>, LoopError> {
    let mut listener = Some(listener);
    let mut event_loops = Vec::with_capacity(owned.len());
    for (index, own) in owned.into_iter().enumerate() {
        let event_loop = LoopId(index as u8);
        let last_ticket = if event_loop == restored.event_loop { restored.number } else { 0 };
        let rest = (listener.take(), last_ticket, Random::seeded(random.next_u64()));
        event_loops.push(own.event_loop(config, shared.clone(), event_loop, rest)?);
    }
    Ok(event_loops)
}

/// What sessions and requests are held to.
fn session_settings(config: &Config, server_id: [u8; 16], has_required_sinks: bool) -> SessionSettings {
    SessionSettings {
        server_id,
        max_frame_bytes: config.server.max_frame_bytes as u32,
        window_bytes: WINDOW_BYTES,
        window_frames: WINDOW_FRAMES,
        keepalive: KEEPALIVE,
        default_ack: config.server.ack,
        highest_ack: match (config.wal.enabled, has_required_sinks) {
            (false, _) => AckLevel::Received,
            (true, false) => AckLevel::Synced,
            (true, true) => AckLevel::Delivered,
        },
    }
}

/// Who may send and how much, and who may read pages, at start. `tokens`, `pages` and `acceptor` have read their files.
pub(super) fn policy(config: &Config, tokens: Tokens, pages: Tokens, acceptor: Option<Arc<Acceptor>>) -> Policy {
    let rates = Rates::new(rate_settings(config, &tokens), Instant::now());
    let (pages, logged_agents) = (PagesAccess { token: pages }, logged_agents(config));
    Policy { encryption: encryption(config, acceptor), rates, tokens, pages, logged_agents }
}

/// The agents of `log.agents`, which was checked.
pub(super) fn logged_agents(config: &Config) -> Vec<Glob> {
    config::log_filter::agents(&config.log.agents).unwrap_or_default()
}

/// TLS as it is set; `acceptor` has read its files.
pub(super) fn encryption(config: &Config, acceptor: Option<Arc<Acceptor>>) -> Encryption {
    Encryption {
        acceptor,
        requires_certificate: config.tls.client_auth == ClientAuth::Require,
        plaintext: match config.tls.plaintext {
            config::tls::Plaintext::Allow => Plaintext::Allow,
            config::tls::Plaintext::Loopback => Plaintext::Loopback,
            config::tls::Plaintext::Refuse => Plaintext::Refuse,
        },
    }
}

fn http_settings(config: &Config) -> http::Settings {
    http::Settings {
        max_body_bytes: config.server.max_body_bytes,
        max_frame_bytes: config.server.max_frame_bytes,
        idle_timeout: config.server.http_idle_timeout,
        unknown_keys: config.http.unknown_keys,
    }
}

/// The limits, those of clients by the ids that `tokens` has given them.
pub(super) fn rate_settings(config: &Config, tokens: &Tokens) -> RateSettings {
    let limits = config.limits;
    let of_client = |name: &String| {
        let client = config.clients.iter().find(|client| client.name == *name)?;
        Limit::new(client.events_per_second, client.bytes_per_second, client.burst)
    };
    RateSettings {
        server: Limit::new(limits.events_per_second, limits.bytes_per_second, limits.burst),
        agent: Limit::new(limits.agent_events_per_second, limits.agent_bytes_per_second, limits.burst),
        clients: tokens.clients().iter().map(of_client).collect(),
    }
}

fn connection_limits(config: &Config, event_loops: usize) -> ConnectionLimits {
    let server = &config.server;
    let users = descriptors::Users { sinks: config.sinks.len(), event_loops };
    ConnectionLimits {
        lingering: descriptors::lingering_beside(server.max_connections, users),
        max_connections: server.max_connections,
        max_unauthenticated: server.max_unauthenticated,
    }
}

/// How the sinks are doing, for `/ready` and `/metrics`.
fn sink_reports(routers: &[Router]) -> Box<dyn Fn() -> Vec<SinkReport> + Send + Sync> {
    let progress: Vec<_> = routers.iter().map(|router| router.progress().clone()).collect();
    Box::new(move || progress.iter().map(|sink| sink_report(sink)).collect())
}

/// The last position that every required sink has passed.
fn delivered_position(routers: &[Router]) -> Box<dyn Fn() -> u64 + Send + Sync> {
    let required = routers.iter().map(Router::progress).filter(|progress| progress.required());
    let required: Vec<_> = required.cloned().collect();
    Box::new(move || required.iter().map(|sink| sink.position()).min().unwrap_or(u64::MAX))
}

/// How a sink is doing now.
fn sink_report(progress: &SinkProgress) -> SinkReport {
    let wall = SystemTime::now();
    let state = progress.state(Instant::now(), wall);
    SinkReport {
        name: progress.name().to_owned(),
        state: state.name(),
        is_up: state.is_up(),
        oldest: progress.oldest_age(wall),
        is_required: progress.required(),
        max_age: progress.max_age(),
    }
}

/// What only `/status.json` shows, and the names under which it is shown.
fn status_sources(config: &Config, routers: &[Router]) -> StatusSources {
    let sinks = config.sinks.iter().zip(routers);
    let sinks: Vec<_> = sinks.map(|(sink, router)| (sink.kind, router.progress().clone())).collect();
    StatusSources {
        hosts: config.http.hosts.0.clone(),
        sinks: Box::new(move |now| sinks.iter().map(|(kind, sink)| shown_sink(kind, sink, now)).collect()),
        ..StatusSources::default()
    }
}

/// A sink as `/status.json` has it, without what is counted.
fn shown_sink(kind: &str, progress: &SinkProgress, now: Instant) -> status::Sink {
    let SinkReport { name, state, is_up, oldest, is_required, .. } = sink_report(progress);
    let mut sink = status::Sink {
        name,
        kind: kind.to_owned(),
        state: state.to_owned(),
        is_up,
        is_required,
        position: progress.position(),
        oldest_seconds: oldest.as_secs_f64(),
        ..status::Sink::default()
    };
    progress.notes().fill(&mut sink, now);
    sink
}

/// How the loops ended.
pub(super) struct End {
    /// The worst end of any loop.
    pub ended: Ended,
    /// When the drain must be over; `None`: it never began.
    pub deadline: Option<Instant>,
}

/// Runs all loops, the first one on this thread, until the last has ended. Their rings end with them.
pub(super) fn run(event_loops: Vec<EventLoop>) -> Result<End, ServerError> {
    let mut event_loops = event_loops.into_iter();
    let Some(mut first) = event_loops.next() else { unreachable!("a server has an event loop") };
    let mut others = Vec::new();
    for (index, mut event_loop) in event_loops.enumerate() {
        let name = format!("loop {}", index + 1);
        let run = move || {
            let ended = event_loop.run();
            if let Err(error) = &ended {
                tracing::error!(%error, event_loop = index + 1, "an event loop failed, the server stops");
                event_loop.tell_others_to_drain();
            }
            ended
        };
        others.push(thread::Builder::new().name(name).spawn(run).map_err(system("a thread for an event loop"))?);
    }
    let mut ended = first.run();
    let deadline = first.drain_deadline();
    if ended.is_err() {
        first.tell_others_to_drain();
    }
    drop(first);
    for other in others {
        // A thread that panics aborts the process.
        if let Ok(other) = other.join() {
            ended = both(ended, other);
        }
    }
    Ok(End { ended: ended?, deadline })
}

/// The worse of two ends.
fn both(one: Result<Ended, LoopError>, other: Result<Ended, LoopError>) -> Result<Ended, LoopError> {
    Ok(match (one?, other?) {
        (Ended::LogFailed, _) | (_, Ended::LogFailed) => Ended::LogFailed,
        (Ended::TimedOut { connections: one }, Ended::TimedOut { connections: other }) => {
            Ended::TimedOut { connections: one + other }
        }
        (Ended::TimedOut { connections }, _) | (_, Ended::TimedOut { connections }) => Ended::TimedOut { connections },
        (Ended::Drained, Ended::Drained) => Ended::Drained,
    })
}
