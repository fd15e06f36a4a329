//! `Span` becomes an event, and each of its events one more.

use super::mapping::{DEPTH_RECORD, Group, Invalid, Mapping, Pieces, Stretch, id, put, time_in_range};
use super::schema::{FIXED32, enter, fixed32, text};
use super::tables::{SPAN, SPAN_EVENT, SPAN_LINK, STATUS};
use super::value::JsonText;
use super::writer::{Key, Scalar, Writer};
use super::{Malformed, OtlpError, Output};
use crate::event::proto::EventKind;
use crate::event::protobuf::{DELIMITED, FIXED64, VARINT, delimited, field_key, fixed64, key, varint};
use crate::event::view::{
    DURATION_NANO, KIND, NAME, PARENT_SPAN_ID, SPAN_ID as EVENT_SPAN_ID, TIME_UNIX_NANO, TRACE_ID as EVENT_TRACE_ID,
};
use crate::limits::EVENT_NAME_BYTES_MAX;

const TRACE_ID: u32 = key(1, DELIMITED);
const SPAN_ID: u32 = key(2, DELIMITED);
const TRACE_STATE: u32 = key(3, DELIMITED);
const PARENT_ID: u32 = key(4, DELIMITED);
const SPAN_NAME: u32 = key(5, DELIMITED);
const SPAN_KIND: u32 = key(6, VARINT);
const START_TIME: u32 = key(7, FIXED64);
const END_TIME: u32 = key(8, FIXED64);
const ATTRIBUTES: u32 = key(9, DELIMITED);
const DROPPED_ATTRIBUTES: u32 = key(10, VARINT);
const EVENTS: u32 = key(11, DELIMITED);
const DROPPED_EVENTS: u32 = key(12, VARINT);
const LINKS: u32 = key(13, DELIMITED);
const DROPPED_LINKS: u32 = key(14, VARINT);
const SPAN_STATUS: u32 = key(15, DELIMITED);
const FLAGS: u32 = key(16, FIXED32);

/// The name of a span or of its event that has none.
const UNNAMED: &[u8] = b"span";
const UNNAMED_EVENT: &[u8] = super::logs::UNNAMED;

/// Where the fields of a `Span` are.
#[derive(Default)]
struct Span<'a> {
    trace_id: &'a [u8],
    span_id: &'a [u8],
    trace_state: &'a [u8],
    parent_id: &'a [u8],
    name: &'a [u8],
    kind: i32,
    start_time: u64,
    end_time: u64,
    attributes: Stretch,
    dropped_attributes: u32,
    events: Stretch,
    dropped_events: u32,
    links: Stretch,
    dropped_links: u32,
    status: Status<'a>,
    flags: u32,
}

#[derive(Default)]
struct Status<'a> {
    message: &'a [u8],
    code: i32,
}

#[inline(always)]
fn put_u32<'a>(field: &mut u32, after: &'a [u8]) -> Result<&'a [u8], crate::event::Fault> {
    let (value, after) = varint(after)?;
    *field = value as u32;
    Ok(after)
}

#[inline(always)]
fn put_i32<'a>(field: &mut i32, after: &'a [u8]) -> Result<&'a [u8], crate::event::Fault> {
    let (value, after) = varint(after)?;
    *field = value as i32;
    Ok(after)
}

