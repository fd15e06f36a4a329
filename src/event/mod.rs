//! The event contract: generated types, [`EventRef`], validation and JSON.

pub mod view;

pub use view::{AttributeValue, EventKind, EventRef, Events};

/// The owned form, generated from `proto/events.proto`: what a client builds, and what the in-place parser is
/// compared with.
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/telemetryx.v1.rs"));
}
