// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Global`]: pieces from the global allocator.

use super::{Allocator, NoMemory};
use alloc::{boxed::Box, vec::Vec};

/// The global allocator, asked in the way that may fail.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Global;

impl Allocator for Global {
    type Table<T> = Vec<T>;
    type Piece<T> = Box<[T]>;

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
}
