//! The mapping once more, in the plainest form: from the types of prost to owned values, without limits.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value as Json, json};

use crate::event::EventKind;
use crate::event::otlp::reference::collector::logs::v1::ExportLogsServiceRequest;
use crate::event::otlp::reference::collector::metrics::v1::ExportMetricsServiceRequest;
use crate::event::otlp::reference::collector::trace::v1::ExportTraceServiceRequest;
use crate::event::otlp::reference::common::v1::any_value::Value;
use crate::event::otlp::reference::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use crate::event::otlp::reference::logs::v1::LogRecord;
use crate::event::otlp::reference::metrics::v1::{
    Exemplar, ExponentialHistogramDataPoint, HistogramDataPoint, Metric, NumberDataPoint, SummaryDataPoint, exemplar,
    metric, number_data_point,
};
use crate::event::otlp::reference::resource::v1::Resource;
use crate::event::otlp::reference::trace::v1::{Span, span};
use crate::event::view::AttributeValue;

/// What becomes of a record.
pub(super) enum Record {
    /// It breaks a rule.
    Rejected,
    /// The events that it becomes.
    Events(Vec<Expected>),
}

/// An event.
#[derive(Debug, Clone, Default)]
pub(super) struct Expected {
    pub kind: EventKind,
    pub time: u64,
    pub severity: i32,
    pub source: String,
    pub name: String,
    pub body: Datum,
    pub attributes: Vec<(String, Datum)>,
    pub value: Option<f64>,
    pub duration: u64,
    pub trace_id: Vec<u8>,
    pub span_id: Vec<u8>,
    pub parent_span_id: Vec<u8>,
}

/// A value, or a text of JSON whose keys may be in another order.
#[derive(Debug, Clone)]
pub(super) enum Datum {
    Text(String),
    Int(i64),
    Double(f64),
    Bool(bool),
    Bytes(Vec<u8>),
    Json(Json),
}

impl Default for Datum {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

impl Datum {
    pub(super) fn compare_text(&self, text: &str) {
        match self {
            Self::Text(expected) => assert_eq!(text, expected),
            Self::Json(expected) => {
                let json: Json = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
                assert_eq!(&json, expected);
            }
            other => panic!("{other:?} is no text"),
        }
    }

