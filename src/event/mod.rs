//! The event contract: generated types, [`EventRef`], validation, JSON and syslog.
//!
//! ```text
//!  agent ─▶ EventBatch ─▶ check_batch ─┐
//!                                      ├─▶ accepted bytes ─▶ Events, EventRef ─▶ write_json, sinks
//!  curl ──▶ JSON ──▶ JsonDecoder ──────┤
//!  OTLP ──▶ protobuf, JSON ─▶ otlp ────┘
//! ```
//!
//! `view` reads events in place over the primitives of `protobuf`, and `usual` those in the usual form; `check` holds the rules that
//! every event must keep. `json` reads bodies, `json_quick` the ordinary event over the passes of `json_scan`, `json_event` any event
//! into a `draft`, `json_key` its keys, `json_map` those of other agents; `json_out` writes.
//! `json_error`, `nearest` and `foreign` have the messages for what is rejected. `syslog` reads syslog, `otlp` OTLP. `rewrite` writes
//! events anew from others. `fuzz` compares with prost, and `json_quick` with `json_event`.

pub mod check;
mod draft;
mod foreign;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
pub mod json;
mod json_error;
mod json_event;
mod json_key;
mod json_map;
mod json_options;
pub mod json_out;
mod json_quick;
#[cfg(test)]
mod json_quick_tests;
mod json_scan;
mod json_time;
pub mod nearest;
pub mod otlp;
/// The owned form, generated from `proto/events.proto`: what a client builds, and what the in-place parser is
/// compared with. `make proto` writes the file; `tests/project/proto.rs` compares it with the contract.
#[rustfmt::skip]
pub mod proto;
mod protobuf;
pub mod rewrite;
pub mod rfc3339;
#[cfg(feature = "server")]
pub mod syslog;
mod usual;
pub mod view;

pub use check::{BatchError, Counts, EventError, InvalidEvent, Malformed, Rejection, Rejections, check_batch};
pub use json::{Decoded, JsonDecoder, JsonError};
pub use json_event::severity_from_name;
pub use json_key::{FIELD_NAMES, Quoted};
pub use json_options::{JsonOptions, Map, TimeUnit, UnknownKeys};
pub use json_out::{JsonRecord, write_attributes_json, write_json};
pub use protobuf::Fault;
pub use view::{AttributeValue, EventKind, EventRef, Events, UnreadAttributes, UnreadValue, kind_of};
