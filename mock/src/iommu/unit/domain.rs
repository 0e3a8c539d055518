// SPDX-License-Identifier: MIT OR Apache-2.0
//! An [`Iommu`] as a [`Domain`]: what its calls do, what they refuse, and what they report as a violation.

use super::super::lie::Liar;
use super::super::table::{Pte, Stop};
use super::super::Lie;
use super::walk::within;
use super::{Iommu, MapFault, State};
use crate::memory::Block;
use crate::sync::lock;
use crate::{Call, Step, Violation, ViolationKind};
use pinned_sgl::iommu::{
    Cuts, DirtyDomain, Domain, Entry, IovaRange, Prot, RangeGather, ReadDomain,
};
use pinned_sgl::{Iova, PageSize, PageSizes, PhysAddr, Tile};
use std::{ops::ControlFlow, pin::Pin};

/// What an [`Iommu`] has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct IommuStats {
    /// Calls of [`Domain::map`], each with a tile, whether or not they failed.
    pub map_calls: u64,
    /// Page table entries that were mapped.
    pub pages_mapped: u64,
    /// Calls of [`Domain::sync_map`].
    pub sync_calls: u64,
    /// Calls of [`Domain::unmap`] and of [`Domain::unmap_range`].
    pub unmap_calls: u64,
    /// Page table entries that were unmapped.
    pub pages_unmapped: u64,
    /// Calls of [`Domain::flush`] that had something to flush.
    pub flushes: u64,
    /// Calls of [`ReadDomain::read`]: walks of the page table by the CPU.
    pub reads: u64,
    /// Accesses of devices that the IOTLB translated.
    pub tlb_hits: u64,
    /// Accesses of devices for which the page table was walked.
    pub tlb_misses: u64,
}

impl Iommu {
    /// What is wrong with a tile, wherever it comes from.
    fn check(&self, tile: &Tile) -> Result<IovaRange, &'static str> {
        let size = tile.page_size;
        if !self.config.sizes.has(size) {
            return Err("a tile has a page size that the IOMMU does not have");
        }
        if tile.count == 0 {
            return Err("a tile has no pages");
        }
        if tile.count > (u64::MAX >> size.shift()) {
            return Err("a tile has more bytes than 64 bits can count");
        }
        if !tile.iova.is_aligned(size) || !tile.phys.is_aligned(size) {
            return Err("a tile lies at no multiple of its page size");
        }
        if tile.phys.checked_add(tile.len() - 1).is_none() {
            return Err("the memory of a tile wraps");
        }
        match IovaRange::new(tile.iova, tile.len()) {
            Ok(range) if self.config.aperture.covers(&range) => Ok(range),
            _ => Err("a tile lies outside the aperture"),
        }
    }

    /// Unmaps a range, and returns how much; reports what is wrong with it.
    fn remove(&self, range: IovaRange, gather: Pin<&mut RangeGather>) -> u64 {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        match state.lie {
            Some(Lie::UnmapsNothing) => {
                state.lie = None;
                return 0;
            }
            Some(Lie::PretendsToUnmap) => {
                state.lie = None;
                return range.len().unwrap_or(u64::MAX);
            }
            _ => {}
        }
        if self.config.cuts == Cuts::Never {
            if let Some(at) = state.cut_call(range) {
                let phys = state.table.find(at).and_then(|found| found.block().at(at));
                let seen = self.about(ViolationKind::UnmapCuts, Call::Unmap, at, phys);
                drop(guard);
                self.config.witness.saw(seen);
                return 0;
            }
            let gone = |call: &IovaRange| range.covers(call);
            state.calls.retain(|call| !gone(call));
        }
        let mut last = None;
        let done = state.table.unmap(range, self.config.cuts == Cuts::Anywhere, |block| {
            last = Some(block);
            state.tlb.unmap(block);
            if let Some(reacher) = &self.reacher {
                reacher.unmap(block);
            }
        });
        state.stats.pages_unmapped += done.entries;
        let lie = state.lie.take_if(|lie| lie.liar() == Liar::Unmap && done.bytes != 0);
        let seen = done.stop.map(|stop| {
            let (kind, at) = match stop {
                Stop::Hole(at) => (ViolationKind::UnmapOfNothing, at),
                Stop::Cut(at) => (ViolationKind::UnmapCuts, at),
            };
            // What is cut is there still, or was the last to go.
            let here = state.table.find(at).map(|found| found.block()).or(last);
            self.about(kind, Call::Unmap, at, here.and_then(|block| block.at(at)))
        });
        drop(guard);
        self.config.witness.saw_all(seen);
        if let Ok(gone) = IovaRange::new(range.first(), done.bytes) {
            gather.get_mut().add(gone);
        }
        let page = self.config.sizes.smallest().map_or(0, PageSize::bytes);
        match lie {
            Some(Lie::UnmapsMore) => done.bytes.saturating_add(page),
            Some(Lie::UnmapsLess) => done.bytes.saturating_sub(page),
            Some(Lie::UnmapsPartOfPage) => done.bytes.saturating_sub(1),
            _ => done.bytes,
        }
    }

    /// Records in the memory what was mapped of a tile; returns the first page whose pins are not as
    /// they should be.
    fn reach(&self, tile: &Tile, pages: u64, prot: Prot) -> Option<Violation> {
        let (reacher, size) = (self.reacher.as_ref()?, tile.page_size);
        let mut first = None;
        for page in 0..pages {
            let offset = page << size.shift();
            let iova = Iova::new(tile.iova.get() + offset);
            let phys = PhysAddr::new(tile.phys.get() + offset);
            let block = Block { size, iova, phys };
            let writable = prot.contains(Prot::WRITE);
            first = first.or(reacher.map(Call::Map, block, IovaRange::ALL, writable));
        }
        first
    }

    fn count_unmap(&self) {
        let mut state = lock(&self.state);
        state.stats.unmap_calls += 1;
    }
}