impl<'a> Span<'a> {
    fn locate(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let malformed = |fault| SPAN.malformed(fault);
        let (mut span, mut rest) = (Self::default(), bytes);
        while !rest.is_empty() {
            let (key, after) = field_key(rest).map_err(malformed)?;
            let first = bytes.len() - rest.len();
            let stretch = |stretch: &mut Stretch| {
                delimited(after).map(|(_, after)| {
                    stretch.add(first, bytes.len() - after.len());
                    after
                })
            };
            rest = match key {
                TRACE_ID => put(&mut span.trace_id, delimited(after)),
                SPAN_ID => put(&mut span.span_id, delimited(after)),
                TRACE_STATE => put(&mut span.trace_state, text(after)),
                PARENT_ID => put(&mut span.parent_id, delimited(after)),
                SPAN_NAME => put(&mut span.name, text(after)),
                SPAN_KIND => put_i32(&mut span.kind, after),
                START_TIME => put(&mut span.start_time, fixed64(after)),
                END_TIME => put(&mut span.end_time, fixed64(after)),
                ATTRIBUTES => stretch(&mut span.attributes),
                DROPPED_ATTRIBUTES => put_u32(&mut span.dropped_attributes, after),
                EVENTS => stretch(&mut span.events),
                DROPPED_EVENTS => put_u32(&mut span.dropped_events, after),
                LINKS => stretch(&mut span.links),
                DROPPED_LINKS => put_u32(&mut span.dropped_links, after),
                SPAN_STATUS => {
                    let (status, after) = delimited(after).map_err(malformed)?;
                    span.status.read(status)?;
                    Ok(after)
                }
                FLAGS => put(&mut span.flags, fixed32(after)),
                _ => Ok(SPAN.pass(key, after, DEPTH_RECORD)?),
            }
            .map_err(malformed)?;
        }
        Ok(span)
    }

    fn judge(&self) -> Result<(), Invalid> {
        required_id::<16>("trace_id", self.trace_id)?;
        required_id::<8>("span_id", self.span_id)?;
        if !self.parent_id.is_empty() && self.parent_id.len() != 8 {
            return Err(Invalid::Id { field: "parent_span_id", bytes: self.parent_id.len(), zeros: "", expected: 8 });
        }
        time_in_range("start_time_unix_nano", self.start_time)?;
        time_in_range("end_time_unix_nano", self.end_time)
    }

    /// `None`: it cannot be told from the times.
    fn duration(&self) -> Option<u64> {
        if self.start_time == 0 { None } else { self.end_time.checked_sub(self.start_time) }
    }
}

impl<'a> Status<'a> {
    /// Reads one occurrence.
    fn read(&mut self, bytes: &'a [u8]) -> Result<(), Malformed> {
        const MESSAGE: u32 = key(2, DELIMITED);
        const CODE: u32 = key(3, VARINT);
        let malformed = |fault| STATUS.malformed(fault);
        let mut rest = bytes;
        while !rest.is_empty() {
            let (key, after) = field_key(rest).map_err(malformed)?;
            rest = match key {
                MESSAGE => put(&mut self.message, text(after)).map_err(malformed)?,
                CODE => put_i32(&mut self.code, after).map_err(malformed)?,
                _ => STATUS.pass(key, after, DEPTH_RECORD - 1)?,
            };
        }
        Ok(())
    }
}

fn required_id<const N: usize>(field: &'static str, bytes: &[u8]) -> Result<(), Invalid> {
    match id::<N>(bytes) {
        Some(_) => Ok(()),
        None => {
            let zeros = if bytes.len() == N { ", all zero" } else { "" };
            Err(Invalid::Id { field, bytes: bytes.len(), zeros, expected: N })
        }
    }
}

/// `SpanEvent`: its time and name, and where its attributes are.
#[derive(Default)]
struct SpanEvent<'a> {
    time: u64,
    name: &'a [u8],
    attributes: Stretch,
    dropped: u32,
}

const EVENT_ATTRIBUTES: u32 = key(3, DELIMITED);

impl<'a> SpanEvent<'a> {
    fn locate(bytes: &'a [u8]) -> Result<Self, Malformed> {
        const TIME: u32 = key(1, FIXED64);
        const NAME: u32 = key(2, DELIMITED);
        const DROPPED: u32 = key(4, VARINT);
        let malformed = |fault| SPAN_EVENT.malformed(fault);
        let (mut event, mut rest) = (Self::default(), bytes);
        while !rest.is_empty() {
            let (key, after) = field_key(rest).map_err(malformed)?;
            rest = match key {
                TIME => put(&mut event.time, fixed64(after)),
                NAME => put(&mut event.name, text(after)),
                EVENT_ATTRIBUTES => delimited(after).map(|(_, after)| {
                    event.attributes.add(bytes.len() - rest.len(), bytes.len() - after.len());
                    after
                }),
                DROPPED => put_u32(&mut event.dropped, after),
                _ => Ok(SPAN_EVENT.pass(key, after, DEPTH_RECORD - 1)?),
            }
            .map_err(malformed)?;
        }
        Ok(event)
    }
}

