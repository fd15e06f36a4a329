//! A record: one commit, or the table of all agents' marks at the begin of a segment. Bytes in, values out.
//!
//! ```text
//!  ┌─ header, 76 bytes ────────────────────────────────┬─ tables ─────────────────┬─ payloads ──────────────┐
//!  │ magic segment_id kind server_id first_position …  │ origins │ runs (40 each) │ as they came, unaligned │
//!  └───────────────────────────────────────────── crc ─┴──────────────────────────┴─────────────────────────┘
//!    crc covers the header before it and the tables        every run's payload_crc covers its own payload
//! ```
//!
//! So every bit is under one checksum, and a frame's payload under the one that its agent sent: the log does not read
//! it again. A record stands for itself: nothing in it refers to another one.

use std::sync::Arc;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::AgentMark;
use crate::batch::Origin;
use crate::limits::{WAL_PAYLOAD_BYTES_MAX, WAL_TABLES_BYTES_MAX};

/// First bytes of a record. 0xF5 starts no UTF-8 text; together with the segment's id it starts nothing else.
pub(super) const MAGIC: [u8; 4] = [0xF5, b'R', b'E', b'C'];
/// Bytes of a [`SegmentId`].
pub(super) const SEGMENT_ID_BYTES: usize = 8;
/// Bytes of a record's header.
pub(super) const HEADER_BYTES: usize = size_of::<Header>();
/// Bytes of the header that its checksum covers.
const CHECKED_BYTES: usize = HEADER_BYTES - 4;

const COMMIT: u32 = 1;
const MARKS: u32 = 2;

/// 8 random bytes of a segment, in each of its records: no peer can know them, so none can embed a record in an event.
pub(super) type SegmentId = [u8; SEGMENT_ID_BYTES];

/// The header as it is on disk, little-endian.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Header {
    magic: [u8; 4],
    segment_id: SegmentId,
    kind: U32,
    /// The log that the record belongs to.
    pub server_id: [u8; 16],
    /// Position of the first event; of the next event where there is none in it.
    first_position: U64,
    events: U64,
    /// Bytes of the segment that were synced when this record was appended.
    synced_bytes: U64,
    origins: U32,
    runs: U32,
    tables_bytes: U32,
    payload_bytes: U32,
    crc: U32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct OriginEntry {
    has_agent_id: U32,
    has_agent: U32,
    agent_bytes: U32,
    source_bytes: U32,
    epoch: U64,
    agent_id: [u8; 16],
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RunEntry {
    kind: U32,
    origin: U32,
    seq: U64,
    sent_crc: U32,
    events: U32,
    received_unix_nano: U64,
    payload_bytes: U32,
    payload_crc: U32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct MarkEntry {
    agent_id: [u8; 16],
    epoch: U64,
    last_seq: U64,
    last_position: U64,
    last_seen_unix_nano: U64,
    last_crc: U32,
    flags: U32,
}

// As docs/log.md has them; a change needs another version.
const _: () = assert!(size_of::<Header>() == 76 && size_of::<OriginEntry>() == 40);
const _: () = assert!(size_of::<RunEntry>() == 40 && size_of::<MarkEntry>() == 56);

/// Run kinds as on disk.
const RUN_FRAME: u32 = 1;
const RUN_REQUEST: u32 = 2;
const RUN_HELLO: u32 = 3;
/// In the field `sent_crc` of a hello run, where a hello has 0: it is a bye. A program from before BYE reads a hello that
/// moves nothing and keeps the mark; a kind of its own would be damage to it, and cost the events of the whole record.
const HELLO_IS_BYE: u32 = 1;

const MARK_HAS_CRC: u32 = 1;
const MARK_HAS_FRAMES: u32 = 2;

/// What a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A frame of an agent; it may have no events. `sent_crc` is of the payload as it was sent (R7).
    Frame {
        /// The frame's sequence number.
        seq: u64,
        /// CRC-32 of the payload as sent.
        sent_crc: u32,
    },
    /// Over HTTP, from no agent.
    Request,
    /// An agent was given or keeps its epoch, and is welcomed with `last_seq` (R4). No events.
    Hello {
        /// The number in WELCOME.
        last_seq: u64,
    },
    /// An agent is done: its mark is deleted (R3). `last_seq` is the last number that was acknowledged. No events.
    Bye {
        /// The last acknowledged number.
        last_seq: u64,
    },
}

/// One run on its way into the log.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// What the run is.
    pub kind: Kind,
    /// Where it came from.
    pub origin: &'a Arc<Origin>,
    /// Number of events in `payload`.
    pub events: u32,
    /// When it was received: nanoseconds since 1970-01-01T00:00:00Z.
    pub received_unix_nano: u64,
    /// Bytes of an `EventBatch`: the accepted events.
    pub payload: &'a [u8],
    /// CRC-32 of `payload` where it is known: an untouched frame's own.
    pub payload_crc: Option<u32>,
}

