//! What the server remembers of each agent, so that a frame sent again is not stored again (R3, R4, R5).
//!
//! One mark an agent: epoch, last sequence number and that frame's checksum. With a log they are rebuilt from it at
//! start ([`Marks::restore`]); without one a new start of the server knows nobody, and no WELCOME says *resumed*.
//! An agent that sends BYE is forgotten at once ([`Marks::forget`]); all others are kept for the retention time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::limits::{EPOCH_FIRST_MAX, EPOCH_LIMIT};

/// Made once by an agent, at random, and kept by it.
pub type AgentId = [u8; 16];

/// Names a connection for as long as the process lives.
pub type ConnectionId = u64;

#[derive(Debug, Clone, Copy)]
struct Mark {
    epoch: u64,
    last_seq: u64,
    /// CRC-32 of the payload of `last_seq`; `None` where that frame was never seen by this process.
    last_crc: Option<u32>,
    /// Ticket of the last accepted frame, or of the HELLO that made the epoch: what a takeover waits for.
    last_ticket: u64,
    /// A frame of the agent was taken, in any epoch. One that never sent a frame need not be remembered.
    has_frames: bool,
    last_seen: Instant,
    connection: Option<ConnectionId>,
}

/// A mark as the log keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    pub agent_id: AgentId,
    pub epoch: u64,
    pub last_seq: u64,
    pub last_crc: Option<u32>,
    pub has_frames: bool,
    /// How long ago the agent was last heard, by the log's times of receipt.
    pub age: Duration,
}

/// What a HELLO leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Greeting {
    pub epoch: u64,
    /// The last one stored, or on its way into the log.
    pub last_seq: u64,
    /// The lowest that the agent still holds.
    pub oldest_seq: u64,
    pub resumed: bool,
    /// The epoch was never given out before: with a log, WELCOME waits until it is in there (R4).
    pub new_epoch: bool,
    /// Frames that were acknowledged once and that neither side has any more.
    pub missing: u64,
    /// The agent's older connection: it must be closed (R5).
    pub replaced: Option<ConnectionId>,
    /// The last ticket of what the agent sent before: WELCOME may be written once the log has passed it (R5).
    pub after_ticket: u64,
}

/// Why an agent is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GreetingError {
    #[error(
        "epoch {epoch} is over; a newer one, {current}, was given out: two agents use one agent_id, or an old copy of an agent's state was restored"
    )]
    Fenced { epoch: u64, current: u64 },
    #[error(
        "{max} agents are known and none may be forgotten yet: raise server.max_agents, or point agents at another server"
    )]
    TooManyAgents { max: usize },
    #[error("this agent_id has used up its epochs: give the agent a new agent_id")]
    EpochsUsedUp,
}

/// A frame's place in its agent's sequence (R2, R7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Next,
    Duplicate,
    /// The last frame again, with other bytes.
    Altered,
    Gap {
        expected: u64,
    },
}

/// The marks of all agents; bounded.
pub struct Marks {
    marks: HashMap<AgentId, Mark>,
    max_agents: usize,
    retention: Duration,
    /// Before this time a sweep would find nothing to forget.
    next_sweep: Option<Instant>,
}

impl Marks {
    pub fn new(max_agents: usize, retention: Duration) -> Self {
        Self { marks: HashMap::new(), max_agents, retention, next_sweep: None }
    }

    /// Puts back what the log knows. `ticket` stands for everything that was in the log before this start.
    pub fn restore(&mut self, restored: Restored, ticket: u64, now: Instant) {
        let Restored { agent_id, epoch, last_seq, last_crc, has_frames, age } = restored;
        let last_seen = now.checked_sub(age).unwrap_or(now);
        let mark = Mark { epoch, last_seq, last_crc, last_ticket: ticket, has_frames, last_seen, connection: None };
        self.marks.insert(agent_id, mark);
    }

    pub fn len(&self) -> usize {
        self.marks.len()
    }

