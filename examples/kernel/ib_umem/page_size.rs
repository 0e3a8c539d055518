// SPDX-License-Identifier: MIT OR Apache-2.0
//! The best page size of a registration: over the addresses that the device sees.

use crate::{abi::IbUmem, ffi, registration, request::PAGE};
use core::iter;
use pinned_sgl::{Iova, PageSize, PageSizes, PhysAddr};

/// The largest of `sizes` in which a device can translate the registration, which it shows at `iova`; 0 if there is
/// none.
///
/// # Safety
///
/// `umem` was returned by [`register`](registration::register), or made by the kernel's C, and is not released meanwhile.
/// Nothing else writes its `iova` meanwhile.
pub(crate) unsafe fn best(umem: *mut IbUmem, sizes: PageSizes, iova: u64) -> u64 {
    // SAFETY: "valid for writes", "valid for reads, initialised": it is a `struct ib_umem` that is there, as the caller
    // promises; "no data race": of its members, `iova` alone is written later, and by nothing else meanwhile.
    let (length, address, entries) = unsafe {
        (*umem).iova = iova;
        let entries = &raw const (*umem).entries.sgt;
        ((*umem).length as u64, (*umem).address, entries)
    };
    // As C has it, no bytes at zero are all addresses, and none anywhere else.
    let length = if length == 0 && iova == 0 { u64::MAX } else { length };
    // SAFETY: "pointers are to what their types say, which is there": as the caller promises; "nothing else changes
    // meanwhile": what it is was written when it was made.
    let demand = unsafe { ffi::ib_umem_demand_page(umem) };
    if let Some(page) = PageSize::new(demand as u64) {
        return if sizes.has(page) { demand as u64 } else { 0 };
    }
    // SAFETY: "valid for reads, initialised", "no data race": as above; the table is written before a driver has it.
    let (mut at, mut left) = unsafe { ((*entries).sgl, (*entries).nents) };
    let has_table = left > 0;
    let mut listed = 0usize;
    let entries = iter::from_fn(|| {
        let mut len = 0;
        if has_table {
            left = left.checked_sub(1)?;
            // SAFETY: "pointers are to what their types say, which is there": the entry, of a table that is there as long as
            // the registration; the length, a local. "Nothing else changes meanwhile": tables do not. "There is one more
            // entry": by the count, which that of the device is, as a driver has what is mapped.
            let dma = unsafe { ffi::ib_umem_dma_entry(&mut at, &mut len) };
            return Some((dma, len));
        }
        // SAFETY: "`umem` was returned by `register`, or made by the kernel's C, and is not released meanwhile": as the
        // caller promises.
        let (dma, len) = unsafe { registration::dma_run(umem, listed) }?;
        listed = listed.wrapping_add(len as usize);
        Some((dma, len))
    });
    // The first byte of the registration is not the first one of the page that the first entry begins with.
    let mut before = if has_table { (address & PAGE.wrapping_sub(1)) as u64 } else { 0 };
    // Entries that continue each other are one.
    let mut next = None;
    let mut entries = entries.fuse();
    let mut runs = iter::from_fn(|| {
        let (start, mut len) = next.take().or_else(|| entries.next())?;
        for (dma, more) in entries.by_ref() {
            if u64::wrapping_add(start, len) != dma {
                next = Some((dma, more));
                break;
            }
            len = len.wrapping_add(more);
        }
        let skip = core::mem::take(&mut before);
        Some((PhysAddr::new(start.wrapping_add(skip)), len.wrapping_sub(skip)))
    });
    let find = |sizes: PageSizes, runs: &mut dyn Iterator<Item = _>| {
        sizes.best_for(runs, Iova::new(iova), length).ok().flatten()
    };
    let best = if length == 1 {
        // As C has it, a block for a single byte has two, if that is possible.
        let run = runs.next();
        let larger = PageSize::from_shift(1)
            .map(|two| sizes.at_least(two))
            .and_then(|sizes| find(sizes, &mut run.into_iter()));
        larger.or_else(|| find(sizes, &mut run.into_iter()))
    } else {
        find(sizes, &mut runs)
    };
    best.map_or(0, PageSize::bytes)
}
