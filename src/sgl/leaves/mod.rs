// SPDX-License-Identifier: MIT OR Apache-2.0
//! The leaves of a list, and how the group of a page is found.
//!
//! Leaf 0 lives in the list itself, so that a few runs need no memory. The others are pieces of the
//! storage, the first of which are small. While a list is built, leaves are searched by the pages at
//! which they begin; when it is finished, the [`Directory`] comes behind them:
//!
//! ```text
//! leaf       0        1    2    3    4 .. n │
//! piece   (inline)    0    1    2    3 ..   │ n ..  directory
//! bytes      64      512  1K   2K   4K ..   │
//! ```
#![forbid(unsafe_code)]

mod cells;

use super::directory::{Directory, Entries};
use super::packed::{self, Direct, Frame};
use super::run::PageRun;
use super::search::last_at_most;
use crate::exact::{usize as exact, Exact as _};
use crate::store::{AllocError, Storage};

/// Bytes of the leaf that lives in the list.
const INLINE_LEAF: usize = 64;
/// The first leaf in the storage; each of the next is twice as large, up to a piece.
const FIRST_LEAF: usize = 512;

/// The packed runs of a list.
#[derive(Debug)]
pub(super) struct Leaves<S> {
    storage: S,
    inline: [u8; INLINE_LEAF],
    /// How many leaves there are beside the inline one.
    outer: usize,
    directory: Directory,
}

/// Where a page is found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found<'a> {
    pub(super) leaf: &'a [u8],
    pub(super) leaf_index: usize,
    /// The first page of that leaf.
    pub(super) leaf_first: u64,
    /// The group in that leaf.
    pub(super) group: usize,
}

/// Where a page is: its leaf, and the group there, as the one without a key, in which pages are counted from the
/// first of the list, or by its number, from the first of the leaf.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot<'a> {
    leaf: &'a [u8],
    page: u64,
    group: Result<Direct, usize>,
}

impl<'a> Spot<'a> {
    /// The frame of the page, not read yet: the third step.
    #[inline]
    pub(super) fn frame(self) -> Frame<'a> {
        match self.group {
            Ok(direct) => direct.lookup(self.leaf, self.page),
            Err(group) => packed::lookup(self.leaf, group, self.page),
        }
    }
}

impl<S: Storage> Leaves<S> {
    const PIECES_ARE_VALID: () = assert!(
        S::PIECE_BYTES.is_power_of_two() && S::PIECE_BYTES >= 512 && S::PIECE_BYTES <= 4096
    );
    const PIECE_LOG2: u32 = S::PIECE_BYTES.ilog2();

    /// No leaf but the inline one; `storage` has no pieces.
    pub(super) fn new(storage: S) -> Self {
        let () = Self::PIECES_ARE_VALID;
        let mut inline = [0; INLINE_LEAF];
        packed::clear(&mut inline, 0);
        Self { storage, inline, outer: 0, directory: Directory::NONE }
    }

    pub(super) fn storage(&self) -> &S {
        &self.storage
    }

    /// How many leaves there are: at least one.
    #[inline]
    pub(super) fn count(&self) -> usize {
        self.outer.plus(1)
    }

    /// Leaf `index`; empty if there is none.
    #[inline]
    pub(super) fn leaf(&self, index: usize) -> &[u8] {
        match index.checked_sub(1) {
            None => &self.inline,
            Some(outer) => self.storage.piece(outer),
        }
    }

    #[inline]
    fn leaf_mut(&mut self, index: usize) -> &mut [u8] {
        match index.checked_sub(1) {
            None => &mut self.inline,
            Some(outer) => self.storage.piece_mut(outer),
        }
    }

    /// The leaf that is being filled.
    #[inline]
    pub(super) fn last_mut(&mut self) -> &mut [u8] {
        self.leaf_mut(self.outer)
    }

