//! HTTP: heads through scratch memory, bodies straight into their own buffer.

use std::time::Instant;

use super::{Context, Ending, Priority, Protocol, SlowBody};
use crate::http::{Connection, Room};
use crate::limits::{OUTBOX_BYTES_MAX, READ_BYTES_PER_TURN};
use crate::metrics;
use crate::net::connection::Peer;
use crate::net::ingress::Ingress;
use crate::net::serve::{HEAD_READ_BYTES, Scratch, Served};
use crate::net::socket::ReadEnd;

/// Requests and body pieces of one connection in one turn.
const STEPS_PER_TURN: usize = 16;

/// Accepts every byte: what is not of another protocol gets an HTTP error.
pub(super) fn begins_with(_first: u8, _ingress: &Ingress) -> bool {
    true
}

/// A connection that waits for a request.
pub(super) fn open(peer: &Peer, ingress: &Ingress) -> Box<dyn Protocol> {
    Box::new(Http { machine: Connection::new(ingress.shared.http, peer.opened) })
}

struct Http {
    machine: Connection,
}

impl Protocol for Http {
    fn serve(&mut self, cx: &mut Context<'_>) -> Served {
        self.machine.set_paused(false, cx.ingress.now);
        // What is left of an earlier read comes first.
        if !cx.socket.unparsed.is_empty() {
            let unparsed = std::mem::take(&mut cx.socket.unparsed);
            self.offer_and_keep(unparsed, cx);
        }
        for _ in 0..STEPS_PER_TURN {
            if self.machine.closing() {
                return Served::Close("http");
            }
            if self.machine.lacks_room().is_some() {
                return Served::NeedsRoom;
            }
            if self.machine.waits_for_profile()
                && let Some(end) = self.find_end(cx)
            {
                return end;
            }
            if self.is_waiting() || cx.socket.is_choked() || cx.out.len() >= OUTBOX_BYTES_MAX {
                self.machine.set_paused(true, cx.ingress.now);
                return Served::Hold;
            }
            if !cx.socket.is_readable() {
                return if cx.socket.is_at_end() { Served::End } else { Served::Idle };
            }
            if self.read(cx) == ReadEnd::Broken {
                return Served::Gone("broken");
            }
        }
        Served::Again
    }

