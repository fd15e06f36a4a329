//! The table: every setting of the server, once. Defaults, `telemetryx config --defaults` and
//! `docs/configuration.md` are made from it. The keys of one kind of sink are in that sink's file.

use std::time::Duration;

use crate::event::UnknownKeys;
use crate::limits;
use crate::settings::{Applies, Form, Setting, Value, steps};

/// A part of the file. Its rows' keys are relative to `name`; the first section has none.
pub(super) struct Section {
    /// Name of the TOML table; empty for the keys before the first table.
    pub name: &'static str,
    /// What its settings are for, in full sentences; may be empty.
    pub doc: &'static str,
    /// The rows, in the order in which they are documented.
    pub settings: &'static [Setting],
}

impl Section {
    /// The full key of a row of this section.
    pub(super) fn key(&self, setting: &Setting) -> String {
        if self.name.is_empty() { setting.key.to_owned() } else { format!("{}.{}", self.name, setting.key) }
    }
}

/// Every section, in the order of the documented settings file.
pub(super) const SECTIONS: &[Section] = &[TOP, SERVER, TLS, LIMITS, HTTP, SYSLOG, WAL, BATCH, LOG];

const TOP: Section = Section {
    name: "",
    doc: "",
    settings: &[Setting {
        key: "data_dir",
        applies: Applies::OnRestart,
        default: Value::text("telemetryx-data"),
        form: Form::Path,
        doc: "Directory of everything that the server keeps. It is created at start if it is missing.",
    }],
};

