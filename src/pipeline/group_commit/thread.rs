//! The log thread: a loop over the steps of its machine.

use std::thread;
use std::time::Instant;

use super::{GroupCommit, Unwritten};
use crate::pipeline::next::Next;
use crate::time::Now;

/// Runs until the event loops are gone and their rings are empty, the log fails, or the server ends while the log accepts
/// nothing. Returns what is not in the log. The loops unpark this thread; `pause` waits until then, or until the server begins to end
/// or its deadline passes.
pub fn run(mut group_commit: GroupCommit, pause: impl Fn(Instant)) -> Unwritten {
    loop {
        match group_commit.step(Now::read()) {
            Next::Step => {}
            // A slot that was pushed since has unparked this thread, which is remembered.
            Next::Wait(None) => thread::park(),
            Next::Wait(Some(until)) => thread::park_timeout(until.saturating_duration_since(Instant::now())),
            Next::Pause(until) | Next::Sleep(until) => pause(until),
            Next::End(unwritten) => return unwritten,
        }
    }
}
