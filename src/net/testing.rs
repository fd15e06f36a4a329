//! One event loop's ingress for tests, with nothing behind it.

use std::sync::{Arc, Mutex};

use crate::batch::pool::Pool;
use crate::http;
use crate::ids::LoopId;
use crate::limits::{DEDUPE_RETENTION, HEADER_BYTES};
use crate::metrics::Metrics;
use crate::net::loops::{Loops, Mailbox};
use crate::net::shared::{LogLines, LoopState, Shared};
use crate::net::{ConnectionLimits, Ingress, Intake};
use crate::pipeline::ring::SlotSender;
use crate::random::Random;
use crate::session::marks::Marks;
use crate::session::server::SessionSettings;
use crate::session::tokens::Tokens;

/// The ingress of the only loop of a server without sinks.
pub fn ingress(
    settings: SessionSettings,
    http: http::Settings,
    limits: ConnectionLimits,
    tokens: Tokens,
    (pool, ring): (Pool, SlotSender),
) -> Ingress {
    let frame_bytes = HEADER_BYTES + http.max_frame_bytes;
    let shared = Shared {
        settings,
        http,
        limits,
        tokens,
        marks: Mutex::new(Marks::new(10, DEDUPE_RETENTION)),
        metrics: Metrics::new().unwrap(),
        watermarks: vec![Arc::default()],
        health: Arc::default(),
        loops: Loops::new(vec![Mailbox::new(|| {})]),
        states: vec![LoopState::new(pool.gauge(), ring.gauge())],
        log_lines: LogLines::default(),
        sinks: Box::new(Vec::new),
        delivered_position: Box::new(|| 0),
    };
    let intake = Intake::new(pool, frame_bytes);
    Ingress::new(Arc::new(shared), LoopId(0), intake, ring, Random::seeded(1), 0)
}

pub const NO_LIMITS: ConnectionLimits =
    ConnectionLimits { lingering: 0, max_connections: 1_000, max_unauthenticated: 100 };
