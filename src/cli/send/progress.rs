//! How far the command has come: on a terminal while it sends, and in words at its end.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use indicatif::{ProgressBar, ProgressStyle};
use tracing::Level;

use super::super::logging;
use crate::client::{Client, Progress};

/// What two threads look at: the one that sends, and the one that ends the command after a signal.
pub struct Live {
    /// Empty before the first connection.
    client: Mutex<Option<Weak<Client>>>,
    /// Events read so far.
    events: AtomicU64,
    bar: ProgressBar,
}

impl Live {
    /// The bar is drawn on standard error, if that is a terminal. It has an end if all of `files` are files.
    pub fn new(files: &[PathBuf]) -> Arc<Self> {
        let sizes = files.iter().map(|file| std::fs::metadata(file).ok().filter(|data| data.is_file()));
        let total: Option<u64> = sizes.map(|size| size.map(|data| data.len())).sum();
        // Not one column more than 80: 16 + 5 + events, rate and time.
        let (bar, template) = match total {
            Some(total) => (ProgressBar::new(total), "{bar:16} {percent:>3}% · {msg} · ETA {eta}"),
            None => (ProgressBar::no_length(), "{bytes} · {msg} · {elapsed}"),
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        Arc::new(Self { client: Mutex::default(), events: AtomicU64::new(0), bar: bar.with_style(style) })
    }

    pub fn connected(&self, client: &Arc<Client>) {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::downgrade(client));
    }

    /// `events` are sent; `read_bytes` of the files are read, as they are on disk.
    pub fn sent(&self, events: u64, read_bytes: u64) {
        self.events.store(events, Ordering::Relaxed);
        let rate = events as f64 / self.bar.elapsed().as_secs_f64().max(0.001);
        self.bar.set_position(read_bytes);
        self.bar.set_message(format!("{events} events · {rate:.0}/s"));
    }

    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }

    /// Prints a warning above the bar.
    pub fn warn(&self, line: &str) {
        if std::io::stderr().is_terminal() {
            self.bar.suspend(|| logging::message(Level::WARN, line));
        } else {
            logging::message(Level::WARN, line);
        }
    }

    /// Ends the process after a signal whose command did not end in time.
    pub fn give_up(&self, signal: u8) {
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let progress = match client.map(|client| client.upgrade()) {
            None => Progress::default(),
            Some(Some(client)) => client.progress(),
            // Everything is done but the last words.
            Some(None) => return,
        };
        self.clear();
        let how_far = how_far(&progress, self.events.load(Ordering::Relaxed));
        logging::message(Level::ERROR, &format!("interrupted; {how_far}"));
        std::process::exit(128 + i32::from(signal));
    }
}

/// `3 of 5 events were acknowledged`, and what is known of the others.
pub fn how_far(progress: &Progress, events: u64) -> String {
    if events == 0 {
        return "no events were sent".to_owned();
    }
    let acknowledged = progress.acknowledged_events;
    let mut text = format!("{acknowledged} of {events} events were acknowledged");
    let refused = progress.refused_events + progress.set_aside_events;
    let unknown = events.saturating_sub(acknowledged + refused);
    if unknown > 0 {
        text.push_str(&format!("; {unknown} were not and may be stored nevertheless"));
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
        assert_eq!(how_far(&progress(3, 2), 5), "3 of 5 events were acknowledged");
        assert_eq!(
            how_far(&progress(3, 1), 7),
            "3 of 7 events were acknowledged; 3 were not and may be stored nevertheless"
        );
    }
}
