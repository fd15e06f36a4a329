//! One connection and the phases of its life.
//!
//! ```text
//!              first byte            GOAWAY, error, end         sent              end, pause, 30 s
//!  Undecided ─────────────▶ Open(…) ─────────────────▶ Closing ─────▶ Lingering ──────────────────▶ gone
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tracing::Span;

use crate::batch::Origin;
use crate::ids::{ClientId, ConnectionId};
use crate::limits::{HELLO_TIMEOUT, SILENT_AFTER};
use crate::net::ingress::Ingress;
use crate::net::linger::Linger;
use crate::net::protocols::{Priority, Protocol};
use crate::net::socket::Socket;
use crate::net::transport::Transport;
use crate::session::tokens::Access;

/// Where a connection stands.
pub(super) enum Phase {
    /// Its protocol is not known: nothing was read yet, or a part of a TLS handshake.
    Undecided,
    /// Its first byte has decided its protocol.
    Open(Box<dyn Protocol>),
    /// The last answer is being sent.
    Closing,
    /// It is sent and our half is closed: the peer may read it while what it still sends is discarded (R15).
    Lingering(Linger),
}

/// Who is at the other end.
pub(super) struct Peer {
    /// Number of the connection.
    pub connection: ConnectionId,
    /// The peer's address; one of IPv4 as such.
    pub address: SocketAddr,
    /// How it is connected, as far as it decides about its admission.
    pub access: Access,
    /// Over `max_connections`: refused in its own protocol, and closed.
    pub overloaded: bool,
    /// When the connection was accepted.
    pub opened: Instant,
    /// It has shown a valid HELLO or a whole HTTP head; others count towards a cap of their own (R12).
    pub is_known: bool,
    /// What its events are marked with.
    pub origin: Arc<Origin>,
    /// Whose token it has shown: in its HELLO, or with the request that is being received.
    pub client: Option<ClientId>,
}

/// A connection of an event loop.
pub(super) struct Connection {
    /// Its number; not used again.
    pub id: ConnectionId,
    /// Its socket, with what is not parsed and not sent yet.
    pub socket: Socket,
    /// Who is at the other end.
    pub peer: Peer,
    /// Where the connection is in its life.
    pub phase: Phase,
    /// Around what is logged of it; disabled where the log filter leaves it out.
    pub span: Span,
    /// Is in one of the lists of those to be served.
    pub queued: bool,
    /// Is in the line of those that wait for memory or ring.
    pub waiting: bool,
    /// Is not read for now because of a limit; see [`Delayed`](crate::net::delayed::Delayed).
    pub is_delayed: bool,
    /// Is in the list of those that wait for a watermark.
    pub awaiting: bool,
    /// The poll reported that both directions are closed.
    pub is_reset: bool,
    /// The earliest timer entry of this connection.
    pub scheduled: Option<Instant>,
    /// Why it was closed, for the counter: the first reason stands.
    pub close_reason: Option<&'static str>,
}

impl Connection {
    /// An accepted connection, of which nothing was read yet.
    pub(super) fn new(
        id: ConnectionId,
        transport: Transport,
        (address, access): (SocketAddr, Access),
        overloaded: bool,
        now: Instant,
    ) -> Self {
        let ip = address.ip().to_canonical();
        // Where one socket accepts IPv4 and IPv6, an address of IPv4 comes as one of IPv6.
        let address = SocketAddr::new(ip, address.port());
        let origin = Origin { agent_id: None, agent: None, default_source: ip.to_string(), epoch: 0 };
        let peer = Peer {
            connection: id,
            address,
            access,
            overloaded,
            opened: now,
            is_known: false,
            origin: Arc::new(origin),
            client: None,
        };
        Self {
            id,
            socket: Socket::new(transport, now),
            peer,
            phase: Phase::Undecided,
            span: Span::none(),
            queued: false,
            waiting: false,
            is_delayed: false,
            awaiting: false,
            is_reset: false,
            scheduled: None,
            close_reason: None,
        }
    }