const SERVER: Section = Section {
    name: "server",
    doc: "The port of agents and HTTP clients.",
    settings: &[
        Setting {
            key: "address",
            applies: Applies::OnRestart,
            default: Value::text("127.0.0.1:4640"),
            form: Form::Address,
            doc: "Address to listen on, for frames and HTTP. With port 0 the system chooses a free port; the start \
                  line names it.",
        },
        Setting {
            key: "ack",
            applies: Applies::OnRestart,
            default: Value::text("synced"),
            form: Form::Choice(&["received", "written", "synced", "delivered"]),
            doc: "Default level of an acknowledgement, for agents and requests that ask for none: the events are in \
                  memory (\"received\"), in the log file and survive kill -9 (\"written\"), on disk and survive \
                  power loss (\"synced\"), or in every required sink (\"delivered\"). Without a log: \"received\".",
        },
        Setting {
            key: "max_frame_bytes",
            applies: Applies::OnRestart,
            default: Value::Bytes(limits::FRAME_BYTES_DEFAULT as u64),
            form: Form::Bytes { min: limits::FRAME_BYTES_LOWEST as u64, max: limits::FRAME_BYTES_LIMIT as u64 },
            doc: "Largest payload of one frame. At most an eighth of buffer_bytes.",
        },
        Setting {
            key: "max_body_bytes",
            applies: Applies::OnRestart,
            default: Value::Bytes(limits::HTTP_BODY_BYTES_DEFAULT as u64),
            form: Form::Bytes { min: 1024, max: limits::HTTP_BODY_BYTES_LIMIT as u64 },
            doc: "Largest HTTP body, both as sent and after decompression. buffer_bytes must have room for 3.4 of \
                  them and 3 frames.",
        },
        Setting {
            key: "buffer_bytes",
            applies: Applies::OnRestart,
            default: Value::Bytes(limits::BUFFER_BYTES_DEFAULT as u64),
            form: Form::Bytes { min: 8 * limits::FRAME_BYTES_LOWEST as u64, max: limits::BUFFER_BYTES_LIMIT as u64 },
            doc: "Memory for events between receipt and delivery, reserved at start. When it is used up, the server \
                  stops reading sockets until sinks have caught up. It never grows, and no event is dropped.",
        },
        Setting {
            key: "event_loops",
            applies: Applies::OnRestart,
            default: Value::Count(0),
            form: Form::Count { min: 0, max: limits::EVENT_LOOPS_LIMIT as u64 },
            doc: "Threads that serve connections. Each has an equal part of buffer_bytes; the limits on frames and \
                  bodies apply to that part. 0: one per core, at most 4, and fewer if a part would be below 16 MiB or too \
                  small for a body, a frame or a sink's batch.",
        },
        Setting {
            key: "max_connections",
            applies: Applies::OnRestart,
            default: Value::Count(limits::CONNECTIONS_DEFAULT as u64),
            form: Form::Count { min: 1, max: limits::CONNECTIONS_LIMIT as u64 },
            doc: "Most open connections; further ones are refused. Each needs a file descriptor.",
        },
        Setting {
            key: "max_unauthenticated",
            applies: Applies::OnRestart,
            default: Value::Count(limits::UNAUTHENTICATED_DEFAULT as u64),
            form: Form::Count { min: 1, max: limits::CONNECTIONS_LIMIT as u64 },
            doc: "Most connections that have sent neither a valid HELLO nor a complete HTTP request head for more \
                  than 1 s; above this number the oldest are closed. All of them are closed 5 s after they were \
                  accepted.",
        },
        Setting {
            key: "http_idle_timeout",
            applies: Applies::OnRestart,
            default: Value::Duration(limits::HTTP_IDLE_TIMEOUT_DEFAULT),
            form: Form::Duration { min: Duration::from_secs(1), max: Duration::from_secs(3_600) },
            doc: "How long an HTTP connection may be idle between requests. Every answer announces it (Keep-Alive: \
                  timeout=75). Set it higher than the idle timeout of a load balancer in front of the server, which \
                  is 60 s for most.",
        },
        Setting {
            key: "max_agents",
            applies: Applies::OnRestart,
            default: Value::Count(limits::AGENTS_DEFAULT as u64),
            form: Form::Count { min: 1, max: limits::AGENTS_LIMIT as u64 },
            doc: "Most agents whose last sequence number is kept, to drop frames that they send twice; about 200 \
                  bytes each. When the number is reached, new agents are refused until an agent may be forgotten.",
        },
        Setting {
            key: "dedupe_retention",
            applies: Applies::OnRestart,
            default: Value::Duration(limits::DEDUPE_RETENTION),
            form: Form::Duration { min: Duration::from_secs(60), max: Duration::from_secs(365 * 86_400) },
            doc: "When max_agents is reached, a disconnected agent may be forgotten after this time; one that sent \
                  BYE at once.",
        },
        Setting {
            key: "drain_timeout",
            applies: Applies::OnRestart,
            default: Value::Duration(Duration::from_secs(10)),
            form: Form::Duration { min: Duration::ZERO, max: Duration::from_secs(3_600) },
            doc: "After SIGTERM: how long the server waits for acknowledgements and sinks. Events that are not \
                  delivered by then stay in the log for the next start; without a log they are lost, and the server \
                  exits 1.",
        },
        Setting {
            key: "tokens_file",
            applies: Applies::OnReload,
            default: Value::text(""),
            form: Form::Path,
            doc: "File of accepted tokens, one per line. Without it and without clients no token is required.",
        },
        Setting {
            key: "allow_plaintext_tokens",
            applies: Applies::OnReload,
            default: Value::Flag(false),
            form: Form::Flag,
            doc: "Accept tokens without encryption on addresses other than loopback.",
        },
        Setting {
            key: "pages_token_file",
            applies: Applies::OnReload,
            default: Value::text(""),
            form: Form::Path,
            doc: "File that contains the token for /status.json, which the status page and telemetryx top read, and for \
                  profiles (docs/profiling.md). Without it everybody may read it, or nobody once senders need tokens or \
                  certificates, and nobody may take a profile.",
        },
    ],
};