    pub fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// Lets an agent in on `connection`, which replaces an older one of the same agent. `random` seeds a first epoch.
    pub fn greet(
        &mut self,
        agent_id: AgentId,
        epoch: u64,
        oldest_seq: u64,
        connection: ConnectionId,
        now: Instant,
        random: u64,
    ) -> Result<Greeting, GreetingError> {
        let before_oldest = oldest_seq.saturating_sub(1);
        let Some(mark) = self.marks.get_mut(&agent_id) else {
            self.make_room(now)?;
            // Random, so that two servers, or two lives of one server without a log, do not meet (R4).
            let epoch = if epoch == 0 { 1 + random % (EPOCH_FIRST_MAX - 1) } else { epoch };
            let mark = Mark {
                epoch,
                last_seq: before_oldest,
                last_crc: None,
                last_ticket: 0,
                has_frames: false,
                last_seen: now,
                connection: Some(connection),
            };
            self.marks.insert(agent_id, mark);
            return Ok(Greeting {
                epoch,
                last_seq: before_oldest,
                oldest_seq,
                resumed: false,
                new_epoch: true,
                missing: 0,
                replaced: None,
                after_ticket: 0,
            });
        };
        if epoch != 0 && epoch < mark.epoch {
            return Err(GreetingError::Fenced { epoch, current: mark.epoch });
        }
        let resumed = epoch == mark.epoch;
        let mut missing = 0;
        if resumed {
            missing = before_oldest.saturating_sub(mark.last_seq);
            if missing > 0 {
                (mark.last_seq, mark.last_crc) = (before_oldest, None);
            }
        } else {
            let epoch = if epoch == 0 { mark.epoch + 1 } else { epoch };
            if epoch >= EPOCH_LIMIT {
                return Err(GreetingError::EpochsUsedUp);
            }
            (mark.epoch, mark.last_seq, mark.last_crc) = (epoch, before_oldest, None);
        }
        mark.last_seen = now;
        let replaced = mark.connection.replace(connection).filter(|older| *older != connection);
        Ok(Greeting {
            epoch: mark.epoch,
            last_seq: mark.last_seq,
            oldest_seq,
            resumed,
            new_epoch: !resumed,
            missing,
            replaced,
            after_ticket: mark.last_ticket,
        })
    }

    /// Where `seq` stands for this agent. An agent that is not known cannot be asked about: `Duplicate` keeps its
    /// frame out.
    pub fn place(&self, agent_id: &AgentId, seq: u64, crc: u32) -> Place {
        let Some(mark) = self.marks.get(agent_id) else { return Place::Duplicate };
        if seq == mark.last_seq && mark.last_crc.is_some_and(|last| last != crc) {
            Place::Altered
        } else if seq <= mark.last_seq {
            Place::Duplicate
        } else if seq == mark.last_seq + 1 {
            Place::Next
        } else {
            Place::Gap { expected: mark.last_seq + 1 }
        }
    }

    /// The next frame of the agent was taken under `ticket`.
    pub fn advance(&mut self, agent_id: &AgentId, seq: u64, crc: u32, ticket: u64, now: Instant) {
        if let Some(mark) = self.marks.get_mut(agent_id) {
            (mark.last_seq, mark.last_crc, mark.last_ticket, mark.last_seen) = (seq, Some(crc), ticket, now);
            mark.has_frames = true;
        }
    }

    /// The agent's new epoch is on its way into the log under `ticket`.
    pub fn epoch_logged(&mut self, agent_id: &AgentId, ticket: u64) {
        if let Some(mark) = self.marks.get_mut(agent_id) {
            mark.last_ticket = ticket;
        }
    }

    /// The ticket by which everything that was taken from this agent is covered.
    pub fn last_ticket(&self, agent_id: &AgentId) -> u64 {
        self.marks.get(agent_id).map_or(0, |mark| mark.last_ticket)
    }

    /// `connection` is gone; it no longer keeps its agent's mark.
    pub fn disconnect(&mut self, agent_id: &AgentId, connection: ConnectionId, now: Instant) {
        let Some(mark) = self.marks.get_mut(agent_id).filter(|mark| mark.connection == Some(connection)) else {
            return;
        };
        (mark.connection, mark.last_seen) = (None, now);
        if !mark.has_frames {
            // It never sent a frame, so there is nothing to tell apart: HELLOs alone cannot fill the table.
            self.marks.remove(agent_id);
        }
    }

    /// Deletes the mark of an agent that is done (BYE) on `connection`, where `acked_seq` is the last number that was
    /// acknowledged. Returns false, and changes nothing, where a newer connection has taken over the agent, or where a
    /// frame was received that is not acknowledged: it may be sent again, and must then be known.
    pub fn forget(&mut self, agent_id: &AgentId, connection: ConnectionId, acked_seq: u64) -> bool {
        let mark = self.marks.get(agent_id);
        let done = mark.is_some_and(|mark| mark.connection == Some(connection) && mark.last_seq == acked_seq);
        if done {
            self.marks.remove(agent_id);
        }
        done
    }

