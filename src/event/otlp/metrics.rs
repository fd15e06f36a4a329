//! `Metric`: each of its data points becomes an event.

use super::mapping::{DEPTH_RECORD, Group, Invalid, Mapping, Pieces, Stretch, put, time_in_range};
use super::parts::{Joined, join};
use super::points::{POINT_DEPTH, Point};
use super::schema::{Message, enter, text};
use super::tables::{
    EXPONENTIAL_HISTOGRAM, EXPONENTIAL_HISTOGRAM_DATA_POINT, GAUGE, HISTOGRAM, HISTOGRAM_DATA_POINT, METRIC,
    NUMBER_DATA_POINT, SUM, SUMMARY, SUMMARY_DATA_POINT,
};
use super::traces::put_named;
use super::writer::{Key, Scalar, Writer};
use super::{Malformed, OtlpError, Output};
use crate::event::proto::EventKind;
use crate::event::protobuf::{DELIMITED, VARINT, delimited, field_key, key, put_varint, varint};
use crate::event::view::{BODY, KIND, NAME as EVENT_NAME, TIME_UNIX_NANO, VALUE};
use crate::limits::{EVENT_BODY_BYTES_MAX, EVENT_NAME_BYTES_MAX};

const NAME: u32 = key(1, DELIMITED);
const UNIT: u32 = key(3, DELIMITED);

/// The kinds of data that a metric may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// `Gauge`.
    Gauge,
    /// `Sum`.
    Sum,
    /// `Histogram`.
    Histogram,
    /// `ExponentialHistogram`.
    Exponential,
    /// `Summary`.
    Summary,
}

impl Shape {
    fn of(number: u32) -> Option<Self> {
        Some(match number {
            5 => Self::Gauge,
            7 => Self::Sum,
            9 => Self::Histogram,
            10 => Self::Exponential,
            11 => Self::Summary,
            _ => return None,
        })
    }

    fn number(self) -> u32 {
        match self {
            Self::Gauge => 5,
            Self::Sum => 7,
            Self::Histogram => 9,
            Self::Exponential => 10,
            Self::Summary => 11,
        }
    }

    fn message(self) -> &'static Message {
        match self {
            Self::Gauge => &GAUGE,
            Self::Sum => &SUM,
            Self::Histogram => &HISTOGRAM,
            Self::Exponential => &EXPONENTIAL_HISTOGRAM,
            Self::Summary => &SUMMARY,
        }
    }

    /// The message of its data points.
    pub(super) fn point(self) -> &'static Message {
        match self {
            Self::Gauge | Self::Sum => &NUMBER_DATA_POINT,
            Self::Histogram => &HISTOGRAM_DATA_POINT,
            Self::Exponential => &EXPONENTIAL_HISTOGRAM_DATA_POINT,
            Self::Summary => &SUMMARY_DATA_POINT,
        }
    }
}

/// Where the fields of a `Metric` are.
#[derive(Default)]
struct Metric<'a> {
    name: &'a [u8],
    unit: &'a [u8],
    data: Option<(Shape, Joined<'a>)>,
}

impl<'a> Metric<'a> {
    fn locate(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let malformed = |fault| METRIC.malformed(fault);
        let (mut metric, mut rest) = (Self::default(), bytes);
        while !rest.is_empty() {
            let (key, after) = field_key(rest).map_err(malformed)?;
            rest = match (key, Shape::of(key >> 3)) {
                (NAME, _) => put(&mut metric.name, text(after)).map_err(malformed)?,
                (UNIT, _) => put(&mut metric.unit, text(after)).map_err(malformed)?,
                (_, Some(shape)) if key & 7 == DELIMITED => {
                    let (data, after) = delimited(after).map_err(malformed)?;
                    metric.add(shape, data)?;
                    after
                }
                _ => METRIC.pass(key, after, DEPTH_RECORD)?,
            };
        }
        Ok(metric)
    }

    /// The last kind of data counts; what comes in several parts is joined.
    fn add(&mut self, shape: Shape, data: &'a [u8]) -> Result<(), Malformed> {
        match &mut self.data {
            Some((found, parts)) if *found == shape => join(parts, data, shape.message(), DATA_DEPTH)?,
            _ => {
                if let Some((replaced, Some(data))) = &self.data {
                    replaced.message().validate(data, DATA_DEPTH)?;
                }
                self.data = Some((shape, Some(data.into())));
            }
        }
        Ok(())
    }
}

/// Levels that may be entered within the data of a metric.
const DATA_DEPTH: usize = DEPTH_RECORD - 1;

/// What the points of a metric have in common.
#[derive(Clone, Copy)]
struct Data<'a> {
    shape: Shape,
    points: Stretch,
    temporality: i32,
    is_monotonic: bool,
    name: &'a [u8],
    unit: &'a [u8],
}

const DATA_POINTS: u32 = key(1, DELIMITED);
const TEMPORALITY: u32 = key(2, VARINT);
const IS_MONOTONIC: u32 = key(3, VARINT);

