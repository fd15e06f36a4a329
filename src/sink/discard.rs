//! Takes everything and keeps nothing: for measuring the parts before it.

use serde::Deserialize;

use super::{Failure, Identity, Kind, Output, Sink, SinkConfig, Unavailable};
use crate::batch::Delivery;

/// What the settings know of it.
pub const KIND: Kind = Kind {
    name: "discard",
    doc: "Accepts all events and stores none, to measure the parts before the sink.",
    settings: &[],
    parse: |values| Ok(Box::new(values.read::<DiscardSettings>()?)),
};

/// `kind = "discard"` has no settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiscardSettings {}

impl SinkConfig for DiscardSettings {
    fn open(&self, _name: &str, _identity: &Identity) -> Box<dyn Sink> {
        Box::new(Discard)
    }

    fn output(&self) -> Option<Output> {
        None
    }
}

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
