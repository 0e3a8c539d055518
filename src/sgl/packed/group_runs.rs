// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`GroupRuns`]: the runs of a group, decoded one by one or all at once.
#![forbid(unsafe_code)]

use super::bitmap::Bits;
use super::bits::Fields;
use super::group::{Group, Layout, Shape};
use crate::exact::Exact as _;
use core::ops::Range;

impl Group {
    /// The runs from one on, which is given by its number and first page, of the pages of the group from
    /// `pages.start` up to `pages.end`; that one holds the first of them.
    #[inline]
    pub(in crate::sgl) fn runs<'a>(
        &self,
        leaf: &'a [u8],
        (index, offset): (usize, u64),
        pages: Range<u64>,
    ) -> GroupRuns<'a> {
        let (mut fields, mut left, mut bits, mut unit, mut step) =
            (Fields::NONE, 0, Bits::NONE, 0, 0);
        match self.layout.shape {
            Shape::Offsets { width, unit } => {
                let next = index.plus(1);
                fields = Fields::from(self.offsets, next, width, unit);
                left = self.count.minus(next);
            }
            Shape::Bitmap { words, unit: of } => {
                bits = Bits::behind(leaf, self.offsets, words, offset.shifted_down(of));
                unit = of;
            }
            Shape::Uniform(log2) => step = 1u64.shifted_up(log2),
        }
        let Layout { base, alignment, width, .. } = self.layout;
        let start = Fields::from(self.starts, index, width, alignment);
        let (at, end, run) = (pages.start, pages.end, offset);
        GroupRuns { leaf, base, start, fields, left, bits, unit, step, run, at, end }
    }
}

/// Runs of some pages of a group, in order: the start frame of each, and how many pages it has. The first and
/// the last of them are clipped to these pages.
#[derive(Clone, Copy, Debug)]
pub(in crate::sgl) struct GroupRuns<'a> {
    leaf: &'a [u8],
    base: u64,
    start: Fields,
    /// Where the runs behind the next one begin: so many fields, bits of `2^unit` pages, or by `step` pages each.
    fields: Fields,
    left: usize,
    bits: Bits,
    unit: u32,
    step: u64,
    /// The first page of the run that comes next, counted from the first of the group.
    run: u64,
    /// The page that comes next: not the first of its run where that is clipped.
    at: u64,
    end: u64,
}

impl<'a> GroupRuns<'a> {
    /// That of a group which has no other, which begins at frame `start`.
    #[inline]
    pub(in crate::sgl) fn only(leaf: &'a [u8], start: u64, pages: Range<u64>) -> Self {
        let (fields, bits) = (Fields::NONE, Bits::NONE);
        let (at, end) = (pages.start, pages.end);
        let (start, base) = (Fields::NONE, start);
        Self { leaf, base, start, fields, left: 0, bits, unit: 0, step: end, run: 0, at, end }
    }

    /// The leaf in which they lie.
    #[inline]
    pub(in crate::sgl) fn leaf(&self) -> &'a [u8] {
        self.leaf
    }

    /// The pages that are still to come.
    #[inline]
    pub(in crate::sgl) fn pages(&self) -> Range<u64> {
        self.at..self.end
    }

    #[inline]
    fn next_start(&mut self) -> u64 {
        self.base.plus(self.start.next(self.leaf))
    }

    /// Where the next run ends, if a bit of the word that was read last says so.
    #[inline]
    fn end_by_bit(&mut self) -> Option<u64> {
        self.bits.next_of_word().map(|bit| bit.shifted_up(self.unit))
    }

    /// Where the next run ends, which is not the last one, if a field says so.
    #[inline]
    fn end_by_field(&mut self) -> Option<u64> {
        self.left = self.left.checked_sub(1)?;
        Some(self.fields.next(self.leaf))
    }

    /// Folds all of them, of which the last is not clipped: a tight loop for each shape instead of one with
    /// questions in it.
    #[inline]
    pub(in crate::sgl) fn fold_whole<B, F>(mut self, init: B, mut f: F) -> B
    where
        F: FnMut(B, (u64, u64)) -> B,
    {
        let Some(first) = self.next() else {
            return init;
        };
        let (mut acc, mut at) = (f(init, first), self.at);
        if self.step != 0 {
            while at < self.end {
                acc = f(acc, (self.next_start(), self.step));
                at = at.plus(self.step);
            }
            return acc;
        }
        if self.bits.is_some() {
            loop {
                while let Some(end) = self.end_by_bit() {
                    acc = f(acc, (self.next_start(), end.minus(at)));
                    at = end;
                }
                self.bits = self.bits.at_next_word(self.leaf);
                if self.bits.is_used_up() {
                    break;
                }
            }
        }
        while let Some(end) = self.end_by_field() {
            acc = f(acc, (self.next_start(), end.minus(at)));
            at = end;
        }
        if at < self.end {
            acc = f(acc, (self.next_start(), self.end.minus(at)));
        }
        acc
    }
}

impl Iterator for GroupRuns<'_> {
    type Item = (u64, u64);

    #[inline]
    fn next(&mut self) -> Option<(u64, u64)> {
        if self.at >= self.end {
            return None;
        }
        let end = if let Some(end) = self.end_by_bit() {
            end
        } else if self.step != 0 {
            self.run.plus(self.step)
        } else if let Some(end) = self.end_by_field() {
            end
        } else {
            self.bits = self.bits.at_next_word(self.leaf);
            self.end_by_bit().unwrap_or(self.end)
        };
        let start = self.next_start().plus(self.at.minus(self.run));
        self.run = end;
        let end = end.min(self.end);
        let count = end.minus(self.at);
        self.at = end;
        Some((start, count))
    }
}
