//! The commands: arguments in, exit code out. `docs/configuration.md` and `--help` are their contract.
//!
//! Standard output carries what a command was asked to print (and the `stdout` sink's events), standard error all else.

use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind as ArgumentErrorKind};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use tracing::Level;

use crate::config::{self, ConfigError, LogFormat, Resolved};
use crate::escape::escape_lines;
use crate::limits::SETTINGS_FILE_BYTES_MAX;
use crate::settings::url::{HIDDEN, Url};
use crate::small_file::{self, Kinds};

mod address;
pub mod bench;
mod check;
mod completions;
mod config_command;
mod dead;
mod health;
mod logging;
mod man;
mod page;
#[cfg(feature = "profiling")]
mod profile;
mod reload;
mod run;
mod send;
mod started;
mod table;
mod tap;
mod terminal;
mod tls_args;
mod top;
mod wal;

const EXAMPLE: &str = "\
Example: start the server, then send an event. The answer comes once the event
is on disk, in the log; a moment later it is in telemetryx-data/events.db.
  telemetryx &
  curl localhost:4640/v1/events -H 'content-type: application/json' \\
      -d '{\"name\":\"hello\"}'

All settings with their documentation, as a file to start from:
  telemetryx config --defaults

Exit codes: 0 success, 1 failure, 2 wrong arguments, 78 wrong settings,
130 ended by Ctrl-C (SIGINT), 143 ended by SIGTERM; a server that SIGINT or
SIGTERM shuts down in order exits with 0.";

/// Receives telemetry events from many agents and writes them to the stores that you already run.
#[derive(Parser)]
#[command(name = "telemetryx", version, after_help = EXAMPLE)]
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
    /// Print the settings in effect and where each comes from
    Config(config_command::ConfigArgs),
    /// Check whether a running server is healthy; exit code 0 or 1
    Health(health::HealthArgs),
    /// Show the state of a running server, each second
    Top(top::TopArgs),
    /// Have a running server read its settings again
    Reload(reload::ReloadArgs),
    /// Measure the throughput, latency and cost of a server
    Bench(bench::BenchArgs),
    /// Send the lines of files or standard input as events
    Send(send::SendArgs),
    /// Inspect the write-ahead log, also while the server runs
    Wal(wal::WalArgs),
    /// Show events from the log as they come, beside a running server
    Tap(tap::TapArgs),
    /// List, replay or drop refused events, also while the server runs
    Dead(dead::DeadArgs),
    /// Print the completion script of a shell
    Completions(completions::CompletionsArgs),
    /// Print a manual page, or write all of them
    Man(man::ManArgs),
}

/// Where settings come from; taken before and after the command.
#[derive(Args, Default, Clone)]
#[command(next_help_heading = "Settings")]
struct SettingsArgs {
    /// Settings file [default: $TELEMETRYX_CONFIG, then ./telemetryx.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set one key, such as server.address=0.0.0.0:4640; overrides file and environment
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_and_value)]
    set: Vec<(String, String)>,
    /// Format of log lines on standard error: text or json. $TELEMETRYX_LOG filters them
    #[arg(long, value_name = "FORMAT", value_parser = ["text", "json"], hide_possible_values = true)]
    log_format: Option<String>,
}

impl SettingsArgs {
    /// What stands after the command goes over what stands before it.
    fn merge(&mut self, after: Self) {
        self.config = after.config.or(self.config.take());
        self.set.extend(after.set);
        self.log_format = after.log_format.or(self.log_format.take());
        self.use_log_format();
    }

    /// From now on messages have the format that is asked for: also the one that says that settings are wrong.
    fn use_log_format(&self) {
        if let Some(format) = &self.log_format {
            logging::set_format(if format == "json" { LogFormat::Json } else { LogFormat::Text });
        }
    }

    fn load(&self) -> Result<Resolved, Failure> {
        let resolved = self.read()?;
        logging::set_format(resolved.config.log.format);
        Ok(resolved)
    }
}

