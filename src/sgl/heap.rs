// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Heap`]: a list in pieces from the global allocator.
//!
//! The pieces are found by a piece map, whose tables are never larger than a page.

use super::storage::{is_piece_size, AllocError, Storage};
use crate::exact::Exact as _;
use crate::pieces::{Allocator, Global, PieceMap};

/// Pieces from the global allocator, each allocated on its own and fallibly.
///
/// A list of a few runs allocates nothing; the first piece has 512 bytes.
#[derive(Debug, Default)]
pub struct Heap {
    pieces: PieceMap<u8, Global>,
    piece_bytes: usize,
}

impl Heap {
    /// An empty storage; allocates nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

// SAFETY:
// - "a piece keeps what was written to it, and its length": a piece map neither moves nor changes what
//   is in its boxes, and the box of a number is reached through it alone;
// - "the same bytes for the same number, and different bytes for different numbers": `get` and
//   `get_mut` find the one box of a number;
// - "at least the bytes that were asked for and at most 4096, a multiple of 8": a box has exactly
//   `bytes` bytes, which are checked;
// - "`grow` adds exactly one piece, or changes nothing": it returns before it adds one, and calls
//   nothing that unwinds: the allocator is asked in the way that may fail;
// - "`shrink` removes exactly the last piece; .. do not unwind": `pop` removes one box.
unsafe impl Storage for Heap {
    const PIECE_BYTES: usize = 4096;

    fn grow(&mut self, bytes: usize) -> Result<(), AllocError> {
        if !is_piece_size(bytes, Self::PIECE_BYTES) {
            return Err(AllocError);
        }
        let mut piece = Global.table(bytes).map_err(|_| AllocError)?;
        piece.resize(bytes, 0);
        self.pieces.push(piece.into_boxed_slice()).map_err(|_| AllocError)?;
        self.piece_bytes = self.piece_bytes.plus(bytes);
        Ok(())
    }

    /// Frees the piece; the tables stay for those that follow.
    fn shrink(&mut self) {
        let bytes = self.pieces.pop().map_or(0, |piece| piece.len());
        self.piece_bytes = self.piece_bytes.saturating_sub(bytes);
    }

    fn pieces(&self) -> usize {
        self.pieces.len()
    }

    #[inline]
    fn piece(&self, index: usize) -> &[u8] {
        self.pieces.get(index).unwrap_or_default()
    }

    #[inline]
    fn piece_mut(&mut self, index: usize) -> &mut [u8] {
        self.pieces.get_mut(index).unwrap_or_default()
    }

    fn footprint(&self) -> usize {
        self.piece_bytes.saturating_add(self.pieces.footprint())
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
