//! The connections in one state, in the order in which they entered it.

use std::collections::VecDeque;

use crate::ids::ConnectionId;

/// Entries of connections that have left the state stay until they are skipped or swept: leaving costs nothing.
#[derive(Debug, Default)]
pub(super) struct Roster {
    order: VecDeque<ConnectionId>,
    members: usize,
}

/// Entries that may be stale before they are swept.
const STALE: usize = 64;

impl Roster {
    /// The number of connections in the state.
    pub(super) fn len(&self) -> usize {
        self.members
    }

    /// A connection enters the state. `is_member` returns whether one is still in it.
    pub(super) fn enter(&mut self, id: ConnectionId, is_member: impl Fn(ConnectionId) -> bool) {
        if self.order.len() > 2 * self.members + STALE {
            self.order.retain(|id| is_member(*id));
        }
        self.order.push_back(id);
        self.members += 1;
    }

    /// A connection has left the state.
    pub(super) fn leave(&mut self) {
        self.members = self.members.saturating_sub(1);
    }

    /// The connection that has been in the state for the longest time.
    pub(super) fn oldest(&mut self, is_member: impl Fn(ConnectionId) -> bool) -> Option<ConnectionId> {
        while let Some(id) = self.order.front().copied() {
            if is_member(id) {
                return Some(id);
            }
            self.order.pop_front();
        }
        None
    }

    /// All entries, the oldest first; some may have left.
    pub(super) fn iter(&self) -> impl Iterator<Item = ConnectionId> {
        self.order.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::LoopId;

    #[test]
    fn the_oldest_member_is_found_and_stale_entries_are_swept() {
        let mut roster = Roster::default();
        let id = |key| ConnectionId::new(LoopId(0), 0, key);
        for key in 0..10_000 {
            roster.enter(id(key), |other| other.key() + 10 > key);
            if key >= 10 {
                roster.leave();
            }
        }
        assert_eq!(roster.len(), 10);
        assert!(roster.order.len() <= 2 * 10 + STALE + 1, "{}", roster.order.len());
        assert_eq!(roster.oldest(|id| id.key() >= 9_990), Some(id(9_990)));
        assert_eq!(roster.iter().collect::<Vec<_>>(), (9_990..10_000).map(id).collect::<Vec<_>>());
        assert_eq!(roster.oldest(|_| false), None);
    }
}
