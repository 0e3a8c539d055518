// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pieces of memory of at most a page, each allocated on its own, and found by a number: what lists
//! and slabs grow in, wherever their memory comes from.
#![forbid(unsafe_code)]

#[cfg(feature = "alloc")]
mod global;
mod map;

use core::ops::DerefMut;

#[cfg(feature = "alloc")]
pub(crate) use global::Global;
pub(crate) use map::PieceMap;

/// There is no memory, or no number left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoMemory;

/// Where pieces, and the tables that find them, come from.
pub(crate) trait Allocator {
    /// Items in memory that is there at once, and never moves. The default value has none.
    type Table<T>: Default + DerefMut<Target = [T]>;

    /// A full table, which may be smaller without room for more. The default value owns nothing.
    type Piece<T>: Default + DerefMut<Target = [T]>;

    /// A table with room for `slots` items at least.
    fn table<T>(&self, slots: usize) -> Result<Self::Table<T>, NoMemory>;

    /// Adds an item where there is room for it.
    fn push<T>(table: &mut Self::Table<T>, item: T) -> Result<(), NoMemory>;

    /// Takes the last item out.
    fn pop<T>(table: &mut Self::Table<T>) -> Option<T>;

    /// For how many items there is memory.
    fn capacity<T>(table: &Self::Table<T>) -> usize;

    /// The items of a table that is full.
    fn piece<T>(table: Self::Table<T>) -> Self::Piece<T>;
}
