//! What other agents call the fields of an event, and the units in which they send times: for the messages of rejected
//! events. Nothing here is looked at before an event is rejected.

use std::fmt;

use super::nearest::nearest;
use crate::limits::JSON_TIME_UNIX_NANO_MIN;

const TIME: &str = "use `time`: an RFC 3339 text, or integer nanoseconds since 1970";
const SEVERITY: &str = "use `severity`: \"trace\", \"debug\", \"info\", \"warn\", \"error\", \"fatal\", or 1 to 24";
const SOURCE: &str = "use `source`";
const NAME: &str = "use `name`";
const NAME_OR_BODY: &str = "use `name` for what happened, `body` for a text";
const BODY: &str = "use `body`";
const ATTRIBUTES: &str = "use `attributes`: an object";
const VALUE: &str = "use `value`";
const DURATION: &str = "use `duration_nano`, in nanoseconds";
const DURATION_MICROS: &str = "use `duration_nano`, in nanoseconds: microseconds × 1,000";
const DURATION_MILLIS: &str = "use `duration_nano`, in nanoseconds: milliseconds × 1,000,000";
const DURATION_SECONDS: &str = "use `duration_nano`, in nanoseconds: seconds × 1,000,000,000";
const TRACE_ID: &str = "use `trace_id`";
const SPAN_ID: &str = "use `span_id`";
const PARENT_SPAN_ID: &str = "use `parent_span_id`";
const KIND: &str =
    "put it into `attributes`; `kind` is \"log\", \"gauge\", \"counter\", \"span\", \"histogram\" or \"summary\"";
const SERVER: &str = "the server sets it: leave it out";
const AGENT: &str = "leave it out, or put it into `attributes`";
const OTLP: &str = "this is OTLP: send it to POST /v1/logs, /v1/metrics or /v1/traces";
const LOKI: &str = "this is a push body of Loki, which is not supported: send events";

/// Keys of other agents and formats, and what to use instead. Case, `_` and `-` do not count.
///
/// Fluent Bit, Vector, pino, zap, logrus, Python's logging, the Elastic Common Schema, GELF, journald, Docker, Loki,
/// Datadog, Splunk, OpenTelemetry, and what this server writes itself.
const KEYS: &[(&str, &str)] = &[
    ("@timestamp", TIME),
    ("timestamp", TIME),
    ("ts", TIME),
    ("date", TIME),
    ("datetime", TIME),
    ("asctime", TIME),
    ("eventtime", TIME),
    ("createdat", TIME),
    ("epoch", TIME),
    ("unixtime", TIME),
    ("timems", TIME),
    ("timestampms", TIME),
    ("timens", TIME),
    ("timeunixnano", TIME),
    ("observedtimeunixnano", TIME),
    ("starttimeunixnano", TIME),
    ("level", SEVERITY),
    ("lvl", SEVERITY),
    ("loglevel", SEVERITY),
    ("log.level", SEVERITY),
    ("levelname", SEVERITY),
    ("severitytext", SEVERITY),
    ("severitynumber", SEVERITY),
    ("priority", SEVERITY),
    ("host", SOURCE),
    ("hostname", SOURCE),
    ("host.name", SOURCE),
    ("service", SOURCE),
    ("service.name", SOURCE),
    ("servicename", SOURCE),
    ("app", SOURCE),
    ("appname", SOURCE),
    ("application", SOURCE),
    ("ddsource", SOURCE),
    ("metric", NAME),
    ("metricname", NAME),
    ("eventname", NAME),
    ("event", NAME_OR_BODY),
    ("message", BODY),
    ("msg", BODY),
    ("log", BODY),
    ("line", BODY),
    ("text", BODY),
    ("shortmessage", BODY),
    ("fullmessage", BODY),
    ("fields", ATTRIBUTES),
    ("labels", ATTRIBUTES),
    ("tags", ATTRIBUTES),
    ("ddtags", ATTRIBUTES),
    ("attrs", ATTRIBUTES),
    ("context", ATTRIBUTES),
    ("ctx", ATTRIBUTES),
    ("extra", ATTRIBUTES),
    ("meta", ATTRIBUTES),
    ("metadata", ATTRIBUTES),
    ("properties", ATTRIBUTES),
    ("dimensions", ATTRIBUTES),
    ("resource", ATTRIBUTES),
    ("val", VALUE),
    ("gauge", VALUE),
    ("metricvalue", VALUE),
    ("duration", DURATION),
    ("durationns", DURATION),
    ("elapsed", DURATION),
    ("elapsedns", DURATION),
    ("latency", DURATION),
    ("took", DURATION),
    ("durationus", DURATION_MICROS),
    ("elapsedus", DURATION_MICROS),
    ("durationms", DURATION_MILLIS),
    ("elapsedms", DURATION_MILLIS),
    ("latencyms", DURATION_MILLIS),
    ("responsetime", DURATION_MILLIS),
    ("durations", DURATION_SECONDS),
    ("durationsec", DURATION_SECONDS),
    ("durationseconds", DURATION_SECONDS),
    ("traceid", TRACE_ID),
    ("trace.id", TRACE_ID),
    ("dd.traceid", TRACE_ID),
    ("spanid", SPAN_ID),
    ("span.id", SPAN_ID),
    ("dd.spanid", SPAN_ID),
    ("parent.id", PARENT_SPAN_ID),
    ("parentid", PARENT_SPAN_ID),
    ("parentspanid", PARENT_SPAN_ID),
    ("type", KIND),
    ("serverid", SERVER),
    ("position", SERVER),
    ("receivedat", SERVER),
    ("agent", AGENT),
    ("resourcelogs", OTLP),
    ("resourcemetrics", OTLP),
    ("resourcespans", OTLP),
    ("scopelogs", OTLP),
    ("scopemetrics", OTLP),
    ("scopespans", OTLP),
    ("logrecords", OTLP),
    ("streams", LOKI),
];

