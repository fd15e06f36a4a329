//! The short queue between log thread and router.
//!
//! ```text
//!  with a log     offer ─▶ [ batch batch ] ─▶ router     no room: the queue is emptied; read the log up to `behind`
//!  without one    offer ─▶ [ batch batch ] ─▶ router     no room: the log thread waits, and so do the agents
//! ```
//!
//! Batches lie in the buffer pool. With a log, a router may hold a share of the pool and not more, so that sinks that
//! stand still cannot keep it from agents: what goes beyond is read back from the log. While its sink is unavailable, a
//! router holds none ([`Queue::release`]).

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::steps::Steps;
use crate::batch::Batch;
use crate::limits::ROUTER_QUEUE_BATCHES;

#[derive(Debug, Default)]
struct State {
    batches: VecDeque<Arc<Batch>>,
    /// Bytes of the pool that the batches in here keep from others.
    queued_bytes: usize,
    /// The same for what the router has taken out and not yet stored.
    taken_bytes: usize,
    /// Everything below this position was offered; what was not taken is in the log.
    behind: u64,
    /// Until the router takes again, it is offered positions only, no batches.
    is_let_go: bool,
    closed: bool,
    /// Threads that wait for a change: the router, or without a log the log thread.
    waiting: usize,
    /// Until the router has taken them.
    reshape: Option<Reshape>,
}

/// Other steps for a router.
#[derive(Debug, Clone)]
pub(super) struct Reshape {
    pub steps: Arc<Steps>,
    /// How long its deliveries are gathered.
    pub max_age: Duration,
}

/// The queue of one router.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    /// Bytes of the pool that a router may hold; `None`: there is no log to fall back on.
    share_bytes: Option<usize>,
}

/// What the router finds.
#[derive(Debug)]
pub(super) enum Taken {
    /// The batch that follows.
    Batch(Arc<Batch>),
    /// Nothing here. Positions below `behind` were offered.
    Empty { behind: u64, closed: bool },
}

impl Queue {
    /// `behind`: everything below this position is in the log already.
    pub(super) fn new(share_bytes: Option<usize>, behind: u64) -> Self {
        let state = State { behind, ..State::default() };
        Self { state: Mutex::new(state), changed: Condvar::new(), share_bytes }
    }

    /// Hands over the batch that follows. Without a log it waits while the queue is full.
    pub(super) fn offer(&self, batch: &Arc<Batch>) {
        let mut state = self.lock();
        let bytes = batch.pinned_bytes();
        match self.share_bytes {
            None => {
                while state.batches.len() >= ROUTER_QUEUE_BATCHES && !state.closed {
                    state = self.wait_for_change(state, None);
                }
            }
            Some(share) => {
                let held = state.queued_bytes + state.taken_bytes + bytes;
                if state.is_let_go || held > share || state.batches.len() >= ROUTER_QUEUE_BATCHES {
                    state.batches.clear();
                    state.queued_bytes = 0;
                    state.behind = batch.end_position();
                    self.tell(state);
                    return;
                }
            }
        }
        if !state.closed {
            state.queued_bytes += bytes;
            state.behind = batch.end_position();
            state.batches.push_back(batch.clone());
        }
        self.tell(state);
    }

    /// There is nothing between what was offered and `end`, in the log either.
    pub(super) fn skipped_to(&self, end: u64) {
        let mut state = self.lock();
        state.behind = state.behind.max(end);
        self.tell(state);
    }

    /// The next batch; the router then holds `taken_bytes` of the pool besides it.
    pub(super) fn take(&self, taken_bytes: usize) -> Taken {
        let mut state = self.lock();
        state.is_let_go = false;
        let taken = match state.batches.pop_front() {
            Some(batch) => {
                state.queued_bytes -= batch.pinned_bytes();
                state.taken_bytes = taken_bytes + batch.pinned_bytes();
                Taken::Batch(batch)
            }
            None => {
                state.taken_bytes = taken_bytes;
                Taken::Empty { behind: state.behind, closed: state.closed }
            }
        };
        self.tell(state);
        taken
    }

    /// Empties the queue, and keeps it empty until the router takes again: what is offered meanwhile is read from the log.
    /// The router holds nothing of the pool either. Without a log this changes nothing.
    pub(super) fn release(&self) {
        if self.share_bytes.is_none() {
            return;
        }
        let mut state = self.lock();
        state.is_let_go = true;
        (state.queued_bytes, state.taken_bytes) = (0, 0);
        let batches = std::mem::take(&mut state.batches);
        drop(state);
        drop(batches);
    }

