//! `telemetryx check`: are the settings sound, and with `--connect`, would events get where they lead?
//!
//! Nothing is changed: no table is made, no position taken, so that it may be run beside a server.

mod findings;
mod log;
mod preview;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Args;

use self::findings::{Finding, Findings, print_problems};
use super::{Failure, SettingsArgs};
use crate::config::{Config, Resolved};
use crate::counted::Counted;
use crate::escape::Escaped;
use crate::limits::HTTP_ACK_TIMEOUT;
use crate::server::certificates::Expiry;
use crate::server::{access, certificates};
use crate::settings::format_duration;
use crate::sink::{self, Identity, SinkSettings};
use crate::wal::{DirStorage, inspect};

#[derive(Args)]
pub(super) struct CheckArgs {
    /// Also read the whole log and connect to every sink; changes nothing
    #[arg(long)]
    pub(super) connect: bool,
    /// Show what each sink gets of the events in FILE (NDJSON), and why; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "connect")]
    pub(super) event: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) settings: SettingsArgs,
}

pub(super) fn run(settings: &SettingsArgs, connect: bool, event: Option<&Path>, json: bool) -> Result<(), Failure> {
    let mut findings = Findings::new(json);
    let settings = match load(settings, &mut findings) {
        Err(Failure::Settings(error)) if json => {
            print_problems(&error)?;
            return Err(error.into());
        }
        loaded => loaded?,
    };
    if let Some(path) = event {
        return preview::run(path, &settings.config, json);
    }
    if connect {
        ask(&settings.config, &mut findings)?;
    }
    findings.document(&settings)?;
    match findings.failed() {
        0 => Ok(()),
        failed => Err(Failure::Failed(format!("{failed} of these failed; see above"))),
    }
}

/// The settings, once they and the files that they name are valid.
fn load(settings: &SettingsArgs, findings: &mut Findings) -> Result<Resolved, Failure> {
    let settings = settings.load()?;
    let server = &settings.config.server;
    let tokens = access::read_tokens(&settings.config)?;
    access::read_pages_token(server)?;
    access::check_files(&settings.config)?;
    let acceptor = certificates::acceptor(&settings.config, settings.config.syslog.enabled)?;
    findings.summary(&settings)?;
    if let Some(warning) = access::warning(server.address, &tokens, &settings.config) {
        findings.warn("address", &server.address.to_string(), warning)?;
    }
    for sink in &settings.config.sinks {
        if let Some(warning) = window_warning(sink) {
            findings.warn("sink", &sink.name, &warning)?;
        }
    }
    if let (Some(acceptor), Some(path)) = (acceptor, &settings.config.tls.cert_file) {
        findings.add(certificate(path, acceptor.not_after(), SystemTime::now()))?;
    }
    Ok(settings)
}

/// Where a request or command that waits for *delivered* would wait for longer than it does for an acknowledgement.
fn window_warning(sink: &SinkSettings) -> Option<String> {
    let (max_age, timeout) = (sink.batch.max_age, HTTP_ACK_TIMEOUT);
    (sink.required && max_age >= timeout / 2).then(|| {
        format!(
            "gathers for \"{}\": a request with ack=delivered may end with 504 after {} s although its events are stored later, \
             and `telemetryx send --ack delivered` may fail; set its required = false, or a batch.max_age below {} s",
            format_duration(max_age),
            timeout.as_secs(),
            timeout.as_secs() / 2
        )
    })
}

/// Until when the certificate of the server is valid.
fn certificate(path: &Path, not_after: i64, now: SystemTime) -> Finding {
    let time = certificates::shown(not_after);
    let (ok, message) = match Expiry::of(not_after, now) {
        Expiry::Far => (true, format!("valid until {time}")),
        Expiry::Near(days) => (true, format!("warning: valid until {time}, for {}: renew it", Counted(days, "day"))),
        Expiry::Over => (false, format!("expired at {time}: clients reject it, renew it")),
    };
    Finding { subject: "certificate", name: path.display().to_string(), ok, message }
}

fn ask(config: &Config, findings: &mut Findings) -> Result<(), Failure> {
    let mut server_id = None;
    let (message, ok) = match sink::creatable::check_directory(&config.data_dir) {
        Ok(()) => ("ok".to_owned(), true),
        Err(why) => (why, false),
    };
    findings.add(Finding { subject: "data_dir", name: config.data_dir.display().to_string(), ok, message })?;
    if config.wal.enabled {
        let dir = config.data_dir.join("wal");
        let (message, ok) = match inspect(&DirStorage::existing(&dir), true) {
            Ok(found) => {
                server_id = found.server_id;
                log::report(&found, &dir)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => ("ok, none yet".to_owned(), true),
            Err(error) => (format!("cannot be read: {error}"), false),
        };
        findings.add(Finding { subject: "log", name: dir.display().to_string(), ok, message })?;
    }
    // Another owner than any server's: what is only looked at is fenced from nobody.
    let identity = Identity { server_id: server_id.unwrap_or_default(), owner: [0; 16], log_end: u64::MAX };
    for settings in &config.sinks {
        let mut sink = settings.open(&identity);
        let (message, ok) = match sink.probe() {
            Ok(()) => {
                let output = settings.config.output().map(|output| format!(", {output}"));
                (format!("{}{}", sink.probed(), output.unwrap_or_default()), true)
            }
            Err(unavailable) => (Escaped(unavailable).to_string(), false),
        };
        findings.add(Finding { subject: "sink", name: settings.name.clone(), ok, message })?;
    }
    Ok(())
}
