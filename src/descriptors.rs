//! File descriptors: how many the limit leaves for connections, and which errors say that there are none left.
//!
//! ```text
//!  RLIMIT_NOFILE │ open at start │ server │ sink │ sink │ … │ refused connections │ connections │
//!                └────────── reserve: no connection can use it ─┘
//! ```
//!
//! Running out pauses whoever needs one (accepting, the log, a sink). It never ends the process.

use std::error::Error;
use std::fs::File;
use std::io;

use rustix::process::{Resource, getrlimit};

use crate::limits::{
    DESCRIPTORS_OF_SERVER, DESCRIPTORS_PER_LOOP, DESCRIPTORS_PER_SINK, LINGERING_MAX, OVERLOADED_CONNECTIONS_LOWEST,
    OVERLOADED_CONNECTIONS_MAX,
};

/// Who needs descriptors beside connections.
#[derive(Debug, Clone, Copy)]
pub struct Users {
    /// Configured sinks.
    pub sinks: usize,
    /// Event loops that run; at least 1.
    pub event_loops: usize,
}

/// Connections that can be open at a time under a limit of `limit` open files, of which `open` are open before the server
/// starts. At least 1, also where the limit is below the reserve.
pub fn connections_within(limit: usize, open: usize, users: Users) -> usize {
    let room = limit.saturating_sub(reserve(open, users));
    let beside = room.div_ceil(2).clamp(OVERLOADED_CONNECTIONS_LOWEST, OVERLOADED_CONNECTIONS_MAX);
    room.saturating_sub(beside).max(1)
}

/// Connections beyond `connections` that may be open to be refused in their own protocol.
pub fn overloaded_beside(connections: usize) -> usize {
    connections.clamp(OVERLOADED_CONNECTIONS_LOWEST, OVERLOADED_CONNECTIONS_MAX)
}

/// The limit of open files that `connections` need.
pub fn needed(connections: usize, open: usize, users: Users) -> usize {
    reserve(open, users) + connections + overloaded_beside(connections)
}

/// Connections that may linger (R15) beside `connections` and those that are refused: what the limit of open files leaves, at
/// most [`LINGERING_MAX`].
pub fn lingering_beside(connections: usize, users: Users) -> usize {
    let limit =
        getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    limit.saturating_sub(needed(connections, open_now(), users)).min(LINGERING_MAX)
}

fn reserve(open: usize, users: Users) -> usize {
    open + DESCRIPTORS_OF_SERVER
        + users.sinks * DESCRIPTORS_PER_SINK
        + users.event_loops.saturating_sub(1) * DESCRIPTORS_PER_LOOP
}

/// Descriptors that this process has open; the three standard streams where the system does not show them.
pub fn open_now() -> usize {
    // One of them is the listing's own.
    std::fs::read_dir("/proc/self/fd").map_or(3, |entries| entries.count().saturating_sub(1))
}

/// Whether `error`, or what caused it, is that the process (EMFILE) or the system (ENFILE) has no descriptor left. It
/// passes when another one is closed.
pub fn are_exhausted_by(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) {
                return true;
            }
            // Its `source` leaves out the error that it wraps.
            next = error.get_ref().map(|inner| inner as &(dyn Error + 'static));
        } else {
            next = error.source();
        }
    }
    false
}

/// Whether `count` more descriptors cannot be opened now: for libraries whose errors do not carry the cause.
pub fn lack(count: usize) -> bool {
    // Held until all are there. The root directory can always be opened.
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        match File::open("/") {
            Ok(file) => held.push(file),
            Err(error) => return are_exhausted_by(&error),
        }
    }
    false
}

/// `error` with `context` in front, and itself as the cause, so that [`are_exhausted_by`] still finds it.
pub fn with_context(context: String, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), Contextual { context, error })
}

#[derive(Debug, thiserror::Error)]
#[error("{context}: {error}")]
struct Contextual {
    context: String,
    #[source]
    error: io::Error,
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Users = Users { sinks: 1, event_loops: 1 };

    #[test]
    fn connections_and_refused_ones_leave_the_reserve_alone() {
        for users in [Users { sinks: 0, event_loops: 1 }, ONE, Users { sinks: 20, event_loops: 64 }] {
            for limit in 0..5_000 {
                let connections = connections_within(limit, 3, users);
                let beside = overloaded_beside(connections);
                let fits = reserve(3, users) + connections + beside <= limit;
                assert!(fits || connections == 1, "{limit}: {connections} connections, {users:?}");
                assert!(!fits || connections_within(needed(connections, 3, users), 3, users) >= connections);
            }
        }
        assert_eq!(connections_within(needed(16_384, 3, ONE), 3, ONE), 16_384);
        assert!(connections_within(needed(16_384, 3, ONE) - 1, 3, ONE) < 16_384);
    }

    #[test]
    fn exhaustion_is_found_behind_any_context() {
        for code in [libc::EMFILE, libc::ENFILE] {
            let bare = io::Error::from_raw_os_error(code);
            assert!(are_exhausted_by(&bare));
            let once = with_context("position file x".to_owned(), bare);
            assert!(are_exhausted_by(&once));
            assert!(once.to_string().starts_with("position file x: "), "{once}");
            assert!(are_exhausted_by(&with_context("again".to_owned(), once)));
        }
        for error in [io::Error::from_raw_os_error(libc::ENOSPC), io::Error::other("Too many open files")] {
            assert!(!are_exhausted_by(&error) && !are_exhausted_by(&with_context("x".to_owned(), error)));
        }
        assert!(!lack(3));
    }
}
