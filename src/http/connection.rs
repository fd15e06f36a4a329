//! One connection: heads, bodies and answers in strict order.

use std::time::Instant;

use super::Door;
use crate::wire::AckLevel;

/// Bounds that the user sets.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Bytes of a body, as sent and unpacked, and of what it becomes.
    pub max_body_bytes: usize,
    /// Bytes of one slot.
    pub max_frame_bytes: usize,
}

/// The state machine of one connection. Every method that takes `out` appends what is to be written to the peer.
pub struct Connection {
    settings: Settings,
}

impl Connection {
    /// A connection accepted at `now`.
    pub fn new(settings: Settings, now: Instant) -> Self {
        let _ = now;
        Self { settings }
    }

    /// Takes bytes from the peer and returns how many were consumed.
    ///
    /// The caller keeps the rest and offers it again, with more behind it, or once the reason is gone:
    /// * a torn head: at most `HTTP_HEAD_BYTES_MAX` bytes stay (the machine answers 431 above that);
    /// * [`Connection::waiting_for`] an acknowledgement: requests are answered in order, nothing is consumed;
    /// * `out` holds `OUTBOX_BYTES_MAX` or more: call again when it has been written;
    /// * [`Connection::closing`]: nothing is consumed any more.
    pub fn receive(&mut self, input: &[u8], now: Instant, door: &mut impl Door, out: &mut Vec<u8>) -> usize {
        let _ = (input, now, door, out, self.settings);
        0
    }

    /// Where the next bytes of a body of known length belong, so that the socket can be read straight into the pool;
    /// then [`Connection::body_filled`]. `None`: bytes go through [`Connection::receive`].
    pub fn body_room(&mut self) -> Option<&mut [u8]> {
        None
    }

    /// The first `bytes` of [`Connection::body_room`] were written.
    pub fn body_filled(&mut self, bytes: usize, now: Instant, door: &mut impl Door, out: &mut Vec<u8>) {
        let _ = (bytes, now, door, out);
    }

    /// The level and the ticket whose acknowledgement the answer waits for.
    pub fn waiting_for(&self) -> Option<(AckLevel, u64)> {
        None
    }

    /// The watermark of [`Connection::waiting_for`] was reached: answers 200. Then offer what is left to
    /// [`Connection::receive`].
    pub fn acknowledged(&mut self, now: Instant, door: &mut impl Door, out: &mut Vec<u8>) {
        let _ = (now, door, out);
    }

    /// When [`Connection::handle_timeout`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        None
    }

    /// Time has passed. For timers on the peer (R11) call it only after a read that found nothing.
    pub fn handle_timeout(&mut self, now: Instant, door: &mut impl Door, out: &mut Vec<u8>) {
        let _ = (now, door, out);
    }

    /// The server begins to drain: an idle connection closes at once, others after their answer.
    pub fn drain(&mut self) {}

    /// Nothing more will be consumed or answered: write what is in `out`, then close as R15 says.
    pub fn closing(&self) -> bool {
        false
    }
}
