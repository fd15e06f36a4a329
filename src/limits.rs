//! Every hard bound, its unit and its reason, in one place. What a user may set is in `config/table.rs`; its defaults and
//! its own bounds are here as well, so that the relations between them can be checked when compiling.

use std::time::Duration;

// ---- events (design, section 4); an agent links these ----

/// Bytes of `source` and of `name`: identifiers, which stores index.
pub const EVENT_NAME_BYTES_MAX: usize = 256;
/// Bytes of `body`: a log line with a stack trace fits, a file does not.
pub const EVENT_BODY_BYTES_MAX: usize = 64 * 1024;
/// Attributes of one event, duplicates counted.
pub const EVENT_ATTRIBUTES_MAX: usize = 128;
/// Bytes of an attribute's key; it has at least one.
pub const ATTRIBUTE_KEY_BYTES_MAX: usize = 128;
/// Bytes of one encoded event: body, names and attributes together. Bounds what one row can cost a sink.
pub const EVENT_BYTES_MAX: usize = 128 * 1024;

/// Attributes that the steps of a sink may add to an event, beyond [`EVENT_ATTRIBUTES_MAX`]: `sample_rate`, and room for those of
/// later steps.
pub const STEP_ATTRIBUTES_MAX: usize = 16;

/// Bytes of a file of events that `telemetryx check --event` reads.
pub const PREVIEW_FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Conditions in one list: they are tried one by one for each event.
pub const STEP_CONDITIONS_MAX: usize = 256;
/// The n of "keep 1 in n": of more events than this nothing is to be kept.
pub const SAMPLE_ONE_IN_MAX: u32 = 1_000_000;

/// Rules of one `redact`: they are tried one by one for each attribute.
pub const REDACT_RULES_MAX: usize = 64;
/// Bytes of a regular expression as it is written.
pub const REDACT_PATTERN_BYTES_MAX: usize = 4096;
/// Bytes of a regular expression once it is compiled, and of its cache of states.
pub const REDACT_PATTERN_COMPILED_BYTES_MAX: usize = 1 << 20;
/// Matches that are searched for in one text; what follows the last one is masked as a whole. An expression may look at the
/// rest of the text for each match: without this bound, the time would be quadratic.
pub const REDACT_MATCHES_MAX: usize = 256;
/// Fewest bytes of a key for hashes: what is shorter can be found by trying.
pub const REDACT_KEY_BYTES_MIN: usize = 16;

/// Shortest interval of aggregate: windows are deliveries, and shorter ones would save little.
pub const AGGREGATE_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// Longest interval of aggregate: the log keeps the events of a window until it is delivered.
pub const AGGREGATE_INTERVAL_MAX: Duration = Duration::from_secs(86_400);
/// Series of one window unless set: some MiB.
pub const AGGREGATE_SERIES_DEFAULT: u64 = 10_000;
/// Most series of one window, each of some hundred bytes.
pub const AGGREGATE_SERIES_MAX: u64 = 1_000_000;

/// A window is delivered before its time once it has read this part of `wal.max_bytes`: the log keeps what a window has read, and
/// accepts nothing more when it is full.
pub const WINDOW_LOG_PART: u64 = 4;
/// A delivery of which steps leave few rows is made without waiting for more once it covers so many events, or four times
/// `max_events` if that is more: acknowledgements of level delivered wait for it. A transaction costs little beside them.
pub const STEPS_COVERED_EVENTS: u64 = 65_536;
/// Encoded bytes that go through the steps at a time, to the end of a run: each step, and the copy of what is left, finds them in
/// the cache of the CPU.
pub const STEPS_PIECE_BYTES: usize = 128 << 10;
/// Events that a router with steps reads before it looks at the clock and its sink again: some tens of milliseconds.
pub const STEPS_READ_EVENTS: u64 = 65_536;
/// Highest OpenTelemetry severity number.
pub const SEVERITY_MAX: i32 = 24;
/// Times and durations are below 2^63 nanoseconds, so that every store's signed 64-bit integer holds them.
pub const TIME_UNIX_NANO_MAX: u64 = i64::MAX as u64;
/// Events in one DATA frame or one request: bounds the work of one turn of the loop and the length of a reject list.
pub const FRAME_EVENTS_MAX: usize = 65_536;
/// Nested groups that an unknown protobuf field may have; prost's own limit, so that both refuse the same bytes.
pub const PROTOBUF_DEPTH_MAX: usize = 100;
/// Nested objects and arrays of one event in JSON, the event itself being the first: a recursive parser must not run out
/// of stack.
pub const JSON_DEPTH_MAX: usize = 64;
/// Smallest integer `time` of JSON but 0, nanoseconds: the begin of 1980. What is smaller is in another unit: seconds,
/// milliseconds and microseconds of today are all within the first weeks of 1970.
pub const JSON_TIME_UNIX_NANO_MIN: u64 = 315_532_800_000_000_000;

// ---- syslog ----

/// Bytes of one message of syslog, its header included; what is longer is cut. So its body fits into an event, and what is kept
/// of a message that is not whole is bounded.
pub const SYSLOG_MESSAGE_BYTES_MAX: usize = EVENT_BODY_BYTES_MAX;
/// Largest count of octet counting, bytes; what is larger is not taken for one. The rest of a message that is cut is skipped.
pub const SYSLOG_COUNT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Parameters of structured data that become attributes; beside them an event has at most 8 attributes of its own.
pub const SYSLOG_PARAMETERS_MAX: usize = 100;
/// Bytes read from one syslog connection at a time, outside the pool.
pub const SYSLOG_READ_BYTES: usize = 64 * 1024;
/// Messages of one connection in one turn: bounds how long the others wait, about 1 ms of parsing. What was read and is not parsed
/// then is kept until the next turn.
pub const SYSLOG_MESSAGES_PER_TURN: usize = 512;
/// Bytes read at a time while connections keep half of what they may keep outside the pool: no more messages than that, each with one
/// byte and its end. With TLS it is a record.
pub const SYSLOG_READ_BYTES_LOWEST: usize = 2 * SYSLOG_MESSAGES_PER_TURN;
/// A message that is not whole and longer than this is cut when all connections together keep half of what they may keep outside
/// the pool, bytes.
pub const SYSLOG_PARTIAL_BYTES: usize = 4 * 1024;
/// A syslog connection without traffic is asked by the kernel after this time whether its peer is still there.
pub const SYSLOG_KEEPALIVE: Duration = Duration::from_secs(60);
/// Datagrams received in one turn: bounds how long connections wait, about 1 ms of parsing.
pub const DATAGRAMS_PER_TURN: usize = 512;
/// Bytes that the kernel is asked to keep of datagrams that wait; it caps this at its own `rmem_max`.
pub const DATAGRAM_BUFFER_BYTES: usize = 8 * 1024 * 1024;
/// Addresses of datagrams whose name as a source is kept; when there are more, all are forgotten and kept again.
pub const DATAGRAM_PEERS_MAX: usize = 256;