impl SettingsArgs {
    /// Reads the settings, and changes nothing about the messages of this process.
    fn read(&self) -> Result<Resolved, ConfigError> {
        let mut set = self.set.clone();
        set.extend(self.log_format.clone().map(|format| ("log.format".to_owned(), format)));
        config::load(self.config.as_deref(), set)
    }
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE, such as server.address=0.0.0.0:4640".to_owned()),
    }
}

/// Why a command failed. Each has its exit code; clap reports most wrong arguments itself.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// Exit 1: the message says whose fault it is.
    #[error("{0}")]
    Failed(String),
    /// Exit 2: an argument is wrong.
    #[error("{0}")]
    Usage(String),
    /// Exit 78, as BSD's EX_CONFIG.
    #[error(transparent)]
    Settings(#[from] ConfigError),
    /// As a shell reports a process that the signal ended.
    #[error("{message}")]
    Interrupted { message: String, signal: u8 },
}

impl Failure {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Failed(_) => ExitCode::from(1),
            Self::Usage(_) => ExitCode::from(2),
            Self::Settings(_) => ExitCode::from(78),
            Self::Interrupted { signal, .. } => ExitCode::from(128 + signal),
        }
    }
}

/// Runs the command that `arguments` (the program's name first) ask for.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let command = Cli::command().term_width(terminal::help_columns());
    let cli = command.try_get_matches_from(arguments).and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match cli {
        Ok(cli) => cli,
        Err(mut error) => {
            hide_secrets(&mut error);
            // Help and version too; nobody can be told if they cannot be printed.
            let _ = error.print();
            return u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from);
        }
    };
    cli.shared.use_log_format();
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            for line in failure.to_string().lines() {
                logging::message(Level::ERROR, line);
            }
            failure.exit_code()
        }
    }
}

/// An argument in a wrong place is not repeated where it may hold a password: of a URL all but scheme and host, of a
/// setting its value.
fn hide_secrets(error: &mut clap::Error) {
    let shown = |value: &ContextValue| match value {
        ContextValue::String(text) if text.contains("://") => Some(scheme_and_host(text)),
        ContextValue::String(text) => text.split_once('=').map(|(key, _)| format!("{key}={HIDDEN}")),
        _ => None,
    };
    // Of an argument that is known, it is not what was given but its name, as in `--set <KEY=VALUE>`.
    let is_unknown = error.kind() == ArgumentErrorKind::UnknownArgument;
    let hidden = |kind| match kind {
        ContextKind::InvalidArg => is_unknown,
        kind => matches!(kind, ContextKind::InvalidValue | ContextKind::InvalidSubcommand),
    };
    let all = error.context().filter(|(kind, _)| hidden(*kind));
    let replaced: Vec<_> = all.filter_map(|(kind, value)| Some((kind, shown(value)?))).collect();
    for (kind, text) in replaced {
        error.insert(kind, ContextValue::String(text));
    }
}

fn scheme_and_host(text: &str) -> String {
    match Url::new(text).parts() {
        Ok(parts) if !parts.hosts.is_empty() => format!("{}://{}", parts.scheme, parts.hosts_text()),
        _ => HIDDEN.to_owned(),
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
            check::run(&shared, args.connect, args.event.as_deref(), args.json)
        }
        Some(Command::Config(args)) => {
            shared.merge(args.settings);
            config_command::run(&shared, args.defaults, args.ddl.as_deref())
        }
        Some(Command::Health(mut args)) => {
            shared.merge(args.settings);
            args.settings = shared;
            health::run(&args)
        }
        Some(Command::Top(mut args)) => {
            shared.merge(args.settings);
            args.settings = shared;
            top::run(&args)
        }
        Some(Command::Reload(args)) => {
            shared.merge(args.settings);
            reload::run(&shared, args.data_dir)
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
        Some(Command::Tap(mut args)) => {
            shared.merge(std::mem::take(&mut args.settings));
            tap::run(&shared, &args)
        }
        Some(Command::Dead(args)) => dead::run(shared, args.command),
        Some(Command::Completions(args)) => completions::run(args.shell),
        Some(Command::Man(args)) => man::run(&args),
    }
}

