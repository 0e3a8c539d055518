// SPDX-License-Identifier: MIT OR Apache-2.0
//! The packed format: how runs lie in a leaf, in 2-5 bytes each (16 where every run changes kind).
//!
//! A *leaf* is a piece of memory that holds groups of runs. Payload grows from the front, keys from
//! the back; each leaf can be read on its own, given the page of the list at which it begins:
//!
//! ```text
//!  0                                                                        leaf.len()
//!  ├─ payload 0 ─┼─ payload 1 ─┼─ .. ─┼──── free ────┼─ .. ─┼─ key 1 ─┼─ key 0 ─┼ head ┤
//!
//!  head   64 bits:  runs in the list before this leaf 54 │ groups 10
//!
//!  key    64 bits:  first page, from the leaf's first 32 │ payload at, in words 9 │
//!                   runs - 1, 11 │ shape 6 │ bits per start 6
//!                   shape 0..=32:  bits per offset
//!                   shape 33..=63: all runs have 2^(shape - 33) pages, and no offsets are stored
//!
//!  payload, each part a whole number of words:
//!    base     64 bits: lowest start frame 54 │ alignment 5 │ kind 2 │ unused 3
//!    provider 64 bits: only for device memory
//!    offsets  pages from the group's first page to each run       (cumulative: binary search)
//!    starts   (start frame - base) >> alignment, of each run      (frame of reference)
//! ```
//!
//! All words are little-endian; a field of width `w` at index `i` is the `w` bits from bit `i * w`
//! of its part. Frames in random order cost their bare width: `log2` of the host's memory over the
//! alignment of the runs. Nothing can be left out of that, so the format spends its care on the
//! rest: one key and one base for up to 2048 runs where lengths agree, one for 64 where they
//! differ. No field crosses into the next leaf, none is wider than 54 bits, and eight bytes can be
//! read at any field because head and keys lie behind.
#![forbid(unsafe_code)]

use super::run::{MemoryKind, ProviderId};
use super::search::last_at_most;
use crate::exact::{self, Exact as _};
use core::slice::ChunksExactMut;

/// Runs that are packed together; the builder keeps as many unpacked.
pub(super) const BATCH: usize = 64;
/// Most runs of a group: what the key can count.
const MAX_GROUP: usize = 2048;
const WORD: usize = 8;
/// Pages from the start of a leaf to the start of a group or a run: what a key can hold.
const MAX_SPAN: u64 = 1 << 32;
/// It does not pay to begin a group for fewer runs than this at the end of a leaf.
const MIN_TAIL: usize = 4;
const MAX_ALIGNMENT: u32 = 31;

const UNIFORM: u32 = 33;

/// The lowest `width` bits; `width` is below 64.
#[inline]
const fn mask(width: u32) -> u64 {
    exact::u64::minus(exact::u64::shifted_up(1, width), 1)
}

/// How many bits `value` needs.
#[inline]
const fn significant(value: u64) -> u32 {
    exact::u32::minus(64, value.leading_zeros())
}

/// The words that `count` fields of `width` bits take; `count` is at most 2048.
#[inline]
const fn words(count: usize, width: u32) -> usize {
    exact::usize::plus(exact::usize::times(count, width as usize), 63) >> 6
}

