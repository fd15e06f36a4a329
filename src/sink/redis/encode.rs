//! An event as an entry of a stream: fields carry the names of the columns (design, section 6), all values are text, as
//! SQLite's are; what is unset is left out. Nothing is escaped: Redis takes every byte.

use std::io::Write;

use super::connection::Commands;
use crate::batch::Record;
use crate::event::{rfc3339, write_attributes_json};
use crate::ids::write_hex;

/// Fields while they are gathered: a command begins with their number.
#[derive(Debug, Default)]
pub(super) struct Entry {
    fields: Vec<(&'static str, std::ops::Range<usize>)>,
    values: Vec<u8>,
}

impl Entry {
    /// Appends the XADD of an event. `maxlen` 0: the stream is not cut.
    pub(super) fn add(
        &mut self,
        stream: &[u8],
        maxlen: u64,
        server_id: &str,
        record: &Record<'_>,
        commands: &mut Commands,
    ) {
        self.gather(server_id, record);
        let bound = maxlen.to_string();
        let head: &[&[u8]] = if maxlen > 0 {
            &[b"XADD", stream, b"MAXLEN", b"~", bound.as_bytes(), b"*"]
        } else {
            &[b"XADD", stream, b"*"]
        };
        commands.begin(head.len() + 2 * self.fields.len());
        for argument in head {
            commands.argument(argument);
        }
        for (name, value) in &self.fields {
            commands.argument(name.as_bytes());
            commands.argument(self.values.get(value.clone()).unwrap_or_default());
        }
    }

    fn gather(&mut self, server_id: &str, record: &Record<'_>) {
        self.fields.clear();
        self.values.clear();
        let event = &record.event;
        self.text("server_id", server_id);
        self.number("position", record.position);
        self.write("received_at", |out| out.extend_from_slice(&rfc3339::format(record.received_unix_nano)));
        self.write("time", |out| out.extend_from_slice(&rfc3339::format(record.time_unix_nano())));
        self.text("kind", event.kind().name());
        if event.severity() != 0 {
            self.number("severity", event.severity().into());
        }
        self.text("source", record.source());
        self.text("name", event.name());
        self.text("body", event.body());
        if let Some(value) = event.value() {
            self.write("value", |out| write_double(value, out));
        }
        if event.duration_nano() != 0 {
            self.number("duration_nano", event.duration_nano());
        }
        let ids = [
            ("trace_id", event.trace_id().map(<[u8; 16]>::as_slice)),
            ("span_id", event.span_id().map(<[u8; 8]>::as_slice)),
            ("parent_span_id", event.parent_span_id().map(<[u8; 8]>::as_slice)),
        ];
        for (name, id) in ids {
            if let Some(id) = id {
                self.write(name, |out| write_hex(id, out));
            }
        }
        self.text("agent", record.origin.agent.as_deref().unwrap_or_default());
        if event.attributes().next().is_some() {
            self.write("attributes", |out| write_attributes_json(event, out));
        }
    }

    /// Left out where it is empty: unset.
    fn text(&mut self, name: &'static str, text: &str) {
        if !text.is_empty() {
            self.write(name, |out| out.extend_from_slice(text.as_bytes()));
        }
    }

    fn number(&mut self, name: &'static str, number: u64) {
        // Writing into a Vec cannot fail.
        self.write(name, |out| drop(write!(out, "{number}")));
    }

    fn write(&mut self, name: &'static str, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.values.len();
        write(&mut self.values);
        self.fields.push((name, start..self.values.len()));
    }
}

/// As in JSON, and NaN, Infinity, -Infinity.
fn write_double(number: f64, out: &mut Vec<u8>) {
    let text: &[u8] = match number {
        f64::INFINITY => b"Infinity",
        f64::NEG_INFINITY => b"-Infinity",
        number if number.is_nan() => b"NaN",
        number => {
            // As above.
            let _ = serde_json::to_writer(out, &number);
            return;
        }
    };
    out.extend_from_slice(text);
}
