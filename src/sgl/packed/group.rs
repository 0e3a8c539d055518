// SPDX-License-Identifier: MIT OR Apache-2.0
//! A group: its key and base, where its fields lie, and how a run is found.
#![forbid(unsafe_code)]

use super::bitmap::{bits_of, find_bit, guide, guide_words, next_bit, words_to};
use super::bits::{load, mask, significant, store, words as words_of, Fields, WORD};
use super::{first_page, key_at, Frame};
use crate::exact::{self, Exact as _};
use crate::sgl::run::{MemoryKind, ProviderId};
use crate::sgl::search::last_at_most;
use core::ops::Range;

/// The codes of bitmaps of one word and of several, and the first of a shape that is uniform; those before
/// are widths of offsets.
const BITMAP: u32 = 33;
const BITMAPS: u32 = 34;
const UNIFORM: u32 = 35;

/// The fields of a key.
pub(super) mod key {
    use super::super::bits::Field;

    /// The first page, counted from the first of the leaf.
    pub(in crate::sgl) const FIRST: Field = Field::new(32, 32);
    /// The word of the leaf at which the payload begins.
    pub(in crate::sgl) const PAYLOAD: Field = Field::new(23, 9);
    /// The number of runs of one length, less one.
    pub(in crate::sgl) const LAST_RUN: Field = Field::new(12, 11);
    /// Where lengths differ, there are 64 runs at most, and the other bits say of how many pages all
    /// offsets are multiples, as a power of two.
    pub(in crate::sgl) const LAST_OF_FEW: Field = Field::new(12, 6);
    pub(in crate::sgl) const UNIT: Field = Field::new(18, 5);
    /// With a bitmap of several words, there are 255 runs at most.
    pub(in crate::sgl) const LAST_OF_SOME: Field = Field::new(12, 8);
    pub(in crate::sgl) const SHAPE: Field = Field::new(6, 6);
    /// Bits per start.
    pub(in crate::sgl) const WIDTH: Field = Field::new(0, 6);
}

/// The fields of the word before the offsets.
pub(super) mod base {
    use super::super::bits::Field;

    pub(in crate::sgl) const FRAME: Field = Field::new(10, 54);
    pub(in crate::sgl) const ALIGNMENT: Field = Field::new(5, 5);
    pub(in crate::sgl) const KIND: Field = Field::new(3, 2);
}

/// How the offsets of the runs of a group are kept, from its first page to theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// In fields of `width` bits, as multiples of `2^unit` pages.
    Offsets { width: u32, unit: u32 },
    /// As bits of so many words, one for `2^unit` pages. Before them, if there are several, a word
    /// [guides](guide) to the right bit.
    Bitmap { words: usize, unit: u32 },
    /// Not at all: all runs have `2^n` pages, for this `n`.
    Uniform(u32),
}

impl Shape {
    /// The largest run of a group without offsets, as its log2.
    pub(super) const MAX_UNIFORM: u32 = 63 - UNIFORM;
    pub(super) const MAX_UNIT: u32 = 31;
    /// The most runs that the ranks of a bitmap can count.
    pub(super) const MAX_IN_BITMAP: usize = 255;

    /// The smaller one for `count` runs, the last of which begins `last` units behind the first.
    #[inline]
    pub(super) fn smallest(count: usize, last: u64, unit: u32) -> Self {
        let width = significant(last);
        match words_to(last) {
            Some(words) if words <= words_of(count, width) => Self::Bitmap { words, unit },
            _ => Self::Offsets { width, unit },
        }
    }

    #[inline]
    pub(super) const fn words(self, count: usize) -> usize {
        match self {
            Self::Offsets { width, .. } => words_of(count, width),
            Self::Bitmap { words, .. } => exact::usize::plus(words, guide_words(words)),
            Self::Uniform(_) => 0,
        }
    }
}

/// How the runs of a group are kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) shape: Shape,
    /// No run starts below this frame.
    pub(super) base: u64,
    /// The distance of each start from the base is a multiple of `2^alignment`.
    pub(super) alignment: u32,
    /// Bits per start.
    pub(super) width: u32,
}

