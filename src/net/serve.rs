//! One connection's share of a turn, by its phase.

use std::time::Instant;

use crate::event::syslog::SyslogDecoder;
use crate::ids::ConnectionId;
use crate::limits::{
    DISCARD_BYTES_PER_TURN, HELLO_FRAME_BYTES, HTTP_BODY_BEGINNING_BYTES, HTTP_TORN_HEADS_BYTES_MAX, KEPT_BYTES_PAUSE,
    TLS_AGENTS_BYTES_MAX, TLS_WIRE_BYTES,
};
use crate::net::connection::{Connection, Peer, Phase};
use crate::net::delayed::Delay;
use crate::net::ingress::Ingress;
use crate::net::protocols::{self, Context};
use crate::net::socket::{KeptBytes, ReadEnd, Socket};
use crate::tls::Machine;

/// First byte of a TLS record that begins a handshake.
const TLS_HANDSHAKE: u8 = 0x16;
/// A TLS record of version 1.2 with an alert: fatal, handshake_failure (RFC 8446, section 6), where TLS is not offered. Clients report
/// it by name, where a closed connection would look like a fault of the network.
const TLS_ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 40];
/// Bytes of one read of a head: most requests are smaller, and what is left over stays with the connection.
pub(super) const HEAD_READ_BYTES: usize = 16 * 1024;

