// SPDX-License-Identifier: MIT OR Apache-2.0
//! Building a list and a scatterlist from the same array of pages, in batches of 512, as a driver does
//! that pins them, and looking bytes up; and where there is an IOMMU, its calls through a `RawDomain` and
//! by C. The fastest of several rounds of each, in turn.

use core::{pin::pin, ptr::NonNull, slice};
use kernel::bindings::{self, iommu_domain, page};
use kernel::prelude::*;
use pinned_sgl::{
    iommu::{Domain, Prot, ReadDomain},
    kernel::{Gather, Kmalloc, RawDomain},
    Iova, MemoryKind, PageSize, Pfn, PhysAddr, Sgl, SglBuilder,
};

#[allow(improper_ctypes, reason = "struct page as bindgen sees it, which has members of no size")]
extern "C" {
    fn bench_fill(shape: u32, count: usize) -> *mut *mut page;
    fn bench_free();
    fn bench_scatterlist(nanoseconds: *mut u64, entries: *mut u64, bytes: *mut u64) -> i32;
    fn bench_scatterlist_lookup(lookups: usize, nanoseconds: *mut u64, sum: *mut u64) -> i32;
    fn bench_offset(lookup: usize) -> u64;
    fn bench_now() -> u64;
    fn bench_domain() -> *mut iommu_domain;
    fn bench_calls(domain: *mut iommu_domain, iova: u64, calls: usize, ns: *mut [u64; 3]) -> i32;
}

const ROUNDS: usize = 15;
const PAGES: usize = 65536;
const BATCH: usize = 512;
const LOOKUPS: usize = 1000;
/// Pages that are mapped one by one, from here on.
const CALLS: usize = 4096;
const CALLS_AT: u64 = 1 << 30;

fn now() -> u64 {
    // SAFETY: it has no arguments.
    unsafe { bench_now() }
}

fn build(pages: &[*mut page]) -> Result<Sgl<Kmalloc>> {
    let mut builder = SglBuilder::new_in(PageSize::SIZE_4K, Kmalloc::new(GFP_KERNEL))?;
    for batch in pages.chunks(BATCH) {
        // SAFETY: the array has pointers to page structures.
        unsafe { builder.push_page_structs(batch)? };
    }
    Ok(builder.finish()?)
}

/// Nanoseconds, runs, bytes.
fn list(pages: &[*mut page]) -> Result<(u64, u64, u64)> {
    let start = now();
    let list = build(pages)?;
    let nanoseconds = now() - start;
    Ok((nanoseconds, list.run_count(), list.footprint() as u64))
}

fn scatterlist() -> Result<(u64, u64, u64)> {
    let (mut nanoseconds, mut entries, mut bytes) = (0, 0, 0);
    // SAFETY: the array is there; the pointers are to locals.
    let error = unsafe { bench_scatterlist(&mut nanoseconds, &mut entries, &mut bytes) };
    kernel::error::to_result(error)?;
    Ok((nanoseconds, entries, bytes))
}

/// Nanoseconds of so many lookups in the list, and in the scatterlist; they find the same addresses.
fn lookups(pages: &[*mut page]) -> Result<(u64, u64)> {
    let list = build(pages)?;
    let window = list.whole()?;
    let (mut ours, mut theirs) = (u64::MAX, u64::MAX);
    for _ in 0..ROUNDS {
        let (mut sum, mut expected, mut nanoseconds) = (0u64, 0, 0);
        let start = now();
        for lookup in 0..LOOKUPS {
            // SAFETY: arithmetic.
            let offset = unsafe { bench_offset(lookup) };
            sum = sum.wrapping_add(window.phys(offset).ok_or(EIO)?.get());
        }
        ours = ours.min(now() - start);
        // SAFETY: the array is there; the pointers are to locals.
        let error = unsafe { bench_scatterlist_lookup(LOOKUPS, &mut nanoseconds, &mut expected) };
        kernel::error::to_result(error)?;
        theirs = theirs.min(nanoseconds);
        if sum != expected {
            return Err(EIO);
        }
    }
    Ok((ours, theirs))
}

