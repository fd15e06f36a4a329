//! Log lines to standard error, without ever waiting for it.
//!
//! ```text
//!  any thread ─▶ [ lines, at most LOG_BYTES_MAX ] ─▶ log-writer thread ─▶ stderr (may stall: a full pipe, a stopped
//!                  full: line dropped and counted                              terminal)
//! ```
//!
//! Records of the `log` facade (libraries) go the same way as our own `tracing` events.

use std::borrow::Cow;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use serde_json::Map;
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, reload};

use super::Failure;
use crate::config::{LogFilter, LogFormat};
use crate::escape::escape;
use crate::event::rfc3339;
use crate::limits;
use crate::time::now_unix_nano;

/// Whether messages are JSON; see [`set_format`].
static JSON: AtomicBool = AtomicBool::new(false);

/// Sets the format of [`message`].
pub(super) fn set_format(format: LogFormat) {
    JSON.store(format == LogFormat::Json, Ordering::Relaxed);
}

/// Writes a line of a command to standard error: `telemetryx: …`, or JSON where log lines are. Waits for standard error.
pub(super) fn message(level: Level, text: &str) {
    let line = match JSON.load(Ordering::Relaxed) {
        true => json_line(level, text, Map::new()),
        false => format!("telemetryx: {}\n", escape(text)),
    };
    // Not eprintln!: it panics where standard error is closed.
    let _ = io::stderr().write_all(line.as_bytes());
}

/// A line as the log has them.
pub(super) fn json_line(level: Level, message: &str, fields: Map<String, serde_json::Value>) -> String {
    let mut line = Map::new();
    let time = rfc3339::format(now_unix_nano());
    line.insert("timestamp".to_owned(), String::from_utf8_lossy(&time).into());
    line.insert("level".to_owned(), level.as_str().into());
    line.insert("message".to_owned(), message.into());
    line.extend(fields);
    line.insert("target".to_owned(), "telemetryx::cli".into());
    // What JSON itself leaves as it is, such as bidirectional controls.
    format!("{}\n", escape(&serde_json::Value::Object(line).to_string()))
}

/// Log output of this process. Dropping it waits, for a bounded time, until the last lines are out.
pub(super) struct Logging {
    lines: Lines,
    filter: reload::Handle<Targets, Registry>,
}

/// Starts log output, once in a process.
pub(super) fn start(format: LogFormat, filter: LogFilter) -> Result<Logging, Failure> {
    let lines = Lines::new(format);
    let writer = lines.clone();
    thread::Builder::new()
        .name("log-writer".to_owned())
        .spawn(move || writer.write_out(&mut io::stderr()))
        .map_err(|error| Failure::Failed(format!("the thread that writes log lines cannot start: {error}")))?;
    let make_writer = {
        let lines = lines.clone();
        move || lines.clone()
    };
    let (targets, filter) = reload::Layer::new(filter.into_targets());
    let registry = Registry::default().with(targets);
    let layer = fmt::layer().with_writer(make_writer).with_ansi(false);
    match format {
        LogFormat::Text => registry.with(layer).try_init(),
        // All spans that a line is within, once.
        LogFormat::Json => {
            registry.with(layer.json().flatten_event(true).with_current_span(false).with_span_list(true)).try_init()
        }
    }
    .map_err(|error| Failure::Failed(format!("log output cannot start: {error}")))?;
    Ok(Logging { lines, filter })
}

/// Makes a panic one JSON line, too.
pub(super) fn panics_as_json() {
    std::panic::set_hook(Box::new(|panic| message(Level::ERROR, &panic.to_string())));
}

impl Logging {
    /// Puts another filter in force, each time that it is called.
    pub(super) fn set_filter(&self) -> Box<dyn Fn(LogFilter) + Send> {
        let handle = self.filter.clone();
        Box::new(move |filter| {
            // It fails only once nothing is logged any more.
            let _ = handle.reload(filter.into_targets());
        })
    }

    /// Writes lines that appear whatever is filtered, in their order among the log lines.
    pub(super) fn print(&self, lines: &str) {
        for line in lines.split_inclusive('\n') {
            self.lines.push(line.as_bytes());
        }
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        self.lines.flush();
    }
}

/// Whole lines on their way to standard error. A clone is another handle.
#[derive(Clone)]
struct Lines {
    shared: Arc<Shared>,
}

struct Shared {
    waiting: Mutex<Waiting>,
    /// Lines came in, or were dropped.
    filled: Condvar,
    /// All lines are written.
    written: Condvar,
    format: LogFormat,
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// Lines that found no room since the last notice.
    dropped: u64,
    /// The thread is busy with lines that it has taken out.
    writing: bool,
}