impl State {
    /// Where `range` cuts what one call has mapped.
    fn cut_call(&self, range: IovaRange) -> Option<Iova> {
        let cut = self
            .calls
            .iter()
            .find(|call| !range.covers(call) && call.intersection(&range).is_some())?;
        Some(if cut.first() < range.first() { range.first() } else { range.last() })
    }
}

// SAFETY: devices translate through the table, which holds what was reported, and through the IOTLB,
// whose entries for a range are gone when its gather has been flushed; they hold the domain while
// they can access anything. The page sizes, the aperture and the splitting are those of a
// configuration that never changes any more. It lies only for callers that have promised that no
// harm can come of it.
unsafe impl Domain for Iommu {
    type Error = MapFault;
    type Gather = RangeGather;

    fn page_sizes(&self) -> PageSizes {
        self.config.sizes
    }

    fn aperture(&self) -> IovaRange {
        self.config.aperture
    }

    fn cuts(&self) -> Cuts {
        self.config.cuts
    }

    unsafe fn map(&self, tile: Tile, prot: Prot) -> (u64, Result<(), MapFault>) {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        state.stats.map_calls += 1;
        if let Err(what) = self.check(&tile) {
            self.bad_call(Call::Map, what, tile.iova);
            return (0, Err(MapFault::BadCall));
        }
        if !prot.intersects(Prot::READ | Prot::WRITE) {
            self.bad_call(Call::Map, "a tile may be neither read nor written", tile.iova);
            return (0, Err(MapFault::BadCall));
        }
        let page = tile.page_size.bytes();
        if state.lie == Some(Lie::FailsWithMore) {
            state.lie = None;
            return (tile.len().saturating_add(page), Err(MapFault::Injected));
        }
        let failure = self.config.plan.step(Step::Map).err();
        let count = failure
            .map_or(tile.count, |failure| failure.after_pages.min(tile.count.saturating_sub(1)));
        let pte = Pte { phys: tile.phys, prot, dirty: false };
        let (mut pages, in_the_way) = state.table.map(tile.iova, tile.page_size, count, pte);
        if self.config.cuts == Cuts::Never {
            let mapped = IovaRange::new(tile.iova, pages << tile.page_size.shift());
            match mapped {
                Ok(call) if pages == tile.count => state.calls.push(call),
                Ok(part) => {
                    state.table.unmap(part, false, |_| {});
                    pages = 0;
                }
                Err(_) => {}
            }
        }
        state.stats.pages_mapped += pages;
        let badly_pinned = self.reach(&tile, pages, prot);
        let over = in_the_way.filter(|_| self.config.strict_overlap).map(|iova| {
            let phys = state.table.find(iova).and_then(|found| found.block().at(iova));
            self.about(ViolationKind::MapOverMap, Call::Map, iova, phys)
        });
        let honest = in_the_way.is_some() || failure.is_some();
        let lie = state.lie.take_if(|lie| lie.liar() == Liar::Map && !honest);
        drop(guard);
        self.config.witness.saw_all(badly_pinned.into_iter().chain(over));
        let bytes = pages << tile.page_size.shift();
        if let Some(iova) = in_the_way {
            return (bytes, Err(MapFault::Exists { iova }));
        }
        if failure.is_some() {
            return (bytes, Err(MapFault::Injected));
        }
        match lie {
            Some(Lie::MapsMore) => (bytes.saturating_add(page), Ok(())),
            Some(Lie::MapsLess) => (bytes.saturating_sub(page), Ok(())),
            Some(Lie::MapsPartOfPage) => (bytes.saturating_sub(1), Err(MapFault::Injected)),
            _ => (bytes, Ok(())),
        }
    }

