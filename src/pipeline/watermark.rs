//! Watermarks: for each ack level, the ticket up to which it is reached.
//!
//! The event loop numbers what it accepts 1, 2, 3 …; stages work in order, so that "reached" is one number a level.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::wire::AckLevel;

/// One number a level; shared by the loop, the log thread and the routers.
#[derive(Debug, Default)]
pub struct Watermarks {
    levels: [AtomicU64; AckLevel::ALL.len()],
}

impl Watermarks {
    fn at(&self, level: AckLevel) -> &AtomicU64 {
        &self.levels[level as usize - 1]
    }

    /// Every ticket up to this one has reached `level`.
    pub fn get(&self, level: AckLevel) -> u64 {
        self.at(level).load(Ordering::Acquire)
    }

    /// Moves `level` to `ticket`; it never goes back.
    pub fn advance(&self, level: AckLevel, ticket: u64) {
        self.at(level).fetch_max(ticket, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_independent_and_never_go_back() {
        let watermarks = Watermarks::default();
        watermarks.advance(AckLevel::Received, 7);
        watermarks.advance(AckLevel::Received, 5);
        watermarks.advance(AckLevel::Delivered, 2);
        assert_eq!(AckLevel::ALL.map(|level| watermarks.get(level)), [7, 0, 0, 2]);
    }
}
