//! TLS: rustls with ring, for everything that this program encrypts.
//!
//! ```text
//!  files of [tls] ─▶ files ─▶ acceptor: the pair in force ──▶ machine: one connection of the server, without a socket
//!                      └ read again when they change             ciphertext in ─▶ plaintext, and ciphertext to send
//!
//!  ca_file ─▶ trust: whom clients and sinks trust ─▶ connect: the client's side of a blocking socket
//! ```
//!
//! | file | what it is |
//! |---|---|
//! | `trust` | authorities, and what an error means; for clients and sinks |
//! | `connect` | a client's connection, whose reader and writer are two threads |
//! | `files` | certificate, key and authorities of the server, read and checked |
//! | `validity` | until when a certificate is valid |
//! | `acceptor` | what new connections of the server use, replaced as a whole |
//! | `machine` | one connection of the server: bytes in, bytes out |
//! | `in_place` | its cipher suites, whose plaintext is not copied by rustls |

#[cfg(feature = "server")]
mod acceptor;
mod connect;
#[cfg(feature = "server")]
mod files;
#[cfg(feature = "server")]
mod in_place;
#[cfg(feature = "server")]
mod machine;
#[cfg(all(test, feature = "server"))]
pub(crate) mod testing;
mod trust;
#[cfg(feature = "server")]
mod validity;

#[cfg(feature = "server")]
pub use self::acceptor::{Acceptor, Looked};
pub(crate) use self::connect::Session;
pub use self::connect::{Connector, ConnectorFiles};
#[cfg(feature = "server")]
pub(crate) use self::connect::{chain, failed};
#[cfg(feature = "server")]
pub use self::files::Files;
#[cfg(feature = "server")]
pub(crate) use self::machine::{Fill, Machine, Received, explain, first_dns_name};
#[cfg(feature = "server")]
pub(crate) use self::trust::*;