    pub(super) fn compare(&self, value: AttributeValue<'_>) {
        match (self, value) {
            (Self::Int(expected), AttributeValue::Int(found)) => assert_eq!(found, *expected),
            (Self::Double(expected), AttributeValue::Double(found)) => assert_eq!(found.to_bits(), expected.to_bits()),
            (Self::Bool(expected), AttributeValue::Bool(found)) => assert_eq!(found, *expected),
            (Self::Bytes(expected), AttributeValue::Bytes(found)) => assert_eq!(found, expected),
            (expected, AttributeValue::String(text)) => expected.compare_text(text),
            (expected, found) => panic!("{found:?} is not {expected:?}"),
        }
    }
}

type Attributes = Vec<(String, Datum)>;

fn value_json(value: Option<&AnyValue>) -> Json {
    match value.and_then(|value| value.value.as_ref()) {
        None | Some(Value::StringValueStrindex(_)) => Json::Null,
        Some(Value::StringValue(text)) => json!(text),
        Some(Value::BoolValue(yes)) => json!(yes),
        Some(Value::IntValue(number)) => json!(number),
        Some(Value::DoubleValue(number)) => double_json(*number),
        Some(Value::BytesValue(bytes)) => json!(BASE64_STANDARD.encode(bytes)),
        Some(Value::ArrayValue(array)) => array.values.iter().map(|value| value_json(Some(value))).collect(),
        Some(Value::KvlistValue(list)) => list_json(&list.values),
    }
}

fn list_json(list: &[KeyValue]) -> Json {
    let mut object = Map::new();
    for KeyValue { key, value, .. } in list {
        object.insert(key.clone(), value_json(value.as_ref()));
    }
    Json::Object(object)
}

fn double_json(number: f64) -> Json {
    match number {
        f64::INFINITY => json!("Infinity"),
        f64::NEG_INFINITY => json!("-Infinity"),
        number if number.is_nan() => json!("NaN"),
        number => json!(number),
    }
}

fn put_attributes(prefix: &str, list: &[KeyValue], into: &mut Attributes) {
    for KeyValue { key, value, .. } in list {
        let key = format!("{prefix}{key}");
        let value = match value.as_ref().and_then(|value| value.value.as_ref()) {
            None | Some(Value::StringValueStrindex(_)) => Datum::default(),
            Some(Value::StringValue(text)) => Datum::Text(text.clone()),
            Some(Value::BoolValue(yes)) => Datum::Bool(*yes),
            Some(Value::IntValue(number)) => Datum::Int(*number),
            Some(Value::DoubleValue(number)) => Datum::Double(*number),
            Some(Value::BytesValue(bytes)) => Datum::Bytes(bytes.clone()),
            Some(Value::ArrayValue(_)) => Datum::Json(value_json(value.as_ref())),
            Some(Value::KvlistValue(list)) => {
                put_attributes(&format!("{key}."), &list.values, into);
                continue;
            }
        };
        into.push((key, value));
    }
}

fn put_count(key: &str, count: u32, into: &mut Attributes) {
    if count > 0 {
        into.push((key.to_owned(), Datum::Int(count.into())));
    }
}

fn put_text(key: &str, text: &str, into: &mut Attributes) {
    if !text.is_empty() {
        into.push((key.to_owned(), Datum::Text(text.to_owned())));
    }
}

/// The source and the attributes of a resource and a scope.
fn common(resource: Option<&Resource>, scope: Option<&InstrumentationScope>) -> Expected {
    let mut event = Expected::default();
    if let Some(resource) = resource {
        put_attributes("resource.", &resource.attributes, &mut event.attributes);
        put_count("resource.dropped_attributes_count", resource.dropped_attributes_count, &mut event.attributes);
        let named = |name: &str| {
            let texts = resource.attributes.iter().filter(|attribute| attribute.key == name);
            let mut texts = texts.filter_map(|attribute| match attribute.value.as_ref()?.value.as_ref()? {
                Value::StringValue(text) => Some(text.clone()),
                _ => None,
            });
            texts.next_back().filter(|text| !text.is_empty())
        };
        event.source = named("service.name").or_else(|| named("host.name")).unwrap_or_default();
    }
    if let Some(scope) = scope {
        put_attributes("scope.", &scope.attributes, &mut event.attributes);
        put_text("scope.name", &scope.name, &mut event.attributes);
        put_text("scope.version", &scope.version, &mut event.attributes);
        put_count("scope.dropped_attributes_count", scope.dropped_attributes_count, &mut event.attributes);
    }
    event
}

fn is_time(time: u64) -> bool {
    time <= i64::MAX as u64
}

fn is_id(id: &[u8], bytes: usize) -> bool {
    id.len() == bytes && id.iter().any(|byte| *byte != 0)
}

fn id(id: &[u8], bytes: usize) -> Vec<u8> {
    if is_id(id, bytes) { id.to_vec() } else { Vec::new() }
}

pub(super) fn logs(request: &ExportLogsServiceRequest) -> Vec<Record> {
    let mut records = Vec::new();
    for resource in &request.resource_logs {
        for scope in &resource.scope_logs {
            let common = common(resource.resource.as_ref(), scope.scope.as_ref());
            records.extend(scope.log_records.iter().map(|log| log_record(log, common.clone())));
        }
    }
    records
}

fn log_record(log: &LogRecord, mut event: Expected) -> Record {
    event.time = if log.time_unix_nano == 0 { log.observed_time_unix_nano } else { log.time_unix_nano };
    if !is_time(event.time) || !(0..=24).contains(&log.severity_number) {
        return Record::Rejected;
    }
    event.kind = EventKind::Log;
    event.severity = log.severity_number;
    event.body = match log.body.as_ref().and_then(|body| body.value.as_ref()) {
        None | Some(Value::StringValueStrindex(_)) => Datum::default(),
        Some(Value::StringValue(text)) => Datum::Text(text.clone()),
        Some(_) => Datum::Json(value_json(log.body.as_ref())),
    };
    event.name = log.event_name.clone();
    if event.name.is_empty() && matches!(&event.body, Datum::Text(text) if text.is_empty()) {
        event.name = "log".to_owned();
    }
    put_attributes("", &log.attributes, &mut event.attributes);
    put_text("severity_text", &log.severity_text, &mut event.attributes);
    put_count("flags", log.flags, &mut event.attributes);
    put_count("dropped_attributes_count", log.dropped_attributes_count, &mut event.attributes);
    event.trace_id = id(&log.trace_id, 16);
    event.span_id = id(&log.span_id, 8);
    Record::Events(vec![event])
}

pub(super) fn traces(request: &ExportTraceServiceRequest) -> Vec<Record> {
    let mut records = Vec::new();
    for resource in &request.resource_spans {
        for scope in &resource.scope_spans {
            let common = common(resource.resource.as_ref(), scope.scope.as_ref());
            records.extend(scope.spans.iter().map(|span| span_record(span, &common)));
        }
    }
    records
}

fn span_record(span: &Span, common: &Expected) -> Record {
    let times = [span.start_time_unix_nano, span.end_time_unix_nano];
    let mut times = times.into_iter().chain(span.events.iter().map(|event| event.time_unix_nano));
    let parent = &span.parent_span_id;
    if !is_id(&span.trace_id, 16)
        || !is_id(&span.span_id, 8)
        || !(parent.is_empty() || parent.len() == 8)
        || !times.all(is_time)
    {
        return Record::Rejected;
    }
    let mut event = common.clone();
    event.kind = EventKind::Span;
    event.time = span.start_time_unix_nano;
    event.name = if span.name.is_empty() { "span".to_owned() } else { span.name.clone() };
    let attributes = &mut event.attributes;
    put_attributes("", &span.attributes, attributes);
    let enums = [
        ("span.kind", &["internal", "server", "client", "producer", "consumer"][..], span.kind),
        ("status.code", &["ok", "error"][..], span.status.as_ref().map_or(0, |status| status.code)),
    ];
    for (key, names, number) in enums {
        put_enum(key, names, number, attributes);
    }
    put_count("flags", span.flags, attributes);
    put_count("dropped_attributes_count", span.dropped_attributes_count, attributes);
    put_count("dropped_events_count", span.dropped_events_count, attributes);
    put_count("dropped_links_count", span.dropped_links_count, attributes);
    let (start, end) = (span.start_time_unix_nano, span.end_time_unix_nano);
    if start == 0 || end < start {
        if end > 0 {
            attributes.push(("end_time".to_owned(), Datum::Int(end as i64)));
        }
    } else {
        event.duration = end - start;
    }
    put_text("trace_state", &span.trace_state, attributes);
    put_text("status.message", span.status.as_ref().map_or("", |status| &status.message), attributes);
    if !span.links.is_empty() {
        attributes.push(("links".to_owned(), Datum::Json(span.links.iter().map(link_json).collect())));
    }
    event.trace_id = span.trace_id.clone();
    event.span_id = span.span_id.clone();
    event.parent_span_id = id(parent, 8);
    let mut events = vec![event];
    for of_span in &span.events {
        let mut event = common.clone();
        event.kind = EventKind::Log;
        event.time = of_span.time_unix_nano;
        event.name = if of_span.name.is_empty() { "log".to_owned() } else { of_span.name.clone() };
        put_attributes("", &of_span.attributes, &mut event.attributes);
        put_count("dropped_attributes_count", of_span.dropped_attributes_count, &mut event.attributes);
        event.trace_id = span.trace_id.clone();
        event.span_id = span.span_id.clone();
        events.push(event);
    }
    Record::Events(events)
}

fn put_enum(key: &str, names: &[&str], number: i32, into: &mut Attributes) {
    if number != 0 {
        let name = usize::try_from(number).ok().and_then(|number| names.get(number - 1));
        let value = name.map_or(Datum::Int(number.into()), |name| Datum::Text((*name).to_owned()));
        into.push((key.to_owned(), value));
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(32).map(|byte| format!("{byte:02x}")).collect()
}

fn link_json(link: &span::Link) -> Json {
    let mut object = Map::new();
    object.insert("trace_id".to_owned(), json!(hex(&link.trace_id)));
    object.insert("span_id".to_owned(), json!(hex(&link.span_id)));
    if !link.trace_state.is_empty() {
        object.insert("trace_state".to_owned(), json!(link.trace_state));
    }
    if !link.attributes.is_empty() {
        object.insert("attributes".to_owned(), list_json(&link.attributes));
    }
    for (name, count) in [("dropped_attributes_count", link.dropped_attributes_count), ("flags", link.flags)] {
        if count > 0 {
            object.insert(name.to_owned(), json!(count));
        }
    }
    Json::Object(object)
}

pub(super) fn metrics(request: &ExportMetricsServiceRequest) -> Vec<Record> {
    let mut records = Vec::new();
    for resource in &request.resource_metrics {
        for scope in &resource.scope_metrics {
            let common = common(resource.resource.as_ref(), scope.scope.as_ref());
            scope.metrics.iter().for_each(|metric| metric_records(metric, &common, &mut records));
        }
    }
    records
}

/// What every data point has.
struct Point<'a> {
    kind: EventKind,
    attributes: &'a [KeyValue],
    start_time: u64,
    time: u64,
    flags: u32,
    exemplars: &'a [Exemplar],
    temporality: i32,
    /// `None`: it breaks a rule.
    content: Option<(Option<f64>, Option<i64>, Option<Json>)>,
}

fn metric_records(metric: &Metric, common: &Expected, records: &mut Vec<Record>) {
    let mut put = |point: Point<'_>| records.push(point_record(metric, &point, common));
    match &metric.data {
        None => {}
        Some(metric::Data::Gauge(gauge)) => {
            gauge.data_points.iter().for_each(|point| put(number_point(EventKind::Gauge, 0, point)));
        }
        Some(metric::Data::Sum(sum)) => {
            let kind = if sum.is_monotonic { EventKind::Counter } else { EventKind::Gauge };
            sum.data_points.iter().for_each(|point| put(number_point(kind, sum.aggregation_temporality, point)));
        }
        Some(metric::Data::Histogram(histogram)) => {
            let temporality = histogram.aggregation_temporality;
            histogram.data_points.iter().for_each(|point| put(histogram_point(temporality, point)));
        }
        Some(metric::Data::ExponentialHistogram(histogram)) => {
            let temporality = histogram.aggregation_temporality;
            histogram.data_points.iter().for_each(|point| put(exponential_point(temporality, point)));
        }
        Some(metric::Data::Summary(summary)) => {
            summary.data_points.iter().for_each(|point| put(summary_point(point)));
        }
    }
}

fn point_record(metric: &Metric, point: &Point<'_>, common: &Expected) -> Record {
    let Some((value, exact, body)) = &point.content else { return Record::Rejected };
    if metric.name.is_empty() || point.time == 0 || !is_time(point.time) || !is_time(point.start_time) {
        return Record::Rejected;
    }
    let mut event = common.clone();
    (event.kind, event.time, event.name, event.value) = (point.kind, point.time, metric.name.clone(), *value);
    if let Some(body) = body {
        event.body = Datum::Json(body.clone());
    }
    let attributes = &mut event.attributes;
    put_attributes("", point.attributes, attributes);
    put_text("unit", &metric.unit, attributes);
    put_enum("temporality", &["delta", "cumulative"], point.temporality, attributes);
    if point.start_time > 0 {
        attributes.push(("start_time".to_owned(), Datum::Int(point.start_time as i64)));
    }
    put_count("flags", point.flags, attributes);
    if let Some(integer) = exact {
        attributes.push(("value_int".to_owned(), Datum::Int(*integer)));
    }
    if !point.exemplars.is_empty() {
        attributes.push(("exemplars".to_owned(), Datum::Json(point.exemplars.iter().map(exemplar_json).collect())));
    }
    Record::Events(vec![event])
}

fn number_point(kind: EventKind, temporality: i32, point: &NumberDataPoint) -> Point<'_> {
    let content = match point.value {
        Some(number_data_point::Value::AsDouble(double)) => Some((Some(double), None, None)),
        Some(number_data_point::Value::AsInt(integer)) => {
            let exact = (integer as f64 as i128 != i128::from(integer)).then_some(integer);
            Some((Some(integer as f64), exact, None))
        }
        None => (point.flags & 1 != 0).then_some((None, None, None)),
    };
    Point {
        kind,
        attributes: &point.attributes,
        start_time: point.start_time_unix_nano,
        time: point.time_unix_nano,
        flags: point.flags,
        exemplars: &point.exemplars,
        temporality,
        content,
    }
}

