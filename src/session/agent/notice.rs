//! What an agent has to say about its server: news, refusals, and why connections end.

use std::time::Duration;

use bytes::Bytes;

use crate::escape::Quoted;
use crate::limits::WELCOME_TIMEOUT;
use crate::wire::hello::WelcomeError;
use crate::wire::{AckLevel, FrameError, FrameKind, GoawayCode, NackCode, Welcome};

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
    #[error("the server ended the connection: {}: {}", goaway_name(*code), Quoted(text))]
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
    #[error("the server refuses this agent: {}: {}", code.name(), Quoted(text))]
    Refused { code: GoawayCode, text: String },
}

fn goaway_name(code: Result<GoawayCode, u32>) -> String {
    code.map_or_else(|number| format!("code {number}"), |code| code.name().to_owned())
}
