//! A whole body becomes `EventBatch` bytes in the pool, and a list of what was refused.
//!
//! ```text
//!  body ─ gunzip ─▶ protobuf ─ check ─▶ its own bytes, cut between events ──────────┐
//!   (Buffer)   │                    └─ with gaps ─▶ accepted ranges, copied ────────┤─▶ slots of at most one frame
//!              └─▶ JSON, NDJSON ─ decode ─▶ encoded events, packed into new buffers ┘
//! ```
//!
//! Nothing is handed on before the whole body was read, memory for everything was there, and the ring has room for all
//! slots: a request is taken as a whole (less the events that break a rule) or not at all. Until then the body stays as it
//! is, so where there is no room it can be tried again.

use std::io::Read;
use std::ops::Range;

use flate2::bufread::GzDecoder;

use super::Ingress;
use super::body::too_large;
use super::connection::Settings;
use super::hints;
use super::response::{Refusal, push_json_string, result_body};
use super::routes::{MediaType, Submission};
use crate::batch::pool::{Buffer, PoolSlice};
use crate::batch::shares::packed_bytes;
use crate::event::{BatchError, Decoded, JsonDecoder, JsonError, Rejection, Rejections, check_batch};
use crate::limits::{FRAME_EVENTS_MAX, HTTP_ERROR_BYTES_MAX, HTTP_GZIP_MEMBERS_MAX};
use crate::metrics::RejectReason;
use crate::rate::{Amount, Received};
use crate::text::cut;

/// A body with more gaps than this between its accepted events is packed again, so that it does not fill the ring.
const GAPS_SHARED_MAX: usize = 16;

/// One slot to be: events and their `EventBatch` bytes.
struct Piece {
    payload: PoolSlice,
    events: u32,
}

/// What became of a request's events; the text of its answer, kept in the pool while the answer waits, where bodies are
/// received: the memory for whole bodies must not wait for the answer.
pub(super) struct Settled {
    accepted: u64,
    rejected: u64,
    listed: u64,
    /// The joined entries of the list; `None` where nothing was refused.
    entries: Option<Buffer>,
}

