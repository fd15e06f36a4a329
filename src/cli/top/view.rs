//! What `telemetryx top` shows: two states of a server become lines of text.

use super::units::{bytes, count, percent, rate, time};
use crate::cli::table::{Column, Table};
use crate::cli::terminal::{fit, width};
use crate::escape::escape;
use crate::status::{Sink, Status};

/// Rejections that are shown: the page has the others.
const REJECTIONS: usize = 6;
/// Lines of an error of a sink, and what they begin with.
const DETAILS_LINES: usize = 2;
const INDENT: &str = "  ";
/// Busy ratios of loops that fit.
const LOOPS: usize = 2;
/// Columns in which three numbers stand side by side; in fewer, two do.
const WIDE: usize = 78;

/// A line of the screen; nothing in it controls the terminal.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Fits the columns.
    pub text: String,
    /// How it is painted.
    pub tone: Tone,
}

/// How a line is painted where there are colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// As text.
    Plain,
    /// As a heading.
    Head,
    /// As what a person has to look at.
    Bad,
}

/// Two states of a server.
pub(super) struct View<'a> {
    /// Some seconds before `now`; the same where there is one only.
    pub before: &'a Status,
    /// The newest one.
    pub now: &'a Status,
    /// Where it comes from.
    pub server: &'a str,
    /// Why there is no newer one.
    pub trouble: Option<&'a str>,
}

