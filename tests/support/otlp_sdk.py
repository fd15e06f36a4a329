"""Sends logs, traces or metrics with the OpenTelemetry SDK and compares the rows of the server's SQLite field by field.

Usage: otlp_sdk.py SIGNAL ENDPOINT DATABASE COUNT [--gzip] [--settle SECONDS] [--expected FILE]

Prints one JSON object: what was sent, what the table has, and the first differences. Exits with 1 if there are any, or if the
SDK has logged a warning. Rows may be there more than once with --repeated: then every record is there at least once. With --expected
nothing is sent: FILE has the expected rows, which another SDK has sent.
"""

import argparse
import datetime
import json
import logging
import sqlite3
import sys
import time

from opentelemetry import trace
from opentelemetry._logs import SeverityNumber
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

START = 1_795_464_948_000_000_000
RESOURCE = Resource({"service.name": "shop", "host.name": "büro-1", "process.pid": 4711, "tags": ("a", "b")})
SCOPE, VERSION = "shop.orders", "1.2.3"
# Series of one instrument: below the limit of the SDK.
SERIES = 1_000


class Warnings(logging.Handler):
    """What the SDK complains of."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


def common():
    """The attributes that every event has."""
    attributes = {"resource." + key: flat(value) for key, value in RESOURCE.attributes.items()}
    return {**attributes, "scope.name": SCOPE, "scope.version": VERSION}


def flat(value):
    """An attribute as the table has it: an array is its JSON text."""
    return json.dumps(list(value), separators=(",", ":")) if isinstance(value, (list, tuple)) else value


def rfc3339(nanos):
    seconds, nanos = divmod(nanos, 1_000_000_000)
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S") + f".{nanos:09}Z"


def row(kind, nanos, attributes, **fields):
    """A row of the table, by its columns."""
    columns = dict.fromkeys(("severity", "name", "body", "value", "duration_nano", "trace_id", "span_id", "parent_span_id"))
    attributes = {**common(), **{key: flat(value) for key, value in attributes.items()}}
    return {**columns, "kind": kind, "time": rfc3339(nanos), "source": "shop", "attributes": attributes, **fields}


def send_logs(options, exporter_options):
    exporter = OTLPLogExporter(endpoint=options.endpoint + "/v1/logs", **exporter_options)
    provider = LoggerProvider(resource=RESOURCE)
    processor = BatchLogRecordProcessor(exporter, max_queue_size=options.count + 512, max_export_batch_size=512)
    provider.add_log_record_processor(processor)
    logger = provider.get_logger(SCOPE, VERSION)
    expected = []
    for number in range(options.count):
        severity = list(SeverityNumber)[number % 25]
        attributes = {"number": number, "share": number / 7, "even": number % 2 == 0, "text": f"grüße {number}"}
        body = {"order": number, "items": ["a", None, 1.5]} if number % 10 == 0 else f"order {number} \"sent\"\n"
        name = f"event.{number % 5}" if number % 7 == 0 else None
        text = severity.name if number % 3 == 0 else None
        logger.emit(
            timestamp=START + number, observed_timestamp=START + number + 5, severity_number=severity,
            severity_text=text, body=body, attributes=attributes, event_name=name,
        )
        text_body = json.dumps(body, separators=(",", ":")) if isinstance(body, dict) else body
        own = {"severity_text": text} if text else {}
        expected.append(row(
            "log", START + number, {**attributes, **own}, severity=severity.value or None, name=name, body=text_body,
        ))
    provider.force_flush(timeout_millis=options.timeout * 1000)
    provider.shutdown()
    return expected


def send_traces(options, exporter_options):
    exporter = OTLPSpanExporter(endpoint=options.endpoint + "/v1/traces", **exporter_options)
    provider = TracerProvider(resource=RESOURCE, shutdown_on_exit=False)
    processor = BatchSpanProcessor(exporter, max_queue_size=options.count + 512, max_export_batch_size=512)
    provider.add_span_processor(processor)
    tracer = provider.get_tracer(SCOPE, VERSION)
    kinds = list(trace.SpanKind)
    expected, parent = [], None
    for number in range(options.count):
        context = trace.set_span_in_context(parent) if parent and number % 4 else None
        links = [trace.Link(parent.get_span_context(), {"why": "batch"})] if parent and number % 9 == 0 else []
        kind = kinds[number % len(kinds)]
        attributes = {"number": number, "path": f"/orders/{number}"}
        span = tracer.start_span(f"GET {number % 3}", context, kind, attributes, links, start_time=START + number)
        ids = span.get_span_context()
        trace_id, span_id = f"{ids.trace_id:032x}", f"{ids.span_id:016x}"
        own = {"span.kind": kind.name.lower()}
        if links:
            link = links[0].context
            own["links"] = {
                "trace_id": f"{link.trace_id:032x}", "span_id": f"{link.span_id:016x}", "attributes": {"why": "batch"},
            }
        if number % 5 == 0:
            span.set_status(trace.StatusCode.ERROR, "did not work")
            own.update({"status.code": "error", "status.message": "did not work"})
        expected.append(row(
            "span", START + number, {**attributes}, name=f"GET {number % 3}", duration_nano=1 + number, trace_id=trace_id,
            span_id=span_id, parent_span_id=f"{parent.get_span_context().span_id:016x}" if context else None,
        ))
        expected[-1]["attributes"].update(own)
        if number % 3 == 0:
            span.add_event("retried", {"attempt": number}, timestamp=START + number + 1)
            expected.append(row(
                "log", START + number + 1, {"attempt": number}, name="retried", trace_id=trace_id, span_id=span_id,
            ))
        span.end(end_time=START + 2 * number + 1)
        parent = span
    provider.force_flush(options.timeout * 1000)
    provider.shutdown()
    return expected


def send_metrics(options, exporter_options):
    exporter = OTLPMetricExporter(endpoint=options.endpoint + "/v1/metrics", max_export_batch_size=1000, **exporter_options)
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=float("inf"))
    provider = MeterProvider(metric_readers=[reader], resource=RESOURCE, shutdown_on_exit=False)
    meter = provider.get_meter(SCOPE, VERSION)
    expected = []
    for first in range(0, options.count, 4 * SERIES):
        series = range(first, min(first + 4 * SERIES, options.count), 4)
        counter = meter.create_counter(f"orders.{first}", "1", "orders")
        level = meter.create_up_down_counter(f"level.{first}", "By")
        gauge = meter.create_gauge(f"temperature.{first}", "Cel")
        histogram = meter.create_histogram(f"latency.{first}", "ms", explicit_bucket_boundaries_advisory=[1.0, 10.0])
        for number in series:
            attributes = {"number": number, "city": "Köln"}
            counter.add(number + 1, attributes)
            counter.add(1, attributes)
            level.add(-number, attributes)
            gauge.set(number / 3, attributes)
            for value in (0.5, 5, number):
                histogram.record(value, attributes)
            buckets = [sum(value <= 1 for value in (0.5, 5, number)), sum(1 < value <= 10 for value in (0.5, 5, number))]
            body = {
                "count": 3, "min": float(min(0.5, number)), "max": float(max(5, number)), "bounds": [1.0, 10.0],
                "counts": [*buckets, 3 - sum(buckets)],
            }
            cumulative = {**attributes, "temporality": "cumulative"}
            for kind, name, value, own, text in (
                ("counter", "orders", number + 2, {**cumulative, "unit": "1"}, None),
                ("gauge", "level", -number, {**cumulative, "unit": "By"}, None),
                ("gauge", "temperature", number / 3, {**attributes, "unit": "Cel"}, None),
                ("histogram", "latency", 5.5 + number, {**cumulative, "unit": "ms"}, body),
            ):
                expected.append(row(kind, START, own, name=f"{name}.{first}", value=float(value), body=text))
    provider.force_flush(options.timeout * 1000)
    provider.shutdown()
    return expected


def key_of(found):
    """What tells records apart: their name, and their number among the attributes."""
    attributes = found["attributes"]
    number = attributes.get("number", attributes.get("attempt"))
    return found["kind"], found["name"], number


def difference(expected, found):
    """The first column that differs, or None."""
    for column, value in expected.items():
        other = found[column]
        if column == "time" and expected["kind"] in ("counter", "gauge", "histogram"):
            # The SDK measures when it collects.
            continue
        if column == "body" and isinstance(value, dict):
            other = json.loads(other)
        if column == "attributes":
            other = dict(other)
            for ours in ("start_time", "exemplars"):
                other.pop(ours, None)
            if expected["kind"] == "span":
                # Of the context; whether its parent is remote depends on the version of the SDK.
                other.pop("flags", None)
            if "links" in value:
                (link,) = json.loads(other["links"])
                other["links"] = {key: link[key] for key in ("trace_id", "span_id", "attributes")}
        if value != other:
            return f"{column}: expected {value!r}, found {other!r}"
    return None


def read_rows(database):
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        connection.row_factory = sqlite3.Row
        for found in connection.execute("SELECT * FROM events ORDER BY position"):
            found = dict(found)
            found["attributes"] = json.loads(found["attributes"] or "{}")
            yield found


def wait_for_rows(database, expected, repeated, settle):
    """Until the table has as many rows, and with `repeated` one of every record; or has grown no more for `settle` seconds."""
    wanted = {key_of(row) for row in expected} if repeated else set()
    before, since = -1, time.monotonic()
    while time.monotonic() < since + settle:
        try:
            with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
                (rows,) = connection.execute("SELECT count(*) FROM events").fetchone()
        except sqlite3.OperationalError:
            rows = 0
        if rows >= len(expected) and rows > before and (not wanted or wanted <= {key_of(row) for row in read_rows(database)}):
            return
        if rows > before:
            before, since = rows, time.monotonic()
        time.sleep(0.05)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("signal", choices=["logs", "traces", "metrics"])
    parser.add_argument("endpoint")
    parser.add_argument("database")
    parser.add_argument("count", type=int)
    parser.add_argument("--expected", metavar="FILE", help="rows that were sent, one JSON object per line")
    parser.add_argument("--gzip", action="store_true")
    parser.add_argument("--repeated", action="store_true", help="records may be stored more than once")
    parser.add_argument("--timeout", type=int, default=60, help="seconds for an export with all its retries")
    parser.add_argument("--settle", type=int, default=60, help="seconds without a new row after which rows are missing")
    options = parser.parse_args()
    warnings = Warnings()
    logging.getLogger().addHandler(warnings)
    compression = Compression.Gzip if options.gzip else Compression.NoCompression
    send = {"logs": send_logs, "traces": send_traces, "metrics": send_metrics}[options.signal]
    if options.expected:
        with open(options.expected, encoding="utf-8") as lines:
            expected = [json.loads(line) for line in lines]
    else:
        expected = send(options, {"compression": compression, "timeout": options.timeout})
    wait_for_rows(options.database, expected, options.repeated, options.settle)
    by_key, rows, differences = {}, 0, []
    for found in read_rows(options.database):
        rows += 1
        by_key.setdefault(key_of(found), []).append(found)
    for wanted in expected:
        found = by_key.get(key_of(wanted), [])
        if not found or (len(found) > 1 and not options.repeated):
            differences.append(f"{key_of(wanted)} is there {len(found)} times")
        else:
            differences += [f"{key_of(wanted)}: {why}" for why in map(lambda one: difference(wanted, one), found) if why]
    if rows != len(expected) and not options.repeated:
        differences.append(f"{rows} rows, not {len(expected)}")
    failed = bool(differences or (warnings.messages and not options.repeated))
    print(json.dumps({
        "sent": len(expected), "rows": rows, "differences": differences[:5], "warnings": warnings.messages[:20],
    }))
    sys.exit(failed)


if __name__ == "__main__":
    main()
