//! RFC 3339 times to and from nanoseconds since 1970-01-01T00:00:00Z, in the range of the contract: `[0, 2^63)`, which
//! ends on 2262-04-11. Years are those of the Gregorian calendar; nothing allocates.

use super::json_scan::decimals;
use crate::limits::TIME_UNIX_NANO_MAX;

const NANOS_PER_SECOND: u64 = 1_000_000_000;
const SECONDS_PER_DAY: i64 = 86_400;
/// Bytes of what [`format()`] writes.
pub const FORMATTED_BYTES: usize = 30;

/// Why a text is not a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    /// The text does not have the form of an RFC 3339 time.
    #[error("not an RFC 3339 time: write it like 2026-11-23T20:15:48.123Z or 2026-11-23T21:15:48+01:00")]
    Syntax,
    /// A date or time of day that does not exist, such as 30 February.
    #[error("no such date or time of day")]
    NoSuchTime,
    /// Outside of `[0, 2^63)` nanoseconds.
    #[error("before 1970 or after 2262-04-11T23:47:16.854775807Z")]
    OutOfRange,
}

/// Reads `2026-11-23T20:15:48.123456789Z` or with an offset like `+01:00`.
///
/// `t`, `z` and a space for the `T` are allowed, as the RFC says; digits beyond nanoseconds are cut off. A leap second
/// (23:59:60 UTC) is the second after it, as in POSIX time.
///
/// # Errors
/// The text is not such a time, or is outside of `[0, 2^63)` nanoseconds.
pub fn parse(text: &str) -> Result<u64, TimeError> {
    parse_as(text, false)
}

/// Reads the usual form, `2026-11-23T20:15:48Z` with or without one to nine digits of a fraction, at the beginning of `text`. Returns
/// what [`parse`] would, and what follows. `None`: the time has another form, is after 2261, or [`parse`] says what is wrong with it.
#[inline]
pub(super) fn parse_usual(text: &[u8]) -> Option<(u64, &[u8])> {
    let (date, rest) = text.split_first_chunk()?;
    let (minutes, rest) = rest.split_first_chunk()?;
    let [b':', seconds @ .., fraction_mark] = rest.first_chunk::<4>()? else { return None };
    let [century, _, year, _, _, month, ..] = pairs(date, b"0000-00-")?;
    let [day, _, _, hour, _, _, minute, _] = pairs(minutes, b"00T00:00")?;
    let [tens @ b'0'..=b'5', ones @ b'0'..=b'9'] = seconds else { return None };
    let second = u64::from(10 * (tens - b'0') + (ones - b'0'));
    let mut rest = rest.get(3..)?;
    let mut nanos = 0;
    if *fraction_mark == b'.' {
        let (eight, digits) = decimals(rest.get(1..)?);
        rest = rest.get(1 + digits..)?;
        nanos = 10 * eight;
        if digits == 0 {
            return None;
        }
        if let ([digit @ b'0'..=b'9', after @ ..], 8) = (rest, digits) {
            nanos += u64::from(digit - b'0');
            rest = after;
        }
    }
    let [b'Z', rest @ ..] = rest else { return None };
    let (year, month, day) = (100 * u64::from(century) + u64::from(year), u64::from(month), u64::from(day));
    if !(1970..2262).contains(&year) || !(1..=12).contains(&month) || day < 1 || hour > 23 || minute > 59 {
        return None;
    }
    if day > 28 && day as i64 > days_in_month(year as i64, month as i64) {
        return None;
    }
    // As `days_since_1970`, without the years before 0.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - DAYS_TO_1970 as u64;
    let seconds = days * SECONDS_PER_DAY as u64 + u64::from(hour) * 3600 + u64::from(minute) * 60 + second;
    Some((seconds * NANOS_PER_SECOND + nanos, rest))
}

/// The number of each two neighbouring digits, by the index of the first, where `form` has digits 0. `None`: `text` does not have the
/// form.
#[inline(always)]
fn pairs(text: &[u8; 8], form: &[u8; 8]) -> Option<[u8; 8]> {
    // What a byte may differ by is below what makes its high bit 1: 10 for a digit, 1 for all else.
    let limits = u64::from_le_bytes(form.map(|byte| if byte == b'0' { 0x76 } else { 0x7F }));
    let digits = u64::from_le_bytes(*text) ^ u64::from_le_bytes(*form);
    let is_other = (digits.wrapping_add(limits) | digits) & 0x8080_8080_8080_8080 != 0;
    (!is_other).then(|| digits.wrapping_mul(10).wrapping_add(digits >> 8).to_le_bytes())
}