/// What to use instead of a key that is well known elsewhere.
pub(super) fn advice(key: &str) -> Option<&'static str> {
    #[cfg(test)]
    work::LOOKUPS.set(work::LOOKUPS.get() + 1);
    let letters = |text: &'static str| text.bytes();
    KEYS.iter()
        .find(|(known, _)| {
            let key = key.bytes().filter(|byte| !b"_-".contains(byte)).map(|byte| byte.to_ascii_lowercase());
            key.eq(letters(known))
        })
        .map(|(_, advice)| *advice)
}

/// How often a thread has looked a key up, for tests of work that nobody would see.
#[cfg(test)]
pub(super) mod work {
    thread_local! {
        /// Calls of [`super::advice`].
        pub(in crate::event) static LOOKUPS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
    }
}

const KINDS: [&str; 6] = ["log", "gauge", "counter", "span", "histogram", "summary"];
const SEVERITIES: [&str; 6] = ["trace", "debug", "info", "warn", "error", "fatal"];

/// Kinds of other agents and formats, in lower case, and ours.
const FOREIGN_KINDS: &[(&str, &str)] = &[
    ("event", "log"),
    ("logs", "log"),
    ("message", "log"),
    ("count", "counter"),
    ("counters", "counter"),
    ("sum", "counter"),
    ("gauges", "gauge"),
    ("histograms", "histogram"),
    ("spans", "span"),
    ("summaries", "summary"),
    ("trace", "span"),
    ("traces", "span"),
];

/// Severities of syslog, Python, Java and .NET, in lower case, and ours.
const FOREIGN_SEVERITIES: &[(&str, &str)] = &[
    ("alert", "fatal"),
    ("crit", "fatal"),
    ("critical", "fatal"),
    ("emerg", "fatal"),
    ("emergency", "fatal"),
    ("panic", "fatal"),
    ("err", "error"),
    ("severe", "error"),
    ("warning", "warn"),
    ("information", "info"),
    ("informational", "info"),
    ("notice", "info"),
    ("dbg", "debug"),
    ("fine", "debug"),
    ("finest", "trace"),
    ("verbose", "trace"),
];

/// The known name that was meant by another one: in another case, of another program, misspelt.
fn meant<'a>(text: &str, known: &[&'a str], foreign: &[(&str, &'a str)]) -> Option<&'a str> {
    let of_others = || foreign.iter().find(|(foreign, _)| foreign.eq_ignore_ascii_case(text)).map(|(_, known)| *known);
    let in_another_case = known.iter().find(|known| known.eq_ignore_ascii_case(text)).copied();
    in_another_case.or_else(of_others).or_else(|| nearest(text, known))
}

/// The next step after a `kind` that is not known; may be empty.
pub(super) struct KindHint<'a>(pub &'a str);

impl fmt::Display for KindHint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if ["metric", "metrics"].iter().any(|metric| metric.eq_ignore_ascii_case(self.0)) {
            return f.write_str(": use \"gauge\" for a value, \"counter\" for a total that only grows");
        }
        match meant(self.0, &KINDS, FOREIGN_KINDS) {
            Some(kind) => write!(f, ": did you mean \"{kind}\"?"),
            None => Ok(()),
        }
    }
}

/// The next step after a `severity` that is not known; may be empty.
pub(super) struct SeverityHint<'a>(pub &'a str);

impl fmt::Display for SeverityHint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.is_empty() && self.0.bytes().all(|byte| byte.is_ascii_digit()) {
            return f.write_str(": send a number without quotes");
        }
        match meant(self.0, &SEVERITIES, FOREIGN_SEVERITIES) {
            Some(severity) => write!(f, ": did you mean \"{severity}\"?"),
            None => Ok(()),
        }
    }
}

/// Why an integer `time` before 1980 is rejected: with the unit that it looks like.
pub(super) struct EarlyTime(pub i64);

impl fmt::Display for EarlyTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`time` is {}, which is before 1980 in nanoseconds", self.0)?;
        match unit(self.0) {
            Some((unit, factor)) => write!(f, "; it looks like {unit}: multiply it by {factor}"),
            None => f.write_str(": send nanoseconds since 1970, or an RFC 3339 text"),
        }
    }
}

/// Why a `time` with a fraction or an exponent is rejected.
pub(super) struct FractionalTime(pub f64);

