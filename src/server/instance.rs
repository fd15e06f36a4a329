//! The server that runs in a data directory, as other processes find it: by the lock on the directory, and by the process in it.
//! Its answer to `telemetryx reload` is beside it.
//!
//! ```text
//!  data_dir/lock          locked while the server runs: process id, and the namespace in which that is its id
//!  data_dir/reload.json   { begun, ended, refused, lines }: the last reload
//!
//!  telemetryx reload      reads `begun` ─▶ sends the signal ─▶ waits for an `ended` above it ─▶ prints the lines
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::ServerError;
use crate::folder;
use crate::limits::SETTINGS_FILE_BYTES_MAX;
use crate::small_file;

const LOCK: &str = "lock";
const REPORT: &str = "reload.json";
/// A command that looks whether a server runs holds the lock for a moment.
const LOCK_ATTEMPTS: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// Names the namespace in which processes have their ids.
const PID_NAMESPACE: &str = "/proc/self/ns/pid";

/// Keeps a second process out of the data directory for as long as it lives.
pub(super) struct Lock(File);

impl Lock {
    /// Creates the directory if it is missing, and locks it.
    pub(super) fn new(data_dir: &Path) -> Result<Self, ServerError> {
        let failed = |error| ServerError::DataDir { path: data_dir.to_owned(), error };
        folder::create_private(data_dir).map_err(failed)?;
        // Not truncated: it may be that of a server that runs.
        let open = OpenOptions::new().write(true).create(true).truncate(false).open(data_dir.join(LOCK));
        let file = open.map_err(failed)?;
        for attempt in 1.. {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if attempt < LOCK_ATTEMPTS => thread::sleep(LOCK_PAUSE),
                Err(TryLockError::WouldBlock) => return Err(ServerError::Locked(data_dir.to_owned())),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
        }
        file.set_len(0).map_err(failed)?;
        match fs::remove_file(data_dir.join(REPORT)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(Self(file)),
        }
    }

    /// From now on the process can be asked for a reload: its signals are handled.
    pub(super) fn publish(&self) -> io::Result<()> {
        let text = format!("{}\n{}\n", std::process::id(), pid_namespace());
        (&self.0).rewind()?;
        (&self.0).write_all(text.as_bytes())
    }
}

/// Empty where there is no /proc.
fn pid_namespace() -> String {
    fs::read_link(PID_NAMESPACE).map(|link| link.display().to_string()).unwrap_or_default()
}

/// Why the server of a data directory cannot be asked for anything.
#[derive(Debug, thiserror::Error)]
pub enum NotFound {
    /// Nobody holds the lock.
    #[error("no server runs with the data directory {0}: start it, or name its data directory with --data-dir")]
    NotRunning(PathBuf),
    /// Its signals are not handled yet.
    #[error("the server of the data directory {0} has not started yet: try again in a moment")]
    Starting(PathBuf),
    /// Its process id means another process here.
    #[error("the server of the data directory {0} runs in another container: run this command there")]
    ElsewhereIn(PathBuf),
    /// The lock cannot be read.
    #[error("{}: {error}{}", path.display(), hint(error))]
    Unreadable {
        /// The lock file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::PermissionDenied => "; run this command as the user of the server",
        _ => "",
    }
}

/// The process id of the server that holds the lock on `data_dir`.
///
/// # Errors
/// There is none, or it cannot be reached from here.
pub fn find(data_dir: &Path) -> Result<u32, NotFound> {
    let path = data_dir.join(LOCK);
    let unreadable = |error| NotFound::Unreadable { path: path.clone(), error };
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(NotFound::NotRunning(data_dir.to_owned())),
        Err(error) => return Err(unreadable(error)),
    };
    match file.try_lock_shared() {
        Ok(()) => return Err(NotFound::NotRunning(data_dir.to_owned())),
        Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(error)) => return Err(unreadable(error)),
    }
    // Whoever holds the lock has emptied the file before: what is in it is its own.
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(unreadable)?;
    let mut lines = text.lines();
    let Some(pid) = lines.next().and_then(|line| line.parse().ok()) else {
        return Err(NotFound::Starting(data_dir.to_owned()));
    };
    match lines.next() {
        Some(namespace) if namespace == pid_namespace() => Ok(pid),
        _ => Err(NotFound::ElsewhereIn(data_dir.to_owned())),
    }
}

