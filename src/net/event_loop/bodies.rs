//! Room for HTTP bodies: whose is closed where there is none, and who waits.

use super::EventLoop;
use crate::http::Room;
use crate::ids::ConnectionId;
use crate::net::connection::Connection;
use crate::net::serve::Served;

impl EventLoop {
    /// Makes room for the body of `id`: the slowest bodies below 64 KiB/s are closed until there is some. Where there are
    /// none, the request is refused. A body that is whole and was admitted waits in line instead.
    pub(super) fn make_room(&mut self, id: ConnectionId) -> Served {
        let lacks = self.connections.get(id).and_then(|connection| connection.protocol()?.lacks_room());
        let Some(room) = lacks else { return Served::Again };
        if room == Room::Finish {
            if let Some(connection) = self.connections.get_mut(id) {
                connection.waiting = true;
                self.finishing.push_back(id);
            }
            return Served::Idle;
        }
        // What was answered on this connection before stays in front; `out` is needed for those that are closed.
        let mut answers = std::mem::take(&mut self.out);
        let mut found = false;
        let post_refused = self.door.post_refused;
        // Memory that is freed while agents wait for it is theirs.
        let is_theirs = room == Room::Pool && self.door.starved_since.is_some();
        let slow = if is_theirs { Vec::new() } else { self.slow_bodies(room, Some(id)) };
        for slower in slow {
            self.close_slow_body(slower);
            std::mem::swap(&mut self.out, &mut answers);
            found = self.take_room(id);
            std::mem::swap(&mut self.out, &mut answers);
            if found {
                // Nothing was refused but what was tried before there was room.
                self.door.post_refused = post_refused;
                break;
            }
        }
        self.out = answers;
        if !found {
            self.with_protocol(id, |protocol, cx| protocol.refuse_room(cx));
        }
        Served::Again
    }

    /// Bodies below 64 KiB/s whose end frees some of `room`, the slowest first. One whose bytes wait here is not slow.
    pub(super) fn slow_bodies(&self, room: Room, except: Option<ConnectionId>) -> Vec<ConnectionId> {
        let now = self.door.now;
        let rate = |connection: &Connection| {
            let may_be_slow = !connection.queued && except != Some(connection.id);
            let protocol = connection.protocol().filter(|_| may_be_slow)?;
            Some((protocol.slow_body(room, now)?, connection.id))
        };
        let mut slow: Vec<_> = self.connections.iter().filter_map(rate).collect();
        slow.sort_unstable();
        slow.into_iter().map(|(_, id)| id).collect()
    }

    /// 408.
    pub(super) fn close_slow_body(&mut self, id: ConnectionId) {
        if let Some(close) = self.with_protocol(id, |protocol, cx| protocol.press_body(cx)) {
            self.settle(id, close);
        }
    }

    /// Whether the body of `id` has what it lacked. Answers are appended to `out`.
    fn take_room(&mut self, id: ConnectionId) -> bool {
        self.with_protocol(id, |protocol, cx| protocol.take_room(cx)).unwrap_or(true)
    }

    /// Whole bodies in line, in order: each becomes events where there is room now.
    pub(super) fn finish_bodies(&mut self) {
        if self.finishing.is_empty() {
            return;
        }
        // Armed first: whatever is freed after the attempts wakes the loop.
        self.door.ring.wait_for_room();
        self.door.intake.wait_for_room();
        for _ in 0..self.finishing.len() {
            let Some(id) = self.finishing.pop_front() else { break };
            let found = self.take_room(id);
            let Some(connection) = self.connections.get_mut(id) else { continue };
            if found {
                connection.waiting = false;
                self.serve_one(id);
            } else {
                self.finishing.push_back(id);
            }
        }
    }
}
