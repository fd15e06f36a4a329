//! What a thread does after a step of its state machine.
//!
//! ```text
//!  thread:  loop { match machine.step(Now::read()) { Step ─▶ again, Wait | Pause | Sleep ─▶ wait as told, End ─▶ return } }
//! ```
//!
//! Group commit ([`super::group_commit`]) and the worker of a router are such machines. They read no clock, and wait for
//! nothing but the calls that do their work (disk, store). So a test runs all of them in one thread, with a clock of its own.
//! An additional step, or one that comes early, does no harm.

use std::time::Instant;

/// What to do before the next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next<E> {
    /// Nothing.
    Step,
    /// Wait until there is something new to take, or until then.
    Wait(Option<Instant>),
    /// Wait until then, or until the server begins to end or its deadline passes. Nothing else ends this wait.
    Pause(Instant),
    /// Wait until then.
    Sleep(Instant),
    /// The machine has ended with this result. There is no next step.
    End(E),
}
