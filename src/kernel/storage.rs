// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Pieces`]: a list in pieces from the kernel's allocator.

use super::piece_map::PieceMap;
use crate::sgl::{AllocError, Storage};
use core::fmt;
use kernel::alloc::{Flags, KVec};

/// Pieces of at most 4 KiB from `kmalloc()`, each on its own, with the flags of the caller: no
/// allocation needs more than one page of the buddy allocator, whatever the size of the list.
///
/// A list of a few runs allocates nothing; the first piece has 512 bytes.
pub struct Pieces {
    map: PieceMap<u8>,
    bytes: usize,
    flags: Flags,
}

impl Pieces {
    /// An empty storage, which will allocate with `flags`: `GFP_KERNEL_ACCOUNT` where user space
    /// decides how much.
    #[must_use]
    pub const fn new(flags: Flags) -> Self {
        Self { map: PieceMap::new(), bytes: 0, flags }
    }
}

// SAFETY: the map has one vector for every number, which nobody else can reach, and does not move or
// change what is in it; `get` and `get_mut` find the same one, whose length is set once. `grow` adds
// one vector of `bytes` bytes, or returns before it adds one.
unsafe impl Storage for Pieces {
    const PIECE_BYTES: usize = 4096;

    fn grow(&mut self, bytes: usize) -> Result<(), AllocError> {
        let piece = KVec::zeroed(bytes, self.flags).map_err(|_| AllocError)?;
        self.map.push(piece, self.flags).map_err(|_| AllocError)?;
        self.bytes = self.bytes.wrapping_add(bytes);
        Ok(())
    }

    /// Frees the piece; the tables stay for those that follow.
    fn shrink(&mut self) {
        let bytes = self.map.pop().map_or(0, |piece| piece.len());
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    fn pieces(&self) -> usize {
        self.map.len()
    }

    #[inline]
    fn piece(&self, index: usize) -> &[u8] {
        self.map.get(index).map_or(&[], KVec::as_slice)
    }

    #[inline]
    fn piece_mut(&mut self, index: usize) -> &mut [u8] {
        self.map.get_mut(index).map_or(&mut [], KVec::as_mut_slice)
    }

    fn footprint(&self) -> usize {
        self.bytes.saturating_add(self.map.footprint())
    }
}

impl fmt::Debug for Pieces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pieces")
            .field("pieces", &self.map.len())
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}
