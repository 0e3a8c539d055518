// SPDX-License-Identifier: MIT OR Apache-2.0
//! A group: its key and base, where its fields lie, and its runs.
#![forbid(unsafe_code)]

use super::bits::{load, store, words, Fields, WORD};
use crate::exact::{self, Exact as _};
use crate::sgl::run::{MemoryKind, ProviderId};
use crate::sgl::search::last_at_most;

/// The first code of a shape that is uniform.
const UNIFORM: u32 = 33;

/// The fields of a key.
pub(super) mod key {
    use super::super::bits::Field;

    /// The first page, counted from the first of the leaf.
    pub(in crate::sgl) const FIRST: Field = Field::new(32, 32);
    /// The word of the leaf at which the payload begins.
    pub(in crate::sgl) const PAYLOAD: Field = Field::new(23, 9);
    /// The number of runs, less one.
    pub(in crate::sgl) const LAST_RUN: Field = Field::new(12, 11);
    pub(in crate::sgl) const SHAPE: Field = Field::new(6, 6);
    /// Bits per start.
    pub(in crate::sgl) const WIDTH: Field = Field::new(0, 6);
}

/// The fields of the word before the offsets.
mod base {
    use super::super::bits::Field;

    pub(super) const FRAME: Field = Field::new(10, 54);
    pub(super) const ALIGNMENT: Field = Field::new(5, 5);
    pub(super) const KIND: Field = Field::new(3, 2);
}

/// The lengths of the runs of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Offsets of this many bits are stored.
    Offsets(u32),
    /// All runs have `2^n` pages, for this `n`.
    Uniform(u32),
}

impl Shape {
    /// The largest run of a group without offsets, as its log2.
    pub(super) const MAX_UNIFORM: u32 = 63 - UNIFORM;

    #[inline]
    pub(super) const fn code(self) -> u32 {
        match self {
            Self::Offsets(width) => width,
            Self::Uniform(log2) => exact::u32::plus(log2, UNIFORM),
        }
    }

    #[inline]
    pub(super) const fn from_code(code: u32) -> Self {
        match code.checked_sub(UNIFORM) {
            Some(log2) => Self::Uniform(log2),
            None => Self::Offsets(code),
        }
    }

