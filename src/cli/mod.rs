//! The commands: arguments in, exit code out. `docs/configuration.md` and `--help` are their contract.
//!
//! Standard output carries what a command was asked to print (and the `stdout` sink's events), standard error all else.

use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use clap::{Args, Parser, Subcommand};

use crate::config::url::HIDDEN;
use crate::config::{self, ConfigError, Resolved};
use crate::escape::{escape, escape_lines};

pub mod bench;
mod check;
mod config_command;
mod dead;
mod health;
mod logging;
#[cfg(feature = "profiling")]
mod profile;
mod run;
mod send;
mod wal;

const EXAMPLE: &str = "\
Example: start it, then send an event. It is in telemetryx-data/events.db at once.
  telemetryx &
  curl localhost:4640/v1/events -H 'content-type: application/json' -d '{\"name\":\"hello\"}'

Every setting, documented, as a file to start from:
  telemetryx config --defaults

Exit codes: 0 fine, 1 failed, 2 wrong arguments, 78 wrong settings.";

/// Takes telemetry events from many agents and puts them into the stores you already run.
#[derive(Parser)]
#[command(name = "telemetryx", version, after_help = EXAMPLE, disable_help_subcommand = true)]
struct Cli {
    /// Without a command: run
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    shared: SettingsArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server (the default)
    Run(SettingsArgs),
    /// Check the settings and exit
    Check(check::CheckArgs),
    /// Show the settings in force, and where each comes from
    Config(config_command::ConfigArgs),
    /// Ask a running server whether it is healthy: exit 0 or 1
    Health(health::HealthArgs),
    /// Measure how fast a server takes events, and what that costs it
    Bench(bench::BenchArgs),
    /// Send a file's or standard input's lines as events
    Send(send::SendArgs),
    /// Look into the write-ahead log; also beside a running server
    Wal(wal::WalArgs),
    /// Look at what was refused, deliver it again or drop it; also beside a running server
    Dead(dead::DeadArgs),
}

/// Where settings come from; taken before and after the command.
#[derive(Args, Default)]
#[command(next_help_heading = "Settings")]
struct SettingsArgs {
    /// Settings file; else $TELEMETRYX_CONFIG, else ./telemetryx.toml if it is there
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting, over file and environment, such as server.address=0.0.0.0:4640
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_and_value)]
    set: Vec<(String, String)>,
    /// Log lines on standard error: text or json; $TELEMETRYX_LOG is their filter
    #[arg(long, value_name = "FORMAT", value_parser = ["text", "json"], hide_possible_values = true)]
    log_format: Option<String>,
}

impl SettingsArgs {
    /// What stands after the command goes over what stands before it.
    fn merge(&mut self, after: Self) {
        self.config = after.config.or(self.config.take());
        self.set.extend(after.set);
        self.log_format = after.log_format.or(self.log_format.take());
    }

    fn load(&self) -> Result<Resolved, Failure> {
        let mut set = self.set.clone();
        set.extend(self.log_format.clone().map(|format| ("log.format".to_owned(), format)));
        Ok(config::load(self.config.as_deref(), set)?)
    }
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE, such as server.address=0.0.0.0:4640".to_owned()),
    }
}

/// Why a command did not do what it was asked to. Each has its exit code; 2 (usage) is clap's.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// Exit 1: the message says whose fault it is.
    #[error("{0}")]
    Failed(String),
    /// Exit 78, as BSD's EX_CONFIG.
    #[error(transparent)]
    Settings(#[from] ConfigError),
}

impl Failure {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Failed(_) => ExitCode::from(1),
            Self::Settings(_) => ExitCode::from(78),
        }
    }
}

/// Runs the command that `arguments` (the program's name first) ask for.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(mut error) => {
            hide_urls(&mut error);
            // Help and version too; nobody can be told if they cannot be printed.
            let _ = error.print();
            return u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from);
        }
    };
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            for line in failure.to_string().lines() {
                // Not eprintln!: it panics where standard error is closed.
                let _ = writeln!(std::io::stderr(), "telemetryx: {}", escape(line));
            }
            failure.exit_code()
        }
    }
}

/// An argument in a wrong place is not repeated where it holds a URL, and perhaps a password with it.
fn hide_urls(error: &mut clap::Error) {
    let is_url = |value: &ContextValue| matches!(value, ContextValue::String(text) if text.contains("://"));
    let kinds: Vec<ContextKind> = error.context().filter(|(_, value)| is_url(value)).map(|(kind, _)| kind).collect();
    for kind in kinds {
        error.insert(kind, ContextValue::String(HIDDEN.to_owned()));
    }
}

fn dispatch(Cli { command, mut shared }: Cli) -> Result<(), Failure> {
    match command {
        None => run::run(&shared),
        Some(Command::Run(after)) => {
            shared.merge(after);
            run::run(&shared)
        }
        Some(Command::Check(args)) => {
            shared.merge(args.settings);
            check::run(&shared, args.connect)
        }
        Some(Command::Config(args)) => {
            shared.merge(args.settings);
            config_command::run(&shared, args.defaults, args.ddl.as_deref())
        }
        Some(Command::Health(args)) => {
            shared.merge(args.settings);
            health::run(&shared, args.url.as_deref())
        }
        Some(Command::Bench(args)) => {
            shared.merge(args.settings);
            bench::run(&shared, &args.options)
        }
        Some(Command::Send(args)) => {
            shared.merge(args.settings);
            send::run(&shared, &args.options)
        }
        Some(Command::Wal(args)) => wal::run(shared, args.command),
        Some(Command::Dead(args)) => dead::run(shared, args.command),
    }
}

/// Prints what a command was asked for; control characters in it are escaped, line ends are not. A reader that has seen enough (`| head`) is no failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(escape_lines(text).as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::Failed(format!("standard output cannot be written: {error}")))
        }
        _ => Ok(()),
    }
}

/// Where a client on this host reaches a server that listens on `address`: 0.0.0.0 is no place to connect to.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn settings_are_taken_before_and_after_the_command() {
        let line = "telemetryx --config a --set a.b=1 --set c=x=y run --config b --set a.b=2 --log-format json";
        let Ok(Cli { command: Some(Command::Run(after)), mut shared }) = Cli::try_parse_from(line.split(' ')) else {
            panic!("{line} is refused");
        };
        shared.merge(after);
        assert_eq!(shared.config, Some("b".into()));
        assert_eq!(shared.log_format.as_deref(), Some("json"));
        let set: Vec<_> = shared.set.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(set, [("a.b", "1"), ("c", "x=y"), ("a.b", "2")]);

        shared.merge(SettingsArgs::default());
        assert_eq!(shared.config, Some("b".into()));
    }

    #[test]
    fn an_address_that_listens_everywhere_is_reached_on_loopback() {
        for (address, reached) in [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("10.0.0.1:1", "10.0.0.1:1")] {
            assert_eq!(reachable(address.parse().unwrap()), reached.parse().unwrap());
        }
    }
}
