//! How the pool is divided, so that agents, HTTP bodies and what admitted bodies become never wait for each other.
//!
//! ```text
//!  0        agents_bytes                  finishing_start                       buffer_bytes
//!  │ agents only │ agents and HTTP bodies │ what whole bodies become, never else │
//!  └──────── Share::Agents ───────────────┘                                     │
//!        └────── Share::SmallBodies ──────┘                                     │
//!                └── Share::Bodies ───────┘                                     │
//!                └────────────────────── Share::Finishing ──────────────────────┘
//! ```
//!
//! * What is received (frames, bodies) never lies in the last part. Events that were decoded from bodies leave the pool
//!   once the log and the sinks have them, or once the log has them and the sink is unavailable: its router then lets
//!   go of the pool (`router/worker.rs`). So the last part becomes free, in one piece, as long as the log accepts
//!   events, and it holds all that the largest body needs: every admitted body finishes. A sink that hangs within one
//!   call keeps its router's share of the pool until the deadline of that call. Without a log, the last part becomes
//!   free once the sinks have the events.
//! * HTTP bodies never lie in the first half of the first part, and large ones nowhere in it, so agents can be read however
//!   many bodies are being received.
//! * The middle part holds at least one largest body.

use std::ops::Range;

use crate::limits::{
    FINISHING_ROUNDING_SHARE, POOL_AGENTS_SHARE, POOL_PAGE_BYTES, POOL_SMALL_BODIES_SHARE, READ_BYTES_PER_TURN,
};

/// What memory of the pool is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// Frames of agents.
    Agents,
    /// HTTP bodies that are received at once. They leave one byte in [`POOL_SMALL_BODIES_SHARE`] of what agents may use to
    /// them alone.
    SmallBodies,
    /// HTTP bodies that are received piece by piece.
    Bodies,
    /// What a whole HTTP body becomes.
    Finishing,
}

/// The boundaries of the shares, in bytes from the start of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// Bytes of the whole pool.
    pub buffer_bytes: usize,
    small_bodies_start: usize,
    agents_bytes: usize,
    finishing_start: usize,
}

impl Shares {
    /// A pool of `buffer_bytes` without parts: every use may take all of it.
    pub fn undivided(buffer_bytes: usize) -> Self {
        Self { buffer_bytes, small_bodies_start: 0, agents_bytes: 0, finishing_start: buffer_bytes }
    }

    /// The shares of a pool of `buffer_bytes`, which is at least [`Shares::lowest_buffer_bytes`].
    pub fn new(buffer_bytes: usize, max_body_bytes: usize, max_frame_bytes: usize) -> Self {
        let whole_pages = buffer_bytes - buffer_bytes % POOL_PAGE_BYTES;
        let finishing_start = whole_pages.saturating_sub(finishing_bytes(max_body_bytes, max_frame_bytes));
        let agents_bytes = paged(finishing_start / POOL_AGENTS_SHARE).max(reading_bytes(max_frame_bytes));
        let agents_bytes = agents_bytes.min(finishing_start);
        let small_bodies_start = paged(finishing_start / POOL_SMALL_BODIES_SHARE).min(agents_bytes);
        Self { buffer_bytes, small_bodies_start, agents_bytes, finishing_start }
    }

    /// The smallest pool in which agents are read and a body of `max_body_bytes` is admitted and finishes.
    pub fn lowest_buffer_bytes(max_body_bytes: usize, max_frame_bytes: usize) -> usize {
        // `agents_bytes` is a share of what is not for finishing: of the rest, the largest body is this much.
        let body = paged(max_body_bytes);
        let share = paged(body.div_ceil(POOL_AGENTS_SHARE - 1));
        finishing_bytes(max_body_bytes, max_frame_bytes) + body + share.max(reading_bytes(max_frame_bytes))
    }

    /// The bytes of the pool in which memory for `share` may lie.
    pub fn range(&self, share: Share) -> Range<usize> {
        match share {
            Share::Agents => 0..self.finishing_start,
            Share::SmallBodies => self.small_bodies_start..self.finishing_start,
            Share::Bodies => self.agents_bytes..self.finishing_start,
            Share::Finishing => self.agents_bytes..self.buffer_bytes,
        }
    }
}

