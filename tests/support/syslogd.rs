//! rsyslogd and syslog-ng as processes of the test: with settings of their own, on loopback, never the system's.
//!
//! They read the lines of a file and forward them. `tools/syslog/install`, which `tools/test` runs, has unpacked them beside
//! what cargo builds.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// How messages are forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forward {
    /// The old form (RFC 3164), one message per line of TCP.
    Lines,
    /// RFC 5424 with octet counting over TCP.
    Counted,
    /// The old form, one message per datagram.
    Datagrams,
}

/// A running daemon. Dropping it ends it.
pub(crate) struct Daemon {
    process: Child,
    directory: tempfile::TempDir,
}

/// Where the programs are.
fn unpacked() -> PathBuf {
    // The test is in target/debug/deps.
    let test = std::env::current_exe().unwrap();
    let target = test.ancestors().nth(3).unwrap().join("syslog");
    assert!(target.join("usr/sbin/rsyslogd").exists(), "{} has no rsyslogd: run tools/test", target.display());
    target
}

impl Daemon {
    /// Starts rsyslogd, which gives the lines of `file` to this action.
    pub(crate) fn rsyslogd_with(file: &Path, action: &str) -> Self {
        let multiarch = fs::read_dir(unpacked().join("usr/lib")).unwrap().filter_map(Result::ok);
        let modules = multiarch.map(|entry| entry.path().join("rsyslog")).find(|path| path.join("imfile.so").exists());
        let modules = modules.expect("the modules of rsyslogd");
        Self::start(&unpacked().join("usr/sbin/rsyslogd"), |directory| {
            let directory = directory.display();
            let settings = format!(
                "global(workDirectory=\"{directory}\" maxMessageSize=\"64k\")\n\
                 main_queue(queue.workerThreads=\"1\")\n\
                 module(load=\"{}/imfile\")\n\
                 input(type=\"imfile\" File=\"{}\" Tag=\"app[7]:\" Facility=\"local3\" Severity=\"warning\")\n{action}\n",
                modules.display(),
                file.display(),
            );
            let pid = format!("{directory}/pid");
            (settings, ["-n", "-i", &pid, "-M", modules.to_str().unwrap(), "-f"].map(str::to_owned).to_vec())
        })
    }

    /// Starts rsyslogd, which forwards the lines of `file` to `server`.
    pub(crate) fn rsyslogd(file: &Path, forward: Forward, server: SocketAddr) -> Self {
        let (protocol, more) = match forward {
            Forward::Lines => ("tcp", ""),
            Forward::Counted => ("tcp", r#"TCP_Framing="octet-counted" template="RSYSLOG_SyslogProtocol23Format""#),
            Forward::Datagrams => ("udp", ""),
        };
        let (ip, port) = (server.ip(), server.port());
        let action = format!("action(type=\"omfwd\" target=\"{ip}\" port=\"{port}\" protocol=\"{protocol}\" {more})");
        Self::rsyslogd_with(file, &action)
    }

    /// Starts syslog-ng, which forwards the lines of `file` to `server`.
    pub(crate) fn syslog_ng(file: &Path, forward: Forward, server: SocketAddr) -> Self {
        let (ip, port) = (server.ip(), server.port());
        let destination = match forward {
            Forward::Lines => format!("network(\"{ip}\" port({port}) transport(\"tcp\"))"),
            Forward::Counted => format!("syslog(\"{ip}\" port({port}) transport(\"tcp\"))"),
            Forward::Datagrams => format!("network(\"{ip}\" port({port}) transport(\"udp\"))"),
        };
        Self::syslog_ng_with(
            file,
            &format!(
                "destination d {{ {destination}; }};\nlog {{ source(s_src); destination(d); flags(flow-control); }};"
            ),
        )
    }

    /// Starts syslog-ng with these settings, in which `s_src` is the source of the lines of `file`.
    pub(crate) fn syslog_ng_with(file: &Path, destination: &str) -> Self {
        let library = unpacked().join("usr/lib/syslog-ng");
        let mut modules = fs::read_dir(&library).unwrap().filter_map(Result::ok).map(|entry| entry.path());
        let modules = modules.find(|path| path.join("libaffile.so").exists()).expect("the modules of syslog-ng");
        let version = modules.file_name().unwrap().to_str().unwrap().to_owned();
        Self::start(&unpacked().join("usr/sbin/syslog-ng"), |directory| {
            let settings = format!(
                "@version: {version}\noptions {{ log-msg-size(65536); }};\n\
                 source s_src {{ file(\"{}\" follow-freq(1) flags(no-parse) program-override(\"app\") \
                 default-facility(local3) default-priority(warning)); }};\n\
                 {destination}\n",
                file.display(),
            );
            let directory = directory.display();
            let arguments = [
                "-F".to_owned(),
                "--no-caps".to_owned(),
                format!("--module-path={}", modules.display()),
                format!("--persist-file={directory}/persist"),
                format!("--control={directory}/control"),
                format!("--pidfile={directory}/pid"),
                "-f".to_owned(),
            ];
            (settings, arguments.to_vec())
        })
    }

    /// `settings`: what is in the settings file, and the arguments before its name.
    fn start(program: &Path, settings: impl FnOnce(&Path) -> (String, Vec<String>)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (settings, arguments) = settings(directory.path());
        let file = directory.path().join("settings");
        fs::write(&file, settings).unwrap();
        let directories = ["usr/lib", "lib"].iter().filter_map(|name| fs::read_dir(unpacked().join(name)).ok());
        let libraries = directories.flatten().filter_map(Result::ok).map(|entry| entry.path());
        let libraries: Vec<_> = libraries.filter(|path| path.is_dir()).map(|path| path.display().to_string()).collect();
        let process = Command::new(program)
            .args(arguments)
            .arg(&file)
            .env("LD_LIBRARY_PATH", libraries.join(":"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(directory.path().join("stderr")).unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        Self { process, directory }
    }

    /// Panics with what it has reported if it has ended.
    pub(crate) fn assert_runs(&mut self) {
        if let Some(status) = self.process.try_wait().unwrap() {
            panic!("the daemon ended ({status}):\n{}", self.log());
        }
    }

    /// What it has reported.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("stderr")).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            println!("the daemon reported:\n{}", self.log());
        }
    }
}
