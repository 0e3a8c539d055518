// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`PinnedPages`]: pages that `pin_user_pages()` has pinned, on their way to a batch.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)

use super::foundation::gup;
use super::{kernel, page_structs::page_run};
use crate::addr::UserAddr;
use crate::exact::Exact as _;
use crate::sgl::{MemoryKind, PageRun};
use crate::umem::{PinBatch, PinFlags};
use core::fmt;
use kernel::{
    bindings::{self, FOLL_FORCE, FOLL_LONGTERM, FOLL_NOFAULT, FOLL_WRITE},
    error::{code, Result},
    ffi::c_uint,
    mm::Mm,
};

/// Pages behind the first of a run that are looked at by one call of C.
const SINGLES: usize = 32;

/// The flags of GUP.
fn gup_flags(flags: PinFlags) -> c_uint {
    let each = [
        (PinFlags::WRITE, FOLL_WRITE),
        (PinFlags::LONGTERM, FOLL_LONGTERM),
        (PinFlags::FORCE, FOLL_FORCE),
        (PinFlags::NOFAULT, FOLL_NOFAULT),
    ];
    let asked = each.iter().filter(|(flag, _)| flags.contains_all(*flag));
    asked.fold(0, |bits, (_, bit)| bits | bit)
}

/// Pages that `pin_user_pages()` or one of its sisters has pinned, for a [`Pinner`](crate::umem::Pinner) to give to a
/// batch. Dropping it unpins those that no batch has taken.
pub struct PinnedPages<'a>(gup::PinnedPages<'a>);

impl<'a> PinnedPages<'a> {
    /// Pins pages of `mm` from `start` on: as many as `pages` has room for at most, at least one. May sleep.
    ///
    /// # Errors
    ///
    /// That of GUP; `ESRCH` if it is another process, which has exited; `EINTR` if the calling thread is killed;
    /// `EOPNOTSUPP` for memory of devices on the PCI bus.
    pub fn pin(
        mm: &Mm,
        start: UserAddr,
        flags: PinFlags,
        pages: &'a mut [*mut bindings::page],
    ) -> Result<Self> {
        if flags.contains_all(PinFlags::PCI_P2PDMA) {
            return Err(code::EOPNOTSUPP);
        }
        let start = usize::try_from(start.get()).map_err(|_| code::EFAULT)?;
        gup::PinnedPages::pin(mm, start, gup_flags(flags), pages).map(Self)
    }

    /// Takes them over.
    ///
    /// # Safety
    ///
    /// Each of `pages` points to the structure of a page that was pinned once, and is taken over
    /// with its pin.
    #[must_use]
    pub const unsafe fn new(pages: &'a mut [*mut bindings::page]) -> Self {
        // SAFETY: "each of `pages` points to the structure of a page that was pinned once, and is taken over with its
        // pin": as the caller promises.
        Self(unsafe { gup::PinnedPages::new(pages) })
    }

    /// How many are left.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether a batch has taken all of them.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Gives them to a batch, as long as it takes them; returns in how many runs. O(pages).
    ///
    /// # Safety
    ///
    /// They are what the contract of [`Pinner`](crate::umem::Pinner) says: those of the user pages from
    /// [`next`](PinBatch::next) on, in order.
    pub unsafe fn give(&mut self, batch: &mut PinBatch<'_>) -> usize {
        // SAFETY: that of this function, as the caller promises, in both.
        unsafe {
            match self.len() {
                // The most regions are of one page. No room for more is made and cleared then.
                1 => self.give_by(batch, &mut []),
                _ => self.give_by(batch, &mut [0; SINGLES]),
            }
        }
    }

    /// [`give`](Self::give), which takes as many single pages at a time as `frames` has room for.
    ///
    /// # Safety
    ///
    /// That of `give`.
    unsafe fn give_by(&mut self, batch: &mut PinBatch<'_>, frames: &mut [u64]) -> usize {
        let mut runs = 0usize;
        while let Some((run, mut count)) = self.first_run() {
            // SAFETY: "the frames of these user pages, of the kind that they are, each with a pin that
            // belongs to the batch from now on": each has a pin, and is forgotten below; its kind was read of its
            // structure; whose pages they are, and that they come in order, the caller promises.
            if unsafe { batch.push(run) }.is_err() {
                break;
            }
            runs = runs.plus(1);
            if run.kind() == MemoryKind::Ram && count == 1 {
                let found = self.0.singles(frames);
                // SAFETY: as of the run, for those behind it.
                let more = unsafe { batch.push_singles(frames.get(..found).unwrap_or_default()) };
                runs = runs.plus(more);
                count = count.plus(more);
            }
            self.0.forget(count);
        }
        runs
    }

    /// Takes the first pages that continue each other: their pins are the caller's then.
    #[must_use = "the pins of the run are the caller's"]
    pub fn take_run(&mut self) -> Option<PageRun> {
        let (run, count) = self.first_run()?;
        self.0.forget(count);
        Some(run)
    }

    /// The first pages that continue each other, and how many there are.
    fn first_run(&self) -> Option<(PageRun, usize)> {
        self.0.first_run().map(|run| (page_run(run), run.count))
    }

    /// Unpins the pages of a run, for [`Pinner::unpin`](crate::umem::Pinner::unpin): `unpin_user_page_range_dirty_lock()`. May
    /// sleep.
    ///
    /// # Safety
    ///
    /// Each of them has a pin of the caller's that nothing relies on any more.
    pub unsafe fn unpin(run: PageRun, dirty: bool) {
        // SAFETY: "each of them has a pin of the caller's that nothing relies on any more": as the caller promises.
        unsafe { gup::unpin_run(run.start().get(), run.count(), dirty) };
    }
}

impl fmt::Debug for PinnedPages<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedPages").field("len", &self.len()).finish_non_exhaustive()
    }
}
