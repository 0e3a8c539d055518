// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Node`]: up to 35 entries in order; a search in one waits for memory once.
#![forbid(unsafe_code)]
#![allow(
    clippy::integer_division,
    reason = "which entry of which line, and how many: rounded down"
)]

use crate::addr::Iova;
use crate::exact::Exact as _;
use crate::iova_range::IovaRange;
use crate::store::SlabSlot;
use core::{fmt, mem::swap, num::NonZeroU8};

/// Entries of which a search reads all in one line of the cache.
const LINE: usize = 5;
const LINES: usize = 7;
/// Room for entries.
const ROOM: usize = LINE * LINES;

/// How many entries a node has at most. Where shapes are to be tried, a few make a tree of many levels.
pub(super) const MOST: usize = if cfg!(any(test, fuzzing)) { 5 } else { ROOM };

/// How many it has at least, if it is not the root. Two nodes become one only if they leave room for so
/// many: a node that was just split or joined is not joined or split again by the next change.
pub(super) const LEAST: usize = (MOST + 1) / 3;

/// How many levels of nodes there are at most: 2^32 values need no more.
pub(super) const LEVELS: usize = 10;

/// Addresses, and what is under them: a value in a leaf, a node in all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// From the first address that is used to the last one.
    pub(super) range: IovaRange,
    /// The largest gap in there, in addresses.
    pub(super) gap: u64,
    pub(super) link: u32,
}

/// Where a gap is.
pub(super) enum Place {
    /// In the entry at this index.
    In(usize),
    /// Between the entry at this index and the one before.
    Before(usize),
}

/// A node of the tree of an address space: a quarter of a page.
///
/// ```text
/// lines │ 5 firsts, 5 links │ 5, 5 │ .. │
/// rest  │ last, gap │ last, gap │ .. │
/// ```
///
/// A search asks the first of each line, then all of one: none of the lines has to be there before another is
/// asked for.
#[repr(C)]
pub struct Node {
    // Invariant: firsts ascend, and are the highest address in all places that are free.
    lines: [Line; LINES],
    rest: [Rest; ROOM],
    /// One more than the number of entries, which is `MOST` at most. (It is never zero, so a free place of
    /// a slab needs no flag.)
    end: NonZeroU8,
}

/// What a search reads, side by side.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line {
    firsts: [u64; LINE],
    links: [u32; LINE],
}

#[derive(Clone, Copy)]
struct Rest {
    last: u64,
    gap: u64,
}

impl Line {
    const EMPTY: Self = Self { firsts: [u64::MAX; LINE], links: [0; LINE] };

    /// The places from `index` on.
    #[inline]
    fn places(
        &mut self,
        index: usize,
    ) -> impl DoubleEndedIterator<Item = (&mut u64, &mut u32)> + ExactSizeIterator {
        // Slices know how long they are; `Skip` counts, and older compilers leave a panic there.
        let firsts = self.firsts.get_mut(index..).unwrap_or_default();
        let links = self.links.get_mut(index..).unwrap_or_default();
        firsts.iter_mut().zip(links)
    }

    /// Puts one in at the front, and returns what falls out at the end.
    #[inline]
    fn push(&mut self, (first, link): (u64, u32)) -> (u64, u32) {
        let [a, b, c, d, last_first] = self.firsts;
        self.firsts = [first, a, b, c, d];
        let [a, b, c, d, last_link] = self.links;
        self.links = [link, a, b, c, d];
        (last_first, last_link)
    }

    /// Puts one in at the end, and returns what falls out at the front.
    #[inline]
    fn pull(&mut self, (last_first, last_link): (u64, u32)) -> (u64, u32) {
        let [first, a, b, c, d] = self.firsts;
        self.firsts = [a, b, c, d, last_first];
        let [link, a, b, c, d] = self.links;
        self.links = [a, b, c, d, last_link];
        (first, link)
    }
}

impl Rest {
    const NOTHING: Self = Self { last: 0, gap: 0 };

    /// The largest gap in the entry, or between it and the next one, which begins at `next`, if there is one.
    #[inline]
    fn gap_to(&self, next: Option<u64>) -> u64 {
        self.gap.max(next.map_or(0, |next| next.minus(self.last).minus(1)))
    }
}

/// The line of an entry, and its place there.
#[inline]
const fn place(index: usize) -> (usize, usize) {
    (index / LINE, index % LINE)
}

impl Node {
    pub(super) const EMPTY: Self =
        Self { lines: [Line::EMPTY; LINES], rest: [Rest::NOTHING; ROOM], end: NonZeroU8::MIN };

    #[inline]
    pub(super) fn len(&self) -> usize {
        usize::from(self.end.get()).minus(1)
    }

    fn set_len(&mut self, len: usize) {
        let len = u8::try_from(len).unwrap_or(0);
        self.end = NonZeroU8::MIN.saturating_add(len);
    }

