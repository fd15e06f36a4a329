"""The receiving end of telemetryx' sink `kind = "grpc"` in one file: `pip install grpcio protobuf`, no generated code.

    telemetryx ── Deliver(events with positions) ──▶ serve() ──▶ your callback(delivery) ──▶ your store
               ◀── verdicts: what is refused ───────         ◀── [(index, code, reason), ...]

What the callback returned for is taken: telemetryx forgets it. Any exception means that nothing is, and the same comes
again. An answer can get lost on its way, so what was taken may come again, too: (server_id, position) names an event for
ever, and is what a store tells doubles by: as its primary key, or with a Deduplicator.
"""
import base64
import bisect
import concurrent.futures
import datetime
import errno
import hmac
import json
import math
import re
import socket
import uuid

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

CODE_MAX = 64  # bytes
REASON_MAX = 256  # bytes of a refusal that are sent: 10,000 of them still fit into an answer
ADDRESS = re.compile(r"unix:.+|(?:\[[^\[\]]+\]|[^:\[\]\s]+):([0-9]{1,5})")
CALLS_MAX = 64  # deliveries that may wait for a worker; those beyond are tried again by telemetryx

# proto/events.proto, fields numbered in order from 1. `*` repeated, `?` optional, `|value` in the oneof `value`.
_MESSAGES = {
    "Event": "fixed64 time_unix_nano, EventKind kind, int32 severity, string source, string name, string body, "
             "Attribute* attributes, double? value, fixed64 duration_nano, bytes trace_id, bytes span_id, "
             "bytes parent_span_id",
    "Attribute": "string key, string|value string_value, int64|value int_value, double|value double_value, "
                 "bool|value bool_value, bytes|value bytes_value",
    "EventBatch": "Event* events",
    "DeliverRequest": "bytes server_id, string sink, EventBatch batch, uint64* positions, Run* runs",
    "Run": "uint32 events, string agent, string default_source, fixed64 received_unix_nano",
    "DeliverResponse": "Verdict* verdicts, uint32 retry_after_ms",
    "Verdict": "uint32 index, string code, string reason",
}
_KINDS = ("UNSPECIFIED", "LOG", "GAUGE", "COUNTER", "SPAN", "HISTOGRAM", "SUMMARY")


def file_descriptor():
    """The messages and the service as protobuf describes them; a test compares it with proto/events.proto."""
    proto = descriptor_pb2.FileDescriptorProto(name="events.proto", package="telemetryx.v1", syntax="proto3")
    kinds = proto.enum_type.add(name="EventKind")
    for number, name in enumerate(_KINDS):
        kinds.value.add(name="EVENT_KIND_" + name, number=number)
    for name, fields in _MESSAGES.items():
        described = proto.message_type.add(name=name)
        for number, field in enumerate(fields.split(", "), 1):
            kind, field = field.split(" ")
            kind, _, oneof = kind.partition("|")
            optional, repeated, kind = kind.endswith("?"), kind.endswith("*"), kind.rstrip("?*")
            added = described.field.add(name=field, number=number, label=3 if repeated else 1)
            if kind[0].isupper():
                added.type_name = ".telemetryx.v1." + kind
                kind = "enum" if kind == "EventKind" else "message"
            added.type = descriptor_pb2.FieldDescriptorProto.Type.Value("TYPE_" + kind.upper())
            oneof = "_" + field if optional else oneof
            if oneof:
                if oneof not in [known.name for known in described.oneof_decl]:
                    described.oneof_decl.add(name=oneof)
                added.oneof_index = len(described.oneof_decl) - 1
            if optional:
                added.proto3_optional = True
    proto.service.add(name="Sink").method.add(
        name="Deliver", input_type=".telemetryx.v1.DeliverRequest", output_type=".telemetryx.v1.DeliverResponse")
    return proto


_pool = descriptor_pool.DescriptorPool()  # its own: a generated events_pb2 may live beside it
_pool.Add(file_descriptor())
_classes = {name: message_factory.GetMessageClass(_pool.FindMessageTypeByName("telemetryx.v1." + name))
            for name in _MESSAGES}
Event, Attribute, EventBatch = _classes["Event"], _classes["Attribute"], _classes["EventBatch"]
DeliverRequest, DeliverResponse, Run = _classes["DeliverRequest"], _classes["DeliverResponse"], _classes["Run"]


