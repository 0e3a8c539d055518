// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`GrowingSlab`]: values in pieces from an allocator.
//!
//! ```text
//!               piece       slot
//! key      [ .. 0 0 1 | 0 0 0 1 0 ]
//!                 │           └───────────┐
//! piece map [ 0 | 1 | 2 | 3 | .. ]        │
//!                 └──► [ full | free | full | free | .. ]    at most a page
//! first free ──────────────────┴─────────────►┘
//! ```
//!
//! A slot has as many bits as the places of a piece need, so that a key is found with a shift and a
//! mask, and a piece has as many places as a page holds. Pieces double from an eighth of a page to
//! a page; the keys in between are not used.
#![allow(
    clippy::cast_possible_truncation,
    reason = "a piece has at most 512 places, and no more pieces than 32 bits count"
)]

use super::slot::{SlabSlot, NONE};
use super::Slab;
use crate::exact::{self, Exact as _};
use crate::pieces::{Allocator, PieceMap};
use core::mem::size_of;

/// Values in pieces of at most a page. A place that was left is used again before memory is asked
/// for. Everything takes O(1), but [`footprint`](Self::footprint).
pub(crate) struct GrowingSlab<T, A: Allocator> {
    pieces: PieceMap<SlabSlot<T>, A>,
    /// All places, free or full.
    places: usize,
    full: usize,
    /// The first free place. Invariant: the list that begins here holds each free place once, and
    /// nothing else.
    free: u32,
}

impl<T, A: Allocator> GrowingSlab<T, A> {
    /// Places of a full-grown piece: one, where a value needs more than a page.
    const PER_PIECE: usize = match 4096usize.checked_div(size_of::<SlabSlot<T>>()) {
        None | Some(0) => 1,
        Some(places) => places,
    };
    const SLOT_BITS: u32 = Self::PER_PIECE.next_power_of_two().trailing_zeros();
    /// So few pieces that no key is [`NONE`].
    const MOST_PIECES: u32 = u32::MAX >> Self::SLOT_BITS;

    /// An empty slab; allocates nothing.
    pub(crate) fn new(allocator: A) -> Self {
        Self { pieces: PieceMap::new(allocator), places: 0, full: 0, free: NONE }
    }

    /// How many values there are.
    #[inline]
    pub(crate) const fn len(&self) -> usize {
        self.full
    }

    /// The bytes of all places and tables, in O(tables).
    pub(crate) fn footprint(&self) -> usize {
        self.places.saturating_mul(size_of::<SlabSlot<T>>()).saturating_add(self.pieces.footprint())
    }

    /// The bytes of each piece.
    #[cfg(test)]
    pub(super) fn piece_sizes(&self) -> impl Iterator<Item = usize> + Clone + '_ {
        (0..self.pieces.len()).filter_map(|index| self.pieces.get(index)).map(size_of_val)
    }

    #[inline]
    const fn path(key: u32) -> (usize, usize) {
        let slot = key & !u32::MAX.wrapping_shl(Self::SLOT_BITS);
        (exact::u32::shifted_down(key, Self::SLOT_BITS) as usize, slot as usize)
    }

    #[inline]
    fn place(&self, key: u32) -> Option<&SlabSlot<T>> {
        let (piece, slot) = Self::path(key);
        self.pieces.get(piece)?.get(slot)
    }

    #[inline]
    fn place_mut(&mut self, key: u32) -> Option<&mut SlabSlot<T>> {
        let (piece, slot) = Self::path(key);
        self.pieces.get_mut(piece)?.get_mut(slot)
    }

    /// Adds a piece of free places; `None` if there is no memory. Only called when none is free.
    fn grow(&mut self) -> Option<()> {
        let index = self.pieces.len();
        if index >= Self::MOST_PIECES as usize {
            return None;
        }
        // An eighth of a page, a quarter, a half, and pages from there on.
        let count = (Self::PER_PIECE >> 3usize.saturating_sub(index)).max(1);
        let first = (index as u32).shifted_up(Self::SLOT_BITS);
        let mut places = self.pieces.allocator().table(count).ok()?;
        for slot in 1..count {
            A::push(&mut places, SlabSlot::before(first | slot as u32)).ok()?;
        }
        A::push(&mut places, SlabSlot::new()).ok()?;
        self.pieces.push(A::piece(places)).ok()?;
        self.places = self.places.plus(count);
        self.free = first;
        Some(())
    }
}

// SAFETY:
// - "a value stays under the key that `insert` gave until it is removed": a key has one place, in a piece
//   that is not moved or taken back before the slab is dropped;
// - "no two values have one key at a time": `insert` takes a key from the list of free places, which
//   holds those once that are free, and a place is put there only when a value is taken out of it. No
//   key is `u32::MAX`, because there are at most `MOST_PIECES` pieces;
// - "`get`, `get_mut` and `remove` find the value that is under the key": they look into that place;
// - "`remove` does not allocate; no method unwinds": memory is asked for by `insert` alone, in the way
//   that may fail.
unsafe impl<T, A: Allocator> Slab<T> for GrowingSlab<T, A> {
    fn insert(&mut self, value: T) -> Result<u32, T> {
        if self.free == NONE && self.grow().is_none() {
            return Err(value);
        }
        let key = self.free;
        let Some(place) = self.place_mut(key) else {
            return Err(value);
        };
        self.free = place.fill(value)?;
        self.full = self.full.plus(1);
        Ok(key)
    }

    #[inline]
    fn get(&self, key: u32) -> Option<&T> {
        self.place(key)?.value()
    }

    #[inline]
    fn get_mut(&mut self, key: u32) -> Option<&mut T> {
        self.place_mut(key)?.value_mut()
    }

    fn remove(&mut self, key: u32) -> Option<T> {
        let free = self.free;
        let value = self.place_mut(key)?.empty(free)?;
        self.free = key;
        self.full = self.full.minus(1);
        Some(value)
    }
}
