// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Kmalloc`], [`KmallocSlab`], [`KmallocIoas`]: lists and mappings in pieces from the kernel's
//! allocator.
//!
//! C header: [`include/linux/slab.h`](srctree/include/linux/slab.h)
#![forbid(unsafe_code)]

use super::kernel;
use crate::iommu::{DomainHolder, Ioas};
use crate::store::{Allocator, NoMemory, PieceSlab, Pieces};
use crate::umem::RegionHolder;
use core::fmt;
use kernel::alloc::{Flags, KVec};

/// The memory of a list: pieces of at most 4 KiB from `kmalloc()`, each on its own, with the flags of the
/// caller. No allocation needs more than one page of the buddy allocator, whatever the size of the list.
pub type Kmalloc = Pieces<Gfp>;

/// The mappings of an address space: values in pieces of at most 4 KiB from `kmalloc()`, allocated with
/// the flags of the caller. A value that needs more than that has a piece of its own.
pub type KmallocSlab<T> = PieceSlab<T, Gfp>;

impl Kmalloc {
    /// An empty storage, which will allocate with `flags`: `GFP_KERNEL_ACCOUNT` where user space
    /// decides how much.
    #[must_use]
    pub fn new(flags: Flags) -> Self {
        Self::new_in(Gfp(flags))
    }
}

/// An address space whose mappings and domains are kept in memory from `kmalloc()`.
pub type KmallocIoas<U, D> = Ioas<U, D, Kmalloc>;

impl<U: RegionHolder, D: DomainHolder> KmallocIoas<U, D> {
    /// An empty address space, which will allocate with `flags`.
    #[must_use]
    pub fn new(flags: Flags) -> Self {
        Self::new_in(KmallocSlab::new(flags), KmallocSlab::new(flags), KmallocSlab::new(flags))
    }
}

impl<T> KmallocSlab<T> {
    /// An empty slab, which will allocate with `flags`.
    #[must_use]
    pub fn new(flags: Flags) -> Self {
        Self::new_in(Gfp(flags))
    }
}

/// `kmalloc()`, with these flags.
#[derive(Clone, Copy)]
pub struct Gfp(Flags);

impl fmt::Debug for Gfp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gfp")
    }
}

impl Allocator for Gfp {
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

    fn zeros(&self, len: usize) -> Result<KVec<u8>, NoMemory> {
        KVec::zeroed(len, self.0).map_err(|_| NoMemory)
    }
}
