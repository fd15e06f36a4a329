//! Every agent's mark (R3), as the log has it: kept by the writer, written at the begin of each segment, rebuilt by recovery.

use std::collections::HashMap;
use std::time::Duration;

use super::record::{Kind, LoggedRun};
use crate::batch::Origin;

/// How far an agent has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentMark {
    /// Whose mark it is.
    pub agent_id: [u8; 16],
    /// The agent's current epoch.
    pub epoch: u64,
    /// Highest number that counts as received: of the last frame in the log, or that of WELCOME when the epoch began.
    pub last_seq: u64,
    /// CRC-32 of the payload of `last_seq` as it was sent; `None`: that frame is not in the log.
    pub last_crc: Option<u32>,
    /// Once a sink has passed this position, it has all of the agent's frames of this epoch up to `last_seq`.
    pub last_position: u64,
    /// Newest time of receipt.
    pub last_seen_unix_nano: u64,
    /// Whether it ever sent a frame, in any epoch.
    pub has_frames: bool,
}

/// The marks of all agents, as of the end of the log.
pub(super) struct MarkTable {
    marks: HashMap<[u8; 16], AgentMark>,
    max_agents: usize,
    retention: Duration,
    /// Newest time of receipt of all.
    newest_unix_nano: u64,
}

impl MarkTable {
    /// An empty table. [`MarkTable::sweep`] drops marks beyond `max_agents`, if they are older than `retention`.
    pub(super) fn new(max_agents: usize, retention: Duration) -> Self {
        Self { marks: HashMap::new(), max_agents, retention, newest_unix_nano: 0 }
    }

    /// Replaces the table with the marks that a segment begins with.
    pub(super) fn replace(&mut self, marks: Vec<AgentMark>) {
        self.newest_unix_nano = marks.iter().map(|mark| mark.last_seen_unix_nano).max().unwrap_or(0);
        self.marks = marks.into_iter().map(|mark| (mark.agent_id, mark)).collect();
    }

