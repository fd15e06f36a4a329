//! New connections: how many of which kind, and what happens without descriptors.

use std::io;
use std::net::SocketAddr;

use mio::Token;
use mio::net::TcpStream;

use super::EventLoop;
use super::closing::is_unknown;
use crate::descriptors;
use crate::net::connection::Connection;
use crate::net::listener::Accepted;
use crate::net::loops::Message;
use crate::net::transport::Transport;

impl EventLoop {
    /// Accepts what waits, up to the limit of a turn.
    pub(super) fn accept(&mut self) {
        let now = self.ingress.now;
        while let Some(listener) = &mut self.listener {
            match listener.accept(now) {
                Accepted::Nothing => return,
                Accepted::Paused(error) => return self.accept_paused(&error),
                Accepted::Connection(stream, peer) => self.admit(stream, peer),
            }
        }
    }

    /// Out of descriptors or kernel memory: one line at once, then one per 10 s, however often the pause is renewed.
    fn accept_paused(&mut self, error: &io::Error) {
        let (now, connections) = (self.ingress.now, self.ingress.shared.loops.connections());
        self.ingress.shared.metrics.accept_pauses.inc();
        let lacks_descriptors = descriptors::are_exhausted_by(error);
        if lacks_descriptors {
            self.ingress.state().descriptors_exhausted.set(Some(now));
        }
        let Some(pauses) = self.ingress.shared.log_lines.accept_pauses.allows(1, now) else { return };
        if lacks_descriptors {
            tracing::warn!(
                %error,
                connections,
                pauses,
                "paused accepting: out of file descriptors; raise the limit of open files (LimitNOFILE=, ulimit -Hn), or \
                 lower server.max_connections"
            );
        } else {
            tracing::warn!(%error, connections, pauses, "paused accepting: out of kernel memory");
        }
    }

    /// Gives a connection to the loop with the fewest.
    fn admit(&mut self, stream: TcpStream, peer: SocketAddr) {
        let shared = self.ingress.shared.clone();
        let limits = shared.limits;
        // Those that linger take no place from a newcomer.
        let overloaded = shared.loops.serving() >= limits.max_connections;
        if overloaded {
            shared.metrics.connections_refused.inc();
        }
        let most = limits.max_connections + descriptors::overloaded_beside(limits.max_connections) + limits.lingering;
        if shared.loops.connections() >= most && !self.cut_oldest_lingering() {
            // Of another loop that takes a moment: the next ones find room.
            shared.loops.tell_others(self.ingress.event_loop, || Message::MakeRoom);
            if let Some(connections) = shared.log_lines.overflow.allows(1, self.ingress.now) {
                let max_connections = limits.max_connections;
                tracing::warn!(connections, %peer, max_connections, "too many connections: new ones are closed without an answer; raise server.max_connections");
            }
            return;
        }
        match shared.loops.choose() {
            own if own == self.ingress.event_loop => self.open(stream, peer, overloaded),
            other => shared.loops.send(other, Message::Connection { stream, peer, overloaded }),
        }
    }

    /// Begins to serve a connection that is counted here.
    pub(super) fn open(&mut self, stream: TcpStream, peer: SocketAddr, overloaded: bool) {
        // Answers are written whole, once a turn: waiting for more to send only delays them.
        let _ = stream.set_nodelay(true);
        let mut transport = Transport::plain(stream);
        let token = Token(self.connections.next_key());
        if let Err(error) = transport.register(self.poll.registry(), token) {
            if self.ingress.shared.log_lines.connections.allows(self.ingress.now) {
                tracing::warn!(%error, %peer, "a connection could not be registered and is closed");
            }
            self.ingress.shared.loops.left(self.ingress.event_loop);
            return;
        }
        let now = self.ingress.now;
        let access = self.ingress.policy.encryption.access_without_tls(peer.ip().to_canonical());
        let id = self.connections.insert(|id| Connection::new(id, transport, (peer, access), overloaded, now));
        self.ingress.shared.metrics.connections.inc();
        if let Some(connection) = self.connections.get_mut(id) {
            connection.renew_span(&self.ingress.policy);
            connection.log_begin();
        }
        let connections = &self.connections;
        self.unknown.enter(id, |id| is_unknown(connections, id));
        self.ingress.shared.loops.enters_unknown();
        self.enqueue(id);
        self.schedule(id);
        if self.draining() {
            self.drain_one(id);
        }
    }
}
