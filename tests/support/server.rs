//! Starts the real server as a process and waits for what it says.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// From start to the start line; a debug build that recovers a log on a busy machine needs a while.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two looks at a condition that nobody announces.
const POLL: Duration = Duration::from_millis(5);

/// A running server. Dropping it kills it.
pub(crate) struct Server {
    process: Process,
    address: SocketAddr,
}

/// A server that has been started and may not listen yet. Dropping it kills it.
pub(crate) struct Process {
    child: Child,
    log: Arc<Log>,
}

/// The lines of standard error so far; `None` behind the last one.
#[derive(Default)]
struct Log {
    lines: Mutex<Vec<Option<String>>>,
    grown: Condvar,
}

/// An address on which a server can be started again and again: nobody else listens on this process's own part of
/// 127.0.0.0/8, and no connection out of this machine ever takes a port of it.
pub(crate) fn own_address() -> SocketAddr {
    // After the default port, which a test needs.
    static NEXT_PORT: AtomicU16 = AtomicU16::new(4641);
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    (Ipv4Addr::new(127, 64 | high, middle, low), NEXT_PORT.fetch_add(1, Ordering::Relaxed)).into()
}

impl Server {
    /// Starts `telemetryx` with its log and its default sink in `data_dir`, on a free port of 127.0.0.1 unless
    /// `settings` say otherwise: they are further `section.key=value`. Panics with what the server said if it does not
    /// listen in time.
    pub(crate) fn start(data_dir: &Path, settings: &[&str]) -> Self {
        Self::launch(data_dir, settings).listening()
    }

    /// Starts the process and does not wait for it.
    pub(crate) fn launch(data_dir: &Path, settings: &[&str]) -> Process {
        Self::launch_with(data_dir, settings, &[])
    }

    /// Starts the process with these variables in its environment, and does not wait for it.
    pub(crate) fn launch_with(data_dir: &Path, settings: &[&str], environment: &[(&str, &str)]) -> Process {
        Self::launch_by(Command::new(env!("CARGO_BIN_EXE_telemetryx")), data_dir, settings, environment)
    }

