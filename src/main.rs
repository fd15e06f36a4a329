//! The `telemetryx` program; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    telemetryx::cli::main(std::env::args_os())
}
