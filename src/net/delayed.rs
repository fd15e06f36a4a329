//! Agents' connections that are not read until what they have sent is paid for.
//!
//! ```text
//!  limit on one agent     ─▶ alone, until a time
//!  limits that are shared ─▶ one line for the server, one for each client: in order, so that nobody is always the last
//! ```

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Instant;

use crate::ids::{ClientId, ConnectionId};
use crate::metrics::LimitScope;

/// A connection is not to be read for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delay {
    /// The limit that asks for it.
    pub scope: LimitScope,
    /// Of the connection.
    pub client: Option<ClientId>,
    /// The soonest time to read it.
    pub until: Instant,
}

/// Entries of closed connections that may stay before they are swept.
const STALE: usize = 64;

/// The delayed connections of a loop. Entries of those that have closed meanwhile stay until their turn, or until there are
/// too many of them: connections that come and go must not add up.
#[derive(Debug)]
pub struct Delayed {
    alone: BinaryHeap<Reverse<(Instant, ConnectionId)>>,
    /// The server's, then one for each client.
    lines: Vec<VecDeque<ConnectionId>>,
    /// Entries in all lines.
    in_line: usize,
    /// Entries of connections that have closed, alone and in lines.
    stale: usize,
    /// The soonest time at which one of the lines moves on.
    lines_move_at: Option<Instant>,
    /// The connection that is served now has waited in line.
    pub is_called: bool,
}

/// Names a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line(usize);

impl Line {
    /// The line for a limit; `None`: it is not shared.
    pub fn of(scope: LimitScope, client: Option<ClientId>) -> Option<Self> {
        match (scope, client) {
            (LimitScope::Server, _) => Some(Self(0)),
            (LimitScope::Client, Some(client)) => Some(Self(1 + client.index())),
            (LimitScope::Client, None) | (LimitScope::Agent | LimitScope::Address, _) => None,
        }
    }

    /// The limit that the line waits for.
    pub fn limit(self) -> (LimitScope, Option<ClientId>) {
        match self.0.checked_sub(1) {
            None => (LimitScope::Server, None),
            Some(client) => (LimitScope::Client, Some(ClientId(client as u16))),
        }
    }
}

impl Delayed {
    /// Nobody waits. `capacity`: connections that need no further memory.
    pub fn new(clients: usize, capacity: usize) -> Self {
        let mut lines = vec![VecDeque::new(); 1 + clients];
        lines[0].reserve(capacity);
        Self {
            alone: BinaryHeap::with_capacity(capacity),
            lines,
            in_line: 0,
            stale: 0,
            lines_move_at: None,
            is_called: false,
        }
    }

    /// `connection` waits, behind those in its line.
    pub fn add(&mut self, connection: ConnectionId, delay: Delay) {
        match Line::of(delay.scope, delay.client).and_then(|line| self.lines.get_mut(line.0)) {
            Some(line) => {
                line.push_back(connection);
                self.in_line += 1;
                self.moves_at(delay.until);
            }
            None => self.add_alone(connection, delay.until),
        }
    }

    /// `connection` waits until a time, not in a line.
    pub fn add_alone(&mut self, connection: ConnectionId, until: Instant) {
        self.alone.push(Reverse((until, connection)));
    }

    /// A delayed connection has closed. `is_delayed` returns whether one still waits.
    pub fn leave(&mut self, is_delayed: impl Fn(ConnectionId) -> bool) {
        self.stale += 1;
        if self.stale > (self.alone.len() + self.in_line) / 2 + STALE {
            self.alone.retain(|Reverse((_, connection))| is_delayed(*connection));
            self.lines.iter_mut().for_each(|line| line.retain(|connection| is_delayed(*connection)));
            self.in_line = self.lines.iter().map(VecDeque::len).sum();
            self.stale = 0;
        }
    }

    /// An entry was taken out whose connection has closed before.
    pub fn was_stale(&mut self) {
        self.stale = self.stale.saturating_sub(1);
    }

    /// Whether a connection that has not waited has to line up behind others.
    pub fn has_line(&self, scope: LimitScope, client: Option<ClientId>) -> bool {
        let line = || self.lines.get(Line::of(scope, client)?.0);
        self.in_line > 0 && !self.is_called && line().is_some_and(|line| !line.is_empty())
    }

    /// A connection that waited alone and whose time is over.
    pub fn next_alone(&mut self, now: Instant) -> Option<ConnectionId> {
        let Reverse((at, _)) = self.alone.peek()?;
        if *at > now { None } else { self.alone.pop().map(|Reverse((_, connection))| connection) }
    }

