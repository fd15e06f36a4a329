//! Data points of metrics: their fields, and what of them becomes JSON.

use super::Malformed;
use super::mapping::{DEPTH_RECORD, Invalid, Stretch, put};
use super::metrics::Shape;
use super::parts::{Joined, join};
use super::schema::{each_number, enter};
use super::tables::{
    EXEMPLAR, EXPONENTIAL_HISTOGRAM_DATA_POINT_BUCKETS as BUCKETS, SUMMARY_DATA_POINT_VALUE_AT_QUANTILE as QUANTILE,
};
use super::value::JsonText;
use crate::event::protobuf::{DELIMITED, FIXED64, VARINT, delimited, field_key, fixed64, key, varint};

/// Levels that may be entered within a data point.
pub(super) const POINT_DEPTH: usize = DEPTH_RECORD - 2;

/// A number of a point or an exemplar.
#[derive(Debug, Clone, Copy)]
enum Number {
    Double(f64),
    Int(i64),
}

/// Where the fields of a data point of any shape are.
#[derive(Default)]
pub(super) struct Point<'a> {
    /// Nanoseconds since 1970; 0: not set.
    pub time: u64,
    /// Nanoseconds since 1970; 0: not set.
    pub start_time: u64,
    /// `DataPointFlags`.
    pub flags: u32,
    /// Its attributes, by [`Point::attributes_key`].
    pub attributes: Stretch,
    /// Its exemplars.
    pub exemplars: Stretch,
    number: Option<Number>,
    count: u64,
    sum: Option<f64>,
    min: Option<f64>,
    max: Option<f64>,
    bounds: usize,
    counts: usize,
    scale: i32,
    zero_count: u64,
    zero_threshold: f64,
    positive: Joined<'a>,
    negative: Joined<'a>,
    quantiles: Stretch,
}

/// What a field of a point is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Attributes,
    StartTime,
    Time,
    Double,
    Int,
    Exemplars,
    Flags,
    Count,
    Sum,
    Min,
    Max,
    Counts,
    Bounds,
    Scale,
    ZeroCount,
    ZeroThreshold,
    Positive,
    Negative,
    Quantiles,
}

/// Keys of points, which are others in each shape.
fn place(shape: Shape, key: u32) -> Option<Place> {
    use Place as P;
    const START_TIME: u32 = key_of(2, FIXED64);
    const TIME: u32 = key_of(3, FIXED64);
    let (number, wire_type) = (key >> 3, key & 7);
    match key {
        START_TIME => return Some(P::StartTime),
        TIME => return Some(P::Time),
        _ => {}
    }
    Some(match (shape, number, wire_type) {
        (Shape::Gauge | Shape::Sum | Shape::Summary, 7, DELIMITED) => P::Attributes,
        (Shape::Gauge | Shape::Sum, 4, FIXED64) => P::Double,
        (Shape::Gauge | Shape::Sum, 5, DELIMITED) => P::Exemplars,
        (Shape::Gauge | Shape::Sum, 6, FIXED64) => P::Int,
        (Shape::Gauge | Shape::Sum | Shape::Summary, 8, VARINT) => P::Flags,
        (Shape::Histogram | Shape::Exponential | Shape::Summary, 4, FIXED64) => P::Count,
        (Shape::Histogram | Shape::Exponential | Shape::Summary, 5, FIXED64) => P::Sum,
        (Shape::Summary, 6, DELIMITED) => P::Quantiles,
        (Shape::Histogram, 6, FIXED64 | DELIMITED) => P::Counts,
        (Shape::Histogram, 7, FIXED64 | DELIMITED) => P::Bounds,
        (Shape::Histogram, 8, DELIMITED) => P::Exemplars,
        (Shape::Histogram, 9, DELIMITED) => P::Attributes,
        (Shape::Histogram | Shape::Exponential, 10, VARINT) => P::Flags,
        (Shape::Histogram, 11, FIXED64) => P::Min,
        (Shape::Histogram, 12, FIXED64) => P::Max,
        (Shape::Exponential, 1, DELIMITED) => P::Attributes,
        (Shape::Exponential, 6, VARINT) => P::Scale,
        (Shape::Exponential, 7, FIXED64) => P::ZeroCount,
        (Shape::Exponential, 8, DELIMITED) => P::Positive,
        (Shape::Exponential, 9, DELIMITED) => P::Negative,
        (Shape::Exponential, 11, DELIMITED) => P::Exemplars,
        (Shape::Exponential, 12, FIXED64) => P::Min,
        (Shape::Exponential, 13, FIXED64) => P::Max,
        (Shape::Exponential, 14, FIXED64) => P::ZeroThreshold,
        _ => return None,
    })
}

