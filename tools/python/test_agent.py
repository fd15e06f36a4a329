"""Tests of the Python agent against a peer that speaks the server's side by hand: python3 -m unittest (in this folder).

The agent has no threads, so one thread plays both sides: a peer that waits for a frame turns the agent meanwhile.
"""
import json, os, socket, struct, subprocess, sys, tempfile, threading, time, unittest
from unittest import mock

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import telemetryx_agent
import telemetryx_wire as wire
from telemetryx_agent import Agent, Goaway

DEADLINE = 10.0  # seconds that a test waits for what must come
EPOCH, SERVER_ID = 77, bytes(range(16, 32))


class Peer:
    """The server's side of the connections of one agent."""

    def __init__(self, test, **settings):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(DEADLINE)
        test.addCleanup(self.listener.close)
        self.reports, self.socket = [], None
        address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        self.agent = Agent(address, "api", report=self.reports.append, **settings)
        test.addCleanup(lambda: self.agent.socket and self.agent.socket.close())
        test.addCleanup(lambda: self.socket and self.socket.close())

    def turn_until(self, condition):
        deadline = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < deadline, f"not within {DEADLINE} s; the agent said {self.reports}"
            self.agent.poll(0.01)

    def accept(self):
        """Takes the agent's connection and returns its HELLO payload."""
        self.turn_until(lambda: self.agent.socket is not None)
        self.socket, _ = self.listener.accept()
        self.socket.setblocking(False)
        self.inbox, self.frames = bytearray(), []
        return self.expect(wire.HELLO)[3]

    def pull(self):
        """Takes what has arrived. False at the end of the stream."""
        try:
            data = self.socket.recv(1 << 20)
        except BlockingIOError:
            return True
        self.inbox += data
        self.frames += wire.decode_frames(self.inbox, 1 << 20)
        return bool(data)

    def expect(self, kind):
        self.turn_until(lambda: self.pull() and self.frames)
        frame = self.frames.pop(0)
        assert frame[0] == kind, f"type {kind} expected, {frame} came"
        return frame

    def expect_nothing(self):
        for _ in range(20):
            self.agent.poll(0.005)
            self.pull()
        assert not self.frames, self.frames

    def say(self, kind, payload=b"", seq=0, arg=0):
        self.socket.sendall(wire.encode_frame(kind, payload, seq, arg))

    def welcome(self, last_seq=0, epoch=EPOCH, ack=3, window=1 << 20, frames=64, keepalive=30, server_id=SERVER_ID):
        fields = (1, ack, 1, 1 << 20, 1 << 20, window, frames, keepalive, 0, epoch, last_seq, server_id)
        self.say(wire.WELCOME, wire.WELCOME_LAYOUT.pack(*fields))
        self.turn_until(lambda: self.agent.welcomed)

    def ack(self, seq, window=1 << 20):
        self.say(wire.ACK, seq=seq, arg=window)
        self.turn_until(lambda: self.agent.acked == seq and self.agent.window == window)

    def goaway(self, code, retry_ms=0):
        self.say(wire.GOAWAY, struct.pack("<II", code, retry_ms) + b"text")
        self.cut()

    def cut(self):
        self.socket.close()
        self.turn_until(lambda: self.agent.socket is None)


def events(*numbers):
    return [{"name": "n", "value": number} for number in numbers]


def hello_fields(hello):
    return dict(zip(("ack", "agent_id", "epoch", "oldest_seq"), struct.unpack_from("<4xI16sQQ", hello)))


