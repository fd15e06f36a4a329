//! `telemetryx reload`: a running server reads its settings again.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use clap::Args;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use super::{Failure, SettingsArgs, print};
use crate::limits::{RELOAD_ANSWER_INTERVAL, RELOAD_ANSWER_TIMEOUT};
use crate::server::instance::{self, Report};

/// The server is asked by SIGUSR1: on a terminal, SIGHUP would end it.
#[derive(Args)]
pub(super) struct ReloadArgs {
    /// Data directory of the server [default: data_dir of the settings]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(super) settings: SettingsArgs,
}

pub(super) fn run(settings: &SettingsArgs, data_dir: Option<PathBuf>) -> Result<(), Failure> {
    // The server reads the same settings, and refuses them with the same problems.
    let data_dir = match data_dir {
        Some(data_dir) => data_dir,
        None => settings.load()?.config.data_dir,
    };
    let failed = |error: instance::NotFound| Failure::Failed(error.to_string());
    let pid = instance::find(&data_dir).map_err(failed)?;
    let before = read_report(&data_dir)?;
    ask(pid)?;
    let until = Instant::now() + RELOAD_ANSWER_TIMEOUT;
    loop {
        let report = read_report(&data_dir)?;
        // One that had begun before may have read the settings before.
        if report.ended > before.begun {
            return answer(&report);
        }
        if instance::find(&data_dir).map_err(failed)? != pid {
            return Err(Failure::Failed(
                "the server was started again meanwhile, with its present settings".to_owned(),
            ));
        }
        if Instant::now() >= until {
            let seconds = RELOAD_ANSWER_TIMEOUT.as_secs();
            return Err(Failure::Failed(format!("the server has not answered within {seconds} s: see its log lines")));
        }
        thread::sleep(RELOAD_ANSWER_INTERVAL);
    }
}

fn read_report(data_dir: &Path) -> Result<Report, Failure> {
    let failed = |error| Failure::Failed(format!("the answer in {} cannot be read: {error}", data_dir.display()));
    Report::read(data_dir).map_err(failed)
}

fn ask(pid: u32) -> Result<(), Failure> {
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let sent = process.map_or(Err(Errno::SRCH), |process| kill_process(process, Signal::USR1));
    sent.map_err(|error| {
        let hint = if error == Errno::PERM { " (run this command as the user of the server)" } else { "" };
        Failure::Failed(format!("the server, process {pid}, cannot be asked: {error}{hint}"))
    })
}

fn answer(report: &Report) -> Result<(), Failure> {
    let lines = report.lines.join("\n");
    if report.refused {
        return Err(Failure::Failed(format!("{lines}\nsettings not reloaded, the earlier ones stay in force")));
    }
    print(&(lines + "\n"))
}
