//! Faults in a process's system calls, put there by `strace`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::server::wait_until;

const ATTACH_TIMEOUT: Duration = Duration::from_secs(20);

/// A running strace. Dropping it lets its process go on as if nothing had been.
pub(crate) struct Strace {
    child: Child,
}

impl Strace {
    /// Attaches to the process and injects `fault` (as in `strace -e inject=fdatasync:…`) into calls on this file.
    /// An error: the reason why it cannot be done here.
    pub(crate) fn inject(pid: u32, fault: &str, file: &Path) -> Result<Self, String> {
        Self::attach(pid, fault, Some(file))
    }

    /// The same for calls on any file or socket.
    pub(crate) fn inject_everywhere(pid: u32, fault: &str) -> Result<Self, String> {
        Self::attach(pid, fault, None)
    }

    fn attach(pid: u32, fault: &str, file: Option<&Path>) -> Result<Self, String> {
        let call = fault.split(':').next().unwrap_or(fault);
        let child = Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-p", &pid.to_string(), "-e", &format!("trace={call}")])
            .args(["-e", &format!("inject={fault}")])
            .args(file.iter().flat_map(|file| [Path::new("-P"), file]))
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("strace: {error}"))?;
        let mut strace = Self { child };
        let attached = wait_until(ATTACH_TIMEOUT, || all_threads_are_traced(pid) || strace.has_ended());
        if attached && !strace.has_ended() {
            return Ok(strace);
        }
        let words = strace.child.stderr.take().map(std::io::read_to_string);
        Err(format!("strace cannot attach: {words:?}"))
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        // SIGTERM: it detaches. SIGKILL would, too, but might leave a thread stopped.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

fn all_threads_are_traced(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    let mut statuses = threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("status")).ok());
    let traced = |status: String| status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"));
    statuses.all(traced)
}

/// The newest segment of the log in `data_dir`.
pub(crate) fn newest_segment(data_dir: &Path) -> PathBuf {
    let files = std::fs::read_dir(data_dir.join("wal")).expect("there is a log").map(|entry| entry.unwrap().path());
    files
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .max()
        .expect("a log has a segment")
}
