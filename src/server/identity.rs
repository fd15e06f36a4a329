//! Whose data this is: the lock on the data directory, and what its log knows of agents and positions.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ServerError;
use crate::config::Config;
use crate::folder;
use crate::ids::{LoopId, Ticket, new_uuid};
use crate::limits::{WAL_POSITION_JUMP, WAL_UNKNOWN_JUMP};
use crate::pipeline::watermark::Watermarks;
use crate::random::Random;
use crate::router::SinkProgress;
use crate::router::removed::{Removed, removed};
use crate::session::marks::{Marks, Restored};
use crate::time::now_unix_nano;
use crate::wal::{self, AgentMark, DirStorage, Log, Writer};
use crate::wire::AckLevel;

/// All that was in the log before this start, as a ticket of the first loop.
pub(super) const RESTORED: Ticket = Ticket { event_loop: LoopId(0), number: 1 };

/// Where the server stands with its log.
pub(super) struct Keeping {
    /// Id of the log; without a log, of this start of the server.
    pub server_id: [u8; 16],
    /// `None`: there is none.
    pub log: Option<(Writer, Arc<Log>)>,
    /// What the log knows of agents; without a log, nothing.
    pub marks: Marks,
}

/// Opens the log and reads what it knows of agents.
pub(super) fn open_log(config: &Config, random: &mut Random) -> Result<Keeping, ServerError> {
    let server = &config.server;
    let mut marks = Marks::new(server.max_agents, server.dedupe_retention);
    if !config.wal.enabled {
        return Ok(Keeping { server_id: new_uuid(random), log: None, marks });
    }
    let settings = wal::Settings {
        dir: config.data_dir.join("wal"),
        segment_bytes: config.wal.segment_bytes,
        max_bytes: config.wal.max_bytes,
        keep: config.wal.keep,
        max_agents: server.max_agents,
        dedupe_retention: server.dedupe_retention,
    };
    let now_unix_nano = now_unix_nano();
    let storage = Arc::new(
        DirStorage::create(&settings.dir)
            .map_err(|error| ServerError::DataDir { path: settings.dir.clone(), error })?,
    );
    let opened = wal::open(&settings, storage, random, now_unix_nano)?;
    restore(&mut marks, &opened.marks, now_unix_nano, Instant::now());
    let (oldest_position, next_position) = (opened.log.oldest(), opened.log.end());
    if opened.report.is_clean() {
        tracing::info!(agents = marks.len(), oldest_position, next_position, "log opened: {}", opened.report);
    } else {
        tracing::warn!(agents = marks.len(), oldest_position, next_position, "log opened: {}", opened.report);
    }
    warn_of_removed_sinks(config, &opened.server_id, oldest_position, next_position);
    Ok(Keeping { server_id: opened.server_id, log: Some((opened.writer, opened.log)), marks })
}

/// Puts back what the log knows of agents. `now` and `now_unix_nano` are the same moment.
pub(super) fn restore(marks: &mut Marks, known: &[AgentMark], now_unix_nano: u64, now: Instant) {
    for mark in known {
        let restored = Restored {
            agent_id: mark.agent_id,
            epoch: mark.epoch,
            last_seq: mark.last_seq,
            last_crc: mark.last_crc,
            has_frames: mark.has_frames,
            age: Duration::from_nanos(now_unix_nano.saturating_sub(mark.last_seen_unix_nano)),
        };
        marks.restore(restored, RESTORED, now);
    }
}

/// What was in the log at start has reached every level but *delivered*.
pub(super) fn has_restored(watermarks: &Watermarks, next_position: u64) {
    watermarks.advance(AckLevel::Received, RESTORED.number);
    watermarks.advance(AckLevel::Written, RESTORED.number);
    watermarks.synced(RESTORED.number, next_position);
}

/// The log keeps nothing for a sink that is not in the settings.
fn warn_of_removed_sinks(config: &Config, server_id: &[u8; 16], oldest: u64, next: u64) {
    let configured: Vec<&str> = config.sinks.iter().map(|sink| sink.name.as_str()).collect();
    for Removed { name, events } in removed(&config.data_dir, server_id, &configured, oldest, next) {
        tracing::warn!(
            sink = name,
            events,
            "a sink that is not in the settings has not stored events that the log still has, and the log does not \
             keep them for it: add the sink again, or remove its file in data_dir/positions"
        );
    }
}

/// A log that ends before what a sink holds of it is an older copy: no position may be given out a second time. A sink
/// that has not reported what it holds may hold more; a log that never had an event is not known to any.
pub(super) fn go_on_behind_sinks(writer: &mut Writer, sinks: &[&SinkProgress]) -> Result<(), ServerError> {
    let next = writer.next_position();
    // In this order: who is placed by now has also said how far ahead it is.
    let all_placed = sinks.iter().all(|sink| sink.is_placed());
    let ahead = sinks.iter().map(|sink| sink.ahead()).max().unwrap_or_default();
    let mut position = if ahead >= next { ahead + WAL_POSITION_JUMP } else { next };
    if next > 1 && !all_placed {
        position = position.max(next + WAL_UNKNOWN_JUMP);
    }
    if position > next {
        tracing::info!(
            next_position = position,
            "positions are skipped: a sink has not reported its position yet, or its store has more than this log"
        );
    }
    writer.skip_to(position).map_err(|failure| ServerError::Log(failure.to_string()))
}

/// Keeps a second process out of the data directory for as long as the file lives.
pub(super) fn lock(data_dir: &Path) -> Result<File, ServerError> {
    let failed = |error| ServerError::DataDir { path: data_dir.to_owned(), error };
    folder::create_private(data_dir).map_err(failed)?;
    let file = File::create(data_dir.join("lock")).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ServerError::Locked(data_dir.to_owned())),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}
