// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Kmalloc`]: pieces from the kernel's allocator.
#![forbid(unsafe_code)]

use crate::pieces::{Allocator, NoMemory};
use kernel::alloc::{Flags, KVec};

/// `kmalloc()`, with these flags.
#[derive(Clone, Copy)]
pub(super) struct Kmalloc(pub(super) Flags);

impl Allocator for Kmalloc {
    type Table<T> = KVec<T>;
    type Piece<T> = KVec<T>;

    fn table<T>(&self, slots: usize) -> Result<KVec<T>, NoMemory> {
        KVec::with_capacity(slots, self.0).map_err(|_| NoMemory)
    }

    #[inline]
    fn push<T>(table: &mut KVec<T>, item: T) -> Result<(), NoMemory> {
        table.push_within_capacity(item).map_err(|_| NoMemory)
    }

    #[inline]
    fn pop<T>(table: &mut KVec<T>) -> Option<T> {
        table.pop()
    }

    #[inline]
    fn capacity<T>(table: &KVec<T>) -> usize {
        table.capacity()
    }

    fn piece<T>(table: KVec<T>) -> KVec<T> {
        table
    }
}
