//! The state on a terminal, drawn anew with each answer, until a key or a signal ends it.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Read, Write, stdin, stdout};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Instant;

use rustix::process::{getppid, getsid};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
use signal_hook::low_level::{emulate_default_handler, pipe};

use super::view::{Line, Tone, View};
use super::{INTERVAL, Source, units};
use crate::cli::{Failure, terminal};
use crate::status::Status;

/// Answers that are kept: rates are averages over the time from the oldest to the newest.
const ANSWERS: usize = 6;
/// Rows and columns of a terminal that does not report its size.
const SIZE_DEFAULT: (usize, usize) = (80, 24);

/// Switches to the second screen of the terminal, without a cursor.
const BEGIN: &[u8] = b"\x1b[?1049h\x1b[?25l";
const END: &[u8] = b"\x1b[?25h\x1b[?1049l";

enum Event {
    Answer(Box<Result<Status, Failure>>),
    /// The shell is wanted back for a while: Ctrl-Z.
    Suspend,
    End,
}

/// Shows the newest answer each second until `q`, Ctrl-C, Ctrl-\ or another signal that ends it, also while the server does
/// not answer. While it is suspended (Ctrl-Z) the terminal is as it was before.
///
/// # Errors
/// The terminal cannot be written, or there are no threads.
pub(super) fn show(source: Source, first: Status) -> io::Result<()> {
    // One at a time: a terminal that is stopped (Ctrl-S) must not collect answers.
    let (events, received) = sync_channel(1);
    let server = source.page.shown.clone();
    // Before the screen is switched: a signal that comes in between must not leave the terminal so.
    at_signals(&[SIGINT, SIGTERM, SIGQUIT, SIGHUP], || Event::End, events.clone())?;
    at_signals(&[SIGTSTP], || Event::Suspend, events.clone())?;
    let mut screen = Screen::begin()?;
    if screen.keys.is_some() {
        end_at_a_key(events.clone())?;
    }
    ask_each_second(source, events)?;
    let mut history = History::new(server, first);
    let with_colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    loop {
        let (columns, rows) = terminal::size().unwrap_or(SIZE_DEFAULT);
        let lines = history.view().lines(Some(columns));
        write_all(painted(&lines, rows, with_colour).as_bytes())?;
        match received.recv() {
            Ok(Event::Answer(answer)) => history.add(*answer),
            Ok(Event::Suspend) => screen.suspend()?,
            Ok(Event::End) | Err(_) => return Ok(()),
        }
    }
}

/// Sends an event at each of the signals.
fn at_signals(signals: &[i32], event: fn() -> Event, events: SyncSender<Event>) -> io::Result<()> {
    let (mut signalled, wake) = UnixStream::pair()?;
    for signal in signals {
        pipe::register(*signal, wake.try_clone()?)?;
    }
    let wait = move || {
        while signalled.read_exact(&mut [0]).is_ok() && events.send(event()).is_ok() {}
    };
    thread::Builder::new().name("signals".to_owned()).spawn(wait).map(drop)
}

fn end_at_a_key(events: SyncSender<Event>) -> io::Result<()> {
    let wait = move || {
        if stdin().lock().bytes().map_while(Result::ok).any(|key| matches!(key, b'q' | b'Q')) {
            let _ = events.send(Event::End);
        }
    };
    thread::Builder::new().name("keys".to_owned()).spawn(wait).map(drop)
}

