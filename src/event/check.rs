//! The check on receipt: whether bytes are an event, and a payload a batch.
//!
//! Two kinds of fault, answered differently. *Malformed*: the bytes are not protobuf of the schema; nothing in the
//! payload can be trusted and none of it is taken. *Invalid*: a well-formed message breaks a rule of the event contract
//! (see `limits`); it is refused by its index and its neighbours are taken. A payload is read to its end before
//! anything counts, so a malformed event after an invalid one is found.
//!
//! Where a field occurs twice the last one counts, also for the rules, as in every protobuf reader. Nothing allocates.

use std::ops::Range;

use super::proto::EventKind;
use super::protobuf::{DEPTH_BATCH, Fault, delimited, field_key, skip};
use super::usual::{is_usual_and_valid, text_of};
use super::view::{BATCH_FIELD_LAST, EVENTS, EventRef, Findings};
use crate::limits::{
    ATTRIBUTE_KEY_BYTES_MAX, EVENT_ATTRIBUTES_MAX, EVENT_BODY_BYTES_MAX, EVENT_BYTES_MAX, EVENT_NAME_BYTES_MAX,
    HTTP_REJECTED_MAX, SEVERITY_MAX, TIME_UNIX_NANO_MAX,
};

/// The bytes are not a message of the schema: the sender's encoder is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed protobuf in `{field}`: {fault}; encode with proto/events.proto")]
pub struct Malformed {
    /// The field of the schema, or the message where the field is not known.
    pub field: &'static str,
    /// What is wrong with the bytes of that field.
    pub fault: Fault,
}

/// A well-formed message that breaks a rule of the contract. The sender can fix and resend it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEvent {
    /// The encoded event is too long.
    #[error("event has {bytes} bytes: send at most {EVENT_BYTES_MAX}")]
    EventTooLong {
        /// Bytes of the encoded event.
        bytes: usize,
    },
    /// Neither `name` nor `body` is set.
    #[error("event has neither `name` nor `body`: set one of them")]
    Empty,
    /// A text is too long.
    #[error("`{field}` has {bytes} bytes: send at most {max}")]
    TextTooLong {
        /// Name of the field.
        field: &'static str,
        /// Bytes of the text.
        bytes: usize,
        /// Most bytes that the field may have.
        max: usize,
    },
    /// A time or duration is 2^63 or more.
    #[error("`{field}` is {nanoseconds}: send nanoseconds below 2^63")]
    TimeTooLarge {
        /// Name of the field.
        field: &'static str,
        /// The field's value.
        nanoseconds: u64,
    },
    /// This number is not an event kind.
    #[error("`kind` is {0}: use 1 log, 2 gauge, 3 counter, 4 span, 5 histogram or 6 summary")]
    UnknownKind(i32),
    /// This number is not a severity.
    #[error("`severity` is {0}: use 1 to {SEVERITY_MAX}, or 0 for none")]
    UnknownSeverity(i32),
    /// An id of a trace or span has the wrong length.
    #[error("`{field}` has {bytes} bytes: send {expected}, or none")]
    IdLength {
        /// Name of the field.
        field: &'static str,
        /// Bytes of the id.
        bytes: usize,
        /// Bytes that the id must have, unless it is empty.
        expected: usize,
    },
    /// The event has this many attributes, more than [`EVENT_ATTRIBUTES_MAX`].
    #[error("`attributes` has {0} entries: send at most {EVENT_ATTRIBUTES_MAX}")]
    TooManyAttributes(usize),
    /// An attribute has an empty key.
    #[error("`attributes` entry {index} has no key: give it 1 to {ATTRIBUTE_KEY_BYTES_MAX} bytes")]
    NoAttributeKey {
        /// Index of the attribute, from 0 on.
        index: usize,
    },
    /// An attribute's key is too long.
    #[error("`attributes` entry {index} has a key of {bytes} bytes: send at most {ATTRIBUTE_KEY_BYTES_MAX}")]
    AttributeKeyTooLong {
        /// Index of the attribute, from 0 on.
        index: usize,
        /// Bytes of the key.
        bytes: usize,
    },
}

