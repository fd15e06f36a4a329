//! Ids: numbers that must not be mistaken for each other, and how ids of 16 bytes are created and written.

use std::fmt;

use crate::random::Random;

/// Bytes before which a UUID in text has a hyphen.
const HYPHENS: [usize; 4] = [4, 6, 8, 10];

/// A random UUID, version 4 (RFC 9562). It follows from the generator's state: equal seeds give equal ids.
pub fn new_uuid(random: &mut Random) -> [u8; 16] {
    let mut id = (u128::from(random.next_u64()) << 64 | u128::from(random.next_u64())).to_be_bytes();
    id[6] = id[6] & 0x0F | 0x40;
    id[8] = id[8] & 0x3F | 0x80;
    id
}

/// Appends two lower-case digits per byte.
pub fn write_hex(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend(bytes.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]));
}

/// Appends a UUID in lower-case text: `00112233-4455-6677-8899-aabbccddeeff`.
pub fn write_uuid(id: &[u8; 16], out: &mut Vec<u8>) {
    for (index, byte) in id.iter().enumerate() {
        if HYPHENS.contains(&index) {
            out.push(b'-');
        }
        write_hex(&[*byte], out);
    }
}

/// An id as 32 lower-case digits, as logs and commands show an agent's.
pub fn hex(id: &[u8; 16]) -> String {
    text(|out| write_hex(id, out))
}

/// A server id as stores show it: a UUID in lower-case text.
pub fn uuid(id: &[u8; 16]) -> String {
    text(|out| write_uuid(id, out))
}

fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::with_capacity(36);
    write(&mut out);
    out.into_iter().map(char::from).collect()
}

/// The id that [`uuid`] wrote, with hyphens or without; upper case is accepted. `None`: not 32 digits.
pub fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits = text.replace('-', "");
    let is_hex = digits.len() == 32 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    let id = u128::from_str_radix(&digits, 16).ok().filter(|_| is_hex)?;
    Some(id.to_be_bytes())
}

/// Names an event loop; they are counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LoopId(pub u8);

impl LoopId {
    /// Its place in what there is one of for each loop.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Names a configured client: its place among those of the settings, from 0 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u16);

impl ClientId {
    /// Its place in what there is one of for each client.
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

    /// The connection's key in its event loop's table.
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
    /// The event loop that assigned the ticket.
    pub event_loop: LoopId,
    /// Position in the order of that loop's tickets.
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
    fn ids_are_read_as_they_are_written() {
        let id = std::array::from_fn(|index| index as u8 * 0x11);
        assert_eq!(hex(&id), "00112233445566778899aabbccddeeff");
        assert_eq!(uuid(&id), "00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(parse_uuid(&uuid(&id)), Some(id));
        assert_eq!(parse_uuid(&hex(&id)), Some(id));
        for text in ["", "00112233", "+0112233-4455-6677-8899-aabbccddeeff", "x0112233-4455-6677-8899-aabbccddeeff"] {
            assert_eq!(parse_uuid(text), None, "{text}");
        }
    }

    #[test]
    fn new_uuids_are_of_version_4_and_follow_from_the_seed() {
        let mut random = Random::seeded(1);
        let ids: Vec<_> = (0..100).map(|_| new_uuid(&mut random)).collect();
        assert!(ids.iter().all(|id| (id[6] >> 4, id[8] >> 6) == (4, 0b10)), "{ids:x?}");
        assert!(ids.windows(2).all(|pair| pair[0] != pair[1]));
        assert_eq!(new_uuid(&mut Random::seeded(1)), ids[0]);
    }

    #[test]
    fn a_connection_id_holds_its_parts() {
        for (event_loop, generation, key) in [(0, 0, 0), (3, 1, 7), (255, u32::MAX, ConnectionId::KEYS - 1)] {
            let id = ConnectionId::new(LoopId(event_loop), generation, key);
            assert_eq!((id.event_loop(), id.key()), (LoopId(event_loop), key));
            assert_eq!(id.get() >> 32, u64::from(generation));
        }
    }
}
