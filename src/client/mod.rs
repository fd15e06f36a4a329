//! A blocking agent: takes events, sends them to a server, and resends until they are acknowledged.
//!
//! ```no_run
//! use std::time::{Duration, Instant};
//! use telemetryx::client::{Client, Options};
//! use telemetryx::event::proto::Event;
//!
//! let options = Options { name: "billing".to_owned(), ..Options::new("127.0.0.1:4640") };
//! let mut client = Client::connect(options)?;
//! client.send(&[Event { name: "invoice.sent".to_owned(), body: "42 pages".to_owned(), ..Event::default() }])?;
//! client.flush(Some(Instant::now() + Duration::from_secs(10)))?; // kept by the server, or an error
//! client.close(None)?;
//! # Ok::<(), telemetryx::client::ClientError>(())
//! ```
//!
//! The protocol is [`session::agent`](crate::session::agent)'s; here are the socket, the clock and two threads:
//!
//! ```text
//!   caller ── send ──▶ ┌───────────────┐ ──▶ writer thread ──▶ socket   (connects, too)
//!                      │ Mutex<Agent>  │                         │
//!   caller ◀─ flush ── └───────────────┘ ◀── reader thread ◀─────┘      (one a connection)
//! ```
//!
//! What must hold:
//! - Memory is bounded by [`Options::queue_bytes`]: `send` waits while so many bytes are unacknowledged.
//! - A lost connection is opened again for ever, by the writer thread, whether the caller calls or not. Only
//!   [`Options::patience`] ends a *call*, and then the events that it had taken are still on their way.
//! - Events live in memory only: what is not acknowledged when the client is dropped is lost.
//! - Within one client no event is stored twice, as long as the server keeps its state (`server_id`); otherwise
//!   [`Progress::possibly_doubled_events`] counts.

mod batch;
mod driver;
#[cfg(test)]
pub(crate) mod script;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;

pub use self::batch::Batch;
pub use crate::session::agent::{Progress, QueueError, Refusal, SettingsError, Stopped};

use crate::escape::Quoted;
use crate::event::proto::Event;
use crate::limits::{CLIENT_QUEUE_BYTES, CLIENT_REPORTS_MAX};
use crate::session::agent::{Agent, Notice, Settings};
#[cfg(feature = "tls")]
pub use crate::tls::{Connector, ConnectorFiles};
use crate::wire::{AckLevel, Welcome};

/// Where to send to, and as whom.
#[derive(Debug, Clone)]
pub struct Options {
    /// `host:port`; looked up again for every connection.
    pub address: String,
    /// Display name, and the `source` of events that have none.
    pub name: String,
    /// Empty: none. The server may refuse one that comes in clear from another machine.
    pub token: Vec<u8>,
    /// `None`: the server's default.
    pub ack: Option<AckLevel>,
    /// `None`: a random one. Two agents must never share one.
    pub agent_id: Option<[u8; 16]>,
    /// Bytes of frames that may be unacknowledged before `send` waits.
    pub queue_bytes: usize,
    /// A call gives up after this time without a new connection or acknowledgement. `None`: never.
    pub patience: Option<Duration>,
    /// Whom to trust, and what to show. `None`: without TLS.
    #[cfg(feature = "tls")]
    pub tls: Option<Connector>,
}

