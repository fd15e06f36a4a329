//! What all event loops share. Built once, before the first loop starts; no counter in it is touched per event or frame.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::batch::pool::PoolGauge;
use crate::http;
use crate::ids::{LoopId, Ticket};
use crate::metrics::Metrics;
use crate::net::busy::Busy;
use crate::net::event_loop::ConnectionLimits;
use crate::net::log_limit::{LogInterval, LogLimit};
use crate::net::loops::{Loops, Message};
use crate::net::policy::{Newest, Policy};
use crate::net::refusal_log::RefusalLog;
use crate::net::status::StatusSources;
use crate::pipeline::health::{LogHealth, Pause};
use crate::pipeline::ring::RingGauge;
use crate::pipeline::watermark::{Watermarks, has_reached};
use crate::session::marks::Marks;
use crate::session::server::{SessionSettings, lock};
use crate::settings::{Networks, format_duration};
use crate::status::Use;
use crate::wire::AckLevel;

/// The line of waiting connections must have been there this long before `/ready` says so; a refused POST, and a lack of
/// file descriptors, are remembered as long.
const EXHAUSTED_TIME: Duration = Duration::from_secs(1);

/// A sink that gathers for so long is named for it.
const GATHERS_LONG: Duration = Duration::from_secs(1);
/// Sinks that one answer names.
const LATE_SINKS_SHOWN: usize = 3;

/// What `/ready` and `/metrics` show of a sink.
#[derive(Debug, Clone, PartialEq)]
pub struct SinkReport {
    /// The sink's name in the settings.
    pub name: String,
    /// One word, without details, since every peer may read it.
    pub state: &'static str,
    /// Whether it delivers.
    pub is_up: bool,
    /// How long its oldest event has waited.
    pub oldest: Duration,
    /// Whether acknowledgements of level *delivered* wait for it.
    pub is_required: bool,
    /// How long its deliveries are gathered.
    pub max_age: Duration,
}

impl SinkReport {
    /// Why its oldest event waits, for whoever waits for it too.
    fn why_it_waits(&self) -> String {
        let Self { name, state, .. } = self;
        match (self.is_up, self.max_age) {
            (false, _) => format!("sink {name} is {state}"),
            (true, max_age) if *state == "ok" && max_age >= GATHERS_LONG => {
                format!("sink {name} gathers for \"{}\"", format_duration(max_age))
            }
            (true, _) => format!("sink {name} has not stored them yet"),
        }
    }
}

/// What those wait for whose level is *delivered*: each required sink with an event that is at least so old, as `sink pg is retrying`,
/// and after these a `; `. Empty: there is none.
pub(super) fn late_sinks(sinks: &[SinkReport], age: Duration) -> String {
    let is_late = |sink: &&SinkReport| sink.is_required && !sink.oldest.is_zero() && sink.oldest >= age;
    let late: Vec<_> = sinks.iter().filter(is_late).collect();
    let mut text: Vec<_> = late.iter().take(LATE_SINKS_SHOWN).map(|sink| sink.why_it_waits()).collect();
    if let more @ 1.. = late.len().saturating_sub(LATE_SINKS_SHOWN) {
        text.push(format!("and {more} more"));
    }
    if text.is_empty() { String::new() } else { text.join(", ") + "; " }
}

/// What all event loops share.
pub struct Shared {
    /// Settings of agent sessions.
    pub settings: SessionSettings,
    /// Settings of HTTP connections.
    pub http: http::Settings,
    /// Networks whose syslog is accepted; `None`: syslog is disabled.
    pub syslog: Option<Networks>,
    /// How many connections may be open.
    pub limits: ConnectionLimits,
    /// Who may send, and how much.
    pub policy: Newest,
    /// Looked into at HELLO, at BYE, and when an agent is gone.
    pub marks: Mutex<Marks>,
    /// The metrics of the server.
    pub metrics: Arc<Metrics>,
    /// One for each loop, in their order.
    pub watermarks: Vec<Arc<Watermarks>>,
    /// How the log is doing.
    pub health: Arc<LogHealth>,
    /// Mailboxes and connection counts of the loops.
    pub loops: Loops,
    /// What each loop shows of itself, in their order.
    pub states: Vec<LoopState>,
    /// How many log lines peers have caused.
    pub log_lines: LogLines,
    /// How the sinks are doing at this moment.
    pub sinks: Box<dyn Fn() -> Vec<SinkReport> + Send + Sync>,
    /// What only `/status.json` shows.
    pub status: StatusSources,
    /// The last position that every required sink has passed.
    pub delivered_position: Box<dyn Fn() -> u64 + Send + Sync>,
    /// Each loop calls it when it begins to drain, or finds that the log has failed.
    pub on_end: Box<dyn Fn() + Send + Sync>,
    /// Whether SIGHUP asks for a reload, and not for the end.
    pub hangup_reloads: bool,
    /// Called for a signal that asks for a reload.
    pub on_reload: Box<dyn Fn() + Send + Sync>,
}

