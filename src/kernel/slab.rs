// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`PieceSlab`]: the mappings of an address space in pieces from the kernel's allocator.
//!
//! A key is the number of a piece and of a place in it, as in `HeapSlab`.
#![allow(
    clippy::cast_possible_truncation,
    reason = "a piece has at most 512 places, and no more pieces than 32 bits count"
)]

use super::piece_map::PieceMap;
use crate::iommu::{Slab, SlabSlot};
use core::{fmt, mem::size_of};
use kernel::alloc::{Flags, KVec};

/// The key of nothing.
const NONE: u32 = u32::MAX;

/// Values in pieces of at most 4 KiB from `kmalloc()`, allocated with the flags of the caller. A
/// value that needs more than that has a piece of its own.
///
/// An empty slab allocates nothing. A place that was left is used again before memory is asked for;
/// memory is given back when the slab is dropped. Everything takes O(1).
pub struct PieceSlab<T> {
    map: PieceMap<SlabSlot<T>>,
    full: usize,
    /// The first free place. Invariant: the list that begins here holds each free place once, and
    /// nothing else.
    free: u32,
    flags: Flags,
}

impl<T> PieceSlab<T> {
    /// Places of a full-grown piece.
    const PER_PIECE: usize = match 4096usize.checked_div(size_of::<SlabSlot<T>>()) {
        None | Some(0) => 1,
        Some(places) => places,
    };
    const SLOT_BITS: u32 = Self::PER_PIECE.next_power_of_two().trailing_zeros();
    /// So few pieces that no key is [`NONE`].
    const MOST_PIECES: u32 = u32::MAX >> Self::SLOT_BITS;

    /// An empty slab, which will allocate with `flags`.
    #[must_use]
    pub const fn new(flags: Flags) -> Self {
        Self { map: PieceMap::new(), full: 0, free: NONE, flags }
    }

    /// How many values there are.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.full
    }

    /// Whether there is no value.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.full == 0
    }

    #[inline]
    const fn path(key: u32) -> (usize, usize) {
        let slot = key & !u32::MAX.wrapping_shl(Self::SLOT_BITS);
        (key.wrapping_shr(Self::SLOT_BITS) as usize, slot as usize)
    }

    #[inline]
    fn place_mut(&mut self, key: u32) -> Option<&mut SlabSlot<T>> {
        let (piece, slot) = Self::path(key);
        self.map.get_mut(piece)?.get_mut(slot)
    }

    /// Adds a piece of free places; `None` if there is no memory. Only called when none is free.
    fn grow(&mut self) -> Option<()> {
        let index = self.map.len();
        if index >= Self::MOST_PIECES as usize {
            return None;
        }
        // An eighth of a page, a quarter, a half, and pages from there on.
        let count = (Self::PER_PIECE >> 3usize.saturating_sub(index)).max(1);
        let first = (index as u32).wrapping_shl(Self::SLOT_BITS);
        let mut piece = KVec::with_capacity(count, self.flags).ok()?;
        for slot in 1..count {
            piece.push_within_capacity(SlabSlot::before(first | slot as u32)).ok()?;
        }
        piece.push_within_capacity(SlabSlot::new()).ok()?;
        self.map.push(piece, self.flags).ok()?;
        self.free = first;
        Some(())
    }
}

// SAFETY: a key has one place, in a vector that is not moved or taken back before the slab is
// dropped; `get`, `get_mut` and `remove` look into that place. `insert` takes a key from the list of
// free places, which holds those once that are free, and a place is put there only when a value is
// taken out of it. No key is `u32::MAX`, because there are at most `MOST_PIECES` pieces.
unsafe impl<T> Slab<T> for PieceSlab<T> {
    fn insert(&mut self, value: T) -> Result<u32, T> {
        if self.free == NONE && self.grow().is_none() {
            return Err(value);
        }
        let key = self.free;
        let Some(place) = self.place_mut(key) else {
            return Err(value);
        };
        self.free = place.fill(value)?;
        self.full = self.full.wrapping_add(1);
        Ok(key)
    }

    #[inline]
    fn get(&self, key: u32) -> Option<&T> {
        let (piece, slot) = Self::path(key);
        self.map.get(piece)?.get(slot)?.value()
    }

    #[inline]
    fn get_mut(&mut self, key: u32) -> Option<&mut T> {
        self.place_mut(key)?.value_mut()
    }

    fn remove(&mut self, key: u32) -> Option<T> {
        let free = self.free;
        let value = self.place_mut(key)?.empty(free)?;
        self.free = key;
        self.full = self.full.wrapping_sub(1);
        Some(value)
    }
}

impl<T> fmt::Debug for PieceSlab<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PieceSlab").field("len", &self.full).finish_non_exhaustive()
    }
}
