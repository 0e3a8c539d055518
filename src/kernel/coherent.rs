// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`PagingDomain::map_coherent`]: what a driver shares with its device, in a domain that the driver fills by itself.
//!
//! C header: [`include/linux/dma-mapping.h`](srctree/include/linux/dma-mapping.h)

use super::{
    domain::{raw_device, Gather, PagingDomain},
    ffi, kernel,
    page_structs::{first_run, PAGE_SIZE},
};
use crate::addr::Iova;
use crate::iommu::{Domain as _, IovaRange, Prot};
use crate::sgl::Segment;
use core::{iter, pin::pin};
use kernel::{
    bindings,
    dma::Coherent,
    error::{code, to_result, Result},
    ptr::KnownSize,
    types::Opaque,
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
        let (table, first) = (Opaque::<bindings::sg_table>::zeroed(), memory.dma_address());
        // SAFETY: the device is bound; the memory is there, was allocated for it as the caller promises, and has so
        // many bytes; there is room for a table.
        to_result(unsafe {
            ffi::pinned_sgl_coherent_table(
                raw_device(self.device()),
                table.get(),
                memory.as_mut_ptr().cast(),
                first,
                memory.size(),
            )
        })?;
        // SAFETY: it was made; nothing else knows it.
        let mut at = unsafe { (*table.get()).sgl };
        let runs = iter::from_fn(|| {
            if at.is_null() {
                return None;
            }
            // SAFETY: it is an entry of the table.
            let entry = unsafe { &*at };
            // The lowest bits say what the entry is. SAFETY: "there is at least one pointer, and each points to a
            // page structure": that of the entry.
            let run = unsafe { first_run(&[(entry.page_link & !3) as *mut bindings::page]) };
            // Whole pages, of which the last may be used in part.
            let len = u64::from(entry.length).checked_next_multiple_of(PAGE_SIZE.bytes())?;
            let run = Segment::new(run.start().phys(PAGE_SIZE)?, len, run.kind());
            // SAFETY: as above; null behind the last one.
            at = unsafe { bindings::sg_next(at) };
            Some(run)
        });
        // SAFETY: "the memory of the tile stays what it is, and may be accessed as `prot` says, until the bytes that
        // were reported have been unmapped and flushed": it is memory for this device, and is not freed before the
        // domain, as the caller promises.
        let (done, result) =
            unsafe { self.map_runs(Iova::new(first), runs, Prot::READ | Prot::WRITE) };
        // SAFETY: it was made, and is not used again.
        unsafe { bindings::sg_free_table(table.get()) };
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