const fn key_of(number: u32, wire_type: u32) -> u32 {
    key(number, wire_type)
}

impl<'a> Point<'a> {
    /// Finds the fields of a point; attributes, exemplars and quantiles are not looked into.
    ///
    /// # Errors
    /// It is malformed.
    pub(super) fn locate(shape: Shape, bytes: &'a [u8]) -> Result<Self, Malformed> {
        let message = shape.point();
        let malformed = |fault| message.malformed(fault);
        let (mut point, mut rest) = (Self::default(), bytes);
        while !rest.is_empty() {
            let (key, after) = field_key(rest).map_err(malformed)?;
            let Some(place) = place(shape, key) else {
                rest = message.pass(key, after, POINT_DEPTH)?;
                continue;
            };
            let first = bytes.len() - rest.len();
            rest = match place {
                Place::Counts | Place::Bounds => {
                    let end = message.pass(key, after, POINT_DEPTH)?;
                    let numbers = match key & 7 {
                        DELIMITED => delimited(after).map_or(0, |(packed, _)| packed.len() / 8),
                        _ => 1,
                    };
                    *(if place == Place::Counts { &mut point.counts } else { &mut point.bounds }) += numbers;
                    end
                }
                _ => match key & 7 {
                    FIXED64 => {
                        let (bits, after) = fixed64(after).map_err(malformed)?;
                        point.put_fixed64(place, bits);
                        after
                    }
                    VARINT => {
                        let (value, after) = varint(after).map_err(malformed)?;
                        match place {
                            Place::Flags => point.flags = value as u32,
                            _ => point.scale = zigzag(value),
                        }
                        after
                    }
                    _ => {
                        let (content, after) = delimited(after).map_err(malformed)?;
                        point.put_delimited(place, content, first, bytes.len() - after.len())?;
                        after
                    }
                },
            };
        }
        for buckets in [&point.positive, &point.negative].into_iter().flatten() {
            BUCKETS.validate(buckets, enter(POINT_DEPTH).map_err(malformed)?)?;
        }
        point.quantiles.each(bytes, key(6, DELIMITED), |quantile| QUANTILE.validate(quantile, POINT_DEPTH - 1))?;
        Ok(point)
    }

    fn put_fixed64(&mut self, place: Place, bits: u64) {
        let double = f64::from_bits(bits);
        match place {
            Place::StartTime => self.start_time = bits,
            Place::Time => self.time = bits,
            Place::Double => self.number = Some(Number::Double(double)),
            Place::Int => self.number = Some(Number::Int(bits as i64)),
            Place::Count => self.count = bits,
            Place::Sum => self.sum = Some(double),
            Place::Min => self.min = Some(double),
            Place::Max => self.max = Some(double),
            Place::ZeroCount => self.zero_count = bits,
            Place::ZeroThreshold => self.zero_threshold = double,
            _ => {}
        }
    }

