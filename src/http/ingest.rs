//! A whole body becomes `EventBatch` bytes in the pool, and a list of what was refused.
//!
//! ```text
//!  body ─ gunzip ─▶ protobuf ─ check ─▶ its own bytes, cut between events ──────────┐
//!   (Buffer)   │                    └─ with gaps ─▶ accepted ranges, copied ────────┤─▶ slots of at most one frame
//!              ├─▶ OTLP ─ map ─▶ events, written in place into new buffers ───────────┤
//!              └─▶ JSON, NDJSON ─ decode ─▶ encoded events, packed into new buffers ┘
//! ```
//!
//! Nothing is handed on before the whole body was read, memory for everything was there, and the ring has room for all
//! slots: a request is taken as a whole (less the events that break a rule) or not at all. Until then the body stays as it
//! is, so where there is no room it can be tried again.

use std::io::Read;
use std::mem;
use std::ops::Range;

use flate2::bufread::GzDecoder;

use super::Ingress;
use super::body::too_large;
use super::connection::Settings;
use super::hints;
use super::otlp::{self, Encoding, Taken};
use super::response::{Refusal, push_json_string, result_body};
use super::routes::{MediaType, Submission, Target};
use crate::batch::pool::{Buffer, PoolSlice};
use crate::batch::shares::packed_bytes;
use crate::event::otlp::Signal;
use crate::event::{BatchError, Decoded, JsonDecoder, JsonError, JsonOptions, Rejection, Rejections, check_batch};
use crate::limits::{FRAME_EVENTS_MAX, HTTP_ERROR_BYTES_MAX, HTTP_GZIP_MEMBERS_MAX, HTTP_PACKED_BODY_BYTES_MAX};
use crate::metrics::RejectReason;
use crate::rate::{Amount, Received};
use crate::text::cut;

/// A body with more gaps than this between its accepted events is packed again, so that it does not fill the ring.
const GAPS_SHARED_MAX: usize = 16;

/// One slot to be: events and their `EventBatch` bytes, or rejected records of OTLP.
pub(super) struct Piece {
    /// The encoded bytes.
    pub payload: PoolSlice,
    /// How many events or records.
    pub events: u32,
    /// Bytes of a rejected record that its dead letter has no room for; else 0.
    pub left_out: usize,
}

/// What became of a request's events; the text of its answer, kept in the pool while the answer waits, where bodies are
/// received: the memory for whole bodies must not wait for the answer.
pub(super) struct Settled {
    accepted: u64,
    rejected: u64,
    listed: u64,
    /// The joined entries of the list, or for OTLP a text; `None` where nothing was refused.
    entries: Option<Buffer>,
    target: Target,
    encoding: Encoding,
}

impl Settled {
    /// Moves the list of what was refused into the pool. Where that has no room, the answer has the number alone.
    fn new(accepted: u64, rejections: &Rejections, ingress: &mut impl Ingress) -> Self {
        let listed = rejections.named.len() as u64;
        let rejected = rejections.total as u64;
        let (target, encoding) = (Target::Events, Encoding::Native);
        let mut settled = Self { accepted, rejected, listed: 0, entries: None, target, encoding };
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

    /// What became of a request of OTLP; `summary` says what was rejected of it.
    fn of_otlp(submission: Submission, taken: &Taken, summary: &str, ingress: &mut impl Ingress) -> Self {
        let mut entries = ingress.reserve_for_answer(summary.len()).filter(|_| !summary.is_empty());
        entries = entries.and_then(|mut buffer| buffer.extend(summary.as_bytes()).then_some(buffer));
        let (target, encoding) = (submission.target, submission.encoding());
        let accepted = taken.pieces.iter().map(|piece| u64::from(piece.events)).sum();
        let rejected = taken.decoded.rejected.total as u64;
        Self { accepted, rejected, listed: 0, entries, target, encoding }
    }

    /// HTTP status of an answer that needs to wait for nothing.
    fn status(&self) -> u16 {
        if self.nothing_but_refused() { 400 } else { 200 }
    }

    /// What it was for.
    pub(super) fn target(&self) -> Target {
        self.target
    }

    /// Value of the answer's `Content-Type`.
    pub(super) fn content_type(&self) -> &'static str {
        self.encoding.content_type()
    }

    /// Why everything was refused.
    pub(super) fn nothing_accepted(&self) -> String {
        match (self.target, &self.entries) {
            (Target::Otlp(_), Some(summary)) => String::from_utf8_lossy(summary.filled()).into_owned(),
            (Target::Otlp(signal), None) => format!("every {} was rejected", signal.record()),
            (Target::Events, _) => "every event was rejected".to_owned(),
        }
    }

