//! The span of a commit, which log lines of the log thread and of what it calls are within.

use std::time::Instant;

use tracing::span::EnteredSpan;
use tracing::{Span, debug, debug_span};

use crate::pipeline::ring::{Content, Slot};

/// Of the commit whose slots were taken, and when; disabled where the log filter leaves it out, and while there is no commit.
#[derive(Default)]
pub(super) struct CommitSpan(Option<(Span, Instant)>);

impl CommitSpan {
    /// The span of a commit of these slots, whose first event has the position `first`. The slots are counted only where it is enabled.
    pub(super) fn new(slots: &[Slot], first: u64, now: Instant) -> Self {
        let span = debug_span!(
            parent: None,
            "commit",
            first,
            runs = runs(slots).count(),
            events = runs(slots).map(|(events, _)| u64::from(events)).sum::<u64>(),
            bytes = runs(slots).map(|(_, bytes)| bytes).sum::<usize>()
        );
        Self(Some((span, now)))
    }

    /// What is logged while the result lives is within the span.
    pub(super) fn entered(&self) -> Option<EnteredSpan> {
        self.0.as_ref().map(|(span, _)| span.clone().entered())
    }

    /// Logs that the commit is synced, where its span shows which one.
    pub(super) fn log_end(self, sync_seconds: f64, now: Instant) {
        let Some((span, taken)) = self.0.filter(|(span, _)| !span.is_disabled()) else { return };
        let seconds = now.saturating_duration_since(taken).as_secs_f64();
        span.in_scope(|| debug!(sync_seconds, seconds, "commit synced"));
    }
}

/// Events and bytes of each frame or request.
fn runs(slots: &[Slot]) -> impl Iterator<Item = (u32, usize)> {
    slots.iter().filter_map(|slot| match &slot.content {
        Content::Events { payload, events, .. } => Some((*events, payload.len())),
        Content::Refused { .. } | Content::Hello | Content::Bye => None,
    })
}