// ---- wire (protocol, "Numbers of version 1") ----

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 32;
/// Bytes of a HELLO payload: its 48 fixed bytes, the token and the name.
pub const HELLO_BYTES_MAX: usize = 1024;
/// Most event loops: a loop's number has a byte in the name of a connection.
pub const EVENT_LOOPS_LIMIT: usize = 64;
/// Most event loops unless more are asked for: one log thread takes from all of them.
pub const EVENT_LOOPS_DEFAULT_MAX: usize = 4;
/// Fewer loops are started where each would have less of the pool, bytes: four of the largest bodies' worth.
pub const EVENT_LOOP_BUFFER_BYTES_LOWEST: usize = 16 << 20;

/// Largest HELLO frame, bytes: header and payload. Until it is accepted, no more is read from an agent.
pub const HELLO_FRAME_BYTES: usize = HEADER_BYTES + HELLO_BYTES_MAX;
/// Bytes of a NACK's or GOAWAY's payload that the server writes.
pub const REASON_BYTES_MAX: usize = 16 * 1024;
/// Default largest DATA payload, bytes.
pub const FRAME_BYTES_DEFAULT: usize = 1024 * 1024;
/// Smallest settable `max_frame_bytes`: the largest event fits with room.
pub const FRAME_BYTES_LOWEST: usize = 2 * EVENT_BYTES_MAX;
/// Largest settable `max_frame_bytes`: every connection may cause one to be reserved.
pub const FRAME_BYTES_LIMIT: usize = 16 * 1024 * 1024;
/// Unacknowledged payload bytes that an agent may send.
pub const WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Unacknowledged frames that an agent may send.
pub const WINDOW_FRAMES: u16 = 64;
/// Keepalive announced in WELCOME; silence of 1.5 × this ends a connection (R13).
pub const KEEPALIVE: Duration = Duration::from_secs(30);
/// From accept to a valid HELLO, or to a whole HTTP request head (R12).
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// A frame may take this long plus its length at `FRAME_RATE_MIN_BYTES_PER_SECOND` to arrive (R11).
pub const FRAME_TIMEOUT: Duration = Duration::from_secs(10);
/// Slowest rate at which a frame or body may arrive (R11).
pub const FRAME_RATE_MIN_BYTES_PER_SECOND: u64 = 64 * 1024;
/// While others wait for memory, a partial frame may rest this long (R11).
pub const STALLED_FRAME_TIMEOUT: Duration = Duration::from_secs(2);
/// The last ACK is repeated this often while a commit stalls (R1).
pub const ACK_REPEAT: Duration = Duration::from_secs(1);
/// Time between two ACKs of a connection that has more to be read, unless a quarter of its window is unacknowledged. It is checked
/// once per turn of the loop.
pub const ACK_DELAY_MIN: Duration = Duration::from_millis(5);
/// A server-made epoch of an unknown agent is random in `[1, this)` (R4).
pub const EPOCH_FIRST_MAX: u64 = 1 << 48;
/// An epoch from here on is a protocol error (R4): counting up from it could overflow.
pub const EPOCH_LIMIT: u64 = 1 << 62;
/// Agents whose deduplication marks are kept (R3); about 200 bytes each.
pub const AGENTS_DEFAULT: usize = 100_000;
/// Largest settable `max_agents`: 2 GiB of marks.
pub const AGENTS_LIMIT: usize = 10_000_000;
/// A disconnected agent's mark may be forgotten after this time, when room is needed (R3).
pub const DEDUPE_RETENTION: Duration = Duration::from_secs(24 * 3600);
/// Open connections; a connection without traffic costs about 1 KiB, with TLS about 4 KiB.
pub const CONNECTIONS_DEFAULT: usize = 16_384;
/// Connections above `max_connections` that are accepted all the same, to be refused in their own protocol. At most as many
/// as `max_connections`, where that is more than the lowest number.
pub const OVERLOADED_CONNECTIONS_MAX: usize = 64;
/// Lower bound of [`OVERLOADED_CONNECTIONS_MAX`] when `max_connections` is small.
pub const OVERLOADED_CONNECTIONS_LOWEST: usize = 8;
/// Descriptors that the server needs beside those of its connections, its sinks and whatever was open before: lock, poll,
/// waker, signals, listener, two segments of two descriptors, directories, dead letters; 12 at rest.
pub const DESCRIPTORS_OF_SERVER: usize = 32;
/// Descriptors of each event loop beside the first: poll and waker.
pub const DESCRIPTORS_PER_LOOP: usize = 2;
/// Descriptors of one sink: a database of three files, its log reader, position file and dead letters with their
/// directories, or a connection to each node of a small cluster.
pub const DESCRIPTORS_PER_SINK: usize = 16;
/// Descriptors that the largest of the sinks opens at a time: a database, its `-wal` and `-shm`, and a directory.
pub const STORE_DESCRIPTORS: usize = 4;
/// Descriptors of a connection to PostgreSQL with its client: poll, waker, signals, a lookup, the socket, and room.
pub const POSTGRES_DESCRIPTORS: usize = 8;
/// Largest settable `max_connections`: what Linux lets one process open by default (`fs.nr_open`).
pub const CONNECTIONS_LIMIT: usize = 1_048_576;
/// Default number of silent connections that have shown neither a valid HELLO nor a whole HTTP head (R12).
pub const UNAUTHENTICATED_DEFAULT: usize = 1_024;
/// An unauthenticated connection is silent once nothing was received from it for this long (R12).
pub const SILENT_AFTER: Duration = Duration::from_secs(1);
/// While there are more unauthenticated connections than allowed, silent ones are looked for this often: it takes a look
/// at each.
pub const SILENT_SWEEP_INTERVAL: Duration = Duration::from_millis(100);
/// Retry hint of a GOAWAY, milliseconds; a random half is taken off, so that agents do not return together.
pub const RETRY_HINT_MS: u32 = 2_000;

