//! Rows in the binary format of COPY (PostgreSQL manual, "COPY", Binary Format).
//!
//! ```text
//!  PGCOPY\n\377\r\n\0 │ flags 0 │ extension 0 │ row … row │ -1        row: fields (i16), then each: length (i32), bytes
//! ```
//!
//! What PostgreSQL cannot hold is written in another form, always the same (design, section 6): U+0000 in a text becomes
//! U+FFFD, which a database of another encoding than UTF8 or SQL_ASCII refuses as any other character that it lacks; in `attributes` NaN and infinities are texts and bytes are base64. Times are cut to microseconds, hence
//! `time_unix_nano` beside them.

use crate::batch::Record;
use crate::event::write_attributes_json;

/// In the order in which [`Rows::push`] writes them.
pub(super) const COLUMNS: &[&str] = &[
    "server_id",
    "position",
    "received_at",
    "time",
    "time_unix_nano",
    "kind",
    "severity",
    "source",
    "name",
    "body",
    "value",
    "duration_nano",
    "trace_id",
    "span_id",
    "parent_span_id",
    "agent",
    "attributes",
];

const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const TRAILER: &[u8] = &(-1i16).to_be_bytes();
/// In front of the text of a binary jsonb.
const JSONB_VERSION: u8 = 1;
/// PostgreSQL counts from 2000-01-01T00:00:00Z.
const MICROSECONDS_1970_TO_2000: i64 = 946_684_800_000_000;
/// U+0000 as JSON spells it, which jsonb refuses.
const JSON_NUL: &[u8] = b"\\u0000";
/// What is written for it: U+FFFD itself. As an escape it is refused where the database's encoding is not UTF8, and a
/// database of encoding SQL_ASCII, which takes these bytes as they are, cannot convert the escape at all.
const REPLACEMENT: &[u8] = "\u{FFFD}".as_bytes();

/// The bytes of one COPY while they are written; reused, so that a row costs no allocation.
#[derive(Default)]
pub(super) struct Rows {
    bytes: Vec<u8>,
    attributes: Vec<u8>,
}

impl Rows {
    /// Forgets what was written, and begins a COPY.
    pub(super) fn begin(&mut self) {
        self.bytes.clear();
        self.bytes.extend_from_slice(HEADER);
    }

    /// Appends a row. Its NOT NULL columns are never NULL.
    pub(super) fn push(&mut self, server_id: &[u8; 16], record: &Record<'_>) {
        let event = &record.event;
        self.bytes.extend_from_slice(&(COLUMNS.len() as i16).to_be_bytes());
        self.field(server_id);
        self.field(&record.position.cast_signed().to_be_bytes());
        self.field(&timestamp(record.received_unix_nano));
        let time = record.time_unix_nano();
        self.field(&timestamp(time));
        self.field(&time.cast_signed().to_be_bytes());
        self.field(event.kind().name().as_bytes());
        self.optional((event.severity() != 0).then_some(&i16::from(event.severity()).to_be_bytes()));
        self.text(record.source());
        self.text(event.name());
        self.text(event.body());
        self.optional(event.value().map(f64::to_be_bytes).as_ref());
        self.optional((event.duration_nano() != 0).then_some(&event.duration_nano().to_be_bytes()));
        self.optional(event.trace_id());
        self.optional(event.span_id());
        self.optional(event.parent_span_id());
        self.text(record.origin.agent.as_deref().unwrap_or_default());
        if event.attributes().next().is_none() {
            return self.null();
        }
        let mut attributes = std::mem::take(&mut self.attributes);
        attributes.clear();
        attributes.push(JSONB_VERSION);
        write_attributes_json(event, &mut attributes);
        replace_json_nul(&mut attributes);
        self.field(&attributes);
        self.attributes = attributes;
    }

    /// Ends the COPY.
    pub(super) fn end(&mut self) {
        self.bytes.extend_from_slice(TRAILER);
    }

    /// What is written and not taken yet.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Drops the bytes that were sent.
    pub(super) fn taken(&mut self) {
        self.bytes.clear();
    }

    /// At most some 256 KiB: an event has no more.
    fn field(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(&(value.len() as i32).to_be_bytes());
        self.bytes.extend_from_slice(value);
    }

    fn null(&mut self) {
        self.bytes.extend_from_slice(&(-1i32).to_be_bytes());
    }

    fn optional<const N: usize>(&mut self, value: Option<&[u8; N]>) {
        match value {
            Some(value) => self.field(value),
            None => self.null(),
        }
    }

    /// NULL where it is empty: unset.
    fn text(&mut self, text: &str) {
        if text.is_empty() {
            self.null();
        } else if text.contains('\0') {
            self.field(text.replace('\0', "\u{FFFD}").as_bytes());
        } else {
            self.field(text.as_bytes());
        }
    }
}

fn timestamp(unix_nano: u64) -> [u8; 8] {
    // Divided first: every u64 of nanoseconds fits.
    ((unix_nano / 1_000).cast_signed() - MICROSECONDS_1970_TO_2000).to_be_bytes()
}

/// In place: what is written is shorter. A backslash that is itself escaped begins no escape.
fn replace_json_nul(json: &mut Vec<u8>) {
    let (mut read, mut written) = (0, 0);
    loop {
        let rest = json.get(read..).unwrap_or_default();
        let Some(backslash) = rest.iter().position(|byte| *byte == b'\\') else { break };
        let is_nul = rest.get(backslash..).is_some_and(|escape| escape.starts_with(JSON_NUL));
        // Everything up to the escape, and one that stays.
        let kept = if is_nul { backslash } else { (backslash + 2).min(rest.len()) };
        if written != read {
            json.copy_within(read..read + kept, written);
        }
        (read, written) = (read + kept, written + kept);
        if is_nul {
            if let Some(place) = json.get_mut(written..written + REPLACEMENT.len()) {
                place.copy_from_slice(REPLACEMENT);
            }
            (read, written) = (read + JSON_NUL.len(), written + REPLACEMENT.len());
        }
    }
    if written != read {
        json.copy_within(read.., written);
        json.truncate(json.len() - (read - written));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_escaped_nul_is_replaced() {
        for (json, expected) in [
            ("\"\\u0000\"", "\"\u{FFFD}\""),
            ("\\u0000", "\u{FFFD}"),
            ("\"\\\\u0000\"", "\"\\\\u0000\""),
            ("\"\\\\\\u0000\\u0000\\n\"", "\"\\\\\u{FFFD}\u{FFFD}\\n\""),
            ("\"a\\u0000b\\tc\\u0000\\\"d\\u000\"", "\"a\u{FFFD}b\\tc\u{FFFD}\\\"d\\u000\""),
            ("\"\\u0001\"", "\"\\u0001\""),
            ("\"\\\"", "\"\\\""),
            ("", ""),
        ] {
            let mut bytes = json.as_bytes().to_vec();
            replace_json_nul(&mut bytes);
            assert_eq!(String::from_utf8(bytes).unwrap(), expected, "{json}");
        }
    }

    #[test]
    fn the_range_of_times_fits() {
        assert_eq!(i64::from_be_bytes(timestamp(0)), -MICROSECONDS_1970_TO_2000);
        assert_eq!(i64::from_be_bytes(timestamp(946_684_800_000_000_999)), 0);
        assert!(i64::from_be_bytes(timestamp(u64::MAX)) > 0);
    }
}
