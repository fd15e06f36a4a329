//! A request while it is read: what its records have in common, what became of each, and where events go.

use std::fmt;

use super::schema::text;
use super::tables::{INSTRUMENTATION_SCOPE, RESOURCE};
use super::value::{KeyValue, Scratch, Value};
use super::writer::{Key, Losses, Scalar, Writer};
use super::{Decoded, Malformed, OtlpError, Output, Signal};
use crate::event::check::Rejections;
use crate::event::protobuf::{
    DELIMITED, DEPTH_BATCH, Fault, VARINT, delimited, field_key, key, put_varint, skip, varint,
};
use crate::event::view::SOURCE;
use crate::limits::{
    EVENT_NAME_BYTES_MAX, FRAME_EVENTS_MAX, OTLP_PREFIX_ATTRIBUTES_MAX, OTLP_PREFIX_BYTES_MAX, TIME_UNIX_NANO_MAX,
};

/// Levels that may be entered within a request.
pub(super) const DEPTH_REQUEST: usize = DEPTH_BATCH;
/// Levels that may be entered within `Resource` and within a record (below the messages for resource and scope).
const DEPTH_RESOURCE: usize = DEPTH_REQUEST - 2;
/// Levels that may be entered within `InstrumentationScope` and within a record.
pub(super) const DEPTH_RECORD: usize = DEPTH_REQUEST - 3;

/// What records have in common: the messages that they are in, as they were sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group<'g> {
    /// A `Resource`.
    pub resource: &'g [u8],
    /// An `InstrumentationScope`.
    pub scope: &'g [u8],
}

/// Attributes that were encoded once for all records of a scope, and the source.
#[derive(Debug)]
pub(super) struct Prefix {
    /// The field `source`; empty: not set.
    source: Vec<u8>,
    /// The attributes that it may come from.
    service: Vec<u8>,
    host: Vec<u8>,
    /// Attributes of the resource, and after them those of the scope.
    attributes: Vec<u8>,
    resource: Mark,
    scope: Mark,
}

/// How far attributes go.
#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    bytes: usize,
    attributes: usize,
    losses: Losses,
}

impl Default for Prefix {
    fn default() -> Self {
        Self {
            source: Vec::new(),
            service: Vec::new(),
            host: Vec::new(),
            attributes: vec![0; OTLP_PREFIX_BYTES_MAX],
            resource: Mark::default(),
            scope: Mark::default(),
        }
    }
}

impl Prefix {
    fn writer(&mut self, mark: Mark) -> Writer<'_> {
        let Mark { bytes, attributes, losses } = mark;
        Writer::attributes(&mut self.attributes, bytes, attributes, OTLP_PREFIX_ATTRIBUTES_MAX, losses)
    }

    /// Appends source, then name and body by `between`, then the attributes.
    #[inline]
    pub(super) fn put(&self, writer: &mut Writer<'_>, between: impl FnOnce(&mut Writer<'_>)) {
        writer.encoded(&self.source, 0);
        between(writer);
        let Mark { bytes, attributes, losses } = self.scope;
        writer.encoded(self.attributes.get(..bytes).unwrap_or_default(), attributes);
        writer.losses.cut |= losses.cut;
        writer.losses.attributes += losses.attributes;
    }
}

/// The part of a record in which its attributes are, with what is between them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Stretch {
    first: usize,
    end: usize,
    /// How many there are.
    pub count: usize,
}

impl Stretch {
    /// A field between these offsets.
    #[inline(always)]
    pub(super) fn add(&mut self, first: usize, end: usize) {
        if self.count == 0 {
            self.first = first;
        }
        self.end = end;
        self.count += 1;
    }

    /// Calls `each` with the content of every field of `key` in the record that the stretch was found in.
    #[inline]
    pub(super) fn each<E>(
        self,
        record: &[u8],
        key: u32,
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rest = record.get(self.first..self.end).unwrap_or_default();
        while !rest.is_empty() {
            // What was found before is found again.
            let Ok((found, after)) = field_key(rest) else { return Ok(()) };
            if found == key {
                let Ok((content, after)) = delimited(after) else { return Ok(()) };
                each(content)?;
                rest = after;
            } else {
                let Ok(after) = skip(found, after, 0, usize::MAX) else { return Ok(()) };
                rest = after;
            }
        }
        Ok(())
    }
}

