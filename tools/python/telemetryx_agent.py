"""A telemetryx agent in one file, from docs/protocol.md alone; R3 to R15 are rules stated there.

A frame stays queued, and unchanged, until it is acknowledged (R7); a reconnect takes `sent` back:
    ..acked] [in flight ..sent] [waiting ..]        `frames` holds all that is right of `acked`
"""
import argparse, codecs, collections, json, os, random, re, select, socket, ssl, struct, sys, time, zlib

HELLO, WELCOME, DATA, ACK, NACK, PING, PONG, GOAWAY, BYE = *range(1, 9), 0x89  # frame types
STORAGE, AUTH, FINAL = 3, 4, (4, 5, 6, 11)  # GOAWAY codes; no retry helps AUTH, VERSION, FENCED, ACK_LEVEL
BACKOFF_MIN, BACKOFF_MAX, SOCKET_TIMEOUT = 0.05, 30.0, 30.0  # seconds
FRAME_MAX, QUEUE_FRAMES, CHUNK = 1 << 20, 128, 16 << 10  # max_frame; bytes read, characters in a body
HEADER = struct.Struct("<4sBBHIIQII")  # magic version type flags length arg seq crc header_crc
ADDRESS = re.compile(r"(?:\[([\w.:%]+)\]|([\w-]{1,63}(?:\.[\w-]{1,63})*\.?))(?::([0-9]{1,5}))?")

def varint(n):
    return bytes((n,)) if n < 128 else bytes((n & 127 | 128,)) + varint(n >> 7)
def field(tag, data):  # of protobuf; its tag is the field's number * 8 + 2 for "length, bytes"
    return bytes((tag,)) + varint(len(data)) + data

def encode_event(kind, name, more):  # 9, 16: tags of time and kind. Events joined: an EventBatch.
    return field(0x0A, struct.pack("<BQBB", 9, time.time_ns(), 16, kind) + field(0x2A, name) + more)

def encode_frame(kind, payload=b"", seq=0, arg=0):
    head = HEADER.pack(b"\xf5TLX", 1, kind, 0, len(payload), arg, seq, zlib.crc32(payload), 0)[:28]
    return head + struct.pack("<I", zlib.crc32(head)) + payload

def read_frame(connection):
    stream = connection.makefile("rb", 1)  # 1: never reads ahead, so select() sees what is left
    head = stream.read(HEADER.size)
    if not head:
        raise EOFError("the server closed the connection")
    magic, version, kind, flags, length, arg, seq, crc, head_crc = HEADER.unpack(head)
    sound = (magic, version, flags, head_crc) == (b"\xf5TLX", 1, 0, zlib.crc32(head[:28]))
    payload = stream.read(length) if sound and length <= FRAME_MAX else b""
    if not sound or len(payload) < length or zlib.crc32(payload) != crc:
        raise ValueError("the server sent no sound frame of version 1")
    return kind, arg, seq, payload

