//! Finds the rows that PostgreSQL refuses, by storing the others in pieces. No SQL here: pieces go out, answers come in.
//!
//! ```text
//!  try 1..10: refused, row 4 ─▶ try 5..14: refused, row 9 ─▶ … ─▶ store 1..3, 5..8, …: accepted, so 4, 9, … are refused
//! ```
//!
//! **A row is refused** if the store names it and accepts all rows before it. An error about row n is raised when at most the
//! rows up to n were looked at: where those before n are accepted, it is n. So a named row is a suspect, what follows it is
//! tried, and then what lies between the suspects is stored at once. Several suspects are collected only where the
//! reason depends on the row alone: a trigger may look for rows that are not stored yet. If what lies between several is
//! refused, its rows are tried again, with one suspect at a time. Where an answer names no row, the piece is halved, down to
//! a row that is refused alone.
//!
//! **The length** of a piece is twice the usual number of rows between two that are refused, and doubles with each piece that
//! is accepted: where refused rows are many, little is sent in vain.

use std::iter;
use std::ops::Range;

use crate::limits::REFUSED_GROUP_ROWS_MAX;

/// The rows that are neither stored nor refused yet, and why others are refused: for a reason `R`.
#[derive(Debug)]
pub(super) struct Pieces<R> {
    rows: usize,
    /// The first row that is neither stored nor refused.
    open_from: usize,
    /// The first row that is still to be tried. Those from `open_from` on are accepted, or suspects.
    next: usize,
    /// In order: refused once everything between them is stored. The first one is not `open_from`.
    suspects: Vec<(usize, R)>,
    /// What lies between the suspects is stored before another row is tried.
    is_closing: bool,
    /// One suspect at a time.
    is_strict: bool,
    /// Where pieces end, in descending order: the last one is nearest.
    cuts: Vec<usize>,
    /// Rows that a piece may have.
    rows_max: usize,
    /// Valid rows between two refused ones; `None`: no row was refused yet.
    usual: Option<usize>,
    /// The first row after the last one that is refused or a suspect.
    sound_from: usize,
    refused: Vec<(usize, R)>,
}

/// What to ask the store for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// Without the suspects among them, see [`Pieces::stretches`].
    pub rows: Range<usize>,
    /// Whether they stay stored if they are accepted; else they are rolled back.
    pub is_kept: bool,
}

/// Which row of a piece a refusal names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    /// None.
    Nothing,
    /// The one with this number, from 0 on; what is stored before it may be a part of the reason.
    Row(usize),
    /// As `Row`; the reason stays the same, whatever else is stored.
    RowAlone(usize),
}

impl<R> Pieces<R> {
    /// Of so many rows. `usual`: what [`Pieces::usual`] was for the rows before them.
    pub(super) fn of(rows: usize, usual: Option<usize>) -> Self {
        Self {
            rows,
            open_from: 0,
            next: 0,
            suspects: Vec::new(),
            is_closing: false,
            is_strict: false,
            cuts: Vec::new(),
            rows_max: usual.map_or(rows, piece_rows),
            usual,
            sound_from: 0,
            refused: Vec::new(),
        }
    }

    /// What to ask for next; `None`: every row is stored or refused. Answer with [`Pieces::accepted`] or
    /// [`Pieces::refused`].
    pub(super) fn next(&mut self) -> Option<Piece> {
        let has_suspects = !self.suspects.is_empty();
        if has_suspects && (self.is_closing || self.next >= self.rows) {
            return Some(Piece { rows: self.open_from..self.next, is_kept: true });
        }
        while self.cuts.pop_if(|cut| *cut <= self.next).is_some() {}
        let end = self.cuts.last().map_or(self.rows, |cut| *cut);
        let end = end.min(self.next.saturating_add(self.rows_max));
        (self.next < end).then_some(Piece { rows: self.next..end, is_kept: !has_suspects })
    }

    /// The rows of the piece that the store is asked for: those that are not suspects.
    pub(super) fn stretches(&self, piece: &Piece) -> Vec<Range<usize>> {
        let suspects = || self.suspects.iter().map(|(row, _)| *row).filter(|row| piece.rows.contains(row));
        let starts = iter::once(piece.rows.start).chain(suspects().map(|row| row + 1));
        let ends = suspects().chain(iter::once(piece.rows.end));
        starts.zip(ends).map(|(start, end)| start..end).filter(|rows| !rows.is_empty()).collect()
    }

    /// The store accepts the piece.
    pub(super) fn accepted(&mut self, piece: &Piece) {
        self.next = piece.rows.end;
        self.is_closing = !piece.is_kept;
        if self.suspects.is_empty() || !piece.is_kept {
            self.rows_max = self.rows_max.saturating_mul(2);
        }
        if piece.is_kept {
            self.open_from = piece.rows.end;
            self.refused.append(&mut self.suspects);
        }
    }

