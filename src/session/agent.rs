//! The agent's side of the protocol: bytes, frames and `now` in; bytes, actions and notices out. No socket, no clock.
//!
//! ```text
//!                    connected          WELCOME             close, all written
//!  Disconnected ─▶ Connecting ─▶ Greeting ─▶ Streaming ──────────────▶ Draining (half-closed, reads ACKs)
//!       ▲ backoff      │            │            │                        │          │ all acknowledged
//!       └──────────────┴────────────┴────────────┴────────────────────────┘          ▼
//!            connection lost, GOAWAY with retry, silence, server fault            Stopped ◀─ GOAWAY without retry
//! ```
//!
//! What outlives a connection are the frames that are not acknowledged yet, as the bytes that were or will be sent:
//!
//! ```text
//!        acked_seq            sent_seq           written_seq              last_seq
//!  ──────────┼───────────────────┼────────────────────┼──────────────────────┼─────▶ sequence numbers
//!   dropped  │ on the way over   │ the server may     │ never left           │
//!            │ this connection   │ know them          │ this agent           │
//!            └──────────────────────── frames ───────────────────────────────┘
//! ```
//!
//! What must hold:
//! - Numbers are given once and never change, and neither does the epoch after the first WELCOME (R6); a frame is
//!   encoded once, so that what is sent again is identical (R7). The one exception is R16's empty frame.
//! - Bytes in flight stay within the server's window (R10), bytes retained within `queue_bytes`; one frame always goes.
//! - Whatever the server says, this side does not panic: nonsense ends the connection, and the frames stay.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Deserialize;

use super::backoff::Backoff;
use crate::limits::{
    AGENT_BACKOFF_MAX, AGENT_BACKOFF_MIN, EPOCH_LIMIT, FRAME_BYTES_DEFAULT, FRAME_EVENTS_MAX,
    FRAME_RATE_MIN_BYTES_PER_SECOND, HEADER_BYTES, HELLO_BYTES_MAX, PROTOCOL_ERRORS_MAX, WELCOME_TIMEOUT,
};
use crate::wire::header::VERSION;
use crate::wire::hello::{CODECS, WelcomeError};
use crate::wire::{
    AckLevel, Decoded, FrameError, FrameKind, Goaway, GoawayCode, Header, Hello, NackCode, PayloadCaps, Welcome,
    answer, decode,
};

/// Of a HELLO's payload, before token and name.
const HELLO_FIXED_BYTES: usize = 48;

/// Who the agent is and what it may hold.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Random, made once, not all zero; kept by an agent that wants to be known again.
    pub agent_id: [u8; 16],
    /// Display name, and the default `source` of the events.
    pub name: String,
    pub token: Vec<u8>,
    /// `None`: the server's default.
    pub ack: Option<AckLevel>,
    /// Bytes of all frames that are not acknowledged yet, sent or not. One frame is always allowed.
    pub queue_bytes: usize,
    /// Of the backoff's jitter.
    pub seed: u64,
}

impl Settings {
    fn check(&self) -> Result<(), SettingsError> {
        let hello_bytes = HELLO_FIXED_BYTES + self.token.len() + self.name.len();
        if self.agent_id == [0; 16] {
            Err(SettingsError::AgentId)
        } else if hello_bytes > HELLO_BYTES_MAX {
            Err(SettingsError::Hello { found: hello_bytes })
        } else {
            Ok(())
        }
    }
}

/// Settings that no server would accept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error("agent_id is all zero: make 16 random bytes")]
    AgentId,
    #[error("token and name make a HELLO of {found} bytes; the most is {HELLO_BYTES_MAX}: shorten them")]
    Hello { found: usize },
}

/// What the driver of the connection does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Open a connection, then call [`Agent::connected`] or [`Agent::disconnected`].
    Connect,
    /// Write all of it, then poll again.
    Write(Bytes),
    /// Shut down the writing side and go on reading.
    HalfClose,
    /// Close the connection; [`Agent::disconnected`] is not called for it.
    Close,
    /// Nothing until bytes arrive, a frame is queued, or this time is there.
    Wait(Option<Instant>),
    /// It is over: see [`Agent::stopped`].
    Stop,
}

