//! The `Date` field of answers (RFC 9110, section 6.6.1).

use std::io::Write;
use std::time::{Duration, UNIX_EPOCH};

/// Bytes of an IMF-fixdate, `Thu, 26 Nov 2026 23:34:53 GMT`.
pub const DATE_BYTES: usize = 29;

/// A wall clock's second as an IMF-fixdate (RFC 9110, section 5.6.7), formatted again only when the second changes.
#[derive(Debug)]
pub struct HttpDate {
    unix_seconds: u64,
    text: [u8; DATE_BYTES],
}

impl Default for HttpDate {
    fn default() -> Self {
        Self { unix_seconds: 0, text: *b"Thu, 01 Jan 1970 00:00:00 GMT" }
    }
}

impl HttpDate {
    /// The text for this time. Allocates nothing.
    pub fn at(&mut self, unix_nano: u64) -> &[u8; DATE_BYTES] {
        let unix_seconds = unix_nano / 1_000_000_000;
        if unix_seconds != self.unix_seconds {
            self.unix_seconds = unix_seconds;
            // 2^64 nanoseconds end in the year 2554: the text always has this length.
            let time = UNIX_EPOCH + Duration::from_secs(unix_seconds);
            let _ = write!(&mut self.text[..], "{}", httpdate::HttpDate::from(time));
        }
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_becomes_an_imf_fixdate() {
        let mut date = HttpDate::default();
        for (unix_seconds, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_868_799, "Tue, 29 Feb 2000 23:59:59 GMT"),
            (1_795_464_948, "Mon, 23 Nov 2026 20:15:48 GMT"),
            (u64::MAX / 1_000_000_000, "Sun, 21 Jul 2554 23:34:33 GMT"),
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
        ] {
            for nanoseconds in [0, 709_551_615] {
                let written = date.at(unix_seconds * 1_000_000_000 + nanoseconds);
                assert_eq!(str::from_utf8(written), Ok(text), "{unix_seconds}");
            }
        }
    }
}