    /// The first page of leaf `index`; `None` if there is no such leaf.
    #[inline]
    pub(super) fn first_page(&self, index: usize) -> Option<u64> {
        (index <= self.outer).then(|| packed::first_page(self.leaf(index)))
    }

    /// The group that holds page `page`. O(log runs); where the directory is fine enough, O(1).
    #[inline]
    pub(super) fn find(&self, page: u64) -> Found<'_> {
        self.find_by(self.entries(self.directory.offset(page)), page)
    }

    /// What the directory has for byte `offset` of the list: the first step of a lookup.
    #[inline]
    pub(super) fn entries(&self, offset: u64) -> Entries {
        self.directory.entries(offset, Self::PIECE_LOG2, |index| self.directory_piece(index))
    }

    /// The address of byte `offset`, if the directory has it.
    #[inline]
    pub(super) fn address_by(&self, entries: Entries, offset: u64) -> Option<u64> {
        self.directory.address(entries, offset)
    }

    /// The group that holds page `page`.
    #[inline]
    pub(super) fn find_by(&self, entries: Entries, page: u64) -> Found<'_> {
        match self.direct(entries, page) {
            Some((leaf_index, leaf, direct)) => {
                let (leaf_first, group) = (packed::first_page(leaf), direct.number());
                Found { leaf, leaf_index, leaf_first, group }
            }
            None => self.find_group(entries, page),
        }
    }

    /// The same by keys, as where the directory does not name the only group of a cell.
    #[inline]
    fn find_group(&self, entries: Entries, page: u64) -> Found<'_> {
        let (offset, piece) = (self.directory.offset(page), |index| self.directory_piece(index));
        let (from, to) = self.directory.around(entries, offset, Self::PIECE_LOG2, piece);
        if from.leaf != to.leaf {
            return self.search(page, from.leaf, to.leaf);
        }
        let found = self.find_in(from.leaf, page, from.group, to.group);
        if to.is_open() && found.group.plus(1) == packed::groups(found.leaf) {
            let next = from.leaf.plus(1);
            if self.first_page(next).is_some_and(|first| first <= page) {
                return self.search(page, next, self.outer);
            }
        }
        found
    }

    /// The frame of page `page`, which the directory does not have. Apart, as there are few of them where
    /// runs are large, and so the way to the others stays short.
    #[inline(never)]
    pub(super) fn find_frame(&self, entries: Entries, page: u64) -> u64 {
        if entries.only().is_none() {
            return self.search_frame(entries, page);
        }
        self.direct_frame(entries, page)
    }

    #[inline(never)]
    fn direct_frame(&self, entries: Entries, page: u64) -> u64 {
        match self.direct(entries, page) {
            Some((_, leaf, direct)) => direct.lookup(leaf, page).get(),
            None => self.search_frame(entries, page),
        }
    }

    #[inline(never)]
    fn search_frame(&self, entries: Entries, page: u64) -> u64 {
        let found = self.find_group(entries, page);
        packed::lookup(found.leaf, found.group, page.minus(found.leaf_first)).get()
    }

    /// Where page `page` is: the second step.
    #[inline]
    pub(super) fn spot(&self, entries: Entries, page: u64) -> Spot<'_> {
        if let Some((_, leaf, direct)) = self.direct(entries, page) {
            return Spot { leaf, page, group: Ok(direct) };
        }
        let Found { leaf, leaf_first, group, .. } = self.find_group(entries, page);
        Spot { leaf, page: page.minus(leaf_first), group: Err(group) }
    }

    /// The run that holds page `page` of a list of `pages` pages: its first page, and the run.
    pub(super) fn run_at(&self, page: u64, pages: u64) -> (u64, PageRun) {
        let entries = self.entries(self.directory.offset(page));
        let direct = self.direct(entries, page);
        if let Some(found) = direct.and_then(|(_, leaf, direct)| direct.run(leaf, page)) {
            return found;
        }
        let found = self.find_by(entries, page);
        let Found { leaf, leaf_first, group: index, .. } = found;
        let group = packed::group(leaf, index);
        let first = leaf_first.plus(group.first);
        let run = group.find(leaf, page.minus(first));
        let begin = first.plus(run.1);
        let end = match group.next_offset(leaf, run) {
            Some(offset) => first.plus(offset),
            None => self.group_end(&found, pages),
        };
        let start = group.start(leaf, run.0);
        (begin, PageRun::stored(start, end.minus(begin), group.kind))
    }

    /// The page behind the last of a group, in a list of `pages` pages.
    #[inline]
    pub(super) fn group_end(&self, found: &Found<'_>, pages: u64) -> u64 {
        match packed::group_first(found.leaf, found.group.plus(1)) {
            Some(first) => found.leaf_first.plus(first),
            None => self.first_page(found.leaf_index.plus(1)).unwrap_or(pages),
        }
    }

    /// The group that holds page `page`, where the directory names the only one of a cell, or the first of the
    /// next leaf, if that is open; and its leaf. In line, as a call would pass all of it through memory.
    #[inline(always)]
    fn direct(&self, entries: Entries, page: u64) -> Option<(usize, &[u8], Direct)> {
        let (leaf_index, at) = entries.only()?;
        let leaf = self.leaf(leaf_index);
        let direct = Direct::read(leaf, at)?;
        if direct.is_open() {
            let next = leaf_index.plus(1);
            if self.first_page(next).is_some_and(|first| first <= page) {
                let leaf = self.leaf(next);
                return Some((next, leaf, Direct::read(leaf, 0)?));
            }
        }
        Some((leaf_index, leaf, direct))
    }

    #[inline]
    fn directory_piece(&self, index: usize) -> &[u8] {
        self.storage.piece(self.outer.plus(index))
    }

    /// The group that holds page `page`, somewhere in the leaves from `from` to `to`.
    #[inline(never)]
    fn search(&self, page: u64, from: usize, to: usize) -> Found<'_> {
        let count = to.min(self.outer).saturating_sub(from).plus(1);
        let first = |index: usize| packed::first_page(self.leaf(from.plus(index)));
        let leaf_index = from.plus(last_at_most(count, page, first));
        self.find_in(leaf_index, page, 0, usize::MAX)
    }

    /// The group that holds page `page`, in leaf `leaf_index`, from number `from` to number `to`.
    #[inline]
    fn find_in(&self, leaf_index: usize, page: u64, from: usize, to: usize) -> Found<'_> {
        let leaf = self.leaf(leaf_index);
        let leaf_first = packed::first_page(leaf);
        let group = packed::find_group(leaf, page.minus(leaf_first), from, to);
        Found { leaf, leaf_index, leaf_first, group }
    }

    /// Adds an empty leaf that begins at page `first_page`.
    ///
    /// If there is no memory, nothing has changed; nor if the storage unwinds.
    pub(super) fn add(&mut self, first_page: u64) -> Result<(), AllocError> {
        self.storage.grow(doubled(FIRST_LEAF, self.outer, S::PIECE_BYTES))?;
        self.outer = self.outer.plus(1);
        packed::clear(self.last_mut(), first_page);
        Ok(())
    }

    /// Takes back all runs from page `page` on, where a run begins.
    pub(super) fn truncate(&mut self, page: u64) {
        while self.outer > 0 && packed::first_page(self.leaf(self.outer)) >= page {
            self.outer = self.outer.minus(1);
            self.storage.shrink();
        }
        packed::truncate(self.last_mut(), page);
    }
}

/// The size `first`, doubled `times` times, `most` at the most.
const fn doubled(first: usize, times: usize, most: usize) -> usize {
    let mut size = first;
    let mut left = times;
    while left > 0 && size < most {
        size = exact::times(size, 2);
        left = exact::minus(left, 1);
    }
    size
}