fn with_range(mut object: Json, min: Option<f64>, max: Option<f64>) -> Json {
    for (name, value) in [("min", min), ("max", max)] {
        if let Some(value) = value {
            object[name] = double_json(value);
        }
    }
    object
}

fn histogram_point(temporality: i32, point: &HistogramDataPoint) -> Point<'_> {
    let (bounds, counts) = (&point.explicit_bounds, &point.bucket_counts);
    let is_valid = counts.len() == bounds.len() + 1 || (bounds.is_empty() && counts.is_empty());
    let bounds: Vec<_> = bounds.iter().map(|bound| double_json(*bound)).collect();
    let body = json!({ "count": point.count, "bounds": bounds, "counts": counts });
    Point {
        kind: EventKind::Histogram,
        attributes: &point.attributes,
        start_time: point.start_time_unix_nano,
        time: point.time_unix_nano,
        flags: point.flags,
        exemplars: &point.exemplars,
        temporality,
        content: is_valid.then(|| (point.sum, None, Some(with_range(body, point.min, point.max)))),
    }
}

fn exponential_point(temporality: i32, point: &ExponentialHistogramDataPoint) -> Point<'_> {
    let mut body = json!({ "count": point.count, "scale": point.scale, "zero_count": point.zero_count });
    if point.zero_threshold != 0.0 {
        body["zero_threshold"] = double_json(point.zero_threshold);
    }
    for (name, buckets) in [("positive", &point.positive), ("negative", &point.negative)] {
        if let Some(buckets) = buckets {
            body[name] = json!({ "offset": buckets.offset, "counts": buckets.bucket_counts });
        }
    }
    Point {
        kind: EventKind::Histogram,
        attributes: &point.attributes,
        start_time: point.start_time_unix_nano,
        time: point.time_unix_nano,
        flags: point.flags,
        exemplars: &point.exemplars,
        temporality,
        content: Some((point.sum, None, Some(with_range(body, point.min, point.max)))),
    }
}

