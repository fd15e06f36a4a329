//! Events of messages that nobody acknowledges: appended to the current buffer, and handed on in one slot.

use std::ops::Range;
use std::sync::Arc;

use crate::batch::Origin;
use crate::batch::pool::Buffer;
use crate::metrics::Protocol;
use crate::net::ingress::Ingress;
use crate::rate::Received;
use crate::wire::AckLevel;

/// Encoded events of one sender, on their way into one slot. Give it back with [`Collector::finish`].
pub(super) struct Collector {
    buffer: Buffer,
    start: usize,
    events: u32,
}

impl Collector {
    /// Begins a slot. `None`: there is no memory, or no slot of the ring.
    pub(super) fn begin(ingress: &mut Ingress) -> Option<Self> {
        if !ingress.has_slots() || !ingress.intake.prepare() {
            return None;
        }
        let buffer = ingress.intake.take_current()?;
        Some(Self { start: buffer.len(), buffer, events: 0 })
    }

    /// Whether a slot has room for the largest event.
    pub(super) fn has_room(&self) -> bool {
        self.buffer.room() >= crate::limits::EVENT_BYTES_MAX + 16
    }

    /// How many events it has.
    pub(super) fn events(&self) -> u32 {
        self.events
    }

    /// Gives the buffer back; there is no event in it.
    pub(super) fn put_back(self, ingress: &mut Ingress) {
        debug_assert_eq!(self.events, 0);
        ingress.intake.put_back(self.buffer);
    }

    /// Appends an event, as a field of an `EventBatch`. Ask for [`Collector::has_room`] first.
    pub(super) fn push(&mut self, event: &[u8]) {
        let fits = self.buffer.extend(event);
        debug_assert!(fits, "there was room for the largest event");
        self.events += u32::from(fits);
    }

    /// Hands the events on, and the buffer back. Returns what they are for limits: encoded, they have about as many bytes as
    /// their messages.
    pub(super) fn finish(mut self, protocol: Protocol, origin: &Arc<Origin>, ingress: &mut Ingress) -> Received {
        let range: Range<usize> = self.start..self.buffer.len();
        let mut received = Received::default();
        received.add(self.events, self.events, range.len());
        if self.events > 0 {
            let payload = self.buffer.share(range);
            // Its sender keeps no copy, and no answer waits for it.
            ingress.accept(protocol, payload, self.events, AckLevel::Received, origin);
        }
        ingress.intake.put_back(self.buffer);
        received
    }
}
