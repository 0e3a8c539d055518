// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Pieces`]: a list in pieces from an allocator.
//!
//! The pieces are found by a piece map, whose tables are never larger than a page. It comes with the first piece, as
//! most lists are of a few runs and have none: they are moved often, and are half as large without it.

#[cfg(feature = "alloc")]
use super::allocator::OnHeap;
use super::allocator::{Allocator, NoMemory};
use super::piece_map::PieceMap;
use super::storage::{is_piece_size, AllocError, Storage};
use crate::exact::Exact as _;
use core::{fmt, mem::size_of_val};

/// Pieces of at most 4 KiB from an allocator, each allocated on its own and fallibly: of the global one,
/// that is a `Heap`.
///
/// A list of a few runs allocates nothing; the first piece has 512 bytes.
pub struct Pieces<A: Allocator> {
    map: Option<A::One<PieceMap<u8, A>>>,
    piece_bytes: usize,
    allocator: A,
}

/// The memory of a list from the global allocator.
#[cfg(feature = "alloc")]
pub type Heap = Pieces<OnHeap>;

#[cfg(feature = "alloc")]
impl Heap {
    /// An empty storage; allocates nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::new_in(OnHeap)
    }
}

#[cfg(feature = "alloc")]
impl Default for Heap {
    fn default() -> Self {
        Self::new()
    }
}

impl<A: Allocator> Pieces<A> {
    pub(crate) const fn new_in(allocator: A) -> Self {
        Self { map: None, piece_bytes: 0, allocator }
    }

    #[inline]
    fn map(&self) -> Option<&PieceMap<u8, A>> {
        self.map.as_ref().map(|map| {
            let [map] = &**map;
            map
        })
    }

    #[inline]
    fn map_mut(&mut self) -> Option<&mut PieceMap<u8, A>> {
        self.map.as_mut().map(|map| {
            let [map] = &mut **map;
            map
        })
    }
}

impl<A: Allocator + Copy> Pieces<A> {
    /// Adds a piece of zeros.
    fn add(&mut self, bytes: usize) -> Result<(), NoMemory> {
        let piece = self.allocator.zeros(bytes)?;
        if let Some(map) = self.map_mut() {
            return map.push(piece);
        }
        let mut map = PieceMap::new(self.allocator);
        map.push(piece)?;
        self.map = Some(self.allocator.one(map)?);
        Ok(())
    }
}

// SAFETY:
// - "a piece keeps what was written to it, and its length": the map neither moves nor changes what is in
//   its pieces, whose length is set once, and the piece of a number is reached through it alone;
// - "the same bytes for the same number, and different bytes for different numbers": `get` and
//   `get_mut` find the one piece of a number;
// - "at least the bytes that were asked for and at most 4096, a multiple of 8": a piece has exactly
//   `bytes` bytes, which are checked;
// - "`grow` adds exactly one piece, or changes nothing": it returns before it adds one, and calls
//   nothing that unwinds: the allocator is asked in the way that may fail;
// - "`shrink` removes exactly the last piece; .. do not unwind": `pop` removes one piece, which is bytes.
unsafe impl<A: Allocator + Copy> Storage for Pieces<A> {
    const PIECE_BYTES: usize = 4096;

    fn grow(&mut self, bytes: usize) -> Result<(), AllocError> {
        if !is_piece_size(bytes, Self::PIECE_BYTES) {
            return Err(AllocError);
        }
        self.add(bytes).map_err(|NoMemory| AllocError)?;
        self.piece_bytes = self.piece_bytes.plus(bytes);
        Ok(())
    }

    /// Frees the piece; the tables stay for those that follow.
    fn shrink(&mut self) {
        let last = self.map_mut().and_then(PieceMap::pop);
        let bytes = last.map_or(0, |piece| piece.len());
        self.piece_bytes = self.piece_bytes.saturating_sub(bytes);
    }

    fn pieces(&self) -> usize {
        self.map().map_or(0, PieceMap::len)
    }

    #[inline]
    fn piece(&self, index: usize) -> &[u8] {
        self.map().map_or(&[], |map| map.get(index))
    }

    #[inline]
    fn piece_mut(&mut self, index: usize) -> &mut [u8] {
        self.map_mut().and_then(|map| map.get_mut(index)).unwrap_or_default()
    }

    fn footprint(&self) -> usize {
        let map = self.map().map_or(0, |map| map.footprint().saturating_add(size_of_val(map)));
        self.piece_bytes.saturating_add(map)
    }
}

impl<A: Allocator> fmt::Debug for Pieces<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pieces")
            .field("pieces", &self.map().map_or(0, PieceMap::len))
            .field("bytes", &self.piece_bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Far enough to use every level of the piece map.
    #[test]
    fn pieces_keep_what_was_written() {
        let count = 4 + 64 + 16 * 256 + (128 + 3) * 256 + 5;
        let mut heap = Heap::new();
        assert_eq!(heap.footprint(), 0);
        for index in 0..count {
            heap.grow(8).unwrap();
            heap.piece_mut(index).copy_from_slice(&(index as u64).to_le_bytes());
        }
        for index in 0..count {
            assert_eq!(heap.piece(index), (index as u64).to_le_bytes());
        }
        assert_eq!(heap.pieces(), count);
        assert!(heap.piece(count).is_empty() && heap.piece_mut(count).is_empty());
        assert!(heap.footprint() > count * 8);
        for _ in 0..count {
            heap.shrink();
        }
        heap.shrink();
        assert_eq!((heap.pieces(), heap.piece_bytes), (0, 0));
        assert!(heap.piece(0).is_empty());
        // The tables are used again.
        let tables = heap.footprint();
        for _ in 0..count {
            heap.grow(8).unwrap();
        }
        assert_eq!(heap.footprint(), tables + count * 8);
    }
}