impl Layout {
    /// The words that `count` runs take.
    #[inline]
    pub(super) const fn words(&self, count: usize) -> usize {
        exact::usize::plus(self.shape.words(count), words_of(count, self.width))
    }

    /// No run starts above this frame.
    #[inline]
    pub(super) fn highest_start(&self) -> u64 {
        self.base.plus(mask(self.width).shifted_up(self.alignment))
    }

    #[inline]
    pub(super) fn with(self, shape: Shape) -> Self {
        Self { shape, ..self }
    }
}

/// A group of a leaf, its key and base taken apart.
#[derive(Clone, Copy, Debug)]
pub(in crate::sgl) struct Group {
    /// The first page, counted from the first of the leaf.
    pub(in crate::sgl) first: u64,
    /// How many runs.
    pub(in crate::sgl) count: usize,
    /// What all of its pages are made of.
    pub(in crate::sgl) kind: MemoryKind,
    pub(super) layout: Layout,
    /// The byte at which the payload begins.
    pub(super) at: usize,
    /// The byte at which the offsets begin, or the bitmap, which has its ranks before it.
    pub(super) offsets: usize,
    /// The byte at which the starts begin.
    pub(super) starts: usize,
}

impl Group {
    /// The words that a group takes beside its [layout](Layout::words): key, base, provider.
    #[inline]
    pub(super) const fn head_words(kind: MemoryKind) -> usize {
        exact::usize::plus(1, Self::base_words(kind))
    }

    /// The words of base and provider.
    #[inline]
    const fn base_words(kind: MemoryKind) -> usize {
        if matches!(kind, MemoryKind::Device(_)) {
            2
        } else {
            1
        }
    }

    #[inline]
    pub(super) fn new(
        first: u64,
        at: usize,
        count: usize,
        kind: MemoryKind,
        layout: Layout,
    ) -> Self {
        let guide = match layout.shape {
            Shape::Bitmap { words, .. } => guide_words(words),
            _ => 0,
        };
        let behind = at.plus(Self::head_words(kind).minus(1).times(WORD));
        let offsets = behind.plus(guide.times(WORD));
        let starts = behind.plus(layout.shape.words(count).times(WORD));
        Self { first, count, kind, layout, at, offsets, starts }
    }

    /// Takes a key and the base behind it apart. In line, as a call would pass all of it through memory.
    #[inline(always)]
    pub(super) fn read(leaf: &[u8], key: u64) -> Self {
        let at = (key::PAYLOAD.small(key) as usize).times(WORD);
        let word = load(leaf, at);
        let kind = kind_of(leaf, at, word);
        let unit = key::UNIT.small(key);
        let shape = match key::SHAPE.small(key) {
            BITMAPS => {
                let guide = load(leaf, at.plus(Self::base_words(kind).times(WORD)));
                let words = (guide::LAST_WORD.small(guide) as usize).plus(1);
                Shape::Bitmap { words, unit: guide::UNIT.small(guide) }
            }
            BITMAP => Shape::Bitmap { words: 1, unit },
            code => match code.checked_sub(UNIFORM) {
                Some(log2) => Shape::Uniform(log2),
                None => Shape::Offsets { width: code, unit },
            },
        };
        let layout = Layout {
            shape,
            base: base::FRAME.get(word),
            alignment: base::ALIGNMENT.small(word),
            width: key::WIDTH.small(key),
        };
        let (first, count) = Self::span(key);
        Self::new(first, at, count, kind, layout)
    }

    /// The first page of a group, counted from the first of the leaf, and how many runs it has.
    #[inline]
    pub(super) fn span(key: u64) -> (u64, usize) {
        let last = match key::SHAPE.small(key) {
            UNIFORM.. => key::LAST_RUN,
            BITMAPS => key::LAST_OF_SOME,
            _ => key::LAST_OF_FEW,
        };
        (key::FIRST.get(key), (last.small(key) as usize).plus(1))
    }

    /// The run of a leaf that has no other: its start frame, which is the base of its group, and what it is made of.
    #[inline]
    pub(super) fn only(leaf: &[u8], key: u64) -> (u64, MemoryKind) {
        debug_assert!(key::WIDTH.get(key) == 0, "a run that is alone lies at its base");
        let word = load(leaf, 0);
        (base::FRAME.get(word), kind_of(leaf, 0, word))
    }

