//! What a service answers, and what that means for a delivery: its status decides.

use std::io::{self, Read};
use std::time::{Duration, SystemTime};

use ureq::http::header::{DATE, HeaderMap, LOCATION, RETRY_AFTER};
use ureq::{Body, Error, Timeout, http};

use super::super::{Failure, Unavailable, connection_advice, tls, with_advice};
use super::settings::HttpSettings;
use crate::limits;
use crate::settings::Url;
use crate::text::cut;

/// An answer, as far as it is read.
pub(super) struct Answer {
    status: u16,
    location: Option<String>,
    retry_after: Option<Duration>,
    /// The first bytes of the body, in one line.
    words: String,
    /// The body did not come whole.
    broken: Option<io::Error>,
    /// The service had not taken the whole request.
    cut_short: bool,
}

impl Answer {
    /// Reads a bounded part of the body. A longer one ends the connection, a shorter one lets it be used again.
    pub(super) fn read(mut response: http::Response<Body>, cut_short: bool, settings: &HttpSettings) -> Self {
        let mut body = Vec::new();
        let read = response.body_mut().as_reader().take(limits::HTTP_ANSWER_BYTES_MAX).read_to_end(&mut body);
        let location = response.headers().get(LOCATION);
        // Before it is cut: a part of a secret would not be found.
        let words = settings.hide(&String::from_utf8_lossy(&body));
        let words = cut(&words, limits::REFUSAL_REASON_BYTES_MAX);
        Self {
            status: response.status().as_u16(),
            location: location.map(|value| settings.hide(&String::from_utf8_lossy(value.as_bytes()))),
            retry_after: retry_after(response.headers(), SystemTime::now()),
            words: words
                .split(|c: char| c.is_control() || c == ' ')
                .filter(|word| !word.is_empty())
                .fold(String::new(), |line, word| if line.is_empty() { word.to_owned() } else { line + " " + word }),
            broken: read.err(),
            cut_short,
        }
    }

    /// Whether the delivery is stored; else why not.
    pub(super) fn verdict(&self, settings: &HttpSettings) -> Result<(), Failure> {
        let retry = || {
            let reason = self.reason(settings, "");
            Err(Unavailable::Retry { reason, after: self.retry_after }.into())
        };
        let down = |advice: &str| Err(Unavailable::down(self.reason(settings, advice)).into());
        match self.status {
            200..=299 => {
                let why = match &self.broken {
                    None if !self.cut_short => return Ok(()),
                    None => "before it had received the whole request".to_owned(),
                    Some(error) => format!("but the answer is incomplete: {error}"),
                };
                Err(Unavailable::retry(format!("{}: HTTP {}, {why}", settings.place(), self.status)).into())
            }
            300..=399 => match &self.location {
                Some(location) => down(&format!(
                    "names {}, and redirects are not followed: if that is right, set url to it",
                    // It may have a password in it, as a setting may.
                    shown_location(location)
                )),
                None => down("redirects are not followed"),
            },
            // It refuses these events, or so many of them: the router looks for the fewest.
            400 | 413 | 422 => {
                let reason = if self.words.is_empty() { "the answer gives no reason" } else { &self.words };
                Err(Failure::BatchRefused { code: format!("HTTP {}", self.status), reason: reason.to_owned() })
            }
            408 | 425 | 429 => retry(),
            401 | 403 => down("check token or headers (or the files they come from; they are read at start)"),
            404 | 410 => down("check the path in url"),
            405 => down("url does not accept POST: check its path"),
            407 => down("a proxy before the service requires a login"),
            415 => {
                let gzip = if settings.gzip { " or gzip" } else { "" };
                down(&format!("the service does not take {}: set format{gzip}", settings.format.media_type()))
            }
            431 => down("the service does not accept headers of this size"),
            501 | 505 => down("the service does not speak HTTP/1.1 with POST"),
            500..=599 => retry(),
            _ => down("see the service's message"),
        }
    }

    fn reason(&self, settings: &HttpSettings, advice: &str) -> String {
        let mut reason = format!("{}: HTTP {}", settings.place(), self.status);
        let words: String = self.words.chars().take(limits::HTTP_ANSWER_WORDS_CHARS_MAX).collect();
        let quoted = if words.is_empty() { words } else { format!("{words:?}") };
        for part in [quoted.as_str(), advice].into_iter().filter(|part| !part.is_empty()) {
            reason += ": ";
            reason += part;
        }
        reason
    }
}

/// A whole URL as settings are shown; of a path what stands before its query.
fn shown_location(location: &str) -> String {
    match location.split(['?', '#']).next() {
        Some(path) if path.starts_with('/') && !path.contains(['@', ':']) => format!("{path:?}"),
        _ => Url::new(location).to_string(),
    }
}

/// Seconds, or a date, which is compared with the service's own clock where it shows it.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let value = text(RETRY_AFTER)?;
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = |text| httpdate::parse_http_date(text).ok();
    let now = text(DATE).and_then(date).unwrap_or(now);
    Some(date(value)?.duration_since(now).unwrap_or_default())
}

/// Why there is no answer.
pub(super) fn unavailable(error: &Error, settings: &HttpSettings) -> Unavailable {
    let place = settings.place();
    // It may quote the answer.
    let why = settings.hide(&error.to_string());
    let retry = |advice: &str| Unavailable::retry(format!("{place}: {}", with_advice(&why, advice)));
    let down = |advice: &str| Unavailable::down(format!("{place}: {}", with_advice(&why, advice)));
    const CERTIFICATE: &str = "check the service's certificate, its name, and ca_file";
    if let Some(error) = tls::error_of_http(error) {
        return down(match tls::trouble(error) {
            tls::Trouble::Certificate => CERTIFICATE,
            tls::Trouble::NotTls => "the service does not speak TLS: name it with http:// in url",
            tls::Trouble::ClientCertificate => "if the service requires a client certificate, it cannot be used",
            tls::Trouble::Other => "service and sink do not agree on TLS: see the service's log",
        });
    }
    match error {
        Error::Tls(_) => down(CERTIFICATE),
        Error::Io(error) => retry(connection_advice(error)),
        Error::Timeout(Timeout::Connect) => Unavailable::retry(format!("{place}: no connection in time")),
        Error::Timeout(_) => Unavailable::retry(format!("{place}: no answer in time")),
        Error::Protocol(_) | Error::LargeResponseHeader(..) => retry("is this an HTTP service?"),
        _ => retry(""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(retry_after_value: &str, date: Option<&str>) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, retry_after_value.parse().unwrap());
        if let Some(date) = date {
            headers.insert(DATE, date.parse().unwrap());
        }
        // Sun, 06 Nov 1994 08:49:37 GMT
        retry_after(&headers, SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777))
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_on_the_clock_of_the_service() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(after("120", None), seconds(120));
        assert_eq!(after(" 0 ", None), seconds(0));
        assert_eq!(after("Sun, 06 Nov 1994 08:50:37 GMT", None), seconds(60));
        assert_eq!(after("Sun, 06 Nov 1994 08:50:37 GMT", Some("Sun, 06 Nov 1994 08:50:36 GMT")), seconds(1));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:36 GMT", None), seconds(0), "past");
        for nonsense in ["", "-1", "soon", "1.5", "99999999999999999999", "Sun, 99 Nov 1994 08:49:37 GMT"] {
            assert_eq!(after(nonsense, None), None, "{nonsense}");
        }
    }
}
