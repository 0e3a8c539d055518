// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which pages were written: by devices, of all domains together, and by the CPU.

use super::domains::DomainId;
use super::error::IoasError;
use super::space::Ioas;
use super::store::IoasStore;
use super::tracking::Tracking;
use super::written::Written;
use crate::iommu::bitmap::DirtyBitmap;
use crate::iommu::domain::{DirtyDomain, Domain, DomainHolder};
use crate::iova_range::IovaRange;
use crate::umem::RegionHolder;
use core::pin::pin;

impl<U, D, S> Ioas<U, D, S>
where
    U: RegionHolder,
    D: DomainHolder<Target: DirtyDomain>,
    S: IoasStore<U, D>,
{
    /// Starts or stops noting what is written: by devices, in every domain that is attached, and in those
    /// that are attached as long as it is noted; and by [`write`](Self::write). O(pages) to start.
    ///
    /// What the last session has noted can be read until the next one starts, which begins clean. To
    /// start again what was started changes nothing. A domain that is detached goes on noting.
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
    /// space.set_dirty_tracking(true)?;
    /// memory.device(iommu).write(Iova::new(0x9000), b"noted")?;
    /// space.set_dirty_tracking(false)?; // what was noted can still be read
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`IoasError::Domain`] if one of them fails; the others are set back to what they were. If it was
    /// to start, some of what the last session has noted may be forgotten.
    pub fn set_dirty_tracking(&mut self, on: bool) -> Result<(), IoasError<D::Error>> {
        let starts = on && self.tracking.is_none();
        if starts {
            self.domains.iter().try_for_each(|(_, domain)| self.clear_dirty(domain))?;
        }
        let mut domains = self.domains.iter();
        let failure =
            domains.find_map(|(id, domain)| Some((id, domain.set_dirty_tracking(on).err()?)));
        let Some((failed, error)) = failure else {
            if starts {
                self.written = Written::NOTHING;
            }
            self.tracking = on.then_some(Tracking {
                start: |domain| domain.set_dirty_tracking(true),
                read: |domain, range, written| {
                    let gather = pin!(<D::Target as Domain>::Gather::default());
                    domain.read_dirty(range, false, gather, |part| written.add(part))
                },
            });
            return Ok(());
        };
        // What they were; but where stopping has failed, they note.
        let before = self.tracking.is_some();
        for (_, domain) in self.domains.iter().take_while(|(id, _)| *id != failed) {
            // It could do that a moment ago; where it cannot now, it notes too much, or nothing.
            let _ = domain.set_dirty_tracking(before || !on);
        }
        Err(IoasError::Domain(error))
    }

    /// Lets a domain forget what devices have written.
    fn clear_dirty(&self, domain: &D) -> Result<(), IoasError<D::Error>> {
        let mut gather = pin!(<D::Target as Domain>::Gather::default());
        let outcome = self.mappings(IovaRange::ALL).try_for_each(|mapping| {
            domain.read_dirty(mapping.range(), true, gather.as_mut(), |_| ())
        });
        domain.flush(gather);
        outcome.map_err(IoasError::Domain)
    }

    /// Sets the bits of all pages of the bitmap's range that were written while that was noted, and are
    /// mapped; forgets that they were if `clear`. O(log n + pages).
    ///
    /// What devices wrote is what the domains say, those included that were detached in the meantime. Of
    /// those, and of what the CPU wrote, 31 ranges of addresses are known; if there are more, pages between
    /// the closest of them count as written, too. What is unmapped is forgotten: it has to be read before.
    ///
    /// A page of the bitmap may be smaller or larger than one of the IOMMU, and the range may begin
    /// and end anywhere. Where an end lies inside a page of the IOMMU, that page is reported and stays
    /// dirty: what the bitmap does not show is not lost.
    ///
    /// ```
    /// # use pinned_sgl::iommu::{HeapIoas, IovaRange, Placement, Prot, DirtyBitmap};
    /// # use pinned_sgl::{umem::UserRange, Iova, PageSizes, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # use std::sync::Arc;
    /// # let memory = Memory::with_frames(64);
    /// # let umem = memory.pinned(UserRange::new(UserAddr::new(0x10_0000), 0x4000)?)?;
    /// # let iommu = Arc::new(memory.iommu(PageSizes::SIZE_4K));
    /// # let mut space = HeapIoas::new();
    /// # space.attach(iommu.clone())?;
    /// # let place = space.map(Placement::At(Iova::new(0x8000)), umem.clone(), Prot::READ | Prot::WRITE)?;
    /// space.set_dirty_tracking(true)?;
    /// memory.device(iommu).write(Iova::new(0x9000), b"noted")?;
    /// let mut words = [0];
    /// let mut bitmap = DirtyBitmap::new(&mut words, place, pinned_sgl::PageSize::SIZE_4K)?;
    /// space.read_dirty(&mut bitmap, true)?;
    /// assert_eq!(words, [0b10]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`IoasError::Domain`] if a domain fails: the bitmap holds what was reported before.
    pub fn read_dirty(
        &mut self,
        bitmap: &mut DirtyBitmap<'_>,
        clear: bool,
    ) -> Result<(), IoasError<D::Error>> {
        let range = bitmap.range();
        for mapping in self.mappings(range) {
            let parts = self.written.iter().filter_map(|part| part.intersection(&mapping.range()));
            parts.for_each(|part| bitmap.set(part));
        }
        if clear {
            self.written.remove(range);
        }
        for (_, domain) in self.domains.iter() {
            // The pages that lie in the range whole; and the two that may not.
            let whole = self.whole_entries(domain, range);
            let mut gather = pin!(<D::Target as Domain>::Gather::default());
            let mut read = |bitmap: &mut DirtyBitmap<'_>, part, clear| {
                domain.read_dirty(part, clear, gather.as_mut(), |written| bitmap.set(written))
            };
            let mut outcome = Ok(());
            for mapping in self.mappings(range) {
                let Some(part) = mapping.range().intersection(&range) else {
                    continue;
                };
                let inner = whole.filter(|_| clear).and_then(|whole| whole.intersection(&part));
                let before = before(part, inner);
                let behind = inner.and_then(|inner| {
                    IovaRange::inclusive(inner.last().checked_add(1)?, part.last()).ok()
                });
                for (part, clear) in [(before, false), (inner, true), (behind, false)] {
                    if let (Some(part), Ok(())) = (part, &outcome) {
                        outcome = read(bitmap, part, clear);
                    }
                }
            }
            // What was cleared must be noted again from now on, also if the rest failed.
            domain.flush(gather);
            outcome.map_err(IoasError::Domain)?;
        }
        Ok(())
    }

    /// `range` without the page table entries of `domain` that lie across its ends.
    fn whole_entries(&self, domain: &D, range: IovaRange) -> Option<IovaRange> {
        let domain = core::iter::once(domain);
        let first = match self.entry_across(domain.clone(), range.first(), false) {
            Some(entry) => entry.last().checked_add(1)?,
            None => range.first(),
        };
        let behind = range.last().checked_add(1);
        let last = match behind.and_then(|behind| self.entry_across(domain, behind, false)) {
            Some(entry) => entry.first().checked_sub(1)?,
            None => range.last(),
        };
        IovaRange::inclusive(first, last).ok()
    }
}

impl<U: RegionHolder, D: DomainHolder, S: IoasStore<U, D>> Ioas<U, D, S> {
    /// Keeps what a domain has noted, if it is to be noted: it will be asked no more. Where it fails, all
    /// that is mapped counts as written.
    pub(super) fn keep_dirty(&mut self, id: DomainId) {
        let Self { areas, domains, tracking, written, .. } = self;
        let domain = domains.iter().find(|(known, _)| *known == id);
        let (Some(tracking), Some((_, domain))) = (tracking, domain) else {
            return;
        };
        for (range, _) in areas.iter().filter(|(_, area)| area.memory().is_some()) {
            if (tracking.read)(domain, range, written).is_err() {
                written.add(range);
            }
        }
    }
}

/// What of `part` lies before `inner`; all of it, if there is no inner part.
fn before(part: IovaRange, inner: Option<IovaRange>) -> Option<IovaRange> {
    match inner {
        None => Some(part),
        Some(inner) => IovaRange::inclusive(part.first(), inner.first().checked_sub(1)?).ok(),
    }
}
