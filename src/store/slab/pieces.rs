// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`PieceSlab`]: values in pieces from an allocator.
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
use super::{Slab, Slabs};
use crate::exact::{self, Exact as _};
#[cfg(feature = "alloc")]
use crate::store::allocator::OnHeap;
use crate::store::{allocator::Allocator, piece_map::PieceMap, pieces::Pieces};
use core::{fmt, mem::size_of};

/// Values in pieces of at most a page from an allocator, each allocated on its own and fallibly: from
/// the global one, that is a `HeapSlab`. A value that needs more than a page has a piece of its own.
///
/// An empty slab allocates nothing. A place that was left is used again before memory is asked
/// for; memory is given back when the slab is dropped. Everything takes O(1), but
/// [`footprint`](Self::footprint).
pub struct PieceSlab<T, A: Allocator> {
    pieces: PieceMap<SlabSlot<T>, A>,
    /// All places, free or full.
    places: usize,
    full: usize,
    /// The first free place. Invariant: the list that begins here holds each free place once, and
    /// nothing else.
    free: u32,
}

/// Values from the global allocator.
///
/// ```
/// use pinned_sgl::store::{HeapSlab, Slab};
/// let mut slab = HeapSlab::new();
/// let key = slab.insert("mapping").map_err(|_| "out of memory")?;
/// assert_eq!((slab.get(key), slab.len()), (Some(&"mapping"), 1));
/// assert_eq!((slab.remove(key), slab.remove(key)), (Some("mapping"), None));
/// # Ok::<(), &str>(())
/// ```
#[cfg(feature = "alloc")]
pub type HeapSlab<T> = PieceSlab<T, OnHeap>;

#[cfg(feature = "alloc")]
impl<T> HeapSlab<T> {
    /// An empty slab; allocates nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::new_in(OnHeap)
    }
}

#[cfg(feature = "alloc")]
impl<T> Default for HeapSlab<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T, A: Allocator> PieceSlab<T, A> {
    /// Places of a full-grown piece: one, where a value needs more than a page.
    const PER_PIECE: usize = match 4096usize.checked_div(size_of::<SlabSlot<T>>()) {
        None | Some(0) => 1,
        Some(places) => places,
    };
    const SLOT_BITS: u32 = Self::PER_PIECE.next_power_of_two().trailing_zeros();
    /// So few pieces that no key is [`NONE`].
    const MOST_PIECES: u32 = u32::MAX >> Self::SLOT_BITS;

    pub(crate) fn new_in(allocator: A) -> Self {
        Self { pieces: PieceMap::new(allocator), places: 0, full: 0, free: NONE }
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
        self.len() == 0
    }

    /// The bytes of memory that the slab holds outside of its own value, tables included; in
    /// O(tables).
    #[must_use]
    pub fn footprint(&self) -> usize {
        self.places.saturating_mul(size_of::<SlabSlot<T>>()).saturating_add(self.pieces.footprint())
    }

