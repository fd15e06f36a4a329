//! Numbers that must not be mistaken for each other.

use std::fmt;

/// Names an event loop; they are counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LoopId(pub u8);

impl LoopId {
    /// Its place in what there is one of for each loop.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Names a connection for as long as the process lives.
///
/// ```text
///  63 ··· 32     31 ··· 24    23 ··· 0
///  generation    event loop   key: place in the loop's table, and the token of its poll
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

impl ConnectionId {
    const KEY_BITS: u32 = 24;

    /// Connections that a loop can name at the same time.
    pub const KEYS: usize = 1 << Self::KEY_BITS;

    /// `key` is below [`ConnectionId::KEYS`]; `generation` differs from that of the connection that had the key before.
    pub fn new(event_loop: LoopId, generation: u32, key: usize) -> Self {
        debug_assert!(key < Self::KEYS);
        Self(u64::from(generation) << 32 | u64::from(event_loop.0) << Self::KEY_BITS | key as u64)
    }

    /// Whose connection it is.
    pub fn event_loop(self) -> LoopId {
        LoopId((self.0 >> Self::KEY_BITS) as u8)
    }

    pub fn key(self) -> usize {
        self.0 as usize & (Self::KEYS - 1)
    }

    /// For log lines.
    pub fn get(self) -> u64 {
        self.0
    }
}

/// What a loop gives each accepted frame or request: it numbers them 1, 2, 3 …; 0 is reached from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Ticket {
    pub event_loop: LoopId,
    pub number: u64,
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.event_loop.0, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_id_holds_its_parts() {
        for (event_loop, generation, key) in [(0, 0, 0), (3, 1, 7), (255, u32::MAX, ConnectionId::KEYS - 1)] {
            let id = ConnectionId::new(LoopId(event_loop), generation, key);
            assert_eq!((id.event_loop(), id.key()), (LoopId(event_loop), key));
            assert_eq!(id.get() >> 32, u64::from(generation));
        }
    }
}
