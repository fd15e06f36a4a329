//! A whole body becomes `EventBatch` bytes in the pool, and a list of what was refused.
//!
//! ```text
//!  body ─ gunzip ─▶ protobuf ─ check ─▶ its own bytes, cut between events ──────────┐
//!   (Buffer)   │                    └─ with gaps ─▶ accepted ranges, copied ────────┤─▶ slots of at most one frame
//!              └─▶ JSON, NDJSON ─ decode ─▶ encoded events, packed into new buffers ┘
//! ```
//!
//! Nothing is handed on before the whole body was read, memory for everything was there, and the ring has room for all
//! slots: a request is taken as a whole (less the events that break a rule) or not at all.

use std::io::Read;
use std::ops::Range;

use flate2::bufread::GzDecoder;

use super::Door;
use super::body::too_large;
use super::connection::Settings;
use super::response::{Refusal, push_json_string, result_body};
use super::routes::{MediaType, Submission};
use crate::event::{BatchError, check_batch};
use crate::limits::{FRAME_EVENTS_MAX, HTTP_ERROR_BYTES_MAX, HTTP_GZIP_MEMBERS_MAX, HTTP_REJECTED_MAX};
use crate::metrics::RejectReason;
use crate::pipeline::pool::{Buffer, PoolSlice};

/// A body with more gaps than this between its accepted events is packed anew, so that it does not fill the ring.
const GAPS_SHARED_MAX: usize = 16;

/// One slot to be: events and their `EventBatch` bytes.
struct Piece {
    payload: PoolSlice,
    events: u32,
}

/// How a request's events fared; the words of its answer, kept in the pool while the answer waits.
pub struct Settled {
    accepted: u64,
    rejected: u64,
    listed: u64,
    /// The joined entries of the list; `None` where nothing was refused.
    entries: Option<Buffer>,
}

impl Settled {
    pub fn nothing_but_refused(&self) -> bool {
        self.accepted == 0 && self.rejected > 0
    }

    /// The answer's body.
    pub fn body(&self, error: Option<&str>) -> Vec<u8> {
        let entries = self.entries.as_ref().map_or(&[][..], Buffer::filled);
        result_body(error, self.accepted, entries, self.listed, self.rejected)
    }
}

/// The events that were refused, one by one.
#[derive(Default)]
struct Rejects {
    entries: Vec<u8>,
    listed: u64,
    malformed: u64,
    invalid: u64,
}

impl Rejects {
    fn total(&self) -> u64 {
        self.malformed + self.invalid
    }

