//! Log lines about requests that were refused: by peer and status, and so many a second in all.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::log_limit::LogLimit;
use crate::http::Refused;
use crate::limits::{LOG_WARNING_INTERVAL, REFUSAL_LOG_PEERS_MAX, REFUSAL_LOG_TEXT_BYTES_MAX};
use crate::text::cut;
use crate::tls;

/// One peer that is wrong a thousand times a second must not hide another one's first mistake: each peer has one line
/// per status and interval.
#[derive(Debug, Default)]
pub struct RefusalLog {
    lines: Mutex<HashMap<(Box<str>, u16), Line>>,
    limit: LogLimit,
}

#[derive(Debug)]
struct Line {
    logged: Instant,
    /// Refusals since then that have no line.
    unlogged: u64,
}

impl RefusalLog {
    /// Logs a refused request of `peer` (an IP address), or counts it for the peer's next line.
    /// `client`: its name, where the request had the token of one.
    pub fn log(&self, peer: &str, client: Option<&str>, refused: &Refused<'_>, now: Instant) {
        let Some(unlogged) = self.allows(peer, refused.status, now) else { return };
        let status = refused.status;
        let [method, path, reason] =
            [refused.method, refused.path, refused.reason].map(|text| cut(text, REFUSAL_LOG_TEXT_BYTES_MAX));
        match status {
            // The server's own trouble, not the peer's mistake.
            500 | 503 | 504 => tracing::warn!(peer, client, status, method, path, reason, unlogged, "request failed"),
            _ => tracing::info!(peer, client, status, method, path, reason, unlogged, "request refused"),
        }
    }

    /// Logs a TLS connection of `peer` that failed, mostly in its handshake.
    pub fn log_tls_failed(&self, peer: &str, error: &rustls::Error, now: Instant) {
        // No HTTP status is 1.
        if let Some(unlogged) = self.allows(peer, 1, now) {
            let text = error.to_string();
            let (reason, hint) =
                (cut(&text, REFUSAL_LOG_TEXT_BYTES_MAX), Some(tls::explain(error)).filter(|hint| !hint.is_empty()));
            tracing::info!(peer, reason, hint, unlogged, "TLS connection failed");
        }
    }

    /// Logs a TLS handshake of `peer`, which is not offered.
    pub fn log_tls(&self, peer: &str, now: Instant) {
        // No HTTP status is 0.
        if let Some(unlogged) = self.allows(peer, 0, now) {
            tracing::info!(
                peer,
                unlogged,
                "TLS handshake refused: this port has no TLS, connect without it, or set tls.cert_file"
            );
        }
    }

    /// Whether there may be a line now, and how many refusals of its kind had none since the last one.
    fn allows(&self, peer: &str, status: u16, now: Instant) -> Option<u64> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = lines.get_mut(&(Box::from(peer), status))
            && now < line.logged + LOG_WARNING_INTERVAL
        {
            line.unlogged += 1;
            return None;
        }
        let allowed = self.limit.allows(now);
        if lines.len() >= REFUSAL_LOG_PEERS_MAX {
            lines.retain(|_, line| now < line.logged + LOG_WARNING_INTERVAL);
        }
        if !allowed {
            return None;
        }
        // Without room only the limit on all lines holds.
        if lines.len() >= REFUSAL_LOG_PEERS_MAX {
            return Some(0);
        }
        let line = Line { logged: now, unlogged: 0 };
        Some(lines.insert((Box::from(peer), status), line).map_or(0, |old| old.unlogged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::LOG_LINES_PER_SECOND;

    #[test]
    fn each_peer_has_one_line_per_status_and_interval() {
        let (log, now) = (RefusalLog::default(), Instant::now());
        assert_eq!(log.allows("10.0.0.1", 401, now), Some(0));
        for _ in 0..100_000 {
            assert_eq!(log.allows("10.0.0.1", 401, now), None);
        }
        assert_eq!(log.allows("10.0.0.1", 404, now), Some(0));
        assert_eq!(log.allows("10.0.0.2", 401, now), Some(0));
        assert_eq!(log.allows("10.0.0.1", 401, now + LOG_WARNING_INTERVAL), Some(100_000));
    }

    #[test]
    fn many_peers_are_limited_in_lines_and_memory() {
        let (log, mut now) = (RefusalLog::default(), Instant::now());
        let mut lines = 0;
        for peer in 0..100_000 {
            // 100 s in all.
            now += std::time::Duration::from_millis(1);
            lines += u32::from(log.allows(&format!("fe80::{peer:x}"), 400, now).is_some());
            assert!(log.lines.lock().unwrap().len() <= REFUSAL_LOG_PEERS_MAX);
        }
        assert!(lines <= 101 * LOG_LINES_PER_SECOND, "{lines}");
    }
}
