//! A segment's name and header.
//!
//! ```text
//!  00000000000000000001-0000000001-9f3c51d2aa07e4b8.seg       first position, number, segment id: names sort
//!  ┌─ header, 56 bytes ┬─ record: marks ─┬─ record ─┬─ record ─┬── zeros, reserved ──┐
//!  └───────────────────┴─────────────────┴──────────┴──────────┴─────────────────────┘
//! ```
//!
//! The header is written after the marks, so that a segment that has one was begun completely. All that a reader needs
//! is in the name too: a corrupt header loses no record.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::record::SegmentId;

/// First bytes of a segment.
const MAGIC: [u8; 4] = [0xF5, b'S', b'E', b'G'];
/// Version of the format of segments and records. Every version keeps the layout of this header.
pub(super) const VERSION: u16 = 1;
/// Bytes of a segment's header.
pub(super) const HEADER_BYTES: usize = size_of::<Layout>();
const _: () = assert!(HEADER_BYTES == 56);
/// What the header has room for: 65,536 starts in a row without an event and with a store that does not answer.
const LEFT_OUT_MAX: u64 = (1 << 48) - 1;
const CRC_OFFSET: usize = HEADER_BYTES - 4;
const SUFFIX: &str = ".seg";

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Layout {
    magic: [u8; 4],
    version: U16,
    left_out_high: U16,
    server_id: [u8; 16],
    segment_id: SegmentId,
    first_position: U64,
    created_unix_nano: U64,
    left_out_low: U32,
    crc: U32,
}

/// A segment's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Format of the segment, [`VERSION`] for those that this program writes.
    pub version: u16,
    /// The log that it belongs to.
    pub server_id: [u8; 16],
    /// In each of its records.
    pub segment_id: SegmentId,
    /// Position of its first event.
    pub first_position: u64,
    /// When it was begun, by the clock of receipts: nanoseconds since 1970-01-01T00:00:00Z.
    pub created_unix_nano: u64,
    /// Positions right before the first one that no event has (at most 2^48 - 1 are recorded).
    pub left_out: u64,
}

impl Header {
    /// `None`: corrupt, or never written.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (layout, _) = Layout::ref_from_prefix(bytes).ok()?;
        let sound = layout.magic == MAGIC && crc32fast::hash(bytes.get(..CRC_OFFSET)?) == layout.crc.get();
        sound.then(|| Self {
            version: layout.version.get(),
            server_id: layout.server_id,
            segment_id: layout.segment_id,
            first_position: layout.first_position.get(),
            created_unix_nano: layout.created_unix_nano.get(),
            left_out: u64::from(layout.left_out_high.get()) << 32 | u64::from(layout.left_out_low.get()),
        })
    }

    /// The header as written, with its checksum.
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let left_out = self.left_out.min(LEFT_OUT_MAX);
        let mut layout = Layout {
            magic: MAGIC,
            version: self.version.into(),
            left_out_high: ((left_out >> 32) as u16).into(),
            server_id: self.server_id,
            segment_id: self.segment_id,
            first_position: self.first_position.into(),
            created_unix_nano: self.created_unix_nano.into(),
            left_out_low: (left_out as u32).into(),
            crc: 0.into(),
        };
        layout.crc = crc32fast::hash(layout.as_bytes().get(..CRC_OFFSET).unwrap_or_default()).into();
        zerocopy::transmute!(layout)
    }
}

/// The fields of a segment's file name. Ordered as the segments were created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    /// Position of its first event.
    pub first_position: u64,
    /// Counts the segments; tells those apart that begin at one position because nothing was stored in the older.
    pub number: u64,
    /// In each of its records.
    pub id: SegmentId,
}

impl Name {
    /// `None`: not a segment's name.
    pub(super) fn parse(file: &str) -> Option<Self> {
        let mut parts = file.strip_suffix(SUFFIX)?.split('-');
        let (position, number, id) = (parts.next()?, parts.next()?, parts.next()?);
        let name = Self {
            first_position: position.parse().ok().filter(|position| *position <= i64::MAX as u64)?,
            number: number.parse().ok()?,
            id: u64::from_str_radix(id, 16).ok()?.to_be_bytes(),
        };
        // Only as it would be written.
        (name.to_string() == file).then_some(name)
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let id = u64::from_be_bytes(self.id);
        write!(f, "{:020}-{:010}-{id:016x}{SUFFIX}", self.first_position, self.number)
    }
}
