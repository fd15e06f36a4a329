//! The agent protocol as two state machines without sockets or clocks: bytes and `now` in, bytes and decisions out.

#[cfg(feature = "server")]
pub mod admission;
pub mod agent;
#[cfg(test)]
mod agent_tests;
#[cfg(all(any(test, feature = "fuzzing"), feature = "server"))]
#[doc(hidden)]
pub mod fuzz;
#[cfg(feature = "server")]
pub mod marks;
#[cfg(feature = "server")]
pub mod rates;
#[cfg(feature = "server")]
pub mod receive;
#[cfg(feature = "server")]
mod recent;
#[cfg(feature = "server")]
pub mod server;
#[cfg(all(test, feature = "server"))]
mod server_tests;
#[cfg(feature = "server")]
pub mod tokens;