const TLS: Section = Section {
    name: "tls",
    doc: "TLS 1.2 and 1.3 on the port of the server, for frames and HTTP: with cert_file and key_file, connections with and without \
          TLS are accepted on the same port. The files are in PEM. They are read again when they change, and take effect for new \
          connections as a whole: while they do not belong together, the earlier ones stay in force.",
    settings: &[
        Setting {
            key: "cert_file",
            applies: Applies::OnReload,
            default: Value::text(""),
            form: Form::Path,
            doc: "Certificate of the server, followed by those of the authorities between it and the root.",
        },
        Setting {
            key: "key_file",
            applies: Applies::OnReload,
            default: Value::text(""),
            form: Form::Path,
            doc: "Private key of the certificate, without a password. Only the user of the server should be able to read it.",
        },
        Setting {
            key: "client_ca_file",
            applies: Applies::OnReload,
            default: Value::text(""),
            form: Form::Path,
            doc: "Authorities whose certificates of clients are trusted (mutual TLS). A client that shows another certificate, or one \
                  that has expired, cannot connect.",
        },
        Setting {
            key: "client_crl_file",
            applies: Applies::OnReload,
            default: Value::text(""),
            form: Form::Path,
            doc: "Lists of revoked certificates (CRL) of these authorities, one of each.",
        },
        Setting {
            key: "client_auth",
            applies: Applies::OnReload,
            default: Value::text("off"),
            form: Form::Choice(&["off", "request", "require"]),
            doc: "Whether clients are asked for a certificate. request: who shows one need not send a token, if the certificate is that \
                  of a client (certificate_name). require: frames, POST and syslog without a certificate are refused, also without TLS. The \
                  pages /health, /ready and /metrics never need one.",
        },
        Setting {
            key: "plaintext",
            applies: Applies::OnReload,
            default: Value::text("allow"),
            form: Form::Choice(&["allow", "loopback", "refuse"]),
            doc: "Whether frames, POST and syslog are accepted without TLS: from everywhere, from this host only, or not at all. The pages \
                  /health, /ready and /metrics always are.",
        },
    ],
};

const EVENT_RATE: Form = Form::Count { min: 0, max: limits::RATE_EVENTS_LIMIT };
const BYTE_RATE: Form = Form::Bytes { min: 0, max: limits::RATE_BYTES_LIMIT };
const BURST: Form = Form::Duration { min: limits::RATE_BURST_LOWEST, max: limits::RATE_BURST_LIMIT };

const LIMITS: Section = Section {
    name: "limits",
    doc: "How much is accepted on receipt. An agent or a syslog connection above a limit is not read until what it has sent is \
          paid for; an HTTP request above one is answered 429. No event is dropped, except datagrams of syslog. 0: no \
          limit.",
    settings: &[
        Setting {
            key: "events_per_second",
            applies: Applies::OnReload,
            default: Value::Count(0),
            form: EVENT_RATE,
            doc: "Events per second of everybody together.",
        },
        Setting {
            key: "bytes_per_second",
            applies: Applies::OnReload,
            default: Value::Bytes(0),
            form: BYTE_RATE,
            doc: "The same in bytes: payloads of frames, and HTTP bodies as they were sent.",
        },
        Setting {
            key: "agent_events_per_second",
            applies: Applies::OnReload,
            default: Value::Count(0),
            form: EVENT_RATE,
            doc: "Events per second of each agent, and of each address that sends over HTTP or syslog (of IPv6, each network of \
                  64 bits).",
        },
        Setting {
            key: "agent_bytes_per_second",
            applies: Applies::OnReload,
            default: Value::Bytes(0),
            form: BYTE_RATE,
            doc: "The same in bytes.",
        },
        Setting {
            key: "burst",
            applies: Applies::OnReload,
            default: Value::Duration(limits::RATE_BURST_DEFAULT),
            form: BURST,
            doc: "Time whose events and bytes may come at once after a pause, for all limits of this section.",
        },
    ],
};

/// What every client has.
pub(super) const CLIENT: &[Setting] = &[
    Setting {
        key: "token_sha256",
        applies: Applies::OnReload,
        default: Value::text(""),
        form: Form::Secret,
        doc: "SHA-256 of the client's token, the 64 hexadecimal digits that sha256sum prints.",
    },
    Setting {
        key: "token_file",
        applies: Applies::OnReload,
        default: Value::text(""),
        form: Form::Path,
        doc: "File that contains the token itself, in place of token_sha256.",
    },
    Setting {
        key: "certificate_name",
        applies: Applies::OnReload,
        default: Value::text(""),
        form: Form::Text,
        doc: "First DNS name in the certificate of the client (mutual TLS, tls.client_auth), in place of a token or beside one: with \
              this certificate it need not send a token.",
    },
    Setting {
        key: "events_per_second",
        applies: Applies::OnReload,
        default: Value::Count(0),
        form: EVENT_RATE,
        doc: "Events per second of all that this client sends. 0: no limit.",
    },
    Setting {
        key: "bytes_per_second",
        applies: Applies::OnReload,
        default: Value::Bytes(0),
        form: BYTE_RATE,
        doc: "The same in bytes: payloads of frames, and HTTP bodies as they were sent. 0: no limit.",
    },
    Setting {
        key: "burst",
        applies: Applies::OnReload,
        default: Value::Duration(limits::RATE_BURST_DEFAULT),
        form: BURST,
        doc: "Time whose events and bytes may come at once after a pause.",
    },
];

