"""Tests of the receiver and its example, through grpcio. With an argument: a FileDescriptorSet of proto/events.proto."""
import json, math, os, signal, socket, subprocess, sys, tempfile, threading, unittest, uuid

import grpc
from google.protobuf import descriptor_pb2

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import telemetryx_receiver as tx
from example_sqlite_receiver import Store

SERVER = uuid.UUID(int=7)
TIME = 1_767_323_045_000_000_006
COMPILED = sys.argv.pop(1) if len(sys.argv) > 1 and os.path.exists(sys.argv[1]) else None


def request(first, events, **changes):
    events = [tx.Event(name=event) if isinstance(event, str) else event for event in events]
    run = tx.Run(events=len(events), agent="api", default_source="api-1", received_unix_nano=TIME)
    fields = dict(server_id=SERVER.bytes, sink="main", batch=tx.EventBatch(events=events),
                  positions=range(first, first + len(events)), runs=[run])
    return tx.DeliverRequest(**{**fields, **changes})


class Served(unittest.TestCase):
    def serve(self, callback, **options):
        receiver = tx.serve(callback, "127.0.0.1:0", **options)
        self.addCleanup(lambda: receiver.stop(0).wait())
        channel = grpc.insecure_channel(f"127.0.0.1:{receiver.port}")
        self.addCleanup(channel.close)
        deliver = channel.unary_unary("/telemetryx.v1.Sink/Deliver",
                                      response_deserializer=tx.DeliverResponse.FromString)
        return lambda asked, timeout=10, **more: deliver(
            asked if isinstance(asked, bytes) else asked.SerializeToString(), timeout=timeout, **more)

    def assertStatus(self, code, words, call, *arguments, **more):
        with self.assertRaises(grpc.RpcError) as caught:
            call(*arguments, **more)
        self.assertEqual(caught.exception.code(), code)
        self.assertIn(words, caught.exception.details())


class ServeTest(Served):
    def test_a_callback_gets_events_with_where_they_come_from(self):
        got = []
        deliver = self.serve(got.append)
        events = ["a", tx.Event(name="b", source="web", time_unix_nano=1)]
        runs = [tx.Run(events=1, agent="api", default_source="api-1", received_unix_nano=TIME),
                tx.Run(events=1, default_source="192.0.2.1", received_unix_nano=TIME)]
        self.assertEqual(deliver(request(7, events, runs=runs)), tx.DeliverResponse())
        self.assertEqual((got[0].server_id, got[0].sink), (SERVER, "main"))
        shown = [(record.position, record.event.name, record.agent, record.source, record.time_unix_nano)
                 for record in got[0].records]
        self.assertEqual(shown, [(7, "a", "api", "api-1", TIME), (8, "b", "", "web", 1)])

    def test_an_address_that_grpcio_would_take_for_another_is_refused(self):
        for address in ("localhost", "127.0.0.1", "[::1]", "::1", "", ":", "localhost:", ":50051", "localhost:abc",
                        "127.0.0.1:70000", "localhost:50051\n", "localhost:-1"):
            with self.assertRaisesRegex(ValueError, "is not an address: use HOST:PORT", msg=address):
                tx.serve(print, address).stop(0)
        self.serve(print)
        with tempfile.TemporaryDirectory() as folder:
            tx.serve(print, f"unix:{folder}/socket").stop(0).wait()

    def test_verdicts_are_sent_and_their_words_bounded(self):
        deliver = self.serve(lambda delivery: [(1, "BAD", "x" * 1000), (0, 7, "why")])
        first, second = deliver(request(1, ["a", "b"])).verdicts
        self.assertEqual((first.index, first.code, first.reason), (1, "BAD", "x" * tx.REASON_MAX))
        self.assertEqual((second.index, second.code, second.reason), (0, "7", "why"))

    def test_what_the_callback_raises_is_tried_again(self):
        def callback(delivery):
            raise {1: tx.RetryLater(1.5), 2: ValueError("bad luck")}[delivery.records[0].position]
        deliver = self.serve(callback)
        self.assertEqual(deliver(request(1, ["a"])).retry_after_ms, 1500)
        self.assertStatus(grpc.StatusCode.UNKNOWN, "bad luck", deliver, request(2, ["a"]))
        deliver = self.serve(lambda delivery: [(1, "X", "no such event")])
        self.assertStatus(grpc.StatusCode.UNKNOWN, "event 1 of 1", deliver, request(1, ["a"]))

    def test_requests_that_are_none_are_refused(self):
        deliver = self.serve(lambda delivery: None)
        for broken in (b"\xff", request(1, ["a"], positions=[]), request(1, ["a"], runs=[]),
                       request(1, ["a"], server_id=b"x")):
            self.assertStatus(grpc.StatusCode.FAILED_PRECONDITION, "no DeliverRequest", deliver, broken)

    def test_a_token_is_asked_for(self):
        deliver = self.serve(lambda delivery: None, token="secret")
        unauthenticated = grpc.StatusCode.UNAUTHENTICATED
        self.assertStatus(unauthenticated, "no token", deliver, request(1, ["a"]))
        for wrong in ("Bearer wrong", "secret"):
            self.assertStatus(unauthenticated, "unknown token", deliver, request(1, ["a"]),
                              metadata=[("authorization", wrong)])
        deliver(request(1, ["a"]), metadata=[("authorization", "Bearer secret")])

    def test_one_callback_runs_at_a_time(self):
        running, seen = threading.Lock(), []
        def callback(delivery):
            self.assertTrue(running.acquire(blocking=False))
            seen.append(delivery.records[0].position)
            running.release()
        deliver = self.serve(callback)
        threads = [threading.Thread(target=deliver, args=(request(first, ["a"]),)) for first in range(20)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        self.assertEqual(sorted(seen), list(range(20)))

    def test_a_call_that_was_given_up_while_it_waited_is_left_out(self):
        seen = []
        deliver = self.serve(lambda delivery: seen.append(delivery.records[0].position),
                             interceptors=[WaitsForTheEnd(2)])
        self.assertStatus(grpc.StatusCode.DEADLINE_EXCEEDED, "", deliver, request(2, ["a"]), timeout=0.1)
        deliver(request(3, ["a"]))
        self.assertEqual(seen, [3])


class WaitsForTheEnd(grpc.ServerInterceptor):
    """Keeps the delivery that begins at a position from the receiver until its caller has given up."""
    def __init__(self, position):
        self.position = position

    def intercept_service(self, continuation, details):
        deliver = continuation(details).unary_unary
        def late(body, context):
            ended = threading.Event()
            if tx.DeliverRequest.FromString(body).positions[0] == self.position and context.add_callback(ended.set):
                assert ended.wait(10)
            return deliver(body, context)
        return grpc.unary_unary_rpc_method_handler(late)


class ReadmeTest(Served):
    def test_the_callback_of_the_readme_prints_and_refuses(self):
        with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "README.md")) as page:
            code = page.read().split("## A receiver")[1].split("```python\n")[1].split("```")[0]
        code, end = code.rsplit("\n\n", 1)
        self.assertEqual(end, 'serve(callback, "127.0.0.1:50051", token="secret").wait()\n')
        printed, names = [], {}
        exec(code, names)
        names["print"] = lambda *words: printed.append(words)
        deliver = self.serve(names["callback"], token="secret")
        verdicts = deliver(request(1, ["debug", "a"]), metadata=[("authorization", "Bearer secret")]).verdicts
        self.assertEqual([(verdict.index, verdict.code) for verdict in verdicts], [(0, "UNWANTED")])
        self.assertEqual(printed, [(2, "api-1", "a", {})])


