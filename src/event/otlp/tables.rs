//! The messages of OTLP as tables: what `schema` checks and `transcode` reads JSON by. Those of opentelemetry-proto 1.11;
//! a test compares them with the official `.proto` files.

use super::schema::Kind::{
    Bool, Bytes, Double, Enum, Fixed32, Fixed64, Id, Int32, Int64, Message as Nested, SFixed64, SInt32, Text, UInt32,
    UInt64,
};
use super::schema::{Message, many, one};

/// `AnyValue`.
pub(super) static ANY_VALUE: Message = Message {
    name: "AnyValue",
    fields: &[
        one(1, "string_value", Text),
        one(2, "bool_value", Bool),
        one(3, "int_value", Int64),
        one(4, "double_value", Double),
        one(5, "array_value", Nested(&ARRAY_VALUE)),
        one(6, "kvlist_value", Nested(&KEY_VALUE_LIST)),
        one(7, "bytes_value", Bytes),
        one(8, "string_value_strindex", Int32),
    ],
};

/// `ArrayValue`.
pub(super) static ARRAY_VALUE: Message =
    Message { name: "ArrayValue", fields: &[many(1, "values", Nested(&ANY_VALUE))] };

/// `KeyValueList`.
pub(super) static KEY_VALUE_LIST: Message =
    Message { name: "KeyValueList", fields: &[many(1, "values", Nested(&KEY_VALUE))] };

/// `KeyValue`.
pub(super) static KEY_VALUE: Message = Message {
    name: "KeyValue",
    fields: &[one(1, "key", Text), one(2, "value", Nested(&ANY_VALUE)), one(3, "key_strindex", Int32)],
};

/// `InstrumentationScope`.
pub(super) static INSTRUMENTATION_SCOPE: Message = Message {
    name: "InstrumentationScope",
    fields: &[
        one(1, "name", Text),
        one(2, "version", Text),
        many(3, "attributes", Nested(&KEY_VALUE)),
        one(4, "dropped_attributes_count", UInt32),
    ],
};

/// `EntityRef`.
pub(super) static ENTITY_REF: Message = Message {
    name: "EntityRef",
    fields: &[
        one(1, "schema_url", Text),
        one(2, "type", Text),
        many(3, "id_keys", Text),
        many(4, "description_keys", Text),
    ],
};

/// `Resource`.
pub(super) static RESOURCE: Message = Message {
    name: "Resource",
    fields: &[
        many(1, "attributes", Nested(&KEY_VALUE)),
        one(2, "dropped_attributes_count", UInt32),
        many(3, "entity_refs", Nested(&ENTITY_REF)),
    ],
};

/// `ResourceLogs`.
pub(super) static RESOURCE_LOGS: Message = Message {
    name: "ResourceLogs",
    fields: &[
        one(1, "resource", Nested(&RESOURCE)),
        many(2, "scope_logs", Nested(&SCOPE_LOGS)),
        one(3, "schema_url", Text),
    ],
};

/// `ScopeLogs`.
pub(super) static SCOPE_LOGS: Message = Message {
    name: "ScopeLogs",
    fields: &[
        one(1, "scope", Nested(&INSTRUMENTATION_SCOPE)),
        many(2, "log_records", Nested(&LOG_RECORD)),
        one(3, "schema_url", Text),
    ],
};

/// `LogRecord`.
pub(super) static LOG_RECORD: Message = Message {
    name: "LogRecord",
    fields: &[
        one(1, "time_unix_nano", Fixed64),
        one(2, "severity_number", Enum),
        one(3, "severity_text", Text),
        one(5, "body", Nested(&ANY_VALUE)),
        many(6, "attributes", Nested(&KEY_VALUE)),
        one(7, "dropped_attributes_count", UInt32),
        one(8, "flags", Fixed32),
        one(9, "trace_id", Id),
        one(10, "span_id", Id),
        one(11, "observed_time_unix_nano", Fixed64),
        one(12, "event_name", Text),
    ],
};

/// `ResourceSpans`.
pub(super) static RESOURCE_SPANS: Message = Message {
    name: "ResourceSpans",
    fields: &[
        one(1, "resource", Nested(&RESOURCE)),
        many(2, "scope_spans", Nested(&SCOPE_SPANS)),
        one(3, "schema_url", Text),
    ],
};

/// `ScopeSpans`.
pub(super) static SCOPE_SPANS: Message = Message {
    name: "ScopeSpans",
    fields: &[
        one(1, "scope", Nested(&INSTRUMENTATION_SCOPE)),
        many(2, "spans", Nested(&SPAN)),
        one(3, "schema_url", Text),
    ],
};

