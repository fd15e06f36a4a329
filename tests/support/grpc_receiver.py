"""A receiver for tests: the kit and the example's store, and ways to fail, which a file says before each call.

    {"status": ["UNAVAILABLE", "words"]}    ends the call so     {"answer": "0a02..."}   answers these bytes
    {"after": 1, ...}                       spares so many calls {"hang": true}          waits until that is gone
    {"refuse": {"NAME": ["CODE", "why"]}}   events of that name  {"retry_after": 0.5}    seconds; nothing is taken
    {"dislike": "NAME"}                     INVALID_ARGUMENT for all that came with such an event
    {"echo": "UNAUTHENTICATED"}             ends the call so, with the metadata that came in its message
    {"echo": "VERDICT"}                     refuses every event, with the metadata in code and reason

With --unchecked it keeps all that comes, as often as it comes: no position is looked at.
"""
import argparse
import json
import os
import signal
import sys
import time

import grpc

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../tools/python"))
import example_sqlite_receiver as example
import telemetryx_receiver as tx

signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell ignores it for what it starts in the background

parser = argparse.ArgumentParser()
parser.add_argument("database")
parser.add_argument("control")
parser.add_argument("address")
parser.add_argument("--token")
parser.add_argument("--tls", nargs=2)
parser.add_argument("--workers", type=int, default=1)
parser.add_argument("--unchecked", action="store_true")
args = parser.parse_args()
if args.unchecked:
    example.TABLE = example.TABLE.replace(", PRIMARY KEY (server_id, position)) WITHOUT ROWID", ")")
    example.INSERT = example.INSERT.replace(" ON CONFLICT (server_id, position) DO NOTHING", "")
    assert "position)" not in example.TABLE + example.INSERT
spared = {}  # calls left of "after", by the text that says so


def control():
    try:
        text = open(args.control).read()
    except FileNotFoundError:
        return {}
    orders = json.loads(text)
    spared.setdefault(text, orders.pop("after", 0))
    if spared[text] > 0:
        spared[text] -= 1
        return {}
    return orders


class Spoiled(example.Store):
    def __call__(self, delivery):
        with open(args.control + ".calls", "a") as calls:
            calls.write(f"{len(delivery.records)}\n")
        self.orders = control()
        while self.orders.get("hang"):
            time.sleep(0.02)
            self.orders = control()
        if "retry_after" in self.orders:
            raise tx.RetryLater(self.orders["retry_after"])
        if self.orders.get("echo") not in (None, "VERDICT"):
            spoil.status = [self.orders["echo"], spoil.metadata]
            spoil.answer = None
            return ()
        spoil.answer = bytes.fromhex(self.orders["answer"]) if "answer" in self.orders else None
        spoil.status = self.orders.get("status")
        if self.orders.get("dislike") in [record.event.name for record in delivery.records]:
            spoil.status = ["INVALID_ARGUMENT", "something in it"]
        return () if spoil.answer is not None or spoil.status else super().__call__(delivery)

    def refuse(self, record):
        if self.orders.get("echo") == "VERDICT":
            return (spoil.metadata, "refused: " + spoil.metadata)
        return self.orders.get("refuse", {}).get(record.event.name) or super().refuse(record)


class Spoil(grpc.ServerInterceptor):
    answer = status = metadata = None

    def intercept_service(self, continuation, details):
        self.metadata = dict(details.invocation_metadata).get("authorization", "")
        inner = continuation(details)

        def deliver(body, context):
            answer = inner.unary_unary(body, context)
            if self.status:
                context.abort(grpc.StatusCode[self.status[0]], self.status[1])
            return answer if self.answer is None else self.answer

        return inner and grpc.unary_unary_rpc_method_handler(deliver)


spoil = Spoil()
tls = args.tls and tuple(open(path, "rb").read() for path in args.tls)
receiver = tx.serve(Spoiled(args.database), args.address, args.token, tls, args.workers, interceptors=(spoil,))
print("listening", file=sys.stderr, flush=True)  # what starts it waits for this line
receiver.wait()