    /// Writes the key of group `index`, which this is, the base, and the guide, if there is one.
    #[inline]
    pub(super) fn write_head(&self, leaf: &mut [u8], index: usize) {
        let Layout { shape, base, alignment, width } = self.layout;
        let last = self.count.minus(1) as u64;
        let few = |unit| key::LAST_OF_FEW.of(last) | key::UNIT.of(u64::from(unit));
        let (code, last) = match shape {
            Shape::Offsets { width, unit } => (width, few(unit)),
            Shape::Bitmap { words: 1, unit } => (BITMAP, few(unit)),
            Shape::Bitmap { .. } => (BITMAPS, key::LAST_OF_SOME.of(last)),
            Shape::Uniform(log2) => (log2.plus(UNIFORM), key::LAST_RUN.of(last)),
        };
        let key = key::FIRST.of(self.first)
            | key::PAYLOAD.of((self.at >> 3) as u64)
            | last
            | key::SHAPE.of(u64::from(code))
            | key::WIDTH.of(u64::from(width));
        store(leaf, key_at(leaf, index), key);
        let kind = match self.kind {
            MemoryKind::Ram => 0,
            MemoryKind::Mmio => 1,
            MemoryKind::Device(ProviderId(id)) => {
                store(leaf, self.at.plus(WORD), id);
                2
            }
        };
        let word =
            base::FRAME.of(base) | base::ALIGNMENT.of(u64::from(alignment)) | base::KIND.of(kind);
        store(leaf, self.at, word);
        if let Shape::Bitmap { words: words @ 2.., unit } = shape {
            let first = first_page(leaf).wrapping_add(self.first) & guide::FIRST.max();
            let word = guide::FIRST.of(first)
                | guide::LAST_WORD.of(words.minus(1) as u64)
                | guide::UNIT.of(u64::from(unit))
                | guide::WIDTH.of(u64::from(width))
                | guide::GROUP.of(index as u64);
            store(leaf, self.offsets.minus(WORD), word);
        }
    }

    /// The same runs, or the first `count` of them, with a bitmap of another size, or with room behind them
    /// for more than there were. What is in words that both have stays; neither head nor guide is written.
    pub(super) fn reshaped(&self, leaf: &mut [u8], shape: Shape, count: usize) -> Self {
        let new = Self::new(self.first, self.at, count, self.kind, self.layout.with(shape));
        let old_end = self.end();
        if new.starts >= self.starts {
            // The guide is inserted before the bitmap, and words behind it.
            let (guide, more) = (new.offsets.minus(self.offsets), new.starts.minus(self.starts));
            move_up(leaf, self.starts..old_end.plus(more), more);
            move_up(leaf, self.offsets..self.starts.plus(guide), guide);
        } else {
            let (guide, less) = (self.offsets.minus(new.offsets), self.starts.minus(new.starts));
            let kept = new.end().plus(less);
            move_down(leaf, new.offsets..new.starts.plus(guide), guide);
            move_down(leaf, new.starts..kept, less);
        }
        new
    }

    /// The byte at which to [look up](super::Direct) its pages without its key, of which it has `pages`.
    #[inline]
    pub(in crate::sgl) fn direct(&self, pages: u64) -> Option<usize> {
        let guided = matches!(self.layout.shape, Shape::Bitmap { words: 2.., .. });
        let near = !matches!(self.kind, MemoryKind::Device(_));
        (guided && near && pages <= guide::FIRST.max()).then_some(self.at)
    }

    /// The start frame of run `index`.
    #[inline]
    pub(in crate::sgl) fn start(&self, leaf: &[u8], index: usize) -> u64 {
        self.frame(leaf, index, 0).get()
    }

