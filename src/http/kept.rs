//! What has come of a body, and where it is kept.
//!
//! ```text
//!  0 ────────── as it arrives ──────────▶ 64 KiB ── all that may come is reserved at once ──▶ end
//!    Beginning: outside the pool,           Pool: one buffer; a body of known length is read
//!    of a budget that all bodies share      straight into it. Such a body always finishes
//! ```
//!
//! A beginning takes the next power of two of what has come, at least 256 bytes. A body of known length whose last bytes are
//! read before it has 64 KiB (with its head, for most requests) is reserved at that moment, a chunked one once it is whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::batch::pool::Buffer;
use crate::limits::{HTTP_BODY_BEGINNING_BYTES, HTTP_BODY_BEGINNING_BYTES_LOWEST};

/// The bytes that all beginnings of bodies may have together. Clones share one budget.
#[derive(Debug, Clone)]
pub struct Beginnings {
    left: Arc<AtomicUsize>,
}

impl Beginnings {
    /// A budget of `bytes`.
    pub fn new(bytes: usize) -> Self {
        Self { left: Arc::new(AtomicUsize::new(bytes)) }
    }

    /// Bytes that are not taken.
    pub fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }

    /// Takes `bytes` of the budget, or nothing and `false` where it has less.
    fn take(&self, bytes: usize) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }
}

/// Bytes outside the pool. Dropping them gives their share of the budget back.
#[derive(Debug, Default)]
pub(super) struct Beginning {
    bytes: Vec<u8>,
    /// The budget and what is taken of it: the capacity of `bytes`.
    taken: Option<(Beginnings, usize)>,
}

impl Beginning {
    /// Bytes that are taken of the budget.
    pub(super) fn taken(&self) -> usize {
        self.taken.as_ref().map_or(0, |(_, taken)| *taken)
    }

    /// Bytes of the budget that `more` bytes need beside what is taken.
    pub(super) fn growth(&self, more: usize) -> usize {
        let wanted = (self.bytes.len() + more).max(HTTP_BODY_BEGINNING_BYTES_LOWEST).next_power_of_two();
        wanted.min(HTTP_BODY_BEGINNING_BYTES).saturating_sub(self.taken())
    }

    /// Makes room for `more` bytes, at most up to [`HTTP_BODY_BEGINNING_BYTES`] in all. `false`: the budget has not enough
    /// left, and nothing has changed.
    pub(super) fn grow(&mut self, more: usize, budget: &Beginnings) -> bool {
        let growth = self.growth(more);
        if growth > 0 {
            if !budget.take(growth) {
                return false;
            }
            let taken = self.taken() + growth;
            self.taken = Some((budget.clone(), taken));
            self.bytes.reserve_exact(taken - self.bytes.len());
        }
        true
    }
}

impl Drop for Beginning {
    fn drop(&mut self) {
        if let Some((budget, taken)) = &self.taken {
            budget.left.fetch_add(*taken, Ordering::Relaxed);
        }
    }
}

/// The bytes of a body so far.
#[derive(Debug)]
pub(super) enum Kept {
    /// Outside of the pool; at most 64 KiB.
    Beginning(Beginning),
    /// The buffer has room for all that may come.
    Pool(Buffer),
}

impl Kept {
    /// No bytes, which take no memory.
    pub(super) fn new() -> Self {
        Self::Beginning(Beginning::default())
    }

    /// Number of bytes so far.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Beginning(beginning) => beginning.bytes.len(),
            Self::Pool(buffer) => buffer.len(),
        }
    }

    /// Bytes that can be appended.
    pub(super) fn room(&self) -> usize {
        match self {
            Self::Beginning(beginning) => beginning.taken().saturating_sub(beginning.bytes.len()),
            Self::Pool(buffer) => buffer.room(),
        }
    }

    /// Bytes of a beginning that may still come before the rest has to be reserved; `None`: it is reserved.
    pub(super) fn before_reserving(&self) -> Option<usize> {
        match self {
            Self::Beginning(beginning) => Some(HTTP_BODY_BEGINNING_BYTES - beginning.bytes.len()),
            Self::Pool(_) => None,
        }
    }

    /// Appends `bytes`, or nothing and `false` where they are more than [`Kept::room`].
    #[must_use]
    pub(super) fn extend(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() > self.room() {
            return false;
        }
        match self {
            Self::Beginning(beginning) => {
                beginning.bytes.extend_from_slice(bytes);
                true
            }
            Self::Pool(buffer) => buffer.extend(bytes),
        }
    }

    /// Continues in `buffer`. `false`: it has no room for what there is, and nothing has changed. Does nothing where the body
    /// is in the pool already.
    pub(super) fn move_to(&mut self, mut buffer: Buffer) -> bool {
        if let Self::Beginning(beginning) = self {
            if !buffer.extend(&beginning.bytes) {
                return false;
            }
            *self = Self::Pool(buffer);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_takes_of_the_budget_what_it_holds_and_gives_it_back() {
        let budget = Beginnings::new(2 * HTTP_BODY_BEGINNING_BYTES);
        let mut first = Beginning::default();
        assert!(first.grow(1, &budget));
        assert_eq!(budget.left(), 2 * HTTP_BODY_BEGINNING_BYTES - HTTP_BODY_BEGINNING_BYTES_LOWEST);
        assert!(first.grow(HTTP_BODY_BEGINNING_BYTES, &budget));
        let mut second = Kept::new();
        assert_eq!((second.room(), second.extend(b"x")), (0, false), "nothing is kept that the budget does not have");
        let Kept::Beginning(beginning) = &mut second else { unreachable!() };
        assert!(beginning.grow(40_000, &budget));
        assert_eq!(budget.left(), 0);
        assert!(second.extend(&[1; 40_000]));
        assert!(!Beginning::default().grow(1, &budget));
        drop((first, second));
        assert_eq!(budget.left(), 2 * HTTP_BODY_BEGINNING_BYTES);
    }
}
