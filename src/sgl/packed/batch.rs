// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs are packed behind those of a leaf, and taken out again.
#![forbid(unsafe_code)]

use super::bits::{mask, pack, significant, store, words, WORD};
use super::group::{key, Group, Layout, Shape};
use super::{first_page, group, groups, key_at, set_head};
use crate::exact::Exact as _;
use crate::sgl::run::{MemoryKind, PageRun};

/// Runs that are packed together; the builder keeps as many unpacked.
pub(in crate::sgl) const BATCH: usize = 64;
/// Most runs of a group: what the key can count.
const MAX_GROUP: usize = 2048;
/// It does not pay to begin a group for fewer runs than this at the end of a leaf.
const MIN_TAIL: usize = 4;
const MAX_ALIGNMENT: u32 = 31;
/// A run of so many pages, as a power of two, is large: too many for the bits of a bitmap of pages.
pub(in crate::sgl) const LARGE_LOG2: u32 = 6;
const LARGE: u64 = 1 << LARGE_LOG2;
/// Runs that are as many, on the average, and all large or all small, are worth a group of their own.
const WORTH_A_GROUP_LOG2: u32 = 4;

/// Runs of one kind that wait to be packed, in two columns.
#[derive(Clone, Copy, Debug)]
pub(in crate::sgl) struct Batch<'a> {
    pub(in crate::sgl) starts: &'a [u64],
    pub(in crate::sgl) counts: &'a [u64],
    pub(in crate::sgl) kind: MemoryKind,
}

impl<'a> Batch<'a> {
    #[inline]
    fn prefix(self, runs: usize) -> Self {
        Self {
            starts: self.starts.get(..runs).unwrap_or(self.starts),
            counts: self.counts.get(..runs).unwrap_or(self.counts),
            kind: self.kind,
        }
    }

    /// How many pages after the first run the last begins.
    #[inline]
    fn last_offset(self) -> u64 {
        let before = self.counts.split_last().map_or(&[][..], |(_, before)| before);
        before.iter().fold(0, |sum: u64, count| sum.plus(*count))
    }

    /// How many runs begin less than `span` pages after the first.
    #[inline]
    fn within(self, span: u64) -> usize {
        if self.last_offset() < span {
            return self.counts.len();
        }
        let mut offset = 0u64;
        let begins_within = |count: &&u64| {
            let begins = offset < span;
            offset = offset.saturating_add(**count);
            begins
        };
        self.counts.iter().take_while(begins_within).count()
    }

