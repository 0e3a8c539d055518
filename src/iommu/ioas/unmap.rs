// SPDX-License-Identifier: MIT OR Apache-2.0
//! Unmapping in an [`Ioas`]: whole mappings, as in the second version of vfio's type1 interface; and
//! cutting a mapping in two beforehand, for the first.

use super::area::{Area, AreaKind, Mapped};
use super::error::IoasError;
use super::space::Ioas;
use super::store::IoasStore;
use super::written::Written;
use crate::addr::Iova;
use crate::exact::Exact as _;
use crate::iommu::domain::{Cuts, Domain as _, DomainHolder};
use crate::iommu::edges::Edges;
use crate::iommu::entries::MapErrorKind;
use crate::iommu::prot::Prot;
use crate::iommu::range::IovaRange;
use crate::page_size::PageSizes;
use crate::umem::{Attachment, RegionHolder, SharedHolder};

impl<U: RegionHolder, D: DomainHolder, S: IoasStore<U, D>> Ioas<U, D, S> {
    /// Unmaps all mappings in `range`, in every domain, with one flush for each; tells how many bytes
    /// they had. Gaps do not matter. O(log n) for each mapping, plus what the domains take.
    ///
    /// # Errors
    ///
    /// [`IoasError::NotMapped`] if nothing is mapped there, [`IoasError::CutsMapping`] if a mapping
    /// lies across an edge of the range, [`IoasError::Poisoned`] if something there cannot be
    /// unmapped; nothing has changed then. [`IoasError::Breach`] if a domain broke its contract:
    /// everything else in the range is unmapped.
    pub fn unmap(&mut self, range: IovaRange) -> Result<u64, IoasError<D::Error>> {
        self.check_unmap(range, false)?;
        self.take_out(range)
    }

    /// Whether there is something to unmap in `range`, and whether it can be; without looking at its
    /// edges if mappings `may_cut` them.
    fn check_unmap(&self, range: IovaRange, may_cut: bool) -> Result<(), IoasError<D::Error>> {
        let mut found = false;
        for (mapping, area) in self.areas.overlapping(range) {
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
            found = true;
        }
        if !found {
            return Err(IoasError::NotMapped { iova: range.first() });
        }
        Ok(())
    }

    /// Unmaps what is mapped in `range`, whose edges can be cut where a mapping lies across, and lets go
    /// of it. No mapping lies across both.
    fn take_out(&mut self, range: IovaRange) -> Result<u64, IoasError<D::Error>> {
        let removed = self.remove_everywhere(range);
        self.written.remove(range);
        let bytes = self.let_go(range);
        removed.map(|()| bytes).map_err(IoasError::Breach)
    }

    /// Unmaps everything, in every domain, with one flush for each; tells how many bytes there were.
    /// What a domain does not unmap, against its contract, stays poisoned.
    pub fn unmap_all(&mut self) -> u64 {
        let _ = self.remove_everywhere(IovaRange::ALL);
        self.written = Written::NOTHING;
        self.let_go(IovaRange::ALL)
    }

    /// Lets go of all memory in `range`, which is mapped nowhere any more; returns its bytes.
    fn let_go(&mut self, range: IovaRange) -> u64 {
        let mut going = Going { space: self, next: Some(range.first()), range };
        let mut bytes = 0u64;
        while let Some(more) = going.one() {
            bytes = bytes.saturating_add(more);
        }
        bytes
    }

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
    /// # Errors
    ///
    /// [`IoasError::NotMapped`]; [`IoasError::CutsEntry`] with the nearest legal edges;
    /// [`IoasError::EntryLimit`] or [`IoasError::OutOfMemory`]. Nothing has changed then.
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

