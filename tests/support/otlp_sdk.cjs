// Sends logs, traces or metrics with the OpenTelemetry SDK for Node, and prints the rows that they have to become, one JSON object
// per line: otlp_sdk.py --expected compares them with those of the server's SQLite.
//
// Usage: node otlp_sdk.cjs SIGNAL ENDPOINT COUNT [gzip] [json]
"use strict";

const { SpanKind, SpanStatusCode, ROOT_CONTEXT, trace } = require("@opentelemetry/api");
const { resourceFromAttributes } = require("@opentelemetry/resources");

const [signal, endpoint, count, ...options] = process.argv.slice(2);
const COUNT = Number(count);
const START = 1_795_464_948_000_000_000n;
const SCOPE = "shop.orders", VERSION = "1.2.3";
const RESOURCE = { "service.name": "shop", "host.name": "büro-1", "process.pid": 4711, tags: ["a", "b"] };
const resource = resourceFromAttributes(RESOURCE);
// Of one export; a batch that waits has no place in the queue of the exporter.
const BATCH = 512;

function exporter(name, className) {
  const kind = options.includes("json") ? "http" : "proto";
  const exporters = require(`@opentelemetry/exporter-${name}-otlp-${kind}`);
  const path = { logs: "logs", trace: "traces", metrics: "metrics" }[name];
  return new exporters[className]({
    url: `${endpoint}/v1/${path}`,
    compression: options.includes("gzip") ? "gzip" : "none",
    timeoutMillis: 60_000,
  });
}

/** An attribute as the table has it: an array is its JSON text. */
const flat = (value) => (Array.isArray(value) ? JSON.stringify(value) : value);
const rows = [];

function row(kind, nanos, attributes, fields) {
  const all = {};
  for (const [key, value] of Object.entries(RESOURCE)) all["resource." + key] = flat(value);
  Object.assign(all, { "scope.name": SCOPE, "scope.version": VERSION });
  for (const [key, value] of Object.entries(attributes)) all[key] = flat(value);
  const seconds = Number(nanos / 1_000_000_000n), rest = String(nanos % 1_000_000_000n).padStart(9, "0");
  const time = new Date(seconds * 1000).toISOString().slice(0, 19) + `.${rest}Z`;
  const none = { severity: null, name: null, body: null, value: null, duration_nano: null, trace_id: null, span_id: null };
  rows.push({ ...none, parent_span_id: null, kind, time, source: "shop", attributes: all, ...fields });
}

/** Seconds and nanoseconds, as the SDK takes them. */
const time = (nanos) => [Number(nanos / 1_000_000_000n), Number(nanos % 1_000_000_000n)];

/** Adds every record, and waits for a batch before the queue is longer than that. */
async function inBatches(provider, add) {
  for (let number = 0; number < COUNT; number++) {
    add(number);
    if (number % (8 * BATCH) === 0) await provider.forceFlush();
  }
  await provider.forceFlush();
  await provider.shutdown();
}

async function logs() {
  const { BatchLogRecordProcessor, LoggerProvider } = require("@opentelemetry/sdk-logs");
  const queue = { maxQueueSize: 16 * BATCH, maxExportBatchSize: BATCH, exportTimeoutMillis: 60_000 };
  const processor = new BatchLogRecordProcessor({ exporter: exporter("logs", "OTLPLogExporter"), ...queue });
  const provider = new LoggerProvider({ resource, processors: [processor] });
  const logger = provider.getLogger(SCOPE, VERSION);
  await inBatches(provider, (number) => {
    const at = START + BigInt(number);
    const severity = number % 25;
    const attributes = { number, share: number / 7 + 0.5, even: number % 2 === 0, text: `grüße ${number}` };
    const body = number % 10 === 0 ? { order: number, items: ["a", 1.5] } : `order ${number} "sent"\n`;
    const eventName = number % 7 === 0 ? `event.${number % 5}` : undefined;
    const severityText = number % 3 === 0 ? `S${severity}` : undefined;
    logger.emit({
      timestamp: time(at), observedTimestamp: time(at + 5n), severityNumber: severity, severityText, body, attributes, eventName,
    });
    const own = severityText === undefined ? {} : { severity_text: severityText };
    row("log", at, { ...attributes, ...own }, { severity: severity || null, name: eventName ?? null, body });
  });
}