    fn sync_map(&self, range: IovaRange) -> Result<(), MapFault> {
        let mut state = lock(&self.state);
        state.stats.sync_calls += 1;
        drop(state);
        if !self.config.aperture.covers(&range) {
            let what = "a range to be synced lies outside the aperture";
            self.bad_call(Call::SyncMap, what, range.first());
            return Err(MapFault::BadCall);
        }
        self.config.plan.step(Step::SyncMap).map_err(|_| MapFault::Injected)
    }

    unsafe fn unmap(&self, tile: Tile, gather: Pin<&mut RangeGather>) -> u64 {
        self.count_unmap();
        match self.check(&tile) {
            Ok(range) => self.remove(range, gather),
            Err(what) => {
                self.bad_call(Call::Unmap, what, tile.iova);
                0
            }
        }
    }

    unsafe fn unmap_range(
        &self,
        range: IovaRange,
        _: impl Iterator<Item = Tile>,
        gather: Pin<&mut RangeGather>,
    ) -> u64 {
        self.count_unmap();
        let inside = self.config.sizes.smallest().map_or(0, PageSize::mask);
        let is_whole = range.first().get() & inside == 0 && !range.last().get() & inside == 0;
        if !self.config.aperture.covers(&range) {
            let what = "an unmapped range lies outside the aperture";
            self.bad_call(Call::Unmap, what, range.first());
            return 0;
        }
        if !is_whole {
            let what = "an unmapped range is not made of whole pages";
            self.bad_call(Call::Unmap, what, range.first());
            return 0;
        }
        self.remove(range, gather)
    }

    fn flush(&self, gather: Pin<&mut RangeGather>) {
        let Some(range) = gather.get_mut().take() else { return };
        let mut state = lock(&self.state);
        state.stats.flushes += 1;
        if state.lie == Some(Lie::PretendsToFlush) {
            state.lie = None;
        } else {
            self.forget(&mut state, range);
        }
    }
}

// SAFETY: it returns the entry that a device without an IOTLB would find; what an IOTLB remembers
// instead was unmapped and not flushed. Lies are as harmless as those of a `Domain`.
unsafe impl ReadDomain for Iommu {
    fn read(&self, iova: Iova) -> Option<Entry> {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        state.stats.reads += 1;
        let found = state.table.find(iova)?;
        let lie = state.lie.take_if(|lie| lie.liar() == Liar::Read);
        let (phys, len) = within(found.pte.phys, iova, found.size);
        match lie {
            Some(Lie::ReadsNothing) => None,
            Some(Lie::ReadsElsewhere) => {
                // There may be none: it is a lie anyway.
                let next = phys.get().wrapping_add(found.size.bytes());
                Some(Entry::new(PhysAddr::new(next), len))
            }
            Some(Lie::ReadsEmpty) => Some(Entry::new(phys, 0)),
            Some(Lie::ReadsTooLong) => Some(Entry::new(phys, u64::MAX)),
            _ => Some(Entry::new(phys, len)),
        }
    }
}

// SAFETY: a write sets the dirty bit of its entry unless the IOTLB remembers it as set; so it is, or
// it was cleared, and the flush that must follow has not been made. Only whole entries are cleared.
unsafe impl DirtyDomain for Iommu {
    fn set_dirty_tracking(&self, on: bool) -> Result<(), MapFault> {
        self.config.plan.step(Step::Dirty).map_err(|_| MapFault::Injected)?;
        lock(&self.state).tracks_dirty = on;
        Ok(())
    }

    /// Where the plan lets it fail, it reports `after_pages` entries that were written, then fails.
    fn read_dirty(
        &self,
        range: IovaRange,
        clear: bool,
        gather: Pin<&mut RangeGather>,
        mut written: impl FnMut(IovaRange),
    ) -> Result<(), MapFault> {
        let failure = self.config.plan.step(Step::Dirty).err();
        let most = failure.map(|failure| failure.after_pages);
        let gather = gather.get_mut();
        let mut dirty = Vec::new();
        let mut reported = 0u64;
        lock(&self.state).table.visit(range, |found| {
            if found.pte.dirty {
                if most == Some(reported) {
                    return ControlFlow::Break(());
                }
                reported += 1;
                dirty.push(found.range());
                if clear && range.covers(&found.range()) {
                    gather.add(found.range());
                    found.pte.dirty = false;
                }
            }
            ControlFlow::Continue(())
        });
        // Not under the lock: the caller may use the domain.
        dirty.into_iter().for_each(&mut written);
        failure.map_or(Ok(()), |_| Err(MapFault::Injected))
    }
}
