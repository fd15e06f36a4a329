//! One connection's share of a turn: one bounded read, and the parsing of what it brought.

use std::sync::Arc;

use crate::http;
use crate::ids::hex;
use crate::limits::{
    DISCARD_BYTES_PER_TURN, HEADER_BYTES, HELLO_BYTES_MAX, HTTP_BODY_BEGINNING_BYTES, HTTP_TORN_HEADS_BYTES_MAX,
    OUTBOX_BYTES_MAX, READ_BYTES_PER_TURN,
};
use crate::net::connection::{Connection, Held, Protocol, ReadEnd};
use crate::net::door::Door;
use crate::net::log_limit::LogLimit;
use crate::pipeline::batch::Origin;
use crate::pipeline::pool::Buffer;
use crate::session::marks::ConnectionId;
use crate::session::server::{ServerSession, Step};
use crate::wire::header::MAGIC;
use crate::wire::{Decoded, FrameError, GoawayCode, decode};

/// First byte of a TLS record that begins a handshake. TLS is not offered.
const TLS_HANDSHAKE: u8 = 0x16;
/// A TLS record of version 1.2 with an alert: fatal, handshake_failure (RFC 8446, section 6). Clients report it by name,
/// where a closed connection would look like a fault of the network.
const TLS_ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 40];
/// Why a connection is closed whose agent sent BYE.
pub const BYE: &str = "bye";
/// Bytes of one read of a head: most requests are smaller, and what is left over stays with the connection.
const HEAD_READ_BYTES: usize = 16 * 1024;
/// Bytes of a whole HELLO frame. Until it came, no more is read.
const HELLO_FRAME_BYTES: usize = HEADER_BYTES + HELLO_BYTES_MAX;
/// Requests and body pieces of one connection in one turn.
const HTTP_STEPS_PER_TURN: usize = 16;