    /// The last entry that begins at `at` or before: its index, and what is under it.
    #[inline]
    pub(super) fn search(&self, at: Iova) -> Option<(usize, u32)> {
        let at = at.get();
        if at == u64::MAX {
            let last = self.len().checked_sub(1)?;
            return Some((last, self.link(last)?));
        }
        let [_, later @ ..] = &self.lines;
        let before = later.iter().filter(|Line { firsts: [first, ..], .. }| *first <= at).count();
        let Line { firsts, links } = self.lines.get(before)?;
        let index = firsts.iter().filter(|first| **first <= at).count().checked_sub(1)?;
        Some((before.times(LINE).plus(index), *links.get(index)?))
    }

    /// What is under the entry at `index`; not checked to be one of those in use.
    #[inline]
    pub(super) fn link(&self, index: usize) -> Option<u32> {
        let (line, index) = place(index);
        self.lines.get(line)?.links.get(index).copied()
    }

    #[inline]
    fn first(&self, index: usize) -> Option<u64> {
        let (line, index) = place(index);
        self.lines.get(line)?.firsts.get(index).copied()
    }

    /// Where the entry at `index` begins.
    #[inline]
    pub(super) fn first_of(&self, index: usize) -> Option<Iova> {
        self.first(index).filter(|_| index < self.len()).map(Iova::new)
    }

    /// The addresses of the entry at `index`; not checked to be one of those in use.
    #[inline]
    pub(super) fn range(&self, index: usize) -> Option<IovaRange> {
        let last = self.rest.get(index)?.last;
        IovaRange::inclusive(Iova::new(self.first(index)?), Iova::new(last)).ok()
    }

    #[inline]
    pub(super) fn entry(&self, index: usize) -> Option<Entry> {
        if index >= self.len() {
            return None;
        }
        let gap = self.rest.get(index)?.gap;
        Some(Entry { range: self.range(index)?, gap, link: self.link(index)? })
    }

    pub(super) fn set(&mut self, index: usize, entry: Entry) {
        let Entry { range, gap, link } = entry;
        let (line, at) = place(index);
        let place = self.lines.get_mut(line).and_then(|line| line.places(at).next());
        if let Some((rest, place)) = self.rest.get_mut(index).zip(place) {
            *rest = Rest { last: range.last().get(), gap };
            (*place.0, *place.1) = (range.first().get(), link);
        }
    }

    /// Where a full node is cut in two for an entry at `index`: entries that come in order find room where the last
    /// one was put.
    pub(super) const fn cut_for(index: usize) -> usize {
        match index {
            0 => LEAST,
            MOST => MOST - LEAST,
            _ => MOST >> 1,
        }
    }

    /// Adds an entry at the end, where there is room.
    pub(super) fn push(&mut self, entry: Entry) {
        let len = self.len();
        self.set(len, entry);
        self.set_len(len.plus(1));
    }

    /// Takes the last entry out.
    pub(super) fn pop(&mut self) -> Option<Entry> {
        self.remove(self.len().checked_sub(1)?)
    }

    /// Adds an entry at `index`, where there is room.
    pub(super) fn open(&mut self, index: usize, entry: Entry) {
        let len = self.len();
        let rest = self.rest.get_mut(index..=len).unwrap_or_default();
        if let Some(end) = rest.len().checked_sub(1) {
            rest.copy_within(..end, 1);
        }
        let (begin, from) = place(index);
        let (end, _) = place(len);
        let mut lines = self.lines.iter_mut().take(end.plus(1)).skip(begin);
        let mut moved = (0, 0);
        for (first, link) in lines.next().into_iter().flat_map(|line| line.places(from)) {
            swap(first, &mut moved.0);
            swap(link, &mut moved.1);
        }
        lines.for_each(|line| moved = line.push(moved));
        self.set(index, entry);
        self.set_len(len.plus(1));
    }

    /// Takes the entry at `index` out.
    pub(super) fn remove(&mut self, index: usize) -> Option<Entry> {
        let (entry, len) = (self.entry(index)?, self.len());
        let rest = self.rest.get_mut(index..len).unwrap_or_default();
        if !rest.is_empty() {
            rest.copy_within(1.., 0);
        }
        let (begin, from) = place(index);
        let (end, _) = place(len.minus(1));
        let mut moved = (u64::MAX, 0);
        let behind = self.lines.get_mut(begin.plus(1)..end.plus(1)).unwrap_or_default();
        behind.iter_mut().rev().for_each(|line| moved = line.pull(moved));
        let line = self.lines.get_mut(begin).into_iter();
        for (first, link) in line.flat_map(|line| line.places(from).rev()) {
            swap(first, &mut moved.0);
            swap(link, &mut moved.1);
        }
        self.set_len(len.minus(1));
        Some(entry)
    }

    /// Takes `count` entries from `index` on out, all of which are there.
    pub(super) fn remove_some(&mut self, index: usize, count: usize) {
        if count == 1 {
            self.remove(index);
            return;
        }
        for to in index..self.len().saturating_sub(count) {
            if let Some(entry) = self.entry(to.plus(count)) {
                self.set(to, entry);
            }
        }
        self.truncate(self.len().saturating_sub(count));
    }

