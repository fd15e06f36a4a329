//! Takes everything and keeps nothing: for measuring the parts before it.

use serde::Deserialize;

use super::{Failure, Kind, Sink, Unavailable};
use crate::batch::Delivery;

/// What the settings know of it.
pub const KIND: Kind = Kind {
    name: "discard",
    doc: "Accepts all events and stores none, to measure the parts before the sink.",
    settings: &[],
};

/// `kind = "discard"` has no settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {}

/// The sink.
pub struct Discard;

impl Sink for Discard {
    fn connect(&mut self) -> Result<Option<u64>, Unavailable> {
        Ok(None)
    }

    fn needs_position(&self) -> bool {
        false
    }

    fn deliver(&mut self, _delivery: &Delivery) -> Result<(), Failure> {
        Ok(())
    }
}