impl Lines {
    fn new(format: LogFormat) -> Self {
        let shared = Shared { waiting: Mutex::default(), filled: Condvar::new(), written: Condvar::new(), format };
        Self { shared: Arc::new(shared) }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Bytes and a count are never half changed: whoever panicked, they are sound.
        self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the line, or drops and counts it. Waits only while the other thread swaps two pointers.
    fn push(&self, line: &[u8]) {
        let mut waiting = self.waiting();
        if waiting.bytes.len() + line.len() > limits::LOG_BYTES_MAX {
            waiting.dropped += 1;
        } else {
            waiting.bytes.extend_from_slice(line);
        }
        drop(waiting);
        self.shared.filled.notify_one();
    }

    /// The thread's work, for ever. An output that fails loses lines: there is nowhere to tell.
    fn write_out(&self, output: &mut impl Write) {
        let mut lines = Vec::new();
        loop {
            let dropped = self.take(&mut lines);
            let _ = output.write_all(&lines);
            if dropped > 0 {
                let _ = output.write_all(self.notice(dropped).as_bytes());
            }
            lines.clear();
            let mut waiting = self.waiting();
            waiting.writing = false;
            drop(waiting);
            self.shared.written.notify_all();
        }
    }

    /// Waits for lines and swaps them into `lines`; returns how many were dropped after them.
    fn take(&self, lines: &mut Vec<u8>) -> u64 {
        let empty = |waiting: &mut Waiting| waiting.bytes.is_empty() && waiting.dropped == 0;
        let mut waiting = self.shared.filled.wait_while(self.waiting(), empty).unwrap_or_else(PoisonError::into_inner);
        waiting.writing = true;
        std::mem::swap(&mut waiting.bytes, lines);
        std::mem::take(&mut waiting.dropped)
    }

    fn notice(&self, dropped: u64) -> String {
        const WHY: &str = "log lines were dropped: standard error was not read fast enough";
        match self.shared.format {
            LogFormat::Text => format!("{dropped} {WHY}\n"),
            LogFormat::Json => format!("{{\"level\":\"WARN\",\"message\":\"{WHY}\",\"dropped\":{dropped}}}\n"),
        }
    }

    fn flush(&self) {
        let busy = |waiting: &mut Waiting| waiting.writing || !waiting.bytes.is_empty();
        // Whether it ran out of time makes no difference to who leaves.
        let _ = self.shared.written.wait_timeout_while(self.waiting(), limits::LOG_FLUSH_TIMEOUT, busy);
    }
}

/// One call is one line: that is how the formatter calls it. Whatever the formatter and the libraries that log put into
/// it, it stays one line and changes no terminal: control characters in it are escaped, in JSON as JSON has it.
impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        match escape(text.strip_suffix('\n').unwrap_or(&text)) {
            Cow::Borrowed(_) => self.push(line),
            Cow::Owned(escaped) => self.push((escaped + "\n").as_bytes()),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    /// An output that takes nothing until it is let go.
    struct Stalled {
        taken: mpsc::Sender<Vec<u8>>,
        go: mpsc::Receiver<()>,
    }

    impl Write for Stalled {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.go.recv().map_err(io::Error::other)?;
            self.taken.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stalled_output_costs_lines_but_no_waiting() {
        let (taken, output) = mpsc::channel();
        let (go, gate) = mpsc::channel();
        let lines = Lines::new(LogFormat::Text);
        let writer = lines.clone();
        thread::spawn(move || writer.write_out(&mut Stalled { taken, go: gate }));

        let line = [b'x'; 1024];
        let started = Instant::now();
        // The thread may have taken one load out; a second fills the room; the rest is dropped.
        let count = 3 * limits::LOG_BYTES_MAX / line.len();
        for _ in 0..count {
            lines.push(&line);
        }
        assert!(lines.waiting().bytes.len() <= limits::LOG_BYTES_MAX);
        assert!(started.elapsed() < Duration::from_secs(5), "pushing waited for the output");

        let (mut written, mut dropped) = (0, 0);
        while written + dropped < count {
            go.send(()).unwrap();
            let bytes = output.recv_timeout(Duration::from_secs(10)).expect("the output goes on");
            let text = String::from_utf8(bytes).unwrap();
            match text.split_once(" log lines were dropped") {
                Some((notice, _)) => dropped += notice.parse::<usize>().unwrap(),
                None => written += text.len() / line.len(),
            }
        }
        assert_eq!(written + dropped, count);
        assert!(dropped >= count / 3, "at least what two loads do not hold is dropped: {dropped}");
    }
}