class CutTest(unittest.TestCase):
    def test_words_are_cut_in_bytes_and_between_characters(self):
        self.assertEqual(tx.cut("é" * 300, 255), "é" * 127)


class RecordTest(unittest.TestCase):
    def test_an_event_as_a_dict_has_the_names_and_forms_of_json(self):
        value = [tx.Attribute(key="n", double_value=math.nan), tx.Attribute(key="i", double_value=-math.inf),
                 tx.Attribute(key="b", bytes_value=b"\0\xff"), tx.Attribute(key="u"),
                 tx.Attribute(key="t", bool_value=False), tx.Attribute(key="t", int_value=-(2**63))]
        event = tx.Event(name="e", kind=4, severity=9, body="zwölf", attributes=value, value=math.nan, duration_nano=5,
                         trace_id=bytes(16), time_unix_nano=2**63 - 1)
        record = tx.Delivery(request(3, [event])).records[0]
        self.assertEqual(record.as_dict(), {
            "server_id": str(SERVER), "position": 3, "received_at": "2026-01-02T03:04:05.000000006Z",
            "time": "2262-04-11T23:47:16.854775807Z", "kind": "span", "severity": 9, "source": "api-1", "name": "e",
            "body": "zwölf", "value": "NaN", "duration_nano": 5, "trace_id": "0" * 32, "agent": "api",
            "attributes": {"n": "NaN", "i": "-Infinity", "b": "AP8=", "u": None, "t": -(2**63)}})
        plain = tx.Delivery(request(3, [tx.Event(body="x", value=0)])).records[0].as_dict()
        self.assertEqual((plain["kind"], plain["value"], "name" in plain), ("log", 0, False))