    /// Forgets disconnected agents unseen for the retention time, when there is no other room. A sweep looks at all
    /// marks, so it runs only when one can have become old enough: strangers cannot make it run on every HELLO.
    fn make_room(&mut self, now: Instant) -> Result<(), GreetingError> {
        if self.marks.len() < self.max_agents {
            return Ok(());
        }
        if self.next_sweep.is_none_or(|at| now >= at) {
            let retention = self.retention;
            // Without frames there is nothing to deduplicate. Only marks that the log restored are disconnected and without.
            self.marks
                .retain(|_, mark| mark.connection.is_some() || (mark.has_frames && now - mark.last_seen < retention));
            let oldest = self.marks.values().filter(|mark| mark.connection.is_none()).map(|mark| mark.last_seen).min();
            self.next_sweep = Some(oldest.unwrap_or(now) + retention);
        }
        if self.marks.len() < self.max_agents {
            Ok(())
        } else {
            Err(GreetingError::TooManyAgents { max: self.max_agents })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: AgentId = [1; 16];
    const B: AgentId = [2; 16];
    const HOUR: Duration = Duration::from_secs(3600);

    fn marks() -> (Marks, Instant) {
        (Marks::new(2, 24 * HOUR), Instant::now())
    }

    #[test]
    fn first_epoch_is_random_and_later_ones_count_up() {
        let (mut marks, now) = marks();
        for (random, epoch) in [(0, 1), (41, 42), (u64::MAX, 1 + u64::MAX % (EPOCH_FIRST_MAX - 1))] {
            let mut marks = Marks::new(1, HOUR);
            assert_eq!(marks.greet(A, 0, 1, 1, now, random).unwrap().epoch, epoch);
            assert!(epoch < EPOCH_FIRST_MAX);
        }
        let first = marks.greet(A, 0, 1, 1, now, 7).unwrap();
        let second = marks.greet(A, 0, 1, 2, now, 99).unwrap();
        assert_eq!((second.epoch, second.last_seq, second.resumed), (first.epoch + 1, 0, false));
    }

    #[test]
    fn equal_epoch_resumes_where_the_server_stands() {
        let (mut marks, now) = marks();
        let epoch = marks.greet(A, 0, 1, 1, now, 7).unwrap().epoch;
        marks.advance(&A, 1, 11, 5, now);
        marks.advance(&A, 2, 22, 6, now);
        let again = marks.greet(A, epoch, 2, 2, now, 0).unwrap();
        assert_eq!((again.last_seq, again.resumed, again.missing), (2, true, 0));
        assert_eq!((again.replaced, again.after_ticket), (Some(1), 6));
    }

    #[test]
    fn a_jump_over_frames_lost_at_a_weak_level_is_counted() {
        let (mut marks, now) = marks();
        let epoch = marks.greet(A, 0, 1, 1, now, 7).unwrap().epoch;
        marks.advance(&A, 1, 11, 1, now);
        let again = marks.greet(A, epoch, 5, 2, now, 0).unwrap();
        assert_eq!((again.last_seq, again.missing, again.resumed), (4, 3, true));
        assert_eq!(marks.place(&A, 4, 0), Place::Duplicate, "a checksum never seen is not compared");
    }

    #[test]
    fn lower_epochs_are_fenced_and_higher_or_unknown_ones_adopted() {
        let (mut marks, now) = marks();
        assert_eq!(marks.greet(A, 10, 4, 1, now, 0).unwrap().epoch, 10);
        assert_eq!(marks.greet(A, 9, 4, 2, now, 0), Err(GreetingError::Fenced { epoch: 9, current: 10 }));
        let higher = marks.greet(A, 12, 8, 3, now, 0).unwrap();
        assert_eq!((higher.epoch, higher.last_seq, higher.resumed), (12, 7, false));
    }

    #[test]
    fn epochs_are_used_up_below_their_limit() {
        let (mut marks, now) = marks();
        marks.greet(A, EPOCH_LIMIT - 1, 1, 1, now, 0).unwrap();
        assert_eq!(marks.greet(A, 0, 1, 2, now, 0), Err(GreetingError::EpochsUsedUp));
    }

    #[test]
    fn places_follow_the_sequence() {
        let (mut marks, now) = marks();
        marks.greet(A, 0, 1, 1, now, 7).unwrap();
        assert_eq!(marks.place(&A, 1, 11), Place::Next);
        assert_eq!(marks.place(&A, 2, 22), Place::Gap { expected: 1 });
        assert_eq!(marks.place(&A, 0, 0), Place::Duplicate);
        marks.advance(&A, 1, 11, 1, now);
        assert_eq!(marks.place(&A, 1, 11), Place::Duplicate);
        assert_eq!(marks.place(&A, 1, 12), Place::Altered);
    }

    #[test]
    fn an_agent_that_never_sent_a_frame_leaves_no_mark() {
        let (mut marks, now) = marks();
        for connection in 0..100 {
            let agent = [connection as u8 + 1; 16];
            marks.greet(agent, 0, 1, connection, now, 7).unwrap();
            marks.disconnect(&agent, connection, now);
        }
        assert!(marks.is_empty());
    }

    #[test]
    fn a_restored_agent_resumes_and_what_it_sends_again_is_known() {
        let (mut marks, now) = marks();
        let restored = Restored { agent_id: A, epoch: 9, last_seq: 4, last_crc: Some(44), has_frames: true, age: HOUR };
        marks.restore(restored, 1, now);
        let greeting = marks.greet(A, 9, 3, 1, now, 0).unwrap();
        assert_eq!((greeting.last_seq, greeting.resumed, greeting.new_epoch), (4, true, false));
        assert_eq!((greeting.after_ticket, marks.last_ticket(&A)), (1, 1));
        assert_eq!((marks.place(&A, 4, 44), marks.place(&A, 4, 45)), (Place::Duplicate, Place::Altered));
        assert_eq!(marks.greet(A, 8, 1, 2, now, 0), Err(GreetingError::Fenced { epoch: 8, current: 9 }));
    }

    #[test]
    fn an_agent_that_is_done_makes_room_at_once_and_is_unknown_when_it_comes_back() {
        let (mut marks, now) = marks();
        for (agent, connection) in [(A, 1), (B, 2)] {
            marks.greet(agent, 5, 1, connection, now, 0).unwrap();
            marks.advance(&agent, 1, 11, 1, now);
        }
        assert!(marks.greet([3; 16], 0, 1, 3, now, 7).is_err());
        assert!(marks.forget(&A, 1, 1));
        assert!(!marks.forget(&A, 1, 1), "it is forgotten already");
        marks.disconnect(&A, 1, now);
        assert!(marks.greet([3; 16], 0, 1, 3, now, 7).is_ok());
        assert!(marks.forget(&B, 2, 1));
        let again = marks.greet(B, 5, 2, 4, now, 0).unwrap();
        assert_eq!((again.epoch, again.last_seq, again.resumed, again.new_epoch), (5, 1, false, true));
    }

    #[test]
    fn only_the_newest_connection_with_everything_acknowledged_has_its_agent_forgotten() {
        let (mut marks, now) = marks();
        marks.greet(A, 5, 1, 1, now, 0).unwrap();
        marks.advance(&A, 1, 11, 1, now);
        assert!(!marks.forget(&A, 1, 0), "frame 1 is not acknowledged");
        marks.greet(A, 5, 2, 2, now, 0).unwrap();
        assert!(!marks.forget(&A, 1, 1), "connection 2 has taken over");
        assert_eq!(marks.place(&A, 1, 11), Place::Duplicate);
        assert_eq!(marks.place(&A, 2, 22), Place::Next);
        assert!(marks.forget(&A, 2, 1) && marks.is_empty());
    }

    #[test]
    fn restored_agents_that_never_sent_a_frame_give_way() {
        let (mut marks, now) = marks();
        for (agent_id, has_frames) in [(A, true), (B, false)] {
            let age = Duration::ZERO;
            marks.restore(Restored { agent_id, epoch: 9, last_seq: 4, last_crc: None, has_frames, age }, 1, now);
        }
        assert!(marks.greet([3; 16], 0, 1, 3, now, 7).is_ok());
        assert!(marks.greet(A, 9, 5, 4, now, 7).unwrap().resumed);
        assert!(marks.greet([4; 16], 0, 1, 5, now, 7).is_err(), "A has sent frames, 3 is connected");
    }

    #[test]
    fn only_disconnected_agents_past_the_retention_are_forgotten() {
        let (mut marks, now) = marks();
        for (agent, connection) in [(A, 1), (B, 2)] {
            marks.greet(agent, 0, 1, connection, now, 7).unwrap();
            marks.advance(&agent, 1, 11, 1, now);
        }
        let full = Err(GreetingError::TooManyAgents { max: 2 });
        assert_eq!(marks.greet([3; 16], 0, 1, 3, now + 48 * HOUR, 7), full, "both are connected");
        marks.disconnect(&A, 1, now + HOUR);
        marks.disconnect(&B, 99, now);
        assert_eq!(marks.greet([3; 16], 0, 1, 3, now + 24 * HOUR, 7), full, "A was seen an hour later");
        // The sweep at 48 h found nothing disconnected and is due again 24 h later.
        let late = now + 73 * HOUR;
        assert!(marks.greet([3; 16], 0, 1, 3, late, 7).is_ok());
        assert!(!marks.greet(B, 0, 1, 4, late, 7).unwrap().resumed && marks.len() == 2);
    }
}