/// What to do with the connection next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Served {
    /// Its socket is empty: wait for the poll.
    Idle,
    /// There may be more: serve it again in the next turn.
    Again,
    /// Not without ring or memory: into the line of those that wait.
    Wait,
    /// A body has no room: see `Protocol::lacks_room`.
    NeedsRoom,
    /// Not before a watermark or the peer's reading moves on.
    Hold,
    /// Not before what it has sent is paid for.
    Delayed(Delay),
    /// Not before this time: connections keep as much as they may.
    Later(Instant),
    /// The peer has ended its half: close once everything is acknowledged.
    End,
    /// The last answer is in `out`.
    Close(&'static str),
    /// The socket is broken: nothing can be sent.
    Gone(&'static str),
}

/// What serving shares besides ingress.
pub(super) struct Scratch {
    /// Reads that must not need the pool.
    pub read: Box<[u8]>,
    /// Ciphertext that is being received and decrypted.
    pub wire: Box<[u8]>,
    /// Older connections of agents that came in again (R5).
    pub replaced: Vec<ConnectionId>,
    /// Encodes messages of syslog.
    pub syslog: SyslogDecoder,
    /// Sums over the connections of the loop.
    pub kept: KeptBytes,
}

impl Scratch {
    /// Allocates the read buffer.
    pub(super) fn new() -> Self {
        Self {
            read: vec![0; HTTP_BODY_BEGINNING_BYTES.max(HEAD_READ_BYTES)].into_boxed_slice(),
            wire: vec![0; TLS_WIRE_BYTES].into_boxed_slice(),
            replaced: Vec::new(),
            syslog: SyslogDecoder::new(),
            kept: KeptBytes::default(),
        }
    }
}

/// Reads once and parses what is there. Answers are appended to `out`.
pub(super) fn serve(
    connection: &mut Connection,
    ingress: &mut Ingress,
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) -> Served {
    let Connection { phase, socket, peer, span, .. } = connection;
    let _entered = span.enter();
    let kept_before = socket.counted_kept();
    socket.set_whole_records_only(waits_for_budget(phase) && keeps_much(peer, scratch.kept, ingress));
    let mut cx = Context { socket, peer, ingress, scratch, out };
    let served = match phase {
        Phase::Undecided => decide(phase, &mut cx),
        Phase::Open(protocol) => protocol.serve(&mut cx),
        Phase::Closing | Phase::Lingering(_) => discard(phase, &mut cx),
    };
    let is_agent = peer.origin.agent_id.is_some();
    socket.count_kept(is_agent, &mut scratch.kept);
    // What was received before the error may still have to wait for room.
    if !matches!(served, Served::Wait | Served::Again)
        && let Some(error) = socket.take_tls_error()
    {
        ingress.shared.log_lines.refusals.log_tls_failed(&peer.origin.default_source, &error, ingress.now);
        // The alert is in the outbox: the peer may read it while what it still sends is discarded.
        return Served::Close("tls_failed");
    }
    let has_grown = socket.counted_kept().unparsed > kept_before.unparsed;
    if has_grown && !waits_for_budget(phase) && is_over_budget(peer, scratch.kept, ingress) {
        return Served::Gone("heads_over_budget");
    }
    served
}

/// Whether a connection is not read where connections keep too much; others are closed if they add to it.
fn waits_for_budget(phase: &Phase) -> bool {
    matches!(phase, Phase::Open(protocol) if protocol.waits_for_budget())
}

/// What connections of this kind keep outside the pool, in this loop, and what they may. Of an accepted agent, what is not parsed is at
/// most a part of a header: what TLS keeps counts.
fn budget(peer: &Peer, kept: KeptBytes, ingress: &Ingress) -> (usize, usize) {
    match peer.origin.agent_id.is_some() {
        true => (kept.of_agents, ingress.shared.part_of(TLS_AGENTS_BYTES_MAX)),
        false => (kept.unparsed, ingress.shared.part_of(HTTP_TORN_HEADS_BYTES_MAX)),
    }
}

/// Whether connections of this kind keep half of what they may: from then on they do not begin to keep parts of records.
pub(super) fn keeps_much(peer: &Peer, kept: KeptBytes, ingress: &Ingress) -> bool {
    let (kept, max) = budget(peer, kept, ingress);
    kept > max / 2
}

fn is_over_budget(peer: &Peer, kept: KeptBytes, ingress: &Ingress) -> bool {
    let (kept, max) = budget(peer, kept, ingress);
    kept > max
}

/// `Some`: connections of this kind keep too much, and this one is not to be read for now. What TLS keeps of it is taken in any case,
/// with the rest of its record: that is how it becomes less.
pub(super) fn wait_for_budget(cx: &Context<'_>) -> Option<Served> {
    let keeps = |machine: &Machine| machine.has_plain() || machine.holds_part_of_record();
    let waits = !cx.socket.tls().is_some_and(keeps) && is_over_budget(cx.peer, cx.scratch.kept, cx.ingress);
    waits.then(|| Served::Later(cx.ingress.now + KEPT_BYTES_PAUSE))
}

/// The first read: its first byte decides the protocol, and whether that is within TLS.
fn decide(phase: &mut Phase, cx: &mut Context<'_>) -> Served {
    let Scratch { read, wire, .. } = &mut *cx.scratch;
    let room = &mut read[..HELLO_FRAME_BYTES];
    let bytes = match cx.socket.read(room, wire, cx.ingress.now) {
        ReadEnd::Bytes(bytes) => bytes,
        // So that a peer that only checks whether TLS answers gets the end of it, too.
        ReadEnd::End if cx.socket.tls().is_some() => return Served::Close("silent"),
        ReadEnd::End => return Served::Gone("silent"),
        end => return after_read(cx.socket, end),
    };
    let (first, shared, policy) = (room[0], &cx.ingress.shared, &cx.ingress.policy);
    if let Some(machine) = cx.socket.tls() {
        // There is no plaintext before the handshake is complete.
        cx.peer.access = policy.encryption.access_with_tls(machine, &policy.tokens);
    } else if first == TLS_HANDSHAKE {
        if let Some(acceptor) = &policy.encryption.acceptor {
            let end = cx.socket.start_tls(acceptor.config(), &room[..bytes], wire, cx.ingress.now);
            return after_read(cx.socket, end);
        }
        shared.log_lines.refusals.log_tls(&cx.peer.origin.default_source, cx.ingress.now);
        cx.out.extend_from_slice(&TLS_ALERT);
        return Served::Close("tls");
    }
    cx.socket.unparsed.extend_from_slice(&room[..bytes]);
    *phase = Phase::Open(protocols::open(first, cx.peer, cx.ingress));
    // In its turn among the others of its kind.
    Served::Again
}

/// Reads what the peer still sends and throws it away, so that no unread byte turns the close into a reset.
fn discard(phase: &mut Phase, cx: &mut Context<'_>) -> Served {
    let mut left = DISCARD_BYTES_PER_TURN;
    while left > 0 {
        if matches!(phase, Phase::Lingering(linger) if linger.is_over(cx.ingress.now)) {
            return Served::Gone("closed");
        }
        match cx.socket.discard(&mut cx.scratch.read, cx.ingress.now) {
            ReadEnd::Bytes(bytes) => {
                left = left.saturating_sub(bytes);
                if let Phase::Lingering(linger) = phase {
                    linger.discarded(bytes, cx.ingress.now);
                }
            }
            // At the end what is written may still be read by the peer, so the outbox is not thrown away.
            ReadEnd::Empty | ReadEnd::End => return Served::Idle,
            ReadEnd::Broken => return Served::Gone("broken"),
        }
    }
    Served::Again
}

/// What comes after a read whose bytes are parsed.
pub(super) fn after_read(socket: &Socket, end: ReadEnd) -> Served {
    match end {
        ReadEnd::Bytes(_) => Served::Again,
        ReadEnd::Empty if socket.is_readable() => Served::Again,
        ReadEnd::Empty => Served::Idle,
        ReadEnd::End => Served::End,
        ReadEnd::Broken => Served::Gone("broken"),
    }
}