    /// The protocol of an open connection.
    pub(super) fn protocol(&self) -> Option<&dyn Protocol> {
        match &self.phase {
            Phase::Open(protocol) => Some(protocol.as_ref()),
            _ => None,
        }
    }

    /// Its protocol is not known yet.
    pub(super) fn is_undecided(&self) -> bool {
        matches!(self.phase, Phase::Undecided)
    }

    /// The mark that its HELLO waits for has been given back: the HELLO is shown again.
    pub(super) fn mark_is_free(&mut self) {
        if let Phase::Open(protocol) = &mut self.phase {
            protocol.mark_is_free();
        }
    }

    /// Begins to close: the last answer is in the outbox or sent. Later calls change nothing. Returns the reason that
    /// stands.
    pub(super) fn close(&mut self, reason: &'static str, ingress: &mut Ingress) -> &'static str {
        let reason = *self.close_reason.get_or_insert(reason);
        if let Phase::Open(protocol) = &mut self.phase {
            let _entered = self.span.enter();
            protocol.closed(reason, &self.peer, ingress);
        }
        if !self.is_closing() {
            self.phase = Phase::Closing;
            self.socket.unparsed = Vec::new();
        }
        reason
    }

    /// Goes on closing once everything is sent. `true`: the connection can be dropped.
    pub(super) fn finish_closing(&mut self, now: Instant) -> bool {
        match self.phase {
            Phase::Closing if self.socket.is_flushed() => match self.socket.end_sending(now) {
                Err(_) => true,
                Ok(true) if self.socket.is_at_end() => true,
                Ok(true) => {
                    self.phase = Phase::Lingering(Linger::new(now));
                    false
                }
                Ok(false) => false,
            },
            // Its time is looked at after a read that found nothing, see `deadline`.
            Phase::Lingering(_) => self.socket.is_at_end(),
            _ => false,
        }
    }

    /// The last answer is in the outbox or sent.
    pub(super) fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing | Phase::Lingering(_))
    }

    /// The answer is sent, our half is closed, and the peer may still be sending.
    pub(super) fn is_lingering(&self) -> bool {
        matches!(self.phase, Phase::Lingering(_))
    }

    /// Bytes of frames that came with the HELLO, or of a partial header: they need slots of the ring once they are parsed.
    pub(super) fn kept_frame_bytes(&self) -> usize {
        let is_agent = self.protocol().is_some_and(|protocol| protocol.priority() == Priority::Agents);
        if is_agent { self.socket.unparsed.len() } else { 0 }
    }

    /// Neither known nor received from for a while, and nothing of it waits to be read (R12).
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        !self.peer.is_known && !self.queued && !self.waiting && now >= self.socket.heard() + SILENT_AFTER
    }

    /// When something must happen here although the peer does nothing.
    pub(super) fn deadline(&self, pressure: bool) -> Option<Instant> {
        let own = match &self.phase {
            Phase::Undecided => Some(self.peer.opened + HELLO_TIMEOUT),
            Phase::Open(protocol) => protocol.deadline(pressure),
            Phase::Closing => None,
            Phase::Lingering(linger) => Some(linger.deadline()),
        };
        [self.socket.write_deadline(), own].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::LoopId;

    /// Where one socket accepts both, an address of IPv4 comes as `::ffff:192.0.2.1`.
    #[test]
    fn an_address_of_ipv4_is_shown_as_such_also_where_ipv6_is_accepted() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let transport = Transport::plain(mio::net::TcpStream::from_std(stream));
        let (id, mapped) = (ConnectionId::new(LoopId(0), 1, 0), "[::ffff:192.0.2.1]:5".parse().unwrap());
        let connection = Connection::new(id, transport, (mapped, Access::default()), false, Instant::now());
        assert_eq!(connection.peer.address, "192.0.2.1:5".parse().unwrap());
        assert_eq!(connection.peer.origin.default_source, "192.0.2.1");
    }
}
