// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Ioas`] itself: what it is made of, and how to look into it.

use super::area::{Area, MappingRef};
use super::domains::{DomainLink, Domains};
use super::error::IoasError;
use super::store::{DomainSlot, IoasStore, MappingSlot, NodeSlot};
use super::tracking::Tracking;
use super::tree::{InsertError, IovaTree, Node};
use super::written::Written;
use crate::abridged::Abridged;
use crate::addr::{Iova, PhysAddr};
use crate::iommu::domain::DomainHolder;
use crate::iova_range::IovaRange;
use crate::page_size::PageSize;
use crate::store::{Pool, PoolSlab, Slabs, NONE};
use crate::umem::RegionHolder;
use core::fmt;

/// An I/O address space: many mappings by IOVA, in every one of its domains.
///
/// What a vfio container, an iommufd IOAS, or the DMA map of a virtual machine monitor is made of.
/// Every operation is all or nothing. Finding a mapping is O(log n), a million of them no problem.
///
/// `U` holds the regions and `D` the domains, and in `S` it keeps both: on the heap that is a
/// `HeapIoas<U, D>`, in memory lent by the caller a [`PoolIoas<U, D>`].
///
/// Methods take `&mut self`: threads that share an address space put it behind a lock of their own.
/// What they map may be shared freely.
///
/// A place that is [chosen](super::Placement) is one at which every domain can map. As long as there is no
/// domain, addresses and lengths are multiples of a [granule](Self::set_granule).
///
/// When it is dropped, everything is unmapped and flushed in every domain, then the regions are let
/// go. What a domain did not unmap, against its contract, stays pinned for ever.
///
/// ```
/// use pinned_sgl::iommu::{HeapIoas, IovaRange, Placement, Prot};
/// use pinned_sgl_mock::{Vma, Memory, Process};
/// use pinned_sgl::umem::{PinFlags, PinRequest, Umem, Unaccounted, UserRange};
/// use pinned_sgl::{Iova, PageSizes, UserAddr};
/// use std::sync::Arc;
///
/// let memory = Memory::with_frames(1024);
/// let process = Arc::new(Process::new(&memory));
/// let range = UserRange::new(UserAddr::new(0x10_0000), 0x1_0000)?;
/// process.map(range, Vma::read_write())?;
/// let request = PinRequest::new(range, PinFlags::WRITE | PinFlags::LONGTERM);
/// let umem = Arc::new(Umem::pin(process, &Unaccounted, request)?);
///
/// let mut space = HeapIoas::new();
/// let first = Arc::new(memory.iommu(PageSizes::SIZE_4K | PageSizes::SIZE_64K));
/// space.attach(first.clone())?;
/// let interrupts = space.reserve(IovaRange::new(Iova::new(0xfee0_0000), 0x10_0000)?)?;
/// let prot = Prot::READ | Prot::WRITE;
/// let fixed = space.map(Placement::At(Iova::new(0x4000_0000)), umem.clone(), prot)?;
/// let anywhere = space.map(Placement::Anywhere, umem.clone(), Prot::READ)?;
/// assert_eq!(space.translate(fixed.first()), space.translate(anywhere.first()));
///
/// // A domain that comes later gets all that is mapped.
/// let second = Arc::new(memory.iommu(PageSizes::SIZE_4K));
/// let id = space.attach(second.clone())?;
/// memory.device(second).write(Iova::new(0x4000_1000), b"shared")?;
/// assert!(memory.device(first).reads_as(Iova::new(0x4000_1000), b"shared")?);
///
/// // Gaps do not matter, but no mapping may be cut.
/// assert!(space.unmap(IovaRange::new(fixed.first(), 0x1000)?).is_err());
/// assert_eq!(space.unmap(IovaRange::ALL)?, 0x2_0000);
/// space.detach(id)?;
/// assert!(space.unreserve(interrupts).is_ok());
/// # drop((space, umem));
/// # memory.assert_no_leak();
/// # memory.witness().assert_clean();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Ioas<U: RegionHolder, D: DomainHolder, S: IoasStore<U, D>> {
    // Invariant: every area of memory is attached, and mapped in every domain.
    pub(super) areas: IovaTree<Area<U>, S>,
    pub(super) domains: Domains<D, S>,
    /// All areas but the reserved ones.
    pub(super) mappings: usize,
    pub(super) mapping_limit: usize,
    /// The latest reservation, kept beside the areas.
    pub(super) reservations: u32,
    /// What is mapped and cut is a multiple of it as long as there is no domain.
    pub(super) granule: PageSize,
    /// How domains note what devices write, while they are to do so.
    pub(super) tracking: Option<Tracking<D>>,
    /// What was written while it was noted, by the CPU or through a domain that is gone.
    pub(super) written: Written,
}

