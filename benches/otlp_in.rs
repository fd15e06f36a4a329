//! OTLP in: a request of 1,000 log records in protobuf becomes checked, encoded events; prost decodes the same bytes into its
//! types and maps nothing.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use prost::Message as _;
use std::convert::Infallible;
use std::hint::black_box;
use telemetryx::event::otlp::reference::collector::logs::v1::ExportLogsServiceRequest;
use telemetryx::event::otlp::reference::common::v1::any_value::Value;
use telemetryx::event::otlp::reference::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use telemetryx::event::otlp::reference::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use telemetryx::event::otlp::reference::resource::v1::Resource;
use telemetryx::event::otlp::{EVENT_FIELD_BYTES_MAX, OtlpDecoder, Output, Signal};

const RECORDS: u64 = 1_000;

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn text(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

/// What an SDK sends for a request that a web service has logged.
fn record(number: u64) -> LogRecord {
    LogRecord {
        time_unix_nano: 1_795_464_948_000_000_000 + number,
        observed_time_unix_nano: 1_795_464_948_000_000_100 + number,
        severity_number: 9,
        severity_text: "INFO".to_owned(),
        body: Some(AnyValue {
            value: Some(Value::StringValue(format!(
                "GET /api/v1/orders/{number} answered with 200 in {} ms",
                number % 97
            ))),
        }),
        attributes: vec![
            text("http.request.method", "GET"),
            text("url.path", format!("/api/v1/orders/{number}")),
            attribute("http.response.status_code", Value::IntValue(200)),
            attribute("duration", Value::DoubleValue(number as f64 / 7.0)),
            text("code.file.path", "/srv/shop/orders/views.py"),
            text("code.function.name", "get_order"),
        ],
        trace_id: vec![number as u8 | 1; 16],
        span_id: vec![number as u8 | 1; 8],
        ..LogRecord::default()
    }
}

fn request() -> Vec<u8> {
    let resource = Resource {
        attributes: vec![
            text("service.name", "shop"),
            text("service.version", "2.14.0"),
            text("host.name", "web-17.example.com"),
            text("telemetry.sdk.language", "python"),
            text("telemetry.sdk.name", "opentelemetry"),
            text("telemetry.sdk.version", "1.45.2"),
        ],
        ..Resource::default()
    };
    let scope = InstrumentationScope { name: "shop.orders".to_owned(), ..InstrumentationScope::default() };
    let scope_logs =
        vec![ScopeLogs { scope: Some(scope), log_records: (0..RECORDS).map(record).collect(), ..ScopeLogs::default() }];
    let resource_logs = vec![ResourceLogs { resource: Some(resource), scope_logs, ..ResourceLogs::default() }];
    ExportLogsServiceRequest { resource_logs }.encode_to_vec()
}

/// Events one after the other, as in a buffer of the pool.
struct Buffer {
    bytes: Vec<u8>,
    filled: usize,
}

impl Output for Buffer {
    type Error = Infallible;

    fn room(&mut self) -> Result<&mut [u8], Infallible> {
        if self.filled + EVENT_FIELD_BYTES_MAX > self.bytes.len() {
            self.filled = 0;
        }
        Ok(&mut self.bytes[self.filled..])
    }

    fn wrote(&mut self, bytes: usize) {
        self.filled += bytes;
    }

    fn reject(&mut self, _: &[&[u8]]) -> Result<(), Infallible> {
        Ok(())
    }
}

fn otlp_in(criterion: &mut Criterion) {
    let body = request();
    let mut group = criterion.benchmark_group("otlp_in");
    group.throughput(Throughput::Elements(RECORDS));
    let (mut decoder, mut buffer) = (OtlpDecoder::new(), Buffer { bytes: vec![0; 4 << 20], filled: 0 });
    group.bench_function("OtlpDecoder", |bench| {
        bench.iter(|| {
            let decoded = decoder.protobuf(Signal::Logs, black_box(&body), &mut buffer);
            assert!(decoded.is_ok_and(|decoded| decoded.events == RECORDS as usize));
        });
    });
    group.bench_function("prost", |bench| {
        bench.iter(|| {
            let request =
                ExportLogsServiceRequest::decode(black_box(body.as_slice())).expect("it was encoded by prost");
            assert_eq!(request.resource_logs[0].scope_logs[0].log_records.len() as u64, RECORDS);
        });
    });
    group.finish();
}

criterion_group!(benches, otlp_in);
criterion_main!(benches);
