//! Finds the rows that PostgreSQL refuses, by storing the others in pieces. No SQL here: pieces go out, answers come in.
//!
//! ```text
//!  ├──────────────────── refused: line 4 ────────────────────┤
//!  ├─ 1..3 stored ─┤ 4 refused │ 5..10 (twice 3) stored │ 11..22 refused: line 2 ─ …
//! ```
//!
//! A piece that is refused is cut where the answer indicates, or else in the middle, down to a row that is refused
//! alone. Pieces are no longer than twice what was accepted before the last such row, and grow as they are stored: where
//! refused rows are many, little is sent in vain.

use std::iter;
use std::ops::Range;

/// The rows that are neither stored nor refused yet.
#[derive(Debug)]
pub(super) struct Pieces {
    /// In descending order: the last one is next.
    left: Vec<Range<usize>>,
    /// Rows that a piece may have.
    rows_max: usize,
    /// Where the rows begin that follow the last refused one.
    sound_from: usize,
}

impl Pieces {
    /// Of so many rows.
    pub(super) fn of(rows: usize) -> Self {
        Self { left: iter::once(0..rows).collect(), rows_max: rows, sound_from: 0 }
    }

    /// The piece to store next; `None`: every row is stored or refused. Answer with [`Pieces::stored`] or
    /// [`Pieces::refused`].
    pub(super) fn next(&mut self) -> Option<Range<usize>> {
        let piece = loop {
            let piece = self.left.pop()?;
            if !piece.is_empty() {
                break piece;
            }
        };
        let end = piece.end.min(piece.start.saturating_add(self.rows_max));
        self.left.push(end..piece.end);
        Some(piece.start..end)
    }

    /// All rows of the piece are stored.
    pub(super) fn stored(&mut self) {
        self.rows_max = self.rows_max.saturating_mul(2);
    }

    /// The store refuses `piece`, because of its row number `line`, counted from 0, if it named one. Returns whether the
    /// piece is one row, which is refused.
    pub(super) fn refused(&mut self, piece: Range<usize>, line: Option<usize>) -> bool {
        if piece.len() <= 1 {
            self.rows_max = (2 * (piece.start - self.sound_from)).max(1);
            self.sound_from = piece.end;
            return true;
        }
        match line.and_then(|line| piece.start.checked_add(line)).filter(|row| piece.contains(row)) {
            Some(row) => self.left.extend([row + 1..piece.end, row..row + 1, piece.start..row]),
            None => {
                let middle = piece.start + piece.len() / 2;
                self.left.extend([middle..piece.end, piece.start..middle]);
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Plays a store that refuses the rows `bad`, and names them or does not. Returns what was stored, what was refused,
    /// and how many pieces and rows were sent.
    fn run(rows: usize, bad: &[usize], names: bool) -> (Vec<usize>, Vec<usize>, usize, usize) {
        let mut pieces = Pieces::of(rows);
        let (mut stored, mut refused, mut asked, mut sent) = (Vec::new(), Vec::new(), 0, 0);
        while let Some(piece) = pieces.next() {
            asked += 1;
            sent += piece.len();
            match piece.clone().find(|row| bad.contains(row)) {
                None => {
                    stored.extend(piece);
                    pieces.stored();
                }
                Some(row) => {
                    if pieces.refused(piece.clone(), names.then_some(row - piece.start)) {
                        refused.push(row);
                    }
                }
            }
        }
        (stored, refused, asked, sent)
    }

    #[test]
    fn a_named_row_in_a_hundred_costs_few_pieces() {
        let bad: Vec<usize> = (99..10_000).step_by(100).collect();
        let (_, refused, asked, sent) = run(10_000, &bad, true);
        assert_eq!(refused, bad);
        assert!(asked <= 4 * bad.len(), "{asked} pieces");
        assert!(sent <= 5 * 10_000, "{sent} rows");
    }

    #[test]
    fn rows_that_are_all_refused_are_asked_for_one_by_one() {
        let bad: Vec<usize> = (0..1000).collect();
        for names in [true, false] {
            let (stored, refused, asked, _) = run(1000, &bad, names);
            assert_eq!((stored, refused), (vec![], bad.clone()));
            assert!(asked <= 1000 + 11, "{asked} pieces");
        }
    }

    #[test]
    fn a_row_that_is_not_of_the_piece_is_not_believed() {
        let mut pieces = Pieces::of(4);
        let piece = pieces.next().unwrap();
        assert!(!pieces.refused(piece, Some(4)));
        assert_eq!(pieces.next(), Some(0..2));
        let mut pieces = Pieces::of(4);
        let piece = pieces.next().unwrap();
        assert!(!pieces.refused(piece, Some(usize::MAX)));
        assert_eq!(pieces.next(), Some(0..2));
        pieces.stored();
        assert_eq!(pieces.next(), Some(2..4));
        assert!(!pieces.refused(2..4, Some(usize::MAX)));
        assert_eq!(pieces.next(), Some(2..3));
    }

    proptest! {
        #[test]
        fn stores_all_but_the_refused_rows_in_order(
            rows in 0usize..400,
            bad in prop::collection::btree_set(0usize..400, 0..40),
            names: bool,
        ) {
            let bad: Vec<usize> = bad.into_iter().filter(|row| *row < rows).collect();
            let (stored, refused, asked, _) = run(rows, &bad, names);
            prop_assert_eq!(stored, (0..rows).filter(|row| !bad.contains(row)).collect::<Vec<_>>());
            let depth = rows.max(1).next_power_of_two().ilog2() as usize + 1;
            prop_assert!(asked <= depth + bad.len() * (3 * depth + 3), "{} pieces, {} refused", asked, bad.len());
            prop_assert_eq!(refused, bad);
        }
    }
}
