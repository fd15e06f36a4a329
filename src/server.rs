//! The server, put together: threads, queues and the order in which they start and end.
//!
//! ```text
//!  start  bind ─▶ lock ─▶ log recovers ─▶ routers connect ─▶ log thread ─▶ listen ─▶ event loop
//!  end    signal ─▶ event loop drains ─▶ ring ends ─▶ log thread ends ─▶ queues end ─▶ routers deliver the rest
//! ```

pub mod access;
mod end;

use std::fs::{self, File, TryLockError};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::config::{Config, ConfigError};
use crate::descriptors;
use crate::http;
use crate::ids::new_uuid;
use crate::limits::{
    HEADER_BYTES, KEEPALIVE, RING_SLOTS, WAL_POSITION_JUMP, WAL_UNKNOWN_JUMP, WINDOW_BYTES, WINDOW_FRAMES,
};
use crate::metrics::Metrics;
use crate::net::{self, ConnectionLimits, Door, Ended, EventLoop, Intake, LoopError, SinkReport};
use crate::pipeline::batch::Batch;
use crate::pipeline::commit::{self, RefusedPayload};
use crate::pipeline::group_commit::{GroupCommit, Holder, Unwritten};
use crate::pipeline::health::LogHealth;
use crate::pipeline::pool::Pool;
use crate::pipeline::ring::ring;
use crate::pipeline::shares::Shares;
use crate::pipeline::watermark::Watermarks;
use crate::random::Random;
use crate::router::dead::{DeadLetters, INGEST, RefusedFrame};
use crate::router::removed::{Removed, removed};
use crate::router::{Drain, Router, RouterQueue, Shared, SinkProgress};
use crate::session::marks::{Marks, Restored};
use crate::session::server::SessionSettings;
use crate::sink::{self, Identity, SinkSettings};
use crate::time::now_unix_nano;
use crate::wal::{self, DirStorage, Log, Writer};
use crate::wire::AckLevel;

/// The port opens once every sink has answered, or after this time: a dead sink must not keep agents out.
const FIRST_CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// As a shell reports a process that SIGINT ended.
const EXIT_SECOND_SIGNAL: i32 = 130;
/// All routers together may hold one part in this many of the buffer pool.
const ROUTERS_SHARE: usize = 4;
/// The ticket of all that was in the log before this start.
const RESTORED_TICKET: u64 = 1;
/// Once the drain is over the log thread ends, unless its disk holds it.
const LOG_END_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause before dead letters that could not be written are written again.
const DEAD_LETTERS_RETRY: Duration = Duration::from_secs(1);

/// Why the server did not start, or could not go on. Exit code 1; 78 for [`ServerError::Settings`].
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("data directory {path}: {error}; set data_dir to a folder that this user may write")]
    DataDir { path: PathBuf, error: io::Error },
    #[error("data directory {0} is in use by another telemetryx: stop it, or set another data_dir")]
    Locked(PathBuf),
    /// A file that the settings name.
    #[error(transparent)]
    Settings(#[from] ConfigError),
    #[error("cannot listen on {address}: {}", net::bind_problem(error))]
    Listen { address: SocketAddr, error: io::Error },
    #[error("the system gives no {what}: {error}")]
    System { what: &'static str, error: io::Error },
    #[error(transparent)]
    Loop(#[from] LoopError),
    #[error(transparent)]
    OpenLog(#[from] wal::OpenError),
    #[error("the log failed: {0}")]
    Log(String),
    #[error(
        "shut down after server.drain_timeout with at least {events} events undelivered; without a log these are lost"
    )]
    DrainTimeout { events: u64 },
    #[error(
        "shut down while the log took nothing: {events} events that were acknowledged as `received` were in memory only \
         and are lost; make space (disk, wal.max_bytes, or the sink that holds the log) before the next stop"
    )]
    NotKept { events: u64 },
    #[error(
        "shut down while the log did not answer: events acknowledged as `received` may be lost; see the disk of data_dir"
    )]
    LogStuck,
}

