//! What an agent reports about its server: connections, refusals, and why connections end.

use std::time::Duration;

use bytes::Bytes;

use crate::escape::Quoted;
use crate::limits::WELCOME_TIMEOUT;
use crate::wire::hello::WelcomeError;
use crate::wire::{AckLevel, FrameError, FrameKind, GoawayCode, NackCode, Welcome};

/// Something that the agent's user may need to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The server accepted the agent and sent WELCOME.
    Connected(Welcome),
    /// The connection ended, or could not be opened.
    Disconnected {
        /// Why it ended.
        reason: Lost,
        /// Delay before the next attempt.
        retry_in: Duration,
    },
    /// The server will never take these events (R8, R9).
    Refused(Refusal),
    /// A frame that ended connection after connection; an empty one takes its place (R16).
    SetAside {
        /// Sequence number of the frame.
        seq: u64,
        /// The frame's encoded `EventBatch`.
        payload: Bytes,
        /// Number of events in the payload.
        events: u32,
    },
    /// The server asks for a pause; the connection stays.
    Paused,
    /// The server accepts frames again, after `Paused`.
    Resumed,
    /// These events may be stored twice: another server, or one that lost its state, gets them again.
    PossiblyDoubled {
        /// Number of events that are sent again.
        events: u64,
    },
}

/// A NACK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Sequence number of the refused frame.
    pub seq: u64,
    /// An unknown number is kept; it is as permanent as the known ones.
    pub code: Result<NackCode, u32>,
    /// The server's message. PARTIAL: JSON that names the refused events by their index in the frame.
    pub reason: String,
    /// Events of the frame, and how many of them are refused.
    pub events: u32,
    /// Number of refused events.
    pub refused: u32,
}

/// Why a connection ended, or could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// Reported by the driver.
    #[error("{0}")]
    Connection(String),
    /// The server did not answer HELLO with WELCOME in time.
    #[error("no WELCOME within {WELCOME_TIMEOUT:?}: the address may not be a telemetryx server, or it is overloaded")]
    NoWelcome,
    /// The server sent nothing for this time, longer than the keepalive allows.
    #[error("the server was silent for {0:?}")]
    Silent(Duration),
    /// The server ended the connection with a GOAWAY.
    #[error("the server ended the connection: {}: {}", goaway_name(*code), Quoted(text))]
    Goaway {
        /// Unknown numbers are kept; the agent reconnects after those.
        code: Result<GoawayCode, u32>,
        /// The server's message, unescaped.
        text: String,
    },
    /// This side ended the connection, because the server broke the protocol.
    #[error(transparent)]
    Fault(#[from] ServerFault),
}

/// The server broke the protocol. The connection ends, and the agent tries again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServerFault {
    /// Bytes that are not a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A WELCOME that cannot be decoded.
    #[error(transparent)]
    Welcome(#[from] WelcomeError),
    /// A frame that a server may not send, or not in this state.
    #[error("the server sent a {0:?} frame where none is allowed")]
    Unexpected(FrameKind),
    /// A GOAWAY without its fixed part.
    #[error("the server sent a GOAWAY that is shorter than 8 bytes")]
    ShortGoaway,
    /// WELCOME has another ack level than HELLO asked for.
    #[error("the server gave ack level {}, not the requested {}", found.name(), asked.name())]
    AckLevel {
        /// The level in HELLO.
        asked: AckLevel,
        /// The level in WELCOME.
        found: AckLevel,
    },
    /// WELCOME has an epoch that is out of range or differs from the agent's.
    #[error("the server gave epoch {found} instead of {asked} (if 0, a new one below 2^62 was requested)")]
    Epoch {
        /// The epoch in HELLO; 0 asks for a new one.
        asked: u64,
        /// The epoch in WELCOME.
        found: u64,
    },
    /// A sequence number was acknowledged that is out of range.
    #[error(
        "the server says {found} for a sequence number that lies within {min} to {max}: does another agent have the \
         same agent_id?"
    )]
    Sequence {
        /// The number that the server sent.
        found: u64,
        /// Lowest possible number.
        min: u64,
        /// Highest possible number: the last one that was written.
        max: u64,
    },
}

/// Why the agent does not connect again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    /// The agent was closed, and every frame is acknowledged.
    #[error("closed; everything is acknowledged")]
    Finished,
    /// AUTH, VERSION, FENCED or ACK_LEVEL: trying again would change nothing.
    #[error("the server refuses this agent: {}: {}", code.name(), Quoted(text))]
    Refused {
        /// Code of the server's GOAWAY.
        code: GoawayCode,
        /// The server's message, unescaped.
        text: String,
    },
}

fn goaway_name(code: Result<GoawayCode, u32>) -> String {
    code.map_or_else(|number| format!("code {number}"), |code| code.name().to_owned())
}