    /// All marks, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &AgentMark> {
        self.marks.values()
    }

    /// Number of marks.
    pub(super) fn len(&self) -> usize {
        self.marks.len()
    }

    /// A commit whose first event has `first_position` is in the log.
    pub(super) fn apply_all(&mut self, first_position: u64, runs: &[LoggedRun]) {
        let mut next = first_position;
        for run in runs {
            next += u64::from(run.events);
            self.apply(run.kind, &run.origin, run.received_unix_nano, next.saturating_sub(1));
        }
    }

    /// A run entered the log; `last_position` is its last event's, or the one before it.
    pub(super) fn apply(&mut self, kind: Kind, origin: &Origin, received_unix_nano: u64, last_position: u64) {
        let Some(agent_id) = origin.agent_id else { return };
        let (seq, crc) = match kind {
            Kind::Frame { seq, sent_crc } => (seq, Some(sent_crc)),
            Kind::Hello { last_seq } => (last_seq, None),
            Kind::Bye { last_seq } => return self.bye(&agent_id, origin.epoch, last_seq),
            Kind::Request => return,
        };
        self.newest_unix_nano = self.newest_unix_nano.max(received_unix_nano);
        let mark = self.marks.entry(agent_id).or_insert(AgentMark {
            agent_id,
            epoch: 0,
            last_seq: 0,
            last_crc: None,
            last_position: 0,
            last_seen_unix_nano: 0,
            has_frames: false,
        });
        mark.last_seen_unix_nano = mark.last_seen_unix_nano.max(received_unix_nano);
        mark.has_frames |= crc.is_some();
        // Runs are in the order in which they were accepted, and it says which epoch comes next: mostly one more, but any
        // where it had forgotten an agent that had sent nothing.
        let newer = match origin.epoch == mark.epoch {
            true => seq > mark.last_seq,
            false => crc.is_none() || origin.epoch > mark.epoch,
        };
        if newer {
            // A hello that moves the mark tells of frames that are acknowledged already: nothing is waited for.
            let last_position = if crc.is_some() { last_position } else { 0 };
            (mark.epoch, mark.last_seq, mark.last_crc, mark.last_position) = (origin.epoch, seq, crc, last_position);
        }
        if self.marks.len() > self.max_agents + self.max_agents / 8 + 1_024 {
            // No more agents than that are accepted; should clocks have misled us, the table is bounded all the same.
            self.forget(true);
        }
    }

    /// Deletes the mark of an agent that is done. A mark of another epoch, or beyond `last_seq`, is newer than
    /// the bye and stays.
    fn bye(&mut self, agent_id: &[u8; 16], epoch: u64, last_seq: u64) {
        let mark = self.marks.get(agent_id);
        if mark.is_some_and(|mark| mark.epoch == epoch && mark.last_seq <= last_seq) {
            self.marks.remove(agent_id);
        }
    }

    /// Forgets down to the limit: agents that never sent a frame first, then those unseen for the retention time.
    pub(super) fn sweep(&mut self) {
        self.forget(false);
    }

    fn forget(&mut self, whoever: bool) {
        let Some(surplus) = self.marks.len().checked_sub(self.max_agents).filter(|surplus| *surplus > 0) else {
            return;
        };
        let seen_before =
            self.newest_unix_nano.saturating_sub(u64::try_from(self.retention.as_nanos()).unwrap_or(u64::MAX));
        let mut oldest: Vec<_> = self
            .marks
            .values()
            .filter(|mark| whoever || !mark.has_frames || mark.last_seen_unix_nano <= seen_before)
            .map(|mark| (mark.has_frames, mark.last_seen_unix_nano, mark.agent_id))
            .collect();
        oldest.sort_unstable();
        for (_, _, agent_id) in oldest.into_iter().take(surplus) {
            self.marks.remove(&agent_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: Kind = Kind::Hello { last_seq: 0 };

    fn frame(seq: u64) -> Kind {
        Kind::Frame { seq, sent_crc: seq as u32 }
    }

    fn origin(agent: u8, epoch: u64) -> Origin {
        Origin { agent_id: Some([agent; 16]), agent: None, default_source: String::new(), epoch }
    }

    fn agents(table: &MarkTable) -> Vec<u8> {
        let mut agents: Vec<_> = table.iter().map(|mark| mark.agent_id[0]).collect();
        agents.sort_unstable();
        agents
    }

    #[test]
    fn older_epochs_and_resent_frames_move_nothing() {
        let mut table = MarkTable::new(10, Duration::ZERO);
        for (kind, epoch) in [(frame(5), 3), (frame(4), 3), (frame(9), 2), (Kind::Hello { last_seq: 5 }, 3)] {
            table.apply(kind, &origin(1, epoch), 10, 50);
        }
        let mark = *table.iter().next().unwrap();
        assert_eq!((mark.epoch, mark.last_seq, mark.last_crc, mark.last_position), (3, 5, Some(5), 50));
        // Frames lost at a weak level: the agent's hello says that it goes on behind them.
        table.apply(Kind::Hello { last_seq: 8 }, &origin(1, 3), 10, 60);
        let mark = *table.iter().next().unwrap();
        assert_eq!((mark.last_seq, mark.last_crc, mark.last_position, mark.has_frames), (8, None, 0, true));
    }

    #[test]
    fn a_hello_is_newer_than_what_was_before_it_whatever_its_epoch() {
        let mut table = MarkTable::new(10, Duration::ZERO);
        // Its first WELCOME was lost, it was forgotten, and got another epoch.
        for (kind, epoch) in [(HELLO, 900), (HELLO, 100), (frame(1), 100), (frame(2), 100)] {
            table.apply(kind, &origin(1, epoch), 10, 50);
        }
        let mark = *table.iter().next().unwrap();
        assert_eq!((mark.epoch, mark.last_seq, mark.last_crc), (100, 2, Some(2)));
    }

    #[test]
    fn a_bye_deletes_the_mark_that_it_is_about_and_no_other() {
        let bye = |last_seq| Kind::Bye { last_seq };
        let mut table = MarkTable::new(10, Duration::ZERO);
        table.apply(bye(9), &origin(1, 3), 10, 50);
        assert_eq!(table.len(), 0, "an unknown agent stays unknown");
        for (agent, kind, epoch) in [(1, frame(5), 3), (2, frame(5), 3), (1, bye(4), 3), (1, bye(5), 2), (1, bye(5), 4)]
        {
            table.apply(kind, &origin(agent, epoch), 10, 50);
        }
        assert_eq!(agents(&table), [1, 2]);
        table.apply(bye(5), &origin(1, 3), 10, 50);
        assert_eq!(agents(&table), [2]);
        // It comes back, with the epoch that it had or with another one.
        for (kind, epoch) in [(Kind::Hello { last_seq: 5 }, 3), (frame(6), 3), (bye(6), 3), (HELLO, 1), (frame(1), 1)] {
            table.apply(kind, &origin(1, epoch), 10, 50);
        }
        assert_eq!(agents(&table), [1, 2]);
        let mark = *table.iter().find(|mark| mark.agent_id == [1; 16]).unwrap();
        assert_eq!((mark.epoch, mark.last_seq, mark.has_frames), (1, 1, true));
    }

    #[test]
    fn those_who_only_said_hello_go_first_then_the_longest_unseen() {
        let mut table = MarkTable::new(2, Duration::from_nanos(100));
        for (agent, kind, at) in [(1, frame(1), 10), (2, frame(1), 20), (3, HELLO, 115), (4, frame(1), 50)] {
            table.apply(kind, &origin(agent, 1), at, 1);
        }
        table.sweep();
        assert_eq!(agents(&table), [2, 4], "3 never sent a frame, 1 was not seen for 105");
        table.apply(frame(1), &origin(5, 1), 119, 1);
        table.sweep();
        assert_eq!(agents(&table), [2, 4, 5], "2 was seen 99 ago");
        table.apply(frame(2), &origin(5, 1), 120, 1);
        table.sweep();
        assert_eq!(agents(&table), [4, 5]);
    }

    #[test]
    fn the_table_is_bounded_whatever_the_clocks_say() {
        let mut table = MarkTable::new(2, Duration::MAX);
        for agent in 0..5_000u32 {
            let mut id = [0; 16];
            id[..4].copy_from_slice(&agent.to_le_bytes());
            let origin = Origin { agent_id: Some(id), ..origin(1, 1) };
            table.apply(frame(1), &origin, 0, 1);
            assert!(table.len() <= 2 + 1_024);
        }
    }
}