/// As [`parse`], and reads what loggers write instead: a comma before the fraction, an offset as `+0100` or `+01`, and no
/// offset at all, which means UTC.
///
/// # Errors
/// The text is not such a time, or is outside of `[0, 2^63)` nanoseconds.
pub fn parse_lenient(text: &str) -> Result<u64, TimeError> {
    parse_as(text, true)
}

fn parse_as(text: &str, is_lenient: bool) -> Result<u64, TimeError> {
    let mut rest = text.as_bytes();
    let year = number(&mut rest, 4)?;
    byte(&mut rest, b"-")?;
    let month = number(&mut rest, 2)?;
    byte(&mut rest, b"-")?;
    let day = number(&mut rest, 2)?;
    byte(&mut rest, b"Tt ")?;
    let hour = number(&mut rest, 2)?;
    byte(&mut rest, b":")?;
    let minute = number(&mut rest, 2)?;
    byte(&mut rest, b":")?;
    let second = number(&mut rest, 2)?;
    let point: &[u8] = if is_lenient { b".," } else { b"." };
    let nanos = if byte(&mut rest, point).is_ok() { fraction(&mut rest)? } else { 0 };
    let offset_minutes = if is_lenient { lenient_offset(&mut rest)? } else { offset(&mut rest)? };
    if !rest.is_empty() {
        return Err(TimeError::Syntax);
    }

    Civil { year, month, day, hour, minute, second, nanos }.at_offset(offset_minutes)
}

/// A date and a time of day, as they are written; each part may be out of its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Civil {
    /// Year of the Gregorian calendar.
    pub year: i64,
    /// 1 to 12.
    pub month: i64,
    /// 1 to 31.
    pub day: i64,
    /// 0 to 23.
    pub hour: i64,
    /// 0 to 59.
    pub minute: i64,
    /// 0 to 60.
    pub second: i64,
    /// Nanoseconds of the second.
    pub nanos: u64,
}

impl Civil {
    /// Nanoseconds since 1970, as a time in UTC; `None`: there is no such time, or it is out of range.
    pub fn unix_nano(self) -> Option<u64> {
        self.at_offset(0).ok()
    }

    fn at_offset(self, offset_minutes: i64) -> Result<u64, TimeError> {
        let Self { year, month, day, hour, minute, second, nanos } = self;
        if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
            return Err(TimeError::NoSuchTime);
        }
        if hour > 23 || minute > 59 || second > 60 {
            return Err(TimeError::NoSuchTime);
        }
        let minutes = hour * 60 + minute - offset_minutes;
        if second == 60 && minutes.rem_euclid(24 * 60) != 24 * 60 - 1 {
            return Err(TimeError::NoSuchTime);
        }
        let seconds = days_since_1970(year, month, day) * SECONDS_PER_DAY + minutes * 60 + second;
        u64::try_from(seconds)
            .ok()
            .and_then(|seconds| seconds.checked_mul(NANOS_PER_SECOND)?.checked_add(nanos))
            .filter(|nanoseconds| *nanoseconds <= TIME_UNIX_NANO_MAX)
            .ok_or(TimeError::OutOfRange)
    }
}

/// The year of a time, in UTC.
pub fn year(unix_nano: u64) -> i64 {
    date(unix_nano / NANOS_PER_SECOND / SECONDS_PER_DAY as u64).0 as i64
}

/// UTC with nine digits of a second: `2026-11-23T20:15:48.123456789Z`, ASCII. Sorts as text in order of time.
pub fn format(unix_nano: u64) -> [u8; FORMATTED_BYTES] {
    let (seconds, nanos) = (unix_nano / NANOS_PER_SECOND, unix_nano % NANOS_PER_SECOND);
    let (days, second_of_day) = (seconds / SECONDS_PER_DAY as u64, seconds % SECONDS_PER_DAY as u64);
    let (year, month, day) = date(days);
    let mut text = *b"0000-00-00T00:00:00.000000000Z";
    let mut put = |end: usize, digits: usize, value: u64| {
        let mut value = value;
        for place in text.iter_mut().take(end).rev().take(digits) {
            *place = b'0' + (value % 10) as u8;
            value /= 10;
        }
    };
    put(4, 4, year);
    put(7, 2, month);
    put(10, 2, day);
    put(13, 2, second_of_day / 3600);
    put(16, 2, second_of_day / 60 % 60);
    put(19, 2, second_of_day % 60);
    put(29, 9, nanos);
    text
}

fn byte(rest: &mut &[u8], one_of: &[u8]) -> Result<u8, TimeError> {
    match rest.split_first() {
        Some((byte, after)) if one_of.contains(byte) => {
            *rest = after;
            Ok(*byte)
        }
        _ => Err(TimeError::Syntax),
    }
}

fn digit(rest: &mut &[u8]) -> Result<i64, TimeError> {
    Ok(i64::from(byte(rest, b"0123456789")? - b'0'))
}

