"""A telemetryx agent in plain Python, written from docs/protocol.md alone; R1 to R16 below are that file's rules.

No threads: send(), flush(), close() and poll() drive the connection. A frame stays queued, byte for byte, until it
is acknowledged:    ..acked] [in flight..sent] [waiting..    `frames` holds what lies right of `acked`, in seq order.
"""
import argparse, collections, json, os, random, re, select, socket, struct, sys, time
import telemetryx_wire as wire

FRAME_EVENTS_MAX, PROTOCOL_ERRORS_MAX, OUT_BYTES = 65_536, 4, 256 * 1024
CONNECT_TIMEOUT, BACKOFF_MIN, BACKOFF_MAX = 10.0, 0.05, 30.0  # seconds


def load_agent_id(path):
    """16 random bytes, made once; the file `path`, if one is named, keeps them for the agent's next life."""
    if path and os.path.exists(path):
        with open(path) as file:
            return bytes.fromhex(file.read())
    agent_id = os.urandom(16)
    if path:
        with open(path, "x") as file:
            file.write(agent_id.hex())
    return agent_id


class Goaway(Exception):
    def __init__(self, payload):
        self.code, self.retry_ms = struct.unpack_from("<II", payload)
        super().__init__(f"GOAWAY({self.code}) {payload[8:].decode('utf-8', 'replace')}")


