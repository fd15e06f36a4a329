//! telemetryx: takes telemetry events from many agents and puts them into the stores a team already runs, without
//! losing or duplicating one.
//!
//! The modules in the order in which data flows; each imports only from those below it in this list's first half
//! (contract and protocol: bytes and `now` in, values out, no socket, file, thread or clock) and from the stages
//! that it hands on to.
//!
//! ```text
//!             event loop thread                          log thread          router threads, one a sink
//!  socket ─▶ net ─▶ wire ─▶ session ─▶ event ─▶ pipeline (pool, ring) ─▶ wal ─▶ batch ─▶ router ─▶ sink
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
//! | [`resolve`] | host names to addresses; `localhost` needs no resolver |
//! | `http` | request head, body, routes, responses |
//! | `net` | mio: event loop, listener, connections, timers |
//! | `pipeline` | slots, rings, tickets, watermarks, group commit |
//! | `wal` | the write-ahead log: records, segments, one writer, a reader per sink, recovery |
//! | `batch` | what stages hand to each other: buffer pool, batches, deliveries |
//! | [`router`] | worker, retry, dead letters |
//! | [`sink`] | trait, table of kinds, one file a sink |
//! | `config`, `metrics`, `cli` | settings, registry, commands |
//! | `descriptors` | file descriptors: the reserve, and errors that say there are none left |
//!
//! Without the `server` feature (default) only what an agent links is built: the modules above `http`, and `limits`.

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
pub mod text;
pub mod time;
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
pub mod router;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod sink;
#[cfg(feature = "server")]
pub mod wal;

// The tests' own support, in tests/support, names this crate from outside.
#[cfg(test)]
extern crate self as telemetryx;
