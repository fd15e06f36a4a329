//! Input to frames: lines and JSON values become events, and events frames of one client.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;

use serde::de::IgnoredAny;
use tracing::Level;

use super::super::logging;
use super::elements::{Elements, begins_with_events};
use super::input::{self, Text};
use super::lines::{Line, Lines};
use super::progress::Live;
use super::stop::Stop;
use super::{Ended, Format, LineError, SendError, SendOptions, is_standard_input, shown};
use crate::client::{Batch, Client, Progress, Refusal, Report};
use crate::counted::Counted;
use crate::event::JsonDecoder;
use crate::event::proto::attribute::Value;
use crate::event::proto::{Attribute, Event};
use crate::limits::{EVENT_BODY_BYTES_MAX, SEND_LINE_BYTES_MAX};
use crate::time::now_unix_nano;
use crate::wire::AckLevel;

/// Attribute of an event whose body is the begin of a longer line.
const TRUNCATED: &str = "truncated";

/// What was sent.
#[derive(Debug)]
pub(super) struct Sent {
    pub progress: Progress,
    pub events: u64,
    /// Of all lines, unpacked.
    pub bytes: u64,
    pub level: Option<AckLevel>,
}

/// A client and the frame that is being filled for it.
pub(super) struct Sending<'a> {
    options: &'a SendOptions,
    stop: &'a Stop,
    live: &'a Live,
    client: Arc<Client>,
    batch: Batch,
    max_frame: usize,
    /// Reused for every line of text.
    event: Event,
    /// The event of the last line, encoded.
    line: Batch,
    json: JsonDecoder,
    /// Sequence number and first line of the frames that are not acknowledged: for reports.
    places: VecDeque<(u64, String)>,
    events: u64,
    bytes: u64,
    /// Bytes of the files, as they are on disk.
    read_bytes: Rc<Cell<u64>>,
    /// Lines in which bytes were replaced, and lines that were cut.
    replaced: Noticed,
    truncated: Noticed,
    /// Lines among mapped JSON that are not objects.
    not_json: Noticed,
}

/// How often something was noticed, and where first.
#[derive(Default)]
struct Noticed {
    lines: u64,
    first: String,
}

impl Noticed {
    fn at(&mut self, path: &str, line: u64) {
        if self.lines == 0 {
            self.first = format!("{path}:{line}");
        }
        self.lines += 1;
    }
}

/// What an input is read by.
enum Records {
    Lines(Lines<Text>),
    Values(Elements<Text>),
}

impl Records {
    fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        match self {
            Self::Lines(lines) => lines.next_line(),
            Self::Values(values) => values.next(),
        }
    }

    fn may_wait(&self) -> bool {
        match self {
            Self::Lines(lines) => lines.may_wait(),
            Self::Values(values) => values.may_wait(),
        }
    }

    /// Line on which the last one begins, from 1.
    fn number(&self) -> u64 {
        match self {
            Self::Lines(lines) => lines.number,
            Self::Values(values) => values.number,
        }
    }

    fn bytes_read(&self) -> u64 {
        match self {
            Self::Lines(lines) => lines.bytes_read,
            Self::Values(values) => values.bytes_read,
        }
    }
}

impl<'a> Sending<'a> {
    pub(super) fn new(client: Client, options: &'a SendOptions, stop: &'a Stop, live: &'a Live) -> Self {
        let client = Arc::new(client);
        live.connected(&client);
        Self {
            max_frame: client.max_frame(),
            client,
            batch: Batch::new(),
            event: Event { name: options.name.clone(), ..Event::default() },
            line: Batch::new(),
            json: JsonDecoder::with_options(options.json()),
            places: VecDeque::new(),
            events: 0,
            bytes: 0,
            read_bytes: Rc::default(),
            replaced: Noticed::default(),
            truncated: Noticed::default(),
            not_json: Noticed::default(),
            options,
            stop,
            live,
        }
    }

