//! The registry: every metric, its labels resolved once. A thin skin over `prometheus`, so that it can be swapped.
//!
//! Names are `telemetryx_<noun>_<unit>[_total]`; label values are closed sets.

mod datagrams;
mod labels;
mod local;
mod process;
mod status;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use prometheus::core::Collector;
use prometheus::{
    Encoder, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder,
};
pub use prometheus::{IntCounter, IntGauge};

pub use datagrams::kernel_drops;
use labels::at_zero;
pub use labels::{HTTP_STATUSES, NOT_READY, SINK_STATES};
pub use local::LocalMetrics;

/// Bounds in seconds of the latency histograms: 100 µs to 30 s.
const SECONDS: [f64; 12] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0, 30.0];

/// Why an event was rejected on receipt: the closed set of `reason` of `telemetryx_events_rejected_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum RejectReason {
    /// No protobuf or JSON at all.
    Malformed,
    /// Breaks a rule of the event contract.
    Invalid,
    /// Frame or body above a limit.
    TooLarge,
    /// A codec or media type that was not offered.
    Codec,
}

impl RejectReason {
    const NAMES: [&'static str; 4] = ["malformed", "invalid", "too_large", "codec"];
}

/// How an event came in: the closed set of `protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Protocol {
    /// In a DATA frame.
    Frames,
    /// In a POST.
    Http,
    /// In a message of syslog.
    Syslog,
}