impl ServerError {
    /// `events`: acknowledged as *received*, and not in the log.
    fn log_failed(health: &LogHealth, events: u64) -> Self {
        let reason = health.failure().unwrap_or_default();
        Self::Log(match events {
            0 => reason.to_owned(),
            _ => format!("{reason}; {events} events that were acknowledged as `received` may be lost"),
        })
    }
}

/// Runs the server until a signal ends it. `started` is called once with the address that it listens on.
pub fn run(config: &Config, started: impl FnOnce(SocketAddr)) -> Result<(), ServerError> {
    let server = &config.server;
    let tokens = access::read_tokens(server)?;
    let cannot_listen = |error| ServerError::Listen { address: server.address, error };
    let bound = net::bind(server.address).map_err(cannot_listen);
    // A start that cannot listen creates no data directory. Where there is one, another server in it is the better reason.
    let bound = if config.data_dir.exists() { bound } else { Ok(bound?) };
    let _lock = lock(&config.data_dir)?;
    let bound = bound?;
    let system = |what| move |error| ServerError::System { what, error };
    let mut random = Random::from_system();
    let metrics =
        Metrics::new().map_err(|error| ServerError::System { what: "metrics", error: io::Error::other(error) })?;
    let Keeping { server_id, log, marks } = open_log(config, &mut random)?;
    let log_end = log.as_ref().map_or(u64::MAX, |(_, log)| log.end());
    let parts = net::Parts::new()?;
    exit_on_second_signal().map_err(system("signal slot"))?;
    let drain = Arc::new(Drain::default());

    let shared = Shared {
        identity: &Identity { server_id, owner: new_uuid(&mut random), log_end },
        data_dir: &config.data_dir,
        log: log.as_ref().map(|(_, log)| log.clone()),
        share_bytes: config.server.buffer_bytes / ROUTERS_SHARE / config.sinks.len().max(1),
        metrics: &metrics,
        drain: drain.clone(),
        notify: Arc::new(parts.wake()),
    };
    let mut queues = Vec::new();
    let mut routers: Vec<Router> = Vec::new();
    for settings in &config.sinks {
        let sink = sink::open(&settings.name, &settings.kind, shared.identity);
        let (queue, router) = Router::start(settings, sink, &shared).map_err(system("thread for a router"))?;
        queues.push(queue);
        routers.push(router);
    }
    let until = Instant::now() + FIRST_CONNECT_TIMEOUT;
    for router in &routers {
        if !router.progress().wait_for_first_connect(until) {
            tracing::warn!(sink = router.progress().name(), "the sink has not answered yet; events wait for it");
        }
    }

    let watermarks = Arc::new(Watermarks::default());
    let health = Arc::new(LogHealth::default());
    let group_commit = match log {
        Some((mut writer, _)) => {
            go_on_behind_sinks(&mut writer, &routers)?;
            queues.iter().for_each(|queue| queue.skipped_to(writer.next_position()));
            // All that was in the log at start: what is restored from it waits for this ticket.
            watermarks.advance(AckLevel::Received, RESTORED_TICKET);
            watermarks.advance(AckLevel::Written, RESTORED_TICKET);
            watermarks.synced(RESTORED_TICKET, writer.next_position());
            Some(GroupCommit {
                writer,
                holders: holders(config, &routers),
                watermarks: watermarks.clone(),
                health: health.clone(),
                metrics: metrics.clone(),
                wake: Box::new(parts.wake()),
                sleep: sleep_until_drained(&drain),
            })
        }
        None => None,
    };
    let last_ticket = if group_commit.is_some() { RESTORED_TICKET } else { 0 };
    let (mut sender, receiver) = ring(RING_SLOTS, Box::new(parts.wake()));
    let let_go = sender.let_go();
    let letters = DeadLetters::new(&config.data_dir, INGEST, &metrics);
    let events_dead = metrics.events_dead(INGEST);
    let log_drain = drain.clone();
    let (log_ends, log_ended) = mpsc::sync_channel(1);
    let log_thread = thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || {
            let keep_refused = |refused: &[RefusedPayload]| {
                letters.append(refused.iter().map(letter))?;
                events_dead.inc_by(refused.iter().map(|payload| u64::from(payload.events)).sum());
                Ok(())
            };
            let offer = |batch: &Arc<Batch>| queues.iter().for_each(|queue: &RouterQueue| queue.offer(batch));
            let unwritten = match group_commit {
                Some(group_commit) => group_commit.run(receiver, keep_refused, offer),
                None => {
                    commit::run(receiver, |refused| keep(refused, keep_refused, &log_drain), offer);
                    Unwritten::default()
                }
            };
            // Nobody listens where the loop has failed.
            let _ = log_ends.send(unwritten);
        })
        .map_err(system("thread for the log"))?;
    sender.set_log_thread(log_thread.thread().clone());

    let listener = bound.listen().map_err(cannot_listen)?;
    let address = listener.local_addr().map_err(system("address"))?;
    if let Some(warning) = access::warning(address, &tokens, server) {
        tracing::warn!(%address, "{warning}");
    }
    let progress: Vec<_> = routers.iter().map(|router| router.progress().clone()).collect();
    let required: Vec<_> = progress.iter().filter(|progress| progress.required()).cloned().collect();
    let settings = SessionSettings {
        server_id,
        max_frame_bytes: server.max_frame_bytes as u32,
        window_bytes: WINDOW_BYTES,
        window_frames: WINDOW_FRAMES,
        keepalive: KEEPALIVE,
        default_ack: server.ack,
        highest_ack: match (config.wal.enabled, required.is_empty()) {
            (false, _) => AckLevel::Received,
            (true, true) => AckLevel::Synced,
            (true, false) => AckLevel::Delivered,
        },
    };
    metrics.wal_bytes_max.set(if config.wal.enabled { config.wal.max_bytes.cast_signed() } else { 0 });
    let shares = Shares::new(server.buffer_bytes, server.max_body_bytes, server.max_frame_bytes);
    let pool = Pool::divided(shares, Box::new(parts.wake()));
    let mut door = Door::new(
        settings,
        http::Settings {
            max_body_bytes: server.max_body_bytes,
            max_frame_bytes: server.max_frame_bytes,
            idle_timeout: server.http_idle_timeout,
        },
        Intake::new(pool, HEADER_BYTES + server.max_frame_bytes),
        sender,
        marks,
        metrics,
        random,
    );
    door.tokens = tokens;
    door.watermarks = watermarks.clone();
    door.health = health.clone();
    door.last_ticket = last_ticket;
    door.sinks = Box::new(move || progress.iter().map(|sink| sink_report(sink)).collect());
    door.delivered_position = Box::new(move || required.iter().map(|sink| sink.position()).min().unwrap_or(u64::MAX));
    let connection_limits = ConnectionLimits {
        lingering: descriptors::lingering_beside(server.max_connections, config.sinks.len()),
        max_connections: server.max_connections,
        max_unauthenticated: server.max_unauthenticated,
    };
    let mut event_loop = EventLoop::new(parts, listener, door, connection_limits, server.drain_timeout)?;
    started(address);

    let ended = event_loop.run()?;
    if health.failure().is_some() {
        let unwritten = log_ended.recv_timeout(LOG_END_TIMEOUT).unwrap_or_default();
        return Err(ServerError::log_failed(&health, unwritten.let_go_events));
    }
    // The loop leaves the rest of the drain time to the routers; they get at least a moment.
    let deadline =
        event_loop.drain_deadline().unwrap_or_else(Instant::now).max(Instant::now() + Duration::from_millis(200));
    drop(event_loop);
    drain.begin(deadline);
    let mut delivered = true;
    for router in &routers {
        // All of them are waited for, also behind one that has not ended.
        delivered &= router.wait(deadline);
    }
    let events: u64 = routers.iter().map(|router| router.progress().owed_events()).sum();
    if let Ended::TimedOut { connections } = ended {
        tracing::warn!(connections, "cut after server.drain_timeout");
    }
    if config.wal.enabled {
        // What was acknowledged is in the log, delivered or not.
        let promised = let_go.ticket() > watermarks.get(AckLevel::Written);
        // Space may return until the drain is over; for events that nobody was promised, that is not waited for.
        let log_deadline = if promised { deadline.saturating_duration_since(Instant::now()) } else { Duration::ZERO };
        let unwritten = match log_ended.recv_timeout(log_deadline + LOG_END_TIMEOUT) {
            Ok(unwritten) if health.failure().is_some() => {
                return Err(ServerError::log_failed(&health, unwritten.let_go_events));
            }
            Ok(Unwritten { let_go_events: events @ 1.., .. }) => return Err(ServerError::NotKept { events }),
            Ok(unwritten) => Some(unwritten),
            Err(_) if promised && let_go.ticket() > watermarks.get(AckLevel::Written) => {
                return Err(ServerError::LogStuck);
            }
            Err(_) => None,
        };
        end::report(unwritten.as_ref(), events);
        return Ok(());
    }
    // A router that is still trying to connect, with nothing to deliver, loses nothing.
    if events > 0 || (!delivered && !log_thread.is_finished()) {
        return Err(ServerError::DrainTimeout { events });
    }
    tracing::info!("shut down, everything delivered");
    Ok(())
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
    }
}

