//! The 32-byte frame header, the same in both directions.
//!
//! ```text
//!   0       4    5    6      8        12       16               24            28           32
//!   ┌───────┬────┬────┬──────┬────────┬────────┬────────────────┬─────────────┬────────────┐
//!   │ magic │ver │type│flags │ length │  arg   │      seq       │ payload_crc │ header_crc │   little-endian
//!   └───────┴────┴────┴──────┴────────┴────────┴────────────────┴─────────────┴────────────┘
//! ```

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::limits::HEADER_BYTES;

/// First bytes of every frame. 0xF5 starts no UTF-8 text, no HTTP method and no TLS record.
pub const MAGIC: [u8; 4] = [0xF5, b'T', b'L', b'X'];
/// Version of the header's layout, and of the protocol.
pub const VERSION: u8 = 1;
/// Codec bits of `flags`; all others are reserved.
const CODEC_MASK: u16 = 0x000F;
/// A receiver that does not know a type with this bit skips the frame.
const SKIPPABLE: u8 = 0x80;
/// Came after the other types: with bit 7, so that servers that do not know it skip it.
const BYE: u8 = SKIPPABLE | 9;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Layout {
    magic: [u8; 4],
    version: u8,
    kind: u8,
    flags: U16,
    length: U32,
    arg: U32,
    seq: U64,
    payload_crc: U32,
    header_crc: U32,
}

const _: () = assert!(size_of::<Layout>() == HEADER_BYTES);
const CRC_OFFSET: usize = 28;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// An agent's first frame.
    Hello,
    /// The server's answer to HELLO.
    Welcome,
    /// An `EventBatch` from an agent.
    Data,
    /// The server acknowledges every DATA up to a sequence number.
    Ack,
    /// The server refuses a DATA, or some of its events.
    Nack,
    /// Asks for a PONG; either side sends it.
    Ping,
    /// The answer to a PING.
    Pong,
    /// The server ends the connection, with a reason.
    Goaway,
    /// The agent is done and holds nothing unacknowledged: the server deletes its mark (R3).
    Bye,
    /// Unknown, with bit 7 set: to be skipped.
    Skippable(u8),
}

impl FrameKind {
    fn from_wire(kind: u8) -> Result<Self, FrameError> {
        Ok(match kind {
            1 => Self::Hello,
            2 => Self::Welcome,
            3 => Self::Data,
            4 => Self::Ack,
            5 => Self::Nack,
            6 => Self::Ping,
            7 => Self::Pong,
            8 => Self::Goaway,
            BYE => Self::Bye,
            other if other & SKIPPABLE != 0 => Self::Skippable(other),
            other => return Err(FrameError::Type(other)),
        })
    }

    fn to_wire(self) -> u8 {
        match self {
            Self::Hello => 1,
            Self::Welcome => 2,
            Self::Data => 3,
            Self::Ack => 4,
            Self::Nack => 5,
            Self::Ping => 6,
            Self::Pong => 7,
            Self::Goaway => 8,
            Self::Bye => BYE,
            Self::Skippable(kind) => kind,
        }
    }
}

/// Bytes that are not a frame of this protocol. The connection cannot continue: where the next frame begins is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first four bytes are not [`MAGIC`]; bytes that are not received yet are 0.
    #[error(
        "a frame begins with {0:02x?}, not with f5 54 4c 58: the peer does not speak this protocol, or lost its \
         position in the stream"
    )]
    Magic([u8; 4]),
    /// The header's checksum does not match.
    #[error("header checksum is {found:08x}, computed {computed:08x}: bytes were changed in transit")]
    HeaderCrc {
        /// The checksum in the header.
        found: u32,
        /// The checksum of the bytes received.
        computed: u32,
    },
    /// The header's version is not [`VERSION`].
    #[error("header version {0}; this side speaks version 1")]
    Version(u8),
    /// An unknown type without bit 7, which would allow to skip it.
    #[error("unknown frame type {0}")]
    Type(u8),
    /// Reserved bits, or a codec on a frame that has none. The value is all flags.
    #[error("reserved flag bits are set: {0:04x}")]
    Flags(u16),
    /// A non-zero `arg` on a frame that has none.
    #[error("a {kind:?} frame carries arg {arg}, which has no meaning there")]
    Arg {
        /// The frame's type.
        kind: FrameKind,
        /// The value in the header.
        arg: u32,
    },
    /// The payload is longer than allowed for its type.
    #[error("a {kind:?} payload of {length} bytes; the largest allowed is {max}")]
    TooLong {
        /// The frame's type.
        kind: FrameKind,
        /// Bytes of the payload.
        length: u32,
        /// Largest payload of this type, bytes.
        max: u32,
    },
    /// The payload's checksum does not match.
    #[error("payload checksum is {found:08x}, computed {computed:08x}: bytes were changed in transit")]
    PayloadCrc {
        /// The checksum in the header.
        found: u32,
        /// The checksum of the payload received.
        computed: u32,
    },
}