impl<O: Output> Mapping<'_, O> {
    /// Maps a `Span` with its events.
    ///
    /// # Errors
    /// It is malformed, or there are too many, or the output takes no more.
    pub(super) fn span(&mut self, group: Group<'_>, bytes: &[u8]) -> Result<(), OtlpError<O::Error>> {
        let span = Span::locate(bytes)?;
        let mut judged = span.judge();
        span.events.each(bytes, EVENTS, |event| {
            let event = SpanEvent::locate(event)?;
            if judged.is_ok() {
                judged = time_in_range("events.time_unix_nano", event.time);
            }
            Ok::<_, Malformed>(())
        })?;
        if let Err(invalid) = judged {
            SPAN.validate(bytes, DEPTH_RECORD)?;
            return self.reject(group, Pieces::sent(bytes), invalid);
        }
        self.put_span(&span, bytes)?;
        span.events.each(bytes, EVENTS, |event| self.put_span_event(&span, event))?;
        self.decoded.accepted += 1;
        Ok(())
    }

    fn put_span(&mut self, span: &Span<'_>, bytes: &[u8]) -> Result<(), OtlpError<O::Error>> {
        self.count()?;
        let depth = enter(DEPTH_RECORD).map_err(|fault| SPAN.malformed(fault))?;
        let mut writer = Writer::event(self.out.room().map_err(OtlpError::Output)?);
        if span.start_time > 0 {
            writer.fixed64(TIME_UNIX_NANO, span.start_time);
        }
        writer.varint(KIND, EventKind::Span as u64);
        self.prefix.put(&mut writer, |writer| {
            let name = if span.name.is_empty() { UNNAMED } else { span.name };
            writer.text(NAME, name, EVENT_NAME_BYTES_MAX);
        });
        let scratch = &mut *self.scratch;
        span.attributes.each(bytes, ATTRIBUTES, |attribute| scratch.put_attribute(&mut writer, attribute, depth))?;
        writer.begin_own_attributes();
        put_named(&mut writer, "span.kind", &SPAN_KINDS, span.kind);
        put_named(&mut writer, "status.code", &STATUS_CODES, span.status.code);
        for (name, count) in [
            ("flags", span.flags),
            ("dropped_attributes_count", span.dropped_attributes),
            ("dropped_events_count", span.dropped_events),
            ("dropped_links_count", span.dropped_links),
        ] {
            if count > 0 {
                writer.attribute(Key::of(name), Scalar::Int(count.into()));
            }
        }
        if span.duration().is_none() && span.end_time > 0 {
            writer.attribute(Key::of("end_time"), Scalar::Int(span.end_time as i64));
        }
        for (name, text) in [("trace_state", span.trace_state), ("status.message", span.status.message)] {
            if !text.is_empty() {
                writer.attribute(Key::of(name), Scalar::Text(text));
            }
        }
        if span.links.count > 0 {
            let json = &mut scratch.body;
            json.clear();
            json.raw("[");
            span.links.each(bytes, LINKS, |link| put_link(json, link))?;
            json.raw("]");
            writer.losses.cut |= json.is_cut;
            writer.attribute(Key::of("links"), Scalar::Text(&json.bytes));
        }
        writer.mark_losses();
        if let Some(duration) = span.duration().filter(|duration| *duration > 0) {
            writer.fixed64(DURATION_NANO, duration);
        }
        writer.bytes(EVENT_TRACE_ID, span.trace_id);
        writer.bytes(EVENT_SPAN_ID, span.span_id);
        if let Some(parent) = id::<8>(span.parent_id) {
            writer.bytes(PARENT_SPAN_ID, parent);
        }
        let written = writer.finish();
        self.out.wrote(written);
        self.decoded.events += 1;
        Ok(())
    }

    fn put_span_event(&mut self, span: &Span<'_>, bytes: &[u8]) -> Result<(), OtlpError<O::Error>> {
        self.count()?;
        let event = SpanEvent::locate(bytes)?;
        let mut writer = Writer::event(self.out.room().map_err(OtlpError::Output)?);
        if event.time > 0 {
            writer.fixed64(TIME_UNIX_NANO, event.time);
        }
        writer.varint(KIND, EventKind::Log as u64);
        self.prefix.put(&mut writer, |writer| {
            let name = if event.name.is_empty() { UNNAMED_EVENT } else { event.name };
            writer.text(NAME, name, EVENT_NAME_BYTES_MAX);
        });
        let scratch = &mut *self.scratch;
        let depth = DEPTH_RECORD - 2;
        event
            .attributes
            .each(bytes, EVENT_ATTRIBUTES, |attribute| scratch.put_attribute(&mut writer, attribute, depth))?;
        writer.begin_own_attributes();
        if event.dropped > 0 {
            writer.attribute(Key::of("dropped_attributes_count"), Scalar::Int(event.dropped.into()));
        }
        writer.mark_losses();
        writer.bytes(EVENT_TRACE_ID, span.trace_id);
        writer.bytes(EVENT_SPAN_ID, span.span_id);
        let written = writer.finish();
        self.out.wrote(written);
        self.decoded.events += 1;
        Ok(())
    }
}