/// What limits the log lines that peers can cause, over all loops.
#[derive(Debug, Default)]
pub struct LogLines {
    /// About single connections.
    pub connections: LogLimit,
    /// About refused requests.
    pub refusals: RefusalLog,
    /// Silent connections that were closed because there are too many (R12).
    pub silent: LogInterval,
    /// Connections that were closed without an answer, because there are too many.
    pub overflow: LogInterval,
    /// Accepting was paused.
    pub accept_pauses: LogInterval,
    /// Syslog came from outside of the networks that are allowed.
    pub syslog_refused: LogInterval,
}

impl Shared {
    /// The marks of all agents, locked.
    pub fn marks(&self) -> MutexGuard<'_, Marks> {
        lock(&self.marks)
    }

    /// Puts another policy in force: every loop takes it in its next turn, and then sends to `done`.
    pub fn set_policy(&self, policy: Policy, done: &Sender<()>) {
        let policy = Arc::new(policy);
        let mut marks = self.marks();
        marks.set_gone(policy.tokens.gone());
        if self.policy.has_other_dues(&policy) {
            marks.forget_dues();
        }
        self.policy.set(policy.clone());
        drop(marks);
        for index in 0..self.event_loops() {
            self.loops.send(LoopId(index as u8), Message::Policy { policy: policy.clone(), done: done.clone() });
        }
    }

    /// How many loops there are.
    pub fn event_loops(&self) -> usize {
        self.watermarks.len()
    }

    /// A loop's part of what is allowed in all; at least one.
    pub fn part_of(&self, all: usize) -> usize {
        (all / self.event_loops()).max(1)
    }

    /// Whether `ticket` has reached `level`. Where it is of another loop and has not, the loop `own` is woken once it may have.
    pub fn has_reached(&self, own: LoopId, ticket: Ticket, level: AckLevel) -> bool {
        let reached = || has_reached(&self.watermarks, ticket, level);
        if reached() {
            return true;
        }
        if ticket.event_loop == own {
            return false;
        }
        self.watermarks[own.index()].want_others();
        // It may have got there before the loop was going to be woken.
        reached()
    }

    /// For each loop other than `own`, its highest ticket at the moment when an agent last left it. Everything that an agent whose
    /// mark is free has sent through that loop has this ticket or a lower one.
    pub fn left_tickets(&self, own: LoopId) -> Vec<Ticket> {
        let others = self.states.iter().enumerate().filter(|(index, _)| *index != own.index());
        let left = |(index, state): (usize, &LoopState)| Ticket {
            event_loop: LoopId(index as u8),
            number: state.left_ticket.load(Ordering::Acquire),
        };
        others.map(left).collect()
    }

    /// Wakes the loops that wait for a watermark of the loop `moved`.
    pub fn wake_waiting_for(&self, moved: LoopId) {
        for (index, watermarks) in self.watermarks.iter().enumerate().filter(|(index, _)| *index != moved.index()) {
            if watermarks.take_others_wanted() {
                self.loops.wake(LoopId(index as u8));
            }
        }
    }

    /// What one loop shows of itself.
    pub fn state(&self, event_loop: LoopId) -> &LoopState {
        &self.states[event_loop.index()]
    }

    /// Why `/ready` answers 503, as far as loops and log know.
    pub fn not_ready(&self, now: Instant) -> Vec<&'static str> {
        let mut reasons = Vec::new();
        if self.states.iter().any(|state| state.is_exhausted(now)) {
            reasons.push("buffers_exhausted");
        }
        reasons.extend(self.health.not_ready());
        let lacks_descriptors = self.states.iter().any(|state| state.descriptors_exhausted.is_within(now));
        if lacks_descriptors && !reasons.contains(&Pause::NoDescriptors.name()) {
            reasons.push(Pause::NoDescriptors.name());
        }
        reasons
    }

    /// The page of metrics, with what is only known at this moment.
    pub fn metrics_page(&self, now: Instant) -> Vec<u8> {
        let metrics = &self.metrics;
        let sum = |value: fn(&LoopState) -> usize| self.states.iter().map(value).sum::<usize>() as i64;
        metrics.ring_depth.set(sum(|state| state.ring.depth()));
        metrics.ring_capacity.set(sum(|state| state.ring.capacity()));
        metrics.buffer_bytes_in_use.set(sum(|state| state.pool.bytes_in_use()));
        metrics.buffer_bytes_capacity.set(sum(|state| state.pool.capacity_bytes()));
        for (index, state) in self.states.iter().enumerate() {
            let connections = self.loops.connections_of(LoopId(index as u8));
            metrics.show_loop(index, state.busy.ratio(now), connections as i64);
        }
        for sink in (self.sinks)() {
            metrics.show_sink(&sink.name, sink.is_up, sink.oldest.as_secs_f64());
            metrics.show_sink_state(&sink.name, sink.state);
        }
        metrics.show_not_ready(&self.not_ready(now));
        metrics.text()
    }
}