impl fmt::Display for FractionalTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match unit(self.0 as i64) {
            Some((unit, _)) => write!(
                f,
                "`time` is {}, which looks like {unit}: send integer nanoseconds since 1970, or an RFC 3339 text",
                self.0
            ),
            None => f.write_str(
                "`time` must be an RFC 3339 text or integer nanoseconds from 0 to 2^63 - 1, without fraction or exponent",
            ),
        }
    }
}

/// The unit in which this number is a time from 1980 to 2100, and its nanoseconds.
fn unit(time: i64) -> Option<(&'static str, &'static str)> {
    const SECONDS_1980: i64 = (JSON_TIME_UNIX_NANO_MIN / 1_000_000_000) as i64;
    const SECONDS_2100: i64 = 4_102_444_800;
    [("seconds", 1, "1,000,000,000"), ("milliseconds", 1_000, "1,000,000"), ("microseconds", 1_000_000, "1,000")]
        .into_iter()
        .find(|(_, per_second, _)| (SECONDS_1980..SECONDS_2100).contains(&(time / per_second)))
        .map(|(unit, _, factor)| (unit, factor))
}

#[cfg(test)]
mod tests {
    use super::super::json_key::FIELD_NAMES;
    use super::*;
    use crate::event::JsonDecoder;
    use crate::limits::HTTP_REJECTED_MAX;

    /// A request of a few KiB, unpacked, must not cost the event loop seconds for advice that nobody reads.
    #[test]
    fn advice_is_sought_only_for_what_an_answer_names() {
        let lookups = |text: &str, lines: bool| {
            let before = work::LOOKUPS.get();
            let (mut decoder, emit) = (JsonDecoder::new(), |_: &[u8]| Ok::<(), ()>(()));
            let decoded =
                if lines { decoder.lines(text.as_bytes(), emit) } else { decoder.document(text.as_bytes(), emit) };
            let rejected = decoded.unwrap().rejected;
            (work::LOOKUPS.get() - before, rejected.named.len(), rejected.total)
        };
        let keys: Vec<String> = (0..5_000).map(|number| format!("\"unknown{number}\":1")).collect();
        let one = format!("{{{}}}", keys.join(","));
        assert_eq!(lookups(&one, false), (1, 1, 1));
        assert_eq!(lookups(&one, true), (1, 1, 1));
        let all = HTTP_REJECTED_MAX as u64;
        let each = keys.iter().map(|key| format!("{{{key}}}")).collect::<Vec<_>>();
        assert_eq!(lookups(&format!("[{}]", each.join(",")), false), (all, HTTP_REJECTED_MAX, 5_000));
        assert_eq!(lookups(&each.join("\n"), true), (all, HTTP_REJECTED_MAX, 5_000));
        // The next body is explained again, also by the same decoder.
        let (mut decoder, emit) = (JsonDecoder::new(), |_: &[u8]| Ok::<(), ()>(()));
        decoder.lines(each.join("\n").as_bytes(), emit).unwrap();
        let again = decoder.document(each[0].as_bytes(), emit).unwrap();
        assert_eq!(again.rejected.named[0].error, "unknown key `unknown0`: put it into `attributes`");
    }

    #[test]
    fn advice_names_fields_that_exist() {
        for (key, advice) in KEYS {
            assert_eq!(super::advice(key), Some(*advice), "{key} comes twice");
            assert!(!key.contains(['_', '-']) && *key == key.to_ascii_lowercase(), "{key} is never found");
            for name in advice.split('`').skip(1).step_by(2) {
                assert!(FIELD_NAMES.contains(&name), "{key}: {name}");
            }
        }
    }

    #[test]
    fn kinds_and_severities_of_others_lead_to_names_that_exist() {
        for (foreign, known) in FOREIGN_KINDS {
            assert!(KINDS.contains(known) && !KINDS.contains(foreign), "{foreign}");
        }
        for (foreign, known) in FOREIGN_SEVERITIES {
            assert!(SEVERITIES.contains(known) && !SEVERITIES.contains(foreign), "{foreign}");
            let hint = SeverityHint(&foreign.to_uppercase()).to_string();
            assert_eq!(hint, format!(": did you mean \"{known}\"?"));
        }
    }

    #[test]
    fn no_field_is_foreign() {
        // `severity` and its like never come here; with other letters they are typing errors.
        for name in ["time", "kind", "severity", "source", "name", "body", "attributes", "value", "duration_nano"] {
            assert_eq!(advice(name), None, "{name}");
        }
    }

    #[test]
    fn a_unit_is_one_in_which_the_time_is_of_this_century() {
        for (time, expected) in [
            (315_532_799, None),
            (315_532_800, Some("seconds")),
            (4_102_444_799, Some("seconds")),
            (4_102_444_800, None),
            (315_532_800_000, Some("milliseconds")),
            (4_102_444_799_999, Some("milliseconds")),
            (315_532_800_000_000, Some("microseconds")),
            (4_102_444_800_000_000, None),
            (i64::MAX, None),
            (i64::MIN, None),
        ] {
            assert_eq!(unit(time).map(|(unit, _)| unit), expected, "{time}");
        }
    }
}
