//! Runs of free pages in the pool's map.

use std::ops::Range;

/// The words that have bits of these pages, each with those bits.
pub(super) fn bits(range: Range<usize>) -> impl Iterator<Item = (usize, u64)> {
    let mut page = range.start;
    std::iter::from_fn(move || {
        if page >= range.end {
            return None;
        }
        let (word, bit) = (page / 64, page % 64);
        let count = (64 - bit).min(range.end - page);
        page += count;
        let mask = if count == 64 { u64::MAX } else { ((1u64 << count) - 1) << bit };
        Some((word, mask))
    })
}

/// The runs of set bits `within` a range of pages, in order. `word` returns 64 pages of the map. A run ends early once it
/// has `enough` pages; the next one then begins where it ended.
pub(super) fn runs(
    word: impl Fn(usize) -> u64,
    within: Range<usize>,
    enough: usize,
) -> impl Iterator<Item = Range<usize>> {
    let mut page = within.start;
    std::iter::from_fn(move || {
        let mut start = page;
        while page < within.end {
            let rest = word(page / 64) >> (page % 64);
            if rest & 1 == 0 {
                if page > start {
                    return Some(start..page);
                }
                page += if rest == 0 { 64 - page % 64 } else { rest.trailing_zeros() as usize };
                start = page;
                continue;
            }
            page = (page + (!rest).trailing_zeros() as usize).min(within.end);
            if page - start >= enough {
                return Some(start..page);
            }
        }
        (page > start).then_some(start..page)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_those_of_a_search_bit_by_bit() {
        let words = [0xF0F0_0000_0000_00FF, u64::MAX, 0x8000_0000_0000_0001, 0, u64::MAX << 63];
        let is_free = |page: usize| words[page / 64] >> (page % 64) & 1 == 1;
        for start in (0..320).step_by(7) {
            for end in (start..=320).step_by(5) {
                let found: Vec<_> = runs(|word| words[word], start..end, usize::MAX).collect();
                let pages: Vec<_> = found.iter().cloned().flatten().collect();
                assert_eq!(pages, (start..end).filter(|page| is_free(*page)).collect::<Vec<_>>(), "{start}..{end}");
                assert!(found.windows(2).all(|two| two[0].end < two[1].start), "each run is whole: {found:?}");
            }
        }
        let enough: Vec<_> = runs(|word| words[word], 0..320, 70).map(|run| run.start).collect();
        assert_eq!(enough, [0, 52, 60, 191, 319], "a run with enough pages ends in the word that completes it");
    }
}
