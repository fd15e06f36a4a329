//! The agent's side of the protocol: bytes, frames and `now` in; bytes, actions and notices out. No socket, no clock.
//!
//! ```text
//!                    connected          WELCOME             close, all acknowledged
//!  Disconnected ─▶ Connecting ─▶ Greeting ─▶ Streaming ─────────────────────────▶ Leaving (BYE, half-closed)
//!       ▲ backoff      │            │            │                                   │ server's end, 2 s, any error
//!       └──────────────┴────────────┴────────────┘                                   ▼
//!            connection lost, GOAWAY with retry, silence, server fault            Stopped ◀─ GOAWAY without retry
//! ```
//!
//! What must hold:
//! - The backlog outlives a connection: frames that are not acknowledged, numbered once, sent again as the same bytes (R6, R7).
//!   The epoch does not change after the first WELCOME. The exception to both is the empty frame of R16.
//! - Bytes in flight stay within the server's window (R10), bytes retained within `queue_bytes`; one frame always goes.
//! - Whatever the server sends, this side does not panic: invalid bytes end the connection, and the frames stay.

mod backlog;
mod notice;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

pub use self::backlog::{Progress, QueueError};
pub use self::notice::{Lost, Notice, Refusal, ServerFault, Stopped};

use self::backlog::{Backlog, Window};
use crate::backoff::Backoff;
use crate::limits::{
    AGENT_BACKOFF_MAX, AGENT_BACKOFF_MIN, BYE_TIMEOUT, EPOCH_LIMIT, FRAME_BYTES_DEFAULT,
    FRAME_RATE_MIN_BYTES_PER_SECOND, HEADER_BYTES, HELLO_BYTES_MAX, PROTOCOL_ERRORS_MAX, WELCOME_TIMEOUT,
};
use crate::random::Random;
use crate::wire::header::VERSION;
use crate::wire::hello::CODECS;
use crate::wire::{
    AckLevel, Decoded, FrameKind, Goaway, GoawayCode, Header, Hello, PayloadCaps, Welcome, answer, decode,
};

/// Of a HELLO's payload, before token and name.
const HELLO_FIXED_BYTES: usize = 48;

/// Who the agent is and what it may hold.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Random, created once, not all zero; kept by an agent that is to be recognised later.
    pub agent_id: [u8; 16],
    /// Display name, and the default `source` of the events.
    pub name: String,
    /// Sent in HELLO; empty if the server requires none.
    pub token: Vec<u8>,
    /// `None`: the server's default.
    pub ack: Option<AckLevel>,
    /// Bytes of all frames that are not acknowledged yet, sent or not. One frame is always allowed.
    pub queue_bytes: usize,
    /// Seed of the backoff's jitter.
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
    /// `agent_id` is all zero.
    #[error("agent_id is all zero: generate 16 random bytes")]
    AgentId,
    /// Token and name are too long for one HELLO.
    #[error("token and name make a HELLO of {found} bytes, the maximum is {HELLO_BYTES_MAX}: shorten them")]
    Hello {
        /// Bytes of the HELLO's payload.
        found: usize,
    },
}

