//! Positions of a store that keeps one for each of several shards.

/// The last position that each shard holds of this log. An event belongs to the shard crc32(source) mod shards.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShardPositions(Vec<u64>);

impl ShardPositions {
    /// Of these shards, in order.
    pub fn new(positions: Vec<u64>) -> Self {
        Self(positions)
    }

    /// The index of the shard of a source, of so many shards.
    pub fn shard_of(source: &str, shards: usize) -> usize {
        crc32fast::hash(source.as_bytes()) as usize % shards.max(1)
    }

    /// Whether the shard of `source` holds the event at `position`.
    pub fn have(&self, source: &str, position: u64) -> bool {
        self.0.get(Self::shard_of(source, self.0.len())).is_some_and(|held| position <= *held)
    }

    /// The highest position of a shard: none holds an event after it.
    pub fn highest(&self) -> u64 {
        self.0.iter().copied().max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_held_by_the_shard_of_its_source() {
        let positions = ShardPositions::new(vec![5, 9, 7, 5]);
        assert_eq!(positions.highest(), 9);
        for source in ["a", "b", "api-1", "api-2", ""] {
            let held = [5, 9, 7, 5][ShardPositions::shard_of(source, 4)];
            assert!(positions.have(source, held) && !positions.have(source, held + 1), "{source}");
        }
        assert!(!ShardPositions::default().have("a", 1));
    }
}
