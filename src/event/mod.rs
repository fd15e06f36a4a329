//! The event contract: generated types, [`EventRef`], validation and JSON.

pub mod check;
#[doc(hidden)]
pub mod fuzz;
mod protobuf;
pub mod rfc3339;
pub mod view;

pub use check::{BatchError, Counts, EventError, InvalidEvent, Malformed, check_batch};
pub use protobuf::Fault;
pub use view::{AttributeValue, EventKind, EventRef, Events};

/// The owned form, generated from `proto/events.proto`: what a client builds, and what the in-place parser is
/// compared with.
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/telemetryx.v1.rs"));
}