fn number(rest: &mut &[u8], digits: usize) -> Result<i64, TimeError> {
    (0..digits).try_fold(0, |number, _| Ok(number * 10 + digit(rest)?))
}

/// One digit or more, as nanoseconds.
fn fraction(rest: &mut &[u8]) -> Result<u64, TimeError> {
    let (mut nanos, mut unit) = (0, NANOS_PER_SECOND / 10);
    nanos += unit * digit(rest)? as u64;
    while let Ok(digit) = digit(rest) {
        unit /= 10;
        nanos += unit * digit as u64;
    }
    Ok(nanos)
}

/// Minutes east of UTC.
fn offset(rest: &mut &[u8]) -> Result<i64, TimeError> {
    let sign = match byte(rest, b"Zz+-")? {
        b'+' => 1,
        b'-' => -1,
        _ => return Ok(0),
    };
    let hours = number(rest, 2)?;
    byte(rest, b":")?;
    let minutes = number(rest, 2)?;
    if hours > 23 || minutes > 59 {
        return Err(TimeError::NoSuchTime);
    }
    Ok(sign * (hours * 60 + minutes))
}

/// As [`offset`], also without the colon, without minutes, and absent.
fn lenient_offset(rest: &mut &[u8]) -> Result<i64, TimeError> {
    let sign = match rest.first() {
        None => return Ok(0),
        Some(b'+') => 1,
        Some(b'-') => -1,
        Some(_) => return offset(rest),
    };
    byte(rest, b"+-")?;
    let hours = number(rest, 2)?;
    let has_colon = byte(rest, b":").is_ok();
    let minutes = if rest.is_empty() && !has_colon { 0 } else { number(rest, 2)? };
    if hours > 23 || minutes > 59 {
        return Err(TimeError::NoSuchTime);
    }
    Ok(sign * (hours * 60 + minutes))
}

fn days_in_month(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

// Years that begin in March put the leap day at their end, so that a month's first day is a linear formula:
// (153 * month + 2) / 5 days after 1 March. 400 such years have 146,097 days; 719,468 lie before 1970.
const DAYS_PER_400_YEARS: i64 = 146_097;
const DAYS_TO_1970: i64 = 719_468;

fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, year) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    era * DAYS_PER_400_YEARS + year * 365 + year / 4 - year / 100 + day_of_year - DAYS_TO_1970
}

