//! The sender: many connections on few threads, each with messages in flight up to its window.
//!
//! ```text
//!  a thread    for each line: begin a message if window and rate allow, write what the socket takes
//!              ─▶ poll ─▶ read answers, note how long each took ─▶ again
//!
//!  a run       connect, greet │ warm-up │ begin ── measured ── end │ answers to come │ farewell, close
//! ```
//!
//! With a rate, a message is due at a fixed time, and its latency counts from then on: a server that stalls is not
//! spared the messages that should have been sent meanwhile.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::stream::{Stream, Target};
use super::talk::{Answered, Message, Talk, TalkError};

/// A connection must be there, and greeted, by then.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait for the last answers.
const ANSWERS_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest sleep of a thread: it looks at the clock that often.
const POLL_TIMEOUT: Duration = Duration::from_millis(100);
/// Messages that one line begins before the others have their turn: small ones are worth a few.
const MESSAGES_PER_TURN: usize = 16;
/// Bytes read at once: answers are short.
const READ_BYTES: usize = 64 * 1024;
/// Latencies are counted in microseconds, up to a minute, with three digits.
const LATENCY_MICROS_MAX: u64 = 60_000_000;

/// Why the run failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error("{address}: {error}; is a server listening there?")]
    Connect { address: SocketAddr, error: io::Error },
    #[error("{0}: no answer to the greeting within 5 s")]
    Greeting(SocketAddr),
    #[error("{address}: {error}")]
    Talk { address: SocketAddr, error: TalkError },
    #[error("{address}: the connection is lost: {error}")]
    Lost { address: SocketAddr, error: io::Error },
    #[error("polling sockets: {0}")]
    Poll(io::Error),
}

/// When what is sent counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub begin: Instant,
    pub end: Instant,
}

/// What all threads count, from the first message on.
#[derive(Debug, Default)]
pub(super) struct Counted {
    pub messages: AtomicU64,
    pub bytes: AtomicU64,
    pub refused: AtomicU64,
}

/// What a thread brings back.
pub(super) struct Latencies {
    pub micros: Histogram<u64>,
    /// Messages without an answer at the end of all waiting.
    pub unanswered: u64,
}

impl Latencies {
    pub(super) fn new() -> Self {
        let micros = Histogram::new_with_max(LATENCY_MICROS_MAX, 3).expect("constants that a histogram takes");
        Self { micros, unanswered: 0 }
    }
}

struct InFlight {
    /// When it was due, or begun.
    since: Instant,
    bytes: u64,
}

/// One connection.
pub(super) struct Line {
    address: SocketAddr,
    stream: Stream,
    talk: Box<dyn Talk>,
    messages: Arc<[Message]>,
    next_message: usize,
    /// Of the message being written: its head, which message, and how much is written.
    head: Vec<u8>,
    current: Option<(usize, usize)>,
    in_flight: VecDeque<InFlight>,
    incoming: Vec<u8>,
    /// The socket takes no more for now.
    blocked: bool,
    /// When the next message is due; `interval` apart. `None`: as fast as the window allows.
    due: Instant,
    interval: Option<Duration>,
}

impl Line {
    /// Connects and greets.
    pub(super) fn open(
        target: &Target,
        talk: Box<dyn Talk>,
        messages: Arc<[Message]>,
        interval: Option<Duration>,
    ) -> Result<Self, LoadError> {
        let address = target.address;
        let stream =
            Stream::connect(target, GREETING_TIMEOUT).map_err(|error| LoadError::Connect { address, error })?;
        let mut line = Self {
            address,
            stream,
            talk,
            messages,
            next_message: 0,
            head: Vec::new(),
            current: None,
            in_flight: VecDeque::new(),
            incoming: Vec::new(),
            blocked: false,
            due: Instant::now(),
            interval,
        };
        line.greet()?;
        Ok(line)
    }

