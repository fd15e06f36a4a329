//! What the server remembers of each agent, so that a frame sent again is not stored again (R3, R4, R5).
//!
//! ```text
//!          HELLO: lent                  BYE: deleted
//!  Marks ──────────────▶ a session ────────────────────▶
//!    ▲                       │ disconnected, or replaced by a newer connection
//!    └────── given back ─────┘
//! ```
//!
//! One mark per agent: epoch, last sequence number and that frame's checksum. The session of a connected agent holds
//! its mark, so that no frame looks into the table; a newer connection waits until the older one has given it back.
//! With a log the marks are rebuilt from it at start ([`Marks::restore`]); without one a new start of the server knows
//! no agent, and no WELCOME has *resumed* set. An agent that sends BYE is forgotten at once ([`Marks::forget`]); all
//! others are kept for the retention time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::ids::{ClientId, ConnectionId, Ticket};
use crate::limits::{EPOCH_FIRST_MAX, EPOCH_LIMIT};
use crate::rate::Due;

/// Created once by an agent, at random, and kept by it.
pub type AgentId = [u8; 16];

/// Where an agent stands in its sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Assigned by the server in WELCOME; a newer one fences agents that use an older one.
    pub epoch: u64,
    /// Number of the last accepted frame; before the first one, the number below the agent's oldest frame.
    pub last_seq: u64,
    /// CRC-32 of the payload of `last_seq`; `None` where that frame was never seen by this process.
    pub last_crc: Option<u32>,
    /// Ticket of the last accepted frame, or of the HELLO that began the epoch: what a takeover waits for.
    pub last_ticket: Ticket,
    /// A frame of the agent was taken, in any epoch. One that never sent a frame need not be remembered.
    pub has_frames: bool,
    /// What is due by a limit on the agent. Not in the log: a new start of the server asks for nothing.
    pub due: Due,
    /// The client that the agent belongs to: the first one whose token it has shown (R5). Not in the log.
    pub client: Option<ClientId>,
}

impl Mark {
    /// Where `seq` stands.
    pub fn place(&self, seq: u64, crc: u32) -> Place {
        if seq == self.last_seq && self.last_crc.is_some_and(|last| last != crc) {
            Place::Altered
        } else if seq <= self.last_seq {
            Place::Duplicate
        } else if seq == self.last_seq + 1 {
            Place::Next
        } else {
            Place::Gap { expected: self.last_seq + 1 }
        }
    }

    /// The next frame was taken under `ticket`.
    pub fn advance(&mut self, seq: u64, crc: u32, ticket: Ticket) {
        (self.last_seq, self.last_crc, self.last_ticket) = (seq, Some(crc), ticket);
        self.has_frames = true;
    }
}

#[derive(Debug)]
struct Entry {
    /// While it is lent: as it was then; its epoch does not change meanwhile.
    mark: Mark,
    last_seen: Instant,
    /// Whose session holds the mark.
    lent_to: Option<ConnectionId>,
    /// The newest connection that waits for it.
    waiting: Option<ConnectionId>,
}

/// Who sends a HELLO.
#[derive(Debug, Clone, Copy)]
pub struct Asking {
    /// On which it is sent.
    pub connection: ConnectionId,
    /// The same HELLO was shown before, and had to wait for the mark.
    pub again: bool,
    /// Whose token is in it.
    pub client: Option<ClientId>,
}

impl From<ConnectionId> for Asking {
    fn from(connection: ConnectionId) -> Self {
        Self { connection, again: false, client: None }
    }
}

/// A mark as the log keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// Whose mark it is.
    pub agent_id: AgentId,
    /// The agent's current epoch.
    pub epoch: u64,
    /// Highest number that counts as received; see [`Mark::last_seq`].
    pub last_seq: u64,
    /// CRC-32 of that frame's payload; `None` if that frame is not in the log.
    pub last_crc: Option<u32>,
    /// Whether a frame of the agent was accepted, in any epoch.
    pub has_frames: bool,
    /// How long ago the agent last sent something, by the log's times of receipt.
    pub age: Duration,
}

