//! The newest entries of what repeats itself: an entry that comes a thousand times a second does not displace the others.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// At most so many entries, the newest last. Written by several threads, for what is rare or refused.
#[derive(Debug)]
pub struct Recent<T> {
    entries: Mutex<VecDeque<T>>,
    max: usize,
}

impl<T: Clone> Recent<T> {
    /// Keeps `max` entries.
    pub fn new(max: usize) -> Self {
        Self { entries: Mutex::new(VecDeque::with_capacity(max)), max }
    }

    /// Where `is_it` finds an entry, `again` changes it, and it is the newest again; else there is a `new` one, and the oldest
    /// is forgotten.
    pub fn note(&self, is_it: impl Fn(&T) -> bool, again: impl FnOnce(&mut T), new: impl FnOnce() -> T) {
        let mut entries = self.lock();
        let known = entries.iter().rposition(is_it).and_then(|index| entries.remove(index));
        let entry = match known {
            Some(mut entry) => {
                again(&mut entry);
                entry
            }
            None => new(),
        };
        if entries.len() >= self.max {
            entries.pop_front();
        }
        entries.push_back(entry);
    }

    /// The newest first.
    pub fn newest(&self) -> Vec<T> {
        self.lock().iter().rev().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<T>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_repeats_itself_is_one_entry_and_the_oldest_is_forgotten() {
        let recent = Recent::new(3);
        let note = |name: char| recent.note(|(known, _)| *known == name, |(_, times)| *times += 1, || (name, 1));
        "abaacdee".chars().for_each(note);
        assert_eq!(recent.newest(), [('e', 2), ('d', 1), ('c', 1)]);
        note('c');
        assert_eq!(recent.newest(), [('c', 2), ('e', 2), ('d', 1)]);
    }
}
