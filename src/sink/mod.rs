//! Sinks: the trait, the table of kinds, one file a sink.
//!
//! A sink only speaks its store's language. Retry, backoff, deadlines, dead letters and metrics are the router's.

use std::time::Duration;

use crate::pipeline::batch::Delivery;

/// Why a sink could not say yes. Every variant is an answer for one delivery.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// All of it is stored (or had been stored by an earlier attempt), and the position with it where the store
    /// keeps positions.
    Delivered,
    /// Nothing was stored, and the reason passes: deliver the same again, not before `after` if the store named a time.
    Retry { reason: String, after: Option<Duration> },
    /// The store refuses events and nothing of the delivery was stored; deliver the rest without them.
    /// Empty: it names none; the router finds them by bisection.
    Refused(Vec<Refusal>),
    /// Nothing can be stored before a person acts (authentication, wrong schema, fenced): keep the data, try slowly.
    Down { reason: String },
}

/// One event that a store will never take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub position: u64,
    /// The store's own code (SQLSTATE, verdict …).
    pub code: String,
    pub reason: String,
}

/// One store. Lives on its router's thread; may block there.
pub trait Sink: Send {
    /// Connects and prepares the store (tables exist before the port opens). Called again after a failed delivery.
    /// Returns the last position that the store holds of this `server_id`: `None` where it keeps no positions.
    fn connect(&mut self, server_id: [u8; 16]) -> Result<Option<u64>, Outcome>;

    /// Stores the delivery without the events at `except` (sorted positions refused earlier), and moves the store's
    /// position to the delivery's last one in the same transaction where the store can.
    fn deliver(&mut self, delivery: &Delivery, except: &[u64]) -> Outcome;
}