/// What a HELLO leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Greeted {
    /// The agent is accepted, and its mark is lent to the connection.
    Accepted(Greeting, Mark),
    /// An older connection holds the mark: close it, then ask again (R5).
    LentTo(ConnectionId),
    /// While the HELLO waited, a newer connection of the agent came: this one is to be closed.
    Superseded,
}

/// What WELCOME contains, and what it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Greeting {
    /// The epoch for WELCOME: the agent's own, or a new one.
    pub epoch: u64,
    /// The last one stored, or on its way into the log.
    pub last_seq: u64,
    /// The lowest that the agent still holds.
    pub oldest_seq: u64,
    /// Whether the server knows what the agent sent before.
    pub resumed: bool,
    /// The epoch was never given out before: with a log, WELCOME waits until it is in there (R4).
    pub new_epoch: bool,
    /// Frames that were acknowledged once and that neither side has any more.
    pub missing: u64,
    /// The last ticket of what the agent sent before: WELCOME may be written once the log has passed it (R5).
    pub after_ticket: Ticket,
}

/// Why an agent is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GreetingError {
    /// The agent's epoch is older than the current one.
    #[error(
        "epoch {epoch} has ended; a newer one, {current}, was assigned: two agents use one agent_id, or an old copy \
         of an agent's state was restored"
    )]
    Fenced {
        /// The epoch in HELLO.
        epoch: u64,
        /// The agent's current epoch.
        current: u64,
    },
    /// The table of agents is full.
    #[error(
        "{max} agents are known and none may be forgotten yet: raise server.max_agents, or point agents at another server"
    )]
    TooManyAgents {
        /// `server.max_agents`.
        max: usize,
    },
    /// The agent belongs to another client.
    #[error("this agent_id belongs to another client: give each agent an agent_id of its own")]
    OtherClient,
    /// A new epoch would reach 2^62.
    #[error("this agent_id has used up its epochs: give the agent a new agent_id")]
    EpochsUsedUp,
}

/// A frame's place in its agent's sequence (R2, R7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The number that follows the last accepted frame.
    Next,
    /// Already accepted: acknowledge it, do not store it.
    Duplicate,
    /// The last frame again, with other bytes.
    Altered,
    /// At least one frame before it is missing.
    Gap {
        /// The number that would have been next.
        expected: u64,
    },
}

/// The marks of all agents; bounded.
pub struct Marks {
    entries: HashMap<AgentId, Entry>,
    max_agents: usize,
    retention: Duration,
    /// Clients that the settings do not have any more: their agents belong to nobody.
    gone: Vec<ClientId>,
    /// Before this time a sweep would find nothing to forget.
    next_sweep: Option<Instant>,
}

impl Marks {
    /// An empty table of at most `max_agents` marks; disconnected agents are kept for `retention`.
    pub fn new(max_agents: usize, retention: Duration) -> Self {
        Self { entries: HashMap::new(), max_agents, retention, gone: Vec::new(), next_sweep: None }
    }

    /// Puts back what the log knows. `ticket` stands for everything that was in the log before this start.
    pub fn restore(&mut self, restored: Restored, ticket: Ticket, now: Instant) {
        let Restored { agent_id, epoch, last_seq, last_crc, has_frames, age } = restored;
        let last_seen = now.checked_sub(age).unwrap_or(now);
        let mark =
            Mark { epoch, last_seq, last_crc, last_ticket: ticket, has_frames, due: Due::default(), client: None };
        self.entries.insert(agent_id, Entry { mark, last_seen, lent_to: None, waiting: None });
    }

    /// The settings have no longer these clients, which may come back.
    pub fn set_gone(&mut self, clients: impl Iterator<Item = ClientId>) {
        self.gone = clients.collect();
    }

    /// The limit on agents is another one: nothing is due by the new one yet. Of a mark that is lent, the session does the same.
    pub fn forget_dues(&mut self) {
        self.entries.values_mut().for_each(|entry| entry.mark.due = Due::default());
    }