impl View<'_> {
    /// The lines, none of them wider than `columns`; `None`: nothing is cut.
    pub(super) fn lines(&self, columns: Option<usize>) -> Vec<Line> {
        let mut lines = Vec::new();
        self.overview(columns, &mut lines);
        self.sinks(columns, &mut lines);
        self.rejections(columns, &mut lines);
        for line in &mut lines {
            if let Some(columns) = columns {
                line.text = fit(&line.text, columns).into_owned();
            }
        }
        lines
    }

    fn overview(&self, columns: Option<usize>, lines: &mut Vec<Line>) {
        let Self { before, now, server, trouble } = self;
        let ready = if now.is_ready { "ready".to_owned() } else { format!("NOT READY: {}", now.reasons.join(", ")) };
        let (version, uptime) = (&now.version, time(now.uptime_seconds as f64));
        let head = format!("telemetryx {version}  {ready}  up {uptime}  {server}");
        lines.push(line(&head, if now.is_ready { Tone::Head } else { Tone::Bad }));
        lines.extend(trouble.map(|trouble| line(trouble, Tone::Bad)));
        let ack = now.ack.since(&before.ack);
        let quantile = |seconds: Option<f64>| match (seconds, ack.bound_seconds()) {
            (Some(f64::INFINITY), Some(bound)) => format!("> {}", time(bound)),
            (seconds, _) => seconds.map_or_else(|| "-".to_owned(), time),
        };
        let per_second = |now, before| rate(self.rate(now, before)) + "/s";
        let [received, stored] =
            [per_second(now.received_total(), before.received_total()), per_second(now.stored, before.stored)];
        let log = now.log.as_ref().map(|log| format!("{} of {}", bytes(log.bytes.used), bytes(log.bytes.capacity)));
        let buffers = format!("{} of {}", percent(now.buffers.used, now.buffers.capacity), bytes(now.buffers.capacity));
        let (rejected, connections) = (count(now.rejected_total()), count(now.connections.used));
        let counts = [
            [("in", received), ("accepted", count(now.received_total()))],
            [("stored", stored), ("rejected", rejected)],
            [("ack p50", quantile(ack.p50_seconds)), ("agents", count(now.agents.connected))],
            [("ack p99", quantile(ack.p99_seconds)), ("connections", connections)],
        ];
        let ring = percent(now.ring.used, now.ring.capacity);
        let uses =
            [("log", log.unwrap_or("off".to_owned())), ("buffers", buffers), ("ring", ring), ("loops", self.loops())];
        let uses = uses.map(|(name, value)| format!("{name:<9}{value}"));
        // Numbers keep their places while they change.
        let counts = counts.map(|[one, other]| format!("{:<8}{:>11}   {:<12}{:>14}", one.0, one.1, other.0, other.1));
        let is_wide = columns.is_none_or(|columns| columns >= WIDE);
        let rows = counts.iter().zip(&uses);
        lines.extend(rows.map(|(count, of)| match is_wide {
            true => line(&format!("{count}   {of}"), Tone::Plain),
            false => line(count, Tone::Plain),
        }));
        if !is_wide {
            let [log, buffers, ring, loops] = &uses;
            lines.extend(
                [(log, buffers), (ring, loops)].map(|(one, other)| line(&format!("{one:<30}{other}"), Tone::Plain)),
            );
        }
    }

    /// How busy event loops are.
    fn loops(&self) -> String {
        let ratios = self.now.loops.iter().map(|each| each.busy_ratio * 100.0);
        if self.now.loops.len() > LOOPS {
            return format!("{}, busiest {:.0} %", self.now.event_loops, ratios.fold(0.0, f64::max));
        }
        let ratios: Vec<_> = ratios.map(|percent| format!("{percent:.0} %")).collect();
        format!("{} busy", ratios.join(" · "))
    }

    fn sinks(&self, columns: Option<usize>, lines: &mut Vec<Line>) {
        let mut table = Table::new([
            Column::flexible("sink", 8),
            Column::text("state"),
            Column::number("stored/s"),
            Column::number("waiting"),
            Column::number("oldest"),
            Column::number("retries"),
            Column::number("dead"),
        ]);
        // In the order of the settings, but first those that do not deliver: a screen may be too short for all.
        let mut sinks: Vec<_> = self.now.sinks.iter().collect();
        sinks.sort_by_key(|sink| sink.is_up || !sink.needs_attention());
        for sink in &sinks {
            let before = self.before.sinks.iter().find(|before| before.name == sink.name);
            let stored = before.and_then(|before| self.rate(sink.delivered, before.delivered));
            let oldest = age(sink);
            let [waiting, retries, dead] = [sink.lag_events, sink.retries, sink.dead].map(count);
            let (name, state) = (escape(&sink.name).to_string(), escape(&sink.state).to_string());
            table.row([name, state, rate(stored), waiting, oldest, retries, dead]);
        }
        lines.push(line("", Tone::Plain));
        let text = table.render(columns);
        let mut rows = text.lines();
        lines.extend(rows.next().map(|head| line(head, Tone::Head)));
        for (row, sink) in rows.zip(sinks) {
            let tone = if sink.needs_attention() { Tone::Bad } else { Tone::Plain };
            lines.push(line(row, tone));
            for details in self.details(sink) {
                lines.extend(indented(&details, columns).into_iter().map(|text| Line { text, tone }));
            }
        }
        if self.now.sinks_total > self.now.sinks.len() as u64 {
            lines.push(line(&format!("{} more", self.now.sinks_total - self.now.sinks.len() as u64), Tone::Plain));
        }
    }

    /// Why a sink does not work, and its newest dead letter.
    fn details(&self, sink: &Sink) -> Vec<String> {
        let error = sink.last_error.as_ref().filter(|_| !sink.is_up).map(|error| {
            let next = sink
                .next_attempt_seconds
                .map_or_else(String::new, |next| format!("next attempt in {}; ", time(next.ceil())));
            format!("{next}{}", error.reason)
        });
        let letter = sink
            .dead_letters
            .first()
            .map(|letter| format!("dead letters {}: {} {}", self.ago(letter.unix_ms), letter.code, letter.reason));
        error.into_iter().chain(letter).collect()
    }

    fn rejections(&self, columns: Option<usize>, lines: &mut Vec<Line>) {
        if self.now.rejections.is_empty() {
            return;
        }
        let mut table = Table::new([
            Column::flexible("rejected from", 10),
            Column::text("when"),
            Column::text("code"),
            Column::number("times"),
            Column::number("events"),
            Column::flexible("reason", 20),
        ]);
        for rejection in self.now.rejections.iter().take(REJECTIONS) {
            let [from, code, reason] =
                [&rejection.from, &rejection.code, &rejection.reason].map(|text| escape(text).to_string());
            // Of some requests the events are not counted.
            let events = if rejection.events == 0 { "-".to_owned() } else { count(rejection.events) };
            table.row([from, self.ago(rejection.unix_ms), code, count(rejection.times), events, reason]);
        }
        lines.push(line("", Tone::Plain));
        for (index, row) in table.render(columns).lines().enumerate() {
            lines.push(line(row, if index == 0 { Tone::Head } else { Tone::Plain }));
        }
    }

    fn ago(&self, unix_ms: u64) -> String {
        match self.now.unix_ms.saturating_sub(unix_ms) / 1_000 {
            0 | 1 => "now".to_owned(),
            seconds => format!("{} ago", time(seconds as f64)),
        }
    }

    /// Per second; `None`: no time has passed.
    fn rate(&self, now: u64, before: u64) -> Option<f64> {
        let millis = self.now.unix_ms.saturating_sub(self.before.unix_ms);
        (millis > 0).then(|| now.saturating_sub(before) as f64 * 1_000.0 / millis as f64)
    }
}