    /// Reads the file to its end. What it ends with is in a frame that is queued.
    pub(super) fn file(&mut self, path: &Path) -> Result<(), SendError> {
        let name = shown(path);
        if is_standard_input(path) && io::stdin().is_terminal() {
            logging::message(Level::INFO, "reading standard input, each line is an event; Ctrl-D ends it");
        }
        let failed = |source| SendError::Read { path: name.clone(), source };
        let mut text = input::open(path, self.stop, &self.read_bytes).map_err(failed)?;
        let mut format = format_of(self.options, path, &mut text);
        let is_mixed = format == Format::Auto && self.options.map.is_some();
        let mut records = match format {
            Format::Json => Records::Values(Elements::new(text, SEND_LINE_BYTES_MAX)),
            _ => Records::Lines(Lines::new(text, SEND_LINE_BYTES_MAX)),
        };
        // Empty lines before the first that shows the format.
        let mut empty_lines = 0;
        loop {
            if let Some(signal) = self.stop.signal() {
                return Err(SendError::Interrupted { signal });
            }
            if records.may_wait() {
                self.send_batch()?;
            }
            let read_before = records.bytes_read();
            let line = match records.next() {
                Ok(Some(line)) => line,
                Ok(None) => break,
                Err(source) => return Err(self.not_read(&name, &records, source)),
            };
            if format == Format::Auto && !is_mixed {
                if line.bytes.is_empty() {
                    empty_lines += 1;
                } else {
                    format = if self.options.is_event(line.bytes) { Format::Ndjson } else { Format::Text };
                    self.text_lines(if format == Format::Text { empty_lines } else { 0 }, &name)?;
                }
            }
            let done = match format {
                Format::Text => Ok(Some(self.text(&line))),
                Format::Ndjson | Format::Json => self.json(&line).map(|is_event| is_event.then(Found::default)),
                Format::Auto if is_mixed => self.json_or_text(&line),
                Format::Auto => Ok(None),
            };
            let number = records.number();
            let found = done.map_err(|error| SendError::Line { path: name.clone(), line: number, error })?;
            self.bytes += records.bytes_read() - read_before;
            if let Some(found) = found {
                self.push(found, &name, number)?;
            }
        }
        if format == Format::Auto && !is_mixed {
            self.text_lines(empty_lines, &name)?;
        }
        self.send_batch()
    }

    fn not_read(&self, name: &str, records: &Records, source: io::Error) -> SendError {
        if let Some(signal) = self.stop.signal() {
            return SendError::Interrupted { signal };
        }
        let path = match records {
            Records::Lines(_) => name.to_owned(),
            Records::Values(values) => format!("{name}:{}", values.number),
        };
        SendError::Read { path, source }
    }

    /// The first `count` lines, which are empty, as text.
    fn text_lines(&mut self, count: u64, name: &str) -> Result<(), SendError> {
        for number in 1..=count {
            let found = self.text(&Line { bytes: b"", cut_bytes: 0 });
            self.push(found, name, number)?;
        }
        Ok(())
    }

    /// Makes `self.line` of a line of text.
    fn text(&mut self, line: &Line<'_>) -> Found {
        let (body, found) = body(line);
        self.event.body.clear();
        self.event.body.push_str(&body);
        self.event.attributes.clear();
        if found.truncated {
            let value = Some(Value::BoolValue(true));
            self.event.attributes.push(Attribute { key: TRUNCATED.to_owned(), value });
        }
        self.event.time_unix_nano = now_unix_nano();
        self.line.clear();
        self.line.push(&self.event);
        found
    }

    /// Makes `self.line` of an event as JSON; `false`: the line is empty.
    fn json(&mut self, line: &Line<'_>) -> Result<bool, LineError> {
        if line.cut_bytes > 0 {
            return Err(LineError::JsonTooLong { found: line.bytes.len() as u64 + line.cut_bytes });
        }
        self.line.clear();
        let taken = self.json.lines(line.bytes, |event| {
            self.line.append(event, 1);
            Ok::<_, Infallible>(())
        });
        match taken {
            Ok(decoded) => match decoded.rejected.named.into_iter().next() {
                Some(rejection) => Err(LineError::Json(rejection.error)),
                None => Ok(decoded.accepted > 0),
            },
            Err(error) => Err(LineError::Json(error.to_string())),
        }
    }

    /// Makes `self.line` of a line among the JSON that a program writes: an object is an event as JSON, whatever else it prints is
    /// text. `None`: the line is empty.
    fn json_or_text(&mut self, line: &Line<'_>) -> Result<Option<Found>, LineError> {
        match self.json(line) {
            Ok(is_event) => Ok(is_event.then(Found::default)),
            Err(error) if is_object(line) => Err(error),
            Err(_) => Ok(Some(Found { is_other: true, ..self.text(line) })),
        }
    }