/// Something that whoever uses the agent may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    Connected(Welcome),
    Disconnected {
        reason: Lost,
        retry_in: Duration,
    },
    /// The server will never take these events (R8, R9).
    Refused(Refusal),
    /// A frame that ended connection after connection; an empty one takes its place (R16).
    SetAside {
        seq: u64,
        payload: Bytes,
        events: u32,
    },
    /// The server asks for a pause; the connection stays.
    Paused,
    Resumed,
    /// These events may be stored twice: another server, or one that lost its state, gets them again.
    PossiblyDoubled {
        events: u64,
    },
}

/// A NACK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub seq: u64,
    /// An unknown number is kept; it is as permanent as the known ones.
    pub code: Result<NackCode, u32>,
    /// The server's words. PARTIAL: JSON that names the refused events by their index in the frame.
    pub reason: String,
    /// Events of the frame, and how many of them are refused.
    pub events: u32,
    pub refused: u32,
}

/// Why a connection ended, or could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// Said by the driver.
    #[error("{0}")]
    Connection(String),
    #[error("no WELCOME within {WELCOME_TIMEOUT:?}: the address may not be a telemetryx server, or it is overloaded")]
    NoWelcome,
    #[error("the server was silent for {0:?}")]
    Silent(Duration),
    #[error("the server ended the connection: {}: {text}", goaway_name(*code))]
    Goaway { code: Result<GoawayCode, u32>, text: String },
    #[error(transparent)]
    Fault(#[from] ServerFault),
}

/// The server broke the protocol. The connection ends, and the agent tries again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServerFault {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Welcome(#[from] WelcomeError),
    #[error("the server sent a {0:?} frame where it has no place")]
    Unexpected(FrameKind),
    #[error("the server sent a GOAWAY that is shorter than 8 bytes")]
    ShortGoaway,
    #[error("the server gave ack level {}, asked was {}", found.name(), asked.name())]
    AckLevel { asked: AckLevel, found: AckLevel },
    #[error("the server gave epoch {found}, asked was {asked} (0: a new one, below 2^62)")]
    Epoch { asked: u64, found: u64 },
    #[error(
        "the server says {found} for a sequence number that lies within {min} to {max}: has another agent the same agent_id?"
    )]
    Sequence { found: u64, min: u64, max: u64 },
}

/// Why the agent does not connect again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    #[error("closed; everything is acknowledged")]
    Finished,
    /// AUTH, VERSION, FENCED or ACK_LEVEL: trying again would change nothing.
    #[error("the server refuses this agent: {}: {text}", code.name())]
    Refused { code: GoawayCode, text: String },
}

/// Why a frame was not queued. Nothing of it was taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    #[error("the queue holds {queued} of {max} bytes: wait for acknowledgements")]
    Full { queued: usize, max: usize },
    #[error("a payload of {bytes} bytes; the server takes {max}")]
    TooLarge { bytes: usize, max: usize },
    #[error("a frame of {0} events; the most is 65,536")]
    TooManyEvents(u32),
    #[error("the agent is closing")]
    Closing,
}

/// Numbers since the agent was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// The highest number given to a frame.
    pub last_seq: u64,
    /// Everything up to here is acknowledged.
    pub acked_seq: u64,
    /// Without the refused ones.
    pub acknowledged_events: u64,
    /// Refused with a NACK.
    pub refused_events: u64,
    /// In frames that were set aside.
    pub set_aside_events: u64,
    pub possibly_doubled_events: u64,
    /// Successful greetings.
    pub connections: u64,
}

/// A frame until it is acknowledged: header and payload as they are sent.
#[derive(Debug)]
struct Frame {
    bytes: Bytes,
    events: u32,
    /// Number of refused events, once a NACK has told.
    refused: Option<u32>,
}

