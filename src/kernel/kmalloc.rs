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
use core::{
    fmt,
    ops::{Deref, DerefMut},
};
use kernel::alloc::{Flags, KBox, KVec};

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

/// A vector, or none: an empty vector calls `krealloc()` when it is dropped, and a list has seven of them.
pub struct Slots<T>(Option<KVec<T>>);

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Deref for Slots<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl<T> DerefMut for Slots<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        self.0.as_deref_mut().unwrap_or_default()
    }
}

impl<T> fmt::Debug for Slots<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Allocator for Gfp {
    type Table<T> = Slots<T>;
    type Piece<T> = Slots<T>;
    type One<T> = KBox<[T; 1]>;

    fn one<T>(&self, item: T) -> Result<KBox<[T; 1]>, NoMemory> {
        KBox::new([item], self.0).map_err(|_| NoMemory)
    }

    fn table<T>(&self, slots: usize) -> Result<Slots<T>, NoMemory> {
        KVec::with_capacity(slots, self.0).map(|table| Slots(Some(table))).map_err(|_| NoMemory)
    }

    #[inline]
    fn push<T>(table: &mut Slots<T>, item: T) -> Result<(), NoMemory> {
        table.0.as_mut().ok_or(NoMemory)?.push_within_capacity(item).map_err(|_| NoMemory)
    }

    #[inline]
    fn pop<T>(table: &mut Slots<T>) -> Option<T> {
        table.0.as_mut()?.pop()
    }

    #[inline]
    fn capacity<T>(table: &Slots<T>) -> usize {
        table.0.as_ref().map_or(0, KVec::capacity)
    }

    fn piece<T>(table: Slots<T>) -> Slots<T> {
        table
    }

    fn zeros(&self, len: usize) -> Result<Slots<u8>, NoMemory> {
        KVec::zeroed(len, self.0).map(|piece| Slots(Some(piece))).map_err(|_| NoMemory)
    }
}
