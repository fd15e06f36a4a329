//! Times of BSD syslog (RFC 3164): no zone, usually no year, and what devices add to them.

use crate::event::rfc3339::{self, Civil};

/// A time at the beginning of a text, in nanoseconds, and the text after it and its space. `None`: there is none.
///
/// `Oct 11 22:14:15`, with a day of one digit and one space or two, with a fraction, with a year before or after the time of
/// day, after `*` or `.` (a clock that is not synchronised); or RFC 3339. A time without a zone is UTC; one without a year
/// is in the year in which it is nearest to `now`.
pub(super) fn leading(text: &str, now_unix_nano: u64) -> Option<(u64, &str)> {
    if text.starts_with(|first: char| first.is_ascii_digit()) {
        let (token, rest) = text.split_once(' ')?;
        return Some((rfc3339::parse_lenient(token).ok()?, rest));
    }
    bsd(text.strip_prefix(['*', '.']).unwrap_or(text), now_unix_nano)
}

fn bsd(text: &str, now_unix_nano: u64) -> Option<(u64, &str)> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (month, rest) = text.split_at_checked(3)?;
    let month = MONTHS.iter().position(|name| *name == month)? as i64 + 1;
    let rest = rest.strip_prefix(' ')?;
    let (day, rest) = rest.strip_prefix(' ').unwrap_or(rest).split_once(' ')?;
    let day = digits(day, 1, 2)?;
    let (token, after) = token(rest);
    let (year, (clock, rest)) = match digits(token, 4, 4) {
        Some(year) => (Some(year), self::token(after)),
        None => (None, (token, after)),
    };
    let (clock, has_colon) = clock.strip_suffix(':').map_or((clock, false), |clock| (clock, true));
    let clock = clock_of(clock)?;
    let (year, rest) = match (year, self::token(rest)) {
        // Some devices write the year after the time of day.
        (None, (token, after)) if !has_colon && digits(token, 4, 4).is_some_and(|year| year >= 1970) => {
            (digits(token, 4, 4), after)
        }
        (year, _) => (year, rest),
    };
    let at = |year| Civil { year, month, day, ..clock }.unix_nano();
    let time = match year {
        Some(year) => at(year)?,
        None => nearest(at, now_unix_nano)?,
    };
    Some((time, rest))
}

/// Of the years around `now`, the one in which the time is nearest to it. A 29 February is in a leap year, which may be eight
/// years away.
fn nearest(at: impl Fn(i64) -> Option<u64>, now_unix_nano: u64) -> Option<u64> {
    const YEARS: i64 = 8;
    let now_year = rfc3339::year(now_unix_nano);
    let times = (now_year - YEARS..=now_year + YEARS).filter_map(at);
    times.min_by_key(|time| time.abs_diff(now_unix_nano))
}

/// `22:14:15` or `22:14:15.003`.
fn clock_of(text: &str) -> Option<Civil> {
    let (clock, fraction) = text.split_once(['.', ',']).unwrap_or((text, "0"));
    let mut parts = clock.split(':').map(|part| digits(part, 2, 2));
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
    if parts.next().is_some() || fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanos = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
    let nanos = nanos.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    Some(Civil { year: 1970, month: 1, day: 1, hour, minute, second, nanos })
}

/// The text up to the next space, and what follows it.
fn token(text: &str) -> (&str, &str) {
    text.split_once(' ').unwrap_or((text, ""))
}

fn digits(text: &str, min: usize, max: usize) -> Option<i64> {
    let is_number = (min..=max).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}