impl Protocol {
    const NAMES: [&'static str; 3] = ["frames", "http", "syslog"];

    /// As the label has it.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// Whom a limit is for: the closed set of `scope` of `telemetryx_events_limited_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum LimitScope {
    /// Everybody together.
    Server,
    /// A configured client.
    Client,
    /// An agent.
    Agent,
    /// An address that sends over HTTP or syslog.
    Address,
}

impl LimitScope {
    const NAMES: [&'static str; 4] = ["server", "client", "agent", "address"];

    /// As the label has it.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// Which step left an event out: the closed set of `step` of `telemetryx_events_filtered_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum FilterStep {
    /// No condition of `include` matches it.
    Include,
    /// A condition of `exclude` matches it.
    Exclude,
    /// It is not one of those that `sample` keeps.
    Sample,
}

impl FilterStep {
    /// As the label has them, in the order of the variants.
    pub const NAMES: [&'static str; 3] = ["include", "exclude", "sample"];
}

/// What becomes of a reload: the closed set of `result` of `telemetryx_reloads_total`.
const RELOAD_RESULTS: [&str; 2] = ["applied", "refused"];

/// The metrics of the server.
pub struct Metrics {
    registry: Registry,
    receipt: Receipt,
    /// `telemetryx_connections`: open connections.
    pub connections: IntGauge,
    /// `telemetryx_connections_refused_total`: connections above a limit.
    pub connections_refused: IntCounter,
    /// `telemetryx_ring_depth`: slots that wait in the ring.
    pub ring_depth: IntGauge,
    /// `telemetryx_ring_capacity`: slots that the ring holds.
    pub ring_capacity: IntGauge,
    /// `telemetryx_buffers_in_use`: bytes of the buffer pool in use.
    pub buffer_bytes_in_use: IntGauge,
    /// `telemetryx_buffer_bytes_capacity`: bytes of the buffer pool.
    pub buffer_bytes_capacity: IntGauge,
    /// `telemetryx_frames_missing_total`: frames that were acknowledged at a low level and then lost.
    pub frames_missing: IntCounter,
    /// `telemetryx_accept_pauses_total`: how often accepting paused for lack of file descriptors.
    pub accept_pauses: IntCounter,
    /// `telemetryx_read_pauses_total`: how often reading paused for lack of memory or room in the ring.
    pub read_pauses: IntCounter,
    loop_busy_ratio: GaugeVec,
    /// Without labels; there is a value only where there is a certificate.
    certificate_expiry: IntGaugeVec,
    /// How many certificates are watched: one, and for a moment that of the settings before.
    pub certificate_watches: AtomicUsize,
    loop_connections: IntGaugeVec,
    reloads: IntCounterVec,
    not_ready: IntGaugeVec,
    /// `telemetryx_wal_sync_seconds`: duration of each fdatasync of the log.
    pub wal_sync_seconds: Histogram,
    /// `telemetryx_wal_bytes`: bytes of all segments of the log.
    pub wal_bytes: IntGauge,
    /// `telemetryx_wal_bytes_needed`: bytes of the segments with events that a sink has yet to store.
    pub wal_bytes_needed: IntGauge,
    /// `telemetryx_wal_bytes_max`: most bytes of all segments of the log.
    pub wal_bytes_max: IntGauge,
    sinks: Sinks,
}

/// What is counted on receipt, by protocol, reason or status.
struct Receipt {
    events_received: Vec<IntCounter>,
    events_rejected: Vec<IntCounter>,
    events_limited: Vec<IntCounter>,
    client_events: IntCounterVec,
    duplicates_dropped: IntCounter,
    ack_seconds: Histogram,
    connections_closed: IntCounterVec,
    connections_cut: IntCounterVec,
    http_responses: IntCounterVec,
    http_responses_ok: IntCounter,
    syslog_dropped: IntCounterVec,
}

impl Receipt {
    fn new(on: &Registration) -> Result<Self, prometheus::Error> {
        let received = on.counters("telemetryx_events_received_total", "Events accepted on receipt.", &["protocol"])?;
        let rejected = on.counters("telemetryx_events_rejected_total", "Events rejected on receipt.", &["reason"])?;
        let limited = on.counters(
            "telemetryx_events_limited_total",
            "Events that were delayed by a limit; a request that was answered 429 counts as one.",
            &["scope"],
        )?;
        let http_responses = on.counters("telemetryx_http_responses_total", "HTTP answers, by status.", &["status"])?;
        let closed =
            on.counters("telemetryx_connections_closed_total", "Connections ended, by reason.", &["reason"])?;
        let cut = on.counters(
            "telemetryx_connections_cut_total",
            "Connections closed while the peer was still sending after its refusal, by reason: the answer may be lost.",
            &["reason"],
        )?;
        let syslog_dropped =
            on.counters("telemetryx_syslog_dropped_total", "Datagrams of syslog that were dropped.", &["reason"])?;
        Ok(Self {
            events_received: Protocol::NAMES.iter().map(|name| received.with_label_values(&[name])).collect(),
            events_rejected: RejectReason::NAMES.iter().map(|name| rejected.with_label_values(&[name])).collect(),
            events_limited: LimitScope::NAMES.iter().map(|scope| limited.with_label_values(&[scope])).collect(),
            client_events: on.counters(
                "telemetryx_client_events_total",
                "Events accepted from a client.",
                &["client"],
            )?,
            duplicates_dropped: on.counter("telemetryx_duplicates_dropped_total", "Frames sent again and dropped.")?,
            ack_seconds: on.histogram(
                "telemetryx_ack_seconds",
                "From the last byte of a frame or request to its ACK or answer.",
            )?,
            connections_closed: at_zero(closed, labels::CLOSED),
            connections_cut: at_zero(cut, labels::CUT),
            http_responses_ok: http_responses.with_label_values(&["200"]),
            http_responses: at_zero(http_responses, HTTP_STATUSES.map(|status| status.to_string())),
            syslog_dropped: at_zero(syslog_dropped, labels::SYSLOG_DROPPED),
        })
    }
}

/// What is shown of each sink, by its name.
struct Sinks {
    delivered: IntCounterVec,
    dead: IntCounterVec,
    filtered: IntCounterVec,
    dropped: IntCounterVec,
    expired: IntCounterVec,
    rows: IntCounterVec,
    retries: IntCounterVec,
    lag: IntGaugeVec,
    up: IntGaugeVec,
    state: IntGaugeVec,
    oldest_seconds: GaugeVec,
    delivery_seconds: HistogramVec,
}

impl Sinks {
    fn new(on: &Registration) -> Result<Self, prometheus::Error> {
        let by_sink = &["sink"];
        Ok(Self {
            delivered: on.counters("telemetryx_events_delivered_total", "Events stored by a sink.", by_sink)?,
            dead: on.counters("telemetryx_events_dead_total", "Events kept in dead letters.", by_sink)?,
            filtered: on.counters(
                "telemetryx_events_filtered_total",
                "Events that the steps of a sink left out, counted when their delivery is stored.",
                &["sink", "step"],
            )?,
            dropped: on.counters(
                "telemetryx_events_dropped_total",
                "Events lost by a setting.",
                &["sink", "reason"],
            )?,
            expired: on.counters(
                "telemetryx_events_expired_total",
                "Events deleted from a store because of their age.",
                by_sink,
            )?,
            rows: on.counters(
                "telemetryx_sink_rows_total",
                "Rows written by a sink, each counted once when its delivery is stored.",
                by_sink,
            )?,
            retries: on.counters("telemetryx_sink_retries_total", "Deliveries tried again.", by_sink)?,
            lag: on.gauges("telemetryx_sink_lag_events", "Events that a sink has yet to store.", by_sink)?,
            up: on.gauges("telemetryx_sink_up", "Whether a sink delivers.", by_sink)?,
            state: on.gauges(
                "telemetryx_sink_state",
                "1 for the state that a sink is in, 0 for the others.",
                &["sink", "state"],
            )?,
            oldest_seconds: on.ratios(
                "telemetryx_sink_oldest_seconds",
                "Age of the oldest event that a sink has yet to store.",
                "sink",
            )?,
            delivery_seconds: on.histograms(
                "telemetryx_sink_delivery_seconds",
                "Duration of one delivery to a sink.",
                by_sink,
            )?,
        })
    }
}

/// Creates metrics on a registry.
struct Registration(Registry);

impl Registration {
    fn register<M: Collector + 'static>(&self, metric: M) -> Result<(), prometheus::Error> {
        self.0.register(Box::new(metric))
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        let metric = IntCounter::new(name, help)?;
        self.register(metric.clone()).map(|()| metric)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
        let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
        self.register(metric.clone()).map(|()| metric)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        let metric = IntGauge::new(name, help)?;
        self.register(metric.clone()).map(|()| metric)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
        let metric = IntGaugeVec::new(Opts::new(name, help), labels)?;
        self.register(metric.clone()).map(|()| metric)
    }

