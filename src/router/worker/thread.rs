//! The thread of a router: a loop over the steps of its worker.

use std::thread;
use std::time::Instant;

use super::{Next, Worker};
use crate::time::Now;

/// Delivers until the queue is closed and empty, or the drain deadline has passed.
pub(crate) fn run(mut worker: Worker) {
    loop {
        match worker.step(Now::read()) {
            Next::Step => {}
            Next::Wait(until) => worker.source.wait(until),
            // Ends with the begin of the drain, if the worker has not seen that yet.
            Next::Pause(until) => worker.drain.sleep(until, worker.draining),
            Next::Sleep(until) => thread::sleep(until.saturating_duration_since(Instant::now())),
            Next::End(()) => return,
        }
    }
}
