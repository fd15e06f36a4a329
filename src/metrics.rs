//! The registry: every metric, its labels resolved once. A thin skin over `prometheus`, so that it can be swapped.
//!
//! Names are `telemetryx_<noun>_<unit>[_total]`; label values are closed sets.

mod datagrams;
mod local;
mod process;

use std::sync::Arc;

use prometheus::{
    Encoder, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
};
use prometheus::{Registry, TextEncoder};

pub use datagrams::kernel_drops;
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
}

/// The metrics of the server.
pub struct Metrics {
    registry: Registry,
    events_received: Vec<IntCounter>,
    events_rejected: Vec<IntCounter>,
    connections_closed: IntCounterVec,
    connections_cut: IntCounterVec,
    http_responses: IntCounterVec,
    http_responses_ok: IntCounter,
    syslog_dropped: IntCounterVec,
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
    duplicates_dropped: IntCounter,
    /// `telemetryx_frames_missing_total`: frames that were acknowledged at a low level and then lost.
    pub frames_missing: IntCounter,
    ack_seconds: Histogram,
    /// `telemetryx_wal_sync_seconds`: duration of each fdatasync of the log.
    pub wal_sync_seconds: Histogram,
    /// `telemetryx_wal_bytes`: bytes of all segments of the log.
    pub wal_bytes: IntGauge,
    /// `telemetryx_accept_pauses_total`: how often accepting paused for lack of file descriptors.
    pub accept_pauses: IntCounter,
    /// `telemetryx_read_pauses_total`: how often reading paused for lack of memory or room in the ring.
    pub read_pauses: IntCounter,
    events_delivered: IntCounterVec,
    events_dead: IntCounterVec,
    events_dropped: IntCounterVec,
    sink_lag_events: IntGaugeVec,
    sink_delivery_seconds: HistogramVec,
    sink_retries: IntCounterVec,
    events_expired: IntCounterVec,
    sink_rows: IntCounterVec,
    sink_up: IntGaugeVec,
    loop_busy_ratio: GaugeVec,
    sink_oldest_seconds: GaugeVec,
    /// `telemetryx_buffer_bytes_capacity`: bytes of the buffer pool.
    pub buffer_bytes_capacity: IntGauge,
    /// `telemetryx_wal_bytes_max`: most bytes of all segments of the log.
    pub wal_bytes_max: IntGauge,
}

