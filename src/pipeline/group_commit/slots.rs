//! What the slots of a commit become: entries of its record, refused payloads, and runs of its batch.

use crate::batch::{Payload, Run};
use crate::pipeline::ring::{Content, Slot};
use crate::pipeline::without_log::RefusedPayload;
use crate::wal::{Entry, Kind};
use crate::wire::NackCode;

/// What is not in the log when the log thread has ended.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Unwritten {
    /// Accepted events, at any ack level.
    pub events: u64,
    /// Those of them that were acknowledged as *received*: no other copy of them exists.
    pub let_go_events: u64,
    /// Rejected frames and requests that are not in dead letters either.
    pub rejected_payloads: u64,
}

impl Unwritten {
    /// Adds the events of a slot that was not appended.
    pub(super) fn and(self, slot: &Slot) -> Self {
        let Content::Events { events, .. } = &slot.content else { return self };
        let events = u64::from(*events);
        let let_go = if slot.is_let_go { events } else { 0 };
        Self { events: self.events + events, let_go_events: self.let_go_events + let_go, ..self }
    }
}

/// What of a slot goes into the log; `None`: nothing.
pub(super) fn entry(slot: &Slot) -> Option<Entry<'_>> {
    let (payload, events, payload_crc): (&[u8], _, _) = match &slot.content {
        Content::Events { payload, events, payload_crc, .. } => (payload, *events, *payload_crc),
        // The good ones follow under the same sequence number.
        Content::Refused { code: NackCode::Partial, .. } => return None,
        // Uses up its sequence number.
        Content::Refused { .. } | Content::Hello | Content::Bye => (&[], 0, None),
    };
    let kind = match &slot.content {
        Content::Hello => Kind::Hello { last_seq: slot.seq },
        Content::Bye => Kind::Bye { last_seq: slot.seq },
        _ if slot.origin.agent_id.is_some() => Kind::Frame { seq: slot.seq, sent_crc: slot.sent_crc },
        _ => Kind::Request,
    };
    let Slot { origin, received_unix_nano, .. } = slot;
    Some(Entry { kind, origin, events, received_unix_nano: *received_unix_nano, payload, payload_crc })
}

/// Appends to `refused` what of the slots goes into the dead letters.
pub(super) fn copy_refused(slots: &[Slot], refused: &mut Vec<RefusedPayload>) {
    for slot in slots {
        if let Content::Refused { payload, events, code, reason } = &slot.content {
            refused.push(RefusedPayload {
                payload: payload.clone(),
                events: *events,
                code: *code,
                reason: reason.clone(),
                seq: slot.seq,
                received_unix_nano: slot.received_unix_nano,
                origin: slot.origin.clone(),
            });
        }
    }
}

/// Whether a slot is a payload that was refused.
pub(super) fn is_refused(slot: &Slot) -> bool {
    matches!(slot.content, Content::Refused { .. })
}

/// The events of the slots, for the routers. The slots are used up.
pub(super) fn runs(slots: &mut Vec<Slot>) -> Vec<Run> {
    let mut runs = Vec::with_capacity(slots.len());
    for Slot { content, received_unix_nano, origin, .. } in slots.drain(..) {
        if let Content::Events { payload, events, are_head_first, .. } = content
            && events > 0
        {
            runs.push(Run { payload: Payload::Pooled(payload), events, received_unix_nano, origin, are_head_first });
        }
    }
    runs
}
