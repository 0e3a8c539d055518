// SPDX-License-Identifier: MIT OR Apache-2.0
//! How an [`Iommu`](super::Iommu) translates for a device: by its IOTLB, else by its table.
#![forbid(unsafe_code)]

use super::super::table::Pte;
use super::super::tlb::Cached;
use super::super::DmaFault;
use super::State;
use pinned_sgl::iommu::Prot;
use pinned_sgl::{Iova, PageSize, PhysAddr};

impl State {
    /// Where `iova` leads, and for how many bytes: by what the IOTLB remembers, else by the table.
    pub(super) fn translate(
        &mut self,
        iova: Iova,
        write: bool,
    ) -> Result<(PhysAddr, u64), DmaFault> {
        let needs = if write { Prot::WRITE } else { Prot::READ };
        let notes = write && self.tracks_dirty;
        let denied = DmaFault::NotPermitted { iova, write };
        if let Some(hit) = self.tlb.find(iova) {
            self.stats.tlb_hits += 1;
            if !hit.cached.prot.contains(needs) {
                return Err(denied);
            }
            if notes && !hit.cached.dirty {
                hit.cached.dirty = true;
                // A stale entry may have no bit left to set; it is served all the same.
                let found = self.table.find(iova).filter(|found| found.size == hit.size);
                if let Some(found) = found.filter(|found| found.pte.phys == hit.cached.phys) {
                    found.pte.dirty = true;
                }
            }
            return Ok(within(hit.cached.phys, iova, hit.size));
        }
        self.stats.tlb_misses += 1;
        let found = self.table.find(iova).ok_or(DmaFault::NotMapped { iova })?;
        if !found.pte.prot.contains(needs) {
            return Err(denied);
        }
        found.pte.dirty |= notes;
        let Pte { phys, prot, dirty } = *found.pte;
        self.tlb.insert(found.first, found.size, Cached { phys, prot, dirty });
        Ok(within(phys, iova, found.size))
    }
}

/// Where `iova` leads in a page at `phys`, and the bytes from there to the end of the page.
pub(super) const fn within(phys: PhysAddr, iova: Iova, size: PageSize) -> (PhysAddr, u64) {
    let offset = iova.offset_in(size);
    (PhysAddr::new(phys.get() + offset), size.bytes() - offset)
}
