//! Body of the fuzz target: any stream, in any pieces, gives the same messages, and each is a valid event.

use super::{Framer, Message, SyslogDecoder};
use crate::event::{EventRef, Events};
use crate::limits::SYSLOG_MESSAGE_BYTES_MAX;

/// A time for the years of BSD times: 2026-11-27T12:00:00Z.
const NOW: u64 = 1_795_780_800_000_000_000;

/// Takes `bytes` apart as one stream, in two pieces, and in small ones, and decodes every message. The first byte says where
/// the stream is split.
///
/// # Panics
/// If the messages differ, or one is not a valid event.
pub fn stream(bytes: &[u8]) {
    let Some((at, bytes)) = bytes.split_first() else { return };
    let at = bytes.len() * usize::from(*at) / 256;
    let (before, after) = bytes.split_at(at);
    let whole = messages(&mut [bytes].into_iter());
    assert_eq!(messages(&mut [before, after].into_iter()), whole);
    assert_eq!(messages(&mut bytes.chunks(3)), whole);
    let mut decoder = SyslogDecoder::new();
    for (message, truncated) in &whole {
        let field = decoder.decode(Message { bytes: message, truncated: *truncated }, NOW);
        let event = Events::accepted(field).next().expect("a message becomes an event");
        EventRef::check(event.bytes()).expect("the event is valid");
    }
    // The same bytes as a datagram.
    let field = decoder.decode(Message { bytes, truncated: false }, NOW);
    let event = Events::accepted(field).next().expect("a datagram becomes an event");
    EventRef::check(event.bytes()).expect("the event is valid");
}

fn messages(pieces: &mut dyn Iterator<Item = &[u8]>) -> Vec<(Vec<u8>, bool)> {
    let (mut framer, mut kept, mut found) = (Framer::default(), Vec::new(), Vec::new());
    for piece in pieces {
        kept.extend_from_slice(piece);
        let mut used = 0;
        while let Some(step) = framer.next(kept.get(used..).unwrap_or_default()) {
            assert!(step.consumed > 0 && used + step.consumed <= kept.len());
            used += step.consumed;
            found.extend(step.message.map(|message| (message.bytes.to_vec(), message.truncated)));
        }
        kept.drain(..used);
        assert!(kept.len() <= SYSLOG_MESSAGE_BYTES_MAX + 16, "no more is kept than a message");
    }
    found.extend(framer.end(&kept).map(|message| (message.bytes.to_vec(), message.truncated)));
    found
}