/// A request while it is read.
pub(super) struct Mapping<'m, O> {
    /// What the request has.
    pub signal: Signal,
    /// Buffers for one record.
    pub scratch: &'m mut Scratch,
    /// What is common to the records of a scope.
    pub prefix: &'m mut Prefix,
    /// Where events go.
    pub out: &'m mut O,
    /// What became of the records so far.
    pub decoded: Decoded,
    total: usize,
}

impl<'m, O: Output> Mapping<'m, O> {
    /// A request of which nothing was read.
    pub(super) fn new(signal: Signal, scratch: &'m mut Scratch, prefix: &'m mut Prefix, out: &'m mut O) -> Self {
        Self { signal, scratch, prefix, out, decoded: Decoded::default(), total: 0 }
    }

    /// The index of the next record.
    pub(super) fn next_record(&self) -> usize {
        self.decoded.accepted + self.decoded.rejected.total
    }

    /// Encodes the attributes of a `Resource`, and its source.
    ///
    /// # Errors
    /// It is malformed.
    pub(super) fn begin_resource(&mut self, resource: &[u8]) -> Result<(), Malformed> {
        self.prefix.source.clear();
        self.scratch.path.clear();
        self.scratch.path.extend_from_slice(b"resource.");
        let mark = self.put_resource(resource)?;
        self.scratch.path.clear();
        (self.prefix.resource, self.prefix.scope) = (mark, mark);
        Ok(())
    }

    fn put_resource(&mut self, resource: &[u8]) -> Result<Mark, Malformed> {
        const ATTRIBUTES: u32 = key(1, DELIMITED);
        const DROPPED: u32 = key(2, VARINT);
        let malformed = |fault: Fault| RESOURCE.malformed(fault);
        let Prefix { source, service, host, attributes, .. } = &mut *self.prefix;
        service.clear();
        host.clear();
        let mut writer = Writer::attributes(attributes, 0, 0, OTLP_PREFIX_ATTRIBUTES_MAX, Losses::default());
        let (mut dropped, mut rest) = (0, resource);
        while !rest.is_empty() {
            let (key, after) = field_key(rest).map_err(malformed)?;
            rest = match key {
                ATTRIBUTES => {
                    let (attribute, after) = delimited(after).map_err(malformed)?;
                    self.scratch.put_attribute(&mut writer, attribute, DEPTH_RESOURCE - 1)?;
                    note_name(attribute, service, host);
                    after
                }
                DROPPED => {
                    let (count, after) = varint(after).map_err(malformed)?;
                    dropped = count as u32;
                    after
                }
                _ => RESOURCE.pass(key, after, DEPTH_RESOURCE)?,
            };
        }
        if dropped > 0 {
            writer.attribute(Key::of("resource.dropped_attributes_count"), Scalar::Int(dropped.into()));
        }
        let name = if service.is_empty() { host } else { service };
        if !name.is_empty() {
            let mut field = [0; EVENT_NAME_BYTES_MAX + 8];
            let mut put = Writer::attributes(&mut field, 0, 0, 0, Losses::default());
            put.text(SOURCE, name, EVENT_NAME_BYTES_MAX);
            writer.losses.cut |= put.losses.cut;
            let (end, _) = put.written();
            source.extend_from_slice(field.get(..end).unwrap_or_default());
        }
        let (bytes, attributes) = writer.written();
        Ok(Mark { bytes, attributes, losses: writer.losses })
    }