const HTTP: Section = Section {
    name: "http",
    doc: "Events in HTTP requests, and the status page.",
    settings: &[
        Setting {
            key: "unknown_keys",
            applies: Applies::OnRestart,
            default: Value::text(UnknownKeys::NAMES[0]),
            form: Form::Choice(&UnknownKeys::NAMES),
            doc: "What happens to keys of JSON that no event has. reject: the event is rejected, and the answer names the \
                  key that was probably meant. attributes: they become attributes. ?unknown= in a request overrides it.",
        },
        Setting {
            key: "hosts",
            applies: Applies::OnRestart,
            default: Value::text(""),
            form: Form::Hosts,
            doc: "Host names under which the status page is shown, as a list or with commas between them, in addition to \
                  localhost and IP addresses: names of this server, or of a proxy in front of it. Requests with other \
                  names are answered 421.",
        },
    ],
};

const SYSLOG: Section = Section {
    name: "syslog",
    doc: "Messages of syslog daemons and devices. They are not acknowledged: see docs/syslog.md.",
    settings: &[
        Setting {
            key: "enabled",
            applies: Applies::OnRestart,
            default: Value::Flag(false),
            form: Form::Flag,
            doc: "Accept syslog over TCP on server.address.",
        },
        Setting {
            key: "udp",
            applies: Applies::OnRestart,
            default: Value::Flag(false),
            form: Form::Flag,
            doc: "Accept syslog over UDP too, on the same address and port number. Datagrams can be lost. It requires \
                  enabled = true.",
        },
        Setting {
            key: "allow",
            applies: Applies::OnRestart,
            default: Value::text("127.0.0.0/8,::1"),
            form: Form::Networks,
            doc: "Networks whose syslog is accepted, as a list or with commas between them; over TLS, the certificate of a client \
                  is accepted from everywhere. Syslog has no tokens, and the sender's address in a datagram can be forged.",
        },
    ],
};

const WAL: Section = Section {
    name: "wal",
    doc: "The write-ahead log in data_dir/wal: it keeps acknowledged events until every sink has them.",
    settings: &[
        Setting {
            key: "enabled",
            applies: Applies::OnRestart,
            default: Value::Flag(true),
            form: Form::Flag,
            doc: "Without a log, events are only in memory until sinks have them: they are acknowledged as \
                  \"received\", a slow sink makes all others wait, and a crash loses events that are not delivered.",
        },
        Setting {
            key: "segment_bytes",
            applies: Applies::OnRestart,
            default: Value::Bytes(limits::SEGMENT_BYTES_DEFAULT),
            form: Form::Bytes { min: limits::SEGMENT_BYTES_LOWEST, max: limits::SEGMENT_BYTES_LIMIT },
            doc: "Size of one file of the log. Files are deleted as a whole, and a start reads the newest one.",
        },
        Setting {
            key: "max_bytes",
            applies: Applies::OnRestart,
            default: Value::Bytes(limits::LOG_BYTES_DEFAULT),
            form: Form::Bytes { min: 2 * limits::SEGMENT_BYTES_LOWEST, max: limits::LOG_BYTES_LIMIT },
            doc: "Largest size of the whole log. When events that a sink has not stored fill it, the on_full setting \
                  of that sink decides. At least twice segment_bytes.",
        },
        Setting {
            key: "keep",
            applies: Applies::OnRestart,
            default: Value::Duration(Duration::from_secs(60)),
            form: Form::Duration { min: Duration::ZERO, max: Duration::from_secs(365 * 86_400) },
            doc: "How long events stay in the log after every sink has them, for a store that is restored to an \
                  earlier state. Events are deleted earlier when max_bytes is reached.",
        },
    ],
};