/// A moment that other threads can read.
#[derive(Debug)]
pub struct Moment {
    since: Instant,
    /// Nanoseconds after `since`, plus one; 0: never.
    nanos: AtomicU64,
}

impl Moment {
    /// Not set.
    pub fn new() -> Self {
        Self { since: Instant::now(), nanos: AtomicU64::new(0) }
    }

    /// Sets the moment, or with `None` clears it.
    pub fn set(&self, at: Option<Instant>) {
        let nanos = at.map_or(0, |at| at.saturating_duration_since(self.since).as_nanos() as u64 + 1);
        self.nanos.store(nanos, Ordering::Relaxed);
    }

    /// The moment; `None`: not set.
    pub fn get(&self) -> Option<Instant> {
        let nanos = self.nanos.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.since + Duration::from_nanos(nanos))
    }

    /// It is not longer ago than what is remembered.
    fn is_within(&self, now: Instant) -> bool {
        self.get().is_some_and(|at| now < at + EXHAUSTED_TIME)
    }
}

/// What one loop shows of itself.
pub struct LoopState {
    pool: PoolGauge,
    ring: RingGauge,
    /// Connections wait for memory or ring since then.
    pub starved_since: Moment,
    /// How busy the loop is.
    pub busy: Busy,
    /// Turns that have ended.
    turns: AtomicU64,
    /// The last ticket that it had given out when an agent last left it (R5).
    pub left_ticket: AtomicU64,
    /// When a POST was last refused for lack of memory or room in the ring.
    pub post_refused: Moment,
    /// When accepting was last paused for lack of a file descriptor.
    pub descriptors_exhausted: Moment,
}

impl LoopState {
    /// Nothing has run out yet.
    pub fn new(pool: PoolGauge, ring: RingGauge) -> Self {
        let [starved_since, post_refused, descriptors_exhausted] = std::array::from_fn(|_| Moment::new());
        Self {
            pool,
            ring,
            busy: Busy::new(),
            turns: AtomicU64::new(0),
            left_ticket: AtomicU64::new(0),
            starved_since,
            post_refused,
            descriptors_exhausted,
        }
    }

    /// Turns of the loop that have ended. A loop that waits has no more turns until it is woken.
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// A turn has ended; called by the loop only.
    pub fn turn_ended(&self) {
        // Not fetch_add: nobody else writes.
        self.turns.store(self.turns.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Slots of its ring.
    pub(super) fn ring_use(&self) -> Use {
        Use { used: self.ring.depth() as u64, capacity: self.ring.capacity() as u64 }
    }

    /// Bytes of its part of the pool.
    pub(super) fn buffer_use(&self) -> Use {
        Use { used: self.pool.bytes_in_use() as u64, capacity: self.pool.capacity_bytes() as u64 }
    }

    fn is_exhausted(&self, now: Instant) -> bool {
        let waits = self.starved_since.get().is_some_and(|since| now >= since + EXHAUSTED_TIME);
        waits || self.post_refused.is_within(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sinks_are_named_that_hold_an_acknowledgement() {
        let sink = |name: &str, state: &'static str, seconds: u64| SinkReport {
            name: name.to_owned(),
            state,
            is_up: ["ok", "behind"].contains(&state),
            oldest: Duration::from_secs(seconds),
            is_required: true,
            max_age: Duration::ZERO,
        };
        let age = Duration::from_secs(15);
        assert_eq!(late_sinks(&[sink("a", "ok", 0), sink("b", "down", 0), sink("c", "behind", 14)], age), "");
        let optional = SinkReport { is_required: false, ..sink("o", "down", 60) };
        let window = SinkReport { max_age: Duration::from_secs(60), ..sink("w", "ok", 30) };
        let slow = SinkReport { max_age: Duration::from_secs(60), ..sink("s", "behind", 80) };
        assert_eq!(
            late_sinks(&[optional, window, slow], age),
            "sink w gathers for \"1m\", sink s has not stored them yet; "
        );
        let many: Vec<_> = (0..5).map(|number| sink(&number.to_string(), "down", 60)).collect();
        assert_eq!(late_sinks(&many, age), "sink 0 is down, sink 1 is down, sink 2 is down, and 2 more; ");
        assert_eq!(late_sinks(&[sink("a", "ok", 1)], Duration::ZERO), "sink a has not stored them yet; ");
    }
}