class WireTest(unittest.TestCase):
    def test_frames_are_the_golden_vectors(self):
        for frame, vector in (
            (wire.encode_frame(wire.DATA, b"\x0a\x03abc", 1, 5),
             "f5544c58 01030000 05000000 05000000 0100000000000000 82d84254 7ae286a3 0a03616263"),
            (wire.encode_frame(wire.ACK, seq=1, arg=1 << 20),
             "f5544c58 01040000 00000000 00001000 0100000000000000 00000000 e3e9dd88"),
            (wire.encode_frame(wire.DATA, wire.encode_event({"name": "hello"}), 1, 9),
             "f5544c58 01030000 09000000 09000000 0100000000000000 d331d0b2 64200e08 0a072a0568656c6c6f"),
            (wire.encode_hello(bytes(range(16)), "api", "", 0, 0, 1),
             "f5544c58 01010000 33000000 00000000 0000000000000000 90322bbf 6de7770c"
             "0101 0100 00000000 000102030405060708090a0b0c0d0e0f 0000000000000000 0100000000000000"
             "0000 0300 00000000 617069"),
        ):
            self.assertEqual(frame.hex(), vector.replace(" ", ""))

    def test_every_field_of_an_event_is_encoded(self):
        event = {"time_unix_nano": 1, "kind": 3, "severity": 9, "source": "s", "name": "é", "body": "b" * 200,
                 "attributes": {"t": "x", "i": -1, "f": 0.5, "y": True, "z": b"\xff", "big": 2**63}, "value": 3,
                 "duration_nano": 2, "trace_id": b"t" * 16, "span_id": b"s" * 8, "parent_span_id": b"p" * 8}
        expected = bytes.fromhex(
            "09 0100000000000000 10 03 18 09 22 01 73 2a 02 c3a9 32 c801" + "62" * 200
            + "3a 06 0a 01 74 12 01 78" + "3a 0e 0a 01 69 18 ffffffffffffffffff01" + "3a 0c 0a 01 66 21 000000000000e03f"
            + "3a 05 0a 01 79 28 01" + "3a 06 0a 01 7a 32 01 ff" + "3a 0e 0a 03 626967 21 000000000000e043"
            + "41 0000000000000840 49 0200000000000000"
            + "52 10" + "74" * 16 + "5a 08" + "73" * 8 + "62 08" + "70" * 8)
        self.assertEqual(wire.encode_event(event), b"\x0a" + wire.varint(len(expected)) + expected)

    def test_a_misspelt_field_is_refused(self):
        self.assertRaises(KeyError, wire.encode_event, {"nmae": "x"})

    def test_frames_are_found_wherever_the_stream_is_split(self):
        stream = wire.encode_frame(wire.ACK, seq=9) + wire.encode_frame(0x80, b"?") + wire.encode_frame(wire.NACK, b"why", 10)
        frames = [(wire.ACK, 0, 9, b""), (wire.NACK, 0, 10, b"why")]  # the unknown type 0x80 is skipped
        for split in range(len(stream) + 1):
            inbox, found = bytearray(), []
            for part in (stream[:split], stream[split:]):
                inbox += part
                found += wire.decode_frames(inbox)
            self.assertEqual((found, inbox), (frames, b""), split)
        inbox, found = bytearray(), []
        for byte in stream:
            inbox.append(byte)
            found += wire.decode_frames(inbox)
        self.assertEqual((found, inbox), (frames, b""))

    def test_every_flipped_bit_is_noticed(self):
        frame = wire.encode_frame(wire.NACK, b"why", 10)
        for bit in range(8 * len(frame)):
            flipped = bytearray(frame)
            flipped[bit // 8] ^= 1 << bit % 8
            with self.assertRaises(ValueError, msg=f"bit {bit}"):
                list(wire.decode_frames(flipped))

    def test_a_length_above_the_cap_is_refused_before_it_is_awaited(self):
        head = bytearray(wire.encode_frame(wire.NACK, b"x" * (wire.ANSWER_BYTES_MAX + 1))[: wire.HEADER_BYTES])
        self.assertRaises(ValueError, list, wire.decode_frames(head))


class AgentTest(unittest.TestCase):
    def test_events_arrive_numbered_and_are_trimmed_by_one_ack(self):
        peer = Peer(self, token="secret", ack=2)
        hello = peer.accept()
        self.assertEqual(hello_fields(hello), dict(ack=2, agent_id=peer.agent.agent_id, epoch=0, oldest_seq=1))
        self.assertEqual(hello[48:], b"secretapi")
        peer.agent.send(events(1, 2))
        peer.agent.send(events(3))
        peer.welcome(ack=2)
        payload = b"".join(map(wire.encode_event, events(1, 2)))
        self.assertEqual(peer.expect(wire.DATA), (wire.DATA, len(payload), 1, payload))
        self.assertEqual(peer.expect(wire.DATA)[2:], (2, wire.encode_event(events(3)[0])))
        self.assertFalse(peer.agent.flush(timeout=0.01))
        peer.ack(2)
        self.assertTrue(peer.agent.flush(timeout=DEADLINE))
        self.assertEqual((peer.agent.counts["sent"], peer.agent.counts["acknowledged"]), (3, 3))
        self.assertEqual((peer.agent.queued_bytes, peer.agent.flying_bytes), (0, 0))

    def test_events_are_split_into_frames_by_bytes(self):
        peer = Peer(self, frame_bytes=100)
        peer.accept()
        peer.welcome()
        peer.agent.send([{"body": "x" * 60}] * 3)
        self.assertEqual([peer.expect(wire.DATA)[2] for _ in range(3)], [1, 2, 3])

    def test_a_cut_connection_resumes_its_epoch_and_resends_the_same_bytes(self):
        peer = Peer(self)
        peer.accept()
        peer.welcome()
        for number in (1, 2, 3, 4):
            peer.agent.send(events(number))
        first = [peer.expect(wire.DATA) for _ in range(4)]
        peer.ack(1)
        peer.cut()
        self.assertEqual(hello_fields(peer.accept())["epoch"], EPOCH)
        peer.welcome(last_seq=2)
        self.assertEqual([peer.expect(wire.DATA) for _ in range(2)], first[2:])
        self.assertEqual(peer.agent.counts["reconnects"], 1)
        peer.ack(4)
        peer.cut()
        hello = hello_fields(peer.accept())
        self.assertEqual((hello["epoch"], hello["oldest_seq"]), (EPOCH, 5))
        self.assertEqual(peer.agent.counts["acknowledged"], 4)

    def test_an_epoch_that_was_never_heard_of_is_asked_for_again(self):
        peer = Peer(self)
        peer.accept()
        peer.cut()
        self.assertEqual(hello_fields(peer.accept())["epoch"], 0)
        peer.welcome()
        self.assertEqual(peer.agent.counts["reconnects"], 0)

    def test_a_sequence_gap_makes_it_resend_from_what_the_server_has(self):
        peer = Peer(self)
        peer.accept()
        peer.welcome()
        peer.agent.send(events(1))
        peer.agent.send(events(2))
        peer.expect(wire.DATA), peer.expect(wire.DATA)
        peer.goaway(8)
        self.assertEqual(hello_fields(peer.accept())["oldest_seq"], 1)
        peer.welcome(last_seq=0)
        self.assertEqual([peer.expect(wire.DATA)[2] for _ in range(2)], [1, 2])

    def test_acknowledging_what_was_never_sent_costs_the_connection(self):
        for seq in (1, 2**64 - 1):
            peer = Peer(self)
            peer.accept()
            peer.welcome()
            peer.say(wire.ACK, seq=seq, arg=1)
            peer.turn_until(lambda: peer.agent.socket is None)
            self.assertIn("outside", peer.reports[0])

    def test_the_window_holds_frames_back(self):
        peer = Peer(self)
        peer.accept()
        peer.welcome(window=100)
        for _ in range(3):
            peer.agent.send([{"body": "x" * 40}])  # 44 bytes each
        self.assertEqual([peer.expect(wire.DATA)[2] for _ in range(2)], [1, 2])
        peer.expect_nothing()
        peer.ack(1, window=0)
        peer.expect_nothing()  # 0 pauses
        peer.ack(2, window=0)
        peer.expect_nothing()
        peer.ack(2, window=1)
        self.assertEqual(peer.expect(wire.DATA)[2], 3)  # one frame is always allowed

    def test_the_window_counts_frames_too(self):
        peer = Peer(self)
        peer.accept()
        peer.welcome(frames=2)
        for number in (1, 2, 3):
            peer.agent.send(events(number))
        self.assertEqual([peer.expect(wire.DATA)[2] for _ in range(2)], [1, 2])
        peer.expect_nothing()
        peer.ack(1)
        self.assertEqual(peer.expect(wire.DATA)[2], 3)

    def test_a_full_queue_blocks_the_sender(self):
        peer = Peer(self, queue_bytes=100)
        peer.accept()
        peer.welcome()
        peer.agent.send([{"body": "x" * 80}])
        peer.expect(wire.DATA)
        timer = threading.Timer(0.2, lambda: peer.say(wire.ACK, seq=1, arg=1 << 20))
        timer.start()
        peer.agent.send([{"body": "x" * 80}])
        self.assertEqual(peer.agent.acked, 1)
        timer.join()

    def test_refused_frames_are_counted_reported_and_not_sent_again(self):
        peer = Peer(self)
        peer.accept()
        peer.welcome()
        peer.agent.send(events(1, 2))
        peer.agent.send(events(3, 4, 5))
        peer.say(wire.NACK, b"not protobuf", seq=1, arg=1)
        peer.say(wire.NACK, b'{"accepted":2,"rejected":[{"index":0,"error":"no name"}]}', seq=2, arg=5)
        peer.expect(wire.DATA), peer.expect(wire.DATA)
        peer.ack(2)
        counts = peer.agent.counts
        self.assertEqual((counts["sent"], counts["nacked"], counts["acknowledged"]), (5, 3, 2))
        self.assertIn("not protobuf", peer.reports[0])
        self.assertIn("no name", peer.reports[1])
        peer.cut()
        peer.accept()
        peer.welcome(last_seq=2)
        peer.expect_nothing()

    def test_a_refusal_before_a_cut_is_counted_once(self):
        peer = Peer(self)
        peer.accept()
        peer.welcome()
        peer.agent.send(events(1, 2))
        for _ in range(2):
            peer.expect(wire.DATA)
            peer.say(wire.NACK, b"bad", seq=1, arg=4)
            peer.turn_until(lambda: peer.reports and "refused" in peer.reports[-1])
            peer.cut()
            peer.accept()
            peer.welcome()
        peer.expect(wire.DATA)
        peer.ack(1)
        self.assertEqual((peer.agent.counts["nacked"], peer.agent.counts["acknowledged"]), (2, 0))

    def test_goaway_ends_the_agent_only_where_a_retry_cannot_help(self):
        for code in (1, 2, 3, 7, 8, 9, 10, 99):
            peer = Peer(self)
            peer.accept()
            peer.goaway(code)
            self.assertIn(f"GOAWAY({code}) text", peer.reports[0])
        for code in (4, 5, 6, 11):
            peer = Peer(self)
            peer.accept()
            with self.assertRaises(Goaway) as raised:
                peer.goaway(code)
            self.assertEqual(raised.exception.code, code)

    def test_goaway_says_how_long_to_wait_at_least(self):
        peer = Peer(self)
        peer.accept()
        peer.goaway(1, retry_ms=20_000)
        self.assertGreater(peer.agent.retry_at - time.monotonic(), 19)
        peer = Peer(self)
        peer.accept()
        peer.goaway(1, retry_ms=2**32 - 1)  # nobody is sent away for 49 days
        self.assertLessEqual(peer.agent.retry_at - time.monotonic(), telemetryx_agent.BACKOFF_MAX)

    def test_backoff_doubles_to_its_cap_and_starts_anew_after_progress(self):
        with mock.patch("random.uniform", lambda low, high: low):  # the shortest wait of full jitter: none
            peer = Peer(self)
            ceilings = []
            for _ in range(12):
                peer.accept()
                peer.cut()
                ceilings.append(peer.agent.ceiling)
            self.assertEqual(ceilings[:3], [0.1, 0.2, 0.4])
            self.assertEqual(ceilings[-1], telemetryx_agent.BACKOFF_MAX)
            peer.accept()
            peer.welcome()
            peer.agent.send(events(1))
            peer.expect(wire.DATA)
            peer.ack(1)
            peer.cut()
            self.assertEqual(peer.agent.ceiling, telemetryx_agent.BACKOFF_MIN)

    def test_four_protocol_errors_put_an_empty_frame_in_place_of_the_bad_one(self):
        peer = Peer(self)
        peer.accept()
        peer.welcome()
        for number in (1, 2, 3):
            peer.agent.send(events(number))
        self.assertEqual([peer.expect(wire.DATA)[2] for _ in range(3)], [1, 2, 3])
        peer.goaway(7)
        for _ in range(3):
            peer.accept()
            peer.welcome(last_seq=1)  # 1 was sound after all, so the blame is on 2: four times from here
            self.assertEqual(peer.expect(wire.DATA)[2], 2)
            peer.goaway(7)
        peer.accept()
        peer.welcome(last_seq=1)
        self.assertEqual(peer.expect(wire.DATA)[2:], (2, wire.encode_event(events(2)[0])))
        peer.expect_nothing()  # the suspect travels alone
        peer.goaway(7)
        peer.accept()
        peer.welcome(last_seq=1)
        self.assertEqual(peer.expect(wire.DATA), (wire.DATA, 0, 2, b""))
        peer.ack(2)
        self.assertEqual(peer.expect(wire.DATA)[2:], (3, wire.encode_event(events(3)[0])))
        peer.ack(3)
        counts = peer.agent.counts
        self.assertEqual((counts["sent"], counts["acknowledged"], counts["set_aside"]), (3, 2, 1))
        self.assertEqual(peer.agent.aside, [wire.encode_event(events(2)[0])])
        self.assertEqual(peer.agent.queued_bytes, 0)

    def test_an_idle_agent_pings_and_answers_pings(self):
        peer = Peer(self)
        peer.accept()
        started = time.monotonic()
        peer.welcome(keepalive=1)
        peer.say(wire.PING, seq=5)
        self.assertEqual(peer.expect(wire.PONG)[2], 5)
        peer.expect(wire.PING)
        self.assertLess(time.monotonic() - started, 1.0)

    def test_a_silent_server_is_left(self):
        peer = Peer(self)
        peer.accept()
        peer.welcome(keepalive=1)
        peer.turn_until(lambda: peer.agent.socket is None)
        self.assertIn("silent", peer.reports[0])

    def test_bytes_that_are_no_frame_cost_the_connection(self):
        for answer in (b"HTTP/1.1 400 Bad Request\r\n\r\n" + b"x" * 32, wire.encode_frame(wire.DATA), wire.encode_frame(99),
                       wire.encode_frame(wire.GOAWAY, b"short"), wire.encode_frame(wire.WELCOME, b"short")):
            peer = Peer(self)
            peer.accept()
            peer.socket.sendall(answer)
            peer.turn_until(lambda: peer.agent.socket is None)

    def test_another_epoch_or_ack_level_than_asked_for_is_not_accepted(self):
        for wrong in (dict(epoch=EPOCH + 1), dict(ack=1)):
            peer = Peer(self, ack=3)
            peer.accept()
            peer.welcome()
            peer.cut()
            peer.accept()
            fields = dict(dict(epoch=EPOCH, ack=3), **wrong)
            peer.say(wire.WELCOME, wire.WELCOME_LAYOUT.pack(1, fields["ack"], 1, 9, 9, 9, 9, 30, 0, fields["epoch"], 0, SERVER_ID))
            peer.turn_until(lambda: peer.agent.socket is None)
            self.assertIn("not what was asked for", peer.reports[-1])

    def test_a_move_to_another_server_with_frames_in_flight_is_counted(self):
        peer = Peer(self)
        peer.accept()
        peer.welcome()
        peer.agent.send(events(1))
        peer.expect(wire.DATA)
        peer.cut()
        peer.accept()
        peer.welcome(server_id=bytes(16))
        self.assertEqual(peer.agent.counts["moves"], 1)
        self.assertEqual(peer.expect(wire.DATA)[2], 1)

    def test_close_half_closes_and_reads_acknowledgements_to_the_end(self):
        peer = Peer(self)
        peer.accept()
        peer.welcome()
        peer.agent.send(events(1))
        self.assertFalse(peer.agent.close(timeout=0.05))
        peer.expect(wire.DATA)
        peer.turn_until(lambda: not peer.pull())  # the agent's end of stream
        peer.say(wire.ACK, seq=1, arg=1 << 20)
        peer.socket.close()
        self.assertTrue(peer.agent.close(timeout=DEADLINE))
        self.assertEqual(peer.agent.counts["acknowledged"], 1)

    def test_close_resends_when_the_connection_ends_before_the_last_ack(self):
        peer = Peer(self)
        peer.accept()
        peer.welcome()
        peer.agent.send(events(1))
        peer.agent.close(timeout=0.05)
        peer.cut()
        peer.accept()
        peer.welcome()
        self.assertEqual(peer.expect(wire.DATA)[2], 1)

    def test_the_state_file_keeps_the_agent_id(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "agent")
            self.assertEqual(telemetryx_agent.load_agent_id(path), telemetryx_agent.load_agent_id(path))
        self.assertNotEqual(telemetryx_agent.load_agent_id(None), telemetryx_agent.load_agent_id(None))


class CommandTest(unittest.TestCase):
    """The command against a server in a thread that keeps what it gets, and cuts the connection now and then."""

    def serve(self, listener, cut_every):
        last_seq, frames_seen = 0, 0
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            inbox, cut, data = bytearray(), False, True
            with connection:
                while data and not cut:
                    data = connection.recv(1 << 16)
                    inbox += data
                    for kind, _, seq, payload in wire.decode_frames(inbox, 1 << 20):
                        if kind == wire.HELLO:
                            layout = (1, 3, 1, 1 << 20, 1 << 20, 1 << 20, 64, 30, 0, EPOCH, last_seq, SERVER_ID)
                            connection.sendall(wire.encode_frame(wire.WELCOME, wire.WELCOME_LAYOUT.pack(*layout)))
                        elif kind == wire.DATA:
                            self.assertLessEqual(seq, last_seq + 1)
                            frames_seen += 1
                            if seq > last_seq:
                                last_seq = seq
                                self.stored.append(payload)
                            if cut_every and frames_seen % cut_every == 0:
                                cut = True
                                break
                            connection.sendall(wire.encode_frame(wire.ACK, seq=last_seq, arg=1 << 20))

    def run_command(self, *arguments, cut_every=0, stdin=b""):
        self.stored = []
        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=self.serve, args=(listener, cut_every), daemon=True)
            thread.start()
            address = "127.0.0.1:%d" % listener.getsockname()[1]
            command = [sys.executable, telemetryx_agent.__file__, address, *arguments]
            done = subprocess.run(command, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(DEADLINE)
        return done.returncode, json.loads(done.stdout)

    def test_numbered_events_survive_cuts_once_and_in_order(self):
        status, summary = self.run_command("--count", "1005", "--frame-events", "10", cut_every=20)
        self.assertEqual((status, summary["sent"], summary["acknowledged"]), (0, 1005, 1005))
        self.assertGreaterEqual(summary["reconnects"], 4)
        values = [struct.unpack_from("<d", entry, 1)[0] for entry in b"".join(self.stored).split(b"\x2a\x05count")[1:]]
        self.assertEqual(values, list(range(1, 1006)))

    def test_lines_of_stdin_become_bodies(self):
        status, summary = self.run_command("--name", "host", stdin="one\nzwei ü\n\nlast".encode())
        self.assertEqual((status, summary["sent"]), (0, 4))
        self.assertIn(b"\x2a\x03log\x32\x07zwei \xc3\xbc", b"".join(self.stored))

    def test_a_server_that_refuses_the_agent_ends_the_command_with_status_1(self):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            def refuse():
                connection, _ = listener.accept()
                with connection:
                    connection.recv(1000)
                    connection.sendall(wire.encode_frame(wire.GOAWAY, struct.pack("<II", 4, 0) + b"who are you"))
            threading.Thread(target=refuse, daemon=True).start()
            command = [sys.executable, telemetryx_agent.__file__, "127.0.0.1:%d" % listener.getsockname()[1], "--count", "1"]
            done = subprocess.run(command, capture_output=True, timeout=60)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"who are you", done.stderr)
        self.assertEqual(json.loads(done.stdout)["acknowledged"], 0)


if __name__ == "__main__":
    unittest.main()