/// One run as the log has it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LoggedRun {
    /// What the run is.
    pub kind: Kind,
    /// Where it came from.
    pub origin: Arc<Origin>,
    /// Number of events in its payload.
    pub events: u32,
    /// When it was received: nanoseconds since 1970-01-01T00:00:00Z.
    pub received_unix_nano: u64,
    /// Bytes of its payload.
    pub payload_bytes: u32,
    /// CRC-32 of its payload, as it is in the log.
    pub payload_crc: u32,
}

/// The content of a record's tables.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Content {
    /// The runs of a commit, in order of position.
    Commit(Vec<LoggedRun>),
    /// The marks of all agents.
    Marks(Vec<AgentMark>),
}

/// A record does not fit into what a reader would take: the caller's commit is larger than its own limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a commit of {payload_bytes} payload bytes and {tables_bytes} bytes of tables is larger than a record may be")]
pub(super) struct TooLarge {
    /// Bytes of its tables.
    pub tables_bytes: usize,
    /// Bytes of its payloads.
    pub payload_bytes: usize,
}

impl Header {
    /// Reads a header of the segment; the checksum is not looked at yet, for it covers the tables too.
    pub(super) fn read(bytes: &[u8], segment_id: &SegmentId) -> Option<Self> {
        let (header, _) = Self::read_from_prefix(bytes).ok()?;
        let tables_max = match header.kind.get() {
            COMMIT => WAL_TABLES_BYTES_MAX,
            MARKS => u32::MAX as usize,
            _ => return None,
        };
        let lengths_fit =
            header.tables_bytes() <= tables_max && header.payload_bytes.get() as usize <= WAL_PAYLOAD_BYTES_MAX;
        let ours = header.magic == MAGIC && header.segment_id == *segment_id;
        // Positions are signed 64-bit integers in stores.
        let positions_fit = header.first_position.get() <= i64::MAX as u64 && header.events.get() <= u32::MAX.into();
        (ours && lengths_fit && positions_fit).then_some(header)
    }

    /// Whether header and tables are as they were written.
    pub(super) fn covers(&self, tables: &[u8]) -> bool {
        self.computed_crc(tables) == self.crc.get()
    }