    /// The bytes of each piece.
    #[cfg(test)]
    fn piece_sizes(&self) -> impl Iterator<Item = usize> + Clone + '_ {
        (0..self.pieces.len()).map(|index| self.pieces.get(index)).map(size_of_val)
    }

    #[inline]
    const fn path(key: u32) -> (usize, usize) {
        let slot = key & !u32::MAX.wrapping_shl(Self::SLOT_BITS);
        (exact::u32::shifted_down(key, Self::SLOT_BITS) as usize, slot as usize)
    }

    #[inline]
    fn slot(&self, key: u32) -> Option<&SlabSlot<T>> {
        let (piece, slot) = Self::path(key);
        self.pieces.get(piece).get(slot)
    }

    #[inline]
    fn slot_mut(&mut self, key: u32) -> Option<&mut SlabSlot<T>> {
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
unsafe impl<T, A: Allocator> Slab<T> for PieceSlab<T, A> {
    fn insert(&mut self, value: T) -> Result<u32, T> {
        if self.free == NONE && self.grow().is_none() {
            return Err(value);
        }
        let key = self.free;
        let Some(place) = self.slot_mut(key) else {
            return Err(value);
        };
        self.free = place.fill(value)?;
        self.full = self.full.plus(1);
        Ok(key)
    }

    #[inline]
    fn get(&self, key: u32) -> Option<&T> {
        self.slot(key)?.value()
    }

    #[inline]
    fn get_mut(&mut self, key: u32) -> Option<&mut T> {
        self.slot_mut(key)?.value_mut()
    }

    fn remove(&mut self, key: u32) -> Option<T> {
        let free = self.free;
        let value = self.slot_mut(key)?.empty(free)?;
        self.free = key;
        self.full = self.full.minus(1);
        Some(value)
    }
}

impl<T, A: Allocator> Slabs<T> for Pieces<A> {
    type Slab = PieceSlab<T, A>;
}

impl<T, A: Allocator> fmt::Debug for PieceSlab<T, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PieceSlab").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[test]
    fn values_stay_and_places_are_used_again() {
        const MANY: usize = if cfg!(miri) { 1000 } else { 100_000 };
        let mut slab = HeapSlab::new();
        assert_eq!((slab.footprint(), slab.get(0), slab.get(NONE)), (0, None, None));
        let keys: Vec<u32> = (0..MANY as u64).map(|value| slab.insert(value).unwrap()).collect();
        let mut sorted = keys.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!((sorted.len(), slab.len()), (keys.len(), keys.len()));
        let bytes = slab.footprint();
        assert!(bytes >= MANY * size_of::<SlabSlot<u64>>());
        assert!(bytes <= MANY * size_of::<SlabSlot<u64>>() + 8192 + 400 * 24);
        for (value, &key) in (0..).zip(&keys) {
            assert_eq!(slab.get(key), Some(&value));
            assert_eq!(slab.get_mut(key).copied(), Some(value));
        }
        for &key in keys.iter().step_by(3) {
            assert!(slab.remove(key).is_some() && slab.remove(key).is_none());
            assert!(slab.get(key).is_none() && slab.get_mut(key).is_none());
        }
        for _ in keys.iter().step_by(3) {
            assert!(sorted.binary_search(&slab.insert(7).unwrap()).is_ok());
        }
        assert_eq!((slab.len(), slab.footprint()), (keys.len(), bytes));
        for (value, &key) in (0..).zip(&keys) {
            assert_eq!(slab.remove(key), Some(if value % 3 == 0 { 7 } else { value }));
        }
        assert!(slab.is_empty());
        assert_eq!(format!("{slab:?}"), "PieceSlab { len: 0, .. }");
    }

    /// A piece has as many values as fit a page, or one.
    #[test]
    fn pieces_are_pages() {
        fn check<T: Copy>(value: T) {
            const MANY: usize = if cfg!(miri) { 600 } else { 3000 };
            let mut slab = HeapSlab::new();
            let keys: Vec<_> = (0..MANY).map(|_| slab.insert(value).ok().unwrap()).collect();
            assert!(keys.iter().all(|&key| key != NONE && slab.get(key).is_some()));
            let sizes = slab.piece_sizes();
            let slot = size_of::<SlabSlot<T>>();
            assert!(sizes.clone().sum::<usize>() >= MANY * slot);
            assert_eq!(sizes.max(), Some(slot.max(4096 - 4096 % slot)));
        }
        check(());
        check(0u64);
        check([0u64; 8]);
        check([0u64; 255]);
        check([0u64; 256]);
        check([0u64; 1000]);
    }

    #[test]
    fn dropping_drops_the_values() {
        let value = Rc::new(());
        let mut slab = HeapSlab::new();
        let keys: Vec<_> = (0..1000).map(|_| slab.insert(value.clone()).unwrap()).collect();
        assert_eq!(Rc::strong_count(&value), 1001);
        drop(slab.remove(keys[500]));
        assert_eq!(Rc::strong_count(&value), 1000);
        drop(slab);
        assert_eq!(Rc::strong_count(&value), 1);
    }
}
