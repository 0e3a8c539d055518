// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of `RawDomain` with the page table of a real IOMMU, in which no device is: several threads use
//! the same addresses at once.

use crate::{device::granule, thread::Thread};
use core::{pin::pin, ptr::NonNull};
use kernel::{
    bindings,
    error::from_err_ptr,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc,
    },
};
use pinned_sgl::{
    iommu::{Domain, Prot, ReadDomain},
    kernel::{Gather, Kmalloc, RawDomain},
    Iova, MemoryKind, PageRun, PageSize, Pfn, SglBuilder, Tile,
};

/// How often each thread maps.
const ROUNDS: u64 = 100;

struct Table(RawDomain);

impl Table {
    fn new(device: *mut bindings::device) -> Result<Self> {
        // SAFETY: the callers have a device that is there.
        let raw = from_err_ptr(unsafe { bindings::iommu_paging_domain_alloc_flags(device, 0) })?;
        let raw = NonNull::new(raw).ok_or(ENODEV)?;
        // SAFETY: it is a paging domain that nothing else knows, with no devices; `drop` frees it last.
        Ok(Self(unsafe { RawDomain::new(raw, GFP_KERNEL) }?))
    }

    /// Maps a tile, and unmaps it; whether the addresses were free.
    fn map_and_unmap(&self, tile: Tile) -> Result<bool> {
        // SAFETY: there is no device.
        let (bytes, outcome) = unsafe { self.0.map(tile, Prot::READ) };
        if outcome.is_err() {
            check!(bytes == 0);
            return Ok(false);
        }
        check!(bytes == tile.len());
        // Every page of it leads where it should, as long as it is mapped here.
        let granule = granule(&self.0)?;
        for offset in (0..tile.len()).step_by(granule as usize) {
            let at = tile.iova.checked_add(offset).ok_or(EINVAL)?;
            let there = self.0.read(at).map(|entry| entry.phys.get());
            check!(there == Some(tile.phys.get() + offset));
        }
        let mut gather = pin!(Gather::default());
        // SAFETY: it was mapped by this call.
        check!(unsafe { self.0.unmap(tile, gather.as_mut()) } == tile.len());
        self.0.flush(gather);
        Ok(true)
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // SAFETY: nothing uses it any more: a `RawDomain` does nothing when it is dropped.
        unsafe { bindings::iommu_domain_free(self.0.as_ptr()) };
    }
}

/// `count` pages of `size` at a gigabyte, which lead to frames of `small` from `frame` on.
fn tile(small: PageSize, size: PageSize, frame: u64, count: u64) -> Result<Tile> {
    let mut builder = SglBuilder::new_in(small, Kmalloc::new(GFP_KERNEL))?;
    let count = count << (size.shift() - small.shift());
    builder.push_run(PageRun::new(Pfn::new(frame), count, MemoryKind::Ram)?)?;
    let list = builder.finish()?;
    let mut tiles = list.whole()?.tiles(size.into(), Iova::new(1 << 30))?;
    tiles.next().ok_or(EIO)
}

/// Threads map small pages and a large one at the same addresses, read them, and unmap them: a mapping
/// stays whole until it is unmapped by the thread that made it. The large one frees the table of the small.
pub(crate) fn same_addresses(device: *mut bindings::device) -> Result {
    let table = Arc::new(Table::new(device)?, GFP_KERNEL)?;
    let done = Arc::new(Atomic::new(0u64), GFP_KERNEL)?;
    let seen = Arc::new(Atomic::new(0u64), GFP_KERNEL)?;
    let mut threads = KVec::new();
    let mut sizes = table.0.page_sizes().sizes();
    let (small, large) = (sizes.next().ok_or(EIO)?, sizes.next().ok_or(EIO)?);
    for (size, frame, count) in [(small, 0x400, 64), (small, 0x1000, 64), (large, 0x2000, 1)] {
        let (table, tile) = (table.clone(), tile(small, size, frame, count)?);
        let (done, broken) = (done.clone(), seen.clone());
        let thread = Thread::start(move || {
            let (mut mapped, mut tries) = (0, 0);
            while mapped < ROUNDS && tries < 1_000_000 {
                match table.map_and_unmap(tile) {
                    Ok(was_free) => mapped += u64::from(was_free),
                    Err(_) => {
                        broken.fetch_add(1, Relaxed);
                        break;
                    }
                }
                tries += 1;
            }
            done.fetch_add(mapped, Relaxed);
        })?;
        threads.push(thread, GFP_KERNEL)?;
    }
    threads.into_iter().for_each(Thread::join);
    let (done, broken) = (done.load(Relaxed), seen.load(Relaxed));
    pr_info!("races: {} mappings, {} broken\n", done, broken);
    check!(broken == 0 && done == 3 * ROUNDS);
    check!(table.0.read(Iova::new(1 << 30)).is_none());
    Ok(())
}
