// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`One`]: pages that lie side by side, kept as the only entry of their table.

use crate::{
    abi::IbUmem,
    ffi,
    registration::{Memory, Pinned},
    request::Request,
};
use core::{
    mem,
    ptr::{self, NonNull},
};
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
    umem::{Accountant as _, Charge, Location, PageAccess as _},
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
    /// Charges and pins a single page. A region has a list, and is large: it is not made for that.
    pub(crate) fn page(mm: &Mm, request: &Request) -> Result<Self> {
        let charge = Charge::new(ARef::<Mm>::from(mm), 1)?;
        let mut page = [ptr::null_mut()];
        let start = request.pages.start();
        let run = PinnedPages::pin(mm, start, request.flags(), &mut page)?.take_run().ok_or(EIO)?;
        // SAFETY: "each page of the run has a pin of the caller's, by the accountant of the charge": it was pinned by `mm`,
        // and taken; "is charged": just now; "an entry counts its bytes": those of a page.
        Ok(unsafe { Self::of(run, charge) })
    }

    /// Takes a region over that is one run, of fewer bytes than an entry counts; or gives it back.
    #[expect(clippy::result_large_err, reason = "the region comes back as it was")]
    pub(crate) fn new(pinned: Pinned) -> Result<Self, Pinned> {
        let (_, charge, run) = pinned.into_run()?;
        // SAFETY: "each page of the run has a pin of the caller's, by the accountant of the charge": `into_run` has handed
        // them over, and a region of this type is pinned and charged by the same `mm`; "is charged": by the charge of the
        // region; "an entry counts its bytes": as the caller has looked.
        Ok(unsafe { Self::of(run, charge) })
    }

    /// # Safety
    ///
    /// Each page of the run has a pin of the caller's, by the accountant of the charge, and is charged. An entry counts its
    /// bytes.
    unsafe fn of(run: PageRun, charge: Charge<ARef<Mm>>) -> Self {
        let entry = Opaque::zeroed();
        // SAFETY: "pointers are to what their types say, which is there": the entry is a local; and its pages are there, as
        // they are pinned. "Nothing else changes meanwhile": nothing else has it yet.
        unsafe { ffi::ib_umem_entry(entry.get(), run.start().get(), run.count()) };
        // Given back by `let_go`, and the reference in it.
        mem::forget(charge);
        // INVARIANT: the pins are the caller's, and the charge and its reference were, too.
        Self { entry }
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

    unsafe fn read(&self, mm: *mut mm_struct, offset: u64, to: &mut [u8]) -> Result {
        if to.is_empty() {
            return Ok(());
        }
        let mut len = 0;
        // SAFETY: as in `pages`, preconditions and what keeps them.
        let first = unsafe { ffi::ib_umem_entry_phys(self.entry.get(), &mut len) };
        if len.checked_sub(offset).is_none_or(|left| to.len() as u64 > left) {
            return Err(EINVAL);
        }
        let phys = PhysAddr::new(first.wrapping_add(offset));
        let from = Location::new(phys, MemoryKind::Ram, None);
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