    fn greet(&mut self) -> Result<(), LoadError> {
        let address = self.address;
        let lost = |error| LoadError::Lost { address, error };
        self.stream.write_all(&self.talk.greeting()).map_err(lost)?;
        let until = Instant::now() + GREETING_TIMEOUT;
        let mut room = [0; 4096];
        while !self.talk.is_greeted() {
            if Instant::now() >= until {
                return Err(LoadError::Greeting(address));
            }
            match self.stream.read(&mut room) {
                Ok(0) => return Err(lost(io::ErrorKind::UnexpectedEof.into())),
                Ok(bytes) => self.take(room.get(..bytes).unwrap_or_default(), &mut Answered::default())?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(LoadError::Greeting(address)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(lost(error)),
            }
        }
        self.stream.tcp().set_nonblocking(true).map_err(lost)
    }

    /// The first message is due at `begin`.
    pub(super) fn start_at(&mut self, begin: Instant) {
        self.due = begin;
    }

    fn take(&mut self, bytes: &[u8], answered: &mut Answered) -> Result<(), LoadError> {
        self.incoming.extend_from_slice(bytes);
        let address = self.address;
        self.talk.receive(&mut self.incoming, answered).map_err(|error| LoadError::Talk { address, error })
    }

    /// Whether a message may begin now.
    fn may_begin(&self, now: Instant) -> bool {
        let due = self.interval.is_none() || now >= self.due;
        due && self.messages.get(self.next_message).is_some_and(|message| self.talk.may_send(message.body.len()))
    }

    fn begin(&mut self, now: Instant) {
        let Some(message) = self.messages.get(self.next_message) else { return };
        self.head.clear();
        self.talk.begin(message, &mut self.head);
        let since = match self.interval {
            Some(interval) => {
                let due = self.due;
                self.due += interval;
                due
            }
            None => now,
        };
        self.in_flight.push_back(InFlight { since, bytes: message.body.len() as u64 });
        self.current = Some((self.next_message, 0));
        self.next_message = (self.next_message + 1) % self.messages.len();
    }

    /// Begins messages and writes until socket, window or turn is full. Answers to [`Talk`]s that have none count here.
    fn write(&mut self, now: Instant, may_begin: bool, answered: &mut Answered) -> io::Result<()> {
        if !self.stream.is_flushed()? {
            self.blocked = true;
            return Ok(());
        }
        for _ in 0..MESSAGES_PER_TURN {
            if self.current.is_none() {
                if !may_begin || !self.may_begin(now) {
                    return Ok(());
                }
                self.begin(now);
            }
            let is_flushed = self.write_current()?;
            if self.current.is_none() && !self.talk.answers() {
                answered.messages += 1;
            }
            if !is_flushed {
                self.blocked = true;
                return Ok(());
            }
        }
        Ok(())
    }

    /// `true`: the current message is written.
    fn write_current(&mut self) -> io::Result<bool> {
        while let Some((index, written)) = self.current {
            let body = self.messages.get(index).map_or(&[][..], |message| &message.body);
            let head = self.head.get(written..).unwrap_or_default();
            let body = body.get(written.saturating_sub(self.head.len())..).unwrap_or_default();
            if head.is_empty() && body.is_empty() {
                self.current = None;
                return self.stream.is_flushed();
            }
            match self.stream.write_vectored(&[IoSlice::new(head), IoSlice::new(body)]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => self.current = Some((index, written + bytes)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn read(&mut self, room: &mut [u8], answered: &mut Answered) -> Result<(), LoadError> {
        let address = self.address;
        match self.stream.read(room) {
            // Words that came before the end say more than the end.
            Ok(0) => Err(LoadError::Lost { address, error: io::ErrorKind::UnexpectedEof.into() }),
            Ok(bytes) => self.take(room.get(..bytes).unwrap_or_default(), answered),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(()),
            Err(error) => Err(LoadError::Lost { address, error }),
        }
    }

    /// Writes the talk's last bytes and half-closes. The run is over: an error changes nothing.
    fn leave(&mut self) {
        let _ = self.stream.write_all(&self.talk.farewell());
        let _ = self.stream.end();
    }

    /// Notes what was answered.
    fn settle(&mut self, answered: Answered, now: Instant, window: &Window, counted: &Counted, to: &mut Latencies) {
        let mut bytes = 0;
        for sent in self.in_flight.drain(..(answered.messages as usize).min(self.in_flight.len())) {
            bytes += sent.bytes;
            if sent.since >= window.begin && sent.since < window.end {
                to.micros.saturating_record(now.saturating_duration_since(sent.since).as_micros() as u64);
            }
        }
        counted.messages.fetch_add(answered.messages, Ordering::Relaxed);
        counted.bytes.fetch_add(bytes, Ordering::Relaxed);
        counted.refused.fetch_add(answered.refused, Ordering::Relaxed);
    }
}

/// Runs the lines of one thread until `window` is over and all is answered.
pub(super) fn drive(lines: &mut [Line], window: &Window, counted: &Counted) -> Result<Latencies, LoadError> {
    let mut latencies = Latencies::new();
    let mut room = vec![0; READ_BYTES];
    let mut ready: Vec<PollFlags> = Vec::with_capacity(lines.len());
    loop {
        let mut now = Instant::now();
        let may_begin = now < window.end;
        if !may_begin {
            let unfinished = |line: &Line| line.current.is_some() || !line.in_flight.is_empty();
            if now >= window.end + ANSWERS_TIMEOUT || !lines.iter().any(unfinished) {
                break;
            }
        }
        let mut wait = POLL_TIMEOUT;
        for line in lines.iter_mut() {
            if !line.blocked {
                let mut answered = Answered::default();
                let written = line.write(now, may_begin, &mut answered);
                written.map_err(|error| LoadError::Lost { address: line.address, error })?;
                if answered != Answered::default() {
                    line.settle(answered, now, window, counted, &mut latencies);
                }
            }
            if may_begin && !line.blocked {
                if line.may_begin(now) || line.current.is_some() {
                    wait = Duration::ZERO;
                } else if line.interval.is_some() && line.due > now {
                    wait = wait.min(line.due - now);
                }
            }
        }
        wait_for_sockets(lines, wait, &mut ready)?;
        now = Instant::now();
        for (line, flags) in lines.iter_mut().zip(&ready) {
            line.blocked &= !flags.contains(PollFlags::OUT);
            if flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                let mut answered = Answered::default();
                line.read(&mut room, &mut answered)?;
                line.settle(answered, now, window, counted, &mut latencies);
            }
        }
    }
    latencies.unanswered = lines.iter().map(|line| line.in_flight.len() as u64).sum();
    lines.iter_mut().for_each(Line::leave);
    Ok(latencies)
}

fn wait_for_sockets(lines: &[Line], wait: Duration, ready: &mut Vec<PollFlags>) -> Result<(), LoadError> {
    let interest = |line: &Line| if line.blocked { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
    let mut sockets: Vec<_> = lines.iter().map(|line| PollFd::new(line.stream.tcp(), interest(line))).collect();
    let timeout = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
    match poll(&mut sockets, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(LoadError::Poll(error.into())),
    }
    ready.clear();
    ready.extend(sockets.iter().map(PollFd::revents));
    Ok(())
}
