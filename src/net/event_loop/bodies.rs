//! Room for HTTP bodies: whose is closed where there is none, and who waits.

use super::EventLoop;
use crate::http::Room;
use crate::net::connection::{Connection, Protocol};
use crate::net::serve::Served;
use crate::session::marks::ConnectionId;

impl EventLoop {
    /// Makes room for the body of `id`: the slowest bodies below 64 KiB/s are closed until there is some. Where there are
    /// none, the request is refused. A body that is whole and was admitted waits in line instead.
    pub(super) fn make_room(&mut self, id: ConnectionId) -> Served {
        let lacks = self.connections.get_mut(id).and_then(|connection| match &connection.protocol {
            Protocol::Http(machine) => machine.lacks_room(),
            _ => None,
        });
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
            found = self.take_room(id, &mut answers);
            if found {
                // Nothing was refused but what was tried before there was room.
                self.door.post_refused = post_refused;
                break;
            }
        }
        self.out = answers;
        if !found
            && let Some(connection) = self.connections.get_mut(id)
            && let Connection { protocol: Protocol::Http(machine), loopback, overloaded, origin, .. } = connection
        {
            let (now, door) = (self.door.now, &mut self.door);
            machine.refuse_room(now, &mut door.http(origin, *loopback, *overloaded), &mut self.out);
        }
        Served::Again
    }

    /// Bodies below 64 KiB/s whose end frees some of `room`, the slowest first. One whose bytes wait here is not slow.
    pub(super) fn slow_bodies(&self, room: Room, except: Option<ConnectionId>) -> Vec<ConnectionId> {
        let rate = |connection: &Connection| match &connection.protocol {
            Protocol::Http(machine) if !connection.queued && except != Some(connection.id) => {
                Some((machine.slow_body(room, self.door.now)?, connection.id))
            }
            _ => None,
        };
        let mut slow: Vec<_> = self.connections.iter().filter_map(rate).collect();
        slow.sort_unstable();
        slow.into_iter().map(|(_, id)| id).collect()
    }

    /// 408.
    pub(super) fn close_slow_body(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        let Connection { protocol: Protocol::Http(machine), loopback, overloaded, origin, .. } = connection else {
            return;
        };
        let now = self.door.now;
        machine.press_body(now, &mut self.door.http(origin, *loopback, *overloaded), &mut self.out);
        let close = machine.closing().then_some("body_timeout");
        self.settle(id, close);
    }

    /// Whether the body of `id` has what it lacked.
    fn take_room(&mut self, id: ConnectionId, out: &mut Vec<u8>) -> bool {
        let Some(connection) = self.connections.get_mut(id) else {
            return true;
        };
        let Connection { protocol: Protocol::Http(machine), loopback, overloaded, origin, .. } = connection else {
            return true;
        };
        let now = self.door.now;
        machine.take_room(now, &mut self.door.http(origin, *loopback, *overloaded), out)
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
            let mut out = std::mem::take(&mut self.out);
            let found = self.take_room(id, &mut out);
            self.out = out;
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
