//! OTLP in: requests of OpenTelemetry, in protobuf or JSON, become encoded events without a tree in between.
//!
//! ```text
//!  protobuf ── request ──┐ Resource, Scope: encoded once ─▶ Prefix ─┐
//!                        ├─▶ Mapping ───────────────────────────────┼─▶ Writer, in place ─▶ Output
//!  JSON ── transcode ────┘ LogRecord, Span, Metric ─────────────────┘
//!          (one record at a time, to protobuf)
//! ```
//!
//! | file | what it is |
//! |---|---|
//! | `request` | protobuf: resources, scopes, records |
//! | `json`, `transcode` | JSON: the same, each record as protobuf in a buffer that is reused |
//! | `mapping` | what records have in common, and what becomes of each |
//! | `logs`, `traces`, `metrics`, `points` | one record each |
//! | `value` | attributes, and JSON text of what is no scalar |
//! | `parts` | fields that occur several times |
//! | `writer` | writes one event within the limits of the contract |
//! | `schema`, `tables` | the messages of OTLP, and the check of what is not mapped |
//! | `fuzz`, `reference` | a plain twin over the types of prost |
//!
//! *Malformed* bytes (protobuf or JSON that is not of the schema) void the whole request. A record that breaks a rule of
//! OTLP is *rejected*, and its neighbours are accepted. What is only too long for an event is cut, or left out and counted:
//! such an event has the attribute `truncated`. The mapping is in docs/otlp.md. In steady state nothing allocates per record.

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
mod json;
mod logs;
mod mapping;
mod metrics;
mod parts;
mod points;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod reference;
mod request;
mod schema;
mod tables;
mod traces;
mod transcode;
mod value;
#[cfg(test)]
mod work_tests;
mod writer;

use mapping::{Mapping, Prefix};
use value::Scratch;
pub use writer::EVENT_FIELD_BYTES_MAX;

use super::check::Rejections;
use super::protobuf::Fault;
use crate::limits::OTLP_JSON_RECORD_BYTES_MAX;

/// What a request holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// `ExportLogsServiceRequest`.
    Logs,
    /// `ExportMetricsServiceRequest`.
    Metrics,
    /// `ExportTraceServiceRequest`.
    Traces,
}

impl Signal {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Logs, Self::Metrics, Self::Traces];

    /// The name, as in the path of a request.
    pub fn name(self) -> &'static str {
        match self {
            Self::Logs => "logs",
            Self::Metrics => "metrics",
            Self::Traces => "traces",
        }
    }

    /// What is accepted or rejected, in the singular.
    pub fn record(self) -> &'static str {
        match self {
            Self::Logs => "log record",
            Self::Metrics => "data point",
            Self::Traces => "span",
        }
    }

    /// The key in JSON of the number of rejected records in a response.
    pub fn rejected_key(self) -> &'static str {
        match self {
            Self::Logs => "rejectedLogRecords",
            Self::Metrics => "rejectedDataPoints",
            Self::Traces => "rejectedSpans",
        }
    }
}

/// Bytes that are not a message of OTLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed protobuf in `{message}`: {fault}")]
pub struct Malformed {
    /// The message of the schema.
    pub message: &'static str,
    /// What is wrong with its bytes.
    pub fault: Fault,
}

/// Why a request is refused as a whole. Nothing that was written for it may be kept.
#[derive(Debug, thiserror::Error)]
pub enum OtlpError<E> {
    /// Not protobuf of the schema.
    #[error("{noun} {record}: {malformed}; encode with the .proto files of OpenTelemetry", noun = signal.map_or("record", Signal::record))]
    Malformed {
        /// What the request holds; `None`: not known yet.
        signal: Option<Signal>,
        /// Index of the record, or where the next one was expected.
        record: usize,
        /// What is wrong.
        malformed: Malformed,
    },
    /// Not JSON of the schema; the text says what is wrong and where.
    #[error("malformed JSON: {0}")]
    Json(String),
    /// The request has more events than one may have.
    #[error("more than {max} events in one request: send smaller batches")]
    TooManyEvents {
        /// Most events of one request.
        max: usize,
    },
    /// One record in JSON becomes too much protobuf.
    #[error(
        "one record or metric becomes more than {OTLP_JSON_RECORD_BYTES_MAX} bytes of protobuf: send smaller batches"
    )]
    RecordTooLarge,
    /// What the output returned.
    #[error("an event was not taken")]
    Output(E),
}

impl<E> From<Malformed> for OtlpError<E> {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed { signal: None, record: 0, malformed }
    }
}

/// Where encoded events go.
pub trait Output {
    /// Why no more is taken.
    type Error;

    /// Room for the next event: at least [`EVENT_FIELD_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// There is none.
    fn room(&mut self) -> Result<&mut [u8], Self::Error>;

    /// The first `bytes` of [`Output::room`] are one event as a field of an `EventBatch`.
    fn wrote(&mut self, bytes: usize);

    /// A record was rejected. `pieces`, joined, are a request that holds nothing else.
    ///
    /// # Errors
    /// There is no room for it.
    fn reject(&mut self, pieces: &[&[u8]]) -> Result<(), Self::Error>;
}

/// What a request held.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decoded {
    /// Log records, data points or spans that became events.
    pub accepted: usize,
    /// Events that were written; a span may be several.
    pub events: usize,
    /// The records that break a rule.
    pub rejected: Rejections,
}

impl Decoded {
    /// The rejected records in a few words, for the answer; `None`: there are none.
    pub fn summary(&self, signal: Signal) -> Option<String> {
        (self.rejected.total > 0).then(|| mapping::summary(signal, self))
    }
}

/// Turns requests into encoded events. Reuse it: its buffers stay.
#[derive(Debug, Default)]
pub struct OtlpDecoder {
    scratch: Scratch,
    prefix: Prefix,
    transcoded: json::Buffers,
}

impl OtlpDecoder {
    /// A decoder with empty buffers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a request in protobuf.
    ///
    /// # Errors
    /// The request is malformed or too large, or `out` takes no more. What was written is void.
    pub fn protobuf<O: Output>(
        &mut self,
        signal: Signal,
        body: &[u8],
        out: &mut O,
    ) -> Result<Decoded, OtlpError<O::Error>> {
        let mut mapping = Mapping::new(signal, &mut self.scratch, &mut self.prefix, out);
        match mapping.request(body) {
            Ok(()) => Ok(mapping.decoded),
            Err(error) => Err(mapping.located(error)),
        }
    }

    /// Reads a request in JSON.
    ///
    /// # Errors
    /// As of [`OtlpDecoder::protobuf`].
    pub fn json<O: Output>(
        &mut self,
        signal: Signal,
        body: &[u8],
        out: &mut O,
    ) -> Result<Decoded, OtlpError<O::Error>> {
        let mut mapping = Mapping::new(signal, &mut self.scratch, &mut self.prefix, out);
        match json::read(&mut mapping, &mut self.transcoded, body) {
            Ok(()) => Ok(mapping.decoded),
            Err(error) => Err(mapping.located(error)),
        }
    }
}

impl<O: Output> Mapping<'_, O> {
    /// With the record in which the request is malformed.
    fn located(&self, error: OtlpError<O::Error>) -> OtlpError<O::Error> {
        match error {
            OtlpError::Malformed { malformed, .. } => {
                OtlpError::Malformed { signal: Some(self.signal), record: self.next_record(), malformed }
            }
            error => error,
        }
    }
}
