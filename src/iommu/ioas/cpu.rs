// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reading and writing memory by IOVA, as a device would, but by the CPU: what emulated devices do.

use super::space::Ioas;
use super::store::IoasStore;
use crate::addr::Iova;
use crate::exact::Exact as _;
use crate::iommu::domain::DomainHolder;
use crate::iommu::prot::Prot;
use crate::iova_range::IovaRange;
use crate::umem::{AccessError, CpuRegion as _, CpuRegionHolder, RegionHolder};
use core::ops;

impl<U: RegionHolder, D: DomainHolder, S: IoasStore<U, D>> Ioas<U, D, S> {
    /// Copies bytes from `iova` on out of memory. They may lie in several mappings, all of which a
    /// device could read.
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
    /// umem.write(0xffe, b"across")?;
    /// let mut bytes = [0; 6];
    /// space.read(Iova::new(0x8ffe), &mut bytes)?;
    /// assert_eq!(&bytes, b"across");
    /// assert!(space.read(Iova::new(0xbffe), &mut bytes).is_err()); // beyond the mapping
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`AccessError`]; nothing was read unless the memory itself could not be reached.
    pub fn read(
        &self,
        iova: Iova,
        bytes: &mut [u8],
    ) -> Result<(), AccessError<U::AccessError, Iova>>
    where
        U: CpuRegionHolder,
    {
        let Some(range) = self.check_access(iova, bytes.len(), Prot::READ)? else {
            return Ok(());
        };
        self.for_each_part(range, |region, offset, part| {
            region.read(offset, bytes.get_mut(part).unwrap_or_default())
        })
    }

    /// Copies `bytes` into memory from `iova` on. They may lie in several mappings, all of which a
    /// device could write. Where it is noted what is written, they are.
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
    /// space.write(Iova::new(0x8ffe), b"across")?;
    /// assert!(memory.device(iommu).reads_as(Iova::new(0x8ffe), b"across")?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`AccessError`]; nothing was written unless the memory itself could not be reached.
    pub fn write(
        &mut self,
        iova: Iova,
        bytes: &[u8],
    ) -> Result<(), AccessError<U::AccessError, Iova>>
    where
        U: CpuRegionHolder,
    {
        let Some(range) = self.check_access(iova, bytes.len(), Prot::WRITE)? else {
            return Ok(());
        };
        if self.tracking.is_some() {
            self.written.add(range);
        }
        self.for_each_part(range, |region, offset, part| {
            region.write(offset, bytes.get(part).unwrap_or_default())
        })
    }

    /// The `len` addresses from `iova` on, all of which are mapped with `prot`; `None` of no bytes.
    fn check_access<E>(
        &self,
        iova: Iova,
        len: usize,
        prot: Prot,
    ) -> Result<Option<IovaRange>, AccessError<E, Iova>> {
        if len == 0 {
            return Ok(None);
        }
        let fits = IovaRange::new(iova, len as u64);
        let range = fits.or(IovaRange::inclusive(iova, Iova::new(u64::MAX)));
        let range = range.map_err(|_| AccessError::Wraps { at: iova })?;
        let mut next = Some(iova);
        while let Some(at) = next.filter(|at| *at <= range.last()) {
            let there = self.mapping_at(at);
            let mapping = there.ok_or(AccessError::NotMapped { at })?;
            if !mapping.prot().contains_all(prot) {
                return Err(AccessError::NotPermitted { at });
            }
            next = mapping.range.last().checked_add(1);
        }
        fits.map(Some).map_err(|_| AccessError::Wraps { at: range.last() })
    }

    /// Calls `copy` with each region, the offset in it, and which of the bytes it has: of a range that is
    /// mapped.
    fn for_each_part<E>(
        &self,
        range: IovaRange,
        mut copy: impl FnMut(&U::Target, u64, ops::Range<usize>) -> Result<(), AccessError<E>>,
    ) -> Result<(), AccessError<E, Iova>> {
        let mut done = 0usize;
        for mapping in self.mappings(range) {
            let Some(part) = mapping.range.intersection(&range) else {
                continue;
            };
            let skipped = part.first().get().minus(mapping.range.first().get());
            let offset = mapping.offset().plus(skipped);
            let here = part.len().and_then(|len| usize::try_from(len).ok()).unwrap_or(usize::MAX);
            let end = done.saturating_add(here);
            copy(&**mapping.region(), offset, done..end).map_err(|error| {
                // Anybody may write a region that can be copied: its offset may be any number.
                let distance = error.at().checked_sub(offset);
                let at = distance.and_then(|distance| part.first().checked_add(distance));
                let at = at.filter(|at| part.contains(*at)).unwrap_or(part.first());
                error.with_at(at)
            })?;
            done = end;
        }
        Ok(())
    }
}