    /// Puts `self.line` into the frame.
    fn push(&mut self, found: Found, path: &str, line: u64) -> Result<(), SendError> {
        if found.replaced {
            self.replaced.at(path, line);
        }
        if found.truncated {
            self.truncated.at(path, line);
        }
        if found.is_other {
            self.not_json.at(path, line);
        }
        if !self.batch.has_room(self.line.bytes().len(), self.max_frame) {
            self.send_batch()?;
        }
        if self.batch.is_empty() {
            // The number that the frame is going to get.
            self.places.push_back((self.client.progress().last_seq + 1, format!("{path}:{line}")));
        }
        self.batch.append(self.line.bytes(), 1);
        self.events += 1;
        Ok(())
    }

    fn send_batch(&mut self) -> Result<(), SendError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.live.sent(self.events, self.read_bytes.get());
        self.client.send_encoded(self.batch.bytes(), self.batch.events())?;
        self.batch.clear();
        self.report();
        Ok(())
    }

    /// Waits for the last acknowledgement, and closes the connection.
    pub(super) fn finish(mut self) -> Result<Sent, Ended> {
        if let Err(error) = self.send_batch() {
            return Err(self.failed(error));
        }
        self.live.all_sent(self.events, self.read_bytes.get());
        let flushed = self.client.flush(None);
        self.report();
        if let Err(error) = flushed {
            return Err(self.failed(error.into()));
        }
        self.live.clear();
        self.warn_of_changes();
        let (events, bytes, live) = (self.events, self.bytes, self.live);
        let (level, acknowledged) = (self.client.welcome().map(|welcome| welcome.ack), self.client.progress());
        let progress = match close(self.client, acknowledged, live) {
            Ok(progress) => progress,
            Err(error) => return Err(Ended { error: Box::new(error), progress: acknowledged, events }),
        };
        if progress.possibly_doubled_events > 0 {
            live.warn(&format!(
                "{} may be stored twice: the server lost its state, or another one took over",
                Counted(progress.possibly_doubled_events, "event")
            ));
        }
        let refused = progress.refused_events + progress.set_aside_events;
        if refused > 0 {
            let error = Box::new(SendError::Refused { refused, events });
            return Err(Ended { error, progress, events });
        }
        Ok(Sent { progress, events, bytes, level })
    }

    /// The command ends with this error.
    pub(super) fn failed(&self, error: SendError) -> Ended {
        self.live.clear();
        self.warn_of_changes();
        let progress = self.client.progress();
        self.live.closing(progress);
        Ended { error: Box::new(error), progress, events: self.events }
    }

    fn warn_of_changes(&self) {
        if self.replaced.lines > 0 {
            let Noticed { lines, first } = &self.replaced;
            self.live.warn(&format!("lines with bytes that are not UTF-8, replaced by U+FFFD: {lines}, first {first}"));
        }
        if self.truncated.lines > 0 {
            let Noticed { lines, first } = &self.truncated;
            self.live.warn(&format!("lines truncated to 64 KiB and marked {TRUNCATED} = true: {lines}, first {first}"));
        }
        if self.not_json.lines > 0 {
            let Noticed { lines, first } = &self.not_json;
            self.live.warn(&format!("lines that are not JSON objects, sent as text: {lines}, first {first}"));
        }
    }

    /// Prints what the server refused, and where those lines begin.
    fn report(&mut self) {
        for report in self.client.take_reports() {
            let (seq, events, refused, reason) = match report {
                Report::Refused(Refusal { seq, events, refused, reason, .. }) => (seq, events, refused, reason),
                Report::SetAside { seq, events, .. } => (seq, events, events, "the server cannot read them".to_owned()),
            };
            let place = self.places.iter().find(|(number, _)| *number == seq).map_or("", |(_, place)| place.as_str());
            let (events, are) = (Counted(events.into(), "event"), if refused == 1 { "is" } else { "are" });
            self.live.warn(&format!("{place}: {refused} of the {events} from here on {are} refused: {reason}"));
        }
        let acked_seq = self.client.progress().acked_seq;
        while self.places.front().is_some_and(|(seq, _)| *seq <= acked_seq) {
            self.places.pop_front();
        }
    }
}