    /// Encodes the attributes of an `InstrumentationScope`, after those of the resource.
    ///
    /// # Errors
    /// It is malformed.
    pub(super) fn begin_scope(&mut self, scope: &[u8]) -> Result<(), Malformed> {
        const NAME: u32 = key(1, DELIMITED);
        const VERSION: u32 = key(2, DELIMITED);
        const ATTRIBUTES: u32 = key(3, DELIMITED);
        const DROPPED: u32 = key(4, VARINT);
        let malformed = |fault: Fault| INSTRUMENTATION_SCOPE.malformed(fault);
        self.scratch.path.clear();
        self.scratch.path.extend_from_slice(b"scope.");
        let mark = self.prefix.resource;
        let mut writer = self.prefix.writer(mark);
        let (mut name, mut version, mut dropped) = (&[][..], &[][..], 0);
        let mut rest = scope;
        while !rest.is_empty() {
            let (key, after) = field_key(rest).map_err(malformed)?;
            rest = match key {
                NAME => put(&mut name, text(after)).map_err(malformed)?,
                VERSION => put(&mut version, text(after)).map_err(malformed)?,
                ATTRIBUTES => {
                    let (attribute, after) = delimited(after).map_err(malformed)?;
                    self.scratch.put_attribute(&mut writer, attribute, DEPTH_RECORD - 1)?;
                    after
                }
                DROPPED => {
                    let (count, after) = varint(after).map_err(malformed)?;
                    dropped = count as u32;
                    after
                }
                _ => INSTRUMENTATION_SCOPE.pass(key, after, DEPTH_RECORD)?,
            };
        }
        self.scratch.path.clear();
        // After the scope's own: of two with one key the later one counts.
        for (key, value) in [("scope.name", name), ("scope.version", version)] {
            if !value.is_empty() {
                writer.attribute(Key::of(key), Scalar::Text(value));
            }
        }
        if dropped > 0 {
            writer.attribute(Key::of("scope.dropped_attributes_count"), Scalar::Int(dropped.into()));
        }
        let ((bytes, attributes), losses) = (writer.written(), writer.losses);
        self.prefix.scope = Mark { bytes, attributes, losses };
        Ok(())
    }

    /// Maps one record: a `LogRecord`, `Span` or `Metric`.
    ///
    /// # Errors
    /// It is malformed, or there are too many, or the output takes no more.
    pub(super) fn record(&mut self, group: Group<'_>, record: &[u8]) -> Result<(), OtlpError<O::Error>> {
        match self.signal {
            Signal::Logs => self.log(group, record),
            Signal::Traces => self.span(group, record),
            Signal::Metrics => self.metric(group, record),
        }
    }

    /// There is one more event, or one more record that was rejected.
    ///
    /// # Errors
    /// There are too many.
    pub(super) fn count(&mut self) -> Result<(), OtlpError<O::Error>> {
        self.total += 1;
        if self.total > FRAME_EVENTS_MAX { Err(OtlpError::TooManyEvents { max: FRAME_EVENTS_MAX }) } else { Ok(()) }
    }

    /// Rejects a record that was checked. `pieces`: what it is for a dead letter, within its scope.
    ///
    /// # Errors
    /// There are too many, or the output takes no more.
    pub(super) fn reject(
        &mut self,
        group: Group<'_>,
        pieces: Pieces<'_>,
        reason: impl fmt::Display,
    ) -> Result<(), OtlpError<O::Error>> {
        self.count()?;
        let index = self.next_record();
        self.decoded.rejected.add(index, reason);
        let pieces = pieces.within(2, &[(1, group.scope)]).within(2, &[(1, group.resource)]).within(1, &[]);
        self.out.reject(&pieces.slices()).map_err(OtlpError::Output)
    }
}

/// Remembers the attributes that name the source. It was checked before.
fn note_name(attribute: &[u8], service: &mut Vec<u8>, host: &mut Vec<u8>) {
    let Ok(KeyValue { key, value: Some(value) }) = KeyValue::read(attribute, DEPTH_RESOURCE - 1) else { return };
    let name = match key {
        b"service.name" => service,
        b"host.name" => host,
        _ => return,
    };
    if let Ok(Value::Scalar(Scalar::Text(text))) = Value::read(value, DEPTH_RESOURCE - 2) {
        name.clear();
        name.extend_from_slice(text);
    }
}

/// Takes what was read, and returns what follows.
#[inline(always)]
pub(super) fn put<'a, T>(field: &mut T, read: Result<(T, &'a [u8]), Fault>) -> Result<&'a [u8], Fault> {
    let (value, after) = read?;
    *field = value;
    Ok(after)
}

/// Why a record is rejected whose time or duration no store holds.
pub(super) fn time_in_range(field: &'static str, nanoseconds: u64) -> Result<(), Invalid> {
    if nanoseconds > TIME_UNIX_NANO_MAX { Err(Invalid::Time { field, nanoseconds }) } else { Ok(()) }
}

/// An id of `N` bytes that is not all zeros.
#[inline(always)]
pub(super) fn id<const N: usize>(bytes: &[u8]) -> Option<&[u8]> {
    (bytes.len() == N && bytes.iter().any(|byte| *byte != 0)).then_some(bytes)
}