    fn computed_crc(&self, tables: &[u8]) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        crc.update(self.as_bytes().get(..CHECKED_BYTES).unwrap_or_default());
        crc.update(tables);
        crc.finalize()
    }

    /// Position of the first event; of the next event if it has none.
    pub(super) fn first_position(&self) -> u64 {
        self.first_position.get()
    }

    /// Number of events.
    pub(super) fn events(&self) -> u64 {
        self.events.get()
    }

    /// The position after the last event.
    pub(super) fn end_position(&self) -> u64 {
        self.first_position() + self.events()
    }

    /// Bytes of the segment that were synced when the record was appended.
    pub(super) fn synced_bytes(&self) -> u64 {
        self.synced_bytes.get()
    }

    /// Bytes of the tables.
    pub(super) fn tables_bytes(&self) -> usize {
        self.tables_bytes.get() as usize
    }

    /// Bytes of all payloads.
    pub(super) fn payload_bytes(&self) -> usize {
        self.payload_bytes.get() as usize
    }

    /// Bytes of the whole record.
    pub(super) fn record_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.tables_bytes.get()) + u64::from(self.payload_bytes.get())
    }

    /// Reads the tables; they are covered. `None`: they contradict each other or the header.
    pub(super) fn content(&self, tables: &[u8]) -> Option<Content> {
        match self.kind.get() {
            COMMIT => self.commit(tables).map(Content::Commit),
            MARKS => marks(tables).map(Content::Marks),
            _ => None,
        }
    }

    fn commit(&self, mut tables: &[u8]) -> Option<Vec<LoggedRun>> {
        let fits = |count: U32, bytes: usize| count.get() as usize <= tables.len() / bytes;
        if !fits(self.origins, size_of::<OriginEntry>()) || !fits(self.runs, size_of::<RunEntry>()) {
            return None;
        }
        let mut origins = Vec::with_capacity(self.origins.get() as usize);
        for _ in 0..self.origins.get() {
            let (entry, rest) = OriginEntry::ref_from_prefix(tables).ok()?;
            let (agent, rest) = rest.split_at_checked(entry.agent_bytes.get() as usize)?;
            let (source, rest) = rest.split_at_checked(entry.source_bytes.get() as usize)?;
            let agent = String::from_utf8(agent.to_vec()).ok()?;
            origins.push(Arc::new(Origin {
                agent_id: (entry.has_agent_id.get() != 0).then_some(entry.agent_id),
                agent: (entry.has_agent.get() != 0).then_some(agent),
                default_source: String::from_utf8(source.to_vec()).ok()?,
                epoch: entry.epoch.get(),
            }));
            tables = rest;
        }
        let mut runs = Vec::with_capacity(self.runs.get() as usize);
        let (mut events, mut payload_bytes) = (0, 0);
        for _ in 0..self.runs.get() {
            let (entry, rest) = RunEntry::ref_from_prefix(tables).ok()?;
            events += u64::from(entry.events.get());
            payload_bytes += u64::from(entry.payload_bytes.get());
            runs.push(LoggedRun {
                kind: entry.kind()?,
                origin: origins.get(entry.origin.get() as usize)?.clone(),
                events: entry.events.get(),
                received_unix_nano: entry.received_unix_nano.get(),
                payload_bytes: entry.payload_bytes.get(),
                payload_crc: entry.payload_crc.get(),
            });
            tables = rest;
        }
        let whole = tables.is_empty() && events == self.events() && payload_bytes == u64::from(self.payload_bytes);
        whole.then_some(runs)
    }
}

impl RunEntry {
    fn kind(&self) -> Option<Kind> {
        match self.kind.get() {
            RUN_FRAME => Some(Kind::Frame { seq: self.seq.get(), sent_crc: self.sent_crc.get() }),
            RUN_REQUEST => Some(Kind::Request),
            RUN_HELLO if self.sent_crc.get() == HELLO_IS_BYE => Some(Kind::Bye { last_seq: self.seq.get() }),
            RUN_HELLO => Some(Kind::Hello { last_seq: self.seq.get() }),
            _ => None,
        }
    }
}

fn marks(tables: &[u8]) -> Option<Vec<AgentMark>> {
    let entries = <[MarkEntry]>::ref_from_bytes(tables).ok()?;
    let mark = |entry: &MarkEntry| AgentMark {
        agent_id: entry.agent_id,
        epoch: entry.epoch.get(),
        last_seq: entry.last_seq.get(),
        last_crc: (entry.flags.get() & MARK_HAS_CRC != 0).then_some(entry.last_crc.get()),
        last_position: entry.last_position.get(),
        last_seen_unix_nano: entry.last_seen_unix_nano.get(),
        has_frames: entry.flags.get() & MARK_HAS_FRAMES != 0,
    };
    Some(entries.iter().map(mark).collect())
}

/// Where a record stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// The segment that it is written to.
    pub segment_id: SegmentId,
    /// The log that the segment belongs to.
    pub server_id: [u8; 16],
    /// Position of its first event.
    pub first_position: u64,
    /// Bytes of the segment that are synced by then.
    pub synced_bytes: u64,
}

/// Builds header and tables of a record; its buffers are used again. The payloads follow them on disk.
#[derive(Default)]
pub(super) struct Encoder {
    head: Vec<u8>,
    runs: Vec<u8>,
    kind: u32,
    origins_count: u32,
    runs_count: u32,
    events: u64,
    payload_bytes: usize,
}