impl Frame {
    fn new(seq: u64, payload: &[u8], events: u32) -> Self {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
        bytes.extend_from_slice(&Header::data(seq, payload).encode());
        bytes.extend_from_slice(payload);
        Self { bytes: bytes.into(), events, refused: None }
    }

    fn payload_bytes(&self) -> usize {
        self.bytes.len().saturating_sub(HEADER_BYTES)
    }

    /// What it counts for in the queue: many small frames cost memory too.
    fn queue_bytes(&self) -> usize {
        self.bytes.len() + size_of::<Self>()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Disconnected { until: Instant },
    Connecting,
    Greeting { deadline: Instant },
    Streaming,
    Draining,
    Stopped(Stopped),
}

/// What the server granted this connection.
#[derive(Debug, Clone, Copy)]
struct Grant {
    window_bytes: u32,
    window_frames: u16,
    keepalive: Duration,
}

/// One agent's session, over as many connections as it takes.
#[derive(Debug)]
pub struct Agent {
    settings: Settings,
    state: State,
    backoff: Backoff,
    /// No frames are taken any more; stop once all are acknowledged.
    closing: bool,

    // Outlives connections.
    /// 0: none yet.
    epoch: u64,
    server_id: Option<[u8; 16]>,
    max_frame: usize,
    /// Not acknowledged yet; the first has number `acked_seq + 1`.
    frames: VecDeque<Frame>,
    queued_bytes: usize,
    /// Highest number ever handed out for writing.
    written_seq: u64,
    /// The same for the current server alone.
    written_here_seq: u64,
    /// Number and count of the frame that protocol errors are put down to.
    suspect: (u64, u32),
    /// Up to here one frame at a time, so that a protocol error names its frame.
    probe_until: u64,
    progress: Progress,
    notices: VecDeque<Notice>,

    // Of the current connection.
    grant: Grant,
    /// Highest number handed out for writing on this connection, or acknowledged.
    sent_seq: u64,
    in_flight_bytes: usize,
    /// Begins with the start of a frame.
    inbox: Vec<u8>,
    /// Control frames to write before any DATA.
    outbox: Vec<u8>,
    last_sent: Instant,
    last_received: Instant,
    pings: u64,
    close_pending: bool,
}

impl Agent {
    /// An agent that wants to connect at once.
    pub fn new(settings: Settings, now: Instant) -> Result<Self, SettingsError> {
        settings.check()?;
        Ok(Self {
            backoff: Backoff::new(AGENT_BACKOFF_MIN, AGENT_BACKOFF_MAX, settings.seed),
            settings,
            state: State::Disconnected { until: now },
            closing: false,
            epoch: 0,
            server_id: None,
            max_frame: FRAME_BYTES_DEFAULT,
            frames: VecDeque::new(),
            queued_bytes: 0,
            written_seq: 0,
            written_here_seq: 0,
            suspect: (0, 0),
            probe_until: 0,
            progress: Progress::default(),
            notices: VecDeque::new(),
            grant: Grant { window_bytes: 0, window_frames: 0, keepalive: Duration::ZERO },
            sent_seq: 0,
            in_flight_bytes: 0,
            inbox: Vec::new(),
            outbox: Vec::new(),
            last_sent: now,
            last_received: now,
            pings: 0,
            close_pending: false,
        })
    }

    // ---- for the user ----

    /// Takes a payload (an encoded `EventBatch`) of `events` events, gives it the next number and returns that.
    pub fn queue(&mut self, payload: &[u8], events: u32) -> Result<u64, QueueError> {
        if self.closing || matches!(self.state, State::Stopped(_)) {
            return Err(QueueError::Closing);
        }
        if payload.len() > self.max_frame {
            return Err(QueueError::TooLarge { bytes: payload.len(), max: self.max_frame });
        }
        if events as usize > FRAME_EVENTS_MAX {
            return Err(QueueError::TooManyEvents(events));
        }
        if !self.has_room(payload.len()) {
            return Err(QueueError::Full { queued: self.queued_bytes, max: self.settings.queue_bytes });
        }
        self.progress.last_seq += 1;
        let frame = Frame::new(self.progress.last_seq, payload, events);
        self.queued_bytes += frame.queue_bytes();
        self.frames.push_back(frame);
        Ok(self.progress.last_seq)
    }