/// Why an event is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// The bytes are not an event.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The event breaks a rule of the contract.
    #[error(transparent)]
    Invalid(#[from] InvalidEvent),
}

/// Why a payload is refused as a whole. Nothing of it may be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// `index` is that of the event, or where the next one was expected.
    #[error("event {index}: {malformed}")]
    Malformed {
        /// Index of the event, from 0 on.
        index: usize,
        /// What is wrong with its bytes.
        malformed: Malformed,
    },
    /// The batch has more events than the caller allows.
    #[error("more than {max} events in one batch: split it")]
    TooManyEvents {
        /// Most events that a batch may have.
        max: usize,
    },
}

/// How many events of a well-formed batch are valid.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Number of valid events.
    pub accepted: usize,
    /// Number of events that break a rule.
    pub rejected: usize,
    /// Whether each valid event begins with its head: time, kind, severity, source and name lie in this order before all other
    /// fields, each at most once. (Encoders write them so; protobuf does not ask for it.)
    pub are_head_first: bool,
}

/// One refused event of a request, as the answer names it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Rejection {
    /// 0-based among the events of the request; for NDJSON the 0-based line.
    pub index: usize,
    /// Why it was rejected, and what to send instead.
    pub error: String,
}

/// The refused events of a request: the first ones by name, all by number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rejections {
    /// At most [`HTTP_REJECTED_MAX`].
    pub named: Vec<Rejection>,
    /// Number of all rejected events.
    pub total: usize,
}

impl Rejections {
    /// Whether the error of the next one is kept.
    pub(super) fn has_room(&self) -> bool {
        self.named.len() < HTTP_REJECTED_MAX
    }

    /// Counts a rejected event, and keeps its error if there is room.
    pub fn add(&mut self, index: usize, error: impl std::fmt::Display) {
        self.total += 1;
        if self.has_room() {
            self.named.push(Rejection { index, error: error.to_string() });
        }
    }
}

impl<'a> EventRef<'a> {
    /// Reads and checks one encoded event: structure, UTF-8, limits and rules. Afterwards no accessor can fail.
    ///
    /// Nesting is counted as for an event within an `EventBatch`, where every event comes from.
    ///
    /// # Errors
    /// [`EventError::Malformed`] wins over [`EventError::Invalid`]: rules are judged on a whole message.
    pub fn check(bytes: &'a [u8]) -> Result<Self, EventError> {
        check_event(bytes)?;
        Ok(Self::accepted(bytes))
    }

    /// The rules of the contract that are not the schema's.
    fn judge(&self, findings: &Findings) -> Result<(), InvalidEvent> {
        if self.bytes.len() > EVENT_BYTES_MAX {
            return Err(InvalidEvent::EventTooLong { bytes: self.bytes.len() });
        }
        if self.name.is_empty() && self.body.is_empty() {
            return Err(InvalidEvent::Empty);
        }
        text_at_most("source", self.source, EVENT_NAME_BYTES_MAX)?;
        text_at_most("name", self.name, EVENT_NAME_BYTES_MAX)?;
        text_at_most("body", self.body, EVENT_BODY_BYTES_MAX)?;
        time_in_range("time_unix_nano", self.time_unix_nano)?;
        time_in_range("duration_nano", self.duration_nano)?;
        if EventKind::try_from(self.kind).is_err() {
            return Err(InvalidEvent::UnknownKind(self.kind));
        }
        if !(0..=SEVERITY_MAX).contains(&self.severity) {
            return Err(InvalidEvent::UnknownSeverity(self.severity));
        }
        id_of_length("trace_id", self.trace_id, 16)?;
        id_of_length("span_id", self.span_id, 8)?;
        id_of_length("parent_span_id", self.parent_span_id, 8)?;
        if findings.attributes > EVENT_ATTRIBUTES_MAX {
            return Err(InvalidEvent::TooManyAttributes(findings.attributes));
        }
        match findings.bad_key {
            None => Ok(()),
            Some((index, 0)) => Err(InvalidEvent::NoAttributeKey { index }),
            Some((index, bytes)) => Err(InvalidEvent::AttributeKeyTooLong { index, bytes }),
        }
    }
}