    /// Number of known agents.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no agent is known.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Accepts an agent on `connection`, unless an older one holds its mark. `random` seeds a first epoch.
    ///
    /// # Errors
    /// Why the agent is not accepted.
    pub fn greet(
        &mut self,
        agent_id: AgentId,
        epoch: u64,
        oldest_seq: u64,
        asking: impl Into<Asking>,
        now: Instant,
        random: u64,
    ) -> Result<Greeted, GreetingError> {
        let Asking { connection, again, client } = asking.into();
        let before_oldest = oldest_seq.saturating_sub(1);
        let Some(entry) = self.entries.get_mut(&agent_id) else {
            self.make_room(now)?;
            // Random, so that two servers, or two lives of one server without a log, do not meet (R4).
            let epoch = if epoch == 0 { 1 + random % (EPOCH_FIRST_MAX - 1) } else { epoch };
            let mark = Mark {
                epoch,
                last_seq: before_oldest,
                last_crc: None,
                last_ticket: Ticket::default(),
                has_frames: false,
                due: Due::default(),
                client,
            };
            self.entries.insert(agent_id, Entry { mark, last_seen: now, lent_to: Some(connection), waiting: None });
            return Ok(Greeted::Accepted(Greeting::new(&mark, oldest_seq, false, 0), mark));
        };
        let owner = entry.mark.client.filter(|owner| !self.gone.contains(owner));
        if owner.is_some_and(|owner| client != Some(owner)) {
            return Err(GreetingError::OtherClient);
        }
        let current = entry.mark.epoch;
        if epoch != 0 && epoch < current {
            return Err(GreetingError::Fenced { epoch, current });
        }
        if again && entry.waiting != Some(connection) {
            return Ok(Greeted::Superseded);
        }
        if let Some(older) = entry.lent_to {
            entry.waiting = Some(connection);
            return Ok(Greeted::LentTo(older));
        }
        let mark = &mut entry.mark;
        let resumed = epoch == current;
        let mut missing = 0;
        if resumed {
            missing = before_oldest.saturating_sub(mark.last_seq);
            if missing > 0 {
                (mark.last_seq, mark.last_crc) = (before_oldest, None);
            }
        } else {
            let epoch = if epoch == 0 { current + 1 } else { epoch };
            if epoch >= EPOCH_LIMIT {
                return Err(GreetingError::EpochsUsedUp);
            }
            (mark.epoch, mark.last_seq, mark.last_crc) = (epoch, before_oldest, None);
        }
        // Accepted: not before does the agent belong to the client.
        mark.client = client;
        (entry.last_seen, entry.lent_to, entry.waiting) = (now, Some(connection), None);
        Ok(Greeted::Accepted(Greeting::new(mark, oldest_seq, resumed, missing), *mark))
    }

    /// `connection` is gone and gives the mark of its agent back. `is_replaced`: to a newer connection of the agent.
    pub fn give_back(
        &mut self,
        agent_id: &AgentId,
        mark: Mark,
        connection: ConnectionId,
        is_replaced: bool,
        now: Instant,
    ) {
        let Some(entry) = self.entries.get_mut(agent_id).filter(|entry| entry.lent_to == Some(connection)) else {
            return;
        };
        (entry.mark, entry.last_seen, entry.lent_to) = (mark, now, None);
        if !mark.has_frames && !is_replaced {
            // It never sent a frame, so there is nothing to tell apart: HELLOs alone cannot fill the table.
            self.entries.remove(agent_id);
        }
    }

    /// Deletes the mark of an agent that is done (BYE), which `connection` holds.
    pub fn forget(&mut self, agent_id: &AgentId, connection: ConnectionId) {
        if self.entries.get(agent_id).is_some_and(|entry| entry.lent_to == Some(connection)) {
            self.entries.remove(agent_id);
        }
    }

    /// Forgets disconnected agents unseen for the retention time, when there is no other room. A sweep looks at all
    /// marks, so it runs only when one can have become old enough: a HELLO that is refused cannot make it run each time.
    fn make_room(&mut self, now: Instant) -> Result<(), GreetingError> {
        if self.entries.len() < self.max_agents {
            return Ok(());
        }
        if self.next_sweep.is_none_or(|at| now >= at) {
            let retention = self.retention;
            // Without frames there is nothing to deduplicate. Only marks that the log restored are given back and without.
            self.entries.retain(|_, entry| {
                entry.lent_to.is_some() || (entry.mark.has_frames && now - entry.last_seen < retention)
            });
            let free = self.entries.values().filter(|entry| entry.lent_to.is_none());
            let oldest = free.map(|entry| entry.last_seen).min();
            self.next_sweep = Some(oldest.unwrap_or(now) + retention);
        }
        if self.entries.len() < self.max_agents {
            Ok(())
        } else {
            Err(GreetingError::TooManyAgents { max: self.max_agents })
        }
    }
}