class Agent:
    acked = sent = highest_sent = epoch = 0  # seqs; epoch 0 asks for one, which then stays (R4, R6)
    socket, goaway, frames_max, keepalive, ceiling = None, (0, 0), 0, 30, BACKOFF_MIN

    def __init__(self, address, name, token="", tls=None):  # an ssl.SSLContext; None: without TLS
        parts = ADDRESS.fullmatch(address)
        self.address = (parts[1] or parts[2], int(parts[3] or 4640)) if parts else ("", 0)
        if not 0 < self.address[1] < 65536:
            raise ValueError(f"{address!r} is not an address: use HOST, HOST:PORT or [IPV6]:PORT")
        self.tls = tls
        self.name, self.token = name.encode(errors="replace"), token.encode()
        if len(self.name + self.token) > 976:
            raise ValueError("name and token have room for 976 bytes in HELLO: use shorter ones")
        self.agent_id, self.frames = os.urandom(16), collections.deque()  # [payload, events in it]
        self.counts = {"sent": 0, "acknowledged": 0, "reconnects": 0}

    def run(self, batches):
        """Sends lists of events, [] being none just now, till all are acknowledged. False: in vain."""
        while True:
            batch = next(batches, None) if len(self.frames) < QUEUE_FRAMES else []
            self.more = batch is not None
            if batch:
                self.frames.append([b"".join(batch), len(batch)])
                self.counts["sent"] += len(batch)
            try:
                self.turn(0.0 if batch else 0.2)
            except (OSError, EOFError, ValueError, struct.error) as error:
                self.socket = self.socket and self.socket.close()  # None
                (code, retry_ms), self.goaway = self.goaway, (0, 0)
                missing = code == AUTH and not self.token
                hint = "; name a file that contains the token with --token-file" if missing else ""
                if self.more or self.frames or code in FINAL:
                    print(f"disconnected: {error}{hint}", file=sys.stderr)
                if code in FINAL or not self.more and not self.frames:
                    return code not in FINAL
                # Full jitter: agents that lose their server together come back one by one.
                wait = random.uniform(0, BACKOFF_MAX if code == STORAGE else self.ceiling)
                time.sleep(max(wait, min(retry_ms / 1000, BACKOFF_MAX)))
                self.ceiling = min(2 * self.ceiling, BACKOFF_MAX)

    def turn(self, timeout):
        """Connects if need be, sends a frame if the window has room, takes one that has come."""
        if not self.socket:
            self.socket = socket.create_connection(self.address, SOCKET_TIMEOUT)
            if self.tls:
                self.socket = self.tls.wrap_socket(self.socket, server_hostname=self.address[0])
            self.open, self.window, self.sent = False, 0, self.acked
            self.heard = self.pinged = time.monotonic()
            hello = struct.pack("<BBHI16sQQHHI", 1, 1, 1, 0, self.agent_id, self.epoch,
                                self.acked + 1, len(self.token), len(self.name), 0)
            self.socket.sendall(encode_frame(HELLO, hello + self.token + self.name))
        flying, now = self.sent - self.acked, time.monotonic()
        size = sum(len(frame[0]) for frame, _ in zip(self.frames, range(flying + 1)))
        has_room = size <= self.window if flying else self.window > 0  # R10: one always has
        if has_room and flying < min(len(self.frames), self.frames_max):
            payload, self.sent, timeout = self.frames[flying][0], self.sent + 1, 0.0
            self.highest_sent = max(self.highest_sent, self.sent)
            self.socket.sendall(encode_frame(DATA, payload, self.sent, len(payload)))
        elif self.open and not self.more and not self.frames:
            self.open = False  # all is acknowledged: the server may forget this agent (R3)
            self.socket.sendall(encode_frame(BYE))
            if not self.tls:  # the ssl module cannot half-close
                self.socket.shutdown(socket.SHUT_WR)  # the server closes; closing first could reset BYE
        elif self.open and now - self.pinged > self.keepalive / 2:  # R13
            self.pinged = now
            self.socket.sendall(encode_frame(PING))
        if self.tls and self.socket.pending() or select.select([self.socket], [], [], timeout)[0]:
            self.take(*read_frame(self.socket))
            self.heard = now
        elif now - self.heard > 1.5 * self.keepalive:
            raise TimeoutError("the server is silent")

    def take(self, kind, arg, seq, payload):
        if kind == WELCOME:
            arg, frames, keepalive, epoch, seq = struct.unpack("<12xIHH4xQQ16x", payload)
            if self.open or self.epoch not in (0, epoch):
                raise ValueError(f"WELCOME to epoch {epoch}, not to {self.epoch}")
            self.counts["reconnects"] += self.epoch != 0
            self.open, self.epoch, self.frames_max, self.keepalive = True, epoch, frames, keepalive
        if kind in (WELCOME, ACK):  # of `seq` and all before; `arg` is the window from now on
            if not self.acked <= seq <= self.highest_sent:
                raise ValueError(f"acknowledged {seq}, outside {self.acked} to {self.highest_sent}")
            for _ in range(self.acked, seq):
                self.counts["acknowledged"] += self.frames.popleft()[1]
                self.ceiling = BACKOFF_MIN
            self.acked, self.sent, self.window = seq, max(self.sent, seq), arg
        elif kind == NACK and self.acked < seq <= self.sent:  # final; the ACK follows (R8)
            accepted = re.search(rb'"accepted":\s*(\d+)', payload)  # only NACK(PARTIAL) says so
            self.frames[seq - self.acked - 1][1] = int(accepted[1]) if accepted else 0
            print(f"seq {seq}: NACK({arg}) {payload.decode(errors='replace')!r}", file=sys.stderr)
        elif kind == PING:
            self.socket.sendall(encode_frame(PONG, seq=seq))
        elif kind == GOAWAY:
            self.goaway = struct.unpack_from("<II", payload)
            raise EOFError(f"GOAWAY({self.goaway[0]}) {payload[8:].decode(errors='replace')!r}")
        elif kind < 128 and kind != PONG:  # unknown types from 128 on are skipped
            raise ValueError(f"frame of type {kind}, seq {seq} out of turn")

