//! `telemetryx check`: are the settings sound, and with `--connect`, would events get where they lead?
//!
//! Nothing is changed: no table is made, no position taken, so that it may be run beside a server.

mod log;

use std::fmt::Write as _;
use std::io::ErrorKind;

use clap::Args;

use super::{Failure, SettingsArgs, print};
use crate::config::Config;
use crate::escape::Escaped;
use crate::server::access;
use crate::sink::{self, Identity};
use crate::wal::{DirStorage, inspect};

#[derive(Args)]
pub struct CheckArgs {
    /// Read the whole log and ask every sink, too; changes nothing
    #[arg(long)]
    pub(super) connect: bool,
    #[command(flatten)]
    pub(super) settings: SettingsArgs,
}

pub(super) fn run(settings: &SettingsArgs, connect: bool) -> Result<(), Failure> {
    let settings = settings.load()?;
    let server = &settings.config.server;
    let tokens = access::read_tokens(server)?;
    access::check_files(&settings.config)?;
    print(&format!("{}\n", settings.summary()))?;
    if let Some(warning) = access::warning(server.address, &tokens, server) {
        print(&format!("warning: {}: {warning}\n", server.address))?;
    }
    if connect { ask(&settings.config) } else { Ok(()) }
}

fn ask(config: &Config) -> Result<(), Failure> {
    let mut failed = 0;
    let mut server_id = None;
    if config.wal.enabled {
        let dir = config.data_dir.join("wal");
        let (said, sound) = match inspect(&DirStorage::existing(&dir), true) {
            Ok(found) => {
                server_id = found.server_id;
                log::report(&found, &dir)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => ("ok, none yet".to_owned(), true),
            Err(error) => (format!("cannot be read: {error}"), false),
        };
        failed += u32::from(!sound);
        print(&format!("log {}: {said}\n", dir.display()))?;
    }
    // Another owner than any server's: what is only looked at is fenced from nobody.
    let identity = Identity { server_id: server_id.unwrap_or_default(), owner: [0; 16], log_end: u64::MAX };
    for settings in &config.sinks {
        let mut line = format!("sink {}: ", settings.name);
        // Writing into a String cannot fail.
        let _ = match sink::open(&settings.name, &settings.kind, &identity).probe() {
            Ok(()) => {
                writeln!(line, "ok{}", settings.kind.output().map(|output| format!(", {output}")).unwrap_or_default())
            }
            Err(unavailable) => {
                failed += 1;
                writeln!(line, "{}", Escaped(unavailable))
            }
        };
        print(&line)?;
    }
    match failed {
        0 => Ok(()),
        _ => Err(Failure::Failed(format!("{failed} of these failed; see above"))),
    }
}