impl Greeting {
    fn new(mark: &Mark, oldest_seq: u64, resumed: bool, missing: u64) -> Self {
        let Mark { epoch, last_seq, last_ticket, .. } = *mark;
        Self { epoch, last_seq, oldest_seq, resumed, new_epoch: !resumed, missing, after_ticket: last_ticket }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::LoopId;

    const A: AgentId = [1; 16];
    const B: AgentId = [2; 16];
    fn ticket(number: u64) -> Ticket {
        Ticket { number, ..Ticket::default() }
    }

    fn id(number: usize) -> ConnectionId {
        ConnectionId::new(LoopId(1), 1, number)
    }

    const HOUR: Duration = Duration::from_secs(3600);

    fn marks() -> (Marks, Instant) {
        (Marks::new(2, 24 * HOUR), Instant::now())
    }

    /// Greets an agent whose mark nobody holds.
    fn accepted(
        marks: &mut Marks,
        agent: AgentId,
        (epoch, oldest_seq): (u64, u64),
        connection: ConnectionId,
        (now, random): (Instant, u64),
    ) -> (Greeting, Mark) {
        match marks.greet(agent, epoch, oldest_seq, connection, now, random) {
            Ok(Greeted::Accepted(greeting, mark)) => (greeting, mark),
            other => panic!("{other:?}"),
        }
    }

    /// Takes the frames `seqs` and gives the mark back.
    fn send(marks: &mut Marks, agent: AgentId, mut mark: Mark, seqs: std::ops::RangeInclusive<u64>, now: Instant) {
        seqs.for_each(|seq| mark.advance(seq, seq as u32 * 11, ticket(seq + 4)));
        let connection = marks.entries[&agent].lent_to.unwrap();
        marks.give_back(&agent, mark, connection, false, now);
    }

    #[test]
    fn first_epoch_is_random_and_later_ones_count_up() {
        let (mut marks, now) = marks();
        for (random, epoch) in [(0, 1), (41, 42), (u64::MAX, 1 + u64::MAX % (EPOCH_FIRST_MAX - 1))] {
            let mut marks = Marks::new(1, HOUR);
            assert_eq!(accepted(&mut marks, A, (0, 1), id(1), (now, random)).0.epoch, epoch);
            assert!(epoch < EPOCH_FIRST_MAX);
        }
        let (first, mark) = accepted(&mut marks, A, (0, 1), id(1), (now, 7));
        send(&mut marks, A, mark, 1..=1, now);
        let (second, _) = accepted(&mut marks, A, (0, 1), id(2), (now, 99));
        assert_eq!((second.epoch, second.last_seq, second.resumed), (first.epoch + 1, 0, false));
    }

    /// Whichever of two that wait is shown again first.
    #[test]
    fn of_two_connections_that_wait_the_newer_one_gets_the_mark() {
        for newer_first in [false, true] {
            let (mut marks, now) = marks();
            let (greeting, mark) = accepted(&mut marks, A, (0, 1), id(1), (now, 7));
            let greet = |marks: &mut Marks, connection, again| {
                marks.greet(A, greeting.epoch, 1, Asking { connection, again, client: None }, now, 0).unwrap()
            };
            assert_eq!(greet(&mut marks, id(2), false), Greeted::LentTo(id(1)));
            assert_eq!(greet(&mut marks, id(3), false), Greeted::LentTo(id(1)));
            marks.give_back(&A, mark, id(1), true, now);
            let order = if newer_first { [3, 2] } else { [2, 3] };
            for number in order {
                let greeted = greet(&mut marks, id(number), true);
                assert_eq!(matches!(greeted, Greeted::Accepted(..)), number == 3, "{greeted:?}");
                assert_eq!(matches!(greeted, Greeted::Superseded), number == 2, "{greeted:?}");
            }
        }
    }

    #[test]
    fn an_agent_belongs_to_the_first_client_whose_token_it_has_shown() {
        let (mut marks, now) = marks();
        let asking =
            |number, client: Option<u16>| Asking { connection: id(number), again: false, client: client.map(ClientId) };
        let Ok(Greeted::Accepted(Greeting { epoch, .. }, mark)) = marks.greet(A, 0, 1, asking(1, None), now, 7) else {
            panic!("a new agent")
        };
        send(&mut marks, A, mark, 1..=1, now);
        let Ok(Greeted::Accepted(_, mark)) = marks.greet(A, epoch, 2, asking(2, Some(1)), now, 0) else {
            panic!("it belongs to nobody yet")
        };
        for other in [None, Some(0)] {
            let refused = Err(GreetingError::OtherClient);
            assert_eq!(marks.greet(A, epoch, 2, asking(3, other), now, 0), refused, "while it is connected");
            assert_eq!(marks.greet(A, 1, 2, asking(3, other), now, 0), refused, "its epoch is not told");
        }
        assert_eq!(marks.greet(A, epoch, 2, asking(4, Some(1)), now, 0), Ok(Greeted::LentTo(id(2))));
        send(&mut marks, A, mark, 2..=2, now);
        assert_eq!(marks.greet(A, epoch, 2, asking(5, Some(0)), now, 0), Err(GreetingError::OtherClient));
        assert!(matches!(marks.greet(A, epoch, 3, asking(6, Some(1)), now, 0), Ok(Greeted::Accepted(..))));
    }

    #[test]
    fn the_agents_of_a_client_that_is_gone_belong_to_nobody_and_dues_can_be_forgotten() {
        let (mut marks, now) = marks();
        let asking = |number, client| Asking { connection: id(number), again: false, client: Some(ClientId(client)) };
        let Ok(Greeted::Accepted(_, mark)) = marks.greet(A, 0, 1, asking(1, 0), now, 7) else { panic!("a new agent") };
        let due = Due { events: 5, bytes: 6 };
        send(&mut marks, A, Mark { due, ..mark }, 1..=1, now);
        marks.forget_dues();
        assert_eq!(marks.greet(A, 0, 2, asking(2, 1), now, 0), Err(GreetingError::OtherClient));
        marks.set_gone([ClientId(0)].into_iter());
        let Ok(Greeted::Accepted(_, mark)) = marks.greet(A, 0, 2, asking(3, 1), now, 0) else { panic!("nobody's") };
        assert_eq!((mark.due, mark.client), (Due::default(), Some(ClientId(1))));
        marks.give_back(&A, mark, id(3), false, now);
        // It comes back, and its agent has another owner now.
        marks.set_gone([].into_iter());
        assert_eq!(marks.greet(A, 0, 2, asking(4, 0), now, 0), Err(GreetingError::OtherClient));
    }

    #[test]
    fn an_agent_without_frames_that_comes_again_is_resumed() {
        let (mut marks, now) = marks();
        let (greeting, mark) = accepted(&mut marks, A, (0, 1), id(1), (now, 7));
        assert_eq!(marks.greet(A, greeting.epoch, 1, id(2), now, 0), Ok(Greeted::LentTo(id(1))));
        marks.give_back(&A, mark, id(1), true, now);
        let (greeting, mark) = accepted(&mut marks, A, (greeting.epoch, 1), id(2), (now, 8));
        assert!(greeting.resumed);
        marks.give_back(&A, mark, id(2), false, now);
        assert!(marks.is_empty(), "HELLOs alone are not remembered");
    }

    #[test]
    fn a_mark_is_lent_to_one_connection_and_a_newer_one_waits_for_it() {
        let (mut marks, now) = marks();
        let (greeting, mut mark) = accepted(&mut marks, A, (0, 1), id(1), (now, 7));
        mark.advance(1, 11, ticket(5));
        assert_eq!(marks.greet(A, greeting.epoch, 1, id(2), now, 0), Ok(Greeted::LentTo(id(1))));
        marks.give_back(&A, mark, id(9), false, now);
        assert_eq!(
            marks.greet(A, greeting.epoch, 1, id(2), now, 0),
            Ok(Greeted::LentTo(id(1))),
            "connection 9 holds nothing"
        );
        marks.give_back(&A, mark, id(1), false, now);
        let (again, lent) = accepted(&mut marks, A, (greeting.epoch, 1), id(2), (now, 0));
        assert_eq!((again.last_seq, again.after_ticket, lent), (1, ticket(5), mark));
        let older = GreetingError::Fenced { epoch: greeting.epoch - 1, current: greeting.epoch };
        assert_eq!(marks.greet(A, greeting.epoch - 1, 1, id(3), now, 0), Err(older), "also while it is lent");
    }

    #[test]
    fn equal_epoch_resumes_where_the_server_stands() {
        let (mut marks, now) = marks();
        let (Greeting { epoch, .. }, mark) = accepted(&mut marks, A, (0, 1), id(1), (now, 7));
        send(&mut marks, A, mark, 1..=2, now);
        let (again, _) = accepted(&mut marks, A, (epoch, 2), id(2), (now, 0));
        assert_eq!((again.last_seq, again.resumed, again.missing, again.after_ticket), (2, true, 0, ticket(6)));
    }

    #[test]
    fn a_jump_over_frames_lost_at_a_weak_level_is_counted() {
        let (mut marks, now) = marks();
        let (Greeting { epoch, .. }, mark) = accepted(&mut marks, A, (0, 1), id(1), (now, 7));
        send(&mut marks, A, mark, 1..=1, now);
        let (again, mark) = accepted(&mut marks, A, (epoch, 5), id(2), (now, 0));
        assert_eq!((again.last_seq, again.missing, again.resumed), (4, 3, true));
        assert_eq!(mark.place(4, 0), Place::Duplicate, "a checksum never seen is not compared");
    }

    #[test]
    fn lower_epochs_are_fenced_and_higher_or_unknown_ones_adopted() {
        let (mut marks, now) = marks();
        let (first, mark) = accepted(&mut marks, A, (10, 4), id(1), (now, 0));
        assert_eq!(first.epoch, 10);
        send(&mut marks, A, mark, 4..=4, now);
        assert_eq!(marks.greet(A, 9, 4, id(2), now, 0), Err(GreetingError::Fenced { epoch: 9, current: 10 }));
        let (higher, _) = accepted(&mut marks, A, (12, 8), id(3), (now, 0));
        assert_eq!((higher.epoch, higher.last_seq, higher.resumed), (12, 7, false));
    }

    #[test]
    fn epochs_are_used_up_below_their_limit() {
        let (mut marks, now) = marks();
        let (_, mark) = accepted(&mut marks, A, (EPOCH_LIMIT - 1, 1), id(1), (now, 0));
        send(&mut marks, A, mark, 1..=1, now);
        let of_client = |number, client| Asking { connection: id(number), again: false, client };
        let refused = marks.greet(A, 0, 1, of_client(2, Some(ClientId(1))), now, 0);
        assert_eq!(refused, Err(GreetingError::EpochsUsedUp));
        // Refused, it does not belong to the client.
        let other = marks.greet(A, EPOCH_LIMIT - 1, 1, of_client(3, Some(ClientId(2))), now, 0);
        assert!(matches!(other, Ok(Greeted::Accepted(..))), "{other:?}");
    }

    #[test]
    fn places_follow_the_sequence() {
        let (mut marks, now) = marks();
        let (_, mut mark) = accepted(&mut marks, A, (0, 1), id(1), (now, 7));
        assert_eq!(mark.place(1, 11), Place::Next);
        assert_eq!(mark.place(2, 22), Place::Gap { expected: 1 });
        assert_eq!(mark.place(0, 0), Place::Duplicate);
        mark.advance(1, 11, ticket(1));
        assert_eq!(mark.place(1, 11), Place::Duplicate);
        assert_eq!(mark.place(1, 12), Place::Altered);
    }

    #[test]
    fn an_agent_that_never_sent_a_frame_leaves_no_mark() {
        let (mut marks, now) = marks();
        for connection in 0..100 {
            let agent = [connection as u8 + 1; 16];
            let (_, mark) = accepted(&mut marks, agent, (0, 1), id(connection), (now, 7));
            marks.give_back(&agent, mark, id(connection), false, now);
        }
        assert!(marks.is_empty());
    }

    #[test]
    fn a_restored_agent_resumes_and_what_it_sends_again_is_known() {
        let (mut marks, now) = marks();
        let restored = Restored { agent_id: A, epoch: 9, last_seq: 4, last_crc: Some(44), has_frames: true, age: HOUR };
        marks.restore(restored, ticket(1), now);
        let (greeting, mark) = accepted(&mut marks, A, (9, 3), id(1), (now, 0));
        assert_eq!((greeting.last_seq, greeting.resumed, greeting.new_epoch), (4, true, false));
        assert_eq!((greeting.after_ticket, mark.last_ticket), (ticket(1), ticket(1)));
        assert_eq!((mark.place(4, 44), mark.place(4, 45)), (Place::Duplicate, Place::Altered));
        assert_eq!(marks.greet(A, 8, 1, id(2), now, 0), Err(GreetingError::Fenced { epoch: 8, current: 9 }));
    }

    #[test]
    fn an_agent_that_is_done_makes_room_at_once_and_is_unknown_when_it_comes_back() {
        let (mut marks, now) = marks();
        for (agent, connection) in [(A, 1), (B, 2)] {
            accepted(&mut marks, agent, (5, 1), id(connection), (now, 0));
        }
        assert!(marks.greet([3; 16], 0, 1, id(3), now, 7).is_err());
        marks.forget(&A, id(2));
        assert_eq!(marks.len(), 2, "connection 2 does not hold it");
        marks.forget(&A, id(1));
        accepted(&mut marks, [3; 16], (0, 1), id(3), (now, 7));
        marks.forget(&B, id(2));
        let (again, _) = accepted(&mut marks, B, (5, 2), id(4), (now, 0));
        assert_eq!((again.epoch, again.last_seq, again.resumed, again.new_epoch), (5, 1, false, true));
    }

    #[test]
    fn restored_agents_that_never_sent_a_frame_give_way() {
        let (mut marks, now) = marks();
        for (agent_id, has_frames) in [(A, true), (B, false)] {
            let age = Duration::ZERO;
            marks.restore(
                Restored { agent_id, epoch: 9, last_seq: 4, last_crc: None, has_frames, age },
                ticket(1),
                now,
            );
        }
        accepted(&mut marks, [3; 16], (0, 1), id(3), (now, 7));
        assert!(accepted(&mut marks, A, (9, 5), id(4), (now, 7)).0.resumed);
        assert!(marks.greet([4; 16], 0, 1, id(5), now, 7).is_err(), "A has sent frames, 3 is connected");
    }

    #[test]
    fn only_disconnected_agents_past_the_retention_are_forgotten() {
        let (mut marks, now) = marks();
        let [a, b] = [(A, 1), (B, 2)].map(|(agent, connection)| {
            let (_, mut mark) = accepted(&mut marks, agent, (0, 1), id(connection), (now, 7));
            mark.advance(1, 11, ticket(1));
            mark
        });
        let full = Err(GreetingError::TooManyAgents { max: 2 });
        assert_eq!(marks.greet([3; 16], 0, 1, id(3), now + 48 * HOUR, 7), full, "both are connected");
        marks.give_back(&A, a, id(1), false, now + HOUR);
        marks.give_back(&B, b, id(99), false, now);
        assert_eq!(marks.greet([3; 16], 0, 1, id(3), now + 24 * HOUR, 7), full, "A was seen an hour later");
        // The sweep at 48 h found nothing disconnected and is due again 24 h later.
        let late = now + 73 * HOUR;
        accepted(&mut marks, [3; 16], (0, 1), id(3), (late, 7));
        marks.give_back(&B, b, id(2), false, late);
        assert!(!accepted(&mut marks, B, (0, 1), id(4), (late, 7)).0.resumed && marks.len() == 2);
    }
}
