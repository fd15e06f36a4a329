//! The certificate of the server: read at start and by `telemetryx check`, watched for changes and for its expiry.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::config::{Config, ConfigError};
use crate::event::rfc3339;
use crate::limits::{TLS_EXPIRY_WARNING, TLS_FILES_INTERVAL};
use crate::metrics::Metrics;
use crate::time::unix_nano;
use crate::tls::{Acceptor, Looked};

/// Reads the files of `[tls]`. `None`: TLS is not offered. `has_syslog`: whether syslog is served, which a reload does not change.
///
/// # Errors
/// They cannot be used.
pub fn acceptor(config: &Config, has_syslog: bool) -> Result<Option<Acceptor>, ConfigError> {
    let acceptor = config.tls.files().map(|files| Acceptor::new(files, !has_syslog)).transpose();
    acceptor.map_err(|problem| ConfigError { problems: vec![problem] })
}

/// How long a certificate is still valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// For longer than the time in which it is warned about.
    Far,
    /// For this many whole days.
    Near(u64),
    /// It is not valid any more.
    Over,
}

impl Expiry {
    /// Of a certificate whose last second, since 1970, is `not_after`.
    pub fn of(not_after: i64, now: SystemTime) -> Self {
        let now = i64::try_from(unix_nano(now) / 1_000_000_000).unwrap_or(i64::MAX);
        match not_after.saturating_sub(now) {
            left if left < 0 => Self::Over,
            left if left.cast_unsigned() < TLS_EXPIRY_WARNING.as_secs() => Self::Near(left.cast_unsigned() / 86_400),
            _ => Self::Far,
        }
    }
}

/// That second as people read it.
pub fn shown(not_after: i64) -> String {
    let nanos = u64::try_from(not_after).unwrap_or(0).saturating_mul(1_000_000_000);
    let text = rfc3339::format(nanos);
    let seconds = text.get(..19).unwrap_or(&text);
    format!("{}Z", String::from_utf8_lossy(seconds))
}

/// Looks at the files now and then, for as long as `acceptor` is used, on a thread of its own.
///
/// # Errors
/// The system has no thread left.
pub(super) fn watch(acceptor: &Arc<Acceptor>, metrics: Arc<Metrics>) -> std::io::Result<()> {
    let mut watch = Watch { warned: None };
    let shown = Shown::begin(metrics);
    watch.note(acceptor.not_after(), SystemTime::now(), &shown.metrics);
    let acceptor = Arc::downgrade(acceptor);
    let looks = move || {
        while let Some(acceptor) = Weak::upgrade(&acceptor) {
            watch.step(&acceptor, SystemTime::now(), &shown.metrics);
            drop(acceptor);
            thread::sleep(TLS_FILES_INTERVAL);
        }
    };
    thread::Builder::new().name("tls files".to_owned()).spawn(looks).map(drop)
}

/// While it lives, the metrics show a certificate: the last one that ends hides it.
struct Shown {
    metrics: Arc<Metrics>,
}

impl Shown {
    fn begin(metrics: Arc<Metrics>) -> Self {
        metrics.certificate_watches.fetch_add(1, Ordering::Relaxed);
        Self { metrics }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if self.metrics.certificate_watches.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.metrics.hide_certificate();
        }
    }
}

/// What was logged about the certificate.
struct Watch {
    /// The certificate that was last warned about, by its end, and when.
    warned: Option<(i64, SystemTime)>,
}

impl Watch {
    fn step(&mut self, acceptor: &Acceptor, now: SystemTime, metrics: &Metrics) {
        match acceptor.look() {
            Looked::Unchanged => {}
            Looked::Replaced(not_after) => {
                tracing::info!(valid_until = shown(not_after), "TLS certificate replaced");
            }
            Looked::Unusable(error) => {
                tracing::warn!(
                    error,
                    "the files of [tls] have changed and cannot be used; the earlier ones stay in force"
                );
            }
        }
        self.note(acceptor.not_after(), now, metrics);
    }

    /// Shows the expiry, and warns about it once per day.
    fn note(&mut self, not_after: i64, now: SystemTime, metrics: &Metrics) {
        metrics.show_certificate(not_after);
        let is_warned = |(of, at): (i64, SystemTime)| {
            of == not_after && now.duration_since(at).unwrap_or_default() < Duration::from_secs(86_400)
        };
        if self.warned.is_some_and(is_warned) {
            return;
        }
        let time = shown(not_after);
        match Expiry::of(not_after, now) {
            Expiry::Far => return,
            Expiry::Near(days) => {
                tracing::warn!(expires_at = time, days, "the TLS certificate expires soon: renew tls.cert_file");
            }
            Expiry::Over => {
                tracing::error!(
                    expired_at = time,
                    "the TLS certificate has expired, clients reject it: renew tls.cert_file"
                );
            }
        }
        self.warned = Some((not_after, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_thirty_days_are_near() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let day = 86_400;
        for (left, expiry) in [
            (-1, Expiry::Over),
            (0, Expiry::Near(0)),
            (day - 1, Expiry::Near(0)),
            (30 * day - 1, Expiry::Near(29)),
            (30 * day, Expiry::Far),
            (i64::MAX - 1_000_000_000, Expiry::Far),
        ] {
            assert_eq!(Expiry::of(1_000_000_000 + left, now), expiry, "{left}");
        }
    }

    #[test]
    fn an_expiry_is_shown_as_a_time() {
        assert_eq!(shown(1_709_208_001), "2024-02-29T12:00:01Z");
        assert_eq!(shown(-5), "1970-01-01T00:00:00Z");
    }
}
