//! What a run came to, for people and for scripts.

use std::fmt::Write as _;

use hdrhistogram::Histogram;

use crate::counted::Counted;

/// What the server's process spent while it was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ServerCost {
    pub pid: u32,
    /// User and system, all threads.
    pub cpu_seconds: f64,
    /// Before the first connection.
    pub resident_bytes_before: u64,
    pub resident_bytes_most: u64,
}

#[derive(Debug)]
pub(super) struct Report {
    pub protocol: &'static str,
    pub connections: u32,
    pub event_bytes: usize,
    pub frame_events: u32,
    pub seconds: f64,
    /// Acknowledged while it was measured.
    pub events: u64,
    /// Bytes of the messages that these were in.
    pub bytes: u64,
    pub refused_messages: u64,
    pub unanswered_messages: u64,
    pub latency_micros: Histogram<u64>,
    pub sender_cpu_seconds: f64,
    /// `None`: the server runs elsewhere, or its process may not be looked at.
    pub server: Option<ServerCost>,
}

const PERCENTILES: [(&str, f64); 4] = [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p999", 99.9)];

impl Report {
    fn events_per_second(&self) -> f64 {
        self.events as f64 / self.seconds
    }

    fn milliseconds(&self, percentile: f64) -> f64 {
        self.latency_micros.value_at_percentile(percentile) as f64 / 1e3
    }

    /// Events a CPU-second of the server; `None` where it is unknown, or too short for the clock.
    fn events_per_cpu_second(&self) -> Option<f64> {
        let cpu_seconds = self.server?.cpu_seconds;
        (cpu_seconds > 0.0).then(|| self.events as f64 / cpu_seconds)
    }

    /// One JSON object and a newline.
    pub(super) fn json(&self) -> String {
        let mut latency: serde_json::Map<_, _> = PERCENTILES
            .iter()
            .map(|(name, percentile)| ((*name).to_owned(), self.milliseconds(*percentile).into()))
            .collect();
        latency.insert("max".to_owned(), (self.latency_micros.max() as f64 / 1e3).into());
        let server = self.server.map(|server| {
            serde_json::json!({
                "pid": server.pid,
                "cpu_seconds": server.cpu_seconds,
                "events_per_cpu_second": self.events_per_cpu_second(),
                "resident_bytes_before": server.resident_bytes_before,
                "resident_bytes_most": server.resident_bytes_most,
            })
        });
        let report = serde_json::json!({
            "protocol": self.protocol,
            "connections": self.connections,
            "event_bytes": self.event_bytes,
            "frame_events": self.frame_events,
            "seconds": self.seconds,
            "events": self.events,
            "events_per_second": self.events_per_second(),
            "bytes_per_second": self.bytes as f64 / self.seconds,
            "ack_milliseconds": latency,
            "refused_messages": self.refused_messages,
            "unanswered_messages": self.unanswered_messages,
            "sender_cpu_seconds": self.sender_cpu_seconds,
            "server": server,
        });
        format!("{report}\n")
    }

    /// A few lines.
    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "{} · {} · {} of {} per message · {:.1} s\n",
            self.protocol,
            Counted(u64::from(self.connections), "connection"),
            Counted(u64::from(self.frame_events), "event"),
            Counted(self.event_bytes as u64, "byte"),
            self.seconds
        );
        let mut line = |name: &str, value: String| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name:<12} {value}");
        };
        let megabytes = self.bytes as f64 / self.seconds / 1e6;
        line("throughput", format!("{:.0} events/s · {megabytes:.1} MB/s", self.events_per_second()));
        let [p50, p90, p99, p999] = PERCENTILES.map(|(_, percentile)| self.milliseconds(percentile));
        let max = self.latency_micros.max() as f64 / 1e3;
        line("ack latency", format!("p50 {p50:.2} ms · p90 {p90:.2} · p99 {p99:.2} · p99.9 {p999:.2} · max {max:.2}"));
        if let Some(server) = self.server {
            let cores = server.cpu_seconds / self.seconds;
            let each = self
                .events_per_cpu_second()
                .map_or_else(String::new, |each| format!(" · {each:.0} events per CPU-second"));
            line("server CPU", format!("{cores:.2} cores{each}"));
            let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            let (before, most) = (mebibytes(server.resident_bytes_before), mebibytes(server.resident_bytes_most));
            line("memory", format!("{before:.1} MiB before · {most:.1} MiB at most (process {})", server.pid));
        }
        line("sender CPU", format!("{:.2} cores", self.sender_cpu_seconds / self.seconds));
        if self.refused_messages > 0 {
            line("refused", format!("{} with refused events", Counted(self.refused_messages, "message")));
        }
        if self.unanswered_messages > 0 {
            line("unanswered", format!("{} 10 s after the last one", Counted(self.unanswered_messages, "message")));
        }
        text
    }
}