    fn put_delimited(&mut self, place: Place, content: &'a [u8], first: usize, end: usize) -> Result<(), Malformed> {
        match place {
            Place::Attributes => self.attributes.add(first, end),
            Place::Exemplars => self.exemplars.add(first, end),
            Place::Quantiles => self.quantiles.add(first, end),
            Place::Positive => join(&mut self.positive, content, &BUCKETS, POINT_DEPTH - 1)?,
            Place::Negative => join(&mut self.negative, content, &BUCKETS, POINT_DEPTH - 1)?,
            _ => {}
        }
        Ok(())
    }

    /// The key of the attributes in a point of this shape.
    pub(super) fn attributes_key(shape: Shape) -> u32 {
        match shape {
            Shape::Gauge | Shape::Sum | Shape::Summary => key(7, DELIMITED),
            Shape::Histogram => key(9, DELIMITED),
            Shape::Exponential => key(1, DELIMITED),
        }
    }

    fn exemplars_key(shape: Shape) -> u32 {
        match shape {
            Shape::Gauge | Shape::Sum | Shape::Summary => key(5, DELIMITED),
            Shape::Histogram => key(8, DELIMITED),
            Shape::Exponential => key(11, DELIMITED),
        }
    }

    /// The rules for values.
    ///
    /// # Errors
    /// The point breaks one.
    pub(super) fn judge(&self, shape: Shape) -> Result<(), Invalid> {
        const NO_RECORDED_VALUE: u32 = 1;
        match shape {
            Shape::Gauge | Shape::Sum if self.number.is_none() && self.flags & NO_RECORDED_VALUE == 0 => {
                Err(Invalid::NoValue)
            }
            Shape::Histogram if self.counts != self.bounds + 1 && (self.counts, self.bounds) != (0, 0) => {
                Err(Invalid::Buckets { bounds: self.bounds, counts: self.counts })
            }
            _ => Ok(()),
        }
    }

    /// The value of the event: that of the point, or the sum of a histogram or summary.
    pub(super) fn value(&self, shape: Shape) -> Option<f64> {
        match self.number {
            Some(Number::Double(double)) => Some(double),
            Some(Number::Int(integer)) => Some(integer as f64),
            // That of a summary is 0 where it is not set; a histogram may have none.
            None if shape == Shape::Summary => Some(self.sum.unwrap_or_default()),
            None => self.sum,
        }
    }

    /// An integer that a double does not hold exactly.
    pub(super) fn inexact_integer(&self) -> Option<i64> {
        match self.number {
            Some(Number::Int(integer)) if integer as f64 as i128 != i128::from(integer) => Some(integer),
            _ => None,
        }
    }

    /// Appends the JSON of a histogram or a summary; nothing for other points. It was checked.
    pub(super) fn write_body(&self, shape: Shape, bytes: &[u8], json: &mut JsonText) {
        if matches!(shape, Shape::Gauge | Shape::Sum) {
            return;
        }
        json.raw("{");
        json.key("count");
        json.integer(self.count);
        for (name, value) in [("min", self.min), ("max", self.max)] {
            if let Some(value) = value {
                json.key(name);
                json.double(value);
            }
        }
        match shape {
            Shape::Histogram => {
                json.key("bounds");
                json.raw("[");
                each_number(bytes, 7, FIXED64, |bits| {
                    json.comma();
                    json.double(f64::from_bits(bits));
                });
                json.raw("]");
                json.key("counts");
                json.raw("[");
                each_number(bytes, 6, FIXED64, |count| {
                    json.comma();
                    json.integer(count);
                });
                json.raw("]");
            }
            Shape::Exponential => self.write_exponential(json),
            _ => self.write_quantiles(bytes, json),
        }
        json.raw("}");
    }

    fn write_exponential(&self, json: &mut JsonText) {
        json.key("scale");
        json.integer(self.scale);
        json.key("zero_count");
        json.integer(self.zero_count);
        if self.zero_threshold != 0.0 {
            json.key("zero_threshold");
            json.double(self.zero_threshold);
        }
        for (name, buckets) in [("positive", &self.positive), ("negative", &self.negative)] {
            let Some(buckets) = buckets else { continue };
            let mut offset = 0;
            each_number(buckets, 1, VARINT, |value| offset = zigzag(value));
            json.key(name);
            json.raw("{");
            json.key("offset");
            json.integer(offset);
            json.key("counts");
            json.raw("[");
            each_number(buckets, 2, VARINT, |count| {
                json.comma();
                json.integer(count);
            });
            json.raw("]}");
        }
    }