impl Options {
    /// The server's ack level, no token, no name, waiting for ever.
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            name: String::new(),
            token: Vec::new(),
            ack: None,
            agent_id: None,
            queue_bytes: CLIENT_QUEUE_BYTES,
            patience: None,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

/// Why a call of [`Client`] failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The options do not make a HELLO that a server accepts.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The server refuses this agent, or the client was closed. Nothing is sent any more.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// The caller's frame is too large; nothing of it was taken.
    #[error(transparent)]
    Frame(#[from] QueueError),
    /// The events before `index` are taken, the others are not.
    #[error("event {index} has {bytes} bytes, too many for a frame: the server accepts at most {max}")]
    EventTooLarge {
        /// Index of the event in the slice that was passed to the call.
        index: usize,
        /// Bytes that the event takes in a frame.
        bytes: usize,
        /// Largest payload that the server accepts, bytes.
        max: usize,
    },
    /// The call has given up waiting; what was taken before stays queued and is still being sent.
    #[error("{address}: no progress for {} s; {reason}", waited.as_secs())]
    TimedOut {
        /// The server's address, as in [`Options`].
        address: String,
        /// How long there was neither an acknowledgement nor a new connection.
        waited: Duration,
        /// Why there is no progress, for example the last connection error.
        reason: String,
    },
    /// The operating system provides no random bytes for an `agent_id`.
    #[error("the system cannot provide random bytes for an agent_id: {0}")]
    Random(getrandom::Error),
    /// The thread that drives the connection cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// What the server did not store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// Events refused for good. The server keeps them in its dead letters.
    Refused(Refusal),
    /// A frame that the server treated as a protocol error again and again. No other copy of it exists.
    SetAside {
        /// Sequence number of the frame.
        seq: u64,
        /// The frame's encoded `EventBatch`.
        payload: Bytes,
        /// Number of events in the payload.
        events: u32,
    },
}

/// A connected agent. Dropping it forgets what is not acknowledged; see [`Client::close`].
pub struct Client {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
    patience: Option<Duration>,
    batch: Batch,
}

/// What the caller's and the client's threads share.
struct Shared {
    address: String,
    #[cfg(feature = "tls")]
    tls: Option<Connector>,
    state: Mutex<State>,
    /// Notified after every change that a caller may wait for.
    changed: Condvar,
}

struct State {
    agent: Agent,
    /// Number of the current connection: a reader of an older one is ignored.
    connection: u64,
    welcome: Option<Welcome>,
    /// Why there is no connection.
    last_lost: Option<String>,
    reports: VecDeque<Report>,
    /// The client was dropped.
    abandoned: bool,
}

impl Client {
    /// Connects, and returns once the server has sent WELCOME.
    pub fn connect(options: Options) -> Result<Self, ClientError> {
        let (mut agent_id, mut seed) = ([0; 16], [0; 8]);
        getrandom::fill(&mut agent_id).and_then(|()| getrandom::fill(&mut seed)).map_err(ClientError::Random)?;
        let settings = Settings {
            agent_id: options.agent_id.unwrap_or(agent_id),
            name: options.name,
            token: options.token,
            ack: options.ack,
            queue_bytes: options.queue_bytes,
            seed: u64::from_le_bytes(seed),
        };
        let state = State {
            agent: Agent::new(settings, Instant::now())?,
            connection: 0,
            welcome: None,
            last_lost: None,
            reports: VecDeque::new(),
            abandoned: false,
        };
        let shared = Arc::new(Shared {
            address: options.address,
            #[cfg(feature = "tls")]
            tls: options.tls,
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let writer = driver::start(&shared).map_err(ClientError::Thread)?;
        let client = Self { shared, writer: Some(writer), patience: options.patience, batch: Batch::new() };
        client.wait_until(None, |state| state.welcome.map(|_| Ok(())))?;
        Ok(client)
    }

    /// Sends events, in as few frames as reasonable; waits while the queue is full. Returns once all are queued.
    pub fn send(&mut self, events: &[Event]) -> Result<(), ClientError> {
        let max_frame = self.max_frame();
        self.batch.clear();
        for (index, event) in events.iter().enumerate() {
            let bytes = Batch::bytes_of(event);
            if !self.batch.has_room(bytes, max_frame) {
                self.send_batch()?;
                if !self.batch.has_room(bytes, max_frame) {
                    return Err(ClientError::EventTooLarge { index, bytes, max: max_frame });
                }
            }
            self.batch.push(event);
        }
        self.send_batch()
    }

    fn send_batch(&mut self) -> Result<(), ClientError> {
        if !self.batch.is_empty() {
            self.send_encoded(self.batch.bytes(), self.batch.events())?;
            self.batch.clear();
        }
        Ok(())
    }

    /// Sends an encoded `EventBatch` of `events` events as one frame, at most [`Client::max_frame`] bytes; waits while
    /// the queue is full. Returns the frame's sequence number.
    pub fn send_encoded(&self, payload: &[u8], events: u32) -> Result<u64, ClientError> {
        self.wait_until(None, |state| match state.agent.queue(payload, events) {
            Ok(seq) => Some(Ok(seq)),
            Err(QueueError::Full { .. }) => None,
            Err(error) => Some(Err(error.into())),
        })
        .inspect(|_| self.shared.changed.notify_all())
    }

    /// Waits until all that was sent is acknowledged (or refused, see [`Client::take_reports`]), or the deadline is
    /// over.
    pub fn flush(&self, deadline: Option<Instant>) -> Result<(), ClientError> {
        let last_seq = self.progress().last_seq;
        self.wait_until(deadline, |state| (state.agent.progress().acked_seq >= last_seq).then_some(Ok(())))
    }

    /// Sends what is queued, waits until all is acknowledged, sends BYE, so that the server does not remember this agent any
    /// longer, and returns the final numbers. After an error what was not acknowledged is lost.
    pub fn close(mut self, deadline: Option<Instant>) -> Result<Progress, ClientError> {
        self.shared.lock().agent.close();
        self.shared.changed.notify_all();
        let finished = |state: &mut State| {
            let progress = state.agent.progress();
            (state.agent.stopped() == Some(&Stopped::Finished)).then_some(Ok(progress))
        };
        let progress = match self.wait_until(deadline, finished) {
            // All that the caller waits for is there; BYE is on its way, or the server remembers the agent for a day.
            Err(ClientError::TimedOut { .. }) if self.is_acknowledged() => return Ok(self.progress()),
            finished => finished?,
        };
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
        Ok(progress)
    }

    /// Whether everything that was sent is acknowledged.
    fn is_acknowledged(&self) -> bool {
        let progress = self.progress();
        progress.acked_seq == progress.last_seq
    }

    /// Number of events acknowledged so far.
    pub fn acknowledged_events(&self) -> u64 {
        self.progress().acknowledged_events
    }

    /// Sequence numbers and event counts so far.
    pub fn progress(&self) -> Progress {
        self.shared.lock().agent.progress()
    }

    /// Largest payload that the server takes, bytes.
    pub fn max_frame(&self) -> usize {
        self.shared.lock().agent.max_frame()
    }

    /// The server's last WELCOME: ack level, server_id, limits.
    pub fn welcome(&self) -> Option<Welcome> {
        self.shared.lock().welcome
    }

    /// See [`Options::patience`].
    pub fn set_patience(&mut self, patience: Option<Duration>) {
        self.patience = patience;
    }

    /// What was not stored, since the last call, oldest first. The last 64 are kept; [`Progress`] counts all.
    pub fn take_reports(&self) -> Vec<Report> {
        self.shared.lock().reports.drain(..).collect()
    }

    /// Waits for `ready` to say something, at most until the deadline or the end of patience.
    fn wait_until<T>(
        &self,
        deadline: Option<Instant>,
        mut ready: impl FnMut(&mut State) -> Option<Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        let begin = Instant::now();
        let mut state = self.shared.lock();
        let (mut seen, mut seen_at) = (state.agent.progress(), begin);
        loop {
            if let Some(outcome) = ready(&mut state) {
                return outcome;
            }
            if let Some(stopped) = state.agent.stopped() {
                return Err(stopped.clone().into());
            }
            let now = Instant::now();
            let progress = state.agent.progress();
            if (progress.acked_seq, progress.connections) != (seen.acked_seq, seen.connections) {
                (seen, seen_at) = (progress, now);
            }
            let patience = self.patience.and_then(|patience| seen_at.checked_add(patience));
            let until = [deadline, patience].into_iter().flatten().min();
            state = match until {
                Some(until) if until <= now => {
                    let address = self.shared.address.clone();
                    let reason = state.last_lost.clone().unwrap_or_else(|| state.waits_for().to_owned());
                    return Err(ClientError::TimedOut { address, waited: now - seen_at, reason });
                }
                until => self.shared.wait(state, until, now),
            };
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.shared.lock().abandoned = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    /// A thread that panicked leaves an agent in a valid state: it has no half-done steps to hide.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a change, at most until `until`.
    fn wait<'a>(&self, state: MutexGuard<'a, State>, until: Option<Instant>, now: Instant) -> MutexGuard<'a, State> {
        match until {
            Some(until) => {
                let waited = self.changed.wait_timeout(state, until.saturating_duration_since(now));
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
        }
    }
}

impl State {
    /// What a call that has given up was waiting for, and where to look.
    fn waits_for(&self) -> &'static str {
        let delivered = self.welcome.is_some_and(|welcome| welcome.ack == AckLevel::Delivered);
        match (self.agent.is_connected(), self.agent.is_welcome()) {
            (false, _) => "not connected yet",
            (true, false) => {
                "connected, but there is no answer: it is not telemetryx, it hangs, or its log accepts no events (see its /ready)"
            }
            (true, true) if delivered => {
                "connected, but nothing is acknowledged as delivered: see /ready of the server for the states of its sinks, and \
                 its log for their errors; one that gathers for long (batch.max_age, aggregate.interval) needs a longer timeout"
            }
            (true, true) => {
                "connected, but nothing is acknowledged: see /ready of the server for the reason; without an answer there, it hangs"
            }
        }
    }

    /// Takes the agent's notices: into the log, and where the user can ask for them.
    fn take_notices(&mut self, address: &str) {
        while let Some(notice) = self.agent.take_notice() {
            match notice {
                Notice::Connected(welcome) => {
                    log::info!("{address}: connected, acknowledged means {}", welcome.ack.name());
                    (self.welcome, self.last_lost) = (Some(welcome), None);
                }
                Notice::Disconnected { reason, retry_in } => {
                    log::warn!("{address}: {reason}; trying again in {} ms", retry_in.as_millis());
                    self.last_lost = Some(reason.to_string());
                }
                Notice::Refused(refusal) => {
                    let Refusal { seq, reason, events, refused, .. } = &refusal;
                    log::warn!(
                        "{address}: {refused} of {events} events of frame {seq} are refused: {}",
                        Quoted(reason)
                    );
                    self.report(Report::Refused(refusal));
                }
                Notice::SetAside { seq, payload, events } => {
                    log::error!(
                        "{address}: frame {seq} of {events} events is set aside: the server ends each \
                                 connection on which it is sent"
                    );
                    self.report(Report::SetAside { seq, payload, events });
                }
                Notice::Paused => log::info!("{address}: the server asks to pause"),
                Notice::Resumed => log::info!("{address}: the server accepts events again"),
                Notice::PossiblyDoubled { events } => {
                    log::warn!(
                        "{address}: the server lost its state, or is another one: {events} events may be stored twice"
                    );
                }
            }
        }
    }

    fn report(&mut self, report: Report) {
        if self.reports.len() >= CLIENT_REPORTS_MAX {
            self.reports.pop_front();
        }
        self.reports.push_back(report);
    }
}
