// SPDX-License-Identifier: MIT OR Apache-2.0
//! The same memory in another address space: nothing is pinned twice.

use super::error::IoasError;
use super::placement::Placement;
use super::space::Ioas;
use super::store::IoasStore;
use crate::addr::Iova;
use crate::exact::Exact as _;
use crate::granule::TileError;
use crate::iommu::domain::DomainHolder;
use crate::iommu::error::MapError;
use crate::iommu::prot::Prot;
use crate::iova_range::IovaRange;
use crate::sgl::Segment;
use crate::umem::{RegionHolder, SharedHolder};

impl<U: RegionHolder + SharedHolder, D: DomainHolder, S: IoasStore<U, D>> Ioas<U, D, S> {
    /// Maps here what `source` has mapped in `range`, and returns where. There may be no gap in it; its
    /// edges may lie inside mappings. Each mapping stays one; none is pinned again. Where there is a
    /// choice, the place is the one that [`map`](Self::map) would choose for this memory.
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
    /// let mut other = HeapIoas::<_, Arc<pinned_sgl_mock::Iommu>>::new();
    /// let part = IovaRange::new(Iova::new(0x9000), 0x2000)?;
    /// let there = other.copy_from(&space, part, Placement::Anywhere, Prot::READ)?;
    /// assert_eq!(other.translate(there.first()), space.translate(part.first()));
    /// assert_eq!(memory.pinned_pages(), 4);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`IoasError::NotMapped`] with the first address at which `source` has nothing, or as
    /// [`map`](Self::map). Nothing has changed then, unless it is a breach: of the domain that could not
    /// map, or of one that did not unmap what had been copied.
    pub fn copy_from<E: DomainHolder, R: IoasStore<U, E>>(
        &mut self,
        source: &Ioas<U, E, R>,
        range: IovaRange,
        placement: Placement<'_>,
        prot: Prot,
    ) -> Result<IovaRange, IoasError<D::Error>> {
        source.check_mapped(range).map_err(|iova| IoasError::NotMapped { iova })?;
        let len = range.len().ok_or(IoasError::NoRoom { len: u64::MAX })?;
        let place = match placement {
            Placement::At(iova) => {
                let wraps = MapError::Tiles(TileError::Wraps { iova, len });
                IovaRange::new(iova, len).map_err(|_| IoasError::Map(wraps))?
            }
            Placement::Anywhere => self.find_room(len, source.runs(range), &[IovaRange::ALL])?,
            Placement::Within(allowed) => self.find_room(len, source.runs(range), allowed)?,
        };
        let there = |iova: Iova| {
            // In the range, so the sum is in the place.
            let distance = iova.get().minus(range.first().get());
            Iova::new(place.first().get().plus(distance))
        };
        for mapping in source.mappings(range) {
            let Some(part) = mapping.range.intersection(&range) else {
                continue;
            };
            let skipped = part.first().get().minus(mapping.range.first().get());
            let from = mapping.offset().plus(skipped);
            let bytes = from..from.plus(part.len().unwrap_or(0));
            let at = Placement::At(there(part.first()));
            let mapped = self.map_range(at, mapping.region().clone(), bytes, prot);
            if let Err(refused) = mapped {
                // What was copied before this mapping, if there is any.
                let last = there(part.first()).checked_sub(1);
                let done = last.and_then(|last| IovaRange::inclusive(place.first(), last).ok());
                return Err(match done.map(|done| self.unmap(done)) {
                    Some(Err(breach)) => breach,
                    Some(Ok(_)) | None => refused.into_error(),
                });
            }
        }
        Ok(place)
    }
}

impl<U: RegionHolder, D: DomainHolder, S: IoasStore<U, D>> Ioas<U, D, S> {
    /// The memory that is mapped in `range`, run by run.
    fn runs(&self, range: IovaRange) -> impl Iterator<Item = Segment> + '_ {
        let parts = self.mappings(range).filter_map(move |mapping| {
            mapping.mapped.part(mapping.range, mapping.range.intersection(&range)?)
        });
        parts.flatten()
    }
}