    fn write_quantiles(&self, bytes: &[u8], json: &mut JsonText) {
        json.key("quantiles");
        json.raw("[");
        let _ = self.quantiles.each(bytes, key(6, DELIMITED), |quantile| {
            json.comma();
            json.raw("{");
            for (number, name) in [(1, "quantile"), (2, "value")] {
                let mut value = 0.0;
                each_number(quantile, number, FIXED64, |bits| value = f64::from_bits(bits));
                json.key(name);
                json.double(value);
            }
            json.raw("}");
            Ok::<_, Malformed>(())
        });
        json.raw("]");
    }

    /// Appends the exemplars as a JSON array.
    ///
    /// # Errors
    /// One is malformed.
    pub(super) fn write_exemplars(&self, shape: Shape, bytes: &[u8], json: &mut JsonText) -> Result<(), Malformed> {
        json.raw("[");
        self.exemplars.each(bytes, Self::exemplars_key(shape), |exemplar| write_exemplar(exemplar, json))?;
        json.raw("]");
        Ok(())
    }
}

fn write_exemplar(bytes: &[u8], json: &mut JsonText) -> Result<(), Malformed> {
    const TIME: u32 = key(2, FIXED64);
    const DOUBLE: u32 = key(3, FIXED64);
    const SPAN_ID: u32 = key(4, DELIMITED);
    const TRACE_ID: u32 = key(5, DELIMITED);
    const INT: u32 = key(6, FIXED64);
    const ATTRIBUTES: u32 = key(7, DELIMITED);
    let malformed = |fault| EXEMPLAR.malformed(fault);
    let depth = POINT_DEPTH - 1;
    let (mut time, mut number, mut attributes) = (0, None, Stretch::default());
    let (mut trace_id, mut span_id) = (&[][..], &[][..]);
    let mut rest = bytes;
    while !rest.is_empty() {
        let (key, after) = field_key(rest).map_err(malformed)?;
        rest = match key {
            TIME => put(&mut time, fixed64(after)),
            DOUBLE => fixed64(after).map(|(bits, after)| {
                number = Some(Number::Double(f64::from_bits(bits)));
                after
            }),
            INT => fixed64(after).map(|(bits, after)| {
                number = Some(Number::Int(bits as i64));
                after
            }),
            SPAN_ID => put(&mut span_id, delimited(after)),
            TRACE_ID => put(&mut trace_id, delimited(after)),
            ATTRIBUTES => delimited(after).map(|(_, after)| {
                attributes.add(bytes.len() - rest.len(), bytes.len() - after.len());
                after
            }),
            _ => Ok(EXEMPLAR.pass(key, after, depth)?),
        }
        .map_err(malformed)?;
    }
    json.comma();
    json.raw("{");
    if time > 0 {
        json.key("time");
        json.integer(time);
    }
    if let Some(number) = number {
        json.key("value");
        match number {
            Number::Double(double) => json.double(double),
            Number::Int(integer) => json.integer(integer),
        }
    }
    for (name, id) in [("trace_id", trace_id), ("span_id", span_id)] {
        if !id.is_empty() {
            json.key(name);
            json.hex(id);
        }
    }
    if attributes.count > 0 {
        json.key("attributes");
        json.raw("{");
        attributes.each(bytes, ATTRIBUTES, |attribute| json.member(attribute, depth - 1))?;
        json.raw("}");
    }
    json.raw("}");
    Ok(())
}

/// A `sint32`.
fn zigzag(value: u64) -> i32 {
    let value = value as u32;
    (value >> 1) as i32 ^ -((value & 1) as i32)
}