    /// Takes the time at which one of the lines moves on. `None`: not yet, or nobody waits in one.
    pub fn take_lines_due(&mut self, now: Instant) -> Option<Instant> {
        let at = self.lines_move_at.filter(|at| *at <= now)?;
        self.lines_move_at = None;
        (self.in_line > 0).then_some(at)
    }

    /// All lines, empty ones too.
    pub fn lines(&self) -> impl Iterator<Item = Line> + use<> {
        (0..self.lines.len()).map(Line)
    }

    /// Connections in a line.
    pub fn len_of(&self, line: Line) -> usize {
        self.lines.get(line.0).map_or(0, VecDeque::len)
    }

    /// The first one in a line can be served at this time.
    pub fn moves_at(&mut self, at: Instant) {
        self.lines_move_at = Some(self.lines_move_at.map_or(at, |before| before.min(at)));
    }

    /// The first of a line.
    pub fn next_of(&mut self, line: Line) -> Option<ConnectionId> {
        let first = self.lines.get_mut(line.0)?.pop_front()?;
        self.in_line -= 1;
        Some(first)
    }

    /// When somebody's time is over.
    pub fn next_at(&self) -> Option<Instant> {
        let alone = self.alone.peek().map(|Reverse((at, _))| *at);
        let lines = self.lines_move_at.filter(|_| self.in_line > 0);
        [alone, lines].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ids::LoopId;

    fn id(key: usize) -> ConnectionId {
        ConnectionId::new(LoopId(0), 1, key)
    }

    #[test]
    fn those_that_wait_alone_come_by_their_time_and_those_in_a_line_in_order() {
        let (mut delayed, now) = (Delayed::new(2, 4), Instant::now());
        let at = |millis| now + Duration::from_millis(millis);
        let delay = |scope, client: Option<u16>, until| Delay { scope, client: client.map(ClientId), until };
        delayed.add(id(1), delay(LimitScope::Agent, None, at(9)));
        delayed.add(id(2), delay(LimitScope::Agent, Some(0), at(5)));
        assert_eq!((delayed.next_at(), delayed.next_alone(at(4))), (Some(at(5)), None));
        delayed.add(id(3), delay(LimitScope::Client, Some(1), at(3)));
        delayed.add(id(4), delay(LimitScope::Client, Some(1), at(2)));
        delayed.add(id(5), delay(LimitScope::Server, Some(1), at(4)));
        assert_eq!((delayed.next_at(), delayed.take_lines_due(at(1))), (Some(at(2)), None));
        assert!(delayed.has_line(LimitScope::Client, Some(ClientId(1))) && delayed.has_line(LimitScope::Server, None));
        assert!(!delayed.has_line(LimitScope::Client, Some(ClientId(0))));
        assert_eq!(delayed.take_lines_due(at(2)), Some(at(2)));
        let lines: Vec<_> = delayed.lines().map(|line| (line.limit(), delayed.len_of(line))).collect();
        let expected = [
            ((LimitScope::Server, None), 1),
            ((LimitScope::Client, Some(ClientId(0))), 0),
            ((LimitScope::Client, Some(ClientId(1))), 2),
        ];
        assert_eq!(lines, expected);
        let line = Line::of(LimitScope::Client, Some(ClientId(1))).unwrap();
        assert_eq!([(); 3].map(|()| delayed.next_of(line)), [Some(id(3)), Some(id(4)), None]);
        delayed.moves_at(at(4));
        assert_eq!(delayed.next_at(), Some(at(4)));
        assert_eq!(delayed.next_of(Line(0)), Some(id(5)));
        assert_eq!((delayed.take_lines_due(at(9)), delayed.next_at()), (None, Some(at(5))), "nobody waits in a line");
        assert_eq!([(); 3].map(|()| delayed.next_alone(at(9))), [Some(id(2)), Some(id(1)), None]);
        assert_eq!(delayed.next_at(), None);
    }

    #[test]
    fn connections_that_come_and_go_do_not_add_up() {
        let (mut delayed, now) = (Delayed::new(1, 4), Instant::now());
        for key in 0..100_000 {
            let scope = [LimitScope::Agent, LimitScope::Client, LimitScope::Server][key % 3];
            delayed.add(id(key), Delay { scope, client: Some(ClientId(0)), until: now + Duration::from_secs(3_600) });
            if key >= 10 {
                delayed.leave(|other| other.key() + 10 > key);
            }
            assert!(delayed.alone.len() + delayed.in_line <= 2 * (10 + STALE) + 2);
        }
        assert_eq!(delayed.in_line, delayed.lines().map(|line| delayed.len_of(line)).sum::<usize>());
    }
}
