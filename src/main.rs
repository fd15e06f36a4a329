use std::process::ExitCode;

fn main() -> ExitCode {
    telemetryx::cli::main(std::env::args_os())
}
