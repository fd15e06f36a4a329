//! Room for HTTP bodies: whose is closed where there is none, and who waits.

use std::ops::Range;
use std::time::Instant;

use super::EventLoop;
use crate::batch::pool::Pool;
use crate::batch::shares::Share;
use crate::http::Room;
use crate::ids::ConnectionId;
use crate::net::connection::Connection;
use crate::net::intake::Intake;
use crate::net::serve::Served;

impl EventLoop {
    /// Makes room for the body of `id`: slow bodies are closed, as many as it takes. Where that cannot help, the request is
    /// refused. A body that is whole and was admitted waits in line instead.
    pub(super) fn make_room(&mut self, id: ConnectionId) -> Served {
        let lacks = self.lacks_room(id);
        let Some(room) = lacks else { return Served::Again };
        if room == Room::Finish {
            return self.line_up_to_finish(id);
        }
        // Memory that is freed while agents wait for it is theirs.
        let is_theirs = matches!(room, Room::Pool(_)) && self.ingress.starved_since().is_some();
        let slow = if is_theirs { Vec::new() } else { self.slow_bodies(room, Some(id)) };
        // What was answered on this connection before stays in front; `out` is needed for those that are closed.
        let answers = std::mem::take(&mut self.out);
        for slower in slow {
            self.close_slow_body(slower);
        }
        self.out = answers;
        if !self.take_room(id) && self.lacks_room(id) != Some(Room::Finish) {
            self.with_protocol(id, |protocol, cx| protocol.refuse_room(cx));
        }
        Served::Again
    }

    /// What the connection's HTTP body lacks; `None`: nothing, or there is no body.
    pub(super) fn lacks_room(&self, id: ConnectionId) -> Option<Room> {
        self.connections.get(id)?.protocol()?.lacks_room()
    }

    fn line_up_to_finish(&mut self, id: ConnectionId) -> Served {
        if let Some(connection) = self.connections.get_mut(id) {
            if connection.is_reset {
                return Served::Gone("broken");
            }
            connection.waiting = true;
            self.finishing.push_back(id);
            self.ingress.finishing = true;
        }
        Served::Idle
    }

    /// The bodies below 64 KiB/s to close for `room`: the slowest, as few as free all of it; none where all together do not.
    /// One that is not being read is not slow.
    pub(super) fn slow_bodies(&self, room: Room, except: Option<ConnectionId>) -> Vec<ConnectionId> {
        let now = self.ingress.now;
        let slow_body = |connection: &Connection| {
            let slow = connection.protocol()?.slow_body(room, now)?;
            (except != Some(connection.id)).then_some((connection.id, slow))
        };
        let mut slow: Vec<_> = self.connections.iter().filter_map(slow_body).collect();
        slow.sort_unstable_by_key(|(id, slow)| (slow.bytes_per_second, *id));
        let chosen = match room {
            Room::Beginnings(bytes) => {
                let sizes: Vec<_> = slow.iter().map(|(_, slow)| slow.beginning_bytes).collect();
                fewest_sizes(&sizes, bytes.saturating_sub(self.ingress.beginnings.left()))
            }
            Room::Pool(bytes) => {
                let pages: Vec<_> = slow.iter().map(|(_, slow)| slow.pages.clone()).collect();
                // Agents that wait (`except` is none) need it in their share.
                let share = if except.is_some() { Intake::share_of_body(bytes) } else { Share::Agents };
                fewest_pages(self.ingress.intake.pool(), &pages, share, bytes)
            }
            Room::Finish => Vec::new(),
        };
        chosen.into_iter().filter_map(|index| slow.get(index)).map(|(id, _)| *id).collect()
    }

    /// While agents wait for memory, the slow bodies whose memory they can use are closed (R11).
    pub(super) fn press_bodies(&mut self) {
        while !self.waiting.is_empty() && !self.ingress.intake.prepare() {
            let Some(bytes) = self.ingress.intake.lacks() else { return };
            let slow = self.slow_bodies(Room::Pool(bytes), None);
            if slow.is_empty() {
                return;
            }
            for id in slow {
                self.close_slow_body(id);
            }
        }
    }