// ---- agents: session/agent.rs and client ----

/// First and largest delay before an agent reconnects; it is uniformly random below that (R16).
pub const AGENT_BACKOFF_MIN: Duration = Duration::from_millis(50);
/// Largest delay before an agent reconnects; see [`AGENT_BACKOFF_MIN`].
pub const AGENT_BACKOFF_MAX: Duration = Duration::from_secs(30);
/// From an agent's HELLO to its WELCOME. A server lets it wait while what an older connection sent is settled (R5).
pub const WELCOME_TIMEOUT: Duration = Duration::from_secs(15);
/// From an agent's BYE until it closes without having seen the server's end: by then BYE is on its way, and all is
/// acknowledged anyway.
pub const BYE_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections that one frame may end with a protocol error before the agent sets it aside (R16).
pub const PROTOCOL_ERRORS_MAX: u32 = 4;
/// Default bytes of frames that a client holds unacknowledged: the window of 4 MiB, and as much again to follow it.
pub const CLIENT_QUEUE_BYTES: usize = 8 * 1024 * 1024;
/// Bytes at which a client ends a frame: large enough to be cheap, small enough for several in a window.
pub const CLIENT_FRAME_BYTES: usize = 256 * 1024;
/// Reports of refused events and of frames set aside that a client keeps for its user; older ones are dropped and
/// counted. One set aside holds its payload.
pub const CLIENT_REPORTS_MAX: usize = 64;
/// Bytes that a client reads at once: ACKs are 32 bytes.
pub const CLIENT_READ_BYTES: usize = 16 * 1024;
/// A TCP connection that is not established by then is given up.
pub const CLIENT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A client stuck in writing looks up this often, whether the server is still there.
pub const CLIENT_WRITE_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes of one line of JSON that `send` reads: an event of 128 KiB, every byte escaped, fits.
pub const SEND_LINE_BYTES_MAX: usize = 1024 * 1024;
/// Once interrupted, `send` waits this long for acknowledgements: a person waits, and a supervisor kills after 10 s.
pub const SEND_INTERRUPT_TIMEOUT: Duration = Duration::from_secs(2);

// ---- HTTP ----

/// Bytes of a request line and headers.
pub const HTTP_HEAD_BYTES_MAX: usize = 16 * 1024;
/// Headers of one request.
pub const HTTP_HEADERS_MAX: usize = 64;
/// Bytes of a request target.
pub const HTTP_TARGET_BYTES_MAX: usize = 4 * 1024;
/// Default largest body, raw and unpacked, bytes.
pub const HTTP_BODY_BYTES_DEFAULT: usize = 4 * 1024 * 1024;
/// Largest settable `max_body_bytes`: even in the smallest frames its events have slots in an empty ring.
pub const HTTP_BODY_BYTES_LIMIT: usize = 1024 * 1024 * 1024;
/// A body that came whole with its head or in 64 KiB may wait this long for room to become events, then it is tried once more
/// with what room there is, or gets 503. One that was admitted before waits up to `HTTP_ACK_TIMEOUT`, and is tried with what room there is once in this time.
pub const HTTP_FINISH_RETRY: Duration = Duration::from_secs(1);
/// Entries of a `rejected` list; the number of all is in `rejected_total` then.
pub const HTTP_REJECTED_MAX: usize = 1_000;
/// Bytes of one error in that list: some quote text of the peer.
pub const HTTP_ERROR_BYTES_MAX: usize = 256;
/// Bytes of a body that are kept as they arrive; then all that may still come is reserved. Most bodies are smaller, and a
/// peer that sends less has not shown that it sends at all.
pub const HTTP_BODY_BEGINNING_BYTES: usize = 64 * 1024;
/// What a body of at most so many bytes becomes is packed into a buffer with that of others: a page.
pub const HTTP_PACKED_BODY_BYTES_MAX: usize = POOL_PAGE_BYTES;
/// Smallest piece of memory for such a beginning.
pub const HTTP_BODY_BEGINNING_BYTES_LOWEST: usize = 256;
/// Bytes of beginnings of bodies over all connections, outside the pool: 128 of them whole, or 256 bytes of each of 32,768.
pub const HTTP_BODY_BEGINNINGS_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Members of a gzip body: an empty one costs 20 bytes and a new start of the decoder.
pub const HTTP_GZIP_MEMBERS_MAX: usize = 1_024;
/// A request that is not acknowledged by then is answered 504; its events stay kept.
pub const HTTP_ACK_TIMEOUT: Duration = Duration::from_secs(30);
/// Default of `http_idle_timeout`: how long a keep-alive connection may be idle between requests. Common load balancers
/// keep their connections for 60 s and send the next request without asking, so the server must be the later one.
pub const HTTP_IDLE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(75);
/// A connection is closed this much later than announced: a client that keeps to the announced time may send its last
/// request at the very end of it.
pub const HTTP_IDLE_GRACE: Duration = Duration::from_secs(1);
/// Bytes of partial request heads over all connections: they are kept outside the pool, so that GETs work without it.
pub const HTTP_TORN_HEADS_BYTES_MAX: usize = 4 * 1024 * 1024;

