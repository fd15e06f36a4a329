//! JSON out: an event as one object with the names of JSON in, and where it was received. For NDJSON sinks, dead letters
//! and the `attributes` column.
//!
//! Unset fields are left out; `kind` is always there. Times are RFC 3339 UTC with nine digits. Bytes are base64. NaN and
//! infinities, which JSON numbers cannot be, are texts. Each attribute stands once: of two with one key the later one.
//! Nothing allocates but `out`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::rfc3339;
use super::view::{AttributeValue, EventKind, EventRef};
use crate::ids::{write_hex, write_uuid};
use crate::limits::{EVENT_ATTRIBUTES_MAX, STEP_ATTRIBUTES_MAX};

/// The content of one line: an event and, where they are known, its position and origin.
#[derive(Debug, Clone, Copy)]
pub struct JsonRecord<'a> {
    /// The server that received the event; `None`: left out.
    pub server_id: Option<[u8; 16]>,
    /// The event's position; `None`: left out.
    pub position: Option<u64>,
    /// When the server received the event, nanoseconds since 1970-01-01T00:00:00Z; `None`: left out.
    pub received_unix_nano: Option<u64>,
    /// The agent's id as text; `None`: left out.
    pub agent: Option<&'a str>,
    /// The event's own source, or what stands in for it; empty: left out.
    pub source: &'a str,
    /// The event's own time, or what stands in for it; 0: left out.
    pub time_unix_nano: u64,
    /// The event itself.
    pub event: EventRef<'a>,
}

impl<'a> JsonRecord<'a> {
    /// The event alone: JSON in takes it back.
    pub fn event(event: EventRef<'a>) -> Self {
        Self {
            server_id: None,
            position: None,
            received_unix_nano: None,
            agent: None,
            source: event.source(),
            time_unix_nano: event.time_unix_nano(),
            event,
        }
    }
}

impl EventKind {
    /// The name in JSON and in the stores.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unspecified | Self::Log => "log",
            Self::Gauge => "gauge",
            Self::Counter => "counter",
            Self::Span => "span",
            Self::Histogram => "histogram",
            Self::Summary => "summary",
        }
    }
}

/// Appends the record as one JSON object, without a newline.
pub fn write_json(record: &JsonRecord<'_>, out: &mut Vec<u8>) {
    let event = &record.event;
    let mut object = Object::begin(out);
    if let Some(server_id) = &record.server_id {
        object.key("server_id");
        object.out.push(b'"');
        write_uuid(server_id, object.out);
        object.out.push(b'"');
    }
    if let Some(position) = record.position {
        object.key("position");
        write_number(position, object.out);
    }
    if let Some(received) = record.received_unix_nano {
        object.key("received_at");
        write_time(received, object.out);
    }
    if let Some(agent) = record.agent {
        object.key("agent");
        write_text(agent, object.out);
    }
    if record.time_unix_nano != 0 {
        object.key("time");
        write_time(record.time_unix_nano, object.out);
    }
    object.key("kind");
    write_text(event.kind().name(), object.out);
    if event.severity() != 0 {
        object.key("severity");
        write_number(u64::from(event.severity()), object.out);
    }
    for (name, text) in [("source", record.source), ("name", event.name()), ("body", event.body())] {
        if !text.is_empty() {
            object.key(name);
            write_text(text, object.out);
        }
    }
    if event.attributes().next().is_some() {
        object.key("attributes");
        write_attributes_json(event, object.out);
    }
    if let Some(value) = event.value() {
        object.key("value");
        write_double(value, object.out);
    }
    if event.duration_nano() != 0 {
        object.key("duration_nano");
        write_number(event.duration_nano(), object.out);
    }
    let ids = [
        ("trace_id", event.trace_id().map(<[u8; 16]>::as_slice)),
        ("span_id", event.span_id().map(<[u8; 8]>::as_slice)),
        ("parent_span_id", event.parent_span_id().map(<[u8; 8]>::as_slice)),
    ];
    for (name, id) in ids {
        if let Some(id) = id {
            object.key(name);
            object.out.push(b'"');
            write_hex(id, object.out);
            object.out.push(b'"');
        }
    }
    object.end();
}

