//! OTLP over HTTP: a whole body becomes events, and answers are those of the OTLP/HTTP specification, in the encoding of the
//! request.
//!
//! | answer | body |
//! |---|---|
//! | 200 | `Export…ServiceResponse`; `partial_success` where records were rejected |
//! | 4xx, 5xx | `google.rpc.Status` |
//!
//! 429, 502, 503 and 504 are sent again by exporters, everything else is not. So whatever may pass later gets one of these.

use super::Ingress;
use super::connection::Settings;
use super::ingest::{Failed, Piece};
use super::response::{JSON, Refusal, push_json_string};
use super::routes::{MediaType, Submission};
use crate::batch::pool::Buffer;
use crate::event::otlp::{Decoded, EVENT_FIELD_BYTES_MAX, OtlpDecoder, OtlpError, Output, Signal};
use crate::limits::{
    FRAME_EVENTS_MAX, HTTP_ERROR_BYTES_MAX, OTLP_ENCODED_TIMES_BODY_MAX, OTLP_REJECTED_BYTES_MAX, RING_SLOTS,
};
use crate::metrics::RejectReason;
use crate::text::cut;

/// The encoding of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    /// `{"error":"…"}` and the like: of everything but OTLP.
    Native,
    /// OTLP in JSON.
    Json,
    /// OTLP in protobuf.
    Protobuf,
}

impl Encoding {
    /// Of an answer to a request for OTLP with this content type.
    pub(super) fn of_otlp(content_type: Option<&str>) -> Self {
        let name = content_type.and_then(|value| value.split(';').next()).unwrap_or_default().trim_ascii();
        let is_protobuf = ["application/x-protobuf", "application/protobuf"];
        if is_protobuf.iter().any(|known| name.eq_ignore_ascii_case(known)) { Self::Protobuf } else { Self::Json }
    }

    /// Value of `Content-Type`.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Native | Self::Json => JSON,
            Self::Protobuf => "application/x-protobuf",
        }
    }
}