/// `Span`.
pub(super) static SPAN: Message = Message {
    name: "Span",
    fields: &[
        one(1, "trace_id", Id),
        one(2, "span_id", Id),
        one(3, "trace_state", Text),
        one(4, "parent_span_id", Id),
        one(5, "name", Text),
        one(6, "kind", Enum),
        one(7, "start_time_unix_nano", Fixed64),
        one(8, "end_time_unix_nano", Fixed64),
        many(9, "attributes", Nested(&KEY_VALUE)),
        one(10, "dropped_attributes_count", UInt32),
        many(11, "events", Nested(&SPAN_EVENT)),
        one(12, "dropped_events_count", UInt32),
        many(13, "links", Nested(&SPAN_LINK)),
        one(14, "dropped_links_count", UInt32),
        one(15, "status", Nested(&STATUS)),
        one(16, "flags", Fixed32),
    ],
};

/// `Span.Event`.
pub(super) static SPAN_EVENT: Message = Message {
    name: "Span.Event",
    fields: &[
        one(1, "time_unix_nano", Fixed64),
        one(2, "name", Text),
        many(3, "attributes", Nested(&KEY_VALUE)),
        one(4, "dropped_attributes_count", UInt32),
    ],
};

/// `Span.Link`.
pub(super) static SPAN_LINK: Message = Message {
    name: "Span.Link",
    fields: &[
        one(1, "trace_id", Id),
        one(2, "span_id", Id),
        one(3, "trace_state", Text),
        many(4, "attributes", Nested(&KEY_VALUE)),
        one(5, "dropped_attributes_count", UInt32),
        one(6, "flags", Fixed32),
    ],
};

/// `Status`.
pub(super) static STATUS: Message =
    Message { name: "Status", fields: &[one(2, "message", Text), one(3, "code", Enum)] };

/// `ResourceMetrics`.
pub(super) static RESOURCE_METRICS: Message = Message {
    name: "ResourceMetrics",
    fields: &[
        one(1, "resource", Nested(&RESOURCE)),
        many(2, "scope_metrics", Nested(&SCOPE_METRICS)),
        one(3, "schema_url", Text),
    ],
};

/// `ScopeMetrics`.
pub(super) static SCOPE_METRICS: Message = Message {
    name: "ScopeMetrics",
    fields: &[
        one(1, "scope", Nested(&INSTRUMENTATION_SCOPE)),
        many(2, "metrics", Nested(&METRIC)),
        one(3, "schema_url", Text),
    ],
};

/// `Metric`.
pub(super) static METRIC: Message = Message {
    name: "Metric",
    fields: &[
        one(1, "name", Text),
        one(2, "description", Text),
        one(3, "unit", Text),
        one(5, "gauge", Nested(&GAUGE)),
        one(7, "sum", Nested(&SUM)),
        one(9, "histogram", Nested(&HISTOGRAM)),
        one(10, "exponential_histogram", Nested(&EXPONENTIAL_HISTOGRAM)),
        one(11, "summary", Nested(&SUMMARY)),
        many(12, "metadata", Nested(&KEY_VALUE)),
    ],
};

/// `Gauge`.
pub(super) static GAUGE: Message =
    Message { name: "Gauge", fields: &[many(1, "data_points", Nested(&NUMBER_DATA_POINT))] };

/// `Sum`.
pub(super) static SUM: Message = Message {
    name: "Sum",
    fields: &[
        many(1, "data_points", Nested(&NUMBER_DATA_POINT)),
        one(2, "aggregation_temporality", Enum),
        one(3, "is_monotonic", Bool),
    ],
};

/// `Histogram`.
pub(super) static HISTOGRAM: Message = Message {
    name: "Histogram",
    fields: &[many(1, "data_points", Nested(&HISTOGRAM_DATA_POINT)), one(2, "aggregation_temporality", Enum)],
};

/// `ExponentialHistogram`.
pub(super) static EXPONENTIAL_HISTOGRAM: Message = Message {
    name: "ExponentialHistogram",
    fields: &[
        many(1, "data_points", Nested(&EXPONENTIAL_HISTOGRAM_DATA_POINT)),
        one(2, "aggregation_temporality", Enum),
    ],
};

/// `Summary`.
pub(super) static SUMMARY: Message =
    Message { name: "Summary", fields: &[many(1, "data_points", Nested(&SUMMARY_DATA_POINT))] };