    /// Event (or line) `index` is refused.
    fn push(&mut self, index: usize, reason: RejectReason, error: &str) {
        match reason {
            RejectReason::Malformed => self.malformed += 1,
            _ => self.invalid += 1,
        }
        if self.listed >= HTTP_REJECTED_MAX as u64 {
            return;
        }
        if self.listed > 0 {
            self.entries.push(b',');
        }
        self.listed += 1;
        self.entries.extend_from_slice(format!(r#"{{"index":{index},"error":"#).as_bytes());
        push_json_string(&mut self.entries, shortened(error));
        self.entries.push(b'}');
    }

    /// Moves the list into the pool, and counts it.
    fn settle(self, accepted: u64, door: &mut impl Door) -> Result<Settled, Refusal> {
        let mut settled = Settled { accepted, rejected: self.total(), listed: self.listed, entries: None };
        if !self.entries.is_empty() {
            let mut buffer = door.reserve(self.entries.len()).ok_or_else(no_memory)?;
            if !buffer.extend(&self.entries) {
                return Err(no_memory());
            }
            settled.entries = Some(buffer);
        }
        for (reason, events) in [(RejectReason::Malformed, self.malformed), (RejectReason::Invalid, self.invalid)] {
            if events > 0 {
                door.rejected(reason, events);
            }
        }
        Ok(settled)
    }
}

/// At most [`HTTP_ERROR_BYTES_MAX`] bytes of what a peer may have made long by quoting itself.
fn shortened(error: &str) -> &str {
    (0..=error.len().min(HTTP_ERROR_BYTES_MAX)).rev().find_map(|end| error.get(..end)).unwrap_or_default()
}

/// Reads a whole body and hands its events on. Returns the last ticket, or `None` where no event was accepted.
///
/// # Errors
/// Nothing was taken: 400, 413, or 503.
pub fn ingest(
    body: Buffer,
    submission: Submission,
    settings: Settings,
    door: &mut impl Door,
) -> Result<(Settled, Option<u64>), Refusal> {
    let body = if submission.gzip { unpack(body, settings.max_body_bytes, door)? } else { body };
    let mut rejects = Rejects::default();
    let pieces = match submission.media_type {
        MediaType::Protobuf => from_protobuf(body, settings, door, &mut rejects)?,
        form @ (MediaType::Json | MediaType::Ndjson) => from_json(form, body, settings, door, &mut rejects)?,
    };
    if !pieces.is_empty() && !door.ring_room(pieces.len()) {
        return Err(Refusal::new(503, "too many events are waiting: nothing of this request was taken, send it again"));
    }
    let accepted = pieces.iter().map(|piece| u64::from(piece.events)).sum();
    let settled = rejects.settle(accepted, door)?;
    let mut last_ticket = None;
    for Piece { payload, events } in pieces {
        last_ticket = Some(door.accept(payload, events));
    }
    Ok((settled, last_ticket))
}

pub fn no_memory() -> Refusal {
    Refusal::new(503, "the server is out of buffers: nothing of this request was taken, send it again")
}

/// Unpacks gzip (RFC 1952). Several members are one text, as the RFC has it (log shippers append them); anything
/// behind the last one is refused, padding too.
fn unpack(packed: Buffer, max_bytes: usize, door: &mut impl Door) -> Result<Buffer, Refusal> {
    let malformed =
        |error: std::io::Error| Refusal::body(RejectReason::Malformed, format!("the body is not gzip: {error}"));
    let mut unpacked = door.reserve(max_bytes).ok_or_else(no_memory)?;
    let mut decoder = GzDecoder::new(packed.filled());
    for _ in 0..HTTP_GZIP_MEMBERS_MAX {
        loop {
            let left = max_bytes.saturating_sub(unpacked.len());
            // Behind the bound one byte is asked for, which must not be there: only so is the checksum read.
            let mut beyond = [0];
            let room = unpacked.unfilled().get_mut(..left).filter(|room| !room.is_empty());
            let read = decoder.read(room.unwrap_or(&mut beyond)).map_err(malformed)?;
            match read {
                0 => break,
                _ if left == 0 => return Err(too_large(max_bytes)),
                _ => unpacked.advance(read),
            }
        }
        let rest = *decoder.get_ref();
        if rest.is_empty() {
            unpacked.trim();
            return Ok(unpacked);
        }
        decoder.reset(rest);
    }
    Err(Refusal::body(RejectReason::Malformed, format!("the body has more than {HTTP_GZIP_MEMBERS_MAX} gzip members")))
}

fn from_protobuf(
    mut body: Buffer,
    settings: Settings,
    door: &mut impl Door,
    rejects: &mut Rejects,
) -> Result<Vec<Piece>, Refusal> {
    // Neighbouring accepted events, as many as one slot takes.
    let mut runs: Vec<(Range<usize>, u32)> = Vec::new();
    let checked = check_batch(body.filled(), FRAME_EVENTS_MAX, |index, range, event| match event {
        Ok(_) => match runs.last_mut() {
            Some((run, events)) if run.end == range.start && range.end - run.start <= settings.max_frame_bytes => {
                run.end = range.end;
                *events += 1;
            }
            _ => runs.push((range, 1)),
        },
        Err(invalid) => rejects.push(index, RejectReason::Invalid, &invalid.to_string()),
    });
    checked.map_err(|error| {
        let reason = match error {
            BatchError::Malformed { .. } => RejectReason::Malformed,
            BatchError::TooManyEvents { .. } => RejectReason::TooLarge,
        };
        Refusal::body(reason, error.to_string())
    })?;
    if runs.len() <= body.len() / settings.max_frame_bytes.max(1) + GAPS_SHARED_MAX {
        body.trim();
        return Ok(runs.into_iter().map(|(run, events)| Piece { payload: body.share(run), events }).collect());
    }
    let mut packing = Packing::new(settings, door);
    for (run, events) in runs {
        packing.push(&[], body.filled().get(run).unwrap_or_default(), events)?;
    }
    Ok(packing.finish())
}

fn from_json(
    form: MediaType,
    body: Buffer,
    settings: Settings,
    door: &mut impl Door,
    rejects: &mut Rejects,
) -> Result<Vec<Piece>, Refusal> {
    let _ = (form, body, settings, door, rejects);
    Err(Refusal::new(501, "JSON is not read yet: send application/x-protobuf"))
}

/// Packs encoded events into buffers of at most one frame.
struct Packing<'d, D> {
    door: &'d mut D,
    settings: Settings,
    /// The buffer being filled, and its events.
    open: Option<(Buffer, u32)>,
    pieces: Vec<Piece>,
    bytes: usize,
}

impl<'d, D: Door> Packing<'d, D> {
    fn new(settings: Settings, door: &'d mut D) -> Self {
        Self { door, settings, open: None, pieces: Vec::new(), bytes: 0 }
    }

    /// Appends `events` events, whose `EventBatch` bytes are `key` and `bytes` together; they stay in one slot.
    fn push(&mut self, key: &[u8], bytes: &[u8], events: u32) -> Result<(), Refusal> {
        let Settings { max_frame_bytes, max_body_bytes } = self.settings;
        let len = key.len() + bytes.len();
        self.bytes += len;
        if self.bytes > max_body_bytes || len > max_frame_bytes {
            let max = if len > max_frame_bytes { max_frame_bytes } else { max_body_bytes };
            return Err(Refusal::body(
                RejectReason::TooLarge,
                format!("the body becomes more than {max} bytes of encoded events: send less at once"),
            ));
        }
        if self.open.as_ref().is_some_and(|(buffer, _)| buffer.len() + len > max_frame_bytes) {
            self.close();
        }
        let (buffer, held) = match &mut self.open {
            Some(open) => open,
            none => none.insert((self.door.reserve(max_frame_bytes).ok_or_else(no_memory)?, 0)),
        };
        if !buffer.extend(key) || !buffer.extend(bytes) {
            return Err(no_memory());
        }
        *held += events;
        Ok(())
    }

    fn close(&mut self) {
        if let Some((mut buffer, events)) = self.open.take().filter(|(_, events)| *events > 0) {
            buffer.trim();
            self.pieces.push(Piece { payload: buffer.share(0..buffer.len()), events });
        }
    }

    fn finish(mut self) -> Vec<Piece> {
        self.close();
        self.pieces
    }
}