/// Checks an event, and returns whether it begins with its head.
#[inline(always)]
pub(super) fn check_event(bytes: &[u8]) -> Result<bool, EventError> {
    if is_usual_and_valid(bytes) { Ok(true) } else { check_any_event(bytes) }
}

/// The naive twin of [`is_usual_and_valid`]: fields in any form and order.
#[inline(never)]
pub(super) fn check_any_event(bytes: &[u8]) -> Result<bool, EventError> {
    let mut event = EventRef::unset(bytes);
    let findings = event.locate_checked()?;
    event.judge(&findings)?;
    Ok(!findings.is_head_late)
}

fn text_at_most(field: &'static str, text: &[u8], max: usize) -> Result<(), InvalidEvent> {
    if text.len() > max {
        return Err(InvalidEvent::TextTooLong { field, bytes: text.len(), max });
    }
    Ok(())
}

fn time_in_range(field: &'static str, nanoseconds: u64) -> Result<(), InvalidEvent> {
    if nanoseconds > TIME_UNIX_NANO_MAX {
        return Err(InvalidEvent::TimeTooLarge { field, nanoseconds });
    }
    Ok(())
}

fn id_of_length(field: &'static str, id: &[u8], expected: usize) -> Result<(), InvalidEvent> {
    if !id.is_empty() && id.len() != expected {
        return Err(InvalidEvent::IdLength { field, bytes: id.len(), expected });
    }
    Ok(())
}

/// Walks an encoded `EventBatch` and checks every event. `each` gets the event's 0-based index, its range in `payload`
/// (key, length and event: joined ranges are an `EventBatch`), and the encoded event or the rule that it breaks. Unknown fields
/// of the batch are skipped and belong to no range.
///
/// # Errors
/// The payload is refused as a whole, and the calls of `each` do not count.
pub fn check_batch<'a>(
    payload: &'a [u8],
    max_events: usize,
    mut each: impl FnMut(usize, Range<usize>, Result<&'a [u8], InvalidEvent>),
) -> Result<Counts, BatchError> {
    let mut counts = Counts { accepted: 0, rejected: 0, are_head_first: true };
    let mut rest = payload;
    while !rest.is_empty() {
        let index = counts.accepted + counts.rejected;
        let no_batch = |fault| BatchError::Malformed { index, malformed: Malformed { field: "EventBatch", fault } };
        let start = payload.len() - rest.len();
        let bytes;
        if let Some(event) = text_of(rest, EVENTS) {
            (bytes, rest) = event;
        } else {
            let (key, after) = field_key(rest).map_err(no_batch)?;
            if key != EVENTS {
                rest = skip(key, after, BATCH_FIELD_LAST, DEPTH_BATCH).map_err(no_batch)?;
                continue;
            }
            (bytes, rest) = delimited(after).map_err(no_batch)?;
        }
        if index == max_events {
            return Err(BatchError::TooManyEvents { max: max_events });
        }
        let range = start..payload.len() - rest.len();
        let verdict = match check_event(bytes) {
            Ok(is_head_first) => {
                counts.accepted += 1;
                counts.are_head_first &= is_head_first;
                Ok(bytes)
            }
            Err(EventError::Invalid(invalid)) => {
                counts.rejected += 1;
                Err(invalid)
            }
            Err(EventError::Malformed(malformed)) => return Err(BatchError::Malformed { index, malformed }),
        };
        // Called in one place, so that it is inlined.
        each(index, range, verdict);
    }
    Ok(counts)
}