impl<U: RegionHolder, D: DomainHolder, S: IoasStore<U, D>> Ioas<U, D, S> {
    /// An empty address space, whose mappings will be in `mappings`, the nodes of their tree in `nodes`, and
    /// whose domains in `domains`.
    ///
    /// ```
    /// use pinned_sgl::iommu::Ioas;
    /// use pinned_sgl::{store::HeapSlab, Heap};
    /// use pinned_sgl_mock::{Iommu, PinnedMemory};
    /// use std::sync::Arc;
    /// let (mappings, nodes, domains) = (HeapSlab::new(), HeapSlab::new(), HeapSlab::new());
    /// let space = Ioas::<PinnedMemory, Arc<Iommu>, Heap>::new_in(mappings, nodes, domains);
    /// assert!(space.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new_in(
        mappings: <S as Slabs<Area<U>>>::Slab,
        nodes: <S as Slabs<Node>>::Slab,
        domains: <S as Slabs<DomainLink<D>>>::Slab,
    ) -> Self {
        Self {
            areas: IovaTree::new_in(mappings, nodes),
            domains: Domains::new_in(domains),
            mappings: 0,
            mapping_limit: usize::MAX,
            reservations: NONE,
            granule: PageSize::SIZE_4K,
            tracking: None,
            written: Written::NOTHING,
        }
    }

    /// Allows `limit` mappings from now on (vfio: `dma_entry_limit`). Those that are there stay.
    ///
    /// ```
    /// # use pinned_sgl::iommu::{HeapIoas, IovaRange, Placement, Prot};
    /// # use pinned_sgl::{umem::UserRange, Iova, PageSizes, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # use std::sync::Arc;
    /// # let memory = Memory::with_frames(64);
    /// # let umem = memory.pinned(UserRange::new(UserAddr::new(0x10_0000), 0x4000)?)?;
    /// # let iommu = Arc::new(memory.iommu(PageSizes::SIZE_4K));
    /// # let mut space = HeapIoas::new();
    /// # space.attach(iommu.clone())?;
    /// space.set_mapping_limit(1);
    /// space.map(Placement::Anywhere, umem.clone(), Prot::READ)?;
    /// assert!(space.map(Placement::Anywhere, umem, Prot::READ).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_mapping_limit(&mut self, limit: usize) {
        self.mapping_limit = limit;
    }

    /// What is mapped and cut while there is no domain: whole pages of `granule`, as in a domain that has
    /// no others. It is 4 KiB at first, the smallest page of nearly every IOMMU, so that domains can take
    /// what is mapped when they come. With larger pages in sight it is better larger; a space that
    /// never gets a domain, as its devices are emulated, may do with one byte. What is mapped stays.
    ///
    /// As long as there is a domain, the domains decide.
    ///
    /// ```
    /// # use pinned_sgl::iommu::{HeapIoas, IovaRange, Placement, Prot};
    /// # use pinned_sgl::{umem::UserRange, Iova, PageSizes, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # use std::sync::Arc;
    /// # let memory = Memory::with_frames(64);
    /// # let umem = memory.pinned(UserRange::new(UserAddr::new(0x10_0000), 0x4000)?)?;
    /// # let iommu = Arc::new(memory.iommu(PageSizes::SIZE_4K));
    /// let mut space = HeapIoas::<_, Arc<pinned_sgl_mock::Iommu>>::new();
    /// space.set_granule(pinned_sgl::PageSize::SIZE_64K);
    /// assert_eq!(space.alignment(), pinned_sgl::PageSize::SIZE_64K);
    /// assert!(space.map(Placement::Anywhere, umem, Prot::READ).is_err()); // 16 KiB
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_granule(&mut self, granule: PageSize) {
        self.granule = granule;
    }

    /// How many mappings there are. One that a domain did not unmap, against its contract, counts for
    /// ever.
    #[must_use]
    pub fn len(&self) -> usize {
        self.mappings
    }

    /// Whether nothing is mapped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.mappings == 0
    }

    /// The mapping that has `iova`. O(log n).
    ///
    /// ```
    /// # use pinned_sgl::iommu::{HeapIoas, IovaRange, Placement, Prot};
    /// # use pinned_sgl::{umem::UserRange, Iova, PageSizes, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # use std::sync::Arc;
    /// # let memory = Memory::with_frames(64);
    /// # let umem = memory.pinned(UserRange::new(UserAddr::new(0x10_0000), 0x4000)?)?;
    /// # let iommu = Arc::new(memory.iommu(PageSizes::SIZE_4K));
    /// # let mut space = HeapIoas::new();
    /// # space.attach(iommu.clone())?;
    /// # let place = space.map(Placement::At(Iova::new(0x8000)), umem.clone(), Prot::READ | Prot::WRITE)?;
    /// let mapping = space.mapping_at(Iova::new(0x9234)).ok_or("nothing is mapped there")?;
    /// assert_eq!((mapping.range(), mapping.offset()), (place, 0));
    /// assert!(space.mapping_at(Iova::new(0xc000)).is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn mapping_at(&self, iova: Iova) -> Option<MappingRef<'_, U>> {
        let (range, area) = self.areas.find(iova)?;
        Some(MappingRef { range, mapped: area.memory()? })
    }

    /// The addresses at which something can be mapped still, in order: those that every domain translates,
    /// and that are neither mapped nor reserved. O(log n) to the first, and O(1) a range.
    ///
    /// What is mapped there begins and ends at multiples of the [`alignment`](Self::alignment).
    ///
    /// ```
    /// use pinned_sgl::iommu::{HeapIoas, IovaRange};
    /// use pinned_sgl::umem::{Umem, Unaccounted};
    /// use pinned_sgl::{Heap, Iova, PageSize, PageSizes};
    /// use pinned_sgl_mock::{Iommu, Process};
    /// use std::sync::Arc;
    ///
    /// type Pinned = Arc<Umem<Arc<Process>, &'static Unaccounted, Heap>>;
    /// let mut space = HeapIoas::<Pinned, Arc<Iommu>>::new();
    /// let last = |last| IovaRange::inclusive(Iova::new(0), Iova::new(last));
    /// let config = Iommu::config(PageSizes::SIZE_64K | PageSizes::SIZE_2M).aperture(last(0xffff_ffff)?);
    /// space.attach(Arc::new(config.build()))?;
    /// space.reserve(IovaRange::new(Iova::new(0xfee0_0000), 0x10_0000)?)?;
    /// let free: Vec<_> = space.free_ranges().map(|range| range.to_string()).collect();
    /// assert_eq!(free, ["0x0..=0xfedfffff", "0xfef00000..=0xffffffff"]);
    /// assert_eq!(space.alignment(), PageSize::SIZE_64K);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn free_ranges(&self) -> impl Iterator<Item = IovaRange> + '_ {
        self.domains.common_aperture().into_iter().flat_map(|within| self.areas.gaps(within, 1))
    }

    /// What places and lengths are multiples of: the largest of the smallest pages of the domains, or the
    /// [granule](Self::set_granule) if there is no domain.
    ///
    /// ```
    /// # use pinned_sgl::iommu::{HeapIoas, IovaRange, Placement, Prot};
    /// # use pinned_sgl::{umem::UserRange, Iova, PageSize, PageSizes, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # use std::sync::Arc;
    /// # let memory = Memory::with_frames(64);
    /// # let umem = memory.pinned(UserRange::new(UserAddr::new(0x10_0000), 0x4000)?)?;
    /// # let iommu = Arc::new(memory.iommu(PageSizes::SIZE_4K));
    /// # let mut space = HeapIoas::new();
    /// # space.attach(iommu.clone())?;
    /// assert_eq!(space.alignment(), PageSize::SIZE_4K);
    /// space.attach(Arc::new(memory.iommu(PageSizes::SIZE_16K)))?;
    /// assert_eq!(space.alignment(), PageSize::SIZE_16K);
    /// # space.map(Placement::Anywhere, umem, Prot::READ)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn alignment(&self) -> PageSize {
        self.domains.placement_sizes(self.granule).smallest().unwrap_or(self.granule)
    }

    /// Where `iova` leads in memory. O(log n + log runs); no page table is read.
    ///
    /// ```
    /// # use pinned_sgl::iommu::{HeapIoas, IovaRange, Placement, Prot};
    /// # use pinned_sgl::{umem::UserRange, Iova, PageSizes, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # use std::sync::Arc;
    /// # let memory = Memory::with_frames(64);
    /// # let umem = memory.pinned(UserRange::new(UserAddr::new(0x10_0000), 0x4000)?)?;
    /// # let iommu = Arc::new(memory.iommu(PageSizes::SIZE_4K));
    /// # let mut space = HeapIoas::new();
    /// # space.attach(iommu.clone())?;
    /// # let place = space.map(Placement::At(Iova::new(0x8000)), umem.clone(), Prot::READ | Prot::WRITE)?;
    /// assert_eq!(space.translate(Iova::new(0x9234)), umem.whole()?.phys(0x1234));
    /// assert_eq!(space.translate(Iova::new(0xc000)), None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn translate(&self, iova: Iova) -> Option<PhysAddr> {
        self.mapping_at(iova)?.translate(iova)
    }

    /// The mappings that have an address of `range`, in order.
    ///
    /// ```
    /// # use pinned_sgl::iommu::{HeapIoas, IovaRange, Placement, Prot};
    /// # use pinned_sgl::{umem::UserRange, Iova, PageSizes, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # use std::sync::Arc;
    /// # let memory = Memory::with_frames(64);
    /// # let umem = memory.pinned(UserRange::new(UserAddr::new(0x10_0000), 0x4000)?)?;
    /// # let iommu = Arc::new(memory.iommu(PageSizes::SIZE_4K));
    /// # let mut space = HeapIoas::new();
    /// # space.attach(iommu.clone())?;
    /// # let place = space.map(Placement::At(Iova::new(0x8000)), umem.clone(), Prot::READ | Prot::WRITE)?;
    /// space.map(Placement::At(Iova::new(0x2_0000)), umem, Prot::READ)?;
    /// let first: Vec<_> = space.mappings(IovaRange::ALL).map(|mapping| mapping.range().first()).collect();
    /// assert_eq!(first, [Iova::new(0x8000), Iova::new(0x2_0000)]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn mappings(&self, range: IovaRange) -> impl Iterator<Item = MappingRef<'_, U>> {
        let areas = self.areas.overlapping(range);
        areas.filter_map(|(range, area)| Some(MappingRef { range, mapped: area.memory()? }))
    }

    /// Whether memory is mapped at every address of `range`; the first at which none is, if not.
    pub(super) fn check_mapped(&self, range: IovaRange) -> Result<(), Iova> {
        let mut next = Some(range.first());
        while let Some(iova) = next.filter(|next| *next <= range.last()) {
            let mapping = self.mapping_at(iova).ok_or(iova)?;
            next = mapping.range.last().checked_add(1);
        }
        Ok(())
    }

    /// The ranges that cannot be used any more, in order: of those it is not known what devices reach.
    ///
    /// ```
    /// # use pinned_sgl::iommu::{HeapIoas, IovaRange, Placement, Prot};
    /// # use pinned_sgl::{umem::UserRange, Iova, PageSizes, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # use std::sync::Arc;
    /// # let memory = Memory::with_frames(64);
    /// # let umem = memory.pinned(UserRange::new(UserAddr::new(0x10_0000), 0x4000)?)?;
    /// # let iommu = Arc::new(memory.iommu(PageSizes::SIZE_4K));
    /// # let mut space = HeapIoas::new();
    /// # space.attach(iommu.clone())?;
    /// # let place = space.map(Placement::At(Iova::new(0x8000)), umem.clone(), Prot::READ | Prot::WRITE)?;
    /// assert_eq!(space.poisoned().count(), 0);
    /// // SAFETY: the memory stays pinned, as the address space finds out.
    /// unsafe { iommu.lie(pinned_sgl_mock::Lie::UnmapsNothing) };
    /// assert!(space.unmap(place).is_err());
    /// assert!(space.poisoned().eq([place]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn poisoned(&self) -> impl Iterator<Item = IovaRange> + '_ {
        let poisoned = |(range, area): (IovaRange, &Area<U>)| area.is_poisoned().then_some(range);
        self.areas.iter().filter_map(poisoned)
    }

    /// Puts an area into the tree; it comes back if there is no room or no memory for it.
    pub(super) fn place(
        &mut self,
        range: IovaRange,
        area: Area<U>,
    ) -> Result<u32, (IoasError<D::Error>, Area<U>)> {
        self.areas.insert(range, area).map_err(|error| match error {
            InsertError::Overlap { existing, value } => {
                let there = self.areas.find(existing.first());
                let why = there.map_or(IoasError::Overlap { existing }, |(range, area)| {
                    area.in_the_way(range)
                });
                (why, value)
            }
            InsertError::OutOfMemory { value } => (IoasError::OutOfMemory, value),
        })
    }
}

