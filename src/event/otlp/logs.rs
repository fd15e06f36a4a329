//! `LogRecord` becomes one event.

use super::mapping::{DEPTH_RECORD, Group, Invalid, Mapping, Pieces, Stretch, id, put, time_in_range};
use super::parts::Parts;
use super::schema::{enter, fixed32, text};
use super::tables::LOG_RECORD;
use super::value::Value;
use super::writer::{Key, Scalar, Writer};
use super::{Malformed, OtlpError, Output};
use crate::event::proto::EventKind;
use crate::event::protobuf::{DELIMITED, FIXED64, VARINT, delimited, field_key, fixed64, key, varint};
use crate::event::view::{BODY, KIND, NAME, SEVERITY, SPAN_ID, TIME_UNIX_NANO, TRACE_ID};
use crate::limits::{EVENT_BODY_BYTES_MAX, EVENT_NAME_BYTES_MAX, SEVERITY_MAX};

const TIME: u32 = key(1, FIXED64);
const SEVERITY_NUMBER: u32 = key(2, VARINT);
const SEVERITY_TEXT: u32 = key(3, DELIMITED);
const LOG_BODY: u32 = key(5, DELIMITED);
const ATTRIBUTES: u32 = key(6, DELIMITED);
const DROPPED: u32 = key(7, VARINT);
const FLAGS: u32 = key(8, super::schema::FIXED32);
const LOG_TRACE_ID: u32 = key(9, DELIMITED);
const LOG_SPAN_ID: u32 = key(10, DELIMITED);
const OBSERVED_TIME: u32 = key(11, FIXED64);
const EVENT_NAME: u32 = key(12, DELIMITED);

/// The name of a log record that has neither a name nor a body.
pub(super) const UNNAMED: &[u8] = b"log";

/// Where the fields of a `LogRecord` are.
#[derive(Default)]
struct LogRecord<'a> {
    time: u64,
    observed_time: u64,
    severity: i32,
    severity_text: &'a [u8],
    body: Option<Parts<'a>>,
    attributes: Stretch,
    dropped: u32,
    flags: u32,
    trace_id: &'a [u8],
    span_id: &'a [u8],
    event_name: &'a [u8],
}

impl<'a> LogRecord<'a> {
    fn locate(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let malformed = |fault| LOG_RECORD.malformed(fault);
        let (mut log, mut rest) = (Self::default(), bytes);
        while !rest.is_empty() {
            let (key, after) = field_key(rest).map_err(malformed)?;
            rest = match key {
                TIME => put(&mut log.time, fixed64(after)),
                OBSERVED_TIME => put(&mut log.observed_time, fixed64(after)),
                SEVERITY_NUMBER => varint(after).map(|(value, after)| {
                    log.severity = value as i32;
                    after
                }),
                SEVERITY_TEXT => put(&mut log.severity_text, text(after)),
                LOG_BODY => {
                    let (body, after) = delimited(after).map_err(malformed)?;
                    Parts::add(&mut log.body, body, (bytes, LOG_BODY));
                    Ok(after)
                }
                ATTRIBUTES => delimited(after).map(|(_, after)| {
                    log.attributes.add(bytes.len() - rest.len(), bytes.len() - after.len());
                    after
                }),
                DROPPED => varint(after).map(|(value, after)| {
                    log.dropped = value as u32;
                    after
                }),
                FLAGS => put(&mut log.flags, fixed32(after)),
                LOG_TRACE_ID => put(&mut log.trace_id, delimited(after)),
                LOG_SPAN_ID => put(&mut log.span_id, delimited(after)),
                EVENT_NAME => put(&mut log.event_name, text(after)),
                _ => Ok(LOG_RECORD.pass(key, after, DEPTH_RECORD)?),
            }
            .map_err(malformed)?;
        }
        Ok(log)
    }

    fn time(&self) -> u64 {
        if self.time == 0 { self.observed_time } else { self.time }
    }

    fn judge(&self) -> Result<(), Invalid> {
        time_in_range("time_unix_nano", self.time())?;
        if !(0..=SEVERITY_MAX).contains(&self.severity) {
            return Err(Invalid::Severity(self.severity));
        }
        Ok(())
    }
}

impl<O: Output> Mapping<'_, O> {
    /// Maps a `LogRecord`.
    ///
    /// # Errors
    /// It is malformed, or there are too many, or the output takes no more.
    pub(super) fn log(&mut self, group: Group<'_>, bytes: &[u8]) -> Result<(), OtlpError<O::Error>> {
        let log = LogRecord::locate(bytes)?;
        if let Err(invalid) = log.judge() {
            LOG_RECORD.validate(bytes, DEPTH_RECORD)?;
            return self.reject(group, Pieces::sent(bytes), invalid);
        }
        self.count()?;
        let depth = enter(DEPTH_RECORD).map_err(|fault| LOG_RECORD.malformed(fault))?;
        let mut json = std::mem::take(&mut self.scratch.body);
        let body = match log.body {
            None => Value::None,
            Some(body) => Value::read(body, depth)?,
        };
        let body = match body {
            Value::None => &[][..],
            Value::Scalar(Scalar::Text(text)) => text,
            value => {
                json.clear();
                json.value(&value, depth)?;
                &json.bytes
            }
        };
        let mut writer = Writer::event(self.out.room().map_err(OtlpError::Output)?);
        if log.time() > 0 {
            writer.fixed64(TIME_UNIX_NANO, log.time());
        }
        writer.varint(KIND, EventKind::Log as u64);
        if log.severity > 0 {
            writer.varint(SEVERITY, log.severity as u64);
        }
        self.prefix.put(&mut writer, |writer| {
            let name = if log.event_name.is_empty() && body.is_empty() { UNNAMED } else { log.event_name };
            if !name.is_empty() {
                writer.text(NAME, name, EVENT_NAME_BYTES_MAX);
            }
            if !body.is_empty() {
                writer.text(BODY, body, EVENT_BODY_BYTES_MAX);
            }
        });
        let scratch = &mut *self.scratch;
        log.attributes.each(bytes, ATTRIBUTES, |attribute| scratch.put_attribute(&mut writer, attribute, depth))?;
        writer.begin_own_attributes();
        if !log.severity_text.is_empty() {
            writer.attribute(Key::of("severity_text"), Scalar::Text(log.severity_text));
        }
        for (name, value) in [("flags", log.flags), ("dropped_attributes_count", log.dropped)] {
            if value > 0 {
                writer.attribute(Key::of(name), Scalar::Int(value.into()));
            }
        }
        writer.mark_losses();
        if let Some(id) = id::<16>(log.trace_id) {
            writer.bytes(TRACE_ID, id);
        }
        if let Some(id) = id::<8>(log.span_id) {
            writer.bytes(SPAN_ID, id);
        }
        let written = writer.finish();
        self.out.wrote(written);
        self.scratch.body = json;
        self.decoded.accepted += 1;
        self.decoded.events += 1;
        Ok(())
    }
}
