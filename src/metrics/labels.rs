//! Closed sets of label values. A counter has each of them from the start, at 0: `increase()` and `rate()` of Prometheus do not see
//! the first counts of a series that did not exist before.

use prometheus::IntCounterVec;

/// Why `/ready` answers 503, but for `draining`, where `/metrics` cannot be asked for: `reason` of `telemetryx_not_ready`.
pub const NOT_READY: [&str; 4] = ["buffers_exhausted", "disk_full", "log_full", "descriptors_exhausted"];

/// How a sink is doing: `state` of `telemetryx_sink_state`.
pub const SINK_STATES: [&str; 6] = ["connecting", "ok", "behind", "stalled", "retrying", "down"];

/// Statuses of HTTP answers: `status` of `telemetryx_http_responses_total`.
pub const HTTP_STATUSES: [u16; 19] =
    [200, 400, 401, 403, 404, 405, 408, 413, 414, 415, 417, 421, 429, 431, 500, 501, 503, 504, 505];

/// `reason` of `telemetryx_connections_closed_total`.
pub(super) const CLOSED: [&str; 27] = [
    "end",
    "bye",
    "http",
    "SHUTDOWN",
    "OVERLOADED",
    "AUTH",
    "VERSION",
    "FENCED",
    "PROTOCOL",
    "SEQ_GAP",
    "IDLE",
    "FRAME_TIMEOUT",
    "ACK_LEVEL",
    "STORAGE",
    "replaced",
    "silent",
    "unauthenticated_cap",
    "tls",
    "tls_failed",
    "tls_timeout",
    "broken",
    "write_timeout",
    "http_timeout",
    "body_timeout",
    "heads_over_budget",
    "syslog_not_allowed",
    "syslog_cut",
];

/// `reason` of `telemetryx_connections_cut_total`.
pub(super) const CUT: [&str; 4] = ["limit", "timeout", "slow", "drain"];

/// `reason` of `telemetryx_syslog_dropped_total`.
pub(super) const SYSLOG_DROPPED: [&str; 4] = ["not_allowed", "kernel", "limited", "no_room"];

/// `reason` of `telemetryx_events_dropped_total` for a sink. `ingest` has only the last one.
pub(super) const DROPPED: [&str; 3] = ["log_full", "damaged", "dead_letters_full"];

/// The counters with a series at 0 for each value of their label.
pub(super) fn at_zero<V: AsRef<str>>(counters: IntCounterVec, values: impl IntoIterator<Item = V>) -> IntCounterVec {
    values.into_iter().for_each(|value| drop(counters.with_label_values(&[value.as_ref()])));
    counters
}