    fn offsets(self) -> impl Iterator<Item = u64> + 'a {
        self.counts.iter().scan(0u64, |offset, count| {
            let this = *offset;
            *offset = offset.plus(*count);
            Some(this)
        })
    }

    /// The smallest layout for these runs; offsets are a bitmap where that is as small as fields.
    #[inline]
    fn layout(self) -> Layout {
        let (last, before) = self.counts.split_last().unwrap_or((&1, &[]));
        let (pages, any) = before
            .iter()
            .fold((0u64, 0u64), |(pages, any), count| (pages.plus(*count), any | count));
        let log2 = last.trailing_zeros();
        let is_uniform = last.is_power_of_two() && (before.is_empty() || any == *last);
        let shape = if is_uniform && log2 <= Shape::MAX_UNIFORM {
            Shape::Uniform(log2)
        } else {
            let unit = any.trailing_zeros().min(Shape::MAX_UNIT);
            Shape::smallest(self.counts.len(), pages.shifted_down(unit), unit)
        };
        let fold = |(low, high, any): (u64, u64, u64), &start: &u64| {
            (low.min(start), high.max(start), any | start)
        };
        let (low, high, any) = self.starts.iter().fold((u64::MAX, 0, 0), fold);
        let alignment = any.trailing_zeros().min(MAX_ALIGNMENT);
        let width = significant(high.minus(low).shifted_down(alignment));
        // A rounder base costs nothing where it still reaches, and lets more runs join later.
        let round = low & !mask(width.plus(alignment));
        let reaches = high.minus(round).shifted_down(alignment) <= mask(width);
        Layout { shape, base: if reaches { round } else { low }, alignment, width }
    }

    /// The runs from the front that are all large or all small, or all runs where these change too
    /// often: apart, frames have more bits in common, and a bitmap has fewer.
    #[inline]
    fn alike(self) -> Self {
        // Most batches have small runs only, and this is the fastest way to see it.
        if self.counts.iter().fold(0, |any, count| any | count) < LARGE {
            return self;
        }
        let is_large = |count: &u64| *count >= LARGE;
        let first = self.counts.first().is_some_and(is_large);
        let alike = self.counts.iter().take_while(|count| is_large(count) == first).count();
        if alike == self.counts.len() {
            return self;
        }
        let rest = self.counts.get(alike..).unwrap_or_default();
        let (changes, _) = rest.iter().fold((0usize, first), |(changes, before), count| {
            (changes.plus(usize::from(is_large(count) != before)), is_large(count))
        });
        if changes <= self.counts.len() >> WORTH_A_GROUP_LOG2 {
            return self.prefix(alike);
        }
        self
    }

    /// As many runs from the front as take at most `room` words, and their layout; none if there is
    /// no room for one.
    #[inline]
    fn fitting(self, room: usize) -> Option<(Self, Layout)> {
        let mut runs = self.starts.len();
        while runs > 0 {
            let prefix = self.prefix(runs);
            let layout = prefix.layout();
            let beyond = layout.words(runs).saturating_sub(room);
            if beyond == 0 {
                return Some((prefix, layout));
            }
            // A run takes a word at most, but for its share of a bitmap.
            runs = runs.saturating_sub(beyond);
        }
        None
    }

    /// Packs the offsets as a bitmap of `count` words from byte `at` on, its ranks before them.
    #[inline]
    fn pack_bitmap(self, leaf: &mut [u8], at: usize, count: usize, unit: u32) {
        let (mut ranks, mut before, mut offset) = (0u64, 0u64, 0u64);
        let mut counts = self.counts.iter();
        let (mut word, mut begin) = (at, 0u64);
        for shift in (0..64).step_by(8).take(count) {
            ranks |= before.shifted_up(shift);
            let mut bits = 0u64;
            loop {
                let bit = offset.shifted_down(unit).minus(begin);
                if bit >= 64 {
                    break;
                }
                let Some(pages) = counts.next() else {
                    break;
                };
                #[expect(clippy::cast_possible_truncation, reason = "below 64")]
                let bit = bit as u32;
                bits |= 1u64.shifted_up(bit);
                before = before.plus(1);
                offset = offset.plus(*pages);
            }
            store(leaf, word, bits);
            word = word.plus(WORD);
            begin = begin.plus(64);
        }
        // None lies before the first word.
        if count > 1 {
            store(leaf, at.minus(WORD), ranks >> 8);
        }
    }

    #[inline]
    fn pack_starts(self, leaf: &mut [u8], at: usize, layout: &Layout) {
        let Layout { base, alignment, width, .. } = *layout;
        let above = self.starts.iter().map(|start| start.wrapping_sub(base));
        if alignment == 0 {
            pack(leaf, at, width, above);
        } else {
            pack(leaf, at, width, above.map(|above| above.shifted_down(alignment)));
        }
    }
}

/// Packs as many runs from the front of `batch` as fit; returns how many.
///
/// `first` is the page of the first run, counted from the first of the leaf. Zero means that the
/// leaf is full: an empty leaf of at least 40 bytes takes at least one run. The batch has at most
/// [`BATCH`] runs, and their sum of pages is below `2^63`.
#[inline]
pub(in crate::sgl) fn append(leaf: &mut [u8], first: u64, batch: Batch<'_>) -> usize {
    let count = groups(leaf);
    let last = count.checked_sub(1).map(|index| group(leaf, index));
    let begin = last.map_or(0, |last| last.end());
    let end = key_at(leaf, count).plus(WORD);
    let free = end.saturating_sub(begin) >> 3;
    if let Some(last) = last {
        let joined = join(leaf, last, count.minus(1), free, batch);
        if joined > 0 {
            return joined;
        }
    }
    let Some(room) = free.checked_sub(Group::head_words(batch.kind)) else {
        return 0;
    };
    // As many runs as begin where a key can say it.
    let near = batch.prefix(batch.within(key::FIRST.max().plus(1).saturating_sub(first))).alike();
    let Some((fitting, layout)) = near.fitting(room) else {
        return 0;
    };
    let runs = fitting.starts.len();
    if runs < near.starts.len() && runs < MIN_TAIL && count > 0 {
        return 0;
    }
    let new = Group::new(first, begin, runs, batch.kind, layout);
    new.write_head(leaf, end.minus(WORD));
    match layout.shape {
        Shape::Offsets { width, unit } => {
            let offsets = fitting.offsets().map(|offset| offset.shifted_down(unit));
            pack(leaf, new.offsets, width, offsets);
        }
        Shape::Bitmap { words, unit } => fitting.pack_bitmap(leaf, new.offsets, words, unit),
        Shape::Uniform(_) => {}
    }
    fitting.pack_starts(leaf, new.starts, &layout);
    set_head(leaf, first_page(leaf), count.plus(1));
    runs
}