impl Encoder {
    /// Takes a commit's tables. The record is complete after [`Encoder::finish`].
    pub(super) fn commit(&mut self, entries: &[Entry<'_>]) -> Result<(), TooLarge> {
        self.begin(COMMIT);
        let mut last: Option<&Arc<Origin>> = None;
        for entry in entries {
            if !last.is_some_and(|last| Arc::ptr_eq(last, entry.origin)) {
                self.origin(entry.origin);
                last = Some(entry.origin);
            }
            self.run(entry);
        }
        self.head.extend_from_slice(&self.runs);
        let tables_bytes = self.head.len() - HEADER_BYTES;
        if tables_bytes > WAL_TABLES_BYTES_MAX || self.payload_bytes > WAL_PAYLOAD_BYTES_MAX {
            return Err(TooLarge { tables_bytes, payload_bytes: self.payload_bytes });
        }
        Ok(())
    }

    /// Takes the table of marks.
    pub(super) fn marks<'a>(&mut self, marks: impl Iterator<Item = &'a AgentMark>) {
        self.begin(MARKS);
        for mark in marks {
            let has_crc = if mark.last_crc.is_some() { MARK_HAS_CRC } else { 0 };
            let has_frames = if mark.has_frames { MARK_HAS_FRAMES } else { 0 };
            let entry = MarkEntry {
                agent_id: mark.agent_id,
                epoch: mark.epoch.into(),
                last_seq: mark.last_seq.into(),
                last_position: mark.last_position.into(),
                last_seen_unix_nano: mark.last_seen_unix_nano.into(),
                last_crc: mark.last_crc.unwrap_or_default().into(),
                flags: (has_crc | has_frames).into(),
            };
            self.head.extend_from_slice(entry.as_bytes());
        }
    }

    fn begin(&mut self, kind: u32) {
        self.head.clear();
        self.head.resize(HEADER_BYTES, 0);
        self.runs.clear();
        (self.kind, self.origins_count, self.runs_count, self.events, self.payload_bytes) = (kind, 0, 0, 0, 0);
    }

    fn origin(&mut self, origin: &Origin) {
        let agent = origin.agent.as_deref().unwrap_or_default();
        let entry = OriginEntry {
            has_agent_id: u32::from(origin.agent_id.is_some()).into(),
            has_agent: u32::from(origin.agent.is_some()).into(),
            agent_bytes: (agent.len() as u32).into(),
            source_bytes: (origin.default_source.len() as u32).into(),
            epoch: origin.epoch.into(),
            agent_id: origin.agent_id.unwrap_or_default(),
        };
        self.head.extend_from_slice(entry.as_bytes());
        self.head.extend_from_slice(agent.as_bytes());
        self.head.extend_from_slice(origin.default_source.as_bytes());
        self.origins_count += 1;
    }

    fn run(&mut self, entry: &Entry<'_>) {
        let (kind, seq, sent_crc) = match entry.kind {
            Kind::Frame { seq, sent_crc } => (RUN_FRAME, seq, sent_crc),
            Kind::Request => (RUN_REQUEST, 0, 0),
            Kind::Hello { last_seq } => (RUN_HELLO, last_seq, 0),
            Kind::Bye { last_seq } => (RUN_HELLO, last_seq, HELLO_IS_BYE),
        };
        let payload_crc = entry.payload_crc.unwrap_or_else(|| crc32fast::hash(entry.payload));
        let run = RunEntry {
            kind: kind.into(),
            origin: (self.origins_count - 1).into(),
            seq: seq.into(),
            sent_crc: sent_crc.into(),
            events: entry.events.into(),
            received_unix_nano: entry.received_unix_nano.into(),
            payload_bytes: (entry.payload.len() as u32).into(),
            payload_crc: payload_crc.into(),
        };
        self.runs.extend_from_slice(run.as_bytes());
        self.runs_count += 1;
        self.events += u64::from(entry.events);
        self.payload_bytes += entry.payload.len();
    }

    /// Bytes of the whole record, payloads included.
    pub(super) fn record_bytes(&self) -> u64 {
        (self.head.len() + self.payload_bytes) as u64
    }

    /// Header and tables, ready to be written.
    pub(super) fn finish(&mut self, place: Place) -> &[u8] {
        let mut header = Header {
            magic: MAGIC,
            segment_id: place.segment_id,
            kind: self.kind.into(),
            server_id: place.server_id,
            first_position: place.first_position.into(),
            events: self.events.into(),
            synced_bytes: place.synced_bytes.into(),
            origins: self.origins_count.into(),
            runs: self.runs_count.into(),
            tables_bytes: ((self.head.len() - HEADER_BYTES) as u32).into(),
            payload_bytes: (self.payload_bytes as u32).into(),
            crc: 0.into(),
        };
        if let Some((room, tables)) = self.head.split_at_mut_checked(HEADER_BYTES) {
            header.crc = header.computed_crc(tables).into();
            room.copy_from_slice(header.as_bytes());
        }
        &self.head
    }
}
