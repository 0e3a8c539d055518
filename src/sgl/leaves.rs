// SPDX-License-Identifier: MIT OR Apache-2.0
//! The leaves of a list, and the directory that finds the leaf of a page.
//!
//! Leaf 0 lives in the list itself, so that a few runs need no memory. The others are pieces of
//! the storage. The directory knows the first page of each leaf; its first entries live in the
//! list too, the rest in *shelves*, pieces that double until they have the size of a page. Leaf and
//! shelf numbers follow from each other, so they need not be stored:
//!
//! ```text
//! leaf       0        1  2  3  4  │        5 .. 20 │        21 .. 52 │
//! piece   (inline)    0  1  2  3  │ 4 │    5 .. 20 │ 21 │   22 .. 53 │ ..
//! entry      -        0  1  2  3  │        4 .. 19 │        20 .. 51 │
//!                     (inline)    │ ▲ shelf 0 (16) │ ▲  shelf 1 (32) │
//! ```
#![forbid(unsafe_code)]

use super::packed;
use super::search::last_at_most;
use crate::exact::{usize as exact, Exact as _};
use crate::store::{AllocError, Storage};

/// Bytes of the leaf that lives in the list.
const INLINE_LEAF: usize = 64;
/// Directory entries that live in the list.
const NEAR: usize = 4;
/// Shelves whose first entry lives in the list, too.
const TOPS: usize = 8;
/// Entries of the first shelf.
const FIRST_SHELF_LOG2: u32 = 4;
const FIRST_SHELF: usize = 1 << FIRST_SHELF_LOG2;
/// The first leaf in the storage; each of the next is twice as large, up to a piece.
const FIRST_LEAF: usize = 512;
const ENTRY: usize = 8;

/// The packed runs of a list.
#[derive(Debug)]
pub(super) struct Leaves<S> {
    storage: S,
    inline: [u8; INLINE_LEAF],
    near: [u64; NEAR],
    /// The first entries of the first shelves, so that a search need not visit them; or the last
    /// page number there can be.
    tops: [u64; TOPS],
    /// How many leaves there are beside the inline one.
    outer: usize,
}

/// A directory entry: `slot` of shelf `shelf`.
struct ShelfSlot {
    shelf: usize,
    slot: usize,
}

impl ShelfSlot {
    /// The slot of the entry that has `index` entries before it on the shelves, where the
    /// largest shelf has `2^largest` times the entries of the first.
    #[inline]
    const fn of(index: usize, largest: u32) -> Self {
        let doubling = before_doubled(largest);
        if index < doubling {
            let shelf = exact::plus(index >> FIRST_SHELF_LOG2, 1).ilog2();
            let slot = exact::minus(index, before_doubled(shelf));
            return Self { shelf: shelf as usize, slot };
        }
        let beyond = exact::minus(index, doubling);
        let log2 = crate::exact::u32::plus(largest, FIRST_SHELF_LOG2);
        Self {
            shelf: exact::plus(largest as usize, exact::shifted_down(beyond, log2)),
            slot: beyond & exact::minus(exact::shifted_up(1, log2), 1),
        }
    }
}

impl<S: Storage> Leaves<S> {
    /// The largest shelf is a piece.
    const LARGEST: u32 = Self::FULL_SHELF - FIRST_SHELF_LOG2;
    const DOUBLING: usize = before_doubled(Self::LARGEST);
    const PIECES_ARE_VALID: () = assert!(
        S::PIECE_BYTES.is_power_of_two() && S::PIECE_BYTES >= 512 && S::PIECE_BYTES <= 4096
    );
    const FULL_SHELF: u32 = S::PIECE_BYTES.ilog2() - ENTRY.ilog2();

    /// No leaf but the inline one; `storage` has no pieces.
    pub(super) fn new(storage: S) -> Self {
        let () = Self::PIECES_ARE_VALID;
        let mut inline = [0; INLINE_LEAF];
        packed::clear(&mut inline, 0);
        Self { storage, inline, near: [u64::MAX; NEAR], tops: [u64::MAX; TOPS], outer: 0 }
    }

    pub(super) fn storage(&self) -> &S {
        &self.storage
    }

    /// How many leaves there are: at least one.
    #[inline]
    pub(super) fn count(&self) -> usize {
        self.outer.plus(1)
    }

    /// How many entries stand on the shelves before shelf `shelf`.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "below `LARGEST` where it is cast")]
    const fn before_shelf(shelf: usize) -> usize {
        match shelf.checked_sub(Self::LARGEST as usize) {
            None => before_doubled(shelf as u32),
            Some(full) => exact::plus(Self::DOUBLING, exact::shifted_up(full, Self::FULL_SHELF)),
        }
    }

    /// The piece of shelf `shelf`: behind the near leaves, and the leaves and shelves before it.
    #[inline]
    const fn shelf_piece(shelf: usize) -> usize {
        exact::plus(exact::plus(NEAR, Self::before_shelf(shelf)), shelf)
    }

    /// The piece of a leaf beside the inline one.
    #[inline]
    const fn leaf_piece(outer: usize) -> usize {
        match outer.checked_sub(NEAR) {
            None => outer,
            Some(index) => {
                exact::plus(exact::plus(outer, ShelfSlot::of(index, Self::LARGEST).shelf), 1)
            }
        }
    }

    /// Leaf `index`; empty if there is none.
    #[inline]
    pub(super) fn leaf(&self, index: usize) -> &[u8] {
        match index.checked_sub(1) {
            None => &self.inline,
            Some(outer) => self.storage.piece(Self::leaf_piece(outer)),
        }
    }

