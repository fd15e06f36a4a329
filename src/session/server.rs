//! The server's side of one agent connection.
//!
//! ```text
//!             HELLO accepted            ticket of the older connection passed        BYE
//!  Opening ───────────────────▶ Settling ───────────────────────────────────▶ Streaming ──▶ Left (mark given back)
//!     │ 5 s (R12)                  │                                 DATA, PING │
//!     └─────────── GOAWAY ─────────┴──────────────── GOAWAY ────────────────────┴─────────▶ Closed
//! ```
//!
//! Bytes and `now` come in ([`super::receive`]); answers are appended to `out`; events go to an
//! [`Ingress`](super::receive::Ingress). The session keeps a FIFO of (ticket, seq) and answers all up to a watermark with
//! one ACK (R1). The file `limited` has what a session does about limits.

mod limited;
mod readmission;

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::marks::{AgentId, Asking, Greeted, Greeting, GreetingError, Mark, Marks, Place};
use super::tokens::Admitted;
use crate::ids::{ClientId, ConnectionId, Ticket};
use crate::limits::{
    ACK_DELAY_MIN, ACK_REPEAT, FRAME_RATE_MIN_BYTES_PER_SECOND, FRAME_TIMEOUT, HELLO_TIMEOUT, RETRY_HINT_MS,
    STALLED_FRAME_TIMEOUT,
};
use crate::rate::Due;
use crate::wire::answer;
use crate::wire::hello::{CODECS, common_version};
use crate::wire::{AckLevel, FrameError, FrameKind, Goaway, GoawayCode, Header, Hello, NackCode, PayloadCaps, Welcome};

/// What all sessions of a server share.
#[derive(Debug, Clone)]
pub struct SessionSettings {
    /// Sent in WELCOME; an agent that sees another one resends what may be missing.
    pub server_id: [u8; 16],
    /// Largest DATA payload, bytes; raw and framed are the same while there is no codec.
    pub max_frame_bytes: u32,
    /// Payload bytes that an agent may have unacknowledged.
    pub window_bytes: u32,
    /// Frames that an agent may have unacknowledged.
    pub window_frames: u16,
    /// The interval sent in WELCOME. A connection that is silent for 1.5 times as long is closed (R13).
    pub keepalive: Duration,
    /// The level of agents whose HELLO asks for none.
    pub default_ack: AckLevel,
    /// The highest level that can be kept: *received* without a log.
    pub highest_ack: AckLevel,
}

impl SessionSettings {
    /// Whether there is a log.
    pub fn has_log(&self) -> bool {
        self.highest_ack > AckLevel::Received
    }

    /// Why no higher level is offered.
    pub fn highest_ack_because(&self) -> &'static str {
        match self.highest_ack {
            AckLevel::Received => "it has no log",
            AckLevel::Written | AckLevel::Synced => "no sink is required",
            AckLevel::Delivered => "there is no higher one",
        }
    }

    fn not_offered(&self, wanted: u32) -> Reason {
        let wanted = AckLevel::from_wire(wanted).map_or(wanted.to_string(), |level| format!("`{}`", level.name()));
        Reason::AckLevel { wanted, highest: self.highest_ack.name(), because: self.highest_ack_because() }
    }

    /// The level by which what an agent sent is settled (R5), and its epoch kept (R4).
    pub fn settled_level(&self) -> AckLevel {
        if self.has_log() { AckLevel::Synced } else { AckLevel::Received }
    }

    /// Largest payloads, for the decoder.
    pub fn payload_caps(&self) -> PayloadCaps {
        PayloadCaps { data: self.max_frame_bytes }
    }
}

/// The marks of all agents. A thread that panicked leaves them as they were: each call changes one entry.
pub fn lock(marks: &Mutex<Marks>) -> MutexGuard<'_, Marks> {
    marks.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Decides on tokens; the server's is in constant time.
pub trait Gate {
    /// What the token is known by, and the client that it belongs to, if it is the token of one.
    ///
    /// # Errors
    /// Why the agent is not let in, for GOAWAY(AUTH).
    fn admit(&self, token: &[u8]) -> Result<Admitted, &'static str>;
}

/// What every call gets: the clock, fresh randomness, and what all sessions of the server share.
pub struct Turn<'a> {
    /// Time of the call.
    pub now: Instant,
    /// Seeds a first epoch and the jitter of retry hints.
    pub random: u64,
    /// Settings of the server.
    pub settings: &'a SessionSettings,
    /// Marks of all agents.
    pub marks: &'a Mutex<Marks>,
    /// Decides on the token of a HELLO.
    pub gate: &'a dyn Gate,
}