/// Where the server stands with its log.
struct Keeping {
    server_id: [u8; 16],
    /// `None`: there is none.
    log: Option<(Writer, Arc<Log>)>,
    marks: Marks,
}

/// Opens the log and reads what it knows of agents.
fn open_log(config: &Config, random: &mut Random) -> Result<Keeping, ServerError> {
    let server = &config.server;
    let mut marks = Marks::new(server.max_agents, server.dedupe_retention);
    if !config.wal.enabled {
        return Ok(Keeping { server_id: new_uuid(random), log: None, marks });
    }
    let settings = wal::Settings {
        dir: config.data_dir.join("wal"),
        segment_bytes: config.wal.segment_bytes,
        max_bytes: config.wal.max_bytes,
        keep: config.wal.keep,
        max_agents: server.max_agents,
        dedupe_retention: server.dedupe_retention,
    };
    let now_unix_nano = now_unix_nano();
    let storage = Arc::new(
        DirStorage::create(&settings.dir)
            .map_err(|error| ServerError::DataDir { path: settings.dir.clone(), error })?,
    );
    let opened = wal::open(&settings, storage, random, now_unix_nano)?;
    let now = Instant::now();
    for mark in &opened.marks {
        let restored = Restored {
            agent_id: mark.agent_id,
            epoch: mark.epoch,
            last_seq: mark.last_seq,
            last_crc: mark.last_crc,
            has_frames: mark.has_frames,
            age: Duration::from_nanos(now_unix_nano.saturating_sub(mark.last_seen_unix_nano)),
        };
        marks.restore(restored, RESTORED_TICKET, now);
    }
    let (oldest_position, next_position) = (opened.log.oldest(), opened.log.end());
    if opened.report.is_clean() {
        tracing::info!(agents = marks.len(), oldest_position, next_position, "log opened: {}", opened.report);
    } else {
        tracing::warn!(agents = marks.len(), oldest_position, next_position, "log opened: {}", opened.report);
    }
    warn_of_removed_sinks(config, &opened.server_id, oldest_position, next_position);
    Ok(Keeping { server_id: opened.server_id, log: Some((opened.writer, opened.log)), marks })
}

