// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages of a process that the system moves: out of memory, and to another zone.

use super::Process;
use crate::memory::fault::PinFault;
use crate::memory::folios::{State, Unmoved};
use crate::memory::page_table::PageTable;
use crate::memory::zone::Zone;
use crate::sync::lock;
use pinned_sgl::umem::UserRange;
use pinned_sgl::UserAddr;
use std::sync::Arc;

impl Process {
    /// Swaps the pages of the range out that are in frames: they are absent then, their contents
    /// are kept, and when they are touched they come back in another frame. How many pages.
    ///
    /// # Errors
    ///
    /// [`PinFault::Busy`] for the first page that belongs to a pinned folio; those before it are
    /// swapped out.
    pub fn swap_out(&self, range: UserRange) -> Result<u64, PinFault> {
        self.each_present(range, |state, (table, index), pfn, at| {
            let out = self.memory.inner.swap_out(state, table, index, pfn);
            out.map(|()| 1).map_err(|_| PinFault::Busy(at))
        })
    }

    /// Moves the pages of the range that are in frames to a zone, as whole folios, where they are
    /// not there already. How many pages have moved.
    ///
    /// # Errors
    ///
    /// [`PinFault::Busy`] for the first page that belongs to a pinned folio, [`PinFault::NoMemory`]
    /// if the zone is full; what comes before has moved.
    pub fn migrate(&self, range: UserRange, zone: Zone) -> Result<u64, PinFault> {
        let inner = &self.memory.inner;
        self.each_present(range, |state, _, pfn, at| {
            if inner.zone_of(pfn) == Some(zone) {
                return Ok(0);
            }
            let head = inner.head_of(pfn).unwrap_or(pfn);
            inner.migrate(state, head, zone).map_err(|why| match why {
                Unmoved::Busy => PinFault::Busy(at),
                Unmoved::NoMemory => PinFault::NoMemory(at),
            })
        })
    }

    /// Does something to each page of the range that is in a frame of its own, where an entry of a
    /// page table shows it; the sum.
    fn each_present(
        &self,
        range: UserRange,
        mut act: impl FnMut(&mut State, (&Arc<PageTable>, u64), u64, UserAddr) -> Result<u64, PinFault>,
    ) -> Result<u64, PinFault> {
        let vmas = lock(&self.vmas);
        let mut state = lock(&self.memory.inner.state);
        let mut sum = 0u64;
        let mut pages = self.pages_of(range);
        while !pages.is_empty() {
            let at = self.addr_of(pages.start);
            let found = vmas.find(pages.start).ok_or(PinFault::NotMapped(at))?;
            pages.start = found.page.saturating_add(found.left);
            let end =
                found.index.saturating_add(found.left.min(pages.end.saturating_sub(found.page)));
            for (index, entry) in found.table.entries(found.index, end) {
                let Some(pfn) = entry.own_pfn() else { continue };
                let page = found.page.saturating_add(index.saturating_sub(found.index));
                sum = sum.saturating_add(act(
                    &mut state,
                    (&found.table, index),
                    pfn,
                    self.addr_of(page),
                )?);
            }
        }
        Ok(sum)
    }
}