/// Eight bytes from `at`, the last eight at the most: bytes come from a leaf, positions from its
/// keys, and to clamp a position costs less than to check it.
#[inline]
pub(super) fn load(leaf: &[u8], at: usize) -> u64 {
    let Some(last) = leaf.len().checked_sub(WORD) else {
        return 0;
    };
    let at = at.min(last);
    let bytes = leaf.get(at..at.plus(WORD)).and_then(<[u8]>::first_chunk);
    bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[inline]
fn store(leaf: &mut [u8], at: usize, word: u64) {
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

/// Writes fields of `width` bits one after another.
///
/// The first field goes to the start of a word.
#[inline]
fn pack(leaf: &mut [u8], at: usize, width: u32, mut values: impl Iterator<Item = u64>) {
    if width == 0 {
        return;
    }
    let out = leaf.get_mut(at..).unwrap_or(&mut []).chunks_exact_mut(WORD);
    let mut words = Words { out, word: 0, filled: 0 };
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

/// The lengths of the runs of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// Offsets of this many bits are stored.
    Offsets(u32),
    /// All runs have `2^n` pages, for this `n`.
    Uniform(u32),
}

impl Shape {
    #[inline]
    const fn code(self) -> u32 {
        match self {
            Self::Offsets(width) => width,
            Self::Uniform(log2) => exact::u32::plus(log2, UNIFORM),
        }
    }

    #[inline]
    const fn from_code(code: u32) -> Self {
        match code.checked_sub(UNIFORM) {
            Some(log2) => Self::Uniform(log2),
            None => Self::Offsets(code),
        }
    }

    #[inline]
    const fn words(self, count: usize) -> usize {
        match self {
            Self::Offsets(width) => words(count, width),
            Self::Uniform(_) => 0,
        }
    }
}

/// A group of a leaf, its key and base taken apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    /// The first page, counted from the first of the leaf.
    pub(super) first: u64,
    /// How many runs.
    pub(super) count: usize,
    /// What all of its pages are made of.
    pub(super) kind: MemoryKind,
    base: u64,
    alignment: u32,
    width: u32,
    shape: Shape,
    /// The byte at which the payload begins.
    at: usize,
    /// The byte at which the offsets begin.
    offsets: usize,
    /// The byte at which the starts begin.
    starts: usize,
}

impl Group {
    #[inline]
    fn new(
        first: u64,
        at: usize,
        count: usize,
        kind: MemoryKind,
        shape: Shape,
        (base, alignment, width): (u64, u32, u32),
    ) -> Self {
        let head = if matches!(kind, MemoryKind::Device(_)) { 2 * WORD } else { WORD };
        let offsets = at.plus(head);
        let starts = offsets.plus(shape.words(count).times(WORD));
        Self { first, count, kind, base, alignment, width, shape, at, offsets, starts }
    }

    /// Takes a key and the base behind it apart.
    #[inline]
    fn read(leaf: &[u8], key: u64) -> Self {
        let at = ((key >> 23 & 0x1ff) as usize).times(WORD);
        let base = load(leaf, at);
        let kind = match base >> 3 & 3 {
            0 => MemoryKind::Ram,
            1 => MemoryKind::Mmio,
            _ => MemoryKind::Device(ProviderId(load(leaf, at.plus(WORD)))),
        };
        Self::new(
            key >> 32,
            at,
            ((key >> 12 & 0x7ff) as usize).plus(1),
            kind,
            Shape::from_code((key >> 6 & 0x3f) as u32),
            (base >> 10, (base >> 5 & 0x1f) as u32, (key & 0x3f) as u32),
        )
    }

    /// Writes the key (at byte `key_at`) and the base.
    #[inline]
    fn write_head(&self, leaf: &mut [u8], key_at: usize) {
        let words = (self.at >> 3) as u64;
        let count = self.count.minus(1) as u64;
        let codes = u64::from(self.shape.code()) << 6 | u64::from(self.width);
        store(leaf, key_at, self.first << 32 | words << 23 | count << 12 | codes);
        let kind = match self.kind {
            MemoryKind::Ram => 0,
            MemoryKind::Mmio => 1,
            MemoryKind::Device(ProviderId(id)) => {
                store(leaf, self.at.plus(WORD), id);
                2
            }
        };
        store(leaf, self.at, self.base << 10 | u64::from(self.alignment) << 5 | kind << 3);
    }

    /// The byte after the payload.
    #[inline]
    fn end(&self) -> usize {
        self.starts.plus(words(self.count, self.width).times(WORD))
    }

    /// The start frame of run `index`.
    #[inline]
    pub(super) fn start(&self, leaf: &[u8], index: usize) -> u64 {
        let above =
            Fields::from(self.starts, index, self.width).next(leaf).shifted_up(self.alignment);
        self.base.plus(above)
    }

    /// The first page of run `index`, counted from the first of the group.
    #[inline]
    pub(super) fn offset(&self, leaf: &[u8], index: usize) -> u64 {
        match self.shape {
            Shape::Uniform(log2) => (index as u64).shifted_up(log2),
            Shape::Offsets(width) => Fields::from(self.offsets, index, width).next(leaf),
        }
    }

    /// The runs from `index` on, in a group of `pages` pages.
    #[inline]
    pub(super) fn runs<'a>(&self, leaf: &'a [u8], index: usize, pages: u64) -> GroupRuns<'a> {
        let next = index.plus(1);
        let (offset_width, step) = match self.shape {
            Shape::Offsets(width) => (width, 0),
            Shape::Uniform(log2) => (0, 1u64.shifted_up(log2)),
        };
        GroupRuns {
            leaf,
            start: Fields::from(self.starts, index, self.width),
            end: Fields::from(self.offsets, next, offset_width),
            base: self.base,
            alignment: self.alignment,
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
    pub(super) fn find(&self, leaf: &[u8], page: u64) -> usize {
        let last = self.count.minus(1);
        match self.shape {
            Shape::Uniform(log2) => (page.shifted_down(log2) as usize).min(last),
            Shape::Offsets(width) => {
                let offset = |index| Fields::from(self.offsets, index, width).next(leaf);
                last_at_most(self.count, page, offset)
            }
        }
    }
}

/// Reads fields of one part, from one of them on.
#[derive(Clone, Copy, Debug)]
struct Fields {
    bit: usize,
    width: usize,
    mask: u64,
}

impl Fields {
    /// From field `index` on, of the part that begins at byte `at`.
    #[inline]
    fn from(at: usize, index: usize, width: u32) -> Self {
        let bit = at.times(8).plus(index.times(width as usize));
        Self { bit, width: width as usize, mask: mask(width) }
    }

    #[inline]
    fn next(&mut self, leaf: &[u8]) -> u64 {
        // An eighth of a number is far from wrapping, so one comparison checks the range.
        let at = self.bit >> 3;
        let bytes = leaf.get(at..at.plus(WORD)).and_then(<[u8]>::first_chunk);
        let word = bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes));
        #[expect(clippy::cast_possible_truncation, reason = "below 8")]
        let shift = (self.bit & 7) as u32;
        self.bit = self.bit.plus(self.width);
        word.shifted_down(shift) & self.mask
    }
}

