//! The span of a connection: which agent and peer a log line within it is about.
//!
//! ```text
//!  accepted ─▶ connection{id peer tls} ─ first byte ─▶ … protocol} ─ HELLO ─▶ … agent client} ─ reload ─▶ the same anew, or none
//! ```
//!
//! It has level debug; for the agents in `log.agents`, level info. Where the filter leaves it out it is disabled: each turn of the
//! connection checks that in one comparison, and nothing is formatted.

use std::time::Instant;

use super::connection::Connection;
use super::policy::Policy;
use super::protocols::Protocol;

impl Connection {
    /// Gives the connection the span of what is known of it now: when it is accepted, when its first byte or its HELLO is there,
    /// and after a reload.
    pub(super) fn renew_span(&mut self, policy: &Policy) {
        let (id, peer, tls) = (self.id.get(), self.peer.address, self.socket.tls().is_some());
        let protocol = self.protocol().map(Protocol::name);
        let agent = self.peer.origin.agent.as_deref();
        // The requests of one connection may be those of several clients.
        let client = agent.and(policy.tokens.name_of(self.peer.client));
        self.span = match policy.logs(agent) {
            true => tracing::info_span!(parent: None, "connection", id, %peer, tls, protocol, agent, client),
            false => tracing::debug_span!(parent: None, "connection", id, %peer, tls, protocol, agent, client),
        };
    }

    /// Logs that it was accepted.
    pub(super) fn log_begin(&self) {
        self.span.in_scope(|| tracing::debug!("connected"));
    }

    /// Logs that it is gone, where its span shows which one.
    pub(super) fn log_end(&self, reason: &'static str, policy: &Policy, now: Instant) {
        if self.span.is_disabled() {
            return;
        }
        let open_for = now.saturating_duration_since(self.peer.opened);
        let is_logged = policy.logs(self.peer.origin.agent.as_deref());
        self.span.in_scope(|| match is_logged {
            true => tracing::info!(reason, seconds = open_for.as_secs_f64(), "disconnected"),
            false => tracing::debug!(reason, seconds = open_for.as_secs_f64(), "disconnected"),
        });
    }
}
