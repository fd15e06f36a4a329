"""What stands on the wire between an agent and telemetryx: events and frames, from docs/protocol.md and proto/events.proto."""
import collections
import struct
import zlib

HELLO, WELCOME, DATA, ACK, NACK, PING, PONG, GOAWAY = range(1, 9)
NACK_PARTIAL = 5
GOAWAY_STORAGE, GOAWAY_PROTOCOL = 3, 7
GOAWAY_FINAL = (4, 5, 6, 11)  # AUTH, VERSION, FENCED, ACK_LEVEL: reconnecting would not help
HEADER, HEADER_BYTES = struct.Struct("<4sBBHIIQI"), 32
ANSWER_BYTES_MAX = 64 * 1024  # the server's longest payloads, NACK reasons, are a quarter of this

# Tag bytes of Event's fields and, by type of the value, of Attribute's; the low three bits are the wire type.
TAGS = {"time_unix_nano": 0x09, "kind": 0x10, "severity": 0x18, "source": 0x22, "name": 0x2A, "body": 0x32,
        "attributes": 0x3A, "value": 0x41, "duration_nano": 0x49, "trace_id": 0x52, "span_id": 0x5A,
        "parent_span_id": 0x62}
VALUE_TAGS = {str: 0x12, int: 0x18, float: 0x21, bool: 0x28, bytes: 0x32}
DOUBLES = (TAGS["value"], VALUE_TAGS[float])


def varint(n):
    return bytes((n,)) if n < 128 else bytes((n & 127 | 128,)) + varint(n >> 7)


def field(tag, value):
    if tag & 7 == 0:  # a negative number is sent as its 64-bit two's complement
        return bytes((tag,)) + varint(value & 2**64 - 1)
    if tag & 7 == 1:
        return struct.pack("<Bd" if tag in DOUBLES else "<BQ", tag, value)
    data = value.encode() if isinstance(value, str) else value
    return bytes((tag,)) + varint(len(data)) + data


def attribute(key, value):
    if type(value) is int and not -(2**63) <= value < 2**63:
        value = float(value)
    return field(0x0A, key) + field(VALUE_TAGS[type(value)], value)


def encode_event(event):
    """One entry of an EventBatch, from a dict with the field names of Event. Joined entries are an EventBatch."""
    parts = []
    for key, value in event.items():
        if key == "attributes":
            parts += [field(TAGS[key], attribute(*item)) for item in value.items()]
        else:
            parts.append(field(TAGS[key], value))
    return field(0x0A, b"".join(parts))


def encode_frame(kind, payload=b"", seq=0, arg=0):
    head = HEADER.pack(b"\xf5TLX", 1, kind, 0, len(payload), arg, seq, zlib.crc32(payload))
    return b"".join((head, struct.pack("<I", zlib.crc32(head)), payload))


def decode_frames(inbox, length_max=ANSWER_BYTES_MAX):
    """Yields (kind, arg, seq, payload) of each whole frame and takes it off `inbox`. ValueError: not a sound frame."""
    while len(inbox) >= HEADER_BYTES:
        magic, version, kind, flags, length, arg, seq, crc = HEADER.unpack_from(inbox)
        if (magic, version, flags) != (b"\xf5TLX", 1, 0) or length > length_max:
            raise ValueError("not a frame of version 1")
        if inbox[28:32] != struct.pack("<I", zlib.crc32(inbox[:28])):
            raise ValueError("the header's CRC differs")
        if len(inbox) < HEADER_BYTES + length:
            return
        payload = bytes(inbox[HEADER_BYTES : HEADER_BYTES + length])
        if zlib.crc32(payload) != crc:
            raise ValueError("the payload's CRC differs")
        del inbox[: HEADER_BYTES + length]
        if kind < 128:  # a type with bit 7 set may be skipped by who does not know it
            yield kind, arg, seq, payload


def encode_hello(agent_id, name, token, ack, epoch, oldest_seq):
    name, token = name.encode(), token.encode()
    fixed = struct.pack("<BBHI16sQQHHI", 1, 1, 1, ack, agent_id, epoch, oldest_seq, len(token), len(name), 0)
    return encode_frame(HELLO, fixed + token + name)


WELCOME_LAYOUT = struct.Struct("<BBHIIIHHIQQ16s")
Welcome = collections.namedtuple("Welcome", "version ack codecs max_frame max_raw window_bytes window_frames keepalive"
                                 " flags epoch last_seq server_id")


def decode_welcome(payload):
    return Welcome._make(WELCOME_LAYOUT.unpack(payload))
