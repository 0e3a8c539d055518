// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bitmaps of where runs begin: each word has 56 bits, and above them how many are set in those before it.
#![forbid(unsafe_code)]

use super::bits::{load, mask, Field, WORD};
use crate::exact::{self, Exact as _};
use core::num::NonZeroU64;

/// The bits of a word; those above are its rank.
pub(super) const BITS: u32 = 56;

/// The fields of the word before a bitmap of several words. With the base before it, it says all that is
/// needed to find the frame of a page: whoever comes from the directory reads no key.
pub(super) mod guide {
    use super::Field;

    /// The lowest bits of the first page of the group, counted from the first of the list.
    pub(in crate::sgl) const FIRST: Field = Field::new(32, 32);
    /// The words of the bitmap, less one.
    pub(in crate::sgl) const LAST_WORD: Field = Field::new(21, 4);
    /// The pages of a bit, as a power of two.
    pub(in crate::sgl) const UNIT: Field = Field::new(16, 5);
    /// Bits per start, as in the key.
    pub(in crate::sgl) const WIDTH: Field = Field::new(10, 6);
    /// Whether the pages of a cell of the directory that follow on the group are those of the next leaf.
    pub(in crate::sgl) const OPEN: Field = Field::new(9, 1);
    /// The number of the group in its leaf.
    pub(in crate::sgl) const GROUP: Field = Field::new(0, 9);
}

/// The most words of a bitmap: as many as have a bit for each page of 2 MiB.
pub(super) const MAX_WORDS: usize = 10;

/// How many words a bitmap has whose last bit is `last`; `None` if it would be too large.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "a bit of a bitmap")]
pub(super) const fn words_to(last: u64) -> Option<usize> {
    // Kernels of 32-bit machines do not divide 64 bits.
    if last >= bits_of(MAX_WORDS) as u64 {
        return None;
    }
    Some(exact::usize::plus(word_of(last as u32).0, 1))
}

/// How many bits a bitmap of so many words has.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "some words")]
pub(super) const fn bits_of(words: usize) -> u32 {
    exact::u32::times(words as u32, BITS)
}

/// The words before a bitmap of so many: with one, there is nothing to guide to.
#[inline]
pub(super) const fn guide_words(words: usize) -> usize {
    (words > 1) as usize
}

/// The word of a bitmap that has bit `bit`, and the number of its own first bit.
#[inline]
pub(super) const fn word_of(bit: u32) -> (usize, u32) {
    let word = match bit.checked_div(BITS) {
        Some(word) => word,
        None => 0,
    };
    (word as usize, exact::u32::times(word, BITS))
}

/// A word of a bitmap that has `before` bits in those before it.
#[inline]
pub(super) fn with_rank(bits: u64, before: u64) -> u64 {
    bits | before.shifted_up(BITS)
}

/// The bits of a word of a bitmap up to its bit `bit`, shifted to the top, and how many there are in all words
/// up to there, less one.
#[inline]
fn up_to(word: u64, bit: u32) -> (u64, usize) {
    let here = word.wrapping_shl(63u32.minus(bit));
    let count = word.shifted_down(BITS).plus(u64::from(here.count_ones()));
    #[expect(clippy::cast_possible_truncation, reason = "at most 255 and 56")]
    (here, count.saturating_sub(1) as usize)
}

/// The last bit that is set in a bitmap at byte `at`, from bit `bit` down: how many are set below it, and
/// its number.
#[inline]
pub(super) fn find_bit(leaf: &[u8], at: usize, bit: u32) -> (usize, u32) {
    let (mut word, mut first) = word_of(bit);
    let (mut here, index) = up_to(load(leaf, at.plus(word.times(WORD))), bit.minus(first));
    let mut last = bit;
    while here == 0 && word > 0 {
        word = word.minus(1);
        first = first.minus(BITS);
        last = first.plus(BITS.minus(1));
        here = load(leaf, at.plus(word.times(WORD))).wrapping_shl(63u32.minus(BITS.minus(1)));
    }
    (index, last.minus(here.leading_zeros() & 63))
}

/// The number of the first bit that is set behind bit `bit`, in a bitmap of `end` bits at byte `at`.
#[inline]
pub(super) fn next_bit(leaf: &[u8], at: usize, bit: u32, end: u32) -> Option<u32> {
    let (word, mut first) = word_of(bit);
    let mut at = at.plus(word.times(WORD));
    let mut bits = load(leaf, at) & mask(BITS) & behind(bit.minus(first));
    while bits == 0 {
        (at, first) = (at.plus(WORD), first.plus(BITS));
        if first >= end {
            return None;
        }
        bits = load(leaf, at) & mask(BITS);
    }
    Some(first.plus(bits.trailing_zeros()))
}

/// The bits of a word behind its bit `bit`.
#[inline]
pub(super) fn behind(bit: u32) -> u64 {
    u64::MAX.wrapping_shl(bit).wrapping_shl(1)
}

/// The bits of a bitmap from one of them on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bits {
    /// Those of the word at byte `at` that are still to come.
    bits: u64,
    at: usize,
    /// The byte of the last word; zero where there is no bitmap.
    last: usize,
    /// The number of the first bit of the word.
    first: u64,
}

impl Bits {
    pub(super) const NONE: Self = Self { bits: 0, at: 0, last: 0, first: 0 };

    /// Whether there is a bitmap.
    #[inline]
    pub(super) fn is_some(&self) -> bool {
        self.last != 0
    }

    /// Those behind bit `bit`, in a bitmap of so many words at byte `at`.
    #[inline]
    pub(super) fn behind(leaf: &[u8], at: usize, words: usize, bit: u64) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "a bitmap has at most 560 bits")]
        let bit = bit as u32;
        let last = at.plus(words.minus(1).times(WORD));
        let (word, first) = word_of(bit);
        let at = at.plus(word.times(WORD));
        let bits = load(leaf, at) & mask(BITS) & behind(bit.minus(first));
        Self { bits, at, last, first: u64::from(first) }
    }

    /// At the next word with bits, where this one has no more.
    #[inline]
    pub(super) fn at_next_word(mut self, leaf: &[u8]) -> Self {
        while self.bits == 0 && self.at < self.last {
            self.at = self.at.plus(WORD);
            self.bits = load(leaf, self.at) & mask(BITS);
            self.first = self.first.plus(u64::from(BITS));
        }
        self
    }

    /// Whether this word has no more.
    #[inline]
    pub(super) fn is_used_up(&self) -> bool {
        self.bits == 0
    }

    /// The number of the next one of this word.
    #[inline]
    pub(super) fn next_of_word(&mut self) -> Option<u64> {
        let bits = NonZeroU64::new(self.bits)?;
        self.bits &= self.bits.wrapping_sub(1);
        Some(self.first.plus(u64::from(bits.trailing_zeros())))
    }
}
