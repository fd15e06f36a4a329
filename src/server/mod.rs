//! The server as a whole: threads, queues and the order in which they start and end.
//!
//! ```text
//!  start  bind ─▶ lock ─▶ log recovers ─▶ routers connect ─▶ log thread ─▶ listen ─▶ event loops
//!  end    signal ─▶ event loops drain ─▶ rings end ─▶ log thread ends ─▶ queues end ─▶ routers deliver the rest
//! ```
//!
//! | file | what it is |
//! |---|---|
//! | `access` | tokens, and the warning where none is required |
//! | `certificates` | the TLS certificate: read, watched for changes and for its expiry |
//! | `identity` | what the log knows of agents and positions |
//! | `instance` | the lock on the data directory, and how other processes find the server by it |
//! | `log_thread` | what the log thread works with |
//! | `loops` | what each event loop owns, and how they run together |
//! | `notify` | what the service manager is sent |
//! | `reload` | settings that are read again |
//! | `drain` | the end |
//! | `end` | its last line |

pub mod access;
pub mod certificates;
mod drain;
mod end;
mod identity;
pub mod instance;
mod log_thread;
mod loops;
mod notify;
mod reload;
#[cfg(test)]
mod simulation_tests;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::drain::Ending;
use self::identity::{Keeping, RESTORED};
use self::instance::Lock;
use self::log_thread::LogThread;
use self::loops::{Owned, Sharing};
use self::notify::Notifier;
pub use self::reload::Reloading;
use self::reload::{Reloader, Requests};
use crate::config::{Config, ConfigError, Resolved};
use crate::ids::{Ticket, new_uuid};
use crate::metrics::Metrics;
use crate::net::{self, LoopError, Parts};
use crate::pipeline::group_commit;
use crate::pipeline::health::LogHealth;
use crate::pipeline::rings::Rings;
use crate::random::Random;
use crate::router::{self, Drain, Router, RouterQueue, SinkProgress};
use crate::session::tokens::Tokens;
use crate::sink::Identity;
use crate::tls::Acceptor;
use crate::wal::{self, Log, Writer};

/// The port opens once every sink has answered, or after this time: a dead sink must not keep agents out.
const FIRST_CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// All routers together may hold one part in this many of one loop's buffer pool.
const ROUTERS_SHARE: usize = 4;

/// Why the server did not start, or could not continue. Exit code 1; 78 for [`ServerError::Settings`].
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The data directory cannot be created, opened or locked.
    #[error("data directory {path}: {error}; {}", data_dir_hint(error))]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// Another process holds the lock on this data directory.
    #[error("data directory {0} is in use by another telemetryx: stop it, or set another data_dir")]
    Locked(PathBuf),
    /// A file that the settings name.
    #[error(transparent)]
    Settings(#[from] ConfigError),
    /// The listening socket cannot be opened.
    #[error("cannot listen on {address}: {}", net::bind_problem(error))]
    Listen {
        /// `server.address`.
        address: SocketAddr,
        /// Why not.
        error: io::Error,
    },
    /// The socket for datagrams cannot be opened.
    #[error("cannot receive syslog over UDP on {address}: {}", net::bind_problem(error))]
    ListenDatagrams {
        /// `server.address`, with its port.
        address: SocketAddr,
        /// Why not.
        error: io::Error,
    },
    /// The operating system refuses something that the server needs.
    #[error("the system refuses the server {what}: {error}")]
    System {
        /// What it refuses, with its article.
        what: &'static str,
        /// Why.
        error: io::Error,
    },
    /// An event loop failed.
    #[error(transparent)]
    Loop(#[from] LoopError),
    /// The log cannot be opened.
    #[error(transparent)]
    OpenLog(#[from] wal::OpenError),
    /// A write or sync of the log failed; the text says why.
    #[error("the log failed: {0}")]
    Log(String),
    /// Without a log: sinks did not store everything before the drain timeout.
    #[error(
        "shut down after server.drain_timeout with at least {events} events undelivered; without a log these are lost"
    )]
    DrainTimeout {
        /// Events that are lost, at least.
        events: u64,
    },
    /// The log was paused until the end, for example by a full disk.
    #[error(
        "shut down while the log accepted nothing: {events} events that were acknowledged as `received` were in \
         memory only and are lost; make space (disk, wal.max_bytes, or the sink that fills the log) before the next stop"
    )]
    NotKept {
        /// Events acknowledged as *received* that are lost.
        events: u64,
    },
    /// The log thread did not end in time; what it holds may be lost.
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

