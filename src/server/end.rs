//! The last line of a server that has a log and ends as it should.

use crate::pipeline::group_commit::Unwritten;

/// Logs what became of the events, in one line. `unwritten`: what is not in the log; `None`: it has not answered in time.
/// `undelivered`: events in the log that sinks have not taken, summed over these.
pub(super) fn report(unwritten: Option<&Unwritten>, undelivered: u64) {
    match unwritten {
        None => tracing::warn!(
            undelivered,
            "shut down while the log accepted nothing: its thread did not end in time; everything that was acknowledged is \
             in the log"
        ),
        Some(&Unwritten { events: events @ 1.., rejected_payloads, .. }) => tracing::warn!(
            events,
            rejected_payloads,
            undelivered,
            "shut down while the log accepted nothing; these events were not acknowledged, and these rejected payloads \
             are not in dead letters"
        ),
        Some(&Unwritten { rejected_payloads: rejected_payloads @ 1.., .. }) => {
            tracing::warn!(
                rejected_payloads,
                undelivered,
                "shut down; these rejected payloads are not in dead letters"
            );
        }
        Some(_) if undelivered > 0 => {
            tracing::info!(events = undelivered, "shut down; the log keeps undelivered events for the next start");
        }
        Some(_) => tracing::info!("shut down, everything delivered"),
    }
}