/// The log keeps nothing for a sink that is not in the settings.
fn warn_of_removed_sinks(config: &Config, server_id: &[u8; 16], oldest: u64, next: u64) {
    let configured: Vec<&str> = config.sinks.iter().map(|sink| sink.name.as_str()).collect();
    for Removed { name, events } in removed(&config.data_dir, server_id, &configured, oldest, next) {
        tracing::warn!(
            sink = name,
            events,
            "a sink that is not in the settings has not taken events that the log still has, and the log does not keep them \
             for it: add the sink again, or remove its file in data_dir/positions"
        );
    }
}

/// A log that ends before what a sink holds of it is an older copy: no position may be given out a second time. A sink
/// that has not said what it holds may hold more; a log that never had an event is not known to any.
fn go_on_behind_sinks(writer: &mut Writer, routers: &[Router]) -> Result<(), ServerError> {
    let next = writer.next_position();
    // In this order: who is placed by now has also said how far ahead it is.
    let all_placed = routers.iter().all(|router| router.progress().is_placed());
    let ahead = routers.iter().map(|router| router.progress().ahead()).max().unwrap_or_default();
    let mut position = if ahead >= next { ahead + WAL_POSITION_JUMP } else { next };
    if next > 1 && !all_placed {
        position = position.max(next + WAL_UNKNOWN_JUMP);
    }
    if position > next {
        tracing::info!(
            next_position = position,
            "positions are left out: a sink has not said yet what it holds, or holds more than this log"
        );
    }
    writer.skip_to(position).map_err(|failure| ServerError::Log(failure.to_string()))
}

