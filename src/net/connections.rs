//! The open connections of a loop, by id.
//!
//! Places in the table are used again, ids are not: the id of a closed connection finds nothing.

use slab::Slab;

use crate::ids::{ConnectionId, LoopId};
use crate::net::connection::Connection;

/// The connections of one loop.
pub(super) struct Connections {
    event_loop: LoopId,
    slab: Slab<Connection>,
    generation: u32,
}

impl Connections {
    /// No connections.
    pub(super) fn new(event_loop: LoopId) -> Self {
        Self { event_loop, slab: Slab::new(), generation: 0 }
    }

    /// Of all phases.
    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    /// The place that the next connection gets.
    pub(super) fn next_key(&self) -> usize {
        self.slab.vacant_key()
    }

    /// Adds what `connect` makes of its number.
    pub(super) fn insert(&mut self, connect: impl FnOnce(ConnectionId) -> Connection) -> ConnectionId {
        self.generation = self.generation.wrapping_add(1);
        let entry = self.slab.vacant_entry();
        let id = ConnectionId::new(self.event_loop, self.generation, entry.key());
        entry.insert(connect(id));
        id
    }

    /// How many there ever were.
    #[cfg(test)]
    pub(super) fn opened(&self) -> u32 {
        self.generation
    }

    /// The connection; `None`: it is closed.
    pub(super) fn get(&self, id: ConnectionId) -> Option<&Connection> {
        self.slab.get(id.key()).filter(|connection| connection.id == id)
    }

    /// The connection; `None`: it is closed.
    pub(super) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.slab.get_mut(id.key()).filter(|connection| connection.id == id)
    }

    /// By the token of the poll.
    pub(super) fn at_key(&mut self, key: usize) -> Option<&mut Connection> {
        self.slab.get_mut(key)
    }

    /// Takes the connection out; `None`: it is closed already.
    pub(super) fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
        self.get(id)?;
        self.slab.try_remove(id.key())
    }

    /// Every connection, in no particular order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Connection> {
        self.slab.iter().map(|(_, connection)| connection)
    }

    /// Every connection, in no particular order.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Connection> {
        self.slab.iter_mut().map(|(_, connection)| connection)
    }

    /// The numbers of all connections.
    pub(super) fn ids(&self) -> Vec<ConnectionId> {
        self.iter().map(|connection| connection.id).collect()
    }
}
