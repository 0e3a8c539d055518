// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`PieceSlab`]: the mappings of an address space in pieces from the kernel's allocator.

use super::kmalloc::Kmalloc;
use crate::iommu::{GrowingSlab, Slab};
use core::fmt;
use kernel::alloc::Flags;

/// Values in pieces of at most 4 KiB from `kmalloc()`, allocated with the flags of the caller. A
/// value that needs more than that has a piece of its own.
///
/// An empty slab allocates nothing. A place that was left is used again before memory is asked for;
/// memory is given back when the slab is dropped. Everything takes O(1).
pub struct PieceSlab<T>(GrowingSlab<T, Kmalloc>);

impl<T> PieceSlab<T> {
    /// An empty slab, which will allocate with `flags`.
    #[must_use]
    pub fn new(flags: Flags) -> Self {
        Self(GrowingSlab::new(Kmalloc(flags)))
    }

    /// How many values there are.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no value.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of memory that the slab holds outside of its own value, tables included; in
    /// O(tables).
    #[must_use]
    pub fn footprint(&self) -> usize {
        self.0.footprint()
    }
}

// SAFETY: "a value stays under the key that `insert` gave until it is removed; no two values have one key at
// a time", "`get`, `get_mut` and `remove` find the value that is under the key, and nothing if there is none",
// "`remove` does not allocate": the slab inside promises all of it, and every call goes to it as it is.
unsafe impl<T> Slab<T> for PieceSlab<T> {
    #[inline]
    fn insert(&mut self, value: T) -> Result<u32, T> {
        self.0.insert(value)
    }

    #[inline]
    fn get(&self, key: u32) -> Option<&T> {
        self.0.get(key)
    }

    #[inline]
    fn get_mut(&mut self, key: u32) -> Option<&mut T> {
        self.0.get_mut(key)
    }

    #[inline]
    fn remove(&mut self, key: u32) -> Option<T> {
        self.0.remove(key)
    }
}

impl<T> fmt::Debug for PieceSlab<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PieceSlab").field("len", &self.len()).finish_non_exhaustive()
    }
}
