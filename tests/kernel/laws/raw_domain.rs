// SPDX-License-Identifier: MIT OR Apache-2.0
//! `RawDomain` over a domain without hardware that takes its time: whatever several threads ask for at
//! once, nothing is replaced, and no table is read that was freed.

use crate::thread::Thread;
use core::{pin::pin, ptr::NonNull};
use kernel::{
    bindings::iommu_domain,
    page,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc,
    },
};
use pinned_sgl::{
    iommu::{Domain, Prot, ReadDomain},
    kernel::{Gather, Kmalloc, RawDomain},
    Iova, MemoryKind, PageSize, Pfn, SglBuilder, Tile,
};

#[allow(improper_ctypes, reason = "a C struct as bindgen sees it, which has members of no size")]
extern "C" {
    fn laws_domain_new(refuses: bool) -> *mut iommu_domain;
    fn laws_domain_free(domain: *mut iommu_domain);
    fn laws_domain_faults(domain: *mut iommu_domain) -> u64;
    fn laws_domain_prots(domain: *mut iommu_domain) -> u32;
}

/// The pages of this kernel.
pub(crate) const PAGE: PageSize = PageSize::new(page::PAGE_SIZE as u64).unwrap();

struct Slow(RawDomain);

impl Slow {
    fn new(refuses: bool) -> Result<Self> {
        // SAFETY: it takes any.
        let raw = NonNull::new(unsafe { laws_domain_new(refuses) }).ok_or(ENOMEM)?;
        // SAFETY: it is a paging domain that nothing else knows, with no devices; `drop` frees it last.
        Ok(Self(unsafe { RawDomain::new(raw, GFP_KERNEL) }?))
    }

    fn faults(&self) -> u64 {
        // SAFETY: the domain is there as long as `self`.
        unsafe { laws_domain_faults(self.0.as_ptr()) }
    }

    fn map(&self, tile: Tile, prot: Prot) -> Result {
        // SAFETY: there is no device.
        match unsafe { self.0.map(tile, prot) } {
            (bytes, Ok(())) if bytes == tile.len() => Ok(()),
            (0, Err(error)) => Err(error),
            _ => Err(ERANGE),
        }
    }

    /// Unmaps what this thread has mapped.
    fn unmap(&self, tile: Tile) -> Result {
        let mut gather = pin!(Gather::default());
        // SAFETY: the callers have mapped it, whole.
        check!(unsafe { self.0.unmap(tile, gather.as_mut()) } == tile.len());
        self.0.flush(gather);
        Ok(())
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        // SAFETY: nothing uses it any more: a `RawDomain` does nothing when it is dropped.
        unsafe { laws_domain_free(self.0.as_ptr()) };
    }
}

/// Where a page is, for the device.
fn at(page: u64) -> Iova {
    Iova::new(page << PAGE.shift())
}

/// So many pages at `page`, which lead to the frames from `frame` on.
fn tile(page: u64, frame: u64, count: u64) -> Result<Tile> {
    let mut builder = SglBuilder::new_in(PAGE, Kmalloc::new(GFP_KERNEL))?;
    for more in 0..count {
        builder.push_page(Pfn::new(frame + more), MemoryKind::Ram)?;
    }
    let list = builder.finish()?;
    let mut tiles = list.whole()?.tiles(PAGE.into(), at(page))?;
    tiles.next().ok_or(EIO)
}

/// Of several threads that map at one address, one gets it, and the others change nothing.
pub(crate) fn one_of_many_maps(refuses: bool) -> Result {
    const THREADS: u64 = 4;
    let domain = Arc::new(Slow::new(refuses)?, GFP_KERNEL)?;
    let winner = Arc::new(Atomic::new(0u64), GFP_KERNEL)?;
    for round in 0..5 {
        let mut threads = KVec::new();
        winner.store(0, Relaxed);
        for thread in 1..=THREADS {
            let (domain, winner) = (domain.clone(), winner.clone());
            // From the same page, or from the one before.
            let tile = tile(8 - thread % 2, thread << 8, 2)?;
            let thread = Thread::start(move || {
                if domain.map(tile, Prot::READ).is_ok() {
                    winner.fetch_add(thread, Relaxed);
                    winner.fetch_add(1 << 32, Relaxed);
                }
            })?;
            threads.push(thread, GFP_KERNEL)?;
        }
        threads.into_iter().for_each(Thread::join);
        let (won, thread) = (winner.load(Relaxed) >> 32, winner.load(Relaxed) & 0xffff_ffff);
        if won != 1 || domain.faults() != 0 {
            pr_err!("round {}: {} threads have mapped; {} faults\n", round, won, domain.faults());
            return Err(EIO);
        }
        let there = domain.0.read(at(8)).ok_or(EIO)?;
        let won = tile(8 - thread % 2, thread << 8, 2)?;
        check!(there.phys.get() == won.phys.get() + ((thread % 2) << PAGE.shift()));
        domain.unmap(won)?;
        check!(domain.0.read(at(8)).is_none());
    }
    check!(domain.faults() == 0);
    Ok(())
}

/// A reader beside others that map and unmap finds what is mapped, or nothing, and no freed table.
pub(crate) fn reads_while_unmapping() -> Result {
    let domain = Arc::new(Slow::new(true)?, GFP_KERNEL)?;
    let (stop, wrong) =
        (Arc::new(Atomic::new(0u64), GFP_KERNEL)?, Arc::new(Atomic::new(0u64), GFP_KERNEL)?);
    let mut threads = KVec::new();
    for page in [3, 4] {
        let (domain, stop, wrong) = (domain.clone(), stop.clone(), wrong.clone());
        let thread = Thread::start(move || {
            while stop.load(Relaxed) == 0 {
                let there = domain.0.read(at(page));
                let right = (0x700 + page - 3) << PAGE.shift();
                wrong.fetch_add(there.is_some_and(|at| at.phys.get() != right).into(), Relaxed);
            }
        })?;
        threads.push(thread, GFP_KERNEL)?;
    }
    let mapped = tile(3, 0x700, 2)?;
    let outcome = (0..20).try_for_each(|_| {
        domain.map(mapped, Prot::READ)?;
        domain.unmap(mapped)
    });
    stop.store(1, Relaxed);
    threads.into_iter().for_each(Thread::join);
    outcome?;
    pr_info!("{} faults\n", domain.faults());
    check!(domain.faults() == 0 && wrong.load(Relaxed) == 0);
    Ok(())
}

/// Bits that are not of `Prot` do not reach the driver of an IOMMU.
pub(crate) fn unknown_bits_are_refused() -> Result {
    let domain = Slow::new(true)?;
    let page = tile(1, 0x100, 1)?;
    let unknown = Prot::READ | Prot::from_bits_retain(1 << 6);
    check!(domain.map(page, unknown) == Err(EINVAL));
    check!(domain.0.read(page.iova).is_none());
    domain.map(page, Prot::READ | Prot::NOEXEC)?;
    // SAFETY: the domain is there as long as `self`.
    check!(unsafe { laws_domain_prots(domain.0.as_ptr()) } == (Prot::READ | Prot::NOEXEC).bits());
    domain.unmap(page)
}
