//! What a session does about limits: it decides whether its agent is read, charges what was received, and informs the agent by
//! the window in its ACKs.
//!
//! ```text
//!  above a limit: not read, window 64 KiB ──▶ paid for: read again ──▶ everything read, still paid for: full window
//! ```
//!
//! The window stays small as long as the agent keeps what it has sent waiting: it is opened again once its socket is empty.
//! So an agent that always sends more than its rate sees the small window all the time, and another one the full window.

use std::time::Instant;

use super::{ServerSession, SessionSettings};
use crate::limits::{LIMITED_READ_BYTES, WINDOW_BYTES_DELAYED};
use crate::rate::{Amount, Due};
use crate::session::rates::{Rates, Sender, Wait};

/// The window of ACKs.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Window {
    /// The agent is above a limit, or was and has sent more than was read since.
    is_small: bool,
    /// The last ACK had the small window.
    is_small_for_agent: bool,
}

impl Window {
    /// Whether the agent does not know yet that the window is open again.
    pub(super) fn is_due(self) -> bool {
        self.is_small_for_agent && !self.is_small
    }

    /// The window for an ACK that is written now.
    pub(super) fn bytes_to_send(&mut self, settings: &SessionSettings) -> u32 {
        self.is_small_for_agent = self.is_small;
        if self.is_small { settings.window_bytes.min(WINDOW_BYTES_DELAYED) } else { settings.window_bytes }
    }
}

impl ServerSession {
    /// Most bytes that may be read of the agent at once; any number where that is the largest one.
    ///
    /// Not to be asked within a frame: one that has begun is read to its end, so that it holds no memory while it waits.
    ///
    /// # Errors
    /// The agent has to wait: pause the session. Its ACKs have a smaller window from now on.
    pub fn room(&mut self, rates: &Rates, now: Instant) -> Result<usize, Wait> {
        if let Some(wait) = rates.wait(Sender::Agent(self.due), self.admitted.client, now) {
            self.narrow_window();
            return Err(wait);
        }
        let bytes = usize::try_from(rates.room_bytes(self.due, self.admitted.client, now)).unwrap_or(usize::MAX);
        Ok(bytes.max(LIMITED_READ_BYTES))
    }

    /// Charges what was received from the agent.
    pub fn charge(&mut self, received: Amount, rates: &Rates, now: Instant) {
        self.due = rates.charge(Sender::Agent(self.due), self.admitted.client, received, now);
    }

    /// What is due by the agent.
    pub fn due(&self) -> Due {
        self.due
    }

    /// The limit on agents is another one: nothing is due by the new one yet.
    pub fn forget_due(&mut self) {
        self.due = Due::default();
    }

    /// The agent has left before with this due; see [`Rates::remembered`].
    pub fn add_due(&mut self, due: Due) {
        self.due = self.due.max(due);
    }

    /// The agent waits for a limit: its ACKs have a smaller window from now on.
    pub fn narrow_window(&mut self) {
        self.window.is_small = true;
    }

    /// Everything that the agent has sent was read: the next ACK opens the window, and there is one.
    pub fn open_window(&mut self) {
        self.window.is_small = false;
    }
}