/// The metrics of one sink.
#[derive(Clone)]
pub struct SinkMetrics {
    /// `telemetryx_events_delivered_total`: events that the sink stored.
    pub events_delivered: IntCounter,
    /// Rows that the store has of deliveries that are stored.
    pub rows: IntCounter,
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
        let registry = Registry::new();
        let counter = |name: &str, help: &str| {
            let metric = IntCounter::new(name, help)?;
            registry.register(Box::new(metric.clone())).map(|()| metric)
        };
        let gauge = |name: &str, help: &str| {
            let metric = IntGauge::new(name, help)?;
            registry.register(Box::new(metric.clone())).map(|()| metric)
        };
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone())).map(|()| metric)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone())).map(|()| metric)
        };
        registry.register(Box::new(process::Process::new()?))?;
        let loop_busy_ratio = GaugeVec::new(
            Opts::new("telemetryx_loop_busy_ratio", "Share of the last second in which an event loop did not wait."),
            &["loop"],
        )?;
        registry.register(Box::new(loop_busy_ratio.clone()))?;
        let build = gauges("telemetryx_build_info", "Always 1; its labels say what runs.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let sink_oldest_seconds = GaugeVec::new(
            Opts::new("telemetryx_sink_oldest_seconds", "Age of the oldest event that a sink has yet to store."),
            &["sink"],
        )?;
        registry.register(Box::new(sink_oldest_seconds.clone()))?;
        let received = counters("telemetryx_events_received_total", "Events accepted on receipt.", &["protocol"])?;
        let rejected = counters("telemetryx_events_rejected_total", "Events rejected on receipt.", &["reason"])?;
        let http_responses = counters("telemetryx_http_responses_total", "HTTP answers, by status.", &["status"])?;
        let lag = IntGaugeVec::new(
            Opts::new("telemetryx_sink_lag_events", "Events that a sink has yet to store."),
            &["sink"],
        )?;
        registry.register(Box::new(lag.clone()))?;
        let delivery = HistogramVec::new(
            HistogramOpts::new("telemetryx_sink_delivery_seconds", "Duration of one delivery to a sink.")
                .buckets(SECONDS.to_vec()),
            &["sink"],
        )?;
        registry.register(Box::new(delivery.clone()))?;
        let ack_seconds = Histogram::with_opts(
            HistogramOpts::new(
                "telemetryx_ack_seconds",
                "From the last byte of a frame or request to its ACK or answer.",
            )
            .buckets(SECONDS.to_vec()),
        )?;
        registry.register(Box::new(ack_seconds.clone()))?;
        let wal_sync_seconds = Histogram::with_opts(
            HistogramOpts::new("telemetryx_wal_sync_seconds", "Duration of one fdatasync of the log.")
                .buckets(SECONDS.to_vec()),
        )?;
        registry.register(Box::new(wal_sync_seconds.clone()))?;
        Ok(Arc::new(Self {
            events_received: Protocol::NAMES.iter().map(|name| received.with_label_values(&[name])).collect(),
            events_rejected: RejectReason::NAMES.iter().map(|name| rejected.with_label_values(&[name])).collect(),
            connections_closed: counters(
                "telemetryx_connections_closed_total",
                "Connections ended, by reason.",
                &["reason"],
            )?,
            connections_cut: counters(
                "telemetryx_connections_cut_total",
                "Connections closed while the peer was still sending after its refusal, by reason: the answer may be lost.",
                &["reason"],
            )?,
            http_responses_ok: http_responses.with_label_values(&["200"]),
            http_responses,
            syslog_dropped: counters("telemetryx_syslog_dropped_total", "Datagrams of syslog dropped.", &["reason"])?,
            connections: gauge("telemetryx_connections", "Open connections.")?,
            connections_refused: counter("telemetryx_connections_refused_total", "Connections over a cap.")?,
            ring_depth: gauge("telemetryx_ring_depth", "Slots waiting in the ring.")?,
            ring_capacity: gauge("telemetryx_ring_capacity", "Slots that the ring holds.")?,
            buffer_bytes_in_use: gauge("telemetryx_buffers_in_use", "Bytes of the buffer pool in use.")?,
            duplicates_dropped: counter("telemetryx_duplicates_dropped_total", "Frames sent again and dropped.")?,
            frames_missing: counter(
                "telemetryx_frames_missing_total",
                "Frames that were acknowledged and are missing from the log.",
            )?,
            accept_pauses: counter(
                "telemetryx_accept_pauses_total",
                "Times that accepting paused because no descriptor was free.",
            )?,
            read_pauses: counter(
                "telemetryx_read_pauses_total",
                "Times that reading paused because no memory or ring slot was free.",
            )?,
            ack_seconds,
            wal_sync_seconds,
            wal_bytes: gauge("telemetryx_wal_bytes", "Bytes of all segments of the log.")?,
            events_delivered: counters("telemetryx_events_delivered_total", "Events stored by a sink.", &["sink"])?,
            events_dead: counters("telemetryx_events_dead_total", "Events kept in dead letters.", &["sink"])?,
            events_dropped: counters(
                "telemetryx_events_dropped_total",
                "Events lost by a setting.",
                &["sink", "reason"],
            )?,
            sink_retries: counters("telemetryx_sink_retries_total", "Deliveries tried again.", &["sink"])?,
            events_expired: counters(
                "telemetryx_events_expired_total",
                "Events deleted from a store because of their age.",
                &["sink"],
            )?,
            sink_rows: counters(
                "telemetryx_sink_rows_total",
                "Rows written by a sink, each counted once when its delivery is stored.",
                &["sink"],
            )?,
            sink_up: gauges("telemetryx_sink_up", "Whether a sink delivers.", &["sink"])?,
            sink_oldest_seconds,
            loop_busy_ratio,
            buffer_bytes_capacity: gauge("telemetryx_buffer_bytes_capacity", "Bytes of the buffer pool.")?,
            wal_bytes_max: gauge("telemetryx_wal_bytes_max", "Most bytes of all segments of the log.")?,
            sink_lag_events: lag,
            sink_delivery_seconds: delivery,
            registry,
        }))
    }

    /// `telemetryx_events_rejected_total` for this reason.
    pub fn events_rejected(&self, reason: RejectReason) -> &IntCounter {
        &self.events_rejected[reason as usize]
    }

    /// `reason`: a name from a closed set of ours.
    pub fn connection_closed(&self, reason: &'static str) {
        self.connections_closed.with_label_values(&[reason]).inc();
    }

    /// `ratio`: 0 to 1.
    pub fn show_loop(&self, event_loop: usize, ratio: f64) {
        self.loop_busy_ratio.with_label_values(&[event_loop.to_string().as_str()]).set(ratio);
    }

    /// A half-closed connection was closed before the peer had ended or paused. `reason`: a name from a closed set of ours.
    pub fn connection_cut(&self, reason: &'static str) {
        self.connections_cut.with_label_values(&[reason]).inc();
    }

    /// Counts an HTTP answer of this status.
    pub fn http_response(&self, status: u16) {
        match status {
            200 => self.http_responses_ok.inc(),
            _ => self.http_responses.with_label_values(&[status.to_string().as_str()]).inc(),
        }
    }

    /// Datagrams of syslog that were dropped: `reason` is a name from a closed set of ours.
    pub fn syslog_dropped(&self, reason: &'static str) -> IntCounter {
        self.syslog_dropped.with_label_values(&[reason])
    }

    /// Events that the user's settings gave up: `reason` is a name from a closed set of ours.
    pub fn events_dropped(&self, sink: &str, reason: &'static str) -> IntCounter {
        self.events_dropped.with_label_values(&[sink, reason])
    }

    /// Events kept in the dead letters of `sink`; `ingest`: those that were rejected on receipt.
    pub fn events_dead(&self, sink: &str) -> IntCounter {
        self.events_dead.with_label_values(&[sink])
    }

    /// Resolves the labels of one sink.
    pub fn sink(&self, sink: &str) -> SinkMetrics {
        SinkMetrics {
            events_delivered: self.events_delivered.with_label_values(&[sink]),
            rows: self.sink_rows.with_label_values(&[sink]),
            events_dead: self.events_dead(sink),
            lag_events: self.sink_lag_events.with_label_values(&[sink]),
            delivery_seconds: self.sink_delivery_seconds.with_label_values(&[sink]),
            retries: self.sink_retries.with_label_values(&[sink]),
            events_expired: self.events_expired.with_label_values(&[sink]),
        }
    }

    /// Sets what is looked at when the page is asked for.
    pub fn show_sink(&self, sink: &str, is_up: bool, oldest_seconds: f64) {
        self.sink_up.with_label_values(&[sink]).set(is_up.into());
        self.sink_oldest_seconds.with_label_values(&[sink]).set(oldest_seconds);
    }

    /// The Prometheus text format.
    pub fn text(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(16 * 1024);
        // Writing into memory cannot fail; a broken family is left out rather than taking the page with it.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        text
    }
}
