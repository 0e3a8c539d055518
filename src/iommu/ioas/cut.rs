// SPDX-License-Identifier: MIT OR Apache-2.0
//! Cutting a mapping of an [`Ioas`] in two, and where that can be done.

use super::area::{Area, AreaKind, Mapped};
use super::error::IoasError;
use super::space::Ioas;
use super::store::IoasStore;
use crate::addr::Iova;
use crate::exact::Exact as _;
use crate::iommu::domain::{Cuts, Domain as _, DomainHolder};
use crate::iommu::edges::Edges;
use crate::iommu::error::MapError;
use crate::iommu::prot::Prot;
use crate::iova_range::IovaRange;
use crate::page_size::PageSizes;
use crate::umem::{Attachment, RegionHolder, SharedHolder};

impl<U: RegionHolder, D: DomainHolder, S: IoasStore<U, D>> Ioas<U, D, S> {
    /// The page table entry that has the address before `iova` and that at `iova`, if there is one in
    /// any of `domains`; computed from the list, no page table is read. Of domains that cut anywhere,
    /// only the smallest page counts if `may_split`.
    pub(super) fn entry_across<'a>(
        &self,
        domains: impl Iterator<Item = &'a D> + Clone,
        iova: Iova,
        may_split: bool,
    ) -> Option<IovaRange>
    where
        D: 'a,
    {
        let mapping = self.mapping_at(iova)?;
        let window = mapping.mapped.window(mapping.range)?;
        let start = mapping.range.first();
        let offset = iova.checked_offset_from(start)?;
        let mut around = Edges { below: offset, above: offset };
        // An edge in one domain may lie inside an entry of another. Entries are aligned, so of two
        // that overlap one lies in the other, and this ends after a step or two.
        loop {
            let mut wider = around;
            for domain in domains.clone() {
                let sizes = match domain.page_sizes() {
                    sizes if may_split && domain.cuts() == Cuts::Anywhere => {
                        sizes.smallest().map_or(sizes, PageSizes::from)
                    }
                    sizes => sizes,
                };
                wider.below = Edges::around(&window, sizes, start, wider.below).below;
                wider.above = Edges::around(&window, sizes, start, wider.above).above;
            }
            if wider == around {
                break;
            }
            around = wider;
        }
        let first = start.checked_add(around.below)?;
        let last = start.checked_add(around.above.checked_sub(1)?)?;
        IovaRange::inclusive(first, last).ok().filter(|entry| entry.first() < iova)
    }

    /// Cuts the mapping of `iova` in two right before it; nothing is unmapped. Where a mapping begins
    /// there already, nothing changes. O(log n).
    ///
    /// It is never cut inside a page table entry: where a domain could split that, nothing makes it do
    /// so, and both parts would share the entry. As long as there is no domain, it is cut between pages of
    /// the [granule](Self::set_granule).
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
    /// space.split(Iova::new(0x9000))?;
    /// assert_eq!(space.unmap(IovaRange::new(Iova::new(0x8000), 0x1000)?)?, 0x1000);
    /// assert!(space.split(Iova::new(0x9800)).is_err()); // a page of the IOMMU
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`IoasError::NotMapped`]; [`IoasError::CutsEntry`] with the nearest legal edges;
    /// [`IoasError::MappingLimit`] or [`IoasError::OutOfMemory`]. Nothing has changed then.
    pub fn split(&mut self, iova: Iova) -> Result<(), IoasError<D::Error>>
    where
        U: SharedHolder,
    {
        if self.mapping_at(iova).is_none() {
            return Err(IoasError::NotMapped { iova });
        }
        self.check_cut(iova, false)?;
        self.cut(iova)
    }

    /// Whether the mapping that lies across `iova`, if there is one, may be cut there.
    pub(super) fn check_cut(&self, iova: Iova, may_split: bool) -> Result<(), IoasError<D::Error>> {
        let domains = self.domains.iter().map(|(_, domain)| domain);
        let across = self.mapping_at(iova).filter(|mapping| mapping.range.first() < iova);
        if let Some(mapping) =
            across.filter(|_| domains.clone().any(|domain| domain.cuts() == Cuts::Never))
        {
            return Err(IoasError::CutsMapping { edge: iova, mapping: mapping.range });
        }
        let entry = match across {
            Some(mapping) if self.domains.is_empty() && !iova.is_aligned(self.granule) => {
                let first = iova.align_down(self.granule).max(mapping.range.first());
                let last = Iova::new(iova.get() | self.granule.mask()).min(mapping.range.last());
                IovaRange::inclusive(first, last).ok()
            }
            _ => self.entry_across(domains, iova, may_split),
        };
        entry.map_or(Ok(()), |entry| Err(IoasError::CutsEntry { edge: iova, entry }))
    }

    /// Cuts the mapping that lies across `iova`, if there is one.
    pub(super) fn cut(&mut self, iova: Iova) -> Result<(), IoasError<D::Error>>
    where
        U: SharedHolder,
    {
        let Some(mapping) = self.mapping_at(iova).filter(|mapping| mapping.range.first() < iova)
        else {
            return Ok(());
        };
        let (range, prot) = (mapping.range, mapping.prot());
        if self.mappings >= self.mapping_limit {
            return Err(IoasError::MappingLimit { limit: self.mapping_limit });
        }
        let offset = mapping.offset().plus(iova.get().minus(range.first().get()));
        let (region, writable) = (mapping.region().clone(), prot.contains_all(Prot::WRITE));
        let attachment = Attachment::hold(region, D::Target::ADDRESS_KIND, writable)
            .map_err(|refused| IoasError::Map(MapError::Attach(refused.into_error())))?;
        let area = Area::mapped(Mapped { attachment, offset, prot });
        let last = iova.checked_sub(1);
        let shrunk = last.is_some_and(|last| self.areas.set_last(&self.areas.near(iova), last));
        let failure = match IovaRange::inclusive(iova, range.last()) {
            Ok(tail) if shrunk => self.place(tail, area).err(),
            _ => Some((IoasError::NotMapped { iova }, area)),
        };
        let Some((error, area)) = failure else {
            self.mappings = self.mappings.plus(1);
            return Ok(());
        };
        if shrunk {
            self.areas.set_last(&self.areas.near(iova), range.last());
        }
        if let AreaKind::Mapped(mapped) = area.kind {
            // SAFETY: "the device cannot reach the memory any more": through nothing that this attachment
            // stands for: the entries belong to the mapping that was not cut, which is attached.
            drop(unsafe { mapped.attachment.release() });
        }
        Err(error)
    }
}