class RetryLater(Exception):
    """Raised by a callback: nothing was taken, and telemetryx is to try again after so many seconds."""
    def __init__(self, seconds):
        super().__init__(f"retry after {seconds} s")
        self.milliseconds = max(1, min(int(seconds * 1000), 2**32 - 1))


class Record:
    """An event and where it comes from. `event` has the fields of proto/events.proto."""
    __slots__ = ("server_id", "position", "event", "agent", "default_source", "received_unix_nano")

    def __init__(self, server_id, position, event, run):
        self.server_id, self.position, self.event = server_id, position, event
        self.agent, self.default_source = run.agent, run.default_source  # agent: "" for what came over HTTP
        self.received_unix_nano = run.received_unix_nano

    @property
    def source(self):
        return self.event.source or self.default_source

    @property
    def time_unix_nano(self):
        return self.event.time_unix_nano or self.received_unix_nano

    @property
    def kind(self):
        number = self.event.kind if 0 < self.event.kind < len(_KINDS) else 1
        return _KINDS[number].lower()

    @property
    def value(self):
        return self.event.value if self.event.HasField("value") else None

    @property
    def attributes(self):
        """A dict of what JSON can say: bytes as base64, NaN and infinities as text. A later duplicate wins."""
        return {attribute.key: _plain(attribute) for attribute in self.event.attributes}

    def as_dict(self):
        """The event by the names of docs/json.md, without what is unset. json.dumps() takes it."""
        event = self.event
        fields = {
            "server_id": str(self.server_id), "position": self.position, "received_at": _time(self.received_unix_nano),
            "time": _time(self.time_unix_nano), "kind": self.kind, "severity": event.severity, "source": self.source,
            "name": event.name, "body": event.body, "value": _number(self.value),
            "duration_nano": event.duration_nano, "trace_id": event.trace_id.hex(), "span_id": event.span_id.hex(),
            "parent_span_id": event.parent_span_id.hex(), "agent": self.agent, "attributes": self.attributes,
        }
        kept = ("position", "value")  # 0 means something
        return {name: value for name, value in fields.items() if value or name in kept and value is not None}


def _time(unix_nano):
    seconds, nanos = divmod(unix_nano, 10**9)
    time = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds)
    return f"{time:%Y-%m-%dT%H:%M:%S}.{nanos:09d}Z"


def _number(value):
    if value is None or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _plain(attribute):
    which = attribute.WhichOneof("value")
    value = getattr(attribute, which) if which else None
    if which == "bytes_value":
        return base64.b64encode(value).decode()
    return _number(value) if which == "double_value" else value


class Delivery:
    """`records` in order of position; `server_id` (a UUID) names the log whose positions these are."""
    def __init__(self, request):
        self.server_id, self.sink, self.records = uuid.UUID(bytes=request.server_id), request.sink, []
        events, positions = request.batch.events, request.positions
        if not len(events) == len(positions) == sum(run.events for run in request.runs):
            raise ValueError("events, positions and runs do not fit each other")
        at = 0
        for run in request.runs:
            for index in range(at, at + run.events):
                self.records.append(Record(self.server_id, positions[index], events[index], run))
            at += run.events


class Deduplicator:
    """Which positions of which server_id are stored. Never changed: added() returns another one, so that it can be
    stored together with the events and forgotten together with a transaction that failed:

        after = seen.added(delivery.server_id, [record.position for record in fresh])
        ...                                # events and after.dumps() in one transaction
        seen = after

    Parts of a delivery may overtake each other, and refused events stay away, hence ranges with gaps. A gap more than
    WINDOW behind is closed: what telemetryx delivers at a time is never longer, and it has passed all before it.
    """
    WINDOW = 2**20

    def __init__(self, ranges=None):
        self._ranges = ranges or {}  # server_id as text: sorted [first, last]

    def fresh(self, records):
        """Those that are not stored yet."""
        return [record for record in records if not self.has(record.server_id, record.position)]

    def has(self, server_id, position):
        ranges = self._ranges.get(str(server_id), [])
        at = bisect.bisect_right(ranges, [position, math.inf])
        return at > 0 and position <= ranges[at - 1][1]

    def added(self, server_id, positions):
        positions = list(positions)
        ranges = sorted(self._ranges.get(str(server_id), []) + [[position, position] for position in positions])
        # Behind these, not behind all: after a step back in the log what lies between them and the rest comes again.
        closed = max(positions, default=0) - self.WINDOW
        merged = []
        for first, last in ranges:
            if merged and (first <= merged[-1][1] + 1 or first <= closed):
                merged[-1][1] = max(merged[-1][1], last)
            else:
                merged.append([first, last])
        return Deduplicator({**self._ranges, str(server_id): merged})

    def dumps(self):
        return json.dumps(self._ranges)

    @classmethod
    def loads(cls, text):
        return cls(json.loads(text)) if text else cls()


