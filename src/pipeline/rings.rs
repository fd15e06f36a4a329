//! The rings of all event loops, as the log thread takes from them.
//!
//! ```text
//!  loop 0 ─▶ [ slot slot … ] ─┐
//!  loop 1 ─▶ [ slot … ]      ─┼─▶ take: all of one, then of the next; each time another one comes first
//!  loop 2 ─▶ [ ]             ─┘
//! ```
//!
//! The order of each loop is kept; between loops there is none.

use crate::pipeline::ring::{Slot, SlotReceiver};

/// What there is to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// At least one slot waits.
    Slots,
    /// No slot waits.
    Nothing,
    /// The loops are gone, and their rings are empty.
    Gone,
}

/// The log thread's end of all rings.
pub struct Rings {
    rings: Vec<SlotReceiver>,
    /// Which comes first in the next `take`.
    first: usize,
}

impl Rings {
    /// One ring a loop, in the order of the loops.
    pub fn new(rings: Vec<SlotReceiver>) -> Self {
        Self { rings, first: 0 }
    }

    /// Moves up to `max` slots into `slots` while `enough` of the last one is false, without waiting.
    pub fn take(&mut self, max: usize, slots: &mut Vec<Slot>, mut enough: impl FnMut(&Slot) -> bool) {
        let (mut left, mut is_enough) = (max, false);
        let count = self.rings.len();
        for offset in 0..count {
            let Some(ring) = self.rings.get_mut((self.first + offset) % count) else { break };
            let before = slots.len();
            ring.take(left, slots, |slot| {
                is_enough = enough(slot);
                is_enough
            });
            left -= slots.len() - before;
            if is_enough || left == 0 {
                break;
            }
        }
        self.first = (self.first + 1) % count.max(1);
    }

    /// What there is to take, without waiting.
    pub fn look(&self) -> Found {
        // In this order: a slot pushed before its loop went is still seen.
        let are_gone = self.rings.iter().all(SlotReceiver::is_closed);
        if self.rings.iter().any(|ring| !ring.is_empty()) {
            return Found::Slots;
        }
        if are_gone { Found::Gone } else { Found::Nothing }
    }

    /// Waits until there is a slot. `false`: there is none and the loops are gone. Every loop unparks the thread that waits
    /// here.
    pub fn wait(&self) -> bool {
        loop {
            match self.look() {
                Found::Slots => return true,
                Found::Gone => return false,
                Found::Nothing => std::thread::park(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::pool::Pool;
    use crate::ids::LoopId;
    use crate::pipeline::ring::{SlotSender, ring, testing::slot};

    fn rings(count: usize) -> (Vec<SlotSender>, Rings) {
        let (senders, receivers) = (0..count).map(|_| ring(8, Box::new(|| {}))).unzip();
        (senders, Rings::new(receivers))
    }

    fn taken(rings: &mut Rings, max: usize) -> Vec<(u8, u64)> {
        let mut slots = Vec::new();
        rings.take(max, &mut slots, |_| false);
        slots.iter().map(|slot| (slot.event_loop.0, slot.number)).collect()
    }

    #[test]
    fn each_take_begins_with_another_ring_and_keeps_the_order_of_each_loop() {
        let mut pool = Pool::new(1 << 20, Box::new(|| {}));
        let (mut senders, mut rings) = rings(2);
        for (index, sender) in senders.iter_mut().enumerate() {
            (1..=4).for_each(|number| sender.push(slot(&mut pool, LoopId(index as u8), number)).unwrap());
        }
        assert_eq!(taken(&mut rings, 3), [(0, 1), (0, 2), (0, 3)]);
        assert_eq!(taken(&mut rings, 3), [(1, 1), (1, 2), (1, 3)]);
        assert_eq!(taken(&mut rings, 9), [(0, 4), (1, 4)]);
    }

    #[test]
    fn the_end_is_noticed_once_all_loops_are_gone_and_every_ring_is_empty() {
        let mut pool = Pool::new(1 << 20, Box::new(|| {}));
        let (mut senders, mut rings) = rings(2);
        senders[1].push(slot(&mut pool, LoopId(1), 1)).unwrap();
        drop(senders.remove(1));
        assert_eq!(rings.look(), Found::Slots);
        assert_eq!(taken(&mut rings, 9), [(1, 1)]);
        assert_eq!(rings.look(), Found::Nothing, "loop 0 is there");
        senders.clear();
        assert_eq!(rings.look(), Found::Gone);
        assert!(!rings.wait());
    }
}