def read_lines():  # as they come, [] while none come; a long one in pieces: a body takes 64 KiB
    decoder, rest, chunk = codecs.getincrementaldecoder("utf-8")("replace"), "", None
    while chunk != b"":
        chunk = os.read(0, CHUNK) if select.select([0], [], [], 0)[0] else None
        *lines, rest = (rest + decoder.decode(chunk or b"", chunk == b"")).split("\n")
        if rest and chunk == b"":  # the last line has no end
            lines, rest = [*lines, rest], ""
        lines = [line[:-1] if line.endswith("\r") else line for line in lines]
        if len(rest) > CHUNK + 1:  # does not wait for its end; leaves more than its "\r"
            lines, rest = [*lines, rest[:CHUNK]], rest[CHUNK:]
        pieces = (line[at:at + CHUNK] for line in lines for at in range(0, len(line) or 1, CHUNK))
        yield [encode_event(1, b"log", field(0x32, piece.encode())) for piece in pieces]

def client_context(ca_file, cert, key):  # of a client that always checks the server's certificate
    context = ssl.create_default_context(cafile=ca_file)
    if cert:
        context.load_cert_chain(cert, key)
    return context

def counters(count, size):
    size = max(1, min(size, 30_000))  # of 29 bytes: below FRAME_MAX
    for first in range(1, count + 1, size):
        numbers = range(first, min(first + size, count + 1))
        yield [encode_event(3, b"count", struct.pack("<Bd", 0x41, n)) for n in numbers]

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Sends lines of stdin, or --count counters.")
    parser.add_argument("address", help="HOST:PORT; without a port, 4640")
    parser.add_argument("--name", default=socket.gethostname(), help="the agent's name")
    parser.add_argument("--token-file", type=argparse.FileType(), default=os.devnull)
    parser.add_argument("--tls", action="store_true", help="connect with TLS, trust the system's authorities")
    parser.add_argument("--ca-file", help="connect with TLS, trust the authorities in this PEM file")
    parser.add_argument("--cert", help="certificate to show to the server (PEM)")
    parser.add_argument("--key", help="its private key, where it is not in the same file")
    parser.add_argument("--count", type=int, help="send counters with the values 1, 2, 3 ...")
    parser.add_argument("--frame-events", type=int, default=1000, help="counters in a frame")
    args = parser.parse_args()
    try:
        tls = (args.tls or args.ca_file or args.cert) and client_context(args.ca_file, args.cert, args.key)
        agent = Agent(args.address, args.name, args.token_file.read().strip(), tls)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    ended = agent.run(read_lines() if args.count is None else counters(args.count, args.frame_events))
    print(json.dumps(agent.counts))
    sys.exit(not ended or agent.counts["acknowledged"] != agent.counts["sent"])
