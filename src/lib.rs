//! telemetryx: receives telemetry events from many agents and writes them to the stores a team already runs, without
//! losing any. Frames are stored exactly once in SQLite, PostgreSQL and Redis.
//!
//! The modules, from those that import nothing to those that import the most. ARCHITECTURE.md, "Layers", says what may import
//! what. The parsers and the protocol (`event`, `wire`, `session`, `http`) take bytes and `now` and return values: no socket, file,
//! thread or clock.
//!
//! ```text
//!             event loop thread                          log thread          router threads, one a sink
//!  socket ─▶ net ─▶ wire ─▶ session ─▶ event ─▶ pipeline (rings) ──▶ wal ─▶ batch ─▶ router ─▶ sink
//!             │ └─▶ http ─▶ event::json ──┘        │          └─── what a router missed ────▶┘     │
//!             ◀──────────── ACK / 200 ◀── watermark ◀──────────────────────────────────────────────┘
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | [`limits`] | every hard bound, its unit and its reason |
//! | [`escape`], [`text`] | text of peers, made safe for log lines and terminals; text of bounded length |
//! | [`counted`] | numbers with their noun, for messages |
//! | [`ids`], [`time`], [`random`], [`backoff`] | ids and their text, wall clock, randomness, delays between attempts |
//! | [`event`] | the contract: generated types, [`event::EventRef`], validation, JSON |
//! | [`wire`] | frame header, decoder, encoder, checksums |
//! | [`session`] | both sides of the agent protocol: hello, sequence, deduplication, acknowledgements |
//! | [`client`] | blocking agent client |
//! | `tls` | certificates, and TLS on both sides: bytes in, bytes out |
//! | `small_file` | settings, secrets and certificates, read as a whole |
//! | [`resolve`] | host names to addresses; `localhost` needs no resolver |
//! | `http` | request head, body, routes, responses |
//! | `net` | mio: event loop, listener, connections, timers |
//! | `pipeline` | slots, rings, tickets, watermarks, group commit |
//! | `wal` | the write-ahead log: records, segments, one writer, a reader per sink, recovery |
//! | `batch` | what stages hand to each other: buffer pool, batches, deliveries |
//! | [`router`] | worker, retry, dead letters |
//! | [`sink`] | trait, table of kinds, a file or directory per sink |
//! | `server` | start, drain, identity: connects the stages |
//! | [`settings`] | what settings consist of: rows, values, URLs, secrets |
//! | [`config`] | all settings of a server, from file, environment and arguments |
//! | `metrics`, `cli` | registry, commands |
//! | `status` | what `/status.json` contains |
//! | `profiling` | CPU profiles of the process, with the cargo feature of this name |
//! | `rate` | how much may be received in a time |
//! | `descriptors`, `folder` | file descriptors and their reserve; directories whose creation survives power loss |
//! | `service_manager` | messages to systemd: ready, stopping, alive |
//!
//! Without the `server` feature (default) only what an agent links is built: the modules above `http`.

pub mod backoff;
pub mod client;
pub mod counted;
pub mod escape;
pub mod event;
pub mod ids;
pub mod limits;
pub mod random;
pub mod resolve;
pub mod session;
#[cfg(feature = "tls")]
pub mod small_file;
pub mod text;
pub mod time;
#[cfg(feature = "tls")]
pub mod tls;
pub mod wire;

#[cfg(feature = "server")]
pub mod batch;
#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod descriptors;
#[cfg(feature = "server")]
pub mod folder;
#[cfg(feature = "server")]
pub mod glob;
#[cfg(feature = "server")]
pub mod http;
#[cfg(feature = "server")]
pub mod metrics;
#[cfg(feature = "server")]
pub mod net;
#[cfg(feature = "server")]
pub mod pipeline;
#[cfg(feature = "server")]
pub mod profiling;
#[cfg(feature = "server")]
pub mod rate;
#[cfg(feature = "server")]
pub mod router;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod service_manager;
#[cfg(feature = "server")]
pub mod settings;
#[cfg(feature = "server")]
pub mod sink;
#[cfg(feature = "server")]
pub mod status;
#[cfg(feature = "server")]
pub mod wal;

// The tests' own support, in tests/support, names this crate from outside.
#[cfg(test)]
extern crate self as telemetryx;
