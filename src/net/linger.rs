//! When a closing connection that may still be sent to can be closed (R15).
//!
//! Closing a socket with unread bytes, or one that is sent more bytes later, makes the kernel send a reset, and a reset
//! destroys the answer that the peer has not read yet. So the connection is half-closed, and what the peer still sends is
//! discarded until it ends, pauses, or has had its time.

use std::time::{Duration, Instant};

use crate::limits::{
    FRAME_RATE_MIN_BYTES_PER_SECOND, LINGER_DRAIN_TIMEOUT, LINGER_PAUSE, LINGER_PAUSE_SENDING, LINGER_TIMEOUT,
};

/// The clock of one half-closed connection. It starts when the last byte of the answer is written.
#[derive(Debug)]
pub(super) struct Linger {
    since: Instant,
    /// When bytes last came.
    heard: Instant,
    /// Bytes that came and were thrown away.
    discarded: u64,
    /// The end, whatever the peer does.
    last: Instant,
    draining: bool,
    /// It is closed because others need its place.
    makes_room: bool,
}

impl Linger {
    /// A connection that was half-closed at `now`.
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, heard: now, discarded: 0, last: now + LINGER_TIMEOUT, draining: false, makes_room: false }
    }

    /// Notes `bytes` that came and were thrown away.
    pub(super) fn discarded(&mut self, bytes: usize, now: Instant) {
        self.discarded += bytes as u64;
        self.heard = now;
    }

    /// The server drains: there is less time from `now` on.
    pub(super) fn drain(&mut self, now: Instant) {
        if !self.draining {
            self.draining = true;
            self.last = self.last.min(now + LINGER_DRAIN_TIMEOUT);
        }
    }

    /// It is closed now, because others need its place.
    pub(super) fn make_room(&mut self) {
        self.makes_room = true;
    }

    /// When to close unless bytes come before: the peer has paused, was too slow, or has had its time.
    pub(super) fn deadline(&self) -> Instant {
        self.paused().min(self.slow()).min(self.last)
    }

    /// Whether the time is up even for a peer whose bytes are there to be read.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        now >= self.last
    }

    /// Why a connection that is closed at `now` was cut short; `None` where the peer paused or its time is not up.
    pub(super) fn cut(&self, now: Instant) -> Option<&'static str> {
        if self.makes_room {
            Some("limit")
        } else if now >= self.paused() {
            None
        } else if now >= self.last {
            Some(if self.draining { "drain" } else { "timeout" })
        } else {
            (now >= self.slow()).then_some("slow")
        }
    }

    /// Time that the bytes so far take at the lowest allowed rate.
    fn transfer(&self) -> Duration {
        Duration::from_millis(self.discarded.saturating_mul(1000) / FRAME_RATE_MIN_BYTES_PER_SECOND)
    }

    /// A peer that limits its own rate may send once per second: one that has sent at a fair rate may pause for longer.
    fn paused(&self) -> Instant {
        self.heard + (LINGER_PAUSE + self.transfer()).min(LINGER_PAUSE_SENDING)
    }

    fn slow(&self) -> Instant {
        self.since + LINGER_PAUSE + self.transfer()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MIB: usize = 1 << 20;

    /// Sends `bytes` every `interval` until the connection is closed or `sends` are over; when it was closed, and why.
    fn send(bytes: usize, interval: Duration, sends: u32) -> (Duration, Option<&'static str>) {
        let start = Instant::now();
        let mut linger = Linger::new(start);
        for send in 0..sends {
            let now = start + interval * send;
            if linger.deadline() <= now || linger.is_over(now) {
                break;
            }
            linger.discarded(bytes, now);
        }
        let end = linger.deadline();
        (end - start, linger.cut(end))
    }

    #[test]
    fn a_silent_peer_has_one_second() {
        assert_eq!(send(0, SECOND, 0), (SECOND, None));
    }

    #[test]
    fn a_peer_that_sends_fast_may_take_thirty_seconds_and_no_byte_count_ends_it() {
        assert_eq!(send(64 * MIB, SECOND / 100, 1_000), (Duration::from_millis(9_990) + 2 * SECOND, None));
        assert_eq!(send(MIB, SECOND / 10, 1_000), (30 * SECOND, Some("timeout")));
    }

    #[test]
    fn a_peer_that_sends_once_per_second_is_not_cut() {
        let late = Duration::from_millis(1_200);
        assert_eq!(send(4 * MIB, late, 16), (late * 15 + 2 * SECOND, None));
    }

    #[test]
    fn a_peer_below_the_lowest_rate_is_cut() {
        let (end, reason) = send(1, SECOND / 2, 1_000);
        assert!(end < SECOND * 11 / 10 && reason == Some("slow"), "{end:?} {reason:?}");
        let (end, reason) = send(16 * 1024, SECOND / 2, 1_000);
        assert!(end < 3 * SECOND && reason == Some("slow"), "{end:?} {reason:?}");
    }

    #[test]
    fn a_drain_leaves_one_second_and_no_more() {
        let start = Instant::now();
        let mut linger = Linger::new(start);
        linger.discarded(64 * MIB, start + 2 * SECOND);
        linger.drain(start + 2 * SECOND);
        linger.drain(start + 3 * SECOND);
        assert_eq!(linger.deadline(), start + 3 * SECOND);
        assert!(linger.is_over(start + 3 * SECOND) && !linger.is_over(start + 2 * SECOND));
        assert_eq!(linger.cut(start + 3 * SECOND), Some("drain"));
    }
}
