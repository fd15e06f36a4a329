//! The answer to a POST whose sender is above a limit: 429, before its body is read.

use std::time::Duration;

use super::response::Refusal;
use crate::metrics::LimitScope;

/// A limit that a request has to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limited {
    /// Whom it is for.
    pub scope: LimitScope,
    /// How long.
    pub wait: Duration,
}

impl Limited {
    /// 429 with the time in whole seconds, at least one.
    pub(super) fn refusal(self) -> Refusal {
        let whose = match self.scope {
            LimitScope::Server => {
                "the server receives more than its limit (limits.events_per_second, limits.bytes_per_second)"
            }
            LimitScope::Client => {
                "this token has sent more than the limit of its client (events_per_second, bytes_per_second)"
            }
            LimitScope::Agent | LimitScope::Address => {
                "this address has sent more than its limit (limits.agent_events_per_second, limits.agent_bytes_per_second)"
            }
        };
        let seconds = self.wait.as_millis().div_ceil(1000).max(1);
        let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
        let error = format!("{whose}: nothing of this request was accepted, send it again after {seconds} s");
        Refusal { retry_after: Some(seconds), ..Refusal::new(429, error) }
    }
}