impl<'a> Data<'a> {
    fn locate(shape: Shape, bytes: &[u8], metric: &Metric<'a>) -> Result<Self, Malformed> {
        let message = shape.message();
        let malformed = |fault| message.malformed(fault);
        let Metric { name, unit, .. } = *metric;
        let mut data = Self { shape, points: Stretch::default(), temporality: 0, is_monotonic: false, name, unit };
        let mut rest = bytes;
        while !rest.is_empty() {
            let (key, after) = field_key(rest).map_err(malformed)?;
            rest = match key {
                DATA_POINTS => {
                    let (_, after) = delimited(after).map_err(malformed)?;
                    data.points.add(bytes.len() - rest.len(), bytes.len() - after.len());
                    after
                }
                TEMPORALITY if !matches!(shape, Shape::Gauge | Shape::Summary) => {
                    let (value, after) = varint(after).map_err(malformed)?;
                    data.temporality = value as i32;
                    after
                }
                IS_MONOTONIC if shape == Shape::Sum => {
                    let (value, after) = varint(after).map_err(malformed)?;
                    data.is_monotonic = value != 0;
                    after
                }
                _ => message.pass(key, after, DATA_DEPTH)?,
            };
        }
        Ok(data)
    }

    fn kind(&self) -> EventKind {
        match self.shape {
            Shape::Sum if self.is_monotonic => EventKind::Counter,
            Shape::Gauge | Shape::Sum => EventKind::Gauge,
            Shape::Histogram | Shape::Exponential => EventKind::Histogram,
            Shape::Summary => EventKind::Summary,
        }
    }

    fn judge(&self, point: &Point<'_>) -> Result<(), Invalid> {
        if self.name.is_empty() {
            return Err(Invalid::NoName);
        }
        if point.time == 0 {
            return Err(Invalid::NoTime);
        }
        time_in_range("time_unix_nano", point.time)?;
        time_in_range("start_time_unix_nano", point.start_time)?;
        point.judge(self.shape)
    }

    /// A `Metric` with this point alone, for a dead letter.
    fn with_point<'p>(&self, point: &'p [u8]) -> Pieces<'p>
    where
        'a: 'p,
    {
        let mut rest = Vec::new();
        for (key, value) in [(TEMPORALITY, self.temporality as u64), (IS_MONOTONIC, self.is_monotonic.into())] {
            if value != 0 {
                put_varint(&mut rest, key.into());
                put_varint(&mut rest, value);
            }
        }
        let data = Pieces::sent(point).within(1, &[]).and(Pieces::made(rest));
        data.within(self.shape.number(), &[(1, self.name), (3, self.unit)])
    }
}

impl<O: Output> Mapping<'_, O> {
    /// Maps the data points of a `Metric`.
    ///
    /// # Errors
    /// It is malformed, or there are too many, or the output takes no more.
    pub(super) fn metric(&mut self, group: Group<'_>, bytes: &[u8]) -> Result<(), OtlpError<O::Error>> {
        let metric = Metric::locate(bytes)?;
        let Some((shape, Some(content))) = &metric.data else { return Ok(()) };
        enter(DEPTH_RECORD).map_err(|fault| METRIC.malformed(fault))?;
        let data = Data::locate(*shape, content, &metric)?;
        data.points.each(content, DATA_POINTS, |point| self.point(group, &data, point))
    }

    fn point(&mut self, group: Group<'_>, data: &Data<'_>, bytes: &[u8]) -> Result<(), OtlpError<O::Error>> {
        let point = Point::locate(data.shape, bytes)?;
        if let Err(invalid) = data.judge(&point) {
            data.shape.point().validate(bytes, POINT_DEPTH)?;
            return self.reject(group, data.with_point(bytes), invalid);
        }
        self.count()?;
        let mut body = std::mem::take(&mut self.scratch.body);
        body.clear();
        point.write_body(data.shape, bytes, &mut body);
        let mut writer = Writer::event(self.out.room().map_err(OtlpError::Output)?);
        writer.fixed64(TIME_UNIX_NANO, point.time);
        writer.varint(KIND, data.kind() as u64);
        self.prefix.put(&mut writer, |writer| {
            writer.text(EVENT_NAME, data.name, EVENT_NAME_BYTES_MAX);
            if !body.bytes.is_empty() {
                writer.text(BODY, &body.bytes, EVENT_BODY_BYTES_MAX);
            }
        });
        let (scratch, attributes) = (&mut *self.scratch, Point::attributes_key(data.shape));
        point
            .attributes
            .each(bytes, attributes, |attribute| scratch.put_attribute(&mut writer, attribute, POINT_DEPTH - 1))?;
        writer.begin_own_attributes();
        if !data.unit.is_empty() {
            writer.attribute(Key::of("unit"), Scalar::Text(data.unit));
        }
        put_named(&mut writer, "temporality", &TEMPORALITIES, data.temporality);
        if point.start_time > 0 {
            writer.attribute(Key::of("start_time"), Scalar::Int(point.start_time as i64));
        }
        if point.flags > 0 {
            writer.attribute(Key::of("flags"), Scalar::Int(point.flags.into()));
        }
        if let Some(integer) = point.inexact_integer() {
            writer.attribute(Key::of("value_int"), Scalar::Int(integer));
        }
        if point.exemplars.count > 0 {
            body.clear();
            point.write_exemplars(data.shape, bytes, &mut body)?;
            writer.losses.cut |= body.is_cut;
            writer.attribute(Key::of("exemplars"), Scalar::Text(&body.bytes));
        }
        writer.mark_losses();
        if let Some(value) = point.value(data.shape) {
            writer.fixed64(VALUE, value.to_bits());
        }
        let written = writer.finish();
        self.out.wrote(written);
        self.scratch.body = body;
        self.decoded.accepted += 1;
        self.decoded.events += 1;
        Ok(())
    }
}

/// Names of `AggregationTemporality`, from 1 on.
const TEMPORALITIES: [&str; 2] = ["delta", "cumulative"];