/// Prints what a command was asked for; control characters in it are escaped, line ends are not. A reader that has seen enough (`| head`) is no failure.
fn print(text: &str) -> Result<(), Failure> {
    print_as_is(escape_lines(text).as_bytes())
}

/// As [`print`], but control characters are not escaped: only for text that is wholly our own.
fn print_as_is(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::Failed(format!("standard output cannot be written: {error}")))
        }
        _ => Ok(()),
    }
}

/// The token in the file, without white space around it.
///
/// # Errors
/// The file cannot be read or holds no token; as a message for a person.
fn read_token(path: &Path) -> Result<Vec<u8>, String> {
    let text = small_file::read(path, Kinds::Any, SETTINGS_FILE_BYTES_MAX).map_err(|error| match error.kind() {
        ErrorKind::FileTooLarge => format!("{}: is too large for a file that contains a token", path.display()),
        _ => format!("{}: {error}", path.display()),
    })?;
    match text.trim_ascii() {
        b"" => Err(format!("{}: contains no token", path.display())),
        token => Ok(token.to_vec()),
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

    #[test]
    fn the_arguments_fit_together() {
        Cli::command().debug_assert();
    }

    /// Calls `each` with the help of the command and of all below it, long and short.
    fn every_help(command: &mut clap::Command, each: &mut impl FnMut(&str, &str)) {
        let name = command.get_name().to_owned();
        for help in [command.render_help(), command.render_long_help()] {
            each(&name, &help.to_string());
        }
        for below in command.get_subcommands_mut() {
            every_help(below, each);
        }
    }

    #[test]
    fn help_fits_the_terminal() {
        for columns in [70, 80, 100] {
            let mut command = Cli::command().term_width(columns);
            command.build();
            let (mut helps, mut widest) = (0, 0);
            every_help(&mut command, &mut |name, help| {
                helps += 1;
                for line in help.lines() {
                    widest = widest.max(line.chars().count());
                    assert!(line.chars().count() <= columns, "{name}, {columns} columns: {line}");
                }
            });
            assert!(helps > 20 && widest > columns / 2, "{helps} helps, {widest} wide");
        }
    }

    #[test]
    fn help_is_a_command() {
        for line in
            [&["telemetryx", "help"][..], &["telemetryx", "help", "send"], &["telemetryx", "help", "wal", "inspect"]]
        {
            let error = Cli::try_parse_from(line).err().unwrap();
            assert_eq!(error.kind(), clap::error::ErrorKind::DisplayHelp, "{line:?}: {error}");
            let name = line.last().unwrap().replace("help", "telemetryx");
            assert!(error.to_string().contains("Usage: telemetryx") && error.to_string().contains(&name));
        }
        let unknown = Cli::try_parse_from(["telemetryx", "help", "sned"]).err().unwrap();
        assert_eq!(unknown.exit_code(), 2);
    }

    #[test]
    fn a_token_is_read_without_the_white_space_around_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, " secret\r\n\n").unwrap();
        assert_eq!(read_token(&path), Ok(b"secret".to_vec()));
        std::fs::write(&path, "\n").unwrap();
        assert!(read_token(&path).unwrap_err().ends_with("token: contains no token"));
        std::fs::write(&path, vec![b'x'; SETTINGS_FILE_BYTES_MAX as usize + 1]).unwrap();
        assert!(read_token(&path).unwrap_err().contains("is too large"));
        assert!(read_token(Path::new("no-such-file")).unwrap_err().starts_with("no-such-file: No such file"));
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
