// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`MmPinner`], and an `Mm` itself: pin pages of a process through `pin_user_pages_fast()`, and copy to and
//! from them.
//!
//! C headers: [`include/linux/mm.h`](srctree/include/linux/mm.h),
//! [`include/linux/highmem.h`](srctree/include/linux/highmem.h)

use super::foundation::gup;
use super::{kernel, page_structs::PAGE_SIZE, pinned_pages::PinnedPages};
use crate::addr::UserAddr;
use crate::page_size::PageSize;
use crate::sgl::{MemoryKind, PageRun};
use crate::umem::{Location, PageAccess, PinBatch, Pinner, FEW};
use core::{fmt, ptr};
use kernel::{
    alloc::{Flags, KVec},
    bindings::page,
    error::{code, Error},
    mm::{Mm, MmWithUser},
    sync::aref::ARef,
};

/// Page pointers of one call of GUP: a page of memory.
const POINTERS: usize = 512;

/// Pins pages of one process. An `Mm` is a pinner, too, which allocates with `GFP_KERNEL`: an
/// `ARef<Mm>` holds itself, and nothing is allocated for it.
///
/// It holds the `mm_struct` (`mmgrab()`), not the address space: the process may exit, and what was
/// pinned stays pinned. Pinning more fails with `ESRCH` then.
///
/// Pinning may sleep, gives way to others, and ends with `EINTR` if the calling thread is killed.
/// Unpinning may sleep.
pub struct MmPinner {
    mm: ARef<Mm>,
    flags: Flags,
}

impl MmPinner {
    /// Pins pages of the process whose address space this is: for the current one,
    /// `current!().mm()`. What it needs while it pins, a page, is allocated with `flags`.
    #[must_use]
    pub fn new(mm: &MmWithUser, flags: Flags) -> Self {
        let mm: &Mm = mm;
        Self { mm: mm.into(), flags }
    }

    /// The address space.
    #[must_use]
    pub fn mm(&self) -> &Mm {
        &self.mm
    }
}

/// Pins pages of `mm` for a batch of its own or of a pinner that forwards to it; what it needs meanwhile is
/// allocated with `gfp`.
fn pin(mm: &Mm, gfp: Flags, batch: &mut PinBatch<'_>) -> Result<(), Error> {
    let mut few = [ptr::null_mut::<page>(); FEW as usize];
    let mut many = None::<KVec<_>>;
    // Whether the last pages came in long runs, so that more of them than slots will fit.
    let mut smooth = false;
    while batch.left() > 0 && batch.room() > 0 {
        let most = if smooth { POINTERS } else { POINTERS.min(batch.room()) };
        let most = usize::try_from(batch.left()).unwrap_or(usize::MAX).min(most);
        let pages = if most <= few.len() {
            few.get_mut(..most)
        } else {
            let many = many.get_or_insert_with(KVec::new);
            if many.len() < most {
                many.resize(most, ptr::null_mut(), gfp)?;
            }
            many.get_mut(..most)
        };
        let pages = pages.ok_or(code::EINVAL)?;
        let mut pinned = PinnedPages::pin(mm, batch.next(), batch.flags(), pages)?;
        // SAFETY: "they are what the contract of `Pinner` says: those of the user pages from `next`
        // on, in order": GUP was asked for those.
        let runs = unsafe { pinned.give(batch) };
        if !pinned.is_empty() {
            // No room: they are unpinned, and pinned again for the next batch.
            return Ok(());
        }
        smooth = runs.saturating_mul(8) <= most;
    }
    Ok(())
}