    #[inline]
    fn leaf_mut(&mut self, index: usize) -> &mut [u8] {
        match index.checked_sub(1) {
            None => &mut self.inline,
            Some(outer) => self.storage.piece_mut(Self::leaf_piece(outer)),
        }
    }

    /// The leaf that is being filled.
    #[inline]
    pub(super) fn last_mut(&mut self) -> &mut [u8] {
        self.leaf_mut(self.outer)
    }

    #[inline]
    fn shelf_entry(&self, shelf: usize, slot: usize) -> u64 {
        let piece = self.storage.piece(Self::shelf_piece(shelf));
        packed::load(piece, slot.times(ENTRY))
    }

    /// The first page of leaf `index`; `None` if there is no such leaf.
    #[inline]
    pub(super) fn first_page(&self, index: usize) -> Option<u64> {
        let Some(outer) = index.checked_sub(1) else {
            return Some(0);
        };
        if outer >= self.outer {
            return None;
        }
        match outer.checked_sub(NEAR) {
            None => self.near.get(outer).copied(),
            Some(entry) => {
                let ShelfSlot { shelf, slot } = ShelfSlot::of(entry, Self::LARGEST);
                Some(self.shelf_entry(shelf, slot))
            }
        }
    }

    /// The leaf that holds page `page`, and its first page. O(log leaves).
    #[inline]
    pub(super) fn find(&self, page: u64) -> (usize, u64) {
        let before = |entries: &[u64]| {
            entries.iter().fold(0usize, |n, &first| n.plus(usize::from(first <= page)))
        };
        if let Some(shelf) = before(&self.tops).checked_sub(1) {
            return self.find_on_shelves(page, shelf);
        }
        let leaf = before(&self.near);
        (leaf, leaf.checked_sub(1).and_then(|last| self.near.get(last)).map_or(0, |first| *first))
    }

    /// The leaf of a page that lies on shelf `shelf`, or, if that is the last of the tops, beyond.
    #[inline]
    fn find_on_shelves(&self, page: u64, shelf: usize) -> (usize, u64) {
        let entries = self.outer.saturating_sub(NEAR);
        let mut shelf = shelf;
        if shelf == TOPS - 1 {
            let last = ShelfSlot::of(entries.minus(1), Self::LARGEST).shelf;
            let beyond = last_at_most(last.minus(shelf).plus(1), page, |beyond| {
                self.shelf_entry(shelf.plus(beyond), 0)
            });
            shelf = shelf.plus(beyond);
        }
        let before = Self::before_shelf(shelf);
        let full = Self::before_shelf(shelf.plus(1)).min(entries).minus(before);
        let piece = self.storage.piece(Self::shelf_piece(shelf));
        let entry = |slot: usize| packed::load(piece, slot.times(ENTRY));
        let slot = last_at_most(full, page, entry);
        let leaf = NEAR.plus(before).plus(slot).plus(1);
        (leaf, entry(slot))
    }

    /// Adds an empty leaf that begins at page `first_page`, after `runs_before` runs.
    ///
    /// If there is no memory, nothing has changed; nor if the storage unwinds.
    pub(super) fn add(&mut self, first_page: u64, runs_before: u64) -> Result<(), AllocError> {
        let outer = self.outer;
        let bytes = doubled(FIRST_LEAF, outer, S::PIECE_BYTES);
        let mut added = Added { storage: &mut self.storage, pieces: 0 };
        match outer.checked_sub(NEAR) {
            None => {
                let entry = self.near.get_mut(outer).ok_or(AllocError)?;
                added.grow(bytes)?;
                *entry = first_page;
            }
            Some(index) => {
                let ShelfSlot { shelf, slot } = ShelfSlot::of(index, Self::LARGEST);
                if slot == 0 {
                    added.grow(doubled(FIRST_SHELF * ENTRY, shelf, S::PIECE_BYTES))?;
                }
                added.grow(bytes)?;
                let piece = added.storage.piece_mut(Self::shelf_piece(shelf));
                let entry = piece.get_mut(slot.times(ENTRY)..).and_then(<[u8]>::first_chunk_mut);
                *entry.ok_or(AllocError)? = first_page.to_le_bytes();
                if let Some(top) = self.tops.get_mut(shelf).filter(|_| slot == 0) {
                    *top = first_page;
                }
            }
        }
        added.keep();
        self.outer = outer.plus(1);
        packed::clear(self.last_mut(), runs_before);
        Ok(())
    }

    /// Takes back all runs from number `runs` on; `now` are packed.
    pub(super) fn truncate(&mut self, runs: u64, now: u64) {
        let mut now = now;
        while let Some(outer) = self.outer.checked_sub(1) {
            let before = packed::runs_before(self.leaf(self.outer));
            if before < runs {
                break;
            }
            now = before;
            self.drop_last(outer);
        }
        packed::remove(self.last_mut(), now.saturating_sub(runs));
    }

    /// Takes the last leaf back; `outer` are left beside the inline one.
    fn drop_last(&mut self, outer: usize) {
        self.outer = outer;
        self.storage.shrink();
        let Some(index) = outer.checked_sub(NEAR) else {
            if let Some(entry) = self.near.get_mut(outer) {
                *entry = u64::MAX;
            }
            return;
        };
        let ShelfSlot { shelf, slot } = ShelfSlot::of(index, Self::LARGEST);
        if slot == 0 {
            self.storage.shrink();
            if let Some(top) = self.tops.get_mut(shelf) {
                *top = u64::MAX;
            }
        }
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

/// How many entries stand on the first `shelves` shelves, if each is twice as large as the last.
#[inline]
const fn before_doubled(shelves: u32) -> usize {
    exact::minus(exact::shifted_up(FIRST_SHELF, shelves), FIRST_SHELF)
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