/// Names of `SpanKind`, from 1 on.
const SPAN_KINDS: [&str; 5] = ["internal", "server", "client", "producer", "consumer"];
/// Names of `StatusCode`, from 1 on.
const STATUS_CODES: [&str; 2] = ["ok", "error"];

/// Appends the name of an enum's number; the number itself where it is not known, and nothing for 0.
pub(super) fn put_named(writer: &mut Writer<'_>, key: &str, names: &[&str], number: i32) {
    let name = usize::try_from(number).ok().and_then(|number| names.get(number.wrapping_sub(1)));
    match (number, name) {
        (0, _) => {}
        (_, Some(name)) => writer.attribute(Key::of(key), Scalar::Text(name.as_bytes())),
        (number, None) => writer.attribute(Key::of(key), Scalar::Int(number.into())),
    }
}

/// Appends a `Link` as a JSON object.
fn put_link(json: &mut JsonText, bytes: &[u8]) -> Result<(), Malformed> {
    const LINK_TRACE_ID: u32 = key(1, DELIMITED);
    const LINK_SPAN_ID: u32 = key(2, DELIMITED);
    const LINK_TRACE_STATE: u32 = key(3, DELIMITED);
    const LINK_ATTRIBUTES: u32 = key(4, DELIMITED);
    const LINK_DROPPED: u32 = key(5, VARINT);
    const LINK_FLAGS: u32 = key(6, FIXED32);
    let malformed = |fault| SPAN_LINK.malformed(fault);
    let depth = DEPTH_RECORD - 1;
    let (mut trace_id, mut span_id, mut trace_state) = (&[][..], &[][..], &[][..]);
    let (mut attributes, mut dropped, mut flags) = (Stretch::default(), 0, 0);
    let mut rest = bytes;
    while !rest.is_empty() {
        let (key, after) = field_key(rest).map_err(malformed)?;
        rest = match key {
            LINK_TRACE_ID => put(&mut trace_id, delimited(after)),
            LINK_SPAN_ID => put(&mut span_id, delimited(after)),
            LINK_TRACE_STATE => put(&mut trace_state, text(after)),
            LINK_ATTRIBUTES => delimited(after).map(|(_, after)| {
                attributes.add(bytes.len() - rest.len(), bytes.len() - after.len());
                after
            }),
            LINK_DROPPED => put_u32(&mut dropped, after),
            LINK_FLAGS => put(&mut flags, fixed32(after)),
            _ => Ok(SPAN_LINK.pass(key, after, depth)?),
        }
        .map_err(malformed)?;
    }
    json.comma();
    json.raw("{");
    for (name, id) in [("trace_id", trace_id), ("span_id", span_id)] {
        json.key(name);
        json.hex(id);
    }
    if !trace_state.is_empty() {
        json.key("trace_state");
        json.text(trace_state);
    }
    if attributes.count > 0 {
        json.key("attributes");
        json.raw("{");
        attributes.each(bytes, LINK_ATTRIBUTES, |attribute| json.member(attribute, depth - 1))?;
        json.raw("}");
    }
    for (name, count) in [("dropped_attributes_count", dropped), ("flags", flags)] {
        if count > 0 {
            json.key(name);
            json.integer(count);
        }
    }
    json.raw("}");
    Ok(())
}
