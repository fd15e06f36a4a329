//! What a call of a sink must have ended with; anything else ends the test.

use std::fmt::Debug;
use std::time::Duration;

use crate::sink::{Failure, Unavailable};

/// The reason, where a person must act.
#[track_caller]
pub(crate) fn down<T: Debug>(result: Result<T, impl Into<Failure>>) -> String {
    match result.map_err(Into::into) {
        Err(Failure::Unavailable(Unavailable::Down { reason })) => reason,
        other => panic!("not down: {other:?}"),
    }
}

/// The reason, where it passes.
#[track_caller]
pub(crate) fn retry<T: Debug>(result: Result<T, impl Into<Failure>>) -> String {
    retry_after(result).0
}

/// The reason, where it passes, and the time that the store named.
#[track_caller]
pub(crate) fn retry_after<T: Debug>(result: Result<T, impl Into<Failure>>) -> (String, Option<Duration>) {
    match result.map_err(Into::into) {
        Err(Failure::Unavailable(Unavailable::Retry { reason, after })) => (reason, after),
        other => panic!("not to be tried again: {other:?}"),
    }
}

/// Position and code of each event that the store refused.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
#[track_caller]
pub(crate) fn refused(result: Result<(), Failure>) -> Vec<(u64, String)> {
    match result {
        Err(Failure::Refused(refusals)) => {
            refusals.into_iter().map(|refusal| (refusal.position, refusal.code)).collect()
        }
        other => panic!("no event was refused: {other:?}"),
    }
}
