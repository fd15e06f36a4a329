//! NDJSON on standard output; at least once.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use serde::Deserialize;

use super::ndjson::Lines;
use super::{Failure, Identity, Kind, Sink, Unavailable};
use crate::pipeline::batch::Delivery;

/// What the settings know of it.
pub const KIND: Kind =
    Kind { name: "stdout", doc: "One JSON object a line on standard output. At least once.", settings: &[] };

/// `kind = "stdout"` has no settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {}

pub struct Stdout {
    lines: Lines,
    /// Not `std::io::Stdout`: its buffer would keep what a failed delivery left, and write it in front of the next.
    out: Option<File>,
}

impl Stdout {
    pub fn new(identity: &Identity) -> Self {
        Self { lines: Lines::new(identity), out: None }
    }
}

impl Sink for Stdout {
    fn connect(&mut self) -> Result<Option<u64>, Unavailable> {
        let descriptor = io::stdout().as_fd().try_clone_to_owned();
        self.out = Some(descriptor.map_err(|error| Unavailable::down(format!("stdout: {error}")))?.into());
        Ok(None)
    }

    fn deliver(&mut self, delivery: &Delivery, except: &[u64]) -> Result<(), Failure> {
        let Some(out) = &mut self.out else { return Err(Unavailable::retry("stdout: not open").into()) };
        self.lines.write(delivery, except, out).map_err(|error| {
            let reason = format!("stdout: {error}");
            match error.kind() {
                // Whoever read it is gone, and no other will come.
                io::ErrorKind::BrokenPipe => Unavailable::down(reason).into(),
                _ => Unavailable::retry(reason).into(),
            }
        })
    }
}
