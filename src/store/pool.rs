// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Pool`]: a list in memory lent by the caller, with no allocator at all.

use super::storage::{is_piece_size, AllocError, Storage};
use crate::asserts::static_assert;
use crate::exact::Exact as _;
use core::mem::size_of;

/// Pieces out of a fixed array that the caller lends.
///
/// `N` is the size of a piece in bytes: a power of two from 512 to 4096, which is checked when the
/// program is compiled. Small pieces waste less at the end of a list, large ones less per run.
/// Where all pieces are used, building fails with [`AllocError`] and nothing is lost.
///
/// ```
/// use pinned_sgl::{MemoryKind, PageSize, Pfn, Pool, SglBuilder};
/// let mut memory = [[0u8; 512]; 4];
/// let mut builder = SglBuilder::new_in(PageSize::SIZE_4K, Pool::new(&mut memory))?;
/// for frame in (0..100).rev() {
///     builder.push_page(Pfn::new(frame), MemoryKind::Ram)?;
/// }
/// let sgl = builder.finish().map_err(|failed| failed.into_error())?;
/// assert_eq!(sgl.run_count(), 100);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Pool<'a, const N: usize = 4096> {
    memory: &'a mut [[u8; N]],
    used: usize,
}

static_assert!(size_of::<Pool<'static>>() == size_of::<[usize; 3]>());

impl<'a, const N: usize> Pool<'a, N> {
    const PIECE_IS_VALID: () = assert!(N.is_power_of_two() && N >= 512 && N <= 4096);

    /// A pool of `memory.len()` pieces; what `memory` held before is overwritten.
    #[must_use]
    pub const fn new(memory: &'a mut [[u8; N]]) -> Self {
        let () = Self::PIECE_IS_VALID;
        Self { memory, used: 0 }
    }
}

// SAFETY:
// - "a piece keeps what was written to it, and its length": it is an array of a slice that nothing else
//   can touch while it is borrowed;
// - "the same bytes for the same number, and different bytes for different numbers": `piece` and
//   `piece_mut` index the same slice;
// - "at least the bytes that were asked for and at most 4096, a multiple of 8": a piece has `N` bytes,
//   a power of two from 512 to 4096, and more are refused;
// - "`grow` adds exactly one piece, or changes nothing": it adds one to `used`, or returns before;
// - "`shrink` removes exactly the last piece; .. do not unwind": it takes one from `used`.
unsafe impl<const N: usize> Storage for Pool<'_, N> {
    const PIECE_BYTES: usize = N;

    fn grow(&mut self, bytes: usize) -> Result<(), AllocError> {
        if !is_piece_size(bytes, N) || self.used >= self.memory.len() {
            return Err(AllocError);
        }
        self.used = self.used.plus(1);
        Ok(())
    }

    fn shrink(&mut self) {
        self.used = self.used.saturating_sub(1);
    }

    fn pieces(&self) -> usize {
        self.used
    }

    #[inline]
    fn piece(&self, index: usize) -> &[u8] {
        let used = self.memory.get(..self.used);
        used.and_then(|used| used.get(index)).map_or(&[], |piece| piece)
    }

    #[inline]
    fn piece_mut(&mut self, index: usize) -> &mut [u8] {
        let used = self.memory.get_mut(..self.used);
        used.and_then(|used| used.get_mut(index)).map_or(&mut [], |piece| piece)
    }

    fn footprint(&self) -> usize {
        self.used.saturating_mul(N)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_and_go_at_the_end() {
        let mut memory = [[7u8; 512]; 2];
        let mut pool = Pool::new(&mut memory);
        assert!(pool.piece(0).is_empty() && pool.piece_mut(0).is_empty());
        assert_eq!([0, 7, 12, 513, 520].map(|bytes| pool.grow(bytes)), [Err(AllocError); 5]);
        assert_eq!((pool.grow(8), pool.grow(512), pool.grow(8)), (Ok(()), Ok(()), Err(AllocError)));
        pool.piece_mut(1).fill(1);
        assert_eq!((pool.piece(0).len(), pool.piece(1)), (512, &[1; 512][..]));
        assert_eq!((pool.pieces(), pool.footprint()), (2, 1024));
        pool.shrink();
        assert!(pool.piece(1).is_empty());
        assert_eq!((pool.pieces(), pool.footprint()), (1, 512));
    }
}