class Agent:
    """`counts` counts events, reconnects and moves; `report` gets a line for every loss and every lost connection."""

    def __init__(self, address, name, token="", ack=0, state_file=None, frame_bytes=256 << 10, queue_bytes=16 << 20,
                 report=lambda line: print(line, file=sys.stderr)):
        self.address, self.name, self.token, self.ack, self.report = address, name, token, ack, report
        self.agent_id, self.epoch, self.server_id, self.keepalive = load_agent_id(state_file), 0, None, 30
        self.frames = collections.deque()  # (frame, events in it), the first with seq acked + 1
        self.frame_bytes, self.queue_bytes, self.queued_bytes = frame_bytes, queue_bytes, 0
        self.acked = self.sent = self.highest_sent = 0
        self.socket, self.retry_at, self.ceiling, self.closing = None, 0.0, BACKOFF_MIN, False
        self.suspect, self.blames, self.aside = 0, 0, []  # R16: seq, protocol errors on it; payloads given up
        self.counts = dict(sent=0, acknowledged=0, nacked=0, set_aside=0, reconnects=0, moves=0)

    def send(self, events):
        """Queues dicts with the field names of Event, as one frame or more; blocks while the queue is full."""
        entries, size = [], 0
        for entry in map(wire.encode_event, events):
            if entries and (size + len(entry) > self.frame_bytes or len(entries) == FRAME_EVENTS_MAX):
                self._queue(entries)
                entries, size = [], 0
            entries.append(entry)
            size += len(entry)
        if entries:
            self._queue(entries)

    def _queue(self, entries):
        payload, seq = b"".join(entries), self.acked + len(self.frames) + 1
        self.frames.append((wire.encode_frame(wire.DATA, payload, seq, len(payload)), len(entries)))
        self.queued_bytes += len(payload)
        self.counts["sent"] += len(entries)
        self.poll()
        while self.queued_bytes > self.queue_bytes:
            self.poll(1.0)

    def flush(self, timeout=float("inf")):
        """Waits until all is acknowledged. False: not within `timeout` seconds."""
        return self._wait(lambda: not self.frames, timeout)

    def close(self, timeout=float("inf")):
        """Sends what is queued, half-closes, reads acknowledgements to the end (R15). False: not within `timeout`."""
        self.closing = True
        return self._wait(lambda: not self.frames and not self.socket, timeout)

    def _wait(self, done, timeout):
        deadline = time.monotonic() + timeout
        while not done() and time.monotonic() < deadline:
            self.poll(min(1.0, timeout))
        return done()

    def poll(self, timeout=0.0):
        """One turn: connect when due, write, read. Call it every few seconds while there is nothing to send (R13).

        Connections come and go inside. Raises Goaway when the server will never take this agent."""
        try:
            if self.socket is None:
                wait = self.retry_at - time.monotonic()
                if wait > 0:
                    return time.sleep(min(wait, timeout))
                self._connect()
            self._fill()
            readable, writable, _ = select.select([self.socket], [self.socket] * bool(self.out), [],
                                                  min(timeout, self.keepalive / 8))
            if readable:  # before writing, which may fail and hide the server's last words
                self._read()
            elif time.monotonic() - self.heard_at > 1.5 * self.keepalive:
                raise TimeoutError("the server is silent")
            if writable:
                del self.out[: self.socket.send(self.out)]
        except (Goaway, OSError, EOFError, ValueError, struct.error) as error:
            self._disconnect(error)

    def _connect(self):
        self.sent = self.acked_at_connect = self.acked
        self.flying_bytes, self.welcomed, self.half_closed = 0, False, False
        host, _, port = self.address.rpartition(":")
        self.socket = socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT)
        self.socket.setblocking(False)
        self.inbox, self.heard_at = bytearray(), time.monotonic()
        self.out, self.spoke_at = bytearray(self._hello()), time.monotonic()

    def _hello(self):
        return wire.encode_hello(self.agent_id, self.name, self.token, self.ack, self.epoch, self.acked + 1)

    def _fill(self):
        """Moves frames into `out` as far as the window allows (R10), then says what else is due."""
        if not self.welcomed or self.half_closed:
            return
        frames_max = 1 if self.suspect > self.acked else self.window_frames  # alone in flight, the blame is sure
        while self.window and len(self.out) < OUT_BYTES and self.sent - self.acked < min(frames_max, len(self.frames)):
            frame = self.frames[self.sent - self.acked][0]
            flying_bytes = self.flying_bytes + len(frame) - wire.HEADER_BYTES
            if self.sent > self.acked and flying_bytes > self.window:
                break
            self.out += frame
            self.flying_bytes, self.spoke_at, self.sent = flying_bytes, time.monotonic(), self.sent + 1
        self.highest_sent = max(self.highest_sent, self.sent)
        if time.monotonic() - self.spoke_at >= self.keepalive / 2:
            self.out += wire.encode_frame(wire.PING)
            self.spoke_at = time.monotonic()
        if self.closing and not self.out and self.sent == self.acked + len(self.frames):
            self.socket.shutdown(socket.SHUT_WR)
            self.half_closed = True

    def _read(self):
        data = self.socket.recv(64 * 1024)
        if not data:
            raise EOFError("the server closed the connection")
        self.heard_at = time.monotonic()
        self.inbox += data
        for kind, arg, seq, payload in wire.decode_frames(self.inbox):
            if kind == wire.GOAWAY:
                raise Goaway(payload)
            if kind not in ((wire.ACK, wire.NACK, wire.PING, wire.PONG) if self.welcomed else (wire.WELCOME,)):
                raise ValueError(f"frame type {kind} out of turn")
            if kind == wire.WELCOME:
                self._welcome(wire.decode_welcome(payload))
            elif kind == wire.ACK:
                self._trim(seq, self.sent)
                self.window = arg
            elif kind == wire.NACK:
                self._nack(seq, arg, payload)
            elif kind == wire.PING and not self.half_closed:
                self.out += wire.encode_frame(wire.PONG, seq=seq)

    def _welcome(self, welcome):
        if welcome.version != 1 or self.epoch not in (0, welcome.epoch) or self.ack not in (0, welcome.ack):
            raise ValueError(f"not what was asked for: {welcome}")
        self._trim(welcome.last_seq, self.highest_sent)
        self.counts["reconnects"] += self.epoch != 0
        if self.server_id not in (None, welcome.server_id) and self.highest_sent > self.acked:
            self.counts["moves"] += 1  # the old server may have kept what the new one gets again
        self.epoch, self.server_id, self.sent, self.flying_bytes = welcome.epoch, welcome.server_id, self.acked, 0
        self.window, self.window_frames, self.keepalive = welcome.window_bytes, welcome.window_frames, welcome.keepalive
        self.frame_bytes = min(self.frame_bytes, welcome.max_frame, welcome.max_raw)
        self.welcomed = True

    def _trim(self, seq, highest):
        if not self.acked <= seq <= highest:
            raise ValueError(f"acknowledged {seq}, outside {self.acked} to {highest}")
        while self.acked < seq:
            frame, events = self.frames.popleft()
            self.acked += 1
            self.counts["acknowledged"] += events
            self.queued_bytes -= len(frame) - wire.HEADER_BYTES
            self.flying_bytes -= len(frame) - wire.HEADER_BYTES

    def _nack(self, seq, code, payload):
        """A refusal is final (R8), but the frame keeps its place, with no events to count, until its ACK."""
        if not self.acked < seq <= self.sent:
            raise ValueError(f"refused {seq}, which is not in flight")
        frame, events = self.frames[seq - self.acked - 1]
        partly = re.search(rb'"accepted":\s*(\d+)', payload) if code == wire.NACK_PARTIAL else None
        accepted = min(events, int(partly[1])) if partly else 0
        self.frames[seq - self.acked - 1] = frame, accepted
        self.counts["nacked"] += events - accepted
        self.report(f"seq {seq}: {events - accepted} events refused, NACK({code}) {payload.decode('utf-8', 'replace')}")

    def _disconnect(self, error):
        if self.socket:
            self.socket.close()
            self.socket = None
            if self.closing and not self.frames:
                return
        code = getattr(error, "code", None)
        if code in wire.GOAWAY_FINAL:
            raise error
        if code == wire.GOAWAY_PROTOCOL and self.sent > self.acked:
            self._blame(error)
        # Full jitter; what was acknowledged meanwhile shows that the way is open again.
        self.ceiling = BACKOFF_MIN if self.acked > self.acked_at_connect else min(2 * self.ceiling, BACKOFF_MAX)
        ceiling = BACKOFF_MAX if code == wire.GOAWAY_STORAGE else self.ceiling
        wait = max(random.uniform(0, ceiling), min(getattr(error, "retry_ms", 0) / 1000, BACKOFF_MAX))
        self.retry_at = time.monotonic() + wait
        self.report(f"connection lost, next try in {wait:.2f} s: {error}")

    def _blame(self, error):
        """R16: after four protocol errors on the oldest frame, an empty one takes its place."""
        self.blames = self.blames + 1 if self.suspect == self.acked + 1 else 1
        self.suspect = self.acked + 1
        if self.blames == PROTOCOL_ERRORS_MAX:
            frame, events = self.frames[0]
            self.frames[0] = wire.encode_frame(wire.DATA, seq=self.suspect), 0
            self.aside.append(frame[wire.HEADER_BYTES :])
            self.queued_bytes -= len(frame) - wire.HEADER_BYTES
            self.counts["set_aside"] += events
            self.report(f"seq {self.suspect}: {events} events set aside, {error}")