    #[inline]
    pub(super) const fn words(self, count: usize) -> usize {
        match self {
            Self::Offsets(width) => words(count, width),
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
        exact::usize::plus(self.shape.words(count), words(count, self.width))
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
    /// The byte at which the offsets begin.
    pub(super) offsets: usize,
    /// The byte at which the starts begin.
    pub(super) starts: usize,
}

impl Group {
    /// The words that a group takes beside its [layout](Layout::words): key, base, provider.
    #[inline]
    pub(super) const fn head_words(kind: MemoryKind) -> usize {
        if matches!(kind, MemoryKind::Device(_)) {
            3
        } else {
            2
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
        let offsets = at.plus(Self::head_words(kind).minus(1).times(WORD));
        let starts = offsets.plus(layout.shape.words(count).times(WORD));
        Self { first, count, kind, layout, at, offsets, starts }
    }

    /// Takes a key and the base behind it apart.
    #[inline]
    pub(super) fn read(leaf: &[u8], key: u64) -> Self {
        let at = (key::PAYLOAD.small(key) as usize).times(WORD);
        let word = load(leaf, at);
        let kind = match base::KIND.get(word) {
            0 => MemoryKind::Ram,
            1 => MemoryKind::Mmio,
            _ => MemoryKind::Device(ProviderId(load(leaf, at.plus(WORD)))),
        };
        let layout = Layout {
            shape: Shape::from_code(key::SHAPE.small(key)),
            base: base::FRAME.get(word),
            alignment: base::ALIGNMENT.small(word),
            width: key::WIDTH.small(key),
        };
        Self::new(
            key::FIRST.get(key),
            at,
            (key::LAST_RUN.small(key) as usize).plus(1),
            kind,
            layout,
        )
    }

    /// Writes the key (at byte `key_at`) and the base.
    #[inline]
    pub(super) fn write_head(&self, leaf: &mut [u8], key_at: usize) {
        let Layout { shape, base, alignment, width } = self.layout;
        let key = key::FIRST.of(self.first)
            | key::PAYLOAD.of((self.at >> 3) as u64)
            | key::LAST_RUN.of(self.count.minus(1) as u64)
            | key::SHAPE.of(u64::from(shape.code()))
            | key::WIDTH.of(u64::from(width));
        store(leaf, key_at, key);
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
    }

    /// The byte after the payload.
    #[inline]
    pub(super) fn end(&self) -> usize {
        self.starts.plus(words(self.count, self.layout.width).times(WORD))
    }

    /// The start frame of run `index`.
    #[inline]
    pub(in crate::sgl) fn start(&self, leaf: &[u8], index: usize) -> u64 {
        let above = Fields::from(self.starts, index, self.layout.width).next(leaf);
        self.layout.base.plus(above.shifted_up(self.layout.alignment))
    }

    /// The first page of run `index`, counted from the first of the group.
    #[inline]
    pub(in crate::sgl) fn offset(&self, leaf: &[u8], index: usize) -> u64 {
        match self.layout.shape {
            Shape::Uniform(log2) => (index as u64).shifted_up(log2),
            Shape::Offsets(width) => Fields::from(self.offsets, index, width).next(leaf),
        }
    }

    /// The runs from `index` on, in a group of `pages` pages.
    #[inline]
    pub(in crate::sgl) fn runs<'a>(
        &self,
        leaf: &'a [u8],
        index: usize,
        pages: u64,
    ) -> GroupRuns<'a> {
        let next = index.plus(1);
        let (offset_width, step) = match self.layout.shape {
            Shape::Offsets(width) => (width, 0),
            Shape::Uniform(log2) => (0, 1u64.shifted_up(log2)),
        };
        GroupRuns {
            leaf,
            start: Fields::from(self.starts, index, self.layout.width),
            end: Fields::from(self.offsets, next, offset_width),
            base: self.layout.base,
            alignment: self.layout.alignment,
            step,
            at: self.offset(leaf, index),
            pages,
            left: self.count.minus(index),
        }
    }

    /// The run that holds page `page`, counted from the first of the group.
    ///
    /// O(1) where all runs have one length, else O(log count).
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "at most the index of a run")]
    pub(in crate::sgl) fn find(&self, leaf: &[u8], page: u64) -> usize {
        let last = self.count.minus(1);
        match self.layout.shape {
            Shape::Uniform(log2) => (page.shifted_down(log2) as usize).min(last),
            Shape::Offsets(width) => {
                let offset = |index| Fields::from(self.offsets, index, width).next(leaf);
                last_at_most(self.count, page, offset)
            }
        }
    }
}

/// Runs of a group, in order: the start frame, and the page after the last, counted from the first
/// of the group.
#[derive(Clone, Copy, Debug)]
pub(in crate::sgl) struct GroupRuns<'a> {
    leaf: &'a [u8],
    start: Fields,
    end: Fields,
    base: u64,
    alignment: u32,
    /// The pages of each run, or zero where offsets are stored.
    step: u64,
    at: u64,
    pages: u64,
    left: usize,
}

impl GroupRuns<'_> {
    /// How many runs are still to come.
    #[inline]
    pub(in crate::sgl) fn len(&self) -> usize {
        self.left
    }

    /// Leaves out the runs that are still to come.
    #[inline]
    pub(in crate::sgl) fn finish(&mut self) {
        self.left = 0;
    }

    #[inline]
    fn next_start(&mut self) -> u64 {
        self.base.plus(self.start.next(self.leaf).shifted_up(self.alignment))
    }
}

impl Iterator for GroupRuns<'_> {
    type Item = (u64, u64);

    #[inline]
    fn next(&mut self) -> Option<(u64, u64)> {
        self.left = self.left.checked_sub(1)?;
        self.at = if self.step != 0 {
            self.at.plus(self.step)
        } else if self.left != 0 {
            self.end.next(self.leaf)
        } else {
            self.pages
        };
        Some((self.next_start(), self.at))
    }

    /// Two tight loops instead of one with questions in it.
    #[inline]
    fn fold<B, F>(mut self, init: B, mut f: F) -> B
    where
        F: FnMut(B, (u64, u64)) -> B,
    {
        let mut acc = init;
        if self.step != 0 {
            for _ in 0..self.left {
                self.at = self.at.plus(self.step);
                acc = f(acc, (self.next_start(), self.at));
            }
            return acc;
        }
        for _ in 1..self.left {
            let end = self.end.next(self.leaf);
            acc = f(acc, (self.next_start(), end));
        }
        if self.left != 0 {
            acc = f(acc, (self.next_start(), self.pages));
        }
        acc
    }
}