    fn truncate(&mut self, len: usize) {
        let (line, mut from) = place(len);
        for line in self.lines.iter_mut().skip(line) {
            line.places(from).for_each(|(first, _)| *first = u64::MAX);
            from = 0;
        }
        self.set_len(len);
    }

    /// What a node above has to know of this one, which is under `link`.
    pub(super) fn sum(&self, link: u32) -> Option<Entry> {
        Some(Entry { range: self.span()?, gap: self.largest_gap(0, u64::MAX), link })
    }

    /// From the first address to the last one.
    #[inline]
    pub(super) fn span(&self) -> Option<IovaRange> {
        let last = self.rest.get(self.len().checked_sub(1)?)?.last;
        IovaRange::inclusive(Iova::new(self.first(0)?), Iova::new(last)).ok()
    }

    /// The largest gap in the entry at `index`, in the one before it, and beside both.
    #[inline]
    pub(super) fn gap_around(&self, index: usize) -> u64 {
        let here = self.first_of(index).map(Iova::get);
        let before = index.checked_sub(1).and_then(|before| self.rest.get(before));
        let before = before.map_or(0, |before| before.gap_to(here));
        let rest = self.rest.get(index).filter(|_| here.is_some());
        let next = self.first_of(index.plus(1)).map(Iova::get);
        before.max(rest.map_or(0, |rest| rest.gap_to(next)))
    }

    /// The largest gap: one of `gap` addresses was found, and none is larger than `known`.
    pub(super) fn largest_gap(&self, mut gap: u64, known: u64) -> u64 {
        let (mut left, mut behind) = (self.len(), self.first(0).unwrap_or(0));
        let mut look_at = |gap: u64, (first, rest): (&u64, &Rest)| {
            let before = first.minus(behind);
            // It ends at zero only behind all other entries.
            behind = rest.last.wrapping_add(1);
            gap.max(rest.gap).max(before)
        };
        for (line, rest) in self.lines.iter().zip(self.rest.chunks_exact(LINE)) {
            if gap >= known {
                break;
            }
            let entries = line.firsts.iter().zip(rest);
            match left.checked_sub(LINE) {
                Some(more) => (left, gap) = (more, entries.fold(gap, &mut look_at)),
                None => {
                    gap = entries.take(left).fold(gap, &mut look_at);
                    break;
                }
            }
        }
        gap
    }

    /// The largest gap in the entry at `index`; not checked to be one of those in use.
    #[inline]
    pub(super) fn gap(&self, index: usize) -> Option<u64> {
        Some(self.rest.get(index)?.gap)
    }

    /// Writes down what is below the entry at `index`, which is there; returns whether it was otherwise.
    #[inline]
    pub(super) fn update(&mut self, index: usize, range: IovaRange, gap: u64) -> Option<bool> {
        let (line, at) = place(index);
        let (first, last) = (range.first().get(), range.last().get());
        let place = self.lines.get_mut(line)?.firsts.get_mut(at)?;
        let rest = self.rest.get_mut(index)?;
        let otherwise = (*place, rest.last, rest.gap) != (first, last, gap);
        (*place, *rest) = (first, Rest { last, gap });
        Some(otherwise)
    }

    /// The first gap of at least `len` addresses behind the entry at `index`, or in it if that was not
    /// `looked_at`.
    pub(super) fn next_gap(&self, index: usize, looked_at: bool, len: u64) -> Option<Place> {
        let here = self.rest.get(index)?;
        if !looked_at && here.gap >= len {
            return Some(Place::In(index));
        }
        let mut behind = here.last.wrapping_add(1);
        let mut next = index.plus(1);
        let (begin, mut from) = place(next);
        let rest = self.rest.chunks_exact(LINE).skip(begin);
        for (line, rest) in self.lines.iter().skip(begin).zip(rest) {
            let left = self.len().saturating_sub(next);
            for (first, rest) in line.firsts.iter().zip(rest).skip(from).take(left) {
                if first.minus(behind) >= len {
                    return Some(Place::Before(next));
                }
                if rest.gap >= len {
                    return Some(Place::In(next));
                }
                behind = rest.last.wrapping_add(1);
                next = next.plus(1);
            }
            from = 0;
        }
        None
    }
}

impl SlabSlot<Node> {
    /// How many nodes an address space needs at most for so many mappings and parts of reservations.
    #[must_use]
    pub const fn needed_for(mappings: usize) -> usize {
        // Each but the root has so many entries, each node under an entry; a sum of a geometric series.
        (mappings / (LEAST - 1)).saturating_add(1)
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges = (0..self.len()).filter_map(|index| self.entry(index)).map(|entry| entry.range);
        f.debug_list().entries(ranges).finish()
    }
}

/// Why a range was not made; the value comes back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum InsertError<T> {
    /// The range overlaps one that is there: this one first.
    Overlap {
        /// That range.
        existing: IovaRange,
        /// What was to be inserted.
        value: T,
    },
    /// There is no memory for another value or node.
    OutOfMemory {
        /// What was to be inserted.
        value: T,
    },
}
