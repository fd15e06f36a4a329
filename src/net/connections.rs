//! The open connections of a loop, by the number that names each for as long as the process lives.
//!
//! ```text
//!  ConnectionId   63 ··· 32          31 ··· 0
//!                 generation         key: place in the slab, and the token of the poll
//! ```
//!
//! A place is used again, a number is not: whoever holds the number of a connection that is gone finds nothing.

use slab::Slab;

use crate::net::connection::Connection;
use crate::session::marks::ConnectionId;

#[derive(Default)]
pub struct Connections {
    slab: Slab<Connection>,
    generation: u32,
}

impl Connections {
    fn key_of(id: ConnectionId) -> usize {
        (id & u64::from(u32::MAX)) as usize
    }

    /// Of all phases.
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    /// The place that the next connection gets.
    pub fn next_key(&self) -> usize {
        self.slab.vacant_key()
    }

    /// Adds what `connect` makes of its number.
    pub fn insert(&mut self, connect: impl FnOnce(ConnectionId) -> Connection) -> ConnectionId {
        self.generation = self.generation.wrapping_add(1);
        let entry = self.slab.vacant_entry();
        let id = u64::from(self.generation) << 32 | entry.key() as u64;
        entry.insert(connect(id));
        id
    }

    pub fn get(&self, id: ConnectionId) -> Option<&Connection> {
        self.slab.get(Self::key_of(id)).filter(|connection| connection.id == id)
    }

    pub fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.slab.get_mut(Self::key_of(id)).filter(|connection| connection.id == id)
    }

    /// By the token of the poll.
    pub fn at_key(&mut self, key: usize) -> Option<&mut Connection> {
        self.slab.get_mut(key)
    }

    pub fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
        self.get(id)?;
        self.slab.try_remove(Self::key_of(id))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Connection> {
        self.slab.iter().map(|(_, connection)| connection)
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Connection> {
        self.slab.iter_mut().map(|(_, connection)| connection)
    }

    pub fn ids(&self) -> Vec<ConnectionId> {
        self.iter().map(|connection| connection.id).collect()
    }
}