// ---- OTLP ----

/// Attributes of a resource and its scope together, in every event of theirs: half of what an event may have, so that there is
/// room for its own.
pub const OTLP_PREFIX_ATTRIBUTES_MAX: usize = EVENT_ATTRIBUTES_MAX / 2;
/// Bytes of these attributes. With the longest body there is room for as much again of a record's own.
pub const OTLP_PREFIX_BYTES_MAX: usize = 32 * 1024;
/// Attributes of an event that are kept for what is named by us (`unit`, `span.kind` and the like), which is 10 at most, and
/// for the two that say what the event lacks.
pub const OTLP_OWN_ATTRIBUTES: usize = 12;
/// Bytes that are kept for those of them that are short.
pub const OTLP_OWN_BYTES: usize = 4 * 1024;
/// Bytes that are kept for value, duration, ids and what says that an event lacks something.
pub const OTLP_TAIL_BYTES: usize = 512;
/// Bytes of one record, resource or scope in JSON, as protobuf: it is kept outside the pool while it is mapped. The default
/// largest body; a text of more than [`EVENT_BYTES_MAX`] counts as that much.
pub const OTLP_JSON_RECORD_BYTES_MAX: usize = HTTP_BODY_BYTES_DEFAULT;
/// Bytes of a rejected record that its dead letter keeps, with its resource and scope: as of the largest frame, so that the letter
/// can be read.
pub const OTLP_REJECTED_BYTES_MAX: usize = FRAME_BYTES_LIMIT;
/// What a request becomes may be so many times `max_body_bytes`: every event has the attributes of its resource.
pub const OTLP_ENCODED_TIMES_BODY_MAX: usize = 4;

// ---- event loop ----

/// Bytes read from one connection in one turn: bounds how long the others wait, about 0.5 ms of parsing.
pub const READ_BYTES_PER_TURN: usize = 256 * 1024;
/// Time in one turn for newcomers, and again for HTTP connections; both come after all agents (at least one is served): a
/// page costs more than an ACK, and a flood of requests must not stand between an agent and its ACK.
pub const OTHERS_TIME_PER_TURN: Duration = Duration::from_micros(500);
/// Connections accepted in one turn.
pub const ACCEPTS_PER_TURN: usize = 64;
/// Bytes of answers that may wait for a peer that does not read; above it the peer is not read either.
pub const OUTBOX_BYTES_MAX: usize = 64 * 1024;
/// Bytes of answers that wait for all peers together; beyond it a connection that adds to them is closed. They lie
/// outside the pool.
pub const OUTBOXES_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long a peer may leave answers unread while it is still being asked to take them.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Log lines about connections in one second; the rest is counted. Agents in their thousands come back at once.
pub const LOG_LINES_PER_SECOND: u32 = 50;
/// Pause of accepting after descriptors ran out.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(250);
/// A connection that is half-closed while its peer may still be sending is closed once the peer pauses for this long (R15).
pub const LINGER_PAUSE: Duration = Duration::from_secs(1);
/// The pause of a peer that has sent at `FRAME_RATE_MIN_BYTES_PER_SECOND` or faster: one that limits its own rate may send
/// once per second.
pub const LINGER_PAUSE_SENDING: Duration = Duration::from_secs(2);
/// Longest time that such a connection is kept (R15): 64 MiB at 4 MiB/s take 16 s.
pub const LINGER_TIMEOUT: Duration = Duration::from_secs(30);
/// The same while the server drains, or ends because its log failed.
pub const LINGER_DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// Such connections at one time; beyond it the oldest is closed (R15).
pub const LINGERING_MAX: usize = 1_024;
/// Bytes that are discarded from one of them in one turn: about 20 µs.
pub const DISCARD_BYTES_PER_TURN: usize = 64 * 1024;
/// A state that lasts, or what peers cause again and again, has one log line in this time: a log that accepts nothing, refused
/// requests of one peer with one status, connections over a limit.
pub const LOG_WARNING_INTERVAL: Duration = Duration::from_secs(10);
/// Pairs of peer and status that are remembered for that: about 100 bytes each.
pub const REFUSAL_LOG_PEERS_MAX: usize = 1_024;
/// Bytes of the method, the path and the reason in such a line, each.
pub const REFUSAL_LOG_TEXT_BYTES_MAX: usize = 256;

// ---- status page ----

/// Entries of each list of `/status.json`.
pub const STATUS_LIST_MAX: usize = 20;
/// Bytes of each text in it: a name, an address, a reason. An error of a store with its advice fits.
pub const STATUS_TEXT_BYTES_MAX: usize = 320;
/// Reasons of dead letters that are shown of each sink.
pub const STATUS_DEAD_LETTERS_MAX: usize = 5;
/// Bytes of the page at `/`, with its script and style.
pub const STATUS_PAGE_BYTES_MAX: usize = 40 * 1024;
/// Bytes of an answer that `telemetryx top` reads: all lists full, and every character of their texts escaped.
pub const STATUS_ANSWER_BYTES_MAX: u64 = 1024 * 1024;
/// Names in `http.hosts`.
pub const HTTP_HOSTS_MAX: usize = 64;

// ---- profiles ----

/// Seconds of a profile, unless the request says otherwise.
pub const PROFILE_SECONDS_DEFAULT: u64 = 10;
/// Longest profile, seconds: its samples are kept in memory and in a temporary file, about 1 KiB each, 199 per second of CPU time.
pub const PROFILE_SECONDS_MAX: u64 = 60;
/// Bytes of a profile or flamegraph; one of 60 s under full load has a tenth of this. They wait in an outbox until they are read.
pub const PROFILE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// A profile that is not ready so long after its last sample is answered 504: the names of a build with debug information take some
/// seconds.
pub const PROFILE_NAMES_TIMEOUT: Duration = Duration::from_secs(60);

// ---- TLS on the port of the server ----