class DeduplicatorTest(unittest.TestCase):
    def test_positions_are_known_in_any_order(self):
        seen = tx.Deduplicator().added(SERVER, [5, 6, 7]).added(SERVER, [1, 2]).added(SERVER, [10])
        known = [position for position in range(12) if seen.has(SERVER, position)]
        self.assertEqual(known, [1, 2, 5, 6, 7, 10])
        self.assertFalse(seen.has(uuid.UUID(int=8), 5))
        again = tx.Deduplicator.loads(seen.added(SERVER, [3, 4]).dumps())
        self.assertEqual(again.dumps(), json.dumps({str(SERVER): [[1, 7], [10, 10]]}))
        self.assertFalse(seen.has(SERVER, 3), "the old one stays as it was")
        records = tx.Delivery(request(6, "abcdef")).records
        self.assertEqual([record.position for record in again.fresh(records)], [8, 9, 11])
        self.assertEqual(tx.Deduplicator.loads("").dumps(), "{}")

    def test_a_step_back_in_the_log_closes_no_gap_before_it_is_filled(self):
        seen = tx.Deduplicator().added(SERVER, [9_000_000, 11_000_000]).added(SERVER, [5_000_000])
        self.assertFalse(seen.has(SERVER, 6_000_000))
        self.assertTrue(seen.has(SERVER, 5_000_000) and seen.has(SERVER, 9_000_000))

    def test_gaps_far_behind_are_closed(self):
        seen = tx.Deduplicator().added(SERVER, [1, 3, 5])
        near = seen.added(SERVER, [4 + seen.WINDOW])
        self.assertEqual([near.has(SERVER, position) for position in (2, 4)], [True, False])
        far = seen.added(SERVER, [100 + seen.WINDOW])
        self.assertEqual([far.has(SERVER, position) for position in (0, 2, 4, 6, 99)],
                         [False, True, True, False, False])


class ExampleTest(Served):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.store = Store(os.path.join(folder.name, "events.db"))
        self.addCleanup(self.store.database.close)

    def rows(self):
        return list(self.store.database.execute("SELECT position, name, source FROM events ORDER BY position"))

    def test_events_that_come_again_are_stored_once(self):
        deliver = self.serve(self.store)
        for first in (1, 3, 2):
            self.assertEqual(deliver(request(first, ["e"] * 3)), tx.DeliverResponse())
        self.assertEqual([row[0] for row in self.rows()], [1, 2, 3, 4, 5])
        deliver(request(1, ["other log"], server_id=bytes(16)))
        self.assertEqual(len(self.rows()), 6)

    def test_a_refused_event_is_not_stored_and_nothing_is_after_a_failure(self):
        deliver = self.serve(self.store)
        verdicts = deliver(request(1, ["a", "forbidden", "c"])).verdicts
        self.assertEqual([(verdict.index, verdict.code) for verdict in verdicts], [(1, "FORBIDDEN")])
        self.assertEqual(self.rows(), [(1, "a", "api-1"), (3, "c", "api-1")])
        self.store.database.execute("CREATE TRIGGER t BEFORE INSERT ON events WHEN new.name = 'bad' "
                                    "BEGIN SELECT raise(ABORT, 'no'); END")
        self.assertStatus(grpc.StatusCode.UNKNOWN, "no", deliver, request(4, ["d", "bad"]))
        self.assertEqual(len(self.rows()), 2)

    def test_the_command_names_a_wrong_argument_and_ends_with_status_2(self):
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "example_sqlite_receiver.py")
        for arguments, words in (([], "usage: "), ([":memory:", "localhost"], "'localhost' is not an address")):
            ended = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, timeout=60)
            self.assertEqual((ended.returncode, ended.stdout), (2, ""), ended.stderr)
            self.assertIn(words, ended.stderr)
            self.assertNotIn("Traceback", ended.stderr)

    def test_what_keeps_the_command_from_serving_is_one_line_and_status_1(self):
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "example_sqlite_receiver.py")
        with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as taken:
            address = "127.0.0.1:%d" % taken.getsockname()[1]
            for database, address, message in (
                    ("events.db", address, f"cannot listen on {address}: Address already in use"),
                    ("events.db", "192.0.2.1:1", "cannot listen on 192.0.2.1:1: Cannot assign requested address"),
                    ("none/events.db", "127.0.0.1:0", "none/events.db: unable to open database file")):
                ended = subprocess.run([sys.executable, "-B", script, database, address], capture_output=True, text=True,
                                       timeout=60, cwd=folder)
                self.assertEqual((ended.returncode, ended.stdout, ended.stderr),
                                 (1, "", f"example_sqlite_receiver.py: {message}\n"))

    def test_the_command_serves_until_it_is_told_to_end(self):
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "example_sqlite_receiver.py")
        for ending in (signal.SIGTERM, signal.SIGINT):
            with tempfile.TemporaryDirectory() as folder, subprocess.Popen(
                    [sys.executable, "-B", script, os.path.join(folder, "events.db"), "127.0.0.1:0"],
                    stdout=subprocess.PIPE) as command:
                self.assertIn(b"listening on port", command.stdout.readline())
                command.send_signal(ending)
                self.assertEqual(command.wait(10), 0)


@unittest.skipUnless(COMPILED, "no FileDescriptorSet is named")
class SchemaTest(unittest.TestCase):
    def test_the_messages_are_those_of_the_proto_file(self):
        with open(COMPILED, "rb") as file:
            [compiled] = descriptor_pb2.FileDescriptorSet.FromString(file.read()).file
        compiled.ClearField("source_code_info")
        for message in compiled.message_type:
            for field in message.field:
                field.ClearField("json_name")
        self.assertEqual(tx.file_descriptor(), compiled)


if __name__ == "__main__":
    unittest.main()