/// Year, month and day of a day counted from 1970-01-01.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + DAYS_TO_1970 as u64;
    let (era, day) = (days / DAYS_PER_400_YEARS as u64, days % DAYS_PER_400_YEARS as u64);
    // 1,460 and 36,524 are the last days of 4 and 100 such years, 146,096 that of 400.
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, next_year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next_year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(unix_nano: u64) -> String {
        String::from_utf8(format(unix_nano).to_vec()).unwrap()
    }

    #[test]
    fn known_times() {
        for (written, nanoseconds) in [
            ("1970-01-01T00:00:00.000000000Z", 0),
            ("1970-01-01T00:00:00.000000001Z", 1),
            ("1972-02-29T12:00:00.000000000Z", 68_212_800_000_000_000),
            ("2000-02-29T23:59:59.999999999Z", 951_868_799_999_999_999),
            ("2000-03-01T00:00:00.000000000Z", 951_868_800_000_000_000),
            ("2001-09-09T01:46:40.000000000Z", 1_000_000_000_000_000_000),
            ("2026-11-23T20:15:48.123456789Z", 1_795_464_948_123_456_789),
            ("2100-02-28T00:00:00.000000000Z", 4_107_456_000_000_000_000),
            ("2100-03-01T00:00:00.000000000Z", 4_107_542_400_000_000_000),
            ("2262-04-11T23:47:16.854775807Z", i64::MAX as u64),
        ] {
            assert_eq!(text(nanoseconds), written);
            assert_eq!(parse(written), Ok(nanoseconds), "{written}");
            let is_usual = !written.starts_with("2262");
            assert_eq!(parse_usual(written.as_bytes()), is_usual.then_some((nanoseconds, &b""[..])), "{written}");
        }
    }

    /// [`parse_usual`] reads what [`parse`] reads, and stops at what is not the time's.
    fn compare_usual(written: &str) {
        for after in ["", "\"", "0", "Z", "\",\"name\":\"n\"}"] {
            let text = format!("{written}{after}");
            if let Some((nanoseconds, rest)) = parse_usual(text.as_bytes()) {
                assert_eq!(parse(&text[..text.len() - rest.len()]), Ok(nanoseconds), "{text}");
            }
        }
    }

    #[test]
    fn other_spellings() {
        let utc = 1_795_464_948_000_000_000;
        for (written, nanoseconds) in [
            ("2026-11-23T20:15:48Z", utc),
            ("2026-11-23t20:15:48z", utc),
            ("2026-11-23 20:15:48Z", utc),
            ("2026-11-23T20:15:48+00:00", utc),
            ("2026-11-23T20:15:48-00:00", utc),
            ("2026-11-23T21:15:48+01:00", utc),
            ("2026-11-24T01:45:48+05:30", utc),
            ("2026-11-23T12:15:48-08:00", utc),
            ("2026-11-22T20:16:48-23:59", utc),
            ("2026-11-23T20:15:48.5Z", utc + 500_000_000),
            ("2026-11-23T20:15:48.000001Z", utc + 1_000),
            ("2026-11-23T20:15:48.1234567899999Z", utc + 123_456_789),
            ("1970-01-01T01:00:00+01:00", 0),
            ("1969-12-31T23:00:00-01:00", 0),
            // The leap second of 2016, also as seen from Tokyo.
            ("2016-12-31T23:59:60Z", 1_483_228_800_000_000_000),
            ("2017-01-01T08:59:60.5+09:00", 1_483_228_800_500_000_000),
        ] {
            assert_eq!(parse(written), Ok(nanoseconds), "{written}");
            compare_usual(written);
        }
    }

    #[test]
    fn refused_texts() {
        use TimeError::{NoSuchTime, OutOfRange, Syntax};
        for (written, error) in [
            ("", Syntax),
            ("now", Syntax),
            ("2026", Syntax),
            ("2026-11-23", Syntax),
            ("2026-11-23T20:15Z", Syntax),
            ("2026-11-23T20:15:48", Syntax),
            ("2026-11-23T20:15:48.Z", Syntax),
            ("2026-11-23T20:15:48,5Z", Syntax),
            ("2026-11-23T20:15:48+0100", Syntax),
            ("2026-11-23T20:15:48+01", Syntax),
            ("2026-11-23T20:15:48ZZ", Syntax),
            (" 2026-11-23T20:15:48Z", Syntax),
            ("2026-11-23T20:15:48Z ", Syntax),
            ("2026-1-23T20:15:48Z", Syntax),
            ("+2026-11-23T20:15:48Z", Syntax),
            ("20261-11-23T20:15:48Z", Syntax),
            ("２026-11-23T20:15:48Z", Syntax),
            ("2026-00-23T20:15:48Z", NoSuchTime),
            ("2026-13-23T20:15:48Z", NoSuchTime),
            ("2026-11-00T20:15:48Z", NoSuchTime),
            ("2026-11-31T20:15:48Z", NoSuchTime),
            ("2025-02-29T20:15:48Z", NoSuchTime),
            ("2100-02-29T20:15:48Z", NoSuchTime),
            ("2026-11-23T24:00:00Z", NoSuchTime),
            ("2026-11-23T20:60:00Z", NoSuchTime),
            ("2026-11-23T20:15:61Z", NoSuchTime),
            ("2026-11-23T20:15:60Z", NoSuchTime),
            ("2026-11-23T20:15:48+24:00", NoSuchTime),
            ("2026-11-23T20:15:48+01:60", NoSuchTime),
            ("1969-12-31T23:59:59.999999999Z", OutOfRange),
            ("1970-01-01T00:00:00+00:01", OutOfRange),
            ("0000-01-01T00:00:00Z", OutOfRange),
            ("2262-04-11T23:47:16.854775808Z", OutOfRange),
            ("9999-12-31T23:59:59Z", OutOfRange),
        ] {
            assert_eq!(parse(written), Err(error), "{written}");
            compare_usual(written);
        }
    }

    #[test]
    fn every_day_of_the_range_follows_the_one_before() {
        // A plain calendar: count days month by month.
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..106_752 {
            assert_eq!(date(days), (year as u64, month as u64, day as u64));
            assert_eq!(days_since_1970(year, month, day), days as i64);
            day += 1;
            if day > days_in_month(year, month) {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(unix_nano in 0..=TIME_UNIX_NANO_MAX) {
            prop_assert_eq!(parse(&text(unix_nano)), Ok(unix_nano));
            compare_usual(&text(unix_nano));
        }

        #[test]
        fn the_usual_form_is_read_as_any_other(
            text in "(19[67]|20[0-9]|2[12][0-9]|[0-9]{3})[0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{0,11})?Z",
            at in any::<prop::sample::Index>(),
            other in any::<char>(),
        ) {
            compare_usual(&text);
            let at = at.index(text.len());
            compare_usual(&format!("{}{other}{}", &text[..at], &text[at + 1..]));
        }

        #[test]
        fn no_text_panics(bytes in "[0-9TZtz:.+ -]{0,40}", number in any::<u64>()) {
            let _ = parse(&bytes);
            prop_assert_eq!(text(number).len(), FORMATTED_BYTES);
        }
    }
}