    /// Waits until there is a batch, or positions from `next` on to read, or other steps, or the end; not longer than `until`.
    pub(super) fn wait(&self, next: u64, until: Option<Instant>) {
        let mut state = self.lock();
        while state.batches.is_empty() && state.behind <= next && state.reshape.is_none() && !state.closed {
            state = match until.map(|until| until.saturating_duration_since(Instant::now())) {
                Some(left) if left.is_zero() => return,
                left => self.wait_for_change(state, left),
            };
        }
    }

    /// Leaves other steps for the router, and wakes it.
    pub(super) fn reshape(&self, reshape: Reshape) {
        self.lock().reshape = Some(reshape);
        self.changed.notify_all();
    }

    /// Takes the other steps, if there are any.
    pub(super) fn take_reshape(&self) -> Option<Reshape> {
        self.lock().reshape.take()
    }

    /// No more batches will come, or the router has ended.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Gives the lock back until something has changed, at most for `time`.
    fn wait_for_change<'a>(&self, mut state: MutexGuard<'a, State>, time: Option<Duration>) -> MutexGuard<'a, State> {
        state.waiting += 1;
        let mut state = match time {
            None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(time) => self.changed.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0,
        };
        state.waiting -= 1;
        state
    }

    /// Something has changed. To wake nobody is a system call, too.
    fn tell(&self, state: MutexGuard<'_, State>) {
        let waiting = state.waiting;
        drop(state);
        if waiting > 0 {
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::testing::pooled_batch;

    fn first(taken: Taken) -> Option<u64> {
        match taken {
            Taken::Batch(batch) => Some(batch.first_position()),
            Taken::Empty { .. } => None,
        }
    }

    #[test]
    fn a_router_beyond_its_share_is_sent_to_the_log_and_pins_nothing_more() {
        let batch = pooled_batch(1..=10);
        let queue = Queue::new(Some(2 * pooled_batch(21..=30).pinned_bytes()), 1);
        queue.offer(&batch);
        queue.offer(&pooled_batch(11..=20));
        let held = batch.pinned_bytes();
        assert_eq!(first(queue.take(0)), Some(1));
        // One is taken, one queued: a third goes beyond the share, and the queued one is given up with it.
        queue.offer(&pooled_batch(21..=30));
        assert!(matches!(queue.take(held), Taken::Empty { behind: 31, closed: false }));
        queue.offer(&pooled_batch(31..=40));
        assert_eq!(first(queue.take(held)), Some(31));
        assert!(matches!(queue.take(0), Taken::Empty { behind: 41, closed: false }));
    }

    #[test]
    fn a_router_that_lets_go_pins_nothing_until_it_takes_again() {
        let queue = Queue::new(Some(1 << 20), 1);
        let batches = [pooled_batch(1..=10), pooled_batch(11..=20), pooled_batch(21..=30)];
        queue.offer(&batches[0]);
        queue.offer(&batches[1]);
        assert_eq!(first(queue.take(0)), Some(1));
        queue.release();
        queue.offer(&batches[2]);
        assert!(batches.iter().all(|batch| Arc::strong_count(batch) == 1), "the queue holds a batch");
        // What was offered meanwhile is in the log; it ends the wait of the router.
        queue.wait(11, None);
        assert!(matches!(queue.take(0), Taken::Empty { behind: 31, closed: false }));
        queue.offer(&pooled_batch(31..=40));
        assert_eq!(first(queue.take(0)), Some(31));

        let without_log = Queue::new(None, 1);
        without_log.offer(&batches[0]);
        without_log.release();
        without_log.offer(&batches[1]);
        assert_eq!(first(without_log.take(0)), Some(1));
        assert_eq!(first(without_log.take(0)), Some(11));
    }

    #[test]
    fn without_a_log_a_full_queue_makes_its_owner_wait_and_loses_nothing() {
        let queue = Arc::new(Queue::new(None, 1));
        let batches = ROUTER_QUEUE_BATCHES as u64 * 3;
        let offering = std::thread::spawn({
            let queue = queue.clone();
            move || {
                for position in 1..=batches {
                    queue.offer(&pooled_batch(position..=position));
                }
                queue.close();
            }
        });
        let mut seen = Vec::new();
        loop {
            queue.wait(u64::MAX, None);
            match queue.take(0) {
                Taken::Batch(batch) => seen.push(batch.first_position()),
                Taken::Empty { closed: true, .. } => break,
                Taken::Empty { .. } => {}
            }
        }
        offering.join().unwrap();
        assert_eq!(seen, (1..=batches).collect::<Vec<_>>());
    }
}
