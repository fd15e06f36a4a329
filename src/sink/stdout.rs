//! NDJSON on standard output; at least once.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};

use serde::Deserialize;

use super::ndjson::Lines;
use super::{Failure, Identity, Kind, Output, Sink, SinkConfig, Unavailable};
use crate::batch::Delivery;
use crate::escape::escape_lines;

/// What the settings know of it.
pub const KIND: Kind = Kind {
    name: "stdout",
    doc: "One JSON object per line on standard output. At least once.",
    settings: &[],
    parse: |values| Ok(Box::new(values.read::<StdoutSettings>()?)),
};

/// `kind = "stdout"` has no settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StdoutSettings {}

impl SinkConfig for StdoutSettings {
    fn open(&self, _name: &str, identity: &Identity) -> Box<dyn Sink> {
        Box::new(Stdout::new(identity))
    }

    fn output(&self) -> Option<Output> {
        Some(Output::new("standard output"))
    }
}

/// The sink.
pub struct Stdout {
    lines: Lines,
    /// Not `std::io::Stdout`: its buffer would keep what a failed delivery left, and write it in front of the next.
    out: Option<Writer>,
}

/// Standard output. What a terminal would act on is escaped for one, so that an event cannot change it.
struct Writer {
    file: File,
    is_terminal: bool,
}

impl Writer {
    fn new(descriptor: OwnedFd) -> Self {
        Self { is_terminal: descriptor.is_terminal(), file: descriptor.into() }
    }
}

impl Write for Writer {
    /// Called with whole lines of JSON, where escaped text means the same.
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        if !self.is_terminal {
            return self.file.write(lines);
        }
        self.file.write_all(escape_lines(&String::from_utf8_lossy(lines)).as_bytes())?;
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Stdout {
    /// A sink that has written nothing.
    pub fn new(identity: &Identity) -> Self {
        Self { lines: Lines::new(identity), out: None }
    }
}

impl Sink for Stdout {
    fn connect(&mut self) -> Result<Option<u64>, Unavailable> {
        let descriptor = io::stdout().as_fd().try_clone_to_owned();
        let descriptor = descriptor.map_err(|error| Unavailable::down(format!("stdout: {error}")))?;
        self.out = Some(Writer::new(descriptor));
        Ok(None)
    }

    fn deliver(&mut self, delivery: &Delivery) -> Result<(), Failure> {
        let Some(out) = &mut self.out else { return Err(Unavailable::retry("stdout: not open").into()) };
        self.lines.write(delivery, out).map_err(|error| {
            let reason = format!("stdout: {error}");
            match error.kind() {
                // Whoever read it is gone, and no other will come.
                io::ErrorKind::BrokenPipe => Unavailable::down(reason).into(),
                _ => Unavailable::retry(reason).into(),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, pipe};

    use super::super::testing::{delivery, down, identity, without};
    use super::*;

    fn into_pipe() -> (Stdout, io::PipeReader) {
        let (reader, writer) = pipe().unwrap();
        let stdout = Stdout { out: Some(Writer::new(OwnedFd::from(writer))), ..Stdout::new(&identity(1)) };
        (stdout, reader)
    }

    #[test]
    fn writes_a_line_an_event() {
        let (mut stdout, mut reader) = into_pipe();
        stdout.deliver(&without(&delivery(1..=3), &[2])).unwrap();
        drop(stdout);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        let positions: Vec<_> = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["position"].as_u64().unwrap())
            .collect();
        assert_eq!(positions, [1, 3]);
    }

    #[test]
    fn a_terminal_gets_what_it_would_act_on_escaped() {
        let line = "{\"name\":\"\u{9b}2J\u{202e}ö\"}\n";
        for (is_terminal, expected) in [(false, line), (true, "{\"name\":\"\\u009B2J\\u202Eö\"}\n")] {
            let (mut reader, writer) = pipe().unwrap();
            let mut output = Writer { is_terminal, ..Writer::new(OwnedFd::from(writer)) };
            output.write_all(line.as_bytes()).unwrap();
            drop(output);
            let mut written = String::new();
            reader.read_to_string(&mut written).unwrap();
            assert_eq!(written, expected);
        }
    }

    #[test]
    fn a_reader_that_went_away_is_down() {
        let (mut stdout, reader) = into_pipe();
        drop(reader);
        down(stdout.deliver(&delivery(1..=1)));
    }

    #[test]
    fn connects_to_the_real_one() {
        assert_eq!(Stdout::new(&identity(1)).connect(), Ok(None));
    }
}
