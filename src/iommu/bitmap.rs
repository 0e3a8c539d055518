// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`DirtyBitmap`]: which pages of a range devices have written.
//!
//! ```text
//!  range          ├────────────────────────────────┤
//!  pages      ├───────┼───────┼───────┼───────┼───────┤    of a size of the caller's choice
//!  bits           0       1       2       3       4
//! ```
#![forbid(unsafe_code)]

use crate::addr::Iova;
use crate::exact::{self, Exact as _};
use crate::iova_range::IovaRange;
use crate::page_size::PageSize;
use core::fmt;

const WORD_LOG2: u32 = u64::BITS.trailing_zeros();

/// A bit for each page of a range of addresses; bit `n` is bit `n % 64` of word `n / 64`.
///
/// The pages are those of the caller: smaller or larger than the pages of the IOMMU. A bit is set if
/// any byte of its page may have been written.
#[derive(Debug)]
pub struct DirtyBitmap<'a> {
    words: &'a mut [u64],
    range: IovaRange,
    page: PageSize,
}

impl<'a> DirtyBitmap<'a> {
    /// A bitmap for the pages of `range`, in `words`, whose bits are kept: set what is not wanted to
    /// zero before.
    ///
    /// # Errors
    ///
    /// [`BitmapTooSmall`] if there are not enough words.
    pub fn new(
        words: &'a mut [u64],
        range: IovaRange,
        page: PageSize,
    ) -> Result<Self, BitmapTooSmall> {
        let needed = Self::words_for(range, page);
        let given = words.len() as u64;
        if given < needed {
            return Err(BitmapTooSmall { needed, given });
        }
        Ok(Self { words, range, page })
    }

    /// How many words the pages of `range` need.
    #[must_use]
    pub const fn words_for(range: IovaRange, page: PageSize) -> u64 {
        exact::u64::plus(bit(range, page, range.last()) >> WORD_LOG2, 1)
    }

    /// The addresses that have a bit.
    #[must_use]
    pub const fn range(&self) -> IovaRange {
        self.range
    }

    /// The size of a page.
    #[must_use]
    pub const fn page_size(&self) -> PageSize {
        self.page
    }

    /// Sets the bits of all pages that have a byte of `written`.
    pub fn set(&mut self, written: IovaRange) {
        let Some(here) = self.range.intersection(&written) else {
            return;
        };
        let first = bit(self.range, self.page, here.first());
        let last = bit(self.range, self.page, here.last());
        let word_of = |bit: u64| usize::try_from(bit.shifted_down(WORD_LOG2)).unwrap_or(usize::MAX);
        let (from, to) = (word_of(first), word_of(last));
        let head = u64::MAX.wrapping_shl(low(first));
        let tail = u64::MAX.shifted_down(63u32.minus(low(last)));
        match self.words.get_mut(from..=to) {
            Some([only]) => *only |= head & tail,
            Some([begin, between @ .., end]) => {
                *begin |= head;
                between.fill(u64::MAX);
                *end |= tail;
            }
            // There are words for the whole range.
            Some([]) | None => {}
        }
    }

    /// Whether the page of `iova` was written; false outside of the range.
    #[must_use]
    pub fn is_set(&self, iova: Iova) -> bool {
        if !self.range.contains(iova) {
            return false;
        }
        let bit = bit(self.range, self.page, iova);
        let word = usize::try_from(bit.shifted_down(WORD_LOG2));
        let word = word.ok().and_then(|word| self.words.get(word));
        word.is_some_and(|word| word.shifted_down(low(bit)) & 1 != 0)
    }

    /// How many bits are set.
    #[must_use]
    pub fn count(&self) -> u64 {
        let words = usize::try_from(Self::words_for(self.range, self.page)).unwrap_or(usize::MAX);
        let ones = self.words.iter().take(words).map(|word| u64::from(word.count_ones()));
        ones.fold(0, u64::plus)
    }
}

/// The bit of a page, which lies in the range.
const fn bit(range: IovaRange, page: PageSize, iova: Iova) -> u64 {
    let first = exact::u64::shifted_down(range.first().get(), page.shift());
    exact::u64::minus(exact::u64::shifted_down(iova.get(), page.shift()), first)
}

/// The place of a bit in its word.
const fn low(bit: u64) -> u32 {
    (bit & 63) as u32
}

/// A bitmap has not enough words for its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BitmapTooSmall {
    /// The words that it needs.
    pub needed: u64,
    /// The words that were given.
    pub given: u64,
}

impl fmt::Display for BitmapTooSmall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the bitmap needs {} words and has {}", self.needed, self.given)
    }
}

impl core::error::Error for BitmapTooSmall {}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Every range of bytes, against a bit for each.
    #[test]
    fn bits_are_those_of_the_pages_that_are_touched() {
        for (first, last) in [(0, 700), (37, 699), (64, 64), (u64::MAX - 690, u64::MAX)] {
            let range = IovaRange::inclusive(Iova::new(first), Iova::new(last)).unwrap();
            for shift in [0, 1, 3, 7, 12] {
                let page = PageSize::from_shift(shift).unwrap();
                let mut words = [0; 12];
                let needed = DirtyBitmap::words_for(range, page) as usize;
                assert!(DirtyBitmap::new(&mut words[..needed - 1], range, page).is_err());
                for from in (first..=last).step_by(61) {
                    for to in (from..=last).step_by(67) {
                        words.fill(0);
                        let mut map = DirtyBitmap::new(&mut words, range, page).unwrap();
                        let written = IovaRange::inclusive(Iova::new(from), Iova::new(to)).unwrap();
                        map.set(written);
                        let pages = (from >> shift)..=(to >> shift);
                        assert_eq!(map.count(), pages.end() - pages.start() + 1);
                        for at in first..=last {
                            let expected = pages.contains(&(at >> shift));
                            assert_eq!(map.is_set(Iova::new(at)), expected, "{at:#x} {from:#x}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_lies_outside_is_left_alone() {
        let range = IovaRange::new(Iova::new(0x1000), 0x4000).unwrap();
        let mut words = [0; 2];
        let mut map = DirtyBitmap::new(&mut words, range, PageSize::SIZE_4K).unwrap();
        map.set(IovaRange::ALL);
        assert_eq!(map.count(), 4);
        assert!(!map.is_set(Iova::new(0xfff)) && !map.is_set(Iova::new(0x5000)));
        map.set(IovaRange::new(Iova::new(0x9000), 1).unwrap());
        assert_eq!((map.count(), words), (4, [0xf, 0]));
    }
}