fn compare(shape: u32, count: usize, name: &str) -> Result {
    // SAFETY: nothing else uses the array.
    let pages = unsafe { bench_fill(shape, count) };
    let (mut ours, mut theirs) = ((u64::MAX, 0, 0), (u64::MAX, 0, 0));
    if pages.is_null() {
        return Err(ENOMEM);
    }
    // SAFETY: there are so many, until the array is filled anew, which is at the next call.
    let pages = unsafe { slice::from_raw_parts(pages, count) };
    for _ in 0..ROUNDS {
        ours = ours.min(list(pages)?);
        theirs = theirs.min(scatterlist()?);
    }
    let per_page = |ns: u64| (ns * 100 / count as u64 / 100, ns * 100 / count as u64 % 100);
    let ((a, b), (c, d)) = (per_page(ours.0), per_page(theirs.0));
    pr_info!(
        "build, {}: list {}.{:02} ns/page, {} runs, {} bytes; scatterlist {}.{:02} ns/page, {} entries, {} bytes\n",
        name, a, b, ours.1, ours.2, c, d, theirs.1, theirs.2
    );
    let (ours, theirs) = lookups(pages)?;
    pr_info!(
        "lookup, {}: list {} ns, scatterlist {} ns\n",
        name,
        ours / LOOKUPS as u64,
        theirs / LOOKUPS as u64
    );
    Ok(())
}

/// Nanoseconds of so many calls through a `RawDomain`: to map, to read, to unmap.
fn calls(domain: &RawDomain) -> Result<[u64; 3]> {
    let mut builder = SglBuilder::new_in(PageSize::SIZE_4K, Kmalloc::new(GFP_KERNEL))?;
    builder.push_page(Pfn::new(1), MemoryKind::Ram)?;
    let list = builder.finish()?;
    let tile = list.whole()?.tiles(PageSize::SIZE_4K.into(), Iova::new(CALLS_AT))?.next();
    let page = tile.ok_or(EINVAL)?;
    let at = |call: usize| {
        let mut tile = page;
        tile.iova = Iova::new(CALLS_AT + ((call as u64) << 12));
        tile.phys = PhysAddr::new(((call as u64) << 13) + (64 << 20));
        tile
    };
    let start = now();
    for call in 0..CALLS {
        // SAFETY: no device is in the domain.
        unsafe { domain.map(at(call), Prot::READ) }.1?;
    }
    let mapped = now();
    let mut wrong = 0;
    for call in 0..CALLS {
        let there = domain.read(at(call).iova);
        wrong |= there.map_or(1, |there| there.phys.get() ^ at(call).phys.get());
    }
    let read = now();
    let mut gather = pin!(Gather::default());
    for call in 0..CALLS {
        // SAFETY: it was mapped above.
        wrong |= unsafe { domain.unmap(at(call), gather.as_mut()) } ^ 4096;
    }
    domain.flush(gather);
    let unmapped = now();
    if wrong != 0 {
        return Err(EIO);
    }
    Ok([mapped - start, read - mapped, unmapped - read])
}

fn compare_calls() -> Result {
    // SAFETY: it has no arguments.
    let Some(raw) = NonNull::new(unsafe { bench_domain() }) else {
        pr_info!("calls: there is no IOMMU\n");
        return Ok(());
    };
    // SAFETY: it is a paging domain without devices, and is freed below; what uses it beside the
    // `RawDomain` does so in this thread, in turn.
    let domain = unsafe { RawDomain::new(raw, GFP_KERNEL) };
    let done = domain.and_then(|domain| {
        let (mut ours, mut theirs) = ([u64::MAX; 3], [u64::MAX; 3]);
        for _ in 0..ROUNDS {
            let (mut ns, both) = ([0; 3], calls(&domain)?);
            // SAFETY: the domain is there, and nothing is mapped; the pointer is to a local.
            let error = unsafe { bench_calls(raw.as_ptr(), CALLS_AT, CALLS, &mut ns) };
            kernel::error::to_result(error)?;
            for kind in 0..3 {
                ours[kind] = ours[kind].min(both[kind]);
                theirs[kind] = theirs[kind].min(ns[kind]);
            }
        }
        for (name, kind) in [("map", 0), ("read", 1), ("unmap", 2)] {
            pr_info!(
                "calls, {}: {} ns, by C {} ns\n",
                name,
                ours[kind] / CALLS as u64,
                theirs[kind] / CALLS as u64
            );
        }
        Ok(())
    });
    // SAFETY: it is ours, and nothing uses it any more.
    unsafe { bindings::iommu_domain_free(raw.as_ptr()) };
    done
}

struct Bench;

impl kernel::Module for Bench {
    fn init(_: &'static ThisModule) -> Result<Self> {
        let done = compare(0, PAGES, "contiguous")
            .and_then(|()| compare(1, PAGES, "runs of 512"))
            .and_then(|()| compare(1, 64 * PAGES, "many runs of 512"))
            .and_then(|()| compare(2, PAGES, "every page a run"))
            .and_then(|()| compare_calls());
        // SAFETY: nothing uses the array any more.
        unsafe { bench_free() };
        done.map(|()| Self)
    }
}

module! {
    type: Bench,
    name: "bench",
    authors: ["The authors of pinned-sgl"],
    description: "Building lists of pages",
    license: "Dual MIT/GPL",
}
