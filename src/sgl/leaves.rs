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

use super::directory::{Directory, Place};
use super::packed;
use super::search::last_at_most;
use crate::exact::{usize as exact, Exact as _};
use crate::store::{AllocError, Storage};

/// Bytes of the leaf that lives in the list.
const INLINE_LEAF: usize = 64;
/// The first leaf in the storage; each of the next is twice as large, up to a piece.
const FIRST_LEAF: usize = 512;
/// A search in so few leaves is as good as a directory.
const FEW_LEAVES: usize = 4;

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
        self.find_between(page, self.around(page))
    }

    /// The first and the last group that can hold page `page`: the first step of [`find`](Self::find).
    #[inline]
    pub(super) fn around(&self, page: u64) -> (Place, Place) {
        let piece = |index| self.storage.piece(self.outer.plus(index));
        self.directory.around(page, Self::PIECE_LOG2, piece)
    }

    /// The group that holds page `page`, between two groups: the second step.
    #[inline]
    pub(super) fn find_between(&self, page: u64, (from, to): (Place, Place)) -> Found<'_> {
        if from.leaf != to.leaf {
            return self.search(page, from.leaf, to.leaf);
        }
        self.find_in(from.leaf, page, from.group, to.group)
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

    /// Adds the directory of a list of `pages` pages, which gets no further leaf.
    ///
    /// If there is no memory, nothing has changed; nor if the storage unwinds.
    pub(super) fn add_directory(&mut self, pages: u64) -> Result<(), AllocError> {
        let leaves = self.count();
        if leaves <= FEW_LEAVES {
            return Ok(());
        }
        let groups = (0..leaves).map(|leaf| packed::groups(self.leaf(leaf)));
        let groups = groups.fold(0usize, |sum, groups| sum.plus(groups));
        // Two cells for a group that fills a leaf, four for others; an eighth of the leaves at most.
        let most = groups.times(4).saturating_sub(leaves.times(2)).min(leaves.times(128));
        let directory = Directory::new(pages, leaves, most);
        let mut added = Added { storage: &mut self.storage, pieces: 0 };
        for bytes in directory.pieces(Self::PIECE_LOG2) {
            added.grow(bytes)?;
        }
        added.keep();
        let (mut cell, mut place) = (0usize, Place::FIRST);
        for leaf in 0..leaves {
            let (first, groups) = (self.first_page(leaf), packed::groups(self.leaf(leaf)));
            for group in 0..groups {
                let begin = packed::group_first(self.leaf(leaf), group);
                let begin = first.unwrap_or(0).plus(begin.unwrap_or(0));
                while directory.begins_before(cell, begin) {
                    self.write_entry(cell, place);
                    cell = cell.plus(1);
                }
                place = Place { leaf, group };
            }
        }
        while directory.begins_before(cell, u64::MAX) {
            self.write_entry(cell, place);
            cell = cell.plus(1);
        }
        self.write_entry(cell, Place::END);
        self.directory = directory;
        Ok(())
    }

    #[inline]
    fn write_entry(&mut self, cell: usize, place: Place) {
        let (storage, leaves) = (&mut self.storage, self.outer);
        Directory::write(cell, place, Self::PIECE_LOG2, |index| {
            storage.piece_mut(leaves.plus(index))
        });
    }
}

/// Pieces that were added to a storage, and are removed again unless they are kept: so that nothing
/// changes where the storage fails or unwinds between two of them.
struct Added<'a, S: Storage> {
    storage: &'a mut S,
    pieces: usize,
}

impl<S: Storage> Added<'_, S> {
    fn grow(&mut self, bytes: usize) -> Result<(), AllocError> {
        self.storage.grow(bytes)?;
        self.pieces = self.pieces.plus(1);
        Ok(())
    }

    fn keep(mut self) {
        self.pieces = 0;
    }
}

impl<S: Storage> Drop for Added<'_, S> {
    fn drop(&mut self) {
        for _ in 0..self.pieces {
            self.storage.shrink();
        }
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