impl Settled {
    /// Moves the list of what was refused into the pool. Where that has no room, the answer has the number alone.
    fn new(accepted: u64, rejections: &Rejections, ingress: &mut impl Ingress) -> Self {
        let listed = rejections.named.len() as u64;
        let mut settled = Self { accepted, rejected: rejections.total as u64, listed: 0, entries: None };
        if listed > 0 {
            let mut entries = Vec::new();
            for Rejection { index, error } in &rejections.named {
                entries.extend_from_slice(if entries.is_empty() { b"" } else { b"," });
                entries.extend_from_slice(format!(r#"{{"index":{index},"error":"#).as_bytes());
                push_json_string(&mut entries, cut(error, HTTP_ERROR_BYTES_MAX));
                entries.push(b'}');
            }
            if let Some(mut buffer) = ingress.reserve_for_answer(entries.len())
                && buffer.extend(&entries)
            {
                (settled.listed, settled.entries) = (listed, Some(buffer));
            }
        }
        settled
    }

    /// Whether the body had events and every one was refused.
    pub(super) fn nothing_but_refused(&self) -> bool {
        self.accepted == 0 && self.rejected > 0
    }

    /// The answer's body.
    pub(super) fn body(&self, error: Option<&str>) -> Vec<u8> {
        let entries = self.entries.as_ref().map_or(&[][..], Buffer::filled);
        result_body(error, self.accepted, entries, self.listed, self.rejected)
    }
}

impl Settled {
    /// What a body of `bytes` was, for limits.
    pub(super) fn received(&self, bytes: usize) -> Received {
        let amount = Amount { events: self.accepted + self.rejected, bytes: bytes as u64 };
        Received { amount, accepted: self.accepted }
    }
}

/// Why nothing of a body was taken.
#[derive(Debug)]
pub(super) enum Failed {
    /// The body breaks a rule; sending it again does not help.
    Refused(Refusal),
    /// Pool or ring have no room for what the body becomes. The body is as it was: try again.
    NoRoom,
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Reads a whole body and hands its events on. Returns the last ticket, or `None` where no event was accepted.
///
/// # Errors
/// Nothing was taken: 400, 413, or there is no room.
pub(super) fn ingest(
    body: &mut Buffer,
    submission: Submission,
    settings: Settings,
    ingress: &mut impl Ingress,
) -> Result<(Settled, Option<u64>), Failed> {
    let level = submission.level;
    let (pieces, rejections) = if submission.gzip {
        decode(&mut unpack(body, settings.max_body_bytes, ingress)?, submission, settings, ingress)?
    } else {
        decode(body, submission, settings, ingress)?
    };
    if !ingress.ring_room(pieces.len()) {
        return Err(Failed::NoRoom);
    }
    let accepted = pieces.iter().map(|piece| u64::from(piece.events)).sum();
    let settled = Settled::new(accepted, &rejections, ingress);
    if settled.rejected > 0 {
        ingress.rejected(RejectReason::Invalid, settled.rejected);
    }
    let mut last_ticket = None;
    for Piece { payload, events } in pieces {
        last_ticket = Some(ingress.accept(payload, events, level));
    }
    Ok((settled, last_ticket))
}

/// What a whole body takes at most to become events.
#[derive(Debug, Clone, Copy)]
pub struct Needs {
    /// Bytes of the pool in one piece, for the unpacked body; 0: it is not packed.
    pub unpacked_bytes: usize,
    /// Bytes of the pool, in pieces of `piece_bytes` that are trimmed once they are full.
    pub packed_bytes: usize,
    /// Bytes of each of these pieces, at most.
    pub piece_bytes: usize,
    /// Slots of the ring.
    pub slots: usize,
}

/// The largest needs of a body of `bytes`. A pool whose share for this is not in use has room for them; see
/// [`Shares`](crate::batch::shares::Shares).
pub(super) fn needs(bytes: usize, submission: Submission, settings: Settings) -> Needs {
    let Settings { max_body_bytes, max_frame_bytes, .. } = settings;
    let unpacked_bytes = if submission.gzip { max_body_bytes } else { 0 };
    // JSON can become many times as long: the key of an object is repeated in the keys of all its members.
    let is_as_long = submission.media_type == MediaType::Protobuf && !submission.gzip;
    let encoded = if is_as_long { bytes } else { max_body_bytes };
    Needs {
        unpacked_bytes,
        packed_bytes: packed_bytes(encoded, max_frame_bytes),
        piece_bytes: max_frame_bytes,
        slots: 2 * (max_body_bytes / max_frame_bytes.max(1)) + GAPS_SHARED_MAX + 1,
    }
}

/// The refusal of a body for which the pool has no memory: 503.
pub(super) fn no_memory() -> Refusal {
    Refusal::new(503, "the server is out of buffers: nothing of this request was accepted, send it again")
}

/// Unpacks gzip (RFC 1952). Several members are one text, as the RFC has it (log shippers append them); anything
/// after the last one is refused, padding too.
fn unpack(packed: &Buffer, max_bytes: usize, ingress: &mut impl Ingress) -> Result<Buffer, Failed> {
    let mut unpacked = ingress.reserve_to_finish(max_bytes).ok_or(Failed::NoRoom)?;
    let mut decoder = GzDecoder::new(packed.filled());
    let mut member = 0;
    for _ in 0..HTTP_GZIP_MEMBERS_MAX {
        loop {
            let left = max_bytes.saturating_sub(unpacked.len());
            // Behind the bound one byte is asked for, which must not be there: only so is the checksum read.
            let mut beyond = [0];
            let room = unpacked.unfilled().get_mut(..left).filter(|room| !room.is_empty());
            let read = decoder
                .read(room.unwrap_or(&mut beyond))
                .map_err(|error| hints::not_gzip(packed.filled(), member, &error))?;
            match read {
                0 => break,
                _ if left == 0 => return Err(too_large(max_bytes).into()),
                _ => unpacked.advance(read),
            }
        }
        let rest = *decoder.get_ref();
        if rest.is_empty() {
            unpacked.trim();
            return Ok(unpacked);
        }
        member = packed.len().saturating_sub(rest.len());
        decoder.reset(rest);
    }
    let error = format!("the body has more than {HTTP_GZIP_MEMBERS_MAX} gzip members");
    Err(Refusal::body(RejectReason::Malformed, error).into())
}

/// The accepted events of an unpacked body, and what was refused of it. Where nothing can be read, the message names what
/// the body is instead.
fn decode(
    body: &mut Buffer,
    submission: Submission,
    settings: Settings,
    ingress: &mut impl Ingress,
) -> Result<(Vec<Piece>, Rejections), Failed> {
    let instead = |failed: Failed, body: &Buffer| match failed {
        Failed::Refused(refusal) if refusal.reason == Some(RejectReason::Malformed) => {
            Failed::Refused(hints::instead(body.filled(), submission).unwrap_or(refusal))
        }
        failed => failed,
    };
    match submission.media_type {
        MediaType::Protobuf => from_protobuf(body, settings, ingress).map_err(|failed| instead(failed, body)),
        MediaType::Json => from_json(settings, ingress, |decoder, emit| decoder.document(body.filled(), emit))
            .map_err(|failed| instead(failed, body)),
        MediaType::Ndjson => {
            let (pieces, rejections) =
                from_json(settings, ingress, |decoder, emit| decoder.lines(body.filled(), emit))?;
            if pieces.is_empty() && rejections.total > 0 {
                hints::instead(body.filled(), submission).map_or(Ok(()), Err)?;
            }
            Ok((pieces, rejections))
        }
    }
}

fn from_protobuf(
    body: &mut Buffer,
    settings: Settings,
    ingress: &mut impl Ingress,
) -> Result<(Vec<Piece>, Rejections), Failed> {
    let mut rejections = Rejections::default();
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
        Err(invalid) => rejections.add(index, invalid),
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
        let pieces = runs.into_iter().map(|(run, events)| Piece { payload: body.share(run), events }).collect();
        return Ok((pieces, rejections));
    }
    let mut packing = Packing::new(settings, ingress);
    for (run, events) in runs {
        packing.push(body.filled().get(run).unwrap_or_default(), events)?;
    }
    Ok((packing.finish(), rejections))
}

/// `decode` reads the body, and calls what it is given with each accepted event.
fn from_json<D: Ingress>(
    settings: Settings,
    ingress: &mut D,
    decode: impl FnOnce(&mut JsonDecoder, &mut dyn FnMut(&[u8]) -> Result<(), Failed>) -> Result<Decoded, JsonError<Failed>>,
) -> Result<(Vec<Piece>, Rejections), Failed> {
    let mut packing = Packing::new(settings, ingress);
    let decoded =
        decode(&mut JsonDecoder::new(), &mut |event| packing.push(event, 1)).map_err(|error| match error {
            JsonError::Emit(failed) => failed,
            JsonError::Malformed(_) | JsonError::Empty => {
                Refusal::body(RejectReason::Malformed, cut(&error.to_string(), HTTP_ERROR_BYTES_MAX).to_owned()).into()
            }
            JsonError::TooManyEvents { .. } => Refusal::body(RejectReason::TooLarge, error.to_string()).into(),
        })?;
    Ok((packing.finish(), decoded.rejected))
}

/// Packs encoded events into buffers of at most one frame.
struct Packing<'d, D> {
    ingress: &'d mut D,
    settings: Settings,
    /// The buffer being filled, and its events.
    open: Option<(Buffer, u32)>,
    pieces: Vec<Piece>,
    bytes: usize,
}

impl<'d, D: Ingress> Packing<'d, D> {
    fn new(settings: Settings, ingress: &'d mut D) -> Self {
        Self { ingress, settings, open: None, pieces: Vec::new(), bytes: 0 }
    }

    /// Appends `bytes`, the `EventBatch` of `events` events; they stay in one slot.
    fn push(&mut self, bytes: &[u8], events: u32) -> Result<(), Failed> {
        let Settings { max_frame_bytes, max_body_bytes, .. } = self.settings;
        let len = bytes.len();
        self.bytes += len;
        if self.bytes > max_body_bytes || len > max_frame_bytes {
            let max = if len > max_frame_bytes { max_frame_bytes } else { max_body_bytes };
            let error = format!("the body becomes more than {max} bytes of encoded events: send less at once");
            return Err(Refusal::body(RejectReason::TooLarge, error).into());
        }
        if self.open.as_ref().is_some_and(|(buffer, _)| buffer.len() + len > max_frame_bytes) {
            self.close();
        }
        let (buffer, held) = match &mut self.open {
            Some(open) => open,
            none => none.insert((self.ingress.reserve_to_finish(max_frame_bytes).ok_or(Failed::NoRoom)?, 0)),
        };
        if !buffer.extend(bytes) {
            return Err(Failed::NoRoom);
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
