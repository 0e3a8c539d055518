// SPDX-License-Identifier: MIT OR Apache-2.0
//! Unmapping in an [`Ioas`]: whole mappings, as in the second version of vfio's type1 interface; and
//! parts of them, for the first.

use super::area::{Area, AreaKind};
use super::error::IoasError;
use super::space::Ioas;
use super::store::IoasStore;
use super::tree::{Removed, Spot, Within};
use super::written::Written;
use crate::exact::Exact as _;
use crate::iommu::domain::DomainHolder;
use crate::iova_range::IovaRange;
use crate::umem::{RegionHolder, SharedHolder};

impl<U: RegionHolder, D: DomainHolder, S: IoasStore<U, D>> Ioas<U, D, S> {
    /// Unmaps all mappings in `range`, in every domain, with one flush for each; returns how many bytes
    /// they had. Gaps do not matter. O(log n), and O(1) on average for each mapping where there are many, plus what the
    /// domains take.
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
    /// assert!(space.unmap(IovaRange::new(place.first(), 0x1000)?).is_err()); // a part
    /// assert_eq!(space.unmap(IovaRange::ALL)?, 0x4000);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`IoasError::NotMapped`] if nothing is mapped there, [`IoasError::CutsMapping`] if a mapping
    /// lies across an edge of the range, [`IoasError::Poisoned`] if something there cannot be
    /// unmapped; nothing has changed then. [`IoasError::Breach`] if a domain broke its contract:
    /// everything else in the range is unmapped.
    pub fn unmap(&mut self, range: IovaRange) -> Result<u64, IoasError<D::Error>> {
        let found = self.areas.within(range);
        self.check_unmap(range, found, false)?;
        self.unmap_parts(range, found)
    }

    /// Whether there is something to unmap in `range`, and whether it can be; without looking at its
    /// edges if mappings `may_cut` them.
    fn check_unmap(
        &self,
        range: IovaRange,
        found: Within,
        may_cut: bool,
    ) -> Result<(), IoasError<D::Error>> {
        let mut mapped = false;
        for (mapping, area) in self.areas.walk(found) {
            if area.is_reserved() {
                continue;
            }
            if area.is_poisoned() {
                return Err(IoasError::Poisoned { range: mapping });
            }
            if mapping.first() < range.first() && !may_cut {
                return Err(IoasError::CutsMapping { edge: range.first(), mapping });
            }
            if mapping.last() > range.last() && !may_cut {
                return Err(IoasError::CutsMapping { edge: range.last(), mapping });
            }
            mapped = true;
        }
        if !mapped {
            return Err(IoasError::NotMapped { iova: range.first() });
        }
        Ok(())
    }

    /// Unmaps what is mapped in `range`, whose edges can be cut where a mapping lies across, and lets go
    /// of it. No mapping lies across both.
    fn unmap_parts(&mut self, range: IovaRange, found: Within) -> Result<u64, IoasError<D::Error>> {
        let uninstalled = self.uninstall_everywhere(range, found);
        self.written.remove(range);
        let bytes = self.release(range, found);
        uninstalled.map(|()| bytes).map_err(IoasError::Breach)
    }

    /// Unmaps everything, in every domain, with one flush for each; returns how many bytes there were.
    /// What a domain does not unmap, against its contract, stays poisoned.
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
    /// assert_eq!(space.unmap_all(), 0x4000);
    /// assert!(space.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn unmap_all(&mut self) -> u64 {
        let all = self.areas.within(IovaRange::ALL);
        let _ = self.uninstall_everywhere(IovaRange::ALL, all);
        self.written = Written::NOTHING;
        self.release(IovaRange::ALL, all)
    }

    /// Lets go of all memory in `range`, where it was found, which is mapped nowhere any more; returns its bytes.
    fn release(&mut self, range: IovaRange, found: Within) -> u64 {
        let next = found.first();
        let mut releasing = Releasing { space: self, next, range, removed: None, bytes: 0 };
        while releasing.go_on().is_some() {}
        releasing.bytes
    }

    /// As [`unmap`](Self::unmap), but where a mapping lies across an edge of the range, it is cut
    /// there: what the first version of vfio's type1 interface allows. An edge may lie inside a page
    /// table entry if every domain that has one there can split it.
    ///
    /// Only where one mapping becomes two, as the range lies inside it, there is one more afterwards,
    /// and memory is needed for that.
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
    /// let middle = IovaRange::new(Iova::new(0x9000), 0x1000)?;
    /// assert_eq!(space.unmap_cutting(middle)?, 0x1000);
    /// assert_eq!(space.len(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`split`](Self::split) and [`unmap`](Self::unmap). Nothing has changed then, unless it is a
    /// breach: a mapping of which a domain did not unmap its part is poisoned as a whole, save what lies
    /// behind the range.
    pub fn unmap_cutting(&mut self, range: IovaRange) -> Result<u64, IoasError<D::Error>>
    where
        U: SharedHolder,
    {
        let first = range.first();
        let behind = range.last().checked_add(1);
        self.check_cut(first, true)?;
        behind.map_or(Ok(()), |behind| self.check_cut(behind, true))?;
        self.check_unmap(range, self.areas.within(range), true)?;
        let inside = self
            .mapping_at(first)
            .filter(|mapping| mapping.range.first() < first && mapping.range.last() > range.last());
        if let Some(behind) = behind.filter(|_| inside.is_some()) {
            self.cut(behind)?;
        }
        self.unmap_parts(range, self.areas.within(range))
    }
}

