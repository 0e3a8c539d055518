// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`PagingDomain::map_coherent`]: what a driver shares with its device, in a domain that the driver fills by itself.
//!
//! C header: [`include/linux/dma-mapping.h`](srctree/include/linux/dma-mapping.h)

use super::foundation::iommu_domain::Gather;
use super::foundation::run_table::RunTable;
use super::{domain::PagingDomain, kernel, page_structs::PAGE_SIZE};
use crate::addr::{Iova, PhysAddr};
use crate::iommu::{Domain as _, IovaRange, Prot};
use crate::sgl::{MemoryKind, Segment};
use core::{iter, pin::pin};
use kernel::{
    dma::Coherent,
    error::{code, Result},
    ptr::KnownSize,
};

impl PagingDomain<'_> {
    /// Maps memory of the DMA API here as well, for reading and writing, at the address that it has there: a device
    /// finds its queues, whichever of the two domains it is in. It stays mapped until the domain is dropped.
    ///
    /// # Errors
    ///
    /// With nothing mapped: `EADDRINUSE`, `EEXIST` and others where there is something already; `EINVAL` if the
    /// domain has no pages as small as those of the CPU; `ENOMEM`.
    ///
    /// # Safety
    ///
    /// The memory was allocated for this device, and is not freed before the domain is dropped.
    pub unsafe fn map_coherent<T: KnownSize + ?Sized>(&self, memory: &Coherent<T>) -> Result {
        if self.page_sizes().smallest().is_none_or(|smallest| smallest > PAGE_SIZE) {
            return Err(code::EINVAL);
        }
        let first = memory.dma_address();
        // SAFETY: "the memory was allocated for this device": as the caller promises.
        let table = unsafe { RunTable::of_coherent(self.device(), memory) }?;
        let runs = table.runs().map_while(|(phys, len)| {
            // Whole pages, of which the last may be used in part.
            let len = u64::from(len).checked_next_multiple_of(PAGE_SIZE.bytes())?;
            Some(Segment::new(PhysAddr::new(phys), len, MemoryKind::Ram))
        });
        // SAFETY: "the memory of the tile stays what it is, and may be accessed as `prot` says, until the bytes that
        // were reported have been unmapped and flushed": it is memory for this device, and is not freed before the
        // domain, as the caller promises.
        let (done, result) =
            unsafe { self.map_runs(Iova::new(first), runs, Prot::READ | Prot::WRITE) };
        if result.is_err() {
            if let Ok(mapped) = IovaRange::new(Iova::new(first), done) {
                let mut gather = pin!(Gather::default());
                // SAFETY: "the bytes were reported by `map` to the caller and have not been unmapped since; and what
                // is unmapped begins and ends where the domain can cut": it is all that was mapped just now.
                unsafe { self.unmap_range(mapped, iter::empty(), gather.as_mut()) };
                self.flush(gather);
            }
        }
        result
    }
}