/// A text in lines of at most so many columns, indented, and no more than [`DETAILS_LINES`] of them.
fn indented(text: &str, columns: Option<usize>) -> Vec<String> {
    let text = escape(text);
    let columns = columns.unwrap_or(usize::MAX);
    let mut lines = vec![INDENT.to_owned()];
    for word in text.split(' ') {
        let is_last = lines.len() == DETAILS_LINES;
        match lines.last_mut() {
            Some(line) if line == INDENT => line.push_str(word),
            Some(line) if is_last || width(line) + 1 + width(word) <= columns => line.extend([" ", word]),
            _ => lines.push(format!("{INDENT}{word}")),
        }
    }
    lines
}

/// How long the oldest event of a sink has waited. Under load it is a fraction of a second, a different one each time.
fn age(sink: &Sink) -> String {
    match (sink.lag_events, sink.oldest_seconds) {
        (0, _) => "-".to_owned(),
        (_, ..1.0) => "< 1 s".to_owned(),
        (_, seconds) => time(seconds.floor()),
    }
}

/// Text of others has control characters that a terminal would obey.
fn line(text: &str, tone: Tone) -> Line {
    Line { text: escape(text).to_string(), tone }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Acknowledgements, Bucket, LastError, Log, Loop, Rejection, Use};

    fn status(unix_ms: u64, received: u64) -> Status {
        let pg = Sink { name: "pg".into(), state: "ok".into(), is_up: true, delivered: received, ..Sink::default() };
        let error = LastError { reason: "connection refused".into(), unix_ms };
        let audit = Sink {
            name: "audit".into(),
            state: "retrying".into(),
            lag_events: 12_345,
            oldest_seconds: 61.0,
            last_error: Some(error),
            next_attempt_seconds: Some(2.4),
            ..Sink::default()
        };
        let rejection = Rejection {
            unix_ms,
            from: "e\x1b[2Jvil".into(),
            code: "400".into(),
            reason: "no name".into(),
            times: 7,
            ..Rejection::default()
        };
        Status {
            version: "0.1.0".into(),
            unix_ms,
            is_ready: true,
            received: [("frames".to_owned(), received)].into(),
            log: Some(Log { bytes: Use { used: 1 << 30, capacity: 10 << 30 }, ..Log::default() }),
            loops: vec![Loop { busy_ratio: 0.251, ..Loop::default() }],
            stored: received,
            sinks_total: 2,
            sinks: vec![pg, audit],
            rejections: vec![rejection],
            ..Status::default()
        }
    }

    fn text(view: &View<'_>, columns: Option<usize>) -> String {
        view.lines(columns).iter().map(|line| format!("{}\n", line.text)).collect()
    }

    #[test]
    fn rates_are_of_the_time_in_between_and_trouble_stands_out() {
        let (before, now) = (status(10_000, 1_000), status(15_000, 6_000));
        let view = View { before: &before, now: &now, server: "http://h/status.json", trouble: None };
        let shown = text(&view, Some(80));
        for part in [
            "telemetryx 0.1.0  ready  up 0 s  http://h/status.json\n",
            "in          1,000/s   accepted             6,000   log      1.0 GiB of 10.0 GiB\n",
            "stored      1,000/s   rejected                 0   buffers  - of 0 B\n",
            "ack p99           -   connections              0   loops    25 % busy\n",
            "audit  retrying         0   12,345    61 s        0     0\n  next attempt in 3 s; connection refused\n",
            "no name\n",
        ] {
            assert!(shown.contains(part), "{part} is missing:\n{shown}");
        }
        let place = |part| shown.find(part).unwrap();
        assert!(place("audit  retrying") < place("pg     ok"), "what does not deliver comes first:\n{shown}");
        let bad: Vec<_> = view.lines(Some(80)).into_iter().filter(|line| line.tone == Tone::Bad).collect();
        assert_eq!(bad.len(), 2, "{bad:?}");
        assert!(!shown.contains('\x1b'), "text of peers controls the terminal");
        let one = View { before: &now, ..view };
        assert!(text(&one, None).contains("in              -/s   "));
    }

    #[test]
    fn latencies_beyond_the_last_bucket_are_not_shown_as_measured() {
        let mut now = status(15_000, 1);
        now.ack = Acknowledgements::new(4, 60.0, vec![Bucket { up_to_seconds: 10.0, count: 3 }]);
        let shown = text(&View { before: &Status::default(), now: &now, server: "h", trouble: None }, Some(80));
        assert!(shown.contains("ack p99      > 10 s "), "{shown}");
    }

    #[test]
    fn on_sixty_columns_every_number_is_there() {
        let mut now = status(15_000, 6_000);
        now.loops = vec![Loop { busy_ratio: 1.0, ..Loop::default() }; 2];
        now.buffers = Use { used: 1 << 20, capacity: 64 << 20 };
        let shown = text(&View { before: &now, now: &now, server: "h", trouble: None }, Some(60));
        for part in [
            "log      1.0 GiB of 10.0 GiB  buffers  1.6 % of 64.0 MiB\n",
            "ring     -                    loops    100 % · 100 % busy\n",
        ] {
            assert!(shown.contains(part), "{part} is missing:\n{shown}");
        }
    }

    #[test]
    fn errors_are_wrapped_into_two_lines() {
        assert_eq!(indented("a bc def", Some(6)), ["  a bc", "  def"]);
        assert_eq!(indented("abcdefgh ij kl mn", Some(6)), ["  abcdefgh", "  ij kl mn"]);
        assert_eq!(indented("a \x1b bc", None), ["  a \\u001B bc"]);
    }

    #[test]
    fn it_fits_eighty_columns_and_twenty_four_rows() {
        let mut now = status(15_000, u64::MAX / 2);
        now.is_ready = false;
        now.reasons = vec!["disk_full".into(), "descriptors_exhausted".into(), "buffers_exhausted".into()];
        now.loops = vec![Loop { busy_ratio: 1.0, ..Loop::default() }; 20];
        now.rejections = vec![now.rejections[0].clone(); 20];
        now.sinks[1].last_error = Some(LastError { reason: "x".repeat(300), unix_ms: 0 });
        let trouble = "no answer".repeat(30);
        let view = View { before: &now, now: &now, server: "http://h", trouble: Some(&trouble) };
        for columns in [80, 60, 40] {
            let lines = view.lines(Some(columns));
            assert!(lines.iter().all(|line| width(&line.text) <= columns), "{lines:?}");
            assert!(lines.len() <= 24, "{}", lines.len());
        }
    }
}
