//! Which events of a DATA payload are accepted.

use std::fmt::Write as _;
use std::ops::Range;

use crate::event::{BatchError, InvalidEvent, check_batch};
use crate::limits::{FRAME_EVENTS_MAX, HTTP_REJECTED_MAX, REASON_BYTES_MAX};
use crate::wire::NackCode;

/// The verdict on a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// Every event is valid: the payload is stored unchanged.
    All {
        /// Number of events in the payload.
        events: u32,
        /// As in `Counts`.
        are_head_first: bool,
    },
    /// Some are valid: their byte ranges are in the scratch list; `reason` is PARTIAL's JSON.
    Some {
        /// Number of accepted events.
        events: u32,
        /// Number of refused events.
        refused: u32,
        /// JSON that names refused events by their index, for the NACK.
        reason: String,
    },
    /// No event is valid, or the payload is not an `EventBatch`.
    None {
        /// Code of the NACK.
        code: NackCode,
        /// Number of refused events; 0 if the payload is not an `EventBatch`.
        refused: u32,
        /// Text of the NACK.
        reason: String,
    },
}

/// Checks `payload`, an `EventBatch`. `ranges` is scratch of the caller's: afterwards it holds the accepted ranges,
/// neighbours joined. Nothing is allocated where every event is valid.
pub fn admit(payload: &[u8], ranges: &mut Vec<Range<usize>>) -> Admission {
    ranges.clear();
    let (mut events, mut refused) = (0u32, 0u32);
    let mut rejected = String::new();
    let walked = check_batch(payload, FRAME_EVENTS_MAX, |index, range, checked| match checked {
        Ok(_) => {
            events += 1;
            match ranges.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => ranges.push(range),
            }
        }
        Err(error) => {
            refused += 1;
            if (refused as usize) <= HTTP_REJECTED_MAX {
                name_refused(&mut rejected, index, error);
            }
        }
    });
    match walked {
        Err(error) => Admission::None {
            code: if matches!(error, BatchError::TooManyEvents { .. }) {
                NackCode::TooLarge
            } else {
                NackCode::Malformed
            },
            refused: 1.max(events + refused),
            reason: error.to_string(),
        },
        Ok(counts) if refused == 0 => Admission::All { events, are_head_first: counts.are_head_first },
        Ok(_) => {
            let reason = format!("{{\"accepted\":{events},\"rejected\":[{rejected}]}}");
            if events == 0 {
                Admission::None { code: NackCode::Invalid, refused, reason }
            } else {
                Admission::Some { events, refused, reason }
            }
        }
    }
}

/// Adds an event to the list of a NACK, which is bounded: what does not fit is still counted.
#[cold]
fn name_refused(rejected: &mut String, index: usize, error: InvalidEvent) {
    if rejected.len() < REASON_BYTES_MAX / 2 {
        let error = serde_json::Value::String(error.to_string());
        let comma = if rejected.is_empty() { "" } else { "," };
        let _ = write!(rejected, "{comma}{{\"index\":{index},\"error\":{error}}}");
    }
}
