//! Steps: what a sink gets of what its router gathered, as its settings ask for it.
//!
//! ```text
//!  events ─▶ include ─▶ exclude ─▶ sample ─▶ redact ─▶ aggregate ─▶ collapse ─▶ delivery ─▶ sink
//!            └──────── piece by piece, as they are read ──────────┘  └ all of a delivery
//! ```
//!
//! A step is a pure function from a delivery to a delivery: the same one gives the same result each time that it is delivered
//! again. It uses no clock, and remembers nothing from one delivery to the next. It may
//!
//! * leave events out: their positions stay covered, and [`Delivery::filtered`] counts them;
//! * write another row in the place of an event, or of several: a made row, see [`crate::batch::delivery`].
//!
//! It never changes the order or the positions that are covered.
//!
//! The steps up to redact look at one event at a time. They run on each piece (at most
//! [`STEPS_PIECE_BYTES`](crate::limits::STEPS_PIECE_BYTES)) as it is gathered ([`Open::add`]), so that what they leave out is not
//! held: their result does not depend on the pieces. Aggregate is fed with what they left, and keeps totals of counters and gauges in
//! place of them; collapse looks at all other events of a delivery ([`Open::close`]). The rows of these two depend on where a delivery
//! begins and ends.
//!
//! Each event goes through the steps once per delivery, not once per attempt to store it. What a sink is asked to store, what bisection halves and what becomes a dead letter are
//! their result, whose rows keep their bytes while the delivery is retried. `telemetryx dead replay` sends a letter as it is.
//!
//! **Rows that stand for several events** are made by collapse and aggregate, which call
//! [`Builder::whole`](crate::batch::Builder::whole): the position then moves only once all of the delivery is stored, see
//! `Bisection`. What a sharded sink has already of some of its shards is left out before the steps, in `Gather`.
//!
//! **A new step** is one file with a type that implements [`Step`], and a line in [`Steps::new`]. (Aggregate implements no `Step`:
//! it is fed piece by piece, and has a place of its own in [`Steps`] and [`Open`].) It also needs
//!
//! * a variant of [`FilterStep`](crate::metrics::FilterStep), if it leaves events out;
//! * its settings: rows in `settings::steps` and `config::table`, a [`StepForm`](crate::settings::steps::StepForm), a field in
//!   [`StepSettings`];
//! * [`Step::reason`], for `telemetryx check --event` (`cli::check::preview`).

pub mod aggregate;
mod collapse;
#[cfg(test)]
mod collapse_tests;
mod conditions;
mod filter;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
#[cfg(any(test, feature = "fuzzing"))]
mod naive;
mod open;
mod redact;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod redact_fuzz;
#[cfg(test)]
mod redact_tests;
mod sample;
#[cfg(test)]
mod tests;

pub use aggregate::Aggregate;
pub use collapse::{Collapse, FIRST_TIME, LAST_TIME, REPEATED};
pub use filter::Filter;
pub use open::Open;
pub use redact::{MASK, Redact};
pub use sample::{SAMPLE_RATE, Sample};

use std::fmt;

use crate::batch::{Delivery, Record};
use crate::metrics::SinkMetrics;
use crate::settings::steps::StepSettings;

/// A step with its settings.
pub trait Step: Send + Sync {
    /// What is left of the delivery.
    fn apply(&self, delivery: Delivery) -> Delivery;

    /// What decides about this event, for a person; `None`: the step does nothing with it.
    fn reason(&self, record: &Record<'_>) -> Option<String> {
        let _ = record;
        None
    }

    /// Whether what decides about this event is its position in the log, which only the server knows.
    fn decides_by_position(&self, record: &Record<'_>) -> bool {
        let _ = record;
        false
    }
}

/// The steps of one sink, in order. They change by reload between deliveries, never under one that is retried.
#[derive(Default)]
pub struct Steps {
    /// Those that look at one event at a time.
    of_events: Vec<Box<dyn Step>>,
    /// Those that look at all events of a delivery.
    of_deliveries: Vec<Box<dyn Step>>,
    /// Fed with what is left of events as they are read.
    aggregate: Option<Aggregate>,
}

impl Steps {
    /// These steps, of which each looks at one event at a time.
    #[cfg(test)]
    pub(crate) fn of_events(steps: Vec<Box<dyn Step>>) -> Self {
        Self { of_events: steps, ..Self::default() }
    }

    /// The steps that the settings ask for. `server_id`: of the log that the positions belong to.
    pub fn new(settings: &StepSettings, server_id: [u8; 16]) -> Self {
        let mut of_events: Vec<Box<dyn Step>> = Vec::new();
        if let Some(filter) = Filter::new(settings) {
            of_events.push(Box::new(filter));
        }
        if let Some(sample) = &settings.sample {
            of_events.push(Box::new(Sample::new(sample, server_id)));
        }
        if let Some(redact) = Redact::new(&settings.redact) {
            of_events.push(Box::new(redact));
        }
        let mut of_deliveries: Vec<Box<dyn Step>> = Vec::new();
        if settings.collapse {
            of_deliveries.push(Box::new(Collapse));
        }
        Self { of_events, of_deliveries, aggregate: settings.aggregate.as_ref().map(Aggregate::new) }
    }

    /// All of them, in order.
    pub fn all(&self) -> impl Iterator<Item = &dyn Step> {
        self.of_events.iter().chain(&self.of_deliveries).map(|step| &**step)
    }

    /// Whether every event is delivered as it came.
    pub fn is_empty(&self) -> bool {
        self.of_events.is_empty() && self.of_deliveries.is_empty() && self.aggregate.is_none()
    }

    /// How counters and gauges are aggregated; `None`: they are not.
    pub fn aggregate(&self) -> Option<&Aggregate> {
        self.aggregate.as_ref()
    }

    /// The steps that look at one event at a time: the result for two deliveries is that for both together.
    pub fn apply_to_events(&self, delivery: Delivery) -> Delivery {
        self.of_events.iter().fold(delivery, |delivery, step| step.apply(delivery))
    }

    /// All steps, with the delivery as a window; what a router does piece by piece.
    pub fn apply(&self, delivery: Delivery) -> Delivery {
        let mut open = Open::default();
        open.add(self, delivery.clone(), 0);
        open.close(self).unwrap_or(delivery)
    }

    /// The steps for which the delivery is a window.
    pub fn apply_to_all(&self, delivery: Delivery) -> Delivery {
        self.of_deliveries.iter().fold(delivery, |delivery, step| step.apply(delivery))
    }
}

impl fmt::Debug for Steps {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} steps", self.of_events.len() + self.of_deliveries.len())
    }
}

/// Counts a delivery, or a part of one, that is stored: positions passed = delivered + filtered + dead + dropped.
pub fn count(metrics: &SinkMetrics, stored: &Delivery) {
    metrics.events_delivered.inc_by(stored.originals());
    metrics.rows.inc_by(stored.events());
    for (counter, events) in metrics.events_filtered.iter().zip(stored.filtered()) {
        counter.inc_by(*events);
    }
}