/// Appends the attributes as one JSON object; `{}` where there are none.
pub fn write_attributes_json(event: &EventRef<'_>, out: &mut Vec<u8>) {
    // Room for as many as an event can have costs more to make than most events cost to write.
    const FEW: usize = 16;
    let mut few = [UNSET; FEW];
    let gathered = gather(event, &mut few);
    if gathered.len() < FEW {
        return write_attributes(gathered, out);
    }
    let mut all = [UNSET; EVENT_ATTRIBUTES_MAX + STEP_ATTRIBUTES_MAX];
    write_attributes(gather(event, &mut all), out);
}

type Attribute<'a> = (&'a str, AttributeValue<'a>);
const UNSET: Attribute<'_> = ("", AttributeValue::Null);

/// Reads each attribute once, as many as `room` takes.
fn gather<'r, 'a>(event: &EventRef<'a>, room: &'r mut [Attribute<'a>]) -> &'r [Attribute<'a>] {
    let mut count = 0;
    for (place, attribute) in room.iter_mut().zip(event.attributes()) {
        *place = attribute;
        count += 1;
    }
    room.get(..count).unwrap_or_default()
}

fn write_attributes(attributes: &[Attribute<'_>], out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    let mut rest = attributes;
    while let Some(((key, value), later)) = rest.split_first() {
        rest = later;
        // A duplicate is found by its key among the later ones.
        if !later.iter().any(|(later, _)| later == key) {
            object.text_key(key);
            write_value(*value, object.out);
        }
    }
    object.end();
}

fn write_value(value: AttributeValue<'_>, out: &mut Vec<u8>) {
    match value {
        AttributeValue::Null => out.extend_from_slice(b"null"),
        AttributeValue::String(text) => write_text(text, out),
        AttributeValue::Int(number) => write_number(number, out),
        AttributeValue::Double(number) => write_double(number, out),
        AttributeValue::Bool(yes) => out.extend_from_slice(if yes { b"true" } else { b"false" }),
        AttributeValue::Bytes(bytes) => {
            out.push(b'"');
            write_base64(bytes, out);
            out.push(b'"');
        }
    }
}

/// An object while it is written: the commas.
struct Object<'o> {
    out: &'o mut Vec<u8>,
    is_empty: bool,
}

impl<'o> Object<'o> {
    fn begin(out: &'o mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, is_empty: true }
    }

    fn comma(&mut self) {
        if !self.is_empty {
            self.out.push(b',');
        }
        self.is_empty = false;
    }

    /// A key that needs no escapes.
    fn key(&mut self, name: &'static str) {
        self.comma();
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn text_key(&mut self, name: &str) {
        self.comma();
        write_text(name, self.out);
        self.out.push(b':');
    }

    fn end(self) {
        self.out.push(b'}');
    }
}

/// Appends a text in quotes.
pub(super) fn write_text(text: &str, out: &mut Vec<u8>) {
    // Writing to a Vec cannot fail.
    let _ = serde_json::to_writer(out, text);
}

/// Appends a number; not a float that is NaN or infinite.
pub(super) fn write_number(number: impl serde::Serialize, out: &mut Vec<u8>) {
    // As above.
    let _ = serde_json::to_writer(out, &number);
}

/// Appends a number; NaN and infinities as texts.
pub(super) fn write_double(number: f64, out: &mut Vec<u8>) {
    if number.is_finite() {
        write_number(number, out);
    } else {
        let text: &[u8] = match number {
            f64::INFINITY => b"\"Infinity\"",
            f64::NEG_INFINITY => b"\"-Infinity\"",
            _ => b"\"NaN\"",
        };
        out.extend_from_slice(text);
    }
}

fn write_time(unix_nano: u64, out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(&rfc3339::format(unix_nano));
    out.push(b'"');
}

/// Appends base64 with padding (RFC 4648, section 4).
pub fn write_base64(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = STANDARD.encode_slice(bytes, out.get_mut(start..).unwrap_or_default());
    debug_assert_eq!(written, Ok(out.len() - start), "the room is that of the text");
}
