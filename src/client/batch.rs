//! Events on their way into one frame: an encoded `EventBatch`.

use prost::Message;
use prost::encoding::{WireType, encode_key, encoded_len_varint};

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
    /// A batch without events.
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

    /// Whether the batch has no events.
    pub fn is_empty(&self) -> bool {
        self.events == 0
    }

    /// Bytes that an event takes in a batch: key, length and itself.
    pub fn bytes_of(event: &Event) -> usize {
        let bytes = event.encoded_len();
        1 + encoded_len_varint(bytes as u64) + bytes
    }

    /// Whether so many bytes more still belong into a frame of at most `max_frame` bytes. An empty batch takes what
    /// fits into the frame; beyond [`CLIENT_FRAME_BYTES`] it takes no second event.
    pub fn has_room(&self, bytes: usize, max_frame: usize) -> bool {
        let max = if self.is_empty() { max_frame } else { max_frame.min(CLIENT_FRAME_BYTES) };
        self.bytes.len() + bytes <= max && (self.events as usize) < FRAME_EVENTS_MAX
    }

    /// Appends an event, whether there is room or not.
    pub fn push(&mut self, event: &Event) {
        encode_key(EVENTS_FIELD, WireType::LengthDelimited, &mut self.bytes);
        // Writing into a Vec cannot run out of space.
        let _ = event.encode_length_delimited(&mut self.bytes);
        self.events += 1;
    }

    /// Appends an encoded `EventBatch` of `events` events: two joined are one.
    pub fn append(&mut self, payload: &[u8], events: u32) {
        self.bytes.extend_from_slice(payload);
        self.events = self.events.saturating_add(events);
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
        let (mut by_event, mut joined) = (Batch::new(), Batch::new());
        for event in &events {
            let before = by_event.bytes().len();
            by_event.push(event);
            assert_eq!(by_event.bytes().len() - before, Batch::bytes_of(event));
            joined.append(&EventBatch { events: vec![event.clone()] }.encode_to_vec(), 1);
        }
        assert_eq!(by_event.bytes(), EventBatch { events }.encode_to_vec());
        assert_eq!((joined.bytes(), joined.events()), (by_event.bytes(), by_event.events()));
        assert_eq!(by_event.events(), 4);
        by_event.clear();
        assert!(by_event.is_empty() && by_event.bytes().is_empty());
    }

    #[test]
    fn room_ends_exactly_at_the_frame() {
        let mut batch = Batch::new();
        assert!(batch.has_room(99, 99) && !batch.has_room(100, 99));
        batch.append(&[0; 49], 1);
        assert!(batch.has_room(50, 99) && !batch.has_room(51, 99));
        batch.append(&vec![0; CLIENT_FRAME_BYTES], 1);
        assert!(!batch.has_room(1, usize::MAX));
        assert!(Batch::new().has_room(CLIENT_FRAME_BYTES + 1, usize::MAX), "a large event gets a frame of its own");
        batch.append(&[], FRAME_EVENTS_MAX as u32);
        batch.bytes.clear();
        assert!(!batch.has_room(1, usize::MAX), "events are counted too");
    }
}