/// What the largest gzip body becomes: unpacked text in one piece, then encoded events in buffers of a frame that are cut to
/// whole pages, and the frame that is being filled. See [`packed_bytes`] and `Pool::can_finish`.
fn finishing_bytes(max_body_bytes: usize, max_frame_bytes: usize) -> usize {
    paged(max_body_bytes) + paged(packed_bytes(max_body_bytes, max_frame_bytes)) + paged(max_frame_bytes)
}

/// Bytes of the pool that `encoded_bytes` of events take at most, in buffers of a frame that are cut to whole pages; the last
/// one may be nearly empty.
pub fn packed_bytes(encoded_bytes: usize, max_frame_bytes: usize) -> usize {
    encoded_bytes + encoded_bytes / FINISHING_ROUNDING_SHARE + max_frame_bytes
}

/// `bytes` in whole pages.
fn paged(bytes: usize) -> usize {
    bytes.next_multiple_of(POOL_PAGE_BYTES)
}

/// Without this much no agent is read: a place for a partial frame, its header included, and a buffer to read into.
fn reading_bytes(max_frame_bytes: usize) -> usize {
    paged(max_frame_bytes + 2 * READ_BYTES_PER_TURN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::pool::{Buffer, Pool};
    use crate::limits::{
        BUFFER_BYTES_DEFAULT, FRAME_BYTES_DEFAULT, FRAME_BYTES_LIMIT, FRAME_BYTES_LOWEST, HTTP_BODY_BYTES_DEFAULT,
        HTTP_BODY_BYTES_LIMIT,
    };
    use crate::random::Random;

    #[test]
    fn in_the_smallest_pool_agents_are_read_and_the_largest_body_is_admitted() {
        for frame in [FRAME_BYTES_LOWEST, FRAME_BYTES_DEFAULT, FRAME_BYTES_LIMIT] {
            for body in
                [1024, 4097, 64 << 10, FRAME_BYTES_LOWEST, HTTP_BODY_BYTES_DEFAULT, 100 << 20, HTTP_BODY_BYTES_LIMIT]
            {
                let lowest = Shares::lowest_buffer_bytes(body, frame);
                for buffer in [lowest, lowest + 1, lowest + (1 << 20), 2 * lowest] {
                    let shares = Shares::new(buffer, body, frame);
                    let bytes = |share| shares.range(share).len();
                    assert!(bytes(Share::Bodies) >= body, "{frame} {body} {shares:?}");
                    assert!(bytes(Share::SmallBodies) >= bytes(Share::Bodies));
                    assert!(bytes(Share::SmallBodies) <= bytes(Share::Agents) / 8 * 7 + POOL_PAGE_BYTES);
                    assert!(bytes(Share::Agents) - bytes(Share::Bodies) >= frame + 2 * READ_BYTES_PER_TURN);
                    assert!(bytes(Share::Finishing) - bytes(Share::Bodies) >= 2 * body + 2 * frame);
                }
                let shares = Shares::new(lowest - 4, body, frame);
                assert!(shares.range(Share::Bodies).len() < body, "{frame} {body}: a smaller pool is too small");
            }
        }
    }

    /// Sizes that are not whole pages: what is rounded up in three places has room all the same.
    #[test]
    fn in_the_smallest_pool_the_largest_body_finishes_whatever_is_being_received() {
        for (body, frame) in
            [(4097, 262_145), (4096, 262_144), (1 << 20, 262_145), (1_000_001, 300_001), (1025, 999_999)]
        {
            for extra in [0, 1, 4095, 4096, 10_000] {
                let buffer = Shares::lowest_buffer_bytes(body, frame) + extra;
                let mut pool = Pool::divided(Shares::new(buffer, body, frame), Box::new(|| {}));
                let upload = pool.allocate_from(Share::Bodies, body);
                assert!(upload.is_some(), "{body} {frame} {extra}");
                let received = [take_all(&mut pool, Share::Bodies), take_all(&mut pool, Share::Agents)];
                assert!(pool.can_finish(body, packed_bytes(body, frame), frame), "{body} {frame} {extra}");
                drop(received);
            }
        }
    }

    #[test]
    fn small_bodies_leave_an_eighth_to_agents() {
        let shares = Shares::new(BUFFER_BYTES_DEFAULT, HTTP_BODY_BYTES_DEFAULT, FRAME_BYTES_DEFAULT);
        let mut pool = Pool::divided(shares, Box::new(|| {}));
        let bodies = [take_all(&mut pool, Share::SmallBodies), take_all(&mut pool, Share::Bodies)];
        let left: Vec<_> = std::iter::from_fn(|| pool.allocate(FRAME_BYTES_DEFAULT)).collect();
        assert!(left.len() * FRAME_BYTES_DEFAULT > shares.range(Share::Agents).len() / 8 - FRAME_BYTES_DEFAULT);
        drop(bodies);
    }

    fn small() -> (Pool, usize, usize) {
        let (body, frame) = (64 << 10, FRAME_BYTES_LOWEST);
        let buffer = Shares::lowest_buffer_bytes(body, frame).next_multiple_of(1 << 18);
        let shares = Shares::new(buffer, body, frame);
        (Pool::divided(shares, Box::new(|| {})), body, frame)
    }

    fn take_all(pool: &mut Pool, share: Share) -> Vec<Buffer> {
        std::iter::from_fn(|| pool.allocate_from(share, 1)).collect()
    }

    #[test]
    fn what_is_received_takes_nothing_of_what_is_kept_for_whole_bodies() {
        let (mut pool, body, frame) = small();
        let bodies = take_all(&mut pool, Share::Bodies);
        assert!(pool.allocate(frame).is_some(), "agents have a place of their own");
        let agents = take_all(&mut pool, Share::Agents);
        assert!(pool.can_finish(body, packed_bytes(body, frame), frame));
        let rest = take_all(&mut pool, Share::Finishing);
        assert_eq!(pool.bytes_in_use(), pool.capacity_bytes());
        drop((bodies, agents));
        assert!(!pool.can_finish(body, body, 1 << 30));
        drop(rest);
    }

    /// Whatever is in use: where the pool reports that a body can finish, everything it needs is there.
    #[test]
    fn where_a_body_can_finish_there_is_all_that_it_needs() {
        let (mut random, mut can, mut cannot) = (Random::seeded(9), 0, 0);
        for _ in 0..300 {
            let (mut pool, body, frame) = small();
            let mut taken = take_all(&mut pool, Share::Agents);
            taken.append(&mut take_all(&mut pool, Share::Finishing));
            let keep = random.next_u64() % 40;
            taken.retain(|_| random.next_u64() % 1000 < keep);
            let unpacked = if random.next_u64().is_multiple_of(2) { body } else { 0 };
            let packed = random.next_u64() as usize % (body + frame) + 1;
            if !pool.can_finish(unpacked, packed, frame) {
                cannot += 1;
                continue;
            }
            can += 1;
            let first = (unpacked > 0).then(|| pool.allocate_from(Share::Finishing, unpacked).unwrap());
            let (mut pieces, mut left) = (Vec::new(), packed);
            while left > 0 {
                let mut piece = pool.allocate_from(Share::Finishing, frame).unwrap();
                let pages = (random.next_u64() as usize % (frame / POOL_PAGE_BYTES) + 1) * POOL_PAGE_BYTES;
                piece.advance(pages);
                piece.trim();
                left = left.saturating_sub(pages);
                pieces.push(piece);
            }
            drop(first);
        }
        assert!(can > 30 && cannot > 30, "{can} {cannot}");
    }

    #[test]
    fn the_default_pool_leaves_bodies_more_than_half() {
        let shares = Shares::new(BUFFER_BYTES_DEFAULT, HTTP_BODY_BYTES_DEFAULT, FRAME_BYTES_DEFAULT);
        assert!(shares.range(Share::Bodies).len() >= 10 * HTTP_BODY_BYTES_DEFAULT, "{shares:?}");
    }
}
