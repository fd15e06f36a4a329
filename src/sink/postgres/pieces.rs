//! Finds the rows that PostgreSQL refuses, by storing the others in pieces. No SQL here: pieces go out, answers come in.
//!
//! ```text
//!  ├──────────────────── refused: row 4 ─────────────────────┤
//!  ├─ 1..3 stored: so 4 is refused ─┤ 5..10 refused: row 8 ─┤ …
//! ```
//!
//! **A row is refused** if the store names it and nothing before it in the piece is refused. An error about row n is raised
//! when at most the rows up to n were looked at: where those before n are stored, it is n. If one of them is refused instead,
//! n is tried again. Where the answer names no row, the piece is halved, down to a row that is refused alone.
//!
//! **The length** of a piece is twice the usual number of rows between two that are refused, and doubles with each
//! piece that is stored: where refused rows are many, little is sent in vain.

use std::ops::Range;

/// The rows that are neither stored nor refused yet, and why others are refused: for a reason `R`.
#[derive(Debug)]
pub(super) struct Pieces<R> {
    rows: usize,
    /// The first row that is neither stored nor refused.
    next: usize,
    /// Where pieces end, in descending order: the last one is nearest.
    cuts: Vec<usize>,
    /// Rows that a piece may have.
    rows_max: usize,
    /// Valid rows between two refused ones; `None`: no row was refused yet.
    usual: Option<usize>,
    /// The first row after the last refused one.
    sound_from: usize,
    /// The row that is refused if everything before it is stored.
    suspect: Option<(usize, R)>,
    refused: Vec<(usize, R)>,
}

impl<R> Pieces<R> {
    /// Of so many rows. `usual`: what [`Pieces::usual`] was for the rows before them.
    pub(super) fn of(rows: usize, usual: Option<usize>) -> Self {
        let rows_max = usual.map_or(rows, piece_rows);
        Self { rows, next: 0, cuts: Vec::new(), rows_max, usual, sound_from: 0, suspect: None, refused: Vec::new() }
    }

    /// The piece to store next; `None`: every row is stored or refused. Answer with [`Pieces::stored`] or
    /// [`Pieces::refused`].
    pub(super) fn next(&mut self) -> Option<Range<usize>> {
        while self.cuts.pop_if(|cut| *cut <= self.next).is_some() {}
        let end = self.cuts.last().map_or(self.rows, |cut| *cut);
        let end = end.min(self.next.saturating_add(self.rows_max));
        (self.next < end).then_some(self.next..end)
    }

    /// All rows of the piece are stored.
    pub(super) fn stored(&mut self, piece: &Range<usize>) {
        self.next = piece.end;
        self.rows_max = self.rows_max.saturating_mul(2);
        if let Some((row, reason)) = self.suspect.take_if(|(row, _)| *row <= piece.end) {
            self.refuse(row, reason);
        }
    }

    /// The store refuses the piece, because of its row number `line`, counted from 0, if it named one.
    pub(super) fn refused(&mut self, piece: &Range<usize>, line: Option<usize>, reason: R) {
        self.suspect = None;
        let named = line.and_then(|line| piece.start.checked_add(line)).filter(|row| piece.contains(row));
        match named {
            Some(row) if row > piece.start => {
                self.cuts.push(row);
                self.suspect = Some((row, reason));
            }
            None if piece.len() > 1 => self.cuts.push(piece.start + piece.len() / 2),
            _ => self.refuse(piece.start, reason),
        }
    }

    fn refuse(&mut self, row: usize, reason: R) {
        let rows = row - self.sound_from;
        // One short or long stretch does not change it much, several do.
        let usual = self.usual.map_or(rows, |usual| (usual + rows) / 2);
        self.rows_max = piece_rows(usual);
        self.usual = Some(usual);
        self.next = row + 1;
        self.sound_from = self.next;
        self.refused.push((row, reason));
    }

    /// Valid rows between two refused ones, for the rows that follow; `None`: none was refused here.
    pub(super) fn usual(&self) -> Option<usize> {
        self.usual.filter(|_| !self.refused.is_empty())
    }

    /// The refused rows, in order.
    pub(super) fn into_refused(self) -> Vec<(usize, R)> {
        self.refused
    }
}

