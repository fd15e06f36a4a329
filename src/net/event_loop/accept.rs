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
use crate::net::transport::Transport;

impl EventLoop {
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
        let (now, connections) = (self.ingress.now, self.connections.len());
        self.ingress.metrics.accept_pauses.inc();
        let lacks_descriptors = descriptors::are_exhausted_by(error);
        if lacks_descriptors {
            self.ingress.descriptors_exhausted = Some(now);
        }
        let Some(pauses) = self.accept_warnings.allows(1, now) else { return };
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

    fn admit(&mut self, stream: TcpStream, peer: SocketAddr) {
        // Those that linger take no place from a newcomer.
        let overloaded = self.connections.len() - self.lingering.len() >= self.limits.max_connections;
        if overloaded {
            self.ingress.metrics.connections_refused.inc();
        }
        let overloaded_max = descriptors::overloaded_beside(self.limits.max_connections);
        let most = self.limits.max_connections + overloaded_max + self.limits.lingering;
        if self.connections.len() >= most && !self.cut_oldest_lingering() {
            if let Some(connections) = self.overflow_log.allows(1, self.ingress.now) {
                let max_connections = self.limits.max_connections;
                tracing::warn!(connections, %peer, max_connections, "too many connections, closed new ones without an answer");
            }
            return;
        }
        // Answers are written whole, once a turn: waiting for more to send only delays them.
        let _ = stream.set_nodelay(true);
        let mut transport = Transport::Plain(stream);
        let token = Token(self.connections.next_key());
        if let Err(error) = transport.register(self.poll.registry(), token) {
            if self.scratch.log.allows(self.ingress.now) {
                tracing::warn!(%error, %peer, "a connection could not be registered and is closed");
            }
            return;
        }
        let now = self.ingress.now;
        let id = self.connections.insert(|id| Connection::new(id, transport, peer, overloaded, now));
        self.ingress.metrics.connections.inc();
        tracing::debug!(connection = id.get(), %peer, "connected");
        let connections = &self.connections;
        self.unknown.enter(id, |id| is_unknown(connections, id));
        self.enqueue(id);
        self.schedule(id);
    }
}
