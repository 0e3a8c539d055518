// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`One`]: pages that lie side by side, kept as the only entry of their table.

use crate::{
    abi::IbUmem,
    ffi,
    registration::{Memory, Pinned},
};
use core::{mem, ptr::NonNull};
use kernel::{
    bindings::{mm_struct, scatterlist, sg_append_table},
    mm::Mm,
    prelude::*,
    sync::aref::ARef,
    types::Opaque,
};
use pinned_sgl::{
    kernel::PinnedPages,
    sgl::MemoryKind,
    umem::{Accountant as _, Location, PageAccess as _},
    PageRun, Pfn, PhysAddr,
};

/// # Invariants
///
/// The entry has whole pages. Each of them has a pin that is ours, and is charged; a reference of the address space that
/// has pinned them is ours.
#[repr(C)]
pub(crate) struct One {
    entry: Opaque<scatterlist>,
}

// SAFETY: an entry is memory, which any thread may read.
unsafe impl Send for One {}

impl One {
    /// Takes a region over that is one run, of fewer bytes than an entry counts; or gives it back.
    #[expect(clippy::result_large_err, reason = "the region comes back as it was")]
    pub(crate) fn new(pinned: Pinned) -> Result<Self, Pinned> {
        let (owner, charge, run) = pinned.into_run()?;
        let entry = Opaque::zeroed();
        // SAFETY: there is room for it, and these pages are there.
        unsafe { ffi::ib_umem_entry(entry.get(), run.start().get(), run.count()) };
        // One reference is kept: that in the charge, which is given back by `let_go`.
        drop(owner);
        mem::forget(charge);
        // INVARIANT: these were the pins, the charge and the holder of the region.
        Ok(Self { entry })
    }

    fn pages(&self) -> Option<PageRun> {
        let mut count = 0;
        // SAFETY: by the invariant it is an entry.
        let pfn = unsafe { ffi::ib_umem_entry_pages(self.entry.get(), &mut count) };
        PageRun::new(Pfn::new(pfn), count, MemoryKind::Ram).ok()
    }
}

impl Memory for One {
    unsafe fn map_list(&mut self, _: &mut IbUmem) -> bool {
        // The one entry is its table.
        false
    }

    fn make_table(&mut self, to: &mut sg_append_table, _: u32) -> Result {
        let entry = self.entry.get();
        (to.sgt.sgl, to.prv) = (entry, entry);
        (to.sgt.nents, to.sgt.orig_nents, to.total_nents) = (1, 1, 1);
        Ok(())
    }

    fn phys(&self, offset: u64) -> Option<u64> {
        Some(self.run(offset)?.0)
    }

    fn run(&self, offset: u64) -> Option<(u64, u64)> {
        let mut len = 0;
        // SAFETY: by the invariant it is an entry.
        let first = unsafe { ffi::ib_umem_entry_phys(self.entry.get(), &mut len) };
        let left = len.checked_sub(offset).filter(|left| *left > 0)?;
        Some((first.wrapping_add(offset), left))
    }

    fn dma_run(&self, _: u64) -> Option<(u64, u64)> {
        None
    }

    unsafe fn read(&self, mm: *mut mm_struct, offset: u64, to: &mut [u8]) -> Result {
        if to.is_empty() {
            return Ok(());
        }
        let (phys, left) = self.run(offset).ok_or(EINVAL)?;
        if to.len() as u64 > left {
            return Err(EINVAL);
        }
        let from = Location::new(PhysAddr::new(phys), MemoryKind::Ram, None);
        // SAFETY: "`ptr` points at an `mm_struct` that is not deallocated": it is held, as the caller promises; "the
        // bytes are those of pages that this pinner has pinned, and stay pinned": by the invariant, as `self` is
        // borrowed, and all of them lie in the entry.
        unsafe { Mm::from_raw(mm).read(from, to) }
    }

    unsafe fn let_go(&mut self, umem: &mut IbUmem, dirty: bool) {
        let (Some(run), Some(mm)) = (self.pages(), NonNull::new(umem.mm)) else {
            return;
        };
        // SAFETY: "each of them has a pin of the caller's that nothing relies on any more": by the invariant, and as the
        // caller promises, of whom this is the last call.
        unsafe { PinnedPages::unpin(run, dirty) };
        // SAFETY: "the caller has an increment on the refcount, and relinquishes it": by the invariant.
        let mm = unsafe { ARef::<Mm>::from_raw(mm.cast()) };
        mm.uncharge(run.count());
    }
}
