//! `dead replay`: delivers events again into the sink that refused them, beside the server.
//!
//! ```text
//!  file ─▶ letters ─▶ chunk ─▶ Sink::replay ── stored ──▶ taken out of the file
//!                      (one log, by position) └ refused ─▶ stays
//! ```
//!
//! Not through the port: there the event would get a new position, and go into every sink. The sink itself stores it under
//! the server_id and position that it has, so where the store has a key of the two, a kill between the store's commit and
//! the rewrite of the file doubles nothing: the next replay finds it there. The position and the owner of the sink are not
//! touched, and the server goes on.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::selection::Selection;
use super::{Failure, Found, alone, count, failed, no_such_sink, print, visit};
use crate::batch::{Batch, Delivery};
use crate::config::Config;
use crate::escape::{Escaped, escape};
use crate::limits;
use crate::router::bisection::{Answer, Bisection};
use crate::router::dead::{self, Content, INGEST, ReadLetter, Seen};
use crate::sink::{Identity, NoReplay, Refusal, Sink, SinkSettings, Unavailable};

/// Reasons for which letters stay that are named.
const REASONS_NAMED: usize = 5;

pub(super) fn run(config: &Config, name: &str, selection: &Selection, dry_run: bool) -> Result<(), Failure> {
    if name == INGEST {
        return Err(Failure::Failed(
            "events rejected on receipt belong to no sink: fix the sender (`telemetryx dead show --sink ingest` shows \
             what it sent)"
                .to_owned(),
        ));
    }
    let Some(settings) = config.sinks.iter().find(|sink| sink.name == name) else {
        return Err(no_such_sink(config, name));
    };
    let _alone = alone(&config.data_dir)?;
    let mut replay = Replay::new(settings, dead::path(&config.data_dir, name), dry_run);
    let replayed = visit(&config.data_dir, name, selection, |found| replay.take(&found).map(|()| true))
        .and_then(|()| replay.deliver());
    // Also after an error: what is stored must not come again.
    replay.take_out().and(replayed)?;
    replay.report(name, selection)
}

struct Replay<'s> {
    settings: &'s SinkSettings,
    path: PathBuf,
    dry_run: bool,
    /// The sink, and whose log's events it takes.
    sink: Option<([u8; 16], Box<dyn Sink>)>,
    /// Letters of one log that are to be delivered together.
    chunk: Vec<Arc<Batch>>,
    chunk_log: [u8; 16],
    chunk_bytes: usize,
    /// What the store has and the file as well.
    stored: Seen,
    stored_bytes: u64,
    delivered: u64,
    staying: Staying,
}

/// Letters that stay, by code, each with a reason.
#[derive(Default)]
struct Staying(BTreeMap<String, (u64, String)>);

impl Staying {
    fn add(&mut self, code: &str, reason: String) {
        self.0.entry(code.to_owned()).or_insert((0, reason)).0 += 1;
    }
}

impl<'s> Replay<'s> {
    fn new(settings: &'s SinkSettings, path: PathBuf, dry_run: bool) -> Self {
        Self {
            settings,
            path,
            dry_run,
            sink: None,
            chunk: Vec::new(),
            chunk_log: [0; 16],
            chunk_bytes: 0,
            stored: Seen::default(),
            stored_bytes: 0,
            delivered: 0,
            staying: Staying::default(),
        }
    }

    fn take(&mut self, found: &Found<'_>) -> Result<(), Failure> {
        let Content::Event { server_id, .. } = &found.letter.content else {
            self.staying.add("rejected on receipt", format!("line {} belongs to no sink", found.number));
            return Ok(());
        };
        let batch = match found.letter.batch() {
            Ok(batch) => batch,
            Err(why) => {
                self.staying.add("no event", format!("line {}: {why}", found.number));
                return Ok(());
            }
        };
        let batch_settings = &self.settings.batch;
        let is_full = self.chunk.len() as u64 >= batch_settings.max_events
            || self.chunk_bytes + batch.payload_bytes() > batch_settings.max_bytes;
        if !self.chunk.is_empty() && (is_full || self.chunk_log != *server_id) {
            self.deliver()?;
        }
        self.chunk_log = *server_id;
        self.chunk_bytes += batch.payload_bytes();
        self.chunk.push(Arc::new(batch));
        Ok(())
    }