impl<U: RegionHolder, D: DomainHolder, S: IoasStore<U, D>> Drop for Ioas<U, D, S> {
    fn drop(&mut self) {
        self.unmap_all();
    }
}

/// Memory that is let go, one mapping after the other. What belongs to others is dropped last, and may
/// unwind: the mappings behind it go all the same.
struct Releasing<'a, U: RegionHolder, D: DomainHolder, S: IoasStore<U, D>> {
    space: &'a mut Ioas<U, D, S>,
    range: IovaRange,
    /// Where the next ones are.
    next: Option<Spot>,
    /// Mappings that are in the tree no more, and still to be let go.
    removed: Option<Removed>,
    bytes: u64,
}

impl<U: RegionHolder, D: DomainHolder, S: IoasStore<U, D>> Releasing<'_, U, D, S> {
    /// Lets go of a mapping, or goes to the next ones; `None` behind the last.
    fn go_on(&mut self) -> Option<()> {
        let areas = &mut self.space.areas;
        if let Some(key) = self.removed.as_mut().and_then(Removed::next) {
            let area = areas.remove_kept(key);
            self.let_go(area);
            return Some(());
        }
        let spot = self.next.take()?;
        let whole = areas.range_at(&spot)?;
        let part = whole.intersection(&self.range)?;
        let (mut last, mut leaked) = (whole.last(), None);
        let (range, bytes) = (self.range, &mut self.bytes);
        if part == whole && whole.last() == range.last() {
            // Most ranges are one mapping, or end with one.
            if areas.value_at(&spot).is_some_and(|area| area.memory().is_some()) {
                *bytes = bytes.saturating_add(whole.len().unwrap_or(u64::MAX));
                let area = areas.remove_at(&spot).map(|(_, area)| area);
                self.let_go(area);
            }
            return Some(());
        }
        if part == whole {
            let removed = self.removed.get_or_insert(Removed::NOTHING);
            areas.remove_from(&spot, removed, |mapping, area| {
                let goes = area.memory().is_some() && mapping.last() <= range.last();
                if goes {
                    last = mapping.last();
                    *bytes = bytes.saturating_add(mapping.len().unwrap_or(u64::MAX));
                }
                goes
            });
        } else if let Some(AreaKind::Mapped(mapped)) =
            areas.value_at(&spot).map(|area| &mut area.kind)
        {
            let len = part.len().unwrap_or(u64::MAX);
            *bytes = bytes.saturating_add(len);
            // What is left goes on under the same attachment.
            let shrunk = if part.last() == whole.last() {
                part.first().checked_sub(1).is_some_and(|last| areas.set_last(&spot, last))
            } else {
                mapped.offset = mapped.offset.plus(len);
                let behind = part.last().checked_add(1).filter(|_| part.first() == whole.first());
                behind.is_some_and(|behind| areas.set_first(&spot, behind))
            };
            // If not, it lies across both edges, which it does not.
            leaked = areas.value_at(&spot).filter(|_| !shrunk).and_then(Area::poison);
        }
        let behind = last.checked_add(1).filter(|behind| *behind <= range.last());
        self.next = behind.and_then(|behind| areas.spot_from(behind));
        drop(leaked);
        Some(())
    }

    /// Lets go of what was taken out.
    fn let_go(&mut self, area: Option<Area<U>>) {
        if let Some(Area { kind: AreaKind::Mapped(mapped) }) = area {
            self.space.mappings = self.space.mappings.minus(1);
            // SAFETY: "the device cannot reach the memory any more, through no cache of translations
            // either": it was unmapped and flushed in every domain; otherwise it is poisoned.
            drop(unsafe { mapped.attachment.release() });
        }
    }
}

impl<U: RegionHolder, D: DomainHolder, S: IoasStore<U, D>> Drop for Releasing<'_, U, D, S> {
    fn drop(&mut self) {
        while self.go_on().is_some() {}
    }
}
