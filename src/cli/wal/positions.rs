//! How far each sink has come.

use crate::config::Config;
use crate::router::positions::{PositionFile, Saved};
use crate::sink::{Identity, SinkSettings};
use crate::wal::Inspection;

/// A sink and its position.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SinkPosition {
    pub sink: String,
    pub position: Position,
    /// Events of the log after it; `None`: the position is not known.
    pub events_behind: Option<u64>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Position {
    /// The last one that is stored; 0: none of this log.
    Stored(u64),
    /// It is in a store to which a connection takes `--connect`.
    NotAsked,
    /// It cannot be read, and why.
    Unknown(String),
}

/// One for each sink of the settings, in their order. With `connect`, stores that keep the position are asked for it;
/// nothing is changed there.
pub(super) fn of_sinks(config: &Config, found: &Inspection, connect: bool) -> Vec<SinkPosition> {
    let server_id = found.server_id.unwrap_or_default();
    let of_sink = |sink: &SinkSettings| {
        let (position, begins_after) = position(config, sink, &server_id, connect);
        let events_behind = match position {
            Position::Stored(position) => Some(found.events_after(position.max(begins_after))),
            Position::NotAsked | Position::Unknown(_) => None,
        };
        SinkPosition { sink: sink.name.clone(), position, events_behind }
    };
    config.sinks.iter().map(of_sink).collect()
}

/// The position of the sink, and the one after which it began while it has nothing yet.
fn position(config: &Config, sink: &SinkSettings, server_id: &[u8; 16], connect: bool) -> (Position, u64) {
    let saved = PositionFile::new(&config.data_dir, &sink.name, server_id).load();
    let begins_after = match &saved {
        Ok(Some(saved)) if saved.begins => saved.position,
        _ => 0,
    };
    if sink.config.keeps_position_in_a_server() && !connect {
        return (Position::NotAsked, 0);
    }
    // Not the owner of any position: what is only read is fenced from nobody.
    let identity = Identity { server_id: *server_id, owner: [0; 16], log_end: u64::MAX };
    let read = match sink.open(&identity).stored_position() {
        Ok(Some(stored)) => Ok(stored),
        Ok(None) => {
            let position = |saved: Saved| if saved.begins { 0 } else { saved.position };
            saved.map(|saved| saved.map_or(0, position)).map_err(|error| error.to_string())
        }
        Err(unavailable) => Err(unavailable.to_string()),
    };
    (read.map_or_else(Position::Unknown, Position::Stored), begins_after)
}