fn summary_point(point: &SummaryDataPoint) -> Point<'_> {
    let quantile = |quantile: &crate::event::otlp::reference::metrics::v1::summary_data_point::ValueAtQuantile| json!({ "quantile": double_json(quantile.quantile), "value": double_json(quantile.value) });
    let quantiles: Vec<_> = point.quantile_values.iter().map(quantile).collect();
    Point {
        kind: EventKind::Summary,
        attributes: &point.attributes,
        start_time: point.start_time_unix_nano,
        time: point.time_unix_nano,
        flags: point.flags,
        exemplars: &[],
        temporality: 0,
        content: Some((Some(point.sum), None, Some(json!({ "count": point.count, "quantiles": quantiles })))),
    }
}

fn exemplar_json(exemplar: &Exemplar) -> Json {
    let mut object = Map::new();
    if exemplar.time_unix_nano > 0 {
        object.insert("time".to_owned(), json!(exemplar.time_unix_nano));
    }
    match exemplar.value {
        Some(exemplar::Value::AsDouble(double)) => drop(object.insert("value".to_owned(), double_json(double))),
        Some(exemplar::Value::AsInt(integer)) => drop(object.insert("value".to_owned(), json!(integer))),
        None => {}
    }
    for (name, id) in [("trace_id", &exemplar.trace_id), ("span_id", &exemplar.span_id)] {
        if !id.is_empty() {
            object.insert(name.to_owned(), json!(hex(id)));
        }
    }
    if !exemplar.filtered_attributes.is_empty() {
        object.insert("attributes".to_owned(), list_json(&exemplar.filtered_attributes));
    }
    Json::Object(object)
}
