//! A session whose server has other tokens and clients than at its HELLO.

use super::{ServerSession, State};
use crate::session::tokens::{Admitted, PeerGate};

impl ServerSession {
    /// Whether the agent, whose HELLO was accepted, would be let in now, and as which client. A HELLO that waits is not asked about:
    /// it is shown to the new gate.
    ///
    /// # Errors
    /// Why not, for GOAWAY(AUTH).
    pub fn readmit(&mut self, gate: &PeerGate<'_>) -> Result<(), &'static str> {
        if !self.is_authenticated() || matches!(self.state, State::Left | State::Closed) {
            return Ok(());
        }
        let client = gate.readmit(self.admitted)?;
        if client != self.admitted.client {
            self.admitted = Admitted { client, ..self.admitted };
            // The agent goes with its token.
            if let Some(mark) = &mut self.mark {
                mark.client = client;
            }
        }
        Ok(())
    }
}