    /// The first page of the run behind one, which is given by its number and first page, both counted from the
    /// first of the group; `None` behind the last.
    #[inline]
    pub(in crate::sgl) fn next_offset(
        &self,
        leaf: &[u8],
        (index, offset): (usize, u64),
    ) -> Option<u64> {
        let next = index.plus(1);
        if next >= self.count {
            return None;
        }
        Some(match self.layout.shape {
            Shape::Uniform(log2) => offset.plus(1u64.shifted_up(log2)),
            Shape::Bitmap { words, unit } => {
                #[expect(clippy::cast_possible_truncation, reason = "a bit of a bitmap")]
                let bit = offset.shifted_down(unit) as u32;
                let next = next_bit(leaf, self.offsets, bit, bits_of(words))?;
                u64::from(next).shifted_up(unit)
            }
            Shape::Offsets { width, unit } => {
                Fields::from(self.offsets, next, width, unit).next(leaf)
            }
        })
    }

    /// The pages of which all distances between its runs are multiples, in the list and in memory, as a power
    /// of two.
    #[inline]
    pub(in crate::sgl) fn granularity(&self) -> u32 {
        let in_list = match self.layout.shape {
            Shape::Offsets { unit, .. } | Shape::Bitmap { unit, .. } => unit,
            Shape::Uniform(log2) => log2,
        };
        in_list.min(self.layout.alignment)
    }

    /// No run starts above this frame.
    #[inline]
    pub(in crate::sgl) fn highest_start(&self) -> u64 {
        self.layout.highest_start()
    }

    /// The byte after the payload.
    #[inline]
    pub(super) fn end(&self) -> usize {
        self.starts.plus(words_of(self.count, self.layout.width).times(WORD))
    }

    /// The frame `beyond` pages behind the start of run `index`.
    #[inline]
    pub(super) fn frame<'a>(&self, leaf: &'a [u8], index: usize, beyond: u64) -> Frame<'a> {
        let Layout { base, alignment, width, .. } = self.layout;
        let start = Fields::from(self.starts, index, width, alignment);
        Frame { leaf, start, beyond: base.plus(beyond) }
    }

    /// The run that holds page `page`, and its first page, both counted from the first of the group.
    ///
    /// O(1) but where offsets are stored, which is O(log count).
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "at most the index of a run")]
    pub(in crate::sgl) fn find(&self, leaf: &[u8], page: u64) -> (usize, u64) {
        match self.layout.shape {
            Shape::Uniform(log2) => {
                let index = (page.shifted_down(log2) as usize).min(self.count.minus(1));
                (index, (index as u64).shifted_up(log2))
            }
            Shape::Bitmap { words, unit } => {
                let last = u64::from(bits_of(words).minus(1));
                let bit = page.shifted_down(unit).min(last) as u32;
                let (index, begin) = find_bit(leaf, self.offsets, bit);
                (index, u64::from(begin).shifted_up(unit))
            }
            Shape::Offsets { width, unit } => {
                let (index, offset) =
                    find_offset(leaf, self.offsets, width, self.count, page.shifted_down(unit));
                (index, offset.shifted_up(unit))
            }
        }
    }
}

/// Moves the bytes of a range to its end, but for the last `by`, which are lost.
#[inline]
fn move_up(leaf: &mut [u8], range: Range<usize>, by: usize) {
    if let Some(bytes) = leaf.get_mut(range) {
        if by <= bytes.len() {
            bytes.rotate_right(by);
        }
    }
}

/// Moves the bytes of a range to its front, but for the first `by`, which are lost.
#[inline]
fn move_down(leaf: &mut [u8], range: Range<usize>, by: usize) {
    if let Some(bytes) = leaf.get_mut(range) {
        if by <= bytes.len() {
            bytes.rotate_left(by);
        }
    }
}

/// What the runs of a group are made of, whose base is `word`, at byte `at`.
#[inline]
fn kind_of(leaf: &[u8], at: usize, word: u64) -> MemoryKind {
    match base::KIND.get(word) {
        0 => MemoryKind::Ram,
        1 => MemoryKind::Mmio,
        _ => MemoryKind::Device(ProviderId(load(leaf, at.plus(WORD)))),
    }
}

/// The last of `count` offsets of `width` bits, from byte `at` on, that is at most `limit`: its number,
/// and what it is.
#[inline(never)]
fn find_offset(leaf: &[u8], at: usize, width: u32, count: usize, limit: u64) -> (usize, u64) {
    let offset = |index| Fields::from(at, index, width, 0).next(leaf);
    let index = last_at_most(count, limit, offset);
    (index, offset(index))
}
