// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`IoasStore`]: where an address space keeps its mappings and its domains.
#![forbid(unsafe_code)]

use super::area::Area;
use super::domains::DomainLink;
use super::space::Ioas;
use super::tree::Node;
use crate::iommu::domain::DomainHolder;
use crate::store::{Pool, PoolSlab, SlabSlot, Slabs};
use crate::umem::RegionHolder;

/// What can keep the mappings and the domains of an [`Ioas`]: every storage that has [`Slabs`] of all
/// values. There is nothing to implement.
pub trait IoasStore<U: RegionHolder, D>: Slabs<Node<Area<U>>> + Slabs<DomainLink<D>> {}

impl<U: RegionHolder, D, S> IoasStore<U, D> for S where
    S: Slabs<Node<Area<U>>> + Slabs<DomainLink<D>>
{
}

/// Room for one mapping or reservation of an [`Ioas`], to be lent to a [`PoolIoas`].
pub type MappingSlot<U> = SlabSlot<Node<Area<U>>>;

/// Room for one domain of an [`Ioas`], to be lent to a [`PoolIoas`].
pub type DomainSlot<D> = SlabSlot<DomainLink<D>>;

/// An address space whose mappings and domains are kept on the heap.
#[cfg(feature = "alloc")]
pub type HeapIoas<U, D> = Ioas<U, D, crate::Heap>;

#[cfg(feature = "alloc")]
impl<U: RegionHolder, D: DomainHolder> HeapIoas<U, D> {
    /// An empty address space on the heap.
    ///
    /// ```
    /// use pinned_sgl::iommu::HeapIoas;
    /// use pinned_sgl_mock::{Iommu, PinnedMemory};
    /// let space = HeapIoas::<PinnedMemory, std::sync::Arc<Iommu>>::new();
    /// assert!(space.is_empty());
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::new_in(crate::store::HeapSlab::new(), crate::store::HeapSlab::new())
    }
}

#[cfg(feature = "alloc")]
impl<U: RegionHolder, D: DomainHolder> Default for HeapIoas<U, D> {
    fn default() -> Self {
        Self::new()
    }
}

/// An address space whose mappings and domains are kept in memory lent by the caller.
pub type PoolIoas<'a, U, D> = Ioas<U, D, Pool<'a>>;

impl<'a, U: RegionHolder + 'a, D: DomainHolder + 'a> PoolIoas<'a, U, D> {
    /// An empty address space in the memory that is lent.
    ///
    /// ```
    /// use pinned_sgl::iommu::{DomainSlot, MappingSlot, PoolIoas};
    /// # use pinned_sgl::{umem::{Umem, Unaccounted}, Heap};
    /// # use pinned_sgl_mock::{Iommu, Process};
    /// # type Region<'a> = &'a Umem<&'a Process, &'a Unaccounted, Heap>;
    /// let mut mappings = [const { MappingSlot::<Region<'_>>::new() }; 16];
    /// let mut domains = [const { DomainSlot::<&Iommu>::new() }; 2];
    /// let space = PoolIoas::new(&mut mappings, &mut domains);
    /// assert!(space.is_empty());
    /// ```
    #[must_use]
    pub fn new(mappings: &'a mut [MappingSlot<U>], domains: &'a mut [DomainSlot<D>]) -> Self {
        Self::new_in(PoolSlab::new(mappings), PoolSlab::new(domains))
    }
}