    /// The store refuses the piece for this reason.
    pub(super) fn refused(&mut self, piece: &Piece, named: Named, reason: R) {
        let mut rows = piece.rows.clone();
        let row = |line| rows.start.checked_add(line).filter(|row| rows.contains(row));
        let (row, is_alone) = match named {
            Named::Nothing => (None, false),
            Named::Row(line) => (row(line), false),
            Named::RowAlone(line) => (row(line), true),
        };
        if !self.suspects.is_empty() && !piece.is_kept {
            match row.filter(|_| is_alone) {
                Some(row) => self.suspect(row, reason, true),
                // It is tried again, once everything before it is stored.
                None => self.is_closing = true,
            }
            return;
        }
        if let Some(first) = self.forget_suspects() {
            // What comes before the first suspect is one stretch, so that the number of its row is known.
            if first + 1 < rows.end {
                return;
            }
            rows.end = first;
        }
        match row.filter(|row| rows.contains(row)) {
            Some(row) => self.suspect(row, reason, is_alone),
            None if rows.len() > 1 => self.cuts.push(rows.start + rows.len() / 2),
            None => self.suspect(rows.start, reason, false),
        }
    }

    /// What lies between the suspects is refused: begins again before the first one, and returns it.
    fn forget_suspects(&mut self) -> Option<usize> {
        let first = self.suspects.first().map(|(row, _)| *row)?;
        self.suspects.clear();
        self.cuts.push(first);
        self.next = self.open_from;
        self.sound_from = self.sound_from.min(self.open_from);
        self.is_closing = false;
        self.is_strict = true;
        Some(first)
    }

    /// `row` is refused if everything before it is accepted. `is_alone`: whatever else is.
    fn suspect(&mut self, row: usize, reason: R, is_alone: bool) {
        let rows = row.saturating_sub(self.sound_from);
        // One short or long stretch does not change it much, several do.
        let usual = self.usual.map_or(rows, |usual| (usual + rows) / 2);
        self.rows_max = piece_rows(usual);
        self.usual = Some(usual);
        self.next = row + 1;
        self.sound_from = self.next;
        if row == self.open_from {
            self.open_from = self.next;
            self.refused.push((row, reason));
            return;
        }
        self.suspects.push((row, reason));
        let group = (self.next - self.open_from).saturating_add(self.rows_max);
        self.is_closing = self.is_strict || !is_alone || group > REFUSED_GROUP_ROWS_MAX;
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
#[allow(clippy::single_range_in_vec_init)] // a piece of one stretch is meant as a list of one range
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random::Random;

    /// What a piece is told of the first row that is refused in it.
    #[derive(Debug, Clone, Copy)]
    enum Names {
        /// Alone.
        Alone,
        /// Beside what is stored before it.
        Beside,
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
            let of_piece: Vec<usize> = pieces.stretches(&piece).into_iter().flatten().collect();
            asked += 1;
            sent += of_piece.len();
            assert!(asked <= 100 * rows + 100, "no end: {pieces:?}");
            let named = match (of_piece.iter().position(|row| bad.contains(row)), names) {
                (None, _) => {
                    if piece.is_kept {
                        stored.extend(of_piece);
                    }
                    pieces.accepted(&piece);
                    continue;
                }
                (Some(line), Names::Alone) => Named::RowAlone(line),
                (Some(line), Names::Beside) => Named::Row(line),
                (Some(_), Names::Wrongly) if asked % 2 == 0 => Named::RowAlone(of_piece.len() - 1),
                (Some(_), _) => Named::Nothing,
            };
            pieces.refused(&piece, named, ());
        }
        let refused = pieces.into_refused().into_iter().map(|(row, ())| row).collect();
        Run { stored, refused, asked, sent }
    }

    #[test]
    fn a_named_row_in_a_hundred_costs_little_more_than_one_piece() {
        let bad: Vec<usize> = (99..10_000).step_by(100).collect();
        for (names, pieces) in [(Names::Alone, bad.len() + 10), (Names::Beside, 2 * bad.len())] {
            let Run { refused, asked, sent, .. } = run(10_000, &bad, names, Some(99));
            assert_eq!(refused, bad);
            assert!(asked <= pieces, "{asked} pieces");
            assert!(sent <= 3 * 10_000, "{sent} rows");
        }
    }

    #[test]
    fn named_rows_at_random_cost_hardly_more() {
        let mut random = Random::seeded(1);
        let bad: Vec<usize> = (0..100_000).filter(|_| random.next_u64().is_multiple_of(100)).collect();
        let Run { refused, asked, sent, .. } = run(100_000, &bad, Names::Alone, None);
        assert_eq!(refused, bad);
        assert!(asked <= 2 * bad.len(), "{asked} pieces for {} rows", bad.len());
        assert!(sent <= 5 * 100_000, "{sent} rows");
    }

