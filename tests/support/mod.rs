//! What tests with real processes and sockets share.

#![allow(dead_code)] // each crate of tests uses only a part

pub(crate) mod agent;
#[cfg(feature = "sqlite")]
pub(crate) mod cast;
pub(crate) mod certificates;
pub(crate) mod chromium;
pub(crate) mod disk;
#[cfg(feature = "sqlite")]
pub(crate) mod fifo;
pub(crate) mod haproxy;
pub(crate) mod http;
#[cfg(feature = "sqlite")]
pub(crate) mod ledger;
#[cfg(feature = "sqlite")]
pub(crate) mod load;
pub(crate) mod nginx;
pub(crate) mod node;
pub(crate) mod proxy;
#[cfg(feature = "sqlite")]
pub(crate) mod rows;
pub(crate) mod server;
pub(crate) mod stores;
pub(crate) mod strace;
pub(crate) mod syslogd;
pub(crate) mod terminal;
pub(crate) mod tls;
pub(crate) mod tls_front;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use telemetryx::random::Random;

/// Where cargo has put what it built, such as `target`: this test is in `debug/deps` there.
pub(crate) fn target_directory() -> PathBuf {
    std::env::current_exe().unwrap().ancestors().nth(3).expect("a test is in debug/deps").to_owned()
}

/// Raises the limit of open files of this process, and of those that it starts, as far as it may.
pub(crate) fn raise_open_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

/// The seed of a randomized test: `TELEMETRYX_TEST_SEED`, else another one each time. Printed, so that a failure can
/// be run again.
pub(crate) fn seed() -> u64 {
    let seed = match std::env::var("TELEMETRYX_TEST_SEED") {
        Ok(seed) => seed.parse().expect("TELEMETRYX_TEST_SEED is a number"),
        Err(_) => Random::from_system().next_u64(),
    };
    println!("TELEMETRYX_TEST_SEED={seed}");
    seed
}

/// Sets a flag when dropped, also when an assertion fails. To be created within `thread::scope` and bound to a name: the scope waits for
/// its threads, and they run until the flag is set.
#[must_use]
pub(crate) struct Ended<'a>(pub &'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