fn ask_each_second(mut source: Source, events: SyncSender<Event>) -> io::Result<()> {
    let ask = move || {
        loop {
            thread::sleep(INTERVAL);
            if events.send(Event::Answer(Box::new(source.ask()))).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("questions".to_owned()).spawn(ask).map(drop)
}

/// The last answers of a server.
struct History {
    server: String,
    now: Status,
    /// Those before it, of the same process.
    before: VecDeque<Status>,
    answered: Instant,
    /// Why the newest answer is old.
    trouble: Option<String>,
}

impl History {
    fn new(server: String, first: Status) -> Self {
        Self { server, now: first, before: VecDeque::new(), answered: Instant::now(), trouble: None }
    }

    fn add(&mut self, answer: Result<Status, Failure>) {
        match answer {
            Ok(now) => {
                let last = std::mem::replace(&mut self.now, now);
                self.before.push_back(last);
                if self.before.len() >= ANSWERS {
                    self.before.pop_front();
                }
                // A server that was restarted counts from 0, and rates need a clock that runs forward.
                let is_earlier =
                    |last: &Status| self.now.uptime_seconds < last.uptime_seconds || self.now.unix_ms < last.unix_ms;
                if self.before.back().is_some_and(is_earlier) {
                    self.before.clear();
                }
                (self.answered, self.trouble) = (Instant::now(), None);
            }
            Err(failure) => {
                let age = units::time(self.answered.elapsed().as_secs_f64().floor());
                let why = failure.to_string();
                // The server is named above.
                let why = why.strip_prefix(&format!("{}: ", self.server)).unwrap_or(&why);
                self.trouble = Some(format!("NO ANSWER, numbers are of {age} ago: {why}"));
            }
        }
    }

    fn view(&self) -> View<'_> {
        let before = self.before.front().unwrap_or(&self.now);
        View { before, now: &self.now, server: &self.server, trouble: self.trouble.as_deref() }
    }
}

/// The second screen of the terminal, with keys that come one by one; the first is back once this is dropped.
struct Screen {
    /// Modes of the keyboard before; `None`: standard input is not a terminal.
    keys: Option<Termios>,
}

impl Screen {
    fn begin() -> io::Result<Self> {
        let keys = if stdin().is_terminal() { Some(tcgetattr(stdin())?) } else { None };
        let screen = Self { keys };
        screen.enter()?;
        Ok(screen)
    }

    /// First the modes: in the background this stops the process (SIGTTOU), and the screen must not be switched yet.
    fn enter(&self) -> io::Result<()> {
        if let Some(before) = &self.keys {
            let mut modes = before.clone();
            modes.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
            tcsetattr(stdin(), OptionalActions::Now, &modes)?;
        }
        write_all(BEGIN)
    }

    fn leave(&self) {
        if let Some(before) = &self.keys {
            let _ = tcsetattr(stdin(), OptionalActions::Now, before);
        }
        let _ = write_all(END);
    }

    /// Stops the process until the shell continues it. Where no shell can, as in a container, it does nothing.
    fn suspend(&mut self) -> io::Result<()> {
        let session = getsid(None).ok();
        if session.is_none() || getppid().and_then(|parent| getsid(Some(parent)).ok()) != session {
            return Ok(());
        }
        self.leave();
        let stopped = emulate_default_handler(SIGTSTP);
        // Somebody may have changed the modes meanwhile.
        if self.keys.is_some() {
            self.keys = Some(tcgetattr(stdin())?);
        }
        self.enter()?;
        stopped
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.leave();
    }
}

fn write_all(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

/// The lines on a screen of so many rows, over what is there. The last row shows how many have no room.
///
/// A row is erased before its text is written: after a text as wide as the screen the cursor is on its last character.
fn painted(lines: &[Line], rows: usize, with_colour: bool) -> String {
    let left_out =
        Line { text: format!("… {} more lines", lines.len() + 1 - rows.clamp(1, lines.len() + 1)), tone: Tone::Head };
    let (shown, last) = match lines.len() > rows {
        true => (rows.saturating_sub(1), Some(&left_out)),
        false => (lines.len(), None),
    };
    let mut screen = "\x1b[H".to_owned();
    let rows = shown + usize::from(last.is_some());
    for (index, line) in lines.iter().take(shown).chain(last).enumerate() {
        let (begin, end) = match (with_colour, line.tone) {
            (true, Tone::Bad) => ("\x1b[1;31m", "\x1b[0m"),
            (true, Tone::Head) => ("\x1b[1m", "\x1b[0m"),
            _ => ("", ""),
        };
        let next = if index == 0 { "" } else { "\r\n" };
        // The last one with all that is below it.
        let erase = if index + 1 == rows { "\x1b[J" } else { "\x1b[K" };
        screen.extend([next, erase, begin, &line.text, end]);
    }
    screen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_is_drawn_over_the_last_one_and_has_no_more_lines_than_rows() {
        let lines = [("a", Tone::Head), ("b", Tone::Bad), ("c", Tone::Plain)];
        let lines = lines.map(|(text, tone)| Line { text: text.to_owned(), tone });
        assert_eq!(painted(&lines, 3, false), "\x1b[H\x1b[Ka\r\n\x1b[Kb\r\n\x1b[Jc");
        assert_eq!(painted(&lines[..2], 2, true), "\x1b[H\x1b[K\x1b[1ma\x1b[0m\r\n\x1b[J\x1b[1;31mb\x1b[0m");
        assert_eq!(painted(&lines, 2, false), "\x1b[H\x1b[Ka\r\n\x1b[J… 2 more lines");
    }

    #[test]
    fn rates_are_of_the_last_answers_of_one_process() {
        let status = |uptime_seconds| Status { uptime_seconds, ..Status::default() };
        let mut history = History::new("h".to_owned(), status(1));
        let uptimes = |history: &History| {
            let view = history.view();
            (view.before.uptime_seconds, view.now.uptime_seconds)
        };
        (2..=10).for_each(|uptime| history.add(Ok(status(uptime))));
        assert_eq!(uptimes(&history), (5, 10));
        history.add(Err(Failure::Failed("h: connection refused".to_owned())));
        assert!(history.view().trouble.unwrap().contains("0 s ago: connection refused"));
        history.add(Ok(status(0)));
        assert_eq!((uptimes(&history), history.view().trouble), ((0, 0), None));
        // A clock that was set back.
        history.add(Ok(Status { unix_ms: 5_000, ..status(1) }));
        history.add(Ok(Status { unix_ms: 1_000, ..status(2) }));
        history.add(Ok(Status { unix_ms: 2_000, ..status(3) }));
        assert_eq!(uptimes(&history), (2, 3));
    }
}
