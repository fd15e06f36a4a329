//! HELLO and WELCOME: the first frame of each side.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::AckLevel;
use super::header::{FrameKind, Header, VERSION};
use crate::limits::HELLO_BYTES_MAX;

/// Bit of codec 0, which every peer supports.
pub const CODECS: u16 = 1;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct HelloLayout {
    min_version: u8,
    max_version: u8,
    codecs: U16,
    ack: U32,
    agent_id: [u8; 16],
    epoch: U64,
    oldest_seq: U64,
    token_len: U16,
    name_len: U16,
    zero: U32,
}

const _: () = assert!(size_of::<HelloLayout>() == 48);

/// The first frame of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello<'a> {
    /// Lowest protocol version that the agent supports.
    pub min_version: u8,
    /// Highest protocol version that the agent supports.
    pub max_version: u8,
    /// Bit i set: codec i is understood.
    pub codecs: u16,
    /// `None`: the server's default. An unknown number is kept for the GOAWAY that it causes.
    pub ack: Result<Option<AckLevel>, u32>,
    /// Random, created once, kept by the agent.
    pub agent_id: [u8; 16],
    /// 0: the server assigns a new one.
    pub epoch: u64,
    /// The lowest sequence number that the agent still holds.
    pub oldest_seq: u64,
    /// Secret that identifies an authorised agent; empty: none.
    pub token: &'a [u8],
    /// The agent's display name, the default `source` of its events.
    pub name: &'a str,
}

/// A HELLO that cannot be decoded: GOAWAY(PROTOCOL).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// The payload has this many bytes, fewer than the fixed part.
    #[error("a HELLO has at least 48 bytes, this one has {0}")]
    Short(usize),
    /// The payload has this many bytes, more than a HELLO may have.
    #[error("a HELLO has at most 1024 bytes, this one has {0}")]
    Long(usize),
    /// The lengths of token and name do not add up to the rest of the payload.
    #[error("token_len and name_len say {said} bytes, {found} follow the 48 fixed ones")]
    Lengths {
        /// Sum of `token_len` and `name_len`, bytes.
        said: usize,
        /// Bytes after the fixed part.
        found: usize,
    },
    /// The name is not UTF-8.
    #[error("the name is not UTF-8")]
    Name,
    /// Reserved bytes are not 0.
    #[error("bytes 44 to 47 are reserved and must be 0")]
    Reserved,
    /// `agent_id` is all zero.
    #[error("agent_id is all zero: generate 16 random bytes once and keep them")]
    AgentId,
    /// Bit 0 of `codecs` is not set.
    #[error("bit 0 of codecs must be set: payloads without a codec are always allowed")]
    Codecs,
    /// `oldest_seq` is 0.
    #[error("oldest_seq is 0; sequence numbers begin at 1")]
    OldestSeq,
    /// This epoch is 2^62 or more.
    #[error("epoch {0} is 2^62 or more")]
    Epoch(u64),
}

impl<'a> Hello<'a> {
    /// Decodes the payload of a HELLO, without copying.
    ///
    /// # Errors
    /// The first rule of the layout that the payload breaks.
    pub fn decode(payload: &'a [u8]) -> Result<Self, HelloError> {
        if payload.len() > HELLO_BYTES_MAX {
            return Err(HelloError::Long(payload.len()));
        }
        let Ok((layout, rest)) = HelloLayout::ref_from_prefix(payload) else {
            return Err(HelloError::Short(payload.len()));
        };
        let (token_len, name_len) = (layout.token_len.get() as usize, layout.name_len.get() as usize);
        if token_len + name_len != rest.len() {
            return Err(HelloError::Lengths { said: token_len + name_len, found: rest.len() });
        }
        let (token, name) = rest.split_at(token_len);
        let name = std::str::from_utf8(name).map_err(|_| HelloError::Name)?;
        if layout.zero.get() != 0 {
            return Err(HelloError::Reserved);
        }
        if layout.agent_id == [0; 16] {
            return Err(HelloError::AgentId);
        }
        if layout.codecs.get() & CODECS == 0 {
            return Err(HelloError::Codecs);
        }
        if layout.oldest_seq.get() == 0 {
            return Err(HelloError::OldestSeq);
        }
        if layout.epoch.get() >= crate::limits::EPOCH_LIMIT {
            return Err(HelloError::Epoch(layout.epoch.get()));
        }
        let ack = match layout.ack.get() {
            0 => Ok(None),
            level => AckLevel::from_wire(level).map(Some).ok_or(level),
        };
        Ok(Self {
            min_version: layout.min_version,
            max_version: layout.max_version,
            codecs: layout.codecs.get(),
            ack,
            agent_id: layout.agent_id,
            epoch: layout.epoch.get(),
            oldest_seq: layout.oldest_seq.get(),
            token,
            name,
        })
    }

