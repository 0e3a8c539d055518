// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Pieces`]: a list in pieces from the kernel's allocator.

use super::kmalloc::Kmalloc;
use crate::exact::Exact as _;
use crate::pieces::PieceMap;
use crate::sgl::{is_piece_size, AllocError, Storage};
use core::fmt;
use kernel::alloc::{Flags, KVec};

/// Pieces of at most 4 KiB from `kmalloc()`, each on its own, with the flags of the caller: no
/// allocation needs more than one page of the buddy allocator, whatever the size of the list.
///
/// A list of a few runs allocates nothing; the first piece has 512 bytes.
pub struct Pieces {
    pieces: PieceMap<u8, Kmalloc>,
    piece_bytes: usize,
}

impl Pieces {
    /// An empty storage, which will allocate with `flags`: `GFP_KERNEL_ACCOUNT` where user space
    /// decides how much.
    #[must_use]
    pub fn new(flags: Flags) -> Self {
        Self { pieces: PieceMap::new(Kmalloc(flags)), piece_bytes: 0 }
    }
}

// SAFETY:
// - "a piece keeps what was written to it, and its length": the map neither moves nor changes what is
//   in its vectors, whose length is set once, and the vector of a number is reached through it alone;
// - "the same bytes for the same number, and different bytes for different numbers": `get` and
//   `get_mut` find the one vector of a number;
// - "at least the bytes that were asked for and at most 4096, a multiple of 8": a vector has exactly
//   `bytes` bytes, which are checked;
// - "`grow` adds exactly one piece, or changes nothing": it returns before it adds one;
// - "`shrink` removes exactly the last piece; .. do not unwind": `pop` removes one vector, and a
//   kernel does not unwind.
unsafe impl Storage for Pieces {
    const PIECE_BYTES: usize = 4096;

    fn grow(&mut self, bytes: usize) -> Result<(), AllocError> {
        if !is_piece_size(bytes, Self::PIECE_BYTES) {
            return Err(AllocError);
        }
        let Kmalloc(flags) = *self.pieces.allocator();
        let piece = KVec::zeroed(bytes, flags).map_err(|_| AllocError)?;
        self.pieces.push(piece).map_err(|_| AllocError)?;
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

impl fmt::Debug for Pieces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pieces")
            .field("pieces", &self.pieces.len())
            .field("bytes", &self.piece_bytes)
            .finish_non_exhaustive()
    }
}
