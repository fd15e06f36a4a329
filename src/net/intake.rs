//! Memory for what is read: the current buffer that all connections share, and one reserve.
//!
//! ```text
//!  current  │ frame │ frame │ frame │ start of a partial frame │       room
//!           └── slots share these ──┘└── copied out, rewound ───┘ ◀ next read, of any connection
//!  spare    a whole largest frame, so that a partial frame always has memory to be copied to
//! ```
//!
//! A socket is read only while both are there ([`Intake::prepare`]). So what is read can always be kept, and idle
//! connections hold nothing. What HTTP bodies are received into, and what they become, is from other shares of the pool.

use crate::batch::pool::{Buffer, Pool};
use crate::batch::shares::Share;
use crate::limits::{HTTP_BODY_BEGINNING_BYTES, HTTP_PACKED_BODY_BYTES_MAX, READ_BYTES_PER_TURN};

/// Bytes of one current buffer: several reads, so that its last rest is small against it.
const CURRENT_BYTES: usize = 4 * READ_BYTES_PER_TURN;
/// Bytes of the buffer for what small HTTP bodies become: several of the largest of them.
const COMMON_BYTES: usize = 16 * HTTP_PACKED_BODY_BYTES_MAX;
/// A current buffer with less room is given up: a short read splits more frames, and a partial frame is copied. Its rest
/// goes back to the pool.
const READ_BYTES_MIN: usize = READ_BYTES_PER_TURN;

/// The buffers that one loop reads into.
pub struct Intake {
    pool: Pool,
    current: Option<Buffer>,
    spare: Option<Buffer>,
    /// What small HTTP bodies become is packed into it.
    common: Option<Buffer>,
    /// Bytes of a largest frame, its header included.
    frame_bytes: usize,
}

impl Intake {
    /// No buffers yet. `frame_bytes`: of the largest frame, its header included.
    pub fn new(pool: Pool, frame_bytes: usize) -> Self {
        Self { pool, current: None, spare: None, common: None, frame_bytes }
    }

    /// The pool that buffers come from.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Whether a socket may be read: there is a current buffer with room, and a spare for a partial frame.
    pub fn prepare(&mut self) -> bool {
        if self.spare.is_none() {
            self.spare = self.pool.allocate(self.frame_bytes);
        }
        if self.current.as_ref().is_none_or(|current| current.room() < READ_BYTES_MIN) {
            self.give_up_current();
            // Where the pool is nearly full, a smaller one keeps the agents going.
            self.current = self.pool.allocate(CURRENT_BYTES).or_else(|| self.pool.allocate(READ_BYTES_MIN));
        }
        if self.lacks().is_some() && self.common.is_some() {
            // It may lie in the way.
            self.give_up_common();
            return self.prepare();
        }
        self.lacks().is_none()
    }

    fn give_up_current(&mut self) {
        if let Some(mut current) = self.current.take() {
            current.trim();
        }
    }

    /// Bytes in one piece that the last [`Intake::prepare`] did not find in the pool.
    pub fn lacks(&self) -> Option<usize> {
        let spare = self.spare.is_none().then_some(self.frame_bytes);
        spare.or_else(|| self.current.is_none().then_some(READ_BYTES_MIN))
    }

    /// The buffer to read into, taken out; there after [`Intake::prepare`]. Give it back with [`Intake::put_back`].
    pub fn take_current(&mut self) -> Option<Buffer> {
        self.current.take()
    }

    /// Gives the buffer of [`Intake::take_current`] back.
    pub fn put_back(&mut self, current: Buffer) {
        self.current = Some(current);
    }

    /// A buffer of its own for a partial frame; from the spare if the pool is empty. At most a largest frame.
    pub fn take(&mut self, bytes: usize) -> Option<Buffer> {
        self.pool.allocate(bytes).or_else(|| {
            let mut spare = self.spare.take()?;
            spare.shrink(bytes);
            Some(spare)
        })
    }

    /// The share of the pool where a body of `bytes` is received. One that is not larger than a beginning has come whole:
    /// it is handed on at once, as a frame is.
    pub fn share_of_body(bytes: usize) -> Share {
        if bytes <= HTTP_BODY_BEGINNING_BYTES { Share::SmallBodies } else { Share::Bodies }
    }

    /// A buffer for an HTTP body of `bytes` that is being admitted.
    pub fn take_for_body(&mut self, bytes: usize) -> Option<Buffer> {
        let share = Self::share_of_body(bytes);
        self.pool.allocate_from(share, bytes).or_else(|| {
            if share == Share::SmallBodies {
                // There may be many of them: agents would be left without a buffer to read into.
                self.common.as_ref()?;
                self.give_up_common();
                return self.pool.allocate_from(share, bytes);
            }
            // What is there for the next reads may lie in the way; it finds another place.
            self.give_up_current();
            self.spare = None;
            self.give_up_common();
            self.pool.allocate_from(share, bytes)
        })
    }

