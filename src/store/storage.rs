// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Storage`]: where a list keeps its bytes.
//!
//! A list asks for memory piece by piece, never for more than a page at once, and never moves what
//! it has stored. That is what a kernel can give under any load: order-0 pages.

use core::fmt;

/// The memory of one list: pieces that are numbered in the order in which they were added.
///
/// Pieces are added and taken back at the end only. The crate brings `Heap`, which
/// allocates them, and [`Pool`](super::Pool), which carves them out of memory lent by the caller.
///
/// # Implementation safety
///
/// What is read out of a list decides what is unpinned and what a device may touch, so the answers
/// of a storage must be true:
///
/// - a piece keeps what was written to it, and keeps its length, until it is taken back;
/// - [`piece`](Self::piece) and [`piece_mut`](Self::piece_mut) return the same bytes for the same
///   number, and different bytes for different numbers;
/// - a piece has at least the bytes that were asked for and at most 4096, a multiple of 8; what it
///   holds at first does not matter;
/// - [`grow`](Self::grow) adds exactly one piece, or changes nothing: where it fails, where it was
///   asked for a size that is not [allowed](is_piece_size), and where it unwinds;
/// - [`shrink`](Self::shrink) removes exactly the last piece; it and all methods but `grow` do not
///   unwind.
///
/// Whether a storage is empty when it is lent does not matter: a builder takes its pieces back first.
///
/// # Safety
///
/// All methods are safe to call with any argument. The trait is unsafe to implement, not to use.
pub unsafe trait Storage {
    /// The largest piece that is asked for: a power of two from 512 to 4096.
    const PIECE_BYTES: usize;

    /// Adds a piece of at least `bytes` bytes.
    ///
    /// # Errors
    ///
    /// [`AllocError`] if there is no memory, or if a piece cannot have that
    /// [size](is_piece_size); nothing has changed then.
    fn grow(&mut self, bytes: usize) -> Result<(), AllocError>;

    /// Removes the last piece, if there is one.
    fn shrink(&mut self);

    /// How many pieces there are.
    fn pieces(&self) -> usize;

    /// The bytes of piece `index`; empty if there is no such piece.
    fn piece(&self, index: usize) -> &[u8];

    /// The bytes of piece `index`, to write; empty if there is no such piece.
    fn piece_mut(&mut self, index: usize) -> &mut [u8];

    /// The bytes of memory that the storage holds outside of its own value, tables included.
    fn footprint(&self) -> usize;
}

/// Whether a piece may be asked for that has `bytes` bytes, where the largest has `most`: multiples
/// of 8 that are not zero.
#[inline]
#[must_use]
pub const fn is_piece_size(bytes: usize, most: usize) -> bool {
    bytes != 0 && bytes % 8 == 0 && bytes <= most
}

/// There is no memory for another piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocError;

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("out of memory for the list")
    }
}

impl core::error::Error for AllocError {}