def read_lines(agent):
    """Lines of stdin as they come; while none come, the connection is kept alive."""
    rest = b""
    while True:
        while not select.select([0], [], [], 0)[0]:
            agent.poll(0.2)
        chunk = os.read(0, 64 * 1024)
        *lines, rest = (rest + chunk).split(b"\n")
        if rest and (not chunk or len(rest) > 64 * 1024):
            lines, rest = [*lines, rest], b""
        yield [line.decode("utf-8", "replace") for line in lines]
        if not chunk:
            return


def main():
    parser = argparse.ArgumentParser(description="Ships lines of stdin, or numbered events, to a telemetryx server.")
    parser.add_argument("address", help="HOST:PORT")
    parser.add_argument("--name", default=socket.gethostname(), help="the agent's name (this host's)")
    parser.add_argument("--token-file", type=argparse.FileType(), help="a file with the token")
    parser.add_argument("--ack", type=int, default=0, help="1 received, 2 written, 3 synced, 4 delivered (the server's)")
    parser.add_argument("--state", help="a file that keeps the agent's id")
    parser.add_argument("--count", type=int, help="send so many counters, value 1, 2, 3 ..., instead of stdin")
    parser.add_argument("--frame-events", type=int, default=1000, help="events in one frame of --count")
    options = parser.parse_args()
    token = options.token_file.read().strip() if options.token_file else ""
    agent, started = Agent(options.address, options.name, token, options.ack, options.state), time.monotonic()
    try:
        if options.count is None:
            for lines in read_lines(agent):
                agent.send({"time_unix_nano": time.time_ns(), "name": "log", "body": line} for line in lines)
        else:
            for first in range(1, options.count + 1, options.frame_events):
                numbers = range(first, min(first + options.frame_events, options.count + 1))
                agent.send({"time_unix_nano": time.time_ns(), "kind": 3, "name": "count", "value": n} for n in numbers)
        agent.close()
    except Goaway as goaway:
        print(f"gave up: {goaway}", file=sys.stderr)
    seconds = round(time.monotonic() - started, 3)
    print(json.dumps({**agent.counts, "seconds": seconds}))
    return 0 if agent.counts["acknowledged"] == agent.counts["sent"] else 1


if __name__ == "__main__":
    sys.exit(main())
