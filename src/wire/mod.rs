//! Protocol version 1 as bytes: frame header, decoder, encoder, checksums. See `docs/protocol.md`.
//!
//! Everything here takes slices and returns values; which side may send what and when is decided in `session`.

pub mod answer;
pub mod decoder;
pub mod header;
pub mod hello;
#[cfg(test)]
mod tests;

pub use answer::Goaway;
pub use decoder::{Decoded, PayloadCaps, decode};
pub use header::{FrameError, FrameKind, Header};
pub use hello::{Hello, Welcome};

use serde::{Deserialize, Serialize};

/// What an ACK (or a 200) promises of every event up to it. Ordered: a higher level promises more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum AckLevel {
    /// In the server's memory.
    Received = 1,
    /// In the log file: survives kill -9 of the server.
    Written = 2,
    /// fdatasync returned: survives power loss.
    Synced = 3,
    /// Past the position of every sink marked `required`.
    Delivered = 4,
}

impl AckLevel {
    /// Every level, the lowest first.
    pub const ALL: [Self; 4] = [Self::Received, Self::Written, Self::Synced, Self::Delivered];

    /// The level of a number in a frame; `None` if it is unknown, or 0.
    pub fn from_wire(level: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|known| *known as u32 == level)
    }

    /// The name in settings, flags and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Written => "written",
            Self::Synced => "synced",
            Self::Delivered => "delivered",
        }
    }
}

impl std::str::FromStr for AckLevel {
    type Err = UnknownAckLevel;

    fn from_str(name: &str) -> Result<Self, UnknownAckLevel> {
        Self::ALL.into_iter().find(|level| level.name() == name).ok_or_else(|| UnknownAckLevel(name.to_owned()))
    }
}

/// A name that is not an ack level.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown ack level `{0}`: use received, written, synced or delivered")]
pub struct UnknownAckLevel(String);

/// Why one DATA frame, or some of its events, will never be taken. Permanent: the agent does not retry (R8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum NackCode {
    /// The payload is not an `EventBatch`.
    Malformed = 1,
    /// Reserved for codecs: decompression failed, or the length differs.
    Decompress = 2,
    /// Uncompressed length above max_raw, or too many events.
    TooLarge = 3,
    /// Every event was refused.
    Invalid = 4,
    /// Some events were refused; the others are stored.
    Partial = 5,
    /// The codec was not offered in WELCOME.
    Codec = 6,
}

impl NackCode {
    /// Every code, in the order of the numbers.
    pub const ALL: [Self; 6] =
        [Self::Malformed, Self::Decompress, Self::TooLarge, Self::Invalid, Self::Partial, Self::Codec];

    /// The code of a number in a frame; `None` if it is unknown.
    pub fn from_wire(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|known| *known as u32 == code)
    }

    /// The name in the protocol's documentation, for messages and log lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "MALFORMED",
            Self::Decompress => "DECOMPRESS",
            Self::TooLarge => "TOO_LARGE",
            Self::Invalid => "INVALID",
            Self::Partial => "PARTIAL",
            Self::Codec => "CODEC",
        }
    }
}

/// Why the server ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum GoawayCode {
    /// The server shuts down.
    Shutdown = 1,
    /// Too many connections, or too many agents.
    Overloaded = 2,
    /// A write or sync of the log failed.
    Storage = 3,
    /// The token is missing, unknown, or sent in clear from another machine.
    Auth = 4,
    /// No common protocol version.
    Version = 5,
    /// The agent's epoch is older than the current one.
    Fenced = 6,
    /// The agent broke the protocol.
    Protocol = 7,
    /// A sequence number was skipped.
    SeqGap = 8,
    /// Nothing was received for too long, or no HELLO in time.
    Idle = 9,
    /// A frame was not completed in time.
    FrameTimeout = 10,
    /// The ack level is not offered.
    AckLevel = 11,
}

impl GoawayCode {
    /// Every code, in the order of the numbers.
    pub const ALL: [Self; 11] = [
        Self::Shutdown,
        Self::Overloaded,
        Self::Storage,
        Self::Auth,
        Self::Version,
        Self::Fenced,
        Self::Protocol,
        Self::SeqGap,
        Self::Idle,
        Self::FrameTimeout,
        Self::AckLevel,
    ];

    /// The code of a number in a frame; `None` if it is unknown.
    pub fn from_wire(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|known| *known as u32 == code)
    }

    /// The name in the protocol's documentation, for messages and log lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shutdown => "SHUTDOWN",
            Self::Overloaded => "OVERLOADED",
            Self::Storage => "STORAGE",
            Self::Auth => "AUTH",
            Self::Version => "VERSION",
            Self::Fenced => "FENCED",
            Self::Protocol => "PROTOCOL",
            Self::SeqGap => "SEQ_GAP",
            Self::Idle => "IDLE",
            Self::FrameTimeout => "FRAME_TIMEOUT",
            Self::AckLevel => "ACK_LEVEL",
        }
    }

    /// Whether an agent may come back (protocol, table of codes).
    pub fn retry(self) -> bool {
        !matches!(self, Self::Auth | Self::Version | Self::Fenced | Self::AckLevel)
    }
}