    /// Delivers the chunk.
    fn deliver(&mut self) -> Result<(), Failure> {
        let mut batches = std::mem::take(&mut self.chunk);
        let bytes = std::mem::take(&mut self.chunk_bytes);
        batches.sort_unstable_by_key(|batch| batch.first_position());
        let (Some(first), Some(last)) = (batches.first(), batches.last()) else { return Ok(()) };
        let positions = first.first_position()..=last.first_position();
        let delivery = Delivery::new(batches, positions);
        let log = self.chunk_log;
        let mut sink = match self.sink.take() {
            Some((of, sink)) if of == log => sink,
            _ => {
                // Nothing is written under an owner.
                let identity = Identity { server_id: log, owner: [0; 16], log_end: u64::MAX };
                self.settings.open(&identity)
            }
        };
        if self.dry_run {
            if !sink.replays() {
                return Err(Failure::Failed(NoReplay.to_string()));
            }
            self.sink = Some((log, sink));
            self.delivered += delivery.events();
            return Ok(());
        }
        let Outcome { stored, refused, trouble } = store(&mut *sink, delivery);
        self.sink = Some((log, sink));
        self.delivered += stored.len() as u64;
        for position in stored {
            self.stored.insert(log, position);
        }
        for Refusal { code, reason, .. } in refused {
            self.staying.add(&code, reason);
        }
        self.stored_bytes += bytes as u64;
        if let Some(unavailable) = trouble {
            // A store of several parts may have taken some of the delivery that failed.
            let before = match self.delivered {
                0 => "all letters stay".to_owned(),
                delivered => format!("{} before; the others stay", count(delivered, "delivered")),
            };
            return Err(Failure::Failed(format!("{} ({before})", Escaped(unavailable))));
        }
        if self.stored_bytes >= limits::DEAD_REPLAY_BYTES { self.take_out() } else { Ok(()) }
    }

    /// Takes out of the file what the store has.
    fn take_out(&mut self) -> Result<(), Failure> {
        let stored = std::mem::take(&mut self.stored);
        if std::mem::take(&mut self.stored_bytes) > 0 {
            let is_stored = |line: &[u8]| ReadLetter::read(line).is_some_and(|letter| stored.has(&letter));
            dead::rewrite(&self.path, is_stored).map_err(|error| not_taken_out(&self.path, &error))?;
        }
        Ok(())
    }

    fn report(&self, name: &str, selection: &Selection) -> Result<(), Failure> {
        match (self.delivered, self.dry_run) {
            (0, _) if self.staying.0.is_empty() => print(&selection.none())?,
            (0, _) => {}
            (delivered, true) => print(&format!("{} into sink {name}\n", count(delivered, "would be delivered")))?,
            (delivered, false) => {
                let (delivered, path) = (count(delivered, "delivered"), self.path.display());
                print(&format!("{delivered} into sink {name} and taken out of {path}\n"))?;
            }
        }
        if self.staying.0.is_empty() {
            return Ok(());
        }
        let mut text = "not delivered, and left in the file:".to_owned();
        for (code, (letters, reason)) in self.staying.0.iter().take(REASONS_NAMED) {
            // Writing into a String cannot fail.
            let letters = count(*letters, &format!("({})", escape(code)));
            let _ = write!(text, "\n{letters}: {}", escape(reason));
        }
        if self.staying.0.len() > REASONS_NAMED {
            text.push_str("\n… and others");
        }
        Err(Failure::Failed(text))
    }
}

fn not_taken_out(path: &Path, error: &std::io::Error) -> Failure {
    let Failure::Failed(reason) = failed(path, error) else { return failed(path, error) };
    Failure::Failed(format!("{reason}: what was delivered is still in the file; replay again to take it out"))
}

/// What a sink did with a delivery.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Positions of the events that it has, in order.
    pub stored: Vec<u64>,
    pub refused: Vec<Refusal>,
    /// Why the rest was not tried.
    pub trouble: Option<Unavailable>,
}

/// Stores what the sink takes of the delivery.
pub(super) fn store(sink: &mut dyn Sink, delivery: Delivery) -> Outcome {
    let mut parts = Bisection::new(delivery);
    let mut outcome = Outcome::default();
    while let Some(part) = parts.next() {
        let refusals = match parts.answer(sink.replay(part)) {
            Answer::Stored(part) => {
                outcome.stored.extend(part.records().map(|record| record.position));
                continue;
            }
            Answer::Halved | Answer::Accepted { .. } => continue,
            Answer::Refused(refusals) => refusals,
            Answer::RefusedAlone(refusal) => vec![refusal],
            Answer::Unavailable(unavailable) => {
                outcome.trouble = Some(unavailable);
                break;
            }
        };
        parts.leave_out(&refusals);
        outcome.refused.extend(refusals);
    }
    outcome
}