/// What a frame asks [`ServerSession::receive`] and [`ServerSession::greet`] to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing.
    Continue,
    /// An agent was accepted: if the epoch is new and there is a log, put it in there and call
    /// [`ServerSession::epoch_logged`]; then [`ServerSession::settled`] as the log advances.
    Greeted(Greeting),
    /// An older connection of the agent holds its mark: close that one, then show the HELLO again (R5).
    LentTo(ConnectionId),
    /// While the HELLO waited, a newer connection of the agent came: close without a word (R5).
    Superseded,
    /// The next DATA of the sequence: check and store its payload, then call [`ServerSession::taken`].
    Data,
    /// A DATA that can never be stored; keep it in the dead letters, then call [`ServerSession::taken`] with the code.
    Refuse(NackCode, &'static str),
    /// BYE: the agent is done. If there is a log, put that in there, with the last number that was acknowledged; then call
    /// [`ServerSession::forget`], flush and close, without a GOAWAY.
    Bye { last_seq: u64 },
    /// GOAWAY is written: flush, linger, close. The name is for logs and counters.
    Close(GoawayCode),
}

/// Why the server ends the connection, as text for the agent's operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Reason {
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Hello(#[from] crate::wire::hello::HelloError),
    #[error("{0}")]
    Greeting(#[from] GreetingError),
    #[error("this server speaks version 1; the agent speaks {min} to {max}")]
    Version { min: u8, max: u8 },
    #[error("ack level {wanted} is not offered: this server acknowledges at most `{highest}` ({because})")]
    AckLevel { wanted: String, highest: &'static str, because: &'static str },
    #[error("{0}")]
    Plain(&'static str),
    #[error("received frame {seq}, expected {expected}: frames were lost on the agent's side, or reordered")]
    Gap { seq: u64, expected: u64 },
    #[error("frame {0} was sent again with other bytes: an agent must resend the same bytes")]
    Altered(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Opening,
    Settling(Greeting),
    Streaming,
    /// BYE was received, or the mark was given back.
    Left,
    Closed,
}

#[derive(Debug, Clone, Copy)]
struct Pending {
    ticket: Ticket,
    seq: u64,
    bytes: u32,
    received: Instant,
}

/// A frame of which only a part has come (R11).
#[derive(Debug, Clone, Copy)]
struct Partial {
    since: Instant,
    progress: Instant,
    have: usize,
    total: usize,
}

/// One agent's connection.
#[derive(Debug)]
pub struct ServerSession {
    state: State,
    connection: ConnectionId,
    opened: Instant,
    heard: Instant,
    partial: Option<Partial>,
    agent_id: AgentId,
    /// Lent by [`Marks`] from HELLO on; see [`ServerSession::leave`].
    mark: Option<Mark>,
    name: String,
    /// What it was admitted with.
    admitted: Admitted,
    level: AckLevel,
    pending: VecDeque<Pending>,
    pending_bytes: u64,
    acked_seq: u64,
    acked_at: Instant,
    /// A duplicate was received: repeat the last ACK.
    ack_due: bool,
    /// Its HELLO was shown to the marks, and may have had to wait.
    has_asked: bool,
    /// The caller does not read this connection: its peer must not be blamed, and is sent the last ACK every second.
    paused: bool,
    keepalive: Duration,
    /// What is due by a limit on the agent; kept in its mark while it is not connected.
    due: Due,
    window: limited::Window,
}

impl ServerSession {
    /// A session that waits for HELLO until `now` and its timeout.
    pub fn new(connection: ConnectionId, settings: &SessionSettings, now: Instant) -> Self {
        Self {
            state: State::Opening,
            connection,
            opened: now,
            heard: now,
            partial: None,
            agent_id: [0; 16],
            mark: None,
            name: String::new(),
            admitted: Admitted::default(),
            level: settings.default_ack,
            pending: VecDeque::new(),
            pending_bytes: 0,
            acked_seq: 0,
            acked_at: now,
            ack_due: false,
            has_asked: false,
            paused: false,
            keepalive: settings.keepalive,
            due: Due::default(),
            window: limited::Window::default(),
        }
    }

    /// The level at which DATA is acknowledged; the default until HELLO is accepted.
    pub fn level(&self) -> AckLevel {
        self.level
    }

    /// The agent, once its HELLO was accepted.
    pub fn agent_id(&self) -> Option<&AgentId> {
        (self.agent_id != [0; 16]).then_some(&self.agent_id)
    }

    /// HELLO's name; may be empty.
    pub fn agent_name(&self) -> &str {
        &self.name
    }

    /// The client whose token was in HELLO, once it was accepted.
    pub fn client(&self) -> Option<ClientId> {
        self.admitted.client
    }

    /// The last number that was acknowledged.
    pub fn acked_seq(&self) -> u64 {
        self.acked_seq
    }

    /// Whether a HELLO was accepted.
    pub fn is_authenticated(&self) -> bool {
        self.agent_id().is_some()
    }

    /// Whether a GOAWAY is written; nothing more is accepted.
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Whether frames may be shown to the session now: not while the log settles a takeover, not over the window (R10).
    pub fn may_receive(&self, settings: &SessionSettings) -> bool {
        match self.state {
            State::Opening => true,
            State::Streaming => {
                // One frame is always allowed, however large.
                self.pending.is_empty()
                    || (self.pending_bytes < u64::from(settings.window_bytes)
                        && self.pending.len() < usize::from(settings.window_frames))
            }
            State::Settling(_) | State::Left | State::Closed => false,
        }
    }

    /// One whole frame. After [`Step::Data`] and [`Step::Refuse`] comes [`ServerSession::taken`] before the next frame.
    pub(super) fn frame(&mut self, header: &Header, payload: &[u8], turn: &mut Turn<'_>, out: &mut Vec<u8>) -> Step {
        let random = turn.random;
        self.heard = turn.now;
        self.partial = None;
        match (self.state, header.kind) {
            (State::Left | State::Closed | State::Settling(_), _) => Step::Continue,
            (_, FrameKind::Skippable(_)) => Step::Continue,
            (State::Opening, FrameKind::Hello) => self
                .hello(payload, turn)
                .unwrap_or_else(|(code, reason)| Step::Close(self.close(code, &reason.to_string(), random, out))),
            (State::Opening, _) => {
                Step::Close(self.close(GoawayCode::Protocol, "the first frame must be a HELLO", random, out))
            }
            (State::Streaming, FrameKind::Data) => self.data(header, turn, out),
            (State::Streaming, FrameKind::Ping) => {
                answer::pong(header.seq, out);
                Step::Continue
            }
            (State::Streaming, FrameKind::Pong) => Step::Continue,
            (State::Streaming, FrameKind::Bye) => self.bye(),
            (State::Streaming, FrameKind::Hello) => {
                Step::Close(self.close(GoawayCode::Protocol, "a second HELLO", random, out))
            }
            (State::Streaming, FrameKind::Welcome | FrameKind::Ack | FrameKind::Nack | FrameKind::Goaway) => {
                Step::Close(self.close(GoawayCode::Protocol, "a frame that only servers send", random, out))
            }
        }
    }

    fn hello(&mut self, payload: &[u8], turn: &mut Turn<'_>) -> Result<Step, (GoawayCode, Reason)> {
        let settings = turn.settings;
        let hello = Hello::decode(payload).map_err(|error| (GoawayCode::Protocol, error.into()))?;
        if common_version(hello.min_version, hello.max_version).is_none() {
            let reason = Reason::Version { min: hello.min_version, max: hello.max_version };
            return Err((GoawayCode::Version, reason));
        }
        let admitted = turn.gate.admit(hello.token).map_err(|reason| (GoawayCode::Auth, Reason::Plain(reason)))?;
        let wanted = match hello.ack {
            Ok(level) => level.unwrap_or(settings.default_ack),
            Err(wanted) => {
                return Err((GoawayCode::AckLevel, settings.not_offered(wanted)));
            }
        };
        if wanted > settings.highest_ack {
            return Err((GoawayCode::AckLevel, settings.not_offered(wanted as u32)));
        }
        let asking = Asking { connection: self.connection, again: self.has_asked, client: admitted.client };
        self.has_asked = true;
        let greeted = lock(turn.marks)
            .greet(hello.agent_id, hello.epoch, hello.oldest_seq, asking, turn.now, turn.random)
            .map_err(|error| match error {
                GreetingError::Fenced { .. } => (GoawayCode::Fenced, error.into()),
                GreetingError::OtherClient => (GoawayCode::Auth, error.into()),
                GreetingError::TooManyAgents { .. } => (GoawayCode::Overloaded, error.into()),
                GreetingError::EpochsUsedUp => (GoawayCode::Protocol, error.into()),
            })?;
        let (greeting, mark) = match greeted {
            Greeted::Accepted(greeting, mark) => (greeting, mark),
            Greeted::LentTo(older) => return Ok(Step::LentTo(older)),
            Greeted::Superseded => return Ok(Step::Superseded),
        };
        (self.agent_id, self.mark, self.due) = (hello.agent_id, Some(mark), mark.due);
        self.admitted = admitted;
        self.name = hello.name.to_owned();
        self.level = wanted;
        self.state = State::Settling(greeting);
        Ok(Step::Greeted(greeting))
    }

    /// The agent's new epoch is on its way into the log under `ticket`: WELCOME waits for it (R4).
    pub fn epoch_logged(&mut self, ticket: Ticket) {
        if let (State::Settling(greeting), Some(mark)) = (&mut self.state, &mut self.mark) {
            (greeting.after_ticket, mark.last_ticket) = (ticket, ticket);
        }
    }

    /// Writes WELCOME if what it waited for is in the log for good (without one: in memory). `reached`: whether a
    /// ticket has reached a level.
    pub fn settled(&mut self, reached: impl Fn(Ticket, AckLevel) -> bool, turn: &Turn<'_>, out: &mut Vec<u8>) {
        let (now, settings) = (turn.now, turn.settings);
        let State::Settling(greeting) = self.state else { return };
        if !reached(greeting.after_ticket, settings.settled_level()) {
            return;
        }
        // R4: what is stored and not delivered is not acknowledged at this level. The agent sends it again, and hears
        // the ACK of a duplicate once it is delivered.
        let owed = self.level == AckLevel::Delivered && !reached(greeting.after_ticket, AckLevel::Delivered);
        let last_seq = if owed { greeting.oldest_seq.saturating_sub(1) } else { greeting.last_seq };
        self.acked_seq = last_seq;
        (self.heard, self.acked_at) = (now, now);
        self.state = State::Streaming;
        let welcome = Welcome {
            version: crate::wire::header::VERSION,
            ack: self.level,
            codecs: CODECS,
            max_frame: settings.max_frame_bytes,
            max_raw: settings.max_frame_bytes,
            window_bytes: settings.window_bytes,
            window_frames: settings.window_frames,
            keepalive_seconds: settings.keepalive.as_secs() as u16,
            resumed: greeting.resumed,
            epoch: greeting.epoch,
            last_seq,
            server_id: settings.server_id,
        };
        welcome.encode(out);
    }

    /// BYE: the agent's mark is to be deleted (R3). While a frame is not acknowledged nothing changes, for the agent may
    /// come back and send the frame again.
    fn bye(&mut self) -> Step {
        if self.ack_due || self.mark.is_none_or(|mark| mark.last_seq != self.acked_seq) {
            return Step::Continue;
        }
        self.state = State::Left;
        Step::Bye { last_seq: self.acked_seq }
    }

    /// Deletes the agent's mark, once its BYE is on its way into the log.
    pub(super) fn forget(&mut self, turn: &Turn<'_>) {
        self.mark = None;
        lock(turn.marks).forget(&self.agent_id, self.connection);
    }

    fn data(&mut self, header: &Header, turn: &mut Turn<'_>, out: &mut Vec<u8>) -> Step {
        let (settings, random) = (turn.settings, turn.random);
        // Without a mark the session is over, and takes nothing.
        let Some(mark) = self.mark else { return Step::Continue };
        match mark.place(header.seq, header.payload_crc) {
            Place::Duplicate => {
                let asked = self.pending.back().map_or(self.acked_seq, |last| last.seq);
                if self.level == AckLevel::Delivered && header.seq > asked {
                    // Stored before, perhaps not yet delivered: by its agent's last ticket it is.
                    self.wait_for(mark.last_ticket, header, turn.now);
                } else {
                    self.ack_due = true;
                }
                Step::Continue
            }
            Place::Altered => {
                let reason = Reason::Altered(header.seq).to_string();
                Step::Close(self.close(GoawayCode::Protocol, &reason, random, out))
            }
            Place::Gap { expected } => {
                let reason = Reason::Gap { seq: header.seq, expected }.to_string();
                Step::Close(self.close(GoawayCode::SeqGap, &reason, random, out))
            }
            Place::Next if header.arg > settings.max_frame_bytes => {
                Step::Refuse(NackCode::TooLarge, "arg is above the max_raw of WELCOME")
            }
            Place::Next if header.codec != 0 => {
                Step::Refuse(NackCode::Codec, "the payload's codec was not offered in WELCOME")
            }
            Place::Next if header.arg != header.length => {
                Step::Refuse(NackCode::Decompress, "without a codec, arg must equal length")
            }
            Place::Next => Step::Data,
        }
    }

    /// The DATA `header` was handed on under `ticket`, whole or without what `nack` names; its sequence number is
    /// used up. A NACK is written now, before the first ACK that covers it (R8).
    pub(super) fn taken(
        &mut self,
        header: &Header,
        ticket: Ticket,
        nack: Option<(NackCode, &str)>,
        turn: &mut Turn<'_>,
        out: &mut Vec<u8>,
    ) {
        let now = turn.now;
        if let Some((code, reason)) = nack {
            answer::nack(header.seq, code, reason, out);
        }
        if let Some(mark) = &mut self.mark {
            mark.advance(header.seq, header.payload_crc, ticket);
        }
        self.wait_for(ticket, header, now);
    }

    fn wait_for(&mut self, ticket: Ticket, header: &Header, now: Instant) {
        self.pending_bytes += u64::from(header.length);
        self.pending.push_back(Pending { ticket, seq: header.seq, bytes: header.length, received: now });
    }

    /// Whether something waits for a watermark, a duplicate asks for its ACK, or the window is to be opened again.
    pub fn is_waiting(&self) -> bool {
        match self.state {
            State::Settling(_) => true,
            State::Streaming => self.ack_due || self.window.is_due() || !self.pending.is_empty(),
            State::Opening | State::Left | State::Closed => false,
        }
    }

    /// Whether an ACK may wait for a later turn, where this connection has more to be read in the next one: each costs both sides
    /// a message and a wake-up. ACKs are then [`ACK_DELAY_MIN`] apart, or a quarter of the window.
    pub fn may_acknowledge_later(&self, settings: &SessionSettings, now: Instant) -> bool {
        self.state == State::Streaming
            && !self.ack_due
            && !self.window.is_due()
            && self.pending_bytes < u64::from(settings.window_bytes / 4)
            && self.pending.len() < usize::from(settings.window_frames / 4)
            && now < self.acked_at + ACK_DELAY_MIN
    }

    /// One ACK for all that has reached this connection's level. `observe` is called with the age of each frame that it
    /// covers.
    pub fn acknowledge(
        &mut self,
        reached: impl Fn(Ticket, AckLevel) -> bool,
        turn: &Turn<'_>,
        out: &mut Vec<u8>,
        mut observe: impl FnMut(Duration),
    ) {
        if self.state != State::Streaming {
            return;
        }
        while let Some(first) = self.pending.front()
            && reached(first.ticket, self.level)
        {
            self.acked_seq = first.seq;
            self.pending_bytes -= u64::from(first.bytes);
            observe(turn.now.saturating_duration_since(first.received));
            self.ack_due = true;
            self.pending.pop_front();
        }
        if self.ack_due || self.window.is_due() {
            self.write_ack(turn, out);
        }
    }

    fn write_ack(&mut self, turn: &Turn<'_>, out: &mut Vec<u8>) {
        answer::ack(self.acked_seq, self.window.bytes_to_send(turn.settings), out);
        (self.ack_due, self.acked_at) = (false, turn.now);
    }

    /// A read left a frame of `total` bytes (or a header) incomplete, of which `have` are here.
    pub(super) fn partial(&mut self, have: usize, total: usize, now: Instant) {
        match &mut self.partial {
            Some(partial) => {
                if have > partial.have {
                    (partial.have, partial.progress, partial.total) = (have, now, total);
                }
            }
            None => self.partial = Some(Partial { since: now, progress: now, have, total }),
        }
        self.heard = now;
    }

    /// The caller stops or begins to read this connection. Timers on the peer run only while it is read (R11).
    pub fn set_paused(&mut self, paused: bool, now: Instant) {
        if self.paused == paused {
            return;
        }
        self.paused = paused;
        if !paused {
            self.heard = now;
            if let Some(partial) = &mut self.partial {
                (partial.since, partial.progress) = (now, now);
            }
        }
    }

    /// When [`ServerSession::handle_timeout`] has something to do. `pressure`: others wait for memory.
    pub fn deadline(&self, pressure: bool) -> Option<Instant> {
        let repeat = (self.state == State::Streaming && (self.paused || !self.pending.is_empty()))
            .then(|| self.acked_at + ACK_REPEAT);
        let peer = match self.state {
            State::Left | State::Closed | State::Settling(_) => None,
            _ if self.paused => None,
            State::Opening => Some(self.opened + HELLO_TIMEOUT),
            State::Streaming => Some(match &self.partial {
                Some(partial) => partial.deadline(pressure),
                // Frames that wait for a commit are no silence of the agent's.
                None => self.heard + self.keepalive.mul_f32(1.5),
            }),
        };
        [repeat, peer].into_iter().flatten().min()
    }

    /// Call when the deadline is over; for a peer's own timers only after a read that found nothing. `Some`: a GOAWAY is
    /// written.
    pub fn handle_timeout(&mut self, pressure: bool, turn: &Turn<'_>, out: &mut Vec<u8>) -> Option<GoawayCode> {
        let (now, random) = (turn.now, turn.random);
        if self.state == State::Streaming
            && (self.paused || !self.pending.is_empty())
            && now >= self.acked_at + ACK_REPEAT
        {
            self.write_ack(turn, out);
        }
        match self.state {
            _ if self.paused => None,
            State::Opening if now >= self.opened + HELLO_TIMEOUT => {
                Some(self.close(GoawayCode::Idle, "no HELLO within 5 s of connecting", random, out))
            }
            State::Streaming => match &self.partial {
                Some(partial) if now >= partial.deadline(pressure) => {
                    let text =
                        "a frame took longer than 10 s plus 1 s per 64 KiB, or made no progress while memory was short";
                    Some(self.close(GoawayCode::FrameTimeout, text, random, out))
                }
                None if now >= self.heard + self.keepalive.mul_f32(1.5) => {
                    Some(self.close(GoawayCode::Idle, "nothing received for 1.5 × keepalive: send PING", random, out))
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// Bytes that are not frames.
    pub(super) fn broken(&mut self, error: FrameError, random: u64, out: &mut Vec<u8>) -> GoawayCode {
        // A sound header of another version is another protocol; all else may be damage on the way, and is retried.
        let code = if matches!(error, FrameError::Version(_)) { GoawayCode::Version } else { GoawayCode::Protocol };
        self.close(code, &error.to_string(), random, out)
    }

    /// Ends the session from the server's side: SHUTDOWN, OVERLOADED, STORAGE. Writes nothing after a BYE.
    pub fn end(&mut self, code: GoawayCode, text: &str, random: u64, out: &mut Vec<u8>) -> GoawayCode {
        self.close(code, text, random, out)
    }

    /// The connection is gone, or replaced by a newer one: gives the agent's mark back. Nothing more is taken.
    pub fn leave(&mut self, is_replaced: bool, marks: &mut Marks, now: Instant) {
        self.state = State::Left;
        if let Some(mark) = self.mark.take() {
            let mark = Mark { due: self.due, ..mark };
            marks.give_back(&self.agent_id, mark, self.connection, is_replaced, now);
        }
    }

    fn close(&mut self, code: GoawayCode, text: &str, random: u64, out: &mut Vec<u8>) -> GoawayCode {
        if !matches!(self.state, State::Left | State::Closed) {
            self.state = State::Closed;
            let retry_ms = if code.retry() { RETRY_HINT_MS / 2 + random as u32 % (RETRY_HINT_MS / 2) } else { 0 };
            Goaway { code: Ok(code), retry_ms, text }.encode(self.acked_seq, out);
        }
        code
    }
}

impl Partial {
    fn deadline(&self, pressure: bool) -> Instant {
        let transfer = |bytes: usize| Duration::from_secs_f64(bytes as f64 / FRAME_RATE_MIN_BYTES_PER_SECOND as f64);
        let slow = self.since + FRAME_TIMEOUT + transfer(self.total);
        if !pressure {
            return slow;
        }
        // By rate, not only by rest: a byte a second is progress, and holds a frame's memory all the same.
        let trickling = self.since + STALLED_FRAME_TIMEOUT + transfer(self.have);
        slow.min(self.progress + STALLED_FRAME_TIMEOUT).min(trickling)
    }
}