/// What became of the last reload.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Number of the last reload that has begun.
    pub begun: u64,
    /// Number of the last reload that has ended.
    pub ended: u64,
    /// The earlier settings stay in force.
    pub refused: bool,
    /// For the person who asked for it.
    pub lines: Vec<String>,
}

impl Report {
    /// The report of the server that runs in `data_dir`; all at zero where there was no reload yet.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(data_dir: &Path) -> io::Result<Self> {
        let text = match small_file::read_text(&data_dir.join(REPORT), SETTINGS_FILE_BYTES_MAX) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error),
        };
        let value: Value = serde_json::from_str(&text).map_err(io::Error::other)?;
        let number = |key: &str| value.get(key).and_then(Value::as_u64).unwrap_or_default();
        let lines = value.get("lines").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        Ok(Self {
            begun: number("begun"),
            ended: number("ended"),
            refused: value.get("refused") == Some(&Value::Bool(true)),
            lines: lines.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        })
    }

    /// Replaces the report as a whole.
    pub(super) fn write(&self, data_dir: &Path) -> io::Result<()> {
        let Self { begun, ended, refused, lines } = self;
        let text = json!({ "begun": begun, "ended": ended, "refused": refused, "lines": lines }).to_string();
        let new = data_dir.join(format!("{REPORT}.new"));
        fs::write(&new, text)?;
        fs::rename(new, data_dir.join(REPORT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_found_while_it_holds_the_lock_and_can_be_asked() {
        let directory = tempfile::tempdir().unwrap();
        let data_dir = directory.path().join("data");
        assert!(matches!(find(&data_dir), Err(NotFound::NotRunning(_))));
        let lock = Lock::new(&data_dir).unwrap();
        assert!(matches!(find(&data_dir), Err(NotFound::Starting(_))));
        lock.publish().unwrap();
        assert_eq!(find(&data_dir).unwrap(), std::process::id());
        // A second server, which does not start, changes nothing.
        assert!(matches!(Lock::new(&data_dir), Err(ServerError::Locked(_))));
        assert_eq!(find(&data_dir).unwrap(), std::process::id());
        fs::write(data_dir.join(LOCK), "7\npid:[1]\n").unwrap();
        assert!(matches!(find(&data_dir), Err(NotFound::ElsewhereIn(_))), "7 is another process here");
        drop(lock);
        assert!(matches!(find(&data_dir), Err(NotFound::NotRunning(_))));
        let lock = Lock::new(&data_dir).unwrap();
        assert!(matches!(find(&data_dir), Err(NotFound::Starting(_))), "not what the one before has left");
        drop(lock);
    }

    #[test]
    fn an_unreadable_lock_is_reported_with_the_next_step() {
        let unreadable = |kind: ErrorKind| NotFound::Unreadable { path: "/data/lock".into(), error: kind.into() };
        assert!(
            unreadable(ErrorKind::PermissionDenied)
                .to_string()
                .ends_with("; run this command as the user of the server")
        );
        assert!(!unreadable(ErrorKind::IsADirectory).to_string().contains("user of the server"));
    }

    #[test]
    fn a_report_is_read_as_it_was_written_and_ends_with_its_server() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Report::read(directory.path()).unwrap(), Report::default());
        let report = Report { begun: 2, ended: 1, refused: true, lines: vec!["a \"b\"\n".to_owned(), "c".to_owned()] };
        report.write(directory.path()).unwrap();
        assert_eq!(Report::read(directory.path()).unwrap(), report);
        let _lock = Lock::new(directory.path()).unwrap();
        assert_eq!(Report::read(directory.path()).unwrap(), Report::default());
    }
}