/// Bytes of one record as it is sent: 16 KiB of plaintext, its header, and what encryption may add (RFC 5246, section 6.2.3).
pub const TLS_RECORD_BYTES_MAX: usize = 16 * 1024 + 2048 + 5;
/// Ciphertext that a connection keeps until the rest of a record or of a handshake message has come. Chains of certificates of
/// clients are smaller by far.
pub const TLS_HELD_BYTES_MAX: usize = 32 * 1024;
/// Bytes that TLS keeps of all agents that were accepted: half a record of each of 8,192. They lie outside the pool. Above a half of
/// it, parts of records stay with the kernel; above it, agents are not read until it is less. A loop has its part of it, and may exceed
/// that by one record.
pub const TLS_AGENTS_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Connections that keep too much outside the pool are looked at again after this: what others keep is parsed within a few turns.
pub const KEPT_BYTES_PAUSE: Duration = Duration::from_millis(10);
/// Bytes of plaintext in a full record. Most records of a stream are full.
pub const TLS_FULL_RECORD_PLAIN_BYTES: usize = 16 * 1024;
/// Bytes of a full record as the ciphers here make it: its header, and at most 24 bytes that encryption adds (RFC 5288).
pub const TLS_FULL_RECORD_BYTES: usize = TLS_FULL_RECORD_PLAIN_BYTES + 5 + 24;
/// Bytes of ciphertext that a loop receives at once, together with what is held: a read in full records. Each loop has one such buffer.
pub const TLS_WIRE_BYTES: usize = READ_BYTES_PER_TURN / TLS_FULL_RECORD_PLAIN_BYTES * TLS_FULL_RECORD_BYTES;
const _: () = assert!(TLS_WIRE_BYTES >= TLS_HELD_BYTES_MAX + TLS_RECORD_BYTES_MAX);
/// Bytes of a file of certificates or of a key.
pub const TLS_FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Such files are read again this often, to see whether they have changed.
pub const TLS_FILES_INTERVAL: Duration = Duration::from_secs(1);
/// A certificate that expires within this time is warned about, as long as most authorities take notice before.
pub const TLS_EXPIRY_WARNING: Duration = Duration::from_secs(30 * 86_400);
/// From a client's first byte to the end of its handshake with the server.
pub const TLS_CLIENT_TIMEOUT: Duration = Duration::from_secs(10);

// ---- limits on receipt ----

/// Bytes that an event takes in an `EventBatch` at least: two of its tag and length, and a name or body of one letter.
pub const EVENT_BYTES_MIN: u64 = 5;
/// Addresses, and agents that sent BYE, of which is kept what is due by a limit; some 100 bytes each. The one that was not
/// seen for the longest time is forgotten first.
pub const RATE_PEERS_MAX: usize = 4_096;
/// Bytes that are read at once from an agent of whose limit little is left: so much, or one frame, may be above it.
pub const LIMITED_READ_BYTES: usize = 4 * 1024;
/// Unacknowledged payload bytes that an agent may send while it is above a limit: what is not read waits in its socket.
pub const WINDOW_BYTES_DELAYED: u32 = 64 * 1024;
/// Largest settable rates, events and bytes per second: beyond them a number is a typing error.
pub const RATE_EVENTS_LIMIT: u64 = 1_000_000_000;
/// See [`RATE_EVENTS_LIMIT`].
pub const RATE_BYTES_LIMIT: u64 = 1 << 40;
/// Default burst of a limit.
pub const RATE_BURST_DEFAULT: Duration = Duration::from_secs(2);
/// Smallest settable burst: HTTP clients wait for whole seconds, and would not reach their rate below.
pub const RATE_BURST_LOWEST: Duration = Duration::from_secs(1);
/// Largest settable burst: an hour's worth at once is as good as no limit.
pub const RATE_BURST_LIMIT: Duration = Duration::from_secs(3_600);
/// Configured clients: a token is compared with that of each.
pub const CLIENTS_MAX: usize = 1_024;
/// Names of clients that one process has had: each keeps its id, a counter and a line of those that wait, also when a reload has
/// removed it.
pub const CLIENT_NAMES_MAX: usize = 4 * CLIENTS_MAX;

// ---- pipeline ----