/// For whom the log keeps events.
fn holders(config: &Config, routers: &[Router]) -> Vec<Box<dyn Holder>> {
    struct SinkHolder {
        progress: Arc<SinkProgress>,
        drops_oldest: bool,
    }
    impl Holder for SinkHolder {
        fn position(&self) -> u64 {
            self.progress.position()
        }

        fn drops_oldest(&self) -> bool {
            self.drops_oldest
        }

        fn name(&self) -> &str {
            self.progress.name()
        }
    }
    let holder = |(settings, router): (&SinkSettings, &Router)| {
        let progress = router.progress().clone();
        Box::new(SinkHolder { progress, drops_oldest: settings.drops_oldest }) as Box<dyn Holder>
    };
    config.sinks.iter().zip(routers).map(holder).collect()
}

/// Sleeps, and says whether the server goes on.
fn sleep_until_drained(drain: &Arc<Drain>) -> Box<dyn Fn(Duration) -> bool + Send> {
    let drain = drain.clone();
    Box::new(move |duration| {
        let now = Instant::now();
        drain.sleep(now + duration, drain.begun());
        !drain.passed(now)
    })
}

/// The first SIGTERM, SIGINT or SIGHUP drains (the event loop sees to it); a second one ends the process at once.
fn exit_on_second_signal() -> io::Result<()> {
    let once = Arc::new(AtomicBool::new(false));
    for signal in net::DRAIN_SIGNALS {
        // In this order: the first signal finds the flag down and then raises it.
        signal_hook::flag::register_conditional_shutdown(signal, EXIT_SECOND_SIGNAL, once.clone())?;
        signal_hook::flag::register(signal, once.clone())?;
    }
    Ok(())
}

/// Keeps a second process out of the data directory for as long as the file lives.
fn lock(data_dir: &Path) -> Result<File, ServerError> {
    let failed = |error| ServerError::DataDir { path: data_dir.to_owned(), error };
    fs::create_dir_all(data_dir).map_err(failed)?;
    let file = File::create(data_dir.join("lock")).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ServerError::Locked(data_dir.to_owned())),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

fn letter(refused: &RefusedPayload) -> RefusedFrame<'_> {
    RefusedFrame {
        origin: &refused.origin,
        seq: refused.seq,
        code: refused.code.name(),
        reason: &refused.reason,
        payload: &refused.payload,
        received_unix_nano: refused.received_unix_nano,
    }
}

/// Without a log, has refused payloads kept, however long it takes. (Only an ACK of a level above *received* could
/// wait for this, and needs a log.) A disk that takes nothing until the drain is over loses them, and says so.
fn keep(refused: &[RefusedPayload], append: impl Fn(&[RefusedPayload]) -> io::Result<()>, drain: &Drain) {
    while let Err(error) = append(refused) {
        let now = Instant::now();
        if drain.passed(now) {
            tracing::error!(%error, frames = refused.len(), "refused frames could not be kept in dead letters and are lost");
            return;
        }
        tracing::warn!(%error, "dead letters cannot be written; nothing more is taken until they can");
        drain.sleep(now + DEAD_LETTERS_RETRY, drain.begun());
    }
}