/// Packs a run into an empty leaf that begins at page 0: what [`append`] makes of it.
#[inline]
pub(in crate::sgl) fn put_only(leaf: &mut [u8], run: PageRun) {
    let (starts, counts, kind) = (&[run.start().get()], &[run.count()], run.kind());
    let layout = Batch { starts, counts, kind }.layout();
    let at = key_at(leaf, 0);
    Group::new(0, 0, 1, kind, layout).write_head(leaf, at);
    set_head(leaf, 0, 1);
}

/// Packs runs into the last group of the leaf, if it has the very shape for all of them.
#[inline]
fn join(leaf: &mut [u8], last: Group, index: usize, free: usize, batch: Batch<'_>) -> usize {
    let Layout { shape: Shape::Uniform(log2), base, alignment, width } = last.layout else {
        return 0;
    };
    let pages = 1u64.shifted_up(log2);
    let reach = width.plus(alignment);
    let fits = |above: u64| above & !mask(reach) == 0 && above & mask(alignment) == 0;
    // The first field of a batch goes to the start of a word.
    let at_word = last.count.times(width as usize) & 63 == 0;
    // Most batches that do not fit are seen by their first run.
    let first_fits = batch.starts.first().is_some_and(|start| fits(start.wrapping_sub(base)));
    if !(first_fits && at_word && batch.kind == last.kind) {
        return 0;
    }
    // Both in one loop: each is a chain in which a step waits for the one before.
    let fold = |(above, differs): (u64, u64), (start, count): (&u64, &u64)| {
        (above | start.wrapping_sub(base), differs | (count ^ pages))
    };
    let (above, differs) = batch.starts.iter().zip(batch.counts).fold((0, 0), fold);
    if !(fits(above) && differs == 0) {
        return 0;
    }
    let mut runs = batch.starts.len().min(MAX_GROUP.saturating_sub(last.count));
    if words(runs, width) > free {
        // A leaf has at most 2^15 bits; 32-bit machines divide 32 bits by themselves.
        #[expect(clippy::cast_possible_truncation, reason = "at most 2^15")]
        let bits = (free << 6) as u32;
        runs = bits.checked_div(width).map_or(runs, |fields| fields as usize);
    }
    let batch = batch.prefix(runs);
    if runs > 0 {
        batch.pack_starts(leaf, last.end(), &last.layout);
        let grown = Group { count: last.count.plus(runs), ..last };
        let at = key_at(leaf, index);
        grown.write_head(leaf, at);
    }
    runs
}

/// Takes the runs from page `page` of the list on out of the leaf. A run begins there.
pub(in crate::sgl) fn truncate(leaf: &mut [u8], page: u64) {
    let page = page.saturating_sub(first_page(leaf));
    let mut count = groups(leaf);
    while let Some(index) = count.checked_sub(1) {
        let last = group(leaf, index);
        if last.first < page {
            // What has offsets is packed, and taken out, as a whole; the others shrink in place.
            if let Shape::Uniform(log2) = last.layout.shape {
                let left = usize::try_from(page.minus(last.first).shifted_down(log2));
                let count = last.count.min(left.unwrap_or(usize::MAX));
                let at = key_at(leaf, index);
                Group { count, ..last }.write_head(leaf, at);
            }
            break;
        }
        count = index;
    }
    set_head(leaf, first_page(leaf), count);
}