/// Default bytes of the buffer pool.
pub const BUFFER_BYTES_DEFAULT: usize = 64 * 1024 * 1024;
/// Largest settable `buffer_bytes`: a typing error must not ask for all memory of any host.
pub const BUFFER_BYTES_LIMIT: usize = 64 * 1024 * 1024 * 1024;
/// Unit of allocation in the pool: a partial frame costs at least this much, and the pool's map one bit for it.
pub const POOL_PAGE_BYTES: usize = 4 * 1024;
/// Size of a huge page on x86-64, and on arm64 with pages of 4 KiB, bytes. A pool of at least two of them uses them where the system
/// has any.
pub const POOL_HUGE_PAGE_BYTES: usize = 2 << 20;
/// HTTP bodies leave one in this many bytes to agents, of what is not kept for whole bodies; see `batch/shares.rs`.
pub const POOL_AGENTS_SHARE: usize = 4;
/// The same for bodies of at most [`HTTP_BODY_BEGINNING_BYTES`]: of what agents may use, half of what larger ones leave.
pub const POOL_SMALL_BODIES_SHARE: usize = 8;
/// Encoded events are packed into buffers that are cut to whole pages. A full one holds more than half of the smallest
/// frame, so what is lost to rounding is less than one byte in this many.
pub const FINISHING_ROUNDING_SHARE: usize = FRAME_BYTES_LOWEST / 2 / POOL_PAGE_BYTES;
/// Slots in the ring between event loop and log thread: 2 MiB of descriptors.
pub const RING_SLOTS: usize = 16_384;
/// Payload bytes that one commit takes from the ring: bounds the size of a batch offered to the routers.
pub const COMMIT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Slots that one commit takes from the ring.
pub const COMMIT_SLOTS_MAX: usize = 4_096;
/// Without a log: how long the log thread rests after a small batch. As long as a router may take to see that batch.
pub const REST_TIME: Duration = Duration::from_millis(1);
/// A batch of so many payload bytes is not small: at that rate another one comes within the rest.
pub const REST_BYTES_MAX: usize = 128 * 1024;
/// The same for slots; the ring has room for several times as many.
pub const REST_SLOTS_MAX: usize = 1_024;
/// Default bytes of one file of the log: a start reads one of them in a fraction of a second.
pub const SEGMENT_BYTES_DEFAULT: u64 = 128 * 1024 * 1024;
/// Smallest settable segment: its table of marks is written again in each.
pub const SEGMENT_BYTES_LOWEST: u64 = 64 * 1024;
/// Largest settable segment: a start reads all of it.
pub const SEGMENT_BYTES_LIMIT: u64 = 4 * 1024 * 1024 * 1024;
/// Default bytes of the whole log.
pub const LOG_BYTES_DEFAULT: u64 = 10 * 1024 * 1024 * 1024;
/// Largest settable size of the whole log: beyond it a number is a typing error.
pub const LOG_BYTES_LIMIT: u64 = 1 << 50;
/// Pause before the log is asked again for what it had no space for.
pub const LOG_RETRY: Duration = Duration::from_millis(100);
/// The log thread looks this often which segments no sink needs any more.
pub const LOG_UPKEEP: Duration = Duration::from_secs(1);
/// Commits that wait for the required sinks, for acknowledgements of level *delivered*; neighbours become one beyond it.
pub const UNDELIVERED_COMMITS_MAX: usize = 4_096;
/// Batches offered to a router that it has not taken yet.
pub const ROUTER_QUEUE_BATCHES: usize = 16;
/// Picks (48 bytes each) whose memory a router keeps for its next delivery: the default events of one, rounded up to what a
/// list grows to. A larger delivery of as many runs allocates its own.
pub const PICKS_KEPT_MAX: usize = 16_384;
const _: () = assert!(BATCH_EVENTS_DEFAULT.next_power_of_two() == PICKS_KEPT_MAX as u64);

// ---- write-ahead log ----

/// Payload bytes of one record: a commit stops at the slot that passes `COMMIT_BYTES_MAX`. A larger length on disk is
/// damage, and is not reserved.
pub const WAL_PAYLOAD_BYTES_MAX: usize = COMMIT_BYTES_MAX + FRAME_BYTES_LIMIT;
/// Bytes of one record's tables: every slot with an origin of its own, whose name counts twice.
pub const WAL_TABLES_BYTES_MAX: usize = COMMIT_SLOTS_MAX * (128 + 2 * HELLO_BYTES_MAX);
/// No position is given out beyond this: stores keep positions in 63 bits, and a record's events must fit below.
pub const WAL_POSITION_LIMIT: u64 = 1 << 62;
/// Positions left out at a start where a store has not reported what it holds, and may hold more than the log, which
/// then is an older copy: five days' worth at 10,000 events a second.
pub const WAL_UNKNOWN_JUMP: u64 = u32::MAX as u64;
/// Positions left out after a cut or a skip, so that none is used twice: more than a lost commit can have had.
pub const WAL_POSITION_JUMP: u64 = 1 << 24;
/// Between two looks of `telemetryx tap` at a log that has nothing new.
pub const TAP_INTERVAL: Duration = Duration::from_millis(50);
/// Bytes of events that `telemetryx tap` holds at once, about.
pub const TAP_READ_BYTES: usize = 1024 * 1024;
/// A record that is still not whole after this time is corrupt to a reader from outside (`telemetryx tap`).
pub const WAL_FOLLOW_PATIENCE: Duration = Duration::from_secs(1);
/// Bytes that a reader of the log asks for at once: a commit of single events is many small records.
pub const WAL_READ_BYTES: usize = 256 * 1024;
/// Unit of what is written past the page cache: at least the block of any common disk and file system.
pub const WAL_BLOCK_BYTES: usize = 4 * 1024;
/// Bytes of one such write; a commit may be several. Larger ones were not cheaper, and ones of a quarter took a tenth more CPU time.
pub const WAL_STAGING_BYTES: usize = 1024 * 1024;
/// The same for a segment until more is to be written at once: a commit, or at its begin the marks of more than 1,100 agents.
pub const WAL_STAGING_SMALL_BYTES: usize = 64 * 1024;
/// Slices in one vectored write: Linux's IOV_MAX.
pub const WAL_SLICES_MAX: usize = 1_024;
/// Bytes of corrupt tails kept aside; the oldest are deleted first.
pub const WAL_DAMAGED_BYTES_MAX: u64 = 256 * 1024 * 1024;

// ---- sinks ----