/// What to do with the connection next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// Its socket is empty: wait for the poll.
    Idle,
    /// There may be more: serve it again in the next turn.
    Again,
    /// Not without ring or memory: into the line of those that wait.
    Wait,
    /// A body has no room: see `http::Connection::lacks_room`.
    NeedsRoom,
    /// Not before a watermark or the peer's reading moves on.
    Hold,
    /// The peer has ended its half: close once everything is acknowledged.
    End,
    /// The last words are in `out`.
    Close(&'static str),
    /// The socket is broken: nobody listens.
    Gone(&'static str),
}

/// What serving shares besides the door.
pub struct Scratch {
    /// Reads that must not need the pool.
    pub read: Box<[u8]>,
    /// Older connections of agents that came in again (R5).
    pub replaced: Vec<ConnectionId>,
    /// Bytes kept in all [`Connection::small`].
    pub small_bytes: usize,
    /// For lines that a peer can trigger.
    pub log: LogLimit,
}

impl Scratch {
    pub fn new() -> Self {
        Self {
            read: vec![0; HTTP_BODY_BEGINNING_BYTES.max(HEAD_READ_BYTES)].into_boxed_slice(),
            replaced: Vec::new(),
            small_bytes: 0,
            log: LogLimit::default(),
        }
    }
}

/// Reads once and parses what is there. Answers are appended to `out`.
pub fn serve(connection: &mut Connection, door: &mut Door, scratch: &mut Scratch, out: &mut Vec<u8>) -> Served {
    let small_before = connection.small.len();
    let served = match &connection.protocol {
        Protocol::Undecided => serve_undecided(connection, door, scratch, out),
        Protocol::Frames(_) => serve_frames(connection, door, scratch, out),
        Protocol::Http(_) => serve_http(connection, door, scratch, out),
        Protocol::Closing | Protocol::Lingering(_) => discard(connection, door, scratch),
    };
    scratch.small_bytes = (scratch.small_bytes + connection.small.len()).saturating_sub(small_before);
    // An accepted agent keeps at most a torn header.
    let stranger = connection.origin.agent_id.is_none();
    if stranger && scratch.small_bytes > HTTP_TORN_HEADS_BYTES_MAX && connection.small.len() > small_before {
        return Served::Gone("heads_over_budget");
    }
    served
}

fn serve_undecided(connection: &mut Connection, door: &mut Door, scratch: &mut Scratch, out: &mut Vec<u8>) -> Served {
    let Some(room) = scratch.read.get_mut(..HELLO_FRAME_BYTES) else { return Served::Gone("internal") };
    let bytes = match connection.read(room, door.now) {
        ReadEnd::Bytes(bytes) => bytes,
        ReadEnd::Empty => return Served::Idle,
        ReadEnd::End => return Served::Gone("silent"),
        ReadEnd::Broken => return Served::Gone("broken"),
    };
    let first = room.first().copied().unwrap_or_default();
    connection.small.extend_from_slice(room.get(..bytes).unwrap_or_default());
    if first == TLS_HANDSHAKE {
        door.refusals.log_tls(&connection.origin.default_source, door.now);
        out.extend_from_slice(&TLS_ALERT);
        return Served::Close("tls");
    }
    if first == MAGIC[0] {
        let session = ServerSession::new(connection.id, &door.settings, connection.opened);
        connection.protocol = Protocol::Frames(Box::new(session));
        serve_frames(connection, door, scratch, out)
    } else {
        let machine = http::Connection::new(door.http, connection.opened);
        connection.protocol = Protocol::Http(Box::new(machine));
        // In its turn among the others: a page costs more than this first read.
        Served::Again
    }
}

// ---- frames ----

fn serve_frames(connection: &mut Connection, door: &mut Door, scratch: &mut Scratch, out: &mut Vec<u8>) -> Served {
    let loopback = connection.loopback;
    let overloaded = connection.overloaded;
    let Some(session) = connection.session() else { return Served::Gone("internal") };
    if door.draining || overloaded {
        let (code, text) = if door.draining {
            (GoawayCode::Shutdown, "this server is shutting down")
        } else {
            (GoawayCode::Overloaded, "this server has as many connections as server.max_connections allows")
        };
        if session.is_waiting() {
            // Drained once it is acknowledged.
            return Served::Hold;
        }
        return door.turn(loopback, |turn| closed(session.end(code, text, turn.random, out)));
    }
    if !session.is_authenticated() {
        if !door.has_slots() {
            // An epoch goes through the ring.
            return wait(connection, door);
        }
        // It is read again: the time of its HELLO runs.
        session.set_paused(false, door.now);
        return greet(connection, door, scratch, out);
    }
    session.set_paused(false, door.now);
    if !session.may_receive(&door.settings) || connection.is_choked() {
        return hold(connection, door);
    }
    if !door.has_slots() {
        return wait(connection, door);
    }
    match std::mem::replace(&mut connection.held, Held::Nothing) {
        Held::Frame { mut buffer, total } => {
            let missing = total.saturating_sub(buffer.len());
            let end = connection.read(buffer.unfilled().get_mut(..missing).unwrap_or_default(), door.now);
            if let ReadEnd::Bytes(bytes) = end {
                buffer.advance(bytes);
            }
            if buffer.len() < total {
                note_partial(connection, door, buffer.len(), total);
                connection.held = Held::Frame { buffer, total };
                return after_read(connection, end);
            }
            let parsed = parse(connection, door, &mut buffer, 0, out);
            keep(connection, door, &mut buffer, parsed)
        }
        Held::Nothing => {
            if !door.intake.prepare() {
                return wait(connection, door);
            }
            // Every frame of the read must find its slots: what is read is parsed, and never has to wait half-way.
            let limit = READ_BYTES_PER_TURN.min(door.bytes_within_slots().saturating_sub(connection.small.len()));
            if limit == 0 {
                return wait(connection, door);
            }
            let Some(mut current) = door.intake.take_current() else { return wait(connection, door) };
            let served = read_into_current(connection, door, &mut current, limit, out);
            door.intake.put_back(current);
            served
        }
    }
}

fn read_into_current(
    connection: &mut Connection,
    door: &mut Door,
    current: &mut Buffer,
    limit: usize,
    out: &mut Vec<u8>,
) -> Served {
    let start = current.len();
    // A torn header, or what came right behind the HELLO. It fits: a current buffer has room for a read.
    let fits = current.extend(&connection.small);
    debug_assert!(fits);
    connection.small.clear();
    let room = current.unfilled();
    let limit = room.len().min(limit);
    let end = connection.read(room.get_mut(..limit).unwrap_or_default(), door.now);
    if let ReadEnd::Bytes(bytes) = end {
        current.advance(bytes);
    }
    if current.len() == start {
        return after_read(connection, end);
    }
    let parsed = parse(connection, door, current, start, out);
    match keep(connection, door, current, parsed) {
        Served::Again => after_read(connection, end),
        other => other,
    }
}

/// Until the HELLO is accepted, bytes stay outside the pool: strangers cost no buffers.
fn greet(connection: &mut Connection, door: &mut Door, scratch: &mut Scratch, out: &mut Vec<u8>) -> Served {
    let missing = HELLO_FRAME_BYTES.saturating_sub(connection.small.len());
    let mut end = ReadEnd::Empty;
    if connection.readable && missing > 0 {
        let room = scratch.read.get_mut(..missing).unwrap_or_default();
        end = connection.read(room, door.now);
        if let ReadEnd::Bytes(bytes) = end {
            connection.small.extend_from_slice(room.get(..bytes).unwrap_or_default());
        }
    }
    let Connection { small, protocol: Protocol::Frames(session), loopback, peer, .. } = connection else {
        return Served::Gone("internal");
    };
    let (used, step) = match decode(small, door.settings.payload_caps()) {
        Ok(Decoded::Frame { header, payload }) => {
            let step = door.turn(*loopback, |turn| session.frame(&header, payload, turn, out));
            (HEADER_BYTES + payload.len(), step)
        }
        Ok(Decoded::NeedHeader) => return after_read(connection, end),
        // A first frame that is not a HELLO may be large: it is refused by its header alone.
        Ok(Decoded::Partial { total, .. }) if total > HELLO_FRAME_BYTES => {
            let error = "the first frame must be a HELLO of at most 1 KiB";
            return door.turn(*loopback, |turn| closed(session.end(GoawayCode::Protocol, error, turn.random, out)));
        }
        Ok(Decoded::Partial { .. }) => return after_read(connection, end),
        Err(error) => (0, broken(session, door, *loopback, error, out)),
    };
    match step {
        Step::Greeted(greeting) => {
            let agent_id = session.agent_id().copied().unwrap_or_default();
            let name = session.agent_name();
            connection.origin = Arc::new(Origin {
                agent_id: Some(agent_id),
                agent: Some(if name.is_empty() { hex(&agent_id) } else { name.to_owned() }),
                default_source: if name.is_empty() { peer.ip().to_canonical().to_string() } else { name.to_owned() },
                epoch: greeting.epoch,
            });
            door.note_level(session.level());
            if greeting.new_epoch {
                door.log_epoch(session, greeting.last_seq, &connection.origin);
            }
            if scratch.log.allows(door.now) {
                tracing::info!(
                    connection = connection.id,
                    agent = connection.origin.agent,
                    peer = %connection.peer,
                    epoch = greeting.epoch,
                    last_seq = greeting.last_seq,
                    resumed = greeting.resumed,
                    "agent connected"
                );
            }
            if greeting.missing > 0 {
                if scratch.log.allows(door.now) {
                    tracing::warn!(
                        agent = connection.origin.agent,
                        frames = greeting.missing,
                        "frames acknowledged at a weak level were lost"
                    );
                }
                // The number is the peer's word: it must not overflow the counter.
                door.metrics.frames_missing.inc_by(greeting.missing.min(u64::from(u32::MAX)));
            }
            scratch.replaced.extend(greeting.replaced);
            connection.small.drain(..used);
            Served::Again
        }
        Step::Close(code) => Served::Close(code.name()),
        // A skippable frame before the HELLO.
        Step::Continue | Step::Data | Step::Refuse(..) | Step::Bye { .. } => {
            connection.small.drain(..used);
            if connection.small.is_empty() { after_read(connection, end) } else { Served::Again }
        }
    }
}

/// How far parsing came.
enum Parsed {
    All,
    /// A frame begins at `at` and is not all there; of `total` bytes, if its header is.
    Torn {
        at: usize,
        total: Option<usize>,
    },
    Closed(&'static str),
}

/// Takes the frames from `start` on. Whoever reads has made sure that all of them find slots; the window was looked at
/// before the read, and may be exceeded by it (R10 is enforced by not reading).
fn parse(connection: &mut Connection, door: &mut Door, source: &mut Buffer, start: usize, out: &mut Vec<u8>) -> Parsed {
    let Connection { protocol: Protocol::Frames(session), loopback, origin, .. } = connection else {
        return Parsed::Closed("internal");
    };
    let mut at = start;
    loop {
        let bytes = source.filled().get(at..).unwrap_or_default();
        if bytes.is_empty() {
            return Parsed::All;
        }
        let (header, length, step) = match decode(bytes, door.settings.payload_caps()) {
            Ok(Decoded::Frame { header, payload }) => {
                let step = door.turn(*loopback, |turn| session.frame(&header, payload, turn, out));
                (header, payload.len(), step)
            }
            Ok(Decoded::NeedHeader) => return Parsed::Torn { at, total: None },
            Ok(Decoded::Partial { total, .. }) => return Parsed::Torn { at, total: Some(total) },
            Err(error) => match broken(session, door, *loopback, error, out) {
                Step::Close(code) => return Parsed::Closed(code.name()),
                _ => return Parsed::Closed("internal"),
            },
        };
        let payload = at + HEADER_BYTES..at + HEADER_BYTES + length;
        let next = payload.end;
        match step {
            Step::Data => {
                door.admit(session, &header, source, payload, origin, out);
            }
            Step::Refuse(code, reason) => {
                door.refuse_whole(session, &header, (code, reason), source.share(payload), origin, out);
            }
            Step::Continue => {
                if header.kind == crate::wire::FrameKind::Data {
                    door.metrics.duplicates_dropped.inc();
                }
            }
            Step::Greeted(_) => return Parsed::Closed("internal"),
            Step::Bye { last_seq } => {
                door.log_bye(last_seq, origin);
                return Parsed::Closed(BYE);
            }
            Step::Close(code) => return Parsed::Closed(code.name()),
        }
        at = next;
    }
}

/// Keeps what parsing left over.
fn keep(connection: &mut Connection, door: &mut Door, source: &mut Buffer, parsed: Parsed) -> Served {
    let (at, total) = match parsed {
        Parsed::All => return Served::Again,
        Parsed::Closed(reason) => return Served::Close(reason),
        Parsed::Torn { at, total } => (at, total),
    };
    let tail = source.filled().get(at..).unwrap_or_default();
    let have = tail.len();
    match total {
        None => connection.small.extend_from_slice(tail),
        Some(total) => {
            // There is a spare for it before every read.
            let Some(mut buffer) = door.intake.take(total) else { return Served::Gone("internal") };
            let fits = buffer.extend(tail);
            debug_assert!(fits);
            connection.held = Held::Frame { buffer, total };
        }
    }
    source.rewind(at);
    note_partial(connection, door, have, total.unwrap_or(HEADER_BYTES));
    Served::Again
}

/// Not read for now, through no fault of the peer's: its timers stand, and it hears the last ACK every second.
fn hold(connection: &mut Connection, door: &Door) -> Served {
    wait(connection, door);
    Served::Hold
}

fn wait(connection: &mut Connection, door: &Door) -> Served {
    if let Some(session) = connection.session() {
        session.set_paused(true, door.now);
    }
    Served::Wait
}

fn note_partial(connection: &mut Connection, door: &Door, have: usize, total: usize) {
    if let Some(session) = connection.session() {
        session.partial(have, total, door.now);
    }
}

fn broken(session: &mut ServerSession, door: &mut Door, loopback: bool, error: FrameError, out: &mut Vec<u8>) -> Step {
    door.turn(loopback, |turn| session.broken(error, turn.random, out))
}

fn closed(step: Step) -> Served {
    match step {
        Step::Close(code) => Served::Close(code.name()),
        _ => Served::Gone("internal"),
    }
}

fn after_read(connection: &Connection, end: ReadEnd) -> Served {
    match end {
        ReadEnd::Bytes(_) => Served::Again,
        ReadEnd::Empty if connection.readable => Served::Again,
        ReadEnd::Empty => Served::Idle,
        ReadEnd::End => Served::End,
        ReadEnd::Broken => Served::Gone("broken"),
    }
}

// ---- HTTP ----

fn serve_http(connection: &mut Connection, door: &mut Door, scratch: &mut Scratch, out: &mut Vec<u8>) -> Served {
    if let Protocol::Http(machine) = &mut connection.protocol {
        machine.set_paused(false, door.now);
    }
    // What is left of an earlier read comes first.
    if !connection.small.is_empty() {
        let small = std::mem::take(&mut connection.small);
        let used = offer(connection, door, &small, out);
        connection.small = small;
        connection.small.drain(..used);
    }
    for _ in 0..HTTP_STEPS_PER_TURN {
        let choked = connection.is_choked();
        let Protocol::Http(machine) = &mut connection.protocol else { return Served::Gone("internal") };
        if machine.closing() {
            return Served::Close("http");
        }
        if machine.lacks_room().is_some() {
            return Served::NeedsRoom;
        }
        if machine.waiting_for().is_some() || choked || out.len() >= OUTBOX_BYTES_MAX {
            machine.set_paused(true, door.now);
            return Served::Hold;
        }
        if !connection.readable {
            return if connection.end_of_stream { Served::End } else { Served::Idle };
        }
        let has_body = machine.body_room().is_some();
        let end = if has_body { read_body(connection, door, out) } else { read_head(connection, door, scratch, out) };
        match end {
            ReadEnd::Broken => return Served::Gone("broken"),
            ReadEnd::Bytes(_) | ReadEnd::End | ReadEnd::Empty => {}
        }
    }
    Served::Again
}

fn read_body(connection: &mut Connection, door: &mut Door, out: &mut Vec<u8>) -> ReadEnd {
    let Protocol::Http(mut machine) = std::mem::replace(&mut connection.protocol, Protocol::Undecided) else {
        return ReadEnd::Broken;
    };
    let end = match machine.body_room() {
        Some(room) => {
            let limit = room.len().min(READ_BYTES_PER_TURN);
            connection.read(room.get_mut(..limit).unwrap_or_default(), door.now)
        }
        None => ReadEnd::Empty,
    };
    if let ReadEnd::Bytes(bytes) = end {
        let now = door.now;
        machine.body_filled(
            bytes,
            now,
            &mut door.http(&connection.origin, connection.loopback, connection.overloaded),
            out,
        );
    }
    connection.protocol = Protocol::Http(machine);
    end
}

fn read_head(connection: &mut Connection, door: &mut Door, scratch: &mut Scratch, out: &mut Vec<u8>) -> ReadEnd {
    // Beyond a head only what belongs to the body: what is left over would stay with the connection.
    let limit = match &connection.protocol {
        Protocol::Http(machine) => machine.beginning_room().unwrap_or(HEAD_READ_BYTES),
        _ => HEAD_READ_BYTES,
    };
    let room = scratch.read.get_mut(..limit.max(1)).unwrap_or_default();
    let end = connection.read(room, door.now);
    let ReadEnd::Bytes(bytes) = end else { return end };
    let read = scratch.read.get(..bytes).unwrap_or_default();
    if connection.small.is_empty() {
        let used = offer(connection, door, read, out);
        connection.small.extend_from_slice(read.get(used..).unwrap_or_default());
    } else {
        let mut small = std::mem::take(&mut connection.small);
        small.extend_from_slice(read);
        let used = offer(connection, door, &small, out);
        small.drain(..used);
        connection.small = small;
    }
    end
}

fn offer(connection: &mut Connection, door: &mut Door, bytes: &[u8], out: &mut Vec<u8>) -> usize {
    let Protocol::Http(machine) = &mut connection.protocol else { return bytes.len() };
    let now = door.now;
    let mut door = door.http(&connection.origin, connection.loopback, connection.overloaded);
    let used = machine.receive(bytes, now, &mut door, out).min(bytes.len());
    // A whole head was read: no longer a stranger.
    connection.unauthenticated &= used == 0;
    used
}

// ---- closing ----

/// Reads what the peer still sends and throws it away, so that no unread byte turns the close into a reset.
fn discard(connection: &mut Connection, door: &Door, scratch: &mut Scratch) -> Served {
    let mut left = DISCARD_BYTES_PER_TURN;
    while left > 0 {
        if matches!(&connection.protocol, Protocol::Lingering(linger) if linger.is_over(door.now)) {
            return Served::Gone("closed");
        }
        match connection.read(&mut scratch.read, door.now) {
            ReadEnd::Bytes(bytes) => {
                left = left.saturating_sub(bytes);
                if let Protocol::Lingering(linger) = &mut connection.protocol {
                    linger.discarded(bytes, door.now);
                }
            }
            // At the end what is written may still be read by the peer, so the outbox is not thrown away.
            ReadEnd::Empty | ReadEnd::End => return Served::Idle,
            ReadEnd::Broken => return Served::Gone("broken"),
        }
    }
    Served::Again
}