    #[test]
    fn rows_that_are_all_refused_are_asked_for_one_by_one() {
        let bad: Vec<usize> = (0..1000).collect();
        for (names, usual) in
            [(Names::Alone, None), (Names::Beside, None), (Names::Never, None), (Names::Alone, Some(500))]
        {
            let Run { stored, refused, asked, sent } = run(1000, &bad, names, usual);
            assert_eq!((stored, refused), (vec![], bad.clone()));
            assert!(asked <= 1000 + 11, "{asked} pieces");
            assert!(sent <= 4 * 1000, "{sent} rows");
        }
    }

    /// The next piece, as its rows without suspects, and whether it is kept.
    fn ask<R>(pieces: &mut Pieces<R>) -> Option<(Piece, Vec<Range<usize>>, bool)> {
        let piece = pieces.next()?;
        let (stretches, is_kept) = (pieces.stretches(&piece), piece.is_kept);
        Some((piece, stretches, is_kept))
    }

    #[track_caller]
    fn asked<R>(pieces: &mut Pieces<R>, stretches: &[Range<usize>], is_kept: bool) -> Piece {
        let (piece, found, kept) = ask(pieces).expect("a piece");
        assert_eq!((&found[..], kept), (stretches, is_kept));
        piece
    }

    #[test]
    fn a_named_row_is_refused_only_if_what_is_before_it_is_stored() {
        let mut pieces = Pieces::of(10, None);
        let whole = asked(&mut pieces, &[0..10], true);
        pieces.refused(&whole, Named::Row(6), "first");
        let before = asked(&mut pieces, &[0..6], true);
        pieces.refused(&before, Named::Row(2), "second");
        for stored in [0..2, 3..6, 6..10] {
            let piece = asked(&mut pieces, &[stored], true);
            pieces.accepted(&piece);
        }
        assert_eq!(pieces.next(), None);
        assert_eq!(pieces.usual(), Some(4));
        assert_eq!(pieces.into_refused(), [(2, "second")]);
    }

    #[test]
    fn several_suspects_are_refused_once_what_lies_between_is_stored() {
        let mut pieces = Pieces::of(20, Some(4));
        let piece = asked(&mut pieces, &[0..8], true);
        pieces.refused(&piece, Named::RowAlone(3), "first");
        let piece = asked(&mut pieces, &[4..10], false);
        pieces.refused(&piece, Named::RowAlone(2), "second");
        let piece = asked(&mut pieces, &[7..11], false);
        pieces.refused(&piece, Named::Row(1), "perhaps because of what is not stored yet");
        let piece = asked(&mut pieces, &[0..3, 4..6], true);
        pieces.accepted(&piece);
        let piece = asked(&mut pieces, &[7..11], true);
        pieces.refused(&piece, Named::RowAlone(0), "third");
        let piece = asked(&mut pieces, &[8..10], true);
        pieces.refused(&piece, Named::RowAlone(1), "fourth");
        let piece = asked(&mut pieces, &[10..12], false);
        pieces.accepted(&piece);
        let piece = asked(&mut pieces, &[8..9, 10..12], true);
        pieces.refused(&piece, Named::RowAlone(1), "row 10, beside row 8");
        let piece = asked(&mut pieces, &[8..9], true);
        pieces.accepted(&piece);
        let piece = asked(&mut pieces, &[9..17], true);
        pieces.accepted(&piece);
        let piece = asked(&mut pieces, &[17..20], true);
        pieces.accepted(&piece);
        assert_eq!(pieces.next(), None);
        assert_eq!(pieces.into_refused(), [(3, "first"), (6, "second"), (7, "third")]);
    }

    #[test]
    fn a_row_that_is_not_of_the_piece_is_not_believed() {
        for line in [4, usize::MAX] {
            let mut pieces = Pieces::of(4, None);
            let piece = asked(&mut pieces, &[0..4], true);
            pieces.refused(&piece, Named::RowAlone(line), ());
            let piece = asked(&mut pieces, &[0..2], true);
            pieces.accepted(&piece);
            let piece = asked(&mut pieces, &[2..4], true);
            pieces.refused(&piece, Named::RowAlone(line), ());
            asked(&mut pieces, &[2..3], true);
        }
    }

    proptest! {
        #[test]
        fn stores_all_but_the_refused_rows_in_order(
            rows in 0usize..400,
            bad in prop::collection::btree_set(0usize..400, 0..40),
            names in prop::sample::select(vec![Names::Alone, Names::Beside, Names::Never, Names::Wrongly]),
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