/// Bytes of one answer of Redis: an EXEC of a million entries answers with their ids, 22 bytes each and their frames.
pub const REDIS_ANSWER_BYTES_MAX: usize = 64 << 20;
/// Largest settable `batch.max_events`: one transaction of a store.
pub const BATCH_EVENTS_LIMIT: u64 = 1_000_000;
/// First and largest delay between delivery attempts; the delay is uniformly random below it (full jitter).
pub const RETRY_BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Largest delay between delivery attempts; see [`RETRY_BACKOFF_MIN`].
pub const RETRY_BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A store's own "retry after" is honoured up to this: a mistaken date must not stop a sink for a year.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);
/// Warnings about one sink's retries, and about what it refuses: the first at once, then one in this time.
pub const SINK_WARNING_INTERVAL: Duration = Duration::from_secs(10);
/// Events that a store may refuse one after the other, naming none (or for want of a partition) and storing nothing in
/// between, before it is the store that is wrong (another service, a wrong path) and not the events: the rest is kept.
pub const REFUSED_IN_A_ROW_MAX: u64 = 1_000;
/// Default events of one delivery: 10,000 rows amortise a commit.
pub const BATCH_EVENTS_DEFAULT: u64 = 10_000;
/// Default encoded bytes of one delivery: one commit of the log.
pub const BATCH_BYTES_DEFAULT: usize = COMMIT_BYTES_MAX;
/// Default wait after a delivery for the next one to fill.
pub const BATCH_AGE_DEFAULT: Duration = Duration::from_millis(50);
/// Bytes of a store's reason for refusing an event that are kept in a dead letter.
pub const REFUSAL_REASON_BYTES_MAX: usize = 1024;
/// Bytes of one text of a peer in which secrets are looked for, as much as is read of an HTTP answer: each takes some 50
/// bytes of memory meanwhile. Of what is longer the rest is left out.
pub const PEER_TEXT_BYTES_MAX: usize = 64 * 1024;
/// Bytes of NDJSON that are encoded before they are written: bounds a sink's own memory.
pub const NDJSON_CHUNK_BYTES: usize = 64 * 1024;
/// How long SQLite waits for another process's lock before a delivery is tried again.
pub const SQLITE_BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Old rows that one transaction of SQLite deletes: some milliseconds.
pub const SQLITE_DELETE_ROWS_MAX: u64 = 1_000;
/// Bytes of SQLite's write-ahead log that stay after a checkpoint: two deliveries of the default size. A reader that holds
/// it makes it grow; beyond this it is cut once the reader is gone.
pub const SQLITE_WAL_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// How often an idle SQLite sink looks whether its files are still in place. Far below `wal.keep` (60 s), in which the log
/// can deliver again what was lost with a file.
pub const SQLITE_FILES_INTERVAL: Duration = Duration::from_secs(1);
/// Lines about deleted events of one sink: the first at once, then one in this time with the sum.
pub const EXPIRED_LINE_INTERVAL: Duration = Duration::from_secs(60);
/// Nothing is deleted by age once the wall clock gained more than this on the monotonic clock: more than any correction
/// of a clock that runs, and a change of the time zone does not move it.
pub const CLOCK_GAIN_MAX: Duration = Duration::from_secs(3_600);
/// The same where at start the wall clock is further than this beyond the newest row.
pub const CLOCK_START_GAIN_MAX: Duration = Duration::from_secs(86_400);
/// How often the clocks are read by a sink that deletes by age: the line about a clock that was set comes at once.
pub const CLOCK_READ_INTERVAL: Duration = Duration::from_secs(1);
/// How often the rest of such a hold is written to the database, which a restart would forget else. A crash adds as much.
pub const CLOCK_HOLD_SAVE_INTERVAL: Duration = Duration::from_secs(60);
/// From such a reading on nothing is deleted for this time: long enough for a person to see the warning.
pub const CLOCK_HOLD: Duration = Duration::from_secs(86_400);
/// A sink whose oldest event waits longer than this and its `batch.max_age` is behind, or stalled: longer than any
/// delivery of a store that works.
pub const SINK_WAIT_MAX: Duration = Duration::from_secs(30);
/// Sinks that were removed from the settings and that a start warns of, one line each: more files are nobody's sinks.
pub const REMOVED_SINKS_MAX: usize = 16;
/// A sink whose upkeep has nothing left to do is asked again after this time; one whose upkeep failed is, too.
pub const UPKEEP_INTERVAL: Duration = Duration::from_secs(30);
/// From a store's name to a connection that is logged in; a store that answers slower is tried again.
pub const STORE_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A store is asked to end a statement itself after the sink's `timeout`; its connection is given up this much later.
pub const STORE_ANSWER_GRACE: Duration = Duration::from_secs(5);
/// Longest wait for a connection that is thrown away to take its goodbye.
pub const STORE_GOODBYE_TIMEOUT: Duration = Duration::from_millis(100);
/// Bytes that are looked at of an error that PostgreSQL sends: severity, code and message come first.
pub const POSTGRES_ERROR_BYTES_MAX: usize = 4 * 1024;
/// Silence in a TLS handshake after which a store is asked whether it speaks TLS; also the bound of that question. A
/// server that is only slow answers it in time, or is waited for.
pub const STORE_TLS_SILENCE: Duration = Duration::from_secs(1);
/// A connection to a store that rests this long is probed, so that firewalls do not forget it.
pub const STORE_KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// Bytes of rows that are encoded before they are sent: bounds a sink's own memory.
pub const COPY_CHUNK_BYTES: usize = 256 * 1024;
/// Rows from the first row that PostgreSQL may refuse to the last one, before what lies between is stored: so many are sent once
/// more where something between is refused, too. Enough to store a hundred rows between two refused ones in few statements.
pub const REFUSED_GROUP_ROWS_MAX: usize = 2_000;
/// Streams of one Redis sink: each delivery writes to all of them.
pub const REDIS_SHARDS_MAX: u64 = 1_024;
/// Bytes of the name of a stream.
pub const REDIS_STREAM_BYTES_MAX: usize = 200;
/// Last entries of a stream that are searched for one of this log where its position is missing: many logs may share a
/// stream, and a connect must not read all of it.
pub const REDIS_LOOK_BACK_ENTRIES: usize = 1_024;
/// Entries of one such reply: a few MiB where each is as large as an event may be.
pub const REDIS_LOOK_BACK_PAGE: usize = 16;
/// Bytes of one request of the grpc sink; an event is at most an eighth of it. Receivers take 4 MiB unless configured
/// otherwise.
pub const GRPC_REQUEST_BYTES_MAX: usize = 1024 * 1024;
/// Events of one request of the grpc sink, so that a verdict on each fits into the answer.
pub const GRPC_REQUEST_EVENTS_MAX: usize = 10_000;
/// Bytes of the answer to one request: gRPC's own default.
pub const GRPC_ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Requests of one grpc sink at a time; each holds a copy of its events.
pub const GRPC_IN_FLIGHT_MAX: u64 = 64;
/// Bytes of a verdict's code that are kept.
pub const GRPC_CODE_BYTES_MAX: usize = 64;
/// Bytes of the body of a service's answer that are read, so that its connection can be used again.
pub const HTTP_ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// Characters of them that a sink's last error shows: every warning about its retries carries them.
pub const HTTP_ANSWER_WORDS_CHARS_MAX: usize = 200;
/// Ranges in one Telemetryx-Positions: up to 42 bytes each, and services take heads of 8 KiB.
pub const HTTP_POSITION_RANGES_MAX: usize = 100;
/// Bytes of the reason in a dead letter of a frame; the payload beside it has the rest.
pub const DEAD_LETTER_REASON_BYTES_MAX: usize = 512;
/// Bytes of one dead-letter file; beyond it the oldest half is dropped and counted.
pub const DEAD_LETTERS_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Bytes of one dead letter that are read: the largest frame in base64, and its reason. A longer line is not a dead
/// letter.
pub const DEAD_LETTER_BYTES_MAX: u64 = 2 * FRAME_BYTES_LIMIT as u64;
/// Bytes of letters that are replayed before what is stored is taken out of the file: what a kill may make twice where
/// a store cannot tell, and how rarely a large file is rewritten.
pub const DEAD_REPLAY_BYTES: u64 = 32 * 1024 * 1024;
/// Line numbers of what is not a dead letter that a command names.
pub const DEAD_BAD_LINES_NAMED: usize = 20;

