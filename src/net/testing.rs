//! The ingress of event loops for tests, with nothing behind it.

use std::sync::{Arc, Mutex};

use crate::batch::pool::Pool;
use crate::http;
use crate::ids::LoopId;
use crate::limits::{DEDUPE_RETENTION, HEADER_BYTES};
use crate::metrics::Metrics;
use crate::net::loops::{Loops, Mailbox};
use crate::net::shared::{LogLines, LoopState, Shared};
use crate::net::{ConnectionLimits, Ingress, Intake, Newest, Policy, StatusSources};
use crate::pipeline::ring::SlotSender;
use crate::random::Random;
use crate::session::marks::Marks;
use crate::session::server::SessionSettings;
use crate::session::tokens::Tokens;

/// The ingress of the only loop of a server without sinks.
pub(super) fn ingress(
    settings: SessionSettings,
    http: http::Settings,
    limits: ConnectionLimits,
    tokens: Tokens,
    owned: (Pool, SlotSender),
) -> Ingress {
    let mut ingresses = ingresses(settings, http, limits, tokens, vec![(owned.0, owned.1, Mailbox::new(|| {}))]);
    ingresses.remove(0)
}

/// The ingresses of all loops of a server without sinks.
pub(super) fn ingresses(
    settings: SessionSettings,
    http: http::Settings,
    limits: ConnectionLimits,
    tokens: Tokens,
    owned: Vec<(Pool, SlotSender, Mailbox)>,
) -> Vec<Ingress> {
    let frame_bytes = HEADER_BYTES + http.max_frame_bytes;
    let (mut mailboxes, mut states, mut rest) = (Vec::new(), Vec::new(), Vec::new());
    for (pool, ring, mailbox) in owned {
        states.push(LoopState::new(pool.gauge(), ring.gauge()));
        mailboxes.push(mailbox);
        rest.push((pool, ring));
    }
    let shared = Arc::new(Shared {
        settings,
        http,
        syslog: None,
        limits,
        policy: Newest::new(Policy { tokens, ..Policy::default() }),
        marks: Mutex::new(Marks::new(10, DEDUPE_RETENTION)),
        metrics: Metrics::new().unwrap(),
        watermarks: rest.iter().map(|_| Arc::default()).collect(),
        health: Arc::default(),
        loops: Loops::new(mailboxes),
        states,
        log_lines: LogLines::default(),
        sinks: Box::new(Vec::new),
        status: StatusSources::default(),
        delivered_position: Box::new(|| 0),
        on_end: Box::new(|| {}),
        hangup_reloads: false,
        on_reload: Box::new(|| {}),
    });
    let ingress = |(index, (pool, ring))| {
        let intake = Intake::new(pool, frame_bytes);
        Ingress::new(shared.clone(), LoopId(index as u8), intake, ring, Random::seeded(1), 0)
    };
    rest.into_iter().enumerate().map(ingress).collect()
}

/// Limits that tests do not reach; no connection may linger.
pub(super) const NO_LIMITS: ConnectionLimits =
    ConnectionLimits { lingering: 0, max_connections: 1_000, max_unauthenticated: 100 };
