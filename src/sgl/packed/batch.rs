// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs are packed behind those of a leaf, and taken out again.
#![forbid(unsafe_code)]

use super::bitmap::{behind, bits_of, find_bit, with_rank, word_of, words_to, BITS, MAX_WORDS};
use super::bits::{load, mask, pack, significant, store, words, WORD};
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

/// What is known of the lengths of runs.
#[derive(Clone, Copy, Debug)]
struct Lengths {
    /// The pages of all but the last, and the bits that any of these lengths has.
    before: u64,
    any: u64,
    last: u64,
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

    #[inline]
    fn lengths(self) -> Lengths {
        let (last, before) = self.counts.split_last().unwrap_or((&1, &[]));
        let fold = |(pages, any): (u64, u64), count: &u64| (pages.plus(*count), any | count);
        let (before, any) = before.iter().fold((0, 0), fold);
        Lengths { before, any, last: *last }
    }

    /// The runs from the front that begin less than `span` pages after the first, given what is known of the
    /// lengths of all.
    #[inline]
    fn within(self, span: u64, lengths: Lengths) -> (Self, Lengths) {
        if lengths.before < span {
            return (self, lengths);
        }
        let mut offset = 0u64;
        let begins_within = |count: &&u64| {
            let begins = offset < span;
            offset = offset.saturating_add(**count);
            begins
        };
        let near = self.prefix(self.counts.iter().take_while(begins_within).count());
        (near, near.lengths())
    }