    /// As [`unmap`](Self::unmap), but where a mapping lies across an edge of the range, it is cut
    /// there: what the first version of vfio's type1 interface allows. An edge may lie inside a page
    /// table entry if every domain that has one there can split it.
    ///
    /// Only where one mapping becomes two, as the range lies inside it, there is one more afterwards,
    /// and memory is needed for that.
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
        self.check_unmap(range, true)?;
        let inside = self
            .mapping_at(first)
            .filter(|mapping| mapping.range.first() < first && mapping.range.last() > range.last());
        if let Some(behind) = behind.filter(|_| inside.is_some()) {
            self.cut(behind)?;
        }
        self.take_out(range)
    }

    /// Whether the mapping that lies across `iova`, if there is one, may be cut there.
    fn check_cut(&self, iova: Iova, may_split: bool) -> Result<(), IoasError<D::Error>> {
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
    fn cut(&mut self, iova: Iova) -> Result<(), IoasError<D::Error>>
    where
        U: SharedHolder,
    {
        let Some(mapping) = self.mapping_at(iova).filter(|mapping| mapping.range.first() < iova)
        else {
            return Ok(());
        };
        let (range, prot) = (mapping.range, mapping.prot());
        if self.mappings >= self.entry_limit {
            return Err(IoasError::EntryLimit { limit: self.entry_limit });
        }
        let offset = mapping.offset().plus(iova.get().minus(range.first().get()));
        let attachment = Attachment::hold(mapping.region().clone(), prot.contains(Prot::WRITE))
            .map_err(|(error, _)| IoasError::Map(MapErrorKind::Attach(error)))?;
        let area = Area::mapped(Mapped { attachment, offset, prot });
        let key = self.areas.key_of(iova).zip(iova.checked_sub(1));
        let key = key.and_then(|(key, last)| self.areas.set_last(key, last).then_some(key));
        let failure = match (key, IovaRange::inclusive(iova, range.last())) {
            (Some(_), Ok(tail)) => self.place(tail, area).err(),
            (None, _) | (_, Err(_)) => Some((IoasError::NotMapped { iova }, area)),
        };
        let Some((kind, area)) = failure else {
            self.mappings = self.mappings.plus(1);
            return Ok(());
        };
        if let Some(key) = key {
            self.areas.set_last(key, range.last());
        }
        if let AreaKind::Mapped(mapped) = area.kind {
            // SAFETY: "the device cannot reach the memory any more": through nothing that this attachment
            // stands for: the entries belong to the mapping that was not cut, which is attached.
            drop(unsafe { mapped.attachment.release() });
        }
        Err(kind)
    }
}

/// Memory that is let go, one mapping after the other. What belongs to others is dropped last, and may
/// unwind: the mappings behind it go all the same.
struct Going<'a, U: RegionHolder, D: DomainHolder, S: IoasStore<U, D>> {
    space: &'a mut Ioas<U, D, S>,
    next: Option<Iova>,
    range: IovaRange,
}

impl<U: RegionHolder, D: DomainHolder, S: IoasStore<U, D>> Going<'_, U, D, S> {
    /// Lets go of what the next mapping has in the range; returns its bytes.
    fn one(&mut self) -> Option<u64> {
        let areas = &mut self.space.areas;
        loop {
            let key = areas.key_from(self.next?)?;
            let whole = areas.range_of(key)?;
            let part = whole.intersection(&self.range)?;
            self.next = whole.last().checked_add(1);
            let Some(AreaKind::Mapped(mapped)) = areas.get_mut(key).map(|area| &mut area.kind)
            else {
                continue;
            };
            let bytes = part.len().unwrap_or(u64::MAX);
            if part != whole {
                // What is left goes on under the same attachment.
                let shrunk = if part.last() == whole.last() {
                    part.first().checked_sub(1).is_some_and(|last| areas.set_last(key, last))
                } else {
                    mapped.offset = mapped.offset.plus(bytes);
                    let behind =
                        part.last().checked_add(1).filter(|_| part.first() == whole.first());
                    behind.is_some_and(|behind| areas.set_first(key, behind))
                };
                if let Some(area) = areas.get_mut(key).filter(|_| !shrunk) {
                    // It lies across both edges, which it does not.
                    drop(area.poison());
                }
                return Some(bytes);
            }
            let (_, Area { kind: AreaKind::Mapped(mapped) }) = areas.remove_key(key)? else {
                continue;
            };
            self.space.mappings = self.space.mappings.minus(1);
            // SAFETY: "the device cannot reach the memory any more, through no cache of translations
            // either": it was unmapped and flushed in every domain; otherwise it is poisoned.
            drop(unsafe { mapped.attachment.release() });
            return Some(bytes);
        }
    }
}

impl<U: RegionHolder, D: DomainHolder, S: IoasStore<U, D>> Drop for Going<'_, U, D, S> {
    fn drop(&mut self) {
        while self.one().is_some() {}
    }
}