fn piece_rows(usual: usize) -> usize {
    usual.saturating_mul(2).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random::Random;

    /// What a piece is told of the first row that is refused in it.
    #[derive(Debug, Clone, Copy)]
    enum Names {
        Always,
        Never,
        /// Every other answer names the last row of the piece instead.
        Wrongly,
    }

    #[derive(Debug, PartialEq)]
    struct Run {
        stored: Vec<usize>,
        refused: Vec<usize>,
        /// Pieces, and the rows in them.
        asked: usize,
        sent: usize,
    }

    /// Plays a store that refuses the rows `bad`.
    fn run(rows: usize, bad: &[usize], names: Names, usual: Option<usize>) -> Run {
        let mut pieces = Pieces::of(rows, usual);
        let (mut stored, mut asked, mut sent) = (Vec::new(), 0, 0);
        while let Some(piece) = pieces.next() {
            asked += 1;
            sent += piece.len();
            assert!(asked <= 100 * rows + 100, "no end: {pieces:?}");
            let line = match (piece.clone().find(|row| bad.contains(row)), names) {
                (None, _) => {
                    stored.extend(piece.clone());
                    pieces.stored(&piece);
                    continue;
                }
                (Some(row), Names::Always) => Some(row - piece.start),
                (Some(_), Names::Wrongly) if asked % 2 == 0 => Some(piece.len() - 1),
                (Some(_), _) => None,
            };
            pieces.refused(&piece, line, ());
        }
        let refused = pieces.into_refused().into_iter().map(|(row, ())| row).collect();
        Run { stored, refused, asked, sent }
    }

    #[test]
    fn a_named_row_in_a_hundred_costs_two_pieces() {
        let bad: Vec<usize> = (99..10_000).step_by(100).collect();
        let Run { refused, asked, sent, .. } = run(10_000, &bad, Names::Always, Some(99));
        assert_eq!(refused, bad);
        assert!(asked <= 2 * bad.len(), "{asked} pieces");
        assert!(sent <= 3 * 10_000, "{sent} rows");
    }

    #[test]
    fn named_rows_at_random_cost_hardly_more() {
        let mut random = Random::seeded(1);
        let bad: Vec<usize> = (0..100_000).filter(|_| random.next_u64() % 100 == 0).collect();
        let Run { refused, asked, sent, .. } = run(100_000, &bad, Names::Always, None);
        assert_eq!(refused, bad);
        assert!(asked <= 3 * bad.len(), "{asked} pieces for {} rows", bad.len());
        assert!(sent <= 9 * 100_000 / 2, "{sent} rows");
    }

    #[test]
    fn rows_that_are_all_refused_are_asked_for_one_by_one() {
        let bad: Vec<usize> = (0..1000).collect();
        for (names, usual) in [(Names::Always, None), (Names::Never, None), (Names::Always, Some(500))] {
            let Run { stored, refused, asked, sent } = run(1000, &bad, names, usual);
            assert_eq!((stored, refused), (vec![], bad.clone()));
            assert!(asked <= 1000 + 11, "{asked} pieces");
            assert!(sent <= 4 * 1000, "{sent} rows");
        }
    }

    #[test]
    fn a_named_row_is_refused_only_if_what_is_before_it_is_stored() {
        let mut pieces = Pieces::of(10, None);
        assert_eq!(pieces.next(), Some(0..10));
        pieces.refused(&(0..10), Some(6), "first");
        assert_eq!(pieces.next(), Some(0..6));
        pieces.refused(&(0..6), Some(2), "second");
        assert_eq!(pieces.next(), Some(0..2));
        pieces.stored(&(0..2));
        assert_eq!(pieces.next(), Some(3..6));
        pieces.stored(&(3..6));
        assert_eq!(pieces.next(), Some(6..10), "once more");
        pieces.stored(&(6..10));
        assert_eq!(pieces.next(), None);
        assert_eq!(pieces.usual(), Some(2));
        assert_eq!(pieces.into_refused(), [(2, "second")]);
    }

    #[test]
    fn a_row_that_is_not_of_the_piece_is_not_believed() {
        for line in [4, usize::MAX] {
            let mut pieces = Pieces::of(4, None);
            pieces.refused(&(0..4), Some(line), ());
            assert_eq!(pieces.next(), Some(0..2));
            pieces.stored(&(0..2));
            assert_eq!(pieces.next(), Some(2..4));
            pieces.refused(&(2..4), Some(line), ());
            assert_eq!(pieces.next(), Some(2..3));
        }
    }

    proptest! {
        #[test]
        fn stores_all_but_the_refused_rows_in_order(
            rows in 0usize..400,
            bad in prop::collection::btree_set(0usize..400, 0..40),
            names in prop::sample::select(vec![Names::Always, Names::Never, Names::Wrongly]),
            usual in prop::option::of(0usize..400),
        ) {
            let bad: Vec<usize> = bad.into_iter().filter(|row| *row < rows).collect();
            let Run { stored, refused, asked, .. } = run(rows, &bad, names, usual);
            prop_assert_eq!(stored, (0..rows).filter(|row| !bad.contains(row)).collect::<Vec<_>>());
            let depth = rows.max(1).next_power_of_two().ilog2() as usize + 1;
            prop_assert!(asked <= depth + bad.len() * (3 * depth + 3), "{} pieces, {} refused", asked, bad.len());
            prop_assert_eq!(refused, bad);
        }
    }
}
