//! A line on standard error while it is measured, if that is a terminal.

use std::cell::Cell;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::load::Window;
use crate::counted::Counted;

/// The line is written this often: the sender shares its CPUs with the terminal.
const INTERVAL: Duration = Duration::from_millis(250);

pub(super) struct Progress {
    bar: ProgressBar,
    begin: Instant,
    window: Window,
    shown: Cell<Option<Instant>>,
}

impl Progress {
    pub(super) fn new(window: &Window) -> Self {
        let begin = Instant::now();
        let bar = ProgressBar::new((window.end - begin).as_millis() as u64);
        let style = ProgressStyle::with_template("{bar:20} {msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
        Self { bar: bar.with_style(style), begin, window: *window, shown: Cell::new(None) }
    }

    /// So many events are acknowledged, those of the warm-up too.
    pub(super) fn show(&self, events: u64) {
        let now = Instant::now();
        if self.bar.is_hidden() || self.shown.get().is_some_and(|shown| now - shown < INTERVAL) {
            return;
        }
        self.shown.set(Some(now));
        self.bar.set_message(self.message(now, events));
        self.bar.set_position((now - self.begin).as_millis() as u64);
    }

    fn message(&self, now: Instant, events: u64) -> String {
        let rate = events as f64 / (now - self.begin).as_secs_f64().max(0.001);
        let Window { begin, end } = self.window;
        let what = match now.checked_duration_since(begin) {
            Some(measured) => format!("{} of {} s", measured.as_secs(), (end - begin).as_secs()),
            None => "warm-up".to_owned(),
        };
        format!("{what} · {} · {rate:.0}/s", Counted(events, "event"))
    }

    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// Also where the measurement failed.
impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_fits_eighty_columns() {
        let begin = Instant::now() + Duration::from_secs(1);
        let window = Window { begin, end: begin + Duration::from_secs(86_400) };
        let progress = Progress::new(&window);
        let at = |seconds| progress.message(progress.begin + Duration::from_secs(seconds), 1_000_000_000_000);
        assert!(at(10).ends_with(" of 86400 s · 1000000000000 events · 100000000000/s"), "{}", at(10));
        assert!(at(80_000).chars().count() + 21 <= 80);
        assert!(progress.message(progress.begin, 0).starts_with("warm-up · 0 events"));
    }
}