// SAFETY:
// - "each run that `pin` pushes .. are the frames of the next pages of the user range, in order, of the kind
//   that they are, and each of its pages carries one pin": GUP returns the pages in order, each with a pin,
//   and the kind is read of their structures; there are no pages without, which GUP does not pin;
// - "a pinned page keeps its frame, and the frame is used for nothing else, until it is unpinned as often as
//   it was pinned": that is what a pin is, whatever becomes of the process or of `self`;
// - "a page that was pinned with `WRITE` may be written by a device, one that was pinned with `LONGTERM` may
//   stay pinned for ever": that is what `FOLL_WRITE` and `FOLL_LONGTERM` mean;
// - "`page_size` never changes": it is a constant;
// - "runs of `Mmio` have no pins and are never unpinned": there are none;
// - "`pin` may unwind": it does not. A page whose pin no batch has taken is unpinned by `PinnedPages`.
unsafe impl Pinner for Mm {
    type Error = Error;

    fn page_size(&self) -> PageSize {
        PAGE_SIZE
    }

    fn pin(&self, batch: &mut PinBatch<'_>) -> Result<(), Error> {
        pin(self, kernel::alloc::flags::GFP_KERNEL, batch)
    }

    unsafe fn unpin(&self, _: UserAddr, run: PageRun, dirty: bool) {
        // SAFETY: "each of them has a pin of the caller's that nothing relies on any more": as the caller
        // promises, "its pin has not been taken back; nothing relies on this pin any more".
        unsafe { PinnedPages::unpin(run, dirty) };
    }

    fn leaked(&self, at: UserAddr, run: PageRun) {
        gup::report_leak(at.get(), run.start().get(), run.count());
    }
}

// SAFETY: what is promised of each page the `Mm` promises, as it pins and unpins all of them.
unsafe impl Pinner for MmPinner {
    type Error = Error;

    fn page_size(&self) -> PageSize {
        PAGE_SIZE
    }

    fn pin(&self, batch: &mut PinBatch<'_>) -> Result<(), Error> {
        pin(&self.mm, self.flags, batch)
    }

    unsafe fn unpin(&self, at: UserAddr, run: PageRun, dirty: bool) {
        // SAFETY: "pushed to a batch by `pin`, .. and its pin has not been taken back; nothing relies on this
        // pin any more": as the caller promises.
        unsafe { self.mm.unpin(at, run, dirty) };
    }

    fn leaked(&self, at: UserAddr, run: PageRun) {
        self.mm.leaked(at, run);
    }
}

impl PageAccess for Mm {
    type AccessError = Error;

    unsafe fn read(&self, from: Location, bytes: &mut [u8]) -> Result<(), Error> {
        if from.kind == MemoryKind::Mmio {
            return Err(code::EFAULT);
        }
        // SAFETY: "they have page structures, and are there as long as the call takes": "the bytes are those of pages
        // that this pinner has pinned .. and stay pinned as long as the call takes", as the caller promises.
        unsafe { gup::copy_from(from.phys.get(), bytes) };
        Ok(())
    }

    unsafe fn write(&self, to: Location, bytes: &[u8]) -> Result<(), Error> {
        if to.kind == MemoryKind::Mmio {
            return Err(code::EFAULT);
        }
        // SAFETY: "they have page structures, are there as long as the call takes, and may be written": "the bytes are
        // those of pages that this pinner has pinned, for writing, .. and stay pinned as long as the call takes", as
        // the caller promises.
        unsafe { gup::copy_to(to.phys.get(), bytes) };
        Ok(())
    }
}

impl PageAccess for MmPinner {
    type AccessError = Error;

    unsafe fn read(&self, from: Location, bytes: &mut [u8]) -> Result<(), Error> {
        // SAFETY: "the bytes are those of pages that this pinner has pinned": by the `Mm`, as the caller promises.
        unsafe { self.mm.read(from, bytes) }
    }

    unsafe fn write(&self, to: Location, bytes: &[u8]) -> Result<(), Error> {
        // SAFETY: "the bytes are those of pages that this pinner has pinned, for writing": by the `Mm`, as the
        // caller promises.
        unsafe { self.mm.write(to, bytes) }
    }
}

impl fmt::Debug for MmPinner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MmPinner").finish_non_exhaustive()
    }
}
