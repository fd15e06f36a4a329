//! What tests with real processes and sockets share.

#![allow(dead_code)] // every test file is a crate of its own and uses a part

pub mod agent;
pub mod disk;
#[cfg(feature = "sqlite")]
pub mod fifo;
pub mod http;
#[cfg(feature = "sqlite")]
pub mod ledger;
#[cfg(feature = "sqlite")]
pub mod load;
pub mod nginx;
pub mod proxy;
#[cfg(feature = "sqlite")]
pub mod rows;
pub mod server;
pub mod stores;
pub mod strace;
pub mod syslogd;
pub mod terminal;

use telemetryx::random::Random;

/// The seed of a randomized test: `TELEMETRYX_TEST_SEED`, else another one each time. Printed, so that a failure can
/// be run again.
pub fn seed() -> u64 {
    let seed = match std::env::var("TELEMETRYX_TEST_SEED") {
        Ok(seed) => seed.parse().expect("TELEMETRYX_TEST_SEED is a number"),
        Err(_) => Random::from_system().next_u64(),
    };
    println!("TELEMETRYX_TEST_SEED={seed}");
    seed
}