// ---- settings ----

/// Bytes of a settings file, and of a file that holds one secret: a larger one is the wrong file.
pub const SETTINGS_FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Bytes of log lines that wait for stderr; beyond it lines are dropped and counted.
pub const LOG_BYTES_MAX: usize = 1024 * 1024;
/// Longest wait at exit for stderr to take the last log lines.
pub const LOG_FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// Port of a server that is named without one; the port of the default `server.address`.
pub const PORT_DEFAULT: u16 = 4640;
/// Longest wait of `telemetryx health` for an answer.
pub const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);

// ---- reload ----

/// Longest time for the event loops to look at all of their connections once; the reload counts as done then.
pub const RELOAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time that `telemetryx reload` waits: files may be on a slow disk.
pub const RELOAD_ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two looks of `telemetryx reload` at the answer.
pub const RELOAD_ANSWER_INTERVAL: Duration = Duration::from_millis(10);
/// Names of changed keys in one log line; there may be more than a thousand clients.
pub const RELOAD_KEYS_SHOWN: usize = 20;
/// Lines about what is wrong with settings that were read again.
pub const RELOAD_PROBLEMS_SHOWN: usize = 20;

// ---- service manager ----

/// Longest wait for room in the socket of the service manager.
pub const NOTIFY_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the end waits for the thread that notifies the service manager of it.
pub const STOPPING_NOTICE_WAIT: Duration = Duration::from_secs(1);
/// Messages to the service manager in the time after which it ends a silent service. With more than two, a late one does no harm.
pub const WATCHDOG_MESSAGES: u32 = 4;
/// Shortest time between two of them, and between two looks at loops that have not had their first turn.
pub const WATCHDOG_INTERVAL_LOWEST: Duration = Duration::from_millis(10);

const _: () = assert!(EVENT_BODY_BYTES_MAX < EVENT_BYTES_MAX);
// Source, name, body, resource and scope always find room in an event of OTLP.
const _: () = assert!(
    2 * EVENT_NAME_BYTES_MAX + EVENT_BODY_BYTES_MAX + OTLP_PREFIX_BYTES_MAX + 1024 + OTLP_OWN_BYTES + OTLP_TAIL_BYTES
        < EVENT_BYTES_MAX
);
// In base64, with what a letter has beside the payload.
const _: () = assert!(OTLP_REJECTED_BYTES_MAX.div_ceil(3) * 4 + 64 * 1024 < DEAD_LETTER_BYTES_MAX as usize);
const _: () = assert!(SYSLOG_PARAMETERS_MAX + 8 <= EVENT_ATTRIBUTES_MAX);
const _: () =
    assert!(SYSLOG_MESSAGE_BYTES_MAX + SYSLOG_PARAMETERS_MAX * (ATTRIBUTE_KEY_BYTES_MAX + 16) < EVENT_BYTES_MAX);
const _: () = assert!(FRAME_BYTES_DEFAULT <= FRAME_BYTES_LIMIT);
const _: () = assert!(FRAME_BYTES_DEFAULT <= WINDOW_BYTES as usize);
const _: () = assert!(BUFFER_BYTES_DEFAULT >= 8 * FRAME_BYTES_DEFAULT);
const _: () = assert!(HTTP_BODY_BEGINNING_BYTES_LOWEST * CONNECTIONS_DEFAULT <= HTTP_BODY_BEGINNINGS_BYTES_MAX);
const _: () = assert!(HTTP_BODY_BEGINNING_BYTES.is_power_of_two());
const _: () = assert!(2 * (HTTP_BODY_BYTES_LIMIT / FRAME_BYTES_LOWEST) + 32 <= RING_SLOTS);
const _: () = assert!(EPOCH_FIRST_MAX < EPOCH_LIMIT);
const _: () = assert!(WINDOW_BYTES_DELAYED < WINDOW_BYTES && LIMITED_READ_BYTES >= 2 * HEADER_BYTES);
// A lost commit's events, of which the smallest takes five bytes, fit into the jump.
const _: () = assert!(WAL_PAYLOAD_BYTES_MAX as u64 / 5 < WAL_POSITION_JUMP);
const _: () = assert!(EVENT_BYTES_MAX + HELLO_BYTES_MAX <= GRPC_REQUEST_BYTES_MAX / 4);
const _: () = assert!(POOL_PAGE_BYTES.is_power_of_two());
const _: () = assert!(WAL_BLOCK_BYTES.is_power_of_two() && WAL_STAGING_BYTES.is_multiple_of(WAL_BLOCK_BYTES));
const _: () = assert!(WAL_STAGING_SMALL_BYTES.is_multiple_of(WAL_BLOCK_BYTES) && POOL_PAGE_BYTES >= WAL_BLOCK_BYTES);