/// A record that is well-formed and breaks a rule of OTLP.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Invalid {
    /// A time is 2^63 or more.
    #[error("`{field}` is {nanoseconds}: send nanoseconds below 2^63")]
    Time {
        /// Name of the field.
        field: &'static str,
        /// Its value.
        nanoseconds: u64,
    },
    /// This number is not a severity.
    #[error("`severity_number` is {0}: use 1 to 24, or 0 for none")]
    Severity(i32),
    /// An id of a span has the wrong length, or is all zeros.
    #[error("`{field}` has {bytes} bytes{zeros}: send {expected} bytes that are not all zero")]
    Id {
        /// Name of the field.
        field: &'static str,
        /// Its length.
        bytes: usize,
        /// Added to the message where all of them are zero.
        zeros: &'static str,
        /// The length that it must have.
        expected: usize,
    },
    /// A metric has no name.
    #[error("the metric has no `name`")]
    NoName,
    /// A data point has no time.
    #[error("`time_unix_nano` is 0: a data point needs the time at which it was measured")]
    NoTime,
    /// A data point has no value, and no flag that says so.
    #[error("the data point has no value: set `as_double` or `as_int`, or the flag NO_RECORDED_VALUE")]
    NoValue,
    /// A histogram's bounds and counts do not belong together.
    #[error(
        "the histogram has {bounds} `explicit_bounds` and {counts} `bucket_counts`: send one more count than bounds"
    )]
    Buckets {
        /// Number of bounds.
        bounds: usize,
        /// Number of counts.
        counts: usize,
    },
}

/// Bytes of a message in pieces, so that a record is wrapped without being copied.
#[derive(Debug, Clone, Default)]
pub(super) struct Pieces<'p>(Vec<Piece<'p>>);

#[derive(Debug, Clone)]
enum Piece<'p> {
    Sent(&'p [u8]),
    Made(Vec<u8>),
}

impl Piece<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Sent(bytes) => bytes,
            Self::Made(bytes) => bytes,
        }
    }
}

impl<'p> Pieces<'p> {
    /// The content of a message as it was sent.
    pub(super) fn sent(bytes: &'p [u8]) -> Self {
        Self(vec![Piece::Sent(bytes)])
    }

    /// Bytes of fields that were encoded for this.
    pub(super) fn made(bytes: Vec<u8>) -> Self {
        Self(vec![Piece::Made(bytes)])
    }

    /// With these after them.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// These bytes as the field `number` of a message that has `others` before it; empty ones are left out.
    pub(super) fn within(self, number: u32, others: &[(u32, &'p [u8])]) -> Self {
        let mut head = Vec::new();
        let mut pieces = Vec::with_capacity(self.0.len() + 1 + 2 * others.len());
        for (number, bytes) in others.iter().filter(|(_, bytes)| !bytes.is_empty()) {
            put_varint(&mut head, key(*number, DELIMITED).into());
            put_varint(&mut head, bytes.len() as u64);
            pieces.extend([Piece::Made(std::mem::take(&mut head)), Piece::Sent(bytes)]);
        }
        put_varint(&mut head, key(number, DELIMITED).into());
        put_varint(&mut head, self.0.iter().map(|piece| piece.bytes().len() as u64).sum());
        pieces.push(Piece::Made(head));
        pieces.extend(self.0);
        Self(pieces)
    }

    /// All of them, in order.
    pub(super) fn slices(&self) -> Vec<&[u8]> {
        self.0.iter().map(Piece::bytes).collect()
    }
}

/// The rejected records in a few words, for the answer.
pub(super) fn summary(signal: Signal, decoded: &Decoded) -> String {
    let Rejections { named, total } = &decoded.rejected;
    let noun = signal.record();
    let all = decoded.accepted + total;
    let mut text = format!("{total} of {all} {noun}s were rejected");
    for (number, rejection) in named.iter().take(REASONS_NAMED).enumerate() {
        text.push_str(if number == 0 { ": " } else { "; " });
        text.push_str(&format!("{noun} {}: {}", rejection.index, rejection.error));
    }
    if *total > REASONS_NAMED {
        text.push_str("; …");
    }
    text
}

/// Rejected records that an answer names.
const REASONS_NAMED: usize = 8;