/// `NumberDataPoint`.
pub(super) static NUMBER_DATA_POINT: Message = Message {
    name: "NumberDataPoint",
    fields: &[
        one(2, "start_time_unix_nano", Fixed64),
        one(3, "time_unix_nano", Fixed64),
        one(4, "as_double", Double),
        many(5, "exemplars", Nested(&EXEMPLAR)),
        one(6, "as_int", SFixed64),
        many(7, "attributes", Nested(&KEY_VALUE)),
        one(8, "flags", UInt32),
    ],
};

/// `HistogramDataPoint`.
pub(super) static HISTOGRAM_DATA_POINT: Message = Message {
    name: "HistogramDataPoint",
    fields: &[
        one(2, "start_time_unix_nano", Fixed64),
        one(3, "time_unix_nano", Fixed64),
        one(4, "count", Fixed64),
        one(5, "sum", Double),
        many(6, "bucket_counts", Fixed64),
        many(7, "explicit_bounds", Double),
        many(8, "exemplars", Nested(&EXEMPLAR)),
        many(9, "attributes", Nested(&KEY_VALUE)),
        one(10, "flags", UInt32),
        one(11, "min", Double),
        one(12, "max", Double),
    ],
};

/// `ExponentialHistogramDataPoint`.
pub(super) static EXPONENTIAL_HISTOGRAM_DATA_POINT: Message = Message {
    name: "ExponentialHistogramDataPoint",
    fields: &[
        many(1, "attributes", Nested(&KEY_VALUE)),
        one(2, "start_time_unix_nano", Fixed64),
        one(3, "time_unix_nano", Fixed64),
        one(4, "count", Fixed64),
        one(5, "sum", Double),
        one(6, "scale", SInt32),
        one(7, "zero_count", Fixed64),
        one(8, "positive", Nested(&EXPONENTIAL_HISTOGRAM_DATA_POINT_BUCKETS)),
        one(9, "negative", Nested(&EXPONENTIAL_HISTOGRAM_DATA_POINT_BUCKETS)),
        one(10, "flags", UInt32),
        many(11, "exemplars", Nested(&EXEMPLAR)),
        one(12, "min", Double),
        one(13, "max", Double),
        one(14, "zero_threshold", Double),
    ],
};

/// `ExponentialHistogramDataPoint.Buckets`.
pub(super) static EXPONENTIAL_HISTOGRAM_DATA_POINT_BUCKETS: Message = Message {
    name: "ExponentialHistogramDataPoint.Buckets",
    fields: &[one(1, "offset", SInt32), many(2, "bucket_counts", UInt64)],
};

/// `SummaryDataPoint`.
pub(super) static SUMMARY_DATA_POINT: Message = Message {
    name: "SummaryDataPoint",
    fields: &[
        one(2, "start_time_unix_nano", Fixed64),
        one(3, "time_unix_nano", Fixed64),
        one(4, "count", Fixed64),
        one(5, "sum", Double),
        many(6, "quantile_values", Nested(&SUMMARY_DATA_POINT_VALUE_AT_QUANTILE)),
        many(7, "attributes", Nested(&KEY_VALUE)),
        one(8, "flags", UInt32),
    ],
};

/// `SummaryDataPoint.ValueAtQuantile`.
pub(super) static SUMMARY_DATA_POINT_VALUE_AT_QUANTILE: Message = Message {
    name: "SummaryDataPoint.ValueAtQuantile",
    fields: &[one(1, "quantile", Double), one(2, "value", Double)],
};

/// `Exemplar`.
pub(super) static EXEMPLAR: Message = Message {
    name: "Exemplar",
    fields: &[
        one(2, "time_unix_nano", Fixed64),
        one(3, "as_double", Double),
        one(4, "span_id", Id),
        one(5, "trace_id", Id),
        one(6, "as_int", SFixed64),
        many(7, "filtered_attributes", Nested(&KEY_VALUE)),
    ],
};

/// `ExportLogsServiceRequest`.
pub(super) static EXPORT_LOGS_SERVICE_REQUEST: Message =
    Message { name: "ExportLogsServiceRequest", fields: &[many(1, "resource_logs", Nested(&RESOURCE_LOGS))] };

/// `ExportTraceServiceRequest`.
pub(super) static EXPORT_TRACE_SERVICE_REQUEST: Message =
    Message { name: "ExportTraceServiceRequest", fields: &[many(1, "resource_spans", Nested(&RESOURCE_SPANS))] };

/// `ExportMetricsServiceRequest`.
pub(super) static EXPORT_METRICS_SERVICE_REQUEST: Message =
    Message { name: "ExportMetricsServiceRequest", fields: &[many(1, "resource_metrics", Nested(&RESOURCE_METRICS))] };