    /// A buffer for what is kept until an answer is written. Never from the memory that is kept for whole bodies.
    pub fn take_for_answer(&mut self, bytes: usize) -> Option<Buffer> {
        self.pool.allocate_from(Share::Bodies, bytes)
    }

    /// A buffer for what a whole body becomes. `others_wait`: bodies that were whole before wait for the memory that is kept
    /// for this, so it comes from where bodies are received.
    pub fn take_to_finish(&mut self, bytes: usize, others_wait: bool) -> Option<Buffer> {
        let share = if others_wait { Share::Bodies } else { Share::Finishing };
        self.pool.allocate_from(share, bytes).or_else(|| {
            self.give_up_common();
            self.pool.allocate_from(share, bytes)
        })
    }

    /// As [`Pool::can_finish`].
    pub fn can_finish(&mut self, first_bytes: usize, packed_bytes: usize, piece_bytes: usize) -> bool {
        if self.pool.can_finish(first_bytes, packed_bytes, piece_bytes) {
            return true;
        }
        // It may lie in the way.
        self.common.is_some() && {
            self.give_up_common();
            self.pool.can_finish(first_bytes, packed_bytes, piece_bytes)
        }
    }

    /// A buffer with room for `bytes` of what a small body becomes, taken out. Give it back with [`Intake::put_back_common`].
    pub fn take_common(&mut self, bytes: usize) -> Option<Buffer> {
        if self.common.as_ref().is_some_and(|common| common.room() < bytes) {
            self.give_up_common();
        }
        self.common.take().or_else(|| self.pool.allocate_from(Share::Finishing, COMMON_BYTES))
    }

    /// Gives the buffer of [`Intake::take_common`] back.
    pub fn put_back_common(&mut self, common: Buffer) {
        self.common = Some(common);
    }

    fn give_up_common(&mut self) {
        if let Some(mut common) = self.common.take() {
            common.trim();
        }
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
        let frame = HTTP_BODY_BEGINNING_BYTES + POOL_PAGE_BYTES;
        let mut intake = Intake::new(Pool::new(CURRENT_BYTES + frame, Box::new(|| {})), frame);
        assert!(intake.prepare());
        let torn = intake.take(5000).unwrap();
        assert_eq!(torn.room(), 2 * POOL_PAGE_BYTES, "the spare, cut to what is needed");
        assert!(!intake.prepare(), "without a spare nothing is read");
        assert_eq!(intake.lacks(), Some(frame));
        let small = HTTP_BODY_BEGINNING_BYTES;
        let small: Vec<_> = std::iter::from_fn(|| intake.take_for_body(small)).collect();
        assert!(
            intake.take_current().map(|current| intake.put_back(current)).is_some(),
            "small bodies leave it in place"
        );
        drop(small);
        // A large one finds the place of what was there for the next read.
        let body = intake.take_for_body(frame).unwrap();
        assert!(intake.take_for_body(CURRENT_BYTES).is_none());
        assert!(intake.prepare(), "with a smaller buffer to read into");
        drop(body);
        drop(torn);
        assert!(intake.prepare());
    }

    #[test]
    fn what_small_bodies_become_shares_pages_until_a_buffer_is_full() {
        let mut intake = Intake::new(Pool::new(2 * COMMON_BYTES, Box::new(|| {})), 1);
        let mut slices = Vec::new();
        for _ in 0..COMMON_BYTES / 1024 {
            let mut common = intake.take_common(1024).unwrap();
            let start = common.len();
            assert!(common.extend(&[7; 1024]));
            slices.push(common.share(start..start + 1024));
            intake.put_back_common(common);
        }
        assert_eq!(intake.pool().bytes_in_use(), COMMON_BYTES);
        let next = intake.take_common(1024).unwrap();
        assert!(next.is_empty());
        intake.put_back_common(next);
        slices.clear();
        assert_eq!(intake.pool().bytes_in_use(), COMMON_BYTES, "a buffer that is full lives as long as its slices");
        // It gives way to a body that has to finish.
        assert!(intake.take_to_finish(2 * COMMON_BYTES, false).is_some());
        let mut common = intake.take_common(1).unwrap();
        assert!(common.extend(b"x"));
        let slice = common.share(0..1);
        intake.put_back_common(common);
        assert!(intake.can_finish(2 * COMMON_BYTES - POOL_PAGE_BYTES, 0, 1), "all but the page in use");
        drop(slice);
    }
}
