//! Watermarks: for each ack level, the ticket up to which it is reached.
//!
//! ```text
//!  received   the event loop, at the end of a turn
//!  written    the log thread, after the write                 commits:  (end position, ticket) (…) (…)
//!  synced     the log thread, after fdatasync ── remembers ──▶              ▲
//!  delivered  the event loop: the last commit that ends at or below the required sinks' position
//! ```
//!
//! The event loop numbers what it accepts 1, 2, 3 …; stages work in order, so that "reached" is one number a level.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};

use crate::ids::Ticket;
use crate::limits::UNDELIVERED_COMMITS_MAX;
use crate::wire::AckLevel;

/// One number a level; shared by the loop and the log thread.
#[derive(Debug, Default)]
pub struct Watermarks {
    levels: [AtomicU64; AckLevel::ALL.len()],
    /// An acknowledgement waits for *written*: the loop is woken after the write, before the sync.
    written_wanted: AtomicBool,
    /// The loop waits for a watermark of another one.
    others_wanted: AtomicBool,
    undelivered: Mutex<Undelivered>,
}

/// Commits that no position of the required sinks covers yet.
#[derive(Debug, Default)]
struct Undelivered(VecDeque<Commit>);

#[derive(Debug, Clone, Copy)]
struct Commit {
    /// The position after its last event.
    end_position: u64,
    ticket: u64,
}

impl Undelivered {
    /// A sink may be away for hours: beyond the bound, neighbours become one. What the earlier of two promised then waits
    /// for the later one as well; nothing is promised too early.
    fn push(&mut self, commit: Commit) {
        match self.0.back_mut() {
            // Nothing but empty frames came in between.
            Some(last) if last.end_position == commit.end_position => *last = commit,
            _ => self.0.push_back(commit),
        }
        if self.0.len() > UNDELIVERED_COMMITS_MAX {
            let mut index = 0;
            self.0.retain(|_| {
                index += 1;
                index % 2 == 0
            });
            // The newest one must not be forgotten.
            if self.0.back().is_none_or(|last| last.ticket != commit.ticket) {
                self.0.push_back(commit);
            }
        }
    }

    /// The ticket that `position`, the last one delivered, covers.
    fn take(&mut self, position: u64) -> Option<u64> {
        let mut ticket = None;
        while let Some(commit) = self.0.front()
            && commit.end_position <= position.saturating_add(1)
        {
            ticket = Some(commit.ticket);
            self.0.pop_front();
        }
        ticket
    }
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

    /// A commit up to `ticket` is synced; its last event is the one before `end_position`.
    pub fn synced(&self, ticket: u64, end_position: u64) {
        // First remembered, then said: whoever sees *synced* can wait for *delivered*.
        self.undelivered.lock().unwrap_or_else(PoisonError::into_inner).push(Commit { end_position, ticket });
        self.advance(AckLevel::Synced, ticket);
    }

    /// Every required sink has passed `position`.
    pub fn delivered(&self, position: u64) {
        let ticket = self.undelivered.lock().unwrap_or_else(PoisonError::into_inner).take(position);
        if let Some(ticket) = ticket {
            self.advance(AckLevel::Delivered, ticket);
        }
    }

    /// This loop is to be woken when a watermark of another one has moved. Look at that one after this call.
    pub fn want_others(&self) {
        self.others_wanted.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Whether this loop is to be woken now: a watermark of another one has moved.
    pub fn take_others_wanted(&self) -> bool {
        fence(Ordering::SeqCst);
        self.others_wanted.load(Ordering::SeqCst) && self.others_wanted.swap(false, Ordering::SeqCst)
    }

    /// From now on the loop is woken after each write, for acknowledgements of level *written*.
    pub fn want_written(&self) {
        self.written_wanted.store(true, Ordering::Relaxed);
    }

    /// Whether something waits for *written*.
    pub fn is_written_wanted(&self) -> bool {
        self.written_wanted.load(Ordering::Relaxed)
    }
}

/// Whether `ticket` has reached `level`; `watermarks` has those of all loops, in their order.
pub fn has_reached(watermarks: &[Arc<Watermarks>], ticket: Ticket, level: AckLevel) -> bool {
    watermarks.get(ticket.event_loop.index()).is_some_and(|reached| reached.get(level) >= ticket.number)
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

    #[test]
    fn a_ticket_is_delivered_once_the_last_position_of_its_commit_is() {
        let watermarks = Watermarks::default();
        watermarks.synced(3, 11);
        watermarks.synced(5, 21);
        let delivered = |position| {
            watermarks.delivered(position);
            watermarks.get(AckLevel::Delivered)
        };
        assert_eq!([delivered(0), delivered(9), delivered(10), delivered(19), delivered(20)], [0, 0, 3, 3, 5]);
        assert_eq!(watermarks.get(AckLevel::Synced), 5);
        // A frame without events ends where the one before did.
        watermarks.synced(6, 21);
        assert_eq!(delivered(20), 6);
    }

    #[test]
    fn commits_that_wait_for_a_dead_sink_are_bounded_and_none_is_promised_too_early() {
        let watermarks = Watermarks::default();
        let commits = 10 * UNDELIVERED_COMMITS_MAX as u64;
        for ticket in 1..=commits {
            watermarks.synced(ticket, ticket * 10 + 1);
            assert!(watermarks.undelivered.lock().unwrap().0.len() <= UNDELIVERED_COMMITS_MAX);
        }
        let mut before = 0;
        for position in (1..=commits * 10).step_by(7) {
            watermarks.delivered(position);
            let ticket = watermarks.get(AckLevel::Delivered);
            assert!(ticket >= before && ticket * 10 <= position, "{ticket} at {position}");
            before = ticket;
        }
        watermarks.delivered(commits * 10);
        assert_eq!(watermarks.get(AckLevel::Delivered), commits);
    }
}