async function traces() {
  const { BasicTracerProvider, BatchSpanProcessor } = require("@opentelemetry/sdk-trace-base");
  const queue = { maxQueueSize: 16 * BATCH, maxExportBatchSize: BATCH, exportTimeoutMillis: 60_000 };
  const processor = new BatchSpanProcessor(exporter("trace", "OTLPTraceExporter"), queue);
  const provider = new BasicTracerProvider({ resource, spanProcessors: [processor] });
  const tracer = provider.getTracer(SCOPE, VERSION);
  const kinds = [SpanKind.INTERNAL, SpanKind.SERVER, SpanKind.CLIENT, SpanKind.PRODUCER, SpanKind.CONSUMER];
  let parent;
  await inBatches(provider, (number) => {
    const at = START + BigInt(number);
    const kind = kinds[number % kinds.length];
    const attributes = { number, path: `/orders/${number}` };
    const child = parent !== undefined && number % 4 !== 0;
    const context = child ? trace.setSpan(ROOT_CONTEXT, parent) : ROOT_CONTEXT;
    const links = parent !== undefined && number % 9 === 0 ? [{ context: parent.spanContext(), attributes: { why: "batch" } }] : [];
    const span = tracer.startSpan(`GET ${number % 3}`, { kind, attributes, links, startTime: time(at) }, context);
    const { traceId, spanId } = span.spanContext();
    const own = { "span.kind": SpanKind[kind].toLowerCase() };
    if (links.length > 0) {
      own.links = { trace_id: links[0].context.traceId, span_id: links[0].context.spanId, attributes: { why: "batch" } };
    }
    if (number % 5 === 0) {
      span.setStatus({ code: SpanStatusCode.ERROR, message: "did not work" });
      Object.assign(own, { "status.code": "error", "status.message": "did not work" });
    }
    row("span", at, { ...attributes, ...own }, {
      name: `GET ${number % 3}`, duration_nano: 1 + number, trace_id: traceId, span_id: spanId,
      parent_span_id: child ? parent.spanContext().spanId : null,
    });
    if (number % 3 === 0) {
      span.addEvent("retried", { attempt: number }, time(at + 1n));
      row("log", at + 1n, { attempt: number }, { name: "retried", trace_id: traceId, span_id: spanId });
    }
    span.end(time(at + 1n + BigInt(number)));
    parent = span;
  });
}

async function metrics() {
  const { MeterProvider, PeriodicExportingMetricReader } = require("@opentelemetry/sdk-metrics");
  const SERIES = 1000;
  const send = async (first) => {
    const reader = new PeriodicExportingMetricReader({
      exporter: exporter("metrics", "OTLPMetricExporter"), exportIntervalMillis: 1_000_000, exportTimeoutMillis: 900_000,
    });
    const provider = new MeterProvider({ resource, readers: [reader] });
    const meter = provider.getMeter(SCOPE, VERSION);
    const counter = meter.createCounter(`orders.${first}`, { unit: "1" });
    const level = meter.createUpDownCounter(`level.${first}`, { unit: "By" });
    const gauge = meter.createGauge(`temperature.${first}`, { unit: "Cel" });
    const advice = { explicitBucketBoundaries: [1, 10] };
    const histogram = meter.createHistogram(`latency.${first}`, { unit: "ms", advice });
    for (let number = first; number < Math.min(first + 4 * SERIES, COUNT); number += 4) {
      const attributes = { number, city: "Köln" };
      counter.add(number + 1, attributes);
      counter.add(1, attributes);
      level.add(-number, attributes);
      gauge.record(number / 3, attributes);
      const values = [0.5, 5, number];
      for (const value of values) histogram.record(value, attributes);
      const small = values.filter((value) => value <= 1).length;
      const middle = values.filter((value) => value > 1 && value <= 10).length;
      const body = {
        count: 3, min: Math.min(0.5, number), max: Math.max(5, number), bounds: [1, 10], counts: [small, middle, 3 - small - middle],
      };
      const cumulative = { ...attributes, temporality: "cumulative" };
      row("counter", START, { ...cumulative, unit: "1" }, { name: `orders.${first}`, value: number + 2 });
      row("gauge", START, { ...cumulative, unit: "By" }, { name: `level.${first}`, value: -number });
      row("gauge", START, { ...attributes, unit: "Cel" }, { name: `temperature.${first}`, value: number / 3 });
      row("histogram", START, { ...cumulative, unit: "ms" }, { name: `latency.${first}`, value: 5.5 + number, body });
    }
    // It collects and exports once more; a flush before would be a second time.
    await provider.shutdown();
  };
  for (let first = 0; first < COUNT; first += 4 * SERIES) await send(first);
}

({ logs, traces, metrics })[signal]().then(
  () => process.stdout.write(rows.map((row) => JSON.stringify(row) + "\n").join("")),
  (error) => {
    console.error(error);
    process.exitCode = 1;
  },
);