/// A `google.rpc.Status`: the body of an answer to a request that failed.
pub(super) fn status_body(encoding: Encoding, status: u16, message: &str) -> Vec<u8> {
    let code = code_of(status);
    let mut body = Vec::with_capacity(message.len() + 32);
    if encoding == Encoding::Protobuf {
        body.extend_from_slice(&[0x08, code]);
        put_text(&mut body, message);
    } else {
        body.extend_from_slice(format!(r#"{{"code":{code},"message":"#).as_bytes());
        push_json_string(&mut body, message);
        body.push(b'}');
    }
    body
}

/// The code of google.rpc.Code that belongs to an HTTP status.
fn code_of(status: u16) -> u8 {
    match status {
        401 => 16,       // UNAUTHENTICATED
        403 => 7,        // PERMISSION_DENIED
        404 => 5,        // NOT_FOUND
        405 | 501 => 12, // UNIMPLEMENTED
        413 | 429 => 8,  // RESOURCE_EXHAUSTED
        503 => 14,       // UNAVAILABLE
        504 => 4,        // DEADLINE_EXCEEDED
        400..=499 => 3,  // INVALID_ARGUMENT
        _ => 2,          // UNKNOWN
    }
}

/// An `Export…ServiceResponse`: the body of a 200. `message`: why records were rejected.
pub(super) fn response_body(encoding: Encoding, signal: Signal, rejected: u64, message: &str) -> Vec<u8> {
    let mut body = Vec::new();
    match (encoding, rejected) {
        (Encoding::Protobuf, 0) => {}
        (Encoding::Protobuf, rejected) => {
            let mut partial = vec![0x08];
            put_varint(&mut partial, rejected);
            put_text(&mut partial, message);
            body.push(0x0A);
            put_varint(&mut body, partial.len() as u64);
            body.extend_from_slice(&partial);
        }
        (_, 0) => body.extend_from_slice(b"{}"),
        (_, rejected) => {
            let key = signal.rejected_key();
            body.extend_from_slice(format!(r#"{{"partialSuccess":{{"{key}":"{rejected}","errorMessage":"#).as_bytes());
            push_json_string(&mut body, message);
            body.extend_from_slice(b"}}");
        }
    }
    body
}

/// Field 2 of a message.
fn put_text(body: &mut Vec<u8>, text: &str) {
    body.push(0x12);
    put_varint(body, text.len() as u64);
    body.extend_from_slice(text.as_bytes());
}

fn put_varint(body: &mut Vec<u8>, value: u64) {
    prost::encoding::encode_varint(value, body);
}

/// What became of a request.
pub(super) struct Taken {
    /// Events, in slots.
    pub pieces: Vec<Piece>,
    /// Rejected records as requests of their own, for the dead letters.
    pub refused: Vec<Piece>,
    /// The records.
    pub decoded: Decoded,
}

/// Maps an unpacked body to events.
///
/// # Errors
/// Nothing may be taken of it.
pub(super) fn decode(
    body: &Buffer,
    submission: Submission,
    signal: Signal,
    settings: Settings,
    ingress: &mut impl Ingress,
) -> Result<Taken, Failed> {
    let mut packing = Packing::new(settings, ingress);
    let mut decoder = OtlpDecoder::new();
    let decoded = match submission.media_type {
        MediaType::Protobuf => decoder.protobuf(signal, body.filled(), &mut packing),
        MediaType::Json | MediaType::Ndjson => decoder.json(signal, body.filled(), &mut packing),
    };
    match decoded {
        Ok(decoded) => Ok(packing.finish(decoded)),
        Err(OtlpError::Output(failed)) => Err(failed),
        Err(error @ (OtlpError::Malformed { .. } | OtlpError::Json(_))) => {
            let error = instead(body.filled(), submission).unwrap_or_else(|| error.to_string());
            Err(Refusal::body(RejectReason::Malformed, cut(&error, HTTP_ERROR_BYTES_MAX).to_owned()).into())
        }
        Err(error @ (OtlpError::TooManyEvents { .. } | OtlpError::RecordTooLarge)) => {
            Err(Refusal::body(RejectReason::TooLarge, error.to_string()).into())
        }
    }
}

/// A better message for a body that is something else than its head declares.
fn instead(body: &[u8], submission: Submission) -> Option<String> {
    if let Some(name) = super::hints::compression(body) {
        return Some(match submission.gzip {
            true => format!("the body is {name} within gzip: compress it once, with gzip"),
            false => format!("the body is {name}: set \"Content-Encoding: gzip\" for gzip, no other one is supported"),
        });
    }
    match submission.media_type {
        MediaType::Protobuf if super::hints::looks_like_json(body) => {
            Some("the body is JSON, not protobuf: set \"Content-Type: application/json\"".to_owned())
        }
        MediaType::Json if body.first().is_some_and(|byte| *byte == 0x0A) && !super::hints::looks_like_json(body) => {
            Some("the body is protobuf, not JSON: set \"Content-Type: application/x-protobuf\"".to_owned())
        }
        _ => None,
    }
}

/// The most bytes of events that a request may become: what the pool has room for beside its unpacked body, and the ring for
/// its slots.
fn encoded_bytes_max(settings: Settings, finishing_bytes: usize) -> usize {
    let Settings { max_body_bytes, max_frame_bytes, .. } = settings;
    let piece = piece_bytes(settings);
    let of_pool = finishing_bytes.saturating_sub(max_body_bytes + 3 * piece) / 16 * 15;
    let of_ring = RING_SLOTS / 4 * (piece / 2);
    let wanted = OTLP_ENCODED_TIMES_BODY_MAX * max_body_bytes;
    wanted.min(of_pool).min(of_ring).max(max_frame_bytes.min(max_body_bytes))
}

/// Slots of the ring that a request takes at most: full ones, one that is being filled, and the rejected records. An empty ring
/// has them, whatever the settings are: see [`encoded_bytes_max`].
pub(super) fn slots(settings: Settings) -> usize {
    let least = piece_bytes(settings).saturating_sub(EVENT_FIELD_BYTES_MAX).max(EVENT_FIELD_BYTES_MAX / 2);
    (OTLP_ENCODED_TIMES_BODY_MAX * settings.max_body_bytes / least).min(RING_SLOTS / 4) + 4
}

/// Bytes of a buffer for events: the largest event fits.
fn piece_bytes(settings: Settings) -> usize {
    settings.max_frame_bytes.max(EVENT_FIELD_BYTES_MAX)
}

/// Writes events into buffers of at most one frame, in place.
struct Packing<'d, D> {
    ingress: &'d mut D,
    piece_bytes: usize,
    bytes_max: usize,
    bytes: usize,
    events: Filling,
    refused: Filling,
}

/// A buffer that is being filled, and those that are full.
#[derive(Default)]
struct Filling {
    open: Option<(Buffer, u32)>,
    /// Bytes of its only record for which a dead letter has no room.
    left_out: usize,
    pieces: Vec<Piece>,
}

impl Filling {
    fn close(&mut self) {
        if let Some((mut buffer, events)) = self.open.take().filter(|(_, events)| *events > 0) {
            buffer.trim();
            let payload = buffer.share_pinning(0..buffer.len(), buffer.capacity_bytes());
            self.pieces.push(Piece { payload, events, left_out: self.left_out });
            self.left_out = 0;
        }
    }

    /// Whether the open buffer has room for `bytes` more, within a piece.
    fn has_room(&self, bytes: usize, piece_bytes: usize) -> bool {
        self.open.as_ref().is_some_and(|(buffer, events)| {
            buffer.len() + bytes <= piece_bytes && (*events as usize) < FRAME_EVENTS_MAX
        })
    }
}

impl<'d, D: Ingress> Packing<'d, D> {
    fn new(settings: Settings, ingress: &'d mut D) -> Self {
        let bytes_max = encoded_bytes_max(settings, ingress.finishing_bytes());
        let (events, refused) = (Filling::default(), Filling::default());
        Self { ingress, piece_bytes: piece_bytes(settings), bytes_max, bytes: 0, events, refused }
    }

    fn too_large(&self) -> Failed {
        let max = self.bytes_max;
        let error = format!("the request becomes more than {max} bytes of encoded events: send smaller batches");
        Refusal::body(RejectReason::TooLarge, error).into()
    }

    fn finish(mut self, decoded: Decoded) -> Taken {
        self.events.close();
        self.refused.close();
        Taken { pieces: self.events.pieces, refused: self.refused.pieces, decoded }
    }
}

impl<D: Ingress> Output for Packing<'_, D> {
    type Error = Failed;

    #[inline]
    fn room(&mut self) -> Result<&mut [u8], Failed> {
        if self.bytes > self.bytes_max {
            return Err(self.too_large());
        }
        if !self.events.has_room(EVENT_FIELD_BYTES_MAX, self.piece_bytes) {
            self.events.close();
            self.events.open = Some((self.ingress.reserve_to_finish(self.piece_bytes).ok_or(Failed::NoRoom)?, 0));
        }
        match &mut self.events.open {
            Some((buffer, _)) => Ok(buffer.unfilled()),
            None => Err(Failed::NoRoom),
        }
    }

    #[inline]
    fn wrote(&mut self, bytes: usize) {
        self.bytes += bytes;
        if let Some((buffer, events)) = &mut self.events.open {
            buffer.advance(bytes);
            *events += 1;
        }
    }

    fn reject(&mut self, pieces: &[&[u8]]) -> Result<(), Failed> {
        let whole: usize = pieces.iter().map(|piece| piece.len()).sum();
        let bytes = whole.min(OTLP_REJECTED_BYTES_MAX);
        self.bytes += bytes;
        if self.bytes > self.bytes_max {
            return Err(self.too_large());
        }
        if !self.refused.has_room(bytes, self.piece_bytes) {
            self.refused.close();
            let room = self.piece_bytes.max(bytes);
            self.refused.open = Some((self.ingress.reserve_to_finish(room).ok_or(Failed::NoRoom)?, 0));
        }
        let Some((buffer, records)) = &mut self.refused.open else { return Err(Failed::NoRoom) };
        *records += 1;
        let mut left = bytes;
        for piece in pieces {
            let kept = piece.get(..left).unwrap_or(piece);
            left -= kept.len();
            if !buffer.extend(kept) {
                return Err(Failed::NoRoom);
            }
        }
        if bytes < whole {
            // It stays alone, so that its letter can say what is missing.
            self.refused.left_out = whole - bytes;
            self.refused.close();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::pool::Pool;
    use crate::http::fuzz::{FakeIngress, SETTINGS};

    #[test]
    fn an_empty_ring_has_the_slots_of_the_largest_request() {
        use crate::limits::{FRAME_BYTES_LIMIT, FRAME_BYTES_LOWEST, HTTP_BODY_BYTES_LIMIT};
        for max_body_bytes in (20..=30).map(|bits| 1 << bits) {
            for max_frame_bytes in [FRAME_BYTES_LOWEST, 1 << 20, FRAME_BYTES_LIMIT] {
                let settings = Settings { max_body_bytes, max_frame_bytes, ..SETTINGS };
                let slots = slots(settings);
                assert!(slots <= RING_SLOTS / 2, "{max_body_bytes} {max_frame_bytes}: {slots}");
                // Two pieces in succession are more than one piece is long.
                let pieces = 2 * encoded_bytes_max(settings, usize::MAX) / piece_bytes(settings);
                assert!(pieces <= slots.max(RING_SLOTS / 4), "{max_body_bytes} {max_frame_bytes}: {pieces} of {slots}");
            }
        }
        const { assert!(HTTP_BODY_BYTES_LIMIT == 1 << 30) };
    }

    #[test]
    fn what_a_dead_letter_has_no_room_for_is_left_out_of_it() {
        let settings = Settings { max_body_bytes: 64 << 20, max_frame_bytes: 1 << 20, ..SETTINGS };
        let mut ingress = FakeIngress::new();
        ingress.pool = Pool::new(128 << 20, Box::new(|| {}));
        let mut packing = Packing::new(settings, &mut ingress);
        let long = vec![7; OTLP_REJECTED_BYTES_MAX];
        for pieces in [&[b"small".as_slice()][..], &[b"head", &long], &[b"more"]] {
            assert!(packing.reject(pieces).is_ok());
        }
        let taken = packing.finish(Decoded::default());
        let refused: Vec<_> = taken.refused.iter().map(|piece| (piece.payload.len(), piece.left_out)).collect();
        assert_eq!(refused, [(5, 0), (OTLP_REJECTED_BYTES_MAX, 4), (4, 0)]);
        assert!(taken.refused[1].payload.starts_with(b"head"));
    }

    #[test]
    fn answers_are_in_the_encoding_of_the_request() {
        assert_eq!(response_body(Encoding::Protobuf, Signal::Logs, 0, ""), b"");
        assert_eq!(response_body(Encoding::Json, Signal::Logs, 0, ""), b"{}");
        assert_eq!(response_body(Encoding::Protobuf, Signal::Logs, 300, "no"), b"\x0a\x07\x08\xac\x02\x12\x02no");
        assert_eq!(
            response_body(Encoding::Json, Signal::Traces, 2, "\"a\""),
            br#"{"partialSuccess":{"rejectedSpans":"2","errorMessage":"\"a\""}}"#
        );
        assert_eq!(status_body(Encoding::Protobuf, 400, "no"), b"\x08\x03\x12\x02no");
        assert_eq!(status_body(Encoding::Json, 503, "later"), br#"{"code":14,"message":"later"}"#);
    }
}