    /// 408.
    fn close_slow_body(&mut self, id: ConnectionId) {
        if let Some(close) = self.with_protocol(id, |protocol, cx| protocol.press_body(cx)) {
            self.settle(id, close);
        }
    }

    /// Whether the body of `id` has what it lacked. Answers are appended to `out`.
    fn take_room(&mut self, id: ConnectionId) -> bool {
        self.with_protocol(id, |protocol, cx| protocol.take_room(cx)).unwrap_or(true)
    }

    /// Whole bodies in line, in order, until a time (at least one): each becomes events where there is room now. Nobody takes
    /// what the first one waits for, so it finds its room once the log has what was made of those before. `true`: the time
    /// ended before the line did.
    pub(super) fn finish_bodies(&mut self, until: Instant) -> bool {
        if self.finishing.is_empty() {
            return false;
        }
        // Armed first: whatever is freed after the attempts wakes the loop.
        self.ingress.ring.wait_for_room();
        self.ingress.intake.wait_for_room();
        while let Some(id) = self.finishing.pop_front() {
            self.ingress.finishing = false;
            if !self.take_room(id) {
                self.finishing.push_front(id);
                self.ingress.finishing = true;
                return false;
            }
            self.ingress.finishing = !self.finishing.is_empty();
            if let Some(connection) = self.connections.get_mut(id) {
                connection.waiting = false;
                self.serve_one(id);
            }
            // Slots in the ring are of use to nobody but an awake log thread.
            self.ingress.ring.flush();
            if Instant::now() >= until {
                break;
            }
        }
        !self.finishing.is_empty()
    }

    /// A body became events at its last try, before it was first in line.
    pub(super) fn leave_finishing(&mut self, id: ConnectionId) {
        self.finishing.retain(|other| *other != id);
        self.ingress.finishing = !self.finishing.is_empty();
        if let Some(connection) = self.connections.get_mut(id) {
            connection.waiting = false;
        }
    }

    /// When the first body in line is to be tried whether or not anything was freed.
    pub(super) fn finish_retry_at(&self) -> Option<Instant> {
        self.connections.get(*self.finishing.front()?)?.protocol()?.retry_room_at()
    }
}

/// Of `sizes`, those whose sum is at least `needed`: the first ones, without those that are not necessary. None where all are
/// too little.
fn fewest_sizes(sizes: &[usize], needed: usize) -> Vec<usize> {
    let (mut sum, mut chosen) = (0, Vec::new());
    for (index, size) in sizes.iter().enumerate() {
        if sum < needed {
            sum += size;
            chosen.push((index, *size));
        }
    }
    if sum < needed {
        return Vec::new();
    }
    chosen.retain(|(_, size)| {
        let is_spare = sum - size >= needed;
        sum -= if is_spare { *size } else { 0 };
        !is_spare
    });
    chosen.into_iter().map(|(index, _)| index).collect()
}

/// Of `held` pages, those without which `bytes` have no room in `share`: of the first ones that give it. None where all
/// together do not, or where there is room already.
fn fewest_pages(pool: &Pool, held: &[Range<usize>], share: Share, bytes: usize) -> Vec<usize> {
    if held.is_empty() {
        return Vec::new();
    }
    let fit = |count: usize| pool.fit_with(share, bytes, held.get(..count).unwrap_or_default());
    let counts: Vec<usize> = (0..=held.len()).collect();
    let count = counts.partition_point(|count| fit(*count).is_none());
    let Some(place) = counts.get(count).and_then(|count| fit(*count)) else { return Vec::new() };
    let is_in_place = |pages: &Range<usize>| pages.start < place.end && place.start < pages.end;
    held.iter().enumerate().take(count).filter(|(_, pages)| is_in_place(pages)).map(|(index, _)| index).collect()
}

#[cfg(test)]
mod tests;
