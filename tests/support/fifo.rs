//! A `file` sink's FIFO: a sink that takes nothing, until the test reads it.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::{self, JoinHandle};

use super::ledger::Row;

/// A FIFO that somebody has open, so that the sink can open it, and nobody reads.
pub(crate) struct Fifo {
    path: PathBuf,
    held: File,
}

/// Reads the FIFO until told to stop, and keeps what it reads.
pub(crate) struct Reader {
    read: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    path: PathBuf,
    thread: JoinHandle<Lines>,
}

/// What came, in its order.
#[derive(Default)]
pub(crate) struct Lines {
    /// The first copy of each event.
    pub events: Vec<serde_json::Value>,
    /// Lines that came again, as at least once allows: same log, same position.
    pub repeated: u64,
}

impl Fifo {
    pub(crate) fn make(path: PathBuf) -> Self {
        assert!(Command::new("mkfifo").arg(&path).status().expect("there is a mkfifo command").success());
        // For reading and writing: that waits for nobody.
        let held = File::options().read(true).write(true).open(&path).unwrap();
        Self { path, held }
    }

    /// The settings of a sink named `stuck` that writes to it.
    pub(crate) fn sink(&self) -> [String; 2] {
        ["sinks.stuck.kind=file".to_owned(), format!("sinks.stuck.path={}", self.path.display())]
    }

    /// From now on somebody reads.
    pub(crate) fn read(&self) -> Reader {
        let (read, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let file = self.held.try_clone().unwrap();
        let thread = thread::spawn({
            let (read, stop) = (read.clone(), stop.clone());
            move || collect(BufReader::new(file), &read, &stop)
        });
        Reader { read, stop, path: self.path.clone(), thread }
    }
}

fn collect(reader: BufReader<File>, read: &AtomicU64, stop: &AtomicBool) -> Lines {
    let (mut lines, mut seen) = (Lines::default(), HashSet::new());
    for line in reader.lines().map_while(Result::ok) {
        if stop.load(SeqCst) {
            break;
        }
        // A server that was killed while it wrote has left half a line.
        let Ok(event) = serde_json::from_str::<serde_json::Value>(&line) else { continue };
        if seen.insert((event["server_id"].to_string(), event["position"].as_u64())) {
            lines.events.push(event);
            read.fetch_add(1, SeqCst);
        } else {
            lines.repeated += 1;
        }
    }
    lines
}

impl Reader {
    /// Different events read so far.
    pub(crate) fn count(&self) -> u64 {
        self.read.load(SeqCst)
    }

    /// Reads no more.
    pub(crate) fn finish(self) -> Lines {
        self.stop.store(true, SeqCst);
        std::fs::write(&self.path, "\n").unwrap(); // wakes it
        self.thread.join().expect("reading does not panic")
    }
}

impl Lines {
    /// The events of a ledger, in the order of their arrival.
    pub(crate) fn rows(&self) -> impl Iterator<Item = Row> {
        let entries = self.events.iter().filter(|event| event["name"] == super::ledger::NAME);
        entries.map(|event| Row {
            sender: event["source"].as_str().unwrap_or_default().to_owned(),
            number: event["value"].as_f64().unwrap_or_default() as u64,
            body: event["body"].as_str().unwrap_or_default().to_owned(),
        })
    }
}
