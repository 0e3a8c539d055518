// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Allocator`]: where pieces of memory come from, each of at most a page.
#![forbid(unsafe_code)]

#[cfg(feature = "alloc")]
use alloc::{boxed::Box, vec::Vec};
use core::ops::DerefMut;

/// There is no memory, or no number left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMemory;

/// Where pieces, and the tables that find them, come from. Only this crate implements it, and relies on
/// what it returns.
pub trait Allocator {
    /// Items in memory that is there at once, and never moves. The default value has none.
    type Table<T>: Default + DerefMut<Target = [T]>;

    /// A full table, which may be smaller without room for more. The default value owns nothing.
    type Piece<T>: Default + DerefMut<Target = [T]>;

    /// Memory for one item.
    type One<T>: DerefMut<Target = [T; 1]>;

    /// An item in memory of its own.
    ///
    /// # Errors
    ///
    /// [`NoMemory`]; the item is dropped.
    fn one<T>(&self, item: T) -> Result<Self::One<T>, NoMemory>;

    /// A table with room for `slots` items at least.
    ///
    /// # Errors
    ///
    /// [`NoMemory`].
    fn table<T>(&self, slots: usize) -> Result<Self::Table<T>, NoMemory>;

    /// Adds an item where there is room for it.
    ///
    /// # Errors
    ///
    /// [`NoMemory`] if there is none; the item is dropped.
    fn push<T>(table: &mut Self::Table<T>, item: T) -> Result<(), NoMemory>;

    /// Takes the last item out.
    fn pop<T>(table: &mut Self::Table<T>) -> Option<T>;

    /// For how many items there is memory.
    fn capacity<T>(table: &Self::Table<T>) -> usize;

    /// The items of a table that is full.
    fn piece<T>(table: Self::Table<T>) -> Self::Piece<T>;

    /// A piece of `len` zeros.
    ///
    /// # Errors
    ///
    /// [`NoMemory`].
    fn zeros(&self, len: usize) -> Result<Self::Piece<u8>, NoMemory>;
}

/// The global allocator, asked in the way that may fail.
#[cfg(feature = "alloc")]
#[derive(Clone, Copy, Debug, Default)]
pub struct OnHeap;

#[cfg(feature = "alloc")]
impl Allocator for OnHeap {
    type Table<T> = Vec<T>;
    type Piece<T> = Box<[T]>;
    type One<T> = Box<[T; 1]>;

    fn one<T>(&self, item: T) -> Result<Box<[T; 1]>, NoMemory> {
        let mut table = self.table(1)?;
        Self::push(&mut table, item)?;
        table.try_into().map_err(|_| NoMemory)
    }

    fn table<T>(&self, slots: usize) -> Result<Vec<T>, NoMemory> {
        let mut table = Vec::new();
        table.try_reserve_exact(slots).map_err(|_| NoMemory)?;
        Ok(table)
    }

    #[inline]
    fn push<T>(table: &mut Vec<T>, item: T) -> Result<(), NoMemory> {
        if table.len() == table.capacity() {
            return Err(NoMemory);
        }
        table.push(item);
        Ok(())
    }

    #[inline]
    fn pop<T>(table: &mut Vec<T>) -> Option<T> {
        table.pop()
    }

    #[inline]
    fn capacity<T>(table: &Vec<T>) -> usize {
        table.capacity()
    }

    fn piece<T>(table: Vec<T>) -> Box<[T]> {
        table.into_boxed_slice()
    }

    fn zeros(&self, len: usize) -> Result<Box<[u8]>, NoMemory> {
        let mut table = self.table(len)?;
        table.resize(len, 0);
        Ok(Self::piece(table))
    }
}
