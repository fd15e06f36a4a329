"""Tests of the agent: it runs in a thread, or as a command, and the test plays the server. Its pauses are faked."""
import io, json, os, select, socket, struct, subprocess, sys, tempfile, threading, time, unittest
from unittest import mock

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import telemetryx_agent as tx

DEADLINE = 10.0  # seconds that a test waits for what must come
QUIET = 0.3  # seconds without a frame that count as silence: more than the agent's longest select()
EPOCH, EVENT, WIDE = 77, tx.encode_event(3, b"count", b""), 1 << 20


class FrameTest(unittest.TestCase):
    def test_frames_are_the_golden_vectors(self):
        hello = tx.field(0x0A, tx.field(0x2A, b"hello"))
        self.assertEqual(tx.encode_frame(tx.DATA, hello, 1, 9).hex(" ", -4),
                         "f5544c58 01030000 09000000 09000000 01000000 00000000 d331d0b2 64200e08 0a072a05 68656c6c 6f")
        self.assertEqual(tx.encode_frame(tx.ACK, seq=1, arg=1 << 20).hex(" ", -4),
                         "f5544c58 01040000 00000000 00001000 01000000 00000000 00000000 e3e9dd88")

    def test_every_flipped_bit_and_every_missing_end_is_noticed(self):
        frame = tx.encode_frame(tx.NACK, b"why", 10)
        self.assertEqual(self.read(frame), (tx.NACK, 0, 10, b"why"))
        for bit in range(8 * len(frame)):
            flipped = int.from_bytes(frame, "little") ^ 1 << bit
            self.assertRaises(ValueError, self.read, flipped.to_bytes(len(frame), "little"))
        for end in range(len(frame)):
            self.assertRaises((EOFError, ValueError, struct.error), self.read, frame[:end])

    def read(self, stream):
        return tx.read_frame(mock.Mock(makefile=lambda mode, buffering: io.BytesIO(stream)))


class Peer(unittest.TestCase):
    """The server's side of the connections of one agent."""
    def setUp(self):
        self.ceilings, self.sleeps, self.report = [], [], io.StringIO()
        for name, fake in (("random.uniform", lambda low, high: self.ceilings.append(high) or low),
                           ("time.sleep", self.sleeps.append), ("sys.stderr", self.report)):
            patch = mock.patch(name, fake)
            patch.start()
            self.addCleanup(patch.stop)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(DEADLINE)
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        self.connection, self.stopped, self.taken = socket.socket(), threading.Event(), 0
        self.addCleanup(lambda: (self.stopped.set(), self.listener.close(), self.connection.close()))

    def start(self, *batches, idle=False):
        """Starts an agent that sends frames of so many events each. idle: then it waits for more in vain."""
        def source():
            for self.taken, events in enumerate(batches, 1):
                yield [EVENT] * events
            while idle and not self.stopped.is_set():
                yield []
        self.agent = tx.Agent(self.address, "api", "secret")
        self.thread = threading.Thread(target=self.agent.run, args=(source(),), daemon=True)
        self.thread.start()

    def accept(self):
        """Cuts the agent's connection, if there is one, takes its next, and returns the payload of its HELLO."""
        self.connection.close()
        self.connection, _ = self.listener.accept()
        self.connection.settimeout(DEADLINE)
        return self.expect(tx.HELLO)[3]

    def open(self, last_seq=0, epoch=EPOCH, window=WIDE, frames=64, keepalive=30):
        """Accepts and answers with WELCOME. Returns the epoch and the oldest seq of HELLO."""
        hello = self.accept()
        layout = (1, 3, 1, 1 << 20, 1 << 20, window, frames, keepalive, 0, epoch, last_seq, bytes(16))
        self.say(tx.WELCOME, struct.pack("<BBHIIIHHIQQ16s", *layout))
        return struct.unpack_from("<QQ", hello, 24)

    def say(self, kind, payload=b"", seq=0, arg=0):
        self.connection.sendall(tx.encode_frame(kind, payload, seq, arg))

    def goaway(self, code, retry_ms=0):
        self.say(tx.GOAWAY, struct.pack("<II", code, retry_ms) + b"text")

    def expect(self, kind):
        frame = tx.read_frame(self.connection)
        self.assertEqual(frame[0], kind, frame)
        return frame

    def expect_data(self, *seqs):
        frames = [self.expect(tx.DATA) for _ in seqs]
        self.assertEqual(tuple(frame[2] for frame in frames), seqs)
        return frames

    def expect_bye(self):
        frame = tx.read_frame(self.connection)
        while frame[0] == tx.PING:  # it may have been idle for long enough
            frame = tx.read_frame(self.connection)
        self.assertEqual(frame, (0x89, 0, 0, b""))

    def expect_silence(self):
        self.assertFalse(select.select([self.connection], [], [], QUIET)[0], "a frame came")

    def expect_end(self, **counts):
        """The agent sends BYE and half-closes, and when the connection is closed it ends."""
        self.stopped.set()
        self.expect_bye()
        self.assertEqual(self.connection.recv(1), b"")
        self.connection.close()
        self.thread.join(DEADLINE)
        self.assertFalse(self.thread.is_alive())
        self.assertEqual({**self.agent.counts, **counts}, self.agent.counts)