    /// Whether a payload of this size would be queued now.
    pub fn has_room(&self, payload_bytes: usize) -> bool {
        let bytes = HEADER_BYTES + payload_bytes + size_of::<Frame>();
        self.frames.is_empty() || self.queued_bytes + bytes <= self.settings.queue_bytes
    }

    /// Takes no more frames and stops once all are acknowledged.
    pub fn close(&mut self) {
        self.closing = true;
        self.finish_if_done();
    }

    /// `Some`: no connection will be made again.
    pub fn stopped(&self) -> Option<&Stopped> {
        if let State::Stopped(reason) = &self.state { Some(reason) } else { None }
    }

    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Largest payload that the server takes, bytes; before the first WELCOME the protocol's usual one.
    pub fn max_frame(&self) -> usize {
        self.max_frame
    }

    /// The oldest notice that was not taken yet. Take them all from time to time: they wait in memory.
    pub fn take_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    // ---- for the driver of the connection ----

    /// Whether there is a connection that the driver reads from.
    pub fn is_connected(&self) -> bool {
        matches!(self.state, State::Greeting { .. } | State::Streaming | State::Draining)
    }

    /// A connection is open: HELLO goes first.
    pub fn connected(&mut self, now: Instant) {
        if self.state != State::Connecting {
            return;
        }
        self.state = State::Greeting { deadline: now + WELCOME_TIMEOUT };
        (self.last_sent, self.last_received) = (now, now);
        let hello = Hello {
            min_version: VERSION,
            max_version: VERSION,
            codecs: CODECS,
            ack: Ok(self.settings.ack),
            agent_id: self.settings.agent_id,
            epoch: self.epoch,
            oldest_seq: self.progress.acked_seq + 1,
            token: &self.settings.token,
            name: &self.settings.name,
        };
        hello.encode(&mut self.outbox);
    }

    /// The connection could not be made, has ended or failed.
    pub fn disconnected(&mut self, reason: String, now: Instant) {
        if self.is_connected() || self.state == State::Connecting {
            self.back_off(Lost::Connection(reason), Duration::ZERO, now);
        }
    }

    /// Bytes from the server, in any pieces.
    pub fn receive(&mut self, bytes: &[u8], now: Instant) {
        if !self.is_connected() {
            return;
        }
        self.last_received = now;
        let mut inbox = std::mem::take(&mut self.inbox);
        inbox.extend_from_slice(bytes);
        let mut read = 0;
        let outcome = loop {
            let caps = PayloadCaps { data: FRAME_BYTES_DEFAULT as u32 };
            match decode(inbox.get(read..).unwrap_or_default(), caps) {
                Ok(Decoded::Frame { header, payload }) => {
                    read += HEADER_BYTES + payload.len();
                    if let Err(fault) = self.handle(&header, payload, now) {
                        break Err(fault);
                    }
                    if !self.is_connected() {
                        break Ok(());
                    }
                }
                Ok(Decoded::NeedHeader | Decoded::Partial { .. }) => break Ok(()),
                Err(error) => break Err(error.into()),
            }
        };
        if let Err(fault) = outcome {
            self.give_up(fault.into(), Duration::ZERO, now);
        }
        if self.is_connected() {
            inbox.drain(..read);
            self.inbox = inbox;
        }
    }

    /// What to do now. Call it again after each action but `Wait`, and after whatever was waited for.
    pub fn poll(&mut self, now: Instant) -> Action {
        self.tick(now);
        if std::mem::take(&mut self.close_pending) {
            return Action::Close;
        }
        match self.state {
            State::Stopped(_) => Action::Stop,
            State::Disconnected { until } if now < until => Action::Wait(Some(until)),
            State::Disconnected { .. } => {
                self.state = State::Connecting;
                Action::Connect
            }
            State::Connecting => Action::Wait(None),
            State::Greeting { .. } | State::Streaming | State::Draining => {
                if !self.outbox.is_empty() {
                    self.last_sent = now;
                    return Action::Write(std::mem::take(&mut self.outbox).into());
                }
                if self.state == State::Streaming {
                    if let Some(bytes) = self.next_frame(now) {
                        return Action::Write(bytes);
                    }
                    if self.closing && self.sent_seq == self.progress.last_seq {
                        self.state = State::Draining;
                        return Action::HalfClose;
                    }
                }
                Action::Wait(self.deadline())
            }
        }
    }