/// A frame's header, checked: magic, version, checksum, type, flags. The length is checked by who knows the cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The frame's type.
    pub kind: FrameKind,
    /// 0: none. The only one this version offers.
    pub codec: u8,
    /// Bytes of the payload.
    pub length: u32,
    /// DATA: uncompressed length. ACK: window in bytes. NACK: code. Otherwise 0.
    pub arg: u32,
    /// DATA, ACK, NACK: sequence number. PING, PONG: echo. GOAWAY: last acknowledged.
    pub seq: u64,
    /// CRC-32 of the payload as sent; 0 for an empty one.
    pub payload_crc: u32,
}

impl Header {
    /// Bytes of the whole frame.
    pub fn frame_bytes(&self) -> usize {
        HEADER_BYTES + self.length as usize
    }

    /// A header without payload.
    pub fn empty(kind: FrameKind, seq: u64, arg: u32) -> Self {
        Self { kind, codec: 0, length: 0, arg, seq, payload_crc: 0 }
    }

    /// The header of `payload`, which is shorter than 4 GiB.
    pub fn of_payload(kind: FrameKind, seq: u64, arg: u32, payload: &[u8]) -> Self {
        Self { length: payload.len() as u32, payload_crc: crc32fast::hash(payload), ..Self::empty(kind, seq, arg) }
    }

    /// The header of an uncompressed DATA payload.
    pub fn data(seq: u64, payload: &[u8]) -> Self {
        Self::of_payload(FrameKind::Data, seq, payload.len() as u32, payload)
    }

    /// `None`: fewer than 32 bytes, and those there are do not contradict the magic.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, FrameError> {
        let seen = bytes.len().min(MAGIC.len());
        if bytes[..seen] != MAGIC[..seen] {
            let mut found = [0; 4];
            found[..seen].copy_from_slice(&bytes[..seen]);
            return Err(FrameError::Magic(found));
        }
        let Ok((layout, _)) = Layout::ref_from_prefix(bytes) else { return Ok(None) };
        let computed = crc32fast::hash(&layout.as_bytes()[..CRC_OFFSET]);
        if layout.header_crc.get() != computed {
            return Err(FrameError::HeaderCrc { found: layout.header_crc.get(), computed });
        }
        if layout.version != VERSION {
            return Err(FrameError::Version(layout.version));
        }
        let flags = layout.flags.get();
        let kind = FrameKind::from_wire(layout.kind)?;
        let skippable = matches!(kind, FrameKind::Skippable(_));
        let codec_allowed = matches!(kind, FrameKind::Data) || skippable;
        if flags & !CODEC_MASK != 0 || (flags != 0 && !codec_allowed) {
            return Err(FrameError::Flags(flags));
        }
        let arg = layout.arg.get();
        if arg != 0 && !skippable && !matches!(kind, FrameKind::Data | FrameKind::Ack | FrameKind::Nack) {
            return Err(FrameError::Arg { kind, arg });
        }
        Ok(Some(Self {
            kind,
            codec: (flags & CODEC_MASK) as u8,
            length: layout.length.get(),
            arg,
            seq: layout.seq.get(),
            payload_crc: layout.payload_crc.get(),
        }))
    }

    /// The header as sent, with its checksum.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut layout = Layout {
            magic: MAGIC,
            version: VERSION,
            kind: self.kind.to_wire(),
            flags: U16::new(u16::from(self.codec)),
            length: U32::new(self.length),
            arg: U32::new(self.arg),
            seq: U64::new(self.seq),
            payload_crc: U32::new(self.payload_crc),
            header_crc: U32::new(0),
        };
        layout.header_crc = U32::new(crc32fast::hash(&layout.as_bytes()[..CRC_OFFSET]));
        zerocopy::transmute!(layout)
    }

    /// Checks a whole payload against the header's checksum.
    pub fn check_payload(&self, payload: &[u8]) -> Result<(), FrameError> {
        let computed = if payload.is_empty() { 0 } else { crc32fast::hash(payload) };
        if computed == self.payload_crc {
            Ok(())
        } else {
            Err(FrameError::PayloadCrc { found: self.payload_crc, computed })
        }
    }
}