/// Also the `batch.*` keys of each sink, whose defaults are then what this section says.
pub(super) const BATCH: Section = Section {
    name: "batch",
    doc: "How events are grouped into deliveries. An idle sink receives events at once; these settings bound the \
          deliveries that are collected while it is busy. Each sink may set its own.",
    settings: &[
        Setting {
            key: "max_events",
            applies: Applies::OnRestart,
            default: Value::Count(limits::BATCH_EVENTS_DEFAULT),
            form: Form::Count { min: 1, max: limits::BATCH_EVENTS_LIMIT },
            doc: "Most events in one delivery.",
        },
        Setting {
            key: "max_bytes",
            applies: Applies::OnRestart,
            default: Value::Bytes(limits::BATCH_BYTES_DEFAULT as u64),
            form: Form::Bytes { min: 1024, max: limits::BUFFER_BYTES_LIMIT as u64 / 4 },
            doc: "Most encoded bytes of one delivery. At most a quarter of server.buffer_bytes.",
        },
        Setting {
            key: "max_age",
            applies: Applies::OnReload,
            default: Value::Duration(limits::BATCH_AGE_DEFAULT),
            form: Form::Duration { min: Duration::ZERO, max: Duration::from_secs(60) },
            doc: "After a delivery, the next one is sent when it is full, or after this time.",
        },
    ],
};

/// The key of the log filter, within its section.
const FILTER: &str = "filter";
/// The full key of the agents whose frames are logged.
pub(super) const LOG_AGENTS: &str = "log.agents";
/// Its full key.
pub(super) const LOG_FILTER: &str = "log.filter";

const LOG: Section = Section {
    name: "log",
    doc: "Log lines of the server, on stderr.",
    settings: &[
        Setting {
            key: "format",
            applies: Applies::OnRestart,
            default: Value::text("text"),
            form: Form::Choice(&["text", "json"]),
            doc: "text: for people. json: one JSON object per line. The argument --log-format sets it too.",
        },
        Setting {
            key: FILTER,
            applies: Applies::OnReload,
            default: Value::text("info"),
            form: Form::Text,
            doc: "Which lines are written: a level (error, warn, info, debug, trace: as debug in a release, off), or targets with levels, such as \
                  \"warn,telemetryx::net=debug\". The environment variable TELEMETRYX_LOG sets it too, and overrides the \
                  settings file.",
        },
        Setting {
            key: "agents",
            applies: Applies::OnReload,
            default: Value::text(""),
            form: Form::Text,
            doc: "Names of agents whose frames and acknowledgements are logged one by one, within a span of their connection (level \
                  info), with * for any text and commas between them, such as \"web-*,db-1\". Empty: none.",
        },
    ],
};

/// What every sink has besides `kind`, `batch.*` and its kind's own keys.
pub(super) const SINK: &[Setting] = &[
    Setting {
        key: "required",
        applies: Applies::OnRestart,
        default: Value::Flag(true),
        form: Form::Flag,
        doc: "Whether the ack level \"delivered\" waits for this sink.",
    },
    Setting {
        key: "on_full",
        applies: Applies::OnRestart,
        default: Value::text("block"),
        form: Form::Choice(&["block", "drop_oldest"]),
        doc: "What happens when the log reaches wal.max_bytes because this sink is behind. block: the server accepts \
              nothing more until the sink has caught up. drop_oldest: the oldest events are dropped for this sink \
              and counted; it requires required = false.",
    },
    steps::INCLUDE,
    steps::EXCLUDE,
    steps::SAMPLE_KEEP,
    steps::SAMPLE_BY,
    steps::SAMPLE_ALWAYS,
    steps::REDACT,
    steps::COLLAPSE,
    steps::AGGREGATE_INTERVAL,
    steps::AGGREGATE_GAUGES,
    steps::AGGREGATE_BY,
    steps::AGGREGATE_MAX_SERIES,
];

/// Whether the values of this key of a sink are kept as text, and not as a value for each key in them.
pub(super) fn is_nested(key: &str) -> bool {
    SINK.iter().any(|row| row.key == key && matches!(row.form, Form::Step(form) if form.is_nested()))
}
