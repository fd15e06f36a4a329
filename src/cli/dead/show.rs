//! `dead show`: letters for people, or as they are.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Write as _};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::selection::Which;
use super::{Failure, Found, count, names, visit};
use crate::config::Config;
use crate::counted::Counted;
use crate::escape::{Quoted, escape};
use crate::event::{EventRef, JsonRecord, check_batch, rfc3339, write_json};
use crate::limits::FRAME_EVENTS_MAX;
use crate::router::dead::{Content, ReadLetter};

/// Without `--limit` and `--json`.
const LETTERS_SHOWN: u64 = 20;

pub(super) fn run(config: &Config, which: &Which, limit: Option<u64>, json: bool) -> Result<(), Failure> {
    let limit = match limit {
        Some(0) => u64::MAX,
        Some(limit) => limit,
        None if json => u64::MAX,
        None => LETTERS_SHOWN,
    };
    let mut out = io::BufWriter::new(io::stdout().lock());
    let (mut shown, mut more) = (0, 0);
    let mut write = |text: &[u8]| match out.write_all(text).and_then(|()| out.flush()) {
        // A reader that has seen enough is no failure.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::Failed(format!("standard output cannot be written: {error}"))),
        Ok(()) => Ok(true),
    };
    for name in names(config, which)? {
        visit(&config.data_dir, &name, &which.selection, |Found { letter, line, .. }| {
            if shown == limit {
                more += 1;
                return Ok(!json);
            }
            shown += 1;
            match json {
                true => write(format!("{}\n", escape(&String::from_utf8_lossy(line))).as_bytes()),
                false => write(readable(&name, &letter).as_bytes()),
            }
        })?;
    }
    if json {
        return Ok(());
    }
    match (shown, more) {
        (0, _) => write(which.selection.none().as_bytes())?,
        (_, 0) => true,
        _ => write(format!("{}: --limit 0 shows all\n", count(more, "more")).as_bytes())?,
    };
    Ok(())
}

/// Some lines that end with an empty one.
fn readable(name: &str, letter: &ReadLetter<'_>) -> String {
    let mut text = String::new();
    let _ = match &letter.content {
        // Writing into a String cannot fail.
        Content::Event { position, .. } => write!(text, "{} position {position}", escape(name)),
        Content::Frame { epoch, seq, .. } => write!(text, "{} epoch {epoch} seq {seq}", escape(name)),
    };
    let _ = write!(text, "  code {}", escape(&letter.code));
    if let Some(time) = letter.time_unix_nano {
        let _ = write!(text, "  received {}", String::from_utf8_lossy(&rfc3339::format(time)));
    }
    if let Some(agent) = &letter.agent {
        let _ = write!(text, "  agent {}", Quoted(agent));
    }
    if let Content::Frame { agent_id: Some(id), .. } = &letter.content {
        let _ = write!(text, " ({})", escape(id));
    }
    let _ = writeln!(text, "\n  {}", escape(&letter.reason));
    match &letter.content {
        Content::Event { event, .. } => {
            let _ = writeln!(text, "  {}", escape(event.get()));
        }
        Content::Frame { payload, .. } if letter.reason.starts_with("OTLP ") => write_otlp(payload, &mut text),
        Content::Frame { payload, .. } => write_payload(payload, &mut text),
    }
    text.push('\n');
    text
}

/// Records of OpenTelemetry are for its tools.
fn write_otlp(payload: &str, text: &mut String) {
    // Without its padding, four digits of base64 are three bytes.
    let bytes = payload.trim_end_matches('=').len() as u64 * 3 / 4;
    let _ = writeln!(text, "  {} of an OTLP request in protobuf (--json has them)", Counted(bytes, "byte"));
}

/// The events of a frame, as far as it can be read.
fn write_payload(payload: &str, text: &mut String) {
    let Ok(payload) = BASE64_STANDARD.decode(payload) else {
        text.push_str("  the payload is not base64\n");
        return;
    };
    let mut json = Vec::new();
    let result = check_batch(&payload, FRAME_EVENTS_MAX, |index, _, event| {
        // As in `readable`.
        let _ = match event {
            Ok(event) => {
                json.clear();
                write_json(&JsonRecord::event(EventRef::accepted(event)), &mut json);
                writeln!(text, "  {}", escape(&String::from_utf8_lossy(&json)))
            }
            Err(why) => writeln!(text, "  event {index}: {}", escape(&why.to_string())),
        };
    });
    if let Err(error) = result {
        let _ = writeln!(
            text,
            "  {} of payload, not an EventBatch: {}",
            Counted(payload.len() as u64, "byte"),
            escape(&error.to_string())
        );
    }
}
