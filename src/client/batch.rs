//! Events on their way into one frame: an encoded `EventBatch`.

use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use crate::event::proto::Event;
use crate::limits::{CLIENT_FRAME_BYTES, FRAME_EVENTS_MAX};

/// Number of `EventBatch.events`; its key takes one byte.
const EVENTS_FIELD: u32 = 1;

/// An `EventBatch` that grows event by event, up to what a frame may carry.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    events: u32,
}

impl Batch {
    pub fn new() -> Self {
        Self::default()
    }

    /// The encoded `EventBatch`.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Number of events.
    pub fn events(&self) -> u32 {
        self.events
    }

    pub fn is_empty(&self) -> bool {
        self.events == 0
    }

    /// Whether an encoded event of this size still belongs into a frame of at most `max_frame` bytes. An empty batch
    /// takes what fits into the frame; beyond [`CLIENT_FRAME_BYTES`] it takes no second event.
    pub fn has_room(&self, event_bytes: usize, max_frame: usize) -> bool {
        let bytes = self.bytes.len() + 1 + encoded_len_varint(event_bytes as u64) + event_bytes;
        let max = if self.is_empty() { max_frame } else { max_frame.min(CLIENT_FRAME_BYTES) };
        bytes <= max && (self.events as usize) < FRAME_EVENTS_MAX
    }

    /// Appends an event, whether there is room or not.
    pub fn push(&mut self, event: &Event) {
        self.begin(event.encoded_len());
        // Writing into a Vec cannot run out of space.
        let _ = event.encode(&mut self.bytes);
    }

    /// Appends an event that is encoded already.
    pub fn push_encoded(&mut self, event: &[u8]) {
        self.begin(event.len());
        self.bytes.extend_from_slice(event);
    }

    fn begin(&mut self, event_bytes: usize) {
        encode_key(EVENTS_FIELD, WireType::LengthDelimited, &mut self.bytes);
        encode_varint(event_bytes as u64, &mut self.bytes);
        self.events += 1;
    }

    /// Empty again; the memory is kept.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.events = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::proto::EventBatch;

    fn event(body: usize) -> Event {
        Event { name: "n".to_owned(), body: "b".repeat(body), ..Event::default() }
    }

    #[test]
    fn is_what_prost_encodes() {
        let events = vec![event(0), event(5), event(300), event(70_000)];
        let (mut by_event, mut by_bytes) = (Batch::new(), Batch::new());
        for event in &events {
            by_event.push(event);
            by_bytes.push_encoded(&event.encode_to_vec());
        }
        assert_eq!(by_event.bytes(), EventBatch { events }.encode_to_vec());
        assert_eq!(by_bytes.bytes(), by_event.bytes());
        assert_eq!(by_event.events(), 4);
        by_event.clear();
        assert!(by_event.is_empty() && by_event.bytes().is_empty());
    }

    #[test]
    fn room_ends_exactly_at_the_frame() {
        let mut batch = Batch::new();
        assert!(batch.has_room(97, 99) && !batch.has_room(98, 99));
        batch.push_encoded(&[0; 47]);
        assert!(batch.has_room(48, 99) && !batch.has_room(49, 99));
        batch.push_encoded(&vec![0; CLIENT_FRAME_BYTES]);
        assert!(!batch.has_room(1, usize::MAX));
        assert!(Batch::new().has_room(CLIENT_FRAME_BYTES + 1, usize::MAX), "a large event gets a frame of its own");
    }
}