    fn name(&self) -> &'static str {
        metrics::Protocol::Http.name()
    }

    fn priority(&self) -> Priority {
        Priority::Others
    }

    fn is_waiting(&self) -> bool {
        self.machine.waiting_for().is_some() || self.machine.waits_for_profile()
    }

    fn acknowledge(&mut self, _is_read_next: bool, cx: &mut Context<'_>) {
        if self.machine.waits_for_profile() {
            let now = cx.ingress.now;
            let mut ingress = cx.ingress.http(cx.peer);
            return self.machine.look_at_profile(now, &mut ingress, cx.out);
        }
        let Some((level, ticket)) = self.machine.waiting_for() else { return };
        if cx.ingress.watermark(level) >= ticket {
            let now = cx.ingress.now;
            cx.ingress.counts.acknowledged(now.saturating_duration_since(cx.socket.heard()).as_secs_f64());
            let mut ingress = cx.ingress.http(cx.peer);
            self.machine.acknowledged(now, &mut ingress, cx.out);
        }
    }

    fn is_over(&self) -> Option<&'static str> {
        self.machine.closing().then_some("http")
    }

    fn deadline(&self, _pressure: bool) -> Option<Instant> {
        self.machine.deadline()
    }

    fn handle_timeout(&mut self, _pressure: bool, cx: &mut Context<'_>) -> Option<&'static str> {
        let now = cx.ingress.now;
        let mut ingress = cx.ingress.http(cx.peer);
        self.machine.handle_timeout(now, &mut ingress, cx.out);
        self.machine.closing().then_some("http_timeout")
    }

    fn end(&mut self, ending: Ending, cx: &mut Context<'_>) -> Option<&'static str> {
        let now = cx.ingress.now;
        let mut ingress = cx.ingress.http(cx.peer);
        if ending == Ending::LogFailed {
            self.machine.log_failed(now, &mut ingress, cx.out);
        }
        if ending == Ending::OutOfTime {
            self.machine.end_waiting(now, &mut ingress, cx.out);
        }
        self.machine.drain(now, &mut ingress, cx.out);
        self.machine.closing().then_some("SHUTDOWN")
    }

    fn lacks_room(&self) -> Option<Room> {
        self.machine.lacks_room()
    }

    fn take_room(&mut self, cx: &mut Context<'_>) -> bool {
        let now = cx.ingress.now;
        let mut ingress = cx.ingress.http(cx.peer);
        self.machine.take_room(now, &mut ingress, cx.out)
    }

    fn refuse_room(&mut self, cx: &mut Context<'_>) {
        let now = cx.ingress.now;
        let mut ingress = cx.ingress.http(cx.peer);
        self.machine.refuse_room(now, &mut ingress, cx.out);
    }

    fn retry_room_at(&self) -> Option<Instant> {
        self.machine.retry_at()
    }

    fn slow_body(&self, room: Room, now: Instant) -> Option<SlowBody> {
        let bytes_per_second = self.machine.slow_body(room, now)?;
        let (beginning_bytes, pages) = (self.machine.beginning_bytes(), self.machine.body_pages());
        Some(SlowBody { bytes_per_second, beginning_bytes, pages })
    }

    fn set_paused(&mut self, paused: bool, now: Instant) {
        self.machine.set_paused(paused, now);
    }

    #[cfg(test)]
    fn http(&self) -> Option<&Connection> {
        Some(&self.machine)
    }

    fn press_body(&mut self, cx: &mut Context<'_>) -> Option<&'static str> {
        let now = cx.ingress.now;
        let mut ingress = cx.ingress.http(cx.peer);
        self.machine.press_body(now, &mut ingress, cx.out);
        self.machine.closing().then_some("body_timeout")
    }
}

impl Http {
    /// While a profile is taken: how the connection ends whose peer has closed its half, for nobody else may have a profile until this
    /// one ends. `None`: it waits. What the peer sends meanwhile is kept, up to the length of a read.
    fn find_end(&mut self, cx: &mut Context<'_>) -> Option<Served> {
        for _ in 0..STEPS_PER_TURN {
            if !cx.socket.is_readable() || cx.socket.unparsed.len() >= HEAD_READ_BYTES {
                return None;
            }
            let Scratch { read, wire, .. } = &mut *cx.scratch;
            let limit = HEAD_READ_BYTES - cx.socket.unparsed.len();
            match cx.socket.read(&mut read[..limit], wire, cx.ingress.now) {
                ReadEnd::Bytes(bytes) => cx.socket.unparsed.extend_from_slice(&read[..bytes]),
                ReadEnd::Empty => {}
                ReadEnd::End => return Some(Served::Close("end")),
                ReadEnd::Broken => return Some(Served::Gone("broken")),
            }
        }
        Some(Served::Again)
    }

    fn read(&mut self, cx: &mut Context<'_>) -> ReadEnd {
        match self.machine.body_room() {
            Some(room) => {
                let limit = room.len().min(READ_BYTES_PER_TURN);
                let end = cx.socket.read_once(&mut room[..limit], &mut cx.scratch.wire, cx.ingress.now);
                if let ReadEnd::Bytes(bytes) = end {
                    let now = cx.ingress.now;
                    let mut ingress = cx.ingress.http(cx.peer);
                    self.machine.body_filled(bytes, now, &mut ingress, cx.out);
                }
                end
            }
            None => self.read_head(cx),
        }
    }

    fn read_head(&mut self, cx: &mut Context<'_>) -> ReadEnd {
        // Beyond a head only what belongs to the body: what is left over would stay with the connection.
        let limit = self.machine.beginning_room().unwrap_or(HEAD_READ_BYTES).max(1);
        let Scratch { read, wire, .. } = &mut *cx.scratch;
        let end = cx.socket.read_once(&mut read[..limit], wire, cx.ingress.now);
        let ReadEnd::Bytes(bytes) = end else { return end };
        if cx.socket.unparsed.is_empty() {
            // Most requests come whole: nothing is copied.
            let read = std::mem::take(&mut cx.scratch.read);
            let used = self.offer(&read[..bytes], cx);
            cx.socket.unparsed.extend_from_slice(&read[used..bytes]);
            cx.scratch.read = read;
        } else {
            let mut unparsed = std::mem::take(&mut cx.socket.unparsed);
            unparsed.extend_from_slice(&cx.scratch.read[..bytes]);
            self.offer_and_keep(unparsed, cx);
        }
        end
    }

    fn offer_and_keep(&mut self, mut unparsed: Vec<u8>, cx: &mut Context<'_>) {
        let used = self.offer(&unparsed, cx);
        unparsed.drain(..used);
        cx.socket.unparsed = unparsed;
    }

    fn offer(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> usize {
        let now = cx.ingress.now;
        let mut ingress = cx.ingress.http(cx.peer);
        let used = self.machine.receive(bytes, now, &mut ingress, cx.out).min(bytes.len());
        // A whole head was read.
        cx.peer.is_known |= used > 0;
        used
    }
}