/// Runs of a group, in order: the start frame, and the page after the last, counted from the first
/// of the group.
#[derive(Clone, Copy, Debug)]
pub(super) struct GroupRuns<'a> {
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
    pub(super) fn len(&self) -> usize {
        self.left
    }

    /// Leaves out the runs that are still to come.
    #[inline]
    pub(super) fn finish(&mut self) {
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

/// How many groups a leaf has.
#[inline]
pub(super) fn groups(leaf: &[u8]) -> usize {
    (load(leaf, leaf.len().minus(WORD)) & 0x3ff) as usize
}

/// How many runs the list has before this leaf.
#[inline]
pub(super) fn runs_before(leaf: &[u8]) -> u64 {
    load(leaf, leaf.len().minus(WORD)) >> 10
}

#[inline]
fn set_head(leaf: &mut [u8], runs_before: u64, groups: usize) {
    let at = leaf.len().minus(WORD);
    store(leaf, at, runs_before << 10 | groups as u64);
}

/// Makes `leaf` an empty leaf of a list that has `runs_before` runs before it.
pub(super) fn clear(leaf: &mut [u8], runs_before: u64) {
    set_head(leaf, runs_before, 0);
}

#[inline]
fn key_at(leaf: &[u8], group: usize) -> usize {
    leaf.len().minus(group.plus(2).times(WORD))
}

/// Group `index` of a leaf, which must have it.
#[inline]
pub(super) fn group(leaf: &[u8], index: usize) -> Group {
    Group::read(leaf, load(leaf, key_at(leaf, index)))
}

/// The first page of group `index`, counted from the first of the leaf; `None` beyond the last.
#[inline]
pub(super) fn group_first(leaf: &[u8], index: usize) -> Option<u64> {
    (index < groups(leaf)).then(|| load(leaf, key_at(leaf, index)) >> 32)
}

/// The group that holds page `page`, counted from the first of the leaf.
#[inline]
pub(super) fn find_group(leaf: &[u8], page: u64) -> usize {
    last_at_most(groups(leaf), page, |index| load(leaf, key_at(leaf, index)) >> 32)
}

/// The frame of page `page`, counted from the first of the leaf.
#[inline]
pub(super) fn lookup(leaf: &[u8], page: u64) -> u64 {
    let group = group(leaf, find_group(leaf, page));
    let page = page.minus(group.first);
    let index = group.find(leaf, page);
    group.start(leaf, index).plus(page.minus(group.offset(leaf, index)))
}

/// Runs of one kind that wait to be packed, in two columns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batch<'a> {
    pub(super) starts: &'a [u64],
    pub(super) counts: &'a [u64],
    pub(super) kind: MemoryKind,
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

    /// All runs have `2^n` pages: that `n`.
    #[inline]
    fn uniform(self) -> Option<u32> {
        let first = *self.counts.first()?;
        let differences = self.counts.iter().fold(0, |acc, count| acc | (count ^ first));
        let log2 = first.trailing_zeros();
        (differences == 0 && first.is_power_of_two() && log2 < 64 - UNIFORM).then_some(log2)
    }

    fn offsets(self) -> impl Iterator<Item = u64> + 'a {
        self.counts.iter().scan(0u64, |offset, count| {
            let this = *offset;
            *offset = offset.plus(*count);
            Some(this)
        })
    }

    /// The smallest shape for these runs.
    #[inline]
    fn shape(self) -> Shape {
        match self.uniform() {
            Some(log2) => Shape::Uniform(log2),
            None => Shape::Offsets(significant(self.last_offset())),
        }
    }

    /// The smallest frame of reference for these runs: base, alignment, bits per start.
    #[inline]
    fn reference(self) -> (u64, u32, u32) {
        let fold = |(low, high, any): (u64, u64, u64), &start: &u64| {
            (low.min(start), high.max(start), any | start)
        };
        let (low, high, any) = self.starts.iter().fold((u64::MAX, 0, 0), fold);
        let alignment = any.trailing_zeros().min(MAX_ALIGNMENT);
        let width = significant(high.minus(low).shifted_down(alignment));
        // A rounder base costs nothing where it still reaches, and lets more runs join later.
        let round = low & !mask(width.plus(alignment));
        let reaches = high.minus(round).shifted_down(alignment) <= mask(width);
        (if reaches { round } else { low }, alignment, width)
    }

    #[inline]
    fn pack_starts(self, leaf: &mut [u8], at: usize, (base, alignment, width): (u64, u32, u32)) {
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
pub(super) fn append(leaf: &mut [u8], first: u64, batch: Batch<'_>) -> usize {
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
    let Some(span) = MAX_SPAN.checked_sub(first) else {
        return 0;
    };
    let mut batch = batch.prefix(batch.within(span));
    let head = if matches!(batch.kind, MemoryKind::Device(_)) { 3 } else { 2 };
    let Some(room) = free.checked_sub(head) else {
        return 0;
    };
    if batch.starts.is_empty() {
        return 0;
    }
    let (mut shape, mut reference) = (batch.shape(), batch.reference());
    let needs = |runs, shape: Shape, width| shape.words(runs).plus(words(runs, width));
    let mut runs = batch.starts.len();
    if needs(runs, shape, reference.2) > room {
        // A prefix needs no more bits per field than the whole.
        while runs > 0 && needs(runs, shape, reference.2) > room {
            runs = runs.minus(1);
        }
        if runs == 0 || runs < MIN_TAIL && count > 0 {
            return 0;
        }
        batch = batch.prefix(runs);
        (shape, reference) = (batch.shape(), batch.reference());
    }
    let new = Group::new(first, begin, runs, batch.kind, shape, reference);
    new.write_head(leaf, end.minus(WORD));
    if let Shape::Offsets(width) = shape {
        pack(leaf, new.offsets, width, batch.offsets());
    }
    batch.pack_starts(leaf, new.starts, reference);
    set_head(leaf, runs_before(leaf), count.plus(1));
    runs
}

/// Packs runs into the last group of the leaf, if it has the very shape for all of them.
#[inline]
fn join(leaf: &mut [u8], last: Group, index: usize, free: usize, batch: Batch<'_>) -> usize {
    let Shape::Uniform(log2) = last.shape else {
        return 0;
    };
    let (base, pages) = (last.base, 1u64.shifted_up(log2));
    // Both in one loop: each is a chain in which a step waits for the one before.
    let fold = |(above, differs): (u64, u64), (start, count): (&u64, &u64)| {
        (above | start.wrapping_sub(base), differs | (count ^ pages))
    };
    let (above, differs) = batch.starts.iter().zip(batch.counts).fold((0, 0), fold);
    let reach = last.width.plus(last.alignment);
    let fits = above & !mask(reach) == 0 && above & mask(last.alignment) == 0;
    // The first field of a batch goes to the start of a word.
    let at_word = last.count.times(last.width as usize) & 63 == 0;
    if !(fits && at_word && differs == 0 && batch.kind == last.kind) {
        return 0;
    }
    let mut runs = batch.starts.len().min(MAX_GROUP.saturating_sub(last.count));
    if words(runs, last.width) > free {
        // A leaf has at most 2^15 bits; 32-bit machines divide 32 bits by themselves.
        #[expect(clippy::cast_possible_truncation, reason = "at most 2^15")]
        let bits = (free << 6) as u32;
        runs = bits.checked_div(last.width).map_or(runs, |fields| fields as usize);
    }
    let batch = batch.prefix(runs);
    if runs > 0 {
        batch.pack_starts(leaf, last.end(), (base, last.alignment, last.width));
        let grown = Group { count: last.count.plus(runs), ..last };
        let at = key_at(leaf, index);
        grown.write_head(leaf, at);
    }
    runs
}

/// Takes the last `runs` runs out of the leaf; all of its runs at most.
pub(super) fn remove(leaf: &mut [u8], runs: u64) {
    let (mut left, mut count) = (runs, groups(leaf));
    while left > 0 && count > 0 {
        let index = count.minus(1);
        let last = group(leaf, index);
        if last.count as u64 > left {
            // Offsets are laid out by the count, so only a group without them shrinks in place.
            let Shape::Uniform(_) = last.shape else {
                debug_assert!(false, "a group with offsets is packed, and removed, as a whole");
                return;
            };
            #[expect(clippy::cast_possible_truncation, reason = "below `last.count`")]
            let kept = last.count.minus(left as usize);
            let at = key_at(leaf, index);
            Group { count: kept, ..last }.write_head(leaf, at);
            break;
        }
        left = left.minus(last.count as u64);
        count = index;
    }
    set_head(leaf, runs_before(leaf), count);
}