    /// Appends the whole frame. `token` and `name` together have at most 976 bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let layout = HelloLayout {
            min_version: self.min_version,
            max_version: self.max_version,
            codecs: U16::new(self.codecs),
            ack: U32::new(match self.ack {
                Ok(level) => level.map_or(0, |level| level as u32),
                Err(level) => level,
            }),
            agent_id: self.agent_id,
            epoch: U64::new(self.epoch),
            oldest_seq: U64::new(self.oldest_seq),
            token_len: U16::new(self.token.len() as u16),
            name_len: U16::new(self.name.len() as u16),
            zero: U32::new(0),
        };
        let mut payload = Vec::with_capacity(48 + self.token.len() + self.name.len());
        payload.extend_from_slice(layout.as_bytes());
        payload.extend_from_slice(self.token);
        payload.extend_from_slice(self.name.as_bytes());
        out.extend_from_slice(&Header::of_payload(FrameKind::Hello, 0, 0, &payload).encode());
        out.extend_from_slice(&payload);
    }
}

/// The one version that both sides support: the lower of the two highest, where it is not below either lowest (R14).
pub fn common_version(min: u8, max: u8) -> Option<u8> {
    let version = max.min(VERSION);
    (version >= min.max(VERSION)).then_some(version)
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct WelcomeLayout {
    version: u8,
    ack: u8,
    codecs: U16,
    max_frame: U32,
    max_raw: U32,
    window_bytes: U32,
    window_frames: U16,
    keepalive: U16,
    flags: U32,
    epoch: U64,
    last_seq: U64,
    server_id: [u8; 16],
}

const _: () = assert!(size_of::<WelcomeLayout>() == 56);
const RESUMED: u32 = 1;

/// The server's answer to a HELLO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Welcome {
    /// Protocol version of the connection.
    pub version: u8,
    /// The level at which DATA is acknowledged: the one that HELLO asked for, or the server's default.
    pub ack: AckLevel,
    /// Bit i set: the server accepts codec i.
    pub codecs: u16,
    /// Largest payload, bytes.
    pub max_frame: u32,
    /// Largest uncompressed payload, bytes.
    pub max_raw: u32,
    /// Unacknowledged payload bytes the server will take.
    pub window_bytes: u32,
    /// Unacknowledged frames the server will take.
    pub window_frames: u16,
    /// An agent that has sent nothing for half of this time sends PING; a side that has received nothing for 1.5 times of
    /// it closes.
    pub keepalive_seconds: u16,
    /// Whether the server knows what the agent sent before. If not, the agent resends it.
    pub resumed: bool,
    /// The agent's epoch, for its next HELLO; never 0.
    pub epoch: u64,
    /// Everything up to here is acknowledged.
    pub last_seq: u64,
    /// Id of the server's log, or without a log of this start of the server. Another one means that what the server
    /// received before may be unknown to it.
    pub server_id: [u8; 16],
}

/// A WELCOME that cannot be decoded: the server uses another protocol.
/// Names the first field that is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the server's WELCOME cannot be read ({0}): check that the address is a telemetryx server of protocol version 1"
)]
pub struct WelcomeError(&'static str);

impl Welcome {
    /// Decodes the payload of a WELCOME.
    ///
    /// # Errors
    /// Not 56 bytes, another version, an unknown ack level, or epoch 0.
    pub fn decode(payload: &[u8]) -> Result<Self, WelcomeError> {
        let Ok(layout) = WelcomeLayout::ref_from_bytes(payload) else { return Err(WelcomeError("not 56 bytes")) };
        let Some(ack) = AckLevel::from_wire(u32::from(layout.ack)) else {
            return Err(WelcomeError("unknown ack level"));
        };
        if layout.version != VERSION {
            return Err(WelcomeError("another version"));
        }
        if layout.epoch.get() == 0 {
            return Err(WelcomeError("no epoch"));
        }
        Ok(Self {
            version: layout.version,
            ack,
            codecs: layout.codecs.get(),
            max_frame: layout.max_frame.get(),
            max_raw: layout.max_raw.get(),
            window_bytes: layout.window_bytes.get(),
            window_frames: layout.window_frames.get(),
            keepalive_seconds: layout.keepalive.get(),
            resumed: layout.flags.get() & RESUMED != 0,
            epoch: layout.epoch.get(),
            last_seq: layout.last_seq.get(),
            server_id: layout.server_id,
        })
    }

    /// Appends the whole frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let layout = WelcomeLayout {
            version: self.version,
            ack: self.ack as u8,
            codecs: U16::new(self.codecs),
            max_frame: U32::new(self.max_frame),
            max_raw: U32::new(self.max_raw),
            window_bytes: U32::new(self.window_bytes),
            window_frames: U16::new(self.window_frames),
            keepalive: U16::new(self.keepalive_seconds),
            flags: U32::new(if self.resumed { RESUMED } else { 0 }),
            epoch: U64::new(self.epoch),
            last_seq: U64::new(self.last_seq),
            server_id: self.server_id,
        };
        out.extend_from_slice(&Header::of_payload(FrameKind::Welcome, 0, 0, layout.as_bytes()).encode());
        out.extend_from_slice(layout.as_bytes());
    }
}