    /// Starts the server with this limit of open files, soft and hard.
    pub(crate) fn start_with_open_files(data_dir: &Path, settings: &[&str], open_files: u32) -> Self {
        let mut shell = Command::new("sh");
        // The shell becomes the server: the process id stays.
        shell.args(["-c", r#"ulimit -n "$0"; exec "$@""#, &open_files.to_string()]);
        shell.arg(env!("CARGO_BIN_EXE_telemetryx"));
        Self::launch_by(shell, data_dir, settings, &[]).listening()
    }

    /// Starts the server where /proc has nothing but processes, as with `ProcSubset=pid` in a unit of systemd; needs root.
    /// `None`: it cannot be done here.
    pub(crate) fn start_with_proc_of_processes(data_dir: &Path, settings: &[&str]) -> Option<Self> {
        const MOUNT: &str = "mount -t proc -o subset=pid proc /proc";
        let shell = |script: &str| {
            let mut shell = Command::new("unshare");
            shell.args(["--mount", "sh", "-c", &format!("{MOUNT} && {script}")]);
            shell
        };
        let tried = shell("test ! -e /proc/stat").stderr(Stdio::null()).status();
        if !tried.is_ok_and(|status| status.success()) {
            return None;
        }
        let mut command = shell(r#"exec "$0" "$@""#);
        command.arg(env!("CARGO_BIN_EXE_telemetryx"));
        Some(Self::launch_by(command, data_dir, settings, &[]).listening())
    }

    fn launch_by(mut command: Command, data_dir: &Path, settings: &[&str], environment: &[(&str, &str)]) -> Process {
        // Tests that connect thousands of times share this process with others.
        super::raise_open_files();
        let data_dir_setting = format!("data_dir={}", data_dir.to_str().expect("a test's directory has a UTF-8 name"));
        for setting in [&data_dir_setting as &str, "server.address=127.0.0.1:0"].iter().chain(settings) {
            command.args(["--set", setting]);
        }
        // No settings but these: neither of the environment, nor a telemetryx.toml that lies where the tests run.
        command
            .env_remove("TELEMETRYX_CONFIG")
            .envs(environment.iter().copied())
            .current_dir(data_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the server's binary starts");
        let log = Arc::new(Log::default());
        let stderr = child.stderr.take().expect("standard error is piped");
        thread::spawn({
            let log = Arc::clone(&log);
            move || log.collect(stderr)
        });
        Process { child, log }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.child.id()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the server has written to standard error.
    pub(crate) fn log(&self) -> String {
        self.process.log.text()
    }

    /// The same once it contains `text`: what a server writes is there a moment after what it does.
    pub(crate) fn log_with(&self, text: &str) -> String {
        wait_until(START_TIMEOUT, || self.log().contains(text));
        self.log()
    }

    /// Asks for an orderly end (SIGTERM).
    pub(crate) fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends the signal named so, as in `kill -TERM`.
    pub(crate) fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// The process, however it is doing.
    pub(crate) fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Ends the process at once (SIGKILL) and waits for it.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Waits for the process to end by itself. Panics with its log when it does not in time.
    pub(crate) fn wait(&mut self, timeout: Duration) -> ExitStatus {
        self.process.wait(timeout)
    }
}

/// Whether the process handles the signal of this number itself, such as 20 (SIGTSTP): `SigCgt` of /proc.
pub(crate) fn handles(pid: u32, signal: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

impl Process {
    /// Waits until it listens. Panics with what the server said if it does not in time.
    pub(crate) fn listening(mut self) -> Server {
        match self.log.wait_for(bound_address, START_TIMEOUT) {
            Some(address) => Server { process: self, address },
            None => {
                let _ = self.child.kill();
                let status = self.child.wait();
                panic!("the server did not listen within {START_TIMEOUT:?} ({status:?}):\n{}", self.log.text());
            }
        }
    }

    /// Sends the signal named so, as in `kill -TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status();
        assert!(status.expect("there is a kill command").success(), "the server is gone:\n{}", self.log.text());
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended yet.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("the server is our child").is_none()
    }

    /// Whether it has begun to listen.
    pub(crate) fn listens(&self) -> bool {
        self.log.wait_for(bound_address, Duration::ZERO).is_some()
    }

    /// Ends the process at once (SIGKILL) and waits for it.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("the server can be killed");
        self.child.wait().expect("a killed server ends");
    }

    /// Waits for the process to end by itself. Panics with its log when it does not in time.
    pub(crate) fn wait(&mut self, timeout: Duration) -> ExitStatus {
        let mut exited = None;
        let ended = wait_until(timeout, || {
            exited = self.child.try_wait().expect("the server is our child");
            exited.is_some()
        });
        assert!(ended, "the server still runs after {timeout:?}:\n{}", self.log.text());
        self.log.wait_for_end();
        exited.expect("it has ended")
    }

    /// What the process has written to standard error.
    pub(crate) fn log(&self) -> String {
        self.log.text()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill(); // fails only if it has ended
        let _ = self.child.wait();
        if thread::panicking() {
            println!("the server said:\n{}", self.log.text());
        }
    }
}

impl Log {
    /// Until the last line of a process that has ended is here.
    fn wait_for_end(&self) {
        let lines = self.lines.lock().expect("collecting does not panic");
        let goes_on = |lines: &mut Vec<Option<String>>| lines.last().is_none_or(Option::is_some);
        drop(self.grown.wait_timeout_while(lines, START_TIMEOUT, goes_on));
    }

    fn collect(&self, stderr: ChildStderr) {
        let lines = BufReader::new(stderr).lines().map_while(Result::ok).map(Some);
        for line in lines.chain([None]) {
            self.lines.lock().expect("collecting does not panic").push(line);
            self.grown.notify_all();
        }
    }

    /// The first `Some` that `find` makes of a line; None if the log ends, or the time, without one.
    fn wait_for<T>(&self, find: impl Fn(&str) -> Option<T>, timeout: Duration) -> Option<T> {
        let deadline = Instant::now() + timeout;
        let mut lines = self.lines.lock().expect("collecting does not panic");
        loop {
            if let Some(found) = lines.iter().flatten().find_map(|line| find(line)) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || lines.last().is_some_and(Option::is_none) {
                return None;
            }
            lines = self.grown.wait_timeout(lines, left).expect("collecting does not panic").0;
        }
    }

    fn text(&self) -> String {
        let lines = self.lines.lock().expect("collecting does not panic");
        lines.iter().flatten().flat_map(|line| [line, "\n"]).collect()
    }
}

/// `listening on 127.0.0.1:4640 (frames, HTTP) · …`
fn bound_address(line: &str) -> Option<SocketAddr> {
    line.split_once("listening on ")?.1.split_whitespace().next()?.parse().ok()
}

/// Looks again and again until the condition holds. False: not within `timeout`.
pub(crate) fn wait_until(timeout: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + timeout;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(POLL);
    }
}

/// Memory of a process that is in RAM.
pub(crate) fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}
