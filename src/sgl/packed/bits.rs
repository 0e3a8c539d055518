// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fields of bits: those with a name in a word, and those of one width in a row.
#![forbid(unsafe_code)]

use crate::exact::{self, Exact as _};
use core::slice::ChunksExactMut;

pub(super) const WORD: usize = 8;

/// A field of a word: `width` bits from bit `at` on.
#[derive(Clone, Copy)]
pub(super) struct Field {
    at: u32,
    width: u32,
}

impl Field {
    pub(super) const fn new(at: u32, width: u32) -> Self {
        Self { at, width }
    }

    /// The largest value.
    pub(super) const fn max(self) -> u64 {
        mask(self.width)
    }

    #[inline]
    pub(super) const fn get(self, word: u64) -> u64 {
        exact::u64::shifted_down(word, self.at) & mask(self.width)
    }

    /// The value of a field of at most 32 bits.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "at most 32 bits")]
    pub(super) const fn small(self, word: u64) -> u32 {
        self.get(word) as u32
    }

    /// The bits of a word that has `value` here, and zeros elsewhere.
    #[inline]
    pub(super) fn of(self, value: u64) -> u64 {
        debug_assert!(value <= self.max(), "the value does not fit in its field");
        value.shifted_up(self.at)
    }
}

/// The lowest `width` bits; `width` is below 64.
#[inline]
pub(in crate::sgl) const fn mask(width: u32) -> u64 {
    exact::u64::minus(exact::u64::shifted_up(1, width), 1)
}

/// How many bits `value` needs.
#[inline]
pub(super) const fn significant(value: u64) -> u32 {
    exact::u32::minus(64, value.leading_zeros())
}

/// The words that `count` fields of `width` bits take; `count` is at most 2048.
#[inline]
pub(super) const fn words(count: usize, width: u32) -> usize {
    exact::usize::plus(exact::usize::times(count, width as usize), 63) >> 6
}

/// Eight bytes from `at`, the last eight at the most: bytes come from a leaf, positions from its
/// keys, and to clamp a position costs less than to check it.
#[inline]
pub(in crate::sgl) fn load(leaf: &[u8], at: usize) -> u64 {
    let Some(last) = leaf.len().checked_sub(WORD) else {
        return 0;
    };
    let at = at.min(last);
    let bytes = leaf.get(at..at.plus(WORD)).and_then(<[u8]>::first_chunk);
    bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[inline]
pub(super) fn store(leaf: &mut [u8], at: usize, word: u64) {
    if let Some(bytes) = leaf.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *bytes = word.to_le_bytes();
    }
}

/// Fields of bits that are written one after another, a word at a time.
struct Words<'a> {
    out: ChunksExactMut<'a, u8>,
    word: u64,
    filled: u32,
}

impl Words<'_> {
    /// Adds a value of `width` bits, 1 to 63.
    #[inline]
    fn push(&mut self, value: u64, width: u32) {
        self.word |= value.wrapping_shl(self.filled);
        self.filled = self.filled.plus(width);
        if self.filled >= 64 {
            self.store();
            self.filled = self.filled.minus(64);
            // The upper `filled` bits of the value are left over.
            self.word = value.wrapping_shr(width.wrapping_sub(self.filled));
        }
    }

    #[inline]
    fn store(&mut self) {
        if let Some(bytes) = self.out.next().and_then(<[u8]>::first_chunk_mut) {
            *bytes = self.word.to_le_bytes();
        }
    }
}

/// Writes fields of `width` bits one after another, behind `before` of them in a part that begins at byte `at`.
#[inline]
pub(super) fn pack(
    leaf: &mut [u8],
    at: usize,
    before: usize,
    width: u32,
    mut values: impl Iterator<Item = u64>,
) {
    if width == 0 {
        return;
    }
    let bit = before.times(width as usize);
    let at = at.plus((bit >> 6).times(WORD));
    #[expect(clippy::cast_possible_truncation, reason = "below 64")]
    let filled = (bit & 63) as u32;
    // What lies behind them in their last word was never written.
    let word = if filled == 0 { 0 } else { load(leaf, at) & mask(filled) };
    let out = leaf.get_mut(at..).unwrap_or(&mut []).chunks_exact_mut(WORD);
    let mut words = Words { out, word, filled };
    // Two narrow fields are one wide one: half as many steps.
    if width < 32 {
        while let Some(first) = values.next() {
            match values.next() {
                Some(second) => {
                    words.push(first | second.shifted_up(width), width.times(2));
                }
                None => words.push(first, width),
            }
        }
    } else {
        values.for_each(|value| words.push(value, width));
    }
    if words.filled > 0 {
        words.store();
    }
}

/// Reads fields of one part, from one of them on, each as a multiple of `2^shift`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields {
    bit: usize,
    width: usize,
    shift: u32,
    /// The bits that a value may have, shifted.
    mask: u64,
}

impl Fields {
    pub(super) const NONE: Self = Self { bit: 0, width: 0, shift: 0, mask: 0 };

    /// From field `index` on, of the part that begins at byte `at`.
    #[inline]
    pub(super) fn from(at: usize, index: usize, width: u32, shift: u32) -> Self {
        let bit = at.times(8).plus(index.times(width as usize));
        Self { bit, width: width as usize, shift, mask: mask(width).shifted_up(shift) }
    }

    #[inline]
    pub(super) fn next(&mut self, leaf: &[u8]) -> u64 {
        // An eighth of a number is far from wrapping, so one comparison checks the range.
        let at = self.bit >> 3;
        let bytes = leaf.get(at..at.plus(WORD)).and_then(<[u8]>::first_chunk);
        let word = bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes));
        #[expect(clippy::cast_possible_truncation, reason = "below 8")]
        let below = (self.bit & 7) as u32;
        self.bit = self.bit.plus(self.width);
        // Down to its first bit and up by the shift, at once: nothing of the field goes round.
        word.rotate_left(self.shift.wrapping_sub(below)) & self.mask
    }
}
