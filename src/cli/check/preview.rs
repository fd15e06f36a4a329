//! `telemetryx check --event FILE`: which sinks an event reaches, in what form, and what decides.
//!
//! The events of the file are one delivery, received now. What only the server can decide (a sample by position) is neither
//! yes nor no, and such events are in no row of others.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::super::{Failure, print};
use crate::batch::{Batch, Delivery, Origin, Payload, Record, Run};
use crate::config::Config;
use crate::escape::Escaped;
use crate::event::{Decoded, EventRef, Events, JsonDecoder, JsonRecord, write_json};
use crate::limits::{EVENT_BYTES_MAX, PREVIEW_FILE_BYTES_MAX};
use crate::router::steps::Steps;
use crate::sink::SinkSettings;
use crate::text::cut;

/// Stands for the peer.
const PEER: &str = "127.0.0.1";
/// Longest name in a line of text.
const SHOWN_BYTES_MAX: usize = 64;

/// A line of the file that is not empty.
struct Line {
    /// From 1 on.
    number: u64,
    /// An `EventBatch` of one event; or why the line is not an event.
    event: Result<Vec<u8>, String>,
}

/// What becomes of an event in one sink.
struct Outcome {
    /// Whether it becomes a row, or a part of one; `None`: only the server can know.
    gets_it: Option<bool>,
    /// What decided, step by step.
    reasons: Vec<String>,
    /// What is written, as JSON; nothing for a part of the row of a later event.
    row: Option<String>,
}

/// What becomes of all events in one sink.
struct Preview<'a> {
    sink: &'a str,
    /// In the order of the events.
    outcomes: Vec<Outcome>,
}

/// Prints what becomes of each event of the file, or of standard input for `-`; with `json` one document.
pub(super) fn run(path: &Path, config: &Config, json: bool) -> Result<(), Failure> {
    let (lines, is_cut) = match path.as_os_str() == "-" {
        true => read(io::stdin().lock()),
        false => File::open(path).and_then(read),
    }
    .map_err(|error| match path.as_os_str() == "-" {
        true => Failure::Failed(format!("standard input: {error}")),
        false => Failure::Failed(format!("{}: {error}", Escaped(path.display()))),
    })?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    let events: Vec<&[u8]> = lines.iter().filter_map(|line| line.event.as_deref().ok()).collect();
    let previews: Vec<Preview<'_>> =
        config.sinks.iter().map(|sink| Preview { sink: &sink.name, outcomes: outcomes(&events, sink, now) }).collect();
    match json {
        true => print(&format!("{}\n", document(&lines, &previews)))?,
        false => print_text(&lines, &previews)?,
    }
    if is_cut {
        return Err(Failure::Failed(format!("only the first {PREVIEW_FILE_BYTES_MAX} bytes were read")));
    }
    match lines.len() - events.len() {
        0 => Ok(()),
        rejected => {
            let last = lines.last().map_or(0, |line| line.number);
            Err(Failure::Failed(format!("{rejected} of {last} lines are not events")))
        }
    }
}

/// The lines, and whether there are more than are read.
fn read(file: impl Read) -> io::Result<(Vec<Line>, bool)> {
    let mut reader = BufReader::new(file.take(PREVIEW_FILE_BYTES_MAX + 1));
    let (mut lines, mut text, mut number) = (Vec::new(), String::new(), 0);
    while reader.read_line(&mut text)? > 0 {
        number += 1;
        if !text.trim().is_empty() {
            lines.push(Line { number, event: decode(text.trim()) });
        }
        text.clear();
    }
    Ok((lines, reader.get_ref().limit() == 0))
}

/// The line as an `EventBatch` of one event.
fn decode(line: &str) -> Result<Vec<u8>, String> {
    let mut payload = Vec::with_capacity(line.len().min(EVENT_BYTES_MAX));
    let decoded = JsonDecoder::new().lines(line.as_bytes(), |field| {
        payload.extend_from_slice(field);
        Ok::<(), Infallible>(())
    });
    let Decoded { accepted, rejected } = decoded.map_err(|error| error.to_string())?;
    match (accepted, rejected.named.into_iter().next()) {
        (1, None) => Ok(payload),
        (_, Some(rejection)) => Err(rejection.error),
        _ => Err("no event".to_owned()),
    }
}

/// Events that were received at once, with positions from 1 on.
fn delivery(payload: Vec<u8>, events: u32, now: u64) -> Delivery {
    let origin = Origin { agent_id: None, agent: None, default_source: PEER.to_owned(), epoch: 0 };
    let run = Run {
        payload: Payload::Read(payload.into()),
        events,
        received_unix_nano: now,
        origin: Arc::new(origin),
        are_head_first: false,
    };
    Delivery::new(vec![Arc::new(Batch::new(1, vec![run]))], 1..=events.into())
}

