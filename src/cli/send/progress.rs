//! How far the command has come: on a terminal while it sends, and in words at its end.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use indicatif::{ProgressBar, ProgressStyle};
use tracing::Level;

use super::super::logging;
use crate::client::{Client, Progress};
use crate::counted::{Counted, PartOf};

/// What two threads look at: the one that sends, and the one that ends the command after a signal.
pub(super) struct Live {
    stage: Mutex<Stage>,
    /// Events read so far.
    events: AtomicU64,
    bar: ProgressBar,
}

/// How far the command is, and so where its numbers are.
#[derive(Default)]
enum Stage {
    #[default]
    Connecting,
    Sending(Weak<Client>),
    /// Everything is acknowledged, or lost; the connection is being closed.
    Closing(Progress),
}

impl Live {
    /// The bar is drawn on standard error, if that is a terminal. It has an end if all of `files` are files.
    pub(super) fn new(files: &[PathBuf]) -> Arc<Self> {
        let sizes = files.iter().map(|file| std::fs::metadata(file).ok().filter(|data| data.is_file()));
        let total: Option<u64> = sizes.map(|size| size.map(|data| data.len())).sum();
        // Not one column more than 80: 16 + 5 + events, rate and time.
        let (bar, template) = match total {
            Some(total) => (ProgressBar::new(total), "{bar:16} {percent:>3}% · {msg} · ETA {eta}"),
            None => (ProgressBar::no_length(), "{decimal_bytes} · {msg} · {elapsed}"),
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        Arc::new(Self { stage: Mutex::default(), events: AtomicU64::new(0), bar: bar.with_style(style) })
    }

    pub(super) fn connected(&self, client: &Arc<Client>) {
        self.set(Stage::Sending(Arc::downgrade(client)));
    }

    /// The client is about to be closed, and these are its numbers.
    pub(super) fn closing(&self, progress: Progress) {
        self.set(Stage::Closing(progress));
    }

    fn set(&self, stage: Stage) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
    }

    /// `events` are sent; `read_bytes` of the files are read, as they are on disk.
    pub(super) fn sent(&self, events: u64, read_bytes: u64) {
        self.events.store(events, Ordering::Relaxed);
        let rate = events as f64 / self.bar.elapsed().as_secs_f64().max(0.001);
        self.bar.set_position(read_bytes);
        self.bar.set_message(format!("{} · {rate:.0}/s", Counted(events, "event")));
    }

    /// Everything is sent and only acknowledgements are missing: the bar shows all of it.
    pub(super) fn all_sent(&self, events: u64, read_bytes: u64) {
        self.sent(events, read_bytes);
        // It is drawn a few times per second only, and this is the last time.
        self.bar.force_draw();
    }

    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }

    /// Prints a warning above the bar.
    pub(super) fn warn(&self, line: &str) {
        if std::io::stderr().is_terminal() {
            self.bar.suspend(|| logging::message(Level::WARN, line));
        } else {
            logging::message(Level::WARN, line);
        }
    }

    fn progress(&self) -> Progress {
        match &*self.stage.lock().unwrap_or_else(PoisonError::into_inner) {
            Stage::Connecting => Progress::default(),
            // A client that is gone was closed, or failed: that is another stage.
            Stage::Sending(client) => client.upgrade().map_or_else(Progress::default, |client| client.progress()),
            Stage::Closing(progress) => *progress,
        }
    }

    /// Ends the process after a signal whose command did not end in time.
    pub(super) fn give_up(&self, signal: u8) {
        let progress = self.progress();
        self.clear();
        let how_far = how_far(&progress, self.events.load(Ordering::Relaxed));
        logging::message(Level::ERROR, &format!("interrupted; {how_far}"));
        std::process::exit(128 + i32::from(signal));
    }
}

/// `3 of 5 events were acknowledged`, and what is known of the others.
pub(super) fn how_far(progress: &Progress, events: u64) -> String {
    if events == 0 {
        return "no events were sent".to_owned();
    }
    let acknowledged = progress.acknowledged_events;
    let mut text = format!("{} acknowledged", PartOf(acknowledged, Counted(events, "event")));
    let refused = progress.refused_events + progress.set_aside_events;
    let unknown = events.saturating_sub(acknowledged + refused);
    if unknown > 0 {
        let were = if unknown == 1 { "was" } else { "were" };
        text.push_str(&format!("; {unknown} {were} not and may be stored nevertheless"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ending_says_how_many_events_were_acknowledged() {
        let progress = |acknowledged_events, refused_events| Progress {
            acknowledged_events,
            refused_events,
            ..Progress::default()
        };
        assert_eq!(how_far(&progress(0, 0), 0), "no events were sent");
        assert_eq!(how_far(&progress(5, 0), 5), "5 of 5 events were acknowledged");
        assert_eq!(how_far(&progress(1, 0), 1), "1 of 1 event was acknowledged");
        assert_eq!(
            how_far(&progress(1, 0), 2),
            "1 of 2 events was acknowledged; 1 was not and may be stored nevertheless"
        );
        assert_eq!(how_far(&progress(3, 2), 5), "3 of 5 events were acknowledged");
        assert_eq!(
            how_far(&progress(3, 1), 7),
            "3 of 7 events were acknowledged; 3 were not and may be stored nevertheless"
        );
    }
}
