//! A reload has changed who may send, or how much.

use std::sync::Arc;

use super::EventLoop;
use crate::ids::ConnectionId;
use crate::net::policy::Policy;
use crate::net::protocols::Protocol;

impl EventLoop {
    /// Takes the new policy: connections that it does not allow are closed, those that wait for a limit are looked at again.
    pub(super) fn take_policy(&mut self, policy: Arc<Policy>) {
        let forgets_dues = policy.rates.generation() != self.ingress.policy.rates.generation();
        self.ingress.set_policy(policy);
        for id in self.connections.ids() {
            self.readmit(id, forgets_dues);
        }
    }

    fn readmit(&mut self, id: ConnectionId, forgets_dues: bool) {
        let Some(connection) = self.connections.get_mut(id).filter(|connection| !connection.is_closing()) else {
            return;
        };
        let Policy { encryption, tokens, .. } = &*self.ingress.policy;
        connection.peer.access = match connection.socket.tls() {
            Some(machine) => encryption.access_with_tls(machine, tokens),
            None => encryption.access_without_tls(connection.peer.address.ip().to_canonical()),
        };
        // The lines of those that wait have been emptied.
        let was_delayed = std::mem::take(&mut connection.is_delayed);
        let close = self.with_protocol(id, |protocol, cx| protocol.policy_changed(forgets_dues, cx)).flatten();
        if let Some(connection) = self.connections.get_mut(id) {
            // Another filter, other `log.agents`, or another name of the client.
            connection.renew_span(&self.ingress.policy);
        }
        if close.is_some() {
            self.settle(id, close);
            return;
        }
        // Also one whose window is to be opened again.
        let Some(connection) = self.connections.get(id) else { return };
        let has_answer = connection.protocol().is_some_and(Protocol::is_waiting) && !connection.awaiting;
        if was_delayed || has_answer {
            self.enqueue(id);
        }
    }
}