/// What the sink gets of the events: what each step does with each event, then the rows of all of them.
fn outcomes(events: &[&[u8]], sink: &SinkSettings, now: u64) -> Vec<Outcome> {
    let steps = Steps::new(&sink.steps, [0; 16]);
    let mut outcomes: Vec<Outcome> = events.iter().map(|event| outcome(event, &steps, sink, now)).collect();
    let known = |outcome: &&mut Outcome| outcome.gets_it.is_some();
    let payload = events.iter().zip(&mut outcomes).filter(|(_, outcome)| known(outcome)).map(|(event, _)| *event);
    let payload = payload.collect::<Vec<_>>().concat();
    let mut of_positions: Vec<&mut Outcome> = outcomes.iter_mut().filter(known).collect();
    let Some(count) = u32::try_from(of_positions.len()).ok().filter(|count| *count > 0) else { return outcomes };
    let shaped = steps.apply(delivery(payload, count, now));
    let mut rows = shaped.records().peekable();
    for (position, outcome) in (1..).zip(&mut of_positions) {
        let found = rows.next_if(|record| record.position == position).map(|record| row(record.event));
        outcome.take_row(found);
    }
    outcomes
}

/// What the steps that look at one event at a time do with an event. Its row is the one that it would have alone.
fn outcome(event: &[u8], steps: &Steps, sink: &SinkSettings, now: u64) -> Outcome {
    let mut delivery = delivery(event.to_vec(), 1, now);
    let mut reasons = Vec::new();
    for step in steps.all() {
        let Some(record) = delivery.records().next() else { break };
        if let (Some(sample), true) = (&sink.steps.sample, step.decides_by_position(&record)) {
            reasons.push(format!("sample keeps 1 in {}, decided by the position in the log", sample.one_in));
            return Outcome { gets_it: None, reasons, row: None };
        }
        reasons.extend(step.reason(&record));
        delivery = step.apply(delivery);
    }
    let left = delivery.records().next();
    let aggregated = |record: &Record<'_>| steps.aggregate().and_then(|aggregate| aggregate.reason(record));
    let row = left.as_ref().filter(|record| aggregated(record).is_none()).map(|record| row(record.event));
    reasons.extend(left.as_ref().and_then(aggregated));
    Outcome { gets_it: Some(left.is_some()), reasons, row }
}

impl Outcome {
    /// Takes the row that the delivery has at the position of the event; `None`: it has none.
    fn take_row(&mut self, found: Option<String>) {
        let alone = std::mem::replace(&mut self.row, found);
        match (alone, &self.row) {
            (Some(alone), Some(row)) if alone != *row => self.reasons.push("collapsed with earlier lines".to_owned()),
            (Some(_), None) => self.reasons.push("collapsed into the row of a later line".to_owned()),
            (None, None) if self.gets_it == Some(true) => self.reasons.push("in the row of a later line".to_owned()),
            _ => {}
        }
    }
}

fn row(event: EventRef<'_>) -> String {
    let mut out = Vec::new();
    write_json(&JsonRecord::event(event), &mut out);
    String::from_utf8(out).unwrap_or_default()
}

fn document(lines: &[Line], previews: &[Preview<'_>]) -> Value {
    let parsed = |row: &String| serde_json::from_str(row).unwrap_or(Value::Null);
    let mut index = 0;
    let events = lines.iter().map(|Line { number, event }| match event {
        Err(why) => json!({ "line": number, "error": why }),
        Ok(payload) => {
            let event = Events::accepted(payload).next().map(row).unwrap_or_default();
            let of_sink = |preview: &Preview<'_>| {
                let Outcome { gets_it, reasons, row } = preview.outcomes.get(index)?;
                let rows: Vec<Value> = row.iter().map(parsed).collect();
                Some(json!({ "sink": preview.sink, "gets_it": gets_it, "reasons": reasons, "rows": rows }))
            };
            let sinks: Vec<Value> = previews.iter().filter_map(of_sink).collect();
            index += 1;
            json!({ "line": number, "event": parsed(&event), "sinks": sinks })
        }
    });
    let events: Vec<Value> = events.collect();
    json!({ "ok": lines.iter().all(|line| line.event.is_ok()), "events": events })
}

fn print_text(lines: &[Line], previews: &[Preview<'_>]) -> Result<(), Failure> {
    let mut index = 0;
    for Line { number, event } in lines {
        match event {
            Err(why) => print(&format!("line {number}: not an event: {}\n", Escaped(why)))?,
            Ok(payload) => {
                print(&text(*number, payload, index, previews))?;
                index += 1;
            }
        }
    }
    Ok(())
}

/// The line and the outcomes of the event with this `index`.
fn text(number: u64, payload: &[u8], index: usize, previews: &[Preview<'_>]) -> String {
    let Some(event) = Events::accepted(payload).next() else { return String::new() };
    let source = if event.source().is_empty() { PEER } else { event.source() };
    let quoted = |text: &str| format!("\"{}\"", Escaped(cut(text, SHOWN_BYTES_MAX)));
    let mut out = format!("line {number}: {} {} from {}\n", event.kind().name(), quoted(event.name()), quoted(source));
    let width = previews.iter().map(|preview| preview.sink.len()).max().unwrap_or_default();
    let unchanged = row(event);
    for Preview { sink, outcomes } in previews {
        let Some(Outcome { gets_it, reasons, row }) = outcomes.get(index) else { continue };
        let gets_it = match gets_it {
            Some(true) => "yes",
            Some(false) => "no",
            None => "depends",
        };
        let reasons = if reasons.is_empty() { "as it came".to_owned() } else { reasons.join("; ") };
        out += &format!("  {sink:width$}  {gets_it:3}  {}\n", Escaped(reasons));
        for row in row.iter().filter(|row| **row != unchanged) {
            out += &format!("  {:width$}       {}\n", "", Escaped(row));
        }
    }
    out
}