    fn offsets(self) -> impl Iterator<Item = u64> + 'a {
        self.counts.iter().scan(0u64, |offset, count| {
            let this = *offset;
            *offset = offset.plus(*count);
            Some(this)
        })
    }

    /// The smallest layout for these runs; offsets are a bitmap where that is as small as fields.
    #[inline(always)]
    fn layout(self, lengths: Lengths) -> Layout {
        let Lengths { before, any, last } = lengths;
        let log2 = last.trailing_zeros();
        let is_uniform = last.is_power_of_two() && (self.counts.len() == 1 || any == last);
        let shape = if is_uniform && log2 <= Shape::MAX_UNIFORM {
            Shape::Uniform(log2)
        } else {
            let unit = any.trailing_zeros().min(Shape::MAX_UNIT);
            Shape::smallest(self.counts.len(), before.shifted_down(unit), unit)
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
    fn alike(self, lengths: Lengths) -> (Self, Lengths) {
        // Most batches have small runs only, and this is the fastest way to see it.
        if lengths.any | lengths.last < LARGE {
            return (self, lengths);
        }
        let is_large = |count: &u64| *count >= LARGE;
        let first = self.counts.first().is_some_and(is_large);
        let alike = self.counts.iter().take_while(|count| is_large(count) == first).count();
        if alike == self.counts.len() {
            return (self, lengths);
        }
        let rest = self.counts.get(alike..).unwrap_or_default();
        let (changes, _) = rest.iter().fold((0usize, first), |(changes, before), count| {
            (changes.plus(usize::from(is_large(count) != before)), is_large(count))
        });
        if changes <= self.counts.len() >> WORTH_A_GROUP_LOG2 {
            let alike = self.prefix(alike);
            return (alike, alike.lengths());
        }
        (self, lengths)
    }

    /// As many runs from the front as take at most `room` words, and their layout; none if there is
    /// no room for one.
    #[inline]
    fn fitting(mut self, mut lengths: Lengths, room: usize) -> Option<(Self, Lengths, Layout)> {
        while !self.counts.is_empty() {
            let (runs, layout) = (self.counts.len(), self.layout(lengths));
            let beyond = layout.words(runs).saturating_sub(room);
            if beyond == 0 {
                return Some((self, lengths, layout));
            }
            // A run takes a word at most, but for its share of a bitmap.
            self = self.prefix(runs.saturating_sub(beyond));
            lengths = self.lengths();
        }
        None
    }

    /// Packs the offsets as the bits of a group, which has `old` runs in `old_words` words already; the first
    /// one begins `offset` pages behind that of the group.
    #[inline]
    fn pack_bitmap(
        self,
        leaf: &mut [u8],
        group: &Group,
        (old, old_words): (usize, usize),
        mut offset: u64,
    ) {
        let Shape::Bitmap { words, unit } = group.layout.shape else {
            return;
        };
        let (mut before, mut counts) = (old as u64, self.counts.iter());
        // The last of the old words may get some more.
        for word in old_words.saturating_sub(1)..words {
            let at = group.offsets.plus(word.times(WORD));
            let mut bits = if word < old_words { load(leaf, at) } else { with_rank(0, before) };
            let begin = (word as u64).times(u64::from(BITS));
            loop {
                let bit = offset.shifted_down(unit).minus(begin);
                if bit >= u64::from(BITS) {
                    break;
                }
                let Some(pages) = counts.next() else {
                    break;
                };
                #[expect(clippy::cast_possible_truncation, reason = "below 56")]
                let bit = bit as u32;
                bits |= 1u64.shifted_up(bit);
                before = before.plus(1);
                offset = offset.plus(*pages);
            }
            store(leaf, at, bits);
        }
    }

    /// Packs the starts of the runs behind `before` runs of a group.
    #[inline]
    fn pack_starts(self, leaf: &mut [u8], group: &Group, before: usize) {
        let Layout { base, alignment, width, .. } = group.layout;
        let above = self.starts.iter().map(|start| start.wrapping_sub(base));
        if alignment == 0 {
            pack(leaf, group.starts, before, width, above);
        } else {
            let above = above.map(|above| above.shifted_down(alignment));
            pack(leaf, group.starts, before, width, above);
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
    let span = key::FIRST.max().plus(1).saturating_sub(first);
    let (near, lengths) = batch.within(span, batch.lengths());
    let (near, lengths) = near.alike(lengths);
    let Some((fitting, lengths, layout)) = near.fitting(lengths, room) else {
        return 0;
    };
    if let Some(last) = last {
        let last = (last, count.minus(1));
        let joined = join_bitmap(leaf, last, first, free, (fitting, lengths, &layout));
        if joined > 0 {
            return joined;
        }
    }
    let runs = fitting.starts.len();
    if runs < near.starts.len() && runs < MIN_TAIL && count > 0 {
        return 0;
    }
    let new = Group::new(first, begin, runs, batch.kind, layout);
    new.write_head(leaf, count);
    match layout.shape {
        Shape::Offsets { width, unit } => {
            let offsets = fitting.offsets().map(|offset| offset.shifted_down(unit));
            pack(leaf, new.offsets, 0, width, offsets);
        }
        Shape::Bitmap { .. } => fitting.pack_bitmap(leaf, &new, (0, 0), 0),
        Shape::Uniform(_) => {}
    }
    fitting.pack_starts(leaf, &new, 0);
    set_head(leaf, first_page(leaf), count.plus(1));
    runs
}

/// Packs a run into an empty leaf that begins at page 0: what [`append`] makes of it.
#[inline]
pub(in crate::sgl) fn put_only(leaf: &mut [u8], run: PageRun) {
    let (starts, counts, kind) = (&[run.start().get()], &[run.count()], run.kind());
    let batch = Batch { starts, counts, kind };
    let layout = batch.layout(batch.lengths());
    Group::new(0, 0, 1, kind, layout).write_head(leaf, 0);
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
        batch.pack_starts(leaf, &last, last.count);
        Group { count: last.count.plus(runs), ..last }.write_head(leaf, index);
    }
    runs
}

/// Packs runs, which would have this layout, into the last group of the leaf, if both have bitmaps and
/// take less room together.
///
/// The first of the runs begins at page `first` of the leaf.
#[inline]
fn join_bitmap(
    leaf: &mut [u8],
    (last, index): (Group, usize),
    first: u64,
    free: usize,
    (batch, lengths, layout): (Batch<'_>, Lengths, &Layout),
) -> usize {
    let Layout { shape: Shape::Bitmap { words: old_words, unit }, .. } = last.layout else {
        return 0;
    };
    let gap = first.minus(last.first);
    let is_multiple = gap & mask(unit) == 0
        && match layout.shape {
            Shape::Offsets { unit: of, .. } | Shape::Bitmap { unit: of, .. } => of >= unit,
            Shape::Uniform(log2) => log2 >= unit || batch.counts.len() == 1,
        };
    let reaches = layout.base >= last.layout.base
        && layout.alignment >= last.layout.alignment
        && layout.highest_start() <= last.layout.highest_start();
    let span = u64::from(bits_of(MAX_WORDS)).shifted_up(unit);
    if !(is_multiple && reaches && batch.kind == last.kind && gap < span) {
        return 0;
    }
    let most = Shape::MAX_IN_BITMAP.saturating_sub(last.count);
    let (mut near, mut lengths) = batch.within(span.minus(gap), lengths);
    if near.counts.len() > most {
        near = near.prefix(most);
        lengths = near.lengths();
    }
    let runs = near.starts.len();
    if runs == 0 || (runs < MIN_TAIL && runs < batch.starts.len()) {
        return 0;
    }
    let last_unit = gap.plus(lengths.before).shifted_down(unit);
    let Some(words) = words_to(last_unit) else {
        return 0;
    };
    let shape = Shape::Bitmap { words, unit };
    let grown = last.layout.with(shape).words(last.count.plus(runs));
    let more = grown.minus(last.layout.words(last.count));
    let alone = layout.words(runs).plus(Group::head_words(batch.kind));
    if more > alone.min(free) {
        return 0;
    }
    let grown = last.reshaped(leaf, shape, last.count.plus(runs));
    grown.write_head(leaf, index);
    near.pack_bitmap(leaf, &grown, (last.count, old_words), gap);
    near.pack_starts(leaf, &grown, last.count);
    runs
}

/// Takes the runs from page `page` of the list on out of the leaf. A run begins there.
pub(in crate::sgl) fn truncate(leaf: &mut [u8], page: u64) {
    let page = page.saturating_sub(first_page(leaf));
    let mut count = groups(leaf);
    while let Some(index) = count.checked_sub(1) {
        let last = group(leaf, index);
        if last.first < page {
            let beyond = page.minus(last.first);
            match last.layout.shape {
                Shape::Uniform(log2) => {
                    let left = usize::try_from(beyond.shifted_down(log2));
                    let count = last.count.min(left.unwrap_or(usize::MAX));
                    Group { count, ..last }.write_head(leaf, index);
                }
                Shape::Bitmap { unit, .. } => {
                    // The last run may be smaller than a unit.
                    let last_bit = beyond.minus(1).shifted_down(unit);
                    cut_bitmap(leaf, (last, index), last_bit);
                }
                // Packed, and taken out, as a whole.
                Shape::Offsets { .. } => {}
            }
            break;
        }
        count = index;
    }
    set_head(leaf, first_page(leaf), count);
}

/// Takes the runs out of a group with a bitmap that begin behind bit `last`; the first is not one of them.
fn cut_bitmap(leaf: &mut [u8], (group, index): (Group, usize), last: u64) {
    let Shape::Bitmap { words, unit } = group.layout.shape else {
        return;
    };
    #[expect(clippy::cast_possible_truncation, reason = "at most the bits of a bitmap")]
    let bit = last.min(u64::from(bits_of(words).minus(1))) as u32;
    let (run, bit) = find_bit(leaf, group.offsets, bit);
    let (word, first) = word_of(bit);
    let at = group.offsets.plus(word.times(WORD));
    let kept = load(leaf, at) & !(behind(bit.minus(first)) & mask(BITS));
    store(leaf, at, kept);
    let shape = Shape::Bitmap { words: word.plus(1), unit };
    group.reshaped(leaf, shape, run.plus(1)).write_head(leaf, index);
}

#[cfg(all(test, feature = "alloc", not(loom)))]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    const FIRST: u64 = 1000;

    fn append_all(leaf: &mut [u8], mut first: u64, starts: &[u64], counts: &[u64]) {
        for (starts, counts) in starts.chunks(BATCH).zip(counts.chunks(BATCH)) {
            let batch = Batch { starts, counts, kind: MemoryKind::Ram };
            assert_eq!(append(leaf, first, batch), counts.len());
            first += counts.iter().sum::<u64>();
        }
    }

    /// The runs of the only group of a leaf.
    fn decoded(leaf: &[u8], pages: u64) -> Vec<(u64, u64)> {
        assert_eq!(groups(leaf), 1);
        group(leaf, 0).runs(leaf, (0, 0), 0..pages).collect()
    }

    /// Batches of small runs are one group, which is cut at any of its runs, and grows again.
    #[test]
    fn small_runs_join_into_one_bitmap() {
        for unit in [0, 9] {
            // Some more than a word has bits.
            let count = |at: u64| if at == 70 { 61 } else { 1 + at % 4 } << unit;
            let starts: Vec<_> = (0..180).map(|at| (at * 7919 % 16384) << (unit + 3)).collect();
            let counts: Vec<_> = (0..180).map(count).collect();
            let mut leaf = [0xa5; 4096];
            super::super::clear(&mut leaf, FIRST);
            append_all(&mut leaf, 0, &starts, &counts);
            let runs: Vec<_> = starts.iter().copied().zip(counts.iter().copied()).collect();
            for kept in (1..=180).rev() {
                let pages = counts[..kept].iter().sum();
                truncate(&mut leaf, FIRST + pages);
                assert_eq!(decoded(&leaf, pages), runs[..kept]);
                let mut again = leaf;
                append_all(&mut again, pages, &starts[kept..], &counts[kept..]);
                assert_eq!(decoded(&again, counts.iter().sum()), runs);
            }
        }
    }

    /// The last run of a group may be smaller than the unit of the others: what lies behind it does not join, and it
    /// stays when that is taken out.
    #[test]
    fn a_last_run_is_smaller_than_a_unit() {
        let (starts, counts) = ([8, 32, 64], [8, 16, 1]);
        let mut leaf = [0; 512];
        super::super::clear(&mut leaf, FIRST);
        append_all(&mut leaf, 0, &starts, &counts);
        let before = leaf;
        append_all(&mut leaf, 25, &[128, 256], &[8, 8]);
        assert_eq!(groups(&leaf), 2);
        truncate(&mut leaf, FIRST + 25);
        assert_eq!(decoded(&leaf, 25), decoded(&before, 25));
        assert_eq!(decoded(&leaf, 25), [(8, 8), (32, 16), (64, 1)]);
    }
}