    /// Lets timers fire; [`Agent::poll`] does it as well. A driver that is stuck in writing calls this from time to
    /// time and looks whether there still [is a connection](Agent::is_connected).
    pub fn tick(&mut self, now: Instant) {
        match self.state {
            State::Greeting { deadline } if now >= deadline => self.give_up(Lost::NoWelcome, Duration::ZERO, now),
            State::Streaming | State::Draining if now >= self.last_received + self.silence_max() => {
                self.give_up(Lost::Silent(now - self.last_received), Duration::ZERO, now);
            }
            State::Streaming if now >= self.last_sent + self.grant.keepalive / 2 => {
                self.pings += 1;
                answer::ping(self.pings, &mut self.outbox);
                self.last_sent = now;
            }
            _ => {}
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let silent = self.last_received + self.silence_max();
        match self.state {
            State::Greeting { deadline } => Some(deadline),
            State::Streaming => Some(silent.min(self.last_sent + self.grant.keepalive / 2)),
            State::Draining => Some(silent),
            _ => None,
        }
    }

    /// How long a living server may say nothing: what it grants this side (R13), and the time that the oldest frame
    /// may take to get there (R11), for nothing is acknowledged before.
    fn silence_max(&self) -> Duration {
        let on_the_way = self.frames.front().map_or(0, Frame::payload_bytes) as u64;
        self.grant.keepalive * 3 / 2 + Duration::from_secs(on_the_way / FRAME_RATE_MIN_BYTES_PER_SECOND)
    }

    /// The next frame that the window lets through (R10).
    fn next_frame(&mut self, now: Instant) -> Option<Bytes> {
        let in_flight = self.sent_seq - self.progress.acked_seq;
        let probing = self.progress.acked_seq < self.probe_until;
        if self.grant.window_bytes == 0
            || in_flight >= u64::from(self.grant.window_frames)
            || (probing && in_flight > 0)
        {
            return None;
        }
        let frame = self.frames.get(in_flight as usize)?;
        let in_flight_bytes = self.in_flight_bytes + frame.payload_bytes();
        if in_flight > 0 && in_flight_bytes > self.grant.window_bytes as usize {
            return None;
        }
        self.in_flight_bytes = in_flight_bytes;
        self.sent_seq += 1;
        self.written_seq = self.written_seq.max(self.sent_seq);
        self.written_here_seq = self.written_here_seq.max(self.sent_seq);
        self.last_sent = now;
        Some(frame.bytes.clone())
    }

    // ---- what the server says ----

    fn handle(&mut self, header: &Header, payload: &[u8], now: Instant) -> Result<(), ServerFault> {
        let streaming = matches!(self.state, State::Streaming | State::Draining);
        match header.kind {
            FrameKind::Welcome if !streaming => self.welcome(&Welcome::decode(payload)?),
            FrameKind::Goaway => {
                let goaway = Goaway::decode(payload).ok_or(ServerFault::ShortGoaway)?;
                self.goaway(&goaway, header.seq, now);
                Ok(())
            }
            FrameKind::Ack if streaming => self.ack(header.seq, header.arg),
            FrameKind::Nack if streaming => self.nack(header.seq, header.arg, payload),
            FrameKind::Ping if streaming => {
                if self.state == State::Streaming && self.outbox.is_empty() {
                    answer::pong(header.seq, &mut self.outbox);
                }
                Ok(())
            }
            FrameKind::Pong if streaming => {
                self.backoff.reset();
                Ok(())
            }
            FrameKind::Skippable(_) => Ok(()),
            unexpected => Err(ServerFault::Unexpected(unexpected)),
        }
    }

    fn welcome(&mut self, welcome: &Welcome) -> Result<(), ServerFault> {
        if let Some(asked) = self.settings.ack
            && asked != welcome.ack
        {
            return Err(ServerFault::AckLevel { asked, found: welcome.ack });
        }
        if welcome.epoch >= EPOCH_LIMIT || (self.epoch != 0 && welcome.epoch != self.epoch) {
            return Err(ServerFault::Epoch { asked: self.epoch, found: welcome.epoch });
        }
        self.check_seq(welcome.last_seq, self.progress.acked_seq)?;
        self.sent_seq = self.progress.acked_seq;
        self.acknowledge(welcome.last_seq);

        let same_server = self.server_id == Some(welcome.server_id) && welcome.resumed;
        if self.epoch != 0 && !same_server {
            let written = self.written_here_seq.saturating_sub(welcome.last_seq) as usize;
            let events = self.frames.iter().take(written).map(|frame| u64::from(frame.events)).sum();
            if events > 0 {
                self.progress.possibly_doubled_events += events;
                self.notices.push_back(Notice::PossiblyDoubled { events });
            }
            self.written_here_seq = welcome.last_seq;
        }
        (self.epoch, self.server_id) = (welcome.epoch, Some(welcome.server_id));
        self.max_frame = welcome.max_frame as usize;
        self.grant = Grant {
            window_bytes: welcome.window_bytes,
            window_frames: welcome.window_frames.max(1),
            keepalive: Duration::from_secs(u64::from(welcome.keepalive_seconds.max(1))),
        };
        self.state = State::Streaming;
        self.progress.connections += 1;
        self.notices.push_back(Notice::Connected(*welcome));
        if welcome.window_bytes == 0 {
            self.notices.push_back(Notice::Paused);
        }
        self.finish_if_done();
        Ok(())
    }

    fn ack(&mut self, seq: u64, window_bytes: u32) -> Result<(), ServerFault> {
        self.check_seq(seq, 0)?;
        if seq > self.progress.acked_seq {
            self.acknowledge(seq);
            self.backoff.reset();
        }
        let was_paused = std::mem::replace(&mut self.grant.window_bytes, window_bytes) == 0;
        match (was_paused, window_bytes == 0) {
            (false, true) => self.notices.push_back(Notice::Paused),
            (true, false) => self.notices.push_back(Notice::Resumed),
            _ => {}
        }
        self.finish_if_done();
        Ok(())
    }

    /// A frame is refused for good. It stays until the ACK that follows: if the connection is lost before, the server
    /// may have forgotten both, and the same bytes must fill the number (R7).
    fn nack(&mut self, seq: u64, code: u32, payload: &[u8]) -> Result<(), ServerFault> {
        self.check_seq(seq, 0)?;
        let Some(index) = seq.checked_sub(self.progress.acked_seq + 1) else { return Ok(()) };
        let Some(frame) = self.frames.get_mut(index as usize) else { return Ok(()) };
        if frame.refused.is_some() {
            return Ok(());
        }
        let code = NackCode::from_wire(code).ok_or(code);
        let refused = if code == Ok(NackCode::Partial) {
            #[derive(Deserialize)]
            struct Partial {
                accepted: u32,
            }
            let accepted = serde_json::from_slice(payload).map_or(0, |partial: Partial| partial.accepted);
            frame.events.saturating_sub(accepted)
        } else {
            frame.events
        };
        frame.refused = Some(refused);
        self.progress.refused_events += u64::from(refused);
        let reason = String::from_utf8_lossy(payload).into_owned();
        self.notices.push_back(Notice::Refused(Refusal { seq, code, reason, events: frame.events, refused }));
        Ok(())
    }

    fn goaway(&mut self, goaway: &Goaway<'_>, seq: u64, now: Instant) {
        let streaming = matches!(self.state, State::Streaming | State::Draining);
        if streaming && seq <= self.written_seq {
            self.acknowledge(seq);
        }
        let reason = Lost::Goaway { code: goaway.code, text: goaway.text.to_owned() };
        match goaway.code {
            Ok(code) if !code.retry() => {
                self.close_pending = true;
                self.state = State::Stopped(Stopped::Refused { code, text: goaway.text.to_owned() });
                return;
            }
            Ok(GoawayCode::Protocol) if streaming => self.suspect_oldest(),
            Ok(GoawayCode::Storage) => self.backoff.slow_down(),
            _ => {}
        }
        let not_before = Duration::from_millis(u64::from(goaway.retry_ms)).min(AGENT_BACKOFF_MAX);
        self.give_up(reason, not_before, now);
        self.finish_if_done();
    }

    /// A protocol error ended the connection. Which frame it was, the server does not say: the oldest in flight is
    /// blamed, and from now on one goes at a time until all that were in flight are through. So a wrong guess is
    /// made once only, and its count ends with the frame's acknowledgement.
    fn suspect_oldest(&mut self) {
        if self.sent_seq == self.progress.acked_seq {
            return; // nothing was in flight: it was no frame's fault
        }
        let seq = self.progress.acked_seq + 1;
        self.probe_until = self.written_seq;
        self.suspect = if self.suspect.0 == seq { (seq, self.suspect.1 + 1) } else { (seq, 1) };
        if self.suspect.1 < PROTOCOL_ERRORS_MAX {
            return;
        }
        self.suspect = (0, 0);
        let Some(frame) = self.frames.front_mut() else { return };
        if frame.payload_bytes() == 0 {
            return; // it is an empty one already
        }
        let aside = std::mem::replace(frame, Frame::new(seq, &[], 0));
        self.queued_bytes = self.queued_bytes + frame.queue_bytes() - aside.queue_bytes();
        self.progress.set_aside_events += u64::from(aside.events);
        let payload = aside.bytes.slice(HEADER_BYTES..);
        self.notices.push_back(Notice::SetAside { seq, payload, events: aside.events });
    }

    /// A number that the server says lies between `min` and what it has been sent.
    fn check_seq(&self, found: u64, min: u64) -> Result<(), ServerFault> {
        let max = self.written_seq;
        if (min..=max).contains(&found) { Ok(()) } else { Err(ServerFault::Sequence { found, min, max }) }
    }

    /// Drops the frames up to `seq`, which is at most `written_seq`.
    fn acknowledge(&mut self, seq: u64) {
        while self.progress.acked_seq < seq
            && let Some(frame) = self.frames.pop_front()
        {
            self.progress.acked_seq += 1;
            if self.progress.acked_seq <= self.sent_seq {
                self.in_flight_bytes -= frame.payload_bytes();
            }
            self.queued_bytes -= frame.queue_bytes();
            self.progress.acknowledged_events += u64::from(frame.events - frame.refused.unwrap_or(0));
        }
        self.sent_seq = self.sent_seq.max(self.progress.acked_seq);
    }

    fn finish_if_done(&mut self) {
        if self.closing && self.frames.is_empty() && self.stopped().is_none() {
            self.close_pending |= self.is_connected();
            self.state = State::Stopped(Stopped::Finished);
        }
    }

    /// This side ends the connection.
    fn give_up(&mut self, reason: Lost, not_before: Duration, now: Instant) {
        self.close_pending = true;
        self.back_off(reason, not_before, now);
    }

    fn back_off(&mut self, reason: Lost, not_before: Duration, now: Instant) {
        let retry_in = self.backoff.next_delay().max(not_before);
        self.state = State::Disconnected { until: now + retry_in };
        (self.sent_seq, self.in_flight_bytes) = (self.progress.acked_seq, 0);
        self.inbox = Vec::new();
        self.outbox.clear();
        self.notices.push_back(Notice::Disconnected { reason, retry_in });
    }
}

fn goaway_name(code: Result<GoawayCode, u32>) -> String {
    code.map_or_else(|number| format!("code {number}"), |code| code.name().to_owned())
}