impl<U: RegionHolder, D: DomainHolder, S: IoasStore<U, D>> fmt::Debug for Ioas<U, D, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ioas")
            .field("mappings", &self.mappings)
            .field("domains", &self.domains.iter().count())
            .field("areas", &Abridged(self.areas.iter()))
            .finish_non_exhaustive()
    }
}

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
        use crate::store::HeapSlab;
        Self::new_in(HeapSlab::new(), HeapSlab::new(), HeapSlab::new())
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
    /// use pinned_sgl::iommu::{DomainSlot, MappingSlot, NodeSlot, PoolIoas};
    /// # use pinned_sgl::{umem::{Umem, Unaccounted}, Heap};
    /// # use pinned_sgl_mock::{Iommu, Process};
    /// # type Region<'a> = &'a Umem<&'a Process, &'a Unaccounted, Heap>;
    /// let mut mappings = [const { MappingSlot::<Region<'_>>::new() }; 16];
    /// let mut nodes = [const { NodeSlot::new() }; NodeSlot::needed_for(16)];
    /// let mut domains = [const { DomainSlot::<&Iommu>::new() }; 2];
    /// let space = PoolIoas::new(&mut mappings, &mut nodes, &mut domains);
    /// assert!(space.is_empty());
    /// ```
    #[must_use]
    pub fn new(
        mappings: &'a mut [MappingSlot<U>],
        nodes: &'a mut [NodeSlot],
        domains: &'a mut [DomainSlot<D>],
    ) -> Self {
        Self::new_in(PoolSlab::new(mappings), PoolSlab::new(nodes), PoolSlab::new(domains))
    }
}