    /// Gauges of numbers that are not whole.
    fn ratios(&self, name: &str, help: &str, label: &str) -> Result<GaugeVec, prometheus::Error> {
        let metric = GaugeVec::new(Opts::new(name, help), &[label])?;
        self.register(metric.clone()).map(|()| metric)
    }

    fn histogram(&self, name: &str, help: &str) -> Result<Histogram, prometheus::Error> {
        let metric = Histogram::with_opts(HistogramOpts::new(name, help).buckets(SECONDS.to_vec()))?;
        self.register(metric.clone()).map(|()| metric)
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str]) -> Result<HistogramVec, prometheus::Error> {
        let metric = HistogramVec::new(HistogramOpts::new(name, help).buckets(SECONDS.to_vec()), labels)?;
        self.register(metric.clone()).map(|()| metric)
    }
}

/// The metrics of one sink.
#[derive(Clone)]
pub struct SinkMetrics {
    /// `telemetryx_events_delivered_total`: events that the sink stored.
    pub events_delivered: IntCounter,
    /// Rows that the store has of deliveries that are stored.
    pub rows: IntCounter,
    /// `telemetryx_events_filtered_total`: events that steps left out, by [`FilterStep`].
    pub events_filtered: [IntCounter; FilterStep::NAMES.len()],
    /// `telemetryx_events_dead_total`: events kept in the sink's dead letters.
    pub events_dead: IntCounter,
    /// `telemetryx_sink_lag_events`: events that the sink has yet to store.
    pub lag_events: IntGauge,
    /// `telemetryx_sink_delivery_seconds`: duration of each delivery.
    pub delivery_seconds: Histogram,
    /// `telemetryx_sink_retries_total`: deliveries tried again.
    pub retries: IntCounter,
    /// `telemetryx_events_expired_total`: events that the sink deleted because of their age.
    pub events_expired: IntCounter,
}

impl Metrics {
    /// A registry with every metric of the server at zero.
    pub fn new() -> Result<Arc<Self>, prometheus::Error> {
        let on = Registration(Registry::new());
        on.register(process::Process::new()?)?;
        let build = on.gauges("telemetryx_build_info", "Always 1; its labels say what runs.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(Arc::new(Self {
            receipt: Receipt::new(&on)?,
            connections: on.gauge("telemetryx_connections", "Open connections.")?,
            connections_refused: on.counter("telemetryx_connections_refused_total", "Connections over a cap.")?,
            ring_depth: on.gauge("telemetryx_ring_depth", "Slots waiting in the ring.")?,
            ring_capacity: on.gauge("telemetryx_ring_capacity", "Slots that the ring holds.")?,
            buffer_bytes_in_use: on.gauge("telemetryx_buffers_in_use", "Bytes of the buffer pool in use.")?,
            buffer_bytes_capacity: on.gauge("telemetryx_buffer_bytes_capacity", "Bytes of the buffer pool.")?,
            frames_missing: on.counter(
                "telemetryx_frames_missing_total",
                "Frames that were acknowledged and are missing from the log.",
            )?,
            accept_pauses: on.counter(
                "telemetryx_accept_pauses_total",
                "Times that accepting paused because no descriptor was free.",
            )?,
            read_pauses: on.counter(
                "telemetryx_read_pauses_total",
                "Times that reading paused because no memory or ring slot was free.",
            )?,
            loop_busy_ratio: on.ratios(
                "telemetryx_loop_busy_ratio",
                "Share of the last second in which an event loop did not wait.",
                "loop",
            )?,
            loop_connections: on.gauges(
                "telemetryx_loop_connections",
                "Open connections of an event loop.",
                &["loop"],
            )?,
            reloads: {
                let reloads =
                    on.counters("telemetryx_reloads_total", "Times that the settings were read again.", &["result"])?;
                RELOAD_RESULTS.iter().for_each(|result| drop(reloads.with_label_values(&[result])));
                reloads
            },
            not_ready: on.gauges(
                "telemetryx_not_ready",
                "1 while /ready answers 503 for this reason, else 0.",
                &["reason"],
            )?,
            certificate_watches: AtomicUsize::new(0),
            certificate_expiry: on.gauges(
                "telemetryx_tls_certificate_expiry_seconds",
                "When the certificate in tls.cert_file expires, in seconds since 1970.",
                &[],
            )?,
            wal_sync_seconds: on.histogram("telemetryx_wal_sync_seconds", "Duration of one fdatasync of the log.")?,
            wal_bytes: on.gauge("telemetryx_wal_bytes", "Bytes of all segments of the log.")?,
            wal_bytes_needed: on.gauge(
                "telemetryx_wal_bytes_needed",
                "Bytes of the segments of the log with events that a sink has yet to store.",
            )?,
            wal_bytes_max: on.gauge("telemetryx_wal_bytes_max", "Most bytes of all segments of the log.")?,
            sinks: Sinks::new(&on)?,
            registry: on.0,
        }))
    }

    /// The settings were read again, and applied or refused.
    pub fn reloaded(&self, is_applied: bool) {
        self.reloads.with_label_values(&[RELOAD_RESULTS[usize::from(!is_applied)]]).inc();
    }

    /// `telemetryx_events_rejected_total` for this reason.
    pub fn events_rejected(&self, reason: RejectReason) -> &IntCounter {
        &self.receipt.events_rejected[reason as usize]
    }

    /// `reason`: a name from a closed set of ours.
    pub fn connection_closed(&self, reason: &'static str) {
        self.receipt.connections_closed.with_label_values(&[reason]).inc();
    }

    /// `ratio`: 0 to 1, how busy it was in the last second.
    pub fn show_loop(&self, event_loop: usize, ratio: f64, connections: i64) {
        let event_loop = event_loop.to_string();
        self.loop_busy_ratio.with_label_values(&[event_loop.as_str()]).set(ratio);
        self.loop_connections.with_label_values(&[event_loop.as_str()]).set(connections);
    }

    /// `not_after`: when the certificate of the server expires, in seconds since 1970.
    pub fn show_certificate(&self, not_after: i64) {
        self.certificate_expiry.with_label_values::<&str>(&[]).set(not_after);
    }

    /// TLS is not offered any more.
    pub fn hide_certificate(&self) {
        self.certificate_expiry.reset();
    }

    /// A half-closed connection was closed before the peer had ended or paused. `reason`: a name from a closed set of ours.
    pub fn connection_cut(&self, reason: &'static str) {
        self.receipt.connections_cut.with_label_values(&[reason]).inc();
    }

    /// Counts an HTTP answer of this status.
    pub fn http_response(&self, status: u16) {
        match status {
            200 => self.receipt.http_responses_ok.inc(),
            _ => self.receipt.http_responses.with_label_values(&[status.to_string().as_str()]).inc(),
        }
    }

    /// Datagrams of syslog that were dropped: `reason` is a name from a closed set of ours.
    pub fn syslog_dropped(&self, reason: &'static str) -> IntCounter {
        self.receipt.syslog_dropped.with_label_values(&[reason])
    }

    /// Events that the user's settings gave up: `reason` is a name from a closed set of ours.
    pub fn events_dropped(&self, sink: &str, reason: &'static str) -> IntCounter {
        self.sinks.dropped.with_label_values(&[sink, reason])
    }

    /// Events kept in the dead letters of `sink`; `ingest`: those that were rejected on receipt.
    pub fn events_dead(&self, sink: &str) -> IntCounter {
        self.sinks.dead.with_label_values(&[sink])
    }

    /// Resolves the labels of one sink.
    pub fn sink(&self, sink: &str) -> SinkMetrics {
        labels::DROPPED.iter().for_each(|reason| drop(self.events_dropped(sink, reason)));
        SinkMetrics {
            events_delivered: self.sinks.delivered.with_label_values(&[sink]),
            events_filtered: FilterStep::NAMES.map(|step| self.sinks.filtered.with_label_values(&[sink, step])),
            rows: self.sinks.rows.with_label_values(&[sink]),
            events_dead: self.events_dead(sink),
            lag_events: self.sinks.lag.with_label_values(&[sink]),
            delivery_seconds: self.sinks.delivery_seconds.with_label_values(&[sink]),
            retries: self.sinks.retries.with_label_values(&[sink]),
            events_expired: self.sinks.expired.with_label_values(&[sink]),
        }
    }

    /// Sets what is looked at when the page is asked for.
    pub fn show_sink(&self, sink: &str, is_up: bool, oldest_seconds: f64) {
        self.sinks.up.with_label_values(&[sink]).set(is_up.into());
        self.sinks.oldest_seconds.with_label_values(&[sink]).set(oldest_seconds);
    }

    /// `state`: the one of [`SINK_STATES`] that a sink is in.
    pub fn show_sink_state(&self, sink: &str, state: &str) {
        for name in SINK_STATES {
            self.sinks.state.with_label_values(&[sink, name]).set((name == state).into());
        }
    }

    /// `reasons`: those of [`NOT_READY`] for which `/ready` answers 503.
    pub fn show_not_ready(&self, reasons: &[&str]) {
        for name in NOT_READY {
            self.not_ready.with_label_values(&[name]).set(reasons.contains(&name).into());
        }
    }

    /// The Prometheus text format.
    pub fn text(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(16 * 1024);
        // Writing into memory cannot fail; a broken family is left out rather than taking the page with it.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        text
    }
}
