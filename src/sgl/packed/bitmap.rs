// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bitmaps of where runs begin: a word before one of several words counts the bits before each.
#![forbid(unsafe_code)]

use super::bits::{load, WORD};
use crate::exact::Exact as _;

/// The words before a bitmap of so many: with one, there is nothing to count.
#[inline]
pub(super) const fn rank_words(words: usize) -> usize {
    (words > 1) as usize
}

/// The last bit that is set in a bitmap at byte `at`, from bit `bit` down: how many are set below it, and
/// its number.
#[inline]
pub(super) fn find_bit(leaf: &[u8], at: usize, bit: u32) -> (usize, u32) {
    let bits = |word: u32| load(leaf, at.plus((word as usize).times(WORD)));
    let mut word = bit >> 6;
    // The first word has no rank, and what lies before a word that is alone is none.
    let ranks = load(leaf, at.minus(WORD)).wrapping_shl(8);
    let before = ranks.shifted_down(word.times(8)) & 0xff;
    // Those up to `bit` are shifted to the top.
    let mut here = bits(word).wrapping_shl(63u32.minus(bit & 63));
    let index = before.plus(u64::from(here.count_ones())).saturating_sub(1);
    let mut last = bit;
    while here == 0 && word > 0 {
        last = word.times(64).minus(1);
        word = word.minus(1);
        here = bits(word);
    }
    (index as usize, last.minus(here.leading_zeros() & 63))
}

/// The bits of a bitmap from one of them on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bits {
    /// Those of the word at byte `at` that are still to come.
    bits: u64,
    /// Zero where there is no bitmap.
    at: usize,
    /// The number of the first bit of that word.
    first: u64,
}

impl Bits {
    pub(super) const NONE: Self = Self { bits: 0, at: 0, first: 0 };

    /// Whether there is a bitmap.
    #[inline]
    pub(super) fn is_some(&self) -> bool {
        self.at != 0
    }

    /// Those behind bit `bit`, in a bitmap at byte `at`.
    #[inline]
    pub(super) fn behind(leaf: &[u8], at: usize, bit: u64) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "a bitmap has at most 512 bits")]
        let bit = bit as u32;
        let at = at.plus(((bit >> 6) as usize).times(WORD));
        let behind = u64::MAX.wrapping_shl(bit & 63).wrapping_shl(1);
        Self { bits: load(leaf, at) & behind, at, first: u64::from(bit & !63) }
    }

    /// At the next word with bits. By value, and apart: the loops around it stay small and in registers.
    #[inline(never)]
    fn at_next_word(mut self, leaf: &[u8]) -> Self {
        while self.bits == 0 && self.at < leaf.len() {
            self.at = self.at.plus(WORD);
            self.bits = load(leaf, self.at);
            self.first = self.first.plus(64);
        }
        self
    }

    /// The number of the next one; there must be one.
    #[inline]
    pub(super) fn next(&mut self, leaf: &[u8]) -> u64 {
        if self.bits == 0 {
            *self = self.at_next_word(leaf);
        }
        let bit = u64::from(self.bits.trailing_zeros());
        self.bits &= self.bits.wrapping_sub(1);
        self.first.plus(bit)
    }
}
