//! `telemetryx check --event FILE`: which sinks an event reaches, in what form, and what decides.

use std::convert::Infallible;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::super::{Failure, print};
use crate::batch::{Batch, Delivery, Origin, Payload, Run};
use crate::config::Config;
use crate::escape::Escaped;
use crate::event::{Decoded, EventRef, Events, JsonDecoder, JsonRecord, write_json};
use crate::limits::{EVENT_BYTES_MAX, PREVIEW_FILE_BYTES_MAX};
use crate::router::steps::Steps;
use crate::text::cut;

/// Stands for the peer.
const PEER: &str = "127.0.0.1";
/// Longest name in a line of text.
const SHOWN_BYTES_MAX: usize = 64;

/// What becomes of an event in one sink.
struct Outcome {
    /// What decided, step by step.
    reasons: Vec<String>,
    /// What is written, as JSON.
    rows: Vec<String>,
}

/// Prints what becomes of each event of the file; with `json` one document.
pub(super) fn run(path: &Path, config: &Config, json: bool) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::Failed(format!("{}: {error}", Escaped(path.display())));
    let file = File::open(path).map_err(failed)?;
    let mut lines = BufReader::new(file.take(PREVIEW_FILE_BYTES_MAX + 1));
    let sinks: Vec<(&str, Steps)> =
        config.sinks.iter().map(|sink| (sink.name.as_str(), Steps::new(&sink.steps, [0; 16]))).collect();
    let (mut number, mut rejected, mut documents) = (0_u64, 0_u64, Vec::new());
    let mut line = String::new();
    loop {
        line.clear();
        if lines.read_line(&mut line).map_err(failed)? == 0 {
            break;
        }
        number += 1;
        if line.trim().is_empty() {
            continue;
        }
        match decode(line.trim()) {
            Ok(payload) if json => documents.push(document(number, &payload, &sinks)),
            Ok(payload) => print(&text(number, &payload, &sinks))?,
            Err(why) => {
                rejected += 1;
                documents.push(json!({ "line": number, "error": why }));
                if !json {
                    print(&format!("line {number}: not an event: {}\n", Escaped(&why)))?;
                }
            }
        }
    }
    if json {
        print(&format!("{}\n", json!({ "ok": rejected == 0, "events": documents })))?;
    }
    if lines.get_ref().limit() == 0 {
        return Err(Failure::Failed(format!("only the first {PREVIEW_FILE_BYTES_MAX} bytes of the file were read")));
    }
    match rejected {
        0 => Ok(()),
        _ => Err(Failure::Failed(format!("{rejected} of {number} lines are not events"))),
    }
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

/// What the sink gets of the event at this position.
fn outcome(position: u64, payload: &[u8], steps: &Steps) -> Outcome {
    let origin = Origin { agent_id: None, agent: None, default_source: PEER.to_owned(), epoch: 0 };
    let run = Run {
        payload: Payload::Read(payload.to_vec().into()),
        events: 1,
        received_unix_nano: 0,
        origin: Arc::new(origin),
        are_head_first: false,
    };
    let mut delivery = Delivery::new(vec![Arc::new(Batch::new(position, vec![run]))], position..=position);
    let mut reasons = Vec::new();
    for step in steps.all() {
        reasons.extend(delivery.records().next().and_then(|record| step.reason(&record)));
        delivery = step.apply(delivery);
    }
    if let Some(aggregate) = steps.aggregate() {
        reasons.extend(delivery.records().next().and_then(|record| aggregate.reason(&record)));
        delivery = aggregate.apply(delivery);
    }
    Outcome { reasons, rows: delivery.records().map(|record| row(record.event)).collect() }
}

fn row(event: EventRef<'_>) -> String {
    let mut out = Vec::new();
    write_json(&JsonRecord::event(event), &mut out);
    String::from_utf8(out).unwrap_or_default()
}

fn document(number: u64, payload: &[u8], sinks: &[(&str, Steps)]) -> Value {
    let parsed = |row: &String| serde_json::from_str(row).unwrap_or(Value::Null);
    let event = Events::accepted(payload).next().map(row).unwrap_or_default();
    let sinks = sinks.iter().map(|(name, steps)| {
        let Outcome { reasons, rows } = outcome(number, payload, steps);
        let rows: Vec<Value> = rows.iter().map(parsed).collect();
        json!({ "sink": name, "gets_it": !rows.is_empty(), "reasons": reasons, "rows": rows })
    });
    json!({ "line": number, "event": parsed(&event), "sinks": sinks.collect::<Vec<_>>() })
}

fn text(number: u64, payload: &[u8], sinks: &[(&str, Steps)]) -> String {
    let Some(event) = Events::accepted(payload).next() else { return String::new() };
    let source = if event.source().is_empty() { PEER } else { event.source() };
    let quoted = |text: &str| format!("\"{}\"", Escaped(cut(text, SHOWN_BYTES_MAX)));
    let mut out = format!("line {number}: {} {} from {}\n", event.kind().name(), quoted(event.name()), quoted(source));
    let width = sinks.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let unchanged = row(event);
    for (name, steps) in sinks {
        let Outcome { reasons, rows } = outcome(number, payload, steps);
        let gets_it = if rows.is_empty() { "no" } else { "yes" };
        let reasons = if reasons.is_empty() { "as it came".to_owned() } else { reasons.join("; ") };
        out += &format!("  {name:width$}  {gets_it:3}  {}\n", Escaped(reasons));
        for row in rows.iter().filter(|row| **row != unchanged) {
            out += &format!("  {:width$}       {}\n", "", Escaped(row));
        }
    }
    out
}
