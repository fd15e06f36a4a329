//! The program as its users run it: real processes, sockets, stores and senders.
//!
//! A file is a subject; `cargo test --test system bye::` runs the tests of `bye.rs`. All are one crate: it is linked once, and while one
//! test waits, others use the CPUs. Tests that have to run alone, because they measure latency, wake-ups or allocations, or run
//! against the timers of the server, are crates of their own.
#![cfg(feature = "sqlite")] // the default sink; it takes the server with it

mod alerts;
mod balancer;
mod bench;
mod bye;
mod check_connect;
mod cli;
mod clients;
mod clock;
mod compose;
mod connections;
mod data_of_earlier_revisions;
mod dead;
mod descriptors;
mod escaping;
mod frames;
mod hints;
mod http;
mod image;
mod localhost;
mod metrics_move;
mod misconfiguration;
mod otlp;
mod overload;
mod packages;
mod proxy;
mod python_agent;
mod queries;
mod reload;
mod reload_load;
mod secrets;
mod send;
mod senders;
mod service_manager;
mod shaping;
mod sink_states;
mod slow_bodies;
mod spans;
mod sqlite_files;
mod start_and_end;
mod status_page;
mod storage_faults;
mod store_faults;
mod store_torture;
mod stores;
#[path = "../support/mod.rs"]
mod support;
mod syslog;
mod tap;
mod terminal;
mod tls;
mod top;
mod torture;
mod wal_command;
mod windows;
mod wrong_settings;
