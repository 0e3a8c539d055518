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

// SAFETY: "may be sent to another thread": an entry is memory, which belongs to no thread; pins, charge and reference are
// given back by whichever thread is the last.
unsafe impl Send for One {}

impl One {
    /// Takes a region over that is one run, of fewer bytes than an entry counts; or gives it back.
    #[expect(clippy::result_large_err, reason = "the region comes back as it was")]
    pub(crate) fn new(pinned: Pinned) -> Result<Self, Pinned> {
        let (owner, charge, run) = pinned.into_run()?;
        let entry = Opaque::zeroed();
        // SAFETY: "pointers are to what their types say, which is there": the entry is a local; and its pages are there, as
        // they are pinned. "Nothing else changes meanwhile": nothing else has it yet.
        unsafe { ffi::ib_umem_entry(entry.get(), run.start().get(), run.count()) };
        // One reference is kept: that in the charge, which is given back by `let_go`.
        drop(owner);
        mem::forget(charge);
        // INVARIANT: these were the pins, the charge and the holder of the region.
        Ok(Self { entry })
    }

    fn pages(&self) -> Option<PageRun> {
        let mut count = 0;
        // SAFETY: "pointers are to what their types say, which is there": the entry, by the invariant; the count, a local.
        // "Nothing else changes meanwhile": pages and length are written when it is made.
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
        // SAFETY: as in `pages`, preconditions and what keeps them.
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
        // SAFETY:
        // - "`ptr` points at an `mm_struct`, and it is not deallocated during the lifetime": it is held, as the caller
        //   promises, and the lifetime ends here;
        // - "the bytes are those of pages that this pinner has pinned": it has, as the caller promises, and all of them lie
        //   in the entry;
        // - "at the user address that the location has": it has none;
        // - "and stay pinned as long as the call takes": by the invariant, as `self` is borrowed.
        unsafe { Mm::from_raw(mm).read(from, to) }
    }

    unsafe fn let_go(&mut self, umem: &mut IbUmem, dirty: bool) {
        let (Some(run), Some(mm)) = (self.pages(), NonNull::new(umem.mm)) else {
            return;
        };
        // SAFETY: "each of them has a pin of the caller's": by the invariant; "that nothing relies on any more": this is the
        // last call, and no device reaches them, as the caller promises.
        unsafe { PinnedPages::unpin(run, dirty) };
        // SAFETY: "the reference count was incremented at least once, and callers are properly relinquishing one increment":
        // by the invariant it is ours, of the address space that has pinned them, which is that of the `struct ib_umem`;
        // and this is the last call, as the caller promises.
        let mm = unsafe { ARef::<Mm>::from_raw(mm.cast()) };
        mm.uncharge(run.count());
    }
}
