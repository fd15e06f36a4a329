//! Deadlines of connections: a heap with at most a few entries a connection.
//!
//! A deadline mostly moves later (every frame moves the idle timer), and the heap is not updated. An entry that comes
//! up is compared with the connection's deadline of that moment, and put back if that is later. Only a deadline that
//! moves before the entry in the heap adds one; the older one is then recognised as stale.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use crate::ids::ConnectionId;

/// The deadlines of a loop's connections.
#[derive(Debug)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, ConnectionId)>>,
}

impl Timers {
    /// `capacity` entries need no further memory.
    pub(super) fn with_capacity(capacity: usize) -> Self {
        Self { heap: BinaryHeap::with_capacity(capacity) }
    }

    /// The connection is looked at by `deadline`. `scheduled` is its earliest entry, kept by the connection.
    pub(super) fn schedule(
        &mut self,
        connection: ConnectionId,
        deadline: Option<Instant>,
        scheduled: &mut Option<Instant>,
    ) {
        let Some(deadline) = deadline else { return };
        if scheduled.is_none_or(|at| deadline < at) {
            *scheduled = Some(deadline);
            self.heap.push(Reverse((deadline, connection)));
        }
    }

    /// When the next entry comes up.
    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes an entry that is due: its time and its connection, which may be gone or have newer entries.
    pub(super) fn due(&mut self, now: Instant) -> Option<(Instant, ConnectionId)> {
        (self.next()? <= now).then(|| self.heap.pop().map(|Reverse(entry)| entry)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::LoopId;
    use std::time::Duration;

    #[test]
    fn later_deadlines_add_no_entries_and_earlier_ones_do() {
        let (mut timers, now) = (Timers::with_capacity(4), Instant::now());
        let id = ConnectionId::new(LoopId(0), 1, 7);
        let mut scheduled = None;
        let second = Duration::from_secs(1);
        timers.schedule(id, Some(now + 5 * second), &mut scheduled);
        timers.schedule(id, Some(now + 9 * second), &mut scheduled);
        timers.schedule(id, None, &mut scheduled);
        assert_eq!((timers.heap.len(), timers.next()), (1, Some(now + 5 * second)));
        timers.schedule(id, Some(now + second), &mut scheduled);
        assert_eq!((timers.heap.len(), scheduled), (2, Some(now + second)));
        assert_eq!(timers.due(now), None);
        assert_eq!(timers.due(now + second), Some((now + second, id)));
        assert_eq!(timers.due(now + second), None);
    }
}
