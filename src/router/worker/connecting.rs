//! Connecting the sink: where its store is, and what that means for the router.

use std::io;

use super::{State, Stepped, Then, Worker};
use crate::descriptors;
use crate::limits::WAL_POSITION_LIMIT;
use crate::sink::Unavailable;
use crate::time::Now;

impl Worker {
    /// The sink has answered with the position that its store keeps, if it keeps any.
    pub(super) fn connected(&mut self, then: Then, answer: Result<Option<u64>, Unavailable>, now: Now) -> Stepped {
        let placed =
            answer.and_then(|kept| self.last_position(kept)).and_then(|position| self.continue_after(position, now));
        if let Err(unavailable) = placed {
            return self.wait(&unavailable, State::Connect(then), now);
        }
        Ok(match then {
            Then::Begin => self.then(State::Reach),
            // What lies between comes first, from the log.
            Then::Deliver { before } if self.log.is_some() && self.begins_anew(before) => self.delivery_ended(now),
            Then::Deliver { .. } => self.then(State::Deliver),
            Then::Gather => {
                self.well(now);
                self.then(State::Gather)
            }
        })
    }

    /// Whether what is left of the delivery comes from the log once more: the store has less than `before`, or rows of several
    /// events are made anew because its shards may have some of these events.
    fn begins_anew(&self, before: u64) -> bool {
        let lacks_some = self.parts.last_position().is_some_and(|last| self.position < last);
        self.position < before || self.gather.is_by_shards() && lacks_some
    }

    /// The sink has answered whether a server is there.
    pub(super) fn reached(&mut self, answer: Result<(), Unavailable>, now: Now) -> Stepped {
        if let Err(unavailable) = answer {
            return self.wait(&unavailable, State::Reach, now);
        }
        self.well(now);
        Ok(self.then(State::Gather))
    }

    /// Where the sink is, whose store has `kept` this position, if it keeps any.
    fn last_position(&mut self, kept: Option<u64>) -> Result<u64, Unavailable> {
        let Some(log) = &self.log else { return Ok(kept.unwrap_or_default()) };
        self.saves_position = kept.is_none() && self.sink.needs_position();
        let is_new = kept == Some(0);
        if !is_new && !self.saves_position {
            // `discard`: nothing is stored, and all that is kept is delivered again.
            return Ok(kept.unwrap_or(log.start - 1));
        }
        self.begins = is_new;
        match self.position_file.load().map_err(unreadable)? {
            // That of a sink of another kind, which had this name before, says nothing of this store.
            Some(saved) if saved.begins || !is_new => Ok(saved.position),
            // It begins at the oldest event that is kept.
            _ => {
                let begin = log.start - 1;
                self.position_file.save_begin(begin).map_err(|error| Unavailable::retry(error.to_string()))?;
                Ok(begin)
            }
        }
    }

    /// The store has everything up to `position`.
    fn continue_after(&mut self, position: u64, now: Now) -> Result<(), Unavailable> {
        let Some(log) = &self.log else {
            // What this router has seen stored stays stored, whatever the store says later: nothing could bring it back.
            self.pass(position, now);
            return Ok(());
        };
        if position >= WAL_POSITION_LIMIT {
            return Err(Unavailable::down(format!(
                "the store reports events up to position {position}, which no log can have assigned: \
                 correct the position that it keeps for this sink"
            )));
        }
        if !self.connected && position >= log.end {
            // Events that this process has never seen: the store would take what gets their positions now for them.
            self.progress.set_ahead(position);
            return Err(Unavailable::down(format!(
                "the store holds events up to position {position} of this log, which ended at {} when this server \
                 started: data_dir/wal is an older copy of the log. Stop the server and put the newest copy back, or \
                 start it once more to continue after that position; the events in between are in the store only",
                log.end - 1
            )));
        }
        // What each shard has may be other than it was when rows were made for it.
        if position != self.position || !self.connected || self.gather.is_by_shards() {
            self.connected = true;
            self.gap = None;
            self.gather.restart(position, self.sink.shard_positions());
            self.source.seek(position + 1);
            self.position = position;
            self.progress.restarted(position);
        }
        self.pass(position, now);
        Ok(())
    }
}

fn unreadable(error: io::Error) -> Unavailable {
    match descriptors::are_exhausted_by(&error) {
        true => Unavailable::retry(error.to_string()),
        false => Unavailable::down(error.to_string()),
    }
}