/// What the driver of the connection does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Open a connection, then call [`Agent::connected`] or [`Agent::disconnected`].
    Connect,
    /// Write all of it, then poll again.
    Write(Bytes),
    /// Shut down the writing side and continue reading.
    HalfClose,
    /// Close the connection; [`Agent::disconnected`] is not called for it.
    Close,
    /// Nothing until bytes arrive, a frame is queued, or this time is there.
    Wait(Option<Instant>),
    /// It is over: see [`Agent::stopped`].
    Stop,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Disconnected {
        until: Instant,
    },
    Connecting,
    Greeting {
        deadline: Instant,
    },
    Streaming,
    /// Everything is acknowledged: BYE, then half-closed, waits for the server's end until then.
    Leaving {
        until: Option<Instant>,
        half_closed: bool,
    },
    Stopped(Stopped),
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
    backlog: Backlog,
    /// Number and count of the frame that protocol errors are put down to.
    suspect: (u64, u32),
    /// Up to here one frame at a time, so that a protocol error names its frame.
    probe_until: u64,
    notices: VecDeque<Notice>,

    // Of the current connection.
    window: Window,
    keepalive: Duration,
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
            backoff: Backoff::new(AGENT_BACKOFF_MIN, AGENT_BACKOFF_MAX, Random::seeded(settings.seed)),
            backlog: Backlog::new(settings.queue_bytes),
            settings,
            state: State::Disconnected { until: now },
            closing: false,
            epoch: 0,
            server_id: None,
            max_frame: FRAME_BYTES_DEFAULT,
            suspect: (0, 0),
            probe_until: 0,
            notices: VecDeque::new(),
            window: Window { bytes: 0, frames: 0 },
            keepalive: Duration::ZERO,
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
        self.backlog.push(payload, events, self.max_frame)
    }

    /// Whether a payload of this size would be queued now.
    #[cfg(test)]
    pub fn has_room(&self, payload_bytes: usize) -> bool {
        self.backlog.has_room(payload_bytes)
    }

    /// Takes no more frames. Once all are acknowledged it sends BYE, so that the server forgets it (R3), and stops.
    pub fn close(&mut self) {
        self.closing = true;
        self.finish_if_done();
    }

    /// `Some`: no connection will be opened again.
    pub fn stopped(&self) -> Option<&Stopped> {
        if let State::Stopped(reason) = &self.state { Some(reason) } else { None }
    }

    /// Sequence numbers and event counts so far.
    pub fn progress(&self) -> Progress {
        self.backlog.progress
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
        matches!(self.state, State::Greeting { .. } | State::Streaming | State::Leaving { .. })
    }

    /// Whether the server of this connection has sent WELCOME.
    pub fn is_welcome(&self) -> bool {
        matches!(self.state, State::Streaming | State::Leaving { .. })
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
            oldest_seq: self.backlog.progress.acked_seq + 1,
            token: &self.settings.token,
            name: &self.settings.name,
        };
        hello.encode(&mut self.outbox);
    }

    /// The connection could not be opened, has ended or failed.
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
            State::Greeting { .. } | State::Streaming | State::Leaving { .. } => {
                if !self.outbox.is_empty() {
                    self.last_sent = now;
                    return Action::Write(std::mem::take(&mut self.outbox).into());
                }
                if self.state == State::Streaming {
                    let probing = self.backlog.progress.acked_seq < self.probe_until;
                    let window = if probing { Window { frames: 1, ..self.window } } else { self.window };
                    if let Some(bytes) = self.backlog.next_frame(window) {
                        self.last_sent = now;
                        return Action::Write(bytes);
                    }
                }
                if let State::Leaving { half_closed, .. } = &mut self.state
                    && !std::mem::replace(half_closed, true)
                {
                    return Action::HalfClose;
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
            State::Streaming if now >= self.last_received + self.silence_max() => {
                self.give_up(Lost::Silent(now - self.last_received), Duration::ZERO, now);
            }
            State::Streaming if now >= self.last_sent + self.keepalive / 2 => {
                self.pings += 1;
                answer::ping(self.pings, &mut self.outbox);
                self.last_sent = now;
            }
            State::Leaving { until: Some(until), .. } if now >= until => self.leave(),
            State::Leaving { until: None, half_closed } => {
                self.state = State::Leaving { until: Some(now + BYE_TIMEOUT), half_closed };
            }
            _ => {}
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let silent = self.last_received + self.silence_max();
        match self.state {
            State::Greeting { deadline } => Some(deadline),
            State::Streaming => Some(silent.min(self.last_sent + self.keepalive / 2)),
            State::Leaving { until, .. } => until,
            _ => None,
        }
    }

    /// How long a running server may be silent: what it grants this side (R13), and the time that the oldest frame
    /// may take to get there (R11), for nothing is acknowledged before.
    fn silence_max(&self) -> Duration {
        let oldest_bytes = self.backlog.oldest_bytes() as u64;
        self.keepalive * 3 / 2 + Duration::from_secs(oldest_bytes / FRAME_RATE_MIN_BYTES_PER_SECOND)
    }

    // ---- what the server says ----

    fn handle(&mut self, header: &Header, payload: &[u8], now: Instant) -> Result<(), ServerFault> {
        let streaming = matches!(self.state, State::Streaming | State::Leaving { .. });
        match header.kind {
            FrameKind::Welcome if !streaming => self.welcome(&Welcome::decode(payload)?),
            FrameKind::Goaway => {
                let goaway = Goaway::decode(payload).ok_or(ServerFault::ShortGoaway)?;
                self.goaway(&goaway, header.seq, now);
                Ok(())
            }
            FrameKind::Ack if streaming => self.ack(header.seq, header.arg),
            FrameKind::Nack if streaming => {
                self.backlog.check(header.seq, 0)?;
                let refusal = self.backlog.refuse(header.seq, header.arg, payload);
                self.notices.extend(refusal.map(Notice::Refused));
                Ok(())
            }
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
        self.backlog.check(welcome.last_seq, self.backlog.progress.acked_seq)?;
        self.backlog.acknowledge(welcome.last_seq);
        let same_server = self.server_id == Some(welcome.server_id) && welcome.resumed;
        if self.epoch != 0 && !same_server {
            let events = self.backlog.change_server(welcome.last_seq);
            if events > 0 {
                self.notices.push_back(Notice::PossiblyDoubled { events });
            }
        }
        (self.epoch, self.server_id) = (welcome.epoch, Some(welcome.server_id));
        self.max_frame = welcome.max_frame as usize;
        self.window = Window { bytes: welcome.window_bytes, frames: welcome.window_frames };
        self.keepalive = Duration::from_secs(u64::from(welcome.keepalive_seconds.max(1)));
        self.state = State::Streaming;
        self.backlog.progress.connections += 1;
        self.notices.push_back(Notice::Connected(*welcome));
        if welcome.window_bytes == 0 {
            self.notices.push_back(Notice::Paused);
        }
        self.finish_if_done();
        Ok(())
    }

    fn ack(&mut self, seq: u64, window_bytes: u32) -> Result<(), ServerFault> {
        self.backlog.check(seq, 0)?;
        if seq > self.backlog.progress.acked_seq {
            self.backlog.acknowledge(seq);
            self.backoff.reset();
        }
        let was_paused = std::mem::replace(&mut self.window.bytes, window_bytes) == 0;
        match (was_paused, window_bytes == 0) {
            (false, true) => self.notices.push_back(Notice::Paused),
            (true, false) => self.notices.push_back(Notice::Resumed),
            _ => {}
        }
        self.finish_if_done();
        Ok(())
    }

    fn goaway(&mut self, goaway: &Goaway<'_>, seq: u64, now: Instant) {
        if self.is_leaving() {
            return self.leave();
        }
        let streaming = self.state == State::Streaming;
        if streaming && seq <= self.backlog.written_seq() {
            self.backlog.acknowledge(seq);
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
        if self.backlog.in_flight() == 0 {
            return; // it was no frame's fault
        }
        let seq = self.backlog.progress.acked_seq + 1;
        self.probe_until = self.backlog.written_seq();
        self.suspect = if self.suspect.0 == seq { (seq, self.suspect.1 + 1) } else { (seq, 1) };
        if self.suspect.1 >= PROTOCOL_ERRORS_MAX {
            self.suspect = (0, 0);
            let aside = self.backlog.set_aside_oldest();
            self.notices.extend(aside.map(|(seq, payload, events)| Notice::SetAside { seq, payload, events }));
        }
    }

    /// Once everything is acknowledged the server has nothing to remember (R3). Without a connection no
    /// BYE is sent: one mark more for a day costs less than waiting for a server.
    fn finish_if_done(&mut self) {
        if !self.closing || !self.backlog.is_empty() || self.stopped().is_some() || self.is_leaving() {
            return;
        }
        if self.state == State::Streaming {
            answer::bye(&mut self.outbox);
            self.state = State::Leaving { until: None, half_closed: false };
        } else {
            self.leave();
        }
    }

    fn is_leaving(&self) -> bool {
        matches!(self.state, State::Leaving { .. })
    }

    /// The end, with everything acknowledged.
    fn leave(&mut self) {
        self.close_pending |= self.is_connected();
        self.state = State::Stopped(Stopped::Finished);
    }

    /// This side ends the connection.
    fn give_up(&mut self, reason: Lost, not_before: Duration, now: Instant) {
        self.close_pending = true;
        self.back_off(reason, not_before, now);
    }

    fn back_off(&mut self, reason: Lost, not_before: Duration, now: Instant) {
        if self.is_leaving() {
            // However the connection ends now, nothing is left to send.
            return self.leave();
        }
        let retry_in = self.backoff.next_delay().max(not_before);
        self.state = State::Disconnected { until: now + retry_in };
        self.backlog.rewind();
        self.inbox = Vec::new();
        self.outbox.clear();
        self.notices.push_back(Notice::Disconnected { reason, retry_in });
    }
}