    /// The answer's body. `error`: the status, and what went wrong.
    pub(super) fn body(&self, error: Option<(u16, &str)>) -> Vec<u8> {
        match (self.target, error) {
            (Target::Otlp(_), Some((status, error))) => otlp::status_body(self.encoding, status, error),
            (Target::Otlp(signal), None) => {
                let summary = self.entries.as_ref().map(|summary| String::from_utf8_lossy(summary.filled()));
                let summary = summary.unwrap_or("the server's log file names what was rejected".into());
                otlp::response_body(self.encoding, signal, self.rejected, &summary)
            }
            (Target::Events, error) => self.native_body(error.map(|(_, error)| error)),
        }
    }

    fn native_body(&self, error: Option<&str>) -> Vec<u8> {
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
    if submission.gzip {
        return ingest_unpacked(&mut unpack(body, settings.max_body_bytes, ingress)?, submission, settings, ingress);
    }
    ingest_unpacked(body, submission, settings, ingress)
}

fn ingest_unpacked(
    body: &mut Buffer,
    submission: Submission,
    settings: Settings,
    ingress: &mut impl Ingress,
) -> Result<(Settled, Option<u64>), Failed> {
    let level = submission.level;
    if let Target::Otlp(signal) = submission.target {
        return ingest_otlp(body, submission, signal, settings, ingress);
    }
    let (pieces, rejections) = decode(body, submission, settings, ingress)?;
    if !ingress.ring_room(pieces.len()) {
        return Err(Failed::NoRoom);
    }
    let accepted = pieces.iter().map(|piece| u64::from(piece.events)).sum();
    let settled = Settled::new(accepted, &rejections, ingress);
    if settled.rejected > 0 {
        ingress.rejected(RejectReason::Invalid, settled.rejected);
        let why = rejections.named.first().map_or("", |first| &*first.error);
        ingress.rejected_some(settled.status(), why, settled.rejected);
    }
    let mut last_ticket = None;
    for Piece { payload, events, .. } in pieces {
        last_ticket = Some(ingress.accept(payload, events, level));
    }
    Ok((settled, last_ticket))
}

/// A request of OTLP. What was rejected of it goes first, so that the last ticket is that of all.
fn ingest_otlp(
    body: &Buffer,
    submission: Submission,
    signal: Signal,
    settings: Settings,
    ingress: &mut impl Ingress,
) -> Result<(Settled, Option<u64>), Failed> {
    let taken = otlp::decode(body, submission, signal, settings, ingress)?;
    if !ingress.ring_room(taken.pieces.len() + taken.refused.len()) {
        return Err(Failed::NoRoom);
    }
    let summary = taken.decoded.summary(signal).unwrap_or_default();
    let settled = Settled::of_otlp(submission, &taken, &summary, ingress);
    let Taken { pieces, refused, .. } = taken;
    if settled.rejected > 0 {
        ingress.rejected(RejectReason::Invalid, settled.rejected);
        ingress.rejected_some(settled.status(), &summary, settled.rejected);
    }
    let mut last_ticket = None;
    for Piece { payload, events, left_out } in refused {
        let cut = match left_out {
            0 => String::new(),
            bytes => format!("the last {bytes} bytes of the record are left out; "),
        };
        let reason = format!("OTLP {}: {cut}{summary}", signal.name());
        last_ticket = Some(ingress.reject(payload, events, settled.accepted == 0, &reason));
    }
    for Piece { payload, events, .. } in pieces {
        last_ticket = Some(ingress.accept(payload, events, submission.level));
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
    if let Target::Otlp(_) = submission.target {
        // Mostly; one that becomes more is tried all the same, once in `HTTP_FINISH_RETRY`.
        let encoded = (2 * encoded).min(max_body_bytes).max(encoded);
        let packed_bytes = packed_bytes(encoded, max_frame_bytes);
        return Needs { unpacked_bytes, packed_bytes, piece_bytes: max_frame_bytes, slots: otlp::slots(settings) };
    }
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
    let json = submission.query.json(settings.unknown_keys);
    match submission.media_type {
        MediaType::Protobuf => from_protobuf(body, settings, ingress).map_err(|failed| instead(failed, body)),
        MediaType::Json => {
            from_json(body, json, settings, ingress, |decoder, emit| decoder.document(body.filled(), emit))
                .map_err(|failed| instead(failed, body))
        }
        MediaType::Ndjson => {
            let (pieces, rejections) =
                from_json(body, json, settings, ingress, |decoder, emit| decoder.lines(body.filled(), emit))?;
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
        // What lies between them, and behind, counts with the first one.
        let mut others = body.capacity_bytes() - runs.iter().map(|(run, _)| run.len()).sum::<usize>();
        let pieces = runs.into_iter().map(|(run, events)| {
            let pinned = run.len() + std::mem::take(&mut others);
            Piece { payload: body.share_pinning(run, pinned), events, left_out: 0 }
        });
        return Ok((pieces.collect(), rejections));
    }
    let mut packing = Packing::new(body.len(), settings, ingress);
    for (run, events) in runs {
        packing.push(body.filled().get(run).unwrap_or_default(), events)?;
    }
    Ok((packing.finish(), rejections))
}

/// `decode` reads the body, and calls what it is given with each accepted event.
fn from_json<D: Ingress>(
    body: &Buffer,
    options: JsonOptions,
    settings: Settings,
    ingress: &mut D,
    decode: impl FnOnce(&mut JsonDecoder, &mut dyn FnMut(&[u8]) -> Result<(), Failed>) -> Result<Decoded, JsonError<Failed>>,
) -> Result<(Vec<Piece>, Rejections), Failed> {
    let mut packing = Packing::new(body.len(), settings, ingress);
    let decoded =
        decode(&mut JsonDecoder::with_options(options), &mut |event| packing.push(event, 1)).map_err(|error| {
            match error {
                JsonError::Emit(failed) => failed,
                JsonError::Malformed(_) | JsonError::Empty => {
                    Refusal::body(RejectReason::Malformed, cut(&error.to_string(), HTTP_ERROR_BYTES_MAX).to_owned())
                        .into()
                }
                JsonError::TooManyEvents { .. } => Refusal::body(RejectReason::TooLarge, error.to_string()).into(),
            }
        })?;
    Ok((packing.finish(), decoded.rejected))
}

/// Packs encoded events into slots of at most one frame.
struct Packing<'d, D: Ingress> {
    ingress: &'d mut D,
    settings: Settings,
    /// The slot being filled.
    open: Option<Open>,
    pieces: Vec<Piece>,
    /// Bytes of the body.
    body_bytes: usize,
    /// Encoded bytes so far.
    bytes: usize,
}

/// A slot that is being filled.
struct Open {
    buffer: Buffer,
    /// Where the slot begins.
    start: usize,
    events: u32,
    /// What small bodies become is packed into this buffer, one after the other: a page for each would be mostly empty.
    is_common: bool,
}

impl<'d, D: Ingress> Packing<'d, D> {
    fn new(body_bytes: usize, settings: Settings, ingress: &'d mut D) -> Self {
        Self { ingress, settings, open: None, pieces: Vec::new(), body_bytes, bytes: 0 }
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
        let fits =
            |Open { buffer, start, .. }: &Open| len <= buffer.room() && buffer.len() - start + len <= max_frame_bytes;
        if self.open.as_ref().is_some_and(|open| !fits(open)) {
            self.close();
        }
        let open = match &mut self.open {
            Some(open) => open,
            none => {
                // As long as its body, as nearly every one is; else it is continued in a slot of its own.
                let expected = len.max(self.body_bytes);
                let is_small = self.pieces.is_empty() && expected <= HTTP_PACKED_BODY_BYTES_MAX;
                let common = if is_small { self.ingress.take_common(expected) } else { None };
                let is_common = common.is_some();
                let buffer =
                    common.or_else(|| self.ingress.reserve_to_finish(max_frame_bytes)).ok_or(Failed::NoRoom)?;
                none.insert(Open { start: buffer.len(), buffer, events: 0, is_common })
            }
        };
        if !open.buffer.extend(bytes) {
            return Err(Failed::NoRoom);
        }
        open.events += events;
        Ok(())
    }

    fn close(&mut self) {
        let Some(Open { mut buffer, start, events, is_common }) = self.open.take() else { return };
        if !is_common {
            buffer.trim();
        }
        if events > 0 {
            let range = start..buffer.len();
            let pinned = if is_common { range.len() } else { buffer.capacity_bytes() };
            self.pieces.push(Piece { payload: buffer.share_pinning(range, pinned), events, left_out: 0 });
        }
        if is_common {
            self.ingress.put_back_common(buffer);
        }
    }

    fn finish(mut self) -> Vec<Piece> {
        self.close();
        mem::take(&mut self.pieces)
    }
}

impl<D: Ingress> Drop for Packing<'_, D> {
    /// Nothing of the body was taken: the next one begins where it did.
    fn drop(&mut self) {
        if let Some(Open { mut buffer, start, is_common: true, .. }) = self.open.take() {
            buffer.rewind(start);
            self.ingress.put_back_common(buffer);
        }
    }
}