/// What to do about a data directory that cannot be used.
fn data_dir_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        // As ProtectSystem=strict of the unit makes it.
        io::ErrorKind::ReadOnlyFilesystem => {
            "set data_dir to a directory on a file system that is not read-only; in a systemd unit, name it in ReadWritePaths="
        }
        io::ErrorKind::StorageFull => "make space on its file system, or set data_dir to a directory on another one",
        _ => "set data_dir to a directory that this user may write to",
    }
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> ServerError {
    move |error| ServerError::System { what, error }
}

/// Runs the server until a signal ends it. `started` is called once with the address that it listens on.
pub fn run(
    settings: Resolved,
    reloading: Reloading,
    started: impl FnOnce(SocketAddr, &Config),
) -> Result<(), ServerError> {
    let config = &settings.config;
    let server = &config.server;
    drain::ignore_signals(reloading.by_hangup).map_err(system("a signal handler"))?;
    let (notifier, requests) = (Notifier::from_environment(), Requests::new());
    let tokens = access::read_tokens(config)?;
    let tls = certificates::acceptor(config, config.syslog.enabled)?.map(Arc::new);
    let pages_token = access::read_pages_token(server)?;
    let cannot_listen = |error| ServerError::Listen { address: server.address, error };
    let bound = net::bind(server.address).map_err(cannot_listen);
    // A start that cannot listen creates no data directory. Where there is one, another server in it is the better reason.
    let bound = if config.data_dir.exists() { bound } else { Ok(bound?) };
    let lock = Lock::new(&config.data_dir)?;
    let bound = bound?;
    let mut random = Random::from_system();
    let metrics = Metrics::new().map_err(io::Error::other).map_err(system("its metrics"))?;
    let Keeping { server_id, log, marks } = identity::open_log(config, &mut random)?;
    let parts = Parts::of_loops(config.event_loops(cores()))?;
    drain::exit_on_second_signal(reloading.by_hangup).map_err(system("a signal handler"))?;
    let drain = Arc::new(Drain::default());

    let log_end = log.as_ref().map_or(u64::MAX, |(_, log)| log.end());
    let sinks = Identity { server_id, owner: new_uuid(&mut random), log_end };
    let reader = log.as_ref().map(|(_, log)| log.clone());
    let (queues, routers) = start_routers(config, &sinks, reader, (&metrics, &drain), &parts)?;

    let (mut owned, receivers) = loops::divide(config, parts);
    let log_health = Arc::new(LogHealth::default());
    let has_log = log.is_some();
    let writer = log.map(|(writer, _)| behind_sinks(writer, &routers, &queues, &owned)).transpose()?;
    let log_parts = writer.map(|writer| group_commit::Parts {
        writer,
        holders: log_thread::holders(config, &routers),
        loops: owned.iter().map(Owned::log_end).collect(),
        health: log_health.clone(),
        metrics: metrics.clone(),
        is_over: log_thread::is_over(&drain),
    });
    let log_thread = LogThread::start(config, log_parts, Rings::new(receivers), queues, (&metrics, &drain))?;
    owned.iter_mut().for_each(|own| own.set_log_thread(log_thread.thread()));
    let promises = owned.iter().map(|own| (own.let_go.clone(), own.watermarks.clone())).collect();

    let listener = bound.listen().map_err(cannot_listen)?;
    let address = listener.local_addr().map_err(system("the address of its socket"))?;
    let datagrams = bind_datagrams(config, address)?;
    report_start(config, (address, has_log), (&tokens, tls.as_ref()), &metrics)?;
    let policy = loops::policy(config, tokens, pages_token, tls);
    let (on_end, on_reload, hangup_reloads) = (notifier.on_end(), requests.on_reload(), reloading.by_hangup);
    let health = log_health.clone();
    let sharing = Sharing { server_id, policy, marks, metrics, health, on_end, hangup_reloads, on_reload };
    let shared = sharing.share(config, &owned, &routers);
    let restored = if has_log { RESTORED } else { Ticket::default() };
    let mut event_loops = loops::start(config, owned, &shared, (listener, restored), &mut random)?;
    if let (Some(datagrams), Some(first)) = (datagrams, event_loops.first_mut()) {
        first.receive_datagrams(datagrams)?;
    }
    let (notices, stopping) = (notifier.notices(), notifier.start(&shared, address)?);
    lock.publish().map_err(system("the lock on its data directory"))?;
    started(address, config);
    Reloader::new(settings, reloading, &shared, (&routers, server_id), notices).start(requests)?;
    drop(shared);
    let end = loops::run(event_loops)?;
    let ended = Ending { log_thread, routers, drain, health: log_health, promises, has_log }.finish(end);
    stopping.wait_until_sent();
    ended
}