/// Closes the connection; the thread that watches for signals ends the process where this takes too long.
fn close(client: Arc<Client>, progress: Progress, live: &Live) -> Result<Progress, SendError> {
    live.closing(progress);
    match Arc::into_inner(client) {
        Some(client) => Ok(client.close(None)?),
        // The thread that ends the process after a signal has it.
        None => loop {
            thread::park();
        },
    }
}

/// The format that is asked for; of `Auto` what name and begin of the input say. `Auto`: the first line decides.
fn format_of(options: &SendOptions, path: &Path, text: &mut Text) -> Format {
    if options.format != Format::Auto {
        return options.format;
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let name = name.strip_suffix(".gz").unwrap_or(name);
    match name.rsplit_once('.').map_or("", |(_, end)| end) {
        "ndjson" | "jsonl" => Format::Ndjson,
        end if begins_with_events(text, end == "json", |object| options.is_event(object)) => Format::Json,
        // They are about JSON: without it, a line is wrong.
        _ if options.map.is_none() && (options.unknown.is_some() || options.time.is_some()) => Format::Ndjson,
        _ => Format::Auto,
    }
}

/// Whether a line is a JSON object, or one that is too long to be looked at.
fn is_object(line: &Line<'_>) -> bool {
    let begins_like_one = line.bytes.trim_ascii_start().starts_with(b"{");
    begins_like_one && (line.cut_bytes > 0 || serde_json::from_slice::<IgnoredAny>(line.bytes).is_ok())
}

/// What was done to a line so that it fits into an event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Found {
    /// Bytes that are not UTF-8 were replaced.
    replaced: bool,
    truncated: bool,
    /// It is not the JSON that was asked for.
    is_other: bool,
}

/// A line as the body of an event: valid UTF-8, cut at a character.
fn body<'l>(line: &Line<'l>) -> (Cow<'l, str>, Found) {
    let end = boundary(line.bytes, EVENT_BODY_BYTES_MAX);
    let mut found = Found { truncated: line.cut_bytes > 0 || end < line.bytes.len(), ..Found::default() };
    let bytes = line.bytes.get(..end).unwrap_or(line.bytes);
    let mut text = match simdutf8::basic::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => {
            found.replaced = true;
            String::from_utf8_lossy(bytes)
        }
    };
    // U+FFFD takes three bytes, and may stand for one.
    if text.len() > EVENT_BODY_BYTES_MAX {
        found.truncated = true;
        let end = boundary(text.as_bytes(), EVENT_BODY_BYTES_MAX);
        text.to_mut().truncate(end);
    }
    (text, found)
}

/// The largest number of bytes, up to `max`, that does not end within a character of UTF-8.
fn boundary(bytes: &[u8], max: usize) -> usize {
    if bytes.len() <= max {
        return bytes.len();
    }
    let continues = |at: usize| bytes.get(at).is_some_and(|byte| byte & 0xC0 == 0x80);
    // A character has at most three bytes after its first; what has more is not UTF-8 anyway.
    let begin = (max.saturating_sub(3)..=max).rev().find(|at| !continues(*at));
    begin.unwrap_or(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_at_a_character() {
        let max = EVENT_BODY_BYTES_MAX;
        let cut = |bytes: &[u8], cut_bytes: u64| {
            let (text, found) = body(&Line { bytes, cut_bytes });
            (text.len(), found)
        };
        let plain = Found::default();
        let truncated = Found { truncated: true, ..plain };
        assert_eq!(cut(b"", 0), (0, plain));
        assert_eq!(cut(&vec![b'x'; max], 0), (max, plain));
        assert_eq!(cut(&vec![b'x'; max], 1), (max, truncated));
        assert_eq!(cut(&vec![b'x'; max + 1], 0), (max, truncated));
        for character in ["é", "€", "😀"] {
            for before in 1..character.len() {
                let line = format!("{}{character}y", "x".repeat(max - before));
                assert_eq!(cut(line.as_bytes(), 0), (max - before, truncated), "{before} bytes of {character}");
            }
        }
        let invalid = vec![0xFF; max];
        assert_eq!(cut(&invalid, 0), (max / 3 * 3, Found { replaced: true, ..truncated }));
        assert_eq!(cut(&vec![0x80; max + 9], 0), (max / 3 * 3, Found { replaced: true, ..truncated }));
    }
}