def cut(words, most):
    """No more than so many bytes of UTF-8."""
    return str(words).encode(errors="replace")[:most].decode(errors="ignore")


def check_free(address, host, port):
    """Raises OSError where nothing can listen there: grpcio does not say why, and logs lines of its own."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise OSError(f"cannot listen on {address}: {error.strerror}") from error
    problems = []
    for family, kind, protocol, _, place in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(place)
                probe.listen()
        except OSError as error:
            problems.append(error)
    in_use = [error for error in problems if error.errno == errno.EADDRINUSE]
    if in_use or len(problems) == len(found):  # localhost is two addresses, of which one may not be there
        raise OSError(f"cannot listen on {address}: {(in_use or problems)[0].strerror}")


class Receiver:
    """A running service. `port` is what it listens on."""
    def __init__(self, server, port):
        self.server, self.port = server, port

    def wait(self):
        self.server.wait_for_termination()

    def stop(self, grace=5):
        """Takes nothing new; what has begun may take so many seconds. Returns a threading.Event: set at the end."""
        return self.server.stop(grace)


def serve(callback, address, token=None, tls=None, workers=1, interceptors=()):
    """Starts to serve at "HOST:PORT" (port 0: any) or "unix:PATH" and returns a Receiver.

    callback(delivery) stores delivery.records and returns the refused ones as (index, code, reason), or None. It may
    raise RetryLater; any other exception is logged and the delivery tried again. It runs in one thread unless workers
    say otherwise.
    token: telemetryx must present it (`token` of the sink). tls: (key, certificate chain), both PEM as bytes.
    interceptors: grpcio's, for your metrics or your own checks; bodies are bytes there.
    Raises ValueError where the address is not one, OSError where nothing can listen there.
    """
    def deliver(body, context):
        metadata = dict(context.invocation_metadata())
        given = metadata.get("authorization", "")
        if token and not hmac.compare_digest(given.encode(), b"Bearer " + token.encode()):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "unknown token" if given else "no token was sent")
        try:
            delivery = Delivery(DeliverRequest.FromString(body))
        except (message.DecodeError, ValueError) as error:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"no DeliverRequest: {error}")
        if not context.is_active():  # waited for a worker beyond its deadline: it comes again, or has done so
            context.abort(grpc.StatusCode.CANCELLED, "nobody waits for the answer")
        response = DeliverResponse()
        try:
            refused = callback(delivery) or ()
        except RetryLater as later:
            response.retry_after_ms = later.milliseconds
            return response.SerializeToString()
        for index, code, reason in refused:
            if not 0 <= index < len(delivery.records):
                raise IndexError(f"the callback refused event {index} of {len(delivery.records)}")
            response.verdicts.add(index=index, code=cut(code, CODE_MAX), reason=cut(reason, REASON_MAX))
        return response.SerializeToString()

    parts = ADDRESS.fullmatch(address)  # grpcio listens on 443 where there is no port, and on 4464 for 70000
    if not parts or int(parts[1] or 0) > 65535:
        raise ValueError(f"{address!r} is not an address: use HOST:PORT, [IPV6]:PORT or unix:PATH")
    if parts[1]:
        check_free(address, address.rpartition(":")[0].strip("[]"), int(parts[1]))
    threads = concurrent.futures.ThreadPoolExecutor(workers)
    options = [("grpc.so_reuseport", 0)]  # a second receiver on the port is an error, not a competitor
    server = grpc.server(threads, interceptors=interceptors, options=options, maximum_concurrent_rpcs=CALLS_MAX)
    method = grpc.unary_unary_rpc_method_handler(deliver)  # bytes in and out: what cannot be read is answered, too
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("telemetryx.v1.Sink", {"Deliver": method}),))
    try:
        if tls:
            port = server.add_secure_port(address, grpc.ssl_server_credentials([tls]))
        else:
            port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: {error}") from error
    server.start()
    return Receiver(server, port)
