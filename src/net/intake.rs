//! Memory for what is read: the current buffer that all connections share, and one reserve.
//!
//! ```text
//!  current  │ frame │ frame │ frame │ tail of a torn frame │            room
//!           └── slots share these ──┘└ copied out, rewound ┘ ◀ next read, of any connection
//!  spare    a whole largest frame, so that a torn tail always finds a place of its own
//! ```
//!
//! A socket is read only while both are there ([`Intake::prepare`]). So what is read can always be kept, and idle
//! connections hold nothing.

use crate::limits::{HTTP_BODY_BEGINNING_BYTES, READ_BYTES_PER_TURN};
use crate::pipeline::pool::{Buffer, Pool};

/// Bytes of one current buffer: several reads, so that its last rest is small against it.
const CURRENT_BYTES: usize = 4 * READ_BYTES_PER_TURN;
/// A current buffer with less room is given up: a short read would tear a frame that a whole one need not, and what is
/// torn is copied. Its rest goes back to the pool.
const READ_BYTES_MIN: usize = READ_BYTES_PER_TURN;

pub struct Intake {
    pool: Pool,
    current: Option<Buffer>,
    spare: Option<Buffer>,
    /// Bytes of a largest frame, its header included.
    frame_bytes: usize,
}

impl Intake {
    pub fn new(pool: Pool, frame_bytes: usize) -> Self {
        Self { pool, current: None, spare: None, frame_bytes }
    }

    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Whether a socket may be read: there is a current buffer with room, and a spare for a torn frame.
    pub fn prepare(&mut self) -> bool {
        if self.current.as_ref().is_none_or(|current| current.room() < READ_BYTES_MIN) {
            if let Some(mut full) = self.current.take() {
                full.trim();
            }
            self.current = self.pool.allocate(CURRENT_BYTES);
        }
        if self.spare.is_none() {
            self.spare = self.pool.allocate(self.frame_bytes);
        }
        self.current.is_some() && self.spare.is_some()
    }

    /// The buffer to read into, taken out; there after [`Intake::prepare`]. Give it back with [`Intake::put_back`].
    pub fn take_current(&mut self) -> Option<Buffer> {
        self.current.take()
    }

    pub fn put_back(&mut self, current: Buffer) {
        self.current = Some(current);
    }

    /// A buffer of its own for a torn frame; from the spare if the pool is empty. At most a largest frame.
    pub fn take(&mut self, bytes: usize) -> Option<Buffer> {
        self.pool.allocate(bytes).or_else(|| {
            let mut spare = self.spare.take()?;
            spare.shrink(bytes);
            Some(spare)
        })
    }

    /// A buffer for an HTTP body, which can be refused: bodies leave a quarter of the pool to agents, small ones an eighth,
    /// so that large ones do not keep them out.
    pub fn take_optional(&mut self, bytes: usize) -> Option<Buffer> {
        let eighths = if bytes <= HTTP_BODY_BEGINNING_BYTES { 7 } else { 6 };
        if self.pool.bytes_in_use() + bytes > self.pool.capacity_bytes() / 8 * eighths {
            return None;
        }
        self.pool.allocate(bytes)
    }

    /// A buffer for what an admitted HTTP body becomes: `None` only where the pool has no room.
    pub fn take_to_finish(&mut self, bytes: usize) -> Option<Buffer> {
        self.pool.allocate(bytes)
    }

    /// Arms the wake-up by the next free of pool memory.
    pub fn wait_for_room(&self) {
        self.pool.wait_for_room();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::POOL_PAGE_BYTES;

    #[test]
    fn a_torn_frame_finds_a_place_even_when_the_pool_is_empty() {
        let frame = 8 * POOL_PAGE_BYTES;
        let mut intake = Intake::new(Pool::new(CURRENT_BYTES + frame, Box::new(|| {})), frame);
        assert!(intake.prepare());
        let torn = intake.take(5000).unwrap();
        assert_eq!(torn.room(), 2 * POOL_PAGE_BYTES, "the spare, cut to what is needed");
        assert!(!intake.prepare(), "without a spare nothing is read");
        assert!(intake.take_optional(frame).is_none());
        drop(torn);
        assert!(intake.prepare());
    }
}
