//! Times that are numbers in some unit: seconds with a fraction, milliseconds, microseconds.

use std::fmt;
use std::io::Write;

use super::json_event::Scalar;
use super::json_options::TimeUnit;
use super::rfc3339;
use crate::limits::{JSON_TIME_UNIX_NANO_MIN, TIME_UNIX_NANO_MAX};

/// Why a number is not a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TimeFault {
    /// It is before 1980: probably in a longer unit.
    Early,
    /// It is after 2262: probably in a shorter unit.
    Late,
    /// It is negative.
    Negative,
}

/// Nanoseconds since 1970 of `number` in `unit`; 0 stays 0, which means unset. Digits after the nanosecond are cut off.
/// `scratch` is overwritten.
///
/// # Errors
/// The time is negative, or outside of what is taken for a time in this unit.
pub(super) fn nanoseconds(number: Scalar<'_>, unit: TimeUnit, scratch: &mut Vec<u8>) -> Result<u64, TimeFault> {
    let factor = 10_u64.pow(unit.digits());
    let nanoseconds = match number {
        Scalar::Int(number) => u64::try_from(number).map_err(|_| TimeFault::Negative)?.checked_mul(factor),
        Scalar::Unsigned(number) => number.checked_mul(factor),
        Scalar::Double(0.0) => Some(0),
        Scalar::Double(number) if number < 0.0 => return Err(TimeFault::Negative),
        Scalar::Double(number) => {
            // The shortest text that stands for this double is the one that was sent: 1475898721.123456 keeps its digits,
            // while a multiplication would round them. Writing to a Vec cannot fail.
            scratch.clear();
            let _ = write!(scratch, "{number}");
            decimal(scratch, unit)
        }
        Scalar::Null | Scalar::Bool(_) | Scalar::Text(_) => None,
    };
    match nanoseconds {
        Some(0) => Ok(0),
        Some(nanoseconds) if nanoseconds < JSON_TIME_UNIX_NANO_MIN => Err(TimeFault::Early),
        Some(nanoseconds) if nanoseconds <= TIME_UNIX_NANO_MAX => Ok(nanoseconds),
        _ => Err(TimeFault::Late),
    }
}

/// Digits with a point or without, as nanoseconds; `None`: more than a u64.
fn decimal(text: &[u8], unit: TimeUnit) -> Option<u64> {
    let point = text.iter().position(|byte| *byte == b'.').unwrap_or(text.len());
    let (whole, fraction) = text.split_at_checked(point)?;
    let mut fraction = fraction.iter().skip(1);
    let fraction = (0..unit.digits()).map(|_| fraction.next().copied().unwrap_or(b'0'));
    whole
        .iter()
        .copied()
        .chain(fraction)
        .try_fold(0_u64, |number, digit| number.checked_mul(10)?.checked_add(u64::from(digit.checked_sub(b'0')?)))
}

/// The unit in which this number is a time from 1980 to 2100.
fn likely_unit(number: f64) -> Option<TimeUnit> {
    const SECONDS: std::ops::Range<f64> = 315_532_800.0..4_102_444_800.0;
    TimeUnit::ALL.into_iter().find(|unit| SECONDS.contains(&(number / 10_f64.powi(9 - unit.digits() as i32))))
}

/// The message for a number that is not a time in `unit`.
pub(super) struct WrongTime<'a> {
    /// The key.
    pub key: &'a str,
    /// The number.
    pub number: Scalar<'a>,
    /// The unit that it was read in.
    pub unit: TimeUnit,
    /// What is wrong with it.
    pub fault: TimeFault,
}

impl fmt::Display for WrongTime<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, number, unit, fault } = self;
        write!(f, "`{key}` is ")?;
        let number = match *number {
            Scalar::Int(number) => {
                write!(f, "{number}")?;
                number as f64
            }
            Scalar::Unsigned(number) => {
                write!(f, "{number}")?;
                number as f64
            }
            Scalar::Double(number) => {
                if number.abs() < 1e20 { write!(f, "{number}") } else { write!(f, "{number:e}") }?;
                number
            }
            Scalar::Null | Scalar::Bool(_) | Scalar::Text(_) => f64::NAN,
        };
        let unit = unit.noun();
        match fault {
            TimeFault::Negative => return f.write_str(": send a time since 1970"),
            TimeFault::Early => write!(f, ", which is before 1980 in {unit}")?,
            TimeFault::Late => write!(f, ", which is after 2262 in {unit}")?,
        }
        match likely_unit(number) {
            Some(likely) => write!(f, "; it looks like {}: set time={}", likely.noun(), likely.name()),
            None => f.write_str(": set its unit with time=s, ms, us or ns"),
        }
    }
}

/// Nanoseconds of a time that is a text: RFC 3339, and the forms in which loggers deviate from it (see
/// [`rfc3339::parse_lenient`]).
///
/// # Errors
/// The text has another form, or is out of range.
pub(super) fn from_text(text: &str) -> Result<u64, rfc3339::TimeError> {
    rfc3339::parse_lenient(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_the_digits_that_were_sent() {
        use TimeUnit::*;
        let mut scratch = Vec::new();
        for (number, unit, expected) in [
            (Scalar::Int(1_475_898_721), Seconds, Ok(1_475_898_721_000_000_000)),
            (Scalar::Double(1_475_898_721.123456), Seconds, Ok(1_475_898_721_123_456_000)),
            (Scalar::Double(1_475_898_721.000001), Seconds, Ok(1_475_898_721_000_001_000)),
            (Scalar::Double(1_795_771_441.8506258), Seconds, Ok(1_795_771_441_850_625_800)),
            (Scalar::Double(1_795_771_441.0), Seconds, Ok(1_795_771_441_000_000_000)),
            (Scalar::Int(1_795_771_426_124), Millis, Ok(1_795_771_426_124_000_000)),
            (Scalar::Double(1_795_771_426_124.25), Millis, Ok(1_795_771_426_124_250_000)),
            (Scalar::Int(1_795_771_426_124_001), Micros, Ok(1_795_771_426_124_001_000)),
            (Scalar::Int(1_795_771_426_124_001_002), Nanos, Ok(1_795_771_426_124_001_002)),
            (Scalar::Double(1e18), Nanos, Ok(1_000_000_000_000_000_000)),
            (Scalar::Int(0), Seconds, Ok(0)),
            (Scalar::Double(0.0), Millis, Ok(0)),
            (Scalar::Double(-0.0), Millis, Ok(0)),
            (Scalar::Int(315_532_800), Seconds, Ok(315_532_800_000_000_000)),
            (Scalar::Int(315_532_799), Seconds, Err(TimeFault::Early)),
            (Scalar::Int(1_795_771_426), Millis, Err(TimeFault::Early)),
            (Scalar::Int(1_795_771_426_124), Seconds, Err(TimeFault::Late)),
            (Scalar::Double(1e300), Seconds, Err(TimeFault::Late)),
            (Scalar::Unsigned(u64::MAX), Nanos, Err(TimeFault::Late)),
            (Scalar::Int(9_223_372_036), Seconds, Ok(9_223_372_036_000_000_000)),
            (Scalar::Int(9_223_372_037), Seconds, Err(TimeFault::Late)),
            (Scalar::Int(-1), Seconds, Err(TimeFault::Negative)),
            (Scalar::Double(-1.5), Seconds, Err(TimeFault::Negative)),
        ] {
            assert_eq!(nanoseconds(number, unit, &mut scratch), expected, "{number:?} {unit:?}");
        }
    }
}