def bodies(batch):
    """The bodies of the log events in a batch, as far as the agent writes them."""
    found = []
    while batch:
        event, batch = take_field(batch)
        event = event[9:].partition(b"\x2a\x03log")[2]
        found.append(take_field(event)[0].decode())
    return found


def take_field(data):
    length = shift = 0
    for at, byte in enumerate(data[1:], 2):
        length, shift = length | (byte & 127) << shift, shift + 7
        if byte < 128:
            return data[at:at + length], data[at + length:]


class AddressTest(unittest.TestCase):
    def test_without_a_port_it_is_4640(self):
        for text, address in (("localhost", ("localhost", 4640)), ("10.0.0.1:5", ("10.0.0.1", 5)),
                              ("büro-1.example.:65535", ("büro-1.example.", 65535)), ("[::1]", ("::1", 4640)),
                              ("[fe80::1%eth0]:1", ("fe80::1%eth0", 1)), ("my_host:04640", ("my_host", 4640))):
            self.assertEqual(tx.Agent(text, "api").address, address)


class LinesTest(unittest.TestCase):
    """What comes in on stdin, and the bodies that it becomes, whatever the pieces it is read in."""
    def bodies_of(self, data, pieces=lambda data: [data]):
        reads = [piece[at:at + tx.CHUNK] for piece in pieces(data) for at in range(0, len(piece), tx.CHUNK)]
        found = []
        with mock.patch("os.read", lambda _, most: reads.pop(0) if reads else b""), \
                mock.patch("select.select", lambda *_: ([0], [], [])):
            for events in tx.read_lines():
                batch = b"".join(events)
                self.assertLess(len(batch), tx.FRAME_MAX)
                found += bodies(batch)
        for body in found:
            self.assertLessEqual(len(body.encode()), 64 << 10)  # what the server takes
        return found

    def test_line_ends_are_cut_off(self):
        self.bodies_of(b"\n" * (2 * tx.CHUNK))  # as many events as there are bytes: a frame holds them
        for data, expected in ((b"a\r\nb\n\r\n\nc", ["a", "b", "", "", "c"]), (b"a\rb\r\r\n", ["a\rb\r"]),
                               (b"last\r", ["last"]), (b"", []), (b"\n", [""]), (b"\r\n", [""])):
            self.assertEqual(self.bodies_of(data), expected)
            self.assertEqual(self.bodies_of(data, lambda data: [data[at:at + 1] for at in range(len(data))]), expected)

    def test_long_lines_are_cut_between_characters(self):
        for character in ("ü", "€", "😀", "x"):
            for count in (28_000, tx.CHUNK - 1, tx.CHUNK, tx.CHUNK + 1, tx.CHUNK + 2, 3 * tx.CHUNK):
                for end in ("", "\n", "\r\n"):
                    line = "a" + character * count
                    found = self.bodies_of((line + end + "next\n" * (end != "")).encode())
                    if end:
                        self.assertEqual(found.pop(), "next")
                    self.assertEqual("".join(found), line)
                    self.assertNotIn("", found)
                    self.assertLessEqual(len(found), len(line) // tx.CHUNK + 1)

    def test_what_is_not_utf8_becomes_replacement_characters(self):
        self.assertEqual(self.bodies_of(b"a\xffb\n\xc3"), ["a\ufffdb", "\ufffd"])
        self.assertEqual("".join(self.bodies_of(b"\xff" * 100_000)), "\ufffd" * 100_000)
        self.assertEqual(self.bodies_of("ü\n".encode(), lambda data: [data[:1], data[1:]]), ["ü"])


class AgentTest(Peer):
    def test_frames_are_numbered_and_acknowledged_together_and_the_end_is_awaited(self):
        self.start(2, 1)
        fixed = struct.pack("<BBHI16sQQHHI", 1, 1, 1, 0, self.agent.agent_id, 0, 1, 6, 3, 0)
        self.assertEqual(self.accept(), fixed + b"secretapi")
        self.expect_silence()  # nothing before WELCOME
        self.open()
        frames = [(tx.DATA, 2 * len(EVENT), 1, 2 * EVENT), (tx.DATA, len(EVENT), 2, EVENT)]
        self.assertEqual(self.expect_data(1, 2), frames)
        self.expect_silence()  # no BYE while something is not acknowledged
        for byte in tx.encode_frame(tx.ACK, seq=2, arg=1):
            self.connection.sendall(bytes((byte,)))
        self.expect_end(sent=3, acknowledged=3, reconnects=0)  # no epoch was known at the first cut

    def test_a_cut_connection_resumes_its_epoch_trims_and_resends_the_same_bytes(self):
        self.start(1, 2, 3, 4)
        self.assertEqual(self.open(), (0, 1))
        sent = self.expect_data(1, 2, 3, 4)
        self.say(tx.ACK, seq=1, arg=WIDE)
        self.assertEqual(self.open(last_seq=2, frames=1), (EPOCH, 2))
        self.assertEqual(self.expect_data(3), sent[2:3])
        self.assertEqual(self.open(last_seq=4), (EPOCH, 3))  # more than was sent this time: it came before
        self.expect_end(acknowledged=10, reconnects=2)

    def test_a_last_ack_that_is_lost_comes_with_the_next_welcome_and_bye_follows(self):
        self.start(1)
        self.open()
        self.expect_data(1)
        self.assertEqual(self.open(last_seq=1), (EPOCH, 1))
        self.expect_end(acknowledged=1, reconnects=1)

    def test_a_connection_lost_after_bye_is_not_made_again(self):
        self.start(1)
        self.open(last_seq=0)
        self.expect_data(1)
        self.say(tx.ACK, seq=1, arg=1)
        self.expect_bye()
        self.goaway(1)
        self.connection.close()
        self.thread.join(DEADLINE)
        self.assertFalse(self.thread.is_alive())
        self.assertEqual((self.report.getvalue(), self.sleeps), ("", []))

    def test_answers_that_cannot_be_true_cost_the_connection(self):
        self.start(1, idle=True)
        for kind, payload in ((tx.ACK, b""), (tx.NACK, b""), (tx.DATA, b""), (tx.WELCOME, b"short")):
            self.open()
            self.expect_data(1)
            self.say(kind, payload, seq=2)
            self.assertEqual(self.connection.recv(1), b"")
        self.open(epoch=EPOCH + 1)  # it never renumbers
        self.assertEqual(self.connection.recv(1), b"")
        self.assertEqual(self.open(last_seq=1), (EPOCH, 1))
        self.expect_end(acknowledged=1)

    def test_the_window_counts_bytes_and_frames_and_0_pauses(self):
        self.start(1, 1, 1, 1, 1)
        self.open(window=2 * len(EVENT) + 1)
        self.expect_data(1, 2)
        self.say(tx.ACK, seq=1, arg=2 * len(EVENT) - 1)
        self.expect_silence()
        self.say(tx.ACK, seq=2, arg=0)
        self.expect_silence()
        self.say(tx.ACK, seq=2, arg=1)
        self.expect_data(3)  # one frame is always allowed
        self.open(last_seq=2, frames=2)
        self.expect_data(3, 4)
        self.expect_silence()
        self.say(tx.ACK, seq=3, arg=WIDE)
        self.expect_data(5)
        self.say(tx.ACK, seq=5, arg=WIDE)
        self.expect_end(acknowledged=5)

    def test_the_queue_is_bounded(self):
        self.start(*[1] * (tx.QUEUE_FRAMES + 1))
        self.accept()
        deadline = time.monotonic() + DEADLINE
        while self.taken < tx.QUEUE_FRAMES and time.monotonic() < deadline:
            time.sleep(0.01)
        self.expect_silence()
        self.assertEqual(self.taken, tx.QUEUE_FRAMES)
        self.goaway(4)

    def test_refused_events_are_reported_and_not_counted_as_acknowledged(self):
        self.start(2, 3)
        partly = b'{"accepted":2,"rejected":[{"index":0,"error":"no name"}]}'
        for _ in range(2):  # the refusals are repeated after a cut
            self.open()
            self.expect_data(1, 2)
            self.connection.sendall(tx.encode_frame(tx.NACK, b"bad", 1, 1) + tx.encode_frame(tx.NACK, partly, 2, 5))
        self.say(tx.ACK, seq=2, arg=1)
        self.expect_end(sent=5, acknowledged=2)
        self.assertIn(f"seq 1: NACK(1) 'bad'\nseq 2: NACK(5) {partly.decode()!r}", self.report.getvalue())

    def test_waits_double_to_their_cap_and_start_anew_after_progress(self):
        self.start(1, idle=True)
        for code, retry_ms in ((1, 20_000), (2, 2**32 - 1), (3, 0), (7, 0), (8, 0), (9, 0), (10, 0), (99, 0)):
            self.accept()
            self.goaway(code, retry_ms)
        self.accept(), self.accept(), self.accept(), self.open()
        self.assertEqual(self.sleeps, [20.0, tx.BACKOFF_MAX] + 9 * [0])  # nobody waits for 49 days
        self.expect_data(1)
        self.say(tx.ACK, seq=1, arg=1)
        self.open(last_seq=1)
        ceilings = [0.05 * 2**n for n in range(10)] + [tx.BACKOFF_MAX, tx.BACKOFF_MIN]
        ceilings[2] = tx.BACKOFF_MAX  # STORAGE: slowly
        self.assertEqual(self.ceilings, ceilings)
        self.expect_end(acknowledged=1)

    def test_an_idle_agent_pings_answers_pings_and_leaves_a_silent_server(self):
        self.start(idle=True)
        self.open(keepalive=1)
        self.say(0x80, b"a type of a later version, skipped")
        self.say(tx.PING, seq=5)
        frame = tx.read_frame(self.connection)
        while frame[0] == tx.PING:  # it may have been idle for long enough
            frame = tx.read_frame(self.connection)
        self.assertEqual((frame[0], frame[2]), (tx.PONG, 5))
        for _ in range(4):  # longer than 1.5 keepalives
            self.expect(tx.PING)
            self.say(tx.PONG)
        self.assertRaises(EOFError, lambda: [self.expect(tx.PING) for _ in range(5)])
        self.open()
        self.assertIn("the server is silent", self.report.getvalue())
        self.expect_end(reconnects=1)


class CommandTest(Peer):
    def run_command(self, *arguments):
        command, pipe = [sys.executable, tx.__file__, self.address, *arguments], subprocess.PIPE
        self.command = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
        self.addCleanup(self.command.kill)

    def expect_exit(self, status, **summary):
        if status == 0:
            self.expect_bye()
        self.connection.close()
        output, _ = self.command.communicate(timeout=DEADLINE)
        self.assertEqual((self.command.returncode, json.loads(output)), (status, summary))

    def test_counters_go_out_in_order(self):
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"secret\n")
            file.flush()
            self.run_command("--name", "ü", "--token-file", file.name, "--count", "25", "--frame-events", "10")
            self.assertEqual(self.accept()[48:], "secretü".encode())
        self.open()
        events = b"".join(frame[3] for frame in self.expect_data(1, 2, 3)).split(b"\x2a\x05count\x41")[1:]
        self.assertEqual([struct.unpack_from("<d", part)[0] for part in events], list(range(1, 26)))
        self.say(tx.ACK, seq=3, arg=1)
        self.expect_exit(0, sent=25, acknowledged=25, reconnects=0)

    def test_lines_of_stdin_become_bodies_as_they_come(self):
        self.run_command()
        self.open()
        os.write(self.command.stdin.fileno(), "zwei ü\n".encode() + b"x" * (tx.CHUNK + 2))
        self.assertTrue(self.expect_data(1)[0][3].endswith(b"\x2a\x03log\x32\x07zwei \xc3\xbc"))
        self.assertTrue(self.expect_data(2)[0][3].endswith(b"x" * tx.CHUNK))  # does not wait for its end
        self.command.stdin.write(b"\nlast \xff")
        self.command.stdin.close()
        self.command.stdin = None
        self.assertEqual([bodies(frame[3]) for frame in self.expect_data(3, 4)], [["xx"], ["last \ufffd"]])
        self.say(tx.ACK, seq=4, arg=1)
        self.expect_exit(0, sent=4, acknowledged=4, reconnects=0)

    def test_a_bad_address_is_one_line_and_status_2(self):
        for address in ("", ":", ":4640", "host:", "host:0", "host:65536", "host:http", "a b:1", "a..b", "host:1:2",
                        "http://host:1", "::1", "[::1", "[::1]4640", "[]:1", "h" * 64, "host:-1", "host:1\n"):
            command = [sys.executable, tx.__file__, address, "--count", "1"]
            ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE, text=True)
            self.assertEqual((ended.returncode, ended.stdout), (2, ""), address)
            self.assertRegex(ended.stderr, r"\Atelemetryx_agent\.py: .* is not an address: .*HOST:PORT.*\n\Z")

    def test_what_hello_has_no_room_for_is_one_line_and_status_2(self):
        command = [sys.executable, tx.__file__, "localhost", "--name", "n" * 977]
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE, text=True)
        self.assertEqual((ended.returncode, ended.stdout, ended.stderr.count("\n")), (2, "", 1), ended.stderr)
        self.assertIn("976 bytes", ended.stderr)

    def test_a_missing_token_is_named_with_its_option_whatever_there_is_to_send(self):
        for count in ("0", "1"):
            for token, hint in ((b"", "; name a file that contains the token with --token-file"), (b"other", "")):
                with tempfile.NamedTemporaryFile() as file:
                    file.write(token)
                    file.flush()
                    command = [sys.executable, tx.__file__, self.address, "--count", count, "--token-file", file.name]
                    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                          stderr=subprocess.PIPE, text=True) as ended:
                        self.accept()
                        self.goaway(4)
                        self.connection.close()
                        _, report = ended.communicate(timeout=DEADLINE)
                self.assertEqual((ended.returncode, report), (1, f"disconnected: GOAWAY(4) 'text'{hint}\n"))

    def test_a_server_that_will_never_take_the_agent_ends_it_with_status_1(self):
        for code in (4, 5, 6, 11):
            self.run_command("--count", "1")
            self.accept()
            self.goaway(code)
            self.expect_exit(1, sent=1, acknowledged=0, reconnects=0)


if __name__ == "__main__":
    unittest.main()