/// What is to be known of the start besides its line: who may send, how large the log may be, how long the certificate is valid.
fn report_start(
    config: &Config,
    (address, has_log): (SocketAddr, bool),
    (tokens, tls): (&Tokens, Option<&Arc<Acceptor>>),
    metrics: &Arc<Metrics>,
) -> Result<(), ServerError> {
    if let Some(warning) = access::warning(address, tokens, config) {
        tracing::warn!(%address, "{warning}");
    }
    metrics.wal_bytes_max.set(if has_log { config.wal.max_bytes.cast_signed() } else { 0 });
    match tls {
        Some(tls) => certificates::watch(tls, metrics.clone()).map_err(system("a thread for its certificate")),
        None => Ok(()),
    }
}

/// The socket of syslog over UDP, on the port of the server; `None`: it is off.
fn bind_datagrams(config: &Config, address: SocketAddr) -> Result<Option<net::BoundDatagrams>, ServerError> {
    if !config.syslog.enabled || !config.syslog.udp {
        return Ok(None);
    }
    net::bind_datagrams(address).map(Some).map_err(|error| ServerError::ListenDatagrams { address, error })
}

/// How many threads this machine runs at the same time.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Starts a router for each sink, and gives their stores a moment to answer.
fn start_routers(
    config: &Config,
    identity: &Identity,
    log: Option<Arc<Log>>,
    (metrics, drain): (&Arc<Metrics>, &Arc<Drain>),
    parts: &[Parts],
) -> Result<(Vec<RouterQueue>, Vec<Router>), ServerError> {
    let wakes: Vec<_> = parts.iter().map(Parts::wake).collect();
    let shared = router::Shared {
        identity,
        data_dir: &config.data_dir,
        log,
        log_bytes_max: config.wal.max_bytes,
        share_bytes: config.server.buffer_bytes / parts.len().max(1) / ROUTERS_SHARE / config.sinks.len().max(1),
        metrics,
        drain: drain.clone(),
        notify: Arc::new(move || wakes.iter().for_each(|wake| wake())),
    };
    let (mut queues, mut routers) = (Vec::new(), Vec::<Router>::new());
    for settings in &config.sinks {
        let sink = settings.open(identity);
        let (queue, router) = Router::start(settings, sink, &shared).map_err(system("a thread for a router"))?;
        queues.push(queue);
        routers.push(router);
    }
    let until = Instant::now() + FIRST_CONNECT_TIMEOUT;
    for router in &routers {
        if !router.progress().wait_for_first_connect(until) {
            tracing::warn!(sink = router.progress().name(), "the sink has not answered yet; events wait for it");
        }
    }
    Ok((queues, routers))
}

/// The log continues after the positions that the sinks hold; what was in it at start has reached every level but
/// *delivered*.
fn behind_sinks(
    mut writer: Writer,
    routers: &[Router],
    queues: &[RouterQueue],
    owned: &[Owned],
) -> Result<Writer, ServerError> {
    let sinks: Vec<&SinkProgress> = routers.iter().map(|router| router.progress().as_ref()).collect();
    identity::go_on_behind_sinks(&mut writer, &sinks)?;
    queues.iter().for_each(|queue| queue.skipped_to(writer.next_position()));
    if let Some(own) = owned.get(RESTORED.event_loop.index()) {
        identity::has_restored(&own.watermarks, writer.next_position());
    }
    Ok(writer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_that_is_read_only_or_full_is_told_from_one_of_another_user() {
        use rustix::io::Errno;
        for (errno, expected) in [
            (
                Errno::ROFS,
                "Read-only file system (os error 30); set data_dir to a directory on a file system that is not \
                           read-only; in a systemd unit, name it in ReadWritePaths=",
            ),
            (
                Errno::NOSPC,
                "No space left on device (os error 28); make space on its file system, or set data_dir to a \
                            directory on another one",
            ),
            (Errno::ACCESS, "Permission denied (os error 13); set data_dir to a directory that this user may write to"),
        ] {
            let error = ServerError::DataDir { path: "/srv/data".into(), error: errno.into() };
            assert_eq!(error.to_string(), format!("data directory /srv/data: {expected}"));
        }
    }
}
