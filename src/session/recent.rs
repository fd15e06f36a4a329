//! A map of bounded size: the entry that was not used for the longest time makes room for a new one.

use std::collections::HashMap;
use std::hash::Hash;

/// No entry.
const NONE: usize = usize::MAX;

/// At most so many entries, in a list from the newest to the oldest use.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    places: HashMap<K, usize>,
    entries: Vec<Entry<K, V>>,
    newest: usize,
    oldest: usize,
    max: usize,
}

#[derive(Debug)]
struct Entry<K, V> {
    key: K,
    value: V,
    newer: usize,
    older: usize,
}

impl<K: Copy + Eq + Hash, V: Copy + Default> Recent<K, V> {
    /// Without entries; at most `max` of them, at least one.
    pub(super) fn new(max: usize) -> Self {
        Self { places: HashMap::new(), entries: Vec::new(), newest: NONE, oldest: NONE, max: max.max(1) }
    }

    /// The value of `key`; the default where there is no entry. Counts as a use.
    pub(super) fn get(&mut self, key: K) -> V {
        let Some(place) = self.places.get(&key).copied() else { return V::default() };
        self.unlink(place);
        self.link(place);
        self.entries[place].value
    }

    /// Sets the value of `key`.
    pub(super) fn set(&mut self, key: K, value: V) {
        let place = match self.places.get(&key).copied() {
            Some(place) => {
                self.unlink(place);
                place
            }
            None => self.new_place(key),
        };
        self.entries[place].value = value;
        self.link(place);
    }

    /// A place for a new key, in no list.
    fn new_place(&mut self, key: K) -> usize {
        let place = if self.entries.len() < self.max {
            self.entries.push(Entry { key, value: V::default(), newer: NONE, older: NONE });
            self.entries.len() - 1
        } else {
            let place = self.oldest;
            self.unlink(place);
            let entry = &mut self.entries[place];
            self.places.remove(&entry.key);
            entry.key = key;
            place
        };
        self.places.insert(key, place);
        place
    }

    fn unlink(&mut self, place: usize) {
        let Entry { newer, older, .. } = self.entries[place];
        match self.entries.get_mut(newer) {
            Some(entry) => entry.older = older,
            None => self.newest = older,
        }
        match self.entries.get_mut(older) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = newer,
        }
    }

    /// As the newest.
    fn link(&mut self, place: usize) {
        let before = std::mem::replace(&mut self.newest, place);
        (self.entries[place].newer, self.entries[place].older) = (NONE, before);
        match self.entries.get_mut(before) {
            Some(entry) => entry.newer = place,
            None => self.oldest = place,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn the_entry_that_was_not_used_for_the_longest_time_makes_room() {
        let mut recent = Recent::new(3);
        (1..=3).for_each(|key| recent.set(key, 10 * key));
        assert_eq!(recent.get(1), 10);
        recent.set(4, 40);
        assert_eq!([1, 2, 3, 4].map(|key| recent.get(key)), [10, 0, 30, 40]);
        recent.set(3, 33);
        recent.set(5, 50);
        assert_eq!([1, 3, 4, 5].map(|key| recent.get(key)), [0, 33, 40, 50]);
        assert_eq!(recent.entries.len(), 3);
    }

    /// Against a list in the order of use.
    #[test]
    fn any_order_of_uses_leaves_the_newest_ones() {
        let (mut random, mut recent, mut list) = (Random::seeded(7), Recent::new(16), Vec::new());
        for step in 1..20_000_u64 {
            let key = random.next_u64() % 40;
            let known = list.iter().position(|(known, _)| *known == key);
            let entry = known.map(|at| list.remove(at));
            if random.next_u64().is_multiple_of(2) {
                assert_eq!(recent.get(key), entry.map_or(0, |(_, value)| value));
                list.extend(entry);
            } else {
                recent.set(key, step);
                list.push((key, step));
            }
            if list.len() > 16 {
                list.remove(0);
            }
            assert!(recent.entries.len() <= 16 && recent.places.len() == recent.entries.len());
        }
        list.iter().for_each(|(key, value)| assert_eq!(recent.get(*key), *value));
    }
}
