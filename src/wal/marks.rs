//! Every agent's mark (R3), as the log has it: kept by the writer, written at the begin of each segment, rebuilt by recovery.

use std::collections::HashMap;
use std::time::Duration;

use super::record::Kind;
use crate::pipeline::batch::Origin;

/// How far an agent has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentMark {
    pub agent_id: [u8; 16],
    pub epoch: u64,
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

pub struct MarkTable {
    marks: HashMap<[u8; 16], AgentMark>,
    max_agents: usize,
    retention: Duration,
    /// Newest time of receipt of all.
    newest_unix_nano: u64,
}

impl MarkTable {
    pub fn new(max_agents: usize, retention: Duration) -> Self {
        Self { marks: HashMap::new(), max_agents, retention, newest_unix_nano: 0 }
    }

    pub fn replace(&mut self, marks: Vec<AgentMark>) {
        self.newest_unix_nano = marks.iter().map(|mark| mark.last_seen_unix_nano).max().unwrap_or(0);
        self.marks = marks.into_iter().map(|mark| (mark.agent_id, mark)).collect();
    }

    pub fn iter(&self) -> impl Iterator<Item = &AgentMark> {
        self.marks.values()
    }

    pub fn len(&self) -> usize {
        self.marks.len()
    }

    /// A run entered the log; `last_position` is its last event's, or the one before it.
    pub fn apply(&mut self, kind: Kind, origin: &Origin, received_unix_nano: u64, last_position: u64) {
        let Some(agent_id) = origin.agent_id else { return };
        let (seq, crc) = match kind {
            Kind::Frame { seq, sent_crc } => (seq, Some(sent_crc)),
            Kind::Hello { last_seq } => (last_seq, None),
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
        let newer = origin.epoch > mark.epoch || (origin.epoch == mark.epoch && seq > mark.last_seq);
        if newer {
            // A hello that moves the mark tells of frames that are acknowledged already: nothing is waited for.
            let last_position = if crc.is_some() { last_position } else { 0 };
            (mark.epoch, mark.last_seq, mark.last_crc, mark.last_position) = (origin.epoch, seq, crc, last_position);
        }
        if self.marks.len() > self.max_agents + self.max_agents / 8 + 1_024 {
            // The door lets no more agents in than that; should clocks have misled us, the table is bounded all the same.
            self.forget(true);
        }
    }

    /// Forgets down to the limit: agents that never sent a frame first, then those unseen for the retention time.
    pub fn sweep(&mut self) {
        self.forget(false);
    }

    fn forget(&mut self, whoever: bool) {
        let Some(surplus) = self.marks.len().checked_sub(self.max_agents).filter(|surplus| *surplus > 0) else {
            return;
        };
        let seen_before = self.newest_unix_nano.saturating_sub(self.retention.as_nanos() as u64);
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
