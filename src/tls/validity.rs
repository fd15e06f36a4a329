//! Until when a certificate is valid: the one field that rustls checks and does not show.

const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0]`, explicit: the version, which certificates of version 1 do not have.
const VERSION: u8 = 0xa0;
const SECONDS_PER_DAY: i64 = 86_400;

/// The last second in which the certificate is valid (`notAfter`), in seconds since 1970. `None`: it is not a certificate.
pub(super) fn not_after(certificate: &[u8]) -> Option<i64> {
    let mut tbs = Der(Der(Der(certificate).expect(SEQUENCE)?).expect(SEQUENCE)?);
    // Version, serial number, algorithm, issuer: RFC 5280, section 4.1.
    let (first, _) = tbs.next()?;
    let before_validity = if first == VERSION { 3 } else { 2 };
    for _ in 0..before_validity {
        tbs.next()?;
    }
    let mut validity = Der(tbs.expect(SEQUENCE)?);
    validity.next()?;
    let (tag, time) = validity.next()?;
    unix_seconds(tag, time)
}

/// Values in DER, one after the other.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// Tag and content of the next value.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let [tag, first, rest @ ..] = self.0 else { return None };
        let (length, rest) = match *first {
            short @ 0..0x80 => (usize::from(short), rest),
            long => {
                let digits = usize::from(long & 0x7f);
                if digits == 0 || digits > 4 {
                    return None;
                }
                let (digits, rest) = rest.split_at_checked(digits)?;
                (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
            }
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((*tag, content))
    }

    /// The content of the next value, which has this tag.
    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (found, content) = self.next()?;
        (found == tag).then_some(content)
    }
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`, the only forms in certificates.
fn unix_seconds(tag: u8, time: &[u8]) -> Option<i64> {
    let digits = time.strip_suffix(b"Z")?;
    let number = |digits: &[u8]| {
        let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        is_number.then(|| digits.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0')))
    };
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = digits.split_at_checked(2)?;
            // RFC 5280, section 4.1.2.5.1.
            let year = number(year)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = digits.split_at_checked(4)?;
            (number(year)?, rest)
        }
        _ => return None,
    };
    if rest.len() != 10 {
        return None;
    }
    let mut pairs = rest.chunks_exact(2).map(number);
    let mut pair = || pairs.next().flatten();
    let (month, day, hour, minute, second) = (pair()?, pair()?, pair()?, pair()?, pair()?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    Some(days_since_1970(year, month, day) * SECONDS_PER_DAY + hour * 3_600 + minute * 60 + second)
}

/// Days from 1970-01-01 to a day of the Gregorian calendar. The year begins with March, so that a leap day is its last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::Issued;

    #[test]
    fn the_end_of_a_certificate_is_found() {
        // 2049-12-31 is the last day of the short form.
        for (year, month, day, seconds) in
            [(2049, 12, 31, 2_524_521_600), (2050, 1, 1, 2_524_608_000), (2000, 2, 29, 951_782_400)]
        {
            let issued = Issued::self_signed_until("localhost", (year, month, day));
            assert_eq!(not_after(&issued.der), Some(seconds), "{year}-{month}-{day}");
        }
    }

    #[test]
    fn every_cut_of_a_certificate_is_none_or_the_same() {
        let issued = Issued::self_signed("localhost");
        let whole = not_after(&issued.der);
        assert!(whole.is_some());
        for length in 0..issued.der.len() {
            assert_eq!(not_after(&issued.der[..length]), None, "{length}");
        }
        for at in 0..issued.der.len() {
            let mut der = issued.der.clone();
            der[at] ^= 0xff;
            let _ = not_after(&der);
        }
    }

    #[test]
    fn times_have_two_forms() {
        for (tag, time, seconds) in [
            (UTC_TIME, "700101000000Z", Some(0)),
            (UTC_TIME, "491231235959Z", Some(2_524_607_999)),
            (UTC_TIME, "500101000000Z", Some(-631_152_000)),
            (GENERALIZED_TIME, "20240229120001Z", Some(1_709_208_001)),
            (GENERALIZED_TIME, "99991231235959Z", Some(253_402_300_799)),
            (UTC_TIME, "20240229120001Z", None),
            (UTC_TIME, "700101000000", None),
            (UTC_TIME, "7001010000Z", None),
            (UTC_TIME, "701301000000Z", None),
            (UTC_TIME, "70010100000aZ", None),
            (2, "700101000000Z", None),
        ] {
            assert_eq!(unix_seconds(tag, time.as_bytes()), seconds, "{time}");
        }
    }
}
